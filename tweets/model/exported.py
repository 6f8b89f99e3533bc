"""The exported classifier: a folder that `export` writes, and predictions from it by OpenVINO, without torch.

The ONNX file holds its matrices in int8. OpenVINO quantises what goes into a product too, as it comes: each token in
groups of some values, so that a text's result depends neither on outliers elsewhere nor on its neighbours in a batch.
What lies between the products is bfloat16 where the processor has it, else float32.

A batch of another shape than the one before it costs a millisecond or two: OpenVINO sets up all layers anew. So a text
on its own goes through graphs of a fixed shape, each of which is a copy of the model's matrices.

Two batches on a thread each take less time than one after the other on two threads (`make bench-batches`). So there is
an engine for each thread, which is a copy too.
"""

import contextlib
import functools
import queue
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field
from tokenizers import Tokenizer

from tweets import files, params
from tweets.errors import UserError, one_line
from tweets.progress import track
from tweets.text import cleaning
from tweets.text.cleaning import CleaningSettings, clean

if TYPE_CHECKING:
    import openvino

MODEL = "model.onnx"
SETTINGS = "settings.json"
CLEANING = "cleaning.json"
TOKENIZER = "tokenizer.json"
CARD = "card.json"
EXAMPLES = "examples.json"
REFERENCE = "reference.json"
CHECKSUMS = "checksums.json"
SEALED = (MODEL, SETTINGS, CLEANING, TOKENIZER, CARD, EXAMPLES, REFERENCE)
FILES = (*SEALED, CHECKSUMS)
EMBEDDING = "text_embedding"  # the output; the graph has a node that is called embedding
SINGLE = (32, 48)  # tokens: the widths of the graphs for one text; few tweets have more
STEP = 8  # tokens: the widths of batches are multiples of it, so that few shapes come up
ENGINES = 8  # at most, about 75 MB each; where there are more threads, each engine has several
KERNELS = 1_000  # that OpenVINO keeps, a dozen for each shape, for when it comes again; by itself it keeps 5,000
TOLERANCE = 0.05  # of a probability: kernels of another processor round otherwise

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Outputs = npt.NDArray[np.void]


def _differ(labels: list[str]) -> list[str]:
    if len(set(labels)) < len(labels):
        raise ValueError("needs labels that differ")
    return labels


@params.section
class ModelSettings:
    """What it takes to go from a raw tweet to named probabilities, beside the model and the tokenizer."""

    labels: Annotated[list[str], Field(min_length=2), AfterValidator(_differ)]
    max_length: params.Count  # tokens; the rest of a tweet is cut
    pad: int  # the token that fills a batch
    unknown: int  # the token of what the tokenizer does not know
    group: params.Count  # values of a token that are quantised with one scale


@params.section
class Example:
    """A raw text, and what the model made of it where it was exported."""

    text: str
    probabilities: list[float]  # (K,)


@dataclass(frozen=True)
class Engine:
    """The compiled model. One thread at a time may use it."""

    batches: "openvino.InferRequest"
    single: dict[int, "openvino.InferRequest"]  # for one text, by width, from the smallest


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An exported classifier for K labels. Any thread may predict; it waits while no engine is free."""

    engines: tuple[Engine, ...]
    tokenizer: Tokenizer
    settings: ModelSettings
    cleaning: CleaningSettings
    dtype: np.dtype[np.void]  # of a text's outputs
    _free: "queue.SimpleQueue[Engine]" = field(init=False, default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        for engine in self.engines:
            self._free.put(engine)

    @property
    def labels(self) -> list[str]:
        """The names of the K classes, in their order."""
        return self.settings.labels

    def predict(self, texts: Sequence[str], *, batch_size: int = 32, progress: bool = False) -> Floats:
        """Return the probabilities of the labels for raw tweets, (N, K)."""
        probabilities: Floats = self.outputs(texts, batch_size=batch_size, progress=progress)["probabilities"]
        return probabilities

    def outputs(self, texts: Sequence[str], *, batch_size: int = 32, progress: bool = False) -> Outputs:
        """Return what the model makes of raw tweets, (N,). Rows of like length share a batch; all engines are at work.

        Of each text: `probabilities`, (K,); `embedding`, (D,); `tokens` and, of them, `unknown`: how many. Raises
        UserError when one of these is no number.
        """
        encoded = self.tokenizer.encode_batch_fast(clean(texts, self.cleaning))
        tokens = [np.array(row.ids, np.int64) for row in encoded]
        order = sorted(range(len(tokens)), key=lambda number: -len(tokens[number]))
        result: Outputs = np.empty(len(tokens), self.dtype)
        result["tokens"] = [len(row) for row in tokens]
        result["unknown"] = [(row == self.settings.unknown).sum() for row in tokens]

        def compute(start: int) -> None:
            rows = order[start : start + batch_size]
            logits, embeddings = self._infer([tokens[number] for number in rows])
            result["probabilities"][rows] = softmax(logits.astype(np.float64))
            result["embedding"][rows] = embeddings

        starts = range(0, len(order), batch_size)
        with contextlib.ExitStack() as stack:
            several = min(len(self.engines), len(starts))
            done: Iterator[None] = (
                stack.enter_context(ThreadPool(several)).imap_unordered(compute, starts)
                if several > 1
                else map(compute, starts)
            )
            for _ in track(done, total=len(starts), desc="predict", unit="batches", disable=not progress):
                pass
        if not all(np.isfinite(result[name]).all() for name in ("probabilities", "embedding")):
            raise UserError("the model gives numbers that are not finite: its weights are damaged")
        return result

    def _infer(self, rows: Sequence[Ints]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return the logits, (B, K), and embeddings, (B, D), of B rows of tokens, the longest of which comes first."""
        longest, settings = len(rows[0]), self.settings
        engine = self._free.get()
        try:
            width = next((width for width in engine.single if width >= longest), None)
            if len(rows) == 1 and width:
                request = engine.single[width]
            else:
                request, width = engine.batches, min(-(-longest // STEP) * STEP, settings.max_length)
            outputs = request.infer(padded(rows, width, settings.pad))
            return outputs[0], outputs[1]
        finally:
            self._free.put(engine)


def padded(rows: Sequence[Ints], width: int, pad: int) -> dict[str, Ints]:
    """Return the inputs of the model for B rows of at most `width` tokens: ids and attention mask, both (B, width)."""
    mask = (np.arange(width) < np.array([len(row) for row in rows])[:, None]).astype(np.int64)
    ids = np.full(mask.shape, pad, np.int64)
    ids[mask == 1] = np.concatenate(rows)
    return {"input_ids": ids, "attention_mask": mask}


def softmax(logits: Floats) -> Floats:
    """Return the probabilities, (N, K), of logits (N, K)."""
    powers: Floats = np.exp(logits - logits.max(1, keepdims=True))
    powers /= powers.sum(1, keepdims=True)
    return powers


def remember(folder: Path, model: Exported, texts: Sequence[str]) -> None:
    """Write down what the model makes of some texts, for `load` to check on whichever machine it runs."""
    rows = zip(texts, model.predict(texts).tolist(), strict=True)
    files.write_json(folder / EXAMPLES, [{"text": text, "probabilities": row} for text, row in rows])


def seal(folder: Path) -> None:
    """Write down the SHA-256 of each file in the folder, for `load` to check."""
    files.write_json(folder / CHECKSUMS, {path.name: files.sha256(path) for path in sorted(folder.iterdir())})


def load(folder: Path, *, threads: int, single: bool = True) -> Exported:
    """Read a sealed folder. `single` is as in `read`.

    Raises UserError when a file is missing or is not the one that was exported, or the model computes something else
    here than where it was exported.
    """
    if not (folder / CHECKSUMS).is_file():
        raise UserError(f"{folder}: not an exported model: no {CHECKSUMS}; `dvc repro` or `dvc pull` gives one")
    for name, checksum in _checksums(folder / CHECKSUMS).items():
        if not (folder / name).is_file():
            raise UserError(f"{folder}: an incomplete model: no {name}; `dvc checkout` or `dvc pull` gives it")
        files.check_sha256(folder / name, checksum)
    examples = params.build(list[Example], files.read_json(folder / EXAMPLES), str(folder / EXAMPLES))
    model = read(folder, threads=threads, single=single)
    found = model.predict([example.text for example in examples])
    for row, example in zip(found, examples, strict=True):
        needed = example.probabilities
        if len(needed) != len(row) or not np.allclose(row, needed, rtol=0, atol=TOLERANCE):
            raise UserError(
                f"{folder}: here the model gives {row.round(3).tolist()}, needs {np.round(needed, 3).tolist()}"
            )
    return model


def _checksums(path: Path) -> dict[str, str]:
    """Return the checksum of each file. Raises UserError when they do not cover the files of a model."""
    content = files.read_json(path)
    if not isinstance(content, dict) or content.keys() != set(SEALED):
        raise UserError(f"{path}: not the checksums that export writes; it needs those of {', '.join(sorted(SEALED))}")
    return content


@functools.cache
def _core() -> "openvino.Core":
    """Return the one core of this process, which stays.

    It gives the thread that first compiles a model a stack for signals. Were it to end with a model, in another thread,
    that stack would be gone, and the next signal would end the process.
    """
    import openvino  # noqa: PLC0415  as long as all else that predicting one text from the command line imports

    return openvino.Core()


def read(folder: Path, *, threads: int, single: bool = True) -> Exported:
    """Read a folder as it is; without `single`, without the graphs for one text, which take half of the time to set up.

    Raises UserError when OpenVINO cannot load the model.
    """
    settings = params.build(ModelSettings, files.read_json(folder / SETTINGS), str(folder / SETTINGS))
    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # noqa: BLE001  the library raises nothing more specific
        raise UserError(f"{folder / TOKENIZER}: not a tokenizer: {one_line(error)[:200]}") from None
    tokenizer.enable_truncation(settings.max_length)
    tokenizer.no_padding()
    count = min(threads, ENGINES)
    config = {
        "INFERENCE_NUM_THREADS": threads // count,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # which would put all engines on the same cores
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": settings.group,
        "CPU_RUNTIME_CACHE_CAPACITY": KERNELS,
    }
    core = _core()
    try:
        model = core.read_model(folder / MODEL)
        size = model.output(EMBEDDING).partial_shape[1].get_length()
        classes = model.output(0).partial_shape[1].get_length()
        engines = [Engine(core.compile_model(model, "CPU", config).create_infer_request(), {}) for _ in range(count)]
        for width in sorted({min(width, settings.max_length) for width in SINGLE}) if single else []:
            model.reshape({"input_ids": [1, width], "attention_mask": [1, width]})
            for engine in engines:
                engine.single[width] = core.compile_model(model, "CPU", config).create_infer_request()
    except RuntimeError as error:
        raise UserError(f"{folder / MODEL}: OpenVINO cannot load it: {one_line(error)[:200]}") from None
    if classes != len(settings.labels):
        raise UserError(f"{folder / SETTINGS}: {len(settings.labels)} labels; the model needs {classes}")
    fields = [("probabilities", np.float64, len(settings.labels)), ("embedding", np.float32, size)]
    dtype = np.dtype([*fields, ("tokens", np.int32), ("unknown", np.int32)])
    return Exported(
        engines=tuple(engines),
        tokenizer=tokenizer,
        settings=settings,
        cleaning=cleaning.load(folder / CLEANING),
        dtype=dtype,
    )
