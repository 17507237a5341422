"""Item texts and pictures to embedding tables."""
