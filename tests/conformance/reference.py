"""What ONNX Runtime itself makes of a case: asked directly, apart from everything that tritonrepo does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from .case import Case, Value, difference

#: It passes the case; gives something else; cannot run it; cannot load it; takes no such values from Python.
Verdict = Literal["passes", "differs", "fails", "refuses", "no values"]


@dataclass(frozen=True)
class Reference:
    """ONNX Runtime's outcome. ``words`` are its own, or what differs; empty where it passes."""

    verdict: Verdict
    words: str = ""
    random: bool = False
    """Whether a second run on the same inputs gave other outputs."""
    answers: tuple[dict[str, Value], ...] = ()
    """Its outputs for each data set, where it differs."""


def judge(case: Case, _: Callable[[object], None] = lambda __: None) -> Reference:
    """Run a case in ONNX Runtime, on the CPU."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(case.model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # a dozen classes without a common base
        return Reference("refuses", _words(error))
    answers = []
    differs, random = "", False
    for given, want in case.sets:
        try:
            feeds = _feeds(session, given)
        except Exception as error:
            return Reference("no values", _words(error))
        try:
            got, again = (_run(session, list(want), feeds) for _ in range(2))
        except Exception as error:
            return Reference("fails", _words(error))
        answers.append(got)
        differs = differs or _first_difference(got, want, case)
        random = random or bool(_first_difference(again, got, case))
    return Reference("differs", differs, random, tuple(answers)) if differs else Reference("passes")


def _first_difference(got: dict[str, Value], want: dict[str, Value], case: Case) -> str:
    for name, expected in want.items():
        found = difference(got[name], expected, case.rtol, case.atol)
        if found:
            return f"{name}: {found}"
    return ""


def _feeds(session: Any, given: dict[str, Value]) -> dict[str, Any]:
    return {value.name: _feed(value.type, given[value.name]) for value in session.get_inputs() if value.name in given}


def _feed(kind: str, value: Value) -> Any:
    """The value as ONNX Runtime's Python interface takes it: types that numpy lacks go in as raw bits."""
    import numpy as np
    import onnx
    import onnxruntime as ort

    bits = {"bfloat16": np.uint16, "float8e4m3fn": np.uint8, "float8e4m3fnuz": np.uint8, "float8e5m2": np.uint8}
    bits["float8e5m2fnuz"] = np.uint8
    element = kind.removeprefix("tensor(").removesuffix(")")
    if not kind.startswith("tensor(") or element not in bits:
        return value
    number = onnx.TensorProto.DataType.Value(element.upper())
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(value.view(bits[element]), number)


def _run(session: Any, names: list[str], feeds: dict[str, Any]) -> dict[str, Value]:
    import onnxruntime as ort

    if not any(isinstance(value, ort.OrtValue) for value in feeds.values()):
        return dict(zip(names, session.run(names, feeds), strict=True))
    values = {name: v if isinstance(v, ort.OrtValue) else _ort_value(v) for name, v in feeds.items()}
    got = session.run_with_ort_values(names, values)
    return {name: _array(value) for name, value in zip(names, got, strict=True)}


def _ort_value(value: Any) -> Any:
    import onnxruntime as ort

    return ort.OrtValue.ortvalue_from_numpy(value)


def _array(value: Any) -> Any:
    return value.numpy()


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:2000]
