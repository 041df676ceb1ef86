"""What tritonrepo_client makes of bytes: its own, and those of servers that fail, hang, cut off or talk nonsense."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tritonclient.grpc import service_pb2, service_pb2_grpc

from test_client import any_client
from tritonrepo_client import (
    BadReply,
    Client,
    DeadlineExceeded,
    ModelNotFound,
    ModelNotReady,
    Retry,
    ServerBusy,
    ServerError,
    ServerUnreachable,
    Signature,
    TensorSpec,
    TritonClientError,
)
from tritonrepo_client.tensor import MismatchError, WireTensor, decode, encode_inputs

NEVER = Retry(attempts=1)

# Tensors

NUMBERS = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "u2", "UINT32": "u4", "UINT64": "u8", "INT8": "i1", "INT16": "i2",
    "INT32": "i4", "INT64": "i8", "FP16": "f2", "FP32": "f4", "FP64": "f8",
}  # fmt: skip


def signature(dtype: str, shape: tuple[int, ...], max_batch_size: int = 0) -> Signature:
    return Signature((TensorSpec("x", dtype, shape),), (), max_batch_size)


@settings(deadline=None)  # a busy machine is no failure
@given(
    data=st.data(), dtype=st.sampled_from(sorted(NUMBERS)), offset=st.integers(0, 7), step=st.sampled_from([1, 2, -1])
)
def test_numbers_survive_the_wire(data: st.DataObject, dtype: str, offset: int, step: int) -> None:
    byte_order = data.draw(st.sampled_from(["<", ">"]))
    kind = np.dtype(byte_order + NUMBERS[dtype])
    array = data.draw(hnp.arrays(kind, hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)))[..., ::step]
    (sent,) = encode_inputs(signature(dtype, (-1,) * array.ndim), {"x": array})
    assert sent.shape == array.shape
    # In a reply a tensor may begin at any byte.
    reply = sent._replace(data=memoryview(b"." * offset + bytes(sent.data))[offset:])
    got = decode(reply)
    assert got.dtype == np.dtype(NUMBERS[dtype])
    assert got.flags.aligned and not got.flags.writeable
    np.testing.assert_array_equal(got, array)


@settings(deadline=None)  # a busy machine is no failure
@given(items=st.lists(st.binary(max_size=20), max_size=6), rows=st.sampled_from([1, 2]))
def test_bytes_survive_the_wire(items: list[bytes], rows: int) -> None:
    array = np.empty((rows, len(items)), np.object_)
    array[:] = items
    (sent,) = encode_inputs(signature("BYTES", (-1, -1)), {"x": array})
    got = decode(sent)
    assert got.shape == array.shape
    assert got.tolist() == array.tolist()


@pytest.mark.parametrize(
    "tensor",
    [
        WireTensor("y", "FP32", (4,), b""),
        WireTensor("y", "FP32", (1,), b"\0" * 5),
        WireTensor("y", "FP32", (-1, -1), b"\0" * 4),
        WireTensor("y", "COMPLEX", (1,), b"\0" * 8),
        WireTensor("y", "BYTES", (1,), b"\x05\0\0\0abc"),
        WireTensor("y", "BYTES", (2,), b"\x01\0\0\0a"),
        WireTensor("y", "BYTES", (1,), b"\x01\0\0"),
    ],
)
def test_bytes_that_do_not_make_the_tensor(tensor: WireTensor) -> None:
    with pytest.raises(ValueError, match=r"COMPLEX|output 'y' came with|negative|unknown"):
        decode(tensor)


def test_bf16_is_raw_bits_without_ml_dtypes() -> None:
    script = """
import sys
sys.modules["ml_dtypes"] = None
import numpy as np
from tritonrepo_client.tensor import *
bits = np.array([0x3f80, 0x4000], np.uint16)
(sent,) = encode_inputs(Signature((TensorSpec("x", "BF16", (-1,)),), (), 0), {"x": bits})
got = decode(sent)
assert got.dtype == np.uint16 and (got == bits).all()
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_shape_of_a_shape_tensor_is_left_to_the_server() -> None:
    metadata = {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "size", "datatype": "INT32", "shape": [-1, 2]},
        ],
        "outputs": [],
    }
    config = {"max_batch_size": 4, "input": [{"name": "x"}, {"name": "size", "is_shape_tensor": True}]}
    known = Signature.from_server(metadata, config)
    sent = encode_inputs(known, {"x": np.ones((3, 2), np.float32), "size": np.array([7, 7], np.int32)})
    assert [tensor.shape for tensor in sent] == [(3, 2), (2,)]
    with pytest.raises(MismatchError, match="axis 1"):
        encode_inputs(known, {"x": np.ones((3, 3), np.float32), "size": np.array([7, 7], np.int32)})


# gRPC: a real server that answers each call with the status it is told


class Refusing(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    def __init__(self) -> None:
        self.code, self.words = grpc.StatusCode.UNKNOWN, ""

    def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        context.abort(self.code, self.words)

    def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ModelConfigResponse()

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ModelInferResponse(outputs=[{"name": "y", "datatype": "FP32", "shape": [1]}])


@pytest.fixture
def refusing() -> Iterator[tuple[Refusing, str]]:
    servicer, server = Refusing(), grpc.server(ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"grpc://127.0.0.1:{port}"
    server.stop(None).wait()


EXPECTED = {
    grpc.StatusCode.UNAVAILABLE: ServerUnreachable,
    grpc.StatusCode.CANCELLED: ServerUnreachable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}


def test_every_status_of_grpc_is_an_error_of_ours(refusing: tuple[Refusing, str]) -> None:
    servicer, address = refusing
    with Client(address) as client:
        for code in grpc.StatusCode:
            if code is grpc.StatusCode.OK:
                continue
            servicer.code, servicer.words = code, f"words about {code.name}"
            with pytest.raises(TritonClientError) as caught:
                client.model("m").signature  # noqa: B018
            error = caught.value
            assert type(error) is EXPECTED.get(code, ServerError), code
            assert (error.model, error.endpoint, error.status) == ("m", address, code.name)
            assert error.detail == f"words about {code.name}"
            assert error.__cause__ is None and error.__suppress_context__


WORDS = [
    ("Request for unknown model: 'm' is not found", ModelNotFound),
    ("Request for unknown model: 'm' has no available versions", ModelNotReady),
    ("Request for unknown model: 'm' version 1 is not at ready state", ModelNotReady),
    ("[request id: 1] Exceeds maximum queue size", ServerBusy),
    ("Request timeout expired", ServerBusy),
    ("something else", ServerError),
]


@pytest.mark.parametrize(("words", "kind"), WORDS)
def test_the_words_of_triton_decide_what_an_error_is(
    refusing: tuple[Refusing, str], words: str, kind: type[TritonClientError]
) -> None:
    servicer, address = refusing
    servicer.code, servicer.words = grpc.StatusCode.INTERNAL, words
    with Client(address) as client, pytest.raises(kind) as over_grpc:
        client.model("m").signature  # noqa: B018
    assert type(over_grpc.value) is kind
    said = reply(json.dumps({"error": words}), status=500)
    with scripted(said) as address, Client(address) as client, pytest.raises(kind) as over_http:
        client.model("m").signature  # noqa: B018
    assert type(over_http.value) is kind
    assert over_http.value.detail == over_grpc.value.detail == words


# HTTP: a socket that says what it is told


Script = Callable[[socket.socket], None]


@contextmanager
def scripted(*scripts: bytes | Script) -> Iterator[str]:
    """A server whose connections, in turn, read one request for each of the scripts and answer as these say.

    A script of bytes is sent whole. The last one is used again and again. A connection is closed when its script was a
    function, or when the client closes it.
    """
    waiting = list(scripts)
    accepted: list[socket.socket] = []

    def next_script() -> bytes | Script:
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    def serve(connection: socket.socket) -> None:
        with connection:
            while read_request(connection):
                script = next_script()
                try:
                    if callable(script):
                        script(connection)
                        return
                    connection.sendall(script)
                except OSError:  # the client gave up
                    return

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            accepted.append(connection)
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        for connection in accepted:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        thread.join()


def read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        try:
            block = connection.recv(65536)
        except OSError:
            return b""
        if not block:
            return b""
        data += block
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    return head


def reply(body: str | bytes, *, status: int = 200, headers: str = "", length: int | None = None) -> bytes:
    data = body.encode() if isinstance(body, str) else body
    count = f"Content-Length: {len(data) if length is None else length}\r\n"
    return f"HTTP/1.1 {status} Words\r\n{headers}{count}\r\n".encode() + data


GOOD = json.dumps([{"name": "m", "version": "1", "state": "READY"}])


@pytest.mark.parametrize(
    "said",
    [
        reply(GOOD),
        b"HTTP/1.1 100 Continue\r\n\r\n" + reply(GOOD),
        reply(GOOD, headers="Connection: close\r\n"),
        reply(GOOD, headers="connection:close\r\nContent-Encoding: identity\r\n"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + f"{5:x};x=y\r\n{GOOD[:5]}\r\n{len(GOOD) - 5:X}\r\n{GOOD[5:]}\r\n0\r\nTrailer: 1\r\n\r\n".encode(),
    ],
    ids=["plain", "continue", "close", "lower case", "chunked"],
)  # fmt: skip
def test_forms_of_http_that_servers_and_proxies_use(said: bytes) -> None:
    with scripted(said) as address, Client(address, timeout=5) as client:
        for _ in range(3):
            assert [each.name for each in client.models()] == ["m"]


def test_a_reply_that_ends_with_the_connection() -> None:
    def until_end(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + GOOD.encode())

    with scripted(until_end) as address, Client(address, timeout=5) as client:
        for _ in range(2):
            assert [each.name for each in client.models()] == ["m"]


def test_a_reply_that_comes_byte_by_byte() -> None:
    def slowly(connection: socket.socket) -> None:
        for byte in reply(GOOD):
            connection.sendall(bytes([byte]))

    with scripted(slowly) as address, Client(address, timeout=5) as client:
        assert [each.name for each in client.models()] == ["m"]


def cut(data: bytes) -> Script:
    return lambda connection: connection.sendall(data)


def then_reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        (b"nonsense\r\n\r\n", BadReply, "not HTTP"),
        (b"HTTP/1.1 abc\r\n\r\n", BadReply, "not HTTP"),
        (b"x" * 1_000_000, BadReply, "has no end"),
        (reply("not json"), BadReply, "not JSON: not json"),
        (reply('{"a": 1}'), BadReply, "not a list"),
        (reply(GOOD, headers="Content-Encoding: gzip\r\n"), BadReply, "compressed"),
        (reply(GOOD, headers="Inference-Header-Content-Length: 999\r\n"), BadReply, "999 of them"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", BadReply, "content-length"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", BadReply, "zz"),
        (cut(b""), ServerUnreachable, "before its reply"),
        (cut(b"HTTP/1.1 20"), ServerUnreachable, "in the middle of its reply"),
        (cut(reply(GOOD, length=10_000)), ServerUnreachable, "in the middle of its reply"),
        (then_reset, ServerUnreachable, "reset"),
        (reply("<html>gone</html>", status=502), ServerUnreachable, "<html>gone"),
        (reply("", status=503), ServerUnreachable, "no words"),
        (reply("", status=504), DeadlineExceeded, "no words"),
        (reply('{"error": "no"}', status=400), ServerError, "no"),
        (reply('{"error": "no"}', status=401), ServerError, "no"),
        (reply("[1]", status=500), ServerError, r"\[1\]"),
    ],
)
@pytest.mark.parametrize("mode", ["threads", "asyncio"])
def test_replies_that_are_none(said: bytes | Script, kind: type[TritonClientError], words: str, mode: str) -> None:
    with scripted(said, reply(GOOD)) as address, any_client(address, mode, timeout=5, retry=NEVER) as client:
        with pytest.raises(kind, match=words) as caught:
            client.models()
        assert type(caught.value) is kind
        assert caught.value.endpoint == address
        # What was left in the connection reaches nobody: the next call gets its own reply.
        assert [each.name for each in client.models()] == ["m"]


METADATA = json.dumps(
    {
        "name": "m",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}],
    }
)


def inference(header: Any, binary: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return reply(text + binary, headers=f"Inference-Header-Content-Length: {len(text)}\r\n")


def described(size: int = 4, **more: Any) -> dict[str, Any]:
    parameters = {"binary_data_size": size}
    return {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "parameters": parameters, **more}]}


ONE = np.array([1.5], "<f4").tobytes()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (reply("[]"), "does not describe"),
        (inference({}), "does not describe"),
        (inference({"outputs": [{"name": "y"}]}), "does not describe"),
        (inference(described(), b""), "0 bytes of data for outputs of 4"),
        (inference(described(), ONE * 2), "8 bytes of data for outputs of 4"),
        (inference(described(shape=[2]), ONE), "4 bytes for FP32"),
        (inference(described(shape=["a"]), ONE), "does not describe"),
        (inference(described(datatype="FP12"), ONE), "FP12"),
        (inference({"outputs": []}), "one output was expected, and 0 came"),
    ],
)
def test_inference_replies_that_are_none(said: bytes, words: str) -> None:
    with scripted(reply(METADATA), reply("{}"), said) as address, Client(address, timeout=5) as client:
        with pytest.raises(BadReply, match=words) as caught:
            client.model("m")(np.zeros(1, np.float32))
        assert caught.value.model == "m"


def test_inference_replies_are_read_by_whole_header_names() -> None:
    said = inference(described(), ONE)
    with scripted(reply(METADATA), reply("{}"), said) as address, Client(address + "/prefix/", timeout=5) as client:
        assert client.model("m")(np.zeros(1, np.float32)).tolist() == [1.5]


def test_a_grpc_reply_without_the_data_it_speaks_of(refusing: tuple[Refusing, str]) -> None:
    from tritonrepo_client.transport import InferRequest, drive, open_transport

    transport = open_transport(refusing[1])
    with pytest.raises(BadReply, match="1 outputs came with the data of 0"):
        drive(transport.infer(InferRequest("m", "", (), (), "", 0, {}), None))
    drive(transport.close())


@pytest.mark.parametrize("metadata", ["{}", '{"inputs": [{"name": "x"}]}', '{"inputs": 7}'])
def test_a_description_that_is_none(metadata: str) -> None:
    with scripted(reply(metadata), reply("{}")) as address, Client(address, timeout=5) as client:
        if metadata == "{}":
            assert client.model("m").signature == Signature((), (), 0)
        else:
            with pytest.raises(BadReply, match="cannot be read"):
                client.model("m").signature  # noqa: B018


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_a_server_that_accepts_and_never_answers(transport: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"{transport}://127.0.0.1:{silent.getsockname()[1]}"
        with Client(address) as client:
            started = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                client.models(timeout=0.3)
            assert not client.ready(0.2)
            with pytest.raises(DeadlineExceeded):
                client.wait_ready(0.2)
            assert time.monotonic() - started < 3


def test_a_server_that_drips_does_not_outlive_the_deadline() -> None:
    stop = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.sendall(reply(GOOD, length=10_000))
        while not stop.wait(0.05):
            connection.sendall(b" ")

    with scripted(drip) as address, Client(address) as client:
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            client.models(timeout=0.4)
        assert 0.3 < time.monotonic() - started < 2
        stop.set()


def test_a_large_request_to_a_server_that_does_not_read() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        from tritonrepo_client._wire import Connection

        connection = Connection(silent.getsockname()[:2], time.monotonic() + 5)
        with pytest.raises(TimeoutError):
            connection.send([bytes(100_000_000)], time.monotonic() + 0.3)
        connection.close()
