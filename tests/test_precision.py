"""Precision in the graph: what is lowered, what stays, and what is refused."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

import precision_graphs as nets
from tritonrepo.errors import ModelError, VerificationError
from tritonrepo.introspect import introspect
from tritonrepo.prepare import Prepared
from tritonrepo.prepare.precision import Case, Reached, Request, reduce
from tritonrepo.prepare.precision.graph import all_graphs
from tritonrepo.spec import Precision, Tolerance, Verification

Arrays = dict[str, NDArray[Any]]


def run(path: Path, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return dict(zip([each.name for each in session.get_outputs()], session.run(None, dict(inputs)), strict=True))


def inputs_of(path: Path, rows: int = 3, seed: int = 0) -> Arrays:
    random = np.random.default_rng(seed)
    arrays: Arrays = {}
    for tensor in introspect(path).inputs:
        shape = [{"N": rows, "W": 1025}[dim] if isinstance(dim, str) else dim or 0 for dim in tensor.shape]
        if tensor.dtype == "INT64":
            arrays[tensor.name] = random.integers(0, 50, shape)
        elif tensor.name == "mask":
            arrays[tensor.name] = (np.arange(8) < random.integers(1, 8, (rows, 1))).astype(np.float32)
        else:
            arrays[tensor.name] = random.normal(size=shape).astype(np.float32)
    return arrays


def reduced(
    path: Path,
    *,
    verification: Verification | None = None,
    calibration: Callable[[], Iterable[Arrays]] | None = None,
    work: Path | None = None,
    **settings: Any,
) -> tuple[Prepared, Reached]:
    """A model brought to a precision, judged on two inputs; the new file lies beside it, in a folder of its own."""
    signature = introspect(path)

    def cases() -> Sequence[Case]:
        found = []
        for seed in range(2):
            inputs = inputs_of(path, seed=seed)
            answers = run(path, inputs)
            found.append(
                Case(f"seed {seed}", inputs, {out.name: (out, answers[out.name]) for out in signature.outputs})
            )
        return found

    def keep(fill: Callable[[Path], None]) -> Path:
        folder = next(each for n in itertools.count() if not (each := path.parent / f"kept{n}").exists())
        folder.mkdir()
        fill(folder)
        return folder

    request = Request(
        path.stem,
        Precision(**settings),
        verification or Verification(),
        cases,
        calibration or (lambda: [inputs_of(path, seed=seed) for seed in range(4)]),
        work,
    )
    prepared = Prepared(path, signature.external_data, (), signature)
    return reduce(request, prepared, keep)


def weights_of(path: Path) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for graph in all_graphs(onnx.load(path).graph) for tensor in graph.initializer}


def node_types(path: Path, op_type: str) -> set[int]:
    """Element types of the first outputs of all nodes of an operator, subgraphs included."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    types: dict[str, int] = {}
    found: set[int] = set()
    for graph in all_graphs(model.graph):
        types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
        found |= {types[node.output[0]] for node in graph.node if node.op_type == op_type}
    return found


GRAPHS = [nets.cnn, nets.transformer, nets.branches, nets.loop, nets.resized]


# ---- FP16 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: graph.__name__)
@pytest.mark.parametrize("io", ["keep", "convert"])
@pytest.mark.parametrize("kind", ["fp16", "mixed"])
def test_a_graph_in_fp16_is_valid_and_answers_as_before(
    tmp_path: Path, graph: Callable[[Path], Path], io: str, kind: str
) -> None:
    path = graph(tmp_path)
    prepared, reached = reduced(path, type=kind, io=io)
    onnx.checker.check_model(str(prepared.path), full_check=True)  # types, shapes, and the order of nodes
    inputs = inputs_of(path)
    served = {tensor.name: tensor.dtype for tensor in prepared.signature.inputs}
    given = {name: array.astype(np.float16) if served[name] == "FP16" else array for name, array in inputs.items()}
    got, want = run(prepared.path, given), run(path, inputs)
    for name, array in want.items():
        np.testing.assert_allclose(got[name].astype(np.float32), array, atol=1e-2 * np.abs(array).max())
    work = "Conv" if graph in (nets.cnn, nets.resized) else "MatMul"
    assert node_types(prepared.path, work) == {TensorProto.FLOAT16}
    assert reached.asked == kind
    assert reached.weights["FP16"] > reached.weights.get("FP32", 0) or graph is nets.resized
    assert prepared.changed_by == {"precision"}


@pytest.mark.parametrize(("io", "dtype"), [("keep", "FP32"), ("convert", "FP16")])
def test_inputs_and_outputs_keep_their_type_or_are_converted(tmp_path: Path, io: str, dtype: str) -> None:
    path = nets.transformer(tmp_path)
    signature = reduced(path, type="fp16", io=io)[0].signature
    assert [f"{tensor}" for tensor in signature.inputs] == ["tokens INT64[N,8]", f"mask {dtype}[N,8]"]
    assert [f"{tensor}" for tensor in signature.outputs] == [f"logits {dtype}[N,8,50]"]


def test_masks_and_epsilons_stay_finite_and_above_zero(tmp_path: Path) -> None:
    prepared, reached = reduced(nets.transformer(tmp_path), type="fp16")
    low = {name: numpy_helper.to_array(tensor) for name, tensor in weights_of(prepared.path).items()}
    assert low["lowest_fp16"] == np.float16(-65504)
    assert low["epsilon_fp16"] == np.float16(2**-24)
    assert any("lowest" in note and "beyond the range" in note for note in reached.notes)
    assert not np.isnan(run(prepared.path, inputs_of(nets.transformer(tmp_path)))["logits"]).any()


def test_a_weight_that_both_kinds_of_nodes_use_is_there_twice_and_cast_never(tmp_path: Path) -> None:
    prepared, reached = reduced(nets.transformer(tmp_path), type="fp16", keep_fp32=["logits", "head"])
    weights = weights_of(prepared.path)
    assert {weights["embedding"].data_type, weights["embedding_fp16"].data_type} == {1, 10}
    model = onnx.load(prepared.path)
    outputs = [name for node in model.graph.node for name in node.output]
    assert len(outputs) == len(set(outputs))
    assert not [node for node in model.graph.node if node.op_type == "Cast" and node.input[0] in weights]
    assert {(kept.node, kept.why) for kept in reached.kept} == {
        ("logits", "keep_fp32: logits"),
        ("head", "keep_fp32: head"),
    }


def test_within_branches_and_bodies_nodes_are_lowered_too(tmp_path: Path) -> None:
    for graph, inner in ((nets.branches, ["MatMul", "Relu"]), (nets.loop, ["MatMul", "Tanh"])):
        folder = tmp_path / graph.__name__
        folder.mkdir()
        prepared, _ = reduced(graph(folder), type="fp16")
        for op_type in inner:
            assert node_types(prepared.path, op_type) == {TensorProto.FLOAT16}, (graph, op_type)


def test_sizes_are_computed_in_fp32(tmp_path: Path) -> None:
    """2049 is between two FP16 numbers: computed there, the output would have another size."""
    path = nets.resized(tmp_path)
    prepared, reached = reduced(path, type="fp16")
    assert run(prepared.path, inputs_of(path))["y"].shape == (1, 1, 3, 2049)
    assert any("it computes sizes" in note for note in reached.notes)


def test_mixed_keeps_what_is_sensitive(tmp_path: Path) -> None:
    prepared, reached = reduced(nets.transformer(tmp_path), type="mixed")
    for op_type in ("Softmax", "ReduceMean", "Pow", "Sqrt", "Erf"):
        assert node_types(prepared.path, op_type) == {TensorProto.FLOAT}, op_type
    assert node_types(prepared.path, "MatMul") == {TensorProto.FLOAT16}
    assert 0.3 < reached.low_share < 0.8


def test_what_overflows_is_found_and_kept_and_the_report_says_why(tmp_path: Path) -> None:
    path = nets.overflow(tmp_path)
    prepared, reached = reduced(path, type="fp16")
    assert reached.first_share is None or reached.first_share > 1
    assert {kept.node for kept in reached.kept} >= {"square", "sum"}
    assert all(kept.why.startswith("range:") for kept in reached.kept)
    assert "square reaches" in " ".join(kept.why for kept in reached.kept)
    assert reached.share is not None
    assert reached.share <= 1
    assert reached.runs == 2
    assert node_types(prepared.path, "MatMul") == {TensorProto.FLOAT16}
    assert "kept in FP32" in reached.summary()


def test_an_error_that_is_too_large_is_traced_to_its_operators(tmp_path: Path) -> None:
    path = nets.cancelling(tmp_path)
    prepared, reached = reduced(path, type="fp16")
    assert reached.first_share is not None
    assert reached.first_share > 1
    assert {kept.node for kept in reached.kept} >= {"shifted"}
    assert {kept.op_type for kept in reached.kept} <= {"Add", "Sub", "Mul", "Relu"}
    assert all("error share" in kept.why for kept in reached.kept)
    assert any("regions" in line for line in reached.tried)
    np.testing.assert_allclose(
        run(prepared.path, inputs_of(path))["y"], run(path, inputs_of(path))["y"], atol=2e-2, rtol=1e-2
    )


def test_without_the_search_an_error_that_is_too_large_fails(tmp_path: Path) -> None:
    with pytest.raises(
        VerificationError, match=r"not within the tolerance.*worst.*output y.*search is false"
    ) as raised:
        reduced(nets.cancelling(tmp_path), type="fp16", search=False)
    assert "Nothing was published" in str(raised.value.hint)
    assert not list(tmp_path.glob("kept*"))


def test_a_tolerance_that_fp16_cannot_meet_fails_and_says_what_was_tried(tmp_path: Path) -> None:
    exact = Verification(tolerance=Tolerance(atol=0, rtol=0, of_range=0))
    with pytest.raises(VerificationError, match=r"precision fp16.*worst.*output y.*tried|stay in FP32") as raised:
        reduced(nets.cnn(tmp_path), type="fp16", verification=exact)
    assert "regions" in str(raised.value)
    assert not list(tmp_path.glob("kept*"))


def test_where_all_the_work_is_kept_in_fp32_it_fails(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match=r"do the work would all stay in FP32.*keep_fp32: Conv"):
        reduced(nets.cnn(tmp_path), type="fp16", keep_fp32=["Conv", "Gemm"])


def test_a_name_that_is_nowhere_in_the_graph(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"keep_fp32 names 'Softmx'") as raised:
        reduced(nets.transformer(tmp_path), type="fp16", keep_fp32=["Softmx"])
    assert "Softmax" in str(raised.value.hint)


def test_names_may_be_patterns(tmp_path: Path) -> None:
    _, reached = reduced(nets.transformer(tmp_path), type="fp16", keep_fp32=["erf*"])
    assert {kept.node for kept in reached.kept} == {"erf", "erf1"}


def test_a_model_that_is_fp16_already_stays_as_it_is(tmp_path: Path) -> None:
    once, _ = reduced(nets.cnn(tmp_path), type="fp16")
    again, reached = reduced(once.path, type="fp16")
    assert again.path == once.path
    assert reached.already
    assert reached.summary() == "the model is FP16 already"
    assert reached.operators["FP16"] > 5


def test_a_model_in_which_nothing_can_be_lowered(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no operator can be FP16: ONNX allows no FP16 for NonMaxSuppression"):
        reduced(nets.only_sizes(tmp_path), type="fp16")


def test_weights_that_are_listed_as_inputs_are_lowered_too(tmp_path: Path) -> None:
    path = nets.cnn(tmp_path)
    model = onnx.load(path)
    model.graph.input.extend(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in model.graph.initializer
    )
    onnx.save(model, path)
    prepared, _ = reduced(path, type="fp16")
    assert [value.name for value in onnx.load(prepared.path).graph.input] == ["x"]


def test_the_working_folder_goes_also_that_of_a_killed_build(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".tritonrepo-precision-{dead.pid}-abc").mkdir()
    (tmp_path / f".tritonrepo-precision-{os.getpid()}-abc").mkdir()
    reduced(nets.cnn(tmp_path), type="fp16", work=tmp_path)
    assert [left.name for left in tmp_path.glob(".tritonrepo*")] == [f".tritonrepo-precision-{os.getpid()}-abc"]


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    path = nets.transformer(tmp_path)
    choices: list[dict[str, Any]] = [{"type": "fp16"}, {"type": "int8", "calibration_method": "entropy"}]
    for settings in choices:
        first, second = (reduced(path, **settings)[0].path.read_bytes() for _ in range(2))
        assert first == second


def test_weights_beside_the_model_stay_beside_it(tmp_path: Path) -> None:
    path = nets.cnn(tmp_path)
    apart = tmp_path / "apart" / "model.onnx"
    apart.parent.mkdir()
    onnx.save_model(onnx.load(path), apart, save_as_external_data=True, location="weights.bin", size_threshold=0)
    for kind in ("fp16", "int8"):
        prepared, reached = reduced(apart, type=kind)
        assert [file.name for file in prepared.external_data] == ["model.onnx.data"]
        assert prepared.external_data[0].stat().st_size < (apart.parent / "weights.bin").stat().st_size
        together, same = reduced(path, type=kind)
        assert reached.operators == same.operators
        inputs = inputs_of(path)
        np.testing.assert_array_equal(run(prepared.path, inputs)["y"], run(together.path, inputs)["y"])


@pytest.mark.parametrize("name", ["low10.bin", "int8.bin", "candidate.onnx", "sub/source0"])
def test_files_of_weights_are_only_read_whatever_they_are_called(tmp_path: Path, name: str) -> None:
    path = nets.cnn(tmp_path)
    apart = tmp_path / "apart" / "model.onnx"
    (apart.parent / name).parent.mkdir(parents=True)
    onnx.save_model(onnx.load(path), apart, save_as_external_data=True, location=name, size_threshold=1500)
    before = (apart.parent / name).read_bytes()
    for kind in ("fp16", "int8"):
        prepared, _ = reduced(apart, type=kind)
        np.testing.assert_array_equal(
            run(prepared.path, inputs_of(path))["y"], run(reduced(path, type=kind)[0].path, inputs_of(path))["y"]
        )
        assert (apart.parent / name).read_bytes() == before


# ---- BF16 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", [nets.cnn, nets.transformer], ids=lambda graph: graph.__name__)
def test_bf16_is_judged_by_rounding_and_written_as_valid_onnx(tmp_path: Path, graph: Callable[..., Path]) -> None:
    prepared, reached = reduced(graph(tmp_path, opset=22), type="bf16", verification=Verification())
    onnx.checker.check_model(str(prepared.path), full_check=True)
    work = "Conv" if graph is nets.cnn else "MatMul"
    assert node_types(prepared.path, work) == {TensorProto.BFLOAT16}
    assert reached.share is not None
    assert 0 < reached.share <= 1
    assert reached.weights["BF16"] > 0


def test_bf16_at_an_old_opset_says_which_one_it_needs(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no operator can be BF16: ONNX allows no BF16") as raised:
        reduced(nets.cnn(tmp_path, opset=11), type="bf16")
    assert "opset: 22" in str(raised.value.hint)


# ---- INT8 ------------------------------------------------------------------------------------------------------------


def test_int8_is_in_the_form_that_tensorrt_takes(tmp_path: Path) -> None:
    path = nets.cnn(tmp_path)
    prepared, reached = reduced(path, type="int8")
    onnx.checker.check_model(str(prepared.path), full_check=True)
    graph = onnx.load(prepared.path).graph
    weights = weights_of(prepared.path)
    producer = {output: node for node in graph.node for output in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    worked = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(worked) == 3
    for node in worked:
        activation, weight = producer[node.input[0]], producer[node.input[1]]
        assert (activation.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
        assert readers[activation.output[0]] == [node], "a pair of its own"
        quantizer = producer[activation.input[0]]
        assert quantizer.op_type == "QuantizeLinear"
        assert list(quantizer.input[1:]) == list(activation.input[1:]), "one scale for both"
        assert not weights[activation.input[1]].dims, "one scale for the tensor"
        stored, scale = weights[weight.input[0]], weights[weight.input[1]]
        assert stored.data_type == TensorProto.INT8
        axis = next(attribute.i for attribute in weight.attribute if attribute.name == "axis")
        assert list(scale.dims) == [stored.dims[axis]] == [weights_of(path)[_weight_of(path, node.name)].dims[axis]]
        assert node.input[2:] == [name for name in node.input[2:] if weights[name].data_type == TensorProto.FLOAT]
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = weights[node.input[2]]
            assert zero.data_type == TensorProto.INT8
            assert not numpy_helper.to_array(zero).any()
    assert not [tensor for tensor in weights.values() if tensor.data_type == TensorProto.INT32], "no INT32 bias"
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) == 3
    assert reached.operators["INT8"] == 3


def _weight_of(path: Path, node: str) -> str:
    return next(str(each.input[1]) for each in onnx.load(path).graph.node if each.name == node)


def test_int8_weights_are_within_half_a_step_of_what_they_were(tmp_path: Path) -> None:
    path = nets.cnn(tmp_path)
    low, high = weights_of(reduced(path, type="int8")[0].path), weights_of(path)
    for name, axis in (("w1", 0), ("w2", 0), ("w3", 0)):
        values, scale = (numpy_helper.to_array(low[f"{name}_{part}"]) for part in ("int8", "scale"))
        assert np.abs(values).max(axis=tuple(range(1, values.ndim))).tolist() == [127] * len(scale)
        steps = scale.reshape([-1] + [1] * (values.ndim - 1))
        assert (np.abs(values * steps - numpy_helper.to_array(high[name])) <= steps * 0.5001).all()
        assert axis == 0


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_ranges_follow_the_method(tmp_path: Path, method: str) -> None:
    """One outlier of 1000 among values up to 4: minmax takes it, the other two do not."""
    path = nets.cnn(tmp_path)

    def calibration() -> Iterable[Arrays]:
        for seed in range(4):
            sample = inputs_of(path, rows=16, seed=seed)
            sample["x"][0, 0, 0, 0] = 1000 if seed == 0 else 0
            yield sample

    wide = Verification(tolerance=Tolerance(atol=1e9, cosine=-1.0))
    prepared, _ = reduced(path, type="int8", calibration_method=method, calibration=calibration, verification=wide)
    scale = float(numpy_helper.to_array(weights_of(prepared.path)["conv1_input_scale"]))
    assert (scale == np.float32(1000 / 127)) if method == "minmax" else (scale < 1000 / 127 / 2)


def test_int8_keeps_what_the_spec_names_and_what_the_gate_finds(tmp_path: Path) -> None:
    path = nets.cnn(tmp_path)
    _, reached = reduced(path, type="int8", keep_fp32=["Gemm"])
    assert [(kept.node, kept.why) for kept in reached.kept] == [("y", "keep_fp32: Gemm")]
    assert reached.operators["INT8"] == 2
    strict = Verification(tolerance=Tolerance(atol=0, rtol=0, of_range=(reached.share or 0) * 0.1 * 0.8))
    _, found = reduced(path, type="int8", verification=strict)
    assert 0 < len(found.kept) < 3
    assert found.share is not None
    assert found.share <= 1


def test_int8_with_the_rest_in_fp16(tmp_path: Path) -> None:
    """Pairs are of the type of the operator that reads them: no Cast comes between."""
    path = nets.cnn(tmp_path, opset=19)
    prepared, reached = reduced(path, type="int8", rest="fp16", io="convert")
    onnx.checker.check_model(str(prepared.path), full_check=True)
    assert reached.operators == {"INT8": 3, "FP16": 6}
    assert set(reached.weights) == {"INT8", "FP16"}
    assert node_types(prepared.path, "DequantizeLinear") == {TensorProto.FLOAT16}
    assert not [node for node in onnx.load(prepared.path).graph.node if node.op_type == "Cast"]
    assert reached.summary().startswith("INT8: 3 of 9 operators, ")
    assert ", 6 in FP16" in reached.summary()
    got = run(prepared.path, {"x": inputs_of(path)["x"].astype(np.float16)})["y"]
    want = run(path, inputs_of(path))["y"]
    np.testing.assert_allclose(got.astype(np.float32), want, atol=0.1 * np.abs(want).max())


def test_a_quantized_model_in_fp16_keeps_its_pairs_whole(tmp_path: Path) -> None:
    once, _ = reduced(nets.cnn(tmp_path, opset=19), type="int8")
    again, reached = reduced(once.path, type="fp16")
    assert node_types(again.path, "DequantizeLinear") == {TensorProto.FLOAT16}
    casts = [node for node in onnx.load(again.path).graph.node if node.op_type == "Cast"]
    assert len(casts) == 2, "of the input and of the output"
    assert reached.operators == {"INT8": 3, "FP16": 6}
    old, _ = reduced(reduced(nets.cnn(tmp_path), type="int8")[0].path, type="fp16")  # opset 18: scales are FP32
    assert node_types(old.path, "DequantizeLinear") == {TensorProto.FLOAT}


def test_scales_in_fp16_need_opset_19(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="int8 needs opset 19, for scales in FP16; the model has 18"):
        reduced(nets.cnn(tmp_path), type="int8", rest="fp16")


def test_samples_that_give_nan_are_named(tmp_path: Path) -> None:
    path = nets.cnn(tmp_path)
    bad = inputs_of(path)
    bad["x"][0] = np.nan
    with pytest.raises(ModelError, match="calibration sample 1 makes tensor x NaN or infinite"):
        reduced(path, type="int8", calibration=lambda: [inputs_of(path), bad])


def test_a_quantized_model_stays_as_it_is(tmp_path: Path) -> None:
    once, _ = reduced(nets.cnn(tmp_path), type="int8")
    again, reached = reduced(once.path, type="int8")
    assert again.path == once.path
    assert reached.summary() == "the model is INT8 already"


def test_int8_at_an_old_opset_says_which_one_it_needs(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"int8 needs opset 13, .* the model has 11"):
        reduced(nets.cnn(tmp_path, opset=11), type="int8")


def test_int8_with_nothing_to_quantize(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no Conv, ConvTranspose, Gemm or MatMul with constant weights"):
        reduced(nets.only_sizes(tmp_path), type="int8")
