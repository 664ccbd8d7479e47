"""A volunteer's day, in a real browser, with the site as people run it: a process that is killed in the middle."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from greenpea.settings import Settings
from greenpea.site.opening import open_store
from greenpea.store import Counted
from site_hands import free_port, make_campaign

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="a browser is needed: install chromium")
SMOOTH = ("1", "1", "4", "Enter")  # smooth, round, not merging, nothing rare
EDGE_ON = ("2", "1", "3", "4", "Enter")  # featured, edge-on, no bulge, not merging, nothing rare


class Process:
    """``greenpea serve`` on a campaign's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "greenpea", "serve", str(self.folder), "--port", str(self.port), "--quiet"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=2):
                    return
            except OSError:
                time.sleep(0.1)
        raise TimeoutError((self.folder / "log").read_text())

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def press(page: Any, keys: tuple[str, ...]) -> None:
    """Press keys one by one, each when the page has taken the one before."""
    for key in keys:
        before = page.locator(".question:visible").get_attribute("data-question")
        page.keyboard.press(key)
        page.wait_for_function(
            "slug => document.querySelector('.question:not([hidden])')?.dataset.question !== slug", arg=before
        )


def wait_for_question(page: Any, slug: str = "smooth-or-featured") -> None:
    """Wait until a subject is seen and asked about: what is pressed before that is not taken."""
    page.locator(f'.questions:not(.unseen) .question[data-question="{slug}"]').wait_for(state="visible")


def sign_up(page: Any, url: str) -> None:
    page.goto(f"{url}/join?next=/classify")
    page.locator("#field-name").focus()
    for text in ("Ada Lovelace", "the engine weaves", "the engine weaves"):
        page.keyboard.type(text)
        page.keyboard.press("Tab")
    page.locator("button.primary", has_text="Join").focus()
    page.keyboard.press("Enter")
    wait_for_question(page)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Process]:
    process = Process(make_campaign(tmp_path / "sky", subjects=14))
    process.start()
    yield process
    process.kill()


@pytest.mark.parametrize("width", [1280, 390])
def test_a_volunteer_signs_up_and_classifies_ten_while_the_server_is_killed(served: Process, width: int) -> None:
    """By keyboard only, with a changed branch; nothing is lost and nothing counted twice."""
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": width, "height": 844})
        page.set_default_timeout(20_000)
        page.goto(f"{served.url}/classify")
        wait_for_question(page)
        for _ in range(3):
            press(page, SMOOTH[:-1])
            page.keyboard.press("Enter")
            wait_for_question(page)
        sign_up(page, served.url)
        for _ in range(3):
            press(page, SMOOTH[:-1])
            page.keyboard.press("Enter")
            wait_for_question(page)
        # Smooth, round, merging: and then it was a disk after all.
        press(page, ("1", "1"))
        press(page, ("Backspace", "Backspace", *EDGE_ON[:-1]))
        page.keyboard.press("Enter")
        wait_for_question(page)
        served.kill()
        for _ in range(2):
            press(page, SMOOTH[:-1])
            page.keyboard.press("Enter")
            wait_for_question(page)
        served.start()
        press(page, SMOOTH[:-1])
        page.keyboard.press("Enter")
        playwright.expect(page.locator("#sending")).to_have_attribute("data-waiting", "0", timeout=60_000)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        browser.close()
    served.kill()
    store = open_store(served.folder, None, Settings.load(served.folder / "campaign.toml"))
    kept = list(store.classifications.stream())
    assert len(kept) == len({one.subject_id for one in kept}) == 10
    assert {one.counted for one in kept} == {Counted.YES}
    assert {one.volunteer.shown for one in kept} == {"Ada Lovelace"}
    assert sum(one.annotations["smooth-or-featured"] == ["featured-or-disk"] for one in kept) == 1
    assert store.classifications.recount() == 0
    store.close()
