"""Ensembles beside the models of their steps: how a tensor is described by each that has it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tritonrepo.check._graph import Step, complete_steps, decoupled_models, flow, is_ensemble, names
from tritonrepo.check._served import Interface, interface
from tritonrepo.check.model import CONFIG, Model
from tritonrepo.check.rule import Spot, Target


def parts(model: Model, target: Target) -> Iterator[tuple[Step, Interface]]:
    """The steps whose model is there and whose tensors are known."""
    for step in complete_steps(model):
        part = model.repository.models.get(step.model)
        if part is not None and part is not model and part.readable:
            found = interface(part, target)
            if found is not None:
                yield step, found


@dataclass(frozen=True)
class Seen:
    """A tensor as one of those who have it describes it."""

    owner: str
    data_type: str | int
    dims: tuple[int, ...]
    batched: bool

    @property
    def full(self) -> tuple[int, ...]:
        """The whole shape, batch axis included."""
        return (-1, *self.dims) if self.batched else self.dims


@dataclass(frozen=True)
class Meeting:
    """A tensor of an ensemble and one of its places in a step."""

    step: Step
    field: str
    key: str
    tensor: str
    first: Seen
    here: Seen

    @property
    def difference(self) -> str:
        """How the two contradict each other; "" where they do not."""
        one, other = self.first, self.here
        if one.data_type != other.data_type:
            return f"{one.data_type} in {one.owner} and {other.data_type} in {other.owner}"
        if not compatible(one.dims, other.dims) and not compatible(one.full, other.full):
            return f"{list(one.full)} in {one.owner} and {list(other.full)} in {other.owner}"
        return ""

    def spot(self, model: Model, message: str, hint: str) -> Spot:
        """A spot at this place of the tensor."""
        return at_map(model, self.step, self.field, self.key, f"tensor {self.tensor!r} {message}", hint)


def meetings(model: Model, target: Target) -> Iterator[Meeting]:
    """Where steps have tensors, with how those who had them before describe them; the first who does so counts."""
    if not is_ensemble(model):
        return
    known = dict(_own(model))
    for step, part in parts(model, target):
        for field, pairs, there in (
            ("input_map", step.inputs, part.inputs),
            ("output_map", step.outputs, part.outputs),
        ):
            for port in there:
                tensor = pairs.get(port.name)
                if tensor is not None:
                    here = Seen(step.model, port.data_type, port.dims, part.max_batch_size > 0)
                    yield Meeting(step, field, port.name, tensor, known.setdefault(tensor, here), here)


def _own(model: Model) -> Iterator[tuple[str, Seen]]:
    """The ensemble's own inputs and outputs; of those with one name the first counts."""
    batched = model.config.get("max_batch_size") > 0
    given: set[str] = set()
    for field in ("input", "output"):
        for tensor in model.config.all(field):
            name = tensor.get("name")
            if name not in given:
                given.add(name)
                dims = tensor.get("reshape").all("shape") if tensor.has("reshape") else tensor.all("dims")
                yield name, Seen(model.name, tensor.get("data_type"), dims, batched)


def compatible(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether shapes agree, where -1 agrees with every size."""
    return len(one) == len(other) and all(a == b or -1 in {a, b} for a, b in zip(one, other, strict=True))


def mixed(model: Model) -> tuple[tuple[Step, ...], bool]:
    """The steps that take tensors of different decoupled steps, and whether the outputs are such."""
    decoupled = model.repository.once(decoupled_models)
    own = set(names(model, "input"))
    sources = dict.fromkeys(own, -1)
    found = []
    for step in flow(model).order:
        taken = {sources[tensor] for tensor in step.inputs.values()}
        fresh = set(step.outputs.values()) - own
        if len(taken) > 1 and fresh:
            found.append(step)
        source = step.index if step.model in decoupled else min(taken)
        sources.update(dict.fromkeys(fresh, source))
    return tuple(found), len({sources[name] for name in names(model, "output") if name in sources}) > 1


def at_map(model: Model, step: Step, field: str, key: str, message: str, hint: str) -> Spot:
    """A spot at one entry of a step's map."""
    line, column = step.message.map_at(field, key)
    return Spot(model.path / CONFIG, line, column, message, hint)


def why_not(model: Model, name: str) -> str:
    """Which tensor is missing for one to be written."""
    tensors = flow(model)
    seen = {name}
    while name in tensors.written:
        missing = [each for each in tensors.written[name].inputs.values() if each not in tensors.ready]
        fresh = next((each for each in missing if each not in seen), None)
        if fresh is None:
            return f"the steps around {name!r} wait for each other"
        seen.add(fresh)
        name = fresh
    return f"nothing writes {name!r}"
