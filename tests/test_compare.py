"""One output against the reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tritonrepo.compare import OutputError, compare
from tritonrepo.introspect import Tensor
from tritonrepo.spec import Tolerance


def compared(got: Any, want: Any, dtype: str = "FP32", **tolerance: float) -> OutputError:
    kind = {"FP32": np.float32, "INT64": np.int64, "STRING": object, "BOOL": bool}[dtype]
    tensor = Tensor("y", dtype, (None,))
    return compare(tensor, "opt", np.array(got, kind), np.array(want, kind), Tolerance(**tolerance))


def test_equal_arrays() -> None:
    error = compared([1, 2, 3], [1, 2, 3])
    assert (error.ok, error.max_abs, error.max_rel, error.cosine) == (True, 0.0, 0.0, 1.0)


def test_the_worst_element_is_named() -> None:
    error = compared([[1, 2], [3, 4.5]], [[1, 2], [3, 4]])
    assert (error.ok, error.worst_index, error.worst_got, error.worst_want) == (False, (1, 1), 4.5, 4.0)
    assert (error.max_abs, error.max_rel) == (0.5, 0.12)
    assert "element [1, 1] of [2, 2] is 4.5, the reference has 4.0" in str(error)


@pytest.mark.parametrize(("got", "ok"), [(1.0, True), (1.0009, True), (1.0013, False)])
def test_defaults_are_atol_1e_4_and_rtol_1e_3(got: float, ok: bool) -> None:
    assert compared([got], [1.0]).ok is ok


def test_a_tolerance_takes_the_place_of_the_default() -> None:
    assert compared([1.4], [1.0], atol=0.5, rtol=0).ok
    assert not compared([1.0001], [1.0], atol=0, rtol=0).ok


def test_nan_and_inf_where_the_reference_has_none_fail_and_are_counted() -> None:
    error = compared([math.nan, math.inf, 100], [1, 2, 3], atol=1000)
    assert (error.ok, error.nans, error.infs, error.worst_index) == (False, 1, 1, (0,))


def test_equal_nan_and_inf_pass() -> None:
    error = compared([math.nan, math.inf, -math.inf], [math.nan, math.inf, -math.inf])
    assert (error.ok, error.nans, error.infs, error.max_abs) == (True, 0, 0, 0.0)


def test_a_number_where_the_reference_has_nan_fails() -> None:
    assert not compared([1.0], [math.nan]).ok


def test_infinities_of_other_sign_fail() -> None:
    assert not compared([math.inf], [-math.inf], atol=1e30).ok
    assert not compared([5.0], [math.inf]).ok


def test_integers_and_strings_must_be_equal() -> None:
    assert compared([7], [7], "INT64").ok
    assert not compared([7], [8], "INT64").ok
    assert compared([7], [8], "INT64", atol=1).ok
    assert compared(["a", "ü"], ["a", "ü"], "STRING").ok
    error = compared(["a", "b"], ["a", "c"], "STRING")
    assert (error.ok, error.worst_index, error.worst_got) == (False, (1,), "b")
    assert not compared([True, False], [True, True], "BOOL").ok


def test_other_shapes_fail() -> None:
    error = compared([[1.0]], [1.0])
    assert (error.ok, error.worst_got, error.worst_want) == (False, "shape [1, 1]", "shape [1]")


def test_empty_arrays_pass() -> None:
    assert compared([], []).ok


def test_zeros_against_zeros_have_cosine_one() -> None:
    assert compared([0, 0], [0, 0]).cosine == 1.0
    assert compared([0, 1], [0, 0], atol=2).cosine == 0.0
