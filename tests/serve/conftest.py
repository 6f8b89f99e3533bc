"""What the tests of the service share."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def folder(reproduced: Path, tmp_path: Path) -> Path:
    """A copy of an exported folder, to change."""
    return shutil.copytree(reproduced / "models/onnx", tmp_path / "onnx")
