"""A batch that is fixed in the file is made dynamic."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tritonrepo.introspect import Signature
from tritonrepo.prepare.base import CannotChange, Change, Context
from tritonrepo.prepare.batch_rules import GROWTH, Growing, apply
from tritonrepo.prepare.graph import subgraphs
from tritonrepo.prepare.inference import InferenceError, Shape
from tritonrepo.spec import AxisRange

if TYPE_CHECKING:
    import onnx

#: Larger graphs are not followed: at some 0.5 ms for a node it would take long.
_MOST_NODES = 50_000
#: Size that is assumed for a dynamic axis that the spec gives no range for.
_ASSUMED = (64, 224, 32)


def make_batch_dynamic(model: onnx.ModelProto, context: Context) -> tuple[onnx.ModelProto, tuple[Change, ...]]:
    """The first axis of every input and output becomes the batch, and what has the batch baked in follows it.

    Done where the first axis of some input is fixed: at 1, with at least one more axis, or at any size where the user
    demands a batch. Whether rows are independent is proven afterwards, by verify.

    Afterwards the first axis of every input and output has one symbolic name, and at ``GROWTH`` times the file's batch
    the shapes of the graph, as far as shape inference knows them, fit together.

    Raises:
        CannotChange: something in the graph cannot follow the batch; it is named.
    """
    rows = _rows(context)
    if rows is None:
        return model, ()
    if len(model.graph.node) > _MOST_NODES:
        raise CannotChange(f"the graph has {len(model.graph.node):,} nodes; {_MOST_NODES:,} are followed")
    if model.functions:
        from onnx import inliner

        model = inliner.inline_local_functions(model)
    grown, mended = _grow(model, context, rows)
    symbol = _symbol(context.signature)
    for value in (*grown.graph.input, *grown.graph.output):
        if not value.type.tensor_type.shape.dim:
            continue  # a scalar input
        value.type.tensor_type.shape.dim[0].dim_param = symbol
    _forget_shapes(grown.graph)
    what = f"the batch, fixed at {rows} in the file, is dynamic"
    changes = [Change("dynamic_batch", what, "requests can be answered together; that rows are independent is proven")]
    if mended:
        shown = "; ".join(mended[:5]) + ("; ..." if len(mended) > 5 else "")
        changes.append(
            Change("dynamic_batch", f"what follows the batch now: {shown}",
                   f"the batch of {rows} was baked into them")
        )  # fmt: skip
    return grown, tuple(changes)


def _rows(context: Context) -> int | None:
    """The batch that the file has; None where there is nothing to do.

    Raises:
        CannotChange: the first axes of the inputs are no batch.
    """
    signature = context.signature
    if signature.batch or context.spec.batching.max_batch_size == 0:
        return None
    scalar = next((tensor.name for tensor in (*signature.inputs, *signature.outputs) if not tensor.shape), None)
    if scalar is not None and not (context.spec.prepare.scalars_batch and all(t.shape for t in signature.outputs)):
        raise CannotChange(f"{scalar} is a scalar")
    sizes = {tensor.name: tensor.shape[0] for tensor in signature.inputs if tensor.shape}
    fixed = {size for size in sizes.values() if isinstance(size, int)}
    if not fixed:
        return None  # outputs alone are fixed: nothing to read a batch from
    if len(fixed) > 1:
        raise CannotChange(
            "the first axes of the inputs are fixed at different sizes: "
            + ", ".join(f"{name} {size}" for name, size in sizes.items() if isinstance(size, int))
        )
    rows = fixed.pop()
    if context.batch_is_demanded:
        return rows if rows > 0 else None
    if rows != 1:
        raise CannotChange(f"a first axis of {rows} may be no batch; batching.max_batch_size: N says that it is")
    if any(len(tensor.shape) == 1 for tensor in signature.inputs):
        raise CannotChange("an input whose only axis has size 1 may be no batch; batching.max_batch_size: N says it is")
    return rows


def _grow(model: onnx.ModelProto, context: Context, rows: int) -> tuple[onnx.ModelProto, list[str]]:
    """The model with everything following the batch, and what was rewritten."""
    import onnx

    failures: list[CannotChange] = []
    for assumed in _ASSUMED:
        for flatten_first in (True, False):
            attempt = onnx.ModelProto()
            attempt.CopyFrom(model)
            sizes = _sizes(context, rows, assumed)
            growing = Growing(attempt, sizes, rows, context.folder, flatten_first)
            try:
                _follow(growing)
            except CannotChange as failure:
                failures.append(failure)
                continue
            return attempt, growing.mended
        if all(isinstance(dim, int) for tensor in context.signature.inputs for dim in tensor.shape[1:]):
            break
    raise failures[0]


def _follow(growing: Growing) -> None:
    """Step through the graph in both worlds, rewriting what does not follow the batch."""
    graph = growing.graph
    lost = ""
    for node in list(graph.node):
        carried = any(growing.scaled(name) is not None for name in node.input)
        with contextlib.suppress(InferenceError):  # what it holds against the file, it may hold against the grown one
            growing.given.step(node)
        apply(growing, node)
        try:
            growing.grown.step(node)
        except InferenceError as error:
            raise CannotChange(
                f"{node.op_type} {node.name or node.output[0]} cannot follow the batch: {error}"
            ) from None
        growing.done.append(node)
        growing.pass_inner_on(node)
        if carried and node.op_type not in ("Shape", "Size") and not _still_carried(growing, node):
            lost = lost or f", lost at {node.op_type} {node.name or node.output[0]}"
    for value in graph.output:
        shape = growing.grown.shape(value.name)
        before = growing.given.shape(value.name)
        if shape is None or before is None or (shape and shape[0] is None):
            continue  # not known: verify looks at the real one
        if not shape or shape[0] != GROWTH * growing.rows:
            raise CannotChange(f"the batch is not the first axis of output {value.name}{lost}")
    del graph.node[:]
    graph.node.extend(growing.done)


def _still_carried(growing: Growing, node: onnx.NodeProto) -> bool:
    """Whether the batch is on an axis of some output, or may be where a shape is not known."""
    shapes = [growing.grown.shape(name) for name in node.output if name]
    unknown = any(shape is None or None in shape for shape in shapes)
    return unknown or any(growing.scaled(name) is not None for name in node.output if name)


def _sizes(context: Context, rows: int, assumed: int) -> Mapping[str, Shape]:
    """A shape for every input: the file's sizes, the spec's typical ones, and an assumed one for the rest."""
    ranges = context.spec.shapes

    def size(dim: object) -> int:
        if isinstance(dim, int):
            return dim
        ranged = ranges.get(str(dim))
        return (ranged.opt or ranged.max) if isinstance(ranged, AxisRange) else assumed

    inputs = context.signature.inputs
    return {tensor.name: (rows, *map(size, tensor.shape[1:])) if tensor.shape else () for tensor in inputs}


def _symbol(signature: Signature) -> str:
    """A name for the batch axis: one that is there, else ``batch`` unless that means something else."""
    first = [dim for tensor in signature.inputs if tensor.shape and isinstance(dim := tensor.shape[0], str)]
    taken = {dim for tensor in (*signature.inputs, *signature.outputs) for dim in tensor.shape[1:]}
    return first[0] if first else "batch" if "batch" not in taken else "batch_axis"


def _forget_shapes(graph: onnx.GraphProto) -> None:
    """Remove what the file says of shapes within the graph: they were those of the old batch."""
    del graph.value_info[:]
    for node in graph.node:
        for body in subgraphs(node):
            for value in (*body.input, *body.output):
                if value.type.HasField("tensor_type"):
                    value.type.tensor_type.ClearField("shape")
            _forget_shapes(body)
