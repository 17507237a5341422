"""Errors, files, settings files, output and processes: helpers that every layer uses."""
