"""Print the tables of README and docs/: the results from metrics/, speeds and drift from benchmarks/results/.

python -m tools.results
"""

from pathlib import Path
from typing import Any

from benchmarks import attacks, batches, drift, load, monitoring, precisions, turns
from repository.git import git
from tweets import command, files, markdown
from tweets.evaluation.metrics import METRICS
from tweets.markdown import with_interval

BENCHMARKS = Path("benchmarks/results")


def rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return each score of metrics/evaluate.json: its title, of the transformer, of the baseline, their difference.

    Those with a 95 % interval have it in brackets.
    """
    model, baseline = report["models"]
    differences = {comparison["score"]: comparison for comparison in report["transformer_minus_baseline"]}
    score_rows = []
    for metric in METRICS:
        name = metric.name
        if name in differences:
            both = [with_interval(scores[name], scores["intervals"][name]) for scores in (model, baseline)]
            difference = with_interval(differences[name]["difference"], differences[name]["interval"], "+")
        else:
            both = [f"{scores[name]:.3f}" for scores in (model, baseline)]
            difference = f"{model[name] - baseline[name]:+.3f}"
        score_rows.append((metric.title, *both, difference))
    return score_rows


def table(report: dict[str, Any]) -> str:
    """Return a Markdown table of metrics/evaluate.json: each score of both models, with its 95 % interval."""
    return markdown.table(("test split", "transformer", "TF-IDF baseline", "difference"), rows(report))


def explanation(report: dict[str, Any]) -> str:
    """Return what the table rests on: the test tweets, the intervals, and the test of the two models."""
    [mcnemar] = report["paired_tests"]
    return (
        f"{report['rows']:,} test tweets (hash of their ids: {report['test_ids']}). Brackets hold 95 % bootstrap"
        f" intervals. McNemar's exact test of the two models: p = {mcnemar['p_value']:.0e}."
    )


def commit() -> str:
    """Return the sentence that names the commit of the last full reproduction, the last to change dvc.lock."""
    return f"`dvc repro` gave these results at commit {git('log', '-1', '--format=%h', '--', 'dvc.lock')}."


def speeds(ways: dict[str, Any], unit: str) -> str:
    """Return a Markdown table of what a benchmark measured, the fastest way first: medians [lowest, highest]."""
    runs = {way: ways[way]["runs"] for way in sorted(ways, key=lambda way: -ways[way]["median"])}
    return turns.table(runs, ours=next(iter(runs)), unit=unit, higher_is_better=True)


def data_speeds(sizes: list[dict[str, Any]]) -> str:
    """Return a Markdown table of what benchmarks.data measured: of each size the speeds and the most memory."""
    titles = [
        "rows",
        "in pieces, rows/s",
        "row by row, rows/s",
        "in pieces is better by",
        "memory: in pieces",
        "row by row",
    ]
    rows = []
    for size in sizes:
        ways = size["rows_a_second"]["prepare and featurize"]
        ours, other = (ways[way]["runs"] if way in ways else [] for way in ("in pieces", "row by row"))
        rates = [str(turns.Spread.of(runs)) if runs else "" for runs in (ours, other)]
        better = str(turns.ratio(ours, other)) if other else ""
        most = [
            max((value for name, value in size["megabytes"].items() if name.endswith(way)), default=0) / 1000
            for way in ("in pieces", "row by row")
        ]
        memory = [f"{gigabytes:.1f} GB" if gigabytes else "" for gigabytes in most]
        rows.append((f"{size['rows']:,}", *rates, better, *memory))
    return markdown.table(titles, rows)


def main() -> None:
    report = files.read_json(Path("metrics/evaluate.json"))
    names = ("train", "predict", "load", "soak", "data")
    train, predict, loaded, soaked, data = (files.read_json(BENCHMARKS / f"{name}.json") for name in names)
    parts = [table(report), explanation(report), commit()]
    parts += [speeds(train["tweets_per_second"], "training, tweets/s")]
    parts += [precisions.table(files.read_json(BENCHMARKS / "precisions.json")["tweets_per_second"])]
    parts += [speeds(predict["tweets_per_second"], "labelling, tweets/s")]
    parts += [batches.table(files.read_json(batches.RESULT))]
    parts += [load.rates(loaded), f"{load.explain(loaded)}\n{load.explain_soak(soaked)}", data_speeds(data["sizes"])]
    parts += [drift.table(files.read_json(BENCHMARKS / "drift.json"))]
    parts += [part.explain(files.read_json(part.RESULT)) for part in (monitoring, attacks)]
    print("\n\n".join(parts))


if __name__ == "__main__":
    command.run("results", main, __doc__)
