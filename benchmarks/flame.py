"""Where a Python process spends its time: a flame graph of it, and the shares of its parts."""

import contextlib
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree

from tweets import markdown
from tweets.errors import UserError, one_line

SVG = "{http://www.w3.org/2000/svg}"
INFERNO = "{http://github.com/jonhoo/inferno}"  # which draws for py-spy; its positions are counts of samples
OTHER = "other"
WAITS = r"^(Condition\.wait|_worker) "  # threads that py-spy takes for busy ones when the machine is
SAMPLING = "Sampling process"  # is what py-spy says when it looks
SECONDS = 60  # that py-spy may take to write what it has seen

Stack = tuple[str, ...]


@contextlib.contextmanager
def recorded(pid: int, svg: Path) -> Iterator[None]:
    """Let py-spy look at a process 100 times a second while the body runs, and write a flame graph.

    Threads that wait are left out. Raises UserError where py-spy is missing or may not look.
    """
    program = shutil.which("py-spy")
    if not program:
        raise UserError("py-spy: not found; `make setup-dev` installs it")
    svg.parent.mkdir(parents=True, exist_ok=True)
    command = [program, "record", "--function", "--pid", str(pid), "--output", str(svg)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        said = process.stdout.readline() if process.stdout else ""
        try:
            if SAMPLING in said:
                yield
        finally:
            process.send_signal(signal.SIGINT)
            said += process.communicate(timeout=SECONDS)[0]
    if process.returncode:
        raise UserError(f"py-spy: {one_line(RuntimeError(said.split('Stack backtrace')[0]))}")


def stacks(svg: Path) -> Counter[Stack]:
    """Return of a flame graph the samples of each stack: its functions, each with its file, from the outermost in."""
    boxes = []
    for group in ElementTree.parse(svg).iter(f"{SVG}g"):  # noqa: S314  made here
        title, box = group.find(f"{SVG}title"), group.find(f"{SVG}rect")
        if title is not None and box is not None:
            begin, samples = (int(box.attrib[INFERNO + name]) for name in ("x", "w"))
            name = re.sub(r" \([\d,]+ samples.*", "", title.text or "")
            boxes.append((begin, float(box.attrib["y"]), samples, name))
    stack_samples: Counter[Stack] = Counter()
    above: list[tuple[float, str]] = []  # the boxes that this one hangs from
    for _, y, samples, name in sorted(boxes):
        above = [box for box in above if box[0] < y]
        stack_samples[tuple(name for _, name in above)] -= samples
        above.append((y, name))
        stack_samples[tuple(name for _, name in above)] += samples
    return +stack_samples


def shares(stack_samples: Mapping[Stack, int], parts: Mapping[str, str]) -> dict[str, float]:
    """Return the share of each part, the largest first; `parts` are patterns of functions.

    A sample belongs to the first part that has the innermost function, or else the one that called it, and so on.
    """
    counted: Counter[str] = Counter()
    for stack, samples in stack_samples.items():
        if re.search(WAITS, stack[-1]):
            continue
        named = (name for function in reversed(stack) for name, like in parts.items() if re.search(like, function))
        counted[next(named, OTHER)] += samples
    return {name: samples / counted.total() for name, samples in counted.most_common()}


def table(part_shares: Mapping[str, float]) -> str:
    """Return the shares as Markdown."""
    return markdown.table(["part", "share"], [(name, f"{share:.1%}") for name, share in part_shares.items()])
