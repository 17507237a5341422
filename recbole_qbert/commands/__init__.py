"""Commands of `recbole-qbert`, one module per command or group of related commands."""
