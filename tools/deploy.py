"""Deploy to Google Cloud what a GTO tag gives the stage `prod`, by a canary; train there. See deploy/README.md.

    python -m tools.deploy serve              # the commit of the tag GITHUB_REF_NAME, such as tweets#prod#3
    python -m tools.deploy abort              # ends the canary of that tag, if `serve` was killed in it
    python -m tools.deploy train              # a Vertex AI job that reproduces the pipeline of the commit checked out

`serve` builds the image, unless it is there, puts it beside the running revision without traffic, checks it over HTTP,
gives it a tenth of the traffic, watches it, and gives it all. Where anything fails, or a signal ends it, the traffic
goes back to where most of it was, unless somebody has given it to another revision meanwhile. gcloud does the work: it
must be signed in, GCP_PROJECT and GCP_REGION say where.
"""

import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from string import Template
from typing import Any

import yaml
from gto.api import check_ref

from repository.git import git
from tools import canary
from tools.ci.github import variable
from tweets import command
from tweets.errors import UserError

FOLDER = Path("deploy")
SERVICE = "tweets"
TRIGGER = "tweets-images"
TAG = "candidate"  # a revision that has it has an address of its own
SHARE = 10  # percent of the traffic, while it is watched
SECONDS = 300.0  # that it is watched
STAGE = "prod"
BUILD_POLL = 10.0  # seconds


@dataclass(frozen=True, kw_only=True)
class Release:
    """What is deployed: a version of the model, by a tag that gives it the stage."""

    revision: str
    version: str
    commit: str


def release() -> Release:
    """Return what the tag GITHUB_REF_NAME gives the stage. Raises UserError where HEAD is not that commit."""
    tag = variable("GITHUB_REF_NAME")
    named = re.fullmatch(rf"{SERVICE}#{STAGE}#(\d+)", tag)
    assignments = check_ref(".", tag) if named else []
    if not named or not assignments:
        what = "is no annotated tag of this clone" if named else f"does not give {SERVICE} the stage {STAGE}"
        raise UserError(f"{tag}: {what}; `gto assign {SERVICE} --version v1.0.0 --stage {STAGE}` makes such a tag")
    if assignments[0].commit_hexsha != git("rev-parse", "HEAD"):
        raise UserError(f"{tag}: HEAD is another commit; `git checkout '{tag}'`")
    revision = f"{SERVICE}-{STAGE}-{named[1]}"
    return Release(revision=revision, version=assignments[0].version, commit=assignments[0].commit_hexsha)


def gcloud(*arguments: str, regional: bool = True) -> str:
    """Return what gcloud prints. Raises UserError when it fails; its own lines then say why."""
    places = [f"--project={variable('GCP_PROJECT')}"] + [f"--region={variable('GCP_REGION')}"] * regional
    print("$ gcloud", *arguments, flush=True)
    done = subprocess.run(["gcloud", *arguments, *places, "--quiet"], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise UserError(f"`gcloud {' '.join(arguments)}` ended with exit code {done.returncode}; see its lines above")
    return done.stdout.strip()


def image(name: str, commit: str) -> str:
    """Return the address of an image of a commit, with its hash. Cloud Build makes it where it is not there yet."""
    address = f"{variable('GCP_REGION')}-docker.pkg.dev/{variable('GCP_PROJECT')}/{SERVICE}/{name}"
    digest = digest_of(address, commit)
    if not digest:
        build(commit)
        digest = digest_of(address, commit)
    if not digest:
        raise UserError(f"{address}: no image with the tag {commit}, though its build succeeded")
    return f"{address}@{digest}"


def digest_of(address: str, commit: str) -> str:
    options = ["--include-tags", f"--filter=tags:{commit}", "--format=value(version)"]
    return gcloud("artifacts", "docker", "images", "list", address, *options, regional=False)


def build(commit: str) -> None:
    """Let Cloud Build make the images of a commit. Raises UserError when it does not succeed."""
    run = gcloud("builds", "triggers", "run", TRIGGER, f"--sha={commit}", "--format=value(metadata.build.id)")
    while (status := gcloud("builds", "describe", run, "--format=value(status)")) in {"PENDING", "QUEUED", "WORKING"}:
        time.sleep(BUILD_POLL)
    if status != "SUCCESS":
        raise UserError(f"build {run}: {status}; `gcloud builds log {run}` says why")


def render(name: str, **values: str) -> Any:
    """Return the content of a YAML file of deploy/, with the values in place of ${NAME}."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    return yaml.safe_load(Template(text).substitute(PROJECT=variable("GCP_PROJECT"), **values))


def apply(content: Any, *command: str) -> str:
    """Give content to a gcloud command that reads a file, and return what it prints."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "content.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return gcloud(*(part.format(file=path) for part in command))


def describe() -> dict[str, Any]:
    """Return the service's state."""
    status: dict[str, Any] = json.loads(gcloud("run", "services", "describe", SERVICE, "--format=json"))["status"]
    return status


def split(status: dict[str, Any]) -> dict[str, int]:
    """Return the percent of each revision that has traffic."""
    return {target["revisionName"]: target["percent"] for target in status.get("traffic", []) if target.get("percent")}


def stable(shares: dict[str, int]) -> str:
    """Return the revision with the most traffic: the way back, also from a canary that nobody ended."""
    if not shares:
        raise UserError(f"{SERVICE}: no revision has traffic, to go back to; deploy/setup.sh makes the first one")
    return max(shares, key=lambda name: shares[name])


def give(revision: str, percent: int) -> None:
    """Give a revision its percent of the traffic; the others share the rest as before."""
    gcloud("run", "services", "update-traffic", SERVICE, f"--to-revisions={revision}={percent}")


def candidate(wanted: Release, old: str) -> dict[str, Any]:
    """Put the release beside the revision that has all traffic, and return the service's state."""
    made = image("serve", wanted.commit)
    service = render("service.yaml", REVISION=wanted.revision, VERSION=wanted.version, IMAGE=made)
    service["spec"]["traffic"] = [{"revisionName": old, "percent": 100}, {"revisionName": wanted.revision, "tag": TAG}]
    apply(service, "run", "services", "replace", "{file}")
    return describe()


def serve(seconds: float) -> None:
    """Deploy what the tag says, step by step. Raises UserError where it fails; the traffic is then as before."""
    wanted = release()
    what = canary.expected(wanted.version)
    old = stable(split(describe()))
    if old == wanted.revision:
        print(f"deploy: {wanted.revision} has the traffic already")
        return
    status = candidate(wanted, old)
    key = gcloud("secrets", "versions", "access", "latest", f"--secret={SERVICE}-deploy-key", regional=False)
    [address] = [target["url"] for target in status["traffic"] if target.get("tag") == TAG]
    beside = canary.Client(address, key)
    canary.check(beside, what)
    front = canary.Client(status["url"], key)
    shift(old, wanted.revision, partial(canary.watch, beside, what, seconds), partial(canary.check, front, what))
    print(f"deploy: {wanted.revision} has all traffic; back: `make rollback REVISION={old}`")


def shift(old: str, new: str, watch: Callable[[], None], check: Callable[[], None]) -> None:
    """Give a revision its share of the traffic, and all of it once it was watched; where anything fails, none.

    Somebody may roll back meanwhile: then it gets no more, and what they chose stays.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("deploy: terminated"))
    try:
        give(new, SHARE)
        watch()
        shares = split(describe())
        if shares != {old: 100 - SHARE, new: SHARE}:
            raise UserError(f"{new} gets no more traffic, for somebody has changed the split: {shares}")
        give(new, 100)
        check()
    except BaseException:
        for number in (signal.SIGINT, signal.SIGTERM):  # who is impatient sends another
            signal.signal(number, signal.SIG_IGN)
        go_back(old, new)
        raise


def go_back(old: str, new: str) -> None:
    """Give the old revision all traffic, unless one has some that is neither of the two."""
    others = split(describe()).keys() - {old, new}
    if others:
        print(f"deploy: the traffic stays where somebody put it: {', '.join(sorted(others))}", file=sys.stderr)
        return
    print(f"deploy: going back to {old}", file=sys.stderr, flush=True)
    give(old, 100)


def abort() -> None:
    """Give all traffic to the revision with most of it, where the release has its share as a canary."""
    new, shares = release().revision, split(describe())
    old = stable(shares)
    if new not in shares or new == old:
        print(f"deploy: {new} is no canary, the traffic stays: {shares}")
        return
    go_back(old, new)


def train() -> None:
    """Start the job that reproduces the pipeline of HEAD in the cloud."""
    commit = git("rev-parse", "HEAD")
    job = render("job.yaml", IMAGE=image("pipeline", commit))
    create = ["ai", "custom-jobs", "create", f"--display-name={SERVICE}-{commit[:12]}", "--config={file}"]
    print(apply(job, *create, "--format=value(name)"))


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("what", choices=("serve", "abort", "train"))
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long the canary is watched")
    given = parser.parse_args()
    if given.what == "serve":
        serve(given.seconds)
    elif given.what == "abort":
        abort()
    else:
        train()


if __name__ == "__main__":
    command.run("deploy", main)
