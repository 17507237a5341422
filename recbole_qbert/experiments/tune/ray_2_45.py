"""The names that `ray_adapter` needs from Ray Tune 2.45 and later."""

from __future__ import annotations

from typing import Any

from ray import tune

ENVIRONMENT = {"RAY_CHDIR_TO_TRIAL_DIR": "0"}
RunConfig, FailureConfig, report = tune.RunConfig, tune.FailureConfig, tune.report


def tune_config(**settings: Any) -> tune.TuneConfig:
    """Make a TuneConfig. `ENVIRONMENT` keeps trials in the working directory of their machine."""
    return tune.TuneConfig(**settings)
