"""`python -m tools.compare`, in a Git repository with made-up results."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.clones import ROOT
from tools import compare
from tweets.errors import UserError
from tweets.evaluation import metrics

SCORES = {metric.name: 0.5 for metric in metrics.METRICS} | {"accuracy": 0.8, "macro_f1": 0.79, "macro_recall": 0.78}
METRICS: dict[str, Any] = {
    "metrics/evaluate.json": {**SCORES, "baseline_macro_f1": 0.7, "rows": 10, "models": []},
    "metrics/baseline.json": {"baseline_valid": SCORES},
    "metrics/train.json": {
        "valid": {"accuracy": 0.8, "macro_f1": 0.79, "loss": 1e-05},
        "weights": [{"step": 100, "sha256": "a"}, {"step": 200, "sha256": "b"}],
    },
}
LOCK: dict[str, Any] = {
    "schema": "2.0",
    "stages": {
        "fetch": {"outs": [{"path": "data/raw", "md5": "1.dir"}]},
        "prepare": {"outs": [{"path": "data/prepared", "md5": "2.dir"}, {"path": "metrics/prepare.json", "md5": "3"}]},
        "featurize": {"outs": [{"path": "data/features", "md5": "4.dir"}]},
        "train": {"outs": [{"path": "models/transformer", "md5": "5.dir"}]},
    },
}


def git(*arguments: str) -> None:
    names = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *names, *arguments], check=True, capture_output=True, timeout=300)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a repository whose results are committed and unchanged."""
    for variable in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    Path("metrics").mkdir()
    for path, content in METRICS.items():
        Path(path).write_text(json.dumps(content))
    Path("dvc.lock").write_text(yaml.safe_dump(LOCK, sort_keys=False))
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "Reproduce")
    return tmp_path


def change_metric(path: str, name: str, value: float) -> None:
    content = copy.deepcopy(METRICS[path])
    *parts, last = name.split(".")
    inner = content[parts[0]] if parts else content
    inner[last] = value
    Path(path).write_text(json.dumps(content))


def change_hash(stage: str, md5: str) -> None:
    lock = copy.deepcopy(LOCK)
    lock["stages"][stage]["outs"][0]["md5"] = md5
    Path("dvc.lock").write_text(yaml.safe_dump(lock))


def different(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines that `main` marks as different, after it has ended the process."""
    with pytest.raises(SystemExit) as raised:
        compare.main()
    assert raised.value.code == "compare: different: see the lines above"
    return [line for line in capsys.readouterr().out.splitlines() if "DIFFERENT" in line]


@pytest.mark.usefixtures("repository")
def test_unchanged_results_are_reproduced(capsys: pytest.CaptureFixture[str]) -> None:
    compare.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[:8] == [
        "data/raw: same bytes: ok",
        "data/prepared: same bytes: ok",
        "metrics/prepare.json: same bytes: ok",
        "data/features: same bytes: ok",
        "models/transformer: same bytes: ok",
        "weights while training: the same at all 2 steps that were noted",
        "metrics/evaluate.json: score, committed, here, difference",
        "  macro_f1                   0.7900   0.7900  +0.0000  within 0.01: ok",
    ]
    assert lines[-1] == "compare: reproduced: the same bytes"
    assert len([line for line in lines if line.endswith(": ok")]) == 5 + (len(SCORES) + 1) + 3 + 3


@pytest.mark.usefixtures("repository")
def test_rounding_within_the_tolerances_is_reproduced(capsys: pytest.CaptureFixture[str]) -> None:
    change_metric("metrics/evaluate.json", "accuracy", 0.809)
    change_hash("train", "6.dir")
    compare.main()
    out = capsys.readouterr().out
    assert "models/transformer: other bytes\n" in out
    assert "  accuracy                   0.8000   0.8090  +0.0090  within 0.01: ok\n" in out
    assert out.endswith("compare: reproduced: other bytes, but scores within the tolerances\n")


@pytest.mark.parametrize(
    ("noted", "step"),
    [({100: "a", 200: "c"}, 200), ({100: "b", 200: "b"}, 100), ({100: "a"}, 200), ({}, 100), ({50: "a"}, 50)],
)
@pytest.mark.usefixtures("repository")
def test_the_first_step_with_other_weights_is_named(
    noted: dict[int, str], step: int, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = METRICS["metrics/train.json"] | {"weights": [{"step": n, "sha256": h} for n, h in noted.items()]}
    Path("metrics/train.json").write_text(json.dumps(trained))
    compare.main()
    assert f"weights while training: different at step {step}; " in capsys.readouterr().out


@pytest.mark.usefixtures("repository")
def test_a_score_out_of_tolerance_is_different(capsys: pytest.CaptureFixture[str]) -> None:
    change_metric("metrics/evaluate.json", "macro_recall", 0.76)
    change_metric("metrics/baseline.json", "baseline_valid.accuracy", 0.8011)
    assert different(capsys) == [
        "  macro_recall               0.7800   0.7600  -0.0200  within 0.015: DIFFERENT",
        "  baseline_valid.accuracy    0.8000   0.8011  +0.0011  within 0.001: DIFFERENT",
    ]


@pytest.mark.usefixtures("repository")
def test_the_same_tolerances_bind_a_better_score(capsys: pytest.CaptureFixture[str]) -> None:
    change_metric("metrics/train.json", "valid.macro_f1", 0.9)
    assert different(capsys) == ["  valid.macro_f1             0.7900   0.9000  +0.1100  within 0.01: DIFFERENT"]


@pytest.mark.usefixtures("repository")
def test_other_data_are_different_however_close_the_scores(capsys: pytest.CaptureFixture[str]) -> None:
    change_hash("featurize", "other.dir")
    assert different(capsys) == ["data/features: DIFFERENT bytes"]


@pytest.mark.usefixtures("repository")
def test_an_output_that_is_not_here_is_different(capsys: pytest.CaptureFixture[str]) -> None:
    lock = copy.deepcopy(LOCK)
    del lock["stages"]["prepare"]["outs"][1]
    Path("dvc.lock").write_text(yaml.safe_dump(lock))
    assert different(capsys) == ["metrics/prepare.json: DIFFERENT bytes"]


def test_a_score_that_is_not_a_number_is_different() -> None:
    [line] = compare.compare_scores({"a": {"x": 0.5}}, {"a": {"x": float("nan")}}, {"a.x": 1.0})
    assert line.endswith("DIFFERENT")


@pytest.mark.usefixtures("repository")
def test_what_is_held_against_is_the_commit_and_not_the_index() -> None:
    change_hash("fetch", "9.dir")
    git("add", "dvc.lock")
    assert compare.hashes(compare.committed("dvc.lock"))["fetch"] == {"data/raw": "1.dir"}


@pytest.mark.usefixtures("repository")
def test_a_file_that_is_not_committed_is_named() -> None:
    git("rm", "-q", "--cached", "metrics/train.json")
    git("commit", "-qm", "Forget")
    with pytest.raises(UserError) as raised:
        compare.main()
    assert str(raised.value) == "metrics/train.json: not in Git at HEAD, so there is nothing to compare with"


@pytest.mark.usefixtures("repository")
def test_a_missing_lock_says_what_to_run() -> None:
    Path("dvc.lock").unlink()
    with pytest.raises(UserError) as raised:
        compare.main()
    assert str(raised.value) == "dvc.lock: no such file; run `dvc repro`"


@pytest.mark.usefixtures("repository")
def test_a_lock_without_a_stage_says_what_to_run() -> None:
    lock = {"stages": {name: LOCK["stages"][name] for name in ("fetch", "featurize")}}
    Path("dvc.lock").write_text(yaml.safe_dump(lock))
    with pytest.raises(UserError) as raised:
        compare.main()
    assert str(raised.value) == "dvc.lock: no stage prepare; run `dvc repro`"


@pytest.mark.usefixtures("repository")
def test_a_missing_metric_says_what_writes_it() -> None:
    Path("metrics/train.json").unlink()
    with pytest.raises(UserError) as raised:
        compare.main()
    assert str(raised.value) == "metrics/train.json: no such file; `dvc repro` writes it"


def test_the_command_ends_with_0_or_with_1_and_a_line(repository: Path) -> None:
    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tools.compare"],
            cwd=repository,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    assert (run().returncode, run().stderr) == (0, "")
    change_hash("fetch", "9.dir")
    assert (run().returncode, run().stderr) == (1, "compare: different: see the lines above\n")
    Path("dvc.lock").unlink()
    assert (run().returncode, run().stderr) == (1, "compare: dvc.lock: no such file; run `dvc repro`\n")


@pytest.mark.usefixtures("repository")
def test_a_score_that_is_missing_is_named() -> None:
    Path("metrics/train.json").write_text("{}")
    with pytest.raises(UserError) as raised:
        compare.main()
    assert str(raised.value) == "metrics: no number valid.accuracy; `dvc repro` with this commit's code writes it"


def test_the_tolerances_are_of_scores_that_the_stages_write() -> None:
    for path, scores in compare.TOLERANCES.items():
        written = json.loads((ROOT / path).read_text())
        assert all(compare.value(written, name) > 0 for name in scores)
