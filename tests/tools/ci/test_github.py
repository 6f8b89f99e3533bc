"""GitHub's API as the workflows use it, and what Git they do, against a stand-in for GitHub on loopback."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from repository.git import git
from tests.support.clones import run
from tests.support.github_server import TOKEN, GitHub, Serving
from tools.ci import commits
from tools.ci import github as api
from tweets.errors import UserError

MARKER = "<!-- marker -->"


@pytest.fixture
def github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHub]:
    """A GitHub with an empty repository, a clone of which is the current folder."""
    with Serving(tmp_path) as serving:
        serving.origin.mkdir(parents=True)
        run(serving.origin, "git", "init", "--quiet", "--bare", "--initial-branch=main")
        (tmp_path / "clone").mkdir()
        monkeypatch.chdir(tmp_path / "clone")
        for name, value in {**serving.environment(), **commits.AUTHOR, "GITHUB_TOKEN": TOKEN}.items():
            monkeypatch.setenv(name, value)
        run(Path(), "git", "init", "--quiet", "--initial-branch=main")
        run(Path(), "git", "remote", "add", "origin", f"{serving.url}/acme/tweets.git")
        Path("dvc.lock").write_text("one\n")
        yield serving


def test_a_status_is_what_the_documentation_asks_for(github: GitHub) -> None:
    api.set_status("abc", "verify", "success", "x" * 200)
    [found] = github.statuses["abc"]
    assert found == {
        "context": "verify",
        "description": "x" * 140,
        "state": "success",
        "target_url": f"{github.url}/acme/tweets/actions/runs/7",
    }


def test_a_comment_is_written_once_and_then_changed_in_place(github: GitHub) -> None:
    github.comments = [{"id": at, "number": 5, "user": {"type": "User"}, "body": MARKER} for at in range(120)]
    api.comment(5, MARKER, "first")
    api.comment(6, MARKER, "another pull request's")
    api.comment(5, MARKER, "second")
    assert [one["body"] for one in github.comments[120:]] == [
        f"{MARKER}\nsecond",
        f"{MARKER}\nanother pull request's",
    ]


def test_a_comment_that_is_too_long_is_cut_and_says_so(github: GitHub) -> None:
    api.comment(5, MARKER, "x" * 70_000)
    assert len(github.comments[0]["body"]) == 65_536
    assert github.comments[0]["body"].endswith("The job's summary has all of it.)\n")


def test_a_pull_request_is_opened_once(github: GitHub) -> None:
    first = api.pull_request("data-changed", "main", "Data changed", "text")
    assert api.pull_request("data-changed", "main", "Data changed", "text") == first
    assert [(one["head"], one["base"]) for one in github.pulls] == [("data-changed", "main")]


@pytest.mark.parametrize("answer", [(502, {}), (429, {}), (403, {"Retry-After": "0"}), (503, {"Retry-After": "0"})])
def test_a_server_that_is_busy_is_asked_again(answer: tuple[int, dict[str, str]], github: GitHub) -> None:
    github.answers = [answer]
    api.set_status("abc", "verify", "success", "")
    assert len(github.asked) == 2
    assert github.statuses["abc"]


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "is GITHUB_TOKEN"), (403, "`permissions:`"), (404, "GITHUB_REPOSITORY"), (422, "As asked for")],
)
def test_a_refusal_ends_in_one_line_that_says_what_to_look_at(status: int, said: str, github: GitHub) -> None:
    github.answers = [(status, {})]
    with pytest.raises(UserError, match=rf"^POST http\S+/repos/acme/tweets/statuses/abc: {status}: .*{said}"):
        api.set_status("abc", "verify", "success", "")
    assert len(github.asked) == 1


def test_a_server_that_is_not_there_ends_in_one_line(github: GitHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "AGAIN", 0)
    monkeypatch.setenv("GITHUB_API_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"^POST http://127\.0\.0\.1:9/\S+: no answer: [^\n]+$"):
        api.set_status("abc", "verify", "success", "")


def test_what_a_job_would_set_is_named_when_it_is_missing(github: GitHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_TOKEN")
    with pytest.raises(UserError, match="GITHUB_TOKEN is not set"):
        api.set_status("abc", "verify", "success", "")


def test_only_results_are_committed_and_the_token_stays_out_of_the_clone(github: GitHub) -> None:
    Path("params.yaml").write_text("x")
    Path("metrics").mkdir()
    Path("metrics/one.json").write_text("{}")
    run(Path(), "git", "add", "params.yaml")
    commit = commits.record(["dvc.lock", "metrics", "plots"], "Results")
    assert git("show", "--name-only", "--format=", commit).split() == ["dvc.lock", "metrics/one.json"]
    assert commits.record(["dvc.lock", "metrics", "plots"], "Results") == ""
    assert commits.push_commit(commit, "branch")
    assert run(github.origin, "git", "rev-parse", "branch").stdout.strip() == commit
    assert TOKEN not in Path(".git/config").read_text()


def test_a_branch_that_moved_is_not_overwritten(github: GitHub) -> None:
    first = commits.record(["dvc.lock"], "Theirs")
    commits.push_commit(first, "branch")
    run(Path(), "git", "checkout", "--quiet", "--orphan", "mine")
    Path("dvc.lock").write_text("mine\n")
    assert not commits.push_commit(commits.record(["dvc.lock"], "Mine"), "branch")
    assert run(github.origin, "git", "rev-parse", "branch").stdout.strip() == first


def test_a_push_that_is_refused_for_another_reason_is_an_error(github: GitHub, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = commits.record(["dvc.lock"], "Mine")
    monkeypatch.setenv("GITHUB_TOKEN", "another")
    monkeypatch.setenv("GIT_TERMINAL_PROMPT", "0")
    with pytest.raises(UserError, match=r"^git push to branch: ") as raised:
        commits.push_commit(commit, "branch")
    assert "another" not in str(raised.value)


def test_each_folder_of_pictures_is_replaced_alone(github: GitHub, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = commits.record(["dvc.lock"], "Mine")
    for folder, name, content in (("pull-1", "a/x", "1"), ("pull-2", "a/y", "2"), ("pull-1", "b/z", "3")):
        Path("picture").write_text(content)
        commits.publish({f"{folder}/{name}.png": Path("picture")}, folder, "reports")
    shown = subprocess.check_output(["git", "ls-tree", "-r", "--name-only", "reports"], cwd=github.origin, text=True)
    assert shown.split() == ["pull-1/b/z.png", "pull-2/a/y.png"]
    assert run(github.origin, "git", "show", "reports:pull-1/b/z.png").stdout == "3"
    assert run(github.origin, "git", "rev-list", "--count", "reports").stdout == "1\n"
    assert git("rev-parse", "HEAD") == commit
    assert git("status", "--porcelain", "--untracked-files=no") == ""


def test_the_same_pictures_push_nothing_and_a_race_is_run_again(
    github: GitHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("picture").write_text("1")
    commits.publish({"pull-1/x.png": Path("picture")}, "pull-1", "reports")
    before = run(github.origin, "git", "rev-parse", "reports").stdout.strip()
    commits.publish({"pull-1/x.png": Path("picture")}, "pull-1", "reports")
    assert run(github.origin, "git", "rev-parse", "reports").stdout.strip() == before
    heads = iter(["", before])  # what another job's push in between makes of the first
    monkeypatch.setattr(commits, "head_of", lambda branch: next(heads))
    commits.publish({"pull-2/x.png": Path("picture")}, "pull-2", "reports")
    shown = run(github.origin, "git", "ls-tree", "-r", "--name-only", "reports").stdout
    assert shown.split() == ["pull-1/x.png", "pull-2/x.png"]
