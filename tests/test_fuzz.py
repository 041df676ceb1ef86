"""Mutants of ONNX files: a recorded few in every run. `make fuzz` tries 10,000 (docs/fuzzing.md)."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import graphs
from fuzz import mutate, run
from fuzz.steps import STEPS, Seen
from tritonrepo.build import BuildOptions, build
from tritonrepo.errors import ModelError, TritonrepoError
from tritonrepo.inspection import inspect
from tritonrepo.introspect import introspect, tensors
from tritonrepo.prepare import FAILED, Context, foresee
from tritonrepo.prepare.weights import open_model
from tritonrepo.spec import spec_for

SEEDS = [int(line) for line in run.SEEDS.read_text().split()]


@pytest.mark.parametrize("part", range(4))
@pytest.mark.usefixtures("importable")
def test_recorded_mutants_are_accepted_or_refused_cleanly(part: int) -> None:
    outcomes = list(run.run(SEEDS[part::4], jobs=1))
    assert len(outcomes) == len(SEEDS[part::4])
    defects = [f"{each.number} ({', '.join(each.how)}): {each.reason}" for each in outcomes if each.verdict == "defect"]
    assert not defects, "\n".join(defects)


def test_a_mutant_is_its_number(tmp_path: Path) -> None:
    assert len(SEEDS) == 200
    for number in SEEDS[:40]:
        assert mutate.mutant(number, tmp_path) == mutate.mutant(number, tmp_path)
    contents = {mutate.mutant(number, tmp_path).content for number in range(100)}
    assert len(contents) > 90


def test_the_command_has_no_traceback_either(tmp_path: Path) -> None:
    paths = [run.write(mutate.mutant(number, tmp_path), tmp_path / str(number)) for number in SEEDS[:6]]
    for arguments in (
        ["inspect", "--no-prepare", *paths],
        ["inspect", paths[0]],
        ["init", "--force", *paths[:1]],
        ["build", "--jobs", "1", paths[0]],
    ):
        command = [sys.executable, "-m", "tritonrepo", *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=250, check=False)
        said = (done.stdout + done.stderr).decode(errors="replace")
        assert done.returncode in {0, 1, 2}, said
        assert "Traceback" not in said
        assert "defect" not in said


def test_the_judge_knows_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    one = mutate.Mutant(0, "mlp", ("_cut",), b"", {})
    fine = dict.fromkeys(STEPS, "")
    assert run.judge(one, Seen(fine, 0.1, 50)).verdict == "accepted"
    assert run.judge(one, Seen({**fine, "build": "m.onnx: no"}, 0.1, 50)).verdict == "refused"
    for bad in (
        Seen({**fine, "build": "Traceback (most recent call last)"}, 0.1, 50),
        Seen({**fine, "inspect": "x" * 5000}, 0.1, 50),
        Seen(fine, 0.1, 50, ("/etc/passwd",)),
    ):
        assert run.judge(one, bad).verdict == "defect"
    for message, verdict in (
        ("the worker crashed (Segmentation fault) during: inspect", "defect"),
        ("the worker crashed (Segmentation fault) during: build, verify", "refused"),
        ("it took more than 20 s, and was ended during: introspect", "defect"),
        ("a defect in tritonrepo", "defect"),
    ):
        assert run.judge(one, TritonrepoError(message)).verdict == verdict


# ---- what mutants found, built anew ----------------------------------------------------------------------------------


def altered(write: graphs.Write, folder: Path, change: Callable[[onnx.ModelProto], object]) -> Path:
    path = write(folder)
    model = onnx.load(path, load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("location", ["n" * 5000, "a\0b", ".", "sub", "loop/x", "/dev/zero", "x/../../outside.bin"])
def test_locations_that_are_no_file_in_the_folder(location: str, tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        [entry] = [entry for entry in model.graph.initializer[0].external_data if entry.key == "location"]
        entry.value = location

    (tmp_path / "sub").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    path = altered(graphs.external_data, tmp_path, change)
    with pytest.raises(ModelError, match=r"outside the model's folder|is missing") as caught:
        introspect(path)
    assert len(str(caught.value)) < 1500
    assert inspect(path, prepare=False).problems


def test_a_weight_cannot_say_that_it_was_left_in_another_file(tmp_path: Path) -> None:
    """The mark by which weights in the model's own file are known is no way around the rules for external data."""

    def change(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            tensor.external_data.add(key="checksum", value="left in the model's file: 8")

    path = altered(graphs.external_data_parent, tmp_path, change)
    with pytest.raises(ModelError, match="outside the model's folder"):
        introspect(path)


@pytest.mark.parametrize("first", [True, False])
def test_a_location_that_is_given_twice(first: bool, tmp_path: Path) -> None:
    """One reader follows the first, another the last: only one of them would have been looked at."""

    def change(model: onnx.ModelProto) -> None:
        entries = model.graph.initializer[0].external_data
        [right] = [entry.value for entry in entries if entry.key == "location"]
        kept = [(entry.key, entry.value) for entry in entries]
        del entries[:]
        for key, value in [("location", "../outside.bin"), *kept] if first else [*kept, ("location", "../outside.bin")]:
            entries.add(key=key, value=value)
        assert right == "external_data.bin"

    path = altered(graphs.external_data, tmp_path / "inside", change)
    (tmp_path / "outside.bin").write_bytes(b"secret" * 100)
    with pytest.raises(ModelError, match=r"says twice where its data is|outside the model's folder"):
        introspect(path)


def test_a_file_that_a_weight_names_and_does_not_use_is_not_followed(tmp_path: Path) -> None:
    """Its data is inside, so no one looked at the place; the pass that rewrites this model must not copy from there."""

    def change(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            tensor.external_data.add(key="location", value="../outside.bin")

    path = altered(graphs.initializer_as_input, tmp_path / "inside", change)
    (tmp_path / "outside.bin").write_bytes(b"secret" * 100)
    assert not any(tensor.external_data for tensor in tensors(open_model(path)))
    spec = spec_for([path], repository=tmp_path / "repository")
    assert not build(spec, BuildOptions(jobs=1), lambda *_: None).failures
    assert not [file for file in tmp_path.rglob("*.bin") if file != tmp_path / "outside.bin"]


def test_more_axes_than_anything_carries(tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        for _ in range(5000):
            model.graph.input[0].type.tensor_type.shape.dim.add(dim_value=1)

    path = altered(graphs.mlp, tmp_path, change)
    with pytest.raises(ModelError, match="has 5002 axes"):
        introspect(path)
    with pytest.raises(ModelError, match="damaged: a value of 5002 axes"):
        inspect(path, prepare=False)


@pytest.mark.parametrize("operator", ["ConstantOfShape", "Range", "Expand", "Tile"])
def test_values_that_inference_would_compute(operator: str, tmp_path: Path) -> None:
    """Shape inference follows the values of small tensors, and does not stop where they are made large."""
    large = {"large": np.array([2**40], np.int64), "one": np.array([1], np.int64)}
    scalars = {f"s{i}": np.array(value, np.int64) for i, value in enumerate((0, 2**40, 1))}
    inputs = {"ConstantOfShape": "large", "Range": "s0 s1 s2"}.get(operator, "one large")
    nodes = [
        graphs._node(operator, inputs, "made"), graphs._node("ReduceMax", "made", "most", keepdims=0),
        graphs._node("Cast", "most", "cast", to=1), graphs._node("Add", "x cast", "y"),
    ]  # fmt: skip
    ports = [graphs._value("x", ["n", 3])], [graphs._value("y", ["n", 3])]
    path = graphs._write(tmp_path, "m", nodes, *ports, {**large, **scalars})
    begun = time.monotonic()
    assert inspect(path, prepare=False).compute.fault == ""
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize(
    ("calls", "fault"),
    [
        ({"f": ["f"]}, "'f' calls itself"),
        ({"f": ["g"], "g": ["f"]}, "'f' calls itself"),
        ({**{f"f{i or ''}": [f"f{i + 1}"] * 2 for i in range(30)}, "f30": []}, "stands for more than 2000000 nodes"),
        ({**{f"f{i or ''}": [f"f{i + 1}"] for i in range(300)}, "f300": []}, "more than 100 deep"),
    ],
)
def test_functions_without_end(calls: Mapping[str, Sequence[str]], fault: str, tmp_path: Path) -> None:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    functions = []
    for name, inner in calls.items():
        body = [helper.make_node(call, ["a"], [f"b{i}"], domain="own") for i, call in enumerate(inner)]
        body.append(helper.make_node("Identity", ["a"], ["b"]))
        functions.append(helper.make_function("own", name, ["a"], ["b"], body, opsets))
    node = helper.make_node("f", ["x"], ["y"], domain="own")
    graph = helper.make_graph([node], "g", [graphs._value("x", ["n", 3])], [graphs._value("y", ["n", 3])])
    model = helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=8)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert fault in inspect(tmp_path / "m.onnx", prepare=False).compute.fault


@pytest.mark.parametrize("name", [b"Relu", b"batch", b"w1", b"mlp"])
def test_names_that_are_not_text(name: bytes, tmp_path: Path) -> None:
    """An operator, an axis, a weight, and the graph's own name, which no one uses."""
    path = graphs.mlp(tmp_path)
    content = path.read_bytes()
    assert name in content
    path.write_bytes(content.replace(name, b"\xe4" + name[1:]))
    if name == b"mlp":
        assert introspect(path).outputs
        return
    with pytest.raises(ModelError, match="a name is not UTF-8 text"):
        introspect(path)
    assert any("not UTF-8" in problem for problem in inspect(path, prepare=False).problems)


@pytest.mark.parametrize("flag", ["b2", "w1", "made"])
def test_a_training_mode_that_is_no_flag(flag: str, tmp_path: Path) -> None:
    """The Relu becomes a Dropout whose training mode is a weight, one in another file, or holds less than it says."""

    def change(model: onnx.ModelProto) -> None:
        node = model.graph.node[1]
        node.op_type = "Dropout"
        node.input.extend(["", flag])
        model.graph.initializer.append(onnx.TensorProto(name="made", data_type=9, dims=[1 << 40]))

    for write in (graphs.mlp, graphs.external_data):
        path = altered(write, tmp_path / write.__name__, change)
        done = build(spec_for([path], repository=tmp_path / "repository"), BuildOptions(jobs=1), lambda *_: None)
        assert "ONNX Runtime cannot load the model" in done.failures[path.stem].message


def test_passes_that_fail_on_an_invalid_model_leave_it_to_the_runtime(tmp_path: Path) -> None:
    """A static batch, so that the preparation looks at every node; one of them has an input too many."""
    path = altered(graphs.static_batch, tmp_path, lambda model: model.graph.node[1].input.append("x"))
    spec = spec_for([path], repository=tmp_path / "repository")
    _, refused = foresee(Context(spec.models[0], introspect(path), "python"))
    assert not any(why.startswith(FAILED) for why in refused.values())
    done = build(spec, BuildOptions(jobs=1), lambda *_: None)
    assert "Relu" in done.failures["static_batch"].message
    assert "ONNX Runtime cannot load the model" in done.failures["static_batch"].message


def test_a_pass_that_fails_is_told_and_leaves_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(model: onnx.ModelProto, context: Context) -> tuple[onnx.ModelProto, tuple[()]]:
        del model.graph.node[:]
        raise KeyError("nowhere")

    monkeypatch.setattr("tritonrepo.prepare.PASSES", {"weight_inputs": fails})
    path = graphs.mlp(tmp_path)
    spec = spec_for([path], repository=tmp_path / "repository")
    changes, refused = foresee(Context(spec.models[0], introspect(path), "python"))
    assert changes == ()
    assert refused == {"weight_inputs": f"{FAILED}: KeyError: 'nowhere'"}


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers find the steps where we do."""
    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", f"{here.parent}:{here}")
