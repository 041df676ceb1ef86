"""What a build says of a plan: the description beside it, which `check` reads, and the report, which people read.

Both are JSON. The description holds nothing that changes from build to build of the same thing on the same kind of
host: no times, no hosts, no folders. docs/sidecar.md says what is in it; `check/_sidecar.py` reads it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonrepo._record import to_json
from tritonrepo.plan import Profile, Shape
from tritonrepo.spec import TensorRT

FORMAT = 1

#: TensorRT's names of types -> Triton's.
DTYPES = {
    "FLOAT": "FP32",
    "HALF": "FP16",
    "BF16": "BF16",
    "INT8": "INT8",
    "UINT8": "UINT8",
    "INT32": "INT32",
    "INT64": "INT64",
    "BOOL": "BOOL",
}

#: Types as the engine inspector writes them into formats, and Triton's names.
_IN_FORMATS = {"fp32": "FP32", "float": "FP32", "fp16": "FP16", "half": "FP16", "bf16": "BF16", "bfloat16": "BF16"}
_IN_FORMATS |= {name: name.upper() for name in ("int8", "uint8", "int32", "int64", "bool", "fp8", "fp4", "int4")}


@dataclass(frozen=True)
class PlanTensor:
    """An input or output of a plan."""

    name: str
    is_input: bool
    dtype: str
    """Triton's name without ``TYPE_``."""
    shape: Shape
    """The whole shape, -1 for what is dynamic."""
    is_shape: bool = False
    """Whether its values are shapes."""
    linear: bool = True


@dataclass(frozen=True)
class Built:
    """Where and with what a plan was built."""

    tensorrt: str
    gpu: str
    compute_capability: str
    driver: str
    cuda: str
    options: TensorRT
    precision: str


@dataclass(frozen=True)
class Layer:
    """A layer of the network, before TensorRT fused it with others."""

    name: str
    kind: str
    """TensorRT's LayerType."""
    dtypes: tuple[str, ...]
    """Types of its outputs."""


def description(
    built: Built,
    tensors: Sequence[PlanTensor],
    profiles: Sequence[Profile],
    device_memory: Sequence[int],
    size: int,
) -> bytes:
    """The content of the file beside a plan.

    Args:
        built: where and with what.
        tensors: inputs and outputs.
        profiles: in the plan's order.
        device_memory: bytes of scratch memory that an execution context takes, for each profile.
        size: of the plan, in bytes.
    """
    options = built.options
    document: dict[str, object] = {
        "format": FORMAT,
        "tensorrt_version": built.tensorrt,
        "version_compatible": options.version_compatible,
        "cuda": built.cuda,
        "driver": built.driver,
        "gpu": built.gpu,
        "compute_capability": built.compute_capability,
        "hardware_compatibility": options.hardware_compatibility,
        "precision": built.precision,
        "options": chosen(options),
        "size_bytes": size,
        "tensors": [_tensor(each) for each in tensors],
        "profiles": [
            _profile(profile) | {"device_memory_bytes": memory}
            for profile, memory in zip(profiles, device_memory, strict=True)
        ],
    }
    return to_json(document)


def chosen(options: TensorRT) -> dict[str, Any]:
    """The options that are not as they are by default, as JSON; files by their names."""
    dumped: dict[str, Any] = options.model_dump(exclude_defaults=True, exclude={"gpu", "time_limit_s"})
    named: dict[str, Any] = _named(dumped)
    return named


def report(
    built: Built, layers: Sequence[Layer], inspected: str, sizes: Mapping[str, int], warnings: Sequence[str]
) -> bytes:
    """The content of the report: layers with their types before fusion, and what the engine inspector says after it.

    Args:
        built: where and with what.
        layers: of the network.
        inspected: JSON from the engine inspector; how much it says is set by ``profiling_verbosity``.
        sizes: bytes, by what they are of.
        warnings: that TensorRT gave.
    """
    try:
        engine = json.loads(inspected)
    except ValueError:
        engine = inspected
    document = {
        "tensorrt_version": built.tensorrt,
        "gpu": built.gpu,
        "precision": built.precision,
        "options": chosen(built.options),
        "sizes": dict(sizes),
        "network": {
            "precisions": dict(Counter(dtype for layer in layers for dtype in layer.dtypes)),
            "kinds": dict(Counter(layer.kind for layer in layers)),
            "layers": [{"name": each.name, "kind": each.kind, "dtypes": each.dtypes} for each in layers],
        },
        "engine": {"precisions": dict(precisions(inspected)), "inspector": engine},
        "warnings": list(warnings),
    }
    return to_json(document)


def precisions(inspected: str) -> Counter[str]:
    """How many layers of a plan give each type; empty where its verbosity says nothing of types."""
    try:
        layers = json.loads(inspected).get("Layers", [])
    except (ValueError, AttributeError):
        return Counter()
    found: Counter[str] = Counter()
    for layer in layers:
        for output in layer.get("Outputs", []) if isinstance(layer, dict) else []:
            words = re.split(r"[^a-z0-9]+", str(output.get("Format/Datatype", "")).lower())
            found.update({_IN_FORMATS[word] for word in words if word in _IN_FORMATS})
    return found


def path_of(plan: Path) -> Path:
    """The description of a plan."""
    return plan.with_name(f"{plan.name}.json")


def report_path_of(plan: Path) -> Path:
    """The report of a plan."""
    return plan.with_name(f"{plan.name}.report.json")


def _tensor(each: PlanTensor) -> dict[str, object]:
    document: dict[str, object] = {
        "name": each.name,
        "io": "input" if each.is_input else "output",
        "dtype": each.dtype,
        "shape": each.shape,
    }
    if each.is_shape:
        document["shape_tensor"] = True
    if not each.linear:
        document["linear"] = False
    return document


def _profile(profile: Profile) -> dict[str, object]:
    document: dict[str, object] = {"min": profile.min, "opt": profile.opt, "max": profile.max}
    if profile.values:
        document["values"] = {
            name: dict(zip(("min", "opt", "max"), three, strict=True)) for name, three in profile.values.items()
        }
    return document


def _named(value: Any) -> Any:
    if isinstance(value, Path):
        return value.name
    if isinstance(value, Mapping):
        return {key: _named(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_named(item) for item in value]
    return value
