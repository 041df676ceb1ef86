"""Protobuf fields in memory, or in a file that is read page by page. Nothing that a length says is believed.

`check/_wire.py` reads one field at a time from a file and is right for a few of them; this one is for whole graphs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Protocol, overload

from tritonrepo.errors import ModelError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

_PAGE = 4096


class Buffer(Protocol):
    """What fields are read from: bytes, or the pages of a file."""

    @overload
    def __getitem__(self, key: int, /) -> int: ...
    @overload
    def __getitem__(self, key: slice, /) -> bytes: ...
    def __len__(self) -> int:
        """Its size in bytes."""


class Pages:
    """A file, read where it is looked at. A file that gets shorter meanwhile ends early; it does no harm.

    Args:
        descriptor: of a file that is open for reading.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size
        self._begin = self._end = 0
        self._page = b""

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, key: int) -> int: ...
    @overload
    def __getitem__(self, key: slice) -> bytes: ...
    def __getitem__(self, key: int | slice) -> int | bytes:
        if isinstance(key, slice):
            begin, end, _ = key.indices(self._size)
            return os.pread(self._descriptor, max(0, end - begin), begin)
        if not self._begin <= key < self._end:
            self._page = os.pread(self._descriptor, _PAGE, key)
            self._begin, self._end = key, key + len(self._page)
        return self._page[key - self._begin]


def fields(data: Buffer, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of the message that lies between two offsets.

    Gives (number * 8 + kind, value, stop, start): the value is the number itself for kind VARINT, and otherwise the
    offset at which the value begins; ``stop`` is where the field ends, ``start`` where it begins.

    Raises:
        ModelError: these bytes are no message.
    """
    try:
        while at < end:
            start = at
            key = data[at]
            at += 1
            if key >= 0x80:
                key, at = _long(data, at, key)
            kind = key & 7
            if kind == BYTES:
                size = data[at]
                at += 1
                if size >= 0x80:
                    size, at = _long(data, at, size)
                begin, at = at, at + size
            elif kind == VARINT:
                begin = data[at]
                at += 1
                if begin >= 0x80:
                    begin, at = _long(data, at, begin)
            elif kind in {FIXED32, FIXED64}:
                begin, at = at, at + (4 if kind == FIXED32 else 8)
            else:
                raise ModelError(f"a field of kind {kind} at byte {start}")
            if at > end or key < 8:
                raise ModelError(f"a field at byte {start} that does not end where its message does")
            yield key, begin, at, start
    except IndexError:
        raise ModelError("a field that does not end with the file") from None


def varints(data: Buffer, at: int, end: int) -> Iterator[int]:
    """The numbers of a packed field."""
    try:
        while at < end:
            value = data[at]
            at += 1
            if value >= 0x80:
                value, at = _long(data, at, value)
            yield value
    except IndexError:
        raise ModelError("a number that does not end with the file") from None


def signed(value: int) -> int:
    """The int64 that a number stands for."""
    return value - 2**64 if value >= 2**63 else value


def encode(key: int, value: int | bytes) -> bytes:
    """A field: a number, or bytes."""
    if isinstance(value, int):
        return _varint(key << 3) + _varint(value & 0xFFFF_FFFF_FFFF_FFFF)
    return _varint(key << 3 | BYTES) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _long(data: Buffer, at: int, value: int) -> tuple[int, int]:
    """The rest of a number whose first byte is known, and the offset behind it."""
    value &= 0x7F
    for shift in range(7, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
    raise ModelError(f"a number of more than ten bytes at byte {at}")
