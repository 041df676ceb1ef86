"""The precision that was reached: what the report and the verdict say of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tritonrepo.compare import OutputError
from tritonrepo.prepare.precision.graph import BFLOAT16, FLOAT, FLOAT16, SHORT, element_types, subgraphs
from tritonrepo.prepare.precision.weights import bytes_by_type
from tritonrepo.spec import ELEMENT_TYPE, PrecisionName

if TYPE_CHECKING:
    import onnx

#: Operators that only change types: they are counted with none of them.
_CONVERTERS = frozenset({"Cast", "QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True)
class Kept:
    """An operator that stays in FP32 although it could be lowered."""

    node: str
    op_type: str
    why: str


@dataclass(frozen=True)
class Reached:
    """What came of a request for a precision."""

    asked: PrecisionName
    """``fp16``, ``mixed``, ``bf16`` or ``int8``."""
    already: bool
    """Whether the model had it before."""
    operators: Mapping[str, int]
    """How many operators on floats run in each type."""
    weights: Mapping[str, int]
    """Bytes of weights in each type."""
    kept: tuple[Kept, ...] = ()
    runs: int = 0
    """How many choices of operators were judged."""
    share: float | None = None
    """Largest error of the gate as a share of what is allowed; None where it was not judged."""
    first_share: float | None = None
    """The same with every operator lowered; None for NaN, infinity or another shape."""
    worst: OutputError | None = None
    """Output with the largest error in the gate."""
    tried: tuple[str, ...] = ()
    """What the search did."""
    notes: tuple[str, ...] = ()

    @property
    def low(self) -> int:
        """How many operators run in the type that was asked for."""
        return self.operators.get(ELEMENT_TYPE[self.asked], 0)

    @property
    def low_share(self) -> float:
        """The share of the operators on floats that run in the type that was asked for."""
        return self.low / max(1, sum(self.operators.values()))

    def summary(self) -> str:
        """One line for people."""
        kind = ELEMENT_TYPE[self.asked]
        if self.already:
            return f"the model is {kind} already"
        total, size = sum(self.operators.values()), sum(self.weights.values())
        part = _percent(self.weights.get(kind, 0), size)
        text = f"{kind}: {self.low} of {total} operators, {part} of the weights' bytes"
        rest = {name: count for name, count in self.operators.items() if name not in (kind, "FP32")}
        text += "".join(f", {count} in {name}" for name, count in rest.items())
        if self.kept:
            what = "kept in FP32" if kind != "INT8" else "kept out of it"
            text += f"; {len(self.kept)} {what}: " + "; ".join(self._kept_words())
        return text

    def _kept_words(self) -> Iterator[str]:
        """Why operators were kept, those of one reason together; long lists are cut."""
        groups: dict[str, list[str]] = {}
        for each in self.kept:
            groups.setdefault(each.why, []).append(each.node)
        most = 4
        for why, nodes in list(groups.items())[:most]:
            names = ", ".join(nodes[:most]) + (f" and {len(nodes) - most} more" if len(nodes) > most else "")
            yield f"{names} ({why})"
        if len(groups) > most:
            yield f"and others for {len(groups) - most} more reasons (all are in the verdict)"


def operators_by_type(model: onnx.ModelProto) -> dict[str, int]:
    """How many operators run in each float type, INT8 for those whose inputs come from DequantizeLinear."""
    return dict(sorted(Counter(_types(model.graph, {})).items()))


def _types(graph: onnx.GraphProto, outer: Mapping[str, int]) -> Iterator[str]:
    types = {**outer, **element_types(graph)}
    dequantized = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    for node in graph.node:
        for inner in subgraphs(node):
            yield from _types(inner, types)
        if node.op_type in _CONVERTERS or any(True for _ in subgraphs(node)):
            continue
        touched = {types.get(name) for name in (*node.input, *node.output) if name}
        if dequantized.intersection(node.input):
            yield "INT8"
        elif FLOAT16 in touched:
            yield "FP16"
        elif BFLOAT16 in touched:
            yield "BF16"
        elif FLOAT in touched:
            yield "FP32"


def weights_by_type(model: onnx.ModelProto) -> dict[str, int]:
    """Bytes of weights by the type's short name; integers that are no quantized weights are left out."""
    sizes = bytes_by_type(model)
    return {SHORT[dtype]: size for dtype, size in sorted(sizes.items()) if dtype in SHORT and size}


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "none"
