"""Stage 1 (section 3.3 of the paper): injection of text and image vectors into ID vectors."""
