"""Rules between settings of a run, and refusal of settings that have no effect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole.utils import InputType

from recbole_qbert.common.errors import InputError, one_of
from recbole_qbert.common.output import counted
from recbole_qbert.evaluation.ranking import METRICS, UNSEEN, metric_names
from recbole_qbert.registry import model_entry

_GRAPH, _LOG = "no model here reads a knowledge graph", "RecBole's log is off"
# RecBole's keys that nothing here reads -> (accepted values, reason). The accepted values describe
# the actual behavior. A key without accepted values is always refused.
NO_EFFECT: dict[str, tuple[tuple[Any, ...], str]] = {
    "alias_of_entity_id": ((None,), _GRAPH),
    "alias_of_relation_id": ((None,), _GRAPH),
    "config_file": ((), "the key is config_files"),
    "config_files": ((), "it is read only from the command line"),
    "dataloaders_save_path": ((None,), "pickles are never read"),
    "dataset_save_path": ((None,), "pickles are never read"),
    "device": ((), "use_gpu and gpu_id choose it"),
    "entity_kg_num_interval": ((None, "[0,inf)"), _GRAPH),
    "kg_reverse_r": ((False,), _GRAPH),
    "metric_decimal_place": ((4,), "metrics are not rounded"),
    "preload_weight": ((None,), "no model here reads it; see item_vectors"),
    "relation_kg_num_interval": ((None, "[0,inf)"), _GRAPH),
    "repeatable": ((True,), "both rankings, with and without seen items, are always computed"),
    "require_pow": ((False,), "no model here reads it"),
    "save_dataloaders": ((False,), "pickles are never written"),
    "save_dataset": ((False,), "pickles are never written"),
    "save_step": ((50,), "only the last epoch of S3Rec's first stage is saved"),
    "threshold": ((None,), "rankings do not use labels"),
    "valid_metric_bigger": ((True,), "larger values of all metrics are better"),
}
# Keys that have an effect only in RecBole's own run, with the reason.
NOT_HERE = dict.fromkeys(("state", "loss_decimal_place"), _LOG) | dict.fromkeys(
    ("world_size", "ip", "port", "offset", "local_rank", "queue"), "nproc starts processes"
)
# Losses of the models that do not support both CE and BPR. A class can also list its own in
# `loss_types`.
_LOSSES = {"FPMC": ("BPR",)} | dict.fromkeys(
    ("BERT4RecFixed", "CORE", "GRU4RecCPR", "SASRecCPR"), ("CE",)
)


def check_rules(settings: Mapping[str, Any]) -> None:
    """Check rules that concern several settings, or one setting of some models.

    An `InputError` names the keys and the remedy. Types and ranges are checked already.
    """
    _check_metrics(settings)
    width = next((key for key in ("hidden_size", "embedding_size") if settings.get(key)), "")
    heads = settings.get("n_heads") if "head_size" not in settings else None
    if width and heads and settings[width] % heads:
        raise InputError(
            f"{width} {settings[width]} is not a multiple of n_heads {heads}; change one of them"
        )
    # PyTorch's encoder layer, which QBERT4Rec uses, supports only these.
    if "layer_norm" in settings:
        one_of("hidden_act", settings["hidden_act"], ("gelu", "relu"))
    mix = settings.get("mask_mix")
    if isinstance(mix, Mapping) and not sum(mix.values()):
        raise InputError(f"mask_mix: {mix}: at least one weight must be above 0")
    epochs, step = settings.get("epochs"), settings.get("eval_step")
    # A first stage, such as S3Rec's, has nothing to evaluate.
    two_stages = model_entry(settings["model"]).first_stage
    first_stage = two_stages and settings.get("train_stage") == "pretrain"
    if isinstance(epochs, int) and isinstance(step, int) and step > epochs and not first_stage:
        raise InputError(
            f"eval_step: {counted(step, 'epoch')} between evaluations, but only "
            f"{counted(epochs, 'epoch')}; change one of them"
        )
    if settings.get("cold_items") and settings.get("benchmark_filename"):
        raise InputError("cold_items: needs one .inter file; leave out benchmark_filename")
    if settings.get("enable_scaler") and not settings.get("enable_amp"):
        raise InputError("enable_scaler: has no effect without enable_amp: True")


def _check_metrics(settings: Mapping[str, Any]) -> None:
    metrics, topk = settings["metrics"], settings["topk"]
    metrics = [metrics] if isinstance(metrics, str) else metrics
    topk = [topk] if isinstance(topk, int) else topk
    for metric in metrics:
        if metric.lower() not in METRICS:
            one_of("metrics", metric, METRICS)
    names = metric_names(metrics, topk)
    if len(set(names)) < len(names):
        raise InputError(f"metrics, topk: {metrics}, {topk}: list each value once")
    chosen = settings["valid_metric"]
    if chosen.lower() in (*names, *(UNSEEN + name for name in names)):
        return
    ranking = chosen[: len(UNSEEN)] if chosen.lower().startswith(UNSEEN) else ""
    metric, _, cutoff = chosen[len(ranking) :].partition("@")
    if metric.lower() not in METRICS or not cutoff.isdecimal():
        one_of("valid_metric", chosen, [*names, *(UNSEEN + name for name in names)])
    lacks_metric = metric.lower() not in (each.lower() for each in metrics)
    lacks_cutoff = int(cutoff) not in topk
    other = f"{metrics[0] if lacks_metric else metric}@{topk[-1] if lacks_cutoff else cutoff}"
    additions = [f"{metric} to metrics"] * lacks_metric + [f"{cutoff} to topk"] * lacks_cutoff
    raise InputError(
        f"valid_metric: {chosen} is not computed with metrics {metrics} and topk {topk}; set "
        f"valid_metric={ranking}{other}, or add {' and '.join(additions)}"
    )


def check_effect(given: Mapping[str, Any]) -> None:
    """Raise an `InputError` if the user gives a key of RecBole a value that has no effect."""
    for key, (values, reason) in NO_EFFECT.items():
        if key in given and given[key] not in values:
            raise InputError(f"{key}: has no effect here: {reason}; leave it out")


def check_model_rules(
    model: str, keys: frozenset[str], settings: Mapping[str, Any], defaults: Mapping[str, Any]
) -> None:
    """Check settings that only some models support: loss, negatives, transform, masks.

    `keys` are those that the model's class reads, `defaults` the settings without the user's. An
    `InputError` names the key.
    """
    loss, transform = settings["loss_type"], settings["transform"]
    model_class = model_entry(model).model
    losses: tuple[str, ...] = _LOSSES.get(model, ("CE", "BPR"))
    losses = getattr(model_class, "loss_types", losses)
    if "loss_type" not in keys:
        losses = (defaults["loss_type"],)
    if loss not in losses:
        raise InputError(f"loss_type: {loss!r}: {model} supports only {' and '.join(losses)}")
    kind = getattr(model_class, "input_type", None)
    pairs = kind == InputType.PAIRWISE or (kind is None and loss == "BPR")
    drawn = settings["train_neg_sample_args"]
    none = drawn in (None, "None") or drawn.get("distribution") == "none"
    if pairs == none:
        verb = "requires" if pairs else "draws no"
        raise InputError(
            f"train_neg_sample_args: {model} with loss_type {loss} {verb} negatives; leave it out"
        )
    if transform != defaults["transform"]:
        own = defaults["transform"] or "none"
        raise InputError(f"transform: {transform!r}: {model} has {own}; leave it out")
    # RecBole allocates `mask_ratio * length` masks; with none of them the loss is NaN.
    length = settings["MAX_ITEM_LIST_LENGTH"]
    if transform == "mask_itemseq" and int(settings["mask_ratio"] * length) < 1:
        raise InputError(
            f"MAX_ITEM_LIST_LENGTH: {length} times mask_ratio {settings['mask_ratio']} leaves no "
            "item to mask; increase one of them"
        )
