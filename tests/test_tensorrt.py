"""What is asked of TensorRT, and what is made of its answers, with the recording double in its place.

No plan is built here; tests/gpu does that, on a machine that can.
"""

from __future__ import annotations

import fcntl
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import pytest

import graphs
import tensorrt_double as double
from tritonrepo import _cuda, _tensorrt, _timing_cache
from tritonrepo._plan_build import build_plan
from tritonrepo._plan_errors import Log, ParserFault, build_error, parser_error
from tritonrepo._plan_progress import PlanProgress, Progress
from tritonrepo._plan_session import PlanSession
from tritonrepo.check import _sidecar
from tritonrepo.check.model import DiskFiles, Model
from tritonrepo.errors import EngineError, ModelError, TritonrepoError
from tritonrepo.plan import BuildRequest, BuiltPlan, Profile
from tritonrepo.spec import Dla, MemoryPools, TensorRT

MLP = Profile({"x": (1, 4)}, {"x": (4, 4)}, {"x": (8, 4)})


@pytest.fixture
def log(tensorrt_calls: Path) -> Path:
    """What was asked of the double."""
    return tensorrt_calls


def request(tmp_path: Path, onnx_file: Path | None = None, **changes: Any) -> BuildRequest:
    (tmp_path / "out").mkdir(exist_ok=True)
    asked = BuildRequest(
        model="m",
        onnx=onnx_file or graphs.mlp(tmp_path / "onnx"),
        profiles=(MLP,),
        precision="fp32",
        options=TensorRT(),
        output=tmp_path / "out" / "model.plan",
        cache=tmp_path / "cache",
    )
    return replace(asked, **changes)


def build(asked: BuildRequest) -> BuiltPlan:
    return _tensorrt.build(asked, lambda event: None)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".new-*")]


# ------------------------------------------------------------------ whether it can be used


def test_nothing_is_there() -> None:
    if sys.modules.get("tensorrt"):
        pytest.skip("TensorRT is installed here")
    found = _tensorrt.availability()
    assert not found.ok
    assert "bindings are not installed" in found.reason or "libnvinfer" in found.reason


def test_what_is_there_is_named(log: Path) -> None:
    found = _tensorrt.availability()
    assert found.ok
    assert found.reason == "TensorRT 10.8.0.43, Double (9.0), driver 570.00.00"
    assert (found.version, found.gpus) == ("10.8.0.43", (_cuda.Gpu(0, "Double", "9.0", 1 << 30),))


def test_bindings_without_a_gpu(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORRT_DOUBLE_FAULT", "no gpu")
    found = _tensorrt.availability()
    assert (found.ok, found.version) == (False, "10.8.0.43")
    assert found.reason == "TensorRT 10.8.0.43 is installed, but the driver shows no GPU"


def test_bindings_without_a_driver(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorrt  # noqa: F401, TID251 - the double

    def nothing() -> Any:
        raise EngineError("NVIDIA's driver is not installed (libcuda.so.1 was not found)")

    monkeypatch.setattr(_cuda, "_load", nothing)
    assert "driver is not installed" in _tensorrt.availability().reason


@pytest.mark.parametrize(
    ("version", "said"), [("10.7.0.23", "plans are built with 10.8 to 11.x"), ("12.0.0.1", "11.x")]
)
def test_versions_that_it_is_not_written_for(
    log: Path, monkeypatch: pytest.MonkeyPatch, version: str, said: str
) -> None:
    import tensorrt  # noqa: TID251 - the double

    monkeypatch.setattr(tensorrt, "__version__", version)
    found = _tensorrt.availability()
    assert not found.ok
    assert said in found.reason


def test_bindings_of_another_library(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tensorrt, "_library_version", lambda version: (10, 9, 0))
    assert _tensorrt.availability().reason == "the bindings are those of TensorRT 10.8.0.43, but libnvinfer is 10.9.0"


# ------------------------------------------------------------------ a plan


def test_a_plan(tmp_path: Path, log: Path) -> None:
    small, large = replace(MLP, max={"x": (4, 4)}), replace(MLP, min={"x": (5, 4)}, opt={"x": (8, 4)})
    built = build(request(tmp_path, profiles=(small, large)))
    assert built.plan.read_bytes().startswith(double.PLAN)
    assert (built.tensorrt, built.compute_capability, built.notes) == ("10.8.0.43", "9.0", ())
    # Strongly typed, and no flag of a precision: 1 << STRONGLY_TYPED is all.
    strongly_typed = 1 << int(double.NetworkDefinitionCreationFlag["STRONGLY_TYPED"])
    assert double.calls(log, "create_network") == [["create_network", strongly_typed]]
    assert double.calls(log, "set_flag", "clear_flag") == [["set_flag", "TF32"]]
    assert double.calls(log, "set_shape") == [
        ["set_shape", "x", [1, 4], [4, 4], [4, 4]],
        ["set_shape", "x", [5, 4], [8, 4], [8, 4]],
    ]
    assert leftovers(tmp_path) == []


def test_the_description_is_what_check_reads(tmp_path: Path, log: Path) -> None:
    built = build(request(tmp_path, options=TensorRT(builder_optimization_level=1, plugins=())))
    found = _sidecar.plan(cast("Model", SimpleNamespace(files=DiskFiles(built.plan.parent))), "model.plan")
    assert found is not None
    assert found.tensorrt_version == "10.8.0.43"
    assert (found.compute_capability, found.hardware_compatibility) == ("9.0", "none")
    assert found.size_bytes == built.plan.stat().st_size
    x, y = found.tensors
    assert (x.name, x.is_input, x.data_type, x.shape, x.is_shape, x.linear) == (
        "x",
        True,
        "TYPE_FP32",
        (-1, 4),
        False,
        True,
    )
    assert (y.name, y.is_input, y.shape) == ("y", False, (-1, 3))
    assert [(each.min, each.max) for each in found.profiles] == [({"x": (1, 4)}, {"x": (8, 4)})]
    document = json.loads(built.description.read_text())
    assert document["gpu"] == "Double"
    assert document["driver"] == "570.00.00"
    assert document["options"] == {"builder_optimization_level": 1}
    assert document["profiles"][0]["device_memory_bytes"] == 1000
    assert str(tmp_path) not in built.description.read_text()


def test_a_description_of_shape_values(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORRT_DOUBLE_SHAPE_TENSOR", "size")
    file = resize(tmp_path)
    values = {"size": ((1, 1, 8, 8), (1, 1, 16, 16), (1, 1, 32, 32))}
    shapes = {"x": (1, 1, 8, 8), "size": (4,)}
    profile = Profile(shapes, shapes, shapes, values)
    built = build(request(tmp_path, file, profiles=(profile,)))
    assert double.calls(log, "set_shape_input") == [["set_shape_input", "size", *map(list, values["size"])]]
    described = json.loads(built.description.read_text())
    assert described["tensors"][1]["shape_tensor"] is True
    assert described["profiles"][0]["values"] == {
        "size": {"min": [1, 1, 8, 8], "opt": [1, 1, 16, 16], "max": [1, 1, 32, 32]}
    }


def resize(tmp_path: Path) -> Path:
    """x FP32 [1, 1, 8, 8], size INT64 [4] -> y: x at that size."""
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Resize", ["x", "", "", "size"], ["y"])
    inputs = [value("x", 1, [1, 1, 8, 8]), value("size", 7, [4])]
    graph = onnx.helper.make_graph([node], "resize", inputs, [value("y", 1, ["n", "c", "h", "w"])])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "resize.onnx")
    return tmp_path / "resize.onnx"


def test_a_graph_without_dynamic_axes_needs_no_profile(tmp_path: Path, log: Path) -> None:
    fixed = {"x": (1, 3, 8, 8)}
    file = graphs.static_batch(tmp_path / "onnx")
    shape = tuple(dim.dim_value for dim in onnx.load(file).graph.input[0].type.tensor_type.shape.dim)
    fixed = {"x": shape}
    built = build(request(tmp_path, file, profiles=(Profile(fixed, fixed, fixed),)))
    assert double.calls(log, "add_optimization_profile") == []
    profile = json.loads(built.description.read_text())["profiles"][0]
    assert profile["min"] == profile["max"] == {"x": list(shape)}


def test_the_report(tmp_path: Path, log: Path) -> None:
    built = build(request(tmp_path, options=TensorRT(profiling_verbosity="detailed")))
    assert built.report is not None
    report = json.loads(built.report.read_text())
    assert report["network"]["kinds"] == {"MATRIX_MULTIPLY": 2, "ELEMENTWISE": 1}
    assert report["network"]["precisions"] == report["engine"]["precisions"] == {"FP32": 3}
    assert report["sizes"]["plan"] == built.plan.stat().st_size
    assert report["sizes"]["device_memory_profile_0"] == 1000
    assert report["warnings"] == ["a warning of the double"]


# ------------------------------------------------------------------ options


def test_every_option_reaches_the_builder(tmp_path: Path, log: Path) -> None:
    plugin = tmp_path / "plugin.so"
    pools = MemoryPools(
        tactic_dram_gib=2,
        tactic_shared_memory_kib=64,
        dla_managed_sram_mib=1,
        dla_local_dram_mib=2,
        dla_global_dram_mib=4,
    )
    options = TensorRT(
        workspace_gib=0.5,
        memory_pools=pools,
        builder_optimization_level=5,
        avg_timing_iterations=4,
        max_num_tactics=7,
        tactic_sources=("JIT_CONVOLUTIONS", "EDGE_MASK_CONVOLUTIONS"),
        tiling_optimization_level="moderate",
        l2_limit_for_tiling_mib=1,
        preview_features=("PROFILE_SHARING_0806",),
        editable_timing_cache=True,
        error_on_timing_cache_miss=True,
        tf32=False,
        sparsity=True,
        refit="identical",
        strip_plan=True,
        weight_streaming=True,
        hardware_compatibility="ampere_plus",
        version_compatible=True,
        exclude_lean_runtime=True,
        plugins=(plugin,),
        plugins_in_plan=(plugin,),
        profiling_verbosity="detailed",
        max_aux_streams=0,
        direct_io=True,
        strict_nans=True,
        native_instancenorm=False,
        flags=("MONITOR_MEMORY",),
    )
    built = build(request(tmp_path, options=options))
    limits = dict(call[1:] for call in double.calls(log, "set_memory_pool_limit"))
    assert limits == {
        "WORKSPACE": 1 << 29, "TACTIC_DRAM": 2 << 30, "TACTIC_SHARED_MEMORY": 64 << 10,
        "DLA_MANAGED_SRAM": 1 << 20, "DLA_LOCAL_DRAM": 2 << 20, "DLA_GLOBAL_DRAM": 4 << 20,
    }  # fmt: skip
    assert {name for _, name in double.calls(log, "set_flag")} == {
        "EDITABLE_TIMING_CACHE", "ERROR_ON_TIMING_CACHE_MISS", "SPARSE_WEIGHTS", "REFIT_IDENTICAL", "STRIP_PLAN",
        "WEIGHT_STREAMING", "VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME", "DIRECT_IO", "STRICT_NANS", "MONITOR_MEMORY",
    }  # fmt: skip
    assert double.calls(log, "clear_flag") == [["clear_flag", "TF32"]]
    assert double.calls(log, "parser.clear_flag") == [["parser.clear_flag", "NATIVE_INSTANCENORM"]]
    assert double.calls(log, "set_tactic_sources") == [["set_tactic_sources", 0b11000]]
    assert double.calls(log, "set_preview_feature") == [["set_preview_feature", "PROFILE_SHARING_0806", True]]
    for name, value in (
        ("builder_optimization_level", 5), ("avg_timing_iterations", 4), ("max_num_tactics", 7),
        ("tiling_optimization_level", "MODERATE"), ("l2_limit_for_tiling", 1 << 20), ("max_aux_streams", 0),
        ("profiling_verbosity", "DETAILED"), ("hardware_compatibility_level", "AMPERE_PLUS"),
        ("plugins_to_serialize", [str(plugin)]),
    ):  # fmt: skip
        assert double.calls(log, name) == [[name, value]]
    assert double.calls(log, "load_library") == [["load_library", "plugin.so"]] * 2  # to build, and to look at the plan
    # Such a plan carries code of its own runtime: it was built here, so it may be loaded here.
    assert double.calls(log, "deserialize_cuda_engine") == [["deserialize_cuda_engine", True]]
    described = json.loads(built.description.read_text())
    assert described["version_compatible"] is True
    assert described["hardware_compatibility"] == "ampere_plus"
    assert described["options"]["plugins"] == ["plugin.so"]


def test_an_option_is_passed_on_only_where_it_is_set(tmp_path: Path, log: Path) -> None:
    build(request(tmp_path))
    named = {call[0] for call in double.calls(log)}
    assert named.isdisjoint({
        "set_memory_pool_limit", "builder_optimization_level", "max_num_tactics", "tiling_optimization_level",
        "set_tactic_sources", "set_preview_feature", "hardware_compatibility_level", "max_aux_streams", "DLA_core",
    })  # fmt: skip


@pytest.mark.parametrize(
    ("options", "lacks"),
    [
        (TensorRT(build_route="-a=b"), "build_route"),
        (
            TensorRT(hardware_compatibility="same_compute_capability"),
            "HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY",
        ),
        (TensorRT(flags=("DISTRIBUTIVE_INDEPENDENCE",)), "BuilderFlag.DISTRIBUTIVE_INDEPENDENCE"),
        (TensorRT(preview_features=("NO_SUCH",)), "PreviewFeature.NO_SUCH"),
        (TensorRT(tactic_sources=("CUBLAS_XT",)), "TacticSource.CUBLAS_XT"),
        (
            TensorRT(uint8_asymmetric_quantization_dla=True),
            "OnnxParserFlag.ENABLE_UINT8_AND_ASYMMETRIC_QUANTIZATION_DLA",
        ),
    ],
)
def test_what_the_version_lacks_is_an_error(tmp_path: Path, log: Path, options: TensorRT, lacks: str) -> None:
    with pytest.raises(EngineError, match=rf"^TensorRT 10\.8\.0\.43 has no {lacks}$"):
        try:
            build(request(tmp_path, options=options))
        except EngineError as error:
            raise EngineError(error.message) from error
    assert not (tmp_path / "out" / "model.plan").exists()


def refused(asked: BuildRequest) -> str:
    with pytest.raises(TritonrepoError) as caught:
        build(asked)
    assert not asked.output.exists()
    assert leftovers(asked.output.parent) == []
    return str(caught.value)


def test_dla(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "has 0 DLA cores" in refused(request(tmp_path, options=TensorRT(dla=Dla(core=1))))
    monkeypatch.setattr(double.Builder, "num_DLA_cores", 2)
    build(request(tmp_path, options=TensorRT(dla=Dla(core=1))))
    assert double.calls(log, "default_device_type", "DLA_core") == [["default_device_type", "DLA"], ["DLA_core", 1]]
    assert ["set_flag", "GPU_FALLBACK"] in double.calls(log, "set_flag")


def test_a_plan_for_another_system_cannot_be_proven(tmp_path: Path, log: Path) -> None:
    assert "cannot be proven here" in refused(request(tmp_path, options=TensorRT(runtime_platform="windows_amd64")))


# ------------------------------------------------------------------ what was asked for, and what is here


def test_another_tensorrt_than_that_of_the_release(tmp_path: Path, log: Path) -> None:
    said = refused(request(tmp_path, expected_tensorrt="11.1.0.106"))
    assert "loads plans of TensorRT 11.1.0.106 only, here is 10.8.0.43" in said
    assert "--in docker" in said
    assert double.calls(log) == []  # said before anything was built
    options = TensorRT(version_compatible=True)
    build(request(tmp_path, expected_tensorrt="11.1.0.106", options=options))
    build(request(tmp_path, expected_tensorrt="10.8.0.43"))


def test_another_gpu(tmp_path: Path, log: Path) -> None:
    said = refused(request(tmp_path, expected_capability="8.0"))
    assert "compute capability 8.0 was asked for, GPU 0 is Double (9.0)" in said
    assert "CUDA shows 1 GPUs" in refused(request(tmp_path, options=TensorRT(gpu=1)))
    build(request(tmp_path, expected_capability="9.0"))


def half(tmp_path: Path) -> Path:
    """The mlp with FP16 inside and FP32 outside."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    (tmp_path / "half").mkdir(exist_ok=True)
    model = convert_float_to_float16(onnx.load(graphs.mlp(tmp_path / "half")), keep_io_types=True)
    onnx.save(model, tmp_path / "half" / "half.onnx")
    return tmp_path / "half" / "half.onnx"


def test_precision_that_was_asked_for_and_is_not_there(tmp_path: Path, log: Path) -> None:
    said = refused(request(tmp_path, precision="fp16"))
    assert "none of the 2 layers that count computes in FP16 (they give FP32)" in said
    assert double.calls(log, "build_serialized_network") == []  # before the minutes, not after
    assert "none of the 2 layers" in refused(request(tmp_path, precision="int8"))
    built = build(request(tmp_path, half(tmp_path), precision="fp16"))
    assert json.loads(built.description.read_text())["precision"] == "fp16"


def test_precision_that_the_plan_does_not_have(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        double.EngineInspector,
        "get_engine_information",
        lambda self, _: '{"Layers": [{"Outputs": [{"Format/Datatype": "Row major linear FP32"}]}]}',
    )
    said = refused(request(tmp_path, half(tmp_path), precision="fp16"))
    assert "no layer of the plan has it: 1 of FP32" in said


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Row major linear FP32", {"FP32": 1}),
        ("Channel major FP16 format where channel % 8 == 0", {"FP16": 1}),
        ("Half", {"FP16": 1}),
        ("Float", {"FP32": 1}),
        ("BFloat16", {"BF16": 1}),
        ("Thirty-two wide channel vectorized row major Int8 format", {"INT8": 1}),
        ("N/A due to dynamic shapes", {}),
    ],
)
def test_types_in_the_inspectors_words(text: str, found: dict[str, int]) -> None:
    from tritonrepo._plan_sidecar import precisions

    assert precisions(json.dumps({"Layers": [{"Outputs": [{"Format/Datatype": text}]}]})) == found
    assert precisions('{"Layers": ["a name"]}') == precisions("no JSON") == precisions("[]") == {}


def test_shape_tensors_and_their_values(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = resize(tmp_path)
    shapes = {"x": (1, 1, 8, 8), "size": (4,)}
    plain = Profile(shapes, shapes, shapes)
    valued = replace(plain, values={"size": ((1, 1, 8, 8),) * 3})
    assert "whose values are no shapes" in refused(request(tmp_path, file, profiles=(valued,)))
    monkeypatch.setenv("TENSORRT_DOUBLE_SHAPE_TENSOR", "size")
    said = refused(request(tmp_path, file, profiles=(plain,)))
    assert "the values of input size are shapes" in said
    assert "shape_values:\n        size: {min: [...], opt: [...], max: [...]}" in said


# ------------------------------------------------------------------ what goes wrong


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("parse", "TensorRT cannot take the graph: node 0 (Gemm): no such type: DOUBLE; node 1 (Relu)"),
        ("file", "TensorRT cannot read the ONNX file"),
        ("memory", "TensorRT built no plan: [virtualMemoryBuffer.cpp::resize] Error Code 2: OutOfMemory"),
        ("builder", "TensorRT makes no builder: CUDA initialization failure with error: 35"),
        ("plugin", "TensorRT cannot load the plugin library"),
        ("engine", "TensorRT cannot load the plan: the serialization header is wrong"),
    ],
)
def test_faults(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch, fault: str, said: str) -> None:
    monkeypatch.setenv("TENSORRT_DOUBLE_FAULT", fault)
    message = refused(request(tmp_path, options=TensorRT(plugins=(tmp_path / "p.so",))))
    assert said in message
    assert "\n  " in message  # each says what to do


def test_a_profile_that_is_refused(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(double.IBuilderConfig, "add_optimization_profile", lambda self, profile: -1)
    assert "TensorRT refuses profile 0" in refused(request(tmp_path))


def test_a_profile_without_an_input(tmp_path: Path, log: Path) -> None:
    assert "profile 0 says nothing of input x" in refused(request(tmp_path, profiles=(Profile({}, {}, {}),)))


@pytest.mark.parametrize(
    ("operator", "code", "reason", "hint"),
    [
        ("NonMaxSuppression", "UNSUPPORTED_NODE", "", "model of its own"),
        ("SequenceAt", "UNSUPPORTED_NODE", "No importer registered for op: SequenceAt", "no sequences"),
        ("Foo", "UNSUPPORTED_NODE", "No importer registered for op: Foo", "plugin library"),
        ("Cast", "UNSUPPORTED_NODE_DATATYPE", "DOUBLE", "Cast its inputs"),
        ("Slice", "UNSUPPORTED_NODE_DYNAMIC", "starts must be constant", "Fold constants"),
        ("Conv", "INTERNAL_ERROR", "odd", "engine: onnxruntime"),
    ],
)
def test_what_to_do_about_a_node(operator: str, code: str, reason: str, hint: str) -> None:
    error = parser_error("m", Path("m.onnx"), [ParserFault(3, "n", operator, code, reason)], Log())
    assert f"node 3 'n' ({operator})" in error.message
    assert hint in str(error.hint)


def test_many_faults_are_counted() -> None:
    faults = [ParserFault(number, "", "Foo", "UNSUPPORTED_NODE", "why", ("outer", "inner")) for number in range(9)]
    message = parser_error("m", Path("m.onnx"), faults, Log()).message
    assert message.endswith("; and 4 more")
    assert "node 0 (Foo) in outer > inner: why" in message


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("Error Code 10: Could not find any implementation for node Conv_3", "keep the layer in FP32"),
        ("Requested amount of GPU memory (1 bytes) could not be allocated: out of memory", "workspace_gib lower"),
        ("Dynamic dimension: x has kMIN 1 > kOPT", "shapes:"),
        ("CUDA initialization failure with error: 35", "update it"),
        ("something else", "builder_optimization_level"),
    ],
)
def test_what_to_do_about_a_failed_build(text: str, hint: str) -> None:
    log = Log()
    log.add("WARNING", "first")
    log.add("ERROR", text)
    error = build_error("m", Path("m.onnx"), log)
    assert text in error.message
    assert hint in str(error.hint)


# ------------------------------------------------------------------ the timing cache


def the_cache(tmp_path: Path) -> Path:
    (found,) = (tmp_path / "cache" / "timing").glob("*.cache")
    return found


def test_a_timing_cache_is_kept_and_used(tmp_path: Path, log: Path) -> None:
    build(request(tmp_path))
    assert the_cache(tmp_path).name == "10.8.0.43_Double-9.0_570.00.00.cache"
    log.unlink()
    build(request(tmp_path))
    assert double.calls(log, "set_timing_cache") == [["set_timing_cache", ["h", "r", "y"], False]]
    assert leftovers(tmp_path) == []


def test_a_timing_cache_of_ones_own_and_none(tmp_path: Path, log: Path) -> None:
    own = tmp_path / "own.cache"
    build(request(tmp_path, options=TensorRT(timing_cache=own)))
    assert own.stat().st_size
    log.unlink()
    build(request(tmp_path, options=TensorRT(timing_cache="off")))
    assert ["set_flag", "DISABLE_TIMING_CACHE"] in double.calls(log, "set_flag")
    assert double.calls(log, "create_timing_cache") == []
    assert not (tmp_path / "cache" / "timing").exists()


@pytest.mark.parametrize("content", [b"rubbish", b"\0" * 1000])
def test_a_damaged_timing_cache_is_begun_anew(tmp_path: Path, log: Path, content: bytes) -> None:
    build(request(tmp_path))
    the_cache(tmp_path).write_bytes(content)
    built = build(request(tmp_path))
    assert "begun anew" in built.notes[0]
    assert build(request(tmp_path)).notes == ()


def test_a_timing_cache_that_cannot_be_saved(tmp_path: Path, log: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("where the folder should be")
    built = build(request(tmp_path, options=TensorRT(timing_cache=blocked / "x.cache")))
    assert "the timing cache could not be saved" in built.notes[0]
    assert built.plan.exists()


def test_builds_that_end_together_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c"

    def add(number: int) -> None:
        def merge(current: bytes) -> bytes:
            time.sleep(0.01)
            return current + bytes([number])

        _timing_cache.save(path, merge)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.read_bytes()) == list(range(8))


def test_what_others_saved_meanwhile_is_merged(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(request(tmp_path))
    other = double.ITimingCache({"from another build"}).serialize()
    build_network = double.Builder.build_serialized_network

    def meanwhile(self: Any, network: Any, config: Any) -> Any:
        the_cache(tmp_path).write_bytes(other)
        return build_network(self, network, config)

    monkeypatch.setattr(double.Builder, "build_serialized_network", meanwhile)
    build(request(tmp_path))
    kept = the_cache(tmp_path).read_bytes()
    assert b"from another build" in kept
    assert b'"y"' in kept


# ------------------------------------------------------------------ progress, limits, the worker


def test_progress_is_one_line_of_nested_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tritonrepo._plan_progress._PAUSE", 0)
    told: list[PlanProgress] = []
    progress = Progress(told.append)
    progress.start("outer", 4)
    progress.step("outer", 1)
    progress.start("inner", 2)
    progress.step("inner", 0)
    progress.finish("inner")
    progress.step("outer", 2)
    assert [(each.phase, each.fraction) for each in told] == [
        ("outer", 0), ("outer", 0.5), ("inner", 0.5), ("inner", 0.625), ("outer", 0.75),
    ]  # fmt: skip
    assert str(told[-1]) == "outer (75%)"


def test_a_build_ends_when_nobody_listens() -> None:
    def gone(_: object) -> None:
        raise BrokenPipeError

    progress = Progress(gone)
    progress.start("phase", 10)
    assert progress.step("phase", 0) is False
    assert progress.stopped == "alone"


def test_a_worker_builds(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[PlanProgress] = []
    built = build_plan(request(tmp_path), told.append)
    assert built.plan.exists()
    assert built.description.exists()
    assert told[0].phase == "Building engine"


def test_a_worker_hands_errors_on(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORRT_DOUBLE_FAULT", "parse")
    with pytest.raises(ModelError, match="cannot take the graph"):
        build_plan(request(tmp_path), lambda event: None)


@pytest.mark.parametrize(
    ("fault", "options", "said", "hint"),
    [
        ("kill", TensorRT(), "was killed, most likely for want of memory", "--jobs 1"),
        ("crash", TensorRT(), "crashed (Aborted)", "Another TensorRT release"),
        ("hang", TensorRT(time_limit_s=1), "it took more than 2 s", "time_limit_s"),
        ("greedy", TensorRT(memory_limit_gib=0.25), "it took more than 0.25 GiB of memory", "memory_limit_gib"),
        ("slow", TensorRT(time_limit_s=1), "was not built within 1 s", "time_limit_s"),
    ],
)
def test_a_worker_that_ends_badly(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch, fault: str, options: TensorRT, said: str, hint: str
) -> None:
    monkeypatch.setenv("TENSORRT_DOUBLE_FAULT", fault)
    monkeypatch.setattr("tritonrepo._plan_build._GRACE", 1.0 if fault == "hang" else 30.0)
    asked = request(tmp_path, options=options)
    with pytest.raises(TritonrepoError) as caught:
        build_plan(asked, lambda event: None)
    assert said in caught.value.message
    assert hint in str(caught.value.hint)
    assert not asked.output.exists()
    if fault == "slow":
        assert double.calls(log, "cancelled")  # the monitor said so, and TensorRT ended by itself
        assert the_cache(tmp_path).exists()  # what was measured is not lost


def test_one_plan_at_a_time_on_a_gpu(tmp_path: Path, log: Path) -> None:
    (tmp_path / "cache").mkdir()
    with (tmp_path / "cache" / "gpu0.lock").open("w") as other_build:
        fcntl.flock(other_build, fcntl.LOCK_EX)
        told: list[str] = []

        def heard(event: PlanProgress) -> None:
            told.append(event.phase)
            if len(told) == 1:
                assert not log.exists()
                fcntl.flock(other_build, fcntl.LOCK_UN)

        build_plan(request(tmp_path), heard)
    assert told[:2] == ["waiting for GPU 0, on which another plan is built", "Building engine"]


# ------------------------------------------------------------------ running a plan


@pytest.fixture
def session(tmp_path: Path, log: Path) -> Callable[..., PlanSession]:
    def make(options: TensorRT | None = None, **changes: Any) -> PlanSession:
        asked = request(tmp_path, options=options or TensorRT(), **changes)
        return PlanSession(build(asked).plan, asked.options, asked.onnx)

    return make


def rows(count: int) -> Mapping[str, Any]:
    return {"x": np.random.default_rng(1).random((count, 4), np.float32)}


def expected(tmp_path: Path, inputs: Mapping[str, Any]) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "mlp.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, dict(inputs))[0]


def test_a_plan_answers(tmp_path: Path, session: Callable[..., PlanSession]) -> None:
    with session() as plan:
        for count in (1, 3, 8):
            got = plan.run(rows(count))
            assert set(got) == {"y"}
            np.testing.assert_allclose(got["y"], expected(tmp_path, rows(count)), rtol=1e-5)
        assert plan._device._memory == set()  # what a run took is given back
        with pytest.raises(ModelError, match=r"input x \[9, 4\] is not in profile 0"):
            plan.run(rows(9))
        assert plan._device._memory == set()


def test_the_profile_is_the_one_that_the_server_takes(log: Path, session: Callable[..., PlanSession]) -> None:
    small = Profile({"x": (1, 4)}, {"x": (1, 4)}, {"x": (4, 4)})
    large = Profile({"x": (1, 4)}, {"x": (8, 4)}, {"x": (8, 4)})
    with session(profiles=(small, large)) as plan:
        log.unlink()
        for count in (1, 4, 5, 8):
            plan.run(rows(count))
        plan.profile = 1
        plan.run(rows(1))
    assert [call[1] for call in double.calls(log, "set_optimization_profile_async")] == [0, 0, 1, 1, 1]


def test_an_output_whose_size_is_not_known(
    tmp_path: Path, session: Callable[..., PlanSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORRT_DOUBLE_UNSIZED", "y")
    with session() as plan:
        np.testing.assert_allclose(plan.run(rows(2))["y"], expected(tmp_path, rows(2)), rtol=1e-5)
        assert plan._device._memory == set()


def test_a_plan_without_weights_gets_them_back(log: Path, session: Callable[..., PlanSession]) -> None:
    with session(TensorRT(strip_plan=True)) as plan:
        plan.run(rows(1))
    assert double.calls(log, "refit_from_file", "refit_cuda_engine") == [
        ["refit_from_file", "mlp.onnx"], ["refit_cuda_engine"]
    ]  # fmt: skip


def test_a_plan_with_a_shape_tensor(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORRT_DOUBLE_SHAPE_TENSOR", "size")
    file = resize(tmp_path)
    shapes = {"x": (1, 1, 8, 8), "size": (4,)}
    profile = Profile(shapes, shapes, shapes, {"size": ((1, 1, 8, 8), (1, 1, 16, 16), (1, 1, 32, 32))})
    built = build(request(tmp_path, file, profiles=(profile,)))
    with PlanSession(built.plan, TensorRT(), file) as plan:
        inputs: dict[str, Any] = {"x": np.ones((1, 1, 8, 8), np.float32), "size": np.array([1, 1, 16, 8], np.int64)}
        assert plan.run(inputs)["y"].shape == (1, 1, 16, 8)


def test_a_run_that_fails(session: Callable[..., PlanSession], monkeypatch: pytest.MonkeyPatch) -> None:
    with session() as plan:
        monkeypatch.setenv("TENSORRT_DOUBLE_FAULT", "run")
        with pytest.raises(ModelError, match=r"does not run on x \[2, 4\]"):
            plan.run(rows(2))
        with pytest.raises(ModelError, match="input x is float64 in the model and FP32 in the plan"):
            plan.run({"x": np.ones((1, 4))})
