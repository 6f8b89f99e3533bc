"""The behavioural tests, on classifiers that are a few lines long."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from tweets.evaluation import behaviour
from tweets.evaluation.behaviour import Result

LABELS = ["negative", "neutral", "positive"]
SIGNS = np.array([-1.0, 0.0, 1.0])
Floats = npt.NDArray[np.float64]


def one_hot(numbers: Sequence[int]) -> Floats:
    return np.eye(3)[list(numbers)]


def knows_all(texts: Sequence[str]) -> Floats:
    """Read the sentences as they are meant, by their words."""
    numbers = []
    for text in texts:
        good = text in behaviour.POSITIVE_SENTENCES or any(word in text for word in behaviour.POSITIVE)
        bad = text in behaviour.NEGATIVE_SENTENCES or any(word in text for word in behaviour.NEGATIVE)
        numbers.append(0 if bad or " was not " in text else 2 if good else 1)
    return one_hot(numbers)


def says_neutral(texts: Sequence[str]) -> Floats:
    return one_hot([1] * len(texts))


def counts_letters(texts: Sequence[str]) -> Floats:
    """Decide by the length of the text: nothing that a label should depend on."""
    return one_hot([len(text) % 3 for text in texts])


@pytest.mark.parametrize(
    ("labels", "signs"),
    [
        (LABELS, [-1, 0, 1]),
        (["Extremely Negative", "Negative", "Neutral", "Positive", "Extremely Positive"], [-1, -1, 0, 1, 1]),
        (["POSITIVE", "NEGATIVE"], [1, -1]),
    ],
)
def test_polarity_is_read_from_the_names_of_the_labels(labels: list[str], signs: list[float]) -> None:
    found = behaviour.polarity(labels)
    assert found is not None
    assert found.tolist() == signs


@pytest.mark.parametrize("labels", [["spam", "ham"], ["positive", "neutral"], ["negative", "other"]])
def test_labels_that_do_not_name_both_sides_have_no_polarity(labels: list[str]) -> None:
    assert behaviour.polarity(labels) is None


def test_invariance_changes_names_mentions_and_links_only() -> None:
    asked: list[list[str]] = []

    def remembers(texts: Sequence[str]) -> Floats:
        asked.append(list(texts))
        return says_neutral(texts)

    tweets = ["@bob @sue thanks", "see https://t.co/x", "plain"]
    results = behaviour.invariance(remembers, tweets)
    assert asked == [
        tweets,
        ["@bob @sue thanks cc Maria", "see https://t.co/x cc James", "plain cc Fatima"],
        ["@maria_k @maria_k thanks", "@jsmith42 see https://t.co/x", "@newsdesk plain"],
        [
            "https://t.co/Ab3dE5fGh1 @bob @sue thanks",
            "see http://example.com/a?b=1",
            "https://t.co/Zz9Yy8Xx7W plain",
        ],
    ]
    assert results == dict.fromkeys(("name", "mention", "url"), Result(cases=3, failures=0, example=None))


def test_invariance_counts_the_labels_that_change_and_shows_the_first() -> None:
    # 5, 4 and 6 letters: 2, 1 and 0; with " cc Maria", " cc James" and " cc Fatima": 14, 13 and 16.
    assert behaviour.invariance(counts_letters, ["plain", "good", "better"])["name"] == Result(
        cases=3, failures=1, example="better cc Fatima"
    )


def test_the_names_handles_and_links_are_used_again_from_the_first() -> None:
    asked: list[str] = []

    def remembers(texts: Sequence[str]) -> Floats:
        asked.extend(texts)
        return says_neutral(texts)

    behaviour.invariance(remembers, ["x"] * 9)
    assert [asked[9], asked[17]] == ["x cc Maria", "x cc Maria"]
    assert [asked[18], asked[22]] == ["@maria_k x", "@maria_k x"]
    assert [asked[27], asked[30]] == ["https://t.co/Ab3dE5fGh1 x", "https://t.co/Ab3dE5fGh1 x"]


def test_direction_passes_a_classifier_that_moves_as_it_should() -> None:
    passed = Result(cases=36, failures=0, example=None)
    assert behaviour.direction(knows_all, SIGNS) == {
        "negation of praise": passed,
        "strong positive word": passed,
        "strong negative word": passed,
    }


def test_direction_fails_one_that_does_not_hear_a_negation_and_lets_one_stay_at_a_strong_word() -> None:
    assert behaviour.direction(says_neutral, SIGNS) == {
        "negation of praise": Result(cases=36, failures=36, example="The flight was not great"),
        "strong positive word": Result(cases=36, failures=0, example=None),
        "strong negative word": Result(cases=36, failures=0, example=None),
    }


@pytest.mark.parametrize(("fall", "failures"), [(0.09, 0), (0.11, 36)])
def test_direction_fails_a_strong_word_that_moves_polarity_the_wrong_way_by_more_than_a_tenth(
    fall: float, failures: int
) -> None:
    def sours(texts: Sequence[str]) -> Floats:
        return np.array([[fall, 1 - fall, 0.0] if "," in text else [0.0, 1.0, 0.0] for text in texts])

    results = behaviour.direction(sours, SIGNS)
    assert results["strong positive word"].failures == failures
    assert results["strong negative word"].failures == 0


def test_minimum_functionality_passes_a_classifier_that_knows_the_sentences() -> None:
    results = behaviour.minimum_functionality(knows_all, SIGNS)
    assert {name: (result.cases, result.failures) for name, result in results.items()} == {
        "plain positive": (44, 0),
        "plain negative": (44, 0),
        "negated praise": (36, 0),
        "plain neutral": (6, 0),
    }


def test_minimum_functionality_fails_one_that_always_says_neutral() -> None:
    assert behaviour.minimum_functionality(says_neutral, SIGNS) == {
        "plain positive": Result(cases=44, failures=44, example="I love this so much"),
        "plain negative": Result(cases=44, failures=44, example="I hate this so much"),
        "negated praise": Result(cases=36, failures=36, example="The flight was not great"),
        "plain neutral": Result(cases=6, failures=0, example=None),
    }


def test_labels_without_a_neutral_one_are_not_asked_for_it() -> None:
    results = behaviour.minimum_functionality(lambda texts: np.eye(2)[[1] * len(texts)], np.array([-1.0, 1.0]))
    assert {name: result.failures for name, result in results.items()} == {
        "plain positive": 0,
        "plain negative": 44,
        "negated praise": 36,
    }


def test_either_of_two_labels_of_the_same_sign_will_do() -> None:
    results = behaviour.minimum_functionality(
        lambda texts: np.eye(4)[[i % 2 for i in range(len(texts))]], np.array([-1.0, -1.0, 1.0, 1.0])
    )
    assert results["plain negative"].failures == 0
