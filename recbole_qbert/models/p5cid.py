"""P5-CID: generates the collaborative ID of the next item from those of the history.

Hua et al., How to Index Item IDs for Recommendation Foundation Models, SIGIR-AP 2023
(arXiv 2305.06569). The choices follow the facts of the released program (Wenyueh/LLM-RecSys-ID), of
which no code is used. Its logs have HR@10 .0719 and NDCG@10 .0414 on Beauty, with a leaf token for
each item (`leaf_tokens: item`), 10 clusters and at most 500 items in a leaf. See `data.item_ids`
for the IDs.

Deviations from the release:

* T5 is trained from scratch, in the sizes of `TIGER`. The release starts from the pretrained
  T5-small (width 512, 8 heads of 64, inner width 2048) and extends its word vocabulary.
* The words of the prompt are `prompt_tokens` learned tokens. The release draws one of ten prompts
  in English for each row; its prompts name the user, ours does not, so that a history is enough.
* The output layer is not tied to the input tokens. There is no end token, since no ID is the
  beginning of another.
* The weight of two items is the number of their pairs in either order. In the release, the smaller
  of both directions overwrites the other.
* An item without a neighbor in the graph has a token of its own, as an item that is not in training
  has in the release.
* All prefixes of a sequence are training rows; the release draws random targets. The best epoch is
  that of the best `valid_metric`; the release's is that of HR@10 on validation.
* A beam's score is the log-probability of its tokens, whatever their number, so that enough beams
  rank all items exactly. `generate` divides it by the number of tokens. The release stops after 10
  tokens, so that longer IDs are never found; here the longest ID is the limit. There are 50 beams
  for 20, so that lists are full where seen items are excluded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_qbert.common.errors import InputError
from recbole_qbert.models.layers.generative import GenerativeRecommender
from recbole_qbert.models.layers.item_prompt import ItemPrompt
from recbole_qbert.models.layers.t5 import Memory


class P5CID(GenerativeRecommender):
    """T5 over collaborative IDs, with whole-word embeddings; see the module docstring.

    `dataset` is a `CollaborativeDataset`. The IDs are saved with the weights.

    Raises:
        InputError: as in `GenerativeRecommender`.
    """

    item_tokens: Tensor  # [N, K]

    @staticmethod
    def reads_semantic_ids(config: Any) -> bool:
        """Return False: it makes its own IDs (see `inputs.reads_semantic_ids`)."""
        return False

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.register_buffer("item_tokens", dataset.item_tokens)
        n_tokens = 1 + int(self.item_tokens.max())
        ranges = [(1, n_tokens)] * self.item_tokens.size(1)
        self.build_generator(config, self.item_tokens, ranges, n_tokens)
        n_prompt_tokens, width = int(config["prompt_tokens"]), config["hidden_size"]
        self.prompt = ItemPrompt(n_prompt_tokens, self.max_seq_length, width)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load weights, as in PyTorch.

        Raises:
            InputError: the weights belong to other IDs. Other processors and versions of SciPy can
                split the same graph differently.
        """
        if not torch.equal(state_dict["item_tokens"].cpu(), self.item_tokens.cpu()):
            raise InputError(
                "P5CID: the saved weights belong to other collaborative IDs than those made here "
                "from the training interactions; use the machine and packages of the training, use "
                "its bundle, or train the model again"
            )
        return super().load_state_dict(state_dict, *args, **kwargs)

    def forward(self, interaction: Interaction, rows: Tensor) -> Memory:
        """Encode the histories of some rows of a batch [B]."""
        tokens = self.trie.item_tokens[self.histories(interaction, rows)]
        return self.generator.encode(*self.prompt(tokens, self.generator.tokens.weight))
