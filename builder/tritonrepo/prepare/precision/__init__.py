"""A lower precision in the ONNX graph itself, judged against FP32 before it is taken.

TensorRT 11 builds a plan in the types that the graph has, and in no others. ``reduce`` takes a prepared model and gives
one in FP16, BF16 or INT8, or in a mix with FP32, together with what was reached and why operators were kept. Nothing is
taken that fails: where no choice of operators is within the tolerance, that is an error.

    graph, weights      a model as a small graph, its weights in files
    choose, lower       which nodes, and FP16 or BF16 for them
    quantize, calibrate Q/DQ pairs for INT8, and their ranges
    emulate, gate       what an FP16 or BF16 graph gives, rounded after every operator, and how far that is off
    search              which operators to keep in FP32 when it is too far
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tritonrepo.compare import OutputError
from tritonrepo.errors import ModelError, VerificationError
from tritonrepo.introspect import introspect
from tritonrepo.prepare import Change, Prepared
from tritonrepo.prepare.precision import choose, gate, graph, lower, quantize, weights
from tritonrepo.prepare.precision.calibrate import ranges
from tritonrepo.prepare.precision.report import Kept, Reached, operators_by_type, type_of, weights_by_type
from tritonrepo.prepare.precision.search import Found, Judgement, search
from tritonrepo.prepare.weights import open_model
from tritonrepo.spec import Precision, Verification

if TYPE_CHECKING:
    import onnx

__all__ = ["Case", "Reached", "Request", "reduce"]

Case = gate.Case

#: ONNX element type of a precision.
_DTYPE: Mapping[str, int] = {"fp16": graph.FLOAT16, "mixed": graph.FLOAT16, "bf16": graph.BFLOAT16}


@dataclass(frozen=True)
class Request:
    """What is asked for, and what it is judged on."""

    name: str
    """Of the model, for messages."""
    precision: Precision
    verification: Verification
    """Its tolerances hold for the gate too."""
    cases: Callable[[], Sequence[Case]]
    """Inputs, by served names, and the reference's outputs for them."""
    calibration: Callable[[], Iterable[gate.Arrays]]
    """Samples for INT8 ranges, given anew at each call."""
    say: Callable[[str], None] = lambda _: None
    """Told what is going on."""


def reduce(
    request: Request, prepared: Prepared, keep: Callable[[Callable[[Path], None]], Path]
) -> tuple[Prepared, Reached]:
    """Bring a model to the precision that is asked for.

    Afterwards the model passes onnx's full check, its nodes are in topological order, and its error against FP32 is
    within the tolerance on every case.

    Args:
        request: what is asked for.
        prepared: the model, which runs in FP32.
        keep: gives a folder for the changed model; it is called with a function that writes into that folder.

    Raises:
        ModelError: the model cannot be brought to it: nothing in it can be lowered, a name in ``keep_fp32`` is wrong.
        VerificationError: no choice of operators is within the tolerance.
    """
    model = graph.inline_functions(open_model(prepared.path))
    graph.lift_constants(model)
    graph.name_nodes(model)
    graph.sort_nodes(model.graph)
    with tempfile.TemporaryDirectory(prefix="tritonrepo-precision-") as temporary:
        work = Path(temporary)
        weights.spill(model, prepared.path, work)
        model = graph.infer_types(model)
        done = _int8(request, model, work) if request.precision.type == "int8" else _low_float(request, model, work)
        if done.model is None:
            return prepared, done.reached
        result = done.model

        def fill(folder: Path) -> None:
            _check(weights.write(result, work, folder, one_file=not prepared.external_data), prepared.signature.path)

        path = keep(fill) / "model.onnx"
    served = introspect(path)
    change = Change("precision", done.reached.summary(), "the spec asks for it")
    return (
        replace(
            prepared,
            path=path,
            external_data=served.external_data,
            changes=(*prepared.changes, change),
            signature=replace(served, path=prepared.signature.path),
        ),
        done.reached,
    )


@dataclass(frozen=True)
class _Done:
    model: onnx.ModelProto | None
    """None where the model stays as it is."""
    reached: Reached


def _low_float(request: Request, model: onnx.ModelProto, work: Path) -> _Done:
    """FP16, BF16, or FP16 where it pays."""
    settings, dtype = request.precision, _DTYPE[request.precision.type]
    nodes = choose.survey(model, dtype)
    able = [node for node in nodes if node.reason is None]
    if not any(node.op_type != "Cast" for node in able):
        return _nothing_to_lower(request, model, nodes)
    held = choose.matching(settings.keep_fp32, nodes)
    default = choose.by_default(model, nodes, mixed=settings.type == "mixed", kept=held)
    order = [node.name for node in able if node.name in default]
    low = weights.Lowered(work, dtype)
    convert_io = settings.io == "convert"
    judge = gate.Gate(request.verification, settings.type, request.cases(), work)

    def judged(chosen: frozenset[str]) -> Judgement:
        return judge.low_float(lower.lower(model, chosen, low, convert_io=convert_io))

    def suspects() -> Mapping[str, str]:
        return judge.out_of_range(model, {node.name for node in able}, dtype)

    found = _searched(request, order, judged, suspects)
    result = lower.lower(model, found.low, low, convert_io=convert_io)
    notes = [
        *(f"weight {key}: {count} values beyond the range of {type_of(settings.type)} became its largest"
          for key, count in low.clamped.items()),
        *([f"{len(low.flushed)} weights hold values below the smallest of {type_of(settings.type)}, which they became"]
          if low.flushed else []),
    ]  # fmt: skip
    return _reached(request, result, found, nodes, held, notes)


def _int8(request: Request, model: onnx.ModelProto, work: Path) -> _Done:
    """Q/DQ pairs."""
    if quantize.is_quantized(model):
        return _Done(None, _as_it_is(request, model, already=True))
    if not quantize.can_be_quantized(model):
        opset = graph.opsets(model).get("", 0)
        raise ModelError(
            f"precision int8 needs opset {quantize.PER_CHANNEL_OPSET}, for scales by channel; the model has {opset}",
            where=request.name,
            hint=f"Raise it in the spec (`prepare: {{opset: {quantize.PER_CHANNEL_OPSET}}}`) or at export.",
        )
    found_sites = quantize.sites(model)
    nodes = [choose.Node(site.node, site.op_type, None) for site in found_sites]
    if not nodes:
        raise ModelError(
            "precision int8: there is no Conv, ConvTranspose, Gemm or MatMul with constant weights to quantize",
            where=request.name,
            hint="Use precision fp16, or leave it at fp32.",
        )
    held = choose.matching(request.precision.keep_fp32, nodes)
    judge = gate.Gate(request.verification, "int8", request.cases(), work)
    request.say("calibrating")
    found_ranges = ranges(
        [site.activation for site in found_sites if site.node not in held],
        request.calibration,
        judge.observer(model),
        request.precision.calibration_method,
        request.precision.percentile,
    )
    low = quantize.Quantized(work)
    order = [node.name for node in nodes if node.name not in held]
    found = _searched(
        request, order, lambda chosen: judge.exact(quantize.quantize(model, chosen, found_ranges, low)), dict
    )
    return _reached(request, quantize.quantize(model, found.low, found_ranges, low), found, nodes, held, [])


def _searched(
    request: Request,
    order: Sequence[str],
    judge: Callable[[frozenset[str]], Judgement],
    suspects: Callable[[], Mapping[str, str]],
) -> Found:
    """The choice of operators that is within the tolerance."""
    settings = request.precision
    runs = 0

    def counted(low: frozenset[str]) -> Judgement:
        nonlocal runs
        runs += 1
        request.say(f"run {runs} of at most {settings.max_runs if settings.search else 1}")
        return judge(low)

    found = search(order, counted, suspects=suspects, max_runs=settings.max_runs if settings.search else 1)
    if not found.low:
        raise _failed(request, found, len(order))
    return found


def _failed(request: Request, found: Found, count: int) -> VerificationError:
    kind = type_of(request.precision.type)
    wrong = [error for error in found.first.errors if not error.ok]
    worst = max(wrong, key=_badness, default=None)
    tried = "; ".join(found.tried) if request.precision.search else "nothing, for precision.search is false"
    return VerificationError(
        f"model {request.name}: precision {request.precision.type} is not within the tolerance, and no choice of "
        f"operators to keep in FP32 was found among {count} in {_runs(found.runs)}; worst with all of them in {kind}: "
        f"{worst or 'unknown'}; tried: {tried}",
        hint="Nothing was published. If the error is acceptable, set verification.tolerance (atol, rtol, of_range, "
        "cosine); otherwise name operators in precision.keep_fp32, raise precision.max_runs, or use another precision.",
    )


def _runs(count: int) -> str:
    return f"{count} run{'s' if count != 1 else ''}"


def _badness(error: OutputError) -> tuple[int, float]:
    return error.nans + error.infs, error.max_abs


def _reached(
    request: Request,
    model: onnx.ModelProto,
    found: Found,
    nodes: Sequence[choose.Node],
    held: Mapping[str, str],
    notes: Sequence[str],
) -> _Done:
    """What was reached; an error where what does the work stays in FP32."""
    op_types = {node.name: node.op_type for node in nodes}
    able = {node.name for node in nodes if node.reason is None}
    work = {name for name in able if op_types[name] in choose.COMPUTE} or able
    why = {**{name: held[name] for name in held if name in able}, **found.kept}
    if not work & found.low:
        raise _stays_fp32(request, found, [Kept(name, op_types[name], why.get(name, "")) for name in sorted(work)])
    kind = type_of(request.precision.type)
    because: dict[str, list[str]] = {}
    for node in nodes:
        if node.reason and not node.reason.startswith("it holds graphs"):
            because.setdefault(node.reason, []).append(node.name)
    stays = [f"{len(names)} operators cannot be {kind}: {reason}" for reason, names in because.items()]
    if not found.complete:
        stays.append(
            f"the search ended after {found.runs} runs (max_runs): fewer operators may need FP32 than are kept"
        )
    model = graph.infer_types(model)
    reached = Reached(
        asked=request.precision.type,
        already=False,
        operators=operators_by_type(model),
        weights=weights_by_type(model),
        kept=tuple(Kept(name, op_types[name], why[name]) for name in op_types if name in why),
        runs=found.runs,
        share=_finite(found.last),
        first_share=_finite(found.first),
        tried=found.tried,
        notes=(*notes, *stays),
    )
    return _Done(model, reached)


def _finite(judged: Judgement) -> float | None:
    return float(f"{judged.share:.2g}") if judged.finite else None


def _stays_fp32(request: Request, found: Found, kept: Sequence[Kept]) -> VerificationError:
    kind = type_of(request.precision.type)
    shown = "; ".join(f"{each.node} ({each.op_type}): {each.why or 'not chosen'}" for each in kept[:4])
    return VerificationError(
        f"model {request.name}: precision {request.precision.type} was asked for, but the operators that do the work "
        f"would all stay in FP32: {shown}{' ...' if len(kept) > 4 else ''}",
        hint=f"Nothing was published. Tried: {'; '.join(found.tried) or 'nothing else'}. Loosen "
        f"verification.tolerance if the error is acceptable, or leave {kind} out: `precision: fp32`.",
    )


def _nothing_to_lower(request: Request, model: onnx.ModelProto, nodes: Sequence[choose.Node]) -> _Done:
    """The model is in that precision already, or cannot be brought to it."""
    kind = type_of(request.precision.type)
    have = _as_it_is(request, model, already=True)
    if have.low and have.low_share >= 0.5:
        return _Done(None, have)
    reasons: dict[str, int] = {}
    for node in nodes:
        reasons[node.reason or ""] = reasons.get(node.reason or "", 0) + 1
    most = max(reasons, key=lambda reason: reasons[reason], default="it has no operators on FP32")
    old = "at opset" in most and request.precision.type == "bf16"
    raise ModelError(
        f"precision {request.precision.type} was asked for, but no operator can be {kind}: {most}",
        where=request.name,
        hint="Raise the opset in the spec (`prepare: {opset: 22}`): convolutions may be BF16 since then."
        if old
        else "Leave it at `precision: fp32`.",
    )


def _as_it_is(request: Request, model: onnx.ModelProto, *, already: bool) -> Reached:
    return Reached(request.precision.type, already, operators_by_type(model), weights_by_type(model))


def _check(path: Path, source: Path) -> None:
    """Hold what was written against the standard: types, shapes and the order of nodes."""
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # onnx raises several classes, of Python and of C++
        raise ModelError(
            f"the model in the lower precision is not valid ONNX: {' '.join(str(error).split())[:400]}",
            where=source,
            hint="This is a defect of the conversion: use `precision: fp32`, or name its node in precision.keep_fp32.",
        ) from None
