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


_OBJECT = _NUMPY["BYTES"]
_LENGTH = struct.Struct("<I")


class MismatchError(ValueError):
    """A value that a signature does not allow. The client turns it into InvalidInput, with model and endpoint."""


class WireTensor(NamedTuple):
    """A tensor as the protocol carries it: little-endian, row-major; BYTES elements each after its uint32 length."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes | memoryview
    region: str = ""
    """The registered shared memory that holds it in place of ``data``."""
    region_size: int = 0
    region_offset: int = 0


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
    stateful: bool = False
    """Whether it keeps state between the requests of a sequence."""
    decoupled: bool = False
    """Whether it may send any number of replies to a request."""
    queue_timeout: bool = False
    """Whether a request may say how long it is worth waiting for in the queue."""

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
            "sequence_batching" in config,
            bool((config.get("model_transaction_policy") or {}).get("decoupled")),
            _timeout_allowed(config.get("dynamic_batching") or {}),
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
    def only_input(self) -> str:
        """The name of the input that a lone array is for; "" where several could be meant."""
        names = [spec.name for spec in self.inputs if not spec.optional] or [spec.name for spec in self.inputs]
        return names[0] if len(names) == 1 else ""

    @functools.cached_property
    def plain(self) -> bool:
        """Whether a call needs nothing but its inputs."""
        shapes = any(spec.shape_tensor for spec in self.inputs)
        return not (self.decoupled or self.stateful or self.queue_timeout or shapes)

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
    arrays = check_inputs(signature, values)
    if signature.max_batch_size:
        count_rows(signature, arrays, signature.max_batch_size)
    return encode_arrays(signature, arrays)


def encode_exact(signature: Signature, values: Mapping[str, Any], most_bytes: int) -> tuple[WireTensor, ...] | None:
    """What goes on the wire, where all values are arrays exactly as the signature says and make one request of at most
    so many bytes; None where `check_inputs` must look closer.
    """
    specs, batch, rows, tensors = signature.by_name, signature.max_batch_size, 0, []
    if len(values) != len(specs) and not signature.required <= values.keys():
        return None
    for name, value in values.items():
        spec = specs.get(name)
        if spec is None or type(value) is not np.ndarray or value.dtype is not _NUMPY.get(spec.dtype):
            return None
        shape = value.shape
        if not _allows(spec.shape, shape) or not value.flags.c_contiguous or value.dtype is _OBJECT or not value.size:
            return None
        if batch:
            if shape[0] > batch or (rows and shape[0] != rows):
                return None
            rows = shape[0]
        most_bytes -= value.nbytes
        tensors.append(WireTensor(name, spec.dtype, shape, value.data.cast("B")))
    return tuple(tensors) if most_bytes >= 0 else None


def check_inputs(
    signature: Signature, values: Mapping[str, Any], *, cast: bool = False, unbatched: bool = False
) -> dict[str, Array]:
    """Arrays that the signature allows, but for the number of rows (see `count_rows`).

    Args:
        signature: what the model takes.
        values: arrays, or what numpy makes arrays of, by input name.
        cast: change dtypes where no value can be lost, and take Python's numbers for any dtype that holds them.
        unbatched: the values lack the batch axis; it is put before them.

    Raises:
        MismatchError: a name, dtype, rank or dimension that the signature does not allow.
    """
    specs = signature.by_name
    arrays = {}
    for name, value in values.items():
        spec = specs.get(name)
        if spec is None:
            raise MismatchError(f"no input named {_names([name for name in values if name not in specs])}")
        array = _array(spec, value, cast)
        if unbatched and not spec.shape_tensor:
            array = array[np.newaxis]
        if array.ndim == 0 and len(spec.shape) == 1:
            array = array.reshape(1)
        if not (_allows(spec.shape, array.shape) or spec.shape_tensor):
            _check_shape(spec, array.shape)
        arrays[name] = array
    if not signature.required <= arrays.keys():
        raise MismatchError(f"input {_names(sorted(signature.required - arrays.keys()))} is missing")
    return arrays


def count_rows(signature: Signature, arrays: Mapping[str, Array], most: int | None = None) -> int:
    """The number of rows in the batch: the same in all inputs, and at least 1.

    Raises:
        MismatchError: it is not, or more than ``most``.
    """
    first, rows = "", 0
    for name, array in arrays.items():
        if signature.by_name[name].shape_tensor:
            continue
        here = array.shape[0]
        if here < 1 or (most is not None and here > most):
            wanted = f"1 to {most}" if most else "at least 1"
            raise MismatchError(f"input '{name}' has {here} rows, and {wanted} are expected")
        if not first:
            first, rows = name, here
        elif here != rows:
            raise MismatchError(f"inputs disagree on the batch: '{first}' has {rows} rows, '{name}' {here}")
    return rows


def encode_arrays(signature: Signature, arrays: Mapping[str, Array]) -> tuple[WireTensor, ...]:
    """What goes on the wire for arrays that `check_inputs` gave.

    Raises:
        MismatchError: an element of a BYTES array that is no bytes or str.
    """
    return tuple([_encode(signature.by_name[name], array) for name, array in arrays.items()])


def decode(tensor: WireTensor) -> Array:
    """The array of a reply's tensor: read-only, a view of the reply where its memory is aligned. BYTES gives an object
    array of bytes (see `as_text`).

    Raises:
        MismatchError: the bytes do not make such a tensor.
    """
    name, kind, shape, data = tensor[:4]
    if kind == "BYTES":
        return _unpack_bytes(tensor)
    dtype = _NUMPY.get(kind) or numpy_dtype(kind)
    count = math.prod(shape)
    if len(data) != count * dtype.itemsize:
        raise MismatchError(f"output '{name}' came with {len(data)} bytes for {kind}{list(shape)}")
    array: Array = np.frombuffer(data, dtype, count)
    if len(shape) != 1 or shape[0] < 0:
        array = array.reshape(shape)
    flags = array.flags
    if not flags.aligned:
        array = array.copy()
        flags = array.flags
    if flags.writeable:
        flags.writeable = False
    return array


def as_text(array: Array, encoding: str = "utf-8", errors: str = "strict") -> Array:
    """An object array of str, of the same shape, out of one of bytes."""
    text = np.empty(array.shape, np.object_)
    text.reshape(-1)[:] = [item.decode(encoding, errors) for item in array.reshape(-1)]
    return text


@dataclass(frozen=True)
class Classification:
    """One of the classes that the server ranked."""

    value: float
    index: int
    label: str
    """"" where the model has no labels."""


def as_classes(array: Array) -> list[Any]:
    """Lists of `Classification`, nested as the array is, out of an output that was asked for with ``classes``."""

    def read(item: Any) -> Any:
        if isinstance(item, list):
            return [read(each) for each in item]
        value, index, label = [*item.decode("utf-8", "replace").split(":", 2), ""][:3]
        return Classification(float(value), int(index), label)

    found: list[Any] = read(array.tolist())
    return found


@functools.lru_cache(maxsize=1)
def _bfloat16() -> np.dtype[Any]:
    try:
        import ml_dtypes
    except ImportError:
        return np.dtype("<u2")
    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def _timeout_allowed(batcher: Mapping[str, Any]) -> bool:
    policy = batcher.get("default_queue_policy") or {}
    # A request can shorten the default, and only that: where there is none, the server ignores what it says.
    return bool(policy.get("allow_timeout_override") and int(policy.get("default_timeout_microseconds", 0)))


def _encode(spec: TensorSpec, array: Array) -> WireTensor:
    if spec.dtype == "BYTES":
        return WireTensor(spec.name, spec.dtype, array.shape, _pack_bytes(spec, array))
    if not array.flags.c_contiguous:
        array = np.ascontiguousarray(array)
    # Seen as bytes, because not every dtype (bfloat16) has a buffer of its own.
    return WireTensor(spec.name, spec.dtype, array.shape, array.reshape(-1).view(np.uint8).data)


def _array(spec: TensorSpec, value: Any, cast: bool) -> Array:
    """The value as an array of exactly the input's dtype. Byte order is layout and is changed; types are not, unless
    a cast is asked for.
    """
    wanted = _NUMPY.get(spec.dtype) or numpy_dtype(spec.dtype)
    array = value if isinstance(value, np.ndarray) else _from_python(spec, value, wanted if cast else None)
    if array.dtype is wanted or array.dtype == wanted:
        return array
    if spec.dtype == "BYTES":
        fits = array.dtype.kind in "SU"
    elif spec.dtype == "BF16":
        fits = array.dtype.name in ("bfloat16", "uint16")
    else:
        fits = array.dtype.newbyteorder("=") == wanted
        array = array.astype(wanted) if fits else array
    if not fits and cast and spec.dtype != "BYTES" and np.can_cast(array.dtype, wanted, "safe"):
        return array.astype(wanted)
    if not fits:
        loss = " (a cast could lose values)" if cast else ""
        raise MismatchError(
            f"input '{spec.name}' is {array.dtype}, and {spec.dtype} ({_python_name(spec)}) is expected{loss}"
        )
    return array


def _from_python(spec: TensorSpec, value: Any, wanted: np.dtype[Any] | None) -> Array:
    try:
        # Bytes that numpy turns into its own string type would lose their trailing NULs.
        array = np.array(value, np.object_) if spec.dtype == "BYTES" else np.asarray(value)
        if wanted is None or spec.dtype == "BYTES" or isinstance(value, np.generic) or array.dtype == wanted:
            return array
        # Python's numbers have no width of their own: integers must keep their value, floats their magnitude.
        exact = array.dtype.kind in "iu" and wanted.kind in "iu"
        if exact or not array.size or np.can_cast(array.dtype, wanted, "same_kind"):
            with np.errstate(over="ignore"):
                changed = array.astype(wanted)
            lost = (changed != array) if exact else (np.isinf(changed) & np.isfinite(array))
            if lost.any():
                raise MismatchError(f"input '{spec.name}' has {array[lost].flat[0]}, which {spec.dtype} cannot hold")
            return changed
    except (ValueError, TypeError, OverflowError) as error:
        if isinstance(error, MismatchError):
            raise
        raise MismatchError(f"input '{spec.name}' does not make an array: {error}") from None
    return array


@functools.lru_cache(4096)
def _allows(wanted: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    return len(wanted) == len(shape) and all(want in (-1, got) for want, got in zip(wanted, shape, strict=True))


def _check_shape(spec: TensorSpec, shape: tuple[int, ...]) -> None:
    if len(shape) != len(spec.shape):
        wanted = f"{len(spec.shape)} are expected {list(spec.shape)}"
        raise MismatchError(f"input '{spec.name}' has {len(shape)} axes {list(shape)}, and {wanted}")
    for axis, (got, want) in enumerate(zip(shape, spec.shape, strict=True)):
        if want not in (-1, got):
            raise MismatchError(f"input '{spec.name}' has {got} at axis {axis} {list(shape)}, and {want} is expected")


def _pack_bytes(spec: TensorSpec, array: Array) -> bytes:
    parts: list[bytes] = []
    pack = _LENGTH.pack
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
        parts += (pack(len(item)), item)
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
