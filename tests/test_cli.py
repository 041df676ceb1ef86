"""The command as a user runs it: one clear message, an exit code, and nothing changed where something is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import graphs


def tritonrepo(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tritonrepo", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=200, env={**os.environ, **environment}, check=False
    )


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """One message that has the words, no traceback, and the exit code."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    for word in words:
        assert word in done.stderr
    assert done.stderr.startswith("error: ") or "Usage:" in done.stderr


def test_help_names_every_command(tmp_path: Path) -> None:
    done = tritonrepo("--help", cwd=tmp_path)
    assert done.returncode == 0
    for name in (
        "build",
        "check",
        "client-code",
        "doctor",
        "infer",
        "init",
        "inspect",
        "rollback",
        "rule",
        "schema",
        "serve",
        "status",
    ):
        assert name in done.stdout


def test_build_without_a_spec(tmp_path: Path) -> None:
    graphs.mlp(tmp_path)
    done = tritonrepo("build", "mlp.onnx", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "mlp: done" in done.stdout
    assert "max batch 32 (all models): auto: the first axis of every input and output is dynamic" in done.stdout
    again = tritonrepo("build", "mlp.onnx", cwd=tmp_path)
    assert again.stdout.startswith("Everything is up to date: 1 model.")


def test_init_then_build_then_check(tmp_path: Path) -> None:
    graphs.mlp(tmp_path)
    graphs.dynamic_height_width(tmp_path)
    assert tritonrepo("init", "mlp.onnx", "dynamic_height_width.onnx", cwd=tmp_path).returncode == 0
    refused(tritonrepo("init", "mlp.onnx", cwd=tmp_path), 2, "models.yaml", "--force")
    built = tritonrepo("build", cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    checked = tritonrepo("check", "model_repository", cwd=tmp_path)
    assert (checked.returncode, checked.stdout) == (0, "model_repository: nothing found in 2 models\n")


def test_an_axis_without_a_range_names_the_line_of_the_spec(tmp_path: Path) -> None:
    graphs.dynamic_height_width(tmp_path)
    spec = "models:\n- onnx: dynamic_height_width.onnx\n  engine: onnxruntime\n  accelerator: tensorrt\n"
    (tmp_path / "models.yaml").write_text(spec)
    done = tritonrepo("build", cwd=tmp_path)
    refused(done, 1, "error: models.yaml:2:3: model dynamic_height_width: no range is given", "height: {min: ..., opt")
    (tmp_path / "models.yaml").write_text(f"{spec}  shapes:\n    height: {{min: 8, max: 16}}\n")
    refused(
        tritonrepo("build", cwd=tmp_path), 1, "error: models.yaml:5:3: model dynamic_height_width: no range", "width: {"
    )


def test_check_names_place_and_rule(tmp_path: Path) -> None:
    (tmp_path / "repository" / "m" / "1").mkdir(parents=True)
    (tmp_path / "repository" / "m" / "config.pbtxt").write_text('name: "m"\nbackend: "python"\nmax_batch: 3\n')
    done = tritonrepo("check", "repository", cwd=tmp_path)
    assert done.returncode == 1
    assert "repository/m/config.pbtxt:3:1: TR002 reject: " in done.stdout
    refused(tritonrepo("check", "nowhere", cwd=tmp_path), 2, "no such folder")


def test_events_for_machines(tmp_path: Path) -> None:
    graphs.mlp(tmp_path)
    graphs.not_onnx(tmp_path)
    done = tritonrepo("build", "mlp.onnx", "not_onnx.onnx", "--json", cwd=tmp_path)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"event": "step", "model": "mlp", "step": "verify", "status": "start", "seconds": 0.0} in events
    assert events[-1]["event"] == "result"
    assert events[-1]["failures"][0]["model"] == "not_onnx"
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (graphs.not_onnx, ["not an ONNX file"]),
        (graphs.truncated, ["truncated or damaged"]),
        (graphs.empty_graph, ["the graph is empty"]),
        (graphs.missing_external_data, ["missing_external_data.bin", "is missing"]),
        (graphs.external_data_parent, ["lies outside the model's folder"]),
        (graphs.opset_too_new, ["opset 9999"]),
        (graphs.sequence_io, ["sequence", "Triton cannot carry"]),
        (graphs.map_io, ["Triton cannot carry"]),
        (graphs.optional_io, ["optional", "Triton cannot carry"]),
        (graphs.complex_io, ["complex64", "Triton cannot carry"]),
        (graphs.int4_io, ["int4", "Triton cannot carry"]),
        (graphs.unknown_operator, ["ONNX Runtime cannot load the model", "Frobnicate"]),
        (graphs.huge_initializer, ["ONNX Runtime cannot load the model"]),
        (graphs.huge_shape, ["m", ""]),
    ],
)
def test_bad_models_change_nothing(write: graphs.Write, words: list[str], tmp_path: Path) -> None:
    path = write(tmp_path / "models")
    refused(tritonrepo("build", path, cwd=tmp_path), 1, *words, "nothing was published")
    assert not (tmp_path / "model_repository").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: [", ["models.yaml:2:1", "not YAML"]),
        ("", ["empty"]),
        ("models:\n\t- onnx: m.onnx\n", ["models.yaml:2:", "tab"]),
        ("models: []\nmodls: 1\n", ["models.yaml:2:1", "did you mean"]),
        (
            "models:\n  - {name: a, onnx: mlp.onnx}\n  - {name: a, onnx: mlp.onnx}\n",
            ["models.yaml:3", "is also the name of models[0] (line 2)"],
        ),
        ("models:\n  - {name: a/b, onnx: mlp.onnx}\n", ["models.yaml:2", "a/b"]),
        ("models:\n  - {onnx: mlp.onnx, config: {max_batch_sise: 1}}\n", ["max_batch_size"]),
    ],
)
def test_bad_specs_are_wrong_usage(text: str, words: list[str], tmp_path: Path) -> None:
    graphs.mlp(tmp_path)
    (tmp_path / "models.yaml").write_text(text)
    refused(tritonrepo("build", cwd=tmp_path), 2, *words)
    assert not (tmp_path / "model_repository").exists()


def test_no_spec(tmp_path: Path) -> None:
    refused(tritonrepo("build", cwd=tmp_path), 2, "models.yaml", "tritonrepo init")


def test_a_dynamic_axis_without_a_range(tmp_path: Path) -> None:
    """No common size runs here: the axes must differ by a factor of three."""
    path = graphs.axes_that_must_differ(tmp_path)
    refused(tritonrepo("build", path, cwd=tmp_path), 1, "no range is given for the dynamic axes", "shapes:")


def test_a_template_with_an_error(tmp_path: Path) -> None:
    graphs.mlp(tmp_path)
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "config.pbtxt.j2").write_text("# one\n{{ nowhere.at.all }}\n")
    done = tritonrepo("build", "mlp.onnx", "--templates", "templates", cwd=tmp_path)
    refused(done, 1, "templates/config.pbtxt.j2:2", "nowhere")


def test_a_repository_that_cannot_be_written(tmp_path: Path) -> None:
    graphs.mlp(tmp_path)
    (tmp_path / "model_repository").write_text("a file")
    refused(tritonrepo("build", "mlp.onnx", cwd=tmp_path), 1, "model_repository")


def test_ctrl_c_ends_a_build_and_leaves_the_repository(tmp_path: Path) -> None:
    graphs.mlp(tmp_path)
    assert tritonrepo("build", "mlp.onnx", cwd=tmp_path).returncode == 0
    before = sorted(path.relative_to(tmp_path) for path in (tmp_path / "model_repository").rglob("*"))
    graphs.slow(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "tritonrepo", "build", "slow.onnx", "--json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if '"verify"' in line:
            break
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - begun < 10
    assert said.startswith("error: interrupted")
    assert sorted(path.relative_to(tmp_path) for path in (tmp_path / "model_repository").rglob("*")) == before


HEAVY = ("onnx", "onnxruntime", "tritonclient", "tensorrt", "grpc", "numpy", "jinja2")


@pytest.mark.parametrize("arguments", [["--help"], ["check", "repository"], ["schema"]])
def test_light_commands_import_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "repository" / "m" / "1").mkdir(parents=True)
    (tmp_path / "repository" / "m" / "config.pbtxt").write_text('name: "m" backend: "python"')
    (tmp_path / "repository" / "m" / "1" / "model.py").write_text("")
    code = (
        "import sys; sys.argv[1:] = sys.argv[2:]\n"
        "from tritonrepo.cli import app\n"
        "app(standalone_mode=False)\n"
        f"print('LOADED', [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "-", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.rstrip().endswith("LOADED []"), done.stdout + done.stderr
