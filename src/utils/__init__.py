"""Helpers of the runner that know nothing of the experiment: files, locks and workers."""
