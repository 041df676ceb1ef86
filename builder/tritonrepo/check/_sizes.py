"""Sizes of tensors as the server computes them: in 64 bits that wrap around."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

#: Bytes that no machine sets aside at once; the server does not survive being refused.
TOO_LARGE = 2**36

_BYTES: Mapping[str | int, int] = {
    "TYPE_BOOL": 1, "TYPE_UINT8": 1, "TYPE_UINT16": 2, "TYPE_UINT32": 4, "TYPE_UINT64": 8, "TYPE_INT8": 1,
    "TYPE_INT16": 2, "TYPE_INT32": 4, "TYPE_INT64": 8, "TYPE_FP16": 2, "TYPE_FP32": 4, "TYPE_FP64": 8, "TYPE_BF16": 2,
}  # fmt: skip


def signed(value: int) -> int:
    """What is left of a number in 64 bits, with a sign."""
    return (value + 2**63) % 2**64 - 2**63


def unsigned(value: int) -> int:
    """What is left of a number in 64 bits, without a sign."""
    return value % 2**64


def product(dims: Iterable[int]) -> int:
    """Elements of a tensor; 0 of one without dims. Whoever asks has seen to -1."""
    count = None
    for dim in dims:
        count = dim if count is None else signed(count * dim)
    return count or 0


def size_of(data_type: str | int, dims: Iterable[int]) -> int:
    """Bytes of a tensor; of strings and of what is no type, the bytes of as many empty strings."""
    return signed(product(dims) * (_BYTES.get(data_type) or 4))


def element_size(data_type: str | int) -> int:
    """Bytes of one element; 0 for strings and for what is no type."""
    return _BYTES.get(data_type, 0)
