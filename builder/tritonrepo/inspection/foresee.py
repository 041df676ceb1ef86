"""What the preparation would change. A process of its own (`ask`) is asked, which loads onnx and no weights."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

#: Seconds that the asking may take.
SECONDS = 30


@dataclass(frozen=True)
class Foreseen:
    """Changes as (pass, what), passes that could not do what they are for as (pass, why), and why nothing is known if
    nothing is.
    """

    changes: tuple[tuple[str, str], ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    unknown: str = ""


class Foreseeing:
    """A question that is answered while the asker does something else. A context manager.

    Args:
        path: the model; None asks nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._path = path

    def __enter__(self) -> Foreseeing:
        if self._path is not None:
            self._out = tempfile.TemporaryFile()
            command = [sys.executable, "-m", "tritonrepo.inspection.ask", str(self._path.absolute())]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=self._out, stderr=subprocess.DEVNULL
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
            self._out.close()

    def result(self) -> Foreseen:
        """The answer; waits for it."""
        if self._process is None:
            return Foreseen(unknown="not asked")
        try:
            status = self._process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            return Foreseen(unknown=f"it took more than {SECONDS} s")
        self._out.seek(0)
        try:
            found = json.loads(self._out.read())
        except ValueError:
            return Foreseen(unknown=f"the process that asks ended with status {status}")
        changes, refused = (tuple((by, text) for by, text in found[key]) for key in ("changes", "refused"))
        return Foreseen(changes, refused, found["unknown"])
