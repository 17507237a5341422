"""`recbole-qbert benchmark`: compares models x data sets x seeds from one YAML file."""

from __future__ import annotations

import sys
from types import SimpleNamespace

from recbole_qbert.commands.command import Command
from recbole_qbert.commands.keys import file_group, run_groups
from recbole_qbert.common.output import new_console


def _benchmark(options: SimpleNamespace) -> int:
    from recbole_qbert.experiments.benchmark.benchmark import benchmark
    from recbole_qbert.experiments.benchmark.plan import read_plan

    plan = read_plan(options.file, options.settings)
    failures = benchmark(plan, options.output, new_console(), options.retrain)
    for failure in failures:
        print(f"recbole-qbert: {failure}", file=sys.stderr)
    return 2 if failures else 0


BENCHMARK = Command(
    "benchmark",
    "Train models x data sets x seeds from a YAML file; write tables with means, controls and "
    "paired tests.",
    _benchmark,
    arguments=("FILE.yaml",),
    details="""
        recbole-qbert benchmark demo --seeds=1,2,3

        A repeated command trains only what is missing. Exit status 2: a run failed.
        """,
    keys=lambda words: [
        file_group("Keys of the file; values of the demo", "benchmark", "demo.yaml", depth=0),
        *run_groups(),
    ],
)
