"""Zooniverse's exports and new subjects brought in on the team's page: everything is stored, listed or told."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

from greenpea.classifications import Classification
from greenpea.site import identity
from greenpea.site.team import transfers
from greenpea.store import Role, Store, Stream
from greenpea.subjects import SubjectSet
from greenpea.zooniverse import PanoptesSubject, classifications_csv, subjects_csv, workflows_csv
from site_hands import NOW, make_site, workflow

ARTIFACT = {"smooth-or-featured": ["artifact"]}
TREE = workflow().tree


@dataclass
class Team:
    """A site and a scientist who looks at it."""

    app: FastAPI
    store: Store
    folder: Path
    client: TestClient

    def page(self, path: str = "/team/imports") -> str:
        return self.client.get(path).text

    def send(self, status: int = 200, path: str = "/team/imports", **files: tuple[str, str | bytes]) -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', self.page())
        assert found
        reply = self.client.post(path, data={"csrf": found[1]}, files=files or None)
        assert reply.status_code == status, reply.text[:2000]
        return reply.text


@pytest.fixture
def team(tmp_path: Path) -> Iterator[Team]:
    app, store = make_site(tmp_path, 4, clock=lambda: NOW)
    sue = store.people.sign_up("Sue", "correct horse battery", NOW, role=Role.SCIENTIST)
    client = TestClient(app, follow_redirects=False)
    token = store.people.open_session(sue.id, NOW)
    client.cookies.set(identity.SESSION, identity.sign(app.state.site, identity.SESSION, token))
    yield Team(app, store, tmp_path / "campaign", client)
    store.close()


def classifications(*some: tuple[str, str, str]) -> tuple[str, str]:
    """Return an export: rows of (id, subject, volunteer), each an artifact."""
    values = [Classification(id, subject, volunteer, ARTIFACT, version="1.0") for id, subject, volunteer in some]
    return "theirs.csv", "".join(classifications_csv(values, {"1.0": TREE}, 1, "Peas"))


WORKFLOWS = "workflows.csv", "".join(workflows_csv({"1.0": TREE}, 1, "Peas"))


def subjects(*some: PanoptesSubject) -> tuple[str, str]:
    return "subjects.csv", "".join(subjects_csv(some))


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_classifications_are_stored_once_and_the_others_listed(team: Team) -> None:
    export = classifications(("1", "s00", "ada"), ("2", "s00", "grace"), ("3", "elsewhere", "ada"))
    said = team.send(classifications=export, workflows=WORKFLOWS)
    assert "2 classifications stored and counted" in said
    assert "3 of 3 rows used" in said
    assert "1 classification on subjects that the campaign has not" in said
    listed = rows(team.page("/team/imports/theirs.refused.csv"))
    assert ["elsewhere" in row["reason"] for row in listed] == [True]
    said = team.send(classifications=export, workflows=WORKFLOWS)
    assert "0 classifications stored and counted" in said
    assert "2 were here already" in said
    assert {one.stream for one in team.store.classifications.stream()} == {Stream.IMPORT}
    assert team.store.classifications.recount() == 0
    assert "<dd>2</dd>" in team.page()


def test_rows_that_cannot_be_used_are_kept_with_why(team: Team) -> None:
    name, text = classifications(("1", "s00", "ada"), ("2", "s01", "ada"))
    said = team.send(classifications=(name, text[:-40]), workflows=WORKFLOWS)  # half an export
    assert "1 classification stored and counted" in said
    (row,) = rows(team.page("/team/imports/theirs.unused.csv"))
    assert "breaks off" in row["reason"]


def test_subjects_get_their_metadata_and_those_not_here_are_listed(team: Team) -> None:
    before = team.store.subjects.get("s01")
    odd = {"ra": float("nan"), "#hidden": "x", "dec": -1.5, "nested": {"z": float("inf")}}
    known = PanoptesSubject("s01", ("https://example.org/1.jpg",), odd)
    far = PanoptesSubject("77", ("https://example.org/7.jpg", "https://example.org/8.jpg"))
    said = team.send(subjects=subjects(known, far))
    assert "The metadata of 1 subject was taken" in said
    after = team.store.subjects.get("s01")
    assert before is not None
    assert after is not None
    assert after.metadata == {**before.metadata, "ra": None, "#hidden": "x", "dec": -1.5, "nested": {"z": None}}
    assert (after.images, after.classifications) == (before.images, before.classifications)
    assert team.store.subjects.count() == 4
    assert rows(team.page("/team/imports/subjects.to-fetch.csv")) == [
        {"id": "77", "images": "https://example.org/7.jpg https://example.org/8.jpg"}
    ]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "no file was chosen"),
        ({"workflows": WORKFLOWS}, "choose both files"),
        ({"classifications": ("a.csv", "x")}, "choose both files"),
        ({"classifications": ("a.png", b"\x89PNG\r\n\x1a\n"), "workflows": WORKFLOWS}, "classification_id"),
        ({"classifications": classifications(), "workflows": ("w.json", "{")}, "w.json"),
        ({"subjects": ("../../etc/passwd", "root")}, "passwd.csv"),
        ({"subjects": ("s.csv.gz", b"\x1f\x8b not gzip")}, "s-csv.gz"),
    ],
)
def test_what_is_no_export_is_told_and_nothing_is_written(team: Team, files: Any, words: str) -> None:
    assert words in team.send(422, **files)
    assert not (team.folder / "imports").exists()
    assert list(team.store.classifications.stream()) == []


def test_a_wrong_file_keeps_the_right_one_beside_it_out(team: Team) -> None:
    known = subjects(PanoptesSubject("s01", (), {"ra": 1}))
    team.send(422, classifications=("a.csv", "nonsense"), workflows=WORKFLOWS, subjects=known)
    found = team.store.subjects.get("s01")
    assert found is not None
    assert "ra" not in found.metadata


def test_what_is_too_large_to_wait_for_goes_by_the_command_line(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "MOST_BYTES", 100)
    assert "by the command line" in team.send(422, subjects=("large.csv", "x" * 101))


def test_a_folder_that_cannot_be_written_is_told(team: Team) -> None:
    (team.folder / "imports").write_text("a file is in the way")
    said = team.send(422, classifications=classifications(("1", "s00", "ada")), workflows=WORKFLOWS)
    assert "cannot be written" in said
    assert list(team.store.classifications.stream()) == []


@pytest.mark.parametrize("name", ["../campaign.toml", "..%2Fcampaign.toml", "none.csv", "%00.csv"])
def test_only_the_lists_can_be_read(team: Team, name: str) -> None:
    assert team.client.get(f"/team/imports/{name}").status_code == 404


def test_lists_are_for_scientists(team: Team) -> None:
    team.send(subjects=subjects(PanoptesSubject("77")))
    assert team.client.get("/team/imports/subjects.to-fetch.csv").status_code == 200
    team.client.cookies.clear()
    assert team.client.get("/team/imports/subjects.to-fetch.csv").status_code == 303


def test_new_subjects_come_without_a_restart(team: Team) -> None:
    team.send(path="/team/imports/folder")
    assert team.store.subjects.count() == 4
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(team.folder / "images" / "s99.png")
    SubjectSet.from_folder(team.folder / "images").save(team.folder)
    assert "1 new subject, 5 in all" in team.send(path="/team/imports/folder")
    subject = team.store.subjects.get("s99")
    assert subject is not None
    assert team.client.get(f"/images/{subject.id}/0").status_code == 200
    (team.folder / "workflow.json").write_text("{}")
    assert "workflow.json" in team.send(422, path="/team/imports/folder")


def test_a_broken_subject_row_is_told(team: Team) -> None:
    name, text = subjects(PanoptesSubject("s01", (), {"ra": 1}), PanoptesSubject("s02", (), {"ra": 2}))
    said = team.send(subjects=(name, text.replace('""ra"":2', '""ra"":oh')))
    assert "The metadata of 1 subject was taken" in said
    assert "1 row could not be used (row 3: its metadata are not JSON" in said
