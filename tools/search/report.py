"""What a search found: a table for the terminal, and a page of plots that opens without a network."""

import html
import textwrap
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import vl_convert
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from tweets import files

TRIALS_FOR_IMPORTANCES = 10  # complete ones; with fewer, importances are noise
STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "stopped", TrialState.FAIL: "failed"}  # best first
SCORE = "validation macro-F1"
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
th, td {{ padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #ddd }}
.wide {{ overflow-x: auto }}
th, td {{ white-space: nowrap }}
svg {{ max-width: 100%; height: auto; overflow: visible }}
</style>
<h1>{title}</h1>
{body}
</html>
"""


def assignments(trial: FrozenTrial) -> str:
    """Return a trial's params on one line."""
    return " ".join(f"{name}={short(value)}" for name, value in trial.params.items())


def short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def outcome(trial: FrozenTrial) -> str:
    """Return a trial's score, or why it has none."""
    if trial.state == TrialState.COMPLETE:
        return f"macro-F1 {trial.value:.4f}"
    if trial.state == TrialState.PRUNED:
        return f"stopped at evaluation {trial.last_step} with macro-F1 {last_score(trial):.4f}"
    return f"failed: {trial.user_attrs['error']}"


def last_score(trial: FrozenTrial) -> float | None:
    """Return the score of a complete trial, and of another one that of its last evaluation, if it had one."""
    return trial.value if trial.value is not None else trial.intermediate_values.get(trial.last_step or 0)


def duration(trial: FrozenTrial) -> str:
    return f"{trial.duration.total_seconds():.0f} s" if trial.duration else ""


def ranked(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials with the best first: the complete, then the stopped, then the failed."""
    return sorted(trials, key=lambda trial: (list(STATES).index(trial.state), -(last_score(trial) or 0), trial.number))


def frame(study: optuna.Study, trials: list[FrozenTrial]) -> pd.DataFrame:
    """Return the table of trials, all of it text."""
    rows = []
    for rank, trial in enumerate(ranked(trials), 1):
        score = last_score(trial)
        rows.append(
            {
                "rank": str(rank) if trial.state == TrialState.COMPLETE else "",
                "experiment": f"{study.study_name}-{trial.number}",
                **{name: short(value) for name, value in trial.params.items()},
                "macro-F1": "" if score is None else f"{score:.4f}",
                "time": duration(trial),
                "state": state_of(trial),
            }
        )
    return pd.DataFrame(rows)


def state_of(trial: FrozenTrial) -> str:
    """Return what the table says of how a trial ended."""
    if trial.state == TrialState.PRUNED:
        return f"stopped at evaluation {trial.last_step}"
    return "complete" if trial.state == TrialState.COMPLETE else textwrap.shorten(outcome(trial), 60)


def table(study: optuna.Study, trials: list[FrozenTrial]) -> str:
    """Return the table of trials for a terminal."""
    return frame(study, trials).to_string(index=False)


def write_page(path: Path, study: optuna.Study, trials: list[FrozenTrial]) -> None:
    """Write the table and the plots as one HTML page that refers to nothing outside of it."""
    parts = []
    for title, spec in charts(study, trials).items():
        svg = vl_convert.vegalite_to_svg({**spec, "config": {"axis": {"labelOverlap": True}}})
        parts.append(f"<h2>{html.escape(title)}</h2>\n{svg}")
    rows = frame(study, trials).to_html(index=False, border=0)
    title = f"Search: {study.study_name}"
    with files.replacing(path) as staged:
        body = "\n".join([*parts, f'<h2>Trials</h2>\n<div class="wide">{rows}</div>'])
        staged.write_text(PAGE.format(title=html.escape(title), body=body), encoding="utf-8")


def charts(study: optuna.Study, trials: list[FrozenTrial]) -> dict[str, dict[str, Any]]:
    """Return the Vega-Lite spec of each plot that the trials allow, by its title."""
    points = [
        {**trial.params, "trial": trial.number, "score": last_score(trial), "state": STATES[trial.state]}
        for trial in trials
        if last_score(trial) is not None
    ]
    if not points:
        return {}
    specs = {"Score of each trial, and the best so far": history(points)}
    specs["Score against each param"] = against_params(points, trials)
    if sum(trial.state == TrialState.COMPLETE for trial in trials) >= TRIALS_FOR_IMPORTANCES:
        specs["Importance of each param"] = importances(study)
    specs["Learning curves"] = learning_curves(trials)
    return specs


def number_axis(title: str, **more: Any) -> dict[str, Any]:
    return {"type": "quantitative", "title": title, "scale": {"zero": False, **more}}


def coloured() -> dict[str, Any]:
    return {
        "field": "state",
        "type": "nominal",
        "title": None,
        "scale": {"domain": list(STATES.values()), "range": ["#2b6cb0", "#d69e2e", "#c53030"]},
    }


def history(points: list[dict[str, Any]]) -> dict[str, Any]:
    x = {"field": "trial", **number_axis("trial"), "axis": {"tickMinStep": 1, "format": "d"}}
    best: list[dict[str, Any]] = []
    for point in sorted(points, key=lambda point: point["trial"]):
        if point["state"] == "complete":
            best.append({"trial": point["trial"], "best": max(point["score"], best[-1]["best"] if best else 0.0)})
    return {
        "width": 640,
        "height": 240,
        "layer": [
            {
                "data": {"values": best},
                "mark": {"type": "line", "interpolate": "step-after", "color": "#a0aec0"},
                "encoding": {"x": x, "y": {"field": "best", **number_axis(SCORE)}},
            },
            {
                "data": {"values": points},
                "mark": {"type": "point", "filled": True, "size": 50},
                "encoding": {"x": x, "y": {"field": "score", **number_axis(SCORE)}, "color": coloured()},
            },
        ],
    }


def against_params(points: list[dict[str, Any]], trials: list[FrozenTrial]) -> dict[str, Any]:
    plots = []
    for name, distribution in trials[0].distributions.items():
        if isinstance(distribution, CategoricalDistribution):
            x: dict[str, Any] = {"type": "ordinal", "title": name, "sort": None, "axis": {"labelAngle": 0}}
            x["scale"] = {"domain": [str(choice) for choice in distribution.choices]}
        else:
            low, high, log = (getattr(distribution, name) for name in ("low", "high", "log"))
            x = number_axis(name, domain=[low, high], nice=False, type="log" if log else "linear")
            x["axis"] = {"tickCount": 5, "format": "~g"}
        values = [
            {"x": str(p[name]) if "sort" in x else p[name], "score": p["score"], "state": p["state"]} for p in points
        ]
        plots.append(
            {
                "width": 260,
                "height": 180,
                "data": {"values": values},
                "mark": {"type": "point", "filled": True, "size": 50},
                "encoding": {
                    "x": {"field": "x", **x},
                    "y": {"field": "score", **number_axis(SCORE)},
                    "color": coloured(),
                },
            }
        )
    return {"concat": plots, "columns": 3}


def importances(study: optuna.Study) -> dict[str, Any]:
    param_importances = optuna.importance.get_param_importances(study)
    return {
        "width": 420,
        "height": {"step": 28},
        "data": {"values": [{"param": name, "importance": value} for name, value in param_importances.items()]},
        "mark": "bar",
        "encoding": {
            "y": {"field": "param", "type": "nominal", "sort": "-x", "title": None},
            "x": {
                "field": "importance",
                "type": "quantitative",
                "title": "share of the variance among the best trials",
            },
        },
    }


def learning_curves(trials: list[FrozenTrial]) -> dict[str, Any]:
    values = [
        {"trial": trial.number, "state": STATES[trial.state], "evaluation": evaluation, "score": score}
        for trial in ranked(trials)  # the stopped ones last, to lie on top
        for evaluation, score in trial.intermediate_values.items()
    ]
    return {
        "width": 640,
        "height": 280,
        "data": {"values": values},
        "mark": {"type": "line", "point": True, "strokeWidth": 1.2},
        "encoding": {
            "x": {"field": "evaluation", **number_axis("evaluation"), "axis": {"tickMinStep": 1, "format": "d"}},
            "y": {"field": "score", **number_axis(SCORE)},
            "color": coloured(),
            "detail": {"field": "trial"},
        },
    }
