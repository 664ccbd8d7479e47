"""Exports: what leaves the store is what is in it, readable by others' tools, for the team only."""

from __future__ import annotations

import csv
import io
import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from api_hands import NOW, PASSWORD, make_site
from greenpea.site.exports import LONG
from greenpea.store import NewSubject, Role, SentClassification, Store
from greenpea.votes import Votes
from greenpea.workflow import Workflow
from greenpea.zooniverse import read_classifications, workflow_versions, workflows_csv
from greenpea.zooniverse.rows import unguarded
from hands import galaxy_tree

TABLES = ["classifications", "votes", "subjects", "finds", "volunteers"]
EVIL = '=HYPERLINK("http://evil","x")'

WALKS = [
    {"smooth": ["artifact"]},
    {"smooth": ["yes"], "merging": ["no"], "rare": []},
    {"smooth": ["no"], "bar": ["yes"], "merging": ["no"], "rare": ["ring", "lens"]},
]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[TestClient, FastAPI, Store]]:
    """Seven subjects with awkward ids; the first three classified, one of these undone."""
    ids = ["a", EVIL, "-1", "spirals/M 51", 'quo"te', "new\nline", "α"]
    new = [NewSubject(one, (), {"mag": None, "name": EVIL, "when": [1, None]}) for one in ids]
    app, store = make_site(tmp_path, new)
    with TestClient(app) as client:
        yield client, app, store


def fill(store: Store) -> list[str]:
    """Classify; return the uuids."""
    volunteer = store.people.anonymous(NOW)
    version = store.workflows.active().id
    uuids = []
    for number, given in enumerate(WALKS):
        uuids.append(str(uuid.UUID(int=number + 1, version=4)))
        one = SentClassification(uuids[-1], volunteer.id, number + 1, version, given, probability=0.25, started_at=NOW)
        (receipt,) = store.classifications.submit([one], NOW)
        assert receipt.error is None
    store.classifications.undo(uuids[0], volunteer.id, NOW)
    store.finds.flag(uuids[1], volunteer.id, 2, "+1 <b>green</b>", NOW)
    return uuids


def signed_in(client: TestClient, store: Store, role: Role) -> dict[str, str]:
    store.people.sign_up(role.value, PASSWORD, NOW, role=role)
    reply = client.post("/api/v1/sessions", json={"name": role.value, "password": PASSWORD})
    return {"Authorization": f"Bearer {reply.json()['token']}"}


def rows(reply_text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(reply_text, newline="")))


@pytest.mark.parametrize("name", [*(f"{table}.csv" for table in TABLES), "classifications.parquet", "votes.parquet"])
def test_only_scientists_export(site: tuple[TestClient, FastAPI, Store], name: str) -> None:
    client, _, store = site
    path = f"/team/exports/{name}"
    assert client.get(path, follow_redirects=False).status_code in (303, 401)
    for role in (Role.VOLUNTEER, Role.MODERATOR):
        assert client.get(path, headers=signed_in(client, store, role)).status_code == 403
    reply = client.get(path, headers=signed_in(client, store, Role.SCIENTIST))
    assert reply.status_code == 200
    assert reply.headers["content-disposition"] == f'attachment; filename="{name}"'
    assert reply.headers["cache-control"] == "no-store"


def test_an_empty_campaign_exports_headers(tmp_path: Path) -> None:
    app, store = make_site(tmp_path, [])
    with TestClient(app) as client:
        scientist = signed_in(client, store, Role.SCIENTIST)
        for table in ("classifications", "subjects", "finds"):
            reply = client.get(f"/team/exports/{table}.csv", headers=scientist)
            assert len(reply.text.splitlines()) == 1
        long = pq.read_table(io.BytesIO(client.get("/team/exports/classifications.parquet", headers=scientist).content))
        assert (long.num_rows, long.schema) == (0, LONG)


def test_the_long_table_holds_every_annotation(site: tuple[TestClient, FastAPI, Store]) -> None:
    client, _, store = site
    uuids = fill(store)
    reply = client.get("/team/exports/classifications.parquet", headers=signed_in(client, store, Role.SCIENTIST))
    long = pq.read_table(io.BytesIO(reply.content)).to_pylist()
    back: dict[str, dict[str, list[str]]] = {}
    for row in long:
        answers = back.setdefault(row["uuid"], {}).setdefault(row["question"], [])
        if row["answer"]:
            answers.append(row["answer"])
    assert back == dict(zip(uuids, WALKS, strict=True))
    assert {row["uuid"]: row["counted"] for row in long} == {
        uuids[0]: "undone",
        uuids[1]: "counted",
        uuids[2]: "counted",
    }
    assert {row["probability"] for row in long} == {0.25}
    assert {row["started_at"] for row in long} == {NOW}
    assert {row["subject_id"] for row in long} == {"a", EVIL, "-1"}


def test_long_blocks_are_joined(site: tuple[TestClient, FastAPI, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    client, _, store = site
    fill(store)
    monkeypatch.setattr("greenpea.site.exports.ROW_GROUP", 2)
    monkeypatch.setattr("greenpea.site.exports.PAGE", 2)
    monkeypatch.setattr("greenpea.site.exports.CHUNK", 100)
    scientist = signed_in(client, store, Role.SCIENTIST)
    content = client.get("/team/exports/classifications.parquet", headers=scientist).content
    assert pq.ParquetFile(io.BytesIO(content)).metadata.num_row_groups == 2
    assert len(rows(client.get("/team/exports/subjects.csv", headers=scientist).text)) == 7
    assert len(rows(client.get("/team/exports/votes.csv", headers=scientist).text)) == 2


def test_votes_are_the_stores(site: tuple[TestClient, FastAPI, Store], tmp_path: Path) -> None:
    client, _, store = site
    fill(store)
    scientist = signed_in(client, store, Role.SCIENTIST)
    for ending in ("parquet", "csv"):
        file = tmp_path / f"votes.{ending}"
        file.write_bytes(client.get(f"/team/exports/votes.{ending}", headers=scientist).content)
    table = pq.read_table(tmp_path / "votes.parquet")
    expected = store.classifications.votes()
    assert Votes.from_table(table, galaxy_tree(), table["subject_id"].to_pylist()) == expected
    counted = rows((tmp_path / "votes.csv").read_bytes().decode())
    assert [unguarded(row["subject_id"]) for row in counted] == list(expected.subject_ids)
    assert sum(int(row["smooth_reached"]) for row in counted) == 2


def test_the_panoptes_export_is_read_back(site: tuple[TestClient, FastAPI, Store], tmp_path: Path) -> None:
    client, _, store = site
    uuids = fill(store)
    store.workflows.publish(Workflow(tree=galaxy_tree(), tutorial={"en": "Look closely."}), NOW)
    file = tmp_path / "classifications.csv"
    file.write_bytes(
        client.get("/team/exports/classifications.csv", headers=signed_in(client, store, Role.SCIENTIST)).content
    )
    written = rows(file.read_bytes().decode())
    assert [row["classification_id"] for row in written] == uuids[1:]
    assert {row["workflow_version"] for row in written} == {"1.0"}
    assert all(row["user_name"].startswith("not-logged-in-") for row in written)
    workflows = tmp_path / "workflows.csv"
    workflows.write_text("".join(workflows_csv({"1.0": galaxy_tree(), "1.1": galaxy_tree()})), encoding="utf-8")
    back = list(read_classifications(file, list(workflow_versions(workflows))))
    assert [{question: list(given) for question, given in one.annotations.items()} for one in back] == WALKS[1:]
    assert [one.subject_id for one in back] == [EVIL, "-1"]


def test_what_a_spreadsheet_would_run_is_text(site: tuple[TestClient, FastAPI, Store]) -> None:
    client, _, store = site
    fill(store)
    scientist = signed_in(client, store, Role.SCIENTIST)
    for table in TABLES:
        reply = client.get(f"/team/exports/{table}.csv", headers=scientist)
        for record in csv.reader(io.StringIO(reply.text, newline="")):
            for cell in record:
                assert not cell.startswith(("=", "+", "@", "\t", "\r")), (table, cell)
                assert not cell.startswith("-") or cell.lstrip("-").replace(".", "").isdigit(), (table, cell)
    (find,) = rows(client.get("/team/exports/finds.csv", headers=scientist).text)
    assert find["comment"] == "'+1 <b>green</b>"


def test_subjects_and_volunteers(site: tuple[TestClient, FastAPI, Store]) -> None:
    client, _, store = site
    fill(store)
    scientist = signed_in(client, store, Role.SCIENTIST)
    exported = rows(client.get("/team/exports/subjects.csv", headers=scientist).text)
    subjects = {unguarded(row["subject_id"]): row for row in exported}
    assert set(subjects) == {"a", EVIL, "-1", "spirals/M 51", 'quo"te', "new\nline", "α"}
    assert subjects["a"]["classifications"] == "0"
    assert subjects[EVIL]["classifications"] == "1"
    assert '"mag":null' in subjects["a"]["metadata"]
    volunteers = rows(client.get("/team/exports/volunteers.csv", headers=scientist).text)
    assert sorted(int(row["classifications"]) for row in volunteers)[-1] == 2
    assert "email" not in volunteers[0]
