"""Consistency weighting, as in Galaxy Zoo 2 (Willett et al. 2013, §3.2): down with those who always disagree."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from greenpea.errors import GreenpeaError
from greenpea.volunteers.consensus import Consensus, shares
from greenpea.volunteers.replies import Replies

PIVOT = 0.6  # the consistency from which a volunteer counts fully
POWER = 8.5
SAME = 1e-6  # weights that move less than this have converged


def combine(replies: Replies, iterations: int = 3) -> Consensus:
    """Return weighted fractions of one question; see `combine_all`, which sees more of each volunteer."""
    return combine_all({"": replies}, iterations)[""]


def combine_all(replies: Mapping[str, Replies], iterations: int = 3) -> dict[str, Consensus]:
    """Return weighted fractions of every question, a volunteer's consistency taken over all of their replies.

    ``skills`` are the consistency κ in [0, 1], ``weights`` min(1, (κ / 0.6)^8.5). As published, there are three
    iterations, and a volunteer's own vote is part of the fractions they are compared with: whoever stands alone
    on a subject agrees with themselves. Since κ ≥ (R − 2) / R among R answers, only questions of two to four answers
    can take weight from anybody. ``converged`` says whether the last iteration moved a weight. A volunteer
    without replies counts fully. Two passes over the replies an iteration.
    """
    if iterations < 1:
        raise GreenpeaError(f"{iterations} iterations: at least one is needed")
    crowds = [some.volunteer_ids for some in replies.values()]
    if not crowds or any(not np.array_equal(crowds[0], crowd) for crowd in crowds):
        raise GreenpeaError("the questions must be at least one, and have the same volunteers in the same order")
    weights = np.ones(len(crowds[0]))
    for _ in range(iterations):
        fractions = {key: shares(some.counts(weights)) for key, some in replies.items()}
        before, kappa = weights, consistency(replies, fractions)
        # w = min(1, (κ / 0.6)^8.5)
        weights = np.minimum(1.0, (kappa / PIVOT) ** POWER)
    converged = bool(np.all(np.abs(weights - before) < SAME))
    return {
        key: Consensus(
            some.subject_ids,
            some.volunteer_ids,
            some.answers,
            probabilities=shares(some.counts(weights)),
            weights=weights,
            skills=kappa,
            iterations=iterations,
            converged=converged,
        )
        for key, some in replies.items()
    }


def consistency(
    replies: Mapping[str, Replies], fractions: Mapping[str, Float[np.ndarray, "subject answer"]]
) -> Float[np.ndarray, " volunteer"]:
    """Return κ, the mean agreement of each volunteer's annotations with the fractions; 1 where there are none.

    The agreement of one annotation is the mean over the R answers of f where it was given and 1 − f where it
    was not; an annotation of a ``multiple`` question is the mean of its yes-or-no replies.
    """
    people = len(next(iter(replies.values())).volunteer_ids)
    agreed, annotations = np.zeros(people), np.zeros(people)
    for key, some in replies.items():
        # κ_i = (1/R) [f_given + Σ_other (1 − f_other)] = (R − 2 + 2 f_given) / R
        answers = len(some.answers)
        kappa = (answers - 2 + 2 * fractions[key][some.subject, some.answer]) / answers
        agreed += np.bincount(some.volunteer, kappa, minlength=people) / some.per_annotation
        annotations += some.per_volunteer() / some.per_annotation
    return np.where(annotations > 0, agreed / np.where(annotations > 0, annotations, 1), 1.0)
