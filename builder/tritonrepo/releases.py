"""Triton releases: what is known of each NGC container. None stands where nothing certain is known.

Sources: build.py at the release tags of triton-inference-server/server and docs/introduction/compatibility.md there;
TensorRT from the containers' release notes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tritonrepo.errors import ServeError

REGISTRY = "nvcr.io/nvidia/tritonserver"


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

    @property
    def image(self) -> str:
        """The image with all backends."""
        return f"{REGISTRY}:{self.tag}-py3"


def _release(
    tag: str, triton: str, onnxruntime: str | None, python: str | None = "3.12", tensorrt: str | None = None
) -> Release:
    # TensorRT 11 came with 26.06. Tags of this form sort as text.
    return Release(tag, triton, onnxruntime, python, tensorrt, 11 if tag >= "26.06" else 10)


RELEASES: dict[str, Release] = {
    each.tag: each
    for each in (
        _release("24.10", "2.51.0", "1.19.2", "3.10"),
        _release("24.11", "2.52.0", "1.19.2", None),
        _release("24.12", "2.53.0", "1.20.1"),
        _release("25.01", "2.54.0", "1.20.1"),
        _release("25.02", "2.55.0", "1.20.1"),
        _release("25.03", "2.56.0", "1.21.0"),
        _release("25.04", "2.57.0", "1.21.0"),
        _release("25.05", "2.58.0", "1.22.0"),
        _release("25.06", "2.59.0", "1.22.0"),
        _release("25.07", "2.59.1", "1.22.0"),
        _release("25.08", "2.60.0", "1.23.0"),
        _release("25.09", "2.61.0", "1.23.0"),
        _release("25.10", "2.62.0", "1.23.1"),
        _release("25.11", "2.63.0", "1.23.2"),
        _release("25.12", "2.64.0", "1.23.2"),
        _release("26.01", "2.65.0", "1.23.2"),
        _release("26.02", "2.66.0", "1.24.1"),
        _release("26.03", "2.67.0", "1.24.2"),
        _release("26.04", "2.68.0", "1.24.4"),
        _release("26.05", "2.69.0", "1.24.4"),
        _release("26.06", "2.70.0", "1.24.4"),
        _release("26.07", "2.71.0", "1.27.0", tensorrt="11.1.0.106"),
        _release("26.08", "2.72.0", "1.28.0"),
        _release("26.09", "2.73.0", None, None),
    )
}


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


def _months(tag: str) -> int:
    year, month = tag.split(".")
    return int(year) * 12 + int(month)
