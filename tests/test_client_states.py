"""tritonrepo_client: shared memory, streams, sequences and cancellation, against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import write_python_model
from test_client import ECHO, any_client, tensors, url
from tritonrepo.runtime import Runtime
from tritonrepo.serve import EmbeddedServer
from tritonrepo_client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    InvalidInput,
    ServerError,
    SharedMemoryError,
    Signature,
    TensorSpec,
)
from tritonrepo_client._regions import FOLDER, PREFIX, Region, abandoned
from tritonrepo_client.testing import FakeTriton
from tritonrepo_client.transport import drive

# Every client looks for what others left in the machine's shared memory: not beside another test that does.
pytestmark = pytest.mark.xdist_group("shared-memory")
MODES = pytest.mark.parametrize("mode", ["threads", "asyncio"])
TRANSPORTS = pytest.mark.parametrize("transport", ["grpc", "http"])

# As many replies as the first number says, with 0, 1, 2 ...; a file tells that the request was cancelled.
COUNT = """
import json, pathlib, time
import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            parameters = json.loads(request.parameters() or "{}")
            for number in range(int(request.inputs()[0].as_numpy().flat[0])):
                if number == parameters.get("fail_at", -1):
                    sender.send(pb.InferenceResponse([], pb.TritonError("no more of these")))
                    break
                if request.is_cancelled():
                    pathlib.Path(parameters["told"]).write_text("cancelled")
                    break
                sender.send(pb.InferenceResponse([pb.Tensor("y", np.array([number], np.int32))]))
                time.sleep(parameters.get("sleep", 0))
            sender.send(flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        return None
"""

COUNT_CONFIG = """
input { name: "x" data_type: TYPE_INT32 dims: [1] }
output { name: "y" data_type: TYPE_INT32 dims: [1] }
model_transaction_policy { decoupled: true }
"""

# Gives the sum of all numbers of the sequence, whether this is its start and its end, and its id.
SUM = """
import numpy as np
import triton_python_backend_utils as pb

sums, ended = {}, []


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        given = {tensor.name(): tensor.as_numpy().flat[0] for tensor in request.inputs()}
        if given["x"] < 0:
            return pb.InferenceResponse([], pb.TritonError("no negative numbers"))
        key = int(given["id"])
        if not key:  # a slot without a sequence, which the server fills a batch with
            return pb.InferenceResponse([pb.Tensor("y", np.zeros((1, 5), np.int64))])
        sums[key] = (0 if given["start"] else sums[key]) + int(given["x"])
        row = [sums[key], int(given["start"]), int(given["end"]), key, len(ended)]
        if given["end"]:
            ended.append(key)
            del sums[key]
        return pb.InferenceResponse([pb.Tensor("y", np.array([row], np.int64))])
"""
SUM_CONFIG = """
input { name: "x" data_type: TYPE_INT32 dims: [1] }
output { name: "y" data_type: TYPE_INT64 dims: [5] }
sequence_batching {
  max_sequence_idle_microseconds: 60000000
  control_input { name: "start" control { kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] } }
  control_input { name: "end" control { kind: CONTROL_SEQUENCE_END int32_false_true: [0, 1] } }
  control_input { name: "id" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } }
}
"""
WAIT = """
import json, pathlib, time
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            parameters = json.loads(request.parameters() or "{}")
            for _ in range(int(parameters.get("sleep", 0) / 0.02)):
                if request.is_cancelled():
                    pathlib.Path(parameters["told"]).write_text("cancelled")
                    break
                time.sleep(0.02)
        return [pb.InferenceResponse([pb.Tensor("y", request.inputs()[0].as_numpy())]) for request in requests]
"""


@pytest.fixture(scope="module")
def server(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    repository = tmp_path_factory.mktemp("states") / "models"
    mixed = tensors(("a", "FP32", "[-1, 4]"), ("b", "INT8", "[-1]"), ("STRING", "STRING", "[-1]"))
    write_python_model(repository, "fixed", code=ECHO, config=tensors(("x", "FP16", "[2, 3]")), max_batch_size=8)
    write_python_model(repository, "open", code=ECHO, config=mixed.replace("[-1]  }", "[-1] optional: true }"))
    write_python_model(repository, "wait", code=WAIT)
    counting = (
        'input { name: "x" data_type: TYPE_INT32 dims: [1] } output { name: "y" data_type: TYPE_INT32 dims: [1] }'
    )
    decoupled = counting + "\nmodel_transaction_policy { decoupled: true }"
    write_python_model(repository, "count", code=COUNT, config=decoupled)
    write_python_model(repository, "sum", code=SUM, config=SUM_CONFIG, max_batch_size=4)
    with EmbeddedServer(repository, runtime=runtime, control="explicit", models=("*",), grace=0.1) as server:
        server.wait_ready(120, probe=False)
        yield server


def core_of(client: Any) -> Any:
    return getattr(client, "_core", None) or client._wrapped._core


def regions(server: EmbeddedServer) -> set[str]:
    """What is registered, as another client sees it."""
    with Client(url(server, "http")) as client:
        return {entry["name"] for entry in drive(client._core.ask("system_status", {}, None))}


def files() -> set[str]:
    return {path.name for path in FOLDER.glob(f"{PREFIX}{os.getpid()}-*")}


# Shared memory


@pytest.mark.server
def test_tensors_in_shared_memory(server: EmbeddedServer, triton_client: Any) -> None:
    bound = triton_client.model("fixed").bind(shared=True, rows=2)
    (name,) = files()
    assert regions(server) == {name}
    x = np.arange(12, dtype=np.float16).reshape(2, 2, 3)
    bound.inputs["in_x"][...] = x
    out = bound()["out_x"]
    np.testing.assert_array_equal(out, x)
    assert not out.flags.writeable and out.dtype == np.float16
    bound({"in_x": x + 1})
    np.testing.assert_array_equal(out, x + 1)  # a view: no copy was made
    for _ in range(20):
        bound()
    bound.close()
    assert not regions(server) and not files()
    np.testing.assert_array_equal(out, x + 1)  # and it outlives the lease
    with pytest.raises(InvalidInput, match="is closed"):
        bound()


@pytest.mark.server
def test_open_shapes_and_what_cannot_be_shared(triton_client: Any) -> None:
    model = triton_client.model("open")
    a = np.random.default_rng(0).random((5, 4), np.float32)
    b = np.arange(7, dtype=np.int8)
    bound = model.bind({"in_a": a}, outputs={"out_a": (5, 4)})
    np.testing.assert_array_equal(bound()["out_a"], a)
    with pytest.raises(InvalidInput, match="has no place in this memory"):
        bound({"in_b": b})
    with pytest.raises(InvalidInput, match=r"shape \[4, 4\], and it was bound with \[5, 4\]"):
        bound({"in_a": a[:4]})
    with pytest.raises(InvalidInput, match="float64, and FP32"):
        bound({"in_a": a.astype(float)})
    bound.close()
    bound = model.bind({"in_a": a, "in_b": b}, outputs={"out_a": (9, 4)})
    out = bound({"in_a": a * 2})  # out_a is smaller than its place, out_b comes over the wire
    np.testing.assert_array_equal(out["out_a"], a * 2)
    np.testing.assert_array_equal(out["out_b"], b)
    bound.close()
    bound = model.bind({"in_a": a}, outputs={"out_a": (1, 4)})
    with pytest.raises(ServerError, match="shared memory"):
        bound()  # larger than its place
    bound.close()
    for options, words in (
        ({}, "shape of input 'in_a' is open"),
        ({"shapes": {"in_a": (2, 3)}}, "has 3 at axis 1"),
        ({"shapes": {"in_a": (2, 4), "nope": (1,)}}, "no input or output named 'nope'"),
        ({"shapes": {"in_a": (2, 4), "in_STRING": (1,)}}, "BYTES"),
        ({"shared": False}, "prepare"),
    ):
        with pytest.raises(InvalidInput, match=words):
            model.bind(**options)
    assert not files()


@pytest.mark.server
@TRANSPORTS
def test_memory_is_never_taken_from_a_request(server: EmbeddedServer, transport: str) -> None:
    with Client(url(server, transport)) as client:
        model = client.model("wait")
        bound = model.bind({"x": np.ones(3, np.float32)}, outputs={"y": (3,)})
        bound._lease._request = bound._lease._request._replace(parameters={"sleep": 0.6})
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(bound)
            time.sleep(0.2)  # under way: nothing tells when
            with pytest.raises(InvalidInput, match="another request uses this memory"):
                bound()
            bound.close()
            assert regions(server) and files()
            np.testing.assert_array_equal(call.result()["y"], np.ones(3))
        assert not regions(server) and not files()


@pytest.mark.server
@TRANSPORTS
@MODES
def test_after_a_deadline_the_memory_is_not_used_again(server: EmbeddedServer, transport: str, mode: str) -> None:
    with any_client(url(server, transport), mode) as client:
        bound = client.model("wait").bind({"x": np.ones(3, np.float32)}, outputs={"y": (3,)})
        lease = (bound._wrapped if mode == "asyncio" else bound)._lease
        request = lease._request
        lease._request = request._replace(parameters={"sleep": 0.5, "told": os.devnull}, encoded={})
        with pytest.raises(DeadlineExceeded):
            bound(timeout=0.1)
        with pytest.raises(InvalidInput, match=r"renew\(\)"):
            bound()
        bound.renew()
        np.testing.assert_array_equal(bound({"x": np.full(3, 2, np.float32)})["y"], [2, 2, 2])
        bound.close()
    assert not regions(server) and not files()


@pytest.mark.server
def test_clients_that_were_killed_leave_nothing(server: EmbeddedServer) -> None:
    script = f"""
import os, signal, numpy as np
from tritonrepo_client import Client
client = Client("{url(server, "grpc")}")
bound = client.model("fixed").bind(rows=1)
bound()
print(next(iter(bound._lease.inputs)), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "in_x\n"), done.stderr
    (left,) = regions(server)
    assert (FOLDER / left).exists() and abandoned(left)
    with Client(url(server, "http")) as client:
        living = client.model("fixed").bind(rows=1)  # cleans up
        assert regions(server) == files() and left not in files() and not (FOLDER / left).exists()
        assert client.clean_shared_memory() == 0  # and leaves the living alone
        living()
        living.close()


@pytest.mark.server
@pytest.mark.parametrize("how", ["forgotten", "at exit", "client closed", "forked"])
def test_leases_end_with_what_holds_them(server: EmbeddedServer, how: str) -> None:
    ends = {
        "forgotten": "del bound; gc.collect(); print(len(status()), flush=True); os._exit(0)",
        "at exit": "print(0)",
        "client closed": "client.close(); client = Client(address); print(len(status()), flush=True); os._exit(0)",
        "forked": "if os.fork() == 0: sys.exit()\nos.wait(); print(len(status()) - 1); bound()",
    }
    script = f"""
import gc, os, sys, warnings
warnings.simplefilter("ignore")
from tritonrepo_client import Client
from tritonrepo_client.transport import drive
address = "{url(server, "http")}"
client = Client(address)
status = lambda: drive(client._core.ask("system_status", {{}}, None))
bound = client.model("fixed").bind(rows=1)
bound()
{ends[how]}
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as done:
        out, err = done.communicate()
    assert (done.returncode, out) == (0, "0\n"), err
    assert not regions(server)
    assert not list(FOLDER.glob(f"{PREFIX}{done.pid}-*"))


@pytest.mark.server
def test_a_region_that_the_server_lost_is_registered_again(server: EmbeddedServer, triton_client: Any) -> None:
    bound = triton_client.model("fixed").bind(rows=1)
    with Client(url(server, "http")) as other:
        for name in regions(server):
            drive(other._core.ask("system_unregister", {"region": name}, None))
    assert bound({"in_x": np.ones((1, 2, 3), np.float16)})["out_x"].sum() == 6
    bound.close()
    assert not regions(server)


def test_memory_that_cannot_be_had() -> None:
    with pytest.raises(SharedMemoryError, match="no 1000000000000000 bytes"):
        Region(10**15)
    assert not files()
    fake = FakeTriton()
    spec = (TensorSpec("x", "FP32", (2,)),)
    fake.add("m", Signature(spec, (TensorSpec("y", "FP32", (2,)),), 0), lambda given: {"y": given["x"]})

    class Remote(FakeTriton):
        async def ask(self, question: str, arguments: Any, deadline: float | None) -> Any:
            if question == "system_register":
                raise ServerError(f"Unable to open shared memory region: '{arguments['key']}'")
            return await fake.ask(question, arguments, deadline)

    with Client(Remote()) as client, pytest.raises(SharedMemoryError, match="must run on this host"):
        client.model("m").bind()
    assert not files()


# Streams


@pytest.mark.server
@MODES
def test_streams(server: EmbeddedServer, mode: str) -> None:
    async def with_asyncio(number: int, **options: Any) -> list[int]:
        async with AsyncClient(url(server, "grpc")) as client:
            stream = client.model("count").stream(np.array([number], np.int32), **options)
            return [int(reply["y"][0]) async for reply in stream]

    def count(number: int, **options: Any) -> list[int]:
        if mode == "asyncio":
            return asyncio.run(with_asyncio(number, **options))
        with Client(url(server, "grpc")) as client:
            stream = client.model("count").stream({"x": np.array([number], np.int32)}, **options)
            return [int(reply["y"][0]) for reply in stream]

    assert count(5) == [0, 1, 2, 3, 4]
    assert count(0) == []
    with pytest.raises(ServerError, match="no more of these"):
        count(5, parameters={"fail_at": 2})
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        count(100, parameters={"sleep": 0.1, "told": os.devnull}, timeout=0.3)
    assert time.monotonic() - started < 2
    with pytest.raises(InvalidInput, match="no output named 'z'"):
        count(5, outputs=["z"])


@pytest.mark.server
def test_streams_need_grpc_and_decoupled_models_streams(server: EmbeddedServer) -> None:
    x = np.array([2], np.int32)
    for transport in ("grpc", "http"):
        with Client(url(server, transport)) as client, pytest.raises(InvalidInput, match=r"use stream\(\)"):
            client.model("count")(x)
    with Client(url(server, "http")) as client, pytest.raises(InvalidInput, match="need gRPC"):
        list(client.model("count").stream(x))
    with Client(url(server, "grpc")) as client:
        assert [reply["y"].tolist() for reply in client.model("wait").stream(np.ones(2, np.float32))] == [[1, 1]]


@pytest.mark.server
@MODES
def test_leaving_a_stream_cancels_it_at_the_server(server: EmbeddedServer, tmp_path: Path, mode: str) -> None:
    told = tmp_path / "told"
    x = np.array([500], np.int32)
    parameters: dict[str, Any] = {"sleep": 0.02, "told": str(told)}

    async def with_asyncio() -> None:
        async with AsyncClient(url(server, "grpc")) as client:
            stream = client.model("count").stream(x, parameters=parameters)
            async with contextlib.aclosing(stream):
                async for reply in stream:
                    if reply["y"][0] == 3:
                        break

    if mode == "asyncio":
        asyncio.run(with_asyncio())
    else:
        with Client(url(server, "grpc")) as client:
            for reply in client.model("count").stream(x, parameters=parameters):
                if reply["y"][0] == 3:
                    break
    assert written(told)


@pytest.mark.server
def test_many_streams_at_once(server: EmbeddedServer) -> None:
    with Client(url(server, "grpc")) as client, ThreadPoolExecutor(8) as pool:
        model = client.model("count")

        def count(number: int) -> int:
            return len(list(model.stream(np.array([number], np.int32))))

        assert list(pool.map(count, range(40))) == list(range(40))


def written(path: Path, seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if path.exists():
            return True
        time.sleep(0.02)
    return False


# Cancellation


@pytest.mark.server
def test_a_task_that_is_cancelled_cancels_its_request(server: EmbeddedServer, tmp_path: Path) -> None:
    told = tmp_path / "told"

    async def run() -> None:
        async with AsyncClient(url(server, "grpc")) as client:
            model = client.model("wait")
            x = np.ones(1, np.float32)
            await model(x)
            task = asyncio.ensure_future(model(x, parameters={"sleep": 8, "told": str(told)}))
            await asyncio.sleep(0.3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            np.testing.assert_array_equal(await model(x), x)

    started = time.monotonic()
    asyncio.run(run())
    assert written(told)
    assert time.monotonic() - started < 6


@pytest.mark.server
@MODES
def test_a_deadline_cancels_the_request_at_the_server(server: EmbeddedServer, tmp_path: Path, mode: str) -> None:
    told = tmp_path / "told"
    with any_client(url(server, "grpc"), mode) as client:
        with pytest.raises(DeadlineExceeded):
            client.model("wait")(np.ones(1, np.float32), parameters={"sleep": 8, "told": str(told)}, timeout=0.3)
        assert written(told)


# Sequences


@pytest.mark.server
def test_sequences(triton_client: Any) -> None:
    model = triton_client.model("sum")
    with block(model.sequence()) as first, block(model.sequence()) as second:
        rows = [call(np.array([[x]], np.int32))[0].tolist() for x in (5, 7) for call in (first, second)]
        sums, starts, ends, ids, _ = zip(*rows, strict=True)
        assert (sums, starts, ends) == ((5, 5, 12, 12), (1, 1, 0, 0), (0, 0, 0, 0))
        assert ids[0] == ids[2] != ids[1] == ids[3]
        last = first({"x": np.array([[1]], np.int32)}, last=True)["y"][0]
        assert last[:4].tolist() == [13, 0, 1, ids[0]]
        ended = int(last[4])
        with pytest.raises(InvalidInput, match="has ended"):
            first(np.array([[1]], np.int32))
    with block(model.sequence(4711)) as third:  # the second was ended when its block was left
        row = third(np.array([[1]], np.int32))[0]
        assert row.tolist() == [1, 1, 0, 4711, ended + 2]


@pytest.mark.server
def test_sequences_after_errors(triton_client: Any) -> None:
    one = np.array([[1]], np.int32)
    with block(triton_client.model("sum").sequence()) as sequence:
        with pytest.raises(InvalidInput):
            sequence(np.array([1.0]))
        assert sequence(one)[0].tolist()[:2] == [1, 1]  # what was refused here did not start it
        with pytest.raises(ServerError, match="no negative"):
            sequence(-one)
        with pytest.raises(InvalidInput, match="state of the sequence is unknown since"):
            sequence(one)
    with (
        pytest.raises(InvalidInput, match="has 2 rows, and 1 to 1"),
        block(triton_client.model("sum").sequence()) as two,
    ):
        two(np.array([[1], [2]], np.int32))


@contextlib.contextmanager
def block(sequence: Any) -> Iterator[Any]:
    """``with`` for both kinds."""
    if hasattr(type(sequence), "__enter__"):
        with sequence:
            yield sequence
        return
    sequence.wait(sequence._wrapped.__aenter__())
    try:
        yield sequence
    finally:
        sequence.wait(sequence._wrapped.__aexit__(None, None, None))


def test_sequences_are_never_repeated_and_stay_where_they_began() -> None:
    from tritonrepo_client import ServerUnreachable

    fakes = [FakeTriton(f"fake://{name}") for name in "ab"]
    spec = (TensorSpec("x", "INT32", (1,)),)
    for fake in fakes:
        fake.add(
            "m", Signature(spec, (TensorSpec("y", "INT32", (1,)),), 0, stateful=True), lambda given: {"y": given["x"]}
        )
    with Client(fakes) as client, client.model("m").sequence() as sequence:
        for _ in range(6):
            sequence(np.ones(1, np.int32))
        assert sorted(len(fake.requests) for fake in fakes) == [0, 6]
        (where,) = [fake for fake in fakes if fake.requests]
        where.fail(ServerUnreachable("cut in the middle"))
        with pytest.raises(ServerUnreachable):
            sequence(np.ones(1, np.int32))
        assert len(where.requests) == 7


@pytest.mark.server
def test_a_hundred_leases_leave_nothing(server: EmbeddedServer) -> None:
    with Client(url(server, "http")) as client:
        model = client.model("fixed")
        model.bind(rows=1).close()
        before, threads = len(os.listdir("/proc/self/fd")), threading.active_count()  # noqa: PTH208
        for _ in range(100):
            with model.bind(rows=1) as bound:
                bound()
        assert len(os.listdir("/proc/self/fd")) <= before + 1 and threading.active_count() <= threads  # noqa: PTH208
    assert not regions(server) and not files()
