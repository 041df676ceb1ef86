"""The load generator's own HTTP/1.1 and HTTP/2, against servers that send what a test wants."""

from __future__ import annotations

import socket
import threading
import time

import numpy as np
import pytest

from perf_servers import (
    BODY,
    CLOSED,
    OPEN,
    H2Peer,
    drive,
    driven,
    h2_server,
    http_reply,
    http_server,
    plan_for,
    serving,
)
from tritonrepo_client.perf._http1 import parse_head, unchunk
from tritonrepo_client.perf._http2 import Blocks, request_headers
from tritonrepo_client.perf._plan import ClosedLoop, ExpectedOutput
from tritonrepo_client.perf._protobuf import (
    delimited,
    fields,
    infer_reply,
    parameter,
    stream_reply,
    varint,
    wide_varint,
)

OUTPUT = {"outputs": [{"name": "y", "datatype": "UINT8", "shape": [3], "parameters": {"binary_data_size": 3}}]}


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


# --- HTTP/1.1


@pytest.mark.parametrize("load", [CLOSED, OPEN], ids=["closed", "open"])
def test_http_requests_arrive_whole_and_are_answered(load: ClosedLoop) -> None:
    bodies: list[bytes] = []

    def answer(number: int, body: bytes) -> list[bytes]:
        bodies.append(body)
        return [http_reply(OUTPUT, b"abc")]

    with serving(http_server(answer)) as port:
        plan, memory = plan_for("http", port, count=3)
        kinds = drive(plan, memory, load, requests=60)
    assert set(kinds) == {"ok"}
    assert kinds["ok"] == len(bodies) >= 60
    assert {body[-100:] for body in bodies} == {letter * 100 for letter in (b"A", b"B", b"C")}
    assert all(body.startswith(b'{"parameters":{},"inputs":[') for body in bodies)


def test_an_http_reply_may_come_in_pieces() -> None:
    reply = http_reply(OUTPUT, b"abc")
    cuts = [1, 9, reply.find(b"\r\n\r\n") + 2, reply.find(b"\r\n\r\n") + 4, len(reply) - 1]

    def answer(number: int, body: bytes) -> list[bytes]:
        cut = cuts[number % len(cuts)]
        return [reply[:cut], reply[cut:]]

    with serving(http_server(answer)) as port:
        plan, memory = plan_for("http", port)
        kinds = drive(plan, memory, CLOSED, requests=40)
    assert set(kinds) == {"ok"}


@pytest.mark.parametrize("size", [200_000, 3_000_000])
def test_large_http_requests_and_replies(size: int) -> None:
    seen: list[int] = []

    def answer(number: int, body: bytes) -> list[bytes]:
        seen.append(body.count(b"A") if body.endswith(b"A" * size) else -1)
        return [http_reply(OUTPUT, b"z" * size)]

    with serving(http_server(answer)) as port:
        plan, memory = plan_for("http", port, size=size)
        kinds = drive(plan, memory, ClosedLoop(2), requests=6)
    assert set(kinds) == {"ok"}
    assert set(seen) == {size}


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (400, {"error": "[request id] inference request batch-size must be <= 4"}, "HTTP 400"),
        (503, {"error": "Exceeds maximum queue size"}, "queue full"),
        (429, {"error": "Request timeout expired"}, "queue timeout"),
        (404, {"error": "Request for unknown model: 'm' is not found"}, "model not found"),
    ],
)
def test_http_errors_are_counted_by_kind(status: int, text: object, kind: str) -> None:
    def answer(number: int, body: bytes) -> list[bytes]:
        return [http_reply(text, status=status) if number % 2 else http_reply(OUTPUT, b"abc")]

    with serving(http_server(answer)) as port:
        plan, memory = plan_for("http", port)
        kinds, engine = driven(plan, memory, CLOSED, requests=40)
    assert set(kinds) == {"ok", kind}
    assert abs(kinds["ok"] - kinds[kind]) <= 4
    words = engine.records.samples[engine.records.kinds[kind]]
    assert words == text["error"]  # type: ignore[index]


def test_http_connections_that_end_are_errors_and_are_opened_again() -> None:
    def answer(number: int, body: bytes) -> list[bytes]:
        return [http_reply(OUTPUT, b"abc")] if number < 2 else [http_reply(OUTPUT, b"abc")[:30], b""]

    with serving(http_server(answer)) as port:
        plan, memory = plan_for("http", port)
        kinds, engine = driven(plan, memory, ClosedLoop(2), requests=12)
    assert set(kinds) == {"ok", "connection lost"}
    assert kinds["ok"] >= 2 * kinds["connection lost"] - 2
    assert "in the middle of its reply" in engine.records.samples[engine.records.kinds["connection lost"]]


def test_http_connection_close_is_no_error() -> None:
    with serving(
        http_server(lambda number, body: [http_reply(OUTPUT, b"abc", more="Connection: close\r\n"), b""])
    ) as port:
        plan, memory = plan_for("http", port)
        kinds = drive(plan, memory, CLOSED, requests=20)
    assert set(kinds) == {"ok"}


def test_chunked_and_unbounded_http_replies() -> None:
    chunked = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"a":\r\n2;x=y\r\n1}\r\n0\r\nT: v\r\n\r\n'
    unbounded = b"HTTP/1.1 200 OK\r\n\r\n{}"

    def answer(number: int, body: bytes) -> list[bytes]:
        return [chunked[:50], chunked[50:]] if number < 3 else [unbounded, b""]

    with serving(http_server(answer)) as port:
        plan, memory = plan_for("http", port)
        kinds = drive(plan, memory, ClosedLoop(2), requests=16)
    assert set(kinds) == {"ok"}


@pytest.mark.parametrize(
    "reply",
    [b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 0\r\n\r\n"],
    ids=["not http", "compressed"],
)
def test_replies_that_are_none(reply: bytes) -> None:
    with serving(http_server(lambda number, body: [reply])) as port:
        plan, memory = plan_for("http", port)
        kinds = drive(plan, memory, ClosedLoop(2), requests=4)
    assert set(kinds) == {"bad reply"}


def test_http_requests_that_take_too_long_are_given_up() -> None:
    def answer(number: int, body: bytes) -> list[bytes]:
        time.sleep(1.5 if number == 1 else 0)
        return [http_reply(OUTPUT, b"abc")]

    with serving(http_server(answer)) as port:
        plan, memory = plan_for("http", port, timeout=0.2)
        kinds, engine = driven(plan, memory, ClosedLoop(1), requests=4)
    assert kinds["timeout"] >= 1
    assert kinds["ok"] >= 2
    late = [end - sent for end, sent, meta in zip(*_arrays(engine), strict=True) if meta & 0xFFF == 2]
    assert all(0.2e9 <= each < 0.6e9 for each in late)


def _arrays(engine: object) -> tuple[list[int], list[int], list[int]]:
    records = engine.records  # type: ignore[attr-defined]
    return list(records.ended), list(records.sent), list(records.meta)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_nobody_listens(protocol: str) -> None:
    plan, memory = plan_for(protocol, closed_port())
    kinds = drive(plan, memory, ClosedLoop(2), requests=4)
    assert set(kinds) <= {"connection refused", "unfinished"}
    assert 4 <= kinds["connection refused"] < 100  # it does not spin


@pytest.mark.parametrize("binary", [b"abc", b"abd"])
def test_http_replies_are_compared_with_what_was_expected(binary: bytes) -> None:
    wanted = ExpectedOutput("y", "UINT8", (3,), b"abc")
    with serving(http_server(lambda number, body: [http_reply(OUTPUT, binary)])) as port:
        plan, memory = plan_for("http", port, expected=[wanted])
        kinds, engine = driven(plan, memory, CLOSED, requests=10)
    assert set(kinds) == ({"ok"} if binary == b"abc" else {"wrong reply"})
    if binary != b"abc":
        assert (
            engine.records.samples[1].startswith("output 'y' has np.uint8(100) at [2]")
            or "100" in engine.records.samples[1]
        )


def test_heads() -> None:
    head = parse_head(b"HTTP/1.1 200 OK\r\nInference-Header-Content-Length: 7\r\ncontent-length:  12")
    assert (head.status, head.length, head.split, head.keep) == (200, 12, 7, True)
    assert parse_head(b"HTTP/1.0 200 OK\r\nContent-Length: 1").keep is False
    assert parse_head(b"HTTP/1.1 503 X\r\nConnection: Close\r\nContent-Length: 0").keep is False
    with pytest.raises(ValueError, match="not HTTP"):
        parse_head(b"\x00\x00\x12\x04")
    assert unchunk(bytearray(b"3\r\nabc\r\n0\r\n\r\nX")) == (b"abc", 13)
    assert unchunk(bytearray(b"3\r\nabc\r\n0\r\n")) is None


# --- HTTP/2


def ok(peer: H2Peer, stream: int, body: bytes) -> None:
    peer.reply(stream)


@pytest.mark.parametrize("load", [CLOSED, OPEN], ids=["closed", "open"])
def test_grpc_requests_arrive_whole_and_are_answered(load: ClosedLoop) -> None:
    bodies: list[bytes] = []
    peers: list[H2Peer] = []

    def answer(peer: H2Peer, stream: int, body: bytes) -> None:
        bodies.append(body)
        peer.reply(stream)

    with serving(h2_server(answer, peers=peers)) as port:
        plan, memory = plan_for("grpc", port, count=3, connections=2)
        kinds = drive(plan, memory, load, requests=60)
    assert set(kinds) == {"ok"}
    assert kinds["ok"] == len(bodies) >= 60
    assert {body[5:] for body in bodies} == {b"\x0a\x05model" + letter * 100 for letter in (b"A", b"B", b"C")}
    assert all(body[:5] == b"\0" + (107).to_bytes(4, "big") for body in bodies)
    assert len(peers) == 2
    wanted = {
        ":method": "POST", ":scheme": "http", ":path": "/inference.GRPCInferenceService/ModelInfer",
        ":authority": f"127.0.0.1:{port}", "content-type": "application/grpc", "te": "trailers",
    }  # fmt: skip
    assert all(headers == wanted for peer in peers for headers in peer.headers.values())


@pytest.mark.parametrize(("size", "window"), [(200_000, 65535), (1_000_000, 1000), (70_000, 1 << 20)])
def test_large_grpc_messages_go_as_the_windows_allow(size: int, window: int) -> None:
    bodies: list[bytes] = []

    def answer(peer: H2Peer, stream: int, body: bytes) -> None:
        bodies.append(body)
        peer.reply(stream, b"\0" + size.to_bytes(4, "big") + b"z" * size if size < 60_000 else BODY)

    with serving(h2_server(answer, window=window)) as port:
        plan, memory = plan_for("grpc", port, size=size, count=2)
        kinds = drive(plan, memory, ClosedLoop(3), requests=6)
    assert set(kinds) == {"ok"}
    assert {body[12:] for body in bodies} == {b"A" * size, b"B" * size}  # h2 raises where a window is overrun


def test_large_grpc_replies_come_in_pieces() -> None:
    big = b"\0" + (50_000).to_bytes(4, "big") + b"z" * 50_000
    with serving(h2_server(lambda peer, stream, body: peer.reply(stream, big))) as port:
        plan, memory = plan_for("grpc", port)
        kinds = drive(plan, memory, CLOSED, requests=30)
    assert set(kinds) == {"ok"}


def test_grpc_errors_are_counted_by_kind() -> None:
    def answer(peer: H2Peer, stream: int, body: bytes) -> None:
        number = stream // 2
        if number % 3 == 1:
            peer.reply(stream, status=14, words="Exceeds maximum queue size%21")
        elif number % 3 == 2:
            peer.reply(stream, status=3, words="unexpected shape")
        else:
            peer.reply(stream)

    with serving(h2_server(answer)) as port:
        plan, memory = plan_for("grpc", port)
        kinds, engine = driven(plan, memory, CLOSED, requests=60)
    assert set(kinds) == {"ok", "queue full", "gRPC INVALID_ARGUMENT"}
    assert engine.records.samples[engine.records.kinds["queue full"]] == "Exceeds maximum queue size!"


def test_no_more_streams_than_the_server_allows() -> None:
    peers: list[H2Peer] = []
    waiting: list[tuple[H2Peer, int]] = []

    def answer(peer: H2Peer, stream: int, body: bytes) -> None:
        waiting.append((peer, stream))
        if len(waiting) >= 2:
            for each in waiting:
                each[0].reply(each[1])
            waiting.clear()

    with serving(h2_server(answer, streams=2, peers=peers)) as port:
        plan, memory = plan_for("grpc", port)
        kinds = drive(plan, memory, ClosedLoop(8), requests=40)
    assert kinds["ok"] >= 40
    assert peers[0].most_streams <= 2  # h2 raises beyond that


def test_reset_streams_and_going_away_and_lost_connections() -> None:
    count = 0
    lock = threading.Lock()

    def answer(peer: H2Peer, stream: int, body: bytes) -> None:
        nonlocal count
        with lock:
            count += 1
            number = count
        if number % 10 == 3:
            peer.connection.reset_stream(stream, 2)
        elif number % 10 == 6:
            peer.reply(stream)
            peer.connection.close_connection(0)
            peer.flush()
            raise OSError("the server has gone away")
        elif number % 10 == 9:
            raise OSError("the connection is cut")
        else:
            peer.reply(stream)

    with serving(h2_server(answer)) as port:
        plan, memory = plan_for("grpc", port)
        kinds = drive(plan, memory, ClosedLoop(2), requests=40)
    assert set(kinds) == {"ok", "connection lost"}
    assert kinds["ok"] >= 20


def test_pings_are_answered_and_settings_may_change() -> None:
    peers: list[H2Peer] = []

    def answer(peer: H2Peer, stream: int, body: bytes) -> None:
        if stream == 9:
            peer.connection.ping(b"12345678")
            peer.connection.update_settings({4: 100_000})
        peer.reply(stream)

    acknowledged: list[bytes] = []

    def watched(sock: socket.socket) -> None:
        original = sock.recv

        class Spy:
            def __getattr__(self, name: str) -> object:
                return getattr(sock, name)

            def recv(self, size: int) -> bytes:
                data = original(size)
                acknowledged.append(data)
                return data

        h2_server(answer, peers=peers)(Spy())  # type: ignore[arg-type]

    with serving(watched) as port:
        plan, memory = plan_for("grpc", port)
        kinds = drive(plan, memory, CLOSED, requests=40)
    assert set(kinds) == {"ok"}
    assert b"\x00\x00\x08\x06\x01\x00\x00\x00\x0012345678" in b"".join(acknowledged)


def test_grpc_calls_that_take_too_long_are_cancelled() -> None:
    reset: list[int] = []

    def answer(peer: H2Peer, stream: int, body: bytes) -> None:
        if stream != 3:
            peer.reply(stream)
        else:
            reset.append(stream)

    with serving(h2_server(answer)) as port:
        plan, memory = plan_for("grpc", port, timeout=0.2)
        kinds = drive(plan, memory, ClosedLoop(2), requests=20, seconds=1)
    assert kinds["timeout"] == len(reset) == 1


def test_headers_are_read_whatever_their_form() -> None:
    import hpack

    blocks = Blocks()
    for huffman in (True, False):
        encoder = hpack.Encoder()
        encoder.header_table_size = 0  # as the server was told
        block = encoder.encode([("grpc-status", "7"), ("grpc-message", "a%20b"), ("x", "v" * 300)], huffman=huffman)
        headers = blocks.read(block)
        assert (headers.status, headers.words) == (7, "a b")
        assert blocks.read(block) is headers
    assert blocks.read(b"\x20" + b"\x00\x0bgrpc-status\x010").status == 0
    with pytest.raises(ValueError, match="headers"):
        blocks.read(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("path", ["/a.B/C", "/" + "p" * 400])
def test_request_headers_are_hpack(path: str, indexed: bool) -> None:
    import hpack

    decoder = hpack.Decoder()
    first, rest = request_headers(path, "host:1", indexed=indexed)
    wanted = [
        (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "host:1"),
        ("content-type", "application/grpc"), ("te", "trailers"),
    ]  # fmt: skip
    for block in (first, rest, rest):
        decoded = [(str(name), str(value)) for name, value in decoder.decode(block)]
        assert decoded == wanted
    assert not indexed or len(rest) == 6


# --- protobuf


def test_protobuf_agrees_with_the_real_thing() -> None:
    from tritonclient.grpc import service_pb2 as pb

    request = pb.ModelInferRequest(model_name="m")
    entry = delimited(3, b"id-1") + parameter("sequence_id", 300) + parameter("sequence_end", True)
    request.MergeFromString(entry)
    assert request.id == "id-1"
    assert request.parameters["sequence_id"].int64_param == 300
    assert request.parameters["sequence_end"].bool_param is True
    patched = pb.InferParameter.FromString(b"\x10" + wide_varint(123_456_789))
    assert patched.int64_param == 123_456_789

    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    response = pb.ModelInferResponse(model_name="m", id="7")
    response.outputs.add(name="y", datatype="FP32", shape=[2, 3])
    response.raw_output_contents.append(values.tobytes())
    response.parameters["triton_final_response"].bool_param = True
    reply = infer_reply(memoryview(response.SerializeToString()))
    assert (reply.request_id, reply.final) == ("7", True)
    assert reply.outputs["y"].shape == (2, 3)
    assert bytes(reply.outputs["y"].data) == values.tobytes()
    stream = pb.ModelStreamInferResponse(error_message="no", infer_response=response)
    error, inner = stream_reply(memoryview(stream.SerializeToString()))
    assert (error, inner.request_id) == ("no", "7")


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05ab", b"\x0f", b"\x80" * 12])
def test_what_is_no_message(data: bytes) -> None:
    with pytest.raises(ValueError, match="reply"):
        list(fields(memoryview(data)))


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 1 << 40])
def test_varints(number: int) -> None:
    message = b"\x08" + varint(number)
    assert list(fields(memoryview(message))) == [(1, number)]
    if number < 1 << 42:
        assert list(fields(memoryview(b"\x08" + wide_varint(number)))) == [(1, number)]
