"""Find tweets that say the same, so that none of them is both learned from and tested on.

Two levels. A *key* is a tweet's words alone: copies that differ in links, mentions, case or punctuation share it.
A *group* joins keys that share a run of RUN words anywhere: retweets cut short, quotes with a comment before them.
Both come from the raw text only, by fixed rules that no param changes.
"""

import html
import re

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from tweets.text import MENTION, URL

RUN = 6
RETWEET = re.compile(r"\b(?:rt|mt|via)\b(?=:?\s*@)", re.IGNORECASE)
NOT_WORD = re.compile(r"[^\w\s]|_")


def key(text: str) -> str:
    """Return the tweet's words in lower case, without links, mentions, retweet marks and punctuation.

    A tweet without any word, such as one of emoji only, is its own key.
    """
    bare = MENTION.sub(" ", URL.sub(" ", RETWEET.sub(" ", html.unescape(text))))
    words = NOT_WORD.sub(" ", re.sub(r"['’]", "", bare).lower()).split()
    return " ".join(words) or text.strip()


def groups(keys: pd.Series) -> npt.NDArray[np.int64]:
    """Return a group number for each key, (N,): keys that share a run of RUN words have the same number.

    Groups are numbered in the order of their first key.
    """
    unique, position = np.unique(keys.to_numpy(dtype=object), return_inverse=True)
    row: list[int] = []
    run: list[str] = []
    for index, text in enumerate(unique):
        words = text.split()
        runs = {" ".join(words[i : i + RUN]) for i in range(max(1, len(words) - RUN + 1))}
        row.extend([index] * len(runs))
        run.extend(runs)
    run_number = pd.factorize(pd.Series(run))[0]
    size = len(unique) + run_number.max() + 1 if run else 0
    links = coo_matrix((np.ones(len(row), np.int8), (row, run_number + len(unique))), shape=(size, size))
    component = connected_components(links, directed=False)[1][: len(unique)]
    numbers: npt.NDArray[np.int64] = pd.factorize(component[position])[0].astype(np.int64)
    return numbers
