"""Steps of one YAML file, each run only where something changed."""
