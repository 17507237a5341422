"""Evaluation: full ranking, the results file, significance tests and user groups."""
