"""Rehearsals: the same seed gives the same campaign, and nothing is counted but what was cast."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest

from greenpea import simulate
from greenpea.classifications import check
from greenpea.errors import GreenpeaError
from greenpea.rehearsal import (
    Behaviour,
    FromTruth,
    Habits,
    Progress,
    Replay,
    behaviour,
    cohort,
    misbehaved,
    rehearse,
    visits,
)
from greenpea.store import NewSubject, Store
from greenpea.tree import DecisionTree
from greenpea.votes import Votes
from greenpea.workflow import Workflow
from site_hands import workflow

START = datetime(2026, 1, 1, tzinfo=UTC)
TREE = DecisionTree.load("gz-decals-5")
SUBJECTS = 30
ONE_QUESTION = DecisionTree.load("binary")


def truth(tree: DecisionTree = TREE, subjects: int = SUBJECTS) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        question.slug: rng.beta(0.3, 3.0, (subjects, len(question.answers)))
        if question.kind == "multiple"
        else rng.dirichlet(np.full(len(question.answers), 0.5), subjects)
        for question in tree.questions
    }


IDS = [f"g{number}" for number in range(SUBJECTS)]


def fresh(path: Path, chosen: Workflow, subjects: int = SUBJECTS) -> Store:
    store = Store.open(path)
    store.workflows.publish(chosen, START)
    store.subjects.add((NewSubject(f"g{number}", ("",)) for number in range(subjects)), START, 0.1)
    return store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = fresh(tmp_path / "store.sqlite", workflow(limit=12))
    yield opened
    opened.close()


def played(store: Store, seed: int = 0, habits: Habits | None = None, **more: object) -> list[Progress]:
    answers = FromTruth(truth(), IDS, TREE, simulate.volunteers(40, 2))
    return list(rehearse(store, answers, habits or Habits(), seed, START, block=60, **more))  # type: ignore[arg-type]


def cast(store: Store) -> list[tuple[object, ...]]:
    public: dict[str, int] = {}
    return [
        (one.uuid, one.subject_id, public.setdefault(one.volunteer.public, len(public)), one.annotations,
         one.stream, one.started_at, one.received_at)
        for one in store.classifications.stream()
    ]  # fmt: skip


# ---- who comes when ----------------------------------------------------------------------------------


def test_a_cohort_has_the_means_it_promises() -> None:
    habits = Habits(arrivals=200, once=0.6, visits=5, length=12, spread=0.8)
    found = cohort(habits, 10, 110, np.random.default_rng(0))
    each = np.bincount(found.volunteer)
    people = len(each)
    assert people == pytest.approx(20_000, abs=5 * np.sqrt(20_000))
    assert (each == 1).mean() == pytest.approx(0.6, abs=0.02)
    assert each.mean() == pytest.approx(habits.mean_visits, rel=0.03)
    total = np.bincount(found.volunteer, found.wanted)
    assert total.mean() == pytest.approx(habits.mean_classifications, rel=0.06)
    assert found.day.min() >= 10
    assert found.wanted.min() >= 1
    firsts = np.unique(found.volunteer, return_index=True)[1]
    assert found.day[firsts].max() < 110  # they arrive within the days; their later visits may be later
    later = np.setdiff1d(np.arange(len(found.day)), firsts)
    assert (found.day[later] - found.day[later - 1]).mean() == pytest.approx(habits.gap, rel=0.05)


def test_a_launch_decays_by_e() -> None:
    habits = Habits(arrivals=0, launch=50_000, launch_days=4, once=1)
    early = len(cohort(habits, 0, 4, np.random.default_rng(0)).day)
    assert early == pytest.approx(50_000 * (1 - np.exp(-1)), rel=0.02)
    later = cohort(habits, 4, 8, np.random.default_rng(1))
    assert len(later.day) == pytest.approx(early / np.e, rel=0.03)
    assert later.day.min() >= 4
    assert later.day.max() < 8


def test_visits_come_in_order_and_all_of_them() -> None:
    habits = Habits(arrivals=0, launch=30, launch_days=2, once=0.2, gap=10)
    found = list(visits(habits, np.random.default_rng(3)))
    days = [day for day, _, _ in found]
    assert days == sorted(days)
    people = {volunteer for _, volunteer, _ in found}
    assert people == set(range(len(people)))
    assert len(found) > 2 * len(people)  # those who return within weeks are there as well


def test_habits_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="once"):
        Habits(once=1.2)


# ---- the campaign ------------------------------------------------------------------------------------


def test_all_retire_and_the_counts_equal_a_recount(store: Store) -> None:
    told = played(store)
    assert told[-1].ended == "retired"
    assert told[-1].retired == told[-1].subjects == SUBJECTS
    overview = store.statistics.overview(START)
    assert told[-1].classifications == overview.counted == SUBJECTS * 12
    assert store.classifications.recount() == 0
    assert [one.classifications for one in told] == sorted(one.classifications for one in told)
    assert all(earlier.now <= later.now for earlier, later in pairwise(told))
    pairs = [(volunteer, subject) for _, subject, volunteer, *_ in cast(store)]
    assert len(pairs) == len(set(pairs))  # nobody saw a subject twice


def test_the_same_seed_gives_the_same_campaign(tmp_path: Path) -> None:
    found = []
    for name, seed in (("one", 5), ("two", 5), ("other", 6)):
        store = fresh(tmp_path / name, workflow(limit=12))
        found.append((played(store, seed), cast(store)))
        store.close()
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_a_budget_ends_it_to_the_last_classification(store: Store) -> None:
    told = played(store, budget=101)
    assert told[-1].ended == "budget"
    assert told[-1].classifications == store.statistics.overview(START).counted == 101


def test_rounds_take_turns_between_blocks(store: Store) -> None:
    turns: list[tuple[int, datetime]] = []
    told = played(store, turn=lambda at, now: turns.append((at.statistics.overview(now).counted, now)))
    assert [(one.classifications, one.now) for one in told[:-1]] == turns
    assert len(turns) >= 3


def test_without_a_limit_it_asks_for_a_budget(tmp_path: Path) -> None:
    chosen = workflow(limit=1).model_copy(update={"retirement": (Workflow.from_json(NEVER).retirement[0],)})
    store = fresh(tmp_path / "store.sqlite", chosen)
    with pytest.raises(GreenpeaError, match="budget"):
        played(store)
    assert played(store, budget=50)[-1].classifications == 50
    store.close()


NEVER = '{"name": "t", "questions": [{"slug": "q", "answers": [{"slug": "a"}, {"slug": "b"}]}], "retirement": [{"rule": "never"}]}'  # noqa: E501


def test_a_site_that_nobody_visits_is_deserted(store: Store) -> None:
    told = played(store, habits=Habits(arrivals=0, launch=1, launch_days=1, once=1, length=2))
    assert told[-1].ended == "deserted"


# ---- bad actors --------------------------------------------------------------------------------------


def test_bad_actors_are_there_in_their_shares() -> None:
    habits = Habits(clicking=0.2, first=0.1, scripted=0.05)
    kinds = [behaviour(habits, volunteer, 7) for volunteer in range(4000)]
    for kind, share in (("clicking", 0.2), ("first", 0.1), ("scripted", 0.05), ("honest", 0.65)):
        assert kinds.count(kind) / 4000 == pytest.approx(share, abs=0.03)  # type: ignore[arg-type]
    assert kinds[:50] == [behaviour(habits, volunteer, 7) for volunteer in range(50)]


@pytest.mark.parametrize("kind", ["clicking", "first", "scripted"])
def test_bad_actors_walk_the_whole_tree(kind: Behaviour) -> None:
    rng = np.random.default_rng(0)
    walks = [misbehaved(kind, TREE, 3, rng) for _ in range(60)]
    for one in walks:
        check(TREE, one)
    different = len({repr(one) for one in walks})
    assert (different > 20) if kind == "clicking" else (different == 1)
    if kind == "first":
        assert all(given == [TREE[slug].answer_slugs[0]] for slug, given in walks[0].items())


def test_what_bad_actors_send_does_not_look_at_the_subject(store: Store) -> None:
    habits = Habits(clicking=0, first=1, scripted=0)
    played(store, habits=habits)
    walk = misbehaved("first", TREE, 0, np.random.default_rng(0))
    assert all(one.annotations == walk for one in store.classifications.stream())


# ---- votes replayed ----------------------------------------------------------------------------------


def recorded(rng: np.random.Generator, subjects: int = SUBJECTS, most: int = 9) -> Votes:
    question = ONE_QUESTION[ONE_QUESTION.first]
    votes = Votes.empty(ONE_QUESTION, [f"g{number}" for number in range(subjects)])
    votes.counts[question.slug][:] = rng.integers(0, most, (subjects, len(question.answers)))
    votes.reached[question.slug][:] = votes.counts[question.slug].sum(axis=1)
    return votes


def test_each_recorded_vote_comes_out_once(tmp_path: Path) -> None:
    votes = recorded(np.random.default_rng(4))
    chosen = Workflow.from_json(workflow(limit=200, tree="binary").to_json())
    store = fresh(tmp_path / "store.sqlite", chosen)
    habits = Habits(clicking=0, first=0, scripted=0)
    told = list(rehearse(store, Replay(votes, np.random.default_rng(0)), habits, 1, START))
    assert told[-1].ended == "votes"
    assert store.classifications.votes().align(votes.subject_ids) == votes  # all of them, and none twice
    store.close()


def test_replayed_votes_retire_subjects_and_stay_a_part_of_what_was_recorded(tmp_path: Path) -> None:
    votes = recorded(np.random.default_rng(5), most=20)
    slug = ONE_QUESTION.first
    votes.counts[slug][:] += 5
    votes.reached[slug][:] = votes.counts[slug].sum(axis=1)
    store = fresh(tmp_path / "store.sqlite", workflow(limit=8, tree="binary"))
    told = list(rehearse(store, Replay(votes, np.random.default_rng(0)), Habits(), 1, START))
    found = store.classifications.votes().align(votes.subject_ids)
    assert told[-1].ended == "retired"
    assert (found.reached[slug] == 8).all()
    store.close()


def test_the_order_of_replayed_votes_is_fair() -> None:
    votes = recorded(np.random.default_rng(0), 400)
    slug = ONE_QUESTION.first
    votes.counts[slug][:] = (6, 2)
    votes.reached[slug][:] = 8
    replay = Replay(votes, np.random.default_rng(9))
    answers = replay(0, [str(one) for one in votes.subject_ids], np.random.default_rng(0))
    first = ONE_QUESTION[slug].answer_slugs[0]
    share = np.mean([one is not None and list(one[slug]) == [first] for one in answers])
    assert share == pytest.approx(0.75, abs=5 * np.sqrt(0.75 * 0.25 / 400))


def test_votes_on_a_whole_tree_cannot_be_replayed() -> None:
    with pytest.raises(GreenpeaError, match="one question"):
        Replay(Votes.empty(TREE, IDS), np.random.default_rng(0))


def test_visits_are_endless_while_people_come() -> None:
    assert len(list(islice(visits(Habits(arrivals=50), np.random.default_rng(0)), 20_000))) == 20_000
