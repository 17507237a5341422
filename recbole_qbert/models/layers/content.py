"""Dense content vectors as model inputs: fixed whitening, and an adapter of several experts.

Shapes: N items (row 0 is padding), C dimension of the content vectors, D hidden, E experts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_qbert.common.errors import InputError, preview

RARE = 1e-6  # components with less variance than this share of the largest are left out
LEAST_NOISE = 0.01
# Prefix of the whitening's weights in a model whose attribute `content` is an AdaptedContent.
WHITENING = "content.whitening."


def vector_names(config: Any) -> list[str]:
    """Return the sorted names of a config's `item_vectors`; an `InputError` if there are none."""
    names = sorted(config["item_vectors"] or ())
    if not names:
        raise InputError(
            f"item_vectors: {config['model']} needs at least one table; set item_vectors: text for "
            "<dataset>.text.npz of `recbole-qbert embed text`, or {text: FILE.npz}"
        )
    return names


def check_vector_names(config: Any, source: Any) -> None:
    """Raise an `InputError` if a run has other `item_vectors` than the pretraining `source`."""
    own, given = (sorted(each["item_vectors"] or ()) for each in (config, source))
    if own != given:
        raise InputError(
            f"item_vectors: {preview(own)}, but pre_model_path was trained with {preview(given)}; "
            "give the same names"
        )


class Whitening(nn.Module):
    """Projection of vectors [N, C] to P whitened principal components.

    Over the vectors that it is fitted on the result has mean 0 and, as far as they vary, the
    identity as covariance.
    """

    center: Tensor  # float64 [C]
    axes: Tensor  # float64 [C, P], scaled; zeros for components that do not vary

    def __init__(self) -> None:
        super().__init__()
        for name in ("center", "axes"):
            self.register_buffer(name, torch.empty(0, dtype=torch.float64))

    def fit(self, vectors: Tensor, n_components: int) -> Whitening:
        """Fit to vectors [T, C]; keep the `n_components` components of largest variance."""
        vectors = vectors.double()
        self.center = vectors.mean(dim=0)
        fitted = vectors - self.center
        variances, axes = torch.linalg.eigh(fitted.T @ fitted / len(vectors))  # ascending
        variances, axes = variances.flip(0)[:n_components], axes.flip(1)[:, :n_components]
        varies = variances > RARE * variances[:1].clamp(min=torch.finfo(torch.float64).tiny)
        self.axes = axes * torch.where(varies, variances.clamp(min=0) ** -0.5, 0.0)
        return self

    def forward(self, vectors: Tensor) -> Tensor:
        """Project vectors [N, C]; float32 [N, P]."""
        return ((vectors.double() - self.center) @ self.axes).float()


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
    """Vectors of items from their content: a fixed whitening, then an adapter of several experts.

    `vectors` has the whitened `item_vectors` of all items. The vectors of an item stand side by
    side in the order of their names. With `whitening_dims: 0` they stay as they are. Each table is
    whitened by itself, fitted on the items of the training sequences, each counted once. A vector
    of zeros counts as missing: it stays zero, which is the mean of whitened vectors.

    A bundle has no training items. Its weights bring whitening and content.
    """

    vectors: Tensor  # float32 [N, C], zeros for padding

    def __init__(self, config: Any, dataset: Any):
        super().__init__()
        names, n_kept = vector_names(config), int(config["whitening_dims"])
        sizes = [int(dataset.field2seqlen[name]) for name in names]
        self.adapter = ExpertAdapter(
            sum(min(size, n_kept or size) for size in sizes),
            config["hidden_size"],
            config["n_experts"],
            config["adapter_dropout_prob"],
            config["initializer_range"],
        )
        whitening = [Whitening() for _ in names] if n_kept else []
        self.whitening = nn.ModuleList(whitening)
        self.register_buffer("vectors", torch.empty(0))
        # The data set's tables, kept so that `whiten` can run again; none in a bundle.
        self.tables: list[Tensor] = []
        trained = dataset.training_sequences()[0].unique()
        if len(trained):
            self.tables = [dataset.item_feat[name] for name in names]
            if whitening:
                for name, table, each in zip(names, self.tables, whitening, strict=True):
                    each.fit(table[rows_with_vectors(name, table, trained)], n_kept)
            self.whiten()

    def forward(self, rows: Tensor | None = None) -> Tensor:
        """Return the vectors of all items [N, D], or of items [R] from padding on; padding is 0."""
        vectors = self.vectors if rows is None else self.vectors[rows]
        return F.pad(self.adapter(vectors[1:]), (0, 0, 1, 0))

    def whiten(self) -> None:
        """Set `vectors` from the data set's tables; also after another model's whitening is loaded.

        Two models can share an adapter only if they whiten alike.
        """
        tables = [table.to(self.vectors.device) for table in self.tables]
        if self.whitening:
            pairs = zip(self.whitening, tables, strict=True)
            tables = [whiten(table) * table.any(dim=1, keepdim=True) for whiten, table in pairs]
        self.vectors = torch.cat(tables, dim=1).float()
        self.vectors[0] = 0


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
