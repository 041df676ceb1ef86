"""What a client can be told: one object that every part of it reads."""

from __future__ import annotations

import math
import random
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Compression = Literal["gzip", "deflate"]
HeaderList = tuple[tuple[str, str], ...]

#: Headers that the client itself must set right.
_OWN_HEADERS = frozenset(
    (
        "host", "content-length", "transfer-encoding", "connection", "accept-encoding", "content-encoding",
        "inference-header-content-length", "te", "content-type", "grpc-timeout",
    )
)  # fmt: skip
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


@dataclass(frozen=True)
class TLS:
    """How ``https://`` and ``grpcs://`` trust the server, and how they show who they are.

    Args:
        ca: file with the certificates (PEM) to trust; by default the system's.
        cert: file with the client's own certificate chain (PEM), for mutual TLS.
        key: file with its private key (PEM), not encrypted.
        server_name: the name that the server's certificate must have, where it is not the URL's host.
    """

    ca: str | Path | None = None
    cert: str | Path | None = None
    key: str | Path | None = field(default=None, repr=False)
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ValueError("mutual TLS needs both: give cert and key")
        for path in (self.ca, self.cert, self.key):
            if path is not None and not Path(path).is_file():
                raise ValueError(f"there is no file '{path}'")

    def context(self) -> ssl.SSLContext:
        """For sockets."""
        try:
            context = ssl.create_default_context(cafile=None if self.ca is None else str(self.ca))
            if self.cert is not None and self.key is not None:
                context.load_cert_chain(str(self.cert), str(self.key), password=_no_password)
        except (ssl.SSLError, OSError) as error:
            raise ValueError(f"the TLS files cannot be used: {error}") from None
        return context

    def files(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """CA, key and certificate, as gRPC takes them; the same checks as for sockets."""
        self.context()
        ca, key, cert = (None if path is None else Path(path).read_bytes() for path in (self.ca, self.key, self.cert))
        return ca, key, cert


@dataclass(frozen=True)
class Retry:
    """When a request is sent again, and how long after. docs/client.md says what is safe to send again.

    Args:
        attempts: how often a request is sent at most; 1: never again.
        base: seconds of the first pause at most; each pause is drawn from 0 to its maximum, which doubles each time.
        cap: seconds of any pause at most.
        budget: retries that each success earns, for the whole client. 0.1: a tenth more load when all goes wrong.
        burst: retries that can be saved up, and are there at the start.
        repeat_lost: send a request once more when the connection ended before the reply, though it may have run. Never
            done for sequences and streams, whatever is set here.
    """

    attempts: int = 3
    base: float = 0.05
    cap: float = 1.0
    budget: float = 0.1
    burst: int = 10
    repeat_lost: bool = True

    def __post_init__(self) -> None:
        if self.attempts < 1 or min(self.base, self.cap, self.budget, self.burst) < 0:
            raise ValueError("retry: attempts is at least 1, and nothing is negative")

    def pause(self, attempt: int) -> float:
        """Seconds to wait after the attempt with this number (from 1)."""
        return random.uniform(0, min(self.cap, self.base * 2 ** (attempt - 1)))  # noqa: S311 - no secret


@dataclass(frozen=True)
class Breaker:
    """When an endpoint is left alone, and for how long.

    Args:
        failures: connections that fail in a row before it is.
        pause: seconds until one request may try it again; doubles up to ``longest`` while that fails too.
        longest: seconds of a pause at most.
    """

    failures: int = 5
    pause: float = 0.25
    longest: float = 5.0

    def __post_init__(self) -> None:
        if self.failures < 1 or not 0 < self.pause <= self.longest:
            raise ValueError("breaker: failures is at least 1, and 0 < pause <= longest")


@dataclass(frozen=True)
class Settings:
    """All settings of a client; `Client` says what they mean."""

    timeout: float = 60.0
    connect_timeout: float = 5.0
    tls: TLS | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    token: str | Callable[[], str] | None = field(default=None, repr=False)
    compression: Compression | None = None
    max_message_bytes: int = 2**31 - 1
    retry: Retry = field(default_factory=Retry)
    breaker: Breaker = field(default_factory=Breaker)
    concurrency: int = 8
    trace: bool | None = None

    def __post_init__(self) -> None:
        if self.compression not in (None, "gzip", "deflate"):
            raise ValueError(f"compression '{self.compression}' is not gzip or deflate")
        if self.concurrency < 1 or not 0 < self.max_message_bytes < 2**31:
            raise ValueError("concurrency is at least 1, and max_message_bytes in 1 to 2^31 - 1")
        if not self.connect_timeout > 0 or math.isnan(self.timeout):
            raise ValueError("connect_timeout is more than 0, and timeout is a number")
        check_headers(self.headers)
        if isinstance(self.token, str):
            _check_value("token", self.token)

    def fixed_headers(self) -> HeaderList:
        """Those that are the same for every request."""
        headers = [(name.lower(), value) for name, value in self.headers.items()]
        if isinstance(self.token, str):
            headers.append(("authorization", f"Bearer {self.token}"))
        return tuple(headers)

    def fresh_headers(self) -> HeaderList:
        """Those that are made for each request."""
        if not callable(self.token):
            return ()
        token = self.token()
        _check_value("token", token)
        return (("authorization", f"Bearer {token}"),)


def check_headers(headers: Mapping[str, str]) -> None:
    """Refuse headers that would change the request around them.

    Raises:
        ValueError: a name or value that no header may have, or one that the client sets itself.
    """
    for name, value in headers.items():
        if not name or not set(name) <= _TOKEN:
            raise ValueError(f"a header cannot be named {name!r}")
        if name.lower() in _OWN_HEADERS or name.lower().startswith("grpc-"):
            raise ValueError(f"the client sets the header '{name}' itself")
        _check_value(name, value)


def _check_value(name: str, value: str) -> None:
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        raise ValueError(f"the value of '{name}' is not printable ASCII")  # and is not shown: it may be a secret


def _no_password() -> str:
    raise ValueError("the private key is encrypted; give one that is not")
