"""What has the batch baked in, operator by operator, and how it is taken out.

The graph is followed in two worlds at once: ``given``, with the batch that the file has, and ``grown``, with ``GROWTH``
times as many rows. An axis carries the batch where its size grew. A rule looks at a node whose inputs are known in both
worlds, and rewrites the node where its constants would not follow the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonrepo.prepare.base import CannotChange
from tritonrepo.prepare.graph import Names, add_initializer, attribute, is_standard
from tritonrepo.prepare.inference import Shape, World

if TYPE_CHECKING:
    import numpy as np
    import onnx

    Array = np.ndarray[Any, Any]

#: A prime that is no usual size, so that no other axis has it by chance.
GROWTH = 97

_INT64_MAX = 2**63 - 1


class Growing:
    """A graph while its batch is made dynamic."""

    def __init__(
        self, model: onnx.ModelProto, sizes: Mapping[str, Shape], rows: int, folder: Path, flatten_first: bool
    ) -> None:
        """Start.

        Args:
            model: rewritten in place. All its inputs have the batch as their first axis.
            sizes: shape of every input, as the file has it.
            rows: size of the batch that the file has.
            folder: where the weights' files are.
            flatten_first: how an ambiguous Reshape is read, see ``_axis_after_reshape``.
        """
        self.graph = model.graph
        self.rows = rows
        self.flatten_first = flatten_first
        self.given = World(model, sizes, folder)
        grown = {
            name: (shape[0] * GROWTH, *shape[1:]) if shape and shape[0] else shape for name, shape in sizes.items()
        }
        self.grown = World(model, grown, folder)
        self.done: list[onnx.NodeProto] = []
        self.mended: list[str] = []
        self._inner: dict[str, int] = {}
        self._names = Names(model)
        self._source = next(name for name, shape in sizes.items() if shape)
        self._batch: str | None = None

    def scaled(self, name: str) -> int | None:
        """The axis of a value that carries the batch; None where none does, or where that is not known."""
        before, after = self.given.shape(name), self.grown.shape(name)
        if before is None or after is None or len(before) != len(after):
            return None
        axes = [axis for axis, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]]
        return axes[0] if len(axes) == 1 else None

    def inner(self, name: str) -> int:
        """How many elements of the axis that carries the batch lie before it: 1 where the batch is outermost."""
        return self._inner.get(name, 1)

    def put_inner(self, name: str, inner: int) -> None:
        """See ``inner``."""
        self._inner[name] = inner

    def pass_inner_on(self, node: onnx.NodeProto) -> None:
        """Operators that leave an axis as it is leave the batch in its place on it."""
        carrying = next((name for name in node.input if self.inner(name) != 1), None)
        if carrying is None:
            return
        size = (self.given.shape(carrying) or ())[self.scaled(carrying) or 0]
        for name in node.output:
            axis, shape = self.scaled(name), self.given.shape(name)
            if axis is not None and shape and shape[axis] == size:
                self._inner.setdefault(name, self.inner(carrying))

    def batch(self) -> str:
        """A value INT64 [1]: the size of the batch at run time."""
        if self._batch is None:
            zero = self.constant([0], "batch_axis")
            shape = self.node("Shape", [self._source], "batch_shape")
            self._batch = self.node("Gather", [shape, zero], "batch_size", axis=0)
        return self._batch

    def constant(self, value: list[int], wish: str) -> str:
        """Add a constant INT64 [n]; gives its name."""
        import numpy as np

        name = add_initializer(self.graph, np.array(value, np.int64), self._names.new(wish))
        for world in (self.given, self.grown):
            world.add_constant(name, self.graph.initializer[-1])
        return name

    def node(self, op: str, inputs: list[str], wish: str, **attributes: Any) -> str:
        """Add a node before the one that is looked at; gives the name of its output."""
        import onnx

        name = self._names.new(wish)
        made = onnx.helper.make_node(op, inputs, [name], name=self._names.new(f"{wish}_node"), **attributes)
        self.done.append(made)
        for world in (self.given, self.grown):
            world.step(made)
        return name

    def mend(self, node: onnx.NodeProto, what: str) -> None:
        """Remember for the report that a node was rewritten."""
        self.mended.append(f"{node.op_type} {node.name or node.output[0]}: {what}")


def _axis_after_reshape(
    before: Shape, lead: int, after: Shape, rows: int, flatten_first: bool
) -> tuple[int, int] | None:
    """Which axis of a Reshape's output carries the batch, and how many elements of that axis lie before it.

    In row-major order the batch keeps its place: ``lead`` elements lie before it. Any axis that it can lie on at that
    place is possible. One that is the batch and nothing else comes first, and the last axis (features, mostly) last;
    among the others, by ``flatten_first``, one that leaves the axes behind it as they were (the batch was joined with
    those before it), or one at whose beginning it lies.
    """
    if None in after:
        return (0, 1) if lead == 1 and after[0] is not None and before[0] == after[0] else None
    sizes = [dim or 0 for dim in after]
    possible = []
    for axis, size in enumerate(sizes):
        ahead = prod(sizes[:axis])
        if ahead and lead % ahead == 0 and size % rows == 0 and size and (size // rows) % (lead // ahead) == 0:
            possible.append((axis, lead // ahead))

    def rank(choice: tuple[int, int]) -> tuple[bool, ...]:
        axis, inner = choice
        behind = sizes[axis + 1 :]
        joined = list(before[len(before) - len(behind) :]) != behind, inner != 1
        return sizes[axis] != rows, not behind, *(joined if flatten_first else reversed(joined))

    return min(possible, key=rank, default=None)


def reshape(growing: Growing, node: onnx.NodeProto) -> None:
    """The target's entry for the batch becomes 0 (as in the input), -1 (what is left), or the batch itself."""
    axis = growing.scaled(node.input[0])
    before, after = growing.given.shape(node.input[0]), growing.given.shape(node.output[0])
    if axis is None or before is None or after is None or len(node.input) < 2:
        return
    if None in before:
        lead = growing.inner(node.input[0]) if axis == 0 else 0
    else:
        lead = prod(dim or 0 for dim in before[:axis]) * growing.inner(node.input[0])
    place = _axis_after_reshape(before, lead, after, growing.rows, growing.flatten_first) if lead else None
    target = growing.grown.values.get(node.input[1])
    if place is None or target is None:
        return
    to, inner = place
    growing.put_inner(node.output[0], inner)
    want = tuple(dim and dim * (GROWTH if at == to else 1) for at, dim in enumerate(after))
    entry = int(target[to])
    keeps_zero = bool(attribute(node, "allowzero", 0))
    if _resolved(target, growing.grown.shape(node.input[0]), keeps_zero) == want:
        return
    literal = node.input[1] in growing.given.values and not _depends_on_batch(growing, node.input[1])
    others = [int(value) for at, value in enumerate(target) if at != to]
    if keeps_zero and 0 not in target.tolist():
        for each in [each for each in node.attribute if each.name == "allowzero"]:
            node.attribute.remove(each)
        keeps_zero = False
    if literal and to == axis and before[axis] == after[to] and not keeps_zero:
        node.input[1] = growing.constant([0 if at == to else int(value) for at, value in enumerate(target)], "target")
        growing.mend(node, f"its target {target.tolist()} takes axis {to} from the input")
    elif literal and -1 not in others:
        node.input[1] = growing.constant([-1 if at == to else int(value) for at, value in enumerate(target)], "target")
        growing.mend(node, f"axis {to} of its target {target.tolist()} is what is left")
    else:
        node.input[1] = _with_batch(growing, node.input[1], to, len(target), after[to], entry)
        growing.mend(node, f"axis {to} of its target is computed from the batch")


def _depends_on_batch(growing: Growing, name: str) -> bool:
    before, after = growing.given.values.get(name), growing.grown.values.get(name)
    return before is None or after is None or before.tolist() != after.tolist()


def _resolved(target: Array, shape: Shape | None, keeps_zero: bool) -> Shape | None:
    """What a Reshape gives for a target, 0 and -1 resolved; None where it would fail."""
    if shape is None or None in shape:
        return None
    entries = [int(entry) for entry in target]
    for at, entry in enumerate(entries):
        if entry == 0 and not keeps_zero:
            if at >= len(shape):
                return None
            entries[at] = shape[at] or 0
    known = prod(entry for entry in entries if entry != -1)
    count = prod(dim or 0 for dim in shape)
    if -1 in entries:
        if not known or count % known:
            return None
        entries[entries.index(-1)] = count // known
    return tuple(entries) if prod(entries) == count else None


def _with_batch(growing: Growing, target: str, at: int, rank: int, size: int | None, entry: int) -> str:
    """A shape whose entry ``at`` is that size for each row of the batch, and that otherwise is as it was."""
    per_row = (size or growing.rows) // growing.rows
    if entry > 0 and size and size % growing.rows:
        raise CannotChange(f"axis {at} of a shape is {size}, which is no multiple of the batch of {growing.rows}")
    rows = growing.batch()
    if per_row != 1:
        rows = growing.node("Mul", [rows, growing.constant([per_row], "per_row")], "rows")
    parts = [rows]
    if at > 0:
        parts.insert(0, _slice(growing, target, 0, at))
    if at + 1 < rank:
        parts.append(_slice(growing, target, at + 1, _INT64_MAX))
    return growing.node("Concat", parts, "shape_with_batch", axis=0)


def _slice(growing: Growing, name: str, start: int, end: int) -> str:
    ends = growing.constant([start], "start"), growing.constant([end], "end"), growing.constant([0], "axes")
    return growing.node("Slice", [name, *ends], "part")


def _repeat_for_batch(growing: Growing, node: onnx.NodeProto, place: int, axis: int) -> None:
    """An input that has the file's batch on an axis, but does not grow with it, is repeated for every row."""
    name = node.input[place]
    shape = growing.given.shape(name)
    if shape is None or axis >= len(shape) or shape[axis] != growing.rows:
        return
    if growing.rows > 1:
        name = _first_row(growing, node, name, axis)
    ones = [1] * len(shape)
    parts = [growing.batch()]
    if axis > 0:
        parts.insert(0, growing.constant(ones[:axis], "ones"))
    if axis + 1 < len(shape):
        parts.append(growing.constant(ones[axis + 1 :], "ones"))
    target = growing.node("Concat", parts, "shape_with_batch", axis=0) if len(parts) > 1 else parts[0]
    node.input[place] = growing.node("Expand", [name, target], f"{node.input[place]}_for_each_row")
    growing.mend(node, f"its input {name}, made for a batch of {growing.rows}, is repeated for every row")


def _first_row(growing: Growing, node: onnx.NodeProto, name: str, axis: int) -> str:
    """The first row of a value whose rows are all the same."""
    value = growing.given.values.get(name)
    if value is None or (value != value.take([0], axis)).any():
        raise CannotChange(f"input {name} of {_called(node)} has values of its own for each of the {growing.rows} rows")
    parts = growing.constant([0], "start"), growing.constant([1], "end"), growing.constant([axis], "axes")
    return growing.node("Slice", [name, *parts], f"{name}_first_row")


def broadcast(growing: Growing, node: onnx.NodeProto) -> None:
    """A constant of as many equal rows as the file's batch becomes one row; a single row fits any batch as it is."""
    if growing.rows == 1:
        return
    shapes = {place: growing.given.shape(name) for place, name in enumerate(node.input) if name}
    ends = {
        axis - len(shape) for place, shape in shapes.items()
        if shape is not None and (axis := growing.scaled(node.input[place])) is not None
    }  # fmt: skip
    for place, shape in shapes.items():
        if shape is None or growing.scaled(node.input[place]) is not None:
            continue
        for end in ends:
            if len(shape) + end >= 0 and shape[end] == growing.rows:
                node.input[place] = _first_row(growing, node, node.input[place], len(shape) + end)
                growing.mend(node, f"of its constant's {growing.rows} equal rows one is used")


def expand(growing: Growing, node: onnx.NodeProto) -> None:
    """An entry that repeats the file's batch becomes 1, which takes the input's size. Where the shape follows the batch
    and the input is a constant of as many equal rows as the file's batch, one of them is used.
    """
    axis, shape = growing.scaled(node.input[0]), growing.given.shape(node.input[0])
    target, given = growing.grown.values.get(node.input[1]), growing.given.values.get(node.input[1])
    if shape is None or target is None or given is None:
        return
    if axis is None:
        grown = [at - len(target) for at in range(len(target)) if target[at] != given[at]]
        for end in grown:
            if growing.rows > 1 and len(shape) + end >= 0 and shape[end] == growing.rows:
                node.input[0] = _first_row(growing, node, node.input[0], len(shape) + end)
                growing.mend(node, f"of its input's {growing.rows} equal rows one is used")
        return
    at = len(target) - len(shape) + axis
    if at < 0 or target[at] in (1, growing.rows * GROWTH) or _depends_on_batch(growing, node.input[1]):
        return
    node.input[1] = growing.constant([1 if place == at else int(entry) for place, entry in enumerate(target)], "target")
    growing.mend(node, f"axis {at} of its shape {target.tolist()} is taken from the input")


def concat(growing: Growing, node: onnx.NodeProto) -> None:
    """What is joined with rows of the batch, such as a class token, is repeated for every row."""
    axes = {axis for name in node.input if (axis := growing.scaled(name)) is not None}
    shape = growing.given.shape(node.input[0])
    if len(axes) != 1 or shape is None:
        return
    axis, along = axes.pop(), attribute(node, "axis", 1)
    if axis == along % len(shape):
        return
    for place, name in enumerate(node.input):
        if growing.scaled(name) is None:
            _repeat_for_batch(growing, node, place, axis)


def gather_elements(growing: Growing, node: onnx.NodeProto) -> None:
    """Indices that were made for the file's batch are repeated for every row."""
    axis = growing.scaled(node.input[0])
    shape = growing.given.shape(node.input[0])
    if axis is None or shape is None or axis == attribute(node, "axis", 0) % len(shape):
        return
    for place in range(1, len(node.input)):
        if growing.scaled(node.input[place]) is None:
            _repeat_for_batch(growing, node, place, axis)


def recurrent(growing: Growing, node: onnx.NodeProto) -> None:
    """Initial states and lengths that were made for the file's batch are repeated for every row."""
    if growing.scaled(node.input[0]) is None:
        return
    state_axis = 0 if attribute(node, "layout", 0) else 1
    for place, axis in ((4, 0), (5, state_axis), (6, state_axis)):
        if place < len(node.input) and node.input[place] and growing.scaled(node.input[place]) is None:
            _repeat_for_batch(growing, node, place, axis)


def resize(growing: Growing, node: onnx.NodeProto) -> None:
    """A target size that names the file's batch takes the batch itself."""
    axis = growing.scaled(node.input[0])
    if axis is None or len(node.input) < 4 or not node.input[3] or attribute(node, "axes") is not None:
        return
    target = growing.grown.values.get(node.input[3])
    if target is not None and target[axis] == growing.rows:
        node.input[3] = _with_batch(growing, node.input[3], axis, len(target), growing.rows, growing.rows)
        growing.mend(node, f"axis {axis} of its sizes is the batch")


def slice_(growing: Growing, node: onnx.NodeProto) -> None:
    """A Slice that takes all rows of the file's batch takes all rows of any."""
    axis = growing.scaled(node.input[0])
    before, after = growing.given.shape(node.input[0]), growing.given.shape(node.output[0])
    if axis is None or before is None or after is None or len(node.input) < 3:
        return
    starts, ends = (growing.grown.values.get(node.input[place]) for place in (1, 2))
    rank = len(before)
    axes: Any = list(range(rank))
    if len(node.input) > 3 and node.input[3]:
        axes = growing.grown.values.get(node.input[3])
    if starts is None or ends is None or axes is None:
        return
    for at, sliced in enumerate(axes):
        if int(sliced) % rank != axis or int(ends[at]) >= growing.rows * GROWTH:
            continue
        if before[axis] != after[axis] or int(starts[at]) > 0 or int(ends[at]) < 0:
            raise CannotChange(f"{_called(node)} takes some rows of the batch")
        if _depends_on_batch(growing, node.input[2]):
            continue
        all_rows = [_INT64_MAX if place == at else int(end) for place, end in enumerate(ends)]
        node.input[2] = growing.constant(all_rows, "ends")
        growing.mend(node, "it takes all rows")


def _called(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {node.name or node.output[0]}"


_BROADCASTING = (
    "Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Gemm", "Greater",
    "GreaterOrEqual", "Less", "LessOrEqual", "MatMul", "Max", "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub",
    "Sum", "Where", "Xor",
)  # fmt: skip

Rule = Callable[[Growing, "onnx.NodeProto"], None]

RULES: Mapping[str, Rule] = {
    "Reshape": reshape, "Expand": expand, "Concat": concat, "LSTM": recurrent, "GRU": recurrent, "RNN": recurrent,
    "Resize": resize, "Slice": slice_, "GatherElements": gather_elements, "ScatterElements": gather_elements,
    **dict.fromkeys(_BROADCASTING, broadcast),
}  # fmt: skip

#: Operators whose answer for a batch is not made of the answers for its rows, whatever their constants.
_WHOLE_BATCH = {
    "NonMaxSuppression": "lists the boxes of the whole batch in one table",
    "NonZero": "lists the places of the whole batch in one table",
    "Unique": "lists the values of the whole batch once",
    "Compress": "picks from the whole batch",
}


def apply(growing: Growing, node: onnx.NodeProto) -> None:
    """Rewrite a node where it has the batch baked in. Its outputs are known in the given world, not yet in the grown.

    Raises:
        CannotChange: the node cannot follow the batch.
    """
    if not is_standard(node):
        return
    if node.op_type in _WHOLE_BATCH and growing.scaled(node.input[0]) is not None:
        raise CannotChange(f"{_called(node)} {_WHOLE_BATCH[node.op_type]}")
    rule = RULES.get(node.op_type)
    if rule:
        rule(growing, node)
