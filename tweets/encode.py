"""Tokens of a split as ragged arrays: no padding on disk, memory-mapped when read."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from tweets.errors import UserError

CHUNK = 1024  # texts tokenised in one call; more are slower
DTYPES = {"ids": "<i4", "offsets": "<i8", "labels": "<i8", "confidence": "<f4"}


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


def encode(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int, *, name: str
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Return the tokens of the texts one after the other, and the offsets at which each text starts and the last ends.

    Special tokens are added and longer texts cut to `max_length` tokens.
    """
    parts, lengths = [], [0]
    for start in tqdm(range(0, len(texts), CHUNK), desc=f"tokenise {name}", disable=len(texts) <= 8 * CHUNK):
        rows = _tokens(tokenizer, list(texts[start : start + CHUNK]), max_length)
        lengths.extend(map(len, rows))
        parts.append(np.fromiter(chain.from_iterable(rows), np.int32))
    return np.concatenate(parts), np.cumsum(lengths, dtype=np.int64)


def _tokens(tokenizer: PreTrainedTokenizerBase, texts: list[str], max_length: int) -> list[list[int]]:
    options: dict[str, Any] = {"truncation": True, "max_length": max_length, "return_attention_mask": False}
    if not tokenizer.is_fast:
        return tokenizer(texts, **options)["input_ids"]  # type: ignore[no-any-return]
    tokenizer("", **options)  # sets truncation in the part written in Rust, which by itself takes half the time
    return [row.ids for row in tokenizer.backend_tokenizer.encode_batch_fast(texts)]


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
