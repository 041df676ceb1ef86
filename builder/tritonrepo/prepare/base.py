"""What every pass gets and gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tritonrepo.introspect import Signature
from tritonrepo.spec import ModelSpec

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Change:
    """One thing that a pass changed."""

    by: str
    """The pass, by its name in the spec's ``prepare`` block."""
    what: str
    why: str
    answers: bool = False
    """Whether the answers change, and are meant to: the reference is then the file with this change."""

    def __str__(self) -> str:
        return f"{self.what} ({self.by}: {self.why})"


@dataclass(frozen=True)
class Context:
    """What a pass may ask for besides the model."""

    spec: ModelSpec
    signature: Signature
    """Of the original file."""
    engine: str
    """The engine that will run the model."""
    without: frozenset[str] = frozenset()
    """Passes that are left out, because what they gave did not hold."""

    @property
    def folder(self) -> Path:
        """Where the weights' files are; a weight that is not in the graph names its file from here."""
        return self.signature.path.parent

    @property
    def batch_is_demanded(self) -> bool:
        """Whether the user asked for a batch, instead of leaving it to us."""
        return self.spec.batching.max_batch_size not in ("auto", 0)


class CannotChange(Exception):  # noqa: N818 - no error: the model stays as it is, and the report says why
    """A pass cannot do what it is for. The model before it goes on; the reason is reported."""


#: A pass: model and context -> model and what changed; nothing changed is an empty tuple. It may change the model in
#: place. Weights of 4 KiB or more are not in the graph, see ``weights``.
Pass = Callable[["onnx.ModelProto", Context], tuple["onnx.ModelProto", tuple[Change, ...]]]
