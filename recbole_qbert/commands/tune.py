"""`recbole-qbert tune`: hyper-parameter search with Ray Tune."""

from __future__ import annotations

from collections.abc import Sequence

from recbole_qbert.commands.help import KeyGroup, file_group
from recbole_qbert.commands.run import wide_console
from recbole_qbert.commands.settings import file_and_settings
from recbole_qbert.common.errors import InputError

HELP = (
    "search hyper-parameters on valid: FILE.yaml [--model=M] [--dataset=X] [--trials=N] "
    "[--name=NAME] [--resume] [--address=auto] [--key=value ...]; see properties/tune/"
)
FLAGS = """
resume:  # (flag) go on with the sweep of this name; trials that ended are not run again
"""


def groups(arguments: Sequence[str]) -> list[KeyGroup]:
    """Groups of the command's keys, for `--help`, without the keys in `space` and `settings`."""
    own = file_group("Of FILE.yaml, as an example has them", "tune", "demo.yaml", depth=0)
    return [KeyGroup("Of the command", FLAGS), own]


def run_tune(arguments: Sequence[str]) -> int:
    """Run `tune FILE.yaml --key=value ...`; returns the exit status.

    Raises:
        InputError: an argument cannot be used.
    """
    whole = [f"{each}=True" if each == "--resume" else each for each in arguments]
    file, given = file_and_settings("tune", whole)
    resume = given.pop("resume", "False").lower()
    if resume not in ("true", "false"):
        raise InputError(f"--resume={resume}: write --resume")

    from recbole_qbert.experiments.tune.settings import make_plan, read_request
    from recbole_qbert.experiments.tune.sweep import sweep

    plan = make_plan(read_request(file, given))
    sweep(plan, wide_console(), resume == "true")
    return 0
