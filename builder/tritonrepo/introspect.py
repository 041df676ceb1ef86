"""ONNX -> Signature: names, types, dims, symbolic axes, opset, operators, size. Never loads weights it does not need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

#: One dimension: a number, the name of a symbolic axis, or None where the model leaves it unnamed.
Dim = int | str | None

#: ONNX element type -> Triton data type (without TYPE_). What is missing here, Triton cannot carry.
TRITON_DTYPE: Mapping[int, str] = {
    1: "FP32", 2: "UINT8", 3: "INT8", 4: "UINT16", 5: "INT16", 6: "INT32", 7: "INT64", 8: "STRING", 9: "BOOL",
    10: "FP16", 11: "FP64", 12: "UINT32", 13: "UINT64", 16: "BF16",
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """One input or output. ``dtype`` is Triton's name without TYPE_ (``FP32``, ``STRING``); ``shape`` is the whole ONNX
    shape, batch axis included; () is a scalar."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]


@dataclass(frozen=True)
class Signature:
    """What can be said of an ONNX file without running it."""

    path: Path
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    opset: Mapping[str, int]
    """Version by domain; '' is the default domain."""
    ir_version: int
    operators: Mapping[str, int]
    """Count by ``domain::op_type`` (plain op_type for the default domain), subgraphs included."""
    external_data: tuple[Path, ...]
    """Files that hold weights, each checked to lie within the model's folder."""
    bytes: int
    """Size of the ONNX file and its external data."""
    batch: bool
    """Whether the first axis of every input and output is dynamic, so that it may be a batch; the proof is verify's."""
    batch_reason: str
    """Why, in words for the report."""
