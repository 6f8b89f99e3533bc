"""Print the table of the ideas that were tried, from experiments/tried.yaml.

python -m tools.tried
"""

import statistics
from pathlib import Path
from typing import Any

from tweets import command, files, markdown
from tweets.errors import UserError

LOG = Path("experiments/tried.yaml")
TITLES = ("idea", "validation macro-F1", "log loss", "seeds", "cost", "kept")


def spread(values: list[float]) -> str:
    """Return the mean and, of two values or more, the sample standard deviation."""
    mean = f"{statistics.mean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean


def row(idea: dict[str, Any], base: dict[str, Any]) -> list[str]:
    """Return the table's row of an idea: its cost is its training time over that of `base`, the mean of all seeds."""
    runs = idea["runs"]
    seconds, of_base = (statistics.mean(run["seconds"] for run in part["runs"]) for part in (idea, base))
    return [
        f"{idea['idea']}: `{idea['options']}`" if idea.get("options") else idea["idea"],
        spread([run["macro_f1"] for run in runs]),
        spread([run["log_loss"] for run in runs]),
        str(len(runs)),
        f"{seconds / of_base:.2f}",
        idea["kept"],
    ]


def table(groups: list[dict[str, Any]]) -> str:
    """Return the groups as Markdown: a title and a table each; the first idea of a group is what it is held against."""
    parts = []
    for group in groups:
        rows = [row(idea, group["ideas"][0]) for idea in group["ideas"]]
        parts += [f"### {group['title']}", group["about"].strip(), markdown.table(TITLES, rows)]
    return "\n\n".join(parts)


def main() -> None:
    try:
        groups = files.read_yaml(LOG)
        print(table(groups))
    except (KeyError, TypeError) as error:
        raise UserError(f"{LOG}: not a log of ideas: {error!r}") from None


if __name__ == "__main__":
    command.run("tried", main, __doc__)
