"""A campaign rehearsed: simulated volunteers come, classify and leave, through the real store and its queue.

Nothing is served and nobody waits: the clock is simulated, so that months pass in minutes. Who comes when, and for
how long, are `Habits`; what they answer is an `Answers`, from a known truth or from votes recorded elsewhere. The
same seed gives the same campaign.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field

from greenpea.classifications import Annotations
from greenpea.client import walk
from greenpea.errors import GreenpeaError
from greenpea.simulate import Volunteers, annotate
from greenpea.store import Counted, HandOut, Receipt, SentClassification, Store
from greenpea.tree import DecisionTree, Question
from greenpea.votes import Votes

WINDOW = 7.0  # days whose arrivals are drawn together
BATCH = 50  # subjects a volunteer is handed at once
FRUITLESS = 50  # visits in a row without a counted classification, after which nothing more will come
LONGEST_LAUNCH = 30.0  # launch_days after which nobody comes because of the launch any more
Behaviour = Literal["honest", "clicking", "first", "scripted"]
Ended = Literal["retired", "budget", "votes", "deserted"]


# ---- who comes when ----------------------------------------------------------------------------------


class Habits(BaseModel):
    """How volunteers come, stay and leave.

    Most people come once and do little, and a few who return do most of the work (Sauermann & Franzoni 2015, PNAS
    112, 679, on seven Zooniverse projects); the laws here are chosen to be like that, and the numbers are guesses
    to be replaced by a project's own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    arrivals: float = Field(30.0, ge=0, description="new volunteers a day")
    launch: float = Field(0.0, ge=0, description="more new volunteers, who come because the project opens")
    launch_days: float = Field(5.0, gt=0, description="days in which the launch's attraction falls by a factor of e")
    once: float = Field(0.7, ge=0, le=1, description="share of volunteers who come once and never again")
    visits: float = Field(8.0, ge=2, description="mean visits of those who do come again")
    gap: float = Field(4.0, gt=0, description="mean days between two visits")
    length: float = Field(20.0, ge=1, description="mean classifications in a visit")
    spread: float = Field(1.3, ge=0, le=3, description="s.d. of the logarithm of a volunteer's zeal (visits; length)")
    pace: float = Field(20.0, gt=0, description="seconds a classification takes")
    clicking: float = Field(0.02, ge=0, le=1, description="share of volunteers who answer at random")
    first: float = Field(0.01, ge=0, le=1, description="share who always give the first answer")
    scripted: float = Field(0.01, ge=0, le=1, description="share who always give the same answers, as a script would")

    @property
    def mean_visits(self) -> float:
        """Mean visits of a volunteer, drop-outs included."""
        return self.once + (1 - self.once) * self.visits

    @property
    def mean_classifications(self) -> float:
        """Mean classifications of a volunteer who is given all the time they want."""
        return self.mean_visits * self.length


class Visits(NamedTuple):
    """Visits: when they begin, in days since the opening; by whom; how many classifications are meant to be made."""

    day: Float[np.ndarray, " visit"]
    volunteer: Int[np.ndarray, " visit"]
    wanted: Int[np.ndarray, " visit"]


def cohort(habits: Habits, begin: float, end: float, rng: np.random.Generator) -> Visits:
    """Draw every visit, however late, of the volunteers who first come between two days; volunteers from 0.

    Visits per volunteer: 1 with probability ``once``, else 2 + Poisson(λ); classifications per visit: 1 +
    Poisson(λ'); both λ log-normal over volunteers: heavy tails with exact means. Gaps are exponential.
    """
    arrived = np.sort(np.concatenate([_steady(habits, begin, end, rng), _launched(habits, begin, end, rng)]))
    again = 2 + rng.poisson(_lognormal(habits.visits - 2, habits.spread, len(arrived), rng))
    number = np.where(rng.random(len(arrived)) < habits.once, 1, again)
    zeal = _lognormal(habits.length - 1, habits.spread, len(arrived), rng)
    volunteer = np.repeat(np.arange(len(arrived)), number)
    gaps = rng.exponential(habits.gap, len(volunteer))
    firsts = np.cumsum(number) - number
    gaps[firsts] = 0.0
    since = np.cumsum(gaps)
    day = arrived[volunteer] + since - since[firsts][volunteer]
    return Visits(day, volunteer, 1 + rng.poisson(zeal[volunteer]))


def _steady(habits: Habits, begin: float, end: float, rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(begin, end, rng.poisson(habits.arrivals * (end - begin)))


def _launched(habits: Habits, begin: float, end: float, rng: np.random.Generator) -> np.ndarray:
    """Draw arrivals at the rate launch · exp(−t/τ)/τ."""
    early, late = (-math.expm1(-day / habits.launch_days) for day in (begin, end))
    shares = rng.uniform(early, late, rng.poisson(habits.launch * (late - early)))
    return np.asarray(-habits.launch_days * np.log1p(-shares))


def _lognormal(mean: float, spread: float, count: int, rng: np.random.Generator) -> np.ndarray:
    return mean * np.exp(rng.normal(-(spread**2) / 2, spread, count))


def visits(habits: Habits, rng: np.random.Generator) -> Iterator[tuple[float, int, int]]:
    """Yield (day, volunteer, classifications wanted) in order of time; without end, unless nobody comes any more."""
    waiting = Visits(*(np.zeros(0, kind) for kind in (float, int, int)))
    begin, known = 0.0, 0
    while habits.arrivals or len(waiting.day) or begin < LONGEST_LAUNCH * habits.launch_days:
        new = cohort(habits, begin, begin + WINDOW, rng)
        new = new._replace(volunteer=new.volunteer + known)
        known = max(known, int(new.volunteer.max(initial=-1)) + 1)
        both = Visits(*(np.concatenate(pair) for pair in zip(waiting, new, strict=True)))
        begin += WINDOW
        order = np.argsort(both.day, kind="stable")
        due, later = order[both.day[order] < begin], order[both.day[order] >= begin]
        yield from zip(*(values[due].tolist() for values in both), strict=True)
        waiting = Visits(*(values[later] for values in both))


# ---- what they answer --------------------------------------------------------------------------------


class Answers(Protocol):
    """What honest volunteers answer about subjects; None where this cannot be told, and nothing is sent.

    ``volunteer`` is a number from 0 in the order of arrival.
    """

    def __call__(
        self, volunteer: int, subject_ids: Sequence[str], rng: np.random.Generator
    ) -> Sequence[Annotations | None]: ...


class FromTruth:
    """Volunteers of known skill look at subjects of known truth (`greenpea.simulate`).

    ``truth`` is question → fractions, rows as ``subject_ids``. Volunteers beyond the crowd have the skills of its
    first ones again.
    """

    def __init__(
        self,
        truth: Mapping[str, np.ndarray],
        subject_ids: Sequence[str] | np.ndarray,
        tree: DecisionTree,
        crowd: Volunteers,
    ) -> None:
        self.truth, self.tree, self.people = truth, tree, len(crowd)
        self.rows = {str(subject): row for row, subject in enumerate(subject_ids)}
        self.confusions = crowd.confusions(tree)

    def __call__(self, volunteer: int, subject_ids: Sequence[str], rng: np.random.Generator) -> list[Annotations]:
        rows = np.array([self.rows[subject] for subject in subject_ids], np.int64)
        who = np.full(len(rows), volunteer % self.people)
        return list(annotate(self.truth, self.tree, self.confusions, rows, who, rng))


def truth_in(path: Path, tree: DecisionTree, subject_ids: np.ndarray) -> dict[str, np.ndarray]:
    """Return the fractions of a table with columns ``<question>_<answer>``, as `creation.simulate` writes it."""
    table = pq.read_table(path)
    place = {subject: row for row, subject in enumerate(table["subject_id"].to_pylist())}
    rows = [place[str(subject)] for subject in subject_ids]
    found = {}
    for question in tree.questions:
        columns = [table[f"{question.slug}_{answer}"].to_numpy()[rows] for answer in question.answer_slugs]
        shares = np.stack(columns, axis=1).astype(float)
        found[question.slug] = shares if question.kind == "multiple" else shares / shares.sum(axis=1, keepdims=True)
    return found


class Replay:
    """Recorded votes come out again: those of each subject in a random order, each once, to whoever looks at it.

    For a tree with one single-choice question, of which only counts are known. Raises GreenpeaError for others:
    their counts do not tell whose answers belong together.
    """

    def __init__(self, votes: Votes, rng: np.random.Generator) -> None:
        question = votes.tree[votes.tree.first]
        if len(votes.tree.questions) > 1 or question.kind == "multiple":
            raise GreenpeaError(
                f"votes on the tree {votes.tree.name!r} cannot be replayed: that takes a tree of one question with "
                f"one answer each; replay classifications, or simulate volunteers from the fractions"
            )
        self.question = question
        counts = votes.counts[question.slug]
        recorded = (np.repeat(np.arange(counts.shape[1]), row) for row in counts)
        self.left = {
            str(subject): rng.permutation(one).tolist()
            for subject, one in zip(votes.subject_ids, recorded, strict=True)
        }

    def __call__(
        self, volunteer: int, subject_ids: Sequence[str], rng: np.random.Generator
    ) -> list[Annotations | None]:
        return [self._next(subject) for subject in subject_ids]

    def _next(self, subject: str) -> Annotations | None:
        left = self.left.get(subject)
        return {self.question.slug: [self.question.answer_slugs[left.pop()]]} if left else None


def behaviour(habits: Habits, volunteer: int, seed: int) -> Behaviour:
    """Return how a volunteer behaves: a function of the seed, so that it can be asked again afterwards."""
    edges = np.cumsum([habits.clicking, habits.first, habits.scripted])
    kinds: tuple[Behaviour, ...] = ("clicking", "first", "scripted", "honest")
    dice = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(volunteer, 0))).random()
    return kinds[int(np.searchsorted(edges, dice, side="right"))]


def misbehaved(kind: Behaviour, tree: DecisionTree, script: int, rng: np.random.Generator) -> dict[str, list[str]]:
    """Return a walk that has not looked at the subject; ``script`` seeds the answers of a scripted volunteer."""

    def answer(question: Question) -> list[str]:
        if kind == "first":
            return [question.answer_slugs[0]]
        chance = rng if kind == "clicking" else np.random.default_rng([script, tree.slugs.index(question.slug)])
        return [question.answer_slugs[int(chance.integers(len(question.answers)))]]

    return walk(tree, answer)


# ---- the campaign ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Progress:
    """How far a rehearsal is. ``ended`` says why it is over, in its last value."""

    classifications: int  # counted
    retired: int
    subjects: int
    volunteers: int  # who came
    now: datetime  # simulated
    ended: Ended | None = None


Turn = Callable[[Store, datetime], Any]


def rehearse(
    store: Store,
    answers: Answers,
    habits: Habits,
    seed: int,
    start: datetime,
    *,
    budget: int | None = None,
    block: int = 1000,
    turn: Turn | None = None,
) -> Iterator[Progress]:
    """Let volunteers classify what the store's queue hands them, from ``start`` on; yield after each ``block``.

    Ends when every subject is "retired", after ``budget`` counted classifications, when there are no "votes" left
    to replay, or when the site is "deserted". ``turn`` is called between blocks, as a round of active learning
    would be. Visits follow one another in order of their beginnings, each as a whole.
    """
    if budget is None and store.workflows.active().workflow.limit is None:
        raise GreenpeaError("this workflow has no rule 'count', so a rehearsal may never end: give it a budget")
    company = _Company(store, answers, habits, seed, start)
    done, fruitless, latest, told = 0, 0, start, 0
    for number, (day, volunteer, wanted) in enumerate(visits(habits, np.random.default_rng([seed, 1]))):
        begun = done
        if budget is not None:
            wanted = min(wanted, budget - done)
        for made, now in company.visit(number, day, volunteer, wanted):
            done, latest = done + made, max(latest, now)
            if done - told >= block:
                told = done
                if turn is not None:
                    turn(store, latest)
                yield company.progress(done, latest)
        fruitless = 0 if done > begun else fruitless + 1
        if ended := _ended(company, done, fruitless, budget, latest):
            yield company.progress(done, latest, ended)
            return
    yield company.progress(done, latest, "deserted")


def _ended(company: _Company, done: int, fruitless: int, budget: int | None, now: datetime) -> Ended | None:
    if budget is not None and done >= budget:
        return "budget"
    if fruitless and company.finished(now):
        return "retired"
    return "votes" if fruitless >= FRUITLESS else None


class _Company:
    """The volunteers in a store: who they are there, and how they classify."""

    def __init__(self, store: Store, answers: Answers, habits: Habits, seed: int, start: datetime) -> None:
        self.store, self.answers, self.habits = store, answers, habits
        self.seed, self.start = seed, start
        self.ids: dict[int, int] = {}  # volunteer → their number in the store

    def progress(self, done: int, now: datetime, ended: Ended | None = None) -> Progress:
        overview = self.store.statistics.overview(now)
        return Progress(done, overview.retired, overview.subjects, len(self.ids), now, ended)

    def finished(self, now: datetime) -> bool:
        overview = self.store.statistics.overview(now)
        return overview.retired >= overview.subjects

    def visit(self, number: int, day: float, volunteer: int, wanted: int) -> Iterator[tuple[int, datetime]]:
        """Classify until there is enough, or nothing left; yield, batch by batch, how many were counted, and when."""
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(number, 1)))
        now = self.start + timedelta(days=day)
        if volunteer not in self.ids:
            self.ids[volunteer] = self.store.people.anonymous(now).id
        kind = behaviour(self.habits, volunteer, self.seed)
        while wanted > 0:
            handed = self.store.queue.next(self.ids[volunteer], min(wanted, BATCH), now, rng)
            sent = self._classify(volunteer, kind, handed, now, rng)
            if not sent:
                return
            now += len(sent) * timedelta(seconds=self.habits.pace)
            receipts = self.store.classifications.submit(sent, now)
            wanted -= len(sent)
            yield sum(_counts(receipt) for receipt in receipts), now

    def _classify(
        self, volunteer: int, kind: Behaviour, handed: Sequence[HandOut], now: datetime, rng: np.random.Generator
    ) -> list[SentClassification]:
        if not handed:
            return []
        if kind == "honest":
            walks = self.answers(volunteer, [each.subject.subject_id for each in handed], rng)
        else:
            tree = self.store.workflows.active().workflow.tree
            walks = [misbehaved(kind, tree, volunteer, rng) for _ in handed]
        pairs = zip(handed, walks, strict=True)
        return [_sent(each, one, now, self.habits.pace, rng) for each, one in pairs if one is not None]


def _sent(
    handed: HandOut, annotations: Annotations, now: datetime, pace: float, rng: np.random.Generator
) -> SentClassification:
    return SentClassification(
        uuid=str(uuid.UUID(bytes=rng.bytes(16), version=4)),
        volunteer=handed.volunteer,
        subject=handed.subject.id,
        version=handed.version,
        annotations=annotations,
        handout=handed.id,
        stream=handed.stream,
        round=handed.round,
        probability=handed.probability,
        started_at=now,
        finished_at=now + timedelta(seconds=pace),
    )


def _counts(receipt: Receipt) -> bool:
    if receipt.counted is None:
        raise GreenpeaError(f"the store refused a simulated classification: {receipt.error}")
    return receipt.counted is Counted.YES
