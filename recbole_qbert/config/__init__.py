"""Settings of a run: layers of YAML files, types and ranges, rules between settings."""
