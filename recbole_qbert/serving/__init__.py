"""Bundles of trained models, and recommendations from them."""
