"""What is in Git: the results meet the bars that the project set, and README says what metrics/ says."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from tools import results


@pytest.fixture
def report() -> Any:
    return json.loads((ROOT / "metrics/evaluate.json").read_text())


def test_the_transformer_is_good_enough(report: Any) -> None:
    assert report["model"]["macro_f1"] >= 0.78


def test_the_baseline_is_no_straw_man(report: Any) -> None:
    assert report["baseline"]["macro_f1"] >= 0.73


def test_the_transformer_beats_the_baseline_clearly(report: Any) -> None:
    assert report["model_minus_baseline"]["macro_f1"]["difference"] >= 0.04
    assert report["model_minus_baseline"]["macro_f1"]["interval"][0] > 0


def test_the_scored_rows_are_the_prepared_ones(report: Any) -> None:
    prepared = json.loads((ROOT / "metrics/prepare.json").read_text())
    assert report["test"]["ids_sha256"] == prepared["test_ids_sha256"]
    assert report["test"]["rows"] == prepared["splits"]["test"]["rows"]


def test_readme_shows_these_results(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    results.main()
    assert capsys.readouterr().out.strip() in Path("README.md").read_text()
