"""Compare what the real server does with what `tritonrepo check` says of it.

    python -m tests.agreement.run [--cases qa,ours,mutants] [--count N] [--seed S] [--out FILE] [--judge-only]

Judgements are kept (see kept.py), so a second run judges only what is new; an interrupted one goes on where it was.
Exit code 0: they agree on every case; 1: they do not, and each disagreement is printed with the server's reason and
the findings; 2: this machine cannot judge what has not been judged yet.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from .case import Case
from .compare import Outcome, compare, describe
from .judge import judging, missing
from .kept import Kept
from .recorded import record

SUITES = ("qa", "ours", "mutants")
_BATCH = 50
_ATTEMPTS = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args(arguments)
    suites = ("qa", "ours") if options.record else options.cases.split(",")
    cases = list(select(suites, options.count, options.seed, options.only))
    kept = Kept()
    if not judge(cases, kept, sys.stderr):
        return 2
    if options.record:
        record(cases, kept)
        return 0
    if options.judge_only:
        statistics(cases, kept, sys.stdout, everything=options.all)
        return 0
    outcomes = compare_all(cases, kept, sys.stderr)
    if reconsider(outcomes, kept, sys.stderr):
        outcomes = compare_all(cases, kept, sys.stderr)
    report = "".join(describe(each) for each in outcomes if each.disagrees or each.same_fault is False)
    if options.out:
        options.out.write_text(report, encoding="utf-8")
    sys.stdout.write(report)
    summary(outcomes, sys.stdout)
    return int(any(each.disagrees for each in outcomes))


def select(suites: Iterable[str], count: int, seed: int, only: str = "") -> Iterator[Case]:
    """The cases of the suites; ``only`` is a regular expression that ids have to match."""
    for suite in suites:
        for case in _suite(suite, count, seed):
            if re.search(only, case.id):
                yield case


def _suite(name: str, count: int, seed: int) -> Iterable[Case]:
    if name == "qa":
        from . import cases_qa

        return cases_qa.cases()
    if name == "ours":
        from . import cases_ours

        return cases_ours.cases()
    if name == "mutants":
        from . import mutants

        return mutants.cases(count, seed)
    raise SystemExit(f"no such cases: {name!r}; there are {', '.join(SUITES)}")


def judge(cases: Sequence[Case], kept: Kept, progress: TextIO) -> bool:
    """Have judged what has not been judged yet; returns whether that could be done."""

    def wanted() -> list[Case]:
        new = {case.digest: case for case in cases if case.known is None and kept.get(case) is None}
        return sorted(new.values(), key=lambda case: case.gpus)

    if not wanted():
        return True
    if missing():
        print(f"cannot judge: {missing()}", file=progress)
        return False
    with kept.judging(), judging() as server:
        left = wanted()
        began = time.monotonic()
        for start in range(0, len(left), _BATCH):
            for gpus in sorted({case.gpus for case in left[start : start + _BATCH]}):
                batch = [case for case in left[start : start + _BATCH] if case.gpus == gpus]
                kept.add(batch, server.judge([case.tree for case in batch], gpus=gpus))
            done = min(len(left), start + _BATCH)
            rate = done / (time.monotonic() - began)
            _progress(
                progress, f"judged {done} of {len(left)} ({rate:.0f}/s, {server.starts} starts)", done == len(left)
            )
    return True


def compare_all(cases: Sequence[Case], kept: Kept, progress: TextIO) -> list[Outcome]:
    """Ask `check` about every case that is to be compared."""
    outcomes = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tritonrepo-agreement-") as folder:
        for number, case in enumerate(cases, 1):
            outcomes.append(compare(case, kept.get(case), Path(folder)))
            if number % 500 == 0 or number == len(cases):
                rate = number / (time.monotonic() - began)
                _progress(progress, f"checked {number} of {len(cases)} ({rate:.0f}/s)", number == len(cases))
    return outcomes


def reconsider(outcomes: Sequence[Outcome], kept: Kept, progress: TextIO) -> bool:
    """Judge again and again what was taken although it is said to crash or hang; returns whether it did in the end.

    Some of what crashes the server does so only sometimes, as memory happens to lie.
    """
    doubtful = [each.case for each in outcomes if each.disagrees and each.unsure and each.case.known is None]
    if not doubtful or missing():
        return False
    changed = False
    with kept.judging(), judging() as server:
        for number, case in enumerate(doubtful, 1):
            for _ in range(_ATTEMPTS):
                judgement = server.alone(case.tree, gpus=case.gpus)
                if judgement.crashed or judgement.hung:
                    kept.add([case], [judgement])
                    changed = True
                    break
            _progress(progress, f"judged again: {number} of {len(doubtful)}", number == len(doubtful))
    return changed


def summary(outcomes: Sequence[Outcome], out: TextIO) -> None:
    """A line for each suite: how many cases, what the server did, how many disagree; and how parse errors compare."""
    columns = ("cases", "accepted", "refused", "crash", "hang", "left out", "disagree", "unreadable", "same error")
    print(" ".join([f"{'':10}", *(f"{column:>10}" for column in columns)]), file=out)
    for suite in dict.fromkeys(each.case.id.split("/")[0] for each in outcomes):
        own = [each for each in outcomes if each.case.id.startswith(f"{suite}/")]
        stages = Counter(each.stage for each in own)
        numbers = (
            len(own),
            stages["loaded"],
            stages["poll"] + stages["load"] + stages["refused"],
            stages["crash"],
            stages["hang"],
            sum(bool(each.case.beyond) for each in own),
            sum(each.disagrees for each in own),
            sum(each.same_fault is not None for each in own),
            sum(each.same_fault is True for each in own),
        )
        print(" ".join([f"{suite:10}", *(f"{number:10}" for number in numbers)]), file=out)


def statistics(cases: Sequence[Case], kept: Kept, out: TextIO, *, everything: bool = False) -> None:
    """What the server did with the cases, and its reasons by how often it gave them."""
    judged = [(case, judgement) for case in cases for judgement in [kept.get(case)] if judgement is not None]
    for case, judgement in judged if everything else ():
        print(f"{case.id:60} {judgement.stage:6} {judgement.reason}", file=out)
    print(dict(Counter(judgement.stage for _, judgement in judged)), file=out)
    reasons = Counter(
        (judgement.stage, _general(judgement.reason)) for _, judgement in judged if not judgement.accepted
    )
    for (stage, reason), number in reasons.most_common():
        print(f"{number:6} {stage:6} {reason}", file=out)


def _general(reason: str) -> str:
    """A reason without names and numbers, so that equal ones can be counted."""
    reason = re.sub(r"^load failed for model '[^']*': (version \S+ is at UNAVAILABLE state: )?", "", reason)
    return re.sub(r"'[^']*'|\"[^\"]*\"|-?\d[\d.:]*", "_", reason)[:150]


def _progress(out: TextIO, text: str, last: bool) -> None:
    end = "\n" if last or not out.isatty() else "\r"
    print(text, end=end, file=out, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.agreement.run", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--cases", default=",".join(SUITES), help="which: qa, ours, mutants (default: all)")
    parser.add_argument("--count", type=int, default=500, help="how many mutants (default: 500)")
    parser.add_argument("--seed", type=int, default=1, help="of the mutants (default: 1)")
    parser.add_argument("--only", default="", metavar="REGEX", help="only cases whose id it matches")
    parser.add_argument("--out", type=Path, help="write the disagreements to this file too")
    parser.add_argument("--record", action="store_true", help="write judgements.txt anew from qa and ours; no check")
    parser.add_argument("--judge-only", action="store_true", help="have the server judge; do not run check")
    parser.add_argument("--all", action="store_true", help="with --judge-only: print every judgement")
    return parser


if __name__ == "__main__":
    sys.exit(main())
