"""The harness that sets `check` against the real server: its cases, its judge, and what both say of each other."""

from __future__ import annotations

import io
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agreement import cases_ours, cases_qa, judge, mutants, run
from agreement.case import Case, Link, content_of, identity, model, onnx, python, tensorrt, write_tree
from agreement.compare import Outcome, compare, describe
from agreement.judge import Judge, Judgement
from agreement.kept import Kept
from agreement.mutant_bases import BASES, PYTHON_BASES
from agreement.recorded import recorded

ROOT = Path(__file__).parents[1]
IO = 'input { name: "x" data_type: TYPE_FP32 dims: 4 } output { name: "y" data_type: TYPE_FP32 dims: 4 }\n'

# Fields of releases after the one that judges; cases show that it does not know them.
LATER = {"inference.ModelConfig.model_metrics", "inference.ModelEnsembling.max_inflight_requests"}


@pytest.fixture(scope="module")
def qa() -> list[Case]:
    return list(cases_qa.cases())


@pytest.fixture(scope="module")
def ours() -> list[Case]:
    return list(cases_ours.cases())


class TestCases:
    def test_every_case_of_the_servers_own_tests_has_an_equivalent_or_a_reason(self, qa: list[Case]) -> None:
        told = {case.id.removeprefix("qa/").partition("@")[0] for case in qa}
        assert not told & cases_qa.LEFT_OUT.keys()
        assert len(told) + len(cases_qa.LEFT_OUT) == 212
        folders = Counter(name.split("/")[0] for name in told | cases_qa.LEFT_OUT.keys())
        assert folders == {
            "noautofill_platform": 58,
            "autofill_noplatform": 92,
            "autofill_noplatform_success": 56,
            "special_cases": 4,
            "cli_messages": 2,
        }
        assert all(cases_qa.LEFT_OUT.values())

    def test_there_are_enough_by_hand(self, ours: list[Case]) -> None:
        assert len(ours) >= 500

    def test_ids_are_unique_and_say_where_to_look(self, qa: list[Case], ours: list[Case]) -> None:
        ids = [case.id for case in qa + ours]
        assert len(set(ids)) == len(ids)
        assert all(case.id.startswith("qa/") for case in qa)
        assert all(case.id.startswith("ours/") for case in ours)

    def test_cases_differ(self, ours: list[Case]) -> None:
        """Nothing is judged twice under different names, beside a few that come out of two tables."""
        digests = Counter(case.digest for case in ours)
        assert sum(count - 1 for count in digests.values()) <= 20

    def test_every_field_is_set_by_a_case(self, ours: list[Case]) -> None:
        wanted = {field.full_name for message in _messages() for field in message.fields} - LATER
        missing = wanted - set().union(*(_fields_of(case) for case in ours))
        assert missing == set()

    def test_trees_can_be_written(self, qa: list[Case], ours: list[Case]) -> None:
        for case in [*qa, *ours, *mutants.cases(300, 1)]:
            for path, content in case.tree.items():
                assert not path.startswith("/")
                assert "" not in path.rstrip("/").split("/")
                assert not (path.endswith("/") and content)
                inside = [other for other in case.tree if other.startswith(f"{path.rstrip('/')}/") and other != path]
                assert path.endswith("/") or not inside, (case.id, path)

    def test_links_are_written_and_read(self, tmp_path: Path) -> None:
        tree = {"m": Link(b"real"), "real/config.pbtxt": Link(b"../texts/one"), "texts/one": b"name: 1"}
        write_tree(tree, str(tmp_path))
        for path in ("m/config.pbtxt", "real/config.pbtxt", "texts/one"):
            assert content_of(tree, path) == (tmp_path / path).read_bytes() == b"name: 1"
        with pytest.raises(KeyError):
            content_of({"m/a": Link(b"a")}, "m/b")


def _messages() -> list[Any]:
    from tritonclient.grpc import model_config_pb2

    found: dict[str, Any] = {}

    def walk(message: Any) -> None:
        if message.full_name in found:
            return
        found[message.full_name] = message
        for field in message.fields:
            if field.message_type is not None and field.full_name not in LATER:
                walk(field.message_type)

    walk(model_config_pb2.ModelConfig.DESCRIPTOR)
    return list(found.values())


def _fields_of(case: Case) -> Iterator[str]:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    from agreement.mutate_message import parses

    for path, content in case.tree.items():
        if path.endswith("/config.pbtxt") and parses(content):
            config = model_config_pb2.ModelConfig()
            text_format.Parse(content, config)
            yield from _set_in(config)


def _set_in(message: Any) -> Iterator[str]:
    for field, value in message.ListFields():
        yield field.full_name
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            yield from (part.full_name for part in field.message_type.fields)
            if field.message_type.fields_by_name["value"].message_type is not None:
                for key in value:
                    yield from _set_in(value[key])
        elif field.is_repeated:
            for each in value:
                yield from _set_in(each)
        else:
            yield from _set_in(value)


class TestMutants:
    def test_a_mutant_is_the_same_every_time(self) -> None:
        first = [case.digest for case in mutants.cases(50, 7)]
        assert first == [mutants.mutant(number, 7).digest for number in range(50)]
        code = "from agreement import mutants; print(mutants.mutant(49, 7).digest)"
        again = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "tests"
        ).stdout.strip()
        assert again == first[-1]

    def test_seeds_differ(self) -> None:
        one, other = ({case.digest for case in mutants.cases(50, seed)} for seed in (1, 2))
        assert len(one & other) < 10

    def test_most_differ_from_what_they_were_made_of(self) -> None:
        made = {case.digest for case in mutants.cases(1000, 1)}
        bases = {Case("", tree).digest for tree in [*BASES, *PYTHON_BASES]}
        assert len(made) > 900
        assert len(made & bases) < 10

    def test_ids_name_seed_and_number(self) -> None:
        assert [case.id for case in mutants.cases(2, 5)] == ["mutants/5/0", "mutants/5/1"]


class TestKept:
    def test_is_found_again_and_by_others(self, tmp_path: Path) -> None:
        cases = [Case("a", {"m/config.pbtxt": b"a"}), Case("b", {"m/config.pbtxt": b"b"})]
        judgements = [Judgement("loaded", seconds=0.5), Judgement("poll", '1:2: "ü"\n', "m")]
        writer, reader = Kept(tmp_path), Kept(tmp_path)
        writer.add(cases, judgements)
        reader.refresh()
        for kept in (writer, reader, Kept(tmp_path)):
            assert [kept.get(case) for case in cases] == judgements
            assert len(kept) == 2

    def test_depends_on_content_and_gpus_and_not_on_the_id(self, tmp_path: Path) -> None:
        kept = Kept(tmp_path)
        case = Case("a", {"m/config.pbtxt": b"a"})
        kept.add([case], [Judgement("loaded")])
        assert kept.get(Case("other", {"m/config.pbtxt": b"a"})) is not None
        assert kept.get(Case("a", {"m/config.pbtxt": b"a"}, gpus=2)) is None
        assert kept.get(Case("a", {"m/config.pbtxt": b"b"})) is None
        assert kept.get(Case("a", {"m/config.pbtxt": b"a", "m/1/": b""})) is None

    def test_a_line_that_is_cut_off_is_not_read(self, tmp_path: Path) -> None:
        kept = Kept(tmp_path)
        case = Case("a", {"m/config.pbtxt": b"a"})
        kept.add([case], [Judgement("loaded")])
        with kept.path.open("ab") as file:
            file.write(b'["0123')
        assert Kept(tmp_path).get(case) == Judgement("loaded")


class TestComparison:
    def test_severities_that_say_no(self, tmp_path: Path) -> None:
        good, bad = Case("good", onnx(IO)), Case("bad", onnx(f"max_batch_size: -1\n{IO}"))
        refused = Judgement("poll", "no", "m")
        assert not compare(good, Judgement("loaded"), tmp_path).disagrees
        assert compare(good, refused, tmp_path).disagrees
        assert compare(bad, Judgement("loaded"), tmp_path).disagrees
        for stage in ("poll", "load", "crash", "hang"):
            assert not compare(bad, Judgement(stage, "no", "m"), tmp_path).disagrees

    def test_what_is_known_needs_no_judgement(self, tmp_path: Path) -> None:
        assert compare(Case("a", onnx("max_batch_size: -1"), known=True), None, tmp_path).disagrees
        assert not compare(Case("a", onnx("max_batch_size: -1"), known=False), None, tmp_path).disagrees

    def test_what_is_left_out_never_disagrees(self, tmp_path: Path) -> None:
        case = Case("a", onnx("max_batch_size: -1"), beyond="a reason")
        assert not compare(case, Judgement("loaded"), tmp_path).disagrees

    def test_number_of_gpus_is_told(self, tmp_path: Path) -> None:
        tree = onnx(f"{IO}instance_group {{ kind: KIND_GPU gpus: 1 }}")
        assert not compare(Case("a", tree, gpus=2), Judgement("loaded"), tmp_path).disagrees
        assert compare(Case("a", tree, gpus=1), Judgement("loaded"), tmp_path).disagrees

    def test_parse_errors_by_words_and_place(self, tmp_path: Path) -> None:
        case = Case("a", model("m", "max_batch_size: x"))
        right = "1:17: Expected integer, got: x"
        assert compare(case, Judgement("poll", right, "m"), tmp_path).same_fault is True
        assert compare(case, Judgement("poll", "1:16: Expected integer, got: x", "m"), tmp_path).same_fault is False
        assert compare(case, Judgement("poll", "something else", "m"), tmp_path).same_fault is None

    def test_a_disagreement_is_described_whole(self, tmp_path: Path) -> None:
        case = Case("ours/a", {**onnx(IO), "m/labels.txt": b"\xff"})
        text = describe(compare(case, Judgement("load", "the server's words", "m"), tmp_path))
        for part in (
            "ours/a",
            "load the server's words",
            "finds nothing",
            "--- m/config.pbtxt",
            IO.strip(),
            "labels.txt",
        ):
            assert part in text

    def test_summary_counts(self) -> None:
        outcomes = [
            Outcome(Case("qa/a", {}), "loaded", "", ()),
            Outcome(Case("qa/b", {}), "poll", "1:1: x", ("no",), same_fault=True),
            Outcome(Case("ours/c", {}), "crash", "", ()),
            Outcome(Case("ours/d", {}, beyond="x"), "load", "", ()),
        ]
        out = io.StringIO()
        run.summary(outcomes, out)
        _, first, second = out.getvalue().splitlines()
        assert first.split() == ["qa", "2", "1", "1", "0", "0", "0", "0", "1", "1"]
        assert second.split() == ["ours", "2", "0", "1", "1", "0", "1", "1", "0", "0"]


class TestRecord:
    """The judgements that are kept in the repository, for machines that have no server."""

    def test_is_of_this_judge_and_of_these_cases(self, qa: list[Case], ours: list[Case]) -> None:
        known = recorded()
        assert known is not None, "the judge has changed: `python -m tests.agreement.run --record`"
        missing = [case.id for case in qa + ours if case.known is None and case.digest not in known]
        assert missing == [], "new cases: `python -m tests.agreement.run --record`"

    def test_check_agrees_with_it(self, qa: list[Case], ours: list[Case], tmp_path: Path) -> None:
        known = recorded() or {}
        outcomes = [compare(case, known.get(case.digest), tmp_path) for case in qa + ours]
        assert "".join(describe(each) for each in outcomes if each.disagrees) == ""


@pytest.fixture(scope="module")
def server() -> Iterator[Judge]:
    if judge.missing():
        pytest.skip(judge.missing())
    with Judge() as started:
        yield started


@pytest.mark.server
@pytest.mark.xdist_group("judge")
class TestJudge:
    def test_what_it_says(self, server: Judge) -> None:
        trees = [
            onnx(IO),
            onnx(f"max_batch_size: -1\n{IO}"),
            onnx(f"{IO}colour: 1"),
            model("m", f'backend: "onnxruntime"\n{IO}', "1/"),
            tensorrt(f"{IO}instance_group {{ kind: KIND_CPU }}"),
            model("m", f'backend: "nothing"\n{IO}', "1/"),
            {**onnx(IO, "a"), **onnx("max_batch_size: -1", "b")},
            {},
        ]
        loaded, negative, unknown, missing, on_cpu, backend, second, nothing = server.judge(trees)
        assert loaded.accepted
        assert nothing.accepted
        assert (negative.stage, negative.model) == ("poll", "m")
        assert "must be non-negative" in negative.reason
        assert unknown.reason == '3:7: Message type "inference.ModelConfig" has no field named "colour".'
        assert missing.stage == on_cpu.stage == backend.stage == "load"
        assert "file is missing" in missing.reason
        assert "GPUs only" in on_cpu.reason
        assert "unable to find backend library" in backend.reason
        assert (second.stage, second.model) == ("poll", "b")

    def test_gpus(self, server: Judge) -> None:
        tree = tensorrt(f"{IO}instance_group {{ kind: KIND_GPU gpus: 1 }}")
        assert [server.judge([tree], gpus=gpus)[0].accepted for gpus in (0, 1, 2)] == [False, False, True]

    def test_a_crash_is_told_from_its_neighbours(self, server: Judge) -> None:
        crash = onnx(f'{IO}metric_tags {{ key: "a-b" value: "c" }}')
        results = server.judge([onnx(IO), crash, onnx(IO), onnx("max_batch_size: -1")])
        assert [each.stage for each in results] == ["loaded", "crash", "loaded", "poll"]
        assert "Invalid label name" in results[1].reason

    def test_a_hang_is_told_from_its_neighbours(self) -> None:
        if judge.missing():
            pytest.skip(judge.missing())
        hang = {"m/config.pbtxt": f'backend: "python"\n{IO}'.encode(), "m/1/": b""}
        with Judge(limit=2) as server:
            results = server.judge([onnx(IO), hang, onnx(IO)])
        assert [each.stage for each in results] == ["loaded", "hang", "loaded"]

    def test_one_case_does_not_change_the_next(self, server: Judge) -> None:
        good, bad = identity(IO), identity(f"{IO}version_policy {{ specific {{}} }}")
        stages = [each.stage for each in server.judge([good, bad] * 20)]
        assert stages == ["loaded", "load"] * 20

    def test_the_python_backend_is_the_real_one(self, server: Judge) -> None:
        works, fails = server.judge(
            [python("p", f'backend: "python"\n{IO}'), python("p", f'backend: "python"\n{IO}', b"x")]
        )
        assert works.accepted
        assert "NameError" in fails.reason

    def test_names_that_urls_do_not_take(self, server: Judge) -> None:
        assert [each.stage for each in server.judge([onnx(IO, "my größe?"), onnx("x", "a b")])] == ["loaded", "poll"]

    def test_what_mutants_are_made_of_loads(self, server: Judge) -> None:
        assert [each.reason for each in server.judge([*BASES, *PYTHON_BASES])] == [""] * (
            len(BASES) + len(PYTHON_BASES)
        )

    def test_a_sample_of_the_record_is_judged_the_same(self, server: Judge, qa: list[Case], ours: list[Case]) -> None:
        known = recorded() or {}
        sample = [case for case in (qa + ours)[::23] if case.known is None and known[case.digest].stage != "hang"]
        for gpus in (0, 1, 2):
            cases = [case for case in sample if case.gpus == gpus]
            judged = server.judge([case.tree for case in cases], gpus=gpus)
            differing = [(case.id, found) for case, found in zip(cases, judged, strict=True)
                         if found.accepted != known[case.digest].accepted]  # fmt: skip
            assert differing == []


@pytest.mark.server
@pytest.mark.xdist_group("judge")
def test_check_agrees_on_500_mutants(tmp_path: Path) -> None:
    if judge.missing():
        pytest.skip(judge.missing())
    out = tmp_path / "disagreements.txt"
    code = run.main(["--cases", "mutants", "--count", "500", "--seed", "1", "--out", str(out)])
    assert out.read_text(encoding="utf-8") == ""
    assert code == 0
