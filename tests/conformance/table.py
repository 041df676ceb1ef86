"""The outcomes as tables: for the terminal, and for docs/conformance.md."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from tritonrepo.fingerprint import tool_version
from tritonrepo.runtime import TRITON_VERSION

from .collect import KINDS
from .outcome import Outcome

BEGIN, END = "<!-- begin: written by tests.conformance -->", "<!-- end: written by tests.conformance -->"
_VERDICTS = ("served", "runtime", "refused", "failed")


def summary(outcomes: Sequence[Outcome]) -> str:
    """A few lines for the terminal."""
    rows: list[tuple[str, ...]] = [("", "cases", *_VERDICTS, "in batches", "with samples")]
    kinds = [kind for kind in KINDS if any(_kind(each) == kind for each in outcomes)]
    rows += [(kind, *_counts([each for each in outcomes if _kind(each) == kind])) for kind in kinds]
    if len(kinds) > 1:
        rows.append(("all", *_counts(outcomes)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" if not column else f"{cell:>{width}}" for column, (cell, width) in enumerate(row))
        for row in ([(cell, width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    )


def page(outcomes: Sequence[Outcome], text: str) -> str:
    """The page with what stands between its marks written anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{_tables(outcomes)}\n{END}{after}"


def _tables(outcomes: Sequence[Outcome]) -> str:
    kinds = [kind for kind in KINDS if any(_kind(each) == kind for each in outcomes)]
    head = ("cases", "", "served, equal", "as ONNX Runtime", "refused", "failed", "in batches too", "needed samples")
    rows = [(kind, *_counts([each for each in outcomes if _kind(each) == kind])) for kind in kinds]
    versions = f"onnx {tool_version('onnx')}, onnxruntime {tool_version('onnxruntime')}, Triton {TRITON_VERSION}"
    parts = [f"{len(outcomes):,} cases, with {versions}:\n"]
    parts += [_table(head, [*rows, ("all", *_counts(outcomes))])]

    refused = [each for each in outcomes if each.verdict == "refused"]
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for each in refused:
        groups[each.reason].append(each)
    ranked = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    parts.append("Refused, by what the reason names:\n")
    parts.append(
        _table(("in the way", "cases", "for instance"), [(_code(why), str(len(of)), of[0].id) for why, of in ranked])
    )
    other = [each for each in outcomes if each.verdict == "runtime"]
    if other:
        parts.append("Served as ONNX Runtime answers, which is not what the case expects:\n")
        parts.append(_table(("case", "the difference"), [(each.id, _code(each.reference_said)) for each in other]))
    sampled = sorted(each.id for each in outcomes if each.samples and each.verdict in ("served", "runtime"))
    if sampled:
        parts.append(
            "Served with the case's inputs as `verification.samples`; on generated ones the model does not run:\n"
        )
        parts.append(_listed(sampled))
    failed = [each for each in outcomes if each.verdict == "failed"]
    if failed:
        parts.append("Failed:\n")
        rows = [(each.id, each.reference, _code((each.said or each.rows)[:200])) for each in failed]
        parts.append(_table(("case", "ONNX Runtime", "what happened"), rows))
    return "\n".join(parts)


def _kind(outcome: Outcome) -> str:
    return outcome.id.partition("/")[0]


def _counts(outcomes: Iterable[Outcome]) -> tuple[str, ...]:
    outcomes = list(outcomes)
    verdicts: Mapping[str, int] = Counter(each.verdict for each in outcomes)
    served = [each for each in outcomes if each.verdict in ("served", "runtime")]
    numbers = [len(outcomes), *(verdicts[word] for word in _VERDICTS)]
    return tuple(
        f"{number:,}"
        for number in [*numbers, sum(each.batches for each in served), sum(each.samples for each in served)]
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _code(text: str) -> str:
    return re.sub(r"[|\s]+", " ", text).strip()


def _listed(ids: Sequence[str]) -> str:
    import textwrap

    return textwrap.fill(", ".join(ids), 120, break_on_hyphens=False) + "\n"
