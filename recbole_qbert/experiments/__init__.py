"""Experiments: single runs, benchmarks, sweeps, ablations, complexity measurements and the demo."""
