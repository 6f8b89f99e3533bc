"""The service behind a proxy that serves it below a path, and takes that off: a real one, and a browser before it."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import requests
from playwright.sync_api import Browser, expect

from tests.support.browser import BROWSER_WAITS
from tests.support.serving import SECONDS, Running, serving

pytestmark = [pytest.mark.walk, pytest.mark.xdist_group("serve_prefix")]

PREFIX = "/team/tweets"


class Proxy(http.server.BaseHTTPRequestHandler):
    """Passes on what is below PREFIX, without it; all else is none of the service's."""

    url: ClassVar[str]
    headers_added: ClassVar[dict[str, str]]

    def pass_on(self) -> None:
        if not self.path.startswith(f"{PREFIX}/"):
            self.send_error(404)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kept = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
        answer = requests.request(
            self.command,
            self.url + self.path.removeprefix(PREFIX),
            data=body,
            headers={**kept, **self.headers_added, "Accept-Encoding": "identity"},
            timeout=SECONDS,
        )
        self.send_response(answer.status_code)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "text/plain"))
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    do_GET = do_POST = pass_on

    def log_message(self, *_: Any) -> None:
        pass


def proxied(running: Running, **headers: str) -> Iterator[str]:
    """Yield the address of the service behind a proxy that adds these headers."""
    handler = type("Handler", (Proxy,), {"url": running.url, "headers_added": headers})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}{PREFIX}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module", params=["setting", "header"])
def url(request: pytest.FixtureRequest, reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service that is told of its prefix by a setting, or by a trusted proxy's header."""
    by_setting = request.param == "setting"
    settings = {"root_path": PREFIX} if by_setting else {"trusted_proxies": "127.0.0.0/8"}
    with serving(reproduced / "models/onnx", tmp_path_factory.mktemp("service"), **settings) as running:
        yield from proxied(running, **({} if by_setting else {"X-Forwarded-Prefix": PREFIX}))


def test_the_page_works_below_a_path(url: str, browser: Browser) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.set_default_timeout(BROWSER_WAITS)
        failed: list[str] = []
        page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 400 else None)
        page.on("pageerror", lambda error: failed.append(str(error)))
        page.goto(f"{url}/")
        page.get_by_label("Tweets, one per line").fill("great wonderful love")
        expect(page.locator("#results article")).to_have_count(1)
        expect(page.locator("#labels")).to_contain_text("positive")
        page.get_by_role("link", name="API").click()
        expect(page.get_by_text("/predict").first).to_be_visible()
        assert page.url == f"{url}/docs"
        assert failed == []


def test_the_description_of_the_api_has_the_path(url: str) -> None:
    description = requests.get(f"{url}/openapi.json", timeout=SECONDS).json()
    assert description["servers"] == [{"url": PREFIX}]
    answer = requests.post(f"{url}/predict", json={"text": "a"}, timeout=SECONDS)
    assert answer.status_code == 200
    assert requests.get(f"{url}/v2/health/ready", timeout=SECONDS).status_code == 200


@pytest.mark.parametrize(
    ("trusted", "prefix"),
    [("10.0.0.0/8", "/x"), ("127.0.0.0/8", "//evil.example"), ("127.0.0.0/8", "/a b"), ("127.0.0.0/8", "x")],
)
def test_a_prefix_of_a_stranger_or_that_is_none_is_ignored(
    reproduced: Path, tmp_path: Path, trusted: str, prefix: str
) -> None:
    with serving(reproduced / "models/onnx", tmp_path, trusted_proxies=trusted) as running:
        headers = {"X-Forwarded-Prefix": prefix}
        description = requests.get(f"{running.url}/openapi.json", headers=headers, timeout=SECONDS).json()
        assert "servers" not in description
