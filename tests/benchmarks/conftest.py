"""What the tests of the benchmarks share."""

import shutil
from pathlib import Path

import pytest

from tests.support.clones import ROOT


@pytest.fixture
def with_model(reproduced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a small model and a few tweets."""
    for name in ("models/onnx", "data/prepared"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copytree(reproduced / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path
