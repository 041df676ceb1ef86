"""TR8xx: configs against ONNX files, for Triton's ONNX Runtime backend and for the model.py of the python engine.

What the ONNX Runtime backend does is read in its sources, branch r24.10; it was not run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from posixpath import dirname, isabs

from tritonrepo.check._onnx import (
    Completed,
    Tensor,
    completed,
    engine_files,
    runtime_files,
    scripts,
    signatures,
    tensor_of,
    value_of,
)
from tritonrepo.check._onnx_fit import (
    CORRID,
    controls,
    engine_misfit,
    misfit,
    narrowed,
    no_batch,
    shown,
)
from tritonrepo.check._sidecar import verdict
from tritonrepo.check._signature import Value
from tritonrepo.check._textformat import Message
from tritonrepo.check.edits import replaced
from tritonrepo.check.model import Model
from tritonrepo.check.rule import Spot, Target, Tree, rule
from tritonrepo.check.rules._help import nearest, path_in_model
from tritonrepo.check.rules._onnx_example import Dims, onnx_file
from tritonrepo.releases import RELEASES

#: Types that ONNX Runtime's backend has.
_TYPES = frozenset((
    "TYPE_BOOL", "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64", "TYPE_INT8", "TYPE_INT16", "TYPE_INT32",
    "TYPE_INT64", "TYPE_FP16", "TYPE_FP32", "TYPE_FP64", "TYPE_STRING",
))  # fmt: skip
_CONTROL_TYPES = {
    "int32_false_true": "TYPE_INT32",
    "fp32_false_true": "TYPE_FP32",
    "bool_false_true": "TYPE_BOOL",
}

_CONFIG = """
backend: "onnxruntime"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [ 3 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 3 ] }
"""
_SCRIPT = """
# Model m: model.onnx, run by ONNX Runtime. Written by tritonrepo: change its spec or templates, not this file.
INPUTS = ['x']
OUTPUTS = ['y']


class TritonPythonModel:
    def execute(self, requests):
        raise NotImplementedError
"""


def _tree(config: str = _CONFIG, x: Dims = ("batch", 3), y: Dims = ("batch", 3), operator: str = "Relu") -> Tree:
    return {"m/config.pbtxt": config, "m/1/model.onnx": onnx_file(x, y, operator)}


def _engine(config: str, x: Dims = ("batch", 3), y: Dims = ("batch", 3)) -> Tree:
    config = config.replace("onnxruntime", "python")
    return {"m/config.pbtxt": config, "m/1/model.py": _SCRIPT, "m/1/model.onnx": onnx_file(x, y)}


_RIGHT = _tree()


@rule(
    "TR801",
    "reject",
    "the ONNX file can be read",
    "A file that is no ONNX model, or is cut, does not load: not in the ONNX Runtime backend, and not in a model.py of "
    "the python engine. Only its structure is looked at.",
    wrong={**_tree(), "m/1/model.onnx": onnx_file()[:-9]},
    right=_RIGHT,
)
def onnx_files_can_be_read(model: Model, target: Target) -> Iterator[Spot]:
    for file in (*runtime_files(model, target), *engine_files(model)):
        if file.signature is None:
            yield model.spot_at(file.path, f"not an ONNX model: {file.fault}", "Export or copy the model again.")


@rule(
    "TR802",
    "reject",
    "the files with the model's weights are there",
    "A large ONNX model keeps its weights in files beside it. Without them, or with one that is too short, it does not "
    "load.",
    wrong={**_tree(), "m/1/model.onnx": onnx_file(weights="weights.bin")},
    right={**_tree(), "m/1/model.onnx": onnx_file(weights="weights.bin"), "m/1/weights.bin": bytes(8)},
)
def weights_are_there(model: Model, target: Target) -> Iterator[Spot]:
    for file, signature in signatures((*runtime_files(model, target), *engine_files(model))):
        for external in signature.external:
            path = path_in_model(dirname(file.path), external.location)
            if _leaves(file.path, external.location):
                continue  # TR803 has that
            if model.files.is_folder(path) is not False:
                yield model.spot_at(
                    file.path, f"its weights are in {external.location!r}, which is not there", f"Put it at {path}."
                )
            elif model.files.size(path) < external.end:
                yield model.spot_at(
                    path,
                    f"{model.files.size(path)} bytes, the model wants {external.end}",
                    "Copy the file again, together with the model.",
                )


@rule(
    "TR803",
    "breaks",
    "weights are in the model's folder",
    "A place outside of the version directory, be it absolute or with `..`, may hold other data where the server runs, "
    "or nothing; newer releases of ONNX Runtime refuse it.",
    wrong={**_tree(), "m/1/model.onnx": onnx_file(weights="/data/weights.bin")},
    right={**_tree(), "m/1/model.onnx": onnx_file(weights="weights.bin"), "m/1/weights.bin": bytes(8)},
)
def weights_are_inside(model: Model, target: Target) -> Iterator[Spot]:
    for file, signature in signatures((*runtime_files(model, target), *engine_files(model))):
        for external in signature.external:
            if _leaves(file.path, external.location):
                yield model.spot_at(
                    file.path,
                    f"its weights are in {external.location!r}, outside of the model's folder",
                    "Save the model again with its data beside it.",
                )


def _leaves(path: str, location: str) -> bool:
    """Whether a place that an ONNX file names is not in the file's folder."""
    folder = dirname(path)
    return isabs(location) or not f"{path_in_model(folder, location)}/".startswith(f"{folder}/")


@rule(
    "TR804",
    "reject",
    "inputs and outputs of the graph are tensors",
    "The ONNX Runtime backend looks at every input and output of the graph, whether the config names it or not, and "
    "refuses sequences, maps, optionals and sparse tensors.",
    wrong={**_tree(), "m/1/model.onnx": onnx_file(sequence=True)},
    right=_RIGHT,
)
def graph_has_tensors(model: Model, target: Target) -> Iterator[Spot]:
    for file, signature in signatures(runtime_files(model, target)):
        for kind, values in (("input", signature.inputs), ("output", signature.outputs)):
            for value in values:
                if value.kind not in {"tensor", "none"}:
                    yield model.spot_at(
                        file.path,
                        f"{kind} {value.name!r} is of the type {value.kind}, which Triton does not have",
                        "Export the model with plain tensors.",
                    )


@rule(
    "TR805",
    "reject",
    "a model that batches has an open first axis",
    "With `max_batch_size` above 0 the first axis of every input and output must be dynamic in the ONNX file. Where "
    "inputs or outputs are missing in the config, this holds for all that the graph has; a scalar has no such axis.",
    wrong=_tree(x=(1, 3), y=(1, 3)),
    right=_tree(_CONFIG.replace("max_batch_size: 8", "").replace("[ 3 ]", "[ 1, 3 ]"), x=(1, 3), y=(1, 3)),
)
def batches_have_an_axis(model: Model, target: Target) -> Iterator[Spot]:
    for each in completed(model, target):
        if each.max_batch_size <= 0:
            continue
        if each.completes:
            fixed = [
                (field, value)
                for field, values in (("input", each.signature.inputs), ("output", each.signature.outputs))
                for value in values
                if (value.shape is not None or field == "input") and (value.dims or (0,))[0] != -1
            ]
        else:
            fixed = [(field, value) for field, _, _, value in each.pairs if value.dims and value.dims[0] != -1]
        for field, value in fixed:
            yield model.spot(
                "max_batch_size",
                f"max_batch_size is {each.max_batch_size}, but {field} {value.name!r} is {shown(value)} in "
                f"{each.file.path}",
                "Export the model with a dynamic first axis, or set max_batch_size: 0 and write the whole shapes.",
            )


@rule(
    "TR806",
    "reject",
    "a config has as many inputs as the ONNX file",
    "The ONNX Runtime backend counts: inputs that are not optional, batch inputs, controls and states in the config "
    "must be as many as the graph has inputs without a value of their own.",
    wrong=_tree(_CONFIG + 'input { name: "z" data_type: TYPE_FP32 dims: [ 3 ] }'),
    right=_RIGHT,
)
def inputs_are_as_many(model: Model, target: Target) -> Iterator[Spot]:
    for each in completed(model, target):
        config = model.config
        batching = config.get("sequence_batching")
        count = (
            sum(not tensor.optional for tensor in each.inputs)
            + len(config.all("batch_input"))
            + sum(1 for _ in controls(model))
            + len(batching.all("state"))
        )
        there = {value.name for value in each.signature.inputs}
        if count != len(there):
            stated = {tensor.name for tensor in each.inputs} | {name for _, _, name in controls(model)}
            missing = sorted(there - stated)
            yield model.spot(
                "input",
                f"the config has {count} inputs, {each.file.path} has {len(there)}",
                f"Missing in the config: {', '.join(missing)}." if missing else "Remove what the graph does not have.",
            )


@rule(
    "TR807",
    "reject",
    "inputs and outputs are named as in the ONNX file",
    "The ONNX Runtime backend refuses a config with an input or output that the graph does not have. Outputs may be "
    "left out.",
    wrong=_tree(_CONFIG.replace('name: "y"', 'name: "Y"')),
    right=_RIGHT,
)
def names_are_in_the_file(model: Model, target: Target) -> Iterator[Spot]:
    for each in completed(model, target):
        for field, tensors in (("input", each.inputs), ("output", each.outputs)):
            values = each.signature.inputs if field == "input" else each.signature.outputs
            known = [value.name for value in values]
            for tensor in tensors:
                if tensor.message is not None and value_of(each.signature, field, tensor.name) is None:
                    yield model.spot(
                        "name",
                        f"{each.file.path} has no {field} {tensor.name!r}",
                        nearest(tensor.name, known) or f"It has: {', '.join(known) or 'none'}.",
                        within=tensor.message,
                    )


@rule(
    "TR808",
    "reject",
    "data types are those of the ONNX file",
    "The ONNX Runtime backend compares the types of inputs and outputs. It does not have TYPE_BF16.",
    wrong=_tree(_CONFIG.replace('name: "x" data_type: TYPE_FP32', 'name: "x" data_type: TYPE_INT32')),
    right=_RIGHT,
)
def types_are_those_of_the_file(model: Model, target: Target) -> Iterator[Spot]:
    for each in completed(model, target):
        for field, tensor, message, value in each.pairs:
            if value.kind != "tensor":
                continue
            data_type = value.data_type if value.data_type in _TYPES else None
            if data_type is None:
                yield model.spot(
                    "data_type",
                    f"{field} {tensor.name!r} has a type in {each.file.path} that Triton's ONNX Runtime backend lacks",
                    "Cast it inside the graph, to float32 for instance, and export again.",
                    within=message,
                )
            elif tensor.data_type != data_type:
                mend = [replaced(message, "data_type", data_type)] if message.has("data_type") else []
                yield model.spot(
                    "data_type",
                    f"{field} {tensor.name!r} is {tensor.data_type}, in {each.file.path} it is {data_type}",
                    f"Write {data_type}.",
                    within=message,
                    edits=mend,
                )


@rule(
    "TR809",
    "reject",
    "dims of inputs fit the ONNX file",
    "An input (its reshape, where it has one) must have as many dims as in the graph, the batch axis aside. A size "
    "that the graph fixes must be the same; where the graph leaves it open, the config may fix it, not the other way "
    "round.",
    wrong=_tree(_CONFIG.replace('"x" data_type: TYPE_FP32 dims: [ 3 ]', '"x" data_type: TYPE_FP32 dims: [ -1 ]')),
    right=_RIGHT,
)
def input_dims_fit(model: Model, target: Target) -> Iterator[Spot]:
    for each in completed(model, target):
        for field, tensor, message, value in each.pairs:
            if field == "input" and not tensor.ragged:
                # The graph's inputs have the shapes of the file; without one they count as scalars.
                why = misfit(tensor.dims, value.dims or (), each.max_batch_size)
                if why:
                    yield _dims_spot(model, each, tensor, message, value, why)


@rule(
    "TR810",
    "reject",
    "dims of outputs are those of the ONNX file",
    "The ONNX Runtime backend compares the dims of outputs exactly: -1 where the graph leaves a size open, and the "
    "size where it fixes one.",
    wrong=_tree(_CONFIG.replace('"y" data_type: TYPE_FP32 dims: [ 3 ]', '"y" data_type: TYPE_FP32 dims: [ -1 ]')),
    right=_RIGHT,
)
def output_dims_are_equal(model: Model, target: Target) -> Iterator[Spot]:
    for each in completed(model, target):
        scattered = {name for batch in model.config.all("batch_output") for name in batch.all("target_name")}
        for field, tensor, message, value in each.pairs:
            if field == "output" and value.shape is not None and tensor.name not in scattered:
                why = misfit(tensor.dims, value.dims or (), each.max_batch_size)
                if not why and narrowed(each, tensor, value, surely=True):
                    why = "the config fixes what the graph leaves open"
                if why:
                    yield _dims_spot(model, each, tensor, message, value, why)


@rule(
    "TR811",
    "advice",
    "dims of outputs are those that ONNX Runtime finds",
    "The file leaves a size of an output open that the config fixes. ONNX Runtime infers shapes itself when it loads a "
    "model: only if it comes to the same size does the server take the config.",
    wrong=_tree(_CONFIG.replace('"y" data_type: TYPE_FP32 dims: [ 3 ]', '"y" data_type: TYPE_FP32 dims: [ 4 ]'),
                y=("batch", "mystery"), operator="MatMul"),
    right=_RIGHT,
)  # fmt: skip
def output_dims_may_be_inferred(model: Model, target: Target) -> Iterator[Spot]:
    for each in completed(model, target):
        scattered = {name for batch in model.config.all("batch_output") for name in batch.all("target_name")}
        for field, tensor, message, value in each.pairs:
            if field != "output" or value.shape is None or tensor.name in scattered:
                continue
            fits = not misfit(tensor.dims, value.dims or (), each.max_batch_size)
            if fits and narrowed(each, tensor, value, surely=False) and not narrowed(each, tensor, value, surely=True):
                yield model.spot(
                    "dims",
                    f"output {tensor.name!r} is {list(tensor.dims)}, {each.file.path} says {shown(value)}",
                    "Write -1 where the file fixes no size, unless ONNX Runtime infers that one.",
                    within=message,
                )


def _dims_spot(model: Model, each: Completed, tensor: Tensor, message: Message, value: Value, why: str) -> Spot:
    wanted = list((value.dims or (1,))[1 if each.max_batch_size > 0 and value.dims else 0 :])
    return model.spot(
        "reshape" if message.has("reshape") else "dims",
        f"{tensor.name!r} is {list(tensor.dims)}, in {each.file.path} it is {shown(value)}: {why}",
        f"Write dims: {wanted}." if wanted else "Write dims: [ 1 ] and an empty reshape.",
        within=message,
    )


@rule(
    "TR812",
    "reject",
    "optional and ragged inputs are such as ONNX Runtime takes",
    "The ONNX Runtime backend has optional inputs only in models that do not batch, and a ragged input only where the "
    "graph's input is [-1]; an input is not both.",
    wrong=_tree(_CONFIG.replace("dims: [ 3 ] }\noutput", "dims: [ 3 ] allow_ragged_batch: true }\noutput")),
    right=_RIGHT,
)
def special_inputs_fit(model: Model, target: Target) -> Iterator[Spot]:
    for each in completed(model, target):
        for field, tensor, message, value in each.pairs:
            if field != "input":
                continue
            if tensor.optional and each.max_batch_size != 0:
                yield model.spot(
                    "optional", f"optional input {tensor.name!r} in a model that batches", "Remove it.", within=message
                )
            if tensor.ragged and (tensor.optional or value.dims != (-1,)):
                yield model.spot(
                    "allow_ragged_batch",
                    f"input {tensor.name!r} is ragged, but in {each.file.path} it is {shown(value)}, not [-1]",
                    "Remove allow_ragged_batch, or give the graph a flat input.",
                    within=message,
                )


@rule(
    "TR813",
    "reject",
    "control tensors are inputs of the graph",
    "Each control of a sequence model must be an input of the graph, of shape [1] after the batch axis, and of the "
    "type that the control's values have.",
    wrong=_tree(
        _CONFIG + 'sequence_batching { control_input { name: "x" control '
        "{ kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } } }"
    ),
    right=_RIGHT,
)
def controls_are_in_the_file(model: Model, target: Target) -> Iterator[Spot]:
    for each in completed(model, target):
        values = {value.name: value for value in each.signature.inputs}
        for kind, control, name in controls(model):
            value = values.get(name)
            if value is None:
                yield model.spot_in(
                    control, f"{each.file.path} has no input {name!r} for {kind}", nearest(name, values) or "Rename it."
                )
                continue
            dims = (value.dims or ())[1 if each.max_batch_size > 0 else 0 :]
            if dims != (1,):
                yield model.spot_in(
                    control,
                    f"control {name!r} is {shown(value)} in {each.file.path}, not [1] after the batch axis",
                    "Give the graph an input of that shape.",
                )
            given = next((type_ for field, type_ in _CONTROL_TYPES.items() if control.all(field)), None)
            data_type = control.get("data_type") if kind == CORRID else given
            if data_type is not None and data_type != value.data_type:
                yield model.spot_in(
                    control,
                    f"control {name!r} is {data_type}, in {each.file.path} it is {value.data_type or 'another type'}",
                    "Use values of the graph's type.",
                )


@rule(
    "TR814",
    "reject",
    "parameters of ONNX Runtime can be read",
    "The counts of threads and `execution_mode` (0 or 1) are whole numbers, `enable_mem_arena` and "
    "`enable_mem_pattern` are true, on, 1, false, off or 0. A model.py of the python engine reads the counts of "
    "threads.",
    wrong=_tree(_CONFIG + 'parameters { key: "intra_op_thread_count" value { string_value: "all" } }'),
    right=_tree(_CONFIG + 'parameters { key: "intra_op_thread_count" value { string_value: "4" } }'),
)
def parameters_can_be_read(model: Model, target: Target) -> Iterator[Spot]:
    for key, entry, value in _parameters(model, target):
        hint = "Write a whole number."
        if key in _SWITCHES:
            wrong, hint = value.lower() not in {"true", "on", "1", "false", "off", "0"}, "Write true or false."
        elif model.backend == "python":
            wrong = not re.fullmatch(r"\s*[+-]?[0-9]{1,9}\s*", value)
        elif key == "execution_mode":
            wrong, hint = _number(value) not in _MODES, "Write 0 for sequential, 1 for parallel."
        else:
            wrong = _number(value) is None
        if wrong:
            yield model.spot("value", f"{key} is {value!r}", hint, within=entry)


@rule(
    "TR815",
    "crash",
    "numbers of ONNX Runtime's parameters fit into 32 bits",
    "A number beyond 32 bits in intra_op_thread_count, inter_op_thread_count or execution_mode ends the server.",
    wrong=_tree(_CONFIG + 'parameters { key: "intra_op_thread_count" value { string_value: "99999999999" } }'),
    right=_tree(_CONFIG + 'parameters { key: "intra_op_thread_count" value { string_value: "4" } }'),
)
def parameters_fit(model: Model, target: Target) -> Iterator[Spot]:
    for key, entry, value in _parameters(model, target):
        if key not in _SWITCHES and model.backend == "onnxruntime" and _number(value) == _BEYOND:
            yield model.spot("value", f"{key} is {value}", "Write the number of threads.", within=entry)


_COUNTS = frozenset({"intra_op_thread_count", "inter_op_thread_count"})
_SWITCHES = frozenset({"enable_mem_arena", "enable_mem_pattern"})
#: Stands for every number that is not one of 32 bits.
_BEYOND = 2**31
_MODES = frozenset({0, 1, _BEYOND})


def _number(text: str) -> int | None:
    """What std::stoi reads: the number at the beginning, whatever follows it."""
    match = re.match(r"[ \t-\r]*([+-]?)0*([0-9]+)", text)
    if match is None:
        return None
    number = int(match[1] + match[2][:12])
    return number if -(2**31) <= number < 2**31 else _BEYOND


def _parameters(model: Model, target: Target) -> Iterator[tuple[str, Message, str]]:
    """The parameters that ONNX Runtime's backend reads, or a model.py of the python engine."""
    if model.backend == "python":
        wanted = _COUNTS if model.config.all("parameters") and scripts(model) else frozenset()
    elif model.backend == "onnxruntime" and not target.only_core:
        wanted = _COUNTS | _SWITCHES | {"execution_mode"}
    else:
        return
    for entry in model.config.all("parameters"):
        if entry.get("key") in wanted:
            yield entry.get("key"), entry, entry.get("value").get("string_value")


@rule(
    "TR816",
    "reject",
    "execution accelerators are those that the backend has",
    "The ONNX Runtime backend knows `tensorrt` and `cuda` for GPUs, and `openvino` for CPUs. Those for CPUs are looked "
    "at in every instance, those for GPUs in instances on one.",
    wrong=_tree(_CONFIG + 'optimization { execution_accelerators { cpu_execution_accelerator { name: "onednn" } } }'),
    right=_tree(_CONFIG + 'optimization { execution_accelerators { cpu_execution_accelerator { name: "openvino" } } }'),
)
def accelerators_are_known(model: Model, target: Target) -> Iterator[Spot]:
    if target.only_core or model.backend != "onnxruntime" or not model.config.has("optimization"):
        return
    accelerators = model.config.get("optimization").get("execution_accelerators")
    kinds = {group.get("kind") for group in model.config.all("instance_group")}
    known = {"cpu_execution_accelerator": {"openvino"}}
    if "KIND_GPU" in kinds or (target.gpus and kinds <= {"KIND_AUTO"}):
        known["gpu_execution_accelerator"] = {"tensorrt", "cuda"}
    for field, names in known.items():
        for accelerator in accelerators.all(field):
            if accelerator.get("name") not in names:
                yield model.spot(
                    "name",
                    f"{field} {accelerator.get('name')!r} is not known",
                    f"Use {' or '.join(sorted(names))}.",
                    within=accelerator,
                )


@rule(
    "TR817",
    "breaks",
    "the first axis of an output is the batch",
    "With `max_batch_size` above 0 the server puts requests into one batch and hands the rows of an output out to "
    "them. Where the graph shows that an output's rows are not those of the inputs (boxes that were found, axes that "
    "were swapped, rows that a Reshape cut), requests get rows of others, without any error.",
    wrong=_tree(
        _CONFIG.replace('"y" data_type: TYPE_FP32 dims: [ 3 ]', '"y" data_type: TYPE_FP32 dims: [ 1 ] reshape { }'),
        y=("found",),
        operator="Unique",
    ),
    right=_tree(
        _CONFIG.replace("max_batch_size: 8", "max_batch_size: 0")
        .replace('"x" data_type: TYPE_FP32 dims: [ 3 ]', '"x" data_type: TYPE_FP32 dims: [ -1, 3 ]')
        .replace('"y" data_type: TYPE_FP32 dims: [ 3 ]', '"y" data_type: TYPE_FP32 dims: [ -1 ]'),
        y=("found",),
        operator="Unique",
    ),
)
def rows_are_the_batch(model: Model, target: Target) -> Iterator[Spot]:
    found = [(each.file.path, each.signature, each.max_batch_size) for each in completed(model, target)]
    batch = model.config.get("max_batch_size")
    found += [(file.path, signature, batch) for file, signature in signatures(engine_files(model))]
    for path, signature, max_batch_size in found:
        if max_batch_size <= 1:
            continue
        others = {dim for value in signature.inputs for dim in (value.shape or ())[1:] if isinstance(dim, str)}
        others -= {(value.shape or (None,))[0] for value in signature.inputs}
        for value in signature.outputs:
            why = no_batch(signature, value, others) if value.shape else ""
            if why:
                yield model.spot(
                    "max_batch_size",
                    f"the first axis of output {value.name!r} in {path} is not the batch: {why}",
                    "Set max_batch_size: 0 and write the whole shapes.",
                )


@rule(
    "TR818",
    "breaks",
    "a model batches no further than its build has proven",
    "A build leaves beside a version what it has proven of it. `max_batch_size` above that is a config that was "
    "changed by hand: where the build found that rows of a batch depend on each other, requests get wrong answers.",
    wrong={
        **_engine(_CONFIG),
        "m/1.verdict.json": '{"max_batch_size": 0, "batch_reason": "output y mixes rows", '
        '"verdict": {"rows_independent": null}}',
    },
    right={
        **_engine(_CONFIG),
        "m/1.verdict.json": '{"max_batch_size": 8, "batch_reason": "it is proven", '
        '"verdict": {"rows_independent": true}}',
    },
)
def batches_are_proven(model: Model, target: Target) -> Iterator[Spot]:
    batch = model.config.get("max_batch_size")
    if batch <= 0 or model.backend not in {"python", "onnxruntime", "tensorrt"}:
        return
    for version in model.served:
        found = verdict(model, version)
        if found is not None and (batch > found.max_batch_size or found.rows_independent is False):
            reason = f" ({found.reason})" if found.reason else ""
            yield model.spot(
                "max_batch_size",
                f"max_batch_size is {batch}, but version {version} was built and proven for "
                f"{found.max_batch_size}{reason}",
                f"Set max_batch_size: {found.max_batch_size}, or build the model again.",
            )


@rule(
    "TR819",
    "breaks",
    "states are inputs and outputs of the graph",
    "The ONNX Runtime backend counts states and looks no further. A state whose tensors the graph does not have, or "
    "has in another type, fails with the first request.",
    wrong=_tree(
        _CONFIG.replace('input { name: "x" data_type: TYPE_FP32 dims: [ 3 ] }', "")
        + 'sequence_batching { state { input_name: "h" output_name: "y" data_type: TYPE_FP32 dims: [ 3 ] } }'
        + '\nbatch_input { kind: BATCH_ELEMENT_COUNT target_name: "n" data_type: TYPE_FP32 source_input: "x" }'
    ),
    right=_RIGHT,
)
def states_are_in_the_file(model: Model, target: Target) -> Iterator[Spot]:
    for each in completed(model, target):
        for state in model.config.get("sequence_batching").all("state"):
            for field, values in (("input_name", each.signature.inputs), ("output_name", each.signature.outputs)):
                name = state.get(field)
                there = {value.name: value for value in values}
                if name not in there:
                    yield model.spot(
                        field,
                        f"{each.file.path} has no {field[:-5]} {name!r} for the state",
                        nearest(name, there) or f"It has: {', '.join(there) or 'none'}.",
                        within=state,
                    )
                elif there[name].data_type != state.get("data_type"):
                    yield model.spot(
                        "data_type",
                        f"state {name!r} is {state.get('data_type')}, in {each.file.path} it is "
                        f"{there[name].data_type or 'another type'}",
                        "Use the graph's type.",
                        within=state,
                    )


@rule(
    "TR820",
    "advice",
    "an input is as open as the graph's",
    "A size that the config fixes although the graph leaves it open narrows what may be sent.",
    wrong=_tree(x=("batch", "length"), y=("batch", "length"), config=_CONFIG.replace('"y" data_type: TYPE_FP32 dims: '
                "[ 3 ]", '"y" data_type: TYPE_FP32 dims: [ -1 ]')),
    right=_tree(_CONFIG.replace("[ 3 ]", "[ -1 ]"), x=("batch", "length"), y=("batch", "length")),
)  # fmt: skip
def inputs_are_as_open(model: Model, target: Target) -> Iterator[Spot]:
    for each in completed(model, target):
        for field, tensor, message, value in each.pairs:
            fits = field == "input" and not misfit(tensor.dims, value.dims or (), each.max_batch_size)
            if fits and narrowed(each, tensor, value, surely=False):
                yield model.spot(
                    "dims",
                    f"input {tensor.name!r} is {list(tensor.dims)}, {each.file.path} takes {shown(value)}",
                    "Write -1 for what may have any size, if that is wanted.",
                    within=message,
                )


@rule(
    "TR821",
    "breaks",
    "a model.py of the python engine names the model's inputs and outputs",
    "Config, model.py and model.onnx of the python engine must agree on the names: an input that the config lacks is "
    "missing in every request, an output that the model lacks is missing in every answer.",
    wrong=_engine(_CONFIG.replace('name: "x"', 'name: "image"')),
    right=_engine(_CONFIG),
)
def engine_names_agree(model: Model, target: Target) -> Iterator[Spot]:
    stated = {field: [tensor.get("name") for tensor in model.config.all(field)] for field in ("input", "output")}
    for file, signature in signatures(engine_files(model)):
        inputs, outputs = ([value.name for value in values] for values in (signature.inputs, signature.outputs))
        for name in [name for name in inputs if name not in stated["input"]]:
            yield model.spot("input", f"the config lacks input {name!r} of {file.path}", "Declare it.")
        for field, known in (("input", inputs), ("output", outputs)):
            for index, name in enumerate(stated[field]):
                if name not in known:
                    hint = nearest(name, known) or f"It has: {', '.join(known) or 'none'}."
                    yield model.spot(field, f"{file.path} has no {field} {name!r}", hint, index=index)
    for script, (_, signature) in zip(scripts(model), signatures(engine_files(model)), strict=False):
        pairs = (("inputs", script.inputs, signature.inputs), ("outputs", script.outputs, signature.outputs))
        for kind, named, values in pairs:
            wrong = set(named or ()) - {value.name for value in values}
            if wrong:
                yield model.spot_at(
                    script.path,
                    f"its {kind} {', '.join(sorted(wrong))} are not in model.onnx",
                    "Build the model again.",
                )


@rule(
    "TR822",
    "breaks",
    "types and dims of the python engine are those of its ONNX file",
    "Nothing compares the config of the python engine with its ONNX file at load: a type, a number of dims or a fixed "
    "size that differs makes requests fail that the config allows, or answers differ from what it promises.",
    wrong=_engine(_CONFIG.replace('"x" data_type: TYPE_FP32', '"x" data_type: TYPE_FP64')),
    right=_engine(_CONFIG),
)
def engine_tensors_agree(model: Model, target: Target) -> Iterator[Spot]:
    batch = model.config.get("max_batch_size")
    for file, signature in signatures(engine_files(model)):
        for field in ("input", "output"):
            for message in model.config.all(field):
                tensor = tensor_of(message, field)
                value = value_of(signature, field, tensor.name)
                if value is None or value.kind != "tensor":
                    continue
                if value.data_type != tensor.data_type:
                    yield model.spot(
                        "data_type",
                        f"{field} {tensor.name!r} is {tensor.data_type}, in {file.path} it is {value.data_type}",
                        "Use the type of the graph.",
                        within=message,
                    )
                why = engine_misfit(tensor, value, field, batch) if value.shape is not None else ""
                if why:
                    yield model.spot(
                        "dims",
                        f"{field} {tensor.name!r} is {list(tensor.dims)}, in {file.path} it is {shown(value)}: {why}",
                        "Write the dims of the graph, without the batch axis where the model batches.",
                        within=message,
                    )


#: The newest IR version and opset that a version of ONNX Runtime loads; tried with each.
_NEWEST = {
    "1.19": (10, 21), "1.20": (10, 21), "1.21": (10, 22), "1.22": (10, 22), "1.23": (11, 23), "1.24": (13, 25),
    "1.27": (13, 26), "1.28": (13, 26),
}  # fmt: skip


@rule(
    "TR823",
    "reject",
    "an ONNX file is not newer than the server's ONNX Runtime",
    "Each version of ONNX Runtime loads files up to an IR version and an opset. The release of the server decides "
    "which version its ONNX Runtime backend has.",
    wrong={**_tree(), "m/1/model.onnx": onnx_file(opset=25)},
    right=_RIGHT,
    target=Target(release="24.10"),
)
def files_are_not_too_new(model: Model, target: Target) -> Iterator[Spot]:
    release = RELEASES.get(target.release)
    version = release.onnxruntime if release is not None else None
    newest = _NEWEST.get((version or "").rpartition(".")[0])
    if newest is None:
        return
    for file, signature in signatures(runtime_files(model, target)):
        opset = signature.opset.get("", 0)
        for what, has, most in (("IR version", signature.ir_version, newest[0]), ("opset", opset, newest[1])):
            if has > most:
                yield model.spot_at(
                    file.path,
                    f"{what} {has}; ONNX Runtime {version} of release {target.release} loads up to {most}",
                    f"Export the model with {what} {most} or older, or serve it with a newer release.",
                )
