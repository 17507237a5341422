"""The names that `ray_adapter` needs from Ray Tune 2.6.3."""

from __future__ import annotations

from typing import Any

from ray import air, tune
from ray.air import session

ENVIRONMENT = {"TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1"}
RunConfig, FailureConfig, report = air.RunConfig, air.FailureConfig, session.report


def tune_config(**settings: Any) -> tune.TuneConfig:
    """Make a TuneConfig that keeps trials in the working directory of their machine."""
    return tune.TuneConfig(chdir_to_trial_dir=False, **settings)
