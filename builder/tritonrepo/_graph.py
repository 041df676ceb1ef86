"""An ONNX model as plain values: what inspection reads, without the onnx library and without weights.

Nothing is checked here but the structure of the message. Texts that are not UTF-8 are read with replacements.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tritonrepo._onnx_wire import BYTES, VARINT, fields, signed, varints
from tritonrepo._skeleton import MOST_DEPTH, left
from tritonrepo.errors import ModelError

Dim = int | str | None
"""A number, the name of an axis, or None where the file leaves it open and gives no name."""

#: Names of axes by which exporters say "unknown": two axes that carry one of them need not be equal.
ANONYMOUS = frozenset({"", "?", "-1", "None", "unk"})

#: More is no graph that anyone runs.
MOST_NODES = 2_000_000
_MOST_VALUES = 5_000_000

# Types of attributes that hold no tensor and no graph: FLOAT, INT, STRING, FLOATS, INTS, STRINGS.
_PLAIN = frozenset({1, 2, 3, 6, 7, 8})

_KINDS: Mapping[int, str] = {1: "tensor", 4: "sequence", 5: "map", 7: "opaque", 8: "sparse tensor", 9: "optional"}


@dataclass(frozen=True)
class Type:
    """The type of a value: its kind, and for a tensor its ONNX element type and its shape."""

    kind: str = "untyped"
    element: int = 0
    shape: tuple[Dim, ...] | None = None
    """None where even the rank is open."""
    dims_below_zero: bool = False


@dataclass(frozen=True)
class Value:
    """An input, an output, or a value between nodes."""

    name: str
    type: Type


@dataclass(frozen=True, eq=False)
class Tensor:
    """A stored tensor. ``entries`` is its external data: empty where its values are in the file."""

    name: str
    element: int
    dims: tuple[int, ...]
    entries: Mapping[str, str]
    external: bool
    stored: int | None
    """Bytes of raw data that the file holds; None where it holds the values in another form, or elsewhere."""
    span: tuple[int, int]
    twice: bool = False
    """Whether its external data says something twice."""


@dataclass(eq=False, slots=True)
class Node:
    """A node; not frozen, as there may be very many. ``attributes`` says where each one lies, ``Model.attribute`` reads
    it.
    """

    operator: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, tuple[int, int]]
    graphs: Mapping[str, tuple[Graph, ...]]
    tensors: tuple[Tensor, ...]


@dataclass(eq=False)
class Graph:
    """A graph: the model's, or one in an attribute of a node."""

    name: str = ""
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    initializers: list[Tensor] = field(default_factory=list)
    sparse: list[Tensor] = field(default_factory=list)
    """Values and indices of sparse initializers."""


@dataclass(eq=False)
class Function:
    """A function of the model's own."""

    domain: str = ""
    name: str = ""
    nodes: list[Node] = field(default_factory=list)
    opset: dict[str, int] = field(default_factory=dict)


@dataclass(eq=False)
class Model:
    """A model; ``data`` are the bytes that it was read from."""

    data: bytes
    ir_version: int = 0
    producer: str = ""
    producer_version: str = ""
    model_version: int = 0
    opset: dict[str, int] = field(default_factory=dict)
    graph: Graph | None = None
    functions: list[Function] = field(default_factory=list)
    graphs: list[Graph] = field(default_factory=list)
    """The graph and all graphs in attributes, of functions too."""
    not_text: str = ""
    """A name that is not UTF-8, as it is read here; "" where all are."""

    def attribute(self, node: Node, name: str) -> Any:
        """An attribute: an int, a text, a list of ints, a tensor of INT64 as a list of ints; None where it is not there
        or of another kind.
        """
        span = node.attributes.get(name)
        return None if span is None else _attribute_value(self.data, *span)

    def integers(self, tensor: Tensor) -> list[int] | None:
        """The values of a small tensor of INT32 or INT64; None where it is another."""
        return _integers(self.data, tensor)

    def nodes(self) -> Iterator[Node]:
        """Every node: of the graph, its subgraphs, and the functions."""
        for graph in self.graphs:
            yield from graph.nodes
        for function in self.functions:
            yield from function.nodes

    def nodes_of(self, function: Function) -> Iterator[Node]:
        """Every node of a function, those in subgraphs included."""
        pending = [*function.nodes]
        while pending:
            node = pending.pop()
            yield node
            pending += [inner for graphs in node.graphs.values() for graph in graphs for inner in graph.nodes]


def read_model(data: bytes) -> Model:
    """Read a model from protobuf bytes, those of `read_skeleton` for instance.

    Raises:
        ModelError: they are no ONNX model.
    """
    with _no_garbage():
        return _Reader(data).model()


def read_values(data: bytes, nodes_of: Model) -> Model:
    """Read the values of a model whose nodes are those of another one, without graphs in them and without functions:
    half the time of reading it all.

    Raises:
        ModelError: they are no ONNX model.
    """
    with _no_garbage():
        model = _Reader(data, without_nodes=True).model()
    if model.graph is not None and nodes_of.graph is not None:
        model.graph.nodes = nodes_of.graph.nodes
    model.data = nodes_of.data
    return model


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Everything that is read is kept; looking for garbage in it takes longer than reading it."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class _Reader:
    def __init__(self, data: bytes, *, without_nodes: bool = False) -> None:
        self._data = data
        self._without_nodes = without_nodes
        self._nodes = 0
        self._values = 0
        self._graphs: list[Graph] = []
        self._not_text = ""
        self._texts: dict[bytes, str] = {}
        self._types: dict[bytes, Type] = {}

    def model(self) -> Model:
        model = Model(self._data)
        graphs: list[tuple[int, int]] = []
        for key, at, stop, _ in fields(self._data, 0, len(self._data)):
            match key:
                case 8:  # ir_version
                    model.ir_version = signed(at)
                case 18:
                    model.producer = self._text(at, stop)
                case 26:
                    model.producer_version = self._text(at, stop)
                case 40:
                    model.model_version = signed(at)
                case 58:
                    graphs.append((at, stop))
                case 66:
                    domain, version = self._opset(at, stop)
                    model.opset[domain] = version
                case 202:
                    model.functions.append(self._function(at, stop))
        if graphs:
            model.graph = Graph()
            for span in graphs:  # protobuf merges what stands there twice
                self._graph(model.graph, *span, 0)
            self._graphs.append(model.graph)
        model.graphs = self._graphs
        model.not_text = self._not_text
        return model

    def _opset(self, at: int, stop: int) -> tuple[str, int]:
        domain, version = "", 0
        for key, begin, end, _ in fields(self._data, at, stop):
            if key == 10:
                domain = self._text(begin, end)
            elif key == 16:
                version = signed(begin)
        return "" if domain == "ai.onnx" else domain, version

    def _function(self, at: int, stop: int) -> Function:
        function = Function()
        for key, begin, end, _ in fields(self._data, at, stop):
            match key:
                case 10:
                    function.name = self._text(begin, end)
                case 58:
                    function.nodes.append(self._node(begin, end, 0))
                case 74:
                    domain, version = self._opset(begin, end)
                    function.opset[domain] = version
                case 82:
                    function.domain = self._text(begin, end)
        return function

    def _graph(self, graph: Graph, at: int, stop: int, depth: int) -> Graph:
        if depth >= MOST_DEPTH:
            raise ModelError(f"graphs in graphs, deeper than {MOST_DEPTH}")
        for key, begin, end, _ in fields(self._data, at, stop):
            match key:
                case 10:
                    if not self._without_nodes:
                        graph.nodes.append(self._node(begin, end, depth))
                case 18:
                    graph.name = self._text(begin, end)
                case 42:
                    graph.initializers.append(self._tensor(begin, end))
                case 90:
                    graph.inputs.append(self._value(begin, end))
                case 98:
                    graph.outputs.append(self._value(begin, end))
                case 106:
                    graph.values.append(self._value(begin, end))
                case 122:
                    graph.sparse += self._sparse(begin, end)
        return graph

    def _sparse(self, at: int, stop: int) -> list[Tensor]:
        return [self._tensor(begin, end) for key, begin, end, _ in fields(self._data, at, stop) if key in {10, 18}]

    def _node(self, at: int, stop: int, depth: int) -> Node:
        self._nodes += 1
        if self._nodes > MOST_NODES:
            raise ModelError(f"more than {MOST_NODES} nodes")
        operator = domain = ""
        inputs: list[str] = []
        outputs: list[str] = []
        attributes: dict[str, tuple[int, int]] = {}
        graphs: dict[str, tuple[Graph, ...]] = {}
        tensors: list[Tensor] = []
        for key, begin, end, _ in fields(self._data, at, stop):
            if key == 42:
                name = self._plain_attribute(begin, end) or self._attribute(begin, end, depth, graphs, tensors)
                attributes[name] = begin, end
            elif key == 10:
                inputs.append(self._text(begin, end))
            elif key == 18:
                outputs.append(self._text(begin, end))
            elif key == 34:
                operator = self._text(begin, end)
            elif key == 58:
                domain = self._text(begin, end)
        domain = "" if domain == "ai.onnx" else domain
        return Node(operator, domain, tuple(inputs), tuple(outputs), attributes, graphs, tuple(tensors))

    def _plain_attribute(self, at: int, stop: int) -> str:
        """The name of an attribute that says, at its end, that it is a number, a text or a list of those; else ""."""
        data = self._data
        if data[stop - 3 : stop - 1] == b"\xa0\x01" and data[stop - 1] in _PLAIN and data[at] == 10:
            size = data[at + 1]
            if size < 0x80 and at + 2 + size <= stop - 3:
                return self._text(at + 2, at + 2 + size)
        return ""

    def _attribute(
        self, at: int, stop: int, depth: int, graphs: dict[str, tuple[Graph, ...]], tensors: list[Tensor]
    ) -> str:
        """The attribute's name; the graphs and tensors in it go to where those of the node are."""
        name = ""
        found: list[Graph] = []
        for key, begin, end, _ in fields(self._data, at, stop):
            if key == 10:
                name = self._text(begin, end)
            elif key in {50, 90}:
                found.append(self._graph(Graph(), begin, end, depth + 1))
                self._graphs.append(found[-1])
            elif key in {42, 82}:
                tensors.append(self._tensor(begin, end))
            elif key in {178, 186}:
                tensors += self._sparse(begin, end)
        if found:
            graphs[name] = tuple(found)
        return name

    def _tensor(self, at: int, stop: int) -> Tensor:
        self._count()
        name, element, external, twice = "", 0, False, False
        dims: list[int] = []
        entries: dict[str, str] = {}
        stored: int | None = None
        for key, begin, end, _ in fields(self._data, at, stop):
            match key:
                case 8:
                    dims.append(signed(begin))
                case 10:
                    dims += map(signed, varints(self._data, begin, end))
                case 16:
                    element = begin
                case 66:
                    name = self._text(begin, end)
                case 74:
                    stored = end - begin
                case 106:
                    pair = {number: self._text(*span) for number, *span in self._texts_of(begin, end)}
                    twice = twice or pair.get(10, "") in entries
                    entries[pair.get(10, "")] = pair.get(18, "")
                case 112:
                    external = begin == 1
        if len(dims) > 64:
            raise ModelError(f"a tensor of {len(dims)} axes ({name[:80]!r})")
        return Tensor(name, element, tuple(dims), entries, external, stored, (at, stop), twice)

    def _texts_of(self, at: int, stop: int) -> Iterator[tuple[int, int, int]]:
        return ((key, begin, end) for key, begin, end, _ in fields(self._data, at, stop) if key & 7 == BYTES)

    def _value(self, at: int, stop: int) -> Value:
        self._count()
        name, found = "", Type()
        for key, begin, end, _ in fields(self._data, at, stop):
            if key == 10:
                name = self._text(begin, end)
            elif key == 18:
                found = self._type(begin, end)
        return Value(name, found)

    def _type(self, at: int, stop: int) -> Type:
        raw = self._data[at:stop]  # many values are of one type
        known = self._types.get(raw)
        if known is None:
            known = self._types[raw] = self._read_type(at, stop)
        return known

    def _read_type(self, at: int, stop: int) -> Type:
        for key, begin, end, _ in fields(self._data, at, stop):
            kind = _KINDS.get(key >> 3) if key & 7 == BYTES else None
            if kind == "tensor":
                return self._tensor_type(begin, end)
            if kind:
                return Type(kind)
        return Type()

    def _tensor_type(self, at: int, stop: int) -> Type:
        element, below = 0, False
        shape: list[Dim] | None = None
        for key, begin, end, _ in fields(self._data, at, stop):
            if key == 8:
                element = begin
            elif key == 18:
                shape = [] if shape is None else shape
                for inner, first, last, _ in fields(self._data, begin, end):
                    if inner == 10:
                        dim = self._dim(first, last)
                        below = below or (isinstance(dim, int) and dim < 0)
                        shape.append(None if isinstance(dim, int) and dim < 0 else dim)
        if shape is not None and len(shape) > 64:
            raise ModelError(f"a value of {len(shape)} axes")
        return Type("tensor", element, None if shape is None else tuple(shape), below)

    def _dim(self, at: int, stop: int) -> Dim:
        dim: Dim = None
        for key, begin, end, _ in fields(self._data, at, stop):
            if key == 8:
                dim = signed(begin)
            elif key == 18:
                name = self._text(begin, end)
                dim = None if name in ANONYMOUS else name
        return dim

    def _text(self, at: int, stop: int) -> str:
        raw = self._data[at:stop]
        known = self._texts.get(raw)
        if known is None:
            try:
                known = raw.decode()
            except UnicodeDecodeError:
                known = raw.decode("utf-8", "replace")
                self._not_text = self._not_text or known
            self._texts[raw] = known
        return known

    def _count(self) -> None:
        self._values += 1
        if self._values > _MOST_VALUES:
            raise ModelError(f"more than {_MOST_VALUES} values")


def _attribute_value(data: bytes, at: int, stop: int) -> Any:
    numbers: list[int] | None = None
    value: Any = None
    for key, begin, end, _ in fields(data, at, stop):
        match key:
            case 24:  # i
                value = signed(begin)
            case 34:  # s
                value = data[begin:end].decode("utf-8", "replace")
            case 42:  # t
                value = _integers(data, _Reader(data)._tensor(begin, end))
            case 64:  # ints, one by one
                numbers = [*(numbers or ()), signed(begin)]
            case 66:
                numbers = [*(numbers or ()), *map(signed, varints(data, begin, end))]
    return value if numbers is None else numbers


def _integers(data: bytes, tensor: Tensor) -> list[int] | None:
    if tensor.element not in {6, 7} or tensor.external:
        return None
    size = 8 if tensor.element == 7 else 4
    numbers: list[int] = []
    for key, begin, end, _ in fields(data, *tensor.span):
        number, kind = key >> 3, key & 7
        if number == 9 and kind == BYTES:
            raw = data[begin:end]
            return [
                int.from_bytes(raw[i : i + size], "little", signed=True) for i in range(0, len(raw) - size + 1, size)
            ]
        if number == (7 if size == 8 else 5):
            numbers += [signed(begin)] if kind == VARINT else [*map(signed, varints(data, begin, end))]
    return numbers


def left_bytes(tensor: Tensor) -> int | None:
    """The bytes of raw data that the file holds for a tensor; None where they are elsewhere or in another form."""
    if not tensor.external:
        return tensor.stored
    return left(tensor.entries) if "offset" in tensor.entries else None
