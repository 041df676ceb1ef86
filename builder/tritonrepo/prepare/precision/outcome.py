"""What came of the search: the report, or the error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tritonrepo.compare import OutputError
from tritonrepo.errors import ModelError, VerificationError
from tritonrepo.prepare.precision import choose, graph
from tritonrepo.prepare.precision.report import Kept, Reached, operators_by_type, weights_by_type
from tritonrepo.prepare.precision.request import Request
from tritonrepo.prepare.precision.search import Found, Judgement, search
from tritonrepo.spec import ELEMENT_TYPE

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Done:
    """The model in its precision."""

    model: onnx.ModelProto | None
    """None where the model stays as it is."""
    reached: Reached


def searched(
    request: Request,
    order: Sequence[str],
    judge: Callable[[frozenset[str]], Judgement],
    suspects: Callable[[], Mapping[str, str]] = dict,
    *,
    kind: str,
) -> Found:
    """The choice of operators that is within the tolerance.

    Args:
        request: what is asked for.
        order: names of the nodes, in topological order.
        judge: judges a choice.
        suspects: nodes that reach beyond the type's range.
        kind: the type, ``FP16``.

    Raises:
        VerificationError: there is none.
    """
    settings = request.precision
    runs = 0

    def counted(low: frozenset[str]) -> Judgement:
        nonlocal runs
        runs += 1
        request.say(f"{kind}: run {runs} of at most {settings.max_runs if settings.search else 1}")
        return judge(low)

    found = search(order, counted, suspects=suspects, max_runs=settings.max_runs if settings.search else 1)
    if not found.low:
        raise _failed(request, found, len(order), kind)
    return found


def _failed(request: Request, found: Found, count: int, kind: str) -> VerificationError:
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


def reached(
    request: Request,
    model: onnx.ModelProto,
    found: Sequence[Found],
    nodes: Sequence[choose.Node],
    held: Mapping[str, str],
    notes: Sequence[str],
) -> Done:
    """What was reached.

    Args:
        request: what is asked for.
        model: the result.
        found: the outcome of each search; the first is that for the type that is asked for.
        nodes: those that were looked at, for the first search.
        held: those that the spec keeps -> why.
        notes: what else is to be said.

    Raises:
        VerificationError: what does the work stays as it was.
    """
    first = found[0]
    op_types = {node.name: node.op_type for node in nodes}
    able = {node.name for node in nodes if node.reason is None}
    work = {name for name in able if op_types[name] in choose.COMPUTE} or able
    why = {**{name: held[name] for name in held if name in able}}
    for each in found:
        why.update(each.kept)
    if not work & first.low:
        raise _stays_fp32(request, first, [Kept(name, op_types[name], why.get(name, "")) for name in sorted(work)])
    kind = ELEMENT_TYPE[request.precision.type]
    because: dict[str, list[str]] = {}
    for node in nodes:
        if node.reason and not node.reason.startswith("it holds graphs"):
            because.setdefault(node.reason, []).append(node.name)
    stays = [f"{len(names)} operators cannot be {kind}: {reason}" for reason, names in because.items()]
    stays += [
        f"the search ended after {_runs(each.runs)} (max_runs): fewer operators may need to be kept"
        for each in found
        if not each.complete
    ]
    model = graph.infer_types(model)
    kept_types = {node.name: node.op_type for node in model.graph.node} | op_types
    return Done(
        model,
        Reached(
            asked=request.precision.type,
            already=False,
            operators=operators_by_type(model),
            weights=weights_by_type(model),
            kept=tuple(Kept(name, kept_types.get(name, ""), reason) for name, reason in why.items()),
            runs=sum(each.runs for each in found),
            share=_finite(found[-1].last),
            first_share=_finite(first.first),
            worst=max(found[-1].last.errors, key=_badness, default=None),
            tried=tuple(line for each in found for line in each.tried),
            notes=(*notes, *stays),
        ),
    )


def _finite(judged: Judgement) -> float | None:
    return float(f"{judged.share:.2g}") if judged.finite else None


def _stays_fp32(request: Request, found: Found, kept: Sequence[Kept]) -> VerificationError:
    kind = ELEMENT_TYPE[request.precision.type]
    shown = "; ".join(f"{each.node} ({each.op_type}): {each.why or 'not chosen'}" for each in kept[:4])
    return VerificationError(
        f"model {request.name}: precision {request.precision.type} was asked for, but the operators that do the work "
        f"would all stay in FP32: {shown}{' ...' if len(kept) > 4 else ''}",
        hint=f"Nothing was published. Tried: {'; '.join(found.tried) or 'nothing else'}. Loosen "
        f"verification.tolerance if the error is acceptable, or leave {kind} out: `precision: fp32`.",
    )


def nothing_to_lower(request: Request, model: onnx.ModelProto, nodes: Sequence[choose.Node]) -> Done:
    """The model is in that precision already, or cannot be brought to it."""
    kind = ELEMENT_TYPE[request.precision.type]
    have = as_it_is(request, model, already=True)
    if have.low and have.low_share >= 0.5:
        return Done(None, have)
    reasons: dict[str, int] = {}
    for node in nodes:
        reasons[node.reason or ""] = reasons.get(node.reason or "", 0) + 1
    most = max(reasons, key=lambda reason: reasons[reason], default="it has no operators on FP32")
    old = "at opset" in most and request.precision.type == "bf16"
    raise ModelError(
        f"model {request.name}: precision {request.precision.type} was asked for, but no operator can be {kind}: "
        f"{most}",
        hint="Raise the opset in the spec (`prepare: {opset: 22}`): convolutions may be BF16 since then."
        if old
        else "Leave it at `precision: fp32`.",
    )


def as_it_is(request: Request, model: onnx.ModelProto, *, already: bool) -> Reached:
    """The report of a model that was not changed."""
    return Reached(request.precision.type, already, operators_by_type(model), weights_by_type(model))
