"""Worker processes: a model that crashes its runtime, or is told to stop, takes no build with it.

A worker is ``python -m tritonrepo.workers`` with one end of a socket. It builds one model after the other and sends
what it has to say: events while it works, then the result or the error.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import IO, Any, Generic, TypeVar

from tritonrepo.batch_proof import THREADS_VARIABLE
from tritonrepo.errors import ModelError, TritonrepoError
from tritonrepo.limits import NO_LIMITS, TICK, Limits, memory_of

Task = TypeVar("Task")
Result = TypeVar("Result")
Message = tuple[str, object]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Advice:
    """What to do about a worker that did not end well."""

    slow: str = (
        "Narrow the largest shapes and batch sizes, or allow more (--max-time); a loop in the model may have no end."
    )
    large: str = (
        "Narrow the largest shapes and batch sizes, build fewer models at once (--jobs 1), or allow more "
        "(--max-memory)."
    )
    killed: str = "Build fewer models at once (--jobs 1), or narrow the largest shapes and batch sizes."
    crashed: str = "The runtime cannot take this model."


@dataclass
class _Worker(Generic[Task]):
    process: subprocess.Popen[bytes]
    channel: Connection
    said: IO[bytes]
    task: Task | None = None
    doing: str = "starting"
    begun: float = 0.0
    over: str = ""
    """What it took too much of, where it was ended for that."""


class Pool(Generic[Task, Result]):
    """Runs tasks in worker processes; use it as a context manager, which ends the workers.

    Args:
        function: ``module:name`` of ``(task, emit) -> result``, looked up in the worker.
        count: how many workers; the cores are shared among them.
        on_event: is given what tasks emit: (task, event).
        limits: what tasks may take; one that takes more is ended, and that is its error.
        advice: the hints of such errors.
    """

    def __init__(
        self,
        function: str,
        count: int,
        on_event: Callable[[Task, object], None],
        limits: Limits = NO_LIMITS,
        advice: Advice | None = None,
    ) -> None:
        self._function = function
        self._count = count
        self._on_event = on_event
        self._limits = limits
        self._advice = advice or Advice()
        self._looked = 0.0
        self._workers: list[_Worker[Task]] = []

    def __enter__(self) -> Pool[Task, Result]:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            self._end(worker)

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Result | TritonrepoError]]:
        """Run all tasks; gives each with its result, or with the error that it ended with, as they end."""
        waiting = list(tasks)[::-1]
        for _ in range(min(self._count, len(waiting))):
            self._workers.append(self._start())
        for worker in self._workers:
            self._give(worker, waiting.pop())
        while busy := {worker.channel: worker for worker in self._workers if worker.task is not None}:
            for channel in self._wait(busy):
                worker = busy[channel]
                task = worker.task
                assert task is not None  # noqa: S101 - busy workers have one
                outcome = self._hear(worker, task)
                if outcome is None:
                    continue
                worker.task = None
                if waiting:
                    if worker.process.poll() is not None:
                        self._workers.remove(worker)
                        self._end(worker)
                        worker = self._start()
                        self._workers.append(worker)
                    self._give(worker, waiting.pop())
                yield task, outcome

    def _wait(self, busy: Mapping[Connection, _Worker[Task]]) -> list[Any]:
        """The channels that have something to say. Meanwhile it is seen to that no worker takes too much."""
        watched = self._limits != NO_LIMITS
        while True:
            ready = wait(list(busy), TICK if watched else None)
            if watched and time.monotonic() - self._looked > TICK:
                # Those that have said something are heard first: it may be their result.
                self._end_what_takes_too_much([each for channel, each in busy.items() if channel not in ready])
                self._looked = time.monotonic()
            if ready:
                return ready

    def _end_what_takes_too_much(self, busy: Sequence[_Worker[Task]]) -> None:
        limits, now = self._limits, time.monotonic()
        for worker in busy:
            if limits.seconds is not None and now - worker.begun > limits.seconds and not worker.over:
                worker.over = "time"
                _kill(worker.process)
        if limits.memory is None:
            return
        taken = {worker.process.pid: memory_of(worker.process.pid) for worker in busy if not worker.over}
        if sum(taken.values()) > limits.memory:
            largest = max((worker for worker in busy if not worker.over), key=lambda each: taken[each.process.pid])
            largest.over = "memory"
            _kill(largest.process)

    def _hear(self, worker: _Worker[Task], task: Task) -> Result | TritonrepoError | None:
        """One message; the outcome of the task when this was it."""
        try:
            kind, value = worker.channel.recv()
        except (EOFError, ConnectionError):
            return self._died(worker)
        if kind == "event":
            worker.doing = str(value)
            self._on_event(task, value)
            return None
        return value  # type: ignore[no-any-return]

    def _start(self) -> _Worker[Task]:
        ours, theirs = socket.socketpair()
        threads = max(1, cores() // self._count)
        said = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        process = subprocess.Popen(
            [sys.executable, "-m", "tritonrepo.workers", self._function, str(theirs.fileno()), str(os.getpid())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, THREADS_VARIABLE: os.environ.get(THREADS_VARIABLE, str(threads))},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,  # Ctrl-C reaches us alone; we end the workers
        )
        theirs.close()
        return _Worker(process, Connection(ours.detach()), said)

    def _give(self, worker: _Worker[Task], task: Task) -> None:
        worker.task = task
        worker.begun = time.monotonic()
        with contextlib.suppress(ConnectionError):  # a worker that died is heard as such
            worker.channel.send(task)

    def _died(self, worker: _Worker[Task]) -> TritonrepoError:
        status = worker.process.wait()
        worker.said.seek(0)
        last = worker.said.read().decode(errors="replace").strip().rpartition("\n")[2][-500:]
        if worker.over:
            return self._too_much(worker)
        if status == -signal.SIGKILL:
            why, hint = "was killed, most likely for want of memory", self._advice.killed
        else:
            why = f"crashed ({signal.strsignal(-status) if status < 0 else f'exit status {status}'})"
            hint = self._advice.crashed
        return ModelError(f"the worker {why} during: {worker.doing}{f'; it said: {last}' if last else ''}", hint=hint)

    def _too_much(self, worker: _Worker[Task]) -> TritonrepoError:
        limits = self._limits
        if worker.over == "time":
            return ModelError(
                f"it took more than {limits.seconds:g} s, and was ended during: {worker.doing}",
                hint=self._advice.slow,
            )
        together = " together with the models beside it" if self._count > 1 else ""
        return ModelError(
            f"it took more than {(limits.memory or 0) / 2**30:.3g} GiB of memory{together}, "
            f"and was ended during: {worker.doing}",
            hint=self._advice.large,
        )

    def _end(self, worker: _Worker[Task]) -> None:
        worker.channel.close()
        if worker.process.poll() is None:
            _kill(worker.process)
        worker.process.wait()
        worker.said.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a worker and what it started; it leads a session of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent ends, however it ends: a build may run for an hour."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was quicker
        os._exit(1)


def _serve(function: Callable[[object, Callable[[object], None]], object], channel: Connection) -> None:
    while True:
        try:
            task = channel.recv()
        except EOFError:
            return
        try:
            message: Message = ("result", function(task, lambda event: channel.send(("event", event))))
        except TritonrepoError as error:
            message = ("error", error)
        except Exception:  # a defect of ours: say so, with what is needed to mend it
            message = ("error", TritonrepoError("a defect in tritonrepo", hint=traceback.format_exc()))
        channel.send(message)


def _main() -> None:
    from importlib import import_module

    _die_with(int(sys.argv[3]))
    module, _, name = sys.argv[1].partition(":")
    with contextlib.suppress(ConnectionError):  # the parent is gone, and so is the need for an answer
        _serve(getattr(import_module(module), name), Connection(int(sys.argv[2])))


if __name__ == "__main__":
    _main()
