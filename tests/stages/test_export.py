"""The stage export: what it writes predicts as PyTorch does, and it refuses to write what does not."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pandas as pd
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from sklearn.metrics import accuracy_score, f1_score, log_loss
from transformers import BertConfig, PreTrainedModel

from stages import export
from tests.support.clones import ROOT, run
from tests.support.made_up import LABELS, set_param
from tweets import files
from tweets.errors import UserError
from tweets.evaluation import drift_statistics
from tweets.model import exported, transformer
from tweets.model.device import threads
from tweets.text import token_arrays

pytestmark = pytest.mark.xdist_group("export")  # they share an export

ONNX = Path("models/onnx")
Floats = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def written(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reproduced workspace in which export has run once more."""
    folder = shutil.copytree(reproduced, tmp_path_factory.mktemp("export") / "written")
    shutil.rmtree(folder / ONNX)
    (folder / "metrics/export.json").unlink()
    run(folder, "python", "-m", "stages.export")
    return folder


@pytest.fixture
def here(written: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That workspace as the current folder, to read only."""
    monkeypatch.chdir(written)
    return written


@pytest.fixture
def copy(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that workspace as the current folder, to change."""
    folder = shutil.copytree(written, tmp_path / "copy")
    set_param(folder, "train.precision", "fp32")  # to run export in this process
    monkeypatch.chdir(folder)
    return folder


def rows_of_test() -> pd.DataFrame:
    return pd.read_parquet("data/prepared/test.parquet")


def by_pytorch(texts: list[str]) -> Floats:
    with threads(1):
        return transformer.load(export.SOURCE, "cpu", "fp32").predict(texts)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_bytes_come_from_another_process(here: Path, reproduced: Path) -> None:
    assert contents(ONNX) == contents(reproduced / ONNX)
    assert Path("metrics/export.json").read_bytes() == (reproduced / "metrics/export.json").read_bytes()


def test_no_path_of_this_machine_is_in_it(here: Path) -> None:
    for name, content in contents(ONNX).items():
        for path in (str(ROOT), str(here), sys.prefix, "site-packages", ".py"):
            assert path.encode() not in content, (name, path)
    assert re.fullmatch(r"[\d.]+", onnx.load(ONNX / exported.MODEL).producer_version)  # and no build of PyTorch


def test_it_predicts_as_pytorch_does_temperature_included(here: Path) -> None:
    texts = rows_of_test()["raw"].tolist()
    expected, found = by_pytorch(texts), exported.load(ONNX, threads=1).predict(texts)
    assert np.abs(found - expected).max() < 0.02
    assert np.ptp(expected[:, 0]) > 0.2  # it says something


def test_it_reads_the_tokens_that_training_read(here: Path) -> None:
    loaded = exported.load(ONNX, threads=1)
    rows, tokens = rows_of_test(), token_arrays.load(Path("data/features/test"))
    texts = [*rows["text"], "word " * 1000]
    found = [row.ids for row in loaded.tokenizer.encode_batch_fast(texts)]
    assert found[:-1] == [tokens.row(number).tolist() for number in range(len(rows))]
    assert len(found[-1]) == loaded.settings.max_length == 32


def test_a_batch_does_not_change_what_a_text_gets(here: Path) -> None:
    loaded = exported.load(ONNX, threads=1)
    texts = [*rows_of_test()["raw"].head(20), "a", "word " * 40]
    alone = np.concatenate([loaded.predict([text]) for text in texts])
    for batch_size in (32, 3):  # but for rounding, which is that of bfloat16 where the processor has it
        assert np.abs(loaded.predict(texts, batch_size=batch_size) - alone).max() < 0.005


def test_an_embedding_is_the_mean_of_a_texts_vectors_halfway(here: Path) -> None:
    import torch

    texts = ["a great day", "awful", "the meeting is on tuesday in the long room"]
    found = exported.load(ONNX, threads=1).outputs(texts)
    whole = transformer.load(export.SOURCE, "cpu", "fp32")
    for text, row in zip(texts, found, strict=True):
        tokens = whole.tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            vectors = whole.model(**tokens, output_hidden_states=True).hidden_states
        assert len(vectors) == 3  # the tokens', and those of two layers
        np.testing.assert_allclose(row["embedding"], vectors[1][0].mean(0), atol=0.05)
        assert (row["tokens"], row["unknown"]) == (tokens["input_ids"].shape[1], 0)
    assert np.ptp(found["embedding"], axis=0).max() > 0.5
    assert exported.load(ONNX, threads=1).outputs(["𓀀 day"])["unknown"].tolist() == [1]


def test_the_reference_is_of_this_model_and_of_validation(here: Path) -> None:
    made = json.loads((ONNX / exported.REFERENCE).read_text())
    rows = pd.read_parquet("data/prepared/valid.parquet")["raw"].tolist()
    loaded = exported.load(ONNX, threads=1)
    seen = drift_statistics.describe(rows, loaded.outputs(rows))
    assert made["model"] == files.sha256(ONNX / exported.MODEL)
    assert made["window"] == len(rows) // 2
    assert made["sample"]["labels"] == pytest.approx(np.bincount(seen.labels, minlength=3) / len(rows), abs=1e-5)
    assert made["sample"]["length"][:: drift_statistics.QUANTILES - 1] == [seen.length.min(), seen.length.max()]
    assert set(made["thresholds"]) == set(drift_statistics.STATISTICS)


def test_the_metrics_are_those_of_the_test_split(here: Path) -> None:
    report, rows = json.loads(Path("metrics/export.json").read_text()), rows_of_test()
    truth = rows["label"].map(LABELS.index).to_numpy()
    int8 = exported.load(ONNX, threads=1).predict(rows["raw"].tolist())
    pytorch = by_pytorch(rows["raw"].tolist())
    for name, found in (("int8", int8), ("pytorch", pytorch)):
        assert report[name]["accuracy"] == pytest.approx(accuracy_score(truth, found.argmax(1)), rel=1e-4)
        assert report[name]["macro_f1"] == pytest.approx(f1_score(truth, found.argmax(1), average="macro"), rel=1e-4)
        # The report's int8 model is computed in float32, that one by this processor's int8 products.
        assert report[name]["log_loss"] == pytest.approx(log_loss(truth, found, labels=[0, 1, 2]), rel=1e-2)
    assert report["agreement"] == pytest.approx((int8.argmax(1) == pytorch.argmax(1)).mean())
    assert report["pytorch"]["macro_f1"] == json.loads(Path("metrics/evaluate.json").read_text())["macro_f1"]
    assert report["bytes"]["onnx_int8"] == (ONNX / exported.MODEL).stat().st_size < report["bytes"]["onnx_float32"] / 3


def test_the_card_travels_with_the_model(here: Path) -> None:
    card = json.loads((ONNX / exported.CARD).read_text())
    assert card["source"]["source"] == "csv"
    for name in ("evaluate", "prepare", "export"):
        assert card[name] == json.loads(Path(f"metrics/{name}.json").read_text())
    for name in ("confusion", "reliability"):
        assert card[name] == json.loads(Path(f"plots/evaluate/{name}.json").read_text())


def test_products_with_tokens_and_word_vectors_are_int8_and_the_head_is_not(here: Path) -> None:
    graph = onnx.load(ONNX / exported.MODEL).graph
    kind = {weight.name: weight.data_type for weight in graph.initializer}
    words = next(weight for weight in graph.initializer if weight.name.endswith("word_embeddings.weight"))
    assert words.dims[0] > 30_000
    made = {node.output[0]: kind[node.input[0]] for node in graph.node if node.op_type == "DequantizeLinear"}
    products = [made.get(node.input[1]) for node in graph.node if node.op_type == "MatMul"]
    assert products.count(TensorProto.INT8) == 2 * 6
    assert [made.get(node.input[0]) for node in graph.node if node.op_type == "Gather"].count(TensorProto.INT8) == 1
    heads = [node for node in graph.node if node.op_type == "Gemm"]
    assert heads
    assert {kind[node.input[1]] for node in heads} == {TensorProto.FLOAT}


def a_graph(weights: npt.NDArray[np.float32]) -> onnx.ModelProto:
    """Return a graph that multiplies by the same weights twice."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("MatMul", ["y", "w"], ["z"])]
    size = len(weights)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size]) for name in "xz"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(weights, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_each_output_has_its_own_scale() -> None:
    weights = np.array([[100, 0.001, 0], [-50, 0.002, 0], [1, -0.0005, 0]], np.float32)
    graph = a_graph(weights)
    classifier = torch.nn.Linear(3, 3, bias=False)
    classifier.weight.data = torch.from_numpy(weights.T.copy())
    export.quantise(graph, classifier)
    assert sum(node.op_type == "DequantizeLinear" for node in graph.graph.node) == 1  # for both products
    found = {weight.name: numpy_helper.to_array(weight) for weight in graph.graph.initializer}
    assert found["w"].dtype == np.int8
    restored = found["w"] * found["w.scale"]
    assert (np.abs(restored - weights) <= found["w.scale"] / 2 * 1.0001).all()
    assert (classifier.weight.detach().numpy() == restored.T).all()  # PyTorch computes with the same weights
    x = np.array([[1, 2, 3]], np.float32)
    [z] = ReferenceEvaluator(graph).run(None, {"x": x})
    assert z == pytest.approx(x @ restored @ restored, rel=1e-5)


@pytest.mark.parametrize(
    ("size", "inner", "group"), [(384, 1536, 384), (768, 3072, 384), (312, 1200, 24), (32, 64, 32)]
)
def test_the_values_that_share_a_scale_divide_all_products(size: int, inner: int, group: int) -> None:
    weights = [np.ones(shape, np.float32) for shape in ((size, inner), (inner, size), (size, 7))]
    nodes = [helper.make_node("MatMul", [f"x{n}", f"w{n}"], [f"x{n + 1}"]) for n in range(len(weights))]
    begin, end = (helper.make_tensor_value_info(*each) for each in (("x0", 1, [1, size]), ("x3", 1, [1, 7])))
    constants = [numpy_helper.from_array(weight, f"w{n}") for n, weight in enumerate(weights)]
    graph = helper.make_graph(nodes, "g", [begin], [end], constants)
    opset = helper.make_opsetid("", 20)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    assert export.quantise(model, torch.nn.Identity()) == group


SETTINGS = export.Export(
    macro_f1_tolerance=0.005,
    min_agreement=0.985,
    batch_size=32,
    threads=1,
    seed=0,
    axes_rows=100,
    window=50,
    false_alarms=0.005,
)


Models = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]


def two_models(rows: int, differing: int, *, right: float = 0.8, sure: float = 0.6, worse: int = 0) -> Models:
    """Return the truth of two classes, and the probabilities of two models of which `differing` rows differ.

    PyTorch has a share `right` of the rows right. Of the rows that differ, `worse` are those that it has right.
    """
    truth = np.arange(rows) % 2
    is_right = np.arange(rows) < right * rows
    torch_p = np.where((truth == is_right)[:, None], [[1 - sure, sure]], [[sure, 1 - sure]])
    int8_p = torch_p.copy()
    changed = [*range(worse), *range(rows - (differing - worse), rows)]
    int8_p[changed] = int8_p[changed][:, ::-1]
    return truth, torch_p, int8_p


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (
            two_models(5000, 60, worse=60),
            r"its macro-F1 is lower by 0\.0120 \[0\.00\d+, 0\.01\d+\], where 0\.005",
        ),
        (two_models(5000, 110, worse=55), r"it gives other labels to 110 of 5,000 test rows, where 1\.50% are allowed"),
        (
            two_models(300, 3, sure=0.95),
            r"other labels to 3 of 300 test rows to which PyTorch gives 0\.9 or more, ",
        ),
    ],
)
def test_a_model_that_is_worse_beyond_chance_fails(models: Models, message: str) -> None:
    with pytest.raises(UserError, match=f"^the int8 model is worse than PyTorch's, beyond chance: .*{message}"):
        export.check(*models, SETTINGS)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (two_models(784, 14, worse=5), "it gives other labels to 14 of 784 test rows, where 1.50% are allowed"),
        (two_models(200, 3, worse=3), "its macro-F1 is lower by 0.0150 ["),
        (two_models(300, 1, sure=0.95), "other labels to 1 of 300 test rows to which PyTorch gives 0.9 or more"),
    ],
)
def test_what_may_be_chance_is_a_warning(models: Models, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    export.check(*models, SETTINGS)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("export: warning: the int8 model, within chance: ")
    assert message in line


@pytest.mark.parametrize("models", [two_models(5000, 70, worse=35), two_models(5000, 70, worse=0), two_models(40, 0)])
def test_a_model_within_the_limits_or_better_passes(models: Models, capsys: pytest.CaptureFixture[str]) -> None:
    export.check(*models, SETTINGS)
    assert capsys.readouterr().err == ""


def test_the_tail_of_the_binomial_distribution() -> None:
    assert export.binomial_tail(1, 10, 0.1) == pytest.approx(1 - 0.9**10)
    assert export.binomial_tail(10, 10, 0.5) == pytest.approx(0.5**10)


def test_a_ruined_model_leaves_the_last_one_in_its_place(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ruin(graph: onnx.ModelProto, classifier: torch.nn.Module) -> int:
        for weight in graph.graph.initializer:
            if weight.data_type == TensorProto.FLOAT and len(weight.dims) == 2:
                weight.CopyFrom(numpy_helper.from_array(np.zeros(weight.dims, np.float32), weight.name))
        return 1

    before = contents(ONNX), Path("metrics/export.json").read_bytes()
    monkeypatch.setattr(export, "quantise", ruin)
    with pytest.raises(UserError, match=r"^the int8 model is worse than PyTorch's, beyond chance: "):
        export.main()
    assert (contents(ONNX), Path("metrics/export.json").read_bytes()) == before
    assert [path.name for path in Path("models").iterdir() if path.name.startswith(".onnx")] == []


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def of_other_rows(path: Path) -> None:
    np.save(path, np.ones((3, 3)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [(Path.unlink, "cannot be read: "), (cut, "cannot be read: "), (of_other_rows, r"is \(3, 3\), needs \(36, 3\)")],
)
def test_probabilities_that_evaluate_did_not_write_for_these_rows_are_refused(
    copy: Path, damage: Callable[[Path], object], message: str
) -> None:
    path = Path("data/test_probabilities.npy")
    damage(path)
    before = contents(ONNX)
    with pytest.raises(UserError, match=rf"data/test_probabilities\.npy: {message}.*; `dvc repro evaluate` writes it"):
        export.main()
    assert contents(ONNX) == before


class Undecided(PreTrainedModel):  # type: ignore[misc]
    """What it computes depends on what it reads: no graph can say that."""

    config_class = BertConfig

    def forward(self, input_ids: torch.Tensor, **_: torch.Tensor) -> torch.Tensor:
        return input_ids if int(input_ids.sum()) > 3 else -input_ids


def test_an_architecture_that_cannot_be_exported_is_named(here: Path) -> None:
    with pytest.raises(UserError, match="models/transformer: PyTorch cannot export it to ONNX: "):
        export.to_onnx(Undecided(BertConfig()))


def test_sealed_files_are_all_there_is(here: Path) -> None:
    sealed = files.read_json(ONNX / exported.CHECKSUMS)
    assert sealed == {name: files.sha256(ONNX / name) for name in contents(ONNX) if name != exported.CHECKSUMS}
    assert sealed.keys() == {
        "card.json",
        "cleaning.json",
        "examples.json",
        "model.onnx",
        "reference.json",
        "settings.json",
        "tokenizer.json",
    }
