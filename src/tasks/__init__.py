"""Tasks that test what a memory can do, one file each; `base` defines the contract."""
