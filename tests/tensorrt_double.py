"""A recording double of the part of TensorRT that tritonrepo uses, and of the driver's. It builds no plan.

It stands for TensorRT 10.8's Python package in tests of what happens around it: what is asked of it, in which order,
and what is made of what it says. Its "plan" is the ONNX file with a line before it, and it runs that with ONNX
Runtime, so that what is around it can be proven on real numbers. test_tensorrt_api.py holds each class, method,
parameter and enum of it against the real bindings. Nothing of it is shipped.

Environment:
    TENSORRT_DOUBLE_LOG    file to which each call is written, a JSON list a line
    TENSORRT_DOUBLE_FAULT  what goes wrong: see the uses of `_fault`
    TENSORRT_DOUBLE_GPU    with any value: the driver and the GPU are the real ones (tests/gpu)
"""

from __future__ import annotations

import ctypes
import enum
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

__version__ = "10.8.0.43"

PLAN = b"a tensorrt double's plan, of no use to TensorRT\n"
_TIMING = b"a tensorrt double's timing cache\n"


def install(folder: Path) -> Path:
    """Write a package ``tensorrt`` that is this double; returns the folder for PYTHONPATH."""
    package = folder / "tensorrt"
    package.mkdir(parents=True)
    here = str(Path(__file__).parent)
    (package / "__init__.py").write_text(
        f"import sys\nsys.path.insert(0, {here!r})\nimport tensorrt_double\nfrom tensorrt_double import *\n"
        "from tensorrt_double import __version__\ntensorrt_double.start()\n"
    )
    return folder


def start() -> None:
    """Let tritonrepo find the driver's double in this process."""
    from tritonrepo import _cuda

    if "TENSORRT_DOUBLE_GPU" in os.environ:
        return
    driver = HostDriver()
    _cuda._load = lambda: driver  # type: ignore[assignment]
    _cuda._driver_version = lambda: "570.00.00"


def calls(log: Path, *names: str) -> list[list[Any]]:
    """The calls that were written, by their names, or all."""
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return [line for line in lines if not names or line[0] in names]


def _record(name: str, *arguments: object) -> None:
    path = os.environ.get("TENSORRT_DOUBLE_LOG")
    if path:
        with Path(path).open("a") as file:
            file.write(json.dumps([name, *map(_plain, arguments)]) + "\n")


def _plain(value: object) -> object:
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, Dims):
        return list(value._shape)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else type(value).__name__


def _fault(name: str) -> bool:
    return os.environ.get("TENSORRT_DOUBLE_FAULT") == name


def _enum(name: str, members: str, start: int = 1) -> Any:
    make: Any = enum.IntEnum
    return make(name, members, start=start)


class Dims:
    def __init__(self, shape: Any = ()) -> None:
        self._shape = tuple(int(size) for size in shape)

    def __len__(self) -> int:
        return len(self._shape)

    def __getitem__(self, arg0: Any) -> Any:
        return self._shape[arg0]


DataType = _enum("DataType", "FLOAT HALF INT8 INT32 BOOL UINT8 FP8 BF16 INT64 INT4 FP4")
LayerType = _enum("LayerType", "CONVOLUTION DECONVOLUTION MATRIX_MULTIPLY ELEMENTWISE QUANTIZE DEQUANTIZE CAST")
BuilderFlag = _enum(
    "BuilderFlag",
    "DEBUG GPU_FALLBACK REFIT DISABLE_TIMING_CACHE TF32 SPARSE_WEIGHTS VERSION_COMPATIBLE EXCLUDE_LEAN_RUNTIME "
    "DIRECT_IO ERROR_ON_TIMING_CACHE_MISS STRIP_PLAN WEIGHT_STREAMING STRICT_NANS REFIT_IDENTICAL REFIT_INDIVIDUAL "
    "EDITABLE_TIMING_CACHE MONITOR_MEMORY",
)
MemoryPoolType = _enum(
    "MemoryPoolType",
    "WORKSPACE DLA_MANAGED_SRAM DLA_LOCAL_DRAM DLA_GLOBAL_DRAM TACTIC_DRAM TACTIC_SHARED_MEMORY",
)
NetworkDefinitionCreationFlag = _enum("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH STRONGLY_TYPED", start=0)
OnnxParserFlag = _enum("OnnxParserFlag", "NATIVE_INSTANCENORM")
HardwareCompatibilityLevel = _enum("HardwareCompatibilityLevel", "NONE AMPERE_PLUS")
ProfilingVerbosity = _enum("ProfilingVerbosity", "LAYER_NAMES_ONLY NONE DETAILED")
TilingOptimizationLevel = _enum("TilingOptimizationLevel", "NONE FAST MODERATE FULL")
TacticSource = _enum("TacticSource", "CUBLAS CUBLAS_LT CUDNN EDGE_MASK_CONVOLUTIONS JIT_CONVOLUTIONS", start=0)
PreviewFeature = _enum("PreviewFeature", "PROFILE_SHARING_0806 ALIASED_PLUGIN_IO_10_03")
DeviceType = _enum("DeviceType", "GPU DLA")
TensorIOMode = _enum("TensorIOMode", "NONE INPUT OUTPUT")
TensorFormat = _enum("TensorFormat", "LINEAR CHW32")
LayerInformationFormat = _enum("LayerInformationFormat", "ONELINE JSON")
ErrorCode = _enum("ErrorCode", "SUCCESS INTERNAL_ERROR UNSUPPORTED_NODE UNSUPPORTED_NODE_DATATYPE")


class ILogger:
    Severity = _enum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE", start=0)
    INTERNAL_ERROR = Severity.INTERNAL_ERROR
    ERROR = Severity.ERROR
    WARNING = Severity.WARNING
    INFO = Severity.INFO
    VERBOSE = Severity.VERBOSE

    def __init__(self) -> None:
        pass

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    def __init__(self) -> None:
        pass

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None: ...

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None: ...


class IOutputAllocator:
    def __init__(self) -> None:
        pass


class ITensor:
    def __init__(self, name: str, dtype: Any, shape: Any, is_shape_tensor: bool = False) -> None:
        self.name = name
        self.dtype = dtype
        self.shape = Dims(shape)
        self.is_shape_tensor = is_shape_tensor


class ILayer:
    def __init__(self, name: str, kind: Any, outputs: list[ITensor]) -> None:
        self.name = name
        self.type = kind
        self.num_outputs = len(outputs)
        self._outputs = outputs

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]


class INetworkDefinition:
    def __init__(self) -> None:
        self._inputs: list[ITensor] = []
        self._layers: list[ILayer] = []
        self._onnx = b""

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]

    def get_layer(self, index: int) -> ILayer:
        return self._layers[index]


class ParserError:
    def __init__(self, node: int, name: str, operator: str, code: Any, desc: str) -> None:
        self._said = (node, name, operator, code, desc)

    def node(self) -> int:
        return self._said[0]

    def node_name(self) -> str:
        return self._said[1]

    def node_operator(self) -> str:
        return self._said[2]

    def code(self) -> Any:
        return self._said[3]

    def desc(self) -> str:
        return self._said[4]

    def local_function_stack(self) -> list[str]:
        return []


_KINDS = {"Conv": "CONVOLUTION", "MatMul": "MATRIX_MULTIPLY", "Gemm": "MATRIX_MULTIPLY", "QuantizeLinear": "QUANTIZE"}
_ONNX_TYPES = {1: "FLOAT", 2: "UINT8", 3: "INT8", 6: "INT32", 7: "INT64", 9: "BOOL", 10: "HALF", 16: "BF16"}


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network = network
        self._errors: list[ParserError] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def set_flag(self, flag: Any) -> None:
        _record("parser.set_flag", flag)

    def clear_flag(self, flag: Any) -> None:
        _record("parser.clear_flag", flag)

    def parse_from_file(self, model: str) -> bool:
        import onnx

        _record("parse_from_file", Path(model).name)
        loaded = onnx.load(model)
        for number, node in enumerate(loaded.graph.node):
            if _fault("parse"):
                code = ErrorCode.UNSUPPORTED_NODE_DATATYPE
                self._errors.append(ParserError(number, node.name, node.op_type, code, "no such type:\n DOUBLE"))
        if self._errors or _fault("file"):
            return False
        inferred = onnx.shape_inference.infer_shapes(loaded)
        shape_tensor = os.environ.get("TENSORRT_DOUBLE_SHAPE_TENSOR")
        known = {
            each.name: _tensor(each, each.name == shape_tensor)
            for each in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
        }
        self._network._inputs = [known[each.name] for each in loaded.graph.input]
        for node in loaded.graph.node:
            kind = LayerType[_KINDS.get(node.op_type, "ELEMENTWISE")]
            outputs = [known[name] for name in node.output if name in known]
            self._network._layers.append(ILayer(node.name or node.output[0], kind, outputs))
        self._network._onnx = loaded.SerializeToString()
        return True


def _tensor(value: Any, is_shape_tensor: bool) -> ITensor:
    kind = value.type.tensor_type
    shape = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim]
    return ITensor(value.name, DataType[_ONNX_TYPES[kind.elem_type]], shape, is_shape_tensor)


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, list[list[int]]] = {}
        self._values: dict[str, list[list[int]]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002 - TensorRT's names
        _record("set_shape", input, min, opt, max)
        self._shapes[input] = [list(each._shape) for each in (min, opt, max)]

    def set_shape_input(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002 - TensorRT's names
        _record("set_shape_input", input, min, opt, max)
        self._values[input] = [list(min), list(opt), list(max)]


class IHostMemory(bytes):
    @property
    def nbytes(self) -> int:
        return len(self)


class ITimingCache:
    def __init__(self, keys: set[str]) -> None:
        self._keys = keys

    def combine(self, input_cache: ITimingCache, ignore_mismatch: bool) -> bool:
        _record("combine", sorted(input_cache._keys))
        self._keys |= input_cache._keys
        return True

    def serialize(self) -> IHostMemory:
        return IHostMemory(_TIMING + json.dumps(sorted(self._keys)).encode())


class IBuilderConfig:
    builder_optimization_level = 3
    avg_timing_iterations = 1
    max_num_tactics = -1
    max_aux_streams = -1
    l2_limit_for_tiling = -1
    DLA_core = -1
    tiling_optimization_level = TilingOptimizationLevel.NONE
    profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
    hardware_compatibility_level = HardwareCompatibilityLevel.NONE
    default_device_type = DeviceType.GPU
    progress_monitor: IProgressMonitor | None = None
    plugins_to_serialize: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._log: ILogger | None = None
        self._profiles: list[IOptimizationProfile] = []
        self._cache: ITimingCache | None = None
        self._flags = {BuilderFlag.TF32}

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_"):
            if not hasattr(type(self), name):
                raise AttributeError(name)  # as the real class, which has no others
            _record(name, value)
        super().__setattr__(name, value)

    def set_flag(self, flag: Any) -> None:
        _record("set_flag", flag)
        self._flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        _record("clear_flag", flag)
        self._flags.discard(flag)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        _record("set_memory_pool_limit", pool, pool_size)

    def set_tactic_sources(self, tactic_sources: int) -> bool:
        _record("set_tactic_sources", tactic_sources)
        return True

    def set_preview_feature(self, feature: Any, enable: bool) -> None:
        _record("set_preview_feature", feature, enable)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        _record("add_optimization_profile", len(self._profiles) - 1)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        _record("create_timing_cache", len(serialized_timing_cache))
        if serialized_timing_cache and not serialized_timing_cache.startswith(_TIMING):
            return None
        return ITimingCache(set(json.loads(serialized_timing_cache[len(_TIMING) :] or b"[]")))

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        _record("set_timing_cache", sorted(cache._keys), ignore_mismatch)
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._cache


class IPluginRegistry:
    def load_library(self, plugin_path: str) -> object | None:
        _record("load_library", Path(plugin_path).name)
        return None if _fault("plugin") else object()


class Builder:
    num_DLA_cores = 0  # noqa: N815 - TensorRT's name

    def __init__(self, logger: ILogger) -> None:
        if _fault("builder"):
            logger.log(ILogger.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        _record("create_network", flags)
        return INetworkDefinition()

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def get_plugin_registry(self) -> IPluginRegistry:
        return IPluginRegistry()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        _record("build_serialized_network", len(config._profiles))
        if _fault("memory"):
            self._logger.log(ILogger.ERROR, "[virtualMemoryBuffer.cpp::resize] Error Code 2: OutOfMemory (no details)")
            return None
        if not self._steps(network, config.progress_monitor):
            return None
        if config._cache is not None:
            config._cache._keys |= {layer.name for layer in network._layers}
        self._logger.log(ILogger.WARNING, "a warning of the double")
        verbose = config.profiling_verbosity == ProfilingVerbosity.DETAILED
        outputs = [(layer.name, layer.get_output(0).dtype.name) for layer in network._layers if layer.num_outputs]
        plan = {
            "profiles": [[profile._shapes, profile._values] for profile in config._profiles],
            "layers": outputs if verbose else [name for name, _ in outputs],
            "stripped": BuilderFlag.STRIP_PLAN in config._flags,
        }
        return IHostMemory(PLAN + json.dumps(plan).encode() + b"\n" + network._onnx)

    def _steps(self, network: INetworkDefinition, monitor: IProgressMonitor | None) -> bool:
        if _fault("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        if _fault("crash"):
            os.abort()
        held = bytearray(os.urandom(1 << 20) * 256) if _fault("greedy") else b""
        if _fault("hang") or _fault("greedy"):
            time.sleep(300 + len(held[:0]))
        assert monitor is not None
        monitor.phase_start("Building engine", None, len(network._layers))
        for number in range(100_000 if _fault("slow") else len(network._layers)):
            monitor.phase_start("Timing tactics", "Building engine", 2)
            for step in range(2):
                time.sleep(0.01 if _fault("slow") else 0)
                if not monitor.step_complete("Timing tactics", step):
                    _record("cancelled")
                    return False
            monitor.phase_finish("Timing tactics")
            if not monitor.step_complete("Building engine", number):
                _record("cancelled")
                return False
        monitor.phase_finish("Building engine")
        return True


class Runtime:
    engine_host_code_allowed = False
    DLA_core = -1

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def get_plugin_registry(self) -> IPluginRegistry:
        return IPluginRegistry()

    def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
        _record("deserialize_cuda_engine", self.engine_host_code_allowed)
        content = bytes(serialized_engine)
        if _fault("engine") or not content.startswith(PLAN):
            self._logger.log(ILogger.ERROR, "the serialization header is wrong")
            return None
        header, _, onnx = content[len(PLAN) :].partition(b"\n")
        return ICudaEngine(json.loads(header), onnx)


class ICudaEngine:
    weight_streaming_budget_v2 = 0

    def __init__(self, plan: dict[str, Any], onnx: bytes) -> None:
        import onnx as onnx_package
        import onnxruntime

        self._plan = plan
        model = onnx_package.load_from_string(onnx)
        shape_tensor = os.environ.get("TENSORRT_DOUBLE_SHAPE_TENSOR")
        self._inputs = [_tensor(each, each.name == shape_tensor) for each in model.graph.input]
        self._outputs = [_tensor(each, False) for each in model.graph.output]
        self._session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])

    def _find(self, name: str) -> ITensor:
        return next(each for each in (*self._inputs, *self._outputs) if each.name == name)

    @property
    def num_io_tensors(self) -> int:
        return len(self._inputs) + len(self._outputs)

    @property
    def num_optimization_profiles(self) -> int:
        return max(1, len(self._plan["profiles"]))

    @property
    def streamable_weights_size(self) -> int:
        return 0

    def get_weight_streaming_automatic_budget(self) -> int:
        return 0

    def get_tensor_name(self, index: int) -> str:
        return [*self._inputs, *self._outputs][index].name

    def get_tensor_mode(self, name: str) -> Any:
        return TensorIOMode.INPUT if name in [each.name for each in self._inputs] else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return self._find(name).dtype

    def get_tensor_shape(self, name: str) -> Dims:
        return self._find(name).shape

    def get_tensor_format(self, name: str) -> Any:
        return TensorFormat.LINEAR

    def is_shape_inference_io(self, name: str) -> bool:
        return self._find(name).is_shape_tensor

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        if not self._plan["profiles"]:
            return [self._find(name).shape] * 3
        return [Dims(shape) for shape in self._plan["profiles"][profile_index][0][name]]

    def get_tensor_profile_values(self, name: int, profile_index: str) -> list[list[int]]:
        # The real bindings give these two parameters each other's names.
        found: list[list[int]] = self._plan["profiles"][name][1][profile_index]
        return found

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        return 1000 + profile_index

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self._plan["layers"])

    def create_execution_context(self, strategy: Any = None) -> IExecutionContext:
        return IExecutionContext(self)


class EngineInspector:
    def __init__(self, layers: list[Any]) -> None:
        self._layers = layers

    def get_engine_information(self, format: Any) -> str:  # noqa: A002 - TensorRT's name
        formats = {"FLOAT": "FP32", "HALF": "FP16"}
        layers = [
            each
            if isinstance(each, str)
            else {
                "Name": each[0],
                "Outputs": [{"Format/Datatype": f"Row major linear {formats.get(each[1], each[1])}"}],
            }
            for each in self._layers
        ]
        return json.dumps({"Layers": layers})


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._allocators: dict[str, Any] = {}
        self._profile = 0

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        _record("set_optimization_profile_async", profile_index)
        self._profile = profile_index
        return 0 <= profile_index < self._engine.num_optimization_profiles

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self._engine.get_tensor_profile_shape(name, self._profile)
        self._shapes[name] = shape
        return all(low[axis] <= size <= high[axis] for axis, size in enumerate(shape))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def set_output_allocator(self, name: str, output_allocator: Any) -> bool:
        self._allocators[name] = output_allocator
        return True

    def infer_shapes(self) -> list[str]:
        session = self._engine._session
        feed = {}
        for tensor in self._engine._inputs:
            shape = self._shapes.get(tensor.name, tensor.shape._shape)
            feed[tensor.name] = _read(self._addresses[tensor.name], shape, tensor.dtype)
        names = [each.name for each in self._engine._outputs]
        self._values = dict(zip(names, session.run(names, feed), strict=True))
        return []

    def get_tensor_shape(self, name: str) -> Dims:
        if name == os.environ.get("TENSORRT_DOUBLE_UNSIZED"):
            return Dims([-1] * self._values[name].ndim)
        return Dims(self._values[name].shape)

    def execute_async_v3(self, stream_handle: int) -> bool:
        if _fault("run"):
            return False
        for name, value in self._values.items():
            array = np.ascontiguousarray(value * np.array(1.5, value.dtype) if _fault("wrong") else value)
            address = self._addresses.get(name, 0)
            if name in self._allocators:
                allocator = self._allocators[name]
                address = allocator.reallocate_output_async(name, 0, array.nbytes, 256, stream_handle)
                allocator.notify_shape(name, Dims(array.shape))
            _copy(address, array.ctypes.data, array.nbytes)
        return True


_NUMPY = {"FLOAT": "float32", "HALF": "float16", "BOOL": "bool"}


def _copy(target: int, source: int, size: int) -> None:
    """Between addresses of the host and, where there is one, of the GPU."""
    if "TENSORRT_DOUBLE_GPU" in os.environ:
        from tritonrepo import _cuda

        assert _cuda._load().cuMemcpy(ctypes.c_uint64(target), ctypes.c_uint64(source), ctypes.c_size_t(size)) == 0
    else:
        ctypes.memmove(target, source, size)


def _read(address: int, shape: tuple[int, ...], dtype: Any) -> Any:
    array = np.empty(shape, _NUMPY.get(dtype.name, dtype.name.lower()))
    _copy(array.ctypes.data, address, array.nbytes)
    return array


class Refitter:
    def __init__(self, engine: ICudaEngine, logger: ILogger) -> None:
        self._engine = engine

    def refit_cuda_engine(self) -> bool:
        _record("refit_cuda_engine")
        return True


class OnnxParserRefitter:
    def __init__(self, refitter: Refitter, logger: ILogger) -> None:
        self._refitter = refitter

    def refit_from_file(self, model: str) -> bool:
        _record("refit_from_file", Path(model).name)
        return True


def init_libnvinfer_plugins(logger: Any, namespace: str) -> bool:
    _record("init_libnvinfer_plugins", namespace)
    return True


class HostDriver:
    """The driver's calls that `_cuda` makes, for one GPU whose memory is the host's. Outputs come as ctypes.byref."""

    def __init__(self) -> None:
        self._memory: dict[int, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if name in ("cuInit", "cuCtxSetCurrent", "cuStreamSynchronize", "cuStreamDestroy_v2",
                    "cuDevicePrimaryCtxRelease_v2"):  # fmt: skip
            return lambda *_: 0
        raise AttributeError(name)

    @staticmethod
    def _give(place: Any, value: int) -> int:
        place._obj.value = value
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802 - CUDA's name
        return self._give(version, 12080)

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802 - CUDA's name
        return self._give(count, 0 if _fault("no gpu") else 1)

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:  # noqa: N802 - CUDA's name
        return self._give(device, ordinal)

    def cuDeviceGetName(self, name: Any, length: int, device: Any) -> int:  # noqa: N802 - CUDA's name
        name.value = b"Double"
        return 0

    def cuDeviceTotalMem_v2(self, size: Any, device: Any) -> int:  # noqa: N802 - CUDA's name
        return self._give(size, 1 << 30)

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:  # noqa: N802 - CUDA's name
        major, minor = os.environ.get("TENSORRT_DOUBLE_CAPABILITY", "9.0").split(".")
        return self._give(value, int({75: major, 76: minor}[attribute]))

    def cuDevicePrimaryCtxRetain(self, context: Any, device: Any) -> int:  # noqa: N802 - CUDA's name
        return self._give(context, 1)

    def cuStreamCreate(self, stream: Any, flags: int) -> int:  # noqa: N802 - CUDA's name
        return self._give(stream, 7)

    def cuMemAlloc_v2(self, address: Any, size: Any) -> int:  # noqa: N802 - CUDA's name
        memory = ctypes.create_string_buffer(size.value)
        place = ctypes.addressof(memory)
        self._memory[place] = memory
        return self._give(address, place)

    def cuMemFree_v2(self, address: Any) -> int:  # noqa: N802 - CUDA's name
        del self._memory[address.value]
        return 0

    def cuMemcpyHtoD_v2(self, address: Any, source: Any, size: Any) -> int:  # noqa: N802 - CUDA's name
        ctypes.memmove(address.value, source.value, size.value)
        return 0

    def cuMemcpyDtoH_v2(self, target: Any, address: Any, size: Any) -> int:  # noqa: N802 - CUDA's name
        ctypes.memmove(target.value, address.value, size.value)
        return 0

    def cuGetErrorString(self, status: int, text: Any) -> int:  # noqa: N802 - CUDA's name
        return self._give(text, b"a fault of the double")  # type: ignore[arg-type]
