"""The baseline: TF-IDF of words and characters with logistic regression, kept without pickle.

A model folder holds model.json (settings, labels and both vocabularies) and weights.safetensors (inverse document
frequencies and coefficients).

scikit-learn and SciPy are imported where they compute: that takes as long as torch, and a wrong param need not wait.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from tweets import files
from tweets.errors import UserError
from tweets.text.cleaning import tokenise

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A fitted baseline for K labels."""

    labels: list[str]
    words: "TfidfVectorizer"
    chars: "TfidfVectorizer"
    classifier: "LogisticRegression"

    def features(self, texts: Sequence[str]) -> "csr_matrix":
        """Return the TF-IDF of the texts, (N, words + characters)."""
        from scipy.sparse import hstack  # noqa: PLC0415  see the top

        return hstack([self.words.transform(texts), self.chars.transform(texts)], format="csr")

    def predict(self, texts: Sequence[str]) -> Floats:
        """Return the probabilities of the labels, (N, K)."""
        return self.classifier.predict_proba(self.features(texts))  # type: ignore[no-any-return]


def vectorizer(analyzer: str, ngrams: Sequence[int], **options: Any) -> "TfidfVectorizer":
    """Return a vectorizer of lower-case n-grams from `ngrams[0]` to `ngrams[1]`, of words or of characters."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415  see the top

    by_word = {"tokenizer": tokenise, "token_pattern": None} if analyzer == "word" else {}
    return TfidfVectorizer(analyzer=analyzer, ngram_range=tuple(ngrams), sublinear_tf=True, **by_word, **options)


def save(folder: Path, baseline: Baseline, ngrams: dict[str, Sequence[int]]) -> None:
    """Write the model into a new folder."""
    folder.mkdir()
    parts = {"word": baseline.words, "char_wb": baseline.chars}
    content = {
        "labels": baseline.labels,
        "ngrams": ngrams,
        "vocabulary": {name: part.get_feature_names_out().tolist() for name, part in parts.items()},
    }
    files.write_json(folder / "model.json", content)
    weights = {f"idf.{name}": part.idf_ for name, part in parts.items()}
    weights |= {"coefficients": baseline.classifier.coef_, "intercepts": baseline.classifier.intercept_}
    save_file({name: np.ascontiguousarray(array) for name, array in weights.items()}, folder / "weights.safetensors")


def load(folder: Path) -> Baseline:
    """Read a model that `save` wrote. Raises UserError when the folder does not hold one."""
    content = files.read_json(folder / "model.json")
    try:
        weights = load_file(folder / "weights.safetensors")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: not a baseline's folder ({error}); `dvc repro baseline`") from None
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415  see the top

    parts = {}
    for name, ngrams in content["ngrams"].items():
        parts[name] = vectorizer(name, ngrams, vocabulary=content["vocabulary"][name])
        parts[name].idf_ = weights[f"idf.{name}"]
    classifier = LogisticRegression()
    classifier.coef_, classifier.intercept_ = weights["coefficients"], weights["intercepts"]
    classifier.classes_ = np.arange(len(content["labels"]))
    return Baseline(labels=content["labels"], words=parts["word"], chars=parts["char_wb"], classifier=classifier)
