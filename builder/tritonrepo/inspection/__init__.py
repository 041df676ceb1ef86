"""ONNX -> Inspection: what a file is, what would become of it, and what it costs. Nothing is built and nothing is run.

Neither weights nor the onnx library are loaded: the graph is read from the file's bytes (`_skeleton`, `_graph`), and
shapes are inferred in a process with limits (`_shapes`). Only the preparation is asked in a process that loads onnx.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from tritonrepo._graph import ANONYMOUS, Dim, Model, Tensor, Type, Value, left_bytes, read_model
from tritonrepo._shapes import infer_shapes
from tritonrepo._skeleton import left, read_skeleton
from tritonrepo.errors import ModelError, UsageError
from tritonrepo.inspection.foresee import Foreseeing, Foreseen
from tritonrepo.inspection.macs import Counted, count
from tritonrepo.inspection.trt import Outlook, outlook, tensors
from tritonrepo.inspection.types import BITS, name_of
from tritonrepo.introspect import TRITON_DTYPE, conclude_batch
from tritonrepo.introspect import Tensor as Plain

#: Sizes at which axes that have none are counted: the batch, the axes of images (rank 4), all others.
BATCH_SIZE, IMAGE_SIZE, OTHER_SIZE = 1, 224, 128

_MOST_PROBLEMS = 20


@dataclass(frozen=True)
class Port:
    """An input or output."""

    name: str
    type: str
    """Triton's name of the element type without TYPE_, ONNX's where Triton has none; or sequence, optional, map, ..."""
    triton: bool
    """Whether Triton can carry the type."""
    shape: tuple[Dim, ...] | None
    """The whole shape, batch axis included; None where the file does not say even the rank."""
    optional: bool = False
    """An input that has a value in the file."""

    def __str__(self) -> str:
        dims = "..." if self.shape is None else ",".join("?" if dim is None else str(dim) for dim in self.shape)
        return f"{self.name} {self.type}[{dims}]"


@dataclass(frozen=True)
class Axis:
    """A symbolic axis and where it stands: ``x[0]``."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Batch:
    """Whether the first axis may be a batch, and how that was concluded; a build proves it."""

    possible: bool
    reason: str


@dataclass(frozen=True)
class Weights:
    """Stored tensors of one type."""

    type: str
    tensors: int
    elements: int
    bytes: int
    """By dims and type; for strings, what the file holds."""


@dataclass(frozen=True)
class External:
    """A file with weights."""

    location: str
    tensors: int
    needed: int
    """Bytes of it that weights lie in."""
    size: int | None
    """None where there is no such file."""


@dataclass(frozen=True)
class Compute:
    """MACs at stated sizes, or why they could not be counted."""

    sizes: Mapping[str, int]
    """Axis (its name, or ``x[2]`` where it has none) -> size."""
    counted: Counted
    fault: str = ""


@dataclass(frozen=True)
class Inspection:
    """What was found."""

    path: Path
    bytes: int
    """Of the file itself."""
    model: Model
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    axes: tuple[Axis, ...]
    batch: Batch
    operators: Mapping[tuple[str, str], int]
    """(domain, operator) -> nodes; subgraphs and functions included."""
    nodes: int
    subgraphs: int
    weights: tuple[Weights, ...]
    external: tuple[External, ...]
    compute: Compute
    tensorrt: Outlook
    preparation: Foreseen
    problems: tuple[str, ...]
    """Why a build would refuse the file, as far as is seen here."""


def inspect(path: Path, sizes: Mapping[str, int] | None = None, *, prepare: bool = True) -> Inspection:
    """Look at an ONNX file.

    Args:
        path: the file.
        sizes: axis -> size at which to count MACs; by its name, or as ``x[2]``. Others get usual sizes.
        prepare: whether to ask what the preparation would change, which takes as long as loading onnx.

    Raises:
        ModelError: the file cannot be read, or is no ONNX file.
        UsageError: ``sizes`` names an axis that the model does not have.
    """
    data = read_skeleton(path)
    with Foreseeing(path) if prepare else Foreseeing(None) as foreseeing:
        try:
            model = read_model(data)
        except ModelError as error:
            raise ModelError(
                f"the ONNX file is damaged: {error.message}", where=path, hint="Export or fetch the model again."
            ) from None
        if model.graph is None or not model.ir_version:
            raise ModelError(
                "not an ONNX model: it holds no graph", where=path, hint="Its bytes are another protobuf, or cut."
            )
        return _inspect(path, model, sizes or {}, foreseeing)


def _inspect(path: Path, model: Model, sizes: Mapping[str, int], foreseeing: Foreseeing) -> Inspection:
    graph = model.graph
    assert graph is not None  # noqa: S101 - inspect has looked
    stored = tuple(tensors(model))
    initial = {tensor.name for tensor in graph.initializers}
    inputs = tuple(_port(value, value.name in initial) for value in graph.inputs)
    outputs = tuple(_port(value) for value in graph.outputs)
    given = tuple(port for port in inputs if not port.optional)
    batch = _batch(given, outputs)
    open_ranks = any(port.shape is None for port in outputs)
    compute, inferred = _compute(model, given, batch.possible or open_ranks, sizes)
    outputs = tuple(_with_rank(port, inferred.get(port.name)) for port in outputs)
    if not batch.possible:
        batch = _batch(given, outputs)
    nodes = Counter((node.domain, node.operator) for node in model.nodes())
    external = tuple(_external(path, stored))
    return Inspection(
        path=path,
        bytes=path.stat().st_size,
        model=model,
        inputs=inputs,
        outputs=outputs,
        axes=tuple(_axes(given, outputs)),
        batch=batch,
        operators=dict(nodes.most_common()),
        nodes=nodes.total(),
        subgraphs=len(model.graphs) - 1,
        weights=tuple(_weights(stored)),
        external=external,
        compute=compute,
        tensorrt=outlook(model, stored, _types(model, inferred)),
        preparation=foreseeing.result(),
        problems=tuple(_problems(model, given, outputs, stored, external)),
    )


def _port(value: Value, optional: bool = False) -> Port:
    if value.type.kind != "tensor":
        return Port(value.name, value.type.kind, False, None, optional)
    element = value.type.element
    return Port(value.name, name_of(element), element in TRITON_DTYPE, value.type.shape, optional)


def _with_rank(port: Port, found: Type | None) -> Port:
    """The port with the rank that inference finds, where the file says none; its sizes hold for one call only."""
    if port.shape is not None or found is None or found.shape is None or port.type != name_of(found.element):
        return port
    return Port(port.name, port.type, port.triton, (None,) * len(found.shape), port.optional)


def _batch(inputs: Sequence[Port], outputs: Sequence[Port]) -> Batch:
    plain = []
    for kind, ports in (("input", inputs), ("output", outputs)):
        group = []
        for port in ports:
            if port.shape is None:
                return Batch(False, f"the shape of {kind} {port.name} is not known")
            group.append(Plain(port.name, port.type, port.shape))
        plain.append(tuple(group))
    return Batch(*conclude_batch(*plain))


def _axes(inputs: Sequence[Port], outputs: Sequence[Port]) -> Iterator[Axis]:
    places: dict[str, tuple[list[str], list[str]]] = {}
    for side, ports in enumerate((inputs, outputs)):
        for port in ports:
            for axis, dim in enumerate(port.shape or ()):
                if isinstance(dim, str) and dim not in ANONYMOUS:
                    places.setdefault(dim, ([], []))[side].append(f"{port.name}[{axis}]")
    for name, (takes, gives) in places.items():
        yield Axis(name, tuple(takes), tuple(gives))


def _weights(stored: Sequence[Tensor]) -> Iterator[Weights]:
    groups: dict[int, list[Tensor]] = {}
    for tensor in stored:
        groups.setdefault(tensor.element, []).append(tensor)
    found = []
    for element, group in groups.items():
        elements = sum(_elements(tensor) for tensor in group)
        if element in BITS:
            size = sum(_size(tensor) for tensor in group)
        else:
            size = sum(tensor.span[1] - tensor.span[0] + (left(tensor.entries) or 0) for tensor in group)
        found.append(Weights(name_of(element), len(group), elements, size))
    yield from sorted(found, key=lambda each: -each.bytes)


def _elements(tensor: Tensor) -> int:
    return prod(max(0, dim) for dim in tensor.dims)


def _size(tensor: Tensor) -> int:
    return -(-_elements(tensor) * BITS[tensor.element] // 8)


def _external(path: Path, stored: Sequence[Tensor]) -> Iterator[External]:
    """The files that weights lie in. Where a location leaves the model's folder, nothing is looked up."""
    groups: dict[str, list[Tensor]] = {}
    for tensor in stored:
        if tensor.external and left(tensor.entries) is None:
            groups.setdefault(tensor.entries.get("location", ""), []).append(tensor)
    for location, group in sorted(groups.items()):
        needed = sum(_extent(tensor)[1] for tensor in group)
        yield External(location, len(group), needed, _size_within(path.parent, location))


def _size_within(folder: Path, location: str) -> int | None:
    try:
        file = folder / location
        inside = location and not Path(location).is_absolute() and file.resolve().is_relative_to(folder.resolve())
        return file.stat().st_size if inside and file.is_file() else None
    except (OSError, ValueError, RuntimeError):  # too long, with a zero byte, or links in a circle
        return None


def _extent(tensor: Tensor) -> tuple[int, int]:
    """Offset and length in the file with its values; what is no number counts as 0."""
    offset, length = (tensor.entries.get(key, "") for key in ("offset", "length"))
    size = _size(tensor) if tensor.element in BITS else 0
    return _number(offset), _number(length) if length else size


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0


def _compute(
    model: Model, inputs: Sequence[Port], batch: bool, wanted: Mapping[str, int]
) -> tuple[Compute, Mapping[str, Type]]:
    """MACs, and the types of values by name."""
    chosen: dict[str, int] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for port in inputs:
        if port.shape is None:
            continue
        shape = []
        for axis, dim in enumerate(port.shape):
            if isinstance(dim, int):
                shape.append(dim)
                continue
            key = dim if dim is not None else f"{port.name}[{axis}]"
            usual = IMAGE_SIZE if len(port.shape) == 4 and axis > 1 else OTHER_SIZE
            usual = BATCH_SIZE if axis == 0 and batch else usual
            shape.append(chosen.setdefault(key, wanted.get(key, usual)))
        shapes[port.name] = tuple(shape)
    unknown = sorted(set(wanted) - set(chosen))
    if unknown:
        raise UsageError(
            f"--size names the axis {unknown[0]!r}, which the inputs do not have",
            hint=f"They have: {', '.join(chosen) or 'none without a size'}.",
        )
    try:
        inferred = infer_shapes(model, shapes)
    except ModelError as error:
        return Compute(chosen, Counted(), error.message), {}
    types = {value.name: value.type for graph in inferred.graphs for value in (*graph.values, *graph.outputs)}
    return Compute(chosen, count(inferred, chosen)), types


def _types(model: Model, inferred: Mapping[str, Type]) -> Mapping[str, Type]:
    types = dict(inferred)
    for graph in model.graphs:
        types.update((value.name, value.type) for value in graph.inputs)
        types.update((tensor.name, Type("tensor", tensor.element, tensor.dims)) for tensor in graph.initializers)
    return types


def _problems(
    model: Model,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    stored: Sequence[Tensor],
    external: Sequence[External],
) -> Iterator[str]:
    """What stands in the way of serving the model; the first few of each kind."""
    assert model.graph is not None  # noqa: S101 - inspect has looked
    if model.not_text:
        yield f"a name is not UTF-8 text: {model.not_text[:200]!r}"
    if not model.graph.nodes:
        yield "the graph is empty: it has no nodes"
    for kind, ports in (("input", inputs), ("output", outputs)):
        if not ports and kind == "output":
            yield "the graph has no outputs"
        for port in ports:
            if not port.triton:
                yield f"{kind} {port.name} is of type {port.type}, which Triton cannot carry"
        for name, times in Counter(port.name for port in ports).items():
            if times > 1:
                yield f"{times} {kind}s are named {name!r}"
            if not name:
                yield f"an {kind} has no name"
    yield from _first(filter(None, map(_untrue, stored)))
    sizes = {each.location: each.size for each in external}
    for each in external:
        if each.size is None:
            yield f"the external data file {each.location!r} is missing, or lies outside the model's folder"
    yield from _first(filter(None, (_beyond(tensor, sizes) for tensor in stored)))


def _first(texts: Iterator[str | None]) -> Iterator[str]:
    for number, text in enumerate(texts):
        if number == _MOST_PROBLEMS:
            yield "and more of this kind"
            return
        if text:
            yield text


def _untrue(tensor: Tensor) -> str | None:
    """What a tensor says of itself and does not hold."""
    if tensor.twice:
        return f"weight {tensor.name!r} says twice where its data is"
    if any(dim < 0 for dim in tensor.dims):
        return f"weight {tensor.name!r} has an axis of size {min(tensor.dims)}"
    held = left_bytes(tensor)
    if held is not None and tensor.element in BITS and held != _size(tensor):
        said = f"{_elements(tensor)} elements ({_size(tensor)} bytes)"
        return f"weight {tensor.name!r} says it has {said}; it has {held} bytes"
    return None


def _beyond(tensor: Tensor, sizes: Mapping[str, int | None]) -> str | None:
    size = sizes.get(tensor.entries.get("location", "")) if tensor.external and left(tensor.entries) is None else None
    if size is None:
        return None
    offset, length = _extent(tensor)
    if offset + length > size:
        return f"weight {tensor.name!r} ends at byte {offset + length} of a file of {size} bytes"
    return None
