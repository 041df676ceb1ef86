"""Small real models that mutants are made of."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import onnx

import graphs

#: What stands in a mutant's folder beside its ONNX file.
Files = Mapping[str, bytes]

_OURS = (
    graphs.mlp, graphs.cnn, graphs.two_inputs_two_outputs, graphs.scalar_input, graphs.dynamic_height_width,
    graphs.loop, graphs.external_data, graphs.external_data_in_subfolder, graphs.initializer_as_input,
    graphs.static_batch_in_reshape, graphs.conditional, graphs.non_max_suppression, graphs.odd_names,
    graphs.identity,
)  # fmt: skip

# Of those that come with the onnx package: exported from PyTorch, and written for its tests.
_STORED = (
    "pytorch-converted/test_Conv2d_groups", "pytorch-converted/test_BatchNorm2d_eval",
    "pytorch-converted/test_ConvTranspose2d", "pytorch-converted/test_Embedding", "pytorch-converted/test_GLU_dim",
    "pytorch-converted/test_MaxPool2d_stride_padding_dilation", "pytorch-operator/test_operator_index",
    "pytorch-operator/test_operator_repeat", "pytorch-operator/test_operator_view",
    "pytorch-operator/test_operator_pad", "simple/test_sequence_model4", "simple/test_expand_shape_model2",
    "simple/test_strnorm_model_monday_casesensintive_lower",
)  # fmt: skip


def names() -> tuple[str, ...]:
    """The models, by name."""
    return (*(write.__name__ for write in _OURS), *_STORED)


@cache
def model(name: str, folder: Path) -> tuple[onnx.ModelProto, Files]:
    """A model and its other files; ``folder`` is a place to write them to."""
    for write in _OURS:
        if write.__name__ == name:
            path = write(folder / name)
            files = {
                str(file.relative_to(path.parent)): file.read_bytes()
                for file in sorted(path.parent.rglob("*"))
                if file.is_file() and file != path
            }
            return onnx.load(path, load_external_data=False), files
    data = Path(onnx.__file__).parent / "backend" / "test" / "data"
    return onnx.load(data / name / "model.onnx"), {}
