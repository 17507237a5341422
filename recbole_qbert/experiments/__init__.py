"""Experiments: single runs, benchmarks, sweeps, complexity measurements and the demo."""
