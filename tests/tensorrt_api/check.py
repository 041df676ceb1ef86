"""mypy over `_tensorrt.py` and what is given its objects, with the types of one version; and every name that it takes
from ``tensorrt``.

python -m tests.tensorrt_api.check [VERSION ...]
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

from .bindings import HERE, VERSIONS, Bindings, bindings, missing, missing_version

ROOT = HERE.parents[1]
DOOR = ROOT / "builder" / "tritonrepo" / "_tensorrt.py"
TYPED = (DOOR, DOOR.with_name("_plan_session.py"), DOOR.with_name("_timing_cache.py"))
"""The door, and the modules that are given TensorRT's objects."""


def main(arguments: Sequence[str]) -> int:
    """Check versions, by default all; returns the exit code."""
    why = missing()
    if why:
        sys.stdout.write(f"nothing was checked: {why}\n")
        return 2
    failed = False
    for version in arguments or VERSIONS:
        without = missing_version(version)
        if without:
            sys.stdout.write(f"not checked: {without}\n")
            continue
        found = bindings(version)
        faults = [*type_faults(found), *name_faults(found)]
        failed |= bool(faults)
        sys.stdout.write(f"TensorRT {version}: {'; '.join(faults) or 'types and names fit'}\n")
    return int(failed)


def type_faults(found: Bindings) -> list[str]:
    """What mypy says with the types of that version."""
    done = subprocess.run(
        # Comments that excuse what is unknown without TensorRT are not needed with it.
        [sys.executable, "-m", "mypy", "--no-warn-unused-ignores", "--follow-imports=silent",
         f"--cache-dir={found.root / 'mypy'}", *TYPED],
        env={**os.environ, "MYPYPATH": str(found.types)}, cwd=ROOT, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    if done.returncode == 0:
        return []
    return [line for line in done.stdout.splitlines() if ": error:" in line] or [done.stdout + done.stderr]


def name_faults(found: Bindings) -> list[str]:
    """Names of `_tensorrt.py` that the version does not have and that are not asked for with care."""
    names = found.names()
    faults = []
    for line, first, second in used(ast.parse(DOOR.read_text(encoding="utf-8"))):
        if first not in names and first != "__version__":
            faults.append(f"{DOOR.name}:{line}: tensorrt.{first}")
        elif second and second not in names[first]:
            faults.append(f"{DOOR.name}:{line}: tensorrt.{first}.{second}")
    return faults


def used(tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    """Every ``trt.First`` and ``trt.First.Second``: line, first, second or ''."""
    outer: set[int] = set()
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and _of_trt(node.value):
            assert isinstance(node.value, ast.Attribute)
            aliases[node.targets[0].id] = node.value.attr
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        if isinstance(node.value, ast.Attribute) and _of_trt(node.value):
            outer.add(id(node.value))
            yield node.lineno, node.value.attr, node.attr
        elif isinstance(node.value, ast.Name) and node.value.id in aliases:
            yield node.lineno, aliases[node.value.id], node.attr
        elif _of_trt(node) and id(node) not in outer:
            yield node.lineno, node.attr, ""


def by_name(tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    """Every ``_member(trt.Enum, "NAME")``: line, enum, name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_member":
            enum, name = node.args
            if isinstance(name, ast.Constant) and isinstance(enum, ast.Attribute):
                yield node.lineno, enum.attr, str(name.value)


def _of_trt(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "trt"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
