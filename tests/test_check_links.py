"""Symbolic links: those in a model are judged with the other cases of tests/agreement, those beside the models here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tritonrepo.check import check
from tritonrepo.errors import ServeError
from tritonrepo.serve import EmbeddedServer

CONFIG = """
backend: "python"
input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] }
"""
MODEL = "class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    version = tmp_path / "repository" / "m" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(MODEL)
    (version.parent / "config.pbtxt").write_text(CONFIG)
    return tmp_path / "repository"


@pytest.mark.server
@pytest.mark.parametrize(("target", "served"), [("m/config.pbtxt", True), ("nothing", False), ("link", False)])
def test_a_link_beside_the_models(repository: Path, target: str, served: bool) -> None:
    (repository / "link").symlink_to(target)
    found = [(each.rule, each.file) for each in check(repository)]
    assert found == ([] if served else [("TR017", repository / "link")])
    with EmbeddedServer(repository) as server:
        if served:
            server.wait_ready(60, probe=False)
        else:
            with pytest.raises(ServeError, match="failed to stat file"):
                server.wait_ready(60, probe=False)


def test_a_link_to_a_model_is_a_model(repository: Path) -> None:
    (repository / "n").symlink_to("m")
    (repository / "m" / "config.pbtxt").write_text(CONFIG + 'name: "m"')
    assert [(each.rule, each.model) for each in check(repository)] == [("TR101", "n")]


def test_each_link_is_found_once(repository: Path) -> None:
    for name in ("m/old", "m/1/beside", "m/notes.txt", "gone"):
        (repository / name).symlink_to("nothing")
    found = sorted(str(each.file.relative_to(repository)) for each in check(repository) if each.rule == "TR017")
    assert found == ["gone", "m/notes.txt", "m/old"]
