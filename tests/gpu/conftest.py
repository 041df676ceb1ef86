"""What the tests here need, or the reason to skip."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tritonrepo import _cuda, _tensorrt
from tritonrepo.errors import EngineError


@pytest.fixture(scope="session")
def gpu() -> _cuda.Gpu:
    """The first GPU."""
    try:
        return _cuda.gpus()[0]
    except EngineError as error:
        pytest.skip(error.message)


@pytest.fixture(scope="session")
def tensorrt() -> _tensorrt.Availability:
    """TensorRT with its builder, and a GPU."""
    found = _tensorrt.availability()
    if not found.ok:
        pytest.skip(found.reason)
    return found


@pytest.fixture(scope="session")
def docker() -> None:
    """A Docker daemon that starts containers with GPUs."""
    if shutil.which("docker") is None:
        pytest.skip("Docker is not installed")
    said = subprocess.run(
        ["docker", "info", "--format={{json .Runtimes}}"], capture_output=True, text=True, check=False
    )
    if said.returncode:
        pytest.skip("the Docker daemon cannot be reached")
    if '"nvidia"' not in said.stdout:
        pytest.skip("Docker has no runtime nvidia: install the NVIDIA Container Toolkit")
