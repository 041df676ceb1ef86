"""What preparation made, served by a real Triton and answered as the original answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphs
from conftest import StartTriton
from test_prepare_batch import class_token, heads, lstm, session
from test_prepare_passes import scalars
from tritonrepo.build import BuildOptions, build
from tritonrepo.check import check
from tritonrepo.spec import load_spec
from tritonrepo_client import Client


def moved(path: Path, name: str) -> str:
    path.rename(path.parent / f"{name}.onnx")
    return f"{{onnx: {name}.onnx}}"


def with_a_nul(folder: Path) -> Path:
    path = graphs.identity(folder)
    model = onnx.load(path)
    model.graph.node[0].input[0] = model.graph.input[0].name = "a\0b"
    onnx.save(model, path)
    return path


@pytest.mark.server
def test_prepared_models_are_served(tmp_path: Path, triton: StartTriton) -> None:
    models = [
        moved(heads(tmp_path), "heads"), moved(class_token(tmp_path), "token"), moved(lstm(tmp_path), "lstm"),
        moved(scalars(tmp_path), "scalars"), moved(graphs.scalar_input(tmp_path), "scale"),
        moved(with_a_nul(tmp_path), "nul"),
    ]  # fmt: skip
    spec = tmp_path / "models.yaml"
    spec.write_text(f"repository: made\nmodels: [{', '.join(models)}]")
    result = build(load_spec(spec), BuildOptions(jobs=1), lambda *event: None)
    assert not result.failures
    assert {model.name: model.max_batch_size for model in result.models} == {
        "heads": 32, "token": 32, "lstm": 32, "scalars": 0, "scale": 32, "nul": 32,
    }  # fmt: skip
    random = np.random.default_rng(0)
    with Client(f"grpc://{triton(tmp_path / 'made').grpc_url}") as client:
        for name, shape in (("heads", (7, 8)), ("token", (4, 3)), ("lstm", (5, 3))):
            x = random.random((3, *shape)).astype(np.float32)
            original = session(tmp_path / f"{name}.onnx")
            want = np.concatenate([original.run(None, {"x": x[row : row + 1]})[0] for row in range(3)])
            np.testing.assert_allclose(client.model(name)(x), want, rtol=1e-4, atol=1e-5)
        x = np.arange(3, dtype=np.float32)
        answer: Any = client.model("scalars")({"x": x, "s": np.array([2], np.float32)})
        assert (answer["y"].tolist(), answer["z"].tolist()) == ([0, 2, 4], [6])
        rows, scale = np.ones((2, 3), np.float32), np.array([[2], [5]], np.float32)
        answer = client.model("scale")({"x": rows, "scale": scale})
        assert answer["y"].tolist() == [[2, 2, 2], [5, 5, 5]]
        answer = client.model("nul")({"a_b": rows})
        assert answer["y"].tolist() == rows.tolist()


def test_scalars_for_the_onnx_runtime_backend(tmp_path: Path) -> None:
    """No server here has that backend: the check knows its rules."""
    spec = tmp_path / "models.yaml"
    spec.write_text(f"repository: made\nmodels: [{moved(scalars(tmp_path), 'scalars')[:-1]}, engine: onnxruntime}}]")
    result = build(load_spec(spec), BuildOptions(), lambda *event: None)
    assert not result.failures
    (model,) = result.models
    assert (model.inputs, model.outputs) == (("x FP32[3]", "s FP32[1]"), ("y FP32[3]", "z FP32[1]"))
    assert not check(tmp_path / "made")
