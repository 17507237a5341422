"""What a run reads of atomic files: every cell as it stands, or one line that names its place."""

from __future__ import annotations

import logging
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CODEBOOK_SIZES, Tiny, fitted, toy_table

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.dataset import SemanticIDDataset
from recbole_qbert.data.embeddings import EmbeddingTable, write_embeddings
from recbole_qbert.data.semid import SemanticIDTable, write_semantic_ids
from recbole_qbert.data.sequences import read_interactions
from recbole_qbert.datasets.split import read_sequences
from recbole_qbert.experiments.splits import Splits, data_counts, load_splits

HEAD = "user_id:token\titem_id:token\ttimestamp:float"
ROWS = [f"u{user}\ti{(user + place) % 9}\t{place}" for user in range(9) for place in range(5)]


def load(tiny: Tiny, inter: str | bytes, item: str | None = None, **settings: Any) -> Splits:
    """The data set `other` of these files, as SASRec reads it."""
    folder = tiny.root / "other"
    folder.mkdir(exist_ok=True)
    content = inter if isinstance(inter, bytes) else inter.encode()
    (folder / "other.inter").write_bytes(content)
    if item is not None:
        (folder / "other.item").write_text(item, encoding="utf-8")
        columns = [cell.partition(":")[0] for cell in item.partition("\n")[0].split("\t")]
        inter_columns = ["user_id", "item_id", "timestamp"]
        settings.setdefault("load_col", {"inter": inter_columns, "item": columns})
    return load_splits(tiny.make_config("SASRec", dataset="other", **settings))


def text(rows: list[str], head: str = HEAD) -> str:
    return "\n".join([head, *rows, ""])


def sequences_of(loaded: Splits) -> dict[str, list[str]]:
    """Every user's raw tokens in order, as the dataset holds them."""
    dataset = loaded.dataset
    users, items = dataset.field2id_token["user_id"], dataset.field2id_token["item_id"]
    flat = dataset._flat["item_id"].tolist()
    ends = [*dataset._user_start.tolist()[1:], len(flat)]
    found = {}
    for user, (start, end) in enumerate(zip(dataset._user_start.tolist(), ends, strict=True)):
        if end > start:
            found[str(users[user])] = [str(items[item]) for item in flat[start:end]]
    return found


# Ids ---------------------------------------------------------------------------------------------

ODD = ("NA", "null", "nan", "None", "N/A", "", "007", '"q', 'q"', " padded ", "#N/A", "1e5")


def test_ids_are_texts_whatever_pandas_thinks_of_them(tiny: Tiny) -> None:
    """Users and items of all odd names, `.item` and `.user` with them: nothing is dropped."""
    odd = [token for token in ODD if token]
    wanted = {name: [*odd[place:], *odd[:place]] for place, name in enumerate(odd)}
    rows = [
        f"{user}\t{item}\t{place}"
        for user, items in wanted.items()
        for place, item in enumerate(items)
    ]
    random.Random(3).shuffle(rows)
    items = "\n".join(["item_id:token\tbrand:token", *(f"{token}\tNA" for token in odd), ""])
    loaded = load(tiny, text(rows), items)
    assert sequences_of(loaded) == wanted
    brands = loaded.dataset.field2id_token["brand"].tolist()
    assert brands == ["[PAD]", "NA"]
    assert loaded.dataset.item_feat["brand"].tolist()[1:] == [1] * len(odd)


@pytest.mark.parametrize("field", ["user_id", "item_id"])
@pytest.mark.parametrize(
    ("token", "said"), [("", "is not an ID"), ("[PAD]", "has RecBole's padding token")]
)
def test_an_id_that_cannot_be_one_is_refused(tiny: Tiny, field: str, token: str, said: str) -> None:
    """By the run, by the sequences of pretraining, and by splits."""
    rows = list(ROWS)
    user, item, when = rows[6].split("\t")
    rows[6] = "\t".join([token, item, when] if field == "user_id" else [user, token, when])
    rows.insert(2, "")  # a blank line holds no row, and counts as a line
    place = f"other.inter: line 9, {field}: {token!r} {said}"
    with pytest.raises(InputError) as caught:
        load(tiny, text(rows))
    assert place in str(caught.value) and "\n" not in str(caught.value)
    for read in (read_interactions, read_sequences):
        with pytest.raises(InputError) as caught:
            read(tiny.root / "other" / "other.inter")
        assert place in str(caught.value)


@pytest.mark.parametrize("kind", ["item", "user"])
@pytest.mark.parametrize("value_type", ["token", "token_seq"])
def test_no_value_of_a_feature_falls_on_the_padding(tiny: Tiny, kind: str, value_type: str) -> None:
    """RecBole gives number 0 to `[PAD]`, in every column of tokens."""
    own = f"{kind}_id"
    names = sorted({row.split("\t")[kind == "item"] for row in ROWS})
    value = "[PAD]" if value_type == "token" else "a [PAD] b"
    rows = [f"{name}\t{'b' if place else value}" for place, name in enumerate(names)]
    load(tiny, text(ROWS))
    path = tiny.root / "other" / f"other.{kind}"
    columns = {"inter": ["user_id", "item_id", "timestamp"], kind: [own, "sort"]}
    for plain in (True, False):
        content = text(rows, f"{own}:token\tsort:{value_type}")
        path.write_text(content.replace("[PAD]", "PAD") if plain else content)
        if plain:
            load(tiny, text(ROWS), load_col=columns)
            continue
        with pytest.raises(InputError, match=f"other.{kind}: line 2, sort: .* padding token"):
            load(tiny, text(ROWS), load_col=columns)


@pytest.mark.parametrize(("inter", "other"), [(" i3 ", "i3"), ("i3", " i3"), ("i3", "i3\u00a0")])
@pytest.mark.parametrize("kind", ["item", "user", "semid", "vectors"])
def test_ids_of_two_files_that_differ_only_by_blanks_are_refused(
    tiny: Tiny, kind: str, inter: str, other: str
) -> None:
    """Else the features of the item, or the user, would be silently missing."""
    own, column = ("u", 0) if kind == "user" else ("i", 1)
    rows = [row.split("\t") for row in ROWS]
    inter, other = inter.replace("i", own), other.replace("i", own)
    for row in rows:
        row[column] = inter if row[column] == f"{own}3" else row[column]
    names = [other if number == 3 else f"{own}{number}" for number in range(9)]
    settings: dict[str, Any] = {}
    folder = tiny.root / "other"
    folder.mkdir()
    if kind == "semid":
        table = SemanticIDTable(tuple(names), toy_table().codes[:9], CODEBOOK_SIZES)
        write_semantic_ids(folder / "other.semid", table, {})
        settings["semantic_id_file"] = str(folder / "other.semid")
    elif kind == "vectors":
        vectors = np.ones((9, 1, 2), np.float32)
        table_of = EmbeddingTable(tuple(names), vectors, np.ones((9, 1), np.bool_), {})
        write_embeddings(folder / "v.npz", table_of)
        settings["item_vectors"] = {"v": str(folder / "v.npz")}
    else:
        lines = [f"{kind}_id:token\tc:token", *(f"{name}\tx" for name in names), ""]
        (folder / f"other.{kind}").write_text("\n".join(lines), encoding="utf-8")
        inter_columns = ["user_id", "item_id", "timestamp"]
        settings["load_col"] = {"inter": inter_columns, kind: [f"{kind}_id", "c"]}
    with pytest.raises(InputError) as caught:
        load(tiny, text(["\t".join(row) for row in rows]), **settings)
    said = str(caught.value)
    assert f"{other!r}, and {inter!r} in the interactions, differ only by blanks" in said
    assert "\n" not in said


@pytest.mark.parametrize("field", ["user_id", "item_id"])
@pytest.mark.parametrize("pair", [("k3", " k3"), ("k3 ", "\u00a0k3"), (" k3 ", "k3")])
def test_ids_that_differ_only_by_blanks_at_their_ends_are_refused(
    tiny: Tiny, field: str, pair: tuple[str, str]
) -> None:
    """By the run, by the sequences of pretraining and by splits; one that is alone is an id."""
    rows = [*ROWS]
    for token in (*pair, pair[1]):
        user, item = [token, "j7"] if field == "user_id" else ["w", token]
        rows.append(f"{user}\t{item}\t{len(rows)}")
    last = len(rows) + 1
    said = (
        f"other.inter: lines {last - 2} and {last - 1}, {field}: {pair[0]!r} and {pair[1]!r} "
        "differ only by blanks at their ends"
    )
    with pytest.raises(InputError) as caught:
        load(tiny, text(rows))
    assert said in str(caught.value) and "\n" not in str(caught.value)
    path = tiny.root / "other" / "other.inter"
    for read in (read_interactions, read_sequences):
        with pytest.raises(InputError) as caught:
            read(path)
        assert said in str(caught.value)
    path.write_text(text([row for row in rows if pair[0] not in row.split("\t")]))
    for read in (read_interactions, read_sequences):
        read(path)


def test_an_item_called_like_the_padding_is_refused_in_every_file(tiny: Tiny) -> None:
    items = "item_id:token\tbrand:token\ni0\tb\n[PAD]\tb\n"
    with pytest.raises(InputError, match=r"other.item: line 3, item_id: '\[PAD\]'"):
        load(tiny, text(ROWS), items)
    parts = {"train": "a b\tc", "valid": "a [PAD] b\tc", "test": "a b\td"}
    for part, row in parts.items():
        head = "user_id:token\titem_id_list:token_seq\titem_id:token"
        (tiny.root / "other" / f"other.{part}.inter").write_text(f"{head}\nu\t{row}\n")
    with pytest.raises(InputError, match="other.valid.inter: line 2, item_id_list: .* padding"):
        load(
            tiny,
            text(ROWS),
            benchmark_filename=list(parts),
            alias_of_item_id=["item_id_list"],
            load_col={"inter": ["user_id", "item_id_list", "item_id"]},
        )


def test_ids_must_be_tokens(tiny: Tiny) -> None:
    with pytest.raises(InputError, match="line 1: item_id is float; write item_id:token"):
        load(tiny, text(["1\t2\t3"], HEAD.replace("item_id:token", "item_id:float")))


# Times and numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["token", "token_seq", "float_seq"])
def test_times_of_another_type_are_refused(tiny: Tiny, kind: str) -> None:
    with pytest.raises(InputError, match=f"timestamp is {kind}; TIME_FIELD must be float"):
        load(tiny, text(ROWS, HEAD.replace("timestamp:float", f"timestamp:{kind}")))


@pytest.mark.parametrize("value", ["nan", "NaN", "inf", "-inf", "", "NA", "soon", "1e999"])
def test_a_time_that_is_none_is_refused_with_its_line(tiny: Tiny, value: str) -> None:
    rows = list(ROWS)
    rows[4] = rows[4].rpartition("\t")[0] + f"\t{value}"
    rows[8] = rows[8].rpartition("\t")[0] + f"\t{value}"
    with pytest.raises(InputError) as caught:
        load(tiny, text(rows))
    said = f"other.inter: line 6, timestamp: {value!r} is not a finite number"
    assert said in str(caught.value) and "(1 more such lines)" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        ("float", "$5.5", "price: '$5.5' is not a finite number"),
        ("float", "1,5", "price: '1,5' is not a finite number"),
        ("float", "inf", "price: 'inf' is not a finite number"),
        ("float_seq", "1 x 2", "price: '1 x 2' has an element that is not a finite number"),
        ("float_seq", "1 nan", "price: '1 nan' has an element that is not a finite number"),
    ],
)
def test_a_text_among_numbers_is_named(tiny: Tiny, kind: str, value: str, said: str) -> None:
    items = f"item_id:token\tprice:{kind}\n" + "".join(
        f"i{number}\t{value if number == 4 else number}\n" for number in range(9)
    )
    with pytest.raises(InputError) as caught:
        load(tiny, text(ROWS), items)
    assert f"other.item: line 6, {said}" in str(caught.value)


def test_numbers_that_are_missing_get_the_mean(tiny: Tiny) -> None:
    """RecBole's rule: 1 and 3 are known, so that all others are 2."""
    cells = ["1", "3", "", "NA", "nan", "NaN", "null", "None", "N/A"]
    items = "item_id:token\tprice:float\n" + "".join(
        f"i{number}\t{cell}\n" for number, cell in enumerate(cells)
    )
    dataset = load(tiny, text(ROWS), items).dataset
    tokens = dataset.field2id_token["item_id"].tolist()
    prices = dataset.item_feat["price"].tolist()
    assert [prices[tokens.index(f"i{number}")] for number in range(9)] == [1, 3] + [2] * 7


# Files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "other.inter is empty"),
        (b"\xef\xbb\xbf", "other.inter is empty"),
        (HEAD.encode(), "other.inter is empty: no rows follow the header"),
        (HEAD.encode() + b"\n\n\n", "other.inter is empty: no rows follow the header"),
        (b"\n" + HEAD.encode(), "line 1 is empty"),
        (
            text(ROWS, "user_id\titem_id\ttimestamp").encode(),
            "no name:type fields separated by tabs",
        ),
        (text(ROWS, HEAD.replace("\t", ",")).encode(), "no name:type fields separated by tabs"),
        (text(ROWS, HEAD.replace("\t", " ")).encode(), "no name:type fields separated by tabs"),
        (text(ROWS, HEAD.replace("float", "int")).encode(), "'timestamp:int' is not 'name:type'"),
        (text(ROWS, HEAD + "\titem_id:token").encode(), "the field 'item_id' occurs twice"),
        (text([*ROWS, "u\ti"]).encode(), "line 47: 2 fields where the header has 3"),
        (text([*ROWS[:3], "u\ti\t1\t2"]).encode(), "line 5: 4 fields where the header has 3"),
        (text(ROWS).replace("i3", "i\r3").encode(), "a carriage return inside a line"),
        (text(ROWS).replace("i3", "i\x003").encode(), "a NUL character inside a line"),
        (text(ROWS).replace("i3", "é").encode("latin-1"), "line 5: not UTF-8"),
        (text(ROWS).encode("utf-16"), "line 1: not UTF-8"),
        (
            text(ROWS, "customer:token\tproduct_id:token\twhen:float").encode(),
            "no column 'user_id'; it has customer, product_id, when;",
        ),
        (text(ROWS, HEAD.replace("timestamp", "time")).encode(), "name the column with TIME_FIELD"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_one_line(
    tiny: Tiny, content: bytes, said: str
) -> None:
    with pytest.raises(InputError) as caught:
        load(tiny, content)
    assert said in str(caught.value)
    assert "other.inter" in str(caught.value) and "\n" not in str(caught.value)


def test_the_same_holds_for_ready_made_splits(tiny: Tiny) -> None:
    head = "user_id:token\titem_id_list:token_seq\titem_id:token"
    settings: dict[str, Any] = {
        "benchmark_filename": ["train", "valid", "test"],
        "alias_of_item_id": ["item_id_list"],
        "load_col": {"inter": ["user_id", "item_id_list", "item_id"]},
    }
    folder = tiny.root / "other"
    folder.mkdir()
    for part in settings["benchmark_filename"]:
        (folder / f"other.{part}.inter").write_text(f"{head}\nNA\tnull nan\tNone\n")
    tokens = load(tiny, text(ROWS), **settings).dataset.field2id_token["item_id"].tolist()
    assert sorted(tokens) == ["None", "[PAD]", "nan", "null"]
    for content, said in (
        (f"{head}\nu\ta b\n", "line 2: 2 fields"),
        (f"{head}\n", "other.test.inter is empty"),
        (f"{head}\nu\ta b\t\n", "line 2, item_id: '' is not an ID"),
        ("user_id,item_id\nu,a\n", "no name:type fields"),
    ):
        (folder / "other.test.inter").write_text(content)
        with pytest.raises(InputError) as caught:
            load(tiny, text(ROWS), **settings)
        assert "other.test.inter" in str(caught.value) and said in str(caught.value)


def test_mark_of_byte_order_crlf_and_blank_lines_change_nothing(tiny: Tiny) -> None:
    plain = sequences_of(load(tiny, text(ROWS)))
    lines = text(ROWS).replace("\n", "\r\n").replace("u3", "\r\nu3", 1)
    assert sequences_of(load(tiny, "\ufeff" + lines)) == plain
    assert sequences_of(load(tiny, text(ROWS).encode("utf-16"), encoding="utf-16")) == plain


def test_a_quotation_that_never_closes_takes_no_line_with_it(tiny: Tiny) -> None:
    items = "item_id:token\ttitle:token_seq\n" + "".join(
        f'i{number}\t{number}" pipe\n' for number in range(9)
    )
    dataset = load(tiny, text(ROWS), items).dataset
    assert len(dataset.item_feat) == 10
    assert {'0"', '8"', "pipe"} <= set(dataset.field2id_token["title"].tolist())


def test_reading_many_rows_is_fast(tiny: Tiny) -> None:
    """Of 200,000 rows; in the processor's time, which other work on the machine does not move."""
    rows = [f"u{number % 20000}\ti{number % 997}\t{number}" for number in range(200_000)]
    folder = tiny.root / "other"
    folder.mkdir()
    (folder / "other.inter").write_text(text(rows))
    config = tiny.make_config("SASRec", dataset="other")
    dataset = SemanticIDDataset.__new__(SemanticIDDataset)
    dataset.config, dataset.logger = config, logging.getLogger()
    dataset._get_preset()
    dataset._get_field_from_config()
    started = time.process_time()
    frame = dataset._load_feat(str(folder / "other.inter"), "inter")
    assert time.process_time() - started < 2
    assert frame is not None and len(frame) == 200_000
    assert frame["timestamp"].dtype == np.float64


# Which users and items there are -----------------------------------------------------------------


def counts_of(loaded: Splits) -> dict[str, int]:
    return data_counts(*loaded)


@pytest.mark.parametrize("kind", ["item", "user"])
def test_rows_of_features_do_not_decide_what_is_ranked(tiny: Tiny, kind: str) -> None:
    """Two without a row, one with a row and no interaction: the same data as without features."""
    plain = load(tiny, text(ROWS))
    letter, name = kind[0], f"other.{kind}"
    lines = [f"{kind}_id:token\tbrand:token\ttags:token_seq\tprice:float\tsize:float_seq"]
    lines += [f"{letter}{number}\tb{number}\tx y{number}\t{number}\t1 2" for number in range(2, 10)]
    (tiny.root / "other" / name).write_text("\n".join([*lines, ""]))
    columns = {
        "inter": ["user_id", "item_id", "timestamp"],
        kind: [f"{kind}_id", "brand", "tags", "price", "size"],
    }
    loaded = load(tiny, text(ROWS), load_col=columns)
    assert counts_of(loaded) == counts_of(plain)
    assert sequences_of(loaded) == sequences_of(plain)
    for field in ("user_id", "item_id"):
        ours, theirs = loaded.dataset.field2id_token[field], plain.dataset.field2id_token[field]
        assert ours.tolist() == theirs.tolist()
    feat = getattr(loaded.dataset, f"{kind}_feat")
    tokens = loaded.dataset.field2id_token[f"{kind}_id"].tolist()
    missing = tokens.index(f"{letter}0")
    assert feat["brand"][missing] == 0 and feat["tags"][missing].tolist() == [0, 0]
    assert feat["price"][missing] == np.mean([2, 3, 4, 5, 6, 7, 8])
    brands = loaded.dataset.field2id_token["brand"].tolist()
    assert brands[feat["brand"][tokens.index(f"{letter}5")]] == "b5"
    first, second = loaded.dataset.notes
    assert first.startswith(f"{name}: 2 of 9 {kind}s have no row")
    assert f"{letter}0" in first and f"{letter}1" in first and "10 interactions" in first
    assert second == f"{name}: 1 of 8 {kind}s have no interaction and are left out ({letter}9)"


def test_a_filter_leaves_no_item_behind(tiny: Tiny) -> None:
    """Items that lose all interactions to a filter are no candidates in models with features."""
    rows = [*ROWS, *(f"u{user}\trare{user}\t9" for user in range(3))]
    items = "item_id:token\tbrand:token\n" + "".join(
        f"{item}\tb\n" for item in [*(f"i{n}" for n in range(9)), *(f"rare{n}" for n in range(3))]
    )
    filters = {"val_interval": {"timestamp": "[0,8]"}}
    plain = load(tiny, text(rows), **filters)
    loaded = load(tiny, text(rows), items, **filters)
    assert plain.dataset.item_num == loaded.dataset.item_num == 10


def test_two_rows_of_one_item_are_refused(tiny: Tiny) -> None:
    items = "item_id:token\tbrand:token\n" + "".join(f"i{n % 9}\tb{n}\n" for n in range(10))
    with pytest.raises(InputError, match="other.item: line 11: item 'i0' occurs a second time"):
        load(tiny, text(ROWS), items)
    (tiny.root / "other" / "other.user").write_text("user_id:token\tage:float\nu1\t1\nu1\t2\n")
    columns = {"inter": ["user_id", "item_id", "timestamp"], "user": ["user_id", "age"]}
    with pytest.raises(InputError, match="other.user: line 3: user 'u1' occurs a second time"):
        load(tiny, text(ROWS), load_col=columns)


def test_load_col_that_leaves_out_or_misspells_is_refused(tiny: Tiny) -> None:
    with pytest.raises(InputError, match="excludes 'timestamp'"):
        load(tiny, text(ROWS), load_col={"inter": ["user_id", "item_id"]})
    items = "item_id:token\tbrand:token\ni0\tb\n"
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "brnad"]}
    with pytest.raises(InputError, match="no column 'brnad'; .*did you mean 'brand'"):
        load(tiny, text(ROWS), items, load_col=columns)


# Too short, and too long -------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("augmentation", ["none", "prefix"])
def test_histories_too_short_to_be_split(tiny: Tiny, length: int, augmentation: str) -> None:
    rows = [row for row in ROWS if int(row.rpartition("\t")[2]) < length]
    with pytest.raises(InputError, match="other: no user has enough interactions .4 are needed"):
        load(tiny, text(rows), augmentation=augmentation)


def test_a_user_who_has_seen_everything_is_said(tiny: Tiny) -> None:
    rows = [*ROWS, *(f"all\ti{place % 9}\t{place}" for place in range(10))]
    loaded = load(tiny, text(rows))
    (note,) = loaded.dataset.notes
    assert note.startswith("1 of 10 test users have seen all 9 items")
    assert load(tiny, text(ROWS)).dataset.notes == []


def test_such_a_user_has_no_hit_and_no_model_diverges(tiny: Tiny) -> None:
    """QBERT4Rec leaves visible items out: all scores of that row are minus infinity."""
    folder: Path = tiny.root / "other"
    folder.mkdir()
    rows = [*ROWS, *(f"all\ti{place % 9}\t{place}" for place in range(10))]
    (folder / "other.inter").write_text(text(rows))
    config = tiny.make_config(
        "IDBERT4Rec", dataset="other", MAX_ITEM_LIST_LENGTH=20, exclude_visible="on", epochs=1
    )
    trainer, loaded = fitted(config)
    trainer.evaluate(loaded.test, load_best_model=False)
    user = loaded.dataset.field2token_id["user_id"]["all"]
    row = trainer.ranks.users.tolist().index(user)
    assert (trainer.ranks.raw[row], trainer.ranks.unseen[row]) == (9, 9)


@pytest.mark.parametrize("numerical", [[], ["price"]])
def test_features_that_a_model_leaves_out_are_said(tiny: Tiny, numerical: list[str]) -> None:
    folder: Path = tiny.root / "other"
    folder.mkdir()
    (folder / "other.inter").write_text(text(ROWS))
    lines = ["item_id:token\tbrand:token\tprice:float", *(f"i{n}\tb{n}\t{n}" for n in range(9)), ""]
    (folder / "other.item").write_text("\n".join(lines))
    config = tiny.make_config(
        "FDSA",
        dataset="other",
        selected_features=["brand", "price"],
        numerical_features=numerical,
        load_col={
            "inter": ["user_id", "item_id", "timestamp"],
            "item": ["item_id", "brand", "price"],
        },
    )
    notes = load_splits(config).dataset.notes
    assert [note.partition(":")[0] for note in notes] == ["FDSA ignores price"] * (not numerical)


def test_a_model_without_semantic_ids_names_the_command_that_makes_them(tiny: Tiny) -> None:
    (tiny.folder / "toy.semid").unlink()
    with pytest.raises(InputError, match="`recbole-qbert tokenize --dataset=toy` makes them"):
        fitted(tiny.make_config("QBERT4Rec"))
