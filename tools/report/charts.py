"""Draw the plots of dvc.yaml from their templates in .dvc/plots, without a network and the same bytes each time."""

import re
from dataclasses import dataclass
from html import escape
from pathlib import PurePosixPath
from typing import Any

import vl_convert
from dvc.render.match import match_defs_renderers
from dvc.repo import Repo

from tweets.errors import UserError

CONFIG = {
    "aria": False,  # each chart has one label as a whole
    "axis": {"labelFontSize": 12, "titleFontSize": 13},
    "header": {"labelFontSize": 13},
    "legend": {
        "orient": "bottom",
        "columns": 3,
        "layout": {"bottom": {"direction": "vertical"}},
        "labelFontSize": 13,
        "titleFontSize": 13,
    },
    "text": {"fontSize": 12},
    "title": {"fontSize": 15},
}
NARROWEST = 0.7  # of its width, to which a chart shrinks before it scrolls

Point = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A picture of one plot, of one revision or of two upon each other."""

    name: str  # of its file, without the ending
    section: str  # the plot's folder below plots/
    title: str
    note: str  # how the other revision's plot relates to it
    numbers: str  # what one would read off it
    svg: str
    png: bytes
    width: int  # pixels


def draw(repo: Repo, other: tuple[str, str] | None) -> list[Chart]:
    """Return the charts of the workspace's plots, with those of another revision (commit, name) where it has them.

    Lines go upon each other, other plots side by side. Raises UserError when the workspace lacks a plot.
    """
    names = {"workspace": "this run"} | (dict([other]) if other else {})
    plots = repo.plots.show(revs=list(names))
    renamed = {name: plots.get(revision, {}) for revision, name in names.items()}
    charts = []
    for renderer, *_ in match_defs_renderers(renamed, templates_dir=repo.plots.templates_dir):
        charts += _draw(renderer, other[1] if other else None)
    return charts


def _draw(renderer: Any, other: str | None) -> list[Chart]:
    here = [point for point in renderer.datapoints if point["rev"] != other]
    there = [point for point in renderer.datapoints if point["rev"] == other]
    if not here:
        raise UserError(f"{renderer.name}: no plot there; `dvc repro` writes it")
    spec, fields = renderer.get_filled_template(), renderer.properties
    name, note = PurePosixPath(renderer.name).relative_to("plots").with_suffix("").as_posix().replace("/", "-"), ""
    if not there:
        pictures, note = {name: here}, f"{other} has no such plot." if other else ""
    elif _without_revision(here) == _without_revision(there):
        pictures, note = {name: here}, f"The same in {other}."
    elif "facet" in spec:
        pictures = {name: here, f"{name}-before": there}
    else:
        pictures = {name: here + there}
    if len(pictures) == 1 and pictures[name] is here and "facet" not in spec:
        spec = {**spec, "encoding": {k: v for k, v in spec["encoding"].items() if v["field"] != "rev"}}  # no legend
    return [
        _chart(picture, renderer.name, {**spec, "data": {"values": points}}, note, fields)
        for picture, points in pictures.items()
    ]


def _without_revision(points: list[Point]) -> list[Point]:
    return [{key: value for key, value in point.items() if key != "rev"} for point in points]


def _chart(name: str, path: str, spec: dict[str, Any], note: str, fields: dict[str, Any]) -> Chart:
    points = spec["data"]["values"]
    numbers = "; ".join(
        f"{revision}: {_numbers([point for point in points if point['rev'] == revision], fields['x'], fields['y'])}"
        for revision in dict.fromkeys(point["rev"] for point in points)
    )
    svg = vl_convert.vegalite_to_svg(spec, config=CONFIG, allowed_base_urls=[])
    width = int(float(re.search(r' width="([\d.]+)"', svg)[1]))  # type: ignore[index]
    label = escape(f"{fields['title']}. {numbers}")
    for number, old in enumerate(dict.fromkeys(re.findall(r' id="([^"]+)"', svg))):  # Vega counts on in a process
        svg = svg.replace(f' id="{old}"', f' id="{name}-{number}"').replace(f"url(#{old})", f"url(#{name}-{number})")
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" style="min-width: {NARROWEST * width:.0f}px" ', 1)
    return Chart(
        name=name,
        section=PurePosixPath(path).parent.name,
        title=fields["title"],
        note=note,
        numbers=numbers,
        svg=svg,
        png=vl_convert.vegalite_to_png(spec, config=CONFIG, scale=2, allowed_base_urls=[]),
        width=width,
    )


def _numbers(points: list[Point], x: str, y: str) -> str:
    """Return the shares that bars or cells show, or where each line begins and ends and between what it runs."""
    if isinstance(points[0][x], str):
        row = y if isinstance(points[0][y], str) else "group"
        groups = {point[row]: [p for p in points if p[row] == point[row]] for point in points}
        return "; ".join(
            f"{row if row != 'group' else ''} {group}: ".lstrip()
            + ", ".join(f"{point[x]} {point['percent']:.0f} %" for point in part)
            for group, part in groups.items()
        )
    groups = {point["group"]: [p for p in points if p["group"] == point["group"]] for point in points}
    return "; ".join(
        f"{group}: {y} from {part[0][y]:.3g} at {x} {part[0][x]:.4g} to {part[-1][y]:.3g} at {x} {part[-1][x]:.4g},"
        f" lowest {min(p[y] for p in part):.3g}, highest {max(p[y] for p in part):.3g}"
        for group, part in groups.items()
    )
