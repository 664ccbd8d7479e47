"""The client, against a real server on a real port, and against connections that break."""

from __future__ import annotations

import base64
import json
import random
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_hands import PASSWORD, make_site
from greenpea.classifications import check
from greenpea.client import Client, Refused, walk
from greenpea.errors import GreenpeaError
from greenpea.store import Counted, NewSubject, Role, Store
from hands import galaxy_tree
from site_hands import serving

# A PNG of one grey pixel.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Store]]:
    """The address of a running site, and its store."""
    (tmp_path / "a.png").write_bytes(base64.b64decode(PIXEL))
    app, store = make_site(tmp_path, [NewSubject(f"s{i}", ("a.png",)) for i in range(9)])
    with serving(app) as url:
        yield url, store
    store.close()


def first_answer(question: object) -> str:
    return question.answer_slugs[0]  # type: ignore[attr-defined,no-any-return]


def test_a_volunteer_classifies_everything(served: tuple[str, Store]) -> None:
    url, store = served
    with Client.anonymous(url) as client:
        tree = client.workflow()
        assert tree == galaxy_tree()
        assert client.workflow("1.0") == tree
        seen: list[str] = []
        while handed := client.next(7):
            for one in handed:
                receipt = client.classify(one, walk(tree, first_answer), metadata={"n": len(seen)})
                assert (receipt.counted, receipt.again, receipt.feedback) == ("counted", False, None)
                seen.append(one.subject_id)
        assert len(seen) == len(set(seen)) == store.subjects.count()
        assert client.next() == []
        assert store.classifications.recount() == 0


def test_what_is_sent_again_counts_once_and_can_be_taken_back(served: tuple[str, Store]) -> None:
    url, store = served
    with Client.anonymous(url) as client:
        (one,) = client.next()
        started = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        annotations = walk(client.workflow(), first_answer)
        uuid = "6f1f3c0e-0b1c-4b0e-9d53-1f0a3f7f3b11"
        first = client.classify(one, annotations, uuid=uuid, started_at=started, finished_at=started)
        again = client.classify(one, annotations, uuid=uuid)
        assert (first.again, again.again, again.counted) == (False, True, "counted")
        stored = store.classifications.get(uuid)
        assert stored is not None
        assert stored.started_at == started

        with Client.anonymous(url) as other, pytest.raises(Refused, match="no classification of yours") as refusal:
            other.undo(uuid)
        assert refusal.value.status == 404
        assert client.undo(uuid, one).counted == "undone"
        assert client.classify(one, annotations, uuid=uuid).counted == "undone"
        client.flag(one, "green!", uuid=uuid)
        client.flag(one, "green!", uuid=uuid)
        finds, _ = store.finds.all()
        assert [find.comment for find in finds] == ["green!"]


def test_holding_and_pictures(served: tuple[str, Store]) -> None:
    url, _ = served
    with Client.anonymous(url) as client:
        first, second = client.next(2)
        assert client.image(first.images[0]).startswith(b"\x89PNG")
        with pytest.raises(Refused, match="no picture"):
            client.image(first.images[0] + "9")
        lost_second = [one.subject_id for one in client.next(1, holding=[first])]
        assert lost_second == [second.subject_id]


def test_signing_in(served: tuple[str, Store]) -> None:
    url, store = served
    store.people.sign_up("Caroline", PASSWORD, datetime.now(UTC), role=Role.VOLUNTEER)
    client = Client(url)
    with pytest.raises(Refused, match="name or password is wrong"):
        client.sign_in("Caroline", "wrong")
    client.sign_in("caroline", PASSWORD)
    (one,) = client.next()
    receipt = client.classify(one, {"smooth": ["artifact"]})
    stored = store.classifications.get(receipt.uuid)
    assert stored is not None
    assert (stored.volunteer.name, stored.counted) == ("Caroline", Counted.YES)
    token = client.token
    client.sign_out()
    with Client(url, token) as ended, pytest.raises(Refused) as refusal:
        ended.next()
    assert refusal.value.status == 401
    client.close()


def test_refusals_say_why(served: tuple[str, Store]) -> None:
    url, _ = served
    with Client.anonymous(url) as client:
        (one,) = client.next()
        with pytest.raises(Refused, match="did you mean 'artifact'"):
            client.classify(one, {"smooth": ["artefact"]})
        with pytest.raises(Refused, match="at most 8000"):
            client.classify(one, {"smooth": ["artifact"]}, metadata={"much": "x" * 9000})
        with pytest.raises(Refused, match="no version '9"):
            client.workflow("9.9")


def test_the_documents_example_runs(served: tuple[str, Store], capsys: pytest.CaptureFixture[str]) -> None:
    url, store = served
    page = (Path(__file__).parent.parent / "docs" / "api.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    exec(compile(example.replace("http://localhost:8000", url), "docs/api.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == store.subjects.count()
    assert store.classifications.recount() == 0


# ---- connections that break ----------------------------------------------------------------------------


HANDED = {"ticket": "t", "subject_id": "s", "images": [], "version": "1.0", "expires_at": "2026-01-01T00:00:00+00:00"}
RECEIPT = {"uuid": "u", "counted": "counted", "again": True, "after_retirement": False, "retired": None}


def broken(*replies: Exception | httpx.Response) -> tuple[Client, list[httpx.Request], list[float]]:
    """A client whose server replies so, in this order; what it was sent, and how long the client waited."""
    requests: list[httpx.Request] = []
    waits: list[float] = []
    left = list(replies)

    def reply(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        given = left.pop(0)
        if isinstance(given, Exception):
            raise given
        return given

    http = httpx.Client(transport=httpx.MockTransport(reply))
    return Client("http://site", "token", tries=4, http=http, sleep=waits.append, rng=random.Random(0)), requests, waits


def answer(status: int, body: object = None, **headers: str) -> httpx.Response:
    return httpx.Response(status, json=body, headers={name.replace("_", "-"): text for name, text in headers.items()})


def test_every_try_carries_the_same_uuid() -> None:
    client, requests, waits = broken(
        httpx.ConnectError("no"), httpx.ReadTimeout("no"), answer(503), answer(200, RECEIPT | {"feedback": None})
    )
    handed = client_handed()
    assert client.classify(handed, {"q": ["a"]}).again
    bodies = [json.loads(request.content) for request in requests]
    assert len({body["uuid"] for body in bodies}) == 1
    assert all(request.headers["authorization"] == "Bearer token" for request in requests)
    for number, wait in enumerate(waits):
        assert 0.125 * 2**number <= wait <= 0.25 * 2**number


def client_handed() -> object:
    client, _, _ = broken(answer(200, {"subjects": [HANDED]}))
    return client.next()[0]


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [
        ("7", 7, 7),
        ("100000", 60, 60),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 60, 60),
        ("Mon, 01 Jan 2001 00:00:00 GMT", 0.125, 0.25),
        ("soon", 0.125, 0.25),
        ("-5", 0.125, 0.25),
    ],
)
def test_what_a_server_asks_for_is_waited(asked: str, least: float, most: float) -> None:
    client, _, waits = broken(answer(429, {"detail": "slow"}, retry_after=asked), answer(200, {"subjects": []}))
    assert client.next() == []
    assert least <= waits[0] <= most


def test_it_gives_up_and_says_so() -> None:
    client, requests, _ = broken(*[httpx.ConnectError("refused")] * 4)
    with pytest.raises(GreenpeaError, match=r"http://site cannot be reached: refused \(tried 4 times\)"):
        client.next()
    assert len(requests) == 4
    client, _, _ = broken(*[httpx.Response(502, text="<h1>bad gateway</h1>")] * 4)
    with pytest.raises(GreenpeaError, match="502 Bad Gateway"):
        client.next()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_a_refusal_is_not_tried_again(status: int) -> None:
    client, requests, _ = broken(answer(status, {"detail": "because"}))
    with pytest.raises(Refused, match="because") as refusal:
        client.next()
    assert (refusal.value.status, len(requests)) == (status, 1)


def test_an_address_that_is_none() -> None:
    with Client("example.org", tries=2) as client, pytest.raises(GreenpeaError, match="no address of a site"):
        client.next()


# ---- walking -------------------------------------------------------------------------------------------


@given(st.data())
def test_a_walk_is_always_a_whole_classification(data: st.DataObject) -> None:
    tree = galaxy_tree()

    def choose(question: object) -> str | list[str]:
        slugs = question.answer_slugs  # type: ignore[attr-defined]
        if question.kind == "multiple":  # type: ignore[attr-defined]
            return data.draw(st.lists(st.sampled_from(slugs), unique=True))
        return data.draw(st.sampled_from(slugs))

    check(tree, walk(tree, choose))


@pytest.mark.parametrize(
    ("choose", "problem"),
    [
        (lambda question: "x", "no answer 'x'"),
        (lambda question: ["yes", "no"], "exactly one answer, not 2"),
        (lambda question: [], "exactly one answer, not 0"),
    ],
)
def test_a_walk_goes_nowhere_without_an_answer(choose: Callable[[object], object], problem: str) -> None:
    with pytest.raises(GreenpeaError, match=problem):
        walk(galaxy_tree(), choose)  # type: ignore[arg-type]
