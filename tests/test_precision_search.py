"""The search for the operators to keep in FP32, against judges whose answer is known."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tritonrepo.prepare.precision.search import Found, Judgement, search

ORDER = [f"n{number:03}" for number in range(200)]


def found(costs: Mapping[str, float], *, max_runs: int = 60, suspects: Mapping[str, str] | None = None) -> Found:
    """A search where each low node costs what the mapping says, and 0.001 otherwise; 1 is allowed."""

    def judge(low: frozenset[str]) -> Judgement:
        return Judgement(sum(costs.get(name, 0.001) for name in low))

    return search(ORDER, judge, suspects=lambda: suspects or {}, max_runs=max_runs)


def test_nothing_is_kept_where_everything_passes() -> None:
    result = found({})
    assert (result.low, dict(result.kept), result.runs, result.complete) == (frozenset(ORDER), {}, 1, True)


@pytest.mark.parametrize("culprits", [["n000"], ["n199"], ["n077"], ["n010", "n150"], ["n050", "n051", "n052"]])
def test_operators_with_a_large_error_are_found(culprits: list[str]) -> None:
    result = found(dict.fromkeys(culprits, 5.0))
    assert list(result.kept) == culprits
    assert result.last.ok
    assert result.first.share > 5
    assert all("error share" in why for why in result.kept.values())
    assert result.runs <= 60


@pytest.mark.parametrize("culprits", [["n000"], ["n120"], ["n199"], ["n003", "n004"]])
def test_operators_that_give_nan_are_found(culprits: list[str]) -> None:
    result = found(dict.fromkeys(culprits, float("inf")))
    assert list(result.kept) == culprits
    assert all(why.startswith("NaN or infinity") for why in result.kept.values())
    assert result.last.ok


def test_what_leaves_the_range_is_kept_without_bisecting() -> None:
    result = found({"n100": float("inf"), "n101": float("inf")}, suspects={"n100": "range: a", "n101": "range: b"})
    assert dict(result.kept) == {"n100": "range: a", "n101": "range: b"}
    assert result.runs == 2


def test_all_three_causes_at_once() -> None:
    costs = {"n020": float("inf"), "n100": float("inf"), "n150": 3.0}
    result = found(costs, suspects={"n020": "range: t reaches 1e6"})
    assert list(result.kept) == ["n020", "n100", "n150"]
    assert [why.split(":")[0].split(" ")[0] for why in result.kept.values()] == ["range", "NaN", "error"]


def test_an_error_that_is_spread_evenly_keeps_enough_of_the_graph() -> None:
    result = found(dict.fromkeys(ORDER, 0.008))
    assert result.last.ok
    assert 100 <= len(result.low) <= 125


@pytest.mark.parametrize("max_runs", [1, 2, 5, 9, 12, 14])
def test_the_number_of_runs_is_bounded_and_the_outcome_is_never_one_that_fails(max_runs: int) -> None:
    result = found({"n033": 4.0, "n111": 4.0}, max_runs=max_runs)
    assert result.runs <= max_runs
    assert not result.complete
    assert not result.low & {"n033", "n111"}


def test_a_graph_that_passes_in_fp32_only_lowers_nothing() -> None:
    result = search(ORDER[:4], lambda low: Judgement(2.0 * len(low)), max_runs=40)
    assert result.low == frozenset()
    assert list(result.kept) == ORDER[:4]
