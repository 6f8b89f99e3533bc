"""The loop that tries ideas: each option does something, and the same options give the same scores."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import trial
from tweets.encode import Encoded
from tweets.errors import UserError

# What each option is set to, with others that it needs.
OPTIONS = [
    "lr=1e-3",
    "batch_size=8",
    "epochs=3",
    "rows=40",
    "warmup=0.5",
    "schedule=cosine",
    "schedule=sqrt",
    "schedule=constant",
    "weight_decay=0.9",
    "dropout=0.3",
    "freeze_embeddings=false",
    "pooler=own",
    "pooler=mean",
    "layer_decay=0.2",
    "head_lr=9",
    "smooth=0.4",
    "confidence_targets=true",
    "confidence_power=3",
    "rdrop=4 dropout=0.3",
    "follow=4 dropout=0.3",
    "mask=0.5",
    "drop=0.5",
    "hide=0.5",
    "memory=0.9",
    "bootstrap=0.9",
    "mixup=0.5",
]


@pytest.fixture
def base(ready: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options that make a training short."""
    del ready
    monkeypatch.setattr(trial, "measured", lambda logits, _: {"sum": float(np.abs(logits).sum())})
    return ["epochs=2", "batch_size=32", "lr=3e-3"]


def result(*options: str) -> Any:
    return trial.run(trial.parse(list(options)))["sum"]


def test_each_option_changes_the_result_and_the_same_one_does_not(base: list[str]) -> None:
    found = result(*base)
    assert found == result(*base)
    for option in OPTIONS:
        assert result(*base, *option.split()) != found, option


def test_each_option_is_tried_here() -> None:
    fields = {field.name for field in dataclasses.fields(trial.Idea)}
    tried = {option.split("=")[0] for option in OPTIONS}
    assert fields - tried == {"seed", "features", "class_power", "teacher", "teacher_weight", "weights", "ema", "save"}


def test_a_rare_class_weighs_more_with_a_power() -> None:
    rows = Encoded(
        ids=np.zeros(4, np.int32),
        offsets=np.arange(5),
        labels=np.array([0, 0, 0, 1]),
        confidence=np.ones(4, np.float32),
    )
    _, weights = trial.targets(trial.parse(["class_power=1"]), rows, 2)
    assert weights.tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])


def test_the_probabilities_that_are_saved_can_teach(base: list[str]) -> None:
    plain = result(*base, "save=saved")
    assert np.load("saved/train-0.npy").sum(1) == pytest.approx(1)
    assert result(*base, "teacher=saved/train-0.npy") != plain


def test_a_trial_prints_a_line_of_json(
    ready: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["trial", "seed=1", "epochs=1", "batch_size=32"])
    trial.main()
    found = json.loads(capsys.readouterr().out)
    assert (found["seed"], found["options"]) == (1, {"epochs": 1, "batch_size": 32})
    assert 0 <= found["macro_f1"] <= 1
    assert set(found["averaged"]) == {"macro_f1", "log_loss"}


@pytest.mark.parametrize("option", ["lrate=1", "lr=high", "epochs=1.5"])
def test_an_option_that_is_none_is_refused(option: str) -> None:
    with pytest.raises(UserError, match=r"^experiments\.trial"):
        trial.parse([option])
