"""What `scripts/gpu_check.py` checks and measures on a machine with a GPU."""
