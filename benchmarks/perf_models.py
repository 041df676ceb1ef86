"""Models of known behaviour for benchmarks/perf.py."""

from __future__ import annotations

import textwrap
from pathlib import Path

_TINY = """
import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def initialize(self, args):
        self.weights = np.random.default_rng(0).standard_normal((784, 10), np.float32)

    def execute(self, requests):
        inputs = (pb.get_input_tensor_by_name(request, "x").as_numpy() for request in requests)
        return [pb.InferenceResponse([pb.Tensor("y", array @ self.weights)]) for array in inputs]
"""
_ECHO = """
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        tensors = (pb.get_input_tensor_by_name(request, "x").as_numpy() for request in requests)
        return [pb.InferenceResponse([pb.Tensor("y", tensor)]) for tensor in tensors]
"""
# Sleeps as many milliseconds as the input says, and appends how long it took to a file beside the models.
_DRAWN = """
import os
import struct
import time
import triton_python_backend_utils as pb


class TritonPythonModel:
    def initialize(self, args):
        file = os.path.join(args["model_repository"], "..", "drawn.log")
        self.log = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def execute(self, requests):
        answers = []
        for request in requests:
            began = time.perf_counter()
            tensor = pb.get_input_tensor_by_name(request, "x").as_numpy()
            time.sleep(float(tensor[0]) / 1e3)
            answers.append(pb.InferenceResponse([pb.Tensor("y", tensor)]))
            os.write(self.log, struct.pack("d", (time.perf_counter() - began) * 1e3))
        return answers
"""
_STALLS = """
import time
import triton_python_backend_utils as pb


class TritonPythonModel:
    def initialize(self, args):
        self.next = time.monotonic() + 5

    def execute(self, requests):
        if time.monotonic() >= self.next:
            time.sleep(0.5)
            self.next += 5
        inputs = (pb.get_input_tensor_by_name(request, "x").as_numpy() for request in requests)
        return [pb.InferenceResponse([pb.Tensor("y", array)]) for array in inputs]
"""


def write_models(repository: Path) -> None:
    """A repository with all of them."""
    _write(repository, "tiny", _TINY, 8, 784, 10)
    _write(repository, "large", _ECHO, 0, 150_528, 150_528)
    _write(repository, "drawn", _DRAWN, 0, 1, 1, "instance_group { count: 16 kind: KIND_CPU }")
    _write(repository, "stalls", _STALLS, 8, 1, 1, "dynamic_batching {}")


def _write(repository: Path, name: str, code: str, batch: int, inputs: int, outputs: int, more: str = "") -> None:
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(textwrap.dedent(code), encoding="utf-8")
    config = f"""
        name: "{name}"
        backend: "python"
        max_batch_size: {batch}
        input {{ name: "x" data_type: TYPE_FP32 dims: [{inputs}] }}
        output {{ name: "y" data_type: TYPE_FP32 dims: [{outputs}] }}
        {more}
    """
    (folder.parent / "config.pbtxt").write_text(textwrap.dedent(config), encoding="utf-8")
