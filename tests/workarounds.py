"""Fixture for tests of the workarounds, and a config of RecBole's own to try them on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from recbole.config import Config

from recbole_qbert import compat
from recbole_qbert.compat import recbole

VISIBLE = "CUDA_VISIBLE_DEVICES"
LENT = ("float_", "complex_", "unicode_")


@pytest.fixture(name="applied", autouse=True)
def apply_workarounds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(VISIBLE, "0")  # Config writes it; this puts it back after the test
    with warnings.catch_warnings():
        compat.apply()
        yield


def build(**settings: Any) -> Config:
    with recbole.isolated_argv():
        return Config("BPR", "ml-100k", config_dict=settings)
