"""TR2xx: inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod

from tritonrepo.check._textformat import Message
from tritonrepo.check.edits import removed
from tritonrepo.check.model import Model
from tritonrepo.check.rule import Spot, Target, rule
from tritonrepo.check.rules._help import MODEL_PY, TENSORS, example, exists, is_folder, is_utf8, path_in_model

_OUTPUT = 'output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] }'
_VARIABLE = -1


def _input(text: str, rest: str = "") -> dict[str, str]:
    return example(f'{rest}input {{ name: "x" {text} }}\n{_OUTPUT}')


def _tensors(model: Model) -> tuple[tuple[str, Message], ...]:
    """Each input and output with the name of its field."""
    return model.once(_all_tensors)


def _all_tensors(model: Model) -> tuple[tuple[str, Message], ...]:
    return tuple((field, tensor) for field in ("input", "output") for tensor in model.config.all(field))


def _called(field: str, tensor: Message) -> str:
    name = tensor.get("name")
    return f"{field} {name}" if name else f"an {field} without a name"


@rule(
    "TR201",
    "reject",
    "an input or output has a name, a type and dims",
    "Requests name tensors, and the server compares types and shapes. TensorRT and TensorFlow fill in the type and "
    "dims of a tensor that the model has under that name; other backends take all inputs and outputs from the model or "
    "none.",
    wrong=_input("dims: [ 4 ]"),
    right=_input("data_type: TYPE_FP32 dims: [ 4 ]"),
)
def tensor_is_complete(model: Model, target: Target) -> Iterator[Spot]:
    for field, tensor in _tensors(model):
        wanted = ["name"]
        if tensor.get("data_type") == "TYPE_INVALID" or not tensor.has("dims") or not tensor.all("dims"):
            wanted += [] if _completes(model, target) else ["data_type", "dims"]
        for each in wanted:
            if tensor.get(each) in ("", "TYPE_INVALID", ()):
                yield model.spot_in(tensor, f"{_called(field, tensor)} has no {each}", _HINTS[each])


_HINTS = {
    "name": "Give it the model's name for it.",
    "data_type": "Add data_type: TYPE_FP32, or what the model has.",
    "dims": "Add dims: its shape, without the batch axis where max_batch_size is not 0.",
}


def _completes(model: Model, target: Target) -> bool:
    """Whether types and dims that are missing may come from the model."""
    if model.backend in {"tensorrt", "tensorflow"}:
        return not target.only_core
    if model.backend != "python" or not model.served:
        return False
    try:
        return b"auto_complete_config" in model.files.read(f"{model.served[0]}/{model.completed.filename}")
    except (OSError, ValueError):
        return False


@rule(
    "TR202",
    "reject",
    "each dim is at least 1, or -1",
    "-1 stands for an axis whose length changes. The same holds for the shape of a reshape.",
    wrong=_input("data_type: TYPE_FP32 dims: [ 0, 4 ]"),
    right=_input("data_type: TYPE_FP32 dims: [ -1, 4 ]"),
)
def dims_are_lengths(model: Model, target: Target) -> Iterator[Spot]:
    for field, tensor in _tensors(model):
        yield from _bad_lengths(model, field, tensor, tensor, "dims")
        if tensor.has("reshape"):
            yield from _bad_lengths(model, field, tensor, tensor.get("reshape"), "shape")


def _bad_lengths(model: Model, field: str, tensor: Message, message: Message, name: str) -> Iterator[Spot]:
    for index, length in enumerate(message.all(name)):
        if length < 1 and length != _VARIABLE:
            text = f"{length} in the {name} of {_called(field, tensor)} is no length"
            yield model.spot(name, text, "Write a length from 1, or -1 for any.", within=message, index=index)


@rule(
    "TR203",
    "reject",
    "an empty reshape is for models that batch",
    "An empty reshape says that the model wants no axis but the batch's. Without batching nothing would be left: "
    "Triton has no tensors without axes.",
    wrong=_input("data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ ] }"),
    right=_input("data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ ] }", "max_batch_size: 8\n"),
)
def empty_reshape_batches(model: Model, target: Target) -> Iterator[Spot]:
    for field, tensor in _tensors(model):
        if not tensor.has("reshape") or tensor.get("reshape").all("shape"):
            continue
        if model.config.get("max_batch_size") == 0:
            message = f"the empty reshape of {_called(field, tensor)} leaves no axis: max_batch_size is 0"
            yield model.spot("reshape", message, "Write shape: [ 1 ], or set max_batch_size.", within=tensor)


@rule(
    "TR204",
    "reject",
    "a reshape keeps the number of elements",
    "The product of the reshape's lengths is that of the dims. Around each -1 it has to be the same, too: "
    "[ 2, 4, -1, 6 ] may become [ 8, -1, 1, 6 ]. An empty reshape goes with dims whose product is 1.",
    wrong=_input("data_type: TYPE_FP32 dims: [ 4 ] reshape { shape: [ 2, 3 ] }"),
    right=_input("data_type: TYPE_FP32 dims: [ 4 ] reshape { shape: [ 2, 2 ] }"),
)
def reshape_keeps_elements(model: Model, target: Target) -> Iterator[Spot]:
    for field, tensor in _tensors(model):
        if not tensor.has("reshape"):
            continue
        dims, shape = tensor.all("dims"), tensor.get("reshape").all("shape")
        if dims and not _same_elements(dims, shape):
            message = f"{_called(field, tensor)} has another number of elements in reshape than in dims"
            hint = f"The dims are {list(dims)}, and the reshape is {list(shape)}."
            yield model.spot("reshape", message, hint, within=tensor)


def _same_elements(dims: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    elements, reshaped = _elements(dims), _elements(shape)
    if elements != reshaped and (reshaped != 0 or elements != 1):
        return False
    return elements != _VARIABLE or _parts(dims) == _parts(shape)


def _elements(dims: tuple[int, ...]) -> int:
    """How many elements the server counts: -1 where an axis is variable, 0 for no axes, and in 64 bits."""
    if _VARIABLE in dims:
        return _VARIABLE
    return _wrapped(prod(dims)) if dims else 0


def _parts(dims: tuple[int, ...]) -> list[int]:
    """Elements before, between and after variable axes."""
    parts = [1]
    for length in dims:
        if length == _VARIABLE:
            parts.append(1)
        else:
            parts[-1] = _wrapped(parts[-1] * length)
    return parts


def _wrapped(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63


@rule(
    "TR205",
    "reject",
    "image formats have three dims",
    "FORMAT_NHWC and FORMAT_NCHW are about height, width and channels; the batch is not among the dims.",
    wrong=_input("data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 1, 3, 224, 224 ]"),
    right=_input("data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 224, 224 ]", "max_batch_size: 8\n"),
)
def format_has_three_dims(model: Model, target: Target) -> Iterator[Spot]:
    for tensor in model.config.all("input"):
        if tensor.has("format") and tensor.get("format") in ("FORMAT_NHWC", "FORMAT_NCHW"):
            count = len(tensor.all("dims"))
            if count != 3:
                message = f"{tensor.get('format')} needs three dims, and {_called('input', tensor)} has {count}"
                hint = "Leave the batch out of dims and set max_batch_size, or leave the format out."
                yield model.spot("format", message, hint, within=tensor)


@rule(
    "TR206",
    "reject",
    "shape tensors and non-linear formats are TensorRT's",
    "is_shape_tensor and is_non_linear_format_io describe tensors of a TensorRT plan. The server refuses them for "
    "other models.",
    wrong=_input("data_type: TYPE_INT32 dims: [ 4 ] is_shape_tensor: true"),
    right=_input("data_type: TYPE_INT32 dims: [ 4 ]"),
)
def tensor_kinds_are_for_plans(model: Model, target: Target) -> Iterator[Spot]:
    for _, tensor in _tensors(model):
        for flag in ("is_shape_tensor", "is_non_linear_format_io"):
            if tensor.has(flag) and tensor.get(flag) and model.completed.platform != "tensorrt_plan":
                message = f"{flag} is for TensorRT plans"
                yield model.spot(flag, message, "Take it out.", within=tensor, edits=[removed(tensor, flag)])


@rule(
    "TR207",
    "reject",
    "tensors in a non-linear format have three dims",
    "The server takes is_non_linear_format_io only for tensors with three dims, the batch not counted.",
    wrong={
        "m/config.pbtxt": 'backend: "tensorrt"\n'
        f'input {{ name: "x" data_type: TYPE_FP16 dims: [ 8 ] is_non_linear_format_io: true }}\n{_OUTPUT}\n',
        "m/1/model.plan": "",
    },
    right={
        "m/config.pbtxt": 'backend: "tensorrt"\n'
        f'input {{ name: "x" data_type: TYPE_FP16 dims: [ 8, 4, 4 ] is_non_linear_format_io: true }}\n{_OUTPUT}\n',
        "m/1/model.plan": "",
    },
)
def non_linear_has_three_dims(model: Model, target: Target) -> Iterator[Spot]:
    if model.completed.platform != "tensorrt_plan":
        return
    for field, tensor in _tensors(model):
        flag = "is_non_linear_format_io"
        if tensor.has(flag) and tensor.get(flag) and len(tensor.all("dims")) != 3:
            message = f"{_called(field, tensor)} has a non-linear format, and {len(tensor.all('dims'))} dims, not three"
            yield model.spot(flag, message, "Leave the batch out of dims, or the flag.", within=tensor)


@rule(
    "TR208",
    "reject",
    "label files exist",
    "label_filename is the path of a text file in the model's directory, with a label on each line.",
    wrong=example(_INPUT_AND_LABELS := f'{TENSORS.rstrip()[:-1]}label_filename: "labels.txt" }}\n'),
    right={**example(_INPUT_AND_LABELS), "m/labels.txt": "cat\ndog\ncow\nhen\n"},
)
def labels_exist(model: Model, target: Target) -> Iterator[Spot]:
    for output in model.config.all("output"):
        if output.get("label_filename") and not exists(model, "", output.get("label_filename")):
            message = f"{path_in_model(output.get('label_filename'))} does not exist in the model's directory"
            yield model.spot("label_filename", message, "Add it, or take label_filename out.", within=output)


@rule(
    "TR209",
    "crash",
    "a label file is a file",
    "A directory in its place ends the server.",
    wrong={**example(_INPUT_AND_LABELS), "m/labels.txt/labels.txt": "cat\n"},
    right={**example(_INPUT_AND_LABELS), "m/labels.txt": "cat\ndog\ncow\nhen\n"},
)
def labels_are_a_file(model: Model, target: Target) -> Iterator[Spot]:
    for output in model.config.all("output"):
        name = output.get("label_filename")
        if name and is_folder(model, "", name):
            yield model.spot("label_filename", f"{name} is a directory", "Name the file in it.", within=output)


@rule(
    "TR210",
    "breaks",
    "inputs have different names, and outputs too",
    "The server keeps one of several inputs or outputs of the same name, and ignores what the others say. Several "
    "outputs of one name that all have labels are refused (TR211).",
    wrong=_input("data_type: TYPE_FP32 dims: [ 4 ]", 'input { name: "x" data_type: TYPE_INT64 dims: [ 8 ] }\n'),
    right=_input("data_type: TYPE_FP32 dims: [ 4 ]", 'input { name: "mask" data_type: TYPE_INT64 dims: [ 8 ] }\n'),
)
def names_are_different(model: Model, target: Target) -> Iterator[Spot]:
    for field in ("input", "output"):
        for tensor in _again(model.config.all(field)):
            message = f"there are several {field}s of the name {tensor.get('name')}"
            yield model.spot("name", message, "Give each its own name.", within=tensor)


@rule(
    "TR211",
    "reject",
    "an output has one label file",
    "The server refuses two outputs of one name that both have label_filename.",
    wrong={
        **example(_INPUT_AND_LABELS + 'output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] label_filename: "l.txt" }'),
        "m/labels.txt": "cat\n",
        "m/l.txt": "cat\n",
    },
    right={**example(_INPUT_AND_LABELS), "m/labels.txt": "cat\ndog\ncow\nhen\n"},
)
def labels_are_given_once(model: Model, target: Target) -> Iterator[Spot]:
    labelled = [output for output in model.config.all("output") if output.get("label_filename")]
    for output in _again(labelled):
        message = f"the output {output.get('name')} has several label files"
        yield model.spot("label_filename", message, "Keep one.", within=output)


def _again(tensors: Iterable[Message]) -> Iterator[Message]:
    """Those whose name an earlier one has."""
    seen = set()
    for tensor in tensors:
        name = tensor.get("name")
        if name and name in seen:
            yield tensor
        seen.add(name)


@rule(
    "TR212",
    "breaks",
    "a data type has a name",
    "The text format takes any number for a type. The server loads a model with a number that is no type's, and no "
    "request can be right for it.",
    wrong=_input("data_type: 99 dims: [ 4 ]"),
    right=_input("data_type: TYPE_FP32 dims: [ 4 ]"),
)
def type_has_a_name(model: Model, target: Target) -> Iterator[Spot]:
    for _, tensor in _tensors(model):
        if isinstance(tensor.get("data_type"), int):
            message = f"there is no data type {tensor.get('data_type')}"
            yield model.spot("data_type", message, "Write its name, such as TYPE_FP32.", within=tensor)


@rule(
    "TR213",
    "reject",
    "a batch input or output is made of one input",
    "batch_input and batch_output name one of the model's inputs in source_input.",
    wrong=example(
        f'batch_input {{ kind: BATCH_ELEMENT_COUNT target_name: "n" data_type: TYPE_INT32 source_input: "z" }}{TENSORS}'
    ),
    right=example(
        f'batch_input {{ kind: BATCH_ELEMENT_COUNT target_name: "n" data_type: TYPE_INT32 source_input: "x" }}{TENSORS}'
    ),
)
def batch_tensor_has_a_source(model: Model, target: Target) -> Iterator[Spot]:
    for field, tensor in _batch_tensors(model):
        sources = tensor.all("source_input")
        names = {each.get("name") for each in model.config.all("input")}
        if len(sources) != 1 and isinstance(tensor.get("kind"), str):
            message = f"{field} is made of one input, and this one names {len(sources)}"
            yield model.spot("source_input", message, "Name one input in source_input.", within=tensor)
        for index, source in enumerate(sources):
            if source not in names:
                hint = f"There are: {', '.join(sorted(names))}."
                yield model.spot("source_input", f"there is no input {source}", hint, within=tensor, index=index)


@rule(
    "TR214",
    "reject",
    "a batch input is INT32 or FP32",
    "The server has no other types for what it says of a batch.",
    wrong=example(
        f'batch_input {{ kind: BATCH_ELEMENT_COUNT target_name: "n" data_type: TYPE_INT64 source_input: "x" }}{TENSORS}'
    ),
    right=example(
        f'batch_input {{ kind: BATCH_ELEMENT_COUNT target_name: "n" data_type: TYPE_INT32 source_input: "x" }}{TENSORS}'
    ),
)
def batch_input_has_a_type(model: Model, target: Target) -> Iterator[Spot]:
    for tensor in model.config.all("batch_input"):
        if tensor.get("data_type") not in ("TYPE_INT32", "TYPE_FP32"):
            message = f"a batch_input cannot be {tensor.get('data_type')}"
            yield model.spot("data_type", message, "Write TYPE_INT32 or TYPE_FP32.", within=tensor)


@rule(
    "TR215",
    "reject",
    "the kind of a batch input or output has a name",
    "The text format takes any number for a kind; the server knows those with names.",
    wrong=example(f'batch_input {{ kind: 9 target_name: "n" data_type: TYPE_INT32 source_input: "x" }}{TENSORS}'),
    right=example(f'batch_input {{ kind: 0 target_name: "n" data_type: TYPE_INT32 source_input: "x" }}{TENSORS}'),
)
def batch_kind_has_a_name(model: Model, target: Target) -> Iterator[Spot]:
    for field, tensor in _batch_tensors(model):
        if isinstance(tensor.get("kind"), int):
            yield model.spot("kind", f"{field} has no kind {tensor.get('kind')}", "Write its name.", within=tensor)


@rule(
    "TR216",
    "reject",
    "a batch output is an output, named once",
    "batch_output names in target_name outputs of the model, none twice.",
    wrong=example(f'batch_output {{ target_name: "z" source_input: "x" }}{TENSORS}'),
    right=example(f'batch_output {{ target_name: "y" source_input: "x" }}{TENSORS}'),
)
def batch_output_is_an_output(model: Model, target: Target) -> Iterator[Spot]:
    names = {each.get("name") for each in model.config.all("output")}
    for tensor in model.config.all("batch_output"):
        targets = tensor.all("target_name")
        for index, name in enumerate(targets):
            if name not in names:
                hint = f"There are: {', '.join(sorted(names))}."
                yield model.spot("target_name", f"there is no output {name}", hint, within=tensor, index=index)
            elif name in targets[:index]:
                message = f"{name} is named twice"
                yield model.spot("target_name", message, "Name it once.", within=tensor, index=index)


@rule(
    "TR217",
    "crash",
    "a batch output names its output",
    "A batch_output without target_name ends the server: what all backends share takes the first of its targets.",
    wrong={
        "m/config.pbtxt": f'backend: "python"\nbatch_output {{ source_input: "x" }}{TENSORS}',
        "m/1/model.py": MODEL_PY,
    },
    right={
        "m/config.pbtxt": f'backend: "python"\nbatch_output {{ target_name: "y" source_input: "x" }}{TENSORS}',
        "m/1/model.py": MODEL_PY,
    },
)
def batch_output_has_a_target(model: Model, target: Target) -> Iterator[Spot]:
    if target.only_core and model.backend != "python":
        return
    for tensor in model.config.all("batch_output"):
        if not tensor.all("target_name") and model.config.all("output"):
            yield model.spot_in(tensor, "target_name is missing", "Name the output in target_name.")


def _batch_tensors(model: Model) -> Iterator[tuple[str, Message]]:
    for field in ("batch_input", "batch_output"):
        for tensor in model.config.all(field):
            yield field, tensor


@rule(
    "TR218",
    "reject",
    "the backend takes optional inputs",
    "TensorRT has no inputs that a request may leave out, and its backend refuses `optional`.",
    wrong={
        "m/config.pbtxt": 'backend: "tensorrt"\n'
        f'input {{ name: "x" data_type: TYPE_FP32 dims: [ 4 ] optional: true }}\n{_OUTPUT}\n',
        "m/1/model.plan": "",
    },
    right={
        "m/config.pbtxt": f'backend: "tensorrt"\ninput {{ name: "x" data_type: TYPE_FP32 dims: [ 4 ] }}\n{_OUTPUT}\n',
        "m/1/model.plan": "",
    },
)
def input_may_be_optional(model: Model, target: Target) -> Iterator[Spot]:
    if model.backend != "tensorrt" or target.only_core:
        return
    for tensor in model.config.all("input"):
        if tensor.has("optional") and tensor.get("optional"):
            message, edits = "TensorRT takes no optional inputs", [removed(tensor, "optional")]
            yield model.spot("optional", message, "Take it out.", within=tensor, edits=edits)


@rule(
    "TR219",
    "reject",
    "the elements of a tensor can be counted",
    "Since 26.03 the server refuses dims whose product does not fit into a signed 64-bit integer.",
    wrong=_input("data_type: TYPE_FP32 dims: [ 4294967296, 4294967296 ]"),
    right=_input("data_type: TYPE_FP32 dims: [ 4294967296, -1 ]"),
)
def elements_can_be_counted(model: Model, target: Target) -> Iterator[Spot]:
    if target.release < "26.03":
        return
    for field, tensor in _tensors(model):
        reshape = tensor.has("reshape")
        counted = [(tensor, "dims")] if reshape or field == "input" else []
        counted += [(tensor.get("reshape"), "shape")] if reshape else []
        for message, name in counted:
            if min(message.all(name), default=0) > 0 and prod(message.all(name)) >= 2**63:
                text = f"the product of the {name} of {_called(field, tensor)} is too large"
                yield model.spot(name, text, "Write -1 for an axis of any length.", within=message)


@rule(
    "TR220",
    "breaks",
    "names are UTF-8",
    "The text format lets any bytes into a name. Most backends get the config as JSON, in which the server leaves out "
    "what is not UTF-8: the tensor then has another name, or none.",
    wrong=example(rf'input {{ name: "x\377" data_type: TYPE_FP32 dims: [ 4 ] }}{_OUTPUT}'),
    right=_input("data_type: TYPE_FP32 dims: [ 4 ]"),
)
def tensor_name_is_utf8(model: Model, target: Target) -> Iterator[Spot]:
    for field, tensor in _tensors(model):
        if not is_utf8(tensor.get("name")):
            message = f"the name of an {field} is not UTF-8"
            yield model.spot("name", message, "Save the file as UTF-8, and write no bytes as escapes.", within=tensor)
