"""The failure that the batch proof is for, on a real server: another request's rows as the answer, with HTTP 200."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient import http

import graphs
from conftest import StartTriton, write_python_model
from tritonrepo.build import BuildOptions, build
from tritonrepo.errors import ModelError
from tritonrepo.spec import load_spec

#: What is written by hand everywhere, and what Triton's own backends do: join the requests, part the answer by rows.
BY_HAND = """
import os

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb


class TritonPythonModel:
    def initialize(self, args):
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        inputs = [pb.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        (answer,) = self.session.run(["y"], {"x": np.concatenate(inputs)})
        responses, start = [], 0
        for each in inputs:
            responses.append(pb.InferenceResponse([pb.Tensor("y", answer[start : start + len(each)])]))
            start += len(each)
        return responses
"""

CONFIG = """
input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 2 ] }
dynamic_batching { preferred_batch_size: [ 2 ] max_queue_delay_microseconds: 20000000 }
"""

ONE, OTHER = np.array([[1, 2, 3, 4]], np.float32), np.array([[5, 6, 7, 8]], np.float32)


def infer(url: str, model: str, x: Any) -> Any:
    with http.InferenceServerClient(url.removeprefix("http://"), network_timeout=60) as client:
        given = http.InferInput("x", x.shape, "FP32")
        given.set_data_from_numpy(x)
        return client.infer(model, [given]).as_numpy("y")  # raises where the status is not 200


def both(url: str, model: str) -> list[Any]:
    """The answers to two requests that wait at the same time."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda x: infer(url, model, x), (ONE, OTHER)))


@pytest.mark.server
def test_a_hand_written_repository_answers_with_rows_of_another_request(tmp_path: Path, triton: StartTriton) -> None:
    repository = tmp_path / "by_hand"
    folder = write_python_model(repository, "halves", code=BY_HAND, config=CONFIG, max_batch_size=8)
    (folder / "1" / "model.onnx").write_bytes(graphs.reshape_mixes_rows(tmp_path).read_bytes())
    url = triton(repository, probe=False).http_url
    one, other = both(url, "halves")
    # Together the two requests give [1, 2], [3, 4], [5, 6], [7, 8]; whoever came first got [1, 2] or [5, 6], and the
    # second got what was left of the first's, and nothing of its own.
    answers = {tuple(one.ravel().tolist()), tuple(other.ravel().tolist())}
    assert answers in ({(1, 2), (3, 4)}, {(5, 6), (7, 8)})


@pytest.mark.server
def test_tritonrepo_writes_no_such_repository(tmp_path: Path, triton: StartTriton) -> None:
    graphs.reshape_mixes_rows(tmp_path)
    spec = tmp_path / "models.yaml"
    spec.write_text("repository: made\nmodels: [{name: halves, onnx: reshape_mixes_rows.onnx}]")
    result = build(load_spec(spec), BuildOptions(), lambda *event: None)
    (model,) = result.models
    assert (model.max_batch_size, model.batch_reason) == (
        0, "auto: output y has shape [2, 2] for a batch of 1: its first axis is not the batch",
    )  # fmt: skip
    url = triton(tmp_path / "made").http_url
    for _ in range(3):
        one, other = both(url, "halves")
        assert (one.tolist(), other.tolist()) == ([[1, 2], [3, 4]], [[5, 6], [7, 8]])


@pytest.mark.parametrize(
    "write", [graphs.reshape_mixes_rows, graphs.softmax_over_batch, graphs.mean_over_batch, graphs.no_batch]
)
def test_a_batch_that_is_demanded_of_such_a_model_is_an_error(write: graphs.Write, tmp_path: Path) -> None:
    path = write(tmp_path)
    spec = tmp_path / "models.yaml"
    spec.write_text(f"repository: made\nmodels: [{{onnx: {path.name}, batching: {{max_batch_size: 8}}}}]")
    result = build(load_spec(spec), BuildOptions(), lambda *event: None)
    (error,) = result.failures.values()
    assert isinstance(error, ModelError)
    assert "max_batch_size 8 was asked for, but the model does not batch: " in error.message
    assert not list((tmp_path / "made").rglob("config.pbtxt"))
