"""What every method of combining volunteers returns, and weights turned into effective votes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from greenpea.classifications import Classification, count
from greenpea.errors import GreenpeaError
from greenpea.tree import DecisionTree
from greenpea.volunteers.replies import Replies, replies
from greenpea.votes import Votes


@dataclass(frozen=True, eq=False)
class Consensus:
    """What a crowd says about each subject, and what each volunteer's word is worth; never NaN.

    ``probabilities`` sum to 1 over the answers: fractions of (weighted) votes, or the probability of the true
    answer, as the method says; of a subject without replies, what the method believes beforehand. ``weights``, in
    [0, 1], are what one vote of a volunteer counts. ``skills`` are what they come from, in the method's own unit.
    ``confusion`` is P(volunteer answers | the truth is), where the method has it. ``objective`` is what was
    maximised, in nats, one value an iteration. ``reasons`` say why a subject was retired, ``""`` where it was not.
    ``trajectory`` is the probability of the last answer after each reply.
    """

    subject_ids: np.ndarray
    volunteer_ids: np.ndarray
    answers: tuple[str, ...]
    probabilities: Float[np.ndarray, "subject answer"]
    weights: Float[np.ndarray, " volunteer"]
    skills: Float[np.ndarray, " volunteer"]
    iterations: int
    converged: bool
    confusion: Float[np.ndarray, "volunteer truth answer"] | None = None
    prevalence: Float[np.ndarray, " answer"] | None = None
    objective: Float[np.ndarray, " iteration"] | None = None
    log_likelihood: float | None = None
    reasons: np.ndarray | None = None
    trajectory: Float[np.ndarray, " reply"] | None = None

    @property
    def best(self) -> np.ndarray:
        """The most probable answer of each subject; the first of those that tie."""
        return np.asarray(self.answers, dtype=object)[self.probabilities.argmax(axis=1)]

    @property
    def weight_of(self) -> dict[str, float]:
        """Volunteer → weight, as `effective` takes it."""
        return dict(zip(self.volunteer_ids.tolist(), self.weights.tolist(), strict=True))


def shares(counts: Float[np.ndarray, "subject answer"]) -> Float[np.ndarray, "subject answer"]:
    """Return counts as fractions of their sum; equal shares where the sum is 0."""
    total = counts.sum(axis=1, keepdims=True)
    return np.where(total > 0, counts / np.where(total > 0, total, 1), 1 / counts.shape[1])


def above_chance(accuracy: Float[np.ndarray, " volunteer"], answers: int) -> Float[np.ndarray, " volunteer"]:
    """Return weights from balanced accuracies: 1 for the perfect, 0 for those no better than chance.

    With two answers this is Youden's informedness, P(yes | yes) + P(no | no) − 1.
    """
    # w = max(0, (a − 1/K) / (1 − 1/K))
    return np.clip((accuracy - 1 / answers) / (1 - 1 / answers), 0, 1)


def effective(classifications: Iterable[Classification], tree: DecisionTree, weights: Mapping[str, float]) -> Votes:
    """Return the votes with raw counts, and effective counts in which each volunteer counts with their weight.

    ``weights`` maps every volunteer to a number of at least 0, as `Consensus.weight_of` gives it. Raises
    GreenpeaError naming the volunteer whose weight is missing or no such number. Two passes.
    """
    listed = list(classifications)
    by_key = replies(listed, tree)
    each = _weights(next(iter(by_key.values())), weights)
    sums = {key: some.counts(each) for key, some in by_key.items()}
    return replace(
        count(listed, tree),
        effective={
            question.slug: sums[question.slug]
            if question.kind == "single"
            else np.stack([sums[f"{question.slug}/{answer}"][:, 1] for answer in question.answer_slugs], axis=1)
            for question in tree.questions
        },
    )


def _weights(some: Replies, weights: Mapping[str, float]) -> Float[np.ndarray, " volunteer"]:
    each = np.array([weights.get(volunteer, np.nan) for volunteer in some.volunteer_ids], float)
    for row in np.flatnonzero(~(np.isfinite(each) & (each >= 0)))[:1]:
        volunteer = some.volunteer_ids[row]
        has = f"is {weights[volunteer]}" if volunteer in weights else "is missing"
        raise GreenpeaError(f"the weight of volunteer {volunteer!r} {has}: give a number of at least 0")
    return each
