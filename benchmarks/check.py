"""What checking costs: models a second, start-up, growth, and all that against starting the server.

    python benchmarks/check.py [speed] [startup] [growth] [server]

A generated repository holds what repositories do: 40% ONNX Runtime, 30% Python, 20% TensorRT, 10% ensembles, each
config of about 60 lines, nothing wrong in them. Rates are by the time of the processor, which other programs disturb
less; only ratios and growth compare between machines. `profile` shows where the time goes.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import os
import pstats
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from builds import TRITONREPO, alternate, run
from onnx import TensorProto, helper

from tritonrepo.check import BLOCKING, RULES, Target, check
from tritonrepo.check._schema import schema
from tritonrepo.check.model import Repository
from tritonrepo.check.rules import load_rules
from tritonrepo.serve import EmbeddedServer

MODELS = 1000
SERVED = 100
SIZES = (250, 500, 1000, 2000)
# Requests that the benchmark's models would answer with nothing; no one sends any.
MODEL_PY = """class TritonPythonModel:
    def initialize(self, args):
        self.model = args["model_name"]

    def execute(self, requests):
        return [None for _ in requests]
"""
# What a server has to be told so that none of the generated models is refused for lack of it.
TARGET = Target(gpus=("9.0",))


def main() -> None:
    parser = argparse.ArgumentParser(description="what checking costs")
    parser.add_argument("what", nargs="*", choices=["speed", "startup", "growth", "server", "profile", []], default=[])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    # As the command does.
    gc.disable()
    measures: dict[str, Callable[[int], None]] = {
        "speed": speed, "startup": startup, "growth": growth, "server": server, "profile": profile,
    }  # fmt: skip
    for name in arguments.what or ("speed", "startup", "growth", "server"):
        measures[name](arguments.rounds)


def speed(rounds: int) -> None:
    """Models a second and core once started, and what of it is reading and parsing."""
    with tempfile.TemporaryDirectory() as folder:
        repository = write_repository(Path(folder), MODELS)
        whole, parsed = (
            statistics.median(seconds(action, repository) for _ in range(rounds)) for action in (checked, only_parsed)
        )
        lines = [(model / "config.pbtxt").read_text().count("\n") for model in repository.iterdir()]
    print(f"check: {len(RULES)} rules, {MODELS} models, {statistics.mean(lines):.0f} lines in a config")
    print(f"check: {MODELS / whole:.0f} models/s and core; {whole / MODELS * 1e6:.0f} us for one")
    print(f"check: of these {parsed / MODELS * 1e6:.0f} us to find, read and parse the config")


def startup(rounds: int) -> None:
    """The command on one model against an empty Python program."""
    with tempfile.TemporaryDirectory() as folder:
        repository = write_repository(Path(folder), 1)
        # Compiled once, as an installed package is.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = f"{folder}/compiled"
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "tritonrepo check (1 model)": [*TRITONREPO, "check", str(repository)],
            "tritonrepo rule TR002": [*TRITONREPO, "rule", "TR002"],
        }
        medians = alternate({name: lambda it=it: run(it) for name, it in commands.items()}, 3 * rounds)  # type: ignore[misc]
    for name, each in medians.items():
        print(f"check: start-up: {name}: {each * 1000:.0f} ms")


def growth(rounds: int) -> None:
    """Time for one model by the number of models."""
    cost = {}
    with tempfile.TemporaryDirectory() as folder:
        repositories = {size: write_repository(Path(folder) / str(size), size) for size in SIZES}
        for size, repository in repositories.items():
            cost[size] = statistics.median(seconds(checked, repository) for _ in range(rounds)) / size
    for size, each in cost.items():
        print(f"check: growth: {size} models: {each * 1e6:.0f} us for one")
    print(f"check: growth: one of {SIZES[-1]} / one of {SIZES[0]}: {cost[SIZES[-1]] / cost[SIZES[0]]:.2f}")


def server(rounds: int) -> None:
    """The whole command against a server's start, on models that the embedded server can load: Python and ensembles."""
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "repository"
        for number in range(SERVED):
            write_model(repository, number, "ensemble" if number % 10 == 9 else "python")
        command = [*TRITONREPO, "check", str(repository)]
        ours = alternate({"check": lambda: run(command)}, rounds)["check"]
        begun = time.perf_counter()
        with EmbeddedServer(repository, grace=0.1) as triton:
            triton.wait_ready(1800, probe=False)
            theirs = time.perf_counter() - begun
    print(f"check: {SERVED} models: command {ours:.3f} s, server ready after {theirs:.1f} s: {theirs / ours:.0f} times")


def profile(rounds: int) -> None:
    """Where the time goes: not part of the figures."""
    with tempfile.TemporaryDirectory() as folder:
        repository = write_repository(Path(folder), MODELS)
        checked(repository)
        profiler = cProfile.Profile()
        profiler.runcall(checked, repository)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(45)


def seconds(action: Callable[[Path], object], repository: Path) -> float:
    """Processor time of an action."""
    begun = time.process_time()
    action(repository)
    spent = time.process_time() - begun
    gc.collect()
    return spent


def checked(repository: Path) -> None:
    load_rules()
    findings = check(repository, TARGET)
    assert not [each for each in findings if each.severity in BLOCKING], findings[0]


def only_parsed(repository: Path) -> None:
    for model in Repository(repository, schema("26.09")).models.values():
        assert model.document is not None
        assert model.document.error is None


def write_repository(folder: Path, count: int) -> Path:
    """A repository of so many models, in the usual mix."""
    repository = folder / "repository"
    for number in range(count):
        write_model(repository, number, KINDS[number % 10])
    return repository


KINDS = [*["python", "onnxruntime", "tensorrt", "onnxruntime"] * 2, "python", "ensemble"]


def write_model(repository: Path, number: int, kind: str) -> None:
    folder = repository / f"model_{number:04}"
    (folder / "1").mkdir(parents=True)
    if kind == "ensemble":
        text = ENSEMBLE.format(name=folder.name, first=f"model_{number - 1:04}", second=f"model_{number - 5:04}")
    else:
        gpu = "gpus: [ 0 ]" if kind == "tensorrt" else ""
        text = CONFIG.format(
            name=folder.name, kind=kind, on="KIND_GPU" if gpu else "KIND_CPU", gpu=gpu, extra=EXTRA[kind]
        )
        (folder / "labels.txt").write_text("cat\ndog\n" * 50)
    (folder / "config.pbtxt").write_text(text)
    if kind == "python":
        (folder / "1" / "model.py").write_text(MODEL_PY)
    elif kind == "onnxruntime":
        (folder / "1" / "model.onnx").write_bytes(graph())
    elif kind == "tensorrt":
        (folder / "1" / "model.plan").write_bytes(bytes(1 << 12))


def graph() -> bytes:
    """A small graph with the inputs and outputs of `CONFIG`."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, "height", "width"])
    threshold = helper.make_tensor_value_info("threshold", TensorProto.FLOAT, ["batch", 1])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 100])
    size = helper.make_tensor_value_info("size", TensorProto.FLOAT, ["batch", 1])
    weights = helper.make_tensor("w", TensorProto.FLOAT, [1, 100], bytes(400), raw=True)
    nodes = [
        helper.make_node("ReduceMax", ["image"], ["most"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["most", "one"], ["column"]),
        helper.make_node("MatMul", ["column", "w"], ["scores"]),
        helper.make_node("Mul", ["column", "threshold"], ["size"]),
    ]
    one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
    made = helper.make_graph(nodes, "g", [image, threshold], [scores, size], [weights, one])
    model = helper.make_model(made, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    return bytes(model.SerializeToString())


CONFIG = """\
# Finds cats and dogs.
name: "{name}"
backend: "{kind}"
max_batch_size: 16

input [
  {{
    name: "image"
    data_type: TYPE_FP32
    dims: [ 3, -1, -1 ]
  }},
  {{
    name: "threshold"
    data_type: TYPE_FP32
    dims: [ 1 ]
  }}
]
output [
  {{
    name: "scores"
    data_type: TYPE_FP32
    dims: [ 100 ]
    label_filename: "labels.txt"
  }},
  {{
    name: "size"
    data_type: TYPE_FP32
    dims: [ 1 ]
  }}
]

instance_group [
  {{
    count: 1
    kind: {on}
    {gpu}
  }}
]
version_policy: {{ latest: {{ num_versions: 2 }} }}

dynamic_batching {{
  preferred_batch_size: [ 4, 8, 16 ]
  max_queue_delay_microseconds: 500
  default_queue_policy {{
    timeout_action: REJECT
    default_timeout_microseconds: 2000000
    allow_timeout_override: true
    max_queue_size: 256
  }}
}}
{extra}
metric_tags {{ key: "team" value: "vision" }}
"""
EXTRA = {
    "python": """\
parameters {
  key: "FORCE_CPU_ONLY_INPUT_TENSORS"
  value: { string_value: "no" }
}""",
    "onnxruntime": """\
optimization {
  graph { level: 1 }
  input_pinned_memory { enable: true }
}
parameters {
  key: "intra_op_thread_count"
  value: { string_value: "2" }
}""",
    "tensorrt": """\
optimization {
  cuda { graphs: true }
  output_pinned_memory { enable: true }
}""",
}

ENSEMBLE = """\
# What {first} says of an image, and what {second} makes of it.
name: "{name}"
platform: "ensemble"
max_batch_size: 16

input [
  {{
    name: "image"
    data_type: TYPE_FP32
    dims: [ 3, -1, -1 ]
  }},
  {{
    name: "threshold"
    data_type: TYPE_FP32
    dims: [ 1 ]
  }}
]
output [
  {{
    name: "scores"
    data_type: TYPE_FP32
    dims: [ 100 ]
  }}
]

ensemble_scheduling {{
  step [
    {{
      model_name: "{first}"
      model_version: -1
      input_map {{
        key: "image"
        value: "image"
      }}
      input_map {{
        key: "threshold"
        value: "threshold"
      }}
      output_map {{
        key: "size"
        value: "first_size"
      }}
    }},
    {{
      model_name: "{second}"
      model_version: -1
      input_map {{
        key: "image"
        value: "image"
      }}
      input_map {{
        key: "threshold"
        value: "first_size"
      }}
      output_map {{
        key: "scores"
        value: "scores"
      }}
    }}
  ]
}}
"""


if __name__ == "__main__":
    main()
