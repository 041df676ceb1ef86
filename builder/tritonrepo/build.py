"""A whole spec: which models are up to date, building the others side by side, and publishing what was proven.

A model is up to date when nothing it depends on changed since it was published, and the published directory is as it
was left. Both are seen from sizes, times and inodes: contents are read only where those differ.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tritonrepo.errors import TritonrepoError, UsageError
from tritonrepo.fingerprint import Cache, digest, stat_of, tool_version
from tritonrepo.limits import Limits, usual_limits
from tritonrepo.lock import Lock, repository_lock
from tritonrepo.publish import Pruned, Published, PublishedState, prune, publish, published, recover
from tritonrepo.render import templates_digest
from tritonrepo.spec import ModelSpec, Spec, fragment

#: What the result of a build depends on besides its inputs.
_TOOLS = ("tritonrepo", "onnx", "onnxruntime", "numpy", "jinja2", "tritonclient", "protobuf", "tensorrt")

#: What the name of a fallback model ends in.
FALLBACK_SUFFIX = "_onnx"

#: Told what happens: the model's name, the step, its status (start, progress, done, cached, failed) and seconds. Of
#: progress, the step says what it is at (``build: Timing tactics (45%)``), and the seconds are the model's so far.
OnEvent = Callable[[str, str, str, float], None]


@dataclass(frozen=True)
class ModelResult:
    """What became of one model, for the table at the end."""

    name: str
    engine: str
    engine_reason: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    max_batch_size: int
    batch_reason: str
    max_abs: float
    """Largest absolute error over all outputs and samples."""
    max_rel: float
    cosine: float
    """Smallest cosine."""
    notes: tuple[str, ...]
    """What the user should know: passes that changed the model, guesses that were taken."""
    version: int
    action: str
    """What publishing did, in the words of ``publish.Published``."""
    cached: bool
    """Whether nothing had to be computed."""
    seconds: float


@dataclass(frozen=True)
class BuildResult:
    """What became of a spec. ``failures`` holds the errors by model; where there is one, nothing was published unless
    ``keep_going`` was asked for.
    """

    models: tuple[ModelResult, ...]
    failures: Mapping[str, TritonrepoError]
    foreign: tuple[str, ...]
    """Directories in the repository that the spec does not name; they are left alone."""
    removed: tuple[str, ...] = ()
    """Models that pruning removed."""
    kept: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Models that pruning left, because of files in them that tritonrepo did not write."""


@dataclass(frozen=True)
class BuildOptions:
    """How to build; what to build is the spec's.

    Args:
        jobs: models built at once; by default one for each core.
        wait: whether to wait for another build of the same repository, or for how many seconds.
        keep_going: publish the models that were proven although others failed.
        prune: remove the models that tritonrepo published and the spec no longer names.
        limits: what models may take; by default most of the machine's memory, and two hours for each.
    """

    jobs: int | None = None
    wait: bool | float = True
    keep_going: bool = False
    prune: bool = False
    limits: Limits = field(default_factory=usual_limits)


def build(
    spec: Spec, options: BuildOptions, on_event: OnEvent, on_wait: Callable[[str], None] = lambda _: None
) -> BuildResult:
    """Bring the repository up to date with the spec.

    Raises:
        PublishError: the repository cannot be written, or another build holds it.
    """
    spec = with_fallbacks(spec)

    def locked() -> contextlib.AbstractContextManager[Lock]:
        return repository_lock(spec.repository, wait=options.wait, on_wait=on_wait)

    with contextlib.ExitStack() as stack:
        # Hosts of a fleet build side by side, which takes minutes, and take turns at publishing only.
        lock = None if spec.gpus else stack.enter_context(locked())
        if lock:
            recover(spec.repository, lock)
        stamps = _Stamps(spec)
        results: dict[str, ModelResult] = {}
        stale: list[ModelSpec] = []
        for model in spec.models:
            known = stamps.current(model)
            if known:
                results[model.name] = known
                on_event(model.name, "publish", "cached", 0.0)
            else:
                stale.append(model)
        failures: dict[str, TritonrepoError] = {}
        if stale:
            built = _build_all(spec, stale, options, on_event, failures)
        lock = lock or stack.enter_context(locked())
        if stale and (not failures or options.keep_going):
            for model in stale:
                if model.name in built:
                    results[model.name] = _publish(spec, model, built[model.name], stamps, lock, on_event)
        order = [model.name for model in spec.models]
        pruned = prune(spec.repository, set(order), lock) if options.prune and not failures else Pruned((), {})
    return BuildResult(
        models=tuple(results[name] for name in order if name in results),
        failures={name: failures[name] for name in order if name in failures},
        foreign=tuple(sorted(set(_directories(spec.repository)) - set(order))),
        removed=pruned.removed,
        kept=pruned.left,
    )


def with_fallbacks(spec: Spec) -> Spec:
    """The spec with a second model, NAME_onnx, for each that serves its ONNX on GPUs without a plan.

    Where no plan can be built the model itself serves the ONNX, and there is none.

    Raises:
        UsageError: a model of such a name is there already.
    """
    from tritonrepo import _tensorrt

    asked = [model for model in spec.models if model.fallback == "onnxruntime"]
    if not asked or not _tensorrt.availability().ok:
        return spec
    names = {model.name for model in spec.models}
    models: list[ModelSpec] = []
    for model in spec.models:
        models.append(model)
        if model in asked:
            name = f"{model.name}{FALLBACK_SUFFIX}"
            if name in names:
                raise UsageError(
                    f"the fallback of model {model.name} would be named {name}, as another model is",
                    hint="Rename that model, or leave out fallback.",
                )
            changes = {"name": name, "engine": "onnxruntime", "fallback": "none", "configs": {}, "profiles": "auto"}
            models.append(model.model_copy(update={**changes, "cuda_graphs": "off"}))
    return spec.model_copy(update={"models": tuple(models)})


def _build_all(
    spec: Spec,
    models: Sequence[ModelSpec],
    options: BuildOptions,
    on_event: OnEvent,
    failures: dict[str, TritonrepoError],
) -> dict[str, tuple[Any, float]]:
    """Build models in worker processes; gives what was built, with its seconds, and fills ``failures``."""
    from tritonrepo.pipeline import Event, Task
    from tritonrepo.workers import Pool, cores

    def heard(task: Task, event: object) -> None:
        if isinstance(event, Event):
            so_far = time.perf_counter() - begun.setdefault(task.model.name, time.perf_counter())
            seconds = so_far if event.status == "progress" else event.seconds
            on_event(task.model.name, str(event), event.status, seconds)

    hold = spec.incomplete == "hold"
    tasks = [Task(model, spec.repository, spec.cache, spec.templates, spec.triton, spec.gpus, hold) for model in models]
    begun: dict[str, float] = {}
    built: dict[str, tuple[Any, float]] = {}
    jobs = min(options.jobs or cores(), len(tasks))
    with Pool[Task, Any]("tritonrepo.pipeline:build_model", jobs, heard, options.limits) as pool:
        for task, outcome in pool.run(tasks):
            name = task.model.name
            seconds = time.perf_counter() - begun.get(name, time.perf_counter())
            if isinstance(outcome, TritonrepoError):
                failures[name] = outcome
                on_event(name, "", "failed", seconds)
            else:
                built[name] = outcome, seconds
    return built


def _publish(
    spec: Spec, model: ModelSpec, built: tuple[Any, float], stamps: _Stamps, lock: Lock, on_event: OnEvent
) -> ModelResult:
    what, seconds = built
    on_event(model.name, "publish", "start", 0.0)
    begun = time.perf_counter()
    done = publish(what.staged, spec.repository, keep_versions=spec.keep_versions, lock=lock)
    took = time.perf_counter() - begun
    result = _result(what, done, seconds + took)
    stamps.write(model, what.files, result)
    on_event(model.name, "publish", "done", took)
    return result


def _result(built: Any, done: Published, seconds: float) -> ModelResult:
    errors, proof = built.verdict.errors, built.verdict.proof
    return ModelResult(
        name=done.name,
        engine=built.plan.engine,
        engine_reason=built.plan.engine_reason,
        inputs=tuple(map(_shown, built.signature.inputs)),
        outputs=tuple(map(_shown, built.signature.outputs)),
        max_batch_size=built.plan.max_batch_size,
        batch_reason=built.plan.batch_reason,
        max_abs=max((error.max_abs for error in errors), default=0.0),
        max_rel=max((error.max_rel for error in errors), default=0.0),
        cosine=min((error.cosine for error in errors), default=1.0),
        notes=(
            *_waiting(done),
            *built.plan.notes,
            *map(str, built.changes),
            *built.left_out,
            *(proof.bounded if proof else ()),
            *(("no warmup request: the model does not run on zeros",) if built.verdict.refuses_zeros else ()),
        ),
        version=done.version,
        action=done.action,
        cached=built.cached,
        seconds=seconds,
    )


def _waiting(done: Published) -> tuple[str, ...]:
    if not done.waits:
        return ()
    return (
        f"the plan is built and waits for those of {', '.join(done.waits)}, which the published version has: build on "
        "their hosts too (or say incomplete: publish)",
    )


def _shown(tensor: Any) -> str:
    """A tensor for the table: dynamic axes are -1, as in a config, whatever long name an exporter gave them."""
    dims = ",".join(str(dim) if isinstance(dim, int) else "-1" for dim in tensor.shape)
    return f"{tensor.name} {tensor.dtype}[{dims}]"


class _Stamps:
    """What each published model depended on, and what its directory looked like: the quick way to see no change."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._cache = Cache(spec.cache)
        common = {
            "tools": {tool: tool_version(tool) for tool in _TOOLS},
            "templates": templates_digest(spec.templates),
            "triton": spec.triton,
            "gpus": spec.gpus,
            "here": _gpus_here() if spec.gpus else (),  # hosts may share a cache
            "incomplete": spec.incomplete,
            "keep_versions": spec.keep_versions,
        }
        self._common = digest(common)
        self._results = TypeAdapter(ModelResult)

    def current(self, model: ModelSpec) -> ModelResult | None:
        """What was published, where it still holds."""
        stamp = self._cache.get("models", self._place(model))
        if not isinstance(stamp, dict) or stamp.get("settings") != self._settings(model):
            return None
        try:
            unchanged = all(list(stat_of(Path(file[0]))) == file for file in stamp["files"])
        except OSError:
            return None
        state = published(self._spec.repository, model.name)
        if not unchanged or state is None or stamp["published"] != _listed(state):
            return None
        result: ModelResult = self._results.validate_python(stamp["result"])
        return replace(result, action="unchanged", cached=True, seconds=0.0)

    def write(self, model: ModelSpec, files: Sequence[Path], result: ModelResult) -> None:
        """Remember what was published."""
        state = published(self._spec.repository, model.name)
        stamp = {
            "settings": self._settings(model),
            "files": [stat_of(file) for file in files],
            "published": _listed(state) if state else None,
            "result": vars(result),
        }
        self._cache.put("models", self._place(model), stamp)

    def _place(self, model: ModelSpec) -> str:
        return digest([self._spec.repository, model.name])

    def _settings(self, model: ModelSpec) -> str:
        return digest([self._common, fragment(model)])


def _gpus_here() -> list[str]:
    from tritonrepo import _tensorrt

    return [gpu.capability for gpu in _tensorrt.availability().gpus]


def _listed(state: PublishedState) -> list[object]:
    """A state's file list as JSON gives it back."""
    return [list(entry) for entry in state.stat]


def _directories(repository: Path) -> list[str]:
    if not repository.is_dir():
        return []
    return [entry.name for entry in os.scandir(repository) if entry.is_dir()]
