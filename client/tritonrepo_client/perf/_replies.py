"""What replies mean: errors by kind, and whether the outputs are those that were expected."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tritonrepo_client.perf._plan import ExpectedOutput
from tritonrepo_client.tensor import MismatchError, WireTensor, decode

#: What Triton says -> kind of error. Words come before the status: releases differ in the status.
_WORDS = (
    ("maximum queue size", "queue full"),
    ("Request timeout expired", "queue timeout"),
    ("has no available versions", "model not ready"),
    ("is not at ready state", "model not ready"),
    ("unknown model", "model not found"),
)
_GRPC = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
]


class Output(NamedTuple):
    """An output of a reply, as it came."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes | memoryview


def error_kind(status: str, words: str) -> tuple[str, str]:
    """The kind of an error, for counting, and what the server said.

    Args:
        status: HTTP's number or gRPC's name of the status.
        words: what came with it.
    """
    kind = next((kind for part, kind in _WORDS if part in words), None)
    if kind is None:
        kind = f"HTTP {status}" if status.isdecimal() else f"gRPC {status}"
    return kind, words


def grpc_status(number: int) -> str:
    """gRPC's name of a status."""
    return _GRPC[number] if 0 <= number < len(_GRPC) else str(number)


def parse_json_reply(body: bytes, split: int) -> Mapping[str, Output]:
    """Outputs of an HTTP reply.

    Raises:
        ValueError: it is not one.
    """
    text = body if split < 0 else body[:split]
    content = json.loads(text)
    if not isinstance(content, dict) or not isinstance(content.get("outputs"), list):
        raise ValueError(f"the reply has no outputs: {text[:200].decode('utf-8', 'replace')}")
    outputs, at = {}, len(text)
    view = memoryview(body)
    try:
        for each in content["outputs"]:
            size = each.get("parameters", {}).get("binary_data_size", 0)
            shape = tuple(int(dim) for dim in each["shape"])
            outputs[each["name"]] = Output(each["datatype"], shape, view[at : at + size])
            at += size
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the reply's outputs are malformed: {error!r}") from None
    return outputs


class Checker:
    """Compares replies with what was expected. ``seen`` is the last reply that was right, as bytes."""

    def __init__(self, expected: Sequence[ExpectedOutput], tolerance: tuple[float, float]) -> None:
        self.seen: bytes | None = None
        self._expected = expected
        self._relative, self._absolute = tolerance

    def compare(self, outputs: Mapping[str, Output]) -> str:
        """What is wrong, in words; "" if nothing is."""
        for name, dtype, shape, data in self._expected:
            output = outputs.get(name)
            if output is None:
                return f"output '{name}' is missing"
            if output.dtype != dtype or output.shape != shape:
                return f"output '{name}' is {output.dtype}{list(output.shape)}, {dtype}{list(shape)} was expected"
            if bytes(output.data) != data:
                fault = self._differs(name, output, data)
                if fault:
                    return fault
        return ""

    def _differs(self, name: str, output: Output, data: bytes) -> str:
        try:
            got, want = (decode(WireTensor(name, output.dtype, output.shape, part)) for part in (output.data, data))
        except MismatchError as error:
            return str(error)
        if output.dtype == "BYTES" or not (self._relative or self._absolute):
            if np.array_equal(got, want):
                return ""
            at = int(np.flatnonzero(got.reshape(-1) != want.reshape(-1))[0])
        else:
            exact: Any = np.float64
            near = np.isclose(got.astype(exact), want.astype(exact), self._relative, self._absolute, equal_nan=True)
            if near.all():
                return ""
            at = int(np.flatnonzero(~near.reshape(-1))[0])
        where = list(map(int, np.unravel_index(at, output.shape))) if math.prod(output.shape) else []
        return f"output '{name}' has {got.reshape(-1)[at]!r} at {where}, {want.reshape(-1)[at]!r} was expected"
