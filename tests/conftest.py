"""What several tests share: a tiny encoder, a workspace, clones in which the shrunken pipeline has run, a bucket."""

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from tests.support.browser import BROWSER_WAITS, QUIET
from tests.support.clones import (
    ROOT,
    STAGES,
    commit,
    copy_of_this_tree,
    empty_repository,
    point_at,
    run,
    stages_run,
    unconfigured,
)
from tests.support.encoders import MINILM
from tests.support.made_up import LABELS, default_cleaning, made_up_tweets, shrink, shrunk_params

# Where a shell runs the tests in the background, it lets them ignore Ctrl-C, and so would what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two narrow layers with random weights, and the tokenizer of the real encoder."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    from tweets.model import pretrained

    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = pretrained.from_pretrained(AutoTokenizer, str(MINILM))
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
        AutoModelForSequenceClassification, str(tiny_encoder), id2label=dict(enumerate(LABELS))
    )
    with torch.no_grad():
        for weights in untrained.parameters():
            weights.mul_(8 if weights.dim() == 2 else 1)
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    tokenizer.model_max_length = 32
    settings = params.build(CleaningSettings, default_cleaning(), "params.yaml")
    transformer.save(folder, untrained, tokenizer, settings)
    return folder


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
    (folder / "params.yaml").write_text(yaml.safe_dump(shrunk_params(tiny_encoder, Path("tweets.csv"))))
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


@pytest.fixture(scope="session")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a fake-gcs-server, with the bucket of the default remote in it."""
    folder = tmp_path_factory.mktemp("bucket")
    empty_repository(folder)
    run(folder, "python", "-m", "tools.gcs", "start")
    yield json.loads((folder / ".cache/gcs/server.json").read_text())["url"]
    run(folder, "python", "-m", "tools.gcs", "stop")


@pytest.fixture
def shared(clone: Path, bucket: str, request: pytest.FixtureRequest) -> Path:
    """A clone that has pushed to a folder of the bucket that is its own."""
    point_at(clone, bucket, re.sub(r"\W", "-", request.node.name))
    run(clone, "dvc", "push")
    return clone


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
