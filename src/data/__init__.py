"""Data sets that are read from files: found, downloaded, checked."""
