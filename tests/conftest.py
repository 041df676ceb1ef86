"""Fixtures: a real Triton for tests that ask for one, and small Python-backend models for it to serve."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from tritonrepo.runtime import Runtime, find_runtime, install_runtime
from tritonrepo.serve import EmbeddedServer

ECHO = """
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        tensors = (pb.get_input_tensor_by_name(request, "x").as_numpy() for request in requests)
        return [pb.InferenceResponse([pb.Tensor("y", tensor)]) for tensor in tensors]
"""

ECHO_CONFIG = """
input {{ name: "x" data_type: {dtype} dims: [-1] }}
output {{ name: "y" data_type: {dtype} dims: [-1] }}
"""


class StartTriton(Protocol):
    """Start a server on a repository and wait until it is ready; it is stopped when the test ends."""

    def __call__(self, repository: Path, *, probe: bool = True, **options: Any) -> EmbeddedServer: ...


@pytest.fixture(scope="session")
def runtime() -> Runtime:
    """The embedded server; installed where it is missing (55 MB, once for each user)."""
    return find_runtime() or install_runtime()


@pytest.fixture
def triton(runtime: Runtime) -> Iterator[StartTriton]:
    with ExitStack() as stack:

        def start(repository: Path, *, probe: bool = True, **options: Any) -> EmbeddedServer:
            # A server that has nothing to finish still takes 3 s to end on its own; most tests have no use for that.
            options = {"grace": 0.1, **options}
            with ExitStack() as unready:
                server = unready.enter_context(EmbeddedServer(repository, runtime=runtime, **options))
                server.wait_ready(120, probe=probe)
                stack.push(unready.pop_all())
            return server

        yield start


WriteModel = Callable[..., Path]


@pytest.fixture
def write_model() -> WriteModel:
    """The function `write_python_model`, for tests that do not import from here."""
    return write_python_model


def write_python_model(
    repository: Path,
    name: str,
    *,
    code: str = ECHO,
    config: str = "",
    max_batch_size: int = 0,
    dtype: str = "TYPE_FP32",
    version: int = 1,
) -> Path:
    """Write a model for the Python backend; by default one that gives its input ``x`` back as ``y``.

    ``config`` is added to config.pbtxt; when it has an ``input`` of its own, it takes the place of the usual x and y.
    Returns the model's directory.
    """
    folder = repository / name
    (folder / str(version)).mkdir(parents=True)
    tensors = "" if "input" in config else ECHO_CONFIG.format(dtype=dtype)
    text = f'name: "{name}"\nbackend: "python"\nmax_batch_size: {max_batch_size}\n{tensors}{config}\n'
    (folder / "config.pbtxt").write_text(text, encoding="utf-8")
    (folder / str(version) / "model.py").write_text(textwrap.dedent(code), encoding="utf-8")
    return folder
