"""An ensemble's steps, and how tensors flow through them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from tritonrepo.check._textformat import Message
from tritonrepo.check.model import Model, Repository


@dataclass(frozen=True, eq=False)
class Step:
    """One step. The maps say which of the ensemble's tensors is which of the model's: model's name -> ensemble's."""

    index: int
    message: Message
    model: str
    version: int
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]

    @property
    def complete(self) -> bool:
        """Whether everything is said that a step must say."""
        return bool(self.model and self.inputs and self.outputs)


def is_ensemble(model: Model) -> bool:
    """Whether the config has steps to schedule, be there none."""
    return model.config.has("ensemble_scheduling")


def steps(model: Model) -> tuple[Step, ...]:
    """The steps of an ensemble, in their order; none of another model."""
    return model.once(_steps)


def _steps(model: Model) -> tuple[Step, ...]:
    if not is_ensemble(model):
        return ()
    return tuple(
        Step(
            index,
            message,
            message.get("model_name"),
            message.get("model_version"),
            message.map("input_map"),
            message.map("output_map"),
        )
        for index, message in enumerate(model.config.get("ensemble_scheduling").all("step"))
    )


def complete_steps(model: Model) -> tuple[Step, ...]:
    """The steps, where each of them says all that it must; else none, as nothing can be said of the whole."""
    found = steps(model)
    return found if all(step.complete for step in found) else ()


def names(model: Model, field: str) -> tuple[str, ...]:
    """Names of the ensemble's own inputs or outputs."""
    return tuple(tensor.get("name") for tensor in model.config.all(field))


@dataclass(frozen=True)
class Flow:
    """What becomes of an ensemble's tensors."""

    used: frozenset[str]
    """Those that some step takes."""
    written: Mapping[str, Step]
    """Those that a step writes, with the first that does."""
    ready: frozenset[str]
    """Those that get a value: the inputs, and what steps write all of whose inputs are ready."""
    order: tuple[Step, ...]
    """The steps that can run, each after those whose tensors it takes."""

    @property
    def known(self) -> frozenset[str]:
        """Every tensor that a step takes or writes."""
        return self.used | frozenset(self.written)


def flow(model: Model) -> Flow:
    """The flow of tensors through an ensemble."""
    return model.once(_flow)


def _flow(model: Model) -> Flow:
    found = steps(model)
    written: dict[str, Step] = {}
    takers: dict[str, list[Step]] = {}
    missing: dict[Step, int] = {}
    for step in found:
        for tensor in step.outputs.values():
            written.setdefault(tensor, step)
        taken = set(step.inputs.values())
        missing[step] = len(taken)
        for tensor in taken:
            takers.setdefault(tensor, []).append(step)
    ready = {name for name in names(model, "input") if name in takers or name in written}
    order: list[Step] = []
    pending = list(ready)
    while pending:
        for step in takers.get(pending.pop(), ()):
            missing[step] -= 1
            if not missing[step]:
                order.append(step)
                fresh = set(step.outputs.values()) - ready
                ready |= fresh
                pending.extend(fresh)
    return Flow(frozenset(takers), written, frozenset(ready), tuple(order))


def decoupled_models(repository: Repository) -> frozenset[str]:
    """The models that may give any number of answers to a request, ensembles with such a model among them."""
    decoupled: set[str] = set()
    users: dict[str, list[str]] = {}
    for name, model in repository.models.items():
        if not model.readable:
            continue
        if is_ensemble(model):
            for step in flow(model).order:
                users.setdefault(step.model, []).append(name)
        elif model.config.get("model_transaction_policy").get("decoupled"):
            decoupled.add(name)
    pending = list(decoupled)
    while pending:
        fresh = set(users.get(pending.pop(), ())) - decoupled
        decoupled |= fresh
        pending.extend(fresh)
    return frozenset(decoupled)


@dataclass(frozen=True)
class Cycles:
    """Ensembles that depend on themselves, and those that depend on such."""

    members: frozenset[str]
    leading: frozenset[str]


def cycles(repository: Repository) -> Cycles:
    """Find ensembles whose models depend on each other in a circle. What lies between two circles counts to them."""
    uses = {
        name: {step.model for step in steps(model) if step.model in repository.models}
        for name, model in repository.models.items()
        if model.readable and is_ensemble(model)
    }
    users: dict[str, set[str]] = {}
    for name, used in uses.items():
        for each in used:
            users.setdefault(each, set()).add(name)
    leading = _in_circles(uses, users)
    members = leading & _in_circles(users, uses)
    return Cycles(frozenset(members), frozenset(leading - members))


def _in_circles(edges: Mapping[str, Collection[str]], back: Mapping[str, Collection[str]]) -> set[str]:
    """The nodes from which edges lead into a circle."""
    left = {node: len(edges.get(node, ())) for node in {*edges, *back}}
    pending = [node for node, count in left.items() if not count]
    while pending:
        node = pending.pop()
        del left[node]
        for before in back.get(node, ()):
            left[before] -= 1
            if not left[before]:
                pending.append(before)
    return set(left)
