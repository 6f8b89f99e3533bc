"""Loading an exported folder: what predicts needs no torch, and a folder that is not what was exported is refused."""

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.clones import ROOT
from tweets.errors import UserError
from tweets.model import exported

HEAVY = ("torch", "transformers", "pandas", "pyarrow", "sklearn", "scipy", "nltk", "simplemma")


@pytest.fixture
def folder(reproduced: Path, tmp_path: Path) -> Path:
    """A copy of an exported folder, to change."""
    return shutil.copytree(reproduced / "models/onnx", tmp_path / "onnx")


def test_it_needs_no_torch(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tweets.model import exported\n"
        f"print(exported.load(Path({str(folder)!r}), threads=1).predict(['great day']).shape)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["(1, 3)", "[]"]


@pytest.mark.parametrize(
    "text", ["", " ", "\u200b", "\x00\x1b[2J", "שלום עולם", "é" * 100_000, "a" * 100_000, "😀" * 999]
)
def test_any_text_gets_probabilities(folder: Path, text: str) -> None:
    [found] = exported.load(folder, threads=1).predict([text])
    assert found.sum() == pytest.approx(1)
    assert (found > 0).all()


def test_no_texts_get_none(folder: Path) -> None:
    assert exported.load(folder, threads=1).predict([]).shape == (0, 3)


SIGNALLED = """
import os, signal, sys, threading
from pathlib import Path
from tweets.model import exported

signal.signal(signal.SIGHUP, lambda *_: print("alive"))
models = [exported.load(Path(sys.argv[1]), threads=1)]
thread = threading.Thread(target=models.clear)
thread.start()
thread.join()
os.kill(os.getpid(), signal.SIGHUP)
"""


def test_a_model_that_ends_in_another_thread_leaves_signals_alone(folder: Path) -> None:
    """As after a reload, which SIGHUP asks for."""
    command = [sys.executable, "-c", SIGNALLED, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_engines_share_the_work_and_change_nothing(folder: Path) -> None:
    texts = [f"day {'great awful ' * (number % 9)}{number}" for number in range(70)]
    expected = exported.load(folder, threads=1).outputs(texts, batch_size=4)
    model = exported.load(folder, threads=2)
    with ThreadPoolExecutor(5) as clients:  # more of them than engines
        for found in clients.map(lambda _: model.outputs(texts, batch_size=4), range(10)):
            assert found.tobytes() == expected.tobytes()


def test_an_error_in_one_of_many_batches_is_raised(folder: Path) -> None:
    class Broken:
        def infer(self, _: Any) -> Any:
            raise RuntimeError("broken")

    model = exported.load(folder, threads=2)
    broken = dataclasses.replace(model, engines=(exported.Engine(Broken(), {}), *model.engines))
    for _ in range(3):  # an engine is free again after its error
        with pytest.raises(RuntimeError, match="broken"):
            broken.predict(["day"] * 70, batch_size=2)


def test_there_are_not_more_engines_than_memory_is_meant_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exported, "ENGINES", 2)
    model = exported.read(folder, threads=5, single=False)
    assert len(model.engines) == 2
    assert {engine.batches.get_compiled_model().get_property("INFERENCE_NUM_THREADS") for engine in model.engines} == {
        2
    }


def with_max_length(folder: Path, max_length: int) -> exported.Exported:
    settings = json.loads((folder / exported.SETTINGS).read_text())
    (folder / exported.SETTINGS).write_text(json.dumps({**settings, "max_length": max_length}))
    reseal(folder)
    return exported.load(folder, threads=1)


class Watched:
    """A graph that writes down the shapes it computes."""

    def __init__(self, request: Any) -> None:
        self.request = request
        self.shapes: list[tuple[int, ...]] = []

    def infer(self, inputs: dict[str, exported.Ints]) -> Any:
        assert inputs["input_ids"].shape == inputs["attention_mask"].shape
        self.shapes.append(inputs["input_ids"].shape)
        return self.request.infer(inputs)


@pytest.mark.parametrize(
    ("max_length", "words", "width"),
    [(64, 3, 8), (64, 6, 8), (64, 7, 16), (64, 62, 64), (64, 99, 64), (10, 5, 8), (10, 7, 10), (10, 99, 10)],
)
def test_batches_have_few_widths_and_none_beyond_the_model(
    folder: Path, max_length: int, words: int, width: int
) -> None:
    model = with_max_length(folder, max_length)
    watched = Watched(model.engines[0].batches)
    model = dataclasses.replace(model, engines=(exported.Engine(watched, {}),))
    model.predict(["day", "day " * words])  # and two tokens around them
    assert watched.shapes == [(2, width)]


@pytest.mark.parametrize(("max_length", "widths"), [(64, [32, 48]), (40, [32, 40]), (32, [32]), (10, [10])])
def test_a_text_on_its_own_has_graphs_of_a_fixed_shape(folder: Path, max_length: int, widths: list[int]) -> None:
    model = with_max_length(folder, max_length)
    [engine] = model.engines
    assert list(engine.single) == widths
    texts = ["day " * words for words in (1, 8, 30, 31, 46, 47, 99)]
    together = model.predict(texts)
    graphs = {width: Watched(request) for width, request in engine.single.items()}
    rest = Watched(engine.batches)
    watched = dataclasses.replace(model, engines=(exported.Engine(rest, graphs),))
    for text, expected in zip(texts, together, strict=True):
        assert np.abs(watched.predict([text]) - expected).max() < 0.005
    lengths = [min(len(text.split()) + 2, max_length) for text in texts]
    for width, graph in graphs.items():
        narrower = max((other for other in widths if other < width), default=0)
        assert graph.shapes == [(1, width)] * sum(narrower < length <= width for length in lengths)
    assert rest.shapes == [(1, 56), (1, 64)] * (max_length == 64)


def test_padded_fills_up_and_masks_what_it_filled() -> None:
    inputs = exported.padded([np.array([5, 6, 7]), np.array([8])], 4, 9)
    assert inputs["input_ids"].tolist() == [[5, 6, 7, 9], [8, 9, 9, 9]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]


def test_softmax_of_large_logits() -> None:
    assert exported.softmax(np.array([[1000.0, 1000.0], [-1000.0, 0.0]])).tolist() == [[0.5, 0.5], [0.0, 1.0]]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def tamper(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["card.json", "examples.json", "model.onnx", "settings.json", "tokenizer.json"])
@pytest.mark.parametrize(
    ("harm", "message"),
    [(Path.unlink, "an incomplete model: no {}"), (truncate, "{}: SHA-256 is"), (tamper, "{}: SHA-256 is")],
)
def test_a_harmed_file_is_named(folder: Path, name: str, harm: Callable[[Path], None], message: str) -> None:
    harm(folder / name)
    with pytest.raises(UserError, match=message.format(name)):
        exported.load(folder, threads=1)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model.onnx": "0", "../../secret": "0"}', "\x00"])
def test_checksums_that_export_did_not_write(folder: Path, content: str) -> None:
    (folder / exported.CHECKSUMS).write_text(content)
    with pytest.raises(UserError, match=r"checksums\.json: not"):
        exported.load(folder, threads=1)


def test_what_is_not_an_exported_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UserError, match=r"not an exported model: no checksums\.json; `dvc repro` or `dvc pull`"):
            exported.load(path, threads=1)


def reseal(folder: Path) -> None:
    (folder / exported.CHECKSUMS).unlink()
    exported.seal(folder)


def test_a_model_that_openvino_cannot_load(folder: Path) -> None:
    truncate(folder / exported.MODEL)
    reseal(folder)
    with pytest.raises(UserError, match=r"model\.onnx: OpenVINO cannot load it: "):
        exported.load(folder, threads=1)


def test_a_setting_of_another_version(folder: Path) -> None:
    settings = json.loads((folder / exported.SETTINGS).read_text())
    (folder / exported.SETTINGS).write_text(json.dumps({**settings, "window": 3}))
    reseal(folder)
    with pytest.raises(UserError, match=r"settings\.json\.window: unknown param"):
        exported.load(folder, threads=1)


def test_a_model_that_computes_something_else_here(folder: Path) -> None:
    examples = json.loads((folder / exported.EXAMPLES).read_text())
    examples[0]["probabilities"][0] += 0.06
    (folder / exported.EXAMPLES).write_text(json.dumps(examples))
    reseal(folder)
    with pytest.raises(UserError, match="here the model gives"):
        exported.load(folder, threads=1)
