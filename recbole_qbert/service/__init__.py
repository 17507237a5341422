"""HTTP service of recommendations; its modules need the extra `serve`."""
