"""The command ``inspect``: its words. It starts as fast as ``check`` does (check/command.py says how)."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping
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


def run(options: Namespace) -> int:
    """Inspect the files. Returns the exit code."""
    from tritonrepo.inspection import Inspection, inspect
    from tritonrepo.inspection.report import as_json

    sizes = dict(map(_size, options.size))
    found: list[Inspection] = []
    failed: dict[str, TritonrepoError] = {}
    for number, path in enumerate(options.models):
        try:
            if options.as_json:
                found.append(inspect(path, sizes, prepare=options.prepare))
            else:
                sys.stdout.write("\n" * bool(number))
                _show(path, sizes, options.prepare)
        except UsageError:
            raise
        except TritonrepoError as error:
            failed[str(path)] = error
            sys.stderr.write(f"error: {error}\n")
    if options.as_json:
        sys.stdout.write(as_json(found, failed))
    return int(bool(failed))


def _show(path: Path, sizes: Mapping[str, int], prepare: bool) -> None:
    """Show what is known at once, and then what takes longer."""
    from tritonrepo.inspection import inspect
    from tritonrepo.inspection.foresee import Foreseeing
    from tritonrepo.inspection.report import as_text, preparation_as_text

    with Foreseeing(path if prepare else None) as asked:
        sys.stdout.write(as_text(inspect(path, sizes, prepare=False)))
        sys.stdout.flush()
        if prepare:
            sys.stdout.write(preparation_as_text(asked.result()))


def _size(text: str) -> tuple[str, int]:
    name, equals, number = text.rpartition("=")
    if not equals or not name or not (number.isascii() and number.isdigit()) or not 0 < len(number) < 10:
        raise UsageError(f"--size {text}", hint="Give AXIS=N, such as batch=8.")
    return name, int(number)
