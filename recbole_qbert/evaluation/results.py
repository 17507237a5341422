"""One line of JSON for each finished run, and the tables made from such lines."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from recbole_qbert.errors import InputError
from recbole_qbert.evaluation.ranking import UNSEEN, metric_names
from recbole_qbert.files import append_line, held

# Config keys that say where things go or how they are shown; no part of a run's identity.
PLACES = frozenset(
    {"checkpoint_dir", "resume", "show_progress", "data_path", "state", "config_files"}
)
# Config keys that two runs of one experiment may differ in.
PER_RUN_KEYS = PLACES | {"seed"}
LATE = "! the best epoch was the last allowed one: train longer"
RANKINGS = (("", "all items"), (UNSEEN, "seen excluded"))


@dataclass(frozen=True)
class RunResult:
    """Everything that is published about one trained and evaluated model."""

    model: str
    dataset: str
    seed: int
    valid: dict[str, float]  # metric -> value; names with `unseen_` rank unseen items only
    test: dict[str, float]
    valid_metric: str  # which valid metric chose the epoch
    exclude_visible: bool  # whether the model leaves visible items out by construction
    loss: str
    best_epoch: int  # counted from 0
    epochs: int  # how many were trained
    max_epochs: int
    seconds: float  # training and its evaluations on valid
    test_seconds: float
    n_parameters: int
    peak_memory_mb: float  # of the process during the run; on other systems than Linux so far
    counts: dict[str, int]
    data_sha256: dict[str, str]
    config: dict[str, Any]
    config_files: list[str]
    versions: dict[str, str]
    device: str
    threads: int
    bundle: str
    machine: str = ""
    folder: str = ""  # where checkpoints, curve and test ranks lie
    pretrained_on: list[str] = field(default_factory=list)  # data sets; none: from scratch
    n_processes: int = 1  # threads and peak memory are those of the first

    @property
    def title(self) -> str:
        """The model's name, and what it was pretrained on."""
        if not self.pretrained_on:
            return self.model
        return f"{self.model} (pretrained: {', '.join(self.pretrained_on)})"

    @property
    def repeats(self) -> str:
        """Whether it may recommend what stands in the history."""
        return "excluded" if self.exclude_visible else "allowed"

    @property
    def late(self) -> bool:
        """Whether the best epoch was the last allowed one, so that longer training may gain.

        What only counts (`loss_type: none`) is complete after one epoch.
        """
        return self.loss != "none" and self.best_epoch + 1 >= self.max_epochs


def append_result(path: str | Path, result: RunResult) -> None:
    """Add one line; runs side by side wait for each other."""
    append_line(path, asdict(result))


def read_results(path: str | Path) -> list[RunResult]:
    """All runs of a results file.

    Raises:
        InputError: missing file, or a line that is no run (names it).
    """
    try:
        with open(path, encoding="utf-8") as handle, held(handle):
            lines = handle.read().splitlines()
    except FileNotFoundError:
        raise InputError(f"{path}: no such results file") from None
    results = []
    for number, line in enumerate(lines, start=1):
        try:
            results.append(RunResult(**json.loads(line)))
        except (json.JSONDecodeError, TypeError):
            raise InputError(
                f"{path}:{number}: not a run of this version; delete the line"
            ) from None
    return results


def metrics_table(
    results: Sequence[RunResult], metrics: Sequence[str], topk: Sequence[int]
) -> Table:
    """Valid and test, both rankings, four rows a model."""
    names = metric_names(metrics, topk)
    table = Table(title=f"{results[0].dataset}: leave-one-out, the whole catalogue ranked")
    for column in ("model", "split", "ranking"):
        table.add_column(column, no_wrap=True)
    for name in names:
        table.add_column(metric_title(name), justify="right", no_wrap=True)
    for result in results:
        first = True
        for split in ("valid", "test"):
            for prefix, ranking in RANKINGS:
                values = getattr(result, split)
                cells = [f"{values[prefix + name]:.4f}" for name in names]
                table.add_row(
                    result.title.replace(" (", "\n(") if first else "", split, ranking, *cells
                )
                first = False
        table.add_section()
    return table


def runs_table(results: Sequence[RunResult]) -> Table:
    """What was trained, how long, and what the reader must know to compare."""
    table = Table(title="Runs")
    for column in (
        "model",
        "seed",
        "loss",
        "repeats",
        "chosen by",
        "epochs",
        "s",
        "parameters",
        "MB",
    ):
        table.add_column(
            column, justify="left" if column in ("model", "loss", "repeats") else "right"
        )
    for result in results:
        table.add_row(
            result.title,
            str(result.seed),
            result.loss,
            result.repeats,
            result.valid_metric,
            f"{result.best_epoch + 1} of {result.epochs}{' !' if result.late else ''}",
            f"{result.seconds:.0f}",
            f"{result.n_parameters:,}",
            f"{result.peak_memory_mb:.0f}",
        )
    if any(result.late for result in results):
        table.caption = LATE
    return table


def print_tables(
    results: Sequence[RunResult], metrics: Sequence[str], topk: Sequence[int], console: Console
) -> None:
    """Both tables, wide enough even where the output is no terminal."""
    for table in (metrics_table(results, metrics, topk), runs_table(results)):
        console.print(table)


def group_runs(results: Iterable[RunResult]) -> list[list[RunResult]]:
    """Runs that differ in the seed alone, in order of appearance."""
    groups: dict[str, list[RunResult]] = {}
    for result in results:
        keys = {k: v for k, v in result.config["keys"].items() if k not in PER_RUN_KEYS}
        identity = [result.model, result.dataset, keys, result.data_sha256]
        groups.setdefault(json.dumps(identity, sort_keys=True, default=str), []).append(result)
    return list(groups.values())


def seeds_markdown(
    results: Iterable[RunResult], metrics: Sequence[str], topk: Sequence[int]
) -> str:
    """Mean and sample deviation over seeds, valid and test, both rankings, as Markdown."""
    names = metric_names(metrics, topk)
    titles = map(metric_title, names)
    head = ["data", "model", "repeats", "split", "ranking", *titles, "seeds", "epochs", "s a run"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for group in group_runs(results):
        one = group[0]
        for split in ("valid", "test"):
            for prefix, ranking in RANKINGS:
                row = [one.dataset, one.title, one.repeats, split, ranking]
                row += [
                    mean_and_deviation([getattr(run, split)[prefix + name] for run in group])
                    for name in names
                ]
                row.append(", ".join(str(run.seed) for run in group))
                row.append(", ".join(str(run.best_epoch + 1) for run in group))
                row.append(f"{statistics.mean(run.seconds for run in group):.0f}")
                lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def metric_title(name: str) -> str:
    """`hit@10` as papers write it, HR@10."""
    return name.replace("hit", "HR").replace("ndcg", "NDCG")


def short(value: float) -> str:
    """Four decimals, without the leading zero."""
    return f"{value:.4f}".replace("0.", ".", 1)


def mean_and_deviation(values: Sequence[float]) -> str:
    """Mean, and the sample deviation in brackets where there are several values."""
    mean = short(statistics.mean(values))
    return mean if len(values) == 1 else f"{mean} ({short(statistics.stdev(values))})"
