"""Splits: whole groups, stratified by label, decided by key and seed alone, official ones kept."""

import hashlib

import pandas as pd

from tweets.data import split as by_order
from tweets.data.dataset import SPLITS
from tweets.data.split import order


def split(frame: pd.DataFrame, *, valid: float, test: float, seed: int) -> pd.Series:
    """Return the split of rows that have keys in place of the order of their group."""
    orders = frame.groupby("group")["key"].min().map(lambda key: order(key, seed))
    compact = frame.assign(order=frame["group"].map(orders), split=pd.Categorical(frame["split"], SPLITS))
    return by_order.split(compact.drop(columns="key"), valid=valid, test=test).astype(object)


def rows(count: int, *, copies: int = 1, labels: int = 2) -> pd.DataFrame:
    """Return `count` groups of `copies` rows each, without official splits."""
    made = [
        {"key": f"key {group} {copy}", "group": group, "label": "abc"[group % labels], "split": None}
        for group in range(count)
        for copy in range(copies)
    ]
    return pd.DataFrame(made)


def official(*splits: str | None, groups: list[int] | None = None) -> pd.DataFrame:
    count = len(splits)
    return pd.DataFrame(
        {
            "key": [f"key {i}" for i in range(count)],
            "group": groups or list(range(count)),
            "label": ["a"] * count,
            "split": pd.Series(splits, dtype=object),
        }
    )


def test_the_splits_are_dealt_in_the_order_of_a_hash_of_seed_and_key() -> None:
    by_hash = sorted(range(10), key=lambda group: hashlib.sha256(f"5:key {group} 0".encode()).hexdigest())
    dealt = split(rows(10, labels=1), valid=0.2, test=0.3, seed=5)
    assert dealt[by_hash].tolist() == ["test"] * 3 + ["valid"] * 2 + ["train"] * 5
    assert dealt[dealt == "test"].index.tolist() == [3, 5, 9]


def test_each_label_gets_its_share_of_each_split() -> None:
    frame = rows(300, labels=3)
    dealt = split(frame, valid=0.1, test=0.2, seed=0)
    assert pd.crosstab(frame["label"], dealt)[list(SPLITS)].to_numpy().tolist() == [[20, 10, 70]] * 3


def test_a_rare_label_gets_its_share_too() -> None:
    frame = rows(100, labels=1).assign(label=["rare"] * 10 + ["common"] * 90)
    dealt = split(frame, valid=0.1, test=0.2, seed=3)
    assert dealt[frame["label"] == "rare"].value_counts().to_dict() == {"train": 7, "test": 2, "valid": 1}


def test_no_group_is_divided() -> None:
    frame = rows(60, copies=3)
    dealt = split(frame, valid=0.2, test=0.2, seed=1)
    assert dealt.groupby(frame["group"]).nunique().eq(1).all()
    assert dealt.value_counts().to_dict() == {"train": 108, "test": 36, "valid": 36}


def test_a_group_with_several_labels_is_not_divided_either() -> None:
    frame = rows(40, copies=2)
    frame["label"] = ["a", "b"] * 40
    dealt = split(frame, valid=0.2, test=0.2, seed=1)
    assert dealt.groupby(frame["group"]).nunique().eq(1).all()


def test_the_order_of_the_rows_and_the_numbers_of_the_groups_decide_nothing() -> None:
    frame = rows(80, copies=2)
    dealt = split(frame, valid=0.2, test=0.2, seed=7)
    other = frame.sample(frac=1, random_state=0)
    other["group"] = 1000 - other["group"]
    pd.testing.assert_series_equal(split(other, valid=0.2, test=0.2, seed=7).sort_index(), dealt, check_names=False)


def test_columns_that_are_not_key_group_label_or_split_decide_nothing() -> None:
    frame = rows(80)
    dealt = split(frame, valid=0.2, test=0.2, seed=7)
    assert split(frame.assign(text="cleaned"), valid=0.2, test=0.2, seed=7).equals(dealt)


def test_another_seed_deals_otherwise_and_the_same_seed_alike() -> None:
    frame = rows(80)
    first, again, other = (split(frame, valid=0.2, test=0.2, seed=seed) for seed in (0, 0, 1))
    assert first.equals(again)
    assert not first.equals(other)
    assert other.value_counts().to_dict() == first.value_counts().to_dict()


def test_official_splits_stay_and_the_rest_of_train_gives_the_missing_one() -> None:
    frame = official("test", "test", *["train"] * 10)
    dealt = split(frame, valid=0.2, test=0.5, seed=0)
    assert dealt.iloc[:2].tolist() == ["test", "test"]
    assert dealt.iloc[2:].value_counts().to_dict() == {"train": 8, "valid": 2}


def test_with_all_three_official_nothing_is_dealt() -> None:
    frame = official("test", "valid", "train", "train")
    assert split(frame, valid=0.4, test=0.4, seed=0).tolist() == ["test", "valid", "train", "train"]


def test_rows_without_a_split_beside_official_ones_go_to_train() -> None:
    frame = official("test", "valid", None, "train")
    assert split(frame, valid=0.4, test=0.4, seed=0).tolist() == ["test", "valid", "train", "train"]


def test_near_duplicates_of_official_evaluation_rows_are_not_dealt_to_valid() -> None:
    frame = official("test", "train", None, *["train"] * 6, groups=[0, 0, 0, 1, 2, 3, 4, 5, 6])
    dealt = split(frame, valid=0.5, test=0.5, seed=0)
    assert dealt.iloc[:3].tolist() == ["test", "train", "train"]
    assert dealt.iloc[3:].value_counts().to_dict() == {"valid": 3, "train": 3}


def test_a_source_with_nothing_left_to_deal_keeps_its_splits() -> None:
    assert split(official("test", "valid", "test"), valid=0.1, test=0.1, seed=0).tolist() == ["test", "valid", "test"]
    copies = official("test", "train", None, groups=[0, 0, 0])
    assert split(copies, valid=0.1, test=0.1, seed=0).tolist() == ["test", "train", "train"]


def test_shares_of_nothing_leave_all_in_train() -> None:
    assert set(split(rows(10), valid=0.0, test=0.0, seed=0)) == {"train"}


def test_the_index_of_the_rows_is_kept() -> None:
    frame = rows(4).set_axis([40, 30, 20, 10])
    assert split(frame, valid=0.25, test=0.25, seed=0).index.tolist() == [40, 30, 20, 10]


def test_the_order_is_63_bits_of_the_hash_of_seed_and_key() -> None:
    digest = hashlib.sha256(b"5:good day").hexdigest()
    assert order("good day", 5) == int(digest[:16], 16) // 2
