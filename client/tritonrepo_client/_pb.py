"""The inference messages of the protocol in protobuf's wire format, written and read by hand.

Protobuf's own classes copy every tensor two or three times on its way; here it is copied once into the message, and not
at all out of it. What does not change from request to request (heads of tensors, heads of replies) is kept.

ModelInferRequest: 1 model_name, 2 model_version, 3 id, 4 parameters (map), 5 inputs, 6 outputs, 7 raw_input_contents.
ModelInferResponse: 1 model_name, 2 model_version, 3 id, 4 parameters (map), 5 outputs, 6 raw_output_contents.
A tensor: 1 name, 2 datatype, 3 shape (packed int64), 4 parameters.
A parameter: 1 bool, 2 int64, 3 string, 4 double, 5 uint64.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tritonrepo_client.tensor import WireTensor
from tritonrepo_client.transport import InferReply, InferRequest, OutputRequest, Parameter

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_CACHED = 4096
_RAW = 6 << 3 | _BYTES


def encode_infer(request: InferRequest) -> bytes:
    """A ModelInferRequest."""
    key = request.key()
    heads = None if key is None else _written.get(key)
    if heads is None:
        heads = _heads(request)
        if key is not None:
            if len(_written) >= _CACHED:
                _written.clear()
            _written[key] = heads
    parts: list[bytes | memoryview] = [heads[0]]
    at = 0
    for tensor in request.inputs:
        if not tensor.region:
            at += 1
            parts += (heads[at], tensor.data)
    return b"".join(parts)


#: By `InferRequest.key`: what `_heads` gave.
_written: dict[tuple[Any, ...], list[bytes]] = {}


def _heads(request: InferRequest) -> list[bytes]:
    """All before the data of the inputs, and what comes right before each of them."""
    parts: list[bytes] = [_head(request.model, request.version)]
    if request.request_id:
        parts.append(_text(3, request.request_id))
    if request.priority:
        parts.append(_entry("priority", _number(5, request.priority)))
    if request.queue_timeout_us:
        parts.append(_entry("timeout", _number(2, request.queue_timeout_us)))
    if request.sequence is not None:
        parts += _sequence(*request.sequence)
    if request.parameters:
        parts += [_entry(name, _parameter(value)) for name, value in request.parameters.items()]
    raw: list[bytes] = []
    for tensor in request.inputs:
        name, dtype, shape, data, region, size, offset = tensor
        parts.append(_input(name, dtype, shape, region, size, offset))
        if not region:
            raw.append(b"\x3a" + _varint(len(data)))
    if request.outputs:
        parts += [_output(output) for output in request.outputs]
    return [b"".join(parts), *raw]


def decode_infer(message: bytes | memoryview) -> InferReply:  # noqa: PLR0912 - read once, in one go
    """A ModelInferResponse. The tensors' data are views of ``message``.

    Raises:
        ValueError: it is none.
    """
    known = _seen.get(len(message))
    if known is not None and type(message) is bytes and message.startswith(known.prefix):
        quick = _known_reply(message, known)
        if quick is not None:
            return quick
    view = memoryview(message)
    version = identity = ""
    heads: list[tuple[str, str, tuple[int, ...]]] = []
    raw: list[memoryview] = []
    parameters: dict[str, Parameter] | None = None
    at, end = 0, len(view)
    try:
        while at < end:
            tag = view[at]
            size, at = view[at + 1], at + 2
            if tag & 0x87 != _BYTES:  # no field of this message
                field, at = _skip(view, at - 2)
                continue
            if size > 127:
                size, at = _read_varint(view, at - 1)
            until = at + size
            if until > end:
                raise ValueError("the message ends in the middle of a field")
            field = tag >> 3
            if field == 6:
                raw.append(view[at:until])
            elif field == 5:
                heads.append((_read_tensor if size < _CACHED else _read_tensor.__wrapped__)(bytes(view[at:until])))
            elif field == 2:
                version = str(view[at:until], "utf-8")
            elif field == 3:
                identity = str(view[at:until], "utf-8")
            elif field == 4:
                parameters = parameters or {}
                parameters.update([_read_entry(bytes(view[at:until]))])
            at = until
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"the message cannot be read: {error}") from None
    if len(raw) != len(heads):
        raise ValueError(f"{len(heads)} outputs came with the data of {len(raw)}")
    outputs = tuple([WireTensor(*head, data) for head, data in zip(heads, raw, strict=True)])
    if type(message) is bytes and raw and not identity and not parameters:
        _remember(message, heads, raw, version)
    return InferReply(outputs, version, identity, parameters or {})


class _Seen(NamedTuple):
    """A reply as there were before: all before its data, which is at its end."""

    prefix: bytes
    heads: list[tuple[str, str, tuple[int, ...]]]
    version: str


#: By the length of the whole message.
_seen: dict[int, _Seen] = {}


def _remember(message: bytes, heads: Any, raw: list[memoryview], version: str) -> None:
    start = len(message)
    for data in reversed(raw):
        start -= len(data) + 1 + len(_varint(len(data)))
    if 0 < start < _CACHED and message[start] == _RAW:
        if len(_seen) >= _CACHED:
            _seen.clear()
        _seen[len(message)] = _Seen(message[:start], heads, version)


def _known_reply(message: bytes, known: _Seen) -> InferReply | None:
    """The reply, where nothing but data comes after what is known."""
    view, at, end = memoryview(message), len(known.prefix), len(message)
    outputs = []
    try:
        for name, dtype, shape in known.heads:
            if message[at] != _RAW:
                return None
            size, at = message[at + 1], at + 2
            if size > 127:
                size, at = _read_varint(message, at - 1)
            outputs.append(WireTensor(name, dtype, shape, view[at : at + size]))
            at += size
    except IndexError:
        return None
    return InferReply(tuple(outputs), known.version) if at == end else None


def decode_stream(message: bytes) -> tuple[str, InferReply]:
    """A ModelStreamInferResponse: the error's words ("" for none) and the reply.

    Raises:
        ValueError: it is none.
    """
    words, reply = "", InferReply(())
    try:
        for field, kind, value in _fields(memoryview(message)):
            if kind == _BYTES and field == 1:
                words = str(value, "utf-8", "replace")
            elif kind == _BYTES and field == 2:
                reply = decode_infer(value)
    except IndexError as error:
        raise ValueError(f"the message cannot be read: {error}") from None
    return words, reply


# Writing


def _varint(number: int) -> bytes:
    if number < 128:
        return bytes((number,))
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _block(field: int, content: bytes) -> bytes:
    return bytes((field << 3 | _BYTES,)) + _varint(len(content)) + content


def _text(field: int, text: str) -> bytes:
    return _block(field, text.encode())


def _number(field: int, number: int) -> bytes:
    return bytes((field << 3,)) + _varint(number & 0xFFFF_FFFF_FFFF_FFFF)


def _entry(name: str, parameter: bytes, field: int = 4) -> bytes:
    """An entry of a map from names to parameters."""
    return _block(field, _text(1, name) + _block(2, parameter))


def _parameter(value: Parameter) -> bytes:
    if isinstance(value, bool):
        return _number(1, value)
    if isinstance(value, int):
        return _number(2, value)
    if isinstance(value, str):
        return _text(3, value)
    return b"\x21" + struct.pack("<d", value)


def _sequence(identity: int | str, start: bool, end: bool) -> list[bytes]:
    which = _text(3, identity) if isinstance(identity, str) else _number(2, identity)  # so the server wants it
    flags = (("sequence_start", start), ("sequence_end", end))
    return [_entry("sequence_id", which), *(_entry(name, _number(1, value)) for name, value in flags)]


@functools.lru_cache(_CACHED)
def _head(model: str, version: str) -> bytes:
    return _text(1, model) + (_text(2, version) if version else b"")


@functools.lru_cache(_CACHED)
def _input(name: str, dtype: str, shape: tuple[int, ...], region: str, size: int, offset: int) -> bytes:
    dims = b"".join([_varint(dim & 0xFFFF_FFFF_FFFF_FFFF) for dim in shape])
    where = _region(region, size, offset) if region else b""
    return _block(5, _text(1, name) + _text(2, dtype) + _block(3, dims) + where)


@functools.lru_cache(_CACHED)
def _output(output: str | OutputRequest) -> bytes:
    if isinstance(output, str):
        return _block(6, _text(1, output))
    more = b""
    if output.classes:
        more = _entry("classification", _number(2, output.classes), 2)
    if output.region:
        more += _region(output.region, output.region_size, output.region_offset, 2)
    return _block(6, _text(1, output.name) + more)


def _region(name: str, size: int, offset: int, field: int = 4) -> bytes:
    pairs: dict[str, Parameter] = {"shared_memory_region": name, "shared_memory_byte_size": size}
    if offset:
        pairs["shared_memory_offset"] = offset
    return b"".join([_entry(key, _parameter(value), field) for key, value in pairs.items()])


# Reading


def _read_varint(view: memoryview | bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = view[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7
        if shift > 63:
            raise ValueError("a number in the message has no end")


def _fields(view: memoryview) -> Iterator[tuple[int, int, Any]]:
    """Field number, wire type, and the number or the view of the bytes."""
    at = 0
    while at < len(view):
        tag, at = _read_varint(view, at)
        field, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _read_varint(view, at)
            yield field, kind, value
            continue
        if kind == _BYTES:
            size, at = _read_varint(view, at)
        else:
            size = _fixed(kind)
        if at + size > len(view):
            raise ValueError("the message ends in the middle of a field")
        yield field, kind, view[at : at + size]
        at += size


def _fixed(kind: int) -> int:
    if kind not in (_FIXED64, _FIXED32):
        raise ValueError(f"the message has a field of unknown wire type {kind}")
    return 8 if kind == _FIXED64 else 4


def _skip(view: memoryview, at: int) -> tuple[int, int]:
    """Behind a field of any kind."""
    tag, at = _read_varint(view, at)
    kind = tag & 7
    if kind == _VARINT:
        _, at = _read_varint(view, at)
    elif kind == _BYTES:
        size, at = _read_varint(view, at)
        at += size
    else:
        at += _fixed(kind)
    if at > len(view):
        raise ValueError("the message ends in the middle of a field")
    return tag >> 3, at


@functools.lru_cache(_CACHED)
def _read_tensor(head: bytes) -> tuple[str, str, tuple[int, ...]]:
    name = dtype = ""
    shape: list[int] = []
    for field, kind, value in _fields(memoryview(head)):
        if field == 1 and kind == _BYTES:
            name = str(value, "utf-8")
        elif field == 2 and kind == _BYTES:
            dtype = str(value, "utf-8")
        elif field == 3 and kind == _BYTES:
            at = 0
            while at < len(value):
                dim, at = _read_varint(value, at)
                shape.append(_signed(dim))
        elif field == 3 and kind == _VARINT:
            shape.append(_signed(value))
    return name, dtype, tuple(shape)


def _read_entry(entry: bytes) -> tuple[str, Parameter]:
    name, parameter = "", b""
    for field, kind, value in _fields(memoryview(entry)):
        if field == 1 and kind == _BYTES:
            name = str(value, "utf-8")
        elif field == 2 and kind == _BYTES:
            parameter = bytes(value)
    found: Parameter = False
    for field, kind, value in _fields(memoryview(parameter)):
        if kind == _VARINT:
            found = bool(value) if field == 1 else _signed(value) if field == 2 else int(value)
        elif kind == _BYTES:
            found = str(value, "utf-8")
        elif kind == _FIXED64:
            (found,) = struct.unpack("<d", value)
    return name, found


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number


def as_mapping(message: Any) -> dict[str, Any]:
    """The fields of a protobuf message that are set, by name. Protobuf's own converter would make strings of 64-bit
    numbers.
    """
    return {field.name: _as_value(field, value) for field, value in message.ListFields()}


def _as_value(field: Any, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        inner = field.message_type.fields_by_name["value"]
        return {key: _as_value(inner, item) for key, item in value.items()}
    if isinstance(value, str | bytes | bool | int | float):
        return field.enum_type.values_by_number[value].name if field.enum_type is not None else value
    if hasattr(value, "ListFields"):
        return as_mapping(value)
    if isinstance(value, Mapping):
        return dict(value)
    return [_as_value(field, item) for item in value]
