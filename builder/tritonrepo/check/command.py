"""The commands ``check``, ``inspect`` and ``rule``: words and exit codes.

They stand apart from the other commands, and read their arguments with argparse, because editors, hooks and pipelines
run them all the time: the library behind the other commands takes longer to start than a repository takes to check.
"""

from __future__ import annotations

import gc
import os
import sys
from argparse import ArgumentParser, BooleanOptionalAction, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tritonrepo.errors import TritonrepoError, UsageError

if TYPE_CHECKING:
    from argparse import Namespace

    from tritonrepo.check.rule import Target

_REPOSITORY = Path("model_repository")


def run(name: str, arguments: Sequence[str]) -> int:
    """Run the command of that name. Returns the exit code: 0 clean, 1 findings, 2 wrong usage."""
    # Paths and configs may hold what the terminal's encoding has no bytes for.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = COMMANDS[name](arguments)
        sys.stdout.flush()
        return code
    except TritonrepoError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except BrokenPipeError:
        # Whoever read has enough; what Python flushes at the end goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"error: {where}{error.strerror or error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        return 130


def check(arguments: Sequence[str]) -> int:
    """Say what is wrong with model repositories, without starting a server."""
    options = parser().parse_args(arguments)
    if options.dry_run and not options.fix:
        raise UsageError("--dry-run shows what --fix would do", hint="Add --fix.")
    from tritonrepo.check import check_model
    from tritonrepo.check._schema import schema
    from tritonrepo.check.report import FORMATS, Report, summary
    from tritonrepo.check.scope import models_of, rules_of

    # All that is made is kept to the end; looking for garbage in it takes a fifth of the time.
    gc.disable()
    target = _target(options)
    rules = rules_of(options.select, options.ignore)
    models = models_of(options.paths, schema(target.release))
    judge = partial(check_model, target=target, rules=rules)
    report = partial(Report, tuple(options.paths), len(models), rules, target, strict=options.strict)
    if options.fix:
        from tritonrepo.check.fix import diff, mend, write

        done = mend(models, judge)
        result = report(findings=done.left, mended=done.mended)
        if options.dry_run:
            sys.stdout.buffer.write(diff(done.changes))
            sys.stderr.write(f"{summary(result)}\n")
            return int(result.failed or bool(done.changes))
        write(done.changes)
    else:
        result = report(findings=tuple(finding for model in models for finding in judge(model)))
    sys.stdout.write(FORMATS[options.format](result))
    return int(result.failed)


def rule(arguments: Sequence[str]) -> int:
    """Explain rules."""
    made = _Parser(
        prog="tritonrepo rule", description="Explain a rule of `tritonrepo check`; without an id, list all rules."
    )
    made.add_argument("ids", nargs="*", metavar="ID", help="such as TR002, or the beginning of several: TR0")
    ids = made.parse_args(arguments).ids
    from tritonrepo.check.explain import explain, overview
    from tritonrepo.check.scope import rules_of

    rules = rules_of(ids)
    single = all(each.upper() in {rule.id for rule in rules} for each in ids)
    sys.stdout.write("\n".join(map(explain, rules)) if ids and single else overview(rules))
    return 0


def inspect(arguments: Sequence[str]) -> int:
    """Say what ONNX files are."""
    from tritonrepo.inspection import command

    return command.run(
        command.add_arguments(_Parser(prog="tritonrepo inspect", allow_abbrev=False)).parse_args(arguments)
    )


COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {"check": check, "inspect": inspect, "rule": rule}


class _Parser(ArgumentParser):
    """Faults in the arguments are told like all others."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"`{self.prog} --help` shows what it takes.")


def parser() -> ArgumentParser:
    """Reads the arguments of ``check``."""
    made = _Parser(
        prog="tritonrepo check",
        allow_abbrev=False,
        description="Say what is wrong with model repositories, without starting a server: what the server would "
        "refuse,\nwhat would hang or crash it, and what it accepts although requests will go wrong.",
        epilog="Exit codes: 0 nothing found (or only advice), 1 findings, 2 wrong usage.",
        formatter_class=RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("paths", nargs="*", type=Path, default=[_REPOSITORY], metavar="PATH",
        help="repositories, model directories, or files of models (default: model_repository)")  # fmt: skip
    add("--triton", default=None, metavar="RELEASE", help="the release that will serve, such as 26.09")
    add("--backends", type=_words, metavar="A,B", help="the server's backends; default: those of the release's image")
    add("--gpus", type=_words, metavar="9.0,4xsm90|none", help="compute capabilities of the server's GPUs")  # fmt: skip
    add("--response-cache", action=BooleanOptionalAction, help="whether the server runs with a response cache")
    add("--select", type=_words, action="extend", default=[], metavar="TR1,TR203", help="only rules that begin so")
    add("--ignore", type=_words, action="extend", default=[], metavar="TR1,TR203", help="no rules that begin so")
    add("--strict", action="store_true", help="advice counts, too")
    add("--fix", action="store_true", help="mend what has exactly one right mend")
    add("--dry-run", action="store_true", help="with --fix: print the changes as a diff, and change nothing")
    add("--format", choices=("text", "json", "github", "sarif"), default="text", help="default: text")
    return made


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _target(options: Namespace) -> Target:
    from tritonrepo.check.rule import Target
    from tritonrepo.check.scope import gpus_of, release_of

    gpus, count = (None, None) if options.gpus is None else gpus_of(options.gpus)
    return Target(
        release=release_of(options.triton or Target.release),
        backends=None if options.backends is None else frozenset(options.backends),
        gpus=gpus,
        gpu_count=count,
        response_cache=options.response_cache,
    )
