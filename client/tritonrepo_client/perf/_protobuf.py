"""As much of protobuf as is needed beside the message classes: fields put together and taken apart as bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tritonrepo_client.perf._plan import VARINT_WIDTH
from tritonrepo_client.perf._replies import Output


def varint(number: int) -> bytes:
    """A number of 64 bits at most, not negative."""
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def wide_varint(number: int, width: int = VARINT_WIDTH) -> bytes:
    """The number in exactly ``width`` bytes, so that it can be replaced in place."""
    parts = bytearray((number >> 7 * index) & 0x7F | 0x80 for index in range(width))
    parts[-1] &= 0x7F
    return bytes(parts)


def delimited(field: int, data: bytes) -> bytes:
    """A field that holds bytes, text or a message."""
    return varint(field << 3 | 2) + varint(len(data)) + data


def parameter(name: str, value: bool | int) -> bytes:
    """An entry of a request's parameters (field 4 of ModelInferRequest)."""
    inner = b"\x08" + varint(value) if isinstance(value, bool) else b"\x10" + varint(value)
    return delimited(4, delimited(1, name.encode()) + delimited(2, inner))


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message: number and value, bytes for the length-delimited ones.

    Raises:
        ValueError: it is no message.
    """
    at, size = 0, len(data)
    try:
        while at < size:
            key, at = _varint(data, at)
            kind = key & 7
            if kind == 0:
                number, at = _varint(data, at)
                yield key >> 3, number
                continue
            if kind == 2:
                length, at = _varint(data, at)
            else:
                length = {1: 8, 5: 4}[kind]
            if at + length > size:
                raise ValueError("a field of the reply goes beyond its end")
            yield key >> 3, data[at : at + length]
            at += length
    except (IndexError, KeyError):
        raise ValueError("the reply is not a message of the protocol") from None


class InferReply(NamedTuple):
    """A ModelInferResponse."""

    request_id: str
    outputs: dict[str, Output]
    final: bool
    """Whether it says that it is the last one for its request."""


def infer_reply(data: memoryview) -> InferReply:
    """Read a ModelInferResponse.

    Raises:
        ValueError: it is not one.
    """
    request_id, final = "", False
    described: list[tuple[str, str, tuple[int, ...]]] = []
    contents: list[memoryview] = []
    for number, value in fields(data):
        if isinstance(value, int):
            continue
        if number == 3:
            request_id = bytes(value).decode()
        elif number == 4:
            final = final or _is_final(value)
        elif number == 5:
            described.append(_output(value))
        elif number == 6:
            contents.append(value)
    if contents and len(contents) != len(described):
        raise ValueError(f"the reply has {len(described)} outputs and {len(contents)} contents")
    contents = contents or [memoryview(b"")] * len(described)
    outputs = {name: Output(dtype, shape, raw) for (name, dtype, shape), raw in zip(described, contents, strict=True)}
    return InferReply(request_id, outputs, final)


def stream_reply(data: memoryview) -> tuple[str, InferReply]:
    """Read a ModelStreamInferResponse: the words of an error, or "", and the reply.

    Raises:
        ValueError: it is not one.
    """
    error, reply = "", InferReply("", {}, False)
    for number, value in fields(data):
        if isinstance(value, int):
            continue
        if number == 1:
            error = bytes(value).decode("utf-8", "replace")
        elif number == 2:
            reply = infer_reply(value)
    return error, reply


def _is_final(entry: memoryview) -> bool:
    parts = dict(fields(entry))
    value = parts.get(2)
    name = parts.get(1)
    if not isinstance(name, memoryview) or not isinstance(value, memoryview) or bytes(name) != b"triton_final_response":
        return False
    return dict(fields(value)).get(1) == 1


def _output(data: memoryview) -> tuple[str, str, tuple[int, ...]]:
    name, dtype, shape = "", "", []
    for number, value in fields(data):
        if number == 3:
            if isinstance(value, int):
                shape.append(value)
            else:
                at = 0
                while at < len(value):
                    dim, at = _varint(value, at)
                    shape.append(dim)
        elif not isinstance(value, int):
            if number == 1:
                name = bytes(value).decode()
            elif number == 2:
                dtype = bytes(value).decode()
    return name, dtype, tuple(shape)


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at
        shift += 7
        if shift > 63:
            raise ValueError("the reply is not a message of the protocol")
