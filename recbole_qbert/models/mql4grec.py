"""MQL4GRec: one T5 over two languages of codes, of the items' texts and of their images.

Zhai et al., Multimodal Quantitative Language for Generative Recommendation, ICLR 2025 (arXiv
2504.05314), and its code (github.com/zhaijianyang/MQL4GRec). The tasks of a training row are:

* sequential: the next item in the language of the history, for text and for images;
* asymmetric: the next item in the other language, one direction a row, drawn by chance;
* alignment: from an item's codes in one language to those in the other. Every item occurs once an
  epoch in the mean, or less often if there are more items than rows.

Asymmetric and alignment tasks begin with tokens of their own, the soft prompts: one prompt for the
asymmetric task and one for each direction of the alignment, as in the code. The loss is the mean
over all samples of a step of the mean cross-entropy of a sample's tokens.

Both languages are searched. An item that both searches found has the mean of its two scores plus
one; any other item has the score of the search that found it. The score of a search is the
log-probability divided by the number of tokens. The code counts the end token, whose
log-probability is near 0; so does this module.

Differences from the code:

* one softmax for each level over its codes, an output layer that is not tied to the input table,
  and no sentencepiece vocabulary;
* no end token, since all tuples of a language have one length;
* 50 beams and not 20, so that lists are full where seen items are excluded;
* items are ranked, not tuples: items that share their tuples tie. Metrics with a credit for a
  shared text tuple are reported apart (`code_groups`); the code has this credit in the text search
  alone;
* the best epoch is that of the best metric on validation, not of the lowest loss;
* samples of all tasks are in every step, in the shares that they have in the code's epoch.

The published rows start from weights of six other domains. `train_stage: pretrain` trains the
sequential tasks alone, and `pre_model_path` starts from such a checkpoint; the six domains are not
reproduced.

Shapes: B rows, R rows of a part, L items, K levels of a language, N items (row 0 is padding).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.output import counted
from recbole_qbert.common.ragged import by_length
from recbole_qbert.models.layers.beam_ranking import RanksByBeams
from recbole_qbert.models.layers.code_generator import CodeGenerator
from recbole_qbert.models.layers.code_language import CodeLanguage
from recbole_qbert.models.layers.code_trie import PADDING
from recbole_qbert.models.layers.first_stage import with_weights
from recbole_qbert.models.layers.t5 import Memory
from recbole_qbert.models.layers.vocabulary import vocabulary_hash, vocabulary_rows

TEXT, IMAGE, BOTH = "text", "image", "both"
ASYMMETRIC, TO_IMAGE, TO_TEXT = range(3)  # tasks with a prompt
N_PROMPTS = 3


class TaskBatch(NamedTuple):
    """Training batch after all random draws that concern the whole batch."""

    interaction: Interaction
    to_image: Tensor  # bool [B], direction of the asymmetric task
    aligned: Tensor  # [B] item of the alignment, 0 for none
    samples_per_row: int  # of the sequential and asymmetric tasks

    @property
    def n_terms(self) -> int:
        """Number of samples, over which the loss is a mean."""
        n_aligned = 2 * int((self.aligned > 0).sum())
        return len(self.aligned) * self.samples_per_row + n_aligned

    def part(self, rows: slice) -> TaskBatch:
        """Return a slice of the rows of a whole batch."""
        return self._replace(
            interaction=self.interaction[rows],
            to_image=self.to_image[rows],
            aligned=self.aligned[rows],
        )


class MQL4GRec(RanksByBeams, SequentialRecommender):
    """T5 over text and image codes; see the module docstring.

    Raises:
        InputError: the dataset has no semantic IDs or too few levels, or `beam_size` is below the
            largest cut-off.
    """

    input_type = InputType.POINTWISE
    vocabulary: Tensor  # uint8 [32], hash of the name of the code vocabulary
    item_order: Tensor  # int64 [N - 1], items in the order of their semantic IDs

    @staticmethod
    def reads_semantic_ids(config: Any) -> bool:
        """Return True; see `inputs.reads_semantic_ids`."""
        return True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        rows, sizes = vocabulary_rows(dataset, "MQL4GRec", " --streams=text,image")
        codes = dataset.item_codes
        n_text, n_image = int(config["text_levels"]), int(config["image_levels"])
        spans = {TEXT: slice(0, n_text), IMAGE: slice(n_text, n_text + n_image)}
        chosen = config["languages"]
        first = 1  # token 0 is padding
        self.languages = nn.ModuleDict()
        for name, span in spans.items():
            if chosen not in (name, BOTH):
                continue
            if span.stop > len(sizes):
                raise InputError(
                    f"text_levels, image_levels: {name} codes are levels {span.start + 1} to "
                    f"{span.stop}, but the semantic IDs have {counted(len(sizes), 'level')}; "
                    "change them, or tokenize with --streams=text,image"
                )
            self.languages[name] = CodeLanguage(codes[:, span], sizes[span], first)
            first += sum(sizes[span])
        both, pretrains = chosen == BOTH, config["train_stage"] == "pretrain"
        self.asymmetric = both and bool(config["asymmetric"]) and not pretrains
        self.alignment = both and bool(config["alignment"]) and not pretrains
        self.first_prompt = first
        self.n_prompt_tokens = int(config["prompt_tokens"]) if both else 0
        n_tokens = first + N_PROMPTS * self.n_prompt_tokens
        self.generator = CodeGenerator.from_config(config, n_tokens)
        self.register_buffer("vocabulary", vocabulary_hash(dataset))
        # Items are drawn by their place in this order, so that their numbers play no role.
        place = torch.unique(rows[1:], dim=0, return_inverse=True)[1]
        self.register_buffer("item_order", place.argsort() + 1, persistent=False)
        n_rows = len(dataset.training_rows(1, self.max_seq_length).lengths)
        self.alignment_chance = min(1.0, len(place) / max(1, n_rows))
        self.set_up_ranking(config)

    @property
    def code_groups(self) -> Tensor | None:
        """Text tuple of each item [N], 0 for padding; None if all are different.

        With `languages: image` these are the image tuples.
        """
        language = self._language(TEXT if TEXT in self.languages else IMAGE)
        return language.leaf_of if language.n_tuples < self.n_items - 1 else None

    def load_first_stage(self, weights: Mapping[str, Tensor]) -> None:
        """Load the weights of a pretrained MQL4GRec.

        Raises:
            InputError: the sizes differ, or the codes of both have other meanings.
        """
        remedy = "use the same sizes, languages, prompt_tokens, and numbers of levels and codes"
        own = with_weights(self, weights, {"vocabulary"}, remedy)
        if not torch.equal(weights["vocabulary"].cpu(), self.vocabulary.cpu()):
            raise InputError(
                "pre_model_path: its codes are those of another quantizer; tokenize the data sets "
                "together"
            )
        self.load_state_dict(own)

    def forward(self, interaction: Interaction, rows: Tensor, name: str) -> Memory:
        """Encode the histories of some rows of a batch [R] in one language, without a prompt."""
        return self._encoded(self._history(interaction, rows, name))

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Return the mean loss over the samples of all tasks."""
        return self.batch_loss(self.draw_batch(interaction))

    def draw_batch(self, interaction: Interaction) -> TaskBatch:
        """Draw what the tasks of a batch need.

        In distributed training every process calls this on the whole batch, with equal generators.
        """
        targets = interaction[self.POS_ITEM_ID]
        to_image, drawn = torch.rand(2, len(targets), device=targets.device)
        place = torch.randint(len(self.item_order), targets.shape, device=targets.device)
        chance = self.alignment_chance if self.alignment else 0.0
        aligned = self.item_order[place] * (drawn < chance)
        per_row = len(self.languages) + self.asymmetric
        return TaskBatch(interaction, to_image < 0.5, aligned, per_row)

    def batch_loss(self, batch: TaskBatch) -> Tensor:
        """Return the loss of a batch, or of a part of it; see `calculate_loss`."""
        every = torch.ones_like(batch.to_image)
        losses = [self._next_items(batch, every, name, name) for name in self.languages]
        if self.asymmetric:
            losses.append(self._next_items(batch, batch.to_image, TEXT, IMAGE, ASYMMETRIC))
            losses.append(self._next_items(batch, ~batch.to_image, IMAGE, TEXT, ASYMMETRIC))
        items = batch.aligned[batch.aligned > 0]
        if len(items):
            losses.append(self._translations(items, TEXT, IMAGE, TO_IMAGE))
            losses.append(self._translations(items, IMAGE, TEXT, TO_TEXT))
        return torch.cat(losses).mean()

    def predict(self, interaction: Interaction) -> Tensor:
        """Return the score of one given item per row, also with `ranking: beam`. [B]"""
        items = interaction[self.ITEM_ID]

        def scores(rows: Tensor) -> Tensor:
            found = {}
            for name in self.languages:
                memory = self.forward(interaction, rows, name)
                total = self._token_scores(memory, items[rows], name).sum(dim=1, keepdim=True)
                found[name] = self._per_token(total, name)
            return ensemble(*found.values()).squeeze(1)

        return by_length(interaction[self.ITEM_SEQ_LEN], scores)

    def score_rows(self, interaction: Interaction, rows: Tensor, exact: bool) -> Tensor:
        """See `RanksByBeams`; scores of the module docstring. [R, N]"""
        found = {}
        for name in self.languages:
            language, memory = self._language(name), self.forward(interaction, rows, name)
            leaves = self.leaf_scores(memory, language.trie, exact)
            found[name] = self._per_token(leaves[:, language.leaf_of], name)
        return ensemble(*found.values())

    def _language(self, name: str) -> CodeLanguage:
        language = self.languages[name]
        assert isinstance(language, CodeLanguage)
        return language

    def _history(self, interaction: Interaction, rows: Tensor, name: str) -> Tensor:
        """Return the tokens of the histories of some rows. [R, L * K]"""
        return self._language(name).tokens(self.histories(interaction, rows)).flatten(1)

    def _encoded(self, tokens: Tensor, task: int | None = None) -> Memory:
        """Encode tokens [R, S] after the prompt of a task."""
        if task is not None:
            first = self.first_prompt + task * self.n_prompt_tokens
            prompt = torch.arange(first, first + self.n_prompt_tokens, device=tokens.device)
            tokens = torch.cat([prompt.expand(len(tokens), -1), tokens], dim=1)
        return self.generator.encode(self.generator.tokens(tokens), tokens != PADDING)

    def _token_scores(self, memory: Memory, items: Tensor, name: str) -> Tensor:
        """Return the log-probability of each token of one item per row. [R, K]"""
        language = self._language(name)
        return self.generator.token_scores(memory, language.tokens(items), language.trie)

    def _per_token(self, scores: Tensor, name: str) -> Tensor:
        return scores / (self._language(name).n_levels + 1)

    def _next_items(
        self, batch: TaskBatch, chosen: Tensor, source: str, target: str, task: int | None = None
    ) -> Tensor:
        """Return the loss of each chosen row's target [R]; `chosen` is bool [B]."""
        interaction, rows = batch.interaction, chosen.nonzero().squeeze(1)

        def losses(part: Tensor) -> Tensor:
            memory = self._encoded(self._history(interaction, rows[part], source), task)
            items = interaction[self.POS_ITEM_ID][rows[part]]
            return -self._token_scores(memory, items, target).mean(dim=1)

        lengths = interaction[self.ITEM_SEQ_LEN][rows]
        return by_length(lengths, losses) if len(rows) else lengths.float()

    def _translations(self, items: Tensor, source: str, target: str, task: int) -> Tensor:
        """Return the loss of items [R] from one language to the other. [R]"""
        memory = self._encoded(self._language(source).tokens(items), task)
        return -self._token_scores(memory, items, target).mean(dim=1)


def ensemble(*scores: Tensor) -> Tensor:
    """Join the scores of one or two searches, -inf where an item was not found; same shape."""
    if len(scores) == 1:
        return scores[0]
    left, right = scores
    both = left.isfinite() & right.isfinite()
    return torch.where(both, (left + right) / 2 + 1, torch.maximum(left, right))
