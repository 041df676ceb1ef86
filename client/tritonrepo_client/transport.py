"""The seam between what the client knows and how bytes get to a server.

A transport carries requests and replies, and nothing else: it checks no signature, retries nothing, caches nothing. All
that is above it is shared by all of them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol
from urllib.parse import SplitResult, urlsplit

from tritonrepo_client.errors import DeadlineExceeded
from tritonrepo_client.tensor import WireTensor

Parameter = str | bool | int | float


class InferRequest(NamedTuple):
    """One inference request, checked and encoded."""

    model: str
    version: str
    """"": the server chooses."""
    inputs: tuple[WireTensor, ...]
    outputs: tuple[str, ...]
    """(): all of them."""
    request_id: str
    priority: int
    """0: the model's default."""
    parameters: Mapping[str, Parameter]


class Transport(Protocol):
    """What a way to a server must be able to do, from any thread, in as many calls at once as there are threads.

    ``deadline`` is in the seconds of ``time.monotonic()``, None without limit. All raise the errors of
    ``tritonrepo_client.errors`` and no others, with model and endpoint filled in.
    """

    @property
    def endpoint(self) -> str:
        """The server's URL."""

    def infer(self, request: InferRequest, deadline: float | None) -> tuple[WireTensor, ...]:
        """Outputs of one request."""

    def metadata(self, model: str, version: str, deadline: float | None) -> dict[str, Any]:
        """A model's metadata: name, versions, platform, inputs, outputs."""

    def config(self, model: str, version: str, deadline: float | None) -> dict[str, Any]:
        """A model's config; fields at their defaults may be left out."""

    def server_ready(self, deadline: float | None) -> bool:
        """Whether the server says that it is ready."""

    def model_ready(self, model: str, version: str, deadline: float | None) -> bool:
        """Whether the server says that the model is ready; False for unknown ones."""

    def index(self, deadline: float | None) -> list[dict[str, Any]]:
        """Models of the repository: name, version, state, reason; what is empty may be left out."""

    def close(self) -> None:
        """Drop all connections; calls under way end with ServerUnreachable."""


def open_transport(url: str) -> Transport:
    """The transport for ``grpc://host:port`` or ``http://host:port[/prefix]``. Connects to nothing yet.

    Raises:
        ValueError: for any other URL.
    """
    parts = _split(url)
    if parts.scheme == "grpc":
        from tritonrepo_client._grpc import GrpcTransport

        return GrpcTransport(parts.netloc)
    from tritonrepo_client._http import HttpTransport

    return HttpTransport(parts)


def seconds_left(deadline: float | None, *, model: str, endpoint: str) -> float | None:
    """Seconds until the deadline, more than 0; None without limit.

    Raises:
        DeadlineExceeded: it has passed.
    """
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise DeadlineExceeded("no reply in the time that was given", model=model, endpoint=endpoint)
    return left


def _split(url: str) -> SplitResult:
    parts = urlsplit(url)
    try:
        complete = bool(parts.scheme in ("grpc", "http") and parts.hostname and parts.port and url.isascii())
    except ValueError:  # a port that is no number
        complete = False
    path = parts.path.strip("/") if parts.scheme == "grpc" else ""
    if complete and not (path or parts.query or parts.fragment or "@" in parts.netloc):
        return parts
    shown = url.rpartition("@")[2]  # what stands before it may be a password
    raise ValueError(f"cannot use the URL '{shown}': give grpc://host:port or http://host:port, without a user")
