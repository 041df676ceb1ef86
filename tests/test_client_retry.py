"""tritonrepo_client: what is sent again and what never, the budget, the breaker, endpoints; and foreign errors."""

from __future__ import annotations

import asyncio
import copy
import importlib
import inspect
import logging
import pickle
import random
import sys
import time
import types
from typing import Any

import numpy as np
import pytest

from test_client import any_client
from tritonrepo_client import (
    BadReply,
    Breaker,
    CircuitOpen,
    Client,
    DeadlineExceeded,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    Retry,
    ServerBusy,
    ServerError,
    ServerUnreachable,
    SharedMemoryError,
    Signature,
    TensorSpec,
    TritonClientError,
)
from tritonrepo_client.errors import from_foreign, from_status
from tritonrepo_client.testing import FakeTriton

MODES = pytest.mark.parametrize("mode", ["threads", "asyncio"])
QUICK = Retry(base=0.001, cap=0.002)
X = np.ones(1, np.float32)


def fake(endpoint: str = "fake://a", *, stateful: bool = False) -> FakeTriton:
    server = FakeTriton(endpoint)
    spec = (TensorSpec("x", "FP32", (1,)),)
    signature = Signature(spec, (TensorSpec("y", "FP32", (1,)),), 0, stateful=stateful)
    server.add("m", signature, lambda given: {"y": given["x"]})
    return server


def lost() -> ServerUnreachable:
    return ServerUnreachable("the connection broke")


def never_sent() -> ServerUnreachable:
    error = ServerUnreachable("connection refused")
    error.may_have_run = False
    return error


def busy() -> ServerBusy:
    return ServerBusy("Exceeds maximum queue size")


@MODES
@pytest.mark.parametrize(
    ("failures", "attempts", "error"),
    [
        ([never_sent(), never_sent()], 3, None),
        ([never_sent()] * 3, 3, ServerUnreachable),
        ([busy(), never_sent()], 3, None),
        ([lost()], 2, None),
        ([lost(), lost()], 2, ServerUnreachable),
        ([lost(), never_sent()], 3, None),
        ([never_sent(), lost()], 3, None),
        ([lost(), busy(), lost()], 3, ServerUnreachable),
        ([ServerBusy("Request timeout expired")], 1, ServerBusy),
        ([ServerError("the model threw")], 1, ServerError),
        ([ModelNotReady("loading")], 1, ModelNotReady),
        ([ModelNotFound("no")], 1, ModelNotFound),
        ([BadReply("nonsense")], 1, BadReply),
        ([DeadlineExceeded("late")], 1, DeadlineExceeded),
    ],
)
def test_what_is_sent_again(mode: str, failures: list[TritonClientError], attempts: int, error: Any) -> None:
    server = fake()
    server.fail(*copy.deepcopy(failures))
    with any_client(server, mode, retry=QUICK, breaker=Breaker(failures=50)) as client:
        if error is None:
            assert client.model("m")(X) == X
        else:
            with pytest.raises(error) as caught:
                client.model("m")(X)
            assert type(caught.value) is error and caught.value.attempts == attempts
            if attempts > 1:
                assert f"(attempt {attempts})" in str(caught.value)
        assert len(server.requests) == attempts


def test_a_lost_request_may_have_run_whatever_came_after() -> None:
    server = fake()
    server.fail(lost(), never_sent(), never_sent())
    with Client(server, retry=QUICK) as client, pytest.raises(ServerUnreachable) as caught:
        client.model("m")(X)
    assert caught.value.may_have_run


def test_lost_requests_are_not_repeated_where_the_user_says_so() -> None:
    server = fake()
    server.fail(lost())
    with Client(server, retry=Retry(repeat_lost=False)) as client, pytest.raises(ServerUnreachable):
        client.model("m")(X)
    assert len(server.requests) == 1


def test_no_retry_begins_after_the_deadline() -> None:
    server = fake()
    server.fail(*[never_sent() for _ in range(50)])
    patient = Retry(attempts=50, base=0.2, cap=0.2, burst=100)
    with Client(server, retry=patient, breaker=Breaker(failures=100)) as client:
        started = time.monotonic()
        with pytest.raises(ServerUnreachable):
            client.model("m")(X, timeout=0.3)
        assert time.monotonic() - started < 0.35
    assert len(server.requests) < 20


def test_the_budget_bounds_what_retries_add(caplog: pytest.LogCaptureFixture) -> None:
    server = fake()
    caplog.set_level(logging.INFO, "tritonrepo_client")
    retry = Retry(attempts=2, base=0, budget=0.1, burst=5)
    with Client(server, retry=retry, breaker=Breaker(failures=10_000)) as client:
        model = client.model("m")
        server.fail(*[never_sent() for _ in range(200)])
        for _ in range(100):
            with pytest.raises(ServerUnreachable):
                model(X)
        assert len(server.requests) == 100 + 5  # the burst, and nothing more
        assert "the budget is spent" in caplog.text
        server._failures.clear()
        server.requests.clear()
        for _ in range(30):
            model(X)  # each earns a tenth
        server.fail(*[never_sent() for _ in range(20)])
        for _ in range(10):
            with pytest.raises(ServerUnreachable):
                model(X)
        assert len(server.requests) == 30 + 10 + 3


def test_pauses_are_drawn_and_grow() -> None:
    random.seed(1)
    retry = Retry(base=0.1, cap=0.5)
    longest = [max(retry.pause(attempt) for _ in range(500)) for attempt in (1, 2, 3, 4, 9)]
    assert longest == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5], rel=0.05)
    assert min(retry.pause(3) for _ in range(500)) < 0.01


@pytest.mark.parametrize("options", [{"attempts": 0}, {"base": -1}, {"budget": -0.1}, {"burst": -1}])
def test_retries_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="retry"):
        Retry(**options)
    with pytest.raises(ValueError, match="breaker"):
        Breaker(failures=0)


# Breaker


class Down(FakeTriton):
    """Refuses all, health too, while ``down``."""

    down = True

    async def ask(self, question: str, arguments: Any, deadline: float | None) -> Any:
        if self.down and question == "ready":
            self.questions.append(question)
            raise never_sent()
        return await super().ask(question, arguments, deadline)


@MODES
def test_the_breaker(mode: str) -> None:
    server = Down("fake://a")
    server._models = fake()._models
    breaker = Breaker(failures=3, pause=0.1, longest=0.2)
    with any_client(server, mode, retry=Retry(attempts=1), breaker=breaker) as client:
        model = client.model("m")
        model(X)
        server.requests.clear()
        server.fail(*[never_sent() for _ in range(3)])
        for _ in range(3):
            with pytest.raises(ServerUnreachable):
                model(X)
        started = time.monotonic()
        with pytest.raises(CircuitOpen, match="3 attempts in a row failed") as caught:
            model(X)
        assert time.monotonic() - started < 0.05 and not caught.value.may_have_run
        assert len(server.requests) == 3
        time.sleep(0.12)
        with pytest.raises(CircuitOpen):
            model(X)  # asked whether it is ready, and it is not: the request itself was not risked
        assert len(server.requests) == 3 and "ready" in server.questions
        server.down = False
        time.sleep(0.25)
        assert model(X) == X and model(X) == X


def test_answers_of_any_kind_keep_the_breaker_closed() -> None:
    server = fake()
    with Client(server, retry=Retry(attempts=1), breaker=Breaker(failures=2)) as client:
        server.fail(*[error for _ in range(5) for error in (never_sent(), ServerError("no"))])
        for _ in range(10):
            with pytest.raises((ServerUnreachable, ServerError)) as caught:
                client.model("m")(X)
            assert type(caught.value) is not CircuitOpen
        server.fail(*[DeadlineExceeded("late") for _ in range(5)])  # a slow model is no dead server
        for _ in range(5):
            with pytest.raises(DeadlineExceeded):
                client.model("m")(X)
        client.model("m")(X)


def test_a_deadline_while_the_breaker_is_open_leaves_the_next_attempt_to_the_next() -> None:
    server = fake()
    with Client(server, retry=Retry(attempts=1), breaker=Breaker(failures=1, pause=0.01, longest=0.01)) as client:
        client.model("m")(X)
        server.fail(never_sent(), DeadlineExceeded("late"))
        for kind in (ServerUnreachable, DeadlineExceeded):
            with pytest.raises(kind):
                client.model("m")(X)
            time.sleep(0.02)
        assert client.model("m")(X) == X


def test_waiting_until_ready_closes_the_breaker() -> None:
    server = fake()
    with Client(server, retry=Retry(attempts=1), breaker=Breaker(failures=1, pause=100, longest=100)) as client:
        client.model("m")(X)
        server.fail(never_sent())
        with pytest.raises(ServerUnreachable):
            client.model("m")(X)
        with pytest.raises(CircuitOpen):
            client.model("m")(X)
        client.wait_ready(1)
        client.model("m")(X)


# Endpoints


@MODES
def test_requests_are_shared_out_and_go_on_elsewhere(mode: str) -> None:
    servers = [fake(f"fake://{name}") for name in "abc"]
    with any_client(servers, mode, retry=QUICK) as client:
        assert client.endpoint == "fake://a, fake://b, fake://c"
        for _ in range(30):
            client.model("m")(X)
        assert [len(server.requests) for server in servers] == [10, 10, 10]
        servers[0].fail(*[never_sent() for _ in range(1000)])
        for _ in range(30):
            client.model("m")(X)
        assert len(servers[0].requests) <= 10 + 5  # the breaker's five, then it is left alone
        assert sum(len(server.requests) for server in servers[1:]) == 20 + 30


@MODES
def test_a_model_that_is_loaded_elsewhere(mode: str) -> None:
    servers = [fake(f"fake://{name}") for name in "ab"]
    servers[0]._models["m"].loaded = False
    with any_client(servers, mode, retry=QUICK) as client:
        for _ in range(8):
            client.model("m")(X)
        assert len(servers[1].requests) == 8


def test_all_endpoints_down() -> None:
    servers = [fake(f"fake://{name}") for name in "ab"]
    with Client(servers, retry=QUICK, breaker=Breaker(failures=1, pause=50, longest=50)) as client:
        client.model("m")(X)
        for server in servers:
            server.fail(*[never_sent() for _ in range(5)])
        with pytest.raises(ServerUnreachable) as caught:
            client.model("m")(X)
        assert type(caught.value) is ServerUnreachable and caught.value.attempts == 2
        with pytest.raises(CircuitOpen):
            client.model("m")(X)
    with pytest.raises(ValueError, match="at least one URL"):
        Client([])


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_failures_ends_in_a_reply_or_an_error(seed: int) -> None:
    chance = random.Random(seed)
    kinds: list[Any] = [
        never_sent,
        lost,
        busy,
        lambda: ServerError("no"),
        lambda: DeadlineExceeded("late"),
        lambda: BadReply("?"),
    ]
    servers = [fake(f"fake://{number}") for number in range(chance.randint(1, 3))]
    with Client(servers, retry=QUICK, breaker=Breaker(failures=2, pause=0.001, longest=0.002)) as client:
        for _ in range(60):
            for server in servers:
                server._failures = [chance.choice(kinds)() if chance.random() < 0.5 else None for _ in range(3)]
                before = sum(len(server.requests) for server in servers)
            try:
                assert client.model("m")(X) == X
            except TritonClientError as error:
                assert 1 <= error.attempts <= 3
            assert sum(len(server.requests) for server in servers) - before <= 3
        for endpoint in client._core.dispatcher.endpoints:
            assert endpoint.in_flight == 0
        for server in servers:
            server._failures.clear()
        time.sleep(0.01)
        client.model("m")(X)


# Errors of others

PACKAGES = (
    "grpc", "grpc.aio", "grpc._channel", "grpc._interceptor",
    "grpc._common", "grpc.aio._base_call", "tritonclient.utils",
    "tritonclient.utils.shared_memory", "tritonclient.utils.cuda_shared_memory", "tritonclient.grpc",
    "tritonclient.http",
)  # fmt: skip

#: Every exception class that grpc and tritonclient define -> ours.
FOREIGN = {
    "grpc.RpcError": ServerUnreachable,
    "grpc.FutureTimeoutError": DeadlineExceeded,
    "grpc.FutureCancelledError": ServerUnreachable,
    "grpc._channel._InactiveRpcError": ServerError,
    "grpc._channel._MultiThreadedRendezvous": ServerError,
    "grpc._channel._SingleThreadedRendezvous": ServerError,
    "grpc._interceptor._FailureOutcome": ServerError,
    "grpc.aio._call.AioRpcError": ServerError,
    "grpc.aio.AioRpcError": ServerError,
    "grpc._cython.cygrpc.UsageError": TritonClientError,
    "grpc._cython.cygrpc.BaseError": TritonClientError,
    "grpc._cython.cygrpc.InternalError": TritonClientError,
    "grpc._cython.cygrpc.AbortError": ServerUnreachable,
    "grpc._cython.cygrpc.AioRpcStatus": TritonClientError,
    "grpc._cython.cygrpc.ExecuteBatchError": TritonClientError,
    "grpc._cython.cygrpc._WatchConnectivityFailed": TritonClientError,
    "grpc._cython.cygrpc._ServerStoppedError": TritonClientError,
    "grpc._cython.cygrpc._RequestCallError": TritonClientError,
    "grpc.experimental.UsageError": TritonClientError,
    "grpc.experimental.ExperimentalApiWarning": TritonClientError,
    "tritonclient.utils.InferenceServerException": ServerError,
    "tritonclient.utils.shared_memory.SharedMemoryException": SharedMemoryError,
    "tritonclient.utils.cuda_shared_memory.CudaSharedMemoryException": SharedMemoryError,
}


def foreign() -> dict[str, type[BaseException]]:
    """All exception classes that are defined in the loaded modules of grpc and tritonclient."""
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except (ImportError, RuntimeError):
            continue  # CUDA's needs a package of its own
    found = {}
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in ("grpc", "tritonclient") and isinstance(module, types.ModuleType):
            for kind in vars(module).values():
                if inspect.isclass(kind) and issubclass(kind, BaseException):
                    home = kind.__module__
                    if home.split(".")[0] in ("grpc", "tritonclient"):
                        found[f"{home}.{kind.__qualname__}"] = kind
    return found


def instance(name: str, kind: Any) -> BaseException:
    import grpc

    if name.endswith("AioRpcError"):
        return made(kind(grpc.StatusCode.INTERNAL, None, None, details="words"))
    if name.endswith("_FailureOutcome"):  # what an interceptor's exception becomes
        return made(kind(RuntimeError("words"), None))
    if name.endswith("AioRpcStatus"):
        return made(kind(grpc.StatusCode.INTERNAL.value[0], "words", (), "words"))
    if "_channel." in name:
        from grpc._channel import _RPCState

        state = _RPCState((), (), (), grpc.StatusCode.INTERNAL, "words")
        return made(kind(state) if "Inactive" in name else kind(state, None, None, None))
    if name.endswith(("SharedMemoryException",)):
        error = made(kind.__new__(kind))
        error.args = ("words",)
        type.__setattr__(kind, "__str__", lambda self: "words")
        return error
    more = ("StatusCode.INTERNAL",) if "InferenceServerException" in name else ()
    return made(kind("words", *more))


def made(error: BaseException) -> BaseException:
    return error


def test_every_exception_of_grpc_and_tritonclient_is_one_of_ours() -> None:
    found = {name: kind for name, kind in foreign().items() if issubclass(kind, Exception)}
    classes = {name: kind for name, kind in found.items() if name != "grpc._channel._Rendezvous"}  # only a base
    unknown = [name for name in classes if name not in FOREIGN]
    assert not unknown, f"new: say in FOREIGN what they are to us: {unknown}"
    assert "grpc._channel._InactiveRpcError" in classes and "tritonclient.utils.InferenceServerException" in classes
    for name, kind in classes.items():
        error = from_foreign(instance(name, kind), model="m", endpoint="grpc://h:1")
        assert type(error) is FOREIGN[name], name
        assert (error.model, error.endpoint) == ("m", "grpc://h:1")
        assert "words" in error.detail or "intercepting" in error.detail or isinstance(error, DeadlineExceeded)
        assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError(), DeadlineExceeded),
        (asyncio.TimeoutError(), DeadlineExceeded),
        (ConnectionResetError("reset"), ServerUnreachable),
        (OSError(113, "No route to host"), ServerUnreachable),
        (ValueError("not HTTP"), BadReply),
        (RuntimeError("what"), TritonClientError),
        (InvalidInput("ours"), InvalidInput),
    ],
)
def test_errors_of_python(error: Exception, kind: type[TritonClientError]) -> None:
    assert type(from_foreign(error)) is kind


def test_what_tritonclient_says_of_a_model_is_what_we_say() -> None:
    from tritonclient.utils import InferenceServerException

    said = InferenceServerException("Request for unknown model: 'm' is not found", "StatusCode.NOT_FOUND")
    assert type(from_foreign(said)) is ModelNotFound
    assert type(from_foreign(InferenceServerException("too late", "StatusCode.DEADLINE_EXCEEDED"))) is DeadlineExceeded
    assert type(from_foreign(InferenceServerException("no", "404"))) is ServerError


@pytest.mark.parametrize(
    ("status", "words", "ran"),
    [
        ("UNAVAILABLE", "failed to connect to all addresses; last error: refused", False),
        ("UNAVAILABLE", "Server is stopping, scheduler for model has stopped accepting new inference requests", False),
        ("UNAVAILABLE", "Socket closed", True),
        ("UNAVAILABLE", "recvmsg:Connection reset by peer", True),
        ("503", "", False),
        ("502", "", True),
    ],
)
def test_whether_a_request_may_have_run(status: str, words: str, ran: bool) -> None:
    error = from_status(status, words, model="m", endpoint="e")
    assert type(error) is ServerUnreachable and error.may_have_run is ran


@pytest.mark.parametrize(
    ("status", "words", "kind"),
    [
        ("INTERNAL", "Stream removed (Failed parsing HTTP/2 (Frame size 16777215 is larger than ...))", BadReply),
        ("UNKNOWN", "Stream removed (Socket closed)", ServerUnreachable),
        ("DEADLINE_EXCEEDED", "Stream removed (Deadline Exceeded)", DeadlineExceeded),
    ],
)
def test_what_grpc_says_of_connections_that_end(status: str, words: str, kind: type[TritonClientError]) -> None:
    assert type(from_status(status, words, model="m", endpoint="e")) is kind


def test_tracing_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the two functions of OpenTelemetry that are used; the package itself is optional."""
    span = types.SimpleNamespace(get_span_context=lambda: types.SimpleNamespace(is_valid=True))
    trace = types.ModuleType("opentelemetry.trace")
    trace.get_current_span = lambda: span  # type: ignore[attr-defined]
    propagate = types.ModuleType("opentelemetry.propagate")
    propagate.inject = lambda carrier: carrier.update(traceparent="00-1-2-01")  # type: ignore[attr-defined]
    package = types.ModuleType("opentelemetry")
    package.trace, package.propagate = trace, propagate  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"install tritonrepo-client\[otel\]"):
        Client(fake(), trace=True)
    for name, module in (
        ("opentelemetry", package),
        ("opentelemetry.trace", trace),
        ("opentelemetry.propagate", propagate),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    server = fake()
    with Client(server, trace=True) as client:
        client.model("m")(X)
        client.model("m")(X, headers={"x-a": "b"})
    assert [request.headers for request in server.requests] == [
        (("traceparent", "00-1-2-01"),), (("x-a", "b"), ("traceparent", "00-1-2-01")),
    ]  # fmt: skip
