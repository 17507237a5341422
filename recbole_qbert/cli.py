"""The command `recbole-qbert`. Every `InputError` becomes one line on stderr and exit status 2."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence

from recbole_qbert._version import __version__
from recbole_qbert.commands import (
    ablate,
    benchmark,
    complexity,
    embed,
    ids,
    inspect,
    pipeline,
    pretrain,
    report,
    run,
    tokenize,
    tune,
)
from recbole_qbert.distributed import launched, one_voice
from recbole_qbert.errors import InputError
from recbole_qbert.files import room_for
from recbole_qbert.signals import ended_by_sigterm

# Commands whose flags are the keys of YAML files: what runs one, and its help.
OPEN_ENDED = {
    "run": (run.run, run.HELP),
    "tokenize": (tokenize.run_tokenize, tokenize.HELP),
    "pretrain": (pretrain.run_pretrain, pretrain.HELP),
    "ablate": (ablate.run_ablate, ablate.HELP),
    "benchmark": (benchmark.run_benchmark, benchmark.HELP),
    "pipeline": (pipeline.run_pipeline, pipeline.HELP),
    "complexity": (complexity.run_complexity, complexity.HELP),
    "tune": (tune.run_tune, tune.HELP),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        # torchrun sends SIGTERM to the peers of a process that failed, which have nothing to say.
        by_sigterm = contextlib.nullcontext() if launched() else ended_by_sigterm()
        with by_sigterm, one_voice(), room_for("the disk"):
            return _run(given)
    except InputError as error:
        print(f"recbole-qbert: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        resumable = given[:1] in (["run"], ["pretrain"], ["tune"])
        resume = "add --resume=True" if resumable else "repeat the command"
        print(f"recbole-qbert: stopped; {resume} to go on", file=sys.stderr)
        return 130


def _run(given: list[str]) -> int:
    if given[:1] and given[0] in OPEN_ENDED:
        run_it, text = OPEN_ENDED[given[0]]
        if {"-h", "--help"} & set(given[1:]):
            print(f"recbole-qbert {given[0]}: {text}")
            return 0
        return run_it(given[1:])
    options = build_parser().parse_args(given)
    command: Callable[[argparse.Namespace], int] = options.function
    return command(options)


def build_parser() -> argparse.ArgumentParser:
    """All sub-commands; the open-ended ones are only listed."""
    parser = argparse.ArgumentParser(prog="recbole-qbert", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, (_, text) in OPEN_ENDED.items():
        commands.add_parser(name, help=text)
    for group in (embed, tokenize, inspect, ids, run, report):
        group.add(commands)
    doctor = commands.add_parser("doctor", help="check this installation and say what to mend")
    doctor.set_defaults(function=_doctor)
    return parser


def _doctor(options: argparse.Namespace) -> int:
    from recbole_qbert.doctor import main as examine

    return examine()
