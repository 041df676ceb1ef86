from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import write_python_model
from tritonrepo import docker
from tritonrepo.docker import ContainerOptions, docker_command, run_docker, shell
from tritonrepo.errors import ServeError
from tritonrepo.releases import RELEASES, release
from tritonrepo.runtime import Runtime
from tritonrepo.serve import ServeOptions

ROOT = Path(__file__).parents[1]
FREE = ServeOptions(http_port=0, grpc_port=0, metrics_port=0)


def options_of(command: list[str]) -> dict[str, list[str]]:
    """``--name=value`` options of docker run, by name."""
    found: dict[str, list[str]] = {}
    for part in command[2:]:
        if not part.startswith("--"):
            break
        name, _, value = part.partition("=")
        found.setdefault(name, []).append(value)
    return found


# ------------------------------------------------------------------ the command


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1234)
    monkeypatch.setattr(os, "getgid", lambda: 5678)
    command = docker_command(tmp_path, ServeOptions(), ContainerOptions(release="26.07"))
    assert command == [
        "docker", "run", "--rm", "--init", "--name=tritonrepo",
        "--publish=127.0.0.1:8000:8000", "--publish=127.0.0.1:8001:8001", "--publish=127.0.0.1:8002:8002",
        "--gpus=all", "--shm-size=1g", "--ulimit=memlock=-1", "--ulimit=stack=67108864", "--user=1234:5678",
        "--security-opt=no-new-privileges:true", "--env=HOME=/tmp", "--env=PYTHONDONTWRITEBYTECODE=1",
        "--label=tritonrepo.release=26.07", "--stop-timeout=20",
        f"--mount=type=bind,source={tmp_path},target=/models,readonly",
        "nvcr.io/nvidia/tritonserver:26.07-py3",
        "tritonserver", "--model-repository=/models", "--backend-config=python,shm-region-prefix-name=tritonrepo",
        "--model-control-mode=none", "--exit-timeout-secs=15",
    ]  # fmt: skip
    assert shlex.split(shell(command)) == command


def test_the_command_with_everything(tmp_path: Path) -> None:
    repository = tmp_path / "with, comma"
    write_python_model(repository, "cached", config="response_cache { enable: true }")
    serving = ServeOptions(
        host="::1", http_port=1, grpc_port=2, metrics_port=3, control="explicit", models=("a", "b"), grace=30,
        extra_args=("--log-verbose=1",),
    )  # fmt: skip
    container = ContainerOptions(image="mine:1", gpus=(0, 2), shm_size="8g", user=(1, 2), name="name")
    command = docker_command(repository, serving, container, cidfile=tmp_path / "cid")
    options = options_of(command)
    assert options["--publish"] == ["[::1]:1:8000", "[::1]:2:8001", "[::1]:3:8002"]
    assert options["--gpus"] == ['"device=0,2"']
    assert options["--mount"] == [f'type=bind,"source={repository}",target=/models,readonly']
    assert options["--cidfile"] == [str(tmp_path / "cid")]
    assert (options["--user"], options["--shm-size"], options["--name"]) == (["1:2"], ["8g"], ["name"])
    assert command[command.index("mine:1") :] == [
        "mine:1", "tritonserver", "--model-repository=/models",
        "--backend-config=python,shm-region-prefix-name=tritonrepo", "--model-control-mode=explicit",
        "--exit-timeout-secs=30", "--load-model=a", "--load-model=b", "--cache-config=local,size=67108864",
        "--log-verbose=1",
    ]  # fmt: skip


def test_root_serves_as_the_images_own_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert options_of(docker_command(tmp_path, ServeOptions(), ContainerOptions()))["--user"] == ["1000:1000"]


def test_no_gpus(tmp_path: Path) -> None:
    assert "--gpus" not in options_of(docker_command(tmp_path, ServeOptions(), ContainerOptions(gpus="none")))


def test_poll_mode(tmp_path: Path) -> None:
    command = docker_command(tmp_path, ServeOptions(control="poll", poll_seconds=7), ContainerOptions())
    assert command[-1] == "--repository-poll-secs=7"


@pytest.mark.skipif(shutil.which("docker") is None, reason="no Docker client")
def test_the_real_client_accepts_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-daemon.sock")
    container = ContainerOptions(gpus=(0, 1))
    command = docker_command(tmp_path, ServeOptions(), container, cidfile=tmp_path / "cid")
    for extra, complaint in (("--init", "no-daemon.sock"), ("--no-such-option", "unknown flag")):
        done = subprocess.run([*command[:2], extra, *command[2:]], capture_output=True, text=True, check=False)
        assert complaint in done.stderr


# ------------------------------------------------------------------ compose


def substituted(text: str, environment: dict[str, str]) -> str:
    """Compose's ${NAME:-default}, innermost first."""
    pattern = re.compile(r"\$\{(\w+):-([^${}]*)\}")
    while pattern.search(text):
        text = pattern.sub(lambda match: environment.get(match[1]) or match[2], text)
    assert "${" not in text
    return text


def compose(environment: dict[str, str]) -> dict[str, Any]:
    text = (ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8")
    service: dict[str, Any] = yaml.safe_load(substituted(text, environment))["services"]["triton"]
    return service


@pytest.mark.parametrize(
    ("environment", "container", "host"),
    [
        ({}, ContainerOptions(user=(1000, 1000)), "127.0.0.1"),
        (
            {"TRITON_RELEASE": "26.07", "TRITON_UID": "12", "TRITON_GID": "34", "TRITON_HOST": "192.0.2.1"},
            ContainerOptions(release="26.07", user=(12, 34)),
            "192.0.2.1",
        ),
        ({"TRITON_IMAGE": "mine:1"}, ContainerOptions(image="mine:1", user=(1000, 1000)), "127.0.0.1"),
    ],
)
def test_compose_says_the_same(environment: dict[str, str], container: ContainerOptions, host: str) -> None:
    repository = ROOT / "model_repository"
    service = compose(environment)
    command = docker_command(repository, ServeOptions(host=host), container)
    options = options_of(command)
    image = next(index for index, part in enumerate(command) if part == docker.image_of(container))

    assert service.pop("image") == command[image]
    assert service.pop("command") == command[image + 1 :]
    assert service.pop("init") is ("--init" in command)
    assert service.pop("user") == options["--user"][0]
    assert service.pop("security_opt") == options["--security-opt"]
    assert [f"{name}={value}" for name, value in service.pop("environment").items()] == options["--env"]
    assert [f"{name}={value}" for name, value in service.pop("labels").items()] == options["--label"]
    assert service.pop("ports") == options["--publish"]
    (volume,) = service.pop("volumes")
    source = (ROOT / "docker" / volume["source"]).resolve()
    readonly = ",readonly" if volume["read_only"] else ""
    assert f"type={volume['type']},source={source},target={volume['target']}{readonly}" == options["--mount"][0]
    assert service.pop("shm_size") == options["--shm-size"][0]
    assert [f"{name}={value}" for name, value in service.pop("ulimits").items()] == options["--ulimit"]
    assert service.pop("stop_grace_period") == f"{options['--stop-timeout'][0]}s"
    devices = service.pop("deploy")["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": options["--gpus"][0], "capabilities": ["gpu"]}]
    # Compose itself waits for nobody, so it has a check that `serve` does from outside.
    assert service.pop("healthcheck")["test"][-1] == "http://127.0.0.1:8000/v2/health/ready"
    assert service == {}


def test_the_default_release_is_the_same_everywhere() -> None:
    text = (ROOT / "docker" / "server.Dockerfile").read_text(encoding="utf-8")
    assert f"ARG TRITON_RELEASE={ContainerOptions().release}\n" in text
    assert compose({})["image"] == release(ContainerOptions().release).image


# ------------------------------------------------------------------ releases


def test_releases() -> None:
    assert release("26.07").triton == "2.71.0"
    assert release("26.07").tensorrt == "11.1.0.106"
    assert release("26.07").image == "nvcr.io/nvidia/tritonserver:26.07-py3"
    assert (release("26.05").tensorrt_major, release("26.06").tensorrt_major) == (10, 11)
    tags = list(RELEASES)
    assert tags == sorted(tags)


@pytest.mark.parametrize(
    ("tag", "hint"),
    [
        ("26.11", "use 26.09"),
        ("23.01", "use 24.10"),
        ("2.73", "year.month"),
        ("26.13", "year.month"),
        ("", "year.month"),
    ],
)
def test_releases_that_are_not_known(tag: str, hint: str) -> None:
    with pytest.raises(ServeError) as caught:
        release(tag)
    assert hint in str(caught.value.hint)


# ------------------------------------------------------------------ Docker that is not there


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    write_python_model(folder, "echo")
    return folder


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write an executable ``docker`` that is found first on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def write(script: str) -> None:
        (folder / "docker").write_text(textwrap.dedent(script), encoding="utf-8")
        (folder / "docker").chmod(0o755)

    return write


def test_no_docker(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServeError, match="Docker is not installed"):
        run_docker(repository, FREE, ContainerOptions(), print)


@pytest.mark.parametrize(
    ("said", "hint"),
    [("Cannot connect to the Docker daemon at unix:///x", "systemctl start"), ("permission denied", "group docker")],
)
def test_no_daemon(repository: Path, fake: Any, said: str, hint: str) -> None:
    fake(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    with pytest.raises(ServeError, match="the Docker daemon cannot be reached") as caught:
        run_docker(repository, FREE, ContainerOptions(), print)
    assert said in caught.value.message
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ('could not select device driver "" with capabilities: [[gpu]].', "NVIDIA Container Toolkit"),
        ("manifest for nvcr.io/nvidia/tritonserver:26.09-py3 not found: manifest unknown", "check the release"),
        ('Conflict. The container name "/tritonrepo" is already in use by container "1".', "--name"),
    ],
)
def test_docker_refuses(repository: Path, fake: Any, said: str, hint: str) -> None:
    fake(f"#!/bin/sh\n[ $1 = version ] && exit 0\necho 'docker: {said}' >&2\nexit 125\n")
    lines: list[str] = []
    with pytest.raises(ServeError, match="Docker could not start the container") as caught:
        run_docker(repository, FREE, ContainerOptions(), lines.append)
    assert said in caught.value.message
    assert hint in str(caught.value.hint)
    assert lines[0].startswith("docker run --rm")


def test_a_port_in_use(repository: Path, fake: Any) -> None:
    fake("#!/bin/sh\nexit 1\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        serving = dataclasses.replace(FREE, metrics_port=taken.getsockname()[1])
        with pytest.raises(ServeError, match="is in use by") as caught:
            run_docker(repository, serving, ContainerOptions(), print)
    assert "--metrics-port" in str(caught.value.hint)


def test_the_python_engine_needs_another_image(repository: Path, fake: Any) -> None:
    fake("#!/bin/sh\nexit 0\n")
    (repository / "echo" / "1" / "model.onnx").touch()
    with pytest.raises(ServeError, match="echo: the python engine needs onnxruntime") as caught:
        run_docker(repository, FREE, ContainerOptions(release="26.07"), print)
    assert "docker build -f docker/server.Dockerfile --build-arg TRITON_RELEASE=26.07" in str(caught.value.hint)


# ------------------------------------------------------------------ Docker that is there, more or less

# Understands what run_docker asks for, and runs the embedded server where Docker would run a container.
STAND_IN = """\
#!{python}
import csv, os, signal, sys
from pathlib import Path

sys.path[:0] = {path!r}
here = Path(__file__).parent
with open(here / "calls", "a") as calls:
    print(*sys.argv[1:2], *sys.argv[-1:], file=calls)
if sys.argv[1] == "version":
    sys.exit(0)
if sys.argv[1] in ("stop", "kill"):
    assert sys.argv[-1] == "the-id"
    os.kill(int((here / "pid").read_text()), signal.SIGTERM)
    sys.exit(0)

from tritonrepo.runtime import Runtime
from tritonrepo.serve import EmbeddedServer, Stopped, until_stopped

options = dict(part[2:].split("=", 1) for part in sys.argv if part.startswith(("--cidfile=", "--mount=")))
ports = [int(part.split(":")[1]) for part in sys.argv if part.startswith("--publish=")]
mount = dict(field.partition("=")[::2] for field in next(csv.reader([options["mount"]])))
(here / "pid").write_text(str(os.getpid()))
print("container starts", flush=True)
with until_stopped():
    names = ("http_port", "grpc_port", "metrics_port")
    with EmbeddedServer(
        Path(mount["source"]), runtime=Runtime(Path({root!r}), ""), grace=0.1, **dict(zip(names, ports))
    ) as server:
        Path(options["cidfile"]).write_text("the-id")
        server.wait(3600)
        print(server.log_text())
        sys.exit(1)
"""

RUN = """
import sys
from pathlib import Path
from tritonrepo.docker import ContainerOptions, run_docker
from tritonrepo.serve import ServeOptions

options = ServeOptions(http_port=0, grpc_port=0, metrics_port=0)
run_docker(Path(sys.argv[1]), options, ContainerOptions(), lambda line: print(line, flush=True))
print("returned", flush=True)
"""


@pytest.fixture
def stand_in(fake: Any, runtime: Runtime, tmp_path: Path) -> Path:
    """The folder of the stand-in for Docker."""
    fake(STAND_IN.format(python=sys.executable, path=sys.path, root=str(runtime.root)))
    return tmp_path / "bin"


@pytest.mark.server
def test_a_container_is_awaited_probed_and_stopped_by_its_id(repository: Path, stand_in: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", RUN, str(repository)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line.rstrip())
            if "Ctrl-C" in line:
                break
        process.send_signal(signal.SIGINT)
        lines += process.communicate(timeout=60)[0].splitlines()
    assert process.returncode == 0
    text = "\n".join(lines)
    assert lines[0].startswith("docker run --rm --init --name=tritonrepo --publish=127.0.0.1:")
    assert "container starts" in lines
    assert re.search(r"^  echo 1: answered \(\d+ ms\)$", text, re.MULTILINE)
    assert lines[-2:] == ["Stopped.", "returned"]
    calls = (stand_in / "calls").read_text(encoding="utf-8").splitlines()
    assert [call.split()[0] for call in calls] == ["version", "run", "stop"]
    pid = int((stand_in / "pid").read_text(encoding="utf-8"))
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.server
def test_a_model_that_the_container_cannot_load_is_named(repository: Path, stand_in: Path, tmp_path: Path) -> None:
    write_python_model(repository, "bad", code='raise ValueError("no luck")')
    serving = dataclasses.replace(FREE, log=tmp_path / "container.log")
    lines: list[str] = []
    with pytest.raises(ServeError, match=r"Triton could not load 1 model: bad: .*no luck"):
        run_docker(repository, serving, ContainerOptions(), lines.append)
    assert "container starts" in lines
    assert "container starts" in (tmp_path / "container.log").read_text(encoding="utf-8")
