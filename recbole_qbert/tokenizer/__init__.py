"""Tokenizer from embeddings to semantic IDs: fusion (stage 1), quantizers (stage 2), collisions."""
