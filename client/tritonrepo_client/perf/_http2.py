"""One HTTP/2 connection of gRPC calls, framed by hand: many streams, flow control both ways, written in few packets.

Headers of requests are compressed once. The server is told to keep no table for the headers of its replies, so that
equal bytes mean equal headers and a dictionary finds what they say.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Protocol
from urllib.parse import unquote

from tritonrepo_client.perf._engine import Engine, clock
from tritonrepo_client.perf._plan import Endpoint

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 1, 1, 4, 8, 32
CANCEL = 8

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_LARGEST_WINDOW = (1 << 31) - 1
_FIRST_WINDOW = 65535
_LAST_STREAM = (1 << 31) - 3
_BLOCK = 256 * 1024
_MOST_BLOCKS = 4096
_IN, _OUT = select.EPOLLIN, select.EPOLLOUT

_frame = struct.Struct(">IBI")
_read_frame = _frame.unpack_from
_pack_id = struct.Struct(">I").pack


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A whole frame."""
    return _frame.pack(len(payload) << 8 | kind, flags, stream) + payload


class Headers:
    """What a block of headers says; ``status`` is -1 where there is no grpc-status."""

    __slots__ = ("http", "status", "words")

    def __init__(self, http: str, status: int, words: str) -> None:
        self.http, self.status, self.words = http, status, words


class Blocks(dict[bytes, Headers]):
    """Blocks of headers seen before, and what they say."""

    def read(self, block: bytes) -> Headers:
        """What a block says.

        Raises:
            ValueError: it cannot be read.
        """
        known = self.get(block)
        if known is None:
            known = _decode(block)
            if len(self) < _MOST_BLOCKS:
                self[block] = known
        return known


def _decode(block: bytes) -> Headers:
    import hpack

    decoder = hpack.Decoder()
    decoder.max_allowed_table_size = 0
    decoder.header_table_size = 0
    try:
        headers = {str(name): str(value) for name, value in decoder.decode(block)}
    except hpack.HPACKError as error:
        raise ValueError(f"the reply's headers cannot be read: {error}") from None
    status = headers.get("grpc-status", "-1")
    number = int(status) if status.lstrip("-").isdecimal() else 2
    return Headers(headers.get(":status", ""), number, unquote(headers.get("grpc-message", "")))


def _literal(index: bytes, value: str) -> bytes:
    data = value.encode("latin-1")
    if len(data) < 127:
        return index + bytes([len(data)]) + data
    rest, size = len(data) - 127, bytearray([127])
    while rest > 127:
        size.append(rest & 0x7F | 0x80)
        rest >>= 7
    size.append(rest)
    return index + bytes(size) + data


def request_headers(path: str, authority: str, *, indexed: bool) -> tuple[bytes, bytes]:
    """The block of the first request on a connection, and that of all others.

    ``indexed``: the first fills the server's table, and the others point into it.
    """
    if not indexed:
        block = b"\x20\x83\x86" + _literal(b"\x04", path) + _literal(b"\x01", authority)
        block += _literal(b"\x0f\x10", "application/grpc") + b"\x00\x02te\x08trailers"
        return block, block[1:]
    first = b"\x83\x86" + _literal(b"\x44", path) + _literal(b"\x41", authority)
    first += _literal(b"\x5f", "application/grpc") + b"\x40\x02te\x08trailers"
    # The newest entry has index 62.
    return first, b"\x83\x86\xc1\xc0\xbf\xbe"


class Stream(Protocol):
    """What a connection calls for each of its streams."""

    stream_id: int
    window: int
    """Bytes that the server still takes on this stream."""

    def on_data(self, data: bytes, start: int, end: int, now: int) -> None:
        """Bytes of the reply: ``data[start:end]``."""

    def on_end(self, headers: Headers, now: int) -> None:
        """The stream has ended as gRPC wants it."""

    def on_lost(self, words: str, now: int) -> None:
        """The stream or its connection has ended otherwise."""

    def on_refused(self, words: str, now: int) -> None:
        """There is no connection."""


class Connection:
    """An HTTP/2 connection. ``usable`` as long as new streams may begin on it."""

    def __init__(self, engine: Engine, endpoint: Endpoint, path: str, blocks: Blocks) -> None:
        self.engine, self.endpoint, self.path, self.blocks = engine, endpoint, path, blocks
        self.usable = True
        self.ready = False
        """Whether the server's settings are known; requests wait for that."""
        self.streams: dict[int, Stream] = {}
        self.waiting: deque[tuple[Stream, Callable[[], None]]] = deque()
        """What begins once the connection is ready, or once the server allows another stream."""
        self.window = _FIRST_WINDOW
        self.stream_window = _FIRST_WINDOW
        self.largest_frame = 16384
        self.most_streams = _LARGEST_WINDOW
        self._table = 4096
        self._next = 1
        self._block = b""
        self._head = b""
        self._begun = False
        self._consumed = 0
        self._partial = b""
        self._headers: tuple[int, int, bytes] | None = None
        self._out: list[bytes | memoryview] = []
        self._unsent: list[memoryview] = []
        self._pending: deque[_Pending] = deque()
        self._dirty = self._connected = False
        engine.connections.append(self)
        self._open()

    # --- sending

    def begin(self, stream: Stream, prefix: bytes, payload: bytes | memoryview, *, last: bool) -> None:
        """Open a stream and send a message on it: ``prefix`` and ``payload``; ``last``: nothing follows."""
        number = self._next
        self._next = number + 2
        if number >= _LAST_STREAM:
            self.usable = False
        stream.stream_id = number
        self.streams[number] = stream
        name = _pack_id(number)
        length = len(prefix) + len(payload)
        if last and length <= self.window and length <= self.stream_window and length <= self.largest_frame:
            self.window -= length
            self._out += (
                self._head, name, self._block, (length << 8).to_bytes(4, "big"), b"\x01", name, prefix, payload,
            )  # fmt: skip
        else:
            stream.window = self.stream_window
            self._out += (self._head, name, self._block)
            self._queue(stream, prefix, payload, last=last)
        if self._begun:
            self._later()
        else:
            self._begin_indexing()

    def message(self, stream: Stream, prefix: bytes, payload: bytes | memoryview) -> None:
        """Send another message on a stream that is open."""
        self._queue(stream, prefix, payload, last=False)
        self._later()

    def reset(self, stream: Stream) -> None:
        """Give a stream up."""
        if self.streams.pop(stream.stream_id, None) is not None:
            self._pending = deque(each for each in self._pending if each.stream is not stream)
            self._out.append(frame(RST_STREAM, 0, stream.stream_id, CANCEL.to_bytes(4, "big")))
            self._later()
            self._more_streams()

    def half_close(self, stream: Stream) -> None:
        """Say that no more messages follow on a stream."""
        if stream.stream_id in self.streams:
            self._out.append(frame(DATA, END_STREAM, stream.stream_id))
            self._later()

    def full(self) -> bool:
        """Whether the server allows no more streams at present."""
        return len(self.streams) >= self.most_streams

    def _begin_indexing(self) -> None:
        """All requests but the first use the short block of headers."""
        self._begun = True
        _, self._block = request_headers(self.path, self.endpoint.authority, indexed=self._table >= 4096)
        self._set_head(self._block)
        self._later()

    def _set_head(self, block: bytes) -> None:
        self._head = (len(block) << 8 | HEADERS).to_bytes(4, "big") + bytes([END_HEADERS])

    def _queue(self, stream: Stream, prefix: bytes, payload: bytes | memoryview, *, last: bool) -> None:
        self._pending.append(_Pending(stream, [memoryview(prefix), memoryview(payload)], last))
        self._pump()

    def _pump(self) -> None:
        """Send what the windows allow. A stream whose window is shut does not hold up the others."""
        blocked: deque[_Pending] = deque()
        while self._pending and self.window > 0:
            pending = self._pending[0]
            stream = pending.stream
            if any(each.stream is stream for each in blocked):
                blocked.append(self._pending.popleft())
                continue
            while pending.left and self.window > 0 and stream.window > 0:
                size = min(pending.left, self.largest_frame, self.window, stream.window)
                self.window -= size
                stream.window -= size
                parts = pending.cut(size)
                flags = END_STREAM if pending.last and not pending.left else 0
                self._out.append(_frame.pack(size << 8 | DATA, flags, stream.stream_id))
                self._out += parts
            if not pending.left:
                self._pending.popleft()
            elif stream.window <= 0:
                blocked.append(self._pending.popleft())
        blocked.extend(self._pending)
        self._pending = blocked

    def _later(self) -> None:
        if not self._dirty:
            self._dirty = True
            self.engine.dirty.append(self.flush)

    def flush(self) -> None:
        """Write all that was queued."""
        self._dirty = False
        if not self._connected or self._socket is None:
            return
        out, self._out = self._out, []
        if not out:
            return
        if self._unsent:
            self._unsent += [memoryview(part) for part in out]
            return
        try:
            if len(out) > 64 or sum(map(len, out)) > 4 * 16384:
                self._unsent = [memoryview(part) for part in out if len(part)]
                self._write()
            else:
                data = b"".join(out)
                self._unsent = [memoryview(data)]
                count = self._socket.send(data)
                if count == len(data):
                    self._unsent = []
                    return
                self._unsent = [memoryview(data)[count:]]
        except BlockingIOError:
            pass
        except OSError as error:
            self._lost(str(error))
            return
        if self._unsent:
            self.engine.epoll.modify(self.fd, _IN | _OUT)

    def _write(self) -> None:
        unsent, at = self._unsent, 0
        try:
            while at < len(unsent):
                assert self._socket is not None  # noqa: S101  callers looked
                count = self._socket.sendmsg(unsent[at : at + 512])
                while at < len(unsent) and count >= len(unsent[at]):
                    count -= len(unsent[at])
                    at += 1
                if count:
                    unsent[at] = unsent[at][count:]
        finally:
            del unsent[:at]

    # --- receiving

    def on_event(self, event: int) -> None:
        """The socket is ready."""
        if event & _OUT:
            self._writable()
            if not event & ~_OUT or self._socket is None:
                return
        try:
            data = self._recv(_BLOCK)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(str(error))
            return
        if not data:
            self._lost("the server closed the connection")
            return
        now = clock()
        if self._partial:
            data = self._partial + data
        try:
            self._partial = data[self._frames(data, now) :]
        except (ValueError, struct.error) as error:
            self._lost(f"bad reply: {error}")
        if self._consumed > _LARGEST_WINDOW >> 1:
            self._out.append(frame(WINDOW_UPDATE, 0, 0, self._consumed.to_bytes(4, "big")))
            self._consumed = 0
            self._later()

    def _frames(self, data: bytes, now: int) -> int:
        """Handle the whole frames; returns where the rest begins."""
        at, size = 0, len(data)
        streams, blocks = self.streams, self.blocks
        while size - at >= 9:
            word, flags, number = _read_frame(data, at)
            start = at + 9
            end = start + (word >> 8)
            if end > size:
                break
            kind = word & 0xFF
            if kind == DATA:
                self._consumed += end - start
                stream = streams.get(number)
                if stream is not None:
                    if flags & PADDED:
                        end_of_data = end - data[start]
                        stream.on_data(data, start + 1, end_of_data, now)
                    else:
                        stream.on_data(data, start, end, now)
                    if flags & END_STREAM:
                        del streams[number]
                        stream.on_lost("the reply ended without a status", now)
            elif kind == HEADERS and flags & ~END_STREAM == END_HEADERS and self._headers is None:
                if flags & END_STREAM:
                    block = data[start:end]
                    headers = blocks.get(block) or blocks.read(block)
                    stream = streams.pop(number, None)
                    if stream is not None:
                        stream.on_end(headers, now)
            else:
                self._rare(kind, flags, number, data[start:end], now)
            at = end
        if self.waiting:
            self._more_streams()
        return at

    def _rare(self, kind: int, flags: int, number: int, payload: bytes, now: int) -> None:
        if kind == WINDOW_UPDATE:
            self._window_update(number, int.from_bytes(payload, "big") & _LARGEST_WINDOW)
        elif kind == PING and not flags & ACK:
            self._out.append(frame(PING, ACK, 0, payload))
            self._later()
        elif kind == SETTINGS and not flags & ACK:
            self._settings(payload)
        elif kind == RST_STREAM:
            stream = self.streams.pop(number, None)
            if stream is not None:
                self._pending = deque(each for each in self._pending if each.stream is not stream)
                stream.on_lost(f"the server reset the stream (code {int.from_bytes(payload, 'big')})", now)
        elif kind == GOAWAY:
            self._goaway(int.from_bytes(payload[:4], "big") & _LARGEST_WINDOW, payload[8:], now)
        elif kind in (HEADERS, CONTINUATION):
            self._split_headers(kind, flags, number, payload, now)

    def _split_headers(self, kind: int, flags: int, number: int, payload: bytes, now: int) -> None:
        """Headers with padding or priority, or in several frames."""
        if kind == HEADERS:
            start = end_padding = 0
            if flags & PADDED:
                start, end_padding = 1, payload[0]
            if flags & PRIORITY:
                start += 5
            self._headers = (number, flags & END_STREAM, payload[start : len(payload) - end_padding])
        elif self._headers is None or self._headers[0] != number:
            raise ValueError("headers are continued that had not begun")
        else:
            self._headers = (number, self._headers[1], self._headers[2] + payload)
        if flags & END_HEADERS:
            _, last, block = self._headers
            self._headers = None
            headers = self.blocks.read(block)
            stream = self.streams.pop(number, None) if last else None
            if stream is not None:
                stream.on_end(headers, now)

    def _settings(self, payload: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", payload):
            if name == 1:
                self._table = value
            elif name == 3:
                self.most_streams = value
            elif name == 4:
                for stream in self.streams.values():
                    stream.window += value - self.stream_window
                self.stream_window = value
            elif name == 5:
                self.largest_frame = value
        self._out.append(frame(SETTINGS, ACK, 0))
        self._later()
        if not self.ready:
            self.ready = True
            self._block, _ = request_headers(self.path, self.endpoint.authority, indexed=self._table >= 4096)
            self._set_head(self._block)
        self._pump()
        self._more_streams()

    def _more_streams(self) -> None:
        while self.waiting and self.usable and not self.full():
            self.waiting.popleft()[1]()

    def _window_update(self, number: int, more: int) -> None:
        if number == 0:
            self.window += more
        else:
            stream = self.streams.get(number)
            if stream is not None:
                stream.window += more
        if self._pending:
            self._pump()
            self._later()

    def _goaway(self, last: int, words: bytes, now: int) -> None:
        self.usable = False
        text = f"the server is going away: {words[:200].decode('utf-8', 'replace')}"
        for number in [number for number in self.streams if number > last]:
            self.streams.pop(number).on_lost(text, now)
        while self.waiting:
            self.waiting.popleft()[0].on_lost(text, now)
        if not self.streams:
            self.close()

    # --- opening and closing

    def _open(self) -> None:
        self._socket: socket.socket | None = socket.socket(self.endpoint.family, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.fd = self._socket.fileno()
        self._recv = self._socket.recv
        # Table of headers: none. Server push: none. Window of each stream: the largest.
        settings = struct.pack(">HIHIHI", 1, 0, 2, 0, 4, _LARGEST_WINDOW)
        self._out.append(
            _PREFACE
            + frame(SETTINGS, 0, 0, settings)
            + frame(WINDOW_UPDATE, 0, 0, (_LARGEST_WINDOW - _FIRST_WINDOW).to_bytes(4, "big"))
        )
        self.engine.watch(self.fd, self.on_event, _IN | _OUT)
        error = self._socket.connect_ex(self.endpoint.address)
        if error not in (0, errno.EINPROGRESS):
            # The streams that wait for this connection are not there yet.
            self._failed = error
        else:
            self._failed = 0

    def _writable(self) -> None:
        if self._socket is None:
            return
        if not self._connected:
            error = self._failed or self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self._lost(os.strerror(error), refused=error == errno.ECONNREFUSED)
                return
            if not connected(self._socket):
                return
            self._connected = True
            self.engine.epoll.modify(self.fd, _IN)
            self.flush()
            return
        try:
            self._write()
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(str(error))
            return
        self.engine.epoll.modify(self.fd, _IN)

    def _lost(self, words: str, *, refused: bool = False) -> None:
        self.close()
        now = clock()
        streams = [*self.streams.values(), *(stream for stream, _ in self.waiting)]
        self.streams.clear()
        self.waiting.clear()
        for stream in streams:
            if refused:
                stream.on_refused(words, now)
            else:
                stream.on_lost(words, now)

    def close(self) -> None:
        """Close the connection."""
        self.usable = False
        if self._socket is not None:
            self.engine.forget(self.fd)
            self._socket.close()
            self._socket = None
            self.engine.connections.remove(self)
        self._out, self._unsent, self._partial = [], [], b""
        self._pending.clear()


def connected(sock: socket.socket) -> bool:
    """Whether it is: an event may have been meant for an earlier socket with the same number."""
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


class _Pending:
    """A message that has not been sent, or not all of it."""

    __slots__ = ("last", "left", "parts", "stream")

    def __init__(self, stream: Stream, parts: list[memoryview], last: bool) -> None:
        self.stream, self.last = stream, last
        self.parts = [part for part in parts if len(part)]
        self.left = sum(map(len, self.parts))

    def cut(self, size: int) -> list[memoryview]:
        """Take the next bytes off."""
        taken = []
        self.left -= size
        while size:
            part = self.parts[0]
            if len(part) <= size:
                taken.append(self.parts.pop(0))
                size -= len(part)
            else:
                taken.append(part[:size])
                self.parts[0] = part[size:]
                size = 0
        return taken
