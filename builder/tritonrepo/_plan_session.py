"""Running a plan on the GPU, to be asked what `verify.Session` is asked."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonrepo import _cuda, _tensorrt
from tritonrepo.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    import tensorrt as trt  # types only: `_tensorrt` makes the objects

    from tritonrepo._plan_sidecar import PlanTensor
    from tritonrepo.plan import Profile, Shape
    from tritonrepo.spec import TensorRT


class PlanSession:
    """A plan on the GPU, to be asked like `verify.Session`. A context manager: what it holds on the GPU goes with it.

    Loading a plan runs code that it carries: give it only plans that were built here.

    Args:
        plan: the file.
        options: those that it was built with; plugins are loaded, and the GPU is theirs.
        weights: the ONNX file that a plan without weights (strip_plan) takes them from.
    """

    def __init__(self, plan: Path, options: TensorRT, weights: Path) -> None:
        self.path = plan
        self.profile: int | None = None
        """The profile to run on where it holds the shapes; else the one that the server's backend would take."""
        self._options = options
        self._weights = weights

    def __enter__(self) -> PlanSession:
        from tritonrepo._plan_errors import Log

        self._log = Log()
        with contextlib.ExitStack() as opened:
            self._device = opened.enter_context(_cuda.Device(self._options.gpu))
            opened.callback(self._drop)
            self._logger = _tensorrt.logger_of(self._log)
            self._engine = _tensorrt.load(self.path.read_bytes(), self._options, self._logger, self._log)
            if self._options.strip_plan:
                self._refit(self._logger)
            if self._options.weight_streaming:
                self._engine.weight_streaming_budget_v2 = self._engine.get_weight_streaming_automatic_budget()
            self._tensors = _tensorrt.tensors_of(self._engine)
            self._profiles = _tensorrt.profiles_of(self._engine)
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise self._failed("the plan's memory cannot be had")
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.__exit__(*error)  # type: ignore[arg-type]

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """All outputs by name.

        Raises:
            ModelError: the plan does not take these inputs, or fails on them.
        """
        context, device = self._context, self._device
        number = self._choose(inputs)
        if not context.set_optimization_profile_async(number, device.stream):
            raise self._failed(f"profile {number} cannot be chosen")
        device.wait()
        held: list[np.ndarray[Any, Any]] = []
        addresses: list[int] = []
        allocator = _tensorrt.allocator(device, addresses)
        try:
            for tensor in self._tensors:
                if tensor.is_input:
                    array = self._fit(tensor, inputs[tensor.name])
                    held.append(array)
                    self._give(tensor, array, number, addresses)
            unknown = context.infer_shapes()
            if unknown:
                raise self._failed(f"sizes cannot be inferred for {', '.join(unknown)}")
            outputs = {
                each.name: self._place(each, allocator, addresses) for each in self._tensors if not each.is_input
            }
            if not context.execute_async_v3(device.stream):
                shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
                raise self._failed(f"the plan does not run on {shapes}")
            device.wait()
            return {name: self._take(name, place, allocator) for name, place in outputs.items()}
        finally:
            for address in addresses:
                device.free(address)

    def _fit(self, tensor: PlanTensor, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        import numpy as np

        if array.dtype != _numpy_dtype(tensor.dtype):
            raise ModelError(
                f"input {tensor.name} is {array.dtype} in the model and {tensor.dtype} in the plan",
                where=self.path,
                hint="Cast it in the graph, so that both say the same.",
            )
        return np.ascontiguousarray(array)

    def _give(self, tensor: PlanTensor, array: np.ndarray[Any, Any], number: int, addresses: list[int]) -> None:
        """Hand an input over: shape tensors lie in the host's memory, all others on the GPU."""
        if tensor.is_shape:
            self._context.set_tensor_address(tensor.name, array.ctypes.data)
            return
        if not self._context.set_input_shape(tensor.name, tuple(array.shape)):
            raise self._failed(f"input {tensor.name} {list(array.shape)} is not in profile {number}")
        address = self._device.allocate(array.nbytes)
        addresses.append(address)
        self._device.write(address, array.ctypes.data, array.nbytes)
        self._context.set_tensor_address(tensor.name, address)

    def _place(self, tensor: PlanTensor, allocator: Any, addresses: list[int]) -> _Place:
        """Room for an output; where its size is known only afterwards, TensorRT asks for it."""
        import numpy as np

        dtype, shape = _numpy_dtype(tensor.dtype), _tensorrt.dims(self._context.get_tensor_shape(tensor.name))
        if tensor.is_shape:
            array = np.empty(shape, dtype)
            self._context.set_tensor_address(tensor.name, array.ctypes.data)
            return _Place(dtype, shape, None, array)
        if -1 in shape:
            self._context.set_output_allocator(tensor.name, allocator)
            return _Place(dtype, None, None, None)
        address = self._device.allocate(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
        addresses.append(address)
        self._context.set_tensor_address(tensor.name, address)
        return _Place(dtype, shape, address, None)

    def _take(self, name: str, place: _Place, allocator: Any) -> np.ndarray[Any, Any]:
        import numpy as np

        if place.host is not None:
            return place.host
        shape = allocator.shapes[name] if place.shape is None else place.shape
        address = allocator.places.get(name, 0) if place.address is None else place.address
        array = np.empty(shape, place.dtype)
        self._device.read(array.ctypes.data, address, array.nbytes)
        return array

    def _choose(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> int:
        """The profile that holds the shapes and whose opt is nearest; 0 where none does, which TensorRT then says."""
        shapes = {each.name: inputs[each.name].shape for each in self._tensors if each.is_input and not each.is_shape}
        fitting = [number for number, profile in enumerate(self._profiles) if _holds(profile, shapes)]
        if self.profile in fitting:
            return self.profile

        def distance(number: int) -> int:
            opt = self._profiles[number].opt
            return sum(abs(a - b) for name, shape in shapes.items() for a, b in zip(shape, opt[name], strict=True))

        return min(fitting, key=distance, default=0)

    def _refit(self, logger: trt.ILogger) -> None:
        """Put the weights back that were left out, so that there is something to prove."""
        if not _tensorrt.refit(self._engine, logger, self._weights):
            raise self._failed("the weights cannot be put back into the plan")

    def _drop(self) -> None:
        """Let TensorRT's objects go, the context first."""
        for name in ("_context", "_engine"):
            if hasattr(self, name):
                delattr(self, name)

    def _failed(self, what: str) -> ModelError:
        return ModelError(f"{what}: {self._log.last() or 'TensorRT does not say why'}", where=self.path)


def _holds(profile: Profile, shapes: Mapping[str, Shape]) -> bool:
    return all(
        low <= size <= high
        for name, shape in shapes.items()
        for low, size, high in zip(profile.min[name], shape, profile.max[name], strict=True)
    )


@dataclass(frozen=True)
class _Place:
    """Where an output is put: on the GPU, on the host, or where the allocator says."""

    dtype: np.dtype[Any]
    shape: Shape | None
    address: int | None
    host: np.ndarray[Any, Any] | None


def _numpy_dtype(dtype: str) -> np.dtype[Any]:
    from tritonrepo.generate import numpy_dtype

    if dtype == "BF16":
        raise ModelError(
            "the plan has an input or output of bfloat16, which ONNX Runtime's Python interface cannot carry",
            hint="Cast it to float32 in the graph; inside, the plan may be bfloat16.",
        )
    return numpy_dtype(dtype)
