"""Configurations: their schema, fingerprint and composition, and the error messages about them."""
