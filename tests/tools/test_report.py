"""`python -m tools.report`, with real Git and DVC in a shrunk clone: what the two files say, and when they stay."""

import csv
import gc
import json
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from tests.support.clones import commit, run
from tests.support.made_up import set_param
from tools.report import __main__ as report
from tweets import command

pytestmark = [
    pytest.mark.walk,
    pytest.mark.xdist_group("report"),  # they share a report
    pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning"),
]

HTML, MARKDOWN = Path("report/report.html"), Path("report/report.md")


@pytest.fixture(autouse=True)
def _no_connection_outlives_its_test() -> Iterator[None]:
    """DVC leaves connections open in the threads in which it reads plots; Python 3.13 tells of them, here or later."""
    yield
    gc.collect()


class Page(HTMLParser):
    """What a browser would load, run and show of a page; its tables as rows of cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.labels: list[str] = []
        self.rows: list[list[str]] = []
        self.shown = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.labels += [value or "" for name, value in attributes if name == "aria-label"]
        self.ids += [value or "" for name, value in attributes if name == "id"]
        self.links += [value or "" for name, value in attributes if name in {"src", "href", "xlink:href", "data"}]
        self.links += re.findall(r"url\((.*?)\)", " ".join(value or "" for _, value in attributes))
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self.rows.append([])  # what follows is in no cell

    def handle_data(self, data: str) -> None:
        self.shown += data
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data

    def row(self, title: str) -> list[str]:
        return next([cell.strip() for cell in cells[1:]] for cells in self.rows if cells[:1] == [title])


def make(folder: Path, *arguments: str) -> Page:
    """Run the command's main() in a folder; return the page."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="_NoneStep.value", category=DeprecationWarning
        )  # DVC's use of pygtrie
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["report", *arguments])
        command.run("report", report.main)
    return Page((folder / HTML).read_text())


def refused(folder: Path, *arguments: str) -> str:
    """Return the one line with which the command ends."""
    with pytest.raises(SystemExit) as raised:
        make(folder, *arguments)
    line = str(raised.value.code)
    assert "\n" not in line
    return line


def metrics(folder: Path, name: str) -> Any:
    return json.loads((folder / f"metrics/{name}.json").read_text())


def head(folder: Path) -> str:
    return run(folder, "git", "rev-parse", "HEAD").stdout.strip()


@pytest.fixture(scope="module")
def reported(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with an experiment, `weaker`, and the report that compares with it. To read only."""
    folder = shutil.copytree(reproduced, tmp_path_factory.mktemp("reported") / "clone", symlinks=True)
    run(folder, "dvc", "exp", "run", "-n", "weaker", "-S", "baseline.C=0.01", "evaluate")
    commit(folder, "checkout", "-q", "--", ".")
    run(folder, "dvc", "checkout")
    command = (sys.executable, "-m", "tools.report", "weaker", "--pictures", "https://example.org/a b/")
    assert run(folder, *command).stdout.startswith("report: report/report.html and report/report.md, beside weaker (")
    return folder


@pytest.fixture
def page(reported: Path) -> Page:
    return Page((reported / HTML).read_text())


def test_the_numbers_are_those_of_the_metrics(page: Page, reported: Path) -> None:
    scores = metrics(reported, "evaluate")
    for row in (page.row("macro-F1"), markdown_row(reported, "macro-F1")):
        assert len(row) == 3
        for cell, model in zip(row, scores["models"], strict=False):
            low, high = model["intervals"]["macro_f1"]
            assert cell == f"{model['macro_f1']:.3f} [{low:.3f}, {high:.3f}]"
    for found in metrics(reported, "slices")["slices"]:
        assert page.row(found["slice"])[:3] == [
            str(found["rows"]), f"{found['accuracy']:.3f}", f"{found['macro_f1']:.3f}"
        ]  # fmt: skip
    for found in metrics(reported, "behaviour")["tests"]:
        assert page.row(found["test"])[1:3] == [str(found["cases"]), str(found["failures"])]
    for found in metrics(reported, "prepare")["dropped"]:
        assert page.row(found["reason"]) == [str(found["rows"])]


def markdown_row(folder: Path, title: str) -> list[str]:
    lines = (folder / MARKDOWN).read_text().splitlines()
    [line] = [line for line in lines if line.startswith(f"| {title} |")]
    return line.strip("| ").split(" | ")[1:]


def test_it_names_the_exact_commit_and_lock(page: Page, reported: Path) -> None:
    lock = subprocess.run(["sha256sum", "dvc.lock"], cwd=reported, capture_output=True, text=True, check=True).stdout
    for text in (page.shown, (reported / MARKDOWN).read_text()):
        assert head(reported) in text
        assert lock.split()[0] in text
        assert "agrees with the code, params and data here" in text


def test_an_experiment_is_compared_by_name(page: Page, reported: Path) -> None:
    [ref] = run(reported, "git", "for-each-ref", "--format=%(refname)", "refs/exps/*/*/weaker").stdout.split()
    there = json.loads(run(reported, "git", "show", f"{ref}:metrics/baseline.json").stdout)
    old, new = (found["baseline_valid"]["log_loss"] for found in (there, metrics(reported, "baseline")))
    assert old > new
    expected = [f"{old:.4g}", f"{new:.4g}", f"{new - old:+.4g}", "better"]  # a lower loss is better
    name = "baseline: baseline_valid.log_loss"
    assert page.row(name) == markdown_row(reported, name) == expected
    assert page.row("evaluate: accuracy")[2:] == ["0", "same"]
    assert page.row("baseline.C") == markdown_row(reported, "baseline.C") == ["0.01", "2", "+1.99"]
    assert page.shown.count("The same in weaker") == 6
    [reliability] = [label for label in page.labels if label.startswith("Reliability")]
    assert "; weaker (" in reliability  # one picture of both


def test_the_page_loads_nothing(page: Page) -> None:
    assert page.links
    assert {link for link in page.links if not link.startswith("#")} == {"data:,"}
    assert not {"script", "link rel=stylesheet", "iframe", "img"} & set(page.tags)
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)


def test_the_markdown_shows_the_pictures_below_the_url(reported: Path) -> None:
    found = re.findall(r'<img src="(.*?)"', (reported / MARKDOWN).read_text())
    names = {path.name for path in (reported / "report/plots").iterdir()}
    assert {url.removeprefix("https://example.org/a%20b/") for url in found} == names
    assert all((reported / f"report/plots/{name}").read_bytes().startswith(b"\x89PNG") for name in names)


def test_the_markdown_has_no_tweet(reported: Path) -> None:
    rows = pd.read_csv(reported / report.MISTAKES)
    page, text = (reported / HTML).read_text(), (reported / MARKDOWN).read_text()
    words = {word for tweet in rows["text"] for word in tweet.split() if word.isalpha() and word not in page[:2000]}
    assert len(words) > 10
    assert not words & set(re.findall(r"\w+", text)) - {"report", "table"}


def test_two_runs_write_the_same_bytes(clone: Path) -> None:
    make(clone)
    first = {path: path.read_bytes() for path in (clone / "report").rglob("*") if path.is_file()}
    make(clone)
    assert first == {path: path.read_bytes() for path in (clone / "report").rglob("*") if path.is_file()}


def test_labels_and_tweets_cannot_become_markup(clone: Path) -> None:
    label = "a|*b*<script>@you [x](http://y)"
    for path in [*clone.glob("metrics/*.json"), *clone.glob("plots/*/*.json")]:
        path.write_text(path.read_text().replace('"neutral"', json.dumps(label)))
    tweet = "<script>alert(1)</script>\u202e\u200b\rשלום" + "w" * 300
    rows = pd.read_csv(clone / report.MISTAKES).head(2)
    rows["text"] = tweet
    (clone / report.MISTAKES).unlink()
    rows.to_csv(clone / report.MISTAKES, index=False, quoting=csv.QUOTE_NONNUMERIC)  # as the stage writes it
    page = make(clone)
    assert page.row(label)
    assert "script" not in page.tags
    assert page.shown.count(tweet.replace("\r", "\n")) + page.shown.count(tweet) == 2
    text = (clone / MARKDOWN).read_text()
    assert "| a&#124;&#42;b&#42;&#60;script&#62;&#64;&#8203;you &#91;x&#93;(http&#58;//y) |" in text
    assert "<script>" not in text


def test_without_a_wish_it_compares_with_what_was_before_the_last_change(clone: Path) -> None:
    before = run(clone, "git", "rev-parse", "HEAD^").stdout.strip()
    page = make(clone)
    assert f"{before[:7]}: the commit before {head(clone)[:7]}, which was the last to change results" in page.shown
    (clone / "notes.md").write_text("Nothing to do with results")
    commit(clone, "add", "-A")
    commit(clone, "commit", "-qm", "Note")
    assert f"{before[:7]}: the commit before" in make(clone).shown
    set_param(clone, "train.lr", 0.002)
    page = make(clone)
    assert f"HEAD ({head(clone)[:7]}): the last commit; the results here are not committed" in page.shown
    assert page.row("train.lr") == ["0.003", "0.002", "-0.001"]
    assert "stale: changed for train: train.lr; dvc repro renews it" in page.shown
    assert page.shown.count("params.yaml")  # among what is not committed


def test_the_first_commit_has_nothing_to_compare_with(clone: Path) -> None:
    shutil.rmtree(clone / ".git")
    commit(clone, "init", "-q")
    assert "Nothing to compare with" in make(clone).shown
    commit(clone, "add", "-A")
    commit(clone, "commit", "-qm", "Begin")
    assert "Nothing to compare with" in make(clone).shown
    assert "Nothing to compare with" in (clone / MARKDOWN).read_text()


def test_without_the_data_the_rest_is_reported(clone: Path) -> None:
    for name in ("mistakes.csv", "raw"):
        path = clone / "data" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = make(clone)
    assert "dvc pull data/mistakes.csv fetches it" in " ".join(page.shown.split())
    assert "not here to be checked: data/raw, data/mistakes.csv" in page.shown


def test_a_revision_without_scores_is_compared_by_the_rest(clone: Path) -> None:
    (clone / "metrics/evaluate.json").unlink()  # as a trial of a search leaves it
    shutil.rmtree(clone / "plots/evaluate")
    commit(clone, "add", "-A")
    commit(clone, "commit", "-qm", "Trial")
    commit(clone, "checkout", "-q", "HEAD^", "--", ".")
    page = make(clone, "HEAD")
    assert "has no metrics/evaluate.json, so there are no test scores to compare" in page.shown
    assert page.row("evaluate: accuracy")[0] == "–"
    assert page.row("evaluate: accuracy")[-1] == "new"
    assert page.row("train: valid.accuracy")[-1] == "same"


def test_other_test_tweets_do_not_compare(clone: Path) -> None:
    scores = metrics(clone, "evaluate") | {"test_ids": "0"}
    (clone / "metrics/evaluate.json").write_text(json.dumps(scores))
    assert "their scores do not compare" in make(clone).shown


def test_without_annotators_or_a_third_label(clone: Path) -> None:
    scores, prepared = metrics(clone, "evaluate"), metrics(clone, "prepare")
    for part in (*scores["models"], *prepared["splits"]):
        part["labels"].pop()
    (clone / "metrics/evaluate.json").write_text(json.dumps(scores))
    (clone / "metrics/prepare.json").write_text(json.dumps(prepared))
    rows = pd.read_csv(clone / report.MISTAKES).assign(annotator_confidence="")
    (clone / report.MISTAKES).unlink()
    rows.to_csv(clone / report.MISTAKES, index=False)
    page = make(clone)
    assert not [row for row in page.rows if row[:1] == ["positive"]]
    assert "annotators' confidence" not in page.shown


@pytest.fixture(scope="module")
def once(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of which each test breaks one file and puts it back."""
    return shutil.copytree(reproduced, tmp_path_factory.mktemp("once") / "clone", symlinks=True)


@pytest.mark.parametrize(
    ("path", "content", "line"),
    [
        ("metrics/slices.json", None, "report: metrics/slices.json: no such file; `dvc repro` writes it"),
        ("metrics/slices.json", "{", "report: metrics/slices.json: not JSON: "),
        ("metrics/slices.json", "{}", "report: metrics/: not as this commit's `dvc repro` writes it: "),
        ("plots/train/loss.json", None, "report: plots/train/loss.json: no plot there; `dvc repro` writes it"),
        ("dvc.lock", None, "report: dvc.lock: no such file; run `dvc repro`"),
    ],
)
def test_what_is_missing_is_said_and_the_old_report_stays(
    once: Path, path: str, content: str | None, line: str
) -> None:
    (once / "report").mkdir(exist_ok=True)
    (once / HTML).write_text("old")
    (once / path).unlink()
    if content:
        (once / path).write_text(content)
    try:
        assert refused(once).startswith(line)
    finally:
        commit(once, "checkout", "-q", "--", ".")
    assert (once / HTML).read_text() == "old"
    assert not [found.name for found in once.glob(".report*")]


def test_an_unknown_revision_is_refused(reported: Path) -> None:
    for revision in ("nothing", "HEAD:params.yaml"):
        assert refused(reported, revision) == (
            f"report: {revision}: no Git revision and no experiment (`git log --all`, `dvc exp list`)"
        )


def test_outside_git_it_says_so(clone: Path) -> None:
    shutil.rmtree(clone / ".git")
    assert "is not a git repository" in refused(clone)


def test_a_failing_write_keeps_the_old_report(clone: Path) -> None:
    make(clone)
    old = (clone / HTML).read_bytes(), (clone / MARKDOWN).read_bytes()
    set_param(clone, "train.lr", 0.002)  # a new report would differ
    rows = pd.read_csv(clone / report.MISTAKES).drop(columns="text")  # read last, when all else is written
    (clone / report.MISTAKES).unlink()
    rows.to_csv(clone / report.MISTAKES, index=False)
    assert refused(clone).startswith("report: data/mistakes.csv: not the table that `dvc repro` writes: ")
    assert ((clone / HTML).read_bytes(), (clone / MARKDOWN).read_bytes()) == old
    assert not [found.name for found in clone.glob(".report*")]


@pytest.mark.parametrize(
    ("name", "old", "new", "interval", "expected"),
    [
        ("macro_f1", 0.7, 0.8, [0.75, 0.85], "better, outside the interval"),
        ("macro_f1", 0.79, 0.8, [0.75, 0.85], "better, inside the interval"),
        ("valid.accuracy", 0.9, 0.8, None, "worse"),
        ("valid.loss", 0.9, 0.8, None, "better"),
        ("calibration_error", 0.1, 0.2, None, "worse"),
        ("macro_recall", 0.1, 0.2, None, "better"),
        ("log_loss", 0.1, 0.2, None, "worse"),
        ("baseline_macro_f1", 0.1, 0.2, None, "better"),
        ("baseline_valid.log_loss", 0.2, 0.1, None, "better"),
        ("steps", 100, 200, None, "changed"),
        ("behaviour_failure_rate", 0.1, 0.2, None, "worse"),
        ("steps", 10, 20, None, "changed"),
        ("macro_f1", 0.8, 0.8, [0.75, 0.85], "same"),
    ],
)
def test_meaning(name: str, old: float, new: float, interval: list[float] | None, expected: str) -> None:
    assert report.meaning(name, {"old": old, "new": new, "diff": new - old}, interval) == expected


def test_make_passes_the_revision_through(clone: Path) -> None:
    result = run(clone, "make", "--dry-run", "report", "REV=some branch")
    assert 'python -m tools.report "some branch"' in result.stdout


def test_the_lock_is_read_as_yaml(reported: Path) -> None:
    stages = yaml.safe_load((reported / "dvc.lock").read_text())["stages"]
    [model] = [out["md5"] for out in stages["train"]["outs"] if out["path"] == "models/transformer"]
    assert markdown_row(reported, "MD5 of models/transformer") == [model]
