"""Tell "reproduced" from "different": compare this tree's results with the committed ones.

    python -m tools.compare

Tells for each output whether it has the same bytes, and from which step on the trained weights differ. With
`train.precision: portable` all bytes should be the same on any x86-64 processor. In another precision training rounds
by processor: then the data that is trained on must still be the same, byte for byte, and the scores must lie within
TOLERANCES. Exits with 1 when they do not.
"""

import json
import sys
from pathlib import Path
from typing import Any

from repository.git import attempt
from tweets import command, files
from tweets.errors import UserError
from tweets.evaluation.metrics import METRICS

TOLERANCE = {metric.name: metric.tolerance for metric in METRICS}
SAME_EVERYWHERE = ("fetch", "prepare", "featurize")
OF_THE_BASELINE = 0.001  # any score of it: its training is convex, so rounding hardly moves it
TOLERANCES = {
    "metrics/evaluate.json": {metric.name: metric.tolerance for metric in METRICS}
    | {"baseline_macro_f1": OF_THE_BASELINE},
    "metrics/baseline.json": {
        f"baseline_valid.{name}": OF_THE_BASELINE for name in ("accuracy", "macro_f1", "log_loss")
    },
    "metrics/train.json": {
        "valid.accuracy": TOLERANCE["accuracy"],
        "valid.macro_f1": TOLERANCE["macro_f1"],
        "valid.loss": TOLERANCE["log_loss"],
    },
}


def committed(path: str) -> str:
    """Return the content of a file at HEAD. Raises UserError when it is not in Git."""
    shown = attempt("show", f"HEAD:{path}")
    if shown.returncode:
        raise UserError(f"{path}: not in Git at HEAD, so there is nothing to compare with")
    return shown.stdout


def hashes(lock: str) -> dict[str, dict[str, str]]:
    """Return the hash of each output, by stage. Raises UserError when a stage of SAME_EVERYWHERE is missing."""
    stages = files.parse_yaml(lock, "dvc.lock")["stages"]
    missing = [name for name in SAME_EVERYWHERE if name not in stages]
    if missing:
        raise UserError(f"dvc.lock: no stage {missing[0]}; run `dvc repro`")
    return {name: {out["path"]: out["md5"] for out in stage["outs"]} for name, stage in stages.items()}


def compare_bytes(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> list[str]:
    """Return a line for each output, those marked with DIFFERENT that have other bytes and may not."""
    lines = []
    for stage, outs in before.items():
        for path, expected in outs.items():
            same = after.get(stage, {}).get(path) == expected
            other = "DIFFERENT bytes" if stage in SAME_EVERYWHERE else "other bytes"
            lines.append(f"{path}: {'same bytes: ok' if same else other}")
    return lines


def compare_weights(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Return a line about the weights that both contents of metrics/train.json have noted, step by step."""
    noted = [{entry["step"]: entry["sha256"] for entry in content.get("weights", [])} for content in (before, after)]
    steps = sorted(noted[0].keys() | noted[1].keys())
    first = next((step for step in steps if noted[0].get(step) != noted[1].get(step)), None)
    if first is None:
        return f"weights while training: the same at all {len(steps)} steps that were noted"
    return f"weights while training: different at step {first}; the ones before that were noted are the same"


def compare_scores(before: dict[str, Any], after: dict[str, Any], tolerances: dict[str, float]) -> list[str]:
    """Return a line for each score, those out of tolerance marked with DIFFERENT."""
    lines = []
    for name, tolerance in tolerances.items():
        old, new = value(before, name), value(after, name)
        verdict = "ok" if abs(new - old) <= tolerance else "DIFFERENT"
        lines.append(f"  {name:24} {old:8.4f} {new:8.4f} {new - old:+8.4f}  within {tolerance:g}: {verdict}")
    return lines


def value(content: Any, name: str) -> float:
    """Return the number at a dotted name. Raises UserError when there is none."""
    for part in name.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    if not isinstance(content, float | int):
        raise UserError(f"metrics: no number {name}; `dvc repro` with this commit's code writes it")
    return float(content)


def main() -> None:
    try:
        here = hashes(Path("dvc.lock").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError("dvc.lock: no such file; run `dvc repro`") from None
    lines = compare_bytes(hashes(committed("dvc.lock")), here)
    same = all(line.endswith("same bytes: ok") for line in lines)
    trained = "metrics/train.json"
    lines.append(compare_weights(json.loads(committed(trained)), files.read_json(Path(trained))))
    for path, tolerances in TOLERANCES.items():
        before = json.loads(committed(path))
        lines += [f"{path}: score, committed, here, difference"]
        lines += compare_scores(before, files.read_json(Path(path)), tolerances)
    print("\n".join(lines))
    if any("DIFFERENT" in line for line in lines):
        sys.exit("compare: different: see the lines above")
    print(f"compare: reproduced: {'the same bytes' if same else 'other bytes, but scores within the tolerances'}")


if __name__ == "__main__":
    command.run("compare", main, __doc__)
