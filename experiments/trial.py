"""Train with an idea or two, and print its scores on the validation split as a line of JSON.

    python -m experiments.trial seed=0 rdrop=1 dropout=0.1 epochs=3

Each option is a field of `Idea`; the rest is as in params.yaml. The loop is a plain one around the functions of
stages/train.py, so that an idea takes a line or two here; a run takes one thread, so that two can share a machine.
"""

import copy
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from scipy.special import log_softmax, softmax
from sklearn.metrics import f1_score
from torch.nn.functional import kl_div

from stages import train
from tweets import encode, files, params

CLS, SEP, MASK = 101, 102, 103  # of the default encoder's vocabulary


@dataclasses.dataclass(kw_only=True)
class Idea:
    """What can be tried."""

    seed: int = 0
    lr: float = 2e-4
    batch_size: int = 64
    epochs: int = 2
    rows: int = 0  # training tweets, drawn at random; 0: all
    features: str = "data/features"  # made with other params of prepare or featurize
    warmup: float = 0.1
    schedule: str = "linear"  # linear | cosine | sqrt | constant
    weight_decay: float = 0.01
    dropout: float = 0.0
    freeze_embeddings: bool = True
    pooler: str = "identity"  # identity | own | mean: of the tokens' vectors, no pooler
    layer_decay: float = 1.0  # of the learning rate, from a layer to the one below
    head_lr: float = 1.0  # times lr
    smooth: float = 0.0  # label smoothing
    confidence_targets: bool = False  # the rest of an annotator's confidence goes to the other classes
    confidence_power: float = 0.0
    class_power: float = 0.0  # weights of the classes: frequency ** -power
    rdrop: float = 0.0  # weight of the divergence between two passes (arXiv:2106.14448)
    follow: float = 0.0  # weight of the divergence from a second pass, which is undisturbed and has no gradient
    mask: float = 0.0  # share of the tokens replaced by [MASK] in training
    drop: float = 0.0  # share of the tokens left out in training
    hide: float = 0.0  # share of the tokens that the others do not see in training
    memory: float = 0.0  # weight of the last epoch's prediction in the target, at the end (arXiv:2006.12000)
    bootstrap: float = 0.0  # weight of the present prediction in the target (arXiv:1412.6596)
    mixup: float = 0.0  # alpha of the Beta distribution by which pooled tweets and their targets are mixed
    teacher: str = ""  # probabilities of the training rows, .npy
    teacher_weight: float = 0.5
    weights: str = ""  # of the encoder, from further pre-training, .pt
    ema: float = 0.99  # scores of the averaged weights come beside the others
    save: str = ""  # folder for the last logits


def parse(options: list[str]) -> Idea:
    values = {name: yaml.safe_load(value) for name, _, value in (option.partition("=") for option in options)}
    numbers = {field.name for field in dataclasses.fields(Idea) if isinstance(field.default, float)}
    return Idea(**{name: float(value) if name in numbers else value for name, value in values.items()})


def build(idea: Idea, features: dict[str, Any]) -> torch.nn.Module:
    settings = params.load("train", train.Train)
    settings = dataclasses.replace(
        settings,
        seed=idea.seed,
        dropout=idea.dropout,
        freeze_embeddings=idea.freeze_embeddings,
        reset_pooler=idea.pooler == "identity",
    )
    model = train.build_model(features, settings, "cpu")
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
    shapes = {
        "linear": lambda x: 1 - x,
        "cosine": lambda x: 0.5 * (1 + np.cos(np.pi * x)),
        "sqrt": lambda x: 1 - x**0.5,
        "constant": lambda _: 1.0,
    }
    shape = shapes[idea.schedule]
    return lambda step: step / warmup if step < warmup else float(shape((step - warmup) / max(1, steps - warmup)))


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


def run(idea: Idea) -> dict[str, Any]:  # noqa: PLR0915
    features = files.read_json(Path(idea.features) / "features.json")
    split = {name: encode.load(Path(idea.features) / name) for name in ("train", "valid")}
    model: Any = build(idea, features)
    classes = model.config.num_labels
    average = copy.deepcopy(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    target, weights = targets(idea, split["train"], classes)
    remembered = torch.zeros_like(target)
    rng = np.random.default_rng([idea.seed, 99])
    chosen = rng.permutation(len(target))[: idea.rows or None]
    order = train.LengthOrder(split["train"].lengths[chosen], idea.batch_size, idea.seed)
    per_epoch = -(-len(chosen) // idea.batch_size)
    steps = per_epoch * idea.epochs
    adam = optimizer(model, idea)
    rates = torch.optim.lr_scheduler.LambdaLR(adam, schedule(idea, steps))
    model.train()
    seconds, step = 0.0, 0
    for epoch in range(idea.epochs):
        order.set_epoch(epoch)
        rows_of_epoch = chosen[np.array(list(order))]
        trust = idea.memory * (epoch / max(1, idea.epochs - 1))
        for start in range(0, len(rows_of_epoch), idea.batch_size):
            clock = time.process_time()
            rows = rows_of_epoch[start : start + idea.batch_size]
            clean = split["train"].padded(rows, 0)
            views = [map(torch.from_numpy, disturbed(idea, *clean, rng)) for _ in range(2 if idea.rdrop else 1)]
            wanted = (1 - trust) * target[rows] + trust * remembered[rows]
            mix = None
            if idea.mixup:
                share = float(rng.beta(idea.mixup, idea.mixup))
                mix = share, torch.from_numpy(rng.permutation(len(rows)))
                wanted = share * wanted + (1 - share) * wanted[mix[1]]
            passes = [forward(model, idea, *view, mix).log_softmax(-1) for view in views]
            remembered[rows] = passes[0].detach().exp()
            if idea.bootstrap:
                wanted = (1 - idea.bootstrap) * wanted + idea.bootstrap * remembered[rows]
            loss = sum((-(wanted * logs).sum(-1) * weights[rows]).mean() for logs in passes) / len(passes)
            if idea.rdrop:
                one, other = passes
                both = (kl_div(a, b, log_target=True, reduction="batchmean") for a, b in ((one, other), (other, one)))
                loss = loss + idea.rdrop * sum(both) / 2
            if idea.follow:
                model.eval()
                with torch.no_grad():
                    calm = forward(model, idea, *map(torch.from_numpy, clean)).log_softmax(-1)
                model.train()
                loss = loss + idea.follow * kl_div(passes[0], calm, log_target=True, reduction="batchmean")
            loss.backward()  # type: ignore[union-attr]
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            adam.step()
            rates.step()
            adam.zero_grad()
            step += 1
            seconds += time.process_time() - clock
            with torch.no_grad():
                decay = min(idea.ema, (1 + step) / (10 + step))
                for mean, now in zip(average.parameters(), model.parameters(), strict=True):
                    if now.requires_grad:
                        mean.lerp_(now, 1 - decay)
            if step % (per_epoch // 2) == 0 or step == steps:
                now = measured(predict(model, idea, split["valid"]), split["valid"].labels)
                print(step, steps, round(loss.item(), 3), now, f"{seconds:.0f} s", file=sys.stderr)  # type: ignore[union-attr]
    truth = np.asarray(split["valid"].labels)
    logits = predict(model, idea, split["valid"])
    if idea.save:
        Path(idea.save).mkdir(parents=True, exist_ok=True)
        np.save(Path(idea.save) / f"valid-{idea.seed}.npy", logits)
        np.save(Path(idea.save) / f"train-{idea.seed}.npy", softmax(predict(model, idea, split["train"]), axis=1))
    averaged = measured(predict(average, idea, split["valid"]), truth)
    return {**measured(logits, truth), "averaged": averaged, "seconds": round(seconds)}


def main() -> None:
    torch.set_num_threads(1)
    idea = parse(sys.argv[1:])
    changed = {
        field.name: getattr(idea, field.name)
        for field in dataclasses.fields(Idea)
        if getattr(idea, field.name) != field.default and field.name not in {"seed", "save"}
    }
    print(json.dumps({"options": changed, "seed": idea.seed, **run(idea)}))


if __name__ == "__main__":
    main()
