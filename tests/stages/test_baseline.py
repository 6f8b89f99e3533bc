"""The stage baseline: the scores it writes are those of the model that it saved."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score

from stages import baseline, fetch, prepare
from tests.support.clones import ENVIRONMENT, ROOT
from tests.support.made_up import LABELS, made_up_tweets, set_param
from tweets import params
from tweets.errors import UserError
from tweets.model import tfidf


@pytest.fixture
def prepared(workspace: Path) -> Path:
    """A workspace with prepared tweets, one in eight of them with a wrong label, so that no score is perfect."""
    rows = made_up_tweets(240)
    rows.loc[::8, "label"] = [LABELS[number % 3] for number in range(30)]
    rows.to_csv("tweets.csv", index=False)
    fetch.main()
    prepare.main()
    return workspace


def test_the_scores_are_those_of_the_saved_model_on_the_validation_split(
    prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline.main()
    rows = pd.read_parquet("data/prepared/valid.parquet")
    probabilities = tfidf.load(Path("models/baseline")).predict(rows["text"].tolist())
    predicted = [LABELS[number] for number in probabilities.argmax(1)]
    scores = json.loads(Path("metrics/baseline.json").read_text())["baseline_valid"]
    assert scores["accuracy"] == pytest.approx(accuracy_score(rows["label"], predicted), abs=1e-5)
    assert scores["macro_f1"] == pytest.approx(f1_score(rows["label"], predicted, average="macro"), abs=1e-5)
    assert set(scores) == {"accuracy", "macro_f1", "log_loss"}
    assert 1 / 3 < scores["accuracy"] <= 1
    assert f"baseline: validation accuracy {scores['accuracy']:.4f}" in capsys.readouterr().out


def test_it_learns_from_the_training_split_alone(prepared: Path) -> None:
    baseline.main()
    known = set(json.loads(Path("models/baseline/model.json").read_text())["vocabulary"]["word"])
    train = pd.read_parquet("data/prepared/train.parquet")["text"].str.split().explode()
    assert {word for word in known if " " not in word} <= {word.lower() for word in train} | {"#topic", "@user"}


def test_the_same_rows_give_the_same_bytes_and_no_pickle(prepared: Path) -> None:
    def written() -> dict[str, bytes]:
        paths = [*Path("models/baseline").iterdir(), Path("metrics/baseline.json")]
        return {path.as_posix(): path.read_bytes() for path in paths}

    baseline.main()
    before = written()
    baseline.main()
    assert written() == before
    assert set(before) == {
        "models/baseline/model.json",
        "models/baseline/weights.safetensors",
        "metrics/baseline.json",
    }


def test_a_weaker_penalty_fits_the_training_rows_better(prepared: Path) -> None:
    rows = pd.read_parquet("data/prepared/train.parquet")
    truth = rows["label"].map(LABELS.index).to_numpy()

    def loss(penalty: float) -> float:
        set_param(prepared, "baseline.C", penalty)
        baseline.main()
        probabilities = tfidf.load(Path("models/baseline")).predict(rows["text"].tolist())
        return float(-np.log(probabilities[np.arange(len(truth)), truth]).mean())

    assert loss(10.0) < loss(0.1)


@pytest.mark.parametrize(
    ("param", "value", "message"),
    [
        ("min_df", 1000, "and min_df = 1000 for 180 tweets: max_df corresponds to < documents than min_df"),
        ("min_df", 180, "and min_df = 180 for 180 tweets: After pruning, no terms remain."),
        ("word_ngrams", [2, 1], "with baseline.word_ngrams = [2, 1], char_ngrams = [2, 5] and min_df = 1 for 180"),
    ],
)
def test_params_that_leave_no_ngrams_are_refused_and_the_old_model_stays(
    prepared: Path, param: str, value: object, message: str
) -> None:
    baseline.main()
    before = Path("models/baseline/weights.safetensors").read_bytes()
    set_param(prepared, f"baseline.{param}", value)
    with pytest.raises(UserError) as raised:
        baseline.main()
    assert str(raised.value).startswith("no n-grams to learn from, with baseline.word_ngrams = ")
    assert message in str(raised.value)
    assert Path("models/baseline/weights.safetensors").read_bytes() == before


def test_fitting_ends_near_the_one_optimum(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So near that no rounding, another on another processor, decides what is predicted."""
    rows = pd.read_parquet("data/prepared/train.parquet")
    texts, classes = rows["text"].tolist(), rows["label"].map(LABELS.index).tolist()
    settings = dataclasses.replace(params.load("baseline", baseline.BaselineParams), C=100.0)
    found = baseline.fit(texts, classes, LABELS, settings).predict(texts)
    monkeypatch.setattr(baseline, "TOLERANCE", 1e-10)
    assert np.abs(found - baseline.fit(texts, classes, LABELS, settings).predict(texts)).max() < 1e-4


def test_the_bytes_do_not_depend_on_the_kernels_that_openblas_would_choose(prepared: Path) -> None:
    found = set()
    for kernels in ("", "Prescott", "Haswell"):
        environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT), "OPENBLAS_CORETYPE": kernels}
        subprocess.run([sys.executable, "-m", "stages.baseline"], check=True, env=environment, capture_output=True)
        found.add((prepared / "models/baseline/weights.safetensors").read_bytes())
    assert len(found) == 1
