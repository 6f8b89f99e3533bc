"""A deployment, as the workflow runs it: the real gcloud, against a stand-in for Google Cloud whose revisions are real
services. Each request of gcloud is held against Google's own description of its API.
"""

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests

from serve import keys
from tests.support import google_server
from tests.support.clones import ROOT, commit, run
from tests.support.google_server import PROJECT, REGION, Google
from tests.support.serving import SECONDS, Running, serving
from tools import canary, deploy
from tools.ci.commits import AUTHOR
from tweets.errors import UserError

pytestmark = [pytest.mark.walk, pytest.mark.xdist_group("deploy")]  # they share a clone
needs_gcloud = pytest.mark.skipif(not shutil.which("gcloud"), reason="needs gcloud, which PyPI and Debian do not have")

KEY = "the key of deployments"
OLD, NEW = "tweets-prod-1", "tweets-prod-2"
REPOSITORY = f"{REGION}-docker.pkg.dev/{PROJECT}/tweets"


@pytest.fixture(scope="module")
def home(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with two versions of the model, which both got the stage, one after the other."""
    folder = shutil.copytree(reproduced, tmp_path_factory.mktemp("deploy") / "clone", symlinks=True)
    for version in ("v1.0.0", "v1.1.0"):
        commit(folder, "commit", "-q", "--allow-empty", "-m", version)
        run(folder, "gto", "register", "tweets", "--version", version, check=True, **AUTHOR)
        run(folder, "gto", "assign", "tweets", "--version", version, "--stage", "prod", check=True, **AUTHOR)
    return folder


@pytest.fixture(autouse=True)
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(home)
    monkeypatch.setenv("GITHUB_REF_NAME", "tweets#prod#2")
    monkeypatch.setattr(canary, "PATIENCE", 3.0)
    monkeypatch.setattr(canary, "INTERVAL", 0.2)
    monkeypatch.setattr(deploy, "BUILD_POLL", 0.0)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@dataclass
class Platform:
    """Starts a revision as Cloud Run does: what an image has inside, with the variables of the service's file."""

    place: Path
    images: dict[str, tuple[Path, str]]  # digest: the folder of the model, the commit
    secrets: dict[str, str]
    processes: contextlib.ExitStack
    running: dict[str, Running] = field(default_factory=dict)

    def launch(self, container: dict[str, Any]) -> str:
        folder, made_of = self.images[container["image"].split("@")[1]]
        variables = {one["name"]: one.get("value") for one in container["env"]}
        for one in container["env"]:
            if "valueFrom" in one:
                variables[one["name"]] = self.secrets[one["valueFrom"]["secretKeyRef"]["name"]]
        settings = {name.removeprefix("TWEETS_").lower(): value for name, value in variables.items()}
        made = self.processes.enter_context(serving(folder, self.place, commit=made_of, **settings))
        for probe in ("startupProbe", "livenessProbe"):
            assert requests.get(made.url + container[probe]["httpGet"]["path"], timeout=SECONDS).ok
        self.running[made.url] = made
        return made.url


@pytest.fixture
def cloud(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Google, Platform]]:
    """A cloud with the images of two commits, and one without a model."""
    commits = [run(home, "git", "rev-parse", revision).stdout.strip() for revision in ("HEAD^", "HEAD")]
    model = home / "models/onnx"
    images = {"sha256:1": (model, commits[0]), "sha256:2": (model, commits[1]), "sha256:3": (tmp_path, commits[1])}
    secrets = {"tweets-deploy-key": KEY, "tweets-api-keys": keys.hashed(KEY)}
    with contextlib.ExitStack() as processes:
        platform = Platform(tmp_path, images, secrets, processes)
        google = Google(launch=platform.launch, secrets=secrets, images={commits[1]: "sha256:2"})
        processes.enter_context(google_server.serving(google))
        for name, value in {**google.environment(), "CLOUDSDK_CONFIG": str(tmp_path / "gcloud")}.items():
            monkeypatch.setenv(name, value)
        yield google, platform
        assert google.faults == []


def put(google: Google, revision: str, digest: str, *traffic: dict[str, Any]) -> None:
    """Let the cloud run a revision of an image, with the traffic of all revisions."""
    image = f"{REPOSITORY}/serve@{digest}"
    service = deploy.render("service.yaml", REVISION=revision, VERSION=f"v1.{int(digest[-1]) - 1}.0", IMAGE=image)
    service["spec"]["traffic"] = list(traffic)
    service["metadata"] |= {"labels": {"cloud.googleapis.com/location": REGION}, "namespace": PROJECT}
    google.apply(service)


ALL_OLD = {"revisionName": OLD, "percent": 100}


@needs_gcloud
def test_a_version_is_built_tried_and_gets_all_traffic_and_the_way_back_is_one_command(
    home: Path, cloud: tuple[Google, Platform], capfd: pytest.CaptureFixture[str]
) -> None:
    google, _ = cloud
    put(google, OLD, "sha256:1", ALL_OLD)
    google.to_build, google.images = google.images, {}
    deploy.serve(1)
    assert google.splits == [{OLD: 100}, {OLD: 100}, {NEW: 10, OLD: 90}, {NEW: 100}]
    served = requests.get(f"{google.front}/model", timeout=SECONDS).json()
    assert (served["version"], served["commit"]) == ("v1.1.0", run(home, "git", "rev-parse", "HEAD").stdout.strip())
    [container] = google.service["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"{REPOSITORY}/serve@sha256:2"
    out, err = capfd.readouterr()
    assert "canary: " in out
    assert out.splitlines()[-1] == f"deploy: {NEW} has all traffic; back: `make rollback REVISION={OLD}`"
    assert KEY not in out + err
    deploy.serve(1)
    assert capfd.readouterr().out.splitlines()[-1] == f"deploy: {NEW} has the traffic already"
    run(home, "make", "rollback", check=True, REVISION=OLD, **google.environment())
    assert google.split() == {OLD: 100}


@pytest.fixture
def tried(cloud: tuple[Google, Platform]) -> Google:
    """The second version runs beside the first one, which has all traffic."""
    google, _ = cloud
    put(google, OLD, "sha256:1", ALL_OLD)
    put(google, NEW, "sha256:2", ALL_OLD, {"revisionName": NEW, "tag": deploy.TAG})
    return google


@needs_gcloud
def test_a_version_that_breaks_in_its_canary_loses_its_traffic(
    tried: Google, cloud: tuple[Google, Platform], capsys: pytest.CaptureFixture[str]
) -> None:
    _, platform = cloud
    address = tried.revisions[NEW]
    what = canary.expected("v1.1.0")
    watch, check = (partial(found, canary.Client(address, KEY), what) for found in (canary.watch, canary.check))
    tried.on_split = lambda split: platform.running[address].process.kill() if NEW in split else None
    with pytest.raises(UserError, match=r"3 of 3 requests failed, the last one so: .*no answer"):
        deploy.shift(OLD, NEW, partial(watch, 60), check)
    assert tried.splits[2:] == [{NEW: 10, OLD: 90}, {OLD: 100}]
    assert capsys.readouterr().err.startswith(f"deploy: going back to {OLD}\n")
    assert requests.get(f"{tried.front}/model", timeout=SECONDS).json()["version"] == "v1.0.0"


@needs_gcloud
def test_a_deployment_that_is_cut_off_goes_back(tried: Google) -> None:
    tried.on_split = lambda split: os.kill(os.getpid(), signal.SIGTERM) if NEW in split else None
    with pytest.raises(SystemExit, match="deploy: terminated"):
        deploy.shift(OLD, NEW, pytest.fail, pytest.fail)
    assert tried.splits[2:] == [{NEW: 10, OLD: 90}, {OLD: 100}]


@needs_gcloud
def test_a_canary_whose_program_was_killed_is_ended_and_nothing_else(
    tried: Google, capfd: pytest.CaptureFixture[str]
) -> None:
    deploy.abort()
    assert f"deploy: {NEW} is no canary, the traffic stays: {{'{OLD}': 100}}" in capfd.readouterr().out
    deploy.give(NEW, deploy.SHARE)
    deploy.abort()
    assert tried.splits[2:] == [{NEW: 10, OLD: 90}, {OLD: 100}]
    tried.service = {}
    with pytest.raises(UserError, match=r"`gcloud run services describe .*` ended with exit code 1; "):
        deploy.abort()
    assert len(tried.splits) == 4


@needs_gcloud
def test_a_canary_that_was_ended_meanwhile_gets_no_more_traffic(tried: Google) -> None:
    """As when GitHub cancels the job, whose last step runs beside what its signals have not reached."""
    with pytest.raises(UserError, match=rf"{NEW} gets no more traffic, for somebody has changed the split: .*100"):
        deploy.shift(OLD, NEW, deploy.abort, pytest.fail)
    assert tried.splits[2:] == [{NEW: 10, OLD: 90}, {OLD: 100}, {OLD: 100}]


@needs_gcloud
def test_a_rollback_stays_whatever_becomes_of_the_deployment(tried: Google, capfd: pytest.CaptureFixture[str]) -> None:
    older = "tweets-prod-0"
    tried.revisions[older] = tried.revisions[OLD]
    with pytest.raises(UserError, match=f"{NEW} gets no more traffic"):
        deploy.shift(OLD, NEW, partial(deploy.give, older, 100), pytest.fail)
    assert tried.split() == {older: 100}
    assert f"deploy: the traffic stays where somebody put it: {older}\n" in capfd.readouterr().err


@needs_gcloud
def test_a_version_that_does_not_start_gets_no_traffic(
    cloud: tuple[Google, Platform], capfd: pytest.CaptureFixture[str]
) -> None:
    google, _ = cloud
    put(google, OLD, "sha256:1", ALL_OLD)
    google.images = dict.fromkeys(google.images, "sha256:3")
    with pytest.raises(UserError, match=r"`gcloud run services replace .*` ended with exit code 1; "):
        deploy.candidate(deploy.release(), OLD)
    assert google.splits == [{OLD: 100}]
    assert "no checksums.json" in capfd.readouterr().err


@needs_gcloud
def test_a_build_that_fails_ends_it(cloud: tuple[Google, Platform]) -> None:
    with pytest.raises(UserError, match=f"build {'0' * 40}: FAILURE; `gcloud builds log {'0' * 40}` says why"):
        deploy.image("serve", "0" * 40)


@needs_gcloud
def test_a_training_job_has_the_image_of_the_commit(home: Path, cloud: tuple[Google, Platform]) -> None:
    google, _ = cloud
    deploy.train()
    [job] = google.jobs
    [pool] = job["jobSpec"]["workerPoolSpecs"]
    assert pool["containerSpec"]["imageUri"] == f"{REPOSITORY}/pipeline@sha256:2"
    assert job["jobSpec"]["serviceAccount"] == f"tweets-train@{PROJECT}.iam.gserviceaccount.com"


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("tweets@v1.0.0", "tweets@v1.0.0: does not give tweets the stage prod; `gto assign tweets --version v1.0.0 "),
        ("tweets#dev#1", "tweets#dev#1: does not give tweets the stage prod; "),
        ("tweets#prod#9", "tweets#prod#9: is no annotated tag of this clone; "),
        ("tweets#prod#1", "tweets#prod#1: HEAD is another commit; `git checkout 'tweets#prod#1'`"),
    ],
)
def test_what_the_tag_does_not_say_is_not_deployed(tag: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_REF_NAME", tag)
    with pytest.raises(UserError) as caught:
        deploy.serve(1)
    assert str(caught.value).startswith(message)


def test_the_tag_that_checkout_leaves_is_told(home: Path) -> None:
    name = "refs/tags/tweets#prod#2"
    annotated, made = (run(home, "git", "rev-parse", revision).stdout.strip() for revision in (name, f"{name}^{{}}"))
    run(home, "git", "update-ref", name, made)
    try:
        with pytest.raises(UserError, match="tweets#prod#2: is no annotated tag of this clone; "):
            deploy.release()
    finally:
        run(home, "git", "update-ref", name, annotated)


def test_rollback_wants_a_revision() -> None:
    done = run(ROOT, "make", "rollback", check=False, REVISION="")
    assert done.returncode == 2
    assert "REVISION: names the revision" in done.stderr
