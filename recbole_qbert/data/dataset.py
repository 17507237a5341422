"""`SemanticIDDataset`: RecBole's sequential dataset with semantic IDs and without copied histories.

RecBole's filtering, remapping and leave-one-out split are unchanged. The differences are:

* A history is a slice of one flat array, cut when a batch is built, so nothing of size
  rows x length is ever in memory.
* `augmentation: none` keeps one training row per user (the last L items of the training sequence),
  `windows` as many rows of L items as cover the whole sequence, `prefix` RecBole's rows, one per
  prefix.
* Semantic IDs are joined by raw item token: as `item_codes` [N, K] for this package's models, and
  as the item feature `semantic_id` for FDSA, S3Rec and other models that read item features. Dense
  item vectors (`item_vectors`) become item features in the same way.

Shapes: N items (row 0 is padding), K levels, B rows of a batch, L = MAX_ITEM_LIST_LENGTH.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType
from torch import Tensor

from recbole_qbert.common.errors import InputError, one_of, preview
from recbole_qbert.common.output import counted
from recbole_qbert.data.budget import DataSize, resolve_auto
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.embeddings import read_embeddings
from recbole_qbert.data.loading import StrictDataset, check_same_ids
from recbole_qbert.data.semid import SemanticIDCodec, SemanticIDTable, read_semantic_ids

SEMANTIC_ID_FIELD = "semantic_id"
# Interaction column: position of the row's target item in the flat arrays.
TARGET_POSITION_FIELD = "row_in_sequences"
# Interaction column of ready-made (benchmark) splits: number of the row's history in the files.
HISTORY_FIELD = "row_in_histories"
AUGMENTATIONS = ("none", "windows", "prefix")


class TrainingRows(NamedTuple):
    """Rows of a training split as a masked model reads them: R rows with T items in all."""

    items: Tensor  # [T] item IDs, one row after another, the target last in each
    lengths: Tensor  # [R] items per row, the target included
    chance: Tensor  # [R] float64, probability that the row is in a given batch


class SemanticIDDataset(StrictDataset):
    """Sequential dataset for all models; see the module docstring.

    Raises:
        InputError: `augmentation` is unknown, a file cannot be used, or items have no semantic ID.
    """

    partial_vectors = False  # whether items may lack some of the `item_vectors`

    def __init__(self, config: Any):
        one_of("augmentation", config["augmentation"], AUGMENTATIONS)
        self.semantic_ids: SemanticIDTable | None = None
        self.item_codes: Tensor | None = None
        self._flat: dict[str, Tensor] = {}
        self._histories: tuple[Tensor, Tensor] | None = None  # of ready-made splits: items, offsets
        super().__init__(config)
        if self.semantic_ids is not None:
            tokens = self.field2id_token[self.iid_field][1:]
            codes = self.semantic_ids.codes_for(list(tokens))
            self.item_codes = torch.zeros(len(codes) + 1, codes.shape[1], dtype=torch.long)
            self.item_codes[1:] = torch.from_numpy(codes)

    @property
    def codec(self) -> SemanticIDCodec | None:
        """Codec of the semantic IDs, or None without semantic IDs."""
        return self.semantic_ids.codec if self.semantic_ids is not None else None

    # Loading -----------------------------------------------------------------------------------

    def _load_data(self, token: str, dataset_path: str) -> None:
        super()._load_data(token, dataset_path)
        path = semantic_id_path(self.config)
        if path is not None:
            self.semantic_ids = read_semantic_ids(path)
            ids = [np.array(row.split(" ")) for row in self.semantic_ids.semantic_ids()]
            column = pd.Series(ids, index=list(self.semantic_ids.items), dtype=object)
            self._add_item_feature(SEMANTIC_ID_FIELD, column, FeatureType.TOKEN_SEQ, path)
        for name, vector_path in vector_files(self.config).items():
            table = read_embeddings(vector_path)
            column = pd.Series(list(table.pooled()), index=list(table.items), dtype=object)
            self._add_item_feature(name, column, FeatureType.FLOAT_SEQ, vector_path)

    def _add_item_feature(
        self, field: str, column: pd.Series, feature_type: FeatureType, path: Path
    ) -> None:
        """Join a sequence-valued column to the items by raw token, before RecBole remaps tokens."""
        if self.item_feat is None:
            self.item_feat = pd.DataFrame({self.iid_field: self._tokens("item")})
            self.field2source[self.iid_field] = FeatureSource.ITEM_ID
        if field in self.item_feat:
            raise InputError(f"{path}: the items already have a column {field!r}; rename one")
        tokens = self.item_feat[self.iid_field]
        missing = tokens[~tokens.isin(column.index)].tolist()
        if missing:
            unknown = column.index[~column.index.isin(tokens)].tolist()
            check_same_ids(path, unknown, missing)
            partial = self.partial_vectors and feature_type == FeatureType.FLOAT_SEQ
            if not partial or len(missing) == len(tokens):
                others = f"; the file has {counted(len(unknown), 'item')} that the data set lacks: "
                raise InputError(
                    f"{path}: {len(missing)} of {len(tokens)} items of the data set have no "
                    f"{field}: {preview(missing)}{others + preview(unknown) if unknown else ''}; "
                    "make the file again from the items of this data set"
                )
            count = f"{len(missing):,} of {counted(len(tokens), 'item')} have no {field}"
            self._say(f"{path.name}: {count} ({preview(missing)})")
            none = np.zeros_like(column.iloc[0])
            column = pd.concat([column, pd.Series([none] * len(missing), index=missing)])
        self.item_feat[field] = column.loc[tokens].tolist()
        self.set_field_property(field, feature_type, FeatureSource.ITEM, max(map(len, column)))

    def _change_feat_format(self) -> None:
        # RecBole stores times as float32, which cannot distinguish current Unix times less than
        # 128 s apart. Sorting first at full precision keeps the order, as RecBole's sorts are
        # stable.
        if self.time_field in self.inter_feat and self.benchmark_filename_list is None:
            self.inter_feat = self.inter_feat.sort_values(
                [self.uid_field, self.time_field], kind="stable", ignore_index=True
            )
        super()._change_feat_format()

    def _benchmark_presets(self) -> None:
        whole = self.inter_feat[f"{self.iid_field}{self.config['LIST_SUFFIX']}"].tolist()
        items = torch.from_numpy(np.concatenate([*whole, np.zeros(0, dtype=np.int64)]))
        self._histories = items.long(), _ends(torch.tensor([*map(len, whole)]))
        self.inter_feat[HISTORY_FIELD] = np.arange(len(whole))
        self.set_field_property(HISTORY_FIELD, FeatureType.TOKEN, FeatureSource.INTERACTION, 1)
        # Models have no position embeddings for histories longer than MAX_ITEM_LIST_LENGTH.
        for field in list(self.inter_feat):
            name = f"{field}{self.config['LIST_SUFFIX']}"
            if name in self.inter_feat:
                lists = self.inter_feat[name].tolist()
                self.inter_feat[name] = [each[-self.max_item_list_len :] for each in lists]
        super()._benchmark_presets()

    def _dataframe_to_interaction(self, data: pd.DataFrame) -> Interaction:
        """Convert a table as RecBole does, but each column of lists of IDs as one array."""
        lists = [name for name in data if self.field2type[name] == FeatureType.TOKEN_SEQ]
        columns = super()._dataframe_to_interaction(data.drop(columns=lists)).interaction
        for name in lists:
            rows = [each[: self.field2seqlen[name]] for each in data[name].tolist()]
            lengths = torch.tensor([*map(len, rows)])
            real = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
            columns[name] = torch.zeros(real.shape, dtype=torch.long)
            columns[name][real] = torch.from_numpy(np.concatenate(rows)).long()
        return Interaction({name: columns[name] for name in data})

    def build(self) -> list[Any]:
        """Build the splits, and replace `auto` values in the config (see `budget`).

        Returns:
            RecBole's train, valid and test splits.
        """
        splits: list[Any] = super().build()
        items, offsets = splits[0].training_sequences()
        n_sequences = int((offsets.diff() > 0).sum())
        size = DataSize(n_sequences, len(splits[0]), len(items), self.item_num)
        resolve_auto(self.config, size)
        return splits

    # Sequences ---------------------------------------------------------------------------------

    def data_augmentation(self) -> None:
        """Select the rows by `augmentation`; histories are cut later, in `__getitem__`."""
        self._aug_presets()
        self._check_field("uid_field", "time_field")
        self.sort(by=[self.uid_field, self.time_field], ascending=True)
        users = self.inter_feat[self.uid_field]
        self._flat = {
            field: self.inter_feat[field] for field in self.inter_feat if field != self.uid_field
        }
        self._user_start = sequence_starts(users)  # [n_users], by internal user id
        rank = torch.arange(len(users)) - self._user_start[users]  # position in the sequence
        keep = rank > 0
        if self.config["augmentation"] != "prefix":
            # Keep the last three targets of each user: two become valid and test, and the third
            # is the last item of the training sequence.
            to_end = torch.bincount(users, minlength=len(self._user_start))[users] - 3 - rank
            ends = to_end <= 0
            if self.config["augmentation"] == "windows":
                # Windows of L items end at the last training item and at every half window before
                # it; the earliest window holds the first L items.
                n = self.max_item_list_len
                step = max(1, n // 2)
                ends |= (rank == n - 1) | ((rank >= n) & (to_end % step == 0))
            keep &= ends
        rows = keep.nonzero().squeeze(1)
        data = self.inter_feat[rows]
        length = rank[rows].clamp(max=self.max_item_list_len)
        data.update(Interaction({self.item_list_length_field: length, TARGET_POSITION_FIELD: rows}))
        self.set_field_property(
            TARGET_POSITION_FIELD, FeatureType.TOKEN, FeatureSource.INTERACTION, 1
        )
        self.inter_feat = data

    def __getitem__(self, index: Any, join: bool = True) -> Interaction:
        """Return rows with their histories: lists [B, L], right-padded with zeros."""
        data = super().__getitem__(index, join)
        if TARGET_POSITION_FIELD not in data:
            return data
        rows, lengths = data[TARGET_POSITION_FIELD], data[self.item_list_length_field]
        if rows.dim() == 0:  # RecBole samples a single row by an integer
            return data
        # Copy only real items, because most positions are padding when L is large.
        n_columns = self.max_item_list_len
        source = ragged_arange(rows - lengths, lengths)
        place = ragged_arange(torch.arange(len(rows)) * n_columns, lengths)
        lists = {}
        for field, values in self._flat.items():
            padded = values.new_zeros(len(rows), n_columns, *values.shape[1:])
            padded.flatten(0, 1)[place] = values[source]
            lists[getattr(self, f"{field}_list_field")] = padded
        data.update(Interaction(lists))
        return data

    def training_sequences(self) -> tuple[Tensor, Tensor]:
        """Return each user's items up to the last target in this split.

        For the train split these are the training sequences.

        Returns:
            items: [T] internal item IDs, oldest first, one user after another.
            offsets: [n_users + 1]; user u's items are `items[offsets[u]:offsets[u + 1]]` (user 0 is
                padding and has none).
        """
        if not self._flat:
            return self._joined_rows()
        users, rows = self.inter_feat[self.uid_field], self.inter_feat[TARGET_POSITION_FIELD]
        end = self._user_start.clone().scatter_reduce(0, users, rows + 1, "amax")
        lengths = end - self._user_start
        return self._flat[self.iid_field][ragged_arange(self._user_start, lengths)], _ends(lengths)

    def _joined_rows(self) -> tuple[Tensor, Tensor]:
        """Reconstruct sequences from the rows of ready-made (benchmark) splits.

        A user's sequence is the shortest history, followed by the targets, in the order of their
        histories' lengths. Histories cut to L have equal lengths; their targets keep the order of
        the file.
        """
        lists, targets = self.inter_feat[self.item_id_list_field], self.inter_feat[self.iid_field]
        users = self.inter_feat[self.uid_field]
        lengths = self.inter_feat[self.item_list_length_field]
        order = torch.from_numpy(np.lexsort((lengths.numpy(), users.numpy())))  # stable
        users, lengths = users[order], lengths[order]
        starts = sequence_starts(users)
        first = starts[users] == torch.arange(len(users))  # a user's first row
        base = torch.zeros(self.user_num, dtype=torch.long)
        base[users[first]] = lengths[first]
        counts = torch.bincount(users, minlength=self.user_num) + base
        offsets = _ends(counts)
        items = torch.empty(int(offsets[-1]), dtype=torch.long)
        heads = lists[order[first]]
        place = torch.arange(heads.shape[1])
        real = place < lengths[first].unsqueeze(1)
        items[(offsets[users[first]].unsqueeze(1) + place)[real]] = heads[real]
        rank = torch.arange(len(users)) - starts[users]
        items[offsets[users] + base[users] + rank] = targets[order]
        return items, offsets

    @property
    def n_interactions(self) -> int:
        """Number of interactions of all users, before any split."""
        return len(self._flat[self.iid_field] if self._flat else self._joined_rows()[0])

    def training_repeats(self) -> bool:
        """Return whether any training sequence contains an item twice."""
        users, items = self._training_pairs()
        return len(torch.unique(users * self.item_num + items)) < len(items)

    def _training_pairs(self) -> tuple[Tensor, Tensor]:
        """Return the users and items of all training interactions, [T] each."""
        items, offsets = self.training_sequences()
        return torch.repeat_interleave(torch.arange(len(offsets) - 1), offsets.diff()), items

    def training_rows(self, batch_size: int, max_length: int) -> TrainingRows:
        """Return the rows of this split, each with its target and cut to its last items.

        Args:
            batch_size: rows per batch, from which each row's `chance` follows.
            max_length: most items of a row, the target included.
        """
        lengths = self.inter_feat[self.item_list_length_field]
        if self._flat:
            end = self.inter_feat[TARGET_POSITION_FIELD] + 1
            lengths = (lengths + 1).clamp(max=max_length)
            items = self._flat[self.iid_field][ragged_arange(end - lengths, lengths)]
        else:
            lists = self.inter_feat[self.item_id_list_field]
            target = self.inter_feat[self.iid_field].unsqueeze(1)
            rows = torch.cat([lists, torch.zeros_like(target)], dim=1)
            rows.scatter_(1, lengths.unsqueeze(1), target)
            lengths = lengths + 1
            place, over = torch.arange(rows.size(1)), (lengths - max_length).clamp(min=0)
            items = rows[(place >= over.unsqueeze(1)) & (place < lengths.unsqueeze(1))]
            lengths = lengths - over
        chance = torch.tensor(min(1.0, batch_size / len(lengths)), dtype=torch.float64)
        return TrainingRows(items, lengths, chance.expand(len(lengths)))

    @property
    def n_trained(self) -> int:
        """Number of training interactions that at least one row of this split contains."""
        if not self._flat:
            return len(self._joined_rows()[0])
        lengths = self.inter_feat[self.item_list_length_field]
        end = self.inter_feat[TARGET_POSITION_FIELD] + 1  # the target included
        edges = torch.zeros(len(self._flat[self.iid_field]) + 1, dtype=torch.long)
        edges.index_add_(0, end - 1 - lengths, torch.ones_like(end))
        edges.index_add_(0, end, -torch.ones_like(end))
        return int((edges.cumsum(0) > 0).sum())

    def seen_items(self, interaction: Interaction) -> tuple[Tensor, Tensor]:
        """Return all items before each row's target, also those beyond MAX_ITEM_LIST_LENGTH.

        In ready-made (benchmark) splits, only the items of the row's history in the file are known.

        Returns:
            Row numbers within the batch [S] and item IDs [S].
        """
        if self._histories is not None:
            items, offsets = self._histories
            rows = interaction[HISTORY_FIELD].cpu()
            start, end = offsets[rows], offsets[rows + 1]
        else:
            items = self._flat[self.iid_field]
            end = interaction[TARGET_POSITION_FIELD].cpu()
            start = self._user_start[interaction[self.uid_field].cpu()]
        lengths = end - start
        batch = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        return batch, items[ragged_arange(start, lengths)]

    def inter_matrix(self, form: str = "coo", value_field: str | None = None) -> Any:
        """Return the sparse user x item matrix of `training_sequences`.

        With `value_field`, or for ready-made splits, this is RecBole's own method.
        """
        if not self._flat or value_field is not None:
            return super().inter_matrix(form, value_field)
        users, items = self._training_pairs()
        pairs = Interaction({self.uid_field: users, self.iid_field: items})
        return self._create_sparse_matrix(pairs, self.uid_field, self.iid_field, form, None)


class PartialVectorsDataset(SemanticIDDataset):
    """Dataset of models that mask missing `item_vectors`: such an item has a vector of zeros."""

    partial_vectors = True


def semantic_id_path(config: Any) -> Path | None:
    """Return the configured `semantic_id_file`, else `<data_path>/<dataset>.semid`, if it exists.

    Returns:
        None if neither is there; a configured file is not checked.
    """
    if config["semantic_id_file"]:
        return Path(config["semantic_id_file"])
    default = Path(config["data_path"]) / f"{config['dataset']}.semid"
    return default if default.is_file() else None


def vector_files(config: Any) -> dict[str, Path]:
    """Return the files of `item_vectors` by name: those given, or named tables of the data set."""
    given = config["item_vectors"] or {}
    if isinstance(given, dict):
        return {name: Path(path) for name, path in given.items()}
    domain = DatasetPaths(config["dataset"], Path(config["data_path"]))
    return {name: domain.file(f"{name}.npz") for name in given}


def _ends(lengths: Tensor) -> Tensor:
    """Return the offsets of n rows that follow one another: 0 and each row's end. [n + 1]"""
    return torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])


def ragged_arange(starts: Tensor, lengths: Tensor) -> Tensor:
    """Concatenate B ranges: `lengths[b]` consecutive integers from `starts[b]`. [sum of lengths]"""
    ahead = lengths.cumsum(0) - lengths
    return torch.arange(int(lengths.sum()), device=lengths.device) + torch.repeat_interleave(
        starts - ahead, lengths
    )


def sequence_starts(users: Tensor) -> Tensor:
    """Return the index of each user's first entry in a sorted array of user IDs. [max ID + 1]"""
    counts = torch.bincount(users)
    return counts.cumsum(0) - counts
