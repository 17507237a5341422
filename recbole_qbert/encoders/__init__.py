"""Encode item texts and pictures into embedding tables."""
