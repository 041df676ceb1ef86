"""Every error that tritonrepo raises on purpose.

    TritonrepoError                 exit code 1 unless stated
    ├── UsageError                  2  the command line asks for something that makes no sense
    ├── SpecError                   2  models.yaml has faults; carries all of them
    ├── ModelError                     an ONNX file that cannot be read, prepared or served
    │   └── MissingRangeError          a dynamic axis that the spec gives no range for
    ├── TemplateError                  a template fails, or lays out something other than what was meant
    ├── VerificationError              the artefact does not give the reference's answers
    ├── CheckError                     what would be published breaks a rule of the checker
    ├── EngineError                    an engine cannot build or run here (no TensorRT, no GPU, ...)
    ├── PublishError                   the repository cannot be changed (disk, permissions, file system)
    │   └── LockedError                another build holds the repository
    ├── ServeError                     a server cannot be found, started or reached
    └── InferError                     an inference request cannot be formed or was refused

Each says *what* happened, *where* (a file, with line and column if there is one) and *what to do next*. Nothing here
prints; the command line does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Where:
    """A place in a file. ``line`` and ``column`` count from 1; None where they are unknown."""

    file: Path | str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong in a spec: the path of the key (``models[2].batching``), the place, and the mend."""

    path: str
    message: str
    where: Where | None = None
    hint: str | None = None

    def __str__(self) -> str:
        return _join(f"{self.path}: {self.message}" if self.path else self.message, self.where, self.hint)


class TritonrepoError(Exception):
    """Base of all of them.

    Args:
        message: what happened, to what; one sentence without a full stop is fine.
        where: the file (and line) it happened in.
        hint: what to do next.
    """

    exit_code = 1

    def __init__(self, message: str, *, where: Where | Path | str | None = None, hint: str | None = None) -> None:
        self.message = message
        self.where = Where(where) if isinstance(where, Path | str) else where
        self.hint = hint
        super().__init__(message)

    def __str__(self) -> str:
        return _join(self.message, self.where, self.hint)


class UsageError(TritonrepoError):
    """The command line asks for something that makes no sense."""

    exit_code = 2


class SpecError(TritonrepoError):
    """Carries every fault that was found, in the order of the file."""

    exit_code = 2

    def __init__(self, faults: Sequence[Fault], *, where: Where | Path | str | None = None) -> None:
        self.faults = tuple(faults)
        count = len(self.faults)
        super().__init__(f"{count} fault{'s' if count != 1 else ''} in the spec", where=where)

    def __str__(self) -> str:
        return "\n".join(str(fault) for fault in self.faults)


class ModelError(TritonrepoError):
    """An ONNX file cannot be read, prepared or served."""


class MissingRangeError(ModelError):
    """A dynamic axis has no range, and none can be guessed; the hint has the lines to add to the spec."""


class TemplateError(TritonrepoError):
    """A template fails, or lays out something other than what was meant."""


class VerificationError(TritonrepoError):
    """The artefact does not give the reference's answers, or a sample does not fit."""


class CheckError(TritonrepoError):
    """What would be published breaks a rule of the checker."""


class EngineError(TritonrepoError):
    """An engine cannot build or run here."""


class PublishError(TritonrepoError):
    """The repository cannot be changed; it is as it was."""


class LockedError(PublishError):
    """Another build holds the repository."""


class ServeError(TritonrepoError):
    """A server cannot be found, started or reached."""


class InferError(TritonrepoError):
    """An inference request cannot be formed, or was refused."""


def _join(message: str, where: Where | None, hint: str | None) -> str:
    text = f"{where}: {message}" if where else message
    return f"{text}\n  {hint}" if hint else text
