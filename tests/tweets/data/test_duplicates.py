"""Keys and groups of tweets that say the same."""

import random
from itertools import combinations

import numpy as np
import pytest
import regex

from tweets.data import duplicates
from tweets.data.duplicates import RUN, groups, key, runs

LONG = "the quick brown fox jumps over the lazy dog near the river"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I love this!", "i love this"),
        ("RT @bob: I LOVE this!! http://t.co/x", "i love this"),
        ("I love this https://t.co/y via @bbc", "i love this"),
        ("MT @a @b i love #this", "i love this"),
        ("rt this please", "rt this please"),
        ("Don't, don’t, don‘t, don`t, don´t & dont", "dont dont dont dont dont dont"),
        ("Q&amp;A &lt;3", "q a <3"),
        ("snake_case", "snake case"),
        ("so good😍", "so good 😍"),
        ("so good 😍 😍\ufe0f", "so good 😍 😍"),
        ("👩\u200d🚀 👍🏽 🇩🇪", "👩 🚀 👍 🏽 🇩 🇪"),
        ("great :)", "great :)"),
        ("great :-( http://t.co/x", "great :-("),
        ("Oh :D don't :'(", "oh :d dont :("),
        ("nice day:) I<3 it", "nice day :) i <3 it"),
        ("真好:D不好>:(", "真好 :d 不好 >:("),
        ("nice (-: day", "nice (-: day"),
        ("Ratio 16:9 at 10:30, note: (a)", "ratio 16 9 at 10 30 note a"),
        ("really?!?", "really ?"),
        ("really...!", "really"),
        ("حقا؟ Τι; ወይ፧ 真的？", "حقا ? τι ? ወይ ? 真的 ?"),
        ("x == y != z = 1 =====", "x == y != z 1"),
        ("Oh D: T.T bad :\u2011( the.end", "oh d: t.t bad :-( the end"),
        ("–5 −5 -$5 2019–2020", "- 5 - 5 - 5 2019 2020"),
        ("Rt : @bob ＠sue great", "great"),
        ("up ↑ | a &lt; b ~ c ≠ d", "up ↑ a < b c ≠ d"),
        ("down -5%, up +3", "down - 5 up + 3"),
        ("C++ or C, 1-2", "c + + or c 1 2"),
        ("ÜBER Straße STRASSE", "über strasse strasse"),
        ("cafe\u0301 ＣＡＦＥ", "café cafe"),
        ("मेरी बेटी!", "मेरी बेटी"),
        ("@नीति मेरा बेटा", "मेरा बेटा"),
        ("می\u200cخواهم", "میخواهم"),
        ("ไม่เป็นไร", "ไม่เป็นไร"),
        ("真好@bob看这里https://t.co/x", "真好 看这里"),
        ("ライブ@東京ドーム最悪だった", "ライブ 東京ドーム最悪だった"),
        ("so goodhttps://t.co/x pic.twitter.com/y t.co/z", "so good"),
        ("  spaced \n out ", "spaced out"),
    ],
)
def test_a_key_is_what_the_tweet_says(text: str, expected: str) -> None:
    assert key(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [(" 😍 😍 ", "😍 😍"), ("@bob http://t.co/x", "@bob http://t.co/x"), ("!!!", "!!!"), ("  ", "")],
)
def test_a_tweet_without_words_is_its_own_key(text: str, expected: str) -> None:
    assert key(text) == expected


PARTS = ["?!", "t_", "[:", "rt ", "rt", "d:", "-.", "!=", "http", "t.co/", "🏴", "\U000e0041", "9"]


@pytest.mark.parametrize("part", [*"*(:@|?!<^_-'", *PARTS])
def test_a_key_takes_time_in_proportion_to_the_text(part: str) -> None:
    """What goes back over a run for each of its characters takes hours for this one."""
    key(f"&#{part * 1_000_000};")


def grouped(*texts: str) -> list[int]:
    return list(groups([runs([key(text) for text in texts])]))


def test_copies_with_other_links_mentions_and_case_share_a_group() -> None:
    assert grouped("Good day", "other", "RT @bob: good DAY! http://t.co/x") == [0, 1, 0]


def test_a_truncated_retweet_shares_the_group_of_its_original() -> None:
    assert grouped(LONG, f"RT @bob: {LONG[:40]}…", "nothing like that at all, not one word") == [0, 0, 1]


def test_a_quote_with_a_comment_before_it_shares_the_group() -> None:
    assert grouped(f"so true, look: “{LONG}” @bob", "unrelated", LONG) == [0, 1, 0]


def test_a_run_of_six_words_joins_and_one_of_five_does_not() -> None:
    assert grouped("a b c d e f x", "y a b c d e f") == [0, 0]
    assert grouped("a b c d e x", "y a b c d e") == [0, 1]


def test_short_tweets_share_a_group_only_when_they_are_equal() -> None:
    assert grouped("one two", "one two three", "One, two!") == [0, 1, 0]


def test_a_short_tweet_inside_a_longer_one_is_of_another_group() -> None:
    assert grouped("the quick brown fox jumps", LONG) == [0, 1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("great 😍", "great 😡"),
        ("great :)", "great :("),
        ("great:)", "great:("),
        ("great<3", "great</3"),
        ("最高:)", "最高:("),
        ("great?", "great!"),
        ("رائع؟", "رائع!"),
        ("sales ↑", "sales ↓"),
        ("cats > dogs", "cats < dogs"),
        ("cats == dogs", "cats != dogs"),
        ("bad :\u2011(", "bad"),
        ("ライブ@東京ドーム最高", "ライブ@東京ドーム最悪"),
        ("मेरा बेटा", "मेरी बेटी"),
        ("ไม่เอา", "ไม่เอ้า"),
        ("up +5", "up -5"),
    ],
)
def test_short_tweets_that_differ_in_what_carries_the_label_are_not_copies(one: str, other: str) -> None:
    assert key(one) != key(other)
    assert grouped(one, other) == [0, 1]


def test_emoji_between_the_words_do_not_hide_a_run() -> None:
    assert grouped("a b c d e f 😍", "a b 😡 c d e f!") == [0, 0]


HINDI = "सरकारी स्कूल इस साल किसी को पसंद नहीं आया"
CHINESE = "我今天和妈妈一起去了北京的故宫博物院看展览"  # 21 characters
THAI = "วันนี้ฉันไปกินข้าวกับเพื่อนที่ร้านอาหารใหม่"


def test_a_run_has_six_words_where_a_script_marks_its_vowels() -> None:
    assert grouped(HINDI, f"{HINDI[:30]}…", "सरकारी स्कूल इस साल किसी ने पसंद नहीं किया") == [0, 0, 1]


@pytest.mark.parametrize(("text", "run"), [(CHINESE, 12), (THAI, 20)])
def test_where_words_have_no_spaces_a_run_is_of_characters_with_their_marks(text: str, run: int) -> None:
    characters = regex.findall(r"\X", text)
    enough, short = "".join(characters[2 : 2 + run]), "".join(characters[2 : 1 + run])
    assert grouped(text, f"好 {enough} 1", f"x {short} 1", "不") == [0, 0, 1, 2]


def test_spaces_and_punctuation_do_not_divide_a_run_of_characters() -> None:
    assert grouped(f"{CHINESE[:9]}，{CHINESE[9:]}", f"{CHINESE[:14]} 1") == [0, 0]


def test_words_beside_characters_count_as_words() -> None:
    assert grouped("a b c d e f 好", "x a b c d e f", "好") == [0, 0, 1]


def test_groups_join_in_chains() -> None:
    assert grouped("a b c d e f g", "z z z z z z", "b c d e f g h", "c d e f g h i") == [0, 1, 0, 0]


def test_groups_are_numbered_in_the_order_of_their_first_key_and_counted_in_int64() -> None:
    numbers = groups([runs(["zebra", "apple", "zebra", "mango"])])
    assert numbers.tolist() == [0, 1, 0, 2]
    assert numbers.dtype == "int64"


def test_no_keys_have_no_groups() -> None:
    assert groups([runs([])]).tolist() == []


def by_comparing_strings(keys: list[str]) -> list[int]:
    """Return the groups as their definition has them, each pair compared."""
    found = [
        {tuple(words[at : at + RUN]) for at in range(max(1, len(words) - RUN + 1))} for words in map(str.split, keys)
    ]
    group = list(range(len(keys)))
    for one, other in combinations(range(len(keys)), 2):
        if found[one] & found[other]:
            group = [group[one] if number == group[other] else number for number in group]
    return [sorted(set(group), key=group.index).index(number) for number in group]


@pytest.mark.parametrize("seed", range(20))
def test_groups_by_hashes_are_those_of_the_strings_in_pieces_of_any_size(seed: int) -> None:
    """Of three words, so that runs repeat, also within a key, and keys shorter than a run occur."""
    rng = random.Random(seed)
    keys = [" ".join(rng.choices("abc", k=rng.randint(0, 12))) for _ in range(60)]
    expected = by_comparing_strings(keys)
    assert 1 < len(set(expected)) < 60
    for size in (1, 7, 60):
        assert groups([runs(keys[at : at + size]) for at in range(0, 60, size)]).tolist() == expected


def test_a_hash_is_the_same_in_every_process() -> None:
    assert duplicates.hashes(["good day", ""]).tolist() == [12285878230912164457, 1760245841805064774]


def test_keys_of_real_size_have_hashes_of_their_own() -> None:
    keys = [f"tweet number {number}" for number in range(50_000)]
    assert len(np.unique(duplicates.hashes(keys))) == 50_000
