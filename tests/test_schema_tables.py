from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from textformat_oracle import RELEASE, Oracle, differences
from tritonrepo.check._schema import ROOT, Field, MessageType, Schema, releases, schema
from tritonrepo.check._textformat import parse
from tritonrepo.runtime import Runtime

SCRIPT = Path(__file__).parents[1] / "scripts" / "schema_tables.py"

Described = dict[str, dict[str, tuple[Any, ...]]]
"""Fields by message and values by enum, with what there is to say of them."""


def described(types: Schema) -> Described:
    """The tables; entries of maps count as messages."""
    found: Described = {
        name: {value: (number,) for value, number in enum.numbers.items()} for name, enum in types.enums.items()
    }
    messages = list(types.messages.values())
    for message in messages:
        found[message.name] = {name: _said(field) for name, field in message.fields.items()}
        messages += [field.message for field in message.fields.values() if field.map and field.message]
    return found


def _said(field: Field) -> tuple[Any, ...]:
    target = field.message or field.enum
    return field.number, field.type, field.repeated, field.map, field.oneof, target.name if target else ""


def described_by_protobuf(serialized: bytes) -> Described:
    """The same from a serialized FileDescriptorProto."""
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

    file = FileDescriptorProto.FromString(serialized)
    found: Described = {}
    maps = set()

    def add_enum(enum: Any, scope: str) -> None:
        found[f"{scope}.{enum.name}"] = {value.name: (value.number,) for value in enum.value}

    def add_message(message: Any, scope: str) -> None:
        name = f"{scope}.{message.name}"
        if message.options.map_entry:
            maps.add(name)
        for inner in message.nested_type:
            add_message(inner, name)
        for inner in message.enum_type:
            add_enum(inner, name)
        found[name] = {field.name: said(field, message) for field in message.field}

    def said(field: Any, message: Any) -> tuple[Any, ...]:
        target = field.type_name.lstrip(".")
        kind = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
        oneof = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else None
        repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
        return field.number, kind, repeated, target in maps, oneof, target

    for message in file.message_type:
        add_message(message, file.package)
    for enum in file.enum_type:
        add_enum(enum, file.package)
    return found


def test_the_newest_is_what_the_client_library_has() -> None:
    from tritonclient.grpc import model_config_pb2

    assert described(schema()) == described_by_protobuf(model_config_pb2.DESCRIPTOR.serialized_pb)


def test_the_embedded_servers_is_what_its_library_holds(runtime: Runtime) -> None:
    # A generated message carries its file's descriptor; a proto3 file's descriptor ends with its syntax.
    (library,) = runtime.libraries.glob("libtritonserver-*.so")
    content = library.read_bytes()
    start = content.index(b"\n\x12model_config.proto\x12\x09inference")
    end = b"b\x06proto3"
    descriptor = content[start : content.index(end, start) + len(end)]
    assert described(schema(RELEASE)) == described_by_protobuf(descriptor)


def wrapped(types: Schema) -> dict[str, tuple[str, str]]:
    """For each message type, what to write before and after its fields."""
    found = {ROOT: ("", "")}
    todo = [types.message(ROOT)]
    for message in todo:
        for field in message.fields.values():
            if field.message and field.message.name not in found:
                before, after = found[message.name]
                found[field.message.name] = (f"{before}{field.name} {{ ", f" }}{after}")
                todo.append(field.message)
    return found


def used(field: Field) -> list[str]:
    """Texts that set a field: one, or one for each value of an enum."""
    if field.message:
        return [f"{field.name} {{ }}"]
    if field.enum:
        return [f"{field.name}: {name}" for name in field.enum.numbers]
    values = {"string": "'x'", "bool": "true", "float": "0.5", "double": "0.5"}
    return [f"{field.name}: {values.get(field.type, '1')}"]


def all_fields(message: MessageType) -> dict[str, Field]:
    """A message's fields in any release."""
    later: dict[str, Field] = {}
    for release in releases():
        known = schema(release).messages.get(message.name)
        later |= known.fields if known else {}
    return {**later, **message.fields}


def questions(types: Schema) -> Iterator[tuple[str, bool]]:
    """A text for each field and value of any release, and whether this one has it."""
    messages = list(types.messages.values())
    for message in messages:
        messages += [field.message for field in message.fields.values() if field.map and field.message]
    around = wrapped(types)
    for message in messages:
        before, after = around[message.name]
        for name, field in all_fields(message).items():
            for text in used(field):
                known = name in message.fields and (not field.enum or text.split()[1] in field.enum.numbers)
                yield f"{before}{text}{after}", known


@pytest.mark.server
def test_the_server_knows_the_fields_of_its_release_and_no_later_ones(runtime: Runtime) -> None:
    types = schema(RELEASE)
    asked = list(questions(types))
    with Oracle(runtime) as oracle:
        for (text, known), verdict in zip(asked, oracle.judge([text.encode() for text, _ in asked]), strict=True):
            assert (verdict.error is None) == known, text
            assert differences(text.encode(), verdict, types) == [], text
    assert sum(known for _, known in asked) > 190
    refused = {text for text, known in asked if not known}
    assert refused == {"model_metrics { }", "ensemble_scheduling { max_inflight_requests: 1 }"}


@pytest.mark.parametrize(
    ("text", "came"),
    [
        ("response_cache { }", "21.10"),
        ("input { optional: true }", "22.01"),
        ("input { data_type: TYPE_BF16 }", "22.05"),
        ("model_warmup { count: 1 }", "22.07"),
        ("dynamic_batching { priority_levels: 4294967296 }", "23.07"),
        ("runtime: ''", "24.01"),
        ("input { is_non_linear_format_io: true }", "24.08"),
        ("model_metrics { }", "24.11"),
        ("ensemble_scheduling { max_inflight_requests: 1 }", "25.11"),
    ],
)
def test_what_a_release_knows(text: str, came: str) -> None:
    before = releases()[releases().index(came) - 1]
    assert parse(text.encode(), schema(came)).error is None
    assert parse(text.encode(), schema(before)).error is not None
    assert parse(text.encode(), schema()).error is None


def test_releases() -> None:
    assert releases()[0] == "21.05"
    assert list(releases()) == sorted(releases())
    assert {RELEASE, "26.01"} <= set(releases())
    assert schema() is schema() and schema().release == releases()[-1]
    assert schema(RELEASE).exact


def test_a_release_newer_than_the_tables_has_the_newest_and_says_so() -> None:
    newer = schema("99.09")
    assert (newer.release, newer.exact) == ("99.09", False)
    assert newer.messages == schema().messages


@pytest.mark.parametrize(
    "release", ["24", "24.1", "v24.10", "24.10.1", "", "2４.10", "24.13", "24.00", "20.12", "21.04"]
)
def test_what_is_no_release_is_refused(release: str) -> None:
    with pytest.raises(ValueError, match="release"):
        schema(release)


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("schema_tables", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


OLD = """\
syntax = "proto3";
//@@ a comment { }
package inference;
enum Kind { A = 0; B = 1; }
message Inner { int32 x = 1; }
message ModelConfig {
  enum Kind { C = 0; }
  message Inner { repeated Kind kind = 1; }
  /* another; */
  oneof choice { Inner one = 1; string two = 2; }
  map<string, Inner> parts = 3;
  uint32 level = 4;
  bool gone = 5;
}
"""
NEW = OLD.replace("uint32 level", "uint64 level").replace("bool gone = 5", "double came = 6").replace("B = 1", "B2 = 1")


def test_the_tables_tell_releases_apart(tables: ModuleType) -> None:
    assert [line for line in tables.table({"24.01": OLD, "24.02": NEW}) if line[0] != "#"] == [
        "releases 24.01 24.02",
        "enum Kind",
        "value A 0",
        "value B 1 @-24.02",
        "value B2 1 @24.02-",
        "message Inner",
        "field x 1 int32",
        "message ModelConfig",
        "field one 1 ModelConfig.Inner oneof=choice",
        "field two 2 string oneof=choice",
        "field parts 3 map<string,ModelConfig.Inner>",
        "field level 4 uint32 @-24.02",
        "field gone 5 bool @-24.02",
        "field level 4 uint64 @24.02-",
        "field came 6 double @24.02-",
        "enum ModelConfig.Kind",
        "value C 0",
        "message ModelConfig.Inner",
        "field kind 1 ModelConfig.Kind repeated",
    ]


def test_the_tables_refuse_what_they_cannot_say(tables: ModuleType) -> None:
    with pytest.raises(ValueError, match="came, went and came again"):
        list(tables.table({"24.01": OLD, "24.02": NEW, "24.03": OLD}))
    with pytest.raises(ValueError, match="does not know what to make of: reserved 2"):
        list(tables.table({"24.01": "message ModelConfig { reserved 2; }"}))


def test_the_tables_come_from_release_branches(tables: ModuleType, tmp_path: Path) -> None:
    def git(*args: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *identity, *args], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q", "-b", "main")
    git("commit", "-q", "--allow-empty", "-m", "without the file")
    git("branch", "r20.01")
    (tmp_path / "protobuf").mkdir()
    for release, proto in (("r24.02", NEW), ("r24.01", OLD)):
        (tmp_path / "protobuf" / "model_config.proto").write_text(proto, encoding="utf-8")
        git("add", ".")
        git("commit", "-q", "-m", release)
        git("branch", release)
        git("branch", f"{release}-jp")
    assert tables.read(tmp_path) == {"24.01": OLD, "24.02": NEW}
