"""Serve ONNX's own test cases, and hold the answers against what they expect.

    python -m tests.conformance.run [--kinds node,simple,...] [--only REGEX] [--count N] [--seed S] [--table FILE]

Each case is built, checked, published, loaded into the real Triton and asked through the client over gRPC. Outcomes are
kept (see kept.py), so a second run does only what is new, and an interrupted one goes on where it was. Exit code 0:
every case that ONNX Runtime passes was served and equal, every other one was refused by name; 1: some were not, and
they are printed.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import TextIO

from tritonrepo.workers import cores

from . import table
from .case import Case
from .collect import KINDS, cases
from .corpus import Chunk
from .kept import Kept
from .outcome import Outcome

_CHUNK = 120
_AT_ONCE = 2  # loads for each core
FAILED = Path(__file__).with_name("failed.txt")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args(arguments)
    chosen = select(cases(options.kinds.split(",")), options.only, options.count, options.seed)
    kept = None if options.again else Kept()
    try:
        outcomes = dict(settle(chosen, kept, options.jobs or cores(), sys.stderr))
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; the next run goes on from here\n")
        return 130
    found = [outcomes[case.id] for case in chosen]
    for outcome in found:
        if outcome.verdict == "failed":
            sys.stdout.write(describe(outcome) + "\n")
    sys.stdout.write(table.summary(found) + "\n")
    new = remember(outcome.id for outcome in found if outcome.verdict == "failed")
    if new:
        sys.stdout.write(f"{new} cases were added to {FAILED}: CI runs what it lists\n")
    if options.table:
        options.table.write_text(table.page(found, options.table.read_text(encoding="utf-8")), encoding="utf-8")
    return int(any(outcome.verdict == "failed" for outcome in found))


def select(found: Sequence[Case], only: str = "", count: int = 0, seed: int = 1) -> list[Case]:
    """The cases whose id matches ``only``, or a sample of them: the same for the same seed, whatever cases come new."""
    chosen = [case for case in found if re.search(only, case.id)]
    if not count or count >= len(chosen):
        return chosen
    ranked = sorted(chosen, key=lambda case: random.Random(f"{seed} {case.id}").random())
    return sorted(ranked[:count], key=lambda case: case.id)


def failed_before() -> list[str]:
    """The ids of all cases that ever failed; CI runs them."""
    return FAILED.read_text(encoding="utf-8").split()


def remember(ids: Iterable[str]) -> int:
    """Add cases to those that ever failed; how many are new."""
    known = set(failed_before())
    new = set(ids) - known
    if new:
        FAILED.write_text("".join(f"{name}\n" for name in sorted(known | new)), encoding="utf-8")
    return len(new)


def settle(chosen: Sequence[Case], kept: Kept | None, jobs: int, out: TextIO) -> Iterator[tuple[str, Outcome]]:
    """The outcome of every case, in chunks; what is kept is not computed again. While one chunk is served, the next one
    is built.
    """
    known = {case.id: outcome for case in chosen if kept and (outcome := kept.get(case))}
    yield from known.items()
    if known:
        out.write(f"{len(known)} cases are known from an earlier run\n")
    todo = [case for case in chosen if case.id not in known]
    progress = _Progress(len(todo), out)
    for case, outcome in _in_chunks(todo, jobs):
        if kept:
            kept.add(case, outcome)
        progress.add(outcome)
        yield case.id, outcome


def _in_chunks(todo: Sequence[Case], jobs: int) -> Iterator[tuple[Case, Outcome]]:
    # Cases that stand together are of one operator and tend to be served or refused together: chunks take of all.
    count = -(-len(todo) // _CHUNK)
    stop = Event()
    with ExitStack() as chunks, ThreadPoolExecutor(1) as pool:
        chunks.callback(stop.set)
        serving: Future[list[tuple[Case, Outcome]]] | None = None
        try:
            for number in range(count):
                chunk = chunks.enter_context(Chunk(todo[number::count], jobs))
                chunk.build()
                done = serving.result() if serving else []
                serving = pool.submit(chunk.serve, jobs * _AT_ONCE, stop)
                yield from done
            yield from serving.result() if serving else []
        finally:
            stop.set()


class _Progress:
    """A line on how far it is, and how long it will take."""

    def __init__(self, total: int, out: TextIO) -> None:
        self._total, self._out, self._begun = total, out, time.monotonic()
        self._verdicts = Counter[str]()

    def add(self, outcome: Outcome) -> None:
        """Count one more."""
        self._verdicts[outcome.verdict] += 1
        done = sum(self._verdicts.values())
        if done % _CHUNK and done != self._total:
            return
        seconds = time.monotonic() - self._begun
        left = seconds / done * (self._total - done)
        counts = ", ".join(f"{number} {word}" for word, number in sorted(self._verdicts.items()))
        self._out.write(
            f"{done} of {self._total} cases: {counts}; {seconds / 60:.0f} min, about {left / 60:.0f} left\n"
        )
        self._out.flush()


def describe(outcome: Outcome) -> str:
    """A failure, with all that is needed to look into it."""
    lines = [f"{outcome.id}: failed", f"  ONNX Runtime itself {outcome.reference}: {outcome.reference_said or '-'}"]
    if outcome.said:
        lines.append(f"  {outcome.stage}: {outcome.said}")
    if outcome.rows:
        lines.append(f"  rows (max_batch_size {outcome.batch}): {outcome.rows}")
    return "\n".join([*lines, f"  again: python -m tests.conformance.run --again --only '{re.escape(outcome.id)}$'"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance.run", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"which: {', '.join(KINDS)} (default: all)")
    parser.add_argument("--only", default="", metavar="REGEX", help="only cases whose id it matches")
    parser.add_argument("--count", type=int, default=0, help="a sample of so many of them (default: all)")
    parser.add_argument("--seed", type=int, default=1, help="of the sample (default: 1)")
    parser.add_argument("--jobs", type=int, default=0, help="processes (default: one for each core)")
    parser.add_argument("--again", action="store_true", help="do not use or keep outcomes")
    parser.add_argument("--table", type=Path, help="write the table into this page, between its marks")
    return parser


if __name__ == "__main__":
    sys.exit(main())
