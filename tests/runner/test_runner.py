"""Experiments over HTTP: a real runner in a shrunken checkout, killed for real, and its part of the page."""

import contextlib
import json
import re
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import DEFAULT, Mock

import psutil
import pytest
import requests
import uvicorn
from fastapi.testclient import TestClient
from filelock import FileLock
from playwright.sync_api import Browser, expect

from repository import isolated
from runner import overrides
from runner.__main__ import Server
from runner.app import create
from runner.settings import RunnerSettings
from runner.store import Full, Queue, Taken
from runner.workers import INTERRUPTIONS, LOG_BYTES, Workers, _Interrupted
from serve import keys
from serve.metrics import RequestMetrics
from tests.support.browser import BROWSER_WAITS
from tests.support.clones import ENVIRONMENT, MEASURED, ROOT, commit, run, wait_for
from tests.support.serving import Running, serving
from tweets import files
from tweets.errors import UserError

pytestmark = [pytest.mark.walk, pytest.mark.xdist_group("runner")]  # they share a runner
KEY = secrets.token_urlsafe(32)
SECONDS = 600  # for the start of Python and its libraries, several times, on a busy machine
LONG = {"train.epochs": 500, "train.evaluations": 500, "train.patience": 1000}
WORK = Path(".cache/runner/work")


# ---- Without a process


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    made = Queue(tmp_path / "queue.db", size=2)
    yield made
    made.close()


def test_experiments_run_in_their_order_and_one_that_is_put_back_is_the_next(queue: Queue) -> None:
    queue.add("a", {"train.lr": 0.1}, "c0ffee")
    queue.add("b", {}, "c0ffee")
    first = queue.claim()
    assert first
    assert (first.name, first.state, first.params, first.commit) == ("a", "running", {"train.lr": 0.1}, "c0ffee")
    queue.put_back("a", interrupted=True)
    again = queue.claim()
    assert again
    assert (again.name, again.interruptions, again.started) == ("a", 1, first.started)
    queue.end("a", "done", result={"test": 1})
    assert [(each.name, each.state) for each in queue.all()] == [("b", "queued"), ("a", "done")]
    assert queue.get("a").result == {"test": 1}


def test_a_name_that_waits_or_runs_is_taken_and_one_that_has_ended_is_free(queue: Queue) -> None:
    queue.add("a", {}, "c0ffee")
    with pytest.raises(Taken):
        queue.add("a", {}, "c0ffee")
    assert queue.claim()
    with pytest.raises(Taken):
        queue.add("a", {}, "c0ffee")
    queue.end("a", "failed", "why")
    assert queue.add("a", {}, "c0ffee").error == ""
    assert len(queue.all()) == 1


def test_a_full_queue_takes_no_more_and_what_runs_takes_no_place_in_it(queue: Queue) -> None:
    for name in "ab":
        queue.add(name, {}, "c0ffee")
    with pytest.raises(Full):
        queue.add("c", {}, "c0ffee")
    queue.claim()
    queue.add("c", {}, "c0ffee")
    assert queue.cancel("b").state == "cancelled"
    assert queue.cancel("a").cancelling


def test_what_has_ended_is_forgotten_at_last(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.store.KEPT", 2)
    for number in range(5):
        queue.add(f"n{number}", {}, "c0ffee")
        queue.claim()
        queue.end(f"n{number}", "done")
    queue.add("last", {}, "c0ffee")
    assert [each.name for each in queue.all()] == ["last", "n4", "n3"]


def test_a_queue_outlives_its_process(queue: Queue, tmp_path: Path) -> None:
    queue.add("a", {"train.lr": 0.1}, "c0ffee")
    other = Queue(tmp_path / "queue.db", size=2)
    assert other.all() == queue.all()
    other.close()


def test_a_file_that_is_no_queue_is_refused_in_a_line(queue: Queue, tmp_path: Path) -> None:
    for number in range(3):
        queue.add(f"a{number}", {"train.lr": 0.1}, "c0ffee" * 1000)
        queue.cancel(f"a{number}")
    queue.close()
    damaged = bytearray((tmp_path / "queue.db").read_bytes())
    damaged[6000:] = b"\xff" * len(damaged[6000:])
    (tmp_path / "damaged.db").write_bytes(damaged)
    (tmp_path / "junk.db").write_text("junk " * 1000)
    (tmp_path / "folder.db").mkdir()
    with contextlib.closing(sqlite3.connect(tmp_path / "older.db")) as file:
        file.execute("CREATE TABLE experiments (name TEXT)")
    for name in ("junk", "folder", "older", "damaged"):
        with pytest.raises(UserError, match=rf"{name}\.db: no queue \(.*\); move it away to start a new one"):
            Queue(tmp_path / f"{name}.db", size=2)


COMMITTED = files.read_yaml(ROOT / "params.yaml")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"train.lrr": 1}, "train.lrr: no such param; did you mean train.lr"),
        ({"prepare.clean": {}}, "prepare.clean: no such param; did you mean prepare.clean."),
        ({"x" * 1000: 1}, f"{'x' * 80}: no such param"),
        ({"train.lr": 0}, "train.lr = 0: should be greater than 0"),
        ({"train.lr": float("nan")}, "train.lr = nan: should be a finite number"),
        ({"train.epochs": "2"}, "train.epochs = '2': should be a valid integer"),
        ({"train.lr": "${oc.env:HOME}"}, "train.lr = '${oc.env:HOME}': should be a valid number"),
        ({"prepare.normalise.urls": "${oc.env:HOME}"}, "should be 'keep', 'token' or 'remove'"),
        ({"train.lr": 1e-4, "prepare.seed": None}, "prepare.seed = None: should be a valid integer"),
        ({"fetch.path": "/etc/passwd"}, f"fetch.path: {overrides.CLOSED}"),
        ({"fetch.source": "covid19"}, f"fetch.source: {overrides.CLOSED}"),
        ({"fetch.csv.text": "${oc.env:HOME}"}, f"fetch.csv.text: {overrides.CLOSED}"),
        ({"featurize.encoder": "someone/else"}, f"featurize.encoder: {overrides.CLOSED}"),
        ({"prepare.merge_labels": [["a", "b"]]}, f"prepare.merge_labels: {overrides.CLOSED}"),
        ({"train.lr": "3e-5"}, "train.lr = '3e-5': should be a valid number"),
        ({"train.epochs": 10**400}, "train.epochs = "),
        (
            {"train.batch_size": 2**70},
            "train.batch_size = 1180591620717411303424: should be less than or equal to 65536",
        ),
        ({"train.lr": 1e300}, "train.lr = 1e+300: should be less than or equal to 10"),
        ({"\ud800": 1}, "\ud800: no such param"),
    ],
)
def test_params_that_are_wrong_or_closed_are_named(params: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        overrides.checked(COMMITTED, params)
    assert message in str(raised.value)


def test_params_are_read_as_their_stages_read_them() -> None:
    given = {"train.lr": 3e-5, "train.dropout": 0, "baseline.word_ngrams": [1, 3], "prepare.clean.stem": True}
    assert overrides.checked(COMMITTED, given) == {**given, "train.dropout": 0.0}


def test_no_param_that_can_be_changed_holds_text_of_the_clients() -> None:
    from repository import declared

    kinds = {key: kind for stage in COMMITTED for key, kind in declared.kinds(stage)}
    closed = {key for key, kind in kinds.items() if not overrides.is_open(key, kind)}
    assert closed == {
        *(key for key in kinds if key.startswith("fetch.")),
        "prepare.merge_labels",
        "prepare.drop_labels",
        "featurize.encoder",
    }


@pytest.fixture
def workers(clone: Path, queue: Queue) -> Workers:
    return Workers(clone, clone / ".cache/runner", queue, jobs=1)


def test_what_ran_when_the_runner_was_killed_is_decided_on(workers: Workers, queue: Queue) -> None:
    head = run(workers.root, "git", "rev-parse", "HEAD").stdout.strip()
    expected = {"queued": ("queued", ""), "cancelled": ("cancelled", ""), "done": ("done", "")}
    expected["failed"] = ("failed", f"the runner was killed, {INTERRUPTIONS + 1} times")
    queue.size = len(expected)
    for name in expected:
        queue.add(name, {"train.lr": 0.1}, head)
        queue.claim()
    queue.cancel("cancelled")
    for _ in range(INTERRUPTIONS):
        queue.put_back("failed", interrupted=True)
        queue.claim()
    run(workers.root, "git", "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/done", head)  # fetched, and not yet noted
    for experiment in queue.all():
        left = workers.folder / "work" / experiment.name / "checkpoints"
        left.mkdir(parents=True)
        workers._recover(experiment)
        assert left.exists() == (experiment.name == "queued")  # which goes on from there
    assert {each.name: (each.state, each.error) for each in queue.all()} == expected
    result = queue.get("done").result
    assert result
    assert result["commit"] == head
    assert result["valid"] == json.loads((workers.root / "metrics/train.json").read_text())["valid"]
    assert result["test"]["macro_f1"] == json.loads((workers.root / "metrics/evaluate.json").read_text())["macro_f1"]


def complete(workers: Workers, name: str) -> str:
    """Leave an experiment as DVC leaves it when it has finished, in its clone only; return its commit."""
    clone = workers.folder / "work" / name / "clone"
    run(workers.root, "git", "clone", "--quiet", str(workers.root), str(clone))
    commit(clone, "commit", "--quiet", "--allow-empty", "-m", name)
    head, made = run(clone, "git", "rev-parse", "HEAD^", "HEAD").stdout.split()
    run(clone, "git", "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/{name}", made)
    queue = workers.queue
    queue.add(name, {"train.lr": 0.1}, head)
    queue.claim()
    return made


def test_what_dvc_finished_without_the_runner_is_taken_over(workers: Workers, queue: Queue) -> None:
    made = complete(workers, "a")
    workers._recover(queue.get("a"))
    again = queue.claim()
    assert again
    assert again.interruptions == 0
    workers._run(again)
    found = queue.get("a")
    assert (found.state, found.error) == ("done", "")
    assert found.result
    assert found.result["commit"] == made
    assert not (workers.folder / "work/a").exists()


def test_a_fetch_that_fails_is_tried_again(workers: Workers, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    complete(workers, "a")
    with monkeypatch.context() as patch:
        patch.setattr(isolated, "fetch", Mock(side_effect=UserError("git fetch: cannot lock ref")))
        workers._run(queue.get("a"))
    again = queue.claim()
    assert again
    assert again.interruptions == 1
    workers._run(again)
    assert queue.get("a").state == "done"


def test_what_is_not_yet_written_or_half_is_not_shown(workers: Workers) -> None:
    assert workers.tail("a") == ""
    assert workers.live("a") == {"stage": None, "metrics": None, "macro_f1": []}
    workers.log_of("a").parent.mkdir(parents=True)
    workers.log_of("a").write_text("first\n" + "x\n" * LOG_BYTES + "Running stage 'train':\n> python")
    assert workers.tail("a").startswith("x\nx\n")
    assert workers.tail("a").endswith("> python")
    assert LOG_BYTES - 3 < len(workers.tail("a")) <= LOG_BYTES
    live = workers.folder / "work/a/clone/dvclive/metrics.json"
    live.parent.mkdir(parents=True)
    for text, metrics in (('{"step": 1, "train": {"lo', None), ('{"train": {"loss": NaN}}', {"train": {"loss": None}})):
        live.write_text(text)
        assert workers.live("a") == {"stage": "train", "metrics": metrics, "macro_f1": []}


def test_a_file_that_is_being_written_is_read_when_it_is_whole(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = workers.folder / "work/a/clone/dvclive/metrics.json"
    live.parent.mkdir(parents=True)
    live.write_text("")
    curve = workers.folder / "work/a/clone" / isolated.CURVE
    curve.parent.mkdir(parents=True)
    curve.write_text("step\tmacro_f1\n1\t0.5\n")
    monkeypatch.setattr("runner.workers.time.sleep", lambda _: live.write_text('{"step": 1}'))
    assert workers.live("a") == {"stage": None, "metrics": {"step": 1}, "macro_f1": [0.5]}
    live.write_text("{")
    monkeypatch.setattr("runner.workers.time.sleep", lambda _: None)
    assert workers.live("a") == {"stage": None, "metrics": None, "macro_f1": [0.5]}


def die_at_once(shutdown: Callable[[], None]) -> Callable[..., None]:
    """Return what stands for DVC where all processes are sent SIGTERM, and it dies before the runner has noticed."""

    def run_dvc(*_: Any) -> None:
        threading.Timer(0.1, shutdown).start()
        raise _Interrupted("`dvc exp run` was ended by signal 15")

    return run_dvc


def test_a_stop_is_no_interruption_and_nothing_begins_after_it(
    workers: Workers, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = run(workers.root, "git", "rev-parse", "HEAD").stdout.strip()
    server = Server(uvicorn.Config(Mock()), workers)
    monkeypatch.setattr(workers, "_run_dvc", die_at_once(lambda: server.handle_exit(signal.SIGTERM, None)))
    for name in "ab":
        queue.add(name, {}, head)
    workers.start()
    try:
        wait_for(lambda: not any(thread.is_alive() for thread in workers._threads), 300)
    finally:
        workers.stop()
    assert server.should_exit
    assert [(each.state, each.interruptions, bool(each.started)) for each in queue.all()] == [
        ("queued", 0, False),
        ("queued", 0, True),
    ]


def test_a_worker_outlives_a_queue_that_cannot_be_read_for_a_moment(
    workers: Workers, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete(workers, "a")
    monkeypatch.setattr("runner.workers.SECONDS_AFTER_AN_ERROR", 0.1)
    full = sqlite3.OperationalError("database or disk is full")
    claim = Mock(side_effect=[full, *[DEFAULT] * 1000], wraps=queue.claim)
    monkeypatch.setattr(queue, "claim", claim)
    workers.start()
    try:
        wait_for(lambda: queue.get("a").state == "done", SECONDS)
    finally:
        workers.stop()
    assert claim.call_count >= 2


@pytest.fixture
def client(workers: Workers) -> TestClient:
    """A client of the application whose workers do not run."""
    application = create(RunnerSettings(admin_key=keys.hashed(KEY)), workers, RequestMetrics())
    return TestClient(application, headers={"Authorization": f"Bearer {KEY}"})


def test_a_name_that_is_used_again_has_a_new_log_and_forgotten_ones_have_none(
    workers: Workers, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.store.KEPT", 1)
    workers.log_of("old").parent.mkdir(parents=True)
    for name in ("old", "failed", "failed"):
        assert workers.add(name, {}, "c0ffee").state == "queued"
        assert workers.tail(name) == ""
        workers.log_of(name).write_text("Running stage 'evaluate'\n")
        left = workers.folder / "work" / name / "clone"
        left.mkdir(parents=True)
        queue.claim()
        queue.end(name, "failed", "why")
    workers.add("new", {}, "c0ffee")
    assert [path.stem for path in workers.log_of("old").parent.iterdir()] == ["failed"]
    workers.add("failed", {}, "c0ffee")
    assert not left.exists()
    assert list(workers.log_of("old").parent.iterdir()) == []


def test_what_waits_again_and_is_cancelled_leaves_nothing(client: TestClient, workers: Workers, queue: Queue) -> None:
    queue.add("a", {}, "c0ffee")
    queue.claim()
    (workers.folder / "work/a/checkpoints").mkdir(parents=True)
    queue.put_back("a", interrupted=False)
    assert client.delete("/experiments/a").json()["state"] == "cancelled"
    assert not (workers.folder / "work/a").exists()


def test_params_are_not_held_against_the_schema_of_other_code(client: TestClient, clone: Path) -> None:
    wanted = {"params": {"train.lr": -1}}
    for path, status in ((Path("README.md"), 422), (Path("stages/train.py"), 503)):
        with (clone / path).open("a") as file:
            file.write("# changed\n")
        commit(clone, "commit", "-qam", "Change")
        answer = client.post("/experiments", json=wanted)
        assert answer.status_code == status
    assert answer.json() == {"error": "the code has changed since the runner started; restart it"}


@pytest.mark.parametrize(
    "body",
    [
        rb'{"params": {"\ud800": 1}}',
        rb'{"params": {"train.lr": "\ud800"}}',
        b'{"params": {"train.epochs": 1%s}}' % (b"0" * 400),
        b'{"params": {"train.epochs": 1e400}}',
        b'{"params": {"train.lr": NaN}}',
        rb'{"params": {"train.lr": 0.1}, "name": "\ud800"}',
        rb'{"\ud800": 1}',
        b'{"params": %s}' % (b'{"a":' * 5000),
    ],
)
def test_no_body_is_an_error_of_the_runner(client: TestClient, body: bytes) -> None:
    answer = client.post("/experiments", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert list(answer.json()) == ["error"]
    assert len(answer.text) < 1000


def test_without_the_key_only_health_is_told(client: TestClient) -> None:
    for method, path in (("GET", ""), ("POST", ""), ("GET", "/a"), ("GET", "/a/log"), ("DELETE", "/a")):
        headers = {"Authorization": "Bearer x"}
        answer = client.request(method, f"/experiments{path}", headers=headers, json={"params": 1})
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    for path in ("/", "/docs", "/openapi.json", "/healthy"):
        assert client.get(path, headers={"Authorization": ""}).status_code == 401
    assert client.get("/health", headers={"Authorization": ""}).json() == {"live": True}


def test_a_queue_that_cannot_be_used_is_told(client: TestClient, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "queue.db")) as file:
        file.execute("DROP TABLE experiments")
    answer = client.get("/experiments")
    assert (answer.status_code, answer.json()) == (
        503,
        {"error": "the queue cannot be used: no such table: experiments"},
    )


# ---- The process


@dataclass
class Checkout:
    """A checkout with a runner beside it, which can be ended and started."""

    folder: Path
    port: int
    page_port: int  # of the service whose page may ask
    running: Running | None = None

    @property
    def page(self) -> str:
        return f"http://127.0.0.1:{self.page_port}"

    def start(self) -> Running:
        log = self.folder.parent / f"runner-{len(list(self.folder.parent.glob('runner-*')))}.log"
        with log.open("wb") as stderr:
            settings = environment(port=self.port, page_origin=self.page, log_level="debug")
            process = subprocess.Popen([sys.executable, "-m", "runner"], cwd=self.folder, env=settings, stderr=stderr)
        self.running = Running(process, log, self.port)
        wait_for(lambda: "at port" in log.read_text() or process.poll() is not None, SECONDS)
        assert process.poll() is None, log.read_text()
        return self.running

    def ask(self, method: str, path: str = "", key: str = KEY, **options: Any) -> requests.Response:
        url = f"http://127.0.0.1:{self.port}/experiments{path}"
        return requests.request(method, url, headers={"Authorization": f"Bearer {key}"}, timeout=SECONDS, **options)

    def add(self, params: dict[str, Any], name: str) -> requests.Response:
        return self.ask("POST", json={"params": params, "name": name})

    def shown(self, name: str) -> Any:
        return self.ask("GET", f"/{name}").json()

    def wait_until(self, name: str, *states: str) -> Any:
        wait_for(lambda: self.shown(name)["state"] in states, SECONDS)
        return self.shown(name)

    def log(self, name: str) -> str:
        return self.ask("GET", f"/{name}/log").text

    def processes(self) -> list[psutil.Process]:
        """Return the processes of experiments: those whose current folder is, or was, a clone."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.cwd().startswith(str(self.folder / WORK)) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def dvc(self) -> psutil.Process:
        [found] = [process for process in self.processes() if {"dvc", "exp", "run"} <= set(process.cmdline())]
        return found


def environment(**settings: Any) -> dict[str, str]:
    kept = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("TWEETS_")}
    given = {"admin_key": keys.hashed(KEY), "queue_size": 2, **settings}
    return {
        **kept,
        **MEASURED,
        **{f"TWEETS_{name.upper()}": str(value) for name, value in given.items() if value is not None},
    }


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def checkout(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    folder = shutil.copytree(reproduced, tmp_path_factory.mktemp("runner") / "checkout", symlinks=True)
    made = Checkout(folder, free_port(), free_port())
    try:
        made.start()
        yield made
    finally:
        if made.running:
            made.running.process.kill()
            made.running.process.wait()
        for process in made.processes():
            process.kill()


@pytest.fixture
def training(checkout: Checkout) -> str:
    """The name of an experiment that trains, and goes on for minutes; the tests of this module share it."""
    shown = checkout.ask("GET").json()["experiments"]
    if not any(experiment["name"] == "long" and experiment["state"] in ("queued", "running") for experiment in shown):
        assert checkout.add(LONG, "long").status_code == 202
    wait_for(lambda: (checkout.shown("long")["live"] or {}).get("macro_f1"), SECONDS)
    return "long"


def refused(folder: Path, **settings: Any) -> str:
    """Return the one line with which a runner that cannot start ends."""
    result = subprocess.run(
        [sys.executable, "-m", "runner"],
        cwd=folder,
        env={**environment(**settings), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    return line.removeprefix("runner: ")


def test_there_is_no_runner_without_a_hash_of_a_key_and_none_is_shown(tmp_path: Path) -> None:
    told = "needs the SHA-256 of a key, as `python -m serve.keys` prints it"
    assert refused(tmp_path, admin_key=None) == f"TWEETS_ADMIN_KEY: Field required: {told}"
    line = refused(tmp_path, admin_key=KEY, page_origin="http://x/path")
    assert line.startswith("TWEETS_ADMIN_KEY: String should match")
    assert "TWEETS_PAGE_ORIGIN = 'http://x/path'" in line
    assert KEY not in line


def test_a_second_runner_in_a_checkout_is_refused(tmp_path: Path) -> None:
    shutil.copy(ROOT / "requirements.txt", tmp_path)
    (tmp_path / ".cache/runner").mkdir(parents=True)
    with FileLock(tmp_path / ".cache/runner/lock"):
        assert refused(tmp_path).endswith(".cache/runner: another runner works here; end it first")
    assert refused(tmp_path).startswith("dvc cache: ")  # and none runs elsewhere than in a checkout


def test_all_but_health_needs_the_key(checkout: Checkout) -> None:
    assert requests.get(f"http://127.0.0.1:{checkout.port}/health", timeout=SECONDS).json() == {"live": True}
    for method, path in (("GET", ""), ("POST", ""), ("GET", "/x"), ("GET", "/x/log"), ("DELETE", "/x")):
        for key in ("wrong", keys.hashed(KEY), "", "ключ"):
            header = f"Bearer {key}".encode()
            url = f"http://127.0.0.1:{checkout.port}/experiments{path}"
            answer = requests.request(method, url, headers={"Authorization": header}, timeout=SECONDS)
            assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
            what = "an unknown key" if key else "no key"
            assert answer.json() == {"error": f"{what}: send `Authorization: Bearer KEY`"}
    for path in ("docs", "openapi.json", "metrics"):
        assert requests.get(f"http://127.0.0.1:{checkout.port}/{path}", timeout=SECONDS).status_code == 401
        url = f"http://127.0.0.1:{checkout.port}/{path}"
        assert requests.get(url, headers={"Authorization": f"Bearer {KEY}"}, timeout=SECONDS).status_code == 404


def test_only_the_page_may_ask_from_a_browser(checkout: Checkout) -> None:
    for origin, allowed in ((checkout.page, checkout.page), ("http://evil.example", None)):
        headers = {"Origin": origin, "Access-Control-Request-Method": "DELETE"}
        url = f"http://127.0.0.1:{checkout.port}/experiments/x"
        for method in ("OPTIONS", "GET"):
            answer = requests.request(method, url, headers=headers, timeout=SECONDS)
            assert answer.headers.get("Access-Control-Allow-Origin") == allowed


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"params": {"train.lr": -1}}, 422, "train.lr = -1: should be greater than 0"),
        ({"params": {"fetch.path": "/etc/passwd"}}, 422, f"fetch.path: {overrides.CLOSED}"),
        ({"params": {"train.lr": "x" * 5000}}, 422, "train.lr = 'xxx"),
        ({"params": {}}, 422, "body.params: Dictionary should have at least 1 item"),
        ({"params": {"train.lr": 1}, "name": "../x"}, 422, "body.name: String should match pattern"),
        ({"params": {"train.lr": 1}, "target": "train"}, 422, "body.target: Extra inputs are not permitted"),
        ({"params": {"train.lr": "x" * 70_000}}, 413, "the body is too large: 65536 bytes are allowed"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(checkout: Checkout, body: Any, status: int, message: str) -> None:
    answer = checkout.ask("POST", json=body)
    assert answer.status_code == status
    assert answer.json()["error"].startswith(message)
    assert len(answer.json()["error"]) <= 600


def test_a_number_that_python_does_not_read_is_refused(checkout: Checkout) -> None:
    url, body = f"http://127.0.0.1:{checkout.port}/experiments", b'{"params": {"train.epochs": 1' + b"0" * 5000 + b"}}"
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    assert requests.post(url, data=body, headers=headers, timeout=SECONDS).status_code == 400


def test_an_error_in_the_runner_is_told_in_its_log_alone(checkout: Checkout) -> None:
    head = checkout.folder / ".git/HEAD"
    head.rename(head.with_name("away"))
    try:
        answer = checkout.add({"train.lr": 0.002}, "next")
    finally:
        head.with_name("away").rename(head)
    told = {"error": "an error in the service; its log has it under the request's id"}
    assert (answer.status_code, answer.json()) == (500, told)
    assert checkout.running
    log = checkout.running.log
    wait_for(lambda: "Traceback" in log.read_text(), SECONDS)


def test_names_that_nobody_knows(checkout: Checkout) -> None:
    for method, path in (("GET", "/x"), ("GET", "/x/log"), ("DELETE", "/x"), ("GET", "/..%2fqueue.db/log")):
        answer = checkout.ask(method, path)
        assert answer.status_code == 404
        assert "\n" not in answer.json()["error"]


def test_one_runs_at_a_time_and_the_queue_is_bounded(checkout: Checkout, training: str) -> None:
    answer = checkout.add({"train.lr": 0.002}, "next")
    assert (answer.status_code, answer.headers["Location"]) == (202, "/experiments/next")
    assert (answer.json()["state"], answer.json()["params"]) == ("queued", {"train.lr": 0.002})
    named = checkout.ask("POST", json={"params": {"train.lr": 0.001}}).json()["name"]
    full = checkout.add({"train.lr": 0.001}, "more")
    assert (full.status_code, full.headers["Retry-After"]) == (503, "60")
    assert full.json() == {"error": "2 experiments wait already; try again when one has ended"}
    for name in (training, "next"):
        taken = checkout.add({"train.lr": 0.001}, name)
        assert (taken.status_code, taken.json()["error"]) == (409, f"an experiment {name} waits or runs already")
    assert checkout.ask("DELETE", f"/{named}").json()["state"] == "cancelled"
    assert checkout.ask("DELETE", f"/{named}").status_code == 409
    states = {each["name"]: each["state"] for each in checkout.ask("GET").json()["experiments"]}
    assert states == {named: "cancelled", "next": "queued", training: "running"}


def test_a_training_is_seen_while_it_runs(checkout: Checkout, training: str) -> None:
    shown = checkout.shown(training)
    assert (shown["params"], shown["result"], shown["ended"]) == (LONG, None, None)
    assert shown["commit"] == run(checkout.folder, "git", "rev-parse", "HEAD").stdout.strip()
    live = shown["live"]
    assert live["stage"] == "train"
    assert live["metrics"]["step"] > 0
    assert 0 < live["metrics"]["valid"]["macro_f1"] <= 1
    wait_for(lambda: len(checkout.shown(training)["live"]["macro_f1"]) > len(live["macro_f1"]), SECONDS)
    assert "Running stage 'train'" in checkout.log(training)


def test_the_page_shows_runs_and_cancels_experiments(
    checkout: Checkout, training: str, browser: Browser, reproduced: Path, tmp_path: Path
) -> None:
    address = {"port": checkout.page_port, "experiments_url": f"http://127.0.0.1:{checkout.port}"}
    with serving(reproduced / "models/onnx", tmp_path, **address), browser.new_context() as context:
        page = context.new_page()
        page.set_default_timeout(BROWSER_WAITS)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(checkout.page)
        part, alert = page.locator("#experiments-part"), page.locator("#experiments-part .problem:visible")
        for key in ("wrong", KEY):
            part.get_by_label("Enter the admin key").fill(key)
            part.get_by_role("button", name="Show experiments").click()
            if key == "wrong":
                expect(alert).to_have_text("an unknown key: send `Authorization: Bearer KEY`")
        row = part.get_by_role("row", name=training)
        expect(row).to_contain_text(
            re.compile(r"running.*train\.epochs=500.*train, step \d+, validation [01]\.\d{3}, best [01]")
        )
        for lines, problem in (("train.lr=-1", "train.lr = -1: should be greater"), ("train.lr 1", "is not a param")):
            part.get_by_label("Params to change").fill(lines)
            part.get_by_role("button", name="Run experiment").click()
            expect(alert).to_contain_text(problem)
        part.get_by_label("Params to change").fill("train.lr = 3e-5\nprepare.normalise.urls=remove")
        part.get_by_label("Name").fill("of-the-page")
        part.get_by_role("button", name="Run experiment").click()
        row = part.get_by_role("row", name="of-the-page")
        expect(row).to_contain_text('queuedtrain.lr=0.00003 prepare.normalise.urls="remove"')
        part.get_by_role("button", name="Cancel of-the-page").click()
        expect(row).to_contain_text("cancelled")
        part.get_by_role("button", name=f"Log of {training}").click()
        expect(part.get_by_role("region", name=f"Log of {training}")).to_contain_text("Running stage 'train'")
        page.reload()
        expect(row).to_contain_text("cancelled")  # the tab still has the key
        assert page.evaluate("Object.keys(localStorage)") == []
        assert errors == []


@pytest.mark.parametrize("killed", ["dvc", "stage"])
def test_an_experiment_whose_dvc_or_stage_is_killed_goes_on(checkout: Checkout, training: str, killed: str) -> None:
    before = checkout.shown(training)["interruptions"]
    old = checkout.processes()
    if killed == "dvc":
        checkout.dvc().kill()
    else:
        next(process for process in old if isolated.is_stage(process)).kill()
    wait_for(lambda: checkout.shown(training)["interruptions"] == before + 1, SECONDS)
    wait_for(lambda: checkout.log(training).count("train: going on from step") == before + 1, SECONDS)
    assert not any(process.is_running() for process in old)
    assert checkout.shown(training)["started"]


def test_a_cancelled_training_leaves_nothing(checkout: Checkout, training: str) -> None:
    old = checkout.processes()
    answer = checkout.ask("DELETE", f"/{training}")
    assert (answer.status_code, answer.json()["state"], answer.json()["live"]) == (200, "cancelled", None)
    assert not any(process.is_running() for process in old)
    assert not (checkout.folder / WORK / training).exists()
    assert run(checkout.folder, "git", "for-each-ref", f"refs/exps/*/*/{training}").stdout == ""
    assert run(checkout.folder, "git", "status", "--porcelain").stdout == ""
    assert "up to date" in run(checkout.folder, "dvc", "status").stdout
    assert "Running stage 'train'" in checkout.log(training)


def test_what_is_done_is_an_experiment_of_dvc(checkout: Checkout) -> None:
    checkout.add({"train.lr": 0.002}, "next")  # if it is not there
    shown = checkout.wait_until("next", "done", "failed")
    assert shown["state"] == "done"
    [commit] = json.loads(run(checkout.folder, "dvc", "exp", "show", "--json").stdout)[1:]
    [found] = [each["revs"][0] for each in commit["experiments"] if each["name"] == "next"]
    assert found["rev"] == shown["result"]["commit"]
    assert found["data"]["params"]["params.yaml"]["data"]["train"]["lr"] == 0.002
    metrics = {name: each["data"] for name, each in found["data"]["metrics"].items()}
    assert shown["result"]["valid"] == metrics["metrics/train.json"]["valid"]
    assert shown["result"]["test"]["macro_f1"] == metrics["metrics/evaluate.json"]["macro_f1"]
    assert run(checkout.folder, "git", "status", "--porcelain").stdout == ""
    taken = checkout.add({"train.lr": 0.002}, "next")
    assert (taken.status_code, taken.json()["error"]) == (
        409,
        "there is an experiment next already: `dvc exp remove next`, or another name",
    )


def test_an_experiment_that_fails_says_why(checkout: Checkout) -> None:
    checkout.add({"featurize.max_length": 128}, "too-long")
    shown = checkout.wait_until("too-long", "failed")
    assert shown["error"] == "featurize: featurize.max_length = 128: encoder takes 64 at most"
    assert not (checkout.folder / WORK / "too-long").exists()


def test_a_runner_that_is_killed_goes_on_with_what_ran_and_what_waits(checkout: Checkout) -> None:
    checkout.add(LONG, "kept")
    checkout.add({"train.lr": 0.001}, "waiting")
    wait_for(lambda: any(isolated.is_stage(process) for process in checkout.processes()), SECONDS)
    assert checkout.running
    checkout.running.process.kill()
    checkout.running.process.wait()
    old = checkout.processes()
    assert old  # they outlive it
    checkout.start()
    assert not any(process.is_running() for process in old)
    shown = checkout.shown("kept")
    assert shown["state"] in ("queued", "running")
    assert shown["interruptions"] == 1
    assert checkout.shown("waiting")["state"] == "queued"
    checkout.wait_until("kept", "running")


def test_sigterm_ends_what_runs_and_keeps_it_for_the_next_start(checkout: Checkout) -> None:
    checkout.add(LONG, "kept")  # if it is not there
    wait_for(checkout.processes, SECONDS)
    before = checkout.shown("kept")["interruptions"]
    assert checkout.running
    for process in checkout.processes():  # as systemd does, and a shutdown
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    checkout.running.process.send_signal(signal.SIGTERM)
    assert checkout.running.process.wait(SECONDS) == 0
    assert checkout.processes() == []
    queue = Queue(checkout.folder / ".cache/runner/queue.db", size=2)
    assert (queue.get("kept").state, queue.get("kept").interruptions) == ("queued", before)
    queue.close()


def test_no_key_and_no_hash_is_in_anything_that_was_written(checkout: Checkout) -> None:
    """Of the runner, its queue and its experiments; the tests before have sent keys, right and wrong ones.

    One of them met an error, whose traceback is in a log. The logs hold what they can, down to `debug`.
    """
    written = [*checkout.folder.parent.glob("runner-*.log"), *(checkout.folder / ".cache/runner").rglob("*.*")]
    texts = {path: path.read_bytes() for path in written if path.is_file()}
    assert len([path for path in texts if path.suffix == ".txt"]) >= 3
    assert len([path for path in texts if path.suffix == ".log"]) >= 2
    assert any(b"Traceback" in text for path, text in texts.items() if path.suffix == ".log")
    for path, text in texts.items():
        for secret in (KEY, keys.hashed(KEY), keys.hashed(KEY)[:8]):
            assert secret.encode() not in text, path
