"""Artefact against reference -> Verdict. The reference is ONNX Runtime, FP32 on the CPU, on the untouched model.

Where the model batches, the reference answers each row by itself and the artefact answers the rows in batches, so that
one comparison proves both: the artefact computes what the model does, and a request's answer does not depend on the
requests that Triton put beside it (``batch_proof``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonrepo import _ort_errors
from tritonrepo.batch_proof import (
    MOST_ROWS,
    THREADS_VARIABLE,
    BatchProof,
    Rows,
    Runs,
    alike,
    answers_alone,
    prove,
    wider,
)
from tritonrepo.compare import FLOATS, OutputError, compare
from tritonrepo.errors import ModelError, TritonrepoError, VerificationError
from tritonrepo.generate import generate, numpy_dtype, recipes, uses_of
from tritonrepo.introspect import Dim, Signature, Tensor
from tritonrepo.plan import Plan, Shape, axis_key
from tritonrepo.prepare import Prepared
from tritonrepo.prepare.weights import open_model
from tritonrepo.randomness import check_repeatable
from tritonrepo.spec import ModelSpec, Verification, precision_of

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime

    Arrays = Mapping[str, "np.ndarray[Any, Any]"]

#: ONNX Runtime's setting that leaves Q/DQ pairs as they are.
NO_INT8_FUSION = "session.disable_quant_qdq"

#: Sizes that are tried, in this order, for axes that the spec gives no range for.
_SIZES_TO_TRY = (64, 224, 32, 128, 16, 8, 4, 2, 1, 256, 512)


@dataclass(frozen=True)
class Verdict:
    """The outcome; ``ok`` only where every output of every sample is within its tolerance."""

    ok: bool
    rows_independent: bool | None
    """Whether rows of a batch were shown to be independent; None where the model does not batch."""
    rows_reason: str | None
    """Which output mixed rows, and where; None where none did."""
    errors: tuple[OutputError, ...]
    proof: BatchProof | None = None
    """How rows were shown to be independent; None where the model does not batch."""
    refuses_zeros: str | None = None
    """Why the model does not run on zeros, which a warmup request or a probe would send; None where it does."""


def verify(
    spec: ModelSpec,
    signature: Signature,
    prepared: Prepared,
    plan: Plan,
    load: Callable[[], Runs] | None = None,
    precision: str | None = None,
) -> Verdict:
    """Compare the artefact with the reference on the user's samples, or on generated ones at every profile's shapes.

    The reference is asked everything before the artefact is loaded: one of the two is in memory at a time.

    Args:
        spec: the model's settings.
        signature: of the original file.
        prepared: the file to serve, and the artefact where there is no other.
        plan: what will be served.
        load: gives the artefact, where it is not the prepared file: a TensorRT plan.
        precision: of the artefact, whose tolerances hold; by default what the prepared file was brought to.

    Raises:
        ModelError: ONNX Runtime cannot load or run the model, or it draws random numbers.
        VerificationError: a sample does not fit the model.
    """
    served, reached = prepared.signature, precision or precision_reached(spec, prepared)
    load = load or (lambda: _artefact(spec, prepared))
    check_repeatable(prepared.path, served)

    def compare_all(at: str, got: Arrays, want: Arrays) -> tuple[OutputError, ...]:
        how = spec.verification
        return tuple(
            compare(
                output, at, got[output.name], want[output.name], how.outputs.get(output.name, how.tolerance), reached
            )
            for output in served.outputs
        )

    reference = Reference(signature, prepared)
    if not plan.max_batch_size:
        given = list(samples(spec, served, plan, reference))
        wanted = [reference.run(inputs) for _, inputs in given]
        reference.unload()
        artefact = load()
        pairs = zip(given, wanted, strict=True)
        errors = tuple(error for (at, inputs), want in pairs for error in compare_all(at, artefact.run(inputs), want))
        zeros = _refuses_zeros(artefact, served, plan)
        return Verdict(all(error.ok for error in errors), None, None, errors, refuses_zeros=zeros)

    make = _Generated(spec.verification, served, prepared.path, partial(runs, reference))
    groups = list(_proof_rows(spec, served, plan, make))
    answers = answers_alone(groups, reference, served)
    if isinstance(answers, str):
        return Verdict(False, False, answers, ())
    if reached == "fp32":  # another precision is reached from an artefact that was proven in this one
        _add_rows_that_differ(groups, answers, reference, served, make)
    reference.unload()
    artefact = load()
    outcome = prove(groups, answers, artefact, served, compare_all, strict=reached == "fp32")
    if outcome.mixed:
        return Verdict(False, False, outcome.mixed, tuple(outcome.errors))
    ok = all(error.ok for error in outcome.errors)
    zeros = _refuses_zeros(artefact, served, plan)
    return Verdict(ok, True if ok else None, None, tuple(outcome.errors), outcome.proof, zeros)


def _refuses_zeros(artefact: Runs, signature: Signature, plan: Plan) -> str | None:
    """Ask for a run on zeros at the typical shape, a single row. Images and the like are not asked about: floats with
    several axes run on any values.
    """
    import numpy as np

    if all(tensor.dtype in FLOATS and len(tensor.shape) > 1 for tensor in signature.inputs):
        return None
    inputs = {}
    for tensor in signature.inputs:
        shape = plan.profiles[0].opt[tensor.name]
        shape = (1, *shape[1:]) if plan.max_batch_size else shape
        inputs[tensor.name] = np.full(shape, "" if tensor.dtype == "STRING" else 0, numpy_dtype(tensor.dtype))
    try:
        artefact.run(inputs)
    except TritonrepoError as error:
        return error.message
    return None


def _artefact(spec: ModelSpec, prepared: Prepared) -> Session:
    """What will be served."""
    return Session(prepared.path, optimize=True, fuse_int8=precision_of(spec).type != "int8")


def explain(verdict: Verdict, spec: ModelSpec, signature: Signature) -> VerificationError:
    """The error for a failed verdict: the worst output, index and values."""
    failed = [error for error in verdict.errors if not error.ok]
    if not failed:
        return VerificationError(
            f"model {spec.name}: verification failed: {verdict.rows_reason}",
            where=spec.onnx,
            hint="Nothing was published. Set `max_batch_size: 0`, or loosen verification.tolerance in the spec.",
        )
    worst = max(failed, key=lambda error: (error.nans + error.infs, error.max_abs))
    return VerificationError(
        f"model {spec.name}: verification failed for {len({error.output for error in failed})} of "
        f"{len(signature.outputs)} outputs; worst: {worst}",
        where=spec.onnx,
        hint="Nothing was published. If the error is acceptable, set verification.tolerance (atol, rtol) in the spec.",
    )


def find_sizes(
    prepared: Prepared, axes: tuple[str, ...], seed: int = 0, samples: Sequence[Path] = ()
) -> dict[str, int] | None:
    """Sizes for dynamic axes at which the model runs: those of the user's first sample, where there is one; else 1 for
    a first axis, and one common size for the others.
    """
    signature = prepared.signature
    if samples:
        arrays = load_sample(samples[0], signature)
        sizes = {
            axis_key(tensor, axis): size
            for tensor in signature.inputs
            for axis, size in enumerate(arrays[tensor.name].shape)
        }
        return {axis: sizes[axis] for axis in axes}
    session = Session(prepared.path, optimize=False)
    generated = _Generated(Verification(seed=seed), signature, prepared.path, partial(runs, session))
    first = {axis_key(tensor, 0) for tensor in signature.inputs if tensor.shape}
    for size in _SIZES_TO_TRY:
        sizes = {axis: 1 if axis in first else size for axis in axes}
        shapes = {
            tensor.name: tuple(
                dim if isinstance(dim, int) else sizes.get(axis_key(tensor, axis), 1)
                for axis, dim in enumerate(tensor.shape)
            )
            for tensor in signature.inputs
        }
        if generated(shapes, "opt", 0) is not None:
            return sizes
    return None


def output_shapes(prepared: Prepared) -> dict[str, tuple[Dim, ...]]:
    """Shapes of the outputs as ONNX Runtime infers them, which may know more than the file says."""
    return Session(prepared.path, optimize=True).output_shapes


def runs(model: Runs, inputs: Arrays) -> bool:
    """Whether a model runs on these inputs."""
    try:
        model.run(inputs)
    except ModelError:
        return False
    return True


class Session:
    """An ONNX Runtime session on the CPU. ``optimize=False`` runs the graph as it was written."""

    def __init__(self, path: Path, *, optimize: bool, fuse_int8: bool = True) -> None:
        """Load a model.

        Args:
            path: its file.
            optimize: whether ONNX Runtime may change the graph.
            fuse_int8: whether it may make integer kernels of Q/DQ pairs. They saturate on processors without VNNI, and
                round otherwise; a model that was quantized for TensorRT is run as it is written.

        Raises:
            ModelError: it cannot be loaded.
        """
        import onnxruntime as ort

        options = ort.SessionOptions()
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
        if not fuse_int8:
            options.add_session_config_entry(NO_INT8_FUSION, "1")
        options.log_severity_level = 4  # what goes wrong is raised; the rest is noise between our lines
        options.intra_op_num_threads = int(os.environ.get(THREADS_VARIABLE, "0"))
        self.path = path
        try:
            self._session: onnxruntime.InferenceSession = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime raises a dozen classes without a common base
            said = _ort_errors.words(error)
            raise ModelError(
                f"ONNX Runtime cannot load the model: {said}", where=path, hint=_ort_errors.hint(said)
            ) from None
        self.output_shapes: dict[str, tuple[Dim, ...]] = {
            output.name: tuple(output.shape) for output in self._session.get_outputs()
        }

    def run(self, inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        """All outputs by name."""
        import numpy as np

        try:
            values = self._session.run(None, dict(inputs))
        except Exception as error:  # see __init__
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
            raise ModelError(
                f"the model does not run on {shapes}: {_ort_errors.words(error)}",
                where=self.path,
                hint="Narrow the ranges under `shapes:` to what the model accepts, or give verification.samples.",
            ) from None
        return {name: np.asarray(value) for name, value in zip(self.output_shapes, values, strict=True)}


class Reference:
    """The original model, asked and answering as the prepared one does: with its names, shapes and types."""

    def __init__(self, signature: Signature, prepared: Prepared) -> None:
        self._session = Session(prepared.reference or signature.path, optimize=False)
        served = prepared.signature
        self.path = prepared.path
        self._inputs = list(zip(signature.inputs, served.inputs, strict=True))  # names change, the order does not
        self._outputs = list(zip(signature.outputs, served.outputs, strict=True))

    def takes(self, inputs: Arrays) -> bool:
        """Whether it can answer a batch of this size in one run: its own batch may be fixed."""
        return all(self._repeats(original, inputs[served.name]) == 1 for original, served in self._inputs)

    def run(self, inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        """All outputs by their served names. Where the original's batch is fixed, a single row is repeated to fill it,
        and the first row of the answer is given.
        """
        import numpy as np

        feeds, repeated = {}, False
        for original, served in self._inputs:
            array = inputs[served.name]
            repeats = self._repeats(original, array)
            repeated = repeated or repeats > 1
            array = np.repeat(array, repeats, axis=0) if repeats > 1 else array
            array = array.reshape(()) if not original.shape else array
            feeds[original.name] = array.astype(numpy_dtype(original.dtype), copy=False)
        answers = self._session.run(feeds)
        arrays = {}
        for original, served in self._outputs:
            array = answers[original.name]
            array = array.reshape(1) if array.ndim == 0 and served.shape else array
            arrays[served.name] = array[:1] if repeated else array
        return arrays

    def unload(self) -> None:
        """Let go of the model."""
        del self._session

    @staticmethod
    def _repeats(original: Tensor, array: np.ndarray[Any, Any]) -> int:
        """How often a single row must be repeated; 0 where the array is no single row and does not fit."""
        size = original.shape[0] if original.shape else None
        if not isinstance(size, int) or len(array) == size:
            return 1
        return size if len(array) == 1 else 0


def _row(inputs: Arrays, row: int) -> Arrays:
    return {name: array[row : row + 1] for name, array in inputs.items()}


def _rows(inputs: Arrays) -> int:
    return len(next(iter(inputs.values())))


def samples(
    spec: ModelSpec, signature: Signature, plan: Plan, runner: Session | Reference
) -> Iterator[tuple[str, Arrays]]:
    """The user's samples, or generated ones at the min, opt and max shapes of each profile."""
    if spec.verification.samples:
        loaded = [(path.name, load_sample(path, signature)) for path in spec.verification.samples]
        yield from loaded
        if plan.max_batch_size > 1 and all(_rows(arrays) == 1 for _, arrays in loaded):
            yield f"{loaded[0][0]}, two rows", _two_rows(loaded[0][1])
        return
    one = (lambda inputs: _row(inputs, 0)) if plan.max_batch_size else (lambda inputs: inputs)
    generated = _Generated(spec.verification, signature, runner.path, lambda inputs: runs(runner, one(inputs)))
    for label, at, shapes in _profile_shapes(plan):
        for repeat in range(max(1, spec.verification.generated)):
            yield label, generated.usual(shapes, at, repeat)


def _proof_rows(spec: ModelSpec, signature: Signature, plan: Plan, make: _Generated) -> Iterator[Rows]:
    """Rows for the proof: those of the user's samples, or generated ones at the shapes of each profile."""
    largest = plan.max_batch_size
    if spec.verification.samples:
        for number, path in enumerate(spec.verification.samples):
            yield _rows_of(path.name, load_sample(path, signature), number == 0, largest)
        return
    groups: dict[str, tuple[str, Mapping[str, Shape], list[tuple[str, int]]]] = {}
    for label, at, shapes in _profile_shapes(plan):
        row: Mapping[str, Shape] = {name: (1, *shape[1:]) for name, shape in shapes.items()}
        sizes = groups.setdefault(str(row), (at, row, []))[2]
        sizes.append((label, next(iter(shapes.values()))[0]))
    widest = max(groups, key=lambda key: max(size for _, size in groups[key][2]))
    for key, (at, row, sizes) in groups.items():
        for repeat in range(max(1, spec.verification.generated)):
            most = max(min(2, largest) if key == widest else 1, *(size for _, size in sizes))
            rows = tuple(make.usual(row, at, repeat * MOST_ROWS + each) for each in range(min(MOST_ROWS, most)))
            yield Rows(rows, tuple(sizes), key == widest and repeat == 0, largest)


def _rows_of(name: str, sample: Arrays, thorough: bool, largest: int) -> Rows:
    """The rows of a user's sample. A single one is joined by another, made of the same values: there must be something
    to mix.
    """
    count = _rows(sample)
    rows = tuple(_row(sample, row) for row in range(count))
    if count > 1 or largest == 1:
        return Rows(rows, ((name, count),), thorough, largest)
    return Rows((*rows, _row(_two_rows(sample), 1)), ((name, 1), (f"{name}, two rows", 2)), thorough, largest)


def _profile_shapes(plan: Plan) -> Iterator[tuple[str, str, Mapping[str, Shape]]]:
    """The shapes of each profile, once each: what they are called, which end of the profile, the shapes."""
    for number, profile in enumerate(plan.profiles):
        seen: list[Mapping[str, Shape]] = []
        for at in ("min", "opt", "max"):
            shapes: Mapping[str, Shape] = getattr(profile, at)
            if shapes not in seen:
                seen.append(shapes)
                yield at if len(plan.profiles) == 1 else f"{at} of profile {number}", at, shapes


def _two_rows(row: Arrays) -> Arrays:
    """A batch of a row and another one made of the same values, so that there is something to mix."""
    import numpy as np

    return {name: np.concatenate([array, np.roll(array, 1, axis=-1)]) for name, array in row.items()}


def load_sample(path: Path, signature: Signature) -> Arrays:
    """The arrays of a sample file, by input.

    Raises:
        VerificationError: it cannot be read, or does not fit the model.
    """
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        raise VerificationError(
            f"the sample cannot be read: {error}", where=path, hint="Write it with numpy.savez."
        ) from None
    names = {tensor.name for tensor in signature.inputs}
    if set(arrays) != names:
        raise VerificationError(
            f"the sample holds {', '.join(sorted(arrays)) or 'nothing'}; "
            f"the model's inputs are {', '.join(sorted(names))}",
            where=path,
            hint="Save one array for each input: numpy.savez(path, **{name: array, ...}).",
        )
    return {tensor.name: _fit(arrays[tensor.name], tensor, path) for tensor in signature.inputs}


def _fit(array: np.ndarray[Any, Any], tensor: Tensor, path: Path) -> np.ndarray[Any, Any]:
    dtype = numpy_dtype(tensor.dtype)
    fits = array.ndim == len(tensor.shape) and all(
        not isinstance(dim, int) or dim == size for dim, size in zip(tensor.shape, array.shape, strict=False)
    )
    kind_fits = array.dtype == dtype or (tensor.dtype == "STRING" and array.dtype.kind in "US")
    kind_fits |= tensor.dtype == "FP16" and array.dtype == "float32"  # of an input that was converted
    if not fits or not kind_fits:
        raise VerificationError(
            f"sample array {tensor.name} is {array.dtype}{list(array.shape)}; the input is {tensor}",
            where=path,
            hint="Give the whole shape, batch axis included, in the input's own type.",
        )
    return array.astype(dtype)


def _add_rows_that_differ(
    groups: list[Rows], answers: list[list[Arrays]], reference: Reference, signature: Signature, make: _Generated
) -> None:
    """While all rows have the same answers, so that mixed ones would not show: add generated rows, then wider ones."""
    largest = max(groups, key=lambda group: len(group.rows))
    shapes = {name: array.shape for name, array in largest.rows[0].items()}
    for label in ("generated values", "wide values"):
        if largest.largest == 1 or not all(alike(answers, output.name) for output in signature.outputs):
            return
        rows = tuple(make.usual(shapes, "opt", 100 + number) for number in range(min(4, largest.largest)))
        rows = wider(rows, signature) if label == "wide values" else rows
        if all(runs(reference, row) for row in rows):
            groups.append(Rows(rows, ((label, len(rows)),), False, largest.largest))
            answers.append([reference.run(row) for row in rows])


class _Generated:
    """Inputs by the first recipe on which the model runs."""

    def __init__(self, how: Verification, signature: Signature, path: Path, runs: Callable[[Arrays], bool]) -> None:
        self._how, self._signature, self._runs = how, signature, runs
        self._uses = uses_of(open_model(path))
        self._recipes = list(recipes(how, signature, self._uses))

    def __call__(self, shapes: Mapping[str, Shape], at: str, repeat: int) -> Arrays | None:
        """Inputs of these shapes; None where the model runs on none that is tried."""
        for recipe in self._recipes:
            inputs = self._make(recipe, shapes, at, repeat)
            if self._runs(inputs):
                self._recipes.remove(recipe)
                self._recipes.insert(0, recipe)
                return inputs
        return None

    def usual(self, shapes: Mapping[str, Shape], at: str, repeat: int) -> Arrays:
        """As above; where the model runs on none, what it failed on first. One recipe is not tried beforehand."""
        found = self(shapes, at, repeat) if len(self._recipes) > 1 else None
        return self._make(self._recipes[0], shapes, at, repeat) if found is None else found

    def _make(self, recipe: str, shapes: Mapping[str, Shape], at: str, repeat: int) -> Arrays:
        stream = (("min", "opt", "max").index(at), repeat)
        try:
            return generate(self._how, self._signature, shapes, stream, recipe, self._uses)
        except (MemoryError, ValueError):  # numpy raises ValueError for more elements than an address space has
            sizes = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
            raise ModelError(
                f"inputs of the {at} shapes do not fit into memory: {sizes}",
                where=self._signature.path,
                hint="Narrow the ranges under `shapes:` or max_batch_size, or give verification.samples.",
            ) from None


def precision_reached(spec: ModelSpec, prepared: Prepared) -> str:
    """The precision whose tolerances hold: what the spec asks for, once the graph was brought to it."""
    return precision_of(spec).type if "precision" in prepared.changed_by else "fp32"
