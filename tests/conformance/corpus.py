"""A chunk of cases, from ONNX files to answers of the real server."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from tritonrepo.build import BuildOptions, ModelResult, build
from tritonrepo.errors import TritonrepoError
from tritonrepo.spec import ModelSpec, Spec, Verification
from tritonrepo.workers import Pool

from . import variants
from .case import Case
from .outcome import Outcome
from .reference import Reference
from .serving import NO_ANSWER, Serving, answers, answers_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: The release of the embedded server, which serves here.
RELEASE = "24.10"
_ROWS = "-rows"  # ends the names of variants with a dynamic batch


@dataclass
class _State:
    """What is known of a case so far."""

    case: Case
    reference: Reference = field(default_factory=lambda: Reference("passes"))
    refused: str = ""
    samples: bool = False
    rows: str = ""
    batch: int = 0
    stage: str = "build"
    said: str = ""
    seconds: float = 0.0
    models: list[str] = field(default_factory=list)

    def outcome(self) -> Outcome:
        return Outcome(
            id=self.case.id,
            reference=self.reference.verdict,
            reference_said=self.reference.words[:300],
            stage=self.stage,
            said=self.said[:600],
            samples=self.samples,
            rows=self.rows[:300],
            batch=self.batch,
            seconds=round(self.seconds, 2),
        )


class Chunk:
    """Cases that are built together and then served together; a context manager, which removes its files.

    Args:
        cases: at most a few hundred.
        jobs: processes that build.
    """

    def __init__(self, cases: Sequence[Case], jobs: int) -> None:
        self._states = {case.name: _State(case) for case in cases}
        self._jobs = jobs
        self._work = tempfile.TemporaryDirectory(prefix="tritonrepo-conformance-")

    def __enter__(self) -> Chunk:
        return self

    def __exit__(self, *_: object) -> None:
        self._work.cleanup()

    def build(self) -> None:
        """Ask ONNX Runtime itself, then build and publish."""
        _refer(self._states, self._jobs)
        _build(self._states, Path(self._work.name), self._jobs)

    def serve(self, at_once: int, stop: Event) -> list[tuple[Case, Outcome]]:
        """Load and ask, so many models at a time, until ``stop`` is set; what became of each case, in their order."""
        _serve(self._states, Path(self._work.name) / "repository", at_once, stop)
        return [(state.case, state.outcome()) for state in self._states.values()]


def _refer(states: Mapping[str, _State], jobs: int) -> None:
    """Ask ONNX Runtime itself, in processes of its own: it may crash."""
    with _importable(), Pool[Case, Reference](f"{__package__}.reference:judge", jobs, lambda *_: None) as pool:
        for case, found in pool.run([state.case for state in states.values()]):
            state = states[case.name]
            state.reference = Reference("fails", str(found)) if isinstance(found, TritonrepoError) else found


@contextmanager
def _importable() -> Iterator[None]:
    """Worker processes find this package where this process found it."""
    import sys

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _build(states: Mapping[str, _State], work: Path, jobs: int) -> None:
    """Build every case, and its variant with a dynamic batch; once more with the case's own inputs as samples, where
    generated ones did not do and ONNX Runtime passes the case.
    """
    specs = {}
    for name, state in states.items():
        specs[name] = _spec(work, name, state.case.model)
        relabelled = variants.batched(state.case) if state.reference.verdict == "passes" else None
        if relabelled is not None:
            specs[name + _ROWS] = _spec(work, name + _ROWS, relabelled)
    results, failures = _built(specs.values(), work, jobs)
    again = {}
    for name in failures:
        state = states[name.removesuffix(_ROWS)]
        samples = _samples(work, state.case)
        wrong_values = state.reference.verdict != "refuses" and "Triton cannot carry" not in failures[name].message
        if wrong_values and samples:
            again[name] = specs[name].model_copy(update={"verification": Verification(samples=samples)})
    more, still = _built(again.values(), work, jobs)
    for name, state in states.items():
        _take(state, name, {**results, **more}, {**failures, **still}, sampled=name in again)
        _take_rows(state, name + _ROWS, {**results, **more}, {**failures, **still})


def _take(
    state: _State,
    name: str,
    results: Mapping[str, ModelResult],
    failures: Mapping[str, TritonrepoError],
    *,
    sampled: bool,
) -> None:
    state.samples = sampled
    if name in results:
        state.models.append(name)
        state.seconds += results[name].seconds
        return
    error = failures[name]
    state.said = f"a traceback: {error.hint}" if error.message == "a defect in tritonrepo" else error.message
    state.samples = False


def _take_rows(
    state: _State, name: str, results: Mapping[str, ModelResult], failures: Mapping[str, TritonrepoError]
) -> None:
    if name in results and state.models:
        result = results[name]
        state.seconds += result.seconds
        state.batch = result.max_batch_size
        state.rows = "" if state.batch else f"not batched: {result.batch_reason}"
        if state.batch:
            state.models.append(name)
    elif name in failures:
        error = failures[name]
        traceback = error.message == "a defect in tritonrepo"
        state.rows = f"failed: a traceback: {error.hint}" if traceback else f"not built: {error.message}"


def _spec(work: Path, name: str, model: bytes) -> ModelSpec:
    folder = work / "onnx"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.onnx").write_bytes(model)
    return ModelSpec(name=name, onnx=folder / f"{name}.onnx", engine="python")


def _built(
    models: Iterable[ModelSpec], work: Path, jobs: int
) -> tuple[dict[str, ModelResult], dict[str, TritonrepoError]]:
    models = tuple(models)
    if not models:
        return {}, {}
    spec = Spec(repository=work / "repository", cache=work / "cache", triton=RELEASE, models=models)
    result = build(spec, BuildOptions(jobs=jobs, keep_going=True), lambda *_: None)
    return {model.name: model for model in result.models}, dict(result.failures)


def _samples(work: Path, case: Case) -> tuple[Path, ...]:
    """The inputs of each data set as a file; nothing where numpy's files cannot hold them."""
    import numpy as np

    folder = work / "samples"
    folder.mkdir(exist_ok=True)
    files = []
    for number, (given, _) in enumerate(case.sets):
        if not all(isinstance(value, np.ndarray) for value in given.values()):
            return ()
        path = folder / f"{case.name}-{number}.npz"
        arrays: dict[str, Any] = {name: _plain(value) for name, value in given.items()}
        np.savez(path, **arrays)
        files.append(path)
    return tuple(files)


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(str) if array.dtype.hasobject else array


def _serve(states: Mapping[str, _State], repository: Path, at_once: int, stop: Event) -> None:
    """Load each model that was published, and ask it. What was not loaded or not answered is asked for again, one model
    at a time: a server that ended took its other models with it, and on a busy machine Triton takes a process that got
    no turn for dead.
    """
    left = [name for state in states.values() for name in state.models]
    while left and not stop.is_set():
        begun = time.perf_counter()
        with Serving(repository, at_once, stop) as serving:
            said = serving.each(left, lambda name: _ask(serving, name, states))
        if at_once > 1:
            again = [name for name in left if "not loaded" in said[name] or "not answered" in said[name]]
        else:
            again = [name for name in left if said[name].startswith(NO_ANSWER)][1:]  # the first one ended the server
        share = (time.perf_counter() - begun) / len(left)
        for name in left:
            if name not in again:
                _note(states[name.removesuffix(_ROWS)], said[name], share, rows=name.endswith(_ROWS))
        left, at_once = again, 1


def _ask(serving: Serving, name: str, states: Mapping[str, _State]) -> str:
    asked = answers_rows if name.endswith(_ROWS) else answers
    return asked(serving.client, name, _expected(states[name.removesuffix(_ROWS)]))


def _note(state: _State, said: str, seconds: float, *, rows: bool) -> None:
    state.seconds += seconds
    if rows:
        state.rows = f"failed: {said}" if said else "equal"
    else:
        state.stage = "serve" if said.startswith("not ") else "answer"
        state.said = said


def _expected(state: _State) -> Case:
    """The case, with ONNX Runtime's own answers where these are not what the case expects: more cannot be asked of a
    server that runs ONNX Runtime.
    """
    if state.reference.verdict != "differs":
        return state.case
    given = [inputs for inputs, _ in state.case.sets]
    return replace(state.case, sets=tuple(zip(given, state.reference.answers, strict=True)))
