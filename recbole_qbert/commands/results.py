"""`recbole-qbert compare` and `report`: from finished runs to tables, tests and a page."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from recbole_qbert.commands.command import Command
from recbole_qbert.commands.keys import keys_in
from recbole_qbert.common.errors import InputError
from recbole_qbert.common.output import new_console


def _compare(options: SimpleNamespace) -> int:
    _check_effect(options)
    if options.right is not None:
        from recbole_qbert.evaluation.significance import compare, read_runs

        print(compare(read_runs(options.left), read_runs(options.right), options.metric))
        return 0
    from recbole_qbert.evaluation.printing import chosen_groups
    from recbole_qbert.evaluation.results import read_results
    from recbole_qbert.experiments.benchmark.outputs import print_table
    from recbole_qbert.reports.seeds import seeds_sheets

    results = read_results(options.left)
    if not results:
        raise InputError(f"{options.left}: no runs in it yet")
    console = new_console()
    for sheet in seeds_sheets(chosen_groups(results, options.runs)):
        print_table(sheet, console, options.format)
    return 0


def _check_effect(options: SimpleNamespace) -> None:
    """Raise an `InputError` if a flag of `compare` has a value, but no effect."""
    without, names = "with one file", ["metric"]
    if options.right is not None:
        without, names = "with two sides", ["format", "runs"]
    for key in keys_in(COMPARE.flags, depth=0):
        value = getattr(options, key.name)
        if key.name in names and value != key.default:
            raise InputError(f"--{key.name}={value}: has no effect {without}; leave it out")


def _report(options: SimpleNamespace) -> int:
    from recbole_qbert.reports.report import ReportRequest, report

    asked = vars(options)
    del asked["settings"]
    asked["folders"] = tuple(map(Path, asked.pop("folder")))
    report(ReportRequest(**asked), new_console())
    return 0


COMPARE = Command(
    "compare",
    "Print the means over seeds of a results file, or a paired test of two models.",
    _compare,
    arguments=("LEFT", "RIGHT?"),
    details="""
        recbole-qbert compare saved/results.jsonl
        recbole-qbert compare saved/results.jsonl:QBERT4Rec saved/results.jsonl:SASRec

        A side of the test is results.jsonl:MODEL (all seeds), results.jsonl:MODEL@last or
        results.jsonl:MODEL@<digits of its folder> if the model has several settings, or the folder
        of one run.
        """,
)
REPORT = Command(
    "report",
    "Show folders of results as one HTML page, and optionally as plots.",
    _report,
    arguments=("FOLDER...",),
    details="""
        recbole-qbert report saved --output=report.html --plots=plots

        A folder is a checkpoint_dir or any folder above it. The page shows results.jsonl,
        benchmarks and sweeps.
        """,
)
