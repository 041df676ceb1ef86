"""What introspect says of good graphs, and why it refuses bad ones."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import graphs
from tritonrepo.errors import ModelError
from tritonrepo.introspect import introspect


def test_signature_of_a_dense_network(tmp_path: Path) -> None:
    signature = introspect(graphs.mlp(tmp_path))
    assert [str(tensor) for tensor in signature.inputs] == ["x FP32[batch,4]"]
    assert [str(tensor) for tensor in signature.outputs] == ["y FP32[batch,3]"]
    assert signature.operators == {"Gemm": 2, "Relu": 1}
    assert signature.bytes == graphs.mlp(tmp_path).stat().st_size
    assert signature.batch


def test_weights_listed_as_inputs_are_no_inputs(tmp_path: Path) -> None:
    assert [tensor.name for tensor in introspect(graphs.initializer_as_input(tmp_path)).inputs] == ["x"]


def test_unnamed_axes_are_none(tmp_path: Path) -> None:
    assert introspect(graphs.unnamed_axes(tmp_path)).inputs[0].shape == (None, 3, None, None)


def test_a_question_mark_is_no_name(tmp_path: Path) -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["?", "?"]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    onnx.save(helper.make_model(graph, ir_version=8), tmp_path / "m.onnx")
    assert introspect(tmp_path / "m.onnx").inputs[0].shape == (None, None)


def test_operators_of_subgraphs_are_counted(tmp_path: Path) -> None:
    operators = introspect(graphs.loop(tmp_path)).operators
    assert operators["Loop"] == 1
    assert operators["Add"] == 1


def test_external_data_is_listed_and_counted(tmp_path: Path) -> None:
    path = graphs.external_data_in_subfolder(tmp_path)
    signature = introspect(path)
    assert signature.external_data == (path.parent / "weights" / "data.bin",)
    assert signature.bytes == path.stat().st_size + (path.parent / "weights" / "data.bin").stat().st_size


def test_a_shape_that_is_missing_is_inferred(tmp_path: Path) -> None:
    path = graphs.mlp(tmp_path)
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, path)
    assert introspect(path).outputs[0].shape == ("batch", 3)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (graphs.static_batch, "the first axis of input x is fixed at 1"),
        (graphs.scalar_output, "output y is a scalar"),
        (graphs.scalar_input, "input scale is a scalar"),
        (graphs.no_batch, "the first axis of output y is fixed at 4"),
        (graphs.constant_output, "the first axis of output version is fixed at 2"),
        (graphs.no_inputs, "the model has no inputs"),
    ],
)
def test_what_cannot_be_a_batch(write: graphs.Write, reason: str, tmp_path: Path) -> None:
    signature = introspect(write(tmp_path))
    assert (signature.batch, signature.batch_reason) == (False, reason)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (graphs.not_onnx, "not an ONNX file"),
        (graphs.empty_file, "the file is empty"),
        (graphs.truncated, "truncated or damaged"),
        (graphs.empty_graph, "the graph is empty"),
        (graphs.no_outputs, "no outputs"),
        (graphs.missing_external_data, "'missing_external_data.bin' is missing"),
        (graphs.short_external_data, "is too short for weight"),
        (graphs.external_data_parent, "lies outside the model's folder"),
        (graphs.external_data_absolute, "lies outside the model's folder"),
        (graphs.external_data_symlink, "lies outside the model's folder"),
        (graphs.opset_too_new, "opset 9999"),
        (graphs.ir_too_new, "IR version 9999"),
        (graphs.sequence_io, "input 'x' is of type sequence"),
        (graphs.optional_io, "input 'x' is of type optional"),
        (graphs.map_io, "output 'y' is of type sequence"),
        (graphs.complex_io, "element type complex64"),
        (graphs.int4_io, "element type int4"),
        (graphs.float8_io, "element type float8e4m3fn"),
        (graphs.duplicate_outputs, "2 outputs are named 'y'"),
        (graphs.duplicate_inputs, "2 inputs are named 'x'"),
    ],
)
def test_refusals_name_the_fault_and_the_file(write: graphs.Write, words: str, tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises(ModelError) as caught:
        introspect(path)
    assert words in caught.value.message
    assert str(path) in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (b"PK\x03\x04 and so on", "torch.onnx.export"),
        (b"\n <!DOCTYPE html>", "error page"),
    ],
)
def test_impostors_are_recognised(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelError, match="not an ONNX file") as caught:
        introspect(tmp_path / "m.onnx")
    assert words in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        introspect(tmp_path / "m.onnx")


def test_a_claim_of_two_to_the_sixty_elements_is_not_believed(tmp_path: Path) -> None:
    assert introspect(graphs.huge_initializer(tmp_path)).outputs[0].name == "y"
