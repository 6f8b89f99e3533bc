"""The sets of other tasks, and the whole pipeline on sets as small as a test, interrupted and going on."""

import io
import json
import os
import signal
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks import datasets, general
from tests.support.clones import ENVIRONMENT, ROOT, commit, run, wait_for
from tests.support.made_up import made_up_tweets
from tweets.data import duplicates
from tweets.errors import UserError

pytestmark = pytest.mark.walk

COMMAND = ("python", "-m", "benchmarks.general")
SPLITS = ("train", "valid", "test")
# Of the sets that need no download: labels, rows to train on, and how many times larger the largest label is.
MADE = {
    "small": (3, 3_000, 2.4),
    "hashtags": (20, 2_333, 10.6),
    "airlines": (6, 9_683, 8.0),
    "rare": (3, 20_183, 20.2),
    "gaps": (20, 18_625, 34.1),
    "endings": (3, 12_363, 2.7),
    "complaints": (2, 24_127, 1.3),
}
SECONDS_FOR_A_SET = 600


def written(name: str, folder: Path) -> dict[str, pd.DataFrame]:
    """Write a set and return its files, by split."""
    datasets.write(datasets.SETS[name].rows(), folder)
    return {split: pd.read_csv(folder / f"{split}.csv") for split in SPLITS}


@pytest.mark.parametrize("name", MADE)
def test_a_set_has_its_labels_and_rows_and_no_text_in_two_splits(name: str, tmp_path: Path) -> None:
    labels, rows, ratio = MADE[name]
    parts = written(name, tmp_path / name)
    counts = parts["train"]["label"].value_counts()
    assert (len(counts), counts.sum(), round(counts.max() / counts.min(), 1)) == (labels, rows, ratio)
    for part in parts.values():
        assert list(part) == ["text", "label"]
        assert part.notna().all(axis=None)
        assert set(part["label"]) == set(counts.index)
    keys = pd.concat(parts)["text"].map(duplicates.key)
    assert keys.is_unique


def test_a_set_is_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from benchmarks import datasets as d; {}"
    write = "[d.write(d.SETS[name].rows(), Path(sys.argv[1]) / name) for name in ('hashtags', 'gaps')]"
    for folder, seed in (("one", "1"), ("two", "2")):
        run(Path(), "python", "-c", code.format(write), str(tmp_path / folder), PYTHONHASHSEED=seed)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.csv"))
    assert len(files) == 6
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("@JetBlue why is jet blue's wifi down? #jetblue", ("  why is   wifi down?  ", "jetblue")),
        ("@united unlike @JetBlue you are late", None),  # calls two
        ("What a flight", None),
    ],
)
def test_an_airline_is_taken_out_of_what_is_said_to_it(text: str, told: tuple[str, str] | None) -> None:
    assert datasets.airline(text) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("I flew TO Boston", ("I flew ___ Boston", "to")),
        ("@to #for on-time http://t.co/in to-do", None),  # no words of their own
    ],
)
def test_a_gap_is_a_whole_word(text: str, told: tuple[str, str] | None) -> None:
    assert datasets.gap(text) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Really?! You too.", ("Really?! You too", "statement")),
        ("Is it late?? #fail @united http://t.co/a", ("Is it late #fail @united http://t.co/a", "question")),
        ("Late!", ("Late", "exclamation")),
        ("late again", None),
    ],
)
def test_an_ending_is_what_a_tweet_ends_in(text: str, told: tuple[str, str] | None) -> None:
    assert datasets.ending(text) == told


def archive(folder: Path, lines: str) -> Path:
    """Make an archive like that of vaderSentiment, whose tweets are these lines."""

    def packed(path: Path, name: str, content: bytes) -> None:
        with tarfile.open(path, "w:gz") as file:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))

    packed(folder / "inner", "hutto_ICWSM_2014/tweets_GroundTruth.txt", lines.encode())
    packed(folder / "outer", datasets.VADER_INNER, (folder / "inner").read_bytes())
    return folder / "outer"


def test_a_rated_sentence_has_the_label_of_its_rating(tmp_path: Path) -> None:
    lines = "1\t-4.0\tawful\r\n2\t-0.5\tbad\n3\t0.5\ta\u0085b\n4\t0.6\tgood\n5\t4\tgreat\tindeed"
    rows = datasets.rated(archive(tmp_path, lines), "tweets", datasets.FIVE)
    assert rows.to_dict("list") == {
        "text": ["awful", "bad", "a\u0085b", "good", "great\tindeed"],
        "label": ["very negative", "negative", "neutral", "positive", "very positive"],
    }


def test_copies_are_dropped_and_texts_with_two_labels(tmp_path: Path) -> None:
    rows = pd.DataFrame({"text": ["One!", "one", "Two", "two", "three"], "label": ["a", "a", "a", "b", "b"]})
    assert datasets.distinct(rows)["text"].tolist() == ["One!", "three"]


def test_covid19_keeps_its_official_split_with_five_labels_and_three(tmp_path: Path) -> None:
    labels = ["Extremely Negative", "Negative", "Neutral", "Positive", "Extremely Positive"]
    rows = made_up_tweets(10, labels[:4]).rename(
        columns={"text": "OriginalTweet", "label": "Sentiment", "id": "UserName"}
    )
    for name in ("train", "test"):
        rows.to_csv(tmp_path / f"Corona_NLP_{name}.csv", index=False)
    tasks = datasets.with_covid19(tmp_path)
    assert tasks.keys() - datasets.with_covid19(None).keys() == {"covid19-five", "covid19-three"}
    for name, found in (("five", labels[:4]), ("three", labels[1:4])):
        datasets.write(tasks[f"covid19-{name}"].rows(), tmp_path / name)
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["test.csv", "train.csv"]
        assert set(pd.read_csv(tmp_path / name / "test.csv")["label"]) == set(found)


def test_an_archive_that_is_damaged_or_cannot_be_had_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"INDEX_URL": "http://127.0.0.1:9", "RETRIES": "0", "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    with pytest.raises(UserError, match=r"vaderSentiment==3\.3\.2 could not be downloaded: .*No matching distribution"):
        datasets.vader()
    (datasets.CACHE / datasets.VADER_FILE).write_bytes(b"half")
    with pytest.raises(UserError, match=r"vaderSentiment-3\.3\.2\.tar\.gz: SHA-256 is .*, needs "):
        datasets.vader()


def own_set(folder: Path, labels: list[str], seed: int) -> Path:
    """Write a set of made-up tweets as the shrunk params read them."""
    rows = made_up_tweets(180, labels, seed)
    folder.mkdir()
    for number, split in enumerate(SPLITS):
        rows[number * 60 : (number + 1) * 60].to_csv(folder / f"{split}.csv", index=False)
    return folder


def kept(clone: Path, name: str) -> Any:
    return json.loads((clone / datasets.CACHE / f"{name}.json").read_text())


def test_an_interrupted_run_goes_on_with_the_sets_that_are_left(clone: Path, tmp_path: Path) -> None:
    sets = [own_set(tmp_path / "two", ["bad", "good"], 1), own_set(tmp_path / "four", ["a", "b", "c", "d"], 2)]
    command = [*COMMAND, *map(str, sets)]
    first = clone / datasets.CACHE / "two.json"
    with subprocess.Popen(
        command, cwd=clone, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        wait_for(lambda: first.exists() or process.poll() is not None, SECONDS_FOR_A_SET)
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate()[1] == "general: interrupted\n"
    assert process.returncode == 1
    before = first.stat().st_mtime_ns
    result = run(clone, *command)
    assert first.stat().st_mtime_ns == before
    assert "general: four, 1 of 1" in result.stdout
    assert "general: two" not in result.stdout
    assert kept(clone, "two")["rows"] == {"train": 60, "valid": 60, "test": 60}
    assert kept(clone, "four")["labels"] == [{"label": label, "rows": 15} for label in "abcd"]
    assert kept(clone, "four")["steps"] == 16
    assert [line.split(" | ")[0] for line in result.stdout.splitlines()[-2:]] == ["| two", "| four"]
    assert not run(clone, "git", "status", "--porcelain").stdout  # not all sets: benchmarks/results stays


def failure(clone: Path, *arguments: str) -> str:
    """Return the last line on stderr of a run that has to fail without a traceback."""
    result = run(clone, *COMMAND, *arguments, check=False)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    [line] = result.stderr.splitlines()
    return line


def test_bad_input_ends_in_one_line(clone: Path, tmp_path: Path) -> None:
    assert "general: nobody: neither a folder nor one of the sets rated-tweets, small," in failure(clone, "nobody")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert f"{empty}/train.csv" in failure(clone, str(empty))
    pd.DataFrame({"tweet": ["a"], "label": ["b"]}).to_csv(empty / "train.csv")
    assert "train.csv: no column 'id', 'text', 'confidence'" in failure(clone, str(empty))
    with (clone / "params.yaml").open("a") as file:
        file.write("\n")
    assert "params.yaml: changed since the last commit" in failure(clone, str(empty))


def test_the_table_and_the_file_of_all_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["general"])
    rows = made_up_tweets(30).assign(split=list(SPLITS) * 10)
    monkeypatch.setattr(datasets, "SETS", {"tiny": datasets.Task(about="as made up", rows=lambda: rows)})
    commit(tmp_path, "init", "-q")
    commit(tmp_path, "commit", "-q", "--allow-empty", "-m", "Begin")
    [one] = general.chosen([], datasets.SETS)
    done = {
        "set": "tiny",
        "task": "as made up",
        "sha256": one["sha256"],
        "commit": general.commit(),
        "labels": [{"label": "a", "rows": 9}, {"label": "b", "rows": 2}],
        "rows": {"train": 1011, "valid": 1, "test": 2002},
        "steps": 1234,
        "train_seconds": 56,
        "transformer": {"macro_f1": 0.5, "interval": [0.4, 0.6]},
        "baseline": {"macro_f1": 0.25, "interval": [0.2, 0.3]},
        "transformer_minus_baseline": {"macro_f1": 0.25, "interval": [0.2, 0.3]},
    }
    (datasets.CACHE / "tiny.json").write_text(json.dumps(done))
    general.main()
    row = "| tiny | as made up | 2 | 1,011, 2,002 | 4.5 | 0.500 [0.400, 0.600] | 0.250 [0.200, 0.300] "
    assert capsys.readouterr().out.splitlines()[-1] == f"{row}| +0.250 [+0.200, +0.300] | 1,234 | 56 |"
    assert json.loads(general.RESULT.read_text())["sets"] == [done]


def test_docs_show_the_table_of_the_committed_file() -> None:
    found = json.loads((ROOT / general.RESULT).read_text())["sets"]
    page = (ROOT / "docs/quality.md").read_text()
    assert general.table(found) in page
    [revision] = {one["commit"] for one in found}
    assert f"commit {revision[:7]}:" in page


def test_the_defaults_beat_the_baseline_on_four_sets_or_more() -> None:
    found = json.loads((ROOT / general.RESULT).read_text())["sets"]
    assert sum(one["transformer_minus_baseline"]["interval"][0] > 0 for one in found) >= 4
