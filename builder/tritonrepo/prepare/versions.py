"""The opset that a model is written in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritonrepo.errors import ModelError
from tritonrepo.prepare.base import Change, Context
from tritonrepo.prepare.graph import opset

if TYPE_CHECKING:
    import onnx


def upgrade_opset(model: onnx.ModelProto, context: Context) -> tuple[onnx.ModelProto, tuple[Change, ...]]:
    """The model is converted to the opset that the spec asks for.

    Afterwards the default domain has that version.

    Raises:
        ModelError: the converter cannot do it, or the file is newer.
    """
    from onnx import version_converter

    wanted, has = context.spec.prepare.opset, opset(model)
    if wanted is None or wanted == has:
        return model, ()
    where = context.signature.path
    if wanted < has:
        raise ModelError(
            f"the model has opset {has}; prepare.opset asks for the older {wanted}",
            where=where,
            hint="Models are only brought to newer opsets. Export the model with the older one.",
        )
    weights = {weight.name: weight for weight in model.graph.initializer if weight.external_data}
    bare = _with_stand_ins(model)
    try:
        converted = version_converter.convert_version(bare, wanted)
    except Exception as error:  # the converter raises RuntimeError and others for what it does not know
        raise ModelError(
            f"the model cannot be brought from opset {has} to {wanted}: {' '.join(str(error).split())[:300]}",
            where=where,
            hint="Leave prepare.opset out, or export the model with that opset.",
        ) from None
    for weight in converted.graph.initializer:
        if weight.name in weights:
            weight.CopyFrom(weights[weight.name])
    shown = {value.name for value in converted.graph.input} - {tensor.name for tensor in context.signature.inputs}
    kept = [value for value in converted.graph.input if value.name not in shown]
    del converted.graph.input[:]
    converted.graph.input.extend(kept)
    what = f"opset {has} is opset {wanted} now"
    return converted, (Change("opset", what, "the spec asks for it"),)


def _with_stand_ins(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with an empty weight of the same type and shape for each that lies in a file: the converter, which
    reads a whole model, never looks at the values of large weights.
    """
    import onnx

    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for weight in bare.graph.initializer:
        if weight.external_data:
            weight.ClearField("external_data")
            weight.ClearField("data_location")
            weight.raw_data = b""
    return bare
