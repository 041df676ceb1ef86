"""Precision through the whole build: what is published, what is refused, and what a real Triton answers."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml

import precision_graphs as nets
from conftest import StartTriton
from test_cli import tritonrepo
from tritonrepo import display
from tritonrepo_client import Client


def write_spec(folder: Path, **models: dict[str, Any]) -> Path:
    path = folder / "models.yaml"
    entries = [{"name": name, "onnx": f"{name}.onnx", **settings} for name, settings in models.items()]
    path.write_text(yaml.safe_dump({"models": entries}))
    return path


def place(graph: Any, folder: Path, name: str) -> Path:
    """A graph of ``precision_graphs`` as NAME.onnx."""
    path: Path = graph(folder)
    return path.rename(folder / f"{name}.onnx")


def samples(folder: Path, count: int = 3) -> list[str]:
    for number in range(count):
        x = np.random.default_rng(number).normal(size=(4, 3, 16, 16)).astype(np.float32)
        np.savez(folder / f"s{number}.npz", x=x)
    return [f"s{number}.npz" for number in range(count)]


def verdict_of(folder: Path, model: str, repository: str = "model_repository") -> dict[str, Any]:
    path = next((folder / repository / model).glob("*.verdict.json"))
    return dict(json.loads(path.read_text()))


@pytest.mark.server
def test_fp16_and_int8_are_served_and_answer_as_onnx_runtime_does_in_fp32(tmp_path: Path, triton: StartTriton) -> None:
    original = place(nets.cnn, tmp_path, "half")
    for name in ("converted", "eighth"):
        (tmp_path / f"{name}.onnx").write_bytes(original.read_bytes())
    write_spec(
        tmp_path,
        half={"precision": "fp16"},
        converted={"precision": {"type": "fp16", "io": "convert"}},
        eighth={"precision": {"type": "int8", "calibration": samples(tmp_path)}},
    )
    built = tritonrepo("build", cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    assert "half: FP16: 9 of 9 operators, 100 % of the weights' bytes" in built.stdout
    assert "eighth: INT8: 3 of 9 operators" in built.stdout
    repository = tmp_path / "model_repository"
    sizes = {name: (repository / name / "1" / "model.onnx").stat().st_size for name in ("half", "eighth")}
    assert sizes["half"] < original.stat().st_size
    assert 'key: "session.disable_quant_qdq"' in (repository / "eighth" / "config.pbtxt").read_text()
    x = np.random.default_rng(9).normal(size=(3, 3, 16, 16)).astype(np.float32)
    want = onnxruntime.InferenceSession(original, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    server = triton(repository)
    with Client(f"grpc://{server.grpc_url}") as client:
        for name, dtype, atol in (
            ("half", np.float32, 1e-2),
            ("converted", np.float16, 1e-2),
            ("eighth", np.float32, 0.1),
        ):
            got = client.model(name)(x.astype(dtype))
            assert got.dtype == dtype, name
            np.testing.assert_allclose(got.astype(np.float32), want, atol=atol * np.abs(want).max(), err_msg=name)


def test_the_verdict_says_what_was_reached_and_a_second_build_does_nothing(tmp_path: Path) -> None:
    place(nets.overflow, tmp_path, "overflow")
    write_spec(tmp_path, overflow={"precision": {"type": "fp16", "max_runs": 20}})
    assert tritonrepo("build", cwd=tmp_path).returncode == 0
    verdict = verdict_of(tmp_path, "overflow")
    reached = verdict["precision"]
    assert reached["asked"] == "fp16"
    assert {kept["node"] for kept in reached["kept"]} >= {"square", "sum"}
    assert reached["operators"]["FP16"] >= 2
    assert verdict["verdict"]["ok"]
    assert verdict["settings"]["precision"] == {
        "type": "fp16", "io": "keep", "keep_fp32": [], "search": True, "max_runs": 20, "calibration": [],
        "calibration_method": "minmax", "rest": "fp32", "percentile": 99.99,
    }  # fmt: skip
    again = tritonrepo("build", cwd=tmp_path)
    assert "Everything is up to date" in again.stdout
    write_spec(tmp_path, overflow={"precision": {"type": "fp16", "max_runs": 20, "keep_fp32": ["unit"]}})
    changed = tritonrepo("build", cwd=tmp_path)
    assert changed.returncode == 0, changed.stderr
    assert "new version" in changed.stdout
    assert "keep_fp32: unit" in changed.stdout


def test_a_gate_that_fails_publishes_nothing(tmp_path: Path) -> None:
    place(nets.cancelling, tmp_path, "cancelling")
    write_spec(tmp_path, cancelling={"precision": {"type": "fp16", "search": False}})
    built = tritonrepo("build", cwd=tmp_path)
    assert built.returncode == 1
    assert "precision fp16 is not within the tolerance" in built.stderr
    assert "worst with all of them in FP16: output y" in built.stderr
    assert "Traceback" not in built.stderr
    assert not list((tmp_path / "model_repository").glob("*/*/model.onnx"))


def test_calibration_samples_that_do_not_fit(tmp_path: Path) -> None:
    shape = (1, 3, 16, 16)
    bad: dict[str, tuple[Any, str]] = {
        "nan": ({"x": np.full(shape, np.nan, np.float32)}, "calibration sample 1 makes tensor x NaN or infinite"),
        "name": ({"y": np.zeros(shape, np.float32)}, "the sample holds y; the model's inputs are x"),
        "rank": ({"x": np.zeros((1, 3, 16), np.float32)}, "sample array x is float32[1, 3, 16]"),
        "type": ({"x": np.zeros(shape, np.int64)}, "sample array x is int64[1, 3, 16, 16]"),
        "file": (b"no archive", "the sample cannot be read"),
    }
    good = samples(tmp_path, 1)
    cnn = place(nets.cnn, tmp_path, "cnn")
    for name, (content, _) in bad.items():
        (tmp_path / f"{name}.onnx").write_bytes(cnn.read_bytes())
        if isinstance(content, bytes):
            (tmp_path / f"{name}.npz").write_bytes(content)
        else:
            np.savez(tmp_path / f"{name}.npz", **content)
    models = {name: {"precision": {"type": "int8", "calibration": [*good, f"{name}.npz"]}} for name in bad}
    write_spec(tmp_path, **models)
    built = tritonrepo("build", cwd=tmp_path)
    assert built.returncode == 1
    said = " ".join(built.stderr.split())
    for _, words in bad.values():
        assert words in said
    assert "Traceback" not in said


def test_samples_of_a_converted_input_may_be_fp32(tmp_path: Path) -> None:
    place(nets.cnn, tmp_path, "cnn")
    settings = {"precision": {"type": "mixed", "io": "convert"}, "verification": {"samples": samples(tmp_path)}}
    write_spec(tmp_path, cnn=settings)
    built = tritonrepo("build", cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    model = onnx.load(tmp_path / "model_repository" / "cnn" / "1" / "model.onnx")
    assert [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)] == [10, 10]


def test_a_model_that_is_there_already_is_said_to_be(tmp_path: Path) -> None:
    place(nets.cnn, tmp_path, "cnn")
    write_spec(tmp_path, cnn={"precision": "fp16"})
    assert tritonrepo("build", cwd=tmp_path).returncode == 0
    made = tmp_path / "model_repository" / "cnn" / "1" / "model.onnx"
    made.rename(tmp_path / "half.onnx")
    write_spec(tmp_path, half={"precision": "mixed"})
    built = tritonrepo("build", "--repository", "other", cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    assert "half: the model is FP16 already" in built.stdout
    assert verdict_of(tmp_path, "half", "other")["precision"]["already"]
    assert (tmp_path / "other" / "half" / "1" / "model.onnx").read_bytes() == (tmp_path / "half.onnx").read_bytes()


def test_bf16_says_that_it_needs_tensorrt(tmp_path: Path) -> None:
    place(nets.cnn, tmp_path, "cnn")
    write_spec(tmp_path, cnn={"precision": "bf16"})
    built = tritonrepo("build", cwd=tmp_path)
    assert built.returncode == 1
    assert "bf16 needs engine tensorrt, because ONNX Runtime cannot run BF16 on a CPU" in built.stderr


def test_a_long_search_is_heard_of() -> None:
    now = [0.0]
    stream = io.StringIO()
    shown = display.PlainDisplay(stream, lambda: now[0])
    for run in range(1, 40):
        now[0] += 1
        shown.step("model", f"precision: FP16: run {run} of at most 40", "progress", 0.0)
    shown.step("model", "precision", "done", 39.0)
    lines = [17, 33]
    said = [f"model: precision: FP16: run {run} of at most 40" for run in lines]
    assert stream.getvalue().splitlines() == [*said, "model: precision took 39.0 s"]
