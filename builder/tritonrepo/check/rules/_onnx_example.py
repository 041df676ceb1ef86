"""Small ONNX files for the examples of rules, written without onnx."""

from __future__ import annotations

Dims = tuple[int | str, ...]


def onnx_file(
    x: Dims = ("batch", 3),
    y: Dims = ("batch", 3),
    operator: str = "Relu",
    weights: str = "",
    sequence: bool = False,
    opset: int = 17,
) -> bytes:
    """A model ``x`` -> ``y``, FP32, of one operator.

    Args:
        x: shape.
        y: shape.
        operator: the node's.
        weights: a file that the model wants.
        sequence: whether ``y`` is a sequence.
        opset: of the default domain.
    """
    node = _field(1, "x") + _field(2, "y") + _field(4, operator)
    graph = (
        _field(1, node)
        + _field(2, "g")
        + _field(11, _value("x", x, 1))
        + _field(12, _value("y", y, 4 if sequence else 1))
    )
    if weights:
        entries = {"location": weights, "offset": "0", "length": "8"}
        outside = b"".join(_field(13, _field(1, key) + _field(2, text)) for key, text in entries.items())
        graph += _field(5, _field(1, 2) + _field(2, 1) + _field(8, "w") + outside + _field(14, 1))
    return _field(1, 8) + _field(7, graph) + _field(8, _field(2, opset))


def _value(name: str, dims: Dims, kind: int) -> bytes:
    shape = b"".join(_field(1, _field(1, dim) if isinstance(dim, int) else _field(2, dim)) for dim in dims)
    return _field(1, name) + _field(2, _field(kind, _field(1, 1) + _field(2, shape)))


def _field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])
