"""What is wrong in a spec, in words: pydantic's findings become one clear sentence for each key.

A ``Problem`` knows only the path of its key; whoever holds the file turns it into a ``Fault`` with its line.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError
    from pydantic_core import ErrorDetails

#: Keys and list indices from the top of the file: ("models", 2, "batching").
KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. ``at`` says whether the key or its value is to be pointed at."""

    path: KeyPath
    message: str
    hint: str | None = None
    at: Literal["key", "value"] = "value"


def path_text(path: KeyPath) -> str:
    """``("models", 2, "labels", "a/b")`` as ``models[2].labels["a/b"]``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[A-Za-z_][\w-]*", part, re.ASCII):
            text += f".{part}" if text else part
        else:
            text += f"[{json.dumps(part, ensure_ascii=False)}]"
    return text


def shown(value: object) -> str:
    """A value as a message may show it: short, on one line, strings in double quotes."""
    if value is None:
        return "empty"
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:56] + '..."'


def in_words(items: Iterable[str]) -> str:
    """``a, b or c``."""
    *head, last = items
    return f"{', '.join(head)} or {last}" if head else last


def closest(word: str, words: Iterable[str]) -> str | None:
    """The one of ``words`` that was probably meant."""
    by_folded = {candidate.casefold().replace("-", "_"): candidate for candidate in words}
    found = difflib.get_close_matches(word.casefold().replace("-", "_"), by_folded, n=1)
    return by_folded[found[0]] if found else None


def holds(data: object, part: str | int) -> bool:
    """Whether ``data[part]`` is there: a key of a mapping, or an index of a list."""
    if isinstance(data, list | tuple):
        return isinstance(part, int) and part < len(data)
    return isinstance(data, Mapping) and part in data


def problems_in(error: ValidationError, model: type[BaseModel], data: object, at: KeyPath) -> list[Problem]:
    """One problem for each key that pydantic refused.

    Args:
        error: what validating ``data`` as ``model`` raised.
        model: the block.
        data: what was validated.
        at: where ``data`` stands in the file.
    """
    by_path: dict[KeyPath, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        by_path.setdefault(_path_in(data, details), []).append(details)
    # Of a union ("off", or a list), the branches that do not fit complain about the whole value; where another branch
    # got further in, that is the one that was meant.
    inner = {path[:end] for path in by_path for end in range(len(path))}
    return [_problem(path, found, model, at) for path, found in by_path.items() if path not in inner]


def _path_in(data: Any, details: ErrorDetails) -> KeyPath:
    """pydantic's location without the names of union branches, which are nothing in the file."""
    path: list[str | int] = []
    for part in details["loc"]:
        if holds(data, part):
            data = data[part]
            path.append(part)
    if details["type"] == "missing":
        path.append(details["loc"][-1])
    return tuple(path)


def _problem(path: KeyPath, found: Sequence[ErrorDetails], model: type[BaseModel], at: KeyPath) -> Problem:
    first = found[0]
    if first["type"] == "missing":
        return Problem(at + path, "is missing", at="key")
    if first["type"] == "extra_forbidden":
        return Problem(at + path, "is not a setting here", _hint_unknown(path, model), at="key")
    expected = list(dict.fromkeys(choice for details in found for choice in _expected(details, path, model)))
    value = first["input"]
    if first["loc"][-1:] == ("[key]",):
        return Problem(at + path, f"the key must be {in_words(expected)}, not {shown(value)}", at="key")
    return Problem(at + path, f"must be {in_words(expected)}, not {shown(value)}", _hint(found, value))


_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "too_short": "a list with at least one entry",
    "release": "a release, year.month such as 26.09",
    "string_too_short": "text with at least one character",
}


def _expected(details: ErrorDetails, path: KeyPath, model: type[BaseModel]) -> list[str]:
    """What would have been right, to go behind "must be"."""
    kind, context = details["type"], details.get("ctx", {})
    if kind == "literal_error":
        return _choices(details)
    if kind == "model_type":
        return [f"a mapping ({', '.join(_keys(model, path))})"]
    if kind == "string_pattern_mismatch":
        return ["a compute capability such as sm90" if "sm" in context["pattern"] else _EXPECTED["release"]]
    bounds = {"greater_than_equal": ("at least", "ge"), "less_than_equal": ("at most", "le")}
    word, key = {**bounds, "greater_than": ("more than", "gt")}.get(kind, ("", ""))
    return [f"{word} {context[key]:.12g}"] if word else [_EXPECTED[kind]]


def _choices(details: ErrorDetails) -> list[str]:
    return re.findall(r"'([^']*)'", details["ctx"]["expected"]) or [details["ctx"]["expected"].lower()]


def _hint(found: Sequence[ErrorDetails], value: object) -> str | None:
    kinds = {details["type"] for details in found}
    if "bool_type" in kinds and isinstance(value, str) and value.casefold() in {"yes", "on", "no", "off"}:
        return f"write {'true' if value.casefold() in {'yes', 'on'} else 'false'}"
    if kinds <= {"tuple_type"} and isinstance(value, str | int | float):
        return f"write [{shown(value)}]"
    if kinds <= {"string_type"} and isinstance(value, bool | int | float):
        return f'write "{str(value).lower()}", in quotes'
    literals = [details for details in found if details["type"] == "literal_error"]
    if literals and isinstance(value, str):
        meant = closest(value, [choice for details in literals for choice in _choices(details)])
        return f"did you mean {meant}?" if meant else None
    return None


#: Blocks whose keys repeat those of the block that they lie in: no hint where a key belongs.
_COPIES = frozenset({"defaults", "profiles", "configs"})


def _hint_unknown(path: KeyPath, model: type[BaseModel]) -> str:
    key, known = str(path[-1]), _keys(model, path[:-1])
    meant = closest(key, known)
    if meant:
        return f"did you mean {meant}?"
    for name in known:
        if key in _keys(model, (*path[:-1], name)) and name not in _COPIES:
            return f"{key} belongs under {name}"
    return f"known here: {', '.join(known)}" + ("; Triton's own fields go under config" if "config" in known else "")


def _keys(model: type[BaseModel], path: KeyPath) -> list[str]:
    """Keys that the block at ``path`` may have; none where something else than a block stands."""
    blocks = [model]
    in_mapping = False
    for part in path:
        if isinstance(part, int) or in_mapping:  # an entry of a list, or a key that the user chose
            in_mapping = False
            continue
        fields = [block.model_fields[part].annotation for block in blocks if part in block.model_fields]
        in_mapping = any(get_origin(annotation) is dict for annotation in fields)
        blocks = [block for annotation in fields for block in _blocks(annotation)]
    # A block's own keys first, then those that it shares with others.
    names = [name for block in blocks for name in [*block.__annotations__, *block.model_fields]]
    return [] if in_mapping else list(dict.fromkeys(names))


def _blocks(annotation: Any) -> list[type[BaseModel]]:
    """The blocks that an annotation such as ``tuple[Warmup, ...] | Literal["off"]`` speaks of."""
    if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
        return [annotation]
    return [block for argument in get_args(annotation) for block in _blocks(argument)]
