"""Python interface: train and compare models, register a model, recommend from a bundle."""

from recbole_qbert.experiments.run import run_model, run_models
from recbole_qbert.registry import register
from recbole_qbert.serving.recommender import Recommender

__all__ = ["Recommender", "register", "run_model", "run_models"]
