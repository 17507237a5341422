"""Semantic IDs that learned from targets of another split are refused before a run."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Tiny, fitted

from recbole_qbert.cli import main
from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import read_json, write_json
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.merge import merge
from recbole_qbert.data.semid import tokenized_from
from recbole_qbert.experiments.checks import check_files, check_run
from recbole_qbert.experiments.split_checks import (
    changed_interactions,
    check_id_split,
    check_source_split,
    learns_from_interactions,
)
from recbole_qbert.experiments.splits import load_splits
from recbole_qbert.serving.bundle import save_bundle
from recbole_qbert.tokenizer.code_columns import build_from_columns


def tokenized(tiny: Tiny, *flags: str) -> None:
    words = ["tokenize", "--dataset=toy", f"--data_path={tiny.root}", "--rqkmeans.restarts=1"]
    assert main([*words, *flags]) == 0


def split(tiny: Tiny, *flags: str) -> None:
    assert main(["prepare", "split", "--dataset=toy", f"--data_path={tiny.root}", *flags]) == 0


def refused(tiny: Tiny, files: bool) -> bool:
    given: dict[str, Any] = {"benchmark_filename": ["train", "valid", "test"]} if files else {}
    path = tiny.folder / "toy.semid"
    try:
        check_id_split(tiny.make_config("QBERT4Rec", **given), path)
    except InputError as error:
        wanted = "files" if files else "leave_one_out"
        said = str(error)
        assert f"tokenize --dataset=toy --split={wanted}" in said
        return True
    return False


TEMPORAL = ("--method=temporal", "--shares=0.6,0.8")
FILES = {"benchmark_filename": ["train", "valid", "test"]}
KEPT = {"cold_items": 0.1, "cold_interactions": "keep"}


@pytest.mark.parametrize(
    ("method", "ids", "files", "leaks"),
    [
        (TEMPORAL, ("--streams=identity",), True, True),
        (TEMPORAL, ("--streams=identity",), False, False),
        (TEMPORAL, ("--streams=identity", "--split=files"), True, False),
        (TEMPORAL, ("--streams=identity", "--split=files"), False, True),
        (TEMPORAL, ("--streams=content", "--modalities=text"), True, False),
        ((), ("--streams=identity",), True, False),
        ((), ("--streams=identity", "--split=files"), False, False),
    ],
)
def test_which_ids_a_split_takes(
    tiny: Tiny, method: tuple[str, ...], ids: tuple[str, ...], files: bool, leaks: bool
) -> None:
    split(tiny, *method)
    words = ["embed", "text", "--dataset=toy", f"--data_path={tiny.root}", "--fields=class"]
    assert main(words) == 0
    tokenized(tiny, *ids)
    assert refused(tiny, files) is leaks


def test_a_run_stops_before_it_trains(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    split(tiny, *TEMPORAL)
    tokenized(tiny, "--streams=identity")
    words = ["run", "--model=QBERT4Rec", "--dataset=toy", f"--data_path={tiny.root}"]
    capsys.readouterr()
    assert main([*words, f"--config_files={tiny.folder / 'toy.split.yaml'}"]) == 2
    said = capsys.readouterr().err
    assert "of which some are valid or test targets of this run" in said
    assert said.count("\n") == 1


def test_ids_of_other_sources_are_not_checked(tiny: Tiny) -> None:
    split(tiny, *TEMPORAL)
    tokenized(tiny, "--streams=identity")
    sidecar = tiny.folder / "toy.semid.json"
    content = read_json(sidecar)
    content["source"]["method"] = "columns"
    write_json(sidecar, content)
    assert not refused(tiny, True)
    sidecar.unlink()
    assert not refused(tiny, True)


@pytest.mark.parametrize(
    ("settings", "learns"),
    [
        ({"streams": ["content"]}, False),
        ({"streams": ["content", "identity"]}, True),
        ({"streams": ["bbq"]}, True),
        ({"streams": ["fused"], "fusion": "next_item"}, True),
        ({"streams": ["fused"], "fusion": "injection", "id_query": "random"}, False),
        ({"streams": ["fused"], "fusion": "injection", "id_query": "interactions"}, True),
        ({"streams": ["text"], "id_query": "interactions"}, False),
        ({"streams": ["text"], "fit_items": "training"}, True),
    ],
)
def test_which_settings_learn_from_interactions(settings: dict[str, Any], learns: bool) -> None:
    assert learns_from_interactions(settings) is learns


def other_order(tiny: Tiny) -> None:
    """Turn each sequence around: what was trained on becomes a target."""
    rows = [(user, item, -time) for user, item, time in tiny.rows]
    tiny.write_inter(rows)


def test_split_files_made_again(tiny: Tiny) -> None:
    """IDs that learned from the training part before are refused, whatever the new split is."""
    split(tiny, *TEMPORAL)
    tokenized(tiny, "--streams=identity", "--split=files")
    assert not refused(tiny, True)
    for others in ((), ("--method=temporal", "--shares=0.3,0.5")):
        split(tiny, *others)
        config = tiny.make_config("QBERT4Rec", benchmark_filename=["train", "valid", "test"])
        with pytest.raises(InputError, match="made from another toy.train.inter"):
            check_id_split(config, tiny.folder / "toy.semid")
    tokenized(tiny, "--streams=identity", "--split=files")
    assert not refused(tiny, True)


def test_split_files_from_before_the_interactions_changed(tiny: Tiny) -> None:
    """Leave-one-out of the new interactions trains on the targets of the old split."""
    split(tiny)
    tokenized(tiny, "--streams=identity")
    source = tiny.make_config("QBERT4Rec").final_config_dict
    run = tiny.make_config("QBERT4Rec", **FILES)
    assert not refused(tiny, True)
    check_source_split(run, ["toy"], source)
    last = max(time for _, _, time in tiny.rows)
    new = [(user, "i0", last + n) for n in (1, 2) for user in sorted({row[0] for row in tiny.rows})]
    tiny.write_inter([*tiny.rows, *new])
    assert not refused(tiny, True)  # they learned from the old file, as the split
    with pytest.raises(InputError, match="trained on toy with another benchmark_filename"):
        check_source_split(run, ["toy"], source)
    tokenized(tiny, "--streams=identity")
    assert refused(tiny, True)


def test_joined_ids_are_checked_as_their_parts(tiny: Tiny) -> None:
    split(tiny, *TEMPORAL)
    tokenized(tiny, "--streams=identity")
    parts = tiny.folder / "part.semid"
    for suffix in ("", ".json"):
        (tiny.folder / f"toy.semid{suffix}").rename(f"{parts}{suffix}")
    path = tiny.folder / "toy.semid"
    build_from_columns(tiny.folder / "toy.item", [], path, beside=[parts])
    assert refused(tiny, True)
    # Nor does a second join lose what the codes are made from.
    paths = [DatasetPaths("toy", tiny.folder)]
    merge(paths, DatasetPaths("joint", tiny.root / "joint"))
    joint = tiny.root / "joint" / "joint.semid"
    assert tokenized_from(joint) == tokenized_from(path) == tokenized_from(parts) != []


def test_interactions_that_changed_are_named(tiny: Tiny) -> None:
    """A note, since new interactions after those learned from are no fault."""
    tokenized(tiny, "--streams=identity")
    config, path = tiny.make_config("QBERT4Rec"), tiny.folder / "toy.semid"
    assert changed_interactions(config, path) == ""
    other_order(tiny)
    assert "the interactions changed since" in changed_interactions(config, path)
    check_id_split(config, path)


@pytest.mark.parametrize(
    "given",
    [
        {"rm_dup_inter": "first"},
        {"val_interval": {"timestamp": "[0,3000]"}},
        {"item_inter_num_interval": "[22,inf)"},
        {"user_inter_num_interval": "[14,inf)"},
    ],
)
def test_filters_that_move_the_targets(tiny: Tiny, given: dict[str, Any]) -> None:
    tiny.write_inter([*tiny.rows, *((user, item, time + 0.5) for user, item, time in tiny.rows)])
    tokenized(tiny, "--streams=identity")
    config = tiny.make_config("QBERT4Rec", **given)
    with pytest.raises(InputError, match="because RecBole's filters leave out [0-9,]+ interac"):
        load_splits(config)
    load_splits(tiny.make_config("SASRec", **given))
    harmless = dict.fromkeys(("item_inter_num_interval", "user_inter_num_interval"), "[0,inf)")
    load_splits(tiny.make_config("QBERT4Rec", **harmless))


def test_cold_items_and_ids_that_learned_from_them(tiny: Tiny) -> None:
    tokenized(tiny, "--streams=identity")
    path = tiny.folder / "toy.semid"
    for targets in ("test", "valid"):
        given = {"cold_items": 0.1, "cold_targets": targets, "semantic_id_file": str(path)}
        with pytest.raises(InputError, match="made with the interactions of items that cold_items"):
            check_id_split(tiny.make_config("QBERT4Rec", **given), path)
    keep = tiny.make_config("QBERT4Rec", **KEPT)
    check_id_split(keep, path)
    # The last interactions are left out: the IDs learned from the targets that are left.
    with pytest.raises(InputError, match="made with the interactions of items that cold_items"):
        check_id_split(tiny.make_config("QBERT4Rec", **KEPT, cold_targets="valid"), path)
    # Files of versions that did not record the interactions are not known to be without them.
    sidecar = tiny.folder / "toy.semid.json"
    content = read_json(sidecar)
    del content["source"]["report"]["interactions"]
    write_json(sidecar, content)
    with pytest.raises(InputError, match="made with the interactions of items that cold_items"):
        check_id_split(tiny.make_config("QBERT4Rec", **given), path)
    # With all interactions kept, the split of the IDs counts as elsewhere.
    split(tiny, *TEMPORAL)
    tokenized(tiny, "--streams=identity", "--split=files")
    with pytest.raises(InputError, match="tokenize --dataset=toy --split=leave_one_out"):
        check_id_split(keep, path)


def test_trials_plug_ins_and_files_of_any_name_are_checked(tiny: Tiny) -> None:
    """`load_splits` checks whatever reads the IDs, however it came to the run."""
    split(tiny, *TEMPORAL)
    tokenized(tiny, "--streams=identity", "--split=files")
    for suffix in ("", ".json"):
        (tiny.folder / f"toy.semid{suffix}").rename(tiny.folder / f"other.ids{suffix}")
    given = {"semantic_id_file": str(tiny.folder / "other.ids")}
    with pytest.raises(InputError, match="other.ids: made with the training interactions of the"):
        load_splits(tiny.make_config("QBERT4Rec", **given))
    with pytest.raises(InputError, match="other.ids: made with the training interactions of the"):
        check_files(tiny.make_config("QBERT4Rec", **given))
    load_splits(tiny.make_config("SASRec", **given))


@pytest.mark.parametrize(
    ("before", "now", "key"),
    [
        ({}, {}, None),
        ({}, {"cold_items": 0.1}, "cold_items"),
        ({}, KEPT, None),
        ({"cold_items": 0.1}, {}, None),
        ({"cold_items": 0.1}, {"cold_items": 0.1}, None),
        ({"cold_items": 0.1}, {"cold_items": 0.1, "cold_seed": 1}, "cold_items"),
        (KEPT, {"cold_items": 0.1}, "cold_items"),
        ({}, {**KEPT, "cold_targets": "valid"}, "cold_items"),
        ({}, FILES, "benchmark_filename"),
        (FILES, {}, "benchmark_filename"),
        ({}, {"rm_dup_inter": "first"}, "rm_dup_inter"),
        ({}, {"val_interval": {"timestamp": "[0,3000]"}}, "val_interval"),
    ],
)
def test_pretrained_weights_that_learned_from_targets(
    tiny: Tiny, before: dict[str, Any], now: dict[str, Any], key: str | None
) -> None:
    """Weights of this data set, trained with another split of it."""
    split(tiny, *TEMPORAL)
    source = tiny.make_config("QBERT4Rec", **before).final_config_dict
    config = tiny.make_config("QBERT4Rec", **now)
    check_source_split(config, ["other", "toys"], source)
    if key is None:
        check_source_split(config, ["toy"], source)
        return
    with pytest.raises(InputError, match=f"was trained on toy with another {key}, so that it may"):
        check_source_split(config, ["other", "toy"], source)


def test_files_of_leave_one_out_are_the_same_split(tiny: Tiny) -> None:
    split(tiny)
    source = tiny.make_config("QBERT4Rec").final_config_dict
    check_source_split(tiny.make_config("QBERT4Rec", **FILES), ["toy"], source)


def test_a_run_refuses_such_weights(tiny: Tiny) -> None:
    """A bundle of QBERT4Rec, and a checkpoint of a model with another kind of first stage."""
    config = tiny.make_config("QBERT4Rec")
    trainer, loaded = fitted(config)
    bundle = tiny.root / "bundle"
    save_bundle(bundle, trainer.model, config, loaded.train._dataset)
    content, _ = fitted(tiny.make_config("SASRecContent"))
    for model, path in (("QBERT4Rec", bundle), ("SASRecContent", content.saved_model_file)):
        start = {"pre_model_path": str(path), "semantic_id_file": str(tiny.folder / "toy.semid")}
        check_run(tiny.make_config(model, **start))
        with pytest.raises(InputError, match="was trained on toy with another cold_items"):
            check_run(tiny.make_config(model, cold_items=0.1, **start))


def test_a_run_refuses_weights_of_other_settings_before_it_trains(tiny: Tiny) -> None:
    config = tiny.make_config("QBERT4Rec")
    trainer, loaded = fitted(config)
    save_bundle(tiny.root / "bundle", trainer.model, config, loaded.train._dataset)
    with pytest.raises(InputError, match="pretrained with hidden_size"):
        check_run(tiny.make_config(hidden_size=8, pre_model_path=str(tiny.root / "bundle")))
    paths = tiny.item_vectors()
    content, _ = fitted(tiny.make_config("SASRecContent", item_vectors={"text": paths["text"]}))
    other = {"pre_model_path": content.saved_model_file, "item_vectors": {"image": paths["text"]}}
    with pytest.raises(InputError, match="item_vectors: image, but pre_model_path was trained"):
        check_run(tiny.make_config("SASRecContent", **other))
