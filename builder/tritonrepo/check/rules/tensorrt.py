"""TR9xx: TensorRT plans, as far as the build that made them has described them (docs/sidecar.md).

What the TensorRT backend does is read in its sources, branch r24.10; it was not run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tritonrepo.check._plans import Asked, asked, groups, most, plans, selected
from tritonrepo.check._sidecar import FORMAT, SUFFIX, Plan, PlanProfile, plan
from tritonrepo.check._textformat import Message
from tritonrepo.check.edits import removed, replaced
from tritonrepo.check.model import Model
from tritonrepo.check.rule import Spot, Target, Tree, rule
from tritonrepo.check.rules._help import nearest
from tritonrepo.releases import RELEASES, obstacles

_CONFIG = """
backend: "tensorrt"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [ 3, -1 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 5 ] }
"""
_PLAN = b"not a real plan"
_MIN, _MAX = {"x": [1, 3, 64]}, {"x": [8, 3, 512]}
_DESCRIBED: dict[str, Any] = {
    "format": FORMAT,
    "tensorrt_version": "11.1.0.106",
    "cuda": "13.2",
    "compute_capability": "9.0",
    "size_bytes": len(_PLAN),
    "tensors": [
        {"name": "x", "io": "input", "dtype": "FP32", "shape": [-1, 3, -1]},
        {"name": "y", "io": "output", "dtype": "FP32", "shape": [-1, 5]},
    ],
    "profiles": [{"min": _MIN, "opt": _MAX, "max": _MAX}],
}
_SERVER = Target(release="26.07", gpus=("9.0",), gpu_count=1)


def _tree(config: str = _CONFIG, **changes: object) -> Tree:
    return {
        "m/config.pbtxt": config,
        "m/1/model.plan": _PLAN,
        "m/1/model.plan.json": json.dumps({**_DESCRIBED, **changes}, indent=1),
    }


_RIGHT = _tree()


@rule(
    "TR901",
    "reject",
    "plans run on GPUs",
    "The TensorRT backend has no instances but KIND_GPU. An instance group of the kind AUTO, or none at all, is one "
    "for the CPU where the server has no GPU.",
    wrong=_tree(_CONFIG + "instance_group { kind: KIND_CPU }"),
    right=_tree(_CONFIG + "instance_group { kind: KIND_GPU }"),
)
def plans_run_on_gpus(model: Model, target: Target) -> Iterator[Spot]:
    if model.backend != "tensorrt" or model.config.has("ensemble_scheduling"):
        return
    without = target.gpus == () or target.gpu_count == 0
    for message in model.config.all("instance_group"):
        kind = message.get("kind")
        if kind in {"KIND_CPU", "KIND_MODEL"}:
            yield model.spot(
                "kind",
                f"instances of {kind}, but the TensorRT backend runs on GPUs only",
                "Use KIND_GPU.",
                within=message,
                edits=[] if message.all("gpus") else [replaced(message, "kind", "KIND_GPU")],
            )
        elif kind == "KIND_AUTO" and without and not message.all("gpus"):
            yield model.spot_in(message, "a TensorRT model, but the server has no GPU", "Serve it on a GPU host.")
    if without and not model.config.all("instance_group"):
        yield model.spot("backend", "a TensorRT model, but the server has no GPU", "Serve it on a GPU host.")


@rule(
    "TR902",
    "breaks",
    "a plan is the one that its build described",
    "The description that a build leaves beside a plan has the plan's size. Another size means that the plan was cut, "
    "or exchanged for one of which nothing is known.",
    wrong=_tree(size_bytes=4096),
    right=_RIGHT,
)
def plans_are_those_described(model: Model, target: Target) -> Iterator[Spot]:
    if model.backend != "tensorrt" or target.only_core:
        return
    names = dict.fromkeys((model.completed.filename, *model.config.map("cc_model_filenames").values()))
    for path in [f"{version}/{name}" for version in model.served for name in names if name]:
        described = plan(model, path)
        if described is not None and model.files.is_folder(path) is False:
            size = model.files.size(path)
            if size != described.size_bytes:
                yield model.spot_at(
                    path,
                    f"the plan has {size} bytes, {path}{SUFFIX} describes one of {described.size_bytes}",
                    "Copy the plan again, together with its description, or build it again.",
                )


@rule(
    "TR903",
    "reject",
    "a plan is built with the server's TensorRT",
    "A plan is loaded by the version of TensorRT that built it, build number included. One that was built version "
    "compatible is loaded by later versions of the same major one, too.",
    wrong=_tree(tensorrt_version="10.8.0.43"),
    right=_RIGHT,
    target=_SERVER,
)
def plans_are_of_the_release(model: Model, target: Target) -> Iterator[Spot]:
    release = RELEASES.get(target.release)
    for each in plans(model, target) if release is not None else ():
        built = _numbers(each.tensorrt_version)
        wanted = _numbers(release.tensorrt or "") if release is not None else ()
        major = release.tensorrt_major if release is not None else 0
        if not built or (
            built[0] == major
            and (not wanted or wanted[: len(built)] == built or (each.version_compatible and built <= wanted))
        ):
            continue
        has = f"TensorRT {release.tensorrt or f'{major}.x'}" if release is not None else ""
        yield model.spot_at(
            each.path,
            f"the plan was built with TensorRT {each.tensorrt_version}, release {target.release} has {has}",
            f"Build it inside the image of release {target.release}, or serve it with the release it was built for.",
        )


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.split(".")
    return tuple(int(part) for part in parts) if all(part.isascii() and part.isdigit() for part in parts) else ()


@rule(
    "TR904",
    "reject",
    "a plan is built for the GPU that loads it",
    "A plan runs on GPUs of the compute capability that it was built on; one built with hardware compatibility on all "
    "from 8.0. `cc_model_filenames` names the plan for each compute capability; the others load the usual one.",
    wrong=_tree(compute_capability="8.6"),
    right=_RIGHT,
    target=_SERVER,
)
def plans_are_for_the_gpus(model: Model, target: Target) -> Iterator[Spot]:
    found = plans(model, target)
    if not found:
        return
    by_gpu = model.config.map("cc_model_filenames")
    usual = model.completed.filename
    wanted = {(gpu, by_gpu.get(gpu, usual)) for gpu in _used_gpus(model, target)}
    if target.gpus is None:
        wanted = set(by_gpu.items())
    for each in found:
        for gpu, name in sorted(wanted):
            if each.path.partition("/")[2] == name and not _runs_on(each, gpu):
                yield model.spot_at(
                    each.path,
                    f"the plan was built for compute capability {each.compute_capability}, a GPU of {gpu} loads it",
                    f"Build a plan on a GPU of {gpu} and name it in cc_model_filenames, or build one that fits both.",
                )


def _used_gpus(model: Model, target: Target) -> Iterator[str]:
    """Compute capabilities of the GPUs that have an instance."""
    gpus = target.gpus or ()
    for group in groups(model):
        chosen = group.message.all("gpus") if group.message is not None else ()
        yield from (gpus[index] for index in chosen if 0 <= index < len(gpus)) if chosen else gpus


def _runs_on(described: Plan, gpu: str) -> bool:
    if described.hardware_compatibility == "ampere_plus":
        return _numbers(gpu) >= (8, 0)
    return described.compute_capability == gpu


@rule(
    "TR905",
    "reject",
    "a config names all inputs and outputs of the plan",
    "The TensorRT backend wants every input and output of the plan in the config, as input, output, control, state or "
    "batch input, and nothing that the plan does not have. Inputs, or outputs, may be left out altogether.",
    wrong=_tree(_CONFIG.replace('name: "y"', 'name: "scores"')),
    right=_RIGHT,
)
def plan_tensors_are_named(model: Model, target: Target) -> Iterator[Spot]:
    for each in plans(model, target):
        named = {want.name for want in asked(model)}
        for field in ("batch_input", "batch_output"):
            named |= {name for message in model.config.all(field) for name in message.all("target_name")}
        for want in asked(model):
            tensor = each.tensor(want.name)
            known = [other.name for other in each.tensors if other.is_input == want.is_input]
            if tensor is None or tensor.is_input != want.is_input:
                yield model.spot(
                    want.field,
                    f"{each.path} has no {'input' if want.is_input else 'output'} {want.name!r} ({want.kind})",
                    nearest(want.name, known) or f"It has: {', '.join(known) or 'none'}.",
                    within=want.message,
                )
        for tensor in each.tensors:
            field = "input" if tensor.is_input else "output"
            if tensor.name not in named and model.config.all(field):
                yield model.spot(field, f"{field} {tensor.name!r} of {each.path} is missing", "Declare it.")


def _completed(want: Asked, field: str) -> bool:
    """Whether the backend takes it from the plan, because the config leaves it out."""
    return want.kind in {"input", "output"} and want.message.get(field) in {"TYPE_INVALID", ()}


def _whole_shapes(model: Model, described: Plan) -> Iterator[tuple[Asked, Any]]:
    """Shape tensors for which the config counts the value of the batch axis."""
    for want in asked(model):
        tensor = described.tensor(want.name)
        if tensor is None or not (tensor.is_shape and tensor.shape and want.dims):
            continue
        if want.kind in {"input", "output"} and want.dims[0] + 1 != tensor.shape[0]:
            yield want, tensor


def _matched(model: Model, described: Plan) -> Iterator[tuple[Asked, Any]]:
    """What the config names and the plan has, shape tensors aside."""
    for want in asked(model):
        tensor = described.tensor(want.name)
        if tensor is not None and tensor.is_input == want.is_input and not tensor.is_shape:
            yield want, tensor


@rule(
    "TR906",
    "reject",
    "data types are those of the plan",
    "The TensorRT backend compares the types of inputs, outputs, controls and states.",
    wrong=_tree(_CONFIG.replace('"x" data_type: TYPE_FP32', '"x" data_type: TYPE_FP16')),
    right=_RIGHT,
)
def types_are_those_of_the_plan(model: Model, target: Target) -> Iterator[Spot]:
    for each in plans(model, target):
        for want, tensor in _matched(model, each):
            if want.data_type not in {tensor.data_type, None} and not _completed(want, "data_type"):
                field = "data_type" if want.message.has("data_type") else want.field
                yield model.spot(
                    field,
                    f"{want.kind} {want.name!r} is {want.data_type}, in {each.path} it is {tensor.data_type}",
                    f"Use {tensor.data_type}.",
                    within=want.message,
                )


@rule(
    "TR907",
    "reject",
    "dims fit the plan",
    "An input or output has as many dims as in the plan, the batch axis aside, and the same size wherever both fix it. "
    "A control is [1] after the batch axis, and a ragged input a flat one.",
    wrong=_tree(_CONFIG.replace("[ 5 ]", "[ 5, 1 ]")),
    right=_RIGHT,
)
def dims_fit_the_plan(model: Model, target: Target) -> Iterator[Spot]:
    for each in plans(model, target):
        scattered = {name for batch in model.config.all("batch_output") for name in batch.all("target_name")}
        batching = _batch(model, each) > 0
        if batching and not model.config.get("max_batch_size"):
            for want, tensor in _whole_shapes(model, each):
                yield model.spot(
                    "dims",
                    f"{want.kind} {want.name!r} counts the batch axis among its values, while other dims lack it",
                    f"Write dims: [{tensor.shape[0] - 1}], or the batch axis everywhere.",
                    within=want.message,
                )
        for want, tensor in _matched(model, each):
            if want.name in scattered or _completed(want, "dims"):
                continue
            full = (-1, *want.dims) if batching else want.dims
            if want.ragged:
                fits = tensor.shape == want.dims[:1]
            elif want.kind == "control" and -1 in tensor.shape:
                fits = tensor.shape[0] == (-1 if batching else 1) and set(tensor.shape[1:]) <= {1}
            else:
                fits = bool(tensor.shape or not batching) and len(full) == len(tensor.shape)
                fits = fits and all(
                    -1 in {one, other} or one == other for one, other in zip(full, tensor.shape, strict=True)
                )
            if not fits:
                wanted = list(tensor.shape[1:] if batching else tensor.shape)
                yield model.spot(
                    "dims" if want.message.has("dims") else want.field,
                    f"{want.kind} {want.name!r} is {list(want.dims)}, in {each.path} it is {list(tensor.shape)}",
                    f"Write dims: {wanted}{' (the batch axis is left out)' if batching else ''}.",
                    within=want.message,
                )


def _batch(model: Model, described: Plan) -> int:
    """max_batch_size; where it is 0, what the backend makes of it: the dims tell whether they lack the batch axis."""
    batch: int = model.config.get("max_batch_size")
    if batch:
        return batch
    ranks = [
        (len(want.dims), len(tensor.shape))
        for want, tensor in _matched(model, described)
        if want.kind in {"input", "output"} and want.dims
    ]
    if ranks and all(of_config != of_plan - 1 for of_config, of_plan in ranks):
        return 0
    return _largest(model, described)


def _largest(model: Model, described: Plan) -> int:
    """The largest batch of the profiles that instances select, or of all where they select none that there is."""
    chosen = [profile for _, _, profile in selected(model, described)] or described.profiles
    return max((most(described, profile) for profile in chosen), default=0)


@rule(
    "TR908",
    "reject",
    "fixed dims are within every selected profile",
    "A size that the config fixes must be within the range of each optimization profile that an instance selects, the "
    "first one where it selects none.",
    wrong=_tree(_CONFIG.replace("[ 3, -1 ]", "[ 3, 1024 ]")),
    right=_RIGHT,
)
def dims_are_within_the_profiles(model: Model, target: Target) -> Iterator[Spot]:
    for each in plans(model, target):
        batching = _batch(model, each) > 0
        seen: set[tuple[str, int]] = set()
        for _, number, profile in selected(model, each):
            for want, _ in _matched(model, each):
                dims = (-1, *want.dims) if batching else want.dims
                why = _outside(dims, profile, want.name) if want.is_input and not want.ragged else ""
                if why and (want.name, number) not in seen:
                    seen.add((want.name, number))
                    yield model.spot(
                        "dims" if want.message.has("dims") else want.field,
                        f"{want.kind} {want.name!r} is {list(want.dims)}: {why} in profile {number} of {each.path}",
                        "Use a size within the profile, or -1.",
                        within=want.message,
                    )


def _outside(dims: tuple[int, ...], profile: PlanProfile, name: str) -> str:
    least, largest = profile.min.get(name, ()), profile.max.get(name, ())
    if len(least) != len(dims) or len(largest) != len(dims):
        return ""  # TR907 has that
    for axis, (dim, low, high) in enumerate(zip(dims, least, largest, strict=True)):
        if dim != -1 and not low <= dim <= high:
            return f"axis {axis} goes from {low} to {high}"
    return ""


@rule(
    "TR909",
    "reject",
    "max_batch_size is within the profiles",
    "`max_batch_size` must not be above the largest batch of the profiles that instances select.",
    wrong=_tree(_CONFIG.replace("max_batch_size: 8", "max_batch_size: 32")),
    right=_RIGHT,
)
def batches_are_within_the_profiles(model: Model, target: Target) -> Iterator[Spot]:
    batch = model.config.get("max_batch_size")
    for each in plans(model, target):
        largest = _largest(model, each)
        if batch > largest and any(selected(model, each)):
            yield model.spot(
                "max_batch_size",
                f"max_batch_size is {batch}, the profiles of {each.path} go to {largest}",
                f"Set max_batch_size: {largest}, or build the plan for {batch}.",
            )


@rule(
    "TR910",
    "reject",
    "the profiles of instances are in the plan",
    "`profile` of an instance group names optimization profiles by their number, from 0.",
    wrong=_tree(_CONFIG + 'instance_group { kind: KIND_GPU profile: "1" }'),
    right=_tree(_CONFIG + 'instance_group { kind: KIND_GPU profile: "0" }'),
)
def profiles_are_in_the_plan(model: Model, target: Target) -> Iterator[Spot]:
    for each in plans(model, target):
        for group in groups(model):
            for index, (text, number) in enumerate(group.profiles):
                if number >= len(each.profiles) and group.message is not None:
                    count = len(each.profiles)
                    yield model.spot(
                        "profile",
                        f"profile {text}, but {each.path} has {count} profile{'s' if count != 1 else ''}",
                        f'Use "0"{f" to {count - 1}" if count > 1 else ""}.',
                        within=group.message,
                        index=index,
                    )


@rule(
    "TR911",
    "breaks",
    "every batch has a profile",
    "The batcher forms batches of any size up to `max_batch_size`. Each instance must have, among the profiles that it "
    "selects, one for every size: requests for the others fail.",
    wrong=_tree(profiles=[{"min": {"x": [4, 3, 64]}, "opt": _MAX, "max": _MAX}]),
    right=_RIGHT,
)
def every_batch_has_a_profile(model: Model, target: Target) -> Iterator[Spot]:
    batch = model.config.get("max_batch_size")
    for each in plans(model, target) if batch > 0 else ():
        for group in groups(model):
            ranges = sorted(
                (_least(each, profile), most(each, profile))
                for other, _, profile in selected(model, each)
                if other == group
            )
            gap = _first_gap(ranges, min(batch, _largest(model, each))) if ranges else 0
            if gap:
                shown = ", ".join(f"{low} to {high}" for low, high in ranges)
                message = f"a batch of {gap} has no profile in {each.path} (there are: {shown})"
                hint = "Build the plan with a profile from 1 to max_batch_size, or select more profiles."
                if group.message is None:
                    yield model.spot("max_batch_size", message, hint)
                else:
                    yield model.spot("profile", message, hint, within=group.message)


def _least(described: Plan, profile: PlanProfile) -> int:
    return max(
        (
            profile.min[tensor.name][0]
            for tensor in described.inputs
            if not tensor.is_shape and profile.min.get(tensor.name)
        ),
        default=0,
    )


def _first_gap(ranges: list[tuple[int, int]], batch: int) -> int:
    """The first size from 1 to ``batch`` that no range has; 0 where there is none."""
    wanted = 1
    for low, high in ranges:
        if low > wanted:
            break
        wanted = max(wanted, high + 1)
    return wanted if wanted <= batch else 0


@rule(
    "TR912",
    "reject",
    "specs of CUDA graphs are possible",
    "With CUDA graphs on, each `graph_spec` has a batch from 1 to `max_batch_size`, or 0 where the model does not "
    "batch, and a lower bound that is not above it, in the batch and in every dim of every input.",
    wrong=_tree(_CONFIG + "optimization { cuda { graphs: true graph_spec { batch_size: 16 } } }"),
    right=_tree(_CONFIG + "optimization { cuda { graphs: true graph_spec { batch_size: 8 } } }"),
)
def graph_specs_are_possible(model: Model, target: Target) -> Iterator[Spot]:
    if target.only_core or model.backend != "tensorrt" or not model.config.has("optimization"):
        return
    cuda, batch = model.config.get("optimization").get("cuda"), model.config.get("max_batch_size")
    described = next(iter(plans(model, target)), None)
    if batch == 0:
        if described is None:
            return  # the backend takes it from the plan
        batch = _batch(model, described)
    for spec in cuda.all("graph_spec") if cuda.get("graphs") else ():
        why = _impossible(spec, batch)
        if why:
            yield model.spot_in(spec, f"a spec of a CUDA graph {why}", "Correct it, or remove it.")


def _impossible(spec: Message, batch: int) -> str:
    lower = spec.get("graph_lower_bound") if spec.has("graph_lower_bound") else spec
    sizes = spec.get("batch_size"), lower.get("batch_size")
    if not all(0 < size <= batch if batch else size == 0 for size in sizes):
        return f"with batches of {sizes[0]} and from {sizes[1]}, where max_batch_size is {batch}"
    if sizes[1] > sizes[0]:
        return f"whose lower bound {sizes[1]} is above its batch {sizes[0]}"
    lower_inputs = lower.map("input")
    for name, shape in spec.map("input").items():
        dims = shape.all("dim")
        bounds = lower_inputs[name].all("dim") if name in lower_inputs else None
        if bounds is None or len(bounds) != len(dims):
            return f"whose lower bound lacks the dims of input {name!r}"
        if any(low < 0 or dim < low for low, dim in zip(bounds, dims, strict=True)):
            return f"whose lower bound for input {name!r} is above its dims"
    return ""


@rule(
    "TR913",
    "reject",
    "shape tensors and vector formats are the plan's",
    "`is_shape_tensor` and `is_non_linear_format_io` may be left out: the backend finds them in the plan. Where the "
    "plan has a plain tensor, they must not be true.",
    wrong=_tree(_CONFIG.replace("dims: [ 5 ]", "dims: [ 5 ] is_shape_tensor: true")),
    right=_RIGHT,
)
def special_tensors_are_the_plans(model: Model, target: Target) -> Iterator[Spot]:
    for each in plans(model, target):
        for want in asked(model):
            tensor = each.tensor(want.name)
            if tensor is None or want.kind not in {"input", "output"}:
                continue
            for field, is_so in (("is_shape_tensor", tensor.is_shape), ("is_non_linear_format_io", not tensor.linear)):
                if want.message.get(field) and not is_so:
                    yield model.spot(
                        field,
                        f"{want.kind} {want.name!r} is marked {field}, in {each.path} it is a plain tensor",
                        f"Remove {field}.",
                        within=want.message,
                        edits=[removed(want.message, field)],
                    )


@rule(
    "TR914",
    "reject",
    "the release runs on the GPUs",
    "A release supports GPUs from a compute capability on. On an older one its TensorRT loads no plan, not even one "
    "that was built there.",
    wrong=_RIGHT,
    right=_tree(_CONFIG + "instance_group { kind: KIND_GPU gpus: [ 0 ] }"),
    target=Target(release="26.07", gpus=("9.0", "7.0"), gpu_count=2),
)
def release_runs_on_the_gpus(model: Model, target: Target) -> Iterator[Spot]:
    if model.backend != "tensorrt" or target.only_core:
        return
    for gpu in sorted(set(_used_gpus(model, target))):
        for obstacle in obstacles(target.release, capability=gpu):
            yield model.spot("backend", obstacle.what, f"{obstacle.hint[0].upper()}{obstacle.hint[1:]}.")
