"""Ensembles: the steps, the tensors between them, and the models they are composed of."""

# ruff: noqa: E501 - a row of a table is one line, however long

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .case import Case, Tree, ensemble, identity, model, part, steps, table

_ONE = part("one")
_TWO = part("two", ins=2, outs=2)
_PARTS: Tree = {**_ONE, **_TWO}
_OF = "data_type: TYPE_INT16 dims: 5"


def cases() -> Iterator[Case]:
    """All cases."""
    for topic, trees in (
        ("steps", _STEPS), ("tensors", _tensors()), ("batches", dict(_batches())), ("versions", _versions()),
        ("nested", _nested()), ("decoupled", _decoupled()), ("parts", _broken_parts()),
    ):  # fmt: skip
        for name, tree in trees.items():
            yield Case(f"ours/ensemble_{topic}/{name}", tree)
    yield from _settings()
    yield from _maps()


def _with_parts(scheduling: str, *, parts: Tree = _PARTS, **settings: str | int) -> Tree:
    return {**parts, **ensemble("ens", scheduling, **settings)}  # type: ignore[arg-type]


_CHAIN = "one i0=a > o0=b | one i0=b > o0=z"
_STEPS: Mapping[str, Tree] = {
    "one": _with_parts("one i0=a > o0=z"),
    "chain": _with_parts(_CHAIN),
    "chain_backwards": _with_parts("one i0=b > o0=z | one i0=a > o0=b"),
    "diamond": _with_parts("one i0=a > o0=b | one i0=a > o0=c | two i0=b i1=c > o0=z"),
    "output_unmapped": _with_parts("two i0=a i1=a > o1=z"),
    "output_unread": _with_parts("two i0=a i1=a > o0=z o1=unread"),
    "output_read_and_returned": _with_parts("one i0=a > o0=y | one i0=y > o0=z", outs="y z"),
    "input_twice": _with_parts("two i0=a i1=a > o0=z"),
    "input_unread": _with_parts("one i0=a > o0=z", ins="a b"),
    "input_returned": _with_parts("one i0=a > o0=z", outs="z a"),
    "output_unwritten": _with_parts("one i0=a > o0=z", outs="z y"),
    "written_twice": _with_parts("one i0=a > o0=z | one i0=a > o0=z"),
    "written_twice_in_a_step": _with_parts("two i0=a i1=a > o0=z o1=z"),
    "writes_its_input": _with_parts("one i0=a > o0=a", outs="a"),
    "writes_an_input": _with_parts("one i0=a > o0=a | one i0=a > o0=z"),
    "reads_its_output": _with_parts("two i0=a i1=z > o0=z"),
    "circle": _with_parts("two i0=a i1=c > o0=b | one i0=b > o0=c o1=z"),
    "circle_of_its_own": _with_parts("one i0=a > o0=z | one i0=b > o0=c | one i0=c > o0=b"),
    "unwritten_read": _with_parts("two i0=a i1=nothing > o0=z"),
    "no_inputs": _with_parts("one > o0=z"),
    "no_outputs": _with_parts("one i0=a > o0=z | one i0=a"),
    "no_model_name": _with_parts("- i0=a > o0=z"),
    "unknown_model": _with_parts("three i0=a > o0=z"),
    "unknown_input": _with_parts("one i1=a > o0=z"),
    "unknown_output": _with_parts("one i0=a > o1=z"),
    "missing_input": _with_parts("two i0=a > o0=z"),
    "same_names_as_parts": _with_parts("one i0=i0 > o0=o0", ins="i0", outs="o0"),
    "long": _with_parts(
        " | ".join(f"one i0=t{number} > o0=t{number + 1}" for number in range(50)), ins="t0", outs="t50"
    ),
    "same_input_names": _with_parts("one i0=a > o0=z", ins="a a"),
    "same_output_names": _with_parts("one i0=a > o0=z", outs="z z"),
    "no_ensemble_tensors": _with_parts("one i0=a > o0=z", ins="", outs=""),
    "nothing": _with_parts("-"),
    "unused_part": _with_parts("one i0=a > o0=z"),
    "without_version_folder": {**_PARTS, "ens/config.pbtxt": ensemble("ens", "one i0=a > o0=z")["ens/config.pbtxt"]},
    "optional_input_left_out": {
        **identity(f'max_batch_size: 4 input [ {{ name: "i0" {_OF} }}, {{ name: "i1" {_OF} optional: true }} ] '
                   f'output {{ name: "o0" {_OF} }}', "opt"),
        **ensemble("ens", "opt i0=a > o0=z"),
    },
    "optional_ensemble_input": {
        **_PARTS,
        **model("ens", f'platform: "ensemble" max_batch_size: 3 input [ {{ name: "a" {_OF} }}, '
                f'{{ name: "b" {_OF} optional: true }} ] output {{ name: "z" {_OF} }} '
                f'{steps("two i0=a i1=b > o0=z")}', "1/"),
    },
}  # fmt: skip


def _tensors() -> dict[str, Tree]:
    """One part between an input and an output of other types and shapes: what is equal enough."""
    shapes = {
        "same": ("TYPE_INT16 dims: 5", "TYPE_INT16 dims: 5"),
        "other_type": ("TYPE_INT16 dims: 5", "TYPE_INT32 dims: 5"),
        "string": ("TYPE_STRING dims: 5", "TYPE_STRING dims: 5"),
        "other_dims": ("TYPE_INT16 dims: 5", "TYPE_INT16 dims: 6"),
        "other_rank": ("TYPE_INT16 dims: 5", "TYPE_INT16 dims: [ 5, 1 ]"),
        "variable_part": ("TYPE_INT16 dims: -1", "TYPE_INT16 dims: 5"),
        "variable_ensemble": ("TYPE_INT16 dims: 5", "TYPE_INT16 dims: -1"),
        "variable_both": ("TYPE_INT16 dims: -1", "TYPE_INT16 dims: -1"),
        "variable_one_of_two": ("TYPE_INT16 dims: [ -1, 5 ]", "TYPE_INT16 dims: [ 7, 5 ]"),
        "variable_crossed": ("TYPE_INT16 dims: [ -1, 5 ]", "TYPE_INT16 dims: [ 7, -1 ]"),
        "variable_other_rank": ("TYPE_INT16 dims: [ -1, -1 ]", "TYPE_INT16 dims: -1"),
        "reshaped": ("TYPE_INT16 dims: 6 reshape { shape: [ 2, 3 ] }", "TYPE_INT16 dims: 6"),
        "reshaped_inside": ("TYPE_INT16 dims: 6 reshape { shape: [ 2, 3 ] }", "TYPE_INT16 dims: [ 2, 3 ]"),
        "reshape_of_ensemble": ("TYPE_INT16 dims: 6", "TYPE_INT16 dims: 6 reshape { shape: [ 2, 3 ] }"),
        "zero": ("TYPE_INT16 dims: 5", "TYPE_INT16 dims: 0"),
        "shape_tensor": ("TYPE_INT16 dims: 5", "TYPE_INT16 dims: 5 is_shape_tensor: true"),
    }
    trees: dict[str, Tree] = {}
    for name, (inner, outer) in shapes.items():
        parts = part("one", of=f"data_type: {inner}")
        trees[name] = {**parts, **ensemble("ens", "one i0=a > o0=z", of=f"data_type: {outer}")}
    between = {
        "between_other_type": "data_type: TYPE_INT32 dims: 5", "between_other_dims": "data_type: TYPE_INT16 dims: 6",
        "between_variable": "data_type: TYPE_INT16 dims: -1", "between_other_rank": "data_type: TYPE_INT16 dims: [ 5, 5 ]",
    }  # fmt: skip
    for name, of in between.items():
        trees[name] = {**_ONE, **part("last", of=of), **ensemble("ens", "one i0=a > o0=b | last i0=b > o0=z", of=_OF)}
    return trees


def _batches() -> Iterator[tuple[str, Tree]]:
    """Batch sizes of the ensemble and of its only part."""
    for outer in (0, 1, 3, 4, 5):
        for inner in (0, 1, 4):
            tree = {**part("one", inner), **ensemble("ens", "one i0=a > o0=z", batch=outer)}
            yield f"ensemble_{outer}_part_{inner}", tree
    matrix = "data_type: TYPE_INT16 dims: [ -1, 5 ]"
    fixed = "data_type: TYPE_INT16 dims: [ 2, 5 ]"
    yield "part_takes_batch_as_dim", {**part("one", 0, of=matrix), **ensemble("ens", "one i0=a > o0=z")}
    yield "part_takes_fixed_batch", {**part("one", 0, of=fixed), **ensemble("ens", "one i0=a > o0=z")}
    yield "ensemble_gives_batch_as_dim", {**_ONE, **ensemble("ens", "one i0=a > o0=z", batch=0, of=matrix)}
    yield "ensemble_gives_fixed_batch", {**_ONE, **ensemble("ens", "one i0=a > o0=z", batch=0, of=fixed)}
    large = "data_type: TYPE_INT16 dims: [ 9, 5 ]"
    yield "ensemble_gives_too_large_batch", {**_ONE, **ensemble("ens", "one i0=a > o0=z", batch=0, of=large)}
    yield "batch_negative", {**_ONE, **ensemble("ens", "one i0=a > o0=z", batch=-1)}


def _versions() -> dict[str, Tree]:
    """Versions that steps ask for; the part has 1 and 3, and serves all of them or the latest."""
    both = {**identity(f'max_batch_size: 4 version_policy {{ all {{}} }} input {{ name: "i0" {_OF} }} '
                       f'output {{ name: "o0" {_OF} }}', "one"), "one/3/": b""}  # fmt: skip
    latest = {**_ONE, "one/3/": b""}
    trees: dict[str, Tree] = {}
    for name, parts in (("all", both), ("latest", latest)):
        for version in ("-1", "1", "3", "2", "0", "-2"):
            trees[f"{name}_{version}"] = {**parts, **ensemble("ens", f"one@{version} i0=a > o0=z")}
    unset = steps("one i0=a > o0=z").replace("model_version: -1", "")
    text = f'platform: "ensemble" max_batch_size: 3 input {{ name: "a" {_OF} }} output {{ name: "z" {_OF} }} {unset}'
    trees["unset"] = {**both, **model("ens", text, "1/")}
    trees["two_of_one"] = {**both, **ensemble("ens", "one@1 i0=a > o0=b | one@3 i0=b > o0=z")}
    for space in ("", "other"):
        named = steps("one i0=a > o0=z").replace("model_version", f'model_namespace: "{space}" model_version')
        trees[f"namespace_{space or 'empty'}"] = {**both, **model("ens", text.replace(unset, named), "1/")}
    return trees


def _nested() -> dict[str, Tree]:
    inner = {**_PARTS, **ensemble("inner", _CHAIN)}
    return {
        "one": {**inner, **ensemble("ens", "inner a=a > z=z")},
        "two": {**inner, **ensemble("ens", "inner a=a > z=b | inner a=b > z=z")},
        "three": {**inner, **ensemble("mid", "inner a=a > z=z"), **ensemble("ens", "mid a=a > z=z")},
        "unknown_inner_input": {**inner, **ensemble("ens", "inner b=a > z=z")},
        "inner_batch_smaller": {**inner, **ensemble("ens", "inner a=a > z=z", batch=4)},
        "inner_broken": {**_PARTS, **ensemble("inner", "one i0=a > o9=z"), **ensemble("ens", "inner a=a > z=z")},
        "itself": ensemble("ens", "ens a=a > z=z"),
        "circle_of_two": {**ensemble("ens", "mid a=a > z=z"), **ensemble("mid", "ens a=a > z=z")},
        "circle_of_three": {
            **ensemble("ens", "mid a=a > z=z"), **ensemble("mid", "inner a=a > z=z"), **ensemble("inner", "ens a=a > z=z")
        },
    }  # fmt: skip


def _decoupled() -> dict[str, Tree]:
    stream = identity(
        'model_transaction_policy { decoupled: true } max_batch_size: 4 '
        f'input {{ name: "i0" {_OF} }} output [ {{ name: "o0" {_OF} }}, {{ name: "o1" {_OF} }} ]', "stream"
    )  # fmt: skip
    parts = {**_PARTS, **stream}
    return {
        "one": {**parts, **ensemble("ens", "stream i0=a > o0=z")},
        "then_one": {**parts, **ensemble("ens", "stream i0=a > o0=b | one i0=b > o0=z")},
        "two_outputs_of_one": {**parts, **ensemble("ens", "stream i0=a > o0=b o1=c | two i0=b i1=c > o0=z")},
        "two_streams_joined": {
            **parts, **ensemble("ens", "stream i0=a > o0=b | stream i0=a > o0=c | two i0=b i1=c > o0=z")
        },
        "stream_and_input_joined": {**parts, **ensemble("ens", "stream i0=a > o0=b | two i0=b i1=a > o0=z")},
        "stream_of_stream": {**parts, **ensemble("ens", "stream i0=a > o0=b | stream i0=b > o0=z")},
        "stream_of_stream_joined": {
            **parts, **ensemble("ens", "stream i0=a > o0=b o1=c | stream i0=b > o0=d | two i0=c i1=d > o0=z")
        },
        "two_streams_returned": {**parts, **ensemble("ens", "stream i0=a > o0=y | stream i0=a > o0=z", outs="y z")},
        "declared": {
            **parts,
            **ensemble("ens", "stream i0=a > o0=z", more="model_transaction_policy { decoupled: true }"),
        },
        "declared_without": {
            **parts, **ensemble("ens", "one i0=a > o0=z", more="model_transaction_policy { decoupled: true }")
        },
    }  # fmt: skip


def _broken_parts() -> dict[str, Tree]:
    """Ensembles over models that cannot be loaded themselves."""
    whole = ensemble("ens", "one i0=a > o0=z")
    return {
        "no_config": {**whole, "one/1/": b""},
        "no_version": {**whole, "one/config.pbtxt": _ONE["one/config.pbtxt"]},
        "bad_config": {**whole, **model("one", "max_batch_size: -1", "1/")},
        "unknown_backend": {**whole, **model("one", f'backend: "none" max_batch_size: 4 input {{ name: "i0" {_OF} }} '
                            f'output {{ name: "o0" {_OF} }}', "1/")},
        "no_tensors": {**whole, **identity("max_batch_size: 4", "one")},
        "not_there": dict(whole),
        "sequence": {**whole, **identity(f'max_batch_size: 4 sequence_batching {{}} input {{ name: "i0" {_OF} }} '
                     f'output {{ name: "o0" {_OF} }}', "one")},
    }  # fmt: skip


def _settings() -> Iterator[Case]:
    base = f'input {{ name: "a" {_OF} }}\noutput {{ name: "z" {_OF} }}\n{steps("one i0=a > o0=z")}\n@'
    yield from table("ours/ensemble_settings", base, """
        plain                           | platform: "ensemble" max_batch_size: 3
        no_platform                     | max_batch_size: 3
        other_platform                  | platform: "onnxruntime_onnx"
        backend                         | platform: "ensemble" backend: "identity"
        backend_only                    | backend: "ensemble"
        runtime                         | platform: "ensemble" runtime: "libtriton_identity.so"
        instances                       | platform: "ensemble" instance_group { kind: KIND_CPU }
        instances_empty                 | platform: "ensemble" instance_group {}
        optimization                    | platform: "ensemble" optimization {}
        warmup                          | platform: "ensemble" model_warmup { name: "w" }
        dynamic                         | platform: "ensemble" max_batch_size: 3 dynamic_batching {}
        cache                           | platform: "ensemble" response_cache { enable: true }
        file                            | platform: "ensemble" default_model_filename: "model.onnx"
        parameters                      | platform: "ensemble" parameters { key: "a" value { string_value: "b" } }
        tags                            | platform: "ensemble" metric_tags { key: "a" value: "b" }
        batch_input                     | platform: "ensemble" batch_input { target_name: "n" data_type: TYPE_FP32 source_input: "a" }
        versions_latest                 | platform: "ensemble" version_policy { latest { num_versions: 2 } }
        versions_specific_missing       | platform: "ensemble" version_policy { specific { versions: 4 } }
        scheduling_twice                | platform: "ensemble" ensemble_scheduling {}
        later_field                     | platform: "ensemble" ensemble_scheduling { max_inflight_requests: 2 }
        labels_missing                  | platform: "ensemble" output { name: "y" data_type: TYPE_INT16 dims: 5 label_filename: "none.txt" }
        tensor_without_type             | platform: "ensemble" input { name: "b" dims: 5 }
        tensor_format                   | platform: "ensemble" input { name: "b" data_type: TYPE_INT16 dims: 5 format: FORMAT_NCHW }
    """, folder=lambda text: {**_PARTS, **model("ens", text, "1/")})  # fmt: skip


def _maps() -> Iterator[Case]:
    base = f"""
        platform: "ensemble" max_batch_size: 3
        input {{ name: "a" {_OF} }}
        output {{ name: "z" {_OF} }}
        ensemble_scheduling {{ step {{ model_name: "one" model_version: -1 @ }} }}
    """
    yield from table("ours/ensemble_maps", base, """
        plain                           | input_map { key: "i0" value: "a" } output_map { key: "o0" value: "z" }
        input_no_key                    | input_map { value: "a" } output_map { key: "o0" value: "z" }
        input_no_value                  | input_map { key: "i0" } output_map { key: "o0" value: "z" }
        input_empty                     | input_map {} output_map { key: "o0" value: "z" }
        output_no_key                   | input_map { key: "i0" value: "a" } output_map { value: "z" }
        output_no_value                 | input_map { key: "i0" value: "a" } output_map { key: "o0" }
        input_same_key                  | input_map { key: "i0" value: "a" } input_map { key: "i0" value: "a" } output_map { key: "o0" value: "z" }
        input_same_key_other_first      | input_map { key: "i0" value: "b" } input_map { key: "i0" value: "a" } output_map { key: "o0" value: "z" }
        output_same_key                 | input_map { key: "i0" value: "a" } output_map { key: "o0" value: "y" } output_map { key: "o0" value: "z" }
        name_twice                      | model_name: "one" input_map { key: "i0" value: "a" } output_map { key: "o0" value: "z" }
        list                            | input_map [ { key: "i0" value: "a" } ] output_map [ { key: "o0" value: "z" } ]
        swapped                         | input_map { key: "a" value: "i0" } output_map { key: "o0" value: "z" }
    """, folder=lambda text: {**_PARTS, **model("ens", text, "1/")})  # fmt: skip
