"""Rules that hold configs against ONNX files (TR8xx), beyond their examples."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import graphs
from tritonrepo.check import BLOCKING, NOT_SERVED, Target, check, check_staged
from tritonrepo.check._schema import schema
from tritonrepo.check._textformat import Message, parse

SERVER = Target(release="24.10")
IO = 'input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }\noutput { name: "y" data_type: TYPE_FP32 dims: [ 3 ] }\n'


def repository(root: Path, config: str, model: Path, name: str = "m", **files: str) -> Path:
    """A repository with one model; files are named with ``__`` for a dot and ``_in_1`` at the end for version 1."""
    folder = root / name / "1"
    folder.mkdir(parents=True, exist_ok=True)
    (root / name / "config.pbtxt").write_text(config, encoding="utf-8")
    shutil.copy(model, folder / "model.onnx")
    for file, content in files.items():
        place = folder if file.endswith("_in_1") else folder.parent
        (place / file.removesuffix("_in_1").replace("__", ".")).write_text(content, encoding="utf-8")
    return root


def rules(root: Path, target: Target = SERVER, severities: frozenset[Any] = BLOCKING) -> set[str]:
    return {finding.rule for finding in check(root, target) if finding.severity in severities}


# ---- against ONNX Runtime itself -------------------------------------------------------------------------------------


class RefusedError(Exception):
    """The ONNX Runtime backend would not load the model."""


@dataclass(frozen=True)
class Wanted:
    """An input or output, in the config or completed."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    optional: bool = False
    ragged: bool = False


Infos = Mapping[str, tuple[str, tuple[int, ...]]]


def infos(values: Any) -> Infos:
    """What the session says of its inputs or outputs: name -> type and dims."""
    names = {"float": "FP32", "double": "FP64", "float16": "FP16", "bfloat16": "INVALID"}
    found = {}
    for value in values:
        kind = value.type.removeprefix("tensor(").removesuffix(")")
        dims = tuple(dim if isinstance(dim, int) else -1 for dim in value.shape)
        found[value.name] = (f"TYPE_{names.get(kind, kind.upper())}", dims)
    return found


def stated(config: Message, field: str) -> list[Wanted]:
    return [
        Wanted(
            each.get("name"),
            each.get("data_type"),
            each.get("reshape").all("shape") if each.has("reshape") else each.all("dims"),
            field == "input" and each.get("optional"),
            field == "input" and each.get("allow_ragged_batch"),
        )
        for each in config.all(field)
    ]


def load(config: Message, session: ort.InferenceSession) -> None:
    """What the ONNX Runtime backend does with a config when it loads a model, with what ONNX Runtime really says."""
    inputs, outputs = infos(session.get_inputs()), infos(session.get_outputs())
    batch = config.get("max_batch_size")
    wanted_in, wanted_out = stated(config, "input"), stated(config, "output")
    if not (wanted_in and wanted_out):
        batches = all(dims and dims[0] == -1 for _, dims in (*inputs.values(), *outputs.values()))
        if not batches and batch:
            raise RefusedError("the graph does not batch")
        batch = batch or (4 if batches else 0)
        wanted_in, wanted_out = (
            wanted
            or [
                Wanted(name, kind, dims[1:] if batch and dims else dims or (1,)) for name, (kind, dims) in there.items()
            ]
            for wanted, there in ((wanted_in, inputs), (wanted_out, outputs))
        )
        if any(each.data_type == "TYPE_INVALID" for each in (*wanted_in, *wanted_out)):
            raise RefusedError("no such type in a config")
    if sum(not each.optional for each in wanted_in) != len(inputs):
        raise RefusedError("another number of inputs")
    known = {**inputs, **infos(session.get_overridable_initializers())}
    for each in wanted_in:
        if each.optional and batch:
            raise RefusedError("optional")
        compare(each, known, batch, exactly=False)
    for each in wanted_out:
        compare(each, outputs, batch, exactly=True)


def compare(wanted: Wanted, there: Infos, batch: int, *, exactly: bool) -> None:
    if wanted.name not in there:
        raise RefusedError(f"no {wanted.name}")
    data_type, dims = there[wanted.name]
    if data_type != wanted.data_type:
        raise RefusedError("another type")
    if wanted.ragged:
        if wanted.optional or dims != (-1,):
            raise RefusedError("ragged")
    elif not dims:
        if set(wanted.dims) - {1}:
            raise RefusedError("a scalar")
    else:
        full = (-1, *wanted.dims) if batch else wanted.dims
        if (batch and dims[0] != -1) or len(full) != len(dims):
            raise RefusedError("no batch axis, or another rank")
        if any((exactly or size != -1) and size != here for size, here in zip(dims, full, strict=True)):
            raise RefusedError("other sizes")


def random_config(session: ort.InferenceSession, rng: random.Random) -> str:
    """A config that is nearly right."""
    batch = rng.choice((0, 0, 1, 4))
    lines = [f'backend: "onnxruntime"\nmax_batch_size: {batch}']
    for field, values in (("input", session.get_inputs()), ("output", session.get_outputs())):
        for name, (kind, dims) in infos(values).items() if rng.random() < 0.9 else ():
            sizes = [rng.choice((-1, 1, 3, 4)) if rng.random() < 0.06 else dim for dim in dims[1 if batch else 0 :]]
            if rng.random() < 0.04:
                sizes.append(1)
            more = ""
            if not sizes:
                sizes, more = [1], "reshape { shape: [] }" if batch else ""
            elif rng.random() < 0.06:
                more = rng.choice((f"reshape {{ shape: {[1, *sizes]} }}", f"reshape {{ shape: {sizes} }}"))
            if field == "input" and rng.random() < 0.04:
                more += rng.choice((" optional: true", " allow_ragged_batch: true"))
            data_type = (
                kind.replace("INVALID", "BF16") if rng.random() < 0.96 else rng.choice(("TYPE_INT64", "TYPE_FP32"))
            )
            quoted = json.dumps(name if rng.random() < 0.98 else "other", ensure_ascii=False)
            if rng.random() < 0.98:
                lines.append(f"{field} {{ name: {quoted} data_type: {data_type} dims: {sizes} {more} }}")
    return "\n".join(lines)


@pytest.mark.parametrize("write", graphs.GOOD, ids=lambda write: write.__name__)
def test_as_onnx_runtime_says(write: graphs.Write, tmp_path: Path) -> None:
    """Random configs for each graph: refused exactly where the backend's own comparison refuses them."""
    model = write(tmp_path / "graph")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    rng = random.Random(write.__name__)
    accepted = 0
    for _ in range(60):
        config = random_config(session, rng)
        document = parse(config.encode(), schema("24.10"))
        assert document.error is None
        try:
            load(document.root, session)
            reason = ""
        except RefusedError as refused:
            reason = str(refused)
        files = {f"1/{file.relative_to(model.parent)}": file for file in model.parent.rglob("*") if file.is_file()}
        files["1/model.onnx"] = files.pop(f"1/{model.name}")
        findings = check_staged(tmp_path / "none", {"m": {"config.pbtxt": config, **files}}, SERVER)
        ours = [each for each in findings if each.rule.startswith("TR8")]
        unsure = any(each.rule == "TR811" for each in ours)
        refused_here = any(each.severity in NOT_SERVED for each in ours)
        assert unsure or refused_here == bool(reason), (config, reason, ours)
        accepted += not reason
    assert accepted >= 10


# ---- what the backend completes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("", set()),
        ("max_batch_size: 2\n", set()),
        (IO.splitlines()[0].replace("[ 4 ]", "[ -1, 4 ]"), {"TR809"}),
        ("max_batch_size: 0\n" + IO.splitlines()[0], set()),
        (IO.splitlines()[1], set()),
    ],
)
def test_missing_tensors_are_completed(config: str, expected: set[str], tmp_path: Path) -> None:
    """Without inputs or outputs the backend batches by 4 where the graph can."""
    root = repository(tmp_path / "r", f'backend: "onnxruntime"\n{config}', graphs.mlp(tmp_path))
    assert rules(root) == expected


def test_no_config_at_all(tmp_path: Path) -> None:
    root = repository(tmp_path / "r", "", graphs.mlp(tmp_path))
    (root / "m" / "config.pbtxt").unlink()
    assert rules(root) == set()
    shutil.copy(graphs.sequence_io(tmp_path), root / "m" / "1" / "model.onnx")
    assert "TR804" in rules(root)


def test_a_graph_that_cannot_batch(tmp_path: Path) -> None:
    root = repository(tmp_path / "r", 'backend: "onnxruntime" max_batch_size: 4', graphs.static_batch(tmp_path))
    assert rules(root) == {"TR805"}


def test_ensembles_know_what_is_completed(tmp_path: Path) -> None:
    """The model has no tensors in its config; the ensemble is held against those of its file."""
    root = repository(tmp_path / "r", 'backend: "onnxruntime"', graphs.mlp(tmp_path))
    (root / "e" / "1").mkdir(parents=True)
    text = """
        platform: "ensemble"
        max_batch_size: 4
        input { name: "a" data_type: TYPE_FP32 dims: [ 4 ] }
        output { name: "b" data_type: TYPE_FP32 dims: [ 3 ] }
        ensemble_scheduling { step { model_name: "m" model_version: -1
          input_map { key: "x" value: "a" } output_map { key: "y" value: "b" } } }
    """
    config = root / "e" / "config.pbtxt"
    for change, expected in (
        (("", ""), set()),
        (("[ 3 ]", "[ 5 ]"), {"TR718"}),
        (("max_batch_size: 4", "max_batch_size: 5"), {"TR716"}),
        (('key: "y"', 'key: "z"'), {"TR717"}),
    ):
        config.write_text(text.replace(*change))
        assert rules(root) == expected


# ---- files -----------------------------------------------------------------------------------------------------------


def test_weights_in_other_files(tmp_path: Path) -> None:
    config = 'backend: "onnxruntime" max_batch_size: 4\n' + IO
    model = graphs.external_data(tmp_path)
    root = repository(tmp_path / "r", config, model)
    assert rules(root) == {"TR802"}
    shutil.copy(tmp_path / "external_data.bin", root / "m" / "1")
    assert rules(root) == set()
    with (root / "m" / "1" / "external_data.bin").open("r+b") as file:
        file.truncate(10)
    assert rules(root) == {"TR802"}


@pytest.mark.parametrize("write", [graphs.external_data_parent, graphs.external_data_absolute])
def test_weights_elsewhere(write: graphs.Write, tmp_path: Path) -> None:
    root = repository(tmp_path / "r", 'backend: "onnxruntime"', write(tmp_path))
    assert rules(root) == {"TR803"}


@pytest.mark.parametrize("write", [graphs.not_onnx, graphs.empty_file, graphs.truncated])
def test_what_is_no_onnx_file(write: graphs.Write, tmp_path: Path) -> None:
    root = repository(tmp_path / "r", 'backend: "onnxruntime"', write(tmp_path))
    assert rules(root) == {"TR801"}


def test_every_served_version_is_looked_at(tmp_path: Path) -> None:
    config = 'backend: "onnxruntime" max_batch_size: 4\nversion_policy { all { } }\n' + IO
    root = repository(tmp_path / "r", config, graphs.mlp(tmp_path))
    (root / "m" / "2").mkdir()
    shutil.copy(graphs.cnn(tmp_path), root / "m" / "2" / "model.onnx")
    found = {finding.message for finding in check(root, SERVER) if finding.rule == "TR809"}
    assert len(found) == 1
    assert "2/model.onnx" in found.pop()
    (root / "m" / "config.pbtxt").write_text(config.replace("all { }", "specific { versions: 1 }"))
    assert rules(root) == set()


def test_a_folder_instead_of_a_file(tmp_path: Path) -> None:
    """ONNX Runtime's backend looks for model.onnx in it."""
    root = repository(tmp_path / "r", 'backend: "onnxruntime" max_batch_size: 4\n' + IO, graphs.cnn(tmp_path))
    file = root / "m" / "1" / "model.onnx"
    content = file.read_bytes()
    file.unlink()
    file.mkdir()
    (file / "model.onnx").write_bytes(content)
    assert "TR809" in rules(root)


def test_releases(tmp_path: Path) -> None:
    root = repository(tmp_path / "r", 'backend: "onnxruntime"', graphs.opset_too_new(tmp_path))
    for release, expected in (("24.10", {"TR823"}), ("26.07", {"TR823"}), ("26.09", set())):
        assert rules(root, Target(release=release)) == expected


def test_stub_backends_look_at_nothing(tmp_path: Path) -> None:
    root = repository(tmp_path / "r", 'backend: "onnxruntime"', graphs.not_onnx(tmp_path))
    assert rules(root, Target(release="24.10", only_core=True)) == set()


# ---- rows ------------------------------------------------------------------------------------------------------------

PYTHON = """# Model m: model.onnx, run by ONNX Runtime. Written by tritonrepo: change its spec or templates.
INPUTS = ["x"]
OUTPUTS = ["y"]
class TritonPythonModel:
    def execute(self, requests):
        pass
"""


@pytest.mark.parametrize("backend", ["onnxruntime", "python"])
@pytest.mark.parametrize(
    ("write", "dims", "batch", "broken"),
    [
        (graphs.mlp, ("[ 4 ]", "[ 3 ]"), 4, False),
        (graphs.reshape_mixes_rows, ("[ 4 ]", "[ 2 ]"), 4, True),
        (graphs.reshape_mixes_rows, ("[ -1, 4 ]", "[ -1, 2 ]"), 0, False),
        (graphs.softmax_over_batch, ("[ 3 ]", "[ 3 ]"), 4, True),
        (graphs.softmax_over_batch, ("[ 3 ]", "[ 3 ]"), 1, False),
        (graphs.mean_over_batch, ("[ 3 ]", "[ 3 ]"), 4, False),
    ],
)
def test_rows_of_outputs(
    backend: str, write: graphs.Write, dims: tuple[str, str], batch: int, broken: bool, tmp_path: Path
) -> None:
    """What can be told from the graph; that the mean of a batch mixes rows cannot."""
    config = IO.replace("[ 4 ]", dims[0]).replace("[ 3 ]", dims[1])
    head = f'backend: "{backend}"\nmax_batch_size: {batch}\n'
    root = repository(tmp_path / "r", head + config, write(tmp_path), model__py_in_1=PYTHON)
    assert rules(root) == ({"TR817"} if broken else set())


def test_names_of_axes_tell(tmp_path: Path) -> None:
    """A Transpose without axes turns them round, which the names of the axes show."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "time"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["time", "batch"])
    graph = helper.make_graph([helper.make_node("Transpose", ["x"], ["y"])], "turned", [x], [y])
    model = tmp_path / "turned.onnx"
    model.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    config = IO.replace("[ 4 ]", "[ -1 ]").replace("[ 3 ]", "[ -1 ]")
    root = repository(tmp_path / "r", f'backend: "onnxruntime" max_batch_size: 4\n{config}', model)
    assert rules(root) == {"TR817"}


# ---- the python engine -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("", "", set()),
        ('name: "x"', 'name: "image"', {"TR821"}),
        ('name: "y"', 'name: "scores"', {"TR821"}),
        ('"x" data_type: TYPE_FP32', '"x" data_type: TYPE_FP16', {"TR822"}),
        ('"y" data_type: TYPE_FP32', '"y" data_type: TYPE_INT8', {"TR822"}),
        ("[ 4 ]", "[ 4, 1 ]", {"TR822"}),
        ("[ 4 ]", "[ -1 ]", {"TR822"}),
        ("[ 3 ]", "[ 2 ]", {"TR822"}),
        ("[ 3 ]", "[ -1 ]", set()),
        ("max_batch_size: 4", "max_batch_size: 0", {"TR822"}),
        ("max_batch_size: 4", 'max_batch_size: 4 parameters { key: "intra_op_thread_count" value { } }', {"TR814"}),
    ],
)
def test_the_python_engine(old: str, new: str, expected: set[str], tmp_path: Path) -> None:
    config = f'backend: "python" max_batch_size: 4\n{IO}'.replace(old, new, 1)
    root = repository(tmp_path / "r", config, graphs.mlp(tmp_path), model__py_in_1=PYTHON)
    assert rules(root) == expected


def test_a_python_model_of_somebody_else(tmp_path: Path) -> None:
    """Its model.onnx may be anything."""
    script = PYTHON.replace("Written by tritonrepo", "Written by hand")
    config = f'backend: "python" max_batch_size: 4\n{IO.replace("x", "other")}'
    assert rules(repository(tmp_path / "r", config, graphs.not_onnx(tmp_path), model__py_in_1=script)) == set()


def test_names_in_model_py(tmp_path: Path) -> None:
    script = PYTHON.replace('["y"]', '["y", "z"]')
    config = f'backend: "python" max_batch_size: 4\n{IO}'
    root = repository(tmp_path / "r", config, graphs.mlp(tmp_path), model__py_in_1=script)
    (finding,) = (each for each in check(root, SERVER) if each.severity in BLOCKING)
    assert (finding.rule, finding.file.name) == ("TR821", "model.py")
    assert "z" in finding.message


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        ({"max_batch_size": 4, "verdict": {"rows_independent": True}}, set()),
        ({"max_batch_size": 2, "verdict": {"rows_independent": True}}, {"TR818"}),
        ({"max_batch_size": 4, "verdict": {"rows_independent": False, "rows_reason": "y mixes"}}, {"TR818"}),
        ({"max_batch_size": "many", "verdict": {}}, set()),
        ([], set()),
    ],
)
def test_the_verdict_of_the_build(verdict: object, expected: set[str], tmp_path: Path) -> None:
    config = f'backend: "python" max_batch_size: 4\n{IO}'
    root = repository(tmp_path / "r", config, graphs.mlp(tmp_path), model__py_in_1=PYTHON)
    (root / "m" / "1.verdict.json").write_text(json.dumps(verdict))
    assert rules(root) == expected
