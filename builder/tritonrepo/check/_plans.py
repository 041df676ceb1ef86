"""The TensorRT plans of a model, and what is asked of each: by which GPUs, with which profiles, for which tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tritonrepo.check._onnx_fit import CORRID, controls
from tritonrepo.check._sidecar import Plan, PlanProfile, plan
from tritonrepo.check._textformat import Message
from tritonrepo.check.model import Model
from tritonrepo.check.rule import Target

_NUMBER = re.compile(r"[ \t-\r]*([+-]?[0-9]+)")
_CONTROL_VALUES = {
    "int32_false_true": "TYPE_INT32",
    "fp32_false_true": "TYPE_FP32",
    "bool_false_true": "TYPE_BOOL",
}


def plans(model: Model, target: Target) -> tuple[Plan, ...]:
    """The plans of the versions that are served, where TensorRT's backend is asked and a build has described them."""
    if model.backend != "tensorrt" or target.only_core:
        return ()
    return model.once(_plans)


def _plans(model: Model) -> tuple[Plan, ...]:
    names = dict.fromkeys((model.completed.filename, *model.config.map("cc_model_filenames").values()))
    found = (plan(model, f"{version}/{name}") for version in model.served for name in names if name)
    return tuple(each for each in found if each is not None and _is_described(model, each))


def _is_described(model: Model, described: Plan) -> bool:
    """Whether the plan is still the one that was described."""
    return model.files.is_folder(described.path) is False and model.files.size(described.path) == described.size_bytes


@dataclass(frozen=True)
class Group:
    """An instance group, with the profiles that it selects; the first where it names none."""

    message: Message | None
    profiles: tuple[tuple[str, int], ...]
    """Text and number."""


def groups(model: Model) -> tuple[Group, ...]:
    """The instance groups; one without a message where the config has none."""
    found = []
    for message in model.config.all("instance_group"):
        named = [(text, _NUMBER.match(text)) for text in message.all("profile")]
        chosen = [(text, int(match[1])) for text, match in named if match]
        found.append(Group(message, tuple(chosen) or (("0", 0),)))
    return tuple(found) or (Group(None, (("0", 0),)),)


def selected(model: Model, described: Plan) -> Iterator[tuple[Group, int, PlanProfile]]:
    """The profiles of a plan that instances select, as far as it has them."""
    for group in groups(model):
        for _, number in group.profiles:
            if 0 <= number < len(described.profiles):
                yield group, number, described.profiles[number]


def most(described: Plan, profile: PlanProfile) -> int:
    """The largest batch of a profile: the first axis that every input can have."""
    sizes = [
        profile.max[tensor.name][0]
        for tensor in described.inputs
        if not tensor.is_shape and profile.max.get(tensor.name)
    ]
    return min(sizes, default=0)


@dataclass(frozen=True)
class Asked:
    """A tensor that the config wants of a plan."""

    kind: str
    """``input``, ``output``, ``control``, ``state input`` or ``state output``."""
    name: str
    data_type: str | int | None
    """None where the config says nothing of it."""
    dims: tuple[int, ...]
    """Without the batch axis; of a reshape where there is one."""
    message: Message
    field: str
    """The field with the name."""
    ragged: bool = False

    @property
    def is_input(self) -> bool:
        return self.kind in {"input", "control", "state input"}


def asked(model: Model) -> Iterator[Asked]:
    """Every tensor that the config names."""
    config = model.config
    for kind in ("input", "output"):
        for message in config.all(kind):
            dims = message.get("reshape").all("shape") if message.has("reshape") else message.all("dims")
            ragged = kind == "input" and message.get("allow_ragged_batch")
            yield Asked(kind, message.get("name"), message.get("data_type"), dims, message, "name", ragged)
    for kind, message, name in controls(model):
        values = next((type_ for field, type_ in _CONTROL_VALUES.items() if message.all(field)), None)
        data_type = message.get("data_type") if kind == CORRID else values
        yield Asked("control", name, data_type, (1,), message, "kind")
    for state in config.get("sequence_batching").all("state"):
        for kind, field in (("state input", "input_name"), ("state output", "output_name")):
            yield Asked(kind, state.get(field), state.get("data_type"), state.all("dims"), state, field)
