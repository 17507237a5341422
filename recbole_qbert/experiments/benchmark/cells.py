"""One trained and evaluated model of a benchmark, and the loop over all of them."""

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
from recbole_qbert.experiments.run import check_run, takes_pretrained
from recbole_qbert.training.inputs import reads_semantic_ids
from recbole_qbert.training.run_identity import changed_inputs, finished_run, run_folder


@dataclass(frozen=True)
class PlannedRun:
    """A contender on a data set with a seed."""

    contender: ModelRow
    dataset: str
    seed: int
    config: Config

    def __str__(self) -> str:
        return f"{self.contender.name} on {self.dataset}, seed {self.seed}"


@dataclass(frozen=True)
class Failure:
    """A cell without a result, and why."""

    cell: PlannedRun
    message: str

    def __str__(self) -> str:
        return f"{self.cell}: {self.message}"


@dataclass(frozen=True)
class Outcome:
    """Every cell has a result or a failure."""

    results: list[tuple[PlannedRun, RunResult]]
    failures: list[Failure]


def build_cells(plan: BenchmarkPlan) -> list[PlannedRun]:
    """All cells in the order in which they run: each data set's first seed of all models first.

    A contender that starts from pretrained weights is followed by the same one from scratch, where
    the benchmark has none such.

    Raises:
        InputError: settings that cannot be used, or data that are not there.
    """
    cells = []
    for dataset in plan.datasets:
        domain = find_domain(dataset, plan.data_path)
        for seed in plan.seeds:
            row = [_cell(plan, contender, domain, seed) for contender in plan.contenders]
            cells += _with_scratch(plan, domain, row)
    check_same_columns([(str(cell), cell.config) for cell in cells])
    return cells


def _with_scratch(
    plan: BenchmarkPlan, domain: DatasetPaths, row: Sequence[PlannedRun]
) -> list[PlannedRun]:
    """Pretraining may hurt: whoever reads the table must be able to see it."""
    folders, cells = {run_folder(cell.config) for cell in row}, []
    for cell in row:
        cells.append(cell)
        if takes_pretrained(cell.config) and cell.config["pre_model_path"]:
            contender = replace(cell.contender, name=f"{cell.contender.name}, from scratch")
            scratch = _cell(plan, contender, domain, cell.seed, {"pre_model_path": None})
            if run_folder(scratch.config) not in folders:
                cells.append(scratch)
    return cells


def _cell(
    plan: BenchmarkPlan,
    contender: ModelRow,
    domain: DatasetPaths,
    seed: int,
    changes: Settings | None = None,
) -> PlannedRun:
    settings = plan.settings_of(contender, domain.name) | {"seed": seed} | (changes or {})
    with error_context(f"{contender.name} on {domain.name}"):
        config = build_config(contender.model, domain.name, (), settings)
        check_run(config)
    _check_files(contender, config, domain)
    config["resume"] = True  # where there is a state to go on from
    return PlannedRun(contender, domain.name, seed, config)


def _check_files(contender: ModelRow, config: Config, domain: DatasetPaths) -> None:
    """The files that a run will read."""
    paths = [domain.file("inter"), *map(Path, (config["item_vectors"] or {}).values())]
    if config["semantic_id_file"] or reads_semantic_ids(config):
        paths.append(semantic_id_path(config) or domain.file("semid"))
    for path in paths:
        if not path.is_file():
            hint = f"; `recbole-qbert tokenize --dataset={domain.name}` makes it"
            raise InputError(
                f"{path}: no such file, and {contender.name} needs it"
                f"{hint if path.suffix == '.semid' else ''}"
            )


def _finished(config: Config) -> RunResult | None:
    """A run's result, where its ranks are there too: the tests between models need them."""
    ranks = run_folder(config) / RANKS_FILE
    return finished_run(config) if ranks.is_file() else None


def _check_inputs(cells: Sequence[PlannedRun], retrain: bool) -> None:
    """A run is found again by its settings; its inputs may have changed since."""
    for cell in cells:
        changed = changed_inputs(cell.config)
        if changed and not retrain:
            raise InputError(
                f"{run_folder(cell.config)}: made from another {', '.join(changed)}; repeat the "
                "command with --retrain=True, or give another checkpoint_dir"
            )
        if changed:
            cell.config["resume"] = False


def run_cells(
    cells: Sequence[PlannedRun], plan: BenchmarkPlan, console: Console, retrain: bool = False
) -> Outcome:
    """Run what has no result yet. A cell that fails does not stop the others.

    Args:
        cells: of `build_cells`.
        plan: theirs.
        console: where to print.
        retrain: begin a run anew that was finished or begun with other inputs than those that are
            there.

    Raises:
        InputError: there is such a run, and `retrain` is False; or a process was killed.
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
