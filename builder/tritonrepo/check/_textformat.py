"""The server's reading of protobuf text: what it accepts, its first error, and where in the text everything stands.

This follows protobuf's C++ parser as Triton links it (21.12), which differs from Python's ``text_format`` in what it
accepts and in the places of its errors: bytes are counted, a tab goes to the next multiple of eight, an error stands
at the token that the parser had before it when it noticed, and a token's own fault comes before the parser's.

Places are worked out only when they are asked for. Tokens are in ``_textlex``, values in ``_textvalues``.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tritonrepo.check import _textlex
from tritonrepo.check._schema import ROOT, Field, MessageType, Schema, schema
from tritonrepo.check._textlex import END, FAULTY
from tritonrepo.check._textvalues import READERS, FaultError, expected, identifier, type_name

_CLOSING = {"{": "}", "<": ">"}

_Mark = int | tuple[int, int]
"""Index of a field's name among the tokens; for an element of ``[...]`` also that of the element's first token."""


@dataclass(frozen=True)
class SyntaxFault:
    """Why the server cannot read a text: its first error, in its own words."""

    message: str
    line: int
    """From 1, as the server prints it."""
    column: int
    """From 1, in bytes, with tab stops at each eighth column."""
    unknown: Unknown | None = None
    """The name at fault, where that is what is wrong."""
    trailing_comma: int | None = None
    """Offset of the comma after the last element of a list, where that is what is wrong."""


@dataclass(frozen=True)
class Unknown:
    """A name that the schema does not have."""

    name: str
    line: int
    """Where the name stands; the server notices a token later."""
    column: int
    offset: int
    """The same in bytes from the beginning."""
    known: tuple[str, ...]
    """The names that may stand there."""


def parse(text: bytes, types: Schema | None = None, root: str = ROOT) -> Document:
    """Read a config as the server does; an empty one is valid.

    Args:
        text: the file's bytes.
        types: the schema of the server's release; by default the newest.
        root: full name of the message type.
    """
    return Document(text, types or schema(), root)


class Document:
    """A text, read as far as the server reads it."""

    def __init__(self, text: bytes, types: Schema, root: str) -> None:
        self.types = types
        self._text = text.decode("latin-1")
        self._tokens = _textlex.split(self._text)
        self.root = Message(self, types.message(root), -1)
        """The message; with what stands before the error where there is one."""
        self.error: SyntaxFault | None = None
        try:
            _Parser(self, self._tokens).read(self.root)
        except FaultError as fault:
            self.error = self._fault(fault)

    def position(self, token: int) -> tuple[int, int]:
        """Line and column of a token, by its index; of the beginning of the text for -1."""
        return self._place(self._starts[token]) if token >= 0 else (1, 1)

    def _fault(self, fault: FaultError) -> SyntaxFault:
        """What to say of a fault; where a token cannot be read at all, that came first."""
        message, offset = fault.message, self._starts[fault.token]
        if self._tokens[fault.token] is FAULTY:
            message, offset = _textlex.fault(self._text, offset)
            return SyntaxFault(_printable(message), *self._place(offset))
        unknown = comma = None
        if fault.known:
            start = self._starts[fault.token - 1]
            unknown = Unknown(self._tokens[fault.token - 1], *self._place(start), start, fault.known)
        elif self._tokens[fault.token] == "]" and self._tokens[fault.token - 1] == ",":
            comma = self._starts[fault.token - 1]
        return SyntaxFault(_printable(message), *self._place(offset), unknown, comma)

    @cached_property
    def _starts(self) -> list[int]:
        """Offset of each token."""
        return _textlex.starts(self._text)

    @cached_property
    def _lines(self) -> list[int]:
        """Offset of each line."""
        return [0, *(match.end() for match in re.finditer("\n", self._text))]

    def _place(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset."""
        line = bisect_right(self._lines, offset)
        *before_tabs, rest = self._text[self._lines[line - 1] : offset].split("\t")
        column = 0
        for part in before_tabs:
            column += len(part)
            column += 8 - column % 8
        return line, column + len(rest) + 1


class Message:
    """A message of a document: what is written in it, and where.

    Values are int, float, bool, str, Message, and for an enum the name of its value (its number, an int, where the
    schema has no name for it). Bytes of a string that are not UTF-8, which the server accepts, become surrogates
    (``surrogateescape``).
    """

    __slots__ = ("_document", "_marks", "_token", "_values", "type")

    def __init__(self, document: Document, type_: MessageType, token: int) -> None:
        self._document = document
        self.type = type_
        """Its type in the schema."""
        self._token = token
        self._values: dict[str, Any] = {}
        self._marks: dict[str, list[_Mark]] = {}

    def __repr__(self) -> str:
        return f"<{self.kind} at {self.line}:{self.column} with {', '.join(self._values) or 'nothing'}>"

    @property
    def kind(self) -> str:
        """Full name of its type, ``inference.ModelInput``."""
        return self.type.name

    @property
    def line(self) -> int:
        """Line of its opening brace; 1 for the whole text."""
        return self._document.position(self._token)[0]

    @property
    def column(self) -> int:
        """Column of its opening brace; 1 for the whole text."""
        return self._document.position(self._token)[1]

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields that are written in it, in the order in which they first come."""
        return tuple(self._values)

    def has(self, name: str) -> bool:
        """Whether the field is written in it, be it with its default or as an empty list."""
        return name in self._values

    def get(self, name: str) -> Any:
        """The field's value, or the schema's default: ``0``, ``""``, ``False``, the first name, an empty message.

        A repeated field gives a tuple, as from `all`.

        Raises:
            KeyError: no release has such a field.
        """
        value = self._values.get(name)
        if value is None:
            return self.default(name)
        return tuple(value) if type(value) is list else value

    def default(self, name: str) -> Any:
        """What a field has that is not written: see `get`."""
        field = self._field(name)
        if field.repeated:
            return ()
        if field.message:
            return Message(self._document, field.message, self._token)
        return next(iter(field.enum.numbers)) if field.enum else _DEFAULTS[field.type]

    def all(self, name: str) -> tuple[Any, ...]:
        """The values of a repeated field; of a map, its entries, each a message with ``key`` and ``value``."""
        values = self._values.get(name)
        if type(values) is list:
            return tuple(values)
        if not self._field(name).repeated:
            raise ValueError(f"{name} of {self.kind} is not repeated")
        return ()

    def map(self, name: str) -> dict[Any, Any]:
        """A map field; of entries with the same key the last holds."""
        return {entry.get("key"): entry.get("value") for entry in self.all(name)}

    def one_of(self, name: str) -> str | None:
        """Name of the member of a oneof that is set."""
        return next((written for written in self._values if self.type.fields[written].oneof == name), None)

    def at(self, name: str, index: int = 0) -> tuple[int, int]:
        """Line and column of the field's name, or of an element of ``[...]``; of the message where the field is absent.

        The name stands for the first element of a list, too.
        """
        mark = self._mark(name, index)
        if isinstance(mark, tuple):
            return self._document.position(mark[1] if index else mark[0])
        return self._document.position(mark)

    def value_at(self, name: str, index: int = 0) -> tuple[int, int]:
        """Line and column of the field's value; of the message where the field is absent."""
        return self._document.position(self._value_token(self._mark(name, index)))

    def map_at(self, name: str, key: Any) -> tuple[int, int]:
        """Line and column of the key in the entry that holds for it; of the message where there is none."""
        entries: list[Message] = [entry for entry in self.all(name) if entry.get("key") == key]
        return entries[-1].value_at("key") if entries else (self.line, self.column)

    def _field(self, name: str) -> Field:
        """The field; one that the release lacks and a later one has is as if absent."""
        field = self.type.fields.get(name)
        return field or schema().message(self.kind).fields[name]

    def _mark(self, name: str, index: int) -> _Mark:
        marks = self._marks.get(name, ())
        return marks[index] if index < len(marks) else self._token

    def _value_token(self, mark: _Mark) -> int:
        if isinstance(mark, tuple):
            return mark[1]
        if mark == self._token:
            return mark
        return mark + 2 if self._document._tokens[mark + 1] == ":" else mark + 1


_DEFAULTS: Mapping[str, Any] = {
    "bool": False,
    "double": 0.0,
    "float": 0.0,
    "int32": 0,
    "int64": 0,
    "string": "",
    "uint32": 0,
    "uint64": 0,
}


class _Parser:
    """Reads messages from tokens. Methods take the index of their first token and return that of the one after them."""

    def __init__(self, document: Document, tokens: list[str]) -> None:
        self._document = document
        self._tokens = tokens

    def read(self, root: Message) -> None:
        """Read fields up to the end of the text."""
        token = 0
        while self._tokens[token] is not END:
            token = self._field(root, token)

    def _message(self, field: Field, token: int) -> tuple[Message, int]:
        assert field.message is not None  # noqa: S101  # for the type checker: only called for messages
        tokens = self._tokens
        closing = _CLOSING.get(tokens[token])
        if closing is None:
            raise expected("{", tokens, token)
        message = Message(self._document, field.message, token)
        token += 1
        while tokens[token] not in {"}", ">"}:
            token = self._field(message, token)
        if tokens[token] != closing:
            raise expected(closing, tokens, token)
        return message, token + 1

    def _field(self, message: Message, name_token: int) -> int:
        tokens = self._tokens
        name = tokens[name_token]
        field = message.type.fields.get(name)
        if field is None:
            raise self._no_field(message, name_token)
        token = name_token + 1
        if not field.repeated:
            _check_once(message, field, token, tokens)
        if tokens[token] == ":":
            token += 1
        elif field.type != "message":
            raise expected(":", tokens, token)
        if field.repeated and tokens[token] == "[":
            token = self._list(message, field, name_token, token + 1)
        else:
            value, token = self._value(field, token)
            _keep(message, field, value, name_token)
        return token + 1 if tokens[token] in {";", ","} else token

    def _list(self, message: Message, field: Field, name_token: int, token: int) -> int:
        tokens = self._tokens
        message._values.setdefault(field.name, [])
        message._marks.setdefault(field.name, [])
        if tokens[token] == "]":
            return token + 1
        while True:
            start = token
            value, token = self._value(field, token)
            _keep(message, field, value, (name_token, start))
            if tokens[token] == "]":
                return token + 1
            if tokens[token] != ",":
                raise expected(",", tokens, token)
            token += 1

    def _value(self, field: Field, token: int) -> tuple[Any, int]:
        if field.message:
            return self._message(field, token)
        return READERS[field.type](self._tokens, token, field)

    def _no_field(self, message: Message, token: int) -> FaultError:
        """The fault where a field's name ought to be and is not."""
        tokens = self._tokens
        if tokens[token] == "[":
            name, token = type_name(tokens, token + 1)
            if tokens[token] != "]":
                return expected("]", tokens, token)
            text = f'Extension "{name}" is not defined or is not an extension of "{message.kind}".'
            return FaultError(token + 1, text)
        name, token = identifier(tokens, token)
        return FaultError(token, f'Message type "{message.kind}" has no field named "{name}".', message.type.fields)


def _check_once(message: Message, field: Field, token: int, tokens: list[str]) -> None:
    """Refuse a second value: of the field itself, unless the first equals the default, or of its oneof."""
    name = field.name
    if name in message._values and (field.presence or _is_set(message._values[name], field)):
        raise FaultError(token, f'Non-repeated field "{name}" is specified multiple times.')
    if field.oneof:
        other = message.one_of(field.oneof)
        if other:
            text = f'Field "{name}" is specified along with field "{other}", another member of oneof "{field.oneof}".'
            raise FaultError(token, text)


def _is_set(value: Any, field: Field) -> bool:
    """Whether a scalar differs from its default; -0.0 does, in its bits."""
    if field.enum:
        return field.enum.numbers.get(value) != 0
    return bool(value) or str(value) == "-0.0"


def _keep(message: Message, field: Field, value: Any, mark: _Mark) -> None:
    if field.repeated:
        message._values.setdefault(field.name, []).append(value)
        message._marks.setdefault(field.name, []).append(mark)
    else:
        message._values[field.name] = value
        message._marks[field.name] = [mark]


def _printable(text: str) -> str:
    return text.encode("latin-1").decode("utf-8", "replace")
