"""ONNX models in, a proven NVIDIA Triton model repository out."""

__version__ = "0.1.0"
