"""Drift: each statistic by its definition, and what a reference alarms on."""

from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import chisquare, ks_2samp

from tweets.evaluation import drift_statistics

ROWS, WINDOW, CLASSES, SIZE = 400, 60, 3, 8


def texts(rows: int, seed: int = 0, **changed: Any) -> drift_statistics.Texts:
    """Return made-up texts, all from the same distribution but for what is changed."""
    rng = np.random.default_rng(seed)
    made = {
        "labels": rng.choice(CLASSES, rows, p=[0.5, 0.3, 0.2]),
        "confidence": rng.uniform(0.4, 1, rows),
        "length": rng.integers(3, 30, rows).astype(float),
        "unknown": np.where(rng.random(rows) < 0.05, 0.1, 0.0),
        "capitals": rng.beta(1, 9, rows),
        "embeddings": rng.normal(size=(rows, SIZE)) * np.arange(1, SIZE + 1),
    }
    return drift_statistics.Texts(**{**made, **{name: change(made[name]) for name, change in changed.items()}})


@pytest.fixture(scope="module")
def reference() -> drift_statistics.Reference:
    return drift_statistics.reference(
        texts(ROWS, 1), texts(ROWS, 2), model="m", classes=CLASSES, window=WINDOW, false_alarms=0.01, seed=0
    )


def alarms(reference: drift_statistics.Reference, window: drift_statistics.Texts) -> list[str]:
    found = drift_statistics.Comparison(reference.axes, reference.sample).statistics(window)
    assert list(found) == list(drift_statistics.STATISTICS) == list(reference.thresholds)
    assert np.isfinite(list(found.values())).all()
    return drift_statistics.alarms(found, reference.thresholds)


def test_what_is_no_number_alarms() -> None:
    assert drift_statistics.alarms({"length": np.nan, "unknown": 0.1}, {"length": 1.0, "unknown": 1.0}) == ["length"]


def test_texts_like_the_reference_hardly_alarm(reference: drift_statistics.Reference) -> None:
    assert sum(bool(alarms(reference, texts(WINDOW, seed))) for seed in range(100, 200)) <= 4


@pytest.mark.parametrize(
    ("named", "changed"),
    [
        (["labels_psi", "labels_chi2"], {"labels": lambda labels: np.where(labels == 0, 2, labels)}),
        (["confidence"], {"confidence": lambda found: found**3}),
        (["length"], {"length": lambda found: found + 15}),
        (["unknown"], {"unknown": lambda found: found + 0.2}),
        (["capitals"], {"capitals": lambda found: 1 - found}),
        (["embedding"], {"embeddings": lambda found: found + np.arange(SIZE)}),
        (["embedding"], {"embeddings": lambda found: found * 2}),
    ],
)
def test_what_shifts_alarms_by_its_name(
    reference: drift_statistics.Reference, named: list[str], changed: dict[str, Any]
) -> None:
    assert [alarms(reference, texts(WINDOW, seed, **changed)) for seed in range(5)] == [named] * 5


def test_psi_is_jeffreys_divergence() -> None:
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    assert drift_statistics.psi(p, p) == 0
    assert drift_statistics.psi(p, q) == pytest.approx(0.3 * np.log(2.5) * 2)
    assert np.isfinite(drift_statistics.psi(np.array([1.0, 0]), np.array([0, 1.0])))


def test_the_others_are_scipys() -> None:
    counts, shares = np.array([10, 25, 5]), np.array([0.5, 0.3, 0.2])
    assert drift_statistics.chi_square(shares, counts) == pytest.approx(chisquare(counts, shares * 40).statistic)
    rng = np.random.default_rng(0)
    one, other = np.sort(rng.integers(0, 9, 80)).astype(float), rng.integers(2, 12, 50).astype(float)
    assert drift_statistics.kolmogorov_smirnov(one, other) == pytest.approx(ks_2samp(one, other).statistic)
    x, y = rng.normal(size=(30, 4)), rng.normal(1, 1, size=(50, 4))
    kernel = [np.exp(-cdist(a, b, "sqeuclidean") / 3) for a, b in ((x, x), (y, y), (x, y))]
    own, within = ((found.sum() - len(found)) / (len(found) * (len(found) - 1)) for found in kernel[:2])
    assert drift_statistics.mmd(x, y, 3.0, within) == pytest.approx(own + within - 2 * kernel[2].mean())


def test_the_axes_have_variances_of_one_and_leave_out_what_does_not_vary() -> None:
    embeddings = np.c_[texts(ROWS).embeddings, np.full(ROWS, 7.0)]
    axes = drift_statistics.principal_axes(embeddings)
    projected = axes.project(embeddings)
    assert projected.shape == (ROWS, SIZE)
    np.testing.assert_allclose(np.cov(projected.T, bias=True), np.eye(SIZE), atol=1e-9)


def test_rows_of_one_class_and_one_text_over_and_over_make_a_reference() -> None:
    same = texts(20, labels=lambda labels: labels * 0).take(np.zeros(20, np.int64))
    made = drift_statistics.reference(same, same, model="m", classes=1, window=WINDOW, false_alarms=0.01, seed=0)
    assert made.window == 10
    assert alarms(made, same) == []
    other = texts(20, 5, labels=lambda labels: labels * 0)
    assert "length" in alarms(made, other)


def test_the_same_rows_make_the_same_reference() -> None:
    one, other = (
        drift_statistics.reference(
            texts(80, 1), texts(60, 2), model="m", classes=3, window=9, false_alarms=0.01, seed=0
        )
        for _ in range(2)
    )
    assert one == other


def test_capitals_are_counted_among_letters_with_two_cases() -> None:
    found = [drift_statistics.capitals(text) for text in ("", "123 !", "שלום", "abc", "ABC", "aB 1", "Éa")]
    assert found == [0, 0, 0, 0, 1, 0.5, 0.5]
