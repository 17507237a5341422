"""Benchmarks: models x data sets x seeds from one YAML file, with significance tests and tables."""
