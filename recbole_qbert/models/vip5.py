"""VIP5: P5 with visual tokens of the history's items in its prompt.

Geng et al., VIP5: Towards Multimodal Foundation Models for Recommendation, Findings of EMNLP 2023
(arXiv 2305.14302). The choices follow the facts of the released program (jeykigung/VIP5), of which
no code is used. An item in the prompt is the tokens of its number, followed by `visual_tokens`
tokens that a small network makes from its image vector. To all are added a whole-word vector, the
same for all tokens of an item, and a category vector, of text or of image. T5's layers have
adapters.

Deviations from the release:

* T5 is trained from scratch, in the sizes of `TIGER`; adapters add little to blocks that are
  trained themselves. The release starts from the pretrained T5-small, whose blocks and token table
  it freezes.
* The release also freezes the whole-word and category tables at their random start, contrary to its
  paper. Here they are trained; `frozen: tables` freezes them. `frozen: backbone` trains what the
  release trains: visual network, adapters and norms. It needs pretrained blocks to make sense.
* An item's number is its rank by first training interaction; items that are not in training follow.
  Its tokens are the digits to the base `id_base`. The release splits the decimal numbers of P5 into
  sub-words. P5's users report that these numbers also count test interactions, so that the target
  is often the next number; its authors dispute it.
* Only the sequential task is trained. The words of the prompt are `prompt_tokens` learned tokens,
  without the user's name, so that a history is enough.
* All prefixes of a sequence are training rows. The release draws one of the last three training
  items as the target.
* Beams follow the tree of existing items; the release's are not constrained. There are 50 for 20,
  and no end token, since all numbers have as many digits.
* An item without a vector has no visual token. Several `item_vectors` are joined.
* The output layer is not tied to the input tokens.

Shapes: B rows, L items, C dimension of the item vectors, J visual tokens of an item, N items (row 0
is padding), D hidden.
"""

from __future__ import annotations

from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_qbert.models.layers.content import vector_names
from recbole_qbert.models.layers.generative import GenerativeRecommender
from recbole_qbert.models.layers.item_prompt import ItemPrompt
from recbole_qbert.models.layers.t5 import Memory, T5EncoderDecoder


class VIP5(GenerativeRecommender):
    """T5 over item numbers and visual tokens; see the module docstring.

    `dataset` is a `SequentialIDDataset`. A vector of zeros counts as missing.

    Raises:
        InputError: `item_vectors` is empty, or as in `GenerativeRecommender`.
    """

    needs_item_vectors = True
    vectors: Tensor  # [N, C]

    @staticmethod
    def reads_semantic_ids(config: Any) -> bool:
        """Return False: it makes its own IDs (see `inputs.reads_semantic_ids`)."""
        return False

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        names = vector_names(config)
        columns = dataset.get_item_feature()
        vectors = torch.cat([columns[name] for name in names], dim=1).float()
        self.register_buffer("vectors", vectors, persistent=False)
        n_tokens, n_levels = 1 + int(dataset.item_tokens.max()), dataset.item_tokens.size(1)
        ranges = [(1, n_tokens)] * n_levels
        self.build_generator(config, dataset.item_tokens, ranges, n_tokens)
        width, self.n_visual_tokens = config["hidden_size"], int(config["visual_tokens"])
        self.prompt = ItemPrompt(int(config["prompt_tokens"]), self.max_seq_length, width)
        self.category = nn.Embedding(2, width)  # text, image
        self.visual = VisualTokens(vectors.size(1), self.n_visual_tokens, width)
        if config["adapter_reduction"]:
            add_adapters(self.generator.t5, width, config["adapter_reduction"])
        self._freeze(config["frozen"])

    def forward(self, interaction: Interaction, rows: Tensor) -> Memory:
        """Encode the histories of some rows of a batch [B]."""
        items = self.histories(interaction, rows)  # [B, L]
        vectors = self.vectors[items]  # [B, L, C]
        text, image = self.category.weight
        table = self.generator.tokens.weight + text
        n_visual = items.numel() * self.n_visual_tokens
        visual = len(table) + torch.arange(n_visual, device=items.device).view(*items.shape, -1)
        visual = visual.masked_fill(~vectors.any(dim=2, keepdim=True), 0)  # [B, L, J]
        table = torch.cat([table, self.visual(vectors) + image])
        tokens = torch.cat([self.trie.item_tokens[items], visual], dim=2)
        return self.generator.encode(*self.prompt(tokens, table))

    def _freeze(self, frozen: str) -> None:
        """Freeze what the key `frozen` says."""
        if frozen == "tables":
            self.prompt.words.requires_grad_(False)
            self.category.requires_grad_(False)
        if frozen == "backbone":
            for name, weight in self.named_parameters():
                kept = name.startswith("visual.") or "layer_norm" in name or "adapter" in name
                weight.requires_grad_(kept)


class VisualTokens(nn.Module):
    """Map item vectors to J tokens each: two linear layers with Tanh between, and an RMS norm.

    Args:
        n_inputs: C.
        n_tokens: J.
        hidden_size: D.
    """

    def __init__(self, n_inputs: int, n_tokens: int, hidden_size: int):
        super().__init__()
        self.hidden_size, width = hidden_size, n_tokens * hidden_size
        self.first = nn.Linear(n_inputs, max(1, width // 2))
        self.second = nn.Linear(max(1, width // 2), width)
        self.norm = nn.RMSNorm(width, eps=1e-6)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the tokens of n vectors [..., C], one item after another. [n * J, D]"""
        found: Tensor = self.norm(self.second(self.first(vectors).tanh()))
        return found.view(-1, self.hidden_size)


class Adapter(nn.Module):
    """Bottleneck beside the identity (Houlsby et al., ICML 2019); it starts as the identity."""

    def __init__(self, hidden_size: int, reduction: int):
        super().__init__()
        self.down = nn.Linear(hidden_size, max(1, hidden_size // reduction))
        self.up = nn.Linear(self.down.out_features, hidden_size)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Adapt vectors [..., D]."""
        adapted: Tensor = self.up(F.gelu(self.down(hidden)))
        return hidden + adapted


class Adapted(nn.Module):
    """A layer, and an adapter of its output."""

    def __init__(self, layer: nn.Module, adapter: Adapter):
        super().__init__()
        self.layer, self.adapter = layer, adapter

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the adapted output."""
        found: Tensor = self.adapter(self.layer(hidden))
        return found


def add_adapters(t5: T5EncoderDecoder, hidden_size: int, reduction: int) -> None:
    """Add an adapter to every attention and feed-forward layer, before dropout and residual."""
    stacks: tuple[Any, Any] = (t5.encoder, t5.decoder)
    for layer in (layer for stack in stacks for block in stack.block for layer in block.layer):
        adapter = Adapter(hidden_size, reduction)
        if hasattr(layer, "DenseReluDense"):
            layer.DenseReluDense = Adapted(layer.DenseReluDense, adapter)
        else:
            cross = hasattr(layer, "EncDecAttention")
            attention = layer.EncDecAttention if cross else layer.SelfAttention
            attention.o = Adapted(attention.o, adapter)
