"""TR6xx: warmup, the requests with which the server runs a model before it counts as ready."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tritonrepo.check._served import interface
from tritonrepo.check._sizes import TOO_LARGE, element_size, product, signed, unsigned
from tritonrepo.check._textformat import Message
from tritonrepo.check.model import CONFIG, Model
from tritonrepo.check.rule import Spot, Target, Tree, rule
from tritonrepo.check.rules._help import data_path

#: So many requests at once, or one after the other, are not answered while anybody waits.
_MANY_AT_ONCE = 1_000_000
_MANY = 10_000_000

#: Backends that refuse to run more than max_batch_size requests at once.
_COUNTING = frozenset({"python", "onnxruntime", "tensorrt", "pytorch", "tensorflow", "openvino"})

_MODEL = """
backend: "identity"
max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: 3 }
output { name: "y" data_type: TYPE_FP32 dims: 3 }
"""
_OPEN = _MODEL.replace("dims: 3", "dims: -1")
_INPUT = 'inputs { key: "x" value { data_type: TYPE_FP32 dims: 3 zero_data: true } }'
_ECHO = """
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        arrays = [pb.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [pb.InferenceResponse([pb.Tensor("y", array)]) for array in arrays]
"""


def _tree(warmup: str, model: str = _MODEL) -> Tree:
    return {"m/config.pbtxt": f'{model}model_warmup {{\n  name: "first"\n  {warmup}\n}}\n', "m/1/": ""}


def _python(warmup: str) -> Tree:
    tree = dict(_tree(warmup, _MODEL.replace("identity", "python")))
    return {**tree, "m/1/model.py": _ECHO}


def _once(inputs: str = _INPUT) -> str:
    return f"batch_size: 1\n  {inputs}"


_RIGHT = _tree(_once())


@dataclass(frozen=True)
class _Input:
    """One input of a sample of warmup."""

    model: Model
    sample: Message
    name: str
    value: Message

    @property
    def data_type(self) -> str | int:
        data_type: str | int = self.value.get("data_type")
        return data_type

    @property
    def dims(self) -> tuple[int, ...]:
        return self.value.all("dims")

    @property
    def source(self) -> str | None:
        return self.value.one_of("input_data_type")

    @property
    def path(self) -> str:
        """The file that the data comes from, below the model's folder."""
        return data_path("warmup", self.value.get("input_data_file"))

    @property
    def size(self) -> int:
        """Bytes that the server prepares for a request; negative dims make it negative."""
        count = product(self.dims)
        return signed(count * element_size(self.data_type)) or signed(count * 4)

    def spot(self, field: str, message: str, hint: str) -> Spot:
        return self.model.spot(field, f"warmup input {self.name!r}: {message}", hint, within=self.value)


def _samples(model: Model) -> Iterator[Message]:
    """The samples that are run: those with a batch size, and only where an instance runs requests at all."""
    if not model.config.has("model_warmup") or model.config.has("ensemble_scheduling"):
        return
    groups = model.config.all("instance_group")
    if groups and all(group.get("passive") for group in groups):
        return
    for sample in model.config.all("model_warmup"):
        if sample.get("batch_size"):
            yield sample


def _inputs(model: Model) -> Iterator[_Input]:
    for sample in _samples(model):
        for name, value in sample.map("inputs").items():
            yield _Input(model, sample, name, value)


def _declared(model: Model) -> dict[str, Message]:
    """The model's own inputs; of those with one name the first counts."""
    found: dict[str, Message] = {}
    for tensor in model.config.all("input"):
        found.setdefault(tensor.get("name"), tensor)
    return found


def _own_inputs(model: Model, target: Target) -> Iterator[tuple[_Input, Message]]:
    """The inputs of samples that are inputs of the model, not controls, with what the config says of them."""
    if not model.config.has("model_warmup") or interface(model, target) is None:
        return
    declared = _declared(model)
    for each in _inputs(model):
        if each.name in declared:
            yield each, declared[each.name]


@rule(
    "TR601",
    "reject",
    "a warmup input has all its sizes",
    "The dims of a warmup input are those of the data that is sent: none of them may be -1.",
    wrong=_tree(_once(_INPUT.replace("dims: 3", "dims: -1")), _OPEN),
    right=_tree(_once(), _OPEN),
)
def sizes_are_given(model: Model, target: Target) -> Iterator[Spot]:
    for each in _inputs(model):
        if -1 in each.dims:
            yield each.spot("dims", f"the dims {list(each.dims)} leave a size open", "Give the sizes to warm up with.")


@rule(
    "TR602",
    "reject",
    "a warmup input has a source of data",
    "One of `zero_data`, `random_data` and `input_data_file` must be given.",
    wrong=_tree(_once(_INPUT.replace("zero_data: true", ""))),
    right=_RIGHT,
)
def data_is_given(model: Model, target: Target) -> Iterator[Spot]:
    for each in _inputs(model):
        if each.source is None:
            yield model.spot_in(
                each.value,
                f"warmup input {each.name!r}: no data",
                "Add random_data: true, zero_data: true, or an input_data_file.",
            )


@rule(
    "TR603",
    "reject",
    "the file of a warmup input is there and holds the input",
    "`input_data_file` names a file in the folder `warmup` of the model. It must hold at least as many bytes as type "
    "and dims say. For TYPE_STRING it holds exactly as many strings, each after its length in four bytes, little "
    "endian.",
    wrong=_tree(_once(_INPUT.replace("zero_data: true", 'input_data_file: "x.bin"'))),
    right={
        **_tree(_once(_INPUT.replace("zero_data: true", 'input_data_file: "x.bin"'))),
        "m/warmup/x.bin": bytes(12),
    },
)
def files_hold_the_inputs(model: Model, target: Target) -> Iterator[Spot]:
    declared = _declared(model) if model.config.has("model_warmup") else {}
    for each in _inputs(model):
        if each.source != "input_data_file" or -1 in each.dims:
            continue
        folder = model.files.is_folder(each.path)
        if folder is None:
            yield each.spot("input_data_file", f"there is no file {each.path}", f"Put it at {model.path / each.path}.")
        elif folder:
            continue  # TR606 has that
        elif each.data_type != "TYPE_STRING":
            needed, there = unsigned(each.size), model.files.size(each.path)
            if needed > there:
                yield each.spot(
                    "input_data_file", f"{each.path} has {there} bytes, {needed} are needed", "Write all of it."
                )
        elif each.name in declared:
            wanted = product(each.dims)
            fault = _strings_fault(model.files.read(each.path), wanted)
            if fault:
                yield each.spot(
                    "input_data_file",
                    f"{each.path} {fault}",
                    f"Write {wanted} strings, each after its length in four bytes.",
                )


def _strings_fault(data: bytes, wanted: int) -> str:
    """What is wrong with the strings in a file; the last may be cut."""
    at = count = 0
    while at < len(data):
        if len(data) - at < 4:
            return f"ends within the length of string {count + 1}"
        count += 1
        if count > wanted:
            return f"has more than {wanted} strings"
        at += 4 + int.from_bytes(data[at : at + 4], "little")
    return f"has {count} strings instead of {wanted}" if count != wanted else ""


@rule(
    "TR604",
    "reject",
    "a warmup gives all inputs of the model",
    "Each sample must give as many of the model's inputs as are not optional. What it names beyond them goes to the "
    "model as a control tensor, whatever its type and shape.",
    wrong=_tree(_once(_INPUT.replace('"x"', '"X"'))),
    right=_RIGHT,
)
def all_inputs_are_given(model: Model, target: Target) -> Iterator[Spot]:
    if not model.config.has("model_warmup") or interface(model, target) is None:
        return
    needed = [tensor.get("name") for tensor in model.config.all("input") if not tensor.get("optional")]
    declared = _declared(model)
    for sample in _samples(model):
        given = set(sample.map("inputs"))
        if len(given & set(declared)) < len(needed):
            missing = [name for name in needed if name not in given]
            what = (
                f"lacks the inputs {', '.join(missing)}"
                if missing
                else "cannot give an input twice that is there twice"
            )
            yield model.spot_in(
                sample, f"warmup {sample.get('name')!r} {what}", "Give every input of the model, by its name."
            )


@rule(
    "TR605",
    "reject",
    "a warmup input has the type and shape of the model's input",
    "The server checks the requests of warmup as it does others: the data type, the number of dims, and every size "
    "that the config fixes. The batch axis is left out.",
    wrong=_tree(_once(_INPUT.replace("dims: 3", "dims: [ 1, 3 ]"))),
    right=_RIGHT,
)
def inputs_fit(model: Model, target: Target) -> Iterator[Spot]:
    for each, declared in _own_inputs(model, target):
        data_type, dims = declared.get("data_type"), declared.all("dims")
        if each.data_type != data_type:
            yield each.spot("data_type", f"{each.data_type}, but the model's input is {data_type}", "Use that type.")
        elif not _fits(each, declared):
            yield each.spot(
                "dims", f"the dims {list(each.dims)} do not fit those of the model's input, {list(dims)}", "Use those."
            )


def _fits(each: _Input, declared: Message) -> bool:
    if -1 in each.dims:
        return True  # TR601 has that
    batched = each.model.config.get("max_batch_size") > 0
    # The batch axis, which the server adds, is not taken off a shape tensor again.
    dims = (1, *each.dims) if batched and declared.get("is_shape_tensor") else each.dims
    wanted = declared.all("dims")
    if len(dims) != len(wanted) or any(one not in {-1, other} for one, other in zip(wanted, dims, strict=True)):
        return False
    if each.data_type == "TYPE_STRING" or declared.get("is_non_linear_format_io"):
        return product(each.dims) >= 0
    size = element_size(each.data_type)
    return size > 0 and each.size >= 0 and each.size == signed(product(dims) * size)


@rule(
    "TR606",
    "crash",
    "the data of a warmup can be made",
    "Data of a size that no machine has, and an `input_data_file` that is a folder, end the server.",
    wrong=_tree(_once(_INPUT.replace("dims: 3", "dims: 4398046511104")), _OPEN),
    right=_tree(_once(), _OPEN),
)
def data_can_be_made(model: Model, target: Target) -> Iterator[Spot]:
    for each in _inputs(model):
        if each.source == "input_data_file" and model.files.is_folder(each.path):
            yield each.spot("input_data_file", f"{each.path} is a folder", "Name a file in it.")
        elif each.source in {"zero_data", "random_data"} and -1 not in each.dims and each.size >= TOO_LARGE:
            yield each.spot("dims", f"{each.size} bytes of data", "Give a size that requests will have.")


@rule(
    "TR607",
    "hang",
    "a warmup comes to an end",
    "The model is not ready before every sample has been run `count` times, with `batch_size` requests at once.",
    wrong=_tree(f"count: 4000000000\n  {_once()}"),
    right=_tree(f"count: 4\n  {_once()}"),
)
def warmup_ends(model: Model, target: Target) -> Iterator[Spot]:
    for sample in _samples(model):
        batch, count = sample.get("batch_size"), max(1, sample.get("count"))
        if batch >= _MANY_AT_ONCE or batch * count >= _MANY:
            field = "batch_size" if batch >= count else "count"
            yield model.spot(
                field, f"a warmup of {batch * count} requests", "A handful is enough to warm up.", within=sample
            )


@rule(
    "TR608",
    "reject",
    "a warmup batch is one that the model takes",
    "`batch_size` of a warmup is the number of requests that are run together. More than `max_batch_size` (more than "
    "one, where the model does not batch) is refused by the backend; the Python backend was seen to crash now and then "
    "while it did so.",
    wrong=_python("batch_size: 8\n  " + _INPUT),
    right=_python("batch_size: 4\n  " + _INPUT),
)
def batches_are_possible(model: Model, target: Target) -> Iterator[Spot]:
    if not model.config.has("model_warmup") or model.backend not in _COUNTING:
        return
    if (target.only_core and model.backend != "python") or interface(model, target) is None:
        return
    most = max(1, model.config.get("max_batch_size"))
    for sample in _samples(model):
        if sample.get("batch_size") > most:
            yield model.spot(
                "batch_size",
                f"a warmup with a batch of {sample.get('batch_size')}, the model takes {most} at most",
                f"Use {most}.",
                within=sample,
            )


@rule(
    "TR609",
    "advice",
    "a warmup has a batch size",
    "A sample without `batch_size`, or with 0, is skipped without a word.",
    wrong=_tree(_INPUT),
    right=_RIGHT,
)
def samples_are_run(model: Model, target: Target) -> Iterator[Spot]:
    for sample in model.config.all("model_warmup") if model.config.has("model_warmup") else ():
        if not sample.get("batch_size"):
            yield model.spot_in(
                sample, f"warmup {sample.get('name')!r} is never run", "Give its batch_size: 1 or more."
            )


@rule(
    "TR610",
    "advice",
    "a warmup input is an input or a control of the model",
    "A name that the config does not know goes to the model as it is. Only the control tensors of a sequence model are "
    "meant to be given that way.",
    wrong=_tree(_once(_INPUT + ' inputs { key: "mask" value { data_type: TYPE_BOOL dims: 1 zero_data: true } }')),
    right=_RIGHT,
)
def names_are_known(model: Model, target: Target) -> Iterator[Spot]:
    if not model.config.has("model_warmup") or interface(model, target) is None:
        return
    batching = model.config.get("sequence_batching")
    known = set(_declared(model))
    known |= {tensor.get("name") for tensor in batching.all("control_input")}
    known |= {state.get("input_name") for state in batching.all("state")}
    known |= {name for batch in model.config.all("batch_input") for name in batch.all("target_name")}
    for each in _inputs(model):
        if each.name not in known:
            line, column = each.sample.map_at("inputs", each.name)
            yield Spot(
                model.path / CONFIG,
                line,
                column,
                f"the model has no input {each.name!r}",
                f"It has: {', '.join(sorted(known)) or 'none'}.",
            )
