"""Scores against scikit-learn's and SciPy's, and against values worked out by hand."""

from math import comb, log

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score

from tweets.evaluation import metrics

# Four rows of two classes: right at 0.9, wrong at 0.6, right at 0.8, right at 0.7.
TRUTH = np.array([0, 0, 1, 1])
PROBABILITIES = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]])


def random_case(rows: int, classes: int, seed: int = 0) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return classes and probabilities that lean to the right class."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(classes, size=rows)
    weights = rng.random((rows, classes)) + 0.6 * np.eye(classes)[truth]
    return truth, weights / weights.sum(1, keepdims=True)


def sure(predicted: npt.NDArray[np.int64], classes: int) -> npt.NDArray[np.float64]:
    return np.eye(classes)[predicted] * 0.8 + 0.2 / classes


def test_headline_of_four_rows_worked_out_by_hand() -> None:
    assert metrics.headline(TRUTH, PROBABILITIES) == pytest.approx(
        {
            "accuracy": 3 / 4,
            "macro_f1": (2 / 3 + 4 / 5) / 2,
            "macro_recall": (1 / 2 + 1) / 2,
            "log_loss": -(log(0.9) + log(0.4) + log(0.8) + log(0.7)) / 4,
            "calibration_error": (0.1 + 0.6 + 0.2 + 0.3) / 4,
        }
    )


def test_headline_of_a_class_without_rows_counts_it() -> None:
    truth = np.array([0, 0])
    scores = metrics.headline(truth, np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]]))
    assert scores == pytest.approx(
        {
            "accuracy": 1 / 2,
            "macro_f1": (2 / 3) / 3,
            "macro_recall": (1 / 2) / 3,
            "log_loss": -(log(0.8) + log(0.2)) / 2,
            "calibration_error": (0.2 + 0.7) / 2,
        }
    )


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_scores_are_those_of_scikit_learn(classes: int) -> None:
    truth, probabilities = random_case(200, classes)
    predicted = probabilities.argmax(1)
    scores = metrics.headline(truth, probabilities)
    assert scores["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    assert scores["macro_f1"] == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert scores["macro_recall"] == pytest.approx(balanced_accuracy_score(truth, predicted))


def test_scores_of_many_confusion_matrices_are_those_of_each() -> None:
    matrices = np.array([[[2, 1], [0, 3]], [[0, 0], [0, 4]], [[0, 5], [1, 0]]])
    assert metrics.accuracy(matrices) == pytest.approx([5 / 6, 1, 0])
    assert metrics.macro_f1(matrices) == pytest.approx([(4 / 5 + 6 / 7) / 2, (0 + 1) / 2, 0])
    assert metrics.macro_recall(matrices) == pytest.approx([(2 / 3 + 1) / 2, (0 + 1) / 2, 0])


def test_scores_of_each_class() -> None:
    assert metrics.per_class(TRUTH, PROBABILITIES, ["no", "yes"]) == {
        "no": {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "rows": 2},
        "yes": {"precision": pytest.approx(2 / 3), "recall": 1.0, "f1": pytest.approx(0.8), "rows": 2},
    }


def test_a_class_that_is_never_predicted_scores_0_without_a_warning() -> None:
    scores = metrics.per_class(np.array([0, 0]), np.array([[0.9, 0.05, 0.05]] * 2), ["a", "b", "c"])
    assert scores["a"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "rows": 2}
    assert scores["b"] == scores["c"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "rows": 0}


def test_reliability_has_a_point_for_each_bin_with_rows() -> None:
    assert metrics.reliability(TRUTH, PROBABILITIES, bins=4) == [
        {"rows": 2, "confidence": pytest.approx(0.65), "accuracy": 0.5},
        {"rows": 2, "confidence": pytest.approx(0.85), "accuracy": 1.0},
    ]


def test_full_confidence_falls_in_the_last_bin() -> None:
    points = metrics.reliability(np.array([0, 1]), np.array([[1.0, 0.0], [0.0, 1.0]]), bins=10)
    assert points == [{"rows": 2, "confidence": 1.0, "accuracy": 1.0}]


def test_calibration_error_weighs_each_bin_by_its_rows() -> None:
    truth, probabilities = np.append(TRUTH, 1), np.vstack([PROBABILITIES, [0.0, 1.0]])
    # Bins of a half: all five rows, confidence 0.8, accuracy 0.8.
    assert metrics.calibration_error(truth, probabilities, bins=2) == pytest.approx(0)
    # Bins of a quarter: two rows off by 0.15, three rows off by 0.1.
    assert metrics.calibration_error(truth, probabilities, bins=4) == pytest.approx((2 * 0.15 + 3 * 0.1) / 5)


def test_resamples_are_confusion_matrices_of_rows_drawn_with_replacement() -> None:
    truth, probabilities = random_case(30, 3)
    predicted = probabilities.argmax(1)
    drawn = metrics.resampled(truth, [predicted, truth], 3, resamples=5, seed=1)
    assert drawn.shape == (5, 2, 3, 3)
    rng = np.random.default_rng(1)
    for matrices in drawn:
        rows = rng.integers(30, size=30)
        assert matrices[0].tolist() == confusion_matrix(truth[rows], predicted[rows], labels=range(3)).tolist()
        assert matrices[1].tolist() == np.diag(np.bincount(truth[rows], minlength=3)).tolist()


def test_the_same_seed_draws_alike_and_another_otherwise() -> None:
    truth, probabilities = random_case(30, 3)
    first, again, other = (
        metrics.resampled(truth, [probabilities.argmax(1)], 3, resamples=5, seed=seed) for seed in (0, 0, 1)
    )
    assert (first == again).all()
    assert (first != other).any()


def test_an_interval_is_the_middle_95_per_cent() -> None:
    assert metrics.interval(np.arange(1001) / 1000) == pytest.approx([0.025, 0.975])


def test_intervals_cover_the_score_and_are_as_wide_as_its_standard_error_says() -> None:
    truth, probabilities = random_case(400, 2)
    intervals, _, _ = metrics.compare(truth, probabilities, probabilities, resamples=1000, seed=0)
    scores = metrics.headline(truth, probabilities)
    for name in ("accuracy", "macro_f1", "macro_recall"):
        low, high = intervals[name]
        assert low < scores[name] < high
    low, high = intervals["accuracy"]
    standard_error = (scores["accuracy"] * (1 - scores["accuracy"]) / 400) ** 0.5
    assert high - low == pytest.approx(2 * 1.96 * standard_error, rel=0.1)


def test_95_per_cent_intervals_cover_the_true_accuracy_about_that_often() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        truth = np.zeros(200, np.int64)
        drawn = metrics.resampled(truth, [(rng.random(200) > 0.8).astype(np.int64)], 2, resamples=200, seed=0)
        low, high = metrics.interval(metrics.accuracy(drawn[:, 0]))
        covered += low <= 0.8 <= high
    assert 88 <= covered <= 99


def test_a_model_compared_with_itself_differs_by_nothing() -> None:
    truth, probabilities = random_case(50, 3)
    model, baseline, difference = metrics.compare(truth, probabilities, probabilities, resamples=50, seed=0)
    assert model == baseline
    nothing = {"difference": 0.0, "interval": [0.0, 0.0]}
    assert difference == {
        **{metric.name: nothing for metric in metrics.OF_LABELS},
        "mcnemar": {"only_model_right": 0, "only_baseline_right": 0, "p_value": 1.0},
    }


def test_a_comparison_is_paired() -> None:
    truth = np.array([0, 1] * 50)
    worse = truth.copy()
    worse[:10] = 1 - worse[:10]
    model, baseline, difference = metrics.compare(truth, sure(truth, 2), sure(worse, 2), resamples=500, seed=0)
    assert model["accuracy"] == [1.0, 1.0]
    assert difference["accuracy"]["difference"] == pytest.approx(0.1)
    # On the same rows, the difference is what the baseline has wrong.
    low, high = difference["accuracy"]["interval"]
    assert [1 - high, 1 - low] == pytest.approx(baseline["accuracy"])
    assert low > 0


@pytest.mark.parametrize(("gained", "lost"), [(9, 1), (1, 9), (3, 2), (4, 4), (0, 6)])
def test_mcnemar_is_the_two_sided_binomial_test_of_the_rows_that_one_has_right(gained: int, lost: int) -> None:
    truth = np.zeros(gained + lost + 5, np.int64)
    model, baseline = truth.copy(), truth.copy()
    baseline[:gained] = 1
    model[gained : gained + lost] = 1
    model[-1] = baseline[-1] = 1  # both wrong: it tells nothing
    _, _, difference = metrics.compare(truth, sure(model, 2), sure(baseline, 2), resamples=2, seed=0)
    n, fewer = gained + lost, min(gained, lost)
    exact = min(1.0, 2 * sum(comb(n, k) for k in range(fewer + 1)) / 2**n)
    assert difference["mcnemar"] == {
        "only_model_right": gained,
        "only_baseline_right": lost,
        "p_value": pytest.approx(exact),
    }
    assert difference["mcnemar"]["p_value"] == pytest.approx(binomtest(lost, n).pvalue)


def test_a_comparison_is_the_same_for_the_same_seed() -> None:
    truth, model = random_case(60, 3, seed=1)
    _, baseline = random_case(60, 3, seed=2)
    first, again, other = (metrics.compare(truth, model, baseline, resamples=50, seed=seed) for seed in (4, 4, 5))
    assert first == again
    assert first[0]["accuracy"] != other[0]["accuracy"] or first[1]["accuracy"] != other[1]["accuracy"]
    assert first[2]["mcnemar"] == other[2]["mcnemar"]
