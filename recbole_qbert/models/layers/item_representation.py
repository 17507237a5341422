"""Item representations: how item vectors are built from codes, rows, or both.

A representation computes its item matrix [N, T * D], which is tied between input and output. The
encoder reads an item's row, split into T vectors. An item's score is the dot product of its row
with the T hidden vectors of a masked position, concatenated. For `compose` and `flatten` this is
the sum of K code logits, so that the ranking over the catalog is exact in all cases.

Shapes: K levels, S_k codes in level k, N items (row 0 is padding), D hidden, T = `tokens_per_item`,
M masked positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_qbert.common.errors import InputError
from recbole_qbert.topk.index import ItemIndex

Score = Callable[[Tensor, Tensor], Tensor]
REPRESENTATIONS = ("compose", "hybrid", "word", "flatten", "id")


class ItemRepresentation(nn.Module):
    """Interface of item representations."""

    tokens_per_item: int = 1

    def forward(self, rows: Tensor | None = None) -> Tensor:
        """Return the item matrix [N, T * D], or [R, T * D] for item IDs [R] from padding on.

        The row of padding is zeros.
        """
        raise NotImplementedError

    def code_loss(self, hidden: Tensor, items: Tensor, score: Score) -> Tensor:
        """Return the mean cross-entropy, over M items and K levels, of each code within its level.

        `hidden` [M, T * D] are the vectors at the positions of `items` [M]. `score` maps [M, D] and
        [S_k, D] to logits [M, S_k]. Without codes the result is 0.
        """
        return hidden.new_zeros(())

    def with_items(self, codes: Tensor) -> dict[str, Tensor]:
        """Return the weights with new items of the given codes [n, K], without level offsets.

        Raises:
            InputError: a new item would need a vector that only training makes.
        """
        raise InputError("each of its items has a vector that only training makes")


class ItemRows(ItemRepresentation):
    """One tied row per item (as Table 6 of the paper implies).

    With `item_codes`, each row starts as the sum of random vectors, one per code, so that items
    that share codes start close to each other. Without them, rows start random (the ID-only
    control).
    """

    def __init__(self, n_items: int, hidden_size: int, item_codes: Tensor | None, init: float):
        super().__init__()
        rows = torch.empty(n_items - 1, hidden_size)  # padding owns no parameters
        if item_codes is None:
            nn.init.normal_(rows, std=init)
        else:
            table = torch.randn(int(item_codes.max()) + 1, hidden_size)
            rows = table[item_codes[1:]].sum(dim=1) * (init / item_codes.size(1) ** 0.5)
        self.rows = nn.Parameter(rows)

    def forward(self, rows: Tensor | None = None) -> Tensor:
        vectors = self.rows if rows is None else self.rows[rows[1:] - 1]
        return F.pad(vectors, (0, 0, 1, 0))


class CodeItems(ItemRepresentation):
    """Base of the representations with one vector per code.

    In training, `dropout` is the probability with which each code of each item is dropped. The
    item's other codes are scaled up. This keeps an item from depending on a single rare code.
    """

    item_codes: Tensor
    token_for_each_level = False

    def __init__(
        self,
        hidden_size: int,
        item_codes: Tensor,
        codebook_sizes: Sequence[int],
        init: float,
        dropout: float,
    ):
        super().__init__()
        self.codebook_sizes = tuple(codebook_sizes)
        self.tokens_per_item = len(self.codebook_sizes) if self.token_for_each_level else 1
        self.register_buffer("item_codes", item_codes)
        self.table = nn.Embedding(sum(codebook_sizes), hidden_size)
        nn.init.normal_(self.table.weight, std=init)
        # Applied to a tensor of ones with one entry per code: gives 0 or 1 / (1 - dropout).
        self.dropout = nn.Dropout(dropout)

    def codes_and_weights(self, rows: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return codes [R, K] and their weights in this step [R, K], or None if all are 1."""
        codes = self.item_codes if rows is None else self.item_codes[rows]
        if not self.training or self.dropout.p == 0:
            return codes, None
        return codes, self.dropout(torch.ones_like(codes, dtype=self.table.weight.dtype))

    def code_loss(self, hidden: Tensor, items: Tensor, score: Score) -> Tensor:
        chosen = self.item_codes[items].unbind(dim=1)  # K times [M]
        total, first = hidden.new_zeros(()), 0
        for codes, logits in zip(chosen, self._code_logits(hidden, score), strict=True):
            total = total + F.cross_entropy(logits, codes - first)
            first += logits.size(1)
        return total / len(chosen)

    def with_items(self, codes: Tensor) -> dict[str, Tensor]:
        rows = codes.to(self.item_codes) + self._first_rows
        return {**self.state_dict(), "item_codes": torch.cat([self.item_codes, rows])}

    @property
    def _first_rows(self) -> Tensor:
        """Row of `table` of each level's code 0, [K]."""
        return self.item_codes.new_tensor([0, *self.codebook_sizes[:-1]]).cumsum(0)

    def index(
        self, cosine: bool, content: Tensor | None = None, terms: Tensor | None = None
    ) -> ItemIndex:
        """Return an index of all items but the padding, for scores as `cosine` says.

        `content` [N - 1, D] is added to the items' vectors, `terms` [N - 1] to their scores.
        """
        own: Tensor | None = getattr(self, "rows", None)
        if content is not None:
            own = content if own is None else own + content
        return ItemIndex(
            self.item_codes[1:] - self._first_rows,
            self.table.weight.split(self.codebook_sizes),
            own,
            cosine,
            per_level=self.token_for_each_level,
            terms=terms,
        )

    def _code_logits(self, hidden: Tensor, score: Score) -> Sequence[Tensor]:
        """Return the logits of each level's codes: K tensors [M, S_k]."""
        if self.tokens_per_item == 1:
            return score(hidden, self.table.weight).split(self.codebook_sizes, dim=1)
        tokens = hidden.split(self.table.embedding_dim, dim=1)
        tables = self.table.weight.split(self.codebook_sizes)
        return [score(token, table) for token, table in zip(tokens, tables, strict=True)]


class SumOfCodes(CodeItems):
    """Item vector = sum over levels of code vectors; size independent of the catalog."""

    def forward(self, rows: Tensor | None = None) -> Tensor:
        codes, weights = self.codes_and_weights(rows)
        own = None if weights is None else weights[1:]
        bags = F.embedding_bag(codes[1:], self.table.weight, mode="sum", per_sample_weights=own)
        return F.pad(bags, (0, 0, 1, 0))


class CodesPlusRow(SumOfCodes):
    """Item vector = sum of code vectors + a row per item, which starts at 0.

    Codes learn what items share; an item's row learns what distinguishes it from items with
    similar content. In training, `row_dropout.p` is the probability with which each row is dropped;
    the others are scaled up. This trains the codes to represent items without a trained row.
    """

    def __init__(self, hidden_size: int, item_codes: Tensor, *args: Any):
        super().__init__(hidden_size, item_codes, *args)
        self.rows = nn.Parameter(torch.zeros(len(item_codes) - 1, hidden_size))
        self.row_dropout = nn.Dropout(0.0)

    def forward(self, rows: Tensor | None = None) -> Tensor:
        own = self.rows if rows is None else self.rows[rows[1:] - 1]
        if self.training and self.row_dropout.p:
            own = own * self.row_dropout(own.new_ones(len(own), 1))
        return super().forward(rows) + F.pad(own, (0, 0, 1, 0))

    def with_items(self, codes: Tensor) -> dict[str, Tensor]:
        """Return the weights with new items, whose rows are 0 as in row dropout."""
        return {**super().with_items(codes), "rows": F.pad(self.rows, (0, 0, 0, len(codes)))}


class FlattenItems(CodeItems):
    """K tokens per item, one per level; a masked item is predicted from K positions at once."""

    token_for_each_level = True

    def forward(self, rows: Tensor | None = None) -> Tensor:
        codes, weights = self.codes_and_weights(rows)
        vectors = self.table(codes[1:])
        if weights is not None:
            vectors = vectors * weights[1:].unsqueeze(2)
        return F.pad(vectors.flatten(1), (0, 0, 1, 0))


def build_representation(
    name: str,
    *,
    n_items: int,
    hidden_size: int,
    item_codes: Tensor | None,
    codebook_sizes: Sequence[int],
    word_init: str,
    init: float,
    code_dropout: float = 0.0,
    row_dropout: float = 0.0,
) -> ItemRepresentation:
    """Build an item representation.

    Args:
        name: one of `REPRESENTATIONS`; `id` is `word` with random rows and without codes.
        n_items: N, padding included.
        hidden_size: D.
        item_codes: [N, K] vocabulary rows (level offset added); None only for `id`.
        codebook_sizes: S_k, K of them; empty only for `id`.
        word_init: start of the rows of `word`: `codes` or `random`.
        init: standard deviation of the elements of a new item vector.
        code_dropout: for `compose`, `hybrid` and `flatten`; see `CodeItems`.
        row_dropout: for `hybrid`; see `CodesPlusRow`.

    Raises:
        ValueError: the name is unknown, or codes are missing.
    """
    if name not in REPRESENTATIONS or (name != "id" and item_codes is None):
        raise ValueError(f"item_representation {name!r} is unknown or needs item codes")
    if name in ("id", "word"):
        random = name == "id" or word_init == "random"
        return ItemRows(n_items, hidden_size, None if random else item_codes, init)
    assert item_codes is not None
    # The sum of K independent code vectors then has standard deviation `init`.
    init = init if name == "flatten" else init / item_codes.size(1) ** 0.5
    kind = {"compose": SumOfCodes, "hybrid": CodesPlusRow, "flatten": FlattenItems}[name]
    built: ItemRepresentation = kind(hidden_size, item_codes, codebook_sizes, init, code_dropout)
    if isinstance(built, CodesPlusRow):
        built.row_dropout.p = row_dropout
    return built
