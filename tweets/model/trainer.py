"""transformers' Trainer for tweets: batches of rows of like lengths, weights in the loss, curves in each checkpoint."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import EvalPrediction, Trainer, TrainerCallback

from tweets.errors import UserError
from tweets.evaluation import metrics
from tweets.model import checkpoints, portable
from tweets.progress import track
from tweets.text import token_arrays

if TYPE_CHECKING:
    from dvclive import Live


class LengthOrder(torch.utils.data.Sampler[int]):
    """An order of the rows in which each run of `batch_size` has like lengths and the runs are shuffled.

    It depends on the seed and the epoch alone, so that a resumed run sees the same batches. 1.7 times as fast as any
    order: `python -m benchmarks.tricks`, as for what the other tricks gain.
    """

    POOL = 64  # batches whose rows are sorted together

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        rows = rng.permutation(len(self.lengths))
        pools = np.split(rows, range(self.POOL * self.batch_size, len(rows), self.POOL * self.batch_size))
        sorted_rows = np.concatenate([pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools])
        # The last, shorter batch stays last: a DataLoader cuts the order into batches of one size.
        full = len(rows) // self.batch_size * self.batch_size
        batches = sorted_rows[:full].reshape(-1, self.batch_size)
        return iter([*rng.permutation(batches).ravel().tolist(), *sorted_rows[full:].tolist()])


def row_weights(confidence: np.ndarray, power: float) -> np.ndarray:
    """Return the weight of each row in the loss, (N,), of mean 1: confidence ** power, the mean where it is missing."""
    known = ~np.isnan(confidence)
    mean = confidence[known].mean() if known.any() else 1.0
    weights = np.where(known, confidence, mean) ** power
    scaled: np.ndarray = (weights / weights.mean()).astype(np.float32)
    return scaled


class TweetTrainer(Trainer):
    """A Trainer whose batches hold rows of like lengths, each with its weight in the loss."""

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthOrder:  # noqa: ARG002
        encoded = self.train_dataset.encoded
        return LengthOrder(encoded.lengths, self.args.train_batch_size, self.args.seed)

    def _get_eval_sampler(self, eval_dataset: Any) -> list[int]:
        """Evaluate from the shortest row to the longest, 1.7 times as fast: `python -m benchmarks.tricks`."""
        order: list[int] = np.argsort(eval_dataset.encoded.lengths, kind="stable").tolist()
        return order

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        weights, labels = inputs.pop("weights"), inputs.pop("labels")
        outputs = model(**inputs)
        losses = cross_entropy(outputs.logits.float(), labels, reduction="none")  # (batch,)
        loss = (losses * weights).mean()
        if not torch.isfinite(loss):
            raise UserError(f"the loss is {loss.item()} at step {self.state.global_step}; try a lower train.lr")
        return (loss, outputs) if return_outputs else loss


class Rows(torch.utils.data.Dataset[Any]):
    """The rows of a split, with their weights in the loss. A DataLoader gets a batch of them at once."""

    def __init__(self, encoded: token_arrays.Encoded, weights: np.ndarray, pad: int) -> None:
        self.encoded, self.weights, self.pad = encoded, weights, pad

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """Return the batch, padded to its longest row: ids and mask (batch, longest), labels and weights (batch,)."""
        rows = np.array(indices)
        ids, mask = self.encoded.padded(rows, self.pad)
        batch = {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": self.encoded.labels[rows],
            "weights": self.weights[rows],
        }
        return {name: torch.from_numpy(np.asarray(array)) for name, array in batch.items()}


class Report(TrainerCallback):
    """Show how far training is and, for each evaluation, a line with its scores."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self.progress = track(desc="train", unit="steps", total=state.max_steps, initial=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self.progress.update()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:  # noqa: ARG002
        if "loss" in logs:
            self.progress.set_postfix_str(f"loss {logs['loss']:.3f}", refresh=False)
        if "eval_loss" in logs:
            self.progress.write(
                f"train: step {state.global_step:,}: validation loss {logs['eval_loss']:.4f},"
                f" accuracy {logs['eval_accuracy']:.4f}, macro-F1 {logs['eval_macro_f1']:.4f}"
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self.progress.close()


class Weights(TrainerCallback):
    """Note a hash of the weights every so many steps, to find where two trainings part. Checkpoints keep the notes."""

    STEPS = 100

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:  # noqa: ARG002
        if state.global_step % self.STEPS == 0:
            weights = portable.hash_of(weight.detach().cpu() for weight in model.parameters())
            state.log_history.append({"step": state.global_step, "weights": weights})


class Curves(TrainerCallback):
    """Write the curves with DVCLive, and keep a copy of them in each checkpoint, to go on from after a kill."""

    def __init__(self, live: "Live") -> None:
        self.live = live

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:  # noqa: ARG002
        names = {"loss": "train/loss", "learning_rate": "train/lr", "grad_norm": "train/grad_norm"}
        names |= {f"eval_{name}": f"valid/{name}" for name in ("loss", "accuracy", "macro_f1")}
        logged_metrics = {names[name]: value for name, value in logs.items() if name in names}
        if logged_metrics:
            self.live.step = state.global_step
            for name, value in {**logged_metrics, "epoch": round(state.epoch, 4)}.items():
                self.live.log_metric(name, round(value, 6))
            self.live.make_summary()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        shutil.copytree(self.live.dir, checkpoint / "live")
        # Where training stops early a checkpoint does not count: the Trainer would train on from it.
        if not control.should_training_stop or state.global_step == state.max_steps:
            (checkpoint / checkpoints.COMPLETE).touch()


def scores(prediction: EvalPrediction) -> dict[str, float]:
    """Return accuracy and macro-F1 on the validation split, for the Trainer."""
    logits, truth = prediction.predictions, prediction.label_ids
    confusion = metrics.confusion_matrix(truth, logits.argmax(-1), logits.shape[1])
    return {"accuracy": float(metrics.accuracy(confusion)), "macro_f1": float(metrics.macro_f1(confusion))}
