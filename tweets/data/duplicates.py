"""Find tweets that say the same, so that none of them is both learned from and tested on.

Two levels. A *key* is what a tweet says: copies that differ in links, mentions, case, spacing or decorating punctuation
share it. Emoji, emoticons, question marks and the signs of mathematics are part of it: they can decide the label.
A *group* joins keys that share a run of RUN words anywhere: retweets cut short, quotes with a comment before them.
Both come from the raw text only, by fixed rules that no param changes.

Chinese, Japanese, Thai, Lao, Khmer and Burmese have no spaces between words. There a run is of 12 (Chinese, Japanese)
or 20 (the others) characters as readers see them, each with its combining marks (grapheme clusters, UAX #29).

Keys and runs are compared by hashes of 64 bits, so that millions of tweets fit in memory. Among 4 million keys, the
chance that any two that differ have the same hash is 4e-7; among 45 million runs it is 6e-5, and would join two groups.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import regex
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from tweets.text.cleaning import MENTION, replace_urls, unescape_html

RUN = 6
RETWEET = regex.compile(r"(?<![\p{Latin}\p{N}_])(?:rt|mt|via)\b(?=\s*+:?+\s*+@)", regex.IGNORECASE)
LATIN = r"[\p{Latin}\p{N}_]"  # a word of another script may touch what follows it
EMOTICON = rf"""
    (?: [<>]? [:;=] [-o^*]? [()\[\]{{}}/\\|@*]+  # :-) ;( =/
      | (?<!{LATIN}) [<>]? [:;=] [-o^*]? [dpoxc3]+ (?!{LATIN})  # :D ;P :c :3
      | (?<!{LATIN}) d [-o^*]? [:;=] (?!\w)  # D:
      | (?<!\w) [()\[\]{{}}\\|@*]{{1,9}} [-o^*]? [:;=] (?!\w)  # (-:
      | <[/\\]?3+ (?!{LATIN})  # <3 </3
      | (?<!{LATIN}) (?: [-^>;t] _+ [-^<;t] | [\^>;t] [_.-]{{1,3}} [\^<;t] | - \.{{1,3}} - ) (?!{LATIN})  # -_- T.T
      | \^\^ )
"""
TOKEN = regex.compile(
    rf"""
    {EMOTICON}
    | [\p{{So}}\p{{Extended_Pictographic}}\p{{Emoji_Modifier}}] [\U000e0020-\U000e007f]*  # emoji, and the tags of flags
    | [\p{{L}}\p{{M}}\p{{N}}]+
    | \?
    | (?<! \w) - (?= \p{{Sc}}? [.,]? \d)  # -5
    | (?<! =) [!=]=(?! =)  # == !=
    | (?! [|~=]) \p{{Sm}}  # C++, +5, arrows, < and ≠
    """,
    regex.VERBOSE,
)
QUESTION = regex.compile(r"[!?؟՞፧⸮]+(?!=)|(?<=\p{Greek});")
# The hyphens and apostrophes that keyboards and programs write instead of the plain ones.
ALIKE = str.maketrans("\u2010\u2011\u2013\u2212´′’‘ʼ`", "----" + 6 * "'")
IGNORED = regex.compile(r"'|[\p{Cf}\ufe0e\ufe0f](?<![\U000e0020-\U000e007f])")
UNSPACED = regex.compile(
    r"(?P<han>(?:[\p{Han}\p{Hiragana}\p{Katakana}ー]\p{M}*\ ?)+)"
    r"|(?P<thai>(?:[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]\p{M}*\ ?)+)"
)
RUN_OF = {"han": 12, "thai": 20}  # characters as long as six words, about
PARTS = 16  # of the range of hashes; one is sorted at a time
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying loses nothing

Hashes = npt.NDArray[np.uint64]


class Runs(NamedTuple):
    """The runs of a piece of the keys."""

    keys: int  # in the piece
    hashes: Hashes  # (R,) sorted
    owners: npt.NDArray[np.int32]  # (R,) the number of each run's key in the piece


def key(text: str) -> str:
    """Return what the tweet says: its words in lower case, emoji, emoticons, question marks and signs.

    They are set off by spaces, in NFKC. Links, mentions, retweet marks and other punctuation are left out. A tweet
    without any of these parts is its own key.
    """
    bare = replace_urls(" ", unescape_html(text)).translate(ALIKE)  # links end in the … that NFKC takes apart
    if not bare.isascii():
        bare = unicodedata.normalize("NFKC", bare)
    if "@" in bare:
        bare = MENTION.sub(" ", RETWEET.sub(" ", bare))
    bare = QUESTION.sub(lambda run: " ? " if run[0].strip("!") else " ", IGNORED.sub("", bare.casefold()))
    return " ".join(TOKEN.findall(bare)) or text.strip()


def hashes(texts: Sequence[str]) -> Hashes:
    """Return 64 bits for each text, (N,): SipHash, the same in every process."""
    return pd.util.hash_array(np.array(texts, dtype=object), categorize=False)


def units(key: str) -> list[str]:
    """Return what RUN of make a run: the key's words, or overlapping stretches of a text without spaces.

    A key of fewer is one unit, emoji and all, so that it joins its equals only.
    """
    words = [word for word in key.split() if word[0].isalnum()]
    if not key.isascii() and UNSPACED.search(key):
        words = list(_stretches(" ".join(words)))
    return words if len(words) >= RUN else [key]


def _stretches(words: str) -> Iterator[str]:
    """Yield the words that have spaces between them, and of the rest the stretches of which RUN span a run."""
    end = 0
    for match in UNSPACED.finditer(words):
        yield from words[end : match.start()].split()
        end = match.end()
        characters = regex.findall(r"\X", match[0].replace(" ", ""))
        length = RUN_OF[str(match.lastgroup)] - RUN + 1
        for start in range(max(1, len(characters) - length + 1)):
            yield "".join(characters[start : start + length])
    yield from words[end:].split()


def runs(keys: Sequence[str]) -> Runs:
    """Return the hashes of all runs of RUN units in the keys. A shorter key is one run as a whole."""
    padded = [row if len(row) >= RUN else row + [""] * (RUN - len(row)) for row in map(units, keys)]
    lengths = np.fromiter(map(len, padded), np.int32, len(keys))
    word = hashes(list(chain.from_iterable(padded)))
    run = np.zeros(max(0, len(word) - RUN + 1), np.uint64)
    for place in range(RUN):
        run = run * FACTOR + word[place : place + len(run)]
    owner = np.repeat(np.arange(len(keys), dtype=np.int32), lengths)
    within = owner[: len(run)] == owner[len(owner) - len(run) :]  # begins and ends in the same key
    order = np.argsort(run[within])
    return Runs(len(keys), run[within][order], owner[: len(run)][within][order])


def groups(pieces: Sequence[Runs]) -> npt.NDArray[np.int64]:
    """Return a group number for each key of the pieces, (N,): keys that share a run have the same number.

    Groups are numbered in the order of their first key.
    """
    starts = np.cumsum([0, *(piece.keys for piece in pieces)])
    group = np.arange(starts[-1], dtype=np.int32)
    width = 2**64 // PARTS
    for low in range(0, 2**64, width):
        parts = [_between(piece.hashes, low, low + width - 1) for piece in pieces]
        run = np.concatenate([piece.hashes[part] for piece, part in zip(pieces, parts, strict=True)])
        owner = np.concatenate(
            [piece.owners[part] + start for piece, part, start in zip(pieces, parts, starts[:-1], strict=True)]
        )
        order = np.argsort(run)
        same = run[order[1:]] == run[order[:-1]]
        one, other = group[owner[order[1:][same]]], group[owner[order[:-1][same]]]
        links = coo_matrix((np.ones(len(one), np.int8), (one, other)), shape=(len(group), len(group)))
        group = connected_components(links, directed=False)[1][group]
    return pd.factorize(group)[0].astype(np.int64)


def _between(values: Hashes, low: int, high: int) -> slice:
    """Return where in the sorted values those from low to high are."""
    return slice(
        int(np.searchsorted(values, np.uint64(low))), int(np.searchsorted(values, np.uint64(high), side="right"))
    )
