"""HTTP/1.1 over plain or TLS sockets, for threads.

tritonclient.http is not used: it is made for one thread (each thread needs a client, and every thread that ends leaves
four file descriptors of gevent behind), and it knows no deadline for a request.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any
from urllib.parse import SplitResult

from tritonrepo_client._http_codec import HttpCodec, HttpMessage
from tritonrepo_client._wire import Connection, Reply
from tritonrepo_client.errors import InvalidInput
from tritonrepo_client.settings import HeaderList, Settings
from tritonrepo_client.transport import InferReply, InferRequest, seconds_left

#: An idle connection is not used again after so long: who stands between may have forgotten it without a word.
IDLE_S = 50.0


class HttpTransport:
    """See ``Transport``. Each call has a connection to itself; connections are kept for the calls after it."""

    def __init__(self, url: SplitResult, settings: Settings) -> None:
        self.codec = HttpCodec(url, settings)
        self.endpoint = self.codec.endpoint
        self._connect_timeout = settings.connect_timeout
        self._lock = threading.Lock()
        self._idle: list[tuple[Connection, float]] = []
        self._busy: set[Connection] = set()
        self._closed = False

    async def infer(self, request: InferRequest, deadline: float | None) -> InferReply:
        """Outputs of one request."""
        message = self.codec.infer(request)
        return self.codec.infer_reply(self._exchange(message, deadline, request.model, request.headers), request.model)

    async def ask(self, question: str, arguments: Mapping[str, Any], deadline: float | None) -> Any:
        """The answer to a question."""
        model = str(arguments.get("model", ""))
        return self.codec.answer(question, self._exchange(self.codec.ask(question, arguments), deadline, model), model)

    def stream(self, request: InferRequest, deadline: float | None) -> AsyncGenerator[InferReply, None]:
        """Not over HTTP."""
        raise no_streams(request.model, self.endpoint)

    async def close(self) -> None:
        """Drop all connections."""
        with self._lock:
            self._closed = True
            while self._idle:
                self._idle.pop()[0].close()
            for connection in self._busy:  # closed by the threads that use them
                connection.shut()

    def _exchange(self, message: HttpMessage, deadline: float | None, model: str, headers: HeaderList = ()) -> Reply:
        parts = self.codec.parts(message, headers)
        seconds_left(deadline, model=model, endpoint=self.endpoint)
        connection = None
        try:
            connection = self._take(deadline)
            connection.send(parts, deadline)
            reply = connection.receive(deadline)
        except (OSError, ValueError) as error:
            sent = connection is not None and connection.sent
            raise self.codec.failure(error, model, sent=sent) from None
        else:
            self._give_back(connection)
            connection = None
            return reply
        finally:
            if connection is not None:
                self._drop(connection)

    def _take(self, deadline: float | None) -> Connection:
        with self._lock:
            if self._closed:
                raise ConnectionError("the client is closed")
            while self._idle:
                connection, since = self._idle.pop()
                if connection.usable() and time.monotonic() - since < IDLE_S:
                    self._busy.add(connection)
                    return connection
                connection.close()
        connection = self._connect(deadline)
        with self._lock:
            self._busy.add(connection)
            if self._closed:  # while this thread connected
                connection.shut()
        return connection

    def _connect(self, deadline: float | None) -> Connection:
        codec = self.codec
        limit = time.monotonic() + self._connect_timeout
        try:
            return Connection(
                codec.address,
                limit if deadline is None else min(limit, deadline),
                tls=codec.tls,
                server_name=codec.server_name,
                largest=codec.largest,
                encoding=codec.encoding,
            )
        except TimeoutError:
            if deadline is not None and time.monotonic() >= deadline:
                raise
            raise ConnectionError(f"no connection within {self._connect_timeout:g} s") from None

    def _give_back(self, connection: Connection) -> None:
        with self._lock:
            self._busy.discard(connection)
            if connection.reusable and not self._closed:
                self._idle.append((connection, time.monotonic()))
                return
        connection.close()

    def _drop(self, connection: Connection) -> None:
        with self._lock:
            self._busy.discard(connection)
        connection.close()


def no_streams(model: str, endpoint: str) -> InvalidInput:
    """HTTP carries one reply for each request."""
    words = "streams and decoupled models need gRPC: use a grpc:// or grpcs:// URL"
    return InvalidInput(words, model=model, endpoint=endpoint)
