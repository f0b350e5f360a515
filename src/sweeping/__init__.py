"""Many runs: sweeps, launchers and searches."""
