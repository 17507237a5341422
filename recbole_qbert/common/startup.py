"""What happens before torch and RecBole are imported, where this process is `recbole-qbert`."""

from __future__ import annotations

import locale
import os
import subprocess
import sys
from pathlib import Path


def command_line() -> list[str] | None:
    """The words behind `recbole-qbert`, where this process is that command; else None.

    That is its console script, `python -m recbole_qbert`, or `run_recbole_qbert.py`.
    """
    if not sys.argv:
        return None
    program, words = sys.argv[0], sys.argv[1:]
    # Python puts this there until it has found the module's file, and that is in the package.
    if program == "-m":
        module = sys.orig_argv[-len(sys.argv)]
        return words if module.removeprefix("-m") == "recbole_qbert" else None
    if Path(program).stem == "run_recbole_qbert":
        return script_line(words)
    return words if Path(program).stem == "recbole-qbert" else None


def script_line(words: list[str]) -> list[str]:
    """The command of `run_recbole_qbert.py WORDS`: `run`, and the demo without any."""
    if words and words[0].startswith("-"):
        return words if words == ["--version"] else ["run", *words]
    return words or ["demo"]


def use_utf8() -> None:
    """Start this program again in Python's UTF-8 mode, unless files and terminal have it already.

    RecBole, among others, opens files in the locale's encoding, which cannot be changed later.
    """
    if sys.flags.utf8_mode or locale.getpreferredencoding(False).lower() in ("utf-8", "utf8"):
        return
    os.environ["PYTHONUTF8"] = "1"  # for the processes that this one starts
    again = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
    if sys.platform == "win32":  # whose exec returns to the shell at once
        sys.exit(subprocess.call(again))
    os.execv(sys.executable, again)
