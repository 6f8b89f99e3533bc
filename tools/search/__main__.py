"""Search for better params with Optuna: each trial is a DVC experiment, scored on validation.

    python -m tools.search [search.yaml]

The study lies in .cache/search/STUDY/; started again, a search goes on where it ended, however that was. Ends with a
table, a page of plots, and the line that applies the best experiment. The test split is never read.
"""

import time
from pathlib import Path

import numpy as np
import optuna
from filelock import FileLock, Timeout
from optuna.distributions import BaseDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from repository import isolated
from repository.git import git
from repository.isolated import Place
from tools.search.report import assignments, duration, outcome, ranked, table, write_page
from tools.search.space import (
    SearchSettings,
    check_values,
    contains,
    current,
    distributions,
    extremes,
    identity,
    load_settings,
)
from tools.search.trial import run_experiment, validation_scores
from tweets import command, errors
from tweets.errors import UserError

FOLDER = Path(".cache/search")
FAILURES = 3  # trials of a start that fail, none that does not: then something else is wrong than their params
# Of a trial that failed in itself; one that was interrupted has no such attribute and is run again.
ERROR = "error"
AGAIN = "again"  # the number of the interrupted trial that this one repeats

Space = dict[str, BaseDistribution]


def open_study(folder: Path, settings: SearchSettings, space: Space) -> optuna.Study:
    """Return the study in a folder, made if there is none. Raises UserError when it is of another space."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    database, pruner = folder / "study.db", settings.pruner
    try:
        study = optuna.create_study(
            # A connection for each question, closed after it: no pool would close those that are left.
            storage=RDBStorage(f"sqlite:///{database}", engine_kwargs={"poolclass": NullPool}),
            study_name=settings.study,
            load_if_exists=True,
            direction="maximize",
            # Optuna counts steps from 0, evaluations count from 1.
            pruner=optuna.pruners.MedianPruner(pruner.startup_trials, pruner.warmup_evaluations + 1),
        )
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise UserError(
            f"{database}: no study ({errors.one_line(error)[:100]}); remove {folder} to begin anew"
        ) from None
    if study.trials and study.user_attrs["space"] != identity(space):
        raise UserError(f"study {settings.study} has trials of another space: name another study, or remove {folder}")
    study.set_user_attr("space", identity(space))
    return study


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that are complete, were stopped, or failed in themselves."""
    done = (TrialState.COMPLETE, TrialState.PRUNED)
    return [trial for trial in study.trials if trial.state in done or ERROR in trial.user_attrs]


def name_of(study: optuna.Study, number: int) -> str:
    """Return the name of a trial's experiment."""
    return f"{study.study_name}-{number}"


def check_ready(study: optuna.Study, settings: SearchSettings, path: Path, space: Space, place: Place) -> None:
    """Raise UserError when the trials to come could not run, or would not be what they seem."""
    changed = set(git("diff", "--name-only", "HEAD", folder=place.root).splitlines())
    changed = {name for name in changed if (place.root / name).resolve() != path.resolve()}
    if changed:
        raise UserError(f"{min(changed)}: changed since the last commit, which trials start from: `git commit` first")
    commit = study.user_attrs["commit"] if study.trials else place.commit
    if commit != place.commit:
        raise UserError(
            f"study {settings.study} belongs to commit {commit[:7]}, HEAD is {place.commit[:7]}:"
            f" name another study in {path}, or check that commit out"
        )
    mine = {name_of(study, trial.number) for trial in study.trials}
    prefix = f"{settings.study}-"
    for name in isolated.experiments(place.root):
        if name.startswith(prefix) and name.removeprefix(prefix).isdigit() and name not in mine:
            raise UserError(
                f"experiment {name} exists and is none of this study: name another study in {path},"
                f" or `dvc exp remove {name}`"
            )
    check_values(path, space)
    study.set_user_attr("commit", place.commit)


def recover(study: optuna.Study, root: Path) -> None:
    """Put right what a killed search left: complete the trial whose experiment is there, run the others again."""
    made = isolated.experiments(root)
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if ref := made.get(name_of(study, trial.number)):
            study.tell(trial.number, validation_scores(root, ref)[0])
        else:
            run_again(study, trial)


def run_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Enqueue an interrupted trial's params. In this order: a kill in between must not lose them."""
    if not any(other.user_attrs.get(AGAIN) == trial.number for other in study.trials):
        study.enqueue_trial(trial.params, user_attrs={AGAIN: trial.number})
    study.tell(trial.number, state=TrialState.FAIL)


def run_trial(study: optuna.Study, settings: SearchSettings, space: Space, place: Place) -> FrozenTrial:
    """Run the next trial and return it finished. However it is interrupted, its params are enqueued again."""
    # From the seed and the trials so far, so that a search that was interrupted tries the same as one that was not.
    seed = np.random.SeedSequence([settings.seed, len(finished(study))]).generate_state(1)[0]
    study.sampler = optuna.samplers.TPESampler(seed=int(seed))
    trial = study.ask(space)

    def is_hopeless(evaluation: int, score: float) -> bool:
        trial.report(score, evaluation)
        return trial.should_prune()

    name = name_of(study, trial.number)
    try:
        ended = run_experiment(place, name, trial.params, is_hopeless)
        if not ended.complete:
            if ended.error:
                trial.set_user_attr(ERROR, ended.error)
            return study.tell(trial, state=TrialState.FAIL if ended.error else TrialState.PRUNED)
        score, curve = validation_scores(place.root, isolated.experiments(place.root)[name])
        for evaluation, value in enumerate(curve, 1):  # those after the last look, or all of a training not run anew
            if evaluation not in study.trials[trial.number].intermediate_values:
                trial.report(value, evaluation)
        return study.tell(trial, score)
    except BaseException:
        run_again(study, study.trials[trial.number])
        raise


def run_trials(study: optuna.Study, settings: SearchSettings, space: Space, place: Place) -> None:
    """Run the trials that are missing, with a line for each. Raises UserError when the first few all fail."""
    now = current()
    if not study.trials and all(contains(space[key], now[key]) for key in space):
        study.enqueue_trial({key: now[key] for key in space})  # the committed params, to hold the others against
    begin, failed = time.monotonic(), 0
    total, before = settings.trials, len(finished(study))
    for number in range(before + 1, total + 1):
        trial = run_trial(study, settings, space, place)
        failed += trial.state == TrialState.FAIL
        ran = number - before
        left = (time.monotonic() - begin) / ran * (total - number)
        print(
            f"search: {number}/{total}: {name_of(study, trial.number)}: {assignments(trial)}:"
            f" {outcome(trial)}; {duration(trial)}, about {left / 60:.0f} min left",
            flush=True,
        )
        if failed == ran >= FAILURES:
            raise UserError(f"all of the first {ran} trials failed; the last one's output: {place.folder}/logs")


def report(study: optuna.Study, place: Place) -> str:
    """Write the page and return the table, with the line that applies the best experiment."""
    trials = finished(study)
    page = place.folder / "index.html"
    write_page(page, study, trials)
    made = isolated.experiments(place.root)
    complete = [trial for trial in ranked(trials) if trial.state == TrialState.COMPLETE]
    best = next((name for trial in complete if (name := name_of(study, trial.number)) in made), None)
    last = f"apply with: dvc exp apply {best} && dvc repro" if best else "no experiment to apply"
    return f"{table(study, trials)}\n\nplots: {page.relative_to(place.root)}\n{last}"


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("file", nargs="?", type=Path, default=Path("search.yaml"), help="the space and the settings")
    path = parser.parse_args().file
    settings = load_settings(path)
    space = distributions(path, settings.space)
    folder = Path.cwd() / FOLDER / settings.study
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / "lock", timeout=0).acquire()
    except Timeout:
        raise UserError(f"study {settings.study}: another search of it is running; wait for it or end it") from None
    with lock:
        study = open_study(folder, settings, space)
        place = make_place(folder, space)
        if len(finished(study)) < settings.trials:
            isolated.check_identity(place.root)
            check_ready(study, settings, path, space, place)
            recover(study, place.root)
            run_trials(study, settings, space, place)
        print(report(study, place))


def make_place(folder: Path, space: Space) -> Place:
    root = Path.cwd()
    now = current()
    choices = [value for distribution in space.values() for value in extremes(distribution)]
    commit = git("rev-parse", "HEAD", folder=root)
    local = isolated.local_paths(root, [now["fetch.path"], now["featurize.encoder"], *choices])
    return Place(root, folder, commit, isolated.dvc(root, "cache", "dir").strip(), local)


if __name__ == "__main__":
    command.run("search", main)
