"""eSASRec and gSASRec: SASRec with LiGR layers and with losses over sampled negatives.

* Tikhonovich et al., eSASRec: Enhancing Transformer-based Recommendations in a Modular Fashion,
  RecSys 2025 (arXiv 2508.06450): SASRec's objective, LiGR layers, sampled softmax.
* Petrov and Macdonald, gSASRec: Reducing Overconfidence in Sequential Recommendation Trained with
  Negative Sampling, RecSys 2023 (arXiv 2308.07192): gBCE with many negatives.
* Kang and McAuley, Self-Attentive Sequential Recommendation, ICDM 2018; the network is RecBole's.

Published on Beauty (HR@10 / NDCG@10, blondered/transformer_benchmark): eSASRec .0928 / .0523,
SASRec with sampled softmax .0921 / .0531. That code samples uniformly and does not correct the
logits: `logq_correction: False`. As RecBole's SASRec, this model has one target per training row.

Shapes: B rows, L positions, S negatives of each row, N items (row 0 is padding), D hidden.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender import SASRec
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_qbert.models.layers.ligr import LiGREncoder
from recbole_qbert.models.layers.loss import exclude_items
from recbole_qbert.models.layers.sampled_loss import (
    NegativeSampler,
    gbce,
    gbce_power,
    sampled_softmax,
    scores_of_drawn,
)


class ESASRec(SASRec):
    """SASRec with a choice of layers and loss; see the module docstring.

    With `layers: sasrec` and `loss: ce` it is RecBole's SASRec. With `layers: ligr` the embedded
    items go into the blocks without LayerNorm, and the last block's output is the user's vector.
    """

    causal = True
    loss_types = ("CE",)

    @staticmethod
    def reads_semantic_ids(config: Any) -> bool:
        """Return False: semantic IDs do not change this model (see `inputs.reads_semantic_ids`)."""
        return False

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.full_softmax = config["loss"] == "ce"
        self.calibrated = config["loss"] == "gbce"
        self.corrected = bool(config["logq_correction"])
        n_others = max(1, self.n_items - 2)  # items without padding and target
        self.n_negatives = min(int(config["n_negatives"]), n_others)
        self.scores_all = self.n_negatives == n_others
        self.beta = gbce_power(self.n_negatives, n_others, float(config["gbce_t"]))
        # Adam remembers the first gradients for thousands of steps. Where all scores are near 0,
        # those of the negatives are some hundred times larger than later. At this offset they are
        # as large as the target's. No ranking depends on it.
        self.offset: nn.Parameter | None = None
        if self.calibrated and config["gbce_offset"]:
            self.offset = nn.Parameter(torch.tensor(math.log(self.beta / self.n_negatives)))
        items, _ = dataset.training_sequences()
        self.sampler = NegativeSampler(items, self.n_items, float(config["negative_power"]))
        if config["layers"] == "ligr":
            self.LayerNorm = nn.Identity()
            self.trm_encoder = LiGREncoder(config)

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Return the mean loss of the rows' targets."""
        loss: Tensor
        if self.full_softmax:
            loss = super().calculate_loss(interaction)
            return loss
        hidden = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        positive, negative, log_expected = self._scores(hidden, interaction[self.POS_ITEM_ID])
        if self.offset is not None:
            positive, negative = positive + self.offset, negative + self.offset
        if self.calibrated:
            return gbce(positive, negative, self.n_negatives, self.beta)
        return sampled_softmax(positive, negative, log_expected if self.corrected else None)

    def _scores(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Score targets [B] and negatives [B, S]; the target does not count as a negative.

        Returns:
            Scores of the targets [B], scores of the negatives [B, S], and log of the expected
            number of draws of each negative [B, S], or None if all items are scored (S = N).
        """
        own, table = targets.unsqueeze(1), self.item_embedding.weight
        if self.scores_all:
            scores = hidden @ table.T
            return scores.gather(1, own)[:, 0], exclude_items(scores.clone(), own), None
        drawn = self.sampler(len(targets), self.n_negatives)  # [B, S]
        positive = (hidden * F.embedding(targets, table)).sum(dim=1)
        negative = scores_of_drawn(hidden, table, drawn)
        log_expected = self.sampler.log_chance[drawn] + math.log(self.n_negatives)
        return positive, negative.masked_fill(drawn == own, -math.inf), log_expected


class GSASRec(ESASRec):
    """gSASRec: RecBole's SASRec trained with gBCE; ESASRec with other defaults."""
