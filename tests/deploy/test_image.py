"""Dockerfile, .dockerignore, compose.yaml and the health check; `make containers` builds and runs the images."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import requests
import yaml

from repository import declared
from serve import settings
from tests.support.clones import ROOT, STAGES, run, wait_for
from tests.support.serving import SECONDS, serving

DOCKERFILE = (ROOT / "Dockerfile").read_text()
PARTS = {
    found["name"]: found["text"]
    for found in re.finditer(r"^FROM \S+ AS (?P<name>\w+)\n(?P<text>(?:(?!FROM ).*\n)*)", DOCKERFILE, re.MULTILINE)
}
TRACKED = run(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard").stdout.splitlines()
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())


def copied(part: str) -> set[str]:
    """Return what a part of the Dockerfile copies from the repository."""
    lines = re.findall(r"^COPY (?!--from)(?:--\S+ )*(.+) \S+$", PARTS[part], re.MULTILINE)
    return set(" ".join(lines).split())


def is_below(path: str, places: set[str]) -> bool:
    return bool({path, *map(str, Path(path).parents)} & places)


def is_sent(path: str) -> bool:
    """Tell whether .dockerignore lets a file through: the last line that matches it or a folder above it decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = re.escape(line.removeprefix("!")).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        if any(re.fullmatch(pattern, name) for name in (path, *map(str, Path(path).parents))):
            sent = line.startswith("!")
    return sent


def test_all_that_is_sent_is_copied_and_all_that_is_copied_is_sent() -> None:
    places = set().union(*map(copied, PARTS))
    sent = [path for path in [*TRACKED, "models/onnx/model.onnx"] if is_sent(path)]
    assert [path for path in sent if not is_below(path, places)] == []
    assert [place for place in places if not any(is_below(path, {place}) for path in sent)] == []


@pytest.mark.parametrize(
    "path",
    [
        ".dvc/cache/files/md5/00/0",
        ".dvc/config.local",
        ".dvc/tmp/lock",
        ".env",
        ".git/config",
        "data/external/mine.csv",
        "data/raw/tweets.parquet",
        "key.json",
        "models/transformer/model.safetensors",
        "tweets/__pycache__/text.pyc",
    ],
)
def test_what_is_private_or_made_by_a_run_is_not_sent(path: str) -> None:
    assert not is_sent(path)


def test_the_service_has_all_code_that_it_reaches() -> None:
    reached = declared.reached("serve.__main__", ROOT) | declared.reached("serve.health", ROOT)
    assert [file for file in reached if not is_below(file, copied("serve"))] == []
    assert [
        file for file in declared.reached("tweets.model.exported", ROOT) if not is_below(file, copied("parts"))
    ] == []


def test_the_pipeline_has_all_that_its_stages_depend_on() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    needed = {dep for stage in STAGES for dep in stages[stage]["deps"] if dep in TRACKED}
    kept = {name for name in TRACKED if name.startswith(("metrics/", "plots/"))}  # outputs that are in Git
    assert [path for path in needed | kept if not is_below(path, copied("pipeline"))] == []


@pytest.mark.parametrize("part", ["parts", "pipeline"])
def test_libraries_are_installed_before_code_is_copied(part: str) -> None:
    """Else each change of the code would install them again."""
    before = PARTS[part].split(" install --no-cache-dir")[0]
    assert before != PARTS[part]
    assert set(re.findall(r"^COPY (.+) \S+$", before, re.MULTILINE)) <= {
        "requirements.txt constraints.txt",
        "requirements-serve.txt constraints.txt",
    }


def test_each_setting_of_the_image_and_of_compose_is_one_of_the_service() -> None:
    set_here = set(re.findall(r"\b(TWEETS_[A-Z_]+)=", PARTS["serve"])) | set(
        COMPOSE["services"]["serve"]["environment"]
    )
    assert set_here >= {"TWEETS_MODEL", "TWEETS_PORT", "TWEETS_COLLECT"}
    assert {name.removeprefix("TWEETS_").lower() for name in set_here} <= set(settings.ServiceSettings.model_fields)


def test_what_compose_mounts_is_there_and_ports_are_open_to_this_machine_only() -> None:
    for service in COMPOSE["services"].values():
        for volume in service["volumes"]:
            place = volume.split(":")[0]
            assert place in COMPOSE["volumes"] or (ROOT / place).exists(), volume
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def health(port: int) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "serve.health"],
        cwd=ROOT,
        env={**os.environ, "TWEETS_PORT": str(port)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.xdist_group("serve_process")
def test_the_health_check_follows_the_service(reproduced: Path, tmp_path: Path) -> None:
    with serving(reproduced / "models/onnx", tmp_path, drain_delay=4, drain_timeout=5) as running:
        assert health(running.port) == (0, "")
        running.process.terminate()
        ready = f"{running.url}/v2/health/ready"
        wait_for(lambda: requests.get(ready, timeout=SECONDS).status_code == 503, SECONDS)
        assert health(running.port) == (1, f"health: localhost:{running.port}: not ready: status 503\n")
        running.process.terminate()  # a second one does not wait
        running.process.wait(SECONDS)
    code, line = health(running.port)
    assert code == 1
    assert line.startswith(f"health: localhost:{running.port}: no answer: ")
    assert line.count("\n") == 1


def test_the_health_check_asks_the_port_that_the_service_has_by_itself() -> None:
    assert f"'{settings.ServiceSettings.model_fields['port'].default}'" in (
        ROOT / "serve/health.py"
    ).read_text().replace('"', "'")
