"""Repository -> Triton in the NGC container: the same server that production runs, with TensorRT and ONNX Runtime."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tritonrepo import _http, _ports
from tritonrepo.errors import ServeError
from tritonrepo.probe import probe_models
from tritonrepo.releases import release
from tritonrepo.serve import (
    ServeOptions,
    Stopped,
    load_failure,
    port_in_use,
    probe_failure,
    reachable,
    report_exposure,
    report_ready,
    require_models,
    until_stopped,
    wants_response_cache,
)

MODELS = "/models"
"""Where the repository is mounted in the container."""
PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}
"""Ports inside the container."""
SHM_PREFIX = "tritonrepo"
CACHE_BYTES = 64 << 20
TRITON_USER = (1000, 1000)
"""The image's own unprivileged user, triton-server."""

_KEPT_LINES = 5000
_POLL = 0.25

# What the Docker client says -> what to do about it.
_HINTS = (
    (r"could not select device driver|nvidia-container-cli|unknown or invalid runtime name: nvidia", (
        "install the NVIDIA Container Toolkit and restart Docker (`tritonrepo doctor` checks it), "
        "or serve without GPUs: `--gpus none`"
    )),
    (r"port is already allocated|address already in use", "give other ports: --http-port, --grpc-port, --metrics-port"),
    (r"is already in use by container", "stop that container, or give another name with --name"),
    (r"manifest unknown|manifest for .* not found|pull access denied|not found: manifest", (
        "check the release: `triton:` in the spec, or --release"
    )),
    (r"no space left on device", "the image needs about 20 GB: `docker system prune` removes what Docker does not use"),
)  # fmt: skip


@dataclass(frozen=True)
class ContainerOptions:
    """What a container needs beyond `ServeOptions`."""

    release: str = "26.09"
    """NGC release, the container's tag without -py3."""
    image: str | None = None
    """Another image, such as one made from docker/server.Dockerfile; by default that of the release."""
    gpus: Literal["all", "none"] | tuple[int, ...] = "all"
    shm_size: str = "1g"
    """Size of the container's /dev/shm, through which the Python backend passes tensors."""
    user: tuple[int, int] | None = None
    """User and group id; by default those of the caller, or the image's own user where the caller is root."""
    name: str = "tritonrepo"


def docker_command(
    repository: Path, serving: ServeOptions, container: ContainerOptions, *, cidfile: Path | None = None
) -> list[str]:
    """The command that serves the repository, to be run without a shell. Changes nothing, asks nobody.

    Args:
        repository: the model repository; mounted read-only.
        serving: ports are those of the host, ``host`` the address at which Docker publishes them.
        container: image, GPUs and limits.
        cidfile: file to which Docker writes the container's id.
    """
    user, group = container.user or _caller()
    publish = {"http": serving.http_port, "grpc": serving.grpc_port, "metrics": serving.metrics_port}
    host = f"[{serving.host}]" if ":" in serving.host else serving.host
    command = ["docker", "run", "--rm", "--init", f"--name={container.name}"]
    if cidfile is not None:
        command.append(f"--cidfile={cidfile}")
    command += [f"--publish={host}:{port}:{PORTS[name]}" for name, port in publish.items()]
    command += gpu_options(container)
    return [
        *command,
        f"--shm-size={container.shm_size}",
        "--ulimit=memlock=-1",
        "--ulimit=stack=67108864",
        f"--user={user}:{group}",
        "--security-opt=no-new-privileges:true",
        "--env=HOME=/tmp",
        "--env=PYTHONDONTWRITEBYTECODE=1",
        f"--label=tritonrepo.release={container.release}",
        f"--stop-timeout={int(serving.grace) + 5}",
        f"--mount={csv_field(['type=bind', f'source={repository.absolute()}', f'target={MODELS}', 'readonly'])}",
        image_of(container),
        *server_arguments(repository, serving),
    ]


def server_arguments(repository: Path, serving: ServeOptions) -> list[str]:
    """The part after the image: tritonserver and its arguments."""
    arguments = [
        "tritonserver",
        f"--model-repository={MODELS}",
        f"--backend-config=python,shm-region-prefix-name={SHM_PREFIX}",
        f"--model-control-mode={serving.control}",
        f"--exit-timeout-secs={max(1, int(serving.grace))}",
    ]
    if serving.control == "poll":
        arguments.append(f"--repository-poll-secs={serving.poll_seconds}")
    arguments += [f"--load-model={name}" for name in serving.models or ()]
    if wants_response_cache(repository):
        arguments.append(f"--cache-config=local,size={CACHE_BYTES}")
    return [*arguments, *serving.extra_args]


def image_of(container: ContainerOptions) -> str:
    """The image that will run; ServeError where the release is unknown and no image is named."""
    return container.image or release(container.release).image


def shell(command: list[str]) -> str:
    """The command as one would type it, for ``--dry-run``."""
    return shlex.join(command)


def run_docker(
    repository: Path, serving: ServeOptions, container: ContainerOptions, report: Callable[[str], None]
) -> None:
    """Serve the repository in a container until SIGINT or SIGTERM; then stop the container and return.

    Progress and the container's log go to ``report`` line by line. A port of 0 becomes a free one.

    Raises:
        ServeError: no Docker, no daemon, no NVIDIA runtime, a model that the image cannot run or that does not answer,
            or a server that ends by itself.
    """
    require_models(repository)
    serving = _with_ports(serving)
    require_docker()
    _require_onnxruntime(repository, container)
    with tempfile.TemporaryDirectory(prefix="tritonrepo-") as folder, until_stopped():
        cidfile = Path(folder) / "cid"
        command = docker_command(repository, serving, container, cidfile=cidfile)
        report(shell(docker_command(repository, serving, container)))
        with _Container(command, cidfile, serving, report) as running:
            try:
                running.serve(repository)
            except Stopped:
                report(f"Stopping; requests in flight have {serving.grace:g} s to finish. Ctrl-C again ends them.")
                running.stop()
                report("Stopped.")
                raise


def require_docker() -> None:
    """ServeError where there is no Docker client, or it reaches no daemon."""
    if shutil.which("docker") is None:
        raise ServeError(
            "Docker is not installed",
            hint="install Docker Engine, or serve without it: `tritonrepo serve --with embedded`",
        )
    try:
        done = subprocess.run(
            ["docker", "version", "--format={{.Server.Version}}"],  # noqa: S607 - the user's PATH decides
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ServeError("Docker does not answer within 30 s", hint="restart its daemon") from None
    if done.returncode != 0:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        mend = (
            "add yourself to the group docker (`sudo usermod -aG docker $USER`) and log in again"
            if "permission denied" in said.lower()
            else "start it (`sudo systemctl start docker`), or set DOCKER_HOST"
        )
        raise ServeError(f"the Docker daemon cannot be reached: {said}", hint=mend)


class _Container:
    """One container, started in the foreground of a child process; stopped by its id."""

    def __init__(self, command: list[str], cidfile: Path, serving: ServeOptions, report: Callable[[str], None]) -> None:
        self._command = command
        self._cidfile = cidfile
        self._serving = serving
        self._report = report
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)

    def __enter__(self) -> _Container:
        # In a session of its own, so that Ctrl-C does not reach the client, which would pass it on to the server.
        self._client = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def serve(self, repository: Path) -> None:
        """Wait until every model has answered, then until the container ends; ServeError then."""
        # The clock starts with the container: before that the image may have to be pulled.
        while not self._id():
            self._require_running()
        began = time.monotonic()
        url = f"{reachable(self._serving.host)}:{self._serving.http_port}"
        while not _ready(url):
            self._require_running()
            if time.monotonic() - began > self._serving.timeout:
                raise self._failure(f"the server was not ready within {self._serving.timeout:g} s")
        remaining = self._serving.timeout - (time.monotonic() - began)
        probes = probe_models(url, repository, timeout=max(1, remaining))
        failed = probe_failure(probes)
        if failed:
            raise self._failure(failed)
        report_ready(probes, began, self._report)
        self._report(f"HTTP {url}  gRPC {reachable(self._serving.host)}:{self._serving.grpc_port}  Ctrl-C stops it.")
        report_exposure(self._serving.host, self._report)
        while True:
            self._require_running("Triton ended by itself")

    def stop(self) -> None:
        """Stop the container by its id: SIGTERM to the server, and SIGKILL after the grace period."""
        container = self._id()
        try:
            if container and self._client.poll() is None:
                _docker("stop", "-t", str(int(self._serving.grace) + 5), container)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._client.wait(10)
        finally:
            if self._client.poll() is None:
                # Interrupted a second time, or still pulling the image.
                if container:
                    _docker("kill", container)
                self._client.terminate()
                self._client.wait()
            self._reader.join()

    def _id(self) -> str:
        try:
            return self._cidfile.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return ""

    def _read(self) -> None:
        assert self._client.stdout is not None  # noqa: S101 - it was asked for as a pipe
        with self._client.stdout as stream:
            sink = self._serving.log.open("ab") if self._serving.log else io.BytesIO()
            with sink:
                for raw in stream:
                    line = raw.decode("utf-8", errors="replace").rstrip()
                    self._lines.append(line)
                    if self._serving.log:
                        sink.write(raw)
                        sink.flush()
                    self._report(line)

    def _require_running(self, message: str = "") -> None:
        """Wait a moment; ServeError where the container has ended."""
        try:
            self._client.wait(_POLL)
        except subprocess.TimeoutExpired:
            return
        self._reader.join()
        raise self._failure(message)

    def _failure(self, message: str = "") -> ServeError:
        log = "\n".join(self._lines)
        hint = next((mend for pattern, mend in _HINTS if re.search(pattern, log, re.IGNORECASE)), None)
        refused = [line for line in self._lines if line.startswith("docker: ")]
        if refused and not message:
            message = f"Docker could not start the container: {refused[-1].removeprefix('docker: ')}"
        return ServeError(message or load_failure(log), hint=hint or "the container's log is above")


def _ready(url: str) -> bool:
    try:
        return _http.request(url, "/v2/health/ready", timeout=5)[0] == 200
    except OSError:
        return False


def _docker(*arguments: str) -> None:
    """Run a Docker command whose failure means no more than that the container is gone."""
    subprocess.run(
        ["docker", *arguments],  # noqa: S607 - the user's PATH decides
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
        start_new_session=True,
    )  # fmt: skip


def _with_ports(serving: ServeOptions) -> ServeOptions:
    asked = {"http": serving.http_port, "grpc": serving.grpc_port, "metrics": serving.metrics_port}
    for name, port in asked.items():
        if port and not _ports.is_free(serving.host, port):
            raise port_in_use(serving.host, port, f"--{name}-port")
    free = iter(_ports.free_ports(serving.host, sum(not port for port in asked.values())))
    ports = {name: port or next(free) for name, port in asked.items()}
    return dataclasses.replace(serving, http_port=ports["http"], grpc_port=ports["grpc"], metrics_port=ports["metrics"])


def _require_onnxruntime(repository: Path, container: ContainerOptions) -> None:
    """The release's image has Python and NumPy, but no onnxruntime for models of the python engine."""
    if container.image is not None:
        return
    names = sorted(python_engine_models(repository))
    if names:
        raise ServeError(
            f"{', '.join(names)}: the python engine needs onnxruntime, which {image_of(container)} does not have",
            hint=f"build an image that has it: `docker build -f docker/server.Dockerfile --build-arg TRITON_RELEASE="
            f"{container.release} -t tritonrepo-server:{container.release} docker`, then "
            f"`--image tritonrepo-server:{container.release}`; or build the models with `engine: onnxruntime`",
        )


def python_engine_models(repository: Path) -> Iterator[str]:
    """Names of models that run ONNX in the Python backend: a model.py with a model.onnx beside it."""
    for folder in repository.iterdir():
        if any((version / "model.onnx").exists() for version in folder.glob("*/") if (version / "model.py").exists()):
            yield folder.name


def gpu_options(container: ContainerOptions) -> list[str]:
    """The options that show GPUs to a container."""
    if container.gpus == "none":
        return []
    if container.gpus == "all":
        return ["--gpus=all"]
    # Docker reads this value as CSV, in which a comma needs quotes.
    return [f"--gpus={csv_field(['device=' + ','.join(map(str, container.gpus))])}"]


def csv_field(fields: list[str]) -> str:
    """Several fields as Docker reads them from one value."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(fields)
    return line.getvalue()


def _caller() -> tuple[int, int]:
    """The caller's ids, because they can read the repository; never root."""
    return (os.getuid(), os.getgid()) if os.getuid() else TRITON_USER
