"""Start-up of the `recbole-qbert` command before torch and RecBole are imported; plug-ins."""

from __future__ import annotations

import importlib.metadata
import locale
import os
import subprocess
import sys
from pathlib import Path


def command_line() -> list[str] | None:
    """Return the arguments of `recbole-qbert` if this process is that command, else None.

    The command is the console script, `python -m recbole_qbert` or `run_recbole_qbert.py`.
    """
    if not sys.argv:
        return None
    program, words = sys.argv[0], sys.argv[1:]
    # Python sets argv[0] to "-m" until it has located the module's file, and to locate it the
    # package is imported.
    if program == "-m":
        module = sys.orig_argv[-len(sys.argv)]
        return words if module.removeprefix("-m") == "recbole_qbert" else None
    if Path(program).stem == "run_recbole_qbert":
        return script_line(words)
    return words if Path(program).stem == "recbole-qbert" else None


def script_line(words: list[str]) -> list[str]:
    """Return the command for `run_recbole_qbert.py WORDS`.

    That is `run` for flags only, `demo` without arguments, and otherwise the words unchanged.
    """
    if words and words[0].startswith("-"):
        return words if words == ["--version"] else ["run", *words]
    return words or ["demo"]


def plugins() -> importlib.metadata.EntryPoints:
    """Return the installed plug-ins, whose modules register models, quantizers and metrics."""
    return importlib.metadata.entry_points(group="recbole_qbert.plugins")


def use_utf8() -> None:
    """Restart this program in Python's UTF-8 mode, unless the locale's encoding is UTF-8 already.

    RecBole and other libraries open files in the locale's encoding, which cannot be changed later.
    """
    if sys.flags.utf8_mode or locale.getpreferredencoding(False).lower() in ("utf-8", "utf8"):
        return
    os.environ["PYTHONUTF8"] = "1"  # for child processes
    again = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
    if sys.platform == "win32":  # exec returns to the shell at once there
        sys.exit(subprocess.call(again))
    os.execv(sys.executable, again)
