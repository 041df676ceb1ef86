"""What a model is to an ensemble that uses it: whether it is served, and with which tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tritonrepo.check._onnx import Tensor, completed
from tritonrepo.check._textformat import Message
from tritonrepo.check.model import Model, Repository
from tritonrepo.check.rule import NOT_SERVED, RULES, Rule, Spot, Target

#: Ensembles of ensembles are followed this deep; those below speak for themselves only.
_DEPTH = 40


@dataclass(frozen=True)
class Port:
    """An input or output as the server will know it."""

    name: str
    data_type: str | int
    dims: tuple[int, ...]
    """Without the batch axis where the model batches."""
    optional: bool = False


@dataclass(frozen=True)
class Interface:
    """What a model takes and gives, after its backend has completed the config."""

    max_batch_size: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def interface(model: Model, target: Target) -> Interface | None:
    """The model's tensors; None where they cannot be known, as its backend or its own code completes the config."""
    each = next(iter(completed(model, target)), None)
    if each is not None and each.completes:
        return Interface(each.max_batch_size, *(tuple(map(_port, tensors)) for tensors in (each.inputs, each.outputs)))
    inputs, outputs = ports(model.config, "input"), ports(model.config, "output")
    if (model.backend == "python" or not (inputs and outputs)) and _may_complete(model, target):
        return None
    return Interface(model.config.get("max_batch_size"), inputs, outputs)


def _port(tensor: Tensor) -> Port:
    dims = tensor.dims if tensor.message is None else tensor.message.all("dims")
    return Port(tensor.name, tensor.data_type, dims, tensor.optional)


def ports(config: Message, field: str) -> tuple[Port, ...]:
    """The inputs or outputs that a config states."""
    return tuple(
        Port(
            tensor.get("name"),
            tensor.get("data_type"),
            tensor.all("dims"),
            field == "input" and tensor.get("optional"),
        )
        for tensor in config.all(field)
    )


def _may_complete(model: Model, target: Target) -> bool:
    """Whether tensors that the config lacks may come from elsewhere."""
    if model.config.has("ensemble_scheduling"):
        return False
    if not target.only_core and model.backend != "python":
        return True
    return any(b"auto_complete_config" in source for source in _sources(model))


def _sources(model: Model) -> Iterator[bytes]:
    """What is in the model files of all versions."""
    for version in model.versions:
        try:
            yield model.files.read(f"{version}/{model.completed.filename}")
        except OSError:
            continue


@dataclass(frozen=True)
class Refusal:
    """The first thing for which the server does not serve a model."""

    rule: Rule
    spot: Spot


class _Refusals:
    """What is known so far of the models of a repository."""

    def __init__(self, repository: Repository) -> None:
        self.known: dict[tuple[str, Target], Refusal | None] = {}
        self.asking: set[str] = set()


def refusal(model: Model, target: Target) -> Refusal | None:
    """Why the server does not serve a model; None where no rule speaks against it."""
    asked = model.repository.once(_Refusals)
    key = (model.name, target)
    if key not in asked.known:
        if model.name in asked.asking or len(asked.asking) >= _DEPTH:
            return None
        asked.asking.add(model.name)
        asked.known[key] = next(_refusals(model, target), None)
        asked.asking.remove(model.name)
    return asked.known[key]


def _refusals(model: Model, target: Target) -> Iterator[Refusal]:
    readable = model.readable
    for rule in RULES.values():
        if rule.severity in NOT_SERVED and (readable or not rule.parsed):
            for spot in rule.run(model, target):
                yield Refusal(rule, spot)
