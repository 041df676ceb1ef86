"""What a caller of tritonrepo_client gets, and within which time, when servers and networks fail: the table
in docs/client.md. Every fault is real: a Triton that is killed, or a TCP proxy before it.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import math
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import StartTriton, WriteModel, write_python_model
from tcp_proxy import Fault, Proxy
from test_client import ECHO, any_client, control, tensors, url
from tritonrepo.runtime import Runtime
from tritonrepo.serve import EmbeddedServer
from tritonrepo_client import (
    AsyncClient,
    BadReply,
    CircuitOpen,
    Client,
    DeadlineExceeded,
    InvalidInput,
    ModelNotReady,
    Retry,
    ServerBusy,
    ServerError,
    ServerUnreachable,
    TritonClientError,
)

KINDS = ("grpc-threads", "grpc-asyncio", "http-threads", "http-asyncio")
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
NEVER = Retry(attempts=1)
LARGE = np.random.default_rng(0).random(150_000, np.float32)  # 600 KB
SMALL = np.array([1, 2, 3], np.float32)


@pytest.fixture(scope="module")
def server(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    repository = tmp_path_factory.mktemp("faults") / "models"
    write_python_model(repository, "flat", code=ECHO, config=tensors(("x", "FP32", "[-1]")))
    policy = "max_queue_size: 1 allow_timeout_override: true default_timeout_microseconds: 9000000"
    queue = f"dynamic_batching {{ default_queue_policy {{ {policy} }} }}\n"
    write_python_model(repository, "queue", code=ECHO, config=tensors(("x", "FP32", "[1]")) + queue, max_batch_size=1)
    with EmbeddedServer(repository, runtime=runtime, control="explicit", models=("*",), grace=0.1) as server:
        server.wait_ready(120, probe=False)
        for kind in KINDS:  # what the libraries open once is open now
            transport, mode = kind.split("-")
            with any_client(url(server, transport), mode) as client:
                client.model("flat")(SMALL)
        yield server


def held() -> tuple[int, int]:
    """Open files and threads of this process."""
    return len(os.listdir("/proc/self/fd")), threading.active_count()  # noqa: PTH208


@pytest.fixture(autouse=True)
def nothing_leaks(server: EmbeddedServer) -> Iterator[None]:
    """Sockets, threads and shared memory are after each test what they were before it."""
    before, shared, own = held(), set(os.listdir("/dev/shm")), f"tritonrepo-{os.getpid()}-"  # noqa: PTH208, S108
    yield
    gc.collect()
    end = time.monotonic() + 10
    while time.monotonic() < end:
        files, threads = held()
        left = [name for name in set(os.listdir("/dev/shm")) - shared if name.startswith(own)]  # noqa: PTH208, S108
        # gRPC keeps some descriptors of its own pollers for later.
        if files <= before[0] + 8 and threads <= before[1] and not left:
            return
        time.sleep(0.05)
    pytest.fail(f"left behind: {held()} after {before}, {left}")


def through(proxy: Proxy, kind: str, **options: Any) -> Any:
    transport, mode = kind.split("-")
    return any_client(f"{transport}://{proxy.address}", mode, **options)


def target(server: EmbeddedServer, kind: str) -> str:
    return server.grpc_url if kind.startswith("grpc") else server.http_url


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """The result or error of a call, and its seconds."""
    started = time.monotonic()
    try:
        result = call()
    except TritonClientError as error:
        result = error
    return result, time.monotonic() - started


# Connections that are cut


@pytest.mark.server
@EVERY_KIND
@pytest.mark.parametrize("fault", [Fault(cut_request=100_000), Fault(cut_reply=100_000)], ids=["request", "reply"])
def test_a_connection_that_is_cut(server: EmbeddedServer, kind: str, fault: Fault) -> None:
    with Proxy(target(server, kind)) as proxy:
        with through(proxy, kind, retry=NEVER, timeout=20) as client:
            model = client.model("flat")
            model(LARGE)
            proxy.arm(fault)
            error, seconds = timed(lambda: model(LARGE))
            assert type(error) is ServerUnreachable and error.may_have_run and seconds < 3
            assert (error.model, error.attempts) == ("flat", 1)
            np.testing.assert_array_equal(model(SMALL), SMALL)  # the next call finds a new connection
        with through(proxy, kind, timeout=20) as client:  # by default it is sent once more
            model = client.model("flat")
            model(LARGE)
            proxy.arm(fault)
            reply, seconds = timed(lambda: model(LARGE))
            np.testing.assert_array_equal(reply, LARGE)
            assert seconds < 5


@pytest.mark.server
@EVERY_KIND
def test_a_connection_that_is_always_cut(server: EmbeddedServer, kind: str) -> None:
    with Proxy(target(server, kind)) as proxy, through(proxy, kind, timeout=20) as client:
        model = client.model("flat")
        model(LARGE)
        proxy.always = Fault(cut_request=100_000)
        proxy.arm(proxy.always)
        error, seconds = timed(lambda: model(LARGE))
        assert type(error) is ServerUnreachable and seconds < 5
        assert error.attempts == 2 and error.may_have_run  # it may be what ends the server: no third time


# Servers that are slow, silent, or talk nonsense


@pytest.mark.server
@EVERY_KIND
def test_a_server_that_falls_silent(server: EmbeddedServer, kind: str) -> None:
    with Proxy(target(server, kind)) as proxy, through(proxy, kind, timeout=20) as client:
        model = client.model("flat")
        model(SMALL)
        proxy.always = Fault(silent=True)
        proxy.arm(proxy.always)
        error, seconds = timed(lambda: model(SMALL, timeout=0.4))
        assert type(error) is DeadlineExceeded and 0.35 < seconds < 2 and error.attempts == 1


@pytest.mark.server
@EVERY_KIND
@pytest.mark.parametrize(
    "fault", [Fault(rate=50_000), Fault(reply_rate=50_000)], ids=["reads slowly", "answers slowly"]
)
def test_a_server_that_is_slow(server: EmbeddedServer, kind: str, fault: Fault) -> None:
    with Proxy(target(server, kind)) as proxy, through(proxy, kind, timeout=20) as client:
        model = client.model("flat")
        model(SMALL)
        proxy.always = fault
        proxy.arm(fault)
        many = np.tile(LARGE, 20)  # 12 MB: more than all buffers between
        error, seconds = timed(lambda: model(many, timeout=0.5))
        assert type(error) is DeadlineExceeded and 0.4 < seconds < 3
        # A connection that is slow is not kept from the others: this one is its own.
        proxy.always = None
    gc.collect()


@pytest.mark.server
@EVERY_KIND
def test_a_host_that_does_not_answer_to_connections(server: EmbeddedServer, kind: str) -> None:
    import socket

    transport, mode = kind.split("-")
    with socket.socket() as full, ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        for _ in range(3):  # the queue of the listener is full: further connections get no answer
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        with any_client(f"{transport}://127.0.0.1:{address[1]}", mode, connect_timeout=0.5, retry=NEVER) as client:
            error, seconds = timed(lambda: client.models(timeout=10))
            assert type(error) is ServerUnreachable and not error.may_have_run and seconds < 5
            error, seconds = timed(lambda: client.models(timeout=0.2))
            assert isinstance(error, DeadlineExceeded | ServerUnreachable) and seconds < 1


@pytest.mark.server
@EVERY_KIND
@pytest.mark.parametrize(
    "garbage",
    [
        b"\0" * 100, b"SSH-2.0-OpenSSH_9.2\r\n", os.urandom(5000),
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nnot it", b"\0\0\0\4\0\0\0\0\0" + b"\xff" * 50, b"",
    ],
    ids=["zeros", "ssh", "random", "short", "not json", "http2", "closed"],
)  # fmt: skip
def test_garbage_replies(server: EmbeddedServer, kind: str, garbage: bytes) -> None:
    with Proxy(target(server, kind)) as proxy, through(proxy, kind, retry=NEVER, timeout=5) as client:
        proxy.always = Fault(garbage=garbage)
        error, seconds = timed(lambda: client.model("flat")(SMALL))
        assert type(error) in (BadReply, ServerUnreachable), error
        assert seconds < 5.5
        proxy.always = None
        client.wait_ready(10)  # and none of it is left in the client
        np.testing.assert_array_equal(client.model("flat")(SMALL), SMALL)


# Servers that say no


@pytest.mark.server
@EVERY_KIND
def test_a_full_queue(server: EmbeddedServer, kind: str) -> None:
    transport, mode = kind.split("-")
    x = np.zeros((1, 1), np.float32)
    with any_client(url(server, transport), mode, retry=NEVER) as hasty, ThreadPoolExecutor(8) as pool:
        model = hasty.model("queue")
        model(x)
        results = list(pool.map(lambda _: timed(lambda: model(x, parameters={"sleep": 0.3})), range(8)))
    refused = [(error, seconds) for error, seconds in results if isinstance(error, TritonClientError)]
    assert 4 <= len(refused) <= 7
    assert all(type(error) is ServerBusy and not error.may_have_run and seconds < 2 for error, seconds in refused)
    patient = Retry(attempts=40, base=0.1, cap=0.3, burst=500)
    with any_client(url(server, transport), mode, retry=patient) as client, ThreadPoolExecutor(8) as pool:
        model = client.model("queue")
        results = list(pool.map(lambda _: timed(lambda: model(x, parameters={"sleep": 0.05})), range(8)))
    assert all(isinstance(result, np.ndarray) for result, _ in results), results


@pytest.mark.server
@EVERY_KIND
def test_a_queue_gives_up_what_nobody_waits_for(server: EmbeddedServer, kind: str) -> None:
    transport, mode = kind.split("-")
    x = np.zeros((1, 1), np.float32)
    with any_client(url(server, transport), mode, retry=NEVER) as client, ThreadPoolExecutor(2) as pool:
        model = client.model("queue")
        model(x)
        busy = pool.submit(model, x, parameters={"sleep": 0.8})
        time.sleep(0.2)
        error, seconds = timed(lambda: model(x, timeout=5, queue_timeout=0.1))
        assert type(error) is ServerBusy and "timeout" in error.detail and seconds < 3
        busy.result()


@pytest.mark.server
@EVERY_KIND
def test_a_deadline_shorter_than_the_model(server: EmbeddedServer, kind: str) -> None:
    transport, mode = kind.split("-")
    with any_client(url(server, transport), mode) as client:
        model = client.model("flat")
        model(SMALL)
        error, seconds = timed(lambda: model(SMALL, parameters={"sleep": 0.7}, timeout=0.2))
        assert type(error) is DeadlineExceeded and error.may_have_run and 0.15 < seconds < 0.7
        np.testing.assert_array_equal(model(SMALL, timeout=math.inf), SMALL)


@pytest.mark.server
def test_a_model_that_goes_and_comes_back_different_under_load(
    triton: StartTriton, write_model: WriteModel, tmp_path: Path
) -> None:
    write_model(tmp_path, "m", code=ECHO, config=tensors(("x", "FP32", "[2]")))
    server = triton(tmp_path, control="explicit", models=("m",), probe=False)
    old, new, stop = np.zeros(2, np.float32), np.zeros(3, np.float32), threading.Event()
    seen: Counter[Any] = Counter()

    def work(client: Any) -> None:
        model = client.model("m")
        while not stop.is_set():
            result, seconds = timed(lambda: model(old))
            seen[type(result)] += 1
            assert seconds < 20  # the server itself holds some answers back while it loads

    with ExitStack() as stack:
        clients = [
            stack.enter_context(any_client(url(server, kind.split("-")[0]), kind.split("-")[1])) for kind in KINDS
        ]
        with ThreadPoolExecutor(4) as pool:
            workers = [pool.submit(work, client) for client in clients]
            time.sleep(0.3)
            config = tmp_path / "m" / "config.pbtxt"
            config.write_text(config.read_text().replace("dims: [2]", "dims: [3]"))
            control(server, "m", "unload")
            time.sleep(0.5)
            control(server, "m", "load")
            clients[0].wait_ready(20, ["m"])
            for client in clients:
                assert client.model("m")(new).shape == (3,)
            time.sleep(0.3)
            stop.set()
            for worker in workers:
                worker.result()
    # The first to meet the new model is refused by the server; its client then reads the new signature.
    assert set(seen) - {ServerError} == {np.ndarray, ModelNotReady, InvalidInput}, seen
    assert seen[ServerError] <= len(clients)


# Servers that end


@pytest.mark.server
def test_a_server_that_is_killed_and_restarted_under_load(
    triton: StartTriton, write_model: WriteModel, tmp_path: Path
) -> None:
    write_model(tmp_path, "flat", code=ECHO, config=tensors(("x", "FP32", "[-1]")))
    first = triton(tmp_path, probe=False)
    ports = {"http_port": int(first.http_url.split(":")[1]), "grpc_port": int(first.grpc_url.split(":")[1])}
    stop = threading.Event()
    outcomes: list[tuple[str, Any, float, float]] = []

    def work(kind: str, client: Any, number: int) -> None:
        model, count = client.model("flat"), 0
        while not stop.is_set():
            count += 1
            x = np.array([number, count], np.float32)
            result, seconds = timed(functools.partial(model, x))
            if isinstance(result, np.ndarray):
                np.testing.assert_array_equal(result, x)
            outcomes.append((kind, type(result), seconds, time.monotonic()))
            time.sleep(0.01)

    with ExitStack() as stack, ThreadPoolExecutor(16) as pool:
        for kind in KINDS:
            transport, mode = kind.split("-")
            client = stack.enter_context(any_client(url(first, transport), mode, timeout=10))
            client.model("flat")(SMALL)
            for number in range(4):
                pool.submit(work, kind, client, number)
        time.sleep(0.5)
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        first.stop()
        second = triton(tmp_path, probe=False, **ports)
        back = time.monotonic()
        while time.monotonic() < back + 8 and len(recovered(outcomes, back)) < len(KINDS):
            time.sleep(0.05)
        time.sleep(2)
        stop.set()
    assert second.running()
    for kind in KINDS:
        mine = [outcome for outcome in outcomes if outcome[0] == kind]
        kinds = {type_ for _, type_, _, _ in mine}
        assert kinds <= {np.ndarray, ServerUnreachable, CircuitOpen}, kinds
        assert {np.ndarray, ServerUnreachable} <= kinds
        assert max(seconds for _, _, seconds, _ in mine) < 8
        again = min(when for _, type_, _, when in mine if type_ is np.ndarray and when > back)
        assert again - back < 7, kind  # a pause of at most 5 s is the breaker's
        assert {type_ for _, type_, _, when in mine if when > again + 1.5} == {np.ndarray}


def recovered(outcomes: list[tuple[str, Any, float, float]], back: float) -> set[str]:
    return {kind for kind, type_, _, when in list(outcomes) if type_ is np.ndarray and when > back}


@pytest.mark.server
@EVERY_KIND
def test_one_of_two_endpoints_ends(server: EmbeddedServer, kind: str) -> None:
    transport, mode = kind.split("-")
    with Proxy(target(server, kind)) as bad:
        urls = [f"{transport}://{bad.address}", f"{transport}://{target(server, kind)}"]
        with any_client(urls, mode, timeout=10) as client:
            model = client.model("flat")
            for _ in range(6):
                model(SMALL)
            assert bad.accepted
            bad.always = Fault(cut_request=0)
            bad.arm(bad.always)
            for _ in range(20):
                result, seconds = timed(lambda: model(SMALL))
                np.testing.assert_array_equal(result, SMALL)
                assert seconds < 3
            bad.always = None
            before, end = bad.accepted, time.monotonic() + 15
            while bad.accepted == before and time.monotonic() < end:  # it gets requests again
                model(SMALL)
                time.sleep(0.02)
            assert bad.accepted > before


# Many


@pytest.mark.server
@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_a_hundred_clients_start_at_once(server: EmbeddedServer, transport: str) -> None:
    gate = threading.Barrier(100)

    def one(number: int) -> float:
        x = np.full(10, number, np.float32)
        with Client(url(server, transport), timeout=60) as client:
            gate.wait()
            started = time.monotonic()
            np.testing.assert_array_equal(client.model("flat")(x), x)
            return time.monotonic() - started

    with ThreadPoolExecutor(100) as pool:
        assert max(pool.map(one, range(100))) < 60


@pytest.mark.server
@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_a_hundred_asyncio_clients_start_at_once(server: EmbeddedServer, transport: str) -> None:
    async def one(number: int) -> None:
        x = np.full(10, number, np.float32)
        async with AsyncClient(url(server, transport), timeout=60) as client:
            np.testing.assert_array_equal(await client.model("flat")(x), x)

    async def run() -> None:
        await asyncio.gather(*(one(number) for number in range(100)))

    asyncio.run(run())
