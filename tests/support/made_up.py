"""Tweets that nobody wrote, and params that are small enough for them."""

import random
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from tests.support.clones import ROOT, run
from tweets import files

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


def default_cleaning() -> dict[str, Any]:
    """Return the cleaning settings of params.yaml, as they travel with a model."""
    prepare = files.read_yaml(ROOT / "params.yaml")["prepare"]
    return {name: prepare[name] for name in ("normalise", "clean")}


def shrunk_params(encoder: Path, source: Path) -> dict[str, Any]:
    """Return params.yaml with its sizes made small: the made-up tweets, the tiny encoder, a few steps.

    In float32: what is portable is so for a whole process, which other tests use too.
    """
    params: dict[str, Any] = files.read_yaml(ROOT / "params.yaml")
    params["fetch"] |= {"source": "csv", "path": str(source)}
    params["fetch"]["csv"] |= {"id": "id", "confidence": "confidence"}
    params["featurize"] |= {"encoder": str(encoder), "max_length": 32}
    params["baseline"] |= {"min_df": 1}
    params["train"] |= {"lr": 0.003, "batch_size": 8, "epochs": 2, "min_steps": 1, "freeze_embeddings": False}
    params["train"] |= {"log_every": 2, "evaluations": 4, "threads": 1, "precision": "fp32"}
    params["evaluate"] |= {"resamples": 100, "threads": 1}
    params["export"] |= {"threads": 1}
    return params


def set_param(workspace: Path, key: str, value: Any) -> None:
    """Set one param, `section.name[.name]`, in the params.yaml of a workspace."""
    path = workspace / "params.yaml"
    params = files.read_yaml(path)
    *parents, last = key.split(".")
    inner = params
    for parent in parents:
        inner = inner[parent]
    inner[last] = value
    files.write_yaml(path, params)


def shrink(folder: Path, encoder: Path) -> None:
    """Shrink a clone by its params, and drop the results that are in Git, so that every stage has to run.

    The encoder lies where Git will track it: queued experiments see nothing else.
    """
    made_up_tweets(240).to_csv(folder / "data/external/tweets.csv", index=False)
    run(folder, "dvc", "add", "--quiet", "data/external/tweets.csv")
    shutil.copytree(encoder, folder / "encoder")
    params = shrunk_params(Path("encoder"), Path("data/external/tweets.csv"))
    params["train"]["precision"] = "portable"  # each stage is a process
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "dvc.lock").unlink(missing_ok=True)
    for name in ("metrics", "plots"):
        shutil.rmtree(folder / name, ignore_errors=True)
