"""Signature + spec -> Plan: which engine, which batch, which shapes, which files.

Batching, optimization profiles and the config are designed here together, so that every batch and shape that the
batcher can form has a profile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tritonrepo._tensorrt import Availability
from tritonrepo.errors import EngineError, ModelError
from tritonrepo.introspect import Dim, Signature, Tensor
from tritonrepo.prepare import Prepared
from tritonrepo.spec import AxisRange, ModelSpec, Precision, TensorRange, TensorRT

ConcreteEngine = Literal["tensorrt", "onnxruntime", "python"]
Shape = tuple[int, ...]
Bounds = tuple[int, int, int]

#: Largest typical batch that is assumed when the spec names none.
_USUAL_BATCH = 8


@dataclass(frozen=True)
class Profile:
    """Shapes of every input (batch axis included) at the smallest, the typical and the largest call."""

    min: Mapping[str, Shape]
    opt: Mapping[str, Shape]
    max: Mapping[str, Shape]
    values: Mapping[str, tuple[Shape, Shape, Shape]] = field(default_factory=dict)
    """Of shape tensors, by name: their values, flat, at min, opt and max. Their shapes are in the three above too."""


@dataclass(frozen=True)
class BuildRequest:
    """All that ``_tensorrt.build`` needs to turn one ONNX file into one plan, for the GPU that it runs on.

    Who asks promises:

    - ``onnx`` is the prepared file. Its external data lies where it says. Its types are those that the plan shall
      have: the network is created strongly typed, no precision flag exists.
    - ``profiles`` is not empty. Each profile names every input of the graph in ``min``, ``opt`` and ``max``, with
      whole shapes, batch axis included, none of them -1, min <= opt <= max in each axis; a fixed axis has the same
      size in all three; a scalar has the shape (). A graph without a dynamic axis has one such profile, which TensorRT
      does not need to be told. ``values`` names the inputs that the spec holds for shape tensors.
    - The order of the profiles is what ``instance_group.profile`` in the config counts: it must be kept.

    Who builds promises:

    - an input that the network knows as a shape tensor and that has no ``values``, or the other way round, is a
      ModelError that names it, and the line to add under ``shape_values``.
    - ``output`` appears whole or not at all; so does the description beside it, ``<output>.json`` (docs/sidecar.md).
    - the plan's layers have ``precision`` where it is not fp32; otherwise the build failed.
    """

    model: str
    """The model's name, for messages."""
    onnx: Path
    profiles: tuple[Profile, ...]
    precision: Precision
    options: TensorRT
    output: Path
    """Where the plan is written; its folder exists."""
    cache: Path
    """Folder of the shared timing caches; made when it is not there."""
    expected_tensorrt: str | None = None
    """The TensorRT of the target release, build number included, where it is known: another one is an error before the
    build, unless the plan is version compatible."""
    expected_capability: str | None = None
    """The compute capability that the plan is asked for (``9.0``), where the user named one: another GPU is an error
    before the build."""


@dataclass(frozen=True)
class BuiltPlan:
    """What a build left."""

    plan: Path
    """The plan, ``BuildRequest.output``; its description is beside it, with ``.json`` after the name."""
    tensorrt: str
    """The version that built it, build number included."""
    compute_capability: str
    """Of the GPU that built it, ``9.0``."""
    seconds: float
    notes: tuple[str, ...] = ()
    """What the user should know."""
    report: Path | None = None
    """The engine inspector's report (layers, precisions, sizes), JSON."""

    @property
    def description(self) -> Path:
        """The sidecar, see docs/sidecar.md."""
        return self.plan.with_name(f"{self.plan.name}.json")


@dataclass(frozen=True)
class Plan:
    """What will be served, and why."""

    name: str
    engine: ConcreteEngine
    engine_reason: str
    max_batch_size: int
    batch_reason: str
    profiles: tuple[Profile, ...]
    files: Mapping[str, Path]
    """Files of the version directory that are copied: path below it -> source."""
    notes: tuple[str, ...] = ()
    """What the user should know: guesses that were taken, for instance."""
    output_shapes: Mapping[str, tuple[Dim, ...]] = field(default_factory=dict)
    """Shapes of outputs as ONNX Runtime infers them, for its backend, which compares the config with these and not
    with what the file says; whole shapes, batch axis included. Empty for other engines."""


#: Finds sizes at which the model runs for axes that have no range: axis keys -> sizes, or None where nothing worked.
Guess = Callable[[tuple[str, ...]], "Mapping[str, int] | None"]


def plan(
    spec: ModelSpec,
    signature: Signature,
    prepared: Prepared,
    tensorrt: Availability,
    *,
    guess: Guess,
    output_shapes: Callable[[], Mapping[str, tuple[Dim, ...]]],
    rows_mix: str | None = None,
) -> Plan:
    """Decide what will be served.

    Args:
        spec: the model's settings.
        signature: of the model to serve, as prepared.
        prepared: the file to serve.
        tensorrt: whether plans can be built here.
        guess: asked for the sizes of axes that the spec gives no range for; never asked for tensorrt, whose plans hold
            for their ranges only.
        output_shapes: asked for the outputs' shapes as ONNX Runtime infers them; only for its backend.
        rows_mix: why the model must not batch although its axes would allow it, as verification found.

    Raises:
        ModelError: the spec asks for what the model cannot do, or an axis has no range.
        EngineError: the engine that was asked for cannot be built here.
    """
    _check_ranges_are_used(spec, signature)
    engine, engine_reason = _engine(spec, tensorrt)
    batch, batch_reason = _batch(spec, signature, rows_mix or _no_batch(signature, prepared))
    if engine == "python":
        _check_python_types(signature)
    else:
        _check_inputs(engine, signature)
        if not batch:
            _check_no_scalars(engine, signature)
    missing = _missing_ranges(spec, signature, batch)
    guesses = (guess(missing) if engine != "tensorrt" else None) if missing else {}
    if guesses is None:
        raise ModelError(
            f"model {spec.name}: no range is given for the dynamic axes {', '.join(missing)}",
            where=spec.onnx,
            hint=_range_hint(spec, signature, missing),
        )
    return Plan(
        name=spec.name,
        engine=engine,
        engine_reason=engine_reason,
        max_batch_size=batch,
        batch_reason=batch_reason,
        profiles=(_profile(spec, signature, batch, guesses),),
        files=_files(prepared),
        output_shapes=output_shapes() if engine == "onnxruntime" else {},
        notes=tuple(f"{key} has no range in the spec: verified at {size} only" for key, size in guesses.items()),
    )


def _missing_ranges(spec: ModelSpec, signature: Signature, batch: int) -> tuple[str, ...]:
    """The axes, by ``axis_key``, whose size nobody said: dynamic, not the batch, without a range in the spec."""
    return tuple(
        dict.fromkeys(
            axis_key(tensor, axis)
            for tensor in signature.inputs
            for axis, dim in enumerate(tensor.shape)
            if not isinstance(dim, int)
            and not (axis == 0 and batch)
            and tensor.name not in spec.shapes
            and dim not in spec.shapes
        )
    )


def axis_key(tensor: Tensor, axis: int) -> str:
    """How an axis is named to people: by its symbol, or as ``x[2]`` where it has none."""
    dim = tensor.shape[axis]
    return dim if isinstance(dim, str) else f"{tensor.name}[{axis}]"


def _range_hint(spec: ModelSpec, signature: Signature, missing: tuple[str, ...]) -> str:
    """The lines to add to the spec for axes without a range."""
    lines = []
    for tensor in signature.inputs:
        wanted = [key for axis in range(len(tensor.shape)) if (key := axis_key(tensor, axis)) in missing]
        if any(key not in tensor.shape for key in wanted):  # an axis without a name is ranged through its tensor
            sizes = [dim if isinstance(dim, int) else "..." for dim in tensor.shape]
            shape = f"[{', '.join(map(str, sizes))}]"
            lines.append(f"{tensor.name}: {{min: {shape}, opt: {shape}, max: {shape}}}")
        else:
            lines += [f"{key}: {{min: ..., opt: ..., max: ...}}" for key in wanted]
    body = "".join(f"\n        {line}" for line in dict.fromkeys(lines))
    return f"Say in the spec, under the model {spec.name}:\n      shapes:{body}"


def _engine(spec: ModelSpec, tensorrt: Availability) -> tuple[ConcreteEngine, str]:
    if spec.precision != "fp32":
        raise EngineError(
            f"model {spec.name}: precision {spec.precision} is not built by this version",
            hint="Convert the ONNX file first and leave `precision: fp32`, which keeps the file's own types.",
        )
    if spec.engine == "tensorrt" and not tensorrt.ok:
        raise EngineError(
            f"model {spec.name}: engine tensorrt was asked for, but {tensorrt.reason}",
            hint="Use `engine: auto` (or python, onnxruntime); `tritonrepo doctor` says what this machine can build.",
        )
    if spec.engine == "auto":
        return ("tensorrt", tensorrt.reason) if tensorrt.ok else ("python", f"auto: {tensorrt.reason}")
    return spec.engine, "the spec says so"


def _no_batch(signature: Signature, prepared: Prepared) -> str | None:
    """Why the graph has no batch axis; None where it may have one."""
    if signature.batch:
        return None
    obstacle = prepared.refused.get("dynamic_batch")
    return f"{signature.batch_reason}, and cannot be made dynamic: {obstacle}" if obstacle else signature.batch_reason


def _batch(spec: ModelSpec, signature: Signature, refused: str | None) -> tuple[int, str]:
    """The largest batch, and why."""
    wanted = spec.batching.max_batch_size
    if wanted == 0:
        return 0, "the spec says so"
    if refused and wanted == "auto":
        return 0, f"auto: {refused}"
    if refused:
        raise ModelError(
            f"model {spec.name}: max_batch_size {wanted} was asked for, but the model does not batch: {refused}",
            where=spec.onnx,
            hint="Export the model with a dynamic batch axis, or set `max_batch_size: 0` (or auto).",
        )
    ranged = _batch_range(spec, signature)
    if wanted == "auto":
        chosen = ranged[2] if ranged else spec.batching.default_max_batch_size
        why = "the range of its batch axis in the spec" if ranged else signature.batch_reason
        return chosen, f"auto: {why}; rows were shown to be independent"
    if ranged and ranged[2] != wanted:
        raise ModelError(
            f"model {spec.name}: max_batch_size is {wanted}, but the range of the batch axis ends at {ranged[2]}",
            where=spec.onnx,
            hint="Leave the batch axis out of `shapes`; `batching` says how large it may be.",
        )
    return wanted, "the spec says so; rows were shown to be independent"


def _batch_range(spec: ModelSpec, signature: Signature) -> Bounds | None:
    """The range that ``shapes`` gives for the batch axis, by its symbol or within a whole shape."""
    for tensor in signature.inputs:
        by_symbol = spec.shapes.get(tensor.shape[0]) if isinstance(tensor.shape[0], str) else None
        if isinstance(by_symbol, AxisRange):
            return (by_symbol.min, by_symbol.opt or by_symbol.max, by_symbol.max)
        ranged = spec.shapes.get(tensor.name)
        if isinstance(ranged, TensorRange) and len(ranged.max) == len(tensor.shape):
            return (ranged.min[0], (ranged.opt or ranged.max)[0], ranged.max[0])
    return None


def _typical_batch(spec: ModelSpec, signature: Signature, batch: int) -> int:
    ranged = _batch_range(spec, signature)
    return spec.batching.opt_batch_size or (ranged[1] if ranged else min(batch, _USUAL_BATCH))


def _profile(spec: ModelSpec, signature: Signature, batch: int, guesses: Mapping[str, int]) -> Profile:
    rows = (1, _typical_batch(spec, signature, batch), batch) if batch else None
    bounds = {tensor.name: _tensor_bounds(spec, tensor, rows, guesses) for tensor in signature.inputs}
    low, typical, high = (
        {name: tuple(axis[which] for axis in axes) for name, axes in bounds.items()} for which in range(3)
    )
    return Profile(low, typical, high)


def _tensor_bounds(spec: ModelSpec, tensor: Tensor, rows: Bounds | None, guesses: Mapping[str, int]) -> list[Bounds]:
    ranged = spec.shapes.get(tensor.name)
    whole = _whole_range(spec, tensor, ranged, bool(rows)) if isinstance(ranged, TensorRange) else None
    bounds = []
    for axis, dim in enumerate(tensor.shape):
        by_symbol = spec.shapes.get(dim) if isinstance(dim, str) else None
        if axis == 0 and rows:
            bounds.append(rows)
        elif isinstance(dim, int):
            bounds.append((dim, dim, dim))
        elif whole:
            bounds.append(whole[axis])
        elif isinstance(by_symbol, AxisRange):
            bounds.append((by_symbol.min, by_symbol.opt or by_symbol.max, by_symbol.max))
        else:
            bounds.append((guesses[axis_key(tensor, axis)],) * 3)
    return bounds


def _whole_range(spec: ModelSpec, tensor: Tensor, ranged: TensorRange, batched: bool) -> list[Bounds]:
    """A range that is given for a whole tensor, with or without its batch axis, held against the model's shape."""
    rank = len(tensor.shape)
    shapes = [ranged.min, ranged.opt or ranged.max, ranged.max]
    if batched and len(ranged.max) == rank - 1:
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
                f"model {spec.name}: axis {axis} of input {tensor.name} is fixed at {dim}, the range says otherwise",
                where=spec.onnx,
                hint=f"The input is {tensor}.",
            )
    return [(low, typical, high) for low, typical, high in zip(*shapes, strict=True)]


def _check_ranges_are_used(spec: ModelSpec, signature: Signature) -> None:
    symbols = {dim for tensor in signature.inputs for dim in tensor.shape if isinstance(dim, str)}
    names = {tensor.name for tensor in signature.inputs}
    for key, ranged in spec.shapes.items():
        fits = key in names if isinstance(ranged, TensorRange) else key in symbols
        if not fits:
            kind = "input" if isinstance(ranged, TensorRange) else "symbolic axis"
            known = sorted(names if isinstance(ranged, TensorRange) else symbols)
            raise ModelError(
                f"model {spec.name}: shapes names the {kind} {key!r}, which the model does not have",
                where=spec.onnx,
                hint=f"It has: {', '.join(known) or 'none'}.",
            )


def _check_python_types(signature: Signature) -> None:
    for tensor in (*signature.inputs, *signature.outputs):
        if tensor.dtype == "BF16":
            raise ModelError(
                f"{tensor.name} is bfloat16, which ONNX Runtime's Python interface cannot carry",
                where=signature.path,
                hint="Cast it to float32 inside the graph, or use engine tensorrt on a GPU host.",
            )


def _check_inputs(engine: str, signature: Signature) -> None:
    """What model.py can do and the other backends cannot: no inputs at all, and axes that are always empty."""
    if not signature.inputs:
        raise ModelError(
            f"the model has no inputs, which engine {engine} cannot serve",
            where=signature.path,
            hint="Use engine python, or give the model an input.",
        )
    for tensor in (*signature.inputs, *signature.outputs):
        if 0 in tensor.shape:
            raise ModelError(
                f"{tensor.name} has an axis of size 0, which engine {engine} cannot serve",
                where=signature.path,
                hint="Use engine python, or remove the tensor: it never holds a value.",
            )


def _check_no_scalars(engine: str, signature: Signature) -> None:
    for tensor in (*signature.inputs, *signature.outputs):
        if not tensor.shape:
            raise ModelError(
                f"{tensor.name} is a scalar, which engine {engine} cannot serve from a model that does not batch",
                where=signature.path,
                hint="Use engine python, or give it an axis of size 1 in the graph.",
            )


def _files(prepared: Prepared) -> dict[str, Path]:
    folder = prepared.path.parent
    return {"model.onnx": prepared.path} | {str(file.relative_to(folder)): file for file in prepared.external_data}
