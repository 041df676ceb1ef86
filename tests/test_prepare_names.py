"""Which names of tensors a real server carries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from conftest import StartTriton, write_python_model
from tritonrepo._templates import quote

NAMES = (
    "a b", " a", "a\nb", "a\tb", "a\rb", "\x01", "\x7f", "\x85", 'q"q', "q'q", "b\\s", "a/b", "a%2Fb", "a?b#c&d", "..",
    "{}[],", "ünï", "🚀", "a\u2028b", "\ufeffa", "\uffff", "a" * 70_000,
)  # fmt: skip
CUT = "a\0b"

CODE = """
import triton_python_backend_utils as pb

NAMES = {names!r}


class TritonPythonModel:
    def execute(self, requests):
        return [
            pb.InferenceResponse([
                pb.Tensor(name + "_out", pb.get_input_tensor_by_name(request, name).as_numpy()) for name in NAMES
            ])
            for request in requests
        ]
"""


def write(repository: Path, model: str, names: tuple[str, ...]) -> None:
    tensors = "".join(
        f"{kind} {{ name: {quote(name + suffix)} data_type: TYPE_FP32 dims: [ 1 ] }}\n"
        for name in names
        for kind, suffix in (("input", ""), ("output", "_out"))
    )
    write_python_model(repository, model, code=CODE.format(names=names), config=tensors)


def answers(module: Any, url: str, names: tuple[str, ...]) -> list[float]:
    """Every input's own number, given back as its output."""
    inputs = []
    for number, name in enumerate(names):
        inputs.append(module.InferInput(name, [1], "FP32"))
        inputs[-1].set_data_from_numpy(np.array([number], np.float32))
    outputs = [module.InferRequestedOutput(f"{name}_out") for name in names]
    with module.InferenceServerClient(url) as client:
        result = client.infer("odd", inputs, outputs=outputs)
        return [float(result.as_numpy(f"{name}_out")[0]) for name in names]


@pytest.mark.server
def test_names_that_arrive_and_the_one_that_does_not(tmp_path: Path, triton: StartTriton) -> None:
    write(tmp_path, "odd", NAMES)
    write(tmp_path, "cut", (CUT,))
    server = triton(tmp_path, probe=False)
    want = [float(number) for number in range(len(NAMES))]
    assert answers(tritonclient.grpc, server.grpc_url, NAMES) == want
    assert answers(tritonclient.http, server.http_url, NAMES) == want
    with tritonclient.http.InferenceServerClient(server.http_url) as client:
        assert [tensor["name"] for tensor in client.get_model_metadata("cut")["inputs"]] == ["a"]
