"""Recurrent cores, one file per architecture; `base` defines the contract, `sequence` joins encoder, core and head."""
