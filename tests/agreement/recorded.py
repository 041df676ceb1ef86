"""Judgements on the server's and our own cases that are part of the repository, for machines without the server."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast, get_args

from .case import Case
from .judge import SERVER, Judgement, Stage, identity
from .kept import Kept

FILE = Path(__file__).with_name("judgements.txt")


def recorded() -> Mapping[str, Judgement] | None:
    """What is recorded, by digest; None where another judge made it."""
    header, *lines = FILE.read_text(encoding="utf-8").splitlines()
    if header != _header():
        return None
    known = {}
    for line in lines:
        digest, stage, _ = line.split(" ", 2)
        assert stage in get_args(Stage)
        known[digest] = Judgement(cast(Stage, stage))
    return known


def record(cases: Sequence[Case], kept: Kept) -> None:
    """Write what is kept on these cases."""
    lines = []
    for case in cases:
        judgement = kept.get(case)
        if case.known is None and judgement is not None:
            lines.append(f"{case.digest} {judgement.stage} {case.id}\n")
    FILE.write_text("".join([f"{_header()}\n", *lines]), encoding="utf-8")


def _header() -> str:
    return (
        f"# judged by Triton {SERVER}, judge {hashlib.sha256(identity()).hexdigest()[:12]}: digest, what it did, case"
    )
