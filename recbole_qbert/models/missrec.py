"""MISSRec: interests of a user, found by clustering text and image vectors, guide a decoder.

Wang et al., MISSRec: Pre-training and Transferring Multi-modal Interest-aware Sequence
Representation for Recommendation, ACM Multimedia 2023. Where the paper leaves things open, the
choices follow the facts of the released program (gimpong/MM23-MISSRec), of which no code is used.

1. One linear adaptor per modality maps the item vectors to width D.
2. Before every epoch, mini-batch k-means clusters the adapted vectors. A center is an *interest*.
3. An encoder reads the different interests of a history, a set without order. A decoder without
   causal mask reads the history's items (sum of adapted vectors, position and, with `use_ids`, a
   vector of the item's own) and attends to the encoded interests. Its last position is the user.
4. An item's score is the cosine with the user, per modality, fused by weights that depend on user
   and candidate (`fuse`); with `use_ids`, the cosine of the item's own vector counts once more.

Deviations from the release:

* A missing vector is masked: no content, no interest and no score come from it. The release passes
  zeros through the adaptor, so that its bias stands for the vector.
* K-means sees only vectors of items that occur in training; every vector then belongs to its
  nearest center. The release clusters the whole catalog.
* The orthogonality term is a mean over rows and over a row's interests, so that neither padding nor
  the size of a batch counts. The release sums over rows and padded positions.
* Padding is neither an interest nor a candidate of the softmax.
* First stage: the second view of a sequence drops items in all rows. The release also drops words,
  of which no vectors are at hand here. Weights that it learned are not frozen later.

Shapes: B rows, L positions, M modalities, N items (0 is padding), T interests of a row, C interests
in all (0 is none), D hidden, V vectors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.model.sequential_recommender import SASRec
from recbole.utils import InputType
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_qbert.common.errors import one_of
from recbole_qbert.common.process_group import is_main, sum_over_processes
from recbole_qbert.common.ragged import compacted
from recbole_qbert.data.embeddings import check_modality
from recbole_qbert.models.layers.content import vector_names
from recbole_qbert.models.layers.first_stage import with_weights
from recbole_qbert.models.layers.interest_transformer import InterestTransformer
from recbole_qbert.models.layers.kept_items import KeepsItems
from recbole_qbert.models.layers.masking import valid_positions
from recbole_qbert.models.layers.prediction import PredictsByRanking
from recbole_qbert.models.layers.sampled_loss import draw_items, loss_over_sample

ABSENT = -1e4  # weight logit of a missing modality; finite in half precision too
KMEANS_BATCH = 2048  # vectors per step of k-means; 1.1 C if that is more, as in the release


class MISSRec(KeepsItems, PredictsByRanking, SequentialRecommender):
    """Multimodal interest-aware encoder-decoder; see the module docstring.

    `dataset` is a `PartialVectorsDataset`; every entry of `item_vectors` is a modality. A vector of
    zeros counts as missing. With `train_stage: pretrain` the model has no vectors of items' own and
    is trained by contrast within a batch.

    Raises:
        InputError: `item_vectors` is empty or a name cannot be used, or `hidden_act` is unknown.
    """

    input_type = InputType.POINTWISE
    needs_item_vectors = True
    present: Tensor  # [M, N] whether an item has the modality
    visible: Tensor  # [N] whether an item occurs in training
    centers: Tensor  # [C + 1, D]
    clusters: Tensor  # [M, N] interest of each vector, 0 if there is none
    fusion_factor: Tensor  # [1], or [N] for `fusion: item`

    @staticmethod
    def reads_semantic_ids(config: Any) -> bool:
        """Return False: semantic IDs do not change this model (see `inputs.reads_semantic_ids`)."""
        return False

    def __init__(self, config: Any, dataset: Any):
        super().__init__(config, dataset)
        one_of("hidden_act", config["hidden_act"], ("gelu", "relu"))
        self.modalities = vector_names(config)
        self.seed = int(config["seed"])
        self.pretrains = config["train_stage"] == "pretrain"
        self.cluster_passes = int(config["cluster_passes"])
        self.temperature = float(config["temperature"])
        self.orthogonality_weight = float(config["orthogonality_weight"])
        self.sequence_loss_weight = float(config["sequence_loss_weight"])
        self.item_drop_prob = float(config["item_drop_prob"])
        self.softmax_samples = int(config["softmax_samples"])
        width = int(config["hidden_size"])

        columns = dataset.get_item_feature()
        self.adaptors = nn.ModuleDict()
        for name in self.modalities:
            check_modality(name)
            self.register_buffer(f"vectors_{name}", columns[name], persistent=False)
            self.adaptors[name] = nn.Linear(columns[name].size(1), width)
        present = torch.stack([self._vectors(name).any(dim=1) for name in self.modalities])
        self.register_buffer("present", present, persistent=False)
        visible = torch.zeros(self.n_items, dtype=torch.bool)
        visible[dataset.training_sequences()[0]] = True
        self.register_buffer("visible", visible, persistent=False)
        share = config["pretrain_interest_ratio" if self.pretrains else "interest_ratio"]
        self.n_interests = math.ceil(float(share) * int(present.sum()))
        self.register_buffer("centers", torch.zeros(self.n_interests + 1, width))
        self.register_buffer("clusters", torch.zeros(present.shape, dtype=torch.long))

        one_of("fusion", config["fusion"], ("shared", "item", "mean"))
        per_item = config["fusion"] == "item" and not self.pretrains
        factor = torch.zeros(self.n_items if per_item else 1)
        if config["fusion"] == "mean":
            self.register_buffer("fusion_factor", factor, persistent=False)
        else:
            self.fusion_factor = nn.Parameter(factor)
        self.ids: nn.Embedding | None = None
        if config["use_ids"] and not self.pretrains:
            self.ids = nn.Embedding(self.n_items, width)
        self.transformer = InterestTransformer(config, self.max_seq_length)
        self.initializer_range = config["initializer_range"]
        self.apply(lambda module: SASRec._init_weights(self, module))

    def begin_epoch(self, epoch: int) -> None:
        """Find the interests again, from the adaptors as they are; called before every epoch.

        The result depends on `seed`, `epoch` and the weights alone.
        """
        self.centers.zero_()
        self.clusters.zero_()
        if is_main():
            with torch.no_grad():
                vectors = self.adapted()[self.present].float().cpu().numpy()  # [V, D]
            visible = self.visible.expand_as(self.present)[self.present].cpu().numpy()
            seed = int(np.random.SeedSequence((self.seed, epoch)).generate_state(1)[0])
            centers, nearest = find_interests(
                vectors, visible, self.n_interests, self.cluster_passes, seed
            )
            self.centers[1 : len(centers) + 1] = torch.from_numpy(centers).to(self.centers)
            self.clusters[self.present] = torch.from_numpy(nearest).to(self.clusters) + 1
        sum_over_processes(self.centers)
        sum_over_processes(self.clusters)

    def load_first_stage(self, weights: Mapping[str, Tensor]) -> None:
        """Start from a first stage: all its weights but those whose size follows the catalog.

        Raises:
            InputError: the weights are of other sizes or modalities.
        """
        kept = self.state_dict().keys() - {name for name, _ in self.named_parameters()}
        kept |= {"ids.weight"}
        if len(self.fusion_factor) != len(weights.get("fusion_factor", ())):
            kept |= {"fusion_factor"}
        remedy = "give a first stage of MISSRec with the same sizes and item_vectors"
        self.load_state_dict(with_weights(self, weights, kept, remedy))

    def adapted(self) -> Tensor:
        """Return the adapted vectors of all items, zeros where one is missing. [M, N, D]"""
        found = torch.stack([self.adaptors[m](self._vectors(m)) for m in self.modalities])
        return found.masked_fill(~self.present.unsqueeze(2), 0.0)

    def forward(self, items: Tensor, lengths: Tensor, adapted: Tensor) -> tuple[Tensor, Tensor]:
        """Encode histories [B, L], right-padded with zeros, of lengths [B].

        Returns:
            users: [B, D] of length 1.
            overlap: [B], mean product of a row's encoded interests, 0 to about 1; the orthogonality
                term is its mean.
        """
        table = adapted.sum(dim=0)
        if self.ids is not None:
            table = table + self.ids.weight
        interests = unique_interests(self.clusters[:, items].movedim(0, 1).flatten(1))
        users, overlap = self.transformer(items, lengths, table, interests, self.centers)
        return F.normalize(users, dim=1), overlap

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Return the mean cross-entropy over the catalog, or in the first stage over the batch."""
        items, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        targets, adapted = interaction[self.POS_ITEM_ID], self.adapted()
        users, overlap = self.forward(items, lengths, adapted)
        if not self.pretrains:
            loss = self._next_item_loss(users, adapted, targets)
            return loss + self.orthogonality_weight * overlap.mean()
        candidates, labels = torch.unique(targets, return_inverse=True)
        loss = F.cross_entropy(self._scores(users, adapted, candidates), labels)
        others, more = self.forward(*drop_items(items, lengths, self.item_drop_prob), adapted)
        rows = torch.arange(len(users), device=users.device)
        alike = F.cross_entropy((users @ others.T).float() / self.temperature, rows)
        overlap = overlap + more
        return loss + self.sequence_loss_weight * alike + self.orthogonality_weight * overlap.mean()

    def _next_item_loss(self, users: Tensor, adapted: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of targets [B] over the catalog or a sample of it."""
        if 0 < self.softmax_samples < self.n_items - 1:
            return self._sampled_loss(users, adapted, targets)
        return F.cross_entropy(self._scores(users, adapted)[:, 1:], targets - 1)

    def _sampled_loss(self, users: Tensor, adapted: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of targets [B] over a sample of the catalog."""
        pool = torch.arange(1, self.n_items, device=targets.device)
        drawn = draw_items(pool, self.softmax_samples)
        scores = self._scores(users, adapted, torch.cat([drawn, targets]))
        positive = scores[:, len(drawn) :].diagonal()
        return loss_over_sample(positive, scores[:, : len(drawn)], targets, drawn, len(pool))

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Score the whole catalog. [B, N]"""
        adapted = self.kept_items(self.adapted)
        users, _ = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN], adapted)
        return self._scores(users, adapted)

    def _vectors(self, modality: str) -> Tensor:
        vectors: Tensor = getattr(self, f"vectors_{modality}")
        return vectors

    def _scores(self, users: Tensor, adapted: Tensor, items: Tensor | None = None) -> Tensor:
        """Score the items [R], or all, for users [B, D] of length 1. [B, R]

        With m modalities present, an item's own vector has weight 1 / (m + 1).
        """
        chosen = slice(None) if items is None else items
        present = self.present[:, chosen]
        shared = len(self.fusion_factor) == 1
        factor = self.fusion_factor if shared else self.fusion_factor[chosen]
        # A vector of zeros has no direction, and its gradient would be very large.
        vectors = adapted[:, chosen].masked_fill(~present.unsqueeze(2), 1.0)
        scores = fuse((users @ F.normalize(vectors, dim=2).mT).float(), present, factor)
        if self.ids is not None:
            n_present = present.sum(dim=0)
            own = (users @ F.normalize(self.ids.weight[chosen], dim=1).T).float()
            scores = (own + n_present * scores) / (n_present + 1)
        return scores / self.temperature


def fuse(cosines: Tensor, present: Tensor, factor: Tensor) -> Tensor:
    """Fuse the scores of the modalities, weighed for each user and candidate (dynamic fusion).

    The weights are the softmax over the present modalities of `factor` times the scores, so a
    factor of 0 gives the mean. An item without any modality has score 0.

    Args:
        cosines: [M, B, N].
        present: [M, N] bool.
        factor: [1], or [N] with one for each item.

    Returns:
        [B, N].
    """
    absent = ~present.unsqueeze(1)
    cosines = cosines.masked_fill(absent, 0.0)
    weights = (factor * cosines).masked_fill(absent, ABSENT).softmax(dim=0)
    return (weights * cosines).sum(dim=0)


def unique_interests(interests: Tensor) -> Tensor:
    """Remove repeated interests of each row, and padding columns. [B, T'] to [B, T]

    The result is in descending order, 0 where a row has fewer; T is at least 1.
    """
    ordered = interests.sort(dim=1).values
    repeated = F.pad(ordered[:, 1:] == ordered[:, :-1], (1, 0))
    unique = ordered.masked_fill(repeated, 0).sort(dim=1, descending=True).values
    return unique[:, : max(1, int((unique > 0).sum(dim=1).max()))]


def find_interests(
    vectors: np.ndarray, visible: np.ndarray, n_interests: int, n_passes: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cluster the visible vectors by mini-batch k-means, and assign all to the nearest center.

    Args:
        vectors: float32 [V, D].
        visible: bool [V], the vectors that the centers depend on; without any there is no center.
        n_interests: number of centers; fewer if fewer vectors are visible.
        n_passes: passes over the visible vectors.
        seed: of all randomness; no global generator is used.

    Returns:
        centers: float32 [C, D].
        nearest: [V] numbers of centers from 0; -1 without centers.
    """
    from sklearn.cluster import MiniBatchKMeans  # slow to import, and read by training alone

    seen = vectors[visible]
    if not len(seen):
        return vectors[:0], np.full(len(vectors), -1)
    n_interests = min(n_interests, len(seen))
    kmeans = MiniBatchKMeans(
        n_interests,
        init="random",  # k-means++ takes longer than training if there are thousands of centers
        n_init=1,
        max_iter=n_passes,
        batch_size=max(KMEANS_BATCH, int(1.1 * n_interests)),
        max_no_improvement=None,
        reassignment_ratio=0.0,
        compute_labels=False,
        random_state=seed,
    ).fit(seen)
    return kmeans.cluster_centers_, kmeans.predict(vectors)


def drop_items(items: Tensor, lengths: Tensor, chance: float) -> tuple[Tensor, Tensor]:
    """Drop each item with the given probability, at least one left; items [B, L], lengths [B]."""
    draw = torch.rand(items.shape, device=items.device)
    real = valid_positions(lengths, items.size(1))
    kept = real & (draw >= chance)
    kept |= real & (draw == draw.masked_fill(~real, -1.0).amax(dim=1, keepdim=True))
    return compacted(items * kept)
