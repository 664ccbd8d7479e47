"""Dawid & Skene (1979): every subject has one true answer, every volunteer their own way of mistaking it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.sparse import csr_matrix
from scipy.special import logsumexp

from greenpea.errors import GreenpeaError
from greenpea.volunteers.consensus import Consensus, above_chance, shares
from greenpea.volunteers.replies import Replies

FLOOR = 1e-10  # of a probability, so that its logarithm is finite


def combine(
    replies: Replies,
    smoothing: float = 1.0,
    accuracy: float | None = 0.75,
    tolerance: float = 1e-7,
    iterations: int = 500,
) -> Consensus:
    """Return the probability of each answer being the true one, by expectation–maximisation.

    Every volunteer begins as somebody who was right with this ``accuracy`` in ``smoothing`` × answers replies about
    each truth; with accuracy None, smoothing adds the same to every cell, which is Laplace's rule but makes little
    of volunteers with few replies; smoothing 0 is the maximum likelihood of the paper, in which a single reply makes
    a volunteer infallible. The first guess at the truth is the fractions of the plain counts. It ends when the
    objective, ln P(replies) + Σ (pseudo-counts × ln π) in nats, rises by less than ``tolerance`` per reply:
    ``converged``; else after ``iterations``. ``skills`` are balanced accuracies, the mean of the diagonal of
    ``confusion``; ``weights`` are how far these are above chance. A subject without replies has the prevalence.

    Two products with a sparse matrix of one entry per reply an iteration: time ∝ replies × answers.
    """
    answers = len(replies.answers)
    accuracy = 1 / answers if accuracy is None else accuracy
    if not smoothing >= 0 or iterations < 1 or not 0 < accuracy < 1:
        raise GreenpeaError(
            f"smoothing {smoothing}, accuracy {accuracy}, {iterations} iterations: give at least 0, a number between "
            f"0 and 1, and at least 1"
        )
    pseudo = smoothing * answers * np.where(np.eye(answers) == 1, accuracy, (1 - accuracy) / (answers - 1))
    given = _indicators(replies)
    asked = np.bincount(replies.subject, minlength=len(replies.subject_ids)) > 0
    truth = shares(replies.counts())
    objective: list[float] = []
    converged = False
    while len(objective) < iterations and not converged:
        prevalence, confusion = _maximise(given, truth, asked, pseudo)
        truth, log_likelihood = _expect(given, prevalence, confusion)
        objective.append(log_likelihood + float((pseudo * _log(confusion)).sum()))
        converged = len(objective) > 1 and objective[-1] - objective[-2] < tolerance * max(len(replies), 1)
    balanced = np.einsum("vjj->v", confusion) / answers
    return Consensus(
        replies.subject_ids,
        replies.volunteer_ids,
        replies.answers,
        probabilities=truth,
        weights=above_chance(balanced, answers),
        skills=balanced,
        iterations=len(objective),
        converged=converged,
        confusion=confusion,
        prevalence=prevalence,
        objective=np.array(objective),
        log_likelihood=log_likelihood,
    )


def _indicators(replies: Replies) -> csr_matrix:
    """Return n[subject, (volunteer, answer)]: how often the volunteer gave the answer about the subject."""
    column = replies.volunteer * len(replies.answers) + replies.answer
    shape = len(replies.subject_ids), len(replies.volunteer_ids) * len(replies.answers)
    return csr_matrix((np.ones(len(replies)), (replies.subject, column)), shape=shape)


def _maximise(
    given: csr_matrix,
    truth: Float[np.ndarray, "subject answer"],
    asked: np.ndarray,
    pseudo: Float[np.ndarray, "truth answer"],
) -> tuple[Float[np.ndarray, " answer"], Float[np.ndarray, "volunteer truth answer"]]:
    answers = truth.shape[1]
    # p_j = mean of T_ij over the subjects i asked about (eq. 2.4)
    prevalence = truth[asked].mean(axis=0) if asked.any() else np.full(answers, 1 / answers)
    # π_jl = Σ_i T_ij n_il / Σ_l Σ_i T_ij n_il (eq. 2.3), per volunteer, with the pseudo-counts
    table = np.asarray(given.T @ truth).reshape(-1, answers, answers).swapaxes(1, 2) + pseudo
    return prevalence, shares(table.reshape(-1, answers)).reshape(table.shape)


def _expect(
    given: csr_matrix, prevalence: Float[np.ndarray, " answer"], confusion: Float[np.ndarray, "volunteer truth answer"]
) -> tuple[Float[np.ndarray, "subject answer"], float]:
    answers = len(prevalence)
    # ln p_j + Σ_volunteer Σ_l n_il ln π_jl, and its normalisation over j (eq. 2.5)
    log_joint = _log(prevalence) + given @ _log(confusion).swapaxes(1, 2).reshape(-1, answers)
    log_evidence = logsumexp(log_joint, axis=1, keepdims=True)
    return np.exp(log_joint - log_evidence), float(log_evidence.sum())


def _log(probability: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(np.maximum(probability, FLOOR)))
