"""Requests over gRPC: places on shared HTTP/2 connections, or a stream of its own for each slot."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tritonrepo_client.perf._engine import Engine, Slot, clock
from tritonrepo_client.perf._http2 import Blocks, Connection, Headers
from tritonrepo_client.perf._plan import VARINT_WIDTH, Template
from tritonrepo_client.perf._protobuf import delimited, infer_reply, parameter, stream_reply, wide_varint
from tritonrepo_client.perf._records import LOST, MODEL_SHIFT, OK, REFUSED, WRONG
from tritonrepo_client.perf._replies import Checker, error_kind, grpc_status

_SERVICE = "/inference.GRPCInferenceService/"
UNARY, STREAM = _SERVICE + "ModelInfer", _SERVICE + "ModelStreamInfer"
_SMALL = 32 * 1024


class GrpcRequest:
    """A request as bytes: ``prefix`` and ``payload`` where all of it is known, else `build` puts it together."""

    __slots__ = ("_body", "_cache", "_template", "bits", "checker", "payload", "prefix", "variable")

    def __init__(self, template: Template, memory: memoryview, checker: Checker | None, *, streaming: bool) -> None:
        self.bits = template.model << MODEL_SHIFT
        self.checker = checker
        self._template = template
        self._body = memory[template.start : template.start + template.length]
        self._cache: dict[int, bytes] = {}
        self.variable = bool(template.patches) or streaming
        self.prefix = self._prefix(b"", template.head)
        self.payload: bytes | memoryview = self._body
        if template.length <= _SMALL:
            self.prefix, self.payload = self.prefix + self._body, b""

    def build(self, slot: Slot, more: bytes) -> tuple[bytes, bytes | memoryview]:
        """The parts to send from this slot, with more fields in the message."""
        head = self._patched(slot.number)
        if slot.stream:
            more += parameter("sequence_id", slot.sequence)
            if slot.place == 1:
                more += parameter("sequence_start", True)
            if slot.left == 0:
                more += parameter("sequence_end", True)
        return self._prefix(more, head), self._body

    def _prefix(self, more: bytes, head: bytes) -> bytes:
        size = len(more) + len(head) + self._template.length
        return b"\0" + size.to_bytes(4, "big") + more + head

    def _patched(self, number: int) -> bytes:
        template = self._template
        if not template.patches:
            return template.head
        head = self._cache.get(number)
        if head is None:
            patched = bytearray(template.head)
            for at, base, stride in template.patches:
                patched[at : at + VARINT_WIDTH] = wide_varint(base + stride * number)
            head = bytes(patched)
            if len(self._cache) < 1024:
                self._cache[number] = head
        return head


class Port:
    """A connection that is opened again when it is lost."""

    def __init__(self, engine: Engine, endpoint: int, path: str, blocks: Blocks) -> None:
        self._engine, self._endpoint, self._path, self._blocks = engine, endpoint, path, blocks
        self._connection: Connection | None = None

    def connection(self) -> Connection:
        """One on which streams may begin."""
        if self._connection is None or not self._connection.usable:
            endpoint = self._engine.plan.endpoints[self._endpoint]
            self._connection = Connection(self._engine, endpoint, self._path, self._blocks)
        return self._connection


class GrpcSlot(Slot):
    """A call at a time, on a connection that it shares."""

    __slots__ = ("_body", "_connection", "_port", "_request", "_size", "stream_id", "window")

    def __init__(self, engine: Engine, number: int, endpoint: int, requests: Sequence[GrpcRequest], port: Port) -> None:
        super().__init__(engine, number, endpoint, requests)
        self._port = port
        self._connection: Connection | None = None
        self._request: GrpcRequest
        self._body = bytearray()
        self._size = 0
        self.stream_id = self.window = 0

    def begin(self, request: GrpcRequest) -> None:  # type: ignore[override]
        """Send it, or let it wait for the connection."""
        self.bits = self.bits & ~(0xFF << MODEL_SHIFT) | request.bits
        self._request = request
        self._size = 0
        self.sent = clock()
        self._connection = connection = self._port.connection()
        if connection.ready and not connection.full():
            self._send()
        else:
            connection.waiting.append((self, self._send))

    def _send(self) -> None:
        request = self._request
        if request.variable or self.stream:
            prefix, payload = request.build(self, b"")
        else:
            prefix, payload = request.prefix, request.payload
        assert self._connection is not None  # noqa: S101  begin has set it
        self._connection.begin(self, prefix, payload, last=True)

    def on_data(self, data: bytes, start: int, end: int, now: int) -> None:
        """A part of the reply."""
        self._size += end - start
        if self._request.checker is not None:
            self._body += data[start:end]

    def on_end(self, headers: Headers, now: int) -> None:
        """The reply is complete."""
        code = OK
        if headers.status:
            words = headers.words or f"HTTP status {headers.http}"
            code = self.engine.records.code(*error_kind(grpc_status(headers.status), words))
        elif self._size < 5:
            code = self.engine.records.code("bad reply", "the call succeeded without a message")
        elif self._request.checker is not None:
            code = self._checked(self._request.checker)
        self._body.clear()
        self.engine.finish(self, code, now)

    def _checked(self, checker: Checker) -> int:
        body = bytes(self._body)
        if body == checker.seen:
            return OK
        try:
            fault = checker.compare(infer_reply(memoryview(body)[5:]).outputs)
        except ValueError as error:
            return self.engine.records.code("bad reply", str(error))
        if fault:
            self.engine.records.code("wrong reply", fault)
            return WRONG
        checker.seen = body
        return OK

    def on_lost(self, words: str, now: int) -> None:
        """The call or its connection was cut."""
        self.engine.records.code("connection lost", words)
        self._fail(LOST, now)

    def on_refused(self, words: str, now: int) -> None:
        """Nobody listens."""
        self.engine.records.code("connection refused", words)
        self._fail(REFUSED, now)

    def _fail(self, code: int, now: int) -> None:
        self._body.clear()
        if self.busy:
            self.engine.finish(self, code, now)

    def give_up(self) -> None:
        """Cancel the call."""
        if self._connection is not None:
            waiting = self._connection.waiting
            for each in [each for each in waiting if each[0] is self]:
                waiting.remove(each)
            self._connection.reset(self)
        self._body.clear()


class StreamSlot(GrpcSlot):
    """A stream of its own (ModelStreamInfer), with one request on it at a time: models that answer more than once."""

    __slots__ = ("_count", "_id")

    def __init__(self, engine: Engine, number: int, endpoint: int, requests: Sequence[GrpcRequest], port: Port) -> None:
        super().__init__(engine, number, endpoint, requests, port)
        self._count = 0
        self._id = ""

    def _send(self) -> None:
        self._count += 1
        self._id = f"{self._count:08x}"
        self.first = self.last = self.responses = 0
        connection = self._connection
        assert connection is not None  # noqa: S101  begin has set it
        # The server then marks the last response, with one more that is empty if it has to.
        more = delimited(3, self._id.encode()) + parameter("triton_enable_empty_final_response", True)
        prefix, payload = self._request.build(self, more)
        if connection.streams.get(self.stream_id) is self:
            connection.message(self, prefix, payload)
        else:
            connection.begin(self, prefix, payload, last=False)

    def begin(self, request: GrpcRequest) -> None:  # type: ignore[override]
        """Send it on the stream that is open, or open one."""
        connection = self._connection
        if connection is not None and connection.streams.get(self.stream_id) is self:
            self.bits = self.bits & ~(0xFF << MODEL_SHIFT) | request.bits
            self._request = request
            self.sent = clock()
            self._send()
        else:
            self._body.clear()
            super().begin(request)

    def on_data(self, data: bytes, start: int, end: int, now: int) -> None:
        """A part of a response."""
        body = self._body
        body += data[start:end]
        while len(body) >= 5:
            size = int.from_bytes(body[1:5], "big")
            if len(body) < 5 + size:
                return
            message = bytes(body[5 : 5 + size])
            del body[: 5 + size]
            self._on_message(message, now)

    def _on_message(self, message: bytes, now: int) -> None:
        records = self.engine.records
        try:
            error, reply = stream_reply(memoryview(message))
        except ValueError as fault:
            self.give_up()
            self._fail(records.code("bad reply", str(fault)), now)
            return
        if not self.busy or (reply.request_id and reply.request_id != self._id):
            return  # of a request that was given up or failed
        if error:
            self.engine.finish(self, records.code(*error_kind("stream error", error)), now)
            return
        code = OK
        if reply.outputs:
            code = self._responded(reply.outputs, now)
        if reply.final or code:
            self.engine.finish(self, code, now)

    def _responded(self, outputs: object, now: int) -> int:
        if self.responses:
            self.engine.records.gaps.append(now - self.last)
        else:
            self.first = now
        self.last = now
        self.responses += 1
        checker = self._request.checker
        if checker is None or self.responses > 1:
            return OK
        fault = checker.compare(outputs)  # type: ignore[arg-type]
        if fault:
            self.engine.records.code("wrong reply", fault)
            return WRONG
        return OK

    def on_end(self, headers: Headers, now: int) -> None:
        """The stream ended: with a request under way that is an error, whatever its status."""
        if self.busy:
            name = grpc_status(headers.status) if headers.status >= 0 else f"HTTP {headers.http}"
            self._fail(self.engine.records.code(*error_kind(name, headers.words or "the stream ended")), now)

    def close(self) -> None:
        """End the stream in order."""
        if self._connection is not None:
            self._connection.half_close(self)


def grpc_slots(engine: Engine, memory: memoryview, checkers: Sequence[Checker | None]) -> Callable[[int], Slot]:
    """What makes the slots of an engine: endpoints in turn, and on each its connections in turn.

    Args:
        engine: with a plan for grpc.
        memory: the tensors' bytes.
        checkers: one for each template, or None.
    """
    plan = engine.plan
    blocks = Blocks()
    path = STREAM if plan.streaming else UNARY
    kind = StreamSlot if plan.streaming else GrpcSlot
    requests = [
        GrpcRequest(template, memory, check, streaming=plan.streaming)
        for template, check in zip(plan.templates, checkers, strict=True)
    ]
    ports = [
        Port(engine, number % len(plan.endpoints), path, blocks)
        for number in range(plan.connections * len(plan.endpoints))
    ]

    def new_slot(number: int) -> Slot:
        return kind(engine, number, number % len(plan.endpoints), requests, ports[number % len(ports)])

    return new_slot
