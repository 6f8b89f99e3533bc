"""The tokenizer of an encoder, as featurize uses it.

Where the encoder's folder has a tokenizer.json, and its settings name the tokens for padding and for unknown words,
`tokenizers` alone reads it. All else goes through transformers, which takes seconds to import: names on the Hugging
Face Hub, vocabularies that have to be converted, and defaults that only transformers knows. A tokenizer that exists in
Python only is refused: the exported model has to do without it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tweets import files
from tweets.errors import UserError, one_line
from tweets.model import pretrained
from tweets.text import token_arrays

SPECIAL = ("bos_token", "cls_token", "eos_token", "mask_token", "pad_token", "sep_token", "unk_token")
NEEDED = ("pad_token", "unk_token")
# The families whose first token has the position after the padding's, so that their last positions are fewer.
AFTER_PADDING = {
    "camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "mpnet", "roberta", "roberta-prelayernorm",
    "xlm-roberta", "xlm-roberta-xl", "xmod",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A tokenizer that cuts at a maximum length."""

    encode: Tokenizer
    words: int  # in its vocabulary, special tokens left out
    pads: bool  # has a token for padding
    knows_unknown: bool  # has a token for what is not in its vocabulary
    tokens_known: int  # by the tokenizer
    embeddings: int  # of tokens, that the encoder has; -1: its configuration does not say
    positions: int  # tokens that its encoder takes; -1: any number
    tokens: Callable[[Sequence[int]], list[str]]  # by their numbers
    save: Callable[[Path], object]  # into a folder that transformers' AutoTokenizer reads


def load(name: str, max_length: int) -> Loaded:
    """Return the tokenizer of the encoder `name`. Raises UserError where it cannot be had."""
    folder = Path(pretrained.locate(name)[0])
    special, positions = _special_tokens(folder), _positions(folder)
    if special is None or positions is None:
        return _by_transformers(name, max_length)
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # noqa: BLE001  the library raises nothing more specific
        raise UserError(f"featurize.encoder = {name}: cannot be loaded: {one_line(error)[:300]}") from None
    if not set(special.values()) <= tokenizer.get_vocab().keys():
        return _by_transformers(name, max_length)
    embeddings = _read(folder / "config.json").get("vocab_size", -1)
    return _by_tokenizers(tokenizer, special, positions, embeddings, max_length)


def _read(path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file; an empty one where there is none, and transformers tells what is wrong."""
    try:
        content = files.read_json(path)
    except UserError:
        return {}
    return content if isinstance(content, dict) else {}


def _special_tokens(folder: Path) -> dict[str, str] | None:
    """Return the special tokens that the folder's settings name; None where they are not enough to do without more."""
    settings = _read(folder / "special_tokens_map.json") | _read(folder / "tokenizer_config.json")
    named = {key: settings[key] for key in SPECIAL if settings.get(key) is not None}
    special = {key: token["content"] if isinstance(token, dict) else token for key, token in named.items()}
    enough = (folder / "tokenizer.json").is_file() and all(key in special for key in NEEDED)
    plain = settings.get("truncation_side", "right") == "right" and "auto_map" not in settings
    return special if enough and plain else None


def _positions(folder: Path) -> int | None:
    """Return how many tokens the encoder takes; None where its configuration does not say so itself."""
    config = _read(folder / "config.json")
    positions, padding = config.get("max_position_embeddings"), config.get("pad_token_id")
    if not isinstance(positions, int) or (config.get("model_type") in AFTER_PADDING and not isinstance(padding, int)):
        return None
    return usable_positions(config.get("model_type"), positions, padding)


def usable_positions(model_type: str | None, positions: int, padding: int | None) -> int:
    """Return how many tokens an encoder takes that has so many positions: -1, any number, stays."""
    return positions - (padding or 0) - 1 if positions > 0 and model_type in AFTER_PADDING else positions


def _by_tokenizers(
    tokenizer: Tokenizer, special: dict[str, str], positions: int, embeddings: int, max_length: int
) -> Loaded:
    tokenizer.no_padding()
    tokenizer.no_truncation()
    kept = Tokenizer.from_str(tokenizer.to_str())
    tokenizer.enable_truncation(max_length)
    # Whatever class the encoder's settings name: transformers then takes tokenizer.json as it is, as was done here.
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_length, **special}

    def save(folder: Path) -> None:
        folder.mkdir()
        kept.save(str(folder / "tokenizer.json"))
        files.write_json(folder / "tokenizer_config.json", settings)

    return Loaded(
        encode=tokenizer,
        words=tokenizer.get_vocab_size() - len(set(special.values())),
        pads=True,
        knows_unknown=True,
        tokens_known=max(tokenizer.get_vocab().values(), default=-1) + 1,
        embeddings=embeddings,
        positions=positions,
        tokens=lambda numbers: [str(tokenizer.id_to_token(number)) for number in numbers],
        save=save,
    )


def _by_transformers(name: str, max_length: int) -> Loaded:
    from transformers import AutoConfig, AutoTokenizer  # noqa: PLC0415  seconds: see above

    tokenizer = pretrained.from_pretrained(AutoTokenizer, name)
    config = pretrained.from_pretrained(AutoConfig, name)
    positions = getattr(config, "max_position_embeddings", -1)
    if not tokenizer.is_fast:
        raise UserError(
            f"featurize.encoder = {name}: its tokenizer, {type(tokenizer).__name__}, is written in Python; it needs a"
            " tokenizer.json, which the service reads"
        )
    tokenizer.backend_tokenizer.no_padding()  # as in `_by_tokenizers`: neither is to be saved
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.model_max_length = max_length
    return Loaded(
        encode=token_arrays.backend(tokenizer, max_length),
        words=len(tokenizer) - len(tokenizer.all_special_tokens),
        pads=tokenizer.pad_token_id is not None,
        knows_unknown=tokenizer.unk_token_id is not None,
        tokens_known=max(tokenizer.get_vocab().values(), default=-1) + 1,
        embeddings=getattr(config, "vocab_size", -1),
        positions=usable_positions(config.model_type, positions, config.pad_token_id),
        tokens=tokenizer.convert_ids_to_tokens,
        save=tokenizer.save_pretrained,
    )
