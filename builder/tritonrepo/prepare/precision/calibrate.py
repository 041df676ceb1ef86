"""The range of each activation, from samples: what INT8 scales are made of.

The same samples in the same order give the same ranges, bit for bit: nothing is drawn at random, and histograms count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from tritonrepo.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    import onnx

    Array = np.ndarray[Any, Any]
    Arrays = Mapping[str, Array]

Method = Literal["minmax", "entropy", "percentile"]

#: Gives the values of tensors for one sample: (names, inputs) -> arrays.
Observe = Callable[[Sequence[str], "Arrays"], "Arrays"]

#: Bins of a histogram of magnitudes.
BINS = 2048

#: Levels of an INT8 magnitude.
_LEVELS = 128

#: Tensors whose values are in memory at once.
_AT_ONCE = 16


def ranges(
    tensors: Sequence[str],
    samples: Callable[[], Iterable[Arrays]],
    observe: Observe,
    method: Method,
    percentile: float,
) -> dict[str, float]:
    """The magnitude of each tensor that INT8's 127 stands for.

    Args:
        tensors: names.
        samples: gives the samples, each time anew.
        observe: runs the model.
        method: ``minmax``: the largest magnitude seen. ``percentile``: the magnitude that this share of all values does
            not exceed. ``entropy``: the one that loses the least information (Kullback-Leibler divergence).
        percentile: in percent, for ``percentile``.

    Raises:
        ModelError: a tensor holds NaN or infinite values for a sample.
    """
    found: dict[str, float] = {}
    names = list(dict.fromkeys(tensors))
    for start in range(0, len(names), _AT_ONCE):
        part = names[start : start + _AT_ONCE]
        largest = _largest(part, samples, observe)
        if method == "minmax":
            found.update(largest)
            continue
        histograms = _histograms(largest, samples, observe)
        for name in part:
            bins = (
                _percentile_bins(histograms[name], percentile)
                if method == "percentile"
                else _entropy_bins(histograms[name])
            )
            found[name] = largest[name] * bins / BINS
    return found


def _largest(names: Sequence[str], samples: Callable[[], Iterable[Arrays]], observe: Observe) -> dict[str, float]:
    import numpy as np

    largest = dict.fromkeys(names, 0.0)
    for number, sample in enumerate(samples()):
        for name, array in observe(names, sample).items():
            top = float(np.abs(array).max(initial=0.0))
            if not np.isfinite(top):
                raise ModelError(
                    f"calibration sample {number} makes tensor {name} NaN or infinite",
                    hint="Leave the sample out, or repair it: its values must be those that the model was trained for.",
                )
            largest[name] = max(largest[name], top)
    return largest


def _histograms(
    largest: Mapping[str, float], samples: Callable[[], Iterable[Arrays]], observe: Observe
) -> dict[str, Array]:
    """How often each magnitude occurs: ``BINS`` bins from 0 to the largest; exact zeros are left out."""
    import numpy as np

    counts = {name: np.zeros(BINS, np.int64) for name in largest}
    for sample in samples():
        for name, array in observe(list(largest), sample).items():
            size = np.abs(array[array != 0]).astype(np.float64)
            if size.size and largest[name]:
                index = np.minimum((size * (BINS / largest[name])).astype(np.int64), BINS - 1)
                counts[name] += np.bincount(index, minlength=BINS)
    return counts


def _percentile_bins(histogram: Array, percentile: float) -> int:
    """How many bins hold this share of all values."""
    import numpy as np

    total = int(histogram.sum())
    if not total:
        return BINS
    return int(np.searchsorted(np.cumsum(histogram), total * percentile / 100.0)) + 1


def _entropy_bins(histogram: Array) -> int:
    """How many bins to keep so that the distribution, cut there and put into 128 levels, is nearest to what it was."""
    import numpy as np

    counts = histogram.astype(np.float64)
    if not counts.sum():
        return BINS
    best, least = BINS, np.inf
    beyond = np.concatenate([np.cumsum(counts[::-1])[::-1], [0.0]])
    for bins in range(_LEVELS, BINS + 1, 16):
        clipped = counts[:bins].copy()
        clipped[-1] += beyond[bins]
        divergence = _divergence(clipped, counts[:bins])
        if divergence < least:
            best, least = bins, divergence
    return best


def _divergence(reference: Array, counts: Array) -> float:
    """Kullback-Leibler divergence between a clipped distribution and the same after rounding to 128 levels."""
    import numpy as np

    edges = (np.arange(_LEVELS) * len(counts)) // _LEVELS
    filled = counts > 0
    total = np.add.reduceat(counts, edges)
    occupied = np.add.reduceat(filled.astype(np.float64), edges)
    widths = np.diff(np.append(edges, len(counts)))
    level = np.repeat(np.divide(total, occupied, out=np.zeros_like(total), where=occupied > 0), widths)
    rounded = np.where(filled, level, 0.0)
    p, q = reference / reference.sum(), rounded / max(rounded.sum(), 1e-300)
    holds = p > 0
    return float(np.sum(p[holds] * np.log(p[holds] / np.maximum(q[holds], 1e-12))))


def with_outputs(model: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """The model with some of its FP32 tensors among its outputs, so that they can be seen."""
    import onnx
    from onnx import helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    have = {value.name for value in result.graph.output}
    for name in tensors:
        if name not in have:
            result.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return result
