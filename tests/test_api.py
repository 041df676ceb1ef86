"""The public names, and what importing them brings along."""

from __future__ import annotations

import subprocess
import sys

import pytest

import tritonrepo

PUBLIC = {
    "BuildOptions", "BuildResult", "EmbeddedServer", "Finding", "ModelResult", "ModelSpec", "ServeOptions", "Signature",
    "Spec", "Target", "TritonrepoError", "__version__", "load_spec",
}  # fmt: skip


def test_the_public_names_are_these_and_all_there() -> None:
    assert set(tritonrepo.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(tritonrepo, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tritonrepo.nothing  # noqa: B018


def test_importing_brings_nothing_along() -> None:
    code = (
        "import sys; import tritonrepo; print(sorted(name for name in sys.modules if name.startswith('tritonrepo.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
