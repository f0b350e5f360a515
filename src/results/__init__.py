"""What runs leave on disk, read back and validated."""
