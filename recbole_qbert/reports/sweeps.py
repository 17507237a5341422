"""The report's section of sweeps: valid metric over each setting, and parallel coordinates."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import read_json
from recbole_qbert.evaluation.results import RANKINGS, flat_settings, metric_title
from recbole_qbert.experiments.benchmark.scores import Row
from recbole_qbert.experiments.tune.settings import describe, short
from recbole_qbert.experiments.tune.sweep import TRIALS_CSV
from recbole_qbert.experiments.tune.trial_log import EXPERIMENT, FAILED, STOPPED
from recbole_qbert.reports import webpage
from recbole_qbert.reports.charts import (
    CURVES,
    REST,
    Chart,
    Palette,
    Point,
    Series,
    ramp,
    slug,
)
from recbole_qbert.reports.comparisons import ComparisonData
from recbole_qbert.reports.discovery import Found
from recbole_qbert.reports.learning import metric_name
from recbole_qbert.reports.sections import Block, ReportSection

LEAST_VALUES = 3  # fewest values of a setting for a curve of runs
LOGARITHMIC = "loguniform"
INK = "#1f2933"
BEST = "#c46a1b"


class Tried(NamedTuple):
    """A trial with a value of the valid metric."""

    number: int
    values: dict[str, Any]
    state: str
    best: float


class Experiment(NamedTuple):
    """Trials of a sweep; `log` holds the settings that were drawn on a logarithmic scale."""

    folder: Path
    model: str
    dataset: str
    metric: str
    keys: list[str]
    log: frozenset[str]
    trials: list[Tried]


def sweeps_section(
    found: Found, comparisons: Sequence[ComparisonData], metric: str, palette: Palette
) -> ReportSection | None:
    """Make the section, with charts of all sweeps and of runs that differ in one number.

    Args:
        found: contents of the results folders.
        comparisons: result of `compare_all`.
        metric: metric of the charts of runs.
        palette: colors of the models.

    Returns:
        The section; None if there are no such charts.

    Raises:
        InputError: the files of a sweep are damaged.
    """
    blocks: list[Block] = []
    sources, again = [], []
    for folder in found.sweeps:
        one = read_experiment(folder)
        if one is not None and one.trials:
            noun = "trial" if len(one.trials) == 1 else "trials"
            title = f"{one.model} on {one.dataset}, {len(one.trials)} {noun}"
            blocks.append(_heading(title, found.name(folder)))
            blocks += experiment_charts(one, palette)
            sources.append(f"{found.name(folder)}/{TRIALS_CSV}")
            again.append(f"recbole-qbert tune FILE.yaml --name={folder.name}")
    of_runs = [chart for one in comparisons for chart in run_charts(one, metric, palette)]
    if of_runs:
        blocks.append(_heading("Runs that differ in one setting", "test, means over seeds"))
        blocks.append(tuple(of_runs))
        sources += dict.fromkeys(one.source for one in comparisons)
        again += dict.fromkeys(one.again for one in comparisons)
    if not blocks:
        return None
    return ReportSection("sweeps", "Sweeps", "; ".join(sources), "; ".join(again), tuple(blocks))


def _heading(title: str, line: str) -> str:
    return f"<h2>{escape(title)}</h2>{webpage.paragraphs([line])}"


def read_experiment(folder: Path) -> Experiment | None:
    """Read a sweep; None if another program wrote `experiment.json` or no trial has ended.

    Raises:
        InputError: `trials.csv` does not match `experiment.json`.
    """
    content, path = read_json(folder / EXPERIMENT), folder / TRIALS_CSV
    fields = ("model", "dataset", "valid_metric", "space", "trials")
    if any(field not in content for field in fields) or not path.is_file():
        return None
    trials = []
    try:
        with open(path, encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle)
            # The order of the sweep's YAML file, which experiment.json does not keep.
            keys = [name for name in reader.fieldnames or () if name in content["space"]]
            for line in reader:
                number = int(line["trial"])
                if line["state"] != FAILED and line["best_valid"]:
                    values = dict(content["trials"][number - 1])
                    trials.append(Tried(number, values, line["state"], float(line["best_valid"])))
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(
            f"{path}: not the trials of {EXPERIMENT} beside it ({error!r}); restore the file"
        ) from None
    space = content["space"]
    return Experiment(
        folder=folder,
        model=content["model"],
        dataset=content["dataset"],
        metric=content["valid_metric"],
        keys=keys,
        log=frozenset(key for key, domain in space.items() if LOGARITHMIC in domain),
        trials=trials,
    )


def experiment_charts(one: Experiment, palette: Palette) -> list[Block]:
    """Make a chart per setting, and parallel coordinates if there are several settings."""
    charts = tuple(_over_key(one, key, palette) for key in one.keys)
    if len(one.keys) < 2 or len(one.trials) < 2:
        return [charts]
    return [charts, (parallel_chart(one),)]


def _over_key(one: Experiment, key: str, palette: Palette) -> Chart:
    """Chart of each trial's best valid value over one setting; a line connects the best ones."""
    y_title = f"best valid {metric_name(one.metric)}"
    named = not all(_is_number(trial.values[key]) for trial in one.trials)
    trials = sorted(
        one.trials, key=lambda each: str(each.values[key]) if named else each.values[key]
    )
    best: dict[Any, Tried] = {}
    for trial in trials:
        place = short(trial.values[key]) if named else trial.values[key]
        if place not in best or trial.best > best[place].best:
            best[place] = trial
    series = []
    if len(one.keys) == 1 or len(best) < len(trials):
        joined = list(best.values())
        color = palette[one.model] if len(one.keys) == 1 else INK
        series.append(_points("best at each value", color, joined, key, True, named))
    others = [trial for trial in trials if len(one.keys) > 1 and trial.state != STOPPED]
    stopped = [trial for trial in trials if trial.state == STOPPED]
    for name, color, some in (
        ("trials", palette[one.model], others),
        ("trials stopped by ASHA", REST, stopped),
    ):
        if some:
            series.append(_points(name, color, some, key, False, named))
    places = () if named or len(best) > 6 else tuple((x, short(x)) for x in best)
    return Chart(
        key=slug("sweep", one.folder.name, one.dataset, key),
        title=f"{one.model} on {one.dataset}: {y_title} over {key}",
        kind=CURVES,
        series=tuple(series),
        x_title=key,
        y_title=y_title,
        ticks=places,
        log_x=key in one.log,
    )


def _points(
    name: str, color: str, trials: Sequence[Tried], key: str, line: bool, named: bool
) -> Series:
    return Series(
        name=name,
        color=color,
        x=tuple(short(each.values[key]) if named else each.values[key] for each in trials),
        y=tuple(each.best for each in trials),
        texts=tuple(
            f"trial {each.number}: {each.best:.4f}\n{describe(each.values)}" for each in trials
        ),
        line=line,
    )


def parallel_chart(one: Experiment) -> Chart:
    """Chart of parallel coordinates: a line per trial, an axis per setting and one of the metric.

    Darker lines are better. Each axis is scaled from its minimum to its maximum, which are printed
    at its ends. Options that are not numbers are spaced evenly.
    """
    name = f"valid {metric_name(one.metric)}"
    columns = [[trial.values[key] for trial in one.trials] for key in one.keys]
    columns.append([trial.best for trial in one.trials])
    scaled, labels = [], []
    for place, column in enumerate(columns):
        shares, ends = _scaled(column, place < len(one.keys) and one.keys[place] in one.log)
        scaled.append(shares)
        labels += [Point(place, 0.0, ends[0], False), Point(place, 1.0, ends[1], True)]
    order = sorted(range(len(one.trials)), key=lambda place: one.trials[place].best)
    series = []
    for rank, place in enumerate(order):
        trial, last = one.trials[place], rank == len(order) - 1
        text = f"trial {trial.number}, {trial.state}: {trial.best:.4f}\n{describe(trial.values)}"
        series.append(
            Series(
                name=f"trial {trial.number}",
                color=BEST if last else ramp(rank / max(1, len(order) - 1)),
                x=tuple(float(axis) for axis in range(len(columns))),
                y=tuple(shares[place] for shares in scaled),
                texts=(text,) * len(columns),
                width=3.0 if last else 1.5,
            )
        )
    return Chart(
        key=slug("parallel", one.folder.name, one.dataset),
        title=f"{one.model} on {one.dataset}: all {len(one.trials)} trials",
        kind=CURVES,
        series=tuple(series),
        note="One line a trial, the darker the better by valid; the best one is orange.",
        ticks=tuple((float(place), key) for place, key in enumerate([*one.keys, name])),
        labels=tuple(labels),
        legend=False,
        bare_y=True,
    )


def _scaled(column: Sequence[Any], log: bool) -> tuple[list[float], tuple[str, str]]:
    """Scale values to [0, 1] (0.5 if all are equal); also return the labels of both ends."""
    if all(_is_number(value) for value in column):
        numbers = [math.log(value) if log else float(value) for value in column]
        ends = (_brief(min(column)), _brief(max(column)))
    else:
        options = sorted({str(value) for value in column})
        numbers = [float(options.index(str(value))) for value in column]
        ends = (options[0], options[-1])
    least, most = min(numbers), max(numbers)
    if least == most:
        return [0.5] * len(numbers), ends
    return [(number - least) / (most - least) for number in numbers], ends


def _brief(value: float) -> str:
    """Format a number briefly, so that labels of adjacent axes do not overlap on a phone."""
    return f"{value:.{1 if abs(value) < 0.001 else 3}g}"


def run_charts(one: ComparisonData, metric: str, palette: Palette) -> list[Chart]:
    """Charts of the test metric over each number in which otherwise equal rows differ."""
    models = dict.fromkeys(row.model_row.model for row in one.scores.rows)
    curves: dict[str, dict[str, list[tuple[float, Row]]]] = {}
    for model in models:
        rows = [row for row in one.scores.rows if row.model_row.model == model]
        for key, points in varied(rows).items():
            curves.setdefault(key, {})[model] = points
    charts = []
    for key, by_model in curves.items():
        for prefix, ranking in RANKINGS:
            series = []
            for model, points in by_model.items():
                spreads = [row.over_seeds("test", prefix + metric) for _, row in points]
                error = tuple(each.deviation or 0.0 for each in spreads)
                series.append(
                    Series(
                        model, palette[model], tuple(x for x, _ in points),
                        tuple(each.mean for each in spreads), error if any(error) else (),
                        tuple(
                            f"{key}={short(x)}: {each.mean:.4f}, {len(each.values)} seeds"
                            for (x, _), each in zip(points, spreads, strict=True)
                        ),
                    )
                )  # fmt: skip
            places = sorted({x for points in by_model.values() for x, _ in points})
            charts.append(
                Chart(
                    key=slug("runs", one.scores.dataset, key, metric, ranking),
                    title=f"{one.scores.dataset}: {metric_title(metric)}, {ranking}, over {key}",
                    kind=CURVES,
                    series=tuple(series),
                    x_title=key,
                    y_title=metric_title(metric),
                    ticks=tuple((float(x), short(x)) for x in places) if len(places) < 7 else (),
                )
            )
    return charts


def varied(rows: Sequence[Row]) -> dict[str, list[tuple[float, Row]]]:
    """Find numeric settings in which `LEAST_VALUES` or more otherwise equal rows differ.

    Returns:
        Setting -> pairs of value and row, ordered by value. If there are several sets of rows for a
        setting, the largest one.
    """
    flat = [(row, flat_settings(row.runs[0])) for row in rows]
    keys = {key for _, settings in flat for key, value in settings.items() if _is_number(value)}
    found: dict[str, list[tuple[float, Row]]] = {}
    for key in sorted(keys):
        buckets: dict[str, dict[float, Row]] = {}
        for row, settings in flat:
            if _is_number(settings.get(key)):
                rest = {name: value for name, value in settings.items() if name != key}
                digests = row.runs[0].data_sha256
                identity = json.dumps([rest, digests], sort_keys=True, default=str)
                buckets.setdefault(identity, {})[settings[key]] = row
        largest = max(buckets.values(), key=len)
        if len(largest) >= LEAST_VALUES:
            found[key] = sorted(largest.items(), key=lambda pair: pair[0])
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
