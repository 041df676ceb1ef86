"""What is done with a mutant, in a worker process: everything that the product does with a file from elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tritonrepo.errors import TritonrepoError

#: In their order; a build that says ok has gone through all that a real one does before it publishes.
STEPS = ("inspect", "introspect", "foresee", "build")


@dataclass(frozen=True)
class Seen:
    """What became of a mutant: step -> "" where it was done, else what it was refused with."""

    steps: dict[str, str]
    seconds: float
    memory: int
    """MiB that the process had at the most."""
    outside: tuple[str, ...] = ()
    """Files that would be published and are neither the model's nor the cache's."""
    passes: tuple[str, ...] = ()
    """Passes of the preparation that failed on the model, with what they failed with."""


def look(path: Path, emit: Callable[[object], None]) -> Seen:
    """Do all steps with a file. What is refused is an outcome; what is raised besides is a defect."""
    _forget_peak()
    begun = time.perf_counter()
    steps: dict[str, str] = {}
    found: dict[str, tuple[str, ...]] = {}
    for step in STEPS:
        emit(step)
        try:
            found[step] = _do(step, path, emit)
            steps[step] = ""
        except TritonrepoError as error:
            steps[step] = str(error)
    seconds = time.perf_counter() - begun
    return Seen(steps, seconds, _peak(), outside=found.get("build", ()), passes=found.get("foresee", ()))


def _do(step: str, path: Path, emit: Callable[[object], None]) -> tuple[str, ...]:
    """Do a step; gives what is wrong with what it gave."""
    from tritonrepo.inspection import inspect
    from tritonrepo.inspection.report import as_json, as_text
    from tritonrepo.introspect import introspect
    from tritonrepo.pipeline import Task, build_model
    from tritonrepo.prepare import FAILED, Context, foresee
    from tritonrepo.spec import spec_for

    if step == "inspect":
        found = inspect(path, prepare=False)
        as_text(found)
        as_json([found], {})
        return ()
    if step == "introspect":
        introspect(path)
        return ()
    folder = path.parent.parent
    spec = spec_for([path], repository=folder / "repository", settings={"engine": "python"})
    [model] = spec.models
    if step == "foresee":
        _, refused = foresee(Context(model, introspect(path), "python"))
        return tuple(f"{name}: {why}" for name, why in refused.items() if why.startswith(FAILED))
    cache = folder / "cache"
    task = Task(model, folder / "repository", cache, None, spec.triton)
    built = build_model(task, lambda event: emit(f"build, {event}"))
    files = [Path(file).resolve() for file in built.plan.files.values()]
    within = (path.parent.resolve(), cache.resolve())
    return tuple(str(file) for file in files if not any(file.is_relative_to(each) for each in within))


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) >> 10
    return 0
