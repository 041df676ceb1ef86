"""Triton's ModelConfig schema: its protobuf classes, and the ways between them, plain mappings and text.

The schema is the one that tritonclient ships. It is loaded from its file, because importing ``tritonclient.grpc`` would
bring in grpc with it (a quarter of a second and several threads).
"""

from __future__ import annotations

import difflib
import importlib.machinery
import importlib.util
import json
import math
import re
import struct
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from tritonrepo.errors import Fault, ModelError, SpecError, Where

#: protobuf's classes are made at run time, so type checkers know nothing of them.
Message: TypeAlias = Any
FieldDescriptor: TypeAlias = Any
ModelConfig: TypeAlias = Any

#: What is wrong: the path (``instance_group[0].kind``), what, and what to write instead if that is known.
ConfigFault: TypeAlias = tuple[str, str, str | None]

_PUBLIC_NAME = "tritonclient.grpc.model_config_pb2"
_PRIVATE_NAME = "tritonrepo._tritonclient_model_config_pb2"


@lru_cache(maxsize=1)
def schema() -> ModuleType:
    """Give the module with ModelConfig, ModelInput, DataType and the other classes of Triton's model_config.proto.

    It may be loaded before or after ``tritonclient.grpc``: both register the same bytes with protobuf's default pool,
    which then holds them once.
    """
    if _PUBLIC_NAME in sys.modules:
        return sys.modules[_PUBLIC_NAME]
    package = importlib.util.find_spec("tritonclient")  # finds the top-level package without running it
    for folder in (package.submodule_search_locations if package else None) or ():
        file = Path(folder) / "grpc" / "model_config_pb2.py"
        if file.is_file():
            loader = importlib.machinery.SourceFileLoader(_PRIVATE_NAME, str(file))
            module = ModuleType(_PRIVATE_NAME)
            module.__file__ = str(file)
            loader.exec_module(module)
            return module
    raise ModelError(
        "Triton's ModelConfig schema is missing: there is no tritonclient/grpc/model_config_pb2.py in this environment",
        hint='install it with: pip install "tritonclient[grpc]"',
    )


def from_mapping(config: Mapping[str, object]) -> ModelConfig:
    """Make a ModelConfig from plain values under Triton's own names, as models.yaml's ``config`` gives them.

    Messages are mappings, repeated fields lists, protobuf maps mappings, enums their names (``KIND_GPU``).

    Raises:
        SpecError: with every fault in ``config``.
    """
    return merged(schema().ModelConfig(), config)


def merged(base: ModelConfig, config: Mapping[str, object]) -> ModelConfig:
    """Give a copy of ``base`` over which ``config`` is laid.

    A given number, text, switch or list takes the place of what was there; messages and maps are merged member by
    member; setting one member of a oneof clears the others.

    Raises:
        SpecError: with every fault in ``config``.
    """
    result = schema().ModelConfig()
    result.CopyFrom(base)
    faults: list[ConfigFault] = []
    _fill(result, config, "", faults)
    if faults:
        raise SpecError([Fault(path, message, hint=hint) for path, message, hint in faults])
    return result


def faults_in(config: Mapping[str, object]) -> list[ConfigFault]:
    """Give every fault of ``config`` as (path, message, hint or None), in the order of ``config``."""
    faults: list[ConfigFault] = []
    _fill(schema().ModelConfig(), config, "", faults)
    return faults


def parse(text: str, *, file: Path | str = "config.pbtxt") -> ModelConfig:
    """Read a config.pbtxt.

    Raises:
        ModelError: with ``file``, line and column, when the text does not fit the schema.
    """
    from google.protobuf import text_format

    try:
        return text_format.Parse(text, schema().ModelConfig())
    except text_format.ParseError as error:
        line, column = error.GetLine(), error.GetColumn()
        message = str(error).removeprefix(f"{line}:{column} : ")
        raise ModelError(message, where=Where(file, line, column)) from error


def is_repeated(field: FieldDescriptor) -> bool:
    """Say whether a field is repeated (maps are). protobuf 6 has a new word for it and warns about the old one."""
    if hasattr(field, "is_repeated"):
        return bool(field.is_repeated)
    return bool(field.label == field.LABEL_REPEATED)


def is_map(field: FieldDescriptor) -> bool:
    """Say whether a field is a protobuf map."""
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def present_fields(message: Message) -> list[tuple[FieldDescriptor, Any]]:
    """Give the fields of ``message`` that are set, with their values, in the schema's order of declaration."""
    present = {field.number: value for field, value in message.ListFields()}
    return [(field, present[field.number]) for field in message.DESCRIPTOR.fields if field.number in present]


def first_difference(want: Message, got: Message, path: str = "") -> str | None:
    """Give the path of the first field in which two messages of one type differ, None when they are equal.

    NaN equals NaN and 0.0 differs from -0.0, which protobuf's own ``==`` sees the other way round.
    """
    wants = {field.name: value for field, value in want.ListFields()}
    gots = {field.name: value for field, value in got.ListFields()}
    for field in want.DESCRIPTOR.fields:
        here = _member(path, field.name)
        if (field.name in wants) != (field.name in gots):
            return here
        if field.name in wants and (found := _field_difference(field, wants[field.name], gots[field.name], here)):
            return found
    return None


def _field_difference(field: FieldDescriptor, want: Any, got: Any, path: str) -> str | None:
    if is_map(field):
        value_field = field.message_type.fields_by_name["value"]
        for key in sorted(set(want) | set(got)):
            if (key in want) != (key in got):
                return _member(path, key)
            if found := _value_difference(value_field, want[key], got[key], _member(path, key)):
                return found
        return None
    if is_repeated(field):
        for index, (one, other) in enumerate(zip(want, got, strict=False)):
            if found := _value_difference(field, one, other, f"{path}[{index}]"):
                return found
        return None if len(want) == len(got) else f"{path}[{min(len(want), len(got))}]"
    return _value_difference(field, want, got, path)


def _value_difference(field: FieldDescriptor, want: Any, got: Any, path: str) -> str | None:
    if field.message_type is not None:
        return first_difference(want, got, path)
    if isinstance(want, float):
        same = math.isnan(want) if math.isnan(got) else (want, math.copysign(1, want)) == (got, math.copysign(1, got))
        return None if same else path
    return None if want == got else path


def _fill(message: Message, config: object, path: str, faults: list[ConfigFault]) -> None:
    """Lay ``config`` over ``message``; what does not fit is left out and added to ``faults``."""
    if not isinstance(config, Mapping):
        faults.append((path, f"expected a mapping, got {_shown(config)}", _mapping_hint(config)))
        return
    fields = message.DESCRIPTOR.fields_by_name
    chosen: dict[str, str] = {}
    for key, value in config.items():
        here = _member(path, key)
        if key not in fields:
            kind = message.DESCRIPTOR.name
            faults.append((here, f"{kind} has no field {_shown(key)}", _did_you_mean(key, fields)))
            continue
        field = fields[key]
        if field.containing_oneof is not None:
            other = chosen.setdefault(field.containing_oneof.name, key)
            if other != key:
                faults.append((here, f"{other} and {key} exclude each other", f"leave out {other} or {key}"))
                continue
        _fill_field(message, field, value, here, faults)


def _fill_field(message: Message, field: FieldDescriptor, value: object, path: str, faults: list[ConfigFault]) -> None:
    if is_map(field):
        _fill_map(getattr(message, field.name), field, value, path, faults)
    elif is_repeated(field):
        _fill_list(message, field, value, path, faults)
    elif field.message_type is not None:
        member = getattr(message, field.name)
        member.SetInParent()  # an empty mapping sets the field too, as `dynamic_batching { }` does
        _fill(member, value, path, faults)
    elif (plain := _plain(field, value, path, faults)) is not None:
        setattr(message, field.name, plain)


def _fill_list(message: Message, field: FieldDescriptor, value: object, path: str, faults: list[ConfigFault]) -> None:
    if not isinstance(value, list | tuple):
        hint = f"write [{_shown(value)}]" if isinstance(value, str | int | float) else None
        faults.append((path, f"expected a list, got {_shown(value)}", hint))
        return
    message.ClearField(field.name)
    target = getattr(message, field.name)
    for index, item in enumerate(value):
        here = f"{path}[{index}]"
        if field.message_type is not None:
            _fill(target.add(), item, here, faults)
        elif (plain := _plain(field, item, here, faults)) is not None:
            target.append(plain)


def _fill_map(target: Any, field: FieldDescriptor, value: object, path: str, faults: list[ConfigFault]) -> None:
    if not isinstance(value, Mapping):
        faults.append((path, f"expected a mapping, got {_shown(value)}", _mapping_hint(value)))
        return
    key_field, value_field = (field.message_type.fields_by_name[name] for name in ("key", "value"))
    for raw_key, item in value.items():
        here = _member(path, raw_key)
        key = _plain(key_field, raw_key, here, faults)
        if key is None:
            continue
        if value_field.message_type is not None:
            _fill(target[key], item, here, faults)
        elif (plain := _plain(value_field, item, here, faults)) is not None:
            target[key] = plain


def _plain(field: FieldDescriptor, value: object, path: str, faults: list[ConfigFault]) -> Any | None:
    """Give ``value`` as the field takes it, or None after adding a fault."""
    try:
        return _READERS[field.cpp_type](field, value)
    except _UnfitError as error:
        faults.append((path, error.message, error.hint))
        return None


class _UnfitError(Exception):
    def __init__(self, message: str, hint: str | None = None) -> None:
        self.message, self.hint = message, hint


def _read_enum(field: FieldDescriptor, value: object) -> int:
    names = field.enum_type.values_by_name
    if isinstance(value, str) and value in names:
        return int(names[value].number)
    hint = _did_you_mean(value, names)
    if isinstance(value, int) and not isinstance(value, bool) and value in field.enum_type.values_by_number:
        hint = f"write {field.enum_type.values_by_number[value].name}"
    raise _UnfitError(f"expected one of {', '.join(names)}, got {_shown(value)}", hint)


def _read_int(low: int, high: int) -> Callable[[FieldDescriptor, object], int]:
    def read(field: FieldDescriptor, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            digits = isinstance(value, str) and re.fullmatch(r"-?\d+", value)
            raise _UnfitError(
                f"expected a whole number, got {_shown(value)}", f"write {value} without quotes" if digits else None
            )
        if not low <= value <= high:
            raise _UnfitError(f"{value} is out of range: {low} to {high}")
        return value

    return read


def _read_float(field: FieldDescriptor, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _UnfitError(f"expected a number, got {_shown(value)}")
    bits = 32 if field.cpp_type == field.CPPTYPE_FLOAT else 64
    try:
        struct.pack("<f" if bits == 32 else "<d", value)
    except (OverflowError, struct.error):
        raise _UnfitError(f"{_shown(value)} is out of range for a {bits}-bit float") from None
    return float(value)


def _read_bool(field: FieldDescriptor, value: object) -> bool:
    if not isinstance(value, bool):
        raise _UnfitError(f"expected true or false, got {_shown(value)}")
    return value


def _read_text(field: FieldDescriptor, value: object) -> str:
    if not isinstance(value, str):
        quotable = isinstance(value, int | float)
        raise _UnfitError(f"expected text, got {_shown(value)}", f'write "{_shown(value)}"' if quotable else None)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _UnfitError(f"{value!a} is not valid Unicode text: it has half of a surrogate pair") from None
    return value


#: Reader by the number of protobuf's C++ type (FieldDescriptor.CPPTYPE_*), which never changes.
_READERS: Mapping[int, Callable[[FieldDescriptor, object], Any]] = {
    1: _read_int(-(2**31), 2**31 - 1),
    2: _read_int(-(2**63), 2**63 - 1),
    3: _read_int(0, 2**32 - 1),
    4: _read_int(0, 2**64 - 1),
    5: _read_float,
    6: _read_float,
    7: _read_bool,
    8: _read_enum,
    9: _read_text,
}


def _member(path: str, key: object) -> str:
    """Path of a member: ``a.b``, or ``a["b c"]`` where the name is no plain word."""
    if isinstance(key, str) and re.fullmatch(r"\w+", key):
        return f"{path}.{key}" if path else key
    return f"{path}[{_shown(key)}]"


def _shown(value: object) -> str:
    """A value as YAML would show it, cut short."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _mapping_hint(value: object) -> str | None:
    return "write {} to set it without any members" if value is None else None


def _did_you_mean(word: object, known: Iterable[str]) -> str | None:
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(str(word).lower(), names, n=1)
    if not close:  # KIND_GPU for gpu, TYPE_FP32 for fp32
        close = [name for name in names if name.endswith(f"_{str(word).lower()}")][:1]
    return f"did you mean {names[close[0]]}?" if close else None
