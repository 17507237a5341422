"""Go on with a long fit after a kill: its state at the end of an epoch, kept now and then."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from recbole_qbert.common.errors import InputError
from recbole_qbert.training.checkpoint import load_checkpoint, save_checkpoint


class FitState:
    """The latest state of one fit, in one file.

    A state is used only by the very same fit: same settings, same data. It is written at most every
    `interval_s` seconds, so that short epochs are not slowed by it.
    """

    def __init__(self, path: Path | None, identity: str, interval_s: float = 15.0):
        """`path` None keeps nothing; `identity` is a hash of everything the fit depends on."""
        self.path, self.identity, self.interval_s = path, identity, interval_s
        self._written = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The kept state, or None where there is none of this fit."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            kept = load_checkpoint(self.path)
        except InputError:  # not ours or broken: the fit starts anew and replaces it
            return None
        return kept["state"] if kept.get("identity") == self.identity else None

    def keep(self, state: dict[str, Any]) -> None:
        """Write the state, if the last one is old enough."""
        if self.path is None or time.monotonic() - self._written < self.interval_s:
            return
        save_checkpoint(self.path, {"identity": self.identity, "state": state})
        self._written = time.monotonic()

    def clear(self) -> None:
        """The fit is done: remove the file."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
