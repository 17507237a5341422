"""Pretraining over several domains, and transfer of the pretrained weights."""
