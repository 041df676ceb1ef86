"""Weights outside the graph: the graph stays small, and weights are converted by tensor, and each of them by piece.

A working folder holds files of weights; the model's tensors refer to parts of them as external data. So trying another
choice of operators writes a graph of some kilobytes, and no model is ever in memory twice.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonrepo.prepare.precision.graph import BFLOAT16, FLOAT, FLOAT16, INT8, all_graphs

if TYPE_CHECKING:
    import numpy as np
    import onnx

    Array = np.ndarray[Any, Any]

#: Tensors of fewer bytes stay in the graph, where shape inference can read them.
SMALL = 1024

#: Elements that are converted at a time.
_PIECE = 1 << 22

#: A model that came in one file stays in one file up to this size; protobuf ends at 2 GiB.
ONE_FILE = 1_900_000_000

DATA_FILE = "model.onnx.data"


def spill(model: onnx.ModelProto, source: Path, folder: Path) -> None:
    """Move the weights of a model into a folder; afterwards every larger tensor is external data there.

    Files of external data get names of ours: theirs could be those of files that we write.

    Args:
        model: as it is parsed, external data not loaded; changed in place.
        source: its file, beside which its own external data lies.
        folder: gets ``inline.bin`` and links to (or copies of) the files of external data.
    """
    import onnx

    linked: dict[str, str] = {}
    with _Appending(folder / "inline.bin") as file:
        for graph in all_graphs(model.graph):
            for tensor in graph.initializer:
                if tensor.data_location == onnx.TensorProto.EXTERNAL:
                    location = next(entry for entry in tensor.external_data if entry.key == "location")
                    if location.value not in linked:
                        linked[location.value] = f"source{len(linked)}"
                        _link(source.parent / location.value, folder / linked[location.value])
                    location.value = linked[location.value]
                elif len(tensor.raw_data) >= SMALL:
                    file.move(tensor, tensor.raw_data)
                elif len(tensor.float_data) * 4 >= SMALL:
                    import numpy as np

                    content = np.array(tensor.float_data, np.float32).tobytes()
                    del tensor.float_data[:]
                    file.move(tensor, content)


def values(tensor: onnx.TensorProto, folder: Path) -> Array:
    """A tensor's values, mapped from its file where they lie in one."""
    import numpy as np
    import onnx

    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return onnx.numpy_helper.to_array(tensor)
    place = _place(tensor)
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    count = int(np.prod(tensor.dims, dtype=np.int64))
    if not count:
        return np.zeros(tuple(tensor.dims), dtype)
    mapped = np.memmap(folder / place.location, dtype, "r", place.offset, (count,))
    return mapped.reshape(tuple(tensor.dims))


@dataclass
class Lowered:
    """Weights in a lower precision, each made once, when it is first asked for."""

    folder: Path
    dtype: int
    """FLOAT16 or BFLOAT16."""
    clamped: dict[str, int] = field(default_factory=dict)
    """How many values of a tensor lay beyond the type's range, and are its largest value now."""
    flushed: dict[str, int] = field(default_factory=dict)
    """How many values of a tensor, not zero, lay below the type's smallest, and are its smallest value now."""
    _made: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def get(self, tensor: onnx.TensorProto, key: str) -> onnx.TensorProto:
        """The tensor in the lower precision, under its own name.

        Finite values stay finite, and what is not zero stays not zero: a mask of -1e9 becomes the lowest value, and an
        epsilon of 1e-12 becomes the smallest, so that neither infinity times zero nor a division by zero comes of it.

        Args:
            tensor: in FP32.
            key: its name, unique in the model.
        """
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = self._make(tensor, key)
        return made

    def _make(self, tensor: onnx.TensorProto, key: str) -> onnx.TensorProto:
        import numpy as np
        import onnx

        source = values(tensor, self.folder).reshape(-1)
        low = onnx.TensorProto(name=tensor.name, data_type=self.dtype, dims=tensor.dims)
        if source.size * 2 < SMALL:
            low.raw_data = self._convert(source, key).tobytes()
            return low
        with _Appending(self.folder / f"low{self.dtype}.bin") as file:
            start = file.position
            for begin in range(0, source.size, _PIECE):
                file.write(self._convert(np.asarray(source[begin : begin + _PIECE]), key))
            file.refer(low, start)
        return low

    def _convert(self, piece: Array, key: str) -> Array:
        beyond, below = _out_of_range(piece, self.dtype)
        for mask, counts in ((beyond, self.clamped), (below, self.flushed)):
            if mask.any():
                counts[key] = counts.get(key, 0) + int(mask.sum())
        return rounded(piece, self.dtype)


#: Largest and smallest value of a type.
RANGE: Mapping[int, tuple[float, float]] = {FLOAT16: (65504.0, 2.0**-24), BFLOAT16: (3.3895313892515355e38, 2.0**-133)}


def rounded(array: Array, dtype: int) -> Array:
    """Values in a lower precision: what is finite stays finite, what is not zero stays not zero."""
    import numpy as np

    largest, smallest = RANGE[dtype]
    beyond, below = _out_of_range(array, dtype)
    clipped = np.where(beyond, np.copysign(largest, array), array)
    return np.where(below, np.copysign(smallest, array), clipped).astype(numpy_type(dtype))


def _out_of_range(array: Array, dtype: int) -> tuple[Array, Array]:
    """Where finite values lie beyond the type's largest, and where values other than zero lie below its smallest."""
    import numpy as np

    largest, smallest = RANGE[dtype]
    size = np.abs(array)
    return np.isfinite(array) & (size > largest), (array != 0) & (size < smallest)


def numpy_type(dtype: int) -> np.dtype[Any]:
    """The numpy type of an ONNX element type; bfloat16 comes from ml_dtypes, which onnx brings along."""
    import numpy as np
    import onnx

    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(dtype))


def append(folder: Path, file: str, tensor: onnx.TensorProto, pieces: Iterator[Array]) -> None:
    """Write a new tensor's values at the end of a file, and make the tensor refer to them."""
    with _Appending(folder / file) as out:
        start = out.position
        for piece in pieces:
            out.write(piece)
        out.refer(tensor, start)


def bytes_by_type(model: onnx.ModelProto) -> dict[int, int]:
    """Bytes of the weights by element type, tensors in Constant nodes included."""
    import numpy as np

    sizes: dict[int, int] = {}
    width = {FLOAT: 4, FLOAT16: 2, BFLOAT16: 2, INT8: 1}
    for graph in all_graphs(model.graph):
        constants = [attr.t for node in graph.node for attr in node.attribute if attr.HasField("t")]
        for tensor in (*graph.initializer, *constants):
            if tensor.data_type not in width and tensor.data_type in (0, 8):
                continue
            each = width.get(tensor.data_type) or numpy_type(tensor.data_type).itemsize
            count = int(np.prod(tensor.dims, dtype=np.int64))
            sizes[tensor.data_type] = sizes.get(tensor.data_type, 0) + count * each
    return sizes


def write(model: onnx.ModelProto, folder: Path, target: Path, *, one_file: bool) -> Path:
    """Write a model whose weights lie in a folder as ``target``/model.onnx, weights within it or in one file beside it.

    Args:
        model: refers to ``folder``; it is left as it is.
        folder: the working folder.
        target: an existing folder.
        one_file: whether weights go into the ONNX file, where they fit.
    """
    import onnx

    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    path = target / "model.onnx"
    tensors = [tensor for graph in all_graphs(whole.graph) for tensor in graph.initializer]
    external = [tensor for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL]
    if one_file and sum(_place(tensor).length for tensor in external) < ONE_FILE:
        for tensor in external:
            place = _place(tensor)
            with (folder / place.location).open("rb") as file:
                file.seek(place.offset)
                tensor.raw_data = file.read(place.length)
            tensor.ClearField("data_location")
            del tensor.external_data[:]
    elif external:
        with _Appending(target / DATA_FILE) as out:
            for tensor in external:
                start = out.position
                for piece in _pieces(folder, _place(tensor)):
                    out.write(piece)
                out.refer(tensor, start)
    path.write_bytes(whole.SerializeToString(deterministic=True))
    return path


def _pieces(folder: Path, place: _Place) -> Iterator[bytes]:
    with (folder / place.location).open("rb") as file:
        file.seek(place.offset)
        left = place.length
        while left and (piece := file.read(min(left, 1 << 24))):
            left -= len(piece)
            yield piece


@dataclass(frozen=True)
class _Place:
    """Where a tensor's values lie."""

    location: str
    offset: int
    length: int


def _place(tensor: onnx.TensorProto) -> _Place:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    length = entries.get("length")
    return _Place(entries["location"], int(entries.get("offset", 0)), int(length) if length else _size(tensor))


def _size(tensor: onnx.TensorProto) -> int:
    import numpy as np

    return int(np.prod(tensor.dims, dtype=np.int64)) * numpy_type(tensor.data_type).itemsize


def _link(source: Path, target: Path) -> None:
    """A second name for a file, or a copy where the file system has none; the file is only read."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


class _Appending:
    """A file of weights that grows; each tensor begins at a multiple of 64 bytes."""

    _ALIGN = 64

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> _Appending:
        self._file = self._path.open("ab")
        self._pad()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if not self._path.stat().st_size:
            self._path.unlink()

    @property
    def position(self) -> int:
        return self._file.tell()

    def write(self, content: bytes | Array) -> None:
        self._file.write(content if isinstance(content, bytes) else content.tobytes())

    def move(self, tensor: onnx.TensorProto, content: bytes) -> None:
        """Write a tensor's values and make it refer to them."""
        start = self.position
        self.write(content)
        self.refer(tensor, start)

    def refer(self, tensor: onnx.TensorProto, start: int) -> None:
        """Make a tensor refer to what was written since ``start``."""
        import onnx

        entries = {"location": self._path.name, "offset": start, "length": self.position - start}
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        del tensor.external_data[:]
        tensor.external_data.extend(
            onnx.StringStringEntryProto(key=key, value=str(value)) for key, value in entries.items()
        )
        self._pad()

    def _pad(self) -> None:
        self._file.write(bytes(-self._file.tell() % self._ALIGN))
