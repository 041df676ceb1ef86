"""What a build says while it runs: a live view on a terminal, plain lines elsewhere, JSON lines for machines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from pathlib import Path

    from tritonrepo.build import BuildResult, ModelResult
    from tritonrepo.status import Part

#: How many steps a model goes through, for the bars.
_STEPS = 7


class Display(Protocol):
    """Shows a build. A context manager; ``step`` has the shape of ``build.OnEvent``."""

    def __enter__(self) -> Display:
        """Begin."""

    def __exit__(self, *error: object) -> None:
        """End; what was drawn over is cleared."""

    def step(self, model: str, step: str, status: str, seconds: float) -> None:
        """Show that a step began, goes on, ended, failed, or came from the cache."""

    def say(self, text: str) -> None:
        """Show one line for people."""

    def result(self, result: BuildResult) -> None:
        """Show what became of the build."""


def display_for(stream: TextIO, *, as_json: bool, total: int) -> Display:
    """The display that fits the stream."""
    if as_json:
        return JsonDisplay(stream)
    return LiveDisplay(total) if stream.isatty() else PlainDisplay(stream)


class JsonDisplay:
    """One JSON object a line: ``{"event": "step" | "note" | "result", ...}``."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __enter__(self) -> JsonDisplay:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def step(self, model: str, step: str, status: str, seconds: float) -> None:
        self._write(event="step", model=model, step=step, status=status, seconds=round(seconds, 3))

    def say(self, text: str) -> None:
        self._write(event="note", text=text)

    def result(self, result: BuildResult) -> None:
        failures = [
            {"model": name, "message": error.message, "where": str(error.where or ""), "hint": error.hint}
            for name, error in result.failures.items()
        ]
        self._write(
            event="result",
            models=[asdict(model) for model in result.models],
            failures=failures,
            foreign=result.foreign,
            removed=result.removed,
            kept=dict(result.kept),
        )

    def _write(self, **fields: object) -> None:
        self._stream.write(json.dumps(fields) + "\n")
        self._stream.flush()


class PlainDisplay:
    """A line when a model is done, one for each step that took long, and now and then what a long one is at."""

    _LONG = 2.0
    _PAUSE = 15.0

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._last: dict[str, float] = {}
        """When a model was last heard of, by its name."""

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def step(self, model: str, step: str, status: str, seconds: float) -> None:
        now = self._clock()
        if status in ("start", "progress") and ": " in step and now - self._last.setdefault(model, now) > self._PAUSE:
            self._last[model] = now
            self.say(f"{model}: {step}")
        if status == "failed":
            self.say(f"{model}: failed")
        elif status == "done" and step == "publish":
            self.say(f"{model}: done")
        elif status == "done" and seconds > self._LONG:
            self.say(f"{model}: {step} took {seconds:.1f} s")

    def say(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()

    def result(self, result: BuildResult) -> None:
        print_result(result)


class LiveDisplay:
    """A bar for each model that is being built, and one for all."""

    def __init__(self, total: int) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[step]}"))
        self._progress = Progress(*columns, TimeElapsedColumn(), transient=True)
        self._all = self._progress.add_task("all models", total=total, step="")
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> LiveDisplay:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def step(self, model: str, step: str, status: str, seconds: float) -> None:
        if step == "publish" and status == "cached":
            self._progress.advance(self._all)
            return
        task = self._tasks.get(model)
        if task is None:
            task = self._tasks[model] = self._progress.add_task(model, total=_STEPS, step=step)
        if status in ("start", "progress"):
            self._progress.update(task, step=step)
        else:
            self._progress.advance(task)
        if status == "failed" or (step == "publish" and status == "done"):
            self._progress.update(task, visible=False)
            self._progress.advance(self._all)

    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)

    def result(self, result: BuildResult) -> None:
        print_result(result)


def print_result(result: BuildResult) -> None:
    """The table of models and, below it, the reasons."""
    models = result.models
    if models and not result.failures and all(model.cached and model.action == "unchanged" for model in models):
        sys.stdout.write(f"Everything is up to date: {len(models)} model{'s' if len(models) != 1 else ''}.\n")
    if models:
        _table(models)
        _reasons("engine", models, lambda model: (model.engine, model.engine_reason))
        _reasons("max batch", models, lambda model: (str(model.max_batch_size), model.batch_reason))
        for model in models:
            for note in model.notes:
                sys.stdout.write(f"{model.name}: {note}\n")
    if result.removed:
        sys.stdout.write(f"Removed: {', '.join(result.removed)}\n")
    for name, files in result.kept.items():
        sys.stdout.write(f"{name}: not removed, it holds files that tritonrepo did not write: {', '.join(files)}\n")
    if result.foreign:
        sys.stdout.write(f"Not in the spec, left alone: {', '.join(result.foreign)}\n")


def print_status(parts: Sequence[Part], repository: Path) -> None:
    """One line for each plan, with what is wrong below it, and a sum."""
    rows = [("model", "version", "GPU", "file", "TensorRT", "size", "state")]
    rows += [
        (
            part.model,
            "-" if part.version is None else str(part.version),
            part.gpu,
            part.file or "-",
            part.tensorrt or "-",
            "-" if part.bytes is None else f"{part.bytes / 1e6:.1f} MB",
            part.state,
        )
        for part in parts
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row, part in zip(rows, (None, *parts), strict=True):
        line = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        sys.stdout.write(f"{line.rstrip()}\n")
        if part and part.detail:
            sys.stdout.write(f"    {part.detail}\n")
    missing = sum(not part.ok for part in parts)
    sum_up = f"{missing} of {len(parts)} are missing or wrong" if missing else "complete"
    sys.stdout.write(f"{repository}: {sum_up}\n")


def _table(models: Sequence[ModelResult]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("model", "engine", "inputs", "outputs"):
        table.add_column(name, overflow="fold")
    for name in ("max batch", "verdict", "max abs", "max rel", "cosine", "version", "time"):
        table.add_column(name, justify="left" if name == "verdict" else "right")
    table.add_column("")
    for model in models:
        table.add_row(
            model.name,
            model.engine,
            "\n".join(model.inputs),
            "\n".join(model.outputs),
            str(model.max_batch_size),
            "ok",
            f"{model.max_abs:.1e}",
            f"{model.max_rel:.1e}",
            f"{model.cosine:.6f}",
            str(model.version),
            f"{model.seconds:.1f} s",
            f"{'cached' if model.cached else 'built'}, {model.action}",
        )
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(table)
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def _reasons(what: str, models: Sequence[ModelResult], said: Callable[[ModelResult], tuple[str, str]]) -> None:
    """One line for each distinct choice and reason, with the models that it holds for."""
    groups: dict[tuple[str, str], list[str]] = {}
    for model in models:
        groups.setdefault(said(model), []).append(model.name)
    for (choice, reason), names in groups.items():
        who = "all models" if len(names) == len(models) else ", ".join(names)
        sys.stdout.write(f"{what} {choice} ({who}): {reason}\n")
