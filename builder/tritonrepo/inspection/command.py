"""The command ``inspect``: its words. It starts as fast as ``check`` does (check/command.py says how)."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from tritonrepo.errors import TritonrepoError, UsageError


def add_arguments(made: ArgumentParser) -> ArgumentParser:
    """Say what the command takes."""
    made.formatter_class = RawDescriptionHelpFormatter
    made.description = (
        "Say what an ONNX file is: signature, axes, operators, weights, arithmetic; what prevents TensorRT;\n"
        "what a build would change and what it would refuse. Nothing is built or run, no weights are read."
    )
    made.epilog = "Exit codes: 0 ok, 1 a file cannot be read, 2 wrong usage."
    made.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="ONNX files")
    made.add_argument("--size", action="append", default=[], metavar="AXIS=N",
        help="size of an open axis at which arithmetic is counted, such as batch=8 or x[2]=640")  # fmt: skip
    made.add_argument("--no-prepare", dest="prepare", action="store_false",
        help="do not ask what the preparation would change: faster, as onnx is not loaded")  # fmt: skip
    made.add_argument("--json", dest="as_json", action="store_true", help="one JSON document")
    return made


def run(options: object) -> int:
    """Inspect the files. Returns the exit code."""
    from tritonrepo.inspection import Inspection, inspect
    from tritonrepo.inspection.report import as_json, as_text

    paths: Sequence[Path] = options.models  # type: ignore[attr-defined]  # argparse makes them
    sizes = dict(map(_size, options.size))  # type: ignore[attr-defined]
    found: list[Inspection] = []
    failed: dict[str, TritonrepoError] = {}
    for number, path in enumerate(paths):
        try:
            found.append(inspect(path, sizes, prepare=options.prepare))  # type: ignore[attr-defined]
        except UsageError:
            raise
        except TritonrepoError as error:
            failed[str(path)] = error
            sys.stderr.write(f"error: {error}\n")
            continue
        if not options.as_json:  # type: ignore[attr-defined]
            sys.stdout.write(("\n" if number else "") + as_text(found[-1]))
            sys.stdout.flush()
    if options.as_json:  # type: ignore[attr-defined]
        sys.stdout.write(as_json(found, failed))
    return int(bool(failed))


def _size(text: str) -> tuple[str, int]:
    name, equals, number = text.rpartition("=")
    if not equals or not name or not (number.isascii() and number.isdigit()) or not 0 < len(number) < 10:
        raise UsageError(f"--size {text}", hint="Give AXIS=N, such as batch=8.")
    return name, int(number)
