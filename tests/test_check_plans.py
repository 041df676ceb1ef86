"""Rules that hold configs against TensorRT plans (TR9xx), through what a build says of a plan."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tritonrepo.check import BLOCKING, Target, check_staged

CONFIG = """
backend: "tensorrt"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [ 3, -1 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 5 ] }
"""
PLAN = b"a plan"
SERVER = Target(release="26.07", gpus=("9.0",), gpu_count=1)


def profile(least: int, most: int, width: tuple[int, int] = (64, 512)) -> dict[str, dict[str, list[int]]]:
    low, high = {"x": [least, 3, width[0]]}, {"x": [most, 3, width[1]]}
    return {"min": low, "opt": high, "max": high}


DESCRIBED: Mapping[str, Any] = {
    "format": 1,
    "tensorrt_version": "11.1.0.106",
    "compute_capability": "9.0",
    "size_bytes": len(PLAN),
    "tensors": [
        {"name": "x", "io": "input", "dtype": "FP32", "shape": [-1, 3, -1]},
        {"name": "y", "io": "output", "dtype": "FP32", "shape": [-1, 5]},
    ],
    "profiles": [profile(1, 8)],
}
STATIC: Mapping[str, Any] = {
    "tensors": [
        {"name": "x", "io": "input", "dtype": "FP32", "shape": [1, 3, 64]},
        {"name": "y", "io": "output", "dtype": "FP32", "shape": [1, 5]},
    ],
    "profiles": [profile(1, 1, (64, 64))],
}
RECURRENT = [
    *DESCRIBED["tensors"],
    {"name": "start", "io": "input", "dtype": "INT32", "shape": [-1, 1]},
    {"name": "h", "io": "input", "dtype": "FP32", "shape": [-1, 4]},
    {"name": "h_next", "io": "output", "dtype": "FP32", "shape": [-1, 4]},
]
SEQUENCE = """
sequence_batching {
  control_input { name: "start" control { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } }
  state { input_name: "h" output_name: "h_next" data_type: TYPE_FP32 dims: 4 }
}
"""
GROUP = "instance_group {{ kind: KIND_GPU profile: [ {} ] }}"


def rules(config: str = CONFIG, target: Target = SERVER, plan: bytes = PLAN, **described: Any) -> set[str]:
    """The rules that speak against a model with a plan."""
    files = {
        "config.pbtxt": config,
        "1/model.plan": plan,
        "1/model.plan.json": json.dumps({**DESCRIBED, **described}),
    }
    return {each.rule for each in check_staged(Path("/none"), {"m": files}, target) if each.severity in BLOCKING}


def recurrent(config: str) -> set[str]:
    added = {"h": [8, 4], "start": [8, 1]}
    profiles = [{side: {**shapes, **added} for side, shapes in profile(1, 8).items()}]
    profiles[0]["min"] = {"x": [1, 3, 64], "h": [1, 4], "start": [1, 1]}
    return rules(config, tensors=RECURRENT, profiles=profiles)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("", "", set()),
        ('"x"', '"image"', {"TR905"}),
        ('name: "x"', 'name: "y"', {"TR905"}),
        ("FP32", "FP16", {"TR906"}),
        ("[ 3, -1 ]", "[ 3, 64 ]", set()),
        ("[ 3, -1 ]", "[ 3, 32 ]", {"TR908"}),
        ("[ 3, -1 ]", "[ 4, -1 ]", {"TR907", "TR908"}),
        ("[ 3, -1 ]", "[ -1, -1 ]", set()),
        ("[ 5 ]", "[ -1 ]", set()),
        ("[ 5 ]", "[ 6 ]", {"TR907"}),
        ("max_batch_size: 8", "max_batch_size: 9", {"TR909"}),
        ("max_batch_size: 8", "max_batch_size: 3", set()),
        # The dims lack the batch axis: the backend batches by what the plan can.
        ("max_batch_size: 8", "", set()),
        ("max_batch_size: 8\n", 'instance_group { kind: KIND_GPU profile: "1" }\n', {"TR910"}),
        ("[ 5 ] }", "[ 5 ] is_shape_tensor: true }", {"TR913"}),
        ("[ 5 ] }", "[ 5 ] }\noptimization { cuda { graphs: true graph_spec { batch_size: 9 } } }", {"TR912"}),
        ("[ 5 ] }", "[ 5 ] }\noptimization { cuda { graph_spec { batch_size: 9 } } }", set()),
    ],
)
def test_configs(old: str, new: str, expected: set[str]) -> None:
    assert rules(CONFIG.replace(old, new, 1)) == expected


def test_whole_shapes_without_a_batch() -> None:
    config = CONFIG.replace("max_batch_size: 8", "").replace("[ 3, -1 ]", "[ -1, 3, -1 ]").replace("[ 5 ]", "[ -1, 5 ]")
    assert rules(config) == set()
    assert rules(config.replace("[ -1, 3, -1 ]", "[ 9, 3, -1 ]")) == {"TR908"}
    assert rules(config.replace("backend", "max_batch_size: 4 backend")) == {"TR907"}


def test_a_plan_of_fixed_shapes() -> None:
    config = CONFIG.replace("[ 3, -1 ]", "[ 3, 64 ]")
    assert rules(config, **STATIC) == {"TR909"}
    assert rules(config.replace("max_batch_size: 8", "max_batch_size: 1"), **STATIC) == set()


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        (GROUP.format('"0"'), {"TR911"}),
        (GROUP.format('"1"'), {"TR909"}),
        (GROUP.format('"0", "1"'), set()),
        (GROUP.format('"1"') + GROUP.format('"0"'), {"TR911"}),
        (GROUP.format('"2"'), {"TR910"}),
        ("", {"TR911"}),
    ],
)
def test_profiles_that_are_selected(group: str, expected: set[str]) -> None:
    """The first has batches of 4 to 8, the second of 1 to 3."""
    assert rules(CONFIG + group, profiles=[profile(4, 8), profile(1, 3)]) == expected


def test_a_fixed_dim_must_be_in_each_profile() -> None:
    profiles = [profile(1, 8, (64, 128)), profile(1, 8, (256, 512))]
    config = CONFIG.replace("[ 3, -1 ]", "[ 3, 128 ]")
    assert rules(config, profiles=profiles) == set()
    assert rules(config + GROUP.format('"0", "1"'), profiles=profiles) == {"TR908"}


@pytest.mark.parametrize(
    ("version", "compatible", "release", "expected"),
    [
        ("11.1.0.106", False, "26.07", set()),
        ("11.1.0", False, "26.07", set()),
        ("11.1.0.107", False, "26.07", {"TR903"}),
        ("11.0.0.1", True, "26.07", set()),
        ("11.2.0.1", True, "26.07", {"TR903"}),
        ("10.8.0.43", True, "26.07", {"TR903"}),
        ("10.8.0.43", False, "25.03", set()),  # which 10.x it has is not known
        ("11.1.0.106", False, "25.03", {"TR903"}),
        ("eleven", False, "26.07", set()),
        ("10.8.0.43", False, "99.01", set()),
    ],
)
def test_the_version_of_tensorrt(version: str, compatible: bool, release: str, expected: set[str]) -> None:
    target = Target(release=release)
    assert rules(target=target, tensorrt_version=version, version_compatible=compatible) == expected


@pytest.mark.parametrize(
    ("gpus", "built", "compatibility", "group", "expected"),
    [
        (None, "7.5", "none", "", set()),
        (("9.0",), "9.0", "none", "", set()),
        (("8.6", "9.0"), "9.0", "none", "", {"TR904"}),
        (("8.6", "9.0"), "9.0", "none", "instance_group { kind: KIND_GPU gpus: 1 }", set()),
        (("8.6", "9.0"), "8.0", "ampere_plus", "", set()),
        (("7.5",), "8.0", "ampere_plus", "", {"TR904"}),
        ((), "9.0", "none", "", {"TR901"}),
    ],
)
def test_the_gpu(gpus: tuple[str, ...] | None, built: str, compatibility: str, group: str, expected: set[str]) -> None:
    target = Target(release="26.07", gpus=gpus, gpu_count=None if gpus is None else len(gpus))
    assert rules(CONFIG + group, target, compute_capability=built, hardware_compatibility=compatibility) == expected


def test_plans_for_several_gpus() -> None:
    files = {"config.pbtxt": CONFIG + 'cc_model_filenames { key: "8.6" value: "small.plan" }'}
    for name, built in (("model", "9.0"), ("small", "8.6")):
        files[f"1/{name}.plan"] = PLAN.decode()
        files[f"1/{name}.plan.json"] = json.dumps({**DESCRIBED, "compute_capability": built})

    def found(gpus: tuple[str, ...] | None) -> list[str]:
        target = Target(release="26.07", gpus=gpus)
        findings = check_staged(Path("/none"), {"m": files}, target)
        return [each.file.name for each in findings if each.rule == "TR904"]

    assert found(("8.6", "9.0")) == []
    assert found(("8.6", "8.9")) == ["model.plan"]
    files["1/small.plan.json"] = json.dumps({**DESCRIBED, "compute_capability": "8.9"})
    assert found(("9.0",)) == []
    assert found(("8.6",)) == ["small.plan"]
    assert found(None) == ["small.plan"]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("", "", set()),
        ('name: "start"', 'name: "begin"', {"TR905"}),
        ("int32_false_true", "fp32_false_true", {"TR906"}),
        ("dims: 4", "dims: 5", {"TR907", "TR908"}),
        ('input_name: "h"', 'input_name: "g"', {"TR905"}),
    ],
)
def test_controls_and_states(old: str, new: str, expected: set[str]) -> None:
    assert recurrent(CONFIG + SEQUENCE.replace(old, new)) == expected
    assert "TR905" in recurrent(CONFIG)


def test_a_plan_that_is_not_the_one_described() -> None:
    """Nothing else is said: the description is of another plan."""
    assert rules(CONFIG.replace("FP32", "FP16"), plan=PLAN[:-1]) == {"TR902"}


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"tensors": 5},
        {"tensors": [{"name": "x"}]},
        {"tensors": [{"name": "x", "io": "inout", "dtype": "FP32", "shape": [1]}]},
        {"profiles": [{"min": {}}]},
        {"profiles": [[]]},
        {"size_bytes": "many"},
        {"size_bytes": None},
    ],
)
def test_a_description_that_is_none(changes: dict[str, Any]) -> None:
    assert rules(CONFIG.replace("FP32", "FP16"), **changes) == set()


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"format": 1}', "\udcff"])
def test_a_sidecar_that_is_no_json(text: str) -> None:
    files = {"config.pbtxt": CONFIG, "1/model.plan": PLAN, "1/model.plan.json": text.encode("utf-8", "surrogateescape")}
    findings = check_staged(Path("/none"), {"m": files}, SERVER)
    assert [each.rule for each in findings if each.severity in BLOCKING] == []


def test_stub_backends_look_at_no_plan() -> None:
    target = Target(release="26.07", only_core=True)
    assert rules(CONFIG.replace("FP32", "FP16"), target) == set()


def test_gpus_that_the_release_does_not_run_on() -> None:
    old = Target(release="26.07", gpus=("7.0",), gpu_count=1)
    assert rules(CONFIG, old, compute_capability="7.0") == {"TR914"}
    assert rules(CONFIG, Target(release="24.10", gpus=("7.0",)), compute_capability="7.0") == {"TR903"}
