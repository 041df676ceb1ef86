"""What a user types for an input -> the array that the model takes."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tritonrepo.errors import InferError
from tritonrepo_client import Signature, TensorSpec
from tritonrepo_client.tensor import MismatchError, numpy_dtype

if TYPE_CHECKING:
    from PIL.Image import Image

Shape = tuple[int, ...]
Arrays = dict[str, Any]

_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_ARRAYS = (".npy", ".npz", ".json", ".bin", ".raw")
_CHANNELS = (1, 3)


def build(
    signature: Signature,
    config: Mapping[str, Any],
    options: Sequence[str],
    *,
    random: bool,
    shapes: Mapping[str, Shape],
    seed: int,
) -> tuple[Arrays, tuple[str, ...]]:
    """The arrays of one request, and notes on what was done to the values. See `tritonrepo.infer.infer`.

    Raises:
        InferError: a value that cannot be read or does not fit.
    """
    return _Builder(signature, config, shapes).build(options, random=random, seed=seed)


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """A hint with the one of the known words that is closest; None where none is close."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean '{close[0]}'?" if close else None


class _Builder:
    """Holds what all the small steps need: the signature, the shapes that were given, and the notes."""

    def __init__(self, signature: Signature, config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> None:
        self.specs = {spec.name: spec for spec in signature.inputs}
        self.batches = signature.max_batch_size > 0
        self.formats = {entry["name"]: entry.get("format", "") for entry in config.get("input", ())}
        self.notes: list[str] = []
        for name in shapes:
            self.known(name)
        self.shapes = {name: self.whole_shape(self.specs[name], shape) for name, shape in shapes.items()}

    def build(self, options: Sequence[str], *, random: bool, seed: int) -> tuple[Arrays, tuple[str, ...]]:
        arrays: Arrays = {}
        for option in options:
            for name, value in self.read(option).items():
                if name in arrays:
                    raise InferError(f"input '{name}' is given twice")
                arrays[name] = self.fitted(self.specs[name], value)
        generator = np.random.default_rng(seed)
        for spec in self.specs.values():
            if spec.name not in arrays and not spec.optional:
                if not random:
                    raise InferError(
                        f"there is no value for input {spec}", hint=f"give --input {spec.name}=VALUE, or --random"
                    )
                arrays[spec.name] = _random(generator, spec, self.random_shape(spec))
        return arrays, tuple(self.notes)

    def known(self, name: str) -> TensorSpec:
        if name not in self.specs:
            inputs = ", ".join(str(spec) for spec in self.specs.values())
            hint = did_you_mean(name, self.specs) or f"the model's inputs: {inputs}"
            raise InferError(f"the model has no input '{name}'", hint=hint)
        return self.specs[name]

    # Options

    def read(self, option: str) -> Arrays:
        """Values by input name out of one ``--input``."""
        name, equals, text = option.partition("=")
        if equals and (name in self.specs or not _is_file(Path(option))):
            return {name: self.value(self.known(name), text)}
        path = Path(option)
        if not _is_file(path):
            raise InferError(
                f"--input {option} is neither NAME=VALUE nor a file",
                hint=f"for example: {next(iter(self.specs), 'x')}=...",
            )
        named = _named_arrays(path)
        if named is not None:
            for key in named:
                self.known(key)
            return named
        if len(self.specs) != 1:
            hint = f"name the input: --input {next(iter(self.specs), 'x')}={option}"
            raise InferError(f"--input {option} does not say for which of {len(self.specs)} inputs", hint=hint)
        (spec,) = self.specs.values()
        return {spec.name: self.value(spec, option)}

    def value(self, spec: TensorSpec, text: str) -> Any:
        path, suffix = Path(text), Path(text).suffix.lower()
        if _is_file(path):
            return self.from_file(spec, path, suffix)
        if suffix in _ARRAYS + _IMAGES and "\n" not in text and not text.startswith("["):
            raise InferError(f"there is no such file for input '{spec.name}'", where=path)
        try:
            content = json.loads(text)
        except ValueError:
            content = None
        if spec.dtype == "BYTES":
            return content if isinstance(content, list) else text
        if not isinstance(content, list | int | float):
            raise InferError(
                f"'{text}' is neither a file nor JSON numbers for input {spec}",
                hint=f"for example: {spec.name}=[1, 2, 3]",
            )
        return content

    def from_file(self, spec: TensorSpec, path: Path, suffix: str) -> Any:
        if suffix in (".npy", ".npz", ".json"):
            return _array_for(spec, path)
        if spec.dtype == "BYTES":
            self.notes.append(f"{spec.name}: the {path.stat().st_size} bytes of {path.name} as one element")
            return path.read_bytes()
        if suffix in (".bin", ".raw"):
            return self.from_raw(spec, path)
        if suffix in _IMAGES:
            return self.from_image(spec, path)
        raise InferError(f"cannot tell what kind of file this is; known are {', '.join(_ARRAYS + _IMAGES)}", where=path)

    def from_raw(self, spec: TensorSpec, path: Path) -> Any:
        dtype = _dtype(spec)
        size, rest = divmod(path.stat().st_size, dtype.itemsize)
        if rest:
            raise InferError(
                f"the file's size is not a multiple of {dtype.itemsize}, the size of {spec.dtype}", where=path
            )
        shape = list(self.shapes.get(spec.name, spec.shape))
        if self.batches and shape.count(-1) > 1:
            shape[0] = 1
        if shape.count(-1) > 1:
            raise InferError(f"raw bytes do not say the shape of input {spec}", hint=_shape_hint(spec))
        one = math.prod(dim for dim in shape if dim != -1)
        if -1 in shape and one and size % one == 0:
            shape[shape.index(-1)] = size // one
        if math.prod(shape) != size:
            raise InferError(f"{size} values do not make {spec.dtype}{shape}", where=path, hint=_shape_hint(spec))
        return np.frombuffer(path.read_bytes(), dtype).reshape(shape)

    # Images

    def from_image(self, spec: TensorSpec, path: Path) -> Any:
        dims = list(self.shapes.get(spec.name, spec.shape))
        lead = self.batches or len(dims) == 4  # a model that does not batch may still have an axis for it
        dims = dims[1:] if lead else dims
        first = self.channels_first(spec, dims)
        if len(dims) == 2:
            channels, height, width = 1, dims[0], dims[1]
        else:
            channels, height, width = (dims[0], dims[1], dims[2]) if first else (dims[2], dims[0], dims[1])
        if channels == -1:
            channels = 3
        image = self.open_image(spec, path, "L" if channels == 1 else "RGB")
        pixels = np.asarray(self.resized(spec, image, width, height))
        if len(dims) == 3:
            pixels = pixels.reshape(*pixels.shape[:2], channels)
            pixels = pixels.transpose(2, 0, 1) if first else pixels
        layout = "HW" if len(dims) == 2 else "CHW" if first else "HWC"
        dtype = _dtype(spec)
        if spec.dtype in ("FP16", "FP32", "FP64", "BF16"):
            self.notes.append(
                f"{spec.name}: {path.name} as {image.mode} in {layout}, scaled to 0..1, no mean or deviation"
            )
            pixels = (pixels.astype(np.float32) / 255).astype(dtype)
        else:
            self.notes.append(f"{spec.name}: {path.name} as {image.mode} in {layout}, 0..255")
            pixels = pixels.astype(dtype)
        return pixels[None] if lead else pixels

    def channels_first(self, spec: TensorSpec, dims: Sequence[int]) -> bool:
        """Whether an image goes in as channels, height, width; also refuses shapes that are no image's."""
        if len(dims) == 2:
            return False
        if len(dims) == 3:
            stated = self.formats.get(spec.name, "")
            if stated in ("FORMAT_NCHW", "FORMAT_NHWC"):
                return bool(stated == "FORMAT_NCHW")
            if dims[0] in _CHANNELS:
                return True
            if dims[2] in _CHANNELS:
                return False
        raise InferError(
            f"input {spec} does not look like an image: two axes, or three with 1 or 3 channels, are",
            hint="prepare the array, and give an .npy",
        )

    def open_image(self, spec: TensorSpec, path: Path, mode: str) -> Image:
        try:
            from PIL import Image, ImageOps
        except ImportError:
            raise InferError("Pillow is needed to read images", hint="pip install 'tritonrepo[images]'") from None
        try:
            with Image.open(path) as image:
                upright: Image.Image = ImageOps.exif_transpose(image)
                converted: Image.Image = upright.convert(mode)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise InferError(f"this image cannot be read: {error}", where=path) from None
        if upright.mode not in (mode, "P"):
            self.notes.append(f"{spec.name}: {path.name} converted from {upright.mode} to {mode}")
        return converted

    def resized(self, spec: TensorSpec, image: Image, width: int, height: int) -> Image:
        """To the sizes that the model fixes; where it fixes one, the other keeps the proportion."""
        from PIL import Image as Pillow

        if width == height == -1:
            return image
        if width == -1:
            width = max(1, round(image.width * height / image.height))
        elif height == -1:
            height = max(1, round(image.height * width / image.width))
        if (width, height) == image.size:
            return image
        self.notes.append(f"{spec.name}: resized from {image.width}x{image.height} to {width}x{height}")
        return image.resize((width, height), Pillow.Resampling.BILINEAR)

    # Shapes and types

    def whole_shape(self, spec: TensorSpec, shape: Shape) -> Shape:
        """A shape that was given, with its batch axis; it must fit the signature."""
        if self.batches and len(shape) == len(spec.shape) - 1:
            shape = (1, *shape)
        fits = len(shape) == len(spec.shape) and all(w in (-1, g) for g, w in zip(shape, spec.shape, strict=True))
        if not fits:
            raise InferError(f"shape {list(shape)} does not fit input {spec}")
        return shape

    def random_shape(self, spec: TensorSpec) -> Shape:
        if spec.name in self.shapes:
            return self.shapes[spec.name]
        shape = (1, *spec.shape[1:]) if self.batches and spec.shape[:1] == (-1,) else spec.shape
        if -1 in shape:
            raise InferError(f"axis {shape.index(-1)} of input {spec} has no fixed size", hint=_shape_hint(spec))
        return shape

    def fitted(self, spec: TensorSpec, value: Any) -> Any:
        """In the input's type, and with a batch axis."""
        array = self.typed(spec, value)
        if self.batches and array.ndim == len(spec.shape) - 1:
            self.notes.append(f"{spec.name}: batch axis added, {list(array.shape)} -> {[1, *array.shape]}")
            array = array[None]
        return array

    def typed(self, spec: TensorSpec, value: Any) -> Any:
        if spec.dtype == "BYTES":
            array = value if isinstance(value, np.ndarray) else np.array(value, np.object_)
            return array.reshape(1) if array.ndim == 0 and len(spec.shape) - self.batches == 1 else array
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise InferError(f"the values of input '{spec.name}' are no array: {error}") from None
        dtype = _dtype(spec)
        if array.dtype == dtype:
            return array
        converted = _converted(array, dtype)
        if converted is None:
            raise InferError(f"{array.dtype} values do not fit input {spec} without loss")
        if isinstance(value, np.ndarray):
            self.notes.append(f"{spec.name}: converted from {array.dtype} to {dtype}")
        return converted


def _converted(array: Any, dtype: np.dtype[Any]) -> Any:
    """The array in another type; None where values would not survive. Floats may lose digits, integers nothing."""
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        return None
    with np.errstate(all="ignore"):
        converted = array.astype(dtype)
    if dtype.kind in "biu":
        return converted if np.array_equal(converted, array) else None
    return converted


def _random(generator: np.random.Generator, spec: TensorSpec, shape: Shape) -> Any:
    """Floats in [0, 1), integers 0 and 1 (they may be indices), short words for BYTES."""
    if spec.dtype == "BYTES":
        letters = generator.integers(ord("a"), ord("z") + 1, (math.prod(shape), 6))
        words = np.empty(len(letters), np.object_)
        words[:] = [bytes(word) for word in letters.astype(np.uint8)]
        return words.reshape(shape)
    dtype = _dtype(spec)
    if spec.dtype in ("FP16", "FP32", "FP64", "BF16"):
        return generator.random(shape).astype(dtype)
    return generator.integers(0, 2, shape).astype(dtype)


def _array_for(spec: TensorSpec, path: Path) -> Any:
    """The values for one input out of an .npy, .npz or .json."""
    named = _named_arrays(path)
    if named is None:
        return _load(path)
    if spec.name in named:
        return named[spec.name]
    if len(named) == 1:
        return next(iter(named.values()))
    hint = did_you_mean(spec.name, named) or f"it has {', '.join(map(repr, named)) or 'nothing'}"
    raise InferError(f"there is no '{spec.name}' in this file", where=path, hint=hint)


def _named_arrays(path: Path) -> Arrays | None:
    """Arrays by name out of an .npz or a JSON object; None where the file names nothing."""
    suffix = path.suffix.lower()
    content = _load(path) if suffix in (".npz", ".json") else None
    return content if isinstance(content, dict) else None


def _load(path: Path) -> Any:
    """The content of an .npy (array), .npz (dict of arrays) or .json."""
    try:
        if path.suffix.lower() == ".json":
            return json.loads(path.read_text(encoding="utf-8"))
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except (ValueError, OSError, EOFError) as error:
        hint = None
        if "allow_pickle" in str(error) or "pickled" in str(error):
            hint = (
                "arrays of objects are not read, they could run code: save strings as numpy's S or U types, or as JSON"
            )
        raise InferError(f"this file cannot be read: {error}", where=path, hint=hint) from None


def _dtype(spec: TensorSpec) -> np.dtype[Any]:
    try:
        return numpy_dtype(spec.dtype)
    except MismatchError as error:
        raise InferError(f"input {spec}: {error}") from None


def _shape_hint(spec: TensorSpec) -> str:
    sizes = ",".join(str(dim) if dim != -1 else "?" for dim in spec.shape)
    return f"give --shape {spec.name}={sizes} with a number for each ?"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # text that is too long, or has a NUL, is no path
        return False
