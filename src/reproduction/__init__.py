"""Reproduction of a table or figure: train, report, record, check."""
