"""A stand-in for Google Cloud on loopback, as far as a deployment goes: gcloud reaches it as its proxy.

Each request must be a method of Google's own description of the API, and its body must be of the described form. A
revision of the Cloud Run service is a real service in a process; the service's address splits the traffic.
"""

import base64
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import requests

from tests.support.discovery import called, faults

PROJECT, REGION = "acme-tweets", "europe-west1"
IMAGES = f"projects/{PROJECT}/locations/{REGION}/repositories/tweets/packages"
APIS = {  # gcloud's name of each, and the description that holds for it
    "aiplatform": "aiplatform.v1",
    "artifactregistry": "artifactregistry.v1",
    "cloudbuild": "cloudbuild.v1",
    "run": "run.v1",
    "secretmanager": "secretmanager.v1",
}
Launch = Callable[[dict[str, Any]], str]


@dataclass
class Google:
    """What the stand-in holds. `launch` starts what a container says, and returns its address or raises."""

    launch: Launch
    secrets: dict[str, str]
    images: dict[str, str] = field(default_factory=dict)  # commit: digest
    to_build: dict[str, str] = field(default_factory=dict)  # the same, of those that a build can make
    service: dict[str, Any] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)  # name: address
    jobs: list[dict[str, Any]] = field(default_factory=list)
    splits: list[dict[str, int]] = field(default_factory=list)  # of the traffic, in their order
    on_split: Callable[[dict[str, int]], None] = lambda _: None
    faults: list[str] = field(default_factory=list)
    port: int = 0
    front: str = ""

    def environment(self) -> dict[str, str]:
        """Return the variables with which gcloud asks here, without an account."""
        hosts = {f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{api.upper()}": f"http://{api}.test/" for api in APIS}
        proxy = {"TYPE": "http", "ADDRESS": "127.0.0.1", "PORT": str(self.port)}
        return {
            **hosts,
            **{f"CLOUDSDK_PROXY_{name}": value for name, value in proxy.items()},
            "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
            "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
            "GCP_PROJECT": PROJECT,
            "GCP_REGION": REGION,
        }

    def answer(self, verb: str, api: str, path: str, body: Any) -> tuple[int, Any]:
        """Return the status and the JSON of the answer to a request."""
        method = called(APIS[api], verb, path)
        wrong = faults(method.api, method.request, body) if method and method.request else []
        if not method or wrong:
            self.faults.append(f"{verb} {api} {path}: {wrong or 'no such method'}")
            return 400, error(400, "INVALID_ARGUMENT", self.faults[-1])
        return getattr(self, f"_{api}")(verb, path, body) or (404, error(404, "NOT_FOUND", path))

    def _artifactregistry(self, _: str, path: str, __: Any) -> tuple[int, Any] | None:
        if path.endswith("/repositories/tweets"):
            return 200, {"name": path.removeprefix("/v1/"), "format": "DOCKER"}
        if path.endswith("/versions"):
            package = path.removeprefix("/v1/").removesuffix("/versions")
            tags = {
                digest: [{"name": f"{package}/tags/{commit}", "version": f"{package}/versions/{digest}"}]
                for commit, digest in self.images.items()
            }
            found = [
                {"name": f"{package}/versions/{digest}", "relatedTags": named, "metadata": {"imageSizeBytes": "9"}}
                for digest, named in tags.items()
            ]
            return 200, {"versions": found}
        return None

    def _cloudbuild(self, verb: str, path: str, body: Any) -> tuple[int, Any] | None:
        if verb == "POST" and path.endswith("/triggers/tweets-images:run"):
            commit = body["source"]["commitSha"]
            if commit in self.to_build:
                self.images[commit] = self.to_build[commit]
            operation = f"projects/{PROJECT}/locations/{REGION}/operations/1"
            return 200, {"name": operation, "metadata": {"build": {"id": commit, "status": "QUEUED"}}}
        if verb == "GET" and "/builds/" in path:
            commit = path.rsplit("/", 1)[1]
            return 200, {"id": commit, "status": "SUCCESS" if commit in self.images else "FAILURE"}
        return None

    def _secretmanager(self, _: str, path: str, __: Any) -> tuple[int, Any] | None:
        name = path.split("/")[path.split("/").index("secrets") + 1]
        if name not in self.secrets:
            return None
        payload = base64.b64encode(self.secrets[name].encode()).decode()
        return 200, {"name": path.removeprefix("/v1/").removesuffix(":access"), "payload": {"data": payload}}

    def _aiplatform(self, _: str, path: str, body: Any) -> tuple[int, Any]:
        self.jobs.append(body)
        return 200, {**body, "name": f"{path.removeprefix('/v1/')}/{len(self.jobs)}"}

    def _run(self, verb: str, path: str, body: Any) -> tuple[int, Any] | None:
        if not path.endswith("/services/tweets"):
            return None
        if verb == "PUT":
            self.apply(body)
        return (200, self.service) if self.service else None

    def apply(self, body: dict[str, Any]) -> None:
        """Take the service as it shall be: start its revision, unless that runs, and split the traffic."""
        template, message = body["spec"]["template"], ""
        name = template["metadata"]["name"]
        if name not in self.revisions:
            try:
                self.revisions[name] = self.launch(template["spec"]["containers"][0])
            except AssertionError as reason:
                message = f"Revision '{name}' is not ready and cannot serve traffic: {str(reason)[:200]}"
        old = self.service.get("status", {})
        generation = self.service.get("metadata", {}).get("generation", 0) + 1
        metadata = {**body["metadata"], "generation": generation, "resourceVersion": str(generation)}
        traffic = old.get("traffic", []) if message else [self._routed(target) for target in body["spec"]["traffic"]]
        state = {"status": "False", "reason": "HealthCheckContainerError", "message": message}
        conditions = [
            {"type": kind, **(state if message else {"status": "True"})}
            for kind in ("Ready", "ConfigurationsReady", "RoutesReady")
        ]
        ready = old.get("latestReadyRevisionName", "") if message else name
        names = {"latestCreatedRevisionName": name, "latestReadyRevisionName": ready}
        status = {"observedGeneration": generation, "conditions": conditions, "url": self.front, "traffic": traffic}
        self.service = {**body, "metadata": metadata, "status": {**status, **names}}
        if not message:
            self.splits.append(self.split())
            self.on_split(self.split())

    def _routed(self, target: dict[str, Any]) -> dict[str, Any]:
        address = {"url": self.revisions[target["revisionName"]]} if "tag" in target else {}
        return {**target, **address}

    def split(self) -> dict[str, int]:
        """Return the percent of each revision that has traffic now."""
        traffic = self.service["status"]["traffic"]
        return {target["revisionName"]: target["percent"] for target in traffic if target.get("percent")}


def error(code: int, status: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "status": status, "message": message}}


class Quiet(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        self.serve()

    def do_POST(self) -> None:
        self.serve()

    def do_PUT(self) -> None:
        self.serve()

    def serve(self) -> None:
        raise NotImplementedError

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def reply(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextlib.contextmanager
def serving(google: Google) -> Iterator[Google]:
    """Let the stand-in be reached, and the service's address split what arrives there by the traffic's percentages."""
    arrived = iter(range(10**9))

    class Api(Quiet):
        def serve(self) -> None:
            url, content = urlsplit(self.path), self.body()
            api = (url.hostname or "").removesuffix(".test").removeprefix(f"{REGION}-")
            status, answer = google.answer(self.command, api, url.path, json.loads(content) if content else None)
            self.reply(status, json.dumps(answer).encode())

    class Front(Quiet):
        def serve(self) -> None:
            revisions = [name for name, percent in google.split().items() for _ in range(percent)]
            address = google.revisions[revisions[next(arrived) * 37 % 100]]
            headers = {name: self.headers[name] for name in ("Authorization", "Content-Type") if name in self.headers}
            try:
                url, body = address + self.path, self.body()
                answer = requests.request(self.command, url, data=body, headers=headers, timeout=9)
                self.reply(answer.status_code, answer.content)
            except requests.RequestException:
                self.reply(503, b"{}")

    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for handler in (Api, Front)]
    google.port, google.front = servers[0].server_port, f"http://127.0.0.1:{servers[1].server_port}"
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield google
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
