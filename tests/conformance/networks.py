"""Serve real networks, and hold the answers against ONNX Runtime.

    python -m tests.conformance.networks [--models FOLDER] [NAME ...]

The networks come from examples/fetch.py (PP-OCRv6, Magika), from the onnx package (light_*), and from
examples/export_networks.py (ResNet, MiniLM, ViT, a detector, an LSTM). What is not there is named and left out. Each is
built with the python engine, published, loaded into the real Triton and asked over gRPC: single rows, and where it
batches, whole batches and rows at the same time. ONNX Runtime answers each row alone, from the original file. Exit code
0: all that were there are equal; 1: some are not; 2: none was there, or a name is unknown.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from tritonrepo.build import BuildOptions, ModelResult, build
from tritonrepo.spec import ModelSpec, Spec, load_spec

from .collect import stored_cases
from .corpus import RELEASE
from .serving import Serving

_ROOT = Path(__file__).parents[2]
_FETCH = "make models"
_EXPORT = "python examples/export_networks.py"
_ROWS = 4

Arrays = Mapping[str, Any]


@dataclass(frozen=True)
class Network:
    """A network, and what to send it.

    Attributes:
        name: the model's name, and the file's without its ending.
        inputs: by name the shape of one row (batch axis left out) and, for integers, the end of the range.
        source: what brings the file.
        settings: what models.yaml would say of it; None: what the project's own models.yaml says.
        rows: how many rows make up the largest request.
        low, high: range of floats.
        batches: whether it must be served with batching; None: as the build finds.
    """

    name: str
    inputs: Mapping[str, tuple[tuple[int, ...], int]]
    source: str = _EXPORT
    settings: Mapping[str, Any] | None = field(default_factory=dict)
    rows: int = _ROWS
    low: float = 0.0
    high: float = 1.0
    batches: bool | None = True


_IMAGE = {"image": ((3, 224, 224), 0)}
_TEXT = {"input_ids": ((16,), 30522), "attention_mask": ((16,), 2)}
_TOKENS = {"tokens": {"min": 4, "opt": 16, "max": 64}}
_SMALL = {"batching": {"max_batch_size": 4}}  # enough to show it, and a proof that does not take minutes

NETWORKS = (
    Network("ocr_det", {"x": ((3, 96, 160), 0)}, _FETCH, None, 2, -2.2, 2.7),
    Network("ocr_rec", {"x": ((3, 48, 160), 0)}, _FETCH, None, 3, -1, 1),
    Network("ocr_cls", {"x": ((3, 48, 192), 0)}, _FETCH, None, 4, -1, 1),
    Network("magika", {"bytes": ((2048,), 257)}, _FETCH, None),
    Network("resnet18", _IMAGE, settings=_SMALL),
    Network("resnet50", _IMAGE, settings=_SMALL),
    Network("minilm", _TEXT, settings={**_SMALL, "shapes": _TOKENS}),
    Network("vit", _IMAGE, settings=_SMALL),
    Network("detector", {"image": ((3, 320, 320), 0)}, rows=1, batches=False),
    Network("lstm", {"series": ((20, 16), 0)}, low=-1),
)


@dataclass(frozen=True)
class Result:
    """What became of a network; ``said`` is empty where all answers were equal."""

    name: str
    said: str
    batch: int = 0
    error: float = 0.0
    """Largest difference from ONNX Runtime, relative to the largest value of the output."""
    seconds: float = 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.networks", description="Serve real networks.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which (default: all)")
    parser.add_argument("--models", type=Path, default=_ROOT / "examples" / "models", help="where their files are")
    options = parser.parse_args(arguments)
    networks = [*NETWORKS, *_light()]
    chosen = [network for network in networks if not options.names or network.name in options.names]
    unknown = set(options.names) - {network.name for network in networks}
    if unknown:
        parser.error(f"there is no network {sorted(unknown)[0]!r}; there are {', '.join(n.name for n in networks)}")
    with tempfile.TemporaryDirectory(prefix="tritonrepo-networks-") as work:
        files = {network.name: _file(network, options.models, Path(work)) for network in chosen}
        for network in chosen:
            if not files[network.name].is_file():
                sys.stderr.write(f"{network.name} is left out: no {files[network.name]} ({network.source})\n")
        there = [network for network in chosen if files[network.name].is_file()]
        results = serve(there, files, Path(work)) if there else []
    for result in results:
        words = result.said or f"equal, within {result.error:.1e} of the largest value"
        sys.stdout.write(f"{result.name:<22} max_batch_size {result.batch:>2}  {result.seconds:5.1f} s  {words}\n")
    wrong = sum(bool(result.said) for result in results)
    sys.stdout.write(f"{len(results) - wrong} served and equal, {wrong} not, {len(chosen) - len(there)} left out\n")
    return 2 if not there else int(bool(wrong))


def serve(networks: Sequence[Network], files: Mapping[str, Path], work: Path) -> list[Result]:
    """Build all, then load and ask one after the other."""
    models = tuple(_spec(network, files[network.name]) for network in networks)
    spec = Spec(repository=work / "repository", cache=work / "cache", triton=RELEASE, models=models)
    built = build(spec, BuildOptions(keep_going=True), _told)
    done = {model.name: model for model in built.models}
    results = {name: Result(name, f"not built: {error.message}") for name, error in built.failures.items()}
    with Serving(spec.repository, 1, Event()) as serving:
        for network in networks:
            if network.name in done:
                results[network.name] = _ask(network, files[network.name], done[network.name], serving)
    return [results[network.name] for network in networks]


def _told(name: str, step: str, status: str, seconds: float) -> None:
    if step == "publish" and status == "done":
        sys.stderr.write(f"{name}: built\n")


def _ask(network: Network, file: Path, built: ModelResult, serving: Serving) -> Result:
    begun = time.perf_counter()
    worst = 0.0

    def work(name: str) -> str:
        nonlocal worst
        rows = _rows(network, file)
        want = [_alone(file, row) for row in rows]
        model = serving.client.model(name)
        if network.batches not in (None, bool(built.max_batch_size)):
            return f"max_batch_size is {built.max_batch_size}: {built.batch_reason}"
        with ThreadPoolExecutor(len(rows)) as pool:
            got = list(pool.map(model, rows))
        if built.max_batch_size:
            together = model(_stacked(rows))
            got += [{name: array[row : row + 1] for name, array in together.items()} for row in range(len(rows))]
        for answer, expected in zip(got, want * 2, strict=False):
            worst = max(worst, *(_difference(answer[name], array) for name, array in expected.items()))
        return "" if worst < 1e-3 else f"differs by {worst:.2e} of the largest value"

    said = serving.each([network.name], work)[network.name]
    return Result(network.name, said, built.max_batch_size, worst, built.seconds + time.perf_counter() - begun)


def _rows(network: Network, file: Path) -> list[dict[str, Any]]:
    """Distinct rows, the same in every run."""
    import numpy as np

    types = {value.name: value.type for value in _session(file).get_inputs()}
    random = np.random.default_rng(list(network.name.encode()))
    rows = []
    for _ in range(network.rows):
        row = {}
        for name, (shape, end) in network.inputs.items():
            kind = {"tensor(float)": np.float32, "tensor(int32)": np.int32, "tensor(int64)": np.int64}[types[name]]
            floats = network.low + (network.high - network.low) * random.random((1, *shape))
            row[name] = (random.integers(0, end, (1, *shape)) if end else floats).astype(kind)
        rows.append(row)
    return rows


def _session(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _alone(file: Path, row: Arrays) -> dict[str, Any]:
    session = _session(file)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(row)), strict=True))


def _stacked(rows: Sequence[Arrays]) -> dict[str, Any]:
    import numpy as np

    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def _difference(got: Any, want: Any) -> float:
    """The largest, relative to the largest value; infinite where shapes or integers differ."""
    import numpy as np

    if got.shape != want.shape or got.dtype != want.dtype:
        return float("inf")
    if not want.size:
        return 0.0
    if want.dtype.kind in "iub":
        return 0.0 if (got == want).all() else float("inf")
    size = float(np.abs(want).max()) or 1.0
    return float(np.abs(got.astype(np.float64) - want).max()) / size


def _spec(network: Network, file: Path) -> ModelSpec:
    common = {"name": network.name, "onnx": file, "engine": "python"}
    if network.settings is not None:
        return ModelSpec.model_validate({**network.settings, **common})
    (known,) = [model for model in load_spec(_ROOT / "models.yaml").models if model.name == network.name]
    return known.model_copy(update={**common, "labels": {}})


def _light() -> list[Network]:
    """The networks in the onnx package. Their weights are constants, so most give the same answer for any image: that
    rows do not mix cannot be shown then, and they are served without batching.
    """
    networks = []
    for case in stored_cases("light"):
        ((name, value),) = case.sets[0][0].items()
        shape = tuple(value.shape[1:])
        networks.append(Network(case.id.partition("/")[2], {name: (shape, 0)}, "onnx", rows=2, batches=None))
    return networks


def _file(network: Network, models: Path, work: Path) -> Path:
    """Where the network's file is; those of the onnx package are written into ``work``."""
    if network.source != "onnx":
        return models / f"{network.name}.onnx"
    (case,) = [case for case in stored_cases("light") if case.id == f"light/{network.name}"]
    path = work / f"{network.name}.onnx"
    path.write_bytes(case.model)
    return path


if __name__ == "__main__":
    sys.exit(main())
