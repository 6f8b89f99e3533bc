"""Train with an idea or two, and print its scores on the validation split as a line of JSON.

    python -m experiments.trial seed=0 rdrop=1 dropout=0.1 epochs=3

Each option is a field of `Idea`; the rest is as in params.yaml. The loop is a plain one around the functions of
stages/train.py, so that an idea takes a line or two here; a run takes one thread, so that two can share a machine.
"""

import copy
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from scipy.special import log_softmax, softmax
from sklearn.metrics import f1_score
from torch.nn.functional import kl_div

from stages import train
from tweets import encode, errors, files, model, params

CLS, SEP, MASK = 101, 102, 103  # of the default encoder's vocabulary


@params.section
class Idea:
    """What can be tried."""

    seed: int = 0
    lr: params.Number = 2e-4
    batch_size: int = 64
    epochs: int = 2
    rows: int = 0  # training tweets, drawn at random; 0: all
    features: str = "data/features"  # made with other params of prepare or featurize
    warmup: params.Number = 0.1
    schedule: str = "linear"  # linear | cosine | sqrt | constant
    weight_decay: params.Number = 0.01
    dropout: params.Number = 0.0
    freeze_embeddings: bool = True
    pooler: str = "identity"  # identity | own | mean: of the tokens' vectors, no pooler
    layer_decay: params.Number = 1.0  # of the learning rate, from a layer to the one below
    head_lr: params.Number = 1.0  # times lr
    smooth: params.Number = 0.0  # label smoothing
    confidence_targets: bool = False  # the rest of an annotator's confidence goes to the other classes
    confidence_power: params.Number = 0.0
    class_power: params.Number = 0.0  # weights of the classes: frequency ** -power
    rdrop: params.Number = 0.0  # weight of the divergence between two passes (arXiv:2106.14448)
    follow: params.Number = 0.0  # weight of the divergence from a second pass, which is undisturbed and has no gradient
    mask: params.Number = 0.0  # share of the tokens replaced by [MASK] in training
    drop: params.Number = 0.0  # share of the tokens left out in training
    hide: params.Number = 0.0  # share of the tokens that the others do not see in training
    memory: params.Number = 0.0  # weight of the last epoch's prediction in the target, at the end (arXiv:2006.12000)
    bootstrap: params.Number = 0.0  # weight of the present prediction in the target (arXiv:1412.6596)
    mixup: params.Number = 0.0  # alpha of the Beta distribution by which pooled tweets and their targets are mixed
    teacher: str = ""  # probabilities of the training rows, .npy
    teacher_weight: params.Number = 0.5
    weights: str = ""  # of the encoder, from further pre-training, .pt
    ema: params.Number = 0.99  # scores of the averaged weights come beside the others
    save: str = ""  # folder for the last logits


def parse(options: list[str]) -> Idea:
    """Return the idea of options such as `lr=3e-4`. Raises UserError for one that is none, or a wrong value."""
    pairs = [option.partition("=") for option in options]
    return params.build(Idea, {name: yaml.safe_load(value) for name, _, value in pairs}, "experiments.trial")


def build(idea: Idea, features: dict[str, Any]) -> Any:
    settings = params.load("train", train.Train)
    settings = dataclasses.replace(
        settings,
        seed=idea.seed,
        dropout=idea.dropout,
        freeze_embeddings=idea.freeze_embeddings,
        reset_pooler=idea.pooler == "identity",
    )
    model: Any = train.build_model(features, settings, "cpu")
    if idea.pooler == "mean":
        del model.bert.encoder.layer[-1].forward  # of the first token only
    if idea.weights:
        state = {name: value for name, value in torch.load(idea.weights).items() if "pooler" not in name}
        model.load_state_dict(state, strict=False)
    return model


def forward(model: Any, idea: Idea, ids: torch.Tensor, mask: torch.Tensor, mix: Any = None) -> torch.Tensor:
    """Return the logits, (batch, K), in float32."""
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model.bert(input_ids=ids, attention_mask=mask)
        if idea.pooler == "mean":
            weights = mask[..., None].to(outputs.last_hidden_state.dtype)
            pooled = (outputs.last_hidden_state * weights).sum(1) / weights.sum(1)
        else:
            pooled = outputs.pooler_output
        if mix:
            share, order = mix
            pooled = share * pooled + (1 - share) * pooled[order]
        logits: torch.Tensor = model.classifier(model.dropout(pooled))
    return logits.float()


def optimizer(model: Any, idea: Idea) -> torch.optim.Optimizer:
    layers = model.config.num_hidden_layers
    groups: dict[tuple[float, float], list[torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        depth = layers if "embeddings" in name else -1
        if "encoder.layer." in name:
            depth = layers - 1 - int(name.split("encoder.layer.")[1].split(".")[0])
        rate = idea.head_lr if depth == -1 else idea.layer_decay**depth
        decay = 0.0 if "bias" in name or "LayerNorm" in name else idea.weight_decay
        groups.setdefault((rate, decay), []).append(parameter)
    found = [{"params": group, "lr": idea.lr * rate, "weight_decay": decay} for (rate, decay), group in groups.items()]
    return torch.optim.AdamW(found, fused=True)


def schedule(idea: Idea, steps: int) -> Callable[[int], float]:
    warmup = -(-steps * idea.warmup // 1)
    shapes: dict[str, Callable[[float], float]] = {
        "linear": lambda x: 1 - x,
        "cosine": lambda x: 0.5 + 0.5 * math.cos(math.pi * x),
        "sqrt": lambda x: 1 - x**0.5,
        "constant": lambda _: 1.0,
    }
    shape = shapes[idea.schedule]
    return lambda step: step / warmup if step < warmup else shape((step - warmup) / max(1, steps - warmup))


def targets(idea: Idea, encoded: encode.Encoded, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the target of each training row, (N, K), and its weight, (N,)."""
    labels = np.asarray(encoded.labels)
    confidence = np.nan_to_num(np.asarray(encoded.confidence), nan=1.0)
    found = np.eye(classes)[labels]
    prior = found.mean(0)
    if idea.confidence_targets:
        others = (1 - found) * prior
        others /= others.sum(1, keepdims=True)
        found = found * confidence[:, None] + others * (1 - confidence[:, None])
    found = (1 - idea.smooth) * found + idea.smooth / classes
    if idea.teacher:
        found = (1 - idea.teacher_weight) * found + idea.teacher_weight * np.load(idea.teacher)
    weights = confidence**idea.confidence_power * prior[labels] ** -idea.class_power
    return torch.tensor(found, dtype=torch.float32), torch.tensor(weights / weights.mean(), dtype=torch.float32)


def disturbed(idea: Idea, ids: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Any:
    """Return the batch with some of its tokens masked or left out, never [CLS] and [SEP]."""
    words = (mask == 1) & (ids != CLS) & (ids != SEP)
    if idea.mask:
        ids = np.where(words & (rng.random(ids.shape) < idea.mask), MASK, ids)
    if idea.drop:
        keep = (mask == 1) & ~(words & (rng.random(ids.shape) < idea.drop))
        order = np.argsort(~keep, axis=1, kind="stable")[:, : keep.sum(1).max()]
        ids, mask = np.take_along_axis(ids, order, 1), np.take_along_axis(keep.astype(mask.dtype), order, 1)
        ids = ids * mask
    if idea.hide:
        mask = np.where(words & (rng.random(ids.shape) < idea.hide), 0, mask)
    return ids, mask


@torch.inference_mode()
def predict(model: Any, idea: Idea, encoded: encode.Encoded) -> np.ndarray:
    model.eval()
    order = np.argsort(encoded.lengths, kind="stable")
    logits = np.empty((len(encoded), model.config.num_labels))
    for start in range(0, len(order), 128):
        rows = order[start : start + 128]
        logits[rows] = forward(model, idea, *map(torch.from_numpy, encoded.padded(rows, 0))).numpy()
    model.train()
    return logits


def measured(logits: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return the macro-F1, and the log loss with the temperature of these very rows."""
    calibrated = log_softmax(logits / train.temperature(logits, truth), axis=1)
    return {
        "macro_f1": round(float(f1_score(truth, logits.argmax(1), average="macro")), 4),
        "log_loss": round(float(-calibrated[np.arange(len(truth)), truth].mean()), 4),
    }


def loss_of(
    idea: Idea, model: Any, clean: Any, views: list[Any], wanted: torch.Tensor, weights: torch.Tensor, mix: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of a batch, and the probabilities that the first pass gave."""
    passes = [forward(model, idea, ids, mask, mix).log_softmax(-1) for ids, mask in views]
    found = passes[0].detach().exp()
    if idea.bootstrap:
        wanted = (1 - idea.bootstrap) * wanted + idea.bootstrap * found
    loss = torch.stack([(-(wanted * logs).sum(-1) * weights).mean() for logs in passes]).mean()
    if idea.rdrop:
        one, other = passes
        both = (kl_div(a, b, log_target=True, reduction="batchmean") for a, b in ((one, other), (other, one)))
        loss = loss + idea.rdrop * sum(both) / 2
    if idea.follow:
        model.eval()
        with torch.no_grad():
            calm = forward(model, idea, *clean).log_softmax(-1)
        model.train()
        loss = loss + idea.follow * kl_div(passes[0], calm, log_target=True, reduction="batchmean")
    return loss, found


class Training:
    """A model that learns with an idea."""

    def __init__(self, idea: Idea) -> None:
        self.idea = idea
        features = files.read_json(Path(idea.features) / "features.json")
        self.split = {name: encode.load(Path(idea.features) / name) for name in ("train", "valid")}
        self.model = build(idea, features)
        self.average = copy.deepcopy(self.model)
        self.rng = np.random.default_rng([idea.seed, 99])
        self.target, self.weights = targets(idea, self.split["train"], self.model.config.num_labels)
        self.remembered = torch.zeros_like(self.target)
        self.chosen = self.rng.permutation(len(self.target))[: idea.rows or None]
        self.steps = -(-len(self.chosen) // idea.batch_size) * idea.epochs
        self.optimizer = optimizer(self.model, idea)
        self.rates = torch.optim.lr_scheduler.LambdaLR(self.optimizer, schedule(idea, self.steps))
        self.step = 0

    def batches(self) -> Iterator[tuple[float, np.ndarray]]:
        """Yield the weight of what is remembered, and the rows of a batch."""
        idea = self.idea
        order = train.LengthOrder(self.split["train"].lengths[self.chosen], idea.batch_size, idea.seed)
        for epoch in range(idea.epochs):
            order.set_epoch(epoch)
            rows = self.chosen[np.array(list(order))]
            for start in range(0, len(rows), idea.batch_size):
                yield idea.memory * epoch / max(1, idea.epochs - 1), rows[start : start + idea.batch_size]

    def learn(self, trust: float, rows: np.ndarray) -> float:
        """Learn from a batch. Return its loss."""
        idea, mix = self.idea, None
        arrays = self.split["train"].padded(rows, 0)
        clean = tuple(map(torch.from_numpy, arrays))
        count = 2 if idea.rdrop else 1
        views = [tuple(map(torch.from_numpy, disturbed(idea, *arrays, self.rng))) for _ in range(count)]
        wanted = (1 - trust) * self.target[rows] + trust * self.remembered[rows]
        if idea.mixup:
            share = float(self.rng.beta(idea.mixup, idea.mixup))
            mix = share, torch.from_numpy(self.rng.permutation(len(rows)))
            wanted = share * wanted + (1 - share) * wanted[mix[1]]
        loss, self.remembered[rows] = loss_of(idea, self.model, clean, views, wanted, self.weights[rows], mix)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], 1.0)
        self.optimizer.step()
        self.rates.step()
        self.optimizer.zero_grad()
        self.step += 1
        return loss.item()

    def average_weights(self) -> None:
        decay = min(self.idea.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, now in zip(self.average.parameters(), self.model.parameters(), strict=True):
                if now.requires_grad:
                    mean.lerp_(now, 1 - decay)

    def scores(self, model: Any) -> dict[str, float]:
        valid = self.split["valid"]
        return measured(predict(model, self.idea, valid), np.asarray(valid.labels))


def run(idea: Idea) -> dict[str, Any]:
    training = Training(idea)
    training.model.train()
    seconds = 0.0
    for trust, rows in training.batches():
        clock = time.process_time()
        loss = training.learn(trust, rows)
        seconds += time.process_time() - clock
        training.average_weights()
        if training.step % max(1, training.steps // 4) == 0:
            scores = training.scores(training.model)
            print(f"{training.step} of {training.steps}, loss {loss:.3f}, {scores}, {seconds:.0f} s", file=sys.stderr)
    if idea.save:
        Path(idea.save).mkdir(parents=True, exist_ok=True)
        for name, encoded in training.split.items():
            probabilities = softmax(predict(training.model, idea, encoded), axis=1)
            np.save(Path(idea.save) / f"{name}-{idea.seed}.npy", probabilities)
    averaged = training.scores(training.average)
    return {**training.scores(training.model), "averaged": averaged, "seconds": round(seconds)}


def main() -> None:
    idea = parse(sys.argv[1:])
    changed = {
        field.name: getattr(idea, field.name)
        for field in dataclasses.fields(Idea)
        if getattr(idea, field.name) != field.default and field.name not in {"seed", "save"}
    }
    with model.threads(1):
        print(json.dumps({"options": changed, "seed": idea.seed, **run(idea)}))


if __name__ == "__main__":
    errors.run("trial", main)
