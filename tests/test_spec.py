"""Loading models.yaml: what is accepted, what it means, and how every fault is reported."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tritonrepo import _schema
from tritonrepo.errors import SpecError, UsageError
from tritonrepo.spec import AxisRange, ModelSpec, Spec, TensorRange, fragment, json_schema, load_spec, spec_for

ROOT = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the (empty) files that specs of these tests name."""
    for name in ("a.onnx", "b.onnx", "models/c.onnx", "labels.txt", "s.npz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def load(folder: Path, text: str, **environ: str) -> Spec:
    file = folder / "models.yaml"
    file.write_text(text)
    return load_spec(file, environ=environ)


def faults(folder: Path, text: str, **environ: str) -> list[str]:
    """Every fault as ``line:column path: message | hint``."""
    with pytest.raises(SpecError) as caught:
        load(folder, text, **environ)
    lines = []
    for fault in caught.value.faults:
        assert fault.where is not None
        assert fault.where.file == folder / "models.yaml"
        place = ":".join(str(part) for part in (fault.where.line, fault.where.column) if part)
        lines.append(f"{place} {fault.path}: {fault.message}" + (f" | {fault.hint}" if fault.hint else ""))
    return [line.replace(f"{folder}/", "") for line in lines]


def model_faults(folder: Path, body: str, **environ: str) -> list[str]:
    """Faults of one model whose settings are ``body``, one line each; its paths without ``models[0].``."""
    text = "models:\n- onnx: a.onnx\n" + "".join(f"  {line}\n" for line in body.splitlines())
    return [line.split(" ", 1)[1].replace("models[0].", "") for line in faults(folder, text, **environ)]


# ---- what is accepted ----------------------------------------------------------------------------------------------


def test_the_least_spec(folder: Path) -> None:
    assert load(folder, "models: [{onnx: a.onnx}]") == Spec(
        repository=folder / "model_repository",
        cache=folder / ".tritonrepo",
        models=(ModelSpec(name="a", onnx=folder / "a.onnx"),),
    )


FULL = """\
repository: out
triton: 26.10
keep_versions: 5
cache: ~/cache
templates: models
defaults:
  engine: python
  batching: {max_queue_delay_us: 100, queue_policy: {max_queue_size: 4}}
  versions: {latest: 2}
  config: {parameters: {one: {string_value: 1}}}
models:
  - name: 2024
    onnx: models/c.onnx
    precision: fp16
    shapes:
      height: {min: 1, opt: 2, max: 3}
      x: {min: [1, 2], max: [3, 4]}
    labels: {495: labels.txt}
    batching:
      max_batch_size: 16
      opt_batch_size: 8
      preferred_batch_sizes: [8, 16]
      priority_levels: 2
      default_priority_level: 1
      queue_policy: {timeout_action: delay}
      priority_queue_policies: {2: {max_queue_size: 9}}
    instances:
      - {count: 2, kind: gpu, gpus: [0, 1]}
    verification:
      samples: [s.npz]
      low: -1
      tolerance: {atol: 1e-4}
      outputs: {yes: {rtol: 0.5}}
    versions: {all: true}
    warmup:
      - {name: first, inputs: {x: {dims: [2], data: labels.txt}, z: {data: random}}}
    response_cache: true
    config: {parameters: {two: {string_value: b}}}
  - onnx: a.onnx
    warmup: off
"""


def test_everything_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder / "home"))
    loaded = load(folder, FULL)
    assert (loaded.repository, loaded.cache) == (folder / "out", folder / "home" / "cache")
    assert (loaded.triton, loaded.keep_versions, loaded.templates) == ("26.10", 5, folder / "models")
    first, second = loaded.models
    assert (first.name, first.onnx, first.engine) == ("2024", folder / "models" / "c.onnx", "python")
    assert first.shapes == {
        "height": AxisRange(min=1, opt=2, max=3),
        "x": TensorRange(min=(1, 2), opt=None, max=(3, 4)),
    }
    assert first.labels == {"495": folder / "labels.txt"}
    assert first.verification.samples == (folder / "s.npz",)
    assert first.verification.tolerance.atol == 1e-4
    assert list(first.verification.outputs) == ["yes"]
    assert isinstance(first.warmup, tuple)
    assert first.warmup[0].inputs["x"].data == folder / "labels.txt"
    assert first.warmup[0].inputs["z"].data == "random"
    assert (second.name, second.warmup, second.engine) == ("a", "off", "python")


def test_defaults_lie_under_each_model(folder: Path) -> None:
    first, second = load(folder, FULL).models
    assert first.batching.max_queue_delay_us == second.batching.max_queue_delay_us == 100
    assert first.batching.queue_policy is not None
    assert first.batching.queue_policy.max_queue_size == 4  # mappings merge at every depth
    assert first.batching.queue_policy.timeout_action == "delay"
    assert first.config == {"parameters": {"one": {"string_value": "1"}, "two": {"string_value": "b"}}}
    assert first.versions.latest is None  # the keys of versions exclude each other, so a model replaces them all
    assert second.versions.latest == 2


def test_what_a_further_config_leaves_out_is_as_the_model_says(folder: Path) -> None:
    text = """\
defaults: {batching: {max_queue_delay_us: 100}}
models:
- onnx: a.onnx
  batching: {max_batch_size: 8, priority_levels: 2}
  configs:
    h200: {gpus: [sm90], batching: {max_batch_size: 64}}
    small: {gpus: [sm_75, '8.6'], profiles: single}
"""
    model = load(folder, text).models[0]
    large = model.configs["h200"].batching
    assert large is not None
    assert (large.max_batch_size, large.priority_levels, large.max_queue_delay_us) == (64, 2, 100)
    assert (model.configs["h200"].gpus, model.configs["small"].gpus) == (("9.0",), ("7.5", "8.6"))
    assert model.configs["small"].batching is None


def test_lists_replace_and_empty_keys_take_away(folder: Path) -> None:
    text = """\
defaults:
  instances: [{count: 2}, {count: 3}]
  batching: {opt_batch_size: 4, max_queue_delay_us: 7}
  verification:
models:
  - {onnx: a.onnx, instances: [{count: 1}], batching: {opt_batch_size: }}
  - {onnx: b.onnx, batching: , config: }
"""
    first, second = load(folder, text).models
    assert [group.count for group in first.instances] == [1]
    assert (first.batching.opt_batch_size, first.batching.max_queue_delay_us) == (None, 7)
    assert [group.count for group in second.instances] == [2, 3]
    assert (second.batching.opt_batch_size, second.batching.max_queue_delay_us) == (4, 7)


def test_paths_are_seen_from_the_spec_whatever_the_current_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "specs").mkdir()
    (folder / "link.onnx").symlink_to("a.onnx")
    (folder / "specs" / "models.yaml").write_text(f"models: [{{onnx: ../link.onnx}}, {{onnx: {folder}/b.onnx}}]")
    monkeypatch.chdir(folder / "models")
    loaded = load_spec(Path("../specs/models.yaml"))
    assert [model.onnx for model in loaded.models] == [folder / "link.onnx", folder / "b.onnx"]
    assert loaded.repository == folder / "specs" / "model_repository"


def test_variables(folder: Path) -> None:
    text = "triton: ${TAG}\nmodels:\n- onnx: ${WHERE:-models}/c.onnx\n  batching:\n    max_batch_size: ${SIZE}\n"
    loaded = load(folder, text, TAG="26.10", SIZE="4")
    assert loaded.triton == "26.10"
    assert loaded.models[0].onnx == folder / "models" / "c.onnx"
    assert loaded.models[0].batching.max_batch_size == 4


def test_an_alias_is_what_it_stands_for(folder: Path) -> None:
    text = "models:\n- &a {onnx: a.onnx, batching: &b {max_batch_size: 4}}\n- {<<: *a, onnx: b.onnx, batching: *b}"
    assert [(model.name, model.batching.max_batch_size) for model in load(folder, text).models] == [("a", 4), ("b", 4)]


# ---- faults --------------------------------------------------------------------------------------------------------


def test_all_faults_come_at_once_in_the_order_of_the_file(folder: Path) -> None:
    text = """\
triton: 26.13
modles: []
defaults:
  batching: {max_queue_delay: 5}
  versions: {latest: 0}
models:
  - name: "é t/x"
    onnx: aa.onnx
    batching: {max_batch_size: -1}
    shapes: {w: 5}
  - onnx: a.onnx
    onnx: ${NOPE}/b.onnx
  - b.onnx
  - {}
"""
    assert faults(folder, text) == [
        '1:9 triton: must be a release, year.month such as 26.09, not "26.13"',
        "2:1 modles: is not a setting here | did you mean models?",
        "4:14 defaults.batching.max_queue_delay: is not a setting here | did you mean max_queue_delay_us?",
        "5:22 defaults.versions.latest: must be at least 1, not 0",
        '7:11 models[0].name: "é t/x" is not fit for a directory and a URL | for instance: name: e_t_x',
        "8:11 models[0].onnx: aa.onnx does not exist | did you mean a.onnx?",
        "9:32 models[0].batching.max_batch_size: must be auto or at least 0, not -1",
        "10:17 models[0].shapes.w: must be a mapping (min, opt, max), not 5",
        "12:5 models[1].onnx: already given at line 11 | keep one of the two",
        "12:11 models[1].onnx: the environment variable NOPE is not set | set it, or give a default: ${NOPE:-default}",
        '13:5 models[2]: must be a mapping with the key onnx, not "b.onnx" | write: - onnx: b.onnx',
        "14:5 models[3].onnx: is missing",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", " : the spec is empty | write a spec with: tritonrepo init *.onnx"),
        ("# nothing\n", " : the spec is empty | write a spec with: tritonrepo init *.onnx"),
        ("- onnx: a.onnx\n", "1:1 : the spec must be a mapping with the key models, not a list | "
         "put models: above the list"),
        ("a.onnx\n", '1:1 : the spec must be a mapping with the key models, not "a.onnx" | write a spec with: '
         "tritonrepo init *.onnx"),
        ("triton: 26.10\n", "1:1 models: there are no models | write a spec with: tritonrepo init *.onnx"),
        ("models:\n", "1:1 models: there are no models | write a spec with: tritonrepo init *.onnx"),
        ("models: {onnx: a.onnx}\n", "1:9 models: must be a list, not a mapping"),
        ("defaults: 3\nmodels: [{onnx: a.onnx}]\n", "1:11 defaults: must be a mapping, not 3"),
        ("a: [\n", "2:1 : not YAML: did not find expected node content | a quote, bracket or brace is not closed"),
        ("models:\n\t- onnx: a\n", "2:1 : a tab at line 2; YAML is indented with spaces"),
        ("triton: '26.1'\nmodels: [{onnx: a.onnx}]",
         '1:9 triton: must be a release, year.month such as 26.09, not "26.1"'),
        ("triton: true\nmodels: [{onnx: a.onnx}]", '1:9 triton: must be text, not true | write "true", in quotes'),
        ("keep_versions: 0\nmodels: [{onnx: a.onnx}]", "1:16 keep_versions: must be at least 1, not 0"),
        ("templates: nope\nmodels: [{onnx: a.onnx}]", "1:12 templates: there is no folder nope"),
        ("cache: model_repository/c\nmodels: [{onnx: a.onnx}]",
         "1:8 cache: the cache model_repository/c lies in the repository model_repository | Triton takes every folder "
         "in its repository for a model; put the cache elsewhere"),
        ("repository: .\nmodels: [{onnx: a.onnx}]",
         "1:13 repository: the cache .tritonrepo lies in the repository {folder} | Triton takes every folder in its "
         "repository for a model; put the cache elsewhere"),
        ("repository: .tritonrepo/r\nmodels: [{onnx: a.onnx}]",
         "1:13 repository: the repository .tritonrepo/r lies in the cache .tritonrepo | the cache may be deleted at "
         "any time; put the repository elsewhere"),
    ],
)  # fmt: skip
def test_faults_of_the_file(folder: Path, text: str, fault: str) -> None:
    assert faults(folder, text) == [fault.replace("{folder}", str(folder))]


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("engine: pyton", 'engine: must be auto, tensorrt, onnxruntime or python, not "pyton" | did you mean python?'),
        ("engine:", None),
        ("precision: [fp16]", "precision: must be fp32, fp16, mixed, bf16, int8 or a mapping (type, io, keep_fp32, "
         "search, max_runs, calibration, calibration_method, rest, percentile), not a list"),
        ("precision: mixed", None),
        ("precision: {type: fp16, io: convert, keep_fp32: [Softmax], max_runs: 9}", None),
        ("precision: {kind: fp16}", "precision.kind: is not a setting here | known here: type, io, keep_fp32, search, "
         "max_runs, calibration, calibration_method, rest, percentile"),
        ("precision: {type: fp61}", 'precision.type: must be fp32, fp16, mixed, bf16 or int8, not "fp61" | did '
         "you mean fp16?"),
        ("precision: int8", "precision: int8 needs samples to take its ranges from | give precision.calibration or "
         "verification.samples: files .npz with inputs that the model is made for"),
        ("precision: {type: bf16, io: convert}", "precision.io: convert makes FP16 of inputs and outputs, which type "
         "bf16 does not | leave it out, or set type: fp16 or mixed"),
        ("precision: {type: fp16, percentile: 99}", "precision.percentile: has no effect: type is fp16"),
        ("precision: {keep_fp32: [Conv]}", "precision.keep_fp32: has no effect: type is fp32"),
        ("precision: {type: fp16, search: false, max_runs: 3}", "precision.max_runs: has no effect: search is false"),
        ("precision: {type: int8, calibration: [none.npz]}",
         "precision.calibration[0]: none.npz does not exist"),
        ("max_batch_size: 3", "max_batch_size: is not a setting here | max_batch_size belongs under batching"),
        ("Batching: {}", "Batching: is not a setting here | did you mean batching?"),
        ("instance_group: []", "instance_group: is not a setting here | did you mean instances?"),
        ("optimization: {}", "optimization: is not a setting here | known here: name, onnx, shapes, shape_values, "
         "labels, engine, precision, prepare, batching, instances, profiles, cuda_graphs, tensorrt, accelerator, "
         "accelerator_parameters, accelerator_cache, fallback, configs, verification, versions, warmup, "
         "response_cache, config; Triton's "
         "own fields go under config"),
        ("batching: 3", "batching: must be a mapping (max_batch_size, default_max_batch_size, opt_batch_size, dynamic, "
         "max_queue_delay_us, preferred_batch_sizes, preserve_ordering, priority_levels, default_priority_level, "
         "queue_policy, priority_queue_policies), not 3"),
        ("batching: {max_batch_size: true}", "batching.max_batch_size: must be auto or a whole number, not true"),
        ("batching: {max_batch_size: '8'}", 'batching.max_batch_size: must be auto or a whole number, not "8"'),
        ("batching: {max_batch_size: atuo}", 'batching.max_batch_size: must be auto or a whole number, not "atuo" | '
         "did you mean auto?"),
        ("batching: {max_batch_size: 1.5}", "batching.max_batch_size: must be auto or a whole number, not 1.5"),
        ("batching: {max_batch_size: 2147483648}",
         "batching.max_batch_size: must be auto or at most 2147483647, not 2147483648"),
        ("batching: {dynamic: yes}", 'batching.dynamic: must be true or false, not "yes" | write true'),
        ("batching: {dynamic: Off}", 'batching.dynamic: must be true or false, not "Off" | write false'),
        ("batching: {dynamic: 1}", "batching.dynamic: must be true or false, not 1"),
        ("batching: {preferred_batch_sizes: 4}", "batching.preferred_batch_sizes: must be a list, not 4 | write [4]"),
        ("batching: {preferred_batch_sizes: [4, 64]}",
         "batching.preferred_batch_sizes[1]: 64 is more than default_max_batch_size, 32"),
        ("batching: {max_batch_size: 8, preferred_batch_sizes: [9]}",
         "batching.preferred_batch_sizes[0]: 9 is more than max_batch_size, 8"),
        ("batching: {max_batch_size: 8, opt_batch_size: 9}",
         "batching.opt_batch_size: 9 is more than max_batch_size, 8"),
        ("batching: {max_batch_size: 0, opt_batch_size: 9}",
         "batching.opt_batch_size: has no effect: max_batch_size is 0"),
        ("batching: {max_batch_size: 0, preferred_batch_sizes: [1]}",
         "batching.preferred_batch_sizes: has no effect: max_batch_size is 0"),
        ("batching: {dynamic: false, queue_policy: {max_queue_size: 3}}",
         "batching.queue_policy: has no effect: dynamic is false"),
        ("batching: {dynamic: false, opt_batch_size: 4}", None),
        ("batching: {max_batch_size: 0}", None),
        ("batching: {default_priority_level: 1}",
         "batching.default_priority_level: there are no priority levels | set priority_levels"),
        ("batching: {priority_levels: 2, default_priority_level: 3}",
         "batching.default_priority_level: must be a level from 1 to 2, not 3"),
        ("batching: {priority_levels: 2, default_priority_level: 0}",
         "batching.default_priority_level: must be a level from 1 to 2, not 0"),
        ("batching: {priority_levels: 2, priority_queue_policies: {3: {}}}",
         'batching.priority_queue_policies["3"]: levels go from 1 to 2'),
        ("batching: {priority_queue_policies: {1: {}}}",
         'batching.priority_queue_policies["1"]: there are no priority levels | set priority_levels'),
        ("batching: {priority_levels: 2, priority_queue_policies: {high: {}}}",
         'batching.priority_queue_policies.high: the key must be a whole number, not "high"'),
        ("batching: {priority_levels: 2, priority_queue_policies: {0: {}}}",
         'batching.priority_queue_policies["0"]: the key must be at least 1, not "0"'),
        ("batching: {priority_levels: 2, preserve_ordering: true}",
         "batching.preserve_ordering: cannot be kept with several priority levels, which let requests overtake each "
         "other"),
        ("batching: {preserve_ordering: true, queue_policy: {timeout_action: delay, default_timeout_us: 5}}",
         "batching.queue_policy.timeout_action: delay puts late requests behind others, which preserve_ordering "
         "forbids | use reject, or no timeout"),
        ("batching: {preserve_ordering: true, priority_levels: 1, "
         "priority_queue_policies: {1: {timeout_action: delay, default_timeout_us: 5}}}",
         'batching.priority_queue_policies["1"].timeout_action: delay puts late requests behind others, which '
         "preserve_ordering forbids | use reject, or no timeout"),
        ("batching: {preserve_ordering: true, queue_policy: {timeout_action: delay}}", None),
        ("batching: {preserve_ordering: true, queue_policy: {default_timeout_us: 5}}", None),
        ("instances: {count: 1}", "instances: must be a list, not a mapping"),
        ("instances: []", "instances: must be a list with at least one entry, not an empty list"),
        ("instances: [{kind: cpu, gpus: [0]}]", "instances[0].gpus: instances of kind cpu take no gpus"),
        ("instances: [{gpus: [-1]}]", "instances[0].gpus[0]: must be at least 0, not -1"),
        ("engine: tensorrt\ninstances: [{kind: cpu}]",
         "instances[0].kind: the engine tensorrt runs on GPUs only | use gpu, or auto"),
        ("shapes: {h: {min: 3}}", "shapes.h.max: is missing"),
        ("shapes: {h: {min: 3, max: 4, mox: 5}}", "shapes.h.mox: is not a setting here | did you mean max?"),
        ("shapes: {'a/h 1': [1, 2]}", 'shapes["a/h 1"]: must be a mapping (min, opt, max), not a list'),
        ("shapes: {h: {min: 3, max: 2}}", "shapes.h: must be min <= opt <= max"),
        ("shapes: {h: {min: 1, opt: 9, max: 2}}", "shapes.h: must be min <= opt <= max"),
        ("shapes: {h: {min: 0, max: 2}}", "shapes.h.min: must be at least 1, not 0"),
        ("shapes: {x: {min: [1, 2], max: 3}}", "shapes.x.max: must be a list, not 3 | write [3]"),
        ("shapes: {x: {min: [1, 2], max: [3]}}", "shapes.x: min, opt and max must have the same number of dims"),
        ("shapes: {x: {min: [1, 2], max: [3, 1]}}", "shapes.x: must be min <= opt <= max in each dim"),
        ("verification: {generated: 0}", "verification.generated: without samples and with generated: 0 there is "
         "nothing to verify with | give samples, or generate at least 1"),
        ("verification: {low: 2, high: 1}", "verification.low: must be less than high, 1"),
        ("verification: {samples: s.npz}", 'verification.samples: must be a list, not "s.npz" | write ["s.npz"]'),
        ("verification: {samples: [s.npz, t.npz]}",
         "verification.samples[1]: t.npz does not exist"),
        ("verification: {samples: [far/t.npz]}",
         "verification.samples[0]: far/t.npz does not exist | nor does the folder far"),
        ("verification: {tolerance: {atol: -1}}", "verification.tolerance.atol: must be at least 0, not -1"),
        ("verification: {tolerance: {atol: .nan}}", "verification.tolerance.atol: must be a finite number, not NaN"),
        ("verification: {tolerance: {atol: small}}", 'verification.tolerance.atol: must be a number, not "small"'),
        ("verification: {outputs: {atol: {rtl: 1}}}",
         "verification.outputs.atol.rtl: is not a setting here | did you mean rtol?"),
        ("labels: {y: models}", "labels.y: models is a folder, not a file"),
        ("labels: labels.txt", 'labels: must be a mapping, not "labels.txt"'),
        ("versions: {latest: 1, all: true}", "versions: give only one of latest, all"),
        ("versions: {specific: []}", "versions.specific: must be a list with at least one entry, not an empty list"),
        ("versions: {all: false}", "versions.all: must be true, not false"),
        ("warmup: on", 'warmup: must be auto, off or a list, not "on"'),
        ("warmup: [{count: 2}]", "warmup[0].name: is missing"),
        ("warmup: [{name: ''}]", 'warmup[0].name: must be text with at least one character, not ""'),
        ("warmup: [{name: a}, {name: b}, {name: a}]", 'warmup[2].name: "a" is also the name of warmup[0]'),
        ("warmup: [{name: a, batch_size: 33}]", "warmup[0].batch_size: 33 is more than default_max_batch_size, 32"),
        ("warmup: [{name: a, inputs: {x: {data: 5}}}]",
         "warmup[0].inputs.x.data: must be zero, random or a path, not 5"),
        ("warmup: [{name: a, inputs: {x: {data: nope}}}]", "warmup[0].inputs.x.data: nope does not exist"),
        ("config: 3", "config: must be a mapping, not 3"),
        ("config: {instance_group: [{kind: KIND_GPU}, {cuont: 2}]}",
         'config.instance_group[1].cuont: ModelInstanceGroup has no field "cuont" | did you mean count?'),
        ("profiles: both", 'profiles: must be auto, single, latency+throughput or a list, not "both"'),
        ("profiles: [{batch: {min: 4, max: 2}}]", "profiles[0].batch: must be min <= opt <= max"),
        ("profiles: [{shapes: {x: {min: [1], max: [1, 2]}}}]",
         "profiles[0].shapes.x: min, opt and max must have the same number of dims"),
        ("shape_values: {size: {min: [9], max: [1]}}", "shape_values.size: must be min <= opt <= max in each dim"),
        ("tensorrt: {workspace_gib: 0}", "tensorrt.workspace_gib: must be more than 0, not 0"),
        ("tensorrt: {builder_optimization_level: 6}",
         "tensorrt.builder_optimization_level: must be at most 5, not 6"),
        ("tensorrt: {tf23: false}", "tensorrt.tf23: is not a setting here | did you mean tf32?"),
        ("tensorrt: {strip_plan: true}",
         "tensorrt.strip_plan: leaves out nothing, because no weight is refittable | set refit: identical, or all"),
        ("tensorrt: {strip_plan: true, refit: identical}", None),
        ("tensorrt: {exclude_lean_runtime: true}",
         "tensorrt.exclude_lean_runtime: is for version compatible plans only | set version_compatible: true"),
        ("tensorrt: {timing_cache: off, editable_timing_cache: true}",
         "tensorrt.timing_cache: is off, but other settings need one"),
        ("tensorrt: {timing_cache: no/such}", "tensorrt.timing_cache: there is no folder no"),
        ("tensorrt: {plugins: [nms.so]}", "tensorrt.plugins[0]: nms.so does not exist"),
        ("accelerator: cuda", "accelerator: has no effect without engine: onnxruntime"),
        ("engine: onnxruntime\naccelerator: cuda\naccelerator_parameters: {gpu_mem_limit: '1'}", None),
        ("engine: onnxruntime\naccelerator_parameters: {gpu_mem_limit: '1'}",
         "accelerator_parameters: has no effect: accelerator is none"),
        ("engine: onnxruntime\naccelerator: cuda\naccelerator_cache: /cache",
         "accelerator_cache: has no effect without accelerator: tensorrt"),
        ("engine: onnxruntime\naccelerator: cuda\ninstances: [{kind: cpu}]",
         "instances[0].kind: the accelerator cuda is for GPUs | use gpu"),
        ("engine: python\ncuda_graphs: auto",
         "cuda_graphs: has no effect with engine: python, which builds no plan"),
        ("engine: onnxruntime\ntensorrt: {workspace_gib: 1}",
         "tensorrt: has no effect with engine: onnxruntime, which builds no plan"),
        ("engine: onnxruntime\naccelerator: tensorrt\ntensorrt: {workspace_gib: 1}", None),
        ("engine: python\nfallback: onnxruntime",
         "fallback: has no effect with engine: python, which serves the ONNX itself"),
        ("configs: {a b: {}}", 'configs["a b"]: "a b" is not fit for a file name | for instance: a_b'),
        ("configs: {h200: {gpus: [h200]}}",
         'configs.h200.gpus[0]: must be a compute capability such as sm90, not "h200"'),
        ("configs: {h200: {batching: {max_batch_size: 4, opt_batch_size: 5}}}",
         "configs.h200.batching.opt_batch_size: 5 is more than max_batch_size, 4"),
        ("name: ''", 'name: "" is not fit for a directory and a URL | for instance: name: model'),
        ("name: ..", 'name: ".." is not fit for a directory and a URL | for instance: name: model'),
        ("name: 'a\n\n  b'", 'name: "a\\nb" is not fit for a directory and a URL | for instance: name: a_b'),
        (f"name: {'x' * 129}", f'name: "{"x" * 55}..." is not fit for a directory and a URL | for instance: name: '
         f"{'x' * 128}"),
        (f"name: {'x' * 128}", None),
        ("name: gpu_0.v-1", None),
    ],
)  # fmt: skip
def test_faults_of_a_model(folder: Path, body: str, fault: str | None) -> None:
    if fault is None:
        load(folder, "models:\n- onnx: a.onnx\n" + "".join(f"  {line}\n" for line in body.splitlines()))
    else:
        assert model_faults(folder, body) == [fault]


def test_names_must_differ_in_more_than_case(folder: Path) -> None:
    text = "models:\n- {onnx: a.onnx, name: ocr}\n- {onnx: b.onnx, name: ocr}\n- onnx: models/c.onnx\n  name: OCR\n"
    assert faults(folder, text) == [
        '3:24 models[1].name: "ocr" is also the name of models[0] (line 2) | rename one of them',
        '5:9 models[2].name: "OCR" differs only in case from "ocr", models[0] (line 2) | rename one of them: '
        "repositories get copied to stores that do not tell the two apart",
    ]


def test_a_name_that_comes_from_the_file_is_faulted_there(folder: Path) -> None:
    (folder / "my model.onnx").touch()
    assert faults(folder, "models:\n- onnx: my model.onnx\n- onnx: a.onnx\n- onnx: a.onnx\n") == [
        '2:9 models[0].onnx: "my model" is not fit for a directory and a URL | for instance: name: my_model',
        '4:9 models[2].onnx: "a" is also the name of models[1] (line 3) | rename one of them',
    ]


def test_what_is_wrong_in_defaults_is_said_once_and_there(folder: Path) -> None:
    text = """\
defaults:
  batching: {priority_levels: 2, default_priority_level: 3}
  engine: pythn
  verification: {samples: [nope.npz]}
  config: {nope: 1}
  shapes: {}
models:
- {onnx: a.onnx, batching: {default_priority_level: 2}, config: {backend: python}}
- {onnx: b.onnx, precision: fp4}
"""
    assert faults(folder, text) == [
        "2:58 defaults.batching.default_priority_level: must be a level from 1 to 2, not 3",
        '3:11 defaults.engine: must be auto, tensorrt, onnxruntime or python, not "pythn" | did you mean python?',
        "4:28 defaults.verification.samples[0]: nope.npz does not exist",
        '5:18 defaults.config.nope: ModelConfig has no field "nope"',
        "6:3 defaults.shapes: is not a setting here | known here: engine, precision, prepare, batching, instances, "
        "profiles, cuda_graphs, tensorrt, accelerator, accelerator_parameters, accelerator_cache, fallback, configs, "
        "verification, versions, warmup, response_cache, config; Triton's own fields go under config",
        "9:29 models[1].precision: must be fp32, fp16, mixed, bf16, int8 or a mapping (type, io, "
        'keep_fp32, search, max_runs, calibration, calibration_method, rest, percentile), not "fp4"',
    ]


def test_a_model_that_contradicts_the_defaults(folder: Path) -> None:
    text = """\
defaults:
  batching: {preferred_batch_sizes: [16]}
models:
- onnx: a.onnx
  batching: {max_batch_size: 8}
- onnx: b.onnx
  batching: {max_batch_size: 0}
"""
    # What a model inherits without using it is no fault: the second one says nothing of preferred sizes itself.
    assert faults(folder, text) == [
        "5:3 models[0].batching.preferred_batch_sizes[0]: 16 is more than max_batch_size, 8 (set in defaults, line 2)"
    ]


def test_an_unset_variable_is_one_fault(folder: Path) -> None:
    body = "batching:\n  max_batch_size: ${SIZE}\nengine: ${ENGINE}\nconfig:\n  backend: ${BACKEND}"
    assert [line.split(" | ")[0] for line in model_faults(folder, body)] == [
        "batching.max_batch_size: the environment variable SIZE is not set",
        "engine: the environment variable ENGINE is not set",
        "config.backend: the environment variable BACKEND is not set",
    ]
    assert len(faults(folder, "models: [{onnx: '${NOPE}'}]")) == 1


def test_no_spec(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such spec") as caught:
        load_spec(tmp_path / "models.yaml")
    assert caught.value.hint == "write one with: tritonrepo init *.onnx"


def test_a_spec_error_reads_like_a_list_of_places(folder: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load(folder, "trition: 26.10\nmodels: [{onnx: a.onnx}]")
    place = f"{folder}/models.yaml:1:1"
    assert str(caught.value) == f"{place}: trition: is not a setting here\n  did you mean triton?"


# ---- whatever is written ---------------------------------------------------------------------------------------------

#: Words of pydantic and Python that no user of a YAML file should meet.
JARGON = re.compile(
    r"input should|pydantic|validat|extra inputs|literal|tuple|dict|NoneType|\bint\b|\bstr\b|\bbool|None|True|False|"
    r"constrained|function-after|union|instance of|<class"
)

values: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, False, 0, 1, -1, 7, 2**40, 1.5, float("nan"), "", "auto", "yes", "x y", "/", "~nobody/x", "$$",
     "a.onnx", [], [1], ["a"], [[]], [None], {}, {"a": 1}, {"1": {}}, {"min": [1], "max": 2}, {"min": 1},
     [{}], [{"name": "w"}]]
)  # fmt: skip


def places_in(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(place for key, value in items for place in places_in(value, (*path, key)))]


def with_value(data: Any, path: tuple[Any, ...], value: object) -> Any:
    if not path:
        return value
    copy = dict(data) if isinstance(data, dict) else list(data)
    copy[path[0]] = with_value(data[path[0]], path[1:], value)
    return copy


def with_key(data: Any, path: tuple[Any, ...], key: str, value: object) -> Any:
    here = data
    for part in path:
        here = here[part]
    return with_value(data, path, {**here, key: value}) if isinstance(here, dict) else data


def yaml_1_1(text: str) -> str:
    """The same with quotes around what PyYAML's safe_load takes for something else than text or a number."""
    return re.sub(r"\b(26\.10|yes|off|495|2024|2(?=: \{max))\b", r"'\1'", text).replace("1e-4", "0.0001")


FULL_DATA = yaml.safe_load(yaml_1_1(FULL))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_gives_a_spec_or_plain_faults_with_places(folder: Path, data: st.DataObject) -> None:
    changed = FULL_DATA
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(places_in(changed)))
        if data.draw(st.booleans()):
            changed = with_value(changed, path, data.draw(values))
        else:
            names = ["all", "name", "min", "nope", "batching", "defaults", "a b"]
            changed = with_key(changed, path, data.draw(st.sampled_from(names)), data.draw(values))
    file = folder / "models.yaml"
    file.write_text(yaml.safe_dump(changed))
    try:
        load_spec(file, environ={})
    except SpecError as error:
        assert error.faults
        lines = [fault.where.line or 0 for fault in error.faults if fault.where]
        assert len(lines) == len(error.faults)
        assert lines == sorted(lines)
        for fault in error.faults:
            assert not JARGON.search(fault.message), fault
            assert len({(fault.path, fault.message) for fault in error.faults}) == len(error.faults)


# ---- without a file --------------------------------------------------------------------------------------------------


def test_spec_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "my model (2).onnx").touch()
    made = spec_for([Path("a.onnx"), folder / "my model (2).onnx"], repository=Path("out/repo"))
    assert made == Spec(
        repository=folder / "out" / "repo",
        cache=folder / "out" / ".tritonrepo",
        models=(
            ModelSpec(name="a", onnx=folder / "a.onnx"),
            ModelSpec(name="my_model_2", onnx=folder / "my model (2).onnx"),
        ),
    )
    settings: Mapping[str, object] = {"engine": "python", "batching": {"max_batch_size": 4}}
    made = spec_for(
        [Path("a.onnx")],
        repository=Path("r"),
        cache=Path("c"),
        templates=Path("models"),
        triton="26.10",
        settings=settings,
    )
    assert (made.cache, made.templates, made.triton) == (folder / "c", folder / "models", "26.10")
    assert (made.models[0].engine, made.models[0].batching.max_batch_size) == ("python", 4)


def test_spec_for_says_all_that_is_wrong(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "models" / "A.onnx").touch()
    files = [Path("a.onnx"), Path("models/A.onnx"), Path("nope.onnx")]
    with pytest.raises(SpecError) as caught:
        spec_for(files, repository=Path("r"), triton="x", settings={"engine": "pyton"})
    assert [str(fault).replace(f"{folder}/", "") for fault in caught.value.faults] == [
        'engine: must be auto, tensorrt, onnxruntime or python, not "pyton"\n  did you mean python?',
        "nope.onnx: nope.onnx does not exist",
        'models/A.onnx: "A" differs only in case from "a", a.onnx\n  rename one of them: repositories get copied to '
        "stores that do not tell the two apart",
        'triton: must be a release, year.month such as 26.09, not "x"',
    ]
    with pytest.raises(SpecError, match="there are no models"):
        spec_for([], repository=Path("r"))


def test_specs_are_frozen_and_strict() -> None:
    model = ModelSpec(onnx=Path("a.onnx"), name="a")
    with pytest.raises(ValidationError):
        model.name = "b"
    with pytest.raises(ValidationError):
        ModelSpec(onnx=Path("a.onnx"), nmae="a")  # type: ignore[call-arg]
    assert model.onnx == Path("a.onnx")  # only a loader knows a folder to resolve paths against


# ---- the fingerprint's fragment --------------------------------------------------------------------------------------


def test_a_fragment_is_plain_json_and_has_every_setting(folder: Path) -> None:
    model = load(folder, FULL).models[0]
    found = fragment(model)
    assert json.loads(json.dumps(found)) == found
    assert set(found) == set(ModelSpec.model_fields)
    assert found["onnx"] == str(folder / "models" / "c.onnx")
    assert fragment(ModelSpec.model_validate(found)) == found


def test_a_fragment_does_not_depend_on_how_the_spec_is_written(folder: Path) -> None:
    one = load(folder, "models: [{onnx: a.onnx, batching: {max_batch_size: 4}}]").models[0]
    other = load(
        folder, "defaults:\n  batching:\n    max_batch_size: ${N}\nmodels:\n- name: a\n  onnx: ./a.onnx\n", N="4"
    )
    assert fragment(one) == fragment(other.models[0])


# ---- the schema for editors ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize(
    "text",
    [
        yaml.safe_dump(FULL_DATA),
        "models: [{onnx: a.onnx}]",
        "triton: 26.10\nmodels:\n- onnx: ${X}/a.onnx\n  name: ${NAME}\n  engine: ${ENGINE:-auto}\n  batching:\n"
        "    max_batch_size: ${SIZE}\n    dynamic: ${DYNAMIC}\n  shapes:\n  config:\n  instances: [{gpus: ['${GPU}']}]",
        (ROOT / "models.yaml").read_text(),
    ],
)  # fmt: skip
def test_the_schema_accepts_what_is_right(validator: jsonschema.Draft202012Validator, text: str) -> None:
    assert not [error.message for error in validator.iter_errors(yaml.safe_load(text))]


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        "models: []",
        "models: {}",
        "models: [{}]",
        "models: [null]",
        "models: [{onnx: a, nope: 1}]",
        "models: [{onnx: a, engine: pyton}]",
        "models: [{onnx: a, name: a b}]",
        "models: [{onnx: a, batching: {max_batch_size: -1}}]",
        "models: [{onnx: a, batching: {max_batch_size: true}}]",
        "models: [{onnx: a, batching: {max_batch_size: big}}]",
        "models: [{onnx: a, shapes: {h: {min: 1}}}]",
        "models: [{onnx: a, shapes: {h: {min: 1, max: [1]}}}]",
        "models: [{onnx: a, instances: []}]",
        "models: [{onnx: a, warmup: sometimes}]",
        "defaults: {onnx: a}\nmodels: [{onnx: a}]",
        "triton: '26.13'\nmodels: [{onnx: a}]",
        "nope: 1\nmodels: [{onnx: a}]",
    ],
)
def test_the_schema_refuses_typical_faults(validator: jsonschema.Draft202012Validator, text: str) -> None:
    assert not validator.is_valid(yaml.safe_load(text))


def test_every_key_is_described() -> None:
    schema = json_schema()
    blocks = [schema, *(block for name, block in schema["$defs"].items() if name != "Variable")]
    for block in blocks:
        assert block["description"]
        for key, value in block["properties"].items():
            assert value["description"].endswith((".", ")")), key


# ---- docs ------------------------------------------------------------------------------------------------------------

DOCS = ROOT / "docs"
BEGIN, END = "<!-- made from the code by tests/test_spec.py, from here -->\n", "<!-- to here -->\n"


def test_the_docs_are_up_to_date() -> None:
    """Written anew, with UPDATE_DOCS=1 in the environment, else compared."""
    page = DOCS / "spec.md"
    before, rest = page.read_text().split(BEGIN)
    after = rest.split(END)[1]
    want = {
        page: f"{before}{BEGIN}\n{_schema.reference()}\n{END}{after}",
        DOCS / "models.schema.json": json.dumps(json_schema(), indent=2) + "\n",
    }
    for file, text in want.items():
        if os.environ.get("UPDATE_DOCS"):
            file.write_text(text)
        assert file.read_text() == text, f"run: UPDATE_DOCS=1 pytest {Path(__file__).name}"


def test_the_examples_in_the_docs_load(folder: Path) -> None:
    examples = re.findall(r"```yaml\n(.*?)```", (DOCS / "spec.md").read_text(), re.DOTALL)
    whole = [example for example in examples if re.search("^models:", example, re.MULTILINE)]
    assert len(whole) >= 2
    for example in whole:
        for name in re.findall(
            r"(?:models|samples)/\w+\.(?:onnx|txt|npz)", example.replace("${MODELS:-models}", "models")
        ):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        (folder / "templates").mkdir(exist_ok=True)
        load(folder, example, HOME=str(folder))


# ---- speed -----------------------------------------------------------------------------------------------------------


def test_loading_takes_time_in_proportion_to_the_models(folder: Path) -> None:
    model = (
        "- {{onnx: a.onnx, name: m{0}, shapes: {{h: {{min: 1, opt: 2, max: 3}}}}, batching: {{max_batch_size: 4}}}}\n"
    )

    def seconds(count: int) -> float:
        text = "models:\n" + "".join(model.format(index) for index in range(count))
        best = 1e9
        for _ in range(3):
            start = time.process_time()
            assert len(load(folder, text).models) == count
            best = min(best, time.process_time() - start)
        return best

    few, many = seconds(50), seconds(400)
    assert many < 8 * few * 2.5


def test_loading_imports_nothing_heavy(folder: Path) -> None:
    (folder / "models.yaml").write_text("models: [{onnx: a.onnx}]")
    code = (
        "import sys, pathlib, tritonrepo.spec as spec; spec.load_spec(pathlib.Path('models.yaml')); spec.json_schema();"
        "print(*sorted(set(sys.modules) & {'onnx', 'onnxruntime', 'numpy', 'google.protobuf', 'tritonclient'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
