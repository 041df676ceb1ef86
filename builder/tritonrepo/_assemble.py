"""Plain data -> Spec: lays ``defaults`` under the models, validates each once, and gathers everything that is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from tritonrepo import _rules, _yaml
from tritonrepo._faults import KeyPath, Problem, holds, path_text, problems_in, shown
from tritonrepo.errors import Fault, SpecError, Where
from tritonrepo.spec import Block, ModelDefaults, ModelSpec, Spec

Data = dict[str, Any]
Locate = Callable[[KeyPath, Literal["key", "value"]], Where]
B = TypeVar("B", bound=Block)

#: Keys whose values are text even where they look like numbers.
TEXT_KEYS = frozenset({"triton", "name", "onnx", "string_value"})

#: Blocks that a model replaces as a whole, since their keys exclude each other.
_WHOLE = frozenset({"versions"})

_START = "write a spec with: tritonrepo init *.onnx"


class SpecFile(Spec):
    """A models.yaml: where things are, defaults, and the models."""

    defaults: ModelDefaults = ModelDefaults()
    """Settings of every model that does not say otherwise."""


def from_file(path: Path, environ: Mapping[str, str]) -> Spec:
    """See ``spec.load_spec``."""
    document = _yaml.read(path, environ, TEXT_KEYS)
    if document.data is None:
        raise SpecError([Fault("", "the spec is empty", Where(path), _START)], where=path)
    if not isinstance(document.data, dict):
        message = f"the spec must be a mapping with the key models, not {shown(document.data)}"
        hint = "put models: above the list" if isinstance(document.data, list) else _START
        raise SpecError([Fault("", message, document.where(()), hint)], where=path)
    assembly = _Assembly(path.absolute().parent, document.where)
    spec = assembly.spec(document.data)
    problems = [problem for problem in assembly.problems if problem.path not in document.unset]
    problems += document.problems
    if spec is None or problems:
        faults = [
            Fault(path_text(problem.path), problem.message, document.where(problem.path, problem.at), problem.hint)
            for problem in problems
        ]
        raise SpecError(sorted(faults, key=_order), where=path)
    return spec


def where_of(path: Path, name: str, key: str, environ: Mapping[str, str]) -> Where | None:
    """The place of a model's key in a spec, or of the model where it does not have the key; None where it is not there.

    Args:
        path: the spec.
        name: the model's name.
        key: such as ``shapes``.
        environ: see ``spec.load_spec``.
    """
    document = _yaml.read(path, environ, TEXT_KEYS)
    models = document.data.get("models") if isinstance(document.data, dict) else None
    for index, model in enumerate(models if isinstance(models, list) else ()):
        if isinstance(model, dict) and name == (model.get("name") or Path(str(model.get("onnx"))).stem):
            return document.where(("models", index, key), "key" if key in model else "value")
    return None


def from_files(onnx: Sequence[Path], top: Mapping[str, object], settings: Mapping[str, object]) -> Spec:
    """See ``spec.spec_for``."""

    def locate(path: KeyPath, at: Literal["key", "value"]) -> Where:
        return Where(onnx[int(path[1])] if path[0] == "models" else "")

    models = [{"name": _rules.fit_name(file.stem), "onnx": file} for file in onnx]
    cache = Path(str(top["repository"])).absolute().parent / ".tritonrepo"
    assembly = _Assembly(Path.cwd(), locate)
    spec = assembly.spec({"cache": cache, **top, "models": models, "defaults": dict(settings)})
    if spec is None or assembly.problems:
        raise SpecError([_without_file(problem, onnx) for problem in assembly.problems])
    return spec


class _Assembly:
    """Gathers problems while a Spec is made; the Spec counts only if there are none."""

    def __init__(self, base: Path, locate: Locate) -> None:
        self.problems: list[Problem] = []
        self._context = {"base": base}
        self._locate = locate
        self._defaults: Data = {}
        self._broken: set[str | int] = set()  # blocks of the defaults that have faults and are left out of the models

    def spec(self, data: Data) -> Spec | None:
        top = {key: value for key, value in data.items() if value is not None}
        self._read_defaults(top.pop("defaults", {}))
        models = self._models(top.pop("models", []))
        spec, broken = self._valid(Spec, {**top, "models": models}, ())
        if spec:
            found = _rules.folders(spec, stated="cache" in top)
            self.problems += [problem for problem in found if problem.path[0] not in broken]
        return spec

    def _valid(self, block: type[B], data: Data, path: KeyPath) -> tuple[B | None, set[str | int]]:
        """Validate a block. Where keys of it are wrong, they are left out, so that the rest can still be looked at.

        Returns:
            the block, None where nothing can be made of it, and the keys that were left out.
        """
        try:
            return block.model_validate(data, context=self._context), set()
        except ValidationError as error:
            found = problems_in(error, SpecFile if block is Spec else block, data, path)
            self.problems += found
        broken = {problem.path[len(path)] for problem in found}
        try:
            sound = {key: value for key, value in data.items() if key not in broken}
            return block.model_validate(sound, context=self._context), broken
        except ValidationError:  # what is missing cannot be left out
            return None, broken

    def _read_defaults(self, given: object) -> None:
        if not isinstance(given, dict):
            self.problems.append(Problem(("defaults",), f"must be a mapping, not {shown(given)}"))
            return
        data = _laid_over({}, given)
        defaults, broken = self._valid(ModelDefaults, data, ("defaults",))
        if defaults:
            found = [*_rules.contradictions(defaults), *_rules.missing_files(defaults), *_config(defaults.config)]
            found = [problem for problem in found if problem.path[0] not in broken]
            self.problems += _below(("defaults",), found)
            broken |= {problem.path[0] for problem in found}
        self._broken = broken
        self._defaults = {key: value for key, value in data.items() if key not in self._broken}

    def _models(self, items: object) -> list[ModelSpec]:
        if not isinstance(items, list):
            self.problems.append(Problem(("models",), f"must be a list, not {shown(items)}"))
            return []
        if not items:
            self.problems.append(Problem(("models",), "there are no models", _START, at="key"))
        models = {index: self._model(("models", index), item) for index, item in enumerate(items)}
        valid = {index: model for index, model in models.items() if model}
        self._check_names({index: self._name_path(index, items[index]) for index in valid}, valid)
        return list(valid.values())

    def _model(self, path: KeyPath, item: object) -> ModelSpec | None:
        if not isinstance(item, dict):
            hint = f"write: - onnx: {item}" if isinstance(item, str) else None
            self.problems.append(Problem(path, f"must be a mapping with the key onnx, not {shown(item)}", hint))
            return None
        data = _laid_over(self._defaults, item)
        if isinstance(data.get("configs"), dict):
            data["configs"] = {name: _config_of(data, config) for name, config in data["configs"].items()}
        if "name" not in data and isinstance(data.get("onnx"), str):
            data["name"] = Path(data["onnx"]).stem
        model, broken = self._valid(ModelSpec, data, path)
        if model is None:
            return None
        broken |= self._broken
        found = [problem for problem in _rules.contradictions(model) if problem.path[0] not in broken]
        found += [problem for problem in _rules.without_effect(model) if _holds(item, problem.path)]
        found += [*_rules.shape_problems(model), *_rules.missing_files(model), *_rules.missing_model_files(model)]
        found += _rules.missing_calibration(model)
        found += _config(model.config) if item.get("config") else []
        self.problems += _below(path, (self._with_origin(problem, item) for problem in found))
        return model

    def _with_origin(self, problem: Problem, item: Data) -> Problem:
        """Says so where a model's problem lies in what the defaults say."""
        if _holds(item, problem.path) or not _holds(self._defaults, problem.path):
            return problem
        line = self._locate(("defaults", *problem.path), problem.at).line
        origin = f"in defaults, line {line}" if line else "for all models"
        return Problem(problem.path, f"{problem.message} (set {origin})", problem.hint, problem.at)

    @staticmethod
    def _name_path(index: int, item: Data) -> KeyPath:
        """The key that gives the model its name."""
        return ("models", index, "onnx" if item.get("name") is None else "name")

    def _check_names(self, paths: Mapping[int, KeyPath], models: Mapping[int, ModelSpec]) -> None:
        first: dict[str, int] = {}
        for index, model in models.items():
            path = paths[index]
            if not _rules.NAME.fullmatch(model.name):
                message = f"{shown(model.name)} is not fit for a directory and a URL"
                self.problems.append(Problem(path, message, f"for instance: name: {_rules.fit_name(model.name)}"))
            other = first.setdefault(model.name.casefold(), index)
            if other != index:
                where = self._locate(paths[other], "value")
                place = f"models[{other}] (line {where.line})" if where.line else str(where)
                self._same_name(path, model.name, models[other].name, place)

    def _same_name(self, path: KeyPath, name: str, other_name: str, place: str) -> None:
        if name == other_name:
            self.problems.append(Problem(path, f"{shown(name)} is also the name of {place}", "rename one of them"))
        else:
            message = f"{shown(name)} differs only in case from {shown(other_name)}, {place}"
            hint = "rename one of them: repositories get copied to stores that do not tell the two apart"
            self.problems.append(Problem(path, message, hint))


def _config_of(model: Data, config: object) -> object:
    """A further config with its batching laid over the model's."""
    if not isinstance(config, dict) or not isinstance(config.get("batching"), dict):
        return config
    below = model.get("batching")
    return {**config, "batching": _laid_over(below if isinstance(below, dict) else {}, config["batching"])}


def _laid_over(base: Data, over: Data) -> Data:
    """``over`` on top of ``base``: mappings merge key by key, lists and scalars replace.

    A key without a value is as if it were not given; on top of a list or a scalar it takes that away.
    """
    result = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and key not in _WHOLE:
            below = base.get(key)
            result[key] = _laid_over(below if isinstance(below, dict) else {}, value)
        elif value is not None:
            result[key] = value
        elif not isinstance(base.get(key), dict):
            result.pop(key, None)
    return result


def _holds(data: Any, path: KeyPath) -> bool:
    for part in path:
        if not holds(data, part):
            return False
        data = data[part]
    return True


def _config(config: Mapping[str, object]) -> list[Problem]:
    """What is wrong with the pass-through; its schema is a heavy import, so only where there is something to check."""
    if not config:
        return []
    from tritonrepo._model_config import faults_in

    return [Problem(("config", *_steps(path)), message, hint) for path, message, hint in faults_in(config)]


def _steps(path: str) -> KeyPath:
    """``instance_group[0].kind`` as ``("instance_group", 0, "kind")``."""
    tokens = re.findall(r'\[(\d+)\]|\["([^"]*)"\]|([^.\[\]]+)', path)
    return tuple(int(index) if index else key or word for index, key, word in tokens)


def _below(path: KeyPath, problems: Iterable[Problem]) -> list[Problem]:
    return [Problem(path + problem.path, problem.message, problem.hint, problem.at) for problem in problems]


def _order(fault: Fault) -> tuple[int, int]:
    where = fault.where
    return (where.line or 0, where.column or 0) if where else (0, 0)


def _without_file(problem: Problem, onnx: Sequence[Path]) -> Fault:
    """A fault of a build without a models.yaml: it lies in a model, or in a setting that the command line gave."""
    if problem.path[0] == "models" and len(problem.path) > 1:
        path = tuple(part for part in problem.path[2:] if part not in ("onnx", "name"))
        return Fault(path_text(path), problem.message, Where(onnx[int(problem.path[1])]), problem.hint)
    path = problem.path[1:] if problem.path[0] == "defaults" else problem.path
    return Fault(path_text(path), problem.message, None, problem.hint)
