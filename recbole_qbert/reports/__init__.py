"""Tables, charts and HTML pages of runs, sweeps and data sets."""
