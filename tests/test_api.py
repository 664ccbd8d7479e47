"""The API: what is handed out and taken, by whom, and what hostile or broken input does to it (nothing)."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.testclient import TestClient

from api_hands import NOW, PASSWORD, make_site
from greenpea.errors import GreenpeaError
from greenpea.site import api, health, pictures, tickets
from greenpea.site.api import believable, feedback
from greenpea.site.context import Site
from greenpea.site.tickets import Ticket
from greenpea.store import Counted, HandOut, NewSubject, QueueOptions, Role, Store, Stream, Subject
from greenpea.tree import DecisionTree
from greenpea.workflow import Workflow
from hands import galaxy_tree

WALK = {"smooth": ["no"], "bar": ["yes"], "merging": ["no"], "rare": ["ring"]}
HOSTILE = "Robert'); DROP TABLE classifications;-- <script>alert(1)</script> {{7*7}} ${7*7} \u202e %s \\"

SiteParts = tuple[TestClient, FastAPI, Store]


def nine_subjects() -> list[NewSubject]:
    return [NewSubject(f"s{i}", ("",), {"ra": i, "#hidden": "x"}) for i in range(9)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[SiteParts]:
    yield from serve(*make_site(tmp_path, nine_subjects()))


@pytest.fixture
def either_site(database: str, tmp_path: Path) -> Iterator[SiteParts]:
    """The site on each database: what one takes as text, the other may refuse."""
    yield from serve(*make_site(tmp_path, nine_subjects(), database=database))


def serve(app: FastAPI, store: Store) -> Iterator[SiteParts]:
    with TestClient(app) as client:
        yield client, app, store


def take_one(client: TestClient, **headers: str) -> dict[str, Any]:
    """Be handed one subject."""
    handed: dict[str, Any] = client.post("/api/v1/next", json={"count": 1}, headers=headers).json()["subjects"][0]
    return handed


def body(handed: dict[str, Any], **values: Any) -> dict[str, Any]:
    return {"uuid": str(uuid4()), "ticket": handed["ticket"], "annotations": WALK} | values


def post(client: TestClient, values: dict[str, Any]) -> Any:
    # Not json=: it would refuse NaN and half characters before the server can.
    return client.post(
        "/api/v1/classifications", content=json.dumps(values), headers={"Content-Type": "application/json"}
    )


def bearer(client: TestClient, store: Store, name: str, role: Role = Role.VOLUNTEER) -> dict[str, str]:
    store.people.sign_up(name, PASSWORD, NOW, role=role)
    reply = client.post("/api/v1/sessions", json={"name": name, "password": PASSWORD})
    assert reply.status_code == 201
    return {"Authorization": f"Bearer {reply.json()['token']}"}


# ---- classifying ---------------------------------------------------------------------------------------


def test_a_classification_counts_once(site: SiteParts) -> None:
    client, _, store = site
    handed = take_one(client)
    sent = body(handed, started_at="2026-05-01T11:59:00+02:00", metadata={"viewport": [390, 844]})
    first, again = post(client, sent), post(client, sent)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == {
        "uuid": sent["uuid"],
        "counted": "counted",
        "again": False,
        "after_retirement": False,
        "retired": None,
        "feedback": None,
    }
    assert again.json() == first.json() | {"again": True}
    stored = store.classifications.get(sent["uuid"])
    assert stored is not None
    assert (stored.annotations, stored.metadata, stored.subject_id) == (WALK, sent["metadata"], handed["subject_id"])
    assert (stored.stream, stored.probability) == (Stream.RANDOM, pytest.approx(1 / 9))
    subject = store.subjects.get(handed["subject_id"])
    assert subject is not None
    assert subject.classifications == 1
    assert store.classifications.recount() == 0


def test_any_writing_of_a_uuid_is_the_same_one(site: SiteParts) -> None:
    client, _, _ = site
    sent = body(take_one(client))
    assert post(client, sent).status_code == 201
    for other in (sent["uuid"].upper(), sent["uuid"].replace("-", ""), f"urn:uuid:{sent['uuid']}"):
        assert post(client, sent | {"uuid": other}).json()["again"]


def test_nobody_is_asked_twice_and_the_end_is_told(site: SiteParts) -> None:
    client, _, _ = site
    seen: list[str] = []
    while True:
        reply = client.post("/api/v1/next", json={"count": 4}).json()
        assert reply["exhausted"] == (not reply["subjects"])
        if reply["exhausted"]:
            break
        for handed in reply["subjects"]:
            seen.append(handed["subject_id"])
            assert post(client, body(handed)).json()["counted"] == "counted"
    assert sorted(seen) == [f"s{i}" for i in range(9)]
    assert client.get("/api/v1/me").json()["classifications"] == 9


def test_what_was_lost_on_the_way_is_handed_out_again(site: SiteParts) -> None:
    client, _, _ = site
    first, second = client.post("/api/v1/next", json={"count": 2}).json()["subjects"]
    reply = client.post("/api/v1/next", json={"count": 1, "holding": [first["ticket"], "nonsense"]})
    assert [one["subject_id"] for one in reply.json()["subjects"]] == [second["subject_id"]]


def test_without_a_body_one_is_handed_out(site: SiteParts) -> None:
    client, _, _ = site
    assert len(client.post("/api/v1/next").json()["subjects"]) == 1


def test_a_ticket_of_an_old_version_is_stored_on_its_own(site: SiteParts) -> None:
    client, _, store = site
    handed, later = client.post("/api/v1/next", json={"count": 2}).json()["subjects"]
    other = {"name": "other", "questions": [{"slug": "round", "answers": [{"slug": "yes"}, {"slug": "no"}]}]}
    store.workflows.publish(Workflow(tree=DecisionTree.model_validate(other)), NOW)
    sent = body(handed)
    assert post(client, sent).json()["counted"] == "counted"
    stored = store.classifications.get(sent["uuid"])
    assert stored is not None
    assert stored.version == "1.0"
    reply = post(client, body(later, annotations={"round": ["yes"]}))
    assert reply.status_code == 422
    assert "no question 'round'" in reply.json()["detail"]
    assert client.post("/api/v1/next").json()["version"]["number"] == "2.0"
    assert client.get("/api/v1/workflow").json()["tree"]["first"] == "round"
    old = client.get("/api/v1/workflow?version=1.0").json()
    assert DecisionTree.model_validate(old["tree"]) == galaxy_tree()
    assert (old["active"], old["number"]) == (False, "1.0")
    assert store.classifications.recount() == 0


def test_the_ticket_names_who_it_is_cast_by(site: SiteParts) -> None:
    client, _, store = site
    handed = take_one(client)
    me = client.get("/api/v1/me").json()["public"]
    client.cookies.clear()
    someone_else = bearer(client, store, "somebody")
    sent = body(handed)
    reply = client.post("/api/v1/classifications", json=sent, headers=someone_else)
    assert reply.status_code == 201
    stored = store.classifications.get(sent["uuid"])
    assert stored is not None
    assert stored.volunteer.public == me


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"uuid": "42"}, "uuid: Input should be a valid UUID"),
        ({"uuid": None}, "uuid: "),
        ({"ticket": "x" * 401}, "ticket: String should have at most 400 characters"),
        ({"annotations": {}}, "'smooth' has no answer"),
        ({"annotations": []}, "annotations: "),
        ({"annotations": {"smooth": "yes"}}, "annotations.smooth: Input should be a valid list"),
        ({"annotations": {"smooth": ["yes", "no"]}}, "takes exactly one answer, not 2"),
        ({"annotations": {"smooth": ["no"]}}, "question 'bar' has no answer"),
        ({"annotations": WALK | {"bar": ["maybe"]}}, "no answer 'maybe'"),
        ({"annotations": WALK | {"odd": ["yes"]}}, "no question 'odd'"),
        ({"annotations": {"smooth": ["artifact"], "bar": ["yes"]}}, "do not lead to question 'bar'"),
        ({"annotations": {f"q{i}": [] for i in range(201)}}, "annotations: "),
        ({"annotations": {"smooth": ["x"] * 101}}, "annotations.smooth: "),
        ({"annotations": {"q" * 201: ["x"]}}, "at most 200 characters"),
        ({"started_at": "2026-05-01T12:00:00"}, "started_at: Input should have timezone info"),
        ({"finished_at": "yesterday"}, "finished_at: "),
        ({"metadata": {"much": "x" * 8000}}, "metadata: metadata has 8012 bytes as JSON: send at most 8000"),
        ({"metadata": {"nan": float("nan")}}, "plain JSON"),
        ({"metadata": {"half": "\ud800"}}, "plain JSON"),
        ({"metadata": {"nul": "a\0b"}}, "NUL"),
        ({"metadata": "text"}, "metadata: "),
    ],
)
def test_what_cannot_be_taken_is_refused_with_the_reason(site: SiteParts, values: dict[str, Any], problem: str) -> None:
    client, _, store = site
    reply = post(client, body(take_one(client)) | values)
    assert reply.status_code == 422
    assert problem in reply.json()["detail"]
    assert list(store.classifications.stream()) == []


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 422),
        (b"", "application/json", 422),
        (b"[]", "application/json", 422),
        (b"null", "application/json", 422),
        (b"\xc3(", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"metadata":' + b'{"a":' * 900 + b"1" + b"}" * 901, "application/json", 422),
        (b"9" * 5000, "application/json", 400),
        (b"uuid=1&ticket=2", "application/x-www-form-urlencoded", 422),
        (b"{}", "text/plain", 422),
        (b" " * (2**20 + 1), "application/json", 413),
    ],
)
def test_bodies_that_are_none(site: SiteParts, content: bytes, kind: str, status: int) -> None:
    client, _, _ = site
    reply = client.post("/api/v1/classifications", content=content, headers={"Content-Type": kind})
    assert reply.status_code == status
    assert isinstance(reply.json()["detail"], str)


def test_a_body_without_a_length_is_bounded_too(site: SiteParts) -> None:
    client, _, _ = site
    pieces = (b" " * 2**16 for _ in range(100))
    reply = client.post("/api/v1/classifications", content=pieces, headers={"Content-Type": "application/json"})
    assert reply.status_code == 413


def test_clocks_that_are_wrong(site: SiteParts) -> None:
    client, app, store = site
    now = app.state.site.clock()
    for started, finished, kept in [
        (now - timedelta(minutes=2), now - timedelta(minutes=1), (True, True)),
        (now - timedelta(minutes=1), now - timedelta(minutes=2), (False, False)),
        (now + timedelta(hours=1), now + timedelta(hours=2), (True, True)),
        (datetime(1970, 1, 1, tzinfo=UTC), now, (False, True)),
        (now, datetime(9999, 12, 31, 23, 59, tzinfo=UTC), (True, False)),
    ]:
        sent = body(take_one(client), started_at=started.isoformat(), finished_at=finished.isoformat())
        assert post(client, sent).status_code == 201
        stored = store.classifications.get(sent["uuid"])
        assert stored is not None
        assert (stored.started_at, stored.finished_at) == (
            started if kept[0] else None,
            finished if kept[1] else None,
        )
    sent = body(take_one(client), started_at="9999-12-31T23:59:59-12:00", finished_at="0001-01-01T00:00:00+14:00")
    assert post(client, sent).status_code == 201


OFFSETS = st.integers(-23, 23).map(lambda hours: timezone(timedelta(hours=hours)))


@given(st.datetimes(timezones=OFFSETS))
def test_a_believed_time_is_the_same_instant(time: datetime) -> None:
    believed = believable(time, NOW)
    assert believed is None or (believed == time and believed.tzinfo is UTC)


# ---- undoing -------------------------------------------------------------------------------------------


def test_nobody_elses_classification_is_undone(site: SiteParts) -> None:
    client, _, store = site
    handed = take_one(client)
    sent = body(handed)
    post(client, sent)
    mine = dict(client.cookies)
    client.cookies.clear()
    assert client.delete(f"/api/v1/classifications/{sent['uuid']}").status_code == 404
    others = take_one(client)
    unknown = client.delete(f"/api/v1/classifications/{uuid4()}")
    for headers in ({}, {"X-Ticket": others["ticket"]}, bearer(client, store, "somebody")):
        reply = client.delete(f"/api/v1/classifications/{sent['uuid']}", headers=headers)
        assert (reply.status_code, reply.json()) == (404, unknown.json())
    # Nor is it taken over by sending it as one's own.
    assert "another classification" in post(client, body(others, uuid=sent["uuid"])).json()["detail"]
    client.cookies.clear()
    client.cookies.update(mine)
    reply = client.delete(f"/api/v1/classifications/{sent['uuid']}")
    assert (reply.status_code, reply.json()["counted"]) == (200, "undone")
    again = post(client, sent).json()
    assert (again["counted"], again["again"]) == ("undone", True)
    assert store.classifications.recount() == 0


def test_an_outbox_undoes_by_its_ticket(site: SiteParts) -> None:
    client, _, _ = site
    sent = body(take_one(client))
    post(client, sent)
    client.cookies.clear()
    path = f"/api/v1/classifications/{sent['uuid']}"
    assert client.delete(path, headers={"X-Ticket": "forged"}).status_code == 422
    assert client.delete(path, headers={"X-Ticket": sent["ticket"]}).json()["again"] is False
    assert client.delete(path, headers={"X-Ticket": sent["ticket"]}).json()["again"] is True
    assert client.delete("/api/v1/classifications/nonsense").status_code == 422


# ---- tickets -------------------------------------------------------------------------------------------


def handout(**values: Any) -> HandOut:
    subject = Subject(7, "s", (), {}, False, None, 0, {}, None, None)
    return HandOut(**({"id": 1, "volunteer": 2, "subject": subject, "version": 3, "stream": Stream.RANK, "round": None,
                       "probability": None, "handed_at": NOW, "expires_at": NOW} | values))  # fmt: skip


class FakeSite(Site):
    """A site that has a secret and nothing else: all that tickets need."""

    def __init__(self, secret: bytes) -> None:
        self.secret = secret


@given(
    st.integers(0, 2**63 - 1), st.sampled_from(Stream), st.none() | st.integers(0, 2**31), st.none() | st.floats(0, 1)
)
def test_a_ticket_says_what_was_handed_out(
    id: int, stream: Stream, round_: int | None, probability: float | None
) -> None:
    site = FakeSite(b"secret")
    made = tickets.make(site, handout(id=id, volunteer=id, stream=stream, round=round_, probability=probability))
    assert len(made) <= tickets.LONGEST
    assert tickets.read(site, made) == Ticket(id, id, 7, 3, stream, round_, probability)


@given(st.data())
def test_a_ticket_that_was_changed_is_refused(data: st.DataObject) -> None:
    site = FakeSite(b"secret")
    made = tickets.make(site, handout())
    at = data.draw(st.integers(0, len(made) - 1))
    letter = data.draw(st.sampled_from("abcXYZ019-_.é\0"))
    ways = [made[:at], made[:at] + letter + made[at + 1 :], made[:at] + letter + made[at:]]
    changed = data.draw(st.sampled_from(ways))
    if changed.rpartition(".")[0] == made.rpartition(".")[0]:
        # The same content: base64 has letters and bits that mean nothing, so that the signature may still be right.
        with contextlib.suppress(GreenpeaError):
            assert tickets.read(site, changed) == tickets.read(site, made)
        return
    with pytest.raises(GreenpeaError, match="not made by this site"):
        tickets.read(site, changed)


def test_a_ticket_of_another_site_or_purpose_is_refused(site: SiteParts) -> None:
    client, app, _ = site
    forged = tickets.make(FakeSite(b"another secret"), handout(volunteer=1))
    cookie = take_one(client) and client.cookies["greenpea_volunteer"]
    for ticket in (forged, cookie, "", ".", "....", "W10.", "\ud800"):
        reply = post(client, body({"ticket": ticket}))
        assert reply.status_code == 422
    # Signed by this site, and still about nothing that there is.
    for values in ({"volunteer": 10**9}, {"version": 10**9}, {"id": 10**9}):
        made = tickets.make(app.state.site, handout(**values))
        reply = post(client, body({"ticket": made}))
        assert reply.status_code == 422
        assert "there is no" in reply.json()["detail"]


# ---- feedback ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "known", "right", "at"),
    [
        (WALK, WALK, True, None),
        (WALK, {"smooth": ["no"]}, True, None),
        (WALK, {"smooth": ["no"], "bar": ["no"]}, False, "bar"),
        # The first answer strays into another branch: the known bar is never reached, and it is told at "smooth".
        ({"smooth": ["yes"], "merging": ["no"], "rare": ["ring"]}, WALK, False, "smooth"),
        ({"smooth": ["artifact"]}, {"smooth": ["yes"], "merging": ["no"]}, False, "smooth"),
        # Of a multiple question every answer counts, in any order.
        (WALK | {"rare": ["lens", "ring"]}, WALK | {"rare": ["ring", "lens"]}, True, None),
        (WALK | {"rare": []}, WALK, False, "rare"),
        (WALK | {"rare": []}, WALK | {"rare": []}, True, None),
        # What lies behind a question that is not known counts where it was come to.
        (WALK, {"smooth": ["no"], "merging": ["yes"]}, False, "merging"),
        (WALK, {"smooth": ["no"], "merging": ["no"]}, True, None),
        (WALK, {"bar": ["no"]}, False, "bar"),
    ],
)
def test_feedback(given: dict[str, list[str]], known: dict[str, list[str]], right: bool, at: str | None) -> None:
    texts = {"right": {"en": "Yes", "de": "Ja"}, "wrong": {"en": "No", "de": "Nein"}}
    workflow = Workflow.model_validate({"tree": galaxy_tree(), "feedback": texts})
    told = feedback(workflow, given, known, "de")
    assert told == {"right": right, "at": at, "text": "Ja" if right else "Nein", "known": known}
    in_english = feedback(workflow, given, known, "es")
    assert in_english is not None
    assert in_english["text"] == ("Yes" if right else "No")


def test_no_feedback_where_nothing_can_be_compared() -> None:
    workflow = Workflow(tree=galaxy_tree())
    assert feedback(workflow, {"smooth": ["artifact"]}, {"bar": ["yes"]}) is None
    assert feedback(workflow, WALK, {"smooth": ["perhaps"]}) is None


def test_feedback_comes_with_the_receipt_and_again(tmp_path: Path) -> None:
    known = {"smooth": ["no"], "bar": ["yes"]}
    app, store = make_site(tmp_path, [*nine_subjects(), NewSubject("g", ("",), gold=known)])
    store.queue.options = QueueOptions(gold_first=1, gold_last=1)
    with TestClient(app) as client:
        handed = take_one(client)
        assert "gold" not in client.get("/api/v1/subjects/g").text
        sent = body(handed, annotations={"smooth": ["artifact"]})
        first, again = post(client, sent).json(), post(client, sent).json()
        assert first["counted"] == "gold"
        assert first["feedback"]["right"] is False
        assert first["feedback"]["at"] == "smooth"
        assert first["feedback"]["known"] == known
        assert again["feedback"] == first["feedback"]


# ---- looking up ----------------------------------------------------------------------------------------


def test_volunteers_see_no_votes_and_no_hidden_columns(site: SiteParts) -> None:
    client, _, store = site
    post(client, body(take_one(client)))
    seen = client.get("/api/v1/subjects/s1").json()
    subject = store.subjects.get("s1")
    assert subject is not None
    assert seen == {"subject_id": "s1", "images": [f"/images/{subject.id}/0"], "metadata": {"ra": 1}}
    for role in (Role.VOLUNTEER, Role.MODERATOR):
        assert client.get("/api/v1/subjects/s1", headers=bearer(client, store, role.value, role)).json() == seen
    told = client.get("/api/v1/subjects/s1", headers=bearer(client, store, "boss", Role.SCIENTIST)).json()
    assert told["metadata"] == {"ra": 1, "#hidden": "x"}
    assert {"classifications", "votes", "retired"} <= told.keys()


@pytest.mark.parametrize("subject_id", ["spirals/M 51", "a?b#c", "..", "../../etc", "é", HOSTILE])
def test_any_subject_id_is_found(tmp_path: Path, subject_id: str) -> None:

    metadata = {"l": [1.5, {"n": None}], "seen": True}
    app, store = make_site(tmp_path, [NewSubject(subject_id, (), metadata)])
    with TestClient(app) as client:
        address = "/api/v1/{}/" + quote(subject_id, safe="").replace(".", "%2E")
        seen = client.get(address.format("subjects"))
        assert seen.status_code == 200
        assert seen.json() == {"subject_id": subject_id, "images": [], "metadata": metadata}
        for _ in range(2):
            assert client.put(address.format("favourites")).status_code == 204
        volunteer = store.people.by_public(client.get("/api/v1/me").json()["public"])
        assert volunteer is not None
        assert [one.subject_id for one in store.people.favourites(volunteer.id)] == [subject_id]
        assert client.delete(address.format("favourites")).status_code == 204
        assert store.people.favourites(volunteer.id) == []


@pytest.mark.parametrize("subject_id", ["nothing", "%00", "x" * 1000])
def test_no_such_subject(site: SiteParts, subject_id: str) -> None:
    client, _, _ = site
    assert client.get(f"/api/v1/subjects/{subject_id}").status_code == 404
    assert client.put(f"/api/v1/favourites/{subject_id}").status_code == 404


# ---- people --------------------------------------------------------------------------------------------


def test_tokens(site: SiteParts) -> None:
    client, _, store = site
    assert client.get("/api/v1/me").status_code == 401
    token = client.post("/api/v1/volunteers").json()["token"]
    anonymous = {"Authorization": f"Bearer {token}"}
    assert client.get("/api/v1/me", headers=anonymous).json()["name"] is None
    headers = bearer(client, store, "Ada", Role.OWNER)
    assert client.get("/api/v1/me", headers=headers).json()["role"] == "owner"
    assert client.post("/api/v1/sessions", json={"name": "Ada", "password": "wrong"}).status_code == 401
    assert client.post("/api/v1/sessions", json={"name": "nobody", "password": "wrong"}).status_code == 401
    assert client.delete("/api/v1/sessions", headers=headers).status_code == 204
    assert client.get("/api/v1/me", headers=headers).status_code == 401
    assert client.post("/api/v1/next", headers=headers).status_code == 401


def test_a_banned_volunteer_may_look(site: SiteParts) -> None:
    client, _, store = site
    headers = bearer(client, store, "rude")
    handed = take_one(client, **headers)
    rude = store.people.by_name("rude")
    assert rude is not None
    store.people.ban(rude.id, NOW, recount=True)
    reply = client.post("/api/v1/sessions", json={"name": "rude", "password": PASSWORD})
    headers = {"Authorization": f"Bearer {reply.json()['token']}"}
    assert client.get("/api/v1/me", headers=headers).json()["banned"] is True
    assert client.get("/api/v1/workflow", headers=headers).status_code == 200
    assert client.post("/api/v1/next", headers=headers).status_code == 403
    assert client.put("/api/v1/favourites/s1", headers=headers).status_code == 403
    find = {"uuid": str(uuid4()), "ticket": handed["ticket"], "comment": "rude"}
    assert client.post("/api/v1/finds", json=find, headers=headers).status_code == 403
    # What an outbox still held is kept, and not counted: nothing is lost should the ban be lifted.
    assert post(client, body(handed)).json()["counted"] == Counted.BANNED
    assert store.classifications.recount() == 0


def test_another_sites_page_changes_nothing(site: SiteParts) -> None:
    client, _, store = site
    handed = take_one(client)
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        reply = client.post("/api/v1/classifications", json=body(handed), headers=headers)
        assert reply.status_code == 403
        assert isinstance(reply.json()["detail"], str)
        assert client.delete("/api/v1/sessions", headers=headers).status_code == 403
    assert list(store.classifications.stream()) == []


def test_sql_and_html_stay_text(either_site: SiteParts) -> None:
    client, _, store = either_site
    handed = take_one(client)
    sent = body(handed, metadata={HOSTILE: HOSTILE})
    assert post(client, sent).status_code == 201
    for slug in (HOSTILE, "smooth"):
        reply = post(client, body(handed, annotations={slug: [HOSTILE]}))
        assert reply.status_code == 422
        assert reply.headers["content-type"] == "application/json"
        assert reply.headers["x-content-type-options"] == "nosniff"
    find = client.post("/api/v1/finds", json={"uuid": sent["uuid"], "ticket": handed["ticket"], "comment": HOSTILE})
    assert find.json() == {"uuid": sent["uuid"], "subject_id": handed["subject_id"], "comment": HOSTILE.strip()}
    assert client.post("/api/v1/sessions", json={"name": HOSTILE, "password": HOSTILE}).status_code == 401
    assert client.get("/api/v1/workflow", params={"version": HOSTILE[:40]}).status_code == 404
    stored = store.classifications.get(sent["uuid"])
    assert stored is not None
    assert stored.metadata == {HOSTILE: HOSTILE}
    assert store.classifications.recount() == 0


def test_finds(site: SiteParts) -> None:
    client, _, store = site
    handed = take_one(client)
    find = {"uuid": str(uuid4()), "ticket": handed["ticket"], "comment": "green!"}
    assert client.post("/api/v1/finds", json=find).status_code == 201
    assert client.post("/api/v1/finds", json=find | {"comment": "again"}).json()["comment"] == "green!"
    for values in ({"comment": "x" * 2001}, {"comment": "a\0b"}, {"ticket": "x"}, {"uuid": "1"}, {"comment": "\ud800"}):
        content = json.dumps(find | values)
        reply = client.post("/api/v1/finds", content=content, headers={"Content-Type": "application/json"})
        assert reply.status_code == 422
    found, _ = store.finds.all()
    assert [one.comment for one in found] == ["green!"]


# ---- health and logs -----------------------------------------------------------------------------------


def test_health(site: SiteParts, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    client, _, store = site
    assert client.get("/healthz").json() == {"alive": True}
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["ready"]) == (200, True)
    monkeypatch.setattr(store.database, "write", lambda write: (_ for _ in ()).throw(sqlite3.OperationalError("full")))
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["ready"]) == (503, False)
    assert "full" not in ready.text
    assert "full" in capsys.readouterr().err
    assert client.get("/healthz").status_code == 200


@pytest.fixture
def noisy(tmp_path: Path) -> Iterator[SiteParts]:
    """A site that writes its log, with a page that breaks."""
    app, store = make_site(tmp_path, nine_subjects(), quiet=False)

    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("the reason")

    with TestClient(app, raise_server_exceptions=False) as client:
        yield client, app, store


def logged(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    return [line for line in lines if line["event"] == "request"]


def test_every_request_is_a_line(noisy: SiteParts, capsys: pytest.CaptureFixture[str]) -> None:
    client, _, store = noisy
    headers = bearer(client, store, "Ada")
    handed = take_one(client, **headers)
    assert client.get("/images/0/0", headers={"X-Request-ID": "from-the-proxy.1"}).headers["X-Request-ID"]
    assert client.get("/healthz", headers={"X-Request-ID": "a b\x07" * 20}).headers["X-Request-ID"].isalnum()
    sign_in, following, image, alive = logged(capsys)
    ada = store.people.by_name("Ada")
    assert ada is not None
    assert handed["ticket"]
    assert (sign_in["method"], sign_in["path"], sign_in["status"]) == ("POST", "/api/v1/sessions", 201)
    assert (following["path"], following["volunteer"]) == ("/api/v1/next", ada.public[:8])
    assert (image["status"], image["request_id"]) == (404, "from-the-proxy.1")
    assert "volunteer" not in alive
    assert all(line["ms"] >= 0 for line in (sign_in, following, image, alive))


def test_no_secret_is_logged(noisy: SiteParts, capsys: pytest.CaptureFixture[str]) -> None:
    client, _, store = noisy
    headers = bearer(client, store, "Ada")
    handed = take_one(client, **headers)
    post(client, body(handed, metadata={"k": "s3cret"}))
    client.delete(f"/api/v1/classifications/{uuid4()}", headers={"X-Ticket": handed["ticket"]})
    for path in ("/reset/s3cret", "/join/s3cret", "/reset/s3cret/", "/below/reset/s3cret?also=s3cret", "/?q=s3cret"):
        client.get(path, headers={"Cookie": "greenpea_session=s3cret", "Authorization": "Bearer s3cret"})
    text = capsys.readouterr().err
    assert "/reset/…" in text.encode().decode("unicode_escape")
    for secret in ("s3cret", PASSWORD, handed["ticket"], headers["Authorization"].split()[1]):
        assert secret not in text


def test_what_breaks_is_logged_with_where(noisy: SiteParts, capsys: pytest.CaptureFixture[str]) -> None:
    client, _, _ = noisy
    assert client.get("/broken").status_code == 500
    (line,) = logged(capsys)
    assert (line["level"], line["status"]) == ("error", 500)
    assert "RuntimeError: the reason" in line["exception"]


def test_a_quiet_log_says_only_what_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app, _ = make_site(tmp_path, nine_subjects(), quiet=True)
    app.add_api_route("/unready", lambda: (_ for _ in ()).throw(RuntimeError("no")))
    with TestClient(app, raise_server_exceptions=False) as client:
        client.get("/healthz")
        client.get("/api/v1/me")
        client.get("/unready")
    assert [line["path"] for line in logged(capsys)] == ["/unready"]


# ---- the description -----------------------------------------------------------------------------------


def operations() -> list[tuple[str, str]]:
    app = FastAPI()
    for room in (api, pictures, health):
        app.include_router(room.router)
    return [(path, method) for path, methods in app.openapi()["paths"].items() for method in methods]


def test_every_operation_is_described(site: SiteParts) -> None:
    client, _, _ = site
    description = client.get("/api/v1/openapi.json").json()
    for path, method in operations():
        operation = description["paths"][path][method]
        assert operation["description"], path
        assert operation["tags"], path
        if path.startswith("/api/"):
            assert operation["responses"]["422"]["content"]["application/json"]["schema"] == {
                "$ref": "#/components/schemas/Problem"
            }
            answered = {code: reply for code, reply in operation["responses"].items() if code in ("200", "201")}
            assert all("$ref" in reply["content"]["application/json"]["schema"] for reply in answered.values()), path
            assert answered or "204" in operation["responses"]
    models = description["components"]["schemas"]
    assert models["NewClassification"]["properties"]["annotations"]["examples"]
    assert all(model.get("description") for name, model in models.items() if not name.endswith("ValidationError"))


@pytest.mark.parametrize(("path", "method"), operations())
def test_nothing_breaks_whatever_is_sent(either_site: SiteParts, path: str, method: str) -> None:
    client, app, store = either_site
    handed = take_one(client)
    operation = schemathesis.openapi.from_asgi("/api/v1/openapi.json", app)[path][method]

    @given(case=operation.as_strategy(), real=st.sets(st.sampled_from(["ticket", "annotations"])))
    @settings(max_examples=25, suppress_health_check=list(HealthCheck))
    def attack(case: schemathesis.Case, real: set[str]) -> None:
        if isinstance(case.body, dict) and "ticket" in case.body:  # so that some come as far as the database
            case.body |= {name: body(handed)[name] for name in real if name in case.body}
        app.state.limits = type(app.state.limits)(10**6)
        # That a ticket must be signed cannot be said in a schema.
        case.call_and_validate(excluded_checks=[positive_data_acceptance])

    attack()
    assert store.classifications.recount() == 0
