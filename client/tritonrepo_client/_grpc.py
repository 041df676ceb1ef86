"""gRPC, over the messages and the stub that tritonclient ships. One channel serves all threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tritonrepo_client.errors import BadReply, ServerUnreachable, TritonClientError, from_status
from tritonrepo_client.tensor import WireTensor
from tritonrepo_client.transport import InferRequest, seconds_left

_CHANNEL_OPTIONS = (
    # gRPC's own limit of 4 MB is less than one large image.
    ("grpc.max_send_message_length", 2**31 - 1),
    ("grpc.max_receive_message_length", 2**31 - 1),
    # After a restart of the server, gRPC would wait for up to two minutes before it tries to connect again.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class GrpcTransport:
    """See ``Transport``."""

    def __init__(self, address: str) -> None:
        self.endpoint = f"grpc://{address}"
        self._channel = grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def infer(self, request: InferRequest, deadline: float | None) -> tuple[WireTensor, ...]:
        """Outputs of one request."""
        reply = self._call(self._stub.ModelInfer, _message(request), deadline, request.model)
        contents = reply.raw_output_contents
        if len(contents) != len(reply.outputs):
            words = f"{len(reply.outputs)} outputs came with the data of {len(contents)}"
            raise BadReply(words, model=request.model, endpoint=self.endpoint)
        return tuple(
            [
                WireTensor(output.name, output.datatype, tuple(output.shape), data)
                for output, data in zip(reply.outputs, contents, strict=True)
            ]
        )

    def metadata(self, model: str, version: str, deadline: float | None) -> dict[str, Any]:
        """A model's metadata."""
        message = service_pb2.ModelMetadataRequest(name=model, version=version)
        return _as_dict(self._call(self._stub.ModelMetadata, message, deadline, model))

    def config(self, model: str, version: str, deadline: float | None) -> dict[str, Any]:
        """A model's config."""
        message = service_pb2.ModelConfigRequest(name=model, version=version)
        return _as_dict(self._call(self._stub.ModelConfig, message, deadline, model).config)

    def server_ready(self, deadline: float | None) -> bool:
        """Whether the server says that it is ready."""
        return bool(self._call(self._stub.ServerReady, service_pb2.ServerReadyRequest(), deadline).ready)

    def model_ready(self, model: str, version: str, deadline: float | None) -> bool:
        """Whether the server says that the model is ready."""
        message = service_pb2.ModelReadyRequest(name=model, version=version)
        return bool(self._call(self._stub.ModelReady, message, deadline, model).ready)

    def index(self, deadline: float | None) -> list[dict[str, Any]]:
        """Models of the repository."""
        reply = self._call(self._stub.RepositoryIndex, service_pb2.RepositoryIndexRequest(), deadline)
        return [_as_dict(entry) for entry in reply.models]

    def close(self) -> None:
        """Drop all connections."""
        self._channel.close()

    def _call(self, method: Callable[..., Any], message: Any, deadline: float | None, model: str = "") -> Any:
        left = seconds_left(deadline, model=model, endpoint=self.endpoint)
        try:
            return method(message, timeout=left)
        except grpc.RpcError as error:
            self._refuse(error, model)
        except ValueError as error:
            # grpc says so, and no more, when the channel was closed in another thread.
            raise ServerUnreachable(str(error), model=model, endpoint=self.endpoint) from None

    def _refuse(self, error: Any, model: str) -> NoReturn:
        raise from_rpc_error(error, model=model, endpoint=self.endpoint) from None


def from_rpc_error(error: Any, *, model: str, endpoint: str) -> TritonClientError:
    """The client's error for gRPC's."""
    return from_status(error.code().name, error.details() or "", model=model, endpoint=endpoint)


def _message(request: InferRequest) -> Any:
    message = service_pb2.ModelInferRequest(
        model_name=request.model, model_version=request.version, id=request.request_id
    )
    for tensor in request.inputs:
        message.inputs.add(name=tensor.name, datatype=tensor.dtype, shape=tensor.shape)
        message.raw_input_contents.append(bytes(tensor.data))
    for name in request.outputs:
        message.outputs.add(name=name)
    if request.priority:
        message.parameters["priority"].uint64_param = request.priority
    for key, value in request.parameters.items():
        parameter = message.parameters[key]
        if isinstance(value, str):
            parameter.string_param = value
        elif isinstance(value, bool):
            parameter.bool_param = value
        elif isinstance(value, int):
            parameter.int64_param = value
        else:
            parameter.double_param = value
    return message


def _as_dict(message: Any) -> dict[str, Any]:
    """The fields that are set, by name. Protobuf's own converter would make strings of 64-bit numbers."""
    return {field.name: _as_value(field, value) for field, value in message.ListFields()}


def _as_value(field: Any, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        inner = field.message_type.fields_by_name["value"]
        return {key: _as_value(inner, item) for key, item in value.items()}
    if isinstance(value, str | bytes | bool | int | float):
        return field.enum_type.values_by_number[value].name if field.enum_type is not None else value
    if hasattr(value, "ListFields"):
        return _as_dict(value)
    return [_as_value(field, item) for item in value]
