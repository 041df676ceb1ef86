"""Plans, built and run by TensorRT itself. Needs a GPU and TensorRT 10.8 or later with its builder."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

import graphs
from tritonrepo import _tensorrt
from tritonrepo._plan_build import build_plan
from tritonrepo._plan_progress import PlanProgress
from tritonrepo._plan_session import PlanSession
from tritonrepo.build import BuildOptions, build
from tritonrepo.check import _sidecar
from tritonrepo.check.model import DiskFiles, Model
from tritonrepo.errors import EngineError, ModelError, TritonrepoError
from tritonrepo.plan import BuildRequest, BuiltPlan, Profile
from tritonrepo.releases import RELEASES, obstacles
from tritonrepo.spec import Spec, TensorRT, spec_for

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]
QUICK = TensorRT(builder_optimization_level=0)
MLP = Profile({"x": (1, 4)}, {"x": (4, 4)}, {"x": (8, 4)})


def request(tmp_path: Path, onnx: Path, *profiles: Profile, options: TensorRT = QUICK) -> BuildRequest:
    (tmp_path / "out").mkdir(exist_ok=True)
    return BuildRequest(
        "m", onnx, profiles or (MLP,), "fp32", options, tmp_path / "out" / "model.plan", tmp_path / "cache"
    )


def described(built: BuiltPlan) -> _sidecar.Plan:
    found = _sidecar.plan(cast("Model", SimpleNamespace(files=DiskFiles(built.plan.parent))), built.plan.name)
    assert found is not None
    return found


def spec(tmp_path: Path, *models: Path, **settings: Any) -> Spec:
    given: dict[str, object] = {"engine": "tensorrt", "tensorrt": {"builder_optimization_level": 0}, **settings}
    return spec_for(list(models), repository=tmp_path / "repository", triton=fitting_release(), settings=given)


def fitting_release() -> str:
    """One that this TensorRT and GPU can build for."""
    found = _tensorrt.availability()
    for tag in reversed(RELEASES):
        obstacle = obstacles(tag, tensorrt=found.version, capability=found.gpus[0].capability)
        if not any(each.certain for each in obstacle):
            return tag
    pytest.skip(f"no known release has {found.reason}")


def built(tmp_path: Path, *models: Path, **settings: Any) -> Any:
    result = build(spec(tmp_path, *models, **settings), BuildOptions(jobs=1), lambda *_: None)
    assert dict(result.failures) == {}, "\n".join(map(str, result.failures.values()))
    return result


def failure(tmp_path: Path, model: Path, **settings: Any) -> TritonrepoError:
    result = build(spec(tmp_path, model, **settings), BuildOptions(jobs=1), lambda *_: None)
    (error,) = result.failures.values()
    assert not (tmp_path / "repository" / model.stem).exists()
    return error


# ------------------------------------------------------------------ one plan


def test_a_plan_is_what_its_description_says(tmp_path: Path, tensorrt: _tensorrt.Availability) -> None:
    told: list[PlanProgress] = []
    small, large = replace(MLP, max={"x": (4, 4)}), replace(MLP, min={"x": (5, 4)}, opt={"x": (8, 4)})
    result = build_plan(request(tmp_path, graphs.mlp(tmp_path), small, large), told.append)
    found = described(result)
    assert found.tensorrt_version == tensorrt.version
    assert found.compute_capability == tensorrt.gpus[0].capability
    assert found.size_bytes == result.plan.stat().st_size
    assert [(each.name, each.is_input, each.data_type, each.shape) for each in found.tensors] == [
        ("x", True, "TYPE_FP32", (-1, 4)),
        ("y", False, "TYPE_FP32", (-1, 3)),
    ]
    assert [(each.min["x"], each.max["x"]) for each in found.profiles] == [((1, 4), (4, 4)), ((5, 4), (8, 4))]
    assert result.report is not None
    assert json.loads(result.report.read_text())["network"]["precisions"]["FP32"] > 0
    assert told


def test_a_plan_answers_on_every_profile(tmp_path: Path, tensorrt: _tensorrt.Availability) -> None:
    import onnxruntime

    onnx = graphs.mlp(tmp_path)
    small, large = replace(MLP, max={"x": (4, 4)}), replace(MLP, min={"x": (5, 4)}, opt={"x": (8, 4)})
    result = build_plan(request(tmp_path, onnx, small, large), lambda _: None)
    reference = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    with PlanSession(result.plan, QUICK, onnx) as session:
        for count in (1, 4, 5, 8, 3):
            inputs: dict[str, Any] = {"x": np.random.default_rng(count).random((count, 4), np.float32)}
            np.testing.assert_allclose(session.run(inputs)["y"], reference.run(None, inputs)[0], atol=1e-2, rtol=1e-2)
        with pytest.raises(ModelError, match="is not in profile"):
            session.run({"x": np.zeros((9, 4), np.float32)})


def test_an_output_whose_size_depends_on_values(tmp_path: Path, tensorrt: _tensorrt.Availability) -> None:
    from onnx import TensorProto, helper, save

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("NonZero", ["x"], ["y"])], "g", [value("x", TensorProto.FLOAT, [8])],
        [value("y", TensorProto.INT64, [1, "n"])],
    )  # fmt: skip
    onnx = tmp_path / "nonzero.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), onnx)
    fixed = {"x": (8,)}
    result = build_plan(request(tmp_path, onnx, Profile(fixed, fixed, fixed)), lambda _: None)
    with PlanSession(result.plan, QUICK, onnx) as session:
        got = session.run({"x": np.array([0, 1, 0, 2, 3, 0, 0, 4], np.float32)})["y"]
    np.testing.assert_array_equal(got, [[1, 3, 4, 7]])


@pytest.mark.parametrize(
    "options",
    [
        {"workspace_gib": 0.25, "memory_pools": {"tactic_shared_memory_kib": 48, "tactic_dram_gib": 1}},
        {"tf32": False, "strict_nans": True, "max_aux_streams": 0, "avg_timing_iterations": 2},
        {"builder_optimization_level": 5, "tiling_optimization_level": "fast", "max_num_tactics": 4},
        {"refit": "all"},
        {"refit": "identical", "strip_plan": True},
        {"weight_streaming": True},
        {"version_compatible": True},
        {"hardware_compatibility": "ampere_plus"},
        {"timing_cache": "off", "profiling_verbosity": "detailed"},
        {"tactic_sources": ["JIT_CONVOLUTIONS"], "sparsity": True, "native_instancenorm": False},
    ],
    ids="-".join,
)
def test_options_are_taken(tmp_path: Path, tensorrt: _tensorrt.Availability, options: dict[str, Any]) -> None:
    onnx = graphs.cnn(tmp_path)
    shape = (3, 8, 8)
    profile = Profile({"x": (1, *shape)}, {"x": (4, *shape)}, {"x": (8, *shape)})
    chosen = TensorRT.model_validate({"builder_optimization_level": 0, **options})
    result = build_plan(request(tmp_path, onnx, profile, options=chosen), lambda _: None)
    with PlanSession(result.plan, chosen, onnx) as session:
        assert session.run({"x": np.zeros((2, *shape), np.float32)})["y"].shape == (2, 5)


def test_an_option_that_the_version_lacks(tmp_path: Path, tensorrt: _tensorrt.Availability) -> None:
    with pytest.raises(EngineError, match=f"TensorRT {tensorrt.version} has no BuilderFlag.NO_SUCH_FLAG"):
        build_plan(request(tmp_path, graphs.mlp(tmp_path), options=TensorRT(flags=("NO_SUCH_FLAG",))), lambda _: None)


def test_a_node_that_it_does_not_know_is_named(tmp_path: Path, tensorrt: _tensorrt.Availability) -> None:
    onnx = graphs.unknown_operator(tmp_path)
    with pytest.raises(ModelError, match="cannot take the graph") as caught:
        build_plan(request(tmp_path, onnx), lambda _: None)
    assert caught.value.hint


def test_the_timing_cache_makes_the_second_build_quicker(tmp_path: Path, tensorrt: _tensorrt.Availability) -> None:
    onnx, shape = graphs.cnn(tmp_path), (3, 8, 8)
    profile = Profile({"x": (1, *shape)}, {"x": (4, *shape)}, {"x": (8, *shape)})
    options = TensorRT(builder_optimization_level=4)
    first = build_plan(request(tmp_path, onnx, profile, options=options), lambda _: None)
    second = build_plan(request(tmp_path, onnx, profile, options=options), lambda _: None)
    assert (first.notes, second.notes) == ((), ())
    (cache,) = (tmp_path / "cache" / "timing").glob("*.cache")
    assert cache.stat().st_size
    cache.write_bytes(b"rubbish")
    third = build_plan(request(tmp_path, onnx, profile, options=options), lambda _: None)
    assert "begun anew" in third.notes[0]
    sys.stdout.write(f"seconds: {first.seconds:.1f} without, {second.seconds:.1f} with the timing cache\n")


def test_a_time_limit(tmp_path: Path, tensorrt: _tensorrt.Availability) -> None:
    options = TensorRT(builder_optimization_level=5, timing_cache="off", time_limit_s=1)
    with pytest.raises(TritonrepoError, match=r"within 1 s|took more than"):
        build_plan(
            request(tmp_path, graphs.slow(tmp_path), *_profiles_of_slow(tmp_path), options=options), lambda _: None
        )
    assert not (tmp_path / "out" / "model.plan").exists()


def _profiles_of_slow(tmp_path: Path) -> tuple[Profile, ...]:
    from tritonrepo.introspect import introspect

    shapes = {
        each.name: tuple(dim if isinstance(dim, int) else 8 for dim in each.shape)
        for each in introspect(graphs.slow(tmp_path)).inputs
    }
    return (Profile(shapes, shapes, shapes),)


def test_two_builds_at_once_take_turns(tmp_path: Path, tensorrt: _tensorrt.Availability) -> None:
    onnx, failed = graphs.mlp(tmp_path), []

    def run(name: str) -> None:
        asked = replace(request(tmp_path, onnx), output=tmp_path / "out" / name)
        try:
            build_plan(asked, lambda _: None)
        except TritonrepoError as error:
            failed.append(error)

    (tmp_path / "out").mkdir()
    threads = [threading.Thread(target=run, args=(name,)) for name in ("a.plan", "b.plan")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


# ------------------------------------------------------------------ a repository


@pytest.mark.parametrize("graph", [graphs.mlp, graphs.cnn, graphs.two_inputs_two_outputs, graphs.external_data])
def test_a_repository(tmp_path: Path, tensorrt: _tensorrt.Availability, graph: Any) -> None:
    model = graph(tmp_path / "onnx")
    result = built(tmp_path, model)
    (only,) = result.models
    assert only.engine == "tensorrt"
    version = tmp_path / "repository" / model.stem / "1"
    assert (version / "model.plan").stat().st_size
    assert json.loads((version / "model.plan.json").read_text())["tensorrt_version"] == tensorrt.version
    again = built(tmp_path, model)
    assert again.models[0].cached


@pytest.mark.parametrize("precision", ["fp16", "int8", "bf16"])
def test_precisions(tmp_path: Path, tensorrt: _tensorrt.Availability, precision: str) -> None:
    sample = tmp_path / "sample.npz"
    np.savez(sample, x=np.random.default_rng(0).random((8, 3, 8, 8), np.float32))
    built(tmp_path, graphs.cnn(tmp_path / "onnx"), precision=precision, verification={"samples": [str(sample)]})
    described_ = json.loads((tmp_path / "repository" / "cnn" / "1" / "model.plan.json").read_text())
    assert described_["precision"] == precision


def test_profiles_for_latency_and_throughput(tmp_path: Path, tensorrt: _tensorrt.Availability) -> None:
    built(tmp_path, graphs.cnn(tmp_path / "onnx"), profiles="latency+throughput")
    plan = json.loads((tmp_path / "repository" / "cnn" / "1" / "model.plan.json").read_text())
    assert len(plan["profiles"]) == 2
    assert "profile:" in (tmp_path / "repository" / "cnn" / "config.pbtxt").read_text()


def test_rows_that_mix_are_not_batched(tmp_path: Path, tensorrt: _tensorrt.Availability) -> None:
    shapes = {"shapes": {"batch": {"min": 1, "opt": 2, "max": 4}}}
    given = spec(tmp_path, graphs.softmax_over_batch(tmp_path / "onnx"))
    models = tuple(model.model_copy(update=shapes) for model in given.models)
    result = build(given.model_copy(update={"models": models}), BuildOptions(jobs=1), lambda *_: None)
    if result.failures:  # without a batch, its axis needs a range
        assert "range" in str(next(iter(result.failures.values())))
    else:
        assert result.models[0].max_batch_size == 0


def test_what_is_wrong_is_not_published(tmp_path: Path, tensorrt: _tensorrt.Availability) -> None:
    error = failure(
        tmp_path, graphs.cnn(tmp_path / "onnx"), verification={"tolerance": {"atol": 0, "rtol": 0, "of_range": 0}}
    )
    assert "verification failed" in str(error)
