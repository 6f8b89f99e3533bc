"""What counts as no text."""

import numpy as np
import pandas as pd
import pytest

from tweets.text.blank import is_blank


@pytest.mark.parametrize("cell", ["", " ", "\t\r\n", "\u00a0\u3000", None, np.nan, pd.NA])
def test_nothing_and_white_space_are_blank(cell: object) -> None:
    assert is_blank(cell)


@pytest.mark.parametrize("cell", ["a", " a ", "\u200b", "0", "😀", "\x00"])
def test_anything_else_is_text(cell: object) -> None:
    assert not is_blank(cell)
