"""Each pass: what it changes, what it leaves, what holds afterwards, and that the answers stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

import graphs
from test_prepare import context, prepared
from test_prepare_batch import session
from tritonrepo.errors import ModelError
from tritonrepo.prepare import PASSES, Change
from tritonrepo.prepare.graph import attribute, read_names
from tritonrepo.prepare.weights import open_model

N = helper.make_node
F = TensorProto.FLOAT


def const(name: str, value: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


def model(
    folder: Path,
    nodes: Sequence[NodeProto],
    weights: Sequence[onnx.TensorProto] = (),
    *,
    x: Sequence[int | str] = ("batch", 4),
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
) -> Path:
    """x FP32 -> outputs FP32 of unknown shape."""
    values = [helper.make_tensor_value_info(name, F, None) for name in outputs]
    graph = helper.make_graph(list(nodes), "g", [helper.make_tensor_value_info("x", F, x)], values, list(weights))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path = folder / "m.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(made), path)
    return path


def run(path: Path, name: str, **options: Any) -> tuple[ModelProto, tuple[Change, ...]]:
    """One pass alone."""
    return PASSES[name](open_model(path), context(path, **options))


def same_answers(before: Path, after: ModelProto, folder: Path, rows: int = 3) -> None:
    onnx.save(after, folder / "after.onnx")
    (given_,) = session(before).get_inputs()
    shape = [rows if isinstance(dim, str) else dim for dim in given_.shape]
    x = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    wanted, found = (session(file).run(None, {"x": x}) for file in (before, folder / "after.onnx"))
    for want, got in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(want, got)


def operators(made: ModelProto) -> list[str]:
    return [node.op_type for node in made.graph.node]


# ---- order -----------------------------------------------------------------------------------------------------------


def test_order(tmp_path: Path) -> None:
    path = model(tmp_path, [N("Relu", ["a"], ["y"]), N("Abs", ["x"], ["a"])])
    made, changes = run(path, "order")
    assert operators(made) == ["Abs", "Relu"]
    assert changes[0].what == "the nodes are in topological order"
    same_answers(path, made, tmp_path)


def test_order_sees_what_subgraphs_read(tmp_path: Path) -> None:
    path = graphs.loop(tmp_path)
    changed = onnx.load(path)
    changed.graph.node[0].attribute[0].g.node[1].input[1] = "doubled"
    changed.graph.node.append(N("Add", ["step", "step"], ["doubled"]))
    onnx.save(changed, path)
    made, _ = run(path, "order")
    assert operators(made) == ["Add", "Loop"]


def test_a_cycle_is_left_and_named(tmp_path: Path) -> None:
    path = graphs.cyclic(tmp_path)
    assert "the graph has a cycle through" in prepared(path, tmp_path / "kept").refused["order"]


# ---- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("opset", "inputs"), [(10, ["x"]), (17, ["x"]), (17, ["x", "ratio", "off"])])
def test_dropout_is_removed(opset: int, inputs: list[str], tmp_path: Path) -> None:
    weights = [const("ratio", np.float32(0.5)), const("off", np.array(False))]
    path = model(tmp_path, [N("Dropout", inputs, ["d"]), N("Relu", ["d"], ["y"])], weights, opset=opset)
    made, changes = run(path, "training")
    assert operators(made) == ["Relu"]
    assert [(change.what, change.answers) for change in changes] == [("1 Dropout removed", False)]
    same_answers(path, made, tmp_path)


def test_dropout_whose_mask_is_read_stays(tmp_path: Path) -> None:
    nodes = [N("Dropout", ["x"], ["d", "mask"]), N("Cast", ["mask"], ["m"], to=F), N("Add", ["d", "m"], ["y"])]
    assert run(model(tmp_path, nodes), "training")[1] == ()


def test_dropout_before_the_output(tmp_path: Path) -> None:
    path = model(tmp_path, [N("Relu", ["x"], ["r"]), N("Abs", ["r"], ["z"]), N("Dropout", ["r"], ["y"])],
                 outputs=("z", "y"))  # fmt: skip
    made, _ = run(path, "training")
    assert operators(made) == ["Relu", "Abs"]
    same_answers(path, made, tmp_path)


@pytest.mark.parametrize("training", [True, False])
def test_batch_normalization(training: bool, tmp_path: Path) -> None:
    names = ["scale", "b", "mean", "var"]
    weights = [const(name, np.full(4, 0.5, np.float32)) for name in names]
    more: dict[str, Any] = {"training_mode": 1} if training else {}
    outputs = ["y", "running_mean", "running_var"] if training else ["y"]
    path = model(tmp_path, [N("BatchNormalization", ["x", *names], outputs, **more)], weights)
    made, changes = run(path, "training")
    (node,) = made.graph.node
    assert (attribute(node, "training_mode", 0), list(node.output)) == (0, ["y"])
    assert [change.answers for change in changes] == [True] * training


def test_what_was_in_training_mode_is_compared_with_what_it_should_have_been(tmp_path: Path) -> None:
    weights = [const("ratio", np.float32(0.5)), const("on", np.array(True))]
    path = model(tmp_path, [N("Dropout", ["x", "ratio", "on"], ["d"]), N("Relu", ["d"], ["y"])], weights)
    found = prepared(path, tmp_path / "kept")
    assert found.reference is not None
    x = np.random.default_rng(0).uniform(-1, 1, (64, 4)).astype(np.float32)
    for file in (found.reference, found.path):
        np.testing.assert_array_equal(session(file).run(None, {"x": x})[0], np.maximum(x, 0))
    assert (session(path).run(None, {"x": x})[0] != np.maximum(x, 0)).any()


# ---- identities ------------------------------------------------------------------------------------------------------


def test_chains_of_identities(tmp_path: Path) -> None:
    nodes = [
        N("Identity", ["x"], ["a"]), N("Identity", ["a"], ["b"]), N("Transpose", ["b"], ["c"], perm=[0, 1]),
        N("Concat", ["c"], ["d"], axis=0), N("Relu", ["d"], ["e"]), N("Sum", ["e"], ["f"]), N("Identity", ["f"], ["y"]),
    ]  # fmt: skip
    path = model(tmp_path, nodes)
    made, changes = run(path, "identities")
    assert (operators(made), list(made.graph.node[0].input), list(made.graph.node[0].output)) == (
        ["Relu"],
        ["x"],
        ["y"],
    )
    assert changes[0].what == "6 nodes that handed on what they got removed"
    same_answers(path, made, tmp_path)


def test_copies_that_are_needed_stay(tmp_path: Path) -> None:
    """From an input or a weight to an output, and a second output of the same value."""
    nodes = [
        N("Identity", ["x"], ["same"]), N("Identity", ["w"], ["constant"]),
        N("Relu", ["x"], ["y"]), N("Identity", ["y"], ["again"]),
    ]  # fmt: skip
    path = model(tmp_path, nodes, [const("w", np.ones(3, np.float32))], outputs=("same", "constant", "y", "again"))
    made, changes = run(path, "identities")
    assert changes == ()
    same_answers(path, made, tmp_path)


def test_names_that_subgraphs_read_are_followed(tmp_path: Path) -> None:
    path = graphs.loop(tmp_path)
    changed = onnx.load(path)
    changed.graph.node[0].attribute[0].g.node[1].input[1] = "copy"
    changed.graph.node.insert(0, N("Identity", ["step"], ["copy"]))
    onnx.save(changed, path)
    made, changes = run(path, "identities")
    assert (len(changes), operators(made)) == (1, ["Loop"])
    same_answers(path, made, tmp_path)


# ---- fold ------------------------------------------------------------------------------------------------------------


def test_constants_are_folded(tmp_path: Path) -> None:
    nodes = [
        N("Add", ["a", "b"], ["c"]), N("Cast", ["c"], ["d"], to=F), N("Mul", ["x", "d"], ["e"]),
        N("Shape", ["x"], ["s"]), N("Gather", ["s", "one"], ["n"]), N("Cast", ["n"], ["m"], to=F),
        N("Add", ["e", "m"], ["y"]),
    ]  # fmt: skip
    weights = [const("a", np.array([1, 2, 3, 4])), const("b", np.array([5])), const("one", np.array(1))]
    for x in ((2, 4), ("batch", 4)):
        path = model(tmp_path, nodes, weights, x=x)
        made, _ = run(path, "fold")
        left = ["Mul", "Add"] if x[0] == 2 else ["Mul", "Shape", "Gather", "Cast", "Add"]
        assert operators(made) == left
        same_answers(path, made, tmp_path)


@pytest.mark.parametrize(
    "node",
    [
        N("ConstantOfShape", ["huge"], ["c"]),
        N("Expand", ["one", "huge"], ["c"]),
        N("Tile", ["line", "times"], ["c"]),
        N("Range", ["zero", "end", "step"], ["c"]),
        N("RandomNormal", [], ["c"], shape=[4]),
        N("MatMul", ["line", "line"], ["c"]),
    ],
    ids=lambda node: node.op_type,
)
def test_what_is_not_folded(node: NodeProto, tmp_path: Path) -> None:
    """What would grow the file, take memory, differ by run, or take long."""
    weights = [
        const("huge", np.array([2**30, 2**30])), const("one", np.float32(1)), const("line", np.ones(100, np.float32)),
        const("times", np.array([2**40])), const("zero", np.float32(0)), const("end", np.float32(1e9)),
        const("step", np.float32(1)),
    ]  # fmt: skip
    path = model(tmp_path, [node, N("ReduceSum", ["c"], ["d"], keepdims=0), N("Add", ["x", "d"], ["y"])], weights)
    assert run(path, "fold")[1] == ()


def test_an_output_that_is_constant_keeps_its_node(tmp_path: Path) -> None:
    nodes = [N("Add", ["a", "a"], ["z"]), N("Relu", ["x"], ["y"])]
    path = model(tmp_path, nodes, [const("a", np.ones(2, np.float32))], outputs=("y", "z"))
    assert run(path, "fold")[1] == ()


# ---- duplicates, unused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [256, 4096])
def test_equal_weights_become_one(size: int, tmp_path: Path) -> None:
    """In the graph, and where they lie in the file."""
    w = np.arange(size, dtype=np.float32)
    nodes = [N("Add", ["x", "a"], ["h"]), N("Add", ["h", "b"], ["i"]), N("Add", ["i", "c"], ["y"])]
    other = w.copy()
    other[-1] = -1
    path = model(tmp_path, nodes, [const("a", w), const("b", w), const("c", other)], x=("batch", size))
    made, changes = run(path, "duplicates")
    assert [weight.name for weight in made.graph.initializer] == ["a", "c"]
    assert changes[0].what == f"1 weight merged with an equal one, {size * 4:,} bytes"
    found = prepared(path, tmp_path / "kept")
    x = np.ones((1, size), np.float32)
    np.testing.assert_array_equal(session(path).run(None, {"x": x})[0], session(found.path).run(None, {"x": x})[0])


def test_equal_bytes_of_another_type_or_shape_are_other_weights(tmp_path: Path) -> None:
    weights = [const("a", np.zeros(512, np.float32)), const("b", np.zeros((1, 512), np.float32)),
               const("c", np.zeros(512, np.int32))]  # fmt: skip
    nodes = [N("Add", ["x", "a"], ["h"]), N("Add", ["h", "b"], ["i"]), N("Cast", ["c"], ["d"], to=F),
             N("Add", ["i", "d"], ["y"])]  # fmt: skip
    assert run(model(tmp_path, nodes, weights, x=("batch", 512)), "duplicates")[1] == ()


def test_what_no_output_depends_on_is_removed(tmp_path: Path) -> None:
    nodes = [N("Abs", ["x"], ["dead"]), N("Add", ["dead", "w"], ["deader"]), N("Relu", ["x"], ["y"])]
    path = model(tmp_path, nodes, [const("w", np.ones(4, np.float32)), const("v", np.ones(4, np.float32))])
    made, changes = run(path, "unused")
    assert (operators(made), len(made.graph.initializer)) == (["Relu"], 0)
    assert [change.what for change in changes] == ["2 nodes removed", "2 weights removed, 32 bytes"]


def test_inputs_that_are_not_read_stay(tmp_path: Path) -> None:
    path = graphs.two_inputs_two_outputs(tmp_path)
    changed = onnx.load(path)
    for node in changed.graph.node:
        node.input[1] = "a"
    onnx.save(changed, path)
    assert [value.name for value in run(path, "unused")[0].graph.input] == ["a", "b"]


# ---- opset -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [graphs.mlp, graphs.cnn, graphs.external_data, graphs.initializer_as_input])
def test_the_opset_is_raised(write: graphs.Write, tmp_path: Path) -> None:
    path = write(tmp_path)
    found = prepared(path, tmp_path / "kept", prepare={"opset": 21})
    assert found.signature.opset[""] == 21
    assert any(change.by == "opset" for change in found.changes)
    shape = [2 if isinstance(dim, str) else dim for dim in session(path).get_inputs()[0].shape]
    x = np.random.default_rng(0).random(shape).astype(np.float32)
    before, after = (session(file).run(None, {"x": x})[0] for file in (path, found.path))
    np.testing.assert_allclose(before, after, rtol=1e-6)


def test_an_opset_that_cannot_be_reached(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has opset 17; prepare\.opset asks for the older 9"):
        prepared(graphs.mlp(tmp_path), tmp_path / "kept", prepare={"opset": 9})
    with pytest.raises(ModelError, match="cannot be brought from opset 17 to 64"):
        prepared(graphs.mlp(tmp_path), tmp_path / "kept", prepare={"opset": 64})


# ---- scalars ---------------------------------------------------------------------------------------------------------


def scalars(folder: Path) -> Path:
    """x FP32 [3], s FP32 [] -> y FP32 [3] = x * s, z FP32 [] = sum of y: nothing batches."""
    graph = helper.make_graph(
        [N("Mul", ["x", "s"], ["y"]), N("ReduceSum", ["y"], ["z"], keepdims=0)], "g",
        [helper.make_tensor_value_info("x", F, [3]), helper.make_tensor_value_info("s", F, [])],
        [helper.make_tensor_value_info("y", F, [3]), helper.make_tensor_value_info("z", F, [])],
    )  # fmt: skip
    path = folder / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_scalars_get_an_axis_for_engines_that_need_one(tmp_path: Path) -> None:
    path = scalars(tmp_path)
    assert run(path, "scalars", engine="python")[1] == ()
    made, changes = run(path, "scalars", engine="onnxruntime")
    assert changes[0].what == "s, z are of shape [1] instead of a scalar"
    onnx.save(made, tmp_path / "after.onnx")
    given_ = {"x": np.arange(3, dtype=np.float32), "s": np.array([2], np.float32)}
    y, z = session(tmp_path / "after.onnx").run(None, given_)
    assert (y.tolist(), z.tolist()) == ([0, 2, 4], [6])


def test_a_scalar_input_of_a_model_that_batches_becomes_a_number_for_each_row(tmp_path: Path) -> None:
    found = prepared(graphs.scalar_input(tmp_path), tmp_path / "kept")
    assert found.signature.batch
    assert [tensor.shape for tensor in found.signature.inputs] == [("batch", 3), ("batch",)]
    x, scale = np.ones((4, 3), np.float32), np.arange(4, dtype=np.float32)
    np.testing.assert_array_equal(session(found.path).run(None, {"x": x, "scale": scale})[0], x * scale[:, None])


def test_a_scalar_that_is_read_otherwise_stays_one(tmp_path: Path) -> None:
    path = graphs.scalar_input(tmp_path)
    changed = onnx.load(path)
    changed.graph.node[0].input[1] = "doubled"
    changed.graph.node.insert(0, N("Concat", ["line", "line"], ["pair"], axis=0))
    changed.graph.node.insert(0, N("Reshape", ["scale", "one"], ["line"]))
    changed.graph.node.insert(2, N("ReduceSum", ["pair"], ["doubled"], keepdims=0))
    changed.graph.initializer.append(const("one", np.array([1])))
    onnx.save(changed, path)
    found = prepared(path, tmp_path / "kept")
    assert "input scale is a scalar, which Reshape line cannot take for each row" in found.refused["scalars_batch"]
    assert found.signature.inputs[1].shape == ()


# ---- names -----------------------------------------------------------------------------------------------------------


def test_only_names_that_triton_cannot_carry_are_mapped(tmp_path: Path) -> None:
    path = graphs.odd_names(tmp_path)
    assert run(path, "names")[1] == ()
    changed = onnx.load(path)
    changed.graph.node[0].input[0] = changed.graph.input[0].name = "a\0b"
    changed.graph.node[0].output[0] = changed.graph.output[0].name = "a_b"
    onnx.save(changed, path)
    found = prepared(path, tmp_path / "kept")
    assert dict(found.names) == {"a\0b": "a_b_2"}
    assert [change.what for change in found.changes] == ["'a\\x00b' is served as 'a_b_2'"]
    x = np.ones((1, 3), np.float32)
    np.testing.assert_array_equal(session(found.path).run(["a_b"], {"a_b_2": x})[0], x)


@pytest.mark.parametrize("name", ["model.onnx", "model.py", "model.plan"])
def test_weights_in_a_file_that_triton_looks_for(name: str, tmp_path: Path) -> None:
    path = graphs.mlp(tmp_path, file="net")
    onnx.save_model(onnx.load(path), path, save_as_external_data=True, location=name, size_threshold=0)
    found = prepared(path, tmp_path / "kept")
    assert [file.name for file in found.external_data] == [f"weights-{name}"]
    onnx.checker.check_model(found.path)


# ---- all of them -----------------------------------------------------------------------------------------------------

UNARY: Sequence[Callable[[str, str], NodeProto]] = (
    lambda a, b: N("Relu", [a], [b]),
    lambda a, b: N("Identity", [a], [b]),
    lambda a, b: N("Dropout", [a], [b]),
    lambda a, b: N("Transpose", [a], [b], perm=[0, 1]),
    lambda a, b: N("Concat", [a], [b], axis=1),
    lambda a, b: N("Cast", [a], [b], to=F),
    lambda a, b: N("Softmax", [a], [b], axis=1),
    lambda a, b: N("Reshape", [a, "shape"], [b]),
)
BINARY = ("Add", "Mul", "Max", "Sub")


@st.composite
def random_graph(draw: st.DrawFn) -> tuple[list[NodeProto], list[str]]:
    """Nodes over x [2, 4] and weights of that shape, shuffled; and which values are outputs."""
    values, nodes = ["x", "w", "same", "v"], []
    for number in range(draw(st.integers(1, 12))):
        name = f"t{number}"
        if draw(st.booleans()):
            nodes.append(draw(st.sampled_from(UNARY))(draw(st.sampled_from(values)), name))
        else:
            pair = [draw(st.sampled_from(values)), draw(st.sampled_from(values))]
            nodes.append(N(draw(st.sampled_from(BINARY)), pair, [name]))
        values.append(name)
    made = values[4:]
    outputs = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True))
    return draw(st.permutations(nodes)), outputs


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=random_graph(), engine=st.sampled_from(["python", "onnxruntime"]))
def test_random_graphs_answer_as_before(
    made: tuple[list[NodeProto], list[str]], engine: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("g")
    nodes, outputs = made
    random = np.random.default_rng(0)
    w, v = (random.uniform(-1, 1, (2, 4)).astype(np.float32) for _ in range(2))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", F, [2, 4])],
        [helper.make_tensor_value_info(name, F, [2, 4]) for name in outputs],
        [const("w", w), const("same", w), const("v", v), const("shape", np.array([2, 4]))],
    )  # fmt: skip
    path = folder / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    found = prepared(path, folder / "kept", engine=engine)
    x = random.uniform(-1, 1, (2, 4)).astype(np.float32)
    for want, got in zip(session(path).run(None, {"x": x}), session(found.path).run(None, {"x": x}), strict=True):
        np.testing.assert_array_equal(want, got)
    after = onnx.load(found.path)
    onnx.checker.check_model(after, full_check=True)
    assert [value.name for value in after.graph.output] == outputs
    known = {"x", *(weight.name for weight in after.graph.initializer)}
    for node in after.graph.node:
        assert read_names(node) <= known
        known |= set(node.output)
    again = prepared(found.path, folder / "again", engine=engine)
    assert again.changes == (), "a second run finds nothing more to do"
