"""Rules in words: for ``tritonrepo rule``, and the page docs/rules.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from itertools import groupby

from tritonrepo.check.report import printable
from tritonrepo.check.rule import Link, Rule, Severity, Tree

#: What the server does to a model that breaks a rule of this severity.
CONSEQUENCES: Mapping[Severity, str] = {
    "reject": "The server refuses the model.",
    "hang": "The load does not end; the server never becomes ready.",
    "crash": "The server crashes.",
    "breaks": "The server accepts the model, but requests go wrong.",
    "advice": "The server accepts the model, and it works.",
}

_WIDTH = 100


def explain(rule: Rule) -> str:
    """All that is to be said of a rule, for a terminal."""
    from textwrap import fill

    parts = [
        f"{rule.id} ({rule.severity}): {rule.title}",
        CONSEQUENCES[rule.severity],
        fill(rule.explanation, _WIDTH, break_long_words=False, break_on_hyphens=False),
        f"Wrong:\n{_tree(rule.wrong)}",
        f"Right:\n{_tree(rule.right, rule.wrong)}",
    ]
    return "\n\n".join(parts) + "\n"


def overview(rules: Iterable[Rule]) -> str:
    """One line for each rule, by topic."""
    parts = []
    for topic, group in groupby(rules, lambda rule: rule.topic):
        lines = [f"  {rule.id}  {rule.severity:<6}  {rule.title}\n" for rule in group]
        parts.append(f"{_heading(topic)}\n{''.join(lines)}")
    return "\n".join(parts)


def page(rules: Iterable[Rule]) -> str:
    """docs/rules.md."""
    rules = tuple(rules)
    meanings = "".join(f"| {severity} | {words} |\n" for severity, words in CONSEQUENCES.items())
    parts = [
        "# Rules of `tritonrepo check`\n",
        f"{len(rules)} rules, as [checking.md](checking.md) describes them; `tritonrepo rule TR002` prints one. This "
        "page is\nwritten by `UPDATE_DOCS=1 pytest tests/test_rules.py` from the rules themselves.\n",
        "In the right examples, files that are not shown are as in the wrong ones.\n",
        f"| severity | |\n|---|---|\n{meanings}",
    ]
    for topic, group in groupby(rules, lambda rule: rule.topic):
        members = tuple(group)
        rows = [f"| [{rule.id}](#{rule.id.lower()}) | {rule.severity} | {_cell(rule.title)} |\n" for rule in members]
        parts.append(f"## {_heading(topic)}\n")
        parts.append(f"| | | |\n|---|---|---|\n{''.join(rows)}")
        parts += map(section, members)
    return "\n".join(parts)


def section(rule: Rule) -> str:
    """All that is to be said of a rule, in Markdown."""
    from textwrap import fill

    body = fill(rule.explanation, 120, break_long_words=False, break_on_hyphens=False)
    wrong, right = _tree(rule.wrong, margin=""), _tree(rule.right, rule.wrong, margin="")
    return (
        f"### {rule.id}\n\n**{rule.title}** ({rule.severity})\n\n{body}\n\n"
        f"Wrong:\n\n```\n{wrong}\n```\n\nRight:\n\n```\n{right}\n```\n"
    )


def _tree(tree: Tree, other: Tree | None = None, *, margin: str = "  ") -> str:
    """A repository's files with what is in them; next to another one, only those that differ."""
    lines = []
    for path, content in tree.items():
        if other is None or other.get(path) != content:
            lines += [path, *(f"    {line}".rstrip() for line in _shown(content))]
    lines += [f"(no {path})" for path in other or () if path not in tree]
    return "\n".join((margin + printable(line.expandtabs(4))).rstrip() for line in lines)


def _shown(content: str | bytes) -> list[str]:
    if isinstance(content, Link):
        return [f"-> {content}"]
    if isinstance(content, bytes) and not _is_text(content):
        return [f"({len(content)} bytes)"]
    words = content.decode() if isinstance(content, bytes) else content
    return words.strip("\n").split("\n") if words.strip() else []


def _is_text(content: bytes) -> bool:
    try:
        return content.decode().replace("\n", "").replace("\t", "").isprintable()
    except UnicodeDecodeError:
        return False


def _heading(topic: str) -> str:
    """What the first line of a topic's module says: ``TR0xx: what lies in the repository``."""
    lines = (import_module(f"tritonrepo.check.rules.{topic}").__doc__ or topic).splitlines()
    return lines[0].rstrip(".")


def _cell(words: str) -> str:
    return words.replace("|", "\\|")
