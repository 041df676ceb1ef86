"""The order of the steps, for one model:

    spec -> introspect -> prepare -> plan -> verify -> render -> check -> (publish)

Where the spec asks for a lower precision, the model is first planned and proven in FP32, then brought to the precision,
then planned and proven again.

Each step runs only when something it depends on changed; otherwise its result comes from the cache. Publishing, which
changes the world, is ``build``'s; all before it happens in a worker process and touches only the cache.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from pydantic import TypeAdapter

from tritonrepo import _plan_build, _plan_checks, _tensorrt
from tritonrepo import plan as planning
from tritonrepo import prepare as preparation
from tritonrepo import verify as verification
from tritonrepo._fleet import in_fleet, keep
from tritonrepo._plan_proof import prove_plan
from tritonrepo.check import BLOCKING, Target, check_staged
from tritonrepo.compare import OutputError
from tritonrepo.errors import CheckError, ModelError
from tritonrepo.fingerprint import Cache, digest, key_of, tool_version
from tritonrepo.introspect import Signature, introspect
from tritonrepo.plan import BuiltPlan, Plan, Profile
from tritonrepo.prepare import Change, Prepared
from tritonrepo.prepare.precision import Reached
from tritonrepo.prepare.precision.step import FEW_ROWS, Reduced, reduce_precision
from tritonrepo.publish import Staged
from tritonrepo.render import Rendered, render, templates_digest
from tritonrepo.spec import ModelSpec, precision_of
from tritonrepo.verify import Verdict

T = TypeVar("T")

#: Settings that planning reads.
_PLANNED = (
    "name", "engine", "precision", "batching", "shapes", "shape_values", "profiles", "cuda_graphs", "configs",
    "tensorrt", "accelerator", "accelerator_parameters", "accelerator_cache",
)  # fmt: skip

#: Steps in their order, as progress shows them.
STEPS = ("introspect", "prepare", "plan", "verify", "precision", "build", "render", "check", "publish")


@dataclass(frozen=True)
class Event:
    """A step began (``start``), ended (``done``), or was answered from the cache (``cached``)."""

    step: str
    status: str
    seconds: float = 0.0
    detail: str = ""
    """What the step is at, where it takes long."""

    def __str__(self) -> str:
        return f"{self.step}: {self.detail}" if self.detail else self.step


@dataclass(frozen=True)
class Task:
    """What a worker needs to build one model."""

    model: ModelSpec
    repository: Path
    cache: Path
    templates: Path | None
    triton: str
    gpus: tuple[str, ...] = ()
    """Compute capabilities of the fleet."""
    hold: bool = True
    """Whether a version waits for the hosts of GPUs that it would be taken from."""


#: The pass whose failure is said with the batch.
_SAID = "dynamic_batch"


@dataclass(frozen=True)
class Built:
    """A model that may be published, and what is to be said of it."""

    staged: Staged
    signature: Signature
    """Of the model that is served, as prepared."""
    plan: Plan
    verdict: Verdict
    changes: tuple[Change, ...]
    """What preparation changed."""
    left_out: tuple[str, ...]
    """What preparation could not do, and why."""
    files: tuple[Path, ...]
    """Every file that the result depends on."""
    cached: bool
    """Whether every step came from the cache."""

    @property
    def worst(self) -> OutputError | None:
        """The output with the largest error."""
        return max(self.verdict.errors, key=lambda error: (error.max_rel, error.max_abs), default=None)


def build_model(task: Task, emit: Callable[[Event], None]) -> Built:
    """Everything between the spec and publishing, for one model."""
    started = time.time()
    model, cache = task.model, Cache(task.cache)
    steps = _Steps(cache, emit)
    onnx_digest = cache.file_digest(_readable(model.onnx))

    signature = steps.run(
        "introspect",
        TypeAdapter(Signature),
        ("onnx",),
        {"path": model.onnx, "onnx": onnx_digest},
        lambda: introspect(model.onnx),
        late=lambda found: _digests(cache, found.external_data),
    )
    source = {"path": model.onnx, "onnx": onnx_digest, "external": _digests(cache, signature.external_data)}
    prepared, chosen, verdict, reached = _prepare_plan_and_verify(task, steps, signature, source)
    keep(task.repository, model, chosen)
    if chosen.engine == "tensorrt":
        chosen, verdict = _build_and_prove(task, steps, signature, prepared, chosen, source)
    served = prepared.signature
    shown = model
    if verdict.refuses_zeros and model.warmup == "auto":  # such a request would keep the server from loading the model
        shown = model.model_copy(update={"warmup": "off"})
    rendered = steps.run(
        "render",
        _RenderedCodec(),
        ("jinja2", "tritonclient", "protobuf"),
        {
            "settings": settings(shown),
            "files": _digests(cache, copied_files(model)),
            "signature": digest(TypeAdapter(Signature).dump_python(served, mode="json")),
            "plan": digest(TypeAdapter(Plan).dump_python(chosen, mode="json")),
            "templates": templates_digest(task.templates),
        },
        lambda: render(shown, served, chosen, task.templates),
    )
    emit(Event("check", "start"))
    _check(task, rendered, chosen)
    emit(Event("check", "done"))

    sources = _digests(cache, chosen.files.values())
    staged = Staged(
        name=model.name,
        model_files=rendered.model_files,
        version_files={**chosen.files, **rendered.version_files},
        verdict=_verdict_document(task, steps, signature, prepared, chosen, verdict, reached),
        provenance=_provenance(started, steps, chosen),
        digests=sources,
        pinned_versions=model.versions.specific or (),
    )
    staged = in_fleet(staged, chosen, task.triton, hold=task.hold)
    return Built(
        staged=staged,
        signature=served,
        plan=chosen,
        verdict=verdict,
        changes=(*prepared.changes, *_already(reached)),
        left_out=tuple(f"{name} is left out: {why}" for name, why in prepared.refused.items() if name != _SAID),
        files=(model.onnx, *signature.external_data, *_samples(model), *copied_files(model)),
        cached=steps.all_cached,
    )


def _prepare_plan_and_verify(
    task: Task, steps: _Steps, signature: Signature, source: Mapping[str, object]
) -> tuple[Prepared, Plan, Verdict, Reached | None]:
    """Prepare, plan and prove; where rows turn out to depend on each other, all that again without batching. Then the
    same in the precision that is asked for.
    """
    model = task.model
    tensorrt = _tensorrt.availability()
    engine = model.engine if model.engine != "auto" else "tensorrt" if tensorrt.ok else "python"
    context = preparation.Context(model, signature, engine)
    rows_mix: str | None = None
    while True:
        prepared = _prepare(steps, context, source)
        made_to_batch = prepared.changed_by & preparation.FOR_THE_BATCH
        try:
            chosen, verdict = _plan_and_verify(task, steps, signature, prepared, source, tensorrt, rows_mix)
        except ModelError as error:
            if not made_to_batch or rows_mix:
                raise
            rows_mix = error.message  # the graph that was made to batch does not run: back to the one that was given
        else:
            if verdict.ok:
                break
            if not verdict.rows_reason:
                raise verification.explain(verdict, model, prepared.signature)
            rows_mix = verdict.rows_reason
        context = replace(context, without=preparation.FOR_THE_BATCH)
    if precision_of(model).type == "fp32":
        return prepared, chosen, verdict, None
    proven = chosen
    for rows in (FEW_ROWS, None):
        reduced = _reduce_precision(task, steps, signature, prepared, proven, source, rows)
        if precision_of(model).type == "bf16":  # ONNX Runtime has no BF16 on a CPU; the plan is proven on the GPU
            chosen = _plan(task, steps, reduced.prepared, source, tensorrt, rows_mix)
            return reduced.prepared, chosen, verdict, reduced.reached
        chosen, verdict = _plan_and_verify(task, steps, signature, reduced.prepared, source, tensorrt, rows_mix)
        if verdict.ok:
            return reduced.prepared, chosen, verdict, reduced.reached
    raise verification.explain(verdict, model, reduced.prepared.signature)


def _build_and_prove(
    task: Task, steps: _Steps, signature: Signature, prepared: Prepared, chosen: Plan, source: Mapping[str, object]
) -> tuple[Plan, Verdict]:
    """Build the TensorRT plan of what was chosen and proven, and prove it on the GPU; that verdict counts."""
    model, tensorrt = task.model, _tensorrt.availability()
    gpu = _plan_checks.chosen_gpu(model, tensorrt)
    profiles = chosen.profiles_for(gpu.capability)
    device = [tensorrt.reason, gpu.ordinal, gpu.name]
    inputs = {
        # By content alone, wherever it lies: what follows takes minutes.
        "prepared": list(_digests(steps.cache, (prepared.path, *prepared.external_data)).values()),
        "profiles": TypeAdapter(tuple[Profile, ...]).dump_python(profiles, mode="json"),
        "file": chosen.plan_file(gpu.capability),
        "settings": settings(model, "name", "tensorrt", "precision"),
        "plugins": list(_digests(steps.cache, model.tensorrt.plugins).values()),
        "tensorrt": device,
        "release": task.triton,
    }
    key = key_of("build", ("tensorrt",), inputs)

    def fill(folder: Path) -> None:
        request = _plan_build.request_for(
            model, prepared, chosen, gpu, folder, steps.cache.root / "tensorrt", task.triton
        )
        _plan_build.build_into(folder, request, lambda event: steps.emit(Event("build", "progress", detail=str(event))))

    built = steps.run(
        "build",
        TypeAdapter(BuiltPlan),
        ("tensorrt",),
        inputs,
        lambda: _plan_build.built_in(steps.cache.folder("plans", key, fill)),
        late=lambda found: _digests(steps.cache, (found.plan, found.description)),
    )
    verdict = steps.run(
        "verify",
        TypeAdapter(Verdict),
        ("onnxruntime", "numpy", "tensorrt"),
        {
            **_artefact(steps, prepared, source),
            "plan": _digests(steps.cache, (built.plan, built.description)),
            "settings": settings(model, "verification", "tensorrt", "precision"),
            "samples": _digests(steps.cache, model.verification.samples),
            "max_batch_size": chosen.max_batch_size,
            "tensorrt": device,
        },
        lambda: prove_plan(model, signature, prepared, chosen, built.plan, profiles),
    )
    if not verdict.ok:
        raise verification.explain(verdict, model, prepared.signature)
    files = {built.plan.name: built.plan, built.description.name: built.description}
    notes = (*chosen.notes, *built.notes, f"layers and types of the plan: {built.report}")
    return replace(chosen, files=files, notes=notes), verdict


def _reduce_precision(
    task: Task,
    steps: _Steps,
    signature: Signature,
    prepared: Prepared,
    chosen: Plan,
    source: Mapping[str, object],
    rows: int | None,
) -> Reduced:
    """Bring the prepared model to the precision that is asked for."""
    model = task.model
    inputs = {
        "source": source,
        "prepared": _digests(steps.cache, (prepared.path, *prepared.external_data)),
        "names": prepared.names,
        "settings": settings(model, "precision", "verification"),
        "samples": _digests(steps.cache, _samples(model)),
        "profiles": TypeAdapter(Plan).dump_python(chosen, mode="json")["profiles"],
        "max_batch_size": chosen.max_batch_size,
        "rows": rows,
    }
    tools = ("onnx", "onnxruntime", "numpy")
    key = key_of("precision", tools, inputs)
    return steps.run(
        "precision",
        TypeAdapter(Reduced),
        tools,
        inputs,
        lambda: reduce_precision(
            model,
            signature,
            prepared,
            chosen,
            rows,
            lambda fill: steps.cache.folder("precision", key, fill),
            lambda text: steps.emit(Event("precision", "progress", detail=text)),
            steps.cache.root / "precision",
        ),
        late=lambda found: _digests(steps.cache, (found.prepared.path, *found.prepared.external_data)),
    )


def _already(reached: Reached | None) -> tuple[Change, ...]:
    """What is said of a model that was in the precision before."""
    return (Change("precision", reached.summary(), "nothing was to be done"),) if reached and reached.already else ()


def _samples(model: ModelSpec) -> tuple[Path, ...]:
    """Every sample file that the spec names."""
    return (*model.verification.samples, *precision_of(model).calibration)


def _prepare(steps: _Steps, context: preparation.Context, source: Mapping[str, object]) -> Prepared:
    inputs = {"source": source, "settings": preparation.settings(context)}
    key = digest([inputs, tool_version("tritonrepo")])
    return steps.run(
        "prepare",
        TypeAdapter(Prepared),
        ("onnx", "onnxruntime"),
        inputs,
        lambda: preparation.prepare(context, lambda fill: steps.cache.folder("prepared", key, fill)),
        late=lambda found: _digests(steps.cache, _files_of(found)),
    )


def _files_of(prepared: Prepared) -> tuple[Path, ...]:
    """Every file that preparation gave."""
    return (prepared.path, *prepared.external_data, *((prepared.reference,) if prepared.reference else ()))


def _plan_and_verify(
    task: Task,
    steps: _Steps,
    signature: Signature,
    prepared: Prepared,
    source: Mapping[str, object],
    tensorrt: _tensorrt.Availability,
    rows_mix: str | None,
) -> tuple[Plan, Verdict]:
    """Plan, and compare what is planned with the original."""
    chosen = _plan(task, steps, prepared, source, tensorrt, rows_mix)
    model = task.model
    verdict = steps.run(
        "verify",
        TypeAdapter(Verdict),
        ("onnxruntime", "numpy"),
        {
            **_artefact(steps, prepared, source),
            "settings": settings(model, "verification"),
            "precision": verification.precision_reached(model, prepared),
            "samples": _digests(steps.cache, model.verification.samples),
            "profiles": TypeAdapter(Plan).dump_python(chosen, mode="json")["profiles"],
            "max_batch_size": chosen.max_batch_size,
        },
        lambda: verification.verify(model, signature, prepared, chosen),
    )
    return chosen, verdict


def _artefact(steps: _Steps, prepared: Prepared, source: Mapping[str, object]) -> dict[str, object]:
    """What depends on the original and on what preparation made of it."""
    digests = _digests(steps.cache, _files_of(prepared))
    return {"source": source, "prepared": digests, "names": prepared.names}


def _plan(
    task: Task,
    steps: _Steps,
    prepared: Prepared,
    source: Mapping[str, object],
    tensorrt: _tensorrt.Availability,
    rows_mix: str | None,
) -> Plan:
    model = task.model
    return steps.run(
        "plan",
        TypeAdapter(Plan),
        ("onnxruntime",),
        {
            **_artefact(steps, prepared, source),
            "refused": prepared.refused,
            "settings": settings(model, *_PLANNED),
            "samples": _digests(steps.cache, model.verification.samples if _has_open_axes(prepared.signature) else ()),
            "tensorrt": tensorrt.reason,
            "rows_mix": rows_mix,
            "gpus": task.gpus,
            "release": task.triton,
        },
        lambda: planning.plan(
            model,
            prepared.signature,
            prepared,
            tensorrt,
            guess=lambda axes: verification.find_sizes(prepared, axes, samples=model.verification.samples),
            output_shapes=lambda: verification.output_shapes(prepared),
            rows_mix=rows_mix,
            gpus=task.gpus,
            release=task.triton,
        ),
    )


def _preparation_document(prepared: Prepared) -> dict[str, object]:
    """What preparation did, for the verdict's document."""
    return {
        "changes": [{"pass": change.by, "what": change.what, "why": change.why} for change in prepared.changes],
        "names": dict(prepared.names),
        "refused": dict(prepared.refused),
    }


def _has_open_axes(signature: Signature) -> bool:
    """Whether a size may have to be guessed, or taken from a sample: an axis is dynamic that is not the batch."""
    first = 1 if signature.batch else 0
    return any(not isinstance(dim, int) for tensor in signature.inputs for dim in tensor.shape[first:])


def settings(model: ModelSpec, *only: str) -> Any:
    """A model's settings as JSON values. Files appear by name: where they lie is no part of what is built."""
    return _portable(model.model_dump(include=set(only) or None))


def copied_files(model: ModelSpec) -> tuple[Path, ...]:
    """Files that the spec names and that go into the repository as they are: labels and warmup data."""
    warmups = model.warmup if not isinstance(model.warmup, str) else ()
    data = [each.data for warmup in warmups for each in warmup.inputs.values() if isinstance(each.data, Path)]
    return (*model.labels.values(), *data)


class Codec(Protocol[T]):
    """Turns a result into JSON values and back; pydantic's TypeAdapter is one."""

    def dump_python(self, instance: T, /, *, mode: Literal["json"]) -> Any:
        """The value as JSON values."""

    def validate_python(self, value: Any, /) -> T:
        """The value from JSON values."""


class _RenderedCodec:
    """Rendered holds texts and paths side by side, which JSON would not tell apart."""

    def dump_python(self, instance: Rendered, /, *, mode: Literal["json"]) -> Any:
        copied = {name: str(file) for name, file in instance.model_files.items() if isinstance(file, Path)}
        written = {name: text.decode() for name, text in instance.model_files.items() if isinstance(text, bytes)}
        version = {name: text.decode() for name, text in instance.version_files.items()}
        return {"copied": copied, "written": written, "version": version}

    def validate_python(self, value: Any, /) -> Rendered:
        copied = {name: Path(file) for name, file in value["copied"].items()}
        written = {name: text.encode() for name, text in value["written"].items()}
        return Rendered({**written, **copied}, {name: text.encode() for name, text in value["version"].items()})


@dataclass
class _Steps:
    """Runs steps, or finds their results in the cache; remembers how long each took."""

    cache: Cache
    emit: Callable[[Event], None]
    seconds: dict[str, float] = field(default_factory=dict)
    all_cached: bool = True

    def run(
        self,
        step: str,
        codec: Codec[T],
        tools: tuple[str, ...],
        inputs: Mapping[str, object],
        compute: Callable[[], T],
        late: Callable[[T], object] = lambda _: None,
    ) -> T:
        """The step's result.

        Args:
            step: its name.
            codec: turns the result into JSON values and back.
            tools: distributions whose version it depends on.
            inputs: all else that it depends on, known beforehand.
            compute: makes the result.
            late: what it depends on that only the result names (the files of external data); compared on a hit.
        """
        key = key_of(step, tools, inputs)
        stored = self.cache.get("steps", key)
        if isinstance(stored, dict):
            result = codec.validate_python(stored["result"])
            try:
                fresh = stored["late"] == late(result)
            except OSError:  # a file that it names is gone
                fresh = False
            if fresh:
                self.emit(Event(step, "cached"))
                return result
        self.all_cached = False
        self.emit(Event(step, "start"))
        begun = time.perf_counter()
        result = compute()
        self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - begun
        self.cache.put("steps", key, {"result": codec.dump_python(result, mode="json"), "late": late(result)})
        self.emit(Event(step, "done", self.seconds[step]))
        return result


def _check(task: Task, rendered: Rendered, chosen: Plan) -> None:
    """Hold what would be published against the checker's rules: as it is, and with each further config in its place."""
    name = task.model.name
    version = {f"1/{path}": content for path, content in {**chosen.files, **rendered.version_files}.items()}
    files = {**rendered.model_files, **version}
    for config in ("config.pbtxt", *(path for path in rendered.model_files if path.startswith("configs/"))):
        seen = {**files, "config.pbtxt": files[config]}
        found = check_staged(task.repository, {name: seen}, Target(release=task.triton))
        blocking = [finding for finding in found if finding.severity in BLOCKING]
        if blocking:
            which = "" if config == "config.pbtxt" else f" with {config}"
            said = "; ".join(f"{each.rule}: {each.message}" for each in blocking)
            raise CheckError(
                f"model {name}{which} would not be served: {said}",
                where=task.model.onnx,
                hint=f"Nothing was published. {blocking[0].hint}",
            )


def _verdict_document(
    task: Task,
    steps: _Steps,
    signature: Signature,
    prepared: Prepared,
    chosen: Plan,
    verdict: Verdict,
    reached: Reached | None,
) -> dict[str, object]:
    """What is written beside the version: how it was made and what was proven. No times, hosts or absolute paths, so
    that two builds of the same inputs write the same bytes.
    """
    plan_document = TypeAdapter(Plan).dump_python(chosen, mode="json")
    folder = signature.path.parent
    external = {str(file.relative_to(folder)): steps.cache.file_digest(file) for file in signature.external_data}
    tools = ("onnx", "onnxruntime", "numpy", "jinja2", "tritonclient", "protobuf")
    return {
        "model": task.model.name,
        "onnx": {
            "name": task.model.onnx.name,
            "sha256": steps.cache.file_digest(signature.path),
            "external_data": external,
        },
        "opset": dict(signature.opset),
        "settings": settings(task.model),
        "triton": task.triton,
        "tools": {tool: tool_version(tool) for tool in tools},
        "preparation": _preparation_document(prepared),
        **({"precision": TypeAdapter(Reached).dump_python(reached, mode="json")} if reached else {}),
        **{name: plan_document[name] for name in ("engine", "max_batch_size", "batch_reason", "profiles")},
        **{name: plan_document[name] for name in ("serving", "configs", "gpus") if chosen.engine == "tensorrt"},
        "verdict": TypeAdapter(Verdict).dump_python(verdict, mode="json"),
    }


def _provenance(started: float, steps: _Steps, chosen: Plan) -> dict[str, object]:
    from tritonrepo import __version__

    return {
        "tritonrepo": __version__,
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "tensorrt": _tensorrt.availability().reason if chosen.engine == "tensorrt" else None,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": {step: round(seconds, 3) for step, seconds in steps.seconds.items()},
    }


def _digests(cache: Cache, files: Any) -> dict[str, str]:
    return {str(file): cache.file_digest(file) for file in files}


def _readable(path: Path) -> Path:
    """The path, when there is such a file; the step that reads it explains better than a failed hash could."""
    if not path.is_file():
        introspect(path)
    return path


def _portable(value: Any) -> Any:
    if isinstance(value, Path):
        return value.name
    if isinstance(value, Mapping):
        return {str(key): _portable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_portable(item) for item in value]
    return value
