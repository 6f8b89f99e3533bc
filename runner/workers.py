"""The workers: threads that run what waits in the queue, each experiment in a clone of its own.

A clone is thrown away, so that an experiment can be killed at any moment: nothing of it stays but its checkpoints, from
which it goes on where it is to run again.
"""

import json
import logging
import re
import shutil
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from repository import isolated
from repository.git import git
from repository.isolated import Place
from runner import overrides
from runner.store import Experiment, Queue
from tweets.errors import UserError, one_line

INTERRUPTIONS = 2  # after which an experiment runs again; with one more it has failed
SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_AFTER_AN_ERROR = 5.0
SECONDS_OF_A_WRITE = 0.02  # longer than DVCLive needs for a file, of which it writes one at each step
READS = 5  # of a file that is being written
SECONDS_BETWEEN_SIGNALS = 1.0  # of a shutdown, which sends them to DVC and to this process in whatever order
LOG_BYTES = 256 * 1024  # of an experiment's log, its end
LIVE = Path("dvclive/metrics.json")

log = logging.getLogger("runner")


class _Interrupted(Exception):  # noqa: N818  the experiment has no error
    """Something killed an experiment, which can go on."""


class Workers:
    """The threads, and where the experiments lie."""

    def __init__(self, root: Path, folder: Path, queue: Queue, jobs: int) -> None:
        self.root, self.folder, self.queue = root, folder, queue
        self.cache = isolated.dvc(root, "cache", "dir").strip()
        self._stopping = threading.Event()
        self._added = threading.Condition()
        self._threads = [threading.Thread(target=self._work, name=f"worker-{n}") for n in range(jobs)]

    def start(self) -> None:
        """Put right what a killed runner has left, then run what waits."""
        for experiment in self.queue.all():
            if experiment.state == "running":
                self._recover(experiment)
        for thread in self._threads:
            thread.start()

    def begin_to_stop(self) -> None:
        """Begin nothing more, and end what runs, to go on with it at the next start. A signal's handler may call it."""
        self._stopping.set()

    def stop(self) -> None:
        """Do so, and wait for the threads."""
        self.begin_to_stop()
        with self._added:
            self._added.notify_all()
        for thread in self._threads:
            thread.join()

    def add(self, name: str, params: dict[str, Any], commit: str) -> Experiment:
        """Queue an experiment, and remove what forgotten ones have left. Raises Taken, or Full."""
        with self._added:
            added = self.queue.add(name, params, commit)
            shutil.rmtree(self._place(name, "").folder, ignore_errors=True)
            kept = {self.log_of(experiment.name) for experiment in self.queue.all() if experiment.name != name}
            for path in set(self.folder.glob("logs/*.txt")) - kept:
                path.unlink()
            self._added.notify_all()
        return added

    def cancel(self, name: str) -> Experiment:
        """Cancel an experiment, of one that waits its checkpoints too; return it as it is now. Raises KeyError."""
        with self._added:  # nobody claims it meanwhile
            if self.queue.get(name).state == "queued":
                shutil.rmtree(self._place(name, "").folder, ignore_errors=True)
            return self.queue.cancel(name)

    def log_of(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.txt"

    def tail(self, name: str) -> str:
        """Return the end of an experiment's log, from the begin of a line."""
        with suppress(FileNotFoundError), self.log_of(name).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LOG_BYTES))
            text = file.read().decode("utf-8", "replace")
            return text if size <= LOG_BYTES else text.partition("\n")[2]
        return ""

    def live(self, name: str) -> dict[str, Any] | None:
        """Return how far a running experiment is: the stage, and what DVCLive has written of its training."""
        clone = self._place(name, "").clone
        stages = re.findall(r"^Running stage '(\w+)'", self.tail(name), re.MULTILINE)
        progress: dict[str, Any] = {"stage": stages[-1] if stages else None, "metrics": None, "macro_f1": []}
        with suppress(OSError, ValueError):
            progress["metrics"] = _written_json(clone / LIVE)
        with suppress(OSError, ValueError):
            progress["macro_f1"] = isolated.curve(clone)
        return progress

    def _place(self, name: str, commit: str, local: tuple[str, ...] = ()) -> Place:
        return Place(self.root, self.folder / "work" / name, commit, self.cache, local)

    def _recover(self, experiment: Experiment) -> None:
        """Decide on an experiment that was running when the runner was killed."""
        place = self._place(experiment.name, experiment.commit)
        isolated.end_leftovers(place.clone)
        if experiment.name in isolated.experiments(self.root):
            self._end(experiment, "done", result=result(self.root, experiment.name))
        elif experiment.cancelling:
            self._end(experiment, "cancelled")
        elif _is_complete(place, experiment.name):
            self.queue.put_back(experiment.name, interrupted=False)  # a worker takes it over
        else:
            self._interrupted(experiment, "the runner was killed")

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._added:
                    experiment = self.queue.claim()
                if experiment:
                    self._run(experiment)
                    continue
            except Exception:  # a full disk, for one: what runs is noted, and recovered at the next start
                log.exception("error")
                self._stopping.wait(SECONDS_AFTER_AN_ERROR)
            with self._added:
                self._added.wait(1)

    def _run(self, experiment: Experiment) -> None:
        """Run an experiment, and note how it ended."""
        log.info("running", extra={"experiment": experiment.name})
        try:
            experiment_result = self._ran(experiment)
        except Exception as caught:  # noqa: BLE001  whatever it was, the others run
            if self.queue.get(experiment.name).cancelling:
                self._end(experiment, "cancelled")
            elif self._stopping.wait(SECONDS_BETWEEN_SIGNALS):
                self.queue.put_back(experiment.name, interrupted=False)
            elif isinstance(caught, _Interrupted):
                self._interrupted(experiment, one_line(caught))
            else:
                self._end(experiment, "failed", one_line(caught))
        else:
            self._end(experiment, "done", result=experiment_result)

    def _ran(self, experiment: Experiment) -> dict[str, Any]:
        """Return an experiment's scores. Raises _Interrupted when something killed it, others when it has failed."""
        content = overrides.committed(self.root, experiment.commit)
        local = isolated.local_paths(self.root, [content["fetch"]["path"], content["featurize"]["encoder"]])
        place = self._place(experiment.name, experiment.commit, local)
        if not _is_complete(place, experiment.name):  # as where only its fetch was interrupted
            self._run_dvc(place, experiment)
        try:
            isolated.fetch(place, experiment.name)
        except UserError as error:
            raise _Interrupted(one_line(error)) from None
        return result(self.root, experiment.name)

    def _run_dvc(self, place: Place, experiment: Experiment) -> None:
        """Let DVC run an experiment. Raises _Interrupted when a signal ended it or a stage, UserError when it fails."""
        place.folder.mkdir(parents=True, exist_ok=True)
        isolated.make_clone(place)
        path = self.log_of(experiment.name)
        path.parent.mkdir(exist_ok=True)
        with path.open("ab") as out:
            begin = out.tell()
            process = isolated.start(place, experiment.name, experiment.params, out, start_new_session=True)
            try:
                self._follow(process, experiment.name)
            finally:
                isolated.end_group(process)
        if process.returncode == 0:
            return
        shutil.rmtree(place.clone)
        if process.returncode < 0:
            raise _Interrupted(f"`dvc exp run` was ended by signal {-process.returncode}")
        output = path.read_bytes()[begin:].decode("utf-8", "replace")
        if killed := isolated.killed_in(output):  # by the kernel when memory is short, for one
            raise _Interrupted(killed)
        raise UserError(isolated.error_in(output))

    def _follow(self, process: subprocess.Popen[bytes], name: str) -> None:
        """Wait until DVC ends, or must."""
        while process.poll() is None and not self._stopping.is_set() and not self.queue.get(name).cancelling:
            with suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_BETWEEN_LOOKS)

    def _interrupted(self, experiment: Experiment, how: str) -> None:
        if experiment.interruptions >= INTERRUPTIONS:
            self._end(experiment, "failed", f"{how}, {experiment.interruptions + 1} times")
        else:
            log.warning("interrupted", extra={"experiment": experiment.name, "how": how})
            self.queue.put_back(experiment.name, interrupted=True)

    def _end(self, experiment: Experiment, state: Any, error: str = "", result: Any = None) -> None:
        """Remove what an experiment leaves beside its log, then note how it ended."""
        shutil.rmtree(self._place(experiment.name, "").folder, ignore_errors=True)
        self.queue.end(experiment.name, state, error, result)
        log.info(state, extra={"experiment": experiment.name, "error": error})


def _written_json(path: Path) -> Any:
    """Return what a file holds that another process writes again and again.

    Raises FileNotFoundError where it is not yet there, ValueError where it stays half written.
    """
    for _ in range(READS - 1):
        with suppress(ValueError):
            return json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
        time.sleep(SECONDS_OF_A_WRITE)
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)


def _is_complete(place: Place, name: str) -> bool:
    """Tell whether DVC has finished an experiment in its clone."""
    return (place.clone / ".git").is_dir() and name in isolated.experiments(place.clone)


def result(root: Path, name: str) -> dict[str, Any]:
    """Return the scores of an experiment: on validation, of training's best evaluation, and on the test split."""
    commit = git("rev-parse", isolated.experiments(root)[name], folder=root)

    def read(path: str) -> Any:
        return json.loads(git("show", f"{commit}:{path}", folder=root), parse_constant=lambda _: None)

    test = {key: value for key, value in read("metrics/evaluate.json").items() if isinstance(value, int | float)}
    return {"commit": commit, "valid": read("metrics/train.json")["valid"], "test": test}
