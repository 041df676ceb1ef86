"""Folders and files: where the config lies, what counts as a version, which files are missing."""

# ruff: noqa: E501 - a row of a table is one line, however long

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .case import PLACEHOLDER, PYTHON, Case, Link, Tree, model

_IO = 'input { name: "x" data_type: TYPE_FP32 dims: 4 }\noutput { name: "y" data_type: TYPE_FP32 dims: 4 }\n'
_ONNX = f'backend: "onnxruntime"\n{_IO}'
_PYTHON = f'backend: "python"\n{_IO}'
_ANY = f'backend: "identity"\n{_IO}'


def cases() -> Iterator[Case]:
    """All cases."""
    more = {**dict(_version_names()), **dict(_policies()), **dict(_links())}
    for name, tree in {**_CONFIGS, **_NAMES, **_FILES, **more}.items():
        yield Case(f"ours/layout_{name}", tree)


_CONFIGS: Mapping[str, Tree] = {
    "config/plain": model("m", _ONNX, "1/model.onnx"),
    "config/none_onnx": model("m", None, "1/model.onnx"),
    "config/none_plan": model("m", None, "1/model.plan"),
    "config/none_python": model("m", None, model__py=PYTHON),
    "config/none_pytorch": model("m", None, "1/model.pt"),
    "config/none_openvino": model("m", None, "1/model.xml"),
    "config/none_graphdef": model("m", None, "1/model.graphdef"),
    "config/none_savedmodel": model("m", None, "1/model.savedmodel/saved_model.pb"),
    "config/none_savedmodel_file": model("m", None, "1/model.savedmodel"),
    "config/none_plan_folder": model("m", None, "1/model.plan/"),
    "config/none_onnx_folder": model("m", None, "1/model.onnx/model.onnx"),
    "config/none_unknown_file": model("m", None, "1/weights.bin"),
    "config/none_two_files": model("m", None, "1/model.onnx", "1/model.plan"),
    "config/none_file_in_second_version": model("m", None, "1/", "2/model.onnx"),
    "config/none_version_only": model("m", None, "1/"),
    "config/none_no_version": model("m", None, "model.onnx"),
    "config/empty_folder": {"m/": b""},
    "config/empty_onnx": model("m", "", "1/model.onnx"),
    "config/empty_nothing": model("m", "", "1/"),
    "config/empty_no_version": model("m", ""),
    "config/empty_folder_onnx": model("m", "", "1/model.onnx/model.onnx"),
    "config/folder": {"m/config.pbtxt/": b"", "m/1/model.onnx": PLACEHOLDER},
    "config/folder_with_config": {"m/config.pbtxt/config.pbtxt": _ONNX.encode(), "m/1/model.onnx": PLACEHOLDER},
    "config/in_version": {"m/1/config.pbtxt": _ONNX.encode(), "m/1/model.onnx": PLACEHOLDER},
    "config/other_name": {"m/config.pbtx": _ONNX.encode(), "m/1/model.onnx": PLACEHOLDER},
    "config/upper_case": {"m/Config.pbtxt": _ONNX.encode(), "m/1/model.onnx": PLACEHOLDER},
    "config/in_configs_folder": {**model("m", _ONNX, "1/model.onnx"), "m/configs/other.pbtxt": b"not a config {"},
    "config/only_in_configs_folder": {"m/configs/m.pbtxt": _ONNX.encode(), "m/1/model.onnx": PLACEHOLDER},
    "config/beside_the_models": {**model("m", _ONNX, "1/model.onnx"), "README.md": b"hello"},
    "config/two_models": {**model("m", _ONNX, "1/model.onnx"), **model("n", _ONNX, "1/model.onnx")},
    "config/two_models_one_bad": {**model("m", _ONNX, "1/model.onnx"), **model("n", "bad", "1/model.onnx")},
    "config/empty_model_beside": {**model("m", _ONNX, "1/model.onnx"), "n/": b""},
    "config/hidden_folder_beside": {**model("m", _ONNX, "1/model.onnx"), ".cache/file": b""},
    "config/git_folder_beside": {**model("m", _ONNX, "1/model.onnx"), ".git/config": b"", ".git/HEAD": b""},
}

_NAMES: Mapping[str, Tree] = {
    f"name/{label}": model(name, _ONNX, "1/model.onnx")
    for label, name in {
        "dot": "m.v1", "dash": "m-1", "underscore": "_m", "hidden": ".m", "digits": "42", "space": "my model",
        "not_ascii": "größe", "upper": "M", "plus": "a+b", "percent": "a%41b", "colon": "a:b", "at": "a@b", "long": "m" * 200,
        "quote": "a'b", "double_quote": 'a"b', "hash": "a#b", "question": "a?b", "bracket": "a[b]",
    }.items()
} | {
    "name/config_agrees": model("m.v1", f'name: "m.v1"\n{_ONNX}', "1/model.onnx"),
    "name/config_disagrees": model("m.v1", f'name: "m"\n{_ONNX}', "1/model.onnx"),
    "name/suffix_is_backend": model("m.identity", _IO, "1/"),
    "name/suffix_is_unknown": model("m.nothing", _IO, "1/"),
    "name/suffix_after_first_dot": model("a.b.identity", _IO, "1/"),
    "name/suffix_empty": model("m.", _IO, "1/"),
    "name/suffix_python": model("m.python", _IO, model__py=PYTHON),
    "name/suffix_and_file_name": model("m.identity", f'default_model_filename: "model.bin"\n{_IO}', "1/"),
}  # fmt: skip


def _version_names() -> Iterator[tuple[str, Tree]]:
    names = {
        "1": "1", "2": "2", "10": "10", "large": "999999999", "int64_largest": "9223372036854775807",
        "beyond_int64": "9223372036854775808", "far_beyond_int64": "99999999999999999999999", "0": "0", "00": "00",
        "01": "01", "minus": "-1", "plus": "+1", "float": "1.0", "letters_after": "1abc", "letters_before": "v1",
        "word": "one", "space_before": " 1", "space_after": "1 ", "hidden": ".1", "hexadecimal": "0x1",
        "arabic": "\u0661", "underscore": "1_0", "exponent": "1e0",
    }  # fmt: skip
    for label, name in names.items():
        yield f"version/{label}", model("m", _ONNX, f"{name}/model.onnx")
        yield f"version_any/{label}", model("m", _ANY, f"{name}/")
        yield f"version_beside_1/{label}", model("m", f"version_policy {{ all {{}} }}\n{_ANY}", "1/", f"{name}/")
    for label in ("letters_after", "plus", "01", "0", "word", "minus"):
        name = names[label]
        yield f"version_python/{label}", {"m/config.pbtxt": _PYTHON.encode(), f"m/{name}/model.py": PYTHON}
    yield "version/none", model("m", _ONNX)
    yield "version/none_file_beside", model("m", _ONNX, "model.onnx")
    yield "version/file", model("m", _ONNX, "1")
    yield "version/empty_folder", model("m", _ONNX, "1/")
    yield "version/other_folders", model("m", _ONNX, "1/model.onnx", "docs/readme.md", ".git/config")
    yield "version/files_beside", model("m", _ONNX, "1/model.onnx", "1.verdict.json", "labels.txt")


def _policies() -> Iterator[tuple[str, Tree]]:
    """Versions 1, 3 and 10, of which some lack their file, and what is chosen of them."""
    policies = {
        "unset": "", "latest_1": "latest { num_versions: 1 }", "latest_2": "latest { num_versions: 2 }",
        "latest_9": "latest { num_versions: 9 }", "all": "all {}", "first": "specific { versions: 1 }",
        "first_and_last": "specific { versions: [ 10, 1 ] }", "missing": "specific { versions: 2 }",
        "one_missing": "specific { versions: [ 1, 2 ] }",
    }  # fmt: skip
    for label, policy in policies.items():
        text = f"{_ONNX}version_policy {{ {policy} }}" if policy else _ONNX
        yield f"policy/{label}", model("m", text, "1/model.onnx", "3/model.onnx", "10/model.onnx")
        yield f"policy_first_broken/{label}", model("m", text, "1/", "3/model.onnx", "10/model.onnx")
        yield f"policy_last_broken/{label}", model("m", text, "1/model.onnx", "3/model.onnx", "10/")


def _links() -> Iterator[tuple[str, Tree]]:
    """Symbolic links in the place of everything that the server looks at: to what is there, to nothing, to themselves."""
    there = {"real/config.pbtxt": _ONNX.encode(), "real/1/model.onnx": PLACEHOLDER, "real/labels": b"one\n"}
    labels = f'{_ONNX}output {{ name: "z" data_type: TYPE_FP32 dims: 5 label_filename: "labels" }}'
    python = {"m/config.pbtxt": _PYTHON.encode(), "real/1/model.py": PYTHON}
    onnx = model("m", _ONNX, "1/model.onnx")
    for label, names in {"there": "", "nothing": "nothing", "itself": "-"}.items():

        def link(path: str, to: str, names: str = names) -> dict[str, bytes]:
            """A link to a path of the model ``real``, seen from the link's folder."""
            up = "../" * path.count("/")
            return {path: Link((path.rpartition("/")[2] if names == "-" else f"{up}{names or to}").encode())}

        config = {name: content for name, content in onnx.items() if name != "m/config.pbtxt"}
        yield f"link/model/{label}", there | link("m", "real")
        yield f"link/config/{label}", there | config | link("m/config.pbtxt", "real/config.pbtxt")
        yield f"link/version/{label}", there | model("m", _ONNX) | link("m/1", "real/1")
        yield f"link/version_beside/{label}", there | onnx | link("m/2", "real/1")
        yield f"link/version_below/{label}", there | model("m", _ONNX, "2/model.onnx") | link("m/1", "real/1")
        yield f"link/file/{label}", there | model("m", _ONNX, "1/") | link("m/1/model.onnx", "real/1/model.onnx")
        yield f"link/file_without_config/{label}", there | link("m/1/model.onnx", "real/1/model.onnx")
        yield f"link/python/{label}", there | python | link("m/1/model.py", "real/1/model.py")
        yield f"link/labels/{label}", there | model("m", labels, "1/model.onnx") | link("m/labels", "real/labels")
        yield f"link/beside/{label}", there | onnx | link("m/notes", "real/labels")
        yield f"link/beside_file/{label}", there | onnx | link("m/1/weights", "real/labels")
        yield f"link/folder_beside/{label}", there | onnx | link("m/docs", "real")
        yield f"link/alone/{label}", there | {"m/": b""} | link("m/notes", "real/labels")
    yield "link/config_is_folder", there | model("m", None, "1/model.onnx") | {"m/config.pbtxt": Link(b"1")}
    yield "link/file_is_folder", there | model("m", _ONNX, "1/") | {"m/1/model.onnx": Link(b"../../real")}
    yield "link/version_is_file", there | model("m", _ONNX) | {"m/1": Link(b"../real/labels")}


_FILES: Mapping[str, Tree] = {
    "file/onnx_folder": model("m", _ONNX, "1/model.onnx/model.onnx"),
    "file/onnx_in_model_folder": model("m", _ONNX, "1/", "model.onnx"),
    "file/onnx_upper_case": model("m", _ONNX, "1/model.ONNX"),
    "file/named": model("m", f'{_ONNX}default_model_filename: "net.onnx"', "1/net.onnx"),
    "file/named_missing": model("m", f'{_ONNX}default_model_filename: "net.onnx"', "1/model.onnx"),
    "file/named_in_folder": model("m", f'{_ONNX}default_model_filename: "a/net.onnx"', "1/a/net.onnx"),
    "file/named_in_second_only": model(
        "m", f'{_ONNX}default_model_filename: "net.onnx" version_policy {{ all {{}} }}', "1/", "2/net.onnx"
    ),
    "file/named_above": model("m", f'{_ONNX}default_model_filename: "../net.onnx"', "1/", "net.onnx"),
    "file/python_missing": model("m", _PYTHON, "1/"),
    "file/python_named": model("m", f'{_PYTHON}default_model_filename: "net.py"', net__py=PYTHON),
    "file/python_named_missing": model("m", f'{_PYTHON}default_model_filename: "net.py"', model__py=PYTHON),
    "file/python_in_model_folder": {"m/config.pbtxt": _PYTHON.encode(), "m/1/": b"", "m/model.py": PYTHON},
    "file/python_is_folder": {"m/config.pbtxt": _PYTHON.encode(), "m/1/model.py/": b""},
    "file/python_missing_in_latest": {"m/config.pbtxt": _PYTHON.encode(), "m/1/model.py": PYTHON, "m/2/": b""},
    "file/python_missing_in_unchosen": {"m/config.pbtxt": _PYTHON.encode(), "m/2/model.py": PYTHON, "m/1/": b""},
    "file/python_and_onnx": model("m", _IO, "1/model.onnx", model__py=PYTHON),
    "file/labels": {
        **model("m", _ONNX.replace("dims: 4 }\noutput", "dims: 4 }\n#").replace("#", "output"), "1/model.onnx"),
        "m/labels.txt": b"a\nb\n",
    },
    "file/labels_empty": {
        **model("m", f'{_ONNX}output {{ name: "z" data_type: TYPE_FP32 dims: 2 label_filename: "l" }}', "1/model.onnx"),
        "m/l": b"",
    },
    "file/labels_binary": {
        **model("m", f'{_ONNX}output {{ name: "z" data_type: TYPE_FP32 dims: 2 label_filename: "l" }}', "1/model.onnx"),
        "m/l": b"\xff\xfe\x00\n",
    },
    "file/labels_too_few": {
        **model("m", f'{_ONNX}output {{ name: "z" data_type: TYPE_FP32 dims: 5 label_filename: "l" }}', "1/model.onnx"),
        "m/l": b"one\n",
    },
    "file/labels_in_folder": {
        **model(
            "m", f'{_ONNX}output {{ name: "z" data_type: TYPE_FP32 dims: 5 label_filename: "a/l" }}', "1/model.onnx"
        ),
        "m/a/l": b"one\n",
    },
    "file/library_in_version": model("m", f'backend: "own"\n{_IO}', "1/libtriton_own.so"),
    "file/backend_library_in_model": model("m", f'backend: "own"\n{_IO}', "1/", "libtriton_own.so"),
    "file/batch_strategy": model(
        "m", f"{_ONNX}max_batch_size: 4 dynamic_batching {{}}", "1/model.onnx", "1/batchstrategy.so"
    ),
    "file/runtime_is_model": model("m", f'{_ONNX}runtime: "model.onnx"', "1/model.onnx"),
    "file/runtime_is_empty": model("m", f'{_ANY}runtime: "own.so"', "1/") | {"m/own.so": b""},
    "file/runtime_is_folder": model("m", f'{_ANY}runtime: "1"', "1/"),
    "file/savedmodel_is_file": model("m", f'platform: "tensorflow_savedmodel"\n{_IO}', "1/model.savedmodel"),
    "file/graphdef_missing": model("m", f'platform: "tensorflow_graphdef"\n{_IO}', "1/"),
    "file/pytorch_missing": model("m", f'platform: "pytorch_libtorch"\n{_IO}', "1/"),
    "file/plan_missing": model("m", f'platform: "tensorrt_plan"\n{_IO}', "1/"),
    "file/plan_folder": model("m", f'platform: "tensorrt_plan"\n{_IO}', "1/model.plan/"),
}
