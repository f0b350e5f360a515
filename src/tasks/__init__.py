"""Tasks that show what a memory can do, one file each; `base` holds the contract."""
