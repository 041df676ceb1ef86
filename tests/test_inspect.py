"""What `tritonrepo inspect` says: held against the onnx library, counts by hand, and large files against the memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper, parser

import graphs
from test_cli import refused, tritonrepo
from tritonrepo import introspect as introspection
from tritonrepo._graph import read_model
from tritonrepo._onnx_wire import encode
from tritonrepo._skeleton import SMALL, read_skeleton
from tritonrepo.errors import ModelError, UsageError
from tritonrepo.inspection import Inspection, inspect
from tritonrepo.inspection.trt import table

ROOT = Path(__file__).parent.parent


def seen(path: Path, **sizes: int) -> Inspection:
    return inspect(path, sizes, prepare=False)


def written(folder: Path, text: str, *weights: onnx.TensorProto) -> Path:
    """A model in ONNX's own text form, with weights; graphs say only what matters to a test."""
    model = parser.parse_model(text)
    model.graph.initializer.extend(weights)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "m.onnx")
    return folder / "m.onnx"


HEAD = '<ir_version: 8, opset_import: ["" : 17]>'


# ---- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", graphs.GOOD)
def test_the_reader_sees_what_onnx_sees(write: graphs.Write, tmp_path: Path) -> None:
    path = write(tmp_path)
    ours, theirs = read_model(read_skeleton(path)), onnx.load(path, load_external_data=False)
    assert ours.graph is not None
    assert Counter((node.operator, node.inputs, node.outputs) for node in ours.nodes()) == Counter(
        (node.op_type, tuple(node.input), tuple(node.output)) for node in introspection.nodes(theirs)
    )
    assert [(t.name, t.dims, t.element) for t in ours.graph.initializers] == [
        (t.name, tuple(t.dims), t.data_type) for t in theirs.graph.initializer
    ]
    signature = introspection.introspect(path)
    found = seen(path)
    assert [str(port) for port in found.inputs if not port.optional] == [str(each) for each in signature.inputs]
    assert (found.batch.possible, found.batch.reason) == (signature.batch, signature.batch_reason)
    assert sum(found.operators.values()) == sum(signature.operators.values())
    assert found.problems == ()


def test_attributes_are_read(tmp_path: Path) -> None:
    node = helper.make_node("X", ["a"], ["b"], axis=-3, pads=[1, -2], mode="edge", when=1.5)
    graph = helper.make_graph([node], "g", [graphs._value("a", [1])], [graphs._value("b", [1])])
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    model = read_model(read_skeleton(tmp_path / "m.onnx"))
    [found] = model.nodes()
    assert [model.attribute(found, name) for name in ("axis", "pads", "mode", "nothing")] == [-3, [1, -2], "edge", None]


@pytest.mark.parametrize("form", ["raw", "typed", "in a subgraph", "constant"])
def test_large_weights_stay_in_the_file_and_can_be_found_there(form: str, tmp_path: Path) -> None:
    values = np.arange(SMALL, dtype=np.float32)
    raw = form != "typed"
    weight = helper.make_tensor("w", 1, [SMALL], values.tobytes() if raw else values.tolist(), raw=raw)
    value = graphs._value("y", [SMALL])
    node = helper.make_node("Constant", [], ["y"], value=weight)
    if form == "constant":
        graph = helper.make_graph([node], "g", [], [value])
    elif form == "in a subgraph":
        branch = helper.make_graph([helper.make_node("Identity", ["w"], ["z"])], "b", [], [value], [weight])
        nodes = [helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)]
        graph = helper.make_graph(nodes, "g", [graphs._value("x", [], TensorProto.BOOL)], [value])
    else:
        graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [value], [weight])
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    content = read_skeleton(tmp_path / "m.onnx")
    assert len(content) < 2000
    found = [*introspection.tensors(onnx.ModelProto.FromString(content))]
    assert found
    for tensor in found:
        external_data_helper.load_external_data_for_tensor(tensor, str(tmp_path))
        assert np.array_equal(np.frombuffer(tensor.raw_data, np.float32), values)


def test_what_a_tensor_that_is_inside_says_of_outside_does_not_count(tmp_path: Path) -> None:
    weight = helper.make_tensor("w", 1, [SMALL], np.zeros(SMALL, np.float32).tobytes(), raw=True)
    weight.external_data.add(key="location", value="../left over.bin")
    node = helper.make_node("Add", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", [graphs._value("x", [SMALL])], [graphs._value("y", [SMALL])], [weight])
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    [tensor] = introspection.tensors(onnx.ModelProto.FromString(read_skeleton(tmp_path / "m.onnx")))
    assert [entry.value for entry in tensor.external_data if entry.key == "location"] == ["m.onnx"]


def test_a_file_that_is_read_by_pages_is_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = graphs.cnn(tmp_path)
    whole = read_skeleton(path)
    monkeypatch.setattr("tritonrepo._skeleton._AT_ONCE", 0)
    assert read_skeleton(path) == whole


@pytest.mark.parametrize("write", graphs.BAD)
def test_bad_files_are_refused_or_their_problems_named(write: graphs.Write, tmp_path: Path) -> None:
    path = write(tmp_path)
    try:
        found = seen(path)
    except ModelError as error:
        assert str(path) in str(error)
        return
    needs_more = {
        graphs.unknown_operator, graphs.custom_domain_operator, graphs.cyclic, graphs.dangling_input, graphs.huge_shape,
        graphs.shape_mismatch, graphs.opset_too_new, graphs.ir_too_new, graphs.no_inputs,
    }  # fmt: skip
    assert found.problems or write in needs_more


def test_graphs_in_graphs_have_an_end(tmp_path: Path) -> None:
    graph = b""
    for _ in range(60):  # graph, node, attribute: the onnx library cannot write so many
        graph = encode(1, encode(4, b"If") + encode(5, encode(1, b"then_branch") + encode(6, graph)))
    (tmp_path / "m.onnx").write_bytes(encode(1, 8) + encode(7, graph))
    for look in (seen, introspection.introspect):
        with pytest.raises(ModelError, match="damaged"):
            look(tmp_path / "m.onnx")


def test_a_function_that_calls_itself_ends_the_inference_only(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]> g (float[n, 4] x) => (float[n, 4] y) {
        y = own.f(x)
    }
    <domain: "own", opset_import: ["" : 17, "own" : 1]> f (a) => (b) { b = own.f(a) }"""
    found = seen(written(tmp_path, text))
    assert found.compute.fault
    assert found.nodes == 2


# ---- what is said ----------------------------------------------------------------------------------------------------


def test_axes_and_who_shares_them(tmp_path: Path) -> None:
    found = seen(graphs.dynamic_height_width(tmp_path))
    assert [(axis.name, axis.inputs, axis.outputs) for axis in found.axes] == [
        ("batch", ("x[0]",), ("y[0]",)),
        ("height", ("x[2]",), ("y[2]",)),
        ("width", ("x[3]",), ("y[3]",)),
    ]
    assert found.compute.sizes == {"batch": 1, "height": 224, "width": 224}
    assert seen(graphs.unnamed_axes(tmp_path)).compute.sizes == {"x[0]": 1, "x[2]": 224, "x[3]": 224}


def test_weights_by_type_and_files(tmp_path: Path) -> None:
    found = seen(graphs.external_data(tmp_path))
    [weights] = found.weights
    assert (weights.type, weights.tensors, weights.elements, weights.bytes) == ("FP32", 4, 67, 268)
    [file] = found.external
    assert (file.location, file.tensors, file.needed, file.size) == ("external_data.bin", 4, 268, 268)


def test_claims_that_the_file_does_not_hold_are_problems(tmp_path: Path) -> None:
    found = seen(graphs.huge_initializer(tmp_path))
    assert any("says it has 1152921504606846976 elements" in problem for problem in found.problems)
    found = seen(graphs.short_external_data(tmp_path))
    assert any("ends at byte" in problem for problem in found.problems)
    for write in (graphs.external_data_parent, graphs.external_data_absolute, graphs.external_data_symlink):
        found = seen(write(tmp_path / write.__name__))
        assert found.external[0].size is None


CONV = "(float[n, 3, h, h] x) => (float[n, 8, oh, ow] y) {{ y = {} (x, w) }}"
RNN = "(float[t, n, 6] x) => (y) {{ y, z = {}<hidden_size = 5> (x, w, r) }}"


@pytest.mark.parametrize(
    ("body", "weights", "sizes", "macs"),
    [
        (CONV.format("Conv<pads=[1,1,1,1]>"), {"w": (8, 3, 3, 3)}, {"h": 10}, 8 * 10 * 10 * 3 * 3 * 3),
        (CONV.format("Conv<strides=[2,2]>"), {"w": (8, 3, 3, 3)}, {"n": 2, "h": 11}, 2 * 8 * 5 * 5 * 27),
        (CONV.format("ConvTranspose<strides=[2,2]>"), {"w": (3, 8, 2, 2)}, {"h": 10}, 3 * 10 * 10 * 8 * 4),
        ("(float[n, 6, 9] x) => (y) { y = Conv<group=3> (x, w) }", {"w": (12, 2, 4)}, {}, 12 * 6 * 2 * 4),
        ("(float[n, 6] x) => (y) { y = Gemm<transB=1> (x, w) }", {"w": (5, 6)}, {"n": 3}, 3 * 6 * 5),
        ("(float[7, n] x) => (y) { y = Gemm<transA=1> (x, w) }", {"w": (7, 5)}, {"n": 3}, 3 * 7 * 5),
        ("(float[n, 4, 6] x) => (y) { y = MatMul (x, w) }", {"w": (6, 5)}, {"n": 3}, 3 * 4 * 6 * 5),
        ("(float[n, 1, 4, 6] x) => (y) { y = MatMul (x, w) }", {"w": (8, 6, 5)}, {"n": 3}, 3 * 8 * 4 * 6 * 5),
        ("(float[n, 6] x) => (y) { y = MatMul (x, w) }", {"w": (6,)}, {"n": 3}, 18),
        ("(float[6] x) => (y) { y = MatMul (x, w) }", {"w": (2, 6, 5)}, {}, 60),
        ('(float[n,4,6] x) => (y) { y = Einsum<equation="bij,jk->bik"> (x, w) }', {"w": (6, 5)}, {"n": 2}, 240),
        ('(float[n,4,6] x) => (y) { y = Einsum<equation="...j,jk"> (x, w) }', {"w": (6, 5)}, {"n": 2}, 240),
        (RNN.format("RNN"), {"w": (1, 5, 6), "r": (1, 5, 5)}, {"t": 7, "n": 2}, 7 * 2 * 5 * 11),
        (RNN.format("LSTM"), {"w": (1, 20, 6), "r": (1, 20, 5)}, {"t": 7, "n": 2}, 7 * 2 * 20 * 11),
        (RNN.format("GRU"), {"w": (1, 15, 6), "r": (1, 15, 5)}, {"t": 7, "n": 2}, 7 * 2 * 15 * 11),
    ],
)  # fmt: skip
def test_arithmetic_by_hand(
    body: str, weights: dict[str, tuple[int, ...]], sizes: dict[str, int], macs: int, tmp_path: Path
) -> None:
    tensors = [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in weights.items()]
    found = seen(written(tmp_path, f"{HEAD} g {body}", *tensors), **sizes)
    assert (found.compute.counted.total, found.compute.counted.missing, found.compute.fault) == (macs, {}, "")


def test_arithmetic_of_attention(tmp_path: Path) -> None:
    text = """<ir_version: 11, opset_import: ["" : 23]>
        g (float[n, 2, s, 8] q, float[n, 2, t, 8] k, float[n, 2, t, 6] v) => (y) { y = Attention (q, k, v) }"""
    found = seen(written(tmp_path, text), n=3, s=5, t=7)
    assert found.compute.counted.total == 3 * 2 * 5 * 7 * (8 + 6)


def test_arithmetic_in_functions_branches_and_loops(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]> g (float[n, 4] x) => (float[n, 4] y) {
        w = Constant<value = float[4,4] {0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0}> ()
        a = own.twice(x, w)
        y = own.twice(a, w)
    }
    <domain: "own", opset_import: ["" : 17]> twice (a, w) => (b) { c = MatMul(a, w) b = MatMul(c, w) }"""
    found = seen(written(tmp_path / "functions", text), n=3)
    assert found.compute.counted.total == 4 * 3 * 16
    assert found.operators["own", "twice"] == 2
    assert found.operators["", "MatMul"] == 2

    branches = """(float[n, 4] x, bool c) => (float[n, 4] y) { y = If (c) <
        then_branch = a () => (float[n, 4] p) { q = MatMul (x, w) p = MatMul (q, w) },
        else_branch = b () => (float[n, 4] r) { r = MatMul (x, w) }> }"""
    weight = numpy_helper.from_array(np.zeros((4, 4), np.float32), "w")
    found = seen(written(tmp_path / "branches", f"{HEAD} g {branches}", weight), n=3)
    assert found.compute.counted.total == 2 * 3 * 16
    assert found.subgraphs == 2

    loop = """(float[n, 4] x) => (float[n, 4] y) { go = Constant<value = bool {1}> () y = Loop (times, go, x) <
        body = b (int64 i, bool on, float[n, 4] s) => (bool off, float[n, 4] t) { off = Identity(on) t = MatMul(s, w) }>
    }"""
    times = numpy_helper.from_array(np.array(5, np.int64), "times")
    found = seen(written(tmp_path / "loop", f"{HEAD} g {loop}", weight, times), n=3)
    assert found.compute.counted.total == 5 * 3 * 16


def test_what_is_not_counted_is_named(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "com.example" : 1]> g (float[n, 4] x) => (y) {
        a = com.example.Magic(x) y = MatMul(a, a) }"""
    found = seen(written(tmp_path, text)).compute.counted
    assert found.total == 0
    assert dict(found.missing) == {
        ("com.example::Magic", "it is no standard operator"): 1,
        ("MatMul", "its shapes do not follow from the inputs' shapes"): 1,
    }


def test_sizes_that_nobody_has(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'depth'") as caught:
        seen(graphs.dynamic_height_width(tmp_path), depth=3)
    assert "batch, height, width" in str(caught.value)


# ---- TensorRT --------------------------------------------------------------------------------------------------------


def test_the_list_is_whole() -> None:
    held = table()
    assert (held.release, held.opset) == ("10.15", (9, 24))
    assert len(held.operators) == 200
    assert held.operators["And"] == {"BOOL"}
    assert held.operators["Unique"] == frozenset()
    assert set(held.conditions) <= {name for name, types in held.operators.items() if types}
    standard = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
    gone = {"ImageScaler", "ParametricSoftplus", "ScaledTanh"}  # of the time before opset 9
    assert set(held.operators) - standard <= gone


@pytest.mark.parametrize(
    ("write", "verdict", "words"),
    [
        (graphs.mlp, "nothing known against it", ""),
        (graphs.custom_domain_operator, "unknown", "through a plugin"),
        (graphs.unknown_operator, "unknown", "the list does not name it"),
        (graphs.sequence_io, "refused", "it is of type sequence"),
        (graphs.opset_too_new, "refused", "takes opset 9 to 24"),
        (lambda folder: graphs.identity(folder, "STRING"), "refused", "it is STRING"),
        (lambda folder: graphs.identity(folder, "INT16"), "refused", "it is INT16"),
        (lambda folder: graphs.identity(folder, "FP64"), "nothing known against it", "FP64 is computed in FP32"),
        (lambda folder: graphs.identity(folder, "UINT8"), "unknown", "does not name UINT8 for it"),
    ],
)
def test_what_prevents_tensorrt(write: graphs.Write, verdict: str, words: str, tmp_path: Path) -> None:
    outlook = seen(write(tmp_path)).tensorrt
    assert outlook.verdict == verdict
    assert words in " ".join(finding.why for finding in outlook.findings)


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path) -> None:
    graphs.initializer_as_input(tmp_path)
    done = tritonrepo("inspect", "initializer_as_input.onnx", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for line in (
        "  inputs    x FP32[batch,4]",
        "            4 weights are listed as inputs too",
        "  batch     may batch: the first axis of every input and output is dynamic",
        "  nodes     3: Gemm 2, Relu 1",
        "  compute   56 MACs (112 FLOPs) at batch = 1: Gemm 100 %",
        "  TensorRT  not known, by the operator list of TensorRT 10.15",
        "            unknown: opset 8: TensorRT 10.15 takes opset 9 to 24",
    ):
        assert f"{line}\n" in done.stdout
    assert "4 weights are no longer listed as inputs" in done.stdout


def test_json_is_as_its_schema_says(tmp_path: Path) -> None:
    names = [
        write(tmp_path).name for write in (graphs.loop, graphs.external_data, graphs.sequence_io, graphs.odd_names)
    ]
    done = tritonrepo("inspect", "--json", "--no-prepare", "--size", "batch=8", *names[:2], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    schema = json.loads((ROOT / "docs" / "inspect.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    document = json.loads(done.stdout)
    jsonschema.validate(document, schema)
    assert [model["path"] for model in document["models"]] == names[:2]
    assert document["models"][0]["compute"]["sizes"] == {"batch": 8}
    (tmp_path / "cut.onnx").write_bytes((tmp_path / "loop.onnx").read_bytes()[:100])
    done = tritonrepo("inspect", "--json", *names, "cut.onnx", "nowhere.onnx", cwd=tmp_path)
    assert done.returncode == 1
    document = json.loads(done.stdout)
    jsonschema.validate(document, schema)
    assert len(document["models"]) == 4
    assert [error["path"] for error in document["errors"]] == ["cut.onnx", "nowhere.onnx"]


def test_faults_are_told(tmp_path: Path) -> None:
    graphs.mlp(tmp_path)
    refused(tritonrepo("inspect", "nowhere.onnx", cwd=tmp_path), 1, "nowhere.onnx: no such file")
    refused(tritonrepo("inspect", ".", cwd=tmp_path), 1, "it is a folder")
    refused(tritonrepo("inspect", cwd=tmp_path), 2, "MODEL")
    refused(tritonrepo("inspect", "--size", "batch", "mlp.onnx", cwd=tmp_path), 2, "AXIS=N")
    refused(tritonrepo("inspect", "--size", "depth=3", "mlp.onnx", cwd=tmp_path), 2, "'depth'", "batch")


# ---- large files -----------------------------------------------------------------------------------------------------

#: Runs a command and prints the memory of the largest of the processes that took part, in MiB.
MEASURED = """
import resource, subprocess, sys
code = subprocess.run([sys.executable, "-m", "tritonrepo", "inspect", *sys.argv[1:]]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10)
sys.exit(code)
"""


def memory(*arguments: str | Path) -> tuple[int, str]:
    """MiB at the most, and what the command said."""
    command = [sys.executable, "-c", MEASURED, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=True)
    text, _, last = done.stdout.rstrip().rpartition("\n")
    return int(last), text


def test_five_gib_of_external_data_take_no_memory(tmp_path: Path) -> None:
    used, text = memory(graphs.five_gib(tmp_path))
    assert "five_gib.bin: 80 tensors, 5.00 GiB needed, 5.00 GiB there" in text
    assert "1.34 G MACs" in text
    assert used < 200


def test_inline_weights_take_no_memory(tmp_path: Path) -> None:
    used, text = memory(graphs.large_inline(tmp_path))
    assert "471 M FP32 in 1 tensor, 1.75 GiB" in text
    assert used < 200


def test_a_hundred_thousand_nodes(tmp_path: Path) -> None:
    used, text = memory("--no-prepare", graphs.many_nodes(tmp_path))
    assert "nodes     100000: Relu 25000, Add 25000, MatMul 25000, Softmax 25000" in text
    assert "1.60 M MACs" in text
    assert used < 200
