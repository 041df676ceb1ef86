"""ONNX's own test cases through the real server: a fixed sample, and every case that ever failed."""

from __future__ import annotations

import io
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import graphs
from conformance import run, table, variants
from conformance.case import Case, difference
from conformance.collect import cases
from conformance.kept import Kept
from conformance.outcome import Outcome

_SAMPLE = 150


def outcome(**fields: Any) -> Outcome:
    return Outcome(
        **{"id": "node/test_a", "reference": "passes", "reference_said": "", "stage": "answer", "said": "", **fields}
    )


@pytest.fixture(scope="module")
def corpus() -> list[Case]:
    return cases()


@pytest.mark.server
@pytest.mark.xdist_group("conformance")
@pytest.mark.timeout(1500)
def test_a_sample_and_what_ever_failed_is_served_or_refused_by_name(corpus: list[Case]) -> None:
    before = set(run.failed_before())
    chosen = run.select(corpus, count=_SAMPLE)
    chosen += [case for case in corpus if case.id in before and case not in chosen]
    assert len(chosen) >= _SAMPLE + len(before) // 2
    outcomes = dict(run.settle(chosen, None, 2, sys.stderr))
    assert len(outcomes) == len(chosen)
    assert "\n".join(run.describe(each) for each in outcomes.values() if each.verdict == "failed") == ""
    counts = Counter(each.verdict for each in outcomes.values())
    assert counts["served"] > 2 * counts["refused"]
    assert sum(each.batches for each in outcomes.values()) > 30


class TestCases:
    def test_there_are_all(self, corpus: list[Case]) -> None:
        kinds = Counter(case.kind for case in corpus)
        assert kinds["node"] >= 1500 and kinds["simple"] >= 20 and kinds["light"] == 9
        assert kinds["pytorch-converted"] >= 50 and kinds["pytorch-operator"] >= 20
        assert len({case.name.lower() for case in corpus}) == len(corpus)
        assert all(case.sets and case.sets[0][1] for case in corpus)

    def test_are_the_same_every_time(self, corpus: list[Case]) -> None:
        again = {case.id: case.digest for case in cases()}
        assert all(again[case.id] == case.digest for case in corpus)

    def test_what_ever_failed_is_still_there(self, corpus: list[Case]) -> None:
        listed = run.failed_before()
        assert listed == sorted(set(listed))
        assert set(listed) <= {case.id for case in corpus}

    def test_selection(self, corpus: list[Case]) -> None:
        sample = run.select(corpus, count=_SAMPLE)
        assert len(sample) == _SAMPLE and sample == run.select(corpus[::-1], count=_SAMPLE)
        assert sample != run.select(corpus, count=_SAMPLE, seed=2)
        assert {case.id for case in run.select(corpus, "node/test_relu$")} == {"node/test_relu"}


@pytest.mark.parametrize(
    ("got", "want", "words"),
    [
        (np.array([1, 2], "float32"), np.array([1, 2.0001], "float32"), ""),
        (np.array([1, 2], "float32"), np.array([1, 2.1], "float32"), "1 of 2 elements differ; element 1"),
        (np.array([1, np.nan], "float32"), np.array([1, np.nan], "float32"), ""),
        (np.array([1, np.inf], "float32"), np.array([1, np.nan], "float32"), "1 of 2"),
        (np.array([[1, 2]], "float32"), np.array([1, 2], "float32"), "shape [1, 2] instead of [2]"),
        (np.array([1], "float64"), np.array([1], "float32"), "type float64 instead of float32"),
        (np.array([5], "int64"), np.array([6], "int64"), "element 0 is 5 instead of 6"),
        (np.array([b"a"], object), np.array(["a"], object), ""),
        (np.array([b"b"], object), np.array(["a"], object), "1 of 1"),
        (np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32), ""),
        ([np.array([1], "float32")], [np.array([1], "float32")], ""),
        ([np.array([1], "float32")], [], "another length"),
        (None, np.array([1], "float32"), "NoneType instead of ndarray"),
    ],
)
def test_what_counts_as_equal(got: Any, want: Any, words: str) -> None:
    found = difference(got, want, 1e-3, 1e-7)
    assert (words in found) if words else (found == "")


@pytest.mark.parametrize(
    ("fields", "verdict", "reason"),
    [
        ({}, "served", ""),
        ({"said": "wrong answer: y"}, "failed", ""),
        ({"reference": "differs"}, "runtime", ""),
        ({"reference": "differs", "said": "wrong answer: y"}, "failed", ""),
        ({"stage": "serve", "said": "not loaded: x"}, "failed", ""),
        (
            {"stage": "serve", "reference": "fails", "said": "not answered: m: while running Div node"},
            "runtime",
            "operator",
        ),
        ({"stage": "serve", "reference": "fails", "said": "not answered: m: stopped"}, "failed", ""),
        (
            {"stage": "serve", "reference": "passes", "said": "not answered: m: while running Div node"},
            "failed",
            "operator",
        ),
        ({"rows": "failed: rows [0]", "batch": 8}, "failed", ""),
        ({"rows": "not batched: auto: x"}, "served", ""),
        (
            {"stage": "build", "said": "input 'x' is of type sequence, which Triton cannot carry"},
            "refused",
            "type: sequence",
        ),
        ({"stage": "build", "said": "operator Add (version 6) is not implemented"}, "failed", "operator: Add 6"),
        (
            {"stage": "build", "reference": "refuses", "said": "operator Add (version 6) is not implemented"},
            "refused",
            "operator: Add 6",
        ),
        ({"stage": "build", "reference": "refuses", "said": "it does not work"}, "failed", ""),
        ({"stage": "build", "reference": "refuses", "said": "a traceback: operator Add: x"}, "failed", ""),
    ],
)
def test_what_is_right(fields: Mapping[str, Any], verdict: str, reason: str) -> None:
    found = outcome(**fields)
    assert found.verdict == verdict
    assert found.reason.startswith(reason)


def test_relabelled_models_differ_in_their_first_axis_only(tmp_path: Path) -> None:
    static = graphs.static_batch(tmp_path).read_bytes()
    made = variants.batched(Case("a/b", static, (), 0, 0))
    assert made is not None
    model = onnx.load_model_from_string(made)
    assert {value.type.tensor_type.shape.dim[0].dim_param for value in (*model.graph.input, *model.graph.output)} == {
        "batch"
    }
    for write in (graphs.no_batch, graphs.scalar_output, graphs.no_inputs, graphs.sequence_io, graphs.mlp):
        assert variants.batched(Case("a/b", write(tmp_path).read_bytes(), (), 0, 0)) is None
    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [0, 2])]
    empty = helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values, values))
    assert variants.batched(Case("a/b", empty.SerializeToString(), (), 0, 0)) is None


def test_outcomes_are_kept_by_content(tmp_path: Path) -> None:
    one = Case("node/test_a", b"a", (({"x": np.array([1], "float32")}, {}),), 1e-3, 1e-7)
    other = Case("node/test_a", b"a", (({"x": np.array([2], "float32")}, {}),), 1e-3, 1e-7)
    kept = Kept(tmp_path)
    kept.add(one, outcome(batch=8, rows="equal"))
    with kept.path.open("a") as file:
        file.write('["cut')
    again = Kept(tmp_path)
    assert again.get(one) == outcome(batch=8, rows="equal")
    assert again.get(other) is None


def test_a_run_goes_on_where_it_was(tmp_path: Path) -> None:
    case = Case("node/test_a", b"a", (), 1e-3, 1e-7)
    kept = Kept(tmp_path)
    kept.add(case, outcome())
    out = io.StringIO()
    assert dict(run.settle([case], kept, 1, out)) == {"node/test_a": outcome()}
    assert "1 cases are known" in out.getvalue()


def test_tables() -> None:
    outcomes = [
        outcome(rows="equal", batch=32),
        outcome(id="node/test_b", stage="build", said="input 'x' has element type int4, which Triton cannot carry"),
        outcome(id="simple/test_c", reference="differs", reference_said="y: 1 of 2 | differ"),
        outcome(id="simple/test_d", samples=True),
        outcome(id="simple/test_e", said="wrong answer: y"),
    ]
    text = table.page(outcomes, f"# Title\n\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    assert text.startswith("# Title\n\n") and text.endswith(f"{table.END}\nafter\n") and "old" not in text
    assert "| all | 5 | 2 | 1 | 1 | 1 | 1 | 1 |" in text
    for part in ("| type: int4 | 1 | node/test_b |", "| simple/test_c | y: 1 of 2 differ |", "simple/test_d", "wrong"):
        assert part in text
    assert text == table.page(outcomes, text)
    assert table.summary(outcomes).split("\n")[1].split() == ["node", "2", "1", "0", "1", "0", "1", "0"]
