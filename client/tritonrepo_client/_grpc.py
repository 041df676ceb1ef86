"""gRPC for threads, over grpcio's channel: one channel serves all threads. Messages are bytes that `_pb` makes."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Mapping
from typing import Any
from urllib.parse import SplitResult

import grpc

from tritonrepo_client._grpc_codec import GRACE_S, LARGE, GrpcCodec, method
from tritonrepo_client.errors import ServerUnreachable
from tritonrepo_client.settings import HeaderList, Settings
from tritonrepo_client.transport import InferReply, InferRequest, seconds_left

_CLOSE_S = 2.0


class GrpcTransport:
    """See ``Transport``."""

    def __init__(self, url: SplitResult, settings: Settings) -> None:
        self.codec = GrpcCodec(url, settings)
        self.endpoint = self.codec.endpoint
        self._channel = self.codec.channel(grpc)
        self._infer = method(self._channel, "unary_unary", "ModelInfer")

    async def infer(self, request: InferRequest, deadline: float | None) -> InferReply:
        """Outputs of one request."""
        codec = self.codec
        message, metadata = codec.infer(request), codec.metadata(request.headers)
        left = seconds_left(deadline, model=request.model, endpoint=self.endpoint)
        try:
            if left is None or len(message) < LARGE:
                reply = self._infer(message, left, metadata)
            else:
                reply = self._watched(message, left, metadata)
        except (grpc.RpcError, grpc.FutureCancelledError, ValueError, TimeoutError) as error:
            raise self._failure(error, request.model) from None
        return codec.infer_reply(reply, request.model)

    def _watched(self, message: bytes, left: float, metadata: HeaderList | None) -> bytes:
        call = self._infer.future(message, left, metadata)
        try:
            reply: bytes = call.result(left + GRACE_S)
        except grpc.FutureTimeoutError:
            raise TimeoutError from None
        finally:
            call.cancel()  # nothing, where it has ended
        return reply

    async def ask(self, question: str, arguments: Mapping[str, Any], deadline: float | None) -> Any:
        """The answer to a question."""
        from tritonrepo_client._questions import grpc_answer, grpc_question, grpc_reply_type

        name, message = grpc_question(question, arguments)
        model, metadata = str(arguments.get("model", "")), self.codec.metadata()
        left = seconds_left(deadline, model=model, endpoint=self.endpoint)
        try:
            call = method(self._channel, "unary_unary", name)
            reply = call(message.SerializeToString(), left, metadata)
            return grpc_answer(question, grpc_reply_type(name).FromString(reply))
        except (grpc.RpcError, ValueError) as error:
            raise self._failure(error, model) from None

    async def stream(self, request: InferRequest, deadline: float | None) -> AsyncGenerator[InferReply, None]:
        """Replies of a decoupled model."""
        codec, model = self.codec, request.model
        message, metadata = codec.infer(codec.streamed(request)), codec.metadata(request.headers)
        left = seconds_left(deadline, model=model, endpoint=self.endpoint)
        call = None
        try:
            # To the server, a stream of one message is what a single message is.
            call = method(self._channel, "unary_stream", "ModelStreamInfer")(message, left, metadata)
            for message in call:
                yield codec.stream_reply(message, model)
        except (grpc.RpcError, ValueError) as error:
            raise self._failure(error, model) from None
        finally:
            if call is not None:
                call.cancel()

    async def close(self) -> None:
        """Drop all connections. gRPC waits for a message that a server does not read, until TCP gives up; we do not."""
        closing = threading.Thread(target=self._channel.close, name="tritonrepo-client-close", daemon=True)
        closing.start()
        closing.join(_CLOSE_S)

    def _failure(self, error: Exception, model: str) -> Exception:
        if isinstance(error, ValueError):
            # grpc says so, and no more, when the channel was closed in another thread.
            closed = ServerUnreachable(str(error), model=model, endpoint=self.endpoint)
            closed.may_have_run = False
            return closed
        return self.codec.failure(error, model)
