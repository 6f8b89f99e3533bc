"""The stage train: batches of like lengths, weights of rows, the same bytes twice, and going on after a kill."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file, save_file

from stages import featurize, train
from tests.support.clones import ENVIRONMENT, ROOT
from tests.support.made_up import LABELS, set_param
from tweets import files, params
from tweets.errors import UserError
from tweets.model.trainer import Curves, LengthOrder, Rows, Weights, row_weights, scores
from tweets.text import token_arrays
from tweets.text.cleaning import VERSION

OUTPUTS = ("models/transformer", "plots/train", "metrics/train.json")


class Killed(BaseException):
    """Ends a training at once, as nothing in it catches this."""


def outputs() -> dict[str, str]:
    """Return the hash of each file that the stage wrote."""
    paths = [path for root in OUTPUTS for path in [Path(root), *Path(root).rglob("*")] if path.is_file()]
    return {path.as_posix(): files.sha256(path) for path in paths}


def run() -> dict[str, str]:
    train.main()
    assert not any(path.is_dir() for path in Path(".cache/train").iterdir())
    return outputs()


def report() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path("metrics/train.json").read_text())
    return content


def steps_evaluated() -> list[int]:
    points = json.loads(Path("plots/train/scores.json").read_text())
    return [point["step"] for point in points if point["group"] == "macro-F1"]


def curves_of_dvclive() -> dict[str, Any]:
    """Return the points that DVCLive keeps, without their time."""
    return {
        path.as_posix(): pd.read_csv(path, sep="\t").drop(columns="timestamp", errors="ignore").to_dict("records")
        for path in Path("dvclive").rglob("*.tsv")
    }


@pytest.fixture(scope="module")
def reference(featurized: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The hashes and DVCLive's curves of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    shutil.copytree(featurized, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return {"outputs": run(), "curves": curves_of_dvclive(), "steps": steps_evaluated()}


def settings(**changes: Any) -> train.Train:
    defaults = files.read_yaml(ROOT / "params.yaml")["train"]
    return params.build(train.Train, defaults | changes, "params.yaml: train")


# The order of the rows


@pytest.mark.parametrize("rows", [1, 7, 8, 64, 100, 1111])
def test_an_order_is_a_permutation_of_all_rows(rows: int) -> None:
    lengths = np.random.default_rng(0).integers(3, 60, rows)
    order = LengthOrder(lengths, 8, seed=0)
    assert len(order) == rows
    assert sorted(order) == list(range(rows))


def test_an_order_depends_on_the_seed_and_the_epoch_alone() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, 500)

    def order(seed: int, epoch: int) -> list[int]:
        sampler = LengthOrder(lengths, 8, seed)
        list(sampler)  # an epoch that was read before leaves no trace
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


def test_the_rows_of_a_batch_have_like_lengths_and_the_batches_are_shuffled() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, 1024)
    batches = lengths[list(LengthOrder(lengths, 8, seed=0))].reshape(-1, 8)
    assert np.ptp(batches, axis=1).mean() < 2  # of rows drawn at random: about 44
    means = batches.mean(1)
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.3


def test_the_shorter_batch_stays_last() -> None:
    lengths = np.array([5] * 8 + [50] * 8 + [90] * 3)
    for seed in range(5):
        assert sorted(lengths[list(LengthOrder(lengths, 8, seed))][-3:]) == [90, 90, 90]


# The weights of the rows


@pytest.mark.parametrize(
    ("confidence", "power", "weights"),
    [
        ([0.5, 1.0], 0.0, [1.0, 1.0]),
        ([0.5, 1.0], 1.0, [2 / 3, 4 / 3]),
        ([0.5, 1.0], 2.0, [0.4, 1.6]),
        ([0.5, 1.0, np.nan], 1.0, [2 / 3, 4 / 3, 1.0]),
        ([np.nan, np.nan], 1.0, [1.0, 1.0]),
    ],
)
def test_a_row_weighs_its_confidence_to_a_power_with_a_mean_of_one(
    confidence: list[float], power: float, weights: list[float]
) -> None:
    found = row_weights(np.array(confidence, np.float32), power)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, weights, rtol=1e-6)


def test_confidence_decides_the_result_only_with_a_power(ready: Path, reference: dict[str, Any]) -> None:
    set_param(ready, "train.confidence_power", 1.0)
    weighted = run()
    assert (
        weighted["models/transformer/model.safetensors"]
        != (reference["outputs"]["models/transformer/model.safetensors"])
    )
    for path in Path("data/features").glob("*/confidence.npy"):
        np.save(path, np.full_like(np.load(path), 0.5))
    alike = run()
    assert (
        alike["models/transformer/model.safetensors"] == (reference["outputs"]["models/transformer/model.safetensors"])
    )


# Batches, scores and curves


def encoded(rows: list[list[int]], labels: list[int]) -> token_arrays.Encoded:
    return token_arrays.Encoded(
        ids=np.array([token for row in rows for token in row], np.int32),
        offsets=np.cumsum([0, *map(len, rows)]),
        labels=np.array(labels),
        confidence=np.ones(len(rows), np.float32),
    )


def test_a_batch_is_padded_to_its_longest_row() -> None:
    rows = encoded([[7, 7, 7, 7], [1, 2, 3], [4]], labels=[1, 0, 2])
    batch = Rows(rows, np.array([3, 0.5, 1.5], np.float32), pad=9).__getitems__([1, 2])
    assert {name: value.tolist() for name, value in batch.items()} == {
        "input_ids": [[1, 2, 3], [4, 9, 9]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "labels": [0, 2],
        "weights": [0.5, 1.5],
    }


def test_validation_scores_count_a_label_that_is_never_predicted() -> None:
    logits = np.array([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    found = scores(transformers.EvalPrediction(predictions=logits, label_ids=np.array([0, 0, 1, 2])))
    assert found == {"accuracy": 0.75, "macro_f1": pytest.approx((1 + 2 / 3 + 0) / 3)}


@pytest.mark.parametrize(
    ("rows", "evaluations", "log_every", "every"),
    [(1000, 3, 20, 660), (1000, 1, 20, 2000), (10, 3, 20, 20), (23, 4, 2, 10), (23, 50, 2, 2)],
)
def test_an_evaluation_falls_on_a_step_that_is_logged(rows: int, evaluations: int, log_every: int, every: int) -> None:
    changes = {"batch_size": 1, "epochs": 2, "min_steps": 1, "evaluations": evaluations, "log_every": log_every}
    found = train.arguments(settings(**changes), Path("checkpoints"), rows, "cpu")
    assert (found.eval_steps, found.save_steps, found.logging_steps) == (every, every, log_every)


@pytest.mark.parametrize(("rows", "epochs"), [(100_000, 2), (3200, 2), (3168, 3), (1601, 4), (1600, 4), (10, 200)])
def test_a_small_data_set_gets_more_epochs(rows: int, epochs: int) -> None:
    found = train.arguments(settings(batch_size=32, epochs=2, min_steps=200), Path("checkpoints"), rows, "cpu")
    assert found.num_train_epochs == epochs


def test_the_curves_have_the_points_that_their_plots_in_dvc_yaml_draw(ready: Path) -> None:
    run()
    plots = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["train"]["plots"]
    assert {path for plot in plots for path in plot} == {"plots/train/loss.json", "plots/train/scores.json"}
    for plot in plots:
        [(path, drawn)] = plot.items()
        for point in json.loads(Path(path).read_text()):
            assert set(point) == {"group", "epoch", drawn["x"], drawn["y"]}
    loss = json.loads(Path("plots/train/loss.json").read_text())
    training = [point["step"] for point in loss if point["group"] == "training"]
    assert training == list(range(2, report()["steps"] + 1, 2))
    assert {point["group"] for point in loss} == {"training", "validation"}


def test_the_report_is_that_of_the_best_evaluation() -> None:
    history = [
        {"step": 2, "loss": 1.0},
        {"step": 2, "eval_loss": 0.9, "eval_accuracy": 0.7, "eval_macro_f1": 0.6},
        {"step": 3, "weights": "a"},
        {"step": 4, "eval_loss": 0.8, "eval_accuracy": 0.6, "eval_macro_f1": 0.5},
    ]
    state = transformers.TrainerState(log_history=history, best_global_step=2, global_step=4)
    assert train.summary(state) == {
        "valid": {"accuracy": 0.7, "macro_f1": 0.6, "loss": 0.9},
        "best_step": 2,
        "steps": 4,
        "weights": [{"step": 3, "sha256": "a"}],
    }


def test_a_file_of_few_tweets_is_evaluated_though_no_step_is_logged(ready: Path) -> None:
    set_param(ready, "train.log_every", 1000)
    run()
    assert steps_evaluated() == [46]
    assert report()["best_step"] == 46


# What is written


def test_the_model_folder_is_one_that_transformers_loads_with_its_labels(ready: Path) -> None:
    run()
    found = {path.name for path in Path("models/transformer").iterdir()}
    assert found == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "cleaning.json",
    }
    pipe = transformers.pipeline("text-classification", model="models/transformer", device="cpu")
    [scores] = pipe(["what a day"], top_k=None)
    assert {score["label"] for score in scores} == set(LABELS)
    cleaning = json.loads(Path("models/transformer/cleaning.json").read_text())
    prepared = json.loads(Path("data/prepared/prepared.json").read_text())
    assert cleaning == {"version": VERSION, **prepared["cleaning"]}


def test_training_learns_what_the_words_say(ready: Path) -> None:
    for name, value in {"lr": 0.001, "epochs": 8, "patience": 99}.items():
        set_param(ready, f"train.{name}", value)
    run()
    assert report()["valid"]["accuracy"] > 0.8


def test_the_same_seed_gives_the_same_bytes(ready: Path, reference: dict[str, Any]) -> None:
    assert run() == reference["outputs"]
    assert len(reference["outputs"]) == 5 + 2 + 1


@pytest.mark.parametrize(("param", "value"), [("seed", 1), ("precision", "bf16"), ("dropout", 0.1)])
def test_another_seed_precision_or_dropout_gives_another_model(
    ready: Path, reference: dict[str, Any], param: str, value: Any
) -> None:
    set_param(ready, f"train.{param}", value)
    weights = "models/transformer/model.safetensors"
    assert run()[weights] != reference["outputs"][weights]


# Killed


def run_until_killed(save: int, *, complete: bool = True) -> list[int]:
    """Train, and end it at its `save`-th checkpoint, before or after that is complete; return the steps of all."""
    saved: list[int] = []
    keep: Callable[..., None] = Curves.on_save

    def on_save(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        saved.append(state.global_step)
        if complete or len(saved) < save:
            keep(self, args, state, control, **more)
        if len(saved) == save:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Curves, "on_save", on_save)
        with pytest.raises(Killed):
            train.main()
    return saved


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("save", [1, 2, 4])
def test_a_killed_training_goes_on_and_ends_with_the_same_bytes(
    ready: Path,
    reference: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    save: int,
    complete: bool,
) -> None:
    assert run_until_killed(save, complete=complete) == reference["steps"][:save]
    assert not Path("models/transformer").exists()
    capsys.readouterr()
    assert run() == reference["outputs"]
    assert curves_of_dvclive() == reference["curves"]
    goes_on = "train: going on from step" in capsys.readouterr().out
    assert goes_on == (complete or save > 1)


def test_the_weights_are_noted_along_the_way_a_kill_notwithstanding(
    ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Weights, "STEPS", 5)
    uninterrupted, noted = run(), report()["weights"]
    assert [entry["step"] for entry in noted] == list(range(5, report()["steps"] + 1, 5))
    assert len({entry["sha256"] for entry in noted}) == len(noted)
    shutil.rmtree("models")
    run_until_killed(2)
    assert run() == uninterrupted
    set_param(ready, "train.seed", 1)
    run()
    assert {entry["sha256"] for entry in report()["weights"]}.isdisjoint(entry["sha256"] for entry in noted)


def test_a_training_killed_where_it_stops_early_does_not_train_on(ready: Path) -> None:
    for name, value in {"lr": 1e-9, "patience": 1}.items():
        set_param(ready, f"train.{name}", value)
    uninterrupted = run()
    assert steps_evaluated() == [10, 20]
    assert report()["steps"] == 20
    shutil.rmtree("models")
    assert run_until_killed(2) == [10, 20]
    assert run() == uninterrupted


def test_a_training_killed_after_its_last_step_only_writes_its_outputs(
    ready: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_param(ready, "train.patience", 99)
    uninterrupted = run()
    assert report()["steps"] == 46
    last = len(steps_evaluated())
    assert run_until_killed(last)[-1] == 46
    assert run() == uninterrupted
    assert "train: going on from step 46" in capsys.readouterr().out


def test_a_process_killed_after_its_first_checkpoint_is_continued(ready: Path, reference: dict[str, Any]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.train"],
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list(Path(".cache/train").glob("*/checkpoint-*/complete")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not Path("metrics/train.json").exists()
    assert run() == reference["outputs"]


# What ends it


def test_training_stops_when_the_validation_score_no_longer_rises(ready: Path) -> None:
    for name, value in {"lr": 1e-9, "patience": 2}.items():
        set_param(ready, f"train.{name}", value)
    run()
    assert steps_evaluated() == [10, 20, 30]
    assert report()["steps"] == 30
    assert report()["best_step"] == 10


def test_a_loss_that_is_not_finite_ends_with_what_to_try(ready: Path, tiny_encoder: Path) -> None:
    encoder = shutil.copytree(tiny_encoder, ready / "encoder")
    weights = load_file(encoder / "model.safetensors")
    ids, counts = np.unique(np.load("data/features/train/ids.npy"), return_counts=True)
    weights["embeddings.word_embeddings.weight"][ids[counts.argmin()]] = float("nan")  # of a word in few tweets
    save_file(weights, encoder / "model.safetensors", metadata={"format": "pt"})
    set_param(ready, "featurize.encoder", str(encoder))
    featurize.main()
    with pytest.raises(UserError, match=r"^the loss is (nan|inf) at step \d+; try a lower train\.lr$"):
        train.main()
    assert not Path("models/transformer").exists()


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_numpy_does_not_take_is_refused(ready: Path, seed: int) -> None:
    set_param(ready, "train.seed", seed)
    with pytest.raises(UserError, match=r"^params\.yaml: train\.seed = "):
        train.main()


def test_a_repository_without_a_commit_is_refused(workspace: Path) -> None:
    subprocess.run(["git", "init", "-q", str(workspace)], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=workspace, check=True)
    # In a process of its own: the repository that DVCLive opens before it fails stays open.
    code = "from stages import train; train.open_live(resume=False)"
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert "UserError: DVCLive needs a Git commit to log against" in found.stderr


def test_an_encoder_of_another_architecture_trains_without_its_dropout_too(tmp_path: Path) -> None:
    config = transformers.DistilBertConfig(vocab_size=50, dim=16, n_layers=1, n_heads=2, hidden_dim=16)
    assert config.seq_classif_dropout > 0
    transformers.DistilBertModel(config).save_pretrained(tmp_path)
    settings = params.load("train", train.Train, ROOT / "params.yaml")
    built = train.build_model({"encoder": str(tmp_path), "labels": ["a", "b"]}, settings, "cpu")
    assert {p.p for p in built.modules() if isinstance(p, torch.nn.Dropout)} == {settings.dropout} == {0.0}
    assert built.config.id2label == {0: "a", 1: "b"}


@pytest.mark.parametrize("change", ["prefix", "fewer"])
def test_an_encoder_without_some_of_its_weights_is_refused(tiny_encoder: Path, tmp_path: Path, change: str) -> None:
    """As one saved from torch's DataParallel: transformers would draw the missing ones at random, without a word."""
    folder = shutil.copytree(tiny_encoder, tmp_path / "encoder")
    weights = load_file(folder / "model.safetensors")
    if change == "prefix":
        changed = {f"module.{name}": value for name, value in weights.items()}
    else:
        changed = {name: value for name, value in weights.items() if "layer.1.output" not in name}
    save_file(changed, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"its weights are not those of its config\.json: no bert\..* and \d+ more$"):
        train.build_model({"encoder": str(folder), "labels": LABELS}, settings(), "cpu")


def used(config: transformers.PreTrainedConfig, *, bf16: bool = False) -> None:
    """Try a tiny model with random weights as train does."""
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    rows = encoded([[5, 6, 7], [5, 6, 7, 8, 9, 10, 11, 12]], [0, 1])
    train.check_use(model, rows, config.pad_token_id or 0, bf16=bf16, source="some/folder")


def test_an_encoder_that_reads_the_padding_is_refused() -> None:
    size = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32}
    used(transformers.BertConfig(num_attention_heads=2, **size))
    with pytest.raises(UserError, match=r"some/folder: reads the padding of a text, .* to follow the attention mask"):
        used(transformers.FNetConfig(initializer_range=0.5, **size))


def test_an_encoder_with_a_decoder_is_refused() -> None:
    size = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
    size |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "vocab_size": 50}
    with pytest.raises(UserError, match="some/folder: has a decoder; it needs an encoder alone"):
        used(transformers.BartConfig(**size))


def test_an_encoder_that_knows_no_bfloat16_is_refused_with_a_way_out() -> None:
    config = transformers.DebertaConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        relative_attention=True, pos_att_type=["c2p", "p2c"],
    )  # fmt: skip
    used(config)
    with pytest.raises(UserError, match=r"some/folder: cannot be used: .*; -S train\.precision=fp32 may help$"):
        used(config, bf16=True)


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_word_vectors_stay_those_of_the_encoder(ready: Path, tiny_encoder: Path, frozen: bool) -> None:
    set_param(ready, "train.freeze_embeddings", frozen)
    run()
    before, after = (
        transformers.AutoModel.from_pretrained(folder).get_input_embeddings().weight
        for folder in (tiny_encoder, Path("models/transformer"))
    )
    assert torch.equal(before, after) == frozen


# Calibration


@pytest.mark.parametrize("sure", [0.7, 1.0, 3.0])
def test_the_temperature_undoes_what_made_the_logits_too_sure(sure: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 3))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = (rng.random((len(logits), 1)) > shares.cumsum(1)).sum(1)
    assert train.temperature(sure * logits, truth) == pytest.approx(sure, rel=0.05)


def test_the_temperature_is_in_the_weights_of_the_head_and_changes_no_label(ready: Path) -> None:
    for name, new in {"lr": 0.001, "epochs": 8, "patience": 99}.items():
        set_param(ready, f"train.{name}", new)
    labels = np.load("data/features/valid/labels.npy")
    labels[:4] = (labels[:4] + 1) % len(LABELS)  # so that it errs
    np.save("data/features/valid/labels.npy", labels)
    features = files.read_json(Path("data/features/features.json"))
    trainer = train.train(params.load("train", train.Train), features, Path("checkpoints"))
    before = trainer.predict(trainer.eval_dataset)
    value = train.calibrate(trainer)
    after = trainer.predict(trainer.eval_dataset)
    assert value != pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(after.predictions, before.predictions / value, rtol=1e-4, atol=1e-5)
    # What is left to divide by is 1.
    assert train.temperature(after.predictions.astype(np.float64), after.label_ids) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("reset", [True, False])
def test_a_pooler_that_is_reset_starts_as_the_identity(tiny_encoder: Path, reset: bool) -> None:
    features = {"encoder": str(tiny_encoder), "labels": LABELS}
    dense = train.build_model(features, settings(reset_pooler=reset), "cpu").bert.pooler.dense
    assert torch.equal(dense.weight, torch.eye(len(dense.weight))) == reset


def test_an_encoder_whose_pooler_is_of_another_kind_trains(tmp_path: Path) -> None:
    config = transformers.AlbertConfig(
        vocab_size=50,
        embedding_size=8,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    transformers.AlbertModel(config).save_pretrained(tmp_path)
    features = {"encoder": str(tmp_path), "labels": LABELS}
    built = train.build_model(features, settings(reset_pooler=True), "cpu")
    assert built(torch.ones(2, 4, dtype=torch.long)).logits.shape == (2, len(LABELS))


def test_a_log_gets_a_line_for_each_evaluation_and_no_bar(ready: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train.main()
    printed = capfd.readouterr()
    scores_found = [float(score) for score in re.findall(r"macro-F1 ([\d.]+)$", printed.out, re.MULTILINE)]
    curve = json.loads(Path("plots/train/scores.json").read_text())
    assert scores_found == [round(point["score"], 4) for point in curve if point["group"] == "macro-F1"]
    assert len(scores_found) > 2
    assert "{'loss'" not in printed.out  # a line for each log, as transformers prints them
    assert "\r" not in printed.out + printed.err
    assert "%|" not in printed.err
