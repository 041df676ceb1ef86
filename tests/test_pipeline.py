"""A step runs again when, and only when, something that it depends on changed."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphs
from tritonrepo import fingerprint
from tritonrepo import prepare as preparation
from tritonrepo.errors import ModelError, VerificationError
from tritonrepo.introspect import introspect
from tritonrepo.pipeline import Built, Event, Task, build_model
from tritonrepo.prepare import Change, Prepared
from tritonrepo.spec import ModelSpec

STEPS = ["introspect", "prepare", "plan", "verify", "render"]


class World:
    """One model with a sample, a label file and templates, built again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.onnx = graphs.external_data(folder)
        self.sample = folder / "sample.npz"
        np.savez(self.sample, x=np.ones((2, 4), np.float32))
        self.labels = folder / "labels.txt"
        self.labels.write_text("a\nb\nc\n")
        self.templates = folder / "templates"
        self.templates.mkdir()
        self.settings: dict[str, Any] = {"verification": {"samples": [self.sample]}, "labels": {"y": self.labels}}
        self.settle()

    def settle(self) -> None:
        then = time.time_ns() - 10**10
        for file in self.folder.rglob("*"):
            if file.is_file() and "cache" not in file.parts:
                os.utime(file, ns=(then, then))

    def task(self) -> Task:
        model = ModelSpec.model_validate({"name": "m", "onnx": self.onnx, **self.settings})
        return Task(model, self.folder / "repository", self.folder / "cache", self.templates, "26.09")

    def build(self) -> tuple[Built, list[str]]:
        events: list[Event] = []
        built = build_model(self.task(), events.append)
        return built, [event.step for event in events if event.status == "start" and event.step != "check"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    assert world.build()[1] == STEPS
    built, ran = world.build()
    assert (built.cached, ran) == (True, [])
    return world


def set_(**settings: Any) -> Callable[[World], None]:
    return lambda world: world.settings.update(settings)


def change_weights_in_the_model(world: World) -> None:
    model = onnx.load(world.onnx, load_external_data=False)
    model.doc_string = "changed"
    onnx.save(model, world.onnx)


def change_external_data(world: World) -> None:
    data = world.onnx.with_suffix(".bin")
    content = bytearray(data.read_bytes())
    content[2] ^= 1
    data.write_bytes(content)


def change_sample(world: World) -> None:
    np.savez(world.sample, x=np.zeros((2, 4), np.float32))


def change_labels(world: World) -> None:
    world.labels.write_text("x\ny\nz\n")


def change_template(world: World) -> None:
    original = Path(__file__).parents[1] / "templates" / "tritonrepo_templates" / "config.pbtxt.j2"
    (world.templates / "config.pbtxt.j2").write_text("# ours\n" + original.read_text())


@pytest.mark.parametrize(
    ("change", "ran"),
    [
        (lambda world: None, []),
        (lambda world: world.settle(), []),
        (change_weights_in_the_model, STEPS),
        (change_external_data, ["introspect", "prepare", "plan", "verify"]),
        (change_sample, ["verify"]),
        (change_labels, ["render"]),
        (change_template, ["render"]),
        (set_(verification={"seed": 1}), ["verify", "render"]),
        (set_(batching={"max_batch_size": 4}), ["plan", "verify", "render"]),
        (set_(batching={"max_queue_delay_us": 7}), ["plan", "render"]),
        (set_(instances=[{"count": 2}]), ["render"]),
        (set_(versions={"all": True}), ["render"]),
        (set_(warmup="off"), ["render"]),
        (set_(config={"parameters": {"k": {"string_value": "v"}}}), ["render"]),
        (set_(engine="onnxruntime"), ["plan", "render"]),
    ],
)
def test_what_runs_again(change: Callable[[World], None], ran: list[str], world: World) -> None:
    change(world)
    assert world.build()[1] == ran
    assert world.build()[1] == []


@pytest.mark.parametrize(
    ("tool", "ran"),
    [
        ("onnx", ["introspect", "prepare"]),
        ("onnxruntime", ["prepare", "plan", "verify"]),
        ("numpy", ["verify"]),
        ("jinja2", ["render"]),
        ("tritonclient", ["render"]),
        ("tritonrepo", STEPS),
    ],
)
def test_what_runs_again_with_another_version_of_a_tool(
    tool: str, ran: list[str], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = fingerprint.tool_version
    monkeypatch.setattr(fingerprint, "tool_version", lambda name: "another" if name == tool else original(name))
    assert world.build()[1] == ran


def test_an_external_file_that_vanished_is_noticed(world: World) -> None:
    world.onnx.with_suffix(".bin").unlink()
    with pytest.raises(ModelError, match=r"external_data\.bin' is missing"):
        world.build()


def test_a_missing_model(world: World) -> None:
    world.onnx.unlink()
    with pytest.raises(ModelError, match="no such file"):
        world.build()


def test_a_prepared_model_that_was_removed_from_the_cache_is_made_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.onnx = graphs.initializer_as_input(tmp_path)
    world.settings = {}
    built, _ = world.build()
    assert [change.by for change in built.changes] == ["weight_inputs"]
    shutil.rmtree(tmp_path / "cache" / "prepared")
    again, ran = world.build()
    assert ran == ["prepare"]
    assert again.staged.verdict == built.staged.verdict


@pytest.mark.parametrize(
    "write", [graphs.softmax_over_batch, graphs.mean_over_batch, graphs.reshape_mixes_rows, graphs.non_max_suppression]
)
def test_models_whose_rows_mix_never_batch(write: graphs.Write, tmp_path: Path) -> None:
    world = World(tmp_path)
    world.onnx, world.settings = write(tmp_path), {"verification": {"low": -1}}
    built, _ = world.build()
    assert built.plan.max_batch_size == 0
    assert built.plan.batch_reason.startswith("auto: ")
    config = built.staged.model_files["config.pbtxt"]
    assert isinstance(config, bytes)
    assert b"\nmax_batch_size: 0\n" in config
    world.settings["batching"] = {"max_batch_size": 8}
    with pytest.raises(ModelError, match="max_batch_size 8 was asked for, but the model does not batch"):
        world.build()


def test_a_pass_that_changes_the_answers_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)

    def spoil(*_: object) -> Prepared:
        model = onnx.load(world.onnx)
        next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Abs"
        onnx.save(model, tmp_path / "spoiled.onnx")
        changes = (Change("spoil", "Relu is Abs", "to be caught"),)
        return Prepared(tmp_path / "spoiled.onnx", (), changes, introspect(world.onnx))

    monkeypatch.setattr(preparation, "prepare", spoil)
    for _ in range(2):  # from the cache as well
        with pytest.raises(
            VerificationError, match=r"verification failed for 1 of 1 outputs; worst: output y at sample"
        ):
            world.build()


def test_the_onnx_runtime_backend_gets_the_shapes_that_onnx_runtime_infers(tmp_path: Path) -> None:
    """Its backend compares each output's dims with these, -1 included, and refuses the model when they differ."""
    world = World(tmp_path)
    model = onnx.load(graphs.mlp(tmp_path))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "open"
    onnx.save(model, tmp_path / "open.onnx")
    world.onnx = tmp_path / "open.onnx"
    configs = []
    for engine in ("python", "onnxruntime"):
        world.settings = {"engine": engine}
        config = world.build()[0].staged.model_files["config.pbtxt"]
        assert isinstance(config, bytes)
        configs.append(config.decode().partition("output {")[2].partition("}")[0])
    assert "dims: [ -1 ]" in configs[0]
    assert "dims: [ 3 ]" in configs[1]


def test_the_verdict_says_how_the_model_was_made_without_times_or_places(world: World) -> None:
    built, _ = world.build()
    text = repr(built.staged.verdict)
    assert str(world.folder) not in text
    assert built.staged.verdict["onnx"] == {
        "name": "external_data.onnx",
        "sha256": fingerprint._hash_file(world.onnx),
        "external_data": {"external_data.bin": fingerprint._hash_file(world.onnx.with_suffix(".bin"))},
    }
    tools = built.staged.verdict["tools"]
    assert isinstance(tools, dict)
    assert {"onnxruntime", "numpy"} <= set(tools)
    assert "seconds" in built.staged.provenance


def test_two_places_give_the_same_verdict(world: World, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = World(tmp_path / "other")
    assert other.build()[0].staged.verdict == world.build()[0].staged.verdict
    assert other.task() != replace(other.task(), templates=None)


def static(folder: Path, *nodes: onnx.NodeProto) -> Path:
    """x FP32 [1, 4] -> y FP32 [1, 4]."""
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4]) for name in "xy"]
    graph = onnx.helper.make_graph(list(nodes), "g", values[:1], values[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "static.onnx")
    return folder / "static.onnx"


def test_a_batch_that_was_made_and_is_none_is_taken_back(tmp_path: Path) -> None:
    """The rules let a mean over the rows follow the batch; the proof does not."""
    world = World(tmp_path)
    mean = onnx.helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0])
    world.onnx = static(tmp_path, mean, onnx.helper.make_node("Sub", ["x", "mean"], ["y"]))
    world.settings = {"verification": {"low": -1}}
    built, _ = world.build()
    assert (built.plan.max_batch_size, built.changes, built.signature.inputs[0].shape) == (0, (), (1, 4))
    assert "changes with the other rows of its batch" in built.plan.batch_reason
    assert world.build()[0].cached
    world.settings["batching"] = {"max_batch_size": 4}
    with pytest.raises(ModelError, match="max_batch_size 4 was asked for, but the model does not batch: row"):
        world.build()


def test_what_stood_in_the_way_of_a_batch_is_said(tmp_path: Path) -> None:
    world = World(tmp_path)
    nodes = [
        onnx.helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=0, name="over_rows"),
        onnx.helper.make_node("Concat", ["mean"], ["same"], axis=0),
        onnx.helper.make_node("Expand", ["same", "shape"], ["y"]),
    ]
    world.onnx, world.settings = static(tmp_path, *nodes), {}
    model = onnx.load(world.onnx)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 4]), "shape"))
    onnx.save(model, world.onnx)
    built, _ = world.build()
    said = (
        "the first axis of input x is fixed at 1, and cannot be made dynamic: "
        "the batch is not the first axis of output y, lost at ReduceMean over_rows"
    )
    assert (built.plan.max_batch_size, built.plan.batch_reason) == (0, f"auto: {said}")
    world.settings = {"batching": {"max_batch_size": 4}}
    with pytest.raises(ModelError, match="cannot be made dynamic: the batch is not the first axis of output y"):
        world.build()


def test_the_verdict_lists_what_preparation_did(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.onnx, world.settings = graphs.static_batch_in_reshape(tmp_path), {}
    document = world.build()[0].staged.verdict["preparation"]
    assert isinstance(document, dict)
    first = document["changes"][0]
    assert (first["pass"], first["what"]) == ("dynamic_batch", "the batch, fixed at 1 in the file, is dynamic")
    assert all(change["why"] for change in document["changes"])
    assert (document["names"], document["refused"]) == ({}, {})
