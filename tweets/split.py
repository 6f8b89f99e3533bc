"""Give every tweet one split, so that groups of near-duplicates are never divided."""

import hashlib

import numpy as np
import pandas as pd

TEST, VALID, TRAIN = SPLITS = ("test", "valid", "train")


def split(rows: pd.DataFrame, *, valid: float, test: float, seed: int) -> pd.Series:
    """Return the split of each row, by group, stratified by label.

    `rows` has the columns key, group, label and split; a split that is set stays, and where a group has rows in
    several official splits, `test` wins over `valid` and that over `train` (the caller drops the rest). `valid`
    and `test` are shares in [0, 1) of the rows without an official test or valid split.

    The order in which groups are dealt out is that of a hash of the seed and the group's smallest key, so it depends
    on nothing but the raw text and the seed.
    """
    official = set(rows["split"].dropna())
    shares = {TEST: 0.0 if TEST in official else test, VALID: 0.0 if VALID in official else valid}
    free = rows["split"].isna() | (rows["split"] == TRAIN)
    taken = set(rows.loc[~free, "group"])
    free &= ~rows["group"].isin(taken)
    result = rows["split"].astype(object).where(~free, TRAIN)
    if not free.any():
        return result.fillna(TRAIN)
    groups = rows[free].groupby("group").agg(key=("key", "min"), label=("label", "first"), size=("key", "size"))
    groups["order"] = [hashlib.sha256(f"{seed}:{key}".encode()).digest() for key in groups["key"]]
    dealt = pd.concat([_deal(of_label.sort_values("order"), shares) for _, of_label in groups.groupby("label")])
    result[free] = rows.loc[free, "group"].map(dealt)
    return result.fillna(TRAIN)


def _deal(groups: pd.DataFrame, shares: dict[str, float]) -> pd.Series:
    """Return the split of each group of one label: the first rows go to test, the next to valid, the rest to train."""
    total = int(groups["size"].sum())
    start = groups["size"].cumsum() - groups["size"]
    test = round(total * shares[TEST])
    valid = test + round(total * shares[VALID])
    return pd.Series(np.select([start < test, start < valid], [TEST, VALID], TRAIN), index=groups.index)


def hash_of_ids(ids: pd.Series) -> str:
    """Return 16 hexadecimal digits that tell one set of rows from another: the head of their sorted ids' SHA-256."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:16]
