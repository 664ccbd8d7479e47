"""The pages on rounds: they tell what rounds left behind, lead back to one, and show volunteers nothing of it."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from html import unescape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from typer.testing import CliRunner

from greenpea.classifications import tally, votes_of
from greenpea.cli import app as command_line
from greenpea.cli import loop
from greenpea.combining import combine
from greenpea.records import FACTS, REPORT, ROUNDS, SCORES, STAGES
from greenpea.site import charts, identity
from greenpea.site.charts import Curve, Level
from greenpea.site.languages import translator
from greenpea.site.rounds import asked, chance, rounds_of
from greenpea.site.team import posteriors, rounds
from greenpea.site.team.posteriors import Believed, expected
from greenpea.store import Role, SentClassification, Store, Stream, Volunteer
from hands import galaxy_tree
from rounds_hands import LEVELS, believing, made_up, write_heads, write_scores
from site_hands import NOW, make_site

NAMES = {Role.VOLUNTEER: "Zoe", Role.MODERATOR: "Mo", Role.SCIENTIST: "Sue", Role.OWNER: "Olga"}
SPIRAL = {
    "smooth-or-featured": ["featured-or-disk"], "disk-edge-on": ["no"], "bar": ["weak"], "has-spiral-arms": ["no"],
    "bulge-size": ["small"], "merging": ["none"], "rare-features": ["ring", "dust-lane"],
}  # fmt: skip


@dataclass
class Hands:
    """A site with a campaign's folder, and a browser per role."""

    app: FastAPI
    store: Store
    folder: Path

    def person(self, role: Role) -> Volunteer:
        found = self.store.people.by_name(NAMES[role])
        return found or self.store.people.sign_up(NAMES[role], "correct horse battery", NOW, role=role)

    def browser(self, role: Role | None = Role.SCIENTIST) -> TestClient:
        client = TestClient(self.app, base_url="http://testserver", follow_redirects=False)
        client.headers["accept"] = "text/html"
        if role is not None:
            token = self.store.people.open_session(self.person(role).id, NOW)
            client.cookies.set(identity.SESSION, identity.sign(self.app.state.site, identity.SESSION, token))
        return client

    def page(self, path: str = "/team/rounds", role: Role = Role.SCIENTIST, status: int = 200) -> str:
        reply = self.browser(role).get(path)
        assert reply.status_code == status, reply.text[:2000]
        return reply.text

    def publish(self, number: int, **more: Any) -> int:
        """Make a round up that has published ranks; return its number in the store."""
        ids = [f"s{i:02d}" for i in range(12)]
        kept = self.store.rounds.create(f"{number:064x}", number, {}, NOW)
        scores = np.random.default_rng(number).random(12)
        self.store.rounds.publish(kept, list(zip(ids, scores, strict=True)))
        self.store.rounds.activate(kept, NOW)
        write_scores(made_up(self.folder, number, store_round=kept, **more), ids, scores)
        return kept

    def classify(self, volunteer: Volunteer, subject_id: str, **how: Any) -> None:
        subject = self.store.subjects.get(subject_id)
        assert subject is not None
        version = self.store.workflows.active().id
        one = SentClassification(str(uuid.uuid4()), volunteer.id, subject.id, version, SPIRAL, **how)
        assert self.store.classifications.submit([one], NOW)[0].error is None


@pytest.fixture
def hands(tmp_path: Path) -> Iterator[Hands]:
    app, store = make_site(tmp_path, clock=lambda: NOW)
    yield Hands(app, store, tmp_path / "campaign")
    store.close()


@pytest.fixture
def believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a made-up posterior stand for the heads of a round."""

    def posterior_of(site: Any, subject: Any) -> Believed:
        tree = site.store.workflows.active().workflow.tree
        network = believing(tree, subject.subject_id)
        return Believed(7, network, combine(network, votes_of({subject.subject_id: subject.tally}, tree)))

    monkeypatch.setattr(posteriors, "posterior_of", posterior_of)


def text_of(page: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).split())


def csrf(client: TestClient, page: str) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', client.get(page).text)
    assert found
    return found[1]


# ---- the page of rounds -------------------------------------------------------------------------------


def test_without_a_round_the_page_says_what_one_is_and_how_to_start(hands: Hands) -> None:
    page = text_of(hands.page())
    assert "There has been no round yet" in page
    assert f"greenpea loop {hands.folder}" in page
    assert "No round has scored" in text_of(hands.page("/team/rounds/gallery"))
    assert "round" not in text_of(hands.page("/team/subjects/s00")).lower().replace("rounded", "").replace("rounds", "")


def test_a_round_under_way_is_shown_with_what_is_done(hands: Hands) -> None:
    made_up(hands.folder, 1, None)
    page = text_of(hands.page())
    assert "not finished: heads fitted" in page
    assert "no round judged yet" in page
    assert "No round ranks" not in page
    assert "subjects are handed out at random" in page


@pytest.mark.parametrize(
    ("stage", "said"),
    [("gated", "heads compared"), ("published", "ranks published"), ("retired", "subjects retired"),
     ("judged", "heads judged")],
)  # fmt: skip
def test_a_round_whose_scores_are_to_come_is_shown_without_them(hands: Hands, stage: str, said: str) -> None:
    """The queue turns before the heads are judged: until then a round ranks, and has no scores."""
    made_up(hands.folder, 1)
    scores = {} if stage == "judged" else {"scores": ()}
    done = STAGES[: STAGES.index(stage) + 1]
    hands.publish(2, stages=done, **scores)
    page = hands.page()
    row = re.search(r'id="round-2">(.*?)</tr>', page, re.S)
    assert row
    assert f"not finished: {said} ranks the queue" in text_of(row[1])
    assert "round 1, on the audit set" in text_of(page)
    assert "Ranks the queue now 2" in text_of(page)
    hands.page("/team/rounds/gallery")
    hands.page("/team/subjects/s00")


def test_every_stage_has_words() -> None:
    assert set(rounds.STAGES) == set(STAGES)


def test_a_round_of_before_gains_were_kept_is_shown_with_a_dash(hands: Hands) -> None:
    record = made_up(hands.folder, 1)
    old = replace(record, scores=tuple(replace(one, gain=None, random_gain=None) for one in record.scores))
    old.save()
    assert "no round judged yet" in rounds.figures(rounds_of(hands.folder))[0].chart
    assert "galaxy? 20 – – – 0.700 0.858" in text_of(hands.page())
    facts = json.loads((record.folder / FACTS).read_text())
    for score in facts["scores"]:
        del score["gain"], score["random_gain"]
    (record.folder / FACTS).write_text(json.dumps(facts))
    assert "galaxy? 20 – – – 0.700 0.858" in text_of(hands.page())


def test_a_failed_round_is_shown_with_the_reason(hands: Hands) -> None:
    made_up(hands.folder, 1, "failed")
    page = text_of(hands.page())
    assert "failed the fit diverged" in page
    assert "No round has scored" in text_of(hands.page("/team/rounds/gallery"))


@pytest.mark.parametrize(
    ("outcome", "said"),
    [("promoted", "promoted"), ("ungated", "promoted, ungated"), ("kept", "kept the incumbent"),
     ("failed", "failed"), ("idle", "nothing new")],
)  # fmt: skip
def test_every_outcome_has_words_and_its_reason(hands: Hands, outcome: Any, said: str) -> None:
    record = made_up(hands.folder, 4, outcome)
    assert record.gate is not None
    row = re.search(r'id="round-4">(.*?)</tr>', hands.page(), re.S)
    assert row
    assert f"{said} {record.gate.why}" in text_of(row[1])


def test_the_table_tells_a_round_whole(hands: Hands) -> None:
    hands.publish(7)
    row = re.search(r'id="round-7">(.*?)</tr>', hands.page(), re.S)
    assert row
    told = text_of(row[1])
    for part in ("2026-03-01 13:10", "took 32 s", "ranks the queue", "+0.007 at least +0.001", "6,300", "21 confident",
                 "1 classified often enough", "eeeeeeee", "00000000"):  # fmt: skip
        assert part in told, part


def test_many_rounds_come_newest_first_a_page_at_a_time(hands: Hands) -> None:
    for number in range(1, 121):
        made_up(hands.folder, number)
    client, path, seen = hands.browser(), "/team/rounds", []
    while path:
        page = client.get(path).text
        seen += [int(number) for number in re.findall(r'id="round-(\d+)"', page)]
        following = re.search(r'rel="next" href="([^"]+)"', page)
        path = following[1] if following else ""
    assert seen == list(range(120, 0, -1))


def test_a_damaged_round_is_told_with_its_file_and_the_rest_is_shown(hands: Hands) -> None:
    hands.publish(1)
    for number, content in (("0002", "{"), ("0003", "[]"), ("0004", '{"number": 4}'), ("0005", "\udcff")):
        path = hands.folder / ROUNDS / number / FACTS
        path.parent.mkdir()
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
    page = hands.page()
    for number in ("0002", "0003", "0004", "0005"):
        assert f"{ROUNDS}/{number}/{FACTS} is damaged" in page
    assert 'id="round-1"' in page
    assert "s00" in hands.page("/team/rounds/gallery")
    hands.page("/team/subjects/s00")


def test_only_damaged_rounds_are_no_empty_campaign(hands: Hands) -> None:
    path = hands.folder / ROUNDS / "0001" / FACTS
    path.parent.mkdir(parents=True)
    path.write_text("")
    page = text_of(hands.page())
    assert "0001/round.json is damaged" in page
    assert "No round can be read" in page


def test_a_round_is_read_again_when_it_has_changed(hands: Hands) -> None:
    made_up(hands.folder, 1, None)
    assert "heads fitted" in hands.page()
    made_up(hands.folder, 1, "promoted")
    assert "heads fitted" not in hands.page()


def test_savings_and_the_newest_numbers_are_said(hands: Hands) -> None:
    made_up(hands.folder, 5)
    page = text_of(hands.page())
    assert "Classifications saved 180 of 480, 38 %" in page
    assert "Answers learned from 4,500" in page


def test_questions_are_told_one_by_one(hands: Hands) -> None:
    made_up(hands.folder, 1)
    made_up(hands.folder, 2)
    page = text_of(hands.page())
    assert "Is there a bar feature through the centre of the galaxy? 40 0.190 0.111 0.030 0.568 0.858 48.5 %" in page


@pytest.mark.parametrize(
    ("streams", "said"),
    [
        ({}, ""),
        ({"skipped": "more than 200,000 classifications (loop.compared)"}, "Not compared: more than 200,000"),
        ({"compared": 0, "differences": []}, "Too few subjects"),
        ({"compared": 34, "differences": [
            {"question": "bar", "answer": "strong", "shift": 0.041, "z": 4.1, "p": 0.0004, "votes": [431, 97]}]},
         "People answer differently"),
        ({"compared": 34, "differences": [
            {"question": "gone", "answer": "x", "shift": -0.02, "z": 1, "p": 0.4, "votes": [40, 30]}, {"odd": 1}]},
         "People answer alike"),
    ],
)  # fmt: skip
def test_streams_are_compared(hands: Hands, streams: dict[str, Any], said: str) -> None:
    made_up(hands.folder, 1, streams=streams)
    page = text_of(hands.page())
    assert said in page
    assert ("By stream" in page) == bool(said)
    if "differently" in said:
        assert "Strong +4.1 points < 0.001 431, 97" in page


# ---- the charts ---------------------------------------------------------------------------------------


def test_charts_tell_their_numbers_to_those_who_hear_them(hands: Hands) -> None:
    for number in range(1, 6):
        made_up(hands.folder, number, "kept" if number == 3 else "promoted")
    drawn = {one.title: ElementTree.fromstring(one.chart) for one in rounds.figures(rounds_of(hands.folder))}
    told = {title: tree.findtext("desc") for title, tree in drawn.items()}
    assert told == {
        "How well votes are predicted": "With 4,500 answers 0.243 nats per vote over not looking at the image. Heads "
        "from 900 answers of the random stream alone: 0.054.",
        "Classifications saved": "38 % saved: 180 of 480 classifications.",
        "Calibration": "In the last round 49.2 % of votes in the 50 % sets, 79.2 % of votes in the 80 % sets, "
        "89.8 % of votes in the 90 % sets, 95.2 % of votes in the 95 % sets.",
    }
    for tree in drawn.values():
        assert tree.get("role") == "img"
        names = (tree.get("aria-labelledby") or "").split()
        assert names == [one.get("id") for one in tree if one.get("id")]
    rings = [one for one in drawn["How well votes are predicted"].iter("circle") if "ring" in one.get("class", "")]
    assert [one.findtext("title", "").split(":")[0] for one in rings] == ["round 3"]


def test_a_table_beside_each_chart_has_the_same_numbers(hands: Hands) -> None:
    made_up(hands.folder, 3)
    learned, saved, held = rounds.figures(rounds_of(hands.folder))
    assert learned.table == [("3", "2,700", "0.190", "540", "0.034")]
    assert saved.table == [("3", "600", "60", "100", "38 %")]
    assert held.table == [("3", "48.8 %", "78.8 %", "89.2 %", "94.7 %")]


numbers = st.floats(0, 1e6, allow_nan=False)


@given(st.lists(st.tuples(st.integers(0, 10**7), numbers), min_size=1, max_size=30), numbers)
def test_points_stand_where_their_values_are(points: list[tuple[int, float]], level: float) -> None:
    said = [str(y) for _, y in points]
    drawn = ElementTree.fromstring(charts.curves("a", "T", "told", [Curve("c", points, said)], [Level("l", level)]))
    line = next(one for one in drawn.findall("line") if one.get("class") == "goal")
    circles = drawn.findall("circle")
    assert len(circles) == len(points)
    places = [(float(one.get("cx", "")), float(one.get("cy", ""))) for one in circles]
    for (x, y), (value, height) in zip(places, points, strict=True):
        assert 0 <= x <= charts.WIDTH
        assert charts.TOP - 0.01 <= y <= charts.HEIGHT - charts.BELOW + 0.01
        for (other, above), (more, higher) in zip(places, points, strict=True):
            assert (other >= x) or more <= value
            assert (above <= y) or higher <= height
    zero, top = charts.HEIGHT - charts.BELOW, charts.TOP
    largest = max(level, *(y for _, y in points))
    shown = charts.scale(0, largest)[-1]
    assert float(line.get("y1", "")) == pytest.approx(zero - level / shown * (zero - top), abs=0.02)


@given(st.floats(-1e3, 1e3), st.floats(1e-6, 1e4))
def test_scales_are_round_and_hold_their_values(low: float, width: float) -> None:
    marks = charts.scale(low, low + width)
    step = marks[1] - marks[0]
    tolerance = 1e-6 * step
    assert marks[0] <= low + tolerance
    assert marks[-1] >= low + width - tolerance
    assert marks[1] > low - tolerance
    assert len(marks) <= 8
    assert re.fullmatch(r"[125](\.0+)?e.*", f"{step:.3e}")


def test_points_that_are_no_numbers_are_left_out() -> None:
    curve = Curve("c", [(1, float("nan")), (2, 0.5)], ["lost", "kept"])
    drawn = charts.curves("a", "T", "told", [curve], [Level("l", float("nan"))])
    assert "kept" in drawn
    assert "lost" not in drawn
    assert "nan" not in drawn
    only = charts.curves("a", "T", "told", [Curve("c", [(1, float("nan"))], ["lost"])], nothing="nothing yet")
    assert "Nothing yet." in only


def test_a_long_campaign_is_thinned_with_both_its_ends() -> None:
    values = list(range(10_000))
    thin = rounds.thinned(values)
    assert len(thin) == rounds.POINTS
    assert (thin[0], thin[-1]) == (0, 9_999)
    assert sorted(set(thin)) == thin
    assert rounds.thinned(values[:5]) == [0, 1, 2, 3, 4]


def test_a_pmf_is_drawn_to_scale_with_the_votes_marked() -> None:
    mixture, combined, draw = [0.1, 0.6, 0.3], [0.0, 0.2, 0.8], [0.2, 0.4, 0.4]
    tree = ElementTree.fromstring(charts.pmf("p", "<b>", "told", [draw], mixture, combined, 2))
    assert tree.findtext("title") == "<b>"
    ways = {}
    for one in tree.findall("path"):
        if one.get("class") in ("draw", "mixture", "combined"):
            points = [tuple(map(float, point.split())) for point in one.get("d", "M").lstrip("M").split("L")]
            ways[one.get("class")] = points
    base = max(y for _, y in ways["combined"])
    for name, values in (("draw", draw), ("mixture", mixture), ("combined", combined)):
        heights = [base - y for _, y in ways[name]]
        assert heights == pytest.approx([value / 0.8 * (base - 8) for value in values], abs=0.1)
    votes = next(one for one in tree.findall("line") if one.get("class") == "votes")
    assert float(votes.get("x1", "")) == pytest.approx(ways["mixture"][2][0], abs=0.06)
    unknown = ElementTree.fromstring(charts.pmf("p", "t", "told", [draw], mixture, combined, None))
    assert not [one for one in unknown.findall("line") if one.get("class") == "votes"]


# ---- a round's report ---------------------------------------------------------------------------------


def test_a_rounds_report_is_linked_and_shown_to_scientists_alone(hands: Hands) -> None:
    record = made_up(hands.folder, 3)
    made_up(hands.folder, 4)
    (record.folder / REPORT).write_text("<!DOCTYPE html><title>how far to believe it</title>")
    assert re.findall(r'href="(/team/rounds/\d+/report)"', hands.page()) == ["/team/rounds/3/report"]
    reply = hands.browser().get("/team/rounds/3/report")
    assert reply.status_code == 200
    assert "how far to believe it" in reply.text
    assert reply.headers["content-type"].startswith("text/html")
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "sandbox" in policy
    assert "script" not in policy
    for role in (Role.VOLUNTEER, Role.MODERATOR):
        assert hands.browser(role).get("/team/rounds/3/report").status_code == 403
    assert hands.browser(None).get("/team/rounds/3/report").status_code == 303


@pytest.mark.parametrize("number", ["4", "9", "0003", "x", "..%2f3"])
def test_there_is_no_report_where_none_was_left(hands: Hands, number: str) -> None:
    (made_up(hands.folder, 3).folder / REPORT).write_text("a report")
    made_up(hands.folder, 4)
    assert hands.browser().get(f"/team/rounds/{number}/report").status_code == 404


# ---- the same on the command line ---------------------------------------------------------------------


def test_rounds_are_listed_with_what_compares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop.console, "width", 140)  # whatever the width where the tests run
    made_up(tmp_path, 3)
    old = made_up(tmp_path, 4)
    replace(old, scores=tuple(replace(one, gain=None, random_gain=None) for one in old.scores)).save()
    made_up(tmp_path, 5, stages=STAGES[: STAGES.index("judged")], scores=())
    said = CliRunner().invoke(command_line, ["rounds", str(tmp_path)]).output
    lines = [re.sub(r"\s+", " ", line).strip() for line in said.splitlines()]
    assert "round begun answers outcome gain by chance ranked retired model" in lines[0]
    assert "2,700 promoted 0.190 0.034 100 10 00000000" in lines[1]
    assert "3,600 promoted – – 100 13 00000000" in lines[2]
    assert "4,500 unfinished: retired – – 100 16 00000000" in lines[3]
    assert "sinks by itself" in " ".join(lines[4:])


def test_a_round_is_told_with_its_gain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loop._tell(made_up(tmp_path, 3))
    said = " ".join(capsys.readouterr().out.split())
    assert "gain 0.190 nats per vote of the audit set over not looking at the image" in said
    assert "0.034 from the random stream alone" in said
    loop._tell(made_up(tmp_path, 4, "failed"))
    assert "gain" not in capsys.readouterr().out


# ---- going back ---------------------------------------------------------------------------------------


def test_an_earlier_round_ranks_again(hands: Hands) -> None:
    first, second = hands.publish(1), hands.publish(2)
    assert hands.store.rounds.active() == second
    client = hands.browser()
    reply = client.post("/team/rounds/activate", data={"csrf": csrf(client, "/team/rounds"), "round": "1"})
    assert reply.status_code == 303
    assert hands.store.rounds.active() == first
    page = client.get(reply.headers["location"]).text
    assert "The ranks of round 1 order the queue again." in page
    assert "Ranks the queue now 1" in text_of(page)


def test_what_ranks_now_is_not_offered_and_what_is_forgotten_neither(hands: Hands) -> None:
    for number in (1, 2, 3, 4):
        hands.publish(number)
    made_up(hands.folder, 5, "failed")
    hands.store.rounds.prune(2)
    page = hands.page()
    form = page[page.index("/team/rounds/activate") :]
    assert re.findall(r'<option value="(\d+)"', form) == ["3"]
    client = hands.browser()
    reply = client.post("/team/rounds/activate", data={"csrf": csrf(client, "/team/rounds"), "round": "1"})
    assert reply.status_code == 409
    assert f"greenpea rounds {hands.folder} --rollback 1" in reply.text
    assert hands.store.rounds.active() == 4


def test_there_is_no_going_back_without_the_role_or_the_token(hands: Hands) -> None:
    hands.publish(1)
    second = hands.publish(2)
    for role in (None, Role.VOLUNTEER, Role.MODERATOR):
        client = hands.browser(role)
        token = csrf(client, "/about" if role is None else "/me")
        reply = client.post("/team/rounds/activate", data={"csrf": token, "round": "1"})
        assert reply.status_code == (303 if role is None else 403), role
        for path in ("/team/rounds", "/team/rounds/gallery"):
            assert client.get(path).status_code == (303 if role is None else 403), role
    reply = hands.browser(Role.OWNER).post("/team/rounds/activate", data={"round": "1"})
    assert reply.status_code == 403
    assert hands.store.rounds.active() == second
    assert "/team/rounds" not in hands.page("/team/volunteers", Role.MODERATOR)


@pytest.mark.parametrize("number", ["", "9", "0", "one", "2"])
def test_there_is_no_way_to_a_round_that_ranked_nothing(hands: Hands, number: str) -> None:
    hands.publish(1)
    made_up(hands.folder, 2, "failed")
    client = hands.browser()
    reply = client.post("/team/rounds/activate", data={"csrf": csrf(client, "/team/rounds"), "round": number})
    assert reply.status_code == 404


# ---- the gallery --------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.lists(st.floats(0, 5, allow_nan=False), max_size=40), st.integers(1, 12))
def test_the_ends_of_the_scores_are_the_highest_and_the_lowest(
    tmp_path_factory: pytest.TempPathFactory, scores: list[float], count: int
) -> None:
    folder = tmp_path_factory.mktemp("round")
    record = made_up(folder, 1)
    write_scores(record, [f"s{i}" for i in range(len(scores))], scores)
    best, worst, total = rounds.ends(record.folder / SCORES, count)
    assert total == len(scores)
    assert best["score"].to_pylist() == sorted(scores, reverse=True)[:count]
    assert worst["score"].to_pylist() == sorted(scores)[: max(0, min(count, len(scores) - count))]
    assert not set(best["subject_id"].to_pylist()) & set(worst["subject_id"].to_pylist())


def test_the_gallery_shows_both_ends_of_the_newest_scored_round(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "SHOWN", 3)
    ids = [f"s{i:02d}" for i in range(12)]
    write_scores(made_up(hands.folder, 1), ids, np.linspace(0, 1, 12))
    write_scores(made_up(hands.folder, 2), [*ids, "stranger"], [*np.linspace(0.5, 0.01, 12), 0.3])
    made_up(hands.folder, 3, "failed")
    hands.classify(hands.person(Role.VOLUNTEER), "s00")
    page = hands.page("/team/rounds/gallery")
    assert re.findall(r'class="tile-name code">([^<]+)<', page) == ["s00", "s01", "s02", "s11", "s10", "s09"]
    told = text_of(page)
    assert "13 subjects that round 2 ranked" in told
    assert "0.5 nats 1 / 40" in told


def test_damaged_scores_are_told_with_their_file(hands: Hands) -> None:
    record = made_up(hands.folder, 1)
    (record.folder / SCORES).write_bytes(b"PAR1 no")
    for path in ("/team/rounds/gallery", "/team/subjects/s00"):
        assert f"0001/{SCORES} cannot be read" in hands.page(path)


# ---- one subject --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("believed")
def test_a_subject_shows_what_the_network_expects_beside_its_votes(hands: Hands) -> None:
    for i in range(3):
        hands.classify(hands.store.people.anonymous(NOW), f"s0{i % 2}")
    page = hands.page("/team/subjects/s00")
    told = text_of(page)
    assert "By the heads of round 7, which never saw these votes" in told
    assert page.count('class="chart pmf"') == sum(len(one.answers) for one in _tree(hands).questions)
    bar = ElementTree.fromstring(_charts(page)["p-bar-1"])
    assert bar.findtext("title") == "Weak: how many of 2 volunteers"
    assert (bar.findtext("desc") or "").endswith("Votes so far: 2.")
    edge = ElementTree.fromstring(_charts(page)["p-how-rounded-0"])
    assert "how many of 40 volunteers" in (edge.findtext("title") or "")
    assert (edge.findtext("desc") or "").endswith("No votes yet.")
    assert "Expected here:" in told
    assert len(re.findall(r'id="([^"]+)"', page)) == len(set(re.findall(r'id="([^"]+)"', page)))


def _tree(hands: Hands) -> Any:
    return hands.store.workflows.active().workflow.tree


def _charts(page: str) -> dict[str, str]:
    found = re.findall(r'<svg class="chart pmf".*?</svg>', page, re.S)
    return {match[1]: svg for svg in found if (match := re.search(r'aria-labelledby="(\S+)-title', svg))}


def test_a_picture_holds_the_posteriors_own_numbers(hands: Hands) -> None:
    tree, counts = _tree(hands), tally([SPIRAL, SPIRAL, {"smooth-or-featured": ["artifact"]}])
    network = believing(tree, "s00", draws=7)
    combined = combine(network, votes_of({"s00": counts}, tree))
    shown = posteriors.pictures(Believed(1, network, combined), tree, counts)
    one = shown["smooth-or-featured"]
    assert (one.volunteers, one.reach) == (3, pytest.approx(1.0))
    for i, answer in enumerate(one.answers):
        assert answer.network.mean == pytest.approx(3 * network.mean("smooth-or-featured")[0, i])
        assert answer.combined.mean == pytest.approx(3 * combined.mean("smooth-or-featured")[0, i])
    assert [answer.votes for answer in one.answers] == [0, 2, 1]
    assert shown["how-rounded"].volunteers == posteriors.USUAL
    assert {answer.votes for answer in shown["how-rounded"].answers} == {None}
    reach = combined.average(combined.reach()["how-rounded"])[0]
    assert shown["how-rounded"].reach == pytest.approx(reach)


@given(st.lists(st.floats(0.001, 1), min_size=2, max_size=60))
def test_an_interval_holds_nine_futures_in_ten(weights: list[float]) -> None:
    pmf = np.array(weights) / sum(weights)
    mean, low, high = expected(pmf)
    assert mean == pytest.approx((pmf * np.arange(len(pmf))).sum())
    assert pmf[low : high + 1].sum() >= 0.9 - 1e-9
    assert pmf[:low].sum() <= 0.05 + 1e-9
    assert pmf[high + 1 :].sum() <= 0.05 + 1e-9


def test_the_posterior_is_that_of_the_newest_promoted_heads(hands: Hands) -> None:
    site, tree = hands.app.state.site, _tree(hands)
    record, heads, kept = write_heads(hands.folder, made_up(hands.folder, 4), tree, ["s00", "s01", "s02"])
    made_up(hands.folder, 5, "kept")
    for _ in range(4):
        hands.classify(hands.store.people.anonymous(NOW), "s01")
    subject, fresh, stranger = (hands.store.subjects.get(one) for one in ("s01", "s02", "s09"))
    found = posteriors.posterior_of(site, subject)
    assert found is not None
    assert found.round == record.number == 4
    network = heads.posterior(kept.take([1]), np.array(["s01"]))
    more = heads.posterior(kept.take([1]), np.array(["s01"]), draws=36)
    few = combine(network, votes_of({"s01": subject.tally}, tree)).effective_draws[0] < 10  # loop.fewest_draws
    combined = combine(more if few else network, votes_of({"s01": subject.tally}, tree))
    for slug in tree.slugs:
        assert np.array_equal(found.network.parameters[slug], network.parameters[slug])
        assert np.allclose(found.combined.mean(slug), combined.mean(slug))
    assert few
    assert found.combined.draws == 36
    unasked = posteriors.posterior_of(site, fresh)
    assert unasked is not None
    assert unasked.combined.draws == unasked.network.draws == 12
    assert posteriors.posterior_of(site, stranger) is None
    assert "By the heads of round 4" in hands.page("/team/subjects/s01")
    assert 'class="chart pmf"' not in hands.page("/team/subjects/s09")
    kept.append(["s09"], np.ones((1, 5)))
    assert posteriors.posterior_of(site, stranger) is not None


def test_heads_of_another_tree_say_nothing_of_this_one(hands: Hands) -> None:
    write_heads(hands.folder, made_up(hands.folder, 1), galaxy_tree(), ["s00"])
    page = hands.page("/team/subjects/s00")
    assert 'class="chart pmf"' not in page
    assert 'role="alert"' not in page


def test_the_team_is_told_why_a_subject_was_asked(hands: Hands) -> None:
    kept = hands.publish(3)
    hands.classify(hands.person(Role.VOLUNTEER), "s00", stream=Stream.RANK, round=kept, probability=0.034)
    hands.classify(hands.store.people.anonymous(NOW), "s00", stream=Stream.RANDOM, probability=1 / 3200)
    hands.classify(hands.store.people.anonymous(NOW), "s00", stream=Stream.RANK, round=kept + 40)
    told = text_of(hands.page("/team/subjects/s00"))
    assert "by rank , round 3 , chance 3 %" in told
    assert "at random , chance 1 in 3,200" in told
    assert "by rank , a round no longer kept" in told
    assert re.search(r"Place in the order of round 3 \d+", told)


def test_a_damaged_head_is_told_and_the_votes_are_shown(hands: Hands) -> None:
    record = made_up(hands.folder, 1)
    (record.folder / "heads").mkdir()
    hands.classify(hands.person(Role.VOLUNTEER), "s00")
    page = hands.page("/team/subjects/s00")
    assert "0001/heads" in page
    assert "1 volunteer reached it" in page


# ---- what volunteers see ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probability", "said"),
    [(1.0, "100 %"), (0.034, "3 %"), (0.125, "13 %"), (0.01, "1 %"), (0.0099, "1 in 101"), (1e-5, "1 in 100,000")],
)
def test_a_chance_in_words(probability: float, said: str) -> None:
    text, places = chance(probability)
    assert text.format(**places) == said


@pytest.mark.parametrize("language", ["en", "de", "es"])
@pytest.mark.parametrize("stream", list(Stream))
def test_why_it_was_asked_has_words_in_every_language(hands: Hands, stream: Stream, language: str) -> None:
    zoe = hands.person(Role.VOLUNTEER)
    hands.classify(zoe, "s00", stream=stream, round=3, probability=0.5)
    one = hands.store.classifications.of_volunteer(zoe.id, None, 1)[0]
    said = asked(one, 12, translator(language))
    assert "12" in said
    assert "50 %" in said
    if language != "en":
        assert said.split(".")[0] != asked(one, 12, translator("en")).split(".")[0]


def test_volunteers_learn_why_they_were_asked_about_what_they_classified(hands: Hands) -> None:
    kept = hands.publish(3)
    zoe = hands.person(Role.VOLUNTEER)
    hands.classify(zoe, "s05", stream=Stream.RANK, round=kept, probability=0.034)
    told = text_of(hands.page("/me", Role.VOLUNTEER))
    assert "Asked because the network learns much from answers to it. Round 3. Chance of being chosen: 3 %." in told


SCORE = 0.123987654  # as no other number on a page
DRAWS = 17.345678


@pytest.mark.usefixtures("believed")
def test_no_page_or_answer_for_volunteers_holds_a_prediction(hands: Hands) -> None:
    """Every page and every answer of the API that a volunteer may have, signed in or not, with rounds present."""
    ids = [f"s{i:02d}" for i in range(12)]
    kept = hands.publish(1)
    record = made_up(hands.folder, 2, store_round=kept, model="feedbeef" * 8)
    write_scores(record, ids, [SCORE + i / 1e9 for i in range(12)])
    zoe = hands.person(Role.VOLUNTEER)
    hands.classify(zoe, "s00", stream=Stream.RANK, round=kept, probability=0.25)
    for role in (None, Role.VOLUNTEER):
        client = hands.browser(role)
        for path, body in _everything(hands, client):
            assert "0.12398" not in body, path
            assert "feedbeef" not in body, path
            assert not re.search(r'class="[^"]*(pmf|mixture)', body), path
            for key in ("score", "prediction", "posterior", "expected", "effective_draws", "concentrations"):
                assert f'"{key}"' not in body, (path, key)
            for answer in re.findall(r'"answers": ?\[[^\]]*\]', body):
                assert "probability" not in answer, path


def _everything(hands: Hands, client: TestClient) -> Iterator[tuple[str, str]]:
    """Yield (path, text) of every GET route outside the team's, and of what the API says to a classification."""
    handed = client.post("/api/v1/next", json={"count": 2})
    assert handed.status_code == 200
    yield "POST /api/v1/next", handed.text
    # How it was chosen is in the ticket, which is the site's own: what is told to the volunteer is the subject alone.
    first = handed.json()["subjects"][0]
    assert not {"score", "round", "probability", "stream", "rank"} & set(first)
    sent = {"id": str(uuid.uuid4()), "ticket": first["ticket"], "annotations": SPIRAL}
    reply = client.post("/api/v1/classifications", json=sent)
    yield "POST /api/v1/classifications", reply.text
    for route in _routes(hands.app):
        path = re.sub(r"\{[^}]*\}", "1", route).replace("//", "/")
        reply = client.get(path)
        if "image" not in reply.headers.get("content-type", ""):
            yield path, reply.text


def _routes(app: FastAPI) -> list[str]:
    paths = {route.path for route in iter_route_contexts(app.routes) if "GET" in (route.methods or ())}
    kept = sorted(path for path in paths if not path.startswith("/team") and path != "/api/v1/openapi.json")
    assert {"/", "/classify", "/me", "/me/export", "/finds"} <= set(kept)
    return kept


def test_made_up_rounds_are_as_the_levels_say() -> None:
    assert set(LEVELS) == {f"{level:g}" for level in rounds.LEVELS}


def test_times_are_told_from_begin_to_end(hands: Hands) -> None:
    record = made_up(hands.folder, 1)
    assert record.stages["finished"] - record.begun_at == timedelta(seconds=32)
    assert json.loads((record.folder / FACTS).read_text())["number"] == 1
