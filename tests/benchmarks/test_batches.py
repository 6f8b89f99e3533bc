"""The benchmark of batches: each way gives the right answers, and has its figures."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import batches
from tweets.data import tables

pytestmark = pytest.mark.walk


@pytest.fixture
def small(with_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    changed = {"SECONDS": 0.2, "ROUNDS": 1, "LIST": 20, "CLIENTS": 4, "ALONE": 3, "FEW_A_SECOND": 30, "MOST": 0.05}
    for name, value in changed.items():
        monkeypatch.setattr(batches, name, value)
    return with_model


@pytest.mark.parametrize("name", batches.WAYS)
def test_each_way_gives_the_same_answers(small: Path, name: str) -> None:
    texts = tables.read_parquet(batches.TWEETS)["raw"].tolist()[:30]
    way = batches.WAYS[name]
    model = batches.served(way.engines)

    async def ask() -> list[np.ndarray]:
        async with batches.Bench(way, model, texts).batcher() as batcher:
            single = (batcher.predict(model, [text]) for text in texts[:10])
            found = await asyncio.gather(batcher.predict(model, texts), *single)
            assert batcher.waiting == 0
        return [each["probabilities"] for each in found]

    together, *single = asyncio.run(ask())
    expected = model.model.predict(texts)
    assert np.abs(together - expected).max() < 0.005
    assert np.abs(np.concatenate(single) - expected[:10]).max() < 0.005


def test_each_way_has_its_figures(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batches.main()
    report = json.loads(batches.RESULT.read_text())
    assert set(report["ways"]) == set(batches.WAYS)
    figures = {"lists", "clients", "half", "most", "beside lists", "alone"}
    for found in report["ways"].values():
        assert set(found) == figures
        assert all(len(values) == 1 and values[0] > 0 for values in found.values())
    printed = capsys.readouterr().out
    assert [line.split(" | ")[0].removeprefix("| ") for line in printed.splitlines()[2:]] == list(batches.WAYS)
