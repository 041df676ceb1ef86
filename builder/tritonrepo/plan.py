"""Signature + spec -> Plan: which engine, which batch, which shapes, which files.

Batching, optimization profiles and the config are designed here together, so that every batch and shape that the
batcher can form has a profile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from tritonrepo._tensorrt import Availability
from tritonrepo.accelerators import accelerator
from tritonrepo.errors import EngineError, MissingRangeError, ModelError
from tritonrepo.introspect import Dim, Signature
from tritonrepo.prepare import Prepared
from tritonrepo.profiles import (
    Profile,
    Serving,
    Shape,
    axis_key,
    batch_range,
    design,
    missing_ranges,
)
from tritonrepo.spec import ModelSpec, PrecisionName, TensorRange, TensorRT, precision_of

__all__ = ["BuildRequest", "BuiltPlan", "ConfigPlan", "Plan", "Profile", "Serving", "Shape", "axis_key", "plan"]

ConcreteEngine = Literal["tensorrt", "onnxruntime", "python"]


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
    precision: PrecisionName
    options: TensorRT
    output: Path
    """Where the plan is written; its folder exists."""
    cache: Path
    """Folder of the shared timing caches; made when it is not there."""
    release: str = ""
    """The Triton release that will serve it: what it cannot load or run on is an error before the build."""
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
class ConfigPlan:
    """A further config of the model, configs/NAME.pbtxt."""

    max_batch_size: int
    batch_reason: str
    serving: Serving
    gpus: tuple[str, ...] = ()
    """Compute capabilities of the GPUs that it is for; all where there are none."""
    accelerator: Mapping[str, object] | None = None
    """As ``Plan.accelerator``, for its own shapes."""


@dataclass(frozen=True)
class Plan:
    """What will be served, and why."""

    name: str
    engine: ConcreteEngine
    engine_reason: str
    max_batch_size: int
    batch_reason: str
    profiles: tuple[Profile, ...]
    """All profiles of all configs; the config itself selects the first ones."""
    files: Mapping[str, Path]
    """Files of the version directory that are copied: path below it -> source."""
    notes: tuple[str, ...] = ()
    """What the user should know: guesses that were taken, for instance."""
    output_shapes: Mapping[str, tuple[Dim, ...]] = field(default_factory=dict)
    """Shapes of outputs as ONNX Runtime infers them, for its backend, which compares the config with these and not
    with what the file says; whole shapes, batch axis included. Empty for other engines."""
    serving: Serving = field(default_factory=Serving)
    """What the config selects and says beside its profiles."""
    configs: Mapping[str, ConfigPlan] = field(default_factory=dict)
    """Further configs, by name."""
    accelerator: Mapping[str, object] | None = None
    """What runs the model on a GPU in the ONNX Runtime backend: an entry of gpu_execution_accelerator."""
    gpus: tuple[str, ...] = ()
    """Compute capabilities of the fleet (``9.0``): one plan for each. Empty: one plan, for the GPU that builds it."""

    def profiles_for(self, capability: str) -> tuple[Profile, ...]:
        """The profiles of the plan for one GPU: those that a config for it selects, and what stands before them, since
        configs call profiles by their numbers.
        """
        users = [each.serving for each in self.configs.values() if not each.gpus or capability in each.gpus]
        last = max((number for user in (self.serving, *users) for number in user.selected), default=0)
        return self.profiles[: last + 1]

    def plan_file(self, capability: str) -> str:
        """Name of the plan for one GPU in the version's folder."""
        return plan_file(capability) if self.gpus else "model.plan"


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
    gpus: tuple[str, ...] = (),
    release: str = "",
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
        gpus: compute capabilities of the fleet.
        release: the Triton release that will serve it, for what its backends can be told.

    Raises:
        ModelError: the spec asks for what the model cannot do, or an axis has no range.
        EngineError: the engine that was asked for cannot be built here.
    """
    _check_ranges_are_used(spec, signature)
    engine, engine_reason = _engine(spec, tensorrt)
    refused = rows_mix or _no_batch(signature, prepared)
    batch, batch_reason = _batch(spec, signature, refused)
    if engine == "python":
        _check_python_types(signature)
    else:
        _check_inputs(engine, signature)
        if not batch:
            _check_no_scalars(engine, signature)
    made = engine == "tensorrt"
    # TensorRT builds for ranges, in ONNX Runtime too: there it would build anew, while requests wait.
    ranged = made or (engine == "onnxruntime" and spec.accelerator == "tensorrt")
    guesses = _guesses(spec, signature, batch, ranged, guess)
    main = design(spec, signature, batch, guesses, tensorrt=made)
    accelerated, words = accelerator(spec, signature, main.profiles[0], release)
    profiles = list(main.profiles)
    configs = {}
    for name in spec.configs:
        seen = as_config(spec, name)
        _check_ranges_are_used(seen, signature)
        rows, why = _batch(seen, signature, refused)
        if rows and not batch:
            raise ModelError(
                f"model {spec.name}: config {name} batches, but the model itself does not ({batch_reason})",
                where=spec.onnx,
                hint="What is proven is the model's own batching: let it batch, and set max_batch_size: 0 in a config.",
            )
        found = design(seen, signature, rows, _guesses(seen, signature, rows, ranged, guess), tensorrt=made)
        serving = replace(found.serving, selected=tuple(_place(profiles, each) for each in found.profiles))
        entry, _ = accelerator(seen, signature, found.profiles[0], release)
        configs[name] = ConfigPlan(rows, why, serving, spec.configs[name].gpus or (), entry)
    return Plan(
        name=spec.name,
        engine=engine,
        engine_reason=engine_reason,
        max_batch_size=batch,
        batch_reason=batch_reason,
        profiles=tuple(profiles),
        files=_files(prepared) if not made else {},
        output_shapes=output_shapes() if engine == "onnxruntime" else {},
        notes=(
            *main.notes,
            *words,
            *_proven(main.serving),
            *(f"{key} has no range in the spec: verified at {size} only" for key, size in guesses.items()),
        ),
        serving=main.serving,
        configs=configs,
        accelerator=accelerated,
        gpus=gpus if made else (),
    )


def _guesses(spec: ModelSpec, signature: Signature, batch: int, ranged: bool, guess: Guess) -> Mapping[str, int]:
    """Sizes for the axes without a range; where all need one there must be none."""
    missing = missing_ranges(spec, signature, batch, tensorrt=ranged and spec.engine != "onnxruntime")
    found = (guess(missing) if not ranged else None) if missing else {}
    if found is None:
        raise MissingRangeError(
            f"model {spec.name}: no range is given for the dynamic axes {', '.join(missing)}",
            where=spec.onnx,
            hint=_range_hint(spec, signature, missing),
        )
    return found


def as_config(spec: ModelSpec, name: str) -> ModelSpec:
    """The model's settings as its further config of that name sees them."""
    config = spec.configs[name]
    given = {key: getattr(config, key) for key in ("batching", "instances", "profiles", "cuda_graphs")}
    changes = {key: value for key, value in given.items() if value is not None}
    return spec.model_copy(update={**changes, "config": {**spec.config, **config.config}, "configs": {}})


def _proven(serving: Serving) -> tuple[str, ...]:
    if serving.proof is None:
        return ()
    count = len(serving.selected)
    which = "the profile" if count == 1 else f"one of {count} profiles"
    return (f"each of the {serving.proof.shapes:,} shapes that may come lies in {which}",)


def plan_file(capability: str) -> str:
    """Name of the plan for a compute capability in a fleet: ``model_sm90.plan``."""
    return f"model_sm{capability.replace('.', '')}.plan"


def _place(profiles: list[Profile], profile: Profile) -> int:
    """The number of a profile; it is added where it is not there yet."""
    if profile not in profiles:
        profiles.append(profile)
    return profiles.index(profile)


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
    if spec.engine == "tensorrt" and not tensorrt.ok:
        raise EngineError(
            f"model {spec.name}: engine tensorrt was asked for, but {tensorrt.reason}",
            hint="Use `engine: auto` (or python, onnxruntime); `tritonrepo doctor` says what this machine can build.",
        )
    if precision_of(spec).type == "bf16" and (spec.engine in ("python", "onnxruntime") or not tensorrt.ok):
        why = f"the spec asks for {spec.engine}" if spec.engine != "auto" else tensorrt.reason
        raise EngineError(
            f"model {spec.name}: precision bf16 needs engine tensorrt, because ONNX Runtime cannot run BF16 on a CPU; "
            f"{why}",
            hint="Use precision fp16 or mixed here, or build on a GPU host with TensorRT.",
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
    ranged = batch_range(spec, signature)
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


def _check_ranges_are_used(spec: ModelSpec, signature: Signature) -> None:
    listed = spec.profiles if isinstance(spec.profiles, tuple) else ()
    symbols = {dim for tensor in signature.inputs for dim in tensor.shape if isinstance(dim, str)}
    names = {tensor.name for tensor in signature.inputs}
    for key, ranged in (item for shapes in (spec.shapes, *(each.shapes for each in listed)) for item in shapes.items()):
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
