"""Configs at random, right ones and wrong ones, to ask the server about."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence

from tritonrepo.check._schema import ROOT, Field, MessageType, Schema


def _words(*lines: str) -> list[str]:
    return " ".join(lines).split(" ")


_PLAIN_INTEGERS = _words("0 1 2 8 -1 0x10")
_INTEGERS = [
    *_PLAIN_INTEGERS,
    *_words(
        "3 16 100 0X1f 010 00 -0 -8 2147483647 2147483648 -2147483648 -2147483649 4294967295 4294967296",
        "9223372036854775807 9223372036854775808 -9223372036854775808 -9223372036854775809",
        "18446744073709551615 18446744073709551616 0xffffffffffffffff 0x10000000000000000",
        "01777777777777777777777 02000000000000000000000 111111111111111111111111111111",
    ),
    "- 1",
    "-\n5",
    "- #c\n7",
]
_FLOATS = [
    *_words(
        "0 1 8 -1 0.5 .5 5. 1e3 1E-3 1e+3 1.5f 1F 3.4e38 3.5e38 1e39 1e400 1e-46 -0.0 -0 0.1 16777217 0.1f",
        "1.e5 .5e1f 010 1ef inf -inf INF Infinity -infinity nan -nan NaN 18446744073709551616",
    ),
    "9" * 400,
]
_BOOLS = _words("true false True False t f 1 0 01 00 0x1 0x0 0X0 true false")
_WEIRD = _words(
    "+8 08 09 0b1 0o7 0x 0xg 1.0 1.5.2 1..2 1_0 5a 4name 1e 1e+ 1e-x 0x1.5 01.5 0.5. 1f 1ff 1f16 .5 . .. ... a.5 a .5",
    "'a'.5 a.b a-b TRUE FALSE T F yes on null 2 -1 --1 - + 'x' \"x\" \"\" '' inf nan inff 99 -5 _x __ A9",
    "TYPE_FP32 KIND_CPU type_fp32 { } < > [ ] ( ) : ; , :: {} <> [] [a] [a.b] [a.b/c] [ [1] [1,] [,1] [1;2]",
    "/ // /* */ * # #c\n ! $ % & = ? @ \\ ^ ` | ~",
    "\x7f \x01 \x00 \x1f \x80 \xc3\xa9 \xef\xbb\xbf \xff \t \r \v \f \n \r\n",
    '"a\nb" "a \'a "a\x00b" "a\tb" "\\\n" 1\x002 #\x00\n #\xff\n',
)
_PLAIN_PIECES = _words(r"a b name x/y a:0 é \n \x41 \u00e9 \101 \\ { #")
_PIECES = [
    *_PLAIN_PIECES,
    *_words(
        r"\t \' \" \? \a\b\f\r\v \0 \1 \12 \123 \1234 \777 \400 \8 \x4 \x414 \x \xg \X41 \u12 \u123g \u \U",
        r"\ud83d\ude00 \ud83d \ude00 \ud83dx \ud83d\u0041 \U0001f600 \U00110000 \U001fffff \U00200000 \UFFFFFFFF",
        r"\U0000d83d\ude00 \U0001f60 \U00g \U1 \q \- ' } %s \u0000 \x00 \xff \xc3\xa9 \xc3 \udfff",
    ),
    "\\ ",
    "",
]
_RAW = [b"\x80", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"\t", b"\r", b"\x01", b"\x7f"]
_SPACES = [*_words("  \n \n\n \t \r\n \v\f"), " ", " ", " ", " \t", "# note: x {\n", " #\n  ", "#'\n#\n"]


class Writer:
    """Writes configs at random: any field of the schema in any way of writing it, and here and there something odd.

    Args:
        seed: the same seed gives the same texts.
        odd: how often something odd is written instead of what the grammar wants.
    """

    def __init__(self, seed: int | str, odd: float, types: Schema) -> None:
        self._random = random.Random(seed)
        self._odd = odd
        self._types = types

    def config(self) -> bytes:
        """A config."""
        return self._space() + self._fields(self._types.message(ROOT), 0)

    def _is_odd(self) -> bool:
        return self._random.random() < self._odd

    def _one(self, choices: Sequence[str]) -> bytes:
        return self._random.choice(choices).encode("utf-8", "surrogateescape") if choices else b""

    def _weird(self) -> bytes:
        return self._random.choice(_WEIRD).encode("latin-1")

    def _space(self, wanted: bool = False) -> bytes:
        if self._is_odd():
            return self._weird()
        return self._one([" ", "\n", " # c\n"] if wanted else _SPACES)

    def _fields(self, type_: MessageType, depth: int) -> bytes:
        count = self._random.choice([0, 1, 1, 2, 3] if depth else [1, 2, 3, 4, 6])
        names = list(type_.fields)
        text = b""
        for _ in range(count):
            if not names:
                break
            field = type_.fields[self._random.choice(names)]
            text += self._field(field, depth) + self._space(wanted=True)
            if not field.repeated and self._random.random() < 0.97:
                # A second one would be refused, and so would another member of the same oneof.
                oneof = field.oneof or "none"
                names = [name for name in names if name != field.name and type_.fields[name].oneof != oneof]
        return text

    def _name(self, name: str) -> bytes:
        if not self._is_odd():
            return name.encode()
        odd = [name.upper(), name[:-1], name + "s", "4" + name, f"[{name}]", f'"{name}"', name.replace("_", "-")]
        return self._weird() if self._random.random() < 0.3 else self._one(odd)

    def _field(self, field: Field, depth: int) -> bytes:
        colon = b":" if field.type != "message" or self._random.random() < 0.3 else b""
        if self._is_odd():
            colon = self._random.choice([b"", b"::", b"=", b" ", b":"])
        text = self._name(field.name) + self._space() + colon + self._space()
        if field.repeated and self._random.random() < 0.4:
            values = [self._space() + self._value(field, depth) for _ in range(self._random.choice([0, 1, 2, 3]))]
            text += b"[" + b",".join(values) + self._space() + self._random.choice([b"]"] * 300 + [b",]", b"", b"}"])
        else:
            text += self._value(field, depth)
        return text + self._random.choice([b"", b"", b"", b"", b",", b";", b" ,", b",;" if self._is_odd() else b""])

    def _value(self, field: Field, depth: int) -> bytes:
        if self._is_odd():
            return self._weird()
        if field.message:
            opening, closing = self._random.choice([(b"{", b"}"), (b"{", b"}"), (b"<", b">")])
            if self._is_odd():
                closing = self._random.choice([b"}", b">", b"", b"]"])
            return opening + self._space() + self._fields(field.message, depth + 1) + closing
        return self._string() if field.type == "string" else self._one(self._scalars(field))

    def _scalars(self, field: Field) -> Sequence[str]:
        if field.enum and self._random.random() < 0.8:
            return list(field.enum.numbers)
        if field.type == "bool":
            return _BOOLS
        if field.type in {"float", "double"}:
            return _FLOATS
        return _INTEGERS if self._is_odd() or self._random.random() < 0.05 else _PLAIN_INTEGERS

    def _string(self) -> bytes:
        parts = []
        for _ in range(self._random.choice([1, 1, 1, 1, 2, 3])):
            quote = self._random.choice([b'"', b"'"])
            odd = self._is_odd() or self._random.random() < 0.1
            pieces = [self._one(_PIECES if odd else _PLAIN_PIECES) for _ in range(2)]
            if self._random.random() < 0.05:
                pieces.append(self._random.choice(_RAW))
            parts.append(quote + b"".join(pieces).replace(quote, b"" if not self._is_odd() else quote) + quote)
        return self._space().join(parts)


def mutant(text: bytes, seed: int | str) -> bytes:
    """The text with one to three tokens or bytes deleted, doubled, exchanged, replaced or put in."""
    chance = random.Random(seed)
    splitter = rb"(?s)." if chance.random() < 0.4 else rb"(?s)\w+|\s+|."
    pieces = re.findall(splitter, text)
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        at = chance.randrange(len(pieces) + 1)
        there = pieces[at : at + 1]
        new = chance.choice([*pieces, chance.choice(_WEIRD).encode("latin-1"), bytes([chance.randrange(256)])])
        end = min(len(pieces), at + chance.choice([1, 1, 1, 3]))
        pieces[at:end] = chance.choice([[], there * 2, [new], [new, *there], [*there, new], pieces[at:end][::-1]])
    return b"".join(pieces)


def texts(seed: int, count: int, types: Schema) -> Iterator[bytes]:
    """Texts at random: a third as they were written, the rest mutants of such."""
    for number in range(count):
        odd = (0.0, 0.0, 0.004, 0.02, 0.1)[number % 5]
        text = Writer(f"{seed}/{number}", odd, types).config()
        yield text if number % 3 == 0 else mutant(text, f"{seed}/{number}m")
