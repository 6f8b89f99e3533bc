"""The page, in a real browser: Chromium, driven by Playwright."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Response, expect

from serve import keys
from tests.support.browser import BROWSER_WAITS
from tests.support.made_up import LABELS
from tests.support.serving import Running, predict, serving

pytestmark = [pytest.mark.walk, pytest.mark.xdist_group("serve_page")]  # they share a browser and a service

ROWS = [
    ("id", "Text", "note"),
    ("1", 'great, "wonderful" day', "=1+1"),
    ("2", "awful\r\nand terrible", "@x"),
    ("3", "", "-5"),
    ("4", "+the meeting", "-cmd|x"),
    ("5", "שלום 😀", "\tx"),
    ("6", "a;=1+1;-cmd;-) ;-D", "\n＝1"),
]


@pytest.fixture(scope="module")
def service(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(reproduced / "models/onnx", tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture
def page(browser: Browser, service: Running) -> Iterator[Page]:
    """The page of the service. Nothing may be asked of another host, and no error may be in its console."""
    with browser.new_context(accept_downloads=True) as context:
        opened = context.new_page()
        opened.set_default_timeout(BROWSER_WAITS)
        errors: list[str] = []
        opened.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        opened.on("pageerror", lambda error: errors.append(str(error)))
        opened.on("request", lambda request: errors.append(request.url) if outside(request.url, service) else None)
        opened.goto(service.url)
        yield opened
        assert errors == []


def outside(url: str, service: Running) -> bool:
    return not url.startswith((service.url, "blob:", "data:"))


def write(path: Path, rows: Any, encoding: str = "utf-8") -> Path:
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def download(page: Page) -> str:
    """Label the chosen file; return what is downloaded."""
    page.get_by_role("button", name="Label the file").click()
    link = page.get_by_role("link", name="Download the labelled file")
    expect(link).to_be_visible(timeout=60_000)
    with page.expect_download() as found:
        link.click()
    assert found.value.suggested_filename == "in-labelled.csv"
    return Path(found.value.path()).read_bytes().decode("utf-8")


def test_labels_and_bars_appear_while_one_types(page: Page, service: Running) -> None:
    page.get_by_label("Tweets, one per line").press_sequentially("great wonderful love")
    article = page.locator("#results article")
    expect(article).to_have_count(1)
    [expected] = predict(service.url, "great wonderful love").json()["predictions"]
    expect(article.locator(".bar.first")).to_contain_text(expected["label"])
    for label, bar in zip(LABELS, article.locator(".bar").all(), strict=True):
        share = expected["probabilities"][label]
        expect(bar).to_contain_text(f"{100 * share:.1f} %")
        track, fill = (bar.locator(part).bounding_box() for part in (".track", ".fill"))
        assert track
        assert fill
        assert fill["width"] == pytest.approx(share * track["width"], abs=1)


def test_each_line_is_a_tweet_and_no_text_is_html(page: Page) -> None:
    page.get_by_label("Tweets, one per line").fill("<img src=x onerror=alert(1)>\n\n  שלום עולם \nbad")
    articles = page.locator("#results article")
    expect(articles).to_have_count(3)
    expect(articles.first.locator(".words")).to_have_text("<img src=x onerror=alert(1)>")
    assert page.locator("#results img").count() == 0
    page.get_by_label("Tweets, one per line").fill("")
    expect(articles).to_have_count(0)


def test_the_words_are_weighed_by_leaving_one_out(page: Page, service: Running) -> None:
    text = "airport hate awful candle"
    with page.expect_response(lambda answer: len(sent(answer)) == 4) as answer:
        page.get_by_label("Tweets, one per line").fill(text)
    without_one = [" ".join(word for word in text.split() if word != left) for left in text.split()]
    assert sent(answer.value) == without_one
    words = page.locator("#results .word")
    expect(words).to_have_text(text.split())
    [before, *without] = predict(service.url, [text, *sent(answer.value)]).json()["predictions"]
    for word, other in zip(words.all(), without, strict=True):
        effect = 100 * (before["probabilities"][before["label"]] - other["probabilities"][before["label"]])
        expect(word).to_have_attribute("title", re.compile(rf"^[+−]{abs(effect):.0f} points for {before['label']}$"))
    expect(page.locator("#results .hint")).to_contain_text("leaving out only that word")


def sent(answer: Response) -> list[str]:
    body = answer.request.post_data_json if answer.url.endswith("/predict") else None
    return list((body or {}).get("text", []))


def test_more_lines_than_it_takes_are_told(page: Page) -> None:
    page.get_by_label("Tweets, one per line").fill("a b\n" * 21)
    expect(page.locator("#results article")).to_have_count(20)
    expect(page.get_by_role("alert").first).to_have_text(re.compile("Only the first 20 of 21 lines"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_file_comes_back_with_its_labels(page: Page, service: Running, tmp_path: Path, encoding: str) -> None:
    page.get_by_label("CSV file").set_input_files(write(tmp_path / "in.csv", ROWS, encoding))
    expect(page.get_by_label("Column with the tweets")).to_have_value("1")
    text = download(page)
    head, *rows = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""))
    assert text.startswith("\ufeff")
    assert head == ["id", "Text", "note", "predicted", *(f"p_{label}" for label in LABELS)]
    assert [row[0] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert [row[1] for row in rows] == [ROWS[1][1], ROWS[2][1], "", "'+the meeting", ROWS[5][1], "a;'=1+1;'-cmd;-) ;-D"]
    assert [row[2] for row in rows] == ["'=1+1", "'@x", "-5", "'-cmd|x", "'\tx", "'\n'＝1"]  # a number is no formula
    expect(page.locator("#progress-text")).to_contain_text("6 rows labelled in ")
    expect(page.locator("#progress-text")).to_contain_text("Rows without text, and so without a label: 1.")
    expected = iter(predict(service.url, [row[1] for row in ROWS[1:] if row[1]]).json()["predictions"])
    for row in rows:
        found = next(expected) if row[1] else None
        assert row[3] == (found["label"] if found else "")
        assert row[4:] == ([str(found["probabilities"][label]) for label in LABELS] if found else ["", "", ""])


@pytest.mark.parametrize("line_end", ["\r", "\n", "\r\n"])
def test_rows_keep_their_place_whatever_ends_a_line(page: Page, tmp_path: Path, line_end: str) -> None:
    lines = ["text", "great", '""', '"a', 'b"', "", '"\u0085"', "😀" * 2001]
    (tmp_path / "in.csv").write_bytes(line_end.join(lines).encode())
    page.get_by_label("CSV file").set_input_files(tmp_path / "in.csv")
    _, *rows = csv.reader(io.StringIO(download(page).removeprefix("\ufeff"), newline=""))
    assert [row[0] for row in rows] == ["great", "", f"a{line_end}b", "\u0085", "😀" * 2001]
    assert [bool(row[1]) for row in rows] == [True, False, True, False, True]
    expect(page.locator("#progress-text")).to_contain_text("Texts cut to 2,000 characters before labelling: 1.")


def test_a_busy_service_is_waited_for(browser: Browser, reproduced: Path, tmp_path: Path) -> None:
    with (
        serving(reproduced / "models/onnx", tmp_path, rate_limit="3/5second") as running,
        browser.new_context() as context,
    ):
        page = context.new_page()
        page.set_default_timeout(BROWSER_WAITS)
        page.goto(running.url)
        page.locator("#text").fill("one\ntwo\nthree")
        expect(page.locator("#results article")).to_have_count(3)
        page.locator("#text").fill("four\nfive")
        expect(page.locator("#text-busy")).to_have_text("The service is busy; trying again in 5 s.")
        expect(page.locator("#results article")).to_have_count(2)
        expect(page.locator("#text-busy")).to_be_hidden()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "The file is empty."),
        ("text\nübel\n".encode("latin-1"), "The file is not UTF-8 text. Save it as “CSV UTF-8”."),
        (b"\x00\x01\x02", "The file is not a CSV file: it has binary content."),
        (b"text\n", "The file has a header but no rows."),
        (b"id;text\n1;a\n", "The columns seem to be separated by semicolons or tabs. Save the file with commas."),
        (b"text,x\na,b\nc\n", "Row 3 has 1 cell, but the header has 2."),
        (b'text\n"never ends\n', "The file ends within a quoted cell: a quote is missing."),
    ],
)
def test_a_bad_file_is_named(page: Page, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "in.csv").write_bytes(content)
    page.get_by_label("CSV file").set_input_files(tmp_path / "in.csv")
    button = page.get_by_role("button", name="Label the file")
    problem = page.locator("#file-problem")
    expect(button.and_(page.locator(":enabled")).or_(problem.and_(page.locator(":visible")))).to_have_count(1)
    if button.is_enabled():
        button.click()
    expect(problem).to_have_text(message)
    expect(page.get_by_role("link", name="Download the labelled file")).to_be_hidden()


def test_a_file_of_100_mb(page: Page, tmp_path: Path) -> None:
    with (tmp_path / "in.csv").open("w") as file:
        file.write("text,payload\n")
        for number in range(400):
            file.write(f"great day {number},{'x' * 250_000}\n")
    assert (tmp_path / "in.csv").stat().st_size > 100e6
    page.get_by_label("CSV file").set_input_files(tmp_path / "in.csv")
    assert len(download(page)) > 100e6
    expect(page.get_by_role("status")).to_contain_text("400 rows labelled in ")


def test_labelling_can_be_cancelled(page: Page, tmp_path: Path) -> None:
    rows = [("text",), *((f"a word or two, {number} " * 20,) for number in range(20_000))]
    page.get_by_label("CSV file").set_input_files(write(tmp_path / "in.csv", rows))
    page.get_by_role("button", name="Label the file").click()
    expect(page.get_by_role("status")).to_contain_text("s left")
    page.keyboard.press("Enter")  # Cancel has the focus
    expect(page.get_by_role("status")).to_have_text("Cancelled.")
    expect(page.get_by_role("button", name="Label the file")).to_be_enabled()
    expect(page.get_by_role("link", name="Download the labelled file")).to_be_hidden()


def test_the_card_says_what_is_served(page: Page, service: Running) -> None:
    card = page.locator("#card")
    for heading in ("Scores", "Confusion matrix", "How far to trust a probability", "Limits"):
        expect(card.get_by_role("heading", name=heading)).to_be_visible()
    expect(card).to_contain_text(predict(service.url, "a").json()["version"])
    expect(card.get_by_role("row", name=re.compile("^macro-F1 "))).to_contain_text(re.compile(r"0\.\d{3} to \d\.\d{3}"))
    expect(card.get_by_role("img")).to_have_attribute(
        "aria-label", re.compile("^Share of correct labels by confidence: ")
    )


def test_it_works_by_keyboard_alone(page: Page) -> None:
    expect(page.locator("#text")).to_be_focused()
    page.keyboard.type("great day")
    expect(page.locator("#results article")).to_have_count(1)
    reached = set()
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert {"file", "API", "metrics"} <= reached


def test_experiments_are_not_shown_where_no_address_is_set(page: Page) -> None:
    expect(page.locator("#card table").first).to_be_visible()
    expect(page.locator("#experiments-part")).to_be_hidden()


def test_every_control_has_a_name(page: Page) -> None:
    unnamed = page.evaluate(
        """[...document.querySelectorAll('input, select, textarea, button, progress, section, svg')].filter((node) =>
        !(node.labels && node.labels.length) && !node.textContent.trim()
        && !node.getAttribute('aria-label') && !node.getAttribute('aria-labelledby')).map((node) => node.outerHTML)"""
    )
    assert unnamed == []
    assert page.evaluate("document.documentElement.lang") == "en"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_and_a_phone_need_not_scroll_sideways(browser: Browser, service: Running, scheme: Any) -> None:
    with browser.new_context(color_scheme=scheme, viewport={"width": 360, "height": 740}) as context:
        page = context.new_page()
        page.set_default_timeout(BROWSER_WAITS)
        page.goto(service.url)
        page.locator("#text").fill("great day\n" + "x" * 300)
        expect(page.locator("#results article")).to_have_count(2)
        expect(page.locator("#card table").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        for selector in ("body", ".hint", ".bar", "a", "button", "caption"):
            assert page.evaluate(CONTRAST, selector) >= 4.5, selector  # WCAG 2.2, 1.4.3


CONTRAST = """(selector) => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = numbers(colour).map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const node = document.querySelector(selector);
  let behind = node;
  while (numbers(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
  const pair = [getComputedStyle(node).color, getComputedStyle(behind).backgroundColor].map(light);
  return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
}"""


def test_a_key_is_asked_for_and_used(browser: Browser, reproduced: Path, tmp_path: Path) -> None:
    with (
        serving(reproduced / "models/onnx", tmp_path, api_keys=keys.hashed("right")) as running,
        browser.new_context() as context,
    ):
        page = context.new_page()
        page.set_default_timeout(BROWSER_WAITS)
        page.goto(running.url)
        page.locator("#text").fill("great day")
        expect(page.get_by_role("alert").first).to_have_text("no key: send `Authorization: Bearer KEY`")
        page.get_by_label("needs an API key").fill("right")
        page.get_by_role("button", name="Use this key").click()
        expect(page.locator("#results article")).to_have_count(1)


def test_a_service_that_went_away_is_told(browser: Browser, reproduced: Path, tmp_path: Path) -> None:
    with serving(reproduced / "models/onnx", tmp_path) as running, browser.new_context() as context:
        page = context.new_page()
        page.set_default_timeout(BROWSER_WAITS)
        page.goto(running.url)
        expect(page.locator("#card table").first).to_be_visible()
        running.process.kill()
        page.locator("#text").fill("great day")
        expect(page.get_by_role("alert").first).to_have_text("The service does not answer.")
