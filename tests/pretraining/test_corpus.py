"""Batches of a corpus against plain loops over the toy sequences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import timed_rows
from two_domains import Toys, make_toys, write_ids  # noqa: F401

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.embeddings import read_embeddings, write_embeddings
from recbole_qbert.data.semid import SemanticIDTable, write_semantic_ids
from recbole_qbert.pretraining.corpus import TRAINING, VALID, FieldNames

NAMES = FieldNames("items", "length", "target")


@pytest.mark.parametrize(("after", "held_out"), [(TRAINING, 2), (VALID, 1)])
@pytest.mark.parametrize("length", [3, 50])
def test_batches_are_what_a_loop_says(toys: Toys, after: int, held_out: int, length: int) -> None:
    corpus = toys.corpus()
    for domain, name in enumerate("AB"):
        part, table = corpus.parts[domain], toys.tables[name]
        long = [items for items in toys.sequences[name].values() if len(items) >= 4]
        batch = corpus.batch(domain, part.users, after, length, NAMES)
        assert batch["domain"].tolist() == [domain] * len(long)
        for row, items in enumerate(long):
            known = items[: len(items) - held_out]
            assert table.items[int(batch["target"][row]) - 1] == known[-1]
            history = known[:-1][-length:]
            assert int(batch["length"][row]) == len(history)
            found = batch["items"][row].tolist()
            assert [table.items[number - 1] for number in found[: len(history)]] == history
            assert found[len(history) :] == [0] * (length - len(history))


def test_seen_items_are_the_whole_training_part(toys: Toys) -> None:
    corpus = toys.corpus()
    part, table = corpus.parts[1], toys.tables["B"]
    rows, numbers = corpus.seen_items(1, part.users)
    long = [items for items in toys.sequences["B"].values() if len(items) >= 4]
    for row, items in enumerate(long):
        assert [table.items[number - 1] for number in numbers[rows == row]] == items[:-2]


def test_short_users_are_left_out(toys: Toys) -> None:
    part = toys.corpus().parts[1]
    assert part.sequences.n_users == len(toys.sequences["B"])
    assert len(part.users) == sum(len(items) >= 4 for items in toys.sequences["B"].values())
    assert len(part.users) < part.sequences.n_users


def test_test_and_valid_items_never_train(toys: Toys) -> None:
    """Other test and valid items, the same training batches; the valid batches notice."""
    before = toys.corpus("A")
    users = before.parts[0].users
    training = before.batch(0, users, TRAINING, 50, NAMES)
    valid = before.batch(0, users, VALID, 50, NAMES)
    changed = {user: [*items[:-2], "i0", "i1"] for user, items in toys.sequences["A"].items()}
    rows = timed_rows(changed)
    header = "user_id:token\titem_id:token\ttimestamp:float"
    lines = [f"{user}\t{item}\t{time!r}" for user, item, time in rows]
    (toys.root / "A" / "A.inter").write_text("\n".join([header, *lines, ""]), encoding="utf-8")
    after = toys.corpus("A")
    again = after.batch(0, users, TRAINING, 50, NAMES)
    assert all(torch.equal(again[name], training[name]) for name in training.interaction)
    assert not torch.equal(after.batch(0, users, VALID, 50, NAMES)["target"], valid["target"])


def test_the_catalog_holds_both_domains(toys: Toys) -> None:
    corpus = toys.corpus()
    assert corpus.domain_starts == [0, 30, 50]
    assert corpus.num("item_id") == 51
    assert corpus.codec.codebook_sizes == (8, 8, 8)
    for domain, name in enumerate("AB"):
        first, end = corpus.domain_starts[domain : domain + 2]
        codes = corpus.item_codes[1 + first : 1 + end].numpy()
        np.testing.assert_array_equal(codes, toys.tables[name].codes)
    assert not corpus.item_codes[0].any()
    assert len(corpus.describe()) == 2


def test_other_vocabularies_have_codes_of_their_own(toys: Toys) -> None:
    write_ids(toys.root, "B", "another")
    corpus = toys.corpus()
    assert corpus.vocabularies == ["shared", "another"]
    assert corpus.codec.codebook_sizes == (16, 16, 16)
    np.testing.assert_array_equal(corpus.item_codes[31:].numpy(), toys.tables["B"].codes + 8)
    assert "no codes are shared between A, B" in corpus.describe()[-1]


def test_repeats(toys: Toys) -> None:
    assert not toys.corpus("B").training_repeats()
    path = toys.root / "B" / "B.inter"
    lines = path.read_text(encoding="utf-8").splitlines()
    # The second item of the first user once more, before everything else of that user.
    user, item, _ = lines[2].split("\t")
    path.write_text("\n".join([*lines, f"{user}\t{item}\t-1.0", ""]), encoding="utf-8")
    assert toys.corpus("B").training_repeats()
    # The same item as its valid target is no repeat in training.
    user, item, time = lines[1].split("\t")
    count = sum(line.startswith(f"{user}\t") for line in lines)
    last_but_one = f"{user}\t{item}\t{10.0 * (count - 1) - 5.0}"
    path.write_text("\n".join([*lines, last_but_one, ""]), encoding="utf-8")
    assert not toys.corpus("B").training_repeats()


def test_training_rows_are_the_last_training_items(toys: Toys) -> None:
    corpus = toys.corpus()
    items, lengths, chance = corpus.training_rows(batch_size=5, max_length=3)
    expected = []
    for name, start in zip("AB", corpus.domain_starts, strict=False):
        number = {item: start + n for n, item in enumerate(toys.tables[name].items, start=1)}
        long = [row for row in toys.sequences[name].values() if len(row) >= 4]
        rows = [[number[item] for item in row[:-2][-3:]] for row in long]
        expected += [(row, min(1.0, 5 / len(rows))) for row in rows]
    found = [row.tolist() for row in items.split(lengths.tolist())]
    assert sorted(zip(found, chance.tolist(), strict=True)) == sorted(expected)


def test_what_cannot_be_used(toys: Toys) -> None:
    table = toys.tables["B"]
    few = SemanticIDTable(table.items[:-1], table.codes[:-1], table.codebook_sizes)
    write_semantic_ids(toys.root / "B" / "B.semid", few, {})
    with pytest.raises(InputError, match="1 of 20 items have no semantic ID"):
        toys.corpus()
    wide = SemanticIDTable(table.items, table.codes, (8, 8, 9))
    write_semantic_ids(toys.root / "B" / "B.semid", wide, {})
    with pytest.raises(InputError, match="codebook sizes differ"):
        toys.corpus()
    (toys.root / "B" / "B.semid").unlink()
    with pytest.raises(InputError, match="no such file"):
        toys.corpus()
    header = "user_id:token\titem_id:token\ttimestamp:float"
    short = "\n".join([header, *(f"u\ti{n}\t{n}.0" for n in range(3)), ""])
    (toys.root / "A" / "A.inter").write_text(short, encoding="utf-8")
    with pytest.raises(InputError, match="no user has 4 interactions"):
        toys.corpus("A")


def test_vectors_are_the_means_of_the_parts_of_each_domains_items(toys: Toys) -> None:
    toys.write_vectors("text", 6, lacking=1)
    toys.write_vectors("image", 4)
    corpus = toys.corpus("AB", ["text", "image"])
    assert corpus.field2seqlen == {"text": 6, "image": 4}
    assert corpus.encoders == {"text": {"name": "E"}, "image": {"name": "E"}}
    for modality in ("text", "image"):
        found = corpus.item_feat[modality]
        assert found.shape == (51, corpus.field2seqlen[modality]) and not found[0].any()
        for start, name in zip(corpus.domain_starts, "AB", strict=False):
            table = read_embeddings(toys.root / name / f"{name}.{modality}.npz")
            for row, item in enumerate(toys.tables[name].items, start=start + 1):
                if item not in table.items:
                    assert modality == "text" and not found[row].any()
                    continue
                place = table.items.index(item)
                parts = table.vectors[place][table.mask[place]]
                np.testing.assert_allclose(found[row], parts.mean(axis=0), rtol=1e-5)
    told = corpus.describe()[-2:]
    for name, line in zip("AB", told, strict=True):
        last = toys.tables[name].items[-1]
        assert line.startswith(f"{name}.text.npz: ") and repr(last) in line


def test_training_sequences_are_those_of_all_domains(toys: Toys) -> None:
    corpus = toys.corpus()
    items, offsets = corpus.training_sequences()
    found = [row.tolist() for row in items.tensor_split(offsets[1:-1])]
    expected = []
    for name, start in zip("AB", corpus.domain_starts, strict=False):
        number = {item: start + n for n, item in enumerate(toys.tables[name].items, start=1)}
        long = [row for row in toys.sequences[name].values() if len(row) >= 4]
        expected += [[number[item] for item in row[:-2]] for row in long]
    assert found == expected


def test_vectors_that_cannot_be_compared(toys: Toys) -> None:
    toys.write_vectors("text", 6)
    with pytest.raises(InputError, match="A.image.npz: no such file"):
        toys.corpus("AB", ["text", "image"])
    table = read_embeddings(toys.root / "B" / "B.text.npz")
    table.meta["encoder"] = {"name": "another"}
    write_embeddings(toys.root / "B" / "B.text.npz", table)
    with pytest.raises(InputError, match="B.text.npz: its encoder, or the data that it was"):
        toys.corpus("AB", ["text"])
