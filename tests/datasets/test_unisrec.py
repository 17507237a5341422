"""UniSRec's folders: there and back gives the same bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from atomic_toys import placed, unisrec_like, write_inter
from recbole_alone import load_alone

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.hashes import sha256_folder
from recbole_qbert.data.atomic import read_columns
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.embeddings import EmbeddingTable, read_embeddings, write_embeddings
from recbole_qbert.data.merge import merge
from recbole_qbert.datasets.unisrec import export_folder, import_folder


def walks(n_users: int, n_items: int, longest: int) -> dict[str, list[str]]:
    draw = np.random.default_rng(5)
    lengths = draw.integers(4, longest, n_users)
    return {
        str(user): draw.integers(0, n_items, length).astype(str).tolist()
        for user, length in enumerate(lengths)
    }


def test_unisrec_comes_back_byte_for_byte(tmp_path: Path) -> None:
    """With sequences far longer than the 50 items that a history keeps."""
    sequences = walks(20, 30, 120)
    unisrec_like(tmp_path / "u", sequences, 30)
    into = DatasetPaths("x", tmp_path / "x")
    facts = import_folder(tmp_path / "u", "x", into)
    total = sum(map(len, sequences.values()))
    counts = {"users": 20, "items": 30, "interactions": total}
    assert facts == {**counts, "dimension": 4, "remarks": []}
    expected = [
        f"u{user}\ti{item}\t{place}"
        for user, items in sequences.items()
        for place, item in enumerate(items)
    ]
    assert into.file("inter").read_text().splitlines()[1:] == expected
    assert into.file("item").read_text().splitlines()[2] == "i1\ttext of 1"
    table = read_embeddings(into.file("text.npz"))
    assert table.vectors[7, 0].tolist() == [28, 29, 30, 31] and table.items[7] == "i7"
    export_folder(into, tmp_path / "again", ["text"])
    assert sha256_folder(tmp_path / "u") == sha256_folder(tmp_path / "again")


def test_quotes_and_users_without_a_history(tmp_path: Path) -> None:
    unisrec_like(tmp_path / "u", {"0": list("01234")}, 5)
    path = tmp_path / "u" / "x.text"
    path.write_text(path.read_text().replace("\ttext of 1", '\t"text" of 1'))
    into = DatasetPaths("x", tmp_path / "x")
    remarks = import_folder(tmp_path / "u", "x", into)["remarks"]
    assert remarks == []
    assert into.file("item").read_text().splitlines()[2] == 'i1\t"""text"" of 1"'
    assert read_columns(into.file("item"), ["text"])["text"][3] == '"text" of 1'
    export_folder(into, tmp_path / "again", ["text"])
    assert (tmp_path / "again" / "x.text").read_text() == path.read_text()
    write_inter(tmp_path / "y" / "y.inter", placed({"u": ["p", "q"], "v": ["p"]}))
    facts = export_folder(DatasetPaths("y", tmp_path / "y"), tmp_path / "out", [])
    assert facts["lost"] == ["1 user with a single item and so without history"]


def test_a_history_that_is_not_so(tmp_path: Path) -> None:
    unisrec_like(tmp_path / "u", {"0": list("01234"), "1": list("43210")}, 5)
    path = tmp_path / "u" / "x.test.inter"
    path.write_text(path.read_text().replace("4 3 2 1\t0", "4 3 1 2\t0"))
    with pytest.raises(
        InputError, match=r"x\.test\.inter: line 3: the history does not end with the target"
    ):
        import_folder(tmp_path / "u", "x", DatasetPaths("x", tmp_path / "x"))
    path.write_text(path.read_text().replace("4 3 1 2\t0", "4 3 b 1\t0"))
    with pytest.raises(
        InputError, match=r"x\.test\.inter: line 3: the history and the target are not numbers"
    ):
        import_folder(tmp_path / "u", "x", DatasetPaths("x", tmp_path / "x"))
    path.write_text(path.read_text().replace("4 3 b 1\t0", "4 3 2 1\tb"))
    with pytest.raises(
        InputError, match=r"x\.test\.inter: line 3: the history and the target are not numbers"
    ):
        import_folder(tmp_path / "u", "x", DatasetPaths("x", tmp_path / "x"))
    path.write_text("user_id:token\titem_id:token\n0\t1\n")
    with pytest.raises(InputError, match="no column 'item_id_list'"):
        import_folder(tmp_path / "u", "x", DatasetPaths("x", tmp_path / "x"))
    assert not (tmp_path / "x").exists()


def test_faults_of_features(tmp_path: Path) -> None:
    unisrec_like(tmp_path / "u", {"0": list("01234")}, 5)
    (tmp_path / "u" / "x.feat1CLS").write_bytes(b"\0" * 28)
    with pytest.raises(InputError, match="28 bytes are not a float32 matrix of 5 rows"):
        import_folder(tmp_path / "u", "x", DatasetPaths("x", tmp_path / "x"))
    assert not (tmp_path / "x").exists()
    write_inter(tmp_path / "y" / "y.inter", placed({"u": ["p", "q", "r"]}))
    table = EmbeddingTable(("p",), np.ones((1, 1, 2), np.float32), np.ones((1, 1), bool), {})
    write_embeddings(tmp_path / "y" / "y.text.npz", table)
    with pytest.raises(InputError, match="2 items have no vector: q, r; UniSRec needs all"):
        export_folder(DatasetPaths("y", tmp_path / "y"), tmp_path / "out", [])
    with pytest.raises(InputError, match=r"y\.item: no such file to read title from"):
        export_folder(DatasetPaths("y", tmp_path / "y"), tmp_path / "out", ["title"])
    assert not (tmp_path / "out").exists()


def test_recbole_alone_reads_what_was_imported_and_merged(tmp_path: Path) -> None:
    """A UniSRec folder's sequences, items' texts and all; and they twice in one data set."""
    sequences = walks(20, 30, 60)
    unisrec_like(tmp_path / "u", sequences, 30)
    data = tmp_path / "dataset"
    domains = [DatasetPaths(name, data / name) for name in "xy"]
    for into in domains:
        import_folder(tmp_path / "u", "x", into)
    merge(domains, DatasetPaths("xy", data / "xy"))
    read = load_alone(data, ["x", "xy"], tmp_path)
    total = sum(map(len, sequences.values()))
    pairs = [(f"u{user}", f"i{item}") for user, items in sequences.items() for item in items]
    one, both = read["x"], read["xy"]
    bought = len({item for items in sequences.values() for item in items})
    assert one["counts"] == [20, bought, total]
    assert sorted(map(tuple, one["pairs"])) == sorted(pairs)
    assert one["fields"] == ["item_id", "text", "timestamp", "user_id"]
    assert one["last"] == {f"u{user}": f"i{items[-1]}" for user, items in sequences.items()}
    assert both["counts"] == [40, 2 * bought, 2 * total]
    assert sorted(map(tuple, both["pairs"])) == sorted(
        (f"{name}/{user}", f"{name}/{item}") for name in "xy" for user, item in pairs
    )
    assert both["last"] == {
        f"{name}/u{user}": f"{name}/i{items[-1]}"
        for name in "xy"
        for user, items in sequences.items()
    }


def test_files_with_only_headers(tmp_path: Path) -> None:
    unisrec_like(tmp_path / "u", {}, 5)
    into = DatasetPaths("x", tmp_path / "x")
    with pytest.raises(InputError, match=r"x\.train\.inter is empty: no rows follow the header"):
        import_folder(tmp_path / "u", "x", into)
    assert not (tmp_path / "x").exists()
