"""Multiplications with addition (MACs) of a model whose shapes are known.

Counted are the operators in which networks spend their time: convolutions, matrix products, recurrent layers and
attention. Element-wise work is not counted, as runtimes fuse it into those; what does arithmetic that is not counted
here is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from tritonrepo._graph import Graph, Model, Node, Tensor

Shape = tuple[int, ...]

#: Operators that do much arithmetic and have no formula here.
_NOT_COUNTED = frozenset({"DFT", "STFT", "Det", "GridSample", "RoiAlign", "MaxRoiPool", "TfIdfVectorizer"})


@dataclass
class Counted:
    """What was counted: MACs by operator, and what was not: (operator, reason) -> nodes."""

    by_operator: Counter[str] = field(default_factory=Counter)
    missing: Counter[tuple[str, str]] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """All MACs."""
        return sum(self.by_operator.values())


class _Unknown(Exception):  # noqa: N818 - no error, an answer
    """A shape is not known."""


@dataclass(frozen=True)
class _Call:
    """A node with the shapes of what it takes and gives."""

    model: Model
    node: Node
    shapes: Mapping[str, Shape]

    def input(self, index: int) -> Shape:
        name = self.node.inputs[index] if index < len(self.node.inputs) else ""
        if name not in self.shapes:
            raise _Unknown
        return self.shapes[name]

    def output(self, index: int = 0) -> Shape:
        name = self.node.outputs[index] if index < len(self.node.outputs) else ""
        if name not in self.shapes:
            raise _Unknown
        return self.shapes[name]

    def integer(self, name: str, default: int) -> int:
        value = self.model.attribute(self.node, name)
        return value if isinstance(value, int) else default


def count(model: Model, sizes: Mapping[str, int]) -> Counted:
    """Count the MACs of one call of a model, as `infer_shapes` gives it.

    Args:
        model: with its shapes.
        sizes: of axes by their names, for graphs in graphs that name them.
    """
    counted = Counted()
    if model.graph is not None:
        _count_graph(_Sized(model, sizes), model.graph, {}, {}, 1, counted)
    return counted


@dataclass(frozen=True)
class _Sized:
    """A model and the sizes of its named axes."""

    model: Model
    sizes: Mapping[str, int]

    def shapes(self, graph: Graph) -> dict[str, Shape]:
        """The shapes that are known of a graph's values."""
        found: dict[str, Shape] = {}
        for value in (*graph.values, *graph.inputs, *graph.outputs):
            dims = value.type.shape
            shape = None if dims is None else [self.sizes.get(d) if isinstance(d, str) else d for d in dims]
            if shape is not None and None not in shape:
                found[value.name] = tuple(dim for dim in shape if dim is not None)
        for tensor in graph.initializers:
            if all(dim >= 0 for dim in tensor.dims):
                found[tensor.name] = tensor.dims
        return found


def _count_graph(
    sized: _Sized, graph: Graph, outer: Mapping[str, Shape], constants: Mapping[str, Tensor], times: int, into: Counted
) -> None:
    shapes = {**outer, **sized.shapes(graph)}
    known = {**constants, **{tensor.name: tensor for tensor in graph.initializers}}
    for node in graph.nodes:
        if node.operator == "Constant" and node.tensors and node.outputs:
            known[node.outputs[0]] = node.tensors[0]
        if node.graphs:
            _count_nested(sized, node, shapes, known, times, into)
            continue
        name = f"{node.domain}::{node.operator}" if node.domain else node.operator
        formula = _FORMULAS.get((node.domain, node.operator))
        if formula is None:
            if node.operator in _NOT_COUNTED:
                into.missing[name, "there is no formula for it"] += 1
            elif node.domain:
                into.missing[name, "it is no standard operator"] += 1
            continue
        try:
            into.by_operator[name] += times * formula(_Call(sized.model, node, shapes))
        except (_Unknown, IndexError, ZeroDivisionError):
            into.missing[name, "its shapes do not follow from the inputs' shapes"] += 1


def _count_nested(
    sized: _Sized, node: Node, shapes: Mapping[str, Shape], known: Mapping[str, Tensor], times: int, into: Counted
) -> None:
    """If: the branch with more work. Loop: as often as it says, or once. Scan: for each element of the scanned axis."""
    if node.operator == "If":
        branches = []
        for graph in (graph for graphs in node.graphs.values() for graph in graphs):
            branches.append(Counted())
            _count_graph(sized, graph, shapes, known, times, branches[-1])
        if branches:
            most = max(branches, key=lambda each: each.total)
            into.by_operator += most.by_operator
            into.missing += most.missing
            into.notes += most.notes
            into.notes.append("If: the branch with more work is counted")
        return
    turns = _turns(sized.model, node, shapes, known)
    if turns is None:
        into.notes.append(f"{node.operator}: one turn is counted, as the number of turns is not in the model")
    for graph in (graph for graphs in node.graphs.values() for graph in graphs):
        _count_graph(sized, graph, shapes, known, times * (1 if turns is None else turns), into)


def _turns(model: Model, node: Node, shapes: Mapping[str, Shape], known: Mapping[str, Tensor]) -> int | None:
    if node.operator == "Loop" and node.inputs and node.inputs[0] in known:
        values = model.integers(known[node.inputs[0]])
        return max(0, values[0]) if values and len(values) == 1 and values[0] < 2**31 else None
    if node.operator == "Scan":
        scanned = model.attribute(node, "num_scan_inputs")
        axes = model.attribute(node, "scan_input_axes") or [0]
        if isinstance(scanned, int) and 0 < scanned <= len(node.inputs) and isinstance(axes, list):
            shape = shapes.get(node.inputs[-scanned])
            if shape and -len(shape) <= axes[0] < len(shape):
                return shape[axes[0]]
    return None


def _conv(call: _Call, weight: int = 1) -> int:
    return prod(call.output()) * prod(call.input(weight)[1:])


def _conv_transpose(call: _Call) -> int:
    return prod(call.input(0)) * prod(call.input(1)[1:])


def _gemm(call: _Call) -> int:
    first = call.input(0)
    inner = first[0] if call.integer("transA", 0) else first[1]
    return prod(call.output()) * inner


def _matmul(call: _Call, second: int = 1) -> int:
    first, other = call.input(0), call.input(second)
    inner = first[-1]
    if len(first) == 1 or len(other) == 1:  # a vector: nothing is broadcast
        return prod(first) * (prod(other) // inner if inner and len(other) > 1 and len(first) == 1 else 1)
    batch = _broadcast(first[:-2], other[:-2])
    return prod(batch) * first[-2] * inner * other[-1]


def _broadcast(first: Sequence[int], other: Sequence[int]) -> list[int]:
    rank = max(len(first), len(other))
    padded = ([1] * (rank - len(each)) + list(each) for each in (first, other))
    return [max(pair) if min(pair) else 0 for pair in zip(*padded, strict=True)]


def _recurrent(call: _Call) -> int:
    steps = prod(call.input(0)[:2])
    return steps * (prod(call.input(1)) + prod(call.input(2)))


def _einsum(call: _Call) -> int:
    """As if the operands were multiplied one after the other, over all labels at once."""
    equation = call.model.attribute(call.node, "equation")
    if not isinstance(equation, str):
        raise _Unknown
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    if len(terms) != len(call.node.inputs):
        raise _Unknown
    sizes: dict[str, int] = {}
    for index, term in enumerate(terms):
        shape = call.input(index)
        head, dots, tail = term.partition("...")
        hidden = len(shape) - len(head) - len(tail)
        if hidden < 0 or (hidden and not dots):
            raise _Unknown
        labels = [*head, *(f"...{hidden - i}" for i in range(hidden)), *tail]
        for label, dim in zip(labels, shape, strict=True):
            sizes[label] = max(sizes.get(label, 1), dim)
    return prod(sizes.values()) * (len(terms) - 1)


def _attention(call: _Call) -> int:
    """The two products with the keys and with the values; of queries [batch, (heads,) length, width]."""
    query, key, value = call.input(0), call.input(1), call.input(2)
    if len(query) == 4:
        return prod(query[:3]) * key[2] * (query[3] + value[3])
    heads, key_heads = call.integer("q_num_heads", 1), call.integer("kv_num_heads", 1)
    return query[0] * query[1] * key[1] * (query[2] + value[2] * heads // max(1, key_heads))


_Formula = Callable[[_Call], int]
_FORMULAS: Mapping[tuple[str, str], _Formula] = {
    ("", "Conv"): _conv,
    ("", "ConvInteger"): _conv,
    ("", "DeformConv"): _conv,
    ("", "QLinearConv"): lambda call: _conv(call, 3),
    ("", "ConvTranspose"): _conv_transpose,
    ("", "Gemm"): _gemm,
    ("", "MatMul"): _matmul,
    ("", "MatMulInteger"): _matmul,
    ("", "QLinearMatMul"): lambda call: _matmul(call, 3),
    ("", "RNN"): _recurrent,
    ("", "GRU"): _recurrent,
    ("", "LSTM"): _recurrent,
    ("", "Einsum"): _einsum,
    ("", "Attention"): _attention,
}
