"""The model folder: written and read back, refused when damaged, and the same probabilities whatever the batches."""

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForSequenceClassification

from tests.support.made_up import LABELS, default_cleaning, made_up_tweets
from tweets import params, progress
from tweets.errors import UserError
from tweets.model import transformer
from tweets.model.device import DeviceName, choose_device, has_bf16, threads
from tweets.text.cleaning import CleaningSettings, clean
from tweets.text.token_arrays import Encoded, encode

TEXTS = [*made_up_tweets(20)["text"], "short", "", "@you &amp; 😀 http://t.co/x " * 10]

ROUNDING = 0.05  # what bfloat16 may do to a probability here, where weights are random and large


@pytest.fixture
def damaged(untrained_model: Path, tmp_path: Path) -> Path:
    """A copy of the model folder, to damage."""
    return Path(shutil.copytree(untrained_model, tmp_path / "model"))


def test_a_folder_that_was_written_is_read_back_whole(untrained_model: Path) -> None:
    found = transformer.load(untrained_model)
    assert found.labels == LABELS
    assert found.max_length == 32
    assert dataclasses.asdict(found.cleaning) == default_cleaning()
    assert not found.model.training


def test_the_weights_are_kept_as_safetensors_only(untrained_model: Path) -> None:
    assert {path.suffix for path in untrained_model.iterdir()} == {".json", ".safetensors"}


def test_a_tweet_is_cleaned_tokenised_and_cut_as_for_training(untrained_model: Path) -> None:
    classifier = transformer.load(untrained_model, precision="fp32")
    cleaned = clean(TEXTS, params.build(CleaningSettings, default_cleaning(), "cleaning"))
    inputs = classifier.tokenizer(cleaned, truncation=True, max_length=32, padding=True, return_tensors="pt")
    with torch.inference_mode():
        expected = classifier.model(**inputs).logits.double().softmax(-1).numpy()
    found = classifier.predict(TEXTS)
    assert np.abs(found - expected).max() < 1e-5
    assert found.shape == (len(TEXTS), 3)
    np.testing.assert_allclose(found.sum(1), 1)
    assert np.ptp(found, axis=0).max() > 0.01  # the answers differ, so their order is tested


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_last_layer_that_reads_the_first_token_only_changes_no_logits(
    untrained_model: Path, attention: str, dropout: float
) -> None:
    plain = AutoModelForSequenceClassification.from_pretrained(
        untrained_model,
        attn_implementation=attention,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    ).eval()
    short = copy.deepcopy(plain)
    transformer.read_first_token_only(short)
    short = copy.deepcopy(short)  # a copy computes with its own weights
    inputs = transformer.load(untrained_model).tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    one, other = plain(**inputs).logits, short(**inputs).logits
    assert torch.allclose(one, other, atol=1e-5)
    assert one.std() > 0.1
    for logits in (one, other):
        logits.square().sum().backward()
    of_one, of_other = ({name: p.grad for name, p in found.named_parameters()} for found in (plain, short))
    assert of_one.keys() == of_other.keys()
    for name, gradient in of_one.items():
        assert torch.allclose(gradient, of_other[name], atol=1e-3 * float(gradient.abs().max()) + 1e-5), name


def test_a_last_layer_that_reads_the_first_token_only_has_its_dropout(untrained_model: Path) -> None:
    found = AutoModelForSequenceClassification.from_pretrained(untrained_model, attention_probs_dropout_prob=0.5)
    transformer.read_first_token_only(found)
    last = found.bert.encoder.layer[-1]
    vectors, mask = torch.randn(2, 4, 32), torch.ones(2, 1, 4, 4, dtype=torch.bool)
    last.eval()
    last.attention.self.train()
    assert not torch.equal(last(vectors, mask), last(vectors, mask))
    last.eval()
    assert torch.equal(last(vectors, mask), last(vectors, mask))
    assert last(vectors, mask).shape == (2, 1, 32)


def test_an_encoder_that_is_not_bert_keeps_its_last_layer() -> None:
    config = transformers.DistilBertConfig(vocab_size=50, dim=16, n_layers=1, n_heads=2, hidden_dim=16)
    found = transformers.DistilBertForSequenceClassification(config)
    transformer.read_first_token_only(found)
    assert found.distilbert.transformer.layer[-1](torch.randn(2, 4, 16)).shape == (2, 4, 16)


@pytest.mark.parametrize("batch_size", [1, 3, 1000])
def test_the_size_of_a_batch_does_not_change_the_answer(untrained_model: Path, batch_size: int) -> None:
    classifier = transformer.load(untrained_model, precision="fp32")
    assert np.abs(classifier.predict(TEXTS, batch_size=batch_size) - classifier.predict(TEXTS)).max() < 1e-6


def test_the_rows_keep_their_order(untrained_model: Path) -> None:
    classifier = transformer.load(untrained_model, precision="fp32")
    backwards = classifier.predict(TEXTS[::-1])
    assert np.abs(backwards[::-1] - classifier.predict(TEXTS)).max() < 1e-6


def test_no_texts_have_no_probabilities(untrained_model: Path) -> None:
    assert transformer.load(untrained_model).predict([]).shape == (0, 3)


def test_probabilities_are_those_of_rows_that_are_tokens_already(
    untrained_model: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = transformer.load(untrained_model, precision="fp32")
    ids, offsets = encode(classifier.tokens, clean(TEXTS, classifier.cleaning))
    rows = len(TEXTS)
    tokens = Encoded(ids=ids, offsets=offsets, labels=np.zeros(rows, np.int64), confidence=np.ones(rows, np.float32))
    capfd.readouterr()
    found = transformer.probabilities(classifier.model, tokens, classifier.tokenizer.pad_token_id, batch_size=8)
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 1e-9)
    assert np.abs(found - classifier.predict(TEXTS, batch_size=8, progress=True)).max() < 1e-6
    assert capfd.readouterr().err.startswith("predict: 1 of 3 batches")


# Precision


def test_in_bfloat16_the_answers_are_those_of_float32_up_to_its_rounding(untrained_model: Path) -> None:
    exact = transformer.load(untrained_model, precision="fp32").predict(TEXTS)
    classifier = transformer.load(untrained_model, precision="bf16")
    found = classifier.predict(TEXTS)
    assert 0 < np.abs(found - exact).max() < ROUNDING
    assert np.ptp(exact, axis=0).max() > 2 * ROUNDING
    np.testing.assert_allclose(found.sum(1), 1)
    np.testing.assert_array_equal(classifier.predict(TEXTS), found)
    for alone, row in zip([classifier.predict([text])[0] for text in TEXTS], exact, strict=True):
        assert np.abs(alone - row).max() < ROUNDING
    assert np.abs(classifier.predict(TEXTS[::-1], batch_size=3)[::-1] - exact).max() < ROUNDING


def test_in_bfloat16_only_matrices_are_rounded(untrained_model: Path) -> None:
    found = transformer.load(untrained_model, precision="bf16").model
    assert found.classifier.weight.dtype is torch.bfloat16
    assert found.bert.embeddings.LayerNorm.weight.dtype is torch.float32
    assert found.bert.embeddings.word_embeddings.weight.dtype is torch.float32


@pytest.mark.parametrize("there", [True, False])
def test_auto_is_bfloat16_where_the_hardware_has_it(
    untrained_model: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    monkeypatch.setattr(transformer, "has_bf16", lambda device: there)
    assert (transformer.load(untrained_model).model.classifier.weight.dtype is torch.bfloat16) is there
    assert transformer.load(untrained_model, precision="fp32").model.classifier.weight.dtype is torch.float32


def edit(name: str, **changes: Any) -> Callable[[Path], None]:
    """Return the change of some keys of a JSON file in a model folder."""

    def change(folder: Path) -> None:
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | changes))

    return change


def write(name: str, content: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text(content)

    return change


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def cut(name: str, size: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:size])

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("cleaning.json"), ": not a model folder: no cleaning.json; `dvc repro` or `dvc pull` gives one"),
        (without("config.json"), ": not a model folder: no config.json; "),
        (without("model.safetensors"), ": not a model folder: no model.safetensors; "),
        (without("tokenizer.json"), ": not a model folder: no tokenizer.json; "),
        (without("tokenizer_config.json"), ": not a model folder: no tokenizer_config.json; "),
        (cut("model.safetensors", 100_000), ": a damaged model folder: "),
        (cut("model.safetensors", 0), ": a damaged model folder: "),
        (write("model.safetensors", "version https://git-lfs.github.com/spec/v1"), ": a damaged model folder: "),
        (write("config.json", "{"), ": a damaged model folder: "),
        (write("config.json", "[]"), ": a damaged model folder: "),
        (edit("config.json", hidden_size=64), ": a damaged model folder: "),
        (edit("config.json", hidden_size="wide"), ": a damaged model folder: "),
        (edit("config.json", model_type="nosuch"), ": a damaged model folder: "),
        (edit("config.json", id2label={"0": "one", "1": "two"}), ": a damaged model folder: "),
        (write("tokenizer.json", "{"), ": a damaged model folder: "),
        (write("tokenizer.json", '{"version": "1.0"}'), ": a damaged model folder: "),
        (write("cleaning.json", "{"), "/cleaning.json: not JSON: "),
        (
            write("cleaning.json", "[]"),
            "/cleaning.json: not cleaning settings; it needs an object with the version of ",
        ),
        (write("cleaning.json", '{"clean": {}}'), "/cleaning.json: not cleaning settings; it needs an object with "),
        (write("cleaning.json", '{"version": 1}'), "/cleaning.json: no normalise; it needs the steps to take"),
        (edit("cleaning.json", stem=True), "/cleaning.json.stem: unknown param"),
    ],
)
def test_a_folder_that_is_damaged_is_refused_in_one_line(
    damaged: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(damaged)
    with pytest.raises(UserError) as raised:
        transformer.load(damaged)
    assert str(raised.value).startswith(f"{damaged}{message}")
    assert "\n" not in str(raised.value)


def test_an_encoder_without_a_head_is_refused_where_transformers_draws_one_at_random(
    damaged: Path, tiny_encoder: Path
) -> None:
    shutil.copy(tiny_encoder / "model.safetensors", damaged)
    with pytest.raises(UserError) as raised:
        transformer.load(damaged)
    assert str(raised.value) == f"{damaged}: a damaged model folder: no weights classifier.bias, classifier.weight"


@pytest.mark.parametrize("name", ["nowhere", "file.txt"])
def test_what_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.txt").write_text("text")
    with pytest.raises(UserError, match=r"not a model folder: no config\.json, model\.safetensors, tokenizer\.json"):
        transformer.load(tmp_path / name)


# Devices and threads


def there(monkeypatch: pytest.MonkeyPatch, *, cuda: bool, mps: bool) -> None:
    """Let PyTorch find other devices than this machine has."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_takes_the_fastest_device_that_is_there(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, chosen: str
) -> None:
    there(monkeypatch, cuda=cuda, mps=mps)
    assert choose_device("auto") == chosen
    assert choose_device("cpu") == "cpu"


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, name: DeviceName) -> None:
    there(monkeypatch, cuda=False, mps=False)
    with pytest.raises(UserError, match=f"^device = {name}: not there; this machine has cpu$"):
        choose_device(name)


def test_bfloat16_is_used_where_the_hardware_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for capabilities, expected in (
        ({"avx512_bf16": True}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"avx2": True}, False),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        assert has_bf16("cpu") is expected
    for supported in (True, False):
        monkeypatch.setattr(
            torch.cuda,
            "is_bf16_supported",
            lambda including_emulation, found=supported: found and not including_emulation,
        )
        assert has_bf16("cuda") is supported
    assert has_bf16("mps") is False


def test_the_number_of_threads_is_put_back_also_after_an_error() -> None:
    before = torch.get_num_threads()

    def fail() -> None:
        with threads(before + 1):
            assert torch.get_num_threads() == before + 1
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    assert torch.get_num_threads() == before
