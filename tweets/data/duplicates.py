"""Find tweets that say the same, so that none of them is both learned from and tested on.

Two levels. A *key* is a tweet's words alone: copies that differ in links, mentions, case or punctuation share it.
A *group* joins keys that share a run of RUN words anywhere: retweets cut short, quotes with a comment before them.
Both come from the raw text only, by fixed rules that no param changes.

Keys and runs are compared by hashes of 64 bits, so that millions of tweets fit in memory. Among 4 million keys, the
chance that any two that differ have the same hash is 4e-7; among 45 million runs it is 6e-5, and would join two groups.
"""

import html
import re
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from tweets.text.cleaning import MENTION, replace_urls

RUN = 6
RETWEET = re.compile(r"\b(?:rt|mt|via)\b(?=:?\s*@)", re.IGNORECASE)
NOT_WORD = re.compile(r"[^\w\s]|_")
PARTS = 16  # of the range of hashes; one is sorted at a time
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying loses nothing

Hashes = npt.NDArray[np.uint64]


class Runs(NamedTuple):
    """The runs of a piece of the keys."""

    keys: int  # in the piece
    hashes: Hashes  # (R,) sorted
    owners: npt.NDArray[np.int32]  # (R,) the number of each run's key in the piece


def key(text: str) -> str:
    """Return the tweet's words in lower case, without links, mentions, retweet marks and punctuation.

    A tweet without any word, such as one of emoji only, is its own key.
    """
    bare = html.unescape(text)
    if "@" in bare:
        bare = RETWEET.sub(" ", bare)
    bare = MENTION.sub(" ", replace_urls(" ", bare)).replace("'", "").replace("’", "")
    words = NOT_WORD.sub(" ", bare.lower()).split()
    return " ".join(words) or text.strip()


def hashes(texts: Sequence[str]) -> Hashes:
    """Return 64 bits for each text, (N,): SipHash, the same in every process."""
    return pd.util.hash_array(np.array(texts, dtype=object), categorize=False)


def runs(keys: Sequence[str]) -> Runs:
    """Return the hashes of all runs of RUN words in the keys; of a shorter key, that of all its words."""
    words = [key.split() for key in keys]
    padded = [row if len(row) >= RUN else row + [""] * (RUN - len(row)) for row in words]
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
