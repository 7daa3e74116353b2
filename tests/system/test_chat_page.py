"""The chat's page, in a real browser."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.tools.chat_site import (
    Site,
)
from tests.tools.chromium import (
    NAMES,
    Browser,
    installed,
)

CHROMIUM = installed()


@pytest.mark.skipif(CHROMIUM is None, reason=f"no browser here ({', '.join(NAMES)})")
def test_two_rooms_show_who_sent_and_who_delivered(tmp_path: Path) -> None:
    assert CHROMIUM is not None
    with Site("posix", tmp_path) as site, Browser(CHROMIUM) as browser:
        browser.go(site.url)
        browser.wait("document.querySelectorAll('.state .pid').length === 2")
        rooms = browser.evaluate("[...document.querySelectorAll('h2')].map(h => h.textContent)")
        assert rooms == ["#lobby", "#kitchen"]

        for room, texts in {
            "lobby": ["Good morning!", "<b>not bold</b>", "/roll 2d6"],
            "kitchen": ["Is there coffee left?", "/stats"],
        }.items():
            column = f"document.querySelector('[data-room={room}]')"
            for text in texts:
                before = browser.evaluate(f"{column}.querySelectorAll('li').length")
                browser.evaluate(f"{column}.querySelector('form input').focus()")
                browser.type(text)
                more = 2 if text.startswith("/") else 1
                browser.wait(f"{column}.querySelectorAll('li').length === {before + more}")

        said = browser.evaluate(
            "[...document.querySelectorAll('[data-room=lobby] .text')].map(t => t.textContent)"
        )
        assert said[:3] == ["Good morning!", "<b>not bold</b>", "/roll 2d6"]
        assert " rolled " in said[3]
        answer = "[data-room=kitchen] li:last-child"
        stats = browser.evaluate(f"document.querySelector('{answer} .text').textContent")
        assert stats == "kitchen: 1 message from 1 person so far, 1 window open."
        sender = browser.evaluate(f"document.querySelector('{answer} .pid').textContent")
        assert int(sender) == site.background_pid()
        delivered = browser.evaluate(
            "[...document.querySelectorAll('.path .pid:last-child')].map(p => +p.textContent)"
        )
        assert set(delivered) <= site.web_pids()

        if picture := os.environ.get("CHAT_SCREENSHOT"):
            browser.screenshot(Path(picture))
