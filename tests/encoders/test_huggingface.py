"""Hugging Face text encoders: tiny random models of several families."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_text_models import WORDS, offline, save_model  # noqa: F401  offline acts by itself

from recbole_qbert.common.errors import InputError
from recbole_qbert.encoders.huggingface import HuggingFaceTextEncoder, pool

FAMILIES = ["llama", "gpt2", "bert", "roberta", "t5", "bart"]
TEXTS = [
    "red shoe",
    "big old drum string new bright blue hat",
    "hat",
    "small blue drum drum",
    "unheard word",
]


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
    encoder = HuggingFaceTextEncoder(str(tmp_path), device="cpu", normalize=True)
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
    assert batch.reasons == ["", "", "no known token"]
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
        ({"pooling": "max"}, "pooling: 'max' is none of mean, last"),
        ({"dtype": "int8"}, "dtype: 'int8' is none of auto, float32"),
        ({"batch_size": 0}, "batch_size: 0 is not a whole number"),
        ({"max_length": 2}, "max_length is 2: too small"),
        ({"device": "tpu9000"}, "device 'tpu9000' is unknown"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    save_model("bert", tmp_path)
    with pytest.raises(InputError, match=message):
        HuggingFaceTextEncoder(str(tmp_path), **settings)
