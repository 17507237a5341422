"""Behavior-bound codes of several modalities (BBQRec, reconstructed from the abstract).

Paper: BBQRec: Behavior-Bind Quantization for Multi-Modal Sequential Recommendation (arXiv
2504.06636). Its text is not public beyond the abstract and the names of its parts; the equations
are a reconstruction. For each modality m of an item with vector x_m:

    z_m = behavior encoder(x_m),  s_m = specific encoder(x_m);  z_ID: a learned vector of the item
    ẑ   = residual quantization of z with codebooks shared by all z_m and z_ID
    L   = mean |x_m - decoder([ẑ_m; d s_m])|^2 + L_rq               (L_rq as in eq. 8 of Q-BERT4Rec)
          + club_weight  sum over m of CLUB(z_m, s_m)
          + contrast_weight  InfoNCE(history, next item)

d is 0 or 1 at random (`specific_dropout`): with s_m always at hand, the codes would hold almost
none of the content. CLUB (Cheng et al., ICML 2020) is an upper bound of the mutual information,
here of the behavior and the specific vector, by a learned Gaussian q(s | z). A GRU reads the ẑ of a
history, averaged over the modalities and z_ID; the contrast is with the other items of the step's
histories.

Shapes: n items, S segments (the modalities, then z_ID), E dimensions of a latent, D_m dimensions of
a modality, K levels, S_k codes of level k, U histories of at most T items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_qbert.config.settings import Chance, Count, Number, Positive, Weight, Width
from recbole_qbert.data.embeddings import Z_ID
from recbole_qbert.tokenizer.quantizers.rqvae import choose, squared_length
from recbole_qbert.tokenizer.stages import StageSettings

_MOST_LOG_VARIANCE = 5.0  # keeps the Gaussian of CLUB from becoming a point
_MOMENTUM = 0.1  # share of a step in the moments of a segment

Inputs = Mapping[str, tuple[Tensor, Tensor]]
"""Maps each modality to its standardized vectors [n, D_m] and a mask bool [n]."""


class BBQSettings(StageSettings):
    """Settings of the stream `bbq`; `properties/tokenize.yaml` documents each."""

    section: ClassVar[str] = "bbq"

    hidden_sizes: list[Width]
    code_size: Width
    beta: Weight
    club_weight: Weight
    contrast_weight: Weight
    specific_dropout: Chance
    temperature: Positive
    history: Annotated[int, Field(ge=1, le=10_000)]
    users_per_step: Count
    epochs: Number
    batch_size: Annotated[int, Field(ge=2, le=1_000_000_000)]
    learning_rate: Annotated[float, Field(ge=0, le=10)]
    weight_decay: Weight


class Latents(NamedTuple):
    """Latents of n items, by modality, each [n, E]."""

    behavior: dict[str, Tensor]
    specific: dict[str, Tensor]


class Quantized(NamedTuple):
    """Result of residual quantization of [n, E]."""

    vectors: Tensor  # [n, E]; gradients flow to the latents and to the codewords
    loss: Tensor  # eq. 8, a scalar
    codes: Tensor  # int64 [n, K]


class SegmentNorm(nn.Module):
    """Gives the latents of a segment mean 0 and variance 1 in each dimension.

    Without one scale and center, segments could not share codebooks: a segment whose latents lie
    close together, compared with their distance from 0, would have one code for most items.

    In training, the moments are those of the step's items; otherwise, those that were kept.
    """

    mean: Tensor  # [E]
    variance: Tensor  # [E]

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))

    def forward(self, latents: Tensor, present: Tensor) -> Tensor:
        """Normalize [n, E]; the moments are those of the items in `present`, bool [n]."""
        mean, variance = self.mean, self.variance
        if self.training and present.sum() > 1:
            mean, variance = _moments(latents[present])
            self.mean.lerp_(mean.detach(), _MOMENTUM)
            self.variance.lerp_(variance.detach(), _MOMENTUM)
        return (latents - mean) / (variance + 1e-5).sqrt()

    @torch.no_grad()
    def settle(self, latents: Tensor) -> None:
        """Keep the moments of latents [n, E]."""
        if len(latents) > 1:
            self.mean, self.variance = _moments(latents)


class BehaviorBinding(nn.Module):
    """Encoders, decoders, codebooks, item vectors, history encoder and Gaussians of CLUB."""

    def __init__(
        self,
        n_items: int,
        dimensions: Mapping[str, int],
        codebook_sizes: Sequence[int],
        settings: BBQSettings,
    ):
        """Initialize random weights and zero codewords.

        Args:
            n_items: number of vectors z_ID.
            dimensions: D_m of each modality.
            codebook_sizes: K sizes S_k.
            settings: sizes and loss.
        """
        super().__init__()
        self.settings = settings
        size, hidden = settings.code_size, settings.hidden_sizes

        def of_modalities(make: Any) -> nn.ModuleDict:
            return nn.ModuleDict({name: make(width) for name, width in dimensions.items()})

        self.behavior = of_modalities(lambda width: _mlp([width, *hidden, size]))
        self.specific = of_modalities(lambda width: _mlp([width, *hidden, size]))
        self.decoders = of_modalities(lambda width: _mlp([2 * size, *hidden[::-1], width]))
        self.gaussians = of_modalities(lambda _: _mlp([size, size, 2 * size]))
        self.identity = nn.Parameter(torch.randn(n_items, size))
        self.norms = nn.ModuleDict({name: SegmentNorm(size) for name in (*dimensions, Z_ID)})
        self.reader = nn.GRU(size, size, batch_first=True)
        self.codebooks = nn.ParameterList(
            [nn.Parameter(torch.zeros(count, size)) for count in codebook_sizes]
        )

    def encode(self, inputs: Inputs) -> Latents:
        """Encode the modalities of items; an item without a modality has that of the mean item."""
        named = inputs.items()
        return Latents(
            {
                name: self.norms[name](self.behavior[name](each), there)
                for name, (each, there) in named
            },
            {name: _unit_scale(self.specific[name](each)) for name, (each, _) in named},
        )

    def segments(self, behavior: Mapping[str, Tensor], identity: Tensor) -> Tensor:
        """Stack the latents to quantize, [n, S, E]; `identity` is z_ID [n, E]."""
        everyone = torch.ones(len(identity), dtype=torch.bool)
        return torch.stack([*behavior.values(), self.norms[Z_ID](identity, everyone)], dim=1)

    @torch.no_grad()
    def settle(self, inputs: Inputs) -> None:
        """Keep the moments of all training items in the norms."""
        found = {name: self.behavior[name](each[there]) for name, (each, there) in inputs.items()}
        for name, latents in {**found, Z_ID: self.identity}.items():
            cast(SegmentNorm, self.norms[name]).settle(latents)

    def quantize(self, latents: Tensor) -> Quantized:
        """Quantize latents [n, E] with the shared codebooks (eqs. 6 and 8)."""
        entering, words, loss = latents, torch.zeros_like(latents), latents.new_zeros(())
        codes = []
        for codebook in self.codebooks:
            codes.append(choose(entering.detach(), codebook.detach()))
            word = codebook[codes[-1]]
            loss = loss + squared_length(entering.detach() - word, "mean")
            loss = loss + self.settings.beta * squared_length(entering - word.detach(), "mean")
            entering, words = entering - word.detach(), words + word
        # The straight-through estimator copies the gradient to the latents. The codewords keep
        # their own, so that the contrast shapes the codebooks too.
        return Quantized(words + (latents - latents.detach()), loss, torch.stack(codes, dim=1))

    def gaussian(self, name: str, behavior: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance, both [n, E], of q(s | z) for behavior latents z [n, E]."""
        mean, raw = self.gaussians[name](behavior).chunk(2, dim=1)
        return mean, _MOST_LOG_VARIANCE * torch.tanh(raw / _MOST_LOG_VARIANCE)

    def surprise(self, latents: Latents, inputs: Inputs) -> Tensor:
        """Return the negative log-likelihood of CLUB's Gaussians, which they are trained on."""
        total = next(iter(latents.behavior.values())).new_zeros(())
        for name, (_, present) in inputs.items():
            behavior, specific = (each[name][present].detach() for each in latents)
            if len(behavior):
                mean, log_variance = self.gaussian(name, behavior)
                off = (specific - mean).square() / log_variance.exp()
                total = total + (off + log_variance).sum(dim=1).mean() / 2
        return total

    def loss(
        self,
        latents: Latents,
        inputs: Inputs,
        rows: Tensor,
        sequences: Tensor,
        lengths: Tensor,
        kept: Tensor | None = None,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Compute the weighted terms of L by name, and the codes.

        Args:
            latents: result of `encode`.
            inputs: the modalities of n items.
            rows: [n] numbers of these items, of their z_ID.
            sequences: [U, T] right-padded histories, places in `rows`.
            lengths: [U], each from 2 to T.
            kept: [n, M] bool, whether the decoder of a modality gets the specific latent of an
                item, or zeros; None: it always does.

        Returns:
            Terms whose sum is minimized, and codes int64 [m, K] of all latents that exist.
        """
        stacked = self.segments(latents.behavior, self.identity[rows])
        masks = [present for _, present in inputs.values()]
        there = torch.stack([*masks, torch.ones_like(masks[0])], dim=1)  # [n, S]
        quantized = self.quantize(stacked[there])
        vectors = torch.zeros_like(stacked)
        vectors[there] = quantized.vectors
        terms = {"quantization": quantized.loss}
        for segment, (name, (wanted, present)) in enumerate(inputs.items()):
            specific = latents.specific[name]
            if not present.any():
                continue
            specific = specific if kept is None else specific * kept[:, segment, None]
            decoded = self.decoders[name](torch.cat([vectors[:, segment], specific], dim=1))
            terms[f"reconstruction-{name}"] = squared_length((decoded - wanted)[present], "mean")
            behavior = latents.behavior[name][present]
            bound = club(specific[present], *self.gaussian(name, behavior))
            terms[f"club-{name}"] = self.settings.club_weight * bound
        items = vectors.sum(dim=1) / there.sum(dim=1, keepdim=True)
        contrast = self.contrast(items, sequences, lengths)
        terms["contrast"] = self.settings.contrast_weight * contrast
        return terms, quantized.codes

    def contrast(self, items: Tensor, sequences: Tensor, lengths: Tensor) -> Tensor:
        """Compute InfoNCE of each prefix with its next item, against all items of the sequences.

        `items` [n, E] are the vectors that `sequences` [U, T] number. The loss is 0 if U is 0.
        """
        if not len(sequences):
            return items.sum() * 0.0
        places = torch.arange(sequences.size(1))
        own = torch.unique(sequences[places < lengths.unsqueeze(1)])
        states, _ = self.reader(items[sequences[:, :-1]])
        real = places[1:] < lengths.unsqueeze(1)
        targets = torch.searchsorted(own, sequences[:, 1:][real])
        logits = F.normalize(states[real], dim=1) @ F.normalize(items[own], dim=1).T
        return F.cross_entropy(logits / self.settings.temperature, targets)


def club(values: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Compute the CLUB estimate of the mutual information for a Gaussian q(s | z).

    It is mean_i log q(s_i | z_i) - mean_ij log q(s_j | z_i). The mean over j of (s_j - mean_i)^2 is
    (mean of s - mean_i)^2 plus the variance of s, so that no pairs are needed.

    Args:
        values: s [n, E].
        mean: mean of q(s | z_i), [n, E].
        log_variance: its log-variance, [n, E].
    """
    center, spread = values.mean(dim=0), values.var(dim=0, unbiased=False)
    others, own = (center - mean).square() + spread, (values - mean).square()
    return ((others - own) / log_variance.exp()).sum(dim=1).mean() / 2


def _unit_scale(latents: Tensor) -> Tensor:
    """Give each latent [n, E] mean 0 and variance 1 over its dimensions."""
    return F.layer_norm(latents, latents.shape[1:])


def _moments(latents: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance over [n, E], both [E]."""
    return latents.mean(dim=0), latents.var(dim=0, unbiased=False)


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    """Create linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.ReLU()] * bool(layers) + [nn.Linear(before, after)]
    return nn.Sequential(*layers)
