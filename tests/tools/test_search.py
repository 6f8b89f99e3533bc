"""The search: real trials by the real `dvc` in shrunk clones, interrupted and killed for real."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
import yaml
from filelock import FileLock
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy.pool import NullPool

from repository import isolated
from tests.support.clones import ENVIRONMENT, commit, run, stages_run, unconfigured, wait_for
from tests.support.made_up import set_param
from tools.search import __main__ as search
from tools.search import report as search_report
from tools.search import space as search_space
from tweets import files, params
from tweets.errors import UserError

pytestmark = [pytest.mark.walk, pytest.mark.xdist_group("search")]  # they share a search
COMMAND = ("python", "-m", "tools.search")
FOLDER = Path(".cache/search/try")
# With seed 13 the committed rate comes first, then the others in this order, then the committed one again.
GOOD, HOPELESS, INFINITE = 0.01, 1e-9, 10.0
SETTINGS: dict[str, Any] = {
    "study": "try",
    "trials": 4,
    "seed": 13,
    "pruner": {"startup_trials": 1, "warmup_evaluations": 0},
    "space": {"train.lr": [GOOD, HOPELESS, INFINITE]},
}


def write(folder: Path, **changed: Any) -> None:
    """Write the search.yaml of a clone. It is not committed, and need not be."""
    (folder / "search.yaml").write_text(yaml.safe_dump({**SETTINGS, **changed}))


def lengthen(folder: Path) -> Path:
    """Let the training of a clone take some seconds, with an evaluation in each epoch and no end before the last."""
    values = {"epochs": 12, "evaluations": 12, "patience": 1000, "lr": GOOD, "batch_size": 12}
    values |= {"warmup": 0, "weight_decay": 2}  # of which a rate of 10 makes a factor of -19 at each step
    for name, value in values.items():
        set_param(folder, f"train.{name}", value)
    commit(folder, "commit", "-qam", "Train longer")
    write(folder)
    return folder


def study_in(folder: Path) -> optuna.Study:
    # As the search does, without a pool, which would leave connections open.
    storage = RDBStorage(f"sqlite:///{folder / FOLDER}/study.db", engine_kwargs={"poolclass": NullPool})
    return optuna.load_study(study_name="try", storage=storage)


def run_cache(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.glob(".dvc/cache/runs/*/*/*")}


def shown(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what `dvc exp show` tells of each experiment, by its name."""
    found = json.loads(run(folder, "dvc", "exp", "show", "--json").stdout)
    return {
        experiment["name"]: experiment["revs"][0]["data"] for one in found for experiment in one["experiments"] or []
    }


def in_trial(folder: Path) -> list[psutil.Process]:
    """Return the processes of a trial: those whose current folder is, or was, the clone."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd().startswith(str(folder / FOLDER)):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def searched(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, set[Path]]:
    """A clone after a search of four trials, what that printed, and the run cache from before. To read only."""
    folder = lengthen(shutil.copytree(reproduced, tmp_path_factory.mktemp("search") / "clone", symlinks=True))
    before = run_cache(folder)
    return folder, run(folder, *COMMAND).stdout, before


def test_each_trial_ends_as_its_params_deserve(searched: tuple[Path, str, set[Path]]) -> None:
    folder, printed, _ = searched
    trials = study_in(folder).trials
    assert [trial.params["train.lr"] for trial in trials] == [GOOD, HOPELESS, INFINITE, GOOD]
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "FAIL", "COMPLETE"]
    stopped = trials[1]
    assert 0 < len(stopped.intermediate_values) < len(trials[0].intermediate_values)
    assert max(stopped.intermediate_values) == len(stopped.intermediate_values)
    lines = [line for line in printed.splitlines() if line.startswith("search: ")]
    assert [line.split(": ")[2] for line in lines] == ["try-0", "try-1", "try-2", "try-3"]
    assert f"stopped at evaluation {stopped.last_step} with" in lines[1]
    assert re.search(r"failed: train: the loss is nan at step \d+; try a lower train\.lr;", lines[2])


def test_complete_trials_are_experiments_and_no_others(searched: tuple[Path, str, set[Path]]) -> None:
    folder, _, _ = searched
    complete = {f"try-{t.number}": t for t in study_in(folder).trials if t.state == TrialState.COMPLETE}
    assert run(folder, "dvc", "exp", "list", "--name-only").stdout.split() == ["try-0", "try-3"]
    experiments = shown(folder)
    assert set(experiments) == set(complete) == {"try-0", "try-3"}
    for name, experiment in experiments.items():
        params = experiment["params"]["params.yaml"]["data"]
        assert params["train"]["lr"] == complete[name].params["train.lr"]
        score = experiment["metrics"]["metrics/train.json"]["data"]["valid"]["macro_f1"]
        assert score == complete[name].value == max(complete[name].intermediate_values.values())


def test_no_trial_has_a_score_on_the_test_split(searched: tuple[Path, str, set[Path]]) -> None:
    folder, _, _ = searched
    with_data = {
        name: {path for path, found in experiment["metrics"].items() if "data" in found}
        for name, experiment in shown(folder).items()
    }
    own = {"metrics/prepare.json", "metrics/baseline.json", "metrics/train.json"}
    assert with_data == {"try-0": own, "try-3": own}
    assert [stages_run(run(folder, "cat", str(log))) for log in sorted(folder.glob(f"{FOLDER}/logs/*"))] == [
        ["train"],
        ["train"],
        ["train"],
        [],
    ]


def test_only_what_was_trained_to_its_end_is_in_the_run_cache(searched: tuple[Path, str, set[Path]]) -> None:
    folder, _, before = searched
    [new] = run_cache(folder) - before  # of try-0; try-3 came from it, the others leave nothing
    assert yaml.safe_load((folder / new).read_text())["cmd"] == "python -m stages.train"
    rates = yaml.safe_load((folder / new).read_text())["params"]["params.yaml"]["train"]["lr"]
    assert rates == GOOD


def test_a_search_leaves_the_workspace_as_it_was(searched: tuple[Path, str, set[Path]]) -> None:
    folder, _, _ = searched
    assert run(folder, "git", "status", "--porcelain").stdout == " M search.yaml\n"
    assert run(folder, "git", "stash", "list").stdout == ""
    assert sorted(path.name for path in (folder / FOLDER).iterdir()) == ["index.html", "lock", "logs", "study.db"]


def test_the_page_refers_to_nothing_outside_of_it(searched: tuple[Path, str, set[Path]]) -> None:
    folder, _, _ = searched
    page = (folder / FOLDER / "index.html").read_text()
    assert re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?(?!#)[^ >]*", page) == []
    assert set(re.findall(r"https?://[^\"' <]*", page)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert re.findall("<h2>(.*?)</h2>", page) == [
        "Score of each trial, and the best so far",
        "Score against each param",
        "Learning curves",
        "Trials",
    ]
    assert page.count("<svg") == 3


def test_a_finished_search_prints_its_table_again_whatever_was_committed_since(
    searched: tuple[Path, str, set[Path]], tmp_path: Path
) -> None:
    folder, printed, _ = searched
    copy = shutil.copytree(folder, tmp_path / "copy", symlinks=True)
    commit(copy, "commit", "-qam", "Something else")
    result = run(copy, *COMMAND)
    assert printed.endswith(result.stdout)
    assert result.stdout.splitlines()[-1] == "apply with: dvc exp apply try-0 && dvc repro"


def test_the_last_line_applies_the_best_and_evaluates_it_once(
    searched: tuple[Path, str, set[Path]], tmp_path: Path
) -> None:
    folder, printed, _ = searched
    copy = shutil.copytree(folder, tmp_path / "copy", symlinks=True)
    (copy / "metrics/evaluate.json").write_text("{}\n")  # a stale one would not pass for the new
    commit(copy, "commit", "-qam", "Something else")
    line = printed.splitlines()[-1].removeprefix("apply with: ")
    result = run(copy, "sh", "-c", line)
    assert stages_run(result) == ["evaluate", "export"]
    train = json.loads((copy / "metrics/train.json").read_text())
    assert train["valid"]["macro_f1"] == study_in(folder).best_value
    assert json.loads((copy / "metrics/evaluate.json").read_text())["models"]
    assert "up to date" in run(copy, "dvc", "status").stdout


@pytest.fixture
def long_search(clone: Path) -> Iterator[Path]:
    """A clone for a search of one trial, which takes some seconds."""
    write(lengthen(clone), trials=1)
    yield clone
    for process in in_trial(clone):
        process.kill()


def start(folder: Path) -> subprocess.Popen[str]:
    """Start a search in a process group of its own, as a terminal does, and wait for a new checkpoint."""
    known = set(folder.glob(f"{FOLDER}/checkpoints/*/checkpoint-*/complete"))
    process = subprocess.Popen(
        [sys.executable, *COMMAND[1:]],
        cwd=folder,
        env=ENVIRONMENT,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: set(folder.glob(f"{FOLDER}/checkpoints/*/checkpoint-*/complete")) - known, 600)
    return process


def test_a_search_goes_on_after_ctrl_c_and_after_a_kill(long_search: Path) -> None:
    process = start(long_search)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=600)[1] == "search: interrupted\n"
    assert process.returncode == 1
    assert in_trial(long_search) == []
    assert [trial.state.name for trial in study_in(long_search).trials] == ["FAIL", "WAITING"]
    nothing_left(long_search)

    process = start(long_search)
    assert "train: going on from step" in (long_search / FOLDER / "logs/try-1.txt").read_text()
    for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
        one.kill()
    process.communicate(timeout=600)
    assert [trial.state.name for trial in study_in(long_search).trials] == ["FAIL", "RUNNING"]
    nothing_left(long_search)

    result = run(long_search, *COMMAND)
    assert "train: going on from step" in (long_search / FOLDER / "logs/try-2.txt").read_text()
    trials = study_in(long_search).trials
    assert [trial.state.name for trial in trials] == ["FAIL", "FAIL", "COMPLETE"]
    assert [trial.params["train.lr"] for trial in trials] == [GOOD] * 3
    assert list(shown(long_search)) == ["try-2"]
    assert in_trial(long_search) == []
    assert sorted(path.name for path in (long_search / FOLDER).iterdir()) == ["index.html", "lock", "logs", "study.db"]
    assert result.stdout.endswith("apply with: dvc exp apply try-2 && dvc repro\n")


def nothing_left(folder: Path) -> None:
    """Hold a clone against what an interrupted search may leave in it: nothing outside of the search's folder."""
    assert run(folder, "git", "for-each-ref", "refs/exps").stdout == ""
    assert run(folder, "git", "status", "--porcelain").stdout == " M search.yaml\n"
    assert json.loads((folder / ".dvc/tmp/rwlock").read_text() or "{}") == {}
    with FileLock(folder / FOLDER / "lock", timeout=0):
        pass


def test_a_trial_that_outlived_its_search_is_ended_and_no_other_process(tmp_path: Path) -> None:
    sleep = [sys.executable, "-c", "import subprocess, sys; subprocess.run(['sleep', '60'])"]
    trial = subprocess.Popen([*sleep, "dvc", "exp", "run"], cwd=tmp_path)
    stage = subprocess.Popen([*sleep, "-m", "stages.train"], cwd=tmp_path)
    others = [
        subprocess.Popen(sleep, cwd=tmp_path),
        subprocess.Popen([*sleep, "dvc", "exp", "run"], cwd=tmp_path.parent),
    ]
    try:
        wait_for(lambda: all(psutil.Process(one.pid).children() for one in (trial, stage, *others)), 600)
        left = [psutil.Process(trial.pid), psutil.Process(stage.pid), *psutil.Process(trial.pid).children()]
        isolated.end_leftovers(tmp_path)
        assert not any(process.is_running() for process in left)
        assert [one.poll() for one in others] == [None, None]
    finally:
        for one in (trial, stage, *others):
            for process in isolated.family(one):
                process.kill()
            one.kill()
            one.wait()


@pytest.fixture
def ready(clone: Path) -> Path:
    """A clone with a search.yaml, in which nothing was searched."""
    write(clone)
    return clone


def refused(folder: Path) -> str:
    """Return the one line with which the search ends before any trial."""
    result = run(folder, *COMMAND, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert not list(folder.glob(f"{FOLDER}/logs/*"))
    assert result.stderr.startswith("search: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("search: ").rstrip("\n")


def test_a_changed_file_that_trials_would_not_see_is_refused(ready: Path) -> None:
    set_param(ready, "train.epochs", 1)
    assert refused(ready) == "params.yaml: changed since the last commit, which trials start from: `git commit` first"


def test_an_experiment_of_that_name_that_is_none_of_the_study_is_refused(ready: Path) -> None:
    head = run(ready, "git", "rev-parse", "HEAD").stdout.strip()
    run(ready, "git", "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/try-7", head)
    assert refused(ready) == (
        "experiment try-7 exists and is none of this study:"
        " name another study in search.yaml, or `dvc exp remove try-7`"
    )


def test_values_that_a_stage_would_refuse_end_the_search_before_it_trains(ready: Path) -> None:
    write(ready, space={"train.lr": [0.1], "train.dropout": {"low": 0.1, "high": 1.0}})
    assert refused(ready) == "search.yaml: train.dropout = 1.0: should be less than 1"


def test_a_second_search_of_a_study_is_refused(ready: Path) -> None:
    (ready / FOLDER).mkdir(parents=True)
    with FileLock(ready / FOLDER / "lock"):
        assert refused(ready) == "study try: another search of it is running; wait for it or end it"


def test_a_file_that_is_no_study_is_refused(ready: Path) -> None:
    (ready / FOLDER).mkdir(parents=True)
    (ready / FOLDER / "study.db").write_text("junk " * 1000)
    assert re.fullmatch(r".*/study\.db: no study \(.*\); remove .*/try to begin anew", refused(ready))


@pytest.fixture
def begun(ready: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[optuna.Study, Path]:
    """A study whose first trial is running: what a kill leaves. The current folder is its clone's."""
    monkeypatch.chdir(ready)
    (ready / FOLDER).mkdir(parents=True)
    settings = search_space.load_settings(Path("search.yaml"))
    space = search_space.distributions(Path("search.yaml"), settings.space)
    study = search.open_study(ready / FOLDER, settings, space)
    study.set_user_attr("commit", run(ready, "git", "rev-parse", "HEAD").stdout.strip())
    study.ask(space)
    return study, ready


def test_a_study_of_another_space_is_refused(begun: tuple[optuna.Study, Path]) -> None:
    _, folder = begun
    write(folder, space={"train.lr": [GOOD]})
    assert refused(folder) == (
        f"study try has trials of another space: name another study, or remove {folder / FOLDER}"
    )


def test_a_study_of_another_commit_is_refused(begun: tuple[optuna.Study, Path]) -> None:
    study, folder = begun
    commit(folder, "commit", "-qam", "Something else")
    head = run(folder, "git", "rev-parse", "HEAD").stdout
    assert refused(folder) == (
        f"study try belongs to commit {study.user_attrs['commit'][:7]}, HEAD is {head[:7]}:"
        " name another study in search.yaml, or check that commit out"
    )


def test_a_trial_killed_after_its_experiment_was_fetched_is_complete(begun: tuple[optuna.Study, Path]) -> None:
    study, folder = begun
    head = run(folder, "git", "rev-parse", "HEAD").stdout.strip()
    run(folder, "git", "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/try-0", head)
    search.recover(study, folder)
    [trial] = study.trials
    assert trial.state == TrialState.COMPLETE
    assert trial.value == json.loads((folder / "metrics/train.json").read_text())["valid"]["macro_f1"]


def test_a_trial_that_was_killed_is_enqueued_again_once(begun: tuple[optuna.Study, Path]) -> None:
    study, folder = begun
    study.enqueue_trial(study.trials[0].params, user_attrs={search.AGAIN: 0})  # killed between the two steps
    search.recover(study, folder)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]
    assert search.finished(study) == []
    assert study.ask(study.trials[0].distributions).params == study.trials[0].params


def test_a_search_stops_when_its_first_trials_all_fail(clone: Path) -> None:
    write(clone, space={"fetch.max_chars": [1, 2]}, trials=9)
    result = run(clone, *COMMAND, check=False)
    assert result.returncode == 1
    assert result.stdout.count("failed: fetch: ") == 3
    assert result.stderr.startswith("search: all of the first 3 trials failed; the last one's output: ")
    assert {trial.state.name for trial in study_in(clone).trials} == {"FAIL"}
    assert shown(clone) == {}


def test_without_a_name_for_commits_a_search_says_how_to_tell_git_one(clone: Path, tmp_path: Path) -> None:
    write(clone)
    result = run(clone, *COMMAND, check=False, **unconfigured(tmp_path / "home"))
    assert result.returncode == 1
    assert result.stderr == (
        "search: Git has no user.name and no user.email, and DVC makes a commit of each experiment: type"
        ' `git config --global user.name "Your Name"` and `git config --global user.email you@example.org`\n'
    )
    assert study_in(clone).trials == []


FILE = Path("search.yaml")


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"train.lrr": [1]}, "space.train.lrr: no such param in params.yaml; did you mean train.lr"),
        ({"model.depth": [1]}, "space.model.depth: no such param in params.yaml; the search knows those of fetch, "),
        ({"evaluate.bins": [5]}, "space.evaluate.bins: no such param in params.yaml; "),
        ({"prepare.clean": [1]}, "space.prepare.clean: a section; name one of its params"),
        ({"train.lr": []}, "space.train.lr = []: needs a list of choices, each one value, or a range with low and"),
        ({"train.lr": [[1]]}, "space.train.lr = [[1]]: needs a list of choices, each one value, or a range with "),
        ({"train.lr": [0.1, 0.1]}, "space.train.lr = [0.1, 0.1]: a choice stands there twice"),
        ({"train.lr": {"low": 1}}, "space.train.lr.high: missing; it needs a value"),
        ({"train.lr": {"low": 1, "high": 2, "by": 1}}, "space.train.lr.by: unknown param; "),
        ({"train.lr": {"low": 2, "high": 1}}, "low = 2 must be below high = 1"),
        ({"train.lr": {"low": 0, "high": 1, "log": True}}, "log: true needs low > 0 and no step"),
        ({"train.lr": {"low": 0, "high": 1, "step": 0.3}}, "high = 1 must be a whole number of steps of 0.3 above low"),
        ({"train.epochs": {"low": 1, "high": 2.5}}, "space.train.epochs: 2 in params.yaml is an integer; low, high an"),
        ({"train.device": {"low": 1, "high": 2}}, "space.train.device: 'auto' in params.yaml is no number; list the c"),
    ],
)
def test_a_space_that_cannot_be_searched_is_one_line(workspace: Path, space: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        search_space.distributions(FILE, space)
    assert str(raised.value).startswith("search.yaml: space.")
    assert message in str(raised.value)


@pytest.mark.usefixtures("workspace")
def test_a_space_is_read_with_the_types_of_its_params() -> None:
    space = {
        "train.lr": {"low": 2e-5, "high": 1, "log": True},
        "train.epochs": {"low": 2, "high": 6, "step": 2},
        "train.warmup": {"low": 0, "high": 0.3, "step": 0.1},
        "train.weight_decay": [0.01, 0],
        "prepare.clean.stem": [True, False],
    }
    found = search_space.distributions(FILE, space)
    assert found == {
        "train.lr": FloatDistribution(2e-5, 1.0, log=True),
        "train.epochs": IntDistribution(2, 6, step=2),
        "train.warmup": FloatDistribution(0.0, 0.3, step=0.1),
        "train.weight_decay": CategoricalDistribution((0.01, 0)),
        "prepare.clean.stem": CategoricalDistribution((True, False)),
    }
    search_space.check_values(FILE, found)
    assert search_space.identity(found) == search_space.identity(dict(reversed(found.items())))
    inside = {"train.lr": 2e-5, "train.epochs": 4, "train.warmup": 0.3, "prepare.clean.stem": False}
    outside = {"train.lr": 1e-5, "train.epochs": 5, "train.warmup": 0.25, "train.weight_decay": 0.1}
    assert all(search_space.contains(found[key], value) for key, value in inside.items())
    assert not any(search_space.contains(found[key], value) for key, value in outside.items())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"study": "a/b"}, "search.yaml.study = 'a/b': "),
        ({"trials": 0}, "search.yaml.trials = 0: "),
        ({"trails": 3}, "search.yaml.trails: unknown param; "),
        ({"space": {}}, "search.yaml.space = {}: "),
        ({"pruner": {"startup_trials": 1}}, "search.yaml.pruner.warmup_evaluations: missing; "),
    ],
)
def test_settings_out_of_range_are_one_line(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    write(tmp_path, **changed)
    with pytest.raises(UserError) as raised:
        search_space.load_settings(tmp_path / "search.yaml")
    assert message in str(raised.value)


def test_the_space_of_this_repository_can_be_searched() -> None:
    settings = search_space.load_settings(FILE)
    space = search_space.distributions(FILE, settings.space)
    search_space.check_values(FILE, space)
    now = search_space.current()
    assert all(search_space.contains(space[key], now[key]) for key in space)


def test_warmup_evaluations_are_those_at_which_no_trial_is_stopped(ready: Path) -> None:
    (ready / FOLDER).mkdir(parents=True)
    write(ready, pruner={"startup_trials": 1, "warmup_evaluations": 2})
    settings = search_space.load_settings(ready / FILE)
    study = search.open_study(ready / FOLDER, settings, {})
    good, bad = study.ask(), study.ask()
    for evaluation in (1, 2, 3):
        good.report(1.0, evaluation)
    study.tell(good, 1.0)
    stopped = []
    for evaluation in (1, 2, 3):
        bad.report(0.0, evaluation)
        stopped.append(bad.should_prune())
    assert stopped == [False, False, True]


@pytest.mark.parametrize(
    ("log", "line"),
    [
        (
            "train: 180 tweets\ntrain: the loss is nan\nERROR: failed to reproduce 'train': failed to run: x\n",
            "train: the loss is nan",
        ),
        ("Running\nERROR: failed to reproduce 'fetch': no file\n\n", "failed to reproduce 'fetch': no file"),
        ("predict: 10%\rpredict: 20%\rKilled\n", "Killed"),
        ("", "dvc exp run ended without a word"),
    ],
)
def test_the_error_of_a_trial_is_the_stages_own_line(log: str, line: str) -> None:
    assert isolated.error_in(log) == line


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (-9, "the stage train was ended by signal 9"),
        (137, "the stage train was ended by signal 9"),  # of the shell around it
        (1, ""),
        (255, ""),
    ],
)
def test_a_stage_that_was_killed_is_told_from_one_that_failed(status: int, words: str) -> None:
    log = f"train: step 3\nERROR: failed to reproduce 'train': failed to run: python -m x, exited with {status}\n"
    assert isolated.killed_in(log) == words
    assert isolated.killed_in("ERROR: failed to reproduce 'train': no file\n") == ""


def test_a_half_written_line_of_the_curve_waits_for_its_end(tmp_path: Path) -> None:
    assert isolated.curve(tmp_path) == []
    path = tmp_path / isolated.CURVE
    path.parent.mkdir(parents=True)
    for text, points in {
        "step\tma": [],
        "step\tmacro_f1\n10\t0.5\n20\t0.": [0.5],
        "h\n10\t0.5\n20\t0.6\n": [0.5, 0.6],
    }.items():
        path.write_text(text)
        assert isolated.curve(tmp_path) == points


@pytest.mark.parametrize(
    "value",
    ["it's", "a b,[x]", "back\\slash", "end\\", "a\\\n", 'say "hi"', '\\"', ["a'b", 'c"'], 1e-9, 3, True, None, "null"],
)
def test_dvc_reads_each_value_as_it_was(tmp_path: Path, value: Any) -> None:
    from dvc.utils.hydra import apply_overrides

    (tmp_path / "params.yaml").write_text("a:\n  b: 0\n")
    apply_overrides(tmp_path / "params.yaml", [params.override("a.b", value)])
    found = files.read_yaml(tmp_path / "params.yaml")["a"]["b"]
    assert found == value


def test_local_paths_are_linked_and_none_may_lead_out(tmp_path: Path) -> None:
    root, clone = tmp_path / "root", tmp_path / "root/study/clone"
    for name in ("data/mine.csv", "data/README.md", "data/in_dvc/a.csv", "encoder/weights"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (clone / "data").mkdir(parents=True)
    (clone / "data/README.md").write_text("of Git")
    (clone / "data/in_dvc.dvc").touch()
    local = isolated.local_paths(root, ["data", "encoder/weights", "gs://bucket/x", "token", "/tmp", "", None, 3])
    assert local == ("data", "encoder/weights")
    isolated.link_local(isolated.Place(root, root / "study", "", "", local))
    assert (clone / "data/README.md").read_text() == "of Git"
    assert (clone / "data/mine.csv").read_text() == "data/mine.csv"
    assert (clone / "encoder/weights").read_text() == "encoder/weights"
    assert not (clone / "data/in_dvc").exists()
    (tmp_path / "outside.csv").touch()
    with pytest.raises(UserError, match=r"params\.yaml: \.\./outside\.csv: leads elsewhere from the clone"):
        isolated.local_paths(root, ["../outside.csv"])


def test_the_best_come_first_then_the_stopped_then_the_failed() -> None:
    study = optuna.create_study(study_name="try", direction="maximize")
    for score in (0.5, 0.7):
        study.tell(study.ask(), score)
    stopped, failed = study.ask(), study.ask()
    stopped.report(0.9, 1)
    study.tell(stopped, state=TrialState.PRUNED)
    failed.set_user_attr(search.ERROR, "train: too <b>much</b>")
    study.tell(failed, state=TrialState.FAIL)
    rows = search_report.frame(study, study.trials).to_dict("records")
    assert [(row["rank"], row["experiment"], row["macro-F1"], row["state"]) for row in rows] == [
        ("1", "try-1", "0.7000", "complete"),
        ("2", "try-0", "0.5000", "complete"),
        ("", "try-2", "0.9000", "stopped at evaluation 1"),
        ("", "try-3", "", "failed: train: too <b>much</b>"),
    ]


def test_a_page_of_many_trials_says_which_params_matter(tmp_path: Path) -> None:
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(search_report.TRIALS_FOR_IMPORTANCES):
        trial = study.ask({"train.lr": FloatDistribution(1e-5, 1e-3, log=True), "train.epochs": IntDistribution(1, 3)})
        study.tell(trial, trial.params["train.lr"])
    search_report.write_page(tmp_path / "index.html", study, study.trials)
    page = (tmp_path / "index.html").read_text()
    assert "<h2>Importance of each param</h2>" in page
    assert page.count("<svg") == 4
