"""Batching and shape ranges -> optimization profiles, and with them all that has to fit them: preferred batch sizes,
CUDA graphs and warmup requests. Derived in one place, so that none of them can speak of a shape that no profile holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tritonrepo._coverage import BATCH, Box, Gap, Proof, Tuned, prove
from tritonrepo.errors import ModelError
from tritonrepo.introspect import Signature, Tensor
from tritonrepo.spec import AxisRange, Batching, ModelSpec, ProfileRange, Range, TensorRange, ValueRange

Shape = tuple[int, ...]
Bounds = tuple[int, int, int]

#: Largest typical batch that is assumed when the spec names none.
_USUAL_BATCH = 8
#: Types that a shape tensor can have.
_SHAPE_TYPES = ("INT32", "INT64")


@dataclass(frozen=True)
class Profile:
    """Shapes of every input (batch axis included) at the smallest, the typical and the largest call."""

    min: Mapping[str, Shape]
    opt: Mapping[str, Shape]
    max: Mapping[str, Shape]
    values: Mapping[str, tuple[Shape, Shape, Shape]] = field(default_factory=dict)
    """Of shape tensors, by name: their values, flat, at min, opt and max. Their shapes are in the three above too."""


@dataclass(frozen=True)
class Graph:
    """A CUDA graph to be captured: batches from ``lower`` to ``batch_size`` of these dims are run by it."""

    batch_size: int
    lower: int
    inputs: Mapping[str, Shape]
    """Dims without the batch axis."""


@dataclass(frozen=True)
class Warm:
    """A warmup request at a shape that matters."""

    name: str
    batch_size: int
    inputs: Mapping[str, Shape]
    """Dims without the batch axis."""


@dataclass(frozen=True)
class Serving:
    """What one config of the model selects."""

    selected: tuple[int, ...] = ()
    """Numbers of its profiles in the plan."""
    preferred_batch_sizes: tuple[int, ...] = ()
    graphs: tuple[Graph, ...] = ()
    warmups: tuple[Warm, ...] = ()
    proof: Proof | None = None
    """That every shape that may come lies in a selected profile; None where no plan is built."""


@dataclass(frozen=True)
class Design:
    """What was derived for one config."""

    profiles: tuple[Profile, ...]
    serving: Serving
    notes: tuple[str, ...] = ()


def design(spec: ModelSpec, signature: Signature, batch: int, guesses: Mapping[str, int], *, tensorrt: bool) -> Design:
    """Derive the profiles of one config and what goes with them.

    Args:
        spec: the model's settings, as the config sees them.
        signature: of the ONNX file.
        batch: max_batch_size.
        guesses: sizes of axes that the spec gives no range for, by ``axis_key``.
        tensorrt: whether a plan is built; otherwise there is one profile, for verification.

    Raises:
        ModelError: a range does not fit the model, or a shape that may come lies in no profile or, without a reason
            to choose, in several.
    """
    entries = _entries(spec, signature, batch) if tensorrt else [ProfileRange()]
    ranges = [_Ranges(spec, entry, signature, batch, guesses) for entry in entries]
    profiles = tuple(each.profile() for each in ranges)
    if not tensorrt:
        return Design(profiles, Serving((0,)))
    serving = Serving(
        selected=tuple(range(len(profiles))),
        preferred_batch_sizes=_preferred(spec.batching, ranges, batch),
        graphs=_graphs(spec, signature, batch, ranges),
        warmups=tuple(_warmups(signature, batch, ranges)),
        proof=_proof(spec, signature, batch, guesses, ranges),
    )
    return Design(profiles, serving, tuple(_notes(spec, signature, batch, ranges)))


def missing_ranges(spec: ModelSpec, signature: Signature, batch: int, *, tensorrt: bool) -> tuple[str, ...]:
    """The axes, by ``axis_key``, whose size nobody said: dynamic, not the batch, without a range in the spec."""
    listed = spec.profiles if tensorrt and isinstance(spec.profiles, tuple) else ()
    everywhere = set.intersection(*(set(entry.shapes) for entry in listed)) if listed else set()
    known = {*spec.shapes, *everywhere}
    return tuple(
        dict.fromkeys(
            axis_key(tensor, axis)
            for tensor in signature.inputs
            for axis, dim in enumerate(tensor.shape)
            if not isinstance(dim, int) and not (axis == 0 and batch) and tensor.name not in known and dim not in known
        )
    )


def axis_key(tensor: Tensor, axis: int) -> str:
    """How an axis is named to people: by its symbol, or as ``x[2]`` where it has none."""
    dim = tensor.shape[axis]
    return dim if isinstance(dim, str) else f"{tensor.name}[{axis}]"


def batch_range(spec: ModelSpec, signature: Signature) -> Bounds | None:
    """The range that ``shapes`` gives for the batch axis, by its symbol or within a whole shape."""
    for tensor in signature.inputs:
        by_symbol = spec.shapes.get(tensor.shape[0]) if tensor.shape and isinstance(tensor.shape[0], str) else None
        if isinstance(by_symbol, AxisRange):
            return _bounds(by_symbol)
        ranged = spec.shapes.get(tensor.name)
        if isinstance(ranged, TensorRange) and tensor.shape and len(ranged.max) == len(tensor.shape):
            return (ranged.min[0], (ranged.opt or ranged.max)[0], ranged.max[0])
    return None


def _entries(spec: ModelSpec, signature: Signature, batch: int) -> list[ProfileRange]:
    """The profiles that are asked for."""
    if isinstance(spec.profiles, tuple):
        for number, entry in enumerate(spec.profiles):
            if entry.batch and not batch:
                raise ModelError(
                    f"model {spec.name}: profile {number} has a range of batches, but the model does not batch",
                    where=spec.onnx,
                    hint="Leave `batch` out, or give its first axis a range under `shapes`.",
                )
            if entry.batch and entry.batch.max > batch:
                raise ModelError(
                    f"model {spec.name}: profile {number} goes to a batch of {entry.batch.max}, "
                    f"but max_batch_size is {batch}",
                    where=spec.onnx,
                    hint="No larger batch than max_batch_size is ever formed: raise the one or lower the other.",
                )
        return list(spec.profiles)
    if spec.profiles == "latency+throughput" and batch > 1:
        typical = max(2, _typical_batch(spec, signature, batch))
        return [
            ProfileRange(batch=AxisRange(min=1, opt=1, max=1)),
            ProfileRange(batch=AxisRange(min=2, opt=typical, max=batch)),
        ]
    return [ProfileRange()]


def _typical_batch(spec: ModelSpec, signature: Signature, batch: int) -> int:
    ranged = batch_range(spec, signature)
    wanted = spec.batching.opt_batch_size or (ranged[1] if ranged else _USUAL_BATCH)
    return min(wanted, batch)


def _bounds(ranged: AxisRange) -> Bounds:
    return (ranged.min, ranged.opt or ranged.max, ranged.max)


class _Ranges:
    """The ranges of one profile: the entry's own over the model's."""

    def __init__(
        self, spec: ModelSpec, entry: ProfileRange, signature: Signature, batch: int, guesses: Mapping[str, int]
    ) -> None:
        self._spec, self._entry, self._guesses = spec, entry, guesses
        self.rows = self._rows(signature, batch) if batch else None
        self.tensors = {tensor.name: self._tensor(tensor) for tensor in signature.inputs}
        self.values = {
            name: _values(spec, name, ranged, signature)
            for name, ranged in {**spec.shape_values, **entry.shape_values}.items()
        }
        self._keys = {tensor.name: tensor for tensor in signature.inputs}

    def profile(self) -> Profile:
        low, typical, high = (
            {name: tuple(axis[which] for axis in axes) for name, axes in self.tensors.items()} for which in range(3)
        )
        return Profile(low, typical, high, self.values)

    def tuned(self) -> Tuned:
        """The profile as a box. Axes of one name have one size, so a name is one axis of the box."""
        sides: dict[str, tuple[int, int]] = {}
        opt: dict[str, int] = {}
        for key, (low, typical, high) in self._axes():
            old = sides.get(key, (low, high))
            sides[key] = (max(old[0], low), min(old[1], high))
            opt.setdefault(key, typical)
            if sides[key][0] > sides[key][1]:
                raise ModelError(
                    f"model {self._spec.name}: the ranges of {key} do not meet: "
                    f"{old[0]} to {old[1]} for one input, {low} to {high} for another",
                    where=self._spec.onnx,
                    hint="Axes of one name have the same size in every request; give the name one range.",
                )
        return Tuned(Box(sides), opt)

    def dims(self, which: int, *, batched: bool) -> dict[str, Shape]:
        """Dims without the batch axis at min (0), opt (1) or max (2), as requests have them."""
        whole = {name: tuple(axis[which] for axis in axes) for name, axes in self.tensors.items()}
        return {name: (shape[1:] if batched else shape) or (1,) for name, shape in whole.items()}

    def _axes(self) -> Iterator[tuple[str, Bounds]]:
        if self.rows:
            yield BATCH, self.rows
        for name, axes in self.tensors.items():
            tensor = self._keys[name]
            for axis, bounds in enumerate(axes):
                if not isinstance(tensor.shape[axis], int) and not (axis == 0 and self.rows):
                    yield axis_key(tensor, axis), bounds
        for name, (low, typical, high) in self.values.items():
            for place, bounds in enumerate(zip(low, typical, high, strict=True)):
                yield f"{name}'s value {place}", bounds

    def _rows(self, signature: Signature, batch: int) -> Bounds:
        if self._entry.batch:
            return _bounds(self._entry.batch)
        return (1, _typical_batch(self._spec, signature, batch), batch)

    def _tensor(self, tensor: Tensor) -> list[Bounds]:
        found = []
        for axis, dim in enumerate(tensor.shape):
            if axis == 0 and self.rows:
                found.append(self.rows)
            elif isinstance(dim, int):
                found.append((dim, dim, dim))
            else:
                found.append(self._ranged(tensor, axis) or (self._guesses[axis_key(tensor, axis)],) * 3)
        for ranges in (self._entry.shapes, self._spec.shapes):
            self._whole(tensor, ranges)  # a range that does not fit is wrong even where another one counts
        return found

    def _ranged(self, tensor: Tensor, axis: int) -> Bounds | None:
        for ranges in (self._entry.shapes, self._spec.shapes):
            whole = self._whole(tensor, ranges)
            if whole:
                return whole[axis]
            dim = tensor.shape[axis]
            by_symbol = ranges.get(dim) if isinstance(dim, str) else None
            if isinstance(by_symbol, AxisRange):
                return _bounds(by_symbol)
        return None

    def _whole(self, tensor: Tensor, ranges: Mapping[str, Range]) -> list[Bounds] | None:
        """A range that is given for a whole tensor, with or without its batch axis, held against the model's shape."""
        ranged = ranges.get(tensor.name)
        if not isinstance(ranged, TensorRange):
            return None
        spec, rank = self._spec, len(tensor.shape)
        shapes = [ranged.min, ranged.opt or ranged.max, ranged.max]
        if self.rows and len(ranged.max) == rank - 1:
            shapes = [(0, *shape) for shape in shapes]
        if len(shapes[0]) != rank:
            raise ModelError(
                f"model {spec.name}: the range of input {tensor.name} has {len(ranged.max)} axes, the model has {rank}",
                where=spec.onnx,
                hint=f"The input is {tensor}.",
            )
        for axis, dim in enumerate(tensor.shape):
            if isinstance(dim, int) and {shape[axis] for shape in shapes} != {dim}:
                raise ModelError(
                    f"model {spec.name}: axis {axis} of input {tensor.name} is fixed at {dim}, "
                    "the range says otherwise",
                    where=spec.onnx,
                    hint=f"The input is {tensor}.",
                )
        return [(low, typical, high) for low, typical, high in zip(*shapes, strict=True)]


def _values(spec: ModelSpec, name: str, ranged: ValueRange, signature: Signature) -> tuple[Shape, Shape, Shape]:
    """The values of a shape tensor at min, opt and max."""
    tensor = next((each for each in signature.inputs if each.name == name), None)
    if tensor is None or tensor.dtype not in _SHAPE_TYPES:
        known = [each.name for each in signature.inputs if each.dtype in _SHAPE_TYPES]
        raise ModelError(
            f"model {spec.name}: shape_values names {name!r}, which is no input of type INT32 or INT64",
            where=spec.onnx,
            hint=f"It has: {', '.join(known) or 'none'}.",
        )
    count = math.prod(dim for dim in tensor.shape if isinstance(dim, int))
    if len(ranged.max) != count and all(isinstance(dim, int) for dim in tensor.shape):
        raise ModelError(
            f"model {spec.name}: shape_values gives {len(ranged.max)} values for {name}, which has {count}",
            where=spec.onnx,
            hint=f"The input is {tensor}.",
        )
    return (ranged.min, ranged.opt or ranged.max, ranged.max)


# ---- what goes with the profiles -------------------------------------------------------------------------------------


def _proof(
    spec: ModelSpec, signature: Signature, batch: int, guesses: Mapping[str, int], ranges: list[_Ranges]
) -> Proof:
    """Every shape that may come lies in a profile.

    What may come: every batch up to max_batch_size; of the other axes what the model's ranges allow, and where the spec
    gives ranges in listed profiles only, what any of these allows.
    """
    tuned = [each.tuned() for each in ranges]
    rows = {BATCH: (1, batch)} if batch else {}
    if missing_ranges(spec.model_copy(update={"profiles": "single"}), signature, batch, tensorrt=True):
        reach = [Box({**each.box.sides, **rows}) for each in tuned]
    else:
        model = _Ranges(spec, ProfileRange(), signature, batch, guesses).tuned().box.sides
        listed = {key: side for each in tuned for key, side in each.box.sides.items() if key not in model}
        reach = [Box({**listed, **model, **rows})]
    found = prove(reach, tuned)
    if isinstance(found, Proof):
        return found
    raise ModelError(
        f"model {spec.name}: {found}",
        where=spec.onnx,
        hint="The profiles under `profiles` together must hold all that may come: every batch up to max_batch_size, at "
        "every size that the ranges allow."
        if isinstance(found, Gap)
        else "End one profile where the next one begins, so that each shape lies in one.",
    )


def _by_batch(ranges: list[_Ranges]) -> bool:
    """Whether there are profiles for different batches."""
    return len({each.rows and (each.rows[0], each.rows[2]) for each in ranges}) > 1


def _preferred(batching: Batching, ranges: list[_Ranges], batch: int) -> tuple[int, ...]:
    """Preferred batch sizes; the largest batch is one, for the batcher forms none above the largest preferred."""
    if batching.preferred_batch_sizes or not batching.dynamic or not _by_batch(ranges):
        return batching.preferred_batch_sizes
    return tuple(sorted({each.rows[1] for each in ranges if each.rows and each.rows[1] > 1} | {batch}))


def _warmups(signature: Signature, batch: int, ranges: list[_Ranges]) -> Iterator[Warm]:
    """One request at the opt shape of each profile, one row alone, and the largest shape, which needs most memory."""
    if any(tensor.dtype == "STRING" for tensor in signature.inputs) or any(each.values for each in ranges):
        return  # zeros are no likely values of a text or a shape
    seen: list[tuple[int, Mapping[str, Shape]]] = []

    def fresh(name: str, rows: int, dims: Mapping[str, Shape]) -> Iterator[Warm]:
        if (rows, dims) not in seen:
            seen.append((rows, dims))
            yield Warm(name, rows, dims)

    for number, each in enumerate(ranges):
        rows = each.rows or (1, 1, 1)
        of = f" of profile {number}" if len(ranges) > 1 else ""
        yield from fresh(f"opt{of}", rows[1], each.dims(1, batched=batch > 0))
        yield from fresh(
            f"one row{of}" if batch else f"min{of}", rows[0], each.dims(1 if batch else 0, batched=batch > 0)
        )
        yield from fresh(f"max{of}", rows[2], each.dims(2, batched=batch > 0))


def _graphs(spec: ModelSpec, signature: Signature, batch: int, ranges: list[_Ranges]) -> tuple[Graph, ...]:
    if spec.cuda_graphs == "off" or not batch or any(each.values for each in ranges):
        return ()
    if spec.cuda_graphs == "auto":
        return tuple(graph for each in ranges for graph in _graphs_of(each))
    return tuple(_listed_graphs(spec, signature, batch, ranges))


def _graphs_of(ranges: _Ranges) -> Iterator[Graph]:
    """Graphs for every batch of a profile: 1, 2, 3, 4, 6, 8, 12, 16, ...; a batch between two is run by the larger."""
    low, _, high = ranges.rows or (1, 1, 1)
    lower = low
    for size in sorted({*(size for size in _ladder(high) if size >= low), high}):
        yield Graph(size, lower, ranges.dims(1, batched=True))
        lower = size + 1


def _ladder(high: int) -> Iterator[int]:
    size = 1
    while size <= high:
        yield size
        if size > 1 and size * 3 // 2 <= high:
            yield size * 3 // 2
        size *= 2


def _listed_graphs(spec: ModelSpec, signature: Signature, batch: int, ranges: list[_Ranges]) -> Iterator[Graph]:
    assert isinstance(spec.cuda_graphs, tuple)  # noqa: S101 - the caller has looked
    names = {tensor.name for tensor in signature.inputs}
    for number, asked in enumerate(spec.cuda_graphs):
        what = f"model {spec.name}: CUDA graph {number}"
        unknown = sorted(asked.inputs.keys() - names)
        if unknown:
            hint = f"It has: {', '.join(sorted(names))}."
            raise ModelError(f"{what} names {unknown[0]!r}, which is no input", where=spec.onnx, hint=hint)
        lower = asked.batch_size if asked.lower_batch_size is None else asked.lower_batch_size
        if not 1 <= lower <= asked.batch_size <= batch:
            raise ModelError(
                f"{what} is for batches {lower} to {asked.batch_size}, but batches go from 1 to {batch}",
                where=spec.onnx,
                hint="Correct batch_size and lower_batch_size.",
            )
        dims = {**ranges[0].dims(1, batched=True), **asked.inputs}
        if not any(_holds(each, asked.batch_size, lower, dims) for each in ranges):
            hint = "Choose sizes within one profile's ranges; the batches of a graph must not reach into another one."
            raise ModelError(f"{what} lies in no profile", where=spec.onnx, hint=hint)
        yield Graph(asked.batch_size, lower, dims)


def _holds(ranges: _Ranges, batch: int, lower: int, dims: Mapping[str, Shape]) -> bool:
    low, _, high = ranges.rows or (0, 0, 0)
    if not low <= lower <= batch <= high:
        return False
    for name, axes in ranges.tensors.items():
        bounds = axes[1:]
        shape = dims[name] if bounds else ()
        if len(shape) != len(bounds):
            return False
        if not all(least <= size <= most for size, (least, _, most) in zip(shape, bounds, strict=True)):
            return False
    return True


def _notes(spec: ModelSpec, signature: Signature, batch: int, ranges: list[_Ranges]) -> Iterator[str]:
    if spec.profiles == "latency+throughput" and batch <= 1:
        yield "profiles: one is enough, because there are no batches of several rows"
    if spec.cuda_graphs != "off" and not batch:
        yield "cuda_graphs: none, because the TensorRT backend launches none where max_batch_size is 0"
    elif spec.cuda_graphs != "off" and any(each.values for each in ranges):
        yield "cuda_graphs: none, because the TensorRT backend captures none with shape tensors"
    elif spec.cuda_graphs == "auto" and any(
        low != high for each in ranges for key, (low, high) in each.tuned().box.sides.items() if key != BATCH
    ):
        yield "cuda_graphs: requests at the opt dims only are run by a graph"
