"""`StrictDataset`: RecBole's sequential dataset, with exact reading of its files.

RecBole reads atomic files with pandas, which reads the ID `NA` as a missing value and joins lines
between two quotes. It also lets each model's feature columns decide which interactions are kept.
This class reads every cell as written, or refuses it with its line number. The interactions alone
decide which users and items exist, so that all models on a data set see the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from recbole.data.dataset import SequentialDataset
from recbole.utils import FeatureSource, FeatureType

from recbole_qbert.common.errors import InputError, preview
from recbole_qbert.common.output import counted
from recbole_qbert.data.atomic import Atomic, read_atomic
from recbole_qbert.data.codec import quote
from recbole_qbert.data.cold import cold_settings, hold_out

KEYS = {"user": "USER_ID_FIELD", "item": "ITEM_ID_FIELD"}
# Settings that determine which interactions of a data set are for training.
SPLIT_KEYS = (
    "benchmark_filename",
    "item_inter_num_interval",
    "rm_dup_inter",
    "user_inter_num_interval",
    "val_interval",
)


class StrictDataset(SequentialDataset):
    """Sequential dataset that reads atomic files exactly; see the module docstring.

    Attributes:
        notes: remarks on the data that a reader of the results must know.
        n_filtered: number of interactions that RecBole's filters left out.
        cold_items: sorted tokens of the items that `cold_items` holds out of training.
    """

    item_feat: Any  # RecBole sets these to DataFrames, and when it builds to Interactions
    user_feat: Any
    inter_feat: Any

    def __init__(self, config: Any):
        self.notes: list[str] = []
        self.n_filtered = 0
        self.cold_items: np.ndarray = np.array([], dtype=object)
        super().__init__(config)

    def _load_data(self, token: str, dataset_path: str) -> None:
        super()._load_data(token, dataset_path)
        self._hold_out()
        for kind in KEYS:
            self._complete(kind)

    def _load_feat(self, filepath: str, source: Any) -> pd.DataFrame | None:
        """Read a feature file in place of RecBole's method, each cell as written.

        Raises:
            InputError: the file or a cell cannot be used; names the line.
        """
        chosen, left_out = self._get_load_and_unload_col(source)
        if chosen == set():
            return None
        separator, encoding = self.config["field_separator"], self.config["encoding"] or "utf-8"
        file = read_atomic(filepath, separator=separator, encoding=encoding)
        file.need_rows()
        names = [
            name
            for name in file.names
            if (chosen is None or name in chosen) and name not in (left_out or ())
        ]
        self._check_columns(file, source, names, chosen or set())
        columns = {}
        for name in names:
            kind = FeatureType(file.kinds[name])
            columns[name] = column = self._read_column(file, name)
            is_list = kind in (FeatureType.TOKEN_SEQ, FeatureType.FLOAT_SEQ)
            self.set_field_property(name, kind, source, max(map(len, column)) if is_list else 1)
            if kind in (FeatureType.FLOAT, FeatureType.FLOAT_SEQ):
                self.field2bucketnum[name] = 2
        return pd.DataFrame(columns)

    def cold_mask(self) -> np.ndarray | None:
        """Return which items `cold_items` drew, bool [N] by internal ID; None without it."""
        if not len(self.cold_items):
            return None
        return np.isin(self.field2id_token[self.iid_field].astype(str), self.cold_items.astype(str))

    def _ids(self, kind: str) -> list[str]:
        """Return the columns that hold IDs of users or of items, RecBole's own one first."""
        own = self.uid_field if kind == "user" else self.iid_field
        return [own, *(self.config[f"alias_of_{kind}_id"] or [])]

    def _check_columns(self, file: Atomic, source: Any, names: list[str], asked: set[str]) -> None:
        """Check that needed columns exist, are read and have the right type, and IDs are unique.

        Args:
            file: the file.
            source: RecBole's `FeatureSource` of the file.
            names: columns that are read.
            asked: columns that `load_col` names.

        Raises:
            InputError: a check fails.
        """
        needed = {}
        if source in (FeatureSource.USER, FeatureSource.INTERACTION):
            needed[KEYS["user"]] = self.uid_field
        if source in (FeatureSource.ITEM, FeatureSource.INTERACTION):
            needed[KEYS["item"]] = self.iid_field
        if source == FeatureSource.INTERACTION and self.benchmark_filename_list is None:
            needed["TIME_FIELD"] = self.time_field
        for key, name in needed.items():
            file.need([name], f"correct the file, or name the column with {key}")
            if name not in names:
                raise InputError(
                    f"{file.path}: load_col or unload_col excludes {name!r}; include it"
                )
        file.need(sorted(asked - {self.time_field}), "correct load_col")
        id_fields = [*self._ids("user"), *self._ids("item")]
        for name in names:
            kind = file.kinds[name]
            if name in id_fields and kind not in ("token", "token_seq"):
                raise InputError(f"{file.path}: line 1: {name} is {kind}; write {name}:token")
            if name == self.time_field and kind != "float":
                raise InputError(
                    f"{file.path}: line 1: {name} is {kind}; TIME_FIELD must be float: write "
                    f"{name}:float, and numbers such as Unix seconds"
                )
        for kind, own in (("user", self.uid_field), ("item", self.iid_field)):
            if source == FeatureSource(kind):
                file.check_unique(own, kind)

    def _read_column(self, file: Atomic, name: str) -> Any:
        """Read a column in RecBole's representation; a missing value is NaN or an empty list."""
        kind, between = file.kinds[name], self.config["seq_separator"]
        if kind == "float":
            return file.numbers(name, may_lack=name != self.time_field)
        if kind == "token":
            # RecBole numbers the values of every token column, and gives the padding number 0.
            if name in (*self._ids("user"), *self._ids("item")):
                file.check_ids(name)
            else:
                file.check_padding(name)
            texts = file.columns[name].to_pandas()
            return texts.where(texts != "")
        if kind == "token_seq":
            file.check_padding(name, between)
        limit = (self.config["seq_len"] or {}).get(name)
        return [each[:limit] for each in file.lists(name, between)]

    # Users and items ---------------------------------------------------------------------------

    def _hold_out(self) -> None:
        """Leave out the interactions of the items that `cold_items` draws; see `data.cold`."""
        settings = cold_settings(self.config)
        if settings is None:
            return
        fields = (self.uid_field, self.iid_field, self.time_field)
        users, items, times = (self.inter_feat[field] for field in fields)
        split = hold_out(users, items, times, settings)
        self.inter_feat = self.inter_feat.iloc[split.rows].reset_index(drop=True)
        self.cold_items = split.items
        how = "marked, but trained on" if settings.keeps else "held out of training"
        counts = [counted(split.n_left_out, "interaction"), counted(split.n_users, "user")]
        self._say(
            f"cold_items: {counted(len(split.items), 'item')} {how}; {counts[0]} and {counts[1]} "
            "left out"
        )

    def _complete(self, kind: str) -> None:
        """Add feature rows for users or items that lack one; drop those without interactions.

        Otherwise RecBole would drop the interactions of an item without a feature row, and would
        rank items without interactions, but only for models that read features.
        """
        feat = getattr(self, f"{kind}_feat")
        if feat is None:
            return
        ids = self._ids(kind)
        tokens = self._tokens(kind)
        known = feat[feat[ids[0]].isin(tokens)]
        lacking = tokens[~pd.Index(tokens).isin(known[ids[0]])].tolist()
        file = f"{self.dataset_name}.{kind}"
        check_same_ids(file, feat[ids[0]][~feat[ids[0]].isin(tokens)], lacking)
        if len(lacking):
            count = int(self.inter_feat[ids[0]].isin(lacking).sum())
            self._say(
                f"{file}: {len(lacking)} of {len(tokens):,} {kind}s have no row; their "
                f"features are missing ({preview(lacking)}; {counted(count, 'interaction')})"
            )
        if len(known) < len(feat):
            names = preview(feat[ids[0]][~feat.index.isin(known.index)].tolist(), 3)
            self._say(
                f"{file}: {len(feat) - len(known):,} of {len(feat):,} {kind}s have no interaction "
                f"and are left out ({names})"
            )
        rows = pd.concat([known, pd.DataFrame({ids[0]: lacking})], ignore_index=True)
        for name in rows:
            if self.field2type[name] in (FeatureType.TOKEN_SEQ, FeatureType.FLOAT_SEQ):
                tokens = self.field2type[name] == FeatureType.TOKEN_SEQ
                none: Any = np.array([], str if tokens else float)
                rows[name] = [none if isinstance(each, float) else each for each in rows[name]]
        setattr(self, f"{kind}_feat", rows)

    def _tokens(self, kind: str) -> np.ndarray:
        """Return the users or items of all interactions, with those of ready-made histories."""
        columns = [self.inter_feat[name] for name in self._ids(kind) if name in self.inter_feat]
        return pd.unique(pd.concat([column.explode() for column in columns]).dropna())

    def _say(self, note: str) -> None:
        self.notes.append(note)
        self.logger.info(note)

    def _data_filtering(self) -> None:
        """Filter as RecBole does, then drop users and items that have no interaction left."""
        n_before = len(self.inter_feat)
        super()._data_filtering()
        self.n_filtered = n_before - len(self.inter_feat)
        for kind in KEYS:
            feat, own = getattr(self, f"{kind}_feat"), self._ids(kind)[0]
            if feat is not None:
                kept = feat[feat[own].isin(self._tokens(kind))]
                setattr(self, f"{kind}_feat", kept.reset_index(drop=True))


def check_same_ids(path: str | Path, ids: Iterable[str], lacking: Iterable[str]) -> None:
    """Check that tokens of two files do not differ only by blanks at their ends.

    Args:
        path: a `.item`, `.user` or other file keyed by token.
        ids: tokens of that file that no interaction has.
        lacking: tokens of interactions that the file lacks.

    Raises:
        InputError: two do.
    """
    bare = {each.strip(): each for each in ids}
    for each in lacking:
        if each.strip() in bare:
            raise InputError(
                f"{path}: {quote(bare[each.strip()])}, and {quote(each)} in the interactions, "
                "differ only by blanks at their ends; spell each ID one way"
            )
