"""`tritonrepo build` as a whole is killed at random moments; each time a real server loads what is there.

TRITONREPO_KILLS sets the number of kills (20 by default, 300 in the long suite).
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import StartTriton
from kill.builder import NAMES, write_generation
from kill.harness import kill_loop
from test_cli import tritonrepo
from test_publish_kill import ENVIRONMENT, KILLS, Record, request
from tritonrepo_client import Client


def generation_in(model: Path) -> int:
    """The latest version of a model, after a look at every byte of the whole directory."""
    versions = sorted(int(path.name) for path in model.iterdir() if path.is_dir())
    for version in versions:
        verdict = json.loads((model / f"{version}.verdict.json").read_bytes())
        found = {path.name: path.read_bytes() for path in (model / str(version)).iterdir()}
        assert {name: hashlib.sha256(content).hexdigest() for name, content in found.items()} == {
            name: entry["sha256"] for name, entry in verdict["files"].items()
        }
    config = (model / "config.pbtxt").read_bytes()
    assert verdict["model_files"]["config.pbtxt"]["sha256"] == hashlib.sha256(config).hexdigest()
    return versions[-1]


@pytest.mark.server
@pytest.mark.timeout(300 + 12 * KILLS)
def test_a_killed_build_leaves_complete_models(tmp_path: Path, triton: StartTriton, record_property: Record) -> None:
    repository = tmp_path / "model_repository"
    write_generation(tmp_path, 1)
    assert tritonrepo("build", "models.yaml", cwd=tmp_path).returncode == 0
    server = triton(repository, control="explicit", models=["*"])
    answers: dict[str, list[float]] = {name: [] for name in NAMES}
    versions = dict.fromkeys(NAMES, 1)

    def check(found: Path) -> None:
        assert sorted(path.name for path in found.iterdir()) == sorted(NAMES)
        for name in NAMES:
            version = generation_in(found / name)
            assert version >= versions[name], "a version was lost"
            versions[name] = version

    def load(kill: int) -> None:
        name = NAMES[kill % 2]
        request(server, f"/v2/repository/models/{name}/load", {})
        with Client(f"http://{server.http_url}") as client:
            answers[name].append(float(client.model(name)(np.ones((1, 1), np.float32)).item()))

    command = [sys.executable, "-m", "kill.builder", str(tmp_path)]
    # Half of the kills anywhere in a build, half soon after it began to publish.
    for flags, ready, delay in (([], None, (0.2, 5.0)), (["--tell"], b"ready", (0.0, 0.025))):
        tally = kill_loop(
            [*command, *flags],
            repository=repository,
            check=check,
            kills=KILLS // 2,
            seed=int(os.environ.get("TRITONREPO_SEED", "3")),
            delay=delay,
            ready=ready,
            env=ENVIRONMENT,
            after=load,
        )
        record_property("kills", str(tally))
        print(tally, versions)  # noqa: T201 - shown with -rA, or when the test fails
        assert tally.kills == KILLS // 2
    assert tally.in_flight >= KILLS // 10, tally
    for each in answers.values():
        assert each == sorted(each), "an answer of an older generation came after a newer one"
        assert each[-1] > each[0], "builds went on after kills"
    done = tritonrepo("build", "models.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check(repository)
