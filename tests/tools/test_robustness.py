"""The robustness of the model: each perturbation does what its name says, and flips are counted right."""

import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.support.made_up import LABELS
from tools import robustness
from tweets.errors import UserError
from tweets.evaluation import perturbations
from tweets.evaluation.perturbations import Kind
from tweets.model import exported
from tweets.text.cleaning import MENTION, URL

TEXTS = [
    "Great flight with @united today, thanks! 😀 https://t.co/abcDEF",
    "the meeting is on Tuesday at ten",
    "WORST service ever @maria_k http://example.com/Path?x=1 😡😡",
    "ok",
    "?!",
    "",
    "@only https://t.co/x",
    "ein Tag in Köln, schön wars",
]
KINDS = {(kind.name, kind.strength): kind for kind in perturbations.kinds()}


def apply(name: str, strength: str, text: str, seed: int = 0) -> str:
    return KINDS[name, strength].apply(text, random.Random(seed))


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: f"{kind.name}-{kind.strength}")
def test_the_same_seed_writes_the_same(kind: Kind) -> None:
    for text in TEXTS:
        assert kind.apply(text, random.Random(1)) == kind.apply(text, random.Random(1))


def test_there_are_three_strengths_of_each_kind() -> None:
    assert set(Counter(name for name, _ in KINDS).values()) == {3}


@pytest.mark.parametrize("name", ["typos", "casing", "spaces missing"])
@pytest.mark.parametrize("text", TEXTS)
def test_links_and_mentions_keep_their_letters(name: str, text: str) -> None:
    for kind, strength in KINDS:
        for seed in range(20 if kind == name else 0):
            written = apply(kind, strength, text, seed)
            for pattern in (URL, MENTION):
                assert [found for found in pattern.findall(text) if found not in written] == []


@pytest.mark.parametrize("seed", range(40))
def test_a_typo_is_one_edit(seed: int) -> None:
    text = "the meeting is on Tuesday"
    written = apply("typos", "1", text, seed)
    begin = next((k for k, pair in enumerate(zip(text, written, strict=False)) if pair[0] != pair[1]), len(text))
    options = {text[begin:], text[begin + 1 :]}  # after the edit: dropped, doubled; or a letter otherwise
    options |= {text[begin + 1 :], text[begin + 2 :]}
    assert any(written.endswith(rest) for rest in options)
    assert abs(len(written) - len(text)) <= 1
    assert apply("typos", "4", text, seed) != text


def test_a_neighbour_is_beside_its_key() -> None:
    assert [perturbations.neighbours(letter) for letter in "qsm"] == ["w", "ad", "n"]


def test_casing() -> None:
    found = [apply("casing", strength, TEXTS[0]) for strength in ("lower", "upper", "title")]
    assert found == [
        "great flight with @united today, thanks! 😀 https://t.co/abcDEF",
        "GREAT FLIGHT WITH @united TODAY, THANKS! 😀 https://t.co/abcDEF",
        "Great Flight With @united Today, Thanks! 😀 https://t.co/abcDEF",
    ]


def test_emoji() -> None:
    found = [apply("emoji", strength, "a 😀b😡") for strength in ("removed", "three times", "one added")]
    assert found == ["a b", "a 😀😀😀b😡😡😡", "a 😀b😡 📌"]
    assert apply("emoji", "removed", "a") == apply("emoji", "three times", "a") == "a"


def test_missing_spaces() -> None:
    text = "one two three four five six seven eight nine ten eleven"
    assert apply("spaces missing", "100%", text) == text.replace(" ", "")
    assert [apply("spaces missing", strength, text).count(" ") for strength in ("10%", "30%")] == [9, 7]
    assert apply("spaces missing", "100%", "go @x now http://a.b/c too") == "go @x now http://a.b/c too"


def test_links_and_mentions() -> None:
    text = "see http://a.b/c and @x"
    assert apply("link", "added", text) == f"{text} {perturbations.LINK}"
    assert apply("link", "another", text) == f"see {perturbations.LINK} and @x"
    assert apply("link", "removed", text) == "see  and @x"
    assert apply("mention", "added", text) == f"@newsdesk {text}"
    assert apply("mention", "another", text) == "see http://a.b/c and @newsdesk"
    assert apply("mention", "removed", text) == "see http://a.b/c and "
    assert apply("mention", "removed", "nobody") == "nobody"


@pytest.mark.parametrize("strength", ["two neighbours", "25% moved", "100% moved"])
def test_word_order_keeps_the_words(strength: str) -> None:
    text = "a b c d e f g h"
    moved = [
        sum(map(str.__ne__, apply("word order", strength, text, seed).split(), text.split())) for seed in range(30)
    ]
    assert all(sorted(apply("word order", strength, text, seed).split()) == text.split() for seed in range(30))
    assert max(moved) == {"two neighbours": 2, "25% moved": 2}.get(strength, max(moved)) > 0
    assert apply("word order", strength, "one") == "one"


def shouts(texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """Stand where a model is: capital letters are positive, all others negative."""
    return np.array([[0.1, 0.0, 0.9] if text.isupper() else [0.8, 0.2, 0.0] for text in texts])


def test_flips_are_counted_among_the_changed() -> None:
    texts, truth = ["abc", "ABC", "DEF", "123"], np.array([0, 2, 0, 0])
    found = robustness.measure(shouts, texts, truth, KINDS["casing", "upper"], shouts(texts))
    assert (found["rows"], found["flipped"]) == (1, 1)
    assert (found["accuracy_before"], found["accuracy_after"]) == (1, 0)
    found = robustness.measure(shouts, texts, truth, KINDS["casing", "lower"], shouts(texts))
    assert (found["rows"], found["flipped"], found["mean_change"]) == (2, 1, pytest.approx(0.9))
    assert (found["accuracy_before"], found["accuracy_after"]) == (0.5, 0.5)
    assert found["interval"] == pytest.approx([0.3424, 1], abs=1e-4)  # Wilson's, of 2 in 2
    assert found["examples"][0] == {
        "before": "ABC",
        "after": "abc",
        "label_before": 2,
        "label_after": 0,
        "p_before": 0.9,
        "p_after": 0.8,
    }


def test_a_perturbation_that_changes_nothing() -> None:
    found = robustness.measure(shouts, ["a"], np.array([0]), KINDS["link", "removed"], shouts(["a"]))
    assert (found["rows"], found["flipped"]) == (0, None)
    assert robustness.table([found]).splitlines()[-1] == "| link | removed | 0 |  |  |  |  |"
    assert "link" not in robustness.examples([found], LABELS)


@pytest.fixture
def here(reproduced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("models/onnx", "data/prepared"):
        shutil.copytree(reproduced / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_reports_and_prints_no_tweet(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    robustness.main()
    report = json.loads((here / "robustness/robustness.json").read_text())
    printed = capsys.readouterr().out
    assert len(report["perturbations"]) == len(KINDS)
    for row in report["perturbations"]:
        assert re.search(rf"^\| {row['kind']} \| {row['strength']} \| {row['rows']} \| ", printed, re.MULTILINE)
        assert all(example["before"] not in printed for example in row["examples"])
    assert (here / "robustness/examples.md").read_text().startswith("# Flips")
    first = (here / "robustness/robustness.json").read_bytes()
    robustness.main()
    assert (here / "robustness/robustness.json").read_bytes() == first


def test_without_a_model_it_says_so(here: Path) -> None:
    (here / "models/onnx" / exported.MODEL).unlink()
    with pytest.raises(UserError, match=r"no model\.onnx"):
        robustness.main()


def test_without_rows_it_says_so(here: Path) -> None:
    path = here / "data/prepared/test.parquet"
    import pandas as pd

    pd.read_parquet(path).head(0).to_parquet(path)
    with pytest.raises(UserError, match="no rows; it needs at least one"):
        robustness.main()
