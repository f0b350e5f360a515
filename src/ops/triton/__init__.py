"""Recurrences over whole sequences on a GPU: hand-written Triton kernels, and helpers that all of them share."""
