"""Type and range of every setting of a run.

Kinds only restrict values; defaults are only in the YAML files. A key that is not listed belongs to
a third party's model, which checks it. Numbers also have upper limits far above any use, so that a
slip such as 1e38 is a one-line error and not an overflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from typing_extensions import NotRequired, TypedDict

from recbole_qbert.config.fields import STRICT, Fields

Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Number = Annotated[int, Field(ge=0, le=1_000_000_000)]
Layers = Annotated[int, Field(ge=1, le=1024)]
Width = Annotated[int, Field(ge=1, le=65536)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # NumPy's range
Positive = Annotated[float, Field(gt=0, le=1e6)]
Weight = Annotated[float, Field(ge=0, le=1e6)]
Rate = Annotated[float, Field(gt=0, le=10)]
Small = Annotated[float, Field(gt=0, le=1)]
Chance = Annotated[float, Field(ge=0, le=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Text = Annotated[str, Field(min_length=1)]
Auto = Literal["auto"]
_BOUNDS = r"^([\[(](-inf|-?[\d.]+),(inf|-?[\d.]+)[\])];?)+$"
Interval = Annotated[str, Field(pattern=_BOUNDS, examples=["'[5,inf)'"])]
Table = Annotated[str, Field(pattern=r"^[\w-]+$", examples=["text"])]
Tables = Annotated[str, Field(pattern=r"^[\w-]+(,\s*[\w-]+)*$", examples=["text,image"])]
_LEVELS = r"^(?i:debug|info|warning|error|critical)$"
Level = Annotated[str, Field(pattern=_LEVELS, examples=["INFO", "warning"])]


def _mapping(name: str, required: Mapping[str, Any], **optional: Any) -> Any:
    """Return the type of a mapping with these keys and no others."""
    keys = {**required, **{key: NotRequired[kind] for key, kind in optional.items()}}
    return _typed_dict(name, keys, STRICT, total=True)


def _typed_dict(name: str, keys: Mapping[str, Any], config: ConfigDict, total: bool) -> Any:
    make: Any = TypedDict
    made = make(name, keys, total=total)
    made.__pydantic_config__ = config
    return made


MaskMix = _mapping(
    "MaskMix", {}, **dict.fromkeys(["random", "span", "tail", "multi_region", "next_item"], Weight)
)
MaskRatios = _mapping(
    "MaskRatios", {}, **dict.fromkeys(["random", "span", "tail", "multi_region"], Small)
)
# Arguments of PyTorch's `clip_grad_norm_`.
Clipping = _mapping(
    "Clipping", {"max_norm": Positive}, norm_type=Annotated[float, Field(ge=1, le=100)]
)
# The only split is leave-one-out, and the only ranking that of the whole catalog. `split` and
# `order` are required, because RecBole's defaults are a split by ratio and a random order.
LeaveOneOut = _mapping("LeaveOneOut", {"LS": Literal["valid_and_test"]})
Modes = _mapping("Modes", {}, valid=Literal["full"], test=Literal["full"])
EvalArgs = _mapping(
    "EvalArgs",
    {"split": LeaveOneOut, "order": Literal["TO"]},
    mode=Literal["full"] | Modes,
    group_by=Literal["user"],
)
# Sampling of negatives for pairwise losses; `none` is RecBole's spelling of None.
Negatives = _mapping(
    "Negatives",
    {},
    distribution=Literal["uniform", "popularity", "none"],
    sample_num=Count | Literal["none"],
    alpha=Positive | Literal["none"],
    dynamic=bool,
    candidate_num=Number,
)

# Keys by the kind of their values, then all other keys.
_KEYS_OF_KIND: tuple[tuple[Any, str], ...] = (
    (
        bool,
        "reproducibility show_progress resume use_tuned use_gpu log_wandb save_dataset "
        "save_dataloaders repeatable valid_metric_bigger enable_amp enable_scaler shuffle "
        "trim_padding require_pow filter_inter_by_user_or_item joint_train use_out_emb use_ids "
        "use_content logq_correction gbce_offset freeze_encoder asymmetric alignment "
        "center_vectors",
    ),
    (bool | None, "normalize_all"),
    (
        Text,
        "model dataset data_path checkpoint_dir wandb_project valid_metric field_separator "
        "seq_separator encoding USER_ID_FIELD ITEM_ID_FIELD RATING_FIELD TIME_FIELD LABEL_FIELD "
        "NEG_PREFIX ITEM_LIST_LENGTH_FIELD LIST_SUFFIX POSITION_FIELD item_attribute",
    ),
    (Text | None, "dataset_save_path dataloaders_save_path semantic_id_file"),
    (list[Text] | None, "alias_of_user_id alias_of_item_id normalize_field"),
    (dict[Text, Text] | None, "val_interval preload_weight"),
    (dict[Text, list[Text]] | None, "load_col unload_col unused_col"),
    (Interval | None, "user_inter_num_interval item_inter_num_interval"),
    (
        Count,
        "nproc eval_batch_size save_step high_order interest_size k_interests kernel_size n_facet "
        "n_facet_all n_facet_hidden nh nv order_len prototype_size "
        "short_item_length step n_negatives n_experts reassign_epochs sinkhorn_iterations "
        "cluster_passes beam_size text_levels image_levels n_clusters max_leaf visual_tokens",
    ),
    (Count | Auto, "eval_step epochs train_batch_size"),
    (
        Number,
        "metric_decimal_place loss_decimal_place steps_per_epoch valid_users pretrain_epochs "
        "context_norm n_facet_context n_facet_emb n_facet_reranker whitening_dims "
        "user_tokens prompt_tokens exact_rows adapter_reduction",
    ),
    (Number | Auto, "stopping_step softmax_samples"),
    (Number | bool, "post_remove_context use_proj_bias"),
    (Annotated[int, Field(ge=-1024, le=1024)], "n_facet_MLP n_facet_window"),
    (Layers, "n_layers n_decoder_layers n_heads num_layers block_num"),
    (Width, "hidden_size inner_size embedding_size head_size"),
    (
        Dropout,
        "warmup_ratio attn_dropout_prob dropout_prob row_dropout_prob code_dropout_prob "
        "label_smoothing item_dropout sess_dropout adapter_dropout_prob item_drop_prob",
    ),
    (Chance, "ft_ratio domain_balance weight gbce_t negative_power code_replace_prob"),
    (Small, "layer_norm_eps mask_ratio interest_ratio pretrain_interest_ratio recency"),
    (Positive, "temperature tau_ratio sinkhorn_temperature"),
    (
        Weight,
        "code_loss_weight aap_weight mip_weight map_weight sp_weight alpha reg_loss_ratio "
        "orthogonality_weight sequence_loss_weight new_item_bonus popularity_discount "
        "logit_adjustment",
    ),
    (Literal["replace", "add"], "partition_merging_mode reranker_merging_mode"),
    (Literal["average", "max"], "pooling_type pooling_type_layer_1 pooling_type_layer_2"),
)
_OTHER_KEYS: dict[str, Any] = {
    "seed": Seed,
    "cold_items": Dropout,
    "cold_seed": Seed,
    "cold_targets": Literal["test", "valid"],
    "cold_interactions": Literal["drop", "keep"],
    "softmax_items": Literal["all", "trained"],
    "state": Level,
    "gpu_id": Number | str | tuple[Number, ...],
    "worker": Annotated[int, Field(ge=0, le=1024)],
    "eval_args": EvalArgs,
    "metrics": Text | Annotated[list[Text], Field(min_length=1)],
    "topk": Count | Annotated[list[Count], Field(min_length=1)],
    "learner": Literal["adam", "adamw", "sgd", "adagrad", "rmsprop"],
    "learning_rate": Rate | Auto,
    "weight_decay": Annotated[float, Field(ge=0, le=10)],
    "lr_decay": Literal["none", "linear", "cosine"],
    "clip_grad_norm": Clipping | None,
    "batch_by": Literal["row", "user"],
    "augmentation": Literal["none", "windows", "prefix"],
    "loss_type": Literal["CE", "BPR", "none"],
    "train_neg_sample_args": Negatives | Literal["None"] | None,
    "transform": Literal["mask_itemseq", "inverse_itemseq"] | None,
    "MAX_ITEM_LIST_LENGTH": Annotated[int, Field(ge=1, le=1_000_000)],
    "seq_len": dict[Text, Count] | None,
    "threshold": dict[Text, Annotated[float, Field(ge=-1e12, le=1e12)]] | None,
    "numerical_features": list[Text],
    "additional_feat_suffix": Text | list[Text] | None,
    "rm_dup_inter": Literal["first", "last"] | None,
    "discretization": dict[Text, dict[str, Any]] | None,
    "benchmark_filename": Annotated[list[Text], Field(min_length=3, max_length=3)] | None,
    "hidden_dropout_prob": Dropout | Auto,
    "dropout_probs": Annotated[list[Dropout], Field(min_length=2, max_length=2)],
    "hidden_act": Literal["gelu", "relu", "swish", "tanh", "sigmoid"],
    "initializer_range": Rate,
    "reg_weight": Weight | list[Weight],
    "selected_features": Annotated[list[Text], Field(min_length=1)],
    "pooling_mode": Literal["mean", "max", "sum"],
    "layer_norm": Literal["post", "pre"],
    "position_order": Literal["forward", "backward"],
    "item_representation": Literal["compose", "hybrid", "word", "flatten", "id"],
    "attention_bias": Literal["none", "codes"],
    "word_init": Literal["codes", "random"],
    "exclude_visible": Literal["auto", "on", "off"] | bool,
    "mask_mix": MaskMix | Auto,
    "mask_ratios": MaskRatios,
    "score": Literal["dot", "cosine"],
    "ranking": Literal["beam", "exact"],
    "languages": Literal["text", "image", "both"],
    "leaf_tokens": Literal["shared", "item"],
    "id_base": Annotated[int, Field(ge=2, le=1_000_000)],
    "frozen": Literal["none", "tables", "backbone"],
    "item_vectors": dict[Text, Text] | list[Table] | Tables | None,
    "layers": Literal["ligr", "sasrec"],
    "loss": Literal["ce", "sampled_softmax", "gbce"],
    "fusion": Literal["shared", "item", "mean"],
    "mask_context": Literal["none", "previous"],
    "train_stage": Literal["pretrain", "finetune"],
    "pre_model_path": str | None,
    "pre_model_codes": Literal["auto", "load", "skip"],
    "tie_break": Literal["first", "popularity"],
    "pretrain_batch_size": Count | None,
    "reassign": Literal["none", "learned", "random"],
    "dilations": Annotated[list[Count], Field(min_length=1)],
    "dnn_type": Literal["trm", "ave"],
    "reranker_CAN_NUM": Count | Text,
    "weight_mode": Literal["", "dynamic", "static", "max_logits"],
}
_KINDS = {key: kind for kind, keys in _KEYS_OF_KIND for key in keys.split()} | _OTHER_KEYS
_LENIENT = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)
RUN = Fields(_typed_dict("RunSettings", _KINDS, _LENIENT, total=False))
