"""Helpers of the runner, independent of the experiment: files, locks and workers."""
