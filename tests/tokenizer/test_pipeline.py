"""`tokenize` as a whole, on a small data set: unique, repeatable, resumable, without leaks."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_domain import N_ITEMS, histories, item_names, small, write_domain, write_inter, write_table

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import exclusive_folder, read_json, sidecar_path
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.embeddings import read_embeddings, write_embeddings
from recbole_qbert.data.semid import read_semantic_ids
from recbole_qbert.tokenizer import artifact, pipeline
from recbole_qbert.tokenizer.artifact import Tokenizer
from recbole_qbert.tokenizer.fusion import fit, next_item_fit
from recbole_qbert.tokenizer.pipeline import tokenize
from recbole_qbert.tokenizer.report import report_lines
from recbole_qbert.training import checkpoint
from recbole_qbert.training.resume import FitState

ALL_STREAMS = ["fused", "text", "image", "identity"]
FUSIONS = {"injection": "fit_injector", "next_item": "fit_next_item"}  # and what trains each


def _bytes(domain: DatasetPaths) -> bytes:
    return domain.file("semid").read_bytes()


def _run(folder: Path, name: str = "toy", shuffle: int | None = None, **changes: Any) -> bytes:
    domain = write_domain(folder, name, shuffle)
    tokenize([domain], folder / "tokenizer", small(**changes))
    return _bytes(domain)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("quantizer", ["rqkmeans", "opq", "rqvae"])
def test_every_item_gets_a_tuple_of_its_own(tmp_path: Path, quantizer: str, fusion: str) -> None:
    domain = write_domain(tmp_path)
    settings = small(streams=["fused"], fusion=fusion, quantizer=quantizer, rqvae__epochs=3)
    tokenizer = tokenize([domain], tmp_path / "tokenizer", settings)
    assert tokenizer is not None
    table = read_semantic_ids(domain.file("semid"))
    assert sorted(table.items) == sorted(item_names("toy"))
    assert table.codebook_sizes == (8, 8, 8)
    report = read_json(sidecar_path(domain.file("semid")))["source"]["report"]
    assert sum(report["stage 1"]["depths"]) == N_ITEMS
    # The two items of equal content have ID vectors of their own, so the count is not known.
    assert report["unique"]["moved"] == report["unique"]["collisions"]
    said = "\n".join(report_lines(tokenizer))
    assert f"{N_ITEMS} items, 3 levels, all IDs unique" in said


def test_streams_stand_side_by_side_in_their_order(tmp_path: Path) -> None:
    domain = write_domain(tmp_path)
    tokenizer = tokenize([domain], tmp_path / "tokenizer", small(streams=ALL_STREAMS))
    assert tokenizer is not None
    assert len(tokenizer.codebook_sizes) == 12
    alone = tokenize([domain], tmp_path / "text", small(streams=["text"]))
    assert alone is not None
    # Only the last levels are moved for uniqueness: the first of text are the same in both.
    np.testing.assert_array_equal(tokenizer.codes[:, 3:5], alone.codes[:, :2])
    # Items without a vector of a modality share what the quantizer says of the mean vector.
    rows = [row for row, (_, item) in enumerate(tokenizer.keys) if item in ("toy3", "toy7")]
    np.testing.assert_array_equal(*tokenizer.codes[rows, 3:6])


@pytest.mark.parametrize("fusion", FUSIONS)
def test_same_seed_same_bytes_and_row_order_is_immaterial(tmp_path: Path, fusion: str) -> None:
    settings = {"streams": ALL_STREAMS, "fusion": fusion}
    first = _run(tmp_path / "a", **settings)
    assert _run(tmp_path / "b", **settings) == first
    assert _run(tmp_path / "c", **settings, shuffle=3) == first
    assert _run(tmp_path / "d", **settings, seed=1) != first


@pytest.mark.parametrize(
    ("fusion", "killed"),
    [
        *FUSIONS.items(),
        *(("injection", each) for each in ("fit_quantizer", "reallocate", "write_semantic_ids")),
    ],
)
def test_a_killed_run_goes_on_to_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fusion: str, killed: str
) -> None:
    settings, fit = {"streams": ["fused", "text"], "fusion": fusion}, FUSIONS[fusion]
    wanted = _run(tmp_path / "whole", **settings)
    calls: list[str] = []
    modules = dict.fromkeys([fit, "fit_quantizer", "reallocate"], pipeline)
    modules["write_semantic_ids"] = artifact

    def counted(name: str) -> Any:
        function = getattr(modules[name], name)

        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            if calls.count(killed) == 1 and name == killed:
                raise KeyboardInterrupt
            return function(*args, **kwargs)

        return call

    for name, module in modules.items():
        monkeypatch.setattr(module, name, counted(name))
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "killed", **settings)
    done = list(calls)
    assert _run(tmp_path / "killed", **settings) == wanted
    # What was finished before the kill is not done again.
    if killed != fit:
        assert calls.count(fit) == 1
    if done.count("fit_quantizer") == 2:
        assert calls.count("fit_quantizer") == 2


def test_stage_by_stage_equals_one_go(tmp_path: Path) -> None:
    wanted = _run(tmp_path / "one")
    domain, folder = write_domain(tmp_path / "steps"), tmp_path / "steps" / "tokenizer"
    for until in ("fusion", "quantization"):
        assert tokenize([domain], folder, small(until=until)) is None
        assert not domain.file("semid").exists()
    tokenize([domain], folder, small())
    assert _bytes(domain) == wanted


def test_changed_settings_are_not_taken_from_an_earlier_run(tmp_path: Path) -> None:
    wanted = _run(tmp_path / "fresh", n_levels=2, codebook_size=16)
    _run(tmp_path / "again")
    assert _run(tmp_path / "again", n_levels=2, codebook_size=16) == wanted


@pytest.mark.parametrize(
    ("until", "changes"),
    [
        ("quantization", {"seed": 7}),
        ("quantization", {"n_levels": 2}),
        ("quantization", {"quantizer": "opq"}),
        ("fusion", {"injection__epochs": 2}),
    ],
)
def test_ids_of_an_earlier_run_are_not_read_with_other_stages(
    tmp_path: Path, until: str, changes: dict[str, Any]
) -> None:
    domain, folder = write_domain(tmp_path), tmp_path / "tokenizer"
    settings = {"streams": ["fused", "text"]}
    tokenize([domain], folder, small(**settings))
    assert tokenize([domain], folder, small(**settings, until=until, **changes)) is None
    with pytest.raises(InputError, match="no finished tokenizer"):
        Tokenizer.load(folder)


@pytest.mark.parametrize("until", ["fusion", "quantization"])
def test_the_same_stages_again_leave_a_tokenizer_finished(tmp_path: Path, until: str) -> None:
    domain, folder = write_domain(tmp_path), tmp_path / "tokenizer"
    made = tokenize([domain], folder, small(streams=["fused", "text"]))
    assert tokenize([domain], folder, small(streams=["fused", "text"], until=until)) is None
    read = Tokenizer.load(folder)
    assert made is not None and read.vocabulary == made.vocabulary
    np.testing.assert_array_equal(read.codes, made.codes)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_held_out_interactions_never_reach_the_ids(tmp_path: Path, fusion: str) -> None:
    settings: dict[str, Any] = {"streams": ["fused", "identity"], "fusion": fusion}
    if fusion == "injection":
        settings["id_query"] = "interactions"
    domain = write_domain(tmp_path)
    tokenize([domain], tmp_path / "a", small(**settings))
    before = _bytes(domain)
    rng = np.random.default_rng(0)
    names = item_names("toy")
    changed = [
        [*items[:-2], *(names[row] for row in rng.integers(0, N_ITEMS, 2))]
        for items in histories("toy")
    ]
    write_inter(domain, changed, None)
    tokenize([domain], tmp_path / "b", small(**settings))
    assert _bytes(domain) == before
    write_inter(domain, [items[1:] for items in histories("toy")], None)
    tokenize([domain], tmp_path / "c", small(**settings))
    assert _bytes(domain) != before  # training interactions do matter


def test_quantizers_fitted_on_training_items(tmp_path: Path) -> None:
    """Then the vector of an item that is only held out changes no codebook, only its own code."""
    domain = write_domain(tmp_path)
    held_out = "toy59"
    histories_without = [
        [*(item for item in items[:-2] if item != held_out), "toy1", held_out]
        for items in histories("toy")
    ]
    write_inter(domain, histories_without, None)
    rows = range(N_ITEMS)
    found: dict[str, list[Tokenizer]] = {}
    for seed in (1, 2):
        write_table(domain, "text", rows, 12, 1, "words")
        table = read_embeddings(domain.file("text.npz"))
        if seed == 2:
            table.vectors[table.items.index(held_out)] += 5
            write_embeddings(domain.file("text.npz"), table)
        for items in ("training", "all"):
            settings = small(streams=["text"], quantizer="opq", fit_items=items)
            made = tokenize([domain], tmp_path / f"{items}{seed}", settings)
            assert made is not None
            found.setdefault(items, []).append(made)
    for items, (left, right) in found.items():
        states = [each.quantizers["text"].state() for each in (left, right)]
        same = all(np.array_equal(states[0][key], states[1][key]) for key in states[0])
        assert same == (items == "training") == (left.vocabulary == right.vocabulary)
        assert np.array_equal(left.fills["text"], right.fills["text"]) == (items == "training")
    # The folder of the one does not serve the other.
    again = tokenize([domain], tmp_path / "training2", small(streams=["text"], quantizer="opq"))
    assert again is not None and again.vocabulary == found["all"][1].vocabulary


def test_two_domains_share_one_vocabulary(tmp_path: Path) -> None:
    domains = [write_domain(tmp_path, name) for name in ("left", "right")]
    tokenizer = tokenize(domains, tmp_path / "both", small(streams=["text"]))
    assert tokenizer is not None
    left, right = (read_semantic_ids(domain.file("semid")) for domain in domains)
    assert left.codebook_sizes == right.codebook_sizes
    together = np.concatenate([left.codes, right.codes])
    assert len(np.unique(together, axis=0)) == 2 * N_ITEMS
    assert left.vocabulary == right.vocabulary == tokenizer.vocabulary
    # The toy domains hold the same vectors, so their first levels agree item by item.
    np.testing.assert_array_equal(left.codes[:, 0], right.codes[:, 0])


def test_domains_of_different_encoders_are_refused(tmp_path: Path) -> None:
    domains = [write_domain(tmp_path, name) for name in ("left", "right")]
    write_table(domains[1], "text", range(N_ITEMS), 12, 1, "other words")
    with pytest.raises(InputError, match=r"right\.text\.npz: its encoder, .* that of left"):
        tokenize(domains, tmp_path / "both", small())
    write_table(domains[1], "text", range(N_ITEMS), 9, 1, "words")
    with pytest.raises(InputError, match=r"right\.text\.npz: 1 parts of dimension 9"):
        tokenize(domains, tmp_path / "both", small())


def test_an_extra_level_in_place_of_reallocation(tmp_path: Path) -> None:
    domain = write_domain(tmp_path)
    settings = small(streams=["text"], n_levels=1, unique="extra_level")
    tokenizer = tokenize([domain], tmp_path / "tokenizer", settings)
    assert tokenizer is not None
    assert len(tokenizer.codebook_sizes) == 2
    groups = np.bincount(tokenizer.codes[:, 0])
    assert tokenizer.codebook_sizes[1] == groups.max()
    assert read_semantic_ids(domain.file("semid")).extra_level == 1
    settings = small(streams=["text"], n_levels=2)
    tokenize([domain], tmp_path / "moved", settings)
    assert read_semantic_ids(domain.file("semid")).extra_level is None


def test_other_ids_than_before_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    domain = write_domain(tmp_path)
    tokenize([domain], tmp_path / "first", small(streams=["text"], n_levels=2))
    before = read_semantic_ids(domain.file("semid"))
    tokenize([domain], tmp_path / "same", small(streams=["text"], n_levels=2))
    assert "than before" not in caplog.text
    tokenize([domain], tmp_path / "other", small(streams=["text"], n_levels=2, seed=7))
    codes = read_semantic_ids(domain.file("semid")).codes_for(before.items)
    n_other = int((codes != before.codes).any(axis=1).sum())
    assert n_other > 1
    said = f"toy.semid: {n_other} of {len(codes)} items have other semantic IDs than before"
    assert said in caplog.text


def test_a_tokenizer_read_again_encodes_as_before(tmp_path: Path) -> None:
    domain = write_domain(tmp_path)
    made = tokenize([domain], tmp_path / "tokenizer", small(streams=["fused", "text"]))
    read = Tokenizer.load(tmp_path / "tokenizer")
    assert made is not None
    np.testing.assert_array_equal(read.codes, made.codes)
    assert read.keys == made.keys
    vectors = np.random.default_rng(0).normal(size=(9, 12)).astype(np.float32)
    fused = np.random.default_rng(1).normal(size=(9, 16)).astype(np.float32)
    there = np.ones(9, np.bool_)
    streams = {"fused": (fused, there), "text": (vectors, there)}
    np.testing.assert_array_equal(read.encode(streams), made.encode(streams))


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no finished tokenizer"):
        Tokenizer.load(tmp_path)
    (tmp_path / "bare").mkdir()
    said = r"no embeddings \(bare.text.npz or bare.image.npz\).* --streams=identity"
    with pytest.raises(InputError, match=said):
        tokenize([DatasetPaths("bare", tmp_path / "bare")], tmp_path / "t", small())
    domain = write_domain(tmp_path)
    domain.file("image.npz").unlink()
    with pytest.raises(InputError, match="streams: image: no data set has the table image.npz"):
        tokenize([domain], tmp_path / "t", small(streams=["image"]))
    assert not domain.file("semid").exists()


@pytest.mark.parametrize("streams", ["fused", "text"])
def test_a_catalog_without_items_is_refused(tmp_path: Path, streams: str) -> None:
    domain = write_domain(tmp_path)
    domain.file("item").write_text("item_id:token\n", encoding="utf-8")
    domain.file("inter").unlink()
    with pytest.raises(InputError, match=r"^.*/toy: its \.item and \.inter files have no items$"):
        tokenize([domain], tmp_path / "t", small(streams=[streams]))
    assert not (tmp_path / "t").exists()


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    domain, folder = write_domain(tmp_path), tmp_path / "t"
    with exclusive_folder(folder), pytest.raises(InputError, match="another process uses this fol"):
        tokenize([domain], folder, small())
    assert not folder.exists() and not domain.file("semid").exists()
    assert tokenize([domain], folder, small(streams=["text"])) is not None


@pytest.mark.parametrize(
    ("modalities", "said"),
    [
        (["text", "imgae"], "'imgae': .* the tables are image, text; did you mean 'image'"),
        (["Text"], "'Text': .*; did you mean 'text'"),
        (["sound"], "'sound': no data set has the table sound.npz; the tables are image, text$"),
    ],
)
def test_a_modality_that_is_not_there_is_refused(
    tmp_path: Path, modalities: list[str], said: str
) -> None:
    domain = write_domain(tmp_path)
    with pytest.raises(InputError, match=f"^modalities: {said}"):
        tokenize([domain], tmp_path / "t", small(modalities=modalities))
    assert not (tmp_path / "t").exists()
    assert not domain.file("semid").exists()


def test_a_table_of_another_name_is_told_of(tmp_path: Path) -> None:
    domain = write_domain(tmp_path)
    domain.file("image.npz").unlink()
    domain.file("text.npz").rename(domain.file("clip.npz"))
    with pytest.raises(InputError, match="no data set has the table text.npz; the tables are clip"):
        tokenize([domain], tmp_path / "t", small())
    assert tokenize([domain], tmp_path / "t", small(modalities=["clip"])) is not None


def test_content_is_each_modality_that_is_there(tmp_path: Path) -> None:
    """Text and image where both are there, in this order; text alone where there is no more."""
    both = _run(tmp_path / "a", streams=["content", "identity"])
    assert both == _run(tmp_path / "b", streams=["text", "image", "identity"])
    domain = write_domain(tmp_path / "c")
    for file in domain.folder.glob("*.image.npz*"):
        file.unlink()
    tokenizer = tokenize([domain], tmp_path / "t", small(streams=["content"]))
    assert tokenizer is not None
    assert list(tokenizer.quantizers) == ["text"]


def test_content_alone_needs_no_interactions(tmp_path: Path) -> None:
    """`id_query` is of the streams that have an ID query."""
    settings = {"streams": ["content"], "id_query": "interactions"}
    wanted = _run(tmp_path / "with", **settings)
    domain = write_domain(tmp_path / "without")
    domain.file("inter").unlink()
    tokenize([domain], tmp_path / "t", small(**settings))
    assert _bytes(domain) == wanted


def test_identity_needs_interactions(tmp_path: Path) -> None:
    domain = write_domain(tmp_path)
    domain.file("inter").unlink()
    with pytest.raises(InputError, match="toy.inter: no such file, but co-occurrence in training"):
        tokenize([domain], tmp_path / "t", small(streams=["content", "identity"]))
    assert not domain.file("semid").exists()


def test_identity_alone_needs_no_embeddings(tmp_path: Path) -> None:
    with_tables = write_domain(tmp_path / "a")
    without = write_domain(tmp_path / "b")
    for file in without.folder.glob("*.npz*"):
        file.unlink()
    found = []
    for domain in (with_tables, without):
        tokenizer = tokenize([domain], tmp_path / "t", small(streams=["identity"]))
        assert tokenizer is not None
        found.append((_bytes(domain), tokenizer.vocabulary))
    assert found[0] == found[1]


def test_another_output_leaves_the_ids_alone(tmp_path: Path) -> None:
    domain = write_domain(tmp_path)
    first = tokenize([domain], tmp_path / "t", small(streams=["text"]))
    before = _bytes(domain)
    other = small(streams=["image"], output="image.semid")
    second = tokenize([domain], tmp_path / "u", other)
    assert first is not None and second is not None
    assert _bytes(domain) == before
    ids = read_semantic_ids(domain.folder / "toy.image.semid")
    np.testing.assert_array_equal(ids.codes, second.codes)
    assert first.vocabulary != second.vocabulary == ids.vocabulary


def test_a_release_renames_no_vocabulary_and_trains_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain, settings = write_domain(tmp_path), small(streams=["fused", "text"])
    first = tokenize([domain], tmp_path / "t", settings)
    assert first is not None
    name = first.vocabulary
    for module in (artifact, pipeline):
        monkeypatch.setattr(module, "__version__", "9.9.9", raising=False)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("trained again")

    with monkeypatch.context() as other_format:
        other_format.setattr(checkpoint, "FORMAT", "recbole-qbert/checkpoint/99")
        assert first.vocabulary == name

    monkeypatch.setattr(pipeline, "fit_quantizer", refuse)
    monkeypatch.setattr(pipeline, "fit_injector", refuse)
    again = tokenize([domain], tmp_path / "t", settings)
    assert again is not None and again.vocabulary == name
    monkeypatch.undo()
    fresh = tokenize([domain], tmp_path / "elsewhere", settings)
    other = tokenize([domain], tmp_path / "t", {**settings, "seed": 1})
    assert fresh is not None and other is not None
    assert fresh.vocabulary == name != other.vocabulary


def test_items_without_content_are_counted_named_and_kept(tmp_path: Path) -> None:
    domain = write_domain(tmp_path)
    for modality in ("text", "image"):  # items 3 and 7 have no text, 50 and later no image
        write_table(domain, modality, [row for row in range(50) if row not in (3, 7)], 12, 1, "x")
    tokenizer = tokenize([domain], tmp_path / "tokenizer", small(streams=["text"]))
    assert tokenizer is not None
    nothing = sorted(["toy3", "toy7", *(f"toy{row}" for row in range(50, N_ITEMS))])
    assert [item for _, item in tokenizer.without_content] == nothing
    assert Tokenizer.load(tmp_path / "tokenizer").without_content == tokenizer.without_content
    source = read_json(sidecar_path(domain.file("semid")))["source"]
    assert source["without_content"] == nothing
    said = "\n".join(report_lines(tokenizer))
    assert "12 items have no content vector: 'toy3'" in said
    assert "  12 items have no vector in this stream and got the codes of the mean vector" in said
    made = tokenize([domain], tmp_path / "fused", small(streams=["fused"]))
    assert made is not None
    said = "\n".join(report_lines(made))
    assert "12 items have no content vector: 'toy3'" in said and "mean vector" not in said


def test_the_parts_of_a_split_have_items_too(tmp_path: Path) -> None:
    domain = write_domain(tmp_path)
    header = "user_id:token\titem_id_list:token_seq\titem_id:token"
    for part, row in (("train", "u1\ttoy1 old\ttoy2"), ("valid", "u1\t\ttoy3"),
                      ("test", "u1\ttoy1 toy2\tlatest")):  # fmt: skip
        domain.file(f"{part}.inter").write_text(f"{header}\n{row}\n", encoding="utf-8")
    tokenize([domain], tmp_path / "files", small(streams=["text"], split="files"))
    assert set(read_semantic_ids(domain.file("semid")).items) == {
        *item_names("toy"), "old", "latest"
    }  # fmt: skip
    tokenize([domain], tmp_path / "one_out", small(streams=["text"]))
    assert set(read_semantic_ids(domain.file("semid")).items) == set(item_names("toy"))


def test_the_report_of_stage_1_is_that_of_the_interactions(tmp_path: Path) -> None:
    """Injection does not read them, but its report does."""
    domain, settings = write_domain(tmp_path), small(streams=["fused", "identity"])
    names, found = item_names("toy"), []
    for step, folder in ((1, "old"), (7, "old"), (7, "fresh")):
        rows = [[names[(user + step * place) % 60] for place in range(16)] for user in range(30)]
        write_inter(domain, rows, None)
        made = tokenize([domain], tmp_path / folder, settings)
        assert made is not None
        found.append(made.report["stage 1"])
    assert found[0] != found[1] == found[2]


@pytest.mark.parametrize(
    ("item", "said"),
    [("[PAD]", "has RecBole's padding token"), ("", "is not an ID; give every row one")],
)
@pytest.mark.parametrize("suffix", ["item", "inter"])
def test_a_wrong_item_token_is_refused_before_training(
    tmp_path: Path, item: str, said: str, suffix: str
) -> None:
    domain = write_domain(tmp_path)
    row = f"u1\t{item}\t9" if suffix == "inter" else f"{item}"
    if suffix == "item":  # a line of nothing is no row
        lines = ["item_id:token\tname:token", *(f"{name}\tx" for name in item_names("toy"))]
        domain.file("item").write_text("\n".join([*lines, ""]), encoding="utf-8")
        row += "\tx"
    with domain.file(suffix).open("a", encoding="utf-8") as handle:
        handle.write(f"{row}\n")
    line = 1 + domain.file(suffix).read_text(encoding="utf-8").count("\n") - 1
    with pytest.raises(InputError, match=rf"toy\.{suffix}: line {line}, item_id: .*{said}"):
        tokenize([domain], tmp_path / "t", small(streams=["text"]))
    assert not (tmp_path / "t").exists()


def test_each_domain_needs_items(tmp_path: Path) -> None:
    domains = [write_domain(tmp_path, name) for name in ("left", "right")]
    domains[1].file("item").write_text("item_id:token\n", encoding="utf-8")
    domains[1].file("inter").unlink()
    with pytest.raises(InputError, match=r"^.*/right: its \.item and \.inter files have no items$"):
        tokenize(domains, tmp_path / "t", small(streams=["text"]))
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("damage", ["truncated", "other version"])
def test_a_stage_that_cannot_be_read_is_run_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = _run(tmp_path, streams=["text"])
    path = tmp_path / "tokenizer" / "stage2.text.safetensors"
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[:-9])
    else:
        path.write_bytes(content.replace(b"checkpoint/", b"checkpoint/9", 1))
    assert _run(tmp_path, streams=["text"]) == wanted
    assert "stage2.text.safetensors: damaged or of another version; the stage is run" in caplog.text


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_kill_before_a_stage_is_saved_costs_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fusion: str
) -> None:
    settings = {"streams": ["fused"], "fusion": fusion}
    wanted = _run(tmp_path / "whole", **settings)
    for module in (fit, next_item_fit):
        monkeypatch.setattr(module, "FitState", functools.partial(FitState, interval_s=0.0))
    save = pipeline.save_checkpoint

    def killed(path: Path, state: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "save_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "killed", **settings)
    monkeypatch.setattr(pipeline, "save_checkpoint", save)
    monkeypatch.setattr(fit, "_train_epoch", lambda *_: 1 / 0)
    monkeypatch.setattr(next_item_fit._Fit, "advance", lambda *_: 1 / 0)
    assert _run(tmp_path / "killed", **settings) == wanted
    assert not list((tmp_path / "killed" / "tokenizer").glob("*.training*"))


def test_a_stage_that_no_stream_reads_leaves_a_tokenizer_finished(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    domain, folder = write_domain(tmp_path), tmp_path / "tokenizer"
    made = tokenize([domain], folder, small(streams=["text"]))
    assert tokenize([domain], folder, small(streams=["text"], until="fusion")) is None
    assert "until: fusion: none of the streams reads stage 1; only fused does" in caplog.text
    assert made is not None and Tokenizer.load(folder).vocabulary == made.vocabulary


def test_training_items_without_a_vector_have_a_remedy_of_their_own(tmp_path: Path) -> None:
    domain = write_domain(tmp_path)
    write_inter(domain, [["toy3", "toy7", "toy1", "toy2"]] * 3, None)  # 3 and 7 have no text
    settings = small(streams=["text"], fit_items="training")
    said = "streams: text: no item of the training interactions has a vector; set --fit_items=all"
    with pytest.raises(InputError, match=said):
        tokenize([domain], tmp_path / "t", settings)


def test_the_interactions_are_hashed_as_they_were_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = write_domain(tmp_path)
    read = hashlib.sha256(domain.file("inter").read_bytes()).hexdigest()
    original = pipeline.fit_quantizer

    def changes_the_file(*args: Any, **kwargs: Any) -> Any:
        write_inter(domain, histories("toy", 6), None)
        return original(*args, **kwargs)

    monkeypatch.setattr(pipeline, "fit_quantizer", changes_the_file)
    made = tokenize([domain], tmp_path / "t", small(streams=["identity"]))
    assert made is not None and made.report["interactions"] == {"toy.inter": read}
