"""A worker process: sends requests as its parent says, and reports what came of them ten times a second.

    python -m tritonrepo_client.perf._worker CONTROL-FD MEMORY-FD MEMORY-LENGTH

Started by `workers.Workers` alone. It ends when its parent does.
"""

from __future__ import annotations

import gc
import mmap
import os
import pickle
import resource
import signal
import socket
import sys
import time
from typing import Any, NamedTuple

from tritonrepo_client.perf._engine import Engine, clock
from tritonrepo_client.perf._grpc import grpc_slots
from tritonrepo_client.perf._http1 import http_slots
from tritonrepo_client.perf._plan import WorkerPlan
from tritonrepo_client.perf._replies import Checker

TICK = 100_000_000


class Chunk(NamedTuple):
    """What a worker reports: requests that ended since the last chunk, and how the worker itself fares."""

    worker: int
    time: int
    """When, on the clock of `time.monotonic_ns`."""
    in_flight: int
    most_in_flight: int
    backlog: int
    """Requests that are due and wait in the client, because as many as allowed are in flight."""
    oldest: int
    """All requests that were due before this have ended."""
    cpu: int
    """Nanoseconds of CPU time since the worker started."""
    waited: int
    """Nanoseconds it was ready to run and had no core."""
    memory: int
    """Largest resident memory so far, bytes."""
    records: tuple[bytes, ...]
    """Arrays: intended, sent, ended (int64), meta (uint32), first (int64), responses (uint32), gaps (int64)."""
    kinds: dict[str, int]
    samples: dict[int, str]
    """Words of the first error of each kind."""
    sending: bool


class Worker:
    """The parent's orders, and the engine that follows them."""

    def __init__(self, control: socket.socket, memory: memoryview) -> None:
        self._control, self._memory = control, memory
        self._received = bytearray()
        self._engine: Engine | None = None
        self._index = 0
        self._last = self._most_memory = 0
        control.setblocking(True)
        plan = self._next_order()
        if isinstance(plan, WorkerPlan):
            self._prepare(plan)

    def _prepare(self, plan: WorkerPlan) -> None:
        if plan.cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, plan.cores)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self._index = plan.worker
        self._engine = engine = Engine(plan)
        checkers = [
            Checker(plan.expected[template.expected], plan.tolerance) if template.expected >= 0 else None
            for template in plan.templates
        ]
        slots = http_slots if plan.protocol == "http" else grpc_slots
        engine.new_slot = slots(engine, self._memory, checkers)
        engine.on_tick = self.report
        engine.watch(self._control.fileno(), self._on_control)
        engine.ticker.every(min(TICK, max(plan.timeout // 4, TICK // 10)))

    def run(self) -> None:
        """Until the parent says quit, or is gone."""
        if self._engine is None:
            return
        self._send(("ready", os.getpid()))
        gc.collect()
        gc.freeze()
        gc.disable()  # nothing here makes cycles, and a collection would delay requests
        self._engine.run()

    def report(self) -> None:
        """Send what has been recorded, unless that was just done."""
        now = clock()
        engine = self._engine
        if engine is None or now - self._last < TICK * 9 // 10:
            return
        self._last = now
        records = engine.records
        self._most_memory = max(self._most_memory, _memory())
        chunk = Chunk(
            self._index, now, engine.in_flight, engine.most_in_flight, len(engine.backlog), engine.oldest(),
            time.process_time_ns(), _waited(), self._most_memory, records.take(), records.kinds, records.samples,
            engine.sending,
        )  # fmt: skip
        engine.rebind()
        self._send(("chunk", chunk))

    def _send(self, message: object) -> None:
        data = pickle.dumps(message, 5)
        try:
            self._control.sendall(len(data).to_bytes(4, "big") + data)
        except OSError:
            os._exit(1)  # the parent is gone

    def _on_control(self, _event: int) -> None:
        order: Any = self._next_order()
        engine = self._engine
        if engine is None or order is None or order[0] == "quit":
            if engine is not None:
                engine.running = False
            return
        name, *arguments = order
        if name == "start":
            engine.start(*arguments)
        elif name == "stop":
            engine.stop()
        elif name == "end_sequences":
            engine.end_sequences()
        elif name == "abandon":
            engine.abandon()

    def _next_order(self) -> Any:
        """The next order; None when the parent is gone."""
        header = self._exactly(4)
        data = self._exactly(int.from_bytes(header, "big")) if header else b""
        return pickle.loads(data) if data else None  # noqa: S301  the parent made it, on a socket that nobody else has

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                more = self._control.recv(size - len(data))
            except ConnectionError:
                more = b""
            if not more:
                return b""
            data += more
        return data


def _waited() -> int:
    """Nanoseconds this process was ready to run and had no core, as Linux counts them."""
    try:
        with open("/proc/self/schedstat", encoding="ascii") as file:  # noqa: PTH123  ten times a second
            return int(file.read().split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def _memory() -> int:
    """Resident memory of this process, bytes."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123  ten times a second
        return int(file.read().split()[1]) * mmap.PAGESIZE


def main(arguments: list[str]) -> None:
    """The process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the parent's business
    control, memory, length = map(int, arguments)
    data: memoryview = memoryview(b"")
    if length:
        data = memoryview(mmap.mmap(memory, length, prot=mmap.PROT_READ))
    Worker(socket.socket(fileno=control), data).run()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
