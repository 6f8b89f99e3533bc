"""Where training and serving spend their time, on a CPU.

    python -m benchmarks.profile

Run it where `dvc repro` or `dvc pull` has made data/features, data/prepared and models/onnx.

- Training: PyTorch's profiler takes the time of each operator, less that of the operators that it calls, over the steps
  of stages/train.py after as many to warm up. A step takes longer so than without: the shares are a hint.
- Serving: k6 drives the service at RATE requests a second, a tweet of the test split in each.

Of both py-spy takes samples, of the training without PyTorch's profiler. Prints tables (of the operators those that
take 1 % or more) and writes flame graphs, profile/training.svg and profile/serving.svg, and
benchmarks/results/profile.json.
"""

import contextlib
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
from torch.profiler import ProfilerActivity, profile, schedule
from transformers import TrainerCallback

from benchmarks import flame, load
from benchmarks.machine import machine
from benchmarks.train import Work, one_epoch, part, peak, timed
from tweets import command, files, markdown
from tweets.data import tables
from tweets.data.dataset import TRAIN
from tweets.model.device import threads

RESULT = Path("benchmarks/results/profile.json")
FLAMES = Path("profile")
PRODUCTS = ("aten::addmm", "aten::mm", "aten::bmm")
SHOWN = 0.01  # share of the time
RATE = 100  # requests a second
# A part, and the functions with their files that it consists of, as py-spy names them. The first that fits counts.
TRAINING = {
    "batches": r"\(torch/utils/data/|^Rows\.",
    "backward": r"\(torch/autograd/",
    "optimizer": r"\(torch/optim/|clip_grad",
    "attention": r"^Bert\w*Attention",
    "feed-forward": r"^Bert(Intermediate|Output)",
    "word vectors": r"^BertEmbeddings",
    "loss and head": r"\(transformers/loss/|^BertForSequenceClassification",
    "the Trainer's loop": r"\((transformers|accelerate)/",
}
SERVING = {
    "model": r"\(openvino/",
    "tokenise": r"^Exported\.outputs ",  # the tokenizer is no Python; its time is that of who calls it
    "clean": r"\((tweets/text/|ftfy/|emoji/)",
    "validation and JSON": r"\((pydantic|json|email)/|\(fastapi/(dependencies/|encoders|_compat)|^serialize_response ",
    "monitoring": r"\((serve/(monitoring|collection)|tweets/evaluation/drift_statistics).py",
    "metrics": r"\(prometheus_client/|\(serve/metrics.py",
    "logs": r"\((logging|pythonjsonlogger)/|\(serve/logs.py",
    "queue and batches": r"\(serve/(batching|models).py|\(tweets/model/exported.py",
    "limits of a request": r"\(serve/middleware.py|\(limits/",
    "routes": r"\((fastapi|starlette|anyio)/|\(serve/(app|service).py",
    "HTTP": r"\(uvicorn/|\(serve/(connections|__main__).py",
    "event loop": r"\(asyncio/",  # uvloop's, which is no Python either
}


class Steps(TrainerCallback):  # type: ignore[misc]
    """Tell where a step ends, and how many have."""

    def __init__(self, ended: Callable[[int], None]) -> None:
        self.ended = ended

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self.ended(state.global_step)


def measure(work: Work, steps: int) -> list[dict[str, Any]]:
    """Return for each operator its calls and milliseconds in a step, and FLOP where the profiler knows them."""
    rows = 2 * steps * work.settings.batch_size
    work = dataclasses.replace(work, split={**work.split, TRAIN: part(work.split[TRAIN], rows)})
    with tempfile.TemporaryDirectory() as folder:
        trainer = one_epoch(work, Path(folder))
        plan = schedule(wait=steps - 1, warmup=1, active=steps - 1)
        with profile(activities=[ProfilerActivity.CPU], schedule=plan, with_flops=True) as profiler:
            trainer.add_callback(Steps(lambda _: profiler.step()))
            timed(trainer)
    operators = [
        {
            "operator": event.key,
            "calls": event.count / (steps - 1),
            "milliseconds": event.self_cpu_time_total / 1000 / (steps - 1),
            "flop": event.flops / (steps - 1),
        }
        for event in profiler.key_averages()
    ]
    return sorted(operators, key=lambda row: -row["milliseconds"])


def table(operators: list[dict[str, Any]]) -> str:
    """Return the operators as Markdown."""
    total = sum(row["milliseconds"] for row in operators)
    shown = [row for row in operators if row["milliseconds"] >= SHOWN * total]
    rest = total - sum(row["milliseconds"] for row in shown)
    rows = [(row["operator"], f"{row['calls']:.0f}", row["milliseconds"]) for row in shown]
    rows.append((f"{len(operators) - len(shown)} others", "", rest))
    return markdown.table(
        ["operator", "calls a step", "ms a step", "share"],
        [(name, calls, f"{spent:.1f}", f"{spent / total:.0%}") for name, calls, spent in rows],
    )


def products(operators: list[dict[str, Any]]) -> dict[str, float]:
    """Return milliseconds and FLOP of the matrix products in a step."""
    rows = [row for row in operators if row["operator"] in PRODUCTS]
    return {name: sum(row[name] for row in rows) for name in ("milliseconds", "flop")}


def training(work: Work, steps: int) -> dict[str, Any]:
    """Return the operators of a step, what the matrix products reach, and the shares of its parts."""
    operators = measure(work, steps)
    best = peak("cpu", work.settings.precision)
    total, part_of = sum(row["milliseconds"] for row in operators), products(operators)
    rate = part_of["flop"] / part_of["milliseconds"] * 1000
    print(f"Training, a step:\n\n{table(operators)}")
    print(
        f"\nmatrix products: {part_of['milliseconds']:.0f} of {total:.0f} ms, at {rate / 1e9:.0f} GFLOP/s;"
        f" the peak: {best / 1e9:.0f}\n"
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as recording:

        def record(step: int) -> None:
            if step == 1:  # what comes before the first is no step
                recording.enter_context(flame.recorded(os.getpid(), FLAMES / "training.svg"))

        trainer = one_epoch(work, Path(folder))
        trainer.args.max_steps = steps + 1
        trainer.add_callback(Steps(record))
        timed(trainer)
    return {"peak_flops": best, "operators": operators, "products": part_of, "parts": parts("training", TRAINING)}


def serving(seconds: float) -> dict[str, Any]:
    """Return the shares of the service's parts at RATE requests a second, and how many processors it kept busy."""
    with tempfile.TemporaryDirectory() as folder, load.service() as running:
        texts = Path(folder) / "texts.json"
        texts.write_text(json.dumps(tables.read_parquet(load.TWEETS)["raw"].tolist()))
        load.k6(running.url, texts, RATE, 2)  # warms up
        process = psutil.Process(running.process.pid)
        with flame.recorded(process.pid, FLAMES / "serving.svg"):
            begin, before = time.perf_counter(), process.cpu_times()
            summary = load.k6(running.url, texts, RATE, seconds)
            after, took = process.cpu_times(), time.perf_counter() - begin
    busy = (after.user + after.system - before.user - before.system) / took
    print(f"Serving, {RATE} requests a second: {busy:.2f} processors busy, p50 {summary.p50:.0f} ms\n")
    return {"rate": RATE, "processors": busy, "p50": summary.p50, "parts": parts("serving", SERVING)}


def parts(name: str, known: Mapping[str, str]) -> dict[str, float]:
    """Print and return the shares of the parts of a flame graph."""
    svg = FLAMES / f"{name}.svg"
    shares = flame.shares(flame.stacks(svg), known)
    print(f"{flame.table(shares)}\n\n{svg} shows more\n")
    return shares


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--steps", type=int, default=20, help="of the training")
    parser.add_argument("--seconds", type=float, default=20, help="of the service")
    options = parser.parse_args()
    work = Work.load(device="cpu")
    with threads(work.settings.threads):
        trained = training(work, options.steps)
    served = serving(options.seconds)
    report = {"machine": machine(), "steps": options.steps, "training": trained, "serving": served}
    files.write_json(RESULT, report)


if __name__ == "__main__":
    command.run("profile", main)
