"""The stage prepare: which rows are kept, in which split, and what is reported about them."""

import hashlib
import json
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from dvc.utils.hydra import apply_overrides

from stages import fetch, prepare
from tests.support.clones import kill_stage
from tests.support.made_up import LABELS, made_up_tweets, set_param
from tweets.data import pieces
from tweets.data.dataset import SPLITS
from tweets.data.duplicates import key
from tweets.data.split import order
from tweets.errors import UserError

CLEANING = {
    "normalise.encoding": False,
    "normalise.html": False,
    "normalise.urls": "keep",
    "normalise.mentions": "remove",
    "normalise.hashtags": "split",
    "normalise.emoji": "remove",
    "normalise.whitespace": False,
    "clean.lowercase": True,
    "clean.numbers": True,
    "clean.punctuation": True,
    "clean.stopwords": True,
    "clean.emoji": True,
    "clean.lemmatise": True,
    "clean.stem": True,
}
# A tail that each of the cleaning steps changes, of fewer words than make tweets near-duplicates.
TAIL = " \u200b&amp; http://t.co/a @you #GoTeam 😀  The 2 CARS,\trunning"


def run(rows: pd.DataFrame | None = None) -> dict[str, pd.DataFrame]:
    """Fetch and prepare the rows, or those of the workspace, and return the prepared splits."""
    if rows is not None:
        rows.to_csv("tweets.csv", index=False)
    fetch.main()
    prepare.main()
    return {name: pd.read_parquet(f"data/prepared/{name}.parquet") for name in SPLITS}


def metrics() -> dict[str, Any]:
    report: dict[str, Any] = json.loads(Path("metrics/prepare.json").read_text())
    return report


def ids(splits: dict[str, pd.DataFrame]) -> dict[str, list[str]]:
    return {name: rows["id"].tolist() for name, rows in splits.items()}


def hand_written() -> pd.DataFrame:
    """Return rows with official splits: for each kind of row that prepare treats in its own way, one or a few."""
    rows = [
        ("1", "Good morning everyone", "positive", 0.4, "train"),
        ("2", "good morning, EVERYONE!", "negative", 0.9, "train"),  # a copy: more confident, so its label stays
        ("3", "@bob good morning everyone http://t.co/x", "positive", 0.4, "train"),  # 0.4 + 0.4 is less than 0.9
        ("4", "The bridge is closed", "neutral", None, "train"),
        ("5", "the bridge is closed", "negative", 0.9, "train"),  # a missing confidence counts as 1
        ("6", "rain again and again today", "negative", 1.0, "train"),
        (
            "7",
            "Rain again and again today.",
            "negative",
            1.0,
            "test",
        ),  # the copy in the test split is the one that stays
        ("8", "one two three four five six seven", "positive", 1.0, "valid"),
        ("9", "RT @amy: one two three four five six", "positive", 1.0, "train"),  # shares a run of words with 8
        ("10", "parking is free", "neutral", 1.0, "test"),
        ("11", "Parking is free!", "positive", 0.5, "test"),  # copies that disagree leave the test split
        ("12", "a quiet place", "positive", 1.0, "test"),
        ("13", "closed on mondays", "neutral", 1.0, "test"),
        ("14", "too loud by far", "negative", 1.0, "valid"),
        ("15", "opens at nine", "neutral", 1.0, "valid"),
        ("16", "what a lovely walk", "positive", 1.0, "train"),
        ("17", "queue was long", "neutral", 1.0, "valid"),
        ("18", "queue was LONG", "negative", 0.8, "valid"),  # and the validation split
    ]
    return pd.DataFrame(rows, columns=["id", "text", "label", "confidence", "split"])


@pytest.fixture
def official(workspace: Path) -> Path:
    set_param(workspace, "fetch.csv.split", "split")
    return workspace


def test_copies_conflicts_and_leaks_are_dropped_by_the_rules(official: Path) -> None:
    splits = run(hand_written())
    found = {name: list(zip(rows["id"], rows["label"], strict=True)) for name, rows in splits.items()}
    assert found == {
        "test": [("7", "negative"), ("12", "positive"), ("13", "neutral")],
        "valid": [("8", "positive"), ("14", "negative"), ("15", "neutral")],
        "train": [("2", "negative"), ("4", "neutral"), ("16", "positive")],
    }


def test_what_was_dropped_is_counted_by_reason_and_adds_up(official: Path) -> None:
    run(hand_written())
    report = metrics()
    assert report == {
        "rows_in": 18,
        "rows_out": 9,
        "dropped": [
            {"reason": "copy of another row", "rows": 6},
            {"reason": "near-duplicate of a row in another official split", "rows": 1},
            {"reason": "copies disagree on the label (validation and test)", "rows": 2},
        ],
        "splits": [
            {"split": name, "rows": 3, "labels": [{"label": label, "rows": 1} for label in LABELS]} for name in SPLITS
        ],
        "test_ids": hashlib.sha256(b"12\n13\n7").hexdigest()[:16],
    }
    assert report["rows_in"] - report["rows_out"] == sum(part["rows"] for part in report["dropped"])


def test_a_prepared_row_has_its_key_its_raw_text_and_its_clean_text(official: Path) -> None:
    splits = run(hand_written())
    assert list(splits["train"].columns) == ["id", "key", "raw", "text", "label", "confidence"]
    assert splits["train"].fillna(-1.0).to_dict("records") == [
        {
            "id": "2",
            "key": "good morning everyone",
            "raw": "good morning, EVERYONE!",
            "text": "good morning, EVERYONE!",
            "label": "negative",
            "confidence": 0.9,
        },
        {
            "id": "4",
            "key": "the bridge is closed",
            "raw": "The bridge is closed",
            "text": "The bridge is closed",
            "label": "neutral",
            "confidence": -1.0,
        },
        {
            "id": "16",
            "key": "what a lovely walk",
            "raw": "what a lovely walk",
            "text": "what a lovely walk",
            "label": "positive",
            "confidence": 1.0,
        },
    ]


def test_rows_without_a_split_are_dealt_out_by_the_shares_with_each_label_alike(workspace: Path) -> None:
    splits = run()
    assert {name: len(rows) for name, rows in splits.items()} == {"test": 36, "valid": 24, "train": 180}
    for name, share in (("test", 12), ("valid", 8), ("train", 60)):
        assert splits[name]["label"].value_counts().to_dict() == dict.fromkeys(LABELS, share)
    assert sorted(pd.concat(splits.values())["id"]) == sorted(made_up_tweets(240)["id"])


def test_another_seed_deals_the_rows_out_otherwise(workspace: Path) -> None:
    before = ids(run())
    set_param(workspace, "prepare.seed", 1)
    prepare.main()
    after = {name: pd.read_parquet(f"data/prepared/{name}.parquet")["id"].tolist() for name in SPLITS}
    assert after != before
    assert {name: len(rows) for name, rows in after.items()} == {name: len(rows) for name, rows in before.items()}


def test_no_cleaning_param_moves_a_row_to_another_split_though_each_changes_texts(workspace: Path) -> None:
    rows = made_up_tweets(240)
    rows["text"] += TAIL
    before = run(rows)
    split_of = ids(before)
    for name, value in CLEANING.items():
        params = (workspace / "params.yaml").read_text()
        set_param(workspace, f"prepare.{name}", value)
        prepare.main()
        after = {split: pd.read_parquet(f"data/prepared/{split}.parquet") for split in SPLITS}
        assert ids(after) == split_of, name
        assert after["test"]["text"].tolist() != before["test"]["text"].tolist(), name
        (workspace / "params.yaml").write_text(params)
    for name, value in CLEANING.items():
        set_param(workspace, f"prepare.{name}", value)
    prepare.main()
    assert ids({split: pd.read_parquet(f"data/prepared/{split}.parquet") for split in SPLITS}) == split_of


def test_cleaning_removes_emoji_where_normalising_keeps_them(workspace: Path) -> None:
    set_param(workspace, "prepare.normalise.emoji", "keep")
    assert any("😀" in text for text in run()["train"]["text"])
    set_param(workspace, "prepare.clean.emoji", True)
    assert not any("😀" in text for text in run()["train"]["text"])


def test_no_group_of_near_duplicates_is_divided(workspace: Path) -> None:
    rows = made_up_tweets(120)
    retweets = rows.assign(id="r" + rows["id"], text="RT @them: " + rows["text"].str.split().str[:7].str.join(" "))
    splits = run(pd.concat([rows, retweets], ignore_index=True))
    where = {row_id: name for name, part in splits.items() for row_id in part["id"]}
    both = [row_id for row_id in rows["id"] if row_id in where and f"r{row_id}" in where]
    assert len(both) > 100  # the others have seven words: the retweet is a copy
    assert all(where[row_id] == where[f"r{row_id}"] for row_id in both)


def test_labels_are_merged_before_copies_are_compared(workspace: Path) -> None:
    rows = made_up_tweets(90, ["Very Bad", "Bad", "Good"])
    copy = rows.iloc[[0]].assign(id="copy", label="Bad")
    set_param(workspace, "prepare.merge_labels", [["Very Bad", "Bad"]])
    splits = run(pd.concat([rows, copy], ignore_index=True))
    assert {label for part in splits.values() for label in part["label"]} == {"Bad", "Good"}
    assert json.loads(Path("data/prepared/prepared.json").read_text())["labels"] == ["Bad", "Good"]
    assert [part["rows"] for part in metrics()["dropped"]] == [1, 0, 0]


def test_rows_of_labels_that_are_left_out_are_counted_and_change_no_other_row(workspace: Path) -> None:
    rows = made_up_tweets(240)
    alone = run(rows)
    odd = pd.DataFrame({"id": ["x", "y"], "text": ["who knows", rows["text"][0]], "label": "odd", "confidence": 1.0})
    set_param(workspace, "prepare.drop_labels", ["odd"])
    splits = run(pd.concat([rows, odd], ignore_index=True))
    for name in SPLITS:
        pd.testing.assert_frame_equal(splits[name], alone[name])
    assert metrics()["dropped"][0] == {"reason": "label left out (prepare.drop_labels)", "rows": 2}
    assert metrics()["rows_in"] == 242
    assert json.loads(Path("data/prepared/prepared.json").read_text())["labels"] == LABELS


def test_numbers_merge_as_the_labels_that_they_are(workspace: Path) -> None:
    """The labels of Sentiment140, where 2 is in the test file only."""
    set_param(workspace, "prepare.merge_labels", [[0, "negative"], [4, "positive"]])
    set_param(workspace, "prepare.drop_labels", [2])
    splits = run(made_up_tweets(240, ["0", "4", "2"]))
    assert {label for part in splits.values() for label in part["label"]} == {"negative", "positive"}
    assert metrics()["dropped"][0]["rows"] == 80


@pytest.mark.parametrize("variant", ["Positive", "ＰＯＳＩＴＩＶＥ", "posi tive", "positive\u200b"])
def test_labels_that_differ_only_in_how_they_are_written_are_named(workspace: Path, variant: str) -> None:
    rows = made_up_tweets(240)
    rows.loc[rows.index[rows["label"] == "positive"][:20], "label"] = variant
    with pytest.raises(UserError) as raised:
        run(rows)
    assert str(raised.value) == (
        f"labels that differ only in case, width or spacing: 'positive' (60 rows), {variant!r} (20 rows). To merge"
        f' them, add -S \'prepare.merge_labels=[["{variant}","positive"]]\'; to keep them apart, list all labels in'
        " fetch.csv.labels"
    )
    set_param(workspace, "prepare.merge_labels", [[variant, "positive"]])
    assert json.loads(json.dumps(metrics_of(run(rows)))) == {"negative": 80, "neutral": 80, "positive": 80}
    set_param(workspace, "prepare.merge_labels", [])
    set_param(workspace, "fetch.csv.labels", [*LABELS, variant])
    assert metrics_of(run(rows))[variant] == 20


def test_what_is_suggested_works_beside_what_is_set(workspace: Path) -> None:
    rows = made_up_tweets(240, ["don't", "good", "so-so"])
    rows.loc[:20, "label"] = rows.loc[:20, "label"].str.upper()
    set_param(workspace, "prepare.merge_labels", [["so-so", "GOOD"], ["SO-SO", "good"]])
    with pytest.raises(UserError) as raised:
        run(rows)
    [_, *words] = shlex.split(str(raised.value).partition(", add ")[2].partition("; to keep")[0])
    assert words == ['prepare.merge_labels=[["so-so","good"],["SO-SO","good"],["DON\'T","don\'t"],["GOOD","good"]]']
    apply_overrides("params.yaml", words)
    assert metrics_of(run(rows)) == {"don't": 80, "good": 160}


def metrics_of(splits: dict[str, pd.DataFrame]) -> dict[str, int]:
    """Return how many rows have each label."""
    return {str(label): int(count) for label, count in pd.concat(splits.values())["label"].value_counts().items()}


def test_a_label_that_needs_quotes_in_yaml_is_told_so() -> None:
    with pytest.raises(UserError, match=r"merge_labels: '31' is no label; .*; YAML reads 0x1F as 31: put it in"):
        prepare.choose(["0x1F", "1", "2"], {"31": "1"}, [])


def test_merged_labels_keep_the_order_of_the_labels() -> None:
    labels = ["Extremely Negative", "Negative", "Neutral", "Positive", "Extremely Positive"]
    merged = {"Extremely Negative": "Negative", "Extremely Positive": "Positive"}
    assert prepare.choose(labels, merged, []) == ["Negative", "Neutral", "Positive"]
    assert prepare.choose(labels, {}, []) == labels
    assert prepare.choose(labels, merged, ["Neutral"]) == ["Negative", "Positive"]


@pytest.mark.parametrize(
    ("merge_labels", "message"),
    [
        ([["a", "b"], ["b", "c"]], "'a' becomes 'b', and that 'c'; name for each label what it is in the end"),
        ([["a", "b"], ["b", "a"]], "'a' becomes 'b', and that 'a'; name for each label what it is in the end"),
        ([["a", "b"], ["a", "c"]], "'a' becomes 'b' and 'c'; it needs one of them"),
    ],
)
def test_merges_that_hang_together_are_refused(merge_labels: list[list[str]], message: str) -> None:
    with pytest.raises(UserError) as raised:
        prepare.pairs(merge_labels)
    assert str(raised.value) == f"prepare.merge_labels: {message}"


def test_merges_may_be_named_twice_and_a_label_stay() -> None:
    assert prepare.pairs([["a", "b"], ["a", "b"], ["b", "b"], ["c", "b"]]) == {"a": "b", "b": "b", "c": "b"}


BOTH = "prepare.merge_labels and prepare.drop_labels"


@pytest.mark.parametrize(
    ("merged", "dropped", "message"),
    [
        ({"Odd": "Bad"}, [], "prepare.merge_labels: 'Odd' is no label; it needs one of 'Bad', 'Good'"),
        ({}, ["Odd"], "prepare.drop_labels: 'Odd' is no label; it needs one of 'Bad', 'Good'"),
        (
            {"Bad": "Good"},
            [],
            "prepare.merge_labels and prepare.drop_labels leave one label, 'Good'; it needs two or more",
        ),
        ({}, ["Bad"], "prepare.merge_labels and prepare.drop_labels leave one label, 'Good'; it needs two or more"),
        ({}, ["Bad", "Good"], "prepare.merge_labels and prepare.drop_labels leave no label; it needs two or more"),
    ],
)
def test_a_choice_of_labels_that_cannot_be_is_refused(merged: dict[str, str], dropped: list[str], message: str) -> None:
    with pytest.raises(UserError) as raised:
        prepare.choose(["Bad", "Good"], merged, dropped)
    assert str(raised.value) == message


def test_broken_encodings_are_repaired_only_where_the_source_has_them(workspace: Path) -> None:
    rows = made_up_tweets(240)
    rows.loc[0, "text"] = "don\u00e4\u00f3\u00bbt go there"
    fetched = run(rows)
    assert "donäó»t go there" in pd.concat(fetched.values())["raw"].tolist()
    facts = json.loads(Path("data/raw/source.json").read_text())
    Path("data/raw/source.json").write_text(json.dumps(facts | {"broken_encoding": True}))
    prepare.main()
    raw = pd.concat([pd.read_parquet(f"data/prepared/{name}.parquet") for name in SPLITS])["raw"].tolist()
    assert "don’t go there" in raw


def test_the_facts_that_later_stages_need_travel_with_the_rows(workspace: Path) -> None:
    run()
    assert json.loads(Path("data/prepared/prepared.json").read_text()) == {
        "labels": LABELS,
        "cleaning": {
            "normalise": {
                "encoding": True,
                "html": True,
                "urls": "token",
                "mentions": "token",
                "hashtags": "keep",
                "emoji": "name",
                "whitespace": True,
            },
            "clean": {
                "lowercase": False,
                "numbers": False,
                "punctuation": False,
                "stopwords": False,
                "emoji": False,
                "lemmatise": False,
                "stem": False,
            },
        },
    }


def test_the_plots_share_out_each_split_and_hold_no_text(workspace: Path) -> None:
    splits = run()
    labels = json.loads(Path("plots/prepare/labels.json").read_text())
    lengths = json.loads(Path("plots/prepare/lengths.json").read_text())
    assert [(point["group"], point["label"]) for point in labels] == [(s, label) for s in SPLITS for label in LABELS]
    assert [(point["group"], point["words"]) for point in lengths] == [(s, n) for s in SPLITS for n in range(61)]
    for points in (labels, lengths):
        for name in SPLITS:
            assert sum(p["percent"] for p in points if p["group"] == name) == pytest.approx(100, abs=0.001)
    words = [len(text.split()) for text in splits["test"]["text"]]
    share = {point["words"]: point["percent"] for point in lengths if point["group"] == "test"}
    assert share[10] == pytest.approx(100 * words.count(10) / len(words), abs=0.001)
    published = "".join(path.read_text() for path in [*Path("plots/prepare").iterdir(), Path("metrics/prepare.json")])
    assert not any(word in published for word in ("airport", "terrible", "someone"))


def test_the_longest_tweets_share_the_last_point_of_the_plot(workspace: Path) -> None:
    rows = made_up_tweets(240)
    rows["text"] = [f"{text} " + " ".join(f"w{n}x{m}" for m in range(70)) for n, text in enumerate(rows["text"])]
    run(rows)
    lengths = json.loads(Path("plots/prepare/lengths.json").read_text())
    assert {point["words"]: point["percent"] for point in lengths if point["percent"]} == {60: 100.0}


@pytest.mark.parametrize(
    ("label", "rows", "message"),
    [
        (
            "odd",
            1,
            "labels with too few rows for a row in each split: 'odd' (1 row, none in test and valid); add rows, merge",
        ),
        (
            "odd",
            2,
            "labels with too few rows for a row in each split: 'odd' (2 rows, none in test and valid); add rows, merge",
        ),
    ],
)
def test_a_label_with_too_few_rows_for_every_split_is_refused(
    workspace: Path, label: str, rows: int, message: str
) -> None:
    few = pd.DataFrame({"id": [f"f{n}" for n in range(rows)], "text": [f"strange {n}" for n in range(rows)]})
    with pytest.raises(UserError) as raised:
        run(pd.concat([made_up_tweets(240), few.assign(label=label)], ignore_index=True))
    assert str(raised.value).startswith(message)


def test_all_labels_with_too_few_rows_are_named_at_once(workspace: Path) -> None:
    few = pd.DataFrame({"id": ["f0", "f1", "f2"], "text": ["strange", "and odd", "so rare"], "label": ["a", "b", "b"]})
    rows = pd.concat([made_up_tweets(240), few], ignore_index=True)
    with pytest.raises(UserError) as raised:
        run(rows)
    assert str(raised.value) == (
        "labels with too few rows for a row in each split: 'a' (1 row, none in test and valid), 'b' (2 rows, none in"
        " test and valid); add rows, merge them (prepare.merge_labels), or leave them out:"
        ' -S \'prepare.drop_labels=["a","b"]\''
    )
    set_param(workspace, "prepare.drop_labels", ["a"])
    with pytest.raises(UserError, match=r"-S 'prepare\.drop_labels=\[\"a\",\"b\"\]'$"):
        run(rows)
    set_param(workspace, "prepare.drop_labels", ["a", "b"])
    run(rows)
    assert metrics()["dropped"][0]["rows"] == 3


@pytest.mark.parametrize("names", [["test"], ["test", "valid"]])
def test_official_splits_without_rows_to_train_on_are_refused(official: Path, names: list[str]) -> None:
    rows = made_up_tweets(60)
    rows["split"] = [names[number // 3 % len(names)] for number in range(60)]
    with pytest.raises(UserError, match=r"^no row is left for the (valid|train) split; it needs rows of each label$"):
        run(rows)


def test_the_same_rows_give_the_same_bytes(workspace: Path) -> None:
    def written() -> dict[Path, bytes]:
        return {path: path.read_bytes() for folder in ("data/prepared", "plots") for path in Path(folder).rglob("*.*")}

    run()
    before = written()
    prepare.main()
    assert written() == before
    assert len(before) == 6


def bytes_of(*folders: str) -> dict[Path, bytes]:
    return {path: path.read_bytes() for folder in folders for path in Path(folder).rglob("*.*")}


def test_pieces_of_any_size_give_the_same_bytes(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = made_up_tweets(240)
    copies = rows.iloc[::5].assign(id="c" + rows["id"], label="neutral")  # each in another piece than its original
    retweets = rows.iloc[::7].assign(id="r" + rows["id"], text="a" + rows["text"] + " or so they said")
    run(pd.concat([rows, copies, retweets], ignore_index=True))
    assert all(part["rows"] for part in metrics()["dropped"][::2])
    whole = bytes_of("data/prepared", "plots", "metrics")
    for size in (7, 100):
        monkeypatch.setattr(pieces, "PIECE", size)
        prepare.main()
        assert bytes_of("data/prepared", "plots", "metrics") == whole, size


def test_a_group_is_dealt_out_by_its_smallest_key_wherever_that_stands(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = made_up_tweets(60)
    quotes = rows.assign(id="q" + rows["id"], text="z quote: " + rows["text"])
    smallest = rows.assign(id="s" + rows["id"], text="0 " + rows["text"])
    monkeypatch.setattr(pieces, "PIECE", 50)
    splits = run(pd.concat([rows, smallest, quotes], ignore_index=True))
    for label in LABELS:  # 20 groups of three rows: 9 of 60 rows for the test split
        of_label = smallest[smallest["label"] == label]
        in_order = sorted(of_label["text"], key=lambda text: order(key(text), 0))
        test = splits["test"]
        assert sorted(test.loc[test["id"].isin(of_label["id"]), "raw"]) == sorted(in_order[:3])


def test_killed_halfway_it_leaves_the_old_outputs(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    outputs = ("data/prepared", "plots", "metrics")
    before = bytes_of(*outputs)
    set_param(workspace, "prepare.clean.punctuation", True)
    kill_stage("prepare", at="hash_of_ids")
    assert list(Path("data/.prepared.new").glob("tmp*/0.feather"))  # it was at work
    assert bytes_of(*outputs) == before
    prepare.main()
    assert not Path("data/.prepared.new").exists()
    assert bytes_of(*outputs) != before


def test_the_stage_reports_what_it_dropped_and_shows_three_rows(
    official: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(hand_written())
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("prepare: 18 rows in, 9 out")
    assert lines[start + 1 : start + 5] == [
        "  dropped 6: copy of another row",
        "  dropped 1: near-duplicate of a row in another official split",
        "  dropped 2: copies disagree on the label (validation and test)",
        "  negative: good morning, EVERYONE!",
    ]
