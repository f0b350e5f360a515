"""One run, from its configuration to its `result.json`."""
