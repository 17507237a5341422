"""Ranking the whole catalog, the results file, significance tests and groups of users."""
