"""Benchmarks against RecBole and other libraries; see `python -m benchmarks --help`."""
