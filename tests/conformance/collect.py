"""The cases of the onnx package."""

from __future__ import annotations

import json
import os
import pickle
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .case import Case, Value

if TYPE_CHECKING:
    import onnx

#: Folders of stored cases in the onnx package. ``light``: whole networks whose weights are constants.
STORED = ("simple", "pytorch-converted", "pytorch-operator", "light")
KINDS = ("node", *STORED)

#: rtol and atol of the onnx package's own runner.
_TOLERANCE = (1e-3, 1e-7)
_FORMAT = 1  # of the kept collection


def folder() -> Path:
    """Where cases and results are kept: TRITONREPO_CONFORMANCE_CACHE, or a folder in the user's cache."""
    named = os.environ.get("TRITONREPO_CONFORMANCE_CACHE")
    if named:
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "tritonrepo" / "conformance"


def cases(kinds: Sequence[str] = KINDS) -> list[Case]:
    """All cases of these kinds, in a fixed order.

    The node cases are computed, which takes 10 s; they are kept for the next run.
    """
    found: list[Case] = []
    for kind in kinds:
        if kind == "node":
            found += _kept("node", node_cases)
        elif kind in STORED:
            found += stored_cases(kind)
        else:
            raise SystemExit(f"no such cases: {kind!r}; there are {', '.join(KINDS)}")
    return found


def node_cases() -> list[Case]:
    """The cases of onnx.backend.test.case.node: an operator each, or (``_expanded``) the function that defines it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, about the NaN and Inf that some cases are about
        from onnx.backend.test.case.node import collect_testcases

        found = collect_testcases(None)
    made = [
        _case(f"node/{case.name}", case.model, case.data_sets, (case.rtol, case.atol))
        for case in found
        if case.model is not None and case.data_sets is not None
    ]
    return sorted(made, key=lambda case: case.id)


def stored_cases(kind: str) -> list[Case]:
    """The cases that the onnx package holds as files."""
    import onnx.backend.test

    data = Path(str(onnx.backend.test.__file__)).parent / "data"
    found = _light_cases(data) if kind == "light" else _folders(data / kind)
    return sorted(found, key=lambda case: case.id)


def _folders(root: Path) -> Iterator[Case]:
    import onnx

    for entry in root.iterdir():
        if not (entry / "model.onnx").is_file():
            continue
        model = onnx.load_model(entry / "model.onnx")
        about = json.loads((entry / "data.json").read_text()) if (entry / "data.json").is_file() else {}
        sets = [
            tuple(
                [_read(data / f"{side}_{number}.pb", value) for number, value in enumerate(values)]
                for side, values in (("input", _inputs(model)), ("output", model.graph.output))
            )
            for data in sorted(entry.glob("test_data_set_*"))
        ]
        yield _case(f"{root.name}/{entry.name}", model, sets, _tolerance(about))


def _light_cases(data: Path) -> Iterator[Case]:
    """What they expect is stored; what to send is a ramp from 0 to 1, as in onnx.backend.test.runner."""
    import numpy as np
    import onnx

    for entry in (data / "real").iterdir():
        if not (entry / "data.json").is_file():
            continue
        about = json.loads((entry / "data.json").read_text())
        name = Path(about["url"]).stem
        model = onnx.load_model(data / "light" / f"{name}.onnx")
        (value,) = _inputs(model)
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        size = int(np.prod(shape))
        ramp = (np.arange(size).reshape(shape) / size).astype(np.float32)
        want = onnx.numpy_helper.to_array(onnx.load_tensor(str(data / "light" / f"{name}_output_0.pb")))
        yield _case(f"light/{name}", model, [([ramp], [want])], _tolerance(about))


def _tolerance(about: Mapping[str, Any]) -> tuple[float, float]:
    return about.get("rtol", _TOLERANCE[0]), about.get("atol", _TOLERANCE[1])


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that a caller gives: old models list their weights as well."""
    weights = {init.name for init in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _read(file: Path, value: onnx.ValueInfoProto) -> Value:
    import onnx
    from onnx import numpy_helper

    kind = value.type.WhichOneof("value")
    content = file.read_bytes()
    if kind == "sequence_type":
        return numpy_helper.to_list(onnx.SequenceProto.FromString(content))
    if kind == "optional_type":
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(content))
    return numpy_helper.to_array(onnx.TensorProto.FromString(content))


def _case(
    name: str, model: onnx.ModelProto, sets: Sequence[Sequence[Sequence[Value]]], tolerance: tuple[float, float]
) -> Case:
    inputs, outputs = ([value.name for value in values] for values in (_inputs(model), model.graph.output))
    made = tuple(
        (dict(zip(inputs, map(_value, given), strict=False)), dict(zip(outputs, map(_value, want), strict=False)))
        for given, want in sets
    )
    return Case(name, model.SerializeToString(deterministic=True), made, *tolerance)


def _value(item: Any) -> Value:
    """What the collection holds, as arrays: it has tensors as messages, numpy scalars and lists too."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    if isinstance(item, onnx.TensorProto):
        return numpy_helper.to_array(item)
    if isinstance(item, list | tuple):
        return [_value(each) for each in item]
    return None if item is None else np.asarray(item)


def _kept(name: str, compute: Callable[[], list[Case]]) -> list[Case]:
    import numpy as np
    import onnx

    path = folder() / f"{name}-onnx-{onnx.__version__}-numpy-{np.__version__}-{_FORMAT}.pickle"
    if path.is_file():
        kept = pickle.loads(path.read_bytes())  # noqa: S301 - we wrote it, into the user's own cache
        return [Case(*values) for values in kept]
    found = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    with os.fdopen(handle, "wb") as file:
        # As plain values: this package is imported by two names, and a class would be kept under one of them.
        pickle.dump([(c.id, c.model, c.sets, c.rtol, c.atol) for c in found], file)
    Path(part).replace(path)
    return found
