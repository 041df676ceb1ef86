"""Give mutants of ONNX files to the product.

    python -m tests.fuzz.run [--count N] [--begin N] [--jobs N] [--log FILE]

Exit code 0: every mutant was accepted or refused cleanly; 1: there are defects, and each is printed with its number.
`--log` keeps what became of each; a run with the same log goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TextIO

from tritonrepo.errors import TritonrepoError
from tritonrepo.limits import Limits
from tritonrepo.workers import Pool

from .mutate import Mutant, mutant
from .steps import STEPS, Seen

#: What a mutant may take. Honest ones take a hundredth of it.
LIMITS = Limits(memory=4 << 30, seconds=20)

#: Numbers of mutants that every test run tries.
SEEDS = Path(__file__).with_name("seeds.txt")

#: A worker that ends during these takes the product's own process with it.
_IN_OUR_PROCESS = ("inspect", "introspect")


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant."""

    number: int
    base: str
    how: tuple[str, ...]
    verdict: str
    """accepted, refused, or defect"""
    reason: str = ""
    steps: dict[str, str] = field(default_factory=dict)
    seconds: float = 0
    memory: int = 0
    passes: tuple[str, ...] = ()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--begin", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--log", type=Path)
    parser.add_argument(
        "--choose", type=int, metavar="N", help="write the numbers of N of the log's mutants to seeds.txt"
    )
    options = parser.parse_args(arguments)
    if options.choose:
        SEEDS.write_text("".join(f"{number}\n" for number in choose([*_logged(options.log)], options.choose)))
        return 0
    done = {outcome.number: outcome for outcome in _logged(options.log)}
    wanted = range(options.begin, options.begin + options.count)
    outcomes = [done[number] for number in wanted if number in done]
    begun, shown = time.monotonic(), 0.0
    for outcome in run([number for number in wanted if number not in done], options.jobs):
        outcomes.append(outcome)
        if options.log:
            with options.log.open("a") as log:
                log.write(json.dumps(asdict(outcome)) + "\n")
        if time.monotonic() - shown > 10:
            shown = time.monotonic()
            defects = sum(outcome.verdict == "defect" for outcome in outcomes)
            sys.stderr.write(f"{len(outcomes)} of {len(wanted)}, {defects} defects, {shown - begun:.0f} s\n")
    return report(outcomes, sys.stdout)


def run(numbers: Iterable[int], jobs: int) -> Iterator[Outcome]:
    """What becomes of the mutants of these numbers."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        root = Path(place)
        pending = list(numbers)
        for begin in range(0, len(pending), 200):  # few at a time, so that few files lie about
            made = {}
            for number in pending[begin : begin + 200]:
                one = mutant(number, root / "bases")
                made[write(one, root / str(number))] = one
            with Pool[Path, Seen]("tests.fuzz.steps:look", jobs, lambda path, event: None, LIMITS) as pool:
                for path, seen in pool.run(made):
                    yield judge(made[path], seen)
                    shutil.rmtree(path.parents[2], ignore_errors=True)


def choose(outcomes: Sequence[Outcome], count: int) -> list[int]:
    """Numbers of mutants that stand for all: first those that show a new pair of a mutation and an outcome. Left out is
    what takes long.
    """
    shown: set[tuple[str, str]] = set()
    first: list[int] = []
    rest: list[int] = []
    for outcome in outcomes:
        pairs = {(how, outcome.reason) for how in outcome.how}
        if outcome.seconds > 3 or "it took more" in outcome.reason:
            continue
        (rest if pairs <= shown else first).append(outcome.number)
        shown |= pairs
    return sorted((first + rest)[:count])


def judge(one: Mutant, seen: Seen | TritonrepoError) -> Outcome:
    """Whether that is a clean outcome."""
    if isinstance(seen, TritonrepoError):
        step = seen.message.partition("during: ")[2].partition(";")[0]
        clean = "a defect" not in seen.message and step.partition(",")[0] not in _IN_OUR_PROCESS
        reason = str(seen) if not clean else kind(seen.message)
        return Outcome(one.number, one.base, one.how, "refused" if clean else "defect", reason)
    refusal = next((text for step in reversed(STEPS) if (text := seen.steps[step])), "")
    fault = _fault(seen)
    verdict = "defect" if fault else "refused" if seen.steps["build"] else "accepted"
    reason = fault or kind(refusal if seen.steps["build"] else "")
    return Outcome(one.number, one.base, one.how, verdict, reason, seen.steps, seen.seconds, seen.memory, seen.passes)


def _fault(seen: Seen) -> str:
    """What is wrong with what was done or said."""
    if seen.outside:
        return f"files from elsewhere would be published: {seen.outside}"
    for step, text in seen.steps.items():
        if "Traceback" in text or "defect" in text:
            return f"{step}: {text}"
        if len(text) > 4000:
            return f"{step}: a message of {len(text)} characters: {text[:300]}"
    return ""


def kind(message: str) -> str:
    """A message without what is different in each: names, numbers, paths."""
    text = message.splitlines()[0] if message else ""
    text = re.sub(r"^\S*\.onnx: ", "", text)
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "'...'", text)
    text = re.sub(r"(model|input|output|weight) [^ :]+", r"\1 ...", text)
    text = re.sub(r"-?\d+(\.\d+)?", "N", text)
    return text[:90]


def report(outcomes: Sequence[Outcome], out: TextIO) -> int:
    """Print what became of them; returns the exit code."""
    verdicts = Counter(outcome.verdict for outcome in outcomes)
    out.write(f"{len(outcomes)} mutants: {', '.join(f'{count} {word}' for word, count in verdicts.most_common())}\n")
    out.write(f"longest {max((each.seconds for each in outcomes), default=0):.1f} s, ")
    out.write(f"most memory {max((each.memory for each in outcomes), default=0)} MiB\n\nrefused:\n")
    reasons = Counter(outcome.reason for outcome in outcomes if outcome.verdict == "refused")
    out.writelines(f"{count:6} {reason}\n" for reason, count in reasons.most_common(40))
    passes = Counter(kind(text) for outcome in outcomes for text in outcome.passes)
    if passes:
        out.write("\nfailed passes (the model stays as it was):\n")
        out.writelines(f"{count:6} {text}\n" for text, count in passes.most_common(40))
    defects = [outcome for outcome in outcomes if outcome.verdict == "defect"]
    for outcome in defects:
        out.write(f"\nDEFECT {outcome.number} ({outcome.base}: {', '.join(outcome.how)})\n{outcome.reason}\n")
    return int(bool(defects))


def write(one: Mutant, folder: Path) -> Path:
    """The mutant in a folder of its own, with a file outside that it must not reach, and links to that."""
    inner = folder / "inside" / "model"
    inner.mkdir(parents=True)
    for secret in (folder / "secret.bin", folder / "inside" / "secret.bin"):
        secret.write_bytes(b"this must not be read" * 1000)
    for name, content in one.files.items():
        (inner / name).parent.mkdir(parents=True, exist_ok=True)
        (inner / name).write_bytes(content)
    (inner / "sub").mkdir(exist_ok=True)
    (inner / "link.bin").symlink_to("../secret.bin")
    (inner / "linked").symlink_to("..")
    (inner / "model.onnx").write_bytes(one.content)
    return inner / "model.onnx"


def _logged(log: Path | None) -> Iterator[Outcome]:
    if log and log.is_file():
        for line in log.read_text().splitlines():
            entry = json.loads(line)
            yield Outcome(**{**entry, "how": tuple(entry["how"]), "passes": tuple(entry["passes"])})


if __name__ == "__main__":
    sys.exit(main())
