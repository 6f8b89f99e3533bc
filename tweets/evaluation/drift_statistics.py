"""Drift: how far what a model gets, and what it makes of it, is from what it was validated on.

Export writes a reference beside the model: what validation rows look like to the model, along the axes in which
training rows differ most. A window of texts is compared with it by several statistics, each of which alarms above a
threshold.

The thresholds come from the validation rows themselves. They are cut in halves again and again, and windows of one half
are compared with the other; in a given share of those windows any of the statistics is above its threshold.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field

from tweets import params

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

NUMBERS = ("confidence", "length", "unknown", "capitals")
STATISTICS = ("labels_psi", "labels_chi2", *NUMBERS, "embedding")
QUANTILES = 501  # of each number of the reference's texts, which are kept
LANDMARKS = 1_000  # texts of the reference, at most, with which embeddings are compared
AXES = 32  # along which embeddings are compared
HALVES, WINDOWS = 100, 10  # how often validation is cut, and how many windows each time
SMALL = 1e-4  # stands for a share of 0, where a share divides or has its logarithm taken
COMMON = 0.99  # the quantile of each statistic that they are made comparable by


@dataclass(frozen=True, kw_only=True)
class Texts:
    """What the model made of N texts, and what they look like to it."""

    labels: Ints  # (N,) class numbers
    confidence: Floats  # (N,) the probability of that class
    length: Floats  # (N,) tokens
    unknown: Floats  # (N,) share of the tokens that the tokenizer does not know
    capitals: Floats  # (N,) share of the letters that are capitals
    embeddings: Floats  # (N, D)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Ints) -> "Texts":
        """Return those rows, in that order."""
        return Texts(**{name: values[rows] for name, values in vars(self).items()})


def concatenate(parts: Iterable[Texts]) -> Texts:
    """Return all texts of the parts, of which there is at least one."""
    parts = list(parts)
    return Texts(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])})


def describe(texts: Sequence[str], outputs: npt.NDArray[np.void]) -> Texts:
    """Return what is compared of N raw texts and the outputs of the exported model for them, (N,)."""
    probabilities = outputs["probabilities"]
    return Texts(
        labels=probabilities.argmax(1),
        confidence=probabilities.max(1),
        length=outputs["tokens"].astype(np.float64),
        unknown=outputs["unknown"] / np.maximum(outputs["tokens"], 1),
        capitals=np.array([capitals(text) for text in texts], np.float64),
        embeddings=outputs["embedding"].astype(np.float64),
    )


def capitals(text: str) -> float:
    """Return the share of the letters with two cases that are capitals; 0 where there are none."""
    upper, lower = sum(map(str.isupper, text)), sum(map(str.islower, text))
    return upper / (upper + lower) if upper else 0.0


@params.section
class Axes:
    """The principal axes of embeddings: what is compared is (embedding - mean) @ matrix, with variances of 1."""

    mean: list[float]  # (D,)
    matrix: list[list[float]]  # (D, d)

    def project(self, embeddings: Floats) -> Floats:
        """Return embeddings, (N, D), along the axes, (N, d)."""
        projected: Floats = (embeddings - np.array(self.mean)) @ np.array(self.matrix)
        return projected


@params.section
class Sample:
    """What a window is compared with: the texts of a sample, of which only numbers are kept."""

    labels: list[float]  # (K,) the share of each class
    confidence: list[float]  # quantiles, as are the next three
    length: list[float]
    unknown: list[float]
    capitals: list[float]
    landmarks: list[list[float]]  # (M, d) embeddings along the axes
    bandwidth: float  # of the kernel: the median squared distance between landmarks
    within: float  # the mean of the kernel between two landmarks


def _of_each_statistic(values: dict[str, float]) -> dict[str, float]:
    if values.keys() != set(STATISTICS):
        raise ValueError(f"needs one of each of {', '.join(STATISTICS)}")
    return values


@params.section
class Reference:
    """The content of reference.json."""

    model: str  # SHA-256 of the model that it was made for
    window: Annotated[int, Field(ge=2)]  # texts
    false_alarms: float  # share of the windows without drift in which any statistic is above its threshold
    axes: Axes
    sample: Sample
    thresholds: Annotated[dict[str, float], AfterValidator(_of_each_statistic)]


def principal_axes(embeddings: Floats) -> Axes:
    """Return the axes along which embeddings, (N, D), differ most, AXES at most."""
    mean = embeddings.mean(0)
    _, sizes, directions = np.linalg.svd(embeddings - mean, full_matrices=False)
    kept = min(AXES, int((sizes > 1e-3 * sizes[0]).sum()))
    matrix = directions[:kept].T / sizes[:kept] * np.sqrt(len(embeddings))
    return Axes(mean=mean.tolist(), matrix=matrix.tolist())


def sample(texts: Texts, axes: Axes, classes: int) -> Sample:
    """Return what windows are compared with, from N >= 2 texts in any order."""
    levels = np.linspace(0, 1, QUANTILES)
    quantiles = {name: np.quantile(getattr(texts, name), levels, method="inverted_cdf").tolist() for name in NUMBERS}
    landmarks = axes.project(texts.embeddings[:LANDMARKS])
    distances = _squared_distances(landmarks, landmarks)
    apart = ~np.eye(len(landmarks), dtype=bool)
    bandwidth = float(np.median(distances[apart])) or 1.0
    return Sample(
        labels=(np.bincount(texts.labels, minlength=classes) / len(texts)).tolist(),
        landmarks=landmarks.tolist(),
        bandwidth=bandwidth,
        within=float(np.exp(-distances[apart] / bandwidth).mean()),
        **quantiles,
    )


def psi(expected: Floats, observed: Floats) -> float:
    """Return the population stability index of two distributions, (K,): the sum of (q - p) ln(q / p).

    Jeffreys' divergence (1946), under the name that credit scoring gave it.
    """
    p, q = np.maximum(expected, SMALL), np.maximum(observed, SMALL)
    return float(((q - p) * np.log(q / p)).sum())


def chi_square(expected: Floats, counts: Ints) -> float:
    """Return Pearson's statistic of counts, (K,), where shares, (K,), are expected: the sum of (O - E)^2 / E."""
    amounts = np.maximum(expected, SMALL) * counts.sum()
    return float(((counts - amounts) ** 2 / amounts).sum())


def kolmogorov_smirnov(expected: Floats, observed: Floats) -> float:
    """Return the largest distance between the distribution functions of two samples, of which the first is sorted."""
    values = np.sort(observed)
    points = np.concatenate([expected, values])
    before = np.searchsorted(expected, points, side="right") / len(expected)
    after = np.searchsorted(values, points, side="right") / len(values)
    return float(np.abs(before - after).max())


def mmd(embeddings: Floats, landmarks: Floats, bandwidth: float, within: float) -> float:
    """Return the squared maximum mean discrepancy of embeddings, (N, d), and landmarks, (M, d), unbiased.

    Gretton et al., A Kernel Two-Sample Test, JMLR 2012, equation 3, with a Gaussian kernel. `within` is its first term,
    for the landmarks.
    """
    rows = len(embeddings)
    own = np.exp(-_squared_distances(embeddings, embeddings) / bandwidth)
    across = np.exp(-_squared_distances(embeddings, landmarks) / bandwidth)
    return float((own.sum() - rows) / (rows * (rows - 1)) + within - 2 * across.mean())


def _squared_distances(a: Floats, b: Floats) -> Floats:
    squared_distances: Floats = np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0)
    return squared_distances


class Comparison:
    """The comparison of windows with a sample."""

    def __init__(self, axes: Axes, of: Sample) -> None:
        self.axes, self.sample = axes, of
        self.labels, self.landmarks = np.array(of.labels), np.array(of.landmarks)
        self.quantiles = {name: np.array(getattr(of, name)) for name in NUMBERS}

    def statistics(self, window: Texts) -> dict[str, float]:
        """Return each of STATISTICS for a window of N >= 2 texts."""
        counts = np.bincount(window.labels, minlength=len(self.labels))
        numbers = {name: kolmogorov_smirnov(self.quantiles[name], getattr(window, name)) for name in NUMBERS}
        projected = self.axes.project(window.embeddings)
        return {
            "labels_psi": psi(self.labels, counts / len(window)),
            "labels_chi2": chi_square(self.labels, counts),
            **numbers,
            "embedding": mmd(projected, self.landmarks, self.sample.bandwidth, self.sample.within),
        }


def thresholds(
    texts: Texts, axes: Axes, classes: int, *, window: int, false_alarms: float, seed: int
) -> dict[str, float]:
    """Return a threshold for each statistic, such that in `false_alarms` of the windows any is above its own."""
    rng = np.random.default_rng(seed)
    statistics: list[list[float]] = []
    for _ in range(HALVES):
        rows = rng.permutation(len(texts))
        one, other = rows[: len(rows) // 2], rows[len(rows) // 2 :]
        comparison = Comparison(axes, sample(texts.take(one), axes, classes))
        for _ in range(WINDOWS):
            drawn = texts.take(rng.choice(other, window, replace=False))
            statistics.append(list(comparison.statistics(drawn).values()))
    values = np.array(statistics)  # (windows, statistics)
    scale = np.maximum(np.quantile(values, COMMON, axis=0), SMALL)
    factor = np.quantile((values / scale).max(1), 1 - false_alarms)
    return dict(zip(STATISTICS, (factor * scale).tolist(), strict=True))


def reference(
    training: Texts, validation: Texts, *, model: str, classes: int, window: int, false_alarms: float, seed: int
) -> Reference:
    """Return the reference of a model, which is named by its SHA-256.

    A window has `window` texts, or half as many as validation where it has fewer than twice as many.
    """
    axes = principal_axes(training.embeddings)
    window = min(window, len(validation) // 2)
    shuffled = validation.take(np.random.default_rng(seed).permutation(len(validation)))
    alarm_thresholds = thresholds(shuffled, axes, classes, window=window, false_alarms=false_alarms, seed=seed)
    return Reference(
        model=model,
        window=window,
        false_alarms=false_alarms,
        axes=axes,
        sample=sample(shuffled, axes, classes),
        thresholds=alarm_thresholds,
    )


def alarms(statistics: dict[str, float], limits: dict[str, Any]) -> list[str]:
    """Return the names of the statistics that are above their thresholds, or no numbers."""
    return [name for name, value in statistics.items() if not value <= limits[name]]
