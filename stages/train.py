"""Fine-tune the encoder on the training split, stop early on validation macro-F1, keep the best.

    python -m stages.train

Reads data/features, and the cleaning settings in data/prepared. Writes models/transformer, which
`transformers.pipeline("text-classification", ...)` loads; metrics/train.json; and plots/train/loss.json and
scores.json. While it runs, DVCLive keeps the curves in dvclive/. Killed, it resumes from its last checkpoint and ends
with the bytes of a run that was never interrupted.
"""

import dataclasses
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from pydantic import Field

from tweets import command, environment, files, orphan, params
from tweets.data.dataset import TRAIN, VALID
from tweets.errors import UserError, one_line
from tweets.model import checkpoints, portable, pretrained, transformer
from tweets.model.device import DeviceName, choose_device, has_bf16, threads
from tweets.model.portable import Precision
from tweets.text import token_arrays
from tweets.text.cleaning import CleaningSettings

if TYPE_CHECKING:  # what follows is imported where training begins: see the top of tweets/model/transformer.py
    from dvclive import Live
    from transformers import PreTrainedModel, TrainerState, TrainingArguments

    from tweets.model.trainer import TweetTrainer

FEATURES, PREPARED = Path("data/features"), Path("data/prepared/prepared.json")
LIVE = Path("dvclive")
PADDING_TOLERANCE = 5e-4  # of a logit: kernels for other shapes round otherwise
BISECTIONS = 50  # leave a width of 2e-15
Fraction = Annotated[float, Field(ge=0, lt=1)]


@params.section
class Train:
    """Section `train` of params.yaml."""

    seed: params.Seed
    epochs: params.Count
    min_steps: params.Count  # a small data set gets more epochs, until this many steps are reached
    lr: Annotated[float, Field(gt=0, le=10)]  # of AdamW, at its peak
    batch_size: params.BatchSize
    warmup: Fraction  # share of the steps in which the learning rate rises; then it falls to 0 along a line
    weight_decay: Annotated[float, Field(ge=0, le=100)]
    dropout: Fraction
    max_grad_norm: Annotated[float, Field(gt=0, le=1e6)]
    confidence_power: Annotated[float, Field(ge=0, le=100)]
    freeze_embeddings: bool  # leave the encoder's word vectors as they are
    reset_pooler: bool  # start the layer between the first token and the head, where there is one, as the identity
    evaluations: params.Count  # in a whole training, evenly; also its checkpoints
    patience: params.Count  # evaluations
    log_every: params.Count  # steps
    device: DeviceName
    precision: Precision
    threads: params.Threads  # on a CPU; with precision "portable" all cores multiply matrices, whatever their number


def arguments(settings: Train, folder: Path, rows: int, device: str) -> "TrainingArguments":
    """Return the Trainer's arguments for a training on so many rows.

    Length and rhythm follow from the rows: the epochs asked for, more of them where they make fewer than `min_steps`
    steps, and `evaluations` evaluations in all.
    """
    from transformers import TrainingArguments  # noqa: PLC0415

    batches = -(-rows // settings.batch_size)
    epochs = max(settings.epochs, -(-settings.min_steps // batches))
    # On a step that is also logged, since the Trainer's running mean of the loss is not in its checkpoints.
    every = max(1, epochs * batches // settings.evaluations // settings.log_every) * settings.log_every
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        learning_rate=settings.lr,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=2 * settings.batch_size,
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        bf16=in_bfloat16(settings.precision, device),
        use_cpu=device == "cpu",
        seed=settings.seed,
        eval_strategy="steps",
        eval_steps=every,
        save_steps=every,
        save_total_limit=2,  # the best and the last
        load_best_model_at_end=True,
        metric_for_best_model="macro_f1",
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,
        logging_steps=settings.log_every,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,  # a bar in any log; see Report in tweets/model/trainer.py
        remove_unused_columns=False,
        dataloader_pin_memory=device == "cuda",
    )


def in_bfloat16(precision: Precision, device: str) -> bool:
    """Tell whether matrices are multiplied in bfloat16, 2.7 times as fast on a CPU: `python -m benchmarks.tricks`."""
    return precision == "bf16" or (precision == "auto" and has_bf16(device))


def attention(device: str) -> str:
    """Return the kind of attention: on a CPU matrix products beat the fused kernel.

    1.7 times as fast: `python -m benchmarks.tricks`.
    """
    return "eager" if device == "cpu" else "sdpa"


def freeze_word_vectors(classifier: "PreTrainedModel") -> None:
    """Leave the word vectors as they are: no gradients for a matrix of which a batch uses few rows.

    1.1 times as fast: `python -m benchmarks.tricks`.
    """
    classifier.get_input_embeddings().requires_grad_(False)


def build_model(features: dict[str, Any], settings: Train, device: str) -> "PreTrainedModel":
    """Return the encoder with a new classification head, drawn from the seed.

    Every dropout of its architecture, whatever that calls it, is `train.dropout`.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification, set_seed  # noqa: PLC0415

    set_seed(settings.seed)
    labels = features["labels"]
    source = features["encoder"]
    numbers = {label: number for number, label in enumerate(labels)}
    config = pretrained.from_pretrained(AutoConfig, source, id2label=dict(enumerate(labels)), label2id=numbers)
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, settings.dropout)
    classifier, report = pretrained.from_pretrained(
        AutoModelForSequenceClassification,
        source,
        config=config,
        dtype=torch.float32,
        attn_implementation=attention(device),
        output_loading_info=True,
    )
    check_weights(report["missing_keys"], classifier.base_model_prefix, source)
    if settings.freeze_embeddings:
        freeze_word_vectors(classifier)
    transformer.read_first_token_only(classifier)
    pooler = getattr(getattr(classifier.base_model, "pooler", None), "dense", None)
    if settings.reset_pooler and pooler is not None:
        torch.nn.init.eye_(pooler.weight)
        torch.nn.init.zeros_(pooler.bias)
    return classifier


def check_weights(missing: Iterable[str], prefix: str, source: str) -> None:
    """Raise UserError for weights that the encoder's folder lacks: transformers would draw them at random.

    The head's are new anyway; so is the pooler of an encoder that comes without one.
    """
    if lacking := sorted(name for name in missing if name.startswith(f"{prefix}.") and ".pooler." not in name):
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise UserError(
            f"featurize.encoder = {source}: its weights are not those of its config.json: no {lacking[0]}{more}"
        )


def check_use(classifier: "PreTrainedModel", rows: token_arrays.Encoded, pad: int, *, bf16: bool, source: str) -> None:
    """Raise UserError for an encoder that cannot be used as the stages use one.

    It has to take tokens and their mask, in bfloat16 too where that is asked for, and to give a row the same logits
    whatever it is padded to: FNet, for example, reads the padding.
    """
    if classifier.config.is_encoder_decoder:
        raise UserError(f"featurize.encoder = {source}: has a decoder; it needs an encoder alone")
    device = classifier.device.type
    ids, mask = (torch.from_numpy(array) for array in rows.padded(np.array([np.argmin(rows.lengths)]), pad))
    wider = (0, int(rows.lengths.max()) - ids.shape[1])
    inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
    padded = {
        name: torch.nn.functional.pad(array, wider, value=pad if name == "input_ids" else 0)
        for name, array in inputs.items()
    }
    try:
        with torch.inference_mode():
            one, other = classifier(**inputs).logits, classifier(**padded).logits
            with torch.autocast(device, torch.bfloat16, enabled=bf16):
                classifier(**inputs)
    except Exception as error:  # noqa: BLE001  whatever a foreign architecture meets
        hint = "; -S train.precision=fp32 may help" if bf16 else ""
        raise UserError(f"featurize.encoder = {source}: cannot be used: {one_line(error)[:200]}{hint}") from None
    if not torch.allclose(one, other, rtol=1e-3, atol=PADDING_TOLERANCE):
        raise UserError(
            f"featurize.encoder = {source}: reads the padding of a text, so that its neighbours in a batch would change"
            " its label; it needs to follow the attention mask"
        )


def open_live(*, resume: bool) -> "Live":
    """Return DVCLive's logger. Raises UserError in a Git repository without a commit, which DVCLive cannot log in."""
    from dvclive import Live  # noqa: PLC0415
    from scmrepo.exceptions import SCMError  # noqa: PLC0415

    try:
        return Live(str(LIVE), resume=resume, dvcyaml=False, save_dvc_exp=False)
    except SCMError as error:
        raise UserError(f"DVCLive needs a Git commit to log against ({error}): `git commit` first") from None


def build_trainer(
    settings: Train, features: dict[str, Any], split: dict[str, token_arrays.Encoded], folder: Path
) -> "TweetTrainer":
    """Return the trainer of a new model on the splits train and valid, with its checkpoints in `folder`."""
    from transformers import AutoTokenizer  # noqa: PLC0415

    from tweets.model import trainer  # noqa: PLC0415

    device = choose_device(settings.device, settings.precision)
    pad = AutoTokenizer.from_pretrained(FEATURES / "tokenizer").pad_token_id
    weights = {
        TRAIN: trainer.row_weights(split[TRAIN].confidence, settings.confidence_power),
        VALID: np.ones(len(split[VALID]), np.float32),
    }
    rows = {name: trainer.Rows(split[name], weights[name], pad) for name in weights}
    made = trainer.TweetTrainer(
        model=build_model(features, settings, device),
        args=arguments(settings, folder, len(rows[TRAIN]), device),
        train_dataset=rows[TRAIN],
        eval_dataset=rows[VALID],
        data_collator=lambda batch: batch,  # Rows has made it
        compute_metrics=trainer.scores,
    )
    bf16 = in_bfloat16(settings.precision, device)
    check_use(made.model, split[TRAIN], pad, bf16=bf16, source=features["encoder"])
    return made


def train(settings: Train, features: dict[str, Any], folder: Path) -> "TweetTrainer":
    """Train, from the newest checkpoint in `folder` if there is one, and return the trainer with the best weights."""
    from transformers import EarlyStoppingCallback, PrinterCallback  # noqa: PLC0415

    from tweets.model.trainer import Curves, Report, Weights  # noqa: PLC0415

    checkpoint = checkpoints.latest(folder)
    if checkpoint:
        print(f"train: going on from step {checkpoint.name.split('-')[1]}")
        shutil.copytree(checkpoint / "live", LIVE, dirs_exist_ok=True)
    live = open_live(resume=checkpoint is not None)
    split = {name: token_arrays.load(FEATURES / name) for name in (TRAIN, VALID)}
    trainer = build_trainer(settings, features, split, folder)
    trainer.remove_callback(PrinterCallback)  # a line of each log
    trainer.add_callback(Report())
    trainer.add_callback(Weights())
    trainer.add_callback(Curves(live))
    trainer.add_callback(EarlyStoppingCallback(settings.patience))
    args = trainer.args
    described = "bf16" if args.bf16 else "fp32"
    if settings.precision == "portable":
        described += ", portable"
        faster = choose_device("auto")
        described += "" if faster == "cpu" else f" (-S train.precision=auto uses {faster})"
    print(
        f"train: {len(split[TRAIN]):,} tweets, {args.num_train_epochs} epochs, evaluated each {args.eval_steps} steps;"
        f" {args.device.type}, {described}"
    )
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return trainer


def temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """Return the T for which softmax(logits / T) has the least log loss (Guo et al. 2017, arXiv:1706.04599).

    `logits` is (N, K), `truth` (N,) class numbers. T above 1 makes a model less sure of itself. T is 0.5 to 10: a few
    rows that are all right do not say that the model is never wrong.

    The log loss is convex in 1 / T. Its slope there is the mean of the logit expected of softmax(logits / T) less that
    of the true class, and the least loss lies where the slope changes its sign.
    """
    of_truth = logits[np.arange(len(truth)), truth]
    low, high = 1 / 10, 1 / 0.5
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        powers = np.exp(middle * (logits - logits.max(1, keepdims=True)))
        slope = ((powers * logits).sum(1) / powers.sum(1) - of_truth).mean()
        low, high = (middle, high) if slope < 0 else (low, middle)
    return 2 / (low + high)


def calibrate(trainer: "TweetTrainer") -> float:
    """Divide the logits by the temperature that suits the validation split, in the head's own weights. Return it."""
    output = trainer.predict(trainer.eval_dataset)
    value = temperature(output.predictions.astype(np.float64), output.label_ids)
    *_, head = (part for part in trainer.model.modules() if isinstance(part, torch.nn.Linear))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.div_(value)
    return value


def summary(state: "TrainerState") -> dict[str, Any]:
    """Return the content of metrics/train.json: the scores of the best evaluation, and how far training went.

    `weights` are hashes of the weights along the way: `make compare` names the first that differs.
    """
    [best] = [log for log in state.log_history if log["step"] == state.best_global_step and "eval_macro_f1" in log]
    valid = {name: best[f"eval_{name}"] for name in ("accuracy", "macro_f1", "loss")}
    weights = [{"step": log["step"], "sha256": log["weights"]} for log in state.log_history if "weights" in log]
    return {"valid": valid, "best_step": state.best_global_step, "steps": state.global_step, "weights": weights}


def curves(history: list[dict[str, float]]) -> dict[str, list[dict[str, Any]]]:
    """Return the points of the learning curves: `loss` of training and validation, `scores` of validation."""
    names = {
        "loss": ("loss", {"loss": "training", "eval_loss": "validation"}),
        "scores": ("score", {"eval_accuracy": "accuracy", "eval_macro_f1": "macro-F1"}),
    }
    return {
        curve: [
            {"group": group, "step": log["step"], "epoch": log["epoch"], y: log[name]}
            for name, group in groups.items()
            for log in history
            if name in log
        ]
        for curve, (y, groups) in names.items()
    }


def main() -> None:
    environment.check()
    orphan.end_with_parent()
    # cuBLAS adds up in a fixed order only in a workspace of a fixed size.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    settings = params.load("train", Train)
    if settings.precision == "portable":
        portable.use(training=True)
    features = files.read_json(FEATURES / "features.json")
    prepared = files.read_json(PREPARED)
    cleaning = params.build(CleaningSettings, prepared["cleaning"], f"{PREPARED}: cleaning")
    torch.use_deterministic_algorithms(True)
    from transformers import AutoTokenizer  # noqa: PLC0415

    import tweets.model.trainer  # noqa: F401, PLC0415  before the key, which hashes the imported code

    key = checkpoints.key([FEATURES, Path(features["encoder"])], dataclasses.asdict(settings))
    with checkpoints.folder(key) as folder, threads(settings.threads):
        trainer = train(settings, features, folder)
        report = {**summary(trainer.state), "temperature": calibrate(trainer)}
        with files.replacing(Path("models/transformer")) as staged:
            tokenizer = AutoTokenizer.from_pretrained(FEATURES / "tokenizer")
            transformer.save(staged, trainer.model, tokenizer, cleaning)
        with files.replacing(Path("plots/train")) as staged:
            staged.mkdir()
            for name, points in curves(trainer.state.log_history).items():
                files.write_json(staged / f"{name}.json", points)
        files.write_json(Path("metrics/train.json"), report)


if __name__ == "__main__":
    command.run("train", main, __doc__)
