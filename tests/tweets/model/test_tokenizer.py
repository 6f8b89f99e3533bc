"""The tokenizer of an encoder: read without transformers where its folder says all that is needed, else with it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from tests.support.clones import ROOT
from tweets.errors import UserError
from tweets.model import tokenizer
from tweets.text import token_arrays

TEXTS = ["What a day! 😀 @someone", "", "[MASK] don't", "x" * 300, "GREAT café " * 40]


@pytest.fixture
def encoder(tiny_encoder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny encoder, to change."""
    return Path(shutil.copytree(tiny_encoder, tmp_path / "encoder"))


def edit(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file, or take out those that become None."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def tokens(found: tokenizer.Loaded) -> list[list[int]]:
    ids, offsets = token_arrays.encode(found.encode, TEXTS)
    return [row.tolist() for row in np.split(ids, offsets[1:-1])]


def with_transformers(monkeypatch: pytest.MonkeyPatch, folder: Path) -> bool:
    """Tell whether loading the folder's tokenizer takes transformers."""
    called = []
    real = tokenizer._by_transformers

    def noted(*arguments: Any) -> tokenizer.Loaded:
        called.append(arguments)
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(tokenizer, "_by_transformers", noted)
        tokenizer.load(str(folder), 16)
    return bool(called)


def test_both_ways_give_the_tokens_of_transformers(encoder: Path, tmp_path: Path) -> None:
    short, long = tokenizer.load(str(encoder), 16), tokenizer._by_transformers(str(encoder), 16)
    expected = AutoTokenizer.from_pretrained(encoder)(TEXTS, truncation=True, max_length=16)["input_ids"]
    assert tokens(short) == tokens(long) == expected
    assert (short.words, short.pads, short.positions) == (long.words, long.pads, long.positions)
    assert short.tokens(expected[0]) == long.tokens(expected[0])
    for name, found in (("short", short), ("long", long)):
        found.save(tmp_path / name)
        saved = AutoTokenizer.from_pretrained(tmp_path / name)
        assert saved(TEXTS, truncation=True)["input_ids"] == expected, name
        assert (saved.model_max_length, saved.pad_token, saved.unk_token) == (16, "[PAD]", "[UNK]")
        assert Tokenizer.from_file(str(tmp_path / name / "tokenizer.json")).truncation is None


def test_a_folder_that_names_its_special_tokens_needs_no_transformers(encoder: Path) -> None:
    code = (
        "import sys; from tweets.model import tokenizer; tokenizer.load(sys.argv[1], 16)\n"
        "print([name for name in ('transformers', 'torch', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, encoder], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_special_tokens_may_stand_in_a_map_of_their_own(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = tokens(tokenizer.load(str(encoder), 16))
    edit(encoder / "tokenizer_config.json", pad_token=None, unk_token=None)
    assert with_transformers(monkeypatch, encoder)
    special = {"pad_token": {"content": "[PAD]", "special": True}, "unk_token": "[UNK]"}
    (encoder / "special_tokens_map.json").write_text(json.dumps(special))
    assert not with_transformers(monkeypatch, encoder)
    assert tokens(tokenizer.load(str(encoder), 16)) == expected


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("tokenizer_config.json", {"truncation_side": "left"}),
        ("tokenizer_config.json", {"cls_token": "[START]"}),  # which is not in the vocabulary
        ("config.json", {"max_position_embeddings": None}),
    ],
)
def test_what_only_transformers_knows_goes_through_it(
    encoder: Path, monkeypatch: pytest.MonkeyPatch, name: str, changes: dict[str, Any]
) -> None:
    assert not with_transformers(monkeypatch, encoder)
    edit(encoder / name, **changes)
    assert with_transformers(monkeypatch, encoder)


def test_tokens_are_those_of_the_file_and_not_of_a_class_with_other_defaults(encoder: Path, tmp_path: Path) -> None:
    """A cased vocabulary: transformers' BertTokenizer lower-cases where the settings do not say otherwise."""
    path = encoder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["normalizer"]["lowercase"] = False
    path.write_text(json.dumps(content))
    edit(encoder / "tokenizer_config.json", do_lower_case=None)
    found = tokenizer.load(str(encoder), 16)
    expected = [row.ids for row in found.encode.encode_batch(TEXTS)]
    assert tokens(found) == expected
    found.save(tmp_path / "saved")
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert saved(TEXTS, truncation=True)["input_ids"] == expected


def test_a_damaged_file_is_a_users_error(encoder: Path) -> None:
    (encoder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"^featurize\.encoder = .*: cannot be loaded: "):
        tokenizer.load(str(encoder), 16)
