"""How far TensorRT is: its phases, nested and of unknown length, as one line; and the wish to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

#: Seconds between two events: the builder completes thousands of steps a second.
_PAUSE = 0.2


@dataclass(frozen=True)
class PlanProgress:
    """What the builder is at."""

    phase: str
    """The innermost phase, in TensorRT's words."""
    fraction: float
    """Of the outermost phase, from 0 to 1."""

    def __str__(self) -> str:
        return f"{self.phase} ({self.fraction:.0%})" if self.fraction else self.phase


@dataclass
class _Phase:
    name: str
    steps: int
    done: int = 0


class Progress:
    """Follows phases, as IProgressMonitor tells them. TensorRT calls it from several threads.

    Args:
        tell: told now and then what the builder is at. Where it raises ConnectionError, nobody listens any more, and
            the build ends.
        seconds: after so many the build ends; None is without limit.
    """

    def __init__(self, tell: Callable[[PlanProgress], None], seconds: float | None = None) -> None:
        self._tell = tell
        self._end = None if seconds is None else time.monotonic() + seconds
        self._phases: list[_Phase] = []
        self._told = 0.0
        self._lock = threading.Lock()
        self.stopped: str | None = None
        """Why the build was told to end: ``time`` or ``alone``; None where it was not."""

    def start(self, name: str, steps: int) -> None:
        """A phase begins within those that have begun and not ended."""
        with self._lock:
            self._phases.append(_Phase(name, max(steps, 1)))
            self._say()

    def step(self, name: str, step: int) -> bool:
        """A step of a phase is done; returns whether to go on."""
        with self._lock:
            for phase in reversed(self._phases):
                if phase.name == name:
                    phase.done = step + 1
                    break
            if self._end is not None and time.monotonic() > self._end:
                self.stopped = self.stopped or "time"
            self._say()
            return self.stopped is None

    def finish(self, name: str) -> None:
        """A phase ends, and with it those that began within it."""
        with self._lock:
            for at in range(len(self._phases) - 1, -1, -1):
                if self._phases[at].name == name:
                    del self._phases[at:]
                    break

    def _say(self) -> None:
        now = time.monotonic()
        if now - self._told < _PAUSE or not self._phases:
            return
        self._told = now
        fraction, share = 0.0, 1.0
        for phase in self._phases:
            fraction += share * min(phase.done / phase.steps, 1)
            share /= phase.steps
        try:
            self._tell(PlanProgress(self._phases[-1].name, min(fraction, 1)))
        except ConnectionError:
            self.stopped = self.stopped or "alone"
