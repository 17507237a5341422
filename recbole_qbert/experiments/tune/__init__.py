"""Hyper-parameter sweeps over Ray Tune."""
