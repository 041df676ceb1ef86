"""TR5xx: sequence batching: control tensors, strategies, state."""

from __future__ import annotations

from collections.abc import Iterator

from tritonrepo.check._sizes import TOO_LARGE, product, size_of, unsigned
from tritonrepo.check._textformat import Message
from tritonrepo.check.edits import removed
from tritonrepo.check.model import Model
from tritonrepo.check.rule import Spot, Target, Tree, rule
from tritonrepo.check.rules._help import data_path

_CORRID = "CONTROL_SEQUENCE_CORRID"
_BOOLEAN = ("CONTROL_SEQUENCE_START", "CONTROL_SEQUENCE_END", "CONTROL_SEQUENCE_READY")
_VALUES = ("int32_false_true", "fp32_false_true", "bool_false_true")
_CORRID_TYPES = ("TYPE_UINT64", "TYPE_INT64", "TYPE_UINT32", "TYPE_INT32", "TYPE_STRING")

#: So many places for sequences take the server longer than anybody waits, or more memory than there is.
_MANY_SLOTS = 5_000_000

_MODEL = """
backend: "identity"
max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: 3 }
output { name: "y" data_type: TYPE_FP32 dims: 3 }
"""
_START = "kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ]"


def _tree(batching: str, more: str = "", model: str = _MODEL) -> Tree:
    return {"m/config.pbtxt": f"{model}sequence_batching {{\n{batching}\n}}\n{more}", "m/1/": ""}


def _control(control: str, name: str = "start") -> str:
    return f'  control_input {{ name: "{name}" control {{ {control} }} }}\n'


def _state(dims: str = "4", initial: str = 'name: "zero" data_type: TYPE_FP32 dims: 4 zero_data: true') -> str:
    return (
        f'  state {{\n    input_name: "h" output_name: "h_next" data_type: TYPE_FP32 dims: {dims}\n'
        f"    initial_state {{ {initial} }}\n  }}\n"
    )


def _batching(model: Model) -> Message | None:
    """The sequence batcher's settings; None where there is none."""
    return model.config.get("sequence_batching") if model.config.has("sequence_batching") else None


def _controls(model: Model) -> Iterator[tuple[Message, Message]]:
    """Each control with its tensor."""
    batching = _batching(model)
    if batching is not None:
        for tensor in batching.all("control_input"):
            for control in tensor.all("control"):
                yield tensor, control


@rule(
    "TR501",
    "reject",
    "a control tensor has a name, and one of its own",
    "The server refuses a sequence batcher with a control tensor without a name, or with two of one name. One tensor "
    "may carry several controls: they go into one `control_input`.",
    wrong=_tree(_control(_START) + _control("kind: CONTROL_SEQUENCE_END int32_false_true: [ 0, 1 ]")),
    right=_tree(_control(_START) + _control("kind: CONTROL_SEQUENCE_END int32_false_true: [ 0, 1 ]", "end")),
)
def controls_have_names(model: Model, target: Target) -> Iterator[Spot]:
    batching = _batching(model)
    if batching is None:
        return
    seen: set[str] = set()
    for tensor in batching.all("control_input"):
        name = tensor.get("name")
        if not name:
            yield model.spot_in(tensor, "a control tensor without a name", "Name the model's input that gets it.")
        elif name in seen:
            yield model.spot(
                "name", f"two control inputs are named {name!r}", "Put their controls into one.", within=tensor
            )
        seen.add(name)


@rule(
    "TR502",
    "reject",
    "each kind of control is given once",
    "START, END, READY and CORRID may each be given by one control only. A control without a kind is a START.",
    wrong=_tree(_control(_START) + _control(_START, "begin")),
    right=_tree(_control(_START)),
)
def kinds_are_given_once(model: Model, target: Target) -> Iterator[Spot]:
    seen: set[str] = set()
    for _, control in _controls(model):
        kind = control.get("kind")
        if kind in seen and kind in {*_BOOLEAN, _CORRID}:
            yield model.spot("kind", f"a second {kind}", "Remove one of them.", within=control)
        seen.add(kind)


@rule(
    "TR503",
    "reject",
    "START, END and READY say what is false and what is true",
    "Such a control needs exactly one of `int32_false_true`, `fp32_false_true` and `bool_false_true`, with two values: "
    "the one for false, then the one for true.",
    wrong=_tree(_control("kind: CONTROL_SEQUENCE_START int32_false_true: [ 1 ]")),
    right=_tree(_control(_START)),
)
def boolean_controls_have_values(model: Model, target: Target) -> Iterator[Spot]:
    for _, control in _controls(model):
        kind = control.get("kind")
        if kind not in _BOOLEAN:
            continue
        given = [field for field in _VALUES if control.all(field)]
        if not given:
            yield model.spot(
                "kind", f"{kind} without values", f"Add one of {', '.join(_VALUES)}, as [ 0, 1 ].", within=control
            )
        elif len(given) > 1:
            yield model.spot(
                given[1], f"{kind} with {' and '.join(given)}", "Keep the one of the model's input.", within=control
            )
        elif len(control.all(given[0])) != 2:
            count = len(control.all(given[0]))
            yield model.spot(
                given[0],
                f"{given[0]} has {count} value{'s' if count != 1 else ''} instead of two",
                "Give the value for false and the one for true.",
                within=control,
            )


@rule(
    "TR504",
    "reject",
    "CORRID has a data type, and no values",
    "The control that carries the correlation id needs `data_type`, one of UINT64, INT64, UINT32, INT32, STRING, and "
    "none of the fields with values for false and true.",
    wrong=_tree(_control("kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_FP32", "id")),
    right=_tree(_control("kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64", "id")),
)
def correlation_ids_have_a_type(model: Model, target: Target) -> Iterator[Spot]:
    for tensor, control in _controls(model):
        if control.get("kind") != _CORRID:
            continue
        data_type = control.get("data_type")
        if tensor.get("name") and data_type not in _CORRID_TYPES:
            field = "data_type" if control.has("data_type") else "kind"
            said = f"has the type {data_type}" if control.has("data_type") else "has no data_type"
            yield model.spot(
                field, f"the correlation id {said}", f"Use one of {', '.join(_CORRID_TYPES)}.", within=control
            )
        for field in _VALUES:
            if control.all(field):
                yield model.spot(
                    field,
                    f"{field} for a correlation id, which is neither false nor true",
                    f"Remove {field}.",
                    within=control,
                    edits=[removed(control, field)],
                )


@rule(
    "TR505",
    "reject",
    "preferred batch sizes of the oldest strategy are within max_batch_size",
    "Each `preferred_batch_size` must be between 1 and `max_batch_size`, so a model that does not batch has none.",
    wrong=_tree("  oldest { preferred_batch_size: [ 8 ] }"),
    right=_tree("  oldest { preferred_batch_size: [ 4 ] }"),
)
def preferred_sizes_fit(model: Model, target: Target) -> Iterator[Spot]:
    batching = _batching(model)
    if batching is None or not batching.has("oldest"):
        return
    oldest, most = batching.get("oldest"), model.config.get("max_batch_size")
    for index, size in enumerate(oldest.all("preferred_batch_size")):
        if not 0 < size <= most:
            yield model.spot(
                "preferred_batch_size",
                f"preferred batch size {size} is not between 1 and max_batch_size, {most}",
                "Remove it, or change max_batch_size.",
                within=oldest,
                index=index,
            )


@rule(
    "TR506",
    "reject",
    "minimum_slot_utilization is between 0 and 1",
    "It is the share of the batch's slots that must have a request before the batch runs.",
    wrong=_tree("  direct { minimum_slot_utilization: 80 }"),
    right=_tree("  direct { minimum_slot_utilization: 0.8 }"),
)
def utilization_is_a_share(model: Model, target: Target) -> Iterator[Spot]:
    batching = _batching(model)
    if batching is None or not batching.has("direct"):
        return
    value = batching.get("direct").get("minimum_slot_utilization")
    if value < 0 or value > 1:
        yield model.spot(
            "minimum_slot_utilization",
            f"minimum_slot_utilization {value:g} is not between 0 and 1",
            "Give the share of slots that must be filled.",
            within=batching.get("direct"),
        )


@rule(
    "TR507",
    "crash",
    "a sequence model has a bearable number of slots",
    "The server sets memory aside for every sequence that may run at once: `max_batch_size`, or with the oldest "
    "strategy `max_candidate_sequences`, in each instance. Millions of them take gigabytes and minutes; at 2^31 the "
    "server ends.",
    wrong=_tree("  oldest { max_candidate_sequences: 2147483647 }"),
    right=_tree("  oldest { max_candidate_sequences: 64 }"),
)
def slots_are_bearable(model: Model, target: Target) -> Iterator[Spot]:
    batching = _batching(model)
    if batching is None:
        return
    count, field, within = model.config.get("max_batch_size"), "max_batch_size", model.config
    oldest = batching.get("oldest")
    if oldest.get("max_candidate_sequences") > 0:
        count, field, within = oldest.get("max_candidate_sequences"), "max_candidate_sequences", oldest
    if count > _MANY_SLOTS:
        yield model.spot(
            field,
            f"{field} makes {count} slots for sequences",
            "Give the number of sequences that shall run at once.",
            within=within,
        )


def _states(model: Model) -> Iterator[tuple[Message, Message]]:
    """Each state with its initial state, where it has exactly one."""
    batching = _batching(model)
    if batching is not None:
        for state in batching.all("state"):
            if len(state.all("initial_state")) == 1:
                yield state, state.all("initial_state")[0]


@rule(
    "TR508",
    "reject",
    "a state has at most one initial state",
    "`initial_state` is a list by its form only: the server refuses a state with two.",
    wrong=_tree(_state().replace("\n  }", '\n    initial_state { name: "one" data_type: TYPE_FP32 dims: 4 }\n  }')),
    right=_tree(_state()),
)
def one_initial_state(model: Model, target: Target) -> Iterator[Spot]:
    batching = _batching(model)
    for state in batching.all("state") if batching is not None else ():
        if len(state.all("initial_state")) > 1:
            yield model.spot("initial_state", "a second initial_state", "Remove one of them.", within=state, index=1)


@rule(
    "TR509",
    "reject",
    "an initial state has a name and a source of data",
    "`initial_state` needs a name, and either `zero_data` or `data_file`. A state's input may have one initial state "
    "only.",
    wrong=_tree(_state(initial='name: "zero" data_type: TYPE_FP32 dims: 4')),
    right=_tree(_state()),
)
def initial_states_are_complete(model: Model, target: Target) -> Iterator[Spot]:
    seen: set[str] = set()
    for state, initial in _states(model):
        name = state.get("input_name")
        if not initial.get("name"):
            yield model.spot_in(initial, "an initial state without a name", "Name it.")
        if initial.one_of("state_data") is None:
            yield model.spot_in(initial, "an initial state without data", "Add zero_data: true, or a data_file.")
        if name in seen:
            yield model.spot(
                "input_name", f"a second state with an initial state for input {name!r}", "Remove one.", within=state
            )
        seen.add(name)


@rule(
    "TR510",
    "reject",
    "an initial state fits its state",
    "It has the data type and the number of dims of its state, no variable dims, and the state's size wherever the "
    "state's dim is not variable.",
    wrong=_tree(_state(initial='name: "zero" data_type: TYPE_FP32 dims: 5 zero_data: true')),
    right=_tree(_state()),
)
def initial_states_fit(model: Model, target: Target) -> Iterator[Spot]:
    for state, initial in _states(model):
        wanted, dims = state.all("dims"), initial.all("dims")
        if initial.get("data_type") != state.get("data_type"):
            yield model.spot(
                "data_type",
                f"the initial state is {initial.get('data_type')}, its state {state.get('data_type')}",
                "Use the state's type.",
                within=initial,
            )
        if len(dims) != len(wanted):
            yield model.spot(
                "dims",
                f"the initial state has {len(dims)} dims, its state {len(wanted)}",
                "Give the shape of the state.",
                within=initial,
            )
        elif -1 in dims:
            yield model.spot(
                "dims", "the initial state has a variable dim", "Give its size.", within=initial, index=dims.index(-1)
            )
        else:
            for index, (size, of_state) in enumerate(zip(dims, wanted, strict=True)):
                if of_state not in {-1, size}:
                    yield model.spot(
                        "dims",
                        f"dim {index} of the initial state is {size}, that of its state {of_state}",
                        "Use the state's size.",
                        within=initial,
                        index=index,
                    )


@rule(
    "TR511",
    "reject",
    "the file of an initial state is there and long enough",
    "`data_file` names a file in the folder `initial_state` of the model. It must hold at least as many bytes as the "
    "type and the dims say; what it has beyond is not read.",
    wrong=_tree(_state(initial='name: "start" data_type: TYPE_FP32 dims: 4 data_file: "start.bin"')),
    right={
        **_tree(_state(initial='name: "start" data_type: TYPE_FP32 dims: 4 data_file: "start.bin"')),
        "m/initial_state/start.bin": bytes(16),
    },
)
def state_files_are_there(model: Model, target: Target) -> Iterator[Spot]:
    for state, initial in _states(model):
        if initial.one_of("state_data") != "data_file":
            continue
        path = data_path("initial_state", initial.get("data_file"))
        data_type, dims = initial.get("data_type"), initial.all("dims")
        folder = model.files.is_folder(path)
        if folder is None:
            yield model.spot("data_file", f"there is no file {path}", f"Put it at {model.path / path}.", within=initial)
        elif not folder and data_type != "TYPE_STRING" and data_type == state.get("data_type"):
            needed, there = unsigned(size_of(data_type, dims)), model.files.size(path)
            if needed > there:
                yield model.spot(
                    "data_file", f"{path} has {there} bytes, {needed} are needed", "Write all of it.", within=initial
                )


@rule(
    "TR512",
    "crash",
    "the data of an initial state can be read",
    "Zeros of a size that no machine has (a negative dim makes one, too), and a `data_file` that is a folder, end the "
    "server.",
    wrong=_tree(_state("4398046511104", 'name: "zero" data_type: TYPE_FP32 dims: 4398046511104 zero_data: true')),
    right=_tree(_state()),
)
def initial_states_can_be_made(model: Model, target: Target) -> Iterator[Spot]:
    for _, initial in _states(model):
        source, dims = initial.one_of("state_data"), initial.all("dims")
        if source == "data_file" and model.files.is_folder(data_path("initial_state", initial.get("data_file"))):
            yield model.spot("data_file", "data_file is a folder", "Name a file in it.", within=initial)
        elif source == "zero_data" and -1 not in dims:
            needed = unsigned(size_of(initial.get("data_type"), dims))
            if needed >= TOO_LARGE:
                yield model.spot(
                    "dims", f"an initial state of {product(dims)} elements", "Give its real size.", within=initial
                )


@rule(
    "TR513",
    "breaks",
    "a state has names",
    "The server loads a sequence model whose state lacks `input_name` or `output_name`, or has those of another state, "
    "and ends, or leaves the state out, when requests come.",
    wrong=_tree("  state { data_type: TYPE_FP32 dims: 4 }"),
    right=_tree('  state { input_name: "h" output_name: "h_next" data_type: TYPE_FP32 dims: 4 }'),
)
def states_have_names(model: Model, target: Target) -> Iterator[Spot]:
    batching = _batching(model)
    seen: set[tuple[str, str]] = set()
    for state in batching.all("state") if batching is not None else ():
        for field in ("input_name", "output_name"):
            name = state.get(field)
            if not name:
                yield model.spot_in(state, f"a state without {field}", f"Name the model's tensor as {field}.")
            elif (field, name) in seen:
                yield model.spot(
                    field, f"a second state with the {field} {name!r}", "Give each state its own.", within=state
                )
            seen.add((field, name))


@rule(
    "TR514",
    "breaks",
    "growable memory is one buffer on a GPU",
    "A state with `use_growable_memory` needs `use_same_buffer_for_input_output`, and instances on a GPU. The server "
    "loads the model otherwise, and cannot make the state when a sequence begins.",
    wrong=_tree(
        '  state { input_name: "h" output_name: "h_next" data_type: TYPE_FP32 dims: 4 use_growable_memory: true }'
    ),
    right=_tree(
        '  state { input_name: "h" output_name: "h_next" data_type: TYPE_FP32 dims: 4\n'
        "    use_same_buffer_for_input_output: true use_growable_memory: true }",
        "instance_group { kind: KIND_GPU }",
    ),
)
def growable_states_can_grow(model: Model, target: Target) -> Iterator[Spot]:
    batching = _batching(model)
    kinds = {group.get("kind") for group in model.config.all("instance_group")}
    for state in batching.all("state") if batching is not None else ():
        if not state.get("use_growable_memory"):
            continue
        if not state.get("use_same_buffer_for_input_output"):
            yield model.spot(
                "use_growable_memory",
                "use_growable_memory without use_same_buffer_for_input_output",
                "Set both, or neither.",
                within=state,
            )
        if kinds & {"KIND_CPU", "KIND_MODEL"}:
            yield model.spot(
                "use_growable_memory",
                "use_growable_memory with instances that are not on a GPU",
                "Let all instances be KIND_GPU, or remove it.",
                within=state,
            )


@rule(
    "TR515",
    "breaks",
    "a control tensor is no input of the requests",
    "The server fills control tensors itself. One that is declared as an input, too, must be sent with every request, "
    "and what was sent is then thrown away.",
    wrong=_tree(_control(_START, "x")),
    right=_tree(_control(_START)),
)
def controls_are_no_inputs(model: Model, target: Target) -> Iterator[Spot]:
    inputs = {tensor.get("name") for tensor in model.config.all("input")} if _batching(model) is not None else ()
    for tensor, _ in _controls(model):
        if tensor.get("name") in inputs:
            yield model.spot(
                "name",
                f"control tensor {tensor.get('name')!r} is declared as an input, too",
                "Remove it from `input`.",
                within=tensor,
            )
