"""The YAML reader: what scalars mean, where things stand, and what is refused."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yaml.error import Mark

from tritonrepo import _yaml
from tritonrepo._faults import KeyPath
from tritonrepo.errors import SpecError, UsageError, Where

LOADERS = [yaml.BaseLoader, pytest.param(_yaml.LOADER, id="fastest")]


def read(folder: Path, text: str | bytes, loader: type = _yaml.LOADER, **environ: str) -> _yaml.Document:
    file = folder / "models.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return _yaml.read(file, environ, frozenset({"triton"}), loader)


def refusal(folder: Path, text: str | bytes, loader: type = _yaml.LOADER) -> str:
    with pytest.raises(SpecError) as caught:
        read(folder, text, loader)
    (fault,) = caught.value.faults
    return str(fault).replace(f"{folder}/", "")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[
            (word, word)
            for word in ("yes", "no", "on", "off", "y", "N", "12:30", "2026-01-01", "1_000", "a", "=", "0b1")
        ],
        *[(word, True) for word in ("true", "True", "TRUE")],
        *[(word, False) for word in ("false", "False", "FALSE")],
        *[(word, None) for word in ("", "~", "null", "Null", "NULL")],
        *[("12", 12), ("-12", -12), ("+12", 12), ("010", 10), ("0x1F", 31), ("0o17", 15)],
        *[
            ("1e-4", 1e-4),
            (".5", 0.5),
            ("1.", 1.0),
            ("-1.5E+3", -1500.0),
            (".inf", float("inf")),
            ("-.Inf", -float("inf")),
        ],
        *[("'12'", "12"), ('"true"', "true"), ("!!str 12", "12"), ("!!str", "")],
        ("9" * 400, int("9" * 400)),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(tmp_path: Path, text: str, value: object) -> None:
    found = read(tmp_path, f"key: {text}\n").data
    assert found == {"key": value}
    assert type(found["key"]) is type(value)


def test_some_keys_hold_text_whatever_it_looks_like(tmp_path: Path) -> None:
    assert read(tmp_path, "{triton: 26.10, other: 26.10}").data == {"triton": "26.10", "other": 26.1}
    assert read(tmp_path, "{triton: }").data == {"triton": None}


def test_keys_are_text(tmp_path: Path) -> None:
    assert read(tmp_path, "{495: a, yes: b, 1.50: c, null: d}").data == {
        "495": "a",
        "yes": "b",
        "1.50": "c",
        "null": "d",
    }


def test_merge_keys(tmp_path: Path) -> None:
    text = """\
one: &one {a: 1, b: 1}
two: &two {b: 2, c: 2}
after: {<<: *one, b: 9}
before: {b: 9, <<: *one}
several: {<<: [*one, *two]}
quoted: {"<<": *one}
"""
    document = read(tmp_path, text)
    assert isinstance(document.data, dict)
    assert document.data["after"] == document.data["before"] == {"a": 1, "b": 9}
    assert document.data["several"] == {"a": 1, "b": 1, "c": 2}
    assert document.data["quoted"] == {"<<": {"a": 1, "b": 1}}
    assert document.where(("several", "c")).line == 2
    assert document.where(("before", "b")).line == 4


def test_variables(tmp_path: Path) -> None:
    text = """\
plain: ${NUMBER}
quoted: "${NUMBER}"
inside: a-${NUMBER}-${NUMBER}
default: ${OTHER:-7}
empty: ${EMPTY:-8}
kept: ${NUMBER:-9}
nothing: ${EMPTY}
dollar: $$NUMBER $NUMBER $5
triton: ${TAG}
key ${NUMBER}: x
"""
    assert read(tmp_path, text, NUMBER="4", EMPTY="", TAG="26.10").data == {
        "plain": 4,
        "quoted": "4",
        "inside": "a-4-4",
        "default": 7,
        "empty": 8,
        "kept": 4,
        "nothing": None,
        "dollar": "$NUMBER $NUMBER $5",
        "triton": "26.10",
        "key ${NUMBER}": "x",
    }


def test_a_value_of_a_variable_is_one_scalar_whatever_is_in_it(tmp_path: Path) -> None:
    assert read(tmp_path, "a: ${EVIL}\n", EVIL="1\nb: [2]").data == {"a": "1\nb: [2]"}


def test_variables_that_cannot_be_replaced(tmp_path: Path) -> None:
    document = read(tmp_path, "a: 1\nb: [x, '${NOPE}']\nc: ${1}\n")
    assert [(problem.path, problem.message) for problem in document.problems] == [
        (("b", 1), "the environment variable NOPE is not set"),
        (("c",), "a variable is written ${NAME} or ${NAME:-default}"),
    ]
    assert document.unset == {("b", 1), ("c",)}


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models:\n\t- a\n", "models.yaml:2:1: a tab at line 2; YAML is indented with spaces"),
        ("models:\n  - a: 1\n\tb: 2\n", "models.yaml:3:1: a tab at line 3; YAML is indented with spaces"),
        ("a:\n  b: 1\n  \tc: 2\n", "models.yaml:3:3: a tab at line 3; YAML is indented with spaces"),
        ("a: b: c\n", "models.yaml:1:5: not YAML: mapping values are not allowed"),
        ("a: 1\nb c\nd: 2\n", "models.yaml:2:1: not YAML: could not find expected ':'"),
        ("a: [1,\nb", "is not closed"),
        ("a: [x, ${B}]\n", "between brackets or braces, put quotes around ${...}"),
        ("a: 'x\n", "begins at line 1)\n  a quote, bracket or brace is not closed"),
        ("a: @x\n", "models.yaml:1:4: not YAML: found character"),
        ("a:\n  b: 1\n c: 2\n", "models.yaml:3:2: not YAML: "),
        ("a: x\ny: \x01\n", "models.yaml:2:4: not YAML: the control character U+0001"),
        (b"a: x\n\xc3\xa9: \xff\n", "models.yaml:2:4: not UTF-8"),
        ("a: 1\n---\nb: 2\n", "models.yaml:2:1: a second document begins here"),
        ("a: *b\n", "models.yaml:1:4: the alias *b has no anchor before it"),
        ("a: &a [*a]\n", "models.yaml:1:4: an alias to the block that it stands in"),
        ("a: &a {b: {<<: *a}}\n", "models.yaml:1:4: an alias to the block that it stands in"),
        ("? [a]\n: 1\n", "models.yaml:1:3: a key must be text; this one is a list or a mapping"),
        ("a: {<<: 3}\n", "models.yaml:1:9: << merges mappings"),
        ("[" * 101 + "]" * 101, "models.yaml:1:100: nested more than 100 levels deep"),
        ("[" * 200_000, "models.yaml:1:100: nested more than 100 levels deep"),
    ],
)
def test_what_is_not_yaml_is_said_with_its_place(tmp_path: Path, loader: type, text: str | bytes, message: str) -> None:
    assert message in refusal(tmp_path, text, loader)


def test_aliases_cannot_blow_a_file_up(tmp_path: Path) -> None:
    levels = [f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)]
    assert "aliases make this file" in refusal(tmp_path, "\n".join(["a: &a [1, 2, 3]", *levels]))


def test_many_values_without_aliases_are_no_bomb(tmp_path: Path) -> None:
    data = read(tmp_path, "a: [" + ",".join(["1"] * (_yaml.MAX_ALIASED + 10)) + "]").data
    assert data == {"a": [1] * (_yaml.MAX_ALIASED + 10)}


def test_repeated_keys_and_tags_are_problems_of_their_place(tmp_path: Path) -> None:
    document = read(tmp_path, "a: 1\nb: !!python/name:os.system x\na: 2\n")
    found = [(problem.path, problem.message, document.where(problem.path, problem.at)) for problem in document.problems]
    assert found == [
        (("b",), "the tag tag:yaml.org,2002:python/name:os.system means nothing here", Where(document.file, 2, 4)),
        (("a",), "already given at line 1", Where(document.file, 3, 1)),
    ]


def test_places(tmp_path: Path) -> None:
    document = read(tmp_path, "\ufeffmodels:\n  - name: é\n    labels: {'x y': a, b: c}\n")

    def place(*path: str | int, at: Any = "value") -> str:
        return str(document.where(path, at)).removeprefix(f"{document.file}:")

    assert place("models", 0, "name") == "2:11"
    assert place("models", 0, "name", at="key") == "2:5"
    assert place("models", 0, "labels", "b") == "3:27"
    assert place("models", 0, "labels", "b", at="key") == "3:24"
    assert place("models", 0) == place("models", 0, at="key") == "2:5"
    # What is not in the file is looked for where it would stand.
    assert place("models", 0, "batching", "max_batch_size") == "2:5"
    assert place("models", 0, "labels", "z", at="key") == "3:5"
    assert place("models", 7) == "1:1"
    assert place("nothing") == "1:1"


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such spec") as caught:
        _yaml.read(tmp_path / "models.yaml", {})
    assert caught.value.hint == "write one with: tritonrepo init *.onnx"
    with pytest.raises(UsageError, match="Is a directory"):
        _yaml.read(tmp_path, {})


# ---- against PyYAML's own safe_load --------------------------------------------------------------------------------

#: Text that PyYAML's dumper writes without quotes because it follows YAML 1.1, and that 1.2 takes for a number.
NUMBER_IN_1_2_ONLY = re.compile(r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?|0o[0-7]+|\+?\.(inf|Inf|INF)")

texts = st.text(st.characters(codec="utf-8", exclude_characters="$"), max_size=12).filter(
    lambda text: not NUMBER_IN_1_2_ONLY.fullmatch(text)
)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
keys = texts.filter(lambda text: text != "<<")
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)
documents = st.dictionaries(keys, values, min_size=1, max_size=4)


def composed_places(node: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Literal["key", "value"], Mark]]:
    """Path, what is there, and its mark, as PyYAML's pure composer has them."""
    yield path, "value", node.start_mark
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from composed_places(item, (*path, index))
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*path, key.value), "key", key.start_mark
            yield from composed_places(value, (*path, key.value))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=documents, flow=st.booleans(), unicode=st.booleans(), style=st.sampled_from([None, '"', "'", "|", ">"]))
def test_values_and_places_are_those_of_pyyaml(
    tmp_path: Path, data: Any, flow: bool, unicode: bool, style: str | None
) -> None:
    text = yaml.safe_dump(data, default_flow_style=flow, allow_unicode=unicode, default_style=style)
    want = yaml.safe_load(text)
    for loader in (yaml.BaseLoader, _yaml.LOADER):
        document = read(tmp_path, text, loader)
        if style is None:  # with a style, numbers are written as tagged text
            assert document.data == want
            assert not document.problems
        for path, at, mark in composed_places(yaml.compose(text, yaml.SafeLoader)):
            assert document.where(path, at) == Where(document.file, mark.line + 1, mark.column + 1)
