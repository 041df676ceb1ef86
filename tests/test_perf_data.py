"""Request data and settings of the load generator."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from test_client import DTYPES
from tritonrepo_client.perf.command import parser, run, settings_of
from tritonrepo_client.perf.data import Axis, load_data, parse_shape, random_data, with_expected
from tritonrepo_client.perf.errors import DataError, PerfError, UsageError
from tritonrepo_client.perf.settings import (
    ModelShare,
    Settings,
    check,
    parse_range,
    parse_seconds,
    parse_slo,
    read_trace,
)
from tritonrepo_client.tensor import Signature, TensorSpec

IMAGE = Signature((TensorSpec("x", "FP32", (-1, 3, -1, -1)),), (TensorSpec("y", "FP32", (-1, 2)),), 8)
PLAIN = Signature((TensorSpec("a", "INT64", (2,)), TensorSpec("t", "BYTES", (-1,), optional=True)), (), 0)
TYPES = [*DTYPES, "BYTES"]


def shapes(*texts: str) -> dict[str, tuple[Axis, ...]]:
    return dict(parse_shape(text) for text in texts)


def test_random_data_has_the_shapes_that_were_given() -> None:
    data = random_data(IMAGE, shapes=shapes("x=3,32:64:16,5"), batch=4, count=50, seed=0)
    found = {row.inputs["x"].shape for row in data.rows}
    assert found == {(4, 3, height, 5) for height in (32, 48, 64)}
    first, again = (random_data(IMAGE, shapes=shapes("x=1,3,4,5"), batch=1, count=1, seed=7) for _ in range(2))
    assert np.array_equal(first.rows[0].inputs["x"], again.rows[0].inputs["x"])
    values = first.rows[0].inputs["x"]
    assert values.dtype == np.float32
    assert 0 <= values.min() < values.max() < 1


@pytest.mark.parametrize("dtype", TYPES)
def test_random_values_of_every_type(dtype: str) -> None:
    signature = Signature((TensorSpec("x", dtype, (40,)),), (), 0)
    values = random_data(signature, shapes={}, batch=1, count=1, seed=0).rows[0].inputs["x"]
    assert values.shape == (40,)
    if dtype == "BYTES":
        assert all(isinstance(item, bytes) and len(item) == 16 for item in values)
    elif "INT" in dtype:
        assert set(values.tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("given", "batch", "words"),
    [
        ([], 1, "--shape x=3,N,N"),
        (["x=3,4"], 1, "does not fit"),
        (["x=4,8,8"], 1, "does not fit"),
        (["x=2,3,8,8"], 1, "begins with a batch of 2"),
        (["z=3"], 1, "no input named 'z'"),
    ],
)
def test_shapes_that_do_not_do(given: list[str], batch: int, words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("[", r"\[")) as caught:
        random_data(IMAGE, shapes=shapes(*given), batch=batch, count=1, seed=0)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["x", "=3", "x=a", "x=8:4", "x=1:2:0", "x=3,-1"])
def test_shapes_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError, match="cannot read the shape"):
        parse_shape(text)


def test_npz(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((6, 3, 2, 2), np.float32)
    np.savez(tmp_path / "a.npz", x=values)
    data = load_data(tmp_path / "a.npz", IMAGE, batch=2, shapes={})
    assert len(data.rows) == 3
    assert np.array_equal(data.rows[1].inputs["x"], values[2:4])
    np.savez(tmp_path / "y.npz", y=np.arange(12, dtype=np.float32).reshape(6, 2))
    checked = with_expected(data, tmp_path / "y.npz", IMAGE, 2)
    assert checked.rows[2].expected["y"].tolist() == [[8, 9], [10, 11]]
    np.savez(tmp_path / "b.npz", a=np.arange(6).reshape(3, 2), t=np.array([["u"], ["v"], ["w"]]))
    rows = load_data(tmp_path / "b.npz", PLAIN, batch=1, shapes={}).rows
    assert [row.inputs["a"].tolist() for row in rows] == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(
    ("arrays", "batch", "words"),
    [
        ({"z": np.zeros((1, 3, 2, 2))}, 1, "no input named 'z'"),
        ({"x": np.zeros((3, 3, 2, 2))}, 2, "do not make batches of 2"),
        ({"x": np.zeros(3)}, 1, "has shape"),
    ],
)
def test_npz_that_does_not_fit(tmp_path: Path, arrays: dict[str, np.ndarray], batch: int, words: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=words):
        load_data(tmp_path / "a.npz", IMAGE, batch=batch, shapes={})


def test_a_directory(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        np.save(tmp_path / str(number) / "a.npy", np.array([number, 7]))
        (tmp_path / str(number) / "t").write_bytes(b"text")
    rows = load_data(tmp_path, PLAIN, batch=1, shapes={}).rows
    assert [row.inputs["a"].tolist() for row in rows] == [[0, 7], [1, 7]]
    assert rows[0].inputs["t"].tolist() == [b"text"]
    flat = tmp_path / "flat"
    flat.mkdir()
    (flat / "x.bin").write_bytes(np.ones(12, "<f4").tobytes())
    row = load_data(flat, IMAGE, batch=3, shapes=shapes("x=3,2,2")).rows[0]
    assert row.inputs["x"].shape == (3, 3, 2, 2)
    with pytest.raises(DataError, match="48 bytes"):
        load_data(flat, IMAGE, batch=1, shapes=shapes("x=3,2,3"))
    (flat / "x.bin").unlink()
    with pytest.raises(DataError, match="no file for input 'x'"):
        load_data(flat, IMAGE, batch=1, shapes={})
    with pytest.raises(DataError, match="out of the directory"):
        load_data(flat, Signature((TensorSpec("../x", "FP32", (1,)),), (), 0), batch=1, shapes={})


def test_perf_analyzer_json(tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    raw = base64.b64encode(np.full(12, 2, "<f4").tobytes()).decode()
    content = {
        "data": [
            {"x": {"content": list(range(12)), "shape": [3, 2, 2]}},
            {"x": {"b64": raw, "shape": [3, 2, 2]}},
        ],
        "validation_data": [{"y": [1, 2]}, {"y": {"content": [3, 4]}}],
    }
    file.write_text(json.dumps(content), encoding="utf-8")
    data = load_data(file, IMAGE, batch=1, shapes={})
    assert [row.inputs["x"].shape for row in data.rows] == [(1, 3, 2, 2)] * 2
    assert data.rows[1].expected["y"].tolist() == [[3, 4]]
    both = load_data(file, IMAGE, batch=2, shapes={}).rows
    assert both[0].inputs["x"].shape == (2, 3, 2, 2)
    assert both[0].inputs["x"][1].max() == 2
    streams = {"data": [[{"a": [1, 2]}, {"a": [3, 4]}], [{"a": [5, 6], "t": ["u", "v"]}]]}
    file.write_text(json.dumps(streams), encoding="utf-8")
    loaded = load_data(file, PLAIN, batch=1, shapes={})
    assert [len(stream) for stream in loaded.streams] == [2, 1]
    assert loaded.streams[1][0].inputs["t"].tolist() == [b"u", b"v"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("{}", "no list 'data'"),
        ('{"data": []}', "no requests"),
        ('{"data": [3]}', "is none"),
        ('{"data": [{"q": [1]}]}', "no tensor named 'q'"),
        ('{"data": [{"a": [1, 2, 3]}]}', "does not make INT64"),
        ('{"data": [{"a": ["u", 2]}]}', "does not make INT64"),
        ('{"data": [{"a": [1, 2]}], "validation_data": [{}, {}]}', "not as many steps"),
    ],
)
def test_json_that_does_not_do(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "data.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=words):
        load_data(file, PLAIN, batch=1, shapes={})


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,4,16", [1, 4, 16]),
        ("1:64:x2", [1, 2, 4, 8, 16, 32, 64]),
        ("100:350:100", [100, 200, 300]),
        ("1:8", [1, 2, 4, 8]),
        ("5", [5]),
        ("1,10:30:10", [1, 10, 20, 30]),
    ],
)
def test_ranges(text: str, values: list[float]) -> None:
    assert list(parse_range(text, "--rate", whole=False)) == values


@pytest.mark.parametrize("text", ["0", "-3", "a", "1:2:3:4", "4:1", "1:4:x1", "1:4:0", "1:100000:1", "nan", "inf", ""])
def test_ranges_that_make_no_sense(text: str) -> None:
    with pytest.raises(UsageError):
        parse_range(text, "--rate", whole=False)


def test_small_parsers(tmp_path: Path) -> None:
    assert parse_seconds("20ms", "--x") == pytest.approx(0.02)
    assert parse_seconds("2m", "--x") == 120
    slo = parse_slo("p99.9=1.5ms")
    assert slo.figure == "p99.9"
    assert slo.limit == pytest.approx(0.0015)
    for bad in ("p98=1ms", "p99", "p99=0ms", "p99=..ms"):
        with pytest.raises(UsageError):
            parse_slo(bad)
    assert ModelShare.parse("a:3=2") == ModelShare("a", "3", 2.0)
    assert ModelShare.parse("a:b") == ModelShare("a:b")
    for bad in ("a=0", "=1", "a=x"):
        with pytest.raises(UsageError):
            ModelShare.parse(bad)
    trace = tmp_path / "trace"
    trace.write_text("time,what\n# recorded\n10.5,a\n10.75 b\n\n11\n", encoding="utf-8")
    assert read_trace(trace) == (0, 250_000_000, 500_000_000)
    for text, words in (("1\n0.5\n", ":2: the time goes back"), ("", "no arrivals"), ("1\nx\n", "no time")):
        trace.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=words):
            read_trace(trace)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["m", "--rate", "0"], "0 is not above 0"),
        (["m", "--concurrency", "1.5"], "not a whole number"),
        (["m", "--duration", "0.2"], "too short for any statement"),
        (["m", "--rate", "5", "--concurrency", "2"], "do not go together"),
        (["m", "--streaming"], "needs gRPC"),
        (["m", "--url", "ftp://x:1"], "cannot use the URL"),
        (["m", "--url", "http://user:secret@x:1"], "cannot use the URL 'x:1'"),
        (["m", "--url", "http://x:1", "--url", "grpc://x:2"], "mixes gRPC and HTTP"),
        (["m", "--slo", "p99=20ms", "--rate", "5"], "finds the rate itself"),
        (["m", "--json", "/no/such/folder/x.json"], "there is no directory"),
        (["m", "--compare", "/no/such/file.json"], "No such file"),
        (["m", "--replay", "/no/such/file"], "No such file"),
        (["m", "n", "--data", "x.npz"], "for which model"),
        (["m", "--batch", "0"], "at least one row"),
        (["m", "--timeout", "0"], "must be above 0"),
    ],
)
def test_wrong_usage_is_one_message(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: ")
    assert words in err
    assert "Traceback" not in err
    assert "secret" not in err


def test_options_become_settings() -> None:
    options = parser("perf").parse_args(
        ["m=3", "n:2", "--rate", "10,20", "--arrival", "burst", "--burst", "4", "--data", "n=x.npz",
         "--deadline", "5ms",
         "--parameter", "p=1", "--parameter", "q=true", "--parameter", "r=x", "--duration", "2"]
    )  # fmt: skip
    settings = settings_of(options)
    assert settings.models == (ModelShare("m", "", 3.0), ModelShare("n", "2", 1.0))
    assert [str(load) for load in settings.loads] == ["10/s in bursts of 4", "20/s in bursts of 4"]
    assert settings.data == {"n": Path("x.npz")}
    assert settings.parameters == {"p": 1, "q": True, "r": "x"}
    assert settings.min_duration == 2.0
    assert settings.deadline == pytest.approx(0.005)
    check(settings)
    with pytest.raises(PerfError, match="no model"):
        check(Settings(()))
