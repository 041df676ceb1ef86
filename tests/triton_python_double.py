"""A small double of ``triton_python_backend_utils``, the module that Triton's Python backend gives to a model.py.

It has what the generated model.py uses, and is as strict as the original where that matters: tensors hold contiguous
arrays of types that Triton can carry, and a response has either tensors or an error.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class TritonModelException(Exception):  # noqa: N818 - Triton's name
    pass


class TritonError:
    def __init__(self, message: str) -> None:
        assert isinstance(message, str)
        self._message = message

    def message(self) -> str:
        return self._message


class Tensor:
    def __init__(self, name: str, array: NDArray[Any]) -> None:
        assert isinstance(name, str)
        assert isinstance(array, np.ndarray) and array.dtype.kind in "biufO", type(array)
        assert array.flags.c_contiguous, "the backend would copy it"
        assert array.ndim > 0, "Triton has no scalars"
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> NDArray[Any]:
        return self._array


class InferenceRequest:
    def __init__(self, inputs: Sequence[Tensor], outputs: Sequence[str]) -> None:
        self._inputs, self._outputs = list(inputs), list(outputs)

    def inputs(self) -> list[Tensor]:
        return self._inputs

    def requested_output_names(self) -> list[str]:
        return self._outputs


class InferenceResponse:
    def __init__(self, output_tensors: Sequence[Tensor] = (), error: TritonError | None = None) -> None:
        assert not (output_tensors and error)
        self._tensors, self._error = list(output_tensors), error

    def output_tensors(self) -> list[Tensor]:
        return self._tensors

    def error(self) -> TritonError | None:
        return self._error


def request(outputs: Sequence[str], **inputs: NDArray[Any]) -> InferenceRequest:
    return InferenceRequest([Tensor(name, array) for name, array in inputs.items()], outputs)


def arrays(response: InferenceResponse) -> dict[str, NDArray[Any]]:
    error = response.error()
    assert error is None, error.message()
    return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}


@dataclass
class Loaded:
    """A model.py that was loaded: its module, and its model after ``initialize``."""

    module: types.ModuleType
    model: Any


@contextmanager
def loaded(
    code: str,
    folder: Path,
    *,
    kind: str = "CPU",
    groups: Sequence[int] = (1,),
    parameters: Mapping[str, str] | None = None,
) -> Iterator[Loaded]:
    """Run the code of a model.py whose version directory is ``folder``, with instance groups of those counts."""
    config = {
        "instance_group": [{"count": count} for count in groups],
        "parameters": {key: {"string_value": text} for key, text in (parameters or {}).items()},
    }
    name = "triton_python_backend_utils"
    double = types.ModuleType(name)
    for each in (TritonModelException, TritonError, Tensor, InferenceRequest, InferenceResponse):
        setattr(double, each.__name__, each)
    before = sys.modules.get(name)
    sys.modules[name] = double
    try:
        module = types.ModuleType("model")
        exec(compile(code, str(folder / "model.py"), "exec"), module.__dict__)  # noqa: S102 - our own code
    finally:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
    model = module.__dict__["TritonPythonModel"]()
    model.initialize(
        {
            "model_repository": str(folder.parent),
            "model_version": folder.name,
            "model_config": json.dumps(config),
            "model_instance_kind": kind,
            "model_instance_device_id": "0",
        }
    )
    yield Loaded(module, model)
