"""A case's model with a dynamic first axis, where its own first axis may be a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .case import Case

if TYPE_CHECKING:
    import onnx


def batched(case: Case) -> bytes | None:
    """The model with ``batch`` for the first axis of every input and output; None where they have no common one.

    Only the declared shapes are changed. Whether the graph still means the same for other sizes, and whether its rows
    are independent, is for the build to find out.
    """
    import onnx

    model = onnx.load_model_from_string(case.model)
    weights = {init.name for init in model.graph.initializer}
    values = [value for value in model.graph.input if value.name not in weights]
    if not values:
        return None
    values += model.graph.output
    sizes = {_first(value) for value in values}
    if len(sizes) != 1 or not sizes.pop():
        return None
    for value in values:
        value.type.tensor_type.shape.dim[0].Clear()
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return bytes(model.SerializeToString(deterministic=True))


def _first(value: onnx.ValueInfoProto) -> int | None:
    """The size of the first axis; None where there is none, or no number."""
    if value.type.WhichOneof("value") != "tensor_type" or not value.type.tensor_type.shape.dim:
        return None
    dim = value.type.tensor_type.shape.dim[0]
    return int(dim.dim_value) if dim.HasField("dim_value") else None
