"""Spec + profile -> execution accelerator: what runs a model of the ONNX Runtime backend on a GPU.

Names and values are those that the backend hands on (its README and src/onnxruntime.cc, r24.10 to r26.06). It refuses
a parameter of the accelerator tensorrt that it does not know, at load; so does this, before.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tritonrepo.errors import ModelError
from tritonrepo.introspect import Signature
from tritonrepo.profiles import Profile, Shape
from tritonrepo.releases import RELEASES
from tritonrepo.spec import ELEMENT_TYPE, ModelSpec, precision_of

#: What the accelerator tensorrt takes.
PARAMETERS = frozenset(
    {
        "precision_mode", "max_workspace_size_bytes", "int8_calibration_table_name",
        "int8_use_native_calibration_table", "trt_max_partition_iterations", "trt_min_subgraph_size", "trt_dla_enable",
        "trt_dla_core", "trt_engine_cache_enable", "trt_engine_cache_path", "trt_engine_cache_prefix",
        "trt_dump_subgraphs", "trt_force_sequential_engine_build", "trt_context_memory_sharing_enable",
        "trt_layer_norm_fp32_fallback", "trt_timing_cache_enable", "trt_timing_cache_path", "trt_force_timing_cache",
        "trt_detailed_build_log", "trt_build_heuristics_enable", "trt_sparsity_enable",
        "trt_builder_optimization_level", "trt_auxiliary_streams", "trt_tactic_sources", "trt_extra_plugin_lib_paths",
        "trt_profile_min_shapes", "trt_profile_max_shapes", "trt_profile_opt_shapes", "trt_cuda_graph_enable",
        "trt_dump_ep_context_model", "trt_ep_context_file_path", "trt_ep_context_embed_mode",
    }
)  # fmt: skip

#: The first release whose backend takes precision_mode BF16.
_BF16_SINCE = "26.02"


def accelerator(
    spec: ModelSpec, signature: Signature, profile: Profile, release: str
) -> tuple[Mapping[str, object] | None, tuple[str, ...]]:
    """The accelerator as ModelOptimizationPolicy has it, and what the user should know of it.

    Args:
        spec: the model's settings.
        signature: of the ONNX file that is served.
        profile: the shapes that may come.
        release: the Triton release that will serve it.

    Raises:
        ModelError: a parameter that the backend would refuse, or an input whose name cannot be told.
    """
    if spec.engine != "onnxruntime" or spec.accelerator == "none":
        return None, ()
    _check_parameters(spec, release)
    if spec.accelerator == "cuda":
        return {"name": "cuda", "parameters": dict(spec.accelerator_parameters)}, ()
    derived = {
        **_precision(spec, release),
        **_build(spec),
        **_caches(spec),
        **_shapes(signature, profile),
    }
    notes = [f"TensorRT {what}" for what in _left_out(spec)]
    if spec.accelerator_cache is None:
        notes.append("TensorRT builds its engines at every load; accelerator_cache keeps them")
    return {"name": "tensorrt", "parameters": {**derived, **spec.accelerator_parameters}}, tuple(notes)


def _check_parameters(spec: ModelSpec, release: str) -> None:
    given = spec.accelerator_parameters
    if "device_id" in given:
        hint = "Choose GPUs with instances.gpus."
        raise ModelError(f"model {spec.name}: the backend sets device_id itself", where=spec.onnx, hint=hint)
    if spec.accelerator != "tensorrt":
        return
    import difflib

    for name in given:
        if name not in PARAMETERS:
            close = difflib.get_close_matches(name, sorted(PARAMETERS), n=1)
            raise ModelError(
                f"model {spec.name}: the accelerator tensorrt has no parameter {name!r}",
                where=spec.onnx,
                hint=f"Did you mean {close[0]}?" if close else "docs/tensorrt.md lists them.",
            )
    if given.get("precision_mode") == "BF16":
        _check_bf16(spec, release)


def _check_bf16(spec: ModelSpec, release: str) -> None:
    if release < _BF16_SINCE:
        raise ModelError(
            f"model {spec.name}: the backend of release {release} knows no precision_mode BF16",
            where=spec.onnx,
            hint=f"It came with {_BF16_SINCE}.",
        )


def _precision(spec: ModelSpec, release: str) -> dict[str, str]:
    """TensorRT 10 uses the types of the graph only where it is allowed to; 11 always does."""
    known = RELEASES.get(release)
    precision = precision_of(spec).type
    if precision == "fp32" or (known is not None and known.tensorrt_major > 10):
        return {}
    if precision == "bf16":
        _check_bf16(spec, release)
    return {"precision_mode": ELEMENT_TYPE[precision]}


def _build(spec: ModelSpec) -> dict[str, str]:
    options = spec.tensorrt
    found: dict[str, object] = {
        "max_workspace_size_bytes": int(options.workspace_gib * 2**30) if options.workspace_gib else None,
        "trt_builder_optimization_level": options.builder_optimization_level,
        "trt_auxiliary_streams": options.max_aux_streams,
        "trt_sparsity_enable": "1" if options.sparsity else None,
        "trt_dla_enable": "1" if options.dla else None,
        "trt_dla_core": options.dla.core if options.dla else None,
        "trt_tactic_sources": ",".join(f"+{name}" for name in options.tactic_sources or ()) or None,
    }
    return {name: str(value) for name, value in found.items() if value is not None}


def _caches(spec: ModelSpec) -> dict[str, str]:
    """Both caches in one folder on the server. Their files are named by the model, the GPU and TensorRT's version."""
    folder = spec.accelerator_cache
    if folder is None:
        return {}
    engines = {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": folder,
        "trt_engine_cache_prefix": spec.name,
    }
    if spec.tensorrt.timing_cache == "off":
        return engines
    return {**engines, "trt_timing_cache_enable": "1", "trt_timing_cache_path": folder}


def _shapes(signature: Signature, profile: Profile) -> dict[str, str]:
    """Ranges of the inputs with dynamic axes: without them an engine is built anew whenever a larger shape comes."""
    names = [tensor.name for tensor in signature.inputs if any(not isinstance(dim, int) for dim in tensor.shape)]
    for name in names:
        if set(name) & set(":,"):
            raise ModelError(
                f"input {name!r} has a colon or comma in its name, which cannot be told to TensorRT in ONNX Runtime",
                where=signature.path,
                hint="Rename it in the graph, or use engine: tensorrt.",
            )
    ends: dict[str, Mapping[str, Shape]] = {"min": profile.min, "opt": profile.opt, "max": profile.max}
    return {
        f"trt_profile_{end}_shapes": ",".join(f"{name}:{'x'.join(map(str, shapes[name]))}" for name in names)
        for end, shapes in ends.items()
        if names
    }


def _left_out(spec: ModelSpec) -> list[str]:
    """Settings of the block tensorrt that the backend has no parameter for."""
    default = type(spec.tensorrt)()
    handed = {
        "gpu", "workspace_gib", "builder_optimization_level", "max_aux_streams", "sparsity", "dla", "tactic_sources",
        "time_limit_s", "memory_limit_gib",
    }  # fmt: skip
    timing = spec.tensorrt.timing_cache
    if isinstance(timing, Path):
        return ["in ONNX Runtime takes no timing_cache of your own: accelerator_cache names its folder"]
    changed = [
        name
        for name in type(spec.tensorrt).model_fields
        if name not in handed and name != "timing_cache" and getattr(spec.tensorrt, name) != getattr(default, name)
    ]
    return [f"in ONNX Runtime has no setting for {', '.join(changed)}"] if changed else []
