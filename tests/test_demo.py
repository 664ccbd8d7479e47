"""The demonstration: simulated volunteers at a real site, real rounds, and a report in plain words."""

from __future__ import annotations

import dataclasses
import multiprocessing
import re
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from greenpea import creation, demo, loop_report, simulate
from greenpea.cli import app
from greenpea.cli import demo as shown
from greenpea.demo import Learned, Moment, Outcome, Scale
from greenpea.errors import GreenpeaError
from greenpea.records import Gate, Record, Score
from greenpea.rehearsal import FromTruth
from greenpea.store import Overview
from greenpea.tree import DecisionTree
from greenpea.visiting import Crowd
from greenpea.votes import Votes
from site_hands import make_site, serving, workflow

TREE = DecisionTree.load("gz-decals-5")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
TINY = Scale(subjects=64, limit=6, classifications=220, rounds=2, per_second=400, pixels=32)


# ---- everything, from beginning to end ---------------------------------------------------------------


def test_from_galaxies_to_a_report(tmp_path: Path) -> None:
    """One run of everything: a site as a process, volunteers as another, rounds in this one."""
    folder, moments = tmp_path / "demo", list[Moment]()
    campaign, site, store = demo.stage(folder, TINY, 0, lambda stage, share, words: None)
    try:
        demo.play(campaign, store, site, TINY, moments.append)
        outcome = demo.judge(campaign, store, TINY)
        assert store.classifications.recount() == 0
    finally:
        site.stop()
    assert outcome.overview.counted >= TINY.classifications
    assert outcome.overview.volunteers > 1
    assert len(outcome.rounds) >= 2
    assert all(one.finished for one in outcome.rounds)
    assert set(outcome.overall) == {"votes", "combined", "full"}
    assert moments[-1].classifications == outcome.overview.counted
    _check_learned(outcome)
    page = loop_report.write(outcome, folder, campaign.tree, folder / "report.html").read_text()
    assert "These galaxies and volunteers are simulated" in page
    assert f"{outcome.overview.counted:,}" in page
    store.close()
    # What is there is gone on with: nothing is simulated anew.
    assert demo.prepare(folder, TINY, lambda stage, share, words: None).folder == folder


def _check_learned(outcome: Outcome) -> None:
    """All rounds are judged on the votes of the end, as the last one judged itself."""
    assert [one.round for one in outcome.learned] == [one.number for one in outcome.rounds]
    last, overall = outcome.learned[-1], outcome.rounds[-1].overall
    assert overall is not None
    assert last.gain == pytest.approx(overall.gain, abs=1e-6)
    assert last.random_gain == pytest.approx(overall.random_gain, abs=1e-6)
    assert len({one.gain for one in outcome.learned}) == len(outcome.learned)
    assert set(overall.coverage) == {"0.5", "0.8", "0.9", "0.95"}
    assert outcome.judges[0] > 0
    assert outcome.judges[1] > outcome.judges[0]


# ---- its parts ---------------------------------------------------------------------------------------


def test_the_crowd_votes_over_the_api(tmp_path: Path) -> None:
    site, store = make_site(tmp_path, 10, workflow(limit=3))
    names = [f"s{number:02d}" for number in range(10)]
    truth = simulate.galaxies(10, 0, 16).truth
    stop = multiprocessing.get_context("spawn").Event()
    answers = FromTruth(truth, names, TREE, simulate.volunteers(5, 0))
    with serving(site) as address:
        crowd = Crowd(address, answers, TREE, 0, 10_000, stop)
        thread = threading.Thread(target=crowd.run)
        thread.start()
        deadline = time.monotonic() + 60
        while store.statistics.overview(NOW).retired < 10 and time.monotonic() < deadline:
            time.sleep(0.05)
        stop.set()
        thread.join(30)
    overview = store.statistics.overview(NOW)
    assert (overview.retired, overview.counted) == (10, 30)
    assert store.classifications.recount() == 0
    store.close()


def test_another_campaign_is_left_alone(tmp_path: Path) -> None:
    make_site(tmp_path)[1].close()
    with pytest.raises(GreenpeaError, match="another folder"):
        demo.prepare(tmp_path / "campaign", TINY, lambda stage, share, words: None)


def test_a_site_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(GreenpeaError, match="not a campaign"):
        demo.Site(tmp_path, demo.free_port(0))


def test_a_taken_port_is_not_used() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert demo.free_port(port) != port


def test_the_leading_answer_is_that_with_most_votes() -> None:
    votes = Votes.empty(TREE, ["a", "b"])
    votes.counts["smooth-or-featured"][:] = [[1, 3, 0], [2, 2, 5]]
    found = demo.leading(votes)
    assert found["smooth-or-featured"].tolist() == [1, 2]
    assert set(found) == {question.slug for question in TREE.questions if question.kind == "single"}


def test_the_truth_of_the_crowd_is_that_of_the_campaign(tmp_path: Path) -> None:
    """The volunteers' process makes the galaxies again: they must be those on the site."""
    campaign, _ = creation.simulate(tmp_path / "sky", 6, 0, 16, 5)
    some, crowd = simulate.galaxies(6, 5, 16), simulate.volunteers(200, 5)
    expected = simulate.expected_fractions(some.truth, TREE, crowd)
    kept = demo.truth_in(campaign.folder / demo.TRUTH, TREE, some.subject_ids)
    for slug in TREE.slugs:
        np.testing.assert_allclose(kept[slug], expected[slug], atol=1e-5)


# ---- what is said ------------------------------------------------------------------------------------


def overview(counted: int, retired: int, subjects: int = 100) -> Overview:
    return Overview(
        subjects=subjects, gold=0, retired=retired, by_reason={"settled": retired}, classifications=counted,
        counted=counted, uncounted={}, after_retirement=0, volunteers=30, signed_in=0, open_handouts=0, finds=0,
        last_hour=0, last_day=0, outstanding=0,
    )  # fmt: skip


def record(number: int) -> Record:
    score = Score(None, 500, 0.2, 0.5, {"0.9": 0.873}, 0.3, 0.125, 0.1)
    return Record(
        number, 0, NOW, {"finished": NOW + timedelta(seconds=3)}, {}, "1.0", classifications=500 * number,
        answers=2000 * number, random_answers=600 * number, gate=Gate("ungated", ""), scores=(score,), saved=300,
        spent=100, retired={"settled": 10},
    )  # fmt: skip


LEARNED = (Learned(1, 2000, 0.04, 600, None), Learned(2, 4000, 0.06, 3000, 0.045))


def outcome(
    counted: int = 1000,
    retired: int = 100,
    combined: float = 0.95,
    full: float = 0.96,
    learned: tuple[Learned, ...] = LEARNED,
) -> Outcome:
    shares = {"votes": 0.9, "combined": combined, "full": full}
    return Outcome(
        Scale(limit=40), overview(counted, retired), (record(1), record(2)),
        {"smooth-or-featured": shares, "bar": shares}, shares, (), (), 0, learned, (60, 9_876),
    )  # fmt: skip


def test_the_headline_has_the_numbers() -> None:
    words = loop_report.headline(outcome())
    assert words["verdict"] == "better"
    assert words["saved"].startswith("All 100 galaxies are done, with 25 % of the votes")
    assert "95.0 %" in words["accuracy"]
    assert "by 0.060 nats per vote once it has learned from 4,000 answers" in words["learning"]
    assert "by 0.040 from the first 2,000" in words["learning"]
    # At the 3,000 answers of the last heads of chance, halfway between the rounds of the loop.
    assert "From 3,000 answers: 0.050 as the loop asked for them, 0.045 where chance did" in words["learning"]


@pytest.mark.parametrize("bad", [{"combined": 0.9}, {"counted": 4000}])
def test_no_headline_boasts_of_what_is_not_so(bad: dict[str, float]) -> None:
    assert loop_report.headline(outcome(**bad))["verdict"] == "no-better"  # type: ignore[arg-type]


def test_a_network_that_is_no_better_than_not_looking_is_called_so() -> None:
    assert "no better" not in loop_report.headline(outcome())["learning"]
    worse = outcome(learned=(Learned(1, 2000, -0.01, 600, None),))
    assert "no better than not looking" in loop_report.headline(worse)["learning"]


@pytest.mark.parametrize(
    "learned",
    [(), LEARNED[:1], (dataclasses.replace(LEARNED[0], random_answers=5000, random_gain=0.1), LEARNED[1]),
     (LEARNED[0], dataclasses.replace(LEARNED[1], random_answers=900)),
     (dataclasses.replace(LEARNED[0], gain=None), LEARNED[1])],
)  # fmt: skip
def test_chance_is_compared_only_where_both_have_learned_from_as_many_answers(learned: tuple[Learned, ...]) -> None:
    said = loop_report.headline(outcome(learned=learned))["learning"]
    assert ("where chance did" in said) == (len(learned) == 2 and learned[1].random_answers == 3000
                                            and learned[0].gain is not None)  # fmt: skip


def test_galaxies_not_done_are_not_called_done() -> None:
    assert loop_report.headline(outcome(retired=55))["saved"].startswith("55 % of the 100 galaxies")


class Tags(HTMLParser):
    """Checks that tags are closed in order, and keeps what they refer to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [str(value) for name, value in attrs if name in ("src", "href")]


def test_the_report_is_one_whole_page_that_fetches_nothing(tmp_path: Path) -> None:
    page = loop_report.write(outcome(), tmp_path / "<b>demo", TREE, tmp_path / "report.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert all(link.startswith(("data:", "#")) for link in tags.links)
    assert "&lt;b&gt;demo" in page
    assert "the same 9,876 answers on 60 galaxies" in page
    assert re.search(r"<td>0\.060</td><td>0\.045</td><td>87 %</td>", page)
    assert len(re.findall("<svg", page)) == 3


def test_a_loop_without_rounds_has_a_report_too(tmp_path: Path) -> None:
    nothing = Outcome(Scale(), overview(0, 0), (), {}, {"votes": 0.5, "full": 0.9}, (), (), 0)
    assert "simulated" in loop_report.write(nothing, tmp_path, TREE, tmp_path / "report.html").read_text()


def test_the_screen_shows_galaxies_and_rounds(tmp_path: Path) -> None:
    creation.simulate(tmp_path / "sky", 6, 0, 16, 0)
    moment = Moment(Scale(), 1234, 17, 6, 2, 61.0, 20.2, "fitting", (record(1),), "http://localhost:1")
    console = Console(record=True, width=100, file=(tmp_path / "screen").open("w"), force_terminal=True)
    console.print(shown._Screen(tmp_path / "sky").draw(moment))
    text = console.export_text()
    console.file.close()
    assert "1,234 of 19,200" in text
    assert "17 volunteers" in text
    picture = shown._picture(tmp_path / "sky" / "images" / "sim-000001.png", 8)
    assert picture.plain == ("▀" * 8 + "\n") * 4


def test_help_teaches() -> None:
    for command in ("demo", "plan"):
        said = CliRunner().invoke(app, [command, "--help"]).output
        assert "Examples" in said
