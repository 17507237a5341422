"""What semantic IDs look like: usage, purity, the tree of codes, nearest items."""
