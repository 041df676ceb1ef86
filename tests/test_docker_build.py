"""`tritonrepo build --in docker`: the command, what is mounted, the image, and how it ends. No image is built here."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import graphs
from test_docker import options_of
from tritonrepo import docker_build
from tritonrepo.docker import ContainerOptions
from tritonrepo.docker_build import BuilderOptions, build_command, checkout, container_name, image_command, run_build
from tritonrepo.errors import EngineError, ServeError
from tritonrepo.releases import RELEASES
from tritonrepo.spec import Spec, load_spec, spec_for

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "docker" / "builder.Dockerfile").read_text(encoding="utf-8")


@pytest.fixture
def spec_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    project = tmp_path / "project"
    project.mkdir()
    graphs.mlp(tmp_path / "models")
    (project / "models.yaml").write_text(
        "repository: ${OUT:-../out/repository}\ntriton: '26.07'\n"
        "models: [{name: mlp, onnx: ../models/mlp.onnx, engine: tensorrt}]\n"
    )
    monkeypatch.chdir(project)
    return project / "models.yaml"


def mounts(command: list[str]) -> dict[str, str]:
    """Folder -> ``rw`` or ``ro``; each is mounted under its own path."""
    found = {}
    for mount in options_of(command)["--mount"]:
        fields = dict(part.partition("=")[::2] for part in mount.split(","))
        assert (fields["type"], fields["source"]) == ("bind", fields["target"])
        found[fields["source"]] = "ro" if "readonly" in fields else "rw"
    return found


# ------------------------------------------------------------------ the command


def test_the_command(tmp_path: Path, spec_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1234)
    monkeypatch.setattr(os, "getgid", lambda: 5678)
    spec = load_spec(spec_file)
    command = build_command(spec, [Path("models.yaml")], ["--jobs=1"], BuilderOptions())
    assert command == [
        "docker", "run", "--rm", "--init", f"--name={container_name(spec)}", "--gpus=all", "--user=1234:5678",
        "--security-opt=no-new-privileges:true", "--network=none", "--env=HOME=/tmp",
        f"--mount=type=bind,source={tmp_path}/project,target={tmp_path}/project,readonly",
        f"--mount=type=bind,source={tmp_path}/models,target={tmp_path}/models,readonly",
        f"--mount=type=bind,source={tmp_path}/out,target={tmp_path}/out",
        f"--mount=type=bind,source={tmp_path}/project/.tritonrepo,target={tmp_path}/project/.tritonrepo",
        f"--workdir={tmp_path}/project", "tritonrepo-builder:26.07",
        "tritonrepo", "build", f"{tmp_path}/project/models.yaml", "--jobs=1",
    ]  # fmt: skip
    assert shlex.split(shlex.join(command)) == command


def test_what_is_written_can_be_and_nothing_else(tmp_path: Path, spec_file: Path) -> None:
    for folder in ("cache", "elsewhere", "timing"):
        (tmp_path / folder).mkdir()
    (tmp_path / "elsewhere" / "plugin.so").touch()
    text = spec_file.read_text() + (
        "cache: ../cache\n"
        "defaults: {tensorrt: {plugins: [../elsewhere/plugin.so], timing_cache: ../timing/own.cache}}\n"
    )
    spec_file.write_text(text)
    found = mounts(build_command(load_spec(spec_file), [spec_file], [], BuilderOptions()))
    assert found == {
        str(tmp_path / "project"): "ro",
        str(tmp_path / "models"): "ro",
        str(tmp_path / "elsewhere"): "ro",
        str(tmp_path / "out"): "rw",  # the repository, and beside it the lock and what is being staged
        str(tmp_path / "cache"): "rw",
        str(tmp_path / "timing"): "rw",
    }


def test_onnx_files_without_a_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = graphs.mlp(tmp_path / "models")
    spec = spec_for([model], repository=tmp_path / "repository")
    command = build_command(spec, [Path("models/mlp.onnx")], ["--repository=x"], BuilderOptions())
    assert command[-4:] == ["tritonrepo", "build", str(model), "--repository=x"]
    assert mounts(command) == {str(tmp_path): "rw"}


def test_folders_with_commas_and_within_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a, b"
    model = graphs.mlp(folder / "models")
    monkeypatch.chdir(folder)
    spec = spec_for([model], repository=folder / "models" / "repository")
    command = build_command(spec, [model], [], BuilderOptions())
    assert options_of(command)["--mount"] == [
        f'type=bind,"source={folder}","target={folder}",readonly',
        f'type=bind,"source={folder}/models","target={folder}/models"',
    ]


def test_variables_of_the_spec_are_named_and_not_told(
    tmp_path: Path, spec_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUT", str(tmp_path / "secret"))
    command = build_command(load_spec(spec_file), [spec_file], [], BuilderOptions())
    assert "--env=OUT" in command
    monkeypatch.delenv("OUT")
    assert "--env=OUT" not in build_command(load_spec(spec_file), [spec_file], [], BuilderOptions())


def test_gpus_image_and_terminal(spec_file: Path) -> None:
    options = BuilderOptions("mine:1", ContainerOptions(gpus=(0, 2)))
    command = build_command(load_spec(spec_file), [spec_file], [], options, terminal=True)
    assert options_of(command)["--gpus"] == ['"device=0,2"']
    assert {"--interactive", "--tty", "mine:1"} <= set(command)
    none = BuilderOptions(container=ContainerOptions(gpus="none"))
    assert "--gpus" not in options_of(build_command(load_spec(spec_file), [spec_file], [], none))


def test_two_builds_of_one_repository_have_one_name(tmp_path: Path) -> None:
    model = graphs.mlp(tmp_path)
    one, two = (spec_for([model], repository=tmp_path / name) for name in "ab")
    assert container_name(one) == container_name(one) != container_name(two)


def test_dry_run(spec_file: Path) -> None:
    arguments = ["build", "--in", "docker", "--dry-run", "--jobs", "2", "--keep-going", "--container-gpus", "1"]
    done = tritonrepo(*arguments)
    assert done.returncode == 0, done.stderr
    command = shlex.split(done.stdout)
    assert command[:2] == ["docker", "run"]
    assert options_of(command)["--gpus"] == ["device=1"]
    assert command[-5:] == ["tritonrepo", "build", str(spec_file), "--jobs=2", "--keep-going"]
    assert not (spec_file.parents[1] / "out").exists()


def test_dry_run_of_a_build_here_makes_no_sense(spec_file: Path) -> None:
    done = tritonrepo("build", "--dry-run")
    assert done.returncode == 2
    assert "--in docker" in done.stderr


def tritonrepo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tritonrepo", *arguments], capture_output=True, text=True, check=False)


# ------------------------------------------------------------------ running it, with something in Docker's place


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for Docker's client: writes down what it was asked, and does what FAKE says."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "docker"
    program.write_text(
        textwrap.dedent(
            f"""\
            #!{sys.executable}
            import json, os, signal, sys, time
            with open({str(tmp_path / "asked")!r}, "a") as file:
                file.write(json.dumps(sys.argv[1:]) + "\\n")
            what = os.environ.get("FAKE", "")
            if sys.argv[1] == "version":
                print("27.0")
            elif sys.argv[1:3] == ["image", "inspect"]:
                sys.exit("no image" in what)
            elif sys.argv[1] == "build":
                sys.exit("no build" in what)
            elif sys.argv[1] == "run" and "wait" in what:
                signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
                time.sleep(60)
            elif sys.argv[1] == "run":
                sys.exit(7)
            """
        )
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "asked"


def run(spec_file: Path, options: BuilderOptions | None = None) -> tuple[int, list[str]]:
    said: list[str] = []
    status = run_build(load_spec(spec_file), [spec_file], ["--prune"], options or BuilderOptions(), said.append)
    return status, said


def test_the_builds_exit_code_is_that_of_the_container(tmp_path: Path, spec_file: Path, fake: Path) -> None:
    status, said = run(spec_file)
    assert status == 7
    assert said[-1].startswith("docker run ")
    assert (tmp_path / "out").is_dir()  # made by us, before Docker would, as root
    assert '"build"' not in "".join(line for line in fake.read_text().splitlines() if '["build"' in line)


def test_the_image_is_made_where_it_is_missing(spec_file: Path, fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE", "no image")
    assert run(spec_file)[0] == 7
    assert f'"--file={ROOT}/docker/builder.Dockerfile", "--build-arg=TRITON_RELEASE=26.07"' in fake.read_text()
    monkeypatch.setenv("FAKE", "no image, no build")
    with pytest.raises(EngineError, match="was not made"):
        run(spec_file)


def test_an_image_that_is_named_is_not_made(spec_file: Path, fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE", "no image")
    with pytest.raises(EngineError, match="there is no image mine:1 here"):
        run(spec_file, BuilderOptions("mine:1"))
    monkeypatch.setattr(docker_build, "checkout", lambda: None)
    with pytest.raises(EngineError) as caught:
        run(spec_file)
    assert "docker build -f docker/builder.Dockerfile" in str(caught.value.hint)


def test_without_docker(spec_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServeError, match="Docker is not installed"):
        run(spec_file)


def test_interrupted(spec_file: Path, fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE", "wait")
    process = subprocess.Popen(
        [sys.executable, "-m", "tritonrepo", "build", "--in", "docker"], stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    end = time.monotonic() + 60
    while not (fake.exists() and '["run"' in fake.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in said
    assert "Traceback" not in said


# ------------------------------------------------------------------ the Dockerfile


def test_the_dockerfile_is_of_the_release_that_serves() -> None:
    assert re.search(r"^FROM nvcr\.io/nvidia/tritonserver:\$\{TRITON_RELEASE\}-py3$", DOCKERFILE, re.M)
    assert f"ARG TRITON_RELEASE={Spec.model_fields['triton'].default}\n" in DOCKERFILE
    assert re.findall(r"^FROM ", DOCKERFILE, re.M) == ["FROM "]
    assert DOCKERFILE.rindex("USER 1000:1000") > DOCKERFILE.rindex("\nRUN ")


def test_what_the_dockerfile_copies_is_there_and_let_through() -> None:
    ignored = (ROOT / "docker" / "builder.Dockerfile.dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    copied = [words for line in re.findall(r"^COPY (.*)$", DOCKERFILE, re.M) for words in line.split()[:-1]]
    assert copied
    for path in copied:
        assert (ROOT / path).exists(), path
        assert f"!{path}" in ignored, path


def test_the_image_command(spec_file: Path) -> None:
    root = checkout()
    assert root == ROOT
    command = image_command(load_spec(spec_file), BuilderOptions(), ROOT)
    assert command[:2] == ["docker", "build"]
    assert command[-2:] == ["--tag=tritonrepo-builder:26.07", str(ROOT)]


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tensorrt_bindings_script", ROOT / "docker" / "tensorrt_bindings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("environ", "installed", "found"),
    [
        ({}, "libnvinfer-plugin10 10.13.3.9-1+cuda13.0\nlibnvinfer10 10.13.3.9-1+cuda13.0", ("10.13.3.9", "13")),
        ({}, "libnvinfer11 11.1.0.106-1+cuda13.3", ("11.1.0.106", "13")),
        ({"CUDA_VERSION": "12.8.0.038"}, "libnvinfer10 10.8.0.43-1", ("10.8.0.43", "12")),
        ({"TRT_VERSION": "10.9.0.34+cuda12.8", "CUDA_VERSION": "12.8.1.012"}, "", ("10.9.0.34", "12")),
        ({"TRT_VERSION": "10.9.0.34", "CUDA_VERSION": "12.8.1.012"}, "libc6 2.39", ("10.9.0.34", "12")),
        ({"CUDA_VERSION": "13.0"}, "libnvinfer10 ", ("", "13")),
        ({}, "", ("", "")),
    ],
)
def test_the_images_tensorrt_is_seen(
    script: ModuleType, environ: dict[str, str], installed: str, found: tuple[str, str]
) -> None:
    assert script.version_in(environ, installed) == found


def test_an_image_that_does_not_say_its_tensorrt(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "packages", lambda: "")
    monkeypatch.delenv("TRT_VERSION", raising=False)
    monkeypatch.delenv("CUDA_VERSION", raising=False)
    assert script.main(["install", "--target", str(tmp_path)]) == 1
    assert "--build-arg TENSORRT=" in capsys.readouterr().err


def test_the_bindings_that_are_installed(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def pip(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(script, "packages", lambda: "libnvinfer11 11.1.0.106-1+cuda13.3")
    monkeypatch.setattr(script.subprocess, "run", pip)
    assert script.main(["install", "--target", str(tmp_path)]) == 0
    assert asked[0][-1] == "tensorrt-cu13-bindings==11.1.0.106"
    assert (tmp_path / "tensorrt" / "__init__.py").read_text().startswith("from tensorrt_bindings import *")


def test_every_known_tensorrt_has_the_form_of_the_bindings_versions() -> None:
    assert all(re.fullmatch(r"\d+\.\d+\.\d+\.\d+", each.tensorrt) for each in RELEASES.values() if each.tensorrt)
