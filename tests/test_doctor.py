from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from tritonrepo import _ports, doctor
from tritonrepo.doctor import Finding, examine
from tritonrepo.runtime import Runtime

GPU = "NVIDIA H200, 143771 MiB, 580.82.07, 9.0"


@pytest.fixture
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """PATH has nothing but the scripts that this writes."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def write(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (folder / name).chmod(0o755)

    return write


def by_topic(**options: Any) -> dict[str, Finding]:
    return {finding.topic: finding for finding in examine(**options)}


def test_a_bare_machine(only: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TRITONREPO_RUNTIME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = by_topic()
    assert found["Docker"].status == found["GPU and driver"].status == found["embedded server"].status == "missing"
    assert "serve --install-only" in found["embedded server"].remedy
    assert "Python backend" not in found and "Docker with GPUs" not in found
    assert (found["onnx"].status, found["onnxruntime"].status) == ("ok", "ok")
    assert "CPUExecutionProvider" in found["onnxruntime"].detail
    assert (found["can serve"].status, found["can serve"].detail) == ("missing", "nothing yet")
    assert found["can build"].status == "limited"
    assert not (tmp_path / "cache" / "tritonrepo").exists()
    assert all(finding.remedy for finding in found.values() if finding.status == "missing")


def test_a_gpu_host_with_docker(only: Any) -> None:
    only("nvidia-smi", f"echo '{GPU}'; echo '{GPU}'")
    only("docker", """echo '{"ServerVersion": "29.1.0", "Runtimes": {"runc": {}, "nvidia": {}}}'""")
    found = by_topic()
    assert found["GPU and driver"].status == "ok"
    assert found["GPU and driver"].detail.startswith(f"2: {GPU}; {GPU}")
    assert found["Docker"].detail == "server 29.1.0"
    assert found["Docker with GPUs"].status == "ok"
    assert "docker (all engines, GPUs)" in found["can serve"].detail


def test_docker_without_its_daemon_and_a_broken_driver(only: Any) -> None:
    only("nvidia-smi", "echo 'NVIDIA-SMI has failed'; exit 9")
    only("docker", """echo '{"ServerVersion": "", "ServerErrors": ["Cannot connect"]}'; exit 1""")
    found = by_topic()
    assert found["GPU and driver"].detail == "nvidia-smi: NVIDIA-SMI has failed"
    assert "daemon cannot be reached" in found["Docker"].detail
    assert "docker" not in found["can serve"].detail


def test_docker_without_the_nvidia_runtime(only: Any) -> None:
    only("docker", """echo '{"ServerVersion": "29.1.0", "Runtimes": {"runc": {}}}'""")
    found = by_topic()
    assert found["Docker with GPUs"].status == "limited"
    assert "nvidia-ctk" in found["Docker with GPUs"].remedy
    assert "docker (all engines, no GPUs)" in found["can serve"].detail


def test_a_command_that_hangs_is_given_up(only: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    only("nvidia-smi", "exec /bin/sleep 60")
    monkeypatch.setattr(doctor, "_TIMEOUT", 0.2)
    assert by_topic()["GPU and driver"].detail == "nvidia-smi: no answer within 0.2 s"


def test_the_embedded_server_is_found(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITONREPO_RUNTIME", str(runtime.root))
    found = by_topic()
    assert found["embedded server"].status == found["Python backend"].status == "ok"
    assert str(runtime.root) in found["embedded server"].detail
    assert "embedded (engine python)" in found["can serve"].detail
    monkeypatch.setattr("tritonrepo.runtime._python_version", lambda: "3.14")
    found = by_topic()
    assert found["Python backend"].status == "missing"
    assert "embedded" not in found["can serve"].detail


def test_a_runtime_variable_that_leads_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITONREPO_RUNTIME", str(tmp_path))
    assert "TRITONREPO_RUNTIME" in by_topic()["embedded server"].detail


def test_a_port_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(doctor, "DEFAULT_PORTS", (port, *_ports.free_ports("127.0.0.1", 1)))
        used, free = (finding for finding in examine() if finding.topic.startswith("port"))
    assert used.status == "limited"
    assert f"(process {os.getpid()})" in used.detail
    assert free.status == "ok"


def test_little_disk_and_little_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 50_000_000

    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage)
    found = by_topic(repository=tmp_path / "not" / "there" / "yet")
    assert found["disk of the repository"].status == "limited"
    assert str(tmp_path) in found["disk of the repository"].detail
    assert found["shared memory"].status == "limited"
    assert "--shm-size" in found["shared memory"].remedy


@pytest.mark.parametrize(
    ("installed", "release", "status"),
    [
        ("11.1.0.106", "26.07", "ok"),
        ("11.0.0.114", "26.07", "limited"),
        ("10.13.3.9", "26.09", "limited"),
        ("11.4.0.106", "26.09", "ok"),
        ("11.4.0.106", None, "ok"),
    ],
)
def test_tensorrt_must_go_with_the_release(
    installed: str, release: str | None, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: installed if name == "tensorrt" else version(name))
    found = by_topic(release=release)["TensorRT bindings"]
    assert found.status == status
    assert installed in found.detail
    assert bool(found.remedy) == (status != "ok")


def test_a_driver_or_gpu_that_is_too_old_for_the_release(only: Any) -> None:
    only("nvidia-smi", "echo 'NVIDIA V100, 16160 MiB, 535.86.10, 7.0'; echo 'NVIDIA H200, 143771 MiB, 535.86.10, 9.0'")
    found = by_topic(release="26.07")["GPU and driver"]
    assert found.status == "limited"
    assert "release 26.07 runs on compute capability 7.5 and later, the GPU has 7.0" in found.detail
    assert found.detail.count("driver 535.86.10 is older than 580") == 1
    assert "update the driver" in found.remedy and "use release 24.10" in found.remedy
    assert by_topic(release="24.10")["GPU and driver"].status == "ok"
