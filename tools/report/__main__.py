"""Write report/: this tree's results as one HTML page and one Markdown file, beside those of another revision.

    python -m tools.report                  # beside the results before their last change
    python -m tools.report main             # beside a branch, tag or commit
    python -m tools.report noisy-colt       # beside an experiment of `dvc exp run`
    python -m tools.report main --pictures https://example.org/plots

report.html opens without a network and shows the worst mistakes with their text. report.md has no tweet's text, so it
can go into a pull request; its pictures are plots/*.png, or lie below the URL that --pictures gives.
"""

import argparse
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import pandas as pd
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.scm import resolve_rev
from markupsafe import Markup

from repository import declared
from repository.git import git
from tools import results
from tools.report import charts
from tweets import command, errors, files, params
from tweets.data.sources import SOURCES
from tweets.errors import UserError
from tweets.evaluation.metrics import METRICS

FOLDER = Path("report")
MISTAKES = Path("data/mistakes.csv")
SHOWN_FILES = ("evaluate", "slices", "behaviour", "prepare")
RESULTS = ("dvc.lock", "params.yaml", "metrics", "plots")  # what counts as a change of results
# The sign of a change for the better, by how the name in metrics/*.json ends: `valid.loss`, `behaviour_failure_rate`.
BETTER = {metric.name: 1 if metric.higher_is_better else -1 for metric in METRICS} | {"loss": -1, "failure_rate": -1}
SHOWN = ["id", "label", "predicted", "probability", "annotator_confidence", "text"]  # of the mistakes
LISTED = 10  # uncommitted changes
# Anything that could mean something to GitHub's Markdown: marks, links, mentions.
MARKDOWN = re.compile(r"[^\w\s.,:;()+%/='–-]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.", re.IGNORECASE)


def arguments() -> argparse.Namespace:
    parser = command.parser(__doc__)
    parser.add_argument("revision", nargs="?", metavar="REV", help="what to compare with")
    parser.add_argument("--pictures", metavar="URL", default="plots", help="the folder of report.md's pictures")
    return parser.parse_args()


def choose_revision(repo: Repo, asked: str | None) -> tuple[str, str, str] | None:
    """Return the commit to compare with, its name and why it is that one; None where there is none.

    Without a wish, the results before their last change: those of HEAD, if the ones here are not committed, else those
    of the parent of the last commit that changed RESULTS. Raises UserError for a revision that is not there.
    """
    if asked is not None:
        try:
            commit = git("rev-parse", "--verify", f"{resolve_rev(repo.scm, asked)}^{{commit}}")
        except (DvcException, UserError):
            raise UserError(f"{asked}: no Git revision and no experiment (`git log --all`, `dvc exp list`)") from None
        name = commit[:7] if commit.startswith(asked) else f"{asked} ({commit[:7]})"
        return commit, name, "as asked for"
    if repo.scm.no_commits:
        return None
    if git("status", "--porcelain", "--", *RESULTS):
        commit = git("rev-parse", "HEAD")
        return commit, f"HEAD ({commit[:7]})", "the last commit; the results here are not committed"
    changed = git("log", "-1", "--first-parent", "--format=%H", "--", *RESULTS)
    _, *parents = git("rev-list", "--parents", "-1", changed).split() if changed else [""]
    if not parents:
        return None
    return parents[0], parents[0][:7], f"the commit before {changed[:7]}, which was the last to change results"


def origin(repo: Repo) -> dict[str, Any]:
    """Return what the results come from: the commit, changes that it lacks, dvc.lock, the source and data's hashes."""
    lock = Path("dvc.lock")
    if not lock.is_file():
        raise UserError(f"{lock}: no such file; run `dvc repro`")
    stages = files.read_yaml(lock)["stages"]
    changes = git("-c", "core.quotePath=false", "status", "--porcelain").splitlines()
    source = params.read(Path("params.yaml"))["fetch"]
    return {
        "commit": None if repo.scm.no_commits else git("rev-parse", "HEAD"),
        "changes": [line.split(maxsplit=1)[1] for line in changes[:LISTED]],
        "more_changes": len(changes[LISTED:]),
        "lock": files.sha256(lock),
        **state(repo.status(), partial(changed_params, stages)),
        "source": source["source"] + (f" ({source['path']})" if SOURCES[source["source"]].reads_path else ""),
        "hashes": [
            (out["path"], out.get("md5", "")) for stage in stages.values() for out in stage.get("outs", [])
            if out["path"].startswith(("data/", "models/"))
        ],
    }  # fmt: skip


def changed_params(stages: dict[str, Any], stage: str) -> list[str]:
    """Return the params of a stage whose values in params.yaml are others than in its entry of dvc.lock."""
    content = params.read(Path("params.yaml"))
    locked = stages.get(stage, {}).get("params", {}).get("params.yaml", {})
    here, there = (dict(declared.leaves(part)) for part in ({name: content.get(name) for name in locked}, locked))
    return [key for key in dict.fromkeys([*here, *there]) if here.get(key) != there.get(key)]


def state(status: dict[str, list[Any]], params_of: Callable[[str], list[str]]) -> dict[str, list[str]]:
    """Return the stages for which something changed by DVC's status, what changed, and the data that is not here.

    DVC names the section of params.yaml in which a param changed; `params_of` a stage are the params themselves.
    """
    stages: list[str] = []
    changed: list[str] = []
    absent: list[str] = []
    for stage, causes in status.items():
        for cause in causes:
            for entries in cause.values() if isinstance(cause, dict) else [{cause: ""}]:
                for path, how in entries.items():
                    if how == "deleted" and path.startswith(("data/", "models/")):
                        absent.append(path)
                    else:
                        stages.append(stage)
                        changed += (params_of(stage) or [*how]) if isinstance(how, dict) else [path]
    return {"stages": unique(stages), "changed": unique(changed), "absent": unique(absent)}


def unique(names: list[str]) -> list[str]:
    return list(dict.fromkeys(names))


def compare_metrics(repo: Repo, commit: str, report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the old and new value of each number among the metrics of this run, their difference and what it means."""
    changes = repo.metrics.diff(a_rev=commit, b_rev="workspace", all=True).get("diff", {})
    transformer, baseline = (model["intervals"] for model in report["models"])
    intervals = {**transformer, "baseline_macro_f1": baseline["macro_f1"]}
    rows = []
    for path, metrics in sorted(changes.items(), key=lambda item: (item[0] != "metrics/evaluate.json", item[0])):
        for name, change in sorted(metrics.items()):
            if isinstance(change.get("new"), int | float):
                interval = intervals.get(name) if path == "metrics/evaluate.json" else None
                title = f"{Path(path).stem}: {name}"
                rows.append({"name": title, **change, "meaning": meaning(name, change, interval)})
    return rows


def meaning(name: str, change: dict[str, Any], interval: list[float] | None) -> str:
    """Return whether a change is for the better, and whether the old value lies in the new one's 95 % interval."""
    old, new = change.get("old"), change["new"]
    if old is None:
        return "new"
    if old == new:
        return "same"
    sign = next((sign for end, sign in BETTER.items() if re.search(rf"(^|[ ._]){end}$", name)), None)
    if sign is None or "diff" not in change:
        return "changed"
    word = "better" if sign * change["diff"] > 0 else "worse"
    if interval is None:
        return word
    return f"{word}, {'inside' if interval[0] <= old <= interval[1] else 'outside'} the interval"


def compare_params(repo: Repo, commit: str) -> list[dict[str, Any]]:
    """Return the params whose values differ, with the old and the new one."""
    changes = repo.params.diff(a_rev=commit, b_rev="workspace").get("diff", {})
    return [
        {"name": name if path == "params.yaml" else f"{path}: {name}", **change}
        for path, params in sorted(changes.items())
        for name, change in sorted(params.items())
    ]


def earlier(commit: str, path: str) -> dict[str, Any]:
    """Return what a JSON file held at a commit; nothing where it was not there or no JSON object."""
    try:
        content = json.loads(git("show", f"{commit}:{path}"))
    except ValueError:  # UserError is one
        return {}
    return content if isinstance(content, dict) else {}


def comparison(repo: Repo, chosen: tuple[str, str, str] | None, metrics: dict[str, Any]) -> dict[str, Any] | None:
    """Return what differs between another revision and this run; None where there is no other."""
    if chosen is None:
        return None
    commit, name, why = chosen
    slices = earlier(commit, "metrics/slices.json").get("slices", [])
    there = earlier(commit, "metrics/evaluate.json")
    tests = there.get("test_ids")
    return {
        "commit": commit,
        "name": name,
        "why": why,
        "metrics": compare_metrics(repo, commit, metrics["evaluate"]),
        "params": compare_params(repo, commit),
        "scores": bool(there),
        "other_tweets": tests is not None and tests != metrics["evaluate"]["test_ids"],
        "slices": {row["slice"]: row["macro_f1"] for row in slices},
    }


def mistakes() -> list[dict[str, str]] | None:
    """Return the worst mistakes with their text; None where DVC has not brought them here."""
    if not MISTAKES.exists():
        return None
    try:
        rows = pd.read_csv(MISTAKES, dtype=str, keep_default_na=False)[SHOWN]
        return [dict(zip(SHOWN, row, strict=True)) for row in rows.itertuples(index=False)]
    except (ValueError, KeyError) as error:
        raise UserError(f"{MISTAKES}: not the table that `dvc repro` writes: {errors.one_line(error)[:200]}") from None


def splits(prepared: dict[str, Any]) -> list[tuple[str, list[int]]]:
    """Return each label's rows in each split."""
    counts = [{row["label"]: row["rows"] for row in split["labels"]} for split in prepared["splits"]]
    labels = dict.fromkeys(label for split in counts for label in split)
    return [(label, [split.get(label, 0) for split in counts]) for label in labels]


def gather(revision: str | None) -> dict[str, Any]:
    """Return all that the report shows. Raises UserError for what is missing, a revision that is not there, no Git."""
    with Repo() as repo:
        chosen = choose_revision(repo, revision)
        metrics = {name: files.read_json(Path(f"metrics/{name}.json")) for name in SHOWN_FILES}
        return {
            **metrics,
            "origin": origin(repo),
            "scores": results.rows(metrics["evaluate"]),
            "explanation": results.explanation(metrics["evaluate"]),
            "other": comparison(repo, chosen, metrics),
            "charts": charts.draw(repo, chosen[:2] if chosen else None),
            "labels": splits(metrics["prepare"]),
        }


def number(value: object) -> str:
    """Return a value for a table: counts with commas, other numbers with four digits, a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def difference(change: dict[str, Any]) -> str:
    """Return the signed difference of two numbers; nothing where one of them is none."""
    if "diff" not in change or isinstance(change["new"], bool):
        return ""
    return "0" if change["diff"] == 0 else f"{change['diff']:+.4g}"


def markdown(value: object) -> Markup:
    """Return a value as text that Markdown shows as it is, on one line; Markup stays."""
    if isinstance(value, Markup):
        return value
    text = " ".join(str(value).split())
    return Markup(MARKDOWN.sub(lambda mark: f"&#{ord(mark[0])};" + "&#8203;" * (mark[0] == "@"), text))  # noqa: S704


def render(template: str, content: dict[str, Any]) -> str:
    """Return a template of tools/ filled with the content; whatever the content holds, it shows as text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=markdown if template.endswith(".md.jinja") else None,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"number": number, "difference": difference}
    return environment.get_template(template).render(content)


def write(folder: Path, content: dict[str, Any], pictures: str) -> None:
    """Write the pictures, the page and the Markdown file, which never sees the mistakes."""
    (folder / "plots").mkdir(parents=True)
    for chart in content["charts"]:
        (folder / f"plots/{chart.name}.png").write_bytes(chart.png)
    url = quote(pictures.rstrip("/"), safe=":/?&=%#~@!$+,;")
    for name, more in (("report.md", {"pictures": url}), ("report.html", {"mistakes": mistakes()})):
        text = render(f"{name}.jinja", {**content, **more})
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


def main() -> None:
    options = arguments()
    try:
        content = gather(options.revision)
        with files.replacing(FOLDER) as staged:
            write(staged, content, options.pictures)
    except DvcException as error:
        raise UserError(errors.one_line(error)) from None
    except (AttributeError, KeyError, TypeError, jinja2.UndefinedError) as error:
        raise UserError(f"metrics/: not as this commit's `dvc repro` writes it: {errors.one_line(error)}") from None
    other = content["other"]
    print(f"report: {FOLDER}/report.html and {FOLDER}/report.md, beside {other['name'] if other else 'nothing else'}")


if __name__ == "__main__":
    command.run("report", main)
