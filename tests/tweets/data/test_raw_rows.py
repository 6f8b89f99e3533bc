"""What is checked of raw rows, whatever source they come from."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from tweets.data import raw_rows
from tweets.data.places import Places
from tweets.data.raw_rows import Read
from tweets.errors import UserError


def raw(**changes: Any) -> pd.DataFrame:
    frame: dict[str, Any] = {
        "id": ["0", "1", "2", "3", "4"],
        "text": ["one", "two", "three", "four", "five"],
        "label": ["a", "b", "a", "b", "a"],
        "confidence": [1.0, 0.5, None, 0.0, 1.0],
        "split": pd.Series(["train", "valid", "test", None, None], dtype="str"),
    }
    return pd.DataFrame(frame | changes)


def test_a_label_that_needs_quotes_in_yaml_is_told_so() -> None:
    rows = raw(label=["007", "+1", "007", "+1", "007"])
    with pytest.raises(UserError, match=r"^label '007' is not one of 7, 1 in rows .*; YAML reads 007 as 7: put"):
        raw_rows.check(Read(rows, ["7", "1"], {}), max_chars=5)


def test_rows_that_fit_the_schema_pass() -> None:
    raw_rows.check(Read(raw(), ["a", "b"], {}), max_chars=5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": ["one", " ", "three", "\t", ""]}, "text is empty in rows 2, 4, 5"),
        ({"text": ["one", None, "three", "four", "five"]}, "text is empty in row 2"),
        ({"text": ["one", "x" * 6, *["y" * 6] * 3]}, "text 'xxxxxx' has over 5 characters (fetch.max_chars) in rows"),
        ({"label": ["a", "b", "c", "b", "c"]}, "label 'c' is not one of a, b in rows 3, 5"),
        ({"label": ["a", None, "a", "b", "a"]}, "label is empty in row 2"),
        ({"label": ["c"] * 5}, "label 'c' is not one of a, b in rows 1, 2, 3 and 2 more"),
        ({"confidence": [1.0, 1.5, -0.1, 0.0, 1.0]}, "confidence '1.5' is not in [0, 1] in rows 2, 3"),
        ({"label": ["a"] * 5}, "found one class only, 'a'; it needs two or more"),
        ({"id": ["0", "0", "2", "3", "3"]}, "id '3' comes again in row 5; ids must differ"),
    ],
)
def test_rows_that_do_not_fit_are_refused_with_what_and_where(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        raw_rows.check(Read(raw(**changes), ["a", "b"], {}), max_chars=5)
    assert str(raised.value).startswith(message)


def test_no_rows_are_refused() -> None:
    with pytest.raises(UserError, match="the source has no rows; it needs at least two labels"):
        raw_rows.check(Read(raw()[:0], ["a", "b"], {}), max_chars=5)


def test_wrong_rows_are_told_by_file_and_line() -> None:
    places = Places()
    places.add("train.csv", 2, np.array([2, 3]))
    places.add("test.csv", 3, np.array([2, 7, 9]))
    with pytest.raises(UserError) as raised:
        raw_rows.check(Read(raw(text=["one", "two", "three", " ", ""]), ["a", "b"], {}, places), max_chars=5)
    assert str(raised.value) == ("text is empty in test.csv, lines 7, 9; `-S fetch.empty=drop` leaves such rows out")
    with pytest.raises(UserError, match=r"^text is empty in train\.csv, line 3, and 1 more in other files; "):
        raw_rows.check(Read(raw(text=["one", "", "three", " ", "five"]), ["a", "b"], {}, places), max_chars=5)


def test_rows_of_parquet_are_told_by_file_and_number() -> None:
    places = Places()
    places.add("t.parquet", 5, None)
    with pytest.raises(UserError, match=r"^label is empty in t\.parquet, row 2; "):
        raw_rows.check(Read(raw(label=["a", None, "a", "b", "a"]), ["a", "b"], {}, places), max_chars=5)
