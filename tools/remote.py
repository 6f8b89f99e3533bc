"""Push to the default remote and pull from it, with the run cache, and say clearly what is wrong with it.

    python -m tools.remote push
    python -m tools.remote pull

DVC does the work, and can be called by itself too. This first asks the bucket one question, so that a key file that
cannot be read, a missing sign-in, a permission, a bucket or a network ends in one line. And the run cache goes along
with the outputs that it names, so that `dvc repro --pull` and `dvc exp run --pull` elsewhere train nothing again.
"""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from dvc.cli import main as dvc
from dvc.exceptions import DvcException
from dvc.repo import Repo
from gcsfs.retry import HttpError
from google.auth.exceptions import GoogleAuthError
from google.oauth2.service_account import Credentials

from repository import rwlock
from tweets import command, errors
from tweets.errors import UserError

EXAMPLE = "tweets-dvc"  # the bucket in .dvc/config as this repository comes
GOOGLE = "https://storage.googleapis.com"
SECONDS_TO_ANSWER = 10
VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"
KINDS = ("service_account", "authorized_user")  # of key files that gcsfs reads itself; the variable is Google's to read
KINDS_OF_THE_VARIABLE = ("external_account", "external_account_authorized_user", "impersonated_service_account")
# LookupError: what gcsfs raises for an answer that is not in the service's own format, such as a proxy's.
UNREADABLE = (OSError, ValueError, LookupError, HttpError, GoogleAuthError, requests.RequestException)


class Remote:
    """The default remote of a DVC repository. Raises UserError when there is none."""

    def __init__(self, repo: Repo) -> None:
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs tracebacks of what it raises in any case
        self.name = repo.config["core"].get("remote")
        self.settings: dict[str, Any] = repo.config["remote"].get(self.name, {})
        if not self.settings:
            raise UserError(
                ".dvc/config: no default remote; `make gcs` starts a bucket on this machine,"
                " `dvc remote modify gcs url gs://your-bucket/prefix && dvc remote default gcs` names your own"
            )
        self.url = self.settings["url"]
        self._repo = repo

    @property
    def objects(self) -> Any:
        """DVC's object database in the remote."""
        return self._repo.cloud.get_remote_odb(self.name)

    @property
    def bucket(self) -> str | None:
        """The name of the bucket, or None where the remote is not in Google Cloud Storage."""
        parts = urlsplit(self.url)
        return parts.netloc if parts.scheme in ("gs", "gcs") else None

    def check(self) -> None:
        """Ask the bucket for one object. Raises UserError, with what is needed, when it cannot be read."""
        if not self.bucket:
            return
        if self.bucket == EXAMPLE and "endpointurl" not in self.settings:
            raise UserError(
                f"{self.url}: an example, and nobody's bucket: `make gcs` starts one on this machine,"
                f" `dvc remote modify {self.name} url gs://your-bucket/prefix` names your own"
            )
        if not self.settings.get("allow_anonymous_login"):
            check_keys(self.settings.get("credentialpath"))
        endpoint = self.settings.get("endpointurl", GOOGLE)
        try:
            requests.get(endpoint, timeout=SECONDS_TO_ANSWER)
        except requests.RequestException as error:
            hint = "`make gcs` starts it" if "127.0.0.1" in endpoint else "is there a network, or a proxy to set?"
            raise UserError(f"{self.url}: no answer from {endpoint}; {hint} ({type(error).__name__})") from None
        try:
            self.objects.fs.fs.call("GET", "b/{}/o", self.bucket, maxResults=1, json_out=True)
        except FileNotFoundError:
            raise UserError(f"{self.url}: there is no bucket {self.bucket}; `.dvc/config` names another one?") from None
        except UNREADABLE as error:
            raise self.refused(error) from None

    def refused(self, error: BaseException) -> UserError:
        """Return the line for what an attempt to read or write the remote has raised."""
        said = errors.one_line(error)[:300]
        if isinstance(error, GoogleAuthError) or "Anonymous" in said or " 401" in f" {getattr(error, 'code', '')}":
            needed = "sign in with `gcloud auth application-default login`, or set a key file: docs/bucket.md"
        elif "Forbidden" in said:
            needed = "the account that you are signed in with needs the role Storage Object User on the bucket"
        else:
            needed = "the remote must be readable"
        return UserError(f"{self.url}: {said}; {needed}")


def check_keys(configured: str | None) -> None:
    """Raise UserError where the key file that DVC would use is not one: of its configuration, or of the environment.

    The Google libraries look elsewhere without a word when they cannot read it.
    """
    name = configured or os.environ.get(VARIABLE)
    if not name:
        return
    where = "credentialpath in .dvc/config.local" if configured else VARIABLE
    try:
        content = json.loads(Path(name).read_text(encoding="utf-8"))
        if content.get("type") == "service_account":
            Credentials.from_service_account_info(content)  # type: ignore[no-untyped-call]
        elif content.get("type") not in (KINDS if configured else (*KINDS, *KINDS_OF_THE_VARIABLE)):
            raise ValueError(f"its type is {content.get('type')!r}")
    except FileNotFoundError:
        raise UserError(f"{name}: no such key file; {where} names it") from None
    except (OSError, ValueError, AttributeError) as error:
        said = errors.one_line(error)[:200]
        raise UserError(f"{name}: not a key file of Google Cloud ({said}); {where} names it") from None


def push_runs(repo: Repo) -> int:
    """Push the outputs of all runs in the run cache, and return how many objects went.

    `dvc push --run-cache` pushes what a run was made of and the hashes of its outputs, but not the outputs, unless
    dvc.lock names them too; and never its metrics and plots, which are in Git. Raises UserError when one fails.
    """
    runs = Path(repo.stage_cache.cache_dir).glob("??/*/*")
    used = repo.stage_cache.get_used_objs([(run.parent.name, run.name) for run in runs])
    here = repo.cache.local
    objects = {item for hashes in used.values() for item in hashes if here.exists(item.value)}
    result = repo.cloud.push(objects)
    if result.failed:
        raise UserError(f"{len(result.failed)} outputs of the run cache could not be pushed; run it again")
    return len(result.transferred)


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("action", choices=("push", "pull"))
    action = parser.parse_args().action
    rwlock.heal(Path())
    try:
        with Repo() as repo:
            remote = Remote(repo)
            remote.check()
            if code := dvc([action, "--run-cache"]):
                remote.check()  # it may have gone away meanwhile
                print(f"remote: `dvc {action}` failed; what was transferred stays, so run it again", file=sys.stderr)
                sys.exit(code)
            if action == "push":
                print(f"remote: and {push_runs(repo)} objects of the run cache")
    except DvcException as error:
        raise UserError(errors.one_line(error)) from None


if __name__ == "__main__":
    command.run("remote", main)
