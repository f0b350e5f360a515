"""Recurrences over whole sequences as single operations: in plain PyTorch, or as kernels compiled on first use."""
