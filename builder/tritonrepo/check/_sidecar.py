"""What a build leaves beside what it built: the verdict of a version, and the description of a TensorRT plan.

Both are JSON; docs/sidecar.md says what is in them. A file that is not as it should be counts as absent: it is only
ever written by tritonrepo, and its absence says nothing against the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tritonrepo.check.model import Model

_LARGEST = 1 << 20


@dataclass(frozen=True)
class Verdict:
    """What the build of a version proved."""

    path: str
    max_batch_size: int
    rows_independent: bool | None
    """Whether rows of a batch were shown not to depend on each other; None where it was not asked."""
    reason: str


def verdict(model: Model, version: int) -> Verdict | None:
    """The verdict of a version; None where there is none."""
    path = f"{version}.verdict.json"
    found = _object(model, path)
    proof = found.get("verdict")
    batch = found.get("max_batch_size")
    if not isinstance(proof, dict) or not isinstance(batch, int):
        return None
    independent = proof.get("rows_independent")
    reason = proof.get("rows_reason") or found.get("batch_reason")
    return Verdict(
        path, batch, independent if isinstance(independent, bool) else None, reason if isinstance(reason, str) else ""
    )


def _object(model: Model, path: str) -> Mapping[str, Any]:
    """The JSON object in a file of the model; empty where there is none."""
    import json

    try:
        if model.files.is_folder(path) is not False or model.files.size(path) > _LARGEST:
            return {}
        found = json.loads(model.files.read(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
