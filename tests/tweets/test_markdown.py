"""Markdown that commands print."""

from tweets.markdown import table, with_interval


def test_a_table_has_titles_a_rule_and_the_rows() -> None:
    assert table(("", "a", "b"), [("x", 1, None), ("y", 2.5, "z")]).splitlines() == [
        "|  | a | b |",
        "|---|---|---|",
        "| x | 1 | None |",
        "| y | 2.5 | z |",
    ]


def test_a_table_without_rows_is_its_titles() -> None:
    assert table(["a"], []) == "| a |\n|---|"


def test_a_bar_in_a_cell_does_not_end_it() -> None:
    assert table(["a|b"], [["c|d"]]) == "| a&#124;b |\n|---|\n| c&#124;d |"


def test_a_score_comes_with_its_interval() -> None:
    assert with_interval(0.78804, [0.7762, 0.80012]) == "0.788 [0.776, 0.800]"
    assert with_interval(0.04664, (0.0349, 0.0588), "+") == "+0.047 [+0.035, +0.059]"
    assert with_interval(-0.1, (-0.2, 0.0), "+") == "-0.100 [-0.200, +0.000]"
