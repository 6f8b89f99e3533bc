"""How fast the model labels tweets, as it was trained and as it is exported, beside `transformers.pipeline`.

    python -m benchmarks.predict

Every way gets the same raw tweets of the test split, cleans them with `tweets.text.cleaning.clean` and computes on
THREADS threads of the CPU. Ours are `tweets.model.exported.load(...).predict`, which is int8 and what the service runs,
and `tweets.model.transformer.load(...).predict`, also in float32; neither of these two is quantised. The pipeline, in
float32 as it loads the folder, gets all tweets in one call, with its default batch size of 1 and with 32. Then one
tweet a call, each tweet by every way. Fails where a probability of `tweets.model.transformer` differs from the
pipeline's by more than TOLERANCE, or where ours differ from run to run. Prints two tables and writes
benchmarks/results/predict.json.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import transformers

from benchmarks import turns
from benchmarks.machine import machine
from tweets import command, files
from tweets.data import tables
from tweets.errors import UserError
from tweets.model import exported, transformer
from tweets.model.device import has_bf16, threads
from tweets.text.cleaning import clean

MODEL = Path("models/transformer")
ONNX = Path("models/onnx")
TWEETS = Path("data/prepared/test.parquet")
RESULT = Path("benchmarks/results/predict.json")
COUNT = 512  # tweets in a batch
ROUNDS = 5
SINGLE = 300  # tweets that go alone
BLOCK = 30  # of them by one way before the next
THREADS = 2
TOLERANCE = {"bf16": 0.03, "fp32": 1e-4}  # of a probability
EXPORTED = "tweets.model.exported, int8"
OURS, OURS_FP32 = "tweets.model.transformer", "tweets.model.transformer, fp32"
PIPELINE, PIPELINE_32 = "transformers.pipeline", "transformers.pipeline, batch_size=32"

Floats = npt.NDArray[np.float64]
Way = Callable[[Sequence[str]], Floats]  # raw tweets to the probabilities of the labels, (N, K)


def ways() -> dict[str, Way]:
    """Return the ways to label raw tweets."""
    ours = transformer.load(MODEL)
    pipe = transformers.pipeline("text-classification", str(MODEL), device="cpu")

    def by_pipeline(texts: Sequence[str], batch_size: int = 1) -> Floats:
        rows = pipe(clean(texts, ours.cleaning), top_k=None, truncation=True, batch_size=batch_size)
        scores = [{score["label"]: score["score"] for score in row} for row in rows]
        return np.array([[row[label] for label in ours.labels] for row in scores])

    return {
        EXPORTED: exported.load(ONNX, threads=THREADS).predict,
        OURS: ours.predict,
        OURS_FP32: transformer.load(MODEL, precision="fp32").predict,
        PIPELINE: by_pipeline,
        PIPELINE_32: lambda texts: by_pipeline(texts, 32),
    }


def agreement(answers: dict[str, Floats]) -> dict[str, dict[str, float]]:
    """Return how ours differ from the pipeline's: the share of equal labels, and the largest difference.

    Raises UserError when a probability of those that are not quantised differs by more than TOLERANCE.
    """
    truth, agreements = answers[PIPELINE], {}
    allowed = {
        EXPORTED: 1.0,
        OURS: TOLERANCE["bf16" if has_bf16("cpu") else "fp32"],
        OURS_FP32: TOLERANCE["fp32"],
    }
    for name, tolerance in allowed.items():
        difference = float(np.abs(answers[name] - truth).max())
        if not difference <= tolerance:
            raise UserError(f"{name}: a probability differs from the pipeline's by {difference:.2g}")
        same = float((answers[name].argmax(1) == truth.argmax(1)).mean())
        agreements[name] = {"same_labels": same, "largest_difference": difference}
    return agreements


def batches(labelling: dict[str, Way], texts: Sequence[str]) -> tuple[dict[str, list[float]], dict[str, Floats]]:
    """Return the tweets per second of each round, and the answers. Raises UserError when ours change between rounds."""
    answers: dict[str, Floats] = {}

    def timed(name: str) -> float:
        begin = time.perf_counter()
        probabilities = labelling[name](texts)
        seconds = time.perf_counter() - begin
        if name in (EXPORTED, OURS) and not np.array_equal(answers.setdefault(name, probabilities), probabilities):
            raise UserError(f"{name}: gives other probabilities from run to run")
        answers[name] = probabilities
        return len(texts) / seconds

    return turns.by_turns({name: partial(timed, name) for name in labelling}, ROUNDS), answers


def single(labelling: dict[str, Way], texts: Sequence[str]) -> dict[str, list[float]]:
    """Return the milliseconds for each tweet on its own, BLOCK of them by one way before the next has its turn.

    Tweet by tweet, the threads of one library would still spin when the next one begins.
    """
    durations: dict[str, list[float]] = {name: [] for name in (EXPORTED, OURS, OURS_FP32, PIPELINE)}

    def block(name: str, blocks: Iterator[Sequence[str]]) -> float:
        milliseconds = []
        for text in next(blocks):
            begin = time.perf_counter()
            labelling[name]([text])
            milliseconds.append(1000 * (time.perf_counter() - begin))
        durations[name] += milliseconds[1:]  # the first warms up
        return 0

    blocks = [texts[start : start + BLOCK + 1] for start in range(0, len(texts) - BLOCK, BLOCK + 1)]
    turns.by_turns({name: partial(block, name, iter(blocks)) for name in durations}, len(blocks) - 1)
    return {name: values[BLOCK:] for name, values in durations.items()}  # without the round that warms up


def main() -> None:
    texts = tables.read_parquet(TWEETS)["raw"].tolist()
    with threads(THREADS):
        labelling = ways()
        rates, answers = batches(labelling, texts[:COUNT])
        agreed = agreement(answers)
        milliseconds = single(labelling, texts[: (SINGLE // BLOCK + 1) * (BLOCK + 1)])
    p95 = {name: float(np.percentile(values, 95)) for name, values in milliseconds.items()}
    print(turns.table(rates, ours=EXPORTED, unit="tweets/s", higher_is_better=True))
    print()
    print(turns.table(milliseconds, ours=EXPORTED, unit="ms for one tweet", higher_is_better=False))
    print()
    print("95th percentile, ms:", ", ".join(f"{name} {value:.1f}" for name, value in p95.items()))
    for name, comparison in agreed.items():
        same, difference = comparison["same_labels"], comparison["largest_difference"]
        print(f"{name}: {same:.2%} of the labels are the pipeline's; probabilities differ by {difference:.2g} at most")
    one = turns.summary(milliseconds, ours=EXPORTED, higher_is_better=False)
    for name, summary in one.items():
        summary["p95"] = p95[name]
        del summary["runs"]  # hundreds
    report = {
        "machine": machine() | {"bf16": has_bf16("cpu")},
        "threads": THREADS,
        "tweets": len(texts[:COUNT]),
        "tweets_per_second": turns.summary(rates, ours=EXPORTED, higher_is_better=True),
        "ms_for_one_tweet": one,
        "agreement_with_pipeline": agreed,
    }
    files.write_json(RESULT, report)


if __name__ == "__main__":
    command.run("predict", main, __doc__)
