"""What `tritonrepo check` says of a case, set against what the server did."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .case import Case, Tree
from .judge import Judgement

NOT_ACCEPTED = frozenset({"reject", "hang", "crash"})
"""Severities that say that the server does not take the model."""

# The stub backends do not look into models, so what rules find there has no judge.
_ABOUT_CONTENT = ("TR8",)


@dataclass(frozen=True)
class Outcome:
    """A case with what the server did and what `check` found.

    Attributes:
        stage: the judgement's, or ``loaded`` / ``refused`` where it is known otherwise.
        reason: the server's words.
        findings: those that say that the server does not take it; a traceback counts as one.
    """

    case: Case
    stage: str
    reason: str
    findings: tuple[str, ...]

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
    return Outcome(case, stage, reason, () if case.beyond else _predict(case, folder))


def describe(outcome: Outcome) -> str:
    """A disagreement, with everything that is needed to look into it."""
    lines = [f"=== {outcome.case.id}", f"server: {outcome.stage} {outcome.reason}"]
    lines += [f"check:  {finding}" for finding in outcome.findings or ("finds nothing",)]
    for path, content in outcome.case.tree.items():
        shown = content.decode("utf-8", errors="backslashreplace") if path.endswith("config.pbtxt") else ""
        lines += [f"--- {path}", *shown.splitlines()]
    return "\n".join(lines) + "\n\n"


def _predict(case: Case, folder: Path) -> tuple[str, ...]:
    # Imported here, so that the server can judge while rules are being written.
    from tritonrepo.check import Finding, check

    repository = folder / "repository"
    _write(case.tree, repository)
    try:
        findings: Sequence[Finding] = check(repository)
    except Exception as error:
        return (f"{type(error).__name__}: {error}",)
    finally:
        shutil.rmtree(repository)
    return tuple(
        str(each)
        for each in findings
        if each.severity in NOT_ACCEPTED and (case.known is not None or not each.rule.startswith(_ABOUT_CONTENT))
    )


def _write(tree: Tree, repository: Path) -> None:
    repository.mkdir()
    for path, content in tree.items():
        target = repository / path
        if path.endswith("/"):
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
