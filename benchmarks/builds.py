"""What building costs: start-up, a build with nothing to do, and a build from nothing against the work it must do.

    python benchmarks/builds.py [startup] [noop] [cost]

Times are of whole processes. Only ratios and growth mean something: the compared commands run in turn.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[1]
TRITONREPO = [sys.executable, "-m", "tritonrepo"]


def main() -> None:
    parser = argparse.ArgumentParser(description="what building costs")
    parser.add_argument("what", nargs="*", choices=["startup", "noop", "cost", []], default=[])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    measures: dict[str, Callable[[int], None]] = {"startup": startup, "noop": noop, "cost": cost}
    for name in arguments.what or measures:
        measures[name](arguments.rounds)


def startup(rounds: int) -> None:
    """The command's start against an empty Python program's."""
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "repository"
        (repository / "m" / "1").mkdir(parents=True)
        (repository / "m" / "config.pbtxt").write_text('name: "m" backend: "python"')
        (repository / "m" / "1" / "model.py").write_text("class TritonPythonModel:\n    def execute(self, r): ...\n")
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "tritonrepo --help": [*TRITONREPO, "--help"],
            "tritonrepo check (1 model)": [*TRITONREPO, "check", str(repository)],
        }
        medians = alternate({name: partial(run, command) for name, command in commands.items()}, rounds)
    for name, seconds in medians.items():
        print(f"startup: {name}: {seconds:.3f} s")


def noop(rounds: int) -> None:
    """A build with nothing to do, by number of models and by their size."""
    with tempfile.TemporaryDirectory() as folder:
        cases = {
            f"{count} models of {size >> 10} KiB": spec_of(Path(folder) / f"{count}-{size}", count, size)
            for count, size in ((50, 1 << 10), (100, 1 << 10), (200, 1 << 10), (200, 1 << 20))
        }
        for spec in cases.values():
            run([*TRITONREPO, "build", str(spec)])
        commands = {name: [*TRITONREPO, "build", str(spec)] for name, spec in cases.items()}
        medians = alternate({name: partial(run, command) for name, command in commands.items()}, rounds)
    for name, seconds in medians.items():
        print(f"no-op build: {name}: {seconds:.3f} s")
    small, large = (medians[f"200 models of {size} KiB"] for size in (1, 1024))
    print(f"no-op build: 1 MiB models / 1 KiB models: {large / small:.2f}")


def cost(rounds: int) -> None:
    """Building the example models from nothing, against reading, verifying and writing them."""
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        spec = Path(folder) / "models.yaml"
        spec.write_text((ROOT / "models.yaml").read_text().replace("examples/", f"{ROOT}/examples/"))

        def build() -> None:
            for leftover in ("model_repository", ".model_repository.tritonrepo", ".tritonrepo"):
                shutil.rmtree(Path(folder) / leftover, ignore_errors=True)
            run([*TRITONREPO, "build", str(spec)])

        def floor() -> None:
            shutil.rmtree(Path(folder) / "floor", ignore_errors=True)
            run([sys.executable, str(Path(__file__).with_name("floor.py")), str(spec), str(Path(folder) / "floor")])

        medians = alternate({"tritonrepo build": build, "floor": floor}, rounds)
    for name, seconds in medians.items():
        print(f"cost: {name}: {seconds:.2f} s")
    print(f"cost: build / floor: {medians['tritonrepo build'] / medians['floor']:.2f}")


def alternate(actions: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of each action; they run in turn, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for round_ in range(rounds + 1):
        for name, action in actions.items():
            begun = time.perf_counter()
            action()
            if round_:
                times[name].append(time.perf_counter() - begun)
    return {name: statistics.median(values) for name, values in times.items()}


def run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)


def spec_of(folder: Path, count: int, size: int) -> Path:
    """A spec of ``count`` models, each with about ``size`` bytes of weights."""
    folder.mkdir(parents=True)
    columns = max(1, size // 16)
    # Rows must have different answers, or no batch of them proves anything.
    weights = numpy_helper.from_array(np.random.default_rng(0).random((4, columns), np.float32), "w")
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])
        for name, width in (("x", 4), ("y", columns))
    ]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", values[:1], values[1:], [weights])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    lines = ["models:"]
    for number in range(count):
        onnx.save(model, folder / f"m{number}.onnx")
        lines.append(f"  - {{onnx: m{number}.onnx, batching: {{max_batch_size: 4}}}}")
    (folder / "models.yaml").write_text("\n".join(lines) + "\n")
    return folder / "models.yaml"


if __name__ == "__main__":
    main()
