"""Exact top-k of items whose scores are sums of code scores."""
