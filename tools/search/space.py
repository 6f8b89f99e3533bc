"""Read search.yaml: which params a search tries, how many trials, and when a trial is hopeless."""

import difflib
import json
from pathlib import Path
from typing import Annotated, Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from pydantic import Field

from repository import declared
from tweets import params
from tweets.errors import UserError

STAGES = ("fetch", "prepare", "featurize", "train")  # what a trial runs; their params can be searched
Count = Annotated[int, Field(ge=1)]


@params.section
class Range:
    """A range of numbers, both ends included."""

    low: float
    high: float
    log: bool = False
    step: Annotated[float, Field(gt=0)] | None = None

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low = {self.low:g} must be below high = {self.high:g}")
        if self.log and (self.step or self.low <= 0):
            raise ValueError("log: true needs low > 0 and no step")
        if self.step and not _is_whole((self.high - self.low) / self.step):
            raise ValueError(f"high = {self.high:g} must be a whole number of steps of {self.step:g} above low")


@params.section
class Pruner:
    """When a trial may be stopped."""

    startup_trials: Count
    warmup_evaluations: Annotated[int, Field(ge=0)]


@params.section
class SearchSettings:
    """The content of search.yaml; `distributions` reads what `space` holds."""

    study: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
    trials: Count
    seed: params.Seed
    pruner: Pruner
    space: Annotated[dict[str, Any], Field(min_length=1)]


def load_settings(path: Path) -> SearchSettings:
    """Return the settings in the YAML file at `path`. Raises UserError as params.load does."""
    return params.build(SearchSettings, params.read(path), str(path))


def distributions(path: Path, space: dict[str, Any]) -> dict[str, BaseDistribution]:
    """Return Optuna's distribution of each key of the space.

    Raises UserError for a key that is no param of params.yaml, and for what is neither choices nor a range.
    """
    known = current()
    return {key: _distribution(f"{path}: space.{key}", key, value, known) for key, value in space.items()}


def current() -> dict[str, Any]:
    """Return the value in params.yaml of each param of STAGES, by its dotted key."""
    content = params.read(Path("params.yaml"))
    return {key: value for name in STAGES for key, value in declared.leaves(content.get(name), name)}


def _distribution(where: str, key: str, value: Any, known: dict[str, Any]) -> BaseDistribution:
    if key not in known:
        sections = {".".join(name.split(".")[:n]) for name in known for n in range(1, name.count(".") + 1)}
        if key in sections:
            raise UserError(f"{where}: a section; name one of its params")
        near = difflib.get_close_matches(key, known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"the search knows those of {', '.join(STAGES)}"
        raise UserError(f"{where}: no such param in params.yaml; {hint}")
    if isinstance(value, dict):
        return _range(where, params.build(Range, value, where), known[key])
    if not isinstance(value, list) or not value or any(isinstance(choice, list | dict) for choice in value):
        raise UserError(f"{where} = {value!r}: needs a list of choices, each one value, or a range with low and high")
    if len({json.dumps(choice, default=str) for choice in value}) < len(value):
        raise UserError(f"{where} = {value!r}: a choice stands there twice")
    return CategoricalDistribution(value)


def _range(where: str, limits: Range, now: Any) -> BaseDistribution:
    """Return the distribution of a range: of integers where the param's present value is one."""
    if isinstance(now, bool) or not isinstance(now, int | float):
        raise UserError(f"{where}: {now!r} in params.yaml is no number; list the choices")
    if isinstance(now, float):
        return FloatDistribution(limits.low, limits.high, log=limits.log, step=limits.step)
    numbers = (limits.low, limits.high, limits.step or 1)
    if not all(number.is_integer() for number in map(float, numbers)):
        raise UserError(f"{where}: {now!r} in params.yaml is an integer; low, high and step must be integers too")
    low, high, step = map(int, numbers)
    return IntDistribution(low, high, log=limits.log, step=step)


def check_values(path: Path, space: dict[str, BaseDistribution]) -> None:
    """Raise UserError for the first choice, or end of a range, that the stage would refuse. Imports the stages."""
    content = params.read(Path("params.yaml"))
    for key, distribution in space.items():
        name = key.split(".")[0]
        cls = declared.section(name)
        params.load(name, cls)  # a fault of params.yaml itself is reported as such
        for value in extremes(distribution):
            params.build(cls, declared.replaced(content, key, value)[name], f"{path}: {name}")


def extremes(distribution: Any) -> tuple[Any, ...]:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    return (distribution.low, distribution.high)


def contains(distribution: Any, value: Any) -> bool:
    """Tell whether a search can try this value."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    within: bool = distribution.low <= value <= distribution.high
    return within and (not distribution.step or _is_whole((value - distribution.low) / distribution.step))


def _is_whole(number: float) -> bool:
    return abs(number - round(number)) < 1e-6


def identity(space: dict[str, BaseDistribution]) -> str:
    """Return a text that is the same for the same space, whatever the order and spelling in the file."""
    return json.dumps({key: distribution_to_json(distribution) for key, distribution in space.items()}, sort_keys=True)
