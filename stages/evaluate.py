"""Score the shipped model and the baseline on the test split.

    python -m stages.evaluate

Reads data/prepared, data/features, models/transformer and models/baseline. Writes metrics/evaluate.json,
metrics/slices.json and metrics/behaviour.json; plots/evaluate; and, kept out of Git by DVC, data/mistakes.csv, the most
confident mistakes with their text, and data/test_probabilities.npy, (N, K).

The model is used as the folder that a user loads: the stage makes sure that `transformers.pipeline` finds the tokens
that are scored here, and gives the same probabilities.
"""

import csv
import itertools
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field

from tweets import command, environment, files, orphan, params
from tweets.data import tables
from tweets.data.dataset import TEST, hash_of_ids
from tweets.errors import UserError
from tweets.evaluation import behaviour, metrics
from tweets.model import portable, tfidf, transformer
from tweets.model.device import DeviceName, choose_device, threads
from tweets.model.portable import Precision
from tweets.text import token_arrays
from tweets.text.cleaning import HASHTAG, NEGATION, has_emoji

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

WORDS = [0, 8, 16, 24, np.inf]  # edges of the slices by length
CONFIDENCE = [0, 0.5, 0.7, 0.9, 1.01]  # and by annotator confidence
POINTS = 101  # of a precision-recall curve
PIPELINE_ROWS = 200  # that also go through transformers.pipeline
PIPELINE_TOLERANCE = 1e-4
INVARIANCE_ROWS = 500


@params.section
class Evaluate:
    """Section `evaluate` of params.yaml."""

    seed: params.Seed  # of the bootstrap
    resamples: Annotated[int, Field(ge=100, le=1_000_000)]
    bins: params.Count  # of the expected calibration error
    mistakes: params.Count
    batch_size: params.BatchSize
    device: DeviceName
    threads: params.Threads


def check_pipeline(
    folder: Path, texts: list[str], tokens: token_arrays.Encoded, expected: Floats, labels: list[str]
) -> None:
    """Raise UserError unless the folder, as `transformers.pipeline` loads it, is what was scored.

    Its tokenizer has to find the same tokens for all prepared texts, and it has to give the same probabilities for the
    first of them.
    """
    from transformers import pipeline  # noqa: PLC0415  see the top of tweets/model/transformer.py

    pipe = pipeline("text-classification", model=str(folder), device="cpu")
    token_ids = pipe.tokenizer(texts, truncation=True)["input_ids"]
    wrong = [i for i, row in enumerate(token_ids) if row != tokens.row(i).tolist()]
    if wrong:
        raise UserError(f"{folder}: its tokenizer gives other tokens than data/features for {len(wrong)} test rows")
    for row, scores in zip(expected, pipe(texts[:PIPELINE_ROWS], top_k=None, truncation=True), strict=False):
        given = {score["label"]: score["score"] for score in scores}
        if not all(abs(given[label] - row[k]) <= PIPELINE_TOLERANCE for k, label in enumerate(labels)):
            raise UserError(f"{folder}: transformers.pipeline gives other probabilities than the model that was scored")


def slices(rows: pd.DataFrame) -> dict[str, npt.NDArray[np.bool_]]:
    """Return which rows, (N,), belong to each named slice of the test split, by their raw text and confidence."""
    words = rows["raw"].map(lambda text: len(text.split()))
    marks = {
        "emoji": rows["raw"].map(has_emoji),
        "hashtag": rows["raw"].map(lambda text: HASHTAG.search(text) is not None),
        "negation": rows["raw"].map(lambda text: NEGATION.search(text) is not None),
    }
    named = {f"{name}: {'yes' if yes else 'no'}": mark == yes for name, mark in marks.items() for yes in (True, False)}
    for low, high in itertools.pairwise(WORDS):
        name = f"words: {low:g} to {high - 1:g}" if np.isfinite(high) else f"words: {low:g} or more"
        named[name] = (words >= low) & (words < high)
    for low, high in itertools.pairwise(CONFIDENCE):
        named[f"confidence: {low:g} to {min(high, 1):g}"] = (rows["confidence"] >= low) & (rows["confidence"] < high)
    named["confidence: unknown"] = rows["confidence"].isna()
    return {name: mask.to_numpy(bool) for name, mask in named.items()}


def slice_scores(
    named: dict[str, npt.NDArray[np.bool_]], truth: Ints, model_p: Floats, base_p: Floats
) -> list[dict[str, Any]]:
    """Return rows, accuracy and macro-F1 of the model, and the baseline's macro-F1, for each slice that has rows."""
    report = []
    for name, mask in named.items():
        if mask.any():
            scores = metrics.headline(truth[mask], model_p[mask])
            report.append(
                {
                    "slice": name,
                    "rows": int(mask.sum()),
                    "accuracy": scores["accuracy"],
                    "macro_f1": scores["macro_f1"],
                    "baseline_macro_f1": metrics.headline(truth[mask], base_p[mask])["macro_f1"],
                }
            )
    return report


def score(
    rows: pd.DataFrame, truth: Ints, model_p: Floats, base_p: Floats, labels: list[str], settings: Evaluate
) -> dict[str, Any]:
    """Return the content of metrics/evaluate.json: the headline, and the details in lists, which DVC's tables skip."""
    *intervals, differences = metrics.compare(truth, model_p, base_p, resamples=settings.resamples, seed=settings.seed)
    models = []
    for name, probabilities, interval in zip(("transformer", "baseline"), (model_p, base_p), intervals, strict=True):
        headline = metrics.headline(truth, probabilities, bins=settings.bins)
        by_label = metrics.per_class(truth, probabilities, labels)
        per_label = [{"label": label, **scores} for label, scores in by_label.items()]
        models.append({"model": name, **headline, "intervals": interval, "labels": per_label})
    mcnemar = differences.pop("mcnemar")
    return {
        **{metric.name: models[0][metric.name] for metric in metrics.METRICS},
        "baseline_macro_f1": models[1]["macro_f1"],
        "rows": len(rows),
        "test_ids": hash_of_ids(rows["id"]),
        "models": models,
        "transformer_minus_baseline": [{"score": name, **difference} for name, difference in differences.items()],
        "paired_tests": [{"test": "McNemar, exact, two-sided", **mcnemar}],
    }


def behaviour_report(classifier: transformer.Classifier, tweets: list[str], settings: Evaluate) -> dict[str, Any]:
    """Return the content of metrics/behaviour.json: the failure rate of all tests together, and each test's."""

    def predict(texts: Any) -> Floats:
        return classifier.predict(texts, batch_size=settings.batch_size)

    tests = {"invariance": behaviour.invariance(predict, tweets)}
    signs = behaviour.polarity(classifier.labels)
    if signs is not None:
        tests["direction"] = behaviour.direction(predict, signs)
        tests["minimum functionality"] = behaviour.minimum_functionality(predict, signs)
    report: list[dict[str, Any]] = [
        {"kind": kind, "test": name, "cases": r.cases, "failures": r.failures, "failure_rate": r.failures / r.cases}
        for kind, results in tests.items()
        for name, r in results.items()
    ]
    rate = sum(test["failures"] for test in report) / sum(test["cases"] for test in report)
    return {"behaviour_failure_rate": rate, "tests": report}


def mistakes(rows: pd.DataFrame, truth: Ints, probabilities: Floats, labels: list[str], count: int) -> pd.DataFrame:
    """Return the wrongly labelled rows of which the model is most confident, that one first."""
    confidence, predicted = probabilities.max(1), probabilities.argmax(1)
    frame = pd.DataFrame(
        {
            "id": rows["id"],
            "label": rows["label"],
            "predicted": [labels[k] for k in predicted],
            "probability": confidence.round(4),
            "annotator_confidence": rows["confidence"],
            "text": rows["raw"],
        }
    )
    wrong: pd.DataFrame = frame[predicted != truth]
    return wrong.sort_values("probability", ascending=False, kind="stable").head(count)


def curves(truth: Ints, probabilities: Floats, labels: list[str]) -> list[dict[str, Any]]:
    """Return POINTS points of each label's precision-recall curve, at evenly spaced recalls."""
    recalls = np.linspace(0, 1, POINTS)
    points = []
    for k, label in enumerate(labels):
        precision, recall = precision_recall(truth == k, probabilities[:, k])
        # The best precision at this recall or more.
        best = np.maximum.accumulate(precision[::-1])[::-1][np.searchsorted(recall, recalls)]
        points += [
            {"group": label, "recall": float(r), "precision": float(p)} for r, p in zip(recalls, best, strict=True)
        ]
    return points


def precision_recall(relevant: npt.NDArray[np.bool_], scores: Floats) -> tuple[Floats, Floats]:
    """Return the precision and the recall, which rises to 1, of the rows above each score that occurs, highest first.

    `relevant` and `scores` are (N,), with a relevant row at least.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of the rows with the same score
    hits = np.cumsum(relevant[order])[last]
    return hits / (last + 1), hits / hits[-1]


def cells(confusion: Ints, labels: list[str]) -> list[dict[str, Any]]:
    """Return a point for each cell of a confusion matrix (K, K): its rows, and their share of the actual label's."""
    percent = 100 * confusion / confusion.sum(1, keepdims=True)
    return [
        {"actual": a, "predicted": p, "rows": int(confusion[i, j]), "percent": float(percent[i, j])}
        for i, a in enumerate(labels)
        for j, p in enumerate(labels)
    ]


def write_plots(folder: Path, truth: Ints, model_p: Floats, base_p: Floats, labels: list[str], bins: int) -> None:
    """Write the points of the plots that dvc.yaml names."""
    folder.mkdir()
    confusion = cells(metrics.confusion_matrix(truth, model_p.argmax(1), len(labels)), labels)
    files.write_json(folder / "confusion.json", confusion)
    files.write_json(folder / "precision_recall.json", curves(truth, model_p, labels))
    perfect = [{"group": "perfect", "confidence": x, "accuracy": x} for x in (0.0, 1.0)]
    points = [
        {"group": name, **part}
        for name, probabilities in (("transformer", model_p), ("baseline", base_p))
        for part in metrics.reliability(truth, probabilities, bins=bins)
    ]
    files.write_json(folder / "reliability.json", points + perfect)


def main() -> None:
    environment.check()
    orphan.end_with_parent()
    settings = params.load("evaluate", Evaluate)
    precision = params.value("train.precision", Precision)
    device = choose_device(settings.device, precision)
    if precision == "portable":
        portable.use()
    folder = Path("models/transformer")
    classifier = transformer.load(folder, device, "fp32")
    labels = classifier.labels
    rows = tables.read_parquet(Path(f"data/prepared/{TEST}.parquet"))
    tokens = token_arrays.load(Path("data/features") / TEST)
    truth, texts = np.asarray(tokens.labels), rows["text"].tolist()
    with threads(settings.threads):
        pad = classifier.tokenizer.pad_token_id
        model_p = transformer.probabilities(
            classifier.model, tokens, pad, batch_size=settings.batch_size, progress=True
        )
        check_pipeline(folder, texts, tokens, model_p, labels)
        tests = behaviour_report(classifier, rows["raw"].head(INVARIANCE_ROWS).tolist(), settings)
    base_p = tfidf.load(Path("models/baseline")).predict(texts)
    report = score(rows, truth, model_p, base_p, labels, settings)
    with files.replacing(Path("plots/evaluate")) as staged:
        write_plots(staged, truth, model_p, base_p, labels, settings.bins)
    with files.replacing(Path("data/test_probabilities.npy")) as staged, staged.open("wb") as file:
        np.save(file, model_p)
    with files.replacing(Path("data/mistakes.csv")) as staged:
        # All text in quotes: pandas sets none around a lone carriage return, which ends a row when it is read.
        mistaken_rows = mistakes(rows, truth, model_p, labels, settings.mistakes)
        mistaken_rows.to_csv(staged, index=False, quoting=csv.QUOTE_NONNUMERIC)
    files.write_json(Path("metrics/behaviour.json"), tests)
    files.write_json(Path("metrics/slices.json"), {"slices": slice_scores(slices(rows), truth, model_p, base_p)})
    files.write_json(Path("metrics/evaluate.json"), report)
    for scores in report["models"]:
        low, high = scores["intervals"]["macro_f1"]
        print(
            f"evaluate: {scores['model']}: accuracy {scores['accuracy']:.4f}, macro-F1 {scores['macro_f1']:.4f}",
            end=" ",
        )
        print(f"[{low:.4f}, {high:.4f}]")


if __name__ == "__main__":
    command.run("evaluate", main, __doc__)
