"""Inspection of semantic IDs: code usage, purity, tree of codes and nearest items."""
