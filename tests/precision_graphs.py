"""Small graphs for the tests of precision: a network of each kind, and one for each thing that goes wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

Array = NDArray[Any]


class Builder:
    """Nodes and weights by name, and the model of them."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: dict[str, Array] = {}
        self.random = np.random.default_rng(seed)

    def weight(self, name: str, *shape: int, scale: float | None = None) -> str:
        size = scale or 1.0 / np.sqrt(max(1, int(np.prod(shape[1:] or shape))))
        return self.constant(name, self.random.normal(0, size, shape).astype(np.float32))

    def constant(self, name: str, value: object, dtype: type[np.generic] = np.float32) -> str:
        self.weights[name] = np.asarray(value, dtype)
        return name

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=attributes.pop("name", output), **attributes))
        return output

    def save(self, folder: Path, inputs: dict[str, Any], outputs: dict[str, Any], opset: int = 18) -> Path:
        """Write the model; inputs and outputs are shapes, or pairs of a type and a shape."""
        given, made = (
            [helper.make_tensor_value_info(name, *_typed(shape)) for name, shape in each.items()]
            for each in (inputs, outputs)
        )
        weights = [numpy_helper.from_array(value, name) for name, value in self.weights.items()]
        graph = helper.make_graph(self.nodes, "graph", given, made, weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        path = folder / "model.onnx"
        onnx.save(model, path)
        return path


def _typed(shape: Any) -> tuple[int, Sequence[int | str | None]]:
    return shape if isinstance(shape, tuple) else (TensorProto.FLOAT, shape)


def cnn(folder: Path, opset: int = 18) -> Path:
    """Convolutions, a normalization, pooling, a dense layer; x[N, 3, 16, 16] -> y[N, 10]."""
    b = Builder()
    b.node("Conv", ["x", b.weight("w1", 8, 3, 3, 3), b.weight("b1", 8)], "conv1", pads=[1, 1, 1, 1])
    for name in ("scale", "shift", "mean"):
        b.weight(name, 8, scale=0.5)
    b.constant("variance", b.random.random(8) + 0.5)
    b.node("BatchNormalization", ["conv1", "scale", "shift", "mean", "variance"], "norm1")
    b.node("Relu", ["norm1"], "relu1")
    b.node("MaxPool", ["relu1"], "pool1", kernel_shape=[2, 2], strides=[2, 2])
    b.node("Conv", ["pool1", b.weight("w2", 16, 8, 3, 3)], "conv2", pads=[1, 1, 1, 1])
    b.node("Relu", ["conv2"], "relu2")
    b.node("GlobalAveragePool", ["relu2"], "pool2")
    b.node("Flatten", ["pool2"], "flat")
    b.node("Gemm", ["flat", b.weight("w3", 10, 16), b.weight("b3", 10)], "y", transB=1)
    return b.save(folder, {"x": ["N", 3, 16, 16]}, {"y": ["N", 10]}, opset)


def transformer(folder: Path, opset: int = 18) -> Path:
    """One block: a mask of -1e9, norm and activation out of their parts, and an embedding that is also the head.

    tokens[N, 8] INT64, mask[N, 8] FP32 of 0 and 1 -> logits[N, 8, 50]
    """
    b = Builder(1)
    width = 16
    b.node("Gather", [b.weight("embedding", 50, width, scale=0.3), "tokens"], "embedded")
    for name in "qkv":
        b.node("MatMul", ["embedded", b.weight(f"w{name}", width, width)], name)
    b.node("Transpose", ["k"], "kt", perm=[0, 2, 1])
    b.node("MatMul", ["q", "kt"], "scores")
    b.node("Div", ["scores", b.constant("root", 4.0)], "scaled")
    b.node("Sub", [b.constant("one", 1.0), "mask"], "inverse")
    b.nodes.append(
        helper.make_node(
            "Constant", [], ["lowest"], name="lowest", value=numpy_helper.from_array(np.array(-1e9, np.float32))
        )
    )
    b.node("Mul", ["inverse", "lowest"], "bias")
    b.node("Unsqueeze", ["bias", b.constant("axis1", [1], np.int64)], "bias3")
    b.node("Add", ["scaled", "bias3"], "masked")
    b.node("Softmax", ["masked"], "weights", axis=-1)
    b.node("MatMul", ["weights", "v"], "context")
    b.node("Add", ["embedded", "context"], "residual")
    b.node("ReduceMean", ["residual", b.constant("last", [-1], np.int64)], "mu", keepdims=1)
    b.node("Sub", ["residual", "mu"], "centred")
    b.node("Pow", ["centred", b.constant("two", 2.0)], "squared")
    b.node("ReduceMean", ["squared", "last"], "variance", keepdims=1)
    b.node("Add", ["variance", b.constant("epsilon", 1e-12)], "variance_eps")
    b.node("Sqrt", ["variance_eps"], "deviation")
    b.node("Div", ["centred", "deviation"], "normal")
    b.node("MatMul", ["normal", b.weight("wf", width, 32)], "hidden")
    b.node("Div", ["hidden", b.constant("sqrt2", 2**0.5)], "halved")
    b.node("Erf", ["halved"], "erf")
    b.node("Add", ["erf", "one"], "erf1")
    b.node("Mul", ["hidden", "erf1"], "gelu")
    b.node("MatMul", ["gelu", b.weight("wo", 32, width)], "output")
    b.node("Transpose", ["embedding"], "head", perm=[1, 0])
    b.node("MatMul", ["output", "head"], "logits")
    tokens = (TensorProto.INT64, ["N", 8])
    return b.save(folder, {"tokens": tokens, "mask": ["N", 8]}, {"logits": ["N", 8, 50]}, opset)


def overflow(folder: Path) -> Path:
    """Squares reach 1e6 between two matrix products, and are brought back; x[N, 8] -> y[N, 8]."""
    b = Builder(2)
    b.node("MatMul", ["x", b.weight("w1", 8, 8)], "first")
    b.node("Mul", ["first", b.constant("thousand", 1000.0)], "large")
    b.node("Mul", ["large", "large"], "square")
    b.node("ReduceSum", ["square", b.constant("last", [-1], np.int64)], "sum", keepdims=1)
    b.node("Sqrt", ["sum"], "norm")
    b.node("Div", ["large", "norm"], "unit")
    b.node("MatMul", ["unit", b.weight("w2", 8, 8)], "y")
    return b.save(folder, {"x": ["N", 8]}, {"y": ["N", 8]})


def cancelling(folder: Path) -> Path:
    """100 is added and taken off, times 10: what FP16 rounds away is in the answer. x[N, 8] -> y and z[N, 8]."""
    b = Builder(3)
    b.node("MatMul", ["x", b.weight("w1", 8, 8)], "first")
    b.node("Relu", ["first"], "relu")
    b.node("Add", ["relu", b.constant("hundred", 100.0)], "shifted")
    b.node("Sub", ["shifted", "hundred"], "back")
    b.node("Mul", ["back", b.constant("ten", 10.0)], "y")
    b.node("MatMul", ["x", b.weight("w2", 8, 8)], "z")
    return b.save(folder, {"x": ["N", 8]}, {"y": ["N", 8], "z": ["N", 8]})


def branches(folder: Path) -> Path:
    """If, whose branches use one name for two things, and weights and tensors from outside. x[2, 4] -> y[2, 4]."""
    b = Builder(4)
    outer = b.node("MatMul", ["x", b.weight("w", 4, 4)], "outer")
    b.node("ReduceSum", ["x"], "sum", keepdims=0)
    b.node("Greater", ["sum", b.constant("zero", 0.0)], "positive")
    branch = helper.make_tensor_value_info("result", TensorProto.FLOAT, [2, 4])
    then = helper.make_graph(
        [helper.make_node("MatMul", [outer, "w"], ["inner"]), helper.make_node("Relu", ["inner"], ["result"])],
        "then", [], [branch],
    )  # fmt: skip
    own = numpy_helper.from_array(np.full((4, 4), 0.25, np.float32), "own")
    other = helper.make_graph(
        [helper.make_node("MatMul", ["x", "own"], ["inner"]), helper.make_node("Add", ["inner", outer], ["result"])],
        "else", [], [branch], [own],
    )  # fmt: skip
    b.node("If", ["positive"], "chosen", then_branch=then, else_branch=other)
    b.node("Add", ["chosen", outer], "y")
    return b.save(folder, {"x": [2, 4]}, {"y": [2, 4]})


def loop(folder: Path) -> Path:
    """Loop: three times a matrix product by a weight from outside. x[2, 4] -> y[2, 4]."""
    b = Builder(5)
    state = helper.make_tensor_value_info("state", TensorProto.FLOAT, [2, 4])
    after = helper.make_tensor_value_info("after", TensorProto.FLOAT, [2, 4])
    number = helper.make_tensor_value_info("number", TensorProto.INT64, [])
    before, more = (helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("before", "more"))
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", b.weight("w", 4, 4)], ["product"]),
            helper.make_node("Tanh", ["product"], ["after"]),
            helper.make_node("Identity", ["before"], ["more"]),
        ],
        "body", [number, before, state], [more, after],
    )  # fmt: skip
    b.node("MatMul", ["x", "w"], "start")
    b.constant("times", 3, np.int64)
    b.constant("true", True, np.bool_)
    b.node("Loop", ["times", "true", "start"], "y", body=body)
    return b.save(folder, {"x": [2, 4]}, {"y": [2, 4]})


def resized(folder: Path) -> Path:
    """A Resize to sizes that are computed in floats: 2049 is no FP16 number. x[1, 1, 3, W] -> y[1, 1, 3, 2 W - 1]."""
    b = Builder(6)
    b.node("Conv", ["x", b.weight("w", 1, 1, 1, 1)], "conv")
    b.node("Shape", ["conv"], "shape")
    b.node("Cast", ["shape"], "shape_float", to=TensorProto.FLOAT)
    b.node("Mul", ["shape_float", b.constant("factor", [1, 1, 1, 2])], "doubled")
    b.node("Sub", ["doubled", b.constant("minus", [0, 0, 0, 1])], "wanted")
    b.node("Cast", ["wanted"], "sizes", to=TensorProto.INT64)
    b.node("Resize", ["conv", "", "", "sizes"], "y", mode="nearest")
    return b.save(folder, {"x": [1, 1, 3, "W"]}, {"y": [1, 1, 3, "V"]})


def only_sizes(folder: Path) -> Path:
    """Nothing that can be FP16: NonMaxSuppression is FP32 by the standard."""
    b = Builder(7)
    b.constant("most", [10], np.int64)
    b.nodes.append(helper.make_node("NonMaxSuppression", ["boxes", "scores", "most"], ["picked"], name="nms"))
    picked = (TensorProto.INT64, [None, 3])
    return b.save(folder, {"boxes": [1, 6, 4], "scores": [1, 1, 6]}, {"picked": picked})
