"""What is asked of a server beside the requests that are measured: metadata, readiness, statistics, shared memory."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from tritonrepo_client.perf._call import CallError, GrpcCalls
from tritonrepo_client.perf._plan import Endpoint
from tritonrepo_client.perf.errors import ServerError, UsageError
from tritonrepo_client.tensor import Signature

_TIMEOUT = 5.0


@dataclass(frozen=True)
class Address:
    """A server's URL, taken apart."""

    protocol: str
    """http or grpc."""
    host: str
    port: int
    prefix: str

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read ``http://host:port[/prefix]`` or ``grpc://host:port``.

        Raises:
            UsageError: it is neither.
        """
        parts = urlsplit(url)
        try:
            complete = parts.scheme in ("http", "grpc") and parts.hostname and parts.port and url.isascii()
        except ValueError:
            complete = False
        if not complete or parts.query or parts.fragment or "@" in parts.netloc:
            shown = url.rpartition("@")[2]  # what stands before it may be a password
            raise UsageError(f"cannot use the URL '{shown}'", hint="Give http://HOST:PORT or grpc://HOST:PORT.")
        prefix = parts.path.rstrip("/") if parts.scheme == "http" else ""
        return cls(parts.scheme, str(parts.hostname), int(parts.port or 0), prefix)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.protocol}://{host}:{self.port}{self.prefix}"

    def endpoint(self) -> Endpoint:
        """Where requests go; the name is looked up here, once.

        Raises:
            ServerError: the name is not known.
        """
        try:
            family, _, _, _, address = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
        except OSError as error:
            raise ServerError(f"{self}: the host's name is not known: {error.strerror or error}") from None
        host = f"[{self.host}]" if ":" in self.host else self.host
        return Endpoint(int(family), tuple(address), f"{host}:{self.port}", self.prefix)


class Server(Protocol):
    """One server. All raise `ServerError` where it cannot be reached or refuses."""

    address: Address

    def about(self) -> Mapping[str, Any]:
        """Name, version and extensions of the server."""

    def ping(self) -> int:
        """Nanoseconds that a health call took."""

    def model_ready(self, model: str, version: str) -> bool:
        """Whether the model is ready; False for unknown ones."""

    def metadata(self, model: str, version: str) -> Mapping[str, Any]:
        """A model's metadata."""

    def config(self, model: str, version: str) -> Mapping[str, Any]:
        """A model's config."""

    def statistics(self, model: str, version: str) -> list[Mapping[str, Any]]:
        """A model's statistics, for each version."""

    def register(self, name: str, key: str, size: int) -> None:
        """Make a region of system shared memory known."""

    def register_cuda(self, name: str, handle: bytes, device: int, size: int) -> None:
        """Make a region of CUDA shared memory known."""

    def unregister(self, name: str, kind: str = "system") -> None:
        """Undo that."""

    def regions(self) -> list[str]:
        """Names of the regions of system shared memory that are known."""

    def close(self) -> None:
        """Close the connection."""


def open_server(address: Address, timeout: float = _TIMEOUT) -> Server:
    """The server at that address. Connects to nothing yet."""
    return HttpServer(address, timeout) if address.protocol == "http" else GrpcServer(address, timeout)


def signature_of(server: Server, model: str, version: str) -> tuple[Signature, Mapping[str, Any], Mapping[str, Any]]:
    """What a model takes and gives, its metadata and its config.

    Raises:
        ServerError: no server, or the model is unknown or not ready.
    """
    server.about()
    if not server.model_ready(model, version):
        which = f"model '{model}'" + (f" version {version}" if version else "")
        raise ServerError(
            f"{server.address}: {which} is not ready",
            hint="The server answers, but does not serve it: check the name, the server's log and model control mode.",
        )
    metadata, config = server.metadata(model, version), server.config(model, version)
    return Signature.from_server(metadata, config), metadata, config


class HttpServer:
    """A server's HTTP endpoint."""

    def __init__(self, address: Address, timeout: float) -> None:
        self.address = address
        self._connection = http.client.HTTPConnection(address.host, address.port, timeout=timeout)

    def about(self) -> Mapping[str, Any]:
        """Name, version and extensions of the server."""
        return self._mapping("GET", "/v2")

    def ping(self) -> int:
        """Nanoseconds that a health call took."""
        before = time.monotonic_ns()
        self._exchange("GET", "/v2/health/live")
        return time.monotonic_ns() - before

    def model_ready(self, model: str, version: str) -> bool:
        """Whether the model is ready."""
        return self._exchange("GET", f"{_path(model, version)}/ready")[0] == 200

    def metadata(self, model: str, version: str) -> Mapping[str, Any]:
        """A model's metadata."""
        return self._mapping("GET", _path(model, version))

    def config(self, model: str, version: str) -> Mapping[str, Any]:
        """A model's config."""
        return self._mapping("GET", f"{_path(model, version)}/config")

    def statistics(self, model: str, version: str) -> list[Mapping[str, Any]]:
        """A model's statistics."""
        return list(self._mapping("GET", f"{_path(model, version)}/stats").get("model_stats", ()))

    def register(self, name: str, key: str, size: int) -> None:
        """Make a region of system shared memory known."""
        body = json.dumps({"key": key, "offset": 0, "byte_size": size})
        self._success("POST", f"/v2/systemsharedmemory/region/{quote(name, safe='')}/register", body)

    def register_cuda(self, name: str, handle: bytes, device: int, size: int) -> None:
        """Make a region of CUDA shared memory known."""
        import base64

        raw = {"b64": base64.b64encode(handle).decode()}
        body = json.dumps({"raw_handle": raw, "device_id": device, "byte_size": size})
        self._success("POST", f"/v2/cudasharedmemory/region/{quote(name, safe='')}/register", body)

    def unregister(self, name: str, kind: str = "system") -> None:
        """Undo that."""
        self._success("POST", f"/v2/{kind}sharedmemory/region/{quote(name, safe='')}/unregister", "")

    def regions(self) -> list[str]:
        """Names of the regions that are known."""
        return [str(each["name"]) for each in self._success("GET", "/v2/systemsharedmemory/status") or ()]

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _mapping(self, method: str, path: str) -> Mapping[str, Any]:
        content = self._success(method, path)
        if not isinstance(content, dict):
            raise ServerError(f"{self.address}: {path} did not give a JSON object; is this a Triton server?")
        return content

    def _success(self, method: str, path: str, body: str | None = None) -> Any:
        status, text = self._exchange(method, path, body)
        try:
            content = json.loads(text) if text.strip() else None
        except ValueError:
            content = None
        if status != 200:
            words = content.get("error") if isinstance(content, dict) else text[:200].decode("utf-8", "replace")
            raise ServerError(f"{self.address}: {words or f'HTTP status {status}'}")
        return content

    def _exchange(self, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
        for attempt in (0, 1):
            fresh = self._connection.sock is None
            try:
                self._connection.request(method, self.address.prefix + path, body, {"Accept-Encoding": "identity"})
                reply = self._connection.getresponse()
                return reply.status, reply.read()
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                if fresh or attempt or isinstance(error, TimeoutError):
                    raise _unreachable(self.address, error) from error
        raise AssertionError  # the second attempt returns or raises


class GrpcServer:
    """A server's gRPC endpoint."""

    def __init__(self, address: Address, timeout: float) -> None:
        self.address = address
        self._calls = GrpcCalls(address.host, address.port, timeout)

    def about(self) -> Mapping[str, Any]:
        """Name, version and extensions of the server."""
        return self._call("ServerMetadata")

    def ping(self) -> int:
        """Nanoseconds that a health call took."""
        before = time.monotonic_ns()
        self._call("ServerLive")
        return time.monotonic_ns() - before

    def model_ready(self, model: str, version: str) -> bool:
        """Whether the model is ready."""
        try:
            return bool(self._call("ModelReady", name=model, version=version).get("ready"))
        except ServerError as error:
            if isinstance(error.__cause__, CallError) and error.__cause__.status in ("NOT_FOUND", "UNAVAILABLE"):
                return False
            raise

    def metadata(self, model: str, version: str) -> Mapping[str, Any]:
        """A model's metadata."""
        return self._call("ModelMetadata", name=model, version=version)

    def config(self, model: str, version: str) -> Mapping[str, Any]:
        """A model's config."""
        config: Mapping[str, Any] = self._call("ModelConfig", name=model, version=version)["config"]
        return config

    def statistics(self, model: str, version: str) -> list[Mapping[str, Any]]:
        """A model's statistics."""
        return list(self._call("ModelStatistics", name=model, version=version).get("model_stats", ()))

    def register(self, name: str, key: str, size: int) -> None:
        """Make a region of system shared memory known."""
        self._call("SystemSharedMemoryRegister", name=name, key=key, byte_size=size)

    def register_cuda(self, name: str, handle: bytes, device: int, size: int) -> None:
        """Make a region of CUDA shared memory known."""
        self._call("CudaSharedMemoryRegister", name=name, raw_handle=handle, device_id=device, byte_size=size)

    def unregister(self, name: str, kind: str = "system") -> None:
        """Undo that."""
        self._call(f"{kind.capitalize()}SharedMemoryUnregister", name=name)

    def regions(self) -> list[str]:
        """Names of the regions that are known."""
        return list(self._call("SystemSharedMemoryStatus").get("regions", {}))

    def close(self) -> None:
        """Close the connection."""
        self._calls.close()

    def _call(self, method: str, **fields: object) -> Mapping[str, Any]:
        from google.protobuf import json_format
        from tritonclient.grpc import service_pb2

        request = getattr(service_pb2, f"{method}Request")(**fields)
        reply = getattr(service_pb2, f"{method}Response")()
        try:
            reply.ParseFromString(self._calls.call(method, request.SerializeToString()))
        except CallError as error:
            raise ServerError(f"{self.address}: {error}") from error
        except OSError as error:
            raise _unreachable(self.address, error) from error
        content: Mapping[str, Any] = json_format.MessageToDict(reply, preserving_proto_field_name=True)
        return content


def _path(model: str, version: str) -> str:
    path = f"/v2/models/{quote(model, safe='')}"
    return f"{path}/versions/{quote(version, safe='')}" if version else path


def infer_path(model: str, version: str) -> str:
    """Path of a model's inference requests over HTTP."""
    return f"{_path(model, version)}/infer"


def _unreachable(address: Address, error: Exception) -> ServerError:
    words = str(getattr(error, "strerror", None) or error or type(error).__name__)
    hint = "Start it (`tritonrepo serve`), or give its address with --url."
    return ServerError(f"{address}: no server answers: {words}", hint=hint)
