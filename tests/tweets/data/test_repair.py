"""Damage done to the CrowdFlower file is done here again, and undone."""

import pytest

from tweets.data.repair import SEEN, damage, repair


@pytest.mark.parametrize(
    ("char", "rounds", "bytes_in_the_file"),
    [
        ("’", 2, "e4 f3 bb"),
        ("😂", 2, "5f f4 d6 89"),
        ("é", 2, "ed a9"),
        ("…", 2, "e4 f3 5f"),
        ("’", 3, "8a 97 c8"),
        ("a", 4, "61"),
    ],
)
def test_damage_ends_as_the_bytes_in_the_file(char: str, rounds: int, bytes_in_the_file: str) -> None:
    assert damage(char, rounds).encode("latin-1").hex(" ") == bytes_in_the_file


def test_no_rounds_leave_utf8_read_as_latin1() -> None:
    assert damage("é", 0) == "Ã©"


@pytest.mark.parametrize("rounds", [2, 3, 4])
@pytest.mark.parametrize("text", ["It’s “so” good…", "😂😍😭 no", "–—•", "plain words"])
def test_repair_undoes_damage(text: str, rounds: int) -> None:
    damaged = "".join(damage(char, rounds) for char in text)
    assert repair([damaged]) == [text]


def test_the_sequences_seen_in_the_file_are_put_right() -> None:
    assert repair([f"a{sequence}b" for sequence in SEEN]) == ["a’b", "a“b", "a”b", "a…b"]


def test_the_longest_damaged_sequence_wins() -> None:
    heart, selector = damage("❤", 2), damage("\ufe0f", 2)
    assert repair([heart + selector + heart]) == ["❤\ufe0f❤"]


def test_undamaged_texts_stay_beside_damaged_ones() -> None:
    assert repair(["caf\xe9", "plain", "it" + damage("’", 2) + "s"]) == ["café", "plain", "it’s"]


def test_texts_of_ascii_only_need_no_repair() -> None:
    assert repair(["a", "b_c"]) == ["a", "b_c"]
