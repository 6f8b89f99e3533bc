"""Alert rules, their own tests, the dashboard: right by the tools that will read them, and able to fail."""

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from benchmarks import alerts
from serve.metrics import Metrics
from tests.support.clones import ROOT, run
from tests.support.serving import SECONDS, predict, serving
from tweets.errors import UserError

pytestmark = pytest.mark.xdist_group("monitoring")

PROMETHEUS, GRAFANA = ROOT / "deploy/prometheus", ROOT / "deploy/grafana"
RULES = [rule for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((GRAFANA / "dashboard.json").read_text())
needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="Debian's package prometheus has promtool")


@needs_promtool
def test_prometheus_takes_the_configuration() -> None:
    assert "SUCCESS: 1 rule files found" in run(PROMETHEUS, "promtool", "check", "config", "prometheus.yml").stdout


@needs_promtool
def test_the_tests_of_the_rules_pass() -> None:
    run(PROMETHEUS, "promtool", "test", "rules", "alerts.test.yml")


def passes(folder: Path, rule: dict[str, Any]) -> bool:
    """Tell whether a rule, changed perhaps, passes the tests that have its name."""
    tests = yaml.safe_load((PROMETHEUS / "alerts.test.yml").read_text())
    tests["tests"] = [test for test in tests["tests"] if test["name"] == rule["alert"]]
    (folder / "alerts.test.yml").write_text(yaml.safe_dump(tests))
    (folder / "alerts.yml").write_text(yaml.safe_dump({"groups": [{"name": "tweets", "rules": [rule]}]}))
    result = run(folder, "promtool", "test", "rules", "alerts.test.yml", check=False)
    assert "FAILED" in result.stderr or not result.returncode, result.stderr
    return not result.returncode


def wrong(rule: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rule with its threshold a little lower, or much higher, without its time, and as one that is silent."""
    yield rule | {"expr": "vector(0) > 0"}
    if "for" in rule:
        yield rule | {"for": "0s"}
    for before, sign, limit in re.findall(r"(.*) ([<>]) ([^<>]+)$", rule["expr"]):
        for factor in (0.99, 9) if sign == ">" else (1.01, 0.1):
            if limit != "0":
                yield rule | {"expr": f"{before} {sign} {factor} * ({limit})"}


@needs_promtool
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_the_tests_of_a_rule_fail_where_it_is_wrong(tmp_path: Path, rule: dict[str, Any]) -> None:
    assert passes(tmp_path, rule)
    for each in wrong(rule):
        assert not passes(tmp_path, each), each


def test_each_alert_says_how_bad_it_is_what_happened_and_what_to_do() -> None:
    for rule in RULES:
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"].keys() == {"summary", "description"}


def queries() -> list[str]:
    return [query.replace("$__rate_interval", "1m") for _, query in alerts.dashboard_queries()]


@needs_promtool
def test_the_dashboards_queries_can_be_read(tmp_path: Path) -> None:
    def check(expressions: list[str]) -> subprocess.CompletedProcess[str]:
        rules = [{"record": f"query:{number}", "expr": expr} for number, expr in enumerate(expressions)]
        (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
        return run(tmp_path, "promtool", "check", "rules", "queries.yml", check=False)

    assert check(queries()).returncode == 0
    assert check([*queries(), "sum(up"]).returncode


def test_alerts_and_dashboard_ask_for_nothing_that_the_service_does_not_have() -> None:
    names = {sample.name for family in Metrics(waiting=int).registry.collect() for sample in family.samples}
    families = {family.name for family in Metrics(waiting=int).registry.collect()}
    known = names | {
        f"{name}{end}" for name in families for end in ("", "_total", "_sum", "_count", "_bucket", "_info")
    }
    text = "\n".join([*queries(), *(rule["expr"] for rule in RULES)])
    asked = set(re.findall(r"\b(?:tweets|process)_\w+", text))
    assert len(asked) > 20
    assert asked <= known


def test_each_panel_has_a_place_of_its_own_and_asks_the_source_that_is_provisioned() -> None:
    [source] = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    scrape = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scrape
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        assert panel["datasource"] == {"type": source["type"], "uid": source["uid"]}
        place = panel["gridPos"]
        cells = {(place["x"] + right, place["y"] + down) for right in range(place["w"]) for down in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(column for column, _ in cells) < 24
        taken |= cells
    assert len(taken) == 24 * (1 + max(row for _, row in taken))  # no hole
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_each_alert_has_a_fault_in_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    alerts.check_faults()
    monkeypatch.setattr(alerts, "FAULTS", alerts.FAULTS[1:])
    with pytest.raises(UserError, match=r"not in both: LatencyHigh, RequestsRefused, Saturated$"):
        alerts.check_faults()


def test_without_prometheus_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="prometheus: not found; `apt-get install --no-install-recommends prometheus`"):
        alerts.main()


def test_times_of_rules_are_divided_and_nothing_else() -> None:
    rules = {"groups": [{"rules": [{"expr": "rate(a[5m]) > 5 * 60", "for": "1h"}, {"expr": "a > 0.9"}]}]}
    expected = {"groups": [{"rules": [{"expr": "rate(a[15000ms]) > 5 * 60", "for": "180000ms"}, {"expr": "a > 0.9"}]}]}
    assert alerts.faster_rules(rules) == expected


def test_the_service_does_not_care_whether_prometheus_is_there(reproduced: Path, tmp_path: Path) -> None:
    """Nobody asks for the metrics; then scrapers come that leave at once; then one gets all since the start."""
    with serving(reproduced / "models/onnx", tmp_path) as running:
        for _ in range(20):
            assert predict(running.url, "a").ok
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", running.port), timeout=SECONDS) as scraper:
                scraper.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert predict(running.url, "a").ok
        found = requests.get(f"{running.url}/metrics", timeout=SECONDS).text
        assert 'tweets_http_requests_total{method="POST",route="/predict",status="200"} 21.0' in found
        assert "tweets_http_requests_in_progress 1.0" in found
        assert running.end() == 0
