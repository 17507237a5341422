"""The planned runs of a benchmark, and their execution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from recbole.config import Config
from rich.console import Console

from recbole_qbert.common.errors import InputError, error_context
from recbole_qbert.config.build import build_config, check_same_columns
from recbole_qbert.data.dataset import semantic_id_path
from recbole_qbert.data.domain import DatasetPaths, find_domain
from recbole_qbert.evaluation.ranking import RANKS_FILE
from recbole_qbert.evaluation.results import RunResult
from recbole_qbert.experiments.benchmark.plan import BenchmarkPlan, ModelRow, Settings
from recbole_qbert.experiments.parallel import Job, run_parallel
from recbole_qbert.experiments.run import check_run
from recbole_qbert.registry import model_entry
from recbole_qbert.training.inputs import reads_semantic_ids
from recbole_qbert.training.run_identity import changed_inputs, finished_run, run_folder


@dataclass(frozen=True)
class PlannedRun:
    """One run of a benchmark: a model row on a data set with a seed."""

    model_row: ModelRow
    dataset: str
    seed: int
    config: Config

    def __str__(self) -> str:
        return f"{self.model_row.name} on {self.dataset}, seed {self.seed}"


@dataclass(frozen=True)
class Failure:
    """A run without a result, and the error message."""

    cell: PlannedRun
    message: str

    def __str__(self) -> str:
        return f"{self.cell}: {self.message}"


@dataclass(frozen=True)
class Outcome:
    """Results of all runs: each run has either a result or a failure."""

    results: list[tuple[PlannedRun, RunResult]]
    failures: list[Failure]


def planned_runs(plan: BenchmarkPlan) -> list[PlannedRun]:
    """Plan all runs, ordered by data set, then seed, then model row.

    If a model row starts from pretrained weights, a run of the same model from scratch is added
    after it, unless the benchmark already contains that run.

    Raises:
        InputError: settings cannot be used, or data files are missing.
    """
    cells = []
    for dataset in plan.datasets:
        domain = find_domain(dataset, plan.data_path)
        for seed in plan.seeds:
            row = [_cell(plan, model_row, domain, seed) for model_row in plan.model_rows]
            cells += _with_scratch(plan, domain, row)
    check_same_columns([(str(cell), cell.config) for cell in cells])
    return cells


def _with_scratch(
    plan: BenchmarkPlan, domain: DatasetPaths, row: Sequence[PlannedRun]
) -> list[PlannedRun]:
    """Add runs from scratch after pretrained ones, to show whether pretraining helped."""
    folders, cells = {run_folder(cell.config) for cell in row}, []
    for cell in row:
        cells.append(cell)
        if model_entry(cell.config["model"]).takes_pretrained and cell.config["pre_model_path"]:
            model_row = replace(cell.model_row, name=f"{cell.model_row.name}, from scratch")
            scratch = _cell(plan, model_row, domain, cell.seed, {"pre_model_path": None})
            if run_folder(scratch.config) not in folders:
                cells.append(scratch)
    return cells


def _cell(
    plan: BenchmarkPlan,
    model_row: ModelRow,
    domain: DatasetPaths,
    seed: int,
    changes: Settings | None = None,
) -> PlannedRun:
    settings = plan.settings_of(model_row, domain.name) | {"seed": seed} | (changes or {})
    with error_context(f"{model_row.name} on {domain.name}"):
        config = build_config(model_row.model, domain.name, (), settings)
        check_run(config)
    _check_files(model_row, config, domain)
    config["resume"] = True  # if there is a training state to resume
    return PlannedRun(model_row, domain.name, seed, config)


def _check_files(model_row: ModelRow, config: Config, domain: DatasetPaths) -> None:
    """Check that the files that a run will read exist."""
    paths = [domain.file("inter"), *map(Path, (config["item_vectors"] or {}).values())]
    if config["semantic_id_file"] or reads_semantic_ids(config):
        paths.append(semantic_id_path(config) or domain.file("semid"))
    for path in paths:
        if not path.is_file():
            hint = f"; `recbole-qbert tokenize --dataset={domain.name}` makes it"
            raise InputError(
                f"{path}: no such file, and {model_row.name} needs it"
                f"{hint if path.suffix == '.semid' else ''}"
            )


def _finished(config: Config) -> RunResult | None:
    """Result of a finished run. Its ranks must exist too: the significance tests need them."""
    ranks = run_folder(config) / RANKS_FILE
    return finished_run(config) if ranks.is_file() else None


def _check_inputs(cells: Sequence[PlannedRun], retrain: bool) -> None:
    """Check the inputs of earlier runs: the identity of a run covers only its settings."""
    for cell in cells:
        changed = changed_inputs(cell.config)
        if changed and not retrain:
            raise InputError(
                f"{run_folder(cell.config)}: made from another {', '.join(changed)}; repeat the "
                "command with --retrain=True, or give another checkpoint_dir"
            )
        if changed:
            cell.config["resume"] = False


def run_planned(
    cells: Sequence[PlannedRun], plan: BenchmarkPlan, console: Console, retrain: bool = False
) -> Outcome:
    """Make all runs that have no result yet. A failed run does not stop the others.

    Args:
        cells: runs from `planned_runs`.
        plan: plan of these runs.
        console: console to print on.
        retrain: start a run again if its inputs have changed since it was started or finished.

    Raises:
        InputError: the inputs of a run have changed and `retrain` is False, or a process was
            killed.
    """
    _check_inputs(cells, retrain)
    jobs = [
        Job(f"[{number}/{len(cells)}] {cell}", cell.config, [plan.source])
        for number, cell in enumerate(cells, start=1)
    ]
    answers = run_parallel(jobs, plan.max_concurrent, console, _finished)
    outcome = Outcome([], [])
    for cell, answer in zip(cells, answers, strict=True):
        if isinstance(answer, InputError):
            outcome.failures.append(Failure(cell, str(answer)))
        else:
            outcome.results.append((cell, answer))
    return outcome
