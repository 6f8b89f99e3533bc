"""Tokens of a split as ragged arrays: no padding on disk, memory-mapped when read."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import compute
from tokenizers import Tokenizer
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from tweets.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK = 1024  # texts tokenised in one call: with more it takes longer
CHUNK_BY_WORD = 8192  # the same where each word is tokenised once: with more it takes less time
WORDS = 256  # distinct words that the tokenizer is given as one text
DTYPES = {"ids": "<i4", "offsets": "<i8", "labels": "<i8", "confidence": "<f4"}

Tokens = tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]  # and their offsets, or how many each text has


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """The N rows of a split. Row i has the tokens `ids[offsets[i]:offsets[i + 1]]`."""

    ids: npt.NDArray[np.int32]  # (tokens of all rows,)
    offsets: npt.NDArray[np.int64]  # (N + 1,)
    labels: npt.NDArray[np.int64]  # (N,) class numbers
    confidence: npt.NDArray[np.float32]  # (N,) in [0, 1], NaN where the source has none

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each row, (N,)."""
        return np.diff(self.offsets)

    def row(self, index: int) -> npt.NDArray[np.int32]:
        """Return the tokens of one row."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    def padded(self, rows: npt.NDArray[np.int64], pad: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the tokens and the attention mask of some rows, both (len(rows), longest of them)."""
        lengths = self.lengths[rows]
        mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
        ids = np.full(mask.shape, pad, np.int64)
        ids[mask == 1] = np.concatenate([self.row(index) for index in rows])
        return ids, mask


def backend(tokenizer: "PreTrainedTokenizerBase", max_length: int) -> Tokenizer:
    """Return what `encode` takes, for a tokenizer of transformers: a copy of its part in Rust.

    That part by itself takes half the time; truncation would be saved with the original.
    """
    copied: Tokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copied.enable_truncation(max_length, direction=tokenizer.truncation_side)
    copied.no_padding()
    return copied


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> Tokens:
    """Return the tokens of the texts one after the other, and the offsets at which each text starts and the last ends.

    Special tokens are added, and longer texts cut, as the tokenizer's truncation says. In many texts a word that
    several hold is tokenised once, which takes 0.4 to 0.5 of the time: see what `featurize` gains in
    `python -m benchmarks.data`.
    """
    if len(texts) > CHUNK and _words_are_independent(tokenizer):
        parts = [_by_word(tokenizer, some) for some in _chunks(texts, CHUNK_BY_WORD)]
    else:
        parts = [_by_text(tokenizer, some) for some in _chunks(texts, CHUNK)]
    ids, lengths = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return ids, np.cumsum([0, *lengths], dtype=np.int64)


def _chunks(texts: Sequence[str], size: int) -> list[Sequence[str]]:
    return [texts[start : start + size] for start in range(0, len(texts), size)]


def _by_text(tokenizer: Tokenizer, texts: Sequence[str]) -> Tokens:
    """Return the tokens of the texts one after the other, and how many each text has."""
    rows = [row.ids for row in tokenizer.encode_batch_fast(texts)]
    return np.fromiter(chain.from_iterable(rows), np.int32), np.fromiter(map(len, rows), np.int64)


def _words_are_independent(tokenizer: Tokenizer) -> bool:
    """Tell whether the tokens of a text are those of the words between its spaces, as they are with BERT."""
    added = (token.content for token in tokenizer.get_added_tokens_decoder().values())
    return (
        isinstance(tokenizer.normalizer, BertNormalizer)
        and isinstance(tokenizer.pre_tokenizer, BertPreTokenizer)
        and all(token.split() == [token] for token in added)
        and tokenizer.truncation is not None
        and tokenizer.truncation["direction"] == "right"
    )


def _by_word(tokenizer: Tokenizer, texts: Sequence[str]) -> Tokens:
    """Do what `_by_text` does; a word that several texts hold is tokenised once."""
    parted = compute.split_pattern(pa.array(texts, pa.string()), " ")
    words = parted.flatten().dictionary_encode()
    truncation = dict(tokenizer.truncation or {})
    tokenizer.no_truncation()  # of what is given to it here: many words as one text
    try:
        ids, starts = _tokens_of_words(tokenizer, words.dictionary.to_pylist())
        begin, end = _around(tokenizer)
    finally:
        tokenizer.enable_truncation(**truncation)
    counts = np.diff(starts)
    number = words.indices.to_numpy()
    tokens = ids[_runs(starts[number], counts[number])]

    cuts = np.cumsum([0, *counts[number]])[parted.offsets.to_numpy()]  # (N + 1,) where the texts begin in `tokens`
    kept = np.minimum(np.diff(cuts), truncation["max_length"] - len(begin) - len(end))
    lengths = kept + len(begin) + len(end)
    ends = np.cumsum(lengths)
    whole = np.empty(lengths.sum(), np.int32)
    whole[_runs(ends - lengths + len(begin), kept)] = tokens[_runs(cuts[:-1], kept)]
    whole[(ends - lengths)[:, None] + np.arange(len(begin))] = begin
    whole[ends[:, None] - np.arange(len(end), 0, -1)] = end
    return whole, lengths


def _tokens_of_words(backend: Tokenizer, words: list[str]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Return the tokens of the words one after the other, and where each word starts and the last ends."""
    texts = [words[start : start + WORDS] for start in range(0, len(words), WORDS)]
    encoded = backend.encode_batch(texts, is_pretokenized=True, add_special_tokens=False)
    ids = [np.array(text.ids, np.int32) for text in encoded]
    owners = [np.array(text.word_ids, np.int64) + number * WORDS for number, text in enumerate(encoded)]
    return np.concatenate(ids), np.searchsorted(np.concatenate(owners), np.arange(len(words) + 1))


def _runs(starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the numbers that follow each start, as many as its length: for 3 and 7, 2 and 1 these are 3, 4 and 7."""
    ends = np.cumsum(lengths)
    numbers: npt.NDArray[np.int64] = np.arange(lengths.sum()) + np.repeat(starts - ends + lengths, lengths)
    return numbers


def _around(backend: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the special tokens before and after those of a text."""
    bare, whole = (backend.encode("a", add_special_tokens=special).ids for special in (False, True))
    start = next(place for place in range(len(whole)) if whole[place : place + len(bare)] == bare)
    return whole[:start], whole[start + len(bare) :]


def save(folder: Path, parts: Iterable[Encoded]) -> None:
    """Write the arrays of a split, which come in parts, into a new folder."""
    folder.mkdir()
    with ExitStack() as stack:
        arrays = {name: stack.enter_context(_Array(folder / f"{name}.npy", dtype)) for name, dtype in DTYPES.items()}
        tokens = 0
        for number, part in enumerate(parts):
            offsets = part.offsets[1:] if number else part.offsets  # each part's begin with 0
            for name, array in arrays.items():
                array.append(offsets + tokens if name == "offsets" else getattr(part, name))
            tokens += len(part.ids)


class _Array:
    """An array of one dimension in a file that grows; the same bytes as np.save writes."""

    def __init__(self, path: Path, dtype: str) -> None:
        self.file = path.open("wb")
        self.dtype = dtype
        self.length = 0
        self._head()

    def append(self, values: npt.NDArray[np.generic]) -> None:
        self.file.write(values.astype(self.dtype, copy=False).tobytes())
        self.length += len(values)

    def _head(self) -> None:
        """Write the header, which NumPy pads so that it has the same size for every length."""
        self.file.seek(0)
        head = {"descr": self.dtype, "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self.file, head)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self.file:
            self._head()


def load(folder: Path) -> Encoded:
    """Memory-map the arrays of a split. Raises UserError when they are missing or cut short."""
    try:
        return Encoded(**{name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in DTYPES})
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{folder}: not the arrays that featurize writes ({error}); `dvc repro featurize`") from None
