"""What mutants are made of: models that load, with most of what a config can say."""

from __future__ import annotations

from collections.abc import Sequence

from .case import Tree, ensemble, identity, model, onnx, part, python, tensorrt

_TENSORS = """
input { name: "x" data_type: TYPE_FP32 dims: [ 3, 4 ] }
input { name: "y" data_type: TYPE_INT64 dims: [ -1 ] optional: true }
output { name: "z" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "labels.txt" }
"""
_LABELS = {"m/labels.txt": b"yes\nno\n"}

_DYNAMIC = f"""
max_batch_size: 8
{_TENSORS}
dynamic_batching {{
  preferred_batch_size: [ 4, 8 ]
  max_queue_delay_microseconds: 500
  priority_levels: 2
  default_priority_level: 1
  default_queue_policy {{ timeout_action: DELAY default_timeout_microseconds: 1000 max_queue_size: 16 }}
  priority_queue_policy {{ key: 2 value {{ allow_timeout_override: true }} }}
}}
instance_group {{ kind: KIND_CPU count: 2 }}
version_policy {{ latest {{ num_versions: 1 }} }}
"""

_WARM = f"""
max_batch_size: 4
{_TENSORS}
model_warmup {{
  name: "w"
  batch_size: 2
  inputs {{ key: "x" value {{ data_type: TYPE_FP32 dims: [ 3, 4 ] zero_data: true }} }}
  inputs {{ key: "y" value {{ data_type: TYPE_INT64 dims: [ 5 ] random_data: true }} }}
}}
model_warmup {{
  name: "from_file"
  batch_size: 1
  count: 2
  inputs {{ key: "x" value {{ data_type: TYPE_FP32 dims: [ 3, 4 ] input_data_file: "data" }} }}
}}
parameters {{ key: "a" value {{ string_value: "b" }} }}
metric_tags {{ key: "team" value: "vision" }}
"""

_SEQUENCE = """
max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] }
sequence_batching {
  max_sequence_idle_microseconds: 5000000
  control_input { name: "START" control { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } }
  control_input { name: "READY" control { kind: CONTROL_SEQUENCE_READY fp32_false_true: [ 0, 1 ] } }
  control_input { name: "END" control { kind: CONTROL_SEQUENCE_END bool_false_true: [ false, true ] } }
  control_input { name: "ID" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } }
  state {
    input_name: "si" output_name: "so" data_type: TYPE_FP32 dims: [ 2, -1 ]
    initial_state { name: "zero" data_type: TYPE_FP32 dims: [ 2, 3 ] zero_data: true }
  }
  state {
    input_name: "ti" output_name: "to" data_type: TYPE_INT32 dims: 2
    initial_state { name: "from_file" data_type: TYPE_INT32 dims: 2 data_file: "start" }
  }
  @
}
"""

_SHAPES = """
max_batch_size: 2
input { name: "x" data_type: TYPE_UINT8 dims: [ 3, 8, 8 ] format: FORMAT_NCHW reshape { shape: [ 192 ] } }
input { name: "s" data_type: TYPE_STRING dims: 1 reshape { shape: [] } }
input { name: "v" data_type: TYPE_FP16 dims: [ 2, 4, -1 ] reshape { shape: [ 8, -1, 1 ] } allow_ragged_batch: true }
output { name: "y" data_type: TYPE_BOOL dims: [ 6, -1 ] reshape { shape: [ 2, 3, -1 ] } }
batch_input { kind: BATCH_ACCUMULATED_ELEMENT_COUNT target_name: "n" data_type: TYPE_FP32 source_input: "v" }
batch_output { kind: BATCH_SCATTER_WITH_INPUT_SHAPE target_name: "y" source_input: "v" }
instance_group { kind: KIND_GPU count: 2 rate_limiter { resources { name: "R" count: 2 } priority: 1 } }
instance_group { kind: KIND_CPU host_policy: "numa_0" secondary_devices { kind: KIND_NVDLA device_id: 1 } }
optimization {
  priority: PRIORITY_MAX
  input_pinned_memory { enable: true }
  execution_accelerators { gpu_execution_accelerator { name: "tensorrt" parameters { key: "p" value: "FP16" } } }
}
response_cache { enable: true }
"""

_PLAN = """
max_batch_size: 8
input { name: "x" data_type: TYPE_FP16 dims: [ 3, 8, 8 ] is_non_linear_format_io: true }
input { name: "s" data_type: TYPE_INT32 dims: [ 2 ] is_shape_tensor: true }
output { name: "y" data_type: TYPE_FP16 dims: [ -1 ] }
instance_group { kind: KIND_GPU gpus: 0 count: 2 profile: [ "0", "1" ] }
dynamic_batching { preferred_batch_size: 8 preserve_ordering: true }
optimization {
  graph { level: 1 }
  gather_kernel_buffer_threshold: 4
  eager_batching: true
  cuda {
    graphs: true
    busy_wait_events: true
    output_copy_stream: true
    graph_spec {
      batch_size: 4
      input { key: "x" value { dim: [ 3, 8, 8 ] } }
      graph_lower_bound { batch_size: 1 input { key: "x" value { dim: [ 3, 8, 8 ] } } }
    }
  }
}
cc_model_filenames { key: "9.0" value: "model.plan" }
"""

_ANY = """
name: "m"
platform: "whatever"
default_model_filename: "model.bin"
input { name: "x" data_type: TYPE_BF16 dims: [ -1, -1 ] }
output { name: "y" data_type: TYPE_FP64 dims: [ 1 ] }
model_operations { op_library_filename: [ "a.so", "b.so" ] }
model_transaction_policy { decoupled: true }
model_repository_agents { agents { name: "none" parameters { key: "k" value: "v" } } }
"""

_DIAMOND = "one i0=a > o0=b | one i0=a > o0=c | two i0=b i1=c > o0=z o1=y"
_PARTS: Tree = {**part("one"), **part("two", ins=2, outs=2)}
_FILES = {"m/warmup/data": b"\0" * 48, "m/initial_state/start": b"\0" * 8}

BASES: Sequence[Tree] = (
    {**onnx(_DYNAMIC), **_LABELS},
    {**onnx(_WARM), **_LABELS, **_FILES},
    {**onnx(_SEQUENCE.replace("@", "direct { minimum_slot_utilization: 0.5 }")), **_FILES},
    {
        **identity(_SEQUENCE.replace("@", "oldest { max_candidate_sequences: 4 preferred_batch_size: [ 2, 4 ] }")),
        **_FILES,
    },
    onnx(_SHAPES),
    tensorrt(_PLAN),
    identity(_ANY.replace("model_repository_agents", "# ")),
    {**_PARTS, **ensemble("ens", _DIAMOND, outs="z y")},
    {
        **_PARTS,
        **ensemble("inner", "one i0=a > o0=b | one i0=b > o0=z"),
        **ensemble("ens", "inner@1 a=a > z=b | two i0=b i1=a > o1=z"),
    },
    {
        **onnx(f"max_batch_size: 4\n{_TENSORS}version_policy {{ specific {{ versions: [ 1, 3 ] }} }}"),
        **_LABELS,
        "m/3/model.onnx": b"x",
        "m/10/model.onnx": b"x",
    },
    model("m", f'platform: "pytorch_libtorch"\nmax_batch_size: 4\n{_TENSORS}', "1/model.pt") | _LABELS,
)
"""Repositories that the core judges, through the stub backends."""

PYTHON_BASES: Sequence[Tree] = (
    python("p1", """
        backend: "python"
        max_batch_size: 4
        input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }
        output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] }
        dynamic_batching {}
        instance_group { kind: KIND_CPU count: 1 }
        parameters { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value { string_value: "no" } }
    """),
    python("p2", """
        default_model_filename: "model.py"
        input { name: "x" data_type: TYPE_STRING dims: [ -1 ] }
        output { name: "y" data_type: TYPE_STRING dims: [ -1 ] }
        model_transaction_policy { decoupled: true }
        version_policy { all {} }
    """),
)  # fmt: skip
"""Repositories that the real Python backend judges."""
