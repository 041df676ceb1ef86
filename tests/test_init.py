"""models.yaml from graphs: what is written, and that it loads and means what the graphs say."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import graphs
from tritonrepo import _yaml
from tritonrepo._tensorrt import Availability
from tritonrepo.errors import ModelError, UsageError
from tritonrepo.init import _quoted, spec_text, write_spec
from tritonrepo.introspect import introspect
from tritonrepo.plan import plan
from tritonrepo.prepare import Prepared
from tritonrepo.spec import AxisRange, Spec, TensorRange, load_spec

NO_TENSORRT = Availability(False, "not here")


def no_guess(axes: tuple[str, ...]) -> Mapping[str, int] | None:
    raise AssertionError(f"the spec gives no range for {axes}")


def written(folder: Path, *onnx: Path) -> tuple[str, Spec]:
    """The text of folder/models.yaml for these models, and what it loads as."""
    target = folder / "models.yaml"
    text = write_spec(onnx, target)
    assert target.read_text() == text
    return text, load_spec(target, environ={})


def test_a_model_without_open_questions(tmp_path: Path) -> None:
    text, spec = written(tmp_path, graphs.mlp(tmp_path))
    assert text.startswith("# yaml-language-server: $schema=models.schema.json")
    assert (
        text.split("models:\n")[1]
        == """\
  - name: mlp
    onnx: mlp.onnx
    # input  x: FP32 [batch, 4]
    # output y: FP32 [batch, 3]
    # batches: likely, as the first axis of every input and output is dynamic; the build proves it.
    # batching: {max_batch_size: 32}   # where auto is not what you want
"""
    )
    assert [(model.name, model.onnx) for model in spec.models] == [("mlp", tmp_path / "mlp.onnx")]
    assert spec.repository == tmp_path / "model_repository"


def test_named_axes_get_ranges_that_are_marked_as_guesses(tmp_path: Path) -> None:
    text, spec = written(tmp_path, graphs.dynamic_height_width(tmp_path))
    guess = AxisRange(min=32, opt=320, max=640)
    assert spec.models[0].shapes == {"height": guess, "width": guess}
    assert "the ranges are guesses" in text
    assert "# looks like the height or width of an image" in text


def test_axes_without_names_get_whole_shapes(tmp_path: Path) -> None:
    _, spec = written(tmp_path, graphs.unnamed_axes(tmp_path))
    assert spec.models[0].shapes == {"x": TensorRange(min=(3, 32, 32), opt=(3, 320, 320), max=(3, 640, 640))}


@pytest.mark.parametrize(
    ("dtype", "shape", "shapes"),
    [
        ("INT64", ("batch", "sequence_length"), {"sequence_length": (1, 128, 512)}),
        ("INT64", ("batch", "n"), {"n": (1, 128, 512)}),
        ("FP32", ("batch", "n"), {"n": (1, 16, 64)}),
        ("UINT8", ("batch", "h", "w", 3), {"h": (32, 320, 640), "w": (32, 320, 640)}),
        ("FP32", ("batch", 7, "n", "m"), {"n": (1, 16, 64), "m": (1, 16, 64)}),
        ("FP32", ("batch", 7, "Height", "m"), {"Height": (32, 320, 640), "m": (1, 16, 64)}),
        ("FP32", (2, "n", "n"), {"n": (1, 16, 64)}),
        ("FP32", ("n", 5), {}),
    ],
)
def test_guesses(tmp_path: Path, dtype: str, shape: graphs.Dims, shapes: dict[str, tuple[int, int, int]]) -> None:
    _, spec = written(tmp_path, graphs.identity(tmp_path, dtype, shape))
    found = spec.models[0].shapes
    assert {axis: (bounds.min, bounds.opt, bounds.max) for axis, bounds in found.items()} == shapes


def test_an_input_with_some_names_agrees_with_the_named_axes(tmp_path: Path) -> None:
    _, spec = written(tmp_path, graphs.identity(tmp_path, "FP32", ("batch", "length", None, 5)))
    assert spec.models[0].shapes == {
        "length": AxisRange(min=1, opt=128, max=512),
        "x": TensorRange(min=(1, 1, 5), opt=(128, 16, 5), max=(512, 64, 5)),
    }


def test_an_axis_that_is_called_like_its_input(tmp_path: Path) -> None:
    _, spec = written(tmp_path, graphs.identity(tmp_path, "FP32", ("batch", "x", None)))
    assert spec.models[0].shapes == {"x": TensorRange(min=(1, 1), opt=(16, 16), max=(64, 64))}


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (graphs.static_batch, "not as it stands, as the first axis of input x is fixed at 1"),
        (graphs.scalar_input, "not as it stands, as input scale is a scalar"),
    ],
)
def test_why_a_model_does_not_batch(tmp_path: Path, model: Callable[[Path], Path], reason: str) -> None:
    text, _ = written(tmp_path, model(tmp_path))
    assert f"# batches: {reason}" in text
    assert "max_batch_size" not in text


def test_what_is_written_can_be_planned(tmp_path: Path) -> None:
    """Every dynamic axis has its range, under a name that the plan knows."""
    makers = (graphs.mlp, graphs.odd_names, graphs.dynamic_height_width, graphs.unnamed_axes, graphs.scalar_input)
    _, spec = written(tmp_path, *(make(tmp_path) for make in makers))
    for model in spec.models:
        signature = introspect(model.onnx)
        prepared = Prepared(model.onnx, (), (), signature)
        (profile,) = plan(model, signature, prepared, NO_TENSORRT, guess=no_guess, output_shapes=dict).profiles
        assert all(size > 0 for shape in profile.max.values() for size in shape)


def test_odd_names_are_quoted(tmp_path: Path) -> None:
    text, _ = written(tmp_path, graphs.odd_names(tmp_path))
    assert '# input  "gpu_0/data:0": FP32 [batch, 3]' in text
    assert '# output "a \\"quoted\\" \\\\ ünï": FP32 [batch, 3]' in text


@pytest.mark.parametrize(
    "name", ["a\nb: c", "#x", "null", "12", "- x", "é\x85\u2028", "x: y", "x", '"', "a\\b", " ", "\x00"]
)
def test_axis_names_arrive_as_they_are(tmp_path: Path, name: str) -> None:
    _, spec = written(tmp_path, graphs.identity(tmp_path, "FP32", ("batch", name)))
    assert list(spec.models[0].shapes) == [name]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(codec="utf-8"), min_size=1, max_size=20))
def test_quoted_text_is_read_back(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.yaml"
    quoted = _quoted(text)
    assert "\n" not in quoted
    file.write_text(f"{quoted}: {quoted.replace('$', '$$')}   # comment\n", encoding="utf-8")
    assert _yaml.read(file, {}).data == {text: text}


def test_names_are_fit_and_different(tmp_path: Path) -> None:
    files = []
    for place in ("résumé (1).onnx", "one/model.onnx", "two/Model.onnx", "sub/one/model.onnx"):
        file = tmp_path / place
        file.parent.mkdir(parents=True, exist_ok=True)
        files.append(graphs.mlp(tmp_path).rename(file))
    _, spec = written(tmp_path, *files)
    assert [model.name for model in spec.models] == ["resume_1", "one_model", "two_Model", "one_model_2"]
    assert [model.onnx for model in spec.models] == files


def test_paths_are_relative_to_the_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("~x.onnx", "a$HOME ${b}.onnx"):
        graphs.mlp(tmp_path).rename(tmp_path / name)
    (tmp_path / "specs").mkdir()
    monkeypatch.chdir(tmp_path)
    text = write_spec([Path("~x.onnx"), tmp_path / "a$HOME ${b}.onnx"], Path("specs/models.yaml"))
    assert "onnx: ../~x.onnx" in text or 'onnx: "../~x.onnx"' in text
    assert [model.onnx.name for model in load_spec(Path("specs/models.yaml")).models] == ["~x.onnx", "a$HOME ${b}.onnx"]
    write_spec([Path("~x.onnx")], Path("models.yaml"))
    assert load_spec(Path("models.yaml")).models[0].onnx == tmp_path / "~x.onnx"


def test_an_existing_file_is_kept_unless_forced(tmp_path: Path) -> None:
    target = tmp_path / "models.yaml"
    target.write_text("mine")
    model = graphs.mlp(tmp_path)
    with pytest.raises(UsageError, match="already") as caught:
        write_spec([model], target)
    assert caught.value.hint is not None
    assert target.read_text() == "mine"
    write_spec([model], target, force=True)
    assert load_spec(target).models[0].name == "mlp"


def test_what_cannot_be_written(tmp_path: Path) -> None:
    model = graphs.mlp(tmp_path)
    with pytest.raises(UsageError, match="no ONNX files"):
        spec_text([], tmp_path / "models.yaml")
    with pytest.raises(UsageError, match="cannot write the spec: No such file or directory"):
        write_spec([model], tmp_path / "nowhere" / "models.yaml")
    with pytest.raises(ModelError):
        write_spec([model, graphs.not_onnx(tmp_path)], tmp_path / "models.yaml")
    assert not (tmp_path / "models.yaml").exists()


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "models.yaml"
    target.write_text("mine")
    model = graphs.mlp(tmp_path)

    def full(self: Path, *_: object, **__: object) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UsageError, match="No space left on device"):
        write_spec([model], target, force=True)
    assert target.read_text() == "mine"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mlp.onnx", "models.yaml"]
