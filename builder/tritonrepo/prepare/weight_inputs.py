"""Weights that are listed among the graph's inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritonrepo.prepare.base import Change, Context

if TYPE_CHECKING:
    import onnx

#: Since this IR version an initializer need not be listed as an input.
_IR_WITH_CONSTANT_WEIGHTS = 4


def drop_weight_inputs(model: onnx.ModelProto, _: Context) -> tuple[onnx.ModelProto, tuple[Change, ...]]:
    """Old exporters list every weight as an input too, so that a caller may replace it. No caller through Triton can;
    and a runtime must not fold such weights into constants.

    Afterwards no graph input has the name of an initializer, and the IR version is 4 or later.
    """
    weights = {init.name for init in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in weights]
    count = len(model.graph.input) - len(kept)
    if not count:
        return model, ()
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.ir_version = max(model.ir_version, _IR_WITH_CONSTANT_WEIGHTS)
    what = (
        "1 weight is no longer listed as an input" if count == 1 else f"{count} weights are no longer listed as inputs"
    )
    return model, (
        Change("weight_inputs", what, "no caller can replace it, and a runtime may now take it as constant"),
    )
