"""The embedded Triton server: a runtime that is found or installed, never imported.

The wheel nvidia-pytriton carries a complete ``tritonserver`` (2.51, the release of container 24.10) with the Python
backend. Its Python dependencies are of no interest here, so the wheel is unpacked into a folder of its own and
constrains nobody's environment.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tritonrepo.errors import ServeError

VERSION = "0.7.0"
"""Version of nvidia-pytriton that is installed; its server is Triton 2.51."""
TRITON_VERSION = "2.51.0"

# sha256 and size of the two wheels of that version, by machine.
_WHEELS = {
    "x86_64": ("21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df", 55_369_373),
    "aarch64": ("f99e07ee56fe065337453956afba17d2673e02ec6a632c3de26ce6e7b32a0898", 53_818_874),
}
_GLIBC = (2, 35)
# The wheel, pip's own copy of it while it downloads, and what is unpacked.
_DISK_NEEDED = 2 * 56_000_000 + 160_000_000
_KEEP = ("pytriton/tritonserver/", "nvidia_pytriton.libs/")
_CHUNK = 1 << 20

Progress = Callable[[str, int, int], None]
"""Called with a phase (``download``, ``unpack``), the bytes done and the bytes in all."""


@dataclass(frozen=True)
class Runtime:
    """An unpacked server.

    Attributes:
        root: the folder that holds ``pytriton/tritonserver`` and ``nvidia_pytriton.libs``.
        version: version of the wheel.
    """

    root: Path
    version: str

    @property
    def binary(self) -> Path:
        """The server's executable."""
        return self._server / "bin" / "tritonserver"

    @property
    def backends(self) -> Path:
        """Backends as they were delivered; the Python one lacks its stub here."""
        return self._server / "backends"

    @property
    def libraries(self) -> Path:
        """Shared libraries that the binaries need."""
        return self.root / "nvidia_pytriton.libs"

    @property
    def caches(self) -> Path:
        """Response cache implementations (``local``)."""
        return self._server / "caches"

    @property
    def python_versions(self) -> tuple[str, ...]:
        """Python versions (``3.11``) that the Python backend can run, oldest first."""
        stubs = (path.parent.name for path in self._server.glob(f"python_backend_stubs/*/{STUB}"))
        minors = sorted(int(version.partition(".")[2]) for version in stubs)
        # There are older ones, but tritonrepo itself needs 3.10.
        return tuple(f"3.{minor}" for minor in minors if minor >= 10)

    @property
    def stub(self) -> Path:
        """The Python backend's executable for the running Python; ServeError where the runtime has none."""
        path = self._server / "python_backend_stubs" / _python_version() / STUB
        if not path.is_file():
            raise ServeError(
                f"the embedded server has no support for Python {_python_version()}",
                where=self.root,
                hint=f"run tritonrepo with one of Python {', '.join(self.python_versions)}, or serve with Docker",
            )
        return path

    @property
    def _server(self) -> Path:
        return self.root / "pytriton" / "tritonserver"


STUB = "triton_python_backend_stub"


def find_runtime() -> Runtime | None:
    """Look in TRITONREPO_RUNTIME, in the user's cache, and for an installed nvidia-pytriton, in this order.

    Raises:
        ServeError: TRITONREPO_RUNTIME is set, but there is no server in that folder.
    """
    named = os.environ.get("TRITONREPO_RUNTIME")
    if named:
        found = _runtime_at(Path(named).expanduser())
        if found is None:
            raise ServeError(
                "TRITONREPO_RUNTIME names a folder without pytriton/tritonserver/bin/tritonserver",
                where=Path(named),
                hint="unpack the nvidia-pytriton wheel there, or unset the variable",
            )
        return found
    return _runtime_at(runtime_folder()) or _installed_distribution()


def runtime_folder() -> Path:
    """Where `install_runtime` puts the server: ``$XDG_CACHE_HOME/tritonrepo/runtime/VERSION``."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache).expanduser() / "tritonrepo" / "runtime" / VERSION


def install_runtime(*, progress: Progress | None = None) -> Runtime:
    """Download the server with pip (so that the user's index and proxy settings hold) and unpack it into the cache.

    The wheel's hash is pinned. Concurrent calls are safe: the second one waits and takes what the first one installed.
    An interrupted call leaves nothing that a later one would take for an installed server.

    Raises:
        ServeError: there is no build for this machine, the download fails, or the disk is full.
    """
    _check_platform()
    folder = runtime_folder()
    with _disk_errors(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder.parent / ".lock"):
            found = _runtime_at(folder)
            if found is not None:
                return found
            # Left by a process that was killed; nobody else can be using them while the lock is held.
            for left in folder.parent.glob(".install-*"):
                shutil.rmtree(left, ignore_errors=True)
            _check_space(folder.parent)
            with tempfile.TemporaryDirectory(prefix=".install-", dir=folder.parent) as temporary:
                wheel = _download(Path(temporary), progress)
                unpacked = Path(temporary) / "unpacked"
                unpack_wheel(wheel, unpacked, progress)
                if folder.exists():
                    # Something incomplete that was put there by other hands.
                    shutil.rmtree(folder)
                unpacked.rename(folder)
    return Runtime(folder, VERSION)


def unpack_wheel(wheel: Path, folder: Path, progress: Progress | None = None) -> None:
    """Unpack the server, its libraries and its licence out of the wheel; refuse members that would leave ``folder``."""
    with zipfile.ZipFile(wheel) as archive:
        members = [member for member in archive.infolist() if not member.is_dir() and _wanted(member.filename)]
        total = sum(member.file_size for member in members)
        done = 0
        for member in members:
            target = folder / _safe(member, wheel)
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, target.open("wb") as sink:
                while chunk := source.read(_CHUNK):
                    sink.write(chunk)
                    done += len(chunk)
                    if progress is not None:
                        progress("unpack", done, total)
            executable = (member.external_attr >> 16) & 0o111
            target.chmod(0o755 if executable else 0o644)


def _wanted(name: str) -> bool:
    return name.startswith(_KEEP) or ".dist-info/" in name


def _safe(member: zipfile.ZipInfo, wheel: Path) -> PurePosixPath:
    path = PurePosixPath(member.filename)
    if path.is_absolute() or ".." in path.parts or "\\" in member.filename or stat.S_ISLNK(member.external_attr >> 16):
        raise ServeError(f"the archive has a member that would leave its folder: {member.filename!r}", where=wheel)
    return path


def _runtime_at(root: Path) -> Runtime | None:
    versions = [path.stem.partition("-")[2] for path in root.glob("nvidia_pytriton-*.dist-info")]
    runtime = Runtime(root.absolute(), versions[0] if versions else "unknown")
    return runtime if os.access(runtime.binary, os.X_OK) else None


def _installed_distribution() -> Runtime | None:
    try:
        distribution = importlib.metadata.distribution("nvidia-pytriton")
    except importlib.metadata.PackageNotFoundError:
        return None
    return _runtime_at(Path(str(distribution.locate_file(""))).resolve())


def _python_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _check_platform() -> None:
    machine, system = platform.machine(), platform.system()
    hint = "serve with Docker, or on a Linux host with glibc 2.35 or later (Ubuntu 22.04, Debian 12)"
    if system != "Linux" or machine not in _WHEELS:
        raise ServeError(f"there is no embedded server for {system} on {machine}", hint=hint)
    libc = os.confstr("CS_GNU_LIBC_VERSION") or "another C library"
    name, _, version = libc.partition(" ")
    if name != "glibc" or tuple(int(part) for part in version.split(".")[:2]) < _GLIBC:
        raise ServeError(f"the embedded server needs glibc 2.35, this machine has {libc}", hint=hint)


def _check_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < _DISK_NEEDED:
        raise ServeError(
            f"the embedded server needs {_DISK_NEEDED // 1_000_000} MB of disk, {free // 1_000_000} MB are free",
            where=folder,
            hint="free some space, or set XDG_CACHE_HOME to a folder on another disk",
        )


def _download(folder: Path, progress: Progress | None) -> Path:
    """Run pip in this interpreter and watch the folder grow, since pip's own display cannot be passed on."""
    requirements = folder / "requirements.txt"
    hashes = " ".join(f"--hash=sha256:{digest}" for digest, _ in _WHEELS.values())
    requirements.write_text(f"nvidia-pytriton=={VERSION} {hashes}\n", encoding="utf-8")
    # pip collects the download in TMPDIR: inside the folder it counts as progress and is removed with it.
    temporary = folder / "tmp"
    temporary.mkdir()
    command = [
        sys.executable, *_pip(), "download", "--no-deps", "--only-binary=:all:", "--require-hashes", "--no-input",
        "--disable-pip-version-check", "--quiet", "--requirement", str(requirements), "--dest", str(folder),
    ]  # fmt: skip
    size = _WHEELS[platform.machine()][1]
    with (folder / "pip.log").open("w+b") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "TMPDIR": str(temporary)}
        )
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
                if progress is not None:
                    progress("download", min(_bytes_below(folder), size), size)
                if process.returncode is not None:
                    break
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        log.seek(0)
        said = log.read().decode(errors="replace")
    wheels = list(folder.glob("nvidia_pytriton-*.whl"))
    if process.returncode != 0 or not wheels:
        raise _download_error(said)
    if progress is not None:
        progress("download", size, size)
    return wheels[0]


def _download_error(said: str) -> ServeError:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    reasons = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")] or lines[-1:]
    return ServeError(
        f"pip could not download nvidia-pytriton {VERSION}: {' '.join(reasons) or 'it gave no reason'}",
        hint="check the network and pip's index, or set TRITONREPO_RUNTIME to a folder with the unpacked wheel",
    )


def _pip() -> list[str]:
    """How to run pip: environments made by uv have none, but the standard library brings a wheel that runs in place."""
    if importlib.util.find_spec("pip") is not None:
        return ["-m", "pip"]
    ensurepip = importlib.util.find_spec("ensurepip")
    for location in (ensurepip.submodule_search_locations or ()) if ensurepip else ():
        for wheel in Path(location).glob("_bundled/pip-*.whl"):
            return [str(wheel / "pip")]
    raise ServeError(
        "pip is needed to download the embedded server, and this environment has none",
        hint="install it: `uv pip install pip`, or `apt install python3-pip`",
    )


def _bytes_below(folder: Path) -> int:
    """Bytes in files of at least a megabyte: the download, however pip names it."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size = (Path(parent) / name).stat().st_size
                total += size if size >= _CHUNK else 0
    return total


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "set XDG_CACHE_HOME to a folder where there is room and where you may write"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ServeError(
                "the disk is full while installing the embedded server", where=folder, hint=hint
            ) from error
        reason = error.strerror or str(error)
        raise ServeError(f"the embedded server cannot be installed: {reason}", where=folder, hint=hint) from error
