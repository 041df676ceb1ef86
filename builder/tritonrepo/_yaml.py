"""YAML text -> plain data that remembers where everything stood.

PyYAML only parses; what a scalar means is decided here, after YAML 1.2's core schema and not 1.1, so that
``no``, ``on``, ``12:30`` and ``2026-01-01`` stay text and ``1e-4`` is a number. Keys are always text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from tritonrepo._faults import KeyPath, Problem
from tritonrepo.errors import Fault, SpecError, UsageError, Where

#: The C loader is ten times as fast; PyYAML may be built without it. Neither resolves tags nor constructs objects.
LOADER: type = getattr(yaml, "CBaseLoader", yaml.BaseLoader)

#: Blocks and lists may nest this deep.
MAX_DEPTH = 100

#: Nodes that aliases may add to those that are written out.
MAX_ALIASED = 100_000

#: What is longer is text and no number; Python refuses integers of more than 4300 digits.
MAX_DIGITS = 400

_MERGE_KEY = "<<"
_TEXT_TAG = "tag:yaml.org,2002:str"
_NEEDLESS_TAGS = (None, _TEXT_TAG, "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map")
_INTEGER = re.compile(r"[-+]?[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL: Mapping[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_VARIABLE = re.compile(r"\$\$|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|\$\{")


@dataclass(slots=True, eq=False)
class Node:
    """One node of the file. An alias is no node; what it stands for appears in several places."""

    kind: Literal["scalar", "list", "mapping"]
    tag: str | None
    line: int
    column: int
    items: list[Node]
    """Of a list its items; of a mapping its keys and values in turn."""
    text: str = ""
    plain: bool = False
    """Whether a scalar stands without quotes, so that it may be something else than text."""

    def pairs(self) -> Iterator[tuple[Node, Node]]:
        """Keys and values of a mapping."""
        return zip(self.items[::2], self.items[1::2], strict=True)


@dataclass(frozen=True)
class Document:
    """A YAML file as plain data."""

    file: Path
    data: object
    problems: tuple[Problem, ...]
    """What is wrong without the file being unreadable: repeated keys, tags, variables that are not set."""
    unset: frozenset[KeyPath]
    """Places whose value is not known because a variable has none."""
    root: Node | None = field(repr=False)

    def where(self, path: KeyPath, at: Literal["key", "value"] = "value") -> Where:
        """The place of a key or its value, or of the nearest block around it that is in the file."""
        key: Node | None = None
        value = self.root
        for index, part in enumerate(path):
            found = _child(value, part)
            if found is None:  # not in the file: point at what should have held it
                return self._mark(value if key is None else key)
            key, value = found
            if at == "key" and index == len(path) - 1 and key is not None:
                return self._mark(key)
        return self._mark(value)

    def _mark(self, node: Node | None) -> Where:
        return Where(self.file) if node is None else Where(self.file, node.line, node.column)


def read(
    file: Path, environ: Mapping[str, str], text_keys: frozenset[str] = frozenset(), loader: type = LOADER
) -> Document:
    """Read a YAML file.

    Args:
        file: the file, UTF-8.
        environ: what ``${NAME}`` in values is replaced from.
        text_keys: keys whose value is text even where it looks like a number (``triton: 26.10``).
        loader: PyYAML's loader.

    Raises:
        UsageError: the file cannot be read.
        SpecError: it is not YAML.
    """
    text = _text(file)
    try:
        root = _composed(text, loader, file)
    except yaml.MarkedYAMLError as error:
        raise _not_yaml(error, text, file) from None
    except yaml.reader.ReaderError as error:
        where = _where_at(text, int(error.position), file)
        raise _refusal(f"not YAML: the control character U+{int(error.character):04X}", where) from None
    converter = _Converter(file, environ, text_keys, budget=len(text) + MAX_ALIASED)
    data = None if root is None else converter.value(root, (), as_text=False)
    return Document(file, data, tuple(converter.problems), frozenset(converter.unset), root)


class _Converter:
    """Turns nodes into plain data and collects what is wrong on the way."""

    def __init__(self, file: Path, environ: Mapping[str, str], text_keys: frozenset[str], budget: int) -> None:
        self.problems: list[Problem] = []
        self.unset: set[KeyPath] = set()
        self._file = file
        self._environ = environ
        self._text_keys = text_keys
        self._budget = budget
        self._open: set[int] = set()  # ids of the collections that are being converted

    def value(self, node: Node, path: KeyPath, *, as_text: bool) -> object:
        # Without aliases there is at most one node for each character, so only aliases can use up the budget.
        self._budget -= 1
        if self._budget < 0:
            raise self._refuse(node, f"aliases make this file more than {MAX_ALIASED} values larger than it is")
        if node.tag not in _NEEDLESS_TAGS:
            self.problems.append(Problem(path, f"the tag {node.tag} means nothing here", "leave it out"))
        if node.kind == "scalar":
            return self._scalar(node, path, as_text)
        if id(node) in self._open:
            raise self._refuse(node, "an alias to the block that it stands in")
        self._open.add(id(node))
        try:
            if node.kind == "mapping":
                return self._mapping(node, path)
            return [self.value(item, (*path, index), as_text=False) for index, item in enumerate(node.items)]
        finally:
            self._open.remove(id(node))

    def _mapping(self, node: Node, path: KeyPath) -> dict[str, object]:
        own: dict[str, object] = {}
        merged: dict[str, object] = {}
        first_line: dict[str, int] = {}
        for key_node, value_node in node.pairs():
            if key_node.kind != "scalar":
                raise self._refuse(key_node, "a key must be text; this one is a list or a mapping")
            key = key_node.text
            if _is_merge(key_node):
                merged = {**self._merge(value_node, path), **merged}
                continue
            if key in own:
                message = f"already given at line {first_line[key]}"
                self.problems.append(Problem((*path, key), message, "keep one of the two", at="key"))
            first_line.setdefault(key, key_node.line)
            own[key] = self.value(value_node, (*path, key), as_text=key in self._text_keys)
        return {**merged, **own} if merged else own

    def _merge(self, node: Node, path: KeyPath) -> dict[str, object]:
        """What ``<<: *other`` or ``<<: [*one, *two]`` brings in; the first of several wins."""
        result: dict[str, object] = {}
        for source in node.items if node.kind == "list" else [node]:
            merged = self.value(source, path, as_text=False)
            if not isinstance(merged, dict):
                raise self._refuse(source, "<< merges mappings; this is something else")
            result = {**merged, **result}
        return result

    def _scalar(self, node: Node, path: KeyPath, as_text: bool) -> object:
        text = self._expanded(node.text, path) if "$" in node.text else node.text
        return resolved(text) if node.plain and (text in _SPECIAL or not as_text) else text

    def _expanded(self, text: str, path: KeyPath) -> str:
        def one(match: re.Match[str]) -> str:
            if match[0] == "$$":
                return "$"
            name, default = match["name"], match["default"]
            value = self._environ.get(name) if name else None
            if not value and default is not None:
                return str(default)
            if value is not None:
                return value
            if name:
                message = f"the environment variable {name} is not set"
                hint = f"set it, or give a default: ${{{name}:-default}}"
            else:
                message = "a variable is written ${NAME} or ${NAME:-default}"
                hint = "write $$ for a $ that is meant as such"
            self.problems.append(Problem(path, message, hint))
            self.unset.add(path)
            return match[0]

        return _VARIABLE.sub(one, text)

    def _refuse(self, node: Node, message: str) -> SpecError:
        return _refusal(message, Where(self._file, node.line, node.column))


def resolved(text: str) -> object:
    """What a scalar without quotes means in YAML 1.2: null, a boolean, a number, or text."""
    if text in _SPECIAL:
        return _SPECIAL[text]
    if text[0] in "-+.0123456789" and len(text) <= MAX_DIGITS:
        if _INTEGER.fullmatch(text):
            return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
    return text


def _child(node: Node | None, part: str | int) -> tuple[Node | None, Node] | None:
    """Key node (None in a list) and value node of one step into the file."""
    if node is None or (node.kind == "list") != isinstance(part, int):
        return None
    if isinstance(part, int):
        return (None, node.items[part]) if part < len(node.items) else None
    merged: list[Node] = []
    for key, value in reversed(list(node.pairs())):  # of a repeated key the last one counts
        if _is_merge(key):
            merged += value.items if value.kind == "list" else [value]
        elif key.text == part:
            return key, value
    return next((found for source in merged if (found := _child(source, part))), None)


def _is_merge(key: Node) -> bool:
    return key.text == _MERGE_KEY and key.plain


def _text(file: Path) -> str:
    try:
        raw = file.read_bytes()
    except FileNotFoundError:
        raise UsageError("no such spec", where=file, hint="write one with: tritonrepo init *.onnx") from None
    except OSError as error:
        raise UsageError(f"cannot read the spec: {error.strerror}", where=file) from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8", "replace")
        raise _refusal("not UTF-8", _where_at(before, len(before), file), "save the file as UTF-8") from None


def _composed(text: str, loader: type, file: Path) -> Node | None:
    """The tree of nodes, None for an empty file.

    PyYAML's own composer takes twice the time, and is recursive in C: deep nesting would overrun the stack.
    """
    anchors: dict[str, Node] = {}
    top: list[Node] = []
    open_lists = [top]  # the items of every collection that has begun and not ended
    event: Any
    for event in yaml.parse(text, loader):
        kind = type(event)
        if kind is yaml.SequenceEndEvent or kind is yaml.MappingEndEvent:
            open_lists.pop()
        elif kind is yaml.DocumentStartEvent and top:
            raise _refusal("a second document begins here", _place(event, file), "keep everything in one, without ---")
        elif kind is yaml.AliasEvent:
            if event.anchor not in anchors:
                raise _refusal(f"the alias *{event.anchor} has no anchor before it", _place(event, file))
            open_lists[-1].append(anchors[event.anchor])
        elif kind in _KINDS:
            node = _node(event)
            open_lists[-1].append(node)
            if event.anchor:
                anchors[event.anchor] = node
            if node.kind != "scalar":
                open_lists.append(node.items)
            if len(open_lists) > MAX_DEPTH:
                raise _refusal(f"nested more than {MAX_DEPTH} levels deep", _place(event, file))
    return top[0] if top else None


_KINDS: Mapping[type, Literal["scalar", "list", "mapping"]] = {
    yaml.ScalarEvent: "scalar",
    yaml.SequenceStartEvent: "list",
    yaml.MappingStartEvent: "mapping",
}


def _node(event: Any) -> Node:
    kind, mark = _KINDS[type(event)], event.start_mark
    if kind == "scalar":
        plain = event.style in (None, "") and event.tag != _TEXT_TAG
        return Node(kind, event.tag, mark.line + 1, mark.column + 1, [], event.value, plain)
    return Node(kind, event.tag, mark.line + 1, mark.column + 1, [])


def _place(event: Any, file: Path) -> Where:
    return Where(file, event.start_mark.line + 1, event.start_mark.column + 1)


#: Part of PyYAML's words -> what to do.
_SYNTAX_HINTS = {
    "mapping values are not allowed": "put quotes around a value that has a colon in it, or indent the line less",
    "could not find expected ':'": "a key needs a colon and a space behind it",
    "expected ',' or": "a comma is missing, or a bracket or brace is not closed",
    "cannot start any token": "put quotes around a value that starts with this character",
    "indicator": "the line's indentation differs from that of its neighbours",
    "block end": "the line's indentation differs from that of its neighbours",
    "expected key": "the line's indentation differs from that of its neighbours",
    "end of stream": "a quote, bracket or brace is not closed",
    "expected node content": "a quote, bracket or brace is not closed",
    "stream end": "a quote, bracket or brace is not closed",
}


def _not_yaml(error: yaml.MarkedYAMLError, text: str, file: Path) -> SpecError:
    problem = error.problem or "cannot be parsed"
    mark = error.problem_mark or error.context_mark
    if "expected ':'" in problem and error.context_mark:  # found out a line later
        mark = error.context_mark
    if mark is None:
        return _refusal(f"not YAML: {problem}", Where(file))
    line = "".join(text.split("\n")[mark.line : mark.line + 1])
    if re.match(r" *\t", line):
        where = Where(file, mark.line + 1, line.index("\t") + 1)
        return _refusal(f"a tab at line {mark.line + 1}; YAML is indented with spaces", where)
    hint = next((hint for words, hint in _SYNTAX_HINTS.items() if words in problem), None)
    if "expected ',' or" in problem and line[: mark.column].endswith("$"):
        hint = "between brackets or braces, put quotes around ${...}"
    if error.context_mark and error.context_mark.line != mark.line:
        problem += f" ({error.context} that begins at line {error.context_mark.line + 1})"
    return _refusal(f"not YAML: {problem}", Where(file, mark.line + 1, mark.column + 1), hint)


def _where_at(text: str, position: int, file: Path) -> Where:
    before = text[:position]
    return Where(file, before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1)


def _refusal(message: str, where: Where, hint: str | None = None) -> SpecError:
    return SpecError([Fault("", message, where, hint)], where=where)
