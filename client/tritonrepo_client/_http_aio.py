"""HTTP/1.1 for asyncio: the bytes of `_http_codec`, read by a BufferedProtocol into the memory where they stay."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any
from urllib.parse import SplitResult

from tritonrepo_client._http import IDLE_S, no_streams
from tritonrepo_client._http_codec import HttpCodec, HttpMessage
from tritonrepo_client._wire import Reply, ReplyReader, tune
from tritonrepo_client.settings import HeaderList, Settings
from tritonrepo_client.transport import InferReply, InferRequest, seconds_left

_SMALL = 64 * 1024


class AsyncHttpTransport:
    """See ``Transport``. Belongs to the event loop of its first call."""

    def __init__(self, url: SplitResult, settings: Settings) -> None:
        self.codec = HttpCodec(url, settings)
        self.endpoint = self.codec.endpoint
        self._connect_timeout = settings.connect_timeout
        self._idle: list[_AsyncConnection] = []
        self._busy: set[_AsyncConnection] = set()
        self._closed = False

    async def infer(self, request: InferRequest, deadline: float | None) -> InferReply:
        """Outputs of one request."""
        message = self.codec.infer(request)
        reply = await self._exchange(message, deadline, request.model, request.headers)
        return self.codec.infer_reply(reply, request.model)

    async def ask(self, question: str, arguments: Mapping[str, Any], deadline: float | None) -> Any:
        """The answer to a question."""
        model = str(arguments.get("model", ""))
        reply = await self._exchange(self.codec.ask(question, arguments), deadline, model)
        return self.codec.answer(question, reply, model)

    def stream(self, request: InferRequest, deadline: float | None) -> AsyncGenerator[InferReply, None]:
        """Not over HTTP."""
        raise no_streams(request.model, self.endpoint)

    async def close(self) -> None:
        """Drop all connections."""
        self._closed = True
        for connection in (*self._idle, *self._busy):
            connection.close()
        self._idle.clear()
        await asyncio.sleep(0)  # transports close themselves in the loop's next round

    async def _exchange(
        self, message: HttpMessage, deadline: float | None, model: str, headers: HeaderList = ()
    ) -> Reply:
        parts = self.codec.parts(message, headers)
        seconds_left(deadline, model=model, endpoint=self.endpoint)
        connection = None
        try:
            connection = self._take() or await self._connect(deadline)
            self._busy.add(connection)
            reply = await connection.exchange(parts, deadline)
        except (OSError, ValueError, asyncio.TimeoutError) as error:
            raise self.codec.failure(error, model, sent=connection is not None) from None
        else:
            self._busy.discard(connection)
            if connection.reusable and not self._closed:
                self._idle.append(connection)
                connection = None
            return reply
        finally:
            if connection is not None:
                self._busy.discard(connection)
                connection.close()

    def _take(self) -> _AsyncConnection | None:
        if self._closed:
            raise ConnectionError("the client is closed")
        while self._idle:
            connection = self._idle.pop()
            if connection.open and time.monotonic() - connection.since < IDLE_S:
                return connection
            connection.close()
        return None

    async def _connect(self, deadline: float | None) -> _AsyncConnection:
        codec, loop = self.codec, asyncio.get_running_loop()
        limit = time.monotonic() + self._connect_timeout
        until = limit if deadline is None else min(limit, deadline)
        name = codec.server_name if codec.tls is not None else None
        opening = loop.create_connection(
            lambda: _AsyncConnection(loop, ReplyReader(codec.largest, codec.encoding)),
            *codec.address,
            ssl=codec.tls,
            server_hostname=name,
        )
        try:
            _, connection = await asyncio.wait_for(opening, max(0, until - time.monotonic()))
        except asyncio.TimeoutError:
            if deadline is not None and time.monotonic() >= deadline:
                raise
            raise ConnectionError(f"no connection within {self._connect_timeout:g} s") from None
        if self._closed:  # meanwhile
            connection.close()
            raise ConnectionError("the client is closed")
        return connection


class _AsyncConnection(asyncio.BufferedProtocol):
    def __init__(self, loop: asyncio.AbstractEventLoop, reader: ReplyReader) -> None:
        self.open = False
        self.since = 0.0
        self._loop = loop
        self._reader = reader
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Reply] | None = None

    @property
    def reusable(self) -> bool:
        return self.open and self._reader.reusable

    async def exchange(self, parts: Sequence[bytes | memoryview], deadline: float | None) -> Reply:
        transport = self._transport
        assert transport is not None  # noqa: S101 - connection_made has set it
        waiter: asyncio.Future[Reply] = self._loop.create_future()
        self._waiter = waiter
        small = sum([len(part) for part in parts]) < _SMALL
        for part in (b"".join(parts),) if small else parts:
            transport.write(part)
        timer = None
        if deadline is not None:
            # The loop's clock is time.monotonic(), or as far from it as it is now.
            timer = self._loop.call_later(deadline - time.monotonic(), self._expire, waiter)
        try:
            return await waiter
        finally:
            self._waiter = None
            self.since = time.monotonic()
            if timer is not None:
                timer.cancel()

    def close(self) -> None:
        self.open = False
        if self._transport is not None:
            self._transport.abort()

    @staticmethod
    def _expire(waiter: asyncio.Future[Reply]) -> None:
        if not waiter.done():
            waiter.set_exception(TimeoutError())

    def _fail(self, error: BaseException) -> None:
        self.open = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101
        self._transport, self.open = transport, True
        connection = transport.get_extra_info("socket")
        if connection is not None:
            tune(connection)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._reader.buffer()

    def buffer_updated(self, count: int) -> None:
        if self._waiter is None:  # bytes that nobody asked for
            self.close()
            return
        try:
            reply = self._reader.received(count)
        except ValueError as error:
            self._fail(error)
            return
        if reply is not None and not self._waiter.done():
            self._waiter.set_result(reply)

    def eof_received(self) -> bool:
        if self._waiter is not None and not self._waiter.done():
            try:
                self._waiter.set_result(self._reader.ended())
            except (ConnectionError, ValueError) as error:
                self._fail(error)
        self.open = False
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(error or ConnectionError("the connection was closed before the reply"))
