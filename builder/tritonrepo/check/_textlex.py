"""The tokens of protobuf text, as the server's C++ tokenizer reads them, and why something is no token.

Text is handled as Latin-1: a character is a byte. One regular expression splits it, and takes everything from a token
that cannot be read for the last one; `fault` then says why.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_SKIPPED = r"[ \t\n\r\v\f]*(?:\#[^\n\0]*(?:\n|\Z)[ \t\n\r\v\f]*)*"
_ESCAPE = r"""\\(?:[abfnrtv\\?'"0-7]|x[0-9a-fA-F]|u[0-9a-fA-F]{4}|U00[01][0-9a-fA-F]{5})"""
_DECIMAL = r"(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|(?<![A-Za-z0-9_])\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_TOKENS = re.compile(
    rf"""(?:(
        [A-Za-z_][A-Za-z0-9_]*
      | [!$%&()*+,\-/:;<=>?@\[\\\]^`{{|}}~\x7f]
      | "[^"\\\n\0]*(?:{_ESCAPE}[^"\\\n\0]*)*"
      | '[^'\\\n\0]*(?:{_ESCAPE}[^'\\\n\0]*)*'
      | (?: 0[xX][0-9a-fA-F]+
          | 0[0-7]+
          | {_DECIMAL}
        )(?![A-Za-z0-9_.])
      | {_DECIMAL}[fF](?![A-Za-z_.])
      | \.(?![0-9])
    ){_SKIPPED}|[\s\S]+)""",
    re.VERBOSE,
)
_LEADING = re.compile(_SKIPPED, re.VERBOSE)

LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_")
DIGITS = frozenset("0123456789")
QUOTES = frozenset("\"'")
_OCTAL = frozenset("01234567")
_HEX = frozenset("0123456789abcdefABCDEF")

END = ""
"""The token at the end; no other has this text."""
FAULTY = "\0"
"""The token that cannot be read; no other has this text."""


def split(text: str) -> list[str]:
    """The tokens, and at the end `END`, or `FAULTY` for the first that cannot be read."""
    tokens = _TOKENS.split(text[_first(text) :])[1::2]
    if tokens and tokens[-1] is None:
        tokens[-1] = FAULTY
    else:
        tokens.append(END)
    return tokens


def starts(text: str) -> list[int]:
    """Offsets of the tokens that `split` gives."""
    matches = list(_TOKENS.finditer(text, _first(text)))
    offsets = [match.start() for match in matches]
    return offsets if matches and matches[-1][1] is None else [*offsets, len(text)]


def _first(text: str) -> int:
    """Offset of the first token."""
    match = _LEADING.match(text)
    assert match is not None  # noqa: S101  # for the type checker: it matches any text
    return match.end()


def fault(text: str, start: int) -> tuple[str, int]:
    """Why no token can be read at ``start``, and the offset where the server noticed."""
    text += "\0"  # what its reader sees at the end
    first = text[start]
    if first in QUOTES:
        return _string_fault(text, start)
    if first == "." and start and text[start - 1] in LETTERS | DIGITS:
        return "Need space between identifier and decimal point.", start
    if first in DIGITS or first == ".":
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
    elif text[start] == "0" and text[at] in DIGITS:
        at = _skip(text, at, _OCTAL)
        if text[at] in DIGITS:
            return "Numbers starting with leading zero must be in octal.", at
    else:
        at = _skip(text, start, DIGITS)
        if text[at] == ".":
            is_float = True
            at = _skip(text, at + 1, DIGITS)
        if text[at] in {"e", "E"}:
            is_float = True
            at += 2 if text[at + 1] in {"-", "+"} else 1
            if text[at] not in DIGITS:
                return '"e" must be followed by exponent.', at
            at = _skip(text, at, DIGITS)
        if text[at] in {"f", "F"}:
            is_float = True
            at += 1
    if text[at] in LETTERS:
        return "Need space between number and identifier.", at
    if is_float:
        return "Already saw decimal point or exponent; can't have another one.", at
    return "Hex and octal numbers must be integers.", at


def _skip(text: str, at: int, characters: frozenset[str]) -> int:
    while text[at] in characters:
        at += 1
    return at
