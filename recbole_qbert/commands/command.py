"""The grammar of all commands: `recbole-qbert COMMAND [FILE ...] --key=value ...`.

The flags of a command are the keys of `properties/command/<command>.yaml`, one line per flag:
`key: default  # (type) meaning`. Parsing, `--help` and completion read that file.
"""

from __future__ import annotations

import csv
import shutil
import textwrap
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from recbole_qbert.commands.keys import Key, KeyGroup, format_groups, keys_in, read
from recbole_qbert.common.errors import InputError, did_you_mean, one_of
from recbole_qbert.common.yaml_files import shipped

SHORT = {"-m": "--model", "-d": "--dataset"}  # RecBole's


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: words after `recbole-qbert`, such as `ids check`.
        summary: what the command does, in one line.
        run: runs the command; takes the parsed flags and returns the exit status.
        arguments: names of what comes before the flags, such as FILE or FILE.yaml; `?` at the end
            marks an optional argument, `...` one or more.
        details: text below the summary in `--help`: examples, file formats.
        keys: gives the groups of further keys for `--help`, from the words after the command. A
            command with it takes any other key too, as text in `settings`; it checks them itself.
        open_ended: whether the flags themselves are settings too, which may also come from files.
    """

    name: str
    summary: str
    run: Callable[[Any], int]
    arguments: tuple[str, ...] = ()
    details: str = ""
    keys: Callable[[Sequence[str]], list[KeyGroup]] | None = None
    open_ended: bool = False

    @property
    def flags(self) -> str:
        """Commented YAML of the flags, empty if there are none.

        Types are str, int, float, bool, list, path, or the allowed words with `|` between. A flag
        whose meaning starts with "required" must be given. A value of type bool may be left out:
        `--overwrite` is `--overwrite=True`.
        """
        return read(shipped("command", f"{self.name.replace(' ', '_').replace('-', '_')}.yaml"))

    def parse(self, words: Sequence[str]) -> SimpleNamespace:
        """Parse the words after the command.

        Returns:
            One attribute per argument (in lower case, without its suffix) and flag, and `settings`
            with all other keys.

        Raises:
            InputError: an argument or a flag is missing, unknown, or has a wrong type.
        """
        listed = "" if self.open_ended else self.flags
        flags = {key.name: key for key in keys_in(listed, depth=0)}
        given, positional = split_words(words, {n for n, k in flags.items() if k.kind == "bool"})
        options = SimpleNamespace(**self._arguments(positional))
        for name, key in flags.items():
            text = given.pop(name, None)
            if not text and key.meaning.startswith("required"):
                raise InputError(f"--{name}=... is {key.meaning}{meant_for(name, given)}")
            if text == "" and key.default and key.kind != "list":
                raise InputError(f"--{name}=: has no value; leave it out for {key.default}")
            setattr(options, name, _typed(key, key.default if text is None else text))
        options.settings = given
        if given and self.keys is None:
            unknown = next(iter(given))
            hint = did_you_mean(unknown, flags) or f"; see recbole-qbert {self.name} --help"
            raise InputError(f"command line: {self.name} has no flag --{unknown}{hint}")
        return options

    def _arguments(self, words: list[str]) -> dict[str, Any]:
        left = deque(words)
        values: dict[str, Any] = {}
        for argument in self.arguments:
            name = argument.partition(".")[0].rstrip("?")
            if not left and not argument.endswith("?"):
                line = f"recbole-qbert {self.name} {' '.join(self.arguments)}"
                raise InputError(f"{self.name}: {name} is missing; write {line}")
            if argument.endswith("..."):
                values[name.lower()] = list(left)
                left.clear()
            else:
                values[name.lower()] = left.popleft() if left else None
        if left:
            raise InputError(f"command line: '{left[0]}' is no --key=value")
        return values

    def help(self, words: Sequence[str] = ()) -> str:
        """Format the help, with all flags and keys, for the terminal's width (72 to 100)."""
        width = max(72, min(100, shutil.get_terminal_size().columns))
        usage = " ".join(("recbole-qbert", self.name, *self.arguments, "[--key=value ...]"))
        lines = [f"usage: {usage}", "", *textwrap.wrap(self.summary, width)]
        if self.details:
            lines += ["", *textwrap.dedent(self.details).strip("\n").splitlines()]
        groups = [KeyGroup("Flags", self.flags), *(self.keys(words) if self.keys else ())]
        return "\n".join([*lines, *format_groups(groups, width)])


def split_words(
    words: Sequence[str], switches: Sequence[str] | set[str] = ()
) -> tuple[dict[str, str], list[str]]:
    """Split a command line into `--key=value` or `--key value` pairs and the other words.

    Args:
        words: the command line.
        switches: keys whose value may be left out; it is True then.

    Raises:
        InputError: a key has no name or no value, or is given twice with different values.
    """
    given: dict[str, str] = {}
    others: list[str] = []
    left = deque(words)
    while left:
        flag, equals, value = left.popleft().partition("=")
        flag = SHORT.get(flag, flag)
        key = flag[2:]
        if not flag.startswith("-"):
            others.append(f"{flag}{equals}{value}")
            continue
        if not flag.startswith("--") or not key.strip("-"):
            raise InputError(f"command line: '{flag}' is no --key=value")
        if not equals and key in switches:
            value = left.popleft() if left and left[0].lower() in ("true", "false") else "True"
        elif not equals:
            if not left or left[0].startswith("--"):
                raise InputError(f"command line: {flag} has no value; write {flag}=value")
            value = left.popleft()
        if given.get(key, value) != value:
            raise InputError(f"command line: {flag} is given twice with different values")
        given[key] = value
    return given, others


def parse_settings(words: Sequence[str]) -> dict[str, str]:
    """Parse a command line of `--key=value` pairs alone.

    Raises:
        InputError: see `split_words`; or a word is no `--key=value`.
    """
    given, others = split_words(words)
    if others:
        raise InputError(f"command line: '{others[0]}' is no --key=value")
    return given


def _typed(key: Key, text: str) -> Any:
    """Value of a flag; an empty text is None, or an empty list.

    Raises:
        InputError: the text is not of the flag's type.
    """
    name = f"--{key.name}={text}"
    if key.kind == "list":
        # As in CSV: an entry that holds a comma stands in double quotes.
        return [part for row in csv.reader(text.splitlines()) for part in row if part]
    if not text:
        return False if key.kind == "bool" else None
    if key.kind == "path":
        return Path(text)
    if key.kind == "bool":
        if text.lower() not in ("true", "false"):
            raise InputError(f"{name}: write True or False")
        return text.lower() == "true"
    if key.kind in ("int", "float"):
        number: type = int if key.kind == "int" else float
        try:
            return number(text)
        except ValueError:
            kind = "whole number" if number is int else "number"
            raise InputError(f"{name}: '{text}' is not a {kind}") from None
    allowed = [word.strip() for word in key.kind.split("|")]
    if len(allowed) > 1:
        one_of(name, text, allowed)
    return text


def meant_for(key: str, given: Iterable[str]) -> str:
    """Return `"; is --x meant for it?"` for the first given key close to a missing one, or ""."""
    near = next((each for each in given if did_you_mean(each, [key])), None)
    return f"; is --{near} meant for it?" if near else ""


def different_names(flag: str, names: Sequence[str]) -> list[str]:
    """Check that no name is given twice; return them.

    Raises:
        InputError: one is.
    """
    if len(set(names)) < len(names):
        raise InputError(f"--{flag}={','.join(names)}: name each data set once")
    return list(names)
