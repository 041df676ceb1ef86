from __future__ import annotations

import ast
import json
import math
import os
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tritonrepo import _model_config as mc
from tritonrepo import _templates, render
from tritonrepo.errors import ModelError, SpecError, TemplateError, Where
from tritonrepo.introspect import Signature, Tensor
from tritonrepo.plan import ConcreteEngine, Plan, Profile
from tritonrepo.spec import (
    Batching,
    Instances,
    ModelSpec,
    QueuePolicy,
    VersionPolicy,
    Warmup,
    WarmupInput,
)

if TYPE_CHECKING:
    from conftest import StartTriton, WriteModel

GOLDEN = Path(__file__).parent / "golden"
#: Texts in which a wrong quoting shows; a NUL among them, which Triton's own JSON and C strings cannot carry.
NASTY = [
    'a "b" \\c',
    "line\nbreak\r\ttab",
    "ünï ✓ 漢字 😀",
    "\x01\x1f7\x7f8\x85\u2028",
    "\\u1234 \\n \\\\",
    "}{%#'",
    "\x00",
]


def signature(
    inputs: tuple[Tensor, ...] = (Tensor("x", "FP32", ("n", 784)),),
    outputs: tuple[Tensor, ...] = (Tensor("y", "FP32", ("n", 10)),),
) -> Signature:
    return Signature(Path("model.onnx"), inputs, outputs, {"": 17}, 8, {}, (), 0, True, "")


def plan(
    engine: ConcreteEngine = "python", batch: int = 32, *opts: Mapping[str, tuple[int, ...]], name: str = "mlp"
) -> Plan:
    profiles = tuple(Profile(opt, opt, opt) for opt in opts)
    return Plan(name, engine, "it was asked for", batch, "all first axes are `n`", profiles, {})


def spec(**settings: Any) -> ModelSpec:
    return ModelSpec(onnx=Path("model.onnx"), **settings)


def config_of(text: bytes | Path) -> Any:
    assert isinstance(text, bytes)
    return mc.parse(text.decode())


# ---- what is meant ---------------------------------------------------------------------------------------------------


def test_shapes_leave_out_the_batch_axis_and_names_of_axes() -> None:
    sig = signature((Tensor("image", "UINT8", ("n", 3, "h", None)),), (Tensor("y", "FP16", ("n", 10)),))
    config = render.model_config(spec(), sig, plan())
    assert list(config.input[0].dims) == [3, -1, -1]
    assert mc.schema().DataType.Name(config.input[0].data_type) == "TYPE_UINT8"
    config = render.model_config(spec(), sig, plan("python", 0))
    assert list(config.input[0].dims) == [-1, 3, -1, -1]
    assert config.max_batch_size == 0


def test_one_number_for_each_row_gets_an_empty_reshape() -> None:
    sig = signature((Tensor("x", "INT64", ("n",)),), (Tensor("y", "INT64", ("n",)),))
    config = render.model_config(spec(), sig, plan("onnxruntime"))
    for tensor in (config.input[0], config.output[0]):
        assert list(tensor.dims) == [1]
        assert tensor.HasField("reshape") and list(tensor.reshape.shape) == []
    unbatched = render.model_config(spec(), sig, plan("onnxruntime", 0))
    assert list(unbatched.input[0].dims) == [-1] and not unbatched.input[0].HasField("reshape")


SCALAR = signature((Tensor("x", "FP32", ("n", 2)), Tensor("scale", "FP32", ())))


def test_a_scalar_is_one_element_for_the_python_engine() -> None:
    config = render.model_config(spec(), SCALAR, plan("python", 0))
    assert list(config.input[1].dims) == [1] and not config.input[1].HasField("reshape")


@pytest.mark.parametrize(
    ("engine", "batch", "message"),
    [
        ("python", 8, "'scale' is a scalar: it has no batch axis, but max_batch_size is 8"),
        ("onnxruntime", 0, "'scale' is a scalar: the onnxruntime backend has no shape for it"),
        ("tensorrt", 0, "'scale' is a scalar: the tensorrt backend has no shape for it"),
    ],
)
def test_a_scalar_that_cannot_be_served(engine: ConcreteEngine, batch: int, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        render.model_config(spec(), SCALAR, plan(engine, batch))


def test_tensors_that_triton_cannot_carry() -> None:
    bf16 = signature((Tensor("x", "BF16", ("n", 2)),))
    for engine in ("python", "onnxruntime"):
        with pytest.raises(ModelError, match="'x' is BF16"):
            render.model_config(spec(), bf16, plan(engine))
    assert render.model_config(spec(), bf16, plan("tensorrt")).input[0].data_type == mc.schema().TYPE_BF16


def test_an_axis_of_size_0_is_left_open_because_triton_has_no_such_dim() -> None:
    empty = signature(outputs=(Tensor("y", "FP32", ("n", 0)),))
    assert list(render.model_config(spec(), empty, plan()).output[0].dims) == [-1]


def test_no_warmup_of_a_model_that_takes_no_values() -> None:
    for inputs in ((), (Tensor("x", "FP32", (0, 2)),)):
        config = render.model_config(spec(), signature(inputs), plan("python", 0))
        assert not config.model_warmup


@pytest.mark.parametrize(
    ("engine", "group", "want"),
    [
        ("python", Instances(), "kind: KIND_CPU count: 1"),
        ("python", Instances(gpus=(0, 1), count=2), "kind: KIND_GPU count: 2 gpus: [0, 1]"),
        ("python", Instances(kind="model"), "kind: KIND_MODEL count: 1"),
        ("onnxruntime", Instances(), "count: 1"),
        ("onnxruntime", Instances(kind="cpu", count=3), "kind: KIND_CPU count: 3"),
        ("tensorrt", Instances(), "kind: KIND_GPU count: 1"),
    ],
)
def test_instance_kinds(engine: ConcreteEngine, group: Instances, want: str) -> None:
    config = render.model_config(spec(instances=(group,)), signature(), plan(engine))
    assert list(config.instance_group) == list(mc.parse(f"instance_group {{ {want} }}").instance_group)


@pytest.mark.parametrize(
    ("engine", "group", "message"),
    [
        ("tensorrt", Instances(kind="cpu"), "TensorRT runs on GPUs only"),
        ("python", Instances(kind="cpu", gpus=(0,)), "instances of kind cpu take no gpus"),
    ],
)
def test_instances_that_cannot_be(engine: ConcreteEngine, group: Instances, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        render.model_config(spec(instances=(group,)), signature(), plan(engine))


def test_several_profiles_are_all_used() -> None:
    opts = {"x": (1, 784)}, {"x": (32, 784)}
    config = render.model_config(spec(), signature(), plan("tensorrt", 32, *opts))
    assert list(config.instance_group[0].profile) == ["0", "1"]
    assert not render.model_config(spec(), signature(), plan("python", 32, *opts)).instance_group[0].profile


@pytest.mark.parametrize(
    ("batching", "batch", "present"),
    [
        (Batching(), 32, True),
        (Batching(), 1, False),
        (Batching(), 0, False),
        (Batching(dynamic=False), 32, False),
        (Batching(priority_levels=2), 1, True),
        (Batching(queue_policy=QueuePolicy(max_queue_size=9)), 1, True),
        (Batching(queue_policy=QueuePolicy(max_queue_size=9)), 0, False),
    ],
)
def test_when_there_is_a_dynamic_batcher(batching: Batching, batch: int, present: bool) -> None:
    assert render.model_config(spec(batching=batching), signature(), plan(batch=batch)).HasField(
        "dynamic_batching"
    ) == (present)


@pytest.mark.parametrize(("levels", "level"), [(1, 1), (2, 1), (3, 2), (4, 2)])
def test_requests_without_a_priority_get_the_middle_one(levels: int, level: int) -> None:
    batching = Batching(priority_levels=levels)
    config = render.model_config(spec(batching=batching), signature(), plan())
    assert config.dynamic_batching.default_priority_level == level


def test_a_preferred_batch_above_the_largest() -> None:
    with pytest.raises(ModelError, match="preferred batch size 64 is above max_batch_size 32"):
        render.model_config(spec(batching=Batching(preferred_batch_sizes=(8, 64))), signature(), plan())


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (VersionPolicy(), "latest { num_versions: 1 }"),
        (VersionPolicy(latest=2), "latest { num_versions: 2 }"),
        (VersionPolicy(all=True), "all { }"),
        (VersionPolicy(specific=(1, 3)), "specific { versions: [1, 3] }"),
    ],
)
def test_version_policy(policy: VersionPolicy, text: str) -> None:
    config = render.model_config(spec(versions=policy), signature(), plan())
    assert config.version_policy == mc.parse(f"version_policy {{ {text} }}").version_policy


# ---- warmup ----------------------------------------------------------------------------------------------------------

IMAGE = signature((Tensor("image", "FP32", ("n", 3, "h", "w")), Tensor("scale", "FP32", ("n",))))
IMAGE_OPT = {"image": (8, 3, 48, 320), "scale": (8,)}


def warmup_text(config: Any) -> list[Any]:
    return list(config.model_warmup)


def test_auto_warmup_takes_the_usual_shape() -> None:
    config = render.model_config(spec(), IMAGE, plan("python", 32, IMAGE_OPT))
    assert warmup_text(config) == warmup_text(
        mc.parse(
            """
            model_warmup {
              name: "opt" batch_size: 1
              inputs { key: "image" value { data_type: TYPE_FP32 dims: [3, 48, 320] zero_data: true } }
              inputs { key: "scale" value { data_type: TYPE_FP32 dims: [1] zero_data: true } }
            }
            """
        )
    )


def test_no_auto_warmup_where_a_shape_is_unknown_or_an_input_is_text_or_it_is_off() -> None:
    assert not render.model_config(spec(), IMAGE, plan()).model_warmup
    text = signature((Tensor("x", "STRING", ("n", 1)),))
    assert not render.model_config(spec(), text, plan()).model_warmup
    assert not render.model_config(spec(warmup="off"), signature(), plan()).model_warmup


def test_static_dims_need_no_profile_for_the_warmup() -> None:
    config = render.model_config(spec(), signature(), plan())
    assert list(config.model_warmup[0].inputs["x"].dims) == [784]


def test_explicit_warmup(tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "x.bin", tmp_path / "b" / "x.bin"
    for file in (first, second):
        file.parent.mkdir()
        file.write_bytes(bytes(4 * 3 * 8 * 8))
    requests = (
        Warmup(name="files", inputs={"image": WarmupInput(dims=(3, 8, 8), data=first)}),
        Warmup(name="other", inputs={"image": WarmupInput(dims=(3, 8, 8), data=second)}, batch_size=32, count=5),
        Warmup(name="again", inputs={"image": WarmupInput(data="random"), "scale": WarmupInput()}),
    )
    rendered = render.render(spec(warmup=requests), IMAGE, plan("python", 32, IMAGE_OPT), None)
    assert {name: source for name, source in rendered.model_files.items() if isinstance(source, Path)} == {
        "warmup/x.bin": first,
        "warmup/file2-x.bin": second,
    }
    config = config_of(rendered.model_files["config.pbtxt"])
    files, other, again = config.model_warmup
    assert files.inputs["image"].input_data_file == "x.bin" and files.inputs["scale"].zero_data
    assert (other.inputs["image"].input_data_file, other.batch_size, other.count) == ("file2-x.bin", 32, 5)
    assert again.inputs["image"].random_data and list(again.inputs["image"].dims) == [3, 48, 320]


@pytest.mark.parametrize(
    ("warmup", "message"),
    [
        (Warmup(name="w", inputs={"imgae": WarmupInput()}), r"(?s)no input 'imgae'.*did you mean 'image'\?"),
        (Warmup(name="w"), r"no dims for input 'image', whose dims without the batch axis are \[3, -1, -1\]"),
        (Warmup(name="w", inputs={"image": WarmupInput(dims=(4, 8, 8))}), "wrong dims for input 'image'"),
        (Warmup(name="w", inputs={"image": WarmupInput(dims=(3, 8))}), "wrong dims for input 'image'"),
        (Warmup(name="w", batch_size=33), "batch_size 33 is not within 1 to 32"),
        (Warmup(name="w", batch_size=0), "batch_size 0 is not within 1 to 32"),
    ],
)
def test_warmups_that_do_not_fit(warmup: Warmup, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        render.model_config(spec(warmup=(warmup,)), IMAGE, plan())


# ---- labels, response cache, pass-through ----------------------------------------------------------------------------


def test_labels_are_copied_and_named(tmp_path: Path) -> None:
    sig = signature(outputs=(Tensor("y", "FP32", ("n", 10)), Tensor("z", "FP32", ("n", 10))))
    files = {"y": tmp_path / "labels.txt", "z": tmp_path / "sub" / "labels.txt"}
    for file in files.values():
        file.parent.mkdir(exist_ok=True)
        file.write_text("a\nb\n")
    rendered = render.render(spec(labels=files), sig, plan(), None)
    config = config_of(rendered.model_files["config.pbtxt"])
    assert [output.label_filename for output in config.output] == ["labels.txt", "file2-labels.txt"]
    assert rendered.model_files["labels.txt"] == files["y"]
    assert rendered.model_files["file2-labels.txt"] == files["z"]


@pytest.mark.parametrize("name", ["config.pbtxt", "1", "2.verdict.json", "warmup"])
def test_a_label_file_cannot_take_the_place_of_another_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("a")
    rendered = render.render(spec(labels={"y": tmp_path / name}), signature(), plan(), None)
    assert rendered.model_files[f"file2-{name}"] == tmp_path / name


def test_labels_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="labels: the model has no output 'z'; it has 'y'"):
        render.render(spec(labels={"z": tmp_path / "l.txt"}), signature(), plan(), None)
    with pytest.raises(ModelError, match=r"l\.txt: there is no such label file"):
        render.render(spec(labels={"y": tmp_path / "l.txt"}), signature(), plan(), None)


def test_pass_through_wins_and_is_merged() -> None:
    passed = {
        "dynamic_batching": {"max_queue_delay_microseconds": 0},
        "parameters": {"intra_op_thread_count": {"string_value": "2"}},
        "instance_group": [{"kind": "KIND_CPU", "count": 4, "host_policy": "numa0"}],
    }
    batching = Batching(preserve_ordering=True, max_queue_delay_us=700)
    config = render.model_config(spec(batching=batching, config=passed), signature(), plan())
    assert config.dynamic_batching.preserve_ordering and config.dynamic_batching.max_queue_delay_microseconds == 0
    assert config.instance_group[0].host_policy == "numa0" and len(config.instance_group) == 1
    assert config.parameters["intra_op_thread_count"].string_value == "2"
    assert config.input[0].name == "x"


def test_pass_through_cannot_change_what_was_planned() -> None:
    with pytest.raises(ModelError, match=r"config\.name says 'other'"):
        render.model_config(spec(config={"name": "other"}), signature(), plan())
    with pytest.raises(
        ModelError, match=r"config\.max_batch_size says 0, but the model is planned and verified for 32"
    ):
        render.model_config(spec(config={"max_batch_size": 0}), signature(), plan())
    assert render.model_config(spec(config={"name": "mlp", "max_batch_size": 32}), signature(), plan()).name == "mlp"


def test_pass_through_faults_are_spec_faults() -> None:
    with pytest.raises(SpecError, match="did you mean dynamic_batching"):
        render.model_config(spec(config={"dynamic_batchin": {}}), signature(), plan())


# ---- goldens ---------------------------------------------------------------------------------------------------------

FULL_BATCHING = Batching(
    max_queue_delay_us=2000,
    preferred_batch_sizes=(8, 16),
    preserve_ordering=False,
    priority_levels=3,
    default_priority_level=2,
    queue_policy=QueuePolicy(max_queue_size=100),
    priority_queue_policies={
        1: QueuePolicy(timeout_action="delay", default_timeout_us=1000, allow_timeout_override=True),
        3: QueuePolicy(max_queue_size=10),
    },
)
GOLDENS: Mapping[str, tuple[ModelSpec, Signature, Plan]] = {
    "mlp_python": (spec(), signature(), plan()),
    "static_python": (
        spec(versions=VersionPolicy(all=True), warmup="off"),
        signature((Tensor("gpu_0/data_0", "FP32", (1, 3, 224, 224)), Tensor("scale", "FP32", ()))),
        plan("python", 0, name="classic"),
    ),
    "text_python": (
        spec(instances=(Instances(count=2),), response_cache=True),
        signature((Tensor("text", "STRING", ("n",)),), (Tensor("label", "STRING", ("n", 1)),)),
        plan(name="text"),
    ),
    "batching_onnxruntime": (
        spec(batching=FULL_BATCHING, versions=VersionPolicy(specific=(2, 5))),
        IMAGE,
        plan("onnxruntime", 32, IMAGE_OPT, name="ocr"),
    ),
    "profiles_tensorrt": (
        spec(instances=(Instances(count=2, gpus=(0,)), Instances(gpus=(1,)))),
        IMAGE,
        plan("tensorrt", 32, IMAGE_OPT, {"image": (32, 3, 48, 640), "scale": (32,)}, name="ocr"),
    ),
    "pass_through": (
        spec(
            config={
                "parameters": {f"nasty {n}": {"string_value": text} for n, text in enumerate(NASTY)},
                "sequence_batching": {
                    "direct": {"minimum_slot_utilization": 0.1},
                    "control_input": [
                        {
                            "name": "START",
                            "control": [{"kind": "CONTROL_SEQUENCE_START", "fp32_false_true": [0, 1]}],
                        }
                    ],
                },
                "optimization": {"cuda": {"graphs": True, "graph_spec": [{"input": {"x": {"dim": [784]}}}]}},
                "metric_tags": {"b": "2", "a": "1"},
            }
        ),
        signature((Tensor('a "quoted" \\ ünï', "FP32", ("n", 2)),)),
        plan(name="odd"),
    ),
}


@pytest.mark.parametrize("name", GOLDENS)
def test_golden(name: str) -> None:
    got = render.render(*GOLDENS[name], None).model_files["config.pbtxt"]
    assert isinstance(got, bytes)
    file = GOLDEN / f"{name}.pbtxt"
    if os.environ.get("UPDATE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(got)
    assert got.decode() == file.read_bytes().decode()


def test_rendering_twice_gives_the_same_bytes() -> None:
    for one in GOLDENS.values():
        assert render.render(*one, None) == render.render(*one, None)


def test_line_breaks_in_reasons_stay_in_the_comment() -> None:
    reasons = Plan(
        "m", "python", 'no GPU\nname: "evil"\x0bname: 1', 1, 'rows\r\nmax_batch_size: 7\u2028backend: "x"\ud800', (), {}
    )
    config = config_of(render.render(spec(), signature(), reasons, None).model_files["config.pbtxt"])
    assert (config.name, config.max_batch_size, config.backend) == ("m", 1, "python")


def test_the_python_engine_has_a_model_py_and_the_others_do_not() -> None:
    assert set(render.render(spec(), signature(), plan(), None).version_files) == {"model.py"}
    assert render.render(spec(), signature(), plan("onnxruntime"), None).version_files == {}


def test_tensor_names_cannot_break_model_py() -> None:
    names = [f"{text}{n}" for n, text in enumerate(NASTY)]
    sig = signature(tuple(Tensor(name, "STRING", ("n", 1)) for name in names), (Tensor('y"\n\\', "STRING", ("n", 1)),))
    code = render.render(spec(), sig, plan(), None).version_files["model.py"].decode()
    constants = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(code).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    assert constants == {"INPUTS": tuple(names), "OUTPUTS": ('y"\n\\',), "TEXT_INPUTS": tuple(names)}


# ---- any ModelConfig -------------------------------------------------------------------------------------------------


def scalars(field: Any, enums: tuple[int, ...] = ()) -> st.SearchStrategy[Any]:
    ranges = {1: (-(2**31), 2**31 - 1), 2: (-(2**63), 2**63 - 1), 3: (0, 2**32 - 1), 4: (0, 2**64 - 1)}
    if field.cpp_type in ranges:
        return st.integers(*ranges[field.cpp_type]) | st.sampled_from(ranges[field.cpp_type])
    if field.cpp_type in {field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE}:
        return st.floats(width=32 if field.cpp_type == field.CPPTYPE_FLOAT else 64)
    if field.cpp_type == field.CPPTYPE_BOOL:
        return st.booleans()
    if field.cpp_type == field.CPPTYPE_ENUM:
        return st.sampled_from([*field.enum_type.values_by_number, *enums])
    assert field.cpp_type == field.CPPTYPE_STRING and field.type == field.TYPE_STRING, "a new kind of field"
    return st.sampled_from(NASTY) | st.text(st.characters(exclude_categories=["Cs"]))


@st.composite
def messages(draw: st.DrawFn, descriptor: Any, enums: tuple[int, ...] = ()) -> Any:
    """Any message of a type: each field may be set, at most one of each oneof; ``enums`` are values without a name."""
    kind: Any = mc.schema()
    for part in descriptor.full_name.split(".")[1:]:
        kind = getattr(kind, part)
    result = kind()
    names = [field.name for field in descriptor.fields]
    count = draw(st.integers(0, min(4, len(names))))
    for name in draw(st.lists(st.sampled_from(names), min_size=count, max_size=count, unique=True)) if names else ():
        fill(draw, result, descriptor.fields_by_name[name], enums)
    return result


def fill(draw: st.DrawFn, message: Any, field: Any, enums: tuple[int, ...]) -> None:
    target = getattr(message, field.name)
    if mc.is_map(field):
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        for name in draw(st.lists(scalars(key), max_size=2)):
            if value.message_type is None:
                target[name] = draw(scalars(value, enums))
            else:
                target[name].CopyFrom(draw(messages(value.message_type, enums)))
    elif mc.is_repeated(field):
        if field.message_type is None:
            target.extend(draw(st.lists(scalars(field, enums), max_size=3)))
        else:
            target.extend(draw(st.lists(messages(field.message_type, enums), max_size=2)))
    elif field.message_type is not None:
        target.CopyFrom(draw(messages(field.message_type, enums)))
        target.SetInParent()
    else:
        setattr(message, field.name, draw(scalars(field, enums)))


MODEL_CONFIG = mc.schema().ModelConfig.DESCRIPTOR
PROPERTY = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@PROPERTY
@given(messages(MODEL_CONFIG, enums=(99,)))  # proto3 enums are open
def test_any_config_reads_back_as_what_was_meant(config: Any) -> None:
    text = render._config_text(config, None, {"config": config, "plan": plan()})
    got = mc.parse(text)
    assert mc.first_difference(config, got) is None
    if not has_nan(config):  # protobuf's own word, where it has one
        assert config == got
    assert "max_batch_size:" in text


@PROPERTY
@given(messages(MODEL_CONFIG))
def test_any_config_can_be_passed_through(config: Any) -> None:
    mapping = to_mapping(config)
    assert mc.faults_in(mapping) == []
    assert mc.first_difference(mc.from_mapping(mapping), config) is None
    assert mc.first_difference(mc.merged(config, mapping), config) is None


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_quote_has_no_bare_control_characters_and_keeps_readable_text(text: str) -> None:
    quoted = _templates.quote(text)
    inner = quoted[1:-1].replace("\\\\", "").replace('\\"', "")
    assert '"' not in inner
    assert len(quoted.splitlines()) == 1
    assert all(letter in quoted for letter in text if letter.isalnum())


def has_nan(message: Any) -> bool:
    return "nan" in str(message).lower() and any(
        has_nan(item) if hasattr(item, "ListFields") else isinstance(item, float) and math.isnan(item)
        for field, value in message.ListFields()
        for item in ([value] if not mc.is_repeated(field) else value.values() if mc.is_map(field) else value)
    )


def to_mapping(message: Any) -> dict[str, Any]:
    """A message as YAML would say it."""
    result: dict[str, Any] = {}
    for field, value in message.ListFields():
        item_field = field.message_type.fields_by_name["value"] if mc.is_map(field) else field

        def plain(item: Any, of: Any = item_field) -> Any:
            if of.message_type is not None:
                return to_mapping(item)
            if of.enum_type is not None:
                return of.enum_type.values_by_number[item].name
            return item

        if mc.is_map(field):
            result[field.name] = {key: plain(item) for key, item in value.items()}
        elif mc.is_repeated(field):
            result[field.name] = [plain(item) for item in value]
        else:
            result[field.name] = plain(value)
    return result


# ---- templates of the user -------------------------------------------------------------------------------------------


def template(folder: Path, text: str, name: str = "config.pbtxt.j2") -> Path:
    (folder / name).write_text(text)
    return folder


def failure(folder: Path) -> TemplateError:
    with pytest.raises(TemplateError) as caught:
        render.render(spec(), signature(), plan(), folder)
    return caught.value


def test_a_users_template_takes_the_place_of_the_built_in_one(tmp_path: Path) -> None:
    template(tmp_path, '# Owner: team vision.\n{% include "built-in/config.pbtxt.j2" %}\n')
    rendered = render.render(spec(), signature(), plan(), tmp_path)
    built_in = render.render(spec(), signature(), plan(), None)
    text = built_in.model_files["config.pbtxt"]
    assert isinstance(text, bytes)
    assert rendered.model_files["config.pbtxt"] == b"# Owner: team vision.\n" + text
    assert rendered.version_files == built_in.version_files


def test_a_users_templates_may_share_a_part(tmp_path: Path) -> None:
    template(tmp_path, "# shared\n", "part.j2")
    part = '{% include "part.j2" %}'
    template(tmp_path, part + '{% include "built-in/config.pbtxt.j2" %}')
    template(tmp_path, part + '{% include "built-in/model.py.j2" %}', "model.py.j2")
    rendered = render.render(spec(), signature(), plan(), tmp_path)
    for content in (rendered.model_files["config.pbtxt"], rendered.version_files["model.py"]):
        assert isinstance(content, bytes) and content.startswith(b"# shared\n# Model mlp")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ('name: "{{ config.name }}"\n\nx: {{ nothing }}\n', 3, "'nothing' is undefined"),
        ("{{ config.nonsense }}", 1, "has no attribute 'nonsense'"),
        ("# fine\n{% for %}", 2, "Expected an expression"),
        ("# fine\n{% if true %}\n", 2, "Unexpected end of template"),
        ("\n{% include 'missing.j2' %}", 2, "there is no template missing.j2"),
        ("\n\n{{ 1 / 0 }}", 3, "ZeroDivisionError: division by zero"),
        ("\n{{ 5 | quote }}", 2, "TypeError"),
        ("{{ 'x' | nofilter }}", 1, "No filter named 'nofilter'"),
        ("{% import 'broken.j2' as broken %}\n{{ broken.macro() }}", 1, "there is no template broken.j2"),
    ],
)
def test_template_errors_say_where(tmp_path: Path, text: str, line: int, message: str) -> None:
    error = failure(template(tmp_path, text))
    assert message in error.message
    assert error.where == Where(str(tmp_path / "config.pbtxt.j2"), line)


def test_the_line_is_that_of_the_included_template(tmp_path: Path) -> None:
    template(tmp_path, "\n{{ nothing }}", "part.j2")
    error = failure(template(tmp_path, "{% include 'part.j2' %}"))
    assert error.where == Where(str(tmp_path / "part.j2"), 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name: "mlp"', "something other than what was meant: backend differs"),
        (
            'name: "mlp"\nbackend: "python"\nversion_policy { latest { num_versions: 1 } }\nmax_batch_size: 8',
            "max_batch_size differs",
        ),
    ],
)
def test_a_template_that_says_something_else(tmp_path: Path, text: str, message: str) -> None:
    assert message in failure(template(tmp_path, text)).message


def test_a_template_that_lays_out_no_config(tmp_path: Path) -> None:
    error = failure(template(tmp_path, '# x\nname: "{{ config.name }}" }\n'))
    assert "text that Triton cannot read" in error.message
    assert error.hint == 'line 2 is: name: "mlp" }'


def test_a_template_that_lays_out_no_python(tmp_path: Path) -> None:
    error = failure(template(tmp_path, "import os\ndef f(:\n", "model.py.j2"))
    assert "model.py.j2 lays out Python that does not parse" in error.message
    assert error.hint == "line 2 is: def f(:"


def test_a_missing_folder_of_templates(tmp_path: Path) -> None:
    missing = tmp_path / "no"
    with pytest.raises(TemplateError) as digest:
        render.templates_digest(missing)
    for error in (digest.value, failure(missing)):
        assert str(error) == f"{missing}: there is no such folder of templates"


def test_digest_changes_with_what_can_be_rendered(tmp_path: Path) -> None:
    built_in = render.templates_digest(None)
    assert render.templates_digest(tmp_path) == built_in  # an empty folder overrides nothing
    digests = {built_in}
    for name, text in [("config.pbtxt.j2", "a"), ("config.pbtxt.j2", "b"), ("part.txt", "b"), ("sub/part.txt", "b")]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        digests.add(render.templates_digest(tmp_path))
    (tmp_path / "part.txt").rename(tmp_path / "part2.txt")
    digests.add(render.templates_digest(tmp_path))
    assert len(digests) == 6


def test_digest_and_import_leave_the_heavy_libraries_alone() -> None:
    code = (
        "import sys; from tritonrepo import render; render.templates_digest(None);"
        "print([m for m in ('jinja2', 'google.protobuf', 'onnx', 'onnxruntime', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- the real server -------------------------------------------------------------------------------------------------


@pytest.mark.server
def test_the_server_reads_what_was_written(tmp_path: Path, triton: StartTriton, write_model: WriteModel) -> None:
    """Its C++ parser gives back each nasty text as it was; NUL is left out, which its C strings cannot carry."""
    texts = {f"{n} {text}": text for n, text in enumerate(NASTY) if "\x00" not in text}
    parameters = {"parameters": {key: {"string_value": text} for key, text in texts.items()}}
    name = 'a "quoted" \\ ünï\n漢字'
    sig = signature((Tensor(name, "FP32", ("n", 2)),), (Tensor("y", "FP32", ("n", 2)),))
    rendered = render.render(spec(config=parameters, warmup="off"), sig, plan(name="nasty"), None)
    folder = write_model(tmp_path, "nasty")
    text = rendered.model_files["config.pbtxt"]
    assert isinstance(text, bytes)
    (folder / "config.pbtxt").write_bytes(text)
    server = triton(tmp_path, probe=False)
    with urllib.request.urlopen(f"http://{server.http_url}/v2/models/nasty/config") as reply:
        config = json.load(reply)
    assert {key: value["string_value"] for key, value in config["parameters"].items()} == texts
    assert config["input"][0]["name"] == name
    assert config["max_batch_size"] == 32
