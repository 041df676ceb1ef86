"""What is to be checked: paths become models, prefixes become rules, words become a target."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tritonrepo.check._schema import Schema, releases
from tritonrepo.check.model import CONFIG, Model, Repository, is_version
from tritonrepo.check.rule import RULES, Rule
from tritonrepo.check.rules import load_rules
from tritonrepo.errors import UsageError


def models_of(paths: Iterable[Path], types: Schema) -> tuple[Model, ...]:
    """The models that paths mean, each once, by repository in the order of the paths and then by name.

    A path is a repository, one model's directory, or a file of a model. For a model or a file, the ensembles of the
    same repository that use the model are meant, too: a change of a model may break them.

    Raises:
        UsageError: a path does not exist, or is a file of no model.
    """
    repositories: dict[str, tuple[Repository, set[str]]] = {}
    for path in paths:
        root, name = _place(path)
        repository, names = repositories.setdefault(os.path.realpath(root), (Repository(root, types), set()))
        names.update(repository.models if name is None else _with_ensembles(repository, name))
    return tuple(
        model
        for repository, names in repositories.values()
        for model in repository.models.values()
        if model.name in names
    )


def _place(path: Path) -> tuple[Path, str | None]:
    """The repository that a path is in, and the model; None where it is the whole repository."""
    if path.is_dir():
        model = path if _is_model(path) else None
    elif path.exists():
        model = next((folder for folder in path.parents if (folder / CONFIG).is_file()), None) or _by_version(path)
        if model is None:
            raise UsageError(
                "this file belongs to no model",
                where=path,
                hint="Give a repository, a model's directory, or a file in one.",
            )
    else:
        raise UsageError("no such folder or file", where=path, hint="Give the path of a model repository.")
    if model is None:
        return path, None
    if model.name in {"", ".."}:
        model = Path(os.path.abspath(model))  # noqa: PTH100 - symbolic links stay
    return model.parent, model.name


def _is_model(folder: Path) -> bool:
    """Whether a folder is one model's: it has a config, and no folder in it has one."""
    if not (folder / CONFIG).is_file():
        return False
    return not any((folder / name / CONFIG).exists() for name in os.listdir(folder))  # noqa: PTH208 - names are enough


def _by_version(path: Path) -> Path | None:
    """The directory of a model without a config: the one that holds the version directory that the file is in."""
    return next((folder.parent for folder in path.parents if is_version(folder.name)), None)


def _with_ensembles(repository: Repository, name: str) -> set[str]:
    """A model and every ensemble that uses it, be it through other ensembles."""
    users: dict[str, set[str]] = {}
    for model in repository.models.values():
        if model.document is not None:
            for step in model.document.root.get("ensemble_scheduling").all("step"):
                users.setdefault(step.get("model_name"), set()).add(model.name)
    found: set[str] = set()
    waiting = {name} & repository.models.keys()
    while waiting:
        found.add(each := waiting.pop())
        waiting |= users.get(each, set()) - found
    return found


def rules_of(select: Sequence[str] = (), ignore: Sequence[str] = ()) -> tuple[Rule, ...]:
    """The rules that prefixes of ids choose; without ``select``, all. The longer of two prefixes decides.

    Raises:
        UsageError: no rule's id begins like this.
    """
    load_rules()
    select, ignore = _prefixes(select), _prefixes(ignore)

    def chosen(rule: Rule) -> bool:
        wanted = max((len(each) for each in select if rule.id.startswith(each)), default=-1 if select else 0)
        unwanted = max((len(each) for each in ignore if rule.id.startswith(each)), default=-1)
        return wanted > unwanted

    return tuple(rule for rule in RULES.values() if chosen(rule))


def _prefixes(words: Sequence[str]) -> tuple[str, ...]:
    prefixes = tuple(word.strip().upper() for word in words)
    for prefix in prefixes:
        if not any(id_.startswith(prefix) for id_ in RULES):
            from tritonrepo._faults import closest

            nearest = closest(prefix, RULES)
            did_you_mean = f"Did you mean {nearest}? " if nearest else ""
            raise UsageError(f"no rule begins with {prefix}", hint=f"{did_you_mean}`tritonrepo rule` lists all rules.")
    return prefixes


def release_of(tag: str) -> str:
    """A server release that is known.

    Raises:
        UsageError: it is not; the hint names the nearest.
    """
    from tritonrepo.releases import RELEASES

    known = sorted({*releases(), *RELEASES})
    if tag in known:
        return tag
    match = re.fullmatch(r"(\d\d)\.(0?[1-9]|1[0-2])", tag, re.ASCII)
    if match is None:
        raise UsageError(
            f"{tag!r} is no server release", hint=f"Give year.month as in the container's tag: {known[-1]}."
        )

    def distance(other: str) -> int:
        return abs(_months(other) - int(match[1]) * 12 - int(match[2]))

    raise UsageError(
        f"nothing is known of server release {tag} (known: {known[0]} to {known[-1]})",
        hint=f"The nearest is {min(known, key=distance)}.",
    )


def _months(tag: str) -> int:
    year, month = tag.split(".")
    return int(year) * 12 + int(month)


def gpus_of(words: Sequence[str]) -> tuple[tuple[str, ...], int | None]:
    """Compute capabilities, and how many GPUs there are: ``4xsm90``, or only of which kinds: ``9.0``; or ``none``.

    Raises:
        UsageError: a word is none of these.
    """
    if list(words) == ["none"]:
        return (), 0
    kinds, counts = [], []
    for word in words:
        match = re.fullmatch(r"(?:([1-9][0-9]?)x)?(?:sm_?)?([0-9]{1,2})\.?([0-9])a?", word.strip().lower())
        if match is None:
            hint = "Give one such as sm90 or 9.0 for each kind of GPU, 4xsm90 for four of a kind, or none."
            raise UsageError(f"{word!r} is no compute capability", hint=hint)
        kinds.append(f"{int(match[2])}.{match[3]}")
        counts.append(match[1])
    return tuple(dict.fromkeys(kinds)), sum(map(int, counts)) if all(counts) else None
