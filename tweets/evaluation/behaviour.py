"""Behaviour of a sentiment classifier, as failure rates: what must not change its answer, what must, what it must know.

After Ribeiro et al., Beyond Accuracy: Behavioral Testing of NLP Models with CheckList, ACL 2020. A label counts as
positive or negative by its name ("Extremely Positive" is positive), so the direction and minimum functionality tests
apply to label sets with such names only.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import regex

from tweets.text.cleaning import MENTION, URL

Floats = npt.NDArray[np.float64]
Predict = Callable[[Sequence[str]], Floats]  # texts -> probabilities (N, K)

NAMES = ("Maria", "James", "Fatima", "Wei", "Olu", "Anna", "Carlos", "Priya")
HANDLES = ("@maria_k", "@jsmith42", "@newsdesk", "@olu_ade")
LINKS = ("https://t.co/Ab3dE5fGh1", "http://example.com/a?b=1", "https://t.co/Zz9Yy8Xx7W")

POSITIVE = ("great", "wonderful", "amazing", "excellent", "perfect", "fantastic")
NEGATIVE = ("terrible", "awful", "horrible", "disgusting", "dreadful", "useless")
THINGS = ("The flight", "This phone", "The service", "The concert", "My new car", "The staff")

POSITIVE_SENTENCES = (
    "I love this so much",
    "Thank you, you made my day",
    "Best day ever!",
    "So happy with my new phone 😍",
    "What a fantastic team",
    "Can't wait, this is going to be amazing!",
    "Really impressed by how helpful everyone was",
    "You guys rock, thanks for the quick reply",
)
NEGATIVE_SENTENCES = (
    "I hate this so much",
    "Worst service ever",
    "You lost my bag and nobody will help me",
    "So disappointed, never again",
    "This is a complete waste of money",
    "Three hours late and no apology 😡",
    "The app crashed again, this is ridiculous",
    "Not happy with how I was treated",
)
NEUTRAL_SENTENCES = (
    "The meeting starts at 10 am",
    "What time does the store open?",
    "Flight 212 departs from gate 4",
    "He parked the car on Main Street",
    "New article on self-driving cars http://example.com",
    "Does anyone know which channel it is on?",
)

DROP = 0.1  # how far a mean polarity may move the wrong way before a direction test fails


@dataclass(frozen=True, kw_only=True)
class Result:
    """How many of the cases of one test failed, with one of those."""

    cases: int
    failures: int
    example: str | None


def polarity(labels: Sequence[str]) -> Floats | None:
    """Return +1, -1 or 0 for each label, (K,), or None when the labels do not name both a positive and a negative."""
    signs = np.array([1.0 if "positive" in x.lower() else -1.0 if "negative" in x.lower() else 0.0 for x in labels])
    return signs if {-1.0, 1.0} <= set(signs) else None


def invariance(predict: Predict, tweets: Sequence[str]) -> dict[str, Result]:
    """Change what should not matter in real tweets; a case fails when the label changes."""
    variants = {
        "name": [tweet + f" cc {NAMES[i % len(NAMES)]}" for i, tweet in enumerate(tweets)],
        "mention": [_swap(MENTION, HANDLES, tweet, i) for i, tweet in enumerate(tweets)],
        "url": [_swap(URL, LINKS, tweet, i) for i, tweet in enumerate(tweets)],
    }
    before = predict(tweets).argmax(1)
    results = {}
    for name, changed in variants.items():
        after = predict(changed).argmax(1)
        results[name] = _result(list(before != after), changed)
    return results


def _swap(pattern: regex.Pattern[str], others: Sequence[str], tweet: str, number: int) -> str:
    """Return the tweet with each match replaced by another such, or with one put before it where there is none."""
    other = others[number % len(others)]
    return pattern.sub(other, tweet) if pattern.search(tweet) else f"{other} {tweet}"


def direction(predict: Predict, signs: Floats) -> dict[str, Result]:
    """Add a negation or a strong word; a case fails when the polarity moves the wrong way by more than DROP."""
    pairs = {
        "negation of praise": [
            (f"{thing} was {word}", f"{thing} was not {word}", -1.0)
            for thing, word in itertools.product(THINGS, POSITIVE)
        ],
        "strong positive word": [
            (f"{thing} was okay", f"{thing} was okay, {word}", 1.0)
            for thing, word in itertools.product(THINGS, POSITIVE)
        ],
        "strong negative word": [
            (f"{thing} was okay", f"{thing} was okay, {word}", -1.0)
            for thing, word in itertools.product(THINGS, NEGATIVE)
        ],
    }
    results = {}
    for name, cases in pairs.items():
        before = predict([case[0] for case in cases]) @ signs
        after = predict([case[1] for case in cases]) @ signs
        wanted = np.array([case[2] for case in cases])
        # Praise that is negated has to fall; a strong word only must not move the answer the other way.
        least = DROP if name.startswith("negation") else -DROP
        results[name] = _result(list((after - before) * wanted < least), [case[1] for case in cases])
    return results


def minimum_functionality(predict: Predict, signs: Floats) -> dict[str, Result]:
    """Give sentences that anyone would label alike; a case fails when the predicted label has another sign."""
    cases = {
        "plain positive": (
            1.0,
            [*POSITIVE_SENTENCES, *(f"{t} was {w}" for t, w in itertools.product(THINGS, POSITIVE))],
        ),
        "plain negative": (
            -1.0,
            [*NEGATIVE_SENTENCES, *(f"{t} was {w}" for t, w in itertools.product(THINGS, NEGATIVE))],
        ),
        "negated praise": (-1.0, [f"{t} was not {w}" for t, w in itertools.product(THINGS, POSITIVE)]),
    }
    if 0.0 in signs:
        cases["plain neutral"] = (0.0, list(NEUTRAL_SENTENCES))
    results = {}
    for name, (wanted, sentences) in cases.items():
        predicted_signs = signs[predict(sentences).argmax(1)]
        results[name] = _result(list(predicted_signs != wanted), sentences)
    return results


def _result(failed: Sequence[bool], texts: Sequence[str]) -> Result:
    example = next((text for bad, text in zip(failed, texts, strict=True) if bad), None)
    return Result(cases=len(texts), failures=int(sum(failed)), example=example)
