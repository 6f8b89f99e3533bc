"""How large what the service needs is, beside what the pipeline needs.

    python -m benchmarks.environments

Adds up the files of the packages that requirements-serve.txt and requirements.txt ask for, with all that those need, as
they are installed here. Prints both sums, in MB, and the largest packages of each, and writes
benchmarks/results/environments.json.
"""

from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import cache_from_source
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tweets import command, files
from tweets.errors import UserError

RESULT = Path("benchmarks/results/environments.json")
LARGEST = 4


def required(path: Path) -> list[Requirement]:
    """Return what a requirements file asks for on this system."""
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    requirements = map(Requirement, filter(None, lines))
    return [requirement for requirement in requirements if not requirement.marker or requirement.marker.evaluate()]


def installed(wanted: list[Requirement]) -> dict[str, Distribution]:
    """Return the distributions that the requirements need, directly or not. Raises UserError when one is missing."""
    distributions: dict[str, Distribution] = {}
    seen = set()
    while wanted:
        requirement = wanted.pop()
        name = str(canonicalize_name(requirement.name))
        for extra in ("", *sorted(requirement.extras)):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                distributions[name] = distribution(name)
            except PackageNotFoundError:
                raise UserError(f"{name}: not installed; `make setup-dev` installs it") from None
            needs = map(Requirement, distributions[name].requires or [])
            wanted += [need for need in needs if not need.marker or need.marker.evaluate({"extra": extra})]
    return distributions


def megabytes(package: Distribution) -> float:
    """Return the size of the files that were installed with a distribution, and of what Python compiled of them."""
    paths = {Path(str(file.locate())) for file in package.files or []}
    paths |= {Path(cache_from_source(path)) for path in paths if path.suffix == ".py"}
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


def main() -> None:
    report = {}
    for name in ("requirements-serve.txt", "requirements.txt"):
        sizes = {package: megabytes(installation) for package, installation in installed(required(Path(name))).items()}
        largest = sorted(sizes, key=lambda package: -sizes[package])[:LARGEST]
        report[name] = {"megabytes": sum(sizes.values()), "packages": len(sizes)}
        parts = ", ".join(f"{package} {sizes[package]:.0f}" for package in largest)
        print(f"{name}: {sum(sizes.values()):,.0f} MB in {len(sizes)} packages; the largest: {parts}")
    served, trained = (environment["megabytes"] for environment in report.values())
    print(f"the service needs {served / trained:.2f} of what the pipeline needs")
    files.write_json(RESULT, {**report, "ratio": served / trained})


if __name__ == "__main__":
    command.run("environments", main, __doc__)
