"""Write the table of ModelConfig's fields by server release from the history of model_config.proto.

    git clone https://github.com/triton-inference-server/common
    python scripts/schema_tables.py common > builder/tritonrepo/check/model_config.schema

The releases are the branches rYY.MM of that repository.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PROTO = "protobuf/model_config.proto"
HEADER = """\
# ModelConfig of Triton, by server release. Written by scripts/schema_tables.py; do not edit.
# A last word @A-B: there from release A, gone in release B; @A-: still there; @-B: from the first release on.
# field NAME NUMBER TYPE [repeated | oneof=NAME]; value NAME NUMBER. They belong to the message or enum above them."""

Row = tuple[str, ...]
"""A line of the table without its span, with the full name of its type in front."""

_TOKEN = re.compile(r'//[^\n]*|/\*.*?\*/|"[^"]*"|[\w.]+|[^\s\w]', re.DOTALL)
_RELEASE = re.compile(r"r(2\d\.\d\d)")


def rows(proto: str) -> list[Row]:
    """Every type, field and enum value of a proto3 file, in its order; field types by their full names."""
    tokens = [token for token in _TOKEN.findall(proto) if not token.startswith(("//", "/*"))]
    found = list(_body(iter(tokens), ""))
    types = {row[0] for row in found if row[1] in {"message", "enum"}}
    return [_resolved(row, types) for row in found]


def _body(tokens: Iterator[str], owner: str, kind: str = "", oneof: str = "") -> Iterator[Row]:
    """Read statements up to the closing brace, or to the end of the file."""
    statement: list[str] = []
    for piece in tokens:
        if piece == "}":
            return
        if piece == ";":
            yield from _statement(statement, owner, kind, oneof)
        elif piece == "{":
            word, name = statement
            full = f"{owner}.{name}".lstrip(".")
            if word == "oneof":
                yield from _body(tokens, owner, kind, name)
            else:
                yield full, word
                yield from _body(tokens, full, word)
        else:
            statement.append(piece)
            continue
        statement = []


def _statement(words: list[str], owner: str, kind: str, oneof: str) -> Iterator[Row]:
    if not owner:
        return  # syntax and package
    if "[" in words or words[0] in {"reserved", "option", "extensions", "optional"}:
        raise ValueError(f"{owner}: this script does not know what to make of: {' '.join(words)}")
    *declared, name, _, number = words
    if kind == "enum":
        yield owner, "value", name, number
        return
    label = ("repeated",) if declared[0] == "repeated" else (f"oneof={oneof}",) if oneof else ()
    yield owner, "field", name, number, "".join(declared[1:] if label == ("repeated",) else declared), *label


def _resolved(row: Row, types: set[str]) -> Row:
    """Replace the name of a field's type by the full name: the innermost scope that has it."""
    if row[1] != "field":
        return row

    def full(match: re.Match[str]) -> str:
        scopes = row[0].split(".")
        names = (".".join([*scopes[:depth], match[0]]) for depth in range(len(scopes), -1, -1))
        return next((name for name in names if name in types), match[0])

    return (*row[:4], re.sub(r"[\w.]+", full, row[4]), *row[5:])


def table(protos: dict[str, str]) -> Iterator[str]:
    """The lines of the table from the proto file of each release, oldest first."""
    held: dict[Row, list[str]] = {}
    for release, proto in protos.items():
        for row in rows(proto):
            held.setdefault(row, []).append(release)
    releases = list(protos)
    yield HEADER
    yield " ".join(("releases", *releases))
    owners = dict.fromkeys(row[0] for row in held)
    for owner in owners:
        for row in sorted((row for row in held if row[0] == owner), key=lambda row: row[1] in {"field", "value"}):
            words = row[1:] if len(row) > 2 else (row[1], owner)
            yield " ".join((*words, *_span(held[row], releases)))


def _span(held: list[str], releases: list[str]) -> tuple[str, ...]:
    first, end = releases.index(held[0]), releases.index(held[-1]) + 1
    if releases[first:end] != held:
        raise ValueError(f"this came, went and came again: {held}")
    since, until = held[0] if first else "", releases[end] if end < len(releases) else ""
    return (f"@{since}-{until}",) if since or until else ()


def read(repository: Path) -> dict[str, str]:
    """The proto file of every release branch that has it."""
    program = shutil.which("git") or "git"

    def git(*args: str) -> str:
        return subprocess.run([program, "-C", repository, *args], check=True, capture_output=True, text=True).stdout

    branches = {}
    for ref in git("for-each-ref", "--format=%(refname)").split():
        match = _RELEASE.fullmatch(ref.rpartition("/")[2])
        if match and git("ls-tree", ref, PROTO):
            branches[match[1]] = ref
    return {release: git("show", f"{ref}:{PROTO}") for release, ref in sorted(branches.items())}


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in table(read(Path(sys.argv[1]))))
