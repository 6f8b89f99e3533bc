"""The pages: their links lead somewhere, the commands that they name exist, and README stays short."""

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.support.clones import ENVIRONMENT, ROOT

PAGES = ["README.md", "CONTRIBUTING.md", "deploy/README.md", "experiments/README.md"]
PAGES += sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md"))
README_LINES = 150
FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
CODE = re.compile(rf"{FENCE.pattern}|`[^`\n]+`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?P<target>[^()\s]+)\)")  # of an image, too
MAKE = re.compile(r"\bmake((?: [a-z][a-z-]*)+)")


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    seen: Counter[str] = Counter()
    for heading in re.findall(r"^#+ +(.+?) *#*$", FENCE.sub("", text), re.MULTILINE):
        shown = LINK.sub("]", heading).replace("[", "").replace("]", "")
        anchor = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        found.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return found


def broken(page: Path) -> list[str]:
    """Return the links of a page to files of this repository, or to headings in them, that are not there."""
    found = []
    for target in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        name, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", name):
            continue
        path = page.parent / name if name else page
        is_there = path.exists() and path.resolve().is_relative_to(ROOT)
        if not is_there or (anchor and anchor not in anchors(path.read_text(encoding="utf-8"))):
            found.append(target)
    return found


def commands(text: str) -> set[str]:
    """Return the targets of `make` that a page's code names."""
    found: set[str] = set()
    for line in "\n".join(code.group() for code in CODE.finditer(text)).splitlines():
        command, *comment = re.split(r"(?:^| )#", line, maxsplit=1)
        found.update(*(targets.split() for targets in MAKE.findall(command)))
        found.update(re.findall(r"`make ([a-z-]+)", "".join(comment)))  # which is prose
    return found


@pytest.fixture(scope="module")
def targets() -> re.Pattern[str]:
    """Return what matches a target of the Makefile, as `make` lists them."""
    listed = subprocess.run(["make"], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout
    names = [name for line in listed.splitlines() if line[:1] == " " for name in line[2:30].split()]
    return re.compile("|".join(name.replace("NAME", "[a-z]+") for name in names))


def test_anchors_are_those_of_github() -> None:
    text = "# What it costs, and where\n\n## A `b_c` & [d](e.md)\n\n## Twice\n\n## Twice\n\n```\n# no heading\n```\n"
    assert anchors(text) == {"what-it-costs-and-where", "a-b_c--d", "twice", "twice-1"}


def test_a_broken_link_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.pipeline.test_docs.ROOT", tmp_path)
    (tmp_path / "b.md").write_text("# B c\n")
    page = tmp_path / "a.md"
    page.write_text("# A\n[1](b.md) [2](b.md#b-c) [3](#a) [4](https://example.org) `[5](d.md)`\n")
    assert broken(page) == []
    page.write_text("# A\n[1](c.md) [2](b.md#b) [3](#b) ![4](d.png) [5](../)\n")
    assert broken(page) == ["c.md", "b.md#b", "#b", "d.png", "../"]


def test_commands_are_read_from_code_only() -> None:
    text = "make sense, `make one two && make three`\n\n```\n$ A=1 make four B=2    # make do, or `make five`\n```\n"
    assert commands(text) == {"one", "two", "three", "four", "five"}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page: str) -> None:
    assert broken(ROOT / page) == []


@pytest.mark.parametrize("page", PAGES)
def test_each_target_of_make_exists(page: str, targets: re.Pattern[str]) -> None:
    assert targets.fullmatch("repro")
    assert not targets.fullmatch("reproduce")
    named = commands((ROOT / page).read_text(encoding="utf-8"))
    assert [name for name in named if not targets.fullmatch(name)] == []


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES


def test_the_index_lists_each_page() -> None:
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    names = [page.removeprefix("docs/") for page in PAGES if page.startswith("docs/") and page != "docs/README.md"]
    assert [name for name in names if f"({name})" not in index] == []


def test_make_lists_each_target_that_has_a_recipe() -> None:
    text = (ROOT / "Makefile").read_text()
    rules = [line for line in text.splitlines() if re.match(r"[a-z][\w %-]*:(?!=)", line)]
    assert [line for line in rules if "## " not in line] == []
    assert len(rules) > 30
