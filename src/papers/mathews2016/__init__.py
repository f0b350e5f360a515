"""Mathews (2016), a report on recurrent networks with tensors (Victoria University of Wellington), and its programs."""
