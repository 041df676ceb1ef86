"""Inputs and outputs without an axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritonrepo.introspect import ANONYMOUS
from tritonrepo.prepare.base import CannotChange, Change, Context
from tritonrepo.prepare.graph import Names, add_initializer, is_standard, rename_reads

if TYPE_CHECKING:
    import onnx

#: Operators that take each element with the elements at its place, so that a value for each row is a column.
_BY_ELEMENT = frozenset((
    "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod",
    "Mul", "Or", "Pow", "Sub", "Sum", "Where", "Xor",
))  # fmt: skip


def give_scalars_an_axis(model: onnx.ModelProto, context: Context) -> tuple[onnx.ModelProto, tuple[Change, ...]]:
    """A scalar becomes a tensor of one element: Triton's backends have no shape for it. model.py of the python engine
    has, and leaves the graph as it is.

    Afterwards, for other engines, no input or output is a scalar; one that was has shape [1].
    """
    if context.engine == "python":
        return model, ()
    import numpy as np

    graph, names = model.graph, Names(model)
    scalars = [value.name for value in (*graph.input, *graph.output) if _is_scalar(value)]
    if not scalars:
        return model, ()
    before: list[onnx.NodeProto] = []
    after: list[onnx.NodeProto] = []
    no_axis = one_axis = None
    for value in graph.input:
        if _is_scalar(value):
            no_axis = no_axis or add_initializer(graph, np.array([], np.int64), names.new("no_axis"))
            inner = names.new(f"{value.name}_scalar")
            _read_instead(graph, value.name, inner)
            before.append(_reshape(value.name, no_axis, inner, names))
            value.type.tensor_type.shape.dim.add(dim_value=1)
    for value in graph.output:
        if _is_scalar(value):
            one_axis = one_axis or add_initializer(graph, np.array([1], np.int64), names.new("one_axis"))
            inner = names.new(f"{value.name}_scalar")
            _make_instead(graph, value.name, inner)
            after.append(_reshape(inner, one_axis, value.name, names))
            value.type.tensor_type.shape.dim.add(dim_value=1)
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    what = f"{', '.join(scalars)} {'is' if len(scalars) == 1 else 'are'} of shape [1] instead of a scalar"
    return model, (Change("scalars", what, f"Triton's {context.engine} backend has no shape for a scalar"),)


def give_scalars_the_batch(model: onnx.ModelProto, context: Context) -> tuple[onnx.ModelProto, tuple[Change, ...]]:
    """Where all else batches, a scalar input becomes one number for each row, so that every request brings its own.

    Done where it is read only by operators that work element by element, beside values whose number of axes is known.
    Afterwards such an input has the batch as its only axis.

    Raises:
        CannotChange: a scalar is read otherwise.
    """
    import numpy as np

    graph, names = model.graph, Names(model)
    scalars = [value for value in graph.input if _is_scalar(value)]
    batch = _batch_of_the_others(model)
    if not scalars or batch is None or context.spec.batching.max_batch_size == 0:
        return model, ()
    ranks = _ranks(model)
    made: list[onnx.NodeProto] = []
    for value in scalars:
        for node in graph.node:
            if value.name not in node.input:
                continue
            others = [ranks.get(name) for name in node.input if name != value.name]
            if not is_standard(node) or node.op_type not in _BY_ELEMENT or None in others or not others:
                called = f"{node.op_type} {node.name or node.output[0]}"
                raise CannotChange(f"input {value.name} is a scalar, which {called} cannot take for each row")
            rank = max(rank or 0 for rank in others)
            column = add_initializer(graph, np.array([-1, *[1] * (rank - 1)], np.int64), names.new("column"))
            inner = names.new(f"{value.name}_column")
            rename_reads(node, {value.name: inner})
            made.append(_reshape(value.name, column, inner, names))
        value.type.tensor_type.shape.dim.add(dim_param=batch)
    nodes = [*made, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    shown = ", ".join(value.name for value in scalars)
    why = "requests that are answered together may bring different ones; that rows are independent is proven"
    return model, (Change("scalars_batch", f"{shown}: one number for each row instead of a scalar", why),)


def _is_scalar(value: onnx.ValueInfoProto) -> bool:
    kind = value.type.tensor_type
    return value.type.HasField("tensor_type") and kind.HasField("shape") and not kind.shape.dim


def _batch_of_the_others(model: onnx.ModelProto) -> str | None:
    """The symbol of the first axis of every input and output that is no scalar; None where they have no common one."""
    symbols = set()
    for value in (*model.graph.input, *model.graph.output):
        if _is_scalar(value):
            if any(value.name == output.name for output in model.graph.output):
                return None
            continue
        symbols.add(value.type.tensor_type.shape.dim[0].dim_param)
    return symbols.pop() if len(symbols) == 1 and not symbols & ANONYMOUS else None


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    """Number of axes by value, as far as shape inference finds it."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in values
        if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape")
    }
    return {**ranks, **{weight.name: len(weight.dims) for weight in graph.initializer}}


def _reshape(source: str, shape: str, target: str, names: Names) -> onnx.NodeProto:
    import onnx

    return onnx.helper.make_node("Reshape", [source, shape], [target], name=names.new(f"{target}_node"))


def _read_instead(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        rename_reads(node, {old: new})


def _make_instead(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Let the node that makes a value give it another name, for all who read it."""
    for node in graph.node:
        for place, name in enumerate(node.output):
            if name == old:
                node.output[place] = new
        rename_reads(node, {old: new})
    for weight in graph.initializer:
        if weight.name == old:
            weight.name = new
