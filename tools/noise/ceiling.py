"""How well any classifier can do against labels that a few annotators gave: two estimates, each with what it assumes.

The best that a classifier can do is to name, for each tweet, the label that most panels of annotators would give it.
How often the label at hand is that one is the *ceiling* of accuracy. It is not 1, because a panel is small.

From votes. Each of n annotators of a tweet votes for label k with a probability p_k of the tweet's own, independently
of the others; p comes from a Dirichlet distribution; the label is that with most votes, a tie goes to any of those that
lead, and the confidence is its share of the votes. The Dirichlet's parameters are fitted to labels and confidences by
maximum likelihood (the Dirichlet-multinomial of Mosimann, Biometrika 49, 1962; Minka, Estimating a Dirichlet
distribution, 2000). Given its votes v, a tweet's p is Dirichlet(alpha + v), and the ceiling is the mean over tweets of
the probability that the label at hand has the largest p. The mean confidence is no substitute: it is how often single
annotators agree with the label, and too high for that, since the winner's share was picked for being the largest. With
few votes the answer rests on the shape of the Dirichlet, and n is not in the data, so a range over n is what can be
said. Where n differs from tweet to tweet, made-up votes put the ceiling between those of the smallest and the largest n
(tests/tools/test_noise.py).

From copies. A tweet's words that were annotated twice have two labels of two panels. Let q be the panel's probabilities
of the labels, and A the rate at which two panels agree, the mean of sum_k q_k². The ceiling is the mean of max_k q_k.
For each tweet sum_k q_k² <= max_k q_k, and sum_k q_k² >= m² + (1 - m)² / (K - 1) with m = max_k q_k, which is convex
in m, so by Jensen's inequality

    A <= ceiling <= (1 + sqrt((K - 1) (K A - 1))) / K

whatever the distribution of q. The upper end is reached by symmetric noise, the same for all tweets (A = (1 - e)² +
e² / (K - 1) at noise rate e), the lower one where tweets are either plain or a toss-up. The assumption is that the two
panels are independent: the same annotators, or an annotation that was copied, push A up.

Where the source had more labels than are left after merging, its confidences understate the merged ones.
"""

from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import minimize
from scipy.special import gammaln
from scipy.stats import gamma

from tweets.evaluation import metrics

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

NODES = 1000  # of the quadrature; the ceiling is exact to 3 digits
LIMITS = (-6.0, 6.0)  # of log alpha


def ballots(classes: int, votes: int) -> Ints:
    """Return every way in which the votes can fall, (M, K)."""
    ways = combinations_with_replacement(range(classes), votes)
    return np.array([np.bincount(way, minlength=classes) for way in ways])


def winners(counts: Ints) -> Floats:
    """Return the probability that each label wins, (M, K), given the votes, (M, K); those ahead share a tie."""
    ahead = counts == counts.max(1, keepdims=True)
    return ahead / ahead.sum(1, keepdims=True)  # type: ignore[no-any-return]


def chances(counts: Ints, alpha: Floats) -> Floats:
    """Return the Dirichlet-multinomial probability of each ballot, (M,)."""
    votes, total = counts[0].sum(), alpha.sum()
    orders = gammaln(votes + 1) - gammaln(counts + 1).sum(1)
    rising = (gammaln(counts + alpha) - gammaln(alpha)).sum(1) - gammaln(total + votes) + gammaln(total)
    return np.exp(orders + rising)  # type: ignore[no-any-return]


def largest(alpha: Floats) -> Floats:
    """Return the probability that each component of a Dirichlet(alpha) is the largest, (K,).

    The components are gamma variables over their sum, so that of k is the mean of the product of the other gammas'
    distribution functions at k's quantiles.
    """
    quantiles = gamma.ppf(((np.arange(NODES) + 0.5) / NODES)[:, None], alpha)  # (NODES, K)
    below = gamma.cdf(quantiles[:, :, None], alpha)  # (NODES, K, K): of each gamma, at each one's quantiles
    below[:, np.arange(len(alpha)), np.arange(len(alpha))] = 1
    share = below.prod(2).mean(0)
    return share / share.sum()  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class VoteModel:
    """Panels of `votes` annotators, who vote on tweets whose label probabilities are Dirichlet(alpha), (K,)."""

    votes: int
    alpha: Floats

    def top(self, confidence: Floats) -> Ints:
        """Return how many votes the winner had, (N,): the number that comes nearest to its share of them, (N,)."""
        least = -(-self.votes // len(self.alpha))
        return np.clip(np.rint(confidence * self.votes), least, self.votes).astype(np.int64)

    def cells(self, alpha: Floats) -> Floats:
        """Return the probability of each winner and number of votes for it, (K, votes + 1), for Dirichlet(alpha)."""
        counts = ballots(len(alpha), self.votes)
        return _by_top(counts, chances(counts, alpha)[:, None] * winners(counts), self.votes)

    def best(self) -> Floats:
        """Return the probability that each label has the largest p, (K, votes + 1, K), by winner and votes for it."""
        counts = ballots(len(self.alpha), self.votes)
        given = np.stack([largest(self.alpha + ballot) for ballot in counts])  # (M, K)
        joint = (chances(counts, self.alpha)[:, None] * winners(counts))[:, :, None] * given[:, None, :]
        together = np.stack([_by_top(counts, joint[:, :, k], self.votes) for k in range(len(self.alpha))], axis=2)
        total = together.sum(2, keepdims=True)
        return together / np.where(total > 0, total, 1)

    def repeatability(self) -> float:
        """Return how often two panels that see the same tweet give it the same label."""
        counts = ballots(len(self.alpha), self.votes)
        again = np.stack([self.cells(self.alpha + ballot).sum(1) for ballot in counts])  # (M, K)
        return float((chances(counts, self.alpha)[:, None] * winners(counts) * again).sum())


def _by_top(counts: Ints, values: Floats, votes: int) -> Floats:
    """Return the sums of the ballots' values, (M, K), by the votes for their winner, (K, votes + 1)."""
    sums = np.zeros((votes + 1, values.shape[1]))
    np.add.at(sums, counts.max(1), values)
    return sums.T


def fit(labels: Ints, confidence: Floats, classes: int, votes: int) -> VoteModel:
    """Return the vote model that makes the labels and confidences, both (N,), most likely."""
    start = VoteModel(votes=votes, alpha=np.ones(classes))
    seen = np.zeros((classes, votes + 1))
    np.add.at(seen, (labels, start.top(confidence)), 1 / len(labels))

    def loss(log_alpha: Floats) -> float:
        return -float((seen * np.log(start.cells(np.exp(log_alpha)) + 1e-300)).sum())

    optimum = minimize(loss, np.zeros(classes), method="L-BFGS-B", bounds=[LIMITS] * classes)
    return VoteModel(votes=votes, alpha=np.exp(optimum.x))


def misfit(model: VoteModel, labels: Ints, confidence: Floats) -> float:
    """Return the share of the tweets that the model puts at other votes than they have: the total variation."""
    seen = np.zeros((len(model.alpha), model.votes + 1))
    np.add.at(seen, (labels, model.top(confidence)), 1 / len(labels))
    return float(np.abs(seen - model.cells(model.alpha)).sum() / 2)


def confusion(model: VoteModel, labels: Ints, confidence: Floats) -> Floats:
    """Return the expected confusion matrix of the best classifier, (N, K, K): labels in rows, its answers in columns.

    It is given row by row, so that any subset of the tweets can be summed. The best classifier is the one of most
    accuracy; another one could have a slightly higher macro-F1.
    """
    matrices = np.zeros((len(labels), len(model.alpha), len(model.alpha)))
    matrices[np.arange(len(labels)), labels] = model.best()[labels, model.top(confidence)]
    return matrices


def bounds(agreement: float, classes: int) -> tuple[float, float]:
    """Return the lowest and the highest ceiling of accuracy that two panels' agreement leaves possible."""
    beyond = max(classes * agreement - 1, 0)
    return agreement, (1 + ((classes - 1) * beyond) ** 0.5) / classes


def second_labels(rows: pd.DataFrame, classes: int) -> tuple[Floats, Ints]:
    """Return the labels of each row's copies and its key's number: shares, (N, K), and (N,).

    `rows` has the columns key and label_class, and for each key two rows or more. A row's copies are the other rows of
    its key.
    """
    key = pd.factorize(rows["key"])[0].astype(np.int64)
    own = np.eye(classes)[rows["label_class"]]
    counts = np.zeros((key.max() + 1, classes))
    np.add.at(counts, key, own)
    others = counts[key] - own
    return others / others.sum(1, keepdims=True), key


def repeated(rows: pd.DataFrame, shares: Floats, classes: int, *, resamples: int, seed: int) -> tuple[Floats, Floats]:
    """Return the confusion matrices of labels and those of their copies by band, (B, K, K), and of resamples of them.

    `rows` are as for `second_labels`, with the column band, that of their confidence; `shares` (B,) is what each band
    should count: the matrices are scaled to sum to it, those of bands without copies stay zero. Each key counts once,
    however many its rows. The bootstrap resamples keys: (resamples, B, K, K).
    """
    others, key = second_labels(rows, classes)
    parts = np.zeros((key.max() + 1, len(shares), classes, classes))
    np.add.at(parts, (key, rows["band"], rows["label_class"]), others / np.bincount(key)[key][:, None])

    def scaled(weights: Floats) -> Floats:
        matrices = np.tensordot(weights, parts, 1)
        total = matrices.sum((1, 2), keepdims=True)
        return matrices * shares[:, None, None] / np.where(total > 0, total, 1)

    rng = np.random.default_rng(seed)
    drawn = (np.bincount(rng.integers(len(parts), size=len(parts)), minlength=len(parts)) for _ in range(resamples))
    return scaled(np.ones(len(parts))), np.stack([scaled(weights.astype(float)) for weights in drawn])


def scores(matrix: Floats) -> dict[str, float]:
    """Return accuracy and macro-F1 of a confusion matrix, (K, K)."""
    return {"accuracy": float(metrics.accuracy(matrix)), "macro_f1": float(metrics.macro_f1(matrix))}
