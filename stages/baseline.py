"""Fit what a transformer has to beat: TF-IDF with logistic regression.

    python -m stages.baseline

Reads data/prepared. Writes models/baseline (no pickle; see tweets/model/tfidf.py) and metrics/baseline.json with its
scores on the validation split.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from tweets import command, environment, files, orphan, params
from tweets.data import tables
from tweets.data.dataset import TRAIN, VALID
from tweets.errors import UserError, one_line
from tweets.evaluation import metrics
from tweets.model import portable, tfidf
from tweets.model.portable import Precision

# Of the gradient, where fitting ends. At scikit-learn's 1e-4 the last bits of the features decide 39 labels of 5,153
# test tweets; at 1e-6 none.
TOLERANCE = 1e-6

Ngrams = Annotated[list[Annotated[int, Field(ge=1, le=8)]], Field(min_length=2, max_length=2)]


@params.section
class BaselineParams:
    """Section `baseline` of params.yaml."""

    word_ngrams: Ngrams  # from, to
    char_ngrams: Ngrams  # from, to; within words
    min_df: params.Count  # tweets that an n-gram has to be in
    C: Annotated[float, Field(gt=0, le=1e9)]  # inverse strength of the L2 penalty
    max_iter: params.Count


def fit(texts: list[str], classes: list[int], labels: list[str], settings: BaselineParams) -> tfidf.Baseline:
    """Return the baseline fitted on the texts and their class numbers. Raises UserError when no n-gram is left."""
    from scipy.sparse import hstack  # noqa: PLC0415  see the top of tweets/model/tfidf.py
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415  as above

    words = tfidf.vectorizer("word", settings.word_ngrams, min_df=settings.min_df)
    chars = tfidf.vectorizer("char_wb", settings.char_ngrams, min_df=settings.min_df)
    try:
        features = hstack([words.fit_transform(texts), chars.fit_transform(texts)], format="csr")
    except ValueError as error:
        raise UserError(
            f"no n-grams to learn from, with baseline.word_ngrams = {settings.word_ngrams}, char_ngrams ="
            f" {settings.char_ngrams} and min_df = {settings.min_df} for {len(texts):,} tweets: {one_line(error)}"
        ) from None
    print(f"baseline: {features.shape[0]:,} tweets, {features.shape[1]:,} n-grams")
    classifier = LogisticRegression(C=settings.C, max_iter=settings.max_iter, tol=TOLERANCE)
    classifier.fit(features, classes)
    return tfidf.Baseline(labels=labels, words=words, chars=chars, classifier=classifier)


def main() -> None:
    environment.check()
    orphan.end_with_parent()
    settings = params.load("baseline", BaselineParams)
    if params.value("train.precision", Precision) == "portable":
        portable.check_baseline()
    labels = files.read_json(Path("data/prepared/prepared.json"))["labels"]
    rows = {name: tables.read_parquet(Path(f"data/prepared/{name}.parquet")) for name in (TRAIN, VALID)}
    classes = {name: part["label"].map(labels.index).tolist() for name, part in rows.items()}
    model = fit(rows[TRAIN]["text"].tolist(), classes[TRAIN], labels, settings)
    with files.replacing(Path("models/baseline")) as folder:
        tfidf.save(folder, model, {"word": settings.word_ngrams, "char_wb": settings.char_ngrams})
    probabilities = tfidf.load(Path("models/baseline")).predict(rows[VALID]["text"].tolist())
    scores = metrics.headline(np.array(classes[VALID]), probabilities)
    report = {name: scores[name] for name in ("accuracy", "macro_f1", "log_loss")}
    files.write_json(Path("metrics/baseline.json"), {"baseline_valid": report})
    print(f"baseline: validation accuracy {scores['accuracy']:.4f}, macro-F1 {scores['macro_f1']:.4f}")


if __name__ == "__main__":
    command.run("baseline", main, __doc__)
