"""Python interface: train and compare models, register models and metrics, recommend."""

from recbole_qbert.evaluation.ranking import register_metric
from recbole_qbert.experiments.run import run_model, run_models
from recbole_qbert.registry import register
from recbole_qbert.serving.recommender import Recommender

__all__ = ["Recommender", "register", "register_metric", "run_model", "run_models"]
