"""Rules of ensembles (TR7xx) across the models of a repository, beyond their examples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tritonrepo.check import NOT_SERVED, Target, check, check_model, check_staged
from tritonrepo.check._graph import Cycles, cycles
from tritonrepo.check._schema import schema
from tritonrepo.check.model import Repository
from tritonrepo.check.rules import load_rules

SERVER = Target(release="24.10", only_core=True)
TENSOR = "data_type: TYPE_FP32 dims: 3"


def part(more: str = "", inputs: str = "x", outputs: str = "y", tensor: str = TENSOR) -> str:
    ios = [f'input {{ name: "{name}" {tensor} }}' for name in inputs.split()]
    ios += [f'output {{ name: "{name}" {tensor} }}' for name in outputs.split()]
    return "\n".join(['backend: "identity"', *ios, more])


def ensemble(*steps: str, inputs: str = "a", outputs: str = "z", more: str = "", tensor: str = TENSOR) -> str:
    """Steps are written ``model x=a > y=z``."""
    text = []
    for step in steps:
        head, _, writes = step.partition(">")
        name, *reads = head.split()
        maps = [("input_map", pair) for pair in reads] + [("output_map", pair) for pair in writes.split()]
        pairs = " ".join('{} {{ key: "{}" value: "{}" }}'.format(field, *pair.split("=")) for field, pair in maps)
        text.append(f'step {{ model_name: "{name}" model_version: -1 {pairs} }}')
    ios = [f'input {{ name: "{name}" {tensor} }}' for name in inputs.split()]
    ios += [f'output {{ name: "{name}" {tensor} }}' for name in outputs.split()]
    scheduling = "ensemble_scheduling {\n" + "\n".join(text) + "\n}"
    return "\n".join(['platform: "ensemble"', *ios, scheduling, more])


def write(root: Path, configs: Mapping[str, str]) -> Path:
    for name, config in configs.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "config.pbtxt").write_text(config)
    return root


def found(root: Path, configs: Mapping[str, str]) -> dict[str, set[str]]:
    """The rules against each model, those for which it is not served."""
    rules: dict[str, set[str]] = {}
    for finding in check(write(root, configs), SERVER):
        if finding.severity in NOT_SERVED:
            rules.setdefault(finding.model, set()).add(finding.rule)
    return rules


@pytest.mark.parametrize(
    ("uses", "members", "leading"),
    [
        ({"a": ["b"], "b": ["m"]}, set(), set()),
        ({"a": ["a"]}, {"a"}, set()),
        ({"a": ["b"], "b": ["a"]}, {"a", "b"}, set()),
        ({"a": ["b"], "b": ["c"], "c": ["b"]}, {"b", "c"}, {"a"}),
        ({"a": ["m", "b"], "b": ["c", "m"], "c": ["b"], "d": ["m"]}, {"b", "c"}, {"a"}),
        ({"a": ["missing"]}, set(), set()),
    ],
)
def test_circles(uses: dict[str, list[str]], members: set[str], leading: set[str], tmp_path: Path) -> None:
    configs = {name: ensemble(*(f"{each} x=a > y=z" for each in used)) for name, used in uses.items()}
    root = write(tmp_path, {**configs, "m": part()})
    assert cycles(Repository(root, schema("24.10"))) == Cycles(frozenset(members), frozenset(leading))


def test_a_model_that_is_not_served_takes_its_ensembles_with_it(tmp_path: Path) -> None:
    configs = {
        "broken": part("sequence_batching { direct { minimum_slot_utilization: 7 } }"),
        "inner": ensemble("broken x=a > y=z"),
        "outer": ensemble("inner a=a > z=z"),
        "other": ensemble("fine x=a > y=z"),
        "fine": part(),
    }
    assert found(tmp_path, configs) == {"broken": {"TR506"}, "inner": {"TR714"}, "outer": {"TR714"}}


def test_a_config_that_cannot_be_read(tmp_path: Path) -> None:
    configs = {"broken": "input {", "e": ensemble("broken x=a > y=z")}
    assert found(tmp_path, configs) == {"broken": {"TR002"}, "e": {"TR714"}}


def test_a_hundred_ensembles_in_a_row(tmp_path: Path) -> None:
    """Each is checked, however deep; what is wrong at the bottom is said there and of those that are near."""
    configs = {"m": part()}
    for number in range(100):
        below = f"e{number - 1:03} a=a > z=z" if number else "m x=a > y=z"
        configs[f"e{number:03}"] = ensemble(below)
    assert found(tmp_path / "good", configs) == {}
    configs["m"] = part("max_batch_size: -1")
    rules = found(tmp_path / "bad", configs)
    assert "m" in rules
    assert rules["e000"] == {"TR714"}


def test_a_model_asked_for_alone(tmp_path: Path) -> None:
    """Only the ensemble is checked; the model decides, all the same."""
    load_rules()
    root = write(tmp_path, {"e": ensemble("m x=a > y=z"), "m": part("max_batch_size: -1")})
    model = Repository(root, schema("24.10")).models["e"]
    assert "TR714" in {finding.rule for finding in check_model(model, SERVER)}


def test_staged_over_what_is_there(tmp_path: Path) -> None:
    """An ensemble that is about to be published is held against the models that are published with it."""
    root = write(tmp_path, {"m": part(outputs="old")})
    e = {"config.pbtxt": ensemble("m x=a > y=z"), "1/.keep": ""}
    m = {"config.pbtxt": part(), "1/.keep": ""}
    alone = check_staged(root, {"e": e}, SERVER)
    assert {each.rule for each in alone if each.severity in NOT_SERVED} == {"TR717"}
    assert [each for each in check_staged(root, {"e": e, "m": m}, SERVER) if each.severity in NOT_SERVED] == []


@pytest.mark.parametrize(
    ("version", "folders", "policy", "accepted"),
    [
        ("model_version: -1", ["3"], "", True),
        ("model_version: 3", ["3"], "", True),
        ("model_version: 1", ["1", "3"], "", False),
        ("model_version: 1", ["1", "3"], "version_policy { all { } }", True),
        ("model_version: 1", ["1", "3"], "version_policy { specific { versions: [ 1 ] } }", True),
        ("", ["3"], "", False),
        ("", ["0"], "", True),
        ("model_version: -2", ["3"], "", False),
    ],
)
def test_versions(version: str, folders: list[str], policy: str, accepted: bool, tmp_path: Path) -> None:
    root = write(tmp_path, {"e": ensemble("m x=a > y=z").replace("model_version: -1", version)})
    for folder in folders:
        (root / "m" / folder).mkdir(parents=True)
    (root / "m" / "config.pbtxt").write_text(part(policy))
    rules = {finding.rule for finding in check(root, SERVER) if finding.severity in NOT_SERVED}
    assert rules == (set() if accepted else {"TR715"})


@pytest.mark.parametrize(
    ("of_ensemble", "batch", "of_part", "part_batch", "expected"),
    [
        ("[ 3 ]", 0, "[ 3 ]", 0, set()),
        ("[ -1 ]", 0, "[ -1 ]", 0, set()),
        ("[ -1, 3 ]", 0, "[ 3 ]", 8, set()),
        ("[ 3 ]", 4, "[ -1, 3 ]", 0, set()),
        ("[ 3 ]", 0, "[ 3, 1 ]", 0, {"TR718"}),
        ("[ 3 ]", 4, "[ 3 ]", 4, set()),
        ("[ 3 ]", 4, "[ 3 ]", 2, {"TR716"}),
        ("[ 3 ]", 4, "[ 4 ]", 4, {"TR718"}),
        ("[ 3 ] reshape { shape: [ 1, 3 ] }", 0, "[ 1, 3 ]", 0, set()),
        ("[ 3 ]", 0, "[ 3 ] reshape { shape: [ 1, 3 ] }", 0, set()),
    ],
)
def test_shapes(
    of_ensemble: str, batch: int, of_part: str, part_batch: int, expected: set[str], tmp_path: Path
) -> None:
    tensor = "data_type: TYPE_FP32 dims: {}"
    configs = {
        "e": ensemble("m x=a > y=z", tensor=tensor.format(of_ensemble), more=f"max_batch_size: {batch}"),
        "m": part(f"max_batch_size: {part_batch}", tensor=tensor.format(of_part)),
    }
    assert found(tmp_path, configs).get("e", set()) == expected


DECOUPLED = "model_transaction_policy { decoupled: true }"


@pytest.mark.parametrize(
    ("steps", "outputs", "expected"),
    [
        (("d x=a > y=b", "m x=b > y=z"), "z", set()),
        (("d x=a > y=b", "two x=a other=b > y=z"), "z", {"TR719"}),
        (("d x=a > y=b", "two x=b other=b > y=z"), "z", set()),
        (("d x=a > y=b", "d x=a > y=c", "two x=b other=c > y=z"), "z", {"TR719"}),
        (("d x=a > y=b", "d x=b > y=c", "two x=b other=c > y=z"), "z", {"TR719"}),
        (("d x=a > y=z", "m x=a > y=w"), "z w", {"TR719"}),
        (("d x=a > y=z", "d x=a > y=w"), "z w", {"TR719"}),
        (("nested a=a > z=b", "two x=a other=b > y=z"), "z", {"TR719"}),
    ],
)
def test_decoupled_models(steps: tuple[str, ...], outputs: str, expected: set[str], tmp_path: Path) -> None:
    configs = {
        "e": ensemble(*steps, outputs=outputs),
        "m": part(),
        "d": part(DECOUPLED),
        "two": part(inputs="x other"),
        "nested": ensemble("d x=a > y=z"),
    }
    assert found(tmp_path, configs).get("e", set()) == expected


def test_models_whose_tensors_nobody_knows(tmp_path: Path) -> None:
    """A Python model may complete its config; a backend that is not known may, too."""
    root = write(tmp_path, {"e": ensemble("m x=a > y=z")})
    (root / "m" / "1").mkdir(parents=True)
    (root / "m" / "config.pbtxt").write_text('backend: "python"')
    script = root / "m" / "1" / "model.py"
    for text, expected in (("", {"TR717"}), ("def auto_complete_config(config): pass", set())):
        script.write_text(f"class TritonPythonModel:\n    def execute(self, requests): pass\n    {text}\n")
        rules = {finding.rule for finding in check(root, SERVER) if finding.severity in NOT_SERVED}
        assert rules == expected
