"""An ONNX file without its weights: everything that the graph says, in a few bytes.

Large values of tensors stay in the file. In their place stands where they are, as external data in the file itself
(offset and length), so that whoever needs one weight can read that one. Small ones stay: shapes are computed from them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from tritonrepo._onnx_wire import BYTES, Buffer, Pages, encode, fields
from tritonrepo.errors import ModelError

#: Values of at most so many bytes stay.
SMALL = 4096

# The entry in ``external_data`` that says: this value was left in the model's own file, so many bytes of it. A key of
# our own would make the onnx library warn.
_LEFT_KEY, _LEFT = "checksum", "left in the model's file: "

# Files up to this size are read at once; others page by page, so that weights stay on the disk.
_AT_ONCE = 16 << 20
# A graph without its weights is no larger than this, or is not worth looking at.
_LARGEST = 256 << 20
# Graphs in graphs: protobuf itself reads no more than about 33.
MOST_DEPTH = 32

_DATA = frozenset({4, 5, 6, 7, 9, 10, 11})  # of TensorProto: float, int32, string, int64, raw, double, uint64
_AS_RAW = frozenset({4, 9, 10})  # packed, these have the bytes of raw_data

#: How files that are often taken for ONNX files begin.
IMPOSTORS = (
    (b"version https://git-lfs", "it is a Git LFS pointer: run `git lfs pull`"),
    (b"PK\x03\x04", "it is a zip archive (a PyTorch checkpoint?): export the model with torch.onnx.export"),
    (b"\x89HDF", "it is an HDF5 file (a Keras model?): convert it with tf2onnx"),
    (b"TFL3", "it is a TensorFlow Lite model: convert it with tf2onnx"),
    (b"<", "it is a text or HTML page: was the download answered by an error page?"),
    (b"{", "it is a JSON file"),
)

_Rule = Callable[[int, int, int], "bytes | None"]


def read_skeleton(path: Path) -> bytes:
    """The model as protobuf bytes, without the weights that it holds.

    Raises:
        ModelError: there is no such file, or it is no ONNX file, or it is cut.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ModelError("no such file", where=path, hint="Correct the path under `onnx:`.") from None
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=path) from None
    try:
        pages = Pages(descriptor)
        head = _head(pages, path)
        data: Buffer = pages[0 : len(pages)] if len(pages) <= _AT_ONCE else pages
        try:
            whole = _Cutter(data, own_location(path)).model()
        except ModelError as error:
            raise _not_onnx(head, error, path) from None
    except IsADirectoryError:
        raise ModelError("it is a folder", where=path, hint="Name the ONNX file in it.") from None
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=path) from None
    finally:
        os.close(descriptor)
    if len(whole) > _LARGEST:
        raise ModelError(
            f"the graph alone, without its weights, has {len(whole) >> 20} MiB",
            where=path,
            hint=f"At most {_LARGEST >> 20} MiB are read.",
        )
    return whole


def own_location(path: Path) -> str:
    """What stands as the location of values that were left in the model's own file."""
    return path.name.encode("utf-8", "replace").decode()


def left(entries: Mapping[str, str]) -> int | None:
    """The bytes that the model's own file holds for a tensor with such external data; None where it is elsewhere."""
    begin, _, number = entries.get(_LEFT_KEY, "").partition(_LEFT)
    return int(number) if not begin and number.isascii() and number.isdigit() and len(number) < 20 else None


def _head(pages: Pages, path: Path) -> bytes:
    head = pages[0:64]
    if not head:
        raise ModelError("the file is empty", where=path, hint="Export or fetch the model again.")
    for magic, hint in IMPOSTORS:
        if head.lstrip().startswith(magic):
            raise ModelError("not an ONNX file", where=path, hint=f"By its first bytes {hint}.")
    return head


def _not_onnx(head: bytes, error: ModelError, path: Path) -> ModelError:
    # An ONNX file begins with the field ir_version: tag 0x08 and a small number.
    if head[0] == 0x08 and len(head) > 1 and 0 < head[1] < 64:
        return ModelError(
            "the ONNX file is truncated or damaged",
            where=path,
            hint=f"Export or fetch the model again. It has {error.message}.",
        )
    return ModelError("not an ONNX file", where=path, hint="Its bytes are not an ONNX protobuf.")


class _Cutter:
    """Copies messages; what is large and has a rule is replaced by what the rule gives."""

    def __init__(self, data: Buffer, location: str) -> None:
        self._data = data
        self._location = location
        self._graph_rules: dict[int, _Rule] = {1: self._node, 5: self._tensor, 15: self._sparse}
        self._function_rules: dict[int, _Rule] = {7: self._node}
        self._attribute_rules: dict[int, _Rule] = {
            5: self._tensor, 6: self._graph, 10: self._tensor, 11: self._graph, 22: self._sparse, 23: self._sparse,
        }  # fmt: skip

    def model(self) -> bytes:
        rules: dict[int, _Rule] = {7: self._graph, 25: self._function}
        return self._message(0, len(self._data), 0, rules)

    def _message(self, begin: int, end: int, depth: int, rules: dict[int, _Rule]) -> bytes:
        data, done = self._data, begin
        parts: list[bytes] = []
        for key, at, stop, start in fields(data, begin, end):
            if key & 7 != BYTES or stop - at <= SMALL:
                continue
            rule = rules.get(key >> 3)
            put = rule(at, stop, depth) if rule else None
            if put is not None:
                parts += [data[done:start], encode(key >> 3, put)]
                done = stop
        parts.append(self._kept(done, end))
        return b"".join(parts)

    def _kept(self, begin: int, end: int) -> bytes:
        if end - begin > _LARGEST:
            raise ModelError(f"{end - begin} bytes at byte {begin} that are no weights")
        return self._data[begin:end]

    def _graph(self, begin: int, end: int, depth: int) -> bytes:
        if depth >= MOST_DEPTH:
            raise ModelError(f"graphs in graphs, deeper than {MOST_DEPTH}")
        return self._message(begin, end, depth + 1, self._graph_rules)

    def _function(self, begin: int, end: int, depth: int) -> bytes:
        return self._message(begin, end, depth, self._function_rules)

    def _node(self, begin: int, end: int, depth: int) -> bytes:
        return self._message(begin, end, depth, {5: self._attribute})

    def _attribute(self, begin: int, end: int, depth: int) -> bytes:
        return self._message(begin, end, depth, self._attribute_rules)

    def _sparse(self, begin: int, end: int, depth: int) -> bytes:
        return self._message(begin, end, depth, {1: self._tensor, 2: self._tensor})

    def _tensor(self, begin: int, end: int, _: int) -> bytes:
        """The tensor without its values; where they lie instead."""
        parts: list[bytes] = []
        given: list[bytes] = []
        outside = False
        left: list[tuple[int, int, int]] = []
        for key, at, stop, start in fields(self._data, begin, end):
            number = key >> 3
            if number in _DATA:
                value = at if key & 7 == BYTES else start
                left.append((number, value, stop - value))
                continue
            outside = outside or (number == 14 and at == 1)
            (given if number in {13, 14} else parts).append(self._kept(start, stop))
        if outside:
            parts += given
        else:
            entries = {"location": self._location if left else ""}
            entries[_LEFT_KEY] = f"{_LEFT}{sum(size for *_, size in left)}"
            if len(left) == 1 and left[0][0] in _AS_RAW:
                entries |= {"offset": str(left[0][1]), "length": str(left[0][2])}
            parts += [encode(13, encode(1, key.encode()) + encode(2, value.encode())) for key, value in entries.items()]
            parts.append(encode(14, 1))
        return b"".join(parts)
