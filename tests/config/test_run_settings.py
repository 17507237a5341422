"""The settings class: a field for each key, its ends, and what has no effect."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import recbole
import recbole_qbert.properties
from conftest import Tiny, files_below
from recbole.config import Config

from recbole_qbert.cli import main
from recbole_qbert.common.errors import InputError
from recbole_qbert.common.yaml_files import load_yaml, parse_value
from recbole_qbert.config.build import PRETRAIN, RECBOLE_UNLISTED, build_config, known_keys
from recbole_qbert.config.rules import NO_EFFECT, NOT_HERE
from recbole_qbert.config.settings import RUN
from recbole_qbert.registry import MODEL_TABLE, recbole_models

FOLDER = Path(recbole_qbert.properties.__path__[0])
FILES = [FOLDER / "base.yaml", FOLDER / "pretrain.yaml"]
FILES += [
    path for name in ("model", "dataset", "tuned") for path in sorted(FOLDER.glob(f"{name}/*"))
]
RECBOLE = Path(recbole.__file__).parent / "properties"


def schemas(schema: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """All that may stand under a key and under those within it, with the way there."""
    for branch in RUN.branches(schema):
        yield (), branch
        for key, inner in RUN.keys_within(branch).items():
            for way, each in schemas(inner):
                yield (key, *way), each


def numbers() -> list[tuple[str, tuple[str, ...], dict[str, Any]]]:
    """Every number in the class: its key, the way to it within the key, its schema."""
    found = []
    for key in RUN.keys():  # noqa: SIM118  no mapping
        for way, schema in schemas(RUN.allowed(key)):
            if schema.get("type") in ("integer", "number"):
                found.append((key, way, schema))
    return found


def below(way: tuple[str, ...], value: Any) -> Any:
    """`{span: value}` of the way ("span",)."""
    for part in reversed(way):
        value = {part: value}
    return value


def test_every_shipped_key_has_a_field_with_a_range() -> None:
    """Nothing is a mere word, number or mapping: paths, names and columns alone are text."""
    free = re.compile(
        r"metrics|valid_metric|item_attribute|selected_features|pre_model_path|semantic_id_file"
    )
    for path in FILES:
        for key, value in load_yaml(path).items():
            assert key in RUN.keys(), f"{path.name}: {key}"  # noqa: SIM118
            RUN.check({key: value})
            if not free.fullmatch(key):
                assert not any(
                    each == {"type": "string", "minLength": 1}
                    for each in RUN.branches(RUN.allowed(key))
                ), key


def test_recboles_own_defaults_are_in_range() -> None:
    """Of all its sequential models that run here; what has no field is another kind of model's."""
    files = [RECBOLE / "overall.yaml", RECBOLE / "dataset" / "sample.yaml"]
    files += [RECBOLE / "model" / f"{model.__name__}.yaml" for model in recbole_models()]
    others = {"TransRec", "STAMP"}  # embedding_size alone
    for path in files:
        content = {key: value for key, value in load_yaml(path).items() if key != "eval_args"}
        RUN.check({key: value for key, value in content.items() if key != "learner"})
        for key in content:
            assert key in {*RUN.keys(), *NO_EFFECT} or "_FIELD" in key, f"{path.name}: {key}"
        assert content or path.stem in others


@pytest.mark.slow
def test_every_key_that_recbole_takes_has_a_field_or_a_reason() -> None:
    """No key may be given that nothing checks."""
    derived = {"MODEL_TYPE", "MODEL_INPUT_TYPE", "eval_type", "single_spec", "local_rank"}
    derived |= {"MASK_INDEX", "MASK_ITEM_SEQ", "POS_ITEMS", "NEG_ITEMS", "INVERSE_ITEM_SEQ"}
    checked = {*RUN.keys(), *NO_EFFECT, *NOT_HERE, *derived}
    for model in [*MODEL_TABLE, *(each.__name__ for each in recbole_models())]:
        for key in known_keys(model) | known_keys(model, PRETRAIN):
            assert key in checked or "_FIELD" in key, f"{model}: {key}"
    assert checked >= RECBOLE_UNLISTED


@pytest.mark.parametrize(("key", "way", "schema"), numbers())
def test_the_ends_of_a_range(key: str, way: tuple[str, ...], schema: dict[str, Any]) -> None:
    """The ends are taken where they belong to it, and the next number outside never is."""
    whole = schema["type"] == "integer"
    required = {"norm_type": {"max_norm": 1.0}}.get(way[-1] if way else "", {})
    for end, inside, step in (
        (schema.get("minimum"), True, -1),
        (schema.get("exclusiveMinimum"), False, -1),
        (schema.get("maximum"), True, 1),
        (schema.get("exclusiveMaximum"), False, 1),
    ):
        if end is None:
            continue
        outside = end + step if whole else math.nextafter(end, end + step)
        if inside:
            RUN.check({key: below(way, end) | required if way else end})
        for wrong in [outside, *[end] * (not inside)]:
            with pytest.raises(InputError, match=rf"^{key}") as caught:
                RUN.check({key: below(way, wrong) | required if way else wrong})
            assert repr(wrong) in str(caught.value)
    assert {"minimum", "exclusiveMinimum"} & schema.keys()
    assert {"maximum", "exclusiveMaximum"} & schema.keys()


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, 1e38, -1e38, "x", True, None, []])
def test_what_no_number_may_be(wrong: Any) -> None:
    for key, way, _ in numbers():
        branches = RUN.branches(RUN.allowed(key))
        if any(each.get("type") in ("boolean", "string", "null", "array") for each in branches):
            continue  # may be so
        with pytest.raises(InputError, match=rf"^{key}"):
            RUN.check({key: below(way, wrong)})


@pytest.mark.parametrize(
    "key",
    ["train_batch_size", "epochs", "eval_step", "stopping_step", "softmax_samples",
     "hidden_dropout_prob", "mask_mix", "learning_rate"],
)  # fmt: skip
def test_auto(key: str) -> None:
    """A word in place of a number."""
    RUN.check({key: "auto"})
    with pytest.raises(InputError, match="did you mean 'auto'"):
        RUN.check({key: "atuo"})


# What trials gave, and what is like it.
REFUSED = {
    "clip_grad_norm={max_norm: -1}": "clip_grad_norm.max_norm: -1 is not a number in (0, 1000000]",
    "clip_grad_norm={max_norm: 0}": "clip_grad_norm.max_norm: 0 is not",
    "clip_grad_norm={norm_type: 2}": "clip_grad_norm.max_norm: is missing",
    "clip_grad_norm={max_norm: 1, nrom_type: 2}": "did you mean 'norm_type'",
    "clip_grad_norm=5": "clip_grad_norm: 5 is not a mapping or ~",
    "hidden_dropout_prob=1.0": "hidden_dropout_prob: 1.0 is not a number in [0, 1)",
    "hidden_dropout_prob=-0.1": "hidden_dropout_prob: -0.1",
    "attn_dropout_prob=.nan": "attn_dropout_prob: nan",
    "stopping_step=-3": "stopping_step: -3 is not a whole number",
    "loss_type=XX": "loss_type: 'XX' is none of CE, BPR, none",
    "layer_norm_eps=0": "layer_norm_eps: 0 is not",
    "learning_rate=-0.1": "learning_rate: -0.1 is not a number in (0, 10]",
    "learning_rate=0": "learning_rate: 0 is not",
    "learning_rate=.nan": "learning_rate: nan is not",
    "learning_rate=.inf": "learning_rate: inf is not",
    "learning_rate=1e38": "learning_rate: 1e+38 is not",
    "weight_decay=-1": "weight_decay: -1 is not",
    "seed=-1": "seed: -1 is not a whole number from 0 to 4294967295",
    "seed=4294967296": "seed: 4294967296 is not",
    "n_heads=0": "n_heads: 0 is not",
    "hidden_size=0": "hidden_size: 0 is not",
    "hidden_size=10 --n_heads=4": "hidden_size 10 is not a multiple of n_heads 4",
    "hidden_act=gleu": "did you mean 'gelu'",
    "topk=[]": "topk: [] is not",
    "topk=[10, 10]": "list each value once",
    "topk=[500]": "set valid_metric=NDCG@500, or add 10 to topk",
    "valid_metric=NDCG@": "valid_metric: 'NDCG@' is none of hit@1",
    "valid_metric=NDCG": "valid_metric: 'NDCG' is none of hit@1",
    "metrics=[NDGC]": "metrics: 'NDGC' is none of hit, recall, precision, ndcg, mrr, map; did you "
    "mean 'ndcg'?",
    "valid_metric=NDGC@10": "did you mean 'ndcg@10'",
    "lr_decay=liner": "did you mean 'linear'",
    "learner=adma": "did you mean 'adam'",
    "learner=sparse_adam": "learner: 'sparse_adam' is none of",
    "eval_step=5": "eval_step: 5 epochs between evaluations, but only 2 epochs",
    "user_inter_num_interval=5": "user_inter_num_interval: 5 is not text like '[5,inf)'",
    "user_inter_num_interval=[5;inf)": "user_inter_num_interval: '[5;inf)' is not",
    "worker=-1": "worker: -1 is not",
    "enable_scaler=True": "enable_scaler: has no effect without enable_amp: True",
    # Without an effect
    "eval_args={split: {RS: [.8, .1, .1]}, order: TO}": "eval_args.split: unknown key 'RS'",
    "eval_args={split: {TS: [.8, .1, .1]}, order: TO}": "eval_args.split: unknown key 'TS'",
    "eval_args={split: {RS: [.8, .1, .1]}}": "eval_args.split: unknown key 'RS'",
    "eval_args={split: {LS: valid_only}, order: TO}": "'valid_only' is not valid_and_test",
    "eval_args={split: {LS: valid_and_test}}": "eval_args.order: is missing",
    "eval_args={split: {LS: valid_and_test}, order: RO}": "eval_args.order: 'RO' is not TO",
    "eval_args={split: {LS: valid_and_test}, order: TO, mode: pop10}": "eval_args.mode: 'pop10'",
    "eval_args={split: {LS: valid_and_test}, order: TO, mode: {test: uni9}}": "eval_args.mode",
    "eval_args={split: {LS: valid_and_test}, order: TO, group_by: none}": "eval_args.group_by",
    "train_neg_sample_args={sample_num: 5}": "with loss_type CE draws no negatives",
    "loss_type=BPR --train_neg_sample_args=~": "with loss_type BPR requires negatives",
    "metric_decimal_place=2": "metric_decimal_place: has no effect here: metrics are not rounded",
    "loss_decimal_place=2": "loss_decimal_place: has no effect here",
    "state=DEBUG": "state: has no effect here",
    "repeatable=False": "repeatable: has no effect here",
    "threshold={rating: 3}": "threshold: has no effect here",
    "valid_metric_bigger=False": "valid_metric_bigger: has no effect here",
    "save_dataset=True": "save_dataset: has no effect here: pickles are never written",
    "dataset_save_path=x.pth": "dataset_save_path: has no effect here: pickles are never read",
    "require_pow=True": "require_pow: has no effect here",
    "kg_reverse_r=True": "kg_reverse_r: has no effect here",
    "preload_weight={a: b}": "preload_weight: has no effect here",
    "device=cpu": "device: has no effect here: use_gpu and gpu_id choose it",
    "config_file=a.yaml": "config_file: has no effect here",
    "world_size=2": "world_size: has no effect here: nproc starts processes",
    "reg_weight=0.1": "unknown key 'reg_weight' for SASRec",
    "pretrain_epochs=5": "unknown key 'pretrain_epochs' for SASRec",
    "pre_model_path=x": "unknown key 'pre_model_path' for SASRec",
}  # fmt: skip


@pytest.mark.parametrize("flags", REFUSED)
def test_refused_before_anything_is_written(
    tiny: Tiny, flags: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """One line, exit status 2; the same by RecBole's own `Config`, but for what is its own."""
    before = files_below(tiny.root)
    given = [f"--{each}" for each in flags.split(" --")]
    small = [f"--{key}={value}" for key, value in tiny.settings("SASRec").items()
             if key not in " ".join(given)]  # fmt: skip
    assert main(["run", "--model=SASRec", "--dataset=toy", *small, *given]) == 2
    error = capfd.readouterr().err
    assert REFUSED[flags] in error
    assert error.count("\n") == 1
    assert files_below(tiny.root) == before


@pytest.mark.parametrize("flags", [each for each in REFUSED if each.split("=")[0] not in NOT_HERE])
def test_refused_in_recboles_own_config(tiny: Tiny, flags: str) -> None:
    """By whoever calls `run_recbole`."""
    given = {"epochs": 2}
    for flag in flags.split(" --"):
        key, _, value = flag.partition("=")
        given[key] = parse_value(value)
    with pytest.raises(InputError, match=re.escape(REFUSED[flags])):
        Config("SASRec", "toy", config_dict=given)


@pytest.mark.parametrize(
    ("settings", "remedy", "additions"),
    [
        ({"topk": [5, 20]}, "NDCG@20", {"topk": [5, 20, 10]}),
        ({"metrics": ["Hit"]}, "Hit@10", {"metrics": ["Hit", "NDCG"]}),
        ({"metrics": "MRR", "topk": 3}, "MRR@3", {"metrics": ["MRR", "NDCG"], "topk": [3, 10]}),
        ({"valid_metric": "unseen_hit@7"}, "unseen_hit@10", {"topk": [1, 5, 10, 7]}),
    ],
)
def test_the_remedy_for_valid_metric_is_one(
    tiny: Tiny, settings: dict[str, Any], remedy: str, additions: dict[str, Any]
) -> None:
    """The message names a value and additions; either of the two is taken."""
    with pytest.raises(InputError) as caught:
        build_config("SASRec", "toy", (), settings)
    set_to, _, add = str(caught.value).partition("; set valid_metric=")[2].partition(", or add ")
    assert set_to == remedy
    keys = sorted(re.findall(r"\w+ to (metrics|topk)", add))
    assert keys == sorted(additions)
    build_config("SASRec", "toy", (), settings | {"valid_metric": set_to})
    build_config("SASRec", "toy", (), settings | additions)


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("QBERT4Rec", {"loss_type": "BPR"}, "loss_type: 'BPR': QBERT4Rec supports only CE"),
        ("IDBERT4Rec", {"loss_type": "none"}, "loss_type: 'none': IDBERT4Rec supports only CE"),
        ("BERT4RecFixed", {"loss_type": "BPR"}, "BERT4RecFixed supports only CE"),
        ("Popularity", {"loss_type": "CE"}, "Popularity supports only none"),
        ("TransRec", {"loss_type": "CE"}, "TransRec supports only BPR"),
        ("FPMC", {"loss_type": "CE"}, "FPMC supports only BPR"),
        ("RepeatNet", {"loss_type": "BPR"}, "RepeatNet supports only CE"),
        ("CORE", {"loss_type": "BPR"}, "CORE supports only CE"),
        ("SASRec", {"loss_type": "none"}, "SASRec supports only CE and BPR"),
        ("QBERT4Rec", {"train_neg_sample_args": {"sample_num": 2}}, "draws no negatives"),
        ("QBERT4Rec", {"transform": "mask_itemseq"}, "transform: 'mask_itemseq': QBERT4Rec"),
        ("SASRec", {"transform": "inverse_itemseq"}, "SASRec has none; leave it out"),
        ("BERT4Rec", {"transform": None}, "transform: None: BERT4Rec has mask_itemseq"),
        ("QBERT4Rec", {"hidden_act": "swish"}, "hidden_act: 'swish' is none of gelu, relu"),
        ("QBERT4Rec", {"item_representation": "sum"}, "item_representation: 'sum' is none of"),
        ("QBERT4Rec", {"mask_mix": {"spam": 1.0}}, "mask_mix: unknown key 'spam'; did you mean"),
        ("QBERT4Rec", {"mask_mix": {"tail": -1.0}}, "mask_mix.tail: -1.0 is not a number in [0"),
        ("QBERT4Rec", {"mask_mix": {"tail": "x"}}, "mask_mix.tail: 'x' is not a number"),
        ("QBERT4Rec", {"mask_ratios": {"tail": 0.0}}, "mask_ratios.tail: 0.0 is not"),
        ("QBERT4Rec", {"mask_ratios": {"tail": 1.1}}, "mask_ratios.tail: 1.1"),
        ("QBERT4Rec", {"mask_ratios": {"next_item": 0.5}}, "mask_ratios: unknown key 'next_item'"),
        ("QBERT4Rec", {"score": "cos"}, "score: 'cos' is none of dot, cosine; did you mean"),
        ("QBERT4Rec", {"temperature": 0}, "temperature: 0 is not a number in (0"),
        ("QBERT4Rec", {"softmax_samples": -1}, "softmax_samples: -1 is not a whole number from 0"),
        ("QBERT4Rec", {"warmup_ratio": 1.0}, "warmup_ratio: 1.0 is not a number in [0, 1)"),
        ("BERT4RecFixed", {"ft_ratio": 1.5}, "ft_ratio: 1.5 is not a number in [0, 1]"),
        ("QBERT4Rec", {"temperature": math.nan}, "temperature: nan is not"),
        ("QBERT4Rec", {"mask_mix": {"random": 0, "span": 0, "tail": 0, "multi_region": 0,
                                    "next_item": 0}}, "one weight must be above 0"),
        ("QBERT4Rec", {"exclude_visible": "atuo"}, "did you mean 'auto'"),
        ("BERT4Rec", {"MAX_ITEM_LIST_LENGTH": 1}, "MAX_ITEM_LIST_LENGTH: 1 times mask_ratio"),
        ("BERT4Rec", {"MAX_ITEM_LIST_LENGTH": 4}, "leaves no item to mask"),
        ("CORE", {"embedding_size": 9, "n_heads": 2}, "embedding_size 9 is not a multiple"),
        ("NextItNet", {"dilations": []}, "dilations: [] is not a list"),
        ("S3Rec", {"pretrain_batch_size": 0}, "pretrain_batch_size: 0 is not"),
        ("S3Rec", {"save_step": 5}, "save_step: has no effect here"),
    ],
)  # fmt: skip
def test_refused_for_a_model(
    tiny: Tiny, model: str, settings: dict[str, Any], message: str
) -> None:
    for make in (
        lambda: build_config(model, "toy", (), settings),
        lambda: Config(model, "toy", config_dict=dict(settings)),
    ):
        with pytest.raises(InputError, match=re.escape(message)) as caught:
            make()
        assert "\n" not in str(caught.value)


def test_what_is_taken(tiny: Tiny) -> None:
    """Each kind of value that RecBole's users write."""
    for settings in (
        {"gpu_id": 0, "topk": 10, "metrics": "NDCG", "valid_metric": "ndcg@10", "use_gpu": False},
        {"gpu_id": "0,1", "use_gpu": False},
        {"gpu_id": (0, 1), "use_gpu": False},
        {"loss_type": "BPR"},
        {"loss_type": "BPR", "train_neg_sample_args": {"sample_num": 3}},
        {
            "eval_args": {
                "split": {"LS": "valid_and_test"},
                "order": "TO",
                "mode": {"valid": "full"},
            }
        },
        {"user_inter_num_interval": "[5,inf)", "item_inter_num_interval": "[2,4];(6,9)"},
        {"val_interval": {"timestamp": "[0,inf)"}, "rm_dup_inter": "first"},
        {"MAX_ITEM_LIST_LENGTH": 1, "stopping_step": 0, "weight_decay": 0},
        {"metric_decimal_place": 4, "repeatable": True, "transform": None},
    ):
        build_config("SASRec", "toy", (), settings)
    build_config("BERT4Rec", "toy", (), {"MAX_ITEM_LIST_LENGTH": 5})


def test_a_key_of_one_of_several_models(tiny: Tiny, capfd: pytest.CaptureFixture[str]) -> None:
    """The line says whose key it is, in place of a guess of another key."""
    words = ["run", "--model=SASRec,QBERT4Rec,GRU4Rec", "--dataset=toy", "--data_path=."]
    before = files_below(tiny.root)
    assert main([*words, "--mask_mix={span: 1}"]) == 2
    said = "command line: mask_mix is a key of QBERT4Rec, not of SASRec, GRU4Rec; put it below "
    assert said in capfd.readouterr().err
    assert files_below(tiny.root) == before
