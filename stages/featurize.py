"""Tokenise the prepared tweets once, into ragged arrays without padding.

    python -m stages.featurize

Reads data/prepared. Writes data/features: a folder of arrays for each split (see tweets/encode.py), the tokenizer, and
features.json with what later stages need to know: labels, cleaning settings, encoder, maximum length.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from tweets import encode, encoder, environment, errors, files, orphan, params, pieces
from tweets.errors import UserError
from tweets.split import SPLITS


@params.section
class Featurize:
    """Section `featurize` of params.yaml."""

    encoder: str
    revision: str | None
    max_length: Annotated[int, Field(ge=4, le=512)]


def check(tokenizer: PreTrainedTokenizerBase, positions: int, settings: Featurize) -> None:
    """Raise UserError when the tokenizer cannot serve, or the encoder takes fewer tokens (-1: any number of them)."""
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise UserError(f"featurize.encoder = {settings.encoder}: its tokenizer has no words; it needs tokenizer.json")
    if tokenizer.pad_token_id is None:
        raise UserError(f"featurize.encoder = {settings.encoder}: its tokenizer has no padding token; it needs one")
    if -1 < positions < settings.max_length:
        raise UserError(f"featurize.max_length = {settings.max_length}: {settings.encoder} takes {positions} at most")


def featurize(
    path: Path, labels: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Iterator[encode.Encoded]:
    """Yield the arrays of the rows of a split, piece by piece."""
    for batch in pieces.read(path, ["text", "label", "confidence"]):
        rows = batch.to_pandas()
        ids, offsets = encode.encode(tokenizer, rows["text"].tolist(), max_length)
        yield encode.Encoded(
            ids=ids,
            offsets=offsets,
            labels=pd.Categorical(rows["label"], categories=labels).codes.astype(np.int64),
            confidence=rows["confidence"].to_numpy(np.float32),
        )


def main() -> None:
    environment.check()
    orphan.end_with_parent()
    settings = params.load("featurize", Featurize)
    prepared = files.read_json(Path("data/prepared/prepared.json"))
    tokenizer = encoder.from_pretrained(AutoTokenizer, settings.encoder, settings.revision)
    config = encoder.from_pretrained(AutoConfig, settings.encoder, settings.revision)
    check(tokenizer, getattr(config, "max_position_embeddings", -1), settings)
    with files.replacing(Path("data/features")) as folder:
        folder.mkdir()
        for name in SPLITS:
            path = Path(f"data/prepared/{name}.parquet")
            encode.save(folder / name, featurize(path, prepared["labels"], tokenizer, settings.max_length))
            encoded = encode.load(folder / name)
            cut = np.mean(encoded.lengths == settings.max_length)
            print(f"featurize: {name}: {len(encoded):,} rows, {encoded.lengths.mean():.1f} tokens a row, {cut:.2%} cut")
            print(f"  {' '.join(tokenizer.convert_ids_to_tokens(encoded.row(0).tolist()))}")
        tokenizer.model_max_length = settings.max_length
        tokenizer.save_pretrained(folder / "tokenizer")
        facts = {"encoder": settings.encoder, "revision": settings.revision, "max_length": settings.max_length}
        files.write_json(folder / "features.json", {**prepared, **facts})


if __name__ == "__main__":
    errors.run("featurize", main)
