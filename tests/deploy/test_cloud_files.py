"""The files of deploy/: against Google's descriptions of its APIs, gcloud's own parser, shellcheck and the service."""

import json
import re
import shlex
import shutil
from pathlib import Path
from string import Template
from typing import Any

import pytest
import yaml

from serve import keys, settings
from tests.support import discovery
from tests.support.clones import ROOT, run

DEPLOY = ROOT / "deploy"
PROBES = ("startup", "liveness")
VALUES = {"PROJECT": "acme-tweets", "IMAGE": "image@sha256:1", "REVISION": "tweets-prod-1", "VERSION": "v1.0.0"}
SETUP = {
    "PROJECT": "acme-tweets",
    "REGION": "europe-west1",
    "BUCKET": "acme-data",
    "GITHUB_REPOSITORY": "acme/tweets",
    "GITHUB_REPOSITORY_ID": "123456",
}
SECRETS = ("tweets-deploy-key", "tweets-api-keys")
POOL = "projects/9/locations/global/workloadIdentityPools/github"
# In place of gcloud: notes what it is called with; nothing is there yet, or, with THERE, everything. Secrets are files.
RECORDER = f"""#!/usr/bin/env python3
import json, os, pathlib, sys
with open(os.environ["CALLS"], "a") as calls:
    print(json.dumps(sys.argv), file=calls)
named = [part.removeprefix("--secret=") for part in sys.argv]
secret = next((pathlib.Path(os.environ["CALLS"]).with_name(name) for name in named if name in {SECRETS}), None)
match sys.argv[1:]:
    case ["secrets", "create", *_]:
        secret.touch()
    case ["secrets", "describe", *_]:
        sys.exit(not secret.exists())
    case ["secrets", "versions", "add", *_]:
        secret.write_text(sys.stdin.read())
    case ["secrets", "versions", "access", *_]:
        print(secret.read_text(), end="")
    case ["secrets", "versions", "describe", *_]:
        sys.exit(not secret.read_text())
    case arguments if "--format=value(name)" in arguments:
        print("{POOL}")
    case arguments if "describe" in arguments and "THERE" not in os.environ:
        sys.exit(1)
"""


def read(name: str) -> Any:
    return yaml.safe_load(Template((DEPLOY / name).read_text()).safe_substitute(VALUES))


@pytest.mark.parametrize(
    ("name", "api", "schema"),
    [
        ("service.yaml", "run.v1", "Service"),
        ("cloudbuild.yaml", "cloudbuild.v1", "Build"),
        ("job.yaml", "aiplatform.v1", "GoogleCloudAiplatformV1CustomJobSpec"),
    ],
)
def test_a_file_is_what_google_describes(name: str, api: str, schema: str) -> None:
    assert discovery.faults(api, schema, read(name)) == []


def test_the_descriptions_find_what_is_wrong() -> None:
    service = read("service.yaml")
    service["spec"]["template"]["spec"]["containerConcurency"] = 1
    service["spec"]["template"]["spec"]["containers"][0]["startupProbe"]["httpGet"]["port"] = "http"
    spec = "$.spec.template.spec"
    assert sorted(discovery.faults("run.v1", "Service", service)) == [
        f"{spec}.containers[0].startupProbe.httpGet.port: 'http' is not of type 'integer'",
        f"{spec}: Additional properties are not allowed ('containerConcurency' was unexpected)",
    ]


def test_the_service_takes_its_variables_and_keeps_within_the_platforms_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = read("service.yaml")["spec"]["template"]["spec"]
    [container] = spec["containers"]
    for one in container["env"]:
        monkeypatch.setenv(one["name"], one.get("value", "0" * 64))
    found = settings.load()
    assert found.api_keys == ["0" * 64]
    assert found.threads == int(container["resources"]["limits"]["cpu"])
    assert found.drain_delay + found.drain_timeout < settings.DRAIN
    assert found.receive_timeout + found.request_timeout <= spec["timeoutSeconds"]
    assert found.max_requests >= spec["containerConcurrency"]
    ports = {container["ports"][0]["containerPort"], *(container[f"{kind}Probe"]["httpGet"]["port"] for kind in PROBES)}
    assert ports == {found.port}
    for kind in PROBES:
        assert container[f"{kind}Probe"]["timeoutSeconds"] <= container[f"{kind}Probe"]["periodSeconds"]


def test_the_images_are_targets_of_the_dockerfile() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    arguments = [one for step in read("cloudbuild.yaml")["steps"] for one in step["args"]]
    targets = [one.removeprefix("--target=") for one in arguments if one.startswith("--target=")]
    assert sorted(targets) == ["pipeline", "serve"]
    for target in targets:
        assert re.search(rf"^FROM \S+ AS {target}$", dockerfile, re.MULTILINE), target
    assert "\nARG TWEETS_COMMIT" in dockerfile


def test_one_python_everywhere() -> None:
    [base] = re.findall(r"^ARG BASE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert {step["name"] for step in read("cloudbuild.yaml")["steps"] if step["name"].startswith("python:")} == {base}


# --- setup.sh ---------------------------------------------------------------------------------------------------------


def calls(place: Path, **changed: str) -> list[list[str]]:
    """Return the commands of gcloud that setup.sh runs."""
    (place / "gcloud").write_text(RECORDER)
    (place / "gcloud").chmod(0o755)
    path = f"{place}:{Path(shutil.which('python3') or '').parent}:/usr/bin:/bin"
    noted = place / "calls"
    noted.unlink(missing_ok=True)
    run(ROOT, "bash", "deploy/setup.sh", check=True, PATH=path, CALLS=str(noted), **{**SETUP, **changed})
    return [json.loads(line)[1:] for line in noted.read_text().splitlines()]


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    return calls(tmp_path_factory.mktemp("setup"))


def option(command: list[str], name: str) -> str:
    [found] = [one.split("=", 1)[1] for one in command if one.startswith(f"--{name}=")]
    return found


def test_each_account_has_the_rights_of_the_table_and_no_others(commands: list[list[str]]) -> None:
    table = re.findall(r"^\| ([^|]+) \| (roles/\S+) \| ([^|]+) \|$", (DEPLOY / "README.md").read_text(), re.MULTILINE)
    assert len(table) == len(set(table)) > 10
    jobs = f"principalSet://iam.googleapis.com/{POOL}"
    people = {
        "allUsers": "everybody",
        f"{jobs}/attribute.repository_id/123456": "jobs of this repository",
        f"{jobs}/attribute.environment/production": "jobs in its environment production",
    }
    places = {"projects": "the project", "storage": "the bucket", "artifacts": "the images", "run": "the service"}
    given = set()
    for command in commands:
        if "add-iam-policy-binding" in command:
            resource = next(part for part in command[command.index("add-iam-policy-binding") + 1 :] if part[0] != "-")
            kinds = {"iam": f"account {resource.split('@')[0]}", "secrets": f"secret {resource}"}
            member = option(command, "member")
            who = people.get(member) or member.removeprefix("serviceAccount:").split("@")[0]
            given.add((who, option(command, "role"), (places | kinds)[command[0]]))
    assert given == set(table)


def test_only_this_repository_signs_in_and_only_production_deploys(commands: list[list[str]]) -> None:
    providers = {command[command.index("create-oidc") + 1]: command for command in commands if "create-oidc" in command}
    here = "assertion.repository_id == '123456'"
    assert option(providers["ci"], "attribute-condition") == here
    assert option(providers["production"], "attribute-condition") == f"{here} && assertion.environment == 'production'"
    assert "attribute.environment" not in option(providers["ci"], "attribute-mapping")
    assert not [command for command in commands if "keys" in command]  # of service accounts


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    for name, content in zip(SECRETS, ("the key", f"{'0' * 64},{keys.hashed('the key')}"), strict=True):
        (tmp_path / name).write_text(content)
    made = [command for command in calls(tmp_path, THERE="1") if {"create", "deploy", "add"} & set(command)]
    assert made == []


@pytest.mark.parametrize(
    ("key", "hashes"),
    [("", None), ("the key", ""), ("", "0" * 64), ("the key", "0" * 64)],
)
def test_a_setup_that_was_cut_off_is_completed(key: str, hashes: str | None, tmp_path: Path) -> None:
    """A secret is not there, has no version, or has one."""
    (tmp_path / SECRETS[0]).write_text(key)
    if hashes is not None:
        (tmp_path / SECRETS[1]).write_text(hashes)
    calls(tmp_path, THERE="1")
    made, known = ((tmp_path / name).read_text() for name in SECRETS)
    assert made == key if key else made
    assert known == ",".join(filter(None, [hashes, keys.hashed(made)]))


def test_the_trigger_passes_over_nothing_that_goes_into_an_image(commands: list[list[str]]) -> None:
    [trigger] = [command for command in commands if command[:3] == ["builds", "triggers", "create"]]
    ignored = {pattern.removesuffix("/**") for pattern in option(trigger, "ignored-files").split(",")}
    copied = re.findall(r"^COPY (?!--from)(?:--\S+ )*(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert not ignored & {Path(name).parts[0] for name in " ".join(copied).split()}


def test_a_name_in_place_of_the_repositorys_number_is_refused() -> None:
    done = run(ROOT, "bash", "deploy/setup.sh", check=False, **{**SETUP, "GITHUB_REPOSITORY_ID": "acme/tweets"})
    assert done.returncode == 1
    assert done.stderr == "setup: GITHUB_REPOSITORY_ID is 'acme/tweets', needs the repository's number\n"


def test_a_variable_that_is_missing_is_named() -> None:
    done = run(ROOT, "bash", "deploy/setup.sh", check=False, **{**SETUP, "BUCKET": ""})
    assert done.returncode != 0
    assert "BUCKET" in done.stderr


def test_the_script_passes_shellcheck() -> None:
    run(ROOT, "shellcheck", "deploy/setup.sh")


def written() -> list[list[str]]:
    """Return the commands of gcloud that people find in the README and the Makefile."""
    page = (DEPLOY / "README.md").read_text() + (ROOT / "Makefile").read_text().replace("$$", "$")
    found = re.findall(r"^\s*(?:\$ )?gcloud ((?:.*\\\n)*.*)$", page, re.MULTILINE)
    return [shlex.split(re.sub(r"\$\{?\w+(:[^}]*)?\}?", "x", one.replace("\\\n", ""))) for one in found]


@pytest.mark.skipif(not shutil.which("gcloud"), reason="needs gcloud, which PyPI and Debian do not have")
def test_gcloud_understands_each_command(commands: list[list[str]], tmp_path: Path) -> None:
    known = written()
    assert len(known) >= 6
    # Those that differ in a value or an account only are parsed once: each takes a third of a second.
    forms = {re.sub(r"=\S+|tweets-\S+", "", " ".join(command)): command for command in commands + known}
    lines = [shlex.join(["gcloud", *command]) for command in forms.values()]
    (tmp_path / "commands.json").write_text(json.dumps([{"command_string": line} for line in lines]))
    options = [f"--commands-file={tmp_path}/commands.json"]
    done = run(ROOT, "gcloud", "meta", "lint-gcloud-commands", *options, CLOUDSDK_CONFIG=str(tmp_path / "gcloud"))
    verdicts = json.loads(done.stdout)
    assert len(verdicts) == len(lines)
    assert [(one["command_string"], one["error_message"]) for one in verdicts if not one["success"]] == []
