"""`benchmark`: runs a plan and writes its tables."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from recbole_qbert.common.errors import InputError
from recbole_qbert.experiments.benchmark.outputs import to_rich, write_files
from recbole_qbert.experiments.benchmark.plan import BenchmarkPlan
from recbole_qbert.experiments.benchmark.planned_runs import planned_runs, run_planned
from recbole_qbert.experiments.benchmark.published import published_figures, published_source
from recbole_qbert.experiments.benchmark.scores import collect
from recbole_qbert.experiments.benchmark.table_json import write_sidecar
from recbole_qbert.experiments.benchmark.tables import all_sheets


def benchmark(
    plan: BenchmarkPlan, output: Path | None, console: Console, retrain: bool = False
) -> list[str]:
    """Make all missing runs, print the tables and write the files.

    Args:
        plan: plan from `read_plan`.
        output: output folder; None: `<checkpoint_dir>/benchmark`.
        console: console to print on.
        retrain: see `run_planned`.

    Returns:
        One line for each failed run.

    Raises:
        InputError: settings or data cannot be used; all are checked before anything is trained.
    """
    folder = output or Path(plan.checkpoint_dir) / "benchmark"
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; name another folder with --output")
    outcome = run_planned(planned_runs(plan), plan, console, retrain)
    scores = collect(plan, outcome)
    sheets = [all_sheets(one, published_figures(one.dataset), published_source()) for one in scores]
    for one in sheets:
        for sheet in one:
            for table in to_rich(sheet, console):
                console.print(table, crop=False)
    failures = [str(failure) for failure in outcome.failures]
    write_files(folder, scores, sheets, failures)
    write_sidecar(folder, scores, failures, plan.source)
    console.print(f"written: {folder}/table.md, .csv, .tex, .json", soft_wrap=True, highlight=False)
    return failures
