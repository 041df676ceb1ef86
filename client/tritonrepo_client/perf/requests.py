"""Rows of data -> requests, serialized as far as they can be before they are sent."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tritonrepo_client.perf._plan import JSON_WIDTH, VARINT_WIDTH, ExpectedOutput, Patch, Template
from tritonrepo_client.perf._protobuf import delimited, varint, wide_varint
from tritonrepo_client.perf.data import Arrays, Data, Row
from tritonrepo_client.perf.errors import DataError
from tritonrepo_client.perf.server import infer_path
from tritonrepo_client.perf.shared_memory import Regions
from tritonrepo_client.perf.workers import Payload
from tritonrepo_client.tensor import MismatchError, Signature, TensorSpec, WireTensor, encode_inputs, numpy_dtype

Parameter = str | bool | int | float
_ALIGNED = 64


@dataclass(frozen=True)
class Target:
    """A model to send to, and what goes with each request."""

    index: int
    name: str
    version: str
    signature: Signature
    outputs: tuple[str, ...] = ()
    """Outputs to ask for; () is all of them."""
    parameters: Mapping[str, Parameter] | None = None


@dataclass(frozen=True)
class SharedMemory:
    """Where tensors lie that do not go over the wire."""

    regions: Regions
    slots: int
    """Requests in flight at most: each has a place for its outputs."""
    output_bytes: int
    """Room for an output whose size is not known."""


def serialize(
    target: Target, data: Data, protocol: str, payload: Payload, shared: SharedMemory | None
) -> tuple[list[list[Template]], list[tuple[ExpectedOutput, ...]]]:
    """Templates for each stream of the data, and the expected outputs that they point to.

    Args:
        target: the model.
        data: rows.
        protocol: http or grpc.
        payload: takes the tensors' bytes.
        shared: where the tensors go instead, or None.

    Raises:
        DataError: a row does not fit the model.
    """
    write = _http if protocol == "http" else _grpc
    place = _Places(target, data, shared, protocol) if shared else None
    expected: list[tuple[ExpectedOutput, ...]] = []
    streams = []
    number = 0
    for stream in data.streams:
        templates = []
        for row in stream:
            tensors = encode_row(target.signature, row, number)
            number += 1
            template = write(target, tensors, payload, place)
            if row.expected:
                template = template._replace(expected=len(expected))
                expected.append(expected_outputs(target.signature, row.expected))
            templates.append(template)
        streams.append(templates)
    return streams, expected


def encode_row(signature: Signature, row: Row, number: int) -> tuple[WireTensor, ...]:
    """The inputs as the wire has them.

    Raises:
        DataError: they do not fit the model.
    """
    try:
        return encode_inputs(signature, row.inputs)
    except MismatchError as error:
        raise DataError(f"request {number}: {error}", hint=f"The model takes {signature}.") from None


def expected_outputs(signature: Signature, arrays: Arrays) -> tuple[ExpectedOutput, ...]:
    """Expected outputs as the wire has them."""
    specs = {spec.name: spec for spec in signature.outputs}
    result = []
    for name, array in arrays.items():
        dtype = specs[name].dtype
        if dtype == "BYTES":
            items = [item if isinstance(item, bytes) else str(item).encode() for item in array.reshape(-1).tolist()]
            data = b"".join(len(item).to_bytes(4, "little") + item for item in items)
        else:
            data = np.ascontiguousarray(array.astype(numpy_dtype(dtype))).tobytes()
        result.append(ExpectedOutput(name, dtype, tuple(array.shape), data))
    return tuple(result)


class _Places:
    """Offsets of tensors in shared memory."""

    def __init__(self, target: Target, data: Data, shared: SharedMemory, protocol: str) -> None:
        sizes = [sum(map(_wire_size, encode_row(target.signature, row, 0))) for row in data.rows]
        self.input_region, self._memory = shared.regions.add(max(sum(sizes), 1))
        self._at = 0
        specs = [spec for spec in target.signature.outputs if not target.outputs or spec.name in target.outputs]
        rows = max((_rows(target.signature, row.inputs) for row in data.rows), default=1)
        self.outputs: list[tuple[str, int, int]] = []
        at = 0
        for spec in specs:
            size = _output_size(target.signature, spec, rows, shared.output_bytes)
            self.outputs.append((spec.name, at, size))
            at += -(-size // _ALIGNED) * _ALIGNED
        self.stride = at
        self.output_region, _ = shared.regions.add(max(at * shared.slots, 1))

    def put(self, tensor: WireTensor) -> tuple[int, int]:
        """Write a tensor; returns offset and size."""
        size = len(tensor.data)
        self._memory[self._at : self._at + size] = bytes(tensor.data)
        start, self._at = self._at, self._at + _wire_size(tensor)
        return start, size


def _wire_size(tensor: WireTensor) -> int:
    return -(-len(tensor.data) // _ALIGNED) * _ALIGNED


def _output_size(signature: Signature, spec: TensorSpec, rows: int, unknown: int) -> int:
    dims = spec.shape[1:] if signature.max_batch_size else spec.shape
    if -1 in dims or spec.dtype == "BYTES":
        return unknown
    return math.prod(dims) * numpy_dtype(spec.dtype).itemsize * (rows if signature.max_batch_size else 1)


def _rows(signature: Signature, inputs: Arrays) -> int:
    if not signature.max_batch_size:
        return 1
    return max((len(array) for array in inputs.values() if array.ndim), default=1)


def _rows_of(signature: Signature, tensors: Sequence[WireTensor]) -> int:
    if not signature.max_batch_size:
        return 1
    return max((tensor.shape[0] for tensor in tensors if tensor.shape), default=1)


def _http(target: Target, tensors: Sequence[WireTensor], payload: Payload, place: _Places | None) -> Template:
    inputs: list[dict[str, Any]] = []
    contents: list[bytes | memoryview] = []
    for tensor in tensors:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.dtype, "shape": list(tensor.shape)}
        if place:
            offset, size = place.put(tensor)
            entry["parameters"] = {
                "shared_memory_region": place.input_region,
                "shared_memory_byte_size": size,
                "shared_memory_offset": offset,
            }
        else:
            entry["parameters"] = {"binary_data_size": len(tensor.data)}
            contents.append(tensor.data)
        inputs.append(entry)
    text = '"inputs":' + json.dumps(inputs, separators=(",", ":"))
    patches = []
    if place:
        parts = []
        for name, at, size in place.outputs:
            begin = (
                f'{{"name":{json.dumps(name)},"parameters":{{"shared_memory_region":"{place.output_region}",'
                f'"shared_memory_byte_size":{size},"shared_memory_offset":'
            )
            parts.append((begin, at))
        text += ',"outputs":['
        for index, (begin, at) in enumerate(parts):
            text += "," * bool(index) + begin
            patches.append(Patch(len(text.encode()), at, place.stride))
            text += " " * JSON_WIDTH + "}}"
        text += "]"
    elif target.outputs:
        named = [{"name": name, "parameters": {"binary_data": True}} for name in target.outputs]
        text += ',"outputs":' + json.dumps(named, separators=(",", ":"))
    parameters = dict(target.parameters or {})
    if not place and not target.outputs:
        parameters["binary_data_output"] = True
    start, length = payload.add(contents)
    return Template(
        target.index, infer_path(target.name, target.version), (text + "}").encode(),
        json.dumps(parameters, separators=(",", ":"))[1:-1].encode(), start, length,
        _rows_of(target.signature, tensors), tuple(patches),
    )  # fmt: skip


def _grpc(target: Target, tensors: Sequence[WireTensor], payload: Payload, place: _Places | None) -> Template:
    from tritonclient.grpc import service_pb2

    message = service_pb2.ModelInferRequest(model_name=target.name, model_version=target.version)
    for name, value in (target.parameters or {}).items():
        kind = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}[type(value)]
        setattr(message.parameters[name], kind, value)
    contents: list[bytes | memoryview] = []
    for tensor in tensors:
        entry = message.inputs.add(name=tensor.name, datatype=tensor.dtype, shape=tensor.shape)
        if place:
            offset, size = place.put(tensor)
            entry.parameters["shared_memory_region"].string_param = place.input_region
            entry.parameters["shared_memory_byte_size"].int64_param = size
            entry.parameters["shared_memory_offset"].int64_param = offset
        else:
            contents += [varint(7 << 3 | 2) + varint(len(tensor.data)), tensor.data]
    if not place:
        for name in target.outputs:
            message.outputs.add(name=name)
    head = message.SerializeToString()
    patches = []
    for name, at, size in place.outputs if place else ():
        output = service_pb2.ModelInferRequest.InferRequestedOutputTensor(name=name)
        output.parameters["shared_memory_region"].string_param = place.output_region  # type: ignore[union-attr]
        output.parameters["shared_memory_byte_size"].int64_param = size
        # The offset is written by hand, in a fixed width.
        entry_value = b"\x10" + wide_varint(0)
        offset_entry = delimited(1, b"shared_memory_offset") + delimited(2, entry_value)
        body = output.SerializeToString() + delimited(2, offset_entry)
        head += delimited(6, body)
        patches.append(Patch(len(head) - VARINT_WIDTH, at, place.stride))  # type: ignore[union-attr]
    start, length = payload.add(contents)
    rows = _rows_of(target.signature, tensors)
    return Template(target.index, "", head, b"", start, length, rows, tuple(patches))
