"""What this machine can build and serve, and how to get what is missing. Changes nothing."""

from __future__ import annotations

import contextlib
import ctypes.util
import importlib.metadata
import importlib.util
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tritonrepo import _ports, _stubs
from tritonrepo._tensorrt import availability
from tritonrepo.errors import ServeError
from tritonrepo.releases import RELEASES, obstacles
from tritonrepo.runtime import TRITON_VERSION, Runtime, find_runtime, runtime_folder

Status = Literal["ok", "limited", "missing"]

DEFAULT_PORTS = (8000, 8001, 8002)
_SPACE = 2_000_000_000  # what a few models and the server need, in bytes
_SHARED_MEMORY = (
    64_000_000  # Docker's default for a container; the Python backend takes 1 MB and more for each instance
)
_TENSORRT = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu13-bindings", "tensorrt-cu12-bindings")
_TIMEOUT = 20


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    topic: str
    status: Status
    detail: str
    remedy: str = ""
    """How to get it, where something is missing."""


def examine(
    *, repository: Path = Path("model_repository"), cache: Path = Path(".tritonrepo"), release: str | None = None
) -> tuple[Finding, ...]:
    """Look at this machine.

    Args:
        repository: where models are published; its disk is looked at.
        cache: where build results are kept; likewise.
        release: the Triton release that will serve, for the TensorRT that goes with it.

    Returns:
        One finding for each topic; the last two, ``can build`` and ``can serve``, sum up the others.
    """
    found: dict[str, Finding] = {}
    for finding in (
        _python(),
        _package("onnx"),
        _onnxruntime(),
        _tensorrt(release),
        _tensorrt_library(),
        _gpu(release),
        *_docker(),
        *_embedded(),
        *_default_ports(),
        _disk("disk of the repository", repository),
        _disk("disk of the cache", cache),
        _disk("disk of the embedded server", runtime_folder()),
        _shared_memory(),
    ):
        found[finding.topic] = finding
    return (*found.values(), _can_build(found), _can_serve(found))


def _python() -> Finding:
    version = platform.python_version()
    return Finding("Python", "ok", f"{version} ({sys.executable})")


def _package(name: str) -> Finding:
    version = _version(name)
    if version is None:
        return Finding(name, "missing", "not installed", f"pip install {name}")
    return Finding(name, "ok", version)


def _onnxruntime() -> Finding:
    version = next(filter(None, map(_version, ("onnxruntime", "onnxruntime-gpu"))), None)
    if version is None or importlib.util.find_spec("onnxruntime") is None:
        return Finding("onnxruntime", "missing", "not installed", "pip install onnxruntime")
    try:
        import onnxruntime

        providers = onnxruntime.get_available_providers()
    except (ImportError, OSError) as error:
        return Finding("onnxruntime", "missing", f"{version} cannot be loaded: {error}", "reinstall onnxruntime")
    return Finding("onnxruntime", "ok", f"{version}, providers: {', '.join(providers)}")


def _tensorrt(release: str | None) -> Finding:
    known = RELEASES.get(release or "")
    wanted = f" (release {known.tag} serves {known.tensorrt or f'{known.tensorrt_major}.x'})" if known else ""
    name, version = next(((name, _version(name)) for name in _TENSORRT if _version(name)), ("", None))
    if version is None:
        get = "build inside the container that will serve, or: pip install 'tritonrepo[tensorrt]' on a GPU host"
        return Finding("TensorRT bindings", "missing", f"not installed{wanted}", get)
    wrong = obstacles(release or "", tensorrt=version)
    get = "a plan loads only on the TensorRT that built it: build inside the container that will serve" if wrong else ""
    return Finding("TensorRT bindings", "limited" if wrong else "ok", f"{name} {version}{wanted}", get)


def _tensorrt_library() -> Finding:
    packaged = [
        file.name
        for name in ("tensorrt_libs", "tensorrt_lean_libs")
        for folder in _package_folders(name)
        for file in folder.glob("libnvinfer.so*")
    ]
    library = next(iter(packaged), None) or ctypes.util.find_library("nvinfer")
    if library is None:
        return Finding(
            "TensorRT library",
            "missing",
            "libnvinfer was not found",
            "it comes with the bindings from the vendor's index (pip install tensorrt), and is in the containers",
        )
    return Finding("TensorRT library", "ok", library)


def _package_folders(name: str) -> Iterator[Path]:
    spec = importlib.util.find_spec(name)
    yield from map(Path, (spec.submodule_search_locations if spec else None) or ())


def _gpu(release: str | None) -> Finding:
    ok, said = _run("nvidia-smi", "--query-gpu=name,memory.total,driver_version,compute_cap", "--format=csv,noheader")
    if not ok or not said:
        remedy = "needed for TensorRT and for instances on GPUs only: install NVIDIA's driver"
        return Finding("GPU and driver", "missing", f"nvidia-smi: {said or 'it lists no GPU'}", remedy)
    gpus = said.splitlines()
    detail = f"{len(gpus)}: {'; '.join(gpus)} (name, memory, driver, capability)"
    wrong: dict[str, str] = {}
    for gpu in gpus:
        _, _, driver, capability = ([part.strip() for part in gpu.rsplit(",", 3)] + [""] * 3)[:4]
        wrong |= {each.what: each.hint for each in obstacles(release or "", driver=driver, capability=capability)}
    if wrong:
        return Finding("GPU and driver", "limited", f"{detail}; {'; '.join(wrong)}", "; ".join(wrong.values()))
    return Finding("GPU and driver", "ok", detail)


def _docker() -> tuple[Finding, ...]:
    if shutil.which("docker") is None:
        get = "install Docker Engine; needed for `serve --with docker` only"
        return (Finding("Docker", "missing", "not installed", get),)
    _, said = _run("docker", "info", "--format={{json .}}")
    try:
        info = json.loads(said)
        server, runtimes = info.get("ServerVersion"), info.get("Runtimes") or {}
    except (ValueError, AttributeError):
        server, runtimes = None, {}
    if not server:
        get = "start it (`sudo systemctl start docker`), join the group docker, or set DOCKER_HOST"
        return (Finding("Docker", "missing", "the client is installed, its daemon cannot be reached", get),)
    docker = Finding("Docker", "ok", f"server {server}")
    if "nvidia" in runtimes:
        return docker, Finding("Docker with GPUs", "ok", "the runtime nvidia is registered")
    get = "install the NVIDIA Container Toolkit, then `sudo nvidia-ctk runtime configure --runtime=docker`"
    return docker, Finding("Docker with GPUs", "limited", "the runtime nvidia is not registered", get)


def _embedded() -> tuple[Finding, ...]:
    topic = "embedded server"
    try:
        runtime = find_runtime()
    except ServeError as error:
        return (Finding(topic, "missing", str(error.message), error.hint or ""),)
    if runtime is None:
        return (Finding(topic, "missing", "not installed", "tritonrepo serve --install-only (55 MB)"),)
    found = Finding(topic, "ok", f"Triton {TRITON_VERSION} (nvidia-pytriton {runtime.version}) in {runtime.root}")
    return found, _python_backend(runtime)


def _python_backend(runtime: Runtime) -> Finding:
    topic = "Python backend"
    try:
        version = runtime.stub.parent.name
        _stubs.libpython_folder(runtime)
    except ServeError as error:
        return Finding(topic, "missing", error.message, error.hint or "")
    return Finding(topic, "ok", f"runs Python {version} (could run {', '.join(runtime.python_versions)})")


def _default_ports() -> Iterator[Finding]:
    for port in DEFAULT_PORTS:
        if _ports.is_free("127.0.0.1", port):
            yield Finding(f"port {port}", "ok", "free")
        else:
            who = _ports.listener(port)
            yield Finding(f"port {port}", "limited", f"in use{f' by {who}' if who else ''}", "serve on other ports")


def _disk(topic: str, folder: Path) -> Finding:
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    detail = f"{free / 1e9:.1f} GB free at {existing}"
    return Finding(topic, "ok", detail) if free >= _SPACE else Finding(topic, "limited", detail, "free some space")


def _shared_memory() -> Finding:
    try:
        free = shutil.disk_usage("/dev/shm").free  # noqa: S108 - where POSIX shared memory lives on Linux
    except OSError as error:
        return Finding("shared memory", "missing", f"{error.filename}: {error.strerror}", "mount a tmpfs there")
    detail = f"{free / 1e6:.0f} MB free in /dev/shm"
    if free > _SHARED_MEMORY:
        return Finding("shared memory", "ok", detail)
    return Finding("shared memory", "limited", detail, "in a container: start it with --shm-size=1g")


def _can_build(found: dict[str, Finding]) -> Finding:
    if not _all_ok(found, "onnx", "onnxruntime"):
        return Finding("can build", "missing", "nothing: onnx and onnxruntime are needed", "pip install tritonrepo")
    tensorrt = availability()
    if tensorrt.ok:
        return Finding("can build", "ok", f"engines python, onnxruntime and tensorrt ({tensorrt.reason})")
    return Finding("can build", "limited", f"engines python and onnxruntime; no TensorRT plans ({tensorrt.reason})")


def _can_serve(found: dict[str, Finding]) -> Finding:
    ways = []
    if _all_ok(found, "embedded server", "Python backend"):
        ways.append("embedded (engine python)")
    if _all_ok(found, "Docker"):
        gpus = "GPUs" if _all_ok(found, "Docker with GPUs", "GPU and driver") else "no GPUs"
        ways.append(f"docker (all engines, {gpus})")
    if not ways:
        return Finding("can serve", "missing", "nothing yet", "tritonrepo serve --install-only, or install Docker")
    return Finding("can serve", "ok" if len(ways) == 2 else "limited", "; ".join(ways))


def _all_ok(found: dict[str, Finding], *topics: str) -> bool:
    return all(topic in found and found[topic].status == "ok" for topic in topics)


def _version(distribution: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(distribution)
    return None


def _run(*command: str) -> tuple[bool, str]:
    """Whether a command succeeded, and what it printed; where it said nothing, why."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except OSError as error:
        return False, (error.strerror or str(error)).lower()
    except subprocess.TimeoutExpired:
        return False, f"no answer within {_TIMEOUT} s"
    return done.returncode == 0, done.stdout.strip() or done.stderr.strip()
