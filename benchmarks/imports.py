"""What the start of each command costs: the processor time of its imports, by turns with `import torch`.

    python -m benchmarks.imports
    python -m benchmarks.imports --beside ../before

A command is a module of this repository that `python -m` runs. Some packages are imported only in the functions that
need them: "at work" counts those of the stages too, all of them, which is more than any one run needs. Ratios are to
`import torch` in the same round. The packages are those with the largest shares of the import's time, as
`python -X importtime` tells them. `--beside` measures another checkout of this repository in the same rounds. Where
models/onnx is there, one tweet is labelled too, as a whole process. Prints a table and writes
benchmarks/results/imports.json.
"""

import re
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import turns
from benchmarks.machine import machine
from tweets import command, files, markdown
from tweets.errors import UserError

RESULT = Path("benchmarks/results/imports.json")
ROUNDS = 3
PACKAGES = ("stages", "tweets", "serve", "repository", "runner", "tools")
STAGES = "stages."
SERVER = "serve.server"  # which `python -m serve` imports when it has seen to its signals
LARGEST = 3  # packages that are shown
TORCH, ONE_TWEET = "import torch", "one tweet"
ONE_TWEET_COMMAND = ("-m", "tweets.predict", "What a day!")
HERE, BESIDE = "here", "beside"

# Imports what the functions of this repository's loaded modules import, until that loads no more of them.
AT_WORK = f"""
import ast, pathlib, sys
done = set()
def ours():
    return {{m for n, m in sys.modules.items() if n.split(".")[0] in {PACKAGES} and getattr(m, "__file__", None)}}
while new := ours() - done:
    done |= new
    for module in new:
        tree = ast.parse(pathlib.Path(module.__file__).read_text(encoding="utf-8"))
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            for node in ast.walk(function):
                if isinstance(node, (ast.Import, ast.ImportFrom)):
                    exec(ast.unparse(node), {{"__package__": module.__package__, "__name__": module.__name__}})
"""


def commands(root: Path) -> list[str]:
    """Return the modules of a checkout that `python -m` runs, the stages first."""
    paths = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    runnable = [path for path in paths if '__name__ == "__main__"' in path.read_text(encoding="utf-8")]
    names = [".".join(path.relative_to(root).with_suffix("").parts) for path in runnable]
    return [SERVER if name == "serve.__main__" and (root / "serve/server.py").is_file() else name for name in names]


def processor_seconds(root: Path, *arguments: str) -> float:
    """Return what a Python process in a checkout took. Raises UserError when it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(root, *arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    result = subprocess.run([sys.executable, *arguments], cwd=root, capture_output=True, text=True, check=False)
    if result.returncode:
        raise UserError(f"python {' '.join(arguments)[:80]}: {(result.stderr.splitlines() or ['failed'])[-1]}")
    return result


def shares(root: Path, entry: str) -> dict[str, float]:
    """Return the share of each package in the time that a command's imports take, the largest first."""
    lines = run(root, "-X", "importtime", "-c", f"import {entry}").stderr
    own = Counter[str]()
    for microseconds, module in re.findall(r"^import time: +(\d+) \| +\d+ \| +(\S+)$", lines, re.MULTILINE):
        package = module.split(".")[0]
        own[package if package not in sys.stdlib_module_names else "standard library"] += int(microseconds)
    return {package: count / own.total() for package, count in own.most_common()}


def ways(checkouts: dict[str, Path]) -> dict[str, Callable[[], float]]:
    """Return how to measure each command of each checkout, under names such as `stages.train, here, at work`."""
    timers: dict[str, Callable[[], float]] = {TORCH: partial(processor_seconds, Path(), "-c", TORCH)}
    for name, root in checkouts.items():
        for entry in commands(root):
            code = f"import {entry}"
            timers[f"{entry}, {name}"] = partial(processor_seconds, root, "-c", code)
            if entry.startswith(STAGES):
                timers[f"{entry}, {name}, at work"] = partial(processor_seconds, root, "-c", code + AT_WORK)
        if (root / "models/onnx").is_dir():
            timers[f"{ONE_TWEET}, {name}"] = partial(processor_seconds, root, *ONE_TWEET_COMMAND)
    return timers


def table(seconds: dict[str, list[float]], checkouts: dict[str, Path], largest: dict[str, dict[str, float]]) -> str:
    """Return a Markdown table with a line for each command: ratios to `import torch`, and the largest packages here."""
    columns = [f"{name}{kind}" for name in checkouts for kind in ("", ", at work")]
    rows = []
    for entry in dict.fromkeys(name.split(", ")[0] for name in seconds if name != TORCH):
        cells = [
            str(turns.ratio(seconds[name], seconds[TORCH])) if (name := f"{entry}, {c}") in seconds else ""
            for c in columns
        ]
        most = ", ".join(f"{package} {share:.0%}" for package, share in list(largest.get(entry, {}).items())[:LARGEST])
        rows.append((entry, *cells, most))
    return markdown.table(("", *columns, "most of it"), rows)


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--beside", type=Path, help="another checkout of this repository, to measure as well")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    checkouts = {HERE: Path()} | ({BESIDE: options.beside} if options.beside else {})
    seconds = turns.by_turns(ways(checkouts), options.rounds)
    largest = {entry: shares(Path(), entry) for entry in commands(Path())}
    print(f"import torch: {turns.Spread.of(seconds[TORCH])} s of processor time; all else in multiples of it\n")
    print(table(seconds, checkouts, largest))
    report: dict[str, Any] = {
        "machine": machine(),
        "import_torch_seconds": vars(turns.Spread.of(seconds[TORCH])),
        "ratios": {
            name: vars(turns.ratio(values, seconds[TORCH])) for name, values in seconds.items() if name != TORCH
        },
        "shares": {entry: dict(list(parts.items())[:LARGEST]) for entry, parts in largest.items()},
    }
    files.write_json(RESULT, report)


if __name__ == "__main__":
    command.run("imports", main)
