"""Data on disk and in RecBole: atomic files, semantic IDs, embeddings, sequences, the Dataset."""
