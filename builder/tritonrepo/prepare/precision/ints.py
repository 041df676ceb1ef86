"""INT8, and where it is asked for FP16 for the rest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tritonrepo.errors import ModelError
from tritonrepo.prepare.precision import choose, gate, graph, outcome, quantize
from tritonrepo.prepare.precision.calibrate import ranges
from tritonrepo.prepare.precision.floats import rest_in_fp16
from tritonrepo.prepare.precision.outcome import Done
from tritonrepo.prepare.precision.request import Request

if TYPE_CHECKING:
    import onnx


def int8(request: Request, model: onnx.ModelProto, work: Path) -> Done:
    """Put Q/DQ pairs into a model.

    Args:
        request: what is asked for.
        model: with named nodes in topological order, inferred types and spilled weights.
        work: the working folder, where the weights are.
    """
    settings = request.precision
    if quantize.is_quantized(model):
        return Done(None, outcome.as_it_is(request, model, already=True))
    _check_opset(request, graph.opsets(model).get("", 0))
    sites = quantize.sites(model)
    nodes = [choose.Node(site.node, site.op_type, None) for site in sites]
    if not nodes:
        raise ModelError(
            f"model {request.name}: precision int8: there is no Conv, ConvTranspose, Gemm or MatMul with constant "
            "weights to quantize",
            hint="Use precision fp16, or leave it at fp32.",
        )
    held = choose.matching(settings.keep_fp32, nodes)
    judge = gate.Gate(request.verification, "int8", request.cases(), work)
    request.say("calibrating")
    found_ranges = ranges(
        [site.activation for site in sites if site.node not in held],
        request.calibration,
        judge.observer(model),
        settings.calibration_method,
        settings.percentile,
    )
    weights = quantize.Quantized(work)

    def quantized(chosen: frozenset[str]) -> onnx.ModelProto:
        return quantize.quantize(model, chosen, found_ranges, weights)

    order = [node.name for node in nodes if node.name not in held]
    found = outcome.searched(request, order, lambda chosen: judge.exact(quantized(chosen)), kind="INT8")
    result = quantized(found.low)
    if settings.rest == "fp32":
        return outcome.reached(request, result, [found], nodes, held, [])
    result, second, notes = rest_in_fp16(request, result, work, judge)
    return outcome.reached(request, result, [found, second], nodes, held, notes)


def _check_opset(request: Request, opset: int) -> None:
    half = request.precision.rest == "fp16"
    needed = quantize.FP16_SCALE_OPSET if half else quantize.PER_CHANNEL_OPSET
    if opset < needed:
        what = "scales in FP16" if half else "scales by channel"
        raise ModelError(
            f"model {request.name}: precision int8 needs opset {needed}, for {what}; the model has {opset}",
            hint=f"Raise it in the spec (`prepare: {{opset: {needed}}}`) or at export.",
        )
