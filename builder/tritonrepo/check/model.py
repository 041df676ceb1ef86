"""Repositories and models as the rules see them: read lazily, and nothing twice."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar, cast

from tritonrepo.check import _textformat
from tritonrepo.check._schema import Schema
from tritonrepo.check._textformat import Document, Message
from tritonrepo.check.rule import Edit, Spot

CONFIG = "config.pbtxt"

T = TypeVar("T")
A = TypeVar("A", bound="Asked")


class Files(Protocol):
    """The files of one model's directory, wherever they are."""

    def names(self, folder: str = "") -> Mapping[str, bool]:
        """What is in a folder (``""``: the model's own): name -> whether it is a directory. Empty if there is none."""

    def broken_links(self) -> Sequence[str]:
        """Names in the model's own folder of symbolic links that lead nowhere; ``""`` where the folder is one."""

    def is_folder(self, path: str) -> bool | None:
        """Whether a path is a folder's; None where nothing is there."""

    def read(self, path: str) -> bytes:
        """A file's content. OSError where it cannot be read."""

    def size(self, path: str) -> int:
        """A file's size in bytes. OSError where there is none."""

    def open_path(self, path: str) -> Path | None:
        """Where the file lies, for those who read only a part of it; None where it is in memory."""


class DiskFiles:
    """Files on disk. Paths are joined as texts, for a repository of thousands of models."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._broken: list[str] | None = None

    def names(self, folder: str = "") -> Mapping[str, bool]:  # noqa: D102 - see Files
        found, broken = {}, []
        try:
            with os.scandir(self._at(folder)) as entries:
                for each in entries:
                    # A link that leads nowhere is as good as nothing.
                    if each.is_symlink() and not os.path.exists(each.path):  # noqa: PTH110
                        broken.append(each.name)
                    else:
                        found[each.name] = each.is_dir()
        except OSError:
            broken += [""] * self._root.is_symlink()
        if not folder:
            self._broken = broken
        return found

    def broken_links(self) -> Sequence[str]:  # noqa: D102
        if self._broken is None:
            self.names()
        return self._broken or ()

    def is_folder(self, path: str) -> bool | None:  # noqa: D102
        try:
            return stat.S_ISDIR(os.stat(self._at(path)).st_mode)  # noqa: PTH116
        except OSError:
            return None

    def read(self, path: str) -> bytes:  # noqa: D102
        with open(self._at(path), "rb", buffering=0) as file:  # noqa: PTH123
            return file.readall()

    def size(self, path: str) -> int:  # noqa: D102
        return os.stat(self._at(path)).st_size  # noqa: PTH116

    def open_path(self, path: str) -> Path | None:  # noqa: D102
        return self._root / path

    def _at(self, path: str) -> str:
        if "\0" in path:  # from a config; Python would raise a ValueError
            raise FileNotFoundError(path)
        return f"{self._root}/{path}"


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

    def broken_links(self) -> Sequence[str]:  # noqa: D102
        return ()

    def is_folder(self, path: str) -> bool | None:  # noqa: D102
        folder, _, name = os.path.normpath(path).rpartition("/")
        return self.names(folder).get(name)

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


class Asked:
    """What several rules want to know of it is worked out once."""

    def __init__(self) -> None:
        self._answers: dict[object, object] = {}

    def once(self: A, question: Callable[[A], T]) -> T:
        """What a function says of this object; it is asked the first time only."""
        if question not in self._answers:
            self._answers[question] = question(self)
        return cast("T", self._answers[question])


class Model(Asked):
    """One model's directory."""

    def __init__(self, name: str, path: Path, files: Files, schema: Schema, repository: Repository) -> None:
        self.name = name
        self.path = path
        """Where the directory is, or would be, for messages."""
        self.files = files
        self.repository = repository
        self._schema = schema
        super().__init__()

    @cached_property
    def entries(self) -> Mapping[str, bool]:
        """Names in the directory -> whether each is a directory."""
        return self.files.names()

    @cached_property
    def broken_links(self) -> Sequence[str]:
        """Names in the directory of symbolic links that lead nowhere; ``""`` where the directory is one."""
        return self.files.broken_links()

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
    def readable(self) -> bool:
        """Whether the server has a config to go by: the one that is there, or where there is none an empty one."""
        return self.document.error is None if self.document else CONFIG not in self.entries

    @cached_property
    def config(self) -> Message:
        """The config's message, empty where there is no file. Only for rules with ``parsed=True``."""
        document = self.document or _textformat.parse(b"", self._schema)
        return document.root

    @property
    def backend(self) -> str:
        """Name of the backend that will serve the model, as the server concludes it; "" for none, and for ensembles."""
        return self.completed.backend

    @cached_property
    def completed(self) -> Completed:
        """What the server makes of the config's platform, backend and file name, completed from the files there are."""
        return complete(self)

    @cached_property
    def numbers(self) -> Mapping[str, int]:
        """Directories that the server takes for versions -> the numbers it reads in them; ``1.bak`` is 1 to it."""
        found = {}
        for name, folder in self.entries.items():
            match = _NUMBER.match(name) if folder and not (name[0] == "0" and len(name) > 1) else None
            if match:
                found[name] = int(match[1])
        return found

    @cached_property
    def served(self) -> tuple[int, ...]:
        """The versions that the server would load, highest first; it looks for each in the directory of that number."""
        known = sorted(set(self.numbers.values()), reverse=True)
        policy = self.config.get("version_policy")
        choice = policy.one_of("policy_choice")
        if choice == "specific":
            wanted = set(policy.get("specific").all("versions"))
            return tuple(number for number in known if number in wanted)
        if choice == "latest" or not self.config.has("version_policy"):
            return tuple(known[: policy.get("latest").get("num_versions") if choice else 1])
        return tuple(known)

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
        if self.document is None:
            return self.spot_at("", message, hint)
        line, column = (within or self.config).at(field, index)
        return Spot(self.path / CONFIG, line, column, message, hint, tuple(edits))

    def spot_in(self, message: Message, text: str, hint: str) -> Spot:
        """A spot at a message of the config as a whole."""
        return Spot(self.path / CONFIG, message.line, message.column, text, hint)

    def spot_at(self, path: str, text: str, hint: str) -> Spot:
        """A spot at a file or folder of the model; ``""`` is the model's directory."""
        return Spot(self.path / path if path else self.path, None, None, text, hint)


class Repository(Asked):
    """The models of one repository. Staged ones may be laid over those on disk, as publishing them would."""

    def __init__(self, path: Path, types: Schema, staged: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self.path = path
        self.types = types
        self._staged = staged or {}
        super().__init__()

    @cached_property
    def models(self) -> Mapping[str, Model]:
        """Every model by name, in the order of the names; links that lead nowhere are as much in the server's way."""
        root = DiskFiles(self.path)
        names = {name for name, folder in root.names().items() if folder} | {*root.broken_links()} | set(self._staged)
        return {name: Model(name, self.path / name, self.files_of(name), self.types, self) for name in sorted(names)}

    def files_of(self, name: str) -> Files:
        """The files of a model."""
        staged = self._staged.get(name)
        return DiskFiles(self.path / name) if staged is None else StagedFiles(staged)


@dataclass(frozen=True)
class Completed:
    """What is written in a config of where its model comes from, or else what the server fills in."""

    platform: str
    backend: str
    filename: str


#: What the server looks for in this order: backend, platform, model file. TensorFlow comes before them.
_KNOWN = (
    ("tensorrt", "tensorrt_plan", "model.plan"),
    ("onnxruntime", "onnxruntime_onnx", "model.onnx"),
    ("openvino", "", "model.xml"),
    ("pytorch", "pytorch_libtorch", "model.pt"),
    ("python", "", "model.py"),
)
#: Since 26.03 after those.
_TORCH_AOTI = ("pytorch", "torch_aoti", "model.pt2")
_TENSORFLOW = {"model.savedmodel": "tensorflow_savedmodel", "model.graphdef": "tensorflow_graphdef"}


def complete(model: Model) -> Completed:
    """Fill in platform, backend and file name as the server does before anything else, whatever the config says."""
    config = model.config
    platform, backend, filename = config.get("platform"), config.get("backend"), config.get("default_model_filename")
    if not platform and backend in {"", "tensorflow"}:
        platform = _tensorflow(model, filename)
    if platform in _TENSORFLOW.values():
        own = next(name for name, of in _TENSORFLOW.items() if of == platform)
        return Completed(platform, backend or "tensorflow", filename or own)
    if not backend:
        backend = _recognized(model, platform, filename)
    rows = [row for row in _known(model) if row[0] == backend]
    if rows:
        _, own_platform, own = next((row for row in rows if platform == row[1]), rows[0])
        if backend == "pytorch" and config.get("runtime") == "model.py":
            own = ""
        return Completed(platform or own_platform, backend, filename or own)
    if not (backend or platform or filename) and "." in model.name:
        # A backend of one's own is told by the model's name.
        backend = model.name.split(".", 1)[1]
        return Completed("", backend, f"model.{backend}")
    return Completed(platform, backend, filename)


def _known(model: Model) -> tuple[tuple[str, str, str], ...]:
    return (*_KNOWN, _TORCH_AOTI) if model.repository.types.release >= "26.03" else _KNOWN


def _tensorflow(model: Model, filename: str) -> str:
    """The platform if this is a TensorFlow model, else ``""``; a graph, which is a file, counts for more."""
    if filename:
        return _TENSORFLOW.get(filename, "")
    there = _first_version(model)
    if there.get("model.graphdef") is False:
        return "tensorflow_graphdef"
    return "tensorflow_savedmodel" if there.get("model.savedmodel") else ""


def _recognized(model: Model, platform: str, filename: str) -> str:
    """The backend that a platform, a file name or, without both, a file stands for."""
    there = {} if platform or filename else _first_version(model)
    for backend, own_platform, own in _known(model):
        if (platform and platform == own_platform) or filename == own:
            return backend
        # These may be folders.
        if own in there and (not there[own] or backend in {"onnxruntime", "openvino", "python"}):
            return backend
    return ""


def _first_version(model: Model) -> Mapping[str, bool]:
    """What is in the first directory by name, which the server takes for a version whatever it is."""
    folders = [name for name, folder in model.entries.items() if folder]
    return model.files.names(first_folder(folders)) if folders else {}


def first_folder(names: Iterable[str]) -> str:
    """The folder that the server takes for the first version: the first in the order of the names' bytes."""
    return min(names, key=os.fsencode)


# As the server reads a directory's name: what follows the number does not matter.
_NUMBER = re.compile(r"[ \t-\r]*([+-]?[0-9]+)")


def is_version(name: str) -> bool:
    """Whether a directory of this name holds a version: a number without leading zeros."""
    return name.isascii() and name.isdigit() and (name == "0" or not name.startswith("0"))
