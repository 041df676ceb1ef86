from __future__ import annotations

import hashlib
import importlib.util
import platform
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from tritonrepo import runtime
from tritonrepo.errors import ServeError
from tritonrepo.runtime import Runtime, find_runtime, install_runtime, runtime_folder, unpack_wheel

SERVER = "pytriton/tritonserver/bin/tritonserver"
NAME = f"nvidia_pytriton-{runtime.VERSION}-py3-none-any.whl"
INFO = f"nvidia_pytriton-{runtime.VERSION}.dist-info"


def write_wheel(folder: Path, members: dict[str, bytes]) -> Path:
    """A wheel that pip accepts."""
    about = {
        f"{INFO}/METADATA": f"Metadata-Version: 2.1\nName: nvidia-pytriton\nVersion: {runtime.VERSION}\n".encode(),
        f"{INFO}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{INFO}/RECORD": b"",
    }
    wheel = folder / NAME
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in {**members, **about}.items():
            member = zipfile.ZipInfo(name)
            member.external_attr = (0o100755 if "/bin/" in name else 0o100644) << 16
            archive.writestr(member, content)
    return wheel


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip finds one small wheel here and nothing elsewhere; the cache is empty."""
    folder = tmp_path / "index"
    folder.mkdir()
    members = {SERVER: b"#!/bin/sh\n", "nvidia_pytriton.libs/lib.so": b"x" * 3_000_000, "pytriton/__init__.py": b""}
    content = write_wheel(folder, members).read_bytes()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TRITONREPO_RUNTIME", raising=False)
    pin = (hashlib.sha256(content).hexdigest(), len(content))
    monkeypatch.setattr(runtime, "_WHEELS", {platform.machine(): pin})
    return folder


def left_in_cache() -> list[str]:
    return sorted(path.name for path in runtime_folder().parent.glob("*"))


def test_install_unpacks_the_server_and_nothing_else(index: Path) -> None:
    assert find_runtime() is None
    phases: list[tuple[str, int, int]] = []
    installed = install_runtime(progress=lambda *step: phases.append(step))
    assert installed == find_runtime() == Runtime(runtime_folder(), runtime.VERSION)
    assert subprocess.run([installed.binary], check=False).returncode == 0
    assert sorted(path.name for path in installed.root.iterdir()) == [INFO, "nvidia_pytriton.libs", "pytriton"]
    assert not (installed.root / "pytriton" / "__init__.py").exists()
    assert left_in_cache() == [".lock", runtime.VERSION]
    assert {phase for phase, _, _ in phases} == {"download", "unpack"}
    for phase in ("download", "unpack"):
        done = [(done, total) for name, done, total in phases if name == phase]
        assert done == sorted(done)
        assert done[-1][0] == done[-1][1]
    (index / NAME).unlink()
    assert install_runtime() == installed


def test_a_wheel_that_was_tampered_with_is_refused(index: Path) -> None:
    write_wheel(index, {SERVER: b"#!/bin/sh\nexit 1\n"})
    with pytest.raises(ServeError, match=f"pip could not download nvidia-pytriton {runtime.VERSION}: .*HASHES"):
        install_runtime()
    assert left_in_cache() == [".lock"]


def test_no_such_package(index: Path) -> None:
    (index / NAME).unlink()
    with pytest.raises(ServeError, match="No matching distribution") as caught:
        install_runtime()
    assert "TRITONREPO_RUNTIME" in str(caught.value.hint)


def test_an_interruption_leaves_nothing(index: Path) -> None:
    def interrupt(phase: str, done: int, total: int) -> None:
        if phase == "unpack":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        install_runtime(progress=interrupt)
    assert left_in_cache() == [".lock"]
    (runtime_folder().parent / ".install-killed").mkdir()
    install_runtime()
    assert left_in_cache() == [".lock", runtime.VERSION]


def test_two_installs_at_once(index: Path) -> None:
    unpacked: list[int] = []
    results: list[Runtime] = []

    def progress(phase: str, done: int, total: int) -> None:
        if phase == "unpack" and done == total:
            unpacked.append(total)

    threads = [threading.Thread(target=lambda: results.append(install_runtime(progress=progress))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [Runtime(runtime_folder(), runtime.VERSION)] * 2
    assert len(unpacked) == 1


def test_too_little_disk(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1_000_000

    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage)
    with pytest.raises(ServeError, match="needs 272 MB of disk, 1 MB are free") as caught:
        install_runtime()
    assert "XDG_CACHE_HOME" in str(caught.value.hint)


def test_a_cache_that_cannot_be_written(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ServeError, match="cannot be installed: Not a directory"):
        install_runtime()


def test_an_environment_without_pip_uses_the_one_in_the_standard_library(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def find_spec(name: str) -> object:
        return None if name == "pip" else find(name)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    command = [sys.executable, *runtime._pip(), "--version"]
    if find("ensurepip") is None:  # pragma: no cover - Debian without python3-venv
        pytest.skip("this Python has no ensurepip")
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.startswith("pip ")


@pytest.mark.parametrize(
    ("system", "machine", "libc", "message"),
    [
        ("Darwin", "arm64", "glibc 2.36", "no embedded server for Darwin on arm64"),
        ("Linux", "ppc64le", "glibc 2.36", "no embedded server for Linux on ppc64le"),
        ("Linux", "x86_64", "glibc 2.28", "needs glibc 2.35, this machine has glibc 2.28"),
        ("Linux", "x86_64", None, "needs glibc 2.35, this machine has another C library"),
    ],
)
def test_machines_without_a_build(
    system: str, machine: str, libc: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("os.confstr", lambda _: libc)
    with pytest.raises(ServeError, match=message) as caught:
        install_runtime()
    assert "Docker" in str(caught.value.hint)


@pytest.mark.parametrize("member", ["pytriton/tritonserver/../../../escaped", "nvidia_pytriton.libs/..\\escaped"])
def test_members_that_leave_the_folder_are_refused(member: str, tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, {member: b""})
    with pytest.raises(ServeError, match="would leave its folder"):
        unpack_wheel(wheel, tmp_path / "to")
    assert not (tmp_path / "escaped").exists()


def test_links_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "wheel.whl", "w") as archive:
        link = zipfile.ZipInfo("nvidia_pytriton.libs/link.so")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc")
    with pytest.raises(ServeError, match="would leave its folder"):
        unpack_wheel(tmp_path / "wheel.whl", tmp_path / "to")


def test_a_named_folder_wins_and_must_hold_a_server(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = install_runtime().root.rename(index / "elsewhere")
    monkeypatch.setenv("TRITONREPO_RUNTIME", str(elsewhere))
    assert find_runtime() == Runtime(elsewhere, runtime.VERSION)
    monkeypatch.setenv("TRITONREPO_RUNTIME", str(index))
    with pytest.raises(ServeError, match="names a folder without"):
        find_runtime()


def test_a_python_that_the_server_does_not_support(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    assert runtime.stub.exists()
    monkeypatch.setattr("tritonrepo.runtime._python_version", lambda: "3.14")
    with pytest.raises(ServeError, match=r"no support for Python 3\.14") as caught:
        _ = runtime.stub
    assert "3.10, 3.11, 3.12, 3.13" in str(caught.value.hint)
