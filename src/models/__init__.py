"""Recurrent cores, one file per architecture; `base` holds the contract, `sequence` joins encoder, core and head."""
