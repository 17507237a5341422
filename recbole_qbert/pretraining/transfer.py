"""Folder of a pretrained model, and transfer of its weights into a new model.

    model.safetensors   weights
    config.json         the model's config
    items.json          domain and raw token of each item, in the order of its rows
    corpus.json         domains, vocabularies, and the hashes of the files that training read
    manifest.json       format, versions, hashes of the files above

A model bundle (`recbole_qbert.serving.bundle`) is also a valid source. Its data set is its only
domain.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import AfterValidator, BaseModel, Field, TypeAdapter
from safetensors.torch import load_file, save
from torch import Tensor

from recbole_qbert._version import __version__
from recbole_qbert.common.errors import InputError, preview
from recbole_qbert.common.files import (
    atomic_folder,
    read_json,
    read_json_list,
    recovered,
    write_json,
)
from recbole_qbert.common.hashes import check_folder, sha256_folder
from recbole_qbert.common.output import counted
from recbole_qbert.config.settings import Count, Text
from recbole_qbert.data.dataset import vector_files
from recbole_qbert.data.embedding_kinds import comparable
from recbole_qbert.data.embeddings import SIDECAR
from recbole_qbert.data.semid import read_semantic_ids, read_sidecar
from recbole_qbert.models.layers.content import WHITENING, check_vector_names
from recbole_qbert.models.qbert4rec import QBERT4Rec
from recbole_qbert.pretraining.corpus import Corpus
from recbole_qbert.serving import bundle
from recbole_qbert.serving.recommender import Recommender
from recbole_qbert.training.checkpoint import config_to_json

FORMAT = "recbole-qbert/pretrained/3"
CONTENTS = frozenset(("model.safetensors", "config.json", "items.json", "corpus.json"))
PRETRAINED_FILES = CONTENTS | {"manifest.json"}
TABLE, ROWS, CODES = "items.table.weight", "items.rows", "items.item_codes"
# Buffers that the data set determines.
OF_DATA = (CODES, "popularity_terms.counts", "content.vectors")
POSITIONS = "encoder.position_embedding.weight"
# Settings of the same training without pretrained weights.
FROM_SCRATCH: Mapping[str, Any] = {"pre_model_path": None, "pre_model_codes": "auto"}
# Settings that must be equal for the pretrained weights to keep their meaning.
ARCHITECTURE = (
    *("n_layers", "n_heads", "hidden_size", "inner_size", "hidden_act", "layer_norm"),
    *("layer_norm_eps", "position_order", "item_representation", "score", "temperature"),
    *("mask_context", "MAX_ITEM_LIST_LENGTH", "use_content"),
)
OF_CONTENT = ("whitening_dims", "n_experts")  # likewise, with `use_content`


def _distinct(names: list[str]) -> list[str]:
    if len({*names}) < len(names):
        raise ValueError(f"{preview(names)}: a name is repeated")
    return names


Names = Annotated[list[Text], Field(min_length=1), AfterValidator(_distinct)]


class CorpusFile(BaseModel):
    """Content of `corpus.json`."""

    domains: Names
    vocabularies: Names
    codebook_sizes: Annotated[list[Count], Field(min_length=1)]  # K sizes, of one vocabulary
    dimensions: dict[str, Count]  # dimension of the vectors of each modality
    encoders: dict[str, Any]  # description of each modality's encoder
    inputs: dict[str, str]  # SHA-256 of each file that training read


class PretrainedSource(NamedTuple):
    """Weights of a pretrained model, and the data that is needed to transfer them."""

    weights: dict[str, Tensor]
    settings: dict[str, Any]
    domains: list[str]
    items: list[tuple[str, str]]  # (domain, raw token) of row 1, 2, ...
    vocabularies: list[str]
    codebook_sizes: tuple[int, ...]  # K sizes, of one vocabulary
    dimensions: dict[str, int]  # dimension of the vectors of each modality, if known
    encoders: dict[str, Any]  # description of each modality's encoder; empty for a bundle
    inputs: dict[str, str]  # SHA-256 of each training file; empty for a bundle


def save_pretrained(
    folder: Path, model: Any, config: Any, corpus: Corpus, inputs: Mapping[str, str]
) -> None:
    """Write the folder of a pretrained model atomically; an existing one is replaced."""
    with atomic_folder(folder) as work:
        weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        (work / "model.safetensors").write_bytes(save(weights))
        write_json(work / "config.json", config_to_json(config))
        items = [[part.name, item] for part in corpus.parts for item in part.ids.items]
        (work / "items.json").write_text(json.dumps(items, ensure_ascii=False), encoding="utf-8")
        about = {
            "domains": [part.name for part in corpus.parts],
            "vocabularies": corpus.vocabularies,
            "codebook_sizes": list(corpus.codebook_sizes),
            "dimensions": corpus.field2seqlen,
            "encoders": corpus.encoders,
            "inputs": dict(inputs),
        }
        write_json(work / "corpus.json", about)
        manifest = {
            "format": FORMAT,
            "version": __version__,
            "torch": torch.__version__,
            "sha256": sha256_folder(work),
        }
        write_json(work / "manifest.json", manifest)


def read_source(folder: str | Path) -> PretrainedSource:
    """Read the model that `pre_model_path` names.

    Raises:
        InputError: the folder is neither a pretrained model nor a bundle of a QBERT4Rec, a file in
            it was changed, or its files do not match each other.
    """
    folder = Path(folder)
    path = recovered(folder) / "manifest.json"
    manifest = read_json(path) if path.is_file() else {}
    kind, digests = manifest.get("format"), manifest.get("sha256")
    if kind == bundle.FORMAT:
        return _of_bundle(folder)
    if kind != FORMAT or not isinstance(digests, dict) or digests.keys() != CONTENTS:
        raise InputError(
            f"{path}: this folder is neither a pretrained model nor a bundle of this version; "
            "correct the path, or run `recbole-qbert pretrain` or `run` again"
        )
    check_folder(folder, digests)
    with bundle.inconsistent_files_as_input_error(folder, "remove the folder and pretrain again"):
        return _of_pretrained(folder)


def _of_pretrained(folder: Path) -> PretrainedSource:
    content = read_json(folder / "config.json")
    about = CorpusFile.model_validate(read_json(folder / "corpus.json"))
    pairs = TypeAdapter(list[tuple[str, str]])
    items = pairs.validate_python(read_json_list(folder / "items.json"))
    if len({*items}) < len(items) or not {domain for domain, _ in items} <= {*about.domains}:
        raise InputError(f"{folder / 'items.json'}: repeats an item, or names an unknown domain")
    weights = load_file(folder / "model.safetensors")
    # Item sampling in training adds no weights, so it is switched off to rebuild the model.
    again = content | {"keys": content["keys"] | {"softmax_samples": 0}}
    stored = _StoredCorpus(about, len(items))
    bundle.build_again(bundle.settings_of(again, torch.device("cpu")), stored, weights)
    return PretrainedSource(
        weights=weights,
        settings=content["keys"],
        domains=about.domains,
        items=items,
        vocabularies=about.vocabularies,
        codebook_sizes=stored.codebook_sizes,
        dimensions=about.dimensions,
        encoders=about.encoders,
        inputs=about.inputs,
    )


class _StoredCorpus(Corpus):
    """Stored part of a corpus, sufficient to rebuild the model for its weights."""

    def __init__(self, about: CorpusFile, n_items: int):
        self.parts = []
        self.vocabularies, self.codebook_sizes = about.vocabularies, tuple(about.codebook_sizes)
        self.domain_starts = [0, n_items]
        self.item_codes = torch.zeros(1 + n_items, len(about.codebook_sizes), dtype=torch.long)
        self.item_feat = {name: torch.zeros(0, size) for name, size in about.dimensions.items()}


def _of_bundle(folder: Path) -> PretrainedSource:
    found = Recommender.load(folder)
    name, weights = found.config["dataset"], found.model.state_dict()
    if not isinstance(found.model, QBERT4Rec):
        raise InputError(
            f"{folder}: a bundle of {found.config['model']}, not of QBERT4Rec; give a bundle of "
            "QBERT4Rec"
        )
    vocabularies: list[str] = []
    sizes: tuple[int, ...] = ()
    if (folder / "items.semid").is_file():
        ids = read_semantic_ids(folder / "items.semid")
        vocabularies, sizes = [ids.vocabulary], ids.codebook_sizes
    items = [(name, item) for item in found.tokens]
    settings = found.config.final_config_dict
    names = sorted(settings["item_vectors"] or ()) if settings["use_content"] else []
    centers = {name: weights.get(f"{WHITENING}{n}.center") for n, name in enumerate(names)}
    widths = {name: len(each) for name, each in centers.items() if each is not None}
    return PretrainedSource(weights, settings, [name], items, vocabularies, sizes, widths, {}, {})


def load_pretrained(
    model: Any, settings: Mapping[str, Any], dataset: Any, source: PretrainedSource
) -> list[str]:
    """Copy all matching weights into a new QBERT4Rec, and report the others.

    Args:
        model: the new model; changed in place.
        settings: its config.
        dataset: its `SemanticIDDataset`.
        source: result of `read_source`.

    Returns:
        Report lines for the user.

    Raises:
        InputError: the hidden sizes differ, or both have item vectors that are not comparable.
    """
    check_transfer(settings, source.settings)
    shares_content = _share_content(settings, source.settings)
    if shares_content:
        _check_vectors(settings, dataset, source)
    changed = [key for key in ARCHITECTURE if source.settings.get(key) != settings[key]]
    lines = [
        f"{key} is {settings[key]!r} now and was {source.settings.get(key)!r} in pretraining"
        for key in changed
    ]
    own = model.state_dict()  # shares the memory of the model's weights
    n_loaded, left = 0, []
    for name, tensor in own.items():
        if name in OF_DATA:
            continue
        if name.startswith(WHITENING):
            if shares_content:
                tensor.copy_(source.weights[name])
            continue
        if name == TABLE:
            n, why = _copy_codes(tensor, dataset.semantic_ids, settings["pre_model_codes"], source)
        elif name == ROWS:
            tokens = [str(token) for token in dataset.field2id_token[dataset.iid_field][1:]]
            n, why = _copy_rows(tensor, dataset.dataset_name, tokens, source)
        else:
            n, why = _copy(tensor, source.weights.get(name), part=name == POSITIONS)
        n_loaded += n
        left += [f"{name}: {why}"] if why else []
    if shares_content:
        model.content.whiten()
    if shares_content and not source.encoders:
        lines.append("the encoder of its item vectors is not recorded; it must be that of this run")
    total = sum(parameter.numel() for parameter in model.parameters())
    names = " + ".join(source.domains)
    loaded = f"{n_loaded:,} of {total:,} parameters loaded, pretrained on {names}"
    return [loaded, *lines, *(f"not loaded: {line}" for line in left)]


def check_transfer(settings: Mapping[str, Any], source: Mapping[str, Any]) -> None:
    """Check the settings of a run against those of the pretraining that it starts from.

    Raises:
        InputError: the hidden sizes differ, or the adapter cannot read the run's item vectors.
    """
    if source["hidden_size"] != settings["hidden_size"]:
        raise InputError(
            f"pre_model_path: pretrained with hidden_size {source['hidden_size']}, but "
            f"this model has {settings['hidden_size']}; use the same hidden_size"
        )
    if not _share_content(settings, source):
        return
    if settings["whitening_dims"] != source["whitening_dims"]:
        raise InputError(
            f"whitening_dims: {settings['whitening_dims']}, but pre_model_path was trained with "
            f"{source['whitening_dims']}; give the same number"
        )
    check_vector_names(settings, source)


def _share_content(settings: Mapping[str, Any], source: Mapping[str, Any]) -> bool:
    """Return whether both trainings read item vectors, so that the adapter goes over."""
    return bool(settings["use_content"] and source["use_content"])


def _check_vectors(settings: Mapping[str, Any], dataset: Any, source: PretrainedSource) -> None:
    """Raise an `InputError` if a table has another dimension or encoder than the source's."""
    for modality, path in vector_files(settings).items():
        size, before = dataset.field2seqlen[modality], source.dimensions.get(modality)
        if before not in (None, size):
            raise InputError(
                f"{path}: vectors of dimension {size}, but pre_model_path was trained with {before}"
            )
        if modality not in source.encoders:
            continue
        content = read_sidecar(path, SIDECAR) or {}
        if comparable(content.get("meta", {}).get("encoder")) != comparable(
            source.encoders[modality]
        ):
            raise InputError(
                f"{path}: its encoder, or the data that it was fitted on, differs from "
                f"that of pre_model_path; embed {modality} of all data sets with one encoder"
            )


def _copy(tensor: Tensor, given: Tensor | None, part: bool) -> tuple[int, str]:
    """Copy a weight, or with `part` the leading rows that both tensors have.

    Returns:
        The number of copied parameters, and the reason if some were not copied.
    """
    if given is None:
        return 0, "not in the pretrained model"
    if part and given.shape[1:] == tensor.shape[1:] and len(given) != len(tensor):
        n = min(len(given), len(tensor))
        tensor[:n] = given[:n]
        why = (
            f"{len(tensor) - n} of {counted(len(tensor), 'row')} are new" if n < len(tensor) else ""
        )
        return tensor[:n].numel(), why
    if given.shape != tensor.shape:
        return 0, f"its shape was {list(given.shape)} and is now {list(tensor.shape)}"
    tensor.copy_(given)
    return tensor.numel(), ""


def _copy_codes(tensor: Tensor, ids: Any, how: str, source: PretrainedSource) -> tuple[int, str]:
    """Copy the code embeddings if the vocabularies match; return as `_copy`."""
    given = source.weights.get(TABLE)
    if how == "skip":
        return 0, "pre_model_codes: skip"
    if given is None:
        return 0, "the pretrained model has no codes"
    if ids.codebook_sizes != source.codebook_sizes:
        return 0, f"codebook sizes were {source.codebook_sizes} and are now {ids.codebook_sizes}"
    if ids.vocabulary in source.vocabularies:
        place = source.vocabularies.index(ids.vocabulary)
    elif how == "load":
        place = 0
    else:
        return 0, (
            "the code vocabulary differs; tokenize the data sets together or, if one quantizer "
            "made both, set pre_model_codes: load"
        )
    first = target = 0
    for size in source.codebook_sizes:
        start = first + place * size
        tensor[target : target + size] = given[start : start + size]
        first += len(source.vocabularies) * size
        target += size
    return tensor.numel(), ""


def _copy_rows(
    tensor: Tensor, name: str, tokens: Sequence[str], source: PretrainedSource
) -> tuple[int, str]:
    """Copy the rows of items that the pretrained model has in the same data set."""
    given = source.weights.get(ROWS)
    if given is None:
        return 0, "the pretrained model has no item rows"
    places = {item: row for row, (domain, item) in enumerate(source.items) if domain == name}
    known = [(row, places[token]) for row, token in enumerate(tokens) if token in places]
    if known:
        own, theirs = (torch.tensor(part) for part in zip(*known, strict=True))
        tensor[own] = given[theirs]
    missing = [token for token in tokens if token not in places]
    why = (
        f"{counted(len(missing), 'item is', 'items are')} new ({preview(missing, 3)})"
        if missing
        else ""
    )
    return len(known) * tensor.shape[1], why
