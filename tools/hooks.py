"""What is checked before a commit that no linter checks: secrets, YAML, the size of files.

    python -m tools.hooks [secrets|yaml|large] [FILE ...]

Without a check, all three; without files, all that Git tracks. Prints `path:line: what` for each finding, never the
secret itself, and exits with 1. A line that only looks like a secret ends in `pragma: allowlist secret`.
"""

import configparser
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.core.scan import scan_file
from detect_secrets.settings import transient_settings
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from tweets import errors
from tweets.errors import one_line

LARGEST = 1024 * 1024  # bytes: the page for DVC's plots, which carries Vega, has 0.8 of them

# Files here pin commits and bytes by their SHA, which is hex of high entropy; and detect-secrets' own pattern of a
# GitHub token matches `weighs_its_confidence_...`.
LEFT_OUT = {"HexHighEntropyString", "GitHubTokenDetector"}
TOKENS = {
    "GitHub token": re.compile(r"\bgh[pousr]_[A-Za-z0-9]{36}|\bgithub_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}"),
    "Google API key": re.compile(r"\bAIza[A-Za-z0-9_-]{35}"),
    "Google OAuth token or client secret": re.compile(r"\bya29\.[A-Za-z0-9_-]{20}|\bGOCSPX-[A-Za-z0-9_-]{28}"),
    "Cloud Storage HMAC key": re.compile(r"\bGOOG1?[A-Z0-9]{20,57}\b"),
}
ALLOWED = "pragma: allowlist secret"
CREDENTIAL = re.compile(r"password|secret|token|credential|_key|keyfile|json_file|connection_string")


def secrets(file: Path) -> Iterator[str]:
    """Yield a line for each secret in a file; that of a Google service account counts as a private key."""
    kinds: dict[str, type] = get_mapping_from_secret_type_to_class()
    settings = {"plugins_used": [{"name": kind.__name__} for kind in kinds.values() if kind.__name__ not in LEFT_OUT]}
    with transient_settings(settings):
        found = {(secret.line_number, secret.type) for secret in scan_file(str(file))}
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        found |= {(number, kind) for kind, pattern in TOKENS.items() if pattern.search(line) and ALLOWED not in line}
    for number, kind in sorted(found):
        yield f"{file}:{number}: secret: {kind}"
    if file.as_posix() == ".dvc/config":
        yield from credentials(file)


def credentials(config: Path) -> Iterator[str]:
    """Yield a line for each credential in DVC's configuration: its place is .dvc/config.local, which Git ignores."""
    text = config.read_text(encoding="utf-8")
    parsed = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parsed.read_string(text)
    except configparser.Error as error:
        yield f"{config}:1: not a configuration: {one_line(error)}"
        return
    for key in {key for section in parsed.sections() for key in parsed[section] if CREDENTIAL.search(key)}:
        number = next(at for at, line in enumerate(text.splitlines(), 1) if line.strip().lower().startswith(key))
        yield f"{config}:{number}: secret: {key}; it belongs in .dvc/config.local (`dvc remote modify --local`)"


def yaml(file: Path) -> Iterator[str]:
    """Yield a line when a file is not the YAML that DVC's own loader takes; a key given twice is an error there."""
    if file.suffix not in {".yaml", ".yml"} and file.name != "dvc.lock":
        return
    try:
        list(YAML(typ="safe", pure=True).load_all(file.read_text(encoding="utf-8")))
    except MarkedYAMLError as error:
        number = error.problem_mark.line + 1 if error.problem_mark else 1
        yield f"{file}:{number}: not YAML: {' '.join(str(error.problem).split())}"
    except (YAMLError, UnicodeDecodeError) as error:
        yield f"{file}:1: not YAML: {one_line(error)}"


def large(file: Path) -> Iterator[str]:
    """Yield a line when a file is larger than what belongs into Git."""
    size = file.stat().st_size
    if size > LARGEST:
        yield f"{file}:1: {size:,} bytes, more than the {LARGEST:,} that Git should keep: `dvc add {file}`"


CHECKS = {"secrets": secrets, "yaml": yaml, "large": large}


def tracked() -> list[str]:
    """Return the paths of all files that Git tracks here."""
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\0") if name]


def main() -> None:
    arguments = sys.argv[1:]
    checks = [CHECKS[arguments.pop(0)]] if arguments and arguments[0] in CHECKS else CHECKS.values()
    files = [Path(name) for name in arguments or tracked()]
    found = [line for file in files if file.is_file() for check in checks for line in check(file)]
    print("\n".join(found), end="\n" if found else "")
    sys.exit(bool(found))


if __name__ == "__main__":
    errors.run("hooks", main)
