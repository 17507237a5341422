"""`recbole-qbert benchmark`: compares models x data sets x seeds from one YAML file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from recbole_qbert.commands.help import KeyGroup, file_group, run_groups
from recbole_qbert.commands.run import wide_console
from recbole_qbert.commands.settings import file_and_settings, pop_switch

HELP = (
    "models x data sets x seeds side by side, with controls and paired tests: benchmark FILE.yaml "
    "[--output=FOLDER] [--key=value ...], keys of the file or of `run`"
)
FLAGS = """
output:          # (str) folder of the tables; empty: <checkpoint_dir>/benchmark
retrain: False  # (bool) train again, instead of stopping, where a file that a run read has changed
"""


def groups(arguments: Sequence[str]) -> list[KeyGroup]:
    """Groups of the command's keys, for `--help`."""
    own = file_group("Of FILE.yaml, as an example has them", "benchmark", "demo.yaml", depth=0)
    return [KeyGroup("Of the command", FLAGS), own, *run_groups(())]


def run_benchmark(arguments: Sequence[str]) -> int:
    """Run `benchmark FILE.yaml --key=value ...`; returns 2 if a run failed, otherwise 0.

    Raises:
        InputError: an argument cannot be used.
    """
    file, flags = file_and_settings("benchmark", arguments)
    output, retrain = flags.pop("output", ""), pop_switch(flags, "retrain")

    from recbole_qbert.experiments.benchmark.benchmark import benchmark
    from recbole_qbert.experiments.benchmark.plan import read_plan

    plan = read_plan(file, flags)
    failures = benchmark(plan, Path(output) if output else None, wide_console(), retrain)
    for failure in failures:
        print(f"recbole-qbert: {failure}", file=sys.stderr)
    return 2 if failures else 0
