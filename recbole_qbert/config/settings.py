"""`RunSettings`: type and range of every setting of a run.

Fields only restrict values; defaults are only in the YAML files. A key without a field belongs to a
third party's model, which checks it. Numbers also have upper limits far above any use, so that a
slip such as 1e38 is a one-line error and not an overflow.
"""

from __future__ import annotations

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
Interval = Annotated[
    str, Field(pattern=r"^([\[(](-inf|-?[\d.]+),(inf|-?[\d.]+)[\])];?)+$", examples=["'[5,inf)'"])
]
Level = Annotated[
    str,
    Field(pattern=r"^(?i:debug|info|warning|error|critical)$", examples=["INFO", "warning"]),
]
Finite = Annotated[float, Field(ge=-1e12, le=1e12)]
Whole = Annotated[int, Field(ge=-1024, le=1024)]
Auto = Literal["auto"]
Columns = dict[Text, list[Text]]


class MaskMix(TypedDict):
    """Weights of the masking schemes."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    random: NotRequired[Weight]
    span: NotRequired[Weight]
    tail: NotRequired[Weight]
    multi_region: NotRequired[Weight]
    next_item: NotRequired[Weight]


class MaskRatios(TypedDict):
    """Shares of a sequence's items that the schemes mask."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    random: NotRequired[Small]
    span: NotRequired[Small]
    tail: NotRequired[Small]
    multi_region: NotRequired[Small]


class Clipping(TypedDict):
    """Arguments of PyTorch's `clip_grad_norm_`."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    max_norm: Positive
    norm_type: NotRequired[Annotated[float, Field(ge=1, le=100)]]


class LeaveOneOut(TypedDict):
    """The only supported split: each user's last item is for test, the one before it for valid."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    LS: Literal["valid_and_test"]


class Modes(TypedDict):
    """Evaluation modes; only full ranking of the catalog is supported."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    valid: NotRequired[Literal["full"]]
    test: NotRequired[Literal["full"]]


class EvalArgs(TypedDict):
    """RecBole's evaluation protocol.

    `split` and `order` are required, because RecBole's defaults are a split by ratio and a random
    order.
    """

    __pydantic_config__ = STRICT  # type: ignore[misc]

    split: LeaveOneOut
    order: Literal["TO"]
    mode: NotRequired[Literal["full"] | Modes]
    group_by: NotRequired[Literal["user"]]


class Negatives(TypedDict):
    """Sampling of negatives for pairwise losses; `none` is RecBole's spelling of None."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    distribution: NotRequired[Literal["uniform", "popularity", "none"]]
    sample_num: NotRequired[Count | Literal["none"]]
    alpha: NotRequired[Positive | Literal["none"]]
    dynamic: NotRequired[bool]
    candidate_num: NotRequired[Number]


class RunSettings(TypedDict, total=False):
    """All settings of `run`, `pretrain`, `tune`, `benchmark` and RecBole's own run."""

    __pydantic_config__ = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)  # type: ignore[misc]

    # The run
    model: Text
    dataset: Text
    data_path: Text
    checkpoint_dir: Text
    seed: Seed
    reproducibility: bool
    state: Level
    show_progress: bool
    resume: bool
    use_tuned: bool
    use_gpu: bool
    gpu_id: Number | str | tuple[Number, ...]
    nproc: Count
    worker: Annotated[int, Field(ge=0, le=1024)]
    log_wandb: bool
    wandb_project: Text
    save_dataset: bool
    save_dataloaders: bool
    dataset_save_path: Text | None
    dataloaders_save_path: Text | None

    # Evaluation
    eval_args: EvalArgs
    repeatable: bool
    metrics: Text | Annotated[list[Text], Field(min_length=1)]
    topk: Count | Annotated[list[Count], Field(min_length=1)]
    valid_metric: Text
    valid_metric_bigger: bool
    eval_batch_size: Count
    eval_step: Count | Auto
    stopping_step: Number | Auto
    metric_decimal_place: Number
    loss_decimal_place: Number

    # Training
    epochs: Count | Auto
    train_batch_size: Count | Auto
    learner: Literal["adam", "adamw", "sgd", "adagrad", "rmsprop"]
    learning_rate: Rate | Auto
    weight_decay: Annotated[float, Field(ge=0, le=10)]
    warmup_ratio: Dropout
    lr_decay: Literal["none", "linear", "cosine"]
    clip_grad_norm: Clipping | None
    enable_amp: bool
    enable_scaler: bool
    shuffle: bool
    batch_by: Literal["row", "user"]
    trim_padding: bool
    augmentation: Literal["none", "windows", "prefix"]
    loss_type: Literal["CE", "BPR", "none"]
    train_neg_sample_args: Negatives | Literal["None"] | None
    transform: Literal["mask_itemseq", "inverse_itemseq"] | None
    require_pow: bool

    # Data
    field_separator: Text
    seq_separator: Text
    encoding: Text
    USER_ID_FIELD: Text
    ITEM_ID_FIELD: Text
    RATING_FIELD: Text
    TIME_FIELD: Text
    LABEL_FIELD: Text
    NEG_PREFIX: Text
    ITEM_LIST_LENGTH_FIELD: Text
    LIST_SUFFIX: Text
    POSITION_FIELD: Text
    MAX_ITEM_LIST_LENGTH: Annotated[int, Field(ge=1, le=1_000_000)]
    seq_len: dict[Text, Count] | None
    threshold: dict[Text, Finite] | None
    numerical_features: list[Text]
    load_col: Columns | None
    unload_col: Columns | None
    unused_col: Columns | None
    additional_feat_suffix: Text | list[Text] | None
    rm_dup_inter: Literal["first", "last"] | None
    val_interval: dict[Text, Text] | None
    filter_inter_by_user_or_item: bool
    user_inter_num_interval: Interval | None
    item_inter_num_interval: Interval | None
    alias_of_user_id: list[Text] | None
    alias_of_item_id: list[Text] | None
    preload_weight: dict[Text, Text] | None
    normalize_field: list[Text] | None
    normalize_all: bool | None
    discretization: dict[Text, dict[str, Any]] | None
    benchmark_filename: Annotated[list[Text], Field(min_length=3, max_length=3)] | None
    semantic_id_file: Text | None
    item_vectors: dict[Text, Text] | None

    # Sizes and dropout of several models
    n_layers: Layers
    n_heads: Layers
    num_layers: Layers
    hidden_size: Width
    inner_size: Width
    embedding_size: Width
    hidden_dropout_prob: Dropout | Auto
    attn_dropout_prob: Dropout
    dropout_prob: Dropout
    dropout_probs: Annotated[list[Dropout], Field(min_length=2, max_length=2)]
    hidden_act: Literal["gelu", "relu", "swish", "tanh", "sigmoid"]
    layer_norm_eps: Small
    initializer_range: Rate
    mask_ratio: Small
    ft_ratio: Chance
    temperature: Positive
    reg_weight: Weight | list[Weight]
    selected_features: Annotated[list[Text], Field(min_length=1)]
    pooling_mode: Literal["mean", "max", "sum"]

    # QBERT4Rec
    layer_norm: Literal["post", "pre"]
    position_order: Literal["forward", "backward"]
    item_representation: Literal["compose", "hybrid", "word", "flatten", "id"]
    word_init: Literal["codes", "random"]
    row_dropout_prob: Dropout
    code_dropout_prob: Dropout
    exclude_visible: Literal["auto", "on", "off"] | bool
    mask_mix: MaskMix | Auto
    mask_ratios: MaskRatios
    score: Literal["dot", "cosine"]
    mask_context: Literal["none", "previous"]
    code_loss_weight: Weight
    softmax_samples: Number | Auto
    label_smoothing: Dropout
    train_stage: Literal["pretrain", "finetune"]
    pre_model_path: str | None
    pre_model_codes: Literal["auto", "load", "skip"]
    domain_balance: Chance
    steps_per_epoch: Number
    valid_users: Number

    # BigramChain
    tie_break: Literal["first", "popularity"]

    # S3Rec
    item_attribute: Text
    aap_weight: Weight
    mip_weight: Weight
    map_weight: Weight
    sp_weight: Weight
    pretrain_epochs: Number
    pretrain_batch_size: Count | None
    save_step: Count

    # Other models of RecBole
    alpha: Weight
    block_num: Layers
    context_norm: Number
    dilations: Annotated[list[Count], Field(min_length=1)]
    dnn_type: Literal["trm", "ave"]
    high_order: Count
    interest_size: Count
    item_dropout: Dropout
    joint_train: bool
    k_interests: Count
    kernel_size: Count
    n_facet: Count
    n_facet_MLP: Whole
    n_facet_all: Count
    n_facet_context: Number
    n_facet_emb: Number
    n_facet_hidden: Count
    n_facet_reranker: Number
    n_facet_window: Whole
    nh: Count
    nv: Count
    order_len: Count
    partition_merging_mode: Literal["replace", "add"]
    pooling_type: Literal["average", "max"]
    pooling_type_layer_1: Literal["average", "max"]
    pooling_type_layer_2: Literal["average", "max"]
    post_remove_context: Number | bool
    prototype_size: Count
    reg_loss_ratio: Weight
    reranker_CAN_NUM: Count | Text
    reranker_merging_mode: Literal["replace", "add"]
    sess_dropout: Dropout
    short_item_length: Count
    step: Count
    tau_ratio: Positive
    use_out_emb: bool
    use_proj_bias: Number | bool
    weight: Chance
    weight_mode: Literal["", "dynamic", "static", "max_logits"]


RUN = Fields(RunSettings)
