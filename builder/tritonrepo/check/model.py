"""Repositories and models as the rules see them: read lazily, and nothing twice."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from tritonrepo.check import _textformat
from tritonrepo.check._schema import Schema
from tritonrepo.check._textformat import Document, Message
from tritonrepo.check.rule import Edit, Spot

CONFIG = "config.pbtxt"


class Files(Protocol):
    """The files of one model's directory, wherever they are."""

    def names(self, folder: str = "") -> Mapping[str, bool]:
        """What is in a folder (``""``: the model's own): name -> whether it is a directory. Empty if there is none."""

    def read(self, path: str) -> bytes:
        """A file's content. OSError where it cannot be read."""

    def size(self, path: str) -> int:
        """A file's size in bytes. OSError where there is none."""

    def open_path(self, path: str) -> Path | None:
        """Where the file lies, for those who read only a part of it; None where it is in memory."""


class DiskFiles:
    """Files on disk."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self, folder: str = "") -> Mapping[str, bool]:  # noqa: D102 - see Files
        try:
            with os.scandir(self._root / folder if folder else self._root) as entries:
                return {entry.name: entry.is_dir() for entry in entries}
        except OSError:
            return {}

    def read(self, path: str) -> bytes:  # noqa: D102
        return (self._root / path).read_bytes()

    def size(self, path: str) -> int:  # noqa: D102
        return (self._root / path).stat().st_size

    def open_path(self, path: str) -> Path | None:  # noqa: D102
        return self._root / path


class StagedFiles:
    """Files that are not in a repository yet: contents, or the files that will be copied."""

    def __init__(self, files: Mapping[str, str | bytes | Path]) -> None:
        self._files = files

    def names(self, folder: str = "") -> Mapping[str, bool]:  # noqa: D102 - see Files
        found: dict[str, bool] = {}
        depth = len(PurePosixPath(folder).parts)
        for path in self._files:
            parts = PurePosixPath(path).parts
            if parts[:depth] == PurePosixPath(folder).parts and len(parts) > depth:
                found[parts[depth]] = len(parts) > depth + 1
        return found

    def read(self, path: str) -> bytes:  # noqa: D102
        content = self._file(path)
        if isinstance(content, Path):
            return content.read_bytes()
        return content.encode() if isinstance(content, str) else content

    def size(self, path: str) -> int:  # noqa: D102
        content = self._file(path)
        return content.stat().st_size if isinstance(content, Path) else len(self.read(path))

    def open_path(self, path: str) -> Path | None:  # noqa: D102
        content = self._file(path)
        return content if isinstance(content, Path) else None

    def _file(self, path: str) -> str | bytes | Path:
        if path not in self._files:
            raise FileNotFoundError(path)
        return self._files[path]


class Model:
    """One model's directory."""

    def __init__(self, name: str, path: Path, files: Files, schema: Schema, repository: Repository) -> None:
        self.name = name
        self.path = path
        """Where the directory is, or would be, for messages."""
        self.files = files
        self.repository = repository
        self._schema = schema

    @cached_property
    def entries(self) -> Mapping[str, bool]:
        """Names in the directory -> whether each is a directory."""
        return self.files.names()

    @cached_property
    def versions(self) -> tuple[str, ...]:
        """Names of sub-directories that the server takes for versions (numbers without leading zeros), by number."""
        return tuple(sorted((name for name, folder in self.entries.items() if folder and is_version(name)), key=int))

    @cached_property
    def document(self) -> Document | None:
        """The parsed config; None where there is no file that can be read."""
        try:
            return _textformat.parse(self.files.read(CONFIG), self._schema)
        except OSError:
            return None

    @property
    def config(self) -> Message:
        """The config's message. Only for rules with ``parsed=True``, which run when there is one without errors."""
        if self.document is None:
            raise ValueError(f"{self.name} has no config")
        return self.document.root

    @property
    def backend(self) -> str:
        """The backend's name, from ``backend`` or from the older ``platform``; "" where neither says."""
        platform: str = self.config.get("platform")
        return str(self.config.get("backend")) or PLATFORMS.get(platform, "")

    def spot(
        self,
        field: str,
        message: str,
        hint: str,
        *,
        within: Message | None = None,
        index: int = 0,
        edits: Iterable[Edit] = (),
    ) -> Spot:
        """A spot at a field of the config (of ``within``, where the field is in a message of it)."""
        line, column = (within or self.config).at(field, index)
        return Spot(self.path / CONFIG, line, column, message, hint, tuple(edits))

    def spot_in(self, message: Message, text: str, hint: str) -> Spot:
        """A spot at a message of the config as a whole."""
        return Spot(self.path / CONFIG, message.line, message.column, text, hint)

    def spot_at(self, path: str, text: str, hint: str) -> Spot:
        """A spot at a file or folder of the model; ``""`` is the model's directory."""
        return Spot(self.path / path if path else self.path, None, None, text, hint)


class Repository:
    """The models of one repository. Staged ones may be laid over those on disk, as publishing them would."""

    def __init__(self, path: Path, types: Schema, staged: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self.path = path
        self.types = types
        self._staged = staged or {}

    @cached_property
    def models(self) -> Mapping[str, Model]:
        """Every model by name, in the order of the names."""
        names = {name for name, folder in DiskFiles(self.path).names().items() if folder} | set(self._staged)
        return {name: Model(name, self.path / name, self.files_of(name), self.types, self) for name in sorted(names)}

    def files_of(self, name: str) -> Files:
        """The files of a model."""
        staged = self._staged.get(name)
        return DiskFiles(self.path / name) if staged is None else StagedFiles(staged)


#: Platforms, the older way to name a backend.
PLATFORMS: Mapping[str, str] = {
    "tensorrt_plan": "tensorrt",
    "onnxruntime_onnx": "onnxruntime",
    "pytorch_libtorch": "pytorch",
    "tensorflow_graphdef": "tensorflow",
    "tensorflow_savedmodel": "tensorflow",
    "ensemble": "ensemble",
}


def is_version(name: str) -> bool:
    """Whether the server takes a directory of this name for a version."""
    return name.isascii() and name.isdigit() and not name.startswith("0")
