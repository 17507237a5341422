"""A benchmark whose rows never see a fifth of the items in training."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import N_ITEMS, Tiny
from toy_plan import SETTINGS, lines_of, write_plan

from recbole_qbert.cli import main
from recbole_qbert.data.domain import DatasetPaths, find_domain
from recbole_qbert.data.embeddings import EmbeddingTable, write_embeddings
from recbole_qbert.data.semid import read_semantic_ids
from recbole_qbert.evaluation.ranking import per_row, read_ranks
from recbole_qbert.experiments.benchmark.ids import make_ids
from recbole_qbert.tokenizer.artifact import Tokenizer
from recbole_qbert.tokenizer.settings import tokenize_settings

COLD = {"cold_items": 0.2, "cold_seed": 4}
IDS = {"modalities": ["text"], "n_levels": 2, "codebook_size": 4}


def _plan(tiny: Tiny, **content: Any) -> str:
    vectors = np.random.default_rng(2).normal(size=(N_ITEMS, 1, 6)).astype(np.float32)
    items = tuple(f"i{number}" for number in range(N_ITEMS))
    meta = {"modality": "text", "encoder": {"name": "toy"}}
    table = EmbeddingTable(items, vectors, np.ones((N_ITEMS, 1), np.bool_), meta)
    write_embeddings(tiny.folder / "toy.text.npz", table)
    kept = {"name": "kept", "model": "QBERT4Rec", "ids": {}}
    rows = [
        {"model": "QBERT4Rec", "ids": {}, "settings": {"softmax_items": "trained"}},
        kept | {"settings": {"cold_interactions": "keep"}},
        "ContentKNN",
        "SASRec",
    ]
    base: dict[str, Any] = {
        "models": rows,
        "ids": IDS,
        "settings": SETTINGS | COLD | {"epochs": 1},
        "per_model": {"ContentKNN": {"item_vectors": {"text": "toy/toy.text.npz"}}},
    }
    return str(write_plan(tiny, **(base | content)))


def test_the_tables_against_the_ranks(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", _plan(tiny), "--output=out"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("cold targets, seen excluded: HR@10") == 4
    text = Path("out/table.md").read_text(encoding="utf-8")
    assert "by whether their target was drawn by cold_items" in text
    # The row that trains on all interactions counts more of them for each target.
    assert "so its groups differ: kept: 0, " in text
    assert "†" not in text  # all rows are tested on the same users, targets and items
    with open("out/table.csv", encoding="utf-8", newline="") as handle:
        found = {
            (row["model"], row["ranking"], row["metric"]): float(row["value"])
            for row in csv.DictReader(handle)
            if row["seed"] == "1" and row["split"] == "test"
        }
    by_row = dict(
        zip(["QBERT4Rec", "kept", "ContentKNN", "SASRec"], lines_of("saved"), strict=True)
    )
    flags = []
    for name, run in by_row.items():
        ranks, counts = read_ranks(Path(run["folder"]) / "test_ranks.npz")
        assert ranks.lists is not None and ranks.lists.cold is not None and counts is not None
        cold, trained = ranks.lists.cold, counts[ranks.lists.targets] > 0
        assert name == "kept" or not trained[cold].any()
        flags.append(dict(zip(ranks.users.tolist(), cold.tolist(), strict=True)))
        for prefix, ranking in (("", "all items"), ("unseen_", "seen excluded")):
            for group, rows in (("cold", cold), ("warm", ~cold)):
                mean = per_row(f"{prefix}hit@10", ranks)[rows].mean()
                assert found[name, ranking, f"hit@10 item: {group}"] == pytest.approx(mean)
    assert all(each == flags[0] for each in flags) and any(flags[0].values())
    assert "held out of training" in printed and "marked, but trained on" in printed


def test_ids_do_not_depend_on_held_out_interactions(tiny: Tiny) -> None:
    """Another user history with held-out items, the same last items: the same semantic IDs."""
    assert main(["benchmark", _plan(tiny), "--models=QBERT4Rec", "--checkpoint_dir=one"]) == 0
    (path,) = Path("one/ids").glob("*/toy.semid")
    (tokenizer,) = path.parent.glob("tokenizer")
    before, stages = read_semantic_ids(path), [*tokenizer.glob("stage2.*")]
    assert before.n_items == N_ITEMS and len(stages) == 2
    run = lines_of("one")[0]
    ranks, _ = read_ranks(Path(run["folder"]) / "test_ranks.npz")
    assert ranks.lists is not None
    cold = {items[-1] for items in tiny.sequences.values()}
    warm = [*path.parent.joinpath("toy.inter").read_text().split()]
    cold -= {*warm}
    assert cold
    rows = [
        (user, sorted(cold)[0] if item in cold and item != tiny.sequences[user][-1] else item, time)
        for user, item, time in tiny.rows
    ]
    assert rows != tiny.rows
    tiny.write_inter(rows)
    assert main(["benchmark", _plan(tiny), "--models=QBERT4Rec", "--checkpoint_dir=two"]) == 0
    (again,) = Path("two/ids").glob("*/toy.semid")
    assert read_semantic_ids(again) == before
    for stage in stages:
        assert stage.read_bytes() == (again.parent / "tokenizer" / stage.name).read_bytes()


def test_ids_that_may_know_held_out_interactions(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    """The data set's own IDs are refused; named by the user, or without held-out items, not."""
    path = _plan(tiny, models=["QBERT4Rec"], per_model={})
    assert main(["benchmark", path]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "QBERT4Rec on toy: cold_items: toy.semid may be made with" in line
    assert not Path("saved").exists()
    for flag in ("--semantic_id_file=toy/toy.semid", "--cold_interactions=keep"):
        assert main(["benchmark", path, flag]) == 0
    pretrained = [{"name": "p", "model": "QBERT4Rec", "ids": {}, "pretrain": {"sources": ["toy"]}}]
    path = _plan(tiny, models=pretrained, reference="p", per_model={})
    assert main(["benchmark", path]) == 2
    assert "was trained on toy with another cold_items, so that it may" in capsys.readouterr().err


def test_a_table_that_the_data_set_has_no_more_is_not_read_again(tiny: Tiny) -> None:
    """The table itself lies elsewhere, and is still there."""
    _plan(tiny)
    linked = [tiny.folder / f"toy.image.{suffix}" for suffix in ("npz", "npz.json")]
    for path in linked:
        kept = tiny.root / path.name
        kept.write_bytes((tiny.folder / path.name.replace("image", "text")).read_bytes())
        path.symlink_to(kept)
    domain, work = find_domain("toy", tiny.root), DatasetPaths("toy", tiny.root / "work")
    given = {"modalities": ["text", "image"], "streams": ["content"], "n_levels": 3}
    settings = tokenize_settings((), IDS | given)
    for streams in (["text", "image"], ["text"]):
        make_ids(domain, work, settings, None)
        assert list(Tokenizer.load(work.folder / "tokenizer").quantizers) == streams
        for path in linked:
            path.unlink(missing_ok=True)
    assert not list(work.folder.glob("toy.image*"))
