"""The only door to TensorRT: whether a plan can be built on this machine, and why not.

Nothing else in tritonrepo imports ``tensorrt``, so that the differences between 10.x and 11.x stay in one place.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Availability:
    """Whether plans can be built here."""

    ok: bool
    reason: str
    """What is missing, or which version was found; for people."""
    version: str | None = None


def availability() -> Availability:
    """Look for the bindings and their library; building is not tried."""
    try:
        import tensorrt  # noqa: TID251 - this is the door
    except ImportError as error:
        missing = "the Python bindings are not installed" if isinstance(error, ModuleNotFoundError) else str(error)
        return Availability(False, f"TensorRT cannot be used here: {missing}")
    version = str(tensorrt.__version__)
    return Availability(
        False,
        f"TensorRT {version} is installed, but this version of tritonrepo builds no plans yet",
        version,
    )
