"""The `recbole-qbert` command. Every `InputError` becomes one line on stderr and exit status 2.

Imports at the top of this module and of `commands` must be fast: `answer` runs before torch and
RecBole, whose imports take seconds.
"""

from __future__ import annotations

import contextlib
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence

from recbole_qbert._version import __version__
from recbole_qbert.commands.benchmark import BENCHMARK
from recbole_qbert.commands.command import Command
from recbole_qbert.commands.complete import SHELLS, candidates, needs_plugins, script
from recbole_qbert.commands.complexity import COMPLEXITY
from recbole_qbert.commands.demo import DEMO, DOCTOR
from recbole_qbert.commands.embed import EMBED
from recbole_qbert.commands.ids import IDS
from recbole_qbert.commands.keys import unknown_names
from recbole_qbert.commands.prepare import PREPARE
from recbole_qbert.commands.prepare_tools import TOOLS
from recbole_qbert.commands.pretrain import PRETRAIN
from recbole_qbert.commands.recommend import EVALUATE, RECOMMEND
from recbole_qbert.commands.results import COMPARE, REPORT
from recbole_qbert.commands.run import RUN
from recbole_qbert.commands.serve import EXPORT_ONNX, SERVE
from recbole_qbert.commands.tokenize import TOKENIZE
from recbole_qbert.commands.tune import TUNE
from recbole_qbert.common.errors import InputError, did_you_mean
from recbole_qbert.common.output import ended_by_closed_pipe, plain_output
from recbole_qbert.common.signals import ended_by_sigterm
from recbole_qbert.common.startup import plugins
from recbole_qbert.common.yaml_files import shipped
from recbole_qbert.compat import recbole

# In the order of use. Commands of two words are sub-commands of the group with the first word.
COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        DEMO, *PREPARE, *TOOLS, *EMBED, TOKENIZE, *IDS, RUN, RECOMMEND, SERVE, EXPORT_ONNX,
        EVALUATE, PRETRAIN, BENCHMARK, TUNE, COMPLEXITY, COMPARE, REPORT, DOCTOR,
    )
}  # fmt: skip
GROUPS = {
    "prepare": "Make, download, split, merge and describe data sets.",
    "embed": "Make the embedding tables of items: text, image, vectors.",
    "ids": "Check, inspect, make and extend files of semantic IDs.",
}
RESUMABLE = ("run", "pretrain", "tune")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    with ended_by_closed_pipe(), plain_output():
        command = _parsed(given)
        return command if isinstance(command, int) else _run(given, command)


def answer(arguments: Sequence[str]) -> None:
    """Exit early for any command line that needs no RecBole, or cannot have it.

    These are help, the version, completion, a missing command, mistakes in the flags, `doctor`, and
    any command if RecBole is not installed. For all others this function returns.
    """
    with ended_by_closed_pipe():
        command = _parsed(list(arguments))
        if isinstance(command, int):
            sys.exit(command)
        if arguments[0] == "doctor":  # must work in a broken installation
            with plain_output():
                sys.exit(command())
        if missing := recbole.missing():
            print(f"recbole-qbert: {missing}", file=sys.stderr)
            sys.exit(2)


def _parsed(words: list[str]) -> int | Callable[[], int]:
    """Return the function that runs the command, or the exit status if there is nothing to run."""
    if words[:1] == ["--complete"]:
        late = needs_plugins(COMMANDS, words[1:])
        return _printed(lambda: "\n".join(candidates(COMMANDS, words[1:])), late)
    with _faults() as status:
        if not words:
            raise InputError("name a command; recbole-qbert --help lists them")
        if words[0] == "--version":
            print(__version__)
            return 0
        if words[0] == "--properties":
            print(shipped())
            return 0
        if words[0].partition("=")[0] == "--completion":
            print(script(words[0].partition("=")[2]))
            return 0
        if words[0] in ("-h", "--help") or (words[0] in GROUPS and _asks_help(words[1:2])):
            print(overview("" if words[0].startswith("-") else words[0]))
            return 0
        command, rest = find(words)
        if _asks_help(rest):
            late = command.keys is not None and (unknown_names(rest) or bool(plugins()))
            return _printed(lambda: command.help(rest), late)
        options = command.parse(rest)
        return lambda: command.run(options)
    return status[0]


def _printed(text: Callable[[], str], late: bool) -> int | Callable[[], int]:
    """Print a text, or, if it is late, return the function that prints it with plug-ins loaded.

    Plug-ins are loaded after `answer`. They do not exist without RecBole.
    """

    def show() -> int:
        print(text())
        return 0

    return show if late and not recbole.missing() else show()


def _asks_help(words: Sequence[str]) -> bool:
    return bool({"-h", "--help"} & set(words))


def find(words: Sequence[str]) -> tuple[Command, list[str]]:
    """Find the command that a command line names.

    Returns:
        The command, and the words after its name.

    Raises:
        InputError: there is no such command.
    """
    size = 2 if words[0] in GROUPS else 1
    name = " ".join(words[:size])
    if name in COMMANDS:
        return COMMANDS[name], list(words[size:])
    if words[0] in GROUPS:
        known = [each.partition(" ")[2] for each in COMMANDS if each.startswith(f"{words[0]} ")]
        asked = words[1] if len(words) > 1 else ""
        hint = did_you_mean(asked, known)
        wrong = f"'{asked}' is no sub-command of {words[0]}" if asked else f"{words[0]}: name one"
        raise InputError(f"{wrong} ({', '.join(known)}){hint}")
    hint = did_you_mean(words[0], {each.partition(" ")[0] for each in COMMANDS})
    raise InputError(f"'{words[0]}' is no command{hint or '; see recbole-qbert --help'}")


def overview(group: str = "") -> str:
    """Help that lists all commands, or the sub-commands of a group."""
    listed: dict[str, str] = {}
    for name, command in COMMANDS.items():
        first, _, second = name.partition(" ")
        if not group:
            listed.setdefault(first, GROUPS.get(first, command.summary))
        elif first == group:
            listed[second] = command.summary
    about = GROUPS.get(group, "Semantic-ID sequential recommendation for RecBole.")
    head = f"recbole-qbert {group}".strip()
    lines = [f"usage: {head} COMMAND [--key=value ...]", "", about, "", "commands:"]
    for name, summary in listed.items():
        lines += textwrap.wrap(
            summary, 96, initial_indent=f"  {name:<14}", subsequent_indent=" " * 16
        )
    lines += ["", f"{head} COMMAND --help lists all flags of a command with types and defaults."]
    if not group:
        lines += [
            "recbole-qbert --version prints the version, --properties the folder of shipped files.",
            "For completion in this shell:",
            f'  eval "$(recbole-qbert --completion={SHELLS[0]})"     (or {", ".join(SHELLS[1:])})',
        ]
    return "\n".join(lines)


def _run(given: list[str], command: Callable[[], int]) -> int:
    from recbole_qbert.common.files import system_faults
    from recbole_qbert.training.distributed import first_error_only, launched

    with _faults() as status:
        try:
            # torchrun sends SIGTERM to the peers of a failed process; they must not print that
            # they were stopped.
            by_sigterm = contextlib.nullcontext() if launched() else ended_by_sigterm()
            with by_sigterm, first_error_only(), system_faults():
                return command()
        except KeyboardInterrupt:
            resume = "add --resume=True" if given[0] in RESUMABLE else "repeat the command"
            print(f"recbole-qbert: stopped; {resume} to go on", file=sys.stderr)
            return 130
    return status[0]


@contextlib.contextmanager
def _faults() -> Iterator[list[int]]:
    """Print an `InputError` of the block. The yielded one-item list then holds exit status 2."""
    status = [0]
    try:
        yield status
    except InputError as error:
        print(f"recbole-qbert: {error}", file=sys.stderr)
        status[0] = 2
