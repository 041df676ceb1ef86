"""Every rule, by what it says of itself: its examples are checked, mended, shown to the real server, and documented."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from agreement import case
from agreement.case import PYTHON, Case
from agreement.judge import Judgement
from agreement.kept import Kept
from agreement.run import judge
from tritonrepo.check import BLOCKING, NOT_SERVED, RULES, Finding, Rule, Target, check, check_model
from tritonrepo.check._schema import schema
from tritonrepo.check.explain import CONSEQUENCES, explain, overview, page
from tritonrepo.check.fix import mend, write
from tritonrepo.check.model import Repository
from tritonrepo.check.report import SEVERITIES
from tritonrepo.check.rule import Link, Tree
from tritonrepo.check.rules import TOPICS, load_rules

load_rules()
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
DOCS = Path(__file__).parents[1] / "docs"

# The release of the server that judges, and of which it has the core but not every backend.
JUDGED = {"release": "24.10", "only_core": True}
STAGES = {"reject": {"poll", "load"}, "hang": {"hang"}, "crash": {"crash"}}


def found(tree: Tree, root: Path, target: Target) -> tuple[Finding, ...]:
    return check(write_tree(tree, root), target)


def write_tree(tree: Tree, root: Path) -> Path:
    for path, content in tree.items():
        file = root / path
        if path.endswith("/"):
            file.mkdir(parents=True, exist_ok=True)
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Link):
            file.symlink_to(content)
            continue
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


class TestWhatItSays:
    def test_ids_are_in_the_hundred_of_their_topic(self) -> None:
        assert list(RULES) == sorted(RULES)
        for id_, rule in RULES.items():
            assert id_ == rule.id
            assert re.fullmatch(rf"TR{TOPICS.index(rule.topic)}\d\d", id_)

    def test_functions_are_named_once(self) -> None:
        """Code scanning shows the name beside the id."""
        names = [rule.run.__name__ for rule in RULES.values()]
        assert len(set(names)) == len(names)

    @every_rule
    def test_texts(self, rule: Rule) -> None:
        assert rule.severity in SEVERITIES
        assert rule.severity in CONSEQUENCES
        assert 10 <= len(rule.title) <= 100
        assert rule.title[-1] not in ".!"
        assert "\n" not in rule.title
        assert rule.explanation.endswith(".")
        assert "\n" not in rule.explanation

    @every_rule
    def test_examples_are_small_repositories(self, rule: Rule) -> None:
        assert rule.wrong != rule.right
        for tree in (rule.wrong, rule.right):
            assert tree
            for path in tree:
                assert re.fullmatch(r"[^/]+/.*", path)
                assert ".." not in path.split("/")
            assert sum(len(content) for path, content in tree.items() if path.endswith(".pbtxt")) < 2000


@every_rule
def test_the_wrong_example_is_found(rule: Rule, tmp_path: Path) -> None:
    findings = [each for each in found(rule.wrong, tmp_path, rule.target) if each.rule == rule.id]
    assert findings
    model = next(iter(rule.wrong)).split("/")[0]
    assert model in {finding.model for finding in findings}
    for finding in findings:
        assert finding.message
        assert finding.hint
        assert (finding.line is None) == (finding.column is None)
        assert finding.file.is_relative_to(tmp_path)
        if finding.line is not None:
            assert finding.line <= finding.file.read_bytes().count(b"\n") + 1
        if finding.edits:
            assert finding.file.name == "config.pbtxt"


@every_rule
def test_the_right_example_is_clean(rule: Rule, tmp_path: Path) -> None:
    """Neither what the rule itself finds, nor anything for which it would not be served."""
    findings = found(rule.right, tmp_path, rule.target)
    assert [str(each) for each in findings if each.severity in BLOCKING or each.rule == rule.id] == []


@every_rule
def test_a_mend_mends(rule: Rule, tmp_path: Path) -> None:
    """A finding with edits is gone afterwards, and no other takes its place."""
    repository = Repository(write_tree(rule.wrong, tmp_path), schema(rule.target.release))
    models = list(repository.models.values())
    before = [finding for model in models for finding in check_model(model, rule.target)]
    done = mend(models, lambda model: check_model(model, rule.target))
    if not any(finding.edits for finding in before):
        assert done.changes == ()
        return
    write(done.changes)
    after = check(tmp_path, rule.target)
    assert after == done.left
    if any(finding.edits for finding in before if finding.rule == rule.id):
        assert rule.id in {finding.rule for finding in done.mended}
        assert [str(each) for each in after if each.rule == rule.id and each.edits] == []
    assert not any(finding.edits for finding in after)
    blocking = {finding.rule for finding in before if finding.severity in BLOCKING}
    # A text that can be parsed at last may show what else is wrong.
    if all(finding.rule != "TR002" for finding in before):
        assert {finding.rule for finding in after if finding.severity in BLOCKING} <= blocking


@pytest.fixture(scope="session")
def judgements(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Judgement]:
    """What the real server does with the examples of the rules that say that it does not take a model."""
    cases = [
        as_case(rule, name, tree)
        for rule in RULES.values()
        if is_judged(rule, tmp_path_factory.mktemp(rule.id))
        for name, tree in (("wrong", rule.wrong), ("right", rule.right))
    ]
    kept = Kept()
    assert judge(cases, kept, sys.stderr)
    judged = {case.id: kept.get(case) for case in cases}
    return {id_: judgement for id_, judgement in judged.items() if judgement is not None}


def is_judged(rule: Rule, folder: Path) -> bool:
    """Whether the server that judges has what the rule is about: the same core, not the same backends."""
    target = replace(rule.target, **JUDGED)  # type: ignore[arg-type]
    return (
        rule.severity in NOT_SERVED
        and rule.id not in TOO_COSTLY
        and rule.id in {each.rule for each in found(rule.wrong, folder, target)}
    )


def as_case(rule: Rule, name: str, tree: Tree) -> Case:
    """An example for the real server, which runs a model.py: an empty one stands for any that works."""
    files = {path: _as_bytes(content) for path, content in tree.items()}
    files = {path: content or (PYTHON if path.endswith("/model.py") else content) for path, content in files.items()}
    gpus = rule.target.gpus
    return Case(f"rules/{rule.id}/{name}", files, gpus=1 if gpus is None else len(gpus))


def _as_bytes(content: str | bytes) -> bytes:
    if isinstance(content, Link):
        return case.Link(content.encode())
    return content if isinstance(content, bytes) else content.encode()


# Rules outside the topics of backends that the server that judges has nothing to say of, and why.
NOT_JUDGED: Mapping[str, str] = {
    "TR018": "backends look into the file",
    "TR115": "release 24.10 has no model_metrics",
    "TR218": "the TensorRT backend looks at this",
    "TR219": "new in 26.03",
}
# Rules whose wrong example takes all memory of the machine before the server fails.
TOO_COSTLY = {"TR309"}
OF_BACKENDS = {"onnx", "tensorrt"}
# The server refuses these with a word, or crashes as it takes down what it had begun: once in 5 to 30 times, and more
# often when it has just started.
SOMETIMES_A_CRASH = {"TR508", "TR509", "TR510", "TR511", "TR608"}


# The first of these has all examples judged, which takes minutes where no judgements are kept.
@pytest.mark.timeout(3600)
@pytest.mark.server
@every_rule
def test_the_server_agrees(rule: Rule, judgements: Mapping[str, Judgement]) -> None:
    wrong, right = (judgements.get(f"rules/{rule.id}/{name}") for name in ("wrong", "right"))
    if wrong is None or right is None:
        excused = rule.id in NOT_JUDGED or rule.id in TOO_COSTLY
        assert rule.severity not in NOT_SERVED or rule.topic in OF_BACKENDS or excused
        return
    assert rule.id not in NOT_JUDGED
    expected = STAGES[rule.severity] | ({"load", "crash"} if rule.id in SOMETIMES_A_CRASH else set())
    assert wrong.stage in expected, wrong
    assert right.accepted, right


class TestDocs:
    def test_the_page_is_current(self) -> None:
        """Written anew, with UPDATE_DOCS=1 in the environment, else compared."""
        file, text = DOCS / "rules.md", page(RULES.values())
        if os.environ.get("UPDATE_DOCS"):
            file.write_text(text)
        assert file.read_text() == text, f"run: UPDATE_DOCS=1 pytest {Path(__file__).name}"

    @every_rule
    def test_a_rule_is_explained(self, rule: Rule) -> None:
        text = explain(rule)
        assert text.startswith(f"{rule.id} ({rule.severity}): {rule.title}\n")
        assert " ".join(rule.explanation.split()) in " ".join(text.split())
        wrong, right = text.split("\nRight:\n")
        for path in rule.wrong:
            assert f"\n  {path}\n" in wrong
            assert (path in rule.right) == (f"  (no {path})\n" not in right)
        for path, content in rule.right.items():
            assert (content != rule.wrong.get(path)) == (f"  {path}\n" in right)

    def test_the_overview_has_every_rule_once(self) -> None:
        lines = overview(RULES.values()).splitlines()
        assert [line.split()[0] for line in lines if line.startswith("  ")] == list(RULES)
        assert sum(line.startswith("TR") for line in lines) == len({rule.topic for rule in RULES.values()})
