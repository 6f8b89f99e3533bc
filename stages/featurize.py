"""Tokenise the prepared tweets once, into ragged arrays without padding.

    python -m stages.featurize

Reads data/prepared. Writes data/features: a folder of arrays for each split (see tweets/text/token_arrays.py), the
tokenizer, and features.json with what later stages need to know: labels, encoder, maximum length.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from tweets import command, environment, files, orphan, params
from tweets.data import pieces
from tweets.data.dataset import SPLITS
from tweets.errors import UserError
from tweets.model import tokenizer
from tweets.text import token_arrays


@params.section
class Featurize:
    """Section `featurize` of params.yaml."""

    encoder: str  # a model folder, or a YAML file that names a model elsewhere
    max_length: Annotated[int, Field(ge=4, le=512)]


def check(loaded_tokenizer: tokenizer.Loaded, settings: Featurize) -> None:
    """Raise UserError when the tokenizer cannot serve, or its encoder takes fewer tokens."""
    if loaded_tokenizer.words <= 0:
        raise UserError(f"featurize.encoder = {settings.encoder}: its tokenizer has no words; it needs tokenizer.json")
    if not loaded_tokenizer.pads:
        raise UserError(f"featurize.encoder = {settings.encoder}: its tokenizer has no padding token; it needs one")
    if not loaded_tokenizer.knows_unknown:
        raise UserError(f"featurize.encoder = {settings.encoder}: its tokenizer has no unk_token; it needs one")
    known, embeddings = loaded_tokenizer.tokens_known, loaded_tokenizer.embeddings
    if -1 < embeddings < known:
        raise UserError(
            f"featurize.encoder = {settings.encoder}: its tokenizer has {known:,} tokens, and its config.json"
            f" {embeddings:,} (vocab_size); they are not of one model"
        )
    if -1 < loaded_tokenizer.positions < settings.max_length:
        raise UserError(
            f"featurize.max_length = {settings.max_length}:"
            f" {settings.encoder} takes {loaded_tokenizer.positions} at most"
        )


def featurize(path: Path, labels: list[str], loaded_tokenizer: tokenizer.Loaded) -> Iterator[token_arrays.Encoded]:
    """Yield the arrays of the rows of a split, piece by piece."""
    classes = {label: number for number, label in enumerate(labels)}
    for rows in pieces.read(path, ["text", "label", "confidence"]):
        ids, offsets = token_arrays.encode(loaded_tokenizer.encode, rows["text"].to_pylist())
        yield token_arrays.Encoded(
            ids=ids,
            offsets=offsets,
            labels=np.array([classes[label] for label in rows["label"].to_pylist()], np.int64),
            confidence=rows["confidence"].to_numpy(zero_copy_only=False).astype(np.float32),
        )


def main() -> None:
    environment.check()
    orphan.end_with_parent()
    settings = params.load("featurize", Featurize)
    labels = files.read_json(Path("data/prepared/prepared.json"))["labels"]
    loaded_tokenizer = tokenizer.load(settings.encoder, settings.max_length)
    check(loaded_tokenizer, settings)
    with files.replacing(Path("data/features")) as folder:
        folder.mkdir()
        for name in SPLITS:
            path = Path(f"data/prepared/{name}.parquet")
            token_arrays.save(folder / name, featurize(path, labels, loaded_tokenizer))
            encoded = token_arrays.load(folder / name)
            cut = np.mean(encoded.lengths == settings.max_length)
            print(f"featurize: {name}: {len(encoded):,} rows, {encoded.lengths.mean():.1f} tokens a row, {cut:.2%} cut")
            print(f"  {' '.join(loaded_tokenizer.tokens(encoded.row(0).tolist()))}")
        loaded_tokenizer.save(folder / "tokenizer")
        facts = {"encoder": settings.encoder, "max_length": settings.max_length}
        files.write_json(folder / "features.json", {"labels": labels, **facts})


if __name__ == "__main__":
    command.run("featurize", main, __doc__)
