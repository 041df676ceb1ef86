"""ONNX element types: their names here, and their bits."""

from __future__ import annotations

from collections.abc import Mapping

from tritonrepo.introspect import TRITON_DTYPE

#: ONNX element type -> name: Triton's where it has one, else ONNX's.
NAMES: Mapping[int, str] = {
    **TRITON_DTYPE,
    14: "COMPLEX64", 15: "COMPLEX128", 17: "FLOAT8E4M3FN", 18: "FLOAT8E4M3FNUZ", 19: "FLOAT8E5M2",
    20: "FLOAT8E5M2FNUZ", 21: "UINT4", 22: "INT4", 23: "FLOAT4E2M1", 24: "FLOAT8E8M0", 25: "UINT2", 26: "INT2",
}  # fmt: skip

#: ONNX element type -> bits of one element; strings have no size of their own.
BITS: Mapping[int, int] = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16,
    17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
}  # fmt: skip


def name_of(element: int) -> str:
    """The name of an element type."""
    return NAMES.get(element, f"type {element}")
