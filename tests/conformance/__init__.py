"""The conformance corpus: ONNX's own test cases, built, published and served by a real Triton, held against what they
expect.
"""
