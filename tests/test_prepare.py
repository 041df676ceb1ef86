"""The passes, and what is left as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

import graphs
from tritonrepo.introspect import introspect
from tritonrepo.prepare import Change, prepare
from tritonrepo.prepare.weight_inputs import drop_weight_inputs


def keep_in(folder: Path) -> Callable[[Callable[[Path], None]], Path]:
    def keep(fill: Callable[[Path], None]) -> Path:
        folder.mkdir()
        fill(folder)
        return folder

    return keep


def test_a_model_that_no_pass_changes_is_used_as_it_is(tmp_path: Path) -> None:
    path = graphs.external_data(tmp_path)
    prepared = prepare(introspect(path), keep_in(tmp_path / "kept"))
    assert (prepared.path, prepared.changes) == (path, ())
    assert not (tmp_path / "kept").exists()


def test_weights_are_no_longer_inputs_and_answers_stay(tmp_path: Path) -> None:
    path = graphs.initializer_as_input(tmp_path)
    prepared = prepare(introspect(path), keep_in(tmp_path / "kept"))
    assert prepared.changes == (Change("drop_weight_inputs", "4 weights are no longer listed as inputs"),)
    model = onnx.load(prepared.path)
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == ["x"]
    x = np.ones((2, 4), np.float32)
    before, after = (
        onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for file in (path, prepared.path)
    )
    np.testing.assert_array_equal(before, after)


def test_a_pass_says_nothing_of_a_model_that_fits(tmp_path: Path) -> None:
    assert drop_weight_inputs(onnx.load(graphs.mlp(tmp_path)))[1] == ()


def test_external_data_goes_with_a_changed_model(tmp_path: Path) -> None:
    path = graphs.external_data_in_subfolder(tmp_path)
    model = onnx.load(path, load_external_data=False)
    model.graph.input.extend(
        onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
        for weight in model.graph.initializer
    )
    path.write_bytes(model.SerializeToString())
    prepared = prepare(introspect(path), keep_in(tmp_path / "kept"))
    assert prepared.external_data == (tmp_path / "kept" / "weights" / "data.bin",)
    onnx.checker.check_model(prepared.path, full_check=True)
