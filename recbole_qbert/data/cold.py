"""Items that are held out of training (`cold_items`), as if they were added to the catalog later.

A held-out item is drawn among the items that are the last one of some user. All its interactions
are left out, except those that are a user's last. So it is in no training sequence, is no
validation target and is in no history, but it is ranked with all other items, and it is a test
target. Users with such a target are tested on a cold item, the others on a warm one.

With `targets: valid` the same is done one step earlier, to choose settings without the test
targets: each user's last interaction is left out, as are all interactions of the items that
`targets: test` holds out, and other items are drawn.

Shapes: T interactions, N items, U users.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.output import counted

TARGETS = ("test", "valid")
KEEP = "keep"
LEAST = 3  # interactions of a user with a test target, see docs/concepts.md


class ColdSettings(NamedTuple):
    """Settings of the draw."""

    share: float  # of the items of the data set
    seed: int
    targets: str  # one of TARGETS
    keeps: bool  # leave nothing out; the same items are drawn and the same users are tested

    @property
    def changes_targets(self) -> bool:
        """Whether interactions are left out, so that targets are trained on without it."""
        return not self.keeps or self.targets == "valid"


class ColdSplit(NamedTuple):
    """Result of `hold_out`."""

    rows: np.ndarray  # int64, numbers of the interactions that are left, grouped by user
    items: np.ndarray  # object, sorted tokens of the held-out items
    n_left_out: int  # interactions that are left out
    n_users: int  # users that are left out, because too few interactions are left


def cold_settings(config: Any) -> ColdSettings | None:
    """Return the settings of a run's config, or None if no items are held out."""
    if not config["cold_items"]:
        return None
    keeps = config["cold_interactions"] == KEEP
    return ColdSettings(config["cold_items"], config["cold_seed"], config["cold_targets"], keeps)


def hold_out(
    users: pd.Series, items: pd.Series, times: pd.Series, settings: ColdSettings
) -> ColdSplit:
    """Draw the items, and choose the interactions that are left.

    The draw depends on the tokens of the interactions, not on their order. Users with a held-out
    item keep their order. Equal times keep the order of the rows.

    Args:
        users: [T] tokens.
        items: [T] tokens.
        times: [T] numbers.
        settings: settings of the draw.

    Raises:
        InputError: too few items are the last one of a user.
    """
    user_codes, _ = pd.factorize(users)
    item_codes, tokens = pd.factorize(items.astype(str), sort=True)
    rows = np.lexsort((times.to_numpy(), user_codes))  # stable; users by their first row
    data = _Data(user_codes[rows], item_codes[rows], np.asarray(tokens, dtype=object))
    draw = _draw(data, settings, step=0)
    if settings.targets == "valid":
        kept = data.without(draw, keeps=False)
        kept[kept] = ~data.take(kept).targets
        rows, data = rows[kept], data.take(kept)
        draw = _draw(data, settings, step=1)
    kept = data.without(draw, keeps=False)
    tested = data.take(kept)
    draw &= np.isin(np.arange(len(draw)), tested.items)
    n_users = len(np.unique(data.users)) - len(np.unique(tested.users))
    if settings.keeps:
        kept = data.without(draw, keeps=True)
    left = data.take(kept)
    n_left_out = len(users) - len(left.users)
    return ColdSplit(rows[kept], data.tokens[draw], n_left_out, n_users)


class _Data(NamedTuple):
    """Interactions sorted by user, then time."""

    users: np.ndarray  # [T]
    items: np.ndarray  # [T]
    tokens: np.ndarray  # [N]

    def take(self, rows: np.ndarray) -> _Data:
        return self._replace(users=self.users[rows], items=self.items[rows])

    @property
    def last(self) -> np.ndarray:
        """Which interactions are their user's last, bool [T]."""
        return np.append(self.users[1:] != self.users[:-1], True)[: len(self.users)]

    @property
    def sizes(self) -> np.ndarray:
        """Number of the user's interactions, [T]."""
        return np.bincount(self.users)[self.users]

    @property
    def targets(self) -> np.ndarray:
        """Which interactions are test targets, bool [T]."""
        return self.last & (self.sizes >= LEAST)

    def without(self, draw: np.ndarray, keeps: bool) -> np.ndarray:
        """Which interactions are left without the drawn items, bool [T].

        Left out are users who would have no test target any more, or a training sequence that
        contains it. With `keeps` only these users are left out, and items that they alone had.
        """
        kept = ~draw[self.items] | self.targets
        left = np.bincount(self.users, weights=kept)[self.users]
        enough = left >= np.minimum(self.sizes, LEAST)
        if keeps:
            there = np.zeros(len(draw), dtype=np.bool_)
            there[self.items[kept & enough]] = True
            return enough & there[self.items]
        return kept & enough


def _draw(data: _Data, settings: ColdSettings, step: int) -> np.ndarray:
    """Draw items among the test targets; bool [N]."""
    able = np.unique(data.items[data.targets])
    n_items = len(np.unique(data.items))
    wanted = round(settings.share * n_items)
    if not 0 < wanted <= len(able):
        raise InputError(
            f"cold_items: {settings.share} of {counted(n_items, 'item')} are {wanted:,}, but "
            f"{len(able):,} are the last item of a user; give a share that fits"
        )
    chosen = np.zeros(len(data.tokens), dtype=np.bool_)
    chosen[np.random.default_rng([settings.seed, step]).choice(able, wanted, replace=False)] = True
    return chosen
