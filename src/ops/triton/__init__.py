"""Recurrences over whole sequences on a GPU: kernels in Triton that are written by hand, and what all of them share."""
