"""Search of results folders for runs, benchmarks and sweeps. The folders are only read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recbole_qbert.common.errors import InputError, did_you_mean_path, preview
from recbole_qbert.evaluation.results import RunResult, read_results
from recbole_qbert.evaluation.significance import RESULTS_FILE
from recbole_qbert.experiments.benchmark import table_json as sidecar
from recbole_qbert.experiments.tune.trial_log import EXPERIMENT

# Subfolders of runs, sweeps and data sets that contain no results.
SKIPPED = frozenset(("bundle", "trials", "ray", "tokenizer", "tensorboard"))


@dataclass(frozen=True)
class Run:
    """A run and its results file; `result.folder` is the present folder of the run's files."""

    result: RunResult
    file: Path


@dataclass(frozen=True)
class Found:
    """Contents of results folders."""

    folders: tuple[Path, ...]  # the given folders
    runs: tuple[Run, ...]  # runs of all results files; the last one for each run folder
    benchmarks: tuple[Path, ...]  # `table.json` files
    sweeps: tuple[Path, ...]  # folders with `experiment.json`

    @property
    def datasets(self) -> list[str]:
        """Data sets of the runs, in order of appearance."""
        return list(dict.fromkeys(run.result.dataset for run in self.runs))

    def name(self, path: Path) -> str:
        """Printed name of a path: relative to the parent of the given folder that contains it."""
        for folder in self.folders:
            if path.is_relative_to(folder):
                return Path(folder.resolve().name, path.relative_to(folder)).as_posix()
        return path.name

    def finder(self, file: Path) -> sidecar.FindRun:
        """Make a function that finds a benchmark's runs, first in the benchmark's own folder."""

        def find(dataset: str, name: str) -> RunResult | None:
            here = [
                run for run in self.runs
                if run.result.dataset == dataset and Path(run.result.folder).name == name
            ]  # fmt: skip
            own = [run for run in here if file.is_relative_to(run.file.parent)]
            return next((run.result for run in (*reversed(own), *reversed(here))), None)

        return find


def find_results(folders: Sequence[Path]) -> Found:
    """Search folders recursively.

    Raises:
        InputError: a folder does not exist, no folder holds a run or sweep, or a results file is
            damaged.
    """
    files: dict[Path, None] = {}
    for folder in folders:
        if not folder.is_dir():
            hint = did_you_mean_path(folder)
            raise InputError(f"{folder}: no such folder; give a folder with {RESULTS_FILE}{hint}")
        for place, inner, names in os.walk(folder):
            inner[:] = sorted({*inner} - SKIPPED - {name for name in inner if name[0] == "."})
            wanted = (RESULTS_FILE, sidecar.FILE, EXPERIMENT)
            files |= {Path(place, name): None for name in wanted if name in names}
    runs = {}
    for file in (path for path in files if path.name == RESULTS_FILE):
        for result in read_results(file):
            run = Run(result, file)
            runs[Path(run.result.folder).resolve()] = run
    found = Found(
        folders=tuple(folders),
        runs=tuple(runs.values()),
        benchmarks=tuple(path for path in files if path.name == sidecar.FILE),
        sweeps=tuple(path.parent for path in files if path.name == EXPERIMENT),
    )
    if not found.runs and not found.sweeps:
        raise InputError(
            f"{preview([str(folder) for folder in folders])}: found no runs and no sweeps; give "
            f"the checkpoint_dir of `run`, `benchmark` or `tune`, which contains {RESULTS_FILE}"
        )
    return found
