"""Data sets read from files, which are found, downloaded and checked."""
