"""What is asked of the conversion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tritonrepo.prepare.precision.gate import Case
from tritonrepo.spec import Precision, Verification

if TYPE_CHECKING:
    from tritonrepo.prepare.precision.gate import Arrays


@dataclass(frozen=True)
class Request:
    """What is asked for, and what it is judged on."""

    name: str
    """Of the model, for messages."""
    precision: Precision
    verification: Verification
    """Its tolerances hold for the gate too."""
    cases: Callable[[], Sequence[Case]]
    """Inputs, by served names, and the reference's outputs for them."""
    calibration: Callable[[], Iterable[Arrays]]
    """Samples for INT8 ranges, given anew at each call."""
    work: Path | None = None
    """Where the working folder is made: on a disk that holds the model twice; by default the system's place."""
    say: Callable[[str], None] = lambda _: None
    """Told what is going on."""
