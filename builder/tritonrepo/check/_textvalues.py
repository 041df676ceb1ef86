"""The values of protobuf text: tokens -> a number, a string, a name, as the server's C++ parser reads them.

A reader takes the tokens, the index of the value's first one, and the field; it returns the value and the index of the
token after it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tritonrepo.check._schema import Field
from tritonrepo.check._textlex import DIGITS, LETTERS, QUOTES

Reader = Callable[[list[str], int, Field], tuple[Any, int]]


class FaultError(Exception):
    """The parser stops before a token."""

    def __init__(self, token: int, message: str, known: Iterable[str] = ()) -> None:
        self.token = token
        self.message = message
        self.known = tuple(known)
        """The names that the one before the token could have been."""


def expected(wanted: str, tokens: list[str], token: int) -> FaultError:
    """The fault where one certain token must stand and does not."""
    return FaultError(token, f'Expected "{wanted}", found "{tokens[token]}".')


def identifier(tokens: list[str], token: int) -> tuple[str, int]:
    """Read a name."""
    text = tokens[token]
    if text[:1] not in LETTERS:
        raise FaultError(token, f"Expected identifier, got: {text}")
    return text, token + 1


def type_name(tokens: list[str], token: int) -> tuple[str, int]:
    """Read ``a.b.c``."""
    name, token = identifier(tokens, token)
    while tokens[token] == ".":
        part, token = identifier(tokens, token + 1)
        name += "." + part
    return name, token


def _string(tokens: list[str], token: int, field: Field) -> tuple[str, int]:
    """Read one string or several in a row, which are one."""
    start = token
    while tokens[token][:1] in QUOTES:
        token += 1
    if token == start:
        raise FaultError(token, f"Expected string, got: {tokens[token]}")
    text = "".join([part[1:-1] for part in tokens[start:token]])
    if "\\" in text:
        # Each part by itself: an escape does not reach into the next.
        text = "".join([_ESCAPES.sub(_unescaped, part[1:-1]) for part in tokens[start:token]])
    return text if text.isascii() else text.encode("latin-1").decode("utf-8", "surrogateescape"), token


def _unsigned(tokens: list[str], token: int, limit: int) -> int:
    text = tokens[token]
    if text[:1] not in DIGITS:
        raise FaultError(token, f"Expected integer, got: {text}")
    if text[:2] in {"0x", "0X"}:
        value = int(text, 16)
    elif not text.isdigit():
        raise FaultError(token, f"Expected integer, got: {text}")
    elif text[0] == "0":
        value = int(text, 8)
    else:
        # Python refuses to convert very long numbers.
        value = int(text) if len(text) <= 20 else limit + 1
    if value > limit:
        raise FaultError(token, f"Integer out of range ({text})")
    return value


def _signed(limit: int) -> Reader:
    def read(tokens: list[str], token: int, field: Field) -> tuple[int, int]:
        if tokens[token] == "-":
            return -_unsigned(tokens, token + 1, limit + 1), token + 2
        return _unsigned(tokens, token, limit), token + 1

    return read


_int32 = _signed(2**31 - 1)


def _natural(limit: int) -> Reader:
    return lambda tokens, token, field: (_unsigned(tokens, token, limit), token + 1)


def _bool(tokens: list[str], token: int, field: Field) -> tuple[bool, int]:
    text = tokens[token]
    if text in _BOOLS:
        return _BOOLS[text], token + 1
    if _is_integer(text):
        return bool(_unsigned(tokens, token, 1)), token + 1
    value, token = identifier(tokens, token)
    raise FaultError(token, f'Invalid value for boolean field "{field.name}". Value: "{value}".')


def _enum(tokens: list[str], token: int, field: Field) -> tuple[str | int, int]:
    """Read a name, or a number, which need not have a name."""
    assert field.enum is not None  # noqa: S101  # for the type checker: only called for enums
    text = tokens[token]
    if text in field.enum.numbers:
        return text, token + 1
    if text[:1] in LETTERS:
        reason = f'Unknown enumeration value of "{text}" for field "{field.name}".'
        raise FaultError(token + 1, reason, field.enum.numbers)
    if text != "-" and not _is_integer(text):
        raise FaultError(token, f"Expected integer or identifier, got: {text}")
    number, token = _int32(tokens, token, field)
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
            raise FaultError(token, f"Expect a decimal number, got: {text}")
        value = float(text)
    elif text[:1] in DIGITS or (text[:1] == "." and text != "."):
        value = float(text.rstrip("fF"))
    elif text.lower() in _SPECIAL:
        value = _SPECIAL[text.lower()]
    else:
        raise FaultError(token, f"Expected double, got: {text.lower() if text[:1] in LETTERS else text}")
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
READERS: Mapping[str, Reader] = {
    "bool": _bool,
    "double": _double,
    "enum": _enum,
    "float": _float,
    "int32": _int32,
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
