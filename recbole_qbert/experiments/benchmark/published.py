"""Published test metrics of models on data sets, with all items ranked."""

from __future__ import annotations

from recbole_qbert.common.yaml_files import load_yaml
from recbole_qbert.config.build import shipped


def published_figures(dataset: str) -> dict[str, dict[str, float]]:
    """Published metrics, model -> metric -> value; empty if there are none for the data set."""
    content = load_yaml(shipped("published.yaml"))
    metrics = content["metrics"]
    return {
        model: dict(zip(metrics, figures, strict=True))
        for model, figures in content["figures"].get(dataset, {}).items()
    }


def published_source() -> str:
    """Source of the published metrics, and the conditions they were measured under."""
    return str(load_yaml(shipped("published.yaml"))["source"])
