"""Print the README's table of results from metrics/.

python -m tools.results
"""

from pathlib import Path
from typing import Any

from tweets import errors, files

SCORES = {"macro_f1": "macro-F1", "accuracy": "accuracy", "macro_recall": "macro-recall"}


def table(report: dict[str, Any]) -> str:
    """Return a Markdown table of metrics/evaluate.json: each score of model and baseline with its 95 % interval."""
    lines = ["| test split | transformer | TF-IDF baseline | difference |", "|---|---|---|---|"]
    for name, title in SCORES.items():
        cells = [with_interval(report[part][name], report[part]["interval"][name]) for part in ("model", "baseline")]
        difference = report["model_minus_baseline"][name]
        cells.append(with_interval(difference["difference"], difference["interval"], sign="+"))
        lines.append(f"| {title} | {' | '.join(cells)} |")
    for name, title in (("log_loss", "log loss"), ("calibration_error", "calibration error")):
        model, baseline = report["model"][name], report["baseline"][name]
        lines.append(f"| {title} | {model:.3f} | {baseline:.3f} | {model - baseline:+.3f} |")
    return "\n".join(lines)


def with_interval(value: float, interval: list[float], sign: str = "") -> str:
    """Return a score and its interval with three decimals."""
    low, high = interval
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def main() -> None:
    report = files.read_json(Path("metrics/evaluate.json"))
    print(table(report))
    test, mcnemar = report["test"], report["model_minus_baseline"]["mcnemar"]
    print(
        f"\n{test['rows']:,} test tweets (SHA-256 of their ids: {test['ids_sha256'][:12]}…); in brackets 95 % bootstrap"
        f" intervals; McNemar's exact test of model against baseline: p = {mcnemar['p_value']:.0e}."
    )


if __name__ == "__main__":
    errors.run("results", main)
