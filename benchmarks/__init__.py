"""Side-by-side measurements against RecBole; `python -m benchmarks --help`."""
