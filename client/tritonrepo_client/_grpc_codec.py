"""What the two gRPC transports share: addresses, options, metadata, messages and what errors mean. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult

import grpc

from tritonrepo_client._pb import decode_infer, decode_stream, encode_infer
from tritonrepo_client.errors import BadReply, TritonClientError, from_foreign, from_status
from tritonrepo_client.settings import TLS, HeaderList, Settings
from tritonrepo_client.transport import InferReply, InferRequest

SERVICE = "/inference.GRPCInferenceService/"

#: Triton, as every gRPC server by default, drops clients that ping it more often than this without sending data.
_KEEPALIVE_MS, _KEEPALIVE_TIMEOUT_MS = 330_000, 10_000


#: Bytes of a message from which on gRPC itself does not keep the deadline: where the server reads slowly, a call ends
#: only when its message has been written.
LARGE = 64 * 1024
#: Seconds that gRPC has to end such a call by itself.
GRACE_S = 0.05


class GrpcCodec:
    """Requests to bytes, replies to values, for one server."""

    def __init__(self, url: SplitResult, settings: Settings) -> None:
        self.address = url.netloc
        self.endpoint = f"{url.scheme}://{url.netloc}"
        self._settings = settings
        self._fixed = settings.fixed_headers()
        self._plain, self._static = self._fixed or None, not callable(settings.token)
        self._tls = (settings.tls or TLS()) if url.scheme == "grpcs" else None
        self._files = self._tls.files() if self._tls is not None else None

    def channel(self, module: Any) -> Any:
        """A channel of ``grpc`` or ``grpc.aio``."""
        kinds = {
            None: grpc.Compression.NoCompression,
            "gzip": grpc.Compression.Gzip,
            "deflate": grpc.Compression.Deflate,
        }
        more = {"options": self._options(), "compression": kinds[self._settings.compression]}
        if self._files is None:
            return module.insecure_channel(self.address, **more)
        ca, key, cert = self._files
        return module.secure_channel(self.address, grpc.ssl_channel_credentials(ca, key, cert), **more)

    def _options(self) -> tuple[tuple[str, Any], ...]:
        size, connect = self._settings.max_message_bytes, int(self._settings.connect_timeout * 1000)
        options: tuple[tuple[str, Any], ...] = (
            # gRPC's own limit of 4 MB is less than one large image.
            ("grpc.max_send_message_length", size),
            ("grpc.max_receive_message_length", size),
            # After a restart of the server, gRPC would wait for up to two minutes before it tries to connect again.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.min_reconnect_backoff_ms", connect),  # in truth the time that one attempt to connect may take
            ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
            ("grpc.use_local_subchannel_pool", 1),  # what one client closes is closed
        )
        if self._tls is not None and self._tls.server_name:
            options += (("grpc.ssl_target_name_override", self._tls.server_name),)
        return options

    def metadata(self, headers: HeaderList = ()) -> HeaderList | None:
        """Headers of a call."""
        if not headers and self._static:
            return self._plain
        return (self._fixed + self._settings.fresh_headers() + headers) or None

    def infer(self, request: InferRequest) -> bytes:
        """A request for inference."""
        if request.encoded is None:
            return encode_infer(request)
        message: bytes | None = request.encoded.get(self.endpoint)
        if message is None:
            message = request.encoded[self.endpoint] = encode_infer(request)
        return message

    def infer_reply(self, message: bytes, model: str) -> InferReply:
        """Outputs of a reply.

        Raises:
            BadReply: it is none.
        """
        try:
            return decode_infer(message)
        except ValueError as error:
            raise BadReply(str(error), model=model, endpoint=self.endpoint) from None

    def stream_reply(self, message: bytes, model: str) -> InferReply:
        """One reply of a stream.

        Raises:
            TritonClientError: the server's refusal, or a reply that is none.
        """
        try:
            words, reply = decode_stream(message)
        except ValueError as error:
            raise BadReply(str(error), model=model, endpoint=self.endpoint) from None
        if words:
            raise from_status("", words, model=model, endpoint=self.endpoint)
        return reply

    def failure(self, error: Exception, model: str) -> TritonClientError:
        """The client's error for what gRPC raised."""
        return from_foreign(error, model=model, endpoint=self.endpoint)

    def streamed(self, request: InferRequest) -> InferRequest:
        """A request whose last reply says that it is the last."""
        parameters: Mapping[str, Any] = {**request.parameters, "triton_enable_empty_final_response": True}
        return request._replace(parameters=parameters)


def method(channel: Any, kind: str, name: str) -> Any:
    """A callable for a method that takes and gives bytes."""
    make = getattr(channel, kind)
    try:
        return make(SERVICE + name, None, None, _registered_method=True)
    except TypeError:  # before grpcio 1.63
        return make(SERVICE + name, None, None)
