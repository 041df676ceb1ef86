"""Weights that are listed among the graph's inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

#: Since this IR version an initializer need not be listed as an input.
_IR_WITH_CONSTANT_WEIGHTS = 4


def drop_weight_inputs(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
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
    return model, (f"{count} weights are no longer listed as inputs",)
