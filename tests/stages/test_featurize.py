"""The stage featurize: tokens as the tokenizer gives them, and what an encoder must bring."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from transformers import AutoTokenizer

from stages import featurize, fetch, prepare
from tests.support.clones import kill_stage
from tests.support.made_up import LABELS, made_up_tweets, set_param
from tweets.data import pieces
from tweets.data.dataset import SPLITS
from tweets.errors import UserError
from tweets.model import tokenizer
from tweets.text import token_arrays


@pytest.fixture
def prepared(workspace: Path) -> Path:
    """A workspace with prepared tweets, one without confidence and one longer than the maximum length."""
    rows = made_up_tweets(240)
    rows.loc[::7, "confidence"] = None
    rows["text"] = [f"{text} {' '.join(f'w{n}x{m}' for m in range(n % 40))}" for n, text in enumerate(rows["text"])]
    rows.to_csv("tweets.csv", index=False)
    fetch.main()
    prepare.main()
    return workspace


@pytest.mark.parametrize("name", SPLITS)
def test_the_tokens_are_those_of_the_tokenizer_itself(prepared: Path, tiny_encoder: Path, name: str) -> None:
    featurize.main()
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    rows = pd.read_parquet(f"data/prepared/{name}.parquet")
    found = token_arrays.load(Path("data/features") / name)
    expected = tokenizer(rows["text"].tolist(), truncation=True, max_length=32)["input_ids"]
    assert [found.row(index).tolist() for index in range(len(found))] == expected
    assert (int(found.lengths.max()), len(found)) == (32, len(rows))
    assert [LABELS[number] for number in found.labels] == rows["label"].tolist()
    np.testing.assert_array_equal(found.confidence, rows["confidence"].to_numpy(np.float32))
    assert np.isnan(found.confidence).any()


def test_the_arrays_are_memory_mapped_when_read(prepared: Path) -> None:
    featurize.main()
    found = token_arrays.load(Path("data/features/train"))
    for array in (found.ids, found.offsets, found.labels, found.confidence):
        assert isinstance(array, np.memmap)


def test_what_later_stages_need_travels_with_the_features(prepared: Path, tiny_encoder: Path) -> None:
    featurize.main()
    facts = json.loads(Path("data/features/features.json").read_text())
    assert facts == {
        "labels": LABELS,
        "encoder": str(tiny_encoder),
        "max_length": 32,
    }
    assert AutoTokenizer.from_pretrained("data/features/tokenizer").model_max_length == 32


def test_the_same_rows_give_the_same_bytes(prepared: Path) -> None:
    def written() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in Path("data/features").rglob("*.*")}

    featurize.main()
    before = written()
    featurize.main()
    assert written() == before
    assert len(before) == 3 * 4 + 3


@pytest.mark.parametrize("size", [1, 7])
def test_pieces_of_any_size_give_the_same_bytes(prepared: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    featurize.main()
    whole = {path: path.read_bytes() for path in Path("data/features").rglob("*.*")}
    monkeypatch.setattr(pieces, "PIECE", size)
    featurize.main()
    assert {path: path.read_bytes() for path in Path("data/features").rglob("*.*")} == whole


def test_killed_halfway_it_leaves_the_old_features(prepared: Path) -> None:
    def written() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in Path("data/features").rglob("*.*")}

    featurize.main()
    before = written()
    set_param(prepared, "featurize.max_length", 16)
    kill_stage("featurize", at="token_arrays.load")
    assert Path("data/.features.new/test/ids.npy").exists()  # it was at work
    assert written() == before
    featurize.main()
    assert not Path("data/.features.new").exists()
    assert written() != before


def test_the_stage_reports_tokens_and_how_many_tweets_were_cut(
    prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    featurize.main()
    lines = capsys.readouterr().out.splitlines()
    report = next(line for line in lines if line.startswith("featurize: train"))
    found = token_arrays.load(Path("data/features/train"))
    cut = np.mean(found.lengths == 32)
    assert 0 < cut < 1
    assert report == f"featurize: train: {len(found)} rows, {found.lengths.mean():.1f} tokens a row, {cut:.2%} cut"
    assert lines[lines.index(report) + 1].startswith("  [CLS] ")


def refusal() -> str:
    with pytest.raises(UserError) as raised:
        featurize.main()
    assert not Path("data/features").exists()
    return str(raised.value)


@pytest.fixture
def encoder(prepared: Path, tiny_encoder: Path) -> Path:
    """A copy of the tiny encoder to break, as the encoder of the workspace."""
    folder = prepared / "encoder"
    shutil.copytree(tiny_encoder, folder)
    set_param(prepared, "featurize.encoder", "encoder")
    return folder


def test_more_tokens_than_the_encoder_has_positions_are_refused(encoder: Path) -> None:
    set_param(encoder.parent, "featurize.max_length", 65)
    assert refusal() == "featurize.max_length = 65: encoder takes 64 at most"


@pytest.mark.parametrize("model_type", ["roberta", "xlm-roberta", "mpnet"])
def test_the_first_positions_of_some_families_are_for_padding(encoder: Path, model_type: str) -> None:
    """BERTweet has 130 positions for 128 tokens: the first token has the position after the padding token's number."""
    (encoder / "config.json").write_text(
        json.dumps({"model_type": model_type, "max_position_embeddings": 66, "pad_token_id": 1})
    )
    for length in (65, 66):
        set_param(encoder.parent, "featurize.max_length", length)
        assert refusal() == f"featurize.max_length = {length}: encoder takes 64 at most"
    set_param(encoder.parent, "featurize.max_length", 64)
    featurize.main()


@pytest.mark.parametrize("architecture", ["Roberta", "MPNet"])
def test_the_number_of_positions_is_what_the_model_takes(architecture: str) -> None:
    config = getattr(transformers, f"{architecture}Config")(
        vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        max_position_embeddings=20, pad_token_id=1,
    )  # fmt: skip
    model = getattr(transformers, f"{architecture}Model")(config)
    most = tokenizer.usable_positions(config.model_type, 20, 1)
    model(torch.full((1, most), 5))
    with pytest.raises((IndexError, RuntimeError), match=r"out of range|out of bounds"):
        model(torch.full((1, most + 1), 5))


def test_an_encoder_without_a_limit_takes_any_length(encoder: Path) -> None:
    """XLNet's positions are relative: transformers gives their number as -1."""
    (encoder / "config.json").write_text('{"model_type": "xlnet"}')
    featurize.main()
    assert json.loads(Path("data/features/features.json").read_text())["encoder"] == "encoder"


def test_a_folder_without_a_tokenizer_is_refused_where_transformers_makes_up_an_empty_one(encoder: Path) -> None:
    (encoder / "tokenizer.json").unlink()
    (encoder / "tokenizer_config.json").unlink()
    assert refusal() == "featurize.encoder = encoder: its tokenizer has no words; it needs tokenizer.json"


def test_a_tokenizer_that_exists_in_python_only_is_refused(encoder: Path) -> None:
    """As those of BERTweet and of Japanese BERT; the service has no transformers to run them."""
    (encoder / "tokenizer.json").unlink()
    (encoder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ngood\nday\n")
    (encoder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "basic"}'
    )
    assert refusal() == (
        "featurize.encoder = encoder: its tokenizer, BertJapaneseTokenizer, is written in Python; it needs a"
        " tokenizer.json, which the service reads"
    )


def test_a_tokenizer_without_a_padding_token_is_refused(encoder: Path) -> None:
    path = encoder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": None}))
    assert refusal() == "featurize.encoder = encoder: its tokenizer has no padding token; it needs one"


def test_a_tokenizer_without_a_token_for_unknown_words_is_refused(encoder: Path) -> None:
    """As those of bytes may be; the service counts unknown words."""
    path = encoder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": None}))
    assert refusal() == "featurize.encoder = encoder: its tokenizer has no unk_token; it needs one"


@pytest.mark.parametrize("positions", [64, None])
def test_a_tokenizer_of_another_model_is_refused(encoder: Path, positions: int | None) -> None:
    """In both ways of reading it: where the positions are not told, transformers does."""
    config = json.loads((encoder / "config.json").read_text())
    changed = {**config, "vocab_size": 1000, "max_position_embeddings": positions}
    (encoder / "config.json").write_text(json.dumps({key: each for key, each in changed.items() if each is not None}))
    assert refusal() == (
        "featurize.encoder = encoder: its tokenizer has 30,522 tokens, and its config.json 1,000 (vocab_size); they are"
        " not of one model"
    )


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "{"),
        ("config.json", "[]"),
        ("config.json", "{}"),
        ("config.json", '{"model_type": "bert", "hidden_size": "wide"}'),
        ("tokenizer.json", '{"version": "1.0"}'),
        ("tokenizer.json", "{"),
    ],
)
def test_a_damaged_encoder_is_refused_in_one_line(encoder: Path, file: str, content: str) -> None:
    (encoder / file).write_text(content)
    message = refusal()
    assert message.startswith("featurize.encoder = encoder: cannot be loaded: ")
    assert "\n" not in message
