"""Inference over HTTP as bytes: the JSON header with binary tensors after it. No I/O; shared by threads and asyncio."""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import SplitResult, quote

from tritonrepo_client._questions import http_answer, http_question, model_path
from tritonrepo_client._wire import Reply
from tritonrepo_client.errors import BadReply, TritonClientError, from_foreign, from_status
from tritonrepo_client.settings import HeaderList, Settings
from tritonrepo_client.tensor import WireTensor
from tritonrepo_client.transport import InferReply, InferRequest, OutputRequest

_CACHED = 1024
_CACHED_TEXT = 4096


class HttpMessage(NamedTuple):
    """A request but for the headers that are made anew each time: they go between ``head`` and ``body``."""

    head: bytes
    body: tuple[bytes | memoryview, ...]


class HttpCodec:
    """Requests to bytes, replies to values, for one server."""

    def __init__(self, url: SplitResult, settings: Settings) -> None:
        self.prefix = quote(url.path.rstrip("/"), safe="/%")
        self.endpoint = f"{url.scheme}://{url.netloc}{url.path.rstrip('/')}"
        self.address = (url.hostname or "", url.port or 0)
        self.tls = None
        self.server_name = self.address[0]
        if url.scheme == "https":
            from tritonrepo_client.settings import TLS

            tls = settings.tls or TLS()
            self.tls, self.server_name = tls.context(), tls.server_name or self.address[0]
        self.encoding: str = settings.compression or "identity"
        self.largest = settings.max_message_bytes
        self._settings = settings
        self._static = not callable(settings.token)
        self._written: dict[tuple[Any, ...], tuple[bytes, bytes]] = {}
        # Without "identity", whatever stands between may compress: that costs far more than it saves on tensors.
        self._fixed = f" HTTP/1.1\r\nHost: {url.netloc}\r\nAccept-Encoding: {self.encoding}\r\n" + _lines(
            settings.fixed_headers()
        )

    def infer(self, request: InferRequest) -> HttpMessage:
        """A request for inference, by the settings' compression."""
        key = request.key()
        known = None if key is None else self._written.get(key)
        if known is not None:
            head, header = known
            return HttpMessage(head, (header, *[tensor.data for tensor in request.inputs]))
        if request.encoded is not None and self.endpoint in request.encoded:
            again: HttpMessage = request.encoded[self.endpoint]
            return again
        header = infer_header(request)
        body = (header, *[tensor.data for tensor in request.inputs if not tensor.region])
        split = f"Inference-Header-Content-Length: {len(header)}\r\n"
        message = self._message("POST", _infer_path(request.model, request.version), body, split)
        if request.encoded is not None:  # sent again and again: what it was made of may change meanwhile
            message = HttpMessage(message.head, (b"".join(message.body),))
            request.encoded[self.endpoint] = message
        elif key is not None and self.encoding == "identity":
            if len(self._written) >= _CACHED:
                self._written.clear()
            self._written[key] = message.head, header
        return message

    def ask(self, question: str, arguments: Mapping[str, Any]) -> HttpMessage:
        """A request for anything else."""
        method, path, body = http_question(question, arguments)
        return self._message(method, path, (body,), "")

    def parts(self, message: HttpMessage, headers: HeaderList = ()) -> list[bytes | memoryview]:
        """The bytes to send."""
        if not headers and self._static:
            return [message.head + b"\r\n", *message.body]
        fresh = self._settings.fresh_headers()
        end = _lines(fresh + headers).encode() + b"\r\n" if fresh or headers else b"\r\n"
        return [message.head + end, *message.body]

    def infer_reply(self, reply: Reply, model: str) -> InferReply:
        """Outputs of a reply.

        Raises:
            TritonClientError: the server's refusal, or a reply that is none.
        """
        if reply.status != 200:
            raise self._refusal(reply, model)
        try:
            text = reply.text
            heads, total, version, identity, parameters = (
                _outputs(text) if len(text) < _CACHED_TEXT else _outputs.__wrapped__(text)
            )
            if total != len(reply.binary):
                raise ValueError(f"{len(reply.binary)} bytes of data for outputs of {total}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, json.JSONDecodeError):
                words = f"the reply is not JSON: {_start(reply.text)}"
            else:
                words = f"the reply does not describe its outputs: {error!r}"
            raise BadReply(words, model=model, endpoint=self.endpoint) from None
        binary = reply.binary
        outputs = tuple([WireTensor(name, dtype, shape, binary[at:end]) for name, dtype, shape, at, end in heads])
        return InferReply(outputs, version, identity, parameters)

    def answer(self, question: str, reply: Reply, model: str) -> Any:
        """The answer to any other question.

        Raises:
            TritonClientError: the server's refusal, or a reply that is none.
        """
        if question in ("live", "ready", "model_ready"):
            return reply.status == 200
        if reply.status != 200:
            raise self._refusal(reply, model)
        try:
            return http_answer(question, json.loads(reply.text or b"null"))
        except ValueError as error:
            words = str(error)
            if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
                words = f"the reply is not JSON: {_start(reply.text)}"
            raise BadReply(words, model=model, endpoint=self.endpoint) from None

    def failure(self, error: Exception, model: str, *, sent: bool) -> TritonClientError:
        """The client's error for what a connection raised; ``sent``: after some of the request had been sent."""
        found = from_foreign(error, model=model, endpoint=self.endpoint)
        if not sent:
            found.may_have_run = False
        return found

    def _refusal(self, reply: Reply, model: str) -> TritonClientError:
        try:
            content = json.loads(reply.text)
        except ValueError:
            content = None
        words = str(content["error"]) if isinstance(content, dict) and "error" in content else _start(reply.text)
        return from_status(str(reply.status), words, model=model, endpoint=self.endpoint)

    def _message(self, method: str, path: str, body: tuple[bytes | memoryview, ...], extra: str) -> HttpMessage:
        if self.encoding != "identity" and any(body):
            body = (_deflate(body, self.encoding),)
            extra += f"Content-Encoding: {self.encoding}\r\n"
        length = sum([len(part) for part in body])
        head = f"{method} {self.prefix}{path}{self._fixed}Content-Length: {length}\r\n{extra}"
        return HttpMessage(head.encode("latin-1"), body)


def infer_header(request: InferRequest) -> bytes:
    """The JSON before the tensors."""
    inputs = ",".join(
        [_input(name, dtype, shape, len(data), *place) for name, dtype, shape, data, *place in request.inputs]
    )
    parts = [f'{{"inputs":[{inputs}]']
    if request.outputs:
        parts.append(f',"outputs":[{",".join([_output(output) for output in request.outputs])}]')
    if request.request_id:
        parts.append(f',"id":{json.dumps(request.request_id)}')
    extra: dict[str, Any] = {}
    if request.priority:
        extra["priority"] = request.priority
    if request.queue_timeout_us:
        extra["timeout"] = request.queue_timeout_us
    if request.sequence is not None:
        extra["sequence_id"], extra["sequence_start"], extra["sequence_end"] = request.sequence
    extra.update(request.parameters)
    more = f",{json.dumps(extra)[1:-1]}" if extra else ""
    parts.append(f',"parameters":{{"binary_data_output":true{more}}}}}')
    return "".join(parts).encode()


@functools.lru_cache(_CACHED)
def _infer_path(model: str, version: str) -> str:
    return model_path(model, version) + "/infer"


@functools.lru_cache(_CACHED)
def _input(
    name: str, dtype: str, shape: tuple[int, ...], length: int, region: str = "", size: int = 0, offset: int = 0
) -> str:
    parameters = _region(region, size, offset) if region else {"binary_data_size": length}
    return json.dumps({"name": name, "datatype": dtype, "shape": shape, "parameters": parameters})


@functools.lru_cache(_CACHED)
def _output(output: str | OutputRequest) -> str:
    if isinstance(output, str):
        return json.dumps({"name": output, "parameters": {"binary_data": True}})
    parameters: dict[str, Any] = {"classification": output.classes} if output.classes else {}
    if output.region:
        parameters.update(_region(output.region, output.region_size, output.region_offset))
    else:
        parameters["binary_data"] = True
    return json.dumps({"name": output.name, "parameters": parameters})


def _region(name: str, size: int, offset: int) -> dict[str, Any]:
    where: dict[str, Any] = {"shared_memory_region": name, "shared_memory_byte_size": size}
    return {**where, "shared_memory_offset": offset} if offset else where


_Outputs = tuple[list[tuple[str, str, tuple[int, ...], int, int]], int, str, str, dict[str, Any]]


@functools.lru_cache(_CACHED)
def _outputs(text: bytes) -> _Outputs:
    """Heads of the tensors with where their data begins and ends, and the rest of what a reply says."""
    content = json.loads(text)
    heads, at = [], 0
    for output in content["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size", 0)  # none in shared memory
        if not isinstance(size, int) or size < 0:
            raise ValueError(f"{size!r} bytes of data")
        shape = tuple([int(dim) for dim in output["shape"]])
        heads.append((str(output["name"]), str(output["datatype"]), shape, at, at + size))
        at += size
    version, identity = str(content.get("model_version", "")), str(content.get("id", ""))
    return heads, at, version, identity, dict(content.get("parameters", {}))


def _lines(headers: HeaderList) -> str:
    return "".join([f"{name}: {value}\r\n" for name, value in headers])


def _deflate(body: tuple[bytes | memoryview, ...], encoding: str) -> bytes:
    pack = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS if encoding == "gzip" else zlib.MAX_WBITS)
    return b"".join([*[pack.compress(part) for part in body], pack.flush()])


def _start(text: bytes) -> str:
    """The first words of something that may be long, or no text at all."""
    return text[:200].decode("utf-8", "replace")
