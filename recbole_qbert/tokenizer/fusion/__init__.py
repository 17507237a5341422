"""Vectors fused from several modalities: stage 1 (section 3.3 of the paper), and `bbq`."""
