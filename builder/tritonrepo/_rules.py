"""What no single key can say: settings of one model that contradict each other.

Each rule yields problems whose paths are relative to the model.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tritonrepo._faults import KeyPath, Problem, closest
from tritonrepo.spec import precision_of

if TYPE_CHECKING:
    from tritonrepo.spec import (
        AxisRange,
        Batching,
        ModelDefaults,
        ModelSpec,
        ProfileChoice,
        Spec,
        TensorRange,
        TensorRT,
        ValueRange,
    )

MAX_NAME = 128
NAME = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{MAX_NAME - 1}}}")


def fit_name(text: str) -> str:
    """The nearest name that is fit for a directory and a URL: ``Mein Modell (v2)`` becomes ``Mein_Modell_v2``."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", plain).lstrip(".-").rstrip("._-")[:MAX_NAME] or "model"


def contradictions(model: ModelDefaults) -> Iterator[Problem]:
    """Settings that cannot hold together, wherever they come from."""
    yield from _batching(model.batching)
    yield from _priorities(model.batching)
    yield from _instances(model)
    yield from _versions(model)
    yield from _warmup(model)
    yield from _verification(model)
    yield from _precision(model)
    yield from _tensorrt(model.tensorrt)
    yield from _profiles(model.profiles, ("profiles",))
    yield from _configs(model)


def without_effect(model: ModelDefaults) -> Iterator[Problem]:
    """Settings that another one switches off: a fault where a model states them itself, not where it inherits them."""
    yield from _other_engine(model)
    yield from _precision_without_effect(model)
    batching = model.batching
    if batching.max_batch_size != 0 and batching.dynamic:
        return
    reason = "max_batch_size is 0" if batching.max_batch_size == 0 else "dynamic is false"
    keys = ["preferred_batch_sizes", "preserve_ordering", "priority_levels", "default_priority_level", "queue_policy"]
    keys += ["priority_queue_policies"] + ["opt_batch_size"] * (batching.max_batch_size == 0)
    for key in keys:
        if getattr(batching, key) != type(batching).model_fields[key].get_default(call_default_factory=True):
            yield Problem(("batching", key), f"has no effect: {reason}", at="key")


def _other_engine(model: ModelDefaults) -> Iterator[Problem]:
    if model.engine != "onnxruntime":
        for key in ("accelerator", "accelerator_parameters"):
            if getattr(model, key) not in ("none", {}):
                yield Problem((key,), "has no effect without engine: onnxruntime", at="key")
    elif model.accelerator_parameters and model.accelerator == "none":
        yield Problem(("accelerator_parameters",), "has no effect: accelerator is none", at="key")
    if model.accelerator_cache is not None and model.accelerator != "tensorrt":
        yield Problem(("accelerator_cache",), "has no effect without accelerator: tensorrt", at="key")
    if model.engine in ("onnxruntime", "python"):
        keys = ["profiles", "cuda_graphs"] + ["tensorrt"] * (model.accelerator != "tensorrt")
        for key in keys:
            if getattr(model, key) != type(model).model_fields[key].get_default(call_default_factory=True):
                yield Problem((key,), f"has no effect with engine: {model.engine}, which builds no plan", at="key")
    if model.engine in ("onnxruntime", "python") and model.fallback != "none":
        yield Problem(
            ("fallback",), f"has no effect with engine: {model.engine}, which serves the ONNX itself", at="key"
        )


def shape_problems(model: ModelSpec) -> Iterator[Problem]:
    """Ranges whose ends are in the wrong order."""
    for name, bounds in model.shapes.items():
        yield from _range(bounds, ("shapes", name))
    for name, values in model.shape_values.items():
        yield from _range(values, ("shape_values", name))


def missing_model_files(model: ModelSpec) -> Iterator[Problem]:
    """Files that only a model can name, and that are not there."""
    yield from _missing(model.onnx, ("onnx",))
    for output, labels in model.labels.items():
        yield from _missing(labels, ("labels", output))


def missing_files(model: ModelDefaults) -> Iterator[Problem]:
    """Files that defaults can name too, and that are not there."""
    for index, sample in enumerate(model.verification.samples):
        yield from _missing(sample, ("verification", "samples", index))
    for index, sample in enumerate(precision_of(model).calibration):
        yield from _missing(sample, ("precision", "calibration", index))
    for index, request in enumerate(model.warmup if isinstance(model.warmup, tuple) else ()):
        for tensor, data in request.inputs.items():
            if isinstance(data.data, Path):
                yield from _missing(data.data, ("warmup", index, "inputs", tensor, "data"))
    for key in ("plugins", "plugins_in_plan"):
        for index, library in enumerate(getattr(model.tensorrt, key)):
            yield from _missing(library, ("tensorrt", key, index))


def folders(spec: Spec, *, stated: bool) -> Iterator[Problem]:
    """Folders that must not lie in each other, or must exist.

    Args:
        spec: with absolute paths.
        stated: whether the spec names its cache itself.
    """
    repository, cache = Path(os.path.realpath(spec.repository)), Path(os.path.realpath(spec.cache))
    if cache.is_relative_to(repository):
        message = f"the cache {spec.cache} lies in the repository {spec.repository}"
        hint = "Triton takes every folder in its repository for a model; put the cache elsewhere"
        yield Problem(("cache" if stated else "repository",), message, hint)
    elif repository.is_relative_to(cache):
        message = f"the repository {spec.repository} lies in the cache {spec.cache}"
        yield Problem(("repository",), message, "the cache may be deleted at any time; put the repository elsewhere")
    if spec.templates and not spec.templates.is_dir():
        yield Problem(("templates",), f"there is no folder {spec.templates}")


def _limit(batching: Batching) -> tuple[int, str]:
    """The largest batch that there may be, and the key that says so."""
    if batching.max_batch_size == "auto":
        return batching.default_max_batch_size, "default_max_batch_size"
    return batching.max_batch_size, "max_batch_size"


def _batching(batching: Batching) -> Iterator[Problem]:
    limit, key = _limit(batching)
    if limit == 0:
        return
    for index, size in enumerate(batching.preferred_batch_sizes):
        if size > limit:
            yield Problem(("batching", "preferred_batch_sizes", index), f"{size} is more than {key}, {limit}")
    if batching.opt_batch_size is not None and batching.opt_batch_size > limit:
        message = f"{batching.opt_batch_size} is more than {key}, {limit}"
        yield Problem(("batching", "opt_batch_size"), message)


def _priorities(batching: Batching) -> Iterator[Problem]:
    levels = batching.priority_levels
    hint = None if levels else "set priority_levels"
    level = batching.default_priority_level
    if level is not None and not 1 <= level <= levels:
        message = f"must be a level from 1 to {levels}, not {level}" if levels else "there are no priority levels"
        yield Problem(("batching", "default_priority_level"), message, hint)
    for level in batching.priority_queue_policies:
        if level > levels:
            message = f"levels go from 1 to {levels}" if levels else "there are no priority levels"
            yield Problem(("batching", "priority_queue_policies", str(level)), message, hint, at="key")
    if not batching.preserve_ordering:
        return
    if levels > 1:
        message = "cannot be kept with several priority levels, which let requests overtake each other"
        yield Problem(("batching", "preserve_ordering"), message)
    policies = {("queue_policy",): batching.queue_policy} | {
        ("priority_queue_policies", str(level)): policy for level, policy in batching.priority_queue_policies.items()
    }
    for path, policy in policies.items():
        if policy and policy.timeout_action == "delay" and policy.default_timeout_us:
            message = "delay puts late requests behind others, which preserve_ordering forbids"
            yield Problem(("batching", *path, "timeout_action"), message, "use reject, or no timeout")


def _instances(model: ModelDefaults) -> Iterator[Problem]:
    for index, group in enumerate(model.instances):
        if group.kind in ("cpu", "model") and group.gpus:
            yield Problem(("instances", index, "gpus"), f"instances of kind {group.kind} take no gpus")
        if group.kind in ("cpu", "model") and model.engine == "onnxruntime" and model.accelerator != "none":
            yield Problem(("instances", index, "kind"), f"the accelerator {model.accelerator} is for GPUs", "use gpu")
        if group.kind in ("cpu", "model") and model.engine == "tensorrt":
            yield Problem(("instances", index, "kind"), "the engine tensorrt runs on GPUs only", "use gpu, or auto")


def _versions(model: ModelDefaults) -> Iterator[Problem]:
    given = [key for key in ("latest", "all", "specific") if getattr(model.versions, key) is not None]
    if len(given) > 1:
        yield Problem(("versions",), f"give only one of {', '.join(given)}", at="key")


def _warmup(model: ModelDefaults) -> Iterator[Problem]:
    if isinstance(model.warmup, str):
        return
    limit, key = _limit(model.batching)
    first: dict[str, int] = {}
    for index, request in enumerate(model.warmup):
        if first.setdefault(request.name, index) != index:
            message = f'"{request.name}" is also the name of warmup[{first[request.name]}]'
            yield Problem(("warmup", index, "name"), message)
        if request.batch_size > max(limit, 1):
            yield Problem(("warmup", index, "batch_size"), f"{request.batch_size} is more than {key}, {limit}")


def _verification(model: ModelDefaults) -> Iterator[Problem]:
    verification = model.verification
    if not verification.samples and verification.generated == 0:
        message = "without samples and with generated: 0 there is nothing to verify with"
        yield Problem(("verification", "generated"), message, "give samples, or generate at least 1")
    if verification.low is not None and verification.high is not None and verification.low >= verification.high:
        yield Problem(("verification", "low"), f"must be less than high, {verification.high:g}")


def _precision(model: ModelDefaults) -> Iterator[Problem]:
    precision = precision_of(model)
    half = precision.type in ("fp16", "mixed") or (precision.type == "int8" and precision.rest == "fp16")
    if precision.io == "convert" and not half:
        message = f"convert makes FP16 of inputs and outputs, which type {precision.type} does not"
        yield Problem(("precision", "io"), message, "leave it out, or set type: fp16 or mixed")


def missing_calibration(model: ModelSpec) -> Iterator[Problem]:
    """INT8 without samples: a fault of the model, for its samples may stand beside a precision from the defaults."""
    if precision_of(model).type == "int8" and not precision_of(model).calibration and not model.verification.samples:
        path: KeyPath = ("precision",) if isinstance(model.precision, str) else ("precision", "type")
        hint = "give precision.calibration or verification.samples: files .npz with inputs that the model is made for"
        yield Problem(path, "int8 needs samples to take its ranges from", hint)


def _precision_without_effect(model: ModelDefaults) -> Iterator[Problem]:
    precision = precision_of(model)
    if isinstance(model.precision, str):
        return
    reasons = {}
    if precision.type != "int8":
        reasons = dict.fromkeys(
            ("calibration", "calibration_method", "percentile", "rest"), f"type is {precision.type}"
        )
    elif precision.calibration_method != "percentile":
        reasons["percentile"] = f"calibration_method is {precision.calibration_method}"
    if precision.type == "fp32":
        reasons |= dict.fromkeys(("keep_fp32", "search", "max_runs"), "type is fp32")
    elif not precision.search:
        reasons["max_runs"] = "search is false"
    for key, reason in reasons.items():
        if key in precision.model_fields_set:
            yield Problem(("precision", key), f"has no effect: {reason}", at="key")


def _tensorrt(options: TensorRT) -> Iterator[Problem]:
    if options.strip_plan and options.refit == "off":
        message = "leaves out nothing, because no weight is refittable"
        yield Problem(("tensorrt", "strip_plan"), message, "set refit: identical, or all")
    if not options.version_compatible:
        for key in ("exclude_lean_runtime", "plugins_in_plan"):
            if getattr(options, key):
                yield Problem(("tensorrt", key), "is for version compatible plans only", "set version_compatible: true")
    if options.timing_cache == "off" and (options.error_on_timing_cache_miss or options.editable_timing_cache):
        yield Problem(("tensorrt", "timing_cache"), "is off, but other settings need one")
    if isinstance(options.timing_cache, Path) and not options.timing_cache.parent.is_dir():
        yield Problem(("tensorrt", "timing_cache"), f"there is no folder {options.timing_cache.parent}")


def _profiles(profiles: ProfileChoice | None, path: KeyPath) -> Iterator[Problem]:
    """Ranges of listed profiles whose ends are in the wrong order."""
    for index, profile in enumerate(profiles if isinstance(profiles, tuple) else ()):
        if profile.batch:
            yield from _range(profile.batch, (*path, index, "batch"))
        for name, bounds in profile.shapes.items():
            yield from _range(bounds, (*path, index, "shapes", name))
        for name, values in profile.shape_values.items():
            yield from _range(values, (*path, index, "shape_values", name))


def _configs(model: ModelDefaults) -> Iterator[Problem]:
    for name, config in model.configs.items():
        path = ("configs", name)
        if not NAME.fullmatch(name):
            message = f'"{name}" is not fit for a file name'
            yield Problem(path, message, f"for instance: {fit_name(name)}", at="key")
        yield from _profiles(config.profiles, (*path, "profiles"))
        if config.batching:
            for found in (*_batching(config.batching), *_priorities(config.batching)):
                yield Problem((*path, *found.path), found.message, found.hint, found.at)


def _range(bounds: AxisRange | TensorRange | ValueRange, path: KeyPath) -> Iterator[Problem]:
    opt = bounds.max if bounds.opt is None else bounds.opt
    low, typical, high = (end if isinstance(end, tuple) else (end,) for end in (bounds.min, opt, bounds.max))
    if not len(low) == len(typical) == len(high):
        yield Problem(path, "min, opt and max must have the same number of dims", at="key")
    elif not all(a <= b <= c for a, b, c in zip(low, typical, high, strict=True)):
        yield Problem(path, "must be min <= opt <= max" + (" in each dim" if isinstance(opt, tuple) else ""), at="key")


def _missing(file: Path, path: KeyPath) -> Iterator[Problem]:
    if os.path.isfile(file):  # noqa: PTH113 - a third of the time of Path.is_file, for hundreds of models
        return
    if file.is_dir():
        yield Problem(path, f"{file} is a folder, not a file")
        return
    folder = file.parent
    if not folder.is_dir():
        yield Problem(path, f"{file} does not exist", f"nor does the folder {folder}")
        return
    similar = closest(file.stem, sorted(other.stem for other in folder.iterdir() if other.suffix == file.suffix))
    yield Problem(path, f"{file} does not exist", f"did you mean {similar}{file.suffix}?" if similar else None)
