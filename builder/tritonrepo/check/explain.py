"""Rules in words: for ``tritonrepo rule``, and the page docs/rules.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from itertools import groupby

from tritonrepo.check.report import printable
from tritonrepo.check.rule import Rule, Severity, Tree

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
        f"Right:\n{_tree(rule.right)}",
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
    return (
        f"### {rule.id}\n\n**{rule.title}** ({rule.severity})\n\n{body}\n\n"
        f"Wrong:\n\n```\n{_tree(rule.wrong, '')}\n```\n\nRight:\n\n```\n{_tree(rule.right, '')}\n```\n"
    )


def _tree(tree: Tree, margin: str = "  ") -> str:
    """A repository's files with what is in them."""
    lines = []
    for path, content in tree.items():
        lines.append(path)
        if isinstance(content, bytes) and not _is_text(content):
            lines.append(f"    ({len(content)} bytes)")
            continue
        words = content.decode() if isinstance(content, bytes) else content
        lines += [f"    {line}".rstrip() for line in words.strip("\n").split("\n") if words.strip()]
    return "\n".join(margin + printable(line.expandtabs(4)) for line in lines)


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
