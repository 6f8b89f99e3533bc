"""Print the README's table of results from metrics/.

python -m tools.results
"""

from pathlib import Path
from typing import Any

from tweets import errors, files

SCORES = {"macro_f1": "macro-F1", "accuracy": "accuracy", "macro_recall": "macro-recall"}


def table(report: dict[str, Any]) -> str:
    """Return a Markdown table of metrics/evaluate.json: each score of both models, with its 95 % interval."""
    model, baseline = report["models"]
    differences = {found["score"]: found for found in report["transformer_minus_baseline"]}
    lines = ["| test split | transformer | TF-IDF baseline | difference |", "|---|---|---|---|"]
    for name, title in SCORES.items():
        cells = [with_interval(found[name], found["intervals"][name]) for found in (model, baseline)]
        cells.append(with_interval(differences[name]["difference"], differences[name]["interval"], sign="+"))
        lines.append(f"| {title} | {' | '.join(cells)} |")
    for name, title in (("log_loss", "log loss"), ("calibration_error", "calibration error")):
        lines.append(f"| {title} | {model[name]:.3f} | {baseline[name]:.3f} | {model[name] - baseline[name]:+.3f} |")
    return "\n".join(lines)


def with_interval(value: float, interval: list[float], sign: str = "") -> str:
    """Return a score and its interval with three decimals."""
    low, high = interval
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def main() -> None:
    report = files.read_json(Path("metrics/evaluate.json"))
    print(table(report))
    [mcnemar] = report["paired_tests"]
    print(
        f"\n{report['rows']:,} test tweets (hash of their ids: {report['test_ids']}); in brackets 95 % bootstrap"
        f" intervals; McNemar's exact test of the two: p = {mcnemar['p_value']:.0e}."
    )


if __name__ == "__main__":
    errors.run("results", main)
