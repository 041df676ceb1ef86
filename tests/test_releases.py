"""The table of releases, and what is said of a machine before it builds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tritonrepo.releases import RELEASES, obstacles, table

DOCS = Path(__file__).parents[1] / "docs"


def test_the_table_is_in_order_and_says_nothing_twice() -> None:
    assert list(RELEASES) == sorted(RELEASES)
    cuda = [tuple(map(int, each.cuda.split("."))) for each in RELEASES.values() if each.cuda]
    assert cuda == sorted(cuda)
    for each in RELEASES.values():
        assert (each.cuda is None) == (each.driver is None) == (each.oldest_driver is None)
        if each.driver:
            assert int(each.driver.split(".")[0]) >= int(each.oldest_driver or 0)


@pytest.mark.parametrize(
    ("tag", "machine", "words"),
    [
        ("26.07", {"tensorrt": "11.1.0.106", "driver": "610.43.02", "capability": "9.0"}, []),
        ("26.07", {"tensorrt": "11.0.0.114"}, ["TensorRT 11.0.0.114 builds plans that release 26.07 does not load"]),
        ("25.10", {"tensorrt": "11.1.0.106"}, ["does not load: it has 10.x"]),
        ("25.10", {"tensorrt": "10.13.3.9"}, []),  # its build is not known
        ("26.07", {"driver": "575.57.08"}, ["driver 575.57.08 is older than 580, which CUDA 13.3 of release 26.07"]),
        ("26.07", {"driver": "580.82.07"}, []),
        ("25.06", {"driver": "535.86"}, []),
        ("25.06", {"driver": "470.57"}, ["driver 470.57 is older than 525"]),
        ("26.07", {"capability": "7.0"}, ["runs on compute capability 7.5 and later, the GPU has 7.0"]),
        ("26.07", {"capability": "12.0"}, []),
        ("24.10", {"capability": "7.0"}, []),
        ("25.01", {"capability": "5.0"}, []),  # nothing is known
        ("26.09", {"driver": "1", "capability": "1.0"}, []),
        ("99.01", {"tensorrt": "1.2.3.4", "driver": "1", "capability": "1.0"}, []),
    ],
)
def test_what_stands_in_the_way(tag: str, machine: dict[str, str], words: list[str]) -> None:
    found = obstacles(tag, **machine)
    assert len(found) == len(words)
    for each, word in zip(found, words, strict=True):
        assert word in each.what
        assert each.hint


def test_an_old_gpu_is_told_which_release_it_may_use() -> None:
    (found,) = obstacles("26.07", capability="7.0")
    assert found.hint == "use release 24.10"
    (found,) = obstacles("26.07", capability="5.0")
    assert found.hint == "use a newer GPU"


BEGIN, END = "<!-- made from the code by tests/test_releases.py, from here -->\n", "<!-- to here -->\n"


def test_the_page_is_up_to_date() -> None:
    """Written anew, with UPDATE_DOCS=1 in the environment, else compared."""
    file = DOCS / "releases.md"
    before, rest = file.read_text().split(BEGIN)
    text = f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"
    if os.environ.get("UPDATE_DOCS"):
        file.write_text(text)
    assert file.read_text() == text, f"run: UPDATE_DOCS=1 pytest {Path(__file__).name}"
