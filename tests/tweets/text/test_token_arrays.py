"""Ragged arrays: tokens of texts, padding, and the round trip through files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tests.support.encoders import MINILM
from tweets.errors import UserError
from tweets.model import pretrained
from tweets.text import token_arrays
from tweets.text.token_arrays import Encoded

FIELDS = ("ids", "offsets", "labels", "confidence")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return pretrained.from_pretrained(AutoTokenizer, str(MINILM))


@pytest.fixture
def three_rows() -> Encoded:
    """Rows of two, no and three tokens."""
    return Encoded(
        ids=np.array([11, 12, 31, 32, 33], np.int32),
        offsets=np.array([0, 2, 2, 5], np.int64),
        labels=np.array([1, 0, 2], np.int64),
        confidence=np.array([0.5, np.nan, 1.0], np.float32),
    )


def test_rows_have_their_number_lengths_and_tokens(three_rows: Encoded) -> None:
    assert len(three_rows) == 3
    assert three_rows.lengths.tolist() == [2, 0, 3]
    assert [three_rows.row(i).tolist() for i in range(3)] == [[11, 12], [], [31, 32, 33]]


def test_padded_fills_up_to_the_longest_of_the_rows_asked_for(three_rows: Encoded) -> None:
    ids, mask = three_rows.padded(np.array([2, 0]), 9)
    assert ids.tolist() == [[31, 32, 33], [11, 12, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert [str(array.dtype) for array in (ids, mask)] == ["int64", "int64"]


def test_padded_takes_a_row_twice_and_an_empty_one(three_rows: Encoded) -> None:
    ids, mask = three_rows.padded(np.array([0, 1, 0]), 0)
    assert ids.tolist() == [[11, 12], [0, 0], [11, 12]]
    assert mask.tolist() == [[1, 1], [0, 0], [1, 1]]


def test_encode_adds_special_tokens_and_cuts_at_the_maximum_length(tokenizer: PreTrainedTokenizerBase) -> None:
    ids, offsets = token_arrays.encode(token_arrays.backend(tokenizer, 4), ["good day", "", "good day good day"])
    good, day = tokenizer.convert_tokens_to_ids(["good", "day"])
    start, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert ids.tolist() == [start, good, day, end, start, end, start, good, day, end]
    assert offsets.tolist() == [0, 4, 6, 10]
    assert [str(array.dtype) for array in (ids, offsets)] == ["int32", "int64"]


@pytest.mark.parametrize("by_word", [True, False])
def test_encode_in_chunks_gives_what_one_call_gives(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch, *, by_word: bool
) -> None:
    monkeypatch.setattr(token_arrays, "_words_are_independent", lambda _: by_word)
    texts = ["a", "b c", "d e f", "g", "h i"] * 4
    whole = token_arrays.encode(token_arrays.backend(tokenizer, 16), texts)
    monkeypatch.setattr(token_arrays, "CHUNK", 2)
    monkeypatch.setattr(token_arrays, "CHUNK_BY_WORD", 2)
    chunked = token_arrays.encode(token_arrays.backend(tokenizer, 16), texts)
    assert [array.tolist() for array in chunked] == [array.tolist() for array in whole]


def test_words_tokenised_once_give_the_tokens_that_the_tokenizer_gives_whole_texts(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_arrays, "CHUNK", 1)
    monkeypatch.setattr(token_arrays, "_by_text", None)
    rng = np.random.default_rng(7)
    parts = [
        *"aBé  .,!?'’#@&_0\t\n\x00\x1c\u00a0\u0301\u200d\ufffd😂漢字ßΣŁ",
        "don't",
        "[SEP]",
        "[MASK]",
        " [PAD] ",
        "x" * 101,
    ]
    texts = ["", " ", "a" * 300, "!" * 300, "[CLS] a [SEP]"]
    texts += ["".join(rng.choice(parts, size)) for size in rng.integers(0, 40, 500)]
    for length in (4, 9, 64):
        ids, offsets = token_arrays.encode(token_arrays.backend(tokenizer, length), texts)
        found = [row.tolist() for row in np.split(ids, offsets[1:-1])]
        assert found == tokenizer(texts, truncation=True, max_length=length)["input_ids"]


def test_only_a_tokenizer_whose_words_are_independent_is_given_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def tokenizer() -> Any:
        return pretrained.from_pretrained(AutoTokenizer, str(MINILM))

    assert token_arrays._words_are_independent(token_arrays.backend(tokenizer(), 6))
    left, spaced, tabbed, of_bytes = (tokenizer() for _ in range(4))
    left.truncation_side = "left"
    spaced.add_tokens(["new york"])
    tabbed.add_tokens(["new\tyork"])
    of_bytes.backend_tokenizer.pre_tokenizer = ByteLevel()
    monkeypatch.setattr(token_arrays, "CHUNK", 1)
    for other in (left, spaced, tabbed, of_bytes):
        assert not token_arrays._words_are_independent(token_arrays.backend(other, 6))
        texts = ["a day in new york", "good day good day"]
        ids, offsets = token_arrays.encode(token_arrays.backend(other, 6), texts)
        found = [row.tolist() for row in np.split(ids, offsets[1:-1])]
        assert found == other(texts, truncation=True, max_length=6)["input_ids"]


@pytest.mark.parametrize("chunk", [1, 9])
def test_encode_leaves_the_tokenizer_as_it_was(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(token_arrays, "CHUNK", chunk)
    before = tokenizer.backend_tokenizer.to_str()
    found = token_arrays.backend(tokenizer, 4)
    as_made = found.to_str()
    token_arrays.encode(found, ["good day", "day"])
    assert found.to_str() == as_made
    assert tokenizer.backend_tokenizer.to_str() == before


def test_saved_arrays_come_back_the_same_and_memory_mapped(three_rows: Encoded, tmp_path: Path) -> None:
    token_arrays.save(tmp_path / "valid", [three_rows])
    assert sorted(file.name for file in (tmp_path / "valid").iterdir()) == sorted(f"{name}.npy" for name in FIELDS)
    loaded = token_arrays.load(tmp_path / "valid")
    for name in FIELDS:
        array, expected = getattr(loaded, name), getattr(three_rows, name)
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)
    assert loaded.padded(np.array([0]), 0)[0].tolist() == [[11, 12]]


def test_parts_are_saved_as_the_whole_and_as_numpy_saves_it(three_rows: Encoded, tmp_path: Path) -> None:
    parts = [
        Encoded(
            ids=three_rows.ids[slice(*three_rows.offsets[[start, stop]])],
            offsets=three_rows.offsets[start : stop + 1] - three_rows.offsets[start],
            labels=three_rows.labels[start:stop],
            confidence=three_rows.confidence[start:stop],
        )
        for start, stop in ((0, 1), (1, 2), (2, 3))
    ]
    token_arrays.save(tmp_path / "parts", parts)
    for name in FIELDS:
        np.save(tmp_path / "whole.npy", getattr(three_rows, name))
        assert (tmp_path / f"parts/{name}.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes(), name


def test_saving_over_a_folder_is_refused(three_rows: Encoded, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        token_arrays.save(tmp_path, [three_rows])


def test_a_missing_array_is_named(three_rows: Encoded, tmp_path: Path) -> None:
    folder = tmp_path / "test"
    token_arrays.save(folder, [three_rows])
    (folder / "offsets.npy").unlink()
    with pytest.raises(UserError) as raised:
        token_arrays.load(folder)
    assert str(raised.value) == (
        f"{folder}: not the arrays that featurize writes ([Errno 2] No such file or directory:"
        f" '{folder / 'offsets.npy'}'); `dvc repro featurize`"
    )


@pytest.mark.parametrize(
    ("left", "reason"),
    [(0, "No data left in file"), (-1, "mmap length is greater than file size")],
    ids=["empty", "cut short"],
)
def test_a_damaged_array_is_a_users_error(three_rows: Encoded, tmp_path: Path, left: int, reason: str) -> None:
    token_arrays.save(tmp_path / "test", [three_rows])
    file = tmp_path / "test/ids.npy"
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(UserError) as raised:
        token_arrays.load(tmp_path / "test")
    assert str(raised.value) == (
        f"{tmp_path / 'test'}: not the arrays that featurize writes ({reason}); `dvc repro featurize`"
    )
