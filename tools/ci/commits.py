"""What the workflows do to Git: commit results, push them, keep pictures on a branch of their own.

A push takes GITHUB_TOKEN from the environment and gives it to that one command, so the checkout holds no credential.
"""

import base64
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from repository.git import attempt, git
from tweets.errors import UserError

AUTHOR = {
    "GIT_AUTHOR_NAME": "github-actions[bot]",
    "GIT_AUTHOR_EMAIL": "41898282+github-actions[bot]@users.noreply.github.com",
    "GIT_COMMITTER_NAME": "github-actions[bot]",
    "GIT_COMMITTER_EMAIL": "41898282+github-actions[bot]@users.noreply.github.com",
}
ATTEMPTS = 5


def signed_in() -> dict[str, str]:
    """Return the variables that let git sign in to GitHub with GITHUB_TOKEN, and to no other server."""
    token, server = os.environ.get("GITHUB_TOKEN"), os.environ.get("GITHUB_SERVER_URL")
    if not (token and server):
        return {}
    basic = base64.b64encode(f"x-access-token:{token}".encode()).decode()
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"http.{server}/.extraheader",
        "GIT_CONFIG_VALUE_0": f"AUTHORIZATION: basic {basic}",
    }


def record(paths: Iterable[str], message: str) -> str:
    """Commit what changed below the paths, and only that; return the commit, or "" when nothing did."""
    listed = [path for path in paths if Path(path).exists()]
    git("add", "--all", "--", *listed)
    if attempt("diff", "--cached", "--quiet", "--", *listed).returncode == 0:
        return ""
    git("commit", "--quiet", "--message", message, "--", *listed, changed=AUTHOR)
    return git("rev-parse", "HEAD")


def push_commit(commit: str, branch: str, *options: str) -> bool:
    """Push a commit to a branch of origin; return False when the branch has moved away from what the push expects."""
    pushed = attempt("push", "--quiet", *options, "origin", f"{commit}:refs/heads/{branch}", changed=signed_in())
    if pushed.returncode and "[rejected]" not in pushed.stderr:
        raise UserError(f"git push to {branch}: {' '.join(pushed.stderr.split())}")
    return pushed.returncode == 0


def publish(pictures: Mapping[str, Path], folder: str, branch: str) -> None:
    """Replace a folder on a branch of origin with these files, by name there.

    The branch is one commit without a parent, so that clones do not carry pictures that nothing shows any more.
    Raises UserError when others push to that branch at the same time, each time.
    """
    for _ in range(ATTEMPTS):
        before = head_of(branch)
        tree = with_folder(pictures, folder, before)
        if before and tree == git("rev-parse", f"{before}^{{tree}}"):
            return
        commit = git("commit-tree", tree, "-m", "Pictures of the reports on pull requests", changed=AUTHOR)
        if push_commit(commit, branch, f"--force-with-lease=refs/heads/{branch}:{before}"):
            return
    raise UserError(f"{branch}: other commits arrived there {ATTEMPTS} times in a row; run this job again")


def head_of(branch: str) -> str:
    """Return the commit that a branch of origin is at, fetched; "" when there is no such branch."""
    if not git("ls-remote", "origin", f"refs/heads/{branch}", changed=signed_in()):
        return ""
    git("fetch", "--quiet", "origin", f"refs/heads/{branch}", changed=signed_in())
    return git("rev-parse", "FETCH_HEAD")


def same_content(commit: str, other: str) -> bool:
    """Tell whether two commits hold the same files."""
    return git("rev-parse", f"{commit}^{{tree}}") == git("rev-parse", f"{other}^{{tree}}")


def with_folder(pictures: Mapping[str, Path], folder: str, before: str) -> str:
    """Return a tree: that of a commit, with these files in place of a folder. Checkout and index stay untouched."""
    with tempfile.TemporaryDirectory() as temporary:
        index = {"GIT_INDEX_FILE": f"{temporary}/index"}
        git("read-tree", before or "--empty", changed=index)
        git("rm", "-r", "--cached", "--force", "--quiet", "--ignore-unmatch", "--", folder, changed=index)
        for name, path in pictures.items():
            blob = git("hash-object", "-w", "--", str(path))
            git("update-index", "--add", "--cacheinfo", f"100644,{blob},{name}", changed=index)
        return git("write-tree", changed=index)
