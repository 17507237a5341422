"""Dense content vectors as model inputs: fixed whitening, and an adapter of several experts.

Shapes: N items (row 0 is padding), C dimension of the content vectors, D hidden, E experts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_qbert.common.errors import InputError

RARE = 1e-6  # components with less variance than this share of the largest are left out
LEAST_NOISE = 0.01
NOT_WHITENED = (
    "whitened vectors of two data sets are not comparable; set whitening_dims: 0 in both trainings"
)


def vector_names(config: Any) -> list[str]:
    """Return the sorted names of a config's `item_vectors`; an `InputError` if there are none."""
    names = sorted(config["item_vectors"] or ())
    if not names:
        raise InputError(
            f"item_vectors: {config['model']} needs at least one table; set item_vectors: text for "
            "<dataset>.text.npz of `recbole-qbert embed text`, or {text: FILE.npz}"
        )
    return names


def whiten(vectors: Tensor, rows: Tensor, n_components: int) -> Tensor:
    """Project vectors [N, C] to whitened principal components, fitted on the given rows only.

    Over these rows the result has mean 0 and, as far as they vary, the identity as covariance.

    Args:
        vectors: [N, C].
        rows: [T], numbers of the rows to fit on.
        n_components: components to keep, those of largest variance first.

    Returns:
        float32 [N, min(C, n_components)]; columns of components that do not vary are 0.
    """
    vectors = vectors.double()
    center = vectors[rows].mean(dim=0)
    fitted = vectors[rows] - center
    variances, axes = torch.linalg.eigh(fitted.T @ fitted / len(rows))  # ascending
    variances, axes = variances.flip(0)[:n_components], axes.flip(1)[:, :n_components]
    varies = variances > RARE * variances[:1].clamp(min=torch.finfo(torch.float64).tiny)
    scale = torch.where(varies, variances.clamp(min=0) ** -0.5, 0.0)
    return ((vectors - center) @ (axes * scale)).float()


def content_and_adapter(config: Any, dataset: Any) -> tuple[Tensor, ExpertAdapter]:
    """Return a table of the whitened `item_vectors` of all items, and an adapter for it.

    The vectors of an item stand side by side in the order of their names. With `whitening_dims: 0`
    they stay as they are. Whitening is fitted on the items of the training sequences, each counted
    once. A vector of zeros counts as missing: it stays zero, which is the mean of whitened vectors.

    Returns:
        float32 [N, C], zero for padding, and the adapter from C to D. A bundle has no training
        items; it gets an empty table, since its weights bring the vectors.
    """
    names, n_kept = vector_names(config), int(config["whitening_dims"])
    sizes = [int(dataset.field2seqlen[name]) for name in names]
    adapter = ExpertAdapter(
        sum(min(size, n_kept or size) for size in sizes),
        config["hidden_size"],
        config["n_experts"],
        config["adapter_dropout_prob"],
        config["initializer_range"],
    )
    trained = dataset.training_sequences()[0].unique()
    if not len(trained):
        return torch.empty(0), adapter
    tables = [dataset.item_feat[name] for name in names]
    if n_kept:
        pairs = zip(names, tables, strict=True)
        tables = [_whitened(name, table, trained, n_kept) for name, table in pairs]
    content = torch.cat(tables, dim=1).float()
    content[0] = 0
    return content, adapter


def _whitened(name: str, table: Tensor, trained: Tensor, n_kept: int) -> Tensor:
    """Whiten a table [N, C], fitted on the rows [T] that have a vector."""
    rows = rows_with_vectors(name, table, trained)
    return whiten(table, rows, n_kept) * table.any(dim=1, keepdim=True)


def rows_with_vectors(name: str, table: Tensor, trained: Tensor) -> Tensor:
    """Return those of the training items [T] that have a vector in a table [N, C].

    Raises:
        InputError: there are none.
    """
    rows = trained[table.any(dim=1)[trained]]
    if not len(rows):
        raise InputError(f"item_vectors: {name}: no item of the training data has a vector")
    return rows


class AdaptedContent(nn.Module):
    """Vectors of items from their content; see `content_and_adapter`."""

    content: Tensor  # [N, C]

    def __init__(self, config: Any, dataset: Any):
        super().__init__()
        content, self.adapter = content_and_adapter(config, dataset)
        self.register_buffer("content", content)

    def forward(self, rows: Tensor | None = None) -> Tensor:
        """Return the vectors of all items [N, D], or of items [R] from padding on; padding is 0."""
        content = self.content if rows is None else self.content[rows]
        return F.pad(self.adapter(content[1:]), (0, 0, 1, 0))


class ExpertAdapter(nn.Module):
    """Mixture of linear experts with noisy gates (Hou et al., UniSRec, KDD 2022, eqs. 2-4).

    With vector x, expert e gives (x - shift_e) W_e, "parametric whitening". The gates are the
    softmax of x G, in training with Gaussian noise of standard deviation softplus(x S) + 0.01.
    """

    def __init__(self, n_inputs: int, n_outputs: int, n_experts: int, dropout: float, init: float):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(n_experts, n_inputs))
        self.weight = nn.Parameter(torch.empty(n_experts, n_inputs, n_outputs))
        self.gate = nn.Parameter(torch.zeros(n_inputs, n_experts))
        self.noise = nn.Parameter(torch.zeros(n_inputs, n_experts))
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.weight, std=init)

    def forward(self, content: Tensor) -> Tensor:
        """Return adapted vectors [N, D] of content vectors [N, C]."""
        gates = content @ self.gate
        if self.training:
            spread = F.softplus(content @ self.noise) + LEAST_NOISE
            gates = gates + torch.randn_like(gates) * spread
        shares = gates.softmax(dim=1)  # [N, E]
        experts = self.weight.permute(1, 0, 2).flatten(1)  # [C, E * D]: one product for all
        found = (self.dropout(content) @ experts).unflatten(1, (len(self.weight), -1))
        moved = (self.shift.unsqueeze(1) @ self.weight).squeeze(1)  # [E, D]
        return (shares.unsqueeze(1) @ found).squeeze(1) - shares @ moved
