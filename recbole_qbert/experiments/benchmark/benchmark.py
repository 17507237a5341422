"""`benchmark`: plans and makes the runs, with their IDs and pretrained models, and the tables."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recbole.config import Config
from rich.console import Console

from recbole_qbert.common.errors import InputError, error_context
from recbole_qbert.common.files import check_writable
from recbole_qbert.common.output import counted
from recbole_qbert.common.process import quiet_recbole
from recbole_qbert.config.build import build_config, check_same_columns
from recbole_qbert.data.cold import ColdSettings, cold_settings
from recbole_qbert.data.domain import DatasetPaths, find_domain
from recbole_qbert.evaluation.ranking import RANKS_FILE
from recbole_qbert.evaluation.results import RunResult
from recbole_qbert.experiments.benchmark.ids import make_ids
from recbole_qbert.experiments.benchmark.outputs import print_table, write_files
from recbole_qbert.experiments.benchmark.plan import (
    BenchmarkPlan,
    ModelRow,
    Settings,
)
from recbole_qbert.experiments.benchmark.scores import Row, Scores, score
from recbole_qbert.experiments.benchmark.table_json import write_sidecar
from recbole_qbert.experiments.benchmark.tables import all_sheets
from recbole_qbert.experiments.checks import check_files, check_model, check_run
from recbole_qbert.experiments.parallel import Job, run_parallel
from recbole_qbert.experiments.split_checks import check_source_split
from recbole_qbert.pretraining.fit import PRETRAINED, pretrain, pretrain_config
from recbole_qbert.pretraining.transfer import FROM_SCRATCH, check_transfer
from recbole_qbert.registry import model_entry
from recbole_qbert.training.inputs import reads_semantic_ids
from recbole_qbert.training.run_identity import changed_inputs, finished_run, run_folder

# Settings of the runs that also apply to pretraining.
SHARED = ("data_path", "checkpoint_dir", "show_progress", "use_gpu", "gpu_id")


@dataclass(frozen=True)
class PlannedRun:
    """One run of a benchmark: a row on a data set with a seed."""

    model_row: ModelRow
    dataset: str
    seed: int
    config: Config

    def __str__(self) -> str:
        return f"{self.model_row.name} on {self.dataset}, seed {self.seed}"


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
        raise InputError(f"{folder}: is a file; give another folder with --output")
    with error_context("output"):
        check_writable(folder)
    results, failures = run_planned(planned_runs(plan), plan, console, retrain)
    scores = collect(plan, results)
    sheets = [all_sheets(one) for one in scores]
    for sheet in [sheet for one in sheets for sheet in one]:
        print_table(sheet, console)
    write_files(folder, scores, sheets, failures)
    write_sidecar(folder, scores, failures, plan.source)
    console.print(f"written: {folder}/table.md, .csv, .tex, .json", soft_wrap=True, highlight=False)
    return failures


def planned_runs(plan: BenchmarkPlan) -> list[PlannedRun]:
    """Plan all runs, ordered by data set, then seed, then row.

    If a row starts from pretrained weights, a run of the same model from scratch is added after it,
    unless the benchmark already contains that run.

    Raises:
        InputError: settings cannot be used, or data files are missing.
    """
    cells = []
    for dataset in plan.datasets:
        find_domain(dataset, plan.data_path)
        names: dict[Path, str] = {}
        for seed in plan.seeds:
            row = [
                _cell(plan, model_row, dataset, seed)
                for model_row in plan.model_rows
                if not model_row.seeds or seed in model_row.seeds
            ]
            cells += _with_scratch(plan, row, names)
    check_same_columns([(str(cell), cell.config) for cell in cells])
    return cells


def _with_scratch(
    plan: BenchmarkPlan, row: Sequence[PlannedRun], names: dict[Path, str]
) -> list[PlannedRun]:
    """Add runs from scratch after pretrained ones, to show whether pretraining helped.

    `names` has the name of each row of the data set by the folder of its run with the first seed.
    It is empty before the first call that needs it; new rows are added.

    Raises:
        InputError: a row of the file has the name of an added row, and other settings.
    """
    folders, cells = {run_folder(cell.config) for cell in row}, []
    for cell in row:
        cells.append(cell)
        if model_entry(cell.config["model"]).takes_pretrained and cell.config["pre_model_path"]:
            names |= {} if names else _names_by_folder(plan, cell.dataset)
            name = f"{cell.model_row.name}, from scratch"
            model_row = replace(cell.model_row, name=name, pretrain=None, published={})
            scratch, first = (
                _cell(plan, model_row, cell.dataset, seed, FROM_SCRATCH)
                for seed in (cell.seed, plan.seeds[0])
            )
            if run_folder(first.config) not in names and name in names.values():
                raise InputError(
                    f"{plan.source}: models: '{name}' is the name of the row that is added for "
                    f"{cell.model_row.name}, with other settings; choose another"
                )
            name = names.setdefault(run_folder(first.config), name)
            folder = run_folder(scratch.config)
            if folder not in folders:
                folders.add(folder)
                cells.append(replace(scratch, model_row=replace(model_row, name=name)))
    return cells


def _names_by_folder(plan: BenchmarkPlan, dataset: str) -> dict[Path, str]:
    """Return the name of each row by the folder of its run with the first seed."""
    cells = [_cell(plan, row, dataset, plan.seeds[0]) for row in plan.model_rows]
    return {run_folder(cell.config): cell.model_row.name for cell in cells}


def _cell(
    plan: BenchmarkPlan,
    model_row: ModelRow,
    dataset: str,
    seed: int,
    changes: Mapping[str, Any] | None = None,
) -> PlannedRun:
    settings = {**plan.settings_of(model_row, dataset), "seed": seed, **(changes or {})}
    made: Settings = {}
    source = None
    if model_row.pretrain is not None:
        source = _pretraining_config(plan, model_row, dataset)
        made["pre_model_path"] = str(Path(source["checkpoint_dir"]) / PRETRAINED)
    with error_context(f"{model_row.name} on {dataset}"):
        config = build_config(model_row.model, dataset, plan.config_files, {**settings, **made})
        cold = cold_settings(config)
        if source is not None:
            check_source_split(config, plan.pretraining_of(model_row)[0], source)
            check_transfer(config, source)
        if model_row.ids is not None:
            if reads_semantic_ids(config) is False:
                raise InputError("ids: the model reads no semantic IDs; leave it out of this row")
            made["semantic_id_file"] = str(_ids(plan, model_row, dataset, seed, cold).file("semid"))
            config["semantic_id_file"] = made["semantic_id_file"]
        check_run(config, made)
        check_files(config, made)
    config["resume"] = True  # if there is a training state to resume
    return PlannedRun(model_row, dataset, seed, config)


def _ids(
    plan: BenchmarkPlan, model_row: ModelRow, dataset: str, seed: int, cold: ColdSettings | None
) -> DatasetPaths:
    """Folder of a row's own semantic IDs, named by their settings."""
    settings = {**plan.id_settings(model_row, seed), "show_progress": None}  # display only
    settings |= {"cold_items": cold} if cold else {}
    text = json.dumps(settings, sort_keys=True, default=str)
    name = f"{dataset}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return DatasetPaths(dataset, Path(plan.checkpoint_dir, "ids", name))


def _pretraining(
    plan: BenchmarkPlan, model_row: ModelRow, dataset: str
) -> tuple[list[str], Settings]:
    """Sources and complete settings of a row's pretraining."""
    sources, settings = plan.pretraining_of(model_row)
    of_runs = plan.settings_of(model_row, dataset)
    return sources, {**{key: of_runs[key] for key in SHARED if key in of_runs}, **settings}


def _pretraining_config(plan: BenchmarkPlan, model_row: ModelRow, dataset: str) -> Config:
    """Config of a row's own pretraining; its `checkpoint_dir` is named by the settings."""
    sources, settings = _pretraining(plan, model_row, dataset)
    with error_context(f"{plan.source}: models: {model_row.name}: pretrain"):
        return pretrain_config(sources, (), settings, dataset)


def _make_stages(
    plan: BenchmarkPlan, cells: Sequence[PlannedRun], console: Console, retrain: bool
) -> None:
    """Make the rows' own semantic IDs and pretrained models, and check them."""
    stages = {
        (cell.model_row.name, cell.dataset, plan.id_seed(cell.model_row, cell.seed)): cell
        for cell in cells
    }
    pretrained = set()
    for cell in stages.values():
        model_row, dataset, seed = cell.model_row, cell.dataset, cell.seed
        if model_row.ids is not None:
            cold = cold_settings(cell.config)
            work = _ids(plan, model_row, dataset, seed, cold)
            console.print(
                f"{model_row.name}: semantic IDs in {work.folder}", soft_wrap=True, highlight=False
            )
            source = find_domain(dataset, plan.data_path)
            make_ids(source, work, plan.id_settings(model_row, seed), cold)
        if model_row.pretrain is not None and (model_row.name, dataset) not in pretrained:
            pretrained.add((model_row.name, dataset))
            sources, settings = _pretraining(plan, model_row, dataset)
            pretrain(sources, (), settings, dataset, console, reuse=True, retrain=retrain)
        with error_context(f"{model_row.name} on {dataset}"):
            check_run(cell.config)
            check_files(cell.config)


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
                f"{run_folder(cell.config)}: {', '.join(changed)} changed since this run; add "
                "--retrain=True, or give another checkpoint_dir"
            )
        if changed:
            cell.config["resume"] = False


def run_planned(
    cells: Sequence[PlannedRun], plan: BenchmarkPlan, console: Console, retrain: bool = False
) -> tuple[list[tuple[PlannedRun, RunResult]], list[str]]:
    """Make all runs that have no result yet. A failed run does not stop the others.

    Args:
        cells: runs from `planned_runs`.
        plan: plan of these runs.
        console: console to print on.
        retrain: start a run again if its inputs have changed since it was started or finished.

    Returns:
        Runs with their results, and one line for each failed run.

    Raises:
        InputError: the inputs of a run have changed and `retrain` is False, a stage before the runs
            failed, or a process was killed.
    """
    staged = [cell for cell in cells if cell.model_row.has_stages]
    _check_inputs([cell for cell in cells if _stages_are_made(cell)], retrain)
    _make_stages(plan, staged, console, retrain)
    _check_inputs(staged, retrain)
    _check_data(cells, console)
    files = [*plan.config_files, plan.source]
    jobs = [
        Job(f"[{number}/{len(cells)}] {cell}", cell.config, files)
        for number, cell in enumerate(cells, start=1)
    ]
    answers = run_parallel(jobs, plan.max_concurrent, console, _finished)
    results, failures = [], []
    for cell, answer in zip(cells, answers, strict=True):
        if isinstance(answer, InputError):
            failures.append(f"{cell}: {answer}")
        else:
            results.append((cell, answer))
    return results, failures


def _stages_are_made(cell: PlannedRun) -> bool:
    """Return whether the files of the stages before a run are there, or it has no stages."""
    paths = (cell.config[key] for key in ("semantic_id_file", "pre_model_path"))
    return not cell.model_row.has_stages or all(Path(path).exists() for path in paths if path)


def _check_data(cells: Sequence[PlannedRun], console: Console) -> None:
    """Read the data and build the model of each row that has no result yet, but the first."""
    quiet_recbole()
    rows: dict[tuple[str, str], PlannedRun] = {}
    for cell in cells:
        rows.setdefault((cell.model_row.name, cell.dataset), cell)
    todo = [cell for cell in rows.values() if _finished(cell.config) is None][1:]
    if todo:
        console.print(f"reading the data of {counted(len(todo), 'more row')}")
    for cell in todo:
        with error_context(f"{cell.model_row.name} on {cell.dataset}"):
            check_model(cell.config)


def collect(plan: BenchmarkPlan, results: Sequence[tuple[PlannedRun, RunResult]]) -> list[Scores]:
    """Compute the scores of each data set that has a run.

    Raises:
        InputError: the ranks of a run are missing, or are of other users.
    """
    found: dict[str, dict[str, tuple[ModelRow, list[RunResult]]]] = {
        dataset: {} for dataset in plan.datasets
    }
    for cell, result in results:
        rows = found[cell.dataset]
        rows.setdefault(cell.model_row.name, (cell.model_row, []))[1].append(result)
    return [
        score(dataset, tuple(Row(row, tuple(runs)) for row, runs in rows.values()), plan.reference)
        for dataset, rows in found.items()
        if rows
    ]
