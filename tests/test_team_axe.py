"""The team's pages and the account pages in a real browser: axe-core finds nothing serious, nothing is too wide."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI

from greenpea.classifications import votes_of
from greenpea.combining import combine
from greenpea.site import identity
from greenpea.site.team import posteriors
from greenpea.site.team.posteriors import Believed
from greenpea.store import Role, SentClassification, Store, Volunteer
from rounds_hands import believing, made_up, write_scores
from site_hands import make_site, serving

playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: install it to test the pages")

SPIRAL = {
    "smooth-or-featured": ["featured-or-disk"], "disk-edge-on": ["no"], "bar": ["weak"], "has-spiral-arms": ["no"],
    "bulge-size": ["small"], "merging": ["none"], "rare-features": ["ring", "dust-lane"],
}  # fmt: skip
TEAM = (
    "/team", "/team/subjects", "/team/subjects/s00", "/team/subjects/s09", "/team/rounds", "/team/rounds/gallery",
    "/team/volunteers", "/team/volunteers/{zoe}", "/team/volunteers/{zoe}/ban", "/team/finds", "/team/workflow",
    "/team/imports", "/team/exports", "/team/health",
)  # fmt: skip
ACCOUNT = ("/me", "/me/settings", "/me/favourites", "/me/delete", "/credits")
STRANGER = ("/sign-in", "/join", "/reset", "/me", "/credits")


@dataclass
class Place:
    """A served site with a team, classifications, finds and rounds, and a browser."""

    app: FastAPI
    store: Store
    url: str
    engine: Any
    zoe: Volunteer
    olga: Volunteer

    def visit(self, who: Volunteer | None, theme: str, width: int = 1280) -> Any:
        # The inspector is a script of another origin than ours: the policy is lifted for it, and tested elsewhere.
        context = self.engine.new_context(viewport={"width": width, "height": 900}, bypass_csp=True)
        context.set_default_timeout(20_000)
        cookies = {"theme": theme}
        if who is not None:
            token = self.store.people.open_session(who.id, datetime.now(UTC))
            cookies[identity.SESSION] = identity.sign(self.app.state.site, identity.SESSION, token)
        context.add_cookies([{"name": name, "value": value, "url": self.url} for name, value in cookies.items()])
        return context.new_page()

    def pages(self) -> Iterator[tuple[Volunteer | None, str]]:
        yield from ((self.olga, path.format(zoe=self.zoe.public)) for path in TEAM)
        yield from ((self.zoe, path) for path in ACCOUNT)
        yield from ((None, path) for path in STRANGER)


def believed(site: Any, subject: Any) -> Believed:
    tree = site.store.workflows.active().workflow.tree
    network = believing(tree, subject.subject_id)
    return Believed(3, network, combine(network, votes_of({subject.subject_id: subject.tally}, tree)))


def fill(store: Store, folder: Path) -> tuple[Volunteer, Volunteer]:
    """Let people join, classify and find, and rounds pass; return a volunteer and the owner."""
    now, ids = datetime.now(UTC), [f"s{i:02d}" for i in range(12)]
    zoe = store.people.sign_up("Zoe", "correct horse battery", now)
    olga = store.people.sign_up("Olga", "correct horse battery", now, role=Role.OWNER)
    version = store.workflows.active().id
    for someone in (zoe, olga, *(store.people.anonymous(now) for _ in range(3))):
        subjects = [store.subjects.get(subject_id) for subject_id in ids[:4]]
        sent = [SentClassification(str(uuid.uuid4()), someone.id, one.id, version, SPIRAL) for one in subjects if one]
        store.classifications.submit(sent, now)
    subject = store.subjects.get("s00")
    assert subject is not None
    store.finds.flag(str(uuid.uuid4()), zoe.id, subject.id, "an arc", now)
    store.people.favourite(zoe.id, subject.id, True, now)
    differences = [{"question": "bar", "answer": "strong", "shift": 0.04, "z": 4.0, "p": 0.001, "votes": [40, 30]}]
    for number, outcome in enumerate(("ungated", "promoted", "kept", "failed", None), 1):
        kept = store.rounds.create(str(number), number, {}, now) if outcome not in ("failed", None) else None
        record = made_up(folder, number, outcome, store_round=kept,  # type: ignore[arg-type]
                         streams={"compared": 34, "differences": differences})  # fmt: skip
        if kept is not None:
            scores = np.random.default_rng(number).random(12)
            store.rounds.publish(kept, list(zip(ids, scores, strict=True)))
            store.rounds.activate(kept, now)
            write_scores(record, ids, scores)
    return zoe, olga


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("site")
    app, store = make_site(folder)
    zoe, olga = fill(store, folder / "campaign")
    with pytest.MonkeyPatch.context() as patch, serving(app) as url, playwright.sync_playwright() as engine:
        patch.setattr(posteriors, "posterior_of", believed)
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield Place(app, store, url, browser, zoe, olga)
        browser.close()
    store.close()


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_axe_finds_nothing_serious(place: Place, theme: str) -> None:
    found: list[str] = []
    pages: dict[int | None, Any] = {}
    for who, path in place.pages():
        key = who.id if who else None
        if key not in pages:
            pages[key] = place.visit(who, theme)
        page = pages[key]
        assert page.goto(place.url + path).status == 200, path
        page.wait_for_load_state("networkidle")
        page.evaluate("document.querySelectorAll('details:not(.menu)').forEach((one) => { one.open = true; })")
        page.wait_for_timeout(250)  # until nothing moves: colours in between are not judged
        found += [
            f"{path}: {one['id']}: {one['nodes'][0]['html'][:160]}"
            for one in axe.Axe().run(page).response["violations"]
            if one["impact"] in ("serious", "critical")
        ]
    for page in pages.values():
        page.context.close()
    assert found == []


@pytest.mark.parametrize("width", [320, 390])
def test_nothing_is_wider_than_a_phone(place: Place, width: int) -> None:
    pages: dict[int | None, Any] = {}
    wide = []
    for who, path in place.pages():
        key = who.id if who else None
        if key not in pages:
            pages[key] = place.visit(who, "light", width)
        pages[key].goto(place.url + path)
        pages[key].wait_for_load_state("networkidle")
        if pages[key].evaluate("document.documentElement.scrollWidth") > width:
            wide.append(path)
    for page in pages.values():
        page.context.close()
    assert wide == []
