"""The log of the ideas that were tried: its table, and the page that shows it."""

from pathlib import Path

import pytest
import yaml

from tests.support.clones import ROOT
from tools import tried
from tweets.errors import UserError

GROUP = {
    "title": "Heads",
    "about": "All with two epochs.",
    "ideas": [
        {"idea": "base", "kept": "yes", "runs": [{"seed": 0, "macro_f1": 0.8, "log_loss": 0.5, "seconds": 100}]},
        {
            "idea": "more",
            "options": "lr=1e-3",
            "kept": "no",
            "runs": [
                {"seed": 0, "macro_f1": 0.79, "log_loss": 0.4, "seconds": 250},
                {"seed": 1, "macro_f1": 0.81, "log_loss": 0.6, "seconds": 150},
            ],
        },
    ],
}


def test_the_table_has_means_deviations_and_the_cost_against_the_first_idea() -> None:
    assert tried.table([GROUP]).splitlines() == [
        "### Heads",
        "",
        "All with two epochs.",
        "",
        "| idea | validation macro-F1 | log loss | seeds | cost | kept |",
        "|---|---|---|---|---|---|",
        "| base | 0.8000 | 0.5000 | 1 | 1.00 | yes |",
        "| more: `lr=1e-3` | 0.8000 ± 0.0141 | 0.5000 ± 0.1414 | 2 | 2.00 | no |",
    ]


@pytest.mark.parametrize("content", ["- title: A\n", "{", "5"])
def test_what_is_no_log_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.chdir(tmp_path)
    tried.LOG.parent.mkdir()
    tried.LOG.write_text(content)
    with pytest.raises(UserError, match=r"^experiments/tried\.yaml: not (a log of ideas|valid YAML): "):
        tried.main()


def test_the_page_shows_the_log(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    tried.main()
    assert capsys.readouterr().out.strip() in Path("experiments/README.md").read_text()


def test_an_idea_has_one_run_for_each_seed() -> None:
    for group in yaml.safe_load((ROOT / tried.LOG).read_text()):
        for idea in group["ideas"]:
            seeds = [run["seed"] for run in idea["runs"]]
            assert sorted(set(seeds)) == sorted(seeds)
