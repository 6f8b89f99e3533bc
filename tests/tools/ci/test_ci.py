"""The workflows: rules of security that they keep, and their jobs' own steps, run in order in fresh clones.

GitHub is a stand-in on loopback, the remote a real fake-gcs-server; both hold what they are sent. A job gets what a
runner gives it: a fresh clone at the event's commit, the event, and the variables of its own `env:`.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml

from tests.support.clones import ENVIRONMENT, ROOT, commit, linked_environment, run, stages_run
from tests.support.github_server import REPOSITORY, TOKEN, GitHub, Serving
from tests.support.made_up import set_param
from tools.ci.__main__ import STEPS
from tools.ci.commits import AUTHOR, signed_in

pytestmark = [
    pytest.mark.walk,
    pytest.mark.xdist_group("workflows"),
]  # they share a GitHub, a bucket and what earlier jobs pushed

FILES = sorted((ROOT / ".github/workflows").glob("*.yml"))
WORKFLOWS = {path.stem: yaml.load(path.read_text(), yaml.BaseLoader) for path in FILES}
JOBS = [(file, name) for file, workflow in WORKFLOWS.items() for name in workflow["jobs"]]
TAKE_THE_TOKEN = {f"make ci-{name}" for name in ("push", "verify", "report", "test", "data", "tag")}
SET_UP = {"GCP_WORKLOAD_IDENTITY_PROVIDER": "projects/1/providers/github", "GCP_SERVICE_ACCOUNT": "dvc@example.org"}
DEPLOYS = {"GCP_DEPLOY_IDENTITY_PROVIDER": "projects/1/providers/github", "GCP_PROJECT": "acme", "GCP_REGION": "here"}


def steps_of(file: str, job: str) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = WORKFLOWS[file]["jobs"][job]["steps"]
    return steps


@pytest.mark.parametrize(("file", "job"), JOBS)
def test_a_job_asks_for_no_more_than_it_needs(file: str, job: str) -> None:
    found = WORKFLOWS[file]["jobs"][job]
    assert WORKFLOWS[file]["permissions"] == {}
    writes = {name for name, level in found["permissions"].items() if level == "write"}
    assert writes == {
        "pipeline": {"contents", "id-token", "pull-requests", "statuses"},
        "data": {"contents", "id-token", "pull-requests"},
        "model": {"id-token"},
        "deploy": {"id-token"},
        "rollback": {"id-token"},
    }.get(job, set())
    assert 0 < int(found["timeout-minutes"]) <= (350 if job == "processors" else 120)  # QEMU is slow
    # A rollback waits for nobody, least of all for a deployment that waits for a reviewer.
    assert ("concurrency" in WORKFLOWS[file] or "concurrency" in found) == (job != "rollback")


@pytest.mark.parametrize(("file", "job"), JOBS)
def test_each_action_is_pinned_to_a_commit_and_leaves_no_credential_behind(file: str, job: str) -> None:
    for step in steps_of(file, job):
        if "uses" in step:
            assert re.fullmatch(r"(actions|google-github-actions)/[a-z-]+@[0-9a-f]{40}", step["uses"]), step
        if "actions/checkout@" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] == "false"


@pytest.mark.parametrize(("file", "job"), JOBS)
def test_each_step_is_a_target_of_the_makefile_and_the_token_is_given_only_where_one_needs_it(
    file: str, job: str
) -> None:
    targets = set(re.findall(r"^([a-z -]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    known = {name for line in targets for name in line.split()} | {f"ci-{step}" for step in STEPS}
    for step in steps_of(file, job):
        if "run" not in step:
            continue
        assert "${{" not in step["run"]
        assert step["run"].startswith('echo "::notice::') or step["run"].removeprefix("make ") in known, step
        assert ("GITHUB_TOKEN" in step.get("env", {})) == (step["run"] in TAKE_THE_TOKEN)
    assert "GITHUB_TOKEN" not in WORKFLOWS[file]["jobs"][job].get("env", {})


def test_what_deploys_runs_in_the_environment_that_google_cloud_asks_for() -> None:
    deployers = [(file, job) for file, job in JOBS if "GCP_DEPLOY" in str(WORKFLOWS[file]["jobs"][job]["steps"])]
    assert deployers == [("deploy", "deploy"), ("deploy", "rollback")]
    for file, job in deployers:
        assert WORKFLOWS[file]["jobs"][job]["environment"] == "production"


def test_no_workflow_runs_a_forks_code_with_credentials_or_reads_a_secret() -> None:
    for path in FILES:
        text = path.read_text()
        assert "pull_request_target" not in text
        assert "workflow_run" not in text
        assert "secrets." not in text


def test_the_image_is_built_for_all_that_goes_into_it() -> None:
    found = WORKFLOWS["image"]["on"]
    assert found["push"]["paths"] == found["pull_request"]["paths"]
    copied = re.findall(
        r"^COPY (?!--from)(?:--\S+ )*(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE
    )  # not what one stage takes from another
    for name in " ".join(copied).split():
        matching = {name, f"{name.rstrip('/')}/**"} | {f"{parent}/**" for parent in Path(name).parents}
        assert matching & set(found["push"]["paths"]), name


def test_tests_run_by_the_one_command_everywhere() -> None:
    runs = [step["run"] for step in steps_of("ci", "test") if "run" in step]
    assert runs == ["make promtool", "make test", "make walks"]
    assert (ROOT / ".ci/run").read_text().splitlines()[-2:] == runs[1:]
    matrix = WORKFLOWS["ci"]["jobs"]["test"]["strategy"]["matrix"]["include"]
    [required] = [one for one in matrix if one["name"] == "tests"]
    assert required["experimental"] == "false"


# --- a runner ---------------------------------------------------------------------------------------------------------


@dataclass
class Runner:
    """Runs jobs as GitHub would: `event` is the payload, `home` the folder for clones."""

    github: GitHub
    home: Path
    config: str  # .dvc/config.local: where the bucket is, in place of the sign-in to Google Cloud
    event_name: str
    event: dict[str, Any]
    ref: str
    variables: dict[str, str] = field(default_factory=lambda: SET_UP)
    summary: str = ""
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    failed: CompletedProcess[str] | None = None
    clone: Path = Path()

    def value(self, name: str) -> Any:
        """Return what an expression's name stands for; GitHub's null, which equals '', when there is none."""
        event = {"event": self.event, "event_name": self.event_name, "ref": self.ref, "token": TOKEN}
        contexts: Any = {
            "github": {**event, "ref_name": self.ref.split("/", 2)[2], "repository": REPOSITORY},
            "vars": self.variables,
            "steps": {name: {"outputs": found} for name, found in self.outputs.items()},
        }
        for part in name.split("."):
            contexts = contexts.get(part, "") if isinstance(contexts, dict) else ""
        return contexts

    def evaluate(self, expression: str) -> Any:
        """Return what an expression, of the few forms that the workflows use, comes to."""
        parts = re.split(r"('[^']*')", re.sub(r"^\$\{\{|\}\}$", "", expression.strip()))
        python = "".join(part if part.startswith("'") else self.translated(part) for part in parts)
        functions = {
            "contains": lambda where, what: what in where,
            "cancelled": lambda: False,
            "success": lambda: self.failed is None,
        }
        return eval(python.strip(), functions)

    def translated(self, part: str) -> str:
        part = re.sub(r"!(?!=)", " not ", part.replace("&&", " and ").replace("||", " or "))
        return re.sub(r"\b[a-z]+(\.[\w-]+)+", lambda found: repr(self.value(found[0])), part)

    def resolve(self, found: dict[str, str]) -> dict[str, str]:
        return {
            name: re.sub(r"\$\{\{.*?\}\}", lambda match: str(self.evaluate(match[0])), value)
            for name, value in found.items()
        }

    def check_out(self, step: dict[str, Any]) -> None:
        """Clone as actions/checkout does, without leaving a credential, and set up what other actions would."""
        ref = self.resolve(step["with"]).get("ref", self.ref)
        self.clone = self.home / f"clone{len(list(self.home.iterdir()))}"
        origin = f"{self.github.url}/{REPOSITORY}.git"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("GITHUB_TOKEN", TOKEN)
            patch.setenv("GITHUB_SERVER_URL", self.github.url)
            for name, value in signed_in().items():
                patch.setenv(name, value)
            subprocess.run(["git", "clone", "--quiet", "--no-checkout", origin, str(self.clone)], check=True)
        run(self.clone, "git", "checkout", "--quiet", "--detach", ref.replace("refs/heads/", "origin/"))
        if ref.startswith("refs/tags/"):  # an annotated tag does not stay one: actions/checkout, issue 882
            run(self.clone, "git", "update-ref", ref, "HEAD")
        linked_environment(self.clone)
        (self.clone / ".dvc/config.local").write_text(self.config)

    def environment(self, files: dict[str, Path]) -> dict[str, str]:
        """Return GitHub's own variables of a job, whose files are among `files`."""
        pull = self.event.get("pull_request")
        branches = {"GITHUB_HEAD_REF": pull["head"]["ref"], "GITHUB_BASE_REF": pull["base"]["ref"]} if pull else {}
        return {
            **self.github.environment(),
            **branches,
            "CI": "true",
            "GITHUB_REF_NAME": self.value("github.ref_name"),
            **{name: str(path) for name, path in files.items()},
        }

    def job(self, file: str, name: str) -> CompletedProcess[str] | None:
        """Run a job's steps in order; return the one that failed, else the last one, or None for a job that is skipped.

        After one has failed only those run whose condition asks how it went.
        """
        found = WORKFLOWS[file]["jobs"][name]
        if not self.evaluate(found.get("if", "True")):
            return None
        last = None
        for step in found["steps"]:
            if "actions/checkout@" in step.get("uses", ""):
                self.check_out(step)
            if "run" not in step or not self.evaluate(step.get("if", "success()")):
                continue
            last = self.step(step, found.get("env", {}))
            if last.returncode and not self.failed:
                self.failed = last
        return self.failed or last

    def step(self, step: dict[str, Any], env: dict[str, str]) -> CompletedProcess[str]:
        """Run one step by its own `run:`; only what would run these tests again is a make that takes notes instead."""
        folder = self.home / "runner"
        folder.mkdir(exist_ok=True)
        files = {name: folder / name for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "GITHUB_EVENT_PATH")}
        files["GITHUB_EVENT_PATH"].write_text(json.dumps(self.event))
        for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"):
            files[name].write_text("")
        environment = {**self.environment(files), **self.resolve(env), **self.resolve(step.get("env", {}))}
        command = step["run"]
        if command == "make ci-test":
            (folder / "make").write_text('#!/bin/sh\necho "make $* with token: ${GITHUB_TOKEN:-none}"\n')
            (folder / "make").chmod(0o755)
            environment["PATH"] = f"{folder}:{ENVIRONMENT['PATH']}"
            command = "python -m tools.ci test"
        self.ran.append(step["run"])
        where = self.clone if self.clone != Path() else self.home
        result = run(where, "bash", "-e", "-c", command, check=False, **environment)
        written = [line.split("=", 1) for line in files["GITHUB_OUTPUT"].read_text().splitlines()]
        if "id" in step:
            self.outputs[step["id"]] = dict(written)
        self.summary += files["GITHUB_STEP_SUMMARY"].read_text()
        return result


@dataclass
class World:
    """A GitHub and a bucket that hold a reproduced pipeline, and a developer's clone of it."""

    github: GitHub
    developer: Path
    home: Path
    config: str

    def runner(self, event_name: str, event: dict[str, Any], ref: str, **changed: Any) -> Runner:
        return Runner(self.github, self.home, self.config, event_name, event, ref, **changed)

    def pull_request(self, sha: str, repository: str = REPOSITORY) -> dict[str, Any]:
        """Return the parts of GitHub's payload that a job reads."""
        head = {"ref": "faster", "sha": sha, "repo": {"full_name": repository}}
        return {
            "action": "synchronize",
            "number": 5,
            "pull_request": {"number": 5, "head": head, "base": {"ref": "main"}},
            "repository": {"full_name": REPOSITORY},
        }

    def push(self, branch: str) -> str:
        """Push the developer's HEAD to a branch, and return its commit."""
        run(self.developer, "git", "push", "--quiet", "--force", str(self.github.origin), f"HEAD:refs/heads/{branch}")
        return run(self.developer, "git", "rev-parse", "HEAD").stdout.strip()

    def head(self, branch: str) -> str:
        return run(self.github.origin, "git", "rev-parse", branch).stdout.strip()

    def objects(self) -> set[str]:
        return {path.name for path in (self.developer / ".cache/gcs/objects").rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def world(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("workflows")
    developer = shutil.copytree(reproduced, home / "developer", symlinks=True)
    with Serving(home) as github:
        github.origin.parent.mkdir()
        run(home, "git", "clone", "--quiet", "--bare", str(developer), str(github.origin))
        run(github.origin, "git", "symbolic-ref", "HEAD", "refs/heads/main")
        run(developer, "python", "-m", "tools.gcs", "start")
        try:
            run(developer, "dvc", "push", "--run-cache")
            found = World(github, developer, home, (developer / ".dvc/config.local").read_text())
            found.push("main")
            yield found
        finally:
            run(developer, "python", "-m", "tools.gcs", "stop")


def test_a_deployment_knows_the_version_of_its_tag_and_one_that_fails_ends_its_canary(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(world.developer, "commit", "--quiet", "--allow-empty", "--message", "One of its own, for a version")
    run(world.developer, "gto", "register", "tweets", "--version", "v0.1.0", check=True, **AUTHOR)
    run(world.developer, "gto", "assign", "tweets", "--version", "v0.1.0", "--stage", "prod", check=True, **AUTHOR)
    run(world.developer, "git", "push", "--quiet", str(world.github.origin), "--tags")
    run(world.developer, "git", "reset", "--quiet", "--hard", "HEAD~1")
    (tmp_path / "gcloud").write_text("#!/bin/sh\nexit 9\n")
    (tmp_path / "gcloud").chmod(0o755)
    monkeypatch.setitem(ENVIRONMENT, "PATH", f"{tmp_path}:{ENVIRONMENT['PATH']}")
    runner = world.runner("push", {}, "refs/tags/tweets#prod#1", variables=DEPLOYS)
    failed = runner.job("deploy", "deploy")
    assert failed is not None
    assert "deploy: `gcloud run services describe tweets --format=json` ended with exit code 9" in failed.stderr
    assert runner.ran == [f"make {name}" for name in ("setup-dev", "ci-tag", "verify", "deploy", "abort-canary")]


@pytest.fixture(scope="module")
def changed(world: World) -> str:
    """The commit of a pull request that changes the learning rate and leaves reproducing to the pipeline."""
    set_param(world.developer, "train.lr", 0.004)
    commit(world.developer, "commit", "--quiet", "--all", "--message", "Learn faster")
    return world.push("faster")


@pytest.fixture(scope="module")
def first(world: World, changed: str) -> Runner:
    """The pipeline's first run on that pull request."""
    runner = world.runner("pull_request", world.pull_request(changed), "refs/pull/5/merge")
    last = runner.job("pipeline", "pipeline")
    assert last is not None
    assert last.returncode == 0, last.stdout + last.stderr
    assert "make test with token: none\n" in last.stdout
    return runner


def test_the_pipeline_pushes_only_results_onto_the_pull_requests_branch(
    first: Runner, world: World, changed: str
) -> None:
    head = world.head("faster")
    assert world.head("faster^") == changed
    names = run(world.github.origin, "git", "diff", "--name-only", changed, head).stdout.split()
    assert "dvc.lock" in names
    assert "metrics/train.json" in names
    assert all(name == "dvc.lock" or name.startswith(("metrics/", "plots/")) for name in names)
    author = run(world.github.origin, "git", "log", "-1", "--format=%an", head).stdout
    assert author == "github-actions[bot]\n"


def test_the_pipeline_puts_the_new_model_into_the_bucket(first: Runner, world: World) -> None:
    lock = yaml.safe_load((first.clone / "dvc.lock").read_text())
    old = yaml.safe_load((world.developer / "dvc.lock").read_text())
    model, before = (
        next(out for out in found["stages"]["train"]["outs"] if out["path"] == "models/transformer")["md5"]
        for found in (lock, old)
    )
    assert model != before
    assert model[2:] in world.objects()


def test_the_pushed_commit_gets_both_statuses_that_the_merge_requires(first: Runner, world: World) -> None:
    found = {one["context"]: one for one in world.github.statuses[world.head("faster")]}
    assert {name: one["state"] for name, one in found.items()} == {"verify": "success", "tests": "success"}
    assert found["verify"]["description"] == "make verify: exit code 0"
    assert first.ran[-1] == "make ci-test"


def test_the_comment_has_the_report_with_its_pictures_where_they_are(first: Runner, world: World) -> None:
    [comment] = [one for one in world.github.comments if one["number"] == 5]
    head = world.head("faster")
    assert "pushed " + head[:12] in comment["body"]
    assert "train.lr" in comment["body"]
    pictures = re.findall(rf"{world.github.url}/{REPOSITORY}/raw/reports/(\S+?\.png)", comment["body"])
    assert pictures
    for name in pictures:
        assert name.startswith(f"pull-5/{head[:12]}/")
        run(world.github.origin, "git", "cat-file", "-e", f"reports:{name}")
    assert "train.lr" in first.summary


def test_a_second_run_changes_nothing_and_updates_the_comment_in_place(first: Runner, world: World) -> None:
    head, objects = world.head("faster"), world.objects()
    again = world.runner("pull_request", world.pull_request(head), "refs/pull/5/merge")
    last = again.job("pipeline", "pipeline")
    assert last is not None
    assert last.returncode == 0, last.stdout + last.stderr
    assert again.ran[-1] == "make ci-report"
    assert (world.head("faster"), world.objects()) == (head, objects)
    [comment] = [one for one in world.github.comments if one["number"] == 5]
    assert "Nothing was stale" in comment["body"]


@pytest.fixture
def late(first: Runner, world: World, changed: str, tmp_path: Path) -> Runner:
    """A job on the commit before the results, about to push the same ones."""
    clone = shutil.copytree(first.clone, tmp_path / "late", symlinks=True)
    run(clone, "git", "reset", "--quiet", changed)
    return world.runner("pull_request", world.pull_request(changed), "refs/pull/5/merge", clone=clone)


PUSH = {"id": "push", "run": "make ci-push", "env": {"GITHUB_TOKEN": TOKEN}}


def test_a_job_that_is_run_again_goes_on_with_the_commit_that_it_pushed(late: Runner, world: World) -> None:
    """Else what died after its push could never set the statuses."""
    head = world.head("faster")
    last = late.step(PUSH, {})
    assert last.returncode == 0, last.stderr
    assert late.outputs["push"] == {"pushed": "true"}
    assert world.head("faster") == head
    assert run(late.clone, "git", "rev-parse", "HEAD").stdout.strip() == head
    assert run(late.clone, "git", "status", "--porcelain").stdout == ""


def test_a_branch_that_moved_in_the_meantime_is_not_overwritten(late: Runner, world: World) -> None:
    (world.developer / "README.md").write_text("Another thing\n")
    commit(world.developer, "commit", "--quiet", "--all", "--message", "Go on")
    head = world.push("moved")
    late.event["pull_request"]["head"]["ref"] = "moved"
    last = late.step(PUSH, {})
    assert last.returncode != 0
    assert "ci: moved moved while its pipeline ran" in last.stderr
    assert "Traceback" not in last.stderr
    assert world.head("moved") == head
    run(world.developer, "git", "reset", "--quiet", "--hard", "HEAD~1")


def test_what_is_not_verified_gets_a_status_that_says_so(first: Runner, world: World) -> None:
    step = {"run": "make ci-verify", "env": {"GITHUB_TOKEN": TOKEN}}
    set_param(first.clone, "train.lr", 0.005)
    last = first.step(step, {})
    assert last.returncode != 0
    assert "verify: not committed:\n M params.yaml" in last.stderr
    assert world.github.statuses[world.head("faster")][-1]["state"] == "failure"
    commit(first.clone, "commit", "--quiet", "--all", "--message", "Stale")
    last = first.step(step, {})
    assert last.returncode != 0
    assert "train: the param train.lr is 0.005" in last.stderr
    run(first.clone, "git", "reset", "--quiet", "--hard", "HEAD~1")


@pytest.mark.parametrize(
    ("repository", "variables"), [("someone/tweets", SET_UP), ("someone/tweets", {}), (REPOSITORY, {})]
)
def test_without_credentials_the_pipeline_is_skipped_with_a_notice(
    repository: str, variables: dict[str, str], world: World
) -> None:
    event = world.pull_request("0" * 40, repository)
    runner = world.runner("pull_request", event, "refs/pull/5/merge", variables=variables)
    assert runner.job("pipeline", "pipeline") is None
    notice = runner.job("pipeline", "not-here")
    assert notice is not None
    assert notice.stdout.startswith("::notice::No credentials, so no pipeline")


def test_with_credentials_there_is_no_notice(world: World) -> None:
    runner = world.runner("pull_request", world.pull_request("0" * 40), "refs/pull/5/merge")
    assert runner.job("pipeline", "not-here") is None


def test_a_remote_that_refuses_fails_at_once(first: Runner, world: World) -> None:
    refusing = re.sub(r"http://127\.0\.0\.1:\d+", world.github.url, world.config)
    (first.clone / ".dvc/config.local").write_text(refusing)
    last = first.step({"run": "make ci-pull"}, {})
    assert last.returncode != 0
    assert "\nci: gs://tweets-dvc/pipeline: Anonymous caller" in f"\n{last.stderr}"
    assert "Traceback" not in last.stderr


def test_changed_data_is_prepared_counted_and_offered_as_a_pull_request(world: World) -> None:
    run(world.developer, "git", "checkout", "--quiet", "--force", "HEAD~1")
    runner = world.runner("repository_dispatch", {"action": "data-changed"}, "refs/heads/main")
    last = runner.job("data", "data")
    assert last is not None
    assert last.returncode == 0, last.stdout + last.stderr
    assert stages_run(last) == []
    assert world.github.pulls == []
    tweets = world.developer / "data/external/tweets.csv"
    tweets.write_text("".join(tweets.read_text().splitlines(keepends=True)[:-9]))
    run(world.developer, "dvc", "add", "data/external/tweets.csv")
    run(world.developer, "dvc", "push")
    commit(world.developer, "commit", "--quiet", "--all", "--message", "Fewer tweets")
    main = world.push("main")
    last = runner.job("data", "data")
    assert last is not None
    assert stages_run(last) == ["fetch", "prepare"]
    assert world.head("data-changed^") == main
    assert [(one["head"], one["base"]) for one in world.github.pulls] == [("data-changed", "main")]
    assert '"rows"' in runner.summary
    assert world.github.pulls[0]["html_url"] in runner.summary
    before = world.head("data-changed")
    last = runner.job("data", "data")
    assert last is not None
    assert "data: data-changed has this lock already" in last.stdout
    assert (world.head("data-changed"), len(world.github.pulls)) == (before, 1)


def test_a_registered_model_is_fetched_verified_and_tried(world: World, first: Runner, tmp_path: Path) -> None:
    run(world.developer, "git", "checkout", "--quiet", "--force", world.head("faster~1~1"))
    run(world.developer, "gto", "register", "tweets", "--version", "v1.0.0", check=True, **AUTHOR)
    run(world.developer, "git", "push", "--quiet", str(world.github.origin), "tweets@v1.0.0")
    runner = world.runner("push", {}, "refs/tags/tweets@v1.0.0")
    last = runner.job("model", "model")
    assert last is not None
    assert last.returncode == 0, last.stdout + last.stderr
    assert runner.summary.startswith("## tweets@v1.0.0\n\nmodels/transformer loads and predicts")
    assert re.search(r"\nWhat a day!\t|\n(negative|neutral|positive)\t", last.stdout)
    assert list((runner.clone / "report").glob("report.*"))
    run(world.developer, "dvc", "artifacts", "get", ".", "tweets", "--rev", "v1.0.0", "-o", str(tmp_path / "fetched"))
    weights = "model.safetensors"
    assert (tmp_path / "fetched" / weights).read_bytes() == (runner.clone / "models/transformer" / weights).read_bytes()


def test_a_tag_that_takes_a_model_back_starts_nothing(world: World) -> None:
    assert world.runner("push", {}, "refs/tags/tweets@v1.0.0!").job("model", "model") is None


def test_a_tag_of_an_unknown_model_ends_in_one_line(world: World, first: Runner) -> None:
    last = world.runner("push", {}, "refs/tags/others@v1.0.0", clone=first.clone).step({"run": "make ci-model"}, {})
    assert last.returncode != 0
    assert "ci: others@v1.0.0: dvc.yaml has no artifact others; it has tweets, tweets-onnx\n" in last.stderr


def test_both_images_are_built_by_docker(world: World, tmp_path: Path) -> None:
    (tmp_path / "docker").write_text('#!/bin/sh\necho "docker $*"\n')
    (tmp_path / "docker").chmod(0o755)
    steps = [step["run"] for step in steps_of("image", "image") if "run" in step]
    assert steps == ["make image-pipeline", "make repro", "make image-serve"]
    head = run(ROOT, "git", "rev-parse", "HEAD").stdout.strip()
    for step, target in ((steps[0], "pipeline"), (steps[2], "serve")):
        result = run(ROOT, *step.split(), PATH=f"{tmp_path}:{ENVIRONMENT['PATH']}")
        called = result.stdout.splitlines()[-1].replace(f"{head}-dirty", head)
        wanted = f"docker build --target {target} --tag tweets-{target} --build-arg TWEETS_COMMIT={head} ."
        assert called == wanted
