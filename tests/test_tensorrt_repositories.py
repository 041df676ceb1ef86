"""Generated repositories of TensorRT models, held against the checker's rules and the real server's core.

No plan is built: a plan's file holds what comes here, its description (the sidecar) says what a build would have made
of the profiles. `check` compares the config with the description, as the backend would with the plan; the core judges
the config, through a backend that does nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from agreement import judge
from agreement.judge import Judge
from tritonrepo import _model_config as mc
from tritonrepo._tensorrt import Availability
from tritonrepo.check import Target, check_staged
from tritonrepo.introspect import Signature, Tensor, conclude_batch
from tritonrepo.plan import Plan, plan, plan_file
from tritonrepo.prepare import Prepared
from tritonrepo.render import render
from tritonrepo.spec import ModelSpec

IMAGE = Tensor("image", "FP32", ("n", 3, "height", "width"))
IDS, MASK = Tensor("ids", "INT64", ("n", "length")), Tensor("mask", "INT64", ("n", "length"))
ROWS = Tensor("rows", "INT32", ("n",))
ODD = Tensor("gpu_0/data:0", "UINT8", ("n", 4))
FIXED = (Tensor("x", "FP16", (1, 3, 8, 8)), Tensor("threshold", "FP32", (1,)))
SIZE = (Tensor("x", "FP32", (1, 3, "height", "width")), Tensor("size", "INT64", (2,)))
HW = {"height": {"min": 32, "opt": 320, "max": 960}, "width": {"min": 32, "opt": 320, "max": 960}}
LENGTH = {"length": {"min": 1, "opt": 128, "max": 512}}
LISTED = [{"batch": {"min": 1, "max": 2}}, {"batch": {"min": 3, "opt": 8, "max": 8}}]
FLEET = ("8.0", "9.0", "12.0")
EIGHT = {"max_batch_size": 8}

#: name -> inputs, settings, and the fleet.
VARIANTS: Mapping[str, tuple[tuple[Tensor, ...], dict[str, Any], tuple[str, ...]]] = {
    "one profile": ((IMAGE,), {"shapes": HW}, ()),
    "two inputs": ((IDS, MASK), {"shapes": LENGTH}, ()),
    "one number for each row": ((ROWS,), {}, ()),
    "odd names": ((ODD,), {}, ()),
    "BF16": ((Tensor("x", "BF16", ("n", 4)),), {}, ()),
    "no batch": (FIXED, {}, ()),
    "no batch, several instances": (FIXED, {"instances": [{"count": 2}, {"gpus": [0]}]}, ()),
    "shape tensor": (
        SIZE,
        {"shapes": HW, "shape_values": {"size": {"min": [32, 32], "opt": [320, 320], "max": [960, 960]}}},
        (),
    ),
    "latency and throughput": ((IMAGE,), {"shapes": HW, "profiles": "latency+throughput"}, ()),
    "latency and throughput, batch 1": (
        (IMAGE,),
        {"shapes": HW, "profiles": "latency+throughput", "batching": {"max_batch_size": 1}},
        (),
    ),
    "listed": ((IDS, MASK), {"shapes": LENGTH, "profiles": LISTED, "batching": EIGHT}, ()),
    "listed by size": (
        (IMAGE,),
        {
            "shapes": HW,
            "profiles": [
                {"shapes": {"height": {"min": 32, "max": 320}}},
                {"shapes": {"height": {"min": 321, "max": 960}}},
            ],
        },
        (),
    ),
    "fixed sizes": (
        (IMAGE,),
        {
            "profiles": [
                {"shapes": {"image": {"min": [3, size, size], "max": [3, size, size]}}} for size in (224, 384, 512)
            ]
        },
        (),
    ),
    "graphs": ((ODD,), {"cuda_graphs": "auto"}, ()),
    "graphs at the usual size": ((IMAGE,), {"shapes": HW, "cuda_graphs": "auto", "batching": EIGHT}, ()),
    "graphs of two profiles": ((ODD,), {"cuda_graphs": "auto", "profiles": "latency+throughput"}, ()),
    "listed graphs": (
        (IMAGE,),
        {
            "shapes": HW,
            "cuda_graphs": [
                {"batch_size": 4, "lower_batch_size": 2, "inputs": {"image": [3, 64, 64]}},
                {"batch_size": 1},
            ],
        },
        (),
    ),
    "graphs where none can be": (FIXED, {"cuda_graphs": "auto"}, ()),
    "preferred sizes": ((ODD,), {"batching": {**EIGHT, "preferred_batch_sizes": [4, 8]}}, ()),
    "no dynamic batching": ((ODD,), {"batching": {"dynamic": False}}, ()),
    "priorities": (
        (ODD,),
        {
            "profiles": "latency+throughput",
            "batching": {
                "priority_levels": 3,
                "default_priority_level": 2,
                "queue_policy": {"max_queue_size": 100},
                "priority_queue_policies": {1: {"timeout_action": "delay", "default_timeout_us": 1000}},
            },
        },
        (),
    ),
    "priorities, batch 1": ((ODD,), {"batching": {"max_batch_size": 1, "priority_levels": 2}}, ()),
    "kept order": ((ODD,), {"batching": {"preserve_ordering": True}}, ()),
    "no warmup": ((IMAGE,), {"shapes": HW, "warmup": "off"}, ()),
    "listed warmup": (
        (IMAGE,),
        {
            "shapes": HW,
            "warmup": [{"name": "one", "batch_size": 3, "count": 2, "inputs": {"image": {"data": "random"}}}],
        },
        (),
    ),
    "versions": ((ODD,), {"versions": {"all": True}}, ()),
    "cached responses": ((ODD,), {"response_cache": True}, ()),
    "passed through": (
        (ODD,),
        {"config": {"optimization": {"cuda": {"busy_wait_events": True, "output_copy_stream": True}}}},
        (),
    ),
    "passed through beside graphs": (
        (ODD,),
        {"cuda_graphs": "auto", "config": {"optimization": {"cuda": {"busy_wait_events": True}}}},
        (),
    ),
    "fleet": ((IMAGE,), {"shapes": HW}, FLEET),
    "fleet of one": ((ODD,), {}, ("9.0",)),
    "fleet with everything": (
        (IMAGE,),
        {"shapes": HW, "profiles": "latency+throughput", "cuda_graphs": "auto", "instances": [{"count": 2}]},
        FLEET,
    ),
    "configs": (
        (IMAGE,),
        {
            "shapes": HW,
            "batching": EIGHT,
            "configs": {
                "a100": {"gpus": ["sm80"], "batching": {"max_batch_size": 16, "preferred_batch_sizes": [8, 16]}},
                "h200": {"gpus": ["sm90"], "batching": {"max_batch_size": 64}, "profiles": "latency+throughput"},
                "two": {"instances": [{"count": 2}], "config": {"optimization": {"cuda": {"busy_wait_events": True}}}},
            },
        },
        FLEET,
    ),
}  # fmt: skip


def made(
    inputs: tuple[Tensor, ...], settings: Mapping[str, Any], gpus: tuple[str, ...]
) -> tuple[Plan, Signature, ModelSpec]:
    outputs = (Tensor("y", "FP32", (inputs[0].shape[0], 5)),)
    batch, why = conclude_batch(inputs, outputs)
    signature = Signature(Path("m.onnx"), inputs, outputs, {"": 17}, 8, {}, (), 0, batch, why)
    spec = ModelSpec.model_validate({"name": "m", "onnx": "m.onnx", "engine": "tensorrt", **settings})
    chosen = plan(
        spec,
        signature,
        Prepared(Path("m.onnx"), (), (), signature),
        Availability(True, "", "11.1.0.106"),
        guess=lambda axes: None,
        output_shapes=dict,
        gpus=gpus,
    )
    return chosen, signature, spec


def described(chosen: Plan, signature: Signature, gpu: str, content: bytes) -> bytes:
    """The description that a build leaves beside its plan."""
    tensors = [
        {
            "name": tensor.name,
            "io": io,
            "dtype": tensor.dtype,
            "shape": [dim if isinstance(dim, int) else -1 for dim in tensor.shape],
            "shape_tensor": tensor.name in chosen.profiles[0].values,
        }
        for io, group in (("input", signature.inputs), ("output", signature.outputs))
        for tensor in group
    ]
    profiles = [{"min": each.min, "opt": each.opt, "max": each.max} for each in chosen.profiles_for(gpu)]
    return json.dumps(
        {
            "format": 1,
            "tensorrt_version": "11.1.0.106",
            "cuda": "13.2",
            "compute_capability": gpu,
            "size_bytes": len(content),
            "tensors": tensors,
            "profiles": profiles,
        }
    ).encode()


def tree(variant: str) -> dict[str, bytes]:
    """The files of the model m, its further configs among them."""
    inputs, settings, gpus = VARIANTS[variant]
    chosen, signature, spec = made(inputs, settings, gpus)
    rendered = render(spec, signature, chosen, None)
    files = {name: content for name, content in rendered.model_files.items() if isinstance(content, bytes)}
    for gpu in gpus or ("9.0",):
        content = f"the plan for {gpu}".encode()
        name = chosen.plan_file(gpu)
        files |= {f"1/{name}": content, f"1/{name}.json": described(chosen, signature, gpu, content)}
    return files


def as_seen_with(files: Mapping[str, bytes]) -> dict[str, dict[str, bytes]]:
    """The files with each config in the place of config.pbtxt, by the name of the config."""
    named = {
        name: name.removeprefix("configs/").removesuffix(".pbtxt") for name in files if name.startswith("configs/")
    }
    kept = {name: content for name, content in files.items() if name not in named}
    return {"": kept, **{config: {**kept, "config.pbtxt": files[name]} for name, config in named.items()}}


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_rule_is_broken(variant: str, tmp_path: Path) -> None:
    _, settings, gpus = VARIANTS[variant]
    for config, files in as_seen_with(tree(variant)).items():
        wanted = settings.get("configs", {}).get(config, {}).get("gpus", ())
        fleet = [gpu for gpu in gpus or ("9.0",) if not wanted or f"sm{gpu.replace('.', '')}" in wanted]
        for gpu in fleet:
            target = Target(release="26.07", gpus=(gpu, gpu), gpu_count=2)
            others = {plan_file(each) for each in gpus if each != gpu}
            loaded = {name: each for name, each in files.items() if not any(other in name for other in others)}
            found = check_staged(tmp_path, {"m": loaded}, target)
            assert [f"{each.rule}: {each.message}" for each in found] == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_plan_comes_back_from_the_cache_as_it_was(variant: str) -> None:
    chosen, _, _ = made(*VARIANTS[variant])
    adapter = TypeAdapter(Plan)
    stored = json.loads(json.dumps(adapter.dump_python(chosen, mode="json")))
    assert adapter.validate_python(stored) == chosen


def test_the_rules_would_speak(tmp_path: Path) -> None:
    """The same files with a fault of each kind that the derivation is to keep out."""
    files = tree("latency and throughput")
    text = files["config.pbtxt"].decode()
    for wrong in (
        text.replace("max_batch_size: 32", "max_batch_size: 33"),
        text.replace('profile: [ "0", "1" ]', 'profile: [ "0", "2" ]'),
        text.replace("dims: [ 3, -1, -1 ]", "dims: [ 3, 1000, -1 ]"),
    ):
        assert wrong != text
        found = check_staged(tmp_path, {"m": {**files, "config.pbtxt": wrong.encode()}}, Target(release="26.07"))
        assert found


@pytest.mark.server
@pytest.mark.xdist_group("judge")
def test_the_core_loads_them_all() -> None:
    if judge.missing():
        pytest.skip(judge.missing())
    trees = {
        f"{variant} {config}".strip(): {f"m/{name}": content for name, content in files.items()}
        for variant in VARIANTS
        for config, files in as_seen_with(tree(variant)).items()
    }
    # One that is wrong is among them, so that accepting all is no answer.
    wrong = {**trees["one profile"], "m/config.pbtxt": trees["one profile"]["m/config.pbtxt"] + b"max_batch_size: 4\n"}
    with Judge() as server:
        found = dict(zip([*trees, "wrong"], server.judge([*trees.values(), wrong], gpus=2), strict=True))
    refused = {name: f"{each.stage}: {each.reason}" for name, each in found.items() if not each.accepted}
    assert list(refused) == ["wrong"], refused


@pytest.mark.parametrize(
    ("variant", "config", "golden"),
    [
        ("fleet with everything", "config.pbtxt", "fleet_tensorrt"),
        ("configs", "configs/h200.pbtxt", "named_config_tensorrt"),
    ],
)
def test_golden(variant: str, config: str, golden: str) -> None:
    got = tree(variant)[config]
    file = Path(__file__).parent / "golden" / f"{golden}.pbtxt"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_bytes(got)
    assert got.decode() == file.read_bytes().decode()


def test_what_the_configs_say() -> None:
    def config(variant: str, name: str = "config.pbtxt") -> Any:
        return mc.parse(tree(variant)[name].decode())

    fleet = config("fleet")
    assert dict(fleet.cc_model_filenames) == {
        "8.0": "model_sm80.plan",
        "9.0": "model_sm90.plan",
        "12.0": "model_sm120.plan",
    }
    assert not fleet.instance_group[0].profile
    h200 = config("configs", "configs/h200.pbtxt")
    assert (h200.name, h200.max_batch_size, list(h200.instance_group[0].profile)) == ("m", 64, ["2", "3"])
    assert list(h200.dynamic_batching.preferred_batch_size) == [8, 64]
    assert list(config("configs").instance_group[0].profile) == ["0"]
    graphs = config("graphs at the usual size").optimization.cuda
    assert graphs.graphs
    assert [(each.batch_size, each.graph_lower_bound.batch_size) for each in graphs.graph_spec] == [
        (1, 0), (2, 0), (3, 0), (4, 0), (6, 5), (8, 7),
    ]  # fmt: skip
    assert list(graphs.graph_spec[4].input["image"].dim) == [3, 320, 320]
    assert list(graphs.graph_spec[4].graph_lower_bound.input["image"].dim) == [3, 320, 320]
    assert config("passed through beside graphs").optimization.cuda.busy_wait_events
