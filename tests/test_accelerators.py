"""Execution accelerators of the ONNX Runtime backend: what is derived, what is refused, what the server's core says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import graphs
from agreement import judge
from agreement.judge import Judge
from tritonrepo import _model_config as mc
from tritonrepo._tensorrt import Availability
from tritonrepo.errors import MissingRangeError, ModelError
from tritonrepo.introspect import introspect
from tritonrepo.plan import Plan, plan
from tritonrepo.prepare import Prepared
from tritonrepo.render import render
from tritonrepo.spec import ModelSpec

HW = {"height": {"min": 8, "opt": 16, "max": 32}, "width": {"min": 8, "max": 64}}


def made(path: Path, *, release: str = "25.10", **settings: Any) -> tuple[Plan, Any, bytes]:
    spec = ModelSpec.model_validate({"name": "m", "onnx": path, "engine": "onnxruntime", **settings})
    signature = introspect(path)
    chosen = plan(
        spec,
        signature,
        Prepared(path, (), (), signature),
        Availability(False, "none here"),
        guess=lambda axes: dict.fromkeys(axes, 8),
        output_shapes=lambda: {each.name: each.shape for each in signature.outputs},
        release=release,
    )
    text = render(spec, signature, chosen, None).model_files["config.pbtxt"]
    assert isinstance(text, bytes)
    return chosen, mc.parse(text.decode()), text


def parameters(config: Any) -> dict[str, str]:
    (only,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    return {"name": only.name, **only.parameters}


def test_none_is_the_default(tmp_path: Path) -> None:
    _, config, _ = made(graphs.mlp(tmp_path))
    assert not config.HasField("optimization")


def test_ranges_become_profile_shapes(tmp_path: Path) -> None:
    chosen, config, _ = made(graphs.dynamic_height_width(tmp_path), accelerator="tensorrt", shapes=HW)
    assert parameters(config) == {
        "name": "tensorrt",
        "trt_profile_min_shapes": "x:1x3x8x8",
        "trt_profile_opt_shapes": "x:8x3x16x64",
        "trt_profile_max_shapes": "x:32x3x32x64",
    }
    assert [group.kind for group in config.instance_group] == [mc.schema().ModelInstanceGroup.KIND_GPU]
    assert chosen.notes == ("TensorRT builds its engines at every load; accelerator_cache keeps them",)


def test_settings_become_parameters_and_given_ones_win(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "accelerator": "tensorrt",
        "accelerator_cache": "/var/cache/engines",
        "accelerator_parameters": {"trt_min_subgraph_size": "5", "trt_builder_optimization_level": "1"},
        "tensorrt": {
            "workspace_gib": 0.5,
            "builder_optimization_level": 4,
            "max_aux_streams": 0,
            "sparsity": True,
            "tf32": False,
        },
        "batching": {"max_batch_size": 4},
    }
    chosen, config, _ = made(graphs.mlp(tmp_path), **settings)
    assert parameters(config) == {
        "name": "tensorrt",
        "max_workspace_size_bytes": "536870912",
        "trt_auxiliary_streams": "0",
        "trt_builder_optimization_level": "1",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "/var/cache/engines",
        "trt_engine_cache_prefix": "m",
        "trt_min_subgraph_size": "5",
        "trt_profile_max_shapes": "x:4x4",
        "trt_profile_min_shapes": "x:1x4",
        "trt_profile_opt_shapes": "x:4x4",
        "trt_sparsity_enable": "1",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": "/var/cache/engines",
    }
    assert chosen.notes == ("TensorRT in ONNX Runtime has no setting for tf32",)


def test_a_further_config_has_its_own_shapes(tmp_path: Path) -> None:
    configs = {"large": {"batching": {"max_batch_size": 64}}}
    chosen, config, _ = made(
        graphs.mlp(tmp_path), accelerator="tensorrt", batching={"max_batch_size": 8}, configs=configs
    )
    assert parameters(config)["trt_profile_max_shapes"] == "x:8x4"
    own: Any = chosen.configs["large"].accelerator
    assert own["parameters"]["trt_profile_max_shapes"] == "x:64x4"


def test_the_accelerator_cuda(tmp_path: Path) -> None:
    given = {"cudnn_conv_use_max_workspace": "0"}
    _, config, _ = made(graphs.mlp(tmp_path), accelerator="cuda", accelerator_parameters=given)
    assert parameters(config) == {"name": "cuda", **given}


def test_fixed_shapes_need_no_profile(tmp_path: Path) -> None:
    _, config, _ = made(graphs.static_batch(tmp_path), accelerator="tensorrt")
    assert parameters(config) == {"name": "tensorrt"}


def test_an_axis_without_a_range_is_not_guessed(tmp_path: Path) -> None:
    assert made(graphs.dynamic_height_width(tmp_path))[0].profiles[0].opt["x"] == (8, 3, 8, 8)
    with pytest.raises(MissingRangeError, match="no range is given for the dynamic axes height, width"):
        made(graphs.dynamic_height_width(tmp_path), accelerator="tensorrt")


@pytest.mark.parametrize(
    ("settings", "release", "words"),
    [
        ({"accelerator_parameters": {"trt_fp16_enable": "1"}}, "25.10", "has no parameter 'trt_fp16_enable'"),
        ({"accelerator_parameters": {"trt_engine_cache_pth": "x"}}, "25.10", "Did you mean trt_engine_cache_path?"),
        ({"accelerator_parameters": {"device_id": "1"}}, "25.10", "the backend sets device_id itself"),
        ({"accelerator_parameters": {"precision_mode": "BF16"}}, "26.01", "release 26.01 knows no precision_mode BF16"),
    ],
)
def test_what_the_backend_would_refuse(settings: dict[str, Any], release: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        made(graphs.mlp(tmp_path), accelerator="tensorrt", release=release, **settings)
    assert words in str(caught.value)


def test_names_that_cannot_be_told(tmp_path: Path) -> None:
    path = graphs.odd_names(tmp_path)
    assert any(":" in tensor.name for tensor in introspect(path).inputs)
    with pytest.raises(ModelError, match="has a colon or comma in its name"):
        made(path, accelerator="tensorrt")


@pytest.mark.server
@pytest.mark.xdist_group("judge")
def test_the_core_takes_them(tmp_path: Path) -> None:
    if judge.missing():
        pytest.skip(judge.missing())
    texts = [
        made(graphs.mlp(tmp_path), accelerator="cuda")[2],
        made(graphs.mlp(tmp_path), accelerator="tensorrt", accelerator_cache="/c", instances=[{"count": 2}])[2],
        made(graphs.dynamic_height_width(tmp_path), accelerator="tensorrt", shapes=HW)[2],
        made(graphs.static_batch(tmp_path), accelerator="tensorrt", tensorrt={"dla": {"core": 1}})[2],
    ]
    with Judge() as server:
        found = server.judge([{"m/config.pbtxt": text, "m/1/model.onnx": b""} for text in texts], gpus=1)
    assert [each.reason for each in found if not each.accepted] == []
