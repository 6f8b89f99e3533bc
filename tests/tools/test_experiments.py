"""The walk through experiments in docs/experiments.md, with the real `dvc`, and what happens when it goes wrong.

Most look at what tools/story.sh leaves of a shrunken repository: two clones, a bucket and a bare Git repository, all on
loopback.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.support.clones import ENVIRONMENT, ROOT, STAGES, commit, point_at, run, stages_run, wait_for
from tests.support.made_up import set_param

pytestmark = [pytest.mark.walk, pytest.mark.xdist_group("experiments")]  # they share one play of the story
GRID = {"lr-1": 1e-05, "lr-2": 3e-05, "lr-3": 1e-04}
AGAIN = {"again": 1e-05}  # from the run cache
SHARED = ("data/raw", "data/prepared", "data/features", "models/baseline")
SECONDS_FOR_A_QUEUE = 600


def environment_of_its_own(folder: Path) -> str:
    """Make folder/.venv with the packages of this environment. Return the PATH that activates it and no other."""
    run(folder, sys.executable, "-m", "venv", "--without-pip", ".venv")
    [packages] = (folder / ".venv").glob("lib/python*/site-packages")
    (packages / "these.pth").write_text(sysconfig.get_path("purelib") + "\n")
    dvc = folder / ".venv/bin/dvc"
    dvc.write_text(f"#!{folder}/.venv/bin/python\nimport sys\nfrom dvc.cli import main\nsys.exit(main())\n")
    dvc.chmod(0o755)
    return f"{folder}/.venv/bin{os.pathsep}/usr/bin{os.pathsep}/bin"


def statuses(folder: Path) -> dict[str, str]:
    """Return the status of each task of the queue, by the name of its experiment."""
    found = re.findall(r"^[0-9a-f]{7} +(\S+) .* (\w+) *$", run(folder, "dvc", "queue", "status").stdout, re.MULTILINE)
    return dict(found)


def start_queue(folder: Path, workers: int, **changed: str) -> None:
    """Start workers. They keep the stdout of `dvc queue start`: whoever reads it through a pipe waits for their end."""
    with tempfile.TemporaryFile("w+") as output:
        command = ["dvc", "queue", "start", "-j", str(workers)]
        subprocess.run(command, cwd=folder, env={**ENVIRONMENT, **changed}, stdout=output, stderr=output, check=True)
        output.seek(0)
        assert f"Started '{workers}' new" in output.read()


def finished(folder: Path) -> bool:
    return not {"Queued", "Running"} & set(statuses(folder).values())


def experiments(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the last revision of each experiment of HEAD that has finished, by name."""
    shown = json.loads(run(folder, "dvc", "exp", "show", "--json").stdout)
    ranges = [found for commit in shown for found in commit["experiments"] or []]
    return {found["name"]: found["revs"][0] for found in ranges if found["revs"][0]["data"]}


def params(experiment: dict[str, Any]) -> Any:
    return experiment["data"]["params"]["params.yaml"]["data"]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def clean(folder: Path) -> bool:
    """Tell whether the workspace is what Git's HEAD says, outputs included."""
    tracked = run(folder, "git", "status", "--porcelain").stdout
    return not tracked and "up to date" in run(folder, "dvc", "status").stdout


@pytest.fixture(scope="module")
def story(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """What tools/story.sh prints, and its folder. The made-up tweets are in Git, where both clones find them."""
    folder = tmp_path_factory.mktemp("story")
    repository = shutil.copytree(reproduced, folder / "repository", symlinks=True)
    (repository / "data/external/tweets.csv.dvc").unlink()
    commit(repository, "add", "-Af", "data/external")
    commit(repository, "commit", "-qm", "Tweets in Git")
    command = ["bash", "tools/story.sh", str(folder / "played")]
    result = subprocess.run(
        command, cwd=repository, env=ENVIRONMENT, capture_output=True, text=True, timeout=1500, check=False
    )
    return result, folder / "played"


@pytest.fixture(scope="module")
def grid(story: tuple[subprocess.CompletedProcess[str], Path]) -> Path:
    """The story's clone a, whose queue has run three learning rates with two workers. To read only."""
    _, played = story
    run(played / "a", "git", "restore", ".")
    run(played / "a", "dvc", "checkout")
    return played / "a"


@pytest.fixture
def mine(grid: Path, tmp_path: Path) -> Path:
    """A copy of the clone with the three experiments, for a test that changes it."""
    return shutil.copytree(grid, tmp_path / "clone", symlinks=True)


def test_the_story_holds(story: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    result, _ = story
    assert result.returncode == 0, result.stdout + result.stderr
    assert "=== The story holds" in result.stdout
    assert stages_run(result) == STAGES  # by a, once; b runs none, and the queue prints none
    assert "verify: OK" in result.stdout
    assert sorted(set(re.findall(r"\[(lr-\d)\]", result.stdout))) == ["lr-1", "lr-2", "lr-3"]


def test_everything_run_in_another_clone_gives_the_same_lock_metrics_and_plots(
    story: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    """Else a would have had something to commit."""
    _, played = story
    assert run(played / "a", "git", "log", "-1", "--format=%s").stdout == "Tweets in Git\n"


def test_the_story_leaves_no_server_behind(story: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    result, played = story
    assert "gcs: stopped" in result.stdout
    assert "was not running" in run(played / "a", "python", "-m", "tools.gcs", "stop").stdout


def test_a_folder_that_exists_is_refused(reproduced: Path, tmp_path: Path) -> None:
    result = run(reproduced, "bash", "tools/story.sh", str(tmp_path), check=False)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == f"FAILED: {tmp_path}: must be a new folder"


def test_the_queue_runs_a_grid(grid: Path) -> None:
    assert statuses(grid) == dict.fromkeys(GRID, "Success")
    assert {name: params(found)["train"]["lr"] for name, found in experiments(grid).items()} == GRID | AGAIN
    assert clean(grid)


def test_a_learning_rate_takes_everything_before_training_from_the_cache(grid: Path) -> None:
    base = json.loads(run(grid, "dvc", "exp", "show", "--json").stdout)[0]["data"]["outs"]
    found = experiments(grid)
    for name in GRID:
        assert stages_run(run(grid, "dvc", "queue", "logs", name)) == ["evaluate", "export", "train"]
        outs = found[name]["data"]["outs"]
        assert {path: outs[path]["hash"] for path in SHARED} == {path: base[path]["hash"] for path in SHARED}
        assert outs["models/transformer"]["hash"] != base["models/transformer"]["hash"]


def test_the_curated_view_shows_scores_and_the_params_that_differ(grid: Path) -> None:
    shown = run(grid, "make", "-s", "-o", "setup", "experiments", COLUMNS="80").stdout
    [header] = [line for line in shown.splitlines() if "Experiment" in line]
    assert header.split() == ["Experiment", "valid.macro_f1", "macro_f1", "train.lr"]
    rows = dict(re.findall(r"\[(lr-\d)\] .* (\S+) *$", shown, re.MULTILINE))
    assert {name: float(lr) for name, lr in rows.items()} == GRID
    assert max(map(len, shown.splitlines())) <= 80


def test_exp_diff_names_the_param_and_the_scores_that_differ(grid: Path) -> None:
    diff = json.loads(run(grid, "dvc", "exp", "diff", "lr-1", "lr-3", "--json").stdout)
    assert diff["params"]["params.yaml"].keys() == {"train.lr"}
    assert diff["params"]["params.yaml"]["train.lr"] | {"diff": 0} == {"old": 1e-05, "new": 1e-04, "diff": 0}
    assert "calibration_error" in diff["metrics"]["metrics/evaluate.json"]  # other scores differ in the seventh digit


def test_the_page_of_plots_diff_draws_both_and_asks_no_network(grid: Path, tmp_path: Path) -> None:
    run(grid, "dvc", "plots", "diff", "lr-1", "lr-3", "--out", str(tmp_path / "page"))
    page = (tmp_path / "page/index.html").read_text()
    declared = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values()
    assert page.count("vegaEmbed('#") == sum(len(stage.get("plots", [])) for stage in declared)
    assert {rev for rev in re.findall(r'"rev": ?"([^"]+)"', page) if rev.startswith("lr")} == {"lr-1", "lr-3"}
    assert re.findall(r"<(?:script|link|img)[^>]*(?:src|href)\s*=\s*[\"']?(?:https?:)?//[^>]*", page) == []


def test_apply_brings_params_metrics_and_model_without_running_anything(mine: Path) -> None:
    wanted = experiments(mine)["lr-3"]
    run(mine, "dvc", "exp", "apply", "lr-3")
    assert yaml.safe_load((mine / "params.yaml").read_text()) == params(wanted)
    metrics = json.loads((mine / "metrics/train.json").read_text())
    del metrics["weights"]  # a list: DVC shows none
    assert metrics == wanted["data"]["metrics"]["metrics/train.json"]["data"]
    lock = yaml.safe_load((mine / "dvc.lock").read_text())["stages"]["train"]["outs"]
    [model] = [out for out in lock if out["path"] == "models/transformer"]
    assert model["md5"] == wanted["data"]["outs"]["models/transformer"]["hash"]
    result = run(mine, "dvc", "repro")
    assert stages_run(result) == []
    assert "is cached" not in result.stdout


def test_a_variant_taken_from_the_run_cache_has_the_outputs_of_the_first(grid: Path) -> None:
    found = experiments(grid)
    assert found["again"]["data"]["outs"] == found["lr-1"]["data"]["outs"]
    assert "lr: 1e-05" in run(grid, "git", "show", f"{found['again']['rev']}:params.yaml").stdout  # as typed: 1e-5


def test_an_experiment_becomes_a_branch_gets_a_new_name_and_goes(mine: Path) -> None:
    run(mine, "dvc", "exp", "branch", "lr-1", "slow")
    kept = yaml.safe_load(run(mine, "git", "show", "slow:params.yaml").stdout)
    assert float(kept["train"]["lr"]) == GRID["lr-1"]
    run(mine, "dvc", "exp", "rename", "lr-2", "medium")
    run(mine, "dvc", "exp", "remove", "lr-3")
    assert run(mine, "dvc", "exp", "list", "--name-only").stdout.split() == ["again", "lr-1", "medium"]


def test_a_run_in_a_temporary_folder_leaves_the_workspace_alone(mine: Path) -> None:
    model = md5(mine / "models/transformer/model.safetensors")
    result = run(mine, "dvc", "exp", "run", "--temp", "--name", "aside", "-S", "fetch.max_chars=9999")
    assert stages_run(result) == ["fetch"]
    assert params(experiments(mine)["aside"])["fetch"]["max_chars"] == 9999
    assert clean(mine)
    assert md5(mine / "models/transformer/model.safetensors") == model


@pytest.mark.parametrize("where", [[], ["--temp"], ["--queue"]])
def test_a_name_that_is_taken_stops_a_run_before_it_starts(grid: Path, where: list[str]) -> None:
    before = run(grid, "git", "for-each-ref").stdout
    result = run(grid, "dvc", "exp", "run", *where, "--name", "lr-1", "-S", "train.lr=0.5", check=False)
    assert result.returncode != 0
    assert "ERROR: Experiment conflicts with existing experiment 'lr-1'" in result.stderr
    assert "Traceback" not in result.stderr
    assert stages_run(result) == []
    assert run(grid, "git", "for-each-ref").stdout == before
    assert clean(grid)


def test_a_name_that_is_taken_stops_renaming_and_branching(mine: Path) -> None:
    run(mine, "git", "branch", "taken")
    for command, error in (
        (["rename", "lr-1", "lr-2"], "conflicts with existing experiment 'lr-2'"),
        (["branch", "lr-1", "taken"], "Git branch 'taken' already exists"),
    ):
        result = run(mine, "dvc", "exp", *command, check=False)
        assert result.returncode != 0
        assert error in result.stderr
        assert "Traceback" not in result.stderr
    assert experiments(mine).keys() == (GRID | AGAIN).keys()


def shared(folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    return run(folder, "python", "-m", "tools.experiments", "share", name, check=False)


def test_sharing_a_name_that_is_taken_fails_and_keeps_the_other(mine: Path, tmp_path: Path, bucket: str) -> None:
    point_at(mine, bucket, "taken")
    run(tmp_path, "git", "clone", "-q", "--bare", str(mine), "origin.git")
    run(mine, "git", "remote", "set-url", "origin", str(tmp_path / "origin.git"))
    first = shared(mine, "lr-1")
    assert first.returncode == 0
    assert "experiments: lr-1 at origin" in first.stdout
    theirs = run(mine, "git", "ls-remote", "origin", "refs/exps/*").stdout
    assert "/lr-1" in theirs
    assert shared(mine, "lr-1").returncode == 0  # the same once more
    run(mine, "dvc", "exp", "remove", "lr-1")
    run(mine, "dvc", "exp", "rename", "lr-2", "lr-1")
    result = shared(mine, "lr-1")
    assert result.returncode == 1
    assert "lr-1: origin has another experiment of that name; `dvc exp rename` yours" in result.stderr.splitlines()[-1]
    assert run(mine, "git", "ls-remote", "origin", "refs/exps/*").stdout == theirs
    unknown = shared(mine, "nobody")
    assert unknown.returncode == 1
    assert "nobody" in unknown.stderr
    assert "Traceback" not in unknown.stderr


def executors(folder: Path) -> list[psutil.Process]:
    """Return the processes that run an experiment of a clone's queue; the parent of each is its worker."""
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        if "exec-run" in line and any(argument.startswith(f"{folder}/") for argument in line):
            found.append(process)
    return found


@pytest.fixture
def queue_at_work(clone: Path) -> Iterator[Path]:
    """A clone whose two workers, from a .venv in it, which Git ignores, are in the middle of training."""
    path = environment_of_its_own(clone)
    for name, value in {"epochs": 300, "patience": 1000, "evaluations": 300}.items():
        set_param(clone, f"train.{name}", value)
    run(clone, "dvc", "exp", "run", "--queue", "--name", "long", "-S", "train.lr=1e-4,2e-4", PATH=path)
    run(clone, "git", "restore", "params.yaml")
    start_queue(clone, 2, PATH=path)

    def both_train() -> bool:
        checkpoints = clone.glob(".dvc/tmp/exps/*/.cache/train/*/checkpoint-*/complete")
        return len({path.relative_to(clone).parts[3] for path in checkpoints}) == 2

    wait_for(both_train, SECONDS_FOR_A_QUEUE)
    yield clone
    for executor in executors(clone):
        for process in [*executor.children(recursive=True), executor]:
            process.kill()
    run(clone, "dvc", "queue", "stop", "--kill")


def test_a_queue_whose_workers_are_killed_goes_on_after_one_command(queue_at_work: Path) -> None:
    clone = queue_at_work
    first, second = executors(clone)
    worker = first.parent()
    assert worker
    worker.suspend()  # as a busy one, it does not answer DVC
    refused = run(clone, "python", "-m", "tools.experiments", "recover", check=False)
    worker.resume()
    assert refused.returncode == 1
    assert "workers run; wait for them" in refused.stderr
    for process in (first.parent(), second.parent(), second):  # of the first experiment, only its worker
        assert process
        process.kill()
    assert statuses(clone) == {"long-1": "Running", "long-2": "Running"}
    assert "Worker status: 0 active" in run(clone, "dvc", "queue", "status").stdout
    assert "long-1" in run(clone, "dvc", "exp", "show", "--no-pager").stdout
    assert stages_run(run(clone, "dvc", "exp", "run", "-S", "fetch.max_chars=9999")) == ["fetch"]

    recovered = run(clone, "python", "-m", "tools.experiments", "recover").stdout
    assert "experiments: long-1, long-2: ended, queue again" in recovered
    assert not first.is_running()
    assert statuses(clone) == {}
    assert list((clone / ".dvc/tmp/exps").glob("tmp*")) == []
    assert "no task was lost" in run(clone, "python", "-m", "tools.experiments", "recover").stdout

    run(clone, "dvc", "exp", "run", "--queue", "--name", "long-1", "-S", "fetch.max_chars=9998")
    start_queue(clone, 1)
    wait_for(lambda: any(clone.glob(".git/refs/exps/*/*/long-1")), SECONDS_FOR_A_QUEUE)
    wait_for(lambda: finished(clone), SECONDS_FOR_A_QUEUE)
    assert statuses(clone) == {"long-1": "Success"}
    assert params(experiments(clone)["long-1"])["fetch"]["max_chars"] == 9998
    assert stages_run(run(clone, "dvc", "repro")) == []
