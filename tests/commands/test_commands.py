"""The commands from texts and pictures to IDs, end to end on a small data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Tiny, files_below
from PIL import Image

from recbole_qbert.cli import main
from recbole_qbert.data.embeddings import read_embeddings
from recbole_qbert.data.semid import read_semantic_ids

SMALL = [
    "--show_progress=False",
    "--n_levels=2",
    "--codebook_size=8",
    "--quantizer=rqkmeans",
    "--fusion=injection",
    "--injection.hidden_size=16",
    "--injection.max_depth=2",
    "--injection.epochs=2",
]
WHERE = ["--dataset=toy", "--data_path=."]


def _pictures(folder: Path, items: list[str]) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for item in items:
        pixels = rng.integers(0, 255, (24, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((80, 120)).save(folder / f"{item}.png")


def test_the_whole_way(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.folder.joinpath("toy.semid").unlink()
    tiny.folder.joinpath("toy.semid.json").unlink()
    _pictures(Path("pictures"), [f"i{number}" for number in range(20)])
    assert main(["embed", "text", *WHERE, "--fields=title,class", "--merge"]) == 0
    assert "toy.text.npz: 30 items" in capsys.readouterr().out
    assert main(["embed", "image", *WHERE, "--folder=pictures"]) == 0
    assert "20 items, 928 dimensions, 10 items without a vector" in capsys.readouterr().out
    assert main(["tokenize", *WHERE, *SMALL, "--streams=fused,identity"]) == 0
    assert "30 items, 4 levels, all IDs unique" in capsys.readouterr().out
    assert read_semantic_ids(tiny.folder / "toy.semid").n_items == 30

    assert main(["ids", "inspect", *WHERE, "--title_field=title", "--category_field=class",
                 "--images=pictures", "--html=ids.html"]) == 0  # fmt: skip
    assert "Thing" in capsys.readouterr().out
    assert "plotly" in Path("ids.html").read_text(encoding="utf-8")

    item_file = tiny.folder / "toy.item"
    item_file.write_text(item_file.read_text(encoding="utf-8") + "new\tThing 3\tred\n")
    frozen = tiny.folder / "toy.text.npz.encoder.safetensors"
    text = ["embed", "text", *WHERE, "--fields=title,class", "--merge"]
    assert main([*text, f"--frozen_encoder={frozen}"]) == 0
    assert main(["ids", "add-items", *WHERE]) == 0
    assert "1 new item, " in capsys.readouterr().out
    assert read_semantic_ids(tiny.folder / "toy.semid").n_items == 31

    before = (tiny.folder / "toy.semid").read_bytes()
    beside = ["--streams=identity", "--output=use.semid"]
    assert main(["tokenize", *WHERE, *SMALL, *beside]) == 0
    assert "toy.use.semid: written" in capsys.readouterr().out
    assert (tiny.folder / "tokenizer-use" / "tokenizer.json").is_file()
    assert (tiny.folder / "toy.semid").read_bytes() == before


def test_embed_vectors(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("x.npy", np.eye(3, dtype=np.float32))
    Path("x.txt").write_text("i0\ni1\ni2\n")
    arguments = ["--modality=text", "--matrix=x.npy", "--items=x.txt", "--encoder=theirs"]
    assert main(["embed", "vectors", *WHERE, *arguments]) == 0
    table = read_embeddings(tiny.folder / "toy.text.npz")
    assert table.items == ("i0", "i1", "i2") and table.meta["encoder"] == {"name": "theirs"}
    assert main(["embed", "vectors", "--dataset=no", *arguments]) == 2
    assert "no such folder" in capsys.readouterr().err


FAULTS = {
    "no data set": (["tokenize"], "--dataset=... is required"),
    "twice": (["tokenize", "--dataset=toy,toy"], "name each data set once"),
    "no folder": (["tokenize", "--dataset=none"], "no such folder"),
    "no embeddings": (["tokenize", *WHERE], "no embeddings (toy.text.npz or toy.image.npz)"),
    "unknown key": (["tokenize", *WHERE, "--n_level=3"], "did you mean 'n_levels'"),
    "unknown inner key": (["tokenize", *WHERE, "--rqvae.epoch=3"], "did you mean 'epochs'"),
    "wrong kind": (
        ["tokenize", *WHERE, "--n_levels=many"],
        "n_levels: 'many' is not auto or a whole number from 1",
    ),
    "unknown choice": (["tokenize", *WHERE, "--quantizer=vq"], "none of rqvae, rqkmeans, opq"),
    "unknown stream": (["tokenize", *WHERE, "--streams=txt"], "did you mean 'text'"),
    "no tokenizer": (["ids", "add-items", *WHERE], "no finished tokenizer"),
    "no field": (["embed", "text", *WHERE, "--fields=titel"], "did you mean 'title'"),
    "no pictures": (["embed", "image", *WHERE, "--folder=absent"], "absent"),
    "no ids": (["ids", "inspect", *WHERE, "--semantic_id_file=no.semid"], "no.semid"),
    "no model": (["compare", "results.jsonl", "x"], "use results.jsonl:MODEL"),
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_fault_is_one_line_and_status_2(
    tiny: Tiny, fault: str, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments, message = FAULTS[fault]
    before = files_below(tiny.root)
    capfd.readouterr()
    assert main(arguments) == 2
    errors = capfd.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1, errors
    assert files_below(tiny.root) == before


WITH_A_DATA_SET = (
    "run --model=SASRec --dataset=",
    "complexity --model=SASRec --dataset=",
    "tokenize --dataset=",
    "pretrain --datasets=",
    "benchmark quick --controls=False --models=SASRec --dataset=",
    "embed text --fields=title --dataset=",
    "ids inspect --dataset=",
    "ids add-items --dataset=",
    "prepare stats --dataset=",
    "prepare split --dataset=",
    "prepare export --format=mql4grec --output=out --dataset=",
    "prepare merge --into=both --datasets=toy,",
)


@pytest.mark.parametrize("line", WITH_A_DATA_SET)
def test_a_misspelled_data_set_is_named_with_the_closest(
    tiny: Tiny, line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = files_below(tiny.root)
    assert main([*f"{line}tooy".split(), "--data_path=."]) == 2
    (error,) = capfd.readouterr().err.splitlines()[-1:]
    assert "tooy" in error and "did you mean 'toy" in error
    assert files_below(tiny.root) == before


def test_help_names_the_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokenize", "--help"]) == 0
    assert "--dataset=" in capsys.readouterr().out


def test_the_sample_replaces_no_other_data_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["prepare", "sample", f"--data_path={tmp_path}"]
    assert main(words) == 0 and main(words) == 0
    path = tmp_path / "ml-100k" / "ml-100k.item"
    own = path.read_text() + "9999\tmine\t1\tnone\n"
    path.write_text(own)
    capsys.readouterr()
    assert main(words) == 2
    assert f"{path}: is another data set" in capsys.readouterr().err
    assert path.read_text() == own
