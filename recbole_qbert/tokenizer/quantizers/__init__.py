"""Stage 2 (section 3.4 of the paper): vectors to tuples of codes."""
