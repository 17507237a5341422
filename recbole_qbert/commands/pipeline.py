"""`recbole-qbert pipeline`: from raw files to tables, as one YAML declares."""

from __future__ import annotations

from collections.abc import Sequence

from recbole_qbert.commands.help import Group, file_group
from recbole_qbert.commands.run import wide_console
from recbole_qbert.commands.settings import file_and_settings
from recbole_qbert.common.errors import InputError

HELP = (
    "all steps from raw files to tables, each run only where something changed: "
    "FILE.yaml [--dry_run=True] [--variable=value ...]; see properties/pipeline/"
)
FLAGS = """
dry_run: False  # (bool) say what would run, and why
"""
STEP = """
name:       # (str) needed
command:    # (str) of recbole-qbert, such as `embed text`
script:     # (str) in place of a command: a Python file, such as dataset_scripts/stats.py
arguments:  # (list) words behind the command
settings:   # (dict) its flags
inputs:     # (list) files that it reads beside those known of the command; patterns may stand here
outputs:    # (list) files that it writes beside those known of the command
each:       # (list) one step a word, ${each}; or (dict) a key and its value, ${each} and ${value}
when:       # (str) the step is left out where this is empty or False
"""


def groups(arguments: Sequence[str]) -> list[Group]:
    """All keys, for `--help`."""
    own = file_group("Of FILE.yaml, as an example has them", "pipeline", "demo.yaml", depth=0)
    return [Group("Of the command", FLAGS), own, Group("Of a step in FILE.yaml", STEP, prefix="")]


def run_pipeline(arguments: Sequence[str]) -> int:
    """`pipeline FILE.yaml --key=value ...`"""
    file, given = file_and_settings("pipeline", arguments)
    dry = given.pop("dry_run", "False").lower()
    if dry not in ("true", "false"):
        raise InputError(f"--dry_run={dry}: write True or False")

    from recbole_qbert.experiments.pipeline.plan import read_pipeline
    from recbole_qbert.experiments.pipeline.runner import dry_run, run

    pipeline = read_pipeline(file, given)
    (dry_run if dry == "true" else run)(pipeline, wide_console())
    return 0
