"""Rules between settings of a run, and refusal of settings that have no effect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_qbert.common.errors import InputError, did_you_mean
from recbole_qbert.evaluation.ranking import METRICS, UNSEEN, metric_names
from recbole_qbert.registry import model_entry

# RecBole's keys that nothing here reads -> (accepted values, reason). The accepted values describe
# the actual behavior. A key without accepted values is always refused.
NO_EFFECT: dict[str, tuple[tuple[Any, ...], str]] = {
    "alias_of_entity_id": ((None,), "no model here reads a knowledge graph"),
    "alias_of_relation_id": ((None,), "no model here reads a knowledge graph"),
    "config_file": ((), "the files are named by config_files"),
    "config_files": ((), "files are named on the command line alone"),
    "dataloaders_save_path": ((None,), "pickles are never read"),
    "dataset_save_path": ((None,), "pickles are never read"),
    "device": ((), "use_gpu and gpu_id choose it"),
    "entity_kg_num_interval": ((None, "[0,inf)"), "no model here reads a knowledge graph"),
    "kg_reverse_r": ((False,), "no model here reads a knowledge graph"),
    "metric_decimal_place": ((4,), "metrics are not rounded"),
    "preload_weight": ((None,), "no model here reads it; see item_vectors"),
    "relation_kg_num_interval": ((None, "[0,inf)"), "no model here reads a knowledge graph"),
    "repeatable": ((True,), "both rankings, with and without seen items, are always made"),
    "require_pow": ((False,), "no model here reads it"),
    "save_dataloaders": ((False,), "pickles are never written"),
    "save_dataset": ((False,), "pickles are never written"),
    "save_step": ((50,), "the first stage of S3Rec keeps its last epoch"),
    "threshold": ((None,), "labels play no part in a ranking"),
    "valid_metric_bigger": ((True,), "all metrics here are better when bigger"),
}
# Losses of the models that do not support both CE and BPR.
LOSSES = {"FPMC": ("BPR",)} | dict.fromkeys(
    ("BERT4RecFixed", "CORE", "GRU4RecCPR", "SASRecCPR"), ("CE",)
)


def check_rules(settings: Mapping[str, Any]) -> None:
    """Check rules that concern several settings, or one setting of some models.

    Args:
        settings: all settings of a run; types and ranges are checked already.

    Raises:
        InputError: names the keys and the remedy.
    """
    _check_metrics(settings)
    _check_widths(settings)
    # PyTorch's encoder layer, which QBERT4Rec uses, supports only these.
    if "layer_norm" in settings and settings["hidden_act"] not in ("gelu", "relu"):
        raise InputError(f"hidden_act: {settings['hidden_act']!r} is none of gelu, relu")
    mix = settings.get("mask_mix")
    if isinstance(mix, Mapping) and not sum(mix.values()):
        raise InputError(f"mask_mix: {mix}: one weight must be above 0")
    epochs, step = settings.get("epochs"), settings.get("eval_step")
    # A first stage, such as S3Rec's, has nothing to evaluate.
    two_stages = model_entry(settings["model"]).first_stage
    first_stage = two_stages and settings.get("train_stage") == "pretrain"
    if isinstance(epochs, int) and isinstance(step, int) and step > epochs and not first_stage:
        raise InputError(
            f"eval_step: {step} epochs between evaluations, but only {epochs} epochs; one of them "
            "must change"
        )
    if settings.get("enable_scaler") and not settings.get("enable_amp"):
        raise InputError("enable_scaler: has no effect without enable_amp: True")


def _check_metrics(settings: Mapping[str, Any]) -> None:
    metrics, topk = settings["metrics"], settings["topk"]
    metrics = [metrics] if isinstance(metrics, str) else metrics
    topk = [topk] if isinstance(topk, int) else topk
    for metric in metrics:
        if metric.lower() not in METRICS:
            hint = did_you_mean(metric, METRICS)
            raise InputError(f"metrics: {metric!r} is none of {', '.join(METRICS)}{hint}")
    names = metric_names(metrics, topk)
    if len(set(names)) < len(names):
        raise InputError(f"metrics, topk: {metrics}, {topk}: each is given once")
    names += [UNSEEN + name for name in names]
    chosen = settings["valid_metric"]
    if chosen.lower() not in names:
        hint = did_you_mean(chosen, names)
        raise InputError(f"valid_metric: {chosen!r} is none of {', '.join(names)}{hint}")


def _check_widths(settings: Mapping[str, Any]) -> None:
    heads = settings.get("n_heads")
    for key in ("hidden_size", "embedding_size"):
        width = settings.get(key)
        if isinstance(width, int) and heads and width % heads:
            raise InputError(
                f"{key} {width} is not a multiple of n_heads {heads}; change one of them"
            )
        if width is not None:
            return


def check_effect(given: Mapping[str, Any]) -> None:
    """Check that no key of RecBole is set to a value that would have no effect.

    Args:
        given: the user's settings.

    Raises:
        InputError: names the key and the reason.
    """
    for key, (values, reason) in NO_EFFECT.items():
        if key in given and given[key] not in values:
            raise InputError(f"{key}: has no effect here: {reason}; leave it out")
