"""Every figure of docs/benchmarks.md that does not need a GPU, one after the other: `make bench`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tritonrepo.serve import EmbeddedServer

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    script("builds.py")
    script("python_engine.py")
    script("python_engine.py", str(ROOT / "examples/models/ocr_cls.onnx"), "--shape", "x=3,48,192")
    script("check.py")
    script("precision.py")
    script("precision.py", "--memory", "1024")
    script("client_large.py")
    script("inspection.py")
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "model_repository"
        mlp = str(ROOT / "examples/models/mlp.onnx")
        command = [sys.executable, "-m", "tritonrepo", "build", mlp, "--repository", str(repository)]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)
        with EmbeddedServer(repository) as server:
            server.wait_ready()
            script("client_overhead.py", "--grpc", server.grpc_url, "--http", server.http_url, "--rounds", "60")


def script(name: str, *arguments: str) -> None:
    print(f"\n$ python benchmarks/{name} {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, str(ROOT / "benchmarks" / name), *arguments], check=True)


if __name__ == "__main__":
    main()
