import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from gateway.audit import now
from state import Change
from tests.gateway.conftest import INCIDENT, Story

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
pytestmark = pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="not run: chromium is not installed")
WIDTHS = (390, 1280)


@dataclass
class Watched:
    """What a browser said and asked for while a page was open."""

    page: Page
    said: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.add(urlsplit(request.url).netloc))

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.said.append(message.text)

    def check(self, url: str) -> None:
        """Fail when it complained (of a policy's violation too), or asked anybody else."""
        assert self.said == []
        assert self.asked == {urlsplit(url).netloc}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real browser, as Debian ships it."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A window of its own, in which a wait may take ten seconds."""
    window = browser.new_context()
    window.set_default_timeout(10_000)
    yield window
    window.close()


def pages(story: Story) -> list[str]:
    """Return the path of every page."""
    return ["/", f"/incidents/{INCIDENT}", f"/predictions/{story.answered}", f"/predictions/{story.refused}", "/docs"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_quiet_and_fit(browser: Browser, admin: str, story: Story, scheme: Literal["light", "dark"]) -> None:
    """No page complains, asks anybody else, or is wider than a phone or a desk, in light and in dark."""
    for width in WIDTHS:
        window = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
        for path in pages(story):
            watched = Watched(window.new_page())
            answer = watched.page.goto(admin + path)
            assert answer is not None
            assert answer.status == 200, path
            wide = watched.page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{path} is {wide} pixels wide at {width}"
            watched.check(admin)
            watched.page.close()
        window.close()


def test_overview_shows_what_an_operator_asks_for(context: BrowserContext, admin: str) -> None:
    """Traffic by version, both distributions with sample sizes, detectors, incident and rollout are there."""
    page = context.new_page()
    page.goto(admin)
    expect(page.get_by_role("status")).to_contain_text("1 incident to look at")
    expect(page.get_by_role("heading", name="signs", exact=True)).to_be_visible()
    traffic = page.get_by_role("region", name="Traffic of signs")
    expect(traffic).to_contain_text("20.0 %")
    shares = page.get_by_role("table").filter(has_text="newest 1,000 rows against a baseline of 1,000").nth(1)
    row = shares.get_by_role("row").filter(has=page.get_by_role("rowheader", name="8", exact=True))
    expect(row).to_contain_text("29.0")
    expect(row).to_contain_text("+19.0")
    detectors = page.get_by_role("region", name="Detectors of signs version 2")
    expect(detectors).to_contain_text("✖ drift")
    expect(detectors).to_contain_text("285 years of 144 days")
    expect(page.get_by_text("Is the model broken?")).to_be_visible()
    expect(page.get_by_text("snowgate rollout promote signs")).to_be_visible()


def test_overview_is_live(context: BrowserContext, admin: str, story: Story) -> None:
    """New requests and a new incident arrive without a reload, and what was unfolded or focused stays so."""
    watched = Watched(context.new_page())
    page = watched.page
    page.goto(admin)
    expect(page.locator("[data-connection]")).to_have_text("live")
    page.evaluate("window.stayed = true")
    page.get_by_role("region", name="Traffic of signs").focus()
    story.requests.labels("signs", "2", "canary", "ok").inc(250)
    story.requests.labels("signs", "2", "canary", "model_error").inc(250)
    traffic = page.get_by_role("region", name="Traffic of signs")
    expect(traffic).to_contain_text("n = 500")
    expect(traffic).to_contain_text("50.00 %")
    document = story.state.get(f"incidents/{INCIDENT}")
    assert document is not None
    story.state.commit(Change("incidents/second", document.body | {"id": "second"}))
    expect(page.get_by_role("status")).to_contain_text("2 incidents to look at")
    assert page.evaluate("window.stayed")
    expect(traffic).to_be_focused()
    watched.check(admin)


def test_overview_says_when_the_log_was_signed(context: BrowserContext, admin: str, story: Story) -> None:
    """Nothing before the first signature; then when it was, how old it is when it is old, and what it missed."""
    page = context.new_page()
    page.goto(admin)
    facts = page.get_by_role("region", name="State")
    expect(facts).to_contain_text("Data as of")
    expect(facts).not_to_contain_text("Log signed")
    signed = {"time": now(), "number": 3, "lost": 0, "envelope": {}}
    story.state.commit(Change("log/checkpoint", signed))
    expect(facts).to_contain_text("Log signed✓")
    story.state.commit(Change("log/checkpoint", signed | {"time": "2026-11-24T00:00:00.000000Z"}))
    expect(facts).to_contain_text("Log signed▲")
    story.state.commit(Change("log/checkpoint", signed | {"lost": 2}))
    expect(facts).to_contain_text("snowgate log verify")


def test_incident_is_decided_in_the_browser(context: BrowserContext, admin: str, story: Story) -> None:
    """Acknowledge, then decide with a reason; another window sees it live, and what is typed is not swapped away."""
    watched, other = Watched(context.new_page()), context.new_page()
    other.goto(f"{admin}/incidents/{INCIDENT}")
    expect(other.locator("[data-connection]")).to_have_text("live")
    other.get_by_label("Why").fill("half a sentence")
    page = watched.page
    page.goto(f"{admin}/incidents/{INCIDENT}")
    form = page.locator("form").filter(has_text="I am looking at it")
    form.get_by_label("Your name").fill("ada")
    form.get_by_role("button", name="Acknowledge").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("acknowledged")
    expect(other.get_by_role("heading", level=1)).to_contain_text("acknowledged")
    expect(other.get_by_label("Why")).to_have_value("half a sentence")
    page.get_by_label("model-broken").check()
    page.get_by_label("Your name").fill("ada")
    page.get_by_label("Why").fill("eights <everywhere>")
    page.get_by_role("button", name="Decide").click()
    expect(page.locator(".decision")).to_contain_text("ada decided model-broken")
    expect(page.locator(".decision")).to_contain_text("eights <everywhere>")
    assert story.operations.incident(INCIDENT)["decision"]["verdict"] == "model-broken"
    watched.check(admin)


def test_forms_work_without_javascript(browser: Browser, admin: str, story: Story) -> None:
    """With JavaScript off every page is whole, the overview reloads itself, and an incident can be decided."""
    window = browser.new_context(java_script_enabled=False)
    page = window.new_page()
    page.goto(admin)
    assert page.locator("noscript meta").count() == 1 or page.locator("meta[http-equiv=refresh]").count() == 1
    page.get_by_role("link", name="8 is predicted").click()
    page.get_by_label("world-changed").check()
    decide = page.locator("form").filter(has_text="Has the world changed, or")
    decide.get_by_label("Your name").fill("ada")
    decide.get_by_label("Why").fill("it snows")
    decide.get_by_role("button", name="Decide").click()
    expect(page.locator(".decision")).to_contain_text("it snows")
    assert story.operations.incident(INCIDENT)["state"] == "decided"
    page.get_by_label("Prediction id").fill("nothing")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("That did not work")
    window.close()


def test_prediction_page_walks_the_chain(context: BrowserContext, admin: str, story: Story) -> None:
    """Found by its id, a prediction shows its tensors, why it went where it went, and all that stands behind it."""
    page = context.new_page()
    page.goto(admin)
    page.get_by_label("Prediction id").fill(story.answered)
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(story.answered)
    for text in ("camera-7", "split, with probability 20.0 %", "every byte is as it was packed", "by a trusted key"):
        expect(page.get_by_text(text)).to_be_visible()
    expect(page.get_by_text("canary at 20 %: trained on twice the data")).to_be_visible()


@pytest.mark.parametrize("path", ["/", f"/incidents/{INCIDENT}", "/predictions/{answered}"])
def test_pages_have_a_twin_in_json(context: BrowserContext, admin: str, story: Story, path: str) -> None:
    """`?format=json` gives the data that the page was drawn from; what goes wrong there is a problem document."""
    answer = context.request.get(admin + path.format(answered=story.answered) + "?format=json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()
    wrong = context.request.get(f"{admin}/incidents/nobody?format=json")
    assert (wrong.status, wrong.headers["content-type"]) == (404, "application/problem+json")


def test_structure_is_sound(context: BrowserContext, admin: str, story: Story) -> None:
    """What a screen reader needs: one h1, unique ids, labelled fields, headed columns, named regions."""
    page = context.new_page()
    for path in pages(story):
        page.goto(admin + path)
        assert page.evaluate(STRUCTURE) == [], path


STRUCTURE = """() => {
  const wrong = [];
  const all = (query) => [...document.querySelectorAll(query)];
  if (all("h1").length !== 1) wrong.push(`${all("h1").length} h1`);
  if (!document.documentElement.lang || !document.title) wrong.push("no language or title");
  const ids = all("[id]").map((one) => one.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) wrong.push(`id ${id} twice`);
  for (const one of all("input, textarea")) if (!one.labels.length) wrong.push(`no label: ${one.outerHTML}`);
  for (const one of all("th")) if (!one.scope) wrong.push(`no scope: ${one.outerHTML}`);
  for (const one of all("[aria-labelledby], [aria-describedby]"))
    for (const id of (one.getAttribute("aria-labelledby") ?? one.getAttribute("aria-describedby")).split(" "))
      if (!document.getElementById(id)) wrong.push(`no such id: ${id}`);
  for (const one of all("svg, img")) if (one.ariaHidden !== "true" && one.getAttribute("alt") === null)
    wrong.push(`not described: ${one.outerHTML.slice(0, 80)}`);
  for (const one of all("[tabindex]")) if (!one.ariaLabel) wrong.push(`focusable without a name: ${one.className}`);
  let level = 1;
  for (const one of all("h1, h2, h3, h4")) {
    const next = Number(one.tagName[1]);
    if (next > level + 1) wrong.push(`h${level} then h${next}: ${one.textContent}`);
    level = next;
  }
  return wrong;
}"""
