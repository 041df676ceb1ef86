"""Building a plan in a worker process: TensorRT may take an hour, all of the memory, or the process with it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from tritonrepo._cuda import Gpu
from tritonrepo._plan_progress import PlanProgress
from tritonrepo.errors import EngineError, TritonrepoError, Where
from tritonrepo.limits import Limits, usual_limits
from tritonrepo.plan import BuildRequest, BuiltPlan, Plan
from tritonrepo.prepare import Prepared
from tritonrepo.releases import RELEASES
from tritonrepo.spec import ModelSpec, precision_of
from tritonrepo.workers import Advice, Pool

#: Seconds after its time limit at which a build is killed that did not end by itself.
_GRACE = 30.0

_BUILT = "built.json"

_LESS = (
    "Build one model at a time (--jobs 1), narrow the largest shapes and batch sizes, or lower "
    "tensorrt.builder_optimization_level and tensorrt.workspace_gib."
)


def build_plan(request: BuildRequest, emit: Callable[[PlanProgress], None]) -> BuiltPlan:
    """Build one plan; returns when it is written. One at a time is built on a GPU: others would spoil its timings.

    Args:
        request: what to build.
        emit: is told now and then how far it is.

    Raises:
        ModelError: TensorRT cannot take the graph; or the process was killed, crashed, or took more than it may.
        EngineError: TensorRT or the GPU cannot do what was asked.
    """
    options = request.options
    limits = Limits(
        seconds=options.time_limit_s + _GRACE if options.time_limit_s is not None else None,
        # The limits of the build see the model's worker, and not TensorRT's process below it.
        memory=usual_limits().memory if options.memory_limit_gib is None else int(options.memory_limit_gib * 2**30),
    )
    advice = Advice(
        slow="Raise tensorrt.time_limit_s, or lower tensorrt.builder_optimization_level.",
        large=f"Raise tensorrt.memory_limit_gib. {_LESS}",
        killed=_LESS,
        crashed=f"TensorRT itself failed. {_LESS} Another TensorRT release, or `engine: onnxruntime`, may take it.",
    )

    def heard(_: BuildRequest, event: object) -> None:
        if isinstance(event, PlanProgress):
            emit(event)

    request.cache.mkdir(parents=True, exist_ok=True)
    with (
        _alone_on(options.gpu, request.cache, lambda: emit(_waiting(options.gpu))),
        Pool[BuildRequest, BuiltPlan]("tritonrepo._tensorrt:build", 1, heard, limits, advice) as pool,
    ):
        ((_, outcome),) = pool.run([request])
    if isinstance(outcome, TritonrepoError):
        outcome.where = outcome.where or Where(request.onnx)
        raise outcome
    return outcome


def request_for(
    model: ModelSpec, prepared: Prepared, chosen: Plan, gpu: Gpu, folder: Path, cache: Path, triton: str
) -> BuildRequest:
    """What is to be built for one GPU.

    Args:
        model: its settings.
        prepared: the file to build from.
        chosen: what will be served; its profiles are told.
        gpu: that builds.
        folder: where the plan is written.
        cache: where timing caches are kept.
        triton: the release that will serve.

    Raises:
        EngineError: the GPU is none of the fleet's.
    """
    if chosen.gpus and gpu.capability not in chosen.gpus:
        raise EngineError(
            f"model {model.name}: plans are asked for GPUs of compute capability {', '.join(chosen.gpus)}; this host's "
            f"is {gpu.capability} ({gpu.name})",
            hint="Build on a host that has one of them, or add this one to `gpus:`.",
        )
    known = RELEASES.get(triton)
    return BuildRequest(
        model=model.name,
        onnx=prepared.path,
        profiles=chosen.profiles_for(gpu.capability),
        precision=precision_of(model).type,
        options=model.tensorrt,
        output=folder / chosen.plan_file(gpu.capability),
        cache=cache,
        expected_tensorrt=known.tensorrt if known else None,
        expected_capability=gpu.capability if chosen.gpus else None,
        release=triton,
    )


def build_into(folder: Path, request: BuildRequest, emit: Callable[[PlanProgress], None]) -> None:
    """Build one plan into a folder that will be moved, and leave there what `built_in` reads."""
    built = build_plan(request, emit)
    relative = replace(built, plan=Path(built.plan.name), report=built.report and Path(built.report.name))
    (folder / _BUILT).write_bytes(TypeAdapter(BuiltPlan).dump_json(relative))


def built_in(folder: Path) -> BuiltPlan:
    """What `build_into` left."""
    built: BuiltPlan = TypeAdapter(BuiltPlan).validate_json((folder / _BUILT).read_bytes())
    return replace(built, plan=folder / built.plan, report=built.report and folder / built.report)


def _waiting(gpu: int) -> PlanProgress:
    return PlanProgress(f"waiting for GPU {gpu}, on which another plan is built", 0.0)


@contextlib.contextmanager
def _alone_on(gpu: int, folder: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the GPU among builds that share the folder; the kernel lets go of it however this ends."""
    lock = os.open(folder / f"gpu{gpu}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
