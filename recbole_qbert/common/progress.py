"""Progress bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

SECONDS_A_LINE = 30.0
_LINE = "{desc}: {n_fmt}/{total_fmt} {unit}, {elapsed}{postfix}"


class Progress(tqdm):
    """tqdm progress bar; prints a plain line every 30 seconds if stderr is not a terminal."""

    def __init__(self, *args: Any, disable: bool = False, **settings: Any):
        self.plain = not sys.stderr.isatty()
        if self.plain:
            settings |= {"bar_format": _LINE, "delay": SECONDS_A_LINE, "leave": True}
            settings |= {"mininterval": SECONDS_A_LINE, "maxinterval": 2 * SECONDS_A_LINE}
        super().__init__(*args, disable=disable, **settings)

    @staticmethod
    def status_printer(file: Any) -> Any:
        """Return the function that shows the bar: one line per call if `file` is not a terminal."""
        if file.isatty():
            return tqdm.status_printer(file)
        return lambda text: print(text, file=file, flush=True)

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        super().set_postfix_str(s, refresh and not self.plain)

    def set_postfix(self, ordered_dict: Any = None, refresh: bool = True, **named: Any) -> None:
        super().set_postfix(ordered_dict, refresh and not self.plain, **named)

    def close(self) -> None:
        if self.plain:
            self.delay = float("inf")  # keeps tqdm from printing the end of a bar
        super().close()
