"""Tables and figures of papers: printed numbers, claims, and what our runs show."""
