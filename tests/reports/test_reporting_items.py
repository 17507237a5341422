"""The map of items, what stage 1 left behind, and example users."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import N_ITEMS, Tiny

from recbole_qbert.cli import main
from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import write_json
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.experiments.run import run_models
from recbole_qbert.reports.inspection.catalog import Catalog, open_catalog
from recbole_qbert.reports.inspection.neighbors import Space
from recbole_qbert.reports.item_map import (
    MOST_GROUPS,
    Stage1,
    depth_chart,
    loss_chart,
    map_chart,
    project,
    read_stage1,
    space_section,
)
from recbole_qbert.reports.page import render
from recbole_qbert.reports.users import (
    BestRun,
    ExampleUser,
    best_bundle,
    example_users,
    users_section,
)
from recbole_qbert.serving.recommender import Recommender
from recbole_qbert.training.checkpoint import save_checkpoint


@pytest.fixture
def catalog(tiny: Tiny) -> Catalog:
    return open_catalog(tiny.folder / "toy.semid", tiny.folder / "toy.item", "title", "class")


def write_tokenizer(folder: Path, streams: bool = True, name: str = "toy") -> np.ndarray:
    """Stage 1's files over items i0 to i19, and IDs of all items; another data set between them."""
    keys = [[name, f"i{row}"] for row in range(20)]
    keys.insert(1, ["else", "i1"])
    fused = np.random.default_rng(0).normal(size=(len(keys), 6)).astype(np.float32)
    history = [{"a-b": 3.0, "total": 4.0}, {"a-b": 1.0, "total": 2.0}]
    state = {"history": history, "settings": {"gate": "dynamic"}}
    content = {"fused": fused, "state": state, "report": {"depths": [5, 0, 16]}}
    save_checkpoint(folder / "stage1.safetensors", content)
    later = [[name, f"i{row}"] for row in range(20, N_ITEMS)]
    save_checkpoint(folder / "ids.safetensors", {"keys": [*keys, *later]})
    report = {"stage 1": {}} if streams else {"stage 2, text": {}}
    write_json(folder / "tokenizer.json", {"report": report})
    return np.delete(fused, 1, axis=0)


# Map ---------------------------------------------------------------------------------------------


def test_pca_against_a_singular_value_decomposition() -> None:
    """Of the vectors brought to length 1; each axis up to its sign."""
    vectors = np.random.default_rng(1).normal(size=(40, 7)) * [5, 3, 1, 1, 1, 1, 1]
    points = project(vectors, "pca")
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    left, sizes, _ = np.linalg.svd(unit - unit.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(points), np.abs(left[:, :2] * sizes[:2]), atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 4), (5, 1), (6, 2), (40, 60)])
@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_small_and_thin_vectors_have_a_map(shape: tuple[int, int], method: str) -> None:
    vectors = np.random.default_rng(2).normal(size=shape)
    points = project(vectors, method)
    assert points.shape == (shape[0], 2) and np.isfinite(points).all()
    np.testing.assert_array_equal(points, project(vectors, method))
    with pytest.raises(InputError, match="not finite"):
        project(vectors * np.nan, method)


def test_near_items_stay_near_by_tsne() -> None:
    """Three far groups of vectors are three groups on the map."""
    draw = np.random.default_rng(3)
    vectors = np.repeat(np.eye(3), 20, axis=0) * 10 + draw.normal(size=(60, 3)) * 0.1
    points = project(vectors, "tsne").reshape(3, 20, 2)
    middles = points.mean(axis=1)
    spread = np.abs(points - middles[:, None]).max()
    gaps = np.linalg.norm(middles[:, None] - middles[None], axis=2)[np.triu_indices(3, 1)]
    assert gaps.min() > 2 * spread


def test_every_item_is_on_the_map_in_its_category(catalog: Catalog) -> None:
    vectors = np.random.default_rng(4).normal(size=(N_ITEMS, 5))
    one = map_chart(catalog, Space("v", np.arange(N_ITEMS), vectors), "pca")
    texts = [text for series in one.series for text in series.texts]
    assert sorted(text.split("\n")[0] for text in texts) == sorted(
        f"Thing {number}" for number in range(N_ITEMS)
    )
    assert catalog.categories is not None
    for series in one.series:
        name, count = series.name.rsplit(" ", 1)
        assert {text.split("\n")[1] for text in series.texts} == {name}
        assert count == f"({catalog.categories.count(name)})"
    assert "first word of class" in one.title


def test_without_categories_the_first_codes_color_the_map(tiny: Tiny) -> None:
    catalog = open_catalog(tiny.folder / "toy.semid")
    vectors = np.random.default_rng(4).normal(size=(N_ITEMS, 5))
    one = map_chart(catalog, Space("v", np.arange(N_ITEMS), vectors), "pca")
    counts = np.bincount(catalog.codes[:, 0])
    shown = {series.name: len(series.x) for series in one.series}
    assert shown == {f"a_{code} ({n})": n for code, n in enumerate(counts) if n}
    assert len(shown) <= MOST_GROUPS


def test_a_large_catalog_is_sampled(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_qbert.reports.item_map.MOST_ITEMS", 12)
    vectors = np.random.default_rng(4).normal(size=(N_ITEMS, 5))
    one = map_chart(catalog, Space("v", np.arange(N_ITEMS), vectors), "pca")
    assert sum(len(series.x) for series in one.series) == 12
    assert f"12 of {N_ITEMS} items" in one.title


# Stage 1 -----------------------------------------------------------------------------------------


def test_stage_1_is_read_back(tmp_path: Path) -> None:
    fused = write_tokenizer(tmp_path)
    found = read_stage1(tmp_path, "toy")
    assert found is not None
    assert found.items == [f"i{row}" for row in range(20)]
    np.testing.assert_array_equal(found.fused, fused)
    assert (found.depths, found.gate) == ([5, 0, 16], "dynamic")
    depth = depth_chart(found)
    assert depth.series[0].y == (5, 0, 16) and "23.8%" in depth.series[0].texts[0]
    loss = loss_chart(found)
    assert loss is not None and [each.name for each in loss.series] == ["a-b"]
    assert loss.series[0].y == (3.0, 1.0)
    assert loss_chart(Stage1([], fused, [1], [], "fixed")) is None
    assert read_stage1(tmp_path, "another") is None


def test_a_stage_1_that_the_ids_did_not_use_is_passed_over(tiny: Tiny, catalog: Catalog) -> None:
    """The map is then of the embeddings; without any there is no section."""
    folder, domain = tiny.folder / "tokenizer", DatasetPaths("toy", tiny.folder)
    write_tokenizer(folder, streams=False)
    assert read_stage1(folder, "toy") is None
    assert space_section(catalog, domain, folder, "pca") is None
    items = np.array([f"i{row}" for row in range(25)])
    for name, first in (("text", 0), ("image", 5)):
        vectors = np.random.default_rng(5).normal(size=(25 - first, 4))
        np.savez(tiny.folder / f"toy.{name}.npz", items=items[first:], vectors=vectors)
    section = space_section(catalog, domain, folder, "pca")
    assert section is not None
    (one,) = section.charts
    assert "embeddings image + text" in one.title
    assert sum(len(series.x) for series in one.series) == 20  # those that have both
    write_tokenizer(folder)
    section = space_section(catalog, domain, folder, "pca")
    assert section is not None and len(section.charts) == 3
    assert "fused vectors of stage 1" in section.charts[0].title


# Users -------------------------------------------------------------------------------------------


def run(tiny: Tiny, **settings: Any) -> Any:
    from rich.console import Console

    given = {**tiny.settings("QBERT4Rec"), "epochs": 1, **settings}
    return run_models(["QBERT4Rec"], "toy", [], given, Console(quiet=True))[0]


def test_example_users(tiny: Tiny) -> None:
    """What the bundle itself says of each history without its last item, in the order of time."""
    domain = DatasetPaths("toy", tiny.folder)
    result = run(tiny)
    examples = example_users(result, domain, 7)
    assert len({each.user for each in examples}) == 7
    recommender = Recommender.load(result.bundle)
    for each in examples:
        sequence = tiny.sequences[each.user]
        assert list(each.history) == sequence[:-1] and each.target == sequence[-1]
        (best,) = recommender.recommend([sequence[:-1]], k=10)
        assert list(each.recommended) == [item for item, _ in best]
        assert not set(each.history) & set(each.recommended)
    assert len(example_users(result, domain, 1000)) == len(tiny.sequences)


def test_rank_of_the_target() -> None:
    assert ExampleUser("u", ("a",), "c", ("b", "c")).rank == 2
    assert ExampleUser("u", ("a",), "z", ("b", "c")).rank is None


def test_users_with_items_that_the_model_does_not_know_are_left_out(tiny: Tiny) -> None:
    result, domain = run(tiny), DatasetPaths("toy", tiny.folder)
    user = next(iter(tiny.sequences))
    tiny.write_inter([*tiny.rows, (user, "new", 1e9), ("brief", "i1", 1.0)])
    users = {each.user for each in example_users(result, domain, 1000)}
    assert users == tiny.sequences.keys() - {user}


def test_the_section_of_users_marks_hits(tiny: Tiny) -> None:
    result, domain = run(tiny), DatasetPaths("toy", tiny.folder)
    n_users = len(tiny.sequences)
    section = users_section(BestRun(result, result.valid_metric), "r", domain, "title", n_users)
    assert section is not None
    examples = section.blocks[1].content
    hits = sum(each.rank is not None for each in example_users(result, domain, n_users))
    assert 0 < hits < n_users
    marked = [card.hit for one in examples for each in one.lists for card in each.cards]
    assert sum(marked) == sum(one.text.startswith("Hit: ") for one in examples) == hits
    assert sum(one.text.startswith("No hit: ") for one in examples) == n_users - hits
    cards = {card.item: card.title for one in examples for each in one.lists for card in each.cards}
    assert cards["i3"] == "Thing 3" and "by token" not in str(section.blocks[0])
    text = render("t", [], [section], {"i3": "data:image/jpeg;base64,AA=="}.get)
    assert text.count('<b class="mark">hit</b>') == hits
    assert 'AA==" alt=""><div><span>Thing 3</span>' in " ".join(text.split()).replace("> <", "><")
    bare = users_section(BestRun(result, result.valid_metric), "r", domain, None, 1)
    assert bare is not None and "--title_field=FIELD" in str(bare.blocks[0])
    domain.file("inter").unlink()
    assert users_section(BestRun(result, result.valid_metric), "r", domain, None, 5) is None


def test_a_report_goes_on_without_a_bundle_that_cannot_be_loaded(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = Path(run(tiny).bundle, "manifest.json")
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"model": "NotInstalled"}))
    assert main(["report", "saved", "--data_path=."]) == 0
    warnings = [line for line in capsys.readouterr().out.splitlines() if "Warning" in line]
    (line,) = warnings
    assert line.startswith("Warning: no example users: ") and "model NotInstalled" in line
    assert "plug-in" in line and 'id="users"' not in Path("report.html").read_text()
    assert main(["report", "saved", "--data_path=.", "--title_field=absent"]) == 2


def test_the_best_bundle_on_valid(tiny: Tiny) -> None:
    from recbole_qbert.reports.discovery import find_results

    runs = [run(tiny, seed=seed) for seed in (1, 2, 3)]
    runs.sort(key=lambda each: each.valid[each.valid_metric])
    found = best_bundle(find_results([tiny.root / "saved"]), "toy")
    assert found is not None and found.run.seed == runs[-1].seed
    shutil.rmtree(runs[-1].bundle)
    found = best_bundle(find_results([tiny.root / "saved"]), "toy")
    assert found is not None and found.run.seed == runs[-2].seed
    assert best_bundle(find_results([tiny.root / "saved"]), "other") is None


def test_the_best_bundle_of_runs_that_chose_by_other_metrics(tiny: Tiny) -> None:
    """By one metric for all: the seen-excluded NDCG@10, which the report names."""
    from recbole_qbert.reports.discovery import find_results

    runs = [run(tiny, valid_metric=metric) for metric in ("NDCG@10", "unseen_Hit@10")]
    best = best_bundle(find_results([tiny.root / "saved"]), "toy")
    assert best is not None and best.metric == "unseen_ndcg@10"
    wanted = max(runs, key=lambda each: each.valid["unseen_ndcg@10"])
    assert best.run.folder == wanted.folder
    section = users_section(best, "results.jsonl", DatasetPaths("toy", tiny.folder), None, 3)
    assert section is not None
    assert "has the best valid NDCG@10, seen excluded" in section.blocks[0].content[0]


def test_no_example_users_of_ready_made_splits(tiny: Tiny) -> None:
    """A user's last interaction may be one that the model was trained on."""
    parts = ("train", "valid", "test")
    lines = ["user_id:token\titem_id_list:token_seq\titem_id:token"]
    lines += [f"{user}\t{items[0]} {items[1]}\t{items[2]}"
              for user, items in tiny.sequences.items()]  # fmt: skip
    for part in parts:
        (tiny.folder / f"toy.{part}.inter").write_text("\n".join([*lines, ""]))
    columns = {"inter": ["user_id", "item_id_list", "item_id"]}
    result = run(tiny, benchmark_filename=list(parts), load_col=columns,
                 alias_of_item_id=["item_id_list"])  # fmt: skip
    assert Path(result.bundle).is_dir()
    assert main(["report", "saved", "--data_path=."]) == 0
    assert 'id="users"' not in Path("report.html").read_text()
    run(tiny)  # held out its last items itself
    assert main(["report", "saved", "--data_path=."]) == 0
    assert 'id="users"' in Path("report.html").read_text()
