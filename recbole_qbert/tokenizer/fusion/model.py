"""Stage 1: dynamic cross-modal semantic injection (section 3.3, eqs. 3-5).

Each item has a learnable ID vector, the query. In blocks of cross-attention, it attends to the
item's text and image. After each block, a gate decides for each item whether to stop.

Shapes: B items of a batch, J parts of a modality (fields of a text, grid tokens of an image), M
modalities, D_m dimensions of a modality, D hidden size, S maximum depth (number of blocks).

The paper leaves these points open:

- The gate is one logit per item. The text calls it a vector, and says that it "directly determines
  whether to continue or stop propagation for each item".
- In training, the output is the mixture of all depths, weighted by the probability that a depth is
  the last one. At inference, it is the first depth whose gate stops.
- If a modality has a single part, the softmax of eq. 3 has one term and equals 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_qbert.config.settings import Layers, Number, Positive, Weight, Width
from recbole_qbert.tokenizer.stages import StageSettings

# Eq. 3 does not normalize queries shorter than this. The gradient of the normalization is unbounded
# near zero, where an item without co-occurrence starts, and one such step would freeze its query.
_SHORTEST_QUERY = 0.1


class InjectionSettings(StageSettings):
    """Settings of stage 1; `properties/tokenize.yaml` documents each."""

    section: ClassVar[str] = "injection"

    hidden_size: Width
    n_heads: Layers
    inner_size: Width
    max_depth: Layers
    gate: Literal["dynamic", "fixed"]
    temperature: Positive
    consistency_weight: Weight
    ponder_weight: Weight
    epochs: Number
    batch_size: Annotated[int, Field(ge=2, le=1_000_000_000)]
    learning_rate: Annotated[float, Field(ge=0, le=10)]
    weight_decay: Weight


@dataclass(frozen=True)
class Injected:
    """Output of stage 1 for a batch.

    Attributes:
        fused: h [B, D].
        aligned: for each modality, x̂ [B, D] of eq. 3, rows of length <= 1; the modality's learned
            vector for items that lack it.
        depth_probability: [B, S], the probability that a depth is the last one; rows sum to 1.
    """

    fused: Tensor
    aligned: dict[str, Tensor]
    depth_probability: Tensor


class InjectionBlock(nn.Module):
    """Cross-attention from the query to the modalities, then a feed-forward layer (eq. 4)."""

    def __init__(self, hidden_size: int, n_heads: int, inner_size: int):
        super().__init__()
        self.attention = nn.MultiheadAttention(hidden_size, n_heads, batch_first=True)
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.feed_forward = nn.Sequential(
            nn.Linear(hidden_size, inner_size), nn.GELU(), nn.Linear(inner_size, hidden_size)
        )
        self.feed_forward_norm = nn.LayerNorm(hidden_size)

    def forward(self, hidden: Tensor, modalities: Tensor) -> Tensor:
        """Apply the block to hidden [B, D] and modalities [B, M, D]; return [B, D]."""
        read, _ = self.attention(hidden.unsqueeze(1), modalities, modalities, need_weights=False)
        hidden = self.attention_norm(hidden + read.squeeze(1))
        return self.feed_forward_norm(hidden + self.feed_forward(hidden))


class CrossModalInjection(nn.Module):
    """Network of stage 1 of Q-BERT4Rec."""

    def __init__(self, n_items: int, dimensions: Mapping[str, int], settings: InjectionSettings):
        """Initialize random weights.

        Args:
            n_items: N, number of queries.
            dimensions: D_m of each modality.
            settings: sizes and loss.
        """
        super().__init__()
        self.settings = settings
        size = settings.hidden_size
        # Elements of standard deviation 1, like the normalized output that eq. 5 compares them to.
        self.query = nn.Parameter(torch.randn(n_items, size))
        self.projections = nn.ModuleDict(
            {modality: nn.Linear(dimension, size) for modality, dimension in dimensions.items()}
        )
        self.missing = nn.ParameterDict(
            {modality: nn.Parameter(torch.randn(size) / size**0.5) for modality in dimensions}
        )
        self.blocks = nn.ModuleList(
            InjectionBlock(size, settings.n_heads, settings.inner_size)
            for _ in range(settings.max_depth)
        )
        inner = max(1, size // 4)
        # The last depth needs no gate, because every item stops there.
        self.gates = nn.ModuleList(
            nn.Sequential(nn.Linear(size, inner), nn.GELU(), nn.Linear(inner, 1))
            for _ in range(settings.max_depth - 1 if settings.gate == "dynamic" else 0)
        )

    def forward(
        self, query: Tensor, parts: Mapping[str, tuple[Tensor, Tensor]], hard: bool = False
    ) -> Injected:
        """Inject the modalities into the queries.

        Args:
            query: q [B, D].
            parts: for each modality, its vectors [B, J, D_m] and mask bool [B, J].
            hard: stop each item at its first gate above one half, instead of mixing the depths.
        """
        aligned = {name: self.align(name, query, *parts[name]) for name in self.projections}
        # Rows of length 1 have small elements; attention expects a standard deviation of 1.
        scale = self.settings.hidden_size**0.5
        modalities = torch.stack(list(aligned.values()), dim=1) * scale
        hidden, states = query, []
        for block in self.blocks:
            hidden = block(hidden, modalities)
            states.append(hidden)
        stacked = torch.stack(states, dim=1)  # [B, S, D]
        stop = self.stop_probability(stacked)
        probability = halting(stop)
        if hard:
            probability = F.one_hot(first_stop(stop), len(self.blocks)).to(stacked.dtype)
        fused = (probability.unsqueeze(2) * stacked).sum(dim=1)
        return Injected(fused, aligned, probability)

    def align(self, modality: str, query: Tensor, vectors: Tensor, present: Tensor) -> Tensor:
        """Average the parts of a modality, weighted by their cosine with the query (eq. 3).

        q [B, D], vectors [B, J, D_m], present bool [B, J] -> x̂ [B, D].
        """
        projected = F.normalize(self.projections[modality](vectors), dim=-1)  # [B, J, D]
        direction = F.normalize(query, dim=-1, eps=_SHORTEST_QUERY)
        cosine = torch.einsum("bd,bjd->bj", direction, projected)
        weights = masked_softmax(cosine / self.settings.temperature, present)
        mixed = torch.einsum("bj,bjd->bd", weights, projected)
        return torch.where(present.any(dim=1, keepdim=True), mixed, self.missing[modality])

    def stop_probability(self, states: Tensor) -> Tensor:
        """Compute σ(MLP(h)) at each depth, and 1 at the last. [B, S, D] -> [B, S].

        With `gate: fixed`, the probability is 0 before the last depth.
        """
        last = torch.ones_like(states[:, :1, 0])
        if not self.gates:
            return torch.cat([torch.zeros_like(states[:, 1:, 0]), last], dim=1)
        gates = [gate(states[:, depth]) for depth, gate in enumerate(self.gates)]
        return torch.cat([*(torch.sigmoid(gate) for gate in gates), last], dim=1)

    def loss(self, query: Tensor, parts: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """Compute the terms of eq. 5 by name, with the arguments of `forward`.

        Training minimizes their sum. An InfoNCE term uses only the items that have the modalities
        it compares. The squared distance of the consistency term is a mean over the D elements, not
        a sum: with 256 elements, a sum would dominate the other terms. `ponder`, the weighted
        expected depth, is not in the paper.
        """
        injected = self(query, parts)
        there = {name: present.any(dim=1) for name, (_, present) in parts.items()}
        aligned, tau = injected.aligned, self.settings.temperature
        names = list(aligned)
        terms: dict[str, Tensor] = {}
        for name in names:
            keep = there[name]
            terms[f"fused-{name}"] = info_nce(injected.fused[keep], aligned[name][keep], tau)
        for left, right in itertools.combinations(names, 2):
            keep = there[left] & there[right]
            terms[f"{left}-{right}"] = info_nce(aligned[left][keep], aligned[right][keep], tau)
        distance = (injected.fused - query.detach()).square().mean()
        terms["consistency"] = self.settings.consistency_weight * distance
        if self.settings.ponder_weight and self.gates:
            depth = expected_depth(injected.depth_probability)
            terms["ponder"] = self.settings.ponder_weight * depth
        return terms


def masked_softmax(scores: Tensor, present: Tensor) -> Tensor:
    """Compute a softmax over the present entries of the last axis; zeros if none is present."""
    scores = scores.masked_fill(~present, -torch.inf)
    scores = scores - scores.amax(dim=-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
    weights = scores.exp() * present
    return weights / weights.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)


def halting(stop: Tensor) -> Tensor:
    """Compute p_l Π_{j<l} (1 - p_j). [B, S] with last column 1 -> [B, S], rows sum to 1."""
    going = torch.cumprod(1 - stop, dim=1)
    return stop * torch.cat([torch.ones_like(going[:, :1]), going[:, :-1]], dim=1)


def first_stop(stop: Tensor) -> Tensor:
    """Find the first depth, from 0, with a stop probability above one half. [B, S] -> [B]."""
    return (stop > 0.5).to(torch.uint8).argmax(dim=1)


def info_nce(left: Tensor, right: Tensor, temperature: float) -> Tensor:
    """Compute the symmetric InfoNCE loss of matching rows [B, D], with in-batch negatives.

    The loss is 0 if B < 2.
    """
    if len(left) < 2:  # no negatives
        return (left.sum() + right.sum()) * 0.0
    logits = F.normalize(left, dim=1) @ F.normalize(right, dim=1).T / temperature
    own = torch.arange(len(left), device=left.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def expected_depth(depth_probability: Tensor) -> Tensor:
    """Compute the mean expected number of blocks of an item. [B, S] -> scalar, from 1 to S."""
    depths = torch.arange(1, depth_probability.size(1) + 1, device=depth_probability.device)
    return (depth_probability * depths).sum(dim=1).mean()
