"""The chat's page, in a real browser."""

from __future__ import annotations

import os
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools.chat_site import (
    PATIENCE,
    Site,
)
from tests.tools.chromium import (
    NAMES,
    Browser,
    installed,
)

CHROMIUM = installed()
LEFT, RIGHT = (
    "document.querySelector('[data-side=left]')",
    "document.querySelector('[data-side=right]')",
)
#: The process that serves a side, as the page shows it.
PID = "+({}.querySelector('.state .pid')?.textContent ?? 0)"
#: Two sides, each on a process of its own.
SETTLED = f"{PID.format(LEFT)} && {PID.format(RIGHT)} && {PID.format(LEFT)} !== {PID.format(RIGHT)}"
#: Elements whose own text stands out less than WCAG's level AA asks for, with their ratios.
TOO_FAINT = """
(() => {
  const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1});
  const context = canvas.getContext("2d", {willReadFrequently: true});
  const rgba = (colour) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    return context.getImageData(0, 0, 1, 1).data;
  };
  const luminance = (colour) => {
    const [r, g, b] = [...colour].slice(0, 3).map((c) =>
      (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = rgba(getComputedStyle(element).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || element.disabled || !element.checkVisibility()) continue;
    const [a, b] = [rgba(getComputedStyle(element).color), behind(element)].map(luminance);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faint.push(`${element.tagName} ${element.className} ${ratio.toFixed(2)}`);
  }
  return faint;
})()
"""
#: Elements that stick out of a window of that width, or whose text does not fit them.
CUT_OFF = """
[...document.querySelectorAll("body *")].filter((e) => {
  const box = e.getBoundingClientRect();
  const cut = box.right > WIDTH + 0.5 || box.left < -0.5;
  const clipped = e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== "visible";
  return e.checkVisibility() && (cut || (clipped && e.tagName !== "INPUT"));
}).map((e) => `${e.tagName} ${e.className}`)
"""
#: What a screen reader would say of the focused element.
FOCUSED = """
(() => {
  const e = document.activeElement;
  return e.getAttribute("aria-label") ?? e.textContent.trim();
})()
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site("posix", tmp_path_factory.mktemp("chat")) as site:
        yield site


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip(f"no browser here ({', '.join(NAMES)})")
    with Browser(CHROMIUM) as browser:
        yield browser


@pytest.fixture
def page(site: Site, browser: Browser, request: pytest.FixtureRequest) -> Browser:
    """The page, in a room of the test's own, once its two sides are on two processes."""
    browser.emulate(1180, 760)
    browser.go("about:blank")
    browser.go(f"{site.url}/#{request.node.name[5:40]}")
    browser.wait(SETTLED)
    return browser


def texts(page: Browser, side: str) -> list[str]:
    found: list[str] = page.evaluate(
        f"[...{side}.querySelectorAll('li:not(.notice) .text')].map(t => t.textContent)"
    )
    return found


def say(page: Browser, side: str, text: str) -> None:
    page.evaluate(f"{side}.querySelector('.say').focus()")
    page.type(text)


def test_a_fresh_page_shows_a_message_that_crossed_between_two_processes(
    site: Site, page: Browser
) -> None:
    last = "li .pid:last-child"
    for side in (LEFT, RIGHT):
        page.wait(f"{side}.querySelectorAll('li').length === 2")
    sent, left, right = (
        page.evaluate(f"+{side}.querySelector('{selector}').textContent")
        for side, selector in ((RIGHT, "li .pid"), (LEFT, last), (RIGHT, last))
    )
    assert sent == left != right
    assert {left, right} == site.web_pids()
    path = page.evaluate(f"{RIGHT}.querySelector('.path').textContent")
    assert path.replace("\u00a0", " ").startswith(f"sent by {sent} → delivered by {right} in ")
    assert path.endswith("\u00a0ms")


def test_what_is_written_on_one_side_appears_on_both(site: Site, page: Browser) -> None:
    for side in (LEFT, RIGHT):
        page.wait(f"{side}.querySelectorAll('li').length === 2")
    said = ["Good morning!", "<b>not bold</b>", "/roll 2d6", "/stats"]
    for number, text in enumerate(said):
        before = page.evaluate(f"{LEFT}.querySelectorAll('li').length")
        say(page, (LEFT, RIGHT)[number % 2], text)
        more = 2 if text.startswith("/") else 1
        for side in (LEFT, RIGHT):
            page.wait(f"{side}.querySelectorAll('li').length === {before + more}")
    for side in (LEFT, RIGHT):
        shown = texts(page, side)[2:]
        assert shown[:3] == said[:3]
        assert " rolled " in shown[3]
        # The greetings count, and each side is a window.
        assert shown[5].endswith(": 4 messages from 2 people so far, 2 windows open.")
        sender = page.evaluate(f"{side}.querySelector('li:last-child .pid').textContent")
        assert int(sender) == site.background_pid()


def test_the_strip_shows_the_figures_of_the_layer(site: Site, page: Browser) -> None:
    page.wait("+document.getElementById('latency').textContent > 0")
    page.wait("document.getElementById('rate').textContent >= '0'")
    assert page.evaluate("document.getElementById('processes').textContent") == "4"
    assert page.evaluate("document.getElementById('kinds').textContent") == "2 for pages"
    assert page.evaluate("document.getElementById('memory-total').textContent") == "of 120"
    assert float(page.evaluate("document.getElementById('memory').textContent")) < 10


def test_500_tokens_arrive_on_both_sides(page: Browser) -> None:
    page.evaluate("document.getElementById('stream').click()")
    for side in (LEFT, RIGHT):
        page.wait(f"{side}.querySelector('li.tokens[data-done]')")
        assert page.evaluate(f"{side}.querySelector('li.tokens').dataset.done") == "500"
    page.wait("document.getElementById('event').textContent.includes('500 of 500 tokens')")


def test_killing_the_process_of_one_side_disturbs_the_other_in_nothing(
    site: Site, page: Browser
) -> None:
    killed = page.evaluate(PID.format(RIGHT))
    kept = page.evaluate(PID.format(LEFT))
    page.evaluate("document.getElementById('stream').click()")
    page.wait(f"{RIGHT}.querySelector('li.tokens')")
    page.evaluate(f"{RIGHT}.querySelector('.kill').click()")
    site.wait_for(rf"\(process {killed}\) ended by signal 9; starting it again")
    page.wait(f"{SETTLED} && {PID.format(RIGHT)} !== {killed}")
    assert page.evaluate(PID.format(LEFT)) == kept
    page.wait(f"{LEFT}.querySelector('li.tokens[data-done]')")
    assert page.evaluate(f"{LEFT}.querySelector('li.tokens').dataset.done") == "500"
    notices = page.evaluate(
        f"[...{RIGHT}.querySelectorAll('.notice')].map(n => n.textContent).join()"
    )
    assert f"Process {killed} is gone. This side goes on with process " in notices
    # The last notice names the process that the side ends with, though it moves to a new one.
    assert re.findall(r"process (\d+)", notices)[-1] == str(page.evaluate(PID.format(RIGHT)))
    assert not page.evaluate(f"{LEFT}.querySelector('.notice')")
    # The sides hear each other again, each message once.
    before = len(texts(page, RIGHT))
    say(page, LEFT, "still here")
    page.wait(f"{RIGHT}.querySelectorAll('li:not(.notice)').length > {before}")
    assert texts(page, RIGHT).count("still here") == 1
    assert texts(page, LEFT).count("still here") == 1


def test_nothing_is_cut_off_on_a_phone_and_all_text_stands_out(page: Browser) -> None:
    say(page, LEFT, "A word that is very long: " + "supercalifragilistic" * 6)
    page.evaluate("document.getElementById('stream').click()")
    page.wait(f"{RIGHT}.querySelector('li.tokens[data-done]')")
    page.wait("document.getElementById('latency').textContent.length > 1")
    for width, height in ((380, 740), (1180, 760)):
        for dark in (False, True):
            page.emulate(width, height, dark, still=True)
            page.wait(f"innerWidth === {width}")
            assert page.evaluate(CUT_OFF.replace("WIDTH", str(width))) == [], (width, dark)
            assert page.evaluate("document.documentElement.scrollWidth") == width
            assert page.evaluate(TOO_FAINT) == [], (width, dark)
            assert page.evaluate(
                "getComputedStyle(document.querySelector('li')).animationName"
            ) == ("none")
            if folder := os.environ.get("CHAT_SCREENSHOTS"):
                page.screenshot(Path(folder, f"{width}-{'dark' if dark else 'light'}.png"))


def test_a_keyboard_reaches_everything_and_everything_has_a_name(page: Browser) -> None:
    page.evaluate("document.body.tabIndex = -1, document.body.focus()")
    named = []
    for _ in range(11):
        page.press("Tab", 9)
        named.append(page.evaluate(FOCUSED))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", named
    pids = {side: page.evaluate(PID.format(side)) for side in (LEFT, RIGHT)}

    def of(side: str, pid: int) -> list[str]:
        return [
            f"Kill process {pid}, which serves the {side} side",
            f"Messages, {side} side",
            f"Your name on the {side} side",
            f"Message from the {side} side",
            "Send",
        ]

    assert named == ["Stream 500 tokens", *of("left", pids[LEFT]), *of("right", pids[RIGHT])]
    assert page.evaluate("[...document.querySelectorAll('[role=log]')].map(l => l.ariaLive)") == [
        None,
        "off",
    ]
    assert page.evaluate("document.getElementById('event').getAttribute('role')") == "status"


def test_the_page_fetches_nothing_from_elsewhere(site: Site) -> None:
    with urllib.request.urlopen(site.url, timeout=PATIENCE) as answer:
        page = answer.read().decode()
    for word in ("src=", "@import", "url(", "http://", "https://"):
        assert word not in page, word
