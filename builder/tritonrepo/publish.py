"""Staged model -> repository: complete old or complete new at every instant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Staged:
    """A model that is ready to be published.

    The published directory of model ``ocr`` at version 3 looks like this:

        ocr/config.pbtxt, ocr/labels.txt, ...   `model_files`: one set for all versions
        ocr/3/model.onnx, ocr/3/model.py        `version_files`: what makes a version
        ocr/3.verdict.json                      `verdict`: deterministic, part of what is hashed
        ocr/3.provenance.json                   `provenance`: host and times, not hashed
    """

    name: str
    model_files: Mapping[str, bytes | Path]
    """Path below the model's directory -> content, or the file to copy."""
    version_files: Mapping[str, bytes | Path]
    """Path below the version's directory -> content, or the file to copy."""
    verdict: Mapping[str, object]
    provenance: Mapping[str, object]


@dataclass(frozen=True)
class Published:
    """What publishing did."""

    name: str
    version: int
    action: str
    """``new``, ``new version``, ``new config`` or ``unchanged``."""
    path: Path
