"""`clean`: each option by itself, the order of the steps, and what stays as it is."""

import dataclasses
import json
import random
import re
from pathlib import Path
from typing import Any

import emoji
import pytest
import regex
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from tweets.errors import UserError
from tweets.text import cleaning
from tweets.text.cleaning import (
    INVISIBLE,
    MENTION,
    NEGATION,
    PIECE,
    TOUCHING,
    URL,
    ClassicSteps,
    CleaningSettings,
    Normalise,
    clean,
    has_emoji,
    name_emoji,
    remove_emoji,
    repair_encoding,
    replace_urls,
    stop_words,
    tokenise,
)
from tweets.text.stop_words import ENGLISH

DEFAULTS: dict[str, Any] = {
    "encoding": True,
    "html": True,
    "urls": "token",
    "mentions": "token",
    "hashtags": "keep",
    "emoji": "name",
    "whitespace": True,
}
NOTHING: dict[str, Any] = {
    "encoding": False,
    "html": False,
    "urls": "keep",
    "mentions": "keep",
    "hashtags": "keep",
    "emoji": "keep",
    "whitespace": False,
}
STEPS = ["emoji", "lemmatise", "lowercase", "numbers", "punctuation", "stem", "stopwords"]
OFF = dict.fromkeys(STEPS, False)
ALL_PARTS = "RT @bob: I &amp; you #NoThanks ’99\u200b https://t.co/x 😍  !"


def settings(normalise: dict[str, Any], **steps: bool) -> CleaningSettings:
    return CleaningSettings(normalise=Normalise(**normalise), clean=ClassicSteps(**OFF | steps))


def default(text: str, **changed: Any) -> str:
    """Clean one text with the default normalisation, some of it changed."""
    [result] = clean([text], settings(DEFAULTS | changed))
    return result


def only(text: str, **chosen: Any) -> str:
    """Clean one text with nothing on but what is chosen."""
    [result] = clean([text], settings(NOTHING | chosen))
    return result


def stepped(text: str, **steps: bool) -> str:
    """Clean one text with the default normalisation and some classic steps."""
    [result] = clean([text], settings(DEFAULTS, **steps))
    return result


def test_defaults_clean_a_whole_tweet() -> None:
    assert clean(["RT @bob: I &amp; you https://t.co/x 😍"], settings(DEFAULTS)) == [
        "RT @user: I & you http smiling face with heart-eyes"
    ]


def test_texts_come_back_in_their_order_and_number() -> None:
    assert clean(["b  b", "", "a"], settings(DEFAULTS)) == ["b b", "", "a"]
    assert clean([], settings(DEFAULTS)) == []


def test_with_everything_off_nothing_changes() -> None:
    text = " \t" + ALL_PARTS + "\r\n\x07 "
    assert clean([text], settings(NOTHING)) == [text]


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("cafÃ© itâ€™s", "café it's"),
        ("“quotes” ‘single’ …", "\"quotes\" 'single' …"),
        ("a\u200bb\u2060c\ufeffd", "abcd"),
        ("bell\x07 null\x00 delete\x7f", "bell null delete"),
        ("tab\tand\nline", "tab\tand\nline"),
        ("&amp; stays", "&amp; stays"),
        ("é &lt;3", "é &lt;3"),
    ],
)
def test_encoding_repairs_text_and_drops_what_has_no_width(text: str, cleaned: str) -> None:
    assert only(text, encoding=True) == cleaned
    assert repair_encoding(text) == cleaned


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("I &amp; you &lt;3", "I & you <3"),
        ("&quot;it&#39;s&quot;", '"it\'s"'),
        ("R&D", "R&D"),
        ("no entity", "no entity"),
    ],
)
def test_html_turns_entities_into_their_characters(text: str, cleaned: str) -> None:
    assert only(text, html=True) == cleaned


def test_a_reference_of_more_digits_than_python_reads_stays() -> None:
    text = "&#" + "1" * 5000 + "; &amp;"
    assert only(text, html=True) == text


@pytest.mark.parametrize(
    ("choice", "cleaned"), [("keep", "see https://t.co/x now"), ("token", "see http now"), ("remove", "see   now")]
)
def test_urls_are_kept_or_become_a_token_or_go(choice: str, cleaned: str) -> None:
    assert only("see https://t.co/x now", urls=choice) == cleaned


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("HTTP://X.COM/A?b=1&c=2#d ok", "http ok"),
        ("visit www.example.com today", "visit http today"),
        ("https://t.co/abc😀now", "http😀now"),
        ('https://t.co/x"quoted"', 'http"quoted"'),
        ("cut https://t.c…", "cut http…"),
        ("cut htt…", "cut http…"),
        ("cut http…", "cut http…"),
        ("wwww.x shttp:foo foo.com", "wwww.x shttp:foo foo.com"),
        ("pic.twitter.com/x t.co/y not.co/z T.CO/", "http http not.co/z T.CO/"),
        ("so goodhttps://t.co/x", "so good http"),
        ("so goodpic.twitter.com/x", "so good http"),
    ],
)
def test_a_url_ends_where_ascii_or_a_quote_ends_it(text: str, cleaned: str) -> None:
    assert only(text, urls="token") == cleaned


@pytest.mark.parametrize(("choice", "cleaned"), [("keep", "hi @bob_99."), ("token", "hi @user."), ("remove", "hi  .")])
def test_mentions_are_kept_or_become_a_token_or_go(choice: str, cleaned: str) -> None:
    assert only("hi @bob_99.", mentions=choice) == cleaned


def test_an_address_and_a_lone_at_sign_are_no_mentions() -> None:
    assert only("me@home.org @ 5 .@bob", mentions="token") == "me@home.org @ 5 .@user"


@pytest.mark.parametrize(
    ("choice", "cleaned"),
    [
        ("keep", "#NoThankYou #COVID19 #a_b #über x#y #1 #"),
        ("split", "No Thank You COVID 19 a b über x#y 1 #"),
        ("remove", "        x#y   #"),
    ],
)
def test_hashtags_are_kept_or_split_into_words_or_go(choice: str, cleaned: str) -> None:
    assert only("#NoThankYou #COVID19 #a_b #über x#y #1 #", hashtags=choice) == cleaned


@pytest.mark.parametrize(
    ("choice", "cleaned"),
    [("keep", "hi😀you 👍🏽"), ("name", "hi grinning face you  thumbs up medium skin tone "), ("remove", "hi you  ")],
)
def test_emoji_are_kept_or_named_or_go(choice: str, cleaned: str) -> None:
    assert only("hi😀you 👍🏽", emoji=choice) == cleaned


def test_an_emoji_of_several_characters_has_one_name() -> None:
    assert name_emoji("👨\u200d👩\u200d👧") == " family man woman girl "
    assert name_emoji("🇬🇧") == " United Kingdom "
    assert name_emoji("❤️") == " red heart "


def test_a_long_text_of_joined_emoji_is_taken_in_pieces() -> None:
    """Which bounds the time; what is joined there, a tweet's length apart, keeps its name."""
    text = "👩\u200d🚀 on " * 200
    assert len(text) > 2 * PIECE
    found = only(text, emoji="name")
    assert 197 <= found.count("woman astronaut") <= 200
    assert found.split().count("on") == 200


@pytest.mark.parametrize("seed", range(3))
def test_the_short_ways_give_what_the_plain_ones_give(seed: int) -> None:
    """Texts of what emoji, links, mentions and white space consist of, at random."""
    rng = random.Random(seed)
    sequences = list(emoji.EMOJI_DATA)
    parts = [*"#*019@_ab  …’é\u200d\ufe0e\ufe0f\u20e3\u200b\u2060\x07\n\x85\u3000", "1️⃣", "©"]
    parts += ["http", "HTTPS://x", "www.", "htt…", "t.co/x", "pic.Twitter.com/", "@me"]
    for _ in range(5000):
        text = "".join(rng.choice((rng.choice(sequences), *rng.choices(parts, k=2))) for _ in range(rng.randint(1, 12)))
        assert remove_emoji(text) == emoji.replace_emoji(text, " ")
        assert replace_urls("http", text) == URL.sub("http", TOUCHING.sub(" ", text))
        name = r"(?<![\p{Latin}\p{N}_])@(?:[\p{Latin}\p{M}\p{Nd}_]+|\w+)"  # no part is of a script without spaces
        assert MENTION.sub("@user", text) == regex.sub(name, "@user", text)
        assert only(text, whitespace=True) == re.sub(r"\s+", " ", text).strip()
        assert not INVISIBLE.search(repair_encoding(text))


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("@नीति मेरी बेटी", "@user मेरी बेटी"),
        ("@josé olé", "@user olé"),
        ("@bob真的很好", "@user真的很好"),
        ("真好@bob", "真好@user"),
        ("ライブ@東京ドーム最悪だった", "ライブ@東京ドーム最悪だった"),
        ("กินข้าว@ร้านใหม่", "กินข้าว@ร้านใหม่"),
        ("밥@철수 맛있다", "밥@user 맛있다"),
        ("看这里https://t.co/x", "看这里http"),
        ("ดูที่www.example.com ดี", "ดูที่http ดี"),
        ("josé@example.com", "josé@example.com"),
    ],
)
def test_mentions_and_links_in_other_scripts(text: str, cleaned: str) -> None:
    assert default(text) == cleaned


@pytest.mark.parametrize("text", ["#धन्यवाद", "#ความสุข", "#العَرَبِيَّة", "#cafe\u0301"])
def test_a_hashtag_keeps_its_marks(text: str) -> None:
    assert only(f"x {text} y", hashtags="split") == f"x {text[1:]} y"
    assert only(f"x {text} y", hashtags="remove") == "x   y"
    assert only(f"❤\ufe0f{text}", hashtags="split") == f"❤\ufe0f{text[1:]}"


@pytest.mark.parametrize("text", ["मेरी बेटी", "ไม่เป็นไร", "العَرَبِيَّة", "हिन्दी क\u200dष", "cafe\u0301"])
def test_punctuation_goes_and_marks_stay(text: str) -> None:
    [kept, emptied] = clean([f"“{text}”, !", "❤\ufe0f 👩\u200d🚀"], settings(NOTHING, punctuation=True))
    assert kept.split() == text.split()
    assert emptied.split() == []


def test_words_with_marks_stay_whole_in_the_steps_by_word() -> None:
    assert stepped("मेरी बेटी the #धन्यवाद", stopwords=True) == "मेरी बेटी #धन्यवाद"


def test_ascii_and_words_in_other_letters_have_no_emoji() -> None:
    assert name_emoji("plain :)") == "plain :)"
    assert name_emoji("café") == "café"
    assert remove_emoji("plain :)") == "plain :)"
    assert [has_emoji(text) for text in ("plain :)", "café", "café 😀")] == [False, False, True]


def test_whitespace_leaves_one_space_between_words_and_none_at_the_ends() -> None:
    assert only(" a \t b\n\nc\u00a0d ", whitespace=True) == "a b c d"


def test_html_comes_before_encoding_urls_and_emoji() -> None:
    assert default("&#128512;&nbsp;caf&Atilde;&copy; http://a.b/?c=1&amp;d=2") == "grinning face café http"


def test_encoding_comes_before_mentions_and_emoji() -> None:
    assert default("＠bob ðŸ˜€ \u200b@sue") == "@user grinning face @user"


def test_urls_go_before_mentions_and_hashtags_so_that_theirs_stay_whole() -> None:
    assert default("https://a.b/@bob#top x", mentions="remove", hashtags="remove") == "http x"


def test_names_of_emoji_and_split_hashtags_are_cleaned_as_words_are() -> None:
    [text] = clean(["#GoodCats 🐱"], settings(DEFAULTS | {"hashtags": "split"}, lowercase=True, stem=True))
    assert text == "good cat cat face"


@pytest.mark.parametrize(
    ("step", "cleaned"),
    [
        ("lowercase", "don't @user run running 3.5 cats, not the mice! grinning face #tag http :)"),
        ("numbers", "Don't @user RUN running cats, not the mice! grinning face #Tag http :)"),
        ("punctuation", "Dont user RUN running 3 5 cats not the mice grinning face Tag http"),
        ("stopwords", "Don't @user RUN running 3.5 cats , not mice ! grinning face #Tag http :)"),
        ("emoji", "Don't @user RUN running 3.5 cats, not the mice! #Tag http :)"),
        ("lemmatise", "Don't @user run run 3.5 cat , not the mouse ! grin face #Tag http :)"),
        ("stem", "don't @user run run 3.5 cat , not the mice ! grin face #tag http :)"),
    ],
)
def test_each_classic_step_by_itself(step: str, cleaned: str) -> None:
    text = "Don't @bob RUN running 3.5 cats, not the mice! 😀 #Tag http://t.co :)"
    assert stepped(text, **{step: True}) == cleaned


def test_all_classic_steps_together() -> None:
    text = "Don't @bob RUN running 3.5 cats, not the mice! 😀 #Tag http://t.co :)"
    assert stepped(text, **dict.fromkeys(OFF, True)) == "dont user run run cat not mous tag http"


def test_the_step_emoji_removes_those_that_normalising_kept() -> None:
    [text] = clean(["so 😀 good"], settings(DEFAULTS | {"emoji": "keep"}, emoji=True))
    assert text == "so good"


def test_numbers_go_with_their_separators() -> None:
    assert stepped("at 12:30, 1,000.50 or 1-2, v2", numbers=True) == "at , or - , v"


def test_emoticons_reach_the_word_steps_whole_and_punctuation_goes_last() -> None:
    assert stepped("running :) :-( <3", stem=True) == "run :) :-( <3"
    assert stepped("running :) :-( <3", stem=True, punctuation=True) == "run 3"


def test_lemmas_are_taken_before_stems() -> None:
    assert stepped("mice", lemmatise=True, stem=True) == "mous"
    assert stepped("mice", stem=True) == "mice"


def test_stop_words_go_whatever_their_case() -> None:
    assert stepped("The cat AND the dog", stopwords=True) == "cat dog"


def test_a_tweet_of_stop_words_becomes_empty() -> None:
    assert stepped("and the of", stopwords=True) == ""


def test_the_list_is_that_of_scikit_learn() -> None:
    assert ENGLISH == ENGLISH_STOP_WORDS


def test_stop_words_hold_no_negation() -> None:
    negations = {"no", "not", "nor", "never", "none", "nobody", "nothing", "neither", "nowhere", "cannot", "without"}
    assert stop_words() & (negations | {"cant", "couldnt", "hasnt"}) == set()
    assert {"the", "and", "front", "amount"} <= stop_words()
    assert stepped("I cannot, couldnt and will never be without it", stopwords=True) == "cannot , couldnt never without"


@pytest.mark.parametrize("word", ["not", "No", "never", "can't", "won’t", "ISN'T", "dont", "cant", "wouldnt", "aint"])
def test_negations_are_found_with_and_without_apostrophe(word: str) -> None:
    assert NEGATION.search(f"I {word} go")


@pytest.mark.parametrize("word", ["want", "sent", "agent", "different", "excellent", "front", "knot", "note", "Kant"])
def test_words_that_only_end_like_a_negation_are_none(word: str) -> None:
    assert not NEGATION.search(f"I {word} go")


def test_tokenise_keeps_mentions_hashtags_and_emoticons_whole() -> None:
    assert tokenise("@bob #NoThankYou it's 5:30 :-) 😀!") == ["@bob", "#NoThankYou", "it's", "5:30", ":-)", "😀", "!"]


@pytest.mark.parametrize(
    "text",
    [
        ALL_PARTS,
        "“Ünïcödé” cafÃ© \x07",
        "cut htt… and http… and https",
        "👨\u200d👩\u200d👧 🇬🇧 5️⃣ #️⃣ ©",
        "@@bob .@sue @a@b",
        "www.x.com/@bob#a http",
        "&lt;b&gt; &#39;q&#39; R&amp;D",
        " \u00a0\u200b ",
    ],
)
def test_cleaning_twice_by_the_defaults_is_cleaning_once(text: str) -> None:
    once = clean([text], settings(DEFAULTS))
    assert clean(once, settings(DEFAULTS)) == once


# The settings in a model's folder


def test_settings_are_read_as_they_were_written(tmp_path: Path) -> None:
    chosen = settings(DEFAULTS, stem=True)
    cleaning.save(tmp_path / "cleaning.json", chosen)
    assert cleaning.load(tmp_path / "cleaning.json") == chosen


def test_the_version_of_the_steps_changes_with_them() -> None:
    """Where this fails, a step was added, renamed or taken out: raise VERSION, and write both here."""
    steps = {group: sorted(hints) for group, hints in (("normalise", NOTHING), ("clean", OFF))}
    assert dataclasses.asdict(settings(NOTHING)) == {"normalise": NOTHING, "clean": OFF}
    assert (cleaning.VERSION, steps) == (
        3,
        {
            "normalise": ["emoji", "encoding", "hashtags", "html", "mentions", "urls", "whitespace"],
            "clean": ["emoji", "lemmatise", "lowercase", "numbers", "punctuation", "stem", "stopwords"],
        },
    )


@pytest.mark.parametrize(
    ("group", "step"), [*(("normalise", name) for name in NOTHING), *(("clean", name) for name in OFF)]
)
def test_a_step_that_an_older_folder_lacks_is_off(group: str, step: str, tmp_path: Path) -> None:
    content: dict[str, dict[str, Any]] = {"normalise": dict(DEFAULTS), "clean": dict.fromkeys(OFF, True)}
    del content[group][step]
    (tmp_path / "cleaning.json").write_text(json.dumps({"version": 1, **content}))
    found = dataclasses.asdict(cleaning.load(tmp_path / "cleaning.json"))
    assert found[group].pop(step) == {"normalise": NOTHING, "clean": OFF}[group][step]
    assert found[group] == content[group]


def test_a_step_of_newer_code_is_refused_by_name(tmp_path: Path) -> None:
    content = {"version": 7, "normalise": DEFAULTS, "clean": {**OFF, "slang": True}}
    path = tmp_path / "cleaning.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as raised:
        cleaning.load(path)
    assert str(raised.value) == (
        f"{path}: clean.slang is no step of version {cleaning.VERSION}, which this code has; version 7 wrote it: take"
        " the code of the model's commit, or a later one"
    )


def test_a_value_that_a_step_does_not_take_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cleaning.json"
    path.write_text(json.dumps({"version": 1, "normalise": {**DEFAULTS, "urls": "shorten"}, "clean": OFF}))
    with pytest.raises(UserError, match=r"cleaning\.json\.normalise\.urls = 'shorten'"):
        cleaning.load(path)
