"""From ONNX to an answer: built in the image that serves, served by it, asked by the client. Needs Docker and a GPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphs
from tritonrepo import _http, _ports
from tritonrepo_client import Client

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(3600)]

#: The release to try; its two images together take about 40 GB.
RELEASE = os.environ.get("TRITONREPO_GPU_RELEASE", "26.09")


def tritonrepo(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "tritonrepo", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, docker: None, gpu: Any) -> Path:
    """Two models, built with `tritonrepo build --in docker`."""
    folder = tmp_path_factory.mktemp("served")
    for make in (graphs.mlp, graphs.cnn):
        make(folder)
    (folder / "models.yaml").write_text(
        f"triton: '{RELEASE}'\n"
        "defaults: {engine: tensorrt, batching: {max_batch_size: 8}, tensorrt: {builder_optimization_level: 0}}\n"
        "models:\n- {onnx: mlp.onnx}\n- {onnx: cnn.onnx, profiles: latency+throughput, precision: fp16}\n"
    )
    tritonrepo("build", str(folder / "models.yaml"), "--in", "docker", "--jobs", "1")
    return folder / "model_repository"


def test_what_was_built_is_of_the_servers_tensorrt(repository: Path) -> None:
    from tritonrepo.releases import RELEASES

    for model in ("mlp", "cnn"):
        plan = json.loads((repository / model / "1" / "model.plan.json").read_text())
        assert plan["tensorrt_version"].startswith(f"{RELEASES[RELEASE].tensorrt_major}.")
        assert (repository / model / "1" / "model.plan").stat().st_uid == os.getuid()


def test_the_server_answers_as_onnx_runtime_does(repository: Path) -> None:
    import onnxruntime

    http, grpc, metrics = _ports.free_ports("127.0.0.1", 3)
    server = subprocess.Popen(
        [sys.executable, "-m", "tritonrepo", "serve", str(repository), "--with", "docker", "--release", RELEASE,
         f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}", f"--name=tritonrepo-test-{http}"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        wait_until_ready(server, f"127.0.0.1:{http}")
        with Client(f"grpc://127.0.0.1:{grpc}") as triton:
            for name, shape in (("mlp", (4,)), ("cnn", (3, 8, 8))):
                reference = onnxruntime.InferenceSession(
                    repository.parent / f"{name}.onnx", providers=["CPUExecutionProvider"]
                )
                for rows in (1, 3, 8):
                    x = np.random.default_rng(rows).random((rows, *shape), np.float32)
                    got = np.asarray(triton.model(name)(x))
                    np.testing.assert_allclose(got, reference.run(None, {"x": x})[0], atol=2e-2, rtol=2e-2)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)


def wait_until_ready(server: subprocess.Popen[str], url: str) -> None:
    end = time.monotonic() + 600
    while time.monotonic() < end:
        if server.poll() is not None:
            assert server.stdout is not None
            raise AssertionError(server.stdout.read())
        try:
            if _http.request(url, "/v2/health/ready", timeout=5)[0] == 200:
                return
        except OSError:
            time.sleep(1)
    raise AssertionError("the server was not ready within 600 s")
