"""From ONNX files through the command to answers of a real Triton, equal to ONNX Runtime's."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import graphs
from test_cli import tritonrepo
from tritonrepo.runtime import Runtime
from tritonrepo_client import Client

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[1]


@contextmanager
def serving(folder: Path) -> Iterator[dict[str, str]]:
    """`tritonrepo serve` on free ports; gives its URLs, and ends it as Ctrl-C does."""
    ports = [argument for name in ("http", "grpc", "metrics") for argument in (f"--{name}-port", "0")]
    process = subprocess.Popen(
        [sys.executable, "-m", "tritonrepo", "serve", *ports], cwd=folder, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    urls: dict[str, str] = {}
    for line in process.stdout:
        if line.startswith("HTTP "):
            words = line.split()
            urls = {"http": f"http://{words[1]}", "grpc": f"grpc://{words[3]}"}
            break
    try:
        assert urls, "the server did not become ready"
        yield urls
    finally:
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        process.stdout.close()
        code = process.wait(60)
    assert code == 0
    assert rest.splitlines()[-1] == "Stopped."


def test_build_serve_infer(tmp_path: Path, runtime: Runtime) -> None:
    models = [graphs.mlp(tmp_path), graphs.two_inputs_two_outputs(tmp_path), graphs.scalar_output(tmp_path)]
    models += [graphs.identity(tmp_path, "STRING"), graphs.odd_names(tmp_path), graphs.static_batch(tmp_path)]
    built = tritonrepo("build", *models, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    x = np.random.default_rng(0).random((3, 4), np.float32)
    np.save(tmp_path / "x.npy", x)
    want = onnxruntime.InferenceSession(models[0], providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    with serving(tmp_path) as urls:
        for url in urls.values():
            done = tritonrepo("infer", "mlp", "--input", "x=x.npy", "--url", url, "-o", "out.npz", cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            np.testing.assert_allclose(np.load(tmp_path / "out.npz")["y"], want, rtol=1e-5)
            with Client(url) as client:
                np.testing.assert_allclose(client.model("mlp")(x), want, rtol=1e-5)
                assert client.model("scalar_output")(np.ones((2, 3), np.float32)).item() == 6
                words = np.array([["a", "ü", ""]], object)
                assert client.model("identity_string")(words).tolist() == [[b"a", "ü".encode(), b""]]
        assert not list((tmp_path / "model_repository").rglob("__pycache__")), "serving must not change the repository"
        unknown = tritonrepo("infer", "mpl", "--random", "--url", urls["http"], cwd=tmp_path)
        assert unknown.returncode == 1
        assert "mlp" in unknown.stderr


def test_a_model_that_mixes_rows_answers_each_request_alone(tmp_path: Path, runtime: Runtime) -> None:
    """Batched by Triton, this model would give one caller another's rows, with status 200."""
    path = graphs.reshape_mixes_rows(tmp_path)
    assert tritonrepo("build", path, cwd=tmp_path).returncode == 0
    with serving(tmp_path) as urls, Client(urls["http"]) as client:
        for row in range(4):
            x = np.full((1, 4), row, np.float32)
            np.testing.assert_array_equal(client.model("reshape_mixes_rows")(x), x.reshape(-1, 2))


def test_the_example_models_answer_as_onnx_runtime_does(tmp_path: Path, runtime: Runtime) -> None:
    """The README's repository: real networks, verified at small shapes here to save time."""
    examples = ROOT / "examples" / "models"
    if not (examples / "ocr_cls.onnx").is_file():
        pytest.fail("the example models are not there; `make models` fetches them")
    shapes = {
        "ocr_cls": ("x", (2, 3, 48, 192), np.float32),
        "magika": ("bytes", (2, 2048), np.int32),
        "light_densenet121": ("data_0", (1, 3, 224, 224), np.float32),
        "cnn": ("image", (3, 3, 32, 32), np.float32),
        "mlp": ("x", (3, 784), np.float32),
    }
    files = [examples / f"{name}.onnx" for name in shapes]
    built = tritonrepo("build", *files, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    random = np.random.default_rng(0)
    with serving(tmp_path) as urls, Client(urls["grpc"]) as client:
        for name, (tensor, shape, dtype) in shapes.items():
            values = (random.random(shape) * (256 if dtype is np.int32 else 1)).astype(dtype)
            session = onnxruntime.InferenceSession(examples / f"{name}.onnx", providers=["CPUExecutionProvider"])
            want = session.run(None, {tensor: values})[0]
            got = client.model(name)({tensor: values})
            np.testing.assert_allclose(next(iter(got.values())), want, rtol=1e-3, atol=1e-5, err_msg=name)
