"""Q-BERT4Rec: masked-item prediction over semantic IDs (sections 3.5-3.6).

Paper: Q-BERT4Rec: Quantized Semantic-ID Representation Learning for Multimodal Recommendation.

docs/design.md lists the deviations from the paper by config key, and where they were measured.

Shapes: B batch, L positions, K levels, S_k codes in level k, N items (row 0 is padding), R scored
items, D hidden, M masked positions in the batch, T tokens per item (1, or K for `flatten`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_qbert.common.errors import InputError
from recbole_qbert.models.layers.attention_bias import UNKNOWN
from recbole_qbert.models.layers.catalog_sample import log_absence, sample_catalog
from recbole_qbert.models.layers.content import AdaptedContent
from recbole_qbert.models.layers.encoder import SequenceEncoder
from recbole_qbert.models.layers.item_representation import CodeItems, build_representation
from recbole_qbert.models.layers.kept_items import KeepsItems
from recbole_qbert.models.layers.loss import exclude_items, smoothed_cross_entropy
from recbole_qbert.models.layers.masking import (
    append_item,
    draw_masks,
    global_generator,
    valid_positions,
)
from recbole_qbert.models.layers.popularity_terms import PopularityTerms, popularity_terms
from recbole_qbert.models.layers.prediction import PredictsByRanking
from recbole_qbert.models.layers.trained_items import SoftmaxItems, softmax_items
from recbole_qbert.models.layers.vocabulary import vocabulary_rows
from recbole_qbert.topk.index import ItemIndex

NO_CODES = ", or item_representation: id and attention_bias: none"
DOMAIN_FIELD = "domain"  # column of a pretraining batch: its domain's number, equal in all rows


class MaskedBatch(NamedTuple):
    """Training batch after all random draws that concern the whole batch."""

    items: Tensor  # [B, L] row numbers of `matrix`
    lengths: Tensor  # [B]
    mask: Tensor  # [B, L] bool
    matrix: Tensor  # [R, T * D] vectors of the R scored items, padding first
    rows: Tensor | None  # [R] catalog IDs of the scored items; None if `matrix` has all items
    log_chance: Tensor | None  # [R] log-probability that an item is scored; None if all are

    @property
    def n_terms(self) -> int:
        """Number M of masked positions, over which the loss is a mean."""
        return int(self.mask.sum())

    def part(self, rows: slice) -> MaskedBatch:
        """Return a slice of the batch's rows, with the same item matrix."""
        items, lengths, mask = self.items[rows], self.lengths[rows], self.mask[rows]
        return self._replace(items=items, lengths=lengths, mask=mask)


class QBERT4Rec(KeepsItems, PredictsByRanking, SequentialRecommender):
    """Bidirectional encoder over item vectors composed of semantic-ID codes.

    `dataset` is a `SemanticIDDataset`, or any object with `num(field)`, `item_codes`, `codec`,
    `training_repeats()` and `training_rows()`. A dataset with `domain_starts` holds several domains
    (pretraining). Each of its batches has a column `domain`; the batch's items are numbered within
    that domain, and only items of that domain are scored.

    Raises:
        InputError: the representation needs semantic IDs and the dataset has none.
    """

    input_type = InputType.POINTWISE
    takes_pretrained = True
    log_absence: Tensor
    compared_codes: Tensor  # [N, K] of `attention_bias: codes`

    @staticmethod
    def reads_semantic_ids(config: Any) -> bool:
        """Return whether item vectors are made of codes; see `inputs.reads_semantic_ids`."""
        return config["item_representation"] != "id" or config["attention_bias"] == "codes"

    def __init__(self, config: Any, dataset: Any):
        super().__init__(config, dataset)
        self.item_representation = config["item_representation"]
        self.mask_mix = {name: float(each) for name, each in config["mask_mix"].items()}
        self.mask_ratios = {name: float(each) for name, each in config["mask_ratios"].items()}
        self.label_smoothing = float(config["label_smoothing"])
        self.backward_positions = config["position_order"] == "backward"
        self.temperature = float(config["temperature"]) if config["score"] == "cosine" else None
        self.mask_knows_previous = config["mask_context"] == "previous"
        self.code_loss_weight = float(config["code_loss_weight"])
        self.exclude_visible = _resolve_exclude_visible(config["exclude_visible"], dataset)
        self.domain_starts: list[int] = getattr(dataset, "domain_starts", [])
        self.softmax_items: SoftmaxItems | None = None
        self.popularity_terms: PopularityTerms | None = None
        # In pretraining, every domain has only the items of its sequences.
        if not self.domain_starts:
            self.softmax_items = softmax_items(config, dataset, self.n_items)
            self.popularity_terms = popularity_terms(config, dataset, self.n_items)
        self.softmax_samples = int(config["softmax_samples"])
        if self.softmax_samples:
            rows = dataset.training_rows(config["train_batch_size"], self.max_seq_length)
            cut_share = self.mask_mix.get("next_item", 0.0) / sum(self.mask_mix.values())
            absence = log_absence(rows, self.n_items, cut_share)
            self.register_buffer("log_absence", absence, persistent=False)

        self.reweights_attention = config["attention_bias"] == "codes"
        item_codes: Tensor | None = None
        codebook_sizes: tuple[int, ...] = ()
        if self.item_representation != "id":
            reader = f"item_representation {self.item_representation}"
            item_codes, codebook_sizes = vocabulary_rows(dataset, reader, others=NO_CODES)
        self.items = build_representation(
            self.item_representation,
            n_items=self.n_items,
            hidden_size=config["hidden_size"],
            item_codes=item_codes,
            codebook_sizes=codebook_sizes,
            word_init=config["word_init"],
            init=config["initializer_range"],
            code_dropout=config["code_dropout_prob"],
            row_dropout=config["row_dropout_prob"],
        )
        self.tokens_per_item = self.items.tokens_per_item
        self.content: AdaptedContent | None = None
        if config["use_content"]:
            if self.tokens_per_item > 1:
                raise InputError(
                    "use_content: a vector cannot be added to the separate tokens of "
                    f"item_representation: {self.item_representation}; choose another one"
                )
            self.content = AdaptedContent(config, dataset)
        self.mask_token = nn.Parameter(torch.empty(self.tokens_per_item, config["hidden_size"]))
        n_levels = 0
        if self.reweights_attention:
            compared = vocabulary_rows(dataset, "attention_bias codes", others=NO_CODES)[0]
            compared[0] = UNKNOWN
            n_levels = compared.size(1)
            self.register_buffer("compared_codes", compared, persistent=False)
        n_positions = self.max_seq_length * self.tokens_per_item
        self.encoder = SequenceEncoder(config, n_positions, n_levels)
        nn.init.normal_(self.mask_token, std=config["initializer_range"])
        self.encoder.apply(lambda module: _init_weights(module, config["initializer_range"]))

    def item_matrix(self, rows: Tensor | None = None) -> Tensor:
        """Return the item matrix [N, T * D], or [R, T * D] for item IDs [R] from padding on."""
        matrix: Tensor = self.items(rows)
        return matrix if self.content is None else matrix + self.content(rows)

    def forward(
        self,
        items: Tensor,
        lengths: Tensor,
        mask: Tensor,
        matrix: Tensor,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Compute the masked items' hidden vectors [M, T * D], in the order of `mask.nonzero()`.

        Args:
            items: [B, L] right-padded row numbers of `matrix`; those at masked positions are
                ignored.
            lengths: [B].
            mask: [B, L] bool.
            matrix: [R, T * D] item matrix.
            rows: [R] catalog IDs of its rows; None if it has all N items.
        """
        n_tokens = self.tokens_per_item
        real = valid_positions(lengths, items.size(1))
        hidden_by_mask = mask[real]  # [P], P real items in the batch
        vectors = F.embedding(items[real], matrix).view(-1, n_tokens, self.mask_token.size(1))
        known = items.masked_fill(mask, 0)
        # ONNX does not broadcast the right side of an indexed assignment.
        masked = self.mask_token.expand(known[mask].size(0), -1, -1)  # [M, T, D]
        if self.mask_knows_previous:
            known = previous_visible(items, mask)
            masked = masked + F.embedding(known[mask], matrix).view(masked.shape)
        vectors[hidden_by_mask] = masked
        tokens = torch.arange(items.size(1) * n_tokens, device=items.device).unsqueeze(0)
        token_lengths = lengths * n_tokens
        if self.backward_positions:
            tokens = token_lengths.unsqueeze(1) - 1 - tokens
        tokens = tokens.expand(items.size(0), -1)[real.repeat_interleave(n_tokens, dim=1)]
        wanted = mask.repeat_interleave(n_tokens, dim=1)
        codes = None
        if self.reweights_attention:
            ids = known[real] if rows is None else rows[known[real]]
            codes = self.compared_codes[ids.repeat_interleave(n_tokens)]
        hidden = self.encoder(vectors.flatten(0, 1), token_lengths, tokens, wanted, codes)
        return hidden.view(-1, matrix.size(1))

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Return the mean cross-entropy over the masked positions (eq. 11), plus the code loss."""
        return self.batch_loss(self.draw_batch(interaction))

    def draw_batch(self, interaction: Interaction) -> MaskedBatch:
        """Mask a batch and compute its item matrix.

        In distributed training every process calls this on the whole batch, with equal generators.
        """
        fields = (self.ITEM_SEQ, self.ITEM_SEQ_LEN, self.POS_ITEM_ID)
        items, lengths = append_item(*(interaction[field] for field in fields))
        items = items[:, : int(lengths.max())]
        lengths, mask = draw_masks(
            lengths, items.size(1), self.mask_mix, self.mask_ratios, global_generator(items.device)
        )
        rows, log_chance = self._domain_rows(interaction), None
        if self.softmax_items is not None:
            items, rows = self.softmax_items.places[items], self.softmax_items.rows
        n_items = self.n_items if rows is None else len(rows)
        if 0 < self.softmax_samples < n_items - 1:
            absence = self.log_absence if rows is None else self.log_absence[rows]
            # Items behind the cut of `next_item` must not enter the sample.
            items = items.masked_fill(~valid_positions(lengths, items.size(1)), 0)
            items, scored, log_chance = sample_catalog(
                items, self.softmax_samples, absence, global_generator(items.device)
            )
            rows = scored if rows is None else rows[scored]
        return MaskedBatch(items, lengths, mask, self.item_matrix(rows), rows, log_chance)

    def batch_loss(self, batch: MaskedBatch) -> Tensor:
        """Return the loss of a masked batch, or of a part of it; see `calculate_loss`."""
        items, lengths, mask, matrix, rows, log_chance = batch
        targets = items[mask]  # [M]
        hidden = self.forward(items, lengths, mask, matrix, rows)
        logits = self._score(hidden, matrix)  # [M, R]
        if log_chance is not None:
            # Correct the logits for the sampling (log-Q correction, Yi et al., RecSys 2019). The
            # items of the row itself are always in the sample.
            correction = log_chance.to(logits.dtype).repeat(len(logits), 1)
            logits -= correction.scatter_(1, items[mask.nonzero()[:, 0]], 0.0)
        if self.popularity_terms is not None:
            terms = self.popularity_terms.in_training
            logits += (terms if rows is None else terms[rows]).to(logits.dtype)
        visible = self._visible_items(items, lengths, mask)[mask.nonzero()[:, 0]]  # [M, L]
        visible = visible.masked_fill(visible == targets.unsqueeze(1), 0)
        loss = smoothed_cross_entropy(logits, targets, visible, self.label_smoothing)
        if self.code_loss_weight:
            targets = targets if rows is None else rows[targets]
            loss = loss + self.code_loss_weight * self.items.code_loss(hidden, targets, self._score)
        return loss

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Score the whole catalog exactly, in one pass. [B, N]

        In pretraining the catalog is that of the batch's domain.
        """
        rows = self._domain_rows(interaction)
        matrix = self.kept_items(self.item_matrix) if rows is None else self.item_matrix(rows)
        hidden, visible = self._next_item_state(interaction, matrix, rows)
        scores = self._score(hidden, matrix)
        if self.popularity_terms is not None and self.popularity_terms.ranks:
            scores += self.popularity_terms.at_ranking
        return exclude_items(scores, visible)

    def item_index(self) -> ItemIndex | None:
        """Return an index of items 1 to N - 1, numbered from 0; None if items have no codes."""
        if not isinstance(self.items, CodeItems):
            return None
        content = None if self.content is None else self.content()[1:]
        terms = self.popularity_terms
        added = terms.at_ranking[1:] if terms is not None and terms.ranks else None
        return self.items.index(self.temperature is not None, content, added)

    def with_items(self, codes: Tensor) -> dict[str, Tensor]:
        """Return the weights with new items of the given codes [n, K]; see `item_representation`.

        With `use_content`, the new items count as items without content.

        Raises:
            InputError: items have vectors of their own, without codes.
        """
        grown = {f"items.{name}": value for name, value in self.items.with_items(codes).items()}
        if self.popularity_terms is not None:
            grown["popularity_terms.counts"] = self.popularity_terms.with_items(len(codes))
        if self.content is not None:
            grown["content.vectors"] = F.pad(self.content.vectors, (0, 0, 0, len(codes)))
        return {**self.state_dict(), **grown}

    @torch.no_grad()
    def queries(self, interaction: Interaction) -> tuple[Tensor, Tensor]:
        """Return the queries [B, T * D] of `item_index`, and the items to exclude [B, L].

        The product of a query and an item's vector, divided by its norm for `cosine`, plus the
        item's term, is the score of `full_sort_predict`. Vectors are computed for the items of the
        histories alone. Excluded items are numbered from 1; 0 is padding.
        """
        history = interaction[self.ITEM_SEQ]
        rows, small = torch.unique(F.pad(history, (1, 0)), return_inverse=True)  # with padding
        batch = Interaction({**interaction.interaction, self.ITEM_SEQ: small[:, 1:]})
        hidden, visible = self._next_item_state(batch, self.item_matrix(rows), rows)
        return self._direction(hidden), rows[visible]

    def _domain_rows(self, interaction: Interaction) -> Tensor | None:
        """Return the catalog IDs of the batch's domain, padding first; None without domains."""
        if not self.domain_starts:
            return None
        field = interaction[DOMAIN_FIELD]
        domain = int(field[0])
        first, end = self.domain_starts[domain : domain + 2]
        return F.pad(torch.arange(first + 1, end + 1, device=field.device), (1, 0))

    def _score(self, hidden: Tensor, rows: Tensor) -> Tensor:
        """Compute logits [..., M, R] of rows [..., R, D] for hidden vectors [..., M, D]."""
        rows = rows if self.temperature is None else F.normalize(rows, dim=-1)
        return self._direction(hidden) @ rows.mT

    def _direction(self, hidden: Tensor) -> Tensor:
        """Divide hidden vectors by their norms and the temperature, if the score is a cosine.

        The temperature is applied to M * D numbers instead of M * R.
        """
        if self.temperature is None:
            return hidden
        return F.normalize(hidden, dim=-1) / self.temperature

    def _next_item_state(
        self, interaction: Interaction, matrix: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Append a mask to each history; return its hidden vector [B, T * D] and visible items."""
        history, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        items, lengths = append_item(history, lengths, torch.zeros_like(lengths))
        items = items[:, : int(lengths.max())]
        mask = torch.arange(items.size(1), device=items.device) == lengths.unsqueeze(1) - 1
        hidden = self.forward(items, lengths, mask, matrix, rows)
        return hidden, self._visible_items(items, lengths, mask)

    def _visible_items(self, items: Tensor, lengths: Tensor, mask: Tensor) -> Tensor:
        """Return the items to exclude from scores, padding elsewhere. [B, L]

        Where repeats are allowed the result is one column of padding, [B, 1].
        """
        if not self.exclude_visible:
            return torch.zeros_like(items[:, :1])
        return items.masked_fill(mask | ~valid_positions(lengths, items.size(1)), 0)

    def closed_form_macs(self) -> int:
        """Count the multiply-accumulates of encoder and head for one user of full length.

        With P = L * T positions, Q of them wanted, and an inner size of I, a block multiplies
        2 P D^2 for keys and values, 2 Q D^2 for queries and outputs, 2 Q P D in attention, and
        2 Q D I in the feed-forward layers. Q is P, and T, the masked item, in the last block. The
        head multiplies N T D, the padding row included.
        """
        blocks = self.encoder.blocks.layers
        hidden_size, inner_size = self.mask_token.size(1), blocks[0].linear1.out_features
        positions = self.max_seq_length * self.tokens_per_item

        def block(wanted: int) -> int:
            projections = 2 * (positions + wanted) * hidden_size**2
            attention = 2 * wanted * positions * hidden_size
            return projections + attention + 2 * wanted * hidden_size * inner_size

        head = self.n_items * self.tokens_per_item * hidden_size
        return int((len(blocks) - 1) * block(positions) + block(self.tokens_per_item) + head)


class IDBERT4Rec(QBERT4Rec):
    """Control without semantic IDs: the same encoder with one random row per item."""


def previous_visible(items: Tensor, mask: Tensor) -> Tensor:
    """Return the nearest unmasked item at or before each position, or 0 if there is none. [B, L]"""
    places = torch.arange(items.size(1), device=items.device).expand_as(items)
    nearest = torch.where(mask, -1, places).cummax(dim=1).values
    return items.gather(1, nearest.clamp(min=0)).masked_fill(nearest < 0, 0)


def _resolve_exclude_visible(setting: Any, dataset: Any) -> bool:
    """Resolve `auto`: on if no training sequence repeats an item."""
    if isinstance(setting, bool):  # YAML reads a bare on/off as a boolean
        return setting
    return setting == "on" or (setting == "auto" and not dataset.training_repeats())


def _init_weights(module: nn.Module, std: float) -> None:
    """Initialize as BERT, as RecBole's sequential models do."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=std)
    if isinstance(module, nn.MultiheadAttention):
        nn.init.normal_(module.in_proj_weight, std=std)
        nn.init.zeros_(module.in_proj_bias)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
