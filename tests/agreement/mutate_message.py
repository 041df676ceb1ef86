"""Changes to a parsed config, each at random."""

from __future__ import annotations

import random
import warnings
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from hashlib import sha256
from operator import itemgetter
from typing import Any

from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from tritonclient.grpc import model_config_pb2

_NAMES = (
    "x", "y", "z", "i0", "o0", "a", "b", "one", "two", "m", "ens", "si", "so", "START", "READY", "w", "data",
    "labels.txt", "model.onnx", "model.plan", "model.py", "onnxruntime", "tensorrt", "identity", "python", "ensemble",
    "onnxruntime_onnx", "tensorrt_plan", "", " ", "0", "1", "-1", "2", "9.0", "7.5", "nothing", "größe", "a b", "_a",
    "a.b", "../m", "/m", ".", "libtriton_identity.so", "yes", "no", "99999999999", "TRITON_BATCH_STRATEGY_PATH",
)  # fmt: skip
_INTEGERS = (
    -(2**63), -(2**31), -100, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 64, 100, 1000, 2**31 - 1, 2**32 - 1, 2**40,
    2**63 - 1, 2**64 - 1,
)  # fmt: skip
_FLOATS = (0.0, 0.5, 1.0, -0.0, -0.5, 1.5, 1e-30, 1e30, float("nan"), float("inf"))
_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
# Fields of releases after the one that judges.
_LATER = {"inference.ModelConfig.model_metrics", "inference.ModelEnsembling.max_inflight_requests"}
# Larger values keep an honest server busy for minutes, or take more memory than a machine may have.
_LARGEST = {
    "inference.ModelInstanceGroup.count": 5,
    "inference.ModelWarmup.count": 9,
    "inference.ModelWarmup.batch_size": 64,
    "inference.ModelWarmup.Input.dims": 64,
    "inference.ModelInput.dims": 1000,
}


class Donors:
    """Configs from which messages are copied."""

    def __init__(self, texts: Iterable[bytes]) -> None:
        self._of_type: dict[str, list[tuple[str, Any]]] = {}
        for text in texts:
            if parses(text):
                for message in _messages(_parse(text)):
                    content = sha256(message.SerializeToString(deterministic=True)).hexdigest()
                    self._of_type.setdefault(message.DESCRIPTOR.full_name, []).append((content, message))
        for known in self._of_type.values():
            known.sort(key=itemgetter(0))

    def choose(self, rng: random.Random, descriptor: Descriptor) -> Any:
        """A message of the type, or None; equal to one chosen with fewer donors, mostly."""
        known = self._of_type.get(descriptor.full_name)
        if not known:
            return None
        place = bisect_left(known, f"{rng.getrandbits(256):064x}", key=itemgetter(0))
        return known[place % len(known)][1]


def parses(text: bytes) -> bool:
    """Whether a config is one for the parser in Python; the server's takes a few more and a few less."""
    # What it warns of is not the same in every Python, and must not decide what a mutant is.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            _parse(text)
        except (text_format.ParseError, ValueError, Warning):
            return False
    return True


def change(rng: random.Random, text: bytes, donors: Donors) -> bytes:
    """Change a config that parses once, or a few times, and print it."""
    config = _parse(text)
    for _ in range(rng.choices((1, 2, 3, 5), (60, 25, 10, 5))[0]):
        message = rng.choice(list(_messages(config)))
        operation = rng.choices((_set, _drop, _double, _move, _add, _copy), (40, 20, 8, 6, 14, 12))[0]
        operation(rng, message, donors)
    printed: str = text_format.MessageToString(config, use_short_repeated_primitives=rng.random() < 0.5)
    # Zero is printed as nothing, and means something else.
    if config.max_batch_size == 0 and rng.random() < 0.5:
        printed += "max_batch_size: 0\n"
    return printed.encode()


def _parse(text: bytes) -> Any:
    config = model_config_pb2.ModelConfig()
    text_format.Parse(text, config)
    return config


def _messages(message: Any) -> Iterator[Any]:
    """A message and all below it; the values of maps too."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if _is_map(field):
            if field.message_type.fields_by_name["value"].message_type is not None:
                for key in sorted(value):
                    yield from _messages(value[key])
        elif field.is_repeated:
            for each in value:
                yield from _messages(each)
        else:
            yield from _messages(value)


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _set_fields(message: Any) -> list[FieldDescriptor]:
    return [field for field, _ in message.ListFields()]


def _all_fields(message: Any) -> list[FieldDescriptor]:
    return [field for field in message.DESCRIPTOR.fields if field.full_name not in _LATER]


def _set(rng: random.Random, message: Any, donors: Donors) -> None:
    """Give a field that is there another value; in a list or map, to one of its elements."""
    fields = [field for field in _set_fields(message) if field.message_type is None or _is_map(field)]
    if not fields:
        _add(rng, message, donors)
        return
    field = rng.choice(fields)
    if _is_map(field):
        _change_map(rng, message, field)
    elif field.is_repeated:
        values = getattr(message, field.name)
        values[rng.randrange(len(values))] = _value(rng, field)
    else:
        setattr(message, field.name, _value(rng, field))


def _change_map(rng: random.Random, message: Any, field: FieldDescriptor) -> None:
    """Give an entry of a map another key, or another value."""
    entries = getattr(message, field.name)
    key = rng.choice(sorted(entries))
    of_key, of_value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
    if of_value.message_type is None:
        value = entries[key]
        if rng.random() < 0.5:
            entries[key] = _value(rng, of_value)
        else:
            del entries[key]
            entries[_value(rng, of_key)] = value
        return
    value = type(entries[key])()
    value.CopyFrom(entries[key])
    del entries[key]
    entries[_value(rng, of_key)].CopyFrom(value)


def _drop(rng: random.Random, message: Any, _: Donors) -> None:
    """Remove a field, or an element of a list."""
    fields = _set_fields(message)
    if not fields:
        return
    field = rng.choice(fields)
    if field.is_repeated and not _is_map(field) and rng.random() < 0.7:
        values = getattr(message, field.name)
        del values[rng.randrange(len(values))]
    else:
        message.ClearField(field.name)


def _double(rng: random.Random, message: Any, _: Donors) -> None:
    """Repeat an element of a list."""
    fields = [field for field in _set_fields(message) if field.is_repeated and not _is_map(field)]
    if not fields:
        return
    field = rng.choice(fields)
    values = getattr(message, field.name)
    values.append(rng.choice(values))


def _move(rng: random.Random, message: Any, _: Donors) -> None:
    """Change the order of a list, or give one field the value of another of its type."""
    lists = [field for field in _set_fields(message) if field.is_repeated and not _is_map(field)]
    if lists and rng.random() < 0.5:
        field = rng.choice(lists)
        values = list(getattr(message, field.name))
        rng.shuffle(values)
        message.ClearField(field.name)
        getattr(message, field.name).extend(values)
        return
    plain = [field for field in _all_fields(message) if field.message_type is None and not field.is_repeated]
    pairs = [
        (a, b) for a in plain for b in plain if a is not b and a.cpp_type == b.cpp_type and a.enum_type is b.enum_type
    ]
    if pairs:
        one, other = rng.choice(pairs)
        setattr(message, one.name, getattr(message, other.name))


def _add(rng: random.Random, message: Any, donors: Donors) -> None:
    """Add a field that may be there or not, with random content."""
    fields = _all_fields(message)
    if fields:
        _fill_field(rng, message, rng.choice(fields), 2)


def _copy(rng: random.Random, message: Any, donors: Donors) -> None:
    """Put a field of another message of the same type in, or in the place of the field that is there."""
    donor = donors.choose(rng, message.DESCRIPTOR)
    fields = _set_fields(donor) if donor is not None else []
    if not fields:
        return
    kept = rng.choice(fields)
    taken = type(donor)()
    taken.CopyFrom(donor)
    for field in fields:
        if field is not kept:
            taken.ClearField(field.name)
    if rng.random() < 0.5:
        message.ClearField(kept.name)
    message.MergeFrom(taken)


def _fill_field(rng: random.Random, message: Any, field: FieldDescriptor, depth: int) -> None:
    if _is_map(field):
        entries = getattr(message, field.name)
        key = _value(rng, field.message_type.fields_by_name["key"])
        of_value = field.message_type.fields_by_name["value"]
        if of_value.message_type is None:
            entries[key] = _value(rng, of_value)
        else:
            _fill(rng, entries[key], depth)
    elif field.message_type is not None:
        value = getattr(message, field.name)
        if field.is_repeated:
            _fill(rng, value.add(), depth)
        else:
            value.SetInParent()
            _fill(rng, value, depth)
    elif field.is_repeated:
        getattr(message, field.name).extend(_value(rng, field) for _ in range(rng.choice((1, 1, 2, 3))))
    else:
        setattr(message, field.name, _value(rng, field))


def _fill(rng: random.Random, message: Any, depth: int) -> None:
    """Fill a new message at random; sometimes it stays empty."""
    if depth == 0 or rng.random() < 0.15:
        return
    for field in _all_fields(message):
        if rng.random() < 0.45:
            _fill_field(rng, message, field, depth - 1)


def _value(rng: random.Random, field: FieldDescriptor) -> Any:
    """A value for a field that is no message: mostly one at which something changes."""
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return rng.random() < 0.5
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return rng.choice(_NAMES)
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return rng.choice(_FLOATS)
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        known = [value.number for value in field.enum_type.values]
        return rng.choice(known) if rng.random() < 0.93 else rng.choice((-1, 42, 2**31 - 1))
    smallest, largest = _RANGES[kind]
    largest = min(largest, _LARGEST.get(field.full_name, largest))
    # Small ones are what most rules are about.
    pool = _INTEGERS if rng.random() < 0.4 else range(-1, 9)
    return rng.choice([number for number in pool if smallest <= number <= largest])
