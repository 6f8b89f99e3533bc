"""The stage fetch: what it writes, its checksum, and what it does about empty rows."""

import json
from pathlib import Path

import pandas as pd
import pytest

from stages import fetch
from tests.support.made_up import made_up_tweets, set_param
from tweets import files
from tweets.errors import UserError


def source() -> dict[str, object]:
    facts: dict[str, object] = json.loads(Path("data/raw/source.json").read_text())
    return facts


def test_the_rows_are_written_as_the_source_has_them(workspace: Path) -> None:
    fetch.main()
    rows = pd.read_parquet("data/raw/rows.parquet")
    assert list(rows.columns) == ["id", "text", "label", "confidence", "split"]
    expected = made_up_tweets(240)
    for column in ("id", "text", "label", "confidence"):
        assert rows[column].tolist() == expected[column].tolist()
    assert rows["split"].isna().all()
    assert source() == {
        "source": "csv",
        "labels": ["negative", "neutral", "positive"],
        "sha256": {"tweets.csv": files.sha256(Path("tweets.csv"))},
        "dropped_empty": 0,
        "broken_encoding": False,
        "labels_are_given": False,
        "rows": {"negative": 80, "neutral": 80, "positive": 80},
    }


def test_the_same_source_gives_the_same_bytes(workspace: Path) -> None:
    fetch.main()
    before = [Path("data/raw", name).read_bytes() for name in ("rows.parquet", "source.json")]
    fetch.main()
    assert [Path("data/raw", name).read_bytes() for name in ("rows.parquet", "source.json")] == before


def test_the_stage_reports_its_rows_and_shows_three(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetch.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "fetch: 240 rows from csv, 0 empty rows dropped"
    assert lines[1:4] == ["  'negative': 80 rows", "  'neutral': 80 rows", "  'positive': 80 rows"]
    assert [line.split(":")[0] for line in lines[4:]] == ["  negative", "  neutral", "  positive"]


def test_crowdflower_is_the_default_source_and_its_encoding_needs_repair(workspace: Path) -> None:
    set_param(workspace, "fetch.source", "crowdflower")
    set_param(workspace, "fetch.path", "data/external")
    fetch.main()
    assert len(pd.read_parquet("data/raw/rows.parquet")) == 38_158
    assert source()["broken_encoding"] is True


def test_the_covid19_files_are_read_from_the_folder_that_is_named(workspace: Path) -> None:
    folder = workspace / "covid"
    folder.mkdir()
    for split, number in (("train", 10), ("test", 1)):
        frame = pd.DataFrame(
            {
                "UserName": [number, number + 1],
                "OriginalTweet": [f"{split} one", f"{split} two"],
                "Sentiment": ["Neutral", "Positive"],
            }
        )
        frame.to_csv(folder / f"Corona_NLP_{split}.csv", index=False)
    set_param(workspace, "fetch.source", "covid19")
    set_param(workspace, "fetch.path", "covid")
    fetch.main()
    rows = pd.read_parquet("data/raw/rows.parquet")
    assert rows["split"].tolist() == ["train", "train", "test", "test"]
    assert rows["id"].tolist() == ["10", "11", "1", "2"]
    assert source()["source"] == "covid19"


def test_a_checksum_that_fits_passes(workspace: Path) -> None:
    set_param(workspace, "fetch.sha256", files.sha256(workspace / "tweets.csv"))
    fetch.main()
    assert Path("data/raw/rows.parquet").is_file()


def test_a_checksum_of_several_files_is_refused(workspace: Path) -> None:
    with pytest.raises(UserError, match=r"fetch\.sha256 is set and the source has 2 files; it needs one file"):
        fetch.check_hash({"train.csv": "1", "test.csv": "2"}, "0" * 64)


def test_empty_rows_are_dropped_on_request_and_counted(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = made_up_tweets(240)
    rows.loc[3, "text"] = None
    rows.loc[4, "text"] = "  "
    rows.loc[5, "label"] = None
    rows.loc[6, "label"] = " "
    rows.to_csv("tweets.csv", index=False)
    set_param(workspace, "fetch.empty", "drop")
    fetch.main()
    found = pd.read_parquet("data/raw/rows.parquet")
    assert found["id"].tolist() == rows["id"].drop([3, 4, 5, 6]).tolist()
    assert source()["dropped_empty"] == 4
    assert source()["labels"] == ["negative", "neutral", "positive"]
    assert "fetch: 236 rows from csv, 4 empty rows dropped" in capsys.readouterr().out


def test_an_error_after_empty_rows_were_dropped_names_the_row_of_the_file(workspace: Path) -> None:
    rows = made_up_tweets(240)
    rows.loc[3, "text"] = None
    rows.loc[9, "text"] = "x" * 10_001
    rows.to_csv("tweets.csv", index=False)
    set_param(workspace, "fetch.empty", "drop")
    with pytest.raises(UserError, match=r"has over 10000 characters \(fetch\.max_chars\) in tweets\.csv, line 11$"):
        fetch.main()


def test_an_id_that_comes_again_is_named_with_the_row_of_the_file(workspace: Path) -> None:
    rows = made_up_tweets(240)
    rows.loc[3, "text"] = None
    rows.loc[9, "id"] = "t8"
    rows.to_csv("tweets.csv", index=False)
    set_param(workspace, "fetch.empty", "drop")
    with pytest.raises(UserError, match=r"id 't8' comes again in tweets\.csv, line 11; ids must differ"):
        fetch.main()
