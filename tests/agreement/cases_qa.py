"""What the server's own tests ask: folder qa/L0_model_config of triton-inference-server/server, branch r24.10.

The 212 cases there, each told anew: the same fault in other tensors, names and values. An id is ``qa/`` and the path
of the original below that folder; cases that the original runs for five platforms have ``@platform`` after it. The
original switches auto-complete off for some; here all are judged with the server's defaults.

`LEFT_OUT` names those that have no equivalent, with the reason.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from .case import FILES, PLACEHOLDER, PYTHON, Case, Tree, ensemble, identity, model, part, platform, python, steps

NOT_HERE = "needs the real {} backend: it completes the config from the model, or compares the two"
_TENSORFLOW, _OPENVINO, _PYTORCH = (NOT_HERE.format(name) for name in ("TensorFlow", "OpenVINO", "PyTorch"))
_USER_CODE = "refused by what the model's own Python code completes, which `check` does not run"
_COMMAND_LINE = "about the server's command line, not about a repository"


def cases() -> Iterator[Case]:
    """All cases, in the order of the original's folders."""
    for name, config in _STRICT.items():
        for each in FILES:
            yield Case(f"qa/noautofill_platform/{name}@{each}", platform(name, each, config))
    for name, tree in {**_COMMON, **_ENSEMBLES, **_PYTHON_MODELS, **_SPECIAL}.items():
        yield Case(f"qa/{name}", tree, beyond=_USER_CODE if name.startswith(_P) else "")
    yield from _onnx_cases()
    yield from _tensorrt_cases()


_STRICT_IO = 'input { name: "x" data_type: TYPE_FP16 dims: 3 }\noutput { name: "y" data_type: TYPE_FP16 dims: 3 }\n'


def _batch_input(kind: str, *sources: str) -> str:
    listed = ", ".join(f'"{source}"' for source in sources)
    return f"""
        max_batch_size: 5
        input {{ name: "ids" data_type: TYPE_INT64 dims: -1 }}
        output {{ name: "sum" data_type: TYPE_INT64 dims: 1 }}
        batch_input {{ kind: {kind} target_name: "lengths" data_type: TYPE_FP32 source_input: [ {listed} ] }}
    """


def _batch_output(targets: str, sources: str) -> str:
    return f"""
        input {{ name: "ids" data_type: TYPE_INT64 dims: -1 }}
        output {{ name: "out" data_type: TYPE_INT64 dims: -1 }}
        batch_output {{ kind: BATCH_SCATTER_WITH_INPUT_SHAPE target_name: [ {targets} ] source_input: [ {sources} ] }}
    """


def _controls(*controls: tuple[str, str]) -> str:
    """A sequence batcher with these control tensors: name, and what stands in the control."""
    lines = [f'control_input {{ name: "{name}" control {{ {control} }} }}' for name, control in controls]
    return f"max_batch_size: 6\n{_STRICT_IO}sequence_batching {{ {' '.join(lines)} }}"


def _control(kind: str) -> str:
    return f"kind: CONTROL_SEQUENCE_{kind} fp32_false_true: [ 0, 1 ]"


def _batcher(inside: str) -> str:
    return f"max_batch_size: 6\n{_STRICT_IO}dynamic_batching {{ {inside} }}"


def _shapes(batch: int, x: str, y: str = "dims: 3") -> str:
    return f"""
        max_batch_size: {batch}
        input {{ name: "x" data_type: TYPE_FP16 {x} }}
        output {{ name: "y" data_type: TYPE_FP16 {y} }}
    """


_COUNT, _SUM = "BATCH_ELEMENT_COUNT", "BATCH_ACCUMULATED_ELEMENT_COUNT"
_SUM_FROM_0, _WIDEST = "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO", "BATCH_MAX_ELEMENT_COUNT_AS_SHAPE"
_DELAY = "timeout_action: DELAY default_timeout_microseconds: 50"
_GPU_42 = "instance_group { kind: KIND_GPU gpus: 42 }"

# Each is run for five platforms.
_STRICT: Mapping[str, str] = {
    "batch_input_less_source0": _batch_input(_COUNT),
    "batch_input_less_source1": _batch_input(_SUM),
    "batch_input_less_source2": _batch_input(_SUM_FROM_0),
    "batch_input_less_source3": _batch_input(_WIDEST),
    "batch_input_many_source0": _batch_input(_COUNT, "ids", "ids"),
    "batch_input_many_source1": _batch_input(_SUM, "ids", "ids"),
    "batch_input_many_source2": _batch_input(_SUM_FROM_0, "ids", "ids"),
    "batch_input_many_source3": _batch_input(_WIDEST, "ids", "ids"),
    "batch_input_unknown_source": _batch_input(_COUNT, "nothing"),
    "batch_output_duplicated_target": _batch_output('"out", "out"', '"ids"'),
    "batch_output_less_source": _batch_output('"out"', ""),
    "batch_output_many_source": _batch_output('"out"', '"ids", "ids"'),
    "batch_output_unknown_source": _batch_output('"out"', '"nothing"'),
    "batch_output_unknown_target": _batch_output('"nothing"', '"ids"'),
    "control_kind_end_multiple": _controls(("e", _control("END")), ("r", _control("READY")), ("f", _control("END"))),
    "control_kind_ready_multiple": _controls(("r", _control("READY")), ("q", _control("READY"))),
    "control_kind_start_multiple": _controls(("s", f"{_control('START')} }} control {{ {_control('START')}")),
    "control_tensor_multiple": _controls(("s", _control("START")), ("s", _control("END"))),
    "control_tensor_no_value": _controls(("s", _control("START")), ("r", "kind: CONTROL_SEQUENCE_READY")),
    "default_priority_level0": _batcher("priority_levels: 4"),
    "default_priority_level1": _batcher("priority_levels: 4 default_priority_level: 9"),
    "ensemble_scheduling_set": f"""
        max_batch_size: 6
        {_STRICT_IO}
        ensemble_scheduling {{
          step {{
            model_name: "other" model_version: -1
            input_map {{ key: "a" value: "x" }}
            output_map {{ key: "b" value: "y" }}
          }}
        }}
        {_GPU_42}
    """,
    "invalid_cpu": f"{_STRICT_IO}instance_group {{ kind: KIND_CPU gpus: 0 }}",
    "invalid_gpu": f"{_STRICT_IO}{_GPU_42}",
    "missing_datatype": """
        max_batch_size: 2
        input { name: "x" dims: [ -1, 7 ] }
        output { name: "y" data_type: TYPE_FP16 dims: 3 }
    """,
    "negative_gpu": f"{_STRICT_IO}instance_group {{ gpus: 0 }} instance_group {{ kind: KIND_GPU gpus: -1 }}",
    "negative_max_batch_size": _shapes(-1, "dims: 3"),
    "preserve_ordering0": _batcher("preserve_ordering: true priority_levels: 2 default_priority_level: 1"),
    "preserve_ordering1": _batcher(f"preserve_ordering: true default_queue_policy {{ {_DELAY} }}"),
    "preserve_ordering2": _batcher(
        "preserve_ordering: true priority_levels: 1 default_priority_level: 1 "
        f"priority_queue_policy {{ key: 1 value {{ {_DELAY} }} }}"
    ),
    "priority_level0": _batcher(
        "priority_levels: 2 default_priority_level: 1 priority_queue_policy { key: 0 value {} }"
    ),
    "priority_level1": _batcher(
        "priority_levels: 2 default_priority_level: 1 priority_queue_policy { key: 3 value {} }"
    ),
    "reshape_elementcount0": _shapes(2, "dims: [ 2, 2 ] reshape { shape: 5 }"),
    "reshape_elementcount1": _shapes(2, "dims: 12 reshape { shape: [ 3, 5 ] }"),
    "reshape_elementcount2": _shapes(2, "dims: 3", "dims: [ 2, 2 ] reshape { shape: 3 }"),
    "reshape_elementcount3": _shapes(2, "dims: 3", "dims: 12 reshape { shape: [ 5, 2, 1 ] }"),
    "reshape_nobatch_empty0": _shapes(0, "dims: 1 reshape {}"),
    "reshape_nobatch_empty1": _shapes(0, "dims: 3", "dims: 1 reshape {}"),
    "reshape_nobatch_variable0": _shapes(0, "dims: [ 5, -1 ] reshape { shape: [ 5, 5 ] }"),
    "reshape_nobatch_variable1": _shapes(0, "dims: 3", "dims: [ 5, -1 ] reshape { shape: [ 5, 5 ] }"),
    "reshape_nobatch_variable2": _shapes(0, "dims: [ 5, -1 ] reshape { shape: [ 5, -1, 3 ] }"),
    "reshape_nobatch_variable3": _shapes(0, "dims: 3", "dims: [ 5, -1 ] reshape { shape: [ 1, -1, 2 ] }"),
    "reshape_nobatch_variable4": _shapes(0, "dims: [ 5, -1 ] reshape { shape: [ -1, 5, -1 ] }"),
    "reshape_nobatch_variable5": _shapes(0, "dims: 3", "dims: [ 5, -1 ] reshape { shape: [ -1, 5, -1 ] }"),
    "reshape_nobatch_zerodims0": _shapes(0, "dims: [ 3, 3 ] reshape { shape: 0 }"),
    "reshape_nobatch_zerodims1": _shapes(0, "dims: 3", "dims: [ 3, 3 ] reshape { shape: 0 }"),
    "reshape_variable0": _shapes(2, "dims: [ 5, -1 ] reshape { shape: [ 5, 5 ] }"),
    "reshape_variable1": _shapes(2, "dims: 3", "dims: [ 5, -1 ] reshape { shape: [ 5, 5 ] }"),
    "reshape_variable2": _shapes(2, "dims: [ 5, -1 ] reshape { shape: [ 5, -1, 3 ] }"),
    "reshape_variable3": _shapes(2, "dims: 3", "dims: [ 5, -1 ] reshape { shape: [ 1, -1, 2 ] }"),
    "reshape_variable4": _shapes(2, "dims: [ 5, -1 ] reshape { shape: [ -1, 5, -1 ] }"),
    "reshape_variable5": _shapes(2, "dims: 3", "dims: [ 5, -1 ] reshape { shape: [ -1, 5, -1 ] }"),
    "reshape_zerodims0": _shapes(2, "dims: [ 3, 3 ] reshape { shape: 0 }"),
    "reshape_zerodims1": _shapes(2, "dims: 3", "dims: [ 3, 3 ] reshape { shape: 0 }"),
    "zerodims_input0": _shapes(2, "dims: [ 4, 4, 0 ]"),
    "zerodims_input1": _shapes(2, "dims: 0"),
    "zerodims_output0": _shapes(2, "dims: 3", "dims: [ 0, 4 ]"),
    "zerodims_output1": _shapes(2, "dims: 3", "dims: 0"),
}

_TENSORS = _shapes(2, "dims: 3")
_COMMON: Mapping[str, Tree] = {
    "autofill_noplatform/common/no_version": model("no_version", _shapes(1, "dims: 3")),
    "autofill_noplatform/custom/no_delimiter": model("no_delimiter", "", "1/"),
    "autofill_noplatform/custom/unknown_backend.unknown": model("unknown_backend.unheard_of", "", "1/"),
    "autofill_noplatform_success/custom/empty_config.identity": model("empty_config.identity", "", "1/"),
    "autofill_noplatform_success/custom/no_backend.identity": model("no_backend.identity", _shapes(9, "dims: 3"), "1/"),
}

_SPECIAL: Mapping[str, Tree] = {
    "special_cases/invalid_platform": model(
        "invalid_platform", f'platform: "onnxruntime_onn" {_shapes(2, "dims: 3")}', "1/model.onnx"
    ),
    "special_cases/invalid_runtime": model(
        "invalid_runtime", f'backend: "identity" runtime: "no_such_runtime" {_shapes(2, "dims: 3")}', "1/"
    ),
    "special_cases/runtime_escape": model(
        "runtime_escape",
        f'backend: "identity" runtime: "../beside/libtriton_identity.so" {_shapes(2, "dims: 3")}',
        "1/",
        "beside/libtriton_identity.so",
    ),
}


# Three models, of which most ensembles are composed.
_PARTS: Tree = {**part("one"), **part("three", ins=3, outs=3), **part("four", ins=4, outs=4)}
_STREAM_PART = identity(
    """
    model_transaction_policy { decoupled: true }
    input { name: "i0" data_type: TYPE_INT16 dims: 5 }
    output { name: "o0" data_type: TYPE_INT16 dims: 5 }
    output { name: "o1" data_type: TYPE_INT16 dims: 5 }
    """,
    "stream",
)
_VERSIONED = identity(
    """
    max_batch_size: 4 version_policy { all {} }
    input { name: "i0" data_type: TYPE_INT16 dims: 5 }
    output { name: "o0" data_type: TYPE_INT16 dims: 5 }
    """,
    "versioned",
)
_MATRIX = part("matrix", 0, of="data_type: TYPE_INT16 dims: [ -1, 5 ]")


def _group(parts: Tree, scheduling: str, **settings: Any) -> Tree:
    return {**parts, **ensemble("ens", scheduling, **settings)}


_E, _E_OK = "autofill_noplatform/ensemble/", "autofill_noplatform_success/ensemble/"
_ENSEMBLES: Mapping[str, Tree] = {
    _E + "circular_dependency": {**ensemble("there", "back a=a > z=z"), **ensemble("back", "there a=a > z=z")},
    _E + "ensemble_scheduling_no_set": model("lonely", f'platform: "ensemble" {_TENSORS}', "1/"),
    _E + "has_backend": model("both", f'platform: "ensemble" backend: "tensorrt" {_TENSORS}', "1/"),
    _E + "inconsistent_data_type": _group(
        {**part("one"), **part("floats", of="data_type: TYPE_FP64 dims: 5")}, "one i0=a > o0=b | floats i0=b > o0=z"
    ),
    _E + "inconsistent_shape": _group(
        {**part("one"), **part("cube", of="data_type: TYPE_INT16 dims: [ 5, 5, 5 ]")},
        "one i0=a > o0=b | cube i0=b > o0=z",
    ),
    _E + "instance_group_set": _group(_PARTS, "one i0=a > o0=z", more=_GPU_42),
    _E + "invalid_batch_size": _group({**part("one"), **part("small", 2)}, "one i0=a > o0=b | small i0=b > o0=z"),
    _E + "invalid_decoupled_branching": _group(
        {**_STREAM_PART, **part("pair", 0, 2, 2)},
        "stream i0=a > o0=b | stream i0=a > o0=c | pair i0=b i1=c > o0=z", batch=0,
    ),
    _E + "invalid_decoupled_branching_2": _group(
        _STREAM_PART, "stream i0=a > o0=y | stream i0=a > o1=z", batch=0, outs="y z"
    ),
    _E + "invalid_input_map": _group(_PARTS, "one i0=a nothing=a > o0=z"),
    _E + "invalid_output_map": _group(_PARTS, "one i0=a > nothing=z"),
    _E + "model_warm_up_set": _group(_PARTS, "one i0=a > o0=z", more="model_warmup {}"),
    _E + "no_input_map": _group(_PARTS, "one i0=a > o0=b | one > o0=c | one i0=c > o0=z"),
    _E + "no_model_name": _group(_PARTS, "one i0=a > o0=b | - i0=b > o0=c | one i0=c > o0=z"),
    _E + "no_output_map": _group(_PARTS, "one i0=a > o0=b | one i0=b | one i0=c > o0=z"),
    _E + "no_required_version": _group(_VERSIONED, "versioned@3 i0=a > o0=z"),
    _E + "no_required_version_2": _group(_VERSIONED, "versioned i0=a > o0=b | versioned@3 i0=b > o0=z"),
    _E + "no_required_version_3": _group(_VERSIONED, "versioned@3 i0=a > o0=b | versioned i0=b > o0=z"),
    _E + "no_step": model("ens", f'platform: "ensemble" ensemble_scheduling {{ step [] }} {_TENSORS}', "1/"),
    _E + "no_step_2": model("ens", f'platform: "ensemble" ensemble_scheduling {{}} {_TENSORS}', "1/"),
    _E + "non_existing_model": _group(_PARTS, "one i0=a > o0=b | five i0=b > o0=z"),
    _E + "optimization_set": _group(_PARTS, "one i0=a > o0=z", more="optimization { priority: PRIORITY_MIN }"),
    _E + "output_to_tensor_overmapped": _group(_PARTS, "three i0=a i1=a i2=a > o0=b o1=b | one i0=b > o0=z"),
    _E + "redundant_tensor_as_input": _group(_PARTS, "one i0=a > o0=b | one i0=idle > o0=unread | one i0=b > o0=z"),
    _E + "redundant_tensor_as_output": _group(_PARTS, "one i0=a > o0=b | three i0=b i1=b i2=b > o0=z o1=unread"),
    _E + "self_circular_dependency": _group(_PARTS, "one i0=a > o0=b | ens a=b > z=z"),
    _E + "tensor_to_input_overmapped": _group(_PARTS, "one i0=a > o0=b | one i0=a > o0=c | one i0=b i0=c > o0=z"),
    _E + "unmapped_input": _group(
        _PARTS, "one i0=a > o0=b | three i0=b i1=b i2=b > o0=c o1=d o2=e | four i1=c i2=d i3=e > o0=z"
    ),
    _E + "unreachable_input": _group(_PARTS, "one i0=a > o0=z", ins="a idle"),
    _E + "unreachable_output": _group(_PARTS, "one i0=a > o0=z", outs="z idle"),
    _E + "unreachable_output_2": _group(_PARTS, "one i0=a > o0=z | one i0=idle > o0=idle", outs="z idle"),
    _E + "unreachable_output_3": _group(_PARTS, "one i0=a > o0=z | one i0=unwritten > o0=idle", outs="z idle"),
    _E_OK + "embedded_ensemble": {
        **_PARTS, **ensemble("inner", "one i0=a > o0=z"), **ensemble("outer", "inner a=a > z=z")
    },
    _E_OK + "inconsistent_shape": _group({**_PARTS, **_MATRIX}, "one i0=a > o0=b | matrix i0=b > o0=z"),
    _E_OK + "inconsistent_shape_2": _group(
        {**_PARTS, **_MATRIX}, "matrix i0=a > o0=b | one i0=b > o0=z", batch=0,
        of="data_type: TYPE_INT16 dims: [ 4, 5 ]",
    ),
    _E_OK + "unmapped_output": _group(_PARTS, "three i0=a i1=a i2=a > o1=z"),
}  # fmt: skip


def _completing(*lines: str, returns: str = "config") -> bytes:
    """A model.py whose auto_complete_config has these lines."""
    body = "".join(f"        {line}\n" for line in lines)
    return (
        PYTHON
        + f"\n    @staticmethod\n    def auto_complete_config(config):\n{body}        return {returns}\n".encode()
    )


def _tensor(kind: str, name: str | None, *, more: str = "", data_type: bool = True, dims: bool = True) -> str:
    """A line of auto_complete_config that adds a tensor."""
    parts = [f'"name": "{name}"'] if name else []
    parts += ['"data_type": "TYPE_UINT8"'] if data_type else []
    parts += ['"dims": [6]'] if dims else []
    return f"config.add_{kind}({{{', '.join(parts + ([more] if more else []))}}})"


_BOTH = (_tensor("input", "x"), _tensor("output", "y"))
_IO = 'input { name: "x" data_type: TYPE_UINT8 dims: 6 }\noutput { name: "y" data_type: TYPE_UINT8 dims: 6 }\n'
_P, _P_OK = "autofill_noplatform/python/", "autofill_noplatform_success/python/"
_STREAM = "config.set_model_transaction_policy({{'decoupled': {}}})"
_COMPLETE = _completing(*_BOTH)
_BATCHED = _completing("config.set_max_batch_size(5)", "config.set_dynamic_batching()", *_BOTH)
_PYTHON_CASES: Mapping[str, tuple[str, bytes]] = {
    _P + "conflicting_max_batch_size": (
        "max_batch_size: 7 " + _IO, _completing("config.set_max_batch_size(5)", *_BOTH)
    ),
    _P + "conflicting_scheduler_sequence": (_IO + "sequence_batching {}", _BATCHED),
    _P + "input_mismatch_datatype": (_IO.replace("UINT8", "INT64", 1), _COMPLETE),
    _P + "input_mismatch_dims": (_IO.replace("6", "8", 1), _COMPLETE),
    _P + "input_missing_datatype": (_IO, _completing(_tensor("input", "x", data_type=False))),
    _P + "input_missing_dims": (_IO, _completing(_tensor("input", "x", dims=False))),
    _P + "input_missing_name": (_IO, _completing(_tensor("input", None))),
    _P + "input_wrong_property": (_IO, _completing(_tensor("input", "x", more='"format": "FORMAT_NONE"'))),
    _P + "model_transaction_policy_invalid_args": (
        _IO, _completing("config.set_model_transaction_policy({'streams': True})", *_BOTH)
    ),
    _P + "model_transaction_policy_mismatch": (
        _IO + "model_transaction_policy { decoupled: false }", _completing(_STREAM.format(True), *_BOTH)
    ),
    _P + "no_return": (_IO, _completing(*_BOTH, returns="None")),
    _P + "output_mismatch_datatype": (_IO.replace('"y" data_type: TYPE_U', '"y" data_type: TYPE_'), _COMPLETE),
    _P + "output_mismatch_dims": (_IO.replace("dims: 6", "dims: 7", 2).replace("7", "6", 1), _COMPLETE),
    _P + "output_missing_datatype": (_IO, _completing(_tensor("output", "y", data_type=False))),
    _P + "output_missing_dims": (_IO, _completing(_tensor("output", "y", dims=False))),
    _P + "output_missing_name": (_IO, _completing(_tensor("output", None))),
    _P + "output_wrong_property": (_IO, _completing(_tensor("output", "y", more='"optional": True'))),
    _P_OK + "dynamic_batching": (_IO, _BATCHED),
    _P_OK + "dynamic_batching_no_op": (
        "max_batch_size: 5 dynamic_batching { preferred_batch_size: 5 } " + _IO, _BATCHED
    ),
    _P_OK + "empty_config": ("", _completing("config.set_max_batch_size(0)", *_BOTH)),
    _P_OK + "incomplete_input": ('input { name: "w" data_type: TYPE_UINT8 dims: 6 }', _COMPLETE),
    _P_OK + "incomplete_output": (
        'output [ { name: "y" data_type: TYPE_UINT8 }, { name: "w" dims: 6 } ]',
        _completing(*_BOTH, _tensor("output", "w")),
    ),
    _P_OK + "model_transaction_policy": (_IO, _completing(_STREAM.format(True), *_BOTH)),
    _P_OK + "model_transaction_policy_decoupled_false": (_IO, _completing(_STREAM.format(False), *_BOTH)),
    _P_OK + "model_transaction_policy_no_op": (
        _IO + "model_transaction_policy { decoupled: true }", _completing(_STREAM.format(True), *_BOTH)
    ),
    _P_OK + "optional_input": (
        'input { name: "w" data_type: TYPE_UINT8 dims: 6 }',
        _completing(_tensor("input", "x", more='"optional": True'), _tensor("output", "y")),
    ),
    _P_OK + "unknown_input": (_IO + 'input { name: "w" data_type: TYPE_UINT8 dims: 6 }', _COMPLETE),
    _P_OK + "unknown_output": (_IO + 'output { name: "w" data_type: TYPE_UINT8 dims: 6 }', _COMPLETE),
}  # fmt: skip

_PYTHON_MODELS: Mapping[str, Tree] = {
    **{path: python(path.rpartition("/")[2], config, code) for path, (config, code) in _PYTHON_CASES.items()},
    # The composing models complete their batching; nothing is completed in the ensemble, although it has a model.py.
    _P_OK + "conflicting_scheduler_ensemble": {
        **python("first", _IO, _BATCHED),
        **python("second", _IO, _BATCHED),
        **model("ens", f"""
            platform: "ensemble"
            input {{ name: "a" data_type: TYPE_UINT8 dims: 6 }}
            output {{ name: "z" data_type: TYPE_UINT8 dims: 6 }}
            {steps("first@1 x=a > y=b | second@1 x=b > y=z")}
        """, model__py=_BATCHED),
    },
}  # fmt: skip


def _onnx_cases() -> Iterator[Case]:
    """ONNX Runtime's: its backend is not here, so what the original expects is what is known."""
    batched, fixed = _onnx(("N", 6)), _onnx((2, 6))
    ins = ['input { name: "x0" data_type: TYPE_FP32 dims: 6 }', 'input { name: "x1" data_type: TYPE_FP32 dims: 6 }']
    outs = [line.replace("input", "output").replace("x", "y") for line in ins]
    wrong, on_cpu = "max_batch_size: 3", "instance_group { kind: KIND_CPU }"
    refused = {
        "bad_input_dims": (batched, [ins[0].replace("dims: 6", "dims: [ 6, 1 ]"), ins[1], *outs, wrong]),
        "bad_max_batch_size": (fixed, [*ins, wrong]),
        "bad_output_dims": (batched, [*ins, outs[0], outs[1].replace("dims: 6", "dims: 1"), wrong]),
        "too_few_inputs": (batched, [ins[1], *outs, wrong]),
        "too_many_inputs": (batched, [*ins, ins[0].replace("x0", "x2"), *outs, wrong]),
        "unknown_input": (batched, [ins[0], ins[1].replace("x1", "w"), *outs, wrong]),
        "unknown_output": (batched, [*ins, outs[0].replace("y0", "w"), wrong]),
    }
    taken = {
        "cpu_instance": (batched, ['platform: "onnxruntime_onnx"', *ins, *outs, wrong, on_cpu]),
        "empty_config": (batched, [""]),
        "no_config": (batched, None),
        "no_config_no_batch": (fixed, [on_cpu]),
    }  # fmt: skip
    for folder, group, known in (("autofill_noplatform", refused, False), ("autofill_noplatform_success", taken, True)):
        for name, (graph, lines) in group.items():
            config = None if lines is None else "\n".join(lines)
            yield Case(f"qa/{folder}/onnx/{name}", model(name, config, model__onnx=graph), known=known)


def _onnx(shape: tuple[str | int, ...]) -> bytes:
    """A graph with two inputs x0, x1 and two outputs y0 (their sum), y1 (their difference)."""
    from onnx import TensorProto, helper

    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x0", "x1", "y0", "y1")]
    nodes = [helper.make_node(op, ["x0", "x1"], [name]) for op, name in (("Add", "y0"), ("Sub", "y1"))]
    graph = helper.make_graph(nodes, "sums", tensors[:2], tensors[2:])
    content: bytes = helper.make_model(
        graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]
    ).SerializeToString()
    return content


def _plan(**tensors: str) -> bytes:
    """A plan's sidecar: each tensor ``input [-1,6] FP32``, and ``shape`` or ``packed`` where it is such a one.

    What is dynamic is 1 to 8 in the first axis and 4 to 32 in the others, in three equal profiles.
    """
    listed = []
    profile: dict[str, dict[str, list[int]]] = {"min": {}, "opt": {}, "max": {}}
    for name, text in tensors.items():
        io, shape_text, dtype, *more = text.split()
        shape = json.loads(shape_text)
        tensor = {"name": name, "io": io, "dtype": dtype, "shape": shape}
        listed.append({**tensor, "shape_tensor": "shape" in more, "linear": "packed" not in more})
        for word, batch, other in (("min", 1, 4), ("opt", 4, 8), ("max", 8, 32)):
            if io == "input":
                bounds = [batch, *[other] * len(shape)]
                profile[word][name] = [
                    bound if size == -1 else size for size, bound in zip(shape, bounds, strict=False)
                ]
    plan = {
        "format": 1, "tensorrt_version": "10.5.0.18", "cuda": "12.6", "compute_capability": "9.0",
        "size_bytes": len(PLACEHOLDER), "tensors": listed, "profiles": [profile] * 3,
    }  # fmt: skip
    return json.dumps(plan).encode()


def _tensorrt_cases() -> Iterator[Case]:
    """TensorRT's: its backend is not here, and `check` reads a plan's sidecar; the original says what is known."""
    names = {"x0": "input", "x1": "input", "y0": "output", "y1": "output"}
    fixed, dynamic = (
        _plan(**{name: f"{io} {shape} FP32" for name, io in names.items()}) for shape in ("[-1,6]", "[-1,-1]")
    )
    shapes = _plan(x="input [-1,-1,-1] FP32", s="input [3] INT32 shape",
                   y="output [-1,-1,-1] FP32", t="output [3] INT32 shape")  # fmt: skip
    packed = _plan(x0="input [-1,32,4,4] FP16 packed", x1="input [-1,6] FP32", y0="output [-1,6] FP32")
    reshaped = _plan(x0="input [-1,2,2,3] FP32", y0="output [-1,2,2,3] FP32", x1="input [-1,1,2,1] FP32",
                     y1="output [-1,1,2,1] FP32")  # fmt: skip

    def config(**changed: str) -> str:
        """The four tensors, with another name, type, dims or more for some; an empty text leaves one out."""
        lines = ["max_batch_size: 8"]
        for name, io in names.items():
            said = changed.get(name, "dims: 6")
            if said:
                data_type = "" if "data_type" in said else "data_type: TYPE_FP32"
                lines.append(f'{io} {{ name: "{changed.get(f"{name}_name", name)}" {data_type} {said} }}')
        return "\n".join([*lines, changed.get("more", "")])

    def unbatched(said: str) -> str:
        return config(**dict.fromkeys(names, said)).replace("max_batch_size: 8", "")

    mixed = """
        input [ { name: "x" data_type: TYPE_FP32 dims: [ -1, -1 ] }, { name: "s" data_type: TYPE_INT32 dims: @ } ]
        output [ { name: "y" data_type: TYPE_FP32 dims: @ }, { name: "t" data_type: TYPE_INT32 dims: 2 } ]
    """
    extra = 'input { name: "x2" data_type: TYPE_FP32 dims: 6 }'
    refused: Mapping[str, tuple[bytes, str]] = {
        "bad_dynamic_shapes_max": (dynamic, unbatched("dims: 40")),
        "bad_dynamic_shapes_min": (dynamic, unbatched("dims: 2")),
        "bad_input_dims": (fixed, config(x1="dims: 9")),
        "bad_input_non_linear_format_io": (fixed, config(x0="dims: 6 is_non_linear_format_io: true")),
        "bad_input_shape": (fixed, config(x1="dims: [ 6, 1 ]")),
        "bad_input_shape_tensor": (fixed, config(x0="dims: 6 is_shape_tensor: true")),
        "bad_input_type": (fixed, config(x0="dims: 6 data_type: TYPE_INT32")),
        "bad_output_dims": (fixed, config(y1="dims: 9")),
        "bad_output_shape": (fixed, config(y1="dims: [ 6, 1 ]")),
        "bad_output_shape_tensor": (fixed, config(y1="dims: 6 is_shape_tensor: true")),
        "bad_output_type": (fixed, config(y1="dims: 6 data_type: TYPE_UINT8")),
        "bad_outut_non_linear_format_io": (fixed, config(y1="dims: 6 is_non_linear_format_io: true")),
        "mixed_batch_hint_dims": (shapes, mixed.replace("@", "2", 1).replace("@", "[ -1, -1, -1 ]")),
        "mixed_batch_hint_shape_values": (shapes, mixed.replace("@", "3", 1).replace("@", "[ -1, -1 ]")),
        "too_few_inputs": (fixed, config(x0="")),
        "too_many_inputs": (fixed, config(more=extra)),
        "unknown_input": (fixed, config(x1_name="w")),
        "unknown_output": (fixed, config(y0_name="w")),
    }
    taken: Mapping[str, tuple[bytes, str | None]] = {
        "empty_config": (fixed, ""),
        "empty_config_variable": (dynamic, ""),
        "hint_for_no_batch": (dynamic, unbatched("dims: [ -1, 6 ]").replace("data_type: TYPE_FP32", "", 3)),
        "incomplete_input": (fixed, 'input [ { name: "x0" data_type: TYPE_FP32 }, { name: "x1" dims: 6 } ]'),
        "incomplete_output": (fixed, 'output [ { name: "y0" data_type: TYPE_FP32 }, { name: "y1" dims: 6 } ]'),
        "multi_prof_max_bs": (dynamic, "".join(f'instance_group {{ profile: "{place}" }}' for place in range(3))),
        "no_config": (fixed, None),
        "no_config_non_linear_format_io": (packed, None),
        "no_config_shape_tensor": (shapes, None),
        "no_config_variable": (dynamic, None),
        "no_name_platform": (fixed, config()),
        "no_name_platform_variable": (dynamic, config()),
        "reshape_config_provided": (
            reshaped,
            """
            max_batch_size: 8
            input { name: "x0" data_type: TYPE_FP32 dims: [ 4, 3 ] reshape { shape: [ 2, 2, 3 ] } }
            output { name: "y0" data_type: TYPE_FP32 dims: [ 2, 2, 3 ] }
            input { name: "x1" data_type: TYPE_FP32 dims: 2 reshape { shape: [ 1, 2, 1 ] } }
            output { name: "y1" data_type: TYPE_FP32 dims: [ 1, 2, 1 ] }
            """,
        ),
    }
    for folder, group, known in (("autofill_noplatform", refused, False), ("autofill_noplatform_success", taken, True)):
        for name, (plan, text) in group.items():
            tree = {**model(name, text, "1/model.plan"), f"{name}/1/model.plan.json": plan}
            yield Case(f"qa/{folder}/tensorrt/{name}", tree, known=known)


def _listed(folder: str, names: str, reason: str) -> dict[str, str]:
    return {f"{folder}/{name}": reason for name in textwrap.dedent(names).split()}


LEFT_OUT: Mapping[str, str] = {
    **_listed("autofill_noplatform/openvino",
        "bad_input_dims bad_output_dims too_few_inputs too_many_inputs unknown_input unknown_output", _OPENVINO),
    **_listed("autofill_noplatform_success/openvino", "dynamic_batch empty_config no_config partial_config", _OPENVINO),
    **_listed("autofill_noplatform/pytorch", "too_few_inputs too_few_outputs", _PYTORCH),
    **_listed("autofill_noplatform_success/pytorch", "cpu_instance no_name_platform", _PYTORCH),
    **_listed("autofill_noplatform/tensorflow_savedmodel", """
        bad_input_dims bad_input_type bad_output_dims bad_output_type too_many_inputs unknown_input unknown_output
        """, _TENSORFLOW),
    **_listed("autofill_noplatform_success/tensorflow_graphdef", """
        no_name_platform reshape_config_provided
        """, _TENSORFLOW),
    **_listed("autofill_noplatform_success/tensorflow_savedmodel", """
        cpu_instance empty_config hint_for_no_batch_1 hint_for_no_batch_2 incomplete_input incomplete_output
        kind_model_config max_batch_size_set no_config no_config_no_batch no_name_platform reshape_config_provided
        too_few_inputs
        """, _TENSORFLOW),
    **_listed("cli_messages", "cli_deprecation cli_override", _COMMAND_LINE),
    "special_cases/noautofill_noconfig": "needs auto-complete switched off, and a TensorFlow graph",
}  # fmt: skip
