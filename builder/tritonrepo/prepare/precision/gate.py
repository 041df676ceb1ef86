"""How far a candidate is from the reference, and what FP32 tensors reach."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonrepo.compare import compare, share_of_allowed
from tritonrepo.errors import ModelError
from tritonrepo.introspect import Tensor
from tritonrepo.prepare.precision.calibrate import Observe, with_outputs
from tritonrepo.prepare.precision.emulate import emulate
from tritonrepo.prepare.precision.graph import FLOAT, FLOAT16, Names, element_types
from tritonrepo.prepare.precision.search import Judgement
from tritonrepo.prepare.precision.weights import RANGE
from tritonrepo.spec import Verification

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from tritonrepo.verify import Session

    Arrays = Mapping[str, np.ndarray[Any, Any]]

#: Below it, all of a tensor is subnormal in FP16, and has few digits left.
_NORMAL = 2.0**-14


@dataclass(frozen=True)
class Case:
    """One call and its answer."""

    at: str
    inputs: Arrays
    outputs: Mapping[str, tuple[Tensor, np.ndarray[Any, Any]]]
    """By name: the output as the original declares it, and the reference's value."""


@dataclass(frozen=True)
class Gate:
    """Judges candidates on cases. ONNX Runtime runs them as they are written, with its optimizations off."""

    verification: Verification
    precision: str
    cases: Sequence[Case]
    work: Path

    def low_float(self, model: onnx.ModelProto) -> Judgement:
        """Judge an FP16 or BF16 model, rounded after every operator."""
        return self.exact(emulate(model))

    def exact(self, model: onnx.ModelProto) -> Judgement:
        """Judge a model as ONNX Runtime runs it."""
        session = self._session(model)
        errors, share = [], 0.0
        for case in self.cases:
            got = session.run(_fitting(model, case.inputs))
            for name, (tensor, want) in case.outputs.items():
                tolerance = self.verification.outputs.get(name, self.verification.tolerance)
                errors.append(compare(tensor, case.at, got[name], want, tolerance, self.precision))
                share = max(share, share_of_allowed(tensor, got[name], want, tolerance, self.precision))
        return Judgement(share, tuple(errors))

    def out_of_range(self, model: onnx.ModelProto, nodes: Collection[str], dtype: int) -> dict[str, str]:
        """Nodes that make or read a tensor whose values do not fit the low type -> why.

        Args:
            model: in FP32.
            nodes: names of nodes that may be lowered; others are not looked at.
            dtype: FLOAT16 or BFLOAT16; all that FP32 holds fits the range of BFLOAT16.
        """
        if dtype != FLOAT16:
            return {}
        reached = self._magnitudes(model, nodes)
        largest = RANGE[dtype][0]
        found = {}
        for node in model.graph.node:
            for name in (*node.input, *node.output) if node.name in nodes else ():
                top = reached.get(name)
                if top is None or node.name in found:
                    continue
                if top > largest:
                    found[node.name] = f"range: {name} reaches {top:.3g}, FP16 ends at {largest:.5g}"
                elif 0 < top < _NORMAL:
                    found[node.name] = f"range: {name} is at most {top:.3g}, below FP16's normal numbers"
        return found

    def _magnitudes(self, model: onnx.ModelProto, nodes: Collection[str]) -> dict[str, float]:
        """The largest magnitude of each FP32 tensor that these nodes of the main graph make or read; not of weights."""
        types = element_types(model.graph)
        weights = {tensor.name for tensor in model.graph.initializer}
        chosen = [node for node in model.graph.node if node.name in nodes]
        touched = dict.fromkeys(name for node in chosen for name in (*node.input, *node.output) if name)
        names = [name for name in touched if types.get(name) == FLOAT and name not in weights]
        seen, measuring = _measuring(model, names)
        session = self._session(measuring)
        largest = dict.fromkeys(names, 0.0)
        for case in self.cases:
            try:
                got = session.run(_fitting(model, case.inputs))
            except ModelError:  # a tensor without elements has no largest; then the bisection has to find it
                return {}
            for name in names:
                value = float(got[seen[name]])
                largest[name] = max(largest[name], value) if math.isfinite(value) else float("inf")
        return largest

    def observer(self, model: onnx.ModelProto) -> Observe:
        """Gives values of tensors of the FP32 model."""
        last: list[tuple[tuple[str, ...], Session]] = []

        def observe(names: Sequence[str], inputs: Arrays) -> Arrays:
            if not last or last[0][0] != tuple(names):
                given = {value.name for value in model.graph.input}
                last[:] = [(tuple(names), self._session(with_outputs(model, [n for n in names if n not in given])))]
            got = last[0][1].run(inputs)
            return {name: inputs[name] if name in inputs else got[name] for name in names}

        return observe

    def _session(self, model: onnx.ModelProto) -> Session:
        from tritonrepo.verify import Session

        path = self.work / "candidate.onnx"
        path.write_bytes(model.SerializeToString())
        return Session(path, optimize=False)


def _fitting(model: onnx.ModelProto, inputs: Arrays) -> Arrays:
    """The inputs in the types that the model's inputs have: a case may hold the FP16 values of a converted input."""
    import numpy as np

    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    return {
        name: array.astype(np.float32) if types[name] == FLOAT and array.dtype != np.float32 else array
        for name, array in inputs.items()
    }


def _measuring(model: onnx.ModelProto, names: Iterable[str]) -> tuple[dict[str, str], onnx.ModelProto]:
    """The model with the largest magnitude of each tensor as an output: tensor -> output, and the model."""
    import onnx
    from onnx import helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    taken = Names(result)
    seen = {}
    for name in names:
        size, top = taken.fresh(f"{name}_magnitude"), taken.fresh(f"{name}_largest")
        result.graph.node.append(helper.make_node("Abs", [name], [size]))
        result.graph.node.append(helper.make_node("ReduceMax", [size], [top], keepdims=0))
        result.graph.output.append(helper.make_tensor_value_info(top, FLOAT, ()))
        seen[name] = top
    return seen, result
