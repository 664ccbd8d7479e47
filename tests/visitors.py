"""A small site and people who visit it, for tests of accounts and security."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

from greenpea.settings import Settings
from greenpea.site.app import create_app
from greenpea.store import NewSubject, Receipt, SentClassification, Store, Volunteer
from greenpea.workflow import Workflow
from hands import galaxy_tree

PASSWORD = "correct horse battery"
SMOOTH = {"smooth": ["artifact"]}


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, **time: float) -> None:
        self.now += timedelta(**time)


class Place:
    """A site with a few subjects, its store and its clock."""

    def __init__(self, folder: Path, subjects: int = 6, **settings: Any) -> None:
        Image.new("RGB", (8, 8), "green").save(folder / "one.png")
        self.clock, self.store = Clock(), Store.open(folder / "store.sqlite", group=False)
        self.store.workflows.publish(Workflow(tree=galaxy_tree()), self.clock())
        new = [NewSubject(f"s{number}", ("one.png",)) for number in range(subjects)]
        self.store.subjects.add(new, self.clock(), audit_share=0)
        self.app: FastAPI = create_app(
            self.store, folder, Settings.of({"site": settings}), clock=self.clock, quiet=True
        )

    def visitor(self, **how: Any) -> Visitor:
        return Visitor(self.app, **how)

    def classify(self, volunteer: Volunteer, subject_id: str) -> Receipt:
        subject = self.store.subjects.get(subject_id)
        assert subject is not None
        version = self.store.workflows.active().id
        self.clock.pass_(seconds=1)
        one = SentClassification(str(uuid4()), volunteer.id, subject.id, version, SMOOTH)
        return self.store.classifications.submit([one], self.clock())[0]


@contextmanager
def place(folder: Path, subjects: int = 6, **settings: Any) -> Iterator[Place]:
    """Open a site for the length of a test."""
    made = Place(folder, subjects, **settings)
    yield made
    made.store.close()


class Visitor:
    """A browser without scripts: keeps cookies, sends forms with their token, follows nothing by itself."""

    def __init__(self, app: FastAPI, url: str = "http://testserver", **how: Any) -> None:
        self.client = TestClient(app, base_url=url, follow_redirects=False, **how)
        self.client.headers["accept"] = "text/html"

    def get(self, path: str, **how: Any) -> Any:
        return self.client.get(path, **how)

    def token(self, page: str = "/sign-in") -> str:
        """The token that forms of this visitor carry, read from a page."""
        found = re.search(r'name="csrf" value="([0-9a-f]{64})"', self.get(page).text)
        assert found, f"no form on {page}"
        return found[1]

    def send(self, path: str, page: str = "/credits", **fields: Any) -> Any:
        """Send a form as a page of the site would."""
        return self.client.post(path, data={"csrf": self.token(page), **fields})

    def join(self, name: str = "Ada", **fields: Any) -> Any:
        return self.send("/join", name=name, **({"password": PASSWORD, "again": PASSWORD, "credited": "true"} | fields))

    def sign_in(self, name: str = "Ada", password: str = PASSWORD, **fields: Any) -> Any:
        return self.send("/sign-in", name=name, password=password, **fields)

    def begin(self) -> str:
        """Become an anonymous volunteer, as the classify page does; return the public id."""
        assert self.client.post("/api/v1/next", json={"count": 1}).status_code == 200
        return str(self.me()["public"])

    def me(self) -> Any:
        return self.client.get("/api/v1/me").json()

    @property
    def cookies(self) -> dict[str, str]:
        return dict(self.client.cookies.items())
