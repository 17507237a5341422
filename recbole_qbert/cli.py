"""The `recbole-qbert` command. Every `InputError` becomes one line on stderr and exit status 2.

Imports at the top of this module and of `commands` must be fast: `answer` runs before torch and
RecBole, whose imports take seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

from recbole_qbert._version import __version__
from recbole_qbert.commands import (
    benchmark,
    complexity,
    embed,
    ids,
    inspect,
    pretrain,
    report,
    run,
    tokenize,
    tune,
)
from recbole_qbert.commands.help import help_text
from recbole_qbert.commands.settings import parse_settings
from recbole_qbert.common.errors import InputError, did_you_mean
from recbole_qbert.common.output import ended_by_closed_pipe, plain_output
from recbole_qbert.common.signals import ended_by_sigterm
from recbole_qbert.compat import recbole

# Commands whose flags are the keys of YAML files: the module with their help (HELP, groups), and
# the function that runs them.
OPEN_ENDED: dict[str, tuple[ModuleType, Callable[[Sequence[str]], int]]] = {
    "run": (run, run.run),
    "tokenize": (tokenize, tokenize.run_tokenize),
    "pretrain": (pretrain, pretrain.run_pretrain),
    "benchmark": (benchmark, benchmark.run_benchmark),
    "complexity": (complexity, complexity.run_complexity),
    "tune": (tune, tune.run_tune),
}
POSITIONAL = {"benchmark", "tune"}  # take one positional argument before their flags


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    with ended_by_closed_pipe(), plain_output():
        command = _parsed(given)
        return command if isinstance(command, int) else _run(given, command)


def answer(arguments: Sequence[str]) -> None:
    """Exit early for any command line that needs no RecBole, or cannot have it.

    These are help, the version, a missing command, mistakes in the flags, `doctor`, and any command
    if RecBole is not installed. For all others this function returns.
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


def _parsed(given: list[str]) -> int | Callable[[], int]:
    """Return the function that runs the command, or the exit status if there is nothing to run."""
    if given[:1] and given[0] in OPEN_ENDED:
        module, run_it = OPEN_ENDED[given[0]]
        with _faults() as status:
            if {"-h", "--help"} & set(given[1:]):
                print(help_text(given[0], module.HELP, module.groups(given[1:])))
                return 0
            flags = given[1:]
            if given[0] in POSITIONAL and flags and not flags[0].startswith("-"):
                flags = flags[1:]
            parse_settings([f"{flag}=True" if flag == "--resume" else flag for flag in flags])
            return lambda: run_it(given[1:])
        return status[0]
    parser = build_parser()
    known = next(each.choices for each in parser._actions if isinstance(each.choices, dict))
    if given[:1] and not given[0].startswith("-") and given[0] not in known:
        hint = did_you_mean(given[0], known) or "; see recbole-qbert --help"
        print(f"recbole-qbert: '{given[0]}' is no command{hint}", file=sys.stderr)
        return 2
    options = parser.parse_args(given)
    command: Callable[[argparse.Namespace], int] = options.function
    return lambda: command(options)


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
            resumable = given[:1] in (["run"], ["pretrain"], ["tune"])
            resume = "add --resume=True" if resumable else "repeat the command"
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


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all sub-commands; the open-ended ones are only listed."""
    about = "Semantic-ID sequential recommendation on RecBole; COMMAND --help lists its flags."
    parser = _Parser(prog="recbole-qbert", description=about)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, (module, _) in OPEN_ENDED.items():
        commands.add_parser(name, help=module.HELP)
    for group in (embed, tokenize, inspect, ids, run, report):
        group.add(commands)
    doctor = commands.add_parser("doctor", help="check this installation and say what to mend")
    doctor.set_defaults(function=_doctor)
    return parser


class _Help(argparse.HelpFormatter):
    """Help formatter that shows each flag's type and default."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if not isinstance(action, argparse._StoreAction):  # a command, or a flag without a value
            return text
        kind = getattr(action.type, "__name__", "str").lower()
        default = "" if action.default is None else f"; default: {action.default}"
        return f"({kind}) {text}{default}"


class _Parser(argparse.ArgumentParser):
    """Argument parser that lists required flags first."""

    def __init__(self, **settings: Any):
        super().__init__(**{"formatter_class": _Help, **settings})
        self._needed = self.add_argument_group("needed")
        self._action_groups.insert(0, self._action_groups.pop())

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        if settings.get("required"):
            return self._needed.add_argument(*names, **settings)
        return super().add_argument(*names, **settings)


def _doctor(options: argparse.Namespace) -> int:
    from recbole_qbert.commands.doctor import main as examine

    return examine()
