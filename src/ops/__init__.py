"""Recurrences over whole sequences as single operations: kernels in C++, compiled on first use."""
