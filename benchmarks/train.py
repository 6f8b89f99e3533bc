"""How fast this project trains, beside transformers' Trainer as its users set it up.

    python -m benchmarks.train

Run it where `dvc repro` or `dvc pull` has made data/features. Every way trains the same model for STEPS batches of real
tweets, which are tokenised already, in each round, and by turns:

- this project: stages/train.py with params.yaml, in the precision `auto`;
- Trainer as documented: the settings of transformers' guide to text classification (float32, each batch padded to its
  longest tweet, drawn at random);
- Trainer, tuned: with its own switches for bfloat16, batches of like lengths and several batch sizes, and the attention
  and dropout that the model comes with;
- padded to 128: as documented, each tweet padded to 128 tokens.

The share of the machine's peak counts 6 floating-point operations per token and parameter outside the embeddings
(Kaplan et al. 2020, section 2.1), padding not counted, over those of a matrix product in its precision, in the same
turn. Then this project and the tuned Trainer, with the same learning rate, train until they reach a validation
macro-F1: what a user waits for. Prints a table and writes benchmarks/results/train.json.
"""

import dataclasses
import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from benchmarks import turns
from benchmarks.machine import machine
from stages import train
from tweets import command, files, params
from tweets.data.dataset import TRAIN, VALID
from tweets.model import pretrained
from tweets.model.device import choose_device, threads
from tweets.model.portable import Precision
from tweets.model.trainer import scores
from tweets.text import token_arrays

RESULT = Path("benchmarks/results/train.json")
OURS, DOCUMENTED, PADDED, PEAK = "this project", "Trainer as documented", "padded to 128", "peak"
TUNED = "Trainer, tuned, batches of"
TARGET = 0.78
EVALUATIONS = 20  # on the way to it
SIZES = (16, 32, 64)
DOCUMENTED_BATCH = 16
LONG = 128  # tokens
SIDE = 2048  # of the square matrices whose product is the peak


class Stopwatch(TrainerCallback):  # type: ignore[misc]
    """Takes the time of the steps, from the first to the last; `target` ends the training at that macro-F1."""

    def __init__(self, target: float) -> None:
        self.target, self.reached = target, False
        self.begin = self.seconds = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self.begin = time.perf_counter()

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:  # noqa: ARG002
        if metrics["eval_macro_f1"] >= self.target:
            self.reached = control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        if args.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self.begin


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What all ways train on."""

    settings: train.Train
    features: dict[str, Any]
    split: dict[str, token_arrays.Encoded]
    device: str

    @classmethod
    def load(cls, **changes: Any) -> "Work":
        """Return the work of params.yaml, with changes to its section `train`, on data/features.

        In the precision that is fastest here, where `changes` names no other.
        """
        settings = dataclasses.replace(params.load("train", train.Train), **{"precision": "auto"} | changes)
        return cls(
            settings=settings,
            features=files.read_json(train.FEATURES / "features.json"),
            split={name: token_arrays.load(train.FEATURES / name) for name in (TRAIN, VALID)},
            device=choose_device(settings.device, settings.precision),
        )


def part(encoded: token_arrays.Encoded, count: int) -> token_arrays.Encoded:
    """Return `count` rows drawn by a fixed seed, or all where there are fewer."""
    rows = np.random.default_rng(0).permutation(len(encoded))[:count]
    ids = [encoded.row(index) for index in rows]
    return token_arrays.Encoded(
        ids=np.concatenate(ids),
        offsets=np.cumsum([0, *map(len, ids)]),
        labels=encoded.labels[rows],
        confidence=encoded.confidence[rows],
    )


def ours(work: Work, folder: Path, **changes: Any) -> Trainer:
    """Return this project's trainer."""
    trainer = train.build_trainer(dataclasses.replace(work.settings, **changes), work.features, work.split, folder)
    trainer.args.save_strategy, trainer.args.load_best_model_at_end = "no", False
    return trainer


def theirs(work: Work, folder: Path, switches: dict[str, Any], pad_to: int | None = None) -> Trainer:
    """Return the Trainer of transformers' guide, with some of its switches set."""
    source = work.features["encoder"]
    labels = len(work.features["labels"])
    tokenizer = AutoTokenizer.from_pretrained(train.FEATURES / "tokenizer")
    padding = {"padding": "max_length", "max_length": pad_to} if pad_to else {}
    rows = {
        name: [{"input_ids": encoded.row(i).tolist(), "labels": int(label)} for i, label in enumerate(encoded.labels)]
        for name, encoded in work.split.items()
    }
    documented = {
        "per_device_train_batch_size": DOCUMENTED_BATCH,
        "per_device_eval_batch_size": DOCUMENTED_BATCH,
        "learning_rate": 2e-5,
        "weight_decay": 0.01,
        "num_train_epochs": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": work.device == "cpu",
    }
    return Trainer(
        model=pretrained.from_pretrained(AutoModelForSequenceClassification, source, num_labels=labels),
        args=TrainingArguments(output_dir=str(folder), **{**documented, **switches}),
        train_dataset=rows[TRAIN],
        eval_dataset=rows[VALID],
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer, **padding),
        compute_metrics=scores,
    )


def tuned(batch_size: int) -> dict[str, Any]:
    """Return the switches of the Trainer that make it fast."""
    return {
        "per_device_train_batch_size": batch_size,
        "per_device_eval_batch_size": batch_size,
        "bf16": True,
        "train_sampling_strategy": "group_by_length",
    }


def silence(trainer: Trainer) -> None:
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)


def timed(trainer: Trainer, target: float = 2.0) -> Stopwatch:
    """Train silently, until the validation macro-F1 is `target`."""
    silence(trainer)
    watch = Stopwatch(target)
    trainer.add_callback(watch)
    trainer.train()
    return watch


def one_epoch(work: Work, folder: Path, **changes: Any) -> Trainer:
    """Return this project's trainer for one epoch without evaluation."""
    trainer = ours(work, folder, epochs=1, min_steps=1, evaluations=1, **changes)
    trainer.args.eval_strategy = "no"
    return trainer


def speed(build: Callable[[Work, Path], Trainer], work: Work, rows: int) -> Callable[[], float]:
    """Return a function that trains once on so many tweets and returns tweets per second."""
    work = dataclasses.replace(work, split={**work.split, TRAIN: part(work.split[TRAIN], rows)})
    rows = len(work.split[TRAIN])

    def run() -> float:
        with tempfile.TemporaryDirectory() as folder:
            seconds: float = timed(build(work, Path(folder))).seconds
            return rows / seconds

    return run


def peak(device: str, precision: Precision) -> float:
    """Return the floating-point operations per second of a matrix product as training has them: the median of 20."""
    dtype = torch.bfloat16 if train.in_bfloat16(precision, device) else torch.float32
    one = torch.randn(SIDE, SIDE, dtype=dtype, device=device)
    seconds: list[float] = []
    for _ in range(20):
        begin = time.perf_counter()
        torch.mm(one, one)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return 2 * SIDE**3 / statistics.median(seconds)


def flop_per_tweet(work: Work, rows: int) -> float:
    """Return 6 FLOP for each parameter that is not an embedding and each real token of a tweet, the mean of the rows.

    That counts the last layer in full, though `read_first_token_only` skips most of it.
    """
    built = train.build_model(work.features, work.settings, "cpu")
    embeddings = sum(parameter.numel() for name, parameter in built.named_parameters() if "embeddings" in name)
    parameters = sum(parameter.numel() for parameter in built.parameters()) - embeddings
    return float(6 * parameters * part(work.split[TRAIN], rows).lengths.mean())


def time_to_target(build: Callable[[Path], Trainer]) -> dict[str, Any]:
    """Train until the validation macro-F1 is TARGET. Return the seconds that took, evaluations included, or null."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(Path(folder))
        watch = timed(trainer, TARGET)
        best = max(log["eval_macro_f1"] for log in trainer.state.log_history if "eval_macro_f1" in log)
        return {
            "seconds": watch.seconds if watch.reached else None,
            "steps": trainer.state.global_step,
            "macro_f1": best,
        }


def waiting(work: Work, fastest: int) -> dict[str, dict[str, Any]]:
    """Return the time to TARGET of this project, and of the tuned Trainer with this project's learning rate."""
    every = {"eval_strategy": "steps", "eval_steps": 1 / EVALUATIONS, "num_train_epochs": work.settings.epochs}
    ours_too = {"learning_rate": work.settings.lr, "warmup_steps": work.settings.warmup}
    ways: dict[str, Callable[[Path], Trainer]] = {
        OURS: lambda folder: ours(work, folder, evaluations=EVALUATIONS),
        f"{TUNED} {fastest}": lambda folder: theirs(work, folder, {**tuned(fastest), **every, **ours_too}),
    }
    return {name: time_to_target(build) for name, build in ways.items()}


def measure(work: Work, steps: int, rounds: int) -> dict[str, list[float]]:
    """Return the tweets per second of all ways, and the machine's peak, in each round."""
    documented = steps * DOCUMENTED_BATCH
    ways: dict[str, Callable[[], float]] = {
        PEAK: lambda: peak(work.device, work.settings.precision),
        OURS: speed(one_epoch, work, steps * work.settings.batch_size),
    }
    for size in SIZES:
        ways[f"{TUNED} {size}"] = speed(functools.partial(theirs, switches=tuned(size)), work, steps * size)
    ways[DOCUMENTED] = speed(functools.partial(theirs, switches={}), work, documented)
    ways[PADDED] = speed(functools.partial(theirs, switches={}, pad_to=LONG), work, documented)
    return turns.by_turns(ways, rounds)


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--steps", type=int, default=100, help="of each way in a round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    work = Work.load()
    with threads(work.settings.threads):
        speeds = measure(work, options.steps, options.rounds)
        peaks = speeds.pop(PEAK)
        flop = flop_per_tweet(work, options.steps * work.settings.batch_size)
        share = [speed * flop / peak for speed, peak in zip(speeds[OURS], peaks, strict=True)]
        print(turns.table(speeds, ours=OURS, unit="tweets/s", higher_is_better=True))
        print(f"\nshare of the peak: {turns.Spread.of(share)} of {turns.Spread.of([p / 1e9 for p in peaks])} GFLOP/s\n")
        fastest = max(SIZES, key=lambda size: statistics.median(speeds[f"{TUNED} {size}"]))
        wait = waiting(work, fastest)
    for name, row in wait.items():
        reached = (
            f"{row['seconds']:.0f} s, {row['steps']} steps" if row["seconds"] else f"not reached: {row['macro_f1']:.3f}"
        )
        print(f"validation macro-F1 {TARGET}, {name}: {reached}")
    report = {
        "machine": machine(),
        "device": torch.cuda.get_device_name() if work.device == "cuda" else work.device,
        "steps": options.steps * options.rounds,
        "tweets_per_second": turns.summary(speeds, ours=OURS, higher_is_better=True),
        "peak_flops": vars(turns.Spread.of(peaks)),
        "share_of_peak": vars(turns.Spread.of(share)),
        "time_to_macro_f1": {"target": TARGET, "ways": wait},
    }
    files.write_json(RESULT, report)


if __name__ == "__main__":
    command.run("train", main)
