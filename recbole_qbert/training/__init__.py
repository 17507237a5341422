"""The trainer, checkpoints, several processes, resuming, and the identity of a run."""
