"""Text encoder that runs any Hugging Face text model.

Shapes: b items, J texts of an item, T texts, L tokens of a batch's longest text, D dimensions.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from packaging.version import Version
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from recbole_qbert.common.errors import InputError, did_you_mean, one_of, preview, whole_number
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.compat.torchvision import import_torchvision
from recbole_qbert.encoders.devices import check_device, choose_device, choose_dtype
from recbole_qbert.encoders.driver import encode_distinct
from recbole_qbert.encoders.shards import EncodedBatch

POOLINGS = ("mean", "last")
_MODEL_FILES = (".json", ".txt", ".model", ".safetensors", ".bin")
# transformers 4.56 renamed the argument.
_DTYPE_ARGUMENT = "dtype" if Version(transformers.__version__) >= Version("4.56") else "torch_dtype"


class HuggingFaceTextEncoder:
    """Encoder that pools the last hidden states of a Hugging Face text model.

    Only the encoder of an encoder-decoder model is used. Texts of similar length form a batch.
    Batches are padded on the right, whatever the tokenizer's own side, so that padding does not
    shift the positions of tokens, and the attention mask hides the padding. A text's vector is
    therefore independent of the other texts, up to rounding.

    The constructor loads the configuration and the tokenizer; the first `encode` loads the weights.

    Args:
        name: folder or hub name of the model.
        label: name that `describe` returns in place of the folder's name.

    See `text.embed_text` for the other arguments.

    Raises:
        InputError: an argument is invalid, or the model cannot be loaded.
    """

    def __init__(
        self,
        name: str,
        *,
        pooling: str = "mean",
        max_length: int = 512,
        batch_size: int = 32,
        normalize: bool = False,
        dtype: str = "auto",
        revision: str | None = None,
        device: str = "auto",
        label: str | None = None,
    ):
        one_of("pooling", pooling, POOLINGS)
        whole_number("batch_size", batch_size)
        self._device = choose_device(device)
        self._dtype = choose_dtype(dtype, self._device)
        self._name, self._revision, self._label = name, revision, label
        self._pooling, self._batch_size, self._normalize = pooling, batch_size, normalize
        import_torchvision()  # transformers imports it with every model
        self._config = self._loaded(transformers.AutoConfig)
        self._tokenizer = self._loaded(transformers.AutoTokenizer)
        self._max_length = min(
            max_length,
            self._tokenizer.model_max_length,
            getattr(self._config, "max_position_embeddings", None) or max_length,
        )
        if self._max_length <= self._tokenizer.num_special_tokens_to_add():
            raise InputError(f"max_length is {max_length}: too small for one word; raise it")

    def describe(self) -> dict[str, Any]:
        """Return name, revision or content hash, settings and library versions."""
        name, local = self._name, os.path.isdir(self._name)
        return {
            # Only the folder's own name, because its location differs between machines.
            "name": self._label or (os.path.basename(os.path.realpath(name)) if local else name),
            "kind": "hugging-face",
            "model_type": self._config.model_type,
            "revision": None if local else self._config._commit_hash or self._revision,
            "folder_sha256": self._folder_sha256 if local else None,
            "pooling": self._pooling,
            "normalize": self._normalize,
            "max_length": self._max_length,
            "batch_size": self._batch_size,
            "dtype": str(self._dtype).removeprefix("torch."),
            "device": self._device.type,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    def encode(self, inputs: Sequence[Sequence[str]]) -> EncodedBatch:
        """Encode b items of J texts each, float32 [b, J, D]; blank texts are masked.

        Raises:
            InputError: the model cannot be loaded, a text is too long for it, or the GPU's memory
                is too small.
        """
        return encode_distinct(inputs, self._encode_texts)

    def _encode_texts(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return vectors [T, D], and bool [T], False where the tokenizer finds no token."""
        tokens = self._tokenizer(
            texts, truncation=True, max_length=self._max_length, return_attention_mask=False
        )["input_ids"]
        lengths = np.array([len(row) for row in tokens])
        known = lengths > 0
        # Longest first, so that a lack of memory shows at once.
        order = np.argsort(-lengths, kind="stable")[: known.sum()]
        pooled = [np.zeros((0, 0), dtype=np.float32)]
        for start in range(0, len(order), self._batch_size):
            rows = order[start : start + self._batch_size]
            pooled.append(self._encode_batch([tokens[row] for row in rows]))
        vectors = np.zeros((len(texts), pooled[-1].shape[1]), dtype=np.float32)
        vectors[order] = np.concatenate(pooled[1:] or pooled)
        return vectors, known

    @torch.inference_mode()
    def _encode_batch(self, tokens: Sequence[Sequence[int]]) -> np.ndarray:
        """Compute the pooled states of one batch, float32 [batch, D]."""
        rows = [torch.tensor(row) for row in tokens]
        # The mask hides the padding token, but RoBERTa counts positions by its ID.
        pad = self._tokenizer.pad_token_id
        pad = self._tokenizer.eos_token_id if pad is None else pad
        padded = pad_sequence(rows, batch_first=True, padding_value=pad or 0).to(self._device)
        ones = [torch.ones_like(row, dtype=torch.bool) for row in rows]
        mask = pad_sequence(ones, batch_first=True).to(self._device)
        try:
            states = self._model(input_ids=padded, attention_mask=mask.long()).last_hidden_state
        except IndexError:
            raise InputError(
                f"{self._name}: a text of {padded.shape[1]} tokens is too long for the model; "
                "lower max_length"
            ) from None
        except torch.cuda.OutOfMemoryError:
            raise InputError(
                f"{self._name}: out of GPU memory with batch_size {self._batch_size} and "
                f"max_length {self._max_length}; lower one of them (finished shards are kept)"
            ) from None
        vectors = pool(states.float(), mask, self._pooling)
        if self._normalize:
            vectors = torch.nn.functional.normalize(vectors, dim=1)
        return vectors.cpu().numpy()

    @functools.cached_property
    def _model(self) -> torch.nn.Module:
        check_device(self._device)
        known = transformers.MODEL_FOR_TEXT_ENCODING_MAPPING
        text_encoder = type(self._config) in known
        kind = transformers.AutoModelForTextEncoding if text_encoder else transformers.AutoModel
        model, info = self._loaded(kind, output_loading_info=True, **{_DTYPE_ARGUMENT: self._dtype})
        # The pooler is unused, and models that were saved with a head lack it.
        missing = sorted(key for key in info["missing_keys"] if "pooler" not in key)
        if missing:
            raise InputError(
                f"{self._name}: the weights lack {len(missing)} of the model's tensors "
                f"({preview(missing, 3)}); give a complete {self._config.model_type} model"
            )
        if self._config.is_encoder_decoder and not text_encoder:
            model = model.get_encoder()
        model.config.use_cache = False  # each text is encoded once, so a cache would waste memory
        return model.eval().to(self._device)

    def _loaded(self, kind: Any, **arguments: Any) -> Any:
        """Call `kind.from_pretrained`; turn any exception into an InputError."""
        name = self._name
        if not os.path.isdir(name) and (os.path.isabs(name) or name.startswith(".")):
            raise InputError(f"{name}: no such folder; give that of a Hugging Face text model")
        try:
            return kind.from_pretrained(name, revision=self._revision or "main", **arguments)
        except Exception as error:  # OSError, ValueError, ImportError, SafetensorError, ...
            reason = " ".join(str(error).split())[:160] or type(error).__name__
            raise InputError(
                f"{name}: cannot be loaded as a Hugging Face text model ({reason}); give a folder "
                f"that save_pretrained wrote, or the name of a hub model and access to the hub"
                f"{did_you_mean(name, ['tfidf', 'tags', 'sentence'])}"
            ) from None

    @functools.cached_property
    def _folder_sha256(self) -> str:
        """SHA-256 of the names and contents of the model's files."""
        files = [file for file in sorted(Path(self._name).iterdir()) if file.is_file()]
        hashes = [f"{f.name} {sha256_file(f)}\n" for f in files if f.suffix in _MODEL_FILES]
        return hashlib.sha256("".join(hashes).encode()).hexdigest()


def pool(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """Pool the token states of each row into one vector, [batch, D]; padding may be on either side.

    Args:
        states: [batch, L, D].
        mask: bool [batch, L], True at tokens; each row has at least one.
        pooling: `mean`, or `last` for the state of the last token.
    """
    if pooling == "mean":
        total = states.masked_fill(~mask.unsqueeze(2), 0.0).sum(dim=1)
        return total / mask.sum(dim=1, keepdim=True)
    last = mask.shape[1] - 1 - mask.flip(1).long().argmax(dim=1)
    return states[torch.arange(len(states), device=states.device), last]
