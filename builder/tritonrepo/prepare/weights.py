"""A model without its weights, and writing it with them: no weight is ever in memory as a whole.

``open_model`` gives the graph of a file with every large weight replaced by a reference to its bytes in that file, in
the form that ONNX has for external data. Passes copy, infer and rewrite such a graph at the cost of a few megabytes;
``onnx.external_data_helper`` reads a weight where a pass needs one. ``write_model`` puts the bytes back, in blocks.
"""

from __future__ import annotations

import mmap
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tritonrepo.introspect import tensors

if TYPE_CHECKING:
    import onnx

#: Weights of fewer bytes stay in the graph: they are what passes look at.
SMALL = 4096
#: Protobuf reads no message of 2 GiB; what is written stays clear of it.
MOST_INLINE = 2**31 - 2**24
#: Where weights go that do not fit into the file.
DATA_FILE = "model.onnx.data"

#: Files that Triton looks for in a version's folder, and the one that weights may be moved to.
_TAKEN = frozenset({"model.onnx", "model.py", "model.plan", DATA_FILE})

_BLOCK = 1 << 22
# Field numbers of onnx.proto.
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW = 7, 5, 9
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Extent:
    """Bytes in a file."""

    file: Path
    offset: int
    length: int


def open_model(path: Path) -> onnx.ModelProto:
    """The model of a file; weights of ``SMALL`` bytes or more are references into the file itself.

    The file is one that ``introspect`` has read: valid, and below 2 GiB.
    """
    import onnx

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        model = onnx.ModelProto()
        model.ParseFromString(b"".join(_without_weights(content, path.name)))
        for tensor in tensors(model):
            # What a tensor that is inside says of files was not looked at, and must not be followed.
            if tensor.data_location != onnx.TensorProto.EXTERNAL and tensor.external_data:
                tensor.ClearField("external_data")
        return model


def extent(tensor: onnx.TensorProto, folder: Path) -> Extent | None:
    """Where the bytes of a weight lie that is not in the graph; None where they are in the graph.

    Args:
        tensor: the weight.
        folder: the folder of the model that it was opened from.
    """
    if not tensor.external_data:
        return None
    entries = {entry.key: entry.value for entry in tensor.external_data}
    file, offset = folder / entries["location"], int(entries.get("offset") or 0)
    length = int(entries.get("length") or 0) or file.stat().st_size - offset
    return Extent(file, offset, length)


def blocks(where: Extent) -> Iterator[bytes]:
    """The bytes of an extent, a few megabytes at a time."""
    with where.file.open("rb") as file:
        file.seek(where.offset)
        left = where.length
        while left:
            block = file.read(min(left, _BLOCK))
            if not block:
                raise OSError(f"{where.file} ends before a weight does")
            yield block
            left -= len(block)


def write_model(model: onnx.ModelProto, source: Path, folder: Path) -> None:
    """Write a model and its weights.

    Weights that came from the model file itself go into the file again; where they do not fit below 2 GiB, all go
    into ``DATA_FILE``. Files of external data are copied, each to its place.

    Args:
        model: what ``open_model`` gave, changed by passes.
        source: the file that it was opened from.
        folder: where ``model.onnx`` is written. It is made where it is missing, and empty.
    """
    import onnx

    folder.mkdir(parents=True, exist_ok=True)
    written = onnx.ModelProto()
    written.CopyFrom(model)
    for file in sorted({location(tensor) for tensor in tensors(written)} - {"", source.name}):
        target = folder / served_location(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.parent / file, target)
    for tensor in tensors(written):
        for entry in tensor.external_data:
            if entry.key == "location" and entry.value != source.name:
                entry.value = served_location(entry.value)
    graph = written.graph
    if written.ByteSize() + sum(where.length for _, where in _own(graph, source)) > MOST_INLINE:
        _into_data_file(written, source, folder)
    appended = []
    for tensor, where in _own(graph, source):
        bare = onnx.TensorProto()
        bare.CopyFrom(tensor)
        bare.ClearField("external_data")
        bare.ClearField("data_location")
        appended.append((bare, where))
    kept = [tensor for tensor in graph.initializer if location(tensor) != source.name]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    with (folder / "model.onnx").open("xb") as out:
        _write_message(written, appended, out)


def _own(graph: onnx.GraphProto, source: Path) -> list[tuple[onnx.TensorProto, Extent]]:
    """Weights whose bytes are in the model file itself, with where they are."""
    places = ((tensor, extent(tensor, source.parent)) for tensor in graph.initializer)
    return [(tensor, where) for tensor, where in places if where and location(tensor) == source.name]


def _into_data_file(model: onnx.ModelProto, source: Path, folder: Path) -> None:
    """Move every weight that is in the model file, or that a pass made, into a file of its own."""
    with (folder / DATA_FILE).open("xb") as file:
        for tensor in model.graph.initializer:
            if tensor.external_data and location(tensor) != source.name:
                continue
            where = extent(tensor, source.parent)
            if where is None and len(tensor.raw_data) < SMALL:
                continue
            file.seek(-file.tell() % 4096, 1)  # aligned, so that runtimes can map it
            offset = file.tell()
            for block in [tensor.raw_data] if where is None else blocks(where):
                file.write(block)
            _refer(tensor, DATA_FILE, offset, file.tell() - offset)


def _write_message(model: onnx.ModelProto, appended: list[tuple[onnx.TensorProto, Extent]], file: IO[bytes]) -> None:
    """A message may be written in parts: fields of one number are joined, those of a message are merged."""
    graph = model.graph.SerializeToString(deterministic=True)
    heads = [bare.SerializeToString(deterministic=True) + _tag(_TENSOR_RAW, where.length) for bare, where in appended]
    parts = [
        _tag(_GRAPH_INITIALIZER, len(head) + where.length) for head, (_, where) in zip(heads, appended, strict=True)
    ]
    length = len(graph) + sum(
        len(part) + len(head) + where.length for part, head, (_, where) in zip(parts, heads, appended, strict=True)
    )
    model.ClearField("graph")
    file.write(model.SerializeToString(deterministic=True) + _tag(_MODEL_GRAPH, length) + graph)
    for part, head, (_, where) in zip(parts, heads, appended, strict=True):
        file.write(part + head)
        for block in blocks(where):
            file.write(block)


def _without_weights(content: mmap.mmap, name: str) -> Iterator[bytes]:
    """The model's bytes with large weights replaced by references to the file ``name``."""
    for number, kind, start, begin, end in _fields(content, 0, len(content)):
        if (number, kind) != (_MODEL_GRAPH, _LENGTH):
            yield content[start:end]
            continue
        graph = []
        for inner, inner_kind, inner_start, inner_begin, inner_end in _fields(content, begin, end):
            reference = (inner, inner_kind) == (_GRAPH_INITIALIZER, _LENGTH) and inner_end - inner_begin >= SMALL
            tensor = _referring(content, inner_begin, inner_end, name) if reference else None
            graph.append(
                content[inner_start:inner_end] if tensor is None else _tag(_GRAPH_INITIALIZER, len(tensor)) + tensor
            )
        yield _tag(_MODEL_GRAPH, sum(map(len, graph)))
        yield from graph


def _referring(content: mmap.mmap, begin: int, end: int, name: str) -> bytes | None:
    """A tensor that refers to its raw data in the file instead of holding it; None where it holds little or none."""
    import onnx

    kept, raw = [], None
    for number, kind, start, inner, stop in _fields(content, begin, end):
        if (number, kind) == (_TENSOR_RAW, _LENGTH):
            raw = (inner, stop - inner)
        else:
            kept.append(content[start:stop])
    if raw is None or raw[1] < SMALL:
        return None
    tensor = onnx.TensorProto()
    tensor.ParseFromString(b"".join(kept))
    _refer(tensor, name, *raw)
    return bytes(tensor.SerializeToString())


def _fields(content: mmap.mmap, begin: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Fields of a message: number, wire type, and where the field, its value and the next field begin."""
    at = begin
    while at < end:
        start = at
        key, at = _varint(content, at)
        number, kind = key >> 3, key & 7
        value = at
        if kind == _VARINT:
            _, at = _varint(content, at)
        elif kind == _LENGTH:
            length, value = _varint(content, at)
            at = value + length
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {kind}")
        yield number, kind, start, value, at


def _varint(content: mmap.mmap, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _tag(number: int, length: int) -> bytes:
    """Key and length of a field that has a length."""
    value = bytearray([number << 3 | _LENGTH])
    while length > 0x7F:
        value.append(length & 0x7F | 0x80)
        length >>= 7
    value.append(length)
    return bytes(value)


def _refer(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    import onnx

    tensor.ClearField("raw_data")
    tensor.ClearField("external_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def location(tensor: onnx.TensorProto) -> str:
    """The file that a weight's bytes are in, seen from the model's folder; empty where they are in the graph."""
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def served_location(file: str) -> str:
    """Where a file of external data lies in a version's folder: in its own place, unless Triton looks for that name."""
    return f"weights-{file}" if file in _TAKEN else file
