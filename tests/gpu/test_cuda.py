"""The driver itself: needs a GPU, and no TensorRT."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tritonrepo import _cuda
from tritonrepo.doctor import examine
from tritonrepo.errors import EngineError

pytestmark = pytest.mark.gpu


def test_gpus_and_driver(gpu: _cuda.Gpu) -> None:
    assert gpu.ordinal == 0
    assert gpu.name
    assert re.fullmatch(r"\d+\.\d", gpu.capability)
    assert gpu.memory > 1 << 30
    driver = _cuda.driver()
    assert re.fullmatch(r"\d+\.\d", driver.cuda)
    assert driver.version is None or re.fullmatch(r"[\d.]+", driver.version)


def test_it_is_the_gpu_that_nvidia_smi_shows(gpu: _cuda.Gpu) -> None:
    (found,) = (each for each in examine() if each.topic == "GPU and driver")
    if found.status != "ok":
        pytest.skip(found.detail)
    assert gpu.name in found.detail
    assert gpu.capability in found.detail
    assert str(_cuda.driver()) in found.detail


def test_memory_there_and_back(gpu: _cuda.Gpu) -> None:
    sent = np.random.default_rng(0).random((3, 1 << 18), np.float32)
    with _cuda.Device(0) as device:
        assert device.stream
        address = device.allocate(sent.nbytes)
        device.write(address, sent.ctypes.data, sent.nbytes)
        device.wait()
        got = np.empty_like(sent)
        device.read(got.ctypes.data, address, got.nbytes)
        device.free(address)
        assert device.allocate(0)  # given back at the end
    np.testing.assert_array_equal(got, sent)


def test_one_after_the_other(gpu: _cuda.Gpu) -> None:
    for _ in range(3):
        with _cuda.Device(0) as device:
            device.allocate(1 << 20)


def test_more_memory_than_there_is(gpu: _cuda.Gpu) -> None:
    with pytest.raises(EngineError, match=r"out of memory \(cuMemAlloc_v2\)") as caught, _cuda.Device(0) as device:
        device.allocate(gpu.memory * 4)
    assert "narrow" in str(caught.value.hint)
    with _cuda.Device(0) as device:  # and it goes on
        device.allocate(16)


def test_a_gpu_that_is_not_there(gpu: _cuda.Gpu) -> None:
    with pytest.raises(EngineError, match="there is no GPU 99"), _cuda.Device(99):
        pass
