"""Measure several ways to do the same work by turns, so that what else the machine does meets all of them alike."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tweets import markdown
from tweets.progress import track


@dataclass(frozen=True, kw_only=True)
class Spread:
    """What several measurements of one quantity gave."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(median=statistics.median(values), low=min(values), high=max(values))

    def __str__(self) -> str:
        digits = 0 if self.median >= 100 else 1 if self.median >= 10 else 2
        return f"{self.median:,.{digits}f} [{self.low:,.{digits}f}, {self.high:,.{digits}f}]"


def by_turns(ways: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Return what each way returned in `rounds` rounds; all are called once before, to warm up."""
    measurements: dict[str, list[float]] = {name: [] for name in ways}
    with track(total=len(ways) * (rounds + 1), desc="measure", unit="runs") as progress:
        for number in range(rounds + 1):
            for name, way in ways.items():
                value = way()
                if number:
                    measurements[name].append(value)
                progress.update()
    return measurements


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Return ours / theirs of each round: of neighbours in time, so that a slow minute falls out of it."""
    return Spread.of([mine / other for mine, other in zip(ours, theirs, strict=True)])


def summary(measurements: Mapping[str, Sequence[float]], *, ours: str, higher_is_better: bool) -> dict[str, Any]:
    """Return for each way its spread, and how many times better `ours` is (above 1: better)."""
    result: dict[str, Any] = {}
    for name, values in measurements.items():
        better = ratio(measurements[ours], values) if higher_is_better else ratio(values, measurements[ours])
        result[name] = {"runs": list(values), **vars(Spread.of(values)), "ours_is_better_by": vars(better)}
    return result


def table(measurements: Mapping[str, Sequence[float]], *, ours: str, unit: str, higher_is_better: bool) -> str:
    """Return the measurements as a Markdown table: median [lowest, highest], and how many times better `ours` is."""
    rows = []
    for name, values in measurements.items():
        better = ratio(measurements[ours], values) if higher_is_better else ratio(values, measurements[ours])
        rows.append((name, Spread.of(values), "" if name == ours else better))
    return markdown.table(("", unit, "ours is better by"), rows)
