"""TR7xx: ensembles, alone and together with the models they are composed of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tritonrepo.check._compose import at_map, compatible, meetings, mixed, parts, why_not
from tritonrepo.check._graph import Step, complete_steps, cycles, decoupled_models, flow, is_ensemble, names, steps
from tritonrepo.check._served import refusal
from tritonrepo.check.edits import added, removed
from tritonrepo.check.model import CONFIG, Model
from tritonrepo.check.rule import Spot, Target, Tree, rule

_TENSORS = """
input { name: "a" data_type: TYPE_FP32 dims: 3 }
output { name: "z" data_type: TYPE_FP32 dims: 3 }
"""
_STEP = """
  step {
    model_name: "part"
    model_version: -1
    input_map { key: "x" value: "a" }
    output_map { key: "y" value: "z" }
  }
"""
_PART = """
backend: "identity"
input { name: "x" data_type: TYPE_FP32 dims: 3 }
output { name: "y" data_type: TYPE_FP32 dims: 3 }
"""


def _step(source: str, target: str, model: str = "part") -> str:
    return _STEP.replace('"a"', f'"{source}"').replace('"z"', f'"{target}"').replace("part", model)


def _config(steps: str = _STEP, tensors: str = _TENSORS, head: str = 'platform: "ensemble"') -> str:
    return f"{head}{tensors}ensemble_scheduling {{{steps}}}\n"


def _tree(config: str, part: str = _PART) -> Tree:
    """The ensemble ``e`` and the model ``part`` that it is composed of."""
    return {"e/config.pbtxt": config, "e/1/": "", "part/config.pbtxt": part, "part/1/": ""}


_RIGHT = _tree(_config())


@rule(
    "TR701",
    "reject",
    "ensemble_scheduling goes with platform ensemble",
    'The steps of `ensemble_scheduling` are run by the server itself, which wants `platform: "ensemble"` for it; with '
    "another platform, or none, it refuses the model.",
    wrong=_tree(_config(head='backend: "identity"')),
    right=_RIGHT,
)
def scheduling_has_the_platform(model: Model, target: Target) -> Iterator[Spot]:
    platform = model.config.get("platform")
    if is_ensemble(model) and platform != "ensemble":
        said = f"the platform is {platform!r}" if platform else "no platform is given"
        yield model.spot("ensemble_scheduling", f"ensemble_scheduling is set, but {said}", 'Set platform: "ensemble".')


@rule(
    "TR702",
    "reject",
    "platform ensemble goes with ensemble_scheduling",
    "A model of the platform `ensemble` is nothing but its steps.",
    wrong={"e/config.pbtxt": 'platform: "ensemble"' + _TENSORS, "e/1/": ""},
    right=_RIGHT,
)
def ensemble_has_scheduling(model: Model, target: Target) -> Iterator[Spot]:
    if model.config.get("platform") == "ensemble" and not is_ensemble(model):
        yield model.spot(
            "platform", "an ensemble without steps", "Add ensemble_scheduling with a step for each model, in order."
        )


@rule(
    "TR703",
    "reject",
    "an ensemble has no backend",
    "No backend runs an ensemble, and the server refuses one that names a backend. It also takes the names of model "
    "files that it knows (model.plan, model.onnx, model.xml, model.pt, model.py) in `default_model_filename` for the "
    "name of a backend.",
    wrong=_tree(_config(head='platform: "ensemble" backend: "identity"')),
    right=_RIGHT,
)
def ensemble_has_no_backend(model: Model, target: Target) -> Iterator[Spot]:
    if model.config.get("platform") != "ensemble" or not model.backend:
        return
    field = "backend" if model.config.get("backend") else "default_model_filename"
    yield model.spot(
        field,
        f"an ensemble with the backend {model.backend!r}",
        f"Remove {field}.",
        edits=[removed(model.config, field)],
    )


@rule(
    "TR704",
    "reject",
    "an ensemble has no instances, optimization or warmup of its own",
    "`instance_group`, `optimization` and `model_warmup` belong to the models that an ensemble is composed of.",
    wrong=_tree(_config() + "instance_group { count: 2 }"),
    right=_RIGHT,
)
def ensemble_has_no_instances(model: Model, target: Target) -> Iterator[Spot]:
    if not is_ensemble(model):
        return
    config = model.config
    if config.has("optimization"):
        yield model.spot(
            "optimization",
            "an ensemble with optimization",
            "Move it to the models of its steps.",
            edits=[removed(config, "optimization")],
        )
    for field in ("instance_group", "model_warmup"):
        for index in range(len(config.all(field))):
            yield model.spot(
                field,
                f"an ensemble with {field}",
                "Move it to the models of its steps.",
                index=index,
                edits=[removed(config, field, index)],
            )


@rule(
    "TR705",
    "reject",
    "an ensemble has at least one step",
    "The server refuses an ensemble without steps.",
    wrong=_tree(_config("")),
    right=_RIGHT,
)
def ensemble_has_steps(model: Model, target: Target) -> Iterator[Spot]:
    if is_ensemble(model) and not steps(model):
        yield model.spot("ensemble_scheduling", "an ensemble without steps", "Add a step for each model, in order.")


@rule(
    "TR706",
    "reject",
    "a step names its model, and maps inputs and outputs",
    "Without `model_name`, without any `input_map` or without any `output_map` the server refuses the ensemble.",
    wrong=_tree(_config(_STEP.replace('output_map { key: "y" value: "z" }', ""))),
    right=_RIGHT,
)
def steps_are_complete(model: Model, target: Target) -> Iterator[Spot]:
    for step in steps(model):
        said = {"model_name": step.model, "input_map": step.inputs, "output_map": step.outputs}
        for field, value in said.items():
            if not value:
                yield model.spot_in(step.message, f"step {step.index} has no {field}", f"Add {field}.")


@rule(
    "TR707",
    "reject",
    "a tensor is written once",
    "A tensor of an ensemble may be the value of one `output_map` only; the server refuses the ensemble otherwise.",
    wrong=_tree(_config(_step("a", "b") + _step("a", "b") + _step("b", "z"))),
    right=_tree(_config(_step("a", "b") + _step("b", "z"))),
)
def tensors_are_written_once(model: Model, target: Target) -> Iterator[Spot]:
    writers: dict[str, Step] = {}
    for step in complete_steps(model):
        for key, tensor in step.outputs.items():
            if tensor in writers:
                yield at_map(
                    model,
                    step,
                    "output_map",
                    key,
                    f"tensor {tensor!r} is written by step {writers[tensor].index} already",
                    "Give it another name.",
                )
            writers.setdefault(tensor, step)


@rule(
    "TR708",
    "reject",
    "every input and output of an ensemble belongs to a step",
    "An input that no step names, or an output that none does, makes the server refuse the ensemble.",
    wrong=_tree(_config(tensors=_TENSORS + 'output { name: "score" data_type: TYPE_FP32 dims: 3 }')),
    right=_RIGHT,
)
def inputs_and_outputs_are_used(model: Model, target: Target) -> Iterator[Spot]:
    if not complete_steps(model):
        return
    known = flow(model).known
    for field in ("input", "output"):
        for tensor in model.config.all(field):
            if tensor.get("name") not in known:
                yield model.spot(
                    "name",
                    f"no step has the ensemble's {field} {tensor.get('name')!r}",
                    "It has to be the value of an input_map or output_map; compare the spelling.",
                    within=tensor,
                )


@rule(
    "TR709",
    "reject",
    "every output of an ensemble is written",
    "An output must come from a step all of whose inputs are inputs of the ensemble or come from such steps. Steps "
    "that wait for each other never run.",
    wrong=_tree(_config(_step("a", "b") + _step("c", "z"))),
    right=_tree(_config(_step("a", "b") + _step("b", "z"))),
)
def outputs_are_written(model: Model, target: Target) -> Iterator[Spot]:
    if not complete_steps(model):
        return
    tensors = flow(model)
    for output in model.config.all("output"):
        name = output.get("name")
        if name in tensors.known and name not in tensors.ready:
            yield model.spot(
                "name",
                f"output {name!r} is never written: {why_not(model, name)}",
                "Each input of its step must be an input of the ensemble or an output of an earlier step.",
                within=output,
            )


@rule(
    "TR710",
    "reject",
    "every tensor between the steps is written and used",
    "The server refuses an ensemble with a tensor that no step takes and that is no output, or that a step takes and "
    "nothing writes.",
    wrong=_tree(_config(_STEP + _step("a", "left_over"))),
    right=_RIGHT,
)
def tensors_are_used(model: Model, target: Target) -> Iterator[Spot]:
    if not complete_steps(model):
        return
    tensors = flow(model)
    outputs = set(names(model, "output")) & tensors.ready
    for step in steps(model):
        for field, pairs in (("input_map", step.inputs), ("output_map", step.outputs)):
            for key, name in pairs.items():
                if name in outputs:
                    continue
                if field == "input_map" and name not in tensors.ready and name not in tensors.written:
                    yield at_map(
                        model, step, field, key, f"nothing writes tensor {name!r}", "Compare it with the output_maps."
                    )
                elif field == "output_map" and (name not in tensors.ready or name not in tensors.used):
                    never = "is never written" if name not in tensors.ready else "is not used"
                    yield at_map(
                        model,
                        step,
                        field,
                        key,
                        f"tensor {name!r} {never}",
                        "Declare it as an output, map it into a step, or remove this output_map.",
                    )


@rule(
    "TR711",
    "reject",
    "the models of the steps are in the repository",
    "An ensemble is loaded together with its models; without one of them it is not served.",
    wrong=_tree(_config(_STEP.replace('"part"', '"prat"'))),
    right=_RIGHT,
)
def models_exist(model: Model, target: Target) -> Iterator[Spot]:
    for step in complete_steps(model):
        if step.model not in model.repository.models:
            from tritonrepo._faults import closest

            nearest = closest(step.model, model.repository.models)
            hint = f"Did you mean {nearest}?" if nearest else "Put that model into the repository."
            yield model.spot(
                "model_name", f"there is no model {step.model!r} in the repository", hint, within=step.message
            )


@rule(
    "TR712",
    "reject",
    "ensembles do not depend on themselves",
    "An ensemble among whose models, or their models, it is itself can never be loaded.",
    wrong={
        "e/config.pbtxt": _config(_STEP.replace("part", "f")).replace('"x"', '"a"').replace('"y"', '"z"'),
        "e/1/": "",
        "f/config.pbtxt": _config(_STEP.replace("part", "e")).replace('"x"', '"a"').replace('"y"', '"z"'),
        "f/1/": "",
    },
    right=_RIGHT,
)
def no_circles(model: Model, target: Target) -> Iterator[Spot]:
    if is_ensemble(model) and model.name in (circular := model.repository.once(cycles).members):
        for step in steps(model):
            if step.model in circular:
                yield model.spot(
                    "model_name",
                    f"{model.name} and {step.model} depend on each other"
                    if step.model != model.name
                    else "the ensemble is a step of itself",
                    "Take one of them out of the circle.",
                    within=step.message,
                )


@rule(
    "TR713",
    "crash",
    "no model of an ensemble depends on itself",
    "Where an ensemble uses ensembles that depend on each other, but is not one of them, the server follows the circle "
    "until its stack is full, and ends.",
    wrong={
        "e/config.pbtxt": _config(_STEP.replace("part", "f")).replace('"x"', '"a"').replace('"y"', '"z"'),
        "e/1/": "",
        "f/config.pbtxt": _config(_STEP.replace("part", "g")).replace('"x"', '"a"').replace('"y"', '"z"'),
        "f/1/": "",
        "g/config.pbtxt": _config(_STEP.replace("part", "f")).replace('"x"', '"a"').replace('"y"', '"z"'),
        "g/1/": "",
    },
    right=_RIGHT,
)
def no_circles_below(model: Model, target: Target) -> Iterator[Spot]:
    if is_ensemble(model) and model.name in (found := model.repository.once(cycles)).leading:
        for step in steps(model):
            if step.model in found.members or step.model in found.leading:
                yield model.spot(
                    "model_name",
                    f"{step.model} depends on itself through other ensembles",
                    "Break that circle first.",
                    within=step.message,
                )


@rule(
    "TR714",
    "reject",
    "the models of the steps are served",
    "An ensemble is served only if each of its models is. What is wrong with the model is said of it, too.",
    wrong=_tree(_config(), part=_PART + "sequence_batching { direct { minimum_slot_utilization: 2 } }"),
    right=_RIGHT,
)
def models_are_served(model: Model, target: Target) -> Iterator[Spot]:
    for step in complete_steps(model):
        part = model.repository.models.get(step.model)
        circular = model.repository.once(cycles)
        if part is None or part.name in circular.members or part.name in circular.leading:
            continue
        refused = refusal(part, target)
        if refused:
            yield model.spot(
                "model_name",
                f"model {step.model!r} is not served ({refused.rule.id}: {refused.spot.message})",
                f"Mend {part.path / CONFIG} first.",
                within=step.message,
            )


@rule(
    "TR715",
    "reject",
    "the version that a step asks for is loaded",
    "A step without `model_version` asks for version 0, not for the latest, which is -1. The version has to be on disk "
    "and within the version policy of its model.",
    wrong=_tree(_config(_STEP.replace("model_version: -1", ""))),
    right=_RIGHT,
)
def versions_are_loaded(model: Model, target: Target) -> Iterator[Spot]:
    for step in complete_steps(model):
        part = model.repository.models.get(step.model)
        if part is None or not part.readable or step.version == -1 or step.version in part.served:
            continue
        loaded = ", ".join(map(str, part.served)) or "none"
        if step.message.has("model_version"):
            yield model.spot(
                "model_version",
                f"version {step.version} of {step.model} is not loaded (loaded: {loaded})",
                "Ask for -1, the latest, or for a version that is loaded.",
                within=step.message,
            )
        else:
            yield model.spot(
                "model_name",
                f"the step asks for version 0 of {step.model}, as it names none (loaded: {loaded})",
                "Write model_version: -1 for the latest.",
                within=step.message,
                edits=[added(step.message, "model_version: -1")],
            )


@rule(
    "TR716",
    "reject",
    "a model of an ensemble takes as large a batch as the ensemble",
    "The `max_batch_size` of each model must be at least that of the ensemble; models that do not batch (0) may be "
    "among them.",
    wrong=_tree("max_batch_size: 8\n" + _config(), part="max_batch_size: 4" + _PART),
    right=_tree("max_batch_size: 4\n" + _config(), part="max_batch_size: 4" + _PART),
)
def batches_fit(model: Model, target: Target) -> Iterator[Spot]:
    if not is_ensemble(model):
        return
    batch = model.config.get("max_batch_size")
    for step, part in parts(model, target):
        if 0 < part.max_batch_size < batch:
            yield model.spot(
                "max_batch_size",
                f"the ensemble takes batches of {batch}, its model {step.model} of {part.max_batch_size} at most",
                f"Set max_batch_size of the ensemble to {part.max_batch_size}, or raise that of the model.",
            )


@rule(
    "TR717",
    "reject",
    "maps name the inputs and outputs of the model",
    "The keys of `input_map` and `output_map` are names of the model's own inputs and outputs. Every input must be "
    "mapped unless it is optional; outputs may be left out.",
    wrong=_tree(_config(_STEP.replace('"y"', '"Y"'))),
    right=_RIGHT,
)
def maps_fit_the_model(model: Model, target: Target) -> Iterator[Spot]:
    for step, part in parts(model, target):
        for field, pairs, there in (
            ("input_map", step.inputs, part.inputs),
            ("output_map", step.outputs, part.outputs),
        ):
            kind = field[:-4]
            known = Counter(port.name for port in there)
            for key in pairs:
                if key not in known:
                    hint = f"It has: {', '.join(known) or 'none'}."
                    yield at_map(model, step, field, key, f"{step.model} has no {kind} {key!r}", hint)
                elif field == "output_map" and known[key] > 1:
                    yield at_map(model, step, field, key, f"{step.model} has two outputs {key!r}", "Rename one.")
        for port in part.inputs:
            if not port.optional and port.name not in step.inputs:
                yield model.spot_in(
                    step.message,
                    f"input {port.name!r} of {step.model} is not mapped",
                    f'Add input_map {{ key: "{port.name}" value: "..." }}.',
                )


@rule(
    "TR718",
    "reject",
    "types and shapes agree along a tensor",
    "A tensor of an ensemble has the same data type and shape in every model that writes or takes it and in the "
    "ensemble's own inputs and outputs; -1 agrees with every size. Shapes may agree with or without the batch axis.",
    wrong=_tree(_config(), part=_PART.replace("dims: 3", "dims: 4")),
    right=_RIGHT,
)
def tensors_agree(model: Model, target: Target) -> Iterator[Spot]:
    for meeting in meetings(model, target):
        why = meeting.difference
        if why:
            yield meeting.spot(
                model, f"is {why}", "Both must have the same type, and the same sizes where neither is -1."
            )


@rule(
    "TR719",
    "reject",
    "tensors of different decoupled models do not meet",
    "A decoupled model may answer any number of times. Tensors that come from two decoupled models, or from one and "
    "from the ensemble's inputs, belong to different numbers of answers: no step may take both, and an ensemble may "
    "not give both.",
    wrong=_tree(
        _config(_STEP + _step("a", "w"), _TENSORS + 'output { name: "w" data_type: TYPE_FP32 dims: 3 }'),
        part=_PART + "model_transaction_policy { decoupled: true }",
    ),
    right=_tree(_config(_STEP + _step("a", "w"), _TENSORS + 'output { name: "w" data_type: TYPE_FP32 dims: 3 }')),
)
def decoupled_tensors_do_not_meet(model: Model, target: Target) -> Iterator[Spot]:
    if not is_ensemble(model) or not model.repository.once(decoupled_models):
        return
    meeting_there, outputs = mixed(model)
    for step in meeting_there:
        yield model.spot_in(
            step.message,
            f"step {step.index} ({step.model}) takes tensors of different decoupled models",
            "Let one decoupled model give all of them.",
        )
    if outputs:
        yield model.spot(
            "output",
            "the outputs come from different decoupled models, or from one and from none",
            "Let all outputs come from the same decoupled model, or none of them from one.",
        )


@rule(
    "TR720",
    "reject",
    "an ensemble of decoupled models is not cached",
    "An ensemble one of whose models is decoupled is decoupled itself, and a decoupled model cannot use the response "
    "cache: the server refuses it.",
    wrong=_tree(
        _config() + "response_cache { enable: true }", part=_PART + "model_transaction_policy { decoupled: true }"
    ),
    right=_tree(_config(), part=_PART + "model_transaction_policy { decoupled: true }"),
)
def decoupled_ensembles_are_not_cached(model: Model, target: Target) -> Iterator[Spot]:
    if is_ensemble(model) and model.config.get("response_cache").get("enable"):
        decoupled = model.repository.once(decoupled_models)
        if model.name in decoupled:
            first = next((step.model for step in steps(model) if step.model in decoupled), model.name)
            yield model.spot(
                "response_cache",
                f"the response cache is on, but {first} makes the ensemble decoupled",
                "Remove response_cache.",
                edits=[removed(model.config, "response_cache")],
            )


@rule(
    "TR721",
    "breaks",
    "no step writes an input of its ensemble",
    "The server loads an ensemble in which a step's output is one of the ensemble's inputs, and answers none of its "
    "requests: they wait forever.",
    wrong=_tree(_config(_step("a", "a") + _step("a", "z"))),
    right=_tree(_config(_step("a", "b") + _step("b", "z"))),
)
def inputs_are_not_written(model: Model, target: Target) -> Iterator[Spot]:
    if not is_ensemble(model):
        return
    own = set(names(model, "input"))
    for step in complete_steps(model):
        for key, tensor in step.outputs.items():
            if tensor in own:
                yield at_map(
                    model,
                    step,
                    "output_map",
                    key,
                    f"step {step.index} writes {tensor!r}, which is an input of the ensemble",
                    "Give the step's output another name.",
                )


@rule(
    "TR722",
    "breaks",
    "an ensemble takes the sizes that its models take",
    "A dim of -1 agrees with every size when an ensemble is loaded. A request with a size that the first model does "
    "not take passes the ensemble's own check and fails in that step.",
    wrong=_tree(_config(tensors=_TENSORS.replace("dims: 3", "dims: -1"))),
    right=_RIGHT,
)
def sizes_are_as_open_as_the_models(model: Model, target: Target) -> Iterator[Spot]:
    if not is_ensemble(model):
        return
    own = set(names(model, "input"))
    for meeting in meetings(model, target):
        first, here = meeting.first, meeting.here
        if meeting.field == "input_map" and meeting.tensor in own and compatible(first.dims, here.dims):
            fixed = [size for open_, size in zip(first.dims, here.dims, strict=True) if open_ == -1 != size]
            if fixed:
                yield meeting.spot(
                    model,
                    f"has the dims {list(first.dims)} as an input, but {here.owner} takes {list(here.dims)} only",
                    f"Write {list(here.dims)} as the dims of the ensemble's input.",
                )


@rule(
    "TR723",
    "breaks",
    "a batch of an ensemble fits models that do not batch",
    "An ensemble with `max_batch_size` may use a model without, and is loaded. A batch of one is handed to that model "
    "without its batch axis; a larger one fails, unless the model has an axis of its own for it (-1 in front).",
    wrong=_tree("max_batch_size: 4\n" + _config()),
    right=_tree("max_batch_size: 4\n" + _config(), part="max_batch_size: 4" + _PART),
)
def batches_pass_models_without(model: Model, target: Target) -> Iterator[Spot]:
    if not is_ensemble(model) or model.config.get("max_batch_size") < 2:
        return
    for meeting in meetings(model, target):
        first, here = meeting.first, meeting.here
        if meeting.field != "input_map" or here.batched or not first.batched or meeting.difference:
            continue
        if not compatible(first.full, here.dims):
            yield meeting.spot(
                model,
                f"comes in batches, but {here.owner} takes one {list(here.dims)} at a time",
                f"Let {here.owner} batch, or set max_batch_size of the ensemble to 0.",
            )
