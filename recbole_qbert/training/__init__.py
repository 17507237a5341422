"""Training: the trainer, checkpoints, distributed runs, resuming, and run identity."""
