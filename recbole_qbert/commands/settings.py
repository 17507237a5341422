"""`--key=value` flags of the commands whose keys are those of a YAML file."""

from __future__ import annotations

from collections.abc import Sequence

from recbole_qbert.errors import InputError


def parse_settings(arguments: Sequence[str]) -> dict[str, str]:
    """`--key=value` and `--key value` (and RecBole's -m, -d) to a dict of strings."""
    short = {"-m": "--model", "-d": "--dataset"}
    settings: dict[str, str] = {}
    queue = list(arguments)
    while queue:
        flag, equals, value = queue.pop(0).partition("=")
        flag = short.get(flag, flag)
        if not flag.startswith("--") or len(flag) < 3:
            raise InputError(f"command line: '{flag}' is no --key=value")
        if not equals:
            if not queue or queue[0].startswith("--"):
                raise InputError(f"command line: {flag} has no value; write {flag}=value")
            value = queue.pop(0)
        key = flag[2:]
        if settings.get(key, value) != value:
            raise InputError(f"command line: {flag} is given twice with different values")
        settings[key] = value
    return settings


def split_files(names: str) -> list[str]:
    """`a.yaml,b.yaml` or blanks between."""
    return [name for name in names.replace(",", " ").split() if name]
