"""Scores of a classifier, with intervals and a paired test.

Throughout, `truth` is (N,) class numbers and `probabilities` is (N, K), each row summing to 1. A metric stands once, in
METRICS at the end: the stages, the tables, the report, the service's page and `make compare` all take it from there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One score of a classifier."""

    name: str  # in metrics/*.json
    title: str  # in tables
    higher_is_better: bool
    tolerance: float  # `make compare`: how far rounding on another processor moves it, about a standard deviation


@dataclass(frozen=True, kw_only=True)
class OfLabels(Metric):
    """A score of the labels alone. It gets a bootstrap interval, and the two models' difference one too."""

    compute: Callable[[npt.NDArray[Any]], Any]  # of confusion matrices (..., K, K), (...,)


@dataclass(frozen=True, kw_only=True)
class OfProbabilities(Metric):
    """A score of the probabilities."""

    compute: Callable[[Ints, Floats, int], float]  # of truth, probabilities and the number of bins


def headline(truth: Ints, probabilities: Floats, *, bins: int = 15) -> dict[str, float]:
    """Return each of METRICS by its name."""
    confusion = confusion_matrix(truth, probabilities.argmax(1), probabilities.shape[1])
    return {
        metric.name: float(metric.compute(confusion))
        if isinstance(metric, OfLabels)
        else metric.compute(truth, probabilities, bins)
        for metric in METRICS
    }


def confusion_matrix(truth: Ints, predicted: Ints, classes: int) -> Ints:
    """Return how many rows of each class are predicted as each, (K, K): the rows are the truth."""
    return np.bincount(truth * classes + predicted, minlength=classes**2).reshape(classes, classes)


def log_loss(truth: Ints, probabilities: Floats) -> float:
    """Return the mean negative log probability of the true class, in nats.

    A probability of 0 counts as the smallest step of a float64 around 1, as in scikit-learn, so the loss is finite.
    """
    of_truth = probabilities[np.arange(len(truth)), truth]
    return float(-np.log(np.maximum(of_truth, np.finfo(np.float64).eps)).mean())


def macro_f1(confusion: npt.NDArray[Any]) -> Any:
    """Return the mean over classes of F1 = 2 TP / (rows + columns), (...,), for confusion matrices (..., K, K).

    A class without rows and without predictions counts as 0, as in scikit-learn with zero_division=0.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    total = confusion.sum(-1) + confusion.sum(-2)
    return np.divide(2 * hits, total, out=np.zeros(hits.shape), where=total > 0).mean(-1)


def macro_recall(confusion: npt.NDArray[Any]) -> Any:
    """Return the mean over classes of recall = TP / rows, (...,), for confusion matrices (..., K, K)."""
    hits, rows = np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-1)
    return np.divide(hits, rows, out=np.zeros(hits.shape), where=rows > 0).mean(-1)


def accuracy(confusion: npt.NDArray[Any]) -> Any:
    """Return the share of the diagonal, (...,), for confusion matrices (..., K, K)."""
    return np.trace(confusion, axis1=-2, axis2=-1) / confusion.sum((-2, -1))


def per_class(truth: Ints, probabilities: Floats, labels: list[str]) -> dict[str, dict[str, float]]:
    """Return precision, recall, F1 and the number of rows of each label; a score without rows to divide by is 0."""
    confusion = confusion_matrix(truth, probabilities.argmax(1), len(labels))
    hits, rows, predictions = np.diagonal(confusion), confusion.sum(1), confusion.sum(0)
    scores = {"precision": hits / np.maximum(predictions, 1), "recall": hits / np.maximum(rows, 1)}
    scores["f1"] = 2 * hits / np.maximum(rows + predictions, 1)
    return {
        label: {name: float(values[k]) for name, values in scores.items()} | {"rows": int(rows[k])}
        for k, label in enumerate(labels)
    }


def reliability(truth: Ints, probabilities: Floats, *, bins: int) -> list[dict[str, float]]:
    """Return, for each of `bins` equal bins of confidence that has rows, their number, mean confidence and accuracy."""
    confidence = probabilities.max(1)
    correct = probabilities.argmax(1) == truth
    number = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        {
            "rows": int((number == b).sum()),
            "confidence": float(confidence[number == b].mean()),
            "accuracy": float(correct[number == b].mean()),
        }
        for b in np.unique(number)
    ]


def calibration_error(truth: Ints, probabilities: Floats, bins: int) -> float:
    """Return the expected calibration error: the mean over rows of |accuracy - confidence| of the row's bin.

    Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3.
    """
    parts = reliability(truth, probabilities, bins=bins)
    return float(sum(part["rows"] * abs(part["accuracy"] - part["confidence"]) for part in parts) / len(truth))


def resampled(truth: Ints, predictions: list[Ints], classes: int, *, resamples: int, seed: int) -> npt.NDArray[Any]:
    """Return the confusion matrices of bootstrap resamples, (resamples, len(predictions), K, K).

    Every prediction is scored on the same resampled rows, so that differences between them are paired.
    """
    rng = np.random.default_rng(seed)
    cells = [truth * classes + predicted for predicted in predictions]
    result = np.empty((resamples, len(cells), classes**2), np.int64)
    for r in range(resamples):
        rows = rng.integers(len(truth), size=len(truth))
        for p, cell in enumerate(cells):
            result[r, p] = np.bincount(cell[rows], minlength=classes**2)
    return result.reshape(resamples, len(cells), classes, classes)


def interval(values: Floats) -> list[float]:
    """Return the 2.5 and 97.5 percentiles: a 95 % bootstrap interval."""
    return [float(value) for value in np.percentile(values, [2.5, 97.5])]


def compare(
    truth: Ints, model: Floats, baseline: Floats, *, resamples: int, seed: int
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return the 95 % intervals of the model's scores, of the baseline's, and the paired comparison of the two.

    The comparison has, for each score, the difference and its interval, and the two-sided exact McNemar test on the
    rows that one of them has right and the other wrong.
    """
    predictions = [model.argmax(1), baseline.argmax(1)]
    classes = model.shape[1]
    confusions = resampled(truth, predictions, classes, resamples=resamples, seed=seed)
    points = [confusion_matrix(truth, predicted, classes) for predicted in predictions]
    intervals: list[dict[str, Any]] = [{}, {}]
    difference: dict[str, Any] = {}
    for metric in OF_LABELS:
        values = metric.compute(confusions)  # (resamples, 2)
        for p in (0, 1):
            intervals[p][metric.name] = interval(values[:, p])
        difference[metric.name] = {
            "difference": float(metric.compute(points[0]) - metric.compute(points[1])),
            "interval": interval(values[:, 0] - values[:, 1]),
        }
    right = [predicted == truth for predicted in predictions]
    gained, lost = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    p_value = mcnemar(gained, lost)
    difference["mcnemar"] = {"only_model_right": gained, "only_baseline_right": lost, "p_value": p_value}
    return intervals[0], intervals[1], difference


def mcnemar(one: int, other: int) -> float:
    """Return the p-value of McNemar's exact two-sided test for how many rows only one and only the other has right.

    Twice the probability that a fair coin, tossed `one + other` times, shows the rarer side at most as often
    (McNemar 1947, with the binomial tail itself instead of chi-square). In logarithms, since the coefficients overflow.
    """
    tosses = one + other
    number = np.arange(min(one, other))
    logarithms = np.cumsum([0.0, *(np.log(tosses - number) - np.log(number + 1))])  # of the binomial coefficients
    return float(min(1.0, 2 * np.exp(logarithms - tosses * np.log(2)).sum()))


METRICS: tuple[OfLabels | OfProbabilities, ...] = (
    OfLabels(name="macro_f1", title="macro-F1", higher_is_better=True, tolerance=0.01, compute=macro_f1),
    OfLabels(name="accuracy", title="accuracy", higher_is_better=True, tolerance=0.01, compute=accuracy),
    OfLabels(name="macro_recall", title="macro-recall", higher_is_better=True, tolerance=0.015, compute=macro_recall),
    OfProbabilities(
        name="log_loss",
        title="log loss",
        higher_is_better=False,
        tolerance=0.03,
        compute=lambda truth, probabilities, _: log_loss(truth, probabilities),
    ),
    OfProbabilities(
        name="calibration_error",
        title="calibration error",
        higher_is_better=False,
        tolerance=0.03,
        compute=calibration_error,
    ),
)
OF_LABELS = [metric for metric in METRICS if isinstance(metric, OfLabels)]
