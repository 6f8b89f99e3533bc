"""Hold the scores against the ceiling that the annotators' noise sets, and list the labels that are likely wrong.

    python -m tools.noise

Reads data/raw, data/prepared and both models. Prints Markdown tables; writes noise/noise.json with the same numbers and
noise/label_issues.csv, the tweets for a person to look at, the most suspicious first. Both stay out of Git.

ceiling.py estimates the ceilings. label_issues.py judges the labels: by the transformer on validation, which only chose
its checkpoint, and on test; by the baseline on the training tweets, cross-validated.
"""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import confusion_matrix

from stages import prepare
from stages.evaluate import CONFIDENCE, Evaluate
from tools.noise import ceiling, label_issues
from tools.noise.summary import markdown
from tweets import command, files, params
from tweets.data import duplicates, repair, tables
from tweets.data.dataset import SPLITS, TEST, TRAIN, VALID
from tweets.errors import UserError
from tweets.evaluation import metrics
from tweets.model import tfidf, transformer
from tweets.model.device import choose_device, threads

Floats = npt.NDArray[np.float64]

FOLDER = Path("noise")
VOTES = (3, 5)  # of a tweet's annotators; CrowdFlower's default was 3, and more where they disagreed
MOST_LABELS = 10  # for the vote model, which goes through every way that the votes can fall
MODELS = ("baseline", "transformer")
BANDS = [f"{low:g} to {min(high, 1):g}" for low, high in itertools.pairwise(CONFIDENCE)]


def read(labels: list[str]) -> dict[str, pd.DataFrame]:
    """Return the prepared rows of each split, with their split, class number and band of annotator confidence."""
    rows = {}
    for name in SPLITS:
        prepared = tables.read_parquet(Path(f"data/prepared/{name}.parquet")).assign(split=name)
        rows[name] = with_bands(prepared.assign(label_class=prepared["label"].map(labels.index)))
    return rows


def with_bands(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with their band, the number of the slice of confidence in metrics/slices.json, -1 for none."""
    return rows.assign(band=pd.cut(rows["confidence"], CONFIDENCE, right=False, labels=False).fillna(-1).astype(int))


def read_copies(labels: list[str]) -> pd.DataFrame:
    """Return the raw rows whose key another raw row has too, with key, label, class number, confidence and band.

    They come as `prepare` reads them: repaired, and with the merged labels.
    """
    merged = dict(params.load("prepare", prepare.Prepare).merge_labels)
    source = files.read_json(Path("data/raw/source.json"))
    rows = tables.read_parquet(Path("data/raw/rows.parquet"))
    text = repair.repair(rows["text"]) if source["broken_encoding"] else rows["text"]
    rows = rows.assign(key=[duplicates.key(each) for each in text], label=rows["label"].replace(merged))
    if unknown := sorted(set(rows["label"]) - set(labels)):
        raise UserError(f"data/raw: has the label {unknown[0]!r}, which data/prepared has not; `dvc repro`")
    rows = rows[rows.duplicated("key", keep=False)]
    return with_bands(rows.assign(label_class=rows["label"].map(labels.index).astype(int)))


def judge_all(rows: dict[str, pd.DataFrame], labels: list[str]) -> list[label_issues.Judged]:
    """Return the judged tweets of each model. The test rows get the columns transformer, baseline and flagged."""
    settings = params.load("evaluate", Evaluate)
    classifier = transformer.load(Path("models/transformer"), choose_device(settings.device), "fp32")
    base = tfidf.load(Path("models/baseline"))
    for folder, known in (("models/transformer", classifier.labels), ("models/baseline", base.labels)):
        if known != labels:
            raise UserError(
                f"{folder}: has the labels {', '.join(known)}, data/prepared {', '.join(labels)}; `dvc repro`"
            )
    unseen = pd.concat([rows[VALID], rows[TEST]])
    with threads(settings.threads):
        probabilities = classifier.predict(unseen["raw"].tolist(), batch_size=settings.batch_size, progress=True)
    judged = [label_issues.judge("transformer, validation and test", unseen, probabilities)]
    rows[TEST] = rows[TEST].assign(
        transformer=probabilities[len(rows[VALID]) :].argmax(1),
        baseline=base.predict(rows[TEST]["text"].tolist()).argmax(1),
        flagged=judged[0].flagged[len(rows[VALID]) :],
    )
    if (folds := label_issues.cross_validated(rows[TRAIN], labels)) is not None:
        judged.append(label_issues.judge("baseline, cross-validated on train", rows[TRAIN], folds))
    return judged


def ceilings(rows: pd.DataFrame, test: pd.DataFrame, classes: int) -> tuple[list[dict[str, Any]], list[Floats]]:
    """Return the ceiling of each number in VOTES, and its expected confusion matrices, (N, K, K), for N test rows.

    The vote model is fitted to all rows with a confidence. Both are empty where no test row has one, and for more than
    MOST_LABELS labels.
    """
    known = rows[rows["confidence"].notna()]
    if test["confidence"].isna().any() or classes > MOST_LABELS:
        return [], []
    vote_ceilings, confusions = [], []
    for votes in VOTES:
        given = known["label_class"].to_numpy(), known["confidence"].to_numpy()
        fitted = ceiling.fit(*given, classes, votes)
        confusions.append(ceiling.confusion(fitted, test["label_class"].to_numpy(), test["confidence"].to_numpy()))
        vote_ceilings.append(
            {
                "votes": votes,
                **ceiling.scores(confusions[-1].sum(0)),
                "alpha": fitted.alpha.tolist(),
                "misfit": ceiling.misfit(fitted, *given),
                "repeatability": fitted.repeatability(),
            }
        )
    return vote_ceilings, confusions


def second_annotation(
    copies: pd.DataFrame, test: pd.DataFrame, classes: int, settings: Evaluate
) -> tuple[dict[str, Any] | None, Floats]:
    """Return how a second label of the same words scores against the first, and its agreement by band, (B + 1,).

    Each band of confidence counts as it does among the test rows. Intervals are 95 %, of a bootstrap over texts. The
    agreement is NaN in bands without copies, and all is None where there are none at all.
    """
    bands = len(BANDS) + 1  # the last one, -1, for rows without a confidence
    shares = np.bincount(test["band"] % bands, minlength=bands) / len(test)
    if not shares[copies["band"]].any():
        return None, np.full(bands, np.nan)
    confusions, resampled = ceiling.repeated(copies, shares, classes, resamples=settings.resamples, seed=settings.seed)
    total = ceiling.scores(confusions.sum(0))
    drawn = resampled.sum(1)
    sizes, below_1 = copies.groupby("key").size(), copies[copies["confidence"] < 1].groupby("key")["confidence"]
    alike = below_1.value_counts()
    report = {
        **total,
        "intervals": {
            metric.name: metrics.interval(metric.compute(drawn)) for metric in metrics.OF_LABELS if metric.name in total
        },
        "ceiling": list(ceiling.bounds(total["accuracy"], classes)),
        "texts": len(sizes),
        "pairs": _pairs(sizes),
        "pairs_below_1": _pairs(below_1.size()),
        "of_them_with_one_confidence": _pairs(alike),
    }
    sums = confusions.sum((1, 2))
    hits = np.trace(confusions, axis1=1, axis2=2)
    return report, np.divide(hits, sums, out=np.full(bands, np.nan), where=sums > 0)


def _pairs(sizes: pd.Series) -> int:
    return int((sizes * (sizes - 1) // 2).sum())


def scores(test: pd.DataFrame, name: str, classes: int) -> dict[str, float]:
    """Return accuracy and macro-F1 of the predictions in a column of the test rows."""
    return ceiling.scores(confusion_matrix(test["label_class"], test[name], labels=range(classes)))


def by_band(
    test: pd.DataFrame, copies: pd.DataFrame, again: Floats, models: list[dict[str, Any]], confusions: list[Floats]
) -> list[dict[str, Any]]:
    """Return, for each band of annotator confidence with test rows, what is right there and what could be."""
    report = []
    for band, name in enumerate(BANDS):
        mask = (test["band"] == band).to_numpy()
        if mask.any():
            right = {model: float((test[model] == test["label_class"])[mask].mean()) for model in MODELS}
            report.append(
                {
                    "confidence": name,
                    "rows": int(mask.sum()),
                    "flagged": int(test["flagged"][mask].sum()),
                    **right,
                    "second_annotation": None if np.isnan(again[band]) else float(again[band]),
                    "texts": int(copies.loc[copies["band"] == band, "key"].nunique()),
                    "ceilings": [
                        {"votes": vote_model["votes"], "accuracy": float(metrics.accuracy(part[mask].sum(0)))}
                        for vote_model, part in zip(models, confusions, strict=True)
                    ],
                }
            )
    return report


def gather(
    labels: list[str], rows: dict[str, pd.DataFrame], copies: pd.DataFrame, judged: list[label_issues.Judged]
) -> dict[str, Any]:
    """Return the content of noise/noise.json. Scores are of the test rows that have a confidence, if any has one."""
    settings, classes = params.load("evaluate", Evaluate), len(labels)
    test = rows[TEST]
    if test["confidence"].notna().any():
        test = test[test["confidence"].notna()]
    models, confusions = ceilings(pd.concat(rows.values()), test, classes)
    second, again = second_annotation(copies, test, classes, settings)
    model_scores = {name: scores(test, name, classes) for name in MODELS}
    left = test[~test["flagged"]]
    return {
        "rows": len(test),
        "of_rows": len(rows[TEST]),
        "scores": model_scores,
        "ceilings": models,
        "second_annotation": second,
        "bands": by_band(test, copies, again, models, confusions),
        "not_flagged": {"rows": len(left), **scores(left, "transformer", classes)} if len(left) else None,
        "judged": [label_issues.judgement(part, labels, BANDS) for part in judged],
        # Of the training rows only: prepare leaves words whose annotations disagree out of validation and test.
        "second_opinions": label_issues.second_opinions(judged[1], copies) if len(judged) > 1 else None,
        "left_out": left_out(
            classes, confidence=bool(test["band"].ge(0).all()), copies=second is not None, train=len(judged) > 1
        ),
    }


def left_out(classes: int, *, confidence: bool, copies: bool, train: bool) -> list[str]:
    """Return what the report lacks, and why."""
    reasons = {
        "the ceiling from votes, since no test row has an annotator confidence": not confidence,
        f"the ceiling from votes, since there are more than {MOST_LABELS} labels": classes > MOST_LABELS,
        "the second annotation, since no tweet with such a confidence has a copy in data/raw": not copies,
        f"the training rows, since a label has fewer than {label_issues.FOLDS} groups of near-duplicates": not train,
    }
    return [reason for reason, applies in reasons.items() if applies]


def main() -> None:
    labels = files.read_json(Path("data/prepared/prepared.json"))["labels"]
    rows, copies = read(labels), read_copies(labels)
    judged = judge_all(rows, labels)
    report = files.rounded(gather(labels, rows, copies, judged))
    label_issues.write(FOLDER / "label_issues.csv", judged, labels)
    files.write_json(FOLDER / "noise.json", report)
    print(markdown(report))
    print(f"\nnoise: {FOLDER}/noise.json and {FOLDER}/label_issues.csv")


if __name__ == "__main__":
    command.run("noise", main, __doc__)
