"""Every error of the load generator.

    PerfError                   exit code 1 unless stated
    ├── UsageError              2  the settings make no sense, together or with what the model takes
    ├── DataError               2  request data that cannot be read or does not fit the model
    ├── ServerError                no server, a model that is not ready, a refusal
    └── WorkerError                a worker process ended, or cannot do its work on this machine

Each says what happened, where, and what to do next.
"""

from __future__ import annotations


class PerfError(Exception):
    """Base of all of them.

    Args:
        message: what happened, and where.
        hint: what to do next.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class UsageError(PerfError):
    """The settings make no sense."""

    exit_code = 2


class DataError(PerfError):
    """Request data that cannot be used."""

    exit_code = 2


class ServerError(PerfError):
    """The server cannot be measured."""


class WorkerError(PerfError):
    """A worker process failed."""
