"""Export the trained model for serving: ONNX with int8 weights, its tokenizer and settings, checked against PyTorch.

    python -m stages.export

Reads data/prepared, models/transformer and data/test_probabilities.npy; for the model's card also data/raw,
plots/evaluate and the metrics of prepare and evaluate. Writes models/onnx and metrics/export.json. Fails when the
exported model scores lower than PyTorch on the test split, or gives other labels, by more than the params allow and
chance explains.

The weights of all products with tokens are int8, a scale for each output; so are the word vectors, a scale for each
word. The head stays in float32, and with it the temperature that calibrates it: it takes one vector of each text, which
costs nothing. See what it gains in `python -m benchmarks.predict`.
"""

import dataclasses
import logging
import math
import shutil
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import helper, numpy_helper
from packaging.version import Version
from pydantic import Field

from tweets import command, environment, files, orphan, params
from tweets.data import tables
from tweets.data.dataset import TEST, TRAIN, VALID
from tweets.errors import UserError, one_line
from tweets.evaluation import drift_statistics, metrics
from tweets.model import exported, portable, transformer
from tweets.model.device import threads
from tweets.model.portable import Precision

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SOURCE = Path("models/transformer")
EXAMPLES = ["What a wonderful day!", "Worst flight ever, never again", "The meeting is on Tuesday at ten 📅"]
WORD_VECTORS = 2**19  # values; a smaller table, as that of the positions, is not worth its rounding
RESAMPLES = 1000  # of the bootstrap that compares the two models
CHANCE = 0.01  # a probability below which a difference is not chance
SURE, SURE_DISAGREEMENT = 0.9, 0.001  # a probability of the trained model, and how often int8 may differ above it
GROUP = 384  # values of a token that may share a scale


@params.section
class Export:
    """Section `export` of params.yaml."""

    macro_f1_tolerance: (
        params.Share
    )  # by which int8 may score lower on the test split; more fails, where it is not chance
    min_agreement: params.Share  # of the test labels; less, but by chance, fails
    batch_size: params.BatchSize
    threads: params.Threads
    seed: params.Seed
    axes_rows: Annotated[int, Field(ge=2, le=1_000_000)]  # training rows, at most, that give the axes of embeddings
    window: Annotated[int, Field(ge=2, le=1_000_000)]  # texts that are looked at together for drift
    false_alarms: params.Share  # of windows without drift


class Graph(torch.nn.Module):
    """The classifier as ONNX takes it: two arrays (batch, tokens) in; logits, (batch, K), and embeddings out.

    An embedding, (batch, D), is the mean of a text's vectors halfway through the layers: what the head reads hardly
    depends on the order of words, what the first layer gives not at all, and drift may be there.
    """

    def __init__(self, classifier: "PreTrainedModel") -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = self.classifier(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True)
        vectors = output.hidden_states[len(output.hidden_states) // 2]  # (batch, tokens, D)
        mask = attention_mask[:, :, None].to(vectors.dtype)
        return output.logits, (vectors * mask).sum(1) / mask.sum(1)


def to_onnx(classifier: "PreTrainedModel") -> onnx.ModelProto:
    """Return the model as an ONNX graph for any number of texts of any length.

    Raises UserError for an architecture that PyTorch cannot export. `classifier` attends by its eager kernel from then.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, which has no part in this
    classifier.set_attn_implementation("eager")  # fewer operators than the fused kernel becomes
    ids, mask = (torch.ones(2, 7, dtype=torch.long) for _ in range(2))  # one tensor would become one input
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch's exporter about its own parts
            program = torch.onnx.export(
                Graph(classifier).eval(),
                (ids, mask),
                input_names=["input_ids", "attention_mask"],
                output_names=["logits", exported.EMBEDDING],
                dynamic_shapes={"input_ids": free, "attention_mask": free},
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # noqa: BLE001  whatever the tracing of a foreign architecture meets
        raise UserError(f"{SOURCE}: PyTorch cannot export it to ONNX: {one_line(error)[:300]}") from None
    assert program is not None  # noqa: S101  it is without a file to write to
    graph = program.model_proto
    for node in graph.graph.node:  # stack traces, with paths of this machine
        del node.metadata_props[:]
    graph.producer_version = Version(torch.__version__).public  # without the build, +cpu or CUDA's
    return graph


class InFloat32:
    """Stands where OpenVINO's request does: the exported weights, int8 ones included, computed with in float32.

    What a processor makes of int8 products differs. This does not, where PyTorch computes portably.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    @torch.inference_mode()
    def infer(self, inputs: dict[str, Ints]) -> list[npt.NDArray[np.float32]]:
        """Return the logits, (B, K), and the embeddings, (B, D), of a batch."""
        return [output.numpy() for output in self.graph(*(torch.from_numpy(array) for array in inputs.values()))]


def quantise(graph: onnx.ModelProto, classifier: "PreTrainedModel") -> int:
    """Turn the weights of the products with tokens, and the word vectors, into int8 with a scale, in place.

    A matrix product of 3 dimensions is a MatMul; the head, on (batch, size), is a Gemm and stays. The same weights of
    `classifier`, which the graph was made of, are rounded to what int8 stands for. Returns how many values of a token
    can share a scale in all products: the largest divisor of their sizes that is no more than GROUP.
    """
    weights = {weight.name: weight for weight in graph.graph.initializer}
    nodes = list(graph.graph.node)
    del graph.graph.node[:]
    done, sizes = set(), set()
    for node in nodes:
        place = {"MatMul": 1, "Gather": 0}.get(node.op_type)
        weight = None if place is None else weights.get(node.input[place])
        if weight is not None and place is not None:
            if weight.name not in done and _worth_it(node.op_type, weight):
                graph.graph.node.append(_to_int8(graph, weight, classifier, axis=place))
                done.add(weight.name)
                if node.op_type == "MatMul":
                    sizes.add(weight.dims[0])
            if weight.name in done:
                node.input[place] = f"{weight.name}.float"
        graph.graph.node.append(node)
    onnx.checker.check_model(graph)
    return max(group for group in range(1, GROUP + 1) if math.gcd(*sizes) % group == 0)


def _worth_it(operator: str, weight: onnx.TensorProto) -> bool:
    is_matrix = len(weight.dims) == 2 and weight.data_type == onnx.TensorProto.FLOAT
    return is_matrix and (operator == "MatMul" or weight.dims[0] * weight.dims[1] >= WORD_VECTORS)


def _to_int8(
    graph: onnx.ModelProto, weight: onnx.TensorProto, classifier: "PreTrainedModel", axis: int
) -> onnx.NodeProto:
    """Put int8 in place of a weight, with a scale for each index of `axis`; return the node that undoes it."""
    values = numpy_helper.to_array(weight)
    scale = np.abs(values).max(1 - axis, keepdims=True) / np.float32(127)
    scale[scale == 0] = 1
    rounded = np.round(values / scale)
    weight.CopyFrom(numpy_helper.from_array(rounded.astype(np.int8), weight.name))
    _replace(classifier, values, rounded * scale)
    graph.graph.initializer.append(numpy_helper.from_array(scale.ravel(), f"{weight.name}.scale"))
    return helper.make_node(
        "DequantizeLinear", [weight.name, f"{weight.name}.scale"], [f"{weight.name}.float"], axis=axis
    )


def _replace(classifier: "PreTrainedModel", old: npt.NDArray[np.float32], new: npt.NDArray[np.float32]) -> None:
    """Put `new` in place of each weight that is `old`, as it is or transposed, as a linear layer keeps it."""
    with torch.no_grad():
        for parameter in classifier.parameters():
            for before, after in ((old, new), (old.T, new.T)):
                if parameter.shape == before.shape and np.array_equal(parameter.numpy(), before):
                    parameter.copy_(torch.from_numpy(after))
                    break


def write(folder: Path, classifier: transformer.Classifier) -> dict[str, int]:
    """Write what predicts into a new folder. Return the bytes of the model in each form.

    The weights of `classifier` are those that were written from then: rounded, where they are int8.
    Raises UserError for an architecture that PyTorch cannot export.
    """
    folder.mkdir()
    graph = to_onnx(classifier.model)
    sizes = {"pytorch": (SOURCE / "model.safetensors").stat().st_size, "onnx_float32": graph.ByteSize()}
    group = quantise(graph, classifier.model)
    onnx.save(graph, folder / exported.MODEL)
    shutil.copy(SOURCE / "tokenizer.json", folder / exported.TOKENIZER)
    shutil.copy(SOURCE / transformer.CLEANING, folder / exported.CLEANING)
    settings = {
        "labels": classifier.labels,
        "max_length": classifier.max_length,
        "pad": classifier.tokenizer.pad_token_id,
        "unknown": classifier.tokenizer.unk_token_id,
        "group": group,
    }
    files.write_json(folder / exported.SETTINGS, settings)
    return {**sizes, "onnx_int8": (folder / exported.MODEL).stat().st_size}


def card(report: dict[str, Any]) -> dict[str, Any]:
    """Return what a reader of the model's card is told: its data, how it was scored, and what the export changed."""
    plots = Path("plots/evaluate")
    return {
        "source": files.read_json(Path("data/raw") / "source.json"),
        "prepare": files.read_json(Path("metrics/prepare.json")),
        "evaluate": files.read_json(Path("metrics/evaluate.json")),
        "slices": files.read_json(Path("metrics/slices.json"))["slices"],
        "confusion": files.read_json(plots / "confusion.json"),
        "reliability": files.read_json(plots / "reliability.json"),
        "export": report,
        "metrics": [{"name": metric.name, "title": metric.title} for metric in metrics.METRICS],
    }


def test_probabilities(rows: int, labels: int) -> Floats:
    """Return the probabilities that the trained model gave the test rows, (N, K), as evaluate wrote them.

    Raises UserError when they are missing, or are not those of these rows.
    """
    path = Path("data/test_probabilities.npy")
    try:
        probabilities: Floats = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read: {one_line(error)}; `dvc repro evaluate` writes it") from None
    if probabilities.shape != (rows, labels):
        raise UserError(f"{path}: is {probabilities.shape}, needs {(rows, labels)}; `dvc repro evaluate` writes it")
    if not np.isfinite(probabilities).all():
        raise UserError(f"{path}: holds what is no number; `dvc repro evaluate` writes it")
    return probabilities


def compare(truth: Ints, torch_p: Floats, int8_p: Floats) -> dict[str, Any]:
    """Return the scores of both models, and the share of the rows to which they give the same label."""
    agreement = float(np.mean(torch_p.argmax(1) == int8_p.argmax(1)))
    scores = {"pytorch": metrics.headline(truth, torch_p), "int8": metrics.headline(truth, int8_p)}
    return {**scores, "agreement": agreement}


def reference(model: exported.Exported, sha256: str, settings: Export) -> drift_statistics.Reference:
    """Return what drift is measured against, from training and validation rows."""
    training, validation = (
        tables.read_parquet(Path(f"data/prepared/{split}.parquet"))["raw"] for split in (TRAIN, VALID)
    )
    training = training.sample(min(settings.axes_rows, len(training)), random_state=settings.seed)
    seen = [
        drift_statistics.describe(texts, model.outputs(texts, batch_size=settings.batch_size, progress=True))
        for texts in (training.tolist(), validation.tolist())
    ]
    return drift_statistics.reference(
        *seen,
        model=sha256,
        classes=len(model.settings.labels),
        window=settings.window,
        false_alarms=settings.false_alarms,
        seed=settings.seed,
    )


def check(truth: Ints, torch_p: Floats, int8_p: Floats, settings: Export) -> None:
    """Raise UserError when the exported model is worse than the trained one by more than chance explains.

    It is worse when its macro-F1 is lower by more than the tolerance and a paired bootstrap interval excludes zero. It
    is also worse when exact binomial tests reject that it gives other labels at the allowed rate: to all rows, or to
    those of which the trained model was sure. What exceeds a limit and may be chance is a warning.
    """
    _, _, difference = metrics.compare(truth, int8_p, torch_p, resamples=RESAMPLES, seed=settings.seed)
    change, (low, high) = difference["macro_f1"]["difference"], difference["macro_f1"]["interval"]
    faults: list[str] = []
    warnings_: list[str] = []
    if change < -settings.macro_f1_tolerance:
        (faults if high < 0 else warnings_).append(
            f"its macro-F1 is lower by {-change:.4f} [{-high:.4f}, {-low:.4f}], where"
            f" {settings.macro_f1_tolerance:g} is allowed (export.macro_f1_tolerance)"
        )
    other, sure = torch_p.argmax(1) != int8_p.argmax(1), torch_p.max(1) >= SURE
    for which, rows, allowed, param in (
        ("test rows", np.ones(len(truth), bool), 1 - settings.min_agreement, "export.min_agreement"),
        (f"test rows to which PyTorch gives {SURE} or more", sure, SURE_DISAGREEMENT, "not a param"),
    ):
        differing, total = int((other & rows).sum()), int(rows.sum())
        if differing > allowed * total:
            (faults if binomial_tail(differing, total, allowed) < CHANCE else warnings_).append(
                f"it gives other labels to {differing} of {total:,} {which}, where {allowed:.2%} are allowed ({param})"
            )
    if faults:
        raise UserError(f"the int8 model is worse than PyTorch's, beyond chance: {'; '.join(faults)}")
    if warnings_:
        sys.stderr.write(f"export: warning: the int8 model, within chance: {'; '.join(warnings_)}\n")


def binomial_tail(successes: int, tries: int, share: float) -> float:
    """Return the probability of so many successes or more in independent tries, each with probability `share`."""
    from scipy.stats import binom  # noqa: PLC0415  slow, and few exports have anything to test

    return float(binom.sf(successes - 1, tries, share))


def main() -> None:
    environment.check()
    orphan.end_with_parent()
    settings = params.load("export", Export)
    if params.value("train.precision", Precision) == "portable":
        portable.use()
    rows = tables.read_parquet(Path(f"data/prepared/{TEST}.parquet"))
    classifier = transformer.load(SOURCE, "cpu", "fp32")
    truth = rows["label"].map(classifier.labels.index).to_numpy(np.int64)
    texts = rows["raw"].tolist()
    torch_p = test_probabilities(len(rows), len(classifier.labels))
    with files.replacing(Path("models/onnx")) as folder, threads(settings.threads):
        sizes = write(folder, classifier)
        int8 = exported.read(folder, threads=settings.threads)
        int8_p = int8.predict(texts, batch_size=settings.batch_size, progress=True)
        check(truth, torch_p, int8_p, settings)
        model = dataclasses.replace(int8, engines=(exported.Engine(InFloat32(Graph(classifier.model)), {}),))
        model_p = model.predict(texts, batch_size=settings.batch_size, progress=True)
        report = {**compare(truth, torch_p, model_p), "bytes": sizes}
        exported.remember(folder, model, EXAMPLES)
        made = reference(model, files.sha256(folder / exported.MODEL), settings)
        files.write_json(folder / exported.REFERENCE, dataclasses.asdict(made))
        files.write_json(folder / exported.CARD, card(report))
        exported.seal(folder)
    files.write_json(Path("metrics/export.json"), report)
    here = compare(truth, torch_p, int8_p)
    print(
        f"export: int8 macro-F1 {report['int8']['macro_f1']:.4f}, PyTorch {report['pytorch']['macro_f1']:.4f};"
        f" {report['agreement']:.2%} of the labels are the same;"
        f" {sizes['onnx_int8'] / 1e6:.1f} MB, PyTorch {sizes['pytorch'] / 1e6:.1f} MB\n"
        f"export: with this processor's int8 products: macro-F1 {here['int8']['macro_f1']:.4f},"
        f" {here['agreement']:.2%} of the labels are the same"
    )


if __name__ == "__main__":
    command.run("export", main, __doc__)
