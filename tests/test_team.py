"""The team's pages: who may see and do what, what they show, and that nothing is published or lost by mistake."""

from __future__ import annotations

import csv
import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient
from typer.main import get_command

from greenpea.cli import app
from greenpea.errors import GreenpeaError
from greenpea.retirement import Consensus, Count, Early, Never
from greenpea.site import charts, identity
from greenpea.site.team import progress, uploads, words
from greenpea.site.team.common import placed
from greenpea.site.team.forecast import forecast, last_days
from greenpea.site.team.outline import Way, changes, outline, votes
from greenpea.site.team.volunteers import may_act_on
from greenpea.store import Counted, NewSubject, Role, SentClassification, Store, Volunteer
from greenpea.tree import DecisionTree, shipped
from greenpea.workflow import Workflow
from hands import galaxy_tree
from site_hands import NOW, make_site, workflow

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
SPIRAL = {
    "smooth-or-featured": ["featured-or-disk"], "disk-edge-on": ["no"], "bar": ["weak"], "has-spiral-arms": ["no"],
    "bulge-size": ["small"], "merging": ["none"], "rare-features": ["ring", "dust-lane"],
}  # fmt: skip
ARTIFACT = {"smooth-or-featured": ["artifact"]}
NOWHERE = str(uuid.UUID(int=0))


# ---- a team and its site -----------------------------------------------------------------------------


NAMES = {Role.VOLUNTEER: "Zoe", Role.MODERATOR: "Mo", Role.SCIENTIST: "Sue", Role.OWNER: "Olga"}


class People(dict[Role, Volunteer]):
    """One person per role, signed up when first asked for: passwords take time, as they should."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __missing__(self, role: Role) -> Volunteer:
        self[role] = self.store.people.sign_up(NAMES[role], "correct horse battery", NOW, role=role)
        return self[role]


@dataclass
class Hands:
    """A site, its store, its clock, and a browser per role."""

    app: FastAPI
    store: Store
    now: list[datetime]
    people: People

    def browser(self, role: Role | None) -> Browser:
        client = TestClient(self.app, base_url="http://testserver", follow_redirects=False)
        if role is not None:
            token = self.store.people.open_session(self.people[role].id, self.now[0])
            client.cookies.set(identity.SESSION, identity.sign(self.app.state.site, identity.SESSION, token))
        return Browser(client)

    def classify(
        self,
        volunteer: Volunteer,
        subject_id: str,
        annotations: Mapping[str, Sequence[str]] = SPIRAL,
        ago: object = None,
    ) -> str:
        subject = self.store.subjects.get(subject_id)
        assert subject is not None
        now = self.now[0] - (ago if isinstance(ago, timedelta) else timedelta())
        one = SentClassification(
            str(uuid.uuid4()), volunteer.id, subject.id, self.store.workflows.active().id, annotations,
            started_at=now - timedelta(seconds=14), finished_at=now,
        )  # fmt: skip
        assert self.store.classifications.submit([one], now)[0].counted is not None
        return one.uuid

    def anybody(self, count: int) -> list[Volunteer]:
        return [self.store.people.anonymous(self.now[0]) for _ in range(count)]


@dataclass
class Browser:
    """A client that reads a page before it sends a form, as people do."""

    client: TestClient

    def get(self, path: str, status: int = 200) -> str:
        reply = self.client.get(path)
        assert reply.status_code == status, reply.text[:2000]
        return reply.text

    def post(self, path: str, status: int = 303, form: str = "/team/volunteers", **fields: str) -> str:
        token = _csrf(self.get(form))
        reply = self.client.post(path, data={"csrf": token, **fields})
        assert reply.status_code == status, reply.text[:2000]
        return reply.headers.get("location", "") if status == 303 else reply.text

    def upload(self, content: bytes, name: str = "workflow.json", status: int = 200) -> str:
        token = _csrf(self.get("/team/workflow"))
        files = {"file": (name, content, "application/json")}
        reply = self.client.post("/team/workflow/preview", data={"csrf": token}, files=files)
        assert reply.status_code == status, reply.text[:2000]
        return reply.text


def _csrf(page: str) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found
    return found[1]


def hands_on(tmp_path: Path, subjects: int = 12, chosen: Workflow | None = None, **more: object) -> Hands:
    now = [NOW]
    app, store = make_site(tmp_path, subjects, chosen, clock=lambda: now[0], **more)
    return Hands(app, store, now, People(store))


@pytest.fixture
def hands(tmp_path: Path) -> Iterator[Hands]:
    made = hands_on(tmp_path)
    yield made
    made.store.close()


# ---- who may ------------------------------------------------------------------------------------------

READ = {
    "/team": Role.MODERATOR, "/team/numbers": Role.SCIENTIST, "/team/subjects": Role.SCIENTIST,
    "/team/subjects/s00": Role.SCIENTIST, "/team/volunteers": Role.MODERATOR,
    "/team/volunteers/{zoe}": Role.MODERATOR, "/team/volunteers/{zoe}/ban": Role.MODERATOR,
    "/team/finds": Role.MODERATOR, "/team/workflow": Role.SCIENTIST, "/team/workflow/1.0.json": Role.SCIENTIST,
    "/team/imports": Role.SCIENTIST, "/team/exports": Role.SCIENTIST, "/team/health": Role.SCIENTIST,
}  # fmt: skip
WRITE = {
    "/team/volunteers/{zoe}/ban": Role.MODERATOR, "/team/volunteers/{zoe}/unban": Role.MODERATOR,
    "/team/volunteers/{zoe}/reset": Role.MODERATOR, "/team/volunteers/{zoe}/role": Role.OWNER,
    "/team/invitations": Role.OWNER, "/team/workflow/preview": Role.SCIENTIST,
    "/team/workflow/publish": Role.SCIENTIST, "/team/health/recount": Role.SCIENTIST,
    "/team/imports": Role.SCIENTIST, "/team/imports/folder": Role.SCIENTIST,
}  # fmt: skip
ROLES = [None, *Role]


def test_every_route_is_in_the_tables_above() -> None:
    from greenpea.site.team import finds, health, progress, subjects, transfers, volunteers, workflows

    found = {
        (method, route.path)
        for room in (finds, health, progress, subjects, transfers, volunteers, workflows)
        for route in room.router.routes
        for method in route.methods
    }

    def form(path: str) -> str:
        return path.format(zoe="{public}").replace("s00", "{subject_id:path}").replace("1.0", "{number}")

    found.remove(("GET", "/team/imports/{name}"))  # there is one after an import: in test_arrivals
    assert found == {("GET", form(path)) for path in READ} | {("POST", form(path)) for path in WRITE}


@pytest.mark.parametrize("role", ROLES)
def test_pages_are_shown_from_their_role_on(hands: Hands, role: Role | None) -> None:
    browser = hands.browser(role)
    for path, least in READ.items():
        path = path.format(zoe=hands.people[Role.VOLUNTEER].public)
        reply = browser.client.get(path)
        if role is not None and role.at_least(least):
            led_on = path == "/team" and role is Role.MODERATOR
            assert reply.status_code == (303 if led_on else 200), path
        elif role is None and path != "/team/numbers":
            assert reply.status_code == 303, path
            assert reply.headers["location"].startswith("/sign-in"), path
        else:
            assert reply.status_code == 403, path


@pytest.mark.parametrize("role", ROLES)
def test_actions_are_refused_below_their_role(hands: Hands, role: Role | None) -> None:
    browser = hands.browser(role)
    token = _csrf(browser.get("/about" if role is None else "/me"))
    for path, least in WRITE.items():
        if role is not None and role.at_least(least):
            continue
        reply = browser.client.post(
            path.format(zoe=hands.people[Role.VOLUNTEER].public),
            data={"csrf": token, "role": "owner", "recount": "yes"},
        )
        assert reply.status_code in ({303} if role is None else {403}), path
    zoe = hands.store.people.get(hands.people[Role.VOLUNTEER].id)
    assert zoe is not None
    assert (zoe.role, zoe.banned_at) == (Role.VOLUNTEER, None)


def test_actions_are_refused_without_the_forms_token(hands: Hands) -> None:
    client = hands.browser(Role.OWNER).client
    for path in WRITE:
        reply = client.post(path.format(zoe=hands.people[Role.VOLUNTEER].public), data={"role": "owner"})
        assert reply.status_code == 403, path
        assert "out of date" in reply.text, path


def test_a_banned_scientist_sees_nothing(hands: Hands) -> None:
    hands.store.people.ban(hands.people[Role.SCIENTIST].id, NOW, recount=False)
    browser = hands.browser(Role.SCIENTIST)
    for path in ("/team", "/team/numbers", "/team/subjects"):
        browser.get(path, 403)


def test_moderators_are_offered_their_two_sections_only(hands: Hands) -> None:
    page = hands.browser(Role.MODERATOR).get("/team/volunteers")
    links = re.search(r'<nav class="team-nav".*?</nav>', page, re.S)
    assert links
    assert re.findall(r'href="([^"]+)"', links[0]) == ["/team/volunteers", "/team/finds"]
    assert "Invite" not in page


def test_who_may_act_on_whom() -> None:
    people = {role: Volunteer(i, str(i), role.value, role) for i, role in enumerate(Role)}
    others = {role: Volunteer(10 + i, str(10 + i), role.value, role) for i, role in enumerate(Role)}
    for role, actor in people.items():
        assert not may_act_on(actor, actor)
        for other, someone in others.items():
            above = list(Role).index(role) > list(Role).index(other)
            assert may_act_on(actor, someone) == (above or role is Role.OWNER)


def test_a_moderator_cannot_take_over_those_above(hands: Hands) -> None:
    browser = hands.browser(Role.MODERATOR)
    owner = hands.people[Role.OWNER]
    for action in ("ban", "unban", "reset"):
        browser.post(f"/team/volunteers/{owner.public}/{action}", 403)
    browser.get(f"/team/volunteers/{owner.public}/ban", 403)
    kept = hands.store.people.get(owner.id)
    assert kept is not None
    assert kept.banned_at is None


# ---- every page ---------------------------------------------------------------------------------------


def _pages(hands: Hands) -> Iterator[tuple[str, str]]:
    browser = hands.browser(Role.OWNER)
    zoe = hands.people[Role.VOLUNTEER].public
    for path in READ:
        if not path.endswith(".json"):
            yield path, browser.get(path.format(zoe=zoe))
    for by in ("hour", "day", "week", "century"):
        yield by, browser.get(f"/team?by={by}")
    yield "preview", browser.upload(workflow(tree="gz2").to_json().encode())
    yield "faults", browser.upload(b"{", status=422)
    yield "recount", browser.post("/team/health/recount", 200)
    yield "link", browser.post("/team/invitations", 200, role="moderator")


def _fill(hands: Hands) -> None:
    zoe, sue = hands.people[Role.VOLUNTEER], hands.people[Role.SCIENTIST]
    for i, one in enumerate([zoe, sue, *hands.anybody(6)]):
        for j in range(4):
            hands.classify(one, f"s{j:02d}", ARTIFACT if (i + j) % 3 == 0 else SPIRAL, (i + 1) * HOUR)
    subject = hands.store.subjects.get("s01")
    assert subject is not None
    find = hands.store.finds.flag(str(uuid.uuid4()), zoe.id, subject.id, '<b>odd & "blue"</b>', NOW)
    hands.store.finds.hide(find.id, True)
    hands.store.finds.flag(str(uuid.uuid4()), sue.id, subject.id, "an arc", NOW)


@pytest.mark.parametrize("filled", [False, True])
def test_pages_carry_no_inline_styles_scripts_or_handlers(tmp_path: Path, database: str, filled: bool) -> None:
    hands = hands_on(tmp_path, database=database)
    if filled:
        _fill(hands)
    for name, page in _pages(hands):
        assert not re.search(r"<[^>]+\s(style|on[a-z]+)\s*=", page), name
        assert "<style" not in page, name
        assert all(re.search(r"\ssrc=", tag) for tag in re.findall(r"<script[^>]*>", page)), name
        assert "hx-on" not in page, name
        assert "js:" not in page, name
        assert not re.search(r'hx-trigger="[^"]*\[', page), name  # would need eval
        assert "<b>odd" not in page, name
        if "htmx.min.js" in page:
            config = re.search(r"name=\"htmx-config\" content='([^']+)'", page)
            assert config, name
            assert json.loads(config[1]).items() >= {"includeIndicatorStyles": False, "allowEval": False}.items()
    hands.store.close()


def test_a_site_without_anything_says_so(tmp_path: Path) -> None:
    hands = hands_on(tmp_path)
    browser = hands.browser(Role.OWNER)
    page = browser.get("/team")
    assert "no classifications in this time" in page
    assert "Too little to tell" in page
    assert "Nothing has been classified yet" in page
    assert "Nobody has found anything" in browser.get("/team/finds")
    assert "No subject is like that" in browser.get("/team/subjects?search=nowhere")
    assert "Nobody has a name like that" in browser.get("/team/volunteers?search=nobody-at-all")
    assert "None yet." in browser.get("/team/subjects/s00")
    assert "No classification." in browser.get(f"/team/volunteers/{hands.people[Role.VOLUNTEER].public}")
    browser.get("/team/subjects/no-such-subject", 404)
    browser.get(f"/team/volunteers/{NOWHERE}", 404)
    browser.get("/team/workflow?version=9.9", 404)
    browser.get("/team/workflow/9.9.json", 404)
    hands.store.close()


# ---- progress -----------------------------------------------------------------------------------------


def test_the_numbers_are_those_of_the_store(tmp_path: Path, database: str) -> None:
    hands = hands_on(tmp_path, chosen=workflow(3), database=database)
    people = hands.anybody(4)
    for one in people[:3]:
        hands.classify(one, "s00", ago=2 * HOUR)
        hands.classify(one, "s01", ago=2 * HOUR)
    hands.classify(people[3], "s00")  # after retirement
    hands.classify(people[0], "s00")  # a second one
    undone = hands.classify(people[3], "s02")
    hands.store.classifications.undo(undone, people[3].id, NOW)
    page = hands.browser(Role.SCIENTIST).get("/team/numbers")
    facts = dict(re.findall(r"<dt>(?:<[^>]+></[^>]+>)?(?:<a[^>]*>)?([^<]+)(?:</a>)?</dt><dd>([^<]+)</dd>", page))
    big = re.findall(r'<p class="big">([\d,]+)', page)
    assert big == ["2", "7", "4", "2"]  # retired, counted, volunteers, last hour (one was taken back)
    assert facts["classified often enough"] == "2"
    assert facts["open"] == "10"
    assert facts["received in all, at version 1"] == "9"
    assert facts["not counted"] == "2"
    assert facts["a second by the same volunteer"] == "1"
    assert facts["undone by the volunteer"] == "1"
    assert facts["counted, but after retirement"] == "1"
    assert facts["in the last day"] == "8"
    hands.store.close()


@pytest.mark.parametrize("by", ["hour", "day", "week"])
def test_counts_over_time_put_everything_in_its_interval(hands: Hands, by: str) -> None:
    span = progress.RANGES[by]
    starts = span.starts(NOW)
    assert starts[-1] <= NOW < starts[-1] + span.step
    assert len(starts) == span.bins
    one = hands.anybody(1)[0]
    for i, bins_ago in enumerate((0, 1, 1 if by == "hour" else 2, 5)):
        hands.classify(one, f"s{i:02d}", ago=bins_ago * span.step)
    counts = progress.counted_in(hands.app.state.site, span, NOW)
    assert [start for start, _, _ in counts] == starts
    expected = np.zeros(span.bins, int)
    for bins_ago in (0, 1, 1 if by == "hour" else 2, 5):
        expected[(NOW - bins_ago * span.step - starts[0]) // span.step] += 1
    assert [n for _, n, _ in counts] == expected.tolist()


def test_retired_in_all_ends_at_what_is_retired_now(tmp_path: Path) -> None:
    hands = hands_on(tmp_path, chosen=workflow(1))
    one = hands.anybody(1)[0]
    for i, days in enumerate((60, 3, 3, 0)):
        hands.classify(one, f"s{i:02d}", ago=days * DAY)
    span = progress.RANGES["day"]
    counts = progress.counted_in(hands.app.state.site, span, NOW)
    drawn = progress.drawn(counts, hands.store.statistics.overview(NOW), span)[1]
    told = ElementTree.fromstring(drawn).find("desc")
    assert told is not None
    assert told.text == "From 1 to 4 subjects retired of 12."
    hands.store.close()


# ---- the forecast -------------------------------------------------------------------------------------


def test_a_steady_rate_is_told_exactly() -> None:
    told = forecast([50] * 10, 600, np.random.default_rng(0))
    assert told is not None
    assert (told.low, told.high, told.rate, told.words) == (12, 12, 50, "about 12 days")


@pytest.mark.parametrize("outstanding", [600, 6000, 60000])
@pytest.mark.parametrize("days", [4, 7, 14])
def test_nine_futures_in_ten_are_within_the_interval(days: int, outstanding: int) -> None:
    rng = np.random.default_rng(5)
    rate, shape, held, trials = 300, 10, 0, 300

    def some(n: int) -> np.ndarray:
        return rng.negative_binomial(shape, shape / (shape + rate), n)

    for _ in range(trials):
        told = forecast([int(n) for n in some(days)], outstanding, rng)
        assert told is not None
        future = np.concatenate([[0], np.cumsum(some(3 * outstanding // rate + 20))])
        end = np.interp(outstanding, future, np.arange(len(future)))
        held += told.low <= end <= told.high
    # Three standard errors of a binomial share around 0.9, and the interval may be a little wide.
    assert 0.9 - 3 * np.sqrt(0.09 / trials) < held / trials < 0.97


@pytest.mark.parametrize("counts", [[], [40, 50, 60], [0] * 14])
def test_too_little_is_not_told(counts: list[int]) -> None:
    assert forecast(counts, 100, np.random.default_rng(0)) is None


def test_a_rate_that_may_be_none_has_no_end() -> None:
    told = forecast([0, 0, 0, 0, 0, 0, 0, 1], 100, np.random.default_rng(0))
    assert told is not None
    assert told.high == np.inf
    assert told.words.startswith("at least ")


def test_last_days_are_whole_and_begin_with_the_campaign() -> None:
    now = NOW + timedelta(minutes=20)
    hours = [(NOW - i * HOUR, 1) for i in range(-0, 100)]  # the first is the hour not yet over
    assert last_days(hours, now, NOW - 3 * DAY) == [24, 24, 24]
    assert last_days(hours, now, NOW - 4 * DAY) == [24, 24, 24, 24]
    assert last_days([(NOW - 25 * HOUR, 7)], now, NOW - 100 * DAY) == [0] * 12 + [7, 0]
    assert last_days(hours, now, NOW) == []


def test_the_page_forecasts_a_planted_rate(tmp_path: Path) -> None:
    hands = hands_on(tmp_path, subjects=30, chosen=workflow(10))
    people = hands.anybody(6)
    hands.now[0] = NOW + 6 * DAY
    for day in range(6):  # 30 a day: 180 of 300
        for i in range(30):
            hands.classify(people[day], f"s{i:02d}", ARTIFACT, ago=(6 - day) * DAY - 2 * HOUR)
    page = hands.browser(Role.SCIENTIST).get("/team")
    assert "about 4 days" in page
    assert "120 more classifications, at 30 a day over the last 6 days" in page
    hands.store.close()


def test_there_is_no_end_without_a_full_count(tmp_path: Path) -> None:
    never = Workflow(tree=workflow().tree, retirement=(Never(rule="never"),))
    hands = hands_on(tmp_path, chosen=never)
    assert "there is no end to tell" in hands.browser(Role.SCIENTIST).get("/team")
    hands.store.close()


# ---- charts -------------------------------------------------------------------------------------------


def _starts(n: int, step: timedelta = HOUR) -> list[datetime]:
    return [NOW + i * step for i in range(n)]


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=60).filter(any))
def test_bars_stand_where_their_values_are(values: list[int]) -> None:
    drawn = ElementTree.fromstring(charts.bars("a", "Title", _starts(len(values)), values, HOUR, "things"))
    rectangles = drawn.findall("rect")
    assert len(rectangles) == len(values)
    marks = {
        int(_number(text.text or "")): float(text.get("y", "")) - 3.5
        for text in drawn.findall("text") if "up" in text.get("class", "")
    }  # fmt: skip
    top, zero = max(marks), marks[0]
    assert top >= max(values)
    for rectangle, value in zip(rectangles, values, strict=True):
        if value:
            y, height = float(rectangle.get("y", "")), float(rectangle.get("height", ""))
            assert y == pytest.approx(zero - value / top * (zero - marks[top]), abs=0.02)
            assert y + height == pytest.approx(zero, abs=0.02)
    lefts = [float(one.get("x", "")) for one in rectangles]
    assert lefts == sorted(lefts)
    assert lefts[-1] + float(rectangles[-1].get("width", "")) <= charts.WIDTH


def _number(text: str) -> float:
    sizes = {"k": 1e3, "M": 1e6}
    return float(text.rstrip("kM").replace(",", "")) * sizes.get(text[-1], 1)


@given(st.integers(1, 400), st.sampled_from([HOUR, DAY, 7 * DAY]), st.integers(0, 10**6), st.integers(0, 23))
def test_labels_never_touch(n: int, step: timedelta, top: int, hour: int) -> None:
    starts = [one + hour * HOUR for one in _starts(n, step)] if step == HOUR else _starts(n, step)
    values = [0] * (n - 1) + [top + 1]
    for draw in (charts.bars, charts.line):
        drawn = ElementTree.fromstring(draw("a", "Title", starts, values, step, "things"))
        labels = [text for text in drawn.findall("text") if "along" in text.get("class", "")]
        assert labels or n <= 24
        ends = [
            (float(one.get("x", "")) - w / 2, float(one.get("x", "")) + w / 2)
            for one in labels
            for w in [charts.LETTER * len(one.text or "")]
        ]
        assert all(one[1] < other[0] for one, other in pairwise(ends))
        assert all(left >= 0 and right <= charts.WIDTH for left, right in ends)
        heights = sorted(float(text.get("y", "")) for text in drawn.findall("text") if "up" in text.get("class", ""))
        assert all(other - one > 11 for one, other in pairwise(heights))


def test_a_line_goes_through_its_values() -> None:
    drawn = ElementTree.fromstring(charts.line("a", "T", _starts(4), [0, 5, 5, 10], HOUR, "things", top=10))
    way = next(one for one in drawn.findall("path") if one.get("class") == "line").get("d", "")
    points = [tuple(map(float, point.split())) for point in way.lstrip("M").split("L")]
    frame = charts.Frame(4, charts.ticks(10))
    expected = [(0, 0), (1, 0), (2, 5), (3, 5), (4, 10)]
    assert points == [(pytest.approx(frame.x(i), abs=0.01), pytest.approx(frame.y(v), abs=0.01)) for i, v in expected]
    goal = next(one for one in drawn.findall("line") if one.get("class") == "goal")
    assert float(goal.get("y1", "")) == pytest.approx(frame.y(10), abs=0.01)


@given(st.integers(0, 10**12))
def test_ticks_are_round_and_reach_the_top(top: int) -> None:
    marks = charts.ticks(top)
    step = marks[1]
    assert marks == [i * step for i in range(len(marks))]
    assert marks[-2] < max(top, 1) <= marks[-1]
    assert len(marks) <= 6
    assert re.fullmatch("[125]0*", str(step))


@pytest.mark.parametrize("draw", [charts.bars, charts.line])
@pytest.mark.parametrize("values", [[], [0, 0, 0]])
def test_an_empty_chart_says_so(draw: object, values: list[int]) -> None:
    drawn = draw("a", "Title", _starts(len(values)), values, HOUR, "votes")  # type: ignore[operator]
    tree = ElementTree.fromstring(drawn)
    assert [text.text for text in tree.findall("text")] in (["no votes in this time"], ["no votes yet"])
    assert not tree.findall("rect")


def test_charts_are_told_to_those_who_hear_them_and_escape_text() -> None:
    drawn = charts.bars("a", "<T>", _starts(2), [1, 3], HOUR, "a & b")
    tree = ElementTree.fromstring(drawn)
    assert tree.get("role") == "img"
    named = {one.get("id"): one.text for one in tree if one.get("id")}
    assert (tree.get("aria-labelledby") or "").split() == list(named)
    assert list(named.values()) == ["<T>", "4 a & b in all; most, 3, 1 Mar 2026, 13:00 to 14:00 UTC."]
    assert "style=" not in drawn


def test_stacks_and_shares_are_as_long_as_their_parts() -> None:
    rectangles = ElementTree.fromstring(charts.stack([("one", 25), ("two", 50)], 200)).findall("rect")
    assert [(one.get("x"), one.get("width")) for one in rectangles] == [("0%", "12.5%"), ("12.5%", "25%")]
    assert ElementTree.fromstring(charts.share(0.375))[0].get("width") == "37.5%"
    assert ElementTree.fromstring(charts.stack([("one", 0)], 0))[0].get("width") == "0%"


# ---- subjects -----------------------------------------------------------------------------------------


def _walk(browser: Browser, path: str) -> list[str]:
    found: list[str] = []
    while path:
        page = browser.get(path)
        found += re.findall(r'class="tile-name code">([^<]+)<', page)
        following = re.search(r'<a class="button" rel="next" href="([^"]+)"', page)
        path = following[1].replace("&amp;", "&") if following else ""
    return found


@pytest.mark.parametrize("order", ["subject_id", "classifications", "newest"])
def test_paging_shows_every_subject_once(tmp_path: Path, database: str, order: str) -> None:
    hands = hands_on(tmp_path, database=database)
    hands.store.subjects.add((NewSubject(f"more/{i % 7}/{i}", ("",)) for i in range(140)), NOW)
    for one in hands.anybody(3):
        for i in range(0, 12, 2):
            hands.classify(one, f"s{i:02d}")
    found = _walk(hands.browser(Role.SCIENTIST), f"/team/subjects?order={order}")
    assert len(found) == 152
    assert len(set(found)) == 152
    if order == "subject_id":
        assert found == sorted(found)
    if order == "classifications":
        assert set(found[:6]) == {f"s{i:02d}" for i in range(0, 12, 2)}
    hands.store.close()


def test_filters_show_what_they_name(tmp_path: Path, database: str) -> None:
    gold = "id_str,smooth-or-featured\ns05,artifact\ns06,smooth\n"
    hands = hands_on(tmp_path, chosen=workflow(2), gold=gold, database=database)
    hands.store.subjects.add([NewSubject(f"audit{i}", ("",)) for i in range(5)], NOW, audit_share=1.0)
    one, other = hands.anybody(2)
    for i in range(3):
        hands.classify(one, f"s{i:02d}")
    hands.classify(other, "s00")
    browser = hands.browser(Role.SCIENTIST)

    def shown(query: str) -> set[str]:
        return set(_walk(browser, f"/team/subjects?{query}"))

    every = shown("")
    assert shown("state=retired") == {"s00"} == shown("reason=count") == shown("order=retired")
    assert shown("state=open") == every - {"s00"}
    assert shown("gold=yes") == {"s05", "s06"}
    assert shown("gold=no") == every - {"s05", "s06"}
    assert shown("audit=yes") == {f"audit{i}" for i in range(5)}
    assert shown("least=1") == {"s00", "s01", "s02"}
    assert shown("least=2&search=S0") == {"s00"}
    assert shown("search=s0&state=open&gold=no") == {f"s{i:02d}" for i in range(1, 10) if i not in (5, 6)}
    assert shown("search=%25") == set()  # taken as it is, not as a pattern
    assert shown("state=nonsense&audit=7&least=-3&order=drop+table") == every
    hands.store.close()


def test_places_in_lists_that_were_tampered_with_are_the_beginning(hands: Hands) -> None:
    site = hands.app.state.site
    for text in ("", "nonsense", "WzFd.x", "a" * 5000, "é"):
        assert placed(site, "subjects newest", text) is None
    hands.store.subjects.add((NewSubject(f"m{i:03d}", ("",)) for i in range(80)), NOW)
    browser = hands.browser(Role.SCIENTIST)
    following = re.search(r"after=([^\"&]+)", browser.get("/team/subjects?order=subject_id"))
    assert following
    first = re.findall(r'tile-name code">([^<]+)<', browser.get("/team/subjects?order=newest"))
    other = browser.get(f"/team/subjects?order=newest&after={following[1]}")
    assert re.findall(r'tile-name code">([^<]+)<', other) == first  # a place in one order is none in another


def test_a_subjects_page_shows_votes_classifications_and_why_not(hands: Hands) -> None:
    zoe, sue = hands.people[Role.VOLUNTEER], hands.people[Role.SCIENTIST]
    hands.classify(zoe, "s03", SPIRAL | {"rare-features": ["ring"]})
    hands.classify(sue, "s03", SPIRAL)
    hands.classify(zoe, "s03", ARTIFACT)
    page = hands.browser(Role.SCIENTIST).get("/team/subjects/s03")
    rows = re.findall(r'<th scope="row">([^<]+)</th>.*?<td class="number quiet">(\d+) of (\d+)</td>', page, re.S)
    assert ("Ring", "2", "2") in rows
    assert ("Dust lane", "1", "2") in rows  # out of those who reached the question
    assert ("Featured or disk", "2", "2") in rows
    assert "each is out of those who reached the question" in page
    assert "2 of 40" in page
    assert page.count("14 s") == 3
    assert "not counted: a second by the same volunteer" in page
    assert 'src="/images/4/0"' in page
    assert page.count("asked for by the volunteer") == 3


def test_ids_with_slashes_and_signs_have_their_page(hands: Hands) -> None:
    names = ["a/b c", "100%", "x?y#z", "über", "<i>"]
    hands.store.subjects.add((NewSubject(name, ("",), {"note": "<u>"}) for name in names), NOW)
    browser = hands.browser(Role.SCIENTIST)
    listing = browser.get("/team/subjects?order=newest")
    for address in re.findall(r'<a href="(/team/subjects/[^"]+)">', listing)[:5]:
        page = browser.get(address)
        title = re.search(r'<h1 class="code-title">(.*?)</h1>', page)
        assert title
        assert title[1].replace("&lt;", "<").replace("&gt;", ">") in names
        assert "<u>" not in page


# ---- volunteers ---------------------------------------------------------------------------------------


def test_the_list_of_volunteers_pages_searches_and_orders(hands: Hands) -> None:
    people, zoe = hands.anybody(70), hands.people[Role.VOLUNTEER]
    for i, one in enumerate(people):
        for j in range(1 + i % 3):
            hands.classify(one, f"s{j:02d}", ARTIFACT)
    browser = hands.browser(Role.MODERATOR)
    path, found = "/team/volunteers", []
    while path:
        page = browser.get(path)
        found += re.findall(r'<td><a href="/team/volunteers/([^"]+)"', page)
        following = re.search(r'rel="next" href="([^"]+)"', page)
        path = following[1].replace("&amp;", "&") if following else ""
    assert len(found) == len(set(found)) == 72  # and the moderator, and Zoe
    assert zoe.public in found
    assert set(found[:23]) == {one.public for i, one in enumerate(people) if i % 3 == 2}
    assert re.findall(r"(Zoe|Mo|Sue|Olga)</a>", browser.get("/team/volunteers?search=zO")) == ["Zoe"]


def test_banning_through_the_page_uncounts_and_unbanning_counts_again(tmp_path: Path, database: str) -> None:
    hands = hands_on(tmp_path, chosen=workflow(2), database=database)
    zoe, other = hands.people[Role.VOLUNTEER], hands.anybody(1)[0]
    for subject in ("s00", "s01"):
        hands.classify(zoe, subject)
        hands.classify(other, subject)
    browser = hands.browser(Role.MODERATOR)
    place = f"/team/volunteers/{zoe.public}"

    def standing() -> tuple[int, str | None]:
        subject = hands.store.subjects.get("s00")
        assert subject is not None
        return subject.classifications, subject.reason

    assert "still counts" in browser.get(place + "/ban")
    assert standing() == (2, "count")
    leads = browser.post(place + "/ban", form=place + "/ban", recount="yes")
    assert "Banned. 2 classifications no longer count." in browser.get(leads)
    assert standing() == (1, None)
    assert {one.counted for one in hands.store.classifications.of_volunteer(zoe.id)} == {Counted.BANNED}
    assert "not counted: by a banned volunteer" in browser.get(place)
    leads = browser.post(place + "/unban", form=place)
    assert "2 classifications count again" in browser.get(leads)
    assert standing() == (2, "count")
    leads = browser.post(place + "/ban", form=place + "/ban", recount="no")
    assert "still counts" in browser.get(leads)
    assert standing() == (2, "count")
    assert hands.store.classifications.recount() == 0
    hands.store.close()


def test_a_reset_link_is_shown_once_and_works_once(hands: Hands) -> None:
    zoe = hands.people[Role.VOLUNTEER]
    page = hands.browser(Role.MODERATOR).post(f"/team/volunteers/{zoe.public}/reset", 200)
    token = re.search(r'value="http://testserver/reset/([^"]+)"', page)
    assert token
    assert token[1] not in hands.browser(Role.MODERATOR).get(f"/team/volunteers/{zoe.public}")
    used = hands.store.people.use_reset_token(token[1], "another long password", NOW)
    assert used is not None
    assert used.id == zoe.id
    assert hands.store.people.use_reset_token(token[1], "a third long password", NOW) is None
    nobody = hands.anybody(1)[0]
    hands.browser(Role.MODERATOR).post(f"/team/volunteers/{nobody.public}/reset", 404)


def test_the_owner_gives_roles_and_the_last_stays(hands: Hands) -> None:
    browser = hands.browser(Role.OWNER)
    zoe, olga = hands.people[Role.VOLUNTEER], hands.people[Role.OWNER]
    leads = browser.post(f"/team/volunteers/{zoe.public}/role", role="scientist")
    assert "The role is changed." in browser.get(leads)
    changed = hands.store.people.get(zoe.id)
    assert changed is not None
    assert changed.role is Role.SCIENTIST
    assert "owner" in browser.post(f"/team/volunteers/{olga.public}/role", 409, role="volunteer")
    assert "no role" in browser.post(f"/team/volunteers/{zoe.public}/role", 409, role="emperor")
    nobody = hands.anybody(1)[0]
    assert "invite them" in browser.post(f"/team/volunteers/{nobody.public}/role", 409, role="owner")
    kept = hands.store.people.get(olga.id)
    assert kept is not None
    assert kept.role is Role.OWNER


def test_invitations_carry_their_role(hands: Hands) -> None:
    page = hands.browser(Role.OWNER).post("/team/invitations", 200, role="moderator")
    token = re.search(r'value="http://testserver/join/([^"]+)"', page)
    assert token
    assert hands.store.people.use_invite(token[1], NOW) is Role.MODERATOR
    hands.browser(Role.OWNER).post("/team/invitations", 422, role="emperor")


def test_what_a_redirect_says_cannot_be_chosen(hands: Hands) -> None:
    browser = hands.browser(Role.MODERATOR)
    for query in ("did=<script>&n=1", "did=banned&n=<b>", "did=banned&n=" + "9" * 5000):
        page = browser.get(f"/team/volunteers?{query}")
        said = re.search(r'<div class="messages".*?</div>', page, re.S)
        assert said
        assert re.sub(r"<[^>]+>", "", said[0]).strip() in ("", "Banned. 0 classifications no longer count.")


# ---- the workflow -------------------------------------------------------------------------------------


def _tree(**changes: object) -> dict[str, object]:
    questions = [
        {"slug": "smooth", "answers": [{"slug": "yes"}, {"slug": "no", "next": "bar"}]},
        {"slug": "bar", "answers": [{"slug": "yes"}, {"slug": "no"}]},
    ]
    return {"name": "small", "questions": questions} | changes


def _circle() -> bytes:
    back = '[{"slug": "yes", "next": "smooth"}, {"slug": "no"}]'
    return json.dumps(_tree()).replace('[{"slug": "yes"}, {"slug": "no"}]', back).encode()


FAULTS = {
    "not JSON": (b'{"name": ', "is not JSON", "line 1, column 10"),
    "not an object": (b"[1]", "is a JSON object"),
    "a number": (b"7", "is a JSON object"),
    "empty": (b"  ", "is empty"),
    "not UTF-8": ('{"name":\n"é"}'.encode("latin-1"), "is not UTF-8 text (line 2)", "save it as UTF-8"),
    "too deep": (b"[" * 100_000, "nests too deeply"),
    "a huge number": (b'{"name": ' + b"9" * 5000 + b"}", "cannot be read"),
    "half a character": (json.dumps(_tree(title="\\ud800")).replace("\\\\", "\\").encode(), "cannot be read"),
    "a null character": (json.dumps(_tree(title="\0")).encode(), "which is no text"),
    "no questions": (json.dumps(_tree(questions=[])).encode(), "list at least one"),
    "nowhere": (
        json.dumps(_tree()).replace('"next": "bar"', '"next": "barr"').encode(),
        "leads to", "did you mean", "bar",
    ),
    "a circle": (
_circle(),
        "goes round in a circle",
    ),
    "lost": (json.dumps(_tree()).replace(', "next": "bar"', "").encode(), "no answer leads to"),
    "twice": (json.dumps(_tree()).replace('"slug": "bar"', '"slug": "smooth"').encode(), "more than once"),
    "bad slug": (json.dumps(_tree(name="Small Tree")).encode(), "is not a slug", "small-tree"),
    "unknown key": (json.dumps(_tree(retirment=[])).encode(), "unknown key", "retirment"),
    "unknown rule": (json.dumps(_tree(retirement=[{"rule": "soon"}])).encode(), "soon", "consensus"),
    "rule on nothing": (
        json.dumps(_tree(retirement=[{"rule": "consensus", "question": "baar"}])).encode(), "did you mean", "bar",
    ),
    "no limit at all": (json.dumps(_tree(retirement=[])).encode(), "retirement"),
    "two faults": (
        json.dumps(_tree()).replace('"yes"', '"Yes!"').encode(),
        "question &#39;smooth&#39;", "question &#39;bar&#39;",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_workflow_is_refused_with_its_place_and_nothing_is_stored(hands: Hands, fault: str) -> None:
    content, *said = FAULTS[fault]
    before = hands.store.workflows.all()
    page = hands.browser(Role.SCIENTIST).upload(content, "my workflow.json", 422)
    told = re.search(r'id="faults">(.*?)</section>', page, re.S)
    assert told
    assert "my workflow.json" in told[1]
    for words_said in said:
        assert words_said in told[1]
    assert hands.store.workflows.all() == before


def test_a_workflow_has_a_size(hands: Hands) -> None:
    browser = hands.browser(Role.SCIENTIST)
    large = json.dumps(_tree(title="x" * uploads.MOST_BYTES)).encode()
    assert "at most 2 MB" in browser.upload(large, status=422)
    fits = json.dumps(_tree(title="x" * (uploads.MOST_BYTES - 2000))).encode()
    page = browser.upload(fits)
    sealed = re.search(r'name="sealed" value="([^"]+)"', page)
    assert sealed
    assert len(sealed[1]) < 100_000  # what a preview carries is compressed: forms have limits of their own


def test_nothing_chosen_is_said(hands: Hands) -> None:
    page = hands.browser(Role.SCIENTIST).post("/team/workflow/preview", 422, form="/team/workflow", pasted="")
    assert "choose a file, or paste a workflow" in page


def test_faulty_text_stays_in_the_box(hands: Hands) -> None:
    page = hands.browser(Role.SCIENTIST).post("/team/workflow/preview", 422, form="/team/workflow", pasted='\n{"<a>": ')
    assert ">\n\n{&#34;&lt;a&gt;&#34;: </textarea>" in page


def _publish(browser: Browser, content: str) -> str:
    page = browser.post("/team/workflow/preview", 200, form="/team/workflow", pasted=content)
    sealed = re.search(r'name="sealed" value="([^"]+)"', page)
    assert sealed
    return browser.post("/team/workflow/publish", form="/team/workflow", sealed=sealed[1])


def test_raising_the_limit_keeps_votes_and_opens_subjects_again(tmp_path: Path, database: str) -> None:
    hands = hands_on(tmp_path, chosen=workflow(2), database=database)
    for one in hands.anybody(2):
        hands.classify(one, "s00")
        hands.classify(one, "s01")
    browser = hands.browser(Role.SCIENTIST)
    raised = workflow(3).to_json()
    preview = browser.post("/team/workflow/preview", 200, form="/team/workflow", pasted=raised)
    assert "It becomes version 1.1. <strong>Votes stay.</strong>" in preview
    assert "2 retired subjects would open again" in preview
    assert "The rules of retirement have changed." in preview
    assert [one.number for one in hands.store.workflows.all()] == ["1.0"]  # a preview changes nothing
    assert hands.store.statistics.overview(NOW).retired == 2
    assert browser.get(_publish(browser, raised)).count("version 1.1") >= 1
    active = hands.store.workflows.active()
    assert (active.number, active.author) == ("1.1", "Sue")
    assert hands.store.statistics.overview(NOW).retired == 0
    subject = hands.store.subjects.get("s00")
    assert subject is not None
    assert subject.classifications == 2
    hands.store.close()


def test_another_tree_starts_votes_anew(hands: Hands) -> None:
    hands.classify(hands.anybody(1)[0], "s00")
    browser = hands.browser(Role.SCIENTIST)
    other = Workflow(tree=galaxy_tree()).to_json()
    preview = browser.upload(other.encode())
    assert "It becomes version 2.0. <strong>Votes start anew.</strong>" in preview
    assert "The question &#39;smooth&#39; is new." in preview
    for question in galaxy_tree().questions:
        assert f'id="q-{question.slug}"' in preview
    _publish(browser, other)
    assert hands.store.workflows.active().number == "2.0"
    subject = hands.store.subjects.get("s00")
    assert subject is not None
    assert (subject.classifications, subject.tally) == (0, {})


def test_publishing_what_is_active_changes_nothing(hands: Hands) -> None:
    browser = hands.browser(Role.SCIENTIST)
    same = hands.store.workflows.active().workflow.to_json()
    assert "Nothing changes" in browser.upload(same.encode())
    assert "nothing has changed" in browser.get(_publish(browser, same))
    assert len(hands.store.workflows.all()) == 1


def test_a_preview_that_others_overtook_is_shown_again(hands: Hands) -> None:
    browser = hands.browser(Role.SCIENTIST)
    page = browser.upload(workflow(50).to_json().encode())
    hands.store.workflows.publish(workflow(60), NOW, "Olga")
    sealed = re.search(r'name="sealed" value="([^"]+)"', page)
    assert sealed
    again = browser.post("/team/workflow/publish", 409, form="/team/workflow", sealed=sealed[1])
    assert "Somebody else has published" in again
    assert hands.store.workflows.active().workflow.limit == 60
    newer = re.search(r'name="sealed" value="([^"]+)"', again)
    assert newer
    browser.post("/team/workflow/publish", form="/team/workflow", sealed=newer[1])
    assert hands.store.workflows.active().workflow.limit == 50


@pytest.mark.parametrize("sealed", ["", "nonsense", ".eJyrVkpUslIqSS0uUaoFABvMBAk.x.y", "a" * 10_000])
def test_only_what_was_previewed_is_published(hands: Hands, sealed: str) -> None:
    page = hands.browser(Role.SCIENTIST).post("/team/workflow/publish", 422, form="/team/workflow", sealed=sealed)
    assert "no longer valid" in page
    assert len(hands.store.workflows.all()) == 1


def test_an_older_version_is_downloaded_and_published_again(hands: Hands) -> None:
    browser = hands.browser(Role.SCIENTIST)
    _publish(browser, workflow(50).to_json())
    reply = browser.client.get("/team/workflow/1.0.json")
    assert reply.headers["content-disposition"] == 'attachment; filename="workflow-1.0.json"'
    assert Workflow.from_json(reply.text).limit == 40
    page = browser.post("/team/workflow/preview", 200, form="/team/workflow?version=1.0", version="1.0")
    assert "It becomes version 1.2" in page


def test_a_zooniverse_workflow_can_be_uploaded(hands: Hands) -> None:
    answers = [{"label": "T0.answers.0.label", "next": "T1"}, {"label": "T0.answers.1.label"}]
    tasks = {
        "T0": {"type": "single", "question": "T0.question", "answers": answers},
        "T1": {"type": "text", "instruction": "T1.instruction"},
    }
    strings = {
        "T0.question": "Is it round?", "T0.answers.0.label": "Yes", "T0.answers.1.label": "No",
        "T1.instruction": "Say more",
    }  # fmt: skip
    record = {"id": "7", "workflow_id": "9", "version": "3.4", "first_task": "T0", "tasks": tasks, "strings": strings}
    browser = hands.browser(Role.SCIENTIST)
    page = browser.upload(json.dumps(record).encode(), "theirs.json")
    assert "From Zooniverse: workflow 9, version 3.4" in page
    assert "Left out: task T1" in page
    assert "Is it round?" in page
    broken = browser.upload(json.dumps(record | {"tasks": {}}).encode(), "theirs.json", 422)
    assert "theirs.json: workflow 9" in broken
    assert "/tmp" not in broken


def test_a_real_zooniverse_export_can_be_uploaded(data_folder: Path) -> None:
    for path in sorted((data_folder / "zooniverse").glob("*workflow*")):
        if path.suffix in (".csv", ".json") and path.stat().st_size <= uploads.MOST_BYTES:
            try:
                upload = uploads.read(path.read_bytes(), path.name)
            except GreenpeaError as error:
                assert path.name in str(error)  # noqa: PT017
            else:
                assert upload.notes


def test_uploads_read_what_workflows_write() -> None:
    for name in shipped():
        written = workflow(tree=name)
        assert uploads.read(written.to_json().encode(), "a.json").workflow == written
        assert uploads.read(b"\xef\xbb\xbf" + written.to_json().encode(), "../a\\b.json").workflow == written


# ---- the outline --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*shipped(), "small"])
def test_the_outline_holds_every_question_below_what_all_must_pass(name: str) -> None:
    tree = galaxy_tree() if name == "small" else DecisionTree.load(name)
    entries = outline(tree)
    assert sorted(entry.question.slug for entry in entries) == sorted(tree.slugs)
    above: list[str] = []
    for entry in entries:
        if entry.depth == 6:
            continue  # indented no further
        del above[entry.depth :]
        slug = entry.question.slug
        if above:
            # The dominator by brute force: the last question that is on every route.
            routes = [[step.question for step in route] for route in tree.routes(slug)]
            shared = [question for question in routes[0] if all(question in route for route in routes)]
            assert above[-1] == shared[-1], slug
        above.append(slug)


def test_ways_in_are_told_by_question() -> None:
    ways = {entry.question.slug: entry.ways for entry in outline(galaxy_tree())}
    assert ways["smooth"] == ()
    assert ways["merging"] == (Way("smooth", ("yes",)), Way("bar", ()))
    assert ways["bar"] == (Way("smooth", ("no",)),)


def test_votes_on_the_outline_are_the_tally() -> None:
    tally = {
        "smooth": 5,
        "smooth/yes": 3,
        "smooth/no": 2,
        "bar": 2,
        "bar/yes": 2,
        "merging": 5,
        "rare": 5,
        "rare/ring": 4,
    }
    found = {one.entry.question.slug: one for one in votes(galaxy_tree(), tally, {"smooth": ["yes"]})}
    assert [(one.answer.slug, one.count, one.known) for one in found["smooth"].answers] == [
        ("yes", 3, True), ("no", 2, False), ("artifact", 0, False),
    ]  # fmt: skip
    assert found["rare"].answers[0].share == 0.8
    assert found["rare"].answers[1].share == 0


def test_a_long_chain_of_questions_is_outlined_without_recursion() -> None:
    many = 3000
    questions = [{"slug": f"q{i}", "answers": [{"slug": "a", "next": f"q{i + 1}"}, {"slug": "b"}]} for i in range(many)]
    questions.append({"slug": f"q{many}", "answers": [{"slug": "a"}, {"slug": "b"}]})
    tree = DecisionTree.model_validate({"name": "long", "questions": questions})
    assert [entry.question.slug for entry in outline(tree)] == list(tree.slugs)


def test_changes_name_what_differs() -> None:
    old = Workflow(tree=galaxy_tree())
    values = json.loads(old.to_json())
    values["questions"][1]["answers"] = [{"slug": "no", "next": "rare"}, {"slug": "maybe", "next": "merging"}]
    values["questions"][3]["text"] = "Rare?"
    values["tutorial"] = "Hello"
    new = Workflow.from_json(json.dumps(values))
    assert changes(old, old) == []
    assert changes(old, new) == [
        "The question 'bar' loses 'yes'.",
        "The question 'bar' gains 'maybe'.",
        "'no' at 'bar' leads to rare, not to merging.",
        "The texts of 'bar' have changed.",
        "The texts of 'rare' have changed.",
        "The texts of the tutorial have changed.",
    ]


# ---- words --------------------------------------------------------------------------------------------


def test_rules_in_words() -> None:
    tree = workflow().tree
    rules = (
        Count(classifications=40),
        Consensus(rule="consensus", question="bar", share=0.9, votes=10),
        Early(rule="answer", question="smooth-or-featured", answer="artifact", share=0.7, votes=5),
    )
    count, consensus, early, audit = words.rules(rules, tree)
    assert count == "After 40 classifications: the full count."
    assert consensus.startswith("As soon as 90 % give the same answer to “Is there a bar feature")
    assert "70 % say “Artifact”" in early
    assert "audit" in audit
    assert words.rules((Never(rule="never"),), tree) == ["Never: every subject stays open."]


def test_shares_are_not_rounded_to_nothing_or_all() -> None:
    shares = [(0, 10), (1, 1000), (1, 2), (999, 1000), (10, 10), (0, 0)]
    assert [words.percent(k, n) for k, n in shares] == ["0 %", "<1 %", "50 %", ">99 %", "100 %", "–"]


def test_times_and_sizes_in_words() -> None:
    assert "3 hours ago" in words.ago(NOW - 3 * HOUR, NOW)
    assert "just now" in words.ago(NOW + HOUR, NOW)
    assert words.ago(None, NOW) == "never"
    assert words.seconds_between(NOW, NOW + timedelta(seconds=61)) == "61 s"
    assert words.seconds_between(NOW + HOUR, NOW) == "–"
    assert [words.size(n) for n in (999, 1500, 25e6, 3e12, 5e15)] == [
        "999 bytes",
        "1.5 kB",
        "25 MB",
        "3.0 TB",
        "5,000.0 TB",
    ]
    assert words.answers({"a": ["x"], "b": ["y", "z"], "c": []}) == "x › y + z › none"


# ---- finds, transfers, health -------------------------------------------------------------------------


def test_finds_are_hidden_and_shown_again_from_the_page(hands: Hands) -> None:
    _fill(hands)
    browser = hands.browser(Role.MODERATOR)
    page = browser.get("/team/finds")
    assert page.count('<li class="card') == 2
    assert page.count("Show it again") == 1
    number = re.search(r'action="/finds/(\d+)/hide".*?name="hidden" value="true"', page, re.S)
    assert number
    leads = browser.post(f"/finds/{number[1]}/hide", form="/team/finds", hidden="true", back="/team/finds")
    assert leads.startswith("/team/finds")
    assert browser.get("/team/finds").count("Show it again") == 2


def test_every_export_listed_is_there(hands: Hands) -> None:
    _fill(hands)
    browser = hands.browser(Role.SCIENTIST)
    files = re.findall(r'href="(/team/exports/[^"]+)"', browser.get("/team/exports"))
    assert len(files) == 7
    for file in files:
        assert browser.client.get(file).status_code == 200, file
    rows = list(csv.DictReader(browser.get("/team/exports/subjects.csv").splitlines()))
    assert len(rows) == 12


def test_imports_say_how(hands: Hands) -> None:
    page = hands.browser(Role.SCIENTIST).get("/team/imports")
    assert "greenpea import zooniverse campaign" in page
    assert "<dd>12</dd>" in page


@pytest.mark.parametrize("path", ["/team/imports", "/team/exports"])
def test_the_commands_that_pages_name_exist(hands: Hands, path: str) -> None:
    named = re.findall(r"<code>greenpea ([^<]+)</code>", hands.browser(Role.SCIENTIST).get(path))
    assert named
    for line in named:
        command, words_left = get_command(app), line.split()
        while hasattr(command, "commands"):
            command = command.commands[words_left.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words_left if word.startswith("--")} <= options, line


def test_health_recounts(hands: Hands) -> None:
    _fill(hands)
    browser = hands.browser(Role.SCIENTIST)
    page = browser.get("/team/health")
    assert "SQLite" in page
    assert "Counted again" not in page
    page = browser.post("/team/health/recount", 200, form="/team/health")
    assert "Counted again: no difference." in page


def test_health_tells_a_difference(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hands.store.classifications, "recount", lambda: 3)
    page = hands.browser(Role.SCIENTIST).post("/team/health/recount", 200, form="/team/health")
    assert "3 counters differed" in page


def test_times_are_in_utc(hands: Hands) -> None:
    hands.classify(hands.anybody(1)[0], "s00")
    page = hands.browser(Role.SCIENTIST).get("/team/subjects/s00")
    shown = re.search(r'<time datetime="([^"]+)"[^>]*>2026-03-01 12:00</time>', page)
    assert shown
    assert datetime.fromisoformat(shown[1]).astimezone(UTC) == NOW
