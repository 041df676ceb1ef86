"""TR3xx: instance groups."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tritonrepo.check._textformat import Message
from tritonrepo.check.edits import removed
from tritonrepo.check.model import Model
from tritonrepo.check.rule import Spot, Target, rule
from tritonrepo.check.rules._help import MODEL_PY, TENSORS, example

_INT32 = 2**31
# A server that creates so many needs minutes at least; the time grows with the square.
_MANY = 2000


def _group(text: str, backend: str = "pytorch") -> dict[str, str]:
    return example(f"instance_group {{ {text} }}{TENSORS}", backend)


def _plan(text: str) -> dict[str, str]:
    config = f'backend: "tensorrt"\ninstance_group {{ {text} }}{TENSORS}'
    return {"m/config.pbtxt": config, "m/1/model.plan": ""}


def _groups(model: Model) -> tuple[Message, ...]:
    """The instance groups; none of an ensemble, which must not have any."""
    config = model.config
    if not config.has("instance_group") or config.has("ensemble_scheduling"):
        return ()
    groups: tuple[Message, ...] = config.all("instance_group")
    return groups


@rule(
    "TR301",
    "reject",
    "gpus are for instances on GPUs",
    "Instances of KIND_CPU and KIND_MODEL take no gpus. With KIND_MODEL the model chooses its devices itself.",
    wrong=_group("kind: KIND_CPU gpus: [ 0 ]"),
    right=_group("kind: KIND_CPU"),
)
def only_gpu_instances_have_gpus(model: Model, target: Target) -> Iterator[Spot]:
    for group in _groups(model):
        kind = group.get("kind")
        if kind in ("KIND_CPU", "KIND_MODEL") and group.all("gpus"):
            yield model.spot(
                "gpus", f"instances of {kind} take no gpus", "Take gpus out, or say KIND_GPU.", within=group
            )


@rule(
    "TR302",
    "reject",
    "the GPUs of an instance group exist",
    "Instances of KIND_GPU need a GPU, and each of gpus has to be the number of one that the server supports. With "
    "KIND_AUTO, the default, a GPU that does not exist turns the group into one for the CPU, which takes no gpus.",
    wrong=_group("kind: KIND_GPU gpus: [ -1 ]"),
    right=_group("kind: KIND_GPU gpus: [ 0 ]"),
)
def gpus_exist(model: Model, target: Target) -> Iterator[Spot]:
    count = 0 if target.gpus == () else target.gpu_count
    for group in _groups(model):
        kind, gpus = group.get("kind"), group.all("gpus")
        if kind not in ("KIND_GPU", "KIND_AUTO"):
            continue
        if kind == "KIND_GPU" and count == 0 and not gpus:
            hint = "Say KIND_AUTO, which takes GPUs where there are any, or KIND_CPU."
            yield model.spot("kind", "the server has no GPUs", hint, within=group)
        for index, gpu in enumerate(gpus):
            if gpu < 0 or (count is not None and gpu >= count):
                known = (
                    "" if count is None else ": the server has none" if not count else f": they go up to {count - 1}"
                )
                message, hint = f"there is no GPU {gpu}{known}", "Leave gpus out to use every GPU there is."
                yield model.spot("gpus", message, hint, within=group, index=index)


@rule(
    "TR303",
    "reject",
    "the kind of an instance group has a name",
    "The text format takes any number for a kind; the server knows those with names.",
    wrong=_group("kind: 7"),
    right=_group("kind: KIND_CPU"),
)
def kind_has_a_name(model: Model, target: Target) -> Iterator[Spot]:
    for group in _groups(model):
        if isinstance(group.get("kind"), int):
            hint = "Write KIND_AUTO, KIND_GPU, KIND_CPU or KIND_MODEL."
            yield model.spot("kind", f"there is no kind {group.get('kind')}", hint, within=group)


@rule(
    "TR304",
    "reject",
    "profiles are TensorRT's",
    "`profile` chooses optimization profiles of a TensorRT plan. The server refuses it for other models.",
    wrong=_group('profile: "0"'),
    right=_group("count: 1"),
)
def profiles_are_for_plans(model: Model, target: Target) -> Iterator[Spot]:
    if model.completed.platform == "tensorrt_plan":
        return
    for group in _groups(model):
        if group.all("profile"):
            count = len(group.all("profile"))
            edits = [removed(group, "profile")] if count == 1 else []
            message = f"profile is for TensorRT plans, and this is a model of {model.backend or 'another backend'}"
            yield model.spot("profile", message, "Take it out.", within=group, edits=edits)


@rule(
    "TR305",
    "reject",
    "a profile is a number from 0",
    "Profiles are named by their index in the plan, as text.",
    wrong=_plan('profile: "max"'),
    right=_plan('profile: "1"'),
)
def profile_is_a_number(model: Model, target: Target) -> Iterator[Spot]:
    for group, index, text, number in _profiles(model):
        if number is None or -_INT32 <= number < 0:
            message = f"{text!r} is not the number of a profile"
            yield model.spot("profile", message, 'Write a number from 0: profile: "0".', within=group, index=index)


@rule(
    "TR306",
    "crash",
    "a profile fits into 32 bits",
    "The server ends while it converts a larger number.",
    wrong=_plan('profile: "99999999999"'),
    right=_plan('profile: "9"'),
)
def profile_fits(model: Model, target: Target) -> Iterator[Spot]:
    for group, index, text, number in _profiles(model):
        if number is not None and not -_INT32 <= number < _INT32:
            yield model.spot("profile", f"there is no profile {text}", "Correct it.", within=group, index=index)


def _profiles(model: Model) -> Iterator[tuple[Message, int, str, int | None]]:
    """Each profile of a plan: its group, its place there, its text, and the number that the server reads in it."""
    for group in _groups(model):
        if group.has("profile") and model.completed.platform == "tensorrt_plan":
            for index, text in enumerate(group.all("profile")):
                match = re.match(r"[ \t-\r]*([+-]?[0-9]+)", text, re.ASCII)
                yield group, index, text, int(match[1]) if match else None


@rule(
    "TR307",
    "breaks",
    "a model has an instance that takes requests",
    "Passive instances are loaded and take no requests. The first request for a model that has no others ends the "
    "server.",
    wrong=_group("passive: true"),
    right=example(f"instance_group [ {{ passive: true }}, {{ count: 1 }} ]{TENSORS}"),
)
def an_instance_is_active(model: Model, target: Target) -> Iterator[Spot]:
    groups = _groups(model)
    if groups and all(group.get("passive") for group in groups):
        message, hint = "no instance takes requests", "Take passive out of a group, or add one without."
        yield model.spot("passive", message, hint, within=groups[0])


@rule(
    "TR308",
    "advice",
    "the number of instances is positive",
    "A count of 0 or less counts as if it were not there: the server takes its default, one for each GPU or on the CPU "
    "one, for ONNX Runtime and TensorFlow two.",
    wrong=_group("kind: KIND_CPU count: 0"),
    right=_group("kind: KIND_CPU count: 1"),
)
def count_is_positive(model: Model, target: Target) -> Iterator[Spot]:
    for group in _groups(model):
        if group.has("count") and group.get("count") < 1:
            message = f"a count of {group.get('count')} does not mean no instances"
            yield model.spot("count", message, "Leave it out, or write how many.", within=group)


@rule(
    "TR309",
    "hang",
    "there are not thousands of instances",
    "Every instance is a copy of the model with a thread or a process of its own. Creating thousands takes hours, if "
    "memory lasts.",
    wrong=_group("kind: KIND_CPU count: 2147483647"),
    right=_group("kind: KIND_CPU count: 4"),
)
def instances_are_few(model: Model, target: Target) -> Iterator[Spot]:
    for group in _groups(model):
        if group.get("count") > _MANY:
            yield model.spot("count", f"{group.get('count')} instances", "Write fewer.", within=group)


@rule(
    "TR310",
    "hang",
    "names of Python instances need no quoting in a shell",
    "The Python backend starts the process of an instance through a shell, and does not quote the name of its group. "
    "With a space, a quote, or one of ;&|<>()` in it the process does not start, and loading never ends or fails. What "
    "stands in such a name is executed.",
    wrong={
        "m/config.pbtxt": f'backend: "python"\ninstance_group {{ name: "first; second" }}{TENSORS}',
        "m/1/model.py": MODEL_PY,
    },
    right={
        "m/config.pbtxt": f'backend: "python"\ninstance_group {{ name: "first_second" }}{TENSORS}',
        "m/1/model.py": MODEL_PY,
    },
)
def instance_names_need_no_quotes(model: Model, target: Target) -> Iterator[Spot]:
    if model.backend != "python":
        return
    for group in _groups(model):
        if re.search(r"""[\s;&|<>()`"']|^#""", group.get("name")):
            message = f"the Python backend does not quote the name {group.get('name')!r}"
            yield model.spot("name", message, "Use letters, digits and underscores.", within=group)
