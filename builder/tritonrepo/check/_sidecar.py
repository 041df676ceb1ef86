"""What a build leaves beside what it built: the verdict of a version, and the description of a TensorRT plan.

Both are JSON; docs/sidecar.md says what is in them. A file that is not as it should be counts as absent: only
tritonrepo writes it, and its absence says nothing against the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tritonrepo.check.model import Model

#: Ending of the description of a plan: model.plan.json describes model.plan.
SUFFIX = ".json"
FORMAT = 1

_LARGEST = 1 << 20

Dims = tuple[int, ...]


@dataclass(frozen=True)
class Verdict:
    """What the build of a version proved."""

    path: str
    max_batch_size: int
    rows_independent: bool | None
    """Whether rows of a batch were shown not to depend on each other; None where it was not asked."""
    reason: str


@dataclass(frozen=True)
class PlanTensor:
    """An input or output of a plan."""

    name: str
    is_input: bool
    data_type: str
    """As in configs, ``TYPE_FP32``."""
    shape: Dims
    """The whole shape, -1 for what the profiles range over."""
    is_shape: bool
    """Whether its values are shapes (a shape tensor)."""
    linear: bool
    """Whether it lies in memory row by row, without a vector format."""


@dataclass(frozen=True)
class PlanProfile:
    """An optimization profile: shapes of the inputs, the batch axis included."""

    min: Mapping[str, Dims]
    max: Mapping[str, Dims]


@dataclass(frozen=True)
class Plan:
    """What a build says of a plan."""

    path: str
    """The plan's, below the model's folder."""
    tensors: tuple[PlanTensor, ...]
    profiles: tuple[PlanProfile, ...]
    tensorrt_version: str
    version_compatible: bool
    """Whether later versions of the same major one can load it."""
    compute_capability: str
    hardware_compatibility: str
    """GPUs on which it runs: ``none`` for those of its compute capability, ``ampere_plus`` for 8.0 and later."""
    size_bytes: int

    def tensor(self, name: str) -> PlanTensor | None:
        """The input or output of a name."""
        return next((tensor for tensor in self.tensors if tensor.name == name), None)

    @property
    def inputs(self) -> tuple[PlanTensor, ...]:
        """Its inputs."""
        return tuple(tensor for tensor in self.tensors if tensor.is_input)


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


def plan(model: Model, path: str) -> Plan | None:
    """What the build says of a plan; None where it says nothing."""
    found = _object(model, path + SUFFIX)
    if found.get("format") != FORMAT:
        return None
    try:
        return Plan(
            path=path,
            tensors=tuple(_tensor(each) for each in found["tensors"]),
            profiles=tuple(PlanProfile(_shapes(each["min"]), _shapes(each["max"])) for each in found["profiles"]),
            tensorrt_version=str(found["tensorrt_version"]),
            version_compatible=found.get("version_compatible") is True,
            compute_capability=str(found["compute_capability"]),
            hardware_compatibility=str(found.get("hardware_compatibility", "none")),
            size_bytes=int(found["size_bytes"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def _tensor(found: Mapping[str, Any]) -> PlanTensor:
    return PlanTensor(
        name=str(found["name"]),
        is_input={"input": True, "output": False}[found["io"]],
        data_type=f"TYPE_{found['dtype']}",
        shape=_dims(found["shape"]),
        is_shape=found.get("shape_tensor") is True,
        linear=found.get("linear") is not False,
    )


def _shapes(found: Mapping[str, Any]) -> Mapping[str, Dims]:
    return {str(name): _dims(dims) for name, dims in found.items()}


def _dims(found: Any) -> Dims:
    return tuple(int(dim) for dim in found)


def _object(model: Model, path: str) -> Mapping[str, Any]:
    """The JSON object in a file of the model; empty where there is none."""
    if model.files.is_folder(path) is not False:
        return {}
    import json

    try:
        found = json.loads(model.files.read(path)) if model.files.size(path) <= _LARGEST else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
