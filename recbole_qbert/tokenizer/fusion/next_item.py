"""Stage 1 taught by the next item: an item's behavior reads its content (`fusion: next_item`).

The paper's stage 1 compares each item with itself, so nothing in its loss says what items share.
Here an encoder reads the fused vectors of a training history and predicts the next item's:

    q = W b + c                       b: co-occurrence vector of the item; zeros if it has none
    x_0 = q,  x_l = block_l(x_(l-1), views of the content)
    g_l = gate_l(x_l),  s_l = g_l prod_(j<l) (1 - g_j),  s of the last depth: what is left
    h = LayerNorm(sum over l of s_l x_l)
    L = - log p(next item | encoder of the history's h)
        + reconstruction_weight  sum over modalities m of 1 - cos(W_m h, content_m)

p is a softmax of cosines over `temperature`. The mixture of depths is also the output at inference.
The encoder and W_m are used in training alone.

Shapes: n items, M modalities, J parts of a modality, V views, E = sum of J V keys of an item, D_m
dimensions of a modality, A dimensions of a co-occurrence vector, D hidden, S depths, U histories of
at most T items.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_qbert.config.settings import (
    Chance,
    Count,
    Layers,
    Number,
    Positive,
    Weight,
    Width,
)
from recbole_qbert.config.settings import Dropout as DropoutChance
from recbole_qbert.models.layers.dropout import Dropout
from recbole_qbert.tokenizer.fusion.model import halting
from recbole_qbert.tokenizer.stages import StageSettings

Inputs = Mapping[str, tuple[Tensor, Tensor]]
"""Maps each modality to unit vectors [n, J, D_m] and a mask bool [n, J]."""


class NextItemSettings(StageSettings):
    """Settings of this stage 1; `properties/tokenize.yaml` documents each."""

    section: ClassVar[str] = "next_item"

    hidden_size: Width
    n_heads: Layers
    inner_size: Width
    max_depth: Layers
    gate: Literal["dynamic", "fixed"]
    views: Layers
    dropout_prob: DropoutChance
    behavior_dropout: DropoutChance
    temperature: Positive
    label_smoothing: Chance
    reconstruction_weight: Weight
    encoder_layers: Layers
    encoder_dropout_prob: DropoutChance
    history: Annotated[int, Field(ge=2, le=10_000)]
    users_per_step: Count
    scored_items: Count
    epochs: Number
    max_steps: Number
    learning_rate: Annotated[float, Field(ge=0, le=10)]
    weight_decay: Weight


class Fused(NamedTuple):
    """Output of stage 1 for n items."""

    vectors: Tensor  # h [n, D]
    shares: Tensor  # s [n, S], rows sum to 1


class FusionBlock(nn.Module):
    """Cross-attention from one vector of each item to its keys, then a feed-forward layer."""

    def __init__(self, settings: NextItemSettings):
        super().__init__()
        size, self.n_heads = settings.hidden_size, settings.n_heads
        self.query, self.value, self.output = (nn.Linear(size, size) for _ in range(3))
        # A bias of keys would be the same for all of them, and change nothing.
        self.key = nn.Linear(size, size, bias=False)
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.dropout = Dropout(settings.dropout_prob)
        self.feed_forward = nn.Sequential(
            nn.Linear(size, settings.inner_size),
            nn.GELU(),
            Dropout(settings.dropout_prob),
            nn.Linear(settings.inner_size, size),
        )

    def forward(self, hidden: Tensor, keys: Tensor, absent: Tensor) -> Tensor:
        """Apply the block to [n, D], keys [n, E, D] and their mask `absent` bool [n, E]. [n, D]"""
        hidden = hidden + self.output(self._read(self.attention_norm(hidden), keys, absent))
        found: Tensor = hidden + self.feed_forward(self.feed_forward_norm(hidden))
        return found

    def _read(self, hidden: Tensor, keys: Tensor, absent: Tensor) -> Tensor:
        """Compute attention of several heads. [n, D]

        There is one query for each item, so the layers of keys and values are applied to the query
        and to the mixed keys; for every key they would cost E times as much. One more key of zeros,
        with a value of zeros, is for items without content.
        """
        query = self.query(hidden).unflatten(1, (self.n_heads, -1))  # [n, H, D / H]
        into, out_of = (
            each.weight.unflatten(0, query.shape[1:]) for each in (self.key, self.value)
        )
        wanted = torch.einsum("nhd,hdD->nhD", query, into) / query.size(2) ** 0.5
        scores = (wanted @ keys.mT).masked_fill(absent.unsqueeze(1), -torch.inf)  # [n, H, E]
        weights = self.dropout(F.pad(scores, (0, 1)).softmax(dim=2))[:, :, :-1]
        mixed = torch.einsum("nhD,hdD->nhd", weights @ keys, out_of)
        bias = self.value.bias.unflatten(0, query.shape[1:]) * weights.sum(dim=2, keepdim=True)
        return (mixed + bias).flatten(1)


class HistoryEncoder(nn.Module):
    """Causal Transformer over the fused vectors of a history."""

    def __init__(self, settings: NextItemSettings):
        super().__init__()
        size, dropout = settings.hidden_size, settings.encoder_dropout_prob
        layer = nn.TransformerEncoderLayer(
            size, settings.n_heads, settings.inner_size, dropout, "gelu", batch_first=True
        )
        layer.dropout, layer.dropout1, layer.dropout2 = (Dropout(dropout) for _ in range(3))
        self.input = nn.Linear(size, size)
        self.position = nn.Embedding(settings.history, size)
        self.dropout = Dropout(dropout)
        self.blocks = nn.TransformerEncoder(
            layer, settings.encoder_layers, enable_nested_tensor=False
        )

    def forward(self, vectors: Tensor) -> Tensor:
        """Encode right-padded histories [U, T, D]; each place sees itself and those before it."""
        n_places = vectors.size(1)
        places = self.position(torch.arange(n_places))
        later = torch.ones(n_places, n_places, dtype=torch.bool).triu(1)
        hidden = self.dropout(self.input(vectors) + places)
        found: Tensor = self.blocks(hidden, mask=later, is_causal=True)
        return found


class NextItemFusion(nn.Module):
    """Network of this stage 1, with what teaches it; see the module docstring."""

    def __init__(
        self, behavior_size: int, dimensions: Mapping[str, int], settings: NextItemSettings
    ):
        """Initialize random weights.

        Args:
            behavior_size: A.
            dimensions: D_m of each modality.
            settings: sizes and loss.
        """
        super().__init__()
        self.settings = settings
        size, depth = settings.hidden_size, settings.max_depth
        self.dropout = Dropout(settings.dropout_prob)
        self.query = nn.Linear(behavior_size, size)
        self.views = nn.ModuleDict(
            {name: nn.Linear(width, settings.views * size) for name, width in dimensions.items()}
        )
        self.blocks = nn.ModuleList(FusionBlock(settings) for _ in range(depth))
        n_gates = depth - 1 if settings.gate == "dynamic" else 0
        self.gates = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(size), nn.Linear(size, 1)) for _ in range(n_gates)
        )
        self.norm = nn.LayerNorm(size)
        self.decoders = nn.ModuleDict(
            {name: nn.Linear(size, width) for name, width in dimensions.items()}
        )
        self.encoder = HistoryEncoder(settings)

    def forward(self, behavior: Tensor, inputs: Inputs) -> Fused:
        """Fuse the content of items into their behavior vectors b [n, A]."""
        settings, keys, absent = self.settings, [], []
        for name, views in self.views.items():
            vectors, present = inputs[name]
            each = views(self.dropout(vectors)).unflatten(2, (settings.views, -1))  # [n, J, V, D]
            keys.append(each.flatten(1, 2))
            absent.append(~present.repeat_interleave(settings.views, dim=1))
        hidden = self.query(self._dropped(behavior))
        all_keys, all_absent = torch.cat(keys, dim=1), torch.cat(absent, dim=1)
        states = []
        for block in self.blocks:
            hidden = block(hidden, all_keys, all_absent)
            states.append(hidden)
        shares = self._shares(states)
        mixed = (shares.unsqueeze(2) * torch.stack(states, dim=1)).sum(dim=1)
        return Fused(self.norm(mixed), shares)

    def loss(
        self,
        fused: Tensor,
        inputs: Inputs,
        sequences: Tensor,
        lengths: Tensor,
        log_chance: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the terms of L by name; training minimizes their sum.

        Args:
            fused: h [n, D] of the scored items.
            inputs: their modalities.
            sequences: [U, T] right-padded histories, places in `fused`.
            lengths: [U], each from 2 to T.
            log_chance: [n] log-probability of each item to be scored, where these are a sample of
                the catalog; None: they are all of it.
        """
        settings = self.settings
        read, wanted = self._read(fused, sequences, lengths)
        logits = read @ F.normalize(fused, dim=1).T / settings.temperature
        if log_chance is not None:
            logits = logits - log_chance
        smoothing = settings.label_smoothing
        terms = {"next-item": F.cross_entropy(logits, wanted, label_smoothing=smoothing)}
        for name, decoder in self.decoders.items():
            vectors, present = inputs[name]
            rows = present.any(dim=1)
            content = pooled(vectors[rows], present[rows])
            distance = 1 - F.cosine_similarity(decoder(fused[rows]), content, dim=1)
            weight = settings.reconstruction_weight / max(1, len(content))
            terms[f"reconstruction-{name}"] = weight * distance.sum()
        return terms

    def _read(self, fused: Tensor, sequences: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode all prefixes of the histories.

        Histories of similar length are padded together, since most are much shorter than T.

        Returns:
            For each prefix, a unit vector and the place of the next item in `fused`.
        """
        read, wanted = [], []
        widths = 1 << (lengths - 1).log2().ceil().long()  # powers of two
        for width in widths.unique().tolist():
            rows = widths == width
            items, n_prefixes = sequences[rows, : width + 1], lengths[rows].unsqueeze(1) - 1
            there = torch.arange(items.size(1) - 1) < n_prefixes
            read.append(self.encoder(fused[items[:, :-1]])[there])
            wanted.append(items[:, 1:][there])
        return F.normalize(torch.cat(read), dim=1), torch.cat(wanted)

    def _dropped(self, behavior: Tensor) -> Tensor:
        """Drop elements and, as for an item without training interactions, whole vectors."""
        if not self.training:
            return behavior
        kept = torch.rand(len(behavior), 1) >= self.settings.behavior_dropout
        return self.dropout(behavior) * kept

    def _shares(self, states: list[Tensor]) -> Tensor:
        """Compute the share of each depth in h, [n, S]; with `gate: fixed`, the last has all."""
        last = torch.ones_like(states[0][:, :1])
        if self.gates:
            pairs = zip(self.gates, states[:-1], strict=True)
            stop = [torch.sigmoid(gate(state)) for gate, state in pairs]
            return halting(torch.cat([*stop, last], dim=1))
        return torch.cat([torch.zeros_like(last).expand(-1, len(states) - 1), last], dim=1)


def pooled(vectors: Tensor, present: Tensor) -> Tensor:
    """Average the present parts [n, J, D_m] of items, scaled to length 1; zeros without any."""
    return F.normalize((vectors * present.unsqueeze(2)).sum(dim=1), dim=1)
