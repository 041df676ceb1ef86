"""What stands in a published model's folder, and the record of each version, ``N.verdict.json``.

The record is the verdict with four more keys, all derived from content alone, so that two builds of the same inputs
write the same bytes:

    tritonrepo   format of the record; its presence says that tritonrepo published the version
    files        path below the version's folder -> {sha256, bytes}
    model_files  path below the model's folder -> {sha256, bytes}
    texts        content of those model files that are short texts, config.pbtxt above all: what a rollback restores
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tritonrepo import _disk
from tritonrepo.errors import PublishError

FORMAT = 1
_OWN = ("tritonrepo", "files", "model_files", "texts")


@dataclass(frozen=True)
class Content:
    """What a file holds: SHA-256 and size in bytes."""

    sha256: str
    size: int


Contents = Mapping[str, Content]


@dataclass(frozen=True)
class Record:
    """A parsed ``N.verdict.json``."""

    files: Contents
    model_files: Contents
    texts: Mapping[str, str]
    verdict: Mapping[str, object]
    """What the build handed over as verdict, as JSON holds it."""
    mtime_ns: int
    """When it was written: a file of the version with a later time was changed since."""


def verdict_path(model: Path, version: int) -> Path:
    """The record of a version."""
    return model / f"{version}.verdict.json"


def provenance_path(model: Path, version: int) -> Path:
    """Host and times of the build that made a version."""
    return model / f"{version}.provenance.json"


def sidecar_version(name: str) -> int | None:
    """The version whose record or provenance has this file name."""
    number, _, kind = name.partition(".")
    return as_version(number) if kind in ("verdict.json", "provenance.json") else None


def as_version(name: str) -> int | None:
    """The version that a folder's name stands for, by Triton's rule: digits without leading zeros."""
    return int(name) if name.isascii() and name.isdecimal() and str(int(name)) == name else None


def versions(model: Path) -> tuple[int, ...]:
    """Versions that have a folder, lowest first; () where there is no such model."""
    try:
        with os.scandir(model) as entries:
            numbers = [as_version(entry.name) for entry in entries if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return ()
    return tuple(sorted(number for number in numbers if number is not None))


def read_record(model: Path, version: int) -> Record | None:
    """The record of a version; None where tritonrepo has not written one, or it is damaged."""
    try:
        with verdict_path(model, version).open("rb") as file:
            mtime_ns = os.fstat(file.fileno()).st_mtime_ns
            document = json.load(file)
        if document["tritonrepo"] != FORMAT:
            return None
        return Record(
            files=_parse(document["files"]),
            model_files=_parse(document["model_files"]),
            texts=document["texts"],
            verdict={key: value for key, value in document.items() if key not in _OWN},
            mtime_ns=mtime_ns,
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_record(
    path: Path, files: Contents, model_files: Contents, texts: Mapping[str, str], verdict: Mapping[str, object]
) -> None:
    """Write the record; durable when this returns."""
    own = {
        "tritonrepo": FORMAT,
        "files": _plain_contents(files),
        "model_files": _plain_contents(model_files),
        "texts": texts,
    }
    clash = sorted(own.keys() & verdict.keys())
    if clash:
        raise PublishError(f"the verdict has keys that the record needs for itself: {', '.join(clash)}", where=path)
    _disk.write(to_json({**verdict, **own}), path)


def to_json(document: Mapping[str, object]) -> bytes:
    """The same bytes for the same document, whatever the order of its keys."""
    text = json.dumps(plain(document), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def plain(value: object) -> object:
    """A value as it comes back from a JSON file; NaN and infinities, which JSON lacks, become texts."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def intact(folder: Path, contents: Contents, since_ns: int) -> bool:
    """Whether the files are there as recorded: by size, and by content where one is younger than the record."""
    for path, content in contents.items():
        file = folder / path
        try:
            stat = file.stat()
        except OSError:
            return False
        if stat.st_size != content.size or not file.is_file():
            return False
        if stat.st_mtime_ns > since_ns and _disk.file_digest(file) != content.sha256:
            return False
    return True


def scan(folder: Path, prefix: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Everything below a folder but folders, as (path below it, entry), in order; Python's caches are left out."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if entry.name != _disk.CACHES:
                yield from scan(folder / entry.name, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name, entry


def _parse(contents: Mapping[str, Mapping[str, object]]) -> dict[str, Content]:
    return {path: Content(str(each["sha256"]), int(str(each["bytes"]))) for path, each in contents.items()}


def _plain_contents(contents: Contents) -> dict[str, object]:
    return {path: {"sha256": content.sha256, "bytes": content.size} for path, content in contents.items()}
