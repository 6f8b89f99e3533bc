"""The steps of the jobs in .github/workflows that are more than one command. Each runs on a laptop too.

    python -m tools.ci pull     # data and model, as far as the remote has them
    python -m tools.ci repro    # `dvc repro`, with what others have run before taken from the remote
    python -m tools.ci push     # what was reproduced: to the remote, and the new lock to the pull request's branch
    python -m tools.ci verify   # `make verify`, whose exit code becomes the commit status `verify`
    python -m tools.ci test     # `make test`, whose exit code becomes the commit status `tests`
    python -m tools.ci report   # the pull request's comment, its pictures on the branch `reports`
    python -m tools.ci data     # read and prepare changed data, open a pull request with the new lock
    python -m tools.ci model    # check the model that the tag GITHUB_REF_NAME registers
    python -m tools.ci tag      # fetch the tag GITHUB_REF_NAME as it was pushed

From `push` on they read the environment that GitHub Actions gives to a job, and GITHUB_TOKEN.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from dvc.repo import Repo

from repository.git import git
from tools.ci import github
from tools.ci.commits import head_of, publish, push_commit, record, same_content, signed_in
from tools.remote import Remote
from tweets import command, files
from tweets.errors import UserError

RESULTS = ("dvc.lock", "metrics", "plots")
REPORT = Path("report")
MARKER = "<!-- what the pipeline reproduced -->"
SAMPLE = "What a day!"
DATA_BRANCH = "data-changed"


def run(*command: str) -> int:
    """Run a command and return its exit code. It gets no token: it may be the code of the pull request."""
    print("$", *command, flush=True)
    environment = {name: value for name, value in os.environ.items() if name != "GITHUB_TOKEN"}
    return subprocess.run(command, env=environment, check=False).returncode


def need(*command: str) -> None:
    """Run a command. Raises UserError when it fails."""
    code = run(*command)
    if code:
        raise UserError(f"`{' '.join(command)}` ended with exit code {code}; its own lines above say why")


def python(*arguments: str) -> list[str]:
    return [sys.executable, "-m", *arguments]


def pull() -> None:
    """Get what the remote has. What it lacks is rebuilt by `dvc repro`; a remote that does not answer is an error."""
    with Repo() as repo:
        Remote(repo).check()
    need("dvc", "fetch", "--run-cache")
    run("dvc", "checkout", "--allow-missing")


def push() -> None:
    """Push the reproduced objects, then commit the lock that names them to the pull request's branch."""
    need(*python("tools.remote", "push"))
    branch = github.variable("GITHUB_HEAD_REF")
    commit = record(RESULTS, "Reproduce: what `dvc repro` makes of this branch")
    if not commit:
        print("push: nothing to commit: the branch already has what `dvc repro` makes of it")
    elif push_commit(commit, branch):
        print(f"push: {commit[:12]} is the new head of {branch}")
    elif same_content(commit, head_of(branch)):  # this job ran before, and ended after its push
        git("reset", "--soft", head_of(branch))
        print(f"push: the head of {branch} is what `dvc repro` makes of the commit before it")
    else:
        raise UserError(
            f"{branch} moved while its pipeline ran, so {commit[:12]} was not pushed there; the run for its new head"
            " takes the reproduced objects from the remote"
        )
    output("pushed", "true" if commit else "false")


def gate(context: str, *command: str) -> None:
    """Run a command and give HEAD a status that says how it ended. Raises UserError when it failed."""
    changed = git("status", "--porcelain", "--untracked-files=no")  # then the command would not judge the commit
    code = 1 if changed else run(*command)
    if changed:
        print(f"{context}: not committed:\n{changed}", file=sys.stderr)
    state = "failure" if code else "success"
    github.set_status(git("rev-parse", "HEAD"), context, state, f"{' '.join(command)}: exit code {code}")
    if code:
        raise UserError(f"`{' '.join(command)}` ended with exit code {code}, so {context} is a failure")


def report() -> None:
    """Write the comment: what was reproduced, and the report against the branch that the pull request goes to."""
    event = event_payload()
    number, head = event["pull_request"]["number"], git("rev-parse", "HEAD")
    folder = f"pull-{number}/{head[:12]}"  # its name changes with the commit: no proxy shows an old picture
    url = f"{github.variable('GITHUB_SERVER_URL')}/{github.variable('GITHUB_REPOSITORY')}/raw/reports/{folder}"
    need(*python("tools.report", f"origin/{github.variable('GITHUB_BASE_REF')}", "--pictures", url))
    pictures = {f"{folder}/{path.name}": path for path in sorted(REPORT.glob("plots/*.png"))}
    publish(pictures, f"pull-{number}", "reports")
    if head == event["pull_request"]["head"]["sha"]:
        outcome = f"Nothing was stale: {head[:12]} has the results of its own code, data and params."
    else:
        outcome = f"`dvc repro` ran what was stale and pushed {head[:12]} to this branch: `git pull` before you go on."
    text = f"## Pipeline\n\n{outcome}\n\n{(REPORT / 'report.md').read_text(encoding='utf-8')}"
    summarise(text)
    github.comment(number, MARKER, text)


def data() -> None:
    """Read and prepare the data as it is now. If the lock then differs, offer it as a pull request."""
    pull()
    need("dvc", "repro", "prepare")
    counts = files.read_json(Path("metrics/prepare.json"))
    summarise(f"## Data\n\n```json\n{json.dumps(counts, indent=1)}\n```\n")
    commit = record(RESULTS, "Data changed: the lock of fetch and prepare")
    if not commit:
        print("data: nothing changed since the commit")
        return
    before = head_of(DATA_BRANCH)
    if before and lock_of_data(before) == lock_of_data(commit):
        print(f"data: {DATA_BRANCH} has this lock already")
        return
    need(*python("tools.remote", "push"))
    if not push_commit(commit, DATA_BRANCH, f"--force-with-lease=refs/heads/{DATA_BRANCH}:{before}"):
        raise UserError(f"{DATA_BRANCH} moved while this job ran; run it again")
    text = (
        "The data differs from what main was reproduced with. The pipeline reproduces the rest on this branch; as a"
        " workflow opened it, a person has to approve its runs, or to close and reopen it."
    )
    url = github.pull_request(DATA_BRANCH, "main", "Data changed", text)
    summarise(f"The new lock: {url}\n")


def lock_of_data(commit: str) -> list[Any]:
    """Return what a commit's dvc.lock says of the stages that read the data."""
    stages = files.parse_yaml(git("show", f"{commit}:dvc.lock"), "dvc.lock")["stages"]
    return [stages.get(name) for name in ("fetch", "prepare")]


def model() -> None:
    """Check a registered model: it is in the remote as the tag's commit says, loads, and predicts."""
    tag = github.variable("GITHUB_REF_NAME")
    name = tag.split("@")[0].split("#")[0]
    declared = files.read_yaml(Path("dvc.yaml")).get("artifacts", {})
    if name not in declared:
        raise UserError(f"{tag}: dvc.yaml has no artifact {name}; it has {', '.join(declared) or 'none'}")
    path = declared[name]["path"]
    need("dvc", "pull")
    need("make", "verify")
    need(*python("tweets.predict", "--model", path, SAMPLE))
    need(*python("tools.report"))
    text = (REPORT / "report.md").read_text(encoding="utf-8")
    summarise(f"## {tag}\n\n{path} loads and predicts; `make verify` passed.\n\n{text}")


def tag() -> None:
    """Fetch the tag GITHUB_REF_NAME as it was pushed, with its annotation, without which GTO passes it over.

    In a job that a tag starts, actions/checkout v5 lets that tag point to the commit itself (its issue 882).
    """
    name = f"refs/tags/{github.variable('GITHUB_REF_NAME')}"
    git("fetch", "--quiet", "--force", "--no-tags", "origin", f"{name}:{name}", changed=signed_in())


def event_payload() -> dict[str, Any]:
    payload: dict[str, Any] = files.read_json(Path(github.variable("GITHUB_EVENT_PATH")))
    return payload


def summarise(text: str) -> None:
    """Append Markdown to the job's summary, where there is one; else print it."""
    append("GITHUB_STEP_SUMMARY", text)


def output(name: str, value: str) -> None:
    """Set an output of this step, which conditions of later ones read."""
    append("GITHUB_OUTPUT", f"{name}={value}\n")


def append(variable: str, text: str) -> None:
    path = os.environ.get(variable)
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text)
    else:
        print(text)


STEPS = {
    "pull": pull,
    "repro": lambda: need("dvc", "repro", "--pull"),
    "push": push,
    "verify": lambda: gate("verify", "make", "verify"),
    "test": lambda: gate("tests", "make", "test"),
    "report": report,
    "data": data,
    "model": model,
    "tag": tag,
}


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("step", choices=STEPS)
    STEPS[parser.parse_args().step]()


if __name__ == "__main__":
    command.run("ci", main)
