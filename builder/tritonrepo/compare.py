"""One output against the reference, element by element."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tritonrepo.introspect import Tensor
from tritonrepo.spec import Tolerance

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

FLOATS = ("FP16", "FP32", "FP64", "BF16")

#: What is allowed where the spec says nothing, by the precision of the artefact.
DEFAULTS: Mapping[str, Tolerance] = {
    "fp32": Tolerance(atol=1e-4, rtol=1e-3, of_range=0.0),
    "tf32": Tolerance(atol=1e-2, rtol=1e-2, of_range=2e-3),  # FP32 with inputs rounded as FP16's are
    "fp16": Tolerance(atol=1e-2, rtol=1e-2, of_range=2e-3),
    "mixed": Tolerance(atol=1e-2, rtol=1e-2, of_range=2e-3),
    "bf16": Tolerance(atol=1e-2, rtol=1e-2, of_range=2e-2),
    "int8": Tolerance(atol=1e-2, rtol=1e-2, of_range=1e-1, cosine=0.99),
}


@dataclass(frozen=True)
class OutputError:
    """Largest error of one output over one sample."""

    output: str
    at: str
    """``min``, ``opt``, ``max`` or a sample's file name."""
    shape: tuple[int, ...]
    max_abs: float
    max_rel: float
    """Relative to the reference's element, or to a thousandth of its largest element where that is more."""
    cosine: float
    nans: int
    """Elements that are NaN where the reference's are not; equal NaN and Inf are no error."""
    infs: int
    ok: bool
    worst_index: tuple[int, ...]
    worst_got: float | str
    worst_want: float | str

    def __str__(self) -> str:
        return (
            f"output {self.output} at {self.at}: element {list(self.worst_index)} of {list(self.shape)} is "
            f"{self.worst_got}, the reference has {self.worst_want} (max abs {self.max_abs:.3g}, "
            f"max rel {self.max_rel:.3g}, cosine {self.cosine:.6f}, {self.nans} NaN, {self.infs} Inf)"
        )


def compare(
    output: Tensor, at: str, got: Array, want: Array, tolerance: Tolerance, precision: str = "fp32"
) -> OutputError:
    """Compare one output with the reference, element by element.

    Floats pass where |got - want| <= atol + rtol * |want| + of_range * max |want|, and where both are the same NaN or
    Inf; the output passes where all do and its cosine is at least the tolerance's. Everything else must be equal unless
    a tolerance is given. Different shapes fail.

    Args:
        output: name and type.
        at: where the values come from, for the report.
        got: of the artefact.
        want: of the reference.
        tolerance: as the spec gives it.
        precision: of the artefact; says what is allowed where the tolerance does not.
    """
    import numpy as np

    if got.shape != want.shape:
        shapes = f"shape {list(got.shape)}", f"shape {list(want.shape)}"
        return OutputError(output.name, at, got.shape, 0.0, 0.0, 0.0, 0, 0, False, (), *shapes)
    if output.dtype not in FLOATS and tolerance == Tolerance():
        wrong = np.asarray(got != want)
        amounts = wrong.astype(np.float64)
    else:
        amounts, allowed = _amounts(got, want, _filled(tolerance, precision))
        wrong = ~(amounts <= allowed)
    if not got.size:
        return OutputError(output.name, at, got.shape, 0.0, 0.0, 1.0, 0, 0, True, (), "empty", "empty")
    # A NaN or an Inf that should not be there is worse than any number.
    worst = np.unravel_index(int(np.argmax(np.where(wrong & ~np.isfinite(amounts), np.inf, amounts))), got.shape)
    numeric = got.dtype.kind in "fiub"
    finite = amounts[np.isfinite(amounts)]
    return OutputError(
        output=output.name,
        at=at,
        shape=tuple(int(size) for size in got.shape),
        max_abs=_rounded(finite.max(initial=0.0)),
        max_rel=_rounded(_relative(amounts, want) if numeric else finite.max(initial=0.0)),
        cosine=_cosine(got, want) if numeric else float(not wrong.any()),
        nans=int(np.count_nonzero(_isnan(got) & ~_isnan(want))),
        infs=int(np.count_nonzero(_isinf(got) & ~_isinf(want))),
        ok=not bool(wrong.any()) and (not numeric or _cosine_share(got, want, _filled(tolerance, precision)) <= 1),
        worst_index=tuple(int(index) for index in worst),
        worst_got=_element(got[worst]),
        worst_want=_element(want[worst]),
    )


def share_of_allowed(output: Tensor, got: Array, want: Array, tolerance: Tolerance, precision: str) -> float:
    """The largest error as a share of what is allowed: up to 1 is what ``compare`` lets pass; infinite where a value is
    not finite but should be, where a shape differs, or where what must be equal is not.
    """
    import numpy as np

    if got.shape != want.shape:
        return float("inf")
    if not got.size:
        return 0.0
    if output.dtype not in FLOATS and tolerance == Tolerance():
        return 0.0 if np.array_equal(got, want) else float("inf")
    filled = _filled(tolerance, precision)
    amounts, allowed = _amounts(got, want, filled)
    shares = np.where(amounts == 0, 0.0, amounts / np.maximum(allowed, 1e-30))  # a huge number where nothing is allowed
    largest = float(np.max(np.where(np.isfinite(amounts) & (allowed >= 0), shares, np.inf)))
    return max(largest, _cosine_share(got, want, filled) if got.dtype.kind in "fiub" else 0.0)


def _filled(tolerance: Tolerance, precision: str) -> Tolerance:
    """The tolerance with the precision's own values where it says nothing."""
    given = {name: value for name, value in tolerance if value is not None}
    return DEFAULTS[precision].model_copy(update=given)


def _cosine_share(got: Array, want: Array, tolerance: Tolerance) -> float:
    """How far the cosine is from 1, as a share of how far it may be; 0 where none is asked for or all is 0."""
    import numpy as np

    if tolerance.cosine is None or not np.any(want):
        return 0.0
    return (1.0 - _cosine(got, want)) / max(1.0 - tolerance.cosine, 1e-9)


def _amounts(got: Array, want: Array, tolerance: Tolerance) -> tuple[Array, Array]:
    """|got - want| (0 where both are the same NaN or Inf), and how much is allowed: nothing where want is not finite.

    Args:
        got: of the artefact.
        want: of the reference.
        tolerance: with no value left open.
    """
    import numpy as np

    exact = want.astype(np.float64)
    finite = np.isfinite(exact)
    size = np.abs(exact)
    largest = float(size[finite].max(initial=0.0))
    same = (got == want) | (_isnan(got) & _isnan(want))
    with np.errstate(invalid="ignore", over="ignore"):
        amounts = np.where(same, 0.0, np.abs(got.astype(np.float64) - exact))
        allowed = (tolerance.atol or 0.0) + (tolerance.rtol or 0.0) * size + (tolerance.of_range or 0.0) * largest
    return amounts, np.where(same, 0.0, np.where(finite, allowed, -1.0))


def _relative(amounts: Array, want: Array) -> float:
    import numpy as np

    size = np.abs(want.astype(np.float64))
    finite = np.isfinite(size) & np.isfinite(amounts)
    if not finite.any():
        return 0.0
    floor = max(float(size[finite].max()) * 1e-3, float(np.finfo(np.float32).tiny))
    return float((amounts[finite] / np.maximum(size[finite], floor)).max())


def _cosine(got: Array, want: Array) -> float:
    import numpy as np

    a, b = got.astype(np.float64).ravel(), want.astype(np.float64).ravel()
    finite = np.isfinite(a) & np.isfinite(b)
    a, b = a[finite], b[finite]
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    if size == 0:
        return 1.0 if np.array_equal(a, b) else 0.0
    return round(min(1.0, float(a @ b) / size), 6)


def _isnan(array: Array) -> Array:
    import numpy as np

    return np.isnan(array) if array.dtype.kind == "f" else np.zeros(array.shape, dtype=bool)


def _isinf(array: Array) -> Array:
    import numpy as np

    return np.isinf(array) if array.dtype.kind == "f" else np.zeros(array.shape, dtype=bool)


def _rounded(value: float) -> float:
    """Two significant digits: what a reader needs, and no more than what is the same on every run."""
    return float(f"{value:.1e}")


def _element(value: Any) -> float | str:
    return str(value) if isinstance(value, str | bytes) else float(value)
