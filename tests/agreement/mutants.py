"""Random cases: models that load, changed at random, as messages or as text.

Mutant number N of seed S is the same on every machine; its id is ``mutants/S/N``. Most are structural: the config is
parsed, and fields are dropped, doubled, moved, copied from another config, or given other values (mutate_message.py).
The others change the text: tokens and characters. A few change files and folders. What is changed are rich models that
load (mutant_bases.py), and the cases written by hand; of those a new one changes few mutants.
"""

from __future__ import annotations

import random
import re
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from hashlib import sha256

from . import cases_ours
from .case import PLACEHOLDER, Case, Tree
from .mutant_bases import BASES, PYTHON_BASES
from .mutate_message import Donors, change, parses

_SHARE_PYTHON = 0.015
_SHARE_OURS = 0.4
_SHARE_TEXT = 0.3
_SHARE_FILES = 0.05

_TOKENS: tuple[str, ...] = (
    *"{}[]<>:,;()=-+./#", '"', "'", "''", '""', '"x"', "'y'", '"a" "b"', r'"\n"', r'"\x"', r'"\777"', r'"\u00e4"',
    r'"\xff"', "0", "1", "-1", "- 1", "01", "08", "0x1F", "0x", "1.5", "1.", ".5", "1e3", "1e", "1f", "2147483648",
    "99999999999999999999",
    "true", "True", "t", "false", "inf", "nan", "TYPE_FP32", "TYPE_INT64", "KIND_CPU", "KIND_GPU",
    "KIND_AUTO", "name", "dims", "input", "output", "key", "value", "max_batch_size", "optimization {}", "dims: 4",
    "reshape { shape: [] }", "[]", "[ 1 ]", "# comment\n", "#", "\n", "\t", "\r", "\0", "\ufeff", "4name", "\\", "_",
    "max_batch_size: 4", 'name: "m"', "instance_group {}", "ü", "dynamic_batching {}", "version_policy { all {} }",
)  # fmt: skip
_CHARACTERS = "{}[]<>:,;\"'\\#-+.0189aefxuUnt_ \n\t\r\0\x7fü/"
_LEX = re.compile(r"#[^\n]*|\"(?:\\.|[^\"\n\\])*\"|'(?:\\.|[^'\n\\])*'|[A-Za-z_]\w*|[\d.]+\w*|\s+|.", re.DOTALL)
_FOLDERS = ("1", "2", "0", "00", "01", "-1", "+1", "1abc", "v1", "1.0", "99999999999999999999", " 1", "3")
_ADDED = ("1/model.plan", "1/model.onnx", "x", ".hidden/a", "1/x/", "configs/a.pbtxt", "1/config.pbtxt", "2/")
_MODELS = ("n", "m.identity", "m x", ".m", "one", "M")
_MODEL_FILES = ("", "model.onnx", "model.py")
_SIZES = (0, 1, 7, 8, 16, 47, 48, 49, 96, 1000)
_CONFIG = "/config.pbtxt"
_LARGEST = 5000  # bytes, of a case that is worth changing


def cases(count: int, seed: int) -> Iterator[Case]:
    """The first ``count`` mutants of a seed."""
    for number in range(count):
        yield mutant(number, seed)


def mutant(number: int, seed: int) -> Case:
    """One mutant."""
    rng = random.Random(f"{seed}:{number}")
    gpus = rng.choices((1, 0, 2), (90, 6, 4))[0]
    return Case(f"mutants/{seed}/{number}", _mutate(rng), gpus=gpus)


def _mutate(rng: random.Random) -> Tree:
    if rng.random() < _SHARE_OURS:
        tree = _ours().choose(rng)
    else:
        tree = rng.choice(PYTHON_BASES if rng.random() < _SHARE_PYTHON else BASES)
    configs = [path for path in tree if path.endswith(_CONFIG)]
    if rng.random() < _SHARE_FILES or not configs:
        return _change_files(rng, tree)
    path = rng.choice(configs)
    config = tree[path]
    if rng.random() < _SHARE_TEXT or not parses(config):
        return {**tree, path: _change_text(rng, config)}
    config = change(rng, config, _donors())
    return {**tree, path: _change_text(rng, config) if rng.random() < 0.1 else config}


class _Ring:
    """Cases in the order of hashes of their ids: a case that is added or removed changes few choices."""

    def __init__(self, cases: Iterable[Case]) -> None:
        hashed = sorted((sha256(case.id.encode()).digest(), case.tree) for case in cases)
        self._hashes = [digest for digest, _ in hashed]
        self.trees = [tree for _, tree in hashed]

    def choose(self, rng: random.Random) -> Tree:
        return self.trees[bisect(self._hashes, rng.randbytes(32)) % len(self.trees)]


@cache
def _ours() -> _Ring:
    """The cases written by hand that the core judges, and soon."""
    return _Ring(
        case
        for case in cases_ours.cases()
        if not case.beyond
        and not any(path.endswith(".py") for path in case.tree)
        and sum(map(len, case.tree.values())) < _LARGEST
        and not any(b'"python"' in content for content in case.tree.values())
    )


@cache
def _donors() -> Donors:
    trees = [*BASES, *_ours().trees]
    return Donors(content for tree in trees for path, content in tree.items() if path.endswith(_CONFIG))


def _change_text(rng: random.Random, config: bytes) -> bytes:
    """Change a few tokens, or characters or bytes inside of them."""
    text = config.decode(errors="replace")
    for _ in range(rng.choices((1, 2, 4), (75, 20, 5))[0]):
        text = _change_tokens(rng, text) if rng.random() < 0.7 else _change_characters(rng, text)
    made = text.encode()
    if rng.random() < 0.05:
        place = rng.randrange(len(made) + 1)
        made = made[:place] + bytes([rng.randrange(256)]) + made[place + rng.choice((0, 1)) :]
    return made


def _change_tokens(rng: random.Random, text: str) -> str:
    tokens: list[str] = _LEX.findall(text)
    written = [place for place, token in enumerate(tokens) if not token.isspace()]
    if not written:
        return rng.choice(_TOKENS)
    place, other = rng.choice(written), rng.choice(written)
    what = rng.choices(("drop", "double", "swap", "replace", "insert", "unspace"), (20, 12, 12, 30, 20, 6))[0]
    if what == "drop":
        tokens[place] = ""
    elif what == "double":
        tokens[place] += f" {tokens[place]}"
    elif what == "swap":
        tokens[place], tokens[other] = tokens[other], tokens[place]
    elif what == "replace":
        tokens[place] = rng.choice((rng.choice(_TOKENS), tokens[other]))
    elif what == "insert":
        tokens[place] = f"{rng.choice(_TOKENS)}{rng.choice((' ', ''))}{tokens[place]}"
    elif place + 1 < len(tokens) and tokens[place + 1].isspace():
        tokens[place + 1] = ""
    return "".join(tokens)


def _change_characters(rng: random.Random, text: str) -> str:
    place = rng.randrange(len(text) + 1)
    end = place + rng.choices((0, 1, 2, 20), (40, 45, 10, 5))[0]
    new = "" if rng.random() < 0.3 else rng.choice(_CHARACTERS)
    return text[:place] + new + text[end:]


def _change_files(rng: random.Random, tree: Tree) -> Tree:
    """Remove, rename or add a file or folder."""
    path = rng.choice(sorted(tree))
    model = path.split("/")[0]
    changes: Mapping[str, Callable[[], Tree]] = {
        "remove": lambda: {each: content for each, content in tree.items() if each != path},
        "resize": lambda: tree if path.endswith(("/", ".pbtxt")) else {**tree, path: b"\0" * rng.choice(_SIZES)},
        "rename a version": lambda: _renamed(tree, f"{model}/1/", f"{model}/{rng.choice(_FOLDERS)}/"),
        "rename a model": lambda: _renamed(tree, f"{model}/", f"{rng.choice(_MODELS)}/"),
        "add a version": lambda: _with(tree, f"{model}/{rng.choice(_FOLDERS)}/{rng.choice(_MODEL_FILES)}"),
        "add a file": lambda: _with(tree, f"{model}/{rng.choice(_ADDED)}"),
        "add a model": lambda: _with(tree, f"{rng.choice(('n', '.cache'))}/"),
        "empty the config": lambda: {**_with(tree, f"{model}/config.pbtxt"), f"{model}/config.pbtxt": b""},
    }
    return changes[rng.choice(list(changes))]()


def _renamed(tree: Tree, old: str, new: str) -> Tree:
    return {new + path.removeprefix(old) if path.startswith(old) else path: content for path, content in tree.items()}


def _with(tree: Tree, path: str) -> Tree:
    """The tree with another path, and without what cannot be beside it: a file has nothing below it."""
    plain = path.rstrip("/")
    above = {plain[:place] for place, letter in enumerate(plain) if letter == "/"}
    kept = {
        each: content
        for each, content in tree.items()
        if each not in above and (path.endswith("/") or not each.startswith(f"{plain}/"))
    }
    return {**kept, path: b"" if path.endswith("/") else PLACEHOLDER}
