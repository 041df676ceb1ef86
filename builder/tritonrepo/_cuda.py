"""CUDA by its driver alone, through ctypes: which GPUs there are, and memory on one of them.

No toolkit, no Python package: libcuda.so.1 comes with the driver, and NVML beside it knows the driver's own version.
Importing this loads neither.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import Any

from tritonrepo.errors import EngineError

# Names in cuda.h.
_NO_DEVICE = 100
_OUT_OF_MEMORY = 2
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76

_LENGTH = 128

_NO_GPU = "the driver shows no GPU"
_NO_GPU_HINT = "Look at CUDA_VISIBLE_DEVICES, and at --gpus of the container."


@dataclass(frozen=True)
class Gpu:
    """A GPU as CUDA numbers it, so as CUDA_VISIBLE_DEVICES shows it."""

    ordinal: int
    name: str
    capability: str
    """Compute capability, ``9.0``."""
    memory: int
    """In bytes."""


@dataclass(frozen=True)
class Driver:
    """The driver of all GPUs."""

    version: str | None
    """Its own version, ``580.95.05``; None where NVML does not say."""
    cuda: str
    """The newest CUDA that it runs, ``13.0``."""

    def __str__(self) -> str:
        return self.version or f"for CUDA {self.cuda}"


def gpus() -> tuple[Gpu, ...]:
    """The GPUs that this process may use; there is at least one.

    Raises:
        EngineError: no driver, a driver that does not start, or no GPU.
    """
    library = _started()
    count = ctypes.c_int()
    _check("cuDeviceGetCount", library.cuDeviceGetCount(ctypes.byref(count)))
    if count.value == 0:
        raise EngineError(_NO_GPU, hint=_NO_GPU_HINT)
    return tuple(_gpu(library, ordinal) for ordinal in range(count.value))


def driver() -> Driver:
    """The driver's versions.

    Raises:
        EngineError: there is no driver.
    """
    version = ctypes.c_int()
    _check("cuDriverGetVersion", _load().cuDriverGetVersion(ctypes.byref(version)))
    return Driver(_driver_version(), f"{version.value // 1000}.{version.value % 1000 // 10}")


class Device:
    """One GPU, made current for this thread for the length of a ``with`` block: what TensorRT then builds and runs on.

    Memory that was allocated and not freed goes with the block. The context is the primary one, which TensorRT uses.

    Raises:
        EngineError: no such GPU, or not enough memory on it.
    """

    def __init__(self, ordinal: int) -> None:
        self.ordinal = ordinal
        self._memory: set[int] = set()
        self.stream = 0

    def __enter__(self) -> Device:
        self._library = _started()
        found = gpus()
        if self.ordinal >= len(found):
            raise EngineError(
                f"there is no GPU {self.ordinal}: CUDA shows {len(found)}",
                hint="Set `tensorrt: {gpu: ...}` to one from 0 on, in CUDA's order.",
            )
        self._device = ctypes.c_int()
        self._do("cuDeviceGet", ctypes.byref(self._device), self.ordinal)
        context = ctypes.c_void_p()
        self._do("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self._do("cuCtxSetCurrent", context)
        stream = ctypes.c_void_p()
        self._do("cuStreamCreate", ctypes.byref(stream), 0)
        self.stream = stream.value or 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After an error on the GPU the context is dead and every call says so again: the first one is the reason.
        complain = error is None
        for address in sorted(self._memory):
            self.free(address, complain=complain)
        for name, argument in (("cuStreamDestroy_v2", ctypes.c_void_p(self.stream)), ("cuCtxSetCurrent", None)):
            self._do(name, argument, complain=complain)
        self._do("cuDevicePrimaryCtxRelease_v2", self._device, complain=complain)

    def allocate(self, size: int) -> int:
        """Address of so many bytes of the GPU's memory; of one where size is 0, since an address is wanted."""
        address = ctypes.c_uint64()
        self._do("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        self._memory.add(address.value)
        return address.value

    def free(self, address: int, *, complain: bool = True) -> None:
        """Give memory back."""
        self._memory.discard(address)
        self._do("cuMemFree_v2", ctypes.c_uint64(address), complain=complain)

    def write(self, address: int, source: int, size: int) -> None:
        """Copy from the host's address to the GPU's."""
        if size:
            self._do("cuMemcpyHtoD_v2", ctypes.c_uint64(address), ctypes.c_void_p(source), ctypes.c_size_t(size))

    def read(self, target: int, address: int, size: int) -> None:
        """Copy from the GPU's address to the host's."""
        if size:
            self._do("cuMemcpyDtoH_v2", ctypes.c_void_p(target), ctypes.c_uint64(address), ctypes.c_size_t(size))

    def wait(self) -> None:
        """Until all that was put on the stream is done."""
        self._do("cuStreamSynchronize", ctypes.c_void_p(self.stream))

    def _do(self, name: str, *arguments: object, complain: bool = True) -> None:
        status = getattr(self._library, name)(*arguments)
        if complain:
            _check(name, status)


@cache
def _load() -> Any:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise EngineError(
            "NVIDIA's driver is not installed (libcuda.so.1 was not found)",
            hint="Install it; in a container, start it with --gpus and the NVIDIA Container Toolkit.",
        ) from None


def _started() -> Any:
    library = _load()
    status = library.cuInit(0)
    if status == _NO_DEVICE:
        raise EngineError(_NO_GPU, hint=_NO_GPU_HINT)
    _check("cuInit", status)
    return library


def _gpu(library: Any, ordinal: int) -> Gpu:
    device = ctypes.c_int()
    _check("cuDeviceGet", library.cuDeviceGet(ctypes.byref(device), ordinal))
    name = ctypes.create_string_buffer(_LENGTH)
    _check("cuDeviceGetName", library.cuDeviceGetName(name, _LENGTH, device))
    memory = ctypes.c_size_t()
    _check("cuDeviceTotalMem_v2", library.cuDeviceTotalMem_v2(ctypes.byref(memory), device))
    capability = []
    for attribute in (_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR):
        value = ctypes.c_int()
        _check("cuDeviceGetAttribute", library.cuDeviceGetAttribute(ctypes.byref(value), attribute, device))
        capability.append(value.value)
    return Gpu(ordinal, name.value.decode(errors="replace"), "{}.{}".format(*capability), memory.value)


def _driver_version() -> str | None:
    """From NVML; None on machines that have none (some Jetson and WSL ones)."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    if library.nvmlInit_v2() != 0:
        return None
    try:
        text = ctypes.create_string_buffer(_LENGTH)
        return text.value.decode() if library.nvmlSystemGetDriverVersion(text, _LENGTH) == 0 else None
    finally:
        library.nvmlShutdown()


def _check(name: str, status: int) -> None:
    if status == 0:
        return
    text = ctypes.c_char_p()
    _load().cuGetErrorString(status, ctypes.byref(text))
    why = text.value.decode() if text.value else f"error {status}"
    hint = (
        "Other processes may hold its memory (`nvidia-smi`); narrow the largest shapes and batch sizes."
        if status == _OUT_OF_MEMORY
        else "`nvidia-smi` and the kernel's log (`dmesg`) may say more; after an update of the driver, restart."
    )
    raise EngineError(f"the GPU cannot be used: {why} ({name})", hint=hint)
