"""How an item becomes a vector: three representations, each one matrix.

K levels, N items (row 0 is padding), D hidden, T = `tokens_per_item`.

Calling a representation gives its item matrix [N, T * D], tied between input and output: an
item's row, cut into T vectors, is what the encoder reads, and the score of every item is the dot
product of its row with a masked position's T hidden vectors side by side. For `compose` and
`flatten` that is the sum of K code logits, so the ranking over the catalog is exact in each case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Score = Callable[[Tensor, Tensor], Tensor]
REPRESENTATIONS = ("compose", "hybrid", "word", "flatten", "id")


class ItemRepresentation(nn.Module):
    """The interface."""

    tokens_per_item: int = 1

    def forward(self, rows: Tensor | None = None) -> Tensor:
        """The item matrix [N, T * D], or some rows of it, [R, T * D], the first one padding."""
        raise NotImplementedError

    def code_loss(self, hidden: Tensor, items: Tensor, score: Score) -> Tensor:
        """Mean cross-entropy, over M items and K levels, of each code within its level.

        Args:
            hidden: [M, T * D] what the encoder says at the places of the items.
            items: [M].
            score: from [M, D] and [S_k, D] to logits [M, S_k].

        Returns:
            A scalar; 0 where items own rows, not codes.
        """
        return hidden.new_zeros(())


class ItemRows(ItemRepresentation):
    """One tied row an item (what Table 6 of the paper implies).

    With `item_codes` the rows start as the sum of one random vector for each code, so that items
    which share codes start near each other; without, they are random (the ID-only control).
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
    """Base of the two representations that own one vector for each code.

    In training, `dropout` leaves each code of each item out with that probability, and scales up
    the others of the item matrix, so that no item leans on a single code of its own.
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
        # Drawn for codes, not elements: on ones it gives 0 or 1 / (1 - dropout).
        self.dropout = nn.Dropout(dropout)

    def codes_and_weights(self, rows: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Codes [R, K] and what they count in this step, [R, K]; None where each counts 1."""
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

    def _code_logits(self, hidden: Tensor, score: Score) -> Sequence[Tensor]:
        """K times [M, S_k]."""
        if self.tokens_per_item == 1:
            return score(hidden, self.table.weight).split(self.codebook_sizes, dim=1)
        tokens = hidden.split(self.table.embedding_dim, dim=1)
        tables = self.table.weight.split(self.codebook_sizes)
        return [score(token, table) for token, table in zip(tokens, tables, strict=True)]


class SumOfCodes(CodeItems):
    """Item vector = sum over levels of code vectors; size independent of the catalog."""

    def forward(self, rows: Tensor | None = None) -> Tensor:
        codes, weights = self.codes_and_weights(rows)
        return F.embedding_bag(codes, self.table.weight, mode="sum", per_sample_weights=weights)


class CodesPlusRow(SumOfCodes):
    """Item vector = sum of code vectors + a row of the item's own, which starts at 0.

    What items share is learnt by their codes, what sets an item apart from others of like content
    by its row. In training, `row_dropout` leaves the rows of so many items out, and scales up the
    others, so that codes are not left to what has no row yet.
    """

    def __init__(
        self,
        hidden_size: int,
        item_codes: Tensor,
        codebook_sizes: Sequence[int],
        init: float,
        dropout: float,
        row_dropout: float,
    ):
        super().__init__(hidden_size, item_codes, codebook_sizes, init, dropout)
        self.rows = nn.Parameter(torch.zeros(len(item_codes) - 1, hidden_size))
        self.row_dropout = nn.Dropout(row_dropout)

    def forward(self, rows: Tensor | None = None) -> Tensor:
        own = self.rows if rows is None else self.rows[rows[1:] - 1]
        if self.training and self.row_dropout.p:
            own = own * self.row_dropout(own.new_ones(len(own), 1))
        return super().forward(rows) + F.pad(own, (0, 0, 1, 0))


class FlattenItems(CodeItems):
    """K tokens an item, one for each level; a masked item is read from K positions at once."""

    token_for_each_level = True

    def forward(self, rows: Tensor | None = None) -> Tensor:
        codes, weights = self.codes_and_weights(rows)
        vectors = self.table(codes)
        return (vectors if weights is None else vectors * weights.unsqueeze(2)).flatten(1)


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
    """One of `REPRESENTATIONS`.

    Args:
        name: `id` is `word` with random rows and no codes at all.
        n_items: N, padding included.
        item_codes: [N, K] vocabulary rows (level offset added); None only for `id`.
        codebook_sizes: S_k, K of them; empty only for `id`.
        word_init: `codes` or `random`.
        init: standard deviation of a new item vector's elements.
        code_dropout: of `compose`, `hybrid` and `flatten`, see `CodeItems`.
        row_dropout: of `hybrid`, see `CodesPlusRow`.
    """
    if name == "id" or (name == "word" and word_init == "random"):
        return ItemRows(n_items, hidden_size, None, init)
    if item_codes is None:
        raise ValueError(f"item_representation {name} needs item codes")
    if name == "word":
        return ItemRows(n_items, hidden_size, item_codes, init)
    if name in ("compose", "hybrid"):
        # The sum of K independent vectors then has the elements' deviation `init`.
        code_init = init / item_codes.size(1) ** 0.5
        shape = (hidden_size, item_codes, codebook_sizes, code_init, code_dropout)
        return SumOfCodes(*shape) if name == "compose" else CodesPlusRow(*shape, row_dropout)
    if name == "flatten":
        return FlattenItems(hidden_size, item_codes, codebook_sizes, init, code_dropout)
    raise ValueError(f"item_representation {name!r} is none of {', '.join(REPRESENTATIONS)}")
