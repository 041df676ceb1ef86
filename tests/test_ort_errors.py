"""ONNX Runtime's own errors, in words that name the operator, type or version."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tritonrepo._ort_errors import hint, words
from tritonrepo.errors import ModelError
from tritonrepo.verify import Session


def model(
    op: str, inputs: Mapping[str, tuple[int, list[int]]], out: int = TensorProto.FLOAT, opset: int = 18, **more: Any
) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()]
    node = helper.make_node(op, list(inputs), ["y"], name="here", **more)
    graph = helper.make_graph([node], "g", values, [helper.make_tensor_value_info("y", out, None)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def lstm() -> onnx.ModelProto:
    shapes = {"x": [2, 1, 3], "w": [1, 8, 3], "r": [1, 8, 2]}
    return model("LSTM", {k: (TensorProto.FLOAT, v) for k, v in shapes.items()}, hidden_size=2, layout=1)


def too_new() -> onnx.ModelProto:
    made = model("Relu", {"x": (TensorProto.FLOAT, [2])})
    made.ir_version = 99
    return made


FLOAT2 = {"x": (TensorProto.FLOAT, [2])}


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (
            lambda: model("ImageDecoder", {"x": (TensorProto.UINT8, [9])}, TensorProto.UINT8, 20),
            "operator ImageDecoder",
        ),
        (lambda: model("Add", {**FLOAT2, "z": (TensorProto.FLOAT, [2])}, opset=6), "operator Add (version 6) is not"),
        (lstm, "operator LSTM: layout_ == 0 was false"),
        (too_new, "IR version 99; onnxruntime"),
        (lambda: model("Relu", FLOAT2, opset=999), "opset 999; onnxruntime"),
        (lambda: model("Relu", FLOAT2, beta=1.0), "operator Relu (node 'here'): Unrecognized attribute: beta"),
    ],
)
def test_what_cannot_be_loaded(write: Callable[[], onnx.ModelProto], said: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(write().SerializeToString())
    with pytest.raises(ModelError) as caught:
        Session(path, optimize=False)
    assert said in caught.value.message
    assert "/onnxruntime" not in caught.value.message and str(tmp_path) not in caught.value.message
    assert caught.value.hint


def test_what_cannot_be_run_names_the_operator_and_its_node(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(
        model("Div", {"x": (TensorProto.INT32, [1]), "z": (TensorProto.INT32, [1])}, 6).SerializeToString()
    )
    with pytest.raises(ModelError, match=r"operator Div \(node 'here'\): .*[Dd]ivision by zero"):
        Session(path, optimize=False).run({"x": np.array([1], np.int32), "z": np.array([0], np.int32)})


def test_what_is_not_known_is_left_as_it_is() -> None:
    assert words(ValueError("Required inputs (['x']) are missing")) == "Required inputs (['x']) are missing"
    assert len(words(ValueError("x" * 5000))) == 400
    assert "locale" in hint("operator StringNormalizer: Failed to construct locale")
