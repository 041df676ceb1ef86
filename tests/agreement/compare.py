"""What `tritonrepo check` says of a case, set against what the server did."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .case import Case, content_of, write_tree
from .judge import BACKENDS, RELEASE, Judgement

if TYPE_CHECKING:
    from tritonrepo.check import Finding

_CAPABILITY = "9.0"
_FAULT = re.compile(r"\d+:\d+: ")


@dataclass(frozen=True)
class Outcome:
    """A case with what the server did and what `check` found.

    Attributes:
        stage: the judgement's, or ``loaded`` / ``refused`` where it is known otherwise.
        reason: the server's words.
        findings: those that say that the server does not take it; a traceback counts as one.
        unsure: whether all of these say that it crashes or hangs, which it may do now and then only.
        same_fault: for a text that the server cannot read, whether our parser's first error is the server's, words
            and place.
    """

    case: Case
    stage: str
    reason: str
    findings: tuple[str, ...]
    unsure: bool = False
    same_fault: bool | None = None

    @property
    def disagrees(self) -> bool:
        """Whether the server took what `check` refuses, or the other way round."""
        return not self.case.beyond and (self.stage == "loaded") == bool(self.findings)


def compare(case: Case, judgement: Judgement | None, folder: Path) -> Outcome:
    """Ask `check` about a case; it is written below ``folder`` for that."""
    if case.known is not None:
        stage, reason = ("loaded" if case.known else "refused"), "known, not judged here"
    else:
        assert judgement is not None, f"{case.id} has not been judged"
        stage, reason = judgement.stage, judgement.reason
    if case.beyond:
        return Outcome(case, stage, reason, ())
    try:
        findings = _findings(case, folder)
    except Exception as error:
        return Outcome(case, stage, reason, (f"{type(error).__name__}: {error}",))
    unsure = bool(findings) and not any(each.severity == "reject" for each in findings)
    fault = _same_fault(case, judgement) if judgement is not None and _FAULT.match(judgement.reason) else None
    return Outcome(case, stage, reason, tuple(map(str, findings)), unsure, fault)


def describe(outcome: Outcome) -> str:
    """A disagreement, or another parse error than the server's, with everything that is needed to look into it."""
    lines = [f"=== {outcome.case.id}", f"server: {outcome.stage} {outcome.reason}"]
    lines += [f"check:  {finding}" for finding in outcome.findings or ("finds nothing",)]
    for path, content in outcome.case.tree.items():
        shown = content.decode("utf-8", errors="backslashreplace") if path.endswith("config.pbtxt") else ""
        lines += [f"--- {path}", *shown.splitlines()]
    return "\n".join(lines) + "\n\n"


def _findings(case: Case, folder: Path) -> list[Finding]:
    # Imported here, so that the server can judge while rules are being written.
    from tritonrepo.check import NOT_SERVED, Target, check

    target = Target(
        release=RELEASE,
        backends=frozenset(BACKENDS),
        gpus=(_CAPABILITY,) * case.gpus,
        gpu_count=case.gpus,
        response_cache=False,
        this_machine=True,
        only_core=case.known is None,
    )
    repository = folder / "repository"
    repository.mkdir()
    write_tree(case.tree, str(repository))
    try:
        return [each for each in check(repository, target) if each.severity in NOT_SERVED]
    finally:
        shutil.rmtree(repository)


def _same_fault(case: Case, judgement: Judgement) -> bool:
    from tritonrepo.check._schema import schema
    from tritonrepo.check._textformat import parse

    error = parse(content_of(case.tree, f"{judgement.model}/config.pbtxt"), schema(RELEASE)).error
    return error is not None and judgement.reason == f"{error.line}:{error.column}: {error.message}"
