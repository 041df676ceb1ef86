"""Repository -> Findings: what the server would refuse, said before it is started.

A rule is a small function in ``rules``; it gets one model as it lies in a repository (or as it is about to be
published) and yields findings. Nothing here imports onnx, onnxruntime, tritonclient or tensorrt.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tritonrepo.check.model import Finding, RepositoryModel
from tritonrepo.check.rules import RULES
from tritonrepo.errors import UsageError

__all__ = ["Finding", "RepositoryModel", "check", "check_model"]


def check(repository: Path) -> tuple[Finding, ...]:
    """Check every model of a repository, hand-written ones too.

    Raises:
        UsageError: there is no such folder.
    """
    if not repository.is_dir():
        raise UsageError("no such folder", where=repository, hint="Give the path of a model repository.")
    folders = sorted(Path(entry.path) for entry in os.scandir(repository) if entry.is_dir())
    return tuple(finding for folder in folders for finding in check_model(RepositoryModel.read(folder)))


def check_model(model: RepositoryModel) -> Iterator[Finding]:
    """Check one model."""
    for rule in RULES:
        yield from rule(model)
