"""Requests over HTTP/1.1: one connection for each slot, requests written as bytes that were made beforehand.

The head of a reply is parsed once: replies of one model have the same head, so a dictionary finds what it means.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tritonrepo_client.perf._engine import Engine, Slot, clock
from tritonrepo_client.perf._http2 import connected
from tritonrepo_client.perf._plan import JSON_WIDTH, Endpoint, Template
from tritonrepo_client.perf._records import LOST, MODEL_SHIFT, OK, REFUSED, WRONG
from tritonrepo_client.perf._replies import Checker, error_kind, parse_json_reply

_BLOCK = 64 * 1024
_SMALL = 32 * 1024
_LARGEST_HEAD = 64 * 1024
_MOST_HEADS = 4096
_IN, _OUT = select.EPOLLIN, select.EPOLLOUT

_scratch = memoryview(bytearray(256 * 1024))


class Head(NamedTuple):
    """What the head of a reply says."""

    status: int
    length: int
    """Bytes of the body; -1: chunked; -2: until the connection ends."""
    split: int
    """Bytes of JSON at the beginning of the body; -1: all."""
    keep: bool
    """Whether the connection stays."""


def parse_head(data: bytes) -> Head:
    """Read a head, without the empty line that ends it.

    Raises:
        ValueError: it is not HTTP/1.
    """
    lines = data.decode("latin-1").split("\r\n")
    version, _, rest = lines[0].partition(" ")
    if not version.startswith("HTTP/1.") or not rest[:3].isdecimal():
        raise ValueError(f"the reply is not HTTP: {lines[0][:80]!r}")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    status = int(rest[:3])
    if headers.get("content-encoding", "identity") != "identity":
        raise ValueError(f"the reply is compressed ({headers['content-encoding']}), which was not asked for")
    if "chunked" in headers.get("transfer-encoding", "").lower():
        length = -1
    elif "content-length" in headers:
        length = int(headers["content-length"])
    else:
        length = 0 if status in (204, 304) or status < 200 else -2
    keep = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close" and length != -2
    return Head(status, length, int(headers.get("inference-header-content-length", -1)), keep)


def unchunk(data: bytearray) -> tuple[bytes, int] | None:
    """The body of a chunked reply and how many bytes it took, or None where it is not complete.

    Raises:
        ValueError: these are no chunks.
    """
    body: list[bytes] = []
    at = 0
    while (end := data.find(b"\r\n", at)) >= 0:
        size = int(bytes(data[at:end]).partition(b";")[0], 16)
        if size == 0:
            while (line := data.find(b"\r\n", end + 2)) >= 0:  # trailers
                if line == end + 2:
                    return b"".join(body), line + 2
                end = line
            return None
        if len(data) < end + 2 + size + 2:
            return None
        body.append(bytes(data[end + 2 : end + 2 + size]))
        at = end + 2 + size + 2
    return None


class HttpRequest:
    """A request as bytes. ``whole`` where all of it is known and small, else `build` puts it together."""

    __slots__ = ("_body", "_cache", "_head", "_path", "_template", "bits", "checker", "whole")

    def __init__(self, template: Template, endpoint: Endpoint, memory: memoryview, checker: Checker | None) -> None:
        self.bits = template.model << MODEL_SHIFT
        self.checker = checker
        self._template = template
        self._body = memory[template.start : template.start + template.length]
        self._path = (
            f"POST {endpoint.prefix}{template.path} HTTP/1.1\r\nHost: {endpoint.authority}\r\n"
            "Accept: */*\r\nAccept-Encoding: identity\r\nContent-Type: application/octet-stream\r\n"
            "Inference-Header-Content-Length: "
        ).encode("latin-1")
        self._cache: dict[int, bytes] = {}
        self.whole: bytes | None = None
        if not template.patches and template.length <= _SMALL:
            self.whole = self._start(b"", 0) + self._body

    def _start(self, parameters: bytes, number: int) -> bytes:
        """All but the tensors."""
        template = self._template
        head = template.head
        if template.patches:
            patched = bytearray(head)
            for at, base, stride in template.patches:
                patched[at : at + JSON_WIDTH] = b"%*d" % (JSON_WIDTH, base + stride * number)
            head = bytes(patched)
        said = b",".join(part for part in (template.parameters, parameters) if part)
        text = b'{"parameters":{' + said + b"}," + head
        return self._path + b"%d\r\nContent-Length: %d\r\n\r\n" % (len(text), len(text) + template.length) + text

    def build(self, slot: Slot) -> list[bytes | memoryview]:
        """The parts to send from this slot."""
        if slot.stream:
            flags = (slot.place == 1, slot.left == 0)
            words = ("false", "true")
            parameters = (
                f'"sequence_id":{slot.sequence},"sequence_start":{words[flags[0]]},"sequence_end":{words[flags[1]]}'
            ).encode()
            return [self._start(parameters, slot.number), self._body]
        start = self._cache.get(slot.number)
        if start is None:
            start = self._start(b"", slot.number)
            if len(self._cache) < 1024:
                self._cache[slot.number] = start
        return [start, self._body]


class HttpSlot(Slot):
    """One connection, with one request on it at a time."""

    __slots__ = (
        "_checker",
        "_connected",
        "_endpoint",
        "_head",
        "_received",
        "_recv",
        "_rest",
        "_send",
        "_socket",
        "_waiting",
        "fd",
        "heads",
    )  # fmt: skip

    def __init__(
        self, engine: Engine, number: int, endpoint: int, requests: Sequence[HttpRequest], heads: dict[bytes, Head]
    ) -> None:
        super().__init__(engine, number, endpoint, requests)
        self._endpoint = engine.plan.endpoints[endpoint]
        self.heads = heads
        self._socket: socket.socket | None = None
        self._connected = False
        self._waiting: list[memoryview] = []
        self._received = bytearray()
        self._head: Head | None = None
        self._rest = 0
        """Bytes of the body that nobody needs and that are still to come."""
        self._checker: Checker | None = None
        self.fd = -1

    def begin(self, request: HttpRequest) -> None:  # type: ignore[override]
        """Send it, or as much of it as the socket takes."""
        self.bits = self.bits & ~(0xFF << MODEL_SHIFT) | request.bits
        self._checker = request.checker
        self.sent = clock()
        whole = None if self.stream else request.whole
        if self._connected:
            try:
                if whole is not None:
                    count = self._send(whole)
                    if count == len(whole):
                        return
                    self._waiting = [memoryview(whole)[count:]]
                else:
                    self._waiting = [memoryview(part) for part in request.build(self) if len(part)]
                    self._write()
            except BlockingIOError:
                self._waiting = [memoryview(whole)] if whole is not None else self._waiting
            except OSError as error:
                self._lost(error)
                return
            if self._waiting:
                self.engine.epoll.modify(self.fd, _IN | _OUT)
            return
        self._waiting = [memoryview(part) for part in ([whole] if whole is not None else request.build(self))]
        if self._socket is None:
            self._connect()

    def give_up(self) -> None:
        """A request cannot be taken back: the connection ends."""
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._socket is not None:
            self.engine.forget(self.fd)
            self._socket.close()
            self._socket = None
        self._connected = False
        self._waiting = []
        self._head, self._rest = None, 0
        self._received.clear()

    def on_event(self, event: int) -> None:
        """The socket is ready."""
        if event & _OUT:
            self._writable()
            if not event & ~_OUT or self._socket is None:
                return
        if self._rest:
            self._skip()
            return
        try:
            data = self._recv(_BLOCK)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(error)
            return
        now = clock()
        if not self._received:
            end = data.find(b"\r\n\r\n")
            head = self.heads.get(data[:end]) if end > 0 else None
            if head is not None and head.length == len(data) - end - 4 and self.busy and not self._waiting:
                if head.status == 200 and self._checker is None and head.keep:
                    self.engine.finish(self, OK, now)
                else:
                    self._complete(head, data[end + 4 :], now)
                return
        self._slowly(data, now)

    def _slowly(self, data: bytes, now: int) -> None:
        if not data:
            self._ended(now)
            return
        if not self.busy:
            self.close()  # nobody asked
            return
        self._received += data
        try:
            self._parse(now)
        except ValueError as error:
            self._fail(self.engine.records.code("bad reply", str(error)), now)

    def _parse(self, now: int) -> None:
        received = self._received
        if self._head is None:
            end = received.find(b"\r\n\r\n")
            if end < 0:
                if len(received) > _LARGEST_HEAD:
                    raise ValueError("the reply is not HTTP: its head has no end")
                return
            text = bytes(received[:end])
            del received[: end + 4]
            head = self.heads.get(text) or parse_head(text)
            if head.status < 200:
                self._parse(now)
                return
            if len(self.heads) < _MOST_HEADS:
                self.heads[text] = head
            self._head = head
        head = self._head
        if head.length == -1:
            done = unchunk(received)
            if done is not None:
                self._complete(head, done[0], now, len(received) - done[1])
        elif head.length >= 0:
            if len(received) >= head.length:
                self._complete(head, bytes(received[: head.length]), now, len(received) - head.length)
            elif self._checker is None and head.status == 200 and head.length > _BLOCK:
                self._rest = head.length - len(received)
                received.clear()

    def _skip(self) -> None:
        """Read what nobody needs: the rest of a large reply."""
        while self._rest:
            try:
                count = self._socket.recv_into(_scratch, min(len(_scratch), self._rest))  # type: ignore[union-attr]
            except BlockingIOError:
                return
            except OSError as error:
                self._lost(error)
                return
            if not count:
                self._ended(clock())
                return
            self._rest -= count
        assert self._head is not None  # noqa: S101  a rest follows a head
        self._complete(self._head, None, clock())

    def _complete(self, head: Head, body: bytes | None, now: int, surplus: int = 0) -> None:
        """A whole reply is there."""
        self._head = None
        self._received.clear()
        code = OK
        if self._waiting:  # answered before all of it was sent: what follows on this connection is not to be trusted
            surplus = 1
        if head.status != 200:
            code = self.engine.records.code(*error_kind(str(head.status), _words(body or b"")))
        elif self._checker is not None and body is not None:
            code = self._checked(head, body)
        if surplus or not head.keep:
            self.close()
        self.engine.finish(self, code, now)

    def _checked(self, head: Head, body: bytes) -> int:
        checker = self._checker
        assert checker is not None  # noqa: S101  the caller looked
        if body == checker.seen:
            return OK
        try:
            fault = checker.compare(parse_json_reply(body, head.split))
        except ValueError as error:
            return self.engine.records.code("bad reply", str(error))
        if fault:
            self.engine.records.code("wrong reply", fault)
            return WRONG
        checker.seen = body
        return OK

    def _ended(self, now: int) -> None:
        head = self._head
        if self.busy and head is not None and head.length == -2:
            self._complete(head, bytes(self._received), now, 1)
        elif self.busy:
            where = "in the middle of" if self._received or head else "before"
            self._lost(ConnectionError(f"the server closed the connection {where} its reply"))
        else:
            self.close()

    def _lost(self, error: OSError) -> None:
        records = self.engine.records
        if isinstance(error, ConnectionRefusedError):
            code = REFUSED
            records.code("connection refused", str(error))
        else:
            code = LOST
            records.code("connection lost", str(error))
        self._fail(code, clock())

    def _fail(self, code: int, now: int) -> None:
        self.close()
        if self.busy:
            self.engine.finish(self, code, now)

    def _connect(self) -> None:
        self._socket = sock = socket.socket(self._endpoint.family, socket.SOCK_STREAM)
        sock.setblocking(False)
        if self._endpoint.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.fd = sock.fileno()
        self._send: Callable[[bytes], int] = sock.send
        self._recv: Callable[[int], bytes] = sock.recv
        self.engine.watch(self.fd, self.on_event, _IN | _OUT)
        error = sock.connect_ex(self._endpoint.address)
        if error not in (0, errno.EINPROGRESS):
            self._lost(OSError(error, os.strerror(error)))

    def _writable(self) -> None:
        sock = self._socket
        if sock is None:
            return
        if not self._connected:
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self._lost(OSError(error, os.strerror(error)))
                return
            if not connected(sock):
                return
            self._connected = True
        try:
            self._write()
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(error)
            return
        if not self._waiting:
            self.engine.epoll.modify(self.fd, _IN)

    def _write(self) -> None:
        """Send what waits; leaves in ``_waiting`` what did not go."""
        waiting = self._waiting
        while waiting:
            count = self._socket.sendmsg(waiting[:64])  # type: ignore[union-attr]
            while waiting and count >= len(waiting[0]):
                count -= len(waiting.pop(0))
            if count:
                waiting[0] = waiting[0][count:]


def _words(body: bytes) -> str:
    try:
        content = json.loads(body)
    except ValueError:
        return body[:200].decode("utf-8", "replace")
    return str(content["error"]) if isinstance(content, dict) and "error" in content else str(content)[:200]


def http_slots(engine: Engine, memory: memoryview, checkers: Sequence[Checker | None]) -> Callable[[int], Slot]:
    """What makes the slots of an engine: endpoints in turn.

    Args:
        engine: with a plan for http.
        memory: the tensors' bytes.
        checkers: one for each template, or None.
    """
    plan = engine.plan
    heads: dict[bytes, Head] = {}
    requests = [
        [
            HttpRequest(template, endpoint, memory, check)
            for template, check in zip(plan.templates, checkers, strict=True)
        ]
        for endpoint in plan.endpoints
    ]

    def new_slot(number: int) -> Slot:
        endpoint = number % len(plan.endpoints)
        return HttpSlot(engine, number, endpoint, requests[endpoint], heads)

    return new_slot
