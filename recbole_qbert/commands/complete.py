"""Completion of command lines in bash and zsh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recbole_qbert.commands.command import Command
from recbole_qbert.commands.keys import keys_in, model_names
from recbole_qbert.common.errors import InputError, one_of

SHELLS = ("bash", "zsh")
# The words are taken from the line, because bash breaks them at "=".
_SCRIPT = """
_recbole_qbert() {
    local line="${COMP_LINE:0:COMP_POINT}" words current IFS=$' \\t\\n'
    read -ra words <<< "$line"
    [[ "$line" == *[[:space:]] ]] && words+=("")
    current="${words[${#words[@]}-1]}"
    IFS=$'\\n'
    COMPREPLY=($(recbole-qbert --complete "${words[@]:1}" 2>/dev/null))
    [[ "$current" == *=* ]] && COMPREPLY=("${COMPREPLY[@]#*=}")
    [[ "${#COMPREPLY[@]}" == 1 && "${COMPREPLY[0]}" == *= ]] && compopt -o nospace 2>/dev/null
}
complete -o default -F _recbole_qbert recbole-qbert
"""


def script(shell: str) -> str:
    """Script that switches completion on in a shell.

    Raises:
        InputError: the shell is not one of `SHELLS`.
    """
    one_of("--completion", shell, SHELLS)
    start = "autoload -Uz bashcompinit && bashcompinit" if shell == "zsh" else ""
    return f"{start}{_SCRIPT}".strip()


def candidates(commands: Mapping[str, Command], words: Sequence[str]) -> list[str]:
    """Ways to complete the last word of a command line.

    Args:
        commands: all commands by name.
        words: the words after `recbole-qbert`; the last one, possibly empty, is completed.

    Returns:
        Names of commands, `--key=` flags, or `--model=NAME` with the names of all models.
    """
    *before, last = words or [""]
    command = next((c for n, c in commands.items() if before[: len(n.split())] == n.split()), None)
    if command is None:
        start = " ".join([*before, ""]) if before else ""
        names = [n[len(start) :].split(" ")[0] for n in commands if n.startswith(start)]
        return sorted({name for name in names if name.startswith(last)})
    if last.startswith("--model="):
        *first, begun = last.removeprefix("--model=").split(",")
        chosen = "".join(f"{name}," for name in first)
        return [f"--model={chosen}{name}" for name in model_names() if name.startswith(begun)]
    if not last.startswith("-"):
        return []
    keys = command.keys or (lambda words: [])
    try:
        groups = keys(before)
    except InputError:  # the model does not exist
        groups = keys(())
    texts = [command.flags, *(group.text for group in groups)]
    flags = dict.fromkeys(f"--{key.name}=" for text in texts for key in keys_in(text, depth=0))
    return [flag for flag in [*flags, "--help"] if flag.startswith(last)]
