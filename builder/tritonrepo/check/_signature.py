"""What an ONNX file says of itself: inputs, outputs, versions, external data. Weights are passed over, not read.

The file may have any size and may be damaged or made to harm: see `_wire`. Only the message's structure is known here;
whether the graph makes sense is not asked.
"""

from __future__ import annotations

import io
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from tritonrepo.check._wire import Span, Wire, signed
from tritonrepo.errors import ModelError

Dim = int | str | None
"""A number, the name of an axis, or None where the file leaves it open and gives no name."""

#: Names of axes by which exporters say "unknown".
ANONYMOUS = frozenset({"", "?", "-1", "None", "unk"})

#: ONNX element type -> Triton's name for it; others Triton does not have.
TYPES: Mapping[int, str] = {
    1: "TYPE_FP32", 2: "TYPE_UINT8", 3: "TYPE_INT8", 4: "TYPE_UINT16", 5: "TYPE_INT16", 6: "TYPE_INT32",
    7: "TYPE_INT64", 8: "TYPE_STRING", 9: "TYPE_BOOL", 10: "TYPE_FP16", 11: "TYPE_FP64", 12: "TYPE_UINT32",
    13: "TYPE_UINT64", 16: "TYPE_BF16",
}  # fmt: skip

_KINDS: Mapping[int, str] = {1: "tensor", 4: "sequence", 5: "map", 7: "opaque", 8: "sparse tensor", 9: "optional"}

#: How files begin that are often taken for ONNX files.
_OTHERS = (
    (b"version https://git-lfs", "it is a Git LFS pointer (run `git lfs pull`)"),
    (b"PK\x03\x04", "it is a zip archive"),
    (b"<", "it is a text or HTML page"),
    (b"{", "it is a JSON file"),
)

_MOST_VALUES = 20_000
_MOST_DIMS = 256
#: Nodes that are looked at to find who gives an output; nodes stand in the order in which they run.
_LAST_NODES = 400
#: Bytes of a small constant.
_SMALL = 1024

# A read after a seek takes no more than this from the disk, so weights stay there.
_BUFFER = 512


@dataclass(frozen=True)
class Value:
    """An input or output of the graph."""

    name: str
    kind: str = "none"
    """``tensor``, or what Triton cannot carry."""
    element: int = 0
    shape: tuple[Dim, ...] | None = None
    """The whole shape; None where the file does not give its rank."""

    @property
    def data_type(self) -> str | None:
        """Triton's name of the element type; None where it has none."""
        return TYPES.get(self.element)

    @property
    def dims(self) -> tuple[int, ...] | None:
        """The shape as configs write it, with -1 for every size that is not fixed."""
        if self.shape is None:
            return None
        return tuple(dim if isinstance(dim, int) else -1 for dim in self.shape)


@dataclass(frozen=True)
class Node:
    """A node of the graph, as far as one looks at it."""

    operator: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    numbers: Mapping[str, tuple[int, ...]]
    """Attributes that are integers or lists of them."""


@dataclass(frozen=True)
class External:
    """A file with weights: the place that the model names, and how many bytes of it are needed."""

    location: str
    end: int


@dataclass(frozen=True, eq=False)
class Signature:
    """What an ONNX file says of itself."""

    inputs: tuple[Value, ...]
    """Without those that have a value in the file."""
    defaults: tuple[Value, ...]
    """Inputs that have a value in the file, so that a request may leave them out (from IR version 4 on)."""
    outputs: tuple[Value, ...]
    opset: Mapping[str, int]
    """Version by domain; "" is the default one."""
    ir_version: int
    external: tuple[External, ...]
    _open: Callable[[], BinaryIO] = field(repr=False)
    _nodes: array[int] = field(repr=False)
    _weights: Mapping[str, Span] = field(repr=False)

    @cached_property
    def last_nodes(self) -> Mapping[str, Node]:
        """The last nodes of the graph, by the names of what they give; as far as they can be read."""
        found: dict[str, Node] = {}
        spans = self._nodes[-2 * _LAST_NODES :]
        with suppress(ModelError, OSError), closing(self._open()) as file:
            wire = Wire(file)
            for begin, end in zip(spans[::2], spans[1::2], strict=True):
                node = _node(wire, (begin, end))
                found.update(dict.fromkeys(node.outputs, node))
        return found

    def integers(self, name: str) -> tuple[int, ...] | None:
        """The values of a small INT64 weight or constant; None where there is no such."""
        span = self._weights.get(name)
        if span is None:
            node = self.last_nodes.get(name)
            constant = node is not None and node.operator == "Constant"
            return node.numbers.get("value", node.numbers.get("value_ints")) if node and constant else None
        with suppress(ModelError, OSError), closing(self._open()) as file:
            return _integers(Wire(file), span)
        return None


def read_signature(content: Path | bytes) -> Signature:
    """Read what an ONNX file says of itself.

    Raises:
        ModelError: it cannot be read, or is no ONNX file.
    """

    def opened() -> BinaryIO:
        return io.BytesIO(content) if isinstance(content, bytes) else content.open("rb", buffering=_BUFFER)

    try:
        with closing(opened()) as file:
            return _model(Wire(file), opened)
    except OSError as error:
        raise ModelError(f"it cannot be read: {error.strerror}") from None


def _model(wire: Wire, opened: Callable[[], BinaryIO]) -> Signature:
    head = wire.bytes((0, min(32, wire.size))).lstrip()
    for begin, what in _OTHERS:
        if head.startswith(begin):
            raise ModelError(what)
    graphs: list[Span] = []
    opset: dict[str, int] = {}
    ir_version = 0
    for number, value in wire.fields(wire.whole):
        if number == 1 and isinstance(value, int):
            ir_version = signed(value)
        elif number == 7 and isinstance(value, tuple):
            graphs.append(value)
        elif number == 8 and isinstance(value, tuple):
            domain, version = _opset(wire, value)
            opset[domain] = version
        elif number in {1, 7, 8}:
            raise ModelError(f"field {number} is of another kind than in an ONNX model")
    if not graphs:
        raise ModelError("it holds no graph")
    parts = _Parts()
    for graph in graphs:
        parts.read(wire, graph)
    given = {value.name for value in parts.inputs}
    weights, external = _initializers(wire, parts, given)
    return Signature(
        inputs=tuple(value for value in parts.inputs if value.name not in weights),
        defaults=tuple(value for value in parts.inputs if value.name in weights),
        outputs=tuple(parts.outputs),
        opset=opset,
        ir_version=ir_version,
        external=external,
        _open=opened,
        _nodes=parts.nodes,
        _weights=weights,
    )


class _Parts:
    """What stands in a graph, and where."""

    def __init__(self) -> None:
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.nodes = array("q")
        self.initializers = array("q")
        self.sparse: list[Span] = []

    def read(self, wire: Wire, graph: Span) -> None:
        for number, value in wire.fields(graph):
            if number not in {1, 5, 11, 12, 15}:
                continue
            if not isinstance(value, tuple):
                raise ModelError(f"field {number} of its graph is of another kind than in an ONNX model")
            if number == 1:
                self.nodes.extend(value)
            elif number == 5:
                self.initializers.extend(value)
            elif number == 15:
                self.sparse.append(value)
            else:
                values = self.inputs if number == 11 else self.outputs
                values.append(_value(wire, value))
                if len(values) > _MOST_VALUES:
                    raise ModelError(f"it has more than {_MOST_VALUES} inputs or outputs")


def _initializers(wire: Wire, parts: _Parts, wanted: set[str]) -> tuple[dict[str, Span], tuple[External, ...]]:
    """Where the weights are that have a wanted name or are small, and the files with the others."""
    spans = [*zip(parts.initializers[::2], parts.initializers[1::2], strict=True)]
    for sparse in parts.sparse:
        spans += [value for number, value in wire.fields(sparse) if number == 1 and isinstance(value, tuple)]
    weights: dict[str, Span] = {}
    external: dict[str, int] = {}
    for span in spans:
        name, location, end = _tensor(wire, span)
        if name in wanted or span[1] - span[0] <= _SMALL:
            weights[name] = span
        if location is not None:
            external[location] = max(end, external.get(location, 0))
    return weights, tuple(External(location, end) for location, end in sorted(external.items()))


def _tensor(wire: Wire, span: Span) -> tuple[str, str | None, int]:
    """A weight's name, and where its data is if it is in another file: the file and the end in it."""
    name = ""
    outside = False
    entries: dict[str, str] = {}
    for number, value in wire.fields(span):
        if number == 8 and isinstance(value, tuple):
            name = wire.text(value)
        elif number == 13 and isinstance(value, tuple):
            pair = {key: wire.text(text) for key, text in wire.fields(value) if isinstance(text, tuple)}
            entries[pair.get(1, "")] = pair.get(2, "")
        elif number == 14:
            outside = value == 1
    if not outside:
        return name, None, 0
    try:
        end = int(entries.get("offset") or 0) + int(entries.get("length") or 0)
    except ValueError:
        raise ModelError(f"the offset or length of weight {name!r} is not a number") from None
    return name, entries.get("location", ""), end


def _opset(wire: Wire, span: Span) -> tuple[str, int]:
    domain, version = "", 0
    for number, value in wire.fields(span):
        if number == 1 and isinstance(value, tuple):
            domain = wire.text(value)
        elif number == 2 and isinstance(value, int):
            version = signed(value)
    return "" if domain == "ai.onnx" else domain, version


def _value(wire: Wire, span: Span) -> Value:
    name, type_ = "", None
    for number, value in wire.fields(span):
        if number == 1 and isinstance(value, tuple):
            name = wire.text(value)
        elif number == 2 and isinstance(value, tuple):
            type_ = value
    if type_ is None:
        return Value(name)
    kind, tensor = "none", None
    for number, value in wire.fields(type_):
        if number in _KINDS and isinstance(value, tuple):
            kind, tensor = _KINDS[number], value
    if kind != "tensor" or tensor is None:
        return Value(name, kind)
    element, shape = 0, None
    for number, value in wire.fields(tensor):
        if number == 1 and isinstance(value, int):
            element = value
        elif number == 2 and isinstance(value, tuple):
            shape = tuple(_shape(wire, value))
    return Value(name, kind, element, shape)


def _shape(wire: Wire, span: Span) -> Iterator[Dim]:
    count = 0
    for number, value in wire.fields(span):
        if number == 1 and isinstance(value, tuple):
            count += 1
            if count > _MOST_DIMS:
                raise ModelError(f"a shape has more than {_MOST_DIMS} dims")
            yield _dim(wire, value)


def _dim(wire: Wire, span: Span) -> Dim:
    dim: Dim = None
    for number, value in wire.fields(span):
        if number == 1 and isinstance(value, int):
            dim = signed(value) if signed(value) >= 0 else None
        elif number == 2 and isinstance(value, tuple):
            text = wire.text(value)
            dim = None if text in ANONYMOUS else text
    return dim


def _node(wire: Wire, span: Span) -> Node:
    texts: dict[int, list[str]] = {1: [], 2: [], 4: [""], 7: [""]}
    numbers: dict[str, tuple[int, ...]] = {}
    for number, value in wire.fields(span):
        if number in texts and isinstance(value, tuple):
            texts[number].append(wire.text(value))
        elif number == 5 and isinstance(value, tuple):
            name, values = _attribute(wire, value)
            numbers[name] = values
    domain = texts[7][-1]
    return Node(texts[4][-1], "" if domain == "ai.onnx" else domain, tuple(texts[1]), tuple(texts[2]), numbers)


def _attribute(wire: Wire, span: Span) -> tuple[str, tuple[int, ...]]:
    """An attribute's name and its numbers: of an integer, of a list of them, or of a small tensor of them."""
    name = ""
    numbers: list[int] = []
    for number, value in wire.fields(span):
        if number == 1 and isinstance(value, tuple):
            name = wire.text(value)
        elif number in {3, 8}:
            numbers += [value] if isinstance(value, int) else wire.varints(value)
        elif number == 5 and isinstance(value, tuple) and value[1] - value[0] <= _SMALL:
            return name, _integers(wire, value) or ()
    return name, tuple(signed(value) for value in numbers)


def _integers(wire: Wire, span: Span) -> tuple[int, ...] | None:
    """The values of a tensor of INT64; None where it is of another type, or its data is elsewhere."""
    numbers: list[int] = []
    raw = b""
    for number, value in wire.fields(span):
        if (number == 2 and value != 7) or (number == 14 and value == 1):
            return None
        if number == 7:
            numbers += [value] if isinstance(value, int) else wire.varints(value)
        elif number == 9 and isinstance(value, tuple):
            raw = wire.bytes(value)
    if raw:
        return tuple(int.from_bytes(raw[at : at + 8], "little", signed=True) for at in range(0, len(raw) - 7, 8))
    return tuple(signed(value) for value in numbers)
