"""Mutated ONNX files, and what the product does with them: docs/fuzzing.md."""
