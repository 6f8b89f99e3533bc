"""Anyone's tables, of every form and place, as raw rows."""

import bz2
import functools
import gzip
import http.server
import json
import lzma
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pytest

from tests.support.tables import TABLE, columns
from tweets import files, params
from tweets.data import own_tables, raw_rows
from tweets.errors import UserError

ROWS = [("0", "a fine day", "good"), ("1", "late again", "bad"), ("2", "café, open", "good")]


def rows_at(path: str | Path, **changes: Any) -> pd.DataFrame:
    return own_tables.table(str(path), columns(**changes)).rows


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


# Their form


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".CSV", ".jsonl", ".json"])
def test_a_table_gives_the_same_rows_in_every_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"tweets{suffix}"
    if suffix == ".parquet":
        TABLE.to_parquet(path)
    elif suffix in (".jsonl", ".json"):
        TABLE.to_json(path, orient="records", lines=suffix == ".jsonl")
    else:
        TABLE.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    read = own_tables.table(str(path), columns())
    rows, labels, hashes = read.rows, read.labels, read.hashes
    assert brief(rows) == ROWS
    assert labels == ["bad", "good"]
    assert hashes == {path.name: files.sha256(path)}
    assert list(rows.columns) == raw_rows.COLUMNS
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
        "tweets.csv: line 4, byte 46 is not utf-8: save it as that, or set fetch.csv.encoding=latin-1"
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
    read = own_tables.table(str(tmp_path), columns())
    rows, labels, hashes = read.rows, read.labels, read.hashes
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
        f"t.csv: split {shown} in line 3; it needs train, valid, validation, val, dev, test"
    )


def test_labels_that_are_given_keep_their_order(tmp_path: Path) -> None:
    TABLE.to_csv(tmp_path / "t.csv", index=False)
    assert own_tables.table(str(tmp_path / "t.csv"), columns(labels=["good", "odd", "bad"])).labels == [
        "good",
        "odd",
        "bad",
    ]


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
        "t.csv: confidence 'high' in lines 3, 4, 5 and 2 more; it needs a number in [0, 1]"
    )


def test_a_row_with_more_fields_than_the_header_is_refused_and_not_shifted(tmp_path: Path) -> None:
    for rows in ("hello, world,good\nhello, you,bad\n", "hello, world,good\nhello,bad\n"):
        (tmp_path / "t.csv").write_text(f"text,label\n{rows}")
        assert refusal(tmp_path / "t.csv").endswith(
            "t.csv: line 2 has 3 fields, the header has 2; put quotes around a text that holds ','"
        )


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8", newline="")
    return path


# Quotes and lines


def test_quotes_in_a_tsv_file_are_letters(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", 'text\tlabel\n"never closed\ta\nfine\tb\n"so" they said\ta\n"all of it"\tb\n')
    assert brief(rows_at(path)) == [
        ("0", '"never closed', "a"),
        ("1", "fine", "b"),
        ("2", '"so" they said', "a"),
        ("3", '"all of it"', "b"),
    ]


def test_a_tsv_file_that_was_written_with_quotes_is_read_so_when_told_or_by_its_header(tmp_path: Path) -> None:
    texts = pd.DataFrame({"text": ['with a\ttab, a "quote"', "and a\nline"], "label": ["a", "b"]})
    texts.to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    assert refusal(tmp_path / "t.tsv").endswith(
        "t.tsv: line 2 has 3 fields, the header has 2; if quotes hide separators or line breaks in this file:"
        " fetch.csv.quoting=quoted"
    )
    assert rows_at(tmp_path / "t.tsv", quoting="quoted")["text"].tolist() == texts["text"].tolist()
    texts.to_csv(tmp_path / "all.tsv", sep="\t", index=False, quoting=1)
    assert rows_at(tmp_path / "all.tsv")["text"].tolist() == texts["text"].tolist()


def test_doubled_quotes_in_a_tsv_file_are_asked_about(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", 'text\tlabel\n"he said ""no"""\ta\nfine\tb\n')
    assert refusal(path) == (
        f"{path}: line 2 has a field in quotes, with doubled quotes in it: if the quotes are not part of the"
        " text: fetch.csv.quoting=quoted; if they are: fetch.csv.quoting=plain"
    )
    assert rows_at(path, quoting="plain")["text"].tolist() == ['"he said ""no"""', "fine"]
    assert rows_at(path, quoting="quoted")["text"].tolist() == ['he said "no"', "fine"]


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ('"Great" they said,a\nfine,b\n', "line 2"),
        ('fine,a\n"never closed,b\nfine,a\n"this neither,b\n', "lines 3 to 5"),
        ('fine,a\n"never closed,b\nfine,a\n', "lines 3 to 4"),
        ('"with \\"escapes\\" in it",a\nfine,b\n', "line 2"),
    ],
)
def test_quotes_that_do_not_match_merge_no_rows(tmp_path: Path, content: str, lines: str) -> None:
    path = write(tmp_path / "t.csv", f"text,label\n{content}")
    assert refusal(path) == (
        f"{path}: the quotes in {lines} do not match: a field in quotes ends with one, and doubles those in it."
        " If quotes are part of the texts: fetch.csv.quoting=plain"
    )
    assert len(rows_at(path, quoting="plain")) == content.count("\n")


@pytest.mark.parametrize(
    ("content", "line", "rows"),
    [
        ('text,label\n"never closed,a\nfine,b\n so he said",a\nfine,b\n', 2, 4),
        ('id,text,label\n1,"quote start,neg\n2,foo bar",pos\n3,x,pos\n4,y,neg\n', 2, 4),
        ('id,place,text,label\n0,d,x,pos\n1,"NYC,a,neg\n2,x,b,pos\n3,LA",c,pos\n4,y,d,neg\n', 3, 5),
        ('label,text\rneg,"open\rpos,two\rneg,end"\rpos,x\r', 2, 4),
    ],
)
def test_a_field_that_holds_whole_rows_is_refused_unless_told(
    tmp_path: Path, content: str, line: int, rows: int
) -> None:
    """Two fields with one quote each: RFC 4180 makes one field of all between them."""
    path = write(tmp_path / "t.csv", content)
    message = refusal(path)
    assert message.startswith(f"{path}: the quotes in line {line} open a field that holds whole rows, from ")
    assert message.endswith(
        " on; close them, or, if quotes are part of the texts: fetch.csv.quoting=plain. If the field is as it should"
        " be: fetch.csv.quoting=quoted"
    )
    assert len(rows_at(path, quoting="quoted")) < rows
    assert len(rows_at(path, quoting="plain")) == rows


@pytest.mark.parametrize(
    "content",
    [
        'label,text\nneutral,"My mood\nneutral, I guess\nbye"\npos,x\n',
        'text,label\n"scores:\n3,1\n2,0",1\nx,0\n',
        'id,text,label\n1,"Hello\nworld, yes, no",a\n2,x,b\n',
        'text,label\n"well, a\nb",a\nx,b\n',
    ],
)
def test_lines_of_a_text_that_only_look_like_rows_are_taken(tmp_path: Path, content: str) -> None:
    assert len(rows_at(write(tmp_path / "t.csv", content))) == 2


def test_a_text_of_several_lines_is_one_text(tmp_path: Path) -> None:
    texts = ["one,\ntwo, three\n\nfour", "so, a\nb", "x"]
    pd.DataFrame({"text": texts, "label": ["a", "b", "a"]}).to_csv(tmp_path / "t.csv", index=False)
    assert rows_at(tmp_path / "t.csv")["text"].tolist() == texts


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\none\n", "line 2 has 1 field, the header has 2; put quotes around a text that holds a line break"),
        ("text,label\none,a\n\n\ntwo,b,\n", "line 5 has 3 fields, the header has 2; put quotes around a text"),
        ("text,text,label\na,b,c\n", "column 'text' is in the header twice; rename one"),
        ("", "is empty; it needs a line with the names of the columns, and rows"),
    ],
)
def test_a_table_that_is_not_as_its_header_says_is_refused(tmp_path: Path, content: str, message: str) -> None:
    assert message in refusal(write(tmp_path / "t.csv", content))


def test_blank_lines_are_left_out_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "text,label\none,a\n\ntwo,b\n\n")
    read = own_tables.table(str(path), columns())
    assert brief(read.rows) == [("0", "one", "a"), ("1", "two", "b")]
    assert read.notes == ["t.csv: 2 blank lines left out"]
    assert read.places.at([1]) == "t.csv, line 4"


# Columns and labels


def test_labels_lose_the_spaces_around_them(tmp_path: Path) -> None:
    write(tmp_path / "t.csv", "text,label\none,good \ntwo, good\nthree,\u00a0bad\nfour, \n")
    read = own_tables.table(str(tmp_path / "t.csv"), columns())
    assert read.rows["label"].fillna("none").tolist() == ["good", "good", "bad", "none"]
    assert read.labels == ["bad", "good"]


def test_a_file_without_a_header_gets_names(tmp_path: Path) -> None:
    """As the files of Sentiment140 are."""
    rows = (
        '"0","1467810369","Mon Apr 06 22:19:45 PDT 2009","NO_QUERY","someone","@you - Aww"\n"4","2","x","y","z","ok"\n'
    )
    path = write(tmp_path / "t.csv", rows)
    assert refusal(path, label="polarity") == (
        "t.csv: no column 'text', 'polarity'; it has: '0', '1467810369', 'Mon Apr 06 22:19:45 PDT 2009', 'NO_QUERY',"
        " 'someone', '@you - Aww'; if this is its first row, name the columns in fetch.csv.names"
    )
    names = ["polarity", "number", "date", "query", "user", "text"]
    assert brief(rows_at(path, label="polarity", id="number", names=names)) == [
        ("1467810369", "@you - Aww", "0"),
        ("2", "ok", "4"),
    ]
    assert "line 1 has 6 fields, 2 columns are named" in refusal(path, names=["label", "text"])


@pytest.mark.parametrize(("separator", "typed"), [(";", "';'"), ("|", "'|'"), ("\t", "tab")])
def test_another_separator_is_suspected_and_read_when_it_is_named(tmp_path: Path, separator: str, typed: str) -> None:
    pd.DataFrame({"text": ["one", "two"], "label": ["a", "b"]}).to_csv(tmp_path / "t.csv", index=False, sep=separator)
    assert refusal(tmp_path / "t.csv").endswith(f'is its separator another? -S "fetch.csv.separator={typed}"')
    assert brief(rows_at(tmp_path / "t.csv", separator=typed.strip("'"))) == [("0", "one", "a"), ("1", "two", "b")]


def test_names_with_spaces_are_shown_in_quotes(tmp_path: Path) -> None:
    write(tmp_path / "t.csv", "text, label\none,a\n")
    assert refusal(tmp_path / "t.csv") == "t.csv: no column 'label'; it has: 'text', ' label'; name yours in fetch.csv"
    assert brief(rows_at(tmp_path / "t.csv", label=" label")) == [("0", "one", "a")]


# JSON


def test_values_of_json_are_told_from_texts(tmp_path: Path) -> None:
    lines = [{"text": "007", "label": 1}, {"text": "é\u2028", "label": True}, {"label": None, "text": "x", "more": [1]}]
    lines.append({"text": float("nan"), "label": float("nan")})
    content = "\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    read = own_tables.table(str(write(tmp_path / "t.jsonl", content)), columns())
    assert read.rows[["text", "label"]].fillna("none").to_numpy().tolist() == [
        ["007", "1"],
        ["é\u2028", "true"],
        ["x", "none"],
        ["none", "none"],
    ]
    assert read.places.at([1]) == "t.jsonl, line 3"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a", "label": "b"}\n\n{"text": \n', "line 3: not JSON: "),
        ('["text"]', "row 1 is no JSON object; each row needs one, with the columns as its keys"),
        ('{"text": "a", "label": "b"}\n3\n', "line 2 is no JSON object"),
        ("[", "not JSON: "),
        (" \n", "is empty; it needs a line of JSON for each row, or a list of objects"),
        (
            '{"text": {"0": "a", "1": "b"}, "label": {"0": "x", "1": "y"}}',
            "is one object of columns; write an",
        ),
        ('{"data": [{"text": "a"}]}', "no column 'text', 'label'; it has: 'data'; name yours in fetch.csv"),
    ],
)
def test_json_that_is_no_table_is_refused(tmp_path: Path, content: str, message: str) -> None:
    assert message in refusal(write(tmp_path / "t.json", content))


# Names and folders


@pytest.mark.parametrize("name", ["t.csv.gz", "T.CSV.GZ", "t.jsonl.gz", "t.csv.bz2", "t.csv.xz", "t.zip", "t.csv.zip"])
def test_a_compressed_table_is_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("folder/t.csv", TABLE.to_csv(index=False))
            archive.writestr("__MACOSX/folder/._t.csv", b"\0\5\26\7")
            archive.writestr("README.md", "not a table")
    elif "jsonl" in name:
        path.write_bytes(gzip.compress(TABLE.to_json(orient="records", lines=True).encode()))
    else:
        end = name.lower().rsplit(".", 1)[1]
        content = TABLE.to_csv(index=False).encode()
        path.write_bytes({"gz": gzip, "bz2": bz2, "xz": lzma}[end].compress(content))
    read = own_tables.table(str(path), columns())
    assert brief(read.rows) == ROWS
    assert read.hashes == {name: files.sha256(path)}


def test_whole_numbers_and_bytes_in_parquet_are_read_as_they_are(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": [b"caf\xc3\xa9", b"x", None], "label": pd.array([0, 1, None], dtype="Int64")})
    frame["id"] = pd.array([1234567890123456789, None, 3], dtype="Int64")
    frame.to_parquet(tmp_path / "t.parquet")
    rows = rows_at(tmp_path / "t.parquet", id="id")
    assert rows[["text", "label"]].fillna("none").to_numpy().tolist() == [["café", "0"], ["x", "1"], ["none", "none"]]
    assert rows["id"].fillna("none").tolist() == ["1234567890123456789", "none", "3"]
    pd.DataFrame({"text": [b"caf\xe9"], "label": ["a"]}).to_parquet(tmp_path / "latin.parquet")
    assert "latin.parquet: cannot be read as a table: column 'text' has bytes that are not UTF-8" in refusal(
        tmp_path / "latin.parquet"
    )


def test_a_column_without_a_name_gets_one_that_is_free(tmp_path: Path) -> None:
    """As pandas gives them, and again in what it has read from there."""
    write(tmp_path / "t.csv", ",Unnamed: 0,text,label\n0,0,one,a\n1,1,two,b\n")
    assert brief(rows_at(tmp_path / "t.csv")) == [("0", "one", "a"), ("1", "two", "b")]


@pytest.mark.parametrize("name", ["my#tweets.csv", "why?.csv", "c#/tweets.csv"])
def test_the_signs_of_urls_may_be_in_local_names(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    TABLE.to_csv(tmp_path / name, index=False)
    assert brief(rows_at(tmp_path / name)) == ROWS


def test_a_file_of_excels_unicode_text_is_told_by_its_mark(tmp_path: Path) -> None:
    TABLE.to_csv(tmp_path / "t.csv", index=False, encoding="utf-16")
    assert refusal(tmp_path / "t.csv").endswith("is not utf-8: save it as that, or set fetch.csv.encoding=utf-16")
    assert brief(rows_at(tmp_path / "t.csv", encoding="utf-16")) == ROWS


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (["train.csv", "test.csv"], "holds train.csv, test.csv; it needs one table: unpack it"),
        (["README.md"], "holds no table; it needs one table: unpack it"),
    ],
)
def test_an_archive_of_several_tables_or_none_is_refused(tmp_path: Path, members: list[str], message: str) -> None:
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        for member in members:
            archive.writestr(member, TABLE.to_csv(index=False))
    assert message in refusal(tmp_path / "t.zip")


@pytest.mark.parametrize("name", ["t.csv.gz", "t.zip"])
def test_a_damaged_archive_is_refused(tmp_path: Path, name: str) -> None:
    content = TABLE.to_csv(index=False).encode()
    (tmp_path / name).write_bytes(gzip.compress(content)[:-20] if name.endswith("gz") else b"PK\3\4" + content)
    assert f"{name}: cannot be read as a table: " in refusal(tmp_path / name)


@pytest.mark.parametrize(
    ("names", "last"),
    [
        (["train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test-00000-of-00001.parquet"], "test"),
        (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test.parquet"], "test"),
        (["train/a.parquet", "train/b.parquet", "test/a.parquet"], "test"),
        (["data/train/0.parquet", "data/train/1.parquet", "data/validation/0.parquet"], "valid"),
    ],
)
def test_shards_of_a_split_are_read_in_order(tmp_path: Path, names: list[str], last: str) -> None:
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        TABLE.iloc[[number]].to_parquet(tmp_path / name)
    (tmp_path / "README.md").write_text("not a table")
    read = own_tables.table(str(tmp_path), columns())
    assert brief(read.rows[read.rows["split"] == "train"]) == ROWS[:2]
    assert brief(read.rows[read.rows["split"] == last]) == [("0", *ROWS[2][1:])]
    assert len(read.hashes) == 3
    raw_rows.check(read, 100)


def test_a_folder_of_kaggles_with_a_form_for_answers_and_a_test_file_without_labels(tmp_path: Path) -> None:
    TABLE.to_csv(tmp_path / "train.csv", index=False)
    TABLE[["text"]].to_csv(tmp_path / "test.csv", index=False)
    TABLE[["label"]].to_csv(tmp_path / "sample_submission.csv", index=False)
    read = own_tables.table(str(tmp_path), columns())
    assert brief(read.rows) == ROWS
    assert set(read.hashes) == {"train.csv"}
    assert read.notes == [
        "sample_submission.csv is no split: left out",
        "test.csv has no column 'label': left out; test rows are taken from the others",
    ]


def test_forms_for_answers_alone_are_refused(tmp_path: Path) -> None:
    for name in ("sample_submission.csv", "submission.csv"):
        TABLE.to_csv(tmp_path / name, index=False)
    assert refusal(tmp_path) == (
        f"{tmp_path}: has forms for answers only, such as sample_submission.csv; it needs tables with labels"
    )
    (tmp_path / "submission.csv").unlink()
    read = own_tables.table(str(tmp_path), columns())
    assert brief(read.rows) == ROWS
    assert read.notes == []


def test_a_folder_for_a_split_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    TABLE.to_csv(tmp_path / "real/rows.csv", index=False)
    (tmp_path / "set").mkdir()
    TABLE.to_csv(tmp_path / "set/train.csv", index=False)
    (tmp_path / "set/dev").symlink_to(tmp_path / "real")
    assert rows_at(tmp_path / "set")["split"].tolist() == ["valid"] * 3 + ["train"] * 3


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train.csv", "train.old.csv"], "found train.old.csv among several files"),
        (["train.csv", "train.csv.gz"], "train.csv and train.csv.gz are both train"),
        (["train.csv", "train/0.csv"], "train.csv and train/0.csv are both train"),
    ],
)
def test_two_files_for_a_split_that_are_no_shards_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        TABLE.to_csv(tmp_path / name, index=False)
    assert message in refusal(tmp_path)


# Elsewhere than in a local folder


def test_a_table_in_memory_is_read_by_its_url() -> None:
    with fsspec.open("memory://tweets/t.csv", "wb") as file:
        file.write(TABLE.to_csv(index=False).encode())
    assert brief(rows_at("memory://tweets/t.csv")) == ROWS
    assert brief(rows_at("memory://tweets")) == ROWS


def test_the_query_of_a_url_is_no_part_of_the_name(web: tuple[str, Path]) -> None:
    url, folder = web
    TABLE.to_csv(folder / "T.CSV", index=False)
    read = own_tables.table(f"{url}/T.CSV?raw=true", columns())
    assert brief(read.rows) == ROWS
    assert read.hashes == {"T.CSV": files.sha256(folder / "T.CSV")}


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_table_on_a_web_server_is_read_by_its_url(web: tuple[str, Path], name: str) -> None:
    url, folder = web
    TABLE.to_csv(folder / "t.csv", index=False)
    TABLE.to_parquet(folder / "t.parquet")
    read = own_tables.table(f"{url}/{name}", columns())
    assert brief(read.rows) == ROWS
    assert read.hashes == {name: files.sha256(folder / name)}


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
    expected = (
        "no table; the name of one ends in .csv, .tsv, .jsonl, .ndjson, .json, .parquet; each also with .gz, .bz2, .xz,"
        " or alone in a .zip"
    )
    assert refusal(tmp_path / "tweets.txt") == f"fetch.path = {tmp_path / 'tweets.txt'}: {expected}"
    assert refusal(tmp_path) == f"fetch.path = {tmp_path}: {expected}"


# What looks like something else


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("\n \ntext,label\na fine day,good\n", [("0", "a fine day", "good")]),
        ("\n\ntext,label\na fine day\n", "t.csv: line 4 has 1 field, the header has 2; put quotes around"),
        ('\n\ntext,label\n"a fine day,good\n', "t.csv: the quotes in line 4 do not match"),
        ("\n\n", "t.csv: is empty; it needs a line with the names of the columns, and rows"),
        (
            "sep=;\ntext;label\na;good\n",
            "t.csv: line 1 tells Excel the separator, ';': delete that line, and name it in fetch.csv.separator",
        ),
        (
            "sep=\t\ntext\tlabel\na\tgood\n",
            "t.csv: line 1 tells Excel the separator, '\\t': delete that line, and name it in fetch.csv.separator",
        ),
        (
            "# my export\ntext,label\na fine day,good\n",
            "t.csv: line 2 has 2 fields, the header has 1; delete what is above the names of the columns, or",
        ),
    ],
)
def test_what_stands_above_the_header_is_skipped_or_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, expected: str | list[tuple[str, str, str]]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text(content)
    if isinstance(expected, list):
        assert brief(rows_at("t.csv")) == expected
        assert own_tables.table("t.csv", columns()).notes == ["t.csv: 2 blank lines left out"]
    else:
        assert refusal("t.csv").startswith(expected)


def test_a_packed_file_under_another_name_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    TABLE.to_csv("plain.csv", index=False)
    content = Path("plain.csv").read_bytes()
    with zipfile.ZipFile("inner.zip", "w") as archive:
        archive.write("plain.csv")
    TABLE.to_parquet("inner.parquet")
    packed = {
        gzip.compress(content): "compressed with gzip (.gz)",
        bz2.compress(content): "compressed with bzip2 (.bz2)",
        lzma.compress(content): "compressed with xz (.xz)",
        Path("inner.zip").read_bytes(): "a ZIP archive (.zip) or an Excel file, which has to be saved as CSV",
        Path("inner.parquet").read_bytes(): "Parquet (.parquet)",
    }
    for content, what in packed.items():
        Path("t.csv").write_bytes(content)
        assert refusal("t.csv") == f"t.csv: is {what}, and not what its name says; give it the name for that"


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("column", ["text", "label"])
def test_lists_and_objects_are_no_words(tmp_path: Path, suffix: str, column: str) -> None:
    rows: list[dict[str, Any]] = json.loads(TABLE.assign(more="").to_json(orient="records"))
    for row in rows:
        row["more"] = [1]
    for name, given in (("good", rows), ("bad", [{**row, column: [row[column]]} for row in rows])):
        path, frame = tmp_path / f"{name}{suffix}", pd.DataFrame(given)
        frame.to_parquet(path) if suffix == ".parquet" else frame.to_json(path, orient="records", lines=True)
    assert brief(rows_at(tmp_path / f"good{suffix}")) == ROWS
    assert refusal(tmp_path / f"bad{suffix}") == (
        f"bad{suffix}: column {column!r} holds lists or objects; it needs a word or a number in each row"
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a \\ud83d", "label": "good"}', "line 2 has a lone surrogate"),
        ('{"text": "a", "label": ' + "9" * 5000 + "}", "line 2: not JSON: Exceeds the limit"),
    ],
)
def test_what_python_cannot_hold_is_named_by_its_line(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "t.jsonl").write_text('{"text": "a", "label": "bad"}\n' + line + "\n")
    assert message in refusal(tmp_path / "t.jsonl")


def test_a_column_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("good,a,b\n")
    assert refusal(tmp_path / "t.csv", names=["label", "text", "text"]) == (
        "fetch.csv.names: has 'text' twice; name each column once"
    )


def test_names_without_a_name_are_refused() -> None:
    given = {**vars(columns()), "names": []}
    with pytest.raises(UserError, match=r"fetch.csv.names = \[\]: List should have at least 1 item"):
        params.build(own_tables.CsvColumns, given, "fetch.csv")


def test_a_header_of_a_million_letters_is_refused_at_once_and_in_short(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"{'x ' * 500_000}y,label\n1,2\n")
    assert len(refusal(tmp_path / "t.csv")) < 300


def test_what_else_is_in_a_folder_is_told(tmp_path: Path) -> None:
    for name in ("train.csv", "train/sub/1.csv", "more/valid.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        TABLE.to_csv(tmp_path / name, index=False)
    for name in ("test.xlsx", "notes.txt", "README.md", ".hidden", "train.csv.dvc"):
        (tmp_path / name).write_text("")
    read = own_tables.table(str(tmp_path), columns())
    assert brief(read.rows) == ROWS
    assert sorted(read.notes) == [
        "more/ is no table: left out", "notes.txt is no table: left out", "sub/ is no table: left out",
        "test.xlsx is no table: left out",
    ]  # fmt: skip


@pytest.mark.parametrize("as_list", [True, False])
def test_a_key_that_comes_twice_in_an_object_is_refused(tmp_path: Path, as_list: bool) -> None:
    row = '{"text": "a", "label": "good", "text": "b"}'
    (tmp_path / "t.json").write_text(f"[{row}]" if as_list else f"{row}\n{row}\n")
    where = "" if as_list else "line 1: "
    assert refusal(tmp_path / "t.json").endswith(f"t.json: {where}not JSON: 'text' comes twice in an object")


def test_rows_in_a_field_are_shown_with_their_separator(tmp_path: Path) -> None:
    lines = [f"{number};text {number};{'good' if number % 2 else 'bad'}" for number in range(30)]
    lines[3], lines[5] = '3;"oops;good', '5;oops";good'
    (tmp_path / "t.csv").write_text("\n".join(["id;text;label", *lines]) + "\n")
    assert "holds whole rows, from '3;\"oops;good' on" in refusal(tmp_path / "t.csv", separator=";")
