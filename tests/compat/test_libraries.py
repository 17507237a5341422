"""Workarounds of NumPy, SciPy and Ray, and of their warnings, against the upstream facts."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas.io.formats.format as pandas_format
import pytest
from recbole.config import Config
from scipy.sparse import dok_matrix
from workarounds import LENT, apply_workarounds, build  # noqa: F401

from recbole_qbert.compat import ray, recbole


def test_numpy_lends_the_names_that_a_config_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under NumPy 2, whatever is installed here."""
    for name in LENT:
        monkeypatch.delattr(np, name, raising=False)
    read: list[Any] = []

    def compatibility_settings(self: Any) -> None:
        read.extend(getattr(np, name) for name in LENT)

    monkeypatch.setattr(Config, "compatibility_settings", compatibility_settings)
    recbole.lend_numpy_names()
    build()
    assert read == [np.float64, np.complex128, np.str_]
    assert not any(hasattr(np, name) for name in LENT)


def test_a_numpy_that_has_the_names_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def native(self: Any) -> None:
        raise NotImplementedError

    for name in LENT:
        monkeypatch.setattr(np, name, object(), raising=False)
    monkeypatch.setattr(Config, "compatibility_settings", native)
    recbole.lend_numpy_names()
    assert Config.compatibility_settings is native


def test_dok_update_sets_the_cells_recbole_asks_for() -> None:
    # LightGCN's graph for user 0 with items 0 and 1, user 1 with item 1: both directions.
    rows, columns = np.array([0, 0, 1]), np.array([0, 1, 1])
    cells = dict(zip(zip(rows, columns + 2, strict=True), [1] * 3, strict=True))
    cells.update(dict(zip(zip(columns + 2, rows, strict=True), [1] * 3, strict=True)))
    matrix = dok_matrix((4, 4), dtype=np.float32)
    matrix._update(cells)
    expected = [[0, 0, 1, 1], [0, 0, 0, 1], [1, 0, 0, 0], [1, 1, 0, 0]]
    assert matrix.toarray().tolist() == expected
    assert matrix.dtype == np.float32
    assert (matrix > 0).sum(axis=1).ravel().tolist() == [[2, 1, 1, 2]]


def test_dok_update_of_an_older_scipy_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def native(self: Any, data: Any) -> None:
        raise NotImplementedError

    monkeypatch.setattr(dok_matrix, "_update", native)
    recbole.restore_dok_update()
    assert dok_matrix._update is native


KNOWN = (
    ("`torch.cuda.amp.GradScaler(args...)` is deprecated.", FutureWarning, "recbole.trainer.x"),
    ("`torch.cuda.amp.autocast(args...)` is deprecated.", FutureWarning, "recbole.trainer.x"),
    (
        "A value is trying to be set on a copy of a DataFrame or Series through chained "
        "assignment using an inplace method.\nThe behavior will change",
        FutureWarning,
        "recbole.data.dataset.dataset",
    ),
    ("pkg_resources is deprecated as an API. See", UserWarning, "ray._private.parameter"),
    ("`np.bool8` is a deprecated alias for `np.bool_`.", DeprecationWarning, "ray.tune.logger"),
)


@pytest.mark.parametrize(("message", "category", "module"), KNOWN)
@pytest.mark.parametrize("from_upstream", [True, False])
def test_only_upstream_warnings_are_silenced(
    message: str,
    category: type[Warning],
    module: str,
    from_upstream: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        monkeypatch.setattr(ray, "is_old", lambda: True)
        recbole.silence_known_warnings()
        ray.silence_known_warnings()
        source = module if from_upstream else "my_model"
        warnings.warn_explicit(message, category, "file.py", 1, module=source)
    assert len(caught) == (0 if from_upstream else 1)


@pytest.mark.parametrize(
    ("version", "old"), [("2.6.3", True), ("2.45.0", False), ("2.60.0", False), (None, False)]
)
def test_what_ray_is_the_old_one(
    version: str | None, old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def installed(name: str) -> str:
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", installed)
    assert ray.is_old() is old


def test_nothing_is_done_for_a_current_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_old", lambda: False)
    monkeypatch.delattr(pandas_format, "ExtensionArrayFormatter", raising=False)
    filters, modules = list(warnings.filters), set(sys.modules)
    ray.silence_known_warnings()
    ray.lend_packaging()
    ray.restore_pandas_formatter()
    assert (warnings.filters, set(sys.modules)) == (filters, modules)
    assert not hasattr(pandas_format, "ExtensionArrayFormatter")


def test_recbole_reports_to_a_current_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """RecBole calls `tune.report(**metrics)`; Ray takes one mapping since 2.45."""
    reported: list[Any] = []
    module = SimpleNamespace(tune=SimpleNamespace(report=reported.append))
    monkeypatch.setitem(sys.modules, "recbole.quick_start.quick_start", module)
    monkeypatch.setattr(ray, "is_old", lambda: True)
    ray.let_recbole_report()
    assert module.tune.report == reported.append
    monkeypatch.setattr(ray, "is_old", lambda: False)
    for _ in range(2):
        ray.let_recbole_report()
    module.tune.report(**{"ndcg@10": 0.5, "hit@10": 1.0})
    assert reported == [{"ndcg@10": 0.5, "hit@10": 1.0}]
