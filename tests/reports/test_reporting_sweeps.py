"""Sweeps as they are read back and drawn, against hand-worked values and brute force."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_results import add_run, add_sweep

from recbole_qbert.common.errors import InputError
from recbole_qbert.reports.charts import Chart, Palette
from recbole_qbert.reports.comparisons import compare_all
from recbole_qbert.reports.discovery import find_results
from recbole_qbert.reports.matplotlib_charts import write_plots
from recbole_qbert.reports.sweeps import (
    Experiment,
    Tried,
    experiment_charts,
    parallel_chart,
    read_experiment,
    run_charts,
    sweeps_section,
    varied,
)

SPACE = {"n_layers": {"grid": [1, 2]}, "learning_rate": {"loguniform": [0.001, 0.1]}}
TRIED: list[tuple[dict[str, Any], float | None, str]] = [
    ({"n_layers": 1, "learning_rate": 0.001}, 0.2, "finished"),
    ({"n_layers": 2, "learning_rate": 0.01}, 0.4, "stopped"),
    ({"n_layers": 2, "learning_rate": 0.1}, 0.3, "finished"),
    ({"n_layers": 1, "learning_rate": 0.1}, 0.9, "failed"),
    ({"n_layers": 1, "learning_rate": 0.1}, None, "waiting"),
]


def read(folder: Path) -> Experiment:
    found = read_experiment(folder)
    assert found is not None
    return found


def only_charts(blocks: list[Any]) -> list[Chart]:
    return list(itertools.chain.from_iterable(blocks))


def test_a_sweep_is_read_back(tmp_path: Path) -> None:
    """Without trials that failed or said nothing."""
    found = read(add_sweep(tmp_path / "s", SPACE, TRIED))
    assert found.keys == ["n_layers", "learning_rate"] and found.log == {"learning_rate"}
    assert found.trials == [
        Tried(number, values, state, best)
        for number, (values, best, state) in enumerate(TRIED[:3], start=1)
    ]


def test_one_setting_is_one_line(tmp_path: Path) -> None:
    tried = [({"n_layers": n}, value, "finished") for n, value in ((2, 0.3), (1, 0.1), (4, 0.2))]
    found = read(add_sweep(tmp_path / "s", {"n_layers": {"grid": [2, 1, 4]}}, tried))
    (one,) = only_charts(experiment_charts(found, Palette()))
    (series,) = one.series
    assert (series.x, series.y, series.line) == ((1, 2, 4), (0.1, 0.3, 0.2), True)
    assert one.ticks == ((1, "1"), (2, "2"), (4, "4")) and not one.log_x


def test_several_settings(tmp_path: Path) -> None:
    """The best of each value joined, all trials as points, those stopped apart."""
    found = read(add_sweep(tmp_path / "s", SPACE, TRIED))
    layers, rate, _ = only_charts(experiment_charts(found, Palette()))
    joined, trials, stopped = layers.series
    assert (joined.x, joined.y) == ((1, 2), (0.2, 0.4))
    assert (trials.x, trials.y) == ((1, 2), (0.2, 0.3))
    assert (stopped.x, stopped.y) == ((2,), (0.4,))
    assert rate.log_x and [series.line for series in rate.series] == [False, False]


def test_parallel_coordinates_by_hand(tmp_path: Path) -> None:
    """0.001, 0.01, 0.1 on a logarithmic axis are 0, 1/2, 1; the best trial comes last."""
    one = parallel_chart(read(add_sweep(tmp_path / "s", SPACE, TRIED)))
    lines = {series.name: series.y for series in one.series}
    assert lines["trial 1"] == pytest.approx((0, 0, 0))
    assert lines["trial 2"] == pytest.approx((1, 0.5, 1))
    assert lines["trial 3"] == pytest.approx((1, 1, 0.5))
    assert one.series[-1].name == "trial 2" and one.series[-1].width > one.series[0].width
    ends = [(label.x, label.y, label.text) for label in one.labels[:4]]
    assert ends == [(0, 0, "1"), (0, 1, "2"), (1, 0, "0.001"), (1, 1, "0.1")]


def test_options_that_are_no_numbers(tmp_path: Path) -> None:
    options = ["dot", "cosine", None, "dot"]
    tried = [
        ({"score": option, "x": 1}, 0.1 * place, "finished") for place, option in enumerate(options)
    ]
    space = {"score": {"choice": ["dot", "cosine", None]}, "x": {"grid": [1]}}
    found = read(add_sweep(tmp_path / "s", space, tried))
    over_score, over_x, parallel = only_charts(experiment_charts(found, Palette()))
    assert over_score.series[0].x == ("None", "cosine", "dot")
    assert over_score.series[0].y == pytest.approx((0.2, 0.1, 0.3))
    assert over_x.series[0].x == (1,)
    heights = {series.name: series.y[:2] for series in parallel.series}
    assert heights["trial 1"] == (1.0, 0.5) and heights["trial 3"] == (0.0, 0.5)


def test_what_is_no_sweep_of_ours(tmp_path: Path) -> None:
    folder = add_sweep(tmp_path / "s", SPACE, TRIED)
    table = folder / "trials.csv"
    text = table.read_text(encoding="utf-8")
    table.write_text(text.replace("5,waiting", "7,finished").replace(",,,,", ",0.1,,,"), "utf-8")
    with pytest.raises(InputError, match=r"trials.csv: does not match experiment.json"):
        read_experiment(folder)
    table.unlink()
    assert read_experiment(folder) is None
    (folder / "experiment.json").write_text('{"name": "of another program"}', encoding="utf-8")
    assert read_experiment(folder) is None


def test_runs_that_differ_in_one_number(tmp_path: Path) -> None:
    """Three of n_layers with all else equal; the other hidden size and the text are no part."""
    for seed in (1, 2):
        for layers, ranks in ((1, [1, 20]), (2, [1, 1]), (4, [2, 20])):
            add_run(
                tmp_path, [*ranks, 20, 20], "QBERT4Rec", seed, keys={"n_layers": layers, "h": 8}
            )
    add_run(tmp_path, [1, 1, 1, 1], "QBERT4Rec", 1, keys={"n_layers": 3, "h": 9})
    add_run(tmp_path, [1, 1, 1, 1], "SASRec", 1, keys={"n_layers": 3, "h": 8})
    found = find_results([tmp_path])
    (one,) = compare_all(found)
    raw, unseen = run_charts(one, "ndcg@10", Palette())
    (series,) = raw.series
    assert (series.name, series.x) == ("QBERT4Rec", (1, 2, 4))
    assert series.y == pytest.approx((0.25, 0.5, 0.25 / 1.5849625))
    assert raw.x_title == "n_layers" and "seen excluded" in unseen.title
    section = sweeps_section(found, [one], "ndcg@10", Palette())
    assert section is not None and section.charts == [raw, unseen]


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from([0.1, 0.2, 0.3])), max_size=9))
def test_varied_against_brute_force(pairs: list[tuple[int, float]]) -> None:
    """The largest set of rows that differ in one key alone, looked for over all subsets."""
    rows: Any = [
        SimpleNamespace(
            runs=[SimpleNamespace(config={"keys": {"a": a, "b": b}}, data_sha256={})]
        )
        for a, b in dict.fromkeys(pairs)
    ]  # fmt: skip
    found = {key: [value for value, _ in points] for key, points in varied(rows).items()}
    for place, key in enumerate(("a", "b")):
        best = 0
        for fixed in {pair[1 - place] for pair in pairs}:
            best = max(best, len({pair[place] for pair in pairs if pair[1 - place] == fixed}))
        assert len(found.get(key, [])) == (best if best >= 3 else 0)
        assert found.get(key, []) == sorted(found.get(key, []))


@pytest.mark.parametrize(
    ("configured", "shares", "ends"),
    [(0.0, (0.0, 0.1, 1.0), ("0", "0.01")), ("auto", (1.0, 0.0, 0.5), ("0.001", "auto"))],
)
def test_a_configured_value_that_no_logarithmic_axis_shows(
    tmp_path: Path, configured: Any, shares: tuple[float, ...], ends: tuple[str, str]
) -> None:
    """The baseline's value of a key that is drawn on a logarithmic scale: 0, or text."""
    space = {"weight_decay": {"loguniform": [0.001, 0.01]}, "n_layers": {"grid": [1]}}
    tried = [
        ({"weight_decay": value, "n_layers": 1}, 0.1 * place, "finished")
        for place, value in enumerate((configured, 0.001, 0.01))
    ]
    found = read(add_sweep(tmp_path / "s", space, tried))
    over, _, parallel = only_charts(experiment_charts(found, Palette()))
    assert not over.log_x
    heights = {series.name: series.y[0] for series in parallel.series}
    assert [heights[f"trial {n}"] for n in (1, 2, 3)] == pytest.approx(shares)
    assert tuple(label.text for label in parallel.labels[:2]) == ends
    paths = write_plots(tmp_path / "plots", [over, parallel])
    assert all(path.stat().st_size for path in paths)
