"""The reader of ONNX signatures: against onnx itself, on damaged and hostile files, and at any size."""

from __future__ import annotations

import io
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import graphs
from tritonrepo.check import _wire
from tritonrepo.check._rows import Origin, origin
from tritonrepo.check._signature import Signature, read_signature
from tritonrepo.check._wire import Wire
from tritonrepo.errors import ModelError
from tritonrepo.introspect import introspect

EXAMPLES = sorted((Path(__file__).parents[1] / "examples" / "models").glob("*.onnx"))


def assert_as_introspected(path: Path) -> None:
    """What is read is what onnx reads."""
    told, read = introspect(path), read_signature(path)
    for theirs, ours in ((told.inputs, read.inputs), (told.outputs, read.outputs)):
        assert [(f"TYPE_{each.dtype}", each.name, each.shape) for each in theirs] == [
            (each.data_type, each.name, each.shape) for each in ours
        ]
        assert {each.kind for each in ours} == {"tensor"}
    assert dict(told.opset) == read.opset
    assert told.ir_version == read.ir_version
    assert list(told.external_data) == [path.parent / external.location for external in read.external]
    model = onnx.load(path, load_external_data=False)
    last = {name: node for node in model.graph.node for name in node.output}
    for name, node in read.last_nodes.items():
        assert (node.operator, node.inputs) == (last[name].op_type, tuple(last[name].input))


@pytest.mark.parametrize("write", graphs.GOOD, ids=lambda write: write.__name__)
def test_as_introspected(write: Callable[[Path], Path], tmp_path: Path) -> None:
    assert_as_introspected(write(tmp_path))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_real_models_as_introspected(path: Path) -> None:
    assert_as_introspected(path)


def test_in_memory_as_on_disk(tmp_path: Path) -> None:
    path = graphs.two_inputs_two_outputs(tmp_path)
    from_disk, in_memory = read_signature(path), read_signature(path.read_bytes())
    assert (from_disk.inputs, from_disk.outputs) == (in_memory.inputs, in_memory.outputs)
    assert from_disk.last_nodes == in_memory.last_nodes


def test_weights_that_are_inputs_too(tmp_path: Path) -> None:
    found = read_signature(graphs.initializer_as_input(tmp_path))
    assert [value.name for value in found.inputs] == ["x"]
    assert {value.name for value in found.defaults} == {"w1", "b1", "w2", "b2"}


def test_types_that_triton_lacks(tmp_path: Path) -> None:
    kinds = {
        graphs.sequence_io: "sequence",
        graphs.optional_io: "optional",
        graphs.map_io: "sequence",
    }
    for write, kind in kinds.items():
        found = read_signature(write(tmp_path))
        assert kind in {value.kind for value in (*found.inputs, *found.outputs)}
    assert read_signature(graphs.complex_io(tmp_path)).inputs[0].data_type is None


def test_an_output_without_a_shape() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    found = read_signature(helper.make_model(helper.make_graph([node], "g", inputs, outputs)).SerializeToString())
    assert found.outputs[0].shape is None
    assert found.outputs[0].dims is None
    assert found.inputs[0].dims == (-1, 2)


class TestSize:
    def test_weights_are_passed_over(self, tmp_path: Path) -> None:
        """A file of 6 GiB, which protobuf cannot read, costs what one of a kilobyte costs."""
        small = graphs.mlp(tmp_path).read_bytes()
        size = 6 * 2**30
        weight = b"\x42\x03big\x4a" + varint(size)  # name, raw_data
        graph = b"\x2a" + varint(len(weight) + size) + weight
        path = tmp_path / "large.onnx"
        with path.open("wb") as file:
            file.write(small + b"\x3a" + varint(len(graph) + size) + graph)
            file.truncate(file.tell() + size)
        tracemalloc.start()
        found = read_signature(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert [value.name for value in found.inputs] == ["x"]
        assert peak < 200_000

    def test_little_is_read(self, tmp_path: Path) -> None:
        path = next((path for path in EXAMPLES if path.stat().st_size > 5_000_000), None)
        if path is None:
            pytest.skip("the larger example models are not here: make models")
        counted = Counted(path)
        _, read = counted.signature()
        assert read < path.stat().st_size / 20


class Counted:
    """Counts the bytes that are read of a file, by what the operating system is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def signature(self) -> tuple[Signature, int]:
        before = self._asked()
        found = read_signature(self.path)
        return found, self._asked() - before

    def _asked(self) -> int:
        lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
        return int(lines[0].split()[1])


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


class TestHostileFiles:
    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "no graph"),
            (b"\x08\x08", "no graph"),
            (b"\x3a" + varint(2**60), "left"),
            (b"\x3a\x04\x62\xff\xff\x03", "left"),
            (b"\x3a\x03\x62\x05\x0a", "left"),
            (b"\x3a" + b"\xff" * 12, "does not end"),
            (b"\x08" + b"\x80" * 30, "does not end"),
            (b"\x00\x00", "field 0"),
            (b"\x3b\x00", "kind 3"),
            (b"\x3e\x00", "kind 6"),
            (b"\x38\x00", "another kind"),
            (b"\x3a\x02\x60\x00", "another kind"),
            (b"\x7d\x00", "does not end"),
            (b"not an ONNX file at all", "kind 6"),
            (b"PK\x03\x04" + bytes(30), "zip archive"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
            (b"<!DOCTYPE html>", "HTML page"),
        ],
    )
    def test_is_refused(self, content: bytes, reason: str) -> None:
        with pytest.raises(ModelError, match=reason):
            read_signature(content)

    def test_a_name_of_megabytes(self) -> None:
        name = b"\x0a" + varint(2**21) + b"a" * 2**21
        value = b"\x5a" + varint(len(name)) + name
        with pytest.raises(ModelError, match="a name of 2097152 bytes"):
            read_signature(b"\x3a" + varint(len(value)) + value)

    @pytest.mark.parametrize("part", [b"\x0a\x00", b"\x5a\x00", b"\x2a\x00", b"\x12\x00"])
    def test_millions_of_parts(self, part: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_wire, "_MOST_FIELDS", 50_000)
        graph = part * 60_000
        with pytest.raises(ModelError, match="more than"):
            read_signature(b"\x3a" + varint(len(graph)) + graph)

    def test_a_shape_of_thousands_of_dims(self) -> None:
        with pytest.raises(ModelError, match="more than 256 dims"):
            read_signature(model_with("y", [1] * 1000))

    def test_a_folder_and_a_missing_file(self, tmp_path: Path) -> None:
        for path in (tmp_path, tmp_path / "none.onnx"):
            with pytest.raises(ModelError, match="cannot be read"):
                read_signature(path)

    def test_nothing_but_its_own_error(self, tmp_path: Path) -> None:
        """Bytes changed, taken out, put in, cut off: the file is read or refused, and axes are followed or not."""
        rng = random.Random(20250811)
        contents = [
            write(tmp_path / write.__name__).read_bytes()
            for write in (graphs.mlp, graphs.loop, graphs.reshape_mixes_rows, graphs.external_data, graphs.odd_names)
        ]
        read = 0
        for _ in range(4000):
            data = bytearray(rng.choice(contents))
            for _ in range(rng.choice((1, 1, 2, 5))):
                mutate(data, rng)
            try:
                found = read_signature(bytes(data))
            except ModelError:
                continue
            read += 1
            for output in found.outputs:
                for axis in range(3):
                    assert isinstance(origin(found, output.name, axis), Origin | None)
                found.integers(output.name)
        assert read > 500


def mutate(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data)) if data else 0
    match rng.randrange(6) if data else 5:
        case 0 | 1:
            data[at] = rng.randrange(256)
        case 2:
            data[at] ^= 1 << rng.randrange(8)
        case 3:
            del data[at : at + rng.choice((1, 2, 9))]
        case 4:
            del data[at:]
        case _:
            data[at:at] = rng.choice((b"\x80", b"\xff" * 9, b"\x0a\x00", varint(2**60), bytes([rng.randrange(256)])))


def model_with(name: str, dims: list[int]) -> bytes:
    node = helper.make_node("Relu", ["x"], [name])
    values = [helper.make_tensor_value_info("x", 1, ["n"])], [helper.make_tensor_value_info(name, 1, dims)]
    return bytes(helper.make_model(helper.make_graph([node], "g", *values)).SerializeToString())


def test_fields_of_every_kind() -> None:
    model = b"\x08\x96\x01" + b"\x12\x02hi" + b"\x19" + bytes(8) + b"\x25" + bytes(4)
    assert list(Wire(io.BytesIO(model)).fields((0, len(model)))) == [(1, 150), (2, (5, 7))]


class TestOrigin:
    """Where axes of outputs come from."""

    @pytest.mark.parametrize(
        ("write", "expected"),
        [
            (graphs.mlp, ("x", 0, "", "")),
            (graphs.cnn, ("x", 0, "", "")),
            (graphs.softmax_over_batch, ("x", 0, "", "Softmax runs along that axis")),
            (graphs.non_max_suppression, ("", 0, "NonMaxSuppression has a row for each box that it keeps", "")),
            (graphs.reshape_mixes_rows, ("", 0, "Reshape makes rows of 2 elements out of rows of 4", "")),
        ],
        ids=lambda value: getattr(value, "__name__", ""),
    )
    def test_of_rows(self, write: Callable[[Path], Path], expected: tuple[str, int, str, str], tmp_path: Path) -> None:
        found = read_signature(write(tmp_path))
        source = origin(found, found.outputs[0].name)
        assert source is not None
        name = source.value.name if source.value else ""
        assert (name, source.axis, source.reason, source.mixes) == expected

    @pytest.mark.parametrize(
        "write", [graphs.loop, graphs.conditional, graphs.mean_over_batch, graphs.static_batch_in_reshape]
    )
    def test_is_not_guessed(self, write: Callable[[Path], Path], tmp_path: Path) -> None:
        found = read_signature(write(tmp_path))
        assert origin(found, found.outputs[0].name) is None

    def test_through_a_transpose_and_a_constant(self) -> None:
        nodes = [
            helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
            helper.make_node("Constant", [], ["shape"], value_ints=[0, -1]),
            helper.make_node("Reshape", ["t", "shape"], ["y"]),
        ]
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "time", 4])]
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["time", None])]
        found = read_signature(helper.make_model(helper.make_graph(nodes, "g", inputs, outputs)).SerializeToString())
        assert origin(found, "y") == Origin(found.inputs[0], 1)
