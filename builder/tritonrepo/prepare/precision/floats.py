"""FP16, BF16, and FP16 where it pays."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tritonrepo.prepare.precision import choose, gate, graph, lower, outcome, quantize, weights
from tritonrepo.prepare.precision.graph import BFLOAT16, FLOAT16, SHORT
from tritonrepo.prepare.precision.outcome import Done
from tritonrepo.prepare.precision.request import Request
from tritonrepo.prepare.precision.search import Found, Judgement

if TYPE_CHECKING:
    import onnx

#: ONNX element type of a precision.
_DTYPE: Mapping[str, int] = {"fp16": FLOAT16, "mixed": FLOAT16, "bf16": BFLOAT16}


def low_float(request: Request, model: onnx.ModelProto, work: Path) -> Done:
    """Bring a model to FP16 or BF16.

    Args:
        request: what is asked for.
        model: with named nodes in topological order, inferred types and spilled weights.
        work: the working folder, where the weights are.
    """
    settings, dtype = request.precision, _DTYPE[request.precision.type]
    quantized = quantize.is_quantized(model) and graph.opsets(model).get("", 0) >= quantize.FP16_SCALE_OPSET
    nodes = choose.survey(model, dtype, quantized=quantized)
    if not any(node.reason is None and node.op_type != "Cast" for node in nodes):
        return outcome.nothing_to_lower(request, model, nodes)
    held = choose.matching(settings.keep_fp32, nodes)
    default = choose.by_default(model, nodes, mixed=settings.type == "mixed", kept=held)
    judge = gate.Gate(request.verification, settings.type, request.cases(), work)
    convert = _Conversion(request, model, weights.Lowered(work, dtype), judge, _pairs(model) if quantized else {})
    order = [node.name for node in nodes if node.name in default and not (quantized and _quantizes(node))]
    found = convert.search(order)
    return outcome.reached(request, convert.lowered(found.low), [found], nodes, held, convert.notes())


def rest_in_fp16(
    request: Request, model: onnx.ModelProto, work: Path, judge: gate.Gate
) -> tuple[onnx.ModelProto, Found, tuple[str, ...]]:
    """FP16 for what is not quantized, and for the scales of Q/DQ pairs: the model, what was found, and notes.

    A pair has the type of the operator that reads it, so that no Cast comes between the two.
    """
    model = graph.infer_types(model)
    nodes = choose.survey(model, FLOAT16, quantized=True)
    pairs = _pairs(model)
    default = choose.by_default(model, nodes, mixed=False)
    convert = _Conversion(request, model, weights.Lowered(work, FLOAT16), judge, pairs)
    order = [node.name for node in nodes if node.name in default and not _quantizes(node)]
    found = convert.search(order)
    return convert.lowered(found.low), found, convert.notes()


def _quantizes(node: choose.Node) -> bool:
    return node.op_type in choose.QUANTIZERS


def _pairs(model: onnx.ModelProto) -> dict[str, tuple[str, ...]]:
    """Operator -> the nodes of its Q/DQ pairs."""
    producer = {output: node for node in model.graph.node for output in node.output}
    found: dict[str, tuple[str, ...]] = {}
    for node in model.graph.node:
        if node.op_type in choose.QUANTIZERS:
            continue
        own: list[str] = []
        for name in node.input:
            maker = producer.get(name)
            while maker is not None and maker.op_type in choose.QUANTIZERS:
                own.append(maker.name)
                maker = producer.get(maker.input[0]) if maker.op_type == "DequantizeLinear" else None
        if own:
            found[node.name] = tuple(own)
    return found


class _Conversion:
    """One model, and its lowering by choice of nodes."""

    def __init__(
        self,
        request: Request,
        model: onnx.ModelProto,
        low: weights.Lowered,
        judge: gate.Gate,
        pairs: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        self._request, self._model, self._low, self._judge = request, model, low, judge
        self._pairs = pairs or {}

    def search(self, order: list[str]) -> Found:
        """The nodes to lower, of these."""

        def judged(chosen: frozenset[str]) -> Judgement:
            return self._judge.low_float(self.lowered(chosen))

        def suspects() -> Mapping[str, str]:
            return self._judge.out_of_range(self._model, frozenset(order), self._low.dtype)

        return outcome.searched(self._request, order, judged, suspects, kind=SHORT[self._low.dtype])

    def lowered(self, chosen: Collection[str]) -> onnx.ModelProto:
        """The model with these nodes, and the pairs that belong to them, in the low type."""
        pairs = (each for name in chosen for each in self._pairs.get(name, ()))
        convert_io = self._request.precision.io == "convert"
        return lower.lower(self._model, {*chosen, *pairs}, self._low, convert_io=convert_io)

    def notes(self) -> tuple[str, ...]:
        """What became of values that the low type does not hold."""
        kind, low = SHORT[self._low.dtype], self._low
        clamped = [
            f"weight {key}: {count} values beyond the range of {kind} became its largest"
            for key, count in low.clamped.items()
        ]
        few = [f"{len(low.flushed)} weights hold values below the smallest of {kind}, which they became"]
        return (*clamped, *(few if low.flushed else ()))
