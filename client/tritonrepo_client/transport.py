"""The seam between what the client knows and how bytes get to a server.

A transport carries requests and replies, and nothing else: it checks no signature, retries nothing, caches nothing. All
that is above it is shared by gRPC and HTTP, threads and asyncio. Its methods are coroutines: those of transports for
threads never wait for an event loop, so that `drive` runs them to their end in one step.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar
from urllib.parse import SplitResult, urlsplit

from tritonrepo_client.errors import DeadlineExceeded
from tritonrepo_client.tensor import WireTensor

if TYPE_CHECKING:
    from tritonrepo_client.settings import Settings

Parameter = str | bool | int | float
_T = TypeVar("_T")

_SCHEMES = ("grpc", "grpcs", "http", "https")


class InferRequest(NamedTuple):
    """One inference request, checked and encoded."""

    model: str
    version: str
    """"": the server chooses."""
    inputs: tuple[WireTensor, ...]
    outputs: tuple[str | OutputRequest, ...]
    """(): all of them."""
    request_id: str
    priority: int
    """0: the model's default."""
    parameters: Mapping[str, Parameter]
    queue_timeout_us: int = 0
    """Microseconds that the server may keep it in a queue; 0: the model's default."""
    headers: tuple[tuple[str, str], ...] = ()
    sequence: tuple[int | str, bool, bool] | None = None
    """Correlation id, whether it starts, whether it ends the sequence."""
    encoded: dict[str, Any] | None = None
    """For a request that is sent many times: where transports keep what they made of it, by endpoint."""

    def key(self) -> tuple[Any, ...] | None:
        """What all but the data of a request without anything special depends on; None for any other."""
        model, version, inputs, outputs, identity, priority, parameters, timeout, _, sequence, encoded = self
        if identity or priority or parameters or timeout or sequence is not None or encoded is not None:
            return None
        key: list[Any] = [model, version, outputs]
        for name, dtype, shape, data, region, _, _ in inputs:
            if region:
                return None
            key += (name, dtype, shape, len(data))
        return tuple(key)


class OutputRequest(NamedTuple):
    """An output that is asked for in a special way."""

    name: str
    classes: int = 0
    """Its so many highest values, as BYTES `value:index:label`; 0: the tensor itself."""
    region: str = ""
    """The registered shared memory that it goes to."""
    region_size: int = 0
    region_offset: int = 0


class InferReply(NamedTuple):
    """What the server made of a request."""

    outputs: tuple[WireTensor, ...]
    model_version: str = ""
    request_id: str = ""
    parameters: Mapping[str, Parameter] = {}


class Transport(Protocol):
    """What a way to a server must be able to do, in as many calls at once as there are callers.

    ``deadline`` is in the seconds of ``time.monotonic()``, None without limit. All raise the errors of
    ``tritonrepo_client.errors`` and no others, with model and endpoint filled in.
    """

    @property
    def endpoint(self) -> str:
        """The server's URL."""

    async def infer(self, request: InferRequest, deadline: float | None) -> InferReply:
        """Outputs of one request."""

    async def ask(self, question: str, arguments: Mapping[str, Any], deadline: float | None) -> Any:
        """One of the questions in ``tritonrepo_client._questions``: metadata, config, statistics, load, ..."""

    def stream(self, request: InferRequest, deadline: float | None) -> AsyncGenerator[InferReply, None]:
        """The replies to one request of a decoupled model, as they come. Closing it cancels the request."""

    async def close(self) -> None:
        """Drop all connections; calls under way end with ServerUnreachable."""


def drive(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine that waits for no event loop."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        value: _T = done.value
        return value
    coroutine.close()
    raise RuntimeError("this transport needs an event loop: use it with AsyncClient")


def open_transport(url: str, settings: Settings | None = None, *, asynchronous: bool = False) -> Transport:
    """The transport for ``grpc://host:port`` or ``http://host:port[/prefix]``, with TLS for ``grpcs`` and ``https``.
    Connects to nothing yet.

    Raises:
        ValueError: for any other URL.
    """
    from tritonrepo_client.settings import Settings

    parts, settings = split_url(url), settings or Settings()
    if parts.scheme in ("grpc", "grpcs"):
        if asynchronous:
            from tritonrepo_client._grpc_aio import AsyncGrpcTransport

            return AsyncGrpcTransport(parts, settings)
        from tritonrepo_client._grpc import GrpcTransport

        return GrpcTransport(parts, settings)
    if asynchronous:
        from tritonrepo_client._http_aio import AsyncHttpTransport

        return AsyncHttpTransport(parts, settings)
    from tritonrepo_client._http import HttpTransport

    return HttpTransport(parts, settings)


def seconds_left(deadline: float | None, *, model: str, endpoint: str) -> float | None:
    """Seconds until the deadline, more than 0; None without limit.

    Raises:
        DeadlineExceeded: it has passed.
    """
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        error = DeadlineExceeded("no reply in the time that was given", model=model, endpoint=endpoint)
        error.may_have_run = False
        raise error
    return left


def split_url(url: str) -> SplitResult:
    """The parts of a URL that a client can use.

    Raises:
        ValueError: for any other.
    """
    parts = urlsplit(url)
    try:
        complete = bool(parts.scheme in _SCHEMES and parts.hostname and parts.port and url.isascii())
    except ValueError:  # a port that is no number
        complete = False
    path = parts.path.strip("/") if parts.scheme.startswith("grpc") else ""
    if complete and not (path or parts.query or parts.fragment or "@" in parts.netloc):
        return parts
    shown = url.rpartition("@")[2]  # what stands before it may be a password
    raise ValueError(
        f"cannot use the URL '{shown}': give grpc://host:port or http://host:port (TLS: grpcs, https), without a user"
    )
