"""gRPC for asyncio, over grpcio's own asyncio channel. Messages are bytes that `_pb` makes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any
from urllib.parse import SplitResult

import grpc
import grpc.aio

from tritonrepo_client._grpc_codec import GRACE_S, LARGE, GrpcCodec, method
from tritonrepo_client.errors import ServerUnreachable, TritonClientError
from tritonrepo_client.settings import Settings
from tritonrepo_client.transport import InferReply, InferRequest, seconds_left

_FAILURES = (grpc.RpcError, grpc.aio.BaseError, ValueError)


class _Late:
    """Ends a call that gRPC does not end at its deadline."""

    def __init__(self, call: Any) -> None:
        self.happened = False
        self._call = call

    def __call__(self) -> None:
        self.happened = True
        self._call.cancel()


class AsyncGrpcTransport:
    """See ``Transport``. Belongs to the event loop of its first call."""

    def __init__(self, url: SplitResult, settings: Settings) -> None:
        self.codec = GrpcCodec(url, settings)
        self.endpoint = self.codec.endpoint
        self._channel: Any = None
        self._infer: Any = None
        self._closed = False

    async def infer(self, request: InferRequest, deadline: float | None) -> InferReply:
        """Outputs of one request."""
        codec = self.codec
        if self._infer is None:
            self._infer = method(self._open(request.model), "unary_unary", "ModelInfer")
        message, metadata = codec.infer(request), codec.metadata(request.headers)
        left = seconds_left(deadline, model=request.model, endpoint=self.endpoint)
        call = self._infer(message, timeout=left, metadata=metadata)
        late = timer = None
        if left is not None and len(message) >= LARGE:
            late = _Late(call)
            timer = asyncio.get_running_loop().call_later(left + GRACE_S, late)
        try:
            reply = await call
        except _FAILURES as error:
            raise self.codec.failure(error, request.model) from None
        except asyncio.CancelledError:
            if late is not None and late.happened:
                raise self.codec.failure(TimeoutError(), request.model) from None
            self._raise_if_closed(request.model)
            raise
        finally:
            if timer is not None:
                timer.cancel()
        return codec.infer_reply(reply, request.model)

    async def ask(self, question: str, arguments: Mapping[str, Any], deadline: float | None) -> Any:
        """The answer to a question."""
        from tritonrepo_client._questions import grpc_answer, grpc_question, grpc_reply_type

        name, message = grpc_question(question, arguments)
        model, metadata = str(arguments.get("model", "")), self.codec.metadata()
        call = method(self._open(model), "unary_unary", name)
        left = seconds_left(deadline, model=model, endpoint=self.endpoint)
        try:
            reply = await call(message.SerializeToString(), timeout=left, metadata=metadata)
            return grpc_answer(question, grpc_reply_type(name).FromString(reply))
        except _FAILURES as error:
            raise self.codec.failure(error, model) from None
        except asyncio.CancelledError:
            self._raise_if_closed(model)
            raise

    async def stream(self, request: InferRequest, deadline: float | None) -> AsyncGenerator[InferReply, None]:
        """Replies of a decoupled model."""
        codec, model = self.codec, request.model
        open_stream = method(self._open(model), "unary_stream", "ModelStreamInfer")
        left = seconds_left(deadline, model=model, endpoint=self.endpoint)
        call = open_stream(codec.infer(codec.streamed(request)), timeout=left, metadata=codec.metadata(request.headers))
        try:
            async for message in call:
                yield codec.stream_reply(message, model)
        except _FAILURES as error:
            raise codec.failure(error, model) from None
        except asyncio.CancelledError:
            self._raise_if_closed(model)
            raise
        finally:
            call.cancel()

    async def close(self) -> None:
        """Drop all connections."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()

    def _open(self, model: str) -> Any:
        if self._closed:
            raise self._gone(model)
        if self._channel is None:
            self._channel = self.codec.channel(grpc.aio)
        return self._channel

    def _raise_if_closed(self, model: str) -> None:
        """Closing the channel cancels its calls, which looks as if their tasks were cancelled."""
        if self._closed:
            raise self._gone(model) from None

    def _gone(self, model: str) -> TritonClientError:
        return ServerUnreachable("the client is closed", model=model, endpoint=self.endpoint)
