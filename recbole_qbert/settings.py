"""`RunSettings`: the type and range of every setting of a run, and the rules between settings.

A field says what a value may be and nothing else: defaults are in the YAML files alone. A key that
has no field belongs to a third party's model, which checks it. Numbers have an upper end too, far
above any use, so that a slip (1e38) is one line and no overflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import NotRequired, TypedDict

from recbole_qbert.errors import InputError, did_you_mean
from recbole_qbert.evaluation.ranking import METRICS, UNSEEN, metric_names

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

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


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
    """The one split: a user's last item is the test's, the last but one valid's."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    LS: Literal["valid_and_test"]


class Modes(TypedDict):
    """The catalogue is ranked in full."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    valid: NotRequired[Literal["full"]]
    test: NotRequired[Literal["full"]]


class EvalArgs(TypedDict):
    """RecBole fills what is missing with a split by ratio, so split and order must be there."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    split: LeaveOneOut
    order: Literal["TO"]
    mode: NotRequired[Literal["full"] | Modes]
    group_by: NotRequired[Literal["user"]]


class Negatives(TypedDict):
    """How negatives are drawn for a loss over pairs of items; `none` is RecBole's word for None."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    distribution: NotRequired[Literal["uniform", "popularity", "none"]]
    sample_num: NotRequired[Count | Literal["none"]]
    alpha: NotRequired[Positive | Literal["none"]]
    dynamic: NotRequired[bool]
    candidate_num: NotRequired[Number]


class RunSettings(TypedDict, total=False):
    """Every setting of `run`, `pretrain`, `tune`, `benchmark`, `ablate` and RecBole's own run."""

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


WORDS = {"boolean": "True or False", "string": "text", "object": "a mapping", "null": "~"}
# What else to say of a wrong value.
HINTS = {
    "eval_args": "; leave it out",
    "eval_args.split": "; for another split make its parts with dataset_scripts/split.py",
    "eval_args.mode": "; the whole catalogue is ranked",
    "eval_args.order": "; a sequence is in order of time",
}

# RecBole's keys that nothing here reads -> the values that say what happens anyway, and why.
# Without a value the key is refused whenever it is given.
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
# Losses of the models that do not have both.
LOSSES = {"FPMC": ("BPR",)} | dict.fromkeys(
    ("BERT4RecFixed", "CORE", "GRU4RecCPR", "SASRecCPR"), ("CE",)
)


class Fields:
    """The fields of a class of settings, to check values by."""

    def __init__(self, settings: type):
        self._adapter: TypeAdapter[Any] = TypeAdapter(settings)
        self._schema = self._adapter.json_schema()

    def check(self, settings: Mapping[str, Any]) -> None:
        """Refuse the first value that is not of its key's type and range.

        Raises:
            InputError: names key, value and what may stand there.
        """
        try:
            self._adapter.validate_python(dict(settings))
        except ValidationError as error:
            raise InputError(self._said(error.errors()[0]["loc"], settings)) from None

    def allowed(self, key: str) -> dict[str, Any]:
        """The JSON schema of a key's values."""
        return self._resolved(self._schema["properties"][key])

    def keys(self) -> list[str]:
        """Names of all fields."""
        return list(self._schema["properties"])

    def keys_within(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The keys of the mapping that may stand there, and their schemas."""
        found: dict[str, Any] = {}
        for each in self.branches(schema):
            found |= each.get("properties", {})
        return {key: self._resolved(each) for key, each in found.items()}

    def branches(self, schema: dict[str, Any]) -> list[dict[str, Any]]:
        """A schema, or those of which one must hold."""
        return [self._resolved(each) for each in schema.get("anyOf", [schema])]

    def described(self, schema: dict[str, Any]) -> str:
        """What may stand there: `a number in (0, 1]`, `one of none, linear, cosine`."""
        parts = self.branches(schema)
        if len(parts) > 1:
            return " or ".join(self.described(each) for each in parts)
        schema = parts[0]
        choices = _choices(schema)
        if choices:
            return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
        kind = str(schema.get("type"))
        if kind == "integer":
            return f"a whole number from {schema['minimum']} to {schema['maximum']}"
        if kind == "number":
            return f"a number in {_interval(schema)}"
        if kind == "array":
            return f"a list, each {self.described(self._resolved(schema['items']))}"
        values = schema.get("additionalProperties")
        if kind == "object" and isinstance(values, dict):
            return f"a mapping, each {self.described(self._resolved(values))}"
        if schema.get("examples"):
            return f"text like {', '.join(schema['examples'])}"
        return WORDS[kind]

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        reference = schema.get("$ref")
        found: dict[str, Any] = schema
        if reference:
            found = self._schema["$defs"][reference.rpartition("/")[2]]
        return found

    def _said(self, place: tuple[int | str, ...], settings: Mapping[str, Any]) -> str:
        """What is wrong with the value at a place; branches of unions in it are no keys."""
        path = str(place[0])
        value, schema = settings[path], self.allowed(path)
        for part in (*place[1:], None):
            keys = self.keys_within(schema) if isinstance(value, Mapping) else {}
            for other in value if keys else ():
                if other not in keys:
                    hint = did_you_mean(str(other), keys) or f"; it has {', '.join(keys)}"
                    return f"{path}: unknown key '{other}'{hint}{HINTS.get(path, '')}"
            if part in keys:
                path, schema = f"{path}.{part}", keys[str(part)]
                if part not in value:
                    return f"{path}: is missing in {value!r}{HINTS.get(path, '')}"
                value = value[part]
        wanted = self.described(schema)
        choices = [word for each in self.branches(schema) for word in _choices(each)]
        hint = did_you_mean(value, choices) if isinstance(value, str) else ""
        wrong = f"none of {wanted[7:]}" if wanted.startswith("one of ") else f"not {wanted}"
        return f"{path}: {value!r} is {wrong}{hint or HINTS.get(path, '')}"


def _choices(schema: dict[str, Any]) -> list[str]:
    """The words that a schema lists."""
    return [
        str(each) for each in schema.get("enum", [schema["const"]] if "const" in schema else [])
    ]


def _interval(schema: dict[str, Any]) -> str:
    """`(0, 1]` of the bounds of a number."""
    least, most = schema.get("minimum"), schema.get("maximum")
    left = f"({schema['exclusiveMinimum']:g}" if least is None else f"[{least:g}"
    right = f"{schema['exclusiveMaximum']:g})" if most is None else f"{most:.12g}]"
    return f"{left}, {right}"


RUN = Fields(RunSettings)


# Rules between settings --------------------------------------------------------------------------


def check_rules(settings: Mapping[str, Any]) -> None:
    """Refuse what no key alone makes wrong.

    Args:
        settings: all of a run; each value is of its type and range.

    Raises:
        InputError: names the keys and what to change.
    """
    _check_metrics(settings)
    _check_widths(settings)
    # PyTorch's encoder layer, which QBERT4Rec is made of, knows no others.
    if "layer_norm" in settings and settings["hidden_act"] not in ("gelu", "relu"):
        raise InputError(f"hidden_act: {settings['hidden_act']!r} is none of gelu, relu")
    mix = settings.get("mask_mix")
    if isinstance(mix, Mapping) and not sum(mix.values()):
        raise InputError(f"mask_mix: {mix}: one weight must be above 0")
    epochs, step = settings.get("epochs"), settings.get("eval_step")
    # S3Rec's first stage has nothing to evaluate.
    first_stage = settings.get("model") == "S3Rec" and settings.get("train_stage") == "pretrain"
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
    """Refuse a key of RecBole's that would change nothing, where its value says otherwise.

    Args:
        given: what the user set.

    Raises:
        InputError: names the key and why.
    """
    for key, (values, reason) in NO_EFFECT.items():
        if key in given and given[key] not in values:
            raise InputError(f"{key}: has no effect here: {reason}; leave it out")
