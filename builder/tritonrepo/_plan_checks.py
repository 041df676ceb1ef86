"""What must hold of a build besides TensorRT's own rules: the GPU, the precision, shape tensors, the plan itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tritonrepo import _cuda
from tritonrepo.errors import EngineError, ModelError
from tritonrepo.releases import obstacles
from tritonrepo.spec import ELEMENT_TYPE

if TYPE_CHECKING:
    from tritonrepo._plan_sidecar import Layer
    from tritonrepo._tensorrt import Availability
    from tritonrepo.plan import BuildRequest, Profile
    from tritonrepo.spec import ModelSpec

#: Layers whose type is what people mean by a model's precision.
_HEAVY = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM", "MOE", "ATTENTION_OUTPUT")


def chosen_gpu(model: ModelSpec, found: Availability) -> _cuda.Gpu:
    """The GPU that the spec names; EngineError where there is none of that number."""
    if not found.ok:
        raise EngineError(f"model {model.name}: {found.reason}", hint="`tritonrepo doctor` says how to get it.")
    if model.tensorrt.gpu >= len(found.gpus):
        raise EngineError(
            f"model {model.name}: tensorrt.gpu is {model.tensorrt.gpu}, but CUDA shows {len(found.gpus)} GPUs",
            hint="They count from 0, in CUDA's order.",
        )
    return found.gpus[model.tensorrt.gpu]


def required_gpu(request: BuildRequest, found: Availability) -> _cuda.Gpu:
    """The GPU to build on; EngineError where it, or this TensorRT, is not what was asked for."""
    if not found.ok:
        raise EngineError(f"model {request.model}: {found.reason}", hint="`tritonrepo doctor` says how to get it.")
    wanted = request.expected_tensorrt
    if wanted and wanted != found.version and not request.options.version_compatible:
        raise EngineError(
            f"model {request.model}: the target release loads plans of TensorRT {wanted} only, here is {found.version}",
            hint="Build inside the image that will serve: `tritonrepo build --in docker`.",
        )
    if request.options.gpu >= len(found.gpus):
        raise EngineError(
            f"model {request.model}: tensorrt.gpu is {request.options.gpu}, but CUDA shows {len(found.gpus)} GPUs",
            hint="They count from 0, in CUDA's order.",
        )
    gpu = found.gpus[request.options.gpu]
    for obstacle in obstacles(request.release, tensorrt=found.version, capability=gpu.capability):
        if obstacle.certain and not (request.options.version_compatible and "TensorRT" in obstacle.what):
            raise EngineError(f"model {request.model}: {obstacle.what}", hint=f"{obstacle.hint.capitalize()}.")
    if request.expected_capability and request.expected_capability != gpu.capability:
        others = [str(each.ordinal) for each in found.gpus if each.capability == request.expected_capability]
        raise EngineError(
            f"model {request.model}: a plan for compute capability {request.expected_capability} was asked for, GPU "
            f"{gpu.ordinal} is {gpu.name} ({gpu.capability})",
            hint=f"Set tensorrt.gpu to {others[0]}." if others else "Build on a host that has such a GPU.",
        )
    return gpu


def check_precision(request: BuildRequest, layers: Sequence[Layer]) -> None:
    """ModelError where no layer is of the precision asked for: in a strongly typed network the graph alone decides."""
    wanted = ELEMENT_TYPE[request.precision]
    if wanted == "FP32":
        return
    heavy = [layer for layer in layers if layer.kind in _HEAVY] or list(layers)
    looked = list(layers) if wanted == "INT8" else heavy
    if any(wanted in layer.dtypes for layer in looked):
        return
    types = ", ".join(sorted({dtype for layer in heavy for dtype in layer.dtypes})) or "nothing"
    raise ModelError(
        f"model {request.model}: precision {request.precision} was asked for, but none of the {len(heavy)} layers that "
        f"count computes in {wanted} (they give {types})",
        where=request.onnx,
        hint="The plan has the types of the ONNX file: it was not converted, or all of it was kept in another type.",
    )


def check_shape_tensors(request: BuildRequest, names: Sequence[str]) -> None:
    """ModelError where the network's shape tensors, given by name, are not those that have a range of values."""
    for profile in request.profiles:
        for name in names:
            if name not in profile.values:
                raise ModelError(
                    f"model {request.model}: the values of input {name} are shapes (a shape tensor), and no range is "
                    "given for them",
                    where=request.onnx,
                    hint=f"Say in the spec, under the model {request.model}:\n      shape_values:\n"
                    f"        {name}: {{min: [...], opt: [...], max: [...]}}",
                )
        for name in profile.values:
            if name not in names:
                raise ModelError(
                    f"model {request.model}: shape_values names input {name}, whose values are no shapes to TensorRT",
                    where=request.onnx,
                    hint="Take it out of shape_values; its shape is ranged under `shapes:`.",
                )


def check_plan(request: BuildRequest, found: Mapping[str, int], profiles: Sequence[Profile]) -> None:
    """ModelError where the plan is not what was asked for, as far as it tells."""
    wanted = ELEMENT_TYPE[request.precision]
    if found and wanted != "FP32" and wanted not in found:
        raise ModelError(
            f"model {request.model}: precision {request.precision} was asked for, but no layer of the plan has it: "
            + ", ".join(f"{count} of {dtype}" for dtype, count in found.items()),
            where=request.onnx,
            hint="TensorRT chose other types although the graph names them; nothing was published.",
        )
    if len(profiles) != len(request.profiles):
        raise EngineError(
            f"model {request.model}: the plan has {len(profiles)} profiles, {len(request.profiles)} were asked for",
            where=request.onnx,
        )
