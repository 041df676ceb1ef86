"""The only door to TensorRT: whether plans can be built here, building one, and running one.

Nothing else in tritonrepo imports ``tensorrt``, so that the differences between 10.x and 11.x stay in one place. Both
are used in the one way that both know: the network is strongly typed, and precision is what the ONNX file says. What
a version lacks is asked for by name and is an error that names the version.

Its code was never run with TensorRT's library where it was written: it is held against the real bindings of several
versions (``make trt-api``) and, on a machine with a GPU, against TensorRT itself (``make test-gpu``).
"""

from __future__ import annotations

import ctypes
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tritonrepo import _cuda, _plan_checks, _timing_cache
from tritonrepo.errors import EngineError, ModelError, TritonrepoError

if TYPE_CHECKING:
    import tensorrt as trt

    from tritonrepo._plan_errors import Log
    from tritonrepo._plan_progress import Progress
    from tritonrepo._plan_sidecar import Built, Layer, PlanTensor
    from tritonrepo.plan import BuildRequest, BuiltPlan, Profile, Shape
    from tritonrepo.spec import TensorRT

OLDEST, BEYOND = (10, 8), (12, 0)
"""Versions that this is written for: the first one, and the first one that it is not for."""

_GIB, _MIB, _KIB = 1 << 30, 1 << 20, 1 << 10


@dataclass(frozen=True)
class Availability:
    """Whether plans can be built here."""

    ok: bool
    reason: str
    """What is missing, or what was found (TensorRT, GPU, driver); for people."""
    version: str | None = None
    """Of TensorRT, build number included."""
    gpus: tuple[_cuda.Gpu, ...] = ()


def availability() -> Availability:
    """Look for the bindings, their library, the driver and a GPU; building is not tried."""
    try:
        import tensorrt as trt
    except ImportError as error:
        missing = "the Python bindings are not installed" if isinstance(error, ModuleNotFoundError) else str(error)
        return Availability(False, f"TensorRT cannot be used here: {missing}")
    version = str(trt.__version__)
    if not OLDEST <= _numbers(version)[:2] < BEYOND:
        known = f"{'.'.join(map(str, OLDEST))} to {BEYOND[0] - 1}.x"
        return Availability(False, f"TensorRT {version} is installed; plans are built with {known}", version)
    library = _library_version(version)
    if library and library != _numbers(version)[:3]:
        found = ".".join(map(str, library))
        return Availability(False, f"the bindings are those of TensorRT {version}, but libnvinfer is {found}", version)
    try:
        gpus, driver = _cuda.gpus(), _cuda.driver()
    except EngineError as error:
        return Availability(False, f"TensorRT {version} is installed, but {error.message}", version)
    names = ", ".join(dict.fromkeys(f"{gpu.name} ({gpu.capability})" for gpu in gpus))
    return Availability(True, f"TensorRT {version}, {names}, driver {driver}", version, gpus)


def build(request: BuildRequest, emit: Callable[[object], None]) -> BuiltPlan:
    """Build a plan, for one GPU of this machine; minutes, in a process of its own (see `_plan_build`).

    Args:
        request: what to build, and what both sides promise.
        emit: is given a `PlanProgress` now and then.

    Raises:
        ModelError: TensorRT cannot take the graph, its ranges do not fit, or it is not of the precision asked for.
        EngineError: TensorRT, the GPU or the version is not the one asked for, lacks an option, or built no plan.
    """
    from tritonrepo._plan_errors import Log
    from tritonrepo._plan_progress import Progress
    from tritonrepo.plan import BuiltPlan

    begun = time.monotonic()
    gpu = _plan_checks.required_gpu(request, availability())
    log = Log()
    progress = Progress(emit, request.options.time_limit_s)
    notes: list[str] = []
    with _cuda.Device(gpu.ordinal):
        built, report = _built(request, gpu, log, progress, notes)
    return BuiltPlan(
        request.output, built.tensorrt, built.compute_capability, time.monotonic() - begun, tuple(notes), report
    )


def _built(request: BuildRequest, gpu: _cuda.Gpu, log: Log, progress: Progress, notes: list[str]) -> tuple[Built, Path]:
    """Parse, build, write. All objects of TensorRT are gone when this returns, as the GPU's context is to follow."""
    import tensorrt as trt

    from tritonrepo import _plan_errors
    from tritonrepo._plan_sidecar import Built

    options = request.options
    logger = logger_of(log)
    builder: trt.Builder = _made(lambda: trt.Builder(logger), "builder", log)
    _load_plugins(builder.get_plugin_registry(), logger, options.plugins)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = _parse(network, logger, request, log)
    layers = _layers(network)
    _plan_checks.check_precision(request, layers)
    config = builder.create_builder_config()
    _configure(config, builder, options)
    _add_profiles(builder, config, network, request, log)
    monitor = _monitor(progress)
    config.progress_monitor = monitor
    driver = _cuda.driver()
    timing = _timing_cache.path_of(request, str(trt.__version__), gpu, str(driver))
    _timing_cache.use(config, timing, log, notes)
    try:
        serialized = builder.build_serialized_network(network, config)
    finally:
        _timing_cache.keep(config, timing, notes)
    del parser, monitor  # not before: TensorRT has no more than their addresses
    if serialized is None:
        if progress.stopped == "time":
            raise EngineError(
                f"model {request.model}: the plan was not built within {options.time_limit_s} s",
                hint="Raise tensorrt.time_limit_s, or lower builder_optimization_level. What was measured is kept in "
                "the timing cache, so that the next build is quicker.",
            )
        raise _plan_errors.build_error(request.model, request.onnx, log)
    built = Built(str(trt.__version__), gpu.name, gpu.capability, str(driver), driver.cuda, options, request.precision)
    return built, _write(request, built, layers, memoryview(cast("Any", serialized)), logger, log)


def _parse(network: trt.INetworkDefinition, logger: trt.ILogger, request: BuildRequest, log: Log) -> trt.OnnxParser:
    """Fill the network; returns the parser, which owns weights of it until the plan is built."""
    import tensorrt as trt

    from tritonrepo._plan_errors import ParserFault, parser_error

    parser = trt.OnnxParser(network, logger)
    if request.options.native_instancenorm:
        parser.set_flag(trt.OnnxParserFlag.NATIVE_INSTANCENORM)
    else:
        parser.clear_flag(trt.OnnxParserFlag.NATIVE_INSTANCENORM)
    if request.options.uint8_asymmetric_quantization_dla:
        parser.set_flag(_member(trt.OnnxParserFlag, "ENABLE_UINT8_AND_ASYMMETRIC_QUANTIZATION_DLA"))
    if parser.parse_from_file(str(request.onnx)):
        return parser
    faults = [
        ParserFault(
            error.node(),
            error.node_name(),
            error.node_operator(),
            error.code().name,
            error.desc(),
            tuple(error.local_function_stack()),
        )
        for error in map(parser.get_error, range(parser.num_errors))
    ]
    raise parser_error(request.model, request.onnx, faults, log)


def _layers(network: trt.INetworkDefinition) -> list[Layer]:
    from tritonrepo._plan_sidecar import DTYPES, Layer

    found = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        outputs = [layer.get_output(number) for number in range(layer.num_outputs)]
        dtypes = [_name(output.dtype) for output in outputs if output is not None]
        found.append(Layer(layer.name, _name(layer.type), tuple(DTYPES.get(dtype, dtype) for dtype in dtypes)))
    return found


def _configure(config: trt.IBuilderConfig, builder: trt.Builder, options: TensorRT) -> None:
    """Everything that the options say, but for the timing cache and the profiles."""
    import tensorrt as trt

    if options.runtime_platform != "same_as_build":
        raise EngineError(
            f"a plan for {options.runtime_platform} cannot be proven here, and what is not proven is not published",
            hint="Leave tensorrt.runtime_platform out; Triton's TensorRT backend runs on Linux.",
        )
    _set_memory(config, options)
    _set_flags(config, options)
    _set_search(config, options)
    for name in options.preview_features:
        config.set_preview_feature(_member(trt.PreviewFeature, name), True)
    config.profiling_verbosity = _member(trt.ProfilingVerbosity, options.profiling_verbosity.upper())
    if options.hardware_compatibility != "none":
        level = options.hardware_compatibility.upper()
        config.hardware_compatibility_level = _member(trt.HardwareCompatibilityLevel, level)
    if options.max_aux_streams is not None:
        config.max_aux_streams = options.max_aux_streams
    if options.plugins_in_plan:
        config.plugins_to_serialize = [str(path) for path in options.plugins_in_plan]
    if options.dla is not None:
        _use_dla(config, builder, options.dla.core, options.dla.gpu_fallback)


def _set_search(config: trt.IBuilderConfig, options: TensorRT) -> None:
    """How long and where the builder looks for kernels."""
    import tensorrt as trt

    if options.builder_optimization_level is not None:
        config.builder_optimization_level = options.builder_optimization_level
    if options.avg_timing_iterations is not None:
        config.avg_timing_iterations = options.avg_timing_iterations
    if options.max_num_tactics is not None:
        config.max_num_tactics = options.max_num_tactics
    if options.tiling_optimization_level is not None:
        level = options.tiling_optimization_level.upper()
        config.tiling_optimization_level = _member(trt.TilingOptimizationLevel, level)
    if options.l2_limit_for_tiling_mib is not None:
        config.l2_limit_for_tiling = int(options.l2_limit_for_tiling_mib * _MIB)
    if options.build_route is not None:
        if not hasattr(config, "build_route"):
            raise _lacks("build_route")
        config.build_route = options.build_route
    if options.tactic_sources is not None:
        sources = [_member(trt.TacticSource, name) for name in options.tactic_sources]
        config.set_tactic_sources(sum(1 << int(source) for source in dict.fromkeys(sources)))


def _set_memory(config: trt.IBuilderConfig, options: TensorRT) -> None:
    import tensorrt as trt

    pools = options.memory_pools
    limits = (
        (trt.MemoryPoolType.WORKSPACE, options.workspace_gib, _GIB),
        (trt.MemoryPoolType.TACTIC_DRAM, pools.tactic_dram_gib, _GIB),
        (trt.MemoryPoolType.TACTIC_SHARED_MEMORY, pools.tactic_shared_memory_kib, _KIB),
        (trt.MemoryPoolType.DLA_MANAGED_SRAM, pools.dla_managed_sram_mib, _MIB),
        (trt.MemoryPoolType.DLA_LOCAL_DRAM, pools.dla_local_dram_mib, _MIB),
        (trt.MemoryPoolType.DLA_GLOBAL_DRAM, pools.dla_global_dram_mib, _MIB),
    )
    for pool, amount, unit in limits:
        if amount is not None:
            config.set_memory_pool_limit(pool, int(amount * unit))


def _set_flags(config: trt.IBuilderConfig, options: TensorRT) -> None:
    import tensorrt as trt

    flag = trt.BuilderFlag
    wanted = {
        flag.SPARSE_WEIGHTS: options.sparsity,
        flag.REFIT: options.refit == "all",
        flag.REFIT_IDENTICAL: options.refit == "identical",
        flag.REFIT_INDIVIDUAL: options.refit == "individual",
        flag.STRIP_PLAN: options.strip_plan,
        flag.WEIGHT_STREAMING: options.weight_streaming,
        flag.VERSION_COMPATIBLE: options.version_compatible,
        flag.EXCLUDE_LEAN_RUNTIME: options.exclude_lean_runtime,
        flag.DIRECT_IO: options.direct_io,
        flag.STRICT_NANS: options.strict_nans,
        flag.DISABLE_TIMING_CACHE: options.timing_cache == "off",
        flag.EDITABLE_TIMING_CACHE: options.editable_timing_cache,
        flag.ERROR_ON_TIMING_CACHE_MISS: options.error_on_timing_cache_miss,
    }
    for each in (*(each for each, on in wanted.items() if on), *(_member(flag, name) for name in options.flags)):
        config.set_flag(each)
    if options.tf32:
        config.set_flag(flag.TF32)
    else:
        config.clear_flag(flag.TF32)


def _use_dla(config: trt.IBuilderConfig, builder: trt.Builder, core: int, gpu_fallback: bool) -> None:
    import tensorrt as trt

    if core >= builder.num_DLA_cores:
        raise EngineError(
            f"tensorrt.dla.core is {core}, but this machine has {builder.num_DLA_cores} DLA cores",
            hint="Only Jetson and DRIVE systems have them; leave `dla` out elsewhere.",
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    if gpu_fallback:
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def _add_profiles(
    builder: trt.Builder,
    config: trt.IBuilderConfig,
    network: trt.INetworkDefinition,
    request: BuildRequest,
    log: Log,
) -> None:
    """Tell TensorRT the profiles, in their order; a graph without dynamic axes needs none."""
    import tensorrt as trt

    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    _plan_checks.check_shape_tensors(request, [tensor.name for tensor in inputs if tensor.is_shape_tensor])
    if not any(tensor.is_shape_tensor or -1 in dims(tensor.shape) for tensor in inputs):
        return
    for number, wanted in enumerate(request.profiles):
        profile = builder.create_optimization_profile()
        for tensor in inputs:
            name = tensor.name
            if name not in wanted.opt:
                raise ModelError(
                    f"model {request.model}: profile {number} says nothing of input {name}", where=request.onnx
                )
            if tensor.is_shape_tensor:
                profile.set_shape_input(name, *map(list, wanted.values[name]))
            else:
                profile.set_shape(name, *(trt.Dims(list(at[name])) for at in (wanted.min, wanted.opt, wanted.max)))
        if config.add_optimization_profile(profile) != number:
            raise ModelError(
                f"model {request.model}: TensorRT refuses profile {number}: {log.last() or 'it does not say why'}",
                where=request.onnx,
                hint="Look at `shapes:` of the model: min, opt and max have to fit its inputs.",
            )


def _write(
    request: BuildRequest,
    built: Built,
    layers: Sequence[Layer],
    content: memoryview,
    logger: trt.ILogger,
    log: Log,
) -> Path:
    """Write the plan, what describes it, and the report; the plan last, so that it never stands alone."""
    from tritonrepo import _plan_sidecar as sidecar

    engine = load(content, request.options, logger, log)
    tensors, profiles = tensors_of(engine), profiles_of(engine)
    inspected = _inspect(engine)
    _plan_checks.check_plan(request, sidecar.precisions(inspected), profiles)
    memory = [engine.get_device_memory_size_for_profile_v2(number) for number in range(len(profiles))]
    sizes = {"plan": content.nbytes, "streamable_weights": engine.streamable_weights_size}
    sizes |= {f"device_memory_profile_{number}": size for number, size in enumerate(memory)}
    report = sidecar.report_path_of(request.output)
    _replace(report, sidecar.report(built, layers, inspected, sizes, log.warnings()))
    _replace(sidecar.path_of(request.output), sidecar.description(built, tensors, profiles, memory, content.nbytes))
    _replace(request.output, content)
    return report


def load(content: memoryview | bytes, options: TensorRT, logger: trt.ILogger, log: Log) -> trt.ICudaEngine:
    """A plan as it can be run and asked. This runs code that it carries: only plans that were built here get here."""
    import tensorrt as trt

    runtime: trt.Runtime = _made(lambda: trt.Runtime(logger), "runtime", log)
    _load_plugins(runtime.get_plugin_registry(), logger, options.plugins)
    if options.version_compatible:
        runtime.engine_host_code_allowed = True
    if options.dla is not None:
        runtime.DLA_core = options.dla.core
    engine: trt.ICudaEngine | None = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise EngineError(
            f"TensorRT cannot load the plan: {log.last() or 'it does not say why'}",
            hint="It has to be the TensorRT and the GPU that built it, with the same plugins and enough memory.",
        )
    return engine


def tensors_of(engine: trt.ICudaEngine) -> list[PlanTensor]:
    import tensorrt as trt

    from tritonrepo._plan_sidecar import DTYPES, PlanTensor

    found = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        dtype = _name(engine.get_tensor_dtype(name))
        if dtype not in DTYPES:
            raise ModelError(f"{name} has the type {dtype}, which Triton does not have", hint="Cast it in the graph.")
        found.append(
            PlanTensor(
                name=name,
                is_input=engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
                dtype=DTYPES[dtype],
                shape=dims(engine.get_tensor_shape(name)),
                is_shape=engine.is_shape_inference_io(name),
                linear=engine.get_tensor_format(name) == trt.TensorFormat.LINEAR,
            )
        )
    return found


def profiles_of(engine: trt.ICudaEngine) -> list[Profile]:
    from tritonrepo.plan import Profile

    inputs = [tensor for tensor in tensors_of(engine) if tensor.is_input]
    found = []
    for number in range(engine.num_optimization_profiles):
        shapes: dict[str, list[Shape]] = {}
        values: dict[str, tuple[Shape, Shape, Shape]] = {}
        for tensor in inputs:
            if tensor.is_shape:
                shapes[tensor.name] = [tensor.shape] * 3
                # The bindings' names for these two arguments are swapped.
                low, typical, high = map(tuple, engine.get_tensor_profile_values(number, tensor.name))
                values[tensor.name] = (low, typical, high)
            else:
                shapes[tensor.name] = [dims(each) for each in engine.get_tensor_profile_shape(tensor.name, number)]
        low_, opt, high_ = ({name: three[which] for name, three in shapes.items()} for which in range(3))
        found.append(Profile(low_, opt, high_, values))
    return found


def _inspect(engine: trt.ICudaEngine) -> str:
    import tensorrt as trt

    return str(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def refit(engine: trt.ICudaEngine, logger: trt.ILogger, weights: Path) -> bool:
    """Put weights from an ONNX file into a plan that was loaded without; whether it worked."""
    import tensorrt as trt

    refitter = trt.Refitter(engine, logger)
    parser = trt.OnnxParserRefitter(refitter, logger)
    return bool(parser.refit_from_file(str(weights)) and refitter.refit_cuda_engine())


def _load_plugins(registry: trt.IPluginRegistry, logger: trt.ILogger, libraries: Sequence[Path]) -> None:
    """TensorRT's own plugins, and libraries that the spec names. Loading a library runs its code."""
    import tensorrt as trt

    trt.init_libnvinfer_plugins(cast("Any", logger), "")
    for library in libraries:
        try:
            handle = registry.load_library(str(library))
        except (RuntimeError, OSError, TypeError, ValueError) as error:
            raise EngineError(f"the plugin library cannot be loaded: {error}", where=library) from None
        if handle is None:
            raise EngineError(
                "TensorRT cannot load the plugin library",
                where=library,
                hint="It must be built for this TensorRT and machine, and find the libraries that it needs (`ldd`).",
            )


def logger_of(log: Log) -> trt.ILogger:
    import tensorrt as trt

    class Logger(trt.ILogger):  # type: ignore[misc]  # no types where TensorRT is not installed
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
            if severity not in (trt.ILogger.VERBOSE, trt.ILogger.INFO):
                log.add(_name(severity), msg)

    return Logger()


def _monitor(progress: Progress) -> trt.IProgressMonitor:
    import tensorrt as trt

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # see logger_of
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: Any) -> None:
            progress.start(phase_name, int(num_steps))

        def step_complete(self, phase_name: str, step: Any) -> bool:
            return progress.step(phase_name, int(step))

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

    return Monitor()


def _made(make: Callable[[], Any], what: str, log: Log) -> Any:
    """An object of TensorRT's; it raises TypeError or RuntimeError where the library gave none, and logs the reason."""
    try:
        made = make()
    except (TypeError, RuntimeError) as error:
        raise _no_object(what, log, str(error)) from None
    if made is None:
        raise _no_object(what, log, "it does not say why")
    return made


def _no_object(what: str, log: Log, otherwise: str) -> TritonrepoError:
    return EngineError(
        f"TensorRT makes no {what}: {log.last() or otherwise}",
        hint="Most often the driver is too old for its CUDA, or the GPU for this TensorRT: see `tritonrepo doctor`.",
    )


def _member(enum: Any, name: str) -> Any:
    """A member of an enum by name; EngineError where this version has none of that name."""
    found = enum.__members__.get(name)
    if found is None:
        raise _lacks(f"{enum.__name__}.{name}", tuple(enum.__members__))
    return found


def _lacks(what: str, others: Sequence[str] = ()) -> EngineError:
    import tensorrt as trt

    has = f" It has {', '.join(others)}." if others else ""
    return EngineError(
        f"TensorRT {trt.__version__} has no {what}",
        hint=f"Take the option out of `tensorrt:`, or build with a version that has it.{has}",
    )


def _name(member: Any) -> str:
    return str(member.name)


def dims(dims: Any) -> Shape:
    """TensorRT's Dims, which can be indexed but not iterated by a type checker's rules."""
    return tuple(int(dims[axis]) for axis in range(len(dims)))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _library_version(version: str) -> tuple[int, ...] | None:
    """Version of the library that the bindings have loaded; None where it does not say."""
    try:
        function = ctypes.CDLL(f"libnvinfer.so.{_numbers(version)[0]}").getInferLibVersion
    except (OSError, AttributeError):
        return None
    number = int(function())
    return (number // 10000, number // 100 % 100, number % 100)


def _replace(path: Path, content: bytes | memoryview) -> None:
    """Write a file whole or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def allocator(device: _cuda.Device, addresses: list[int]) -> Any:
    """Gives memory for outputs whose size depends on values, and remembers what came of them."""
    import tensorrt as trt

    class Allocator(trt.IOutputAllocator):  # type: ignore[misc]  # see logger_of
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.places: dict[str, int] = {}
            self.shapes: dict[str, Shape] = {}

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            address = device.allocate(int(size))
            addresses.append(address)
            self.places[tensor_name] = address
            return address

        def reallocate_output_async(self, tensor_name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            return self.reallocate_output(tensor_name, memory, size, alignment)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            self.shapes[tensor_name] = dims(shape)

    return Allocator()
