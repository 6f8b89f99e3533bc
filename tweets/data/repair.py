"""Undo the damage that the CrowdFlower file came with.

Its tweets were UTF-8. Then, two to four times over, the bytes were read as Windows-1252 and written as Mac Roman,
with `_` for what Mac Roman lacks: a right quote became the bytes E4 F3 BB, a face with tears of joy 5F F4 D6 89.
Running that damage forwards over the characters that tweets use gives the table that turns it back.
"""

import re
from collections.abc import Iterable
from functools import cache

import emoji
from ftfy.bad_codecs import sloppy  # noqa: F401  registers the codec sloppy-windows-1252

# Where several characters end as the same bytes, the first one here wins: commonest first.
PUNCTUATION = "’“”…–—•‘\u00a0é\ufe0f\u200d"
COMMON_EMOJI = "😂😍😭❤👌🙌😊😘💕😁🙏👏💯😎😩🔥😉👍😒✈"
LATIN = "".join(map(chr, range(0xA1, 0x100)))
ROUNDS = (2, 3, 4)

# The tweets on self-driving cars took another way, not known; these sequences are read off their context.
SEEN = {"Õ¢_\x8aÎ_\x86¢": "’", "Õ¢_\x8aÎ\x81Ð": "“", "Õ¢_\x8aÎë\x9d": "”", "Õ¢_\x8aÎë_": "…"}


def repair(texts: Iterable[str]) -> list[str]:
    """Return the texts (read as latin-1) with each known damaged sequence turned back into its character."""
    table, pattern = _table()
    return [text if text.isascii() else pattern.sub(lambda match: table[match.group()], text) for text in texts]


@cache
def _table() -> tuple[dict[str, str], re.Pattern[str]]:
    """Return the map from damaged sequence to character, and a pattern that finds the longest of them."""
    singles = [char for char in emoji.EMOJI_DATA if len(char) == 1]
    table: dict[str, str] = dict(SEEN)
    for rounds in ROUNDS:
        for char in [*PUNCTUATION, *COMMON_EMOJI, *singles, *LATIN]:
            damaged = damage(char, rounds)
            if len(damaged) > 1 and not damaged.isascii():
                table.setdefault(damaged, char)
    longest_first = sorted(table, key=len, reverse=True)
    return table, re.compile("|".join(map(re.escape, longest_first)))


def damage(char: str, rounds: int) -> str:
    """Return what `rounds` of reading as Windows-1252 and writing as Mac Roman make of `char`, as latin-1."""
    data = char.encode("utf-8")
    for _ in range(rounds):
        data = b"".join(map(_as_mac_roman, data.decode("sloppy-windows-1252")))
    return data.decode("latin-1")


@cache
def _as_mac_roman(char: str) -> bytes:
    try:
        return char.encode("mac_roman")
    except UnicodeEncodeError:
        return bytes([ord(char)]) if ord(char) < 0xA0 else b"_"
