"""tritonrepo_client: what calls can be told, TLS, headers, limits, control; mostly against a real server."""

from __future__ import annotations

import gzip
import json
import logging
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from conftest import StartTriton, WriteModel, write_python_model
from test_client import ECHO, any_client, tensors, url
from test_client_wire import GOOD, described, inference, read_request, reply, scripted
from tritonrepo.runtime import Runtime
from tritonrepo.serve import EmbeddedServer
from tritonrepo_client import (
    TLS,
    BadReply,
    Classification,
    Client,
    InvalidInput,
    ModelNotReady,
    ServerError,
    ServerUnreachable,
    Signature,
    TensorSpec,
    as_classes,
)
from tritonrepo_client._pb import decode_infer, decode_stream, encode_infer
from tritonrepo_client.settings import Settings
from tritonrepo_client.tensor import WireTensor
from tritonrepo_client.testing import FakeTriton
from tritonrepo_client.transport import InferRequest, OutputRequest

MODES = pytest.mark.parametrize("mode", ["threads", "asyncio"])
TRANSPORTS = pytest.mark.parametrize("transport", ["grpc", "http"])


@pytest.fixture(scope="module")
def server(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    repository = tmp_path_factory.mktemp("calls") / "models"
    write_python_model(repository, "batch", code=ECHO, config=tensors(("x", "FP32", "[3]")), max_batch_size=4)
    write_python_model(repository, "flat", code=ECHO, config=tensors(("x", "FP32", "[-1]")))
    labels = repository / "batch" / "labels.txt"
    labels.write_text("cat\ndog\ncow:moo\n", encoding="utf-8")
    config = repository / "batch" / "config.pbtxt"
    config.write_text(config.read_text().replace("dims: [3] }", 'dims: [3] label_filename: "labels.txt" }'))
    with EmbeddedServer(repository, runtime=runtime, control="explicit", models=("*",), grace=0.1) as server:
        server.wait_ready(120, probe=False)
        yield server


# Batches


@pytest.mark.server
@pytest.mark.parametrize("rows", [1, 4, 5, 8, 13, 100])
def test_more_rows_than_the_model_takes(triton_client: Any, rows: int) -> None:
    x = np.random.default_rng(rows).random((rows, 3), np.float32)
    np.testing.assert_array_equal(triton_client.model("batch")(x), x)


def test_parts_are_few_even_and_in_order() -> None:
    fake = FakeTriton()
    spec = (TensorSpec("x", "INT32", (-1,)),)
    fake.add("m", Signature(spec, (TensorSpec("y", "INT32", (-1,)),), 4), lambda given: {"y": given["x"] * 2})
    with Client(fake) as client:
        assert client.model("m")(np.arange(9, dtype=np.int32)).tolist() == list(range(0, 18, 2))
        assert sorted(request.inputs[0].shape[0] for request in fake.requests) == [3, 3, 3]
        fake.requests.clear()
        fake.fail(None, ServerError("one part fails"))
        with pytest.raises(ServerError, match="one part fails"):
            client.model("m")(np.arange(9, dtype=np.int32))
        with pytest.raises(InvalidInput, match="has 5 rows, and 1 to 4 are expected"):
            client.model("m")(np.zeros(5, np.int32), split=False)


@pytest.mark.server
def test_without_the_batch_axis(triton_client: Any) -> None:
    x = np.array([1, 2, 3], np.float32)
    model = triton_client.model("batch")
    np.testing.assert_array_equal(model(x, unbatched=True), x)
    np.testing.assert_array_equal(model({"in_x": x}, unbatched=True)["out_x"], x)
    with pytest.raises(InvalidInput, match="has 1 axes"):
        model(x)
    with pytest.raises(InvalidInput, match="no batch axis"):
        triton_client.model("flat")(x, unbatched=True)


# Casts


@pytest.mark.server
@pytest.mark.parametrize("given", [[1, 2.5, -3], np.array([1, 2], np.float16), np.array([1, 2], np.int16), 7, [True]])
def test_casts_that_lose_nothing(triton_client: Any, given: Any) -> None:
    model = triton_client.model("flat")
    np.testing.assert_array_equal(model(given, cast=True), np.atleast_1d(np.asarray(given, np.float32)))
    with pytest.raises(InvalidInput, match="FP32"):
        model(given)


def cast_one(dtype: str, value: Any) -> Any:
    fake = FakeTriton()
    spec = (TensorSpec("x", dtype, (-1,)),)
    fake.add("m", Signature(spec, (TensorSpec("y", dtype, (-1,)),), 0), lambda given: {"y": given["x"]})
    with Client(fake) as client:
        return client.model("m")(value, cast=True)


@pytest.mark.parametrize(
    ("dtype", "value", "words"),
    [
        ("FP32", np.zeros(1), "could lose"),
        ("INT8", np.zeros(1, np.int16), "could lose"),
        ("INT32", [0.5], "could lose"),
        ("UINT8", [-1], "-1, which UINT8 cannot hold"),
        ("INT8", [128], "128, which INT8 cannot hold"),
        ("INT32", [2**40], "cannot hold"),
        ("FP16", [1e6], "cannot hold"),
        ("FP32", ["1"], "could lose"),
        ("BYTES", [1], "bytes or str"),
        ("BOOL", [2], "could lose"),
        ("FP32", np.float64(1), "could lose"),
    ],
)
def test_casts_that_could_lose_are_refused(dtype: str, value: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        cast_one(dtype, value)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("UINT8", [255]), ("FP16", [1.5]), ("FP64", [1]), ("INT64", np.zeros(2, np.uint32)), ("FP32", [])],
)
def test_numbers_without_a_width_take_that_of_the_model(dtype: str, value: Any) -> None:
    np.testing.assert_array_equal(cast_one(dtype, value), value)


# Classes


@pytest.mark.server
def test_classes(triton_client: Any) -> None:
    x = np.array([[0.5, 0.25, 8], [3, 2, 1]], np.float32)
    out = triton_client.model("batch")(x, classes=2)
    assert as_classes(out) == [
        [Classification(8.0, 2, "cow:moo"), Classification(0.5, 0, "cat")],
        [Classification(3.0, 0, "cat"), Classification(2.0, 1, "dog")],
    ]
    out = triton_client.model("flat")({"in_x": x[0]}, outputs=["out_x"], classes=1)["out_x"]
    assert as_classes(out) == [Classification(8.0, 2, "")]


# Prepared requests


@pytest.mark.server
def test_a_prepared_request_is_sent_as_it_was(triton_client: Any) -> None:
    x = np.arange(3, dtype=np.float32)
    again = triton_client.model("flat").prepare(x)
    x[:] = 9
    for _ in range(3):
        np.testing.assert_array_equal(again(), [0, 1, 2])
    many = triton_client.model("batch").prepare({"in_x": np.ones((9, 3), np.float32)}, outputs=["out_x"])
    assert many(timeout=5)["out_x"].shape == (9, 3)
    with pytest.raises(InvalidInput):
        triton_client.model("flat").prepare(np.zeros(3))


# Statistics and control


@pytest.mark.server
def test_what_the_server_tells(triton_client: Any) -> None:
    assert triton_client.metadata()["name"] == "triton"
    model = triton_client.model("flat")
    before = int(model.statistics()[0].get("inference_count", 0))
    model(np.zeros(1, np.float32))
    end = time.monotonic() + 10  # the server counts a request after it has replied
    while int(model.statistics()[0].get("inference_count", 0)) == before and time.monotonic() < end:
        time.sleep(0.01)
    assert int(model.statistics()[0]["inference_count"]) == before + 1
    assert {"flat", "batch"} <= {each["name"] for each in triton_client.statistics()}
    assert model.ready() and not triton_client.model("nope").ready()


@pytest.mark.server
@pytest.mark.parametrize(("transport", "mode"), [("grpc", "threads"), ("http", "asyncio")])
def test_models_are_loaded_and_unloaded(server: EmbeddedServer, transport: str, mode: str) -> None:
    with any_client(url(server, transport), mode) as client:
        name = f"extra_{transport}_{mode}"
        write_python_model(server.repository, name, code=ECHO, config=tensors(("x", "FP32", "[2]")))
        client.load(name)
        model = client.model(name)
        assert model(np.zeros(2, np.float32)).shape == (2,)
        config = {
            "name": name, "backend": "python",
            "input": [{"name": "in_x", "data_type": "TYPE_FP32", "dims": [5]}],
            "output": [{"name": "out_x", "data_type": "TYPE_FP32", "dims": [5]}],
        }  # fmt: skip
        client.load(name, config=json.dumps(config))
        assert model(np.zeros(5, np.float32)).shape == (5,)
        client.unload(name)
        with pytest.raises(ModelNotReady):
            for _ in range(100):
                model(np.zeros(5, np.float32))
        with pytest.raises(ServerError):
            client.load("not there")


# Compression, sizes, headers


@pytest.mark.server
@TRANSPORTS
@MODES
@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_compressed_both_ways(server: EmbeddedServer, transport: str, mode: str, compression: Any) -> None:
    x = np.zeros(100_000, np.float32)
    with any_client(url(server, transport), mode, compression=compression) as client:
        np.testing.assert_array_equal(client.model("flat")(x), x)


def test_a_request_over_http_is_compressed_and_so_may_the_reply_be() -> None:
    seen: list[bytes] = []

    def script(connection: socket.socket) -> None:
        body = gzip.compress(GOOD.encode())
        connection.sendall(reply(body, headers="Content-Encoding: gzip\r\n"))

    @contextmanager
    def recording() -> Iterator[str]:
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def serve() -> None:
                connection, _ = listener.accept()
                with connection:
                    seen.append(read_request(connection))
                    script(connection)

            thread = threading.Thread(target=serve)
            thread.start()
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            thread.join()

    with recording() as address, Client(address, compression="gzip", headers={"X-Team": "a"}, token="t0k") as client:  # noqa: S106
        assert [each.name for each in client.models()] == ["m"]
    head = seen[0].decode()
    assert "Accept-Encoding: gzip\r\n" in head and "x-team: a\r\n" in head
    assert head.endswith("authorization: Bearer t0k") or "authorization: Bearer t0k\r\n" in head


@pytest.mark.parametrize(
    "body",
    [b"no gzip at all", gzip.compress(b"[]")[:-9], gzip.compress(b" " * 3_000_000)],
    ids=["no gzip", "cut", "too large"],  # what is compressed has the time in it
)
def test_compressed_replies_that_are_none(body: bytes) -> None:
    said = reply(body, headers="Content-Encoding: gzip\r\n")
    words = r"cannot be read|no end|bytes that are allowed"
    with (
        scripted(said) as address,
        Client(address, compression="gzip", max_message_bytes=1_000_000) as client,
        pytest.raises(BadReply, match=words),
    ):
        client.models()


@pytest.mark.server
@TRANSPORTS
@MODES
def test_sizes_have_a_limit(server: EmbeddedServer, transport: str, mode: str) -> None:
    with any_client(url(server, transport), mode, max_message_bytes=10_000) as client:
        model = client.model("flat")
        assert model(np.zeros(2000, np.float32)).shape == (2000,)
        with pytest.raises(InvalidInput, match="40000 bytes, and max_message_bytes is 10000"):
            model(np.zeros(10_000, np.float32))


def test_a_reply_larger_than_allowed() -> None:
    said = inference(described(size=1_000_000, shape=[250_000]), bytes(1_000_000))
    metadata = reply(json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}], "outputs": [
        {"name": "y", "datatype": "FP32", "shape": [-1]}]}))  # fmt: skip
    with (
        scripted(metadata, reply("{}"), said) as address,
        Client(address, max_message_bytes=10_000) as client,
        pytest.raises(BadReply, match="bytes that are allowed"),
    ):
        client.model("m")(np.zeros(1, np.float32))


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"a b": "c"}}, {"headers": {"x": "a\r\nHost: b"}}, {"headers": {"Content-Length": "5"}},
        {"headers": {"": "x"}}, {"headers": {"x": "é"}}, {"token": "a\nb"}, {"compression": "br"}, {"concurrency": 0},
        {"max_message_bytes": 0}, {"connect_timeout": 0}, {"timeout": float("nan")},
    ],
)  # fmt: skip
def test_settings_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        Client("http://127.0.0.1:1", **options)
    assert "Host" not in str(caught.value)


def test_secrets_are_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(token="s3cret", headers={"x-key": "s3cret"})  # noqa: S106
    assert "s3cret" not in repr(settings)
    caplog.set_level(logging.DEBUG)
    with Client("http://127.0.0.1:1", token="s3cret", headers={"x-key": "s3cret"}) as client:  # noqa: S106
        with pytest.raises(ServerUnreachable) as caught:
            client.models()
        assert "s3cret" not in repr(client) + str(caught.value) + caplog.text
        assert "trying again" in caplog.text


@MODES
def test_headers_of_one_request_and_fresh_tokens(mode: str) -> None:
    tokens = iter(["first", "second", "third"])
    fake_reply = inference(described(), np.array([1.5], "<f4").tobytes())
    metadata = reply(json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}], "outputs": [
        {"name": "y", "datatype": "FP32", "shape": [1]}]}))  # fmt: skip
    heads: list[str] = []
    replies = [metadata, reply("{}"), fake_reply]
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                for each in replies:
                    heads.append(read_request(connection).decode())
                    connection.sendall(each)

        thread = threading.Thread(target=serve)
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with any_client(address, mode, token=lambda: next(tokens)) as client:
            client.model("m")(np.zeros(1, np.float32), headers={"x-request": "7"})
            with pytest.raises(InvalidInput, match="printable ASCII"):
                client.model("m")(np.zeros(1, np.float32), headers={"x-request": "7\r\n"})
        thread.join()
    assert ["Bearer " + each in head for each, head in zip(["first", "second", "third"], heads, strict=True)] == [
        True
    ] * 3
    assert "x-request: 7" in heads[2] and "x-request" not in heads[1]


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem; server.pem and client.pem, signed by it, with their keys; other.pem, a CA that signed nothing."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "rsa:2048", "-nodes")
    for name in ("ca", "other"):
        subject = ("-subj", f"/CN={name}", "-addext", "basicConstraints=critical,CA:TRUE", "-days", "2")
        openssl("req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.pem", *subject)
    for name in ("server", "client"):
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / "ext").write_text("subjectAltName=DNS:localhost,DNS:triton.test\n")
        signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "ext", "-days", "2")
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signing)
    return folder


@contextmanager
def tls_proxy(target: str, certificates: Path, *, mutual: bool) -> Iterator[int]:
    """A port that takes TLS off and passes the bytes on: what stands before Triton's HTTP in production."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    if mutual:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates / "ca.pem")
    host, port = target.split(":")
    threads: list[threading.Thread] = []

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while block := source.recv(65536):
                sink.sendall(block)
        except OSError:
            pass
        finally:
            for each in (source, sink):
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def serve(plain: socket.socket) -> None:
        with plain:
            try:
                secure = context.wrap_socket(plain, server_side=True)
            except OSError:
                return
            with secure, socket.create_connection((host, int(port))) as backend:
                back = threading.Thread(target=pump, args=(backend, secure))
                back.start()
                pump(secure, backend)
                back.join()

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(connection,)))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        acceptor = threading.Thread(target=accept)
        acceptor.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        acceptor.join()
    for thread in threads:
        thread.join(10)


@pytest.mark.server
@MODES
@pytest.mark.parametrize("mutual", [False, True])
def test_https(server: EmbeddedServer, certificates: Path, mode: str, mutual: bool) -> None:
    with tls_proxy(server.http_url, certificates, mutual=mutual) as port:
        check_tls(f"https://localhost:{port}", certificates, mode, mutual=mutual)


@pytest.mark.server
@pytest.mark.parametrize("mutual", [False, True])
def test_grpcs(triton: StartTriton, write_model: WriteModel, tmp_path: Path, certificates: Path, mutual: bool) -> None:
    write_model(tmp_path / "models", "flat", code=ECHO, config=tensors(("x", "FP32", "[-1]")))
    extra = ["--grpc-use-ssl=1", f"--grpc-server-cert={certificates}/server.pem"]
    extra += [f"--grpc-server-key={certificates}/server.key", f"--grpc-root-cert={certificates}/ca.pem"]
    server = triton(
        tmp_path / "models", probe=False, extra_args=[*extra, *(["--grpc-use-ssl-mutual=1"] if mutual else [])]
    )
    port = server.grpc_url.split(":")[1]
    for mode in ("threads", "asyncio"):
        check_tls(f"grpcs://localhost:{port}", certificates, mode, mutual=mutual)


def check_tls(address: str, certificates: Path, mode: str, *, mutual: bool) -> None:
    x = np.random.default_rng(0).random(200_000, np.float32)
    own: dict[str, Any] = {"cert": certificates / "client.pem", "key": certificates / "client.key"} if mutual else {}
    trusting = TLS(ca=certificates / "ca.pem", **own)
    with any_client(address, mode, tls=trusting) as client:
        np.testing.assert_array_equal(client.model("flat")(x), x)
        np.testing.assert_array_equal(client.model("flat")(x[:3]), x[:3])
    by_number = address.replace("localhost", "127.0.0.1")
    named = TLS(ca=certificates / "ca.pem", server_name="triton.test", **own)
    with any_client(by_number, mode, tls=named) as client:
        np.testing.assert_array_equal(client.model("flat")(x[:3]), x[:3])
    wrong = [TLS(ca=certificates / "other.pem", **own), TLS(ca=certificates / "ca.pem", server_name="else.test", **own)]
    if mutual:
        wrong.append(TLS(ca=certificates / "ca.pem"))
    for tls in wrong:
        with any_client(address, mode, tls=tls, timeout=10, connect_timeout=2) as client:
            with pytest.raises(ServerUnreachable) as caught:
                client.model("flat")(x[:3])
            assert caught.value.endpoint == address


def test_tls_files_that_are_none(certificates: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no file"):
        TLS(ca=tmp_path / "missing.pem")
    with pytest.raises(ValueError, match="both"):
        TLS(cert=certificates / "client.pem")
    (tmp_path / "bad.pem").write_text("not a certificate")
    for scheme in ("https", "grpcs"):
        with pytest.raises(ValueError, match="cannot be used"):
            Client(f"{scheme}://localhost:1", tls=TLS(ca=tmp_path / "bad.pem"))


# The messages of gRPC, against protobuf itself

INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(max_size=20).filter(lambda text: "\ud800" not in text)


@settings(deadline=None)  # a busy machine is no failure
@given(
    model=TEXT, version=TEXT, identity=TEXT, priority=st.integers(0, 2**64 - 1), timeout=st.integers(0, 2**40),
    shape=st.lists(st.integers(-1, 2**40), max_size=4), data=st.binary(max_size=300), region=TEXT,
    parameters=st.dictionaries(TEXT, TEXT | st.booleans() | INT64 | st.floats(allow_nan=False), max_size=4),
    sequence=st.none() | st.tuples(st.integers(1, 2**64 - 1) | TEXT, st.booleans(), st.booleans()),
    classes=st.integers(0, 10),
)  # fmt: skip
def test_what_is_written_is_what_protobuf_reads(
    model: str, version: str, identity: str, priority: int, timeout: int, shape: list[int], data: bytes, region: str,
    parameters: dict[str, Any], sequence: Any, classes: int,
) -> None:  # fmt: skip
    own = {"priority", "timeout", "sequence_id", "sequence_start", "sequence_end"}
    parameters = {name: value for name, value in parameters.items() if name not in own}
    tensor = WireTensor("in", "FP32", tuple(shape), data)
    shared = WireTensor("shm", "INT8", (1,), b"", region, 12, 4)
    inputs = (tensor, shared) if region else (tensor,)
    outputs = ("out", OutputRequest("top", classes))
    written = encode_infer(
        InferRequest(model, version, inputs, outputs, identity, priority, parameters, timeout, (), sequence)
    )
    read = service_pb2.ModelInferRequest.FromString(written)
    assert (read.model_name, read.model_version, read.id) == (model, version, identity)
    assert next((each.name, each.datatype, tuple(each.shape)) for each in read.inputs) == ("in", "FP32", tuple(shape))
    assert list(read.raw_input_contents) == [data]
    if region:
        where = dict(read.inputs[1].parameters)
        assert where["shared_memory_region"].string_param == region
        assert (where["shared_memory_byte_size"].int64_param, where["shared_memory_offset"].int64_param) == (12, 4)
    assert [each.name for each in read.outputs] == ["out", "top"]
    assert read.outputs[1].parameters["classification"].int64_param == classes
    found = {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in read.parameters.items()}
    wanted = {**parameters, **({"priority": priority} if priority else {}), **({"timeout": timeout} if timeout else {})}
    if sequence is not None:
        wanted.update(zip(("sequence_id", "sequence_start", "sequence_end"), sequence, strict=True))
        if isinstance(found["sequence_id"], int):
            found["sequence_id"] %= 2**64
    assert found == wanted
    assert {name: type(value) for name, value in found.items()} == {name: type(value) for name, value in wanted.items()}


@settings(deadline=None)  # a busy machine is no failure
@given(
    shapes=st.lists(st.lists(st.integers(-1, 2**33), max_size=4), max_size=3), data=st.binary(max_size=300),
    version=TEXT, identity=TEXT, number=st.integers(-(2**63), 2**63 - 1), text=TEXT, real=st.floats(allow_nan=False),
)  # fmt: skip
def test_what_protobuf_writes_is_what_is_read(
    shapes: list[list[int]], data: bytes, version: str, identity: str, number: int, text: str, real: float
) -> None:
    message = service_pb2.ModelInferResponse(model_name="m", model_version=version, id=identity)
    for index, shape in enumerate(shapes):
        message.outputs.add(name=f"out{index}", datatype="FP32", shape=shape)
        message.raw_output_contents.append(data * index)
    message.parameters["flag"].bool_param = True
    message.parameters["number"].int64_param = number
    message.parameters["text"].string_param = text
    message.parameters["real"].double_param = real
    read = decode_infer(message.SerializeToString())
    assert (read.model_version, read.request_id) == (version, identity)
    assert read.parameters == {"flag": True, "number": number, "text": text, "real": real}
    assert [(each.name, each.dtype, each.shape, bytes(each.data)) for each in read.outputs] == [
        (f"out{index}", "FP32", tuple(shape), data * index) for index, shape in enumerate(shapes)
    ]
    stream = service_pb2.ModelStreamInferResponse(error_message=text, infer_response=message)
    assert decode_stream(stream.SerializeToString()) == (text, read)


@settings(deadline=None)  # a busy machine is no failure
@given(garbage=st.binary(max_size=200))
def test_bytes_that_are_no_message(garbage: bytes) -> None:
    for decoder in (decode_infer, decode_stream):
        with suppress(ValueError):
            decoder(garbage)


@settings(deadline=None)  # a busy machine is no failure
@given(cut=st.integers(0, 60), flip=st.integers(0, 255), at=st.integers(0, 60))
def test_messages_that_were_damaged(cut: int, flip: int, at: int) -> None:
    message = service_pb2.ModelInferResponse(model_name="m", model_version="1")
    message.outputs.add(name="out", datatype="FP32", shape=[2, 300])
    message.raw_output_contents.append(bytes(30))
    data = bytearray(message.SerializeToString())
    data[at % len(data)] ^= flip
    for damaged in (bytes(data), bytes(data[:cut])):
        with suppress(ValueError):
            decode_infer(damaged)


# The fake


@MODES
def test_the_fake_serves_functions(mode: str) -> None:
    fake = FakeTriton()
    spec = (TensorSpec("x", "FP32", (-1, 2)),)
    fake.add(
        "m",
        Signature(spec, (TensorSpec("y", "FP32", (-1, 1)),), 4),
        lambda given: {"y": given["x"].sum(1, keepdims=True)},
    )
    with any_client(fake, mode) as client:
        assert client.model("m")(np.ones((2, 2), np.float32)).tolist() == [[2], [2]]
        assert client.ready() and client.model("m").ready()
        fake.fail(ServerError("the model threw"))
        with pytest.raises(ServerError, match="fake://triton: model 'm': the model threw"):
            client.model("m")(np.ones((2, 2), np.float32))
        client.unload("m")
        with pytest.raises(ModelNotReady):
            client.model("m")(np.ones((2, 2), np.float32))
        client.load("m")
        assert client.models()[0].state == "READY"
        assert [request.model for request in fake.requests] == ["m", "m"]


def test_a_transport_for_asyncio_is_refused_by_the_client_for_threads() -> None:
    import asyncio

    class Waiting(FakeTriton):
        async def ask(self, question: str, arguments: Any, deadline: float | None) -> Any:
            await asyncio.sleep(0)

    with Client(Waiting()) as client, pytest.raises(RuntimeError, match="AsyncClient"):
        client.models()
