"""Ways to write a tweet otherwise that should not change what it says, each at several strengths.

A perturbation takes a tweet and a random number generator, and returns the tweet written otherwise; where there is
nothing to change, as no link to remove, it returns the tweet as it is. Links and mentions keep their letters.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import emoji
import regex

from tweets.text.cleaning import MENTION, URL

KEPT = regex.compile(f"({URL.pattern}|{MENTION.pattern})", regex.IGNORECASE)
ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")  # of a keyboard
NEUTRAL_EMOJI = "📌"
LINK = "https://t.co/Ab3dE5fGh1"
NAME = "@newsdesk"

Perturbation = Callable[[str, random.Random], str]


@dataclass(frozen=True)
class Kind:
    """A kind of perturbation at one strength."""

    name: str
    strength: str
    apply: Perturbation


def neighbours(letter: str) -> str:
    """Return the keys beside a letter in its row."""
    row = next(row for row in ROWS if letter in row)
    place = row.index(letter)
    return row[max(0, place - 1) : place] + row[place + 1 : place + 2]


def typo(text: str, rng: random.Random) -> str:
    """Return the text with one letter swapped with the next, dropped, doubled, or taken for the key beside it."""
    places = [place for place, sign in enumerate(text) if sign.isascii() and sign.isalpha()]
    if not places:
        return text
    place = rng.choice(places)
    sign, rest = text[place], text[place + 1 :]
    near = rng.choice(neighbours(sign.lower()))
    changed = {
        "swap": rest[:1] + sign + rest[1:],
        "drop": rest,
        "double": sign + sign + rest,
        "neighbour": (near.upper() if sign.isupper() else near) + rest,
    }
    return text[:place] + changed[rng.choice(sorted(changed))]


def in_words(change: Perturbation) -> Perturbation:
    """Return the perturbation for what lies between links and mentions, of which it gets one part, drawn by length."""

    def changed(text: str, rng: random.Random) -> str:
        parts = KEPT.split(text)
        free = list(range(0, len(parts), 2))
        place = rng.choices(free, [len(parts[number]) + 1e-9 for number in free])[0]
        parts[place] = change(parts[place], rng)
        return "".join(parts)

    return changed


def everywhere(change: Callable[[str], str]) -> Perturbation:
    """Return the perturbation that changes all between links and mentions."""

    def changed(text: str, _: random.Random) -> str:
        return "".join(part if number % 2 else change(part) for number, part in enumerate(KEPT.split(text)))

    return changed


def times(change: Perturbation, count: int) -> Perturbation:
    """Return the perturbation applied `count` times."""

    def changed(text: str, rng: random.Random) -> str:
        for _ in range(count):
            text = change(text, rng)
        return text

    return changed


def join_words(share: float) -> Perturbation:
    """Return the perturbation that takes out a share of the spaces between words, one at least."""

    def changed(text: str, rng: random.Random) -> str:
        spaces = [match.start() for match in regex.finditer(r"(?<=\w) (?=\w)", text)]
        kept = [match.span() for match in KEPT.finditer(text)]
        free = [place for place in spaces if not any(start - 1 <= place <= end for start, end in kept)]
        out = set(rng.sample(free, max(1, round(share * len(free))) if free else 0))
        return "".join(sign for place, sign in enumerate(text) if place not in out)

    return changed


def swap_neighbours(text: str, rng: random.Random) -> str:
    """Return the text with two words that follow each other swapped."""
    words = text.split()
    if len(words) < 2:
        return text
    place = rng.randrange(len(words) - 1)
    words[place : place + 2] = words[place + 1], words[place]
    return " ".join(words)


def move_words(share: float) -> Perturbation:
    """Return the perturbation that puts a share of the words, two at least, into each other's places."""

    def changed(text: str, rng: random.Random) -> str:
        words = text.split()
        if len(words) < 2:
            return text
        places = rng.sample(range(len(words)), max(2, round(share * len(words))))
        moved = rng.sample(places, len(places))
        result = list(words)
        for place, source in zip(places, moved, strict=True):
            result[place] = words[source]
        return " ".join(result)

    return changed


def without_emoji(text: str, _: random.Random) -> str:
    return emoji.replace_emoji(text, "") if emoji.emoji_count(text) else text


def emoji_thrice(text: str, _: random.Random) -> str:
    return emoji.replace_emoji(text, lambda sign, _: sign * 3) if emoji.emoji_count(text) else text


def added(what: str) -> Perturbation:
    """Return the perturbation that adds something at the end."""
    return lambda text, _: f"{text} {what}"


def put_before(what: str) -> Perturbation:
    """Return the perturbation that puts something before the text."""
    return lambda text, _: f"{what} {text}"


def replaced(pattern: regex.Pattern[str], what: str) -> Perturbation:
    """Return the perturbation that puts something in place of each match."""
    return lambda text, _: pattern.sub(what, text)


def kinds() -> Iterator[Kind]:
    """Yield all perturbations."""
    for count in (1, 2, 4):
        yield Kind("typos", f"{count}", times(in_words(typo), count))
    for name, change in (("lower", str.lower), ("upper", str.upper), ("title", str.title)):
        yield Kind("casing", name, everywhere(change))
    yield Kind("emoji", "removed", without_emoji)
    yield Kind("emoji", "three times", emoji_thrice)
    yield Kind("emoji", "one added", added(NEUTRAL_EMOJI))
    for share in (0.1, 0.3, 1.0):
        yield Kind("spaces missing", f"{share:.0%}", join_words(share))
    for name, pattern, what in (("link", URL, LINK), ("mention", MENTION, NAME)):
        yield Kind(name, "added", added(what) if name == "link" else put_before(what))
        yield Kind(name, "another", replaced(pattern, what))
        yield Kind(name, "removed", replaced(pattern, ""))
    yield Kind("word order", "two neighbours", swap_neighbours)
    for share in (0.25, 1.0):
        yield Kind("word order", f"{share:.0%} moved", move_words(share))
