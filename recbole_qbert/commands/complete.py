"""Completion of command lines in bash and zsh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recbole_qbert.commands.command import Command
from recbole_qbert.commands.keys import NAMES, Key, KeyGroup, unknown_names
from recbole_qbert.common.errors import InputError, one_of
from recbole_qbert.common.startup import plugins

# bash breaks words at "=", so the words are taken from the line.
_BASH = """
_recbole_qbert() {
    local line="${COMP_LINE:0:COMP_POINT}" words current IFS=$' \\t\\n'
    read -ra words <<< "$line"
    [[ "$line" == *[[:space:]] ]] && words+=("")
    current="${words[${#words[@]}-1]}"
    IFS=$'\\n'
    COMPREPLY=($(recbole-qbert --complete "${words[@]:1}" 2>/dev/null))
    ((${#COMPREPLY[@]})) || return
    [[ "$current" == *=* ]] && COMPREPLY=("${COMPREPLY[@]#*=}")
    [[ "${#COMPREPLY[@]}" == 1 && "${COMPREPLY[0]}" == *= ]] && compopt -o nospace 2>/dev/null
}
complete -o default -F _recbole_qbert recbole-qbert
"""
# Where there are no candidates, zsh completes names of files.
_ZSH = """
_recbole_qbert() {
    local -a found keys
    found=(${(f)"$(recbole-qbert --complete "${(@)words[2,CURRENT-1]}" "$PREFIX" 2>/dev/null)"})
    keys=(${(M)found:#*=})
    found=(${found:#*=})
    (($#keys)) && compadd -S '' -a keys
    (($#found)) && compadd -a found
    (($#keys + $#found)) && return
    compset -P '*='
    _files
}
(($+functions[compdef])) || { autoload -Uz compinit && compinit }
compdef _recbole_qbert recbole-qbert
"""
_SCRIPTS = {"bash": _BASH, "zsh": _ZSH}
SHELLS = tuple(_SCRIPTS)


def script(shell: str) -> str:
    """Script that switches completion on in a shell.

    Raises:
        InputError: the shell is not one of `SHELLS`.
    """
    one_of("--completion", shell, SHELLS)
    return _SCRIPTS[shell].strip()


def candidates(commands: Mapping[str, Command], words: Sequence[str]) -> list[str]:
    """Ways to complete the last word of a command line.

    Args:
        commands: all commands by name.
        words: the words after `recbole-qbert`; the last one, possibly empty, is completed.

    Returns:
        Names of commands, `--key=` flags, or `--key=VALUE` if the values of the key are listed.
    """
    *before, last = words or [""]
    command = next((c for n, c in commands.items() if before[: len(n.split())] == n.split()), None)
    if command is None:
        start = " ".join([*before, ""]) if before else ""
        names = [n[len(start) :].split(" ")[0] for n in commands if n.startswith(start)]
        return sorted({name for name in names if name.startswith(last)})
    if not last.startswith("-"):
        return []
    keys: dict[str, Key] = {}
    for key in _keys(command, before):
        keys.setdefault(f"--{key.name}=", key)  # the first group describes this model's key
    flag, equals, begun = last.partition("=")
    if equals:
        found = keys.get(f"{flag}=")
        return [f"{flag}={value}" for value in _values(found, begun)] if found else []
    return [flag for flag in [*keys, "--help"] if flag.startswith(last)]


def needs_plugins(commands: Mapping[str, Command], words: Sequence[str]) -> bool:
    """Return whether completing a line needs what plug-ins register.

    Loading them takes seconds, so a line that this package completes alone is not one.
    """
    *before, last = words or [""]
    if unknown_names(before):
        return True
    open_key = last.partition("=")[0].removeprefix("--") in NAMES
    wanted = last.startswith("--") and (open_key or not candidates(commands, words))
    return wanted and bool(plugins())


def _keys(command: Command, before: Sequence[str]) -> list[Key]:
    """Flags and further keys of a command; of a dotted mapping, its keys instead of itself."""
    find = command.keys or (lambda words: [])
    try:
        groups = find(before)
    except InputError:  # the model does not exist
        groups = find(())
    groups = [KeyGroup("", command.flags), *groups]
    return [
        key
        for group in groups
        for key in group.listed()
        if (key.kind != "dict" if group.dotted else not key.depth)
    ]


def _values(key: Key, begun: str) -> list[str]:
    """Values of a key that start as given; of a list, the last one is completed."""
    from recbole_qbert.config.settings import RUN

    known = NAMES[key.name]() if key.name in NAMES else key.choices or RUN.words(key.name)
    is_list = key.kind == "list" or key.name in NAMES
    *given, last = begun.split(",") if is_list else [begun]
    start = "".join(f"{value}," for value in given)
    return [f"{start}{value}" for value in known if value.startswith(last) and value not in given]
