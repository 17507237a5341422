"""Data files and the RecBole dataset: atomic files, semantic IDs, embeddings, sequences."""
