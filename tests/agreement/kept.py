"""Judgements that are kept, so that a comparison needs no server for what was judged before."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .case import Case
from .judge import SERVER, Judgement, identity

_FIELDS = ("stage", "reason", "model", "seconds")


def folder() -> Path:
    """Where judgements are kept: TRITONREPO_AGREEMENT_CACHE, or a folder in the user's cache."""
    named = os.environ.get("TRITONREPO_AGREEMENT_CACHE")
    if named:
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "tritonrepo" / "agreement"


class Kept:
    """Judgements by what was judged; a line of JSON each, in a file for this server, stub and number of GPUs."""

    def __init__(self, where: Path | None = None) -> None:
        where = where or folder()
        where.mkdir(parents=True, exist_ok=True)
        self.path = where / f"judgements-{SERVER}-{hashlib.sha256(identity()).hexdigest()[:12]}.jsonl"
        self._known: dict[str, Judgement] = {}
        self._read = 0
        self.refresh()

    def __len__(self) -> int:
        return len(self._known)

    def refresh(self) -> None:
        """Read what another process has added."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                digest, *values = json.loads(line)
                self._known[digest] = Judgement(**dict(zip(_FIELDS, values, strict=True)))

    def get(self, case: Case) -> Judgement | None:
        """What is kept on a case; of several judgements the latest."""
        return self._known.get(case.digest)

    def add(self, cases: Sequence[Case], judgements: Sequence[Judgement]) -> None:
        """Keep judgements."""
        lines = []
        for case, judgement in zip(cases, judgements, strict=True):
            self._known[case.digest] = judgement
            values = [getattr(judgement, name) for name in _FIELDS]
            lines.append(json.dumps([case.digest, *values], ensure_ascii=True) + "\n")
        with self.path.open("ab") as file:
            file.write("".join(lines).encode())

    @contextmanager
    def judging(self) -> Iterator[None]:
        """Only one process judges at a time: the machine has better to do than to judge the same twice."""
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.refresh()
            yield
