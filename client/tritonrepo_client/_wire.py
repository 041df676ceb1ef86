"""HTTP/1.1 as bytes: `ReplyReader` takes them as they come and gives replies, whoever does the reading; `Connection` is
one connection for threads, which sends a request, reads its reply and keeps its deadline.

Raises OSError (TimeoutError for the deadline) where the connection fails, and ValueError where the reply is not HTTP.
"""

from __future__ import annotations

import contextlib
import functools
import select
import socket
import ssl
import struct
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

_BLOCK = 64 * 1024
_LARGEST_HEAD = 256 * 1024
_CACHED_HEAD = 2048
_UNKNOWN, _CHUNKED = -1, -2
LARGEST_BODY = 2**31 - 1

#: TCP: unacknowledged data, or a peer that no longer answers, ends a connection after so long.
_USER_TIMEOUT_MS, _KEEP_IDLE_S, _KEEP_INTERVAL_S = 10_000, 60, 10


class Reply(NamedTuple):
    """A reply: the JSON (or any text) and, after it, the tensors' bytes."""

    status: int
    text: bytes
    binary: memoryview


class Head(NamedTuple):
    """What the head of a reply says."""

    status: int
    reusable: bool
    """Whether another request may follow on the connection."""
    length: int
    split: int
    """Bytes before the tensors; -1 where all of it is text."""
    encoding: str


class ReplyReader:
    """Bytes in, replies out; no I/O. ``buffer()`` is where the next bytes go; ``received(n)`` says that n came."""

    def __init__(self, largest: int = LARGEST_BODY, encoding: str = "identity") -> None:
        self.reusable = False
        self._largest = largest
        self._accepts = ("identity", encoding)
        self._block = bytearray(_BLOCK)
        self._view = memoryview(self._block)
        self._filled = 0
        self._head: Head | None = None
        self._text = b""
        self._binary = memoryview(b"")
        self._rest = memoryview(b"")  # of the binary part, not received yet
        self._loose = bytearray()  # a body of unknown length
        self._begun = False

    def buffer(self) -> memoryview:
        """Where to put the next bytes; never empty."""
        return self._rest if self._rest else self._view[self._filled :]

    def received(self, count: int) -> Reply | None:
        """Take note of ``count`` more bytes; a reply when one is complete.

        Raises:
            ValueError: this is not HTTP, or more than is allowed.
        """
        if self._rest:
            self._rest = self._rest[count:]
            return None if self._rest else self._finish(self._text, self._binary)
        self._begun = True
        self._filled += count
        while self._head is None:
            end = self._block.find(b"\r\n\r\n", 0, self._filled)
            if end < 0:
                self._grow()
                return None
            text = bytes(self._view[:end])
            head = _parse_head(text) if end < _CACHED_HEAD else _parse_head.__wrapped__(text)
            if head.encoding not in self._accepts:
                raise ValueError(f"the reply is compressed ({head.encoding}), which was not asked for")
            self._drop(end + 4)
            if head.status >= 200:
                self._head = head
        return self._body(self._head)

    def ended(self) -> Reply:
        """The other side closed the connection: the reply, where that is its end.

        Raises:
            ConnectionError: it is not.
        """
        if self._head is not None and self._head.length == _UNKNOWN:
            self._loose += self._view[: self._filled]
            self._filled = 0
            reply = self._finish(*_split(bytes(self._loose), self._head.split))
            self.reusable = False
            return reply
        where = "in the middle of" if self._begun else "before"
        raise ConnectionError(f"the server closed the connection {where} its reply")

    def _body(self, head: Head) -> Reply | None:
        if head.length > self._largest or len(self._loose) > self._largest:
            raise ValueError(f"the reply has more than the {self._largest} bytes that are allowed")
        if head.length == _UNKNOWN:
            self._loose += self._view[: self._filled]
            self._filled = 0
            return None
        if head.length == _CHUNKED:
            return self._chunks(head)
        split = head.length if head.split < 0 else head.split
        if split > head.length:
            raise ValueError(f"the reply has {head.length} bytes, and {split} of them are its header")
        if self._filled >= head.length:  # all of it is here
            text, binary = bytes(self._view[:split]), bytes(self._view[split : head.length])
            self._drop(head.length)
            return self._finish(text, memoryview(binary))
        if self._filled < split:
            self._grow(split)
            return None
        self._text = bytes(self._view[:split])
        # Memory of its own, so that the first tensor is aligned; numpy does not fill it with zeros first.
        self._binary = np.empty(head.length - split, np.uint8).data
        here = self._filled - split
        self._binary[:here] = self._view[split : self._filled]
        self._filled = 0
        self._rest = self._binary[here:]
        return None

    def _chunks(self, head: Head) -> Reply | None:
        while (end := self._block.find(b"\r\n", 0, self._filled)) >= 0:
            digits = bytes(self._view[:end]).partition(b";")[0].strip()
            if not digits or digits.strip(b"0123456789abcdefABCDEF"):
                raise ValueError(f"the reply has a chunk of {digits[:20]!r} bytes")
            size = int(digits, 16)
            if size > self._largest:
                raise ValueError(f"the reply has more than the {self._largest} bytes that are allowed")
            if size == 0:
                trailers = self._block.find(b"\r\n\r\n", end, self._filled)
                if trailers < 0:
                    self._grow()
                    return None
                self._drop(trailers + 4)
                return self._finish(*_split(bytes(self._loose), head.split))
            if self._filled < end + 2 + size + 2:
                self._grow(end + 2 + size + 2)
                return None
            self._loose += self._view[end + 2 : end + 2 + size]
            self._drop(end + 2 + size + 2)
        self._grow()
        return None

    def _finish(self, text: bytes, binary: memoryview) -> Reply:
        head = self._head
        assert head is not None  # noqa: S101 - a reply has one
        if head.encoding != "identity":
            whole = _inflate(text + binary, head.encoding, self._largest)
            text, binary = _split(whole, head.split)
        self.reusable = head.reusable and not self._filled  # nothing after more than a reply can be trusted
        self._head, self._begun = None, False
        self._text, self._binary = b"", memoryview(b"")
        if self._loose:
            self._loose = bytearray()
        return Reply(head.status, text, binary.toreadonly())

    def _drop(self, count: int) -> None:
        left = self._filled - count
        if left:
            self._view[:left] = bytes(self._view[count : self._filled])
        self._filled = left

    def _grow(self, wanted: int = 0) -> None:
        """Room for more, or for as much as is wanted at once."""
        if self._head is None and self._filled > _LARGEST_HEAD:
            raise ValueError("the reply is not HTTP: its head has no end")
        if self._filled < len(self._block) and wanted <= len(self._block):
            return
        block = bytearray(max(wanted, 2 * len(self._block)))
        block[: self._filled] = self._view[: self._filled]
        self._block, self._view = block, memoryview(block)


class Connection:
    """A connection. ``reusable`` says, after a reply, whether another request may follow on it."""

    def __init__(
        self,
        address: tuple[str, int],
        deadline: float | None,
        *,
        tls: ssl.SSLContext | None = None,
        server_name: str = "",
        largest: int = LARGEST_BODY,
        encoding: str = "identity",
    ) -> None:
        self.sent = False
        """Whether any byte of the last request went out."""
        self._reader = ReplyReader(largest, encoding)
        self._waits = 0.0
        plain = socket.create_connection(address, _left(deadline))
        try:
            tune(plain)
            self._socket = plain if tls is None else tls.wrap_socket(plain, server_hostname=server_name or address[0])
            self._secure = tls is not None
            if not self._secure:
                plain.settimeout(None)  # the kernel keeps the time: that is one system call less for each read
        except BaseException:
            plain.close()
            raise
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    @property
    def reusable(self) -> bool:
        """Whether another request may follow on it."""
        return self._reader.reusable

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
        self.sent = False
        if self._secure:
            self._send_secure(parts, deadline)
            return
        waiting: list[bytes | memoryview] = [part for part in parts if len(part)]
        while waiting:
            self._limit(deadline)
            try:
                count = self._socket.sendmsg(waiting[:512])
            except BlockingIOError:
                continue
            self.sent = True
            while waiting and count >= len(waiting[0]):
                count -= len(waiting.pop(0))
            if count:
                waiting[0] = memoryview(waiting[0])[count:]

    def receive(self, deadline: float | None) -> Reply:
        """Read one whole reply."""
        reader = self._reader
        while True:
            self._limit(deadline)
            try:
                count = self._socket.recv_into(reader.buffer())
            except BlockingIOError:
                continue
            if not count:
                return reader.ended()
            reply = reader.received(count)
            if reply is not None:
                return reply

    def _send_secure(self, parts: Sequence[bytes | memoryview], deadline: float | None) -> None:
        small = b"".join([part for part in parts if len(part) < _BLOCK])
        for whole in [small] if len(small) == sum(map(len, parts)) else parts:
            waiting = memoryview(whole)
            while waiting:
                self._limit(deadline)
                waiting = waiting[self._socket.send(waiting) :]
                self.sent = True

    def _limit(self, deadline: float | None) -> None:
        """Let no system call last beyond the deadline; it may end before it, and is then made again."""
        left = _left(deadline)
        if self._secure:
            self._socket.settimeout(left)
            return
        if left is None:
            wanted = 0.0
        elif left / 2 <= self._waits <= left:
            return  # what is set will do: another system call saved
        else:
            wanted = left if left < 0.01 else left * 0.95
        if wanted != self._waits:
            seconds = int(wanted)
            value = struct.pack("ll", seconds, max(int((wanted - seconds) * 1e6), 0 if seconds or not wanted else 1))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)
            self._waits = wanted


def tune(connection: socket.socket) -> None:
    """No waiting for more to send; the end of a peer that died is noticed."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", _KEEP_IDLE_S), ("TCP_KEEPINTVL", _KEEP_INTERVAL_S), ("TCP_USER_TIMEOUT", _USER_TIMEOUT_MS),
    ):  # fmt: skip
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _left(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


@functools.lru_cache(1024)
def _parse_head(head: bytes) -> Head:
    lines = head.decode("latin-1").split("\r\n")
    version, _, rest = lines[0].partition(" ")
    if not version.startswith("HTTP/1.") or not rest[:3].isdecimal():
        raise ValueError(f"the reply is not HTTP: {lines[0][:80]!r}")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    status = int(rest[:3])
    if "chunked" in headers.get("transfer-encoding", "").lower():
        length = _CHUNKED
    elif status in (204, 304):
        length = 0
    else:
        length = _number(headers, "content-length", _UNKNOWN)
    reusable = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
    split = _number(headers, "inference-header-content-length", -1)
    encoding = headers.get("content-encoding", "identity").lower()
    return Head(status, reusable, length, split, encoding)


def _number(headers: Mapping[str, str], name: str, default: int) -> int:
    text = headers.get(name)
    if text is None:
        return default
    if not text.isdecimal() or len(text) > 18:
        raise ValueError(f"the reply has {name}: {text[:30]!r}")
    return int(text)


def _split(body: bytes, at: int) -> tuple[bytes, memoryview]:
    if at > len(body):
        raise ValueError(f"the reply has {len(body)} bytes, and {at} of them are its header")
    return (body, memoryview(b"")) if at < 0 else (body[:at], memoryview(body)[at:])


def _inflate(body: bytes, encoding: str, largest: int) -> bytes:
    window = 16 + zlib.MAX_WBITS if encoding == "gzip" else zlib.MAX_WBITS
    unpack = zlib.decompressobj(window)
    try:
        whole = unpack.decompress(body, largest + 1)
    except zlib.error as error:
        raise ValueError(f"the reply's {encoding} data cannot be read: {error}") from None
    if len(whole) > largest:
        raise ValueError(f"the reply has more than the {largest} bytes that are allowed")
    if not unpack.eof:
        raise ValueError(f"the reply's {encoding} data has no end")
    return whole
