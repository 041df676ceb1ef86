"""Signature + spec -> Plan: which engine, which batch, which shapes, which files.

Batching, optimization profiles and the config are designed here together, so that every batch and shape that the
batcher can form has a profile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ConcreteEngine = Literal["tensorrt", "onnxruntime", "python"]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Profile:
    """Shapes of every input (batch axis included) at the smallest, the typical and the largest call."""

    min: Mapping[str, Shape]
    opt: Mapping[str, Shape]
    max: Mapping[str, Shape]


@dataclass(frozen=True)
class Plan:
    """What will be served, and why."""

    name: str
    engine: ConcreteEngine
    engine_reason: str
    max_batch_size: int
    batch_reason: str
    profiles: tuple[Profile, ...]
    files: Mapping[str, Path]
    """Files of the version directory that are copied: path below it -> source."""
