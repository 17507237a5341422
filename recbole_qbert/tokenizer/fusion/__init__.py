"""Stage 1 (section 3.3 of the paper): text and image vectors injected into item IDs."""
