"""What a rule is: one small function with its id, severity, words and examples, all in one place.

    @rule(
        "TR123",
        "reject",
        "a name in the config is the directory's",
        "The server refuses a model whose config names another model.",
        wrong=tree({"m/config.pbtxt": 'name: "n" backend: "python"', "m/1/model.py": ""}),
        right=tree({"m/config.pbtxt": 'name: "m" backend: "python"', "m/1/model.py": ""}),
    )
    def name_is_the_directory(model: Model, target: Target) -> Iterator[Spot]:
        if model.config.get("name") not in ("", model.name):
            yield model.spot("name", f"...", "...")

Where a finding has exactly one right mend, ``edits.py`` makes the edits to yield with it.

The decorator puts the rule into ``RULES``, from which the checker, the docs, ``tritonrepo rule`` and the tests are fed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tritonrepo.check.model import Model

#: What the server does: refuses the model, hangs or crashes while loading it, takes it although requests will go
#: wrong, or nothing (advice).
Severity = Literal["reject", "hang", "crash", "breaks", "advice"]

#: With these the server does not serve the model.
NOT_SERVED: frozenset[Severity] = frozenset({"reject", "hang", "crash"})
#: With these a build does not publish.
BLOCKING: frozenset[Severity] = NOT_SERVED | {"breaks"}

Tree = Mapping[str, str | bytes]


class Link(str):
    """In the tree of an example: a symbolic link to this path."""

    __slots__ = ()


@dataclass(frozen=True)
class Target:
    """What will serve the repository."""

    release: str = "26.09"
    """Triton release, as the container's tag without -py3."""
    backends: frozenset[str] | None = None
    """Backends that the server has; None for those of the release's image."""
    gpus: tuple[str, ...] | None = None
    """Compute capabilities such as ``9.0``; None where they are not known, () for a server without GPUs."""
    gpu_count: int | None = None
    """How many GPUs the server has; None where it is not known."""
    response_cache: bool | None = None
    """Whether the server runs with a response cache; None where it is not known."""
    this_machine: bool = False
    """Whether the server will run on this machine, so that absolute paths in configs can be looked at."""
    only_core: bool = False
    """Judge as a server whose backends check nothing of their own: for the comparison with stub backends."""


@dataclass(frozen=True)
class Edit:
    """A mend of a config: its bytes from ``start`` up to ``end`` become ``text`` in UTF-8.

    Offsets are of bytes, as the parser counts them: a config need not be valid UTF-8. All edits of a finding are made
    together or not at all, and they must not overlap; equal offsets insert.
    """

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Spot:
    """What a rule yields: a place, what is wrong there, and what to do."""

    file: Path
    line: int | None
    column: int | None
    message: str
    hint: str
    edits: tuple[Edit, ...] = ()
    """The one right mend of the config, where there is exactly one."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a model."""

    rule: str
    severity: Severity
    model: str
    file: Path
    line: int | None
    column: int | None
    message: str
    hint: str
    edits: tuple[Edit, ...] = ()

    @property
    def where(self) -> str:
        """``file:line:column``, as far as it is known."""
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)

    def __str__(self) -> str:
        return f"{self.where}: {self.rule} {self.severity}: {self.message}\n  {self.hint}"


Run = Callable[["Model", Target], Iterator[Spot]]


@dataclass(frozen=True)
class Rule:
    """A rule and all that is to be said of it."""

    id: str
    severity: Severity
    title: str
    """What is right, in a few words."""
    explanation: str
    """What the server does otherwise, and why."""
    wrong: Tree
    """A repository that breaks the rule: path -> content."""
    right: Tree
    """The same repository, mended."""
    run: Run
    topic: str
    """Name of the module that holds it."""
    parsed: bool
    """Whether it needs a config that parses; most do."""
    target: Target = Target()
    """What serves the examples, where it matters."""


#: Every rule by its id, in the order of the ids once all are loaded.
RULES: dict[str, Rule] = {}


def rule(
    id: str,  # noqa: A002 - the word for it
    severity: Severity,
    title: str,
    explanation: str,
    *,
    wrong: Tree,
    right: Tree,
    parsed: bool = True,
    target: Target | None = None,
) -> Callable[[Run], Run]:
    """Make a function a rule."""

    def register(run: Run) -> Run:
        if id in RULES:
            raise ValueError(f"two rules have the id {id}")
        topic = run.__module__.rpartition(".")[2]
        RULES[id] = Rule(id, severity, title, explanation, wrong, right, run, topic, parsed, target or Target())
        return run

    return register
