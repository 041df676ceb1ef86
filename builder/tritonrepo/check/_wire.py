"""Protobuf messages, read field by field from a file or from memory, without a schema and without what is skipped.

Nothing that a file says about itself is believed: a length must lie within what surrounds it, numbers have at most ten
bytes, and a reader gives up after so many fields.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

from tritonrepo.errors import ModelError

#: So many fields are read of one file.
_MOST_FIELDS = 2_000_000
#: Texts (names) may be so long.
_LONGEST_TEXT = 1 << 20

# The longest head of a field: a key of five bytes and a number of ten.
_HEAD = 15

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED = {FIXED64: 8, FIXED32: 4}

Span = tuple[int, int]
"""Where a message, text or byte string begins and ends."""


class Wire:
    """A file with a protobuf message.

    Args:
        file: opened for reading bytes; it can seek.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, os.SEEK_END)
        self._left = _MOST_FIELDS

    @property
    def whole(self) -> Span:
        """The message that the file is."""
        return 0, self.size

    def fields(self, span: Span) -> Iterator[tuple[int, int | Span]]:
        """The fields of a message: number, and value. That is an int, or where the bytes of a longer value are.

        Numbers of fixed size (floats) are left out.

        Raises:
            ModelError: these bytes are no message.
        """
        at, end = span
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise ModelError(f"it has more than {_MOST_FIELDS} fields")
            self._file.seek(at)
            head = self._file.read(_HEAD)
            key, used = _varint(head, 0)
            number, kind = key >> 3, key & 7
            if not number:
                raise ModelError(f"field 0 at byte {at}")
            if kind == VARINT:
                value, used = _varint(head, used)
                at += used
                if at > end:
                    raise ModelError(f"a number that does not end, at byte {at}")
                yield number, value
            elif kind == BYTES:
                length, used = _varint(head, used)
                begin = at + used
                if length > end - begin:
                    raise ModelError(
                        f"a value at byte {begin} says it has {length} bytes, {max(0, end - begin)} are left"
                    )
                at = begin + length
                yield number, (begin, at)
            elif kind in _FIXED:
                at += used + _FIXED[kind]
                if at > end:
                    raise ModelError(f"a number that does not end, at byte {at}")
            else:
                raise ModelError(f"a field of kind {kind} at byte {at}")

    def text(self, span: Span) -> str:
        """A text. What is not UTF-8 in it is replaced."""
        return self.bytes(span).decode("utf-8", "replace")

    def bytes(self, span: Span) -> bytes:
        """The bytes themselves; only of what is short by its nature."""
        begin, end = span
        if end - begin > _LONGEST_TEXT:
            raise ModelError(f"a name of {end - begin} bytes at byte {begin}")
        self._file.seek(begin)
        return self._file.read(end - begin)

    def varints(self, span: Span) -> Iterator[int]:
        """The numbers of a packed field."""
        data, at = self.bytes(span), 0
        while at < len(data):
            value, at = _varint(data, at)
            yield value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number that begins at an offset, and the offset behind it."""
    if at < len(data) and data[at] < 0x80:  # most are this short
        return data[at], at + 1
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
    raise ModelError("a number that does not end")


def signed(value: int) -> int:
    """The int64 that a number stands for."""
    return value - 2**64 if value >= 2**63 else value
