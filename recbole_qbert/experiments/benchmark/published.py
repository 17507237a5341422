"""Figures that papers print for a model on a data set, all items ranked."""

from __future__ import annotations

from recbole_qbert.common.yaml_files import load_yaml
from recbole_qbert.config.build import shipped


def published_figures(dataset: str) -> dict[str, dict[str, float]]:
    """Model -> metric -> value; empty where nothing is known of the data set."""
    content = load_yaml(shipped("published.yaml"))
    metrics = content["metrics"]
    return {
        model: dict(zip(metrics, figures, strict=True))
        for model, figures in content["figures"].get(dataset, {}).items()
    }


def published_source() -> str:
    """Where the figures are from, and what to know of them."""
    return str(load_yaml(shipped("published.yaml"))["source"])
