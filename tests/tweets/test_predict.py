"""Labelling tweets from the command line: from words, files and stdin, to stdout and files."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from tests.support.clones import ENVIRONMENT, ROOT
from tests.support.made_up import LABELS, made_up_tweets
from tweets import predict, predict_file
from tweets.errors import UserError
from tweets.model import exported, transformer

ROUNDING = 0.005  # of bfloat16 between the products, where the processor has it, in other batches
ADDED = ["predicted", "p_negative", "p_neutral", "p_positive"]


@pytest.fixture
def here(reproduced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with the models that the pipeline has made."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for folder in (predict.EXPORTED, predict.TRAINED):
        folder.symlink_to(reproduced / folder)
    return tmp_path


@pytest.fixture
def tweets() -> pd.DataFrame:
    """Ten tweets between two other columns, in no order of their lengths."""
    rows = made_up_tweets(10).drop(columns="confidence").rename(columns={"text": "tweet"})
    rows["tweet"] += [', "quoted"', "", "\tand a tab", "", " é", "", "", "", "", ""]
    return rows


def expected(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows as predict has to write them."""
    found = exported.load(predict.EXPORTED, threads=1).predict(rows["tweet"].tolist())
    assert len(set(found.argmax(1))) > 1
    added = {f"p_{label}": found[:, k].round(6) for k, label in enumerate(LABELS)}
    return rows.assign(predicted=[LABELS[k] for k in found.argmax(1)], **added)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str, stdin: bytes = b"") -> None:
    """Call predict's main as the command line does."""
    monkeypatch.setattr(sys, "argv", ["predict", *arguments])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
    predict.main()


def write_table(rows: pd.DataFrame, path: Path) -> None:
    if path.suffix == ".parquet":
        rows.to_parquet(path)
    else:
        rows.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")


def read_table(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    return pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",")


def test_words_are_labelled_one_line_each(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["What a day!", "Worst flight ever."]
    run(monkeypatch, *texts)
    found = exported.load(predict.EXPORTED, threads=1).predict(texts)
    lines = [
        f"{LABELS[row.argmax()]}\t" + "  ".join(f"{label} {p:.3f}" for label, p in zip(LABELS, row, strict=True))
        for row in found
    ]
    assert capsys.readouterr().out.splitlines() == lines


@pytest.mark.parametrize("output", ["out.csv", "out.tsv", "deep/er/out.parquet"])
@pytest.mark.parametrize("name", ["in.csv", "in.tsv", "in.parquet"])
def test_a_file_keeps_its_columns_and_order_with_the_labels_behind(
    here: Path, monkeypatch: pytest.MonkeyPatch, tweets: pd.DataFrame, name: str, output: str
) -> None:
    write_table(tweets, here / name)
    quoting = ["--quoting", "quoted"] if name == "in.tsv" else []
    run(monkeypatch, "--input", name, "--column", "tweet", "--output", output, *quoting)
    found = read_table(here / output)
    assert list(found.columns) == ["id", "tweet", "label", *ADDED]
    pd.testing.assert_frame_equal(found, expected(tweets), check_dtype=False, atol=2e-6)


def test_without_an_output_the_table_goes_to_stdout(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tweets: pd.DataFrame
) -> None:
    write_table(tweets, here / "in.csv")
    run(monkeypatch, "--input", "in.csv", "--column", "tweet")
    found = pd.read_csv(io.StringIO(capsys.readouterr().out))
    pd.testing.assert_frame_equal(found, expected(tweets), check_dtype=False, atol=2e-6)


def test_lines_from_stdin_are_labelled_in_their_order(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["What a day!", "wörst, flight", "with a line separator\u2028inside", "and a form feed\x0cinside"]
    run(monkeypatch, "--input", "-", stdin="\r\n".join(lines).encode() + b"\n")
    found = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert list(found.columns) == ["text", *ADDED]
    assert found["text"].tolist() == lines


@pytest.mark.parametrize("output", [None, "out.csv"])
def test_a_lone_carriage_return_in_a_tweet_ends_no_row(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], output: str | None
) -> None:
    (here / "in.csv").write_text('text\n"first\rsecond"\nthird\n', newline="")
    run(monkeypatch, "--input", "in.csv", *(["--output", output] if output else []))
    found = read_table(here / output) if output else pd.read_csv(io.StringIO(capsys.readouterr().out, newline=""))
    assert found["text"].tolist() == ["first\rsecond", "third"]


@pytest.mark.parametrize("output", [None, "out.csv", "out.tsv", "out.parquet"])
def test_chunks_give_the_same_bytes_as_one_go(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tweets: pd.DataFrame,
    output: str | None,
) -> None:
    write_table(tweets, here / "in.csv")

    def written() -> Any:
        run(monkeypatch, "--input", "in.csv", "--column", "tweet", *(["--output", output] if output else []))
        return read_table(here / output) if output else pd.read_csv(io.StringIO(capsys.readouterr().out))

    in_one_go = written()
    monkeypatch.setattr(predict_file, "CHUNK", 3)
    in_chunks = written()
    assert len(in_one_go) == 10
    pd.testing.assert_frame_equal(in_chunks, in_one_go, rtol=0, atol=ROUNDING)


def test_an_output_that_is_there_is_replaced(here: Path, monkeypatch: pytest.MonkeyPatch, tweets: pd.DataFrame) -> None:
    write_table(tweets, here / "in.csv")
    (here / "out.csv").write_text("old")
    run(monkeypatch, "--input", "in.csv", "--column", "tweet", "--output", "out.csv")
    assert len(read_table(here / "out.csv")) == 10
    assert sorted(path.name for path in here.iterdir()) == ["in.csv", "models", "out.csv"]


@pytest.mark.parametrize("folder", [predict.EXPORTED, predict.TRAINED])
@pytest.mark.parametrize("device", [[], ["--device", "cpu"]])
def test_a_model_folder_of_either_kind_can_be_named(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path, device: list[str]
) -> None:
    (here / folder).rename(here / "mine")
    is_exported = folder == predict.EXPORTED
    classifier = exported.load(here / "mine", threads=1) if is_exported else transformer.load(here / "mine")
    run(monkeypatch, "--model", "mine", *device, "What a day!")
    printed = capsys.readouterr()
    assert printed.out.endswith(
        "  ".join(f"{label} {p:.3f}" for label, p in zip(LABELS, classifier.predict(["What a day!"])[0], strict=True))
        + "\n"
    )
    assert printed.err == ""


def test_without_an_exported_model_the_trained_one_is_taken_and_named(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "--model", str(predict.TRAINED), "What a day!")
    expected = capsys.readouterr().out
    (here / predict.EXPORTED).unlink()
    run(monkeypatch, "What a day!")
    printed = capsys.readouterr()
    assert printed.out == expected
    assert printed.err == (
        "predict: no model in models/onnx, so models/transformer is taken, which takes longer to start;"
        " `dvc repro` or `dvc pull` gives the other\n"
    )


def test_without_any_model_the_command_says_how_to_get_one(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (predict.EXPORTED, predict.TRAINED):
        (here / folder).unlink()
    with pytest.raises(UserError, match=r"^models/onnx: no model there; `dvc repro` or `dvc pull` gives one$"):
        run(monkeypatch, "What a day!")


def test_a_device_is_for_the_trained_model(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"^--device cuda: models/onnx runs on the CPU only; `--model models/tr"):
        run(monkeypatch, "--model", "models/onnx", "--device", "cuda", "What a day!")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"^device = cuda: not there; this machine has cpu"):
        run(monkeypatch, "--device", "cuda", "What a day!")  # the trained one is asked, without a name


def test_one_tweet_needs_neither_torch_nor_pandas(here: Path) -> None:
    code = (
        "import sys; from tweets import predict\npredict.main()\n"
        "print([name for name in ('torch', 'transformers', 'pandas', 'pyarrow', 'sklearn') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, "What a day!"]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give tweets, or --input with a file, and not both"),
        (["a tweet", "--input", "in.csv"], "give tweets, or --input with a file, and not both"),
        (["a tweet", "--output", "out.csv"], "--output goes with --input"),
        (
            ["--input", "in.csv", "--output", "out.txt"],
            "--output out.txt: needs a name that ends in .csv, .tsv, .parquet",
        ),
        (
            ["--input", "in.csv", "--output", "taken.csv"],
            "--output taken.csv: is a folder; it needs the name of a file",
        ),
        (["--device", "tpu", "a tweet"], "argument --device: invalid choice: 'tpu'"),
    ],
)
def test_a_usage_that_makes_no_sense_is_refused(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    (here / "taken.csv").mkdir()
    (here / "taken.csv" / "kept").write_text("whole")
    with pytest.raises(SystemExit) as raised:
        run(monkeypatch, *arguments)
    assert raised.value.code == 2
    assert f": error: {message}" in capsys.readouterr().err.splitlines()[-1]
    assert (here / "taken.csv" / "kept").read_text() == "whole"


QUOTES = "a field in quotes ends with one, and doubles those in it"
PLAIN = "--quoting plain"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,words\n1,fine\n", "in.csv: no column 'text'; it has: 'id', 'words' (--column)"),
        ("text\n", "in.csv: no rows; it needs at least one tweet"),
        (
            'text\n"never closed\nfine\n',
            f"in.csv: the quotes in lines 2 to 3 do not match: {QUOTES}. If quotes are part of the texts: {PLAIN}",
        ),
        (
            "id,text\n1\n",
            "in.csv: line 2 has 1 field, the header has 2; put quotes around a text that holds a line break",
        ),
    ],
)
def test_a_file_that_cannot_be_labelled_is_refused_before_the_model_is_loaded(
    here: Path, monkeypatch: pytest.MonkeyPatch, content: str, message: str
) -> None:
    (here / "in.csv").write_text(content)
    with pytest.raises(UserError) as raised:
        run(monkeypatch, "--input", "in.csv", "--output", "out.csv", "--model", "nowhere")
    assert str(raised.value) == message
    assert not (here / "out.csv").exists()


def test_another_encoding_is_read_when_it_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "in.csv").write_bytes("text\ncaf\xe9\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"line 2, byte 8 is not utf-8: save it as that, or set --encoding latin-1$"):
        run(monkeypatch, "--input", "in.csv")
    run(monkeypatch, "--input", "in.csv", "--encoding", "latin-1", "--output", "out.csv")
    assert read_table(here / "out.csv")["text"].tolist() == ["café"]


def test_quotes_are_letters_when_told(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ['"I cant even, what a flight', "Best crew ever", '"so good said no one ever', '"Great" they said']
    (here / "in.csv").write_text("\n".join(["text|id", *(f"{line}|{n}" for n, line in enumerate(lines))]) + "\n")
    with pytest.raises(UserError, match=r"^in\.csv: the quotes in lines 2 to 4 do not match"):
        run(monkeypatch, "--input", "in.csv", "--separator", "|")
    run(monkeypatch, "--input", "in.csv", "--separator", "|", "--quoting", "plain", "--output", "out.csv")
    written = read_table(here / "out.csv")
    assert written["text"].tolist() == lines
    assert written["predicted"].isin(LABELS).all()


LONG, FINE = "x" * 10_001, {"text": "fine"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("in.csv", f"id,text\n1,fine\n2,\n3, \n\n4,{LONG}\n5,fine\n"),
        ("in.jsonl", "\n".join(map(json.dumps, [FINE, {"text": ""}, {}, {"text": " "}, {"text": LONG}, FINE]))),
        ("-", f"fine\n\n \n\n{LONG}\nfine\n"),
        ("one.csv", f"text\nfine\n\n \n\n{LONG}\nfine\n"),
    ],
)
@pytest.mark.parametrize("output", ["out.csv", "out.parquet"])
def test_a_row_that_cannot_be_labelled_stays_in_its_place(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: str,
    output: str,
) -> None:
    if name != "-":
        (here / name).write_text(content)
    run(monkeypatch, "--input", name, "--output", output, stdin=content.encode())
    written = read_table(here / output)
    assert written["predicted"].notna().tolist() == [True, False, False, False, False, True]
    assert written["p_neutral"].notna().tolist() == [True, False, False, False, False, True]
    assert written["p_neutral"].iloc[0] == written["p_neutral"].iloc[5]
    shown = "stdin" if name == "-" else name
    assert capsys.readouterr().err.splitlines()[:2] == [
        f"predict: {shown}: 3 rows without a label, with no text: rows 2, 3, 4",
        f"predict: {shown}: 1 row without a label, with over 10,000 characters: row 5",
    ]


def test_a_table_without_any_text_comes_back_without_labels(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "in.csv").write_text("id,text\n1,\n2, \n")
    run(monkeypatch, "--input", "in.csv", "--output", "out.csv")
    assert read_table(here / "out.csv")["predicted"].isna().tolist() == [True, True]


def test_a_path_that_leads_nowhere_is_named_as_the_option(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"^--input = gone\.csv: no such file or folder$"):
        run(monkeypatch, "--input", "gone.csv")


def test_a_folder_of_several_tables_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, tweets: pd.DataFrame
) -> None:
    (here / "tables").mkdir()
    for name in ("a.csv", "b.csv"):
        write_table(tweets, here / "tables" / name)
    with pytest.raises(UserError, match=r"^tables: a folder of 2 tables; it needs one file$"):
        run(monkeypatch, "--input", "tables")


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        (b"fine\ncaf\xe9\n", "stdin: byte 8 is not UTF-8"),
        (b"", "-: no rows; it needs at least one tweet"),
    ],
)
def test_stdin_that_cannot_be_labelled_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, stdin: bytes, message: str
) -> None:
    with pytest.raises(UserError) as raised:
        run(monkeypatch, "--input", "-", stdin=stdin)
    assert str(raised.value) == message


@pytest.mark.parametrize("text", ["", "  "])
def test_a_blank_tweet_among_the_words_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    with pytest.raises(UserError, match=r"^text: nothing in tweet 2$"):
        run(monkeypatch, "fine", text)


def test_the_command_labels_what_is_piped_into_it(here: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tweets.predict", "--input", "-", "--output", "out.csv"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        input="What a day!\nWörst flight ever.\n".encode(),
        capture_output=True,
        timeout=600,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, b"")
    assert b"Traceback" not in result.stderr
    assert read_table(here / "out.csv")["text"].tolist() == ["What a day!", "Wörst flight ever."]


def test_a_probability_that_would_be_written_over_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "labelled.csv").write_text("text,p_negative\nWhat a day!,0.5\n")
    (here / "out.csv").write_text("whole")
    with pytest.raises(UserError, match=r"^the input has a column 'p_negative' already; take it out or rename it$"):
        run(monkeypatch, "--input", "labelled.csv", "--output", "out.csv")
    assert (here / "out.csv").read_text() == "whole"


def test_a_file_whose_quotes_merge_rows_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "in.csv").write_text('id,text,name\n1,"open,x\n2,two,y\n3,end",z\n4,d,w\n')
    with pytest.raises(UserError, match=r"^in\.csv: the quotes in line 2 open .*--quoting plain\. .*--quoting quoted$"):
        run(monkeypatch, "--input", "in.csv")
    run(monkeypatch, "--input", "in.csv", "--quoting", "plain", "--output", "out.csv")
    assert read_table(here / "out.csv")["id"].tolist() == [1, 2, 3, 4]


def test_a_column_that_would_be_written_over_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "labelled.csv").write_text("text,predicted\nWhat a day!,positive\n")
    with pytest.raises(UserError) as raised:
        run(monkeypatch, "--input", "labelled.csv")
    assert str(raised.value) == "labelled.csv: has a column 'predicted' already; take it out or rename it"
