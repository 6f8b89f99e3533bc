"""Clean a tweet. The one function for it, `clean`, serves training and serving alike, so they cannot drift apart."""

import dataclasses
import html
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_type_hints

import emoji
import ftfy
import regex

from tweets import files
from tweets.errors import UserError
from tweets.params import build, section
from tweets.text.stop_words import ENGLISH

if TYPE_CHECKING:
    from nltk.stem import PorterStemmer
    from nltk.tokenize import TweetTokenizer

# `regex` instead of `re`: its \w includes combining marks, which are parts of words in Hindi, Thai and other scripts.
# Where a script has no spaces, links, mentions and the text around them touch: Latin letters decide where they begin.
URL = regex.compile(
    r"(?<![\p{Latin}\p{N}_])(?:https?(?::[!#-~]*|(?![\p{Latin}\p{N}_]))"
    r"|(?:www\.|pic\.twitter\.com/|t\.co/)[!#-~]+|ht{1,2}p?(?=…))",
    regex.IGNORECASE,
)  # ASCII but quotes: emoji follow links
TOUCHING = regex.compile(r"(?<=[\p{Latin}\p{N}_])(?=https?://|pic\.twitter\.com/)", regex.IGNORECASE)
# What precedes the sign comes second: beginning with a literal is faster. In scripts without spaces between words only
# a name in Latin letters has an end.
MENTION = regex.compile(
    r"@(?<![\p{Latin}\p{N}_]@)"
    r"(?:[\p{Latin}\p{M}\p{Nd}_]+|[^\W\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]+)"
)
HASHTAG = regex.compile(r"(?<![^\W\ufe0e\ufe0f])#(\w+)")  # may follow an emoji's variation selector, which is a mark
WORD_BREAK = regex.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=\d)|_")
NUMBER = regex.compile(r"\d+(?:[.,:]\d+)*")
APOSTROPHE = regex.compile(r"(?<=\w)['’](?=\w)")
PUNCTUATION = regex.compile(r"[^\w\s][\p{M}\u200d]*|_")  # with the marks that belong to the sign
# Control characters, but for the white space among them, and characters without width.
INVISIBLE = regex.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u200b\u2060\ufeff]")
MAYBE_EMOJI = regex.compile("[#*0-9]?[©®‼-\U0010ffff]+")  # keycaps begin with ASCII; all others are from U+203C on
PIECE = 500  # characters; no tweet of the data that has joined emoji is longer
FTFY = ftfy.TextFixerConfig(unescape_html=False, explain=False)
NEGATION = regex.compile(
    r"\b(?:no|not|nor|never|none|nobody|nothing|neither|nowhere|cannot|without|\w+n['’]t"
    r"|(?:ai|are|ca|could|did|does|do|had|has|have|is|might|must|need|should|was|were|wo|would)nt)\b",
    regex.IGNORECASE,
)

Replace = Literal["keep", "token", "remove"]
VERSION = 3  # of the steps below: raise it when you add one, or change what one does


@section
class Normalise:
    """What happens to the parts of a tweet that are not words."""

    encoding: bool  # repair broken encodings with ftfy, and drop control and zero-width characters
    html: bool  # &amp; becomes &
    urls: Replace  # token: `http`
    mentions: Replace  # token: `@user`
    hashtags: Literal["keep", "split", "remove"]  # split: `#NoThankYou` becomes `No Thank You`
    emoji: Literal["keep", "name", "remove"]  # name: the emoji's English name, in words
    whitespace: bool  # one space between words, none at the ends


@section
class ClassicSteps:
    """The classic cleaning steps. All are off by default: an encoder reads sentences better than stems."""

    lowercase: bool
    numbers: bool
    punctuation: bool
    stopwords: bool  # scikit-learn's English list, less the negations
    emoji: bool  # remove them, whatever normalise.emoji says
    lemmatise: bool  # simplemma, English; negations stay
    stem: bool  # NLTK's Porter stemmer, which also lowers case


@section
class CleaningSettings:
    """All that decides what `clean` makes of a text. A model's folder holds them: see `save` and `load`."""

    normalise: Normalise
    clean: ClassicSteps


def save(path: Path, settings: CleaningSettings) -> None:
    """Write the settings, with the VERSION of the steps that they choose from."""
    files.write_json(path, {"version": VERSION, **dataclasses.asdict(settings)})


def load(path: Path) -> CleaningSettings:
    """Read settings that `save` of this version or of an earlier one wrote. A step that it did not know is off.

    Raises UserError when the file is missing or damaged, and names a step that this version does not know.
    """
    content = files.read_json(path)
    if not isinstance(content, dict) or not isinstance(version := content.pop("version", None), int):
        raise UserError(f"{path}: not cleaning settings; it needs an object with the version of the steps")
    for group, kind in get_type_hints(CleaningSettings).items():
        steps = content.get(group)
        if not isinstance(steps, dict):
            raise UserError(f"{path}: no {group}; it needs the steps to take")
        off = {name: False if hint is bool else "keep" for name, hint in get_type_hints(kind).items()}
        if unknown := [name for name in steps if name not in off]:
            raise UserError(
                f"{path}: {group}.{unknown[0]} is no step of version {VERSION}, which this code has; version {version}"
                " wrote it: take the code of the model's commit, or a later one"
            )
        content[group] = off | steps
    return build(CleaningSettings, content, str(path))


def clean(texts: Iterable[str], cleaning: CleaningSettings) -> list[str]:
    """Return the texts, normalised first and then cleaned, in that order; a text may become empty."""
    named = dataclasses.replace(cleaning.normalise, emoji="remove") if cleaning.clean.emoji else cleaning.normalise
    steps = [*_normalising_steps(named), *_classic_steps(cleaning.clean)]
    if cleaning.normalise.whitespace:
        steps.append(lambda text: " ".join(text.split()))
    return [_apply(steps, text) for text in texts]


def _apply(steps: list[Callable[[str], str]], text: str) -> str:
    for step in steps:
        text = step(text)
    return text


def _normalising_steps(normalise: Normalise) -> list[Callable[[str], str]]:
    steps: list[Callable[[str], str]] = []
    if normalise.urls != "keep":  # first: a link's &section= would be unescaped to a sign
        steps.append(partial(replace_urls, "http" if normalise.urls == "token" else " "))
    if normalise.html:
        steps.append(unescape_html)
    if normalise.encoding:
        steps.append(repair_encoding)
    if normalise.mentions != "keep":
        steps.append(partial(MENTION.sub, "@user" if normalise.mentions == "token" else " "))
    if normalise.hashtags != "keep":
        steps.append(partial(HASHTAG.sub, _hashtag_words if normalise.hashtags == "split" else " "))
    if normalise.emoji != "keep":
        steps.append(name_emoji if normalise.emoji == "name" else remove_emoji)
    return steps


def _classic_steps(settings: ClassicSteps) -> list[Callable[[str], str]]:
    steps: list[Callable[[str], str]] = []
    if settings.lowercase:
        steps.append(str.lower)
    if settings.numbers:
        steps.append(partial(NUMBER.sub, " "))
    if settings.stopwords:
        steps.append(lambda text: _join(word for word in tokenise(text) if word.lower() not in stop_words()))
    if settings.lemmatise:
        steps.append(lambda text: _join(map(_lemma, tokenise(text))))
    if settings.stem:
        steps.append(lambda text: _join(map(_stemmer().stem, tokenise(text))))
    if settings.punctuation:
        steps.append(lambda text: PUNCTUATION.sub(" ", APOSTROPHE.sub("", text)))  # don't becomes dont
    return steps


def replace_urls(replacement: str, text: str) -> str:
    """Return the text with each link replaced, and set off where it touches the word before it.

    Most tweets hold nothing that a link begins with: they skip the patterns.
    """
    lower = text.lower()
    begins = "http" in lower or "www." in lower or "…" in text or "t.co/" in lower or "pic.twitter" in lower
    return URL.sub(replacement, TOUCHING.sub(" ", text)) if begins else text


def unescape_html(text: str) -> str:
    """Return the text with HTML's references as the characters they stand for."""
    try:
        return html.unescape(text) if "&" in text else text
    except ValueError:  # a number of more digits than Python reads
        return text


def repair_encoding(text: str) -> str:
    """Return the text with mis-decoded UTF-8 put right and invisible characters dropped; ASCII skips ftfy."""
    if not text.isascii():
        text = ftfy.fix_text(text, FTFY)
    return text if text.isprintable() else INVISIBLE.sub("", text)


def name_emoji(text: str) -> str:
    """Return the text with each emoji replaced by its English name, in words, set off by spaces."""
    return _replace_emoji(text, lambda _, data: " " + data["en"].strip(":").replace("_", " ") + " ")


def remove_emoji(text: str) -> str:
    """Return the text with a space in place of each emoji."""
    return _replace_emoji(text, " ")


def _replace_emoji(text: str, replacement: str | Callable[[str, dict[str, str]], str]) -> str:
    """Replace the emoji in a text; `emoji` looks at each character in Python, so it gets no more than it has to."""
    if text.isascii():
        return text
    if "\u200d" in text:  # joins emoji, and can make `emoji` go back beyond where they begin, with the square of time
        pieces = (text[start : start + PIECE] for start in range(0, len(text), PIECE))
        return "".join(emoji.replace_emoji(piece, replacement) for piece in pieces)
    return MAYBE_EMOJI.sub(lambda run: emoji.replace_emoji(run.group(), replacement), text)


def has_emoji(text: str) -> bool:
    """Tell whether the text holds an emoji."""
    return not text.isascii() and emoji.emoji_count(text) > 0


@cache
def stop_words() -> frozenset[str]:
    """Return scikit-learn's English stop words, less those that negate."""
    return frozenset(word for word in ENGLISH if not NEGATION.fullmatch(word))


@cache
def _tokenizer() -> "TweetTokenizer":
    from nltk.tokenize import TweetTokenizer  # noqa: PLC0415  half a second that few need

    return TweetTokenizer()


@cache
def _stemmer() -> "PorterStemmer":
    from nltk.stem import PorterStemmer  # noqa: PLC0415  as above

    return PorterStemmer()


def tokenise(text: str) -> list[str]:
    """Return the words, mentions, hashtags, emoticons and punctuation of a tweet (NLTK's TweetTokenizer)."""
    return _tokenizer().tokenize(text)  # type: ignore[no-any-return]


def _lemma(word: str) -> str:
    """Return the word's lemma; a negation stays, since simplemma makes `do` of `don't`."""
    import simplemma  # noqa: PLC0415  as above

    return word if NEGATION.fullmatch(word) else simplemma.lemmatize(word, lang="en")


def _join(words: Iterable[str]) -> str:
    return " ".join(words)


def _hashtag_words(match: regex.Match[str]) -> str:
    return WORD_BREAK.sub(" ", match.group(1))
