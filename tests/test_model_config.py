from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tritonrepo import _model_config as mc
from tritonrepo.errors import ModelError, SpecError


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_schema_brings_in_neither_tritonclient_nor_grpc() -> None:
    out = run_python(
        "import sys; from tritonrepo import _model_config as mc; c = mc.from_mapping({'name': 'a'});"
        "print(c.name, [m for m in ('tritonclient', 'grpc', 'numpy') if m in sys.modules])"
    )
    assert out.strip() == "a []"


@pytest.mark.parametrize("order", ["ours first", "theirs first"])
def test_schema_lives_beside_tritonclient_grpc(order: str) -> None:
    ours = "from tritonrepo import _model_config as mc; a = mc.schema().ModelConfig(name='x')"
    theirs = "import tritonclient.grpc.model_config_pb2 as pb; b = pb.ModelConfig(name='x')"
    first, second = (ours, theirs) if order == "ours first" else (theirs, ours)
    use = """
from tritonclient.grpc import service_pb2
answer = service_pb2.ModelConfigResponse(config=b)
a.CopyFrom(answer.config)
assert a == b and mc.first_difference(a, b) is None
assert mc.merged(b, {"backend": "python"}).backend == "python"
print("fine")
"""
    assert run_python(f"{first}\n{second}\n{use}").strip() == "fine"


def test_from_mapping_sets_every_kind_of_field() -> None:
    config = mc.from_mapping(
        {
            "name": "m",
            "max_batch_size": 8,
            "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [3, -1], "optional": True}],
            "dynamic_batching": {"priority_queue_policy": {1: {"timeout_action": "DELAY"}}, "priority_levels": 2},
            "instance_group": [{"kind": "KIND_GPU", "gpus": (0, 1)}],
            "parameters": {"k": {"string_value": "v"}},
            "version_policy": {"all": {}},
        }
    )
    assert config == mc.parse(
        """
        name: "m" max_batch_size: 8
        input { name: "x" data_type: TYPE_FP32 dims: [3, -1] optional: true }
        dynamic_batching { priority_queue_policy { key: 1 value { timeout_action: DELAY } } priority_levels: 2 }
        instance_group { kind: KIND_GPU gpus: [0, 1] }
        parameters { key: "k" value { string_value: "v" } }
        version_policy { all { } }
        """
    )


def test_an_empty_mapping_sets_its_field() -> None:
    assert mc.from_mapping({"dynamic_batching": {}}).HasField("dynamic_batching")


FAULTS: list[tuple[dict[Any, Any], tuple[str, str, str | None]]] = [
    (
        {"max_batchsize": 3},
        ("max_batchsize", 'ModelConfig has no field "max_batchsize"', "did you mean max_batch_size?"),
    ),
    ({7: 3}, ("[7]", "ModelConfig has no field 7", None)),
    ({"max_batch_size": "8"}, ("max_batch_size", 'expected a whole number, got "8"', "write 8 without quotes")),
    ({"max_batch_size": True}, ("max_batch_size", "expected a whole number, got true", None)),
    ({"max_batch_size": 1.0}, ("max_batch_size", "expected a whole number, got 1.0", None)),
    ({"max_batch_size": 2**31}, ("max_batch_size", "2147483648 is out of range: -2147483648 to 2147483647", None)),
    (
        {"dynamic_batching": {"max_queue_delay_microseconds": -1}},
        (
            "dynamic_batching.max_queue_delay_microseconds",
            "-1 is out of range: 0 to 18446744073709551615",
            None,
        ),
    ),
    (
        {"dynamic_batching": None},
        ("dynamic_batching", "expected a mapping, got nothing", "write {} to set it without any members"),
    ),
    ({"dynamic_batching": [1]}, ("dynamic_batching", "expected a mapping, got a list", None)),
    ({"input": {"name": "x"}}, ("input", "expected a list, got a mapping", None)),
    (
        {"input": [{"name": "x", "dims": 3}]},
        ("input[0].dims", "expected a list, got 3", "write [3]"),
    ),
    (
        {"parameters": {"a b": {"string_value": 4}}},
        ('parameters["a b"].string_value', "expected text, got 4", 'write "4"'),
    ),
    ({"parameters": {True: {}}}, ("parameters[true]", "expected text, got true", 'write "true"')),
    ({"parameters": ["a"]}, ("parameters", "expected a mapping, got a list", None)),
    ({"response_cache": {"enable": "yes"}}, ("response_cache.enable", 'expected true or false, got "yes"', None)),
    (
        {"sequence_batching": {"direct": {"minimum_slot_utilization": 1e39}}},
        (
            "sequence_batching.direct.minimum_slot_utilization",
            "1e+39 is out of range for a 32-bit float",
            None,
        ),
    ),
    (
        {"model_metrics": {"metric_control": [{"histogram_options": {"buckets": [1e39, 10**400]}}]}},
        (
            "model_metrics.metric_control[0].histogram_options.buckets[1]",
            "1" + 56 * "0" + "... is out of range for a 64-bit float",
            None,
        ),
    ),
    (
        {"sequence_batching": {"direct": {"minimum_slot_utilization": "0.5"}}},
        ("sequence_batching.direct.minimum_slot_utilization", 'expected a number, got "0.5"', None),
    ),
    (
        {"version_policy": {"latest": {"num_versions": 1}, "all": {}}},
        ("version_policy.all", "latest and all exclude each other", "leave out latest or all"),
    ),
    (
        {"dynamic_batching": {}, "sequence_batching": {}},
        (
            "sequence_batching",
            "dynamic_batching and sequence_batching exclude each other",
            "leave out dynamic_batching or sequence_batching",
        ),
    ),
    (
        {"name": "\ud800"},
        ("name", "'\\ud800' is not valid Unicode text: it has half of a surrogate pair", None),
    ),
]


@pytest.mark.parametrize(("config", "fault"), FAULTS, ids=[fault[0] + str(n) for n, (_, fault) in enumerate(FAULTS)])
def test_faults(config: dict[str, object], fault: tuple[str, str, str | None]) -> None:
    assert mc.faults_in(config) == [fault]


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("KIND_GPUS", "did you mean KIND_GPU?"),
        ("gpu", "did you mean KIND_GPU?"),
        (1, "write KIND_GPU"),
        ("elephant", None),
        (99, None),
        (True, None),
    ],
)
def test_unknown_enum_value(value: object, hint: str | None) -> None:
    [(path, message, got_hint)] = mc.faults_in({"instance_group": [{"kind": value}]})
    assert path == "instance_group[0].kind"
    assert message.startswith("expected one of KIND_AUTO, KIND_GPU, KIND_CPU, KIND_MODEL, got ")
    assert got_hint == hint


def test_all_faults_come_in_one_go_and_in_order() -> None:
    config = {
        "nmae": "m",
        "input": [{"dims": [1, "a"], "data_type": "FP32"}, "x"],
        "parameters": {"ok": {"string_value": "fine"}, "bad": {"string": "x"}},
    }
    assert [path for path, _, _ in mc.faults_in(config)] == [
        "nmae",
        "input[0].dims[1]",
        "input[0].data_type",
        "input[1]",
        "parameters.bad.string",
    ]
    with pytest.raises(SpecError) as caught:
        mc.from_mapping(config)
    assert len(caught.value.faults) == 5
    assert "did you mean name?" in str(caught.value)


def test_no_faults_in_what_fits() -> None:
    assert mc.faults_in({}) == []
    assert mc.faults_in({"instance_group": [{"count": 2}], "metric_tags": {"a": "b"}}) == []


def test_merged_replaces_scalars_and_lists_and_merges_messages_and_maps() -> None:
    base = mc.parse(
        """
        max_batch_size: 4
        dynamic_batching { max_queue_delay_microseconds: 500 preferred_batch_size: [2, 4] preserve_ordering: true }
        instance_group { count: 1 } instance_group { count: 2 }
        parameters { key: "a" value { string_value: "1" } }
        parameters { key: "b" value { string_value: "2" } }
        """
    )
    before = base.SerializeToString(deterministic=True)
    result = mc.merged(
        base,
        {
            "dynamic_batching": {"max_queue_delay_microseconds": 0, "preferred_batch_size": [8]},
            "instance_group": [{"count": 3}],
            "parameters": {"b": {"string_value": "3"}, "c": {"string_value": "4"}},
        },
    )
    assert result == mc.parse(
        """
        max_batch_size: 4
        dynamic_batching { preferred_batch_size: [8] preserve_ordering: true }
        instance_group { count: 3 }
        parameters { key: "a" value { string_value: "1" } }
        parameters { key: "b" value { string_value: "3" } }
        parameters { key: "c" value { string_value: "4" } }
        """
    )
    assert base.SerializeToString(deterministic=True) == before


def test_merged_clears_the_other_member_of_a_oneof() -> None:
    base = mc.parse("dynamic_batching { }")
    assert mc.merged(base, {"sequence_batching": {"oldest": {}}}) == mc.parse("sequence_batching { oldest { } }")


def test_parse_says_where(tmp_path: Path) -> None:
    file = tmp_path / "config.pbtxt"
    with pytest.raises(ModelError) as caught:
        mc.parse('name: "a"\n  max_batchsize: 1', file=file)
    assert str(caught.value) == f'{file}:2:3: Message type "inference.ModelConfig" has no field named "max_batchsize".'


@pytest.mark.parametrize(
    ("one", "other", "path"),
    [
        ('name: "a"', 'name: "b"', "name"),
        ("max_batch_size: 1", "", "max_batch_size"),
        ("", "max_batch_size: 1", "max_batch_size"),
        ("input { dims: [1, 2] }", "input { dims: [1, 3] }", "input[0].dims[1]"),
        ("input { dims: [1, 2] }", "input { dims: [1] }", "input[0].dims[1]"),
        ("input { }", "input { } input { }", "input[1]"),
        ("dynamic_batching { }", "", "dynamic_batching"),
        (
            'parameters { key: "a/b" value { string_value: "x" } }',
            'parameters { key: "a/b" value { string_value: "y" } }',
            'parameters["a/b"].string_value',
        ),
        ('metric_tags { key: "a" value: "" }', 'metric_tags { key: "b" value: "" }', "metric_tags.a"),
        (
            "sequence_batching { direct { minimum_slot_utilization: -0.0 } }",
            "sequence_batching { direct { } }",
            "sequence_batching.direct.minimum_slot_utilization",
        ),
        (
            "model_metrics { metric_control { histogram_options { buckets: [0.0] } } }",
            "model_metrics { metric_control { histogram_options { buckets: [-0.0] } } }",
            "model_metrics.metric_control[0].histogram_options.buckets[0]",
        ),
        (
            "sequence_batching { direct { minimum_slot_utilization: nan } }",
            "sequence_batching { direct { minimum_slot_utilization: 1 } }",
            "sequence_batching.direct.minimum_slot_utilization",
        ),
    ],
)
def test_first_difference(one: str, other: str, path: str) -> None:
    assert mc.first_difference(mc.parse(one), mc.parse(other)) == path
    assert mc.first_difference(mc.parse(one), mc.parse(one)) is None


def test_present_fields_keeps_the_order_of_the_schema() -> None:
    config = mc.parse('backend: "b" name: "n" dynamic_batching { } input { } max_batch_size: 1')
    assert [field.name for field, _ in mc.present_fields(config)] == [
        "name",
        "backend",
        "max_batch_size",
        "input",
        "dynamic_batching",
    ]


def test_a_missing_schema_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    mc.schema.cache_clear()
    monkeypatch.delitem(sys.modules, "tritonclient.grpc.model_config_pb2", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"(?s)schema is missing.*pip install"):
        mc.schema()
