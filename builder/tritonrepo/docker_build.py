"""`tritonrepo build --in docker`: the same build, run in an image made from the one that will serve.

So the plan's TensorRT is the server's by construction. What the build reads and writes is mounted under its own path,
so that messages, the cache and the spec mean the same inside and outside.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tritonrepo.docker import ContainerOptions, csv_field, gpu_options, require_docker, shell
from tritonrepo.errors import EngineError
from tritonrepo.releases import release
from tritonrepo.spec import ModelSpec, Spec

_DOCKERFILE = Path("docker") / "builder.Dockerfile"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)")
_TIMEOUT = 60


@dataclass(frozen=True)
class BuilderOptions:
    """What the container of a build needs beyond the spec."""

    image: str | None = None
    """The image; by default tritonrepo-builder:RELEASE, which is made where it is missing."""
    container: ContainerOptions = field(default_factory=ContainerOptions)
    """Which GPUs."""


def build_command(
    spec: Spec, sources: Sequence[Path], arguments: Sequence[str], options: BuilderOptions, *, terminal: bool = False
) -> list[str]:
    """The command that runs the build in a container, to be run without a shell. Changes nothing, asks nobody.

    Args:
        spec: what will be built.
        sources: the spec's file, or ONNX files.
        arguments: further ones of ``tritonrepo build``.
        options: image and GPUs.
        terminal: whether a person watches.
    """
    return [
        "docker", "run", "--rm", "--init", f"--name={container_name(spec)}",
        *(["--interactive", "--tty"] if terminal else []),
        *gpu_options(options.container),
        f"--user={os.getuid()}:{os.getgid()}",
        "--security-opt=no-new-privileges:true",
        "--network=none",
        "--env=HOME=/tmp",
        *(f"--env={name}" for name in _variables(sources)),
        *(f"--mount={mount}" for mount in _mounts(spec, sources)),
        f"--workdir={Path.cwd()}",
        image_of(spec, options),
        "tritonrepo", "build", *(str(path.absolute()) for path in sources), *arguments,
    ]  # fmt: skip


def image_command(spec: Spec, options: BuilderOptions, source: Path) -> list[str]:
    """The command that makes the image, from a checkout of tritonrepo."""
    return [
        "docker", "build", f"--file={source / _DOCKERFILE}", f"--build-arg=TRITON_RELEASE={spec.triton}",
        f"--tag={image_of(spec, options)}", str(source),
    ]  # fmt: skip


def image_of(spec: Spec, options: BuilderOptions) -> str:
    """The image that will run; ServeError where the release is unknown and no image is named."""
    return options.image or f"tritonrepo-builder:{release(spec.triton).tag}"


def container_name(spec: Spec) -> str:
    """One for each repository, so that two builds of it are seen."""
    return f"tritonrepo-build-{hashlib.sha256(str(spec.repository).encode()).hexdigest()[:8]}"


def run_build(
    spec: Spec,
    sources: Sequence[Path],
    arguments: Sequence[str],
    options: BuilderOptions,
    report: Callable[[str], None],
) -> int:
    """Build in a container; returns the exit code of the build in it. Ctrl-C ends it as it would outside.

    Raises:
        ServeError: no Docker, no daemon, or an unknown release.
        EngineError: the image is not there and cannot be made.
    """
    require_docker()
    _make_image(spec, options, report)
    # Docker makes a mount's missing source, as root.
    for folder in (spec.repository.parent, spec.cache):
        folder.mkdir(parents=True, exist_ok=True)
    command = build_command(spec, sources, arguments, options, terminal=sys.stdin.isatty() and sys.stdout.isatty())
    report(shell(command))
    client = subprocess.Popen(command)
    while True:
        try:
            return client.wait()
        except KeyboardInterrupt:
            # Docker's client got it too, and hands it on; a second one is not waited for.
            with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
                client.wait(_TIMEOUT)
                raise
            subprocess.run(
                ["docker", "kill", container_name(spec)],  # noqa: S607 - the user's PATH decides
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
            )  # fmt: skip
            raise


def checkout() -> Path | None:
    """The checkout that this package runs from; None where it was installed otherwise."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / _DOCKERFILE).is_file() else None


def _make_image(spec: Spec, options: BuilderOptions, report: Callable[[str], None]) -> None:
    image = image_of(spec, options)
    inspect = ["docker", "image", "inspect", image]
    found = subprocess.run(inspect, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    if found.returncode == 0:
        return
    source = checkout()
    if options.image is not None or source is None:
        raise EngineError(
            f"there is no image {image} here",
            hint="Make it from a checkout of tritonrepo: docker build -f docker/builder.Dockerfile "
            f"--build-arg TRITON_RELEASE={spec.triton} -t {image} .",
        )
    command = image_command(spec, options, source)
    report(f"making the image {image}, once for each release\n{shell(command)}")
    if subprocess.run(command, check=False).returncode:
        raise EngineError(f"the image {image} was not made", hint="Docker's messages are above.")


def _variables(sources: Sequence[Path]) -> list[str]:
    """Variables that the spec's text takes from the environment; Docker is given their names, not their values."""
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in sources if path.suffix != ".onnx"]
    names = dict.fromkeys(name for text in texts for name in _VARIABLE.findall(text))
    return [name for name in names if name in os.environ]


def _mounts(spec: Spec, sources: Sequence[Path]) -> list[str]:
    """Folders to mount: what is written may be, all else is read only; nothing twice."""
    # The lock and what is being staged lie beside the repository.
    written = [spec.repository.parent, spec.cache]
    read = [path.absolute().parent for path in sources]
    for model in spec.models:
        read += [file.parent for file in _files_of(model)]
        if isinstance(model.tensorrt.timing_cache, Path):
            written.append(model.tensorrt.timing_cache.parent)
    if spec.templates:
        read.append(spec.templates)
    read.append(Path.cwd())
    writable = _outermost(written)
    readable = [folder for folder in _outermost(read) if not _within(folder, writable)]
    return [_mount(folder, "readonly") for folder in readable] + [_mount(folder) for folder in writable]


def _files_of(model: ModelSpec) -> list[Path]:
    from tritonrepo.spec import precision_of

    warmups = model.warmup if not isinstance(model.warmup, str) else ()
    data = [each.data for warmup in warmups for each in warmup.inputs.values()]
    return [
        model.onnx,
        *model.labels.values(),
        *model.verification.samples,
        *precision_of(model).calibration,
        *model.tensorrt.plugins,
        *model.tensorrt.plugins_in_plan,
        *(each for each in data if isinstance(each, Path)),
    ]


def _outermost(folders: Sequence[Path]) -> list[Path]:
    """Each folder that lies in none of the others, in order."""
    distinct = list(dict.fromkeys(folders))
    return [folder for folder in distinct if not _within(folder, [other for other in distinct if other != folder])]


def _within(folder: Path, others: Sequence[Path]) -> bool:
    return any(folder.is_relative_to(other) for other in others)


def _mount(folder: Path, *how: str) -> str:
    return csv_field(["type=bind", f"source={folder}", f"target={folder}", *how])
