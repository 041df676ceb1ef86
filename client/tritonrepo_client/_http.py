"""HTTP/1.1 over plain sockets, with binary tensors.

tritonclient.http is not used: it is made for one thread (each thread needs a client, and every thread that ends leaves
four file descriptors of gevent behind), and it knows no deadline for a request.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import Any
from urllib.parse import SplitResult, quote

from tritonrepo_client._wire import Connection, Reply
from tritonrepo_client.errors import BadReply, DeadlineExceeded, ServerUnreachable, TritonClientError, from_status
from tritonrepo_client.tensor import WireTensor
from tritonrepo_client.transport import InferRequest, seconds_left


class HttpTransport:
    """See ``Transport``. Each call has a connection to itself; connections are kept for the calls after it."""

    def __init__(self, url: SplitResult) -> None:
        prefix = url.path.rstrip("/")
        self.endpoint = f"http://{url.netloc}{prefix}"
        self._address = (url.hostname or "", url.port or 0)
        # Without "identity", whatever stands between may compress: that costs far more than it saves on tensors.
        self._headers = f"HTTP/1.1\r\nHost: {url.netloc}\r\nAccept-Encoding: identity\r\nContent-Length: "
        self._prefix = quote(prefix, safe="/%")
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._closed = False

    def infer(self, request: InferRequest, deadline: float | None) -> tuple[WireTensor, ...]:
        """Outputs of one request."""
        header = _infer_header(request)
        body = [header, *(tensor.data for tensor in request.inputs)]
        extra = f"\r\nInference-Header-Content-Length: {len(header)}"
        path = _model_path(request.model, request.version) + "/infer"
        reply = self._exchange("POST", path, deadline, request.model, body, extra)
        content = self._success(reply, request.model)
        try:
            return _outputs(content, reply.binary)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            words = f"the reply does not describe its outputs: {error!r}"
            raise BadReply(words, model=request.model, endpoint=self.endpoint) from None

    def metadata(self, model: str, version: str, deadline: float | None) -> dict[str, Any]:
        """A model's metadata."""
        return self._mapping(_model_path(model, version), deadline, model)

    def config(self, model: str, version: str, deadline: float | None) -> dict[str, Any]:
        """A model's config."""
        return self._mapping(_model_path(model, version) + "/config", deadline, model)

    def server_ready(self, deadline: float | None) -> bool:
        """Whether the server says that it is ready."""
        return self._exchange("GET", "/v2/health/ready", deadline, "").status == 200

    def model_ready(self, model: str, version: str, deadline: float | None) -> bool:
        """Whether the server says that the model is ready."""
        return self._exchange("GET", _model_path(model, version) + "/ready", deadline, model).status == 200

    def index(self, deadline: float | None) -> list[dict[str, Any]]:
        """Models of the repository."""
        content = self._success(self._exchange("POST", "/v2/repository/index", deadline, ""), "")
        if not isinstance(content, list):
            raise BadReply("the repository index is not a list", endpoint=self.endpoint)
        return content

    def close(self) -> None:
        """Drop all connections."""
        with self._lock:
            self._closed = True
            while self._idle:
                self._idle.pop().close()
            for connection in self._busy:  # closed by the threads that use them
                connection.shut()

    def _mapping(self, path: str, deadline: float | None, model: str) -> dict[str, Any]:
        content = self._success(self._exchange("GET", path, deadline, model), model)
        if not isinstance(content, dict):
            raise BadReply("the reply is not a JSON object", model=model, endpoint=self.endpoint)
        return content

    def _success(self, reply: Reply, model: str) -> Any:
        """The JSON of a reply, or the server's refusal as an error."""
        try:
            content = json.loads(reply.text)
        except ValueError:
            content = None
        if reply.status == 200:
            if content is None:
                raise BadReply(f"the reply is not JSON: {_start(reply.text)}", model=model, endpoint=self.endpoint)
            return content
        words = str(content["error"]) if isinstance(content, dict) and "error" in content else _start(reply.text)
        raise from_status(str(reply.status), words, model=model, endpoint=self.endpoint)

    def _exchange(
        self,
        method: str,
        path: str,
        deadline: float | None,
        model: str,
        body: Sequence[bytes | memoryview] = (),
        extra: str = "",
    ) -> Reply:
        length = sum([len(part) for part in body])
        head = f"{method} {self._prefix}{path} {self._headers}{length}{extra}\r\n\r\n".encode("latin-1")
        connection = None
        try:
            seconds_left(deadline, model=model, endpoint=self.endpoint)
            connection = self._take(deadline)
            connection.send([head, *body], deadline)
            reply = connection.receive(deadline)
        except TritonClientError:
            raise
        except TimeoutError:
            words = "no reply in the time that was given"
            raise DeadlineExceeded(words, model=model, endpoint=self.endpoint) from None
        except OSError as error:
            raise ServerUnreachable(str(error), model=model, endpoint=self.endpoint) from None
        except ValueError as error:
            raise BadReply(str(error), model=model, endpoint=self.endpoint) from None
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
                connection = self._idle.pop()
                if connection.usable():
                    self._busy.add(connection)
                    return connection
                connection.close()
        connection = Connection(self._address, deadline)
        with self._lock:
            self._busy.add(connection)
            if self._closed:  # while this thread connected
                connection.shut()
        return connection

    def _give_back(self, connection: Connection) -> None:
        with self._lock:
            self._busy.discard(connection)
            if connection.reusable and not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def _drop(self, connection: Connection) -> None:
        with self._lock:
            self._busy.discard(connection)
        connection.close()


def _model_path(model: str, version: str) -> str:
    path = f"/v2/models/{quote(model, safe='')}"
    return f"{path}/versions/{quote(version, safe='')}" if version else path


def _infer_header(request: InferRequest) -> bytes:
    parameters: dict[str, Any] = {"binary_data_output": True}
    if request.priority:
        parameters["priority"] = request.priority
    parameters.update(request.parameters)
    header: dict[str, Any] = {
        "inputs": [
            {"name": name, "datatype": dtype, "shape": shape, "parameters": {"binary_data_size": len(data)}}
            for name, dtype, shape, data in request.inputs
        ],
        "parameters": parameters,
    }
    if request.outputs:
        header["outputs"] = [{"name": name, "parameters": {"binary_data": True}} for name in request.outputs]
    if request.request_id:
        header["id"] = request.request_id
    return json.dumps(header).encode()


def _outputs(content: dict[str, Any], binary: memoryview) -> tuple[WireTensor, ...]:
    tensors, at = [], 0
    for output in content["outputs"]:
        end = at + output["parameters"]["binary_data_size"]
        tensors.append(
            WireTensor(output["name"], output["datatype"], tuple([int(dim) for dim in output["shape"]]), binary[at:end])
        )
        at = end
    if at != len(binary):
        raise ValueError(f"{len(binary)} bytes of data for outputs of {at}")
    return tuple(tensors)


def _start(text: bytes) -> str:
    """The first words of something that may be long, or no text at all."""
    return text[:200].decode("utf-8", "replace")
