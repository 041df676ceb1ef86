"""TR0xx: what lies in the repository, and the text of the config."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote

from tritonrepo.check._textformat import SyntaxFault
from tritonrepo.check.model import CONFIG, Model
from tritonrepo.check.rule import Edit, Link, Spot, Target, rule
from tritonrepo.check.rules._help import MODEL_PY, TENSORS, example, exists, is_folder, is_utf8, nearest

INT64 = 2**63 - 1


@rule(
    "TR001",
    "crash",
    "config.pbtxt is a file",
    "A directory named config.pbtxt ends the server while it reads the repository.",
    wrong={"m/config.pbtxt/readme.md": "", "m/1/model.pt": ""},
    right=example(TENSORS),
    parsed=False,
)
def config_is_a_file(model: Model, target: Target) -> Iterator[Spot]:
    if model.entries.get(CONFIG):
        yield model.spot_at(CONFIG, "config.pbtxt is a directory", "Make it a file: the model's configuration.")


@rule(
    "TR002",
    "reject",
    "the config can be parsed",
    "The server reads config.pbtxt as a ModelConfig in protobuf's text format, and refuses the model at the first "
    "error: a field that its release does not have, a value of another type, a field that may stand once and stands "
    "twice, two members of a oneof, a comma after the last element of a list. The message is the parser's own. The "
    "server names the place where its parser was when it noticed, which for an unknown name is one token later.",
    wrong=example(f"max_batch: 8{TENSORS}"),
    right=example(f"max_batch_size: 8{TENSORS}"),
    parsed=False,
)
def config_parses(model: Model, target: Target) -> Iterator[Spot]:
    if model.document is None:
        if model.entries.get(CONFIG) is False:
            yield model.spot_at(CONFIG, "config.pbtxt cannot be read", "Let the server's user read it.")
        return
    error = model.document.error
    if error is None:
        return
    line, column = (error.unknown.line, error.unknown.column) if error.unknown else (error.line, error.column)
    yield Spot(model.path / CONFIG, line, column, error.message, _syntax_hint(error, target), _syntax_edits(error))


#: Names of types elsewhere -> their names here.
_TYPES = {
    "BF16": ("BFLOAT16",),
    "BOOL": ("BOOLEAN",),
    "FP16": ("FLOAT16", "HALF"),
    "FP32": ("FLOAT32", "FLOAT", "SINGLE"),
    "FP64": ("FLOAT64", "DOUBLE"),
    "INT32": ("INT", "INTEGER"),
    "INT64": ("LONG",),
    "INT8": ("SCHAR",),
    "STRING": ("BYTES", "STR", "TEXT"),
    "UINT8": ("BYTE", "UCHAR"),
}
_SAME_TYPE = {other: f"TYPE_{own}" for own, others in _TYPES.items() for other in (own, *others)}


def _meant(error: SyntaxFault) -> str:
    """The name that can only have been meant, written or called otherwise; ``""`` where that is not certain."""
    if error.unknown is None:
        return ""
    name, known = _folded(error.unknown.name), {_folded(each): each for each in error.unknown.known}
    if "TYPE_FP32" in error.unknown.known:
        name = _folded(_SAME_TYPE.get(name.removeprefix("type").upper(), name))
    return known.get(name, "")


def _folded(name: str) -> str:
    return name.lower().replace("_", "")


def _syntax_hint(error: SyntaxFault, target: Target) -> str:
    if error.unknown is None:
        if error.trailing_comma is not None:
            return "Take away the comma before it."
        return "Mend the text; what follows it was not read."
    known = error.unknown.known
    hint = f"Write {_meant(error)}." if _meant(error) else nearest(error.unknown.name, known)
    if hint or len(known) > 16:
        return hint or f"Release {target.release} of the server does not know it."
    return f"One of: {', '.join(known)}."


def _syntax_edits(error: SyntaxFault) -> tuple[Edit, ...]:
    if error.trailing_comma is not None:
        return (Edit(error.trailing_comma, error.trailing_comma + 1, ""),)
    if error.unknown and _meant(error):
        start = error.unknown.offset
        return (Edit(start, start + len(error.unknown.name), _meant(error)),)
    return ()


@rule(
    "TR003",
    "reject",
    "at least one version can be served",
    "The server loads the versions that version_policy chooses, by default the highest, among the sub-directories "
    "named by a number without leading zeros. Without any it refuses the model. `latest` with num_versions 0 and "
    "`specific` without versions choose none.",
    wrong={"m/config.pbtxt": f'backend: "pytorch"{TENSORS}', "m/model.pt": ""},
    right=example(TENSORS),
)
def there_is_a_version(model: Model, target: Target) -> Iterator[Spot]:
    if any(_beyond(number) for number in model.numbers.values()) or model.served or _is_no_model(model):
        return
    if not model.numbers:
        skipped = [name for name, folder in model.entries.items() if folder and re.fullmatch("0[0-9]+", name)]
        hint = f"Rename {skipped[0]}: no leading zeros." if skipped else "Put the model's file into a directory 1."
        yield model.spot_at("", "there is no version directory", hint)
        return
    there = ", ".join(sorted(model.numbers))
    yield model.spot("version_policy", "version_policy chooses none of the versions", f"There are: {there}.")


@rule(
    "TR004",
    "crash",
    "version numbers fit into 64 bits",
    "The server converts the name of every sub-directory that begins with a number. A number beyond a signed 64-bit "
    "integer ends the server.",
    wrong={"m/config.pbtxt": f'backend: "pytorch"{TENSORS}', "m/1/model.pt": "", "m/20261120093000123456/model.pt": ""},
    right={"m/config.pbtxt": f'backend: "pytorch"{TENSORS}', "m/1/model.pt": "", "m/20261120093000/model.pt": ""},
)
def version_fits(model: Model, target: Target) -> Iterator[Spot]:
    for name, number in model.numbers.items():
        if _beyond(number):
            yield model.spot_at(name, f"{name} begins with a number beyond a 64-bit integer", "Rename the directory.")


def _beyond(number: int) -> bool:
    return not -INT64 - 1 <= number <= INT64


@rule(
    "TR005",
    "breaks",
    "version directories are named by their number and nothing else",
    "The server reads a number at the beginning of the name of each sub-directory, be it `1.bak`, `2-old` or `+1`, "
    "takes it for a version, and then looks for the model in the directory named by the number alone, which does not "
    "exist. A negative number is no version that a request could name.",
    wrong={"m/config.pbtxt": f'backend: "pytorch"{TENSORS}', "m/1/model.pt": "", "m/2-old/model.pt": ""},
    right={"m/config.pbtxt": f'backend: "pytorch"{TENSORS}', "m/1/model.pt": "", "m/old-2/model.pt": ""},
)
def version_is_a_number(model: Model, target: Target) -> Iterator[Spot]:
    for name, number in model.numbers.items():
        if number not in model.served or _beyond(number):
            continue
        if number < 0:
            yield model.spot_at(name, f"the server takes {name} for version {number}", "Rename the directory.")
        elif str(number) not in model.entries:
            message = f"the server takes {name} for version {number}, and looks for it in the directory {number}"
            yield model.spot_at(name, message, f"Rename it to {number}, or so that it begins with a letter.")


@rule(
    "TR006",
    "hang",
    "a Python model's file exists",
    "The Python backend starts a process for the model, which ends when its file is not there. The server waits for "
    "it forever: loading never ends, and neither does the server's start. The file is default_model_filename in the "
    "version directory, by default model.py.",
    wrong={"m/config.pbtxt": f'backend: "python"{TENSORS}', "m/1/modle.py": MODEL_PY},
    right={"m/config.pbtxt": f'backend: "python"{TENSORS}', "m/1/model.py": MODEL_PY},
)
def python_file_exists(model: Model, target: Target) -> Iterator[Spot]:
    if model.backend != "python" or model.config.get("runtime"):
        return
    for number in model.served:
        # The backend's version numbers are unsigned.
        folder = str(number % 2**64)
        if not exists(model, folder, model.completed.filename):
            yield _missing(model, folder)


@rule(
    "TR007",
    "reject",
    "a model's file exists",
    "Each backend looks in the version directory for the file that default_model_filename names, by default for one of "
    "its own: model.onnx, model.plan, model.pt, model.savedmodel, model.graphdef, model.xml. On a GPU whose compute "
    "capability is in cc_model_filenames, that file takes its place.",
    wrong={"m/config.pbtxt": f'backend: "tensorrt"{TENSORS}', "m/1/engine.plan": ""},
    right={
        "m/config.pbtxt": f'backend: "tensorrt"{TENSORS}default_model_filename: "engine.plan"\n',
        "m/1/engine.plan": "",
    },
)
def file_exists(model: Model, target: Target) -> Iterator[Spot]:
    backend = model.backend
    if backend not in _WITH_FILES:
        return
    names = _filenames(model, target)
    for number in model.served:
        for name in names:
            if is_utf8(name) and not exists(model, str(number), name):
                yield _missing(model, str(number), name)


_WITH_FILES = frozenset({"onnxruntime", "openvino", "pytorch", "tensorflow", "tensorrt"})


def _filenames(model: Model, target: Target) -> list[str]:
    """The files that the server's GPUs ask for; where they are not known, none that only some GPU would."""
    usual = model.completed.filename
    if not model.config.has("cc_model_filenames") or model.backend != "tensorrt":
        return [usual] if usual else []
    # The backend reads the config as JSON, into which bytes that are not UTF-8 do not get.
    by_gpu = {
        gpu.encode(errors="surrogateescape").decode(errors="ignore"): name
        for gpu, name in model.config.map("cc_model_filenames").items()
    }
    return list(dict.fromkeys(by_gpu.get(gpu, usual) for gpu in target.gpus or ()))


def _missing(model: Model, folder: str, name: str = "") -> Spot:
    name = name or model.completed.filename
    message = f"{folder}/{name} does not exist"
    hint = f"Put the model there, or name its file in default_model_filename ({model.backend} looks for {name})."
    if model.config.has("default_model_filename"):
        return model.spot("default_model_filename", message, hint)
    return model.spot_at(folder, message, hint)


@rule(
    "TR008",
    "reject",
    "a Python model's file can be imported",
    "The Python backend imports the file as a module of the version directory: its name has to end in .py, and to have "
    "no other dot.",
    wrong={
        "m/config.pbtxt": f'backend: "python"{TENSORS}default_model_filename: "model.v2.py"\n',
        "m/1/model.v2.py": MODEL_PY,
    },
    right={
        "m/config.pbtxt": f'backend: "python"{TENSORS}default_model_filename: "model_v2.py"\n',
        "m/1/model_v2.py": MODEL_PY,
    },
)
def python_file_is_a_module(model: Model, target: Target) -> Iterator[Spot]:
    if model.backend != "python":
        return
    path = model.completed.filename
    name = path.rpartition("/")[2]
    if not name.endswith(".py") or "." in name[:-3] or ".." in path.split("/"):
        message = f"the Python backend cannot import {path}"
        yield model.spot("default_model_filename", message, "Give a file name that ends in .py and has no other dot.")
    elif model.served and is_folder(model, str(model.served[0]), path):
        yield model.spot_at(f"{model.served[0]}/{path}", "this is a directory", "Put the Python code into a file.")


@rule(
    "TR009",
    "reject",
    "a Python model's file defines TritonPythonModel",
    "The Python backend makes an instance of the class TritonPythonModel of the file, and refuses a file without it.",
    wrong={"m/config.pbtxt": f'backend: "python"{TENSORS}', "m/1/model.py": "class Model:\n    pass\n"},
    right={"m/config.pbtxt": f'backend: "python"{TENSORS}', "m/1/model.py": MODEL_PY},
)
def python_file_has_the_class(model: Model, target: Target) -> Iterator[Spot]:
    if model.backend != "python" or model.config.get("runtime"):
        return
    for number in model.served:
        path = f"{number}/{model.completed.filename}"
        try:
            code = model.files.read(path)
        except (OSError, ValueError):
            continue
        # An import of everything may bring it.
        if b"TritonPythonModel" not in code and not re.search(rb"import\s*\(?\s*\*", code):
            yield model.spot_at(path, "the class TritonPythonModel is missing", "Define it, with a method execute.")


@rule(
    "TR010",
    "reject",
    "a model without a config is of a backend that can do without",
    "Without a config the server has to get everything from the model's file. The backends tensorrt, onnxruntime, "
    "openvino, tensorflow, pytorch and python fill in what they know; others need a config.pbtxt. A model of a backend "
    "of one's own can do without `backend` if its directory is named model.BACKEND.",
    wrong={"m.identity/1/weights.bin": ""},
    right={"m.identity/config.pbtxt": TENSORS, "m.identity/1/weights.bin": ""},
)
def config_exists(model: Model, target: Target) -> Iterator[Spot]:
    if model.document is not None or _is_no_model(model) or not model.backend:
        return
    if model.backend not in _WITH_FILES | {"python"}:
        message = f"there is no {CONFIG}, and {model.backend} cannot say what would stand in it"
        yield model.spot_at("", message, f"Write {CONFIG}: backend, input and output.")


@rule(
    "TR011",
    "reject",
    "every directory in a repository is a model",
    "The server takes each directory in the repository for a model, hidden ones such as .git or .cache, too. One that "
    "has neither a config nor a version cannot be loaded; unless models are loaded by name, or errors do not matter, "
    "that ends the server. Files beside the models do not matter.",
    wrong={".cache/notes.txt": "", "m/config.pbtxt": f'backend: "pytorch"{TENSORS}', "m/1/model.pt": ""},
    right={"m/config.pbtxt": f'backend: "pytorch"{TENSORS}', "m/1/model.pt": ""},
)
def directory_is_a_model(model: Model, target: Target) -> Iterator[Spot]:
    if _is_no_model(model) and not model.broken_links:
        yield model.spot_at("", "this directory is no model: no config, no version", "Move it out of the repository.")


def _is_no_model(model: Model) -> bool:
    return model.document is None and not model.numbers


@rule(
    "TR012",
    "hang",
    "names of Python models need no quoting in a shell",
    "The Python backend starts the model's process through a shell and does not quote the path of its file. Where the "
    "model's name or default_model_filename has a space, a quote, or one of ;&|<>()`$\\ the process never starts, and "
    "loading never ends. What stands in such a name is executed.",
    wrong={
        "m/config.pbtxt": f'backend: "python"{TENSORS}default_model_filename: "my model.py"\n',
        "m/1/my model.py": MODEL_PY,
    },
    right={
        "m/config.pbtxt": f'backend: "python"{TENSORS}default_model_filename: "my_model.py"\n',
        "m/1/my_model.py": MODEL_PY,
    },
)
def python_names_need_no_quotes(model: Model, target: Target) -> Iterator[Spot]:
    if model.backend != "python":
        return
    if _QUOTED.search(model.name):
        yield model.spot_at("", f"the Python backend does not quote the name {model.name!r}", "Rename the directory.")
    elif _QUOTED.search(model.completed.filename):
        message = f"the Python backend does not quote the file name {model.completed.filename!r}"
        yield model.spot("default_model_filename", message, "Rename the file.")


_QUOTED = re.compile(r"""[\s;&|<>()`$\\"']""")


@rule(
    "TR013",
    "breaks",
    "a model's name can stand in a URL",
    "Requests over HTTP name the model in the path of the URL, and the server does not decode it: a name with a space, "
    "a percent sign or another character that URLs have to encode cannot be reached over HTTP, only over gRPC.",
    wrong={"my model/config.pbtxt": f'backend: "pytorch"{TENSORS}', "my model/1/model.pt": ""},
    right={"my_model/config.pbtxt": f'backend: "pytorch"{TENSORS}', "my_model/1/model.pt": ""},
)
def name_fits_a_url(model: Model, target: Target) -> Iterator[Spot]:
    if not _PLAIN.fullmatch(model.name):
        encoded = quote(model.name, safe="", errors="surrogateescape")
        message = f"clients ask for {encoded} over HTTP, and the server knows only {model.name!r}"
        yield model.spot_at("", message, "Use letters, digits, and the characters _ . - ~ in the directory's name.")


_PLAIN = re.compile(r"[A-Za-z0-9_.~-]+")


@rule(
    "TR014",
    "breaks",
    "the versions that version_policy lists exist",
    "The server logs an error for a listed version whose directory is not there, and serves the others. Requests for "
    "the missing one fail.",
    wrong=example(f"version_policy {{ specific {{ versions: [ 1, 2 ] }} }}{TENSORS}"),
    right=example(f"version_policy {{ specific {{ versions: [ 1 ] }} }}{TENSORS}"),
)
def listed_versions_exist(model: Model, target: Target) -> Iterator[Spot]:
    if not model.config.has("version_policy") or not model.served:
        return
    specific = model.config.get("version_policy").get("specific")
    for index, number in enumerate(specific.all("versions")):
        if number not in model.served:
            message = f"there is no directory for version {number}"
            yield model.spot(
                "versions", message, "Add it, or take the version from the list.", within=specific, index=index
            )


@rule(
    "TR015",
    "advice",
    "version directories have no leading zeros",
    "The server ignores a directory named by a number with leading zeros, and serves the other versions.",
    wrong={"m/config.pbtxt": f'backend: "pytorch"{TENSORS}', "m/1/model.pt": "", "m/02/model.pt": ""},
    right={"m/config.pbtxt": f'backend: "pytorch"{TENSORS}', "m/1/model.pt": "", "m/2/model.pt": ""},
)
def version_has_no_leading_zeros(model: Model, target: Target) -> Iterator[Spot]:
    for name, folder in model.entries.items():
        if folder and name[0] == "0" and len(name) > 1 and name.isdigit():
            yield model.spot_at(name, f"the server ignores {name}", f"Rename it to {name.lstrip('0') or '0'}.")


@rule(
    "TR016",
    "reject",
    "no version that is missing is listed twice",
    "The server passes over a listed version whose directory is not there, once. Listed again, it loads it and refuses "
    "the model because nothing is there.",
    wrong=example(f"version_policy {{ specific {{ versions: [ 1, 2, 2 ] }} }}{TENSORS}"),
    right=example(f"version_policy {{ specific {{ versions: [ 1 ] }} }}{TENSORS}"),
)
def missing_versions_are_listed_once(model: Model, target: Target) -> Iterator[Spot]:
    if not model.config.has("version_policy") or not model.served:
        return
    specific = model.config.get("version_policy").get("specific")
    listed = specific.all("versions")
    for index, number in enumerate(listed):
        if number not in model.served and number in listed[:index]:
            message = f"version {number} is listed again, and there is no directory for it"
            yield model.spot("versions", message, "Take it from the list.", within=specific, index=index)


@rule(
    "TR017",
    "reject",
    "no symbolic link leads nowhere",
    "The server looks at everything in a model's directory, and refuses the model for a link whose target is not "
    "there, whatever it is for. It looks at everything beside the models, too, and there such a link ends it before it "
    "loads any. Links that lead somewhere are followed. Within a version's directory only the backend notices.",
    wrong={"m/config.pbtxt": f'backend: "pytorch"{TENSORS}', "m/1/model.pt": "", "m/latest": Link("2")},
    right={"m/config.pbtxt": f'backend: "pytorch"{TENSORS}', "m/1/model.pt": "", "m/latest": Link("1")},
    parsed=False,
)
def links_lead_somewhere(model: Model, target: Target) -> Iterator[Spot]:
    for name in model.broken_links:
        after = "the server refuses the model" if name else "the server ends, and serves nothing of the repository"
        yield model.spot_at(name, f"this link leads nowhere: {after}", "Remove it, or bring back what it leads to.")


@rule(
    "TR018",
    "reject",
    "a model's file is not a Git LFS pointer",
    "Without `git lfs pull` a checkout has a few lines of text in the place of a large file. No backend can load "
    "that; TR801 says it of ONNX files.",
    wrong={
        "m/config.pbtxt": f'backend: "tensorrt"{TENSORS}',
        "m/1/model.plan": "version https://git-lfs.github.com/spec/v1\noid sha256:4665b5...\nsize 5242880\n",
    },
    right={"m/config.pbtxt": f'backend: "tensorrt"{TENSORS}', "m/1/model.plan": b"\0"},
)
def file_is_no_pointer(model: Model, target: Target) -> Iterator[Spot]:
    if model.backend not in _WITH_FILES - {"onnxruntime"} or target.only_core:
        return
    for number in model.served:
        for name in _filenames(model, target):
            path = f"{number}/{name}"
            if is_folder(model, str(number), name) is False and _is_pointer(model, path):
                yield model.spot_at(path, "this is a Git LFS pointer, not the model", "Run `git lfs pull`.")


def _is_pointer(model: Model, path: str) -> bool:
    try:
        return model.files.size(path) < _POINTER_SIZE and model.files.read(path).startswith(_POINTER)
    except OSError:
        return False


#: How a pointer begins, and what it stays below.
_POINTER, _POINTER_SIZE = b"version https://git-lfs", 1024
