"""Reads what runs leave on disk."""
