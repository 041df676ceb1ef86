"""A batch that is fixed in the file: what is made to follow it, and what is left and why.

Every model here is answered row by row as it was, and as a batch of five rows once prepared.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

import graphs
from test_prepare import prepared
from tritonrepo.prepare import Prepared, dynamic_batch

Weights = dict[str, Any]
F, I = TensorProto.FLOAT, TensorProto.INT64  # noqa: E741 - element types
ROWS = 5


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


def weight(*shape: int) -> Any:
    return np.random.default_rng(list(shape)).uniform(-1, 1, shape).astype(np.float32)


def write(
    folder: Path,
    nodes: list[NodeProto],
    x: tuple[int, ...],
    y: tuple[int, ...],
    weights: Weights | None = None,
    opset: int = 17,
    **more: Any,
) -> Path:
    """A model x FP32 -> y FP32 of fixed shapes."""
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", F, x)], [helper.make_tensor_value_info("y", F, y)],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **more)
    onnx.checker.check_model(model, full_check=True)
    folder.mkdir(exist_ok=True)
    onnx.save(model, folder / "m.onnx")
    return folder / "m.onnx"


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), name=f"the_{op.lower()}", **attributes)


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def batched(path: Path, folder: Path, *, answers: bool = True, **settings: Any) -> Prepared:
    """Prepare, and hold a batch of the result against the rows of the original."""
    found = prepared(path, folder / "kept", **settings)
    assert "dynamic_batch" in found.changed_by, found.refused
    assert found.signature.batch
    before, after = session(path), session(found.path)
    (given,) = before.get_inputs()
    static = given.shape[0]
    x = np.random.default_rng(0).random((ROWS, *given.shape[1:])).astype(np.float32)
    if answers:
        want = [before.run(None, {"x": np.repeat(x[row : row + 1], static, axis=0)})[0][:1] for row in range(ROWS)]
        np.testing.assert_allclose(after.run(None, {"x": x})[0], np.concatenate(want), rtol=1e-5, atol=1e-6)
    return found


def refused(path: Path, folder: Path, **settings: Any) -> str:
    found = prepared(path, folder / "kept", **settings)
    assert "dynamic_batch" not in found.changed_by
    assert not found.signature.batch
    return found.refused["dynamic_batch"]


# ---- what follows the batch ------------------------------------------------------------------------------------------


def test_only_the_inputs_and_outputs(tmp_path: Path) -> None:
    found = batched(graphs.static_batch(tmp_path), tmp_path)
    assert [tensor.shape for tensor in (*found.signature.inputs, *found.signature.outputs)] == [
        ("batch", 4), ("batch", 3),
    ]  # fmt: skip


def reshape(folder: Path) -> Path:
    return write(folder, [node("Reshape", "x s", "y")], (1, 2, 6), (1, 12), {"s": ints(1, 12)})


def reshape_with_rest(folder: Path) -> Path:
    return write(folder, [node("Reshape", "x s", "y")], (1, 2, 6), (1, 3, 4), {"s": ints(1, 3, -1)})


def reshape_with_allowzero(folder: Path) -> Path:
    return write(folder, [node("Reshape", "x s", "y", allowzero=1)], (1, 2, 6), (1, 12), {"s": ints(1, 12)})


def reshape_old(folder: Path) -> Path:
    """Its target is a Constant, as exporters write it."""
    target = helper.make_node("Constant", [], ["s"], value=numpy_helper.from_array(ints(1, 12), "s"))
    return write(folder, [target, node("Reshape", "x s", "y")], (1, 2, 6), (1, 12), opset=9)


def heads(folder: Path) -> Path:
    """Attention as torch exports it: rows, tokens and heads are joined, parted and swapped."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),  # tokens, rows, features
        helper.make_node("Reshape", ["t", "flat"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["g"]),
        helper.make_node("Reshape", ["g", "back"], ["k"]),
        helper.make_node("Reshape", ["k", "split"], ["h"]),  # tokens, rows * heads, size
        helper.make_node("Transpose", ["h"], ["q"], perm=[1, 0, 2]),
        helper.make_node("Transpose", ["h"], ["kt"], perm=[1, 2, 0]),
        helper.make_node("MatMul", ["q", "kt"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "q"], ["o"]),
        helper.make_node("Transpose", ["o"], ["ot"], perm=[1, 0, 2]),
        helper.make_node("Reshape", ["ot", "flat"], ["of"]),
        helper.make_node("Reshape", ["of", "back"], ["ob"]),
        helper.make_node("Transpose", ["ob"], ["y"], perm=[1, 0, 2]),
    ]
    shapes = {"flat": ints(7, 8), "back": ints(7, 1, 8), "split": ints(7, 2, 4)}
    return write(folder, nodes, (1, 7, 8), (1, 7, 8), {**shapes, "w": weight(8, 8), "b": weight(8)})


def class_token(folder: Path) -> Path:
    nodes = [node("Concat", "token x", "y", axis=1)]
    return write(folder, nodes, (1, 4, 3), (1, 5, 3), {"token": weight(1, 1, 3)})


def expanded_class_token(folder: Path) -> Path:
    nodes = [node("Expand", "token s", "e"), node("Concat", "e x", "y", axis=1)]
    return write(folder, nodes, (1, 4, 3), (1, 5, 3), {"token": weight(1, 1, 3), "s": ints(1, 1, 3)})


def zeros_beside(folder: Path) -> Path:
    nodes = [node("ConstantOfShape", "s", "z"), node("Concat", "x z", "y", axis=1)]
    return write(folder, nodes, (1, 4), (1, 6), {"s": ints(1, 2)})


def tiled(folder: Path) -> Path:
    nodes = [node("Tile", "token s", "e"), node("Concat", "e x", "y", axis=1)]
    return write(folder, nodes, (1, 4, 3), (1, 6, 3), {"token": weight(1, 1, 3), "s": ints(1, 2, 1)})


def lstm(folder: Path) -> Path:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        node("LSTM", "t w r b lengths h c", "all last", hidden_size=4),
        helper.make_node("Squeeze", ["last", "zero"], ["y"]),
    ]
    weights = {"w": weight(1, 16, 3), "r": weight(1, 16, 4), "b": weight(1, 32), "zero": ints(0)}
    weights.update(h=weight(1, 1, 4), c=weight(1, 1, 4), lengths=np.array([5], np.int32))
    return write(folder, nodes, (1, 5, 3), (1, 4), weights)


def resize(folder: Path) -> Path:
    nodes = [node("Resize", "x none none s", "y", mode="nearest")]
    nodes[0].input[1] = nodes[0].input[2] = ""
    return write(folder, nodes, (1, 2, 4, 4), (1, 2, 6, 8), {"s": ints(1, 2, 6, 8)})


def slice_all_rows(folder: Path) -> Path:
    nodes = [node("Slice", "x a b", "y")]
    return write(folder, nodes, (1, 6), (1, 2), {"a": ints(0, 2), "b": ints(1, 4)})


def shape_arithmetic(folder: Path) -> Path:
    """The target of a Reshape is put together from the input's shape and the baked batch."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "two"], ["last"]),
        helper.make_node("Concat", ["one", "minus", "last"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    return write(folder, nodes, (1, 2, 6), (1, 2, 6), {"two": ints(2), "one": ints(1), "minus": ints(-1)})


def windows(folder: Path) -> Path:
    """An image in windows that are rows of their own for a while, as in Swin."""
    nodes = [
        helper.make_node("Reshape", ["x", "a"], ["xa"]),
        helper.make_node("Transpose", ["xa"], ["xt"], perm=[0, 1, 3, 2, 4, 5]),
        helper.make_node("Reshape", ["xt", "b"], ["xb"]),
        helper.make_node("Softmax", ["xb"], ["xs"], axis=1),
        helper.make_node("Reshape", ["xs", "c"], ["xc"]),
        helper.make_node("Transpose", ["xc"], ["xd"], perm=[0, 1, 3, 2, 4, 5]),
        helper.make_node("Reshape", ["xd", "d"], ["y"]),
    ]
    shapes = {"a": ints(1, 2, 2, 2, 2, 3), "b": ints(4, 4, 3), "c": ints(1, 2, 2, 2, 2, 3), "d": ints(1, 4, 4, 3)}
    return write(folder, nodes, (1, 4, 4, 3), (1, 4, 4, 3), shapes)


def function(folder: Path) -> Path:
    """The Reshape is in a function of the model."""
    body = [node("Reshape", "a b", "c")]
    made = helper.make_function("mine", "Flat", ["a", "b"], ["c"], body, [helper.make_opsetid("", 17)])
    call = helper.make_node("Flat", ["x", "s"], ["y"], domain="mine")
    path = write(folder, [node("Reshape", "x s", "y")], (1, 2, 6), (1, 12), {"s": ints(1, 12)})
    model = onnx.load(path)
    del model.graph.node[:]
    model.graph.node.append(call)
    model.functions.append(made)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    "make",
    [
        reshape, reshape_with_rest, reshape_with_allowzero, reshape_old, heads, class_token, expanded_class_token,
        zeros_beside, tiled, lstm, resize, slice_all_rows, shape_arithmetic, windows, function,
    ],
)  # fmt: skip
def test_what_follows_the_batch(make: Callable[[Path], Path], tmp_path: Path) -> None:
    found = batched(make(tmp_path), tmp_path)
    assert any("follows the batch now" in change.what for change in found.changes)


def test_other_axes_stay_dynamic(tmp_path: Path) -> None:
    """An axis without a size is neither the batch nor baked."""
    nodes = [node("Reshape", "x s", "y")]
    path = write(tmp_path, nodes, (1, 4, 6), (1, 4, 6), {"s": ints(1, -1, 6)})
    model = onnx.load(path)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[1].dim_param = "tokens"
    onnx.save(model, path)
    found = prepared(path, tmp_path / "kept")
    assert found.signature.inputs[0].shape == ("batch", "tokens", 6)
    for tokens in (1, 9):
        x = np.random.default_rng(0).random((3, tokens, 6)).astype(np.float32)
        np.testing.assert_array_equal(session(found.path).run(None, {"x": x})[0], x)


@pytest.mark.parametrize("rows", [2, 4])
def test_a_batch_of_several_is_read_only_on_demand(rows: int, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["x", "same"], ["a"]),
        helper.make_node("Reshape", ["a", "s"], ["r"]),
        helper.make_node("Concat", ["tokens", "r"], ["y"], axis=1),
    ]
    same, token = np.repeat(weight(1, 2, 3), rows, axis=0), np.repeat(weight(1, 2), rows, axis=0)
    weights = {"same": same, "s": ints(rows, 6), "tokens": token}
    path = write(tmp_path, nodes, (rows, 2, 3), (rows, 8), weights)
    assert "may be no batch; batching.max_batch_size: N says that it is" in refused(path, tmp_path)
    batched(path, tmp_path, batching={"max_batch_size": 8})


# ---- what is left as it is -------------------------------------------------------------------------------------------


def test_constants_that_differ_by_row(tmp_path: Path) -> None:
    path = write(tmp_path, [node("Add", "x c", "y")], (2, 3), (2, 3), {"c": weight(2, 3)})
    said = refused(path, tmp_path, batching={"max_batch_size": 8})
    assert said == "input c of Add the_add has values of its own for each of the 2 rows"


@pytest.mark.parametrize(
    ("nodes", "y", "weights", "words"),
    [
        ([node("Squeeze", "x zero", "y")], (2, 3), {"zero": ints(0)}, "Squeeze the_squeeze cannot follow the batch"),
        ([node("Gather", "x zero", "y", axis=0)], (2, 3), {"zero": np.array(0)},
         "not the first axis of output y, lost at Gather the_gather"),
        ([node("ReduceMean", "x", "y", axes=[0])], (1, 2, 3), {},
         "not the first axis of output y, lost at ReduceMean the_reducemean"),
        ([node("Transpose", "x", "y", perm=[1, 0, 2])], (2, 1, 3), {}, "the batch is not the first axis of output y"),
        ([node("Reshape", "x s", "y")], (2, 3), {"s": ints(-1, 3)}, "the batch is not the first axis of output y"),
    ],
)  # fmt: skip
def test_what_cannot_follow_the_batch(
    nodes: list[NodeProto], y: tuple[int, ...], weights: Weights, words: str, tmp_path: Path
) -> None:
    assert words in refused(write(tmp_path, nodes, (1, 2, 3), y, weights), tmp_path)


def test_operators_that_look_at_the_whole_batch(tmp_path: Path) -> None:
    path = graphs.non_max_suppression(tmp_path)
    model = onnx.load(path)
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, path)
    assert "NonMaxSuppression picked lists the boxes of the whole batch in one table" in refused(path, tmp_path)


def test_inputs_of_several_first_sizes(tmp_path: Path) -> None:
    path = graphs.two_inputs_two_outputs(tmp_path)
    model = onnx.load(path)
    for value, size in zip((*model.graph.input, *model.graph.output), (1, 4, 4, 4), strict=True):
        value.type.tensor_type.shape.dim[0].dim_value = size
    onnx.save(model, path)
    said = refused(path, tmp_path)
    assert said == "the first axes of the inputs are fixed at different sizes: a 1, b 4"


def test_a_model_with_one_axis_is_left_alone(tmp_path: Path) -> None:
    path = write(tmp_path, [node("Relu", "x", "y")], (1,), (1,))
    assert "an input whose only axis has size 1 may be no batch" in refused(path, tmp_path)


@pytest.mark.parametrize("settings", [{"prepare": {"dynamic_batch": False}}, {"batching": {"max_batch_size": 0}}])
def test_it_can_be_left_out(settings: Any, tmp_path: Path) -> None:
    found = prepared(graphs.static_batch_in_reshape(tmp_path), tmp_path / "kept", **settings)
    assert "dynamic_batch" not in found.changed_by
    assert not found.refused


def test_a_graph_of_too_many_nodes_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamic_batch, "_MOST_NODES", 2)
    assert refused(graphs.static_batch(tmp_path), tmp_path) == "the graph has 3 nodes; 2 are followed"
