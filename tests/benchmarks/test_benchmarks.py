"""The benchmarks: what they write, and how they compare; never how fast anything is."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.requirements import Requirement

import stages.train
from benchmarks import dvc, environments, flame, imports, precisions, predict, profile, train, tricks, turns
from tests.support.clones import ENVIRONMENT, MEASURED, ROOT, linked_environment, run
from tests.support.made_up import made_up_tweets, set_param
from tweets.errors import UserError
from tweets.model import transformer
from tweets.model.device import has_bf16
from tweets.model.trainer import TweetTrainer

pytestmark = pytest.mark.walk


def numbered(calls: list[str], name: str, values: list[float]) -> Callable[[], float]:
    """Return a way that gives the values one after the other and notes its calls."""
    left = iter(values)

    def way() -> float:
        calls.append(name)
        return next(left)

    return way


def test_ways_are_measured_by_turns_and_their_first_call_does_not_count() -> None:
    calls: list[str] = []
    ways = {"a": numbered(calls, "a", [9, 1, 2]), "b": numbered(calls, "b", [9, 3, 4])}
    assert turns.by_turns(ways, 2) == {"a": [1, 2], "b": [3, 4]}
    assert calls == ["a", "b"] * 3


def test_a_ratio_is_that_of_neighbours_in_time() -> None:
    # The second round was ten times slower for both. Of the medians the ratio would be 1.2.
    assert turns.ratio([1, 10, 1.2], [2, 20, 1]) == turns.Spread(median=0.5, low=0.5, high=1.2)


@pytest.mark.parametrize(("higher_is_better", "better"), [(True, 4.0), (False, 0.25)])
def test_ours_is_better_by_more_than_one_where_it_is_better(higher_is_better: bool, better: float) -> None:
    found = {"ours": [4.0, 8.0], "theirs": [1.0, 2.0]}
    report = turns.summary(found, ours="ours", higher_is_better=higher_is_better)
    assert report["theirs"] == {
        "runs": [1.0, 2.0],
        "median": 1.5,
        "low": 1.0,
        "high": 2.0,
        "ours_is_better_by": {"median": better, "low": better, "high": better},
    }
    assert report["ours"]["ours_is_better_by"]["median"] == 1
    assert turns.table(found, ours="ours", unit="ms", higher_is_better=higher_is_better).splitlines() == [
        "|  | ms | ours is better by |",
        "|---|---|---|",
        "| ours | 6.00 [4.00, 8.00] |  |",
        f"| theirs | 1.50 [1.00, 2.00] | {better:.2f} [{better:.2f}, {better:.2f}] |",
    ]


# train, tricks, profile


def report_of(benchmark: Any, monkeypatch: pytest.MonkeyPatch, *options: str) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", [benchmark.__name__, *options])
    benchmark.main()
    content: dict[str, Any] = json.loads(benchmark.RESULT.read_text())
    return content


def test_train_measures_each_way_and_the_time_to_a_score(
    ready: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_param(ready, "train.device", "cpu")
    monkeypatch.setattr(train, "LONG", 32)  # the encoder takes 64 tokens
    monkeypatch.setattr(train, "SIDE", 64)
    monkeypatch.setattr(train, "TARGET", 0.05)
    report = report_of(train, monkeypatch, "--steps", "1", "--rounds", "1")
    tuned = [f"Trainer, tuned, batches of {size}" for size in (16, 32, 64)]
    assert list(report["tweets_per_second"]) == sorted([train.OURS, *tuned, train.DOCUMENTED, train.PADDED])
    assert report["steps"] == 1
    assert report["share_of_peak"]["median"] > 0
    waits = report["time_to_macro_f1"]["ways"]
    assert len(waits) == 2
    assert all(way["seconds"] > 0 for way in waits.values())
    assert "| padded to 128 |" in capsys.readouterr().out


def test_each_precision_is_measured_in_a_process_of_its_own(
    ready: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    report = report_of(precisions, monkeypatch, "--steps", "1", "--rounds", "1")
    names = {"portable", "fp32", *(["bf16"] if has_bf16("cpu") else [])}
    assert set(report["tweets_per_second"]) == names
    assert all(found["median"] > 0 for found in report["tweets_per_second"].values())
    assert "| portable |" in capsys.readouterr().out


def test_tricks_leaves_out_one_after_the_other(
    ready: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {owner: vars(owner).copy() for owner in (stages.train, TweetTrainer, transformer)}
    used = set()

    def left_out(owner: Any, name: str, instead: Any, way: Callable[[], float]) -> Callable[[], float]:
        def noted(*arguments: Any) -> Any:
            used.add(name)
            return instead(*arguments)

        return really_left_out(owner, name, noted, way)

    really_left_out = tricks.left_out
    monkeypatch.setattr(tricks, "left_out", left_out)
    report = report_of(tricks, monkeypatch, "--steps", "1", "--rounds", "1")
    assert used == {"_get_train_sampler", "attention", "read_first_token_only", "_get_eval_sampler"}
    assert len(report["training"]) == 7
    assert len(report["evaluation"]) == 2
    assert "| without the short last layer |" in capsys.readouterr().out
    assert {owner: vars(owner).copy() for owner in before} == before  # all is put back


FLAMES = """<svg xmlns="http://www.w3.org/2000/svg" xmlns:fg="http://github.com/jonhoo/inferno"><g><rect/></g><svg>
<g><title>all (1,010 samples, 100%)</title><rect y="36" fg:x="0" fg:w="1010"/></g>
<g><title>dumps (json/a.py:1) (4 samples, 0.4%)</title><rect y="68" fg:x="1000" fg:w="4"/></g>
<g><title>&lt;module&gt; (b.py:1) (1,000 samples, 99%)</title><rect y="52" fg:x="0" fg:w="1000"/></g>
<g><title>call (b.py:9) (6 samples, 0.6%)</title><rect y="52" fg:x="1000" fg:w="6"/></g>
</svg></svg>"""


def test_a_flame_graph_is_read(tmp_path: Path) -> None:
    (tmp_path / "flames.svg").write_text(FLAMES)
    found = flame.stacks(tmp_path / "flames.svg")
    call, dumps, module = "call (b.py:9)", "dumps (json/a.py:1)", "<module> (b.py:1)"
    assert found == {("all",): 4, ("all", module): 1000, ("all", call): 2, ("all", call, dumps): 4}
    parts = flame.shares(found, {"calls": "^call", "JSON": r"\(json/"})
    assert parts == {flame.OTHER: 1004 / 1010, "JSON": 4 / 1010, "calls": 2 / 1010}
    assert flame.table(parts).splitlines()[2:] == ["| other | 99.4% |", "| JSON | 0.4% |", "| calls | 0.2% |"]


def test_a_process_that_cannot_be_looked_at_and_a_missing_py_spy_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    with (
        pytest.raises(UserError, match=r"^py-spy: Error: Failed to [^\n]*$"),
        flame.recorded(ended.pid, tmp_path / "a"),
    ):
        pass
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=r"^py-spy: not found; `make setup-dev`"), flame.recorded(1, tmp_path / "a"):
        pass


def test_profile_shows_where_training_and_serving_spend_their_time(
    ready: Path, reproduced: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (ready / "models").mkdir()
    (ready / "models/onnx").symlink_to(reproduced / "models/onnx")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(train, "SIDE", 64)
    report = report_of(profile, monkeypatch, "--steps", "10", "--seconds", "6")
    trained, served = report["training"], report["serving"]
    assert "aten::addmm" in [row["operator"] for row in trained["operators"]]
    assert trained["products"]["flop"] > 0
    assert sum(row["milliseconds"] for row in trained["operators"]) > trained["products"]["milliseconds"] > 0
    assert set(trained["parts"]) <= {*profile.TRAINING, flame.OTHER}  # which of them, few samples do not tell
    assert {"model", "HTTP", "routes"} <= set(served["parts"])
    for found in (trained, served):
        assert sum(found["parts"].values()) == pytest.approx(1, abs=1e-4)
    assert 0 < served["processors"] < 2
    printed = capsys.readouterr().out
    assert "matrix products: " in printed
    assert "profile/serving.svg shows more" in printed


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("tweets/text/cleaning.py", "clean"),
        ("tweets/evaluation/drift_statistics.py", "monitoring"),
        ("tweets/model/exported.py", "queue and batches"),
        ("serve/batching.py", "queue and batches"),
        ("serve/collection.py", "monitoring"),
        ("serve/connections.py", "HTTP"),
        ("serve/logs.py", "logs"),
        ("serve/metrics.py", "metrics"),
        ("serve/middleware.py", "limits of a request"),
        ("serve/service.py", "routes"),
    ],
)
def test_the_profile_knows_where_our_own_code_is(path: str, part: str) -> None:
    assert (ROOT / path).is_file()
    assert flame.shares({(f"function ({path}:1)",): 1}, profile.SERVING) == {part: 1}


# predict


@pytest.fixture
def here(untrained_model: Path, reproduced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a model, another one exported, and a few tweets to measure with, in a few rounds."""
    monkeypatch.chdir(tmp_path)
    for path in (predict.MODEL, predict.TWEETS):
        path.parent.mkdir(parents=True)
    predict.MODEL.symlink_to(untrained_model)
    predict.ONNX.symlink_to(reproduced / "models/onnx")
    made_up_tweets(12).rename(columns={"text": "raw"}).to_parquet(predict.TWEETS)
    for name, value in {"COUNT": 8, "ROUNDS": 2, "SINGLE": 3, "BLOCK": 1, "THREADS": 1}.items():
        monkeypatch.setattr(predict, name, value)
    # The weights are not trained but large, and so is what their rounding does.
    monkeypatch.setattr(predict, "TOLERANCE", {"bf16": 0.2, "fp32": 1e-4})
    return tmp_path


def test_predict_compares_ours_with_the_pipeline(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict.main()
    report = json.loads(predict.RESULT.read_text())
    rates, alone = report["tweets_per_second"], report["ms_for_one_tweet"]
    names = {predict.EXPORTED, predict.OURS, predict.OURS_FP32, predict.PIPELINE, predict.PIPELINE_32}
    assert set(rates) == names
    assert set(alone) == names - {predict.PIPELINE_32}
    assert all(len(found["runs"]) == 2 and found["median"] > 0 for found in rates.values())
    assert all(found["low"] <= found["median"] <= found["p95"] <= found["high"] for found in alone.values())
    assert (report["tweets"], report["threads"]) == (8, 1)
    assert report["machine"]["bf16"] is has_bf16("cpu")
    assert report["agreement_with_pipeline"][predict.OURS_FP32]["same_labels"] == 1
    assert report["agreement_with_pipeline"][predict.OURS_FP32]["largest_difference"] < 1e-4
    printed = capsys.readouterr().out
    assert set(re.findall(r"^\| (\w.*?) \|", printed, re.MULTILINE)) == names
    assert "tweets.model.transformer, fp32: 100.00% of the labels are the pipeline's" in printed


def test_another_answer_than_the_pipelines_is_refused(here: Path) -> None:
    answers = {
        name: np.array([[0.1, 0.9]]) for name in (predict.EXPORTED, predict.OURS, predict.OURS_FP32, predict.PIPELINE)
    }
    assert predict.agreement(answers)[predict.OURS] == {"same_labels": 1, "largest_difference": 0}
    answers[predict.OURS_FP32] = np.array([[0.101, 0.899]])
    with pytest.raises(UserError, match=r"fp32: a probability differs from the pipeline's by 0\.001$"):
        predict.agreement(answers)


def test_answers_that_change_from_run_to_run_are_refused(here: Path) -> None:
    drawn = iter([0.1, 0.1, 0.2])
    with pytest.raises(UserError, match=r"^tweets\.model\.transformer: gives other probabilities from run to run$"):
        predict.batches({predict.OURS: lambda texts: np.full((len(texts), 1), next(drawn))}, ["a", "b"])


# dvc


def test_dvc_is_measured_in_a_clone_of_its_own(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(clone)
    monkeypatch.setenv("PATH", ENVIRONMENT["PATH"])
    monkeypatch.setattr(dvc, "ROUNDS", 1)
    dvc.main()
    report = json.loads(dvc.RESULT.read_text())
    seconds, beyond = report["seconds"], report["seconds_beyond_the_stages"]
    assert set(seconds) == {dvc.ALONE, dvc.CHANGED, dvc.NOTHING}
    assert beyond[dvc.NOTHING]["median"] == seconds[dvc.NOTHING]["median"]
    difference = seconds[dvc.CHANGED]["median"] - seconds[dvc.ALONE]["median"]
    assert beyond[dvc.CHANGED]["median"] == pytest.approx(difference, abs=1e-3)
    assert len(capsys.readouterr().out.splitlines()) == 5
    assert run(clone, "git", "status", "--porcelain").stdout.split()[1:] == [str(dvc.RESULT)]


# imports


WHERE = ("here", "beside")


def test_imports_are_measured_beside_torch_and_another_checkout(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(clone)
    assert {"stages.fetch", "tweets.predict", "serve.server", "tools.search.__main__"} <= set(imports.commands(Path()))
    monkeypatch.setattr(imports, "commands", lambda root: ["stages.fetch", "serve.keys"])
    report = report_of(imports, monkeypatch, "--rounds", "1", "--beside", str(clone))
    ratios = report["ratios"]
    assert set(ratios) == {
        *(f"{name}, {where}" for name in ("stages.fetch", "serve.keys", imports.ONE_TWEET) for where in WHERE),
        *(f"stages.fetch, {where}, at work" for where in WHERE),
    }
    assert all(found["median"] > 0 for found in ratios.values())
    assert len(report["shares"]["stages.fetch"]) == imports.LARGEST  # which of them depends on what else is measured
    printed = capsys.readouterr().out
    row = r"^\| stages\.fetch \|( [\d.]+ \[[\d., ]+\] \|){4} [\w ]+ \d+%, [\w ]+ \d+%, [\w ]+ \d+% \|$"
    assert re.search(row, printed, re.MULTILINE)


def test_the_shares_of_an_import_are_those_of_its_packages() -> None:
    shares = imports.shares(ROOT, "stages.fetch")
    assert {"pandas", "pandera", "tweets", "standard library"} <= set(shares)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert sum(shares.values()) == pytest.approx(1)


def test_an_import_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^python -c import nowhere: ModuleNotFoundError: No module named 'nowhere'$"):
        imports.run(tmp_path, "-c", "import nowhere")


def test_what_functions_import_counts_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in MEASURED:  # these modules are none of the repository's
        monkeypatch.delenv(name)
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/__init__.py").touch()
    (tmp_path / "tools/late.py").write_text("def work():\n    import colorsys\n    from . import later\n")
    (tmp_path / "tools/later.py").write_text("def work():\n    import wave\n")
    code = "import tools.late{}\nimport sys; print([name in sys.modules for name in ('colorsys', 'wave')])"
    for at_work, expected in (("", "[False, False]"), (imports.AT_WORK, "[True, True]")):
        assert imports.run(tmp_path, "-c", code.format(at_work)).stdout.splitlines()[-1] == expected


# environments


def test_what_a_package_needs_is_counted_once_and_by_the_extras_that_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text('uvicorn==0 # serves\nnone; sys_platform == "nowhere"\n\n')
    plain = environments.installed(environments.required(tmp_path / "requirements.txt"))
    assert set(plain) == {"uvicorn", "click", "h11"}
    assert "dvc-gs" not in environments.installed([Requirement("dvc")])
    assert {"dvc-gs", "gcsfs"} <= set(environments.installed([Requirement("DVC[gs]")]))
    (tmp_path / "requirements.txt").write_text("no-such-package\n")
    with pytest.raises(UserError, match=r"^no-such-package: not installed; `make setup-dev` installs it$"):
        environments.installed(environments.required(tmp_path / "requirements.txt"))


def test_the_size_of_a_package_is_that_of_its_files() -> None:
    found = environments.installed([Requirement("click")])["click"]
    folder = Path(str(found.locate_file("click")))
    inside = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    assert inside <= environments.megabytes(found) < 1.2 * inside + 0.1


def test_environments_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("requirements.txt", "requirements-serve.txt"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    report = report_of(environments, monkeypatch)
    served, trained = report["requirements-serve.txt"], report["requirements.txt"]
    assert report["ratio"] == pytest.approx(served["megabytes"] / trained["megabytes"], rel=1e-4)
    assert 0 < report["ratio"] < 1
    assert "the largest: torch " in capsys.readouterr().out


# make bench


def test_make_bench_runs_one_script_after_the_other_and_stops_at_the_first_that_fails(tmp_path: Path) -> None:
    for path in (ROOT / "Makefile", ROOT / "constraints.txt", *ROOT.glob("requirements*.txt")):
        shutil.copy(path, tmp_path)
    linked_environment(tmp_path)
    (tmp_path / "benchmarks").mkdir()
    names = re.findall(r"^BENCHMARKS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split()
    assert all((ROOT / f"benchmarks/{name}.py").is_file() for name in names)
    for name in names:
        (tmp_path / f"benchmarks/{name}.py").write_text(f"print('ran {name}'); exit({int(name == names[1])})")
    result = run(tmp_path, "make", "-s", "-j2", "bench", check=False)
    assert result.returncode == 2
    assert result.stdout.split("\n")[:-1] == [f"ran {name}" for name in names[:2]]
    assert run(tmp_path, "make", "-s", f"bench-{names[0]}").stdout == f"ran {names[0]}\n"
