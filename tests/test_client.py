"""tritonrepo_client against a real server, and what it makes of servers that fail, hang or talk nonsense."""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tritonrepo_client
from conftest import StartTriton, WriteModel, write_python_model
from tritonrepo.runtime import Runtime
from tritonrepo.serve import EmbeddedServer
from tritonrepo_client import (
    AsyncClient,
    AsyncModel,
    Client,
    DeadlineExceeded,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    ServerBusy,
    ServerError,
    ServerUnreachable,
    TritonClientError,
    as_text,
)

DTYPES = (
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
    "BF16",
)

# Tensors pass through as DLPack, without numpy. Parameters tell the model what else to do.
ECHO = """
import json
import time

import triton_python_backend_utils as pb


def output(tensor):
    name = tensor.name().replace("in_", "out_")
    if name.endswith("STRING"):
        return pb.Tensor(name, tensor.as_numpy())
    return pb.Tensor.from_dlpack(name, tensor.to_dlpack())


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        parameters = json.loads(request.parameters() or "{}")
        time.sleep(parameters.get("sleep", 0))
        if parameters.get("fail"):
            words = json.dumps({"id": request.request_id(), **parameters}, sort_keys=True, ensure_ascii=False)
            return pb.InferenceResponse([], pb.TritonError(words))
        wanted = request.requested_output_names()
        outputs = [output(tensor) for tensor in request.inputs()]
        return pb.InferenceResponse([each for each in outputs if each.name() in wanted])
"""


def tensors(*pairs: tuple[str, str, str], extra: str = "") -> str:
    return "".join(
        f'input {{ name: "in_{name}" data_type: TYPE_{dtype} dims: {dims} {extra} }}\n'
        f'output {{ name: "out_{name}" data_type: TYPE_{dtype} dims: {dims} }}\n'
        for name, dtype, dims in pairs
    )


@pytest.fixture(scope="module")
def server(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    repository = tmp_path_factory.mktemp("client") / "models"
    every = tensors(*((dtype, dtype, "[-1]") for dtype in (*DTYPES, "STRING")), extra="optional: true")
    write_python_model(repository, "every", code=ECHO, config=every, max_batch_size=8)
    write_python_model(repository, "flat", code=ECHO, config=tensors(("x", "FP32", "[-1]")))
    write_python_model(repository, "two", code=ECHO, config=tensors(("a", "FP32", "[2, 3]"), ("b", "INT32", "[-1]")))
    queue = "dynamic_batching { default_queue_policy { max_queue_size: 1 } }\n"
    write_python_model(repository, "queue", code=ECHO, config=tensors(("x", "FP32", "[1]")) + queue, max_batch_size=1)
    with EmbeddedServer(repository, runtime=runtime, control="explicit", models=("*",)) as server:
        server.wait_ready(120, probe=False)
        yield server


@pytest.fixture(params=["grpc", "http"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Blocking:
    """An AsyncClient, or what came out of one, that is used as if it were the client for threads."""

    def __init__(self, wrapped: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._wrapped, self._loop = wrapped, loop

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._wrapped, name)
        if name in ("signature", "metadata", "config") and isinstance(self._wrapped, AsyncModel):
            return getattr(self.wait(self._wrapped.contract()), name)
        return self._bound(found) if callable(found) else found

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._bound(self._wrapped)(*args, **options)

    def _bound(self, function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            result = function(*args, **options)
            result = self.wait(result) if inspect.isawaitable(result) else result
            return Blocking(result, self._loop) if callable(result) else result

        return call

    def wait(self, result: Any) -> Any:
        async def run() -> Any:
            return await result

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(60)


@contextmanager
def blocking_client(address: Any, **options: Any) -> Iterator[Any]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    client = Blocking(AsyncClient(address, **options), loop)
    try:
        yield client
    finally:
        client.close()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def any_client(address: Any, mode: str = "threads", **options: Any) -> Iterator[Any]:
    with Client(address, **options) if mode == "threads" else blocking_client(address, **options) as client:
        yield client


@pytest.fixture(params=["threads", "asyncio"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def triton_client(server: EmbeddedServer, transport: str, mode: str) -> Iterator[Any]:
    with any_client(url(server, transport), mode) as client:
        yield client


def url(server: EmbeddedServer, transport: str) -> str:
    return f"{transport}://{server.grpc_url if transport == 'grpc' else server.http_url}"


def numpy_type(dtype: str) -> Any:
    if dtype == "BF16":
        return pytest.importorskip("ml_dtypes").bfloat16
    kinds = {"U": "u", "I": "i", "F": "f"}
    return np.bool_ if dtype == "BOOL" else f"{kinds[dtype[0]]}{int(dtype.lstrip('UINTFP')) // 8}"


# Package


def test_public_names() -> None:
    assert sorted(tritonrepo_client.__all__) == [
        "AsyncClient", "AsyncModel", "BadReply", "Breaker", "CircuitOpen", "Classification", "Client",
        "DeadlineExceeded", "InvalidInput", "Model", "ModelNotFound", "ModelNotReady", "ModelStatus", "Retry",
        "ServerBusy", "ServerError", "ServerUnreachable", "SharedMemoryError", "Signature", "TLS", "TensorSpec",
        "TritonClientError", "as_classes", "as_text",
    ]  # fmt: skip
    assert all(hasattr(tritonrepo_client, name) for name in tritonrepo_client.__all__)


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("pass", ("grpc", "tritonclient", "gevent", "ml_dtypes", "tritonrepo")),
        ("c.Client('http://127.0.0.1:1').close()", ("grpc", "tritonclient", "gevent", "ml_dtypes")),
        ("c.Client('grpc://127.0.0.1:1').close()", ("tritonclient.http", "gevent", "aiohttp")),
    ],
)
def test_imports_are_light(code: str, absent: tuple[str, ...]) -> None:
    script = f"import sys, tritonrepo_client as c; {code}; print([n for n in {absent} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "bad",
    [
        "127.0.0.1:8001", "ftp://host:21", "grpc://host", "http://:8000", "http://host:x", "http://host:99999",
        "grpc://host:8001/path", "http://user:secret@host:8000", "http://host:8000/?q=1", "http://höst:8000",
    ],
)  # fmt: skip
def test_bad_urls_are_refused_with_the_form_that_is_wanted(bad: str) -> None:
    with pytest.raises(ValueError, match="grpc://host:port") as caught:
        Client(bad)
    assert "secret" not in str(caught.value)


# Tensors


@pytest.mark.server
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 3), (1, 1), (8, 5), (2, 0)])
def test_every_dtype_comes_back(triton_client: Client, dtype: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    array = rng.integers(0, 100, shape).astype(numpy_type(dtype))
    out = triton_client.model("every")({f"in_{dtype}": array})
    assert list(out) == [f"out_{dtype}"]
    assert out[f"out_{dtype}"].dtype == array.dtype
    np.testing.assert_array_equal(out[f"out_{dtype}"], array)


@pytest.mark.server
@pytest.mark.parametrize(
    "items",
    [
        [[b"plain", b"", b"\0nul\0\0", bytes(range(256))]],
        [["str", "né", "日本語", "\0"]],
        [[b"long" * 100_000], [b"short"]],
        np.empty((2, 0), np.object_),
        np.array([["unicode", "array"]]),
        np.array([[b"bytes", b"array"]]),
    ],
    ids=["bytes", "str", "long", "empty", "U", "S"],
)
def test_bytes_come_back(triton_client: Client, items: Any) -> None:
    out = triton_client.model("every")({"in_STRING": items})["out_STRING"]
    sent = np.array(items, np.object_)
    want = [item.encode() if isinstance(item, str) else item for item in sent.reshape(-1).tolist()]
    assert out.shape == sent.shape
    assert out.reshape(-1).tolist() == want
    if all(isinstance(item, str) for item in sent.reshape(-1)):
        assert as_text(out).tolist() == sent.tolist()


@pytest.mark.server
def test_layout_does_not_matter(triton_client: Client) -> None:
    a = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    b = np.arange(5, dtype=np.int32)
    model = triton_client.model("two")
    for view in (a[:, :, 1], np.asfortranarray(a[:, :, 1]), a[::-1, :, 1], a[:, :, 1].astype(">f4")):
        out = model({"in_a": view, "in_b": b[::2]})
        np.testing.assert_array_equal(out["out_a"], view)
        np.testing.assert_array_equal(out["out_b"], [0, 2, 4])
    read_only = a[:, :, 1].copy()
    read_only.flags.writeable = False
    np.testing.assert_array_equal(model({"in_a": read_only, "in_b": b})["out_a"], read_only)


@pytest.mark.server
def test_one_array_in_one_array_out(triton_client: Client) -> None:
    flat = triton_client.model("flat")
    x = np.array([1, 2, 3], np.float32)
    np.testing.assert_array_equal(flat(x), x)
    np.testing.assert_array_equal(flat(np.float32(7)), [7])
    assert flat(np.zeros(0, np.float32)).shape == (0,)
    np.testing.assert_array_equal(flat({"in_x": x})["out_x"], x)
    assert not flat(x).flags.writeable


@pytest.mark.server
def test_outputs_are_chosen_by_name(triton_client: Client) -> None:
    model = triton_client.model("two")
    inputs = {"in_a": np.ones((2, 3), np.float32), "in_b": np.array([4], np.int32)}
    assert set(model(inputs)) == {"out_a", "out_b"}
    assert list(model(inputs, outputs=["out_b"])) == ["out_b"]


@pytest.mark.server
@pytest.mark.parametrize(
    ("model", "inputs", "options", "words"),
    [
        ("flat", {"y": np.zeros(1, np.float32)}, {}, r"no input named 'y'; the model is \(in_x: FP32\[-1\]\)"),
        ("flat", {}, {}, "input 'in_x' is missing"),
        ("flat", np.zeros(3), {}, r"'in_x' is float64, and FP32 \(numpy.float32\) is expected"),
        ("flat", np.zeros((1, 3), np.float32), {}, r"has 2 axes \[1, 3\], and 1 are expected \[-1\]"),
        ("flat", [[1.0], [2.0, 3.0]], {}, "does not make an array"),
        ("flat", np.zeros(1, np.float32), {"outputs": ["z"]}, "no output named 'z'"),
        ("flat", np.zeros(1, np.float32), {"outputs": "out_x"}, "give a list of names"),
        ("flat", np.zeros(1, np.float32), {"outputs": ["out_x", "out_x"]}, "twice"),
        ("flat", np.zeros(1, np.float32), {"priority": -1}, "priority -1"),
        ("flat", np.zeros(1, np.float32), {"parameters": {"sequence_id": 1}}, "'sequence_id' is reserved"),
        ("flat", np.zeros(1, np.float32), {"parameters": {"triton_x": 1}}, "'triton_x' is reserved"),
        ("flat", np.zeros(1, np.float32), {"parameters": {"x": [1]}}, "'x' is a list"),
        ("flat", np.zeros(1, np.float32), {"parameters": {"x": 2**63}}, "64 bits"),
        ("flat", np.zeros(1, np.float32), {"version": "one"}, "version 'one' is not a number"),
        ("two", np.zeros(1, np.float32), {}, "2 outputs: name one|2 inputs: give a dict"),
        ("two", {"in_a": np.zeros((2, 4), np.float32), "in_b": np.zeros(1, np.int32)}, {}, "has 4 at axis 1"),
        ("every", {"in_FP32": np.zeros((9, 1), np.float32)}, {"split": False}, "has 9 rows, and 1 to 8 are expected"),
        ("every", {"in_FP32": np.zeros((0, 1), np.float32)}, {}, "has 0 rows"),
        ("every", {"in_FP32": np.ones((2, 1), "f4"), "in_INT8": np.ones((3, 1), "i1")}, {}, "disagree on the batch"),
        ("every", {"in_STRING": [[1]]}, {}, "element of type int; bytes or str is expected"),
        ("every", {"in_STRING": [["\ud800"]]}, {}, "not valid Unicode"),
        ("every", {"in_BF16": np.ones((1, 1), np.float32)}, {}, "uint16 for raw bits"),
    ],
)  # fmt: skip
def test_wrong_input_is_refused_before_sending(
    triton_client: Client, model: str, inputs: Any, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        triton_client.model(model)(inputs, **options)
    assert caught.value.model == model
    assert caught.value.endpoint == triton_client.endpoint


# What servers tell


@pytest.mark.server
def test_the_signature_is_the_same_over_both_transports(server: EmbeddedServer) -> None:
    with Client(url(server, "grpc")) as grpc, Client(url(server, "http")) as http:
        for name in ("every", "flat", "two"):
            ours, theirs = grpc.model(name), http.model(name)
            assert ours.signature == theirs.signature
            assert ours.metadata["inputs"] == theirs.metadata["inputs"]
            differing = {key for key, value in ours.config.items() if covers(theirs.config.get(key), value) is False}
            assert not differing
        assert str(grpc.model("two").signature) == (
            "(in_a: FP32[2, 3], in_b: INT32[-1]) -> (out_a: FP32[2, 3], out_b: INT32[-1])"
        )
        assert "in_BOOL: BOOL[-1, -1] (optional)" in str(grpc.model("every").signature)
        assert grpc.model("every").signature.max_batch_size == 8


def covers(whole: Any, part: Any) -> bool:
    """Whether all that is in ``part`` is in ``whole`` too: gRPC leaves defaults out."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(covers(whole.get(key), value) for key, value in part.items())
    if isinstance(part, list):
        return isinstance(whole, list) and len(part) == len(whole) and all(map(covers, whole, part))
    return bool(whole == part)


@pytest.mark.server
def test_parameters_and_request_id_reach_the_model(triton_client: Client) -> None:
    parameters: dict[str, Any] = {"fail": True, "text": "né", "number": -(2**63), "half": 0.5}
    with pytest.raises(ServerError) as caught:
        triton_client.model("flat")(np.zeros(1, np.float32), parameters=parameters, request_id="id-7", priority=1)
    said = caught.value.detail
    assert json.loads(said[said.index("{") : said.rindex("}") + 1]) == {"id": "id-7", **parameters}
    assert type(caught.value) is ServerError
    assert str(caught.value).startswith(f"{triton_client.endpoint}: model 'flat': [")


@pytest.mark.server
def test_models_and_versions_that_are_not_there(triton_client: Client) -> None:
    x = np.zeros(1, np.float32)
    with pytest.raises(ModelNotFound, match="unknown model: 'nope'") as caught:
        triton_client.model("nope")(x)
    assert (caught.value.model, caught.value.endpoint) == ("nope", triton_client.endpoint)
    with pytest.raises(ModelNotFound, match="version 7"):
        triton_client.model("flat")(x, version="7")
    with pytest.raises(ModelNotFound):
        triton_client.model("flat", "7").signature  # noqa: B018
    np.testing.assert_array_equal(triton_client.model("flat", "1")(x), x)


@pytest.mark.server
def test_readiness(triton_client: Client) -> None:
    assert triton_client.ready()
    triton_client.wait_ready(5)
    triton_client.wait_ready(5, ["flat", "two"])
    assert {(each.name, each.state) for each in triton_client.models()} >= {("flat", "READY"), ("every", "READY")}
    with pytest.raises(DeadlineExceeded, match=r"not ready after 0.2 s: nope is not in the repository"):
        triton_client.wait_ready(0.2, ["flat", "nope"])


@pytest.mark.server
def test_a_model_that_is_unloaded_and_comes_back_different(
    triton: StartTriton, write_model: WriteModel, tmp_path: Path, transport: str
) -> None:
    write_model(tmp_path, "m", code=ECHO, config=tensors(("x", "FP32", "[2]")))
    server = triton(tmp_path, control="explicit", models=("m",), probe=False)
    with Client(url(server, transport)) as client:
        model = client.model("m")
        model(np.zeros(2, np.float32))
        control(server, "m", "unload")
        with pytest.raises(DeadlineExceeded, match="m is UN"):
            client.wait_ready(0.3, ["m"])
        while client.models()[0].state != "UNAVAILABLE":
            time.sleep(0.02)
        with pytest.raises(ModelNotReady):
            model(np.zeros(2, np.float32))
        config = tmp_path / "m" / "config.pbtxt"
        config.write_text(config.read_text().replace("dims: [2]", "dims: [3]"))
        control(server, "m", "load")
        client.wait_ready(20, ["m"])
        assert model(np.zeros(3, np.float32)).shape == (3,)
        with pytest.raises(InvalidInput, match=r"has 2 at axis 0 \[2\], and 3 is expected"):
            model(np.zeros(2, np.float32))


def control(server: EmbeddedServer, model: str, action: str) -> None:
    from urllib.request import Request, urlopen

    with urlopen(Request(f"http://{server.http_url}/v2/repository/models/{model}/{action}", data=b"{}")) as reply:
        assert reply.status == 200


# Deadlines


@pytest.mark.server
def test_a_deadline_that_is_shorter_than_the_model(triton_client: Client) -> None:
    model = triton_client.model("flat")
    x = np.zeros(1, np.float32)
    model(x)
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded) as caught:
        model(x, parameters={"sleep": 0.8}, timeout=0.2)
    assert 0.15 < time.monotonic() - started < 0.7
    assert caught.value.model == "flat"
    np.testing.assert_array_equal(model(x, timeout=math.inf), x)  # and the client is as good as before
    with pytest.raises(DeadlineExceeded):
        model(x, timeout=0)


@pytest.mark.server
def test_a_full_queue_is_the_servers_no(triton_client: Client) -> None:
    model = triton_client.model("queue")
    x = np.zeros((1, 1), np.float32)
    model(x)
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(model, x, parameters={"sleep": 0.3}) for _ in range(8)]
        wait(calls)
    failed = [error for error in (call.exception() for call in calls) if error is not None]
    assert failed
    assert {type(error) for error in failed} == {ServerBusy}


# Threads


@pytest.mark.server
def test_threads_get_their_own_replies(triton_client: Client) -> None:
    model = triton_client.model("flat")

    def work(number: int) -> int:
        rng = np.random.default_rng(number)
        for _ in range(40):
            x = rng.random(int(rng.integers(0, 5000)), np.float32)
            np.testing.assert_array_equal(model(x), x)
        return number

    with ThreadPoolExecutor(32) as pool:
        assert sorted(pool.map(work, range(32))) == list(range(32))


@pytest.mark.server
def test_threads_that_end_leave_no_files_open(triton_client: Client) -> None:
    model = triton_client.model("flat")
    model(np.zeros(1, np.float32))

    def call_in_thread() -> None:
        thread = threading.Thread(target=model, args=(np.zeros(1, np.float32),))
        thread.start()
        thread.join()

    call_in_thread()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(30):
        call_in_thread()
    assert len(os.listdir("/proc/self/fd")) <= before + 2  # noqa: PTH208


@pytest.mark.server
def test_close_ends_the_calls_under_way(server: EmbeddedServer, transport: str) -> None:
    client = Client(url(server, transport))
    model = client.model("flat")
    model(np.zeros(1, np.float32))
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(model, np.zeros(1, np.float32), parameters={"sleep": 3})
        time.sleep(0.2)  # the call is under way: nothing tells when
        started = time.monotonic()
        client.close()
        with pytest.raises(ServerUnreachable):
            call.result()
        assert time.monotonic() - started < 2
    with pytest.raises(ServerUnreachable):
        model(np.zeros(1, np.float32))


def test_after_a_fork_the_client_says_so(transport: str) -> None:
    script = f"""
import os, sys
from tritonrepo_client import Client, TritonClientError
client = Client("{transport}://127.0.0.1:1")
if os.fork() == 0:
    try:
        client.model("m").signature
    except TritonClientError as error:
        os._exit(0 if "fork" in str(error) else 1)
    os._exit(2)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=False).returncode == 0


# Servers that are not


def test_nothing_listens(transport: str, unused_port: int) -> None:
    with Client(f"{transport}://127.0.0.1:{unused_port}") as client:
        assert not client.ready()
        for call in (client.models, lambda: client.model("m").signature, lambda: client.model("m")(1)):
            with pytest.raises(ServerUnreachable, match="refused") as caught:
                call()
            assert caught.value.endpoint == client.endpoint
        with pytest.raises(DeadlineExceeded, match="cannot be reached"):
            client.wait_ready(0.2)


@pytest.mark.server
def test_the_server_is_killed_and_comes_back(
    triton: StartTriton, write_model: WriteModel, tmp_path: Path, transport: str
) -> None:
    write_model(tmp_path, "flat", code=ECHO, config=tensors(("x", "FP32", "[-1]")))
    server = triton(tmp_path, probe=False)
    address = url(server, transport)
    ports = {"http_port": int(server.http_url.split(":")[1]), "grpc_port": int(server.grpc_url.split(":")[1])}
    x = np.arange(3, dtype=np.float32)
    with Client(address) as client:
        model = client.model("flat")
        model(x)
        with ThreadPoolExecutor(4) as pool:
            calls = [pool.submit(model, x, parameters={"sleep": 5.0}) for _ in range(4)]
            while not all(call.running() for call in calls):
                time.sleep(0.01)
            time.sleep(0.2)
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            for call in calls:
                with pytest.raises(ServerUnreachable):
                    call.result(10)
        with pytest.raises(ServerUnreachable):
            model(x)
        server.stop()
        triton(tmp_path, probe=False, **ports)
        client.wait_ready(10)
        np.testing.assert_array_equal(model(x), x)


def test_errors_keep_all_they_say_between_processes() -> None:
    error = ModelNotFound("no such model", model="m", endpoint="http://h:1", status="404")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
    assert str(error) == "http://h:1: model 'm': [404] no such model"


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def all_errors(kind: type[TritonClientError] = TritonClientError) -> Iterator[type[TritonClientError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from all_errors(below)


def test_the_tree_at_the_top_of_errors_is_the_tree() -> None:
    from tritonrepo_client import errors

    drawn = [line.split("─ ")[-1].split()[0] for line in (errors.__doc__ or "").splitlines() if "─ " in line]
    assert drawn == [kind.__name__ for kind in all_errors()][1:]
