"""A TCP proxy that does to connections what networks and dying servers do. Nothing of it knows HTTP or gRPC."""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType


@dataclass(frozen=True)
class Fault:
    """What is done to a connection; at first all passes."""

    cut_request: int | None = None
    """Reset both sides after so many bytes from the client."""
    cut_reply: int | None = None
    """Reset both sides after so many bytes from the server."""
    silent: bool = False
    """Accept, read, and never answer."""
    rate: int | None = None
    """Bytes a second that are read from the client."""
    reply_rate: int | None = None
    """Bytes a second that are given to the client."""
    garbage: bytes | None = None
    """Answer the first bytes with these, and close."""


PASS = Fault()


class Proxy:
    """Listens on a port of 127.0.0.1. ``faults`` are for the next connections, in turn; after them all pass.

    ``cut`` and the rates count from when a connection began to be used; `arm` sets a fault on those that are open.
    """

    def __init__(self, target: str, *faults: Fault) -> None:
        host, port = target.split(":")
        self.target = (host, int(port))
        self.accepted = 0
        self.always: Fault | None = None
        self._faults = list(faults)
        self._open: list[_Pair] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def arm(self, fault: Fault) -> None:
        """From now on, counted from now on, for connections that are open; and for the next, where there is none."""
        with self._lock:
            alive = [pair for pair in self._open if not pair.ended]
            for pair in alive:
                pair.set(fault)
            if not alive:
                self._faults.append(fault)

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)
        for pair in self._open:
            pair.end()
        for pair in self._open:
            pair.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.accepted += 1
                fault = self.always or (self._faults.pop(0) if self._faults else PASS)
                self._open = [pair for pair in self._open if not pair.ended]
                pair = _Pair(client, self.target, fault)
                self._open.append(pair)
            pair.start()


class _Pair:
    def __init__(self, client: socket.socket, target: tuple[str, int], fault: Fault) -> None:
        self.client = client
        self.ended = False
        self.server: socket.socket | None = None
        self._target = target
        self._passed = {"request": 0, "reply": 0}
        self._fault = fault
        self._threads: list[threading.Thread] = []
        self._running = 2
        self._lock = threading.Lock()

    def set(self, fault: Fault) -> None:
        self._passed = {"request": 0, "reply": 0}
        self._fault = fault

    def start(self) -> None:
        try:
            self.server = socket.create_connection(self._target, 5)
            self.server.settimeout(None)
        except OSError:
            self.end()
            return
        for name, source, sink in (("request", self.client, self.server), ("reply", self.server, self.client)):
            self._threads.append(threading.Thread(target=self._pump, args=(name, source, sink), daemon=True))
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(10)

    def end(self, *, reset: bool = False) -> None:
        """Wake both pumps; the last one to end closes. A reset needs sockets in which nobody reads."""
        self.ended = True
        for each in (self.client, self.server):
            if each is None:
                continue
            with suppress(OSError):
                if reset:
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                each.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)
        if not self._threads:
            self._close()

    def _close(self) -> None:
        self.client.close()
        if self.server is not None:
            self.server.close()

    def _pump(self, name: str, source: socket.socket, sink: socket.socket) -> None:
        try:
            while True:
                rate = self._fault.rate if name == "request" else self._fault.reply_rate
                block = source.recv(65536 if rate is None else max(1, rate // 20))
                if not block:
                    break
                fault = self._fault
                if fault.garbage is not None and name == "request":
                    self.client.sendall(fault.garbage)
                    break
                if fault.silent:
                    continue
                limit = fault.cut_request if name == "request" else fault.cut_reply
                if limit is not None and self._passed[name] + len(block) > limit:
                    sink.sendall(block[: limit - self._passed[name]])
                    self.end(reset=True)
                    break
                self._passed[name] += len(block)
                sink.sendall(block)
                if rate is not None:
                    time.sleep(0.05)
        except OSError:
            pass
        if not self.ended:
            self.end()
        with self._lock:
            self._running -= 1
            if not self._running:
                self._close()
