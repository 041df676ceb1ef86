"""An inspection as text for people, and as JSON for programs (docs/inspect.schema.json)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from textwrap import wrap
from typing import Any

from tritonrepo.errors import TritonrepoError
from tritonrepo.inspection import Axis, Compute, Inspection, Port
from tritonrepo.inspection.foresee import Foreseen
from tritonrepo.inspection.trt import Outlook

#: Version of the JSON document: raised when a field changes its meaning or goes; new fields may come.
VERSION = 1

_WIDTH = 110
_LABEL = 10
_MOST_OPERATORS = 12
_MOST_LINES = 12

Json = dict[str, Any]


def as_json(found: Sequence[Inspection], failed: Mapping[str, TritonrepoError]) -> str:
    """All inspections as one document; files that could not be read stand under ``errors``."""
    from tritonrepo import __version__

    document = {
        "version": VERSION,
        "tritonrepo": __version__,
        "models": [_model(each) for each in found],
        "errors": [{"path": path, "message": error.message, "hint": error.hint} for path, error in failed.items()],
    }
    return json.dumps(document, indent=2) + "\n"


def as_text(found: Inspection) -> str:
    """One inspection, in lines; without the preparation, which takes longer to know."""
    return "\n".join(_lines(found)) + "\n"


def preparation_as_text(found: Foreseen) -> str:
    """What the preparation would change: lines to follow those of `as_text`."""
    return "\n".join(_section("prepare", _preparation(found))) + "\n"


def _lines(found: Inspection) -> Iterator[str]:
    model = found.model
    opsets = ", ".join(f"{domain or 'opset'} {version}" for domain, version in sorted(model.opset.items()))
    producer = " ".join(filter(None, (model.producer, model.producer_version)))
    whole = found.bytes + sum(each.size or 0 for each in found.external)
    yield f"{found.path}: {_bytes(whole)}, IR version {model.ir_version}, {opsets or 'no opset'}" + (
        f", from {producer}" if producer else ""
    )
    yield from _section("inputs", [_port(port) for port in found.inputs if not port.optional])
    yield from _section("outputs", [_port(port) for port in found.outputs])
    defaults = sum(port.optional for port in found.inputs)
    if defaults:
        yield from _section("", [f"{defaults} weights are listed as inputs too"])
    yield from _section("axes", [_axis(axis) for axis in found.axes])
    yield from _section("batch", [f"{'may batch' if found.batch.possible else 'no batch'}: {found.batch.reason}"])
    yield from _section("nodes", _nodes(found))
    yield from _section("weights", [
        f"{_count(each.elements)} {each.type} in {each.tensors} tensor{_s(each.tensors)}, {_bytes(each.bytes)}"
        for each in found.weights
    ])  # fmt: skip
    yield from _section("data", [
        f"{each.location}: {each.tensors} tensor{_s(each.tensors)}, {_bytes(each.needed)} needed, "
        + ("not there" if each.size is None else f"{_bytes(each.size)} there")
        for each in found.external
    ])  # fmt: skip
    yield from _section("compute", _compute(found.compute))
    yield from _section("TensorRT", _tensorrt(found.tensorrt))
    yield from _section("problems", list(found.problems))


def _section(label: str, lines: Sequence[str]) -> Iterator[str]:
    shown = [*lines[:_MOST_LINES], *([f"and {len(lines) - _MOST_LINES} more"] if len(lines) > _MOST_LINES else [])]
    for line in shown:
        for number, part in enumerate(wrap(line, _WIDTH - _LABEL, break_on_hyphens=False) or [""]):
            yield f"  {label:{_LABEL}}{'  ' * bool(number)}{part}".rstrip()
            label = ""


def _port(port: Port) -> str:
    return f"{port}" if port.triton else f"{port} (Triton has no such type)"


def _axis(axis: Axis) -> str:
    parts = [", ".join(axis.inputs), ", ".join(axis.outputs)]
    return f"{axis.name}: " + " -> ".join(filter(None, parts))


def _nodes(found: Inspection) -> list[str]:
    functions = len(found.model.functions)
    extra = [f"{found.subgraphs} subgraph{_s(found.subgraphs)}"] if found.subgraphs else []
    extra += [f"{functions} function{_s(functions)}"] if functions else []
    names = [f"{_operator(key)} {count}" for key, count in found.operators.items()]
    shown = names[:_MOST_OPERATORS]
    rest = len(names) - len(shown)
    shown += [f"{rest} more kind{_s(rest)}"] if rest > 0 else []
    return (
        [f"{found.nodes}{', of them ' * bool(extra)}{' and '.join(extra)}: {', '.join(shown)}"] if names else ["none"]
    )


def _compute(compute: Compute) -> list[str]:
    if compute.fault:
        return [f"not counted: {compute.fault}"]
    counted = compute.counted
    sizes = ", ".join(f"{name} = {size}" for name, size in compute.sizes.items())
    parts = [
        f"{name} {_share(macs, counted.total)}" for name, macs in counted.by_operator.most_common(4) if counted.total
    ]
    lines = [
        f"{_count(counted.total)} MACs ({_count(2 * counted.total)} FLOPs)"
        + (f" at {sizes}" if sizes else "")
        + (f": {', '.join(parts)}" if parts else "")
    ]
    lines += [f"not counted: {count} {name}, {why}" for (name, why), count in counted.missing.most_common()]
    return lines + list(dict.fromkeys(counted.notes))


def _tensorrt(outlook: Outlook) -> list[str]:
    words = {"refused": "would refuse it", "unknown": "not known", "nothing known against it": "nothing against it"}
    lines = [f"{words[outlook.verdict]}, by the operator list of TensorRT {outlook.table.release}"]
    for finding in outlook.findings:
        times = f" ({finding.count})" if finding.count > 1 else ""
        mark = {"refused": "refused", "unknown": "unknown", "condition": "if"}[finding.verdict]
        lines.append(f"{mark}: {finding.what}{times}: {finding.why}")
    return lines


def _preparation(found: Foreseen) -> list[str]:
    if found.unknown:
        return [f"not known: {found.unknown}"]
    lines = [f"{by}: {what}" for by, what in found.changes] or ["would change nothing"]
    return lines + [f"{by} cannot: {why}" for by, why in found.refused]


def _model(found: Inspection) -> Json:
    model = found.model
    return {
        "path": str(found.path),
        "bytes": found.bytes,
        "ir_version": model.ir_version,
        "producer": {"name": model.producer, "version": model.producer_version},
        "model_version": model.model_version,
        "opsets": [{"domain": domain, "version": version} for domain, version in sorted(model.opset.items())],
        "inputs": [{**_port_json(port), "optional": port.optional} for port in found.inputs],
        "outputs": [_port_json(port) for port in found.outputs],
        "axes": [
            {"name": axis.name, "inputs": list(axis.inputs), "outputs": list(axis.outputs)} for axis in found.axes
        ],
        "batch": {"possible": found.batch.possible, "reason": found.batch.reason},
        "nodes": found.nodes,
        "subgraphs": found.subgraphs,
        "operators": [
            {"domain": domain, "operator": operator, "nodes": count}
            for (domain, operator), count in found.operators.items()
        ],
        "functions": [
            {"domain": function.domain, "name": function.name, "nodes": len(function.nodes)}
            for function in model.functions
        ],
        "weights": [vars(each) for each in found.weights],
        "external_data": [vars(each) for each in found.external],
        "compute": _compute_json(found.compute),
        "tensorrt": _tensorrt_json(found.tensorrt),
        "preparation": {
            "changes": [{"pass": by, "what": what} for by, what in found.preparation.changes],
            "refused": [{"pass": by, "why": why} for by, why in found.preparation.refused],
            "unknown": found.preparation.unknown or None,
        },
        "problems": list(found.problems),
    }


def _port_json(port: Port) -> Json:
    shape = None if port.shape is None else list(port.shape)
    return {"name": port.name, "type": port.type, "triton": port.triton, "shape": shape}


def _compute_json(compute: Compute) -> Json:
    counted = compute.counted
    return {
        "sizes": dict(compute.sizes),
        "macs": None if compute.fault else counted.total,
        "flops": None if compute.fault else 2 * counted.total,
        "by_operator": dict(counted.by_operator.most_common()),
        "not_counted": [
            {"operator": name, "nodes": count, "why": why}
            for (name, why), count in counted.missing.most_common()
        ],
        "notes": list(dict.fromkeys(counted.notes)),
        "fault": compute.fault or None,
    }  # fmt: skip


def _tensorrt_json(outlook: Outlook) -> Json:
    table = outlook.table
    return {
        "verdict": outlook.verdict,
        "list": {"source": table.source, "release": table.release, "opset": list(table.opset)},
        "findings": [
            {"verdict": each.verdict, "what": each.what, "count": each.count, "why": each.why}
            for each in outlook.findings
        ],
    }


def _operator(key: tuple[str, str]) -> str:
    domain, operator = key
    return f"{domain}::{operator}" if domain else operator or "(no operator)"


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _share(part: int, whole: int) -> str:
    share = 100 * part / whole
    return "under 1 %" if 0 < share < 1 else f"{share:.0f} %"


def _bytes(count: int) -> str:
    return _scaled(count, 1024, ("bytes", "KiB", "MiB", "GiB", "TiB"))


def _count(count: int) -> str:
    return _scaled(count, 1000, ("", "k", "M", "G", "T")).rstrip()


def _scaled(count: int, base: int, units: Sequence[str]) -> str:
    """Three figures and a unit; a count may be larger than any float."""
    power = 0
    while count >= base ** (power + 1) and power < len(units) - 1:
        power += 1
    if not power or count >= base ** (power + 1):
        return f"{count // base**power} {units[power]}"
    value = count / base**power
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {units[power]}"
