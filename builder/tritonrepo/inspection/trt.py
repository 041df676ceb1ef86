"""What prevents TensorRT, by the list of operators that its ONNX parser comes with. No TensorRT is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from tritonrepo._graph import Model, Node, Tensor, Type
from tritonrepo.inspection.types import name_of

_TABLE = "tensorrt-10.15.txt"
# Types that TensorRT takes only at the edge of the network, or only from a quantizing operator.
_DOUBLE = "FP64"


@dataclass(frozen=True)
class Table:
    """A list of operators."""

    source: str
    release: str
    opset: tuple[int, int]
    """The oldest and the newest that the parser takes."""
    types: frozenset[str]
    operators: Mapping[str, frozenset[str]]
    """Operator -> types; empty for one that is not supported."""
    conditions: Mapping[str, str]


@dataclass(frozen=True)
class Finding:
    """Something that matters to TensorRT.

    ``verdict``: ``refused`` by the list, ``unknown`` where the list does not say, ``condition`` where it is taken under
    a condition.
    """

    verdict: Literal["refused", "unknown", "condition"]
    what: str
    """An operator, an input, a type."""
    count: int
    why: str


@dataclass(frozen=True)
class Outlook:
    """What can be said of a model without TensorRT."""

    verdict: Literal["refused", "unknown", "nothing known against it"]
    findings: tuple[Finding, ...]
    table: Table


def outlook(model: Model, stored: Iterable[Tensor], types: Mapping[str, Type]) -> Outlook:
    """Hold a model against the list.

    Args:
        model: the model.
        stored: its tensors.
        types: types of values by name, as far as they are known.
    """
    held = table()
    found = [*_opsets(model, held), *_edges(model, held), *_stored(stored, held), *_operators(model, types, held)]
    verdicts = {finding.verdict for finding in found}
    worst: Literal["refused", "unknown", "nothing known against it"] = (
        "refused" if "refused" in verdicts else "unknown" if "unknown" in verdicts else "nothing known against it"
    )
    order = ("refused", "unknown", "condition")
    return Outlook(worst, tuple(sorted(found, key=lambda each: order.index(each.verdict))), held)


@cache
def table() -> Table:
    """The list that comes with this package."""
    head: dict[str, str] = {}
    operators: dict[str, frozenset[str]] = {}
    conditions: dict[str, str] = {}
    types: frozenset[str] | None = None
    for line in files("tritonrepo.inspection").joinpath(_TABLE).read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        if line.startswith("!"):
            operator, _, words = line[1:].partition(":")
            conditions[operator.strip()] = words.strip()
        elif line.startswith("["):
            inner = line.strip("[]")
            types = frozenset() if inner == "no" else frozenset(inner.split())
        elif types is None:
            key, _, value = line.partition(":")
            head[key] = value.strip()
        else:
            operators.update(dict.fromkeys(line.split(), types))
    oldest, newest = map(int, head["opset"].split())
    return Table(
        head["source"], head["release"], (oldest, newest), frozenset(head["types"].split()), operators, conditions
    )


def _opsets(model: Model, held: Table) -> Iterator[Finding]:
    opset = model.opset.get("")
    oldest, newest = held.opset
    if opset is not None and opset > newest:
        yield Finding("refused", f"opset {opset}", 1, f"TensorRT {held.release} takes opset {oldest} to {newest}")
    elif opset is not None and opset < oldest:
        yield Finding("unknown", f"opset {opset}", 1, f"TensorRT {held.release} takes opset {oldest} to {newest}")


def _edges(model: Model, held: Table) -> Iterator[Finding]:
    """Inputs and outputs."""
    if model.graph is None:
        return
    for kind, values in (("input", model.graph.inputs), ("output", model.graph.outputs)):
        for value in values:
            what = f"{kind} {value.name}"
            if value.type.kind != "tensor":
                yield Finding("refused", what, 1, f"it is of type {value.type.kind}")
            elif name_of(value.type.element) == _DOUBLE:
                yield Finding("condition", what, 1, "FP64 is computed in FP32")
            elif name_of(value.type.element) not in held.types:
                yield Finding("refused", what, 1, f"it is {name_of(value.type.element)}")


def _stored(stored: Iterable[Tensor], held: Table) -> Iterator[Finding]:
    """Types of weights and constants."""
    counts: Counter[str] = Counter(name_of(tensor.element) for tensor in stored)
    for name, count in sorted(counts.items()):
        if name == _DOUBLE:
            yield Finding("condition", "FP64 weights", count, "FP64 is computed in FP32")
        elif name not in held.types:
            yield Finding("refused", f"{name} weights", count, "the type is not among those of TensorRT")


def tensors(model: Model) -> Iterator[Tensor]:
    """Every stored tensor: initializers, sparse ones, and those in attributes."""
    for graph in model.graphs:
        yield from graph.initializers
        yield from graph.sparse
    for node in model.nodes():
        yield from node.tensors


def _operators(model: Model, types: Mapping[str, Type], held: Table) -> Iterator[Finding]:
    functions = {(function.domain, function.name) for function in model.functions}
    found: Counter[tuple[Literal["refused", "unknown", "condition"], str, str]] = Counter()
    for node in model.nodes():
        if (node.domain, node.operator) in functions:
            continue
        name = f"{node.domain}::{node.operator}" if node.domain else node.operator
        if node.domain:
            found[
                "unknown", name, "it is no standard operator: TensorRT takes it only through a plugin of its name"
            ] += 1
            continue
        taken = held.operators.get(node.operator)
        if taken is None:
            found["unknown", name, "the list does not name it"] += 1
        elif not taken:
            found["refused", name, "the list says that it is not supported"] += 1
        else:
            kind = _type_of(node, types)
            if kind and kind not in taken | {_DOUBLE}:
                found["unknown", name, f"the list does not name {kind} for it"] += 1
            elif node.operator in held.conditions:
                found["condition", name, held.conditions[node.operator]] += 1
    for (verdict, name, why), count in sorted(found.items()):
        yield Finding(verdict, name, count, why)


def _type_of(node: Node, types: Mapping[str, Type]) -> str:
    """The type that a node works on; "" where it is not known."""
    # Of these the first input is a condition or a count, and what they work on comes later.
    names = (
        node.outputs
        if node.operator in {"If", "Loop", "Scan", "Where", "Range", "OneHot", "ConstantOfShape"}
        else node.inputs
    )
    found = types.get(names[0]) if names else None
    return name_of(found.element) if found and found.kind == "tensor" and found.element else ""
