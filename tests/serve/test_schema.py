"""Schemathesis against the service's own OpenAPI document: what it generates from there finds no failure."""

import re
import subprocess
from pathlib import Path

import pytest

from serve import keys
from tests.support.clones import ENVIRONMENT
from tests.support.serving import SECONDS, serving

# That `shape` counts the texts in `data` is nothing that a schema can say.
CONFIG = "\n".join(
    f"""
[[operations]]
include-name = "POST {path}"
checks.positive_data_acceptance.expected-statuses = ["2xx", "401", "404", "422"]
"""
    for path in ("/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer")
)


@pytest.mark.parametrize("key", [None, "right"])
def test_schemathesis_finds_no_failure(reproduced: Path, tmp_path: Path, key: str | None) -> None:
    (tmp_path / "config.toml").write_text(CONFIG)
    settings = {"api_keys": keys.hashed(key)} if key else {}
    header = ["--header", f"Authorization: Bearer {key}"] if key else []
    options = ["--checks", "all", "--max-examples", "40", "--seed", "1", "--generation-deterministic", "--no-color"]
    with serving(reproduced / "models/onnx", tmp_path, max_body_bytes=200_000, **settings) as running:
        done = subprocess.run(
            ["schemathesis", "--config-file", "config.toml", "run", f"{running.url}/openapi.json", *options, *header],
            cwd=tmp_path,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=20 * SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        [generated] = re.findall(r"(\d+) generated", done.stdout)
        assert int(generated) > 500
        statuses = {line["status"] for line in running.lines() if line["message"] == "request"}
        assert {200, 404, 405, 422} <= statuses
        assert all(status < 500 for status in statuses)
        assert all(line["level"] != "ERROR" for line in running.lines())
