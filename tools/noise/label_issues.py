"""Find the labels that are likely wrong, by confident learning.

Northcutt et al., Confident Learning: Estimating Uncertainty in Dataset Labels, JAIR 70, 2021, as cleanlab has it. It
takes probabilities of a model that did not learn the tweets, and counts those that have one label and are predicted as
another with at least the mean probability which that one has among its own tweets. It cannot tell a wrong label from a
model that is wrong with conviction. Two things that it does not see check it: the annotators' confidence, which should
be lower for flagged tweets, and a second annotation of the same words, which should repeat fewer of their labels.
"""

import contextlib
import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from cleanlab.count import estimate_joint
from cleanlab.filter import find_label_issues
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from stages import baseline
from tweets import files, params
from tweets.data import duplicates
from tweets.progress import track

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Tweets whose labels confident learning has judged, by the probabilities of a model that did not learn them."""

    by: str
    rows: pd.DataFrame  # N of data/prepared, with the columns split, label_class and band (of confidence, -1 for none)
    probabilities: Floats  # (N, K)
    flagged: Bools  # (N,) likely wrong
    joint: Floats  # (K, K) estimated shares of given labels, in rows, and true ones


def cross_validated(rows: pd.DataFrame, labels: list[str]) -> Floats | None:
    """Return the baseline's probabilities for its training rows, (N, K), each from a fit without the row's group.

    None where a label is in fewer than FOLDS groups of near-duplicates.
    """
    settings = params.load("baseline", baseline.BaselineParams)
    groups = duplicates.groups([duplicates.runs(rows["key"].tolist())])
    classes, texts = rows["label_class"].to_numpy(), rows["text"].to_numpy()
    if pd.Series(groups).groupby(classes).nunique().reindex(range(len(labels)), fill_value=0).min() < FOLDS:
        return None
    probabilities = np.zeros((len(rows), len(labels)))
    folds = StratifiedGroupKFold(FOLDS).split(texts, classes, groups)
    for learned, held_out in track(folds, desc="cross-validation", unit="folds", total=FOLDS):
        with contextlib.redirect_stdout(None):
            fitted = baseline.fit(texts[learned].tolist(), classes[learned].tolist(), labels, settings)
        probabilities[held_out] = fitted.predict(texts[held_out].tolist())
    return probabilities


def judge(by: str, rows: pd.DataFrame, probabilities: Floats) -> Judged:
    """Return the rows with what confident learning says of their labels."""
    classes = rows["label_class"].to_numpy()
    return Judged(
        by=by,
        rows=rows,
        probabilities=probabilities,
        flagged=find_label_issues(classes, probabilities, n_jobs=1),
        joint=estimate_joint(classes, probabilities),
    )


def judgement(judged: Judged, labels: list[str], bands: list[str]) -> dict[str, Any]:
    """Return the numbers on the judged labels: those estimated wrong and flagged, by label and band of confidence."""
    rows, flagged = judged.rows, judged.flagged
    by_label = []
    for k, label in enumerate(labels):
        given = judged.joint[k].sum()
        wrong = float(1 - judged.joint[k, k] / given) if given else None
        by_label.append({"label": label, **_flags(flagged[rows["label_class"] == k]), "estimated_wrong": wrong})
    by_band = [(name, flagged[rows["band"] == band]) for band, name in enumerate(bands)]
    other = judged.probabilities.argmax(1) != rows["label_class"].to_numpy()
    return {
        "by": judged.by,
        "accuracy": float(1 - other.mean()),
        "estimated_wrong": float(1 - np.trace(judged.joint)),
        **_flags(flagged),
        "labels": by_label,
        "bands": [{"confidence": name, **_flags(part)} for name, part in by_band if len(part)],
        "joint": judged.joint.tolist(),
        "flagged_have_lower_confidence": lower_confidence(flagged, rows["confidence"]),
        "predicted_otherwise_have_lower_confidence": lower_confidence(other, rows["confidence"]),
    }


def lower_confidence(marked: Bools, confidence: pd.Series) -> float | None:
    """Return the probability that a marked row has a lower annotator confidence than another one; ties count half.

    That is the area under the ROC curve, of the rows (N,) that have a confidence. None where one kind is missing.
    """
    known = confidence.notna().to_numpy()
    return float(roc_auc_score(marked[known], -confidence[known])) if len(set(marked[known])) == 2 else None


def second_opinions(judged: Judged, copies: pd.DataFrame) -> dict[str, Any] | None:
    """Return how often copies of the judged rows repeat their label, and of flagged ones, have the suggested label.

    `copies` has the columns key and label_class of all rows whose key comes twice, the judged ones among them. Each
    judged row counts once. None where no flagged row has a copy.
    """
    classes = judged.probabilities.shape[1]
    counts = pd.crosstab(copies["key"], copies["label_class"]).reindex(columns=range(classes), fill_value=0)
    there = judged.rows["key"].isin(counts.index).to_numpy()
    flagged, label = judged.flagged[there], judged.rows["label_class"].to_numpy()[there]
    if not flagged.any():
        return None
    others = counts.loc[judged.rows["key"][there]].to_numpy() - np.eye(classes)[label]
    others /= others.sum(1, keepdims=True)
    numbers = np.arange(len(label))
    repeated, suggested = others[numbers, label], others[numbers, judged.probabilities[there].argmax(1)]
    return {
        "flagged": int(flagged.sum()),
        "flagged_repeated": float(repeated[flagged].mean()),
        "flagged_as_suggested": float(suggested[flagged].mean()),
        "others": int((~flagged).sum()),
        "others_repeated": float(repeated[~flagged].mean()) if not flagged.all() else None,
    }


def _flags(flagged: Bools) -> dict[str, int]:
    return {"rows": len(flagged), "flagged": int(flagged.sum())}


def suspects(judged: Judged, labels: list[str]) -> pd.DataFrame:
    """Return the flagged rows with the label that the model would give them."""
    p, numbers = judged.probabilities, np.arange(len(judged.rows))
    names = np.array(labels, dtype=object)
    frame = pd.DataFrame(
        {
            "id": judged.rows["id"],
            "split": judged.rows["split"],
            "label": judged.rows["label"],
            "suggested": names[p.argmax(1)],
            "p_label": p[numbers, judged.rows["label_class"]].round(4),
            "p_suggested": p.max(1).round(4),
            "annotator_confidence": judged.rows["confidence"],
            "text": judged.rows["raw"],
        }
    )
    return frame[judged.flagged]


def write(path: Path, judged: list[Judged], labels: list[str]) -> None:
    """Write the flagged rows, the ones whose model prefers its own label by most first."""
    rows = pd.concat([suspects(part, labels) for part in judged])
    order = (rows["p_label"] - rows["p_suggested"]).to_numpy().argsort(kind="stable")
    with files.replacing(path) as staged:
        # All text in quotes, as in data/mistakes.csv: no lone carriage return may end a row.
        rows.iloc[order].to_csv(staged, index=False, quoting=csv.QUOTE_NONNUMERIC)
