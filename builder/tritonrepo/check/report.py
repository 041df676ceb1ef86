"""Findings as people and machines read them: text, JSON, GitHub annotations, SARIF."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import tritonrepo
from tritonrepo.check.rule import Finding, Rule, Severity, Target

#: What each severity means, for one finding: "is ...".
SEVERITIES: Mapping[Severity, str] = {
    "reject": "refused by the server",
    "hang": "hanging the load",
    "crash": "crashing the server",
    "breaks": "accepted, but requests go wrong",
    "advice": "advice",
}

RULES_PAGE = "https://github.com/tritonrepo/tritonrepo/blob/main/docs/rules.md"

_SHOWN = 100
"""How much of a long line is shown, in characters."""
_BEFORE = 60
"""How much of it at most before the place."""


@dataclass(frozen=True)
class Report:
    """What was checked, and what was found."""

    paths: tuple[Path, ...]
    """As they were given."""
    models: int
    """How many were checked."""
    rules: tuple[Rule, ...]
    """By which they were checked."""
    target: Target
    findings: tuple[Finding, ...]
    mended: tuple[Finding, ...] = ()
    """What was found and mended."""
    strict: bool = False
    """Whether advice counts."""

    @property
    def failed(self) -> bool:
        """Whether anything was found that counts."""
        return any(self.counts(finding) for finding in self.findings)

    def counts(self, finding: Finding) -> bool:
        """Whether a finding makes the check fail."""
        return self.strict or finding.severity != "advice"

    @cached_property
    def lines(self) -> _Lines:
        """The lines of the files."""
        return _Lines()


def text(report: Report) -> str:
    """For people: by model, each finding with its place, the line there, and what to do."""
    parts = [f"mended {_place(finding)}: {finding.rule}: {printable(finding.message)}\n" for finding in report.mended]
    if report.mended and report.findings:
        parts.append("\n")
    for model, findings in groupby(report.findings, lambda finding: finding.model):
        parts.append(f"{printable(model)}\n")
        parts += [_paragraph(report, finding) for finding in findings]
        parts.append("\n")
    return "".join([*parts, summary(report), "\n"])


def summary(report: Report) -> str:
    """One line that says how much was found."""
    # A hook gives every file that changed.
    where = printable(", ".join(map(str, report.paths))) if len(report.paths) <= 3 else f"{len(report.paths)} paths"
    if not report.models:
        return f"{where}: there are no models"
    if not report.findings:
        return f"{where}: nothing {'left' if report.mended else 'found'} in {_number(report.models, 'model')}"
    counts = Counter(finding.severity for finding in report.findings)
    kinds = ", ".join(f"{counts[severity]} {words}" for severity, words in SEVERITIES.items() if counts[severity])
    mendable = sum(bool(finding.edits) for finding in report.findings)
    more = f"; --fix mends {mendable}" if mendable else ""
    return f"{where}: {_number(len(report.findings), 'finding')} in {_number(report.models, 'model')}: {kinds}{more}"


def as_json(report: Report) -> str:
    """For programs: docs/check.schema.json describes it."""
    import json

    counts = Counter(finding.severity for finding in report.findings)
    document = {
        "version": 1,
        "triton": report.target.release,
        "paths": [printable(str(path)) for path in report.paths],
        "models": report.models,
        "failed": report.failed,
        "summary": {severity: counts[severity] for severity in SEVERITIES},
        "findings": [_finding(finding) for finding in report.findings],
        "mended": [_finding(finding) for finding in report.mended],
    }
    return json.dumps(document, indent=2) + "\n"


def github(report: Report) -> str:
    """For GitHub Actions: each finding becomes an annotation of its line."""
    lines = []
    for finding in report.findings:
        level = "error" if report.counts(finding) else "notice"
        properties = {"file": printable(_relative(finding.file)), "title": f"{finding.rule} ({finding.severity})"}
        if finding.line:
            properties |= {"line": str(finding.line), "col": str(report.lines.character(finding))}
        marks = ",".join(f"{key}={_escaped(value, property_=True)}" for key, value in properties.items())
        lines.append(f"::{level} {marks}::{_escaped(_sentences(finding))}\n")
    return "".join([*lines, summary(report), "\n"])


def sarif(report: Report) -> str:
    """SARIF 2.1.0, for code scanning. Columns count characters; files are relative to the working directory."""
    import json

    index = {rule.id: number for number, rule in enumerate(report.rules)}
    driver = {
        "name": "tritonrepo",
        "version": tritonrepo.__version__,
        "informationUri": "https://github.com/tritonrepo/tritonrepo",
        "rules": [_sarif_rule(rule) for rule in report.rules],
    }
    results = [_sarif_result(report, finding, index[finding.rule]) for finding in report.findings]
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    schema = "https://json.schemastore.org/sarif-2.1.0.json"
    return json.dumps({"$schema": schema, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


FORMATS: Mapping[str, Callable[[Report], str]] = {"text": text, "json": as_json, "github": github, "sarif": sarif}


def printable(value: str) -> str:
    """A text for one line of a terminal: what cannot be printed, or would steer the terminal, as an escape."""
    if value.isprintable():
        return value
    return "".join(character if character.isprintable() else _escape(character) for character in value)


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def _paragraph(report: Report, finding: Finding) -> str:
    lines = [f"  {_place(finding)}: {finding.rule} {finding.severity}: {printable(finding.message)}"]
    lines += [f"      {line}" for line in report.lines.pointed(finding)]
    if finding.hint:
        lines.append(f"    {printable(finding.hint)}")
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _place(finding: Finding) -> str:
    return printable(finding.where)


def _sentences(finding: Finding) -> str:
    """What is wrong and what to do, in one paragraph."""
    message = printable(finding.message)
    return f"{message.rstrip('.')}. {printable(finding.hint)}" if finding.hint else message


def _number(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "rule": finding.rule,
        "severity": finding.severity,
        "model": printable(finding.model),
        "file": printable(str(finding.file)),
        "line": finding.line,
        "column": finding.column,
        "message": printable(finding.message),
        "hint": printable(finding.hint),
        "edits": [{"start": edit.start, "end": edit.end, "text": edit.text} for edit in finding.edits],
    }


def _relative(file: Path) -> str:
    """A path from the working directory where it is below it, else an absolute one."""
    path = os.path.abspath(file)  # noqa: PTH100 - symbolic links stay
    here = str(Path.cwd()).rstrip("/") + "/"
    return path.removeprefix(here)


def _escaped(value: str, *, property_: bool = False) -> str:
    """A value of a GitHub workflow command; a property's has more to escape."""
    value = value.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return value.replace(":", "%3A").replace(",", "%2C") if property_ else value


def _sarif_rule(rule: Rule) -> dict[str, Any]:
    from tritonrepo.check.explain import explain, section

    return {
        "id": rule.id,
        "name": rule.run.__name__,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.explanation},
        "help": {"text": explain(rule), "markdown": section(rule)},
        "helpUri": f"{RULES_PAGE}#{rule.id.lower()}",
        "defaultConfiguration": {"level": _level(rule.severity)},
        "properties": {"severity": rule.severity, "tags": [rule.topic]},
    }


def _sarif_result(report: Report, finding: Finding, rule_index: int) -> dict[str, Any]:
    artifact = _artifact(finding.file)
    # GitHub shows no result without a line.
    region = {"startLine": finding.line or 1}
    if finding.line:
        region["startColumn"] = report.lines.character(finding)
    result: dict[str, Any] = {
        "ruleId": finding.rule,
        "ruleIndex": rule_index,
        "level": _level(finding.severity),
        "message": {"text": _sentences(finding)},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": artifact, "region": region},
                "logicalLocations": [{"name": printable(finding.model), "kind": "module"}],
            }
        ],
    }
    if finding.edits:
        replacements = [
            {
                "deletedRegion": {"byteOffset": edit.start, "byteLength": edit.end - edit.start},
                "insertedContent": {"text": edit.text},
            }
            for edit in finding.edits
        ]
        result["fixes"] = [{"artifactChanges": [{"artifactLocation": artifact, "replacements": replacements}]}]
    return result


def _level(severity: Severity) -> str:
    return "note" if severity == "advice" else "error"


def _artifact(file: Path) -> dict[str, str]:
    from urllib.parse import quote

    path = _relative(file)
    if Path(path).is_absolute():
        return {"uri": "file://" + quote(os.fsencode(path))}
    # A colon in the first part of a relative reference would be read as that of a scheme.
    return {"uri": quote(os.fsencode(path), safe="/"), "uriBaseId": "%SRCROOT%"}


class _Lines:
    """Lines of files, to point at places in them. The server counts bytes, with tab stops at each eighth column."""

    def __init__(self) -> None:
        self._files: dict[Path, list[bytes]] = {}

    def character(self, finding: Finding) -> int:
        """The place's column counted in characters, from 1."""
        return len(self._before(finding)) + 1

    def pointed(self, finding: Finding) -> Iterator[str]:
        """The line of a finding, and one with a caret below its place; nothing where the finding has no line."""
        line = self._line(finding)
        if line is None:
            return
        before = printable(self._before(finding).expandtabs(8))
        shown = printable(_decoded(line).rstrip().expandtabs(8))
        cut = max(0, len(before) - _BEFORE) if len(shown) > _SHOWN else 0
        if cut:
            shown, before = "..." + shown[cut + 3 :], before[cut:]
        if len(shown) > _SHOWN:
            shown = shown[: _SHOWN - 3] + "..."
        yield shown
        yield " " * len(before) + "^"

    def _line(self, finding: Finding) -> bytes | None:
        if finding.line is None:
            return None
        lines = self._of(finding.file)
        return lines[finding.line - 1] if finding.line <= len(lines) else None

    def _before(self, finding: Finding) -> str:
        """What stands before the place in its line."""
        line, column, at = self._line(finding) or b"", 1, 0
        while column < (finding.column or 1) and at < len(line):
            column += 8 - (column - 1) % 8 if line[at] == 0x09 else 1
            at += 1
        return _decoded(line[:at])

    def _of(self, file: Path) -> list[bytes]:
        if file not in self._files:
            try:
                self._files[file] = file.read_bytes().split(b"\n")
            except OSError:
                self._files[file] = []
        return self._files[file]


def _decoded(line: bytes) -> str:
    return line.decode(errors="surrogateescape")
