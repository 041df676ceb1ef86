"""Tests that need a GPU, and most of them TensorRT: `make test-gpu`. Elsewhere each is skipped and says why."""
