"""Triton releases: what is known of each NGC container. None stands where nothing certain is known.

Sources, read in 2026:

- versions of the server, ONNX Runtime and Python: build.py at the release tags of triton-inference-server/server, and
  docs/introduction/compatibility.md there;
- CUDA and its driver: that page's table of the vLLM images, which begin with the same image; the release notes of
  24.10, 25.03, 25.06, 26.02, 26.04 and 26.06 say the same of the images with all backends;
- compute capabilities: the same release notes, and nothing said otherwise between them;
- TensorRT: the release notes of 26.07; majors from those of TensorRT's own containers;
- drivers by CUDA's major version: CUDA's page on minor version compatibility.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tritonrepo.errors import ServeError

REGISTRY = "nvcr.io/nvidia/tritonserver"

#: The oldest driver for any CUDA of a major version. Older ones work on data center GPUs only, by the compatibility
#: package in the image.
OLDEST_DRIVER: Mapping[str, str] = {"12": "525", "13": "580"}


@dataclass(frozen=True)
class Release:
    """One release, named by its container tag (year.month)."""

    tag: str
    triton: str
    """Version of the server."""
    onnxruntime: str | None
    """Version in the ONNX Runtime backend."""
    python: str | None
    """Python of the Python backend."""
    tensorrt: str | None
    """Exact TensorRT, build number included: a plan loads on this one only."""
    tensorrt_major: int
    cuda: str | None = None
    """Major and minor version of CUDA."""
    driver: str | None = None
    """The driver that comes with that CUDA: from it on all of CUDA works."""
    capability: str | None = None
    """The oldest compute capability that it runs on."""

    @property
    def image(self) -> str:
        """The image with all backends."""
        return f"{REGISTRY}:{self.tag}-py3"

    @property
    def oldest_driver(self) -> str | None:
        """The oldest driver that its CUDA runs with, on any GPU."""
        return OLDEST_DRIVER.get((self.cuda or "").partition(".")[0])


def _release(line: str) -> Release:
    tag, triton, onnxruntime, python, tensorrt, cuda, driver, capability = (
        None if word == "-" else word for word in line.split()
    )
    assert tag is not None and triton is not None  # noqa: S101 - of the table below
    # TensorRT 11 came with 26.06. Tags of this form sort as text.
    major = 11 if tag >= "26.06" else 10
    return Release(tag, triton, onnxruntime, python, tensorrt, major, cuda, driver, capability)


# tag    server ONNX Runtime Python TensorRT CUDA driver compute capability
_TABLE = """
24.10  2.51.0  1.19.2  3.10  -           12.6  560.35.03   6.0
24.11  2.52.0  1.19.2  -     -           12.6  560.35.05   -
24.12  2.53.0  1.20.1  3.12  -           12.6  560.35.05   -
25.01  2.54.0  1.20.1  3.12  -           12.8  570.86.10   -
25.02  2.55.0  1.20.1  3.12  -           12.8  570.86.10   -
25.03  2.56.0  1.21.0  3.12  -           12.8  570.124.06  7.5
25.04  2.57.0  1.21.0  3.12  -           12.9  575.51.02   7.5
25.05  2.58.0  1.22.0  3.12  -           12.9  575.51.03   7.5
25.06  2.59.0  1.22.0  3.12  -           12.9  575.51.03   7.5
25.07  2.59.1  1.22.0  3.12  -           12.9  575.51.03   7.5
25.08  2.60.0  1.23.0  3.12  -           13.0  580.82.07   7.5
25.09  2.61.0  1.23.0  3.12  -           13.0  580.82.07   7.5
25.10  2.62.0  1.23.1  3.12  -           13.0  580.95.05   7.5
25.11  2.63.0  1.23.2  3.12  -           13.0  580.95.05   7.5
25.12  2.64.0  1.23.2  3.12  -           13.1  590.44.01   7.5
26.01  2.65.0  1.23.2  3.12  -           13.1  590.48.01   7.5
26.02  2.66.0  1.24.1  3.12  -           13.1  590.48.01   7.5
26.03  2.67.0  1.24.2  3.12  -           13.2  595.45.04   7.5
26.04  2.68.0  1.24.4  3.12  -           13.2  595.58.03   7.5
26.05  2.69.0  1.24.4  3.12  -           13.2  595.58.03   7.5
26.06  2.70.0  1.24.4  3.12  -           13.3  610.43.02   7.5
26.07  2.71.0  1.27.0  3.12  11.1.0.106  13.3  610.43.02   7.5
26.08  2.72.0  1.28.0  3.12  -           13.4  615.61      7.5
26.09  2.73.0  -       -     -           -     -           -
"""

RELEASES: dict[str, Release] = {each.tag: each for each in map(_release, _TABLE.strip().splitlines())}


def release(tag: str) -> Release:
    """The release of that tag.

    Raises:
        ServeError: nothing is known of it; the hint names the nearest that is known.
    """
    found = RELEASES.get(tag)
    if found is not None:
        return found
    first, *_, last = RELEASES
    match = re.fullmatch(r"(\d\d)\.(0[1-9]|1[0-2])", tag)
    if match is None:
        raise ServeError(f"{tag!r} is not a Triton release", hint=f"give year.month as in the container's tag: {last}")
    nearest = min(RELEASES, key=lambda known: abs(_months(known) - _months(tag)))
    raise ServeError(
        f"nothing is known of Triton release {tag} (known: {first} to {last})",
        hint=f"use {nearest}, or name the container yourself: `--image {REGISTRY}:{tag}-py3`",
    )


@dataclass(frozen=True)
class Obstacle:
    """Why a plan cannot be built or served, as far as versions tell."""

    what: str
    hint: str
    certain: bool = True
    """False where it may work all the same: an old driver on a data center GPU, inside the image."""


def obstacles(
    tag: str, *, tensorrt: str | None = None, driver: str | None = None, capability: str | None = None
) -> tuple[Obstacle, ...]:
    """What keeps a machine from building plans for a release, said before the minutes that a build takes.

    Nothing is said of what is not known, nor of a release that is not.

    Args:
        tag: the release that will serve.
        tensorrt: the version that would build, build number included.
        driver: the driver's version.
        capability: compute capability of the GPU, ``9.0``.
    """
    known = RELEASES.get(tag)
    if known is None:
        return ()
    found = []
    if tensorrt and (known.tensorrt or tensorrt) != tensorrt:
        what = f"TensorRT {tensorrt} builds plans that release {tag} does not load: it has {known.tensorrt}"
        found.append(Obstacle(what, f"build inside {known.image}"))
    elif tensorrt and tensorrt.partition(".")[0] != str(known.tensorrt_major):
        what = f"TensorRT {tensorrt} builds plans that release {tag} does not load: it has {known.tensorrt_major}.x"
        found.append(Obstacle(what, f"build inside {known.image}"))
    if capability and known.capability and _numbers(capability) < _numbers(known.capability):
        what = f"release {tag} runs on compute capability {known.capability} and later, the GPU has {capability}"
        older = [each.tag for each in RELEASES.values() if each.capability and _runs(each, capability)]
        found.append(Obstacle(what, f"use release {older[-1]}" if older else "use a newer GPU"))
    oldest = known.oldest_driver
    if driver and oldest and _numbers(driver) < _numbers(oldest):
        what = f"driver {driver} is older than {oldest}, which CUDA {known.cuda} of release {tag} needs"
        hint = "update the driver; on a data center GPU it may work inside the image, by CUDA's compatibility package"
        found.append(Obstacle(what, hint, certain=False))
    return tuple(found)


def table() -> str:
    """The table of docs/releases.md."""
    heads = ["release", "server", "TensorRT", "CUDA", "its driver", "oldest driver", "compute capability"]
    heads += ["ONNX Runtime", "Python"]
    rows = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for each in reversed(RELEASES.values()):
        cells = (
            each.tag,
            each.triton,
            each.tensorrt or f"{each.tensorrt_major}.x, build unknown",
            each.cuda,
            each.driver,
            each.oldest_driver,
            each.capability and f"{each.capability} and later",
            each.onnxruntime,
            each.python,
        )
        rows.append("| " + " | ".join(cell or "unknown" for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _runs(known: Release, capability: str) -> bool:
    return _numbers(known.capability or "") <= _numbers(capability)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _months(tag: str) -> int:
    year, month = tag.split(".")
    return int(year) * 12 + int(month)
