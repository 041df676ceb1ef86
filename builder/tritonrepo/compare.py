"""One output against the reference, element by element."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tritonrepo.introspect import Tensor
from tritonrepo.spec import Tolerance

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

FLOATS = ("FP16", "FP32", "FP64", "BF16")

_DEFAULT_ATOL, _DEFAULT_RTOL = 1e-4, 1e-3


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


def compare(output: Tensor, at: str, got: Array, want: Array, tolerance: Tolerance) -> OutputError:
    """Compare one output with the reference, element by element.

    Floats pass where |got - want| <= atol + rtol * |want|, and where both are the same NaN or Inf. Everything else must
    be equal unless a tolerance is given. Different shapes fail.
    """
    import numpy as np

    if got.shape != want.shape:
        shapes = f"shape {list(got.shape)}", f"shape {list(want.shape)}"
        return OutputError(output.name, at, got.shape, 0.0, 0.0, 0.0, 0, 0, False, (), *shapes)
    if output.dtype not in FLOATS and tolerance == Tolerance():
        wrong = np.asarray(got != want)
        amounts = wrong.astype(np.float64)
    else:
        amounts, wrong = _amounts(got, want, tolerance)
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
        ok=not bool(wrong.any()),
        worst_index=tuple(int(index) for index in worst),
        worst_got=_element(got[worst]),
        worst_want=_element(want[worst]),
    )


def _amounts(got: Array, want: Array, tolerance: Tolerance) -> tuple[Array, Array]:
    """|got - want| (0 where both are the same NaN or Inf), and where it is beyond the tolerance."""
    import numpy as np

    atol = _DEFAULT_ATOL if tolerance.atol is None else tolerance.atol
    rtol = _DEFAULT_RTOL if tolerance.rtol is None else tolerance.rtol
    same = (got == want) | (_isnan(got) & _isnan(want))
    with np.errstate(invalid="ignore", over="ignore"):
        amounts = np.where(same, 0.0, np.abs(got.astype(np.float64) - want.astype(np.float64)))
        within = np.isfinite(want.astype(np.float64)) & (amounts <= atol + rtol * np.abs(want.astype(np.float64)))
        wrong = ~same & ~within
    return amounts, wrong


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
