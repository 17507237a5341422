"""The report's section of sweeps: valid metric over each setting, and parallel coordinates."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import read_json
from recbole_qbert.common.output import counted
from recbole_qbert.evaluation.ranking import UNSEEN
from recbole_qbert.evaluation.results import RANKINGS, flat_settings, metric_title
from recbole_qbert.experiments.benchmark.scores import Row
from recbole_qbert.experiments.tune.settings import describe, short
from recbole_qbert.experiments.tune.sweep import TRIALS_CSV
from recbole_qbert.experiments.tune.trial_log import EXPERIMENT, FAILED, STOPPED
from recbole_qbert.reports.charts import CURVES, REST, Chart, Palette, Point, Series, ramp, slug
from recbole_qbert.reports.comparisons import ComparisonData, origin
from recbole_qbert.reports.discovery import Found
from recbole_qbert.reports.learning import metric_name
from recbole_qbert.reports.page import Block, ReportSection

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

    @property
    def text(self) -> str:
        """Hover text."""
        return f"trial {self.number}, {self.state}: {self.best:.4f}\n{describe(self.values)}"


class Experiment(NamedTuple):
    """Trials of a sweep."""

    folder: Path
    model: str
    dataset: str
    metric: str
    keys: list[str]
    log: frozenset[str]  # settings that were drawn on a logarithmic scale and can be shown on one
    trials: list[Tried]

    @property
    def title(self) -> str:
        """Model and data set."""
        return f"{self.model} on {self.dataset}"


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
    blocks, sources, commands = [], [], []
    for folder in found.sweeps:
        one = read_experiment(folder)
        if one is not None and one.trials:
            name, n = found.name(folder), len(one.trials)
            title = f"{one.title}, {counted(n, 'trial')}"
            blocks += [Block("heading", title), Block("paragraphs", [name])]
            blocks += [Block("charts", charts) for charts in experiment_charts(one, palette)]
            sources.append(f"{name}/{TRIALS_CSV}")
            commands.append(f"recbole-qbert tune FILE.yaml --name={folder.name}")
    of_runs = [chart for one in comparisons for chart in run_charts(one, metric, palette)]
    if of_runs:
        blocks += [
            Block("heading", "Runs that differ in one setting"),
            Block("paragraphs", ["test, means over seeds"]),
            Block("charts", of_runs),
        ]
        source, command = origin(comparisons)
        sources.append(source)
        commands.append(command)
    if not blocks:
        return None
    return ReportSection("sweeps", "Sweeps", tuple(blocks), "; ".join(sources), "; ".join(commands))


def read_experiment(folder: Path) -> Experiment | None:
    """Read a sweep; None if another program wrote `experiment.json` or no trial has ended.

    Raises:
        InputError: `trials.csv` does not match `experiment.json`.
    """
    content, path = read_json(folder / EXPERIMENT), folder / TRIALS_CSV
    fields = ("model", "dataset", "valid_metric", "space", "trials")
    if any(field not in content for field in fields) or not path.is_file():
        return None
    space, trials = content["space"], []
    try:
        with open(path, encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle)
            # The order of the sweep's YAML file, which experiment.json does not keep.
            keys = [name for name in reader.fieldnames or () if name in space]
            for line in reader:
                number = int(line["trial"])
                if line["state"] != FAILED and line["best_valid"]:
                    values = dict(content["trials"][number - 1])
                    trials.append(Tried(number, values, line["state"], float(line["best_valid"])))
        # The configured value, of the first trial, may be 0 or no number.
        log = frozenset(
            key for key, domain in space.items()
            if LOGARITHMIC in domain and all(_is_positive(trial.values[key]) for trial in trials)
        )  # fmt: skip
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(
            f"{path}: does not match {EXPERIMENT} in its folder ({error!r}); restore the file"
        ) from None
    names = (content["model"], content["dataset"], content["valid_metric"])
    return Experiment(folder, *names, keys, log, trials)


def experiment_charts(one: Experiment, palette: Palette) -> list[list[Chart]]:
    """Make a chart per setting, and parallel coordinates if there are several settings."""
    charts = [[_over_key(one, key, palette) for key in one.keys]]
    if len(one.keys) > 1 and len(one.trials) > 1:
        charts.append([parallel_chart(one)])
    return charts


def _over_key(one: Experiment, key: str, palette: Palette) -> Chart:
    """Chart of each trial's best valid value over one setting; a line connects the best ones."""
    named = not all(_is_number(trial.values[key]) for trial in one.trials)

    def place(trial: Tried) -> Any:
        return short(trial.values[key]) if named else trial.values[key]

    trials = sorted(one.trials, key=lambda trial: str(trial.values[key]) if named else place(trial))
    best: dict[Any, Tried] = {}
    for trial in trials:
        if place(trial) not in best or trial.best > best[place(trial)].best:
            best[place(trial)] = trial
    color, alone = palette[one.model], len(one.keys) == 1
    groups: list[tuple[str, str, list[Tried]]] = []
    if alone or len(best) < len(trials):
        groups.append(("best at each value", color if alone else INK, list(best.values())))
    groups += [
        ("trials", color, [each for each in trials if not alone and each.state != STOPPED]),
        ("trials stopped by ASHA", REST, [each for each in trials if each.state == STOPPED]),
    ]
    series = [
        Series(
            name, color, tuple(map(place, some)), tuple(each.best for each in some),
            texts=tuple(each.text for each in some), line=name.startswith("best"),
        )
        for name, color, some in groups if some
    ]  # fmt: skip
    y_title = f"best valid {metric_name(one.metric)}"
    return Chart(
        key=slug("sweep", one.folder.name, one.dataset, key),
        title=f"{one.title}: {y_title} over {key}",
        kind=CURVES,
        series=tuple(series),
        x_title=key,
        y_title=y_title,
        ticks=() if named or len(best) > 6 else tuple((x, short(x)) for x in best),
        log_x=key in one.log,
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
        series.append(
            Series(
                name=f"trial {trial.number}",
                color=BEST if last else ramp(rank / max(1, len(order) - 1)),
                x=tuple(float(axis) for axis in range(len(columns))),
                y=tuple(shares[place] for shares in scaled),
                texts=(trial.text,) * len(columns),
                width=3.0 if last else 1.5,
            )
        )
    return Chart(
        key=slug("parallel", one.folder.name, one.dataset),
        title=f"{one.title}: {counted(len(one.trials), 'trial')}",
        kind=CURVES,
        series=tuple(series),
        note="One line per trial. Darker lines have a higher valid metric; the best is orange.",
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
    """Charts of the test metric over each number in which otherwise equal rows differ.

    There are none if a row lacks the metric.
    """
    if not all(metric in row.metrics for row in one.scores.rows):
        return []
    curves: dict[str, dict[str, list[tuple[float, Row]]]] = {}
    for model in dict.fromkeys(row.model_row.model for row in one.scores.rows):
        rows = [row for row in one.scores.rows if row.model_row.model == model]
        for key, points in varied(rows).items():
            curves.setdefault(key, {})[model] = points
    return [
        _run_chart(one.scores.dataset, key, by_model, prefix + metric, ranking, palette)
        for key, by_model in curves.items()
        for prefix, ranking in RANKINGS
    ]


def _run_chart(
    dataset: str,
    key: str,
    by_model: Mapping[str, Sequence[tuple[float, Row]]],
    metric: str,
    ranking: str,
    palette: Palette,
) -> Chart:
    """Chart of the test metric over one number, with a line per model."""
    series = []
    for model, points in by_model.items():
        spreads = [row.over_seeds("test", metric) for _, row in points]
        error = tuple(each.deviation or 0.0 for each in spreads)
        texts = tuple(
            f"{key}={short(x)}: {each.mean:.4f}, {counted(len(each.values), 'seed')}"
            for (x, _), each in zip(points, spreads, strict=True)
        )
        xs, means = tuple(x for x, _ in points), tuple(each.mean for each in spreads)
        series.append(Series(model, palette[model], xs, means, error if any(error) else (), texts))
    places = sorted({x for one in series for x in one.x})
    name = metric.removeprefix(UNSEEN)
    return Chart(
        key=slug("runs", dataset, key, name, ranking),
        title=f"{dataset}: {metric_title(name)}, {ranking}, over {key}",
        kind=CURVES,
        series=tuple(series),
        x_title=key,
        y_title=metric_title(name),
        ticks=tuple((float(x), short(x)) for x in places) if len(places) < 7 else (),
    )


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


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
