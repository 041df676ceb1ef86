"""Signatures, and arrays to and from the bytes of the protocol. No I/O here: every transport shares it."""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

#: Triton's data type -> numpy's, except BYTES (an object array of bytes) and BF16 (see `numpy_dtype`).
_NUMPY: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"), "UINT16": np.dtype("<u2"), "UINT32": np.dtype("<u4"), "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"), "INT16": np.dtype("<i2"), "INT32": np.dtype("<i4"), "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"), "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(np.object_),
}  # fmt: skip


class MismatchError(ValueError):
    """A value that a signature does not allow. The client turns it into InvalidInput, with model and endpoint."""


class WireTensor(NamedTuple):
    """A tensor as the protocol carries it: little-endian, row-major; BYTES elements each after its uint32 length."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes | memoryview


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model, as the server describes it."""

    name: str
    dtype: str
    """Triton's name: FP32, INT64, BYTES, ..."""
    shape: tuple[int, ...]
    """The whole shape, batch axis included; -1 where any size will do."""
    optional: bool = False
    shape_tensor: bool = False
    """Whether its values are a shape (TensorRT): the server alone judges its shape then."""

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}{list(self.shape)}{' (optional)' if self.optional else ''}"


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    """0: the model does not batch. Else axis 0 of every tensor is the batch, of 1 to max_batch_size rows."""

    @classmethod
    def from_server(cls, metadata: Mapping[str, Any], config: Mapping[str, Any]) -> Signature:
        """Read it from the server's metadata and config of a model."""
        more = {entry["name"]: entry for entry in config.get("input", ())}

        def spec(entry: Mapping[str, Any]) -> TensorSpec:
            extra = more.get(entry["name"], {})
            shape = tuple(int(dim) for dim in entry.get("shape", ()))
            optional, shape_tensor = bool(extra.get("optional")), bool(extra.get("is_shape_tensor"))
            return TensorSpec(entry["name"], entry["datatype"], shape, optional, shape_tensor)

        return cls(
            tuple(spec(entry) for entry in metadata.get("inputs", ())),
            tuple(spec(entry) for entry in metadata.get("outputs", ())),
            int(config.get("max_batch_size", 0)),
        )

    def __str__(self) -> str:
        inputs, outputs = (", ".join(map(str, specs)) for specs in (self.inputs, self.outputs))
        batch = f", batches of 1 to {self.max_batch_size}" if self.max_batch_size else ""
        return f"({inputs}) -> ({outputs}){batch}"

    @functools.cached_property
    def by_name(self) -> Mapping[str, TensorSpec]:
        """The inputs by name."""
        return {spec.name: spec for spec in self.inputs}

    @functools.cached_property
    def required(self) -> frozenset[str]:
        """Names of the inputs that every request must bring."""
        return frozenset(spec.name for spec in self.inputs if not spec.optional)


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """Numpy's type for Triton's ``dtype``. BF16 is ml_dtypes.bfloat16 where that package is installed, else uint16: the
    upper halves of float32 values.

    Raises:
        MismatchError: for a type that this client does not know.
    """
    known = _NUMPY.get(dtype)
    if known is not None:
        return known
    if dtype == "BF16":
        return _bfloat16()
    raise MismatchError(f"data type {dtype} is not one this client knows")


def encode_inputs(signature: Signature, values: Mapping[str, Any]) -> tuple[WireTensor, ...]:
    """Check the arrays against the signature and turn them into what goes on the wire.

    The memory of C-contiguous arrays is used in place: it must not change until the reply is there.

    Raises:
        MismatchError: a name, dtype, rank, dimension or batch that the signature does not allow.
    """
    specs = signature.by_name
    unknown = [name for name in values if name not in specs]
    if unknown:
        raise MismatchError(f"no input named {_names(unknown)}")
    missing = signature.required.difference(values)
    if missing:
        raise MismatchError(f"input {_names(sorted(missing))} is missing")
    tensors = tuple([_encode(specs[name], value) for name, value in values.items()])
    if signature.max_batch_size:
        _check_batch(signature, tensors)
    return tensors


def decode(tensor: WireTensor) -> Array:
    """The array of a reply's tensor: read-only, a view of the reply where its memory is aligned. BYTES gives an object
    array of bytes (see `as_text`).

    Raises:
        MismatchError: the bytes do not make such a tensor.
    """
    dtype = numpy_dtype(tensor.dtype)
    if tensor.dtype == "BYTES":
        return _unpack_bytes(tensor)
    count = math.prod(tensor.shape)
    if len(tensor.data) != count * dtype.itemsize:
        shape = list(tensor.shape)
        raise MismatchError(f"output '{tensor.name}' came with {len(tensor.data)} bytes for {tensor.dtype}{shape}")
    array: Array = np.frombuffer(tensor.data, dtype, count).reshape(tensor.shape)
    if not array.flags.aligned:
        array = array.copy()
    array.flags.writeable = False
    return array


def as_text(array: Array, encoding: str = "utf-8", errors: str = "strict") -> Array:
    """An object array of str, of the same shape, out of one of bytes."""
    text = np.empty(array.shape, np.object_)
    text.reshape(-1)[:] = [item.decode(encoding, errors) for item in array.reshape(-1)]
    return text


@functools.lru_cache(maxsize=1)
def _bfloat16() -> np.dtype[Any]:
    try:
        import ml_dtypes
    except ImportError:
        return np.dtype("<u2")
    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def _encode(spec: TensorSpec, value: Any) -> WireTensor:
    array = _array(spec, value)
    shape = array.shape
    if shape != spec.shape and not spec.shape_tensor:
        _check_shape(spec, shape)
    if spec.dtype == "BYTES":
        return WireTensor(spec.name, spec.dtype, shape, _pack_bytes(spec, array))
    # Seen as bytes, because not every dtype (bfloat16) has a buffer of its own.
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    return WireTensor(spec.name, spec.dtype, shape, data)


def _array(spec: TensorSpec, value: Any) -> Array:
    """The value as an array of exactly the input's dtype. Byte order is layout and is changed; types are not."""
    wanted = numpy_dtype(spec.dtype)
    array = value if isinstance(value, np.ndarray) else _from_python(spec, value)
    if array.dtype != wanted:
        if spec.dtype == "BYTES":
            fits = array.dtype.kind in "SU"
        elif spec.dtype == "BF16":
            fits = array.dtype.name in ("bfloat16", "uint16")
        else:
            fits = array.dtype.newbyteorder("=") == wanted
            array = array.astype(wanted) if fits else array
        if not fits:
            raise MismatchError(
                f"input '{spec.name}' is {array.dtype}, and {spec.dtype} ({_python_name(spec)}) is expected"
            )
    if array.ndim == 0 and len(spec.shape) == 1:
        array = array.reshape(1)
    return array


def _from_python(spec: TensorSpec, value: Any) -> Array:
    try:
        # Bytes that numpy turns into its own string type would lose their trailing NULs.
        return np.array(value, np.object_) if spec.dtype == "BYTES" else np.asarray(value)
    except (ValueError, TypeError) as error:
        raise MismatchError(f"input '{spec.name}' does not make an array: {error}") from None


def _check_shape(spec: TensorSpec, shape: tuple[int, ...]) -> None:
    if len(shape) != len(spec.shape):
        wanted = f"{len(spec.shape)} are expected {list(spec.shape)}"
        raise MismatchError(f"input '{spec.name}' has {len(shape)} axes {list(shape)}, and {wanted}")
    for axis, (got, want) in enumerate(zip(shape, spec.shape, strict=True)):
        if want not in (-1, got):
            raise MismatchError(f"input '{spec.name}' has {got} at axis {axis} {list(shape)}, and {want} is expected")


def _check_batch(signature: Signature, tensors: Sequence[WireTensor]) -> None:
    first: WireTensor | None = None
    for tensor in tensors:
        if signature.by_name[tensor.name].shape_tensor:
            continue
        rows = tensor.shape[0]
        if not 1 <= rows <= signature.max_batch_size:
            raise MismatchError(
                f"input '{tensor.name}' has {rows} rows, and 1 to {signature.max_batch_size} are expected"
            )
        if first is None:
            first = tensor
        elif first.shape[0] != rows:
            raise MismatchError(
                f"inputs disagree on the batch: '{first.name}' has {first.shape[0]} rows, '{tensor.name}' {rows}"
            )


def _pack_bytes(spec: TensorSpec, array: Array) -> bytes:
    parts: list[bytes] = []
    for item in array.reshape(-1).tolist():
        if isinstance(item, str):
            try:
                item = item.encode()  # noqa: PLW2901
            except UnicodeEncodeError as error:
                raise MismatchError(f"input '{spec.name}' has a str that is not valid Unicode: {error}") from None
        elif not isinstance(item, bytes):
            raise MismatchError(
                f"input '{spec.name}' has an element of type {type(item).__name__}; bytes or str is expected"
            )
        parts += (struct.pack("<I", len(item)), item)
    return b"".join(parts)


def _unpack_bytes(tensor: WireTensor) -> Array:
    data, items, at = bytes(tensor.data), [], 0
    while at + 4 <= len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        items.append(data[at + 4 : end])
        at = end
    if at != len(data) or len(items) != math.prod(tensor.shape):
        shape = list(tensor.shape)
        raise MismatchError(
            f"output '{tensor.name}' came with {len(items)} elements in {len(data)} bytes for BYTES{shape}"
        )
    array = np.empty(len(items), np.object_)
    array[:] = items
    return array.reshape(tensor.shape)


def _python_name(spec: TensorSpec) -> str:
    if spec.dtype == "BYTES":
        return "bytes or str"
    return "ml_dtypes.bfloat16, or uint16 for raw bits" if spec.dtype == "BF16" else f"numpy.{numpy_dtype(spec.dtype)}"


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
