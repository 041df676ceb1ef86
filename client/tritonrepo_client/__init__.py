"""A thin client for NVIDIA Triton: numpy in, numpy out."""
