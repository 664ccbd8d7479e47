"""Volunteers with known skill who walk a decision tree, on any tree and any truth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from jaxtyping import Float, Int

from greenpea.errors import GreenpeaError
from greenpea.simulate.population import subject_names
from greenpea.tree import DecisionTree, Question
from greenpea.votes import Votes

Truth = Mapping[str, Float[np.ndarray, "subject answer"]]

CARELESS = 0.04  # share of volunteers whose answers hardly depend on the picture
BLOCK = 128  # subjects classified at a time, each block with its own random stream
SHARES_BLOCK = 16  # subjects whose shares for a whole crowd are held at a time: small, to stay in the cache


@dataclass(frozen=True, eq=False)
class Volunteers:
    """A crowd: each volunteer answers from the truth with probability ``skill``, else from a confusion matrix.

    ``spread``, in answers, is how far confusion carries along the list of answers; each volunteer also has a
    taste for some answers, of every question, drawn from ``seed``.
    """

    skill: Float[np.ndarray, " volunteer"]
    spread: Float[np.ndarray, " volunteer"]
    seed: int

    def __len__(self) -> int:
        return len(self.skill)

    def confusions(self, tree: DecisionTree) -> dict[str, np.ndarray]:
        """Return question slug → `confusion`."""
        return {question.slug: self.confusion(question) for question in tree.questions}

    def confusion(self, question: Question) -> Float[np.ndarray, "volunteer truth answer"]:
        """Return P(volunteer answers | an ideal volunteer would answer), the skilled share included.

        For a ``single`` question of shape (volunteer, answer, answer), rows summing to 1. For a ``multiple``
        one of shape (volunteer, answer, 2): P(ticks | absent) and P(ticks | present), answer by answer.
        """
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(crc32(question.slug.encode()),)))
        answers = len(question.answers)
        if question.kind == "multiple":
            by_chance = np.stack(
                [rng.beta(1.2, 9.0, (len(self), answers)), rng.beta(3.0, 2.0, (len(self), answers))], axis=2
            )
            perfect = np.array([0.0, 1.0])
        else:
            place = np.arange(answers)
            taste = rng.normal(0.0, 0.6, (len(self), 1, answers))
            # C(a → b) ∝ exp(−|a − b| / spread + taste_b)
            distance = np.abs(place[:, None] - place[None, :])
            by_chance = np.exp(taste - distance / self.spread[:, None, None])
            by_chance /= by_chance.sum(axis=2, keepdims=True)
            perfect = np.eye(answers)
        skill = self.skill[:, None, None]
        return np.asarray(skill * perfect + (1 - skill) * by_chance)


def volunteers(count: int, seed: int) -> Volunteers:
    """Draw a crowd: skill from Beta(7, 2), mean 0.78, but a few (`CARELESS`) have next to none."""
    if count < 1:
        raise GreenpeaError(f"a crowd of {count} volunteers: ask for at least one")
    rng = np.random.default_rng(seed)
    careless = rng.random(count) < CARELESS
    return Volunteers(
        skill=np.where(careless, rng.uniform(0.0, 0.1, count), rng.beta(7.0, 2.0, count)),
        spread=np.where(careless, 20.0, rng.lognormal(np.log(0.8), 0.4, count)),
        seed=seed,
    )


def expected_fractions(truth: Truth, tree: DecisionTree, volunteers: Volunteers) -> dict[str, np.ndarray]:
    """Return, per question [subject, answer], the vote fractions of an infinite crowd of these volunteers.

    This is what a posterior should recover: among those who reach a question, confused parents included.
    """
    subjects = _check_truth(truth, tree)
    confusion = volunteers.confusions(tree)
    fractions = {slug: np.empty(np.shape(truth[slug])) for slug in tree.slugs}
    for rows in _blocks(subjects, SHARES_BLOCK):
        # p_v(b) = Σ_a truth(a) C_v(a → b), for every subject and volunteer
        replies = {slug: _reply_shares(truth[slug][rows], confusion[slug], tree[slug]) for slug in tree.slugs}
        reach = tree.reach(replies)
        for slug, shares in replies.items():
            # f(b) = Σ_v reach_v p_v(b) / Σ_v reach_v
            total = (reach[slug][:, None, :] @ shares)[:, 0]
            fractions[slug][rows] = total / reach[slug].sum(axis=1, keepdims=True)
    return fractions


def _reply_shares(
    truth: Float[np.ndarray, "subject answer"], confusion: np.ndarray, question: Question
) -> Float[np.ndarray, "subject volunteer answer"]:
    if question.kind == "multiple":
        absent, present = confusion[None, :, :, 0], confusion[None, :, :, 1]
        return np.asarray(absent + truth[:, None, :] * (present - absent))
    return np.asarray(np.tensordot(truth, confusion, axes=(1, 1)))


def classify(
    truth: Truth,
    tree: DecisionTree,
    votes_per_subject: int | Int[np.ndarray, " subject"],
    volunteers: Volunteers,
    seed: int,
    subject_ids: Sequence[str] | np.ndarray | None = None,
) -> Votes:
    """Let volunteers walk the tree over every subject, each subject seen by distinct volunteers.

    ``votes_per_subject`` is how many classify each; children are asked only of those whose answers lead there.
    ``subject_ids`` are ``sim-000001``, … unless given.
    """
    subjects = _check_truth(truth, tree)
    asked = np.broadcast_to(np.asarray(votes_per_subject), subjects)
    if asked.min(initial=0) < 0 or asked.max(initial=0) > len(volunteers):
        raise GreenpeaError(
            f"between {asked.min()} and {asked.max()} votes a subject: choose between 0 and the number of "
            f"volunteers ({len(volunteers)}), since nobody classifies a subject twice"
        )
    confusion = volunteers.confusions(tree)
    votes = Votes.empty(tree, list(subject_names(subjects) if subject_ids is None else subject_ids))
    for number, rows in enumerate(_blocks(subjects, BLOCK)):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,)))
        subject, volunteer = _assign(asked[rows], len(volunteers), rng)
        for slug, who, ticks in _walk(truth, tree, confusion, subject + rows.start, volunteer, rng):
            votes.reached[slug][rows] = np.bincount(subject[who], minlength=rows.stop - rows.start)
            np.add.at(votes.counts[slug], subject[who] + rows.start, ticks)
    return votes


def annotate(
    truth: Truth,
    tree: DecisionTree,
    confusion: Mapping[str, np.ndarray],
    subject: Int[np.ndarray, " walk"],
    volunteer: Int[np.ndarray, " walk"],
    rng: np.random.Generator,
) -> list[dict[str, list[str]]]:
    """Return what volunteers answer about subjects, pair by pair (indices): question → answers, each a whole walk.

    ``confusion`` is the crowd's (`Volunteers.confusions`). For simulations that hand subjects out one by one;
    `classify` counts a whole crowd's votes at once.
    """
    walks: list[dict[str, list[str]]] = [{} for _ in subject]
    for slug, who, ticks in _walk(truth, tree, confusion, subject, volunteer, rng):
        answers = tree[slug].answer_slugs
        for walk, ticked in zip(who.tolist(), ticks.tolist(), strict=True):
            walks[walk][slug] = [answer for answer, tick in zip(answers, ticked, strict=True) if tick]
    return walks


def _walk(
    truth: Truth,
    tree: DecisionTree,
    confusion: Mapping[str, np.ndarray],
    subject: Int[np.ndarray, " walk"],
    volunteer: Int[np.ndarray, " walk"],
    rng: np.random.Generator,
) -> Iterator[tuple[str, Int[np.ndarray, " who"], Int[np.ndarray, "who answer"]]]:
    """Yield, question by question, which walks get there and a one for each answer they give."""
    arrivals: dict[str, list[np.ndarray]] = {slug: [] for slug in tree.slugs}
    arrivals[tree.first].append(np.arange(len(subject)))
    for slug in tree.topological_order:
        question = tree[slug]
        who = np.concatenate(arrivals[slug]) if arrivals[slug] else np.zeros(0, np.int64)
        ticks = _replies(truth[slug][subject[who]], confusion[slug][volunteer[who]], question, rng)
        if question.next:
            arrivals[question.next].append(who)
        for index, answer in enumerate(question.answers):
            if answer.next:
                arrivals[answer.next].append(who[ticks[:, index] == 1])
        yield slug, who, ticks


def _replies(
    truth: Float[np.ndarray, "who answer"], confusion: np.ndarray, question: Question, rng: np.random.Generator
) -> Int[np.ndarray, "who answer"]:
    """Draw what each walker answers: one answer, or any number where the question is ``multiple``."""
    if question.kind == "multiple":
        absent, present = confusion[:, :, 0], confusion[:, :, 1]
        ticked = rng.random(truth.shape) < absent + truth * (present - absent)
        return np.asarray(ticked, np.int64)
    borders = np.cumsum(np.einsum("wa,wab->wb", truth, confusion), axis=1)
    # Truth may sum to 1 only up to rounding: scale the dice, so that the last border is never passed.
    choice = (rng.random(len(truth))[:, None] * borders[:, -1:] >= borders).sum(axis=1)
    ones = np.eye(truth.shape[1], dtype=np.int64)
    return np.asarray(ones[np.minimum(choice, truth.shape[1] - 1)])


def _assign(
    asked: Int[np.ndarray, " subject"], crowd: int, rng: np.random.Generator
) -> tuple[Int[np.ndarray, " walk"], Int[np.ndarray, " walk"]]:
    """Draw, for every subject, as many distinct volunteers as are asked; return the pairs."""
    most = int(asked.max())
    if most == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    lots = rng.random((len(asked), crowd), dtype=np.float32)
    drawn = np.argpartition(lots, most - 1, axis=1)[:, :most]
    order = np.argsort(np.take_along_axis(lots, drawn, axis=1), axis=1)
    there = np.arange(most) < asked[:, None]
    return np.nonzero(there)[0], np.take_along_axis(drawn, order, axis=1)[there]


def _blocks(subjects: int, step: int) -> Iterator[slice]:
    for start in range(0, subjects, step):
        yield slice(start, min(start + step, subjects))


def _check_truth(truth: Truth, tree: DecisionTree) -> int:
    """Return the number of subjects; raise GreenpeaError where truth does not fit the tree."""
    for question in tree.questions:
        if question.slug not in truth:
            raise GreenpeaError(f"the truth lacks the question {question.slug!r} of tree {tree.name!r}")
        shares = np.asarray(truth[question.slug])
        expected = (len(truth[tree.first]), len(question.answers))
        if shares.shape != expected:
            raise GreenpeaError(f"the truth of {question.slug!r} has shape {shares.shape}; expected {expected}")
        if not (np.all(shares >= -1e-6) and np.all(shares <= 1 + 1e-6)):
            raise GreenpeaError(f"the truth of {question.slug!r} holds numbers that are not between 0 and 1")
        if question.kind == "single" and not np.allclose(shares.sum(axis=1), 1, atol=1e-4):
            raise GreenpeaError(f"the truth of {question.slug!r} does not sum to 1 over its answers")
    return len(truth[tree.first])
