"""What TensorRT says, in words that name the place and the mend. Knows nothing of its Python package."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tritonrepo.errors import EngineError, ModelError, TritonrepoError

_SHOWN = 5

#: Operators that a plan cannot hold as they are, and what to do with them before.
_OPERATORS = {
    "NonMaxSuppression": "Cut it off and serve it as a model of its own behind this one, or give it fixed sizes.",
    "Loop": "Unroll it when exporting (a fixed number of turns), or serve the model with `engine: onnxruntime`.",
    "Scan": "Export the recurrence as Loop or unrolled, or serve the model with `engine: onnxruntime`.",
    "Unique": "Its output has a size that only the values tell; move it to the client or to a Python model.",
    "StringNormalizer": "TensorRT has no strings: move the text's part to the client or to a Python model.",
    "Tokenizer": "TensorRT has no strings: move the text's part to the client or to a Python model.",
    "RandomNormal": "Make the random numbers an input of the model, or export it for inference (eval mode).",
    "RandomUniform": "Make the random numbers an input of the model, or export it for inference (eval mode).",
    "RandomNormalLike": "Make the random numbers an input of the model, or export it for inference (eval mode).",
    "RandomUniformLike": "Make the random numbers an input of the model, or export it for inference (eval mode).",
    "Dropout": "Export the model for inference (eval mode): then it has no Dropout.",
    "BatchNormalization": "Export the model for inference (eval mode): then training_mode is 0.",
}
_SEQUENCES = re.compile(r"^(Sequence|Optional|SplitToSequence|ConcatFromSequence)")

#: By TensorRT's error code, where the operator says nothing.
_CODES = {
    "UNSUPPORTED_NODE_DATATYPE": (
        "Cast its inputs to a type that TensorRT has (FP32, FP16, BF16, INT32, INT64, BOOL) and the result back, "
        "in the graph; DOUBLE becomes FLOAT, UINT8 is for inputs and outputs only."
    ),
    "UNSUPPORTED_NODE_DYNAMIC": (
        "Fold constants, so that what is known at build time is no tensor; or make the axis that it depends on fixed."
    ),
    "UNSUPPORTED_NODE_INPUT": (
        "TensorRT wants this input as a constant: fold constants when exporting (an export at fixed axes often does)."
    ),
    "UNSUPPORTED_NODE_SHAPE": "Change the rank or the shape in the graph, with Reshape around the node.",
    "UNSUPPORTED_NODE_ATTR": "Export with another opset or setting, so that the attribute has a value that it takes.",
    "MEM_ALLOC_FAILED": "The host has too little memory for the weights: build fewer models at once (--jobs 1).",
    "MODEL_DESERIALIZE_FAILED": "Check the file with onnx.checker; its external data must lie beside it.",
}
_UNKNOWN = (
    "TensorRT has no such operator: rewrite it with others before export, name a plugin library under "
    "`tensorrt: {plugins: [...]}`, or serve the model with `engine: onnxruntime`."
)

#: What the builder logs -> what to change.
_BUILD = (
    (
        r"out of memory|outofmemory|cudaErrorMemoryAllocation|insufficient memory|not enough memory",
        "The GPU has too little memory: set tensorrt.workspace_gib lower, narrow the largest shapes and batches, build "
        "one model at a time (--jobs 1), and look at what else is on the GPU (nvidia-smi).",
    ),
    (
        r"could not find any implementation|no implementation .*(found|satisf)",
        "No kernel fits the layer: give more workspace (tensorrt.workspace_gib), raise "
        "tensorrt.builder_optimization_level, narrow the shapes, or keep the layer in FP32.",
    ),
    (
        r"kMIN|kOPT|kMAX|optimization profile",
        "A range does not fit the graph: look at `shapes:` and `shape_values:` of the model.",
    ),
    (
        r"no kernel image|unsupported SM|compute capability|device not supported|not supported on this platform",
        "This TensorRT does not run on this GPU; `tritonrepo doctor` shows both.",
    ),
    (
        r"driver version is insufficient|CUDA initialization failure|cudaErrorInsufficientDriver",
        "The driver is too old for this TensorRT's CUDA: update it, or build in the container of an older release.",
    ),
)


@dataclass(frozen=True)
class ParserFault:
    """One complaint of TensorRT's ONNX parser."""

    node: int
    """Its number in the graph; below 0 where it is about no node."""
    name: str
    operator: str
    code: str
    """Name of TensorRT's error code, ``UNSUPPORTED_NODE_DATATYPE``."""
    reason: str
    functions: tuple[str, ...] = ()
    """Local functions of the file that the node is in, outermost first."""

    def __str__(self) -> str:
        what = f"node {self.node}" if self.node >= 0 else "the graph"
        what += f" {self.name!r}" if self.name else ""
        what += f" ({self.operator})" if self.operator else ""
        what += f" in {' > '.join(self.functions)}" if self.functions else ""
        return f"{what}: {_one_line(self.reason) or self.code}"

    @property
    def hint(self) -> str | None:
        """What preparation or the export could do; None where nothing is known."""
        if self.operator in _OPERATORS:
            return _OPERATORS[self.operator]
        if _SEQUENCES.match(self.operator):
            return "TensorRT has no sequences: export the model with tensors only, or use `engine: onnxruntime`."
        unknown = "no importer" in self.reason.lower() or "plugin not found" in self.reason.lower()
        return _UNKNOWN if unknown or self.code == "UNSUPPORTED_NODE" else _CODES.get(self.code)


def parser_error(model: str, onnx: Path, faults: Sequence[ParserFault], log: Log) -> ModelError:
    """The error for a graph that the parser refused."""
    if not faults:
        return ModelError(
            f"model {model}: TensorRT cannot read the ONNX file: {log.last() or 'it does not say why'}",
            where=onnx,
            hint="Check it with onnx.checker; external data must lie where the file says.",
        )
    shown = [str(fault) for fault in faults[:_SHOWN]]
    if len(faults) > _SHOWN:
        shown.append(f"and {len(faults) - _SHOWN} more")
    hints = dict.fromkeys(fault.hint for fault in faults if fault.hint)
    otherwise = "Serve the model with `engine: onnxruntime`, whose server runs what TensorRT does not."
    return ModelError(
        f"model {model}: TensorRT cannot take the graph: {'; '.join(shown)}",
        where=onnx,
        hint=" ".join(hints) or otherwise,
    )


def build_error(model: str, onnx: Path, log: Log) -> TritonrepoError:
    """The error for a build that gave no plan."""
    said = log.errors()
    text = " ".join(said)
    hint = next((mend for pattern, mend in _BUILD if re.search(pattern, text, re.IGNORECASE)), None)
    shown = "; ".join(dict.fromkeys(_one_line(text) for text in said[:_SHOWN])) or log.last()
    return EngineError(
        f"model {model}: TensorRT built no plan: {shown or 'it does not say why'}",
        where=onnx,
        hint=hint or "Another builder_optimization_level, or `engine: onnxruntime`, may get by.",
    )


class Log:
    """What TensorRT logged, the last of it; TensorRT calls it from several threads."""

    def __init__(self) -> None:
        self._lines: deque[tuple[str, str]] = deque(maxlen=500)

    def add(self, severity: str, text: str) -> None:
        """A message; severity by TensorRT's name (ERROR, WARNING, ...)."""
        self._lines.append((severity, text))

    def errors(self) -> list[str]:
        """Messages that are errors."""
        return [text for severity, text in self._lines if "ERROR" in severity]

    def warnings(self) -> list[str]:
        """Distinct warnings, in order."""
        return list(dict.fromkeys(_one_line(text) for severity, text in self._lines if severity == "WARNING"))

    def clear(self) -> None:
        """Forget what was said: it was about something that is dealt with."""
        self._lines.clear()

    def last(self) -> str:
        """The last error, or else the last line; on one line."""
        lines = self.errors() or [text for _, text in self._lines]
        return _one_line(lines[-1]) if lines else ""


def _one_line(text: str, longest: int = 400) -> str:
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[:longest]}..."
