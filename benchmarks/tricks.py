"""What each thing that makes training fast here gains: the speed with all of them, and with each left out.

    python -m benchmarks.tricks

Run it where `dvc repro` or `dvc pull` has made data/features. Every way trains STEPS batches of real tweets in each
round, by turns. The order of the validation split shows in evaluations, which have a table of their own. Prints both
tables and writes benchmarks/results/tricks.json.
"""

import dataclasses
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from transformers import Trainer

from benchmarks import turns
from benchmarks.machine import machine
from benchmarks.train import Work, one_epoch, part, silence, speed
from stages import train
from tweets import command, files
from tweets.data.dataset import VALID
from tweets.model import transformer
from tweets.model.device import threads
from tweets.model.trainer import TweetTrainer

RESULT = Path("benchmarks/results/tricks.json")
ALL = "all of them"
EVALUATED = 1024  # tweets


def random_order(trainer: Trainer, _: Any = None) -> torch.utils.data.Sampler[int]:
    return torch.utils.data.RandomSampler(trainer.train_dataset)


def left_out(owner: Any, name: str, instead: Any, way: Callable[[], float]) -> Callable[[], float]:
    """Return the way with something else in place of one of this project's functions."""

    def run() -> float:
        with mock.patch.object(owner, name, instead):
            return way()

    return run


def trainings(work: Work, steps: int) -> dict[str, Callable[[], float]]:
    """Return functions that train and return tweets per second: with all tricks, and without each of them."""
    rows = steps * work.settings.batch_size
    whole = speed(one_epoch, work, rows)

    def changed(**settings: Any) -> Callable[[], float]:
        return speed(functools.partial(one_epoch, **settings), work, rows)

    return {
        ALL: whole,
        "without batches of like lengths": left_out(TweetTrainer, "_get_train_sampler", random_order, whole),
        "without bfloat16": changed(precision="fp32"),
        "without plain attention": left_out(train, "attention", lambda _: "sdpa", whole),
        "without the short last layer": left_out(transformer, "read_first_token_only", lambda _: None, whole),
        "without frozen word vectors": changed(freeze_embeddings=False),
        "with dropout 0.1": changed(dropout=0.1),
    }


def evaluations(work: Work) -> dict[str, Callable[[], float]]:
    """Return functions that evaluate and return tweets per second: from short to long, and as the rows come."""
    work = dataclasses.replace(work, split={**work.split, VALID: part(work.split[VALID], EVALUATED)})

    def run() -> float:
        with tempfile.TemporaryDirectory() as folder:
            trainer = one_epoch(work, Path(folder))
            silence(trainer)
            begin = time.perf_counter()
            trainer.evaluate()
            return len(work.split[VALID]) / (time.perf_counter() - begin)

    return {ALL: run, "without its order": left_out(TweetTrainer, "_get_eval_sampler", lambda *_: None, run)}


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--steps", type=int, default=40, help="of each way in a round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    work = Work.load()
    with threads(work.settings.threads):
        measurements = {
            "training": turns.by_turns(trainings(work, options.steps), options.rounds),
            "evaluation": turns.by_turns(evaluations(work), options.rounds),
        }
    for name, runs in measurements.items():
        print(f"{name}\n\n{turns.table(runs, ours=ALL, unit='tweets/s', higher_is_better=True)}\n")
    report = {name: turns.summary(runs, ours=ALL, higher_is_better=True) for name, runs in measurements.items()}
    files.write_json(RESULT, {"machine": machine(), "steps": options.steps * options.rounds, **report})


if __name__ == "__main__":
    command.run("tricks", main)
