"""Raw files and other projects' data sets to atomic files; splits and statistics."""
