"""TensorRT's real Python bindings, without TensorRT: what `_tensorrt.py` is held against."""
