"""The benchmark of prepare and featurize: what it compares is equal, and what it grows is distinct. No timings."""

import json
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import data, row_by_row
from stages import featurize, fetch, prepare
from tests.support.made_up import made_up_tweets, set_param
from tweets.data import duplicates
from tweets.errors import UserError


@pytest.fixture
def fetched(workspace: Path) -> Path:
    """A workspace with raw rows: copies that disagree, near-duplicates, and a row without confidence."""
    rows = made_up_tweets(240)
    rows.loc[::7, "confidence"] = None
    copies = rows.iloc[::5].assign(id="c" + rows["id"], label="neutral")
    quotes = rows.iloc[::3].assign(id="q" + rows["id"], text="so true: " + rows["text"])
    pd.concat([rows, copies, quotes], ignore_index=True).to_csv("tweets.csv", index=False)
    set_param(workspace, "prepare.test", 0.3)
    fetch.main()
    return workspace


def both_ways(fetched: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Return folders in which the stages and the comparator have run, in this process."""
    folders, rows = data.workspace(fetched / "both", 1)
    assert rows == 240 + 48 + 80
    steps = {data.OURS: (prepare.main, featurize.main), data.OTHER: (row_by_row.prepare, row_by_row.featurize)}
    for way, folder in folders.items():
        monkeypatch.chdir(folder)
        for step in steps[way]:
            step()
    monkeypatch.chdir(fetched)
    return folders


def test_row_by_row_gives_the_same_rows_and_arrays(fetched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = both_ways(fetched, monkeypatch)
    report = json.loads((folders[data.OURS] / "metrics/prepare.json").read_text())
    assert 0 not in [part["rows"] for part in report["dropped"]][::2]
    data.check_equal(folders)
    table = folders[data.OTHER] / "data/prepared/train.parquet"
    pd.read_parquet(table).iloc[1:].to_parquet(table, index=False)
    with pytest.raises(UserError, match="train: in pieces and row by row prepare different rows"):
        data.check_equal(folders)


def test_grown_rows_are_distinct_and_no_near_duplicates(fetched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "BLOCK", 16)
    raw = Path("data/raw/rows.parquet")
    real = pd.read_parquet(raw)
    assert data.grow(raw, Path("grown.parquet"), 3) == 3 * len(real)
    grown = pd.read_parquet("grown.parquet")
    pd.testing.assert_frame_equal(grown.iloc[: len(real)], real)
    assert len(set(grown["id"])) == len(grown)
    words = [[len(text.split()) for text in rows["text"]] for rows in (real, grown)]
    assert words[1] == words[0] * 3
    keys = [duplicates.key(text) for text in grown["text"]]
    groups = duplicates.groups([duplicates.runs(keys)])
    of_copy = [set(groups[start : start + len(real)]) for start in range(0, len(grown), len(real))]
    assert not of_copy[0] & of_copy[1]
    assert not of_copy[1] & of_copy[2]
    assert [len(found) for found in of_copy] == [len(of_copy[0])] * 3


def test_a_size_is_measured_in_processes_of_their_own(fetched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = data.measure(fetched / "measured", 2, 0)
    assert found["rows"] == 2 * 368
    assert list(found["rows_a_second"]) == ["prepare", "featurize", "prepare and featurize"]
    for part in ("megabytes", "processor_seconds"):
        assert list(found[part]) == ["prepare, in pieces", "featurize, in pieces"]
        assert min(found[part].values()) > 0
    assert "| in pieces |" in capsys.readouterr().out


def test_a_stage_that_fails_is_told_with_its_error(fetched: Path) -> None:
    Path("params.yaml").write_text("prepare: 1\n")
    with pytest.raises(UserError, match=r"(?s)stages.prepare.main: exit code 1: .*params.yaml"):
        data.run(fetched, "stages.prepare", "main")
