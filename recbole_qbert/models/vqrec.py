"""VQ-Rec: items as mean-pooled vectors of product-quantization codes of their text.

Hou et al., Learning Vector-Quantized Item Representation for Transferable Sequential Recommenders,
WWW 2023. The codes are semantic IDs; `vqrec_tokenize.yaml` makes those of the paper
(section 2.2). Sizes and the variant `reassign: random` are those of the released code
(github.com/RUCAIBox/VQ-Rec). The differences from it are:

* `reassign: learned` is the paper's section 2.4, in which the permutations are learned; see
  `layers/reassignment.py`.
* Encoder and positions are frozen only if they were pretrained. The released trainer freezes them
  after `reassign_epochs` in any case.
* In pretraining, a negative that is the row's own target is left out. The released code gives it
  the logit 0, and gives the first row of a batch the zero vector as its semi-synthetic negative.
* Padding is not in the softmax.
* With `reassign: random`, evaluation adds no noise, so that it can be repeated.

Shapes: B rows, W rows of a whole batch in distributed training, L positions, K levels, S codes of
all levels, N items (row 0 is padding), R items in use, D hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.model.layers import TransformerEncoder
from recbole.model.sequential_recommender import SASRec
from recbole.utils import InputType
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.ragged import by_length, ends_of_prefixes
from recbole_qbert.models.layers.first_stage import with_weights
from recbole_qbert.models.layers.kept_items import KeepsItems
from recbole_qbert.models.layers.loss import linear_cross_entropy
from recbole_qbert.models.layers.prediction import PredictsByRanking
from recbole_qbert.models.layers.reassignment import CodeReassignment
from recbole_qbert.models.layers.vocabulary import vocabulary_hash, vocabulary_rows


class VectorBatch(NamedTuple):
    """Training batch after all random draws that concern the whole batch."""

    items: Tensor  # [B, L] row numbers of `matrix`
    lengths: Tensor  # [B]
    targets: Tensor  # [B] row numbers of `matrix`
    matrix: Tensor  # [R, D] vectors of items, padding first
    first: int  # number of the first of these rows in the whole batch
    all_targets: Tensor  # [W] targets of the whole batch
    synthetic: Tensor | None  # [B, D] semi-synthetic negatives; None in fine-tuning

    @property
    def n_terms(self) -> int:
        """Number of rows B, over which the loss is a mean."""
        return len(self.items)

    def part(self, rows: slice) -> VectorBatch:
        """Return a slice of the rows of a whole batch."""
        return self._replace(
            items=self.items[rows],
            lengths=self.lengths[rows],
            targets=self.targets[rows],
            first=rows.indices(len(self.items))[0],
            synthetic=None if self.synthetic is None else self.synthetic[rows],
        )


class VQRec(KeepsItems, PredictsByRanking, SequentialRecommender):
    """SASRec's encoder over mean-pooled code vectors, with cosine scores.

    With `train_stage: pretrain` it is trained by contrast with the targets of other rows and with
    semi-synthetic items (section 2.3). A data set that `prepare merge` made of several
    makes these negatives mixed-domain. With `train_stage: finetune` the loss is the cross-entropy
    over the catalog (section 2.4).

    After `load_first_stage`, with `reassign` other than `none`, only the reassignment is trained
    for `reassign_epochs` epochs. Then the table takes the reassigned vectors, and code vectors and
    LayerNorm are trained. The count of steps is a buffer, so that checkpoints hold it.

    Raises:
        InputError: the dataset has no semantic IDs, or `reassign` does not fit it.
    """

    input_type = InputType.POINTWISE
    item_codes: Tensor  # int64 [N, K], rows of the table; 0 for padding
    vocabulary: Tensor  # uint8 [32], hash of the name of the code vocabulary
    frozen_steps: Tensor  # int64, one more than the steps left in which codes are reassigned

    @staticmethod
    def reads_semantic_ids(config: Any) -> bool:
        """Return True; see `inputs.reads_semantic_ids`."""
        return True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.temperature = float(config["temperature"])
        self.pretrains = config["train_stage"] == "pretrain"
        self.code_replace_prob = float(config["code_replace_prob"])
        self.freeze_encoder = bool(config["freeze_encoder"])
        self.reassign, self.epochs = config["reassign"], config["epochs"]
        self.reassign_epochs = int(config["reassign_epochs"])
        self.initializer_range = config["initializer_range"]
        self.shares_prefixes = config["batch_by"] == "user"
        flags = " --config_files=vqrec_tokenize.yaml"
        codes, self.codebook_sizes = vocabulary_rows(dataset, "VQRec", flags)
        self.register_buffer("item_codes", codes)
        self.register_buffer("vocabulary", vocabulary_hash(dataset))
        self.register_buffer("frozen_steps", torch.zeros((), dtype=torch.long))

        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.table = nn.Embedding(sum(self.codebook_sizes), width)
        self.position_embedding = nn.Embedding(self.max_seq_length, width)
        self.LayerNorm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(config["hidden_dropout_prob"])
        self.trm_encoder = TransformerEncoder(
            n_layers=config["n_layers"],
            n_heads=config["n_heads"],
            hidden_size=width,
            inner_size=config["inner_size"],
            hidden_dropout_prob=config["hidden_dropout_prob"],
            attn_dropout_prob=config["attn_dropout_prob"],
            hidden_act=config["hidden_act"],
            layer_norm_eps=eps,
        )
        self.apply(lambda module: SASRec._init_weights(self, module))
        if self.reassign == "none" or self.pretrains:
            return
        n_rows = len(dataset.training_rows(1, self.max_seq_length).lengths)
        # A bundle is built without rows, and without the path.
        if n_rows and not (config["pre_model_path"] or config["pretrain_epochs"]):
            raise InputError(
                f"reassign: {self.reassign}: only pretrained code vectors can be reassigned; set "
                "pre_model_path, or reassign: none"
            )
        if len({*self.codebook_sizes}) > 1:
            raise InputError(
                f"reassign: {self.reassign}: the levels have different numbers of codes "
                f"{self.codebook_sizes}; tokenize with one codebook_size"
            )
        self.steps_per_epoch = -(-n_rows // config["train_batch_size"]) if n_rows else 0
        self.reassignment = CodeReassignment(
            len(self.codebook_sizes),
            self.codebook_sizes[0],
            self.reassign,
            config["sinkhorn_iterations"],
            config["sinkhorn_temperature"],
            self.initializer_range,
        )

    def load_first_stage(self, weights: Mapping[str, Tensor]) -> None:
        """Load the weights of a pretrained VQRec, and freeze what fine-tuning does not train.

        Raises:
            InputError: the sizes differ, the codes of both have other meanings and are not
                reassigned, or `reassign_epochs` leave no epoch to train.
        """
        kept = {"item_codes", "vocabulary", "frozen_steps"}
        kept |= {name for name in self.state_dict() if name.startswith("reassignment.")}
        remedy = "use the same sizes, MAX_ITEM_LIST_LENGTH, and numbers of levels and codes"
        own = with_weights(self, weights, kept, remedy)
        if self.reassign == "none" and not torch.equal(
            weights["vocabulary"].cpu(), self.vocabulary.cpu()
        ):
            raise InputError(
                "reassign: none: the codes of pre_model_path are those of another quantizer; set "
                "reassign: learned, or tokenize the data sets together"
            )
        self.load_state_dict(own)
        if self.freeze_encoder:
            self.trm_encoder.requires_grad_(False)
            self.position_embedding.requires_grad_(False)
        if self.reassign == "none":
            return
        if self.reassign_epochs >= self.epochs:
            raise InputError(
                f"reassign_epochs: {self.reassign_epochs} of {self.epochs} epochs leave none for "
                "the code vectors; decrease it, or increase epochs"
            )
        self.frozen_steps.fill_(1 + self.reassign_epochs * self.steps_per_epoch)

    def forward(self, items: Tensor, lengths: Tensor, matrix: Tensor) -> Tensor:
        """Encode histories; returns the output at the last item. [B, D]

        Args:
            items: [B, L] right-padded row numbers of `matrix`, 0 at padding.
            lengths: [B], each at least 1.
            matrix: [R, D].
        """
        if self.training and self.shares_prefixes:
            return ends_of_prefixes(items, lengths, lambda rows: self._outputs(rows, matrix))
        return by_length(lengths, lambda rows: self._encode(items[rows], lengths[rows], matrix))

    def _encode(self, items: Tensor, lengths: Tensor, matrix: Tensor) -> Tensor:
        """Encode rows, without the columns that are padding in all of them; see `forward`."""
        outputs = self._outputs(items[:, : int(lengths.max())], matrix)
        ends: Tensor = self.gather_indexes(outputs, lengths - 1)
        return ends

    def _outputs(self, items: Tensor, matrix: Tensor) -> Tensor:
        """Encode items [B, L] to the outputs at all positions. [B, L, D]"""
        positions = self.position_embedding.weight[: items.size(1)]
        norm = self.LayerNorm
        weight: Tensor = norm.weight
        bias: Tensor = norm.bias
        if self.frozen_steps > 0:
            weight, bias = weight.detach(), bias.detach()
        vectors = F.embedding(items, matrix) + positions
        vectors = F.layer_norm(vectors, norm.normalized_shape, weight, bias, norm.eps)
        mask = self.get_attention_mask(items)
        layers = self.trm_encoder(self.dropout(vectors), mask, output_all_encoded_layers=False)
        outputs: Tensor = layers[-1]
        return outputs

    def item_vectors(self, rows: Tensor | None = None) -> Tensor:
        """Return the mean of the code vectors of all items, or of items [R] from padding on.

        Returns:
            [N, D] or [R, D]; padding is zero.
        """
        codes = self.item_codes if rows is None else self.item_codes[rows]
        return F.pad(F.embedding_bag(codes[1:], self._vectors(), mode="mean"), (0, 0, 1, 0))

    def _vectors(self) -> Tensor:
        """Return the code vectors [S, D]."""
        table = self.table.weight
        if self.frozen_steps > 0:
            found: Tensor = self.reassignment(table.detach())
            return found
        return table

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Return the mean loss of the rows, of the stage's kind."""
        return self.batch_loss(self.draw_batch(interaction))

    def draw_batch(self, interaction: Interaction) -> VectorBatch:
        """Compute the vectors of items that a batch needs.

        In distributed training every process calls this on the whole batch, with equal generators.
        """
        self._count_step()
        items, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        targets = interaction[self.POS_ITEM_ID]
        if not self.pretrains:
            matrix = self.item_vectors()
            return VectorBatch(items, lengths, targets, matrix, 0, targets, None)
        used = torch.cat([targets.new_zeros(1), items.flatten(), targets])
        rows, place = used.unique(return_inverse=True)
        own = place[-len(targets) :]
        negatives = F.embedding_bag(self._replaced(targets), self._vectors(), mode="mean")
        items = place[1 : -len(targets)].view_as(items)
        return VectorBatch(items, lengths, own, self.item_vectors(rows), 0, own, negatives)

    def batch_loss(self, batch: VectorBatch) -> Tensor:
        """Return the loss of a batch, or of a part of it; see `calculate_loss`."""
        hidden = self.forward(batch.items, batch.lengths, batch.matrix)
        hidden = F.normalize(hidden, dim=1) / self.temperature
        if batch.synthetic is None:
            matrix = F.normalize(batch.matrix[1:], dim=1)
            return linear_cross_entropy(hidden, matrix, None, batch.targets - 1)
        own = batch.first + torch.arange(len(hidden), device=hidden.device)
        logits = hidden @ F.normalize(batch.matrix[batch.all_targets], dim=1).T  # [B, W]
        equal = batch.targets.unsqueeze(1) == batch.all_targets
        equal.scatter_(1, own.unsqueeze(1), False)
        logits = logits.masked_fill(equal, -torch.inf)
        synthetic = (hidden * F.normalize(batch.synthetic, dim=1)).sum(dim=1, keepdim=True)
        return F.cross_entropy(torch.cat([logits, synthetic], dim=1), own)

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Return the cosine of each history with the whole catalog. [B, N]"""
        matrix = self.kept_items(self.item_vectors)
        hidden = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN], matrix)
        return F.normalize(hidden, dim=1) @ F.normalize(matrix, dim=1).T

    def _replaced(self, items: Tensor) -> Tensor:
        """Replace each code of items [B] by a random one of its level, by chance. [B, K]"""
        codes = self.item_codes[items]
        sizes = torch.tensor(self.codebook_sizes, device=codes.device)
        draw = torch.rand(codes.shape, device=codes.device, dtype=torch.float64)
        random = (draw * sizes).long().minimum(sizes - 1) + sizes.cumsum(0) - sizes
        replace = torch.rand(codes.shape, device=codes.device) < self.code_replace_prob
        return torch.where(replace, random, codes)

    def _count_step(self) -> None:
        """Count a training step; after the last one of the reassignment, the table takes it."""
        if self.frozen_steps == 0:
            return
        self.frozen_steps -= 1
        if self.frozen_steps == 0:
            with torch.no_grad():
                self.table.weight.copy_(self.reassignment(self.table.weight))
