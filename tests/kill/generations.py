"""Models whose every file says which generation it is of, so that any mix of old and new shows.

Generation g has version files of content g // 2 and a config that says g: every second generation is a new version, the
others change the config alone. The model answers what its config, its code, its manifest and its weights say.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from tritonrepo.publish import Staged

WEIGHTS = 4

CONFIG = """name: "{name}"
backend: "python"
max_batch_size: 0
input [{{ name: "x" data_type: TYPE_INT64 dims: [1] }}]
output [{{ name: "y" data_type: TYPE_INT64 dims: [4] }}]
parameters [{{ key: "generation" value: {{ string_value: "{generation}" }} }}]
"""

CODE = """import hashlib
import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        folder = Path(__file__).parent
        manifest = json.loads((folder / "manifest.json").read_text())
        whole = all(
            hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
            for name, digest in manifest["weights"].items()
        )
        generation = int(parameters["generation"]["string_value"])
        self.says = [generation, {content}, manifest["content"], {content} if whole else -1]

    def execute(self, requests):
        says = np.array(self.says, dtype=np.int64)
        return [pb.InferenceResponse([pb.Tensor.from_dlpack("y", says)]) for _ in requests]
"""


def staged(name: str, generation: int, size: int) -> Staged:
    """The model of a generation; ``size`` is that of its weights in bytes, in all."""
    content = generation // 2
    block = hashlib.sha256(f"{name} {content}".encode()).digest()
    weights = {
        f"weights/{part}.bin": bytes([part]) + block * (size // WEIGHTS // len(block)) for part in range(WEIGHTS)
    }
    digests = {path: hashlib.sha256(data).hexdigest() for path, data in weights.items()}
    return Staged(
        name=name,
        model_files={
            "config.pbtxt": CONFIG.format(name=name, generation=generation).encode(),
            "labels.txt": f"generation {generation}\n".encode(),
        },
        version_files={
            "model.py": CODE.format(content=content).encode(),
            "manifest.json": json.dumps({"content": content, "weights": digests}).encode(),
            **weights,
        },
        verdict={"content": content, "ok": True},
        provenance={"generation": generation},
    )


def generation_of(model: Path) -> int | None:
    """What a published model's config says; None where there is no such model yet."""
    try:
        found = re.search(r'string_value: "(\d+)"', (model / "config.pbtxt").read_text())
    except FileNotFoundError:
        return None
    assert found, f"{model}/config.pbtxt is not whole"
    return int(found[1])


def check_repository(repository: Path, names: tuple[str, ...], most_versions: int) -> None:
    """Assert that each model is absent or complete, every version of it of one content, and that nothing else is there.

    This reads the files themselves; it takes nothing from tritonrepo's own code.
    """
    if not repository.exists():
        return
    assert {entry.name for entry in repository.iterdir()} <= set(names)
    for model in repository.iterdir():
        check_model(model, most_versions)


def check_model(model: Path, most_versions: int) -> None:
    """Assert that a model's folder is of one generation and has nothing missing or left over."""
    generation = generation_of(model)
    assert generation is not None, f"{model} has no config"
    assert (model / "labels.txt").read_text() == f"generation {generation}\n"
    versions = sorted(int(entry.name) for entry in model.iterdir() if entry.is_dir() and entry.name != "__pycache__")
    assert 1 <= len(versions) <= most_versions
    expected = {"config.pbtxt", "labels.txt"}
    for version in versions:
        expected |= {str(version), f"{version}.verdict.json", f"{version}.provenance.json"}
        content = check_version(model, version)
    assert content == generation // 2, f"{model}: config of generation {generation}, files of content {content}"
    assert {entry.name for entry in model.iterdir()} - {"__pycache__"} == expected


def check_version(model: Path, version: int) -> int:
    """Assert that a version is complete; returns its content."""
    folder = model / str(version)
    manifest = json.loads((folder / "manifest.json").read_text())
    content = int(manifest["content"])
    assert (folder / "model.py").read_text() == CODE.format(content=content)
    for path, digest in manifest["weights"].items():
        assert hashlib.sha256((folder / path).read_bytes()).hexdigest() == digest, f"{folder / path} is not whole"
    record = json.loads((model / f"{version}.verdict.json").read_text())
    assert record["content"] == content
    assert record["files"].keys() == {"model.py", "manifest.json", *manifest["weights"]}
    return content
