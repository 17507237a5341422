"""Stage 2 (section 3.4 of the paper): quantization of vectors into tuples of codes."""
