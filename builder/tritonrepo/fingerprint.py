"""What a step's result depends on, and the cache of results by it.

A step's key is the SHA-256 of everything it depends on: the contents of files, settings, the versions of the tools it
uses, and the code of this package. A file's content is hashed when its size, times or inode changed since it was last
hashed, and not otherwise.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TypeVar

from tritonrepo.errors import TritonrepoError

T = TypeVar("T")

#: A file whose time is this close to now may change again without its time changing: its hash is not remembered.
_RACY_NS = 100_000_000

FileStat = tuple[str, int, int, int]


def digest(value: object) -> str:
    """SHA-256 of a value that JSON can hold; the order of keys does not matter. Paths count by their text."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def stat_of(path: Path) -> FileStat:
    """Path, size, modification time (ns) and inode: what must change when a file is written anew."""
    stat = path.stat()
    return (str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)


@cache
def tool_version(distribution: str) -> str:
    """Version of an installed distribution, or ``absent``; of tritonrepo itself, the digest of its code."""
    if distribution == "tritonrepo":
        return _code_digest()
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


class Cache:
    """Results of steps, on disk. Several processes may use one cache at once: every write is a rename."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def file_digest(self, path: Path) -> str:
        """SHA-256 of a file's content."""
        key = stat_of(path)
        memo = self._entry("files", hashlib.sha256(str(path).encode()).hexdigest())
        known = _read_json(memo)
        if isinstance(known, dict) and known.get("stat") == list(key):
            return str(known["sha256"])
        value = _hash_file(path)
        if stat_of(path) != key:
            raise TritonrepoError("the file changed while it was read", where=path, hint="Build again.")
        if time.time_ns() - key[2] > _RACY_NS:
            self._write(memo, {"stat": key, "sha256": value})
        return value

    def get(self, kind: str, key: str) -> object | None:
        """The stored JSON value, or None where there is none (or it is damaged, which counts as none)."""
        return _read_json(self._entry(kind, key))

    def put(self, kind: str, key: str, value: object) -> None:
        """Store a JSON value."""
        self._write(self._entry(kind, key), value)

    def folder(self, kind: str, key: str, fill: Callable[[Path], None]) -> Path:
        """A folder of files by key; ``fill`` writes them when the folder is not there yet, whole or not at all."""
        target = self.root / kind / key[:2] / key
        if target.is_dir():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as temporary:
            staged = Path(temporary) / key
            staged.mkdir()
            fill(staged)
            try:
                staged.rename(target)
            except OSError:  # another process was first, with the same content
                if not target.is_dir():
                    raise
        return target

    def _entry(self, kind: str, key: str) -> Path:
        return self.root / kind / key[:2] / f"{key}.json"

    def _write(self, path: Path, value: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(value, file)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def key_of(step: str, tools: Iterable[str], inputs: Mapping[str, object]) -> str:
    """The key of one step: its name, the versions of its tools and this package's code, and its inputs."""
    versions = {tool: tool_version(tool) for tool in (*tools, "tritonrepo")}
    return digest({"step": step, "tools": versions, "inputs": inputs})


def _read_json(path: Path) -> object | None:
    try:
        return json.loads(path.read_bytes())  # type: ignore[no-any-return]
    except (FileNotFoundError, ValueError):
        return None


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        if hasattr(hashlib, "file_digest"):
            return str(hashlib.file_digest(file, "sha256").hexdigest())
        value = hashlib.sha256()  # Python 3.10
        while block := file.read(1 << 20):
            value.update(block)
        return value.hexdigest()


def _code_digest() -> str:
    """Digest of this package's own source, so that a changed step never answers from an old cache."""
    folder = Path(__file__).parent
    value = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        value.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes() + b"\0")
    return value.hexdigest()
