"""Cases written by hand: every field of ModelConfig, every rule that is known, and what has surprised.

A table has a row ``name | text`` for each case; the text stands where the base config has @. The model is one for ONNX
Runtime where nothing else is said. An id is ``ours/``, the table's topic and the row's name.
"""

# ruff: noqa: E501 - a row of a table is one line, however long

from __future__ import annotations

from collections.abc import Iterator

from . import cases_ensembles, cases_layout, cases_text
from .case import Case, bare, identity, onnx, python, table, tensorrt

_X = 'input { name: "x" data_type: TYPE_FP32 dims: 4 }\n'
_Y = 'output { name: "y" data_type: TYPE_FP32 dims: 4 }\n'
_IO = _X + _Y
_BATCHED = f"max_batch_size: 8\n{_IO}"


def cases() -> Iterator[Case]:
    """All cases that are written by hand, beside those of qa."""
    for group in (
        _wide, _backends, _tensors, _shapes, _batch_io, _instances, _tensorrt, _limits, _dynamic, _policies, _sequences,
        _controls, _states, _warmup, _optimization, _services, _python,
    ):  # fmt: skip
        yield from group()
    yield from cases_ensembles.cases()
    yield from cases_layout.cases()
    yield from cases_text.cases()


def _wide() -> Iterator[Case]:
    yield from table("ours/model", f"@\n{_IO}", """
        nothing                         |
        name                            | name: "m"
        name_empty                      | name: ""
        name_other                      | name: "other"
        name_case                       | name: "M"
        name_space                      | name: "m "
        batch_0                         | max_batch_size: 0
        batch_1                         | max_batch_size: 1
        batch_negative                  | max_batch_size: -1
        batch_largest                   | max_batch_size: 2147483647
        batch_too_large                 | max_batch_size: 2147483648
        batch_smallest                  | max_batch_size: -2147483648
        batch_too_small                 | max_batch_size: -2147483649
        file                            | default_model_filename: "model.onnx"
        file_missing                    | default_model_filename: "other.onnx"
        file_empty                      | default_model_filename: ""
        file_above                      | default_model_filename: "../1/model.onnx"
        file_of_python                  | default_model_filename: "model.py"
        file_of_tensorrt                | default_model_filename: "model.plan"
        cc_file                         | cc_model_filenames { key: "9.0" value: "model.onnx" }
        cc_file_missing                 | cc_model_filenames { key: "9.0" value: "other.onnx" }
        cc_file_other_gpu               | cc_model_filenames { key: "7.5" value: "other.onnx" }
        cc_file_twice                   | cc_model_filenames { key: "9.0" value: "a" } cc_model_filenames { key: "9.0" value: "b" }
        cc_file_no_key                  | cc_model_filenames { value: "other.onnx" }
        tags                            | metric_tags { key: "team" value: "vision" }
        tags_two                        | metric_tags { key: "team" value: "vision" } metric_tags { key: "tier" value: "1" }
        tags_odd_value                  | metric_tags { key: "team" value: "a b \\"c\\" {}=,\\n" }
        tags_empty_value                | metric_tags { key: "team" value: "" }
        tags_colon                      | metric_tags { key: "a:b" value: "c" }
        tags_underscore                 | metric_tags { key: "_a" value: "c" }
        tags_two_underscores            | metric_tags { key: "__a" value: "c" }
        tags_dash                       | metric_tags { key: "a-b" value: "c" }
        tags_space                      | metric_tags { key: "a b" value: "c" }
        tags_digit_first                | metric_tags { key: "1a" value: "c" }
        tags_empty_key                  | metric_tags { key: "" value: "c" }
        tags_no_key                     | metric_tags { value: "c" }
        tags_not_ascii                  | metric_tags { key: "größe" value: "c" }
        tags_model                      | metric_tags { key: "model" value: "c" }
        tags_version                    | metric_tags { key: "version" value: "c" }
        tags_gpu                        | metric_tags { key: "gpu_uuid" value: "c" }
        operations                      | model_operations { op_library_filename: "libops.so" }
        operations_empty                | model_operations {}
        operations_two                  | model_operations { op_library_filename: [ "a.so", "b.so" ] }
        decoupled                       | model_transaction_policy { decoupled: true }
        decoupled_false                 | model_transaction_policy { decoupled: false }
        decoupled_empty                 | model_transaction_policy {}
        decoupled_batched               | model_transaction_policy { decoupled: true } max_batch_size: 4 dynamic_batching {}
        parameter                       | parameters { key: "a" value { string_value: "b" } }
        parameter_empty                 | parameters { key: "a" value {} }
        parameter_no_value              | parameters { key: "a" }
        parameter_no_key                | parameters { value { string_value: "b" } }
        parameter_twice                 | parameters { key: "a" value { string_value: "b" } } parameters { key: "a" value { string_value: "c" } }
        parameter_bare_value            | parameters { key: "a" value: "b" }
        parameter_number                | parameters { key: "a" value { string_value: 1 } }
        parameter_batch_strategy        | parameters { key: "TRITON_BATCH_STRATEGY_PATH" value { string_value: "/no/such/file.so" } }
        agents                          | model_repository_agents { agents { name: "checksum" } }
        agents_parameters               | model_repository_agents { agents { name: "a" parameters { key: "b" value: "c" } } }
        agents_empty                    | model_repository_agents {}
        agents_no_name                  | model_repository_agents { agents {} }
        cache                           | response_cache { enable: true }
        cache_off                       | response_cache { enable: false }
        cache_empty                     | response_cache {}
        cache_decoupled                 | response_cache { enable: true } model_transaction_policy { decoupled: true }
        cache_off_decoupled             | response_cache { enable: false } model_transaction_policy { decoupled: true }
        cache_sequence                  | response_cache { enable: true } max_batch_size: 4 sequence_batching {}
        cache_off_sequence              | response_cache { enable: false } max_batch_size: 4 sequence_batching {}
        metrics_of_later_releases       | model_metrics { metric_control { metric_identifier { family: "a" } histogram_options { buckets: 1 } } }
        metrics_empty                   | model_metrics {}
        inflight_of_later_releases      | ensemble_scheduling { max_inflight_requests: 4 }
    """)  # fmt: skip


def _backends() -> Iterator[Case]:
    yield from table("ours/backend", f"@\n{_IO}", """
        by_file                         |
        platform_and_backend            | platform: "onnxruntime_onnx" backend: "onnxruntime"
        platform                        | platform: "onnxruntime_onnx"
        backend                         | backend: "onnxruntime"
        backend_empty                   | backend: ""
        platform_empty                  | platform: ""
        platform_unknown                | platform: "onnx"
        platform_is_backend             | platform: "onnxruntime"
        backend_is_platform             | backend: "onnxruntime_onnx"
        backend_unknown                 | backend: "nothing"
        backend_case                    | backend: "ONNXRuntime"
        backend_above                   | backend: "../onnxruntime"
        backend_folder                  | backend: "."
        backend_slash                   | backend: "onnxruntime/"
        backend_of_tensorflow           | backend: "tensorflow"
        pair_tensorrt_onnx              | platform: "tensorrt_plan" backend: "onnxruntime"
        pair_onnx_tensorrt              | platform: "onnxruntime_onnx" backend: "tensorrt"
        pair_onnx_identity              | platform: "onnxruntime_onnx" backend: "identity"
        pair_any_identity               | platform: "whatever" backend: "identity"
        pair_ensemble_identity          | platform: "ensemble" backend: "identity"
        pair_onnx_python                | platform: "onnxruntime_onnx" backend: "python"
        pair_any_python                 | platform: "whatever" backend: "python"
        pair_pytorch                    | platform: "pytorch_libtorch" backend: "pytorch"
        pair_any_pytorch                | platform: "whatever" backend: "pytorch"
        pair_tensorflow                 | platform: "tensorflow_savedmodel" backend: "tensorflow"
        pair_any_tensorflow             | platform: "whatever" backend: "tensorflow"
        pair_any_openvino               | platform: "whatever" backend: "openvino"
        openvino                        | backend: "openvino"
        pytorch                         | backend: "pytorch"
        pytorch_platform                | platform: "pytorch_libtorch"
        pytorch_python                  | backend: "pytorch" runtime: "model.py"
        tensorflow_savedmodel           | platform: "tensorflow_savedmodel"
        tensorflow_graphdef             | platform: "tensorflow_graphdef"
        tensorrt_wants_plan             | platform: "tensorrt_plan"
        dali                            | backend: "dali"
        identity                        | backend: "identity"
        caffe2                          | platform: "caffe2_netdef"
        custom                          | platform: "custom"
        ensemble_without_scheduling     | platform: "ensemble"
        file_names_python               | default_model_filename: "model.py"
        file_names_tensorrt             | default_model_filename: "model.plan"
        file_names_pytorch              | default_model_filename: "model.pt"
        file_names_openvino             | default_model_filename: "model.xml"
        file_names_savedmodel           | default_model_filename: "model.savedmodel"
        file_names_nothing              | default_model_filename: "weights.bin"
        file_names_itself               | default_model_filename: "model.onnx"
        runtime_full                    | backend: "onnxruntime" runtime: "libtriton_onnxruntime.so"
        runtime_empty                   | backend: "onnxruntime" runtime: ""
        runtime_other_backend           | backend: "onnxruntime" runtime: "libtriton_tensorrt.so"
        runtime_short                   | backend: "onnxruntime" runtime: "onnxruntime"
        runtime_above                   | backend: "onnxruntime" runtime: "../tensorrt/libtriton_tensorrt.so"
        runtime_python                  | backend: "onnxruntime" runtime: "model.py"
        runtime_missing                 | backend: "onnxruntime" runtime: "libtriton_other.so"
        runtime_absolute                | backend: "onnxruntime" runtime: "/no/such/lib.so"
    """, folder=bare)  # fmt: skip


def _tensors() -> Iterator[Case]:
    yield from table("ours/tensor", f"max_batch_size: 4\n@\n{_Y}", """
        none                            |
        empty                           | input {}
        no_name                         | input { data_type: TYPE_FP32 dims: 4 }
        name_empty                      | input { name: "" data_type: TYPE_FP32 dims: 4 }
        name_slash                      | input { name: "gpu_0/data_0" data_type: TYPE_FP32 dims: 4 }
        name_colon                      | input { name: "a:0" data_type: TYPE_FP32 dims: 4 }
        name_space                      | input { name: " " data_type: TYPE_FP32 dims: 4 }
        name_not_ascii                  | input { name: "größe" data_type: TYPE_FP32 dims: 4 }
        name_of_output                  | input { name: "y" data_type: TYPE_FP32 dims: 4 }
        same_names                      | input [ { name: "x" data_type: TYPE_FP32 dims: 4 }, { name: "x" data_type: TYPE_FP32 dims: 4 } ]
        no_type                         | input { name: "x" dims: 4 }
        type_invalid                    | input { name: "x" data_type: TYPE_INVALID dims: 4 }
        type_bool                       | input { name: "x" data_type: TYPE_BOOL dims: 4 }
        type_uint8                      | input { name: "x" data_type: TYPE_UINT8 dims: 4 }
        type_uint16                     | input { name: "x" data_type: TYPE_UINT16 dims: 4 }
        type_uint32                     | input { name: "x" data_type: TYPE_UINT32 dims: 4 }
        type_uint64                     | input { name: "x" data_type: TYPE_UINT64 dims: 4 }
        type_int8                       | input { name: "x" data_type: TYPE_INT8 dims: 4 }
        type_int16                      | input { name: "x" data_type: TYPE_INT16 dims: 4 }
        type_int32                      | input { name: "x" data_type: TYPE_INT32 dims: 4 }
        type_int64                      | input { name: "x" data_type: TYPE_INT64 dims: 4 }
        type_fp16                       | input { name: "x" data_type: TYPE_FP16 dims: 4 }
        type_fp64                       | input { name: "x" data_type: TYPE_FP64 dims: 4 }
        type_bf16                       | input { name: "x" data_type: TYPE_BF16 dims: 4 }
        type_string                     | input { name: "x" data_type: TYPE_STRING dims: 4 }
        type_bytes                      | input { name: "x" data_type: TYPE_BYTES dims: 4 }
        type_number                     | input { name: "x" data_type: 11 dims: 4 }
        type_number_0                   | input { name: "x" data_type: 0 dims: 4 }
        type_number_unknown             | input { name: "x" data_type: 99 dims: 4 }
        type_number_negative            | input { name: "x" data_type: -1 dims: 4 }
        type_without_prefix             | input { name: "x" data_type: FP32 dims: 4 }
        type_quoted                     | input { name: "x" data_type: "TYPE_FP32" dims: 4 }
        type_case                       | input { name: "x" data_type: type_fp32 dims: 4 }
        no_dims                         | input { name: "x" data_type: TYPE_FP32 }
        dims_empty                      | input { name: "x" data_type: TYPE_FP32 dims: [] }
        dims_0                          | input { name: "x" data_type: TYPE_FP32 dims: 0 }
        dims_variable                   | input { name: "x" data_type: TYPE_FP32 dims: -1 }
        dims_all_variable               | input { name: "x" data_type: TYPE_FP32 dims: [ -1, -1, -1 ] }
        dims_negative                   | input { name: "x" data_type: TYPE_FP32 dims: -2 }
        dims_largest                    | input { name: "x" data_type: TYPE_FP32 dims: 9223372036854775807 }
        dims_product_overflows          | input { name: "x" data_type: TYPE_FP32 dims: [ 9223372036854775807, 9223372036854775807 ] }
        dims_too_large                  | input { name: "x" data_type: TYPE_FP32 dims: 9223372036854775808 }
        dims_float                      | input { name: "x" data_type: TYPE_FP32 dims: 4.0 }
        dims_many                       | input { name: "x" data_type: TYPE_FP32 dims: [ 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 ] }
        dims_two_ways                   | input { name: "x" data_type: TYPE_FP32 dims: [ 4, 4 ] dims: 4 }
        format_nchw                     | input { name: "x" data_type: TYPE_FP32 dims: [ 3, 4, 4 ] format: FORMAT_NCHW }
        format_nhwc                     | input { name: "x" data_type: TYPE_FP32 dims: [ 4, 4, 3 ] format: FORMAT_NHWC }
        format_none                     | input { name: "x" data_type: TYPE_FP32 dims: 4 format: FORMAT_NONE }
        format_nchw_1                   | input { name: "x" data_type: TYPE_FP32 dims: 4 format: FORMAT_NCHW }
        format_nhwc_2                   | input { name: "x" data_type: TYPE_FP32 dims: [ 4, 4 ] format: FORMAT_NHWC }
        format_nchw_4                   | input { name: "x" data_type: TYPE_FP32 dims: [ 1, 3, 4, 4 ] format: FORMAT_NCHW }
        format_unknown_number           | input { name: "x" data_type: TYPE_FP32 dims: 4 format: 9 }
        shape_tensor                    | input { name: "x" data_type: TYPE_INT32 dims: 4 is_shape_tensor: true }
        shape_tensor_false              | input { name: "x" data_type: TYPE_INT32 dims: 4 is_shape_tensor: false }
        ragged                          | input { name: "x" data_type: TYPE_FP32 dims: -1 allow_ragged_batch: true }
        ragged_fixed                    | input { name: "x" data_type: TYPE_FP32 dims: 4 allow_ragged_batch: true }
        optional                        | input { name: "x" data_type: TYPE_FP32 dims: 4 optional: true }
        optional_one_of_two             | input { name: "x" data_type: TYPE_FP32 dims: 4 } input { name: "w" data_type: TYPE_FP32 dims: 4 optional: true }
        non_linear                      | input { name: "x" data_type: TYPE_FP32 dims: [ 3, 4, 4 ] is_non_linear_format_io: true }
        non_linear_false                | input { name: "x" data_type: TYPE_FP32 dims: 4 is_non_linear_format_io: false }
    """)  # fmt: skip
    yield from table("ours/output", f"max_batch_size: 4\n{_X}\n@", """
        none                            |
        empty                           | output {}
        no_name                         | output { data_type: TYPE_FP32 dims: 4 }
        no_type                         | output { name: "y" dims: 4 }
        no_dims                         | output { name: "y" data_type: TYPE_FP32 }
        dims_0                          | output { name: "y" data_type: TYPE_FP32 dims: 0 }
        dims_variable                   | output { name: "y" data_type: TYPE_FP32 dims: -1 }
        dims_negative                   | output { name: "y" data_type: TYPE_FP32 dims: [ 4, -3 ] }
        same_names                      | output [ { name: "y" data_type: TYPE_FP32 dims: 4 }, { name: "y" data_type: TYPE_FP32 dims: 4 } ]
        shape_tensor                    | output { name: "y" data_type: TYPE_INT32 dims: 4 is_shape_tensor: true }
        non_linear                      | output { name: "y" data_type: TYPE_FP32 dims: [ 3, 4, 4 ] is_non_linear_format_io: true }
        labels_missing                  | output { name: "y" data_type: TYPE_FP32 dims: 4 label_filename: "labels.txt" }
        labels_folder                   | output { name: "y" data_type: TYPE_FP32 dims: 4 label_filename: "1" }
        labels_empty                    | output { name: "y" data_type: TYPE_FP32 dims: 4 label_filename: "" }
        labels_any_file                 | output { name: "y" data_type: TYPE_FP32 dims: 4 label_filename: "config.pbtxt" }
        labels_in_version               | output { name: "y" data_type: TYPE_FP32 dims: 4 label_filename: "1/model.onnx" }
        labels_above                    | output { name: "y" data_type: TYPE_FP32 dims: 4 label_filename: "../m/config.pbtxt" }
        labels_absolute                 | output { name: "y" data_type: TYPE_FP32 dims: 4 label_filename: "/etc/hostname" }
        format                          | output { name: "y" data_type: TYPE_FP32 dims: [ 3, 4, 4 ] format: FORMAT_NCHW }
        optional                        | output { name: "y" data_type: TYPE_FP32 dims: 4 optional: true }
    """)  # fmt: skip


def _shapes() -> Iterator[Case]:
    rows = """
        same                            | dims: 4 reshape { shape: 4 }
        grouped                         | dims: [ 2, 3, 4 ] reshape { shape: [ 6, 4 ] }
        split                           | dims: 24 reshape { shape: [ 2, 3, 4 ] }
        ones                            | dims: 4 reshape { shape: [ 1, 4, 1 ] }
        scalar                          | dims: 1 reshape { shape: [] }
        scalar_of_ones                  | dims: [ 1, 1 ] reshape {}
        scalar_of_4                     | dims: 4 reshape {}
        scalar_of_variable              | dims: -1 reshape {}
        to_1                            | dims: 1 reshape { shape: 1 }
        zero                            | dims: 4 reshape { shape: 0 }
        zeros                           | dims: 4 reshape { shape: [ 4, 0 ] }
        negative                        | dims: 4 reshape { shape: -4 }
        smaller                         | dims: 4 reshape { shape: 3 }
        larger                          | dims: 4 reshape { shape: [ 4, 2 ] }
        variable                        | dims: -1 reshape { shape: -1 }
        variable_to_fixed               | dims: -1 reshape { shape: 4 }
        fixed_to_variable               | dims: 4 reshape { shape: -1 }
        variable_grouped                | dims: [ 2, 4, -1, 6 ] reshape { shape: [ 8, -1, 1, 6 ] }
        variable_grouped_wrong          | dims: [ 2, 4, -1, 6 ] reshape { shape: [ 8, -1, 5 ] }
        variable_moved                  | dims: [ 2, -1 ] reshape { shape: [ -1, 2 ] }
        variable_twice                  | dims: [ -1, -1 ] reshape { shape: [ -1, 1, -1 ] }
        variable_one_less               | dims: [ -1, -1 ] reshape { shape: -1 }
        variable_one_more               | dims: -1 reshape { shape: [ -1, -1 ] }
        overflow                        | dims: [ 4294967296, 4294967296 ] reshape { shape: [ 4294967296, 4294967296 ] }
        overflow_to_scalar              | dims: [ 4294967296, 4294967296 ] reshape {}
        overflow_to_1                   | dims: [ 4294967296, 4294967296, 1 ] reshape { shape: 1 }
        no_dims                         | reshape { shape: 4 }
        twice                           | dims: 4 reshape { shape: 4 } reshape { shape: 4 }
    """
    for batch in (0, 4):
        for kind, other in (("input", _Y), ("output", _X)):
            base = f'max_batch_size: {batch}\n{kind} {{ name: "t" data_type: TYPE_FP32 @ }}\n{other}'
            yield from table(f"ours/reshape_{kind}_batch_{batch}", base, rows)


def _batch_io() -> Iterator[Case]:
    base = f'max_batch_size: 4\ninput {{ name: "x" data_type: TYPE_FP32 dims: -1 allow_ragged_batch: true }}\n{_Y}@'
    rows = """
        count                           | batch_input { kind: BATCH_ELEMENT_COUNT target_name: "n" data_type: TYPE_FP32 source_input: "x" }
        sum                             | batch_input { kind: BATCH_ACCUMULATED_ELEMENT_COUNT target_name: "n" data_type: TYPE_INT32 source_input: "x" }
        sum_with_zero                   | batch_input { kind: BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO target_name: "n" data_type: TYPE_FP32 source_input: "x" }
        largest                         | batch_input { kind: BATCH_MAX_ELEMENT_COUNT_AS_SHAPE target_name: "n" data_type: TYPE_FP32 source_input: "x" }
        item_shape                      | batch_input { kind: BATCH_ITEM_SHAPE target_name: "n" data_type: TYPE_FP32 source_input: "x" }
        item_shape_flat                 | batch_input { kind: BATCH_ITEM_SHAPE_FLATTEN target_name: "n" data_type: TYPE_FP32 source_input: "x" }
        kind_default                    | batch_input { target_name: "n" data_type: TYPE_FP32 source_input: "x" }
        kind_unknown                    | batch_input { kind: 42 target_name: "n" data_type: TYPE_FP32 source_input: "x" }
        type_missing                    | batch_input { kind: BATCH_ELEMENT_COUNT target_name: "n" source_input: "x" }
        type_int64                      | batch_input { kind: BATCH_ELEMENT_COUNT target_name: "n" data_type: TYPE_INT64 source_input: "x" }
        type_fp16                       | batch_input { kind: BATCH_ELEMENT_COUNT target_name: "n" data_type: TYPE_FP16 source_input: "x" }
        source_missing                  | batch_input { kind: BATCH_ITEM_SHAPE target_name: "n" data_type: TYPE_FP32 }
        source_unknown                  | batch_input { kind: BATCH_ITEM_SHAPE target_name: "n" data_type: TYPE_FP32 source_input: "y" }
        source_two                      | batch_input { kind: BATCH_ITEM_SHAPE_FLATTEN target_name: "n" data_type: TYPE_FP32 source_input: [ "x", "x" ] }
        target_missing                  | batch_input { kind: BATCH_ELEMENT_COUNT data_type: TYPE_FP32 source_input: "x" }
        target_two                      | batch_input { kind: BATCH_ELEMENT_COUNT target_name: [ "n", "o" ] data_type: TYPE_FP32 source_input: "x" }
        target_same                     | batch_input { kind: BATCH_ELEMENT_COUNT target_name: [ "n", "n" ] data_type: TYPE_FP32 source_input: "x" }
        target_is_input                 | batch_input { kind: BATCH_ELEMENT_COUNT target_name: "x" data_type: TYPE_FP32 source_input: "x" }
        input_empty                     | batch_input {}
        scatter                         | batch_output { kind: BATCH_SCATTER_WITH_INPUT_SHAPE target_name: "y" source_input: "x" }
        scatter_kind_default            | batch_output { target_name: "y" source_input: "x" }
        scatter_kind_unknown            | batch_output { kind: 7 target_name: "y" source_input: "x" }
        scatter_no_target               | batch_output { kind: BATCH_SCATTER_WITH_INPUT_SHAPE source_input: "x" }
        scatter_unknown_target          | batch_output { kind: BATCH_SCATTER_WITH_INPUT_SHAPE target_name: "x" source_input: "x" }
        scatter_target_in_two           | batch_output { target_name: "y" source_input: "x" } batch_output { target_name: "y" source_input: "x" }
        scatter_no_source               | batch_output { kind: BATCH_SCATTER_WITH_INPUT_SHAPE target_name: "y" }
        output_empty                    | batch_output {}
    """
    yield from table("ours/batch_io", base, rows, folder=tensorrt)
    yield from table("ours/batch_io_onnx", base, rows)


def _instances() -> Iterator[Case]:
    rows = """
        none                            |
        empty                           | instance_group {}
        auto                            | instance_group { kind: KIND_AUTO }
        auto_gpu_0                      | instance_group { kind: KIND_AUTO gpus: 0 }
        auto_gpu_1                      | instance_group { kind: KIND_AUTO gpus: 1 }
        auto_gpu_7                      | instance_group { gpus: 7 }
        cpu                             | instance_group { kind: KIND_CPU }
        cpu_gpus                        | instance_group { kind: KIND_CPU gpus: 0 }
        model                           | instance_group { kind: KIND_MODEL }
        model_gpus                      | instance_group { kind: KIND_MODEL gpus: 0 }
        gpu                             | instance_group { kind: KIND_GPU }
        gpu_0                           | instance_group { kind: KIND_GPU gpus: 0 }
        gpu_1                           | instance_group { kind: KIND_GPU gpus: 1 }
        gpu_0_and_1                     | instance_group { kind: KIND_GPU gpus: [ 0, 1 ] }
        gpu_twice                       | instance_group { kind: KIND_GPU gpus: [ 0, 0 ] }
        gpu_negative                    | instance_group { kind: KIND_GPU gpus: -1 }
        kind_unknown                    | instance_group { kind: 42 }
        kind_name                       | instance_group { kind: GPU }
        count_2                         | instance_group { kind: KIND_CPU count: 2 }
        count_0                         | instance_group { kind: KIND_CPU count: 0 }
        count_negative                  | instance_group { kind: KIND_CPU count: -3 }
        count_large                     | instance_group { kind: KIND_CPU count: 100 }
        count_too_large                 | instance_group { kind: KIND_CPU count: 4294967296 }
        named                           | instance_group { name: "a" kind: KIND_CPU }
        same_names                      | instance_group { name: "a" kind: KIND_CPU } instance_group { name: "a" kind: KIND_CPU }
        two_kinds                       | instance_group [ { kind: KIND_CPU }, { kind: KIND_GPU } ]
        passive                         | instance_group { kind: KIND_CPU passive: true }
        passive_and_active              | instance_group { kind: KIND_CPU passive: true } instance_group { kind: KIND_CPU }
        profile                         | instance_group { kind: KIND_GPU profile: "0" }
        profile_empty                   | instance_group { kind: KIND_GPU profile: "" }
        host_policy                     | instance_group { kind: KIND_CPU host_policy: "numa_0" }
        host_policy_empty               | instance_group { kind: KIND_CPU host_policy: "" }
        secondary                       | instance_group { kind: KIND_CPU secondary_devices { kind: KIND_NVDLA device_id: 0 } }
        secondary_empty                 | instance_group { kind: KIND_CPU secondary_devices {} }
        secondary_unknown               | instance_group { kind: KIND_CPU secondary_devices { kind: 3 device_id: -1 } }
        limiter                         | instance_group { kind: KIND_CPU rate_limiter { resources { name: "R" count: 2 } priority: 3 } }
        limiter_empty                   | instance_group { kind: KIND_CPU rate_limiter {} }
        limiter_global                  | instance_group { kind: KIND_CPU rate_limiter { resources { name: "R" global: true count: 1 } } }
        limiter_no_name                 | instance_group { kind: KIND_CPU rate_limiter { resources { count: 1 } } }
        limiter_count_0                 | instance_group { kind: KIND_CPU rate_limiter { resources { name: "R" count: 0 } } }
        limiter_global_and_not          | instance_group { kind: KIND_CPU rate_limiter { resources [ { name: "R" global: true count: 1 }, { name: "R" count: 1 } ] } }
        limiter_priority_0              | instance_group { kind: KIND_CPU rate_limiter { priority: 0 } }
        limiter_huge                    | instance_group { kind: KIND_CPU rate_limiter { resources { name: "R" count: 4294967295 } priority: 4294967295 } }
        limiter_negative                | instance_group { kind: KIND_CPU rate_limiter { priority: -1 } }
    """
    for gpus in (0, 1, 2):
        yield from table(f"ours/instances_{gpus}_gpus", f"max_batch_size: 4\n@\n{_IO}", rows, gpus=gpus)


def _tensorrt() -> Iterator[Case]:
    rows = """
        none                            |
        gpu                             | instance_group { kind: KIND_GPU }
        auto                            | instance_group {}
        cpu                             | instance_group { kind: KIND_CPU }
        model                           | instance_group { kind: KIND_MODEL }
        auto_missing_gpu                | instance_group { gpus: 5 }
        profile_0                       | instance_group { kind: KIND_GPU profile: "0" }
        profile_two                     | instance_group { kind: KIND_GPU profile: [ "0", "1" ] }
        profile_same                    | instance_group { kind: KIND_GPU profile: [ "0", "0" ] }
        profile_negative                | instance_group { kind: KIND_GPU profile: "-1" }
        profile_word                    | instance_group { kind: KIND_GPU profile: "first" }
        profile_empty                   | instance_group { kind: KIND_GPU profile: "" }
        profile_space                   | instance_group { kind: KIND_GPU profile: " 1" }
        profile_plus                    | instance_group { kind: KIND_GPU profile: "+1" }
        profile_then_letters            | instance_group { kind: KIND_GPU profile: "1st" }
        profile_float                   | instance_group { kind: KIND_GPU profile: "1.5" }
        profile_hexadecimal             | instance_group { kind: KIND_GPU profile: "0x1" }
        profile_large                   | instance_group { kind: KIND_GPU profile: "2147483647" }
        profile_too_large               | instance_group { kind: KIND_GPU profile: "99999999999" }
        profile_too_small               | instance_group { kind: KIND_GPU profile: "-99999999999" }
        cc_file                         | cc_model_filenames { key: "9.0" value: "model.plan" }
        cc_file_missing                 | cc_model_filenames { key: "9.0" value: "h100.plan" }
        cc_file_other_gpu               | cc_model_filenames { key: "8.0" value: "a100.plan" }
        file_missing                    | default_model_filename: "other.plan"
        graphs                          | optimization { cuda { graphs: true } }
        busy_wait                       | optimization { cuda { busy_wait_events: true output_copy_stream: true } }
        graph_spec                      | optimization { cuda { graphs: true graph_spec { batch_size: 4 input { key: "x" value { dim: 4 } } } } }
        graph_spec_empty                | optimization { cuda { graphs: true graph_spec {} } }
        graph_spec_large                | optimization { cuda { graphs: true graph_spec { batch_size: 99 } } }
        graph_spec_unknown_input        | optimization { cuda { graphs: true graph_spec { batch_size: 1 input { key: "w" value { dim: 4 } } } } }
        graph_spec_bound                | optimization { cuda { graphs: true graph_spec { batch_size: 4 graph_lower_bound { batch_size: 2 input { key: "x" value { dim: [ 2 ] } } } } } }
        graph_spec_bound_above          | optimization { cuda { graphs: true graph_spec { batch_size: 2 graph_lower_bound { batch_size: 4 } } } }
        eager                           | optimization { eager_batching: true gather_kernel_buffer_threshold: 4 }
    """
    for gpus in (0, 1, 2):
        yield from table(f"ours/tensorrt_{gpus}_gpus", f"max_batch_size: 4\n@\n{_IO}", rows, folder=tensorrt, gpus=gpus)
    yield from table("ours/tensorrt_tensors", "max_batch_size: 4\n@", f"""
        shape_tensor                    | {_flat(_Y)} input {{ name: "x" data_type: TYPE_INT32 dims: 4 is_shape_tensor: true }}
        shape_tensor_output             | {_flat(_X)} output {{ name: "y" data_type: TYPE_INT32 dims: 4 is_shape_tensor: true }}
        non_linear                      | {_flat(_Y)} input {{ name: "x" data_type: TYPE_FP16 dims: [ 3, 8, 8 ] is_non_linear_format_io: true }}
        non_linear_2                    | {_flat(_Y)} input {{ name: "x" data_type: TYPE_FP16 dims: [ 8, 8 ] is_non_linear_format_io: true }}
        non_linear_output               | {_flat(_X)} output {{ name: "y" data_type: TYPE_FP16 dims: [ 3, 8, 8 ] is_non_linear_format_io: true }}
        non_linear_output_4             | {_flat(_X)} output {{ name: "y" data_type: TYPE_FP16 dims: [ 1, 3, 8, 8 ] is_non_linear_format_io: true }}
        shape_and_non_linear            | {_flat(_Y)} input {{ name: "x" data_type: TYPE_INT32 dims: 4 is_shape_tensor: true is_non_linear_format_io: true }}
    """, folder=tensorrt)  # fmt: skip


def _flat(text: str) -> str:
    return " ".join(text.split())


def _limits() -> Iterator[Case]:
    """Numbers at the ends of what their fields hold."""
    yield from table("ours/limits", f"{_BATCHED}\n@", """
        delay_largest                   | dynamic_batching { max_queue_delay_microseconds: 18446744073709551615 }
        delay_too_large                 | dynamic_batching { max_queue_delay_microseconds: 18446744073709551616 }
        delay_negative                  | dynamic_batching { max_queue_delay_microseconds: -1 }
        levels_largest                  | dynamic_batching { priority_levels: 18446744073709551615 default_priority_level: 1 }
        levels_many                     | dynamic_batching { priority_levels: 1000000 default_priority_level: 1000000 }
        level_key_largest               | dynamic_batching { priority_queue_policy { key: 18446744073709551615 value {} } }
        idle_largest                    | sequence_batching { max_sequence_idle_microseconds: 18446744073709551615 }
        candidates_largest              | sequence_batching { oldest { max_candidate_sequences: 2147483647 } }
        timeout_largest                 | dynamic_batching { default_queue_policy { default_timeout_microseconds: 18446744073709551615 } }
        queue_size_largest              | dynamic_batching { default_queue_policy { max_queue_size: 4294967295 } }
        queue_size_too_large            | dynamic_batching { default_queue_policy { max_queue_size: 4294967296 } }
        versions_largest                | version_policy { latest { num_versions: 4294967295 } }
        versions_too_large              | version_policy { latest { num_versions: 4294967296 } }
        warmup_count_largest            | model_warmup { name: "w" count: 4294967296 }
        utilization_tiny                | sequence_batching { direct { minimum_slot_utilization: 1e-50 } }
        utilization_huge                | sequence_batching { direct { minimum_slot_utilization: 1e50 } }
        gather_negative                 | optimization { gather_kernel_buffer_threshold: -1 }
        gather_too_large                | optimization { gather_kernel_buffer_threshold: 4294967296 }
        graph_level_negative            | optimization { graph { level: -2 } }
        graph_level_too_large           | optimization { graph { level: 2147483648 } }
    """)  # fmt: skip
    yield from table("ours/limits", "@", f"""
        huge_batch_dynamic              | max_batch_size: 2147483647 dynamic_batching {{}} {_flat(_IO)}
        huge_batch_sequence             | max_batch_size: 2147483647 sequence_batching {{}} {_flat(_IO)}
        large_batch_sequence            | max_batch_size: 100000 sequence_batching {{}} {_flat(_IO)}
        huge_batch_oldest               | max_batch_size: 2147483647 sequence_batching {{ oldest {{ max_candidate_sequences: 4 }} }} {_flat(_IO)}
    """)  # fmt: skip


def _dynamic() -> Iterator[Case]:
    rows = """
        empty                           |
        preferred                       | preferred_batch_size: [ 2, 4 ]
        preferred_largest               | preferred_batch_size: 8
        preferred_too_large             | preferred_batch_size: 9
        preferred_0                     | preferred_batch_size: 0
        preferred_negative              | preferred_batch_size: -1
        preferred_empty                 | preferred_batch_size: []
        preferred_same                  | preferred_batch_size: [ 4, 4 ]
        preferred_falling               | preferred_batch_size: [ 8, 4, 1 ]
        preferred_one_bad               | preferred_batch_size: [ 1, 2, 64 ]
        delay                           | max_queue_delay_microseconds: 100
        delay_0                         | max_queue_delay_microseconds: 0
        ordering                        | preserve_ordering: true
        levels                          | priority_levels: 3 default_priority_level: 2
        levels_0                        | priority_levels: 0
        levels_0_default_1              | default_priority_level: 1
        levels_no_default               | priority_levels: 3
        levels_default_0                | priority_levels: 3 default_priority_level: 0
        levels_default_3                | priority_levels: 3 default_priority_level: 3
        levels_default_4                | priority_levels: 3 default_priority_level: 4
        level_policy                    | priority_levels: 2 default_priority_level: 1 priority_queue_policy { key: 2 value { max_queue_size: 5 } }
        level_policy_0                  | priority_levels: 2 default_priority_level: 1 priority_queue_policy { key: 0 value {} }
        level_policy_no_key             | priority_levels: 2 default_priority_level: 1 priority_queue_policy { value {} }
        level_policy_3                  | priority_levels: 2 default_priority_level: 1 priority_queue_policy { key: 3 value {} }
        level_policy_without_levels     | priority_queue_policy { key: 3 value {} }
        level_policy_same               | priority_levels: 2 default_priority_level: 1 priority_queue_policy { key: 1 value {} } priority_queue_policy { key: 1 value { max_queue_size: 5 } }
        ordering_levels                 | preserve_ordering: true priority_levels: 2 default_priority_level: 1
        ordering_one_level              | preserve_ordering: true priority_levels: 1 default_priority_level: 1
        ordering_delay                  | preserve_ordering: true default_queue_policy { timeout_action: DELAY }
        ordering_delay_timeout          | preserve_ordering: true default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 1 }
        ordering_reject_timeout         | preserve_ordering: true default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 1 }
        ordering_level_delay            | preserve_ordering: true priority_queue_policy { key: 1 value { timeout_action: DELAY default_timeout_microseconds: 1 } }
        queue                           | default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 10 allow_timeout_override: true max_queue_size: 3 }
        queue_empty                     | default_queue_policy {}
        queue_action_unknown            | default_queue_policy { timeout_action: 5 }
        queue_action_drop               | default_queue_policy { timeout_action: DROP }
    """
    yield from table("ours/dynamic", f"{_BATCHED}dynamic_batching {{ @ }}", rows)
    yield from table("ours/dynamic_unbatched", f"{_IO}dynamic_batching {{ @ }}", rows)


def _policies() -> Iterator[Case]:
    yield from table(
        "ours/schedulers",
        f"{_BATCHED}@",
        """
        two                             | dynamic_batching {} sequence_batching {}
        dynamic_twice                   | dynamic_batching {} dynamic_batching {}
        dynamic_and_ensemble            | dynamic_batching {} ensemble_scheduling {}
        ensemble_on_backend             | ensemble_scheduling { step { model_name: "m" input_map { key: "a" value: "x" } output_map { key: "b" value: "y" } } }
        ensemble_empty_on_backend       | ensemble_scheduling {}
    """,
    )
    yield from table(
        "ours/version_policy",
        f"{_IO}version_policy {{ @ }}",
        """
        empty                           |
        latest                          | latest { num_versions: 1 }
        latest_empty                    | latest {}
        latest_0                        | latest { num_versions: 0 }
        latest_2                        | latest { num_versions: 2 }
        latest_negative                 | latest { num_versions: -1 }
        all                             | all {}
        specific                        | specific { versions: 1 }
        specific_empty                  | specific {}
        specific_missing                | specific { versions: 2 }
        specific_one_missing            | specific { versions: [ 1, 2 ] }
        specific_missing_twice          | specific { versions: [ 1, 2, 2 ] }
        specific_same                   | specific { versions: [ 1, 1 ] }
        specific_0                      | specific { versions: 0 }
        specific_negative               | specific { versions: -1 }
        two_policies                    | latest { num_versions: 1 } all {}
        latest_twice                    | latest { num_versions: 1 } latest { num_versions: 1 }
    """,
    )


def _sequences() -> Iterator[Case]:
    rows = """
        empty                           |
        idle                            | max_sequence_idle_microseconds: 5000
        idle_0                          | max_sequence_idle_microseconds: 0
        direct                          | direct {}
        direct_delay                    | direct { max_queue_delay_microseconds: 100 minimum_slot_utilization: 0.5 }
        direct_0                        | direct { minimum_slot_utilization: 0 }
        direct_1                        | direct { minimum_slot_utilization: 1.0 }
        direct_above_1                  | direct { minimum_slot_utilization: 1.0001 }
        direct_negative                 | direct { minimum_slot_utilization: -0.1 }
        direct_nan                      | direct { minimum_slot_utilization: nan }
        direct_infinite                 | direct { minimum_slot_utilization: inf }
        oldest                          | oldest {}
        oldest_candidates               | oldest { max_candidate_sequences: 4 }
        oldest_candidates_0             | oldest { max_candidate_sequences: 0 }
        oldest_candidates_negative      | oldest { max_candidate_sequences: -1 }
        oldest_preferred                | oldest { max_candidate_sequences: 4 preferred_batch_size: [ 2, 4 ] }
        oldest_preferred_0              | oldest { max_candidate_sequences: 4 preferred_batch_size: 0 }
        oldest_preferred_negative       | oldest { max_candidate_sequences: 4 preferred_batch_size: -2 }
        oldest_preferred_too_large      | oldest { max_candidate_sequences: 4 preferred_batch_size: 9 }
        oldest_ordering                 | oldest { max_candidate_sequences: 4 preserve_ordering: true max_queue_delay_microseconds: 5 }
        direct_and_oldest               | direct {} oldest {}
        iterative                       | iterative_sequence: true
        iterative_oldest                | oldest { max_candidate_sequences: 2 } iterative_sequence: true
    """
    yield from table("ours/sequence", f"{_BATCHED}sequence_batching {{ @ }}", rows)
    yield from table("ours/sequence_unbatched", f"{_IO}sequence_batching {{ @ }}", rows)
    yield from table("ours/sequence_decoupled", f"{_BATCHED}sequence_batching {{ @ }}", """
        decoupled                       | } model_transaction_policy { decoupled: true
        decoupled_iterative             | iterative_sequence: true } model_transaction_policy { decoupled: true
        ragged                          | } input { name: "r" data_type: TYPE_FP32 dims: -1 allow_ragged_batch: true
        ragged_oldest                   | oldest { max_candidate_sequences: 2 } } input { name: "r" data_type: TYPE_FP32 dims: -1 allow_ragged_batch: true
        batch_strategy                  | } parameters { key: "TRITON_BATCH_STRATEGY_PATH" value { string_value: "/no/such" }
        variable_input                  | } input { name: "v" data_type: TYPE_FP32 dims: [ -1, 3 ]
        many_instances                  | } instance_group { kind: KIND_CPU count: 3
    """)  # fmt: skip


def _controls() -> Iterator[Case]:
    for kind in ("START", "END", "READY"):
        base = f'{_BATCHED}sequence_batching {{ control_input {{ name: "c" control {{ kind: CONTROL_SEQUENCE_{kind} @ }} }} }}'
        yield from table(f"ours/control_{kind.lower()}", base, """
            no_values                   |
            int32                       | int32_false_true: [ 0, 1 ]
            fp32                        | fp32_false_true: [ 0, 1.5 ]
            bool                        | bool_false_true: [ false, true ]
            int32_one                   | int32_false_true: 1
            int32_three                 | int32_false_true: [ 0, 1, 2 ]
            fp32_one                    | fp32_false_true: 1
            bool_one                    | bool_false_true: true
            bool_three                  | bool_false_true: [ false, true, false ]
            int32_and_fp32              | int32_false_true: [ 0, 1 ] fp32_false_true: [ 0, 1 ]
            fp32_and_bool               | fp32_false_true: [ 0, 1 ] bool_false_true: [ false, true ]
            int32_and_bool              | int32_false_true: [ 0, 1 ] bool_false_true: [ false, true ]
            same_values                 | int32_false_true: [ 1, 1 ]
            data_type                   | int32_false_true: [ 0, 1 ] data_type: TYPE_FP16
        """)  # fmt: skip
    base = (
        f'{_BATCHED}sequence_batching {{ control_input {{ name: "c" control {{ kind: CONTROL_SEQUENCE_CORRID @ }} }} }}'
    )
    yield from table(
        "ours/control_corrid",
        base,
        """
        no_type                         |
        uint64                          | data_type: TYPE_UINT64
        int64                           | data_type: TYPE_INT64
        uint32                          | data_type: TYPE_UINT32
        int32                           | data_type: TYPE_INT32
        string                          | data_type: TYPE_STRING
        fp32                            | data_type: TYPE_FP32
        uint8                           | data_type: TYPE_UINT8
        bool                            | data_type: TYPE_BOOL
        unknown                         | data_type: 77
        with_values                     | data_type: TYPE_UINT64 int32_false_true: [ 0, 1 ]
    """,
    )
    ready = 'control_input { name: "r" control { kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] } }'
    yield from table("ours/controls", f"{_BATCHED}sequence_batching {{ @ }}", f"""
        no_name                         | control_input {{ control {{ kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] }} }}
        no_control                      | control_input {{ name: "c" }}
        empty                           | control_input {{}}
        kind_default                    | control_input {{ name: "c" control {{ int32_false_true: [ 0, 1 ] }} }}
        kind_unknown                    | control_input {{ name: "c" control {{ kind: 9 }} }}
        same_kind_twice                 | {ready} control_input {{ name: "s" control {{ kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] }} }}
        same_name_twice                 | {ready} control_input {{ name: "r" control {{ kind: CONTROL_SEQUENCE_END int32_false_true: [ 0, 1 ] }} }}
        two_kinds_one_tensor            | control_input {{ name: "c" control [ {{ kind: CONTROL_SEQUENCE_END int32_false_true: [ 0, 1 ] }}, {{ kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] }} ] }}
        corrid_twice                    | control_input {{ name: "c" control [ {{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_INT64 }}, {{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_INT64 }} ] }}
        name_of_input                   | control_input {{ name: "x" control {{ kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] }} }}
        all_four                        | {ready} control_input {{ name: "a" control {{ kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] }} }} control_input {{ name: "b" control {{ kind: CONTROL_SEQUENCE_END bool_false_true: [ false, true ] }} }} control_input {{ name: "d" control {{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 }} }}
        oldest                          | {ready} oldest {{ max_candidate_sequences: 3 }}
    """)  # fmt: skip


def _states() -> Iterator[Case]:
    zero = 'initial_state { name: "zero" data_type: TYPE_FP32 dims: 4 zero_data: true }'
    rows = f"""
        plain                           | input_name: "si" output_name: "so" data_type: TYPE_FP32 dims: 4
        empty                           |
        no_input_name                   | output_name: "so" data_type: TYPE_FP32 dims: 4
        no_output_name                  | input_name: "si" data_type: TYPE_FP32 dims: 4
        no_names                        | data_type: TYPE_FP32 dims: 4
        no_type                         | input_name: "si" output_name: "so" dims: 4
        no_dims                         | input_name: "si" output_name: "so" data_type: TYPE_FP32
        dims_0                          | input_name: "si" output_name: "so" data_type: TYPE_FP32 dims: 0
        dims_variable                   | input_name: "si" output_name: "so" data_type: TYPE_FP32 dims: -1
        dims_negative                   | input_name: "si" output_name: "so" data_type: TYPE_FP32 dims: -5
        type_string                     | input_name: "si" output_name: "so" data_type: TYPE_STRING dims: 4
        name_of_input                   | input_name: "x" output_name: "so" data_type: TYPE_FP32 dims: 4
        name_of_output                  | input_name: "si" output_name: "y" data_type: TYPE_FP32 dims: 4
        name_of_output_other_type       | input_name: "si" output_name: "y" data_type: TYPE_INT32 dims: 4
        same_buffer                     | input_name: "si" output_name: "so" data_type: TYPE_FP32 dims: 4 use_same_buffer_for_input_output: true
        growable                        | input_name: "si" output_name: "so" data_type: TYPE_FP32 dims: 4 use_growable_memory: true
        growable_same_buffer            | input_name: "si" output_name: "so" data_type: TYPE_FP32 dims: 4 use_growable_memory: true use_same_buffer_for_input_output: true
        initial_zero                    | input_name: "si" output_name: "so" data_type: TYPE_FP32 dims: 4 {zero}
        initial_two                     | input_name: "si" output_name: "so" data_type: TYPE_FP32 dims: 4 {zero} {zero}
        initial_no_name                 | input_name: "si" output_name: "so" data_type: TYPE_FP32 dims: 4 initial_state {{ data_type: TYPE_FP32 dims: 4 zero_data: true }}
        initial_no_data                 | input_name: "si" output_name: "so" data_type: TYPE_FP32 dims: 4 initial_state {{ name: "i" data_type: TYPE_FP32 dims: 4 }}
        initial_zero_false              | input_name: "si" output_name: "so" data_type: TYPE_FP32 dims: 4 initial_state {{ name: "i" data_type: TYPE_FP32 dims: 4 zero_data: false }}
        initial_other_type              | input_name: "si" output_name: "so" data_type: TYPE_FP32 dims: 4 initial_state {{ name: "i" data_type: TYPE_INT32 dims: 4 zero_data: true }}
        initial_no_type                 | input_name: "si" output_name: "so" data_type: TYPE_FP32 dims: 4 initial_state {{ name: "i" dims: 4 zero_data: true }}
        initial_other_dims              | input_name: "si" output_name: "so" data_type: TYPE_FP32 dims: 4 initial_state {{ name: "i" data_type: TYPE_FP32 dims: 5 zero_data: true }}
        initial_other_rank              | input_name: "si" output_name: "so" data_type: TYPE_FP32 dims: 4 initial_state {{ name: "i" data_type: TYPE_FP32 dims: [ 2, 2 ] zero_data: true }}
        initial_no_dims                 | input_name: "si" output_name: "so" data_type: TYPE_FP32 dims: 4 initial_state {{ name: "i" data_type: TYPE_FP32 zero_data: true }}
        initial_variable                | input_name: "si" output_name: "so" data_type: TYPE_FP32 dims: 4 initial_state {{ name: "i" data_type: TYPE_FP32 dims: -1 zero_data: true }}
        initial_of_variable             | input_name: "si" output_name: "so" data_type: TYPE_FP32 dims: -1 {zero}
        initial_of_variable_variable    | input_name: "si" output_name: "so" data_type: TYPE_FP32 dims: -1 initial_state {{ name: "i" data_type: TYPE_FP32 dims: -1 zero_data: true }}
        initial_file_missing            | input_name: "si" output_name: "so" data_type: TYPE_FP32 dims: 4 initial_state {{ name: "i" data_type: TYPE_FP32 dims: 4 data_file: "none" }}
        initial_string                  | input_name: "si" output_name: "so" data_type: TYPE_STRING dims: 1 initial_state {{ name: "i" data_type: TYPE_STRING dims: 1 zero_data: true }}
        initial_empty                   | input_name: "si" output_name: "so" data_type: TYPE_FP32 dims: 4 initial_state {{}}
        two_states                      | input_name: "si" output_name: "so" data_type: TYPE_FP32 dims: 4 }} state {{ input_name: "ti" output_name: "to" data_type: TYPE_FP32 dims: 4
        two_states_same                 | input_name: "si" output_name: "so" data_type: TYPE_FP32 dims: 4 }} state {{ input_name: "si" output_name: "so" data_type: TYPE_FP32 dims: 4
    """
    yield from table("ours/state", f"{_BATCHED}sequence_batching {{ state {{ @ }} }}", rows)
    yield from table("ours/state_unbatched", f"{_IO}sequence_batching {{ state {{ @ }} }}", rows)
    file = 'input_name: "si" output_name: "so" data_type: TYPE_FP32 dims: 4 initial_state { name: "i" data_type: TYPE_FP32 dims: 4 '
    text = f'{_BATCHED}sequence_batching {{ state {{ {file} data_file: "start" }} }} }}'
    for name, size in (("short", 15), ("fits", 16), ("long", 17), ("empty", 0)):
        tree = {**onnx(text), "m/initial_state/start": b"\0" * size}
        yield Case(f"ours/state_file/{name}", tree)
    yield Case("ours/state_file/elsewhere", {**onnx(text), "m/start": b"\0" * 16})
    yield Case("ours/state_file/folder", {**onnx(text), "m/initial_state/start/": b""})


def _warmup() -> Iterator[Case]:
    base = f'{_BATCHED}model_warmup {{ name: "w" batch_size: 1 @ }}'
    yield from table("ours/warmup", base, """
        no_inputs                       |
        zero                            | inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 zero_data: true } }
        random                          | inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 random_data: true } }
        zero_false                      | inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 zero_data: false } }
        random_false                    | inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 random_data: false } }
        two_sources                     | inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 zero_data: true random_data: true } }
        no_source                       | inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 } }
        no_value                        | inputs { key: "x" }
        no_key                          | inputs { value { data_type: TYPE_FP32 dims: 4 zero_data: true } }
        no_type                         | inputs { key: "x" value { dims: 4 zero_data: true } }
        no_dims                         | inputs { key: "x" value { data_type: TYPE_FP32 zero_data: true } }
        other_type                      | inputs { key: "x" value { data_type: TYPE_INT32 dims: 4 zero_data: true } }
        other_dims                      | inputs { key: "x" value { data_type: TYPE_FP32 dims: 5 zero_data: true } }
        other_rank                      | inputs { key: "x" value { data_type: TYPE_FP32 dims: [ 4, 1 ] zero_data: true } }
        other_name                      | inputs { key: "w" value { data_type: TYPE_FP32 dims: 4 zero_data: true } }
        extra_name                      | inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 zero_data: true } } inputs { key: "w" value { data_type: TYPE_FP32 dims: 4 zero_data: true } }
        same_name                       | inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 zero_data: true } } inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 random_data: true } }
        variable_dims                   | inputs { key: "x" value { data_type: TYPE_FP32 dims: -1 zero_data: true } }
        dims_0                          | inputs { key: "x" value { data_type: TYPE_FP32 dims: 0 zero_data: true } }
        dims_negative                   | inputs { key: "x" value { data_type: TYPE_FP32 dims: -3 zero_data: true } }
        dims_huge                       | inputs { key: "x" value { data_type: TYPE_FP32 dims: 4611686018427387904 zero_data: true } }
        dims_1_tebi                     | inputs { key: "x" value { data_type: TYPE_FP32 dims: 1099511627776 zero_data: true } }
        file_missing                    | inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 input_data_file: "none" } }
        file_above                      | inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 input_data_file: "../config.pbtxt" } }
        count_3                         | count: 3 inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 zero_data: true } }
        count_0                         | count: 0 inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 zero_data: true } }
        type_string_zero                | inputs { key: "x" value { data_type: TYPE_STRING dims: 4 zero_data: true } }
        type_string_random              | inputs { key: "x" value { data_type: TYPE_STRING dims: 4 random_data: true } }
    """)  # fmt: skip
    zero = 'inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 zero_data: true } }'
    yield from table("ours/warmup_batch", f"@ {zero} }}\n{_BATCHED}", """
        no_size                         | model_warmup { name: "w"
        size_0                          | model_warmup { name: "w" batch_size: 0
        size_8                          | model_warmup { name: "w" batch_size: 8
        size_too_large                  | model_warmup { name: "w" batch_size: 9
        no_name                         | model_warmup { batch_size: 1
        same_name                       | model_warmup { name: "w" } model_warmup { name: "w" batch_size: 2
        empty_first                     | model_warmup {} model_warmup { name: "w" batch_size: 2
        dynamic                         | dynamic_batching {} model_warmup { name: "w" batch_size: 2
        sequence                        | sequence_batching {} model_warmup { name: "w" batch_size: 1
        sequence_oldest                 | sequence_batching { oldest { max_candidate_sequences: 2 } } model_warmup { name: "w" batch_size: 1
        cpu                             | instance_group { kind: KIND_CPU } model_warmup { name: "w" batch_size: 2
    """)  # fmt: skip
    yield from table("ours/warmup_unbatched", f"@\n{_IO}", f"""
        no_size                         | model_warmup {{ name: "w" {zero} }}
        size_1                          | model_warmup {{ name: "w" batch_size: 1 {zero} }}
        size_2                          | model_warmup {{ name: "w" batch_size: 2 {zero} }}
        variable                        | input {{ name: "v" data_type: TYPE_FP32 dims: -1 }} model_warmup {{ name: "w" {zero} inputs {{ key: "v" value {{ data_type: TYPE_FP32 dims: 7 zero_data: true }} }} }}
        missing_input                   | input {{ name: "v" data_type: TYPE_FP32 dims: -1 }} model_warmup {{ name: "w" {zero} }}
        missing_optional_input          | input {{ name: "v" data_type: TYPE_FP32 dims: -1 optional: true }} model_warmup {{ name: "w" {zero} }}
        reshaped                        | input {{ name: "v" data_type: TYPE_FP32 dims: 4 reshape {{ shape: [ 2, 2 ] }} }} model_warmup {{ name: "w" {zero} inputs {{ key: "v" value {{ data_type: TYPE_FP32 dims: 4 zero_data: true }} }} }}
        string                          | input {{ name: "v" data_type: TYPE_STRING dims: 2 }} model_warmup {{ name: "w" {zero} inputs {{ key: "v" value {{ data_type: TYPE_STRING dims: 2 zero_data: true }} }} }}
        string_random                   | input {{ name: "v" data_type: TYPE_STRING dims: 2 }} model_warmup {{ name: "w" {zero} inputs {{ key: "v" value {{ data_type: TYPE_STRING dims: 2 random_data: true }} }} }}
    """)  # fmt: skip
    text = f'{_BATCHED}model_warmup {{ name: "w" batch_size: 2 inputs {{ key: "x" value {{ data_type: TYPE_FP32 dims: 4 input_data_file: "d" }} }} }}'
    for name, size in (("short", 15), ("one_of_two", 16), ("two", 32), ("long", 33), ("empty", 0)):
        yield Case(f"ours/warmup_file/{name}", {**onnx(text), "m/warmup/d": b"\0" * size})
    yield Case("ours/warmup_file/elsewhere", {**onnx(text), "m/d": b"\0" * 32})
    yield Case("ours/warmup_file/folder", {**onnx(text), "m/warmup/d/": b""})
    strings = text.replace("TYPE_FP32", "TYPE_STRING").replace("dims: 4", "dims: 1")
    for name, content in (("one", b"\1\0\0\0a"), ("two", b"\1\0\0\0a\1\0\0\0b"), ("cut", b"\5\0\0\0a")):
        yield Case(f"ours/warmup_file/string_{name}", {**onnx(strings), "m/warmup/d": content})


def _optimization() -> Iterator[Case]:
    yield from table("ours/optimization", f"{_BATCHED}optimization {{ @ }}", """
        empty                           |
        graph                           | graph { level: 1 }
        graph_level_7                   | graph { level: 7 }
        graph_empty                     | graph {}
        priority_default                | priority: PRIORITY_DEFAULT
        priority_max                    | priority: PRIORITY_MAX
        priority_min                    | priority: PRIORITY_MIN
        priority_unknown                | priority: 8
        priority_word                   | priority: HIGH
        cuda                            | cuda { graphs: true busy_wait_events: true output_copy_stream: true }
        cuda_empty                      | cuda {}
        cuda_spec                       | cuda { graph_spec { batch_size: 2 input { key: "x" value { dim: 4 } } } }
        accelerators_empty              | execution_accelerators {}
        accelerators_tensorrt           | execution_accelerators { gpu_execution_accelerator { name: "tensorrt" parameters { key: "precision_mode" value: "FP16" } } }
        accelerators_cpu                | execution_accelerators { cpu_execution_accelerator { name: "openvino" } }
        accelerators_no_name            | execution_accelerators { gpu_execution_accelerator {} }
        pinned                          | input_pinned_memory { enable: true } output_pinned_memory { enable: false }
        pinned_empty                    | input_pinned_memory {} output_pinned_memory {}
        gather                          | gather_kernel_buffer_threshold: 1
        eager                           | eager_batching: true
    """)  # fmt: skip


def _services() -> Iterator[Case]:
    """Backends that have no rules of their own, for what the core does with any of them."""
    yield from table("ours/any_backend", f"@\n{_IO}", """
        plain                           |
        profile                         | instance_group { kind: KIND_CPU profile: "0" }
        profile_with_platform           | platform: "tensorrt_plan" instance_group { kind: KIND_CPU profile: "0" }
        shape_tensor_with_platform      | platform: "tensorrt_plan" input { name: "s" data_type: TYPE_INT32 dims: 2 is_shape_tensor: true }
        file_missing                    | default_model_filename: "nothing"
        scheduling_ensemble             | platform: "ensemble" ensemble_scheduling {}
        unbatched_preferred             | dynamic_batching { preferred_batch_size: 1 }
        optional_only                   | input { name: "o" data_type: TYPE_FP32 dims: 1 optional: true }
    """, folder=identity)  # fmt: skip
    yield from table("ours/nothing_to_do", "@", """
        empty                           |
        comment                         | # nothing
        batch                           | max_batch_size: 8
        batch_dynamic                   | max_batch_size: 8 dynamic_batching {}
        input_only                      | input { name: "x" data_type: TYPE_FP32 dims: 1 }
        output_only                     | output { name: "y" data_type: TYPE_FP32 dims: 1 }
    """, folder=identity)  # fmt: skip


def _python() -> Iterator[Case]:
    """The Python backend is the real one, so what it adds is judged too."""
    yield from table("ours/python", f'backend: "python"\n@\n{_IO}', """
        plain                           |
        unknown_parameter               | parameters { key: "a" value { string_value: "b" } }
        cpu_tensors                     | parameters { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value { string_value: "no" } }
        cpu_tensors_odd                 | parameters { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value { string_value: "maybe" } }
        environment_missing             | parameters { key: "EXECUTION_ENV_PATH" value { string_value: "/no/such/env.tar.gz" } }
        environment_of_model            | parameters { key: "EXECUTION_ENV_PATH" value { string_value: "$$TRITON_MODEL_DIRECTORY/env.tar.gz" } }
        platform                        | platform: "python"
        two_instances                   | instance_group { kind: KIND_CPU count: 2 }
        model_kind                      | instance_group { kind: KIND_MODEL }
        gpu                             | instance_group { kind: KIND_GPU }
        gpu_missing                     | instance_group { kind: KIND_GPU gpus: 3 }
        profile                         | instance_group { kind: KIND_CPU profile: "0" }
        decoupled                       | model_transaction_policy { decoupled: true }
        dynamic                         | max_batch_size: 4 dynamic_batching {}
        sequence                        | max_batch_size: 4 sequence_batching {}
        bf16                            | input { name: "b" data_type: TYPE_BF16 dims: 1 }
        name_other                      | name: "other"
        file                            | default_model_filename: "model.py"
        batch_negative                  | max_batch_size: -1
        dims_0                          | input { name: "z" data_type: TYPE_FP32 dims: 0 }
        warmup_without_answer           | model_warmup { name: "w" inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 zero_data: true } } }
    """, folder=_python_model)  # fmt: skip
    for name, code in (
        ("syntax_error", b"class TritonPythonModel:\n    def execute(self, requests)\n"),
        ("no_class", b"x = 1\n"),
        ("empty", b""),
        ("import_fails", b"import surely_no_such_module\n"),
        ("initialize_fails", b"class TritonPythonModel:\n    def initialize(self, args):\n        raise ValueError('no')\n"),
        ("exits", b"import os\nos._exit(3)\n"),
    ):  # fmt: skip
        tree = python("m", f'backend: "python"\n{_IO}', code)
        yield Case(f"ours/python_code/{name}", tree, beyond="depends on the model's own Python code")


def _python_model(config: str) -> dict[str, bytes]:
    return python("m", config)
