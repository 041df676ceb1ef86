"""The ModelConfig message as each server release knows it, without protobuf.

``model_config.schema`` beside this module holds every field and every enum value that a release has had, each with the
release it came with and the one it went with; ``scripts/schema_tables.py`` writes it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType

PACKAGE = "inference."
ROOT = PACKAGE + "ModelConfig"

_RELEASE = re.compile(r"([0-9]{2})\.(0[1-9]|1[0-2])")
_TABLE = Path(__file__).with_name("model_config.schema")


@dataclass(frozen=True, slots=True)
class Enum:
    """An enum type."""

    name: str
    """Full name, ``inference.DataType``."""
    numbers: Mapping[str, int]
    """Number by name, in the order of the schema; the first is the default."""
    names: Mapping[int, str]
    """Name by number."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a message type."""

    name: str
    number: int
    type: str
    """``message``, ``enum``, or the name of a scalar type: ``string``, ``bool``, ``int32``, ``float`` ..."""
    repeated: bool = False
    """Whether it may come several times; maps are repeated, too."""
    map: bool = False
    """Whether it is a map; ``message`` then is the type of its entries, with the fields ``key`` and ``value``."""
    oneof: str | None = None
    presence: bool = False
    """Whether a value that equals the default counts as set: messages, members of a oneof, and both halves of a map."""
    message: MessageType | None = None
    enum: Enum | None = None


@dataclass(frozen=True, slots=True)
class MessageType:
    """A message type."""

    name: str
    """Full name, ``inference.ModelInput``."""
    fields: dict[str, Field] = field(default_factory=dict)
    """Filled while the schema is read; not to be changed."""

    @property
    def oneofs(self) -> tuple[str, ...]:
        """Names of its oneofs."""
        return tuple(dict.fromkeys(one.oneof for one in self.fields.values() if one.oneof))


@dataclass(frozen=True, slots=True)
class Schema:
    """All types of one server release."""

    release: str
    """The release asked for, ``24.10``."""
    exact: bool
    """Whether the tables know this release; else it is newer, and the schema is that of the newest known one."""
    messages: Mapping[str, MessageType]
    enums: Mapping[str, Enum]

    def message(self, name: str) -> MessageType:
        """The message type of this full name."""
        return self.messages[name]


def releases() -> tuple[str, ...]:
    """Every server release that the tables know, oldest first."""
    return _table()[0]


@cache
def schema(release: str | None = None) -> Schema:
    """The schema of a server release, such as ``24.10``; by default the newest.

    For a release newer than all that are known the schema is the newest, and not ``exact``.

    Raises:
        ValueError: this is not a release, or one older than the oldest known.
    """
    known = releases()
    wanted = known[-1] if release is None else release
    if _key(wanted) < _key(known[0]):
        raise ValueError(f"no schema for release {wanted}: the oldest known is {known[0]}")
    base = max((one for one in known if _key(one) <= _key(wanted)), key=_key)
    return Schema(wanted, _key(wanted) <= _key(known[-1]), *_tables(base))


@cache
def _table() -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """The known releases, and the rows of the table, split into words."""
    rows = [line.split() for line in _TABLE.read_text(encoding="ascii").splitlines() if line and line[0] != "#"]
    return tuple(rows[0][1:]), tuple(tuple(row) for row in rows[1:])


def _key(release: str) -> tuple[int, int]:
    match = _RELEASE.fullmatch(release)
    if not match:
        raise ValueError(f"{release!r} is no server release; one is named like 24.10")
    return int(match[1]), int(match[2])


def _held(span: str, release: tuple[int, int]) -> bool:
    """Whether a span, ``from-`` or ``from-until``, holds a release; ``until`` is the first release without."""
    since, _, until = span.partition("-")
    return (not since or _key(since) <= release) and (not until or release < _key(until))


@cache
def _tables(release: str) -> tuple[Mapping[str, MessageType], Mapping[str, Enum]]:
    """Read the rows that hold for a release; row kinds: ``message``, ``enum``, ``field`` and ``value``."""
    key = _key(release)
    rows = [row for row in _table()[1] if row[-1][0] != "@" or _held(row[-1][1:], key)]
    messages = {PACKAGE + row[1]: MessageType(PACKAGE + row[1]) for row in rows if row[0] == "message"}
    numbers: dict[str, dict[str, int]] = {}
    for row in rows:
        if row[0] == "enum":
            numbers[PACKAGE + row[1]] = values = {}
        elif row[0] == "value":
            values[row[1]] = int(row[2])
    enums = {
        name: Enum(name, MappingProxyType(values), MappingProxyType({number: key for key, number in values.items()}))
        for name, values in numbers.items()
    }
    owner: MessageType
    for row in rows:
        if row[0] == "message":
            owner = messages[PACKAGE + row[1]]
        elif row[0] == "field":
            owner.fields[row[1]] = _field(row, owner, messages, enums)
    return MappingProxyType(messages), MappingProxyType(enums)


def _field(
    row: tuple[str, ...], owner: MessageType, messages: Mapping[str, MessageType], enums: Mapping[str, Enum]
) -> Field:
    """Read ``field NAME NUMBER TYPE [repeated | oneof=NAME] [@span]``; a map's type is ``map<KEY,VALUE>``."""
    _, name, number, type_name, *rest = row
    repeated = "repeated" in rest
    oneof = next((word[6:] for word in rest if word.startswith("oneof=")), None)
    if type_name.startswith("map<"):
        key, _, value = type_name[4:-1].partition(",")
        entry = MessageType(f"{owner.name}.{name.title().replace('_', '')}Entry")
        entry.fields["key"] = Field("key", 1, key, presence=True)
        entry.fields["value"] = _typed("value", 2, value, messages, enums, presence=True)
        return Field(name, int(number), "message", repeated=True, map=True, presence=True, message=entry)
    return _typed(name, int(number), type_name, messages, enums, repeated=repeated, oneof=oneof)


def _typed(
    name: str,
    number: int,
    type_name: str,
    messages: Mapping[str, MessageType],
    enums: Mapping[str, Enum],
    repeated: bool = False,
    oneof: str | None = None,
    presence: bool = False,
) -> Field:
    message, enum = messages.get(PACKAGE + type_name), enums.get(PACKAGE + type_name)
    kind = "message" if message else "enum" if enum else type_name
    return Field(name, number, kind, repeated, False, oneof, presence or bool(message) or bool(oneof), message, enum)
