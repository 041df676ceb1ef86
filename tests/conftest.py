"""Fixtures: a real Triton for tests that ask for one, and small Python-backend models for it to serve."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import pytest

from tritonrepo.errors import TritonrepoError
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


@pytest.fixture
def tensorrt_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """TensorRT's recording double is what ``import tensorrt`` gives, here and in workers. The file that this gives
    holds what was asked of it, see `tensorrt_double.calls`.
    """
    import tensorrt_double
    from tritonrepo import _cuda

    folder = tensorrt_double.install(tmp_path / "site")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(Path(__file__).parent)]))
    monkeypatch.setenv("TENSORRT_DOUBLE_LOG", str(tmp_path / "calls"))
    monkeypatch.setattr(_cuda, "_load", _cuda._load)  # so that what the double puts there is taken away again
    monkeypatch.setattr(_cuda, "_driver_version", _cuda._driver_version)
    real = sys.modules.pop("tensorrt", None)
    yield tmp_path / "calls"
    sys.modules.pop("tensorrt", None)
    if real is not None:
        sys.modules["tensorrt"] = real


class InProcessPool:
    """Stands for `workers.Pool` where a test is about what tasks do, and not about processes."""

    def __init__(self, function: str, count: int, on_event: Callable[[Any, object], None], *_: object) -> None:
        module, _separator, name = function.partition(":")
        self._function = getattr(import_module(module), name)
        self._on_event = on_event

    def __class_getitem__(cls, _: object) -> type[InProcessPool]:
        return cls

    def __enter__(self) -> InProcessPool:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, tasks: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        for task in tasks:
            try:
                yield task, self._function(task, lambda event, task=task: self._on_event(task, event))
            except TritonrepoError as error:
                yield task, error


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds run in this process: quicker, for tests that are not about workers."""
    monkeypatch.setattr("tritonrepo.workers.Pool", InProcessPool)
    monkeypatch.setattr("tritonrepo._plan_build.Pool", InProcessPool)


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


@pytest.fixture(params=["grpc-threads", "grpc-asyncio", "http-threads", "http-asyncio"])
def triton_client(server: EmbeddedServer, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A client of the module's own fixture ``server``, each kind in turn."""
    from test_client import any_client, url

    transport, mode = request.param.split("-")
    with any_client(url(server, transport), mode) as client:
        yield client
