"""Conversion of raw files and of other projects' data sets to atomic files; splits, statistics."""
