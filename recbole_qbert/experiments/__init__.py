"""What a user runs: runs, benchmarks, sweeps, ablations, complexity, the demo."""
