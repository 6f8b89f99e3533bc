"""Print the README's table of results from metrics/.

python -m tools.results
"""

from pathlib import Path
from typing import Any

from tweets import errors, files

SCORES = {"macro_f1": "macro-F1", "accuracy": "accuracy", "macro_recall": "macro-recall"}


def rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return each score of metrics/evaluate.json: its title, of the transformer, of the baseline, their difference.

    Those with a 95 % interval have it in brackets.
    """
    model, baseline = report["models"]
    differences = {found["score"]: found for found in report["transformer_minus_baseline"]}
    found = []
    for name, title in SCORES.items():
        both = [with_interval(scores[name], scores["intervals"][name]) for scores in (model, baseline)]
        found.append((title, *both, with_interval(differences[name]["difference"], differences[name]["interval"], "+")))
    for name, title in (("log_loss", "log loss"), ("calibration_error", "calibration error")):
        found.append((title, f"{model[name]:.3f}", f"{baseline[name]:.3f}", f"{model[name] - baseline[name]:+.3f}"))
    return found


def table(report: dict[str, Any]) -> str:
    """Return a Markdown table of metrics/evaluate.json: each score of both models, with its 95 % interval."""
    lines = ["| test split | transformer | TF-IDF baseline | difference |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows(report))])


def explanation(report: dict[str, Any]) -> str:
    """Return what the table rests on: the test tweets, the intervals, and the test of the two models."""
    [mcnemar] = report["paired_tests"]
    return (
        f"{report['rows']:,} test tweets (hash of their ids: {report['test_ids']}); in brackets 95 % bootstrap"
        f" intervals; McNemar's exact test of the two: p = {mcnemar['p_value']:.0e}."
    )


def with_interval(value: float, interval: list[float], sign: str = "") -> str:
    """Return a score and its interval with three decimals."""
    low, high = interval
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def main() -> None:
    report = files.read_json(Path("metrics/evaluate.json"))
    print(f"{table(report)}\n\n{explanation(report)}")


if __name__ == "__main__":
    errors.run("results", main)
