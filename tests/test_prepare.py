"""The framework of the passes: what is left as it was, what goes with a changed model, what the report says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphs
from tritonrepo import prepare as preparation
from tritonrepo.introspect import introspect, tensors
from tritonrepo.prepare import PASSES, CannotChange, Change, Context, Prepared, weights
from tritonrepo.prepare.weights import open_model, write_model
from tritonrepo.spec import ModelSpec, Preparation


def context(path: Path, engine: str = "python", **settings: Any) -> Context:
    spec = ModelSpec.model_validate({"name": "m", "onnx": path, **settings})
    return Context(spec, introspect(path), engine)


def prepared(path: Path, folder: Path, **settings: Any) -> Prepared:
    """What preparation makes of a model; a changed model is written to ``folder``."""

    def keep(fill: Callable[[Path], None]) -> Path:
        folder.mkdir()
        fill(folder)
        return folder

    return preparation.prepare(context(path, **settings), keep)


def answers(path: Path, **inputs: Any) -> list[Any]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def test_every_pass_has_a_switch_in_the_spec() -> None:
    assert set(PASSES) <= set(Preparation.model_fields)


def test_a_model_that_no_pass_changes_is_used_as_it_is(tmp_path: Path) -> None:
    path = graphs.external_data(tmp_path)
    found = prepared(path, tmp_path / "kept")
    assert (found.path, found.changes, found.signature) == (path, (), introspect(path))
    assert not (tmp_path / "kept").exists()


def test_weights_are_no_longer_inputs_and_answers_stay(tmp_path: Path) -> None:
    path = graphs.initializer_as_input(tmp_path)
    found = prepared(path, tmp_path / "kept")
    assert "weight_inputs" in found.changed_by
    assert found.changes[0].what == "4 weights are no longer listed as inputs"
    model = onnx.load(found.path)
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == ["x"]
    x = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(answers(path, x=x)[0], answers(found.path, x=x)[0])


def test_a_pass_is_switched_off_by_its_name(tmp_path: Path) -> None:
    path = graphs.initializer_as_input(tmp_path)
    assert prepared(path, tmp_path / "kept", prepare={"weight_inputs": False}).changes == ()


def test_a_pass_that_cannot_do_its_work_leaves_the_model_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(model: onnx.ModelProto, _: Context) -> tuple[onnx.ModelProto, tuple[Change, ...]]:
        del model.graph.node[:]
        raise CannotChange("the graph is no good")

    monkeypatch.setitem(PASSES, "weight_inputs", refuse)
    path = graphs.mlp(tmp_path)
    found = prepared(path, tmp_path / "kept")
    assert (found.path, dict(found.refused)) == (path, {"weight_inputs": "the graph is no good"})


def test_external_data_goes_with_a_changed_model(tmp_path: Path) -> None:
    path = graphs.external_data_in_subfolder(tmp_path)
    model = onnx.load(path, load_external_data=False)
    model.graph.input.extend(
        onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
        for weight in model.graph.initializer
    )
    path.write_bytes(model.SerializeToString())
    found = prepared(path, tmp_path / "kept")
    assert found.external_data == (tmp_path / "kept" / "weights" / "data.bin",)
    onnx.checker.check_model(found.path, full_check=True)


# ---- weights ---------------------------------------------------------------------------------------------------------


def large(folder: Path, rows: int = 64) -> Path:
    """x FP32 [batch, 64] -> y FP32 [batch, rows]: one large weight and a small one."""
    w = np.arange(64 * rows, dtype=np.float32).reshape(64, rows)
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", rows])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(np.ones(rows, np.float32), "b")],
    )
    path = folder / "large.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.metadata_props.add(key="after", value="the graph")
    onnx.save(model, path)
    return path


def test_large_weights_are_not_in_the_opened_model(tmp_path: Path) -> None:
    path = large(tmp_path)
    model = open_model(path)
    assert len(model.SerializeToString()) < 2000 < 64 * 64 * 4
    w = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
    where = weights.extent(w, tmp_path)
    assert where is not None
    np.testing.assert_array_equal(
        np.frombuffer(b"".join(weights.blocks(where)), np.float32).reshape(64, 64),
        numpy_helper.to_array(onnx.load(path).graph.initializer[0]),
    )
    onnx.external_data_helper.load_external_data_for_tensor(w, str(tmp_path))  # the usual way to read one works too
    assert len(w.raw_data) == 64 * 64 * 4


def test_a_model_is_written_as_it_was(tmp_path: Path) -> None:
    path = large(tmp_path)
    (tmp_path / "out").mkdir()
    write_model(open_model(path), path, tmp_path / "out")
    before, after = onnx.load(path), onnx.load(tmp_path / "out" / "model.onnx")
    for model in (before, after):
        kept = sorted(model.graph.initializer, key=lambda tensor: tensor.name)
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
    assert before == after


def test_what_does_not_fit_into_one_file_goes_into_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "MOST_INLINE", 10_000)
    path = large(tmp_path)
    (tmp_path / "out").mkdir()
    model = open_model(path)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(2000, np.float32), "made_by_a_pass"))
    write_model(model, path, tmp_path / "out")
    written = tmp_path / "out" / "model.onnx"
    assert written.stat().st_size < 2000
    onnx.checker.check_model(written, full_check=True)
    assert {tensor.name: len(tensor.raw_data) for tensor in tensors(onnx.load(written))} == {
        "w": 64 * 64 * 4, "b": 256, "made_by_a_pass": 8000,
    }  # fmt: skip
    x = np.ones((1, 64), np.float32)
    np.testing.assert_array_equal(answers(path, x=x)[0], answers(written, x=x)[0])
