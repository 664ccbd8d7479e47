"""Plans: the arithmetic against closed forms, and the command as people run it."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from greenpea import planning
from greenpea.cli import app
from greenpea.errors import GreenpeaError
from greenpea.records import Record
from greenpea.rehearsal import Habits, Visits
from greenpea.tree import DecisionTree
from greenpea.votes import Votes
from greenpea.workflow import Workflow
from site_hands import make_campaign, workflow

# Everybody comes once and makes exactly one classification: a Poisson process.
ONCE = Habits(arrivals=4, once=1, length=1, spread=0)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def flows(habits: Habits, total: float, subjects: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.array([planning.until(habits, total, subjects, rng) for _ in range(count)])


# ---- how long it takes -------------------------------------------------------------------------------


def test_one_classification_each_takes_as_long_as_a_poisson_process() -> None:
    days, people = flows(ONCE, 40, 1000, 600).T
    expected = stats.gamma(40, scale=1 / 4)  # the time of the 40th event at 4 a day
    assert stats.kstest(days, expected.cdf).pvalue > 1e-3
    assert (people == 40).all()


def test_twice_the_volunteers_take_half_as_long() -> None:
    habits = Habits(arrivals=20, spread=0.3, once=0.7, visits=3, gap=0.5, length=10)
    slow = flows(habits, 8000, 10_000, 60)[:, 0].mean()
    fast = flows(habits.model_copy(update={"arrivals": 40}), 8000, 10_000, 60)[:, 0].mean()
    # Volunteers × mean classifications, less those of visits still to come.
    assert slow == pytest.approx(8000 / (20 * habits.mean_classifications), rel=0.08)
    assert slow / fast == pytest.approx(2, rel=0.06)


def test_a_large_survey_is_thinned_with_its_mean_kept() -> None:
    days, people = flows(ONCE.model_copy(update={"arrivals": 1e5}), 4e6, 10**7, 30).T
    assert days.mean() == pytest.approx(40, rel=0.01)
    assert people.mean() == pytest.approx(4e6, rel=0.01)


def test_nobody_makes_more_classifications_than_there_are_subjects() -> None:
    flow = Visits(np.arange(6.0), np.array([0, 0, 0, 1, 2, 2]), np.array([3, 4, 5, 2, 9, 1]))
    assert planning._capped(flow, 8).tolist() == [3, 4, 1, 2, 8, 0]
    # Ten subjects, forty votes each: forty people at least, however keen.
    _, people = flows(Habits(arrivals=3, length=500, once=1, spread=0), 400, 10, 20).T
    assert people.min() >= 40


def test_what_will_never_be_done_is_infinite() -> None:
    assert planning.until(ONCE.model_copy(update={"arrivals": 0, "launch": 5}), 100, 50, np.random.default_rng(0)) == (
        math.inf,
        math.inf,
    )
    assert planning.until(ONCE, 0, 50, np.random.default_rng(0)) == (0, 0)


# ---- what a subject takes ----------------------------------------------------------------------------


def round_with(saved: int, spent: int, finished: bool = True) -> Record:
    stages = {"finished": NOW} if finished else {}
    return Record(1, 0, NOW, stages, {}, "1.0", saved=saved, spent=spent)


def test_rounds_tell_what_the_network_saves() -> None:
    # 50 of 200 subjects retired after 10 of 40 votes each.
    need = planning.from_rounds([round_with(1500, 500)], 40, 200)
    assert need is not None
    assert need.low == pytest.approx(10)
    assert need.high == pytest.approx((50 * 10 + 150 * 40) / 200)


def test_rounds_that_retired_nothing_tell_nothing() -> None:
    assert planning.from_rounds([], 40, 10) is None
    assert planning.from_rounds([round_with(0, 0), round_with(5, 5, finished=False)], 40, 10) is None


def test_the_full_limit_takes_the_full_limit() -> None:
    tree = DecisionTree.load("binary")
    truth = {tree.first: np.full((20, 2), 0.5)}
    names = [f"s{number}" for number in range(20)]
    need = planning.rehearsed(
        workflow(limit=7, tree="binary"), truth, names, Habits(), 0.1, 0, lambda stage, share, words: None
    )
    assert (need.low, need.high) == (7, 7)
    assert need.reasons == {"count": 20}


def test_consensus_saves_what_it_must() -> None:
    """With everybody of one mind, a subject takes exactly the fewest votes of the rule."""
    tree = DecisionTree.load("binary")
    rules = [
        {"rule": "count", "classifications": 12},
        {"rule": "consensus", "question": "answer", "share": 0.9, "votes": 4},
    ]
    chosen = Workflow.from_json(json.dumps(json.loads(tree.to_json()) | {"retirement": rules}))
    truth = {"answer": np.tile([1.0, 0.0], (25, 1))}
    habits = Habits(clicking=0, first=0, scripted=0)
    names = [f"s{number}" for number in range(25)]
    need = planning.rehearsed(chosen, truth, names, habits, 0.0, 0, lambda stage, share, words: None)
    assert (need.low, need.high) == (4, 4)


def test_smoothed_fractions_follow_their_formula() -> None:
    tree = DecisionTree.load("binary")
    votes = Votes.empty(tree, ["a", "b"])
    votes.counts["answer"][:] = [[8, 0], [0, 0]]
    votes.reached["answer"][:] = [8, 0]
    mean = np.array([9, 1]) / 10
    assert planning.smoothed(votes, "answer") == pytest.approx(np.array([(np.array([8, 0]) + 2 * mean) / 10, mean]))
    assert planning.smoothed(votes, "answer").sum(axis=1) == pytest.approx([1, 1])


# ---- the assumptions, and the command ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("onec=0.5", "did you mean 'once'"),
        ("once", "once=NUMBER"),
        ("once=2", "once=2"),
        ("arrivals=3", "--volunteers"),
    ],
)
def test_a_wrong_assumption_is_told(given: str, words: str) -> None:
    with pytest.raises(GreenpeaError, match=words):
        planning.habits_of([given])


@pytest.mark.parametrize("value", [0.3, 7.0, 12.0, 334.0, 98_765.0])
def test_rounded_numbers_keep_two_figures(value: float) -> None:
    assert float(planning.rounded(value).replace(",", "")) == pytest.approx(value, rel=0.05)


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["plan", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return " ".join(result.output.split())


def test_the_command_answers_with_a_table_a_picture_and_figures(tmp_path: Path) -> None:
    folder = make_campaign(tmp_path / "campaign", 14, workflow(limit=6))
    shown = run(folder, "--volunteers", "20,200", "--json", tmp_path / "plan.json", "--set", "once=0.5")
    assert "14 subjects" in shown
    assert "fractions at random" in shown  # nobody has voted: it says so
    assert "--set once=… 0.5" in shown
    assert (folder / "plan.png").read_bytes().startswith(b"\x89PNG")
    figures = json.loads((tmp_path / "plan.json").read_text())
    few, many = figures["outlooks"]["votes alone"]
    assert few["weeks"]["low"] <= few["weeks"]["middle"] <= few["weeks"]["high"]
    assert many["weeks"]["middle"] < few["weeks"]["middle"]
    assert figures["habits"]["once"] == 0.5
    assert figures["with_network"] is None


def test_the_same_seed_gives_the_same_plan(tmp_path: Path) -> None:
    folder = make_campaign(tmp_path / "campaign", 12, workflow(limit=4))
    first, again = (planning.plan(folder, Habits(), (50,), 10, seed=3) for _ in range(2))
    assert first == again


def test_a_workflow_without_an_end_is_refused(tmp_path: Path) -> None:
    folder = make_campaign(tmp_path / "campaign", 12)
    values = json.loads((folder / "workflow.json").read_text())
    values["retirement"] = [{"rule": "never"}]
    (folder / "workflow.json").write_text(json.dumps(values))
    with pytest.raises(GreenpeaError, match=r"workflow\.json.*rule 'count'"):
        planning.plan(folder, Habits())
