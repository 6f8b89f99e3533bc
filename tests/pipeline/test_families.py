"""Encoders of other families than BERT's, from featurize to the service."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient
from transformers import AutoTokenizer

from serve import app
from serve.settings import ServiceSettings
from stages import baseline, evaluate, export, featurize
from tests.support import encoders
from tests.support.clones import ROOT, run
from tests.support.made_up import LABELS, set_param
from tweets import files
from tweets.data import tables
from tweets.model import transformer
from tweets.text import token_arrays


@pytest.fixture
def encoder(family: str, ready: Path) -> Path:
    """The workspace's encoder, of the family."""
    shutil.rmtree("data/features")
    encoders.write(family, ready / "encoder")
    set_param(ready, "featurize.encoder", "encoder")
    return ready / "encoder"


@pytest.mark.walk
@pytest.mark.parametrize("family", encoders.FAMILIES)
def test_an_encoder_of_another_family_goes_from_featurize_to_the_service(encoder: Path) -> None:
    featurize.main()
    rows = tables.read_parquet(Path("data/prepared/test.parquet"))
    found = token_arrays.load(Path("data/features/test"))
    expected = AutoTokenizer.from_pretrained(encoder)(rows["text"].tolist(), truncation=True, max_length=32)
    assert [found.row(number).tolist() for number in range(len(found))] == expected["input_ids"]
    set_param(encoder.parent, "train.epochs", 6)
    run(encoder.parent, "python", "-m", "stages.train", PYTHONPATH=str(ROOT))  # what ran here before would decide bits
    for stage in (baseline, evaluate, export):
        stage.main()
    assert files.read_json(Path("metrics/evaluate.json"))["macro_f1"] > 0.4  # a guess gets a third
    trained = transformer.load(Path("models/transformer"), "cpu", "fp32").predict(rows["raw"].tolist())
    with TestClient(
        app.create(ServiceSettings(model=Path("models/onnx"), threads=1))[1], base_url="http://127.0.0.1"
    ) as service:
        answer = service.post("/predict", json={"text": rows["raw"].tolist()}).json()
    served = np.array([[row["probabilities"][label] for label in LABELS] for row in answer["predictions"]])
    assert np.ptp(trained, axis=0).min() > 0.1  # the answers differ
    assert np.abs(served - trained).mean() < 0.02  # int8 against float32
