"""`make drift`: a verdict on a file of texts or on what a service has kept, and Evidently's report."""

import contextlib
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from serve import collection, models
from serve.collection import Collection
from serve.metrics import Metrics
from serve.models import Served
from serve.monitoring import Predicted, rows_of
from serve.settings import ServiceSettings
from tests.support.clones import run
from tools import drift as tool
from tweets.errors import UserError
from tweets.evaluation import drift_statistics

pytestmark = pytest.mark.xdist_group("drift")  # they share a clone


@pytest.fixture(scope="module")
def folder(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reproduced workspace, to write reports into."""
    return shutil.copytree(reproduced, tmp_path_factory.mktemp("drift") / "clone")


@pytest.fixture
def served(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Served:
    monkeypatch.chdir(folder)
    return models.load(ServiceSettings(threads=1))


def texts(folder: Path) -> list[str]:
    rows: list[str] = pd.read_parquet(folder / "data/prepared/test.parquet")["raw"].tolist()
    return rows


def told(folder: Path, data: Path) -> Any:
    return run(folder, "python", "-m", "tools.drift", str(data), check=False)


def test_drift_is_told_by_name_and_by_the_exit_status(folder: Path, tmp_path: Path) -> None:
    pd.DataFrame({"text": [text.upper() for text in texts(folder)]}).to_csv(tmp_path / "upper.csv", index=False)
    done = told(folder, tmp_path / "upper.csv")
    assert done.returncode == tool.DRIFT == 3, done.stderr
    [line] = done.stdout.splitlines()
    assert line == "drift in capitals: 3 of 3 windows alarm; drift/report.html shows more"
    report = (folder / tool.REPORT).read_text()
    for column in ("label", *drift_statistics.NUMBERS, "embedding, axis 1"):
        assert column in report
    assert "<script src=" not in report  # it opens without a network


def test_validation_rows_do_not_drift(folder: Path, served: Served, tmp_path: Path) -> None:
    rows = pd.read_parquet(folder / "data/prepared/valid.parquet")["raw"].tolist()
    assert tool.alarming(served, tool.describe(served, rows)) == [[], []]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([[]], (False, "no drift: 0 of 1 windows alarm")),
        ([["length"]], (True, "drift in length: 1 of 1 windows alarm")),
        ([["length"], *[[]] * 2], (False, "no drift: 1 of 3 windows alarm")),
        ([["length"], ["unknown", "length"], []], (True, "drift in length, unknown: 2 of 3 windows alarm")),
        ([*[["length"]] * 2, *[[]] * 38], (False, "no drift: 2 of 40 windows alarm")),
    ],
)
def test_what_may_be_chance_is_no_drift(found: list[list[str]], expected: tuple[bool, str]) -> None:
    assert tool.verdict(found, 0.005) == expected


@pytest.mark.parametrize("windows", [1, 2, 3, 10, 19, 100, 1000])
def test_no_chance_makes_drift_of_one_file_in_a_hundred(windows: int) -> None:
    def drifts(number: int) -> bool:
        return tool.verdict([["length"]] * number + [[]] * (windows - number), 0.005)[0]

    fewest = next(filter(drifts, range(windows + 1)))
    assert binom.sf(fewest - 1, windows, 0.005) < 0.01 <= binom.sf(fewest - 2, windows, 0.005)


def test_no_text_is_left_out(served: Served) -> None:
    size = served.reference.window
    upper = ["WHAT A GREAT DAY"] * size
    seen = tool.describe(served, ["what a great day"] * size + upper[1:])
    assert ["capitals" in found for found in tool.alarming(served, seen)] == [False, True]


def kept(served: Served, path: Path, said: list[str]) -> Path:
    """Keep the predictions for some texts as a service does; return the file."""
    outputs = served.predict(said)
    predicted = Predicted(served, collection.Asked("r"), said, outputs, 0.0)
    rows = rows_of(predicted, drift_statistics.describe(said, outputs), keeps_text=False)
    collected = Collection(path, max_bytes=2**24, max_days=1, metrics=Metrics(waiting=lambda: 0))
    collected.write(rows, 0)
    collected.close()
    return path / collection.FILE


def test_what_a_service_has_kept_is_what_the_texts_are(folder: Path, served: Served, tmp_path: Path) -> None:
    said = texts(folder)
    found, expected = tool.collected(served, kept(served, tmp_path, said)), tool.describe(served, said)
    for name, values in vars(expected).items():
        np.testing.assert_allclose(getattr(found, name), values, atol=0.01, err_msg=name)


def test_predictions_of_another_version_are_refused_by_name(served: Served, folder: Path, tmp_path: Path) -> None:
    path = kept(served, tmp_path, ["a"] * 20)
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE predictions SET version = 'other'")
    with pytest.raises(UserError, match=f"no predictions of version {served.version}, .* it has those of other"):
        tool.collected(served, path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("few.csv", "text\na\n", r"few.csv: 1 texts; it needs 12, as many as a window of the reference has"),
        ("other.csv", "tweet\na\n", r"other.csv: no column 'text'; it has: 'tweet' \(--column\)"),
        ("nothing.sqlite", "no database", "nothing.sqlite: not what a service keeps: file is not a database"),
        ("missing.sqlite", None, "missing.sqlite: not what a service keeps: unable to open database file"),
        ("missing.csv", None, "missing.csv"),
    ],
)
def test_bad_input_is_told_in_one_line(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    monkeypatch.setattr("sys.argv", ["drift", str(path)])
    with pytest.raises(UserError, match=message):
        tool.main()
