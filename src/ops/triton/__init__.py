"""Recurrences over whole sequences on a GPU: kernels in Triton, and those of cuDNN."""
