"""Repository -> Findings: what the server would say before it is started, and what it would say only later.

Nothing here imports protobuf, onnx, onnxruntime, tritonclient, numpy or tensorrt: a check starts at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tritonrepo.check._schema import schema
from tritonrepo.check.model import Model, Repository
from tritonrepo.check.rule import BLOCKING, NOT_SERVED, RULES, Finding, Rule, Target
from tritonrepo.check.rules import load_rules
from tritonrepo.errors import UsageError

__all__ = ["BLOCKING", "NOT_SERVED", "RULES", "Finding", "Rule", "Target", "check", "check_staged"]


def check(path: Path, target: Target | None = None) -> tuple[Finding, ...]:
    """Check every model of a repository, hand-written ones too.

    Raises:
        UsageError: there is no such folder, or the target release is not known.
    """
    if not path.is_dir():
        raise UsageError("no such folder", where=path, hint="Give the path of a model repository.")
    target = target or Target()
    repository = Repository(path, schema(target.release))
    return tuple(finding for model in repository.models.values() for finding in check_model(model, target))


def check_staged(
    path: Path, staged: Mapping[str, Mapping[str, Any]], target: Target | None = None
) -> tuple[Finding, ...]:
    """Check models that are about to be published into a repository.

    Args:
        path: the repository; its other models are what ensembles refer to.
        staged: by model name, path below the model's directory -> content, or the file that will be copied.
        target: what will serve them.
    """
    target = target or Target()
    repository = Repository(path, schema(target.release), staged)
    return tuple(finding for name in staged for finding in check_model(repository.models[name], target))


def check_model(model: Model, target: Target, rules: Iterable[Rule] | None = None) -> tuple[Finding, ...]:
    """Check one model by the given rules or by all, in the order of files, lines and columns.

    Where there is a config that does not parse, only by those that need none.
    """
    if rules is None:
        load_rules()
        rules = RULES.values()
    readable = model.readable
    found = [
        Finding(rule.id, rule.severity, model.name, **vars(spot))
        for rule in rules
        if readable or not rule.parsed
        for spot in rule.run(model, target)
    ]
    return tuple(sorted(found, key=_order)) if found else ()


def _order(finding: Finding) -> tuple[str, int, int, str, str]:
    return str(finding.file), finding.line or 0, finding.column or 0, finding.rule, finding.message
