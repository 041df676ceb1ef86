"""The worker processes, as their parent sees them."""

from __future__ import annotations

import contextlib
import os
import pickle
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from tritonrepo_client.perf._plan import ClosedLoop, Load, WorkerPlan
from tritonrepo_client.perf._worker import Chunk
from tritonrepo_client.perf.errors import WorkerError

_START = 60.0


class Workers:
    """Worker processes, started with a plan. A context manager: they end with it.

    Args:
        plan: what to send; each worker gets it with its own index.
        count: how many.
        payload: the tensors' bytes, which all of them share.
    """

    def __init__(self, plan: WorkerPlan, count: int, payload: Payload) -> None:
        self.count = count
        self._selector = selectors.DefaultSelector()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._sockets: list[socket.socket] = []
        self._received: dict[int, bytearray] = {}
        self._chunks: list[Chunk] = []
        self._ready = 0
        try:
            for index in range(count):
                self._start(plan._replace(worker=index, workers=count), payload)
            self._wait_ready()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def start(self, load: Load, when: int) -> None:
        """Begin with a load; arrivals of an open loop count from ``when`` (ns)."""
        for index in range(self.count):
            share: Load = load
            if isinstance(load, ClosedLoop):
                share = ClosedLoop(load.concurrency // self.count + (index < load.concurrency % self.count))
            self._order(index, ("start", share, when))

    def tell(self, *order: object) -> None:
        """Give all of them an order: ``stop``, ``abandon``, ``end_sequences``."""
        for index in range(self.count):
            self._order(index, order)

    def poll(self, timeout: float) -> list[Chunk]:
        """What they have reported, after at most that many seconds.

        Raises:
            WorkerError: one of them has ended.
        """
        for key, _ in self._selector.select(timeout):
            self._receive(key.data)
        chunks, self._chunks = self._chunks, []
        return chunks

    def close(self) -> None:
        """End them."""
        for sock in self._sockets:
            sock.close()  # that is their sign
        for process in self._processes:
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._sockets.clear()
        self._processes.clear()
        self._selector.close()

    def _start(self, plan: WorkerPlan, payload: Payload) -> None:
        ours, theirs = socket.socketpair()
        # A parent that is busy for a moment must not hold up a worker.
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
        fds = [theirs.fileno(), *([payload.fd] if payload.fd >= 0 else [])]
        command = [
            sys.executable, "-c", _MAIN, str(theirs.fileno()), str(payload.fd), str(payload.length),
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **_ONE_THREAD}
        process = subprocess.Popen(command, pass_fds=fds, stdin=subprocess.DEVNULL, env=environment)
        theirs.close()
        index = len(self._processes)
        self._processes.append(process)
        self._sockets.append(ours)
        self._received[index] = bytearray()
        self._selector.register(ours, selectors.EVENT_READ, index)
        data = pickle.dumps(plan, 5)
        ours.sendall(len(data).to_bytes(4, "big") + data)

    def _order(self, index: int, order: tuple[object, ...]) -> None:
        data = pickle.dumps(order, 5)
        try:
            self._sockets[index].sendall(len(data).to_bytes(4, "big") + data)
        except OSError:
            self._gone(index)

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + _START
        while self._ready < self.count:
            if time.monotonic() > deadline:
                raise WorkerError(f"a worker process was not ready within {_START:.0f} s")
            for key, _ in self._selector.select(1):
                self._receive(key.data)

    def _receive(self, index: int) -> None:
        received = self._received[index]
        try:
            data = self._sockets[index].recv(1 << 20)
        except OSError:
            data = b""
        if not data:
            self._gone(index)
        received += data
        while len(received) >= 4:
            size = int.from_bytes(received[:4], "big")
            if len(received) < 4 + size:
                break
            message: Any = pickle.loads(bytes(received[4 : 4 + size]))  # noqa: S301  our own worker made it
            del received[: 4 + size]
            if message[0] == "ready":
                self._ready += 1
            else:
                self._chunks.append(message[1])

    def _gone(self, index: int) -> None:
        code = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._processes[index].wait(2)
        raise WorkerError(f"worker process {index} ended (exit code {code})", hint="Its last words are above, if any.")


_MAIN = "import sys; from tritonrepo_client.perf._worker import main; main(sys.argv[1:])"
#: Libraries below numpy start threads of their own, which a worker has no use for.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Payload:
    """Memory without a name that worker processes map: the tensors' bytes of all requests. A context manager."""

    def __init__(self) -> None:
        self.fd = -1
        self.length = 0

    def add(self, parts: Sequence[bytes | memoryview]) -> tuple[int, int]:
        """Append bytes; returns where they begin and how many there are."""
        if self.fd < 0:
            self.fd = os.memfd_create("tritonrepo-perf")
        start = self.length
        for part in parts:
            view = memoryview(part).cast("B")
            while view:
                view = view[os.write(self.fd, view) :]
            self.length += len(memoryview(part).cast("B"))
        return start, self.length - start

    def close(self) -> None:
        """Free it here; workers that still run keep it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Payload:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
