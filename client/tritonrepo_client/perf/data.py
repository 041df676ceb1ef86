"""Request data: random by signature, or from files."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tritonrepo_client.perf.errors import DataError, UsageError
from tritonrepo_client.tensor import MismatchError, Signature, TensorSpec, WireTensor, decode, numpy_dtype

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Row:
    """Data of one request, whole shapes, and what its outputs must be (empty: anything)."""

    inputs: Arrays
    expected: Arrays = field(default_factory=dict)


@dataclass(frozen=True)
class Data:
    """Rows, in the order in which they are sent. A sequence sends the rows of one stream."""

    streams: tuple[tuple[Row, ...], ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows."""
        return tuple(row for stream in self.streams for row in stream)


@dataclass(frozen=True)
class Axis:
    """One dim of a shape: a number, or a range from which it is drawn."""

    low: int
    high: int
    step: int = 1
    free: bool = False
    """The batch axis: as many rows as a request has."""

    def draw(self, random: np.random.Generator) -> int:
        """One of its values."""
        return self.low + self.step * int(random.integers(0, (self.high - self.low) // self.step + 1))


Shapes = Mapping[str, tuple[Axis, ...]]


def parse_shape(text: str) -> tuple[str, tuple[Axis, ...]]:
    """Read ``NAME=3,224,224`` or ``NAME=3,32:320:32,48:640``; empty dims mean a scalar.

    Raises:
        UsageError: it is neither.
    """
    name, equals, dims = text.rpartition("=")
    parts = [part for part in dims.split(",") if part] if equals else []
    axes: list[Axis] = []
    for part in parts:
        if part == "*" and not axes:
            axes.append(Axis(1, 1, free=True))
            continue
        match = re.fullmatch(r"(\d+)(?::(\d+)(?::(\d+))?)?", part)
        if not match:
            break
        low = int(match[1])
        axes.append(Axis(low, int(match[2] or low), int(match[3] or 1)))
    if not equals or not name or len(axes) != len(parts) or any(a.low > a.high or a.step < 1 for a in axes):
        raise UsageError(
            f"cannot read the shape '{text}'", hint="Give NAME=3,224,224, or ranges: NAME=3,32:320:32,48:640."
        )
    return name, tuple(axes)


def random_data(
    signature: Signature,
    *,
    shapes: Shapes,
    batch: int,
    count: int,
    seed: int,
    low: float | None = None,
    high: float | None = None,
    text_length: int = 16,
) -> Data:
    """Random rows: floats uniform in [low, high) (by default [0, 1)), integers in [low, high) (by default 0 and 1),
    texts of letters.

    Args:
        signature: of the model.
        shapes: dims by input, with or without the batch axis.
        batch: rows in a request.
        count: different requests.
        seed: of the generator.
        low, high: range of the values.
        text_length: of each element of a BYTES input.

    Raises:
        UsageError: a shape is needed or does not fit.
    """
    random = np.random.default_rng(seed)
    unknown = [name for name in shapes if name not in signature.by_name]
    if unknown:
        raise UsageError(f"--shape: no input named '{unknown[0]}'", hint=f"The model takes {signature}.")
    specs = [spec for spec in signature.inputs if not spec.optional or spec.name in shapes]
    axes = {spec.name: _axes(spec, shapes.get(spec.name), signature.max_batch_size, batch) for spec in specs}
    rows = []
    for _ in range(count):
        inputs = {}
        for spec in specs:
            shape = tuple(axis.draw(random) for axis in axes[spec.name])
            inputs[spec.name] = _random(random, spec.dtype, shape, low, high, text_length)
        rows.append(Row(inputs))
    return Data((tuple(rows),))


def _axes(spec: TensorSpec, given: tuple[Axis, ...] | None, most: int, batch: int) -> tuple[Axis, ...]:
    batched = most > 0 and not spec.shape_tensor
    dims = spec.shape[1:] if batched else spec.shape
    if given is None:
        if -1 in dims:
            example = ",".join(str(dim) if dim != -1 else "N" for dim in dims)
            raise UsageError(
                f"input '{spec.name}' is {spec.dtype}{list(spec.shape)}: its shape is not fixed",
                hint=f"Give it: --shape {spec.name}={example} (a range is LOW:HIGH or LOW:HIGH:STEP).",
            )
        given = tuple(Axis(dim, dim) for dim in dims)
    elif batched and len(given) == len(dims) + 1:
        if not (given[0].free or given[0].low <= batch <= given[0].high):
            raise UsageError(
                f"--shape {spec.name} begins with a batch of {given[0].low}, and --batch is {batch}",
                hint="Leave the batch axis out of --shape.",
            )
        given = given[1:]
    if len(given) != len(dims) or any(
        dim != -1 and (axis.low, axis.high) != (dim, dim) for axis, dim in zip(given, dims, strict=True)
    ):
        raise UsageError(f"--shape {spec.name} does not fit the input, which is {spec.dtype}{list(spec.shape)}")
    return (Axis(batch, batch), *given) if batched else given


def _random(
    random: np.random.Generator, dtype: str, shape: tuple[int, ...], low: float | None, high: float | None, length: int
) -> NDArray[Any]:
    if dtype == "BYTES":
        letters = random.integers(97, 123, (math.prod(shape), length)).astype(np.uint8)
        array = np.empty(math.prod(shape), np.object_)
        array[:] = [line.tobytes() for line in letters]
        return array.reshape(shape)
    if dtype == "BOOL":
        return random.integers(0, 2, shape).astype(np.bool_)
    first = 0.0 if low is None else low
    if dtype in ("FP16", "FP32", "FP64", "BF16"):
        last = 1.0 if high is None else high
        values = random.random(shape, np.float32 if dtype != "FP64" else np.float64) * (last - first) + first
        if dtype == "BF16":
            wide: NDArray[Any] = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
            wanted = numpy_dtype("BF16")
            return wide if wanted == np.uint16 else wide.view(wanted)
        return values.astype(numpy_dtype(dtype))
    whole = numpy_dtype(dtype)
    last = first + 2 if high is None else high
    limits = np.iinfo(whole)
    if first < limits.min or last - 1 > limits.max or last <= first:
        raise UsageError(f"values from {first:g} to {last:g} do not fit {dtype}", hint="Change --low and --high.")
    return random.integers(int(first), int(last), shape).astype(whole)


def load_data(path: Path, signature: Signature, *, batch: int, shapes: Shapes) -> Data:
    """Rows from a .npz, a perf_analyzer JSON file, or a directory of either, of .npy or of raw files.

    Raises:
        DataError: it cannot be read, or does not fit the signature.
    """
    try:
        if path.is_dir():
            data = _directory(path, signature, batch, shapes)
        elif path.suffix == ".npz":
            data = Data((tuple(_npz(path, signature, batch)),))
        elif path.suffix == ".json":
            data = _json(path, signature, batch, shapes)
        else:
            raise DataError(f"{path}: cannot tell what this is", hint="Give a .npz, a .json or a directory.")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    if not data.rows:
        raise DataError(f"{path}: there are no requests in it")
    return data


def with_expected(data: Data, path: Path, signature: Signature, batch: int) -> Data:
    """The same rows, each with the outputs that a .npz says it must have.

    Raises:
        DataError: it cannot be read, or has another number of rows.
    """
    arrays = _read_npz(path)
    rows = data.rows
    per_row: list[dict[str, NDArray[Any]]] = [{} for _ in rows]
    known = {spec.name: spec for spec in signature.outputs}
    for name, array in arrays.items():
        if name not in known:
            raise DataError(f"{path}: the model has no output named '{name}'")
        parts = _split_rows(path, known[name], array, signature.max_batch_size, batch)
        if len(parts) != len(rows):
            raise DataError(f"{path}: '{name}' is enough for {len(parts)} requests, and there are {len(rows)}")
        for row, part in zip(per_row, parts, strict=True):
            row[name] = part
    filled = iter([Row(row.inputs, expected) for row, expected in zip(rows, per_row, strict=True)])
    return Data(tuple(tuple(next(filled) for _ in stream) for stream in data.streams))


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def _npz(path: Path, signature: Signature, batch: int) -> list[Row]:
    arrays = _read_npz(path)
    columns: dict[str, list[NDArray[Any]]] = {}
    for name, array in arrays.items():
        spec = signature.by_name.get(name)
        if spec is None:
            raise DataError(f"{path}: the model has no input named '{name}'", hint=f"It takes {signature}.")
        columns[name] = _split_rows(path, spec, array, signature.max_batch_size, batch)
    counts = {name: len(parts) for name, parts in columns.items()}
    if len(set(counts.values())) > 1:
        raise DataError(f"{path}: the inputs are enough for different numbers of requests: {counts}")
    return [Row(dict(zip(columns, parts, strict=True))) for parts in zip(*columns.values(), strict=True)]


def _split_rows(path: Path, spec: TensorSpec, array: NDArray[Any], most: int, batch: int) -> list[NDArray[Any]]:
    """Cut an array into requests: batches along axis 0, or one request for each entry of an additional axis."""
    if spec.dtype == "BYTES" and array.dtype.kind in "SU":
        array = array.astype(np.object_)
    if array.ndim == len(spec.shape) + 1:
        return list(array)
    if array.ndim != len(spec.shape):
        raise DataError(f"{path}: '{spec.name}' has shape {list(array.shape)}, and the model has {list(spec.shape)}")
    if not most or spec.shape_tensor:
        return [array]
    if len(array) % batch:
        raise DataError(f"{path}: '{spec.name}' has {len(array)} rows, which do not make batches of {batch}")
    return [array[at : at + batch] for at in range(0, len(array), batch)]


def _directory(path: Path, signature: Signature, batch: int, shapes: Shapes) -> Data:
    names = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    whole = [entry for entry in names if entry.is_file() and entry.suffix in (".npz", ".json")]
    if whole:
        parts = [load_data(entry, signature, batch=batch, shapes=shapes) for entry in whole]
        if any(entry.suffix == ".json" for entry in whole):
            return Data(tuple(stream for part in parts for stream in part.streams))
        return Data((tuple(row for part in parts for row in part.rows),))
    folders = [entry for entry in names if entry.is_dir()]
    groups = folders or [path]
    return Data((tuple(_folder(folder, signature, batch, shapes) for folder in groups),))


def _folder(path: Path, signature: Signature, batch: int, shapes: Shapes) -> Row:
    """One request: a file for each input, ``NAME.npy`` or raw bytes in ``NAME`` or ``NAME.bin``."""
    inputs = {}
    for spec in signature.inputs:
        numpy_file = path / f"{spec.name}.npy"
        raw = next((file for file in (path / spec.name, path / f"{spec.name}.bin") if file.is_file()), None)
        if path.resolve() not in numpy_file.resolve().parents:
            raise DataError(f"{path}: the input's name '{spec.name}' leads out of the directory")
        if numpy_file.is_file():
            try:
                inputs[spec.name] = _batched(np.load(numpy_file, allow_pickle=False), spec, signature, batch)
            except ValueError as error:
                raise DataError(f"{numpy_file}: {error}") from None
        elif raw is not None:
            inputs[spec.name] = _raw(raw, spec, signature, batch, shapes)
        elif not spec.optional:
            raise DataError(f"{path}: no file for input '{spec.name}'", hint=f"Write {numpy_file.name}, or raw bytes.")
    return Row(inputs)


def _batched(array: NDArray[Any], spec: TensorSpec, signature: Signature, batch: int) -> NDArray[Any]:
    if signature.max_batch_size and array.ndim == len(spec.shape) - 1:
        return np.repeat(array[None], batch, 0)
    return array


def _raw(file: Path, spec: TensorSpec, signature: Signature, batch: int, shapes: Shapes) -> NDArray[Any]:
    if spec.dtype == "BYTES":
        element = np.array([file.read_bytes()], np.object_)
        return _batched(element, spec, signature, batch)
    axes = _axes(spec, shapes.get(spec.name), signature.max_batch_size, 1)
    if any(axis.low != axis.high for axis in axes):
        raise DataError(f"{file}: raw bytes have one shape", hint=f"Give --shape {spec.name}= without ranges.")
    shape = tuple(axis.low for axis in axes)
    try:
        array = decode(WireTensor(spec.name, spec.dtype, shape, file.read_bytes()))
    except MismatchError as error:
        raise DataError(f"{file}: {str(error).replace('output', 'input')}") from None
    return np.repeat(array, batch, 0) if signature.max_batch_size else array


def _json(path: Path, signature: Signature, batch: int, shapes: Shapes) -> Data:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: it is not JSON: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("data"), list):
        raise DataError(f"{path}: there is no list 'data' in it")
    streams = _json_streams(path, content["data"])
    wanted = _json_streams(path, content.get("validation_data", []))
    inputs, outputs = signature.by_name, {spec.name: spec for spec in signature.outputs}
    result = []
    for number, stream in enumerate(streams):
        rows = [_json_row(path, step, inputs, signature, shapes) for step in stream]
        checks: list[dict[str, NDArray[Any]]] = [{} for _ in rows]
        if wanted:
            if number >= len(wanted) or len(wanted[number]) != len(rows):
                raise DataError(f"{path}: 'validation_data' has not as many steps as 'data'")
            checks = [_json_row(path, step, outputs, signature, {}) for step in wanted[number]]
        result.append(tuple(_join(rows, checks, batch if signature.max_batch_size else 1, path)))
    return Data(tuple(result))


def _json_streams(path: Path, data: Any) -> list[list[Mapping[str, Any]]]:
    """perf_analyzer's ``data``: a list of requests, or a list of streams of them."""
    streams = data if data and all(isinstance(each, list) for each in data) else [data] if data else []
    for stream in streams:
        for step in stream:
            if not isinstance(step, dict):
                raise DataError(f"{path}: a request is an object of inputs by name, and {step!r:.60} is none")
    return list(streams)


def _json_row(
    path: Path, step: Mapping[str, Any], specs: Mapping[str, TensorSpec], signature: Signature, shapes: Shapes
) -> dict[str, NDArray[Any]]:
    arrays = {}
    for name, value in step.items():
        spec = specs.get(name)
        if spec is None:
            raise DataError(f"{path}: the model has no tensor named '{name}'", hint=f"It is {signature}.")
        arrays[name] = _json_array(path, spec, value, signature, shapes)
    return arrays


def _json_array(path: Path, spec: TensorSpec, value: Any, signature: Signature, shapes: Shapes) -> NDArray[Any]:
    """A tensor of one row, with the batch axis where the model batches."""
    batched = bool(signature.max_batch_size) and not spec.shape_tensor
    dims = spec.shape[1:] if batched else spec.shape
    shape: Sequence[int] | None = None
    if isinstance(value, dict):
        shape = value.get("shape")
        value = value if "b64" in value else value.get("content")
    if shape is None and spec.name in shapes:
        shape = [axis.low for axis in shapes[spec.name]]
    if shape is None:
        shape = dims if -1 not in dims else None
    try:
        if isinstance(value, dict):
            raw = base64.b64decode(value["b64"], validate=True)
            if spec.dtype == "BYTES":
                array = np.array([raw], np.object_)
            else:
                array = np.frombuffer(raw, numpy_dtype(spec.dtype))
        elif spec.dtype == "BYTES":
            flat = [value] if isinstance(value, str) else list(_flat(value))
            array = np.empty(len(flat), np.object_)
            array[:] = [str(item).encode() for item in flat]
        else:
            array = np.asarray(value if isinstance(value, list) else [value], numpy_dtype(spec.dtype))
        array = array.reshape(tuple(shape) if shape is not None else array.shape)
    except (ValueError, TypeError, OverflowError, KeyError) as error:
        raise DataError(f"{path}: tensor '{spec.name}' does not make {spec.dtype}{list(spec.shape)}: {error}") from None
    if batched and array.ndim == len(dims):
        array = array[None]
    return array


def _flat(value: Any) -> Iterable[Any]:
    if isinstance(value, list):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def _join(rows: Sequence[Arrays], checks: Sequence[Arrays], batch: int, path: Path) -> list[Row]:
    """Make batches of consecutive rows; the last is filled up from the beginning."""
    if batch == 1:
        return [Row(row, check) for row, check in zip(rows, checks, strict=True)]
    result = []
    for at in range(0, len(rows), batch):
        numbers = [(at + offset) % len(rows) for offset in range(batch)]
        try:
            joined = {name: np.concatenate([rows[n][name] for n in numbers]) for name in rows[at]}
            check = {name: np.concatenate([checks[n][name] for n in numbers]) for name in checks[at]}
        except (KeyError, ValueError) as error:
            raise DataError(f"{path}: requests {numbers} cannot share a batch: {error}") from None
        result.append(Row(joined, check))
    return result
