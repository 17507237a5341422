"""Errors, files, settings files, output and processes: what every layer uses."""
