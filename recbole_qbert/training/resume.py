"""Resuming of long fits: state files that are written every few seconds."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from recbole_qbert.common.errors import InputError
from recbole_qbert.training.checkpoint import load_checkpoint, save_checkpoint


class FitState:
    """Latest state of one fit, in the file `path`; None keeps nothing.

    A state is used only by a fit of equal `identity`, a hash of everything that the fit depends on.
    It is written at most every `interval_s` seconds, so that short epochs are not slowed down.
    """

    def __init__(self, path: Path | None, identity: str, interval_s: float = 15.0):
        self.path, self.identity, self.interval_s = path, identity, interval_s
        self._written = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """Return the stored state, or None if there is none of this fit."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            kept = load_checkpoint(self.path)
        except InputError:  # another format or damaged: the fit starts anew and replaces it
            return None
        return kept["state"] if kept.get("identity") == self.identity else None

    def keep(self, state: dict[str, Any]) -> None:
        """Write the state, unless the last write was less than `interval_s` seconds ago."""
        if self.path is None or time.monotonic() - self._written < self.interval_s:
            return
        save_checkpoint(self.path, {"identity": self.identity, "state": state})
        self._written = time.monotonic()

    def clear(self) -> None:
        """Remove the file after the fit has finished."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
