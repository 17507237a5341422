"""`SemanticIDDataset` against RecBole's own dataset and against plain loops."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import N_ITEMS, Tiny, timed_rows
from recbole.data import data_preparation
from recbole.data.dataset import SequentialDataset
from recbole.utils import init_seed
from torch import Tensor

from recbole_qbert.cli import main
from recbole_qbert.common.errors import InputError
from recbole_qbert.common.yaml_files import load_yaml
from recbole_qbert.config.build import build_config
from recbole_qbert.data.dataset import (
    AUGMENTATIONS,
    SEMANTIC_ID_FIELD,
    TARGET_POSITION_FIELD,
    SemanticIDDataset,
)
from recbole_qbert.data.semid import SemanticIDTable, write_semantic_ids
from recbole_qbert.experiments.splits import Splits, load_splits

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
EXTRA = "user_id:token\titem_id:token\ttimestamp:float\trating:float\ttags:token_seq"
ALL_COLUMNS = ["user_id", "item_id", "timestamp", "rating", "tags"]


def recbole_loaders(config: Any) -> Splits:
    """The same split by RecBole's own `SequentialDataset`."""
    init_seed(config["seed"], config["reproducibility"])
    dataset = SequentialDataset(config)
    return Splits(dataset, *data_preparation(config, dataset))


def batches(loader: Any) -> list[dict[str, Tensor]]:
    """Every batch of a loader as plain dicts; evaluation batches are tuples."""
    init_seed(5, True)  # negative sampling draws from NumPy
    taken = [batch[0] if isinstance(batch, tuple) else batch for batch in loader]
    return [dict(batch.interaction) for batch in taken]


def assert_same_batches(ours: Splits, theirs: Splits, added: set[str]) -> None:
    """All of RecBole's fields are equal in every batch; ours has only `added` besides."""
    for name in ("train", "valid", "test"):
        left, right = batches(getattr(ours, name)), batches(getattr(theirs, name))
        assert len(left) == len(right) > 0
        for mine, other in zip(left, right, strict=True):
            assert mine.keys() - other.keys() == added
            for field, values in other.items():
                assert mine[field].dtype == values.dtype, field
                assert torch.equal(mine[field], values), (name, field)


def raw_sequences(tiny: Tiny, loaded: Splits) -> dict[int, list[int]]:
    """Whole sequences of the toy data in internal ids."""
    user_id = loaded.dataset.field2token_id["user_id"]
    item_id = loaded.dataset.field2token_id["item_id"]
    return {
        user_id[user]: [item_id[item] for item in sequence]
        for user, sequence in tiny.sequences.items()
    }


def histories(loader: Any) -> dict[int, list[tuple[list[int], int]]]:
    """user -> (history, target) of each of the loader's rows."""
    found: dict[int, list[tuple[list[int], int]]] = {}
    for batch in batches(loader):
        lengths, lists = batch["item_length"].tolist(), batch["item_id_list"]
        for row, user in enumerate(batch["user_id"].tolist()):
            assert lists[row, lengths[row] :].eq(0).all()
            history = lists[row, : lengths[row]].tolist()
            found.setdefault(user, []).append((history, int(batch["item_id"][row])))
    return found


# Rows --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"MAX_ITEM_LIST_LENGTH": 50},
        {"MAX_ITEM_LIST_LENGTH": 1},
        {"load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "class"]}},
        {"user_inter_num_interval": "[6,inf)", "item_inter_num_interval": "[4,inf)"},
        {"loss_type": "BPR", "train_neg_sample_args": {"distribution": "uniform"}},
    ],
    ids=["plain", "long lists", "lists of one", "item columns", "filters", "negatives"],
)
def test_prefix_rows_are_recboles(tiny: Tiny, settings: dict[str, Any]) -> None:
    (tiny.folder / "toy.semid").unlink()
    config = tiny.make_config("SASRec", augmentation="prefix", **settings)
    assert_same_batches(load_splits(config), recbole_loaders(config), {TARGET_POSITION_FIELD})


def test_semantic_ids_change_nothing_else(tiny: Tiny) -> None:
    """With a .semid, the only other field is the item feature `semantic_id`."""
    config = tiny.make_config("SASRec")
    assert_same_batches(
        load_splits(config), recbole_loaders(config), {TARGET_POSITION_FIELD, SEMANTIC_ID_FIELD}
    )


@pytest.mark.parametrize("numerical", [[], ["rating"]])
def test_other_columns_of_the_inter_become_lists_too(tiny: Tiny, numerical: list[str]) -> None:
    """Numbers and sequences beside the items: two- and three-dimensional lists."""
    draw = random.Random(1)
    lines = [EXTRA]
    for user, item, time in tiny.rows:
        tags = " ".join(f"t{draw.randrange(5)}" for _ in range(draw.randint(1, 3)))
        lines.append(f"{user}\t{item}\t{time}\t{draw.randint(1, 5)}\t{tags}")
    (tiny.folder / "toy.inter").write_text("\n".join([*lines, ""]), encoding="utf-8")
    config = tiny.make_config(
        "SASRec", load_col={"inter": ALL_COLUMNS}, numerical_features=numerical
    )
    assert_same_batches(
        load_splits(config), recbole_loaders(config), {TARGET_POSITION_FIELD, SEMANTIC_ID_FIELD}
    )
    assert next(iter(load_splits(config).train))["tags_list"].shape[1:] == (8, 3)


def test_none_keeps_one_row_a_user_with_the_whole_training_sequence(tiny: Tiny) -> None:
    loaded = load_splits(tiny.make_config(augmentation="none", MAX_ITEM_LIST_LENGTH=50))
    found = histories(loaded.train)
    whole = raw_sequences(tiny, loaded)
    assert found.keys() == whole.keys()
    for user, rows in found.items():
        ((history, target),) = rows
        assert [*history, target] == whole[user][:-2]


def test_none_and_prefix_have_the_same_valid_and_test_rows(tiny: Tiny) -> None:
    one = load_splits(tiny.make_config(augmentation="none"))
    all_prefixes = load_splits(tiny.make_config(augmentation="prefix"))
    for name in ("valid", "test"):
        left, right = batches(getattr(one, name)), batches(getattr(all_prefixes, name))
        for mine, other in zip(left, right, strict=True):
            assert mine.keys() == other.keys()
            assert all(torch.equal(mine[field], other[field]) for field in mine)


@pytest.mark.parametrize("augmentation", ["none", "prefix"])
def test_long_histories_keep_their_last_items(tiny: Tiny, augmentation: str) -> None:
    loaded = load_splits(tiny.make_config(augmentation=augmentation, MAX_ITEM_LIST_LENGTH=3))
    whole = raw_sequences(tiny, loaded)
    for name, places in (("valid", -2), ("test", -1)):
        for user, rows in histories(getattr(loaded, name)).items():
            items = whole[user]
            end = len(items) + places
            assert rows == [(items[max(0, end - 3) : end], items[end])]
    for user, rows in histories(loaded.train).items():
        history, target = max(rows, key=lambda row: whole[user].index(row[1]))
        end = len(whole[user]) - 3
        assert (history, target) == (whole[user][max(0, end - 3) : end], whole[user][end])


def test_users_with_few_interactions(tiny: Tiny) -> None:
    """One interaction makes no row, two a training row, three a training and a test row."""
    tiny.sequences |= {"one": ["i0"], "two": ["i1", "i2"], "three": ["i3", "i4", "i5"]}
    tiny.write_inter(timed_rows(tiny.sequences))
    for augmentation in ("none", "prefix"):
        loaded = load_splits(tiny.make_config(augmentation=augmentation))
        ids = loaded.dataset.field2token_id["user_id"]
        items = loaded.dataset.field2token_id["item_id"]
        train, valid, test = (histories(loader) for loader in loaded[1:])
        for user, expected in (
            ("one", (None, None, None)),
            ("two", ([(["i1"], "i2")], None, None)),
            ("three", ([(["i3"], "i4")], None, [(["i3", "i4"], "i5")])),
        ):
            for rows, wanted in zip((train, valid, test), expected, strict=True):
                converted = wanted and [([items[i] for i in h], items[t]) for h, t in wanted]
                assert rows.get(ids[user]) == converted, (augmentation, user)
        sequences, offsets = loaded.train._dataset.training_sequences()
        lengths = offsets.diff()
        assert [int(lengths[ids[user]]) for user in ("one", "two", "three")] == [0, 2, 2]
        assert len(sequences) == offsets[-1]


def test_order_of_times_that_single_precision_cannot_tell_apart(tiny: Tiny) -> None:
    """Unix seconds one apart, rows in random order: the sequences come out in order of time."""
    rows = [
        (user, item, 1.6e9 + place)
        for user, sequence in tiny.sequences.items()
        for place, item in enumerate(sequence)
    ]
    assert len({np.float32(time) for _, _, time in rows}) == 1
    random.Random(2).shuffle(rows)
    tiny.write_inter(rows)
    for augmentation in ("none", "prefix"):
        loaded = load_splits(tiny.make_config(augmentation=augmentation, MAX_ITEM_LIST_LENGTH=50))
        whole = raw_sequences(tiny, loaded)
        for user, found in histories(loaded.test).items():
            assert found == [(whole[user][:-1], whole[user][-1])]
        items, offsets = loaded.train._dataset.training_sequences()
        for user, sequence in whole.items():
            assert items[offsets[user] : offsets[user + 1]].tolist() == sequence[:-2]


@pytest.mark.parametrize("augmentation", ["none", "prefix"])
def test_no_list_is_stored(tiny: Tiny, augmentation: str) -> None:
    """What is in memory grows with the interactions, not with rows x list length."""
    sizes = {}
    for length in (2, 400):
        loaded = load_splits(
            tiny.make_config(augmentation=augmentation, MAX_ITEM_LIST_LENGTH=length)
        )
        stored = list(loaded.dataset._flat.values())
        for part in (loaded.train._dataset, loaded.valid._dataset, loaded.test._dataset):
            columns = part.inter_feat.interaction
            assert all(values.dim() == 1 for values in columns.values())
            stored += list(columns.values())
        sizes[length] = sum(values.numel() for values in stored)
    assert sizes[2] == sizes[400]
    assert sizes[400] <= 8 * len(tiny.rows)


def test_unknown_augmentation_is_refused(tiny: Tiny) -> None:
    with pytest.raises(InputError, match="augmentation: 'all' is none of none, windows, prefix"):
        load_splits(tiny.make_config(augmentation="all"))


# Semantic IDs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "filters",
    [{}, {"user_inter_num_interval": "[8,inf)", "item_inter_num_interval": "[3,inf)"}],
    ids=["all", "filtered"],
)
def test_codes_follow_the_raw_token(tiny: Tiny, seed: int, filters: dict[str, str]) -> None:
    """Whatever the order of the file and the filters make of the internal ids."""
    rows = list(tiny.rows)
    random.Random(seed).shuffle(rows)
    tiny.write_inter(rows)
    dataset = load_splits(tiny.make_config(**filters)).dataset
    tokens = dataset.field2id_token["item_id"]
    codes = dict(zip(tiny.table.items, tiny.table.codes.tolist(), strict=True))
    texts = dict(zip(tiny.table.items, tiny.table.semantic_ids(), strict=True))
    assert dataset.item_codes.shape == (len(tokens), 3)
    assert dataset.item_codes[0].tolist() == [0, 0, 0]
    level_tokens = dataset.field2id_token[SEMANTIC_ID_FIELD]
    for number, token in enumerate(tokens[1:], start=1):
        assert dataset.item_codes[number].tolist() == codes[token]
        feature = dataset.item_feat[SEMANTIC_ID_FIELD][number]
        assert " ".join(level_tokens[feature.tolist()]) == texts[token]
    if filters:
        assert len(set(tiny.sequences)) > dataset.user_num - 1


def test_a_larger_semid_file_is_fine_and_an_incomplete_one_is_refused(tiny: Tiny) -> None:
    table = tiny.table
    path = tiny.folder / "toy.semid"
    more = SemanticIDTable(
        (*table.items, "unused"),
        np.concatenate([table.codes, [[9, 9, 9]]]),
        (10, 10, 10),
    )
    write_semantic_ids(path, more, {})
    assert load_splits(tiny.make_config()).dataset.codec.codebook_sizes == (10, 10, 10)
    fewer = SemanticIDTable(table.items[:18], table.codes[:18], table.codebook_sizes)
    write_semantic_ids(path, fewer, {})
    with pytest.raises(InputError) as caught:
        load_splits(tiny.make_config())
    message = str(caught.value)
    assert f"{path}: 12 of 30 items of the data set have no semantic_id: " in message
    named = message.split(": ")[2].split(", …")[0].split(", ")
    assert len(named) == 10
    assert set(named) <= {f"i{number}" for number in range(18, 30)}
    assert "\n" not in message


def test_without_a_semid_file_there_are_no_codes(tiny: Tiny) -> None:
    (tiny.folder / "toy.semid").unlink()
    dataset = load_splits(tiny.make_config("SASRec")).dataset
    assert dataset.item_codes is None
    assert dataset.codec is None
    with pytest.raises(InputError, match="no such file"):
        load_splits(tiny.make_config("SASRec", semantic_id_file="absent.semid"))


def test_a_column_named_like_the_feature_is_refused(tiny: Tiny) -> None:
    header, *lines = (tiny.folder / "toy.item").read_text().splitlines()
    text = "\n".join([header.replace("class", "semantic_id"), *lines, ""])
    (tiny.folder / "toy.item").write_text(text)
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "semantic_id"]}
    with pytest.raises(InputError, match="already have a column 'semantic_id'"):
        load_splits(tiny.make_config(load_col=columns))


# What models ask of the data ---------------------------------------------------------------------


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("length", [2, 5, 50])
def test_training_rows_equal_loops(tiny: Tiny, augmentation: str, length: int) -> None:
    """Which rows a user has, and how many training interactions they hold between them."""
    loaded = load_splits(tiny.make_config(augmentation=augmentation, MAX_ITEM_LIST_LENGTH=length))
    train = loaded.train._dataset
    expected, held = [], 0
    for sequence in raw_sequences(tiny, loaded).values():
        n = len(sequence) - 2  # training items
        ends = {n} if n > 1 else set()
        if augmentation == "prefix":
            ends = set(range(2, n + 1))
        elif augmentation == "windows" and n > length:
            while max(1, length // 2) < min(ends) - length:
                ends.add(min(ends) - max(1, length // 2))
            ends.add(length)
        rows = [sequence[max(0, end - length) : end] for end in ends]
        expected += rows
        # RecBole's models read L items before the target.
        held += len({place for end in ends for place in range(max(0, end - 1 - length), end)})
        if augmentation == "windows" and n > 1:
            assert {item for row in rows for item in row} == set(sequence[:n])
    items, lengths, chance = train.training_rows(batch_size=3, max_length=length)
    assert sorted(row.tolist() for row in items.split(lengths.tolist())) == sorted(expected)
    assert chance.tolist() == [3 / len(expected)] * len(expected)
    assert train.n_trained == held


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("length", [2, 50])
def test_sequences_seen_items_and_matrix_equal_loops(
    tiny: Tiny, augmentation: str, length: int
) -> None:
    """Whatever the rows and however short the lists, they tell of the whole sequences."""
    loaded = load_splits(tiny.make_config(augmentation=augmentation, MAX_ITEM_LIST_LENGTH=length))
    whole = raw_sequences(tiny, loaded)
    train = loaded.train._dataset
    items, offsets = train.training_sequences()
    assert offsets[0] == 0 and offsets[1] == 0 and len(offsets) == len(whole) + 2
    for user, sequence in whole.items():
        assert items[offsets[user] : offsets[user + 1]].tolist() == sequence[:-2]

    expected = np.zeros((len(whole) + 1, train.item_num))
    for user, sequence in whole.items():
        expected[user, sequence[:-2]] = 1
    assert np.array_equal(train.inter_matrix("csr").toarray(), expected)
    for loader, end in ((loaded.valid, -2), (loaded.test, -1)):
        for interaction, _, _, _ in loader:
            rows, seen = loader._dataset.seen_items(interaction)
            for row, user in enumerate(interaction["user_id"].tolist()):
                assert seen[rows == row].tolist() == whole[user][:end]
    for batch in loaded.train:
        rows, seen = train.seen_items(batch)
        for row, user in enumerate(batch["user_id"].tolist()):
            before = whole[user].index(int(batch["item_id"][row]))
            assert seen[rows == row].tolist() == whole[user][:before]


def test_inter_matrix_equals_recboles(tiny: Tiny) -> None:
    config = tiny.make_config("SASRec")
    ours, theirs = load_splits(config).train._dataset, recbole_loaders(config).train._dataset
    assert (ours.inter_matrix("csr") != theirs.inter_matrix("csr")).nnz == 0


@pytest.mark.parametrize(
    ("place", "repeats"), [(None, False), (-1, False), (-2, False), (-3, True)]
)
@pytest.mark.parametrize("augmentation", ["none", "prefix"])
def test_repeats_are_looked_for_in_training_only(
    tiny: Tiny, augmentation: str, place: int | None, repeats: bool
) -> None:
    if place is not None:
        sequence = next(s for s in tiny.sequences.values() if len(s) > 8)
        sequence[place] = sequence[0]
    tiny.write_inter(timed_rows(tiny.sequences))
    loaded = load_splits(tiny.make_config(augmentation=augmentation))
    assert loaded.train._dataset.training_repeats() is repeats


def test_pre_split_benchmark_files(tiny: Tiny) -> None:
    """RecBole's own format with ready-made lists: one row a user, whose sequence it holds."""
    header = "user_id:token\titem_id:token\titem_id_list:token_seq"
    for part, place in (("train", -3), ("valid", -2), ("test", -1)):
        lines = [header]
        for user, sequence in tiny.sequences.items():
            lines.append(f"{user}\t{sequence[place]}\t{' '.join(sequence[:place])}")
        path = tiny.folder / f"toy.{part}.inter"
        path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    columns = ["user_id", "item_id", "item_id_list"]
    loaded = load_splits(
        tiny.make_config(
            benchmark_filename=["train", "valid", "test"],
            load_col={"inter": columns},
            alias_of_item_id=["item_id_list"],
            MAX_ITEM_LIST_LENGTH=50,
        )
    )
    whole = raw_sequences(tiny, loaded)
    assert loaded.dataset.item_codes.shape[1] == 3
    assert loaded.train._dataset.training_repeats() is False
    items, offsets = loaded.train._dataset.training_sequences()
    for user, sequence in whole.items():
        assert items[offsets[user] : offsets[user + 1]].tolist() == sequence[:-2]
    rows, lengths, _ = loaded.train._dataset.training_rows(batch_size=3, max_length=4)
    found = [row.tolist() for row in rows.split(lengths.tolist())]
    assert sorted(found) == sorted(sequence[:-2][-4:] for sequence in whole.values())
    assert loaded.dataset.n_interactions == sum(map(len, whole.values()))
    for interaction, _, _, _ in loaded.test:
        rows, seen = loaded.test._dataset.seen_items(interaction)
        for row, user in enumerate(interaction["user_id"].tolist()):
            assert seen[rows == row].tolist() == whole[user][:-1]


@pytest.mark.parametrize("limit", [{}, {"item_id_list": 5, "tags": 2}])
def test_ready_made_lists_are_converted_as_by_recbole(tiny: Tiny, limit: dict[str, int]) -> None:
    """RecBole converts row by row. Some lists are empty, blanks are doubled, some are cut."""
    draw = random.Random(4)
    for part, place in (("train", -3), ("valid", -2), ("test", -1)):
        lines = ["user_id:token\titem_id:token\titem_id_list:token_seq\ttags:token_seq"]
        for user, sequence in tiny.sequences.items():
            tags = " ".join(draw.choices(["", "t1", "t2", "t3"], k=draw.randint(1, 5)))
            lines.append(f"{user}\t{sequence[place]}\t{'  '.join(sequence[:place])}\t{tags}")
        path = tiny.folder / f"toy.{part}.inter"
        path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    config = tiny.make_config(
        benchmark_filename=["train", "valid", "test"],
        load_col={"inter": ["user_id", "item_id", "item_id_list", "tags"]},
        alias_of_item_id=["item_id_list"],
        seq_len=limit or None,
    )
    dataset = SemanticIDDataset(config)
    for frame in (dataset.inter_feat, dataset.item_feat):
        found = dataset._dataframe_to_interaction(frame).interaction
        expected = SequentialDataset._dataframe_to_interaction(dataset, frame).interaction
        assert [*found] == [*expected] == [*frame]
        for name, values in expected.items():
            assert found[name].dtype == values.dtype, name
            assert torch.equal(found[name], values), name
    lengths = dataset.inter_feat["tags"].map(len)
    assert lengths.min() == 0 and lengths.max() == (2 if limit else lengths.max())
    assert dataset.inter_feat["item_id_list"].map(len).max() == (5 if limit else 8)


# Released data -----------------------------------------------------------------------------------


def test_instruments_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts of the released data as the loaders see them."""
    if not (SHARED / "Instruments" / "Instruments.inter").exists():
        pytest.skip("../shared/data/Instruments is absent")
    monkeypatch.chdir(tmp_path)
    settings = {"data_path": str(SHARED), "use_gpu": False, "checkpoint_dir": str(tmp_path)}
    config = build_config("SASRec", "Instruments", settings=settings)
    init_seed(config["seed"], config["reproducibility"])
    dataset = SemanticIDDataset(config)
    train, valid, test = (loader._dataset for loader in data_preparation(config, dataset))
    assert (dataset.user_num - 1, dataset.item_num - 1) == (17_112, 6_250)
    assert len(dataset._flat["item_id"]) == 136_226
    assert train.training_repeats() is False
    assert (len(train), len(valid), len(test)) == (84_890, 17_112, 17_112)
    items, _ = train.training_sequences()
    assert len(items) == 136_226 - 2 * 17_112
    assert dataset.item_num - 1 - len(torch.unique(items)) == 10


@pytest.mark.parametrize("model", ["SASRecContent", "FDSA"])
def test_items_of_histories_alone_have_features(tiny: Tiny, model: str) -> None:
    """On split files the column of items has targets only; features of the others must not be
    padding."""
    words = ["prepare", "split", "--dataset=toy", f"--data_path={tiny.root}", "--train_users=0.1"]
    assert main(words) == 0
    loaded = load_splits(tiny.make_config(model, **load_yaml(tiny.folder / "toy.split.yaml")))
    field = "text" if model == "SASRecContent" else SEMANTIC_ID_FIELD
    features = loaded.dataset.get_item_feature()[field]
    assert len(features) == N_ITEMS + 1
    assert features[1:].ne(0).any(dim=1).all()
    whole = load_splits(tiny.make_config(model)).dataset
    mine, theirs = loaded.dataset.field2token_id["item_id"], whole.field2token_id["item_id"]
    if model == "SASRecContent":
        for token, number in theirs.items():
            expected = whole.get_item_feature()[field][number]
            assert torch.equal(features[mine[token]], expected)
