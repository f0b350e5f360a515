"""An exact, fast laboratory for memory in recurrent networks."""
