# ruff: noqa: N818  -- the names say what happened, as in Python's own tree of exceptions
"""Every error that the client raises on purpose.

    TritonClientError
    ├── InvalidInput            refused here, before anything was sent: name, dtype, shape, parameter
    ├── ServerUnreachable       no connection, or it ended before the reply came
    │   └── CircuitOpen         not tried: the attempts before this one failed, and it is too early for another
    ├── DeadlineExceeded        no reply within the time that was given: the request may still run
    ├── BadReply                a reply came that is not what the protocol allows
    ├── SharedMemoryError       memory could not be made or shared on this machine
    └── ServerError             the server answered, and said no; `detail` has its words
        ├── ModelNotFound       no such model or version
        ├── ModelNotReady       the model is known, but not loaded: loading, unloaded, or failed to load
        └── ServerBusy          the request was dropped from a queue: queue full, or it waited longer than allowed

Each names the endpoint, the model where one is concerned, and how often it was tried; ``may_have_run`` says whether the
request may have been executed. A bad URL or setting is a ValueError of ``Client(...)``.
"""

from __future__ import annotations


class TritonClientError(Exception):
    """Base of all of them.

    Args:
        detail: what happened; for ServerError, the server's own words.
        model: the model that was asked for, if any.
        endpoint: the URL of the server.
        status: gRPC's name of the status (``NOT_FOUND``), or HTTP's number (``404``), where there was one.
    """

    may_have_run = True
    """Whether the request may have been executed. False is certain."""

    def __init__(self, detail: str, *, model: str = "", endpoint: str = "", status: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.model = model
        self.endpoint = endpoint
        self.status = status
        self.attempts = 1
        """How often the request was sent, or tried to be."""

    def __str__(self) -> str:
        model = f"model '{self.model}'" if self.model else ""
        status = f"[{self.status}]" if self.status else ""
        tries = f"(attempt {self.attempts})" if self.attempts > 1 else ""
        place = ": ".join(part for part in (self.endpoint, model) if part)
        words = " ".join(part for part in (status, self.detail, tries) if part)
        return f"{place}: {words}" if place else words


class InvalidInput(TritonClientError):
    """Refused before sending; the message has the expected signature."""

    may_have_run = False


class ServerUnreachable(TritonClientError):
    """No connection, or it ended before the reply came (``may_have_run`` tells which)."""


class CircuitOpen(ServerUnreachable):
    """Not tried: the attempts before this one failed, and it is too early for another."""

    may_have_run = False


class DeadlineExceeded(TritonClientError):
    """No reply within the time that was given."""


class BadReply(TritonClientError):
    """The reply is not what the protocol allows."""


class SharedMemoryError(TritonClientError):
    """Memory could not be made or shared on this machine."""

    may_have_run = False


class ServerError(TritonClientError):
    """The server answered, and said no."""


class ModelNotFound(ServerError):
    """No such model or version."""

    may_have_run = False


class ModelNotReady(ServerError):
    """The model is known, but not loaded."""

    may_have_run = False


class ServerBusy(ServerError):
    """The request was dropped from a queue."""

    may_have_run = False


#: HTTP status -> gRPC's name of it, where the two differ in nothing but spelling.
_GRPC_NAME = {
    "400": "INVALID_ARGUMENT",
    "404": "NOT_FOUND",
    "408": "DEADLINE_EXCEEDED",
    "499": "CANCELLED",
    "502": "UNAVAILABLE",
    "503": "UNAVAILABLE",
    "504": "DEADLINE_EXCEEDED",
}

#: What Triton says -> what it means. Words come before the status, because releases differ in the status
#: (an unknown model over HTTP was 400 once, and is 404 now), and because UNAVAILABLE stands for a server that cannot be
#: reached, a model that is not loaded and a full queue alike.
_WORDS: tuple[tuple[str, type[TritonClientError]], ...] = (
    ("has no available versions", ModelNotReady),
    ("is not at ready state", ModelNotReady),
    ("unknown model", ModelNotFound),
    ("maximum queue size", ServerBusy),
    ("Request timeout expired", ServerBusy),
    ("Received message larger than max", BadReply),
)

_STATUS: dict[str, type[TritonClientError]] = {
    "UNAVAILABLE": ServerUnreachable,
    "CANCELLED": ServerUnreachable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
}

#: With UNAVAILABLE: words that say that the request never reached a model.
_NEVER_RAN = ("failed to connect", "connections to all backends failing", "stopped accepting", "name resolution", "DNS")


def from_status(status: str, words: str, *, model: str, endpoint: str) -> TritonClientError:
    """The error for a reply that is not a success.

    Args:
        status: gRPC's name or HTTP's number of the status.
        words: what came with it.
        model: the model that was asked for, or "".
        endpoint: the URL of the server.
    """
    kind = next((kind for part, kind in _WORDS if part in words), None)
    if kind is None and status in ("UNKNOWN", "INTERNAL") and words.startswith("Stream removed"):
        # grpc's own words for a connection that ended under the call
        kind = BadReply if "Failed parsing HTTP" in words else ServerUnreachable
    if kind is None:
        kind = _STATUS.get(_GRPC_NAME.get(status, status), ServerError)
    error = kind(words or "no words came with it", model=model, endpoint=endpoint, status=status)
    if kind is ServerUnreachable and (status == "503" or any(part in words for part in _NEVER_RAN)):
        error.may_have_run = False
    return error


def from_foreign(  # noqa: PLR0911 - one for each kind
    error: BaseException, *, model: str = "", endpoint: str = ""
) -> TritonClientError:
    """The error for anything that grpc, tritonclient, sockets or TLS raise. Imports none of these.

    Args:
        error: what was caught.
        model: the model that was asked for, or "".
        endpoint: the URL of the server.
    """
    if isinstance(error, TritonClientError):
        return error
    place = {"model": model, "endpoint": endpoint}
    names = {kind.__name__ for kind in type(error).__mro__}
    if "InferenceServerException" in names:
        status = (error.status() or "").rpartition(".")[2]  # type: ignore[attr-defined]
        return from_status(status, error.message() or str(error), **place)  # type: ignore[attr-defined]
    if "RpcError" in names and callable(getattr(error, "code", None)):
        code = error.code()  # type: ignore[attr-defined]
        return from_status(code.name if code else "UNKNOWN", error.details() or "", **place)  # type: ignore[attr-defined]
    words = str(error) or type(error).__name__
    if names & {"SharedMemoryException", "CudaSharedMemoryException"}:
        return SharedMemoryError(words, **place)
    if isinstance(error, TimeoutError) or names & {"FutureTimeoutError", "TimeoutError"}:
        return DeadlineExceeded("no reply in the time that was given", **place)
    if "closed" in words and names & {"UsageError", "BaseError"}:
        gone = ServerUnreachable(words, **place)
        gone.may_have_run = False
        return gone
    if isinstance(error, OSError) or names & {"FutureCancelledError", "RpcError", "AbortError", "EOFError"}:
        return ServerUnreachable(words, **place)
    if isinstance(error, ValueError):
        return BadReply(words, **place)
    return TritonClientError(words, **place)
