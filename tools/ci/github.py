"""GitHub's REST API, as far as the workflows need it. `GITHUB_API_URL` names the server, as it does on a runner."""

import os
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from tweets.errors import UserError, one_line

LONGEST_COMMENT = 65_536  # characters, GitHub's limit
CUT = "\n\n(The rest is cut: a comment holds 65,536 characters. The job's summary has all of it.)\n"
TIMEOUT = 30  # seconds
AGAIN = 4  # times, after 0, 2, 4 and 8 seconds or what the server says
HINTS = {
    401: "the token is refused; is GITHUB_TOKEN the one of this job?",
    403: "the token may not do this; does the job's `permissions:` in .github/workflows grant it?",
    404: "not found, or the token may not see it; are GITHUB_REPOSITORY and the job's `permissions:` right?",
}


class Patient(Retry):
    """Also waits when a 403 says how long: that is GitHub's answer to too many requests."""

    RETRY_AFTER_STATUS_CODES = frozenset({403, 413, 429, 503})


def variable(name: str) -> str:
    """Return an environment variable that GitHub sets in each job. Raises UserError when it is missing."""
    value = os.environ.get(name)
    if not value:
        raise UserError(f"{name} is not set: this step needs what GitHub Actions sets in a job's environment")
    return value


def call(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Return the JSON that the API answers below the repository's address.

    Raises UserError when the server cannot be reached, or refuses. Answers of 5xx and 429 are asked for again.
    """
    url = f"{variable('GITHUB_API_URL')}/repos/{variable('GITHUB_REPOSITORY')}/{path}"
    headers = {
        "Accept": "application/vnd.github+json",
        "Authorization": f"Bearer {variable('GITHUB_TOKEN')}",
        "X-GitHub-Api-Version": "2022-11-28",
    }
    again = Patient(total=AGAIN, backoff_factor=1, status_forcelist=(429, 500, 502, 503, 504), allowed_methods=None)
    again.raise_on_status = False
    with requests.Session() as session:
        session.mount(url, HTTPAdapter(max_retries=again))
        try:
            answer = session.request(method, url, json=body, headers=headers, timeout=TIMEOUT)
        except requests.RequestException as error:
            raise UserError(f"{method} {url}: no answer: {one_line(error)}") from None
    if not answer.ok:
        hint = HINTS.get(answer.status_code, one_line(Exception(answer.text))[:200])
        raise UserError(f"{method} {url}: {answer.status_code}: {hint}")
    return answer.json()


def set_status(sha: str, context: str, state: str, description: str) -> None:
    """Set a commit's status; `state` is pending, success, failure or error."""
    run = f"{variable('GITHUB_SERVER_URL')}/{variable('GITHUB_REPOSITORY')}/actions/runs/{variable('GITHUB_RUN_ID')}"
    body = {"state": state, "context": context, "description": description[:140], "target_url": run}
    call("POST", f"statuses/{sha}", body)


def comment(number: int, marker: str, text: str) -> None:
    """Write the one comment of a pull request that begins with `marker`, in place of what it said before."""
    body = f"{marker}\n{text}"
    if len(body) > LONGEST_COMMENT:
        body = body[: LONGEST_COMMENT - len(CUT)] + CUT
    for page in range(1, 1000):
        comments = call("GET", f"issues/{number}/comments?per_page=100&page={page}")
        for one in comments:
            if one["body"].startswith(marker) and one["user"]["type"] == "Bot":
                call("PATCH", f"issues/comments/{one['id']}", {"body": body})
                return
        if len(comments) < 100:
            break
    call("POST", f"issues/{number}/comments", {"body": body})


def pull_request(head: str, base: str, title: str, text: str) -> str:
    """Return the address of the open pull request from the branch `head`; open it if there is none."""
    owner = variable("GITHUB_REPOSITORY").split("/")[0]
    pulls = call("GET", f"pulls?state=open&head={owner}:{head}&base={base}")
    if not pulls:
        pulls = [call("POST", "pulls", {"head": head, "base": base, "title": title, "body": text})]
    return str(pulls[0]["html_url"])
