"""The hooks of .pre-commit-config.yaml, installed in a clone: what they refuse, and where they say it is."""

import json
import random
import re
import shutil
import string
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import yaml

from tests.support.clones import ROOT, linked_environment, run
from tests.support.made_up import set_param

pytestmark = [pytest.mark.walk, pytest.mark.xdist_group("hooks")]  # they share a clone

NOBODY = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
CACHE = str(ROOT / ".mypy_cache")
BARE_PATH = "/usr/local/bin:/usr/bin:/bin"  # of an editor, in which nobody activated .venv


def drawn(alphabet: str, length: int) -> str:
    """Return what looks like a credential; drawn, so that this file holds none."""
    return "".join(random.Random(length).choices(alphabet, k=length))


def private_key() -> str:
    lines = [drawn(string.ascii_letters, 64) for _ in range(3)]
    return "\n".join([f"-----BEGIN {'PRIVATE'} KEY-----", *lines, f"-----END {'PRIVATE'} KEY-----", ""])


def service_account() -> str:
    content = {"type": "service_account", "project_id": "tweets", "private_key": private_key()}
    return json.dumps(content, indent=2)


ALPHANUMERIC = string.ascii_letters + string.digits
PLANTED = {
    "key.json": (service_account(), 4),
    "id_rsa": ("\n" + private_key(), 2),
    "aws.txt": ("AKIA" + drawn(string.ascii_uppercase, 16) + "\n", 1),
    "github.txt": ("# token\nghp_" + drawn(ALPHANUMERIC, 36) + "\n", 2),
    "fine.txt": (f"github_pat_{drawn(ALPHANUMERIC, 22)}_{drawn(ALPHANUMERIC, 59)}\n", 1),
    "storage_key.py": (f'KEY = "AIza{drawn(ALPHANUMERIC, 35)}"\n', 1),
    "adc.json": (json.dumps({"client_id": "x", "client_secret": drawn(ALPHANUMERIC, 24)}, indent=1), 3),
    "hmac.txt": ("GOOG1E" + drawn(string.ascii_uppercase, 55) + "\n", 1),
    "url.txt": (f"https://someone:{drawn(ALPHANUMERIC, 20)}@example.org/\n", 1),
}


def found_in(folder: Path, *names: str) -> tuple[set[tuple[str, int]], str]:
    """Return where `make check` finds secrets in files, and all that it prints of them."""
    makefile = (ROOT / "Makefile").read_text()
    [command] = re.findall(r"^SECRETS := (.+)$", makefile, re.MULTILINE)
    words = command.replace(".ci/secrets.yml", str(ROOT / ".ci/secrets.yml")).split()
    result = run(folder, *words, *names, check=False)
    pairs = re.findall(r"Line Num\.*: (\d+)\s+\|Path\.*: (\S+)", result.stdout)
    assert bool(result.returncode) == bool(pairs), result.stdout + result.stderr
    return {(path, int(line)) for line, path in pairs}, result.stdout + result.stderr


def test_planted_secrets_are_found_where_they_are_and_not_printed(tmp_path: Path) -> None:
    for name, (content, _) in PLANTED.items():
        (tmp_path / name).write_text(content)
    places, printed = found_in(tmp_path, *PLANTED)
    assert places == {(name, line) for name, (_, line) in PLANTED.items()}
    for content, line in PLANTED.values():
        assert content.splitlines()[line - 1][-16:-2] not in printed


def test_a_line_that_only_looks_like_a_secret_can_say_so(tmp_path: Path) -> None:
    line = f'TOKEN = "ghp_{drawn(ALPHANUMERIC, 36)}"'
    (tmp_path / "example.py").write_text(f"{line}  # kingfisher:ignore\n")
    assert found_in(tmp_path, "example.py")[0] == set()
    (tmp_path / "example.py").write_text(f"{line}\n")
    assert found_in(tmp_path, "example.py")[0] == {("example.py", 1)}


@pytest.mark.parametrize(
    ("line", "is_one"),
    [
        ("credentialpath = key.json", True),
        ("password = hunter2", True),
        ("secret_access_key = x", True),
        ("    token = x", True),
        ("account_key = x", True),
        ("url = gs://tweets", False),
        ("projectname = x", False),
        ("    verify = true", False),
    ],
)
def test_a_credential_in_the_configuration_of_dvc_is_found(line: str, is_one: bool) -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    [hook] = [hook for hook in hooks if hook["id"] == "dvc-config"]
    assert bool(re.search(hook["entry"], line)) == is_one


@pytest.fixture(scope="module")
def hooked(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone whose hooks are installed, as `make hooks` does it."""
    folder = shutil.copytree(reproduced, tmp_path_factory.mktemp("hooks") / "clone", symlinks=True)
    linked_environment(folder)
    run(folder, "make", "hooks")
    return folder


def commit(folder: Path, *names: str) -> CompletedProcess[str]:
    """Try to commit files as an editor would; what was refused is taken out of the index and the tree again."""
    run(folder, "git", "add", "--force", *names)
    result = run(folder, "git", *NOBODY, "commit", "-m", "Try", check=False, PATH=BARE_PATH, MYPY_CACHE_DIR=CACHE)
    if result.returncode:
        run(folder, "git", "reset", "--quiet", "--hard")
    return result


def head(folder: Path) -> str:
    return run(folder, "git", "rev-parse", "HEAD").stdout


def test_commits_with_planted_secrets_are_refused(hooked: Path) -> None:
    before = head(hooked)
    for name in PLANTED:
        (hooked / name).write_text(PLANTED[name][0])
    with (hooked / ".dvc/config").open("a") as file:
        file.write("    credentialpath = key.json\n")
    result = commit(hooked, *[name for name in PLANTED if not name.endswith(".py")], ".dvc/config")
    assert result.returncode == 1
    for name in PLANTED:
        assert name.endswith(".py") or f"Path............: {name}\n" in result.stderr, name
    assert re.search(
        r"no credentials in \.dvc/config\.+Failed\n(.*\n)*?\.dvc/config:\d+:    credentialpath", result.stderr
    )
    assert head(hooked) == before


def test_a_large_file_and_bad_yaml_are_refused(hooked: Path) -> None:
    before = head(hooked)
    (hooked / "weights.bin").write_bytes(bytes(2**20 + 1))
    (hooked / "allowed.bin").write_bytes(bytes(2**20))
    with (hooked / "params.yaml").open("a") as file:
        file.write("train: {}\n")
    result = commit(hooked, "weights.bin", "allowed.bin", "params.yaml")
    assert "weights.bin (1025 KB) exceeds 1024 KB." in result.stderr
    assert "allowed.bin" not in result.stderr
    assert 'found duplicate key "train"' in result.stderr
    assert head(hooked) == before


def test_python_that_lint_or_types_refuse_is_refused(hooked: Path) -> None:
    before = head(hooked)
    (hooked / "tools/wrong.py").write_text("import os\ndef f( ) -> int:\n    return 'one'\n")
    result = commit(hooked, "tools/wrong.py")
    assert "tools/wrong.py:1:8" in result.stderr
    assert re.search(r"File would be reformatted\s+--> tools/wrong\.py", result.stderr)
    assert "tools/wrong.py:3: error: Incompatible return value type" in result.stderr
    assert head(hooked) == before


@pytest.mark.parametrize(
    ("line", "instead", "named"),
    [
        ("runs-on:", "run-on:", "'runs-on' is a required property"),
        ("persist-credentials: false", "fetch-depth: 1", "artipacked"),
    ],
)
def test_a_workflow_that_github_would_refuse_or_that_leaks_is_refused(
    line: str, instead: str, named: str, hooked: Path
) -> None:
    path = hooked / ".github/workflows/ci.yml"
    path.write_text(path.read_text().replace(line, instead))
    result = commit(hooked, ".github/workflows/ci.yml")
    assert result.returncode == 1
    assert named in result.stderr


def test_data_follows_a_checkout_and_a_clean_commit_passes(hooked: Path) -> None:
    """`git checkout` of the commit before brings back its model, by the hook."""
    before = (hooked / "models/transformer/model.safetensors").read_bytes()
    set_param(hooked, "train.lr", 0.004)
    run(hooked, "dvc", "repro", "train")
    after = (hooked / "models/transformer/model.safetensors").read_bytes()
    assert after != before
    result = commit(hooked, "params.yaml", "dvc.lock", "metrics", "plots")
    assert result.returncode == 0, result.stderr
    run(hooked, "git", "checkout", "--quiet", "HEAD~1", PATH=BARE_PATH)
    assert (hooked / "models/transformer/model.safetensors").read_bytes() == before
    run(hooked, "git", "checkout", "--quiet", "-", PATH=BARE_PATH)
    assert (hooked / "models/transformer/model.safetensors").read_bytes() == after


def test_only_who_asks_pushes_data_with_every_push(hooked: Path, tmp_path: Path) -> None:
    assert not (hooked / ".git/hooks/pre-push").exists()
    run(hooked, "dvc", "remote", "add", "--local", "--default", "here", str(tmp_path / "remote"))
    run(hooked, "git", "init", "--quiet", "--bare", str(tmp_path / "origin"))
    run(hooked, "git", "push", "--quiet", str(tmp_path / "origin"), "HEAD:refs/heads/one", PATH=BARE_PATH)
    assert not (tmp_path / "remote").exists()
    run(hooked, "pre-commit", "install", "--hook-type", "pre-push")
    run(hooked, "git", "push", "--quiet", str(tmp_path / "origin"), "HEAD:refs/heads/two", PATH=BARE_PATH)
    assert list((tmp_path / "remote").glob("files/md5/*/*"))


def test_all_hooks_pass_on_the_whole_repository(hooked: Path) -> None:
    run(hooked, "pre-commit", "run", "--all-files", SKIP="large", MYPY_CACHE_DIR=CACHE)  # the encoder of these tests is
