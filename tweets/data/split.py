"""Give every tweet one split, so that groups of near-duplicates are never divided."""

import hashlib

import numpy as np
import pandas as pd

from tweets.data.dataset import SPLITS, TEST, TRAIN, VALID


def order(key: str, seed: int) -> int:
    """Return the number by which the group of a key is dealt out: 63 bits of a hash of the seed and the key."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8]) >> 1


def split(rows: pd.DataFrame, *, valid: float, test: float) -> pd.Series:
    """Return the split of each row, a categorical, by group, stratified by label.

    `rows` has the columns group, order, label and split (a categorical of SPLITS); a split that is set stays, and where
    a group has rows in several official splits, `test` wins over `valid` and that over `train` (the caller drops the
    rest). `valid` and `test` are shares in [0, 1) of the rows without an official test or valid split.

    Groups are dealt out by `order`, which is that of the group's smallest key, so the result depends on nothing but the
    raw text and the seed.
    """
    official = set(rows["split"].dropna())
    shares = {TEST: 0.0 if TEST in official else test, VALID: 0.0 if VALID in official else valid}
    free = rows["split"].isna() | (rows["split"] == TRAIN)
    taken = rows.loc[~free, "group"].unique()
    free &= ~rows["group"].isin(taken)
    result = rows["split"].where(~free, TRAIN).fillna(TRAIN)
    if free.any():
        by_group = rows[free].groupby("group")
        groups = by_group.agg(order=("order", "first"), label=("label", "first"), size=("label", "size"))
        in_order = groups.sort_values("order", kind="stable").groupby("label")
        dealt = pd.concat([_deal(of_label["size"], shares) for _, of_label in in_order])
        result[free] = rows.loc[free, "group"].map(dealt)
    return result


def _deal(sizes: pd.Series, shares: dict[str, float]) -> pd.Series:
    """Return the split of each group of one label: the first rows go to test, the next to valid, the rest to train."""
    total = int(sizes.sum())
    start = sizes.cumsum() - sizes
    test = round(total * shares[TEST])
    valid = test + round(total * shares[VALID])
    dealt = np.select([start < test, start < valid], [0, 1], 2).astype(np.int8)
    return pd.Series(pd.Categorical.from_codes(dealt, pd.Index(SPLITS)), index=sizes.index)
