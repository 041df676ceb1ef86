"""The server's reading of protobuf text: what it accepts, its first error, and where in the text everything stands.

This follows protobuf's C++ parser as Triton links it (21.12), which differs from Python's ``text_format`` in what it
accepts and in the places of its errors: bytes are counted, a tab goes to the next multiple of eight, an error stands
at the token that the parser had before it when it noticed, and a token's own fault comes before the parser's.

One regular expression splits the text. Where it leaves a gap, the token that begins there is at fault, and
``_lexical_fault`` says why. Places are worked out only when they are asked for.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tritonrepo.check._schema import ROOT, Field, MessageType, Schema, schema

# Text is handled as Latin-1: a character is a byte.
_SKIPPED = r"[ \t\n\r\v\f]*(?:\#[^\n\0]*(?:\n|\Z)[ \t\n\r\v\f]*)*"
_ESCAPE = r"""\\(?:[abfnrtv\\?'"0-7]|x[0-9a-fA-F]|u[0-9a-fA-F]{4}|U00[01][0-9a-fA-F]{5})"""
_TOKENS = re.compile(
    rf"""(
        [A-Za-z_][A-Za-z0-9_]*
      | [!$%&()*+,\-/:;<=>?@\[\\\]^`{{|}}~\x7f]
      | "[^"\\\n\0]*(?:{_ESCAPE}[^"\\\n\0]*)*"
      | '[^'\\\n\0]*(?:{_ESCAPE}[^'\\\n\0]*)*'
      | (?: 0[xX][0-9a-fA-F]+
          | 0[0-7]+
          | (?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|(?<![A-Za-z0-9_])\.[0-9]+)(?:[eE][+-]?[0-9]+)?[fF]?
        )(?![A-Za-z0-9_.])
      | \.(?![0-9])
    ){_SKIPPED}""",
    re.VERBOSE,
)
_LEADING = re.compile(_SKIPPED, re.VERBOSE)

#: The text of the token at the end, and of one that cannot be read; no other token has either.
_END = ""
_FAULTY = "\0"

_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_")
_DIGITS = frozenset("0123456789")
_OCTAL = frozenset("01234567")
_HEX = frozenset("0123456789abcdefABCDEF")
_QUOTES = frozenset("\"'")
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


@dataclass(frozen=True)
class Unknown:
    """A name that the schema does not have."""

    name: str
    line: int
    """Where the name stands; the server notices a token later."""
    column: int
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
        self._tokens = _split(self._text)
        self.root = Message(self, types.message(root), -1)
        """The message; with what stands before the error where there is one."""
        self.error: SyntaxFault | None = None
        try:
            _Parser(self, self._tokens).read(self.root)
        except _FaultError as fault:
            self.error = self._fault(fault)

    def position(self, token: int) -> tuple[int, int]:
        """Line and column of a token, by its index; of the beginning of the text for -1."""
        return self._place(self._starts[token]) if token >= 0 else (1, 1)

    def _fault(self, fault: _FaultError) -> SyntaxFault:
        """What to say of a fault; where a token cannot be read at all, that came first."""
        message, offset = fault.message, self._starts[fault.token]
        if self._tokens[fault.token] is _FAULTY:
            message, offset = _lexical_fault(self._text, offset)
            return SyntaxFault(_printable(message), *self._place(offset))
        unknown = None
        if fault.known:
            unknown = Unknown(self._tokens[fault.token - 1], *self.position(fault.token - 1), fault.known)
        return SyntaxFault(_printable(message), *self._place(offset), unknown)

    @cached_property
    def _starts(self) -> list[int]:
        """Offset of each token."""
        end = _LEADING.match(self._text).end()  # type: ignore[union-attr]  # it matches everything
        starts = []
        for match, _ in zip(_TOKENS.finditer(self._text, end), self._tokens[:-1], strict=False):
            starts.append(match.start())
            end = match.end()
        return [*starts, end]

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
        if name in self._values and not self.type.fields[name].repeated:
            return self._values[name]
        return self.all(name) if self._field(name).repeated else self.default(name)

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
        if not self._field(name).repeated:
            raise ValueError(f"{name} of {self.kind} is not repeated")
        return tuple(self._values.get(name, ()))

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


class _FaultError(Exception):
    """The parser stops before a token."""

    def __init__(self, token: int, message: str, known: Iterable[str] = ()) -> None:
        self.token = token
        self.message = message
        self.known = tuple(known)
        """The names that the one before the token could have been."""


def _split(text: str) -> list[str]:
    """The tokens, and at the end `_END`, or `_FAULTY` for the first that cannot be read."""
    leading = _LEADING.match(text)
    parts = _TOKENS.split(text[leading.end() :] if leading else text)
    tokens, gaps = parts[1::2], parts[::2]
    if not any(gaps):
        return [*tokens, _END]
    return [*tokens[: next(index for index, gap in enumerate(gaps) if gap)], _FAULTY]


class _Parser:
    """Reads messages from tokens. Methods take the index of the token before them and return that of the next."""

    def __init__(self, document: Document, tokens: list[str]) -> None:
        self._document = document
        self._tokens = tokens

    def read(self, root: Message) -> None:
        """Read fields up to the end of the text."""
        token = 0
        while self._tokens[token] is not _END:
            token = self._field(root, token)

    def _message(self, field: Field, token: int) -> tuple[Message, int]:
        assert field.message is not None  # noqa: S101  # for the type checker: only called for messages
        tokens = self._tokens
        closing = _CLOSING.get(tokens[token])
        if closing is None:
            raise _expected("{", tokens, token)
        message = Message(self._document, field.message, token)
        token += 1
        while tokens[token] not in {"}", ">"}:
            token = self._field(message, token)
        if tokens[token] != closing:
            raise _expected(closing, tokens, token)
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
            raise _expected(":", tokens, token)
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
                raise _expected(",", tokens, token)
            token += 1

    def _value(self, field: Field, token: int) -> tuple[Any, int]:
        if field.message:
            return self._message(field, token)
        return _READERS[field.type](self._tokens, token, field)

    def _no_field(self, message: Message, token: int) -> _FaultError:
        """The fault where a field's name ought to be and is not."""
        tokens = self._tokens
        if tokens[token] == "[":
            name, token = _type_name(tokens, token + 1)
            if tokens[token] != "]":
                return _expected("]", tokens, token)
            text = f'Extension "{name}" is not defined or is not an extension of "{message.kind}".'
            return _FaultError(token + 1, text)
        name, token = _identifier(tokens, token)
        return _FaultError(token, f'Message type "{message.kind}" has no field named "{name}".', message.type.fields)


def _check_once(message: Message, field: Field, token: int, tokens: list[str]) -> None:
    """Refuse a second value: of the field itself, unless the first equals the default, or of its oneof."""
    name = field.name
    if name in message._values and (field.presence or _is_set(message._values[name], field)):
        raise _FaultError(token, f'Non-repeated field "{name}" is specified multiple times.')
    if field.oneof:
        other = message.one_of(field.oneof)
        if other:
            text = f'Field "{name}" is specified along with field "{other}", another member of oneof "{field.oneof}".'
            raise _FaultError(token, text)


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


def _expected(wanted: str, tokens: list[str], token: int) -> _FaultError:
    return _FaultError(token, f'Expected "{wanted}", found "{tokens[token]}".')


def _identifier(tokens: list[str], token: int) -> tuple[str, int]:
    text = tokens[token]
    if text[:1] not in _LETTERS:
        raise _FaultError(token, f"Expected identifier, got: {text}")
    return text, token + 1


def _type_name(tokens: list[str], token: int) -> tuple[str, int]:
    """Read ``a.b.c``."""
    name, token = _identifier(tokens, token)
    while tokens[token] == ".":
        part, token = _identifier(tokens, token + 1)
        name += "." + part
    return name, token


def _string(tokens: list[str], token: int, field: Field) -> tuple[str, int]:
    """Read one string or several in a row, which are one."""
    start = token
    while tokens[token][:1] in _QUOTES:
        token += 1
    if token == start:
        raise _FaultError(token, f"Expected string, got: {tokens[token]}")
    text = "".join([part[1:-1] for part in tokens[start:token]])
    if "\\" in text:
        # Each part by itself: an escape does not reach into the next.
        text = "".join([_ESCAPES.sub(_unescaped, part[1:-1]) for part in tokens[start:token]])
    return text if text.isascii() else text.encode("latin-1").decode("utf-8", "surrogateescape"), token


def _unsigned(tokens: list[str], token: int, limit: int) -> int:
    text = tokens[token]
    if text[:1] not in _DIGITS:
        raise _FaultError(token, f"Expected integer, got: {text}")
    if text[:2] in {"0x", "0X"}:
        value = int(text, 16)
    elif not text.isdigit():
        raise _FaultError(token, f"Expected integer, got: {text}")
    elif text[0] == "0":
        value = int(text, 8)
    else:
        # Python refuses to convert very long numbers.
        value = int(text) if len(text) <= 20 else limit + 1
    if value > limit:
        raise _FaultError(token, f"Integer out of range ({text})")
    return value


def _signed(limit: int) -> Callable[[list[str], int, Field | None], tuple[int, int]]:
    def read(tokens: list[str], token: int, field: Field | None) -> tuple[int, int]:
        if tokens[token] == "-":
            return -_unsigned(tokens, token + 1, limit + 1), token + 2
        return _unsigned(tokens, token, limit), token + 1

    return read


def _natural(limit: int) -> Callable[[list[str], int, Field], tuple[int, int]]:
    return lambda tokens, token, field: (_unsigned(tokens, token, limit), token + 1)


def _bool(tokens: list[str], token: int, field: Field) -> tuple[bool, int]:
    text = tokens[token]
    if text in _BOOLS:
        return _BOOLS[text], token + 1
    if _is_integer(text):
        return bool(_unsigned(tokens, token, 1)), token + 1
    value, token = _identifier(tokens, token)
    raise _FaultError(token, f'Invalid value for boolean field "{field.name}". Value: "{value}".')


def _enum(tokens: list[str], token: int, field: Field) -> tuple[str | int, int]:
    """Read a name, or a number, which need not have a name."""
    assert field.enum is not None  # noqa: S101  # for the type checker: only called for enums
    text = tokens[token]
    if text in field.enum.numbers:
        return text, token + 1
    if text[:1] in _LETTERS:
        reason = f'Unknown enumeration value of "{text}" for field "{field.name}".'
        raise _FaultError(token + 1, reason, field.enum.numbers)
    if text != "-" and not _is_integer(text):
        raise _FaultError(token, f"Expected integer or identifier, got: {text}")
    number, token = _signed(2**31 - 1)(tokens, token, None)
    return field.enum.names.get(number, number), token


def _double(tokens: list[str], token: int, field: Field) -> tuple[float, int]:
    """Read a decimal number, whole or not, ``inf``, ``infinity`` or ``nan``."""
    sign = 1.0
    if tokens[token] == "-":
        sign = -1.0
        token += 1
    text = tokens[token]
    if _is_integer(text):
        if len(text) > 1 and text[0] == "0":
            raise _FaultError(token, f"Expect a decimal number, got: {text}")
        value = float(text)
    elif text[:1] in _DIGITS or (text[:1] == "." and text != "."):
        value = float(text.rstrip("fF"))
    elif text.lower() in _SPECIAL:
        value = _SPECIAL[text.lower()]
    else:
        raise _FaultError(token, f"Expected double, got: {text.lower() if text[:1] in _LETTERS else text}")
    return sign * value, token + 1


def _float(tokens: list[str], token: int, field: Field) -> tuple[float, int]:
    value, token = _double(tokens, token, field)
    try:
        return struct.unpack("f", struct.pack("f", value))[0], token
    except OverflowError:
        return value * float("inf"), token


def _is_integer(text: str) -> bool:
    return text.isdigit() or text[:2] in {"0x", "0X"}


_BOOLS = {"true": True, "True": True, "t": True, "false": False, "False": False, "f": False}
_SPECIAL = {"inf": float("inf"), "infinity": float("inf"), "nan": float("nan")}
_READERS: Mapping[str, Callable[[list[str], int, Any], tuple[Any, int]]] = {
    "bool": _bool,
    "double": _double,
    "enum": _enum,
    "float": _float,
    "int32": _signed(2**31 - 1),
    "int64": _signed(2**63 - 1),
    "string": _string,
    "uint32": _natural(2**32 - 1),
    "uint64": _natural(2**64 - 1),
}

_ESCAPES = re.compile(
    r"\\(?:([0-7]{1,3})|x([0-9a-fA-F]{1,2})"
    r"|(?:u([dD][89abAB][0-9a-fA-F]{2})|U0000([dD][89abAB][0-9a-fA-F]{2}))\\u([dD][c-fC-F][0-9a-fA-F]{2})"
    r"|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))",
    re.DOTALL,
)
_SIMPLE = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def _unescaped(match: re.Match[str]) -> str:
    """The bytes of an escape, as Latin-1."""
    octal, byte, head4, head8, trail, short, long, simple = match.groups()
    if simple:
        return _SIMPLE.get(simple, simple)
    if octal:
        return chr(int(octal, 8) & 0xFF)
    if byte:
        return chr(int(byte, 16))
    code = int(short or long or head4 or head8, 16)
    if trail:
        code = 0x10000 + ((code - 0xD800) << 10) + int(trail, 16) - 0xDC00
    if code > 0x10FFFF:
        return f"\\U{code:08x}"
    return chr(code).encode("utf-8", "surrogatepass").decode("latin-1")


def _printable(text: str) -> str:
    return text.encode("latin-1").decode("utf-8", "replace")


def _lexical_fault(text: str, start: int) -> tuple[str, int]:
    """Why no token can be read at ``start``, and the offset where the server noticed."""
    text += "\0"  # what its reader sees at the end
    first = text[start]
    if first in _QUOTES:
        return _string_fault(text, start)
    if first == "." and start and text[start - 1] in _LETTERS | _DIGITS:
        return "Need space between identifier and decimal point.", start
    if first in _DIGITS or first == ".":
        return _number_fault(text, start)
    if first >= "\x80":
        return f"Interpreting non ascii codepoint {ord(first)}.", start
    # A comment ends before a NUL.
    return _CONTROL, text.index("\0", start) if first == "#" else start


_CONTROL = "Invalid control characters encountered in text."


def _string_fault(text: str, start: int) -> tuple[str, int]:
    at = start + 1
    while text[at] not in {"\0", "\n"}:
        if text[at] != "\\":
            at += 1
            continue
        at += 1
        reason, at = _escape_fault(text, at)
        if reason:
            return reason, at
    if text[at] == "\n":
        return "String literals cannot cross line boundaries.", at
    return "Unexpected end of string.", at


def _escape_fault(text: str, at: int) -> tuple[str, int]:
    """Read what follows a backslash: the fault, if any, and where it was noticed; else where to go on."""
    key = text[at]
    if key in "abfnrtv\\?'\"01234567":
        return "", at + 1
    wanted, reason = _LONG_ESCAPES.get(key, ((), "Invalid escape sequence in string literal."))
    if not wanted:
        return reason, at
    at += 1
    for characters in wanted:
        if text[at] not in characters:
            return reason, at
        at += 1
    return "", at


_LONG_ESCAPES: Mapping[str, tuple[tuple[frozenset[str], ...], str]] = {
    "x": ((_HEX,), "Expected hex digits for escape sequence."),
    "u": ((_HEX,) * 4, "Expected four hex digits for \\u escape sequence."),
    "U": (
        (frozenset("0"), frozenset("0"), frozenset("01"), *(_HEX,) * 5),
        "Expected eight hex digits up to 10ffff for \\U escape sequence",
    ),
}


def _number_fault(text: str, start: int) -> tuple[str, int]:
    at = start + 1
    is_float = False
    if text[start] == "0" and text[at] in {"x", "X"}:
        at = _skip(text, at + 1, _HEX)
        if at == start + 2:
            return '"0x" must be followed by hex digits.', at
    elif text[start] == "0" and text[at] in _DIGITS:
        at = _skip(text, at, _OCTAL)
        if text[at] in _DIGITS:
            return "Numbers starting with leading zero must be in octal.", at
    else:
        at = _skip(text, start, _DIGITS)
        if text[at] == ".":
            is_float = True
            at = _skip(text, at + 1, _DIGITS)
        if text[at] in {"e", "E"}:
            is_float = True
            at += 2 if text[at + 1] in {"-", "+"} else 1
            if text[at] not in _DIGITS:
                return '"e" must be followed by exponent.', at
            at = _skip(text, at, _DIGITS)
        if text[at] in {"f", "F"}:
            is_float = True
            at += 1
    if text[at] in _LETTERS:
        return "Need space between number and identifier.", at
    if is_float:
        return "Already saw decimal point or exponent; can't have another one.", at
    return "Hex and octal numbers must be integers.", at


def _skip(text: str, at: int, characters: frozenset[str]) -> int:
    while text[at] in characters:
        at += 1
    return at
