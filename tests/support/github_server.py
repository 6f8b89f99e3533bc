"""A stand-in for GitHub on loopback: the REST endpoints that the workflows call, and a bare repository over HTTP."""

import base64
import json
import os
import subprocess
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "-".join(["token", "of", "this", "job"])
REPOSITORY = "acme/tweets"
# What Google Cloud Storage answers to who has not signed in.
REFUSED = {"code": 401, "message": "Anonymous caller does not have storage.objects.list access", "errors": []}
# What the documentation of each endpoint requires of the body, and allows.
BODIES = {
    "statuses": ({"state"}, {"state", "target_url", "description", "context"}),
    "comments": ({"body"}, {"body"}),
    "pulls": ({"title", "head", "base"}, {"title", "head", "base", "body"}),
}


@dataclass
class GitHub:
    """What the stand-in holds and was asked; `answers` are statuses, with headers, to give before the true ones."""

    root: Path  # of acme/tweets.git
    statuses: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    comments: list[dict[str, Any]] = field(default_factory=list)
    pulls: list[dict[str, Any]] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    @property
    def origin(self) -> Path:
        return self.root / f"{REPOSITORY}.git"

    def environment(self) -> dict[str, str]:
        """Return the variables that GitHub Actions would set for a job of this repository."""
        return {
            "GITHUB_API_URL": f"{self.url}/api/v3",
            "GITHUB_REPOSITORY": REPOSITORY,
            "GITHUB_RUN_ID": "7",
            "GITHUB_SERVER_URL": self.url,
        }

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:  # noqa: PLR0911
        """Return the status and the JSON that GitHub answers to a request below the repository's address."""
        match method, path.split("/"):
            case "POST", ["statuses", sha]:
                self.statuses.setdefault(sha, []).append(body)
                return 201, body
            case "GET", ["issues", number, "comments"]:
                start = (int(query["page"][0]) - 1) * int(query["per_page"][0])
                of_it = [one for one in self.comments if one["number"] == int(number)]
                return 200, of_it[start : start + int(query["per_page"][0])]
            case "POST", ["issues", number, "comments"]:
                self.comments.append({"id": len(self.comments), "number": int(number), "user": {"type": "Bot"}, **body})
                return 201, self.comments[-1]
            case "PATCH", ["issues", "comments", identifier]:
                self.comments[int(identifier)] |= body
                return 200, self.comments[int(identifier)]
            case "GET", ["pulls"]:
                return 200, [one for one in self.pulls if [f"acme:{one['head']}"] == query["head"]]
            case "POST", ["pulls"]:
                self.pulls.append({**body, "html_url": f"{self.url}/{REPOSITORY}/pull/{len(self.pulls) + 1}"})
                return 201, self.pulls[-1]
        return 404, {"message": "Not Found"}


def refusal(kind: str, headers: dict[str, str], body: Any) -> tuple[int, Any] | None:
    """Return what GitHub says to a request that is not of the documented form."""
    if headers.get("authorization") != f"Bearer {TOKEN}":
        return 401, {"message": "Bad credentials"}
    if headers.get("accept") != "application/vnd.github+json" or headers.get("x-github-api-version") != "2022-11-28":
        return 415, {"message": "Unsupported media type or version"}
    if body is not None:
        needed, allowed = BODIES[kind]
        states = {"error", "failure", "pending", "success"}
        good = needed <= body.keys() <= allowed and (kind != "statuses" or body["state"] in states)
        if not good or len(body.get("description", "")) > 140 or len(body.get("body", "")) > 65_536:
            return 422, {"message": "Validation Failed"}
    return None


def handler(github: GitHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

        def do_GET(self) -> None:
            self.serve()

        def do_POST(self) -> None:
            self.serve()

        def do_PATCH(self) -> None:
            self.serve()

        def serve(self) -> None:
            content = self.rfile.read(int(self.headers.get("content-length", 0)))
            url = urlsplit(self.path)
            if url.path.startswith(f"/{REPOSITORY}.git/"):
                self.git(url.path, url.query, content)
                return
            if url.path.startswith("/b/") or url.path.startswith("/storage/"):  # a bucket that refuses
                self.reply(401, {"Content-Type": "application/json"}, json.dumps({"error": REFUSED}).encode())
                return
            path = url.path.removeprefix(f"/api/v3/repos/{REPOSITORY}/")
            github.asked.append((self.command, path))
            body = json.loads(content) if content else None
            kind = next((name for name in BODIES if name in path), "")
            headers = {name.lower(): value for name, value in self.headers.items()}
            extra: dict[str, str] = {}
            if github.answers:
                status, extra = github.answers.pop(0)
                answer: Any = {"message": "As asked for"}
            else:
                refused = refusal(kind, headers, body)
                status, answer = refused or github.answer(self.command, path, parse_qs(url.query), body)
            self.reply(status, {"Content-Type": "application/json", **extra}, json.dumps(answer).encode())

        def git(self, path: str, query: str, content: bytes) -> None:
            """Serve the bare repository by git's own CGI program, to who signs in as a job does."""
            basic = base64.b64encode(f"x-access-token:{TOKEN}".encode()).decode()
            if self.headers.get("authorization", "").lower() != f"basic {basic}".lower():
                self.reply(401, {"WWW-Authenticate": "Basic"}, b"")
                return
            environment = {
                **os.environ,
                "CONTENT_LENGTH": str(len(content)),
                "CONTENT_TYPE": self.headers.get("content-type", ""),
                "GIT_HTTP_EXPORT_ALL": "1",
                "GIT_PROJECT_ROOT": str(github.root),
                "HTTP_CONTENT_ENCODING": self.headers.get("content-encoding", ""),
                "HTTP_GIT_PROTOCOL": self.headers.get("git-protocol", ""),
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REMOTE_USER": "job",
                "REQUEST_METHOD": self.command,
            }
            program = ["git", "http-backend"]
            found = subprocess.run(program, input=content, env=environment, stdout=subprocess.PIPE, check=True)
            head, _, rest = found.stdout.partition(b"\r\n\r\n")
            headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
            self.reply(int(headers.pop("Status", "200").split()[0]), headers, rest)

        def reply(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Handler


class Serving:
    """Run the stand-in while a `with` block lasts."""

    def __init__(self, root: Path) -> None:
        self.github = GitHub(root)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler(self.github))
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self.github.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> GitHub:
        self.thread.start()
        return self.github

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
