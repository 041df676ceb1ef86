# ruff: noqa: N818  -- the names say what happened, as in Python's own tree of exceptions
"""Every error that the client raises on purpose.

    TritonClientError
    ├── InvalidInput            refused here, before anything was sent: name, dtype, shape, parameter
    ├── ServerUnreachable       no connection, or it ended before the reply came: the request may or may not have run
    ├── DeadlineExceeded        no reply within the time that was given: the request may still run
    ├── BadReply                a reply came that is not what the protocol allows
    └── ServerError             the server answered, and said no; `detail` has its words
        ├── ModelNotFound       no such model or version
        ├── ModelNotReady       the model is known, but not loaded: loading, unloaded, or failed to load
        └── ServerBusy          the request was dropped from a queue: queue full, or it waited longer than allowed

Each names the endpoint, and the model where one is concerned. A bad URL is a ValueError of ``Client(...)``.
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

    def __init__(self, detail: str, *, model: str = "", endpoint: str = "", status: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.model = model
        self.endpoint = endpoint
        self.status = status

    def __str__(self) -> str:
        model = f"model '{self.model}'" if self.model else ""
        status = f"[{self.status}]" if self.status else ""
        place = ": ".join(part for part in (self.endpoint, model) if part)
        words = " ".join(part for part in (status, self.detail) if part)
        return f"{place}: {words}" if place else words


class InvalidInput(TritonClientError):
    """Refused before sending; the message has the expected signature."""


class ServerUnreachable(TritonClientError):
    """No connection, or it ended before the reply came."""


class DeadlineExceeded(TritonClientError):
    """No reply within the time that was given."""


class BadReply(TritonClientError):
    """The reply is not what the protocol allows."""


class ServerError(TritonClientError):
    """The server answered, and said no."""


class ModelNotFound(ServerError):
    """No such model or version."""


class ModelNotReady(ServerError):
    """The model is known, but not loaded."""


class ServerBusy(ServerError):
    """The request was dropped from a queue."""


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
)

_STATUS: dict[str, type[TritonClientError]] = {
    "UNAVAILABLE": ServerUnreachable,
    "CANCELLED": ServerUnreachable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
}


def from_status(status: str, words: str, *, model: str, endpoint: str) -> TritonClientError:
    """The error for a reply that is not a success.

    Args:
        status: gRPC's name or HTTP's number of the status.
        words: what came with it.
        model: the model that was asked for, or "".
        endpoint: the URL of the server.
    """
    kind = next((kind for part, kind in _WORDS if part in words), None)
    if kind is None:
        kind = _STATUS.get(_GRPC_NAME.get(status, status), ServerError)
    return kind(words or "no words came with it", model=model, endpoint=endpoint, status=status)
