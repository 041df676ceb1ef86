"""What ONNX Runtime says when it cannot load or run a model, in words for people: which operator, type or version."""

from __future__ import annotations

import importlib.metadata
import re

#: A place in ONNX Runtime's own source; the signature of a function follows, then what went wrong.
_PLACE = re.compile(r"(?:/\S*/)?[\w.]+\.(?:cc|cpp|h|hpp):\d+ ")
_CODE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
_LOADING = re.compile(r"^Load model from .*? failed:\s*")
_INITIALIZING = re.compile(r"^Exception during initialization: ")
#: The constructor of a kernel, which says no before the first run.
_KERNEL = re.compile(r"^Exception during initialization: \S+:\d+ onnxruntime::(?P<kernel>\w+)(?:<\w+>)?::")
_NODE = re.compile(
    r"Non-zero status code returned while running (?P<op>\S+) node\. Name:'(?P<name>.*?)' Status Message: "
)
_INVALID = re.compile(r'This is an invalid model\. In Node, \("(?P<name>.*?)", (?P<op>\w+), .*?, Error ')
_MISSING = re.compile(
    r"(?:Could not find an implementation for|Failed to find kernel for) (?P<op>\w+)\((?P<version>-?\d+)\)"
)
_UNKNOWN = re.compile(r"^(?:Fatal error: )?(?P<op>[\w.:]+)\((?P<version>-?\d+)\) is not a registered function/op")
_IR = re.compile(r"Unsupported model IR version: (?P<has>\d+), max supported IR version: (?P<max>\d+)")
_OPSET = re.compile(r"Opset (?P<has>\d+) is under development.*?domain (?P<domain>\S+) is till opset (?P<max>\d+)")
_QUALIFIER = re.compile(r"\s*(?:const)?\s*(?:\[with [^\]]*\])?\s*(?:::<lambda\(\)>)?\s*")

_LIMIT = 400


def words(error: Exception) -> str:
    """What went wrong, on one line, without the places in ONNX Runtime's source that it names."""
    text = _LOADING.sub("", _CODE.sub("", " ".join(str(error).split())))
    said = _of_a_version(text) or _of_an_operator(text) or _without_place(_INITIALIZING.sub("", text))
    return said[:_LIMIT]


def _of_a_version(text: str) -> str:
    """In words of ours, where the file is too new; empty where it is something else."""
    if found := _IR.search(text):
        return f"the file has IR version {found['has']}; onnxruntime {_version()} reads up to {found['max']}"
    if found := _OPSET.search(text):
        domain = "" if found["domain"] == "ai.onnx" else f" of {found['domain']}"
        return f"the file has opset {found['has']}{domain}; onnxruntime {_version()} knows up to {found['max']}"
    return ""


def _of_an_operator(text: str) -> str:
    """With the operator's name in front, where it is about one; else empty."""
    if found := _MISSING.search(text):
        types = " for these types, on the CPU" if "implementation" in found[0] else ""
        return f"operator {found['op']} (version {found['version']}) is not implemented{types}"
    if found := _UNKNOWN.search(text):
        return f"operator {found['op']} is not known to onnxruntime {_version()}"
    if found := _INVALID.search(text) or _NODE.search(text):
        name = f" (node {found['name']!r})" if found["name"] else ""
        return f"operator {found['op']}{name}: {_without_place(text[found.end() :])}"
    if found := _KERNEL.match(text):
        return f"operator {_operator(found['kernel'])}: {_without_place(_INITIALIZING.sub('', text))}"
    return ""


def hint(said: str) -> str:
    """What to do about an error at load whose words these are."""
    if "IR version" in said or " opset " in said:
        return "Install a newer onnxruntime, or export the model with an older opset."
    if "locale" in said:
        return "Install the locale where the model is built and served, or leave it out of the operator."
    return "An operator, attribute or type that ONNX Runtime lacks must be replaced before export."


def _operator(kernel: str) -> str:
    """The operator that a kernel's class is named after: LSTM for LSTMBase, GRU for DeepCpuGruOp."""
    name = re.sub(r"^DeepCpu|(Base|Op|Impl)$", "", kernel)
    return name.upper() if len(name) <= 4 else name  # GRU, LSTM and RNN are the short ones


def _without_place(text: str) -> str:
    """Cut off the file, line and function that come before the words."""
    found = _PLACE.match(text)
    if not found:
        return text
    rest = text[found.end() :]
    opened = rest.find("(")
    if opened < 0 or " was false" in rest[:opened]:
        return rest
    end = _closing(rest, opened)
    words = rest[end:]
    after = _QUALIFIER.match(words)
    said = words[after.end() :] if after else words
    return said if said else rest


def _closing(text: str, opened: int) -> int:
    """The place behind the bracket that closes the one at ``opened``; ``opened`` itself where none does."""
    depth = 0
    for place in range(opened, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if not depth:
            return place + 1
    return opened


def _version() -> str:
    try:
        return importlib.metadata.version("onnxruntime")
    except importlib.metadata.PackageNotFoundError:  # onnxruntime-gpu, or a build of one's own
        import onnxruntime

        return str(onnxruntime.__version__)
