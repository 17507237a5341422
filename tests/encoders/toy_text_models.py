"""Tiny random text models of several families, in folders as `save_pretrained` writes them.

Whoever imports `offline` never asks the hub for anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from recbole_qbert.compat.torchvision import import_torchvision

import_torchvision()  # before transformers does it

WORDS = ["red", "shoe", "big", "old", "drum", "string", "new", "bright", "blue", "hat", "small"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


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
