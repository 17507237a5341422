"""Models x data sets x seeds of one YAML file, with paired tests and tables."""
