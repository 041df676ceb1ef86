from __future__ import annotations

import math
import time

import pytest

from textformat_cases import SAID
from textformat_oracle import RELEASE, Oracle, differences, values
from textformat_texts import Writer, texts
from tritonrepo.check._schema import schema
from tritonrepo.check._textformat import Document, Message, parse
from tritonrepo.runtime import Runtime

TYPES = schema(RELEASE)

CONFIG = b"""\
name: "m"
input [
  { name: "a" dims: [ 1, -1 ] },
\t{ name: "b" dims: 4 dims: 5 }
]
parameters { key: "k" value { string_value: "old" } }
parameters { key: "k" value { string_value: "new" } }
dynamic_batching { }
"""


def said(document: Document) -> str:
    error = document.error
    return f"{error.line}:{error.column}: {error.message}" if error else ""


def read(text: bytes) -> Message:
    document = parse(text, TYPES)
    assert document.error is None, document.error
    return document.root


@pytest.mark.parametrize(("text", "error"), SAID, ids=range(len(SAID)))
def test_says_what_the_server_says(text: bytes, error: str) -> None:
    assert said(parse(text, TYPES)) == error


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (rb"'a' 'b' " + b'"c"', "abc"),
        (rb"'\a\b\f\n\r\t\v\\\?\'\"'", "\a\b\f\n\r\t\v\\?'\""),
        (rb"'\0\12\123\1234\777\400'", "\0\nSS4\udcff\0"),
        (rb"'\x4\x41\x414'", "\x04AA4"),
        (rb"'\1' '2'", "\x012"),
        (rb"'\u00e9\u20AC'", "é€"),
        ("'é€😀'".encode(), "é€😀"),
        (rb"'\xc3\xa9'", "é"),
        (rb"'\xff' '\xc3'", "\udcff\udcc3"),
        (rb"'\ud83d\ude00' '\U0000d83d\ude00' '\U0001f600'", "😀😀😀"),
        # Halves of a pair are kept as they are, three bytes each, which is not UTF-8.
        (rb"'\ud83dx'", b"\xed\xa0\xbdx".decode("utf-8", "surrogateescape")),
        (rb"'\ud83d' '\ude00'", b"\xed\xa0\xbd\xed\xb8\x80".decode("utf-8", "surrogateescape")),
        (rb"'\ud83d\U0000de00'", b"\xed\xa0\xbd\xed\xb8\x80".decode("utf-8", "surrogateescape")),
        (rb"'\U00110000\U001fffff'", "\\U00110000\\U001fffff"),
        (b"'it''s'", "its"),
        (b"'\t\x01\x7f#{'", "\t\x01\x7f#{"),
        (b"''", ""),
    ],
)
def test_strings(written: bytes, value: str) -> None:
    assert read(b"name: " + written).get("name") == value


@pytest.mark.parametrize(
    ("written", "value"),
    [("0x1F", 31), ("010", 8), ("-0x10", -16), ("- #c\n 7", -7), ("00", 0), ("-2147483648", -(2**31)), ("1 ;", 1)],
)
def test_integers(written: str, value: int) -> None:
    assert read(f"max_batch_size: {written}".encode()).get("max_batch_size") == value


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("5", 5.0), (".5", 0.5), ("5.f", 5.0), ("1E-3F", 0.0010000000474974513), ("0.1", 0.10000000149011612),
        ("1e400", math.inf), ("3.5e38", math.inf), ("-3.5e38", -math.inf), ("-Infinity", -math.inf), ("1e-60", 0.0),
        ("18446744073709551616", 2.0**64), ("9" * 5000, math.inf),
    ],
)  # fmt: skip
def test_floats_are_single(written: str, value: float) -> None:
    text = f"sequence_batching {{ direct {{ minimum_slot_utilization: {written} }} }}"
    assert read(text.encode()).get("sequence_batching").get("direct").get("minimum_slot_utilization") == value


def test_enums_by_name_where_there_is_one() -> None:
    kinds = [
        one.get("data_type")
        for one in read(b"input [{data_type: 11}, {data_type: 0xb}, {data_type: 99}, {}]").all("input")
    ]
    assert kinds == ["TYPE_FP32", "TYPE_FP32", 99, "TYPE_INVALID"]


def test_what_a_message_holds() -> None:
    root = read(CONFIG)
    assert root.kind == "inference.ModelConfig"
    assert root.fields == ("name", "input", "parameters", "dynamic_batching")
    assert [tensor.get("dims") for tensor in root.get("input")] == [(1, -1), (4, 5)]
    assert root.one_of("scheduling_choice") == "dynamic_batching"
    assert root.get("version_policy").one_of("policy_choice") is None
    assert {key: value.get("string_value") for key, value in root.map("parameters").items()} == {"k": "new"}
    assert len(root.all("parameters")) == 2


def test_what_is_absent_has_its_default() -> None:
    root = read(b"max_batch_size: 0 input [ ]")
    assert root.has("max_batch_size")
    assert root.has("input")
    assert root.all("input") == ()
    assert not root.has("name")
    assert root.get("name") == ""
    assert root.map("parameters") == {}
    policy = root.get("dynamic_batching").get("default_queue_policy")
    assert (policy.kind, policy.fields) == ("inference.ModelQueuePolicy", ())
    assert policy.get("timeout_action") == "REJECT"
    assert policy.get("allow_timeout_override") is False


def test_a_field_of_a_later_release_is_absent_and_one_of_none_is_a_mistake() -> None:
    assert read(b"").get("model_metrics").all("metric_control") == ()
    with pytest.raises(KeyError):
        read(b"").get("nme")
    with pytest.raises(ValueError, match="not repeated"):
        read(b"").all("name")


def test_places() -> None:
    root = read(CONFIG)
    first, second = root.all("input")
    assert (root.line, root.column) == (1, 1)
    assert root.at("name") == (1, 1)
    assert root.value_at("name") == (1, 7)
    assert root.at("input") == (2, 1)
    assert root.at("input", 1) == (4, 9)
    assert (second.line, second.column) == (4, 9)
    assert first.at("dims") == (3, 15)
    assert first.value_at("dims") == (3, 23)
    assert first.at("dims", 1) == first.value_at("dims", 1) == (3, 26)
    assert second.at("dims", 1) == (4, 29)
    assert second.value_at("dims", 1) == (4, 35)
    assert root.map_at("parameters", "k") == (7, 19)
    assert root.value_at("dynamic_batching") == (8, 18)


def test_the_place_of_what_is_absent_is_the_message() -> None:
    (tensor,) = read(b"\ninput { dims: 1 }").all("input")
    assert tensor.at("name") == tensor.value_at("name") == tensor.at("dims", 1) == (2, 7)
    assert tensor.get("reshape").at("shape") == (2, 7)
    assert read(b"\n").map_at("parameters", "k") == (1, 1)


def test_an_unknown_name_comes_with_its_place_and_what_could_stand_there() -> None:
    error = parse(b"input {\n  dta_type : TYPE_FP32\n}", TYPES).error
    assert error and error.unknown
    assert (error.line, error.column) == (2, 12)
    assert (error.unknown.name, error.unknown.line, error.unknown.column) == ("dta_type", 2, 3)
    assert "data_type" in error.unknown.known
    error = parse(b"input { data_type: FP32 }", TYPES).error
    assert error and error.unknown
    assert (error.unknown.name, error.unknown.column) == ("FP32", 20)
    assert "TYPE_FP32" in error.unknown.known


def test_what_stands_before_an_error_is_there() -> None:
    document = parse(b"name: 'x' max_batch_size: x", TYPES)
    assert document.error
    assert document.root.get("name") == "x"


@pytest.mark.parametrize(
    "text",
    [b'"' + b'\\"' * 100_000, b"'\"\\" * 50_000, b"#\0" * 50_000, b"1f" * 100_000, b"name: " + b"'x'" * 50_000,
     b"input { } " * 20_000, b"max_batch_size: " + b"9" * 200_000, b"max_batch_size: 0x" + b"f" * 200_000],
    ids=lambda text: repr(text[:8]),
)  # fmt: skip
def test_takes_time_in_proportion_to_the_text(text: bytes) -> None:
    began = time.perf_counter()
    parse(text, TYPES)
    # These take up to 0.3 s; where time goes with the square of the size, minutes.
    assert time.perf_counter() - began < 10


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python's own parser leaves odd escapes to Python's
def test_reads_the_values_that_protobuf_reads() -> None:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    newest = schema()
    agreed = 0
    for number in range(600):
        text = Writer(f"values/{number}", 0, newest).config()
        if b"\\u" in text.lower():
            continue  # Python takes backslashes before and after such an escape for something else
        try:
            message = text_format.Parse(text, model_config_pb2.ModelConfig())
        except (text_format.ParseError, UnicodeError):
            continue
        document = parse(text, newest)
        if document.error:  # Python takes more than the server does
            continue
        shown = parse(text_format.MessageToString(message, as_utf8=True).encode(), newest)
        assert values(document.root) == values(shown.root), text
        agreed += 1
    assert agreed > 200


@pytest.mark.server
def test_the_server_says_what_is_recorded(runtime: Runtime) -> None:
    with Oracle(runtime) as oracle:
        verdicts = oracle.judge([text for text, _ in SAID])
        for (text, recorded), verdict in zip(SAID, verdicts, strict=True):
            assert differences(text, verdict, TYPES) == [], text
            assert bool(verdict.error) == bool(recorded), text


@pytest.mark.server
def test_agrees_with_the_server_on_texts_at_random(runtime: Runtime) -> None:
    wanted = list(texts(2024, 300, TYPES))
    with Oracle(runtime) as oracle:
        verdicts = list(oracle.judge(wanted))
    for text, verdict in zip(wanted, verdicts, strict=True):
        assert differences(text, verdict, TYPES) == [], text
    assert sum(verdict.error is None for verdict in verdicts) > 50
    assert sum(verdict.shown is not None for verdict in verdicts) > 50
