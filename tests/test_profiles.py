"""Profiles, and what goes with them: derived, proven, and held against a model of how the TensorRT backend chooses."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritonrepo._coverage import BATCH, Box, Clash, Gap, Proof, Tuned, cut, prove
from tritonrepo.errors import ModelError
from tritonrepo.introspect import Dim, Signature, Tensor, conclude_batch
from tritonrepo.profiles import Design, Graph, Profile, design, missing_ranges
from tritonrepo.spec import ModelSpec

Shapes = Mapping[str, tuple[int, ...]]
IMAGE = Tensor("image", "FP32", ("n", 3, "height", "width"))


def signature(*inputs: Tensor) -> Signature:
    batch, why = conclude_batch(inputs, (Tensor("y", "FP32", (inputs[0].shape[:1] or (1,))),))
    return Signature(Path("m.onnx"), inputs, (), {"": 17}, 8, {}, (), 0, batch, why)


def spec(**settings: Any) -> ModelSpec:
    return ModelSpec.model_validate({"name": "m", "onnx": "m.onnx", **settings})


def designed(batch: int, *inputs: Tensor, guesses: Mapping[str, int] | None = None, **settings: Any) -> Design:
    return design(spec(**settings), signature(*inputs), batch, guesses or {}, tensorrt=True)


def refused(batch: int, *inputs: Tensor, **settings: Any) -> str:
    with pytest.raises(ModelError) as caught:
        designed(batch, *inputs, **settings)
    return str(caught.value)


# ---- how the backend chooses, told again -----------------------------------------------------------------------------


def chosen(profiles: Sequence[Profile], rows: int, request: Shapes, *, batches: bool) -> int | None:
    """The profile that the TensorRT backend takes for requests of these whole shapes; None where none holds them.

    The first with the least distance. The distance of an input is that of the batch (1 where there is none) from the
    first axis of opt, and for every further axis of opt that from the axis before it in the request.
    """
    best: tuple[int, int] | None = None
    for number, profile in enumerate(profiles):
        distance = 0
        for name, shape in request.items():
            if not all(a <= b <= c for a, b, c in zip(profile.min[name], shape, profile.max[name], strict=True)):
                break
            opt = profile.opt[name]
            distance += abs(opt[0] - (rows if batches else 1)) if opt else 0
            distance += sum(abs(opt[axis] - shape[axis - 1]) for axis in range(1, len(opt)))
        else:
            if best is None or distance < best[0]:
                best = (distance, number)
    return best and best[1]


def nearest(profiles: Sequence[Profile], request: Shapes) -> list[int]:
    """The profiles that a person would call the nearest: of those that hold the shapes, by all axes of opt."""
    distances = {
        number: sum(
            abs(a - b) for name, shape in request.items() for a, b in zip(profile.opt[name], shape, strict=True)
        )
        for number, profile in enumerate(profiles)
        if all(
            a <= b <= c
            for name, shape in request.items()
            for a, b, c in zip(profile.min[name], shape, profile.max[name], strict=True)
        )
    }
    least = min(distances.values(), default=0)
    return [number for number, distance in distances.items() if distance == least]


def requests(
    inputs: Sequence[Tensor], batch: int, sizes: Mapping[Dim, tuple[int, int]]
) -> Iterator[tuple[int, Shapes]]:
    """Everything that the batcher can form of requests with these sizes, axes of one name being equal."""
    names = list(sizes)
    for rows in range(1, batch + 1) if batch else [1]:
        for values in itertools.product(*(range(low, high + 1) for low, high in sizes.values())):
            known = dict(zip(names, values, strict=True))
            yield (
                rows,
                {
                    tensor.name: tuple(
                        rows if axis == 0 and batch else dim if isinstance(dim, int) else known[dim]
                        for axis, dim in enumerate(tensor.shape)
                    )
                    for tensor in inputs
                },
            )


def ranges(most: int) -> st.SearchStrategy[dict[str, int]]:
    return st.tuples(*[st.integers(1, most)] * 3).map(
        lambda ends: dict(zip(("min", "opt", "max"), sorted(ends), strict=True))
    )


BATCHED = (IMAGE, Tensor("mask", "FP32", ("n", "width")))
UNBATCHED = (Tensor("image", "FP32", (3, "height", "width")), Tensor("threshold", "FP32", (1,)))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([(BATCHED, 5), (BATCHED, 1), (UNBATCHED, 0)]),
    st.fixed_dictionaries({"height": ranges(4), "width": ranges(4)}),
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={"batch": ranges(5), "shapes": st.dictionaries(st.sampled_from(["height", "width"]), ranges(4))},
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_what_is_accepted_is_right_and_what_is_refused_is_wrong(
    model: tuple[tuple[Tensor, ...], int], shapes: dict[str, dict[str, int]], listed: list[dict[str, Any]]
) -> None:
    inputs, batch = model
    listed = [{**each, "batch": each.get("batch")} if batch == 5 else {**each, "batch": None} for each in listed]
    sizes: dict[Dim, tuple[int, int]] = {key: (ends["min"], ends["max"]) for key, ends in shapes.items()}
    asked = spec(shapes=shapes, profiles=listed, batching={"opt_batch_size": 2})
    try:
        made = design(asked, signature(*inputs), batch, {}, tensorrt=True)
    except ModelError as error:
        fault = error.message
    else:
        fault = ""
        assert made.serving.proof is not None
        count = 0
        for rows, request in requests(inputs, batch, sizes):
            assert [chosen(made.profiles, rows, request, batches=batch > 0)] == nearest(made.profiles, request)
            count += 1
        assert made.serving.proof.shapes == count
    if fault:
        # The same profiles, without the proof: what was complained of can be found.
        profiles = [
            design(spec(shapes={**shapes, **each.get("shapes", {})}), signature(*inputs), batch, {}, tensorrt=False)
            for each in listed
        ]
        boxes = [
            _batched(one.profiles[0], each["batch"] or {"min": 1, "opt": min(2, batch), "max": batch}, batch)
            for each, one in zip(listed, profiles, strict=True)
        ]
        seen = [
            (nearest(boxes, request), chosen(boxes, rows, request, batches=batch > 0), request)
            for rows, request in requests(inputs, batch, sizes)
        ]
        if "no profile holds" in fault:
            assert any(choice is None for _, choice, _ in seen)
        else:
            assert "both hold" in fault
            several = [request for _, _, request in seen if sum(_holds(box, request) for box in boxes) > 1]
            assert several


def _batched(profile: Profile, rows: Mapping[str, int], batch: int) -> Profile:
    """The profile with another range of batches."""
    if not batch:
        return profile
    ends = {
        end: {name: (rows[end], *shape[1:]) for name, shape in getattr(profile, end).items()}
        for end in ("min", "opt", "max")
    }
    return Profile(**ends)


def _holds(profile: Profile, request: Shapes) -> bool:
    return bool(nearest([profile], request))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(*[st.tuples(st.integers(0, 6), st.integers(0, 6)).map(sorted)] * 2), min_size=1, max_size=5))
def test_cutting_leaves_nothing_out_and_nothing_twice(sides: list[tuple[list[int], list[int]]]) -> None:
    boxes = [Box({"a": (a[0], a[1]), "b": (b[0], b[1])}) for a, b in sides]
    whole, others = boxes[0], boxes[1:]
    points: list[tuple[int, int]] = []
    for part, members in cut(whole, others):
        (a, b), (c, d) = part.sides["a"], part.sides["b"]
        for point in itertools.product(range(a, b + 1), range(c, d + 1)):
            points.append(point)
            at = Box({"a": (point[0],) * 2, "b": (point[1],) * 2})
            assert members == tuple(number for number, other in enumerate(others) if at in other)
    assert len(points) == len(set(points)) == whole.shapes


def test_many_axes_are_no_trouble() -> None:
    axes = {f"axis {number}": (1, 10**6) for number in range(12)}
    reach = Box({BATCH: (1, 2**20), **axes})
    opt = dict.fromkeys(axes, 5)
    tuned = [Tuned(Box({BATCH: side, **axes}), {BATCH: side[1], **opt}) for side in ((1, 1), (2, 64), (65, 2**20))]
    proof = prove([reach], tuned)
    assert isinstance(proof, Proof) and len(proof.cells) == 3 and proof.shapes == 2**20 * 10**72


# ---- what is derived -------------------------------------------------------------------------------------------------


def batches(made: Design, name: str = "image") -> list[tuple[int, int, int]]:
    return [(each.min[name][0], each.opt[name][0], each.max[name][0]) for each in made.profiles]


SIZES = {"height": {"min": 32, "opt": 320, "max": 960}, "width": {"min": 32, "opt": 320, "max": 960}}


def test_one_profile_from_one_row_to_the_largest_batch() -> None:
    made = designed(32, IMAGE, shapes=SIZES)
    assert batches(made) == [(1, 8, 32)]
    assert made.profiles[0].max["image"] == (32, 3, 960, 960)
    serving = made.serving
    assert (serving.selected, serving.preferred_batch_sizes, serving.graphs) == ((0,), (), ())
    assert serving.proof is not None and serving.proof.shapes == 32 * 929 * 929
    assert [str(cell.shapes) for cell in serving.proof.cells] == [
        "batch size 1 to 32, height 32 to 960, width 32 to 960"
    ]
    assert [(warm.name, warm.batch_size, warm.inputs["image"]) for warm in serving.warmups] == [
        ("opt", 8, (3, 320, 320)),
        ("one row", 1, (3, 320, 320)),
        ("max", 32, (3, 960, 960)),
    ]


def test_one_for_latency_and_one_for_throughput() -> None:
    made = designed(32, IMAGE, shapes=SIZES, profiles="latency+throughput", batching={"opt_batch_size": 16})
    assert batches(made) == [(1, 1, 1), (2, 16, 32)]
    assert made.serving.selected == (0, 1)
    assert made.serving.preferred_batch_sizes == (16, 32)  # the largest too, else no batch above 16 would be formed
    assert made.serving.proof is not None
    assert [cell.profiles for cell in made.serving.proof.cells] == [(0,), (1,)]
    asked = designed(
        32, IMAGE, shapes=SIZES, profiles="latency+throughput", batching={"preferred_batch_sizes": [4, 32]}
    )
    assert asked.serving.preferred_batch_sizes == (4, 32)
    single = designed(1, IMAGE, shapes=SIZES, profiles="latency+throughput")
    assert batches(single) == [(1, 1, 1)] and "no batches of several rows" in single.notes[0]


def test_listed_profiles_say_what_differs() -> None:
    listed = [{"batch": {"min": 1, "max": 4}}, {"batch": {"min": 5, "opt": 8, "max": 32}}]
    made = designed(32, IMAGE, shapes=SIZES, profiles=listed)
    assert batches(made) == [(1, 4, 4), (5, 8, 32)]
    by_size = [
        {"shapes": {"height": {"min": 32, "max": 320}}},
        {"shapes": {"height": {"min": 321, "opt": 640, "max": 960}}},
    ]
    made = designed(32, IMAGE, shapes=SIZES, profiles=by_size)
    assert [each.opt["image"] for each in made.profiles] == [(8, 3, 320, 320), (8, 3, 640, 320)]
    assert made.serving.preferred_batch_sizes == ()  # they do not differ by batch


def test_sizes_that_only_listed_profiles_name_are_all_that_may_come() -> None:
    one = {"shapes": {"image": {"min": [3, 224, 224], "max": [3, 224, 224]}}}
    other = {"shapes": {"image": {"min": [3, 512, 512], "max": [3, 512, 512]}}}
    assert not missing_ranges(spec(profiles=[one, other]), signature(IMAGE), 8, tensorrt=True)
    made = designed(8, IMAGE, profiles=[one, other])
    assert made.serving.proof is not None and made.serving.proof.shapes == 16
    small = {**other, "batch": {"min": 1, "max": 4}}
    assert "no profile holds batch size 5 to 8, height 512, width 512" in refused(8, IMAGE, profiles=[one, small])


def test_overlapping_profiles_whose_batch_decides() -> None:
    listed = [{"batch": {"min": 1, "opt": 1, "max": 8}}, {"batch": {"min": 1, "opt": 8, "max": 8}}]
    made = designed(8, IMAGE, shapes=SIZES, profiles=listed)
    assert made.serving.proof is not None
    assert [cell.profiles for cell in made.serving.proof.cells] == [(0, 1)]
    listed[1]["batch"]["opt"] = 7
    text = refused(8, IMAGE, shapes=SIZES, profiles=listed)
    assert "their opt batches, 1 and 7, are equally near for a batch of 4" in text
    assert "End one profile where the next one begins" in text


def test_overlapping_sizes_are_refused_with_the_reason() -> None:
    listed = [
        {"shapes": {"height": {"min": 32, "opt": 64, "max": 512}}},
        {"shapes": {"height": {"min": 256, "opt": 768, "max": 960}}},
    ]
    text = refused(8, IMAGE, shapes=SIZES, profiles=listed)
    assert "profiles 0 and 1 both hold batch size 1 to 8, height 256 to 512, width 32 to 960" in text
    assert "Triton does not choose by height" in text


def test_why_sizes_must_not_overlap() -> None:
    """The backend's distance takes the wrong axis: of two profiles it chooses the one that is farther away."""
    low = Profile({"x": (1, 1, 1)}, {"x": (1, 10, 10)}, {"x": (1, 100, 100)})
    high = Profile({"x": (1, 1, 1)}, {"x": (1, 90, 90)}, {"x": (1, 100, 100)})
    assert nearest([low, high], {"x": (1, 90, 90)}) == [1]
    assert chosen([low, high], 1, {"x": (1, 10, 90)}, batches=True) == 0
    assert nearest([low, high], {"x": (1, 90, 10)}) == [0, 1]
    assert chosen([low, high], 1, {"x": (1, 40, 100)}, batches=True) == 0
    assert nearest([low, high], {"x": (1, 40, 100)}) == [1]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"profiles": [{"batch": {"min": 1, "max": 16}}]}, "goes to a batch of 16, but max_batch_size is 8"),
        ({"profiles": [{"batch": {"min": 1, "max": 4}}]}, "no profile holds batch size 5 to 8"),
        ({"profiles": [{"batch": {"min": 2, "max": 8}}]}, "no profile holds batch size 1,"),
        ({"profiles": [{}, {}]}, "both hold batch size 1 to 8, height 32 to 960"),
        (
            {"profiles": [{"shapes": {"height": {"min": 64, "max": 960}}}]},
            "no profile holds batch size 1 to 8, height 32 to 63",
        ),
        (
            {"shapes": {**SIZES, "image": {"min": [4, 1, 1], "max": [4, 9, 9]}}},
            "axis 1 of input image is fixed at 3",
        ),
        ({"shape_values": {"image": {"min": [1], "max": [2]}}}, "'image', which is no input of type INT32 or INT64"),
        ({"cuda_graphs": [{"batch_size": 9}]}, "is for batches 9 to 9, but batches go from 1 to 8"),
        ({"cuda_graphs": [{"batch_size": 4, "lower_batch_size": 5}]}, "is for batches 5 to 4"),
        ({"cuda_graphs": [{"batch_size": 4, "inputs": {"imge": [3, 9, 9]}}]}, "names 'imge', which is no input"),
        ({"cuda_graphs": [{"batch_size": 4, "inputs": {"image": [3, 9, 9]}}]}, "CUDA graph 0 lies in no profile"),
        ({"cuda_graphs": [{"batch_size": 4, "inputs": {"image": [3, 64]}}]}, "CUDA graph 0 lies in no profile"),
    ],
)
def test_what_is_refused(settings: dict[str, Any], words: str) -> None:
    assert words in refused(8, IMAGE, **{"shapes": SIZES, **settings})


def test_batches_of_a_profile_where_nothing_batches() -> None:
    text = refused(0, UNBATCHED[0], shapes=SIZES, profiles=[{"batch": {"min": 1, "max": 4}}])
    assert "profile 0 has a range of batches, but the model does not batch" in text


def test_ranges_of_one_name_must_meet() -> None:
    one, other = Tensor("ids", "INT64", ("n", "length")), Tensor("mask", "INT64", ("n", "length"))
    shapes = {"ids": {"min": [1], "max": [64]}, "mask": {"min": [65], "max": [128]}}
    assert "the ranges of length do not meet: 1 to 64 for one input, 65 to 128 for another" in refused(
        4, one, other, shapes=shapes
    )


def test_an_unbatched_side_input_means_no_batching() -> None:
    """A [1] threshold beside a batched image: Triton wants the batch axis on every input, so there is no batch."""
    threshold = Tensor("threshold", "FP32", (1,))
    found = signature(IMAGE, threshold)
    assert (found.batch, found.batch_reason) == (False, "the first axis of input threshold is fixed at 1")
    # Its first axis is then one like the others, and wants a range.
    assert missing_ranges(spec(shapes=SIZES), found, 0, tensorrt=True) == ("n",)
    made = designed(0, IMAGE, threshold, shapes={**SIZES, "n": {"min": 1, "opt": 4, "max": 8}})
    assert made.profiles[0].opt == {"image": (4, 3, 320, 320), "threshold": (1,)}
    assert made.serving.proof is not None and BATCH not in made.serving.proof.cells[0].shapes.sides
    assert [(warm.name, warm.inputs["image"][0]) for warm in made.serving.warmups] == [
        ("opt", 4),
        ("min", 1),
        ("max", 8),
    ]


def test_shape_tensors_and_scalars() -> None:
    size, scale = Tensor("size", "INT64", (2,)), Tensor("scale", "FP32", ())
    values = {"size": {"min": [32, 32], "opt": [320, 320], "max": [960, 960]}}
    made = designed(0, UNBATCHED[0], size, scale, shapes=SIZES, shape_values=values)
    profile = made.profiles[0]
    assert profile.values == {"size": ((32, 32), (320, 320), (960, 960))}
    assert (profile.opt["size"], profile.opt["scale"]) == ((2,), ())
    assert made.serving.proof is not None
    assert str(made.serving.proof.cells[0].shapes).endswith("size's value 0 32 to 960, size's value 1 32 to 960")
    assert made.serving.warmups == ()  # zeros are no sizes
    assert "shape_values gives 1 values for size, which has 2" in refused(
        0, size, shape_values={"size": {"min": [1], "max": [2]}}
    )
    listed = [{"shape_values": {"size": {"min": [32, 32], "max": [100, 960]}}}]
    text = refused(0, UNBATCHED[0], size, scale, shapes=SIZES, shape_values=values, profiles=listed)
    assert "no profile holds height 32 to 960, width 32 to 960, size's value 0 101 to 960" in text


def test_detection_and_recognition_of_text() -> None:
    """Models with several symbolic axes, one of them without a name."""
    detect = Tensor("x", "FP32", ("DynamicDimension.0", 3, "DynamicDimension.1", None))
    found = signature(detect)
    assert missing_ranges(spec(), found, 4, tensorrt=True) == ("DynamicDimension.1", "x[3]")
    made = designed(4, detect, shapes={"x": {"min": [3, 32, 32], "opt": [3, 736, 736], "max": [3, 1536, 1536]}})
    assert made.profiles[0].opt["x"] == (4, 3, 736, 736)
    assert made.serving.proof is not None
    assert list(made.serving.proof.cells[0].shapes.sides) == [BATCH, "DynamicDimension.1", "x[3]"]
    recognise = Tensor("x", "FP32", ("DynamicDimension.0", 3, 48, "DynamicDimension.1"))
    widths = [
        {"shapes": {"DynamicDimension.1": {"min": 48, "opt": 320, "max": 320}}},
        {"shapes": {"DynamicDimension.1": {"min": 321, "opt": 800, "max": 2000}}},
    ]
    made = designed(16, recognise, profiles=widths)
    assert made.serving.proof is not None and made.serving.proof.shapes == 16 * (2000 - 48 + 1)


# ---- CUDA graphs -----------------------------------------------------------------------------------------------------


def test_graphs_cover_every_batch_once() -> None:
    for batch in (*range(1, 40), 48, 64, 100, 128):
        made = designed(batch, Tensor("x", "FP32", ("n", 4)), cuda_graphs="auto")
        runs = [rows for graph in made.serving.graphs for rows in range(graph.lower, graph.batch_size + 1)]
        assert runs == list(range(1, batch + 1))
        assert all(graph.batch_size <= max(graph.lower, 1.5 * graph.lower) for graph in made.serving.graphs[:-1])
        assert not made.notes


def test_graphs_stay_within_their_profile() -> None:
    listed = [{"batch": {"min": 1, "max": 5}}, {"batch": {"min": 6, "max": 20}}]
    made = designed(20, Tensor("x", "FP32", ("n", 4)), profiles=listed, cuda_graphs="auto")
    assert [(graph.lower, graph.batch_size) for graph in made.serving.graphs] == [
        (1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (7, 8), (9, 12), (13, 16), (17, 20),
    ]  # fmt: skip


def test_listed_graphs_and_where_there_can_be_none() -> None:
    graphs = [{"batch_size": 4, "lower_batch_size": 2, "inputs": {"image": [3, 64, 64]}}, {"batch_size": 1}]
    made = designed(8, IMAGE, shapes=SIZES, cuda_graphs=graphs)
    assert made.serving.graphs == (Graph(4, 2, {"image": (3, 64, 64)}), Graph(1, 1, {"image": (3, 320, 320)}))
    auto = designed(8, IMAGE, shapes=SIZES, cuda_graphs="auto")
    assert auto.notes == ("cuda_graphs: requests at the opt dims only are run by a graph",)
    none = designed(0, UNBATCHED[0], shapes=SIZES, cuda_graphs="auto")
    assert none.serving.graphs == () and "launches none where max_batch_size is 0" in none.notes[0]


def test_faults_are_told_in_words() -> None:
    assert str(Gap(Box({BATCH: (3, 3), "h": (1, 2)}))) == "no profile holds batch size 3, h 1 to 2"
    assert str(Clash(Box({"h": (1, 2)}), (0, 2), "why")) == "profiles 0 and 2 both hold h 1 to 2, and why"
