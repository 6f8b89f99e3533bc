"""dvc.yaml names what the code reads: every module that a stage reaches, and every param of its section."""

import pytest
import yaml
from conftest import ROOT, STAGES

from tools import declared

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())


def test_each_stage_depends_on_all_code_that_it_reaches() -> None:
    for stage in STAGES:
        deps = {dep for dep in PIPELINE["stages"][stage]["deps"] if dep.endswith(".py")}
        assert deps == declared.code(stage, ROOT), stage


def test_each_stage_depends_on_the_pinned_libraries() -> None:
    for stage in STAGES:
        assert "requirements.txt" in PIPELINE["stages"][stage]["deps"], stage


def test_each_stage_declares_every_param_that_it_reads_and_no_other() -> None:
    for stage in STAGES:
        assert set(PIPELINE["stages"][stage]["params"]) == declared.params(stage), stage


def test_params_yaml_has_these_sections_only() -> None:
    assert sorted(yaml.safe_load((ROOT / "params.yaml").read_text())) == STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_no_dependency_lies_inside_the_output_of_a_stage(stage: str) -> None:
    """DVC misses that such a dependency is stale."""
    outs = {
        next(iter(out)) if isinstance(out, dict) else out
        for other in PIPELINE["stages"].values()
        for kind in ("outs", "metrics", "plots")
        for out in other.get(kind, [])
    }
    for dep in PIPELINE["stages"][stage]["deps"]:
        assert not any(dep.startswith(f"{out}/") for out in outs), dep


@pytest.mark.parametrize("stage", STAGES)
def test_metrics_and_plots_stay_in_git(stage: str) -> None:
    for kind in ("metrics", "plots"):
        for out in PIPELINE["stages"][stage].get(kind, []):
            assert next(iter(out.values()))["cache"] is False, out
