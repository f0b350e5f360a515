"""Kernels generated from the `step` of a core: trace, lower, plan, emit. `kernel` runs them, `form` offers them."""
