"""The baseline: its n-grams, its probabilities, and its folder without pickle."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy.sparse import hstack
from sklearn.linear_model import LogisticRegression

from tweets.errors import UserError
from tweets.model import tfidf
from tweets.model.tfidf import Baseline

TEXTS = ["I love it", "love love you", "I hate it", "hate this", "it is a fact", "a fact is it"]
CLASSES = [2, 2, 0, 0, 1, 1]
LABELS = ["negative", "neutral", "positive"]
NGRAMS: dict[str, Sequence[int]] = {"word": [1, 2], "char_wb": [2, 3]}


@pytest.fixture
def fitted() -> Baseline:
    words, chars = tfidf.vectorizer("word", NGRAMS["word"]), tfidf.vectorizer("char_wb", NGRAMS["char_wb"])
    features = hstack([words.fit_transform(TEXTS), chars.fit_transform(TEXTS)], format="csr")
    classifier = LogisticRegression(C=10.0).fit(features, CLASSES)
    return Baseline(labels=LABELS, words=words, chars=chars, classifier=classifier)


@pytest.fixture
def folder(fitted: Baseline, tmp_path: Path) -> Path:
    tfidf.save(tmp_path / "baseline", fitted, NGRAMS)
    return tmp_path / "baseline"


def test_words_are_those_of_the_tweet_tokenizer_in_lower_case() -> None:
    vectorizer = tfidf.vectorizer("word", [1, 2])
    vectorizer.fit(["@Bob LOVES :)"])
    assert vectorizer.get_feature_names_out().tolist() == [":)", "@bob", "@bob loves", "loves", "loves :)"]


def test_characters_stay_within_words() -> None:
    vectorizer = tfidf.vectorizer("char_wb", [2, 3])
    vectorizer.fit(["Ab c"])
    assert vectorizer.get_feature_names_out().tolist() == [" a", " ab", " c", " c ", "ab", "ab ", "b ", "c "]


def test_counts_are_damped_weighed_by_rarity_and_scaled_to_length_1() -> None:
    vectorizer = tfidf.vectorizer("word", [1, 1])
    found = vectorizer.fit_transform(["a a b", "a"])
    idf = {"a": 1.0, "b": 1 + np.log(3 / 2)}
    row = np.array([(1 + np.log(2)) * idf["a"], idf["b"]])
    np.testing.assert_allclose(found.toarray(), [row / np.linalg.norm(row), [1.0, 0.0]], rtol=1e-6)
    assert found.dtype == np.float64


def test_options_reach_the_vectorizer() -> None:
    vectorizer = tfidf.vectorizer("word", [1, 1], min_df=2)
    vectorizer.fit(["a b", "a c"])
    assert vectorizer.get_feature_names_out().tolist() == ["a"]


def test_features_are_those_of_words_then_of_characters(fitted: Baseline) -> None:
    features = fitted.features(["I love it", "unseen"])
    words, chars = fitted.words.transform(["I love it", "unseen"]), fitted.chars.transform(["I love it", "unseen"])
    assert features.shape == (2, len(fitted.words.vocabulary_) + len(fitted.chars.vocabulary_))
    np.testing.assert_array_equal(features.toarray(), np.hstack([words.toarray(), chars.toarray()]))


def test_probabilities_sum_to_1_and_name_the_class_learned(fitted: Baseline) -> None:
    probabilities = fitted.predict([*TEXTS, ""])
    assert probabilities.shape == (7, 3)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)
    assert probabilities[:6].argmax(1).tolist() == CLASSES


def test_a_saved_model_predicts_the_same_to_the_last_bit(fitted: Baseline, folder: Path) -> None:
    loaded = tfidf.load(folder)
    texts = [*TEXTS, "love hate fact", "", "nothing known"]
    np.testing.assert_array_equal(loaded.predict(texts), fitted.predict(texts))
    assert loaded.labels == LABELS


def test_the_folder_holds_json_and_safetensors_only(fitted: Baseline, folder: Path) -> None:
    assert sorted(file.name for file in folder.iterdir()) == ["model.json", "weights.safetensors"]
    content = json.loads((folder / "model.json").read_text())
    assert (content["labels"], content["ngrams"]) == (LABELS, NGRAMS)
    assert content["vocabulary"]["word"][:4] == ["a", "a fact", "fact", "fact is"]
    weights = load_file(folder / "weights.safetensors")
    assert {name: array.shape for name, array in weights.items()} == {
        "coefficients": (3, fitted.features(TEXTS).shape[1]),
        "intercepts": (3,),
        "idf.word": (len(fitted.words.vocabulary_),),
        "idf.char_wb": (len(fitted.chars.vocabulary_),),
    }


def test_the_same_model_is_the_same_bytes(fitted: Baseline, folder: Path, tmp_path: Path) -> None:
    tfidf.save(tmp_path / "again", fitted, NGRAMS)
    for name in ("model.json", "weights.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_two_labels_have_one_row_of_coefficients_and_come_back_too(tmp_path: Path) -> None:
    words, chars = tfidf.vectorizer("word", [1, 1]), tfidf.vectorizer("char_wb", [2, 2])
    features = hstack([words.fit_transform(TEXTS[:4]), chars.fit_transform(TEXTS[:4])], format="csr")
    classifier = LogisticRegression().fit(features, [1, 1, 0, 0])
    ngrams: dict[str, Sequence[int]] = {"word": [1, 1], "char_wb": [2, 2]}
    baseline = Baseline(labels=["bad", "good"], words=words, chars=chars, classifier=classifier)
    tfidf.save(tmp_path / "two", baseline, ngrams)
    loaded = tfidf.load(tmp_path / "two")
    np.testing.assert_array_equal(loaded.predict(TEXTS), baseline.predict(TEXTS))
    assert loaded.predict(["love"]).shape == (1, 2)


def test_saving_over_a_folder_is_refused(fitted: Baseline, folder: Path) -> None:
    with pytest.raises(FileExistsError):
        tfidf.save(folder, fitted, NGRAMS)


def test_a_missing_folder_says_what_writes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        tfidf.load(tmp_path / "none")
    assert str(raised.value) == f"{tmp_path / 'none' / 'model.json'}: no such file; `dvc repro` writes it"


def test_missing_weights_are_a_users_error(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()
    with pytest.raises(UserError, match=r"not a baseline's folder \(.*No such file") as raised:
        tfidf.load(folder)
    assert str(raised.value).startswith(f"{folder}: ")
    assert str(raised.value).endswith("; `dvc repro baseline`")


@pytest.mark.parametrize("left", [0, 4, -1])
def test_damaged_weights_are_a_users_error(folder: Path, left: int) -> None:
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:left])
    with pytest.raises(UserError) as raised:
        tfidf.load(folder)
    assert str(raised.value).startswith(f"{folder}: not a baseline's folder (")
    assert str(raised.value).endswith("); `dvc repro baseline`")


def test_a_damaged_description_is_a_users_error(folder: Path) -> None:
    shutil.copy(folder / "weights.safetensors", folder / "model.json")
    with pytest.raises(UserError, match="not JSON"):
        tfidf.load(folder)
