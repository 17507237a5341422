"""The commands of `recbole-qbert`, one file each."""
