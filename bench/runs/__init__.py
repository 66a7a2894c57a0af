"""From a run's configuration to its committed record; grids and sweeps of runs."""
