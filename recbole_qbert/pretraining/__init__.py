"""Pretraining over several domains, and the transfer of its weights."""
