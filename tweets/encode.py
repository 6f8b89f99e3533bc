"""Tokens of a split as ragged arrays: no padding on disk, memory-mapped when read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from tweets.errors import UserError

CHUNK = 8192  # texts tokenised in one call


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
    for start in tqdm(range(0, len(texts), CHUNK), desc=f"tokenise {name}", disable=len(texts) < CHUNK):
        chunk = list(texts[start : start + CHUNK])
        rows = tokenizer(chunk, truncation=True, max_length=max_length, return_attention_mask=False)["input_ids"]
        lengths.extend(map(len, rows))
        parts.append(np.fromiter((token for row in rows for token in row), np.int32))
    return np.concatenate(parts), np.cumsum(lengths, dtype=np.int64)


def save(folder: Path, encoded: Encoded) -> None:
    """Write the arrays of a split into a new folder."""
    folder.mkdir()
    for name in Encoded.__dataclass_fields__:
        np.save(folder / f"{name}.npy", getattr(encoded, name))


def load(folder: Path) -> Encoded:
    """Memory-map the arrays of a split. Raises UserError when they are missing or cut short."""
    try:
        return Encoded(
            **{name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in Encoded.__dataclass_fields__}
        )
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{folder}: not the arrays that featurize writes ({error}); `dvc repro featurize`") from None
