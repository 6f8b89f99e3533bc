"""Both images, built and run for real, without a Docker engine: `make containers`, as root, on Debian or Ubuntu.

Debian's buildah builds them (chroot isolation, storage driver vfs) on a base made by debootstrap, in place of the
official one. The pipeline runs shrunken in one, as a user who is not root; the service runs in the other, on a root
file system that is read-only and with no capabilities. Everything lies in .cache/containers and is removed in the end,
but for the base, which takes minutes to make. How pip reaches an index here, the builds learn from pip's own
configuration, as a secret that no image keeps.
"""

import ast
import contextlib
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import yaml

from serve import collection
from serve.models import OUTPUT, directory_hash
from tests.serve.test_process import TEXTS, free_port, keep_asking
from tests.support.clones import ROOT, STAGES, commit, copy_of_this_tree, point_at, run, stages_run, wait_for
from tests.support.made_up import shrink
from tests.support.serving import predict
from tweets import files
from tweets.model import exported

HOME = ROOT / ".cache/containers"
BASE = HOME / "base.tar"
PACKAGES = "python3,python3-venv,ca-certificates"  # what the official base has of them
LARGEST = 600  # MB, of the service's image
COMMIT = "0123456789abcdef0123456789abcdef01234567"
USER = 1000  # of both images
SECONDS = 180  # within which a service is ready, beside whatever else runs
SOMEBODY = 4321  # who owns a checkout
# What a context may hold beside this repository, and no image may.
PRIVATE = (".dvc/config.local", ".env", "data/external/mine.csv", "models/transformer/x", "serve/__pycache__/x.pyc")
# As compose.yaml runs it: what a user without any capability cannot undo.
READ_ONLY = (
    f"mount -o remount,bind,ro / && exec setpriv --reuid {USER} --regid {USER} --clear-groups --no-new-privs"
    ' --bounding-set=-all --inh-caps=-all -- "$@"'
)


def buildah(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run buildah on the images and containers in HOME."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def command(*arguments: str | Path) -> list[str]:
    places = ["--storage-driver", "vfs", "--root", str(HOME / "storage"), "--runroot", str(HOME / "run")]
    return ["buildah", *places, *map(str, arguments)]


def remove_all() -> None:
    if (HOME / "storage").exists():
        buildah("rm", "--all")
        buildah("rmi", "--all", "--force")
    for name in ("storage", "run"):
        shutil.rmtree(HOME / name, ignore_errors=True)


def make_base() -> None:
    """Make a Debian of the least size with Python; without documents and caches, as the official one is."""
    HOME.mkdir(parents=True, exist_ok=True)
    folder = HOME / "base"
    shutil.rmtree(folder, ignore_errors=True)
    run_long("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(folder))
    left_out = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale")
    run_long("tar", "-C", str(folder), *(f"--exclude=./{name}/*" for name in left_out), "-cf", f"{BASE}.part", ".")
    Path(f"{BASE}.part").rename(BASE)
    shutil.rmtree(folder)


def run_long(*arguments: str) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def pip_options(folder: Path) -> list[str]:
    """Return the options of a build that give it pip's configuration here, and the files that this names."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    pairs = (line.partition("=") for line in listed.stdout.splitlines())
    values = {name.rpartition(".")[2]: str(ast.literal_eval(value)) for name, _, value in pairs}
    conf = folder / "pip.conf"
    conf.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in values.items()))
    words = " ".join(values.values()).split()
    indexes = {Path(word.removeprefix("file://")).parent for word in words if word.startswith("file://")}
    options = [f"--secret=id=pip.conf,src={conf}"]
    for path in sorted(indexes | {Path(word) for word in words if word.startswith("/") and Path(word).exists()}):
        options += ["--volume", f"{path}:{path}:ro"]
    if "extra-index-url" in values:  # in place of the one that the Dockerfile names
        options += ["--build-arg", f"PIP_EXTRA_INDEX_URL={values['extra-index-url']}"]
    return options


@pytest.fixture(scope="session")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This tree with its exported model, and with what must not get into an image."""
    folder = tmp_path_factory.mktemp("context")
    copy_of_this_tree(folder)
    if (ROOT / OUTPUT).exists():  # if not, the build says so
        shutil.copytree(ROOT / OUTPUT, folder / OUTPUT)
    for name in PRIVATE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("private\n")
    return folder


@pytest.fixture(scope="session")
def images(context: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The images `base`, `serve` and `pipeline`, built."""
    remove_all()
    if not BASE.exists():
        make_base()
    try:
        name = buildah("from", "scratch").stdout.strip()
        buildah("add", name, BASE)
        buildah("commit", "--rm", name, "base")
        options = pip_options(tmp_path_factory.mktemp("pip"))
        for target in ("serve", "pipeline"):
            build(target, context, *options)
        yield
    finally:
        remove_all()


def build(target: str, context: Path, *options: str) -> None:
    chosen = ["--target", target, "--tag", target, "--build-arg", "BASE=localhost/base", "--build-arg"]
    how = ["--format", "docker", "--isolation", "chroot", "--pull-never"]
    buildah("build", *how, *chosen, f"TWEETS_COMMIT={COMMIT}", *options, context)


@dataclass
class Container:
    """A container of an image. `volumes` are host folders or files, by where they lie inside."""

    name: str
    volumes: dict[str, Path] = field(default_factory=dict)

    def command(self, *arguments: str, options: tuple[str, ...] = ()) -> list[str]:
        volumes = [f"--volume={path}:{inside}" for inside, path in self.volumes.items()]
        return command("run", "--isolation", "chroot", *volumes, *options, self.name, "--", *arguments)

    def run(self, *arguments: str, options: tuple[str, ...] = (), check: bool = True) -> Any:
        """Run a command as the image's user, or as the options say; a failure is an error."""
        done = subprocess.run(self.command(*arguments, options=options), capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    @property
    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(buildah("inspect", self.name).stdout)["Docker"]["config"]
        return found


@contextlib.contextmanager
def container(image: str, volumes: dict[str, Path]) -> Iterator[Container]:
    name = buildah("from", "--pull-never", image).stdout.strip()
    try:
        yield Container(name, volumes)
    finally:
        buildah("rm", name)


def owned(path: Path, user: int) -> Path:
    """Give a folder and all in it to a user."""
    run_long("chown", "--recursive", f"{user}:{user}", str(path))
    return path


# --- what is in them --------------------------------------------------------------------------------------------------


def test_the_images_are_small_enough(images: None) -> None:
    listed = json.loads(buildah("images", "--json").stdout)
    sizes = {name.split(":")[0]: buildah_size(image) for image in listed for name in image["names"] or []}
    for name, size in sorted(sizes.items()):
        print(f"{name}: {size:.0f} MB")
    assert sizes["localhost/serve"] <= LARGEST


def buildah_size(image: dict[str, Any]) -> float:
    """Return the megabytes of an image's layers as they lie on a disk; buildah writes `128 MB`."""
    number, unit = image["size"].split()
    return float(number) * {"KB": 1e-3, "MB": 1, "GB": 1e3}[unit]


@pytest.mark.parametrize("image", ["serve", "pipeline"])
def test_nothing_private_is_in_an_image(images: None, context: Path, image: str) -> None:
    """All files beside the libraries are ones that Git tracks, or the model's."""
    model = {f"model/{path.name}" for path in (context / OUTPUT).iterdir()}
    home, made = {"serve": ("/srv", model), "pipeline": ("/home/tweets", {".dvc/config.local"})}[image]
    with container(image, {}) as found:
        listed = found.run("find", home, "-type", "f", "-printf", "%P\\n").stdout.split()
        local = found.run("sh", "-c", "cat .dvc/config.local || true").stdout
    skeleton = {".bashrc", ".profile", ".bash_logout"}  # of a home
    assert set(listed) - skeleton - set(run(context, "git", "ls-files").stdout.split()) == made
    assert "private" not in local


def test_the_service_has_no_tool_to_build_with_and_no_torch(images: None) -> None:
    with container("serve", {}) as found:
        for tool in ("cc", "gcc", "make", "git", "curl", "/opt/venv/bin/pip"):
            assert found.run("sh", "-c", f"command -v {tool}", check=False).returncode != 0, tool
        code = "import importlib.util as u, sys; sys.exit(any(map(u.find_spec, ['torch', 'pandas', 'dvc', 'pip'])))"
        found.run("python", "-c", code)


# --- the pipeline -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def shrunken(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of this tree whose pipeline takes seconds; nothing of it has run."""
    folder = tmp_path_factory.mktemp("shrunken")
    copy_of_this_tree(folder)
    shrink(folder, tiny_encoder)
    commit(folder, "add", "-A")
    commit(folder, "commit", "-qm", "Shrink")
    return owned(folder, USER)


def test_the_pipeline_runs_without_git_and_a_new_container_takes_its_results(
    images: None, shrunken: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    volumes = {"/home/tweets/.dvc/cache": owned(cache, USER)}
    for name in ("params.yaml", "encoder", "data/external/tweets.csv"):
        volumes[f"/home/tweets/{name}"] = shrunken / name
    with container("pipeline", volumes) as first:
        repro = first.config["Cmd"]
        assert first.run("id", "--user").stdout == f"{USER}\n"
        assert first.run("test", "-e", ".git", check=False).returncode == 1
        assert stages_run(first.run(*repro)) == STAGES
        again = first.run(*repro)
        assert stages_run(again) == []
        assert "Data and pipelines are up to date." in again.stdout
        model = first.run("sha256sum", f"{OUTPUT}/checksums.json").stdout
    with container("pipeline", volumes) as second:
        assert stages_run(second.run(*repro)) == []
        assert second.run("sha256sum", f"{OUTPUT}/checksums.json").stdout == model


def test_the_pipeline_runs_in_a_mounted_checkout_with_experiments_push_and_pull(
    images: None, shrunken: Path, bucket: str, tmp_path: Path
) -> None:
    """As the user who owns the checkout, whom the image does not know."""
    checkout = shutil.copytree(shrunken, tmp_path / "checkout", symlinks=True)
    point_at(checkout, bucket, "containers")
    somebody = ("--user", f"{SOMEBODY}:{SOMEBODY}", "--workingdir", "/work")
    with container("pipeline", {"/work": owned(checkout, SOMEBODY)}) as found:
        assert stages_run(found.run(*found.config["Cmd"], options=somebody)) == STAGES
        found.run("dvc", "exp", "run", "--name", "other", "-S", "evaluate.resamples=200", options=somebody)
        assert "other" in found.run("dvc", "exp", "list", "--name-only", options=somebody).stdout
        found.run("dvc", "push", options=somebody)
    before = files.sha256(checkout / OUTPUT / exported.CHECKSUMS)
    shutil.rmtree(checkout / OUTPUT)
    shutil.rmtree(checkout / ".dvc/cache")
    with container("pipeline", {"/work": checkout}) as found:
        found.run("dvc", "pull", options=somebody)
        assert stages_run(found.run(*found.config["Cmd"], options=somebody)) == []
    assert files.sha256(checkout / OUTPUT / exported.CHECKSUMS) == before
    assert {path.stat().st_uid for path in checkout.rglob("*")} == {SOMEBODY}


# --- the service ------------------------------------------------------------------------------------------------------


@dataclass
class Service:
    """The service, running in a container."""

    container: Container
    port: int
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def options(self) -> tuple[str, ...]:
        return ("--env", f"TWEETS_PORT={self.port}", "--env", "TWEETS_COLLECT=/collected")

    def health(self) -> int:
        """Return the exit status of the image's health check."""
        how, *check = self.container.config["Healthcheck"]["Test"]
        assert how == "CMD"
        code: int = self.container.run(*check, options=self.options, check=False).returncode
        return code

    def python(self) -> psutil.Process:
        """Return the process of the service itself, inside."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        return next(process for process in below if process.cmdline()[1:] == ["-m", "serve"])


@pytest.fixture
def service(images: None, tmp_path: Path) -> Iterator[Service]:
    """The service as compose.yaml runs it: read-only, without capabilities, and not root."""
    collected = tmp_path / "collected"
    collected.mkdir()
    with container("serve", {"/collected": owned(collected, USER)}) as found:
        running = Service(found, free_port())
        assert running.health() == 1  # not yet
        options = (*running.options, "--user", "root", "--cap-add", "CAP_SYS_ADMIN")
        inside = found.command("sh", "-c", READ_ONLY, "sh", *found.config["Cmd"], options=options)
        with (tmp_path / "log").open("w") as log:
            running.process = process = subprocess.Popen(inside, stderr=log)
        try:
            wait_for(lambda: running.health() == 0 or process.poll() is not None, SECONDS)
            assert process.poll() is None, (tmp_path / "log").read_text()
            yield running
        finally:
            if process.poll() is None:
                running.python().kill()
            process.wait(SECONDS)


def test_the_service_answers_and_says_what_it_serves(service: Service, context: Path) -> None:
    model = context / OUTPUT
    examples = json.loads((model / exported.EXAMPLES).read_text())
    answer = predict(service.url, [example["text"] for example in examples])
    found = [list(one["probabilities"].values()) for one in answer.json()["predictions"]]
    assert found == [pytest.approx(example["probabilities"], abs=exported.TOLERANCE) for example in examples]
    told = requests.get(f"{service.url}/model", timeout=SECONDS).json()
    locked = yaml.safe_load((context / "dvc.lock").read_text())["stages"]["export"]["outs"]
    md5 = directory_hash(model)
    assert (told["commit"], told["version"]) == (COMMIT, files.sha256(model / exported.CHECKSUMS)[:12])
    assert told["lock"] == {"md5": md5, "is_in_dvc_lock": md5 in {out["md5"] for out in locked}}
    assert "Tweets" in requests.get(f"{service.url}/", timeout=SECONDS).text
    assert "tweets_http_requests_total" in requests.get(f"{service.url}/metrics", timeout=SECONDS).text


def test_the_service_is_nobody_and_can_write_to_its_volume_only(service: Service) -> None:
    process = service.python()
    assert set(process.uids()) == {USER}
    status = Path(f"/proc/{process.pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "CapBnd:\t0000000000000000" in status
    root = Path(f"/proc/{process.pid}/root")
    mounts = [line.split() for line in Path(f"/proc/{process.pid}/mounts").read_text().splitlines()]
    assert [options.split(",")[0] for _, place, _, options, *_ in mounts if place == "/"][-1] == "ro"
    for place in ("", "srv", "srv/model", "tmp", "var/tmp"):
        with pytest.raises(OSError, match="Read-only file system"):
            (root / place / "written").write_text("")
    (root / "collected/written").write_text("")


def test_sigterm_lets_the_service_finish_and_keep_what_it_has_predicted(service: Service) -> None:
    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(keep_asking, service.url, threading.Event()) for _ in range(2)]
        time.sleep(2)
        begin = time.monotonic()
        service.python().send_signal(signal.SIGTERM)
        assert service.process.wait(SECONDS) == 0
        assert time.monotonic() - begin < 10
        statuses = [status for future in asking for status in future.result(SECONDS)]
    assert len(statuses) > 2
    assert set(statuses) == {200}
    assert service.health() == 1
    kept = service.container.volumes["/collected"] / collection.FILE
    assert kept.stat().st_uid == USER
    with contextlib.closing(sqlite3.connect(kept)) as database:
        assert database.execute("SELECT count(*) FROM predictions").fetchone() == (len(statuses) * len(TEXTS),)


def test_an_image_is_not_built_around_a_harmed_model(images: None, context: Path, tmp_path: Path) -> None:
    harmed = shutil.copytree(context, tmp_path / "harmed", symlinks=True)
    (harmed / OUTPUT / exported.TOKENIZER).write_text("{}")
    with pytest.raises(AssertionError, match=r"image: models/onnx/tokenizer.json: SHA-256 is"):
        build("serve", harmed, *pip_options(tmp_path))
