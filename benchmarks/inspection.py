"""What looking at a model costs: time and memory of `tritonrepo inspect` against reading the graph alone.

    python benchmarks/inspection.py [--rounds N] [NAME ...]

The compared commands run in turn. Besides the time that passes, that of the processors is shown, which a busy machine
disturbs less. Memory is that of the largest process that took part.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

WRITE = "import sys, graphs, pathlib; getattr(graphs, sys.argv[1])(pathlib.Path(sys.argv[2]))"
ONNX = "import sys, onnx; onnx.load(sys.argv[1], load_external_data=False)"
OURS = """
import sys
from pathlib import Path
from tritonrepo._graph import read_model
from tritonrepo._skeleton import read_skeleton
read_model(read_skeleton(Path(sys.argv[1])))
"""
INSPECT = [sys.executable, "-m", "tritonrepo", "inspect"]


def main() -> None:
    parser = argparse.ArgumentParser(description="what looking at a model costs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "names", nargs="*", default=["mlp", "five_gib", "large_inline", "many_nodes"], help="of tests/graphs.py"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = [ROOT / "examples" / "models" / "ocr_det.onnx"]
        for name in arguments.names:
            # In a process of their own: what the parent of a process has had counts as that process's memory.
            subprocess.run([sys.executable, "-c", WRITE, name, folder], cwd=ROOT / "tests", check=True)
            models.append(Path(folder) / f"{name}.onnx")
        for path in models:
            measure(path, arguments.rounds)


def measure(path: Path, rounds: int) -> None:
    """Print a line for each command."""
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "onnx.load": [sys.executable, "-c", ONNX, str(path)],
        "reading alone": [sys.executable, "-c", OURS, str(path)],
        "inspect --no-prepare": [*INSPECT, "--no-prepare", str(path)],
        "inspect": [*INSPECT, str(path)],
    }
    found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            found[name].append(run(command))
    for name, runs in found.items():
        passed, worked, memory = (statistics.median(values) for values in zip(*runs, strict=True))
        print(f"inspect: {path.name}: {name}: {passed:.2f} s, processors {worked:.2f} s, {memory / 1024:.0f} MiB")


def run(command: list[str]) -> tuple[float, float, int]:
    """Seconds that passed, seconds of the processors, KiB of the largest process."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    passed = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return passed, usage.ru_utime + usage.ru_stime, usage.ru_maxrss


if __name__ == "__main__":
    main()
