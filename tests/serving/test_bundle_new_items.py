"""New items in a bundle: ranked at once, and nothing that was there before moves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CODEBOOK_SIZES, N_ITEMS, Tiny, files_below, fitted

from recbole_qbert.cli import main
from recbole_qbert.common.errors import InputError
from recbole_qbert.common.hashes import sha256_folder
from recbole_qbert.data.embeddings import EmbeddingTable, write_embeddings
from recbole_qbert.data.semid import SemanticIDTable
from recbole_qbert.serving.bundle import save_bundle, trial_histories
from recbole_qbert.serving.new_items import add_items, open_bundle
from recbole_qbert.serving.recommender import Recommender
from recbole_qbert.serving.scoring import scores_of

NEW = ("n0", "n1", "n2")
REPRESENTATIONS = ("hybrid", "compose", "flatten")


def _bundle(tiny: Tiny, model: str = "QBERT4Rec", **settings: Any) -> Path:
    config = tiny.make_config(model, **settings)
    trainer, loaded = fitted(config)
    save_bundle(tiny.root / "bundle", trainer.model, config, loaded.train._dataset)
    return tiny.root / "bundle"


def _new_table(tiny: Tiny) -> SemanticIDTable:
    """The toy items in another order, and three more, the first with two codes of item i4."""
    taken = {*map(tuple, tiny.table.codes.tolist())}
    (like,) = tiny.table.codes_for(["i4"]).tolist()
    free = next((*like[:2], code) for code in range(8) if (*like[:2], code) not in taken)
    others = [code for code in np.ndindex(*CODEBOOK_SIZES) if code not in taken | {free}]
    codes = np.concatenate([tiny.table.codes[::-1], [free, others[3], others[200]]])
    items = (*tiny.table.items[::-1], *NEW)
    return SemanticIDTable(items, codes, CODEBOOK_SIZES, vocabulary=tiny.table.vocabulary)


def _grown(tiny: Tiny, folder: Path, output: Path) -> list[str]:
    opened = open_bundle(folder, _vocabulary(folder))
    item_file = tiny.root / "new.item"
    item_file.write_text("item_id:token\ttitle:token_seq\nn0\tNew zero\nn2\tNew two\n")
    return add_items(opened, _new_table(tiny), item_file, output)


def _vocabulary(folder: Path) -> str:
    return str(json.loads((folder / "items.semid.json").read_text())["vocabulary"])


@pytest.mark.parametrize("score", ["cosine", "dot"])
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_old_items_stay_and_new_ones_are_ranked(
    tiny: Tiny, representation: str, score: str
) -> None:
    folder = _bundle(tiny, item_representation=representation, score=score, exclude_visible="off")
    before, output = Recommender.load(folder), tiny.root / "grown"
    files = sha256_folder(folder)
    assert _grown(tiny, folder, output) == [*NEW]
    assert sha256_folder(folder) == files
    after = Recommender.load(output)
    assert after.tokens == [*before.tokens, *NEW]
    assert before.titles is not None and after.titles is not None
    assert after.titles == [*before.titles, "New zero", "", "New two"]
    assert before.codes is not None and after.codes is not None
    assert torch.equal(after.codes[: N_ITEMS + 1], before.codes)

    items, lengths = trial_histories(8, N_ITEMS + 1)
    old, new = (scores_of(each.model, each.config, items, lengths) for each in (before, after))
    assert torch.equal(new[:, : N_ITEMS + 1], old)  # to the last digit
    # A new item's score is that of the sum of its codes' vectors, or of each level's.
    model = after.model
    rows = [
        model.items.table.weight[code + 8 * level] for level, code in enumerate(after.codes[-1])
    ]
    row = torch.cat(rows) if representation == "flatten" else torch.stack(rows).sum(dim=0)
    with torch.no_grad():
        hidden, _ = model._next_item_state(_batch(items, lengths), model.items())
        expected = model._score(hidden, row.unsqueeze(0))[:, 0]
    torch.testing.assert_close(new[:, -1], expected)

    (lists,) = after.recommend([["i1", "n0"]], k=N_ITEMS + 1)
    assert {item for item, _ in lists} == {*after.tokens} - {"i1", "n0"}
    (explanation,) = after.explain(["i4"], ["n0"])
    assert explanation.title == "New zero"
    assert len(explanation.lines({})) >= 1


def _batch(items: torch.Tensor, lengths: torch.Tensor) -> Any:
    from recbole.data.interaction import Interaction

    return Interaction({"item_id_list": items, "item_length": lengths})


def test_the_bonus_of_new_items(tiny: Tiny) -> None:
    """The same model with a bonus ranks the added items higher by it, and only these."""
    found = []
    for bonus in (0.0, 2.0):
        folder = _bundle(tiny, new_item_bonus=bonus, exclude_visible="off")
        _grown(tiny, folder, folder)
        grown = Recommender.load(folder)
        found.append(scores_of(grown.model, grown.config, *trial_histories(8, N_ITEMS + 1)))
    torch.testing.assert_close(found[1][:, N_ITEMS + 1 :], found[0][:, N_ITEMS + 1 :] + 2.0)
    assert torch.equal(found[1][:, : N_ITEMS + 1], found[0][:, : N_ITEMS + 1])


def test_in_place_and_a_second_time(tiny: Tiny) -> None:
    folder = _bundle(tiny)
    assert _grown(tiny, folder, folder) == [*NEW]
    files = sha256_folder(folder)
    assert _grown(tiny, folder, folder) == []
    assert sha256_folder(folder) == files
    assert Recommender.load(folder).recommend([["n1"]], k=3)[0]


@pytest.mark.parametrize(
    ("model", "settings", "why"),
    [
        ("SASRec", {}, "SASRec cannot take new items, because it does not make"),
        ("IDBERT4Rec", {}, "each of its items has a vector that only training makes"),
        ("QBERT4Rec", {"item_representation": "word"}, "a vector that only training makes"),
    ],
)
def test_models_that_cannot(tiny: Tiny, model: str, settings: dict[str, Any], why: str) -> None:
    folder = _bundle(tiny, model, **settings)
    with pytest.raises(InputError, match=why):
        open_bundle(folder, _vocabulary(folder))


def test_ids_that_do_not_fit(tiny: Tiny) -> None:
    folder = _bundle(tiny)
    before = files_below(tiny.root)
    with pytest.raises(InputError, match="its semantic IDs are not from this tokenizer"):
        open_bundle(folder, "tokenizer:other")
    opened = open_bundle(folder, _vocabulary(folder))
    codes = _new_table(tiny).codes.copy()
    codes[[0, -1]] = codes[[-1, 0]]
    items = (*tiny.table.items[::-1], *NEW)
    moved = SemanticIDTable(items, codes, CODEBOOK_SIZES)
    with pytest.raises(InputError, match="old items have other semantic IDs"):
        add_items(opened, moved, tiny.root / "none.item", folder)
    assert files_below(tiny.root) == before


def test_command(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    """Vectors of all items, a model, then one more item: one command, and it is recommended."""

    def embed(numbers: range) -> None:
        vectors = np.random.default_rng(2).normal(size=(40, 1, 6)).astype(np.float32)
        meta = {"modality": "text", "encoder": {"name": "toy"}}
        items = tuple(f"i{number}" for number in numbers)
        chosen = vectors[numbers.start : numbers.stop]
        table = EmbeddingTable(items, chosen, np.ones((len(items), 1), np.bool_), meta)
        write_embeddings(tiny.folder / "toy.text.npz", table)

    data = ["--dataset=toy", "--data_path=."]
    embed(range(N_ITEMS))
    sizes = ["--modalities=text", "--n_levels=2", "--codebook_size=6"]
    assert main(["tokenize", *data, *sizes]) == 0
    _bundle(tiny)
    embed(range(N_ITEMS + 2))
    with open(tiny.folder / "toy.item", "a", encoding="utf-8") as handle:
        handle.write("i30\tThe thirtieth\tplain\ni31\tThe last\tplain\n")
    (tiny.root / "bundle" / "model.onnx").write_text("exported")
    before = files_below(tiny.root)
    assert main(["ids", "add-items", *data, "--bundle=bundle"]) == 2
    said = "without --output, the bundle is replaced: bundle: contains other files (model.onnx); "
    assert capsys.readouterr().err == f"recbole-qbert: {said}give another folder\n"
    assert files_below(tiny.root) == before
    (tiny.root / "bundle" / "model.onnx").unlink()
    before = files_below(tiny.root)
    assert main(["ids", "add-items", *data, "--bundle=bundle", "--output=new"]) == 0
    printed = capsys.readouterr().out
    assert "new: 2 new items; 32 items in all" in printed
    assert {*files_below(tiny.root)} - {*before} >= {"new", "new/manifest.json"}
    assert Recommender.load("new").tokens[-2:] == ["i30", "i31"]
    assert main(["recommend", "new", "--history=i30,i3", "--k=32"]) == 0
    assert "The last" in capsys.readouterr().out
    # What was killed after the IDs were written is made up for by the same command.
    assert main(["ids", "add-items", *data, "--bundle=bundle"]) == 0
    assert "bundle: 2 new items; 32 items in all" in capsys.readouterr().out
    assert sha256_folder(Path("bundle")) == sha256_folder(Path("new"))
    assert main(["ids", "add-items", *data, "--bundle=bundle"]) == 0
    assert "the bundle has all items already; nothing written" in capsys.readouterr().out
    assert main(["ids", "add-items", *data, "--output=x"]) == 2
    assert "--output: is the folder of a new bundle" in capsys.readouterr().err


def test_a_folder_of_new_items_alone(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    """As docs/serve.md has it: their text through the fitted encoder, their IDs, the bundle."""
    data, fields = ["--dataset=toy", "--data_path=."], ["--fields=title,class", "--merge"]
    assert main(["embed", "text", *data, *fields, "--n_components=8"]) == 0
    assert main(["tokenize", *data, "--modalities=text", "--n_levels=2", "--codebook_size=6"]) == 0
    folder, before = _bundle(tiny), (tiny.folder / "toy.semid").read_bytes()
    Path("new/toy").mkdir(parents=True)
    header = (tiny.folder / "toy.item").read_text(encoding="utf-8").partition("\n")[0]
    Path("new/toy/toy.item").write_text(f"{header}\nz1\tThing 4 too\tred\n", encoding="utf-8")
    data = ["--dataset=toy", "--data_path=new"]
    assert (
        main(
            [
                "embed",
                "text",
                *data,
                *fields,
                "--frozen_encoder=toy/toy.text.npz.encoder.safetensors",
            ]
        )
        == 0
    )
    command = ["ids", "add-items", *data, "--tokenizer=toy/tokenizer", f"--bundle={folder}"]
    assert main(command) == 0
    assert "1 new item; 31 items in all" in capsys.readouterr().out
    assert (tiny.folder / "toy.semid").read_bytes() == before
    recommender = Recommender.load(folder)
    assert recommender.tokens[-1] == "z1"
    assert recommender.titles is not None and recommender.titles[-1] == "Thing 4 too"


@pytest.mark.parametrize("output", ["precious", "precious/thesis.txt", "."])
def test_a_folder_with_other_files_is_not_replaced(
    tiny: Tiny, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    (tiny.root / "precious").mkdir()
    (tiny.root / "precious" / "thesis.txt").write_text("years of work")
    before = files_below(tiny.root)
    words = ["ids", "add-items", "--dataset=toy", f"--data_path={tiny.root}", "--bundle=b"]
    assert main([*words, f"--output={output}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("recbole-qbert: --output: ") and said.count("\n") == 1
    assert files_below(tiny.root) == before
