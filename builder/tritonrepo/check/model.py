"""One model as the rules see it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from tritonrepo import _model_config
from tritonrepo.errors import TritonrepoError, Where


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a model."""

    rule: str
    severity: Literal["reject", "breaks", "advice"]
    """The server refuses the model; it takes it, but requests go wrong; or something could be better."""
    where: Where
    message: str
    hint: str

    def __str__(self) -> str:
        return f"{self.where}: {self.rule} {self.severity}: {self.message}\n  {self.hint}"


@dataclass(frozen=True)
class RepositoryModel:
    """A model's directory: its name, its config's text, and the names of its files by version directory."""

    name: str
    path: Path
    config_text: str | None
    versions: Mapping[str, frozenset[str]]
    """Files below each sub-directory whose name is a number without leading zeros."""

    @classmethod
    def read(cls, folder: Path) -> RepositoryModel:
        """Read a model's directory; files of the version directories are listed, not opened."""
        try:
            text = (folder / "config.pbtxt").read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            text = None
        versions = {
            entry.name: frozenset(file.name for file in os.scandir(entry.path))
            for entry in os.scandir(folder)
            if entry.is_dir() and is_version(entry.name)
        }
        return cls(folder.name, folder, text, versions)

    @property
    def config_path(self) -> Path:
        """Where the config lies."""
        return self.path / "config.pbtxt"

    @cached_property
    def parsed(self) -> tuple[Any, TritonrepoError | None]:
        """The ModelConfig message and no error, or None and the error that parsing ended with."""
        if self.config_text is None:
            return None, None
        try:
            return _model_config.parse(self.config_text, file=self.config_path), None
        except TritonrepoError as error:
            return None, error


def is_version(name: str) -> bool:
    """Whether the server takes a directory of this name for a version."""
    return name.isascii() and name.isdigit() and not name.startswith("0")
