"""The papers' tables and figures: what they printed, what they claimed, and what our runs say to it."""
