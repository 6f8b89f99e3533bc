"""Two things that DVC leaves to do around experiments.

    python -m tools.experiments share NAME ...
    python -m tools.experiments recover

`share` is `dvc exp push origin NAME ...`, but it fails where origin has another experiment of that name: DVC says so
and exits with 0. `recover` clears the queue after its workers were killed: DVC shows their tasks as running for ever.
"""

import shutil
import time
from contextlib import suppress
from pathlib import Path

import psutil
from dvc.cli import main as dvc
from dvc.exceptions import DvcException
from dvc.repo import Repo
from scmrepo.exceptions import SCMError

from tools.remote import Remote
from tweets import command, errors
from tweets.errors import UserError

ORIGIN = "origin"
SECONDS_TO_END = 60


def share(repo: Repo, names: list[str]) -> None:
    """Push experiments to the Git remote, and their outputs to DVC's. Raises UserError for a name that is taken."""
    Remote(repo).check()
    result = repo.experiments.push(ORIGIN, exp_names=names, push_cache=True)
    done = sorted(result.get("success", []) + result.get("up_to_date", []))
    print(f"experiments: {', '.join(done) or 'none'} at {ORIGIN}, {result['uploaded']} objects in the bucket")
    if taken := sorted(result.get("diverged", [])):
        raise UserError(
            f"{', '.join(taken)}: {ORIGIN} has another experiment of that name; `dvc exp rename` yours, then share it"
        )


def recover(repo: Repo) -> None:
    """Take tasks without a worker out of the queue, end what they still run, and remove their folders.

    Raises UserError while workers run.
    """
    queue = repo.experiments.celery_queue
    if running := workers(repo):
        raise UserError(f"{running} workers run; wait for them, or end them with `dvc queue stop --kill`")
    lost = sorted(entry.name or entry.stash_rev[:7] for entry in queue.iter_active())
    if lost:
        end(repo, lost)
        dvc(["queue", "remove", *lost])
    for folder in Path(repo.tmp_dir).glob("exps/tmp*"):
        shutil.rmtree(folder)
    print(f"experiments: {', '.join(lost)}: ended, queue again" if lost else "experiments: no task was lost")


def workers(repo: Repo) -> int:
    """Return how many of this repository's queue workers run, by their processes: a busy one may not answer DVC."""
    count = 0
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            count += "queue-worker" in process.cmdline() and process.cwd() == str(repo.root_dir)
    return count


def end(repo: Repo, names: list[str]) -> None:
    """End the tasks: the first call kills what still trains, a later one notes that it has ended."""
    until = time.monotonic() + SECONDS_TO_END
    while list(repo.experiments.celery_queue.iter_active()):
        dvc(["queue", "kill", "--force", *names])
        if time.monotonic() > until:
            raise UserError(f"{', '.join(names)}: still running; `dvc queue logs` says what they do")
        time.sleep(0.5)


def main() -> None:
    parser = command.parser(__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("share", help="push to the Git remote and to the bucket").add_argument("name", nargs="+")
    actions.add_parser("recover", help="after workers were killed")
    asked = parser.parse_args()
    try:
        with Repo() as repo:
            if asked.action == "share":
                share(repo, asked.name)
            else:
                recover(repo)
    except (DvcException, SCMError) as error:
        raise UserError(errors.one_line(error)) from None


if __name__ == "__main__":
    command.run("experiments", main)
