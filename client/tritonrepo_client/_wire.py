"""One HTTP/1.1 connection: sends a request, reads its reply, keeps its deadline.

Raises OSError (TimeoutError for the deadline) where the connection fails, and ValueError where the reply is not HTTP.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_BLOCK = 64 * 1024
_LARGEST_HEAD = 256 * 1024


class Reply(NamedTuple):
    """A reply: the JSON (or any text) and, after it, the tensors' bytes."""

    status: int
    text: bytes
    binary: memoryview


class Connection:
    """A connection. ``reusable`` says, after a reply, whether another request may follow on it."""

    def __init__(self, address: tuple[str, int], deadline: float | None) -> None:
        self.reusable = False
        self._socket = socket.create_connection(address, _left(deadline))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._received = bytearray()

    def usable(self) -> bool:
        """Whether an idle connection is still open: anything to read is its end, or what nobody asked for."""
        return not self._poll.poll(0)

    def close(self) -> None:
        """Close it; of the thread that uses it."""
        self._socket.close()

    def shut(self) -> None:
        """End it from another thread: whoever waits on it sees the end of the stream."""
        with contextlib.suppress(OSError):  # it had ended already
            self._socket.shutdown(socket.SHUT_RDWR)

    def send(self, parts: Sequence[bytes | memoryview], deadline: float | None) -> None:
        """Send all parts, small ones in one packet."""
        waiting = [memoryview(part) for part in parts if len(part)]
        while waiting:
            self._socket.settimeout(_left(deadline))
            sent = self._socket.sendmsg(waiting[:512])
            while waiting and sent >= len(waiting[0]):
                sent -= len(waiting.pop(0))
            if sent:
                waiting[0] = waiting[0][sent:]

    def receive(self, deadline: float | None) -> Reply:
        """Read one whole reply."""
        status, version, headers = self._head(deadline)
        while status < 200:
            status, version, headers = self._head(deadline)
        if headers.get("content-encoding", "identity") != "identity":
            raise ValueError(f"the reply is compressed ({headers['content-encoding']}), which was not asked for")
        self.reusable = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        if "chunked" in headers.get("transfer-encoding", "").lower():
            text, binary = _split(self._chunks(deadline), headers)
        elif "content-length" in headers:
            text, binary = self._counted(headers, deadline)
        else:
            self.reusable = False
            text, binary = _split(self._until_end(deadline), headers)
        if self._received:
            self.reusable = False  # more than the reply came: nothing after it can be trusted
        return Reply(status, text, binary)

    def _head(self, deadline: float | None) -> tuple[int, str, dict[str, str]]:
        received = self._received
        while (end := received.find(b"\r\n\r\n")) < 0:
            if len(received) > _LARGEST_HEAD:
                raise ValueError("the reply is not HTTP: its head has no end")
            self._read(deadline)
        lines = received[:end].decode("latin-1").split("\r\n")
        del received[: end + 4]
        version, _, rest = lines[0].partition(" ")
        if not version.startswith("HTTP/1.") or not rest[:3].isdecimal():
            raise ValueError(f"the reply is not HTTP: {lines[0][:80]!r}")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return int(rest[:3]), version, headers

    def _counted(self, headers: dict[str, str], deadline: float | None) -> tuple[bytes, memoryview]:
        length = _number(headers, "content-length")
        split = _number(headers, "inference-header-content-length", length)
        if split > length:
            raise ValueError(f"the reply has {length} bytes, and {split} of them are its header")
        received = self._received
        while len(received) < split:
            self._read(deadline)
        text = bytes(received[:split])
        del received[:split]
        # Memory of its own, so that the first tensor is aligned; numpy does not fill it with zeros first.
        binary = np.empty(length - split, np.uint8).data
        here = min(len(received), len(binary))
        binary[:here] = received[:here]
        del received[:here]
        rest = binary[here:]
        while rest:
            self._socket.settimeout(_left(deadline))
            count = self._socket.recv_into(rest)
            if not count:
                raise ConnectionError("the server closed the connection in the middle of its reply")
            rest = rest[count:]
        return text, binary

    def _chunks(self, deadline: float | None) -> bytes:
        body = b""
        while size := int(self._line(deadline).partition(b";")[0], 16):
            while len(self._received) < size + 2:
                self._read(deadline)
            body += self._received[:size]
            del self._received[: size + 2]
        while self._line(deadline):  # trailers
            pass
        return body

    def _until_end(self, deadline: float | None) -> bytes:
        while self._more(deadline):
            pass
        body = bytes(self._received)
        self._received.clear()
        return body

    def _line(self, deadline: float | None) -> bytes:
        while (end := self._received.find(b"\r\n")) < 0:
            self._read(deadline)
        line = bytes(self._received[:end])
        del self._received[: end + 2]
        return line

    def _read(self, deadline: float | None) -> None:
        if not self._more(deadline):
            where = "in the middle of" if self._received else "before"
            raise ConnectionError(f"the server closed the connection {where} its reply")

    def _more(self, deadline: float | None) -> int:
        self._socket.settimeout(_left(deadline))
        block = self._socket.recv(_BLOCK)
        self._received += block
        return len(block)


def _left(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _number(headers: dict[str, str], name: str, default: int = 0) -> int:
    text = headers.get(name)
    if text is None:
        return default
    if not text.isdecimal():
        raise ValueError(f"the reply has {name}: {text!r}")
    return int(text)


def _split(body: bytes, headers: dict[str, str]) -> tuple[bytes, memoryview]:
    at = _number(headers, "inference-header-content-length", len(body))
    return body[:at], memoryview(body)[at:]
