"""Artefact against reference -> Verdict. The reference is ONNX Runtime, FP32 on the CPU, on the untouched model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OutputError:
    """Largest error of one output over all samples of one shape set."""

    output: str
    at: str
    """``min``, ``opt``, ``max``, a sample's file name, or ``rows`` for the batch proof."""
    shape: tuple[int, ...]
    max_abs: float
    max_rel: float
    cosine: float
    nans: int
    """NaN where the reference has none (Inf likewise); equal NaN and Inf are no error."""
    infs: int
    ok: bool
    worst_index: tuple[int, ...]
    worst_got: float | str
    worst_want: float | str


@dataclass(frozen=True)
class Verdict:
    """The outcome; ``ok`` only where every output of every sample is within its tolerance."""

    ok: bool
    rows_independent: bool | None
    """Whether rows of a batch were shown to be independent; None where batching was not asked for."""
    errors: tuple[OutputError, ...]
