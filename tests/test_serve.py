from __future__ import annotations

from pathlib import Path

import pytest

from conftest import StartTriton, write_python_model


@pytest.mark.server
def test_ready_means_answered(tmp_path: Path, triton: StartTriton) -> None:
    write_python_model(tmp_path, "echo")
    server = triton(tmp_path)
    assert server.running()
